/* A bump allocator over a chain of blocks, newest first. Under AddressSanitizer free memory is
 * poisoned, so that a use after arena_reset is reported like a use after free. */
#include "base/arena.h"

#include <sanitizer/asan_interface.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"

#define ALIGNMENT ((size_t)16)
#define BLOCK_BYTES_FIRST ((size_t)16 * KIB) /* a usual turn fits */
#define BLOCK_BYTES_MAX ((size_t)256 * KIB)  /* a larger request gets a block of its own size */

struct block {
    _Alignas(16) struct block *older;
    size_t size; /* of data */
    size_t used;
    _Alignas(16) uint8_t data[];
};

struct arena {
    struct block *newest;
    struct block *first;
};

static struct block *block_new(size_t size, struct block *older)
{
    ASSERT(size <= SIZE_MAX - sizeof(struct block));
    struct block *b = xmalloc(sizeof *b + size);
    b->older = older;
    b->size = size;
    b->used = 0;
    ASAN_POISON_MEMORY_REGION(b->data, size);
    return b;
}

static void block_free(struct block *b)
{
    ASAN_UNPOISON_MEMORY_REGION(b->data, b->size);
    free(b);
}

struct arena *arena_new(void)
{
    struct arena *a = xcalloc(1, sizeof *a);
    a->first = block_new(BLOCK_BYTES_FIRST, NULL);
    a->newest = a->first;
    return a;
}

static void free_newer_than_first(struct arena *a)
{
    while (a->newest != a->first) {
        struct block *b = a->newest;
        a->newest = b->older;
        block_free(b);
    }
}

void arena_free(struct arena *a)
{
    if (a == NULL) {
        return;
    }
    free_newer_than_first(a);
    block_free(a->first);
    free(a);
}

void arena_reset(struct arena *a)
{
    free_newer_than_first(a);
    ASSERT(a->newest == a->first && a->first->older == NULL);
    a->first->used = 0;
    ASAN_POISON_MEMORY_REGION(a->first->data, a->first->size);
}

static void grow(struct arena *a, size_t size)
{
    size_t next = a->newest->size * 2;
    if (next > BLOCK_BYTES_MAX) {
        next = BLOCK_BYTES_MAX;
    }
    a->newest = block_new(size > next ? size : next, a->newest);
}

void *arena_alloc(struct arena *a, size_t size)
{
    ASSERT(size <= SIZE_MAX / 2);
    size_t rounded = (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    if (rounded > a->newest->size - a->newest->used) {
        grow(a, rounded);
    }
    struct block *b = a->newest;
    ASSERT(b->used <= b->size && rounded <= b->size - b->used);
    uint8_t *p = b->data + b->used;
    b->used += rounded;
    ASAN_UNPOISON_MEMORY_REGION(p, size);
    memset(p, 0, size);
    return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
    size_t size = strlen(s) + 1;
    return memcpy(arena_alloc(a, size), s, size);
}

struct slice arena_copy(struct arena *a, struct slice s)
{
    uint8_t *copy = arena_alloc(a, s.size);
    if (s.size > 0) {
        memcpy(copy, s.data, s.size);
    }
    return slice_of(copy, s.size);
}
