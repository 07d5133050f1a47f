/* Slices and ref-counted buffers. */
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

struct slice slice_of(const void *data, size_t size)
{
    ASSERT(data != NULL || size == 0);
    return (struct slice){.data = data, .size = size};
}

struct slice slice_str(const char *s)
{
    return slice_of(s, strlen(s));
}

bool slice_equal(struct slice a, struct slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

int slice_compare(struct slice a, struct slice b)
{
    size_t shared = a.size < b.size ? a.size : b.size;
    int order = shared == 0 ? 0 : memcmp(a.data, b.data, shared);
    if (order != 0) {
        return order;
    }
    return (a.size > b.size) - (a.size < b.size);
}

bool slice_take(struct slice *s, size_t n, struct slice *ret)
{
    if (n > s->size) {
        return false;
    }
    *ret = (struct slice){.data = s->data, .size = n};
    if (n > 0) { /* NULL + 0 is undefined */
        s->data += n;
        s->size -= n;
    }
    return true;
}

struct buf *buf_new(size_t size)
{
    ASSERT(size <= SIZE_MAX - sizeof(struct buf));
    struct buf *b = xmalloc(sizeof *b + size);
    atomic_init(&b->refs, 1);
    b->size = size;
    return b;
}

struct buf *buf_copy(const void *data, size_t size)
{
    struct buf *b = buf_new(size);
    if (size > 0) {
        memcpy(b->data, data, size);
    }
    return b;
}

struct buf *buf_ref(struct buf *b)
{
    if (b != NULL) {
        /* The caller's reference keeps the buffer alive, so no ordering is needed. */
        uint32_t before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
        ASSERT(before > 0 && before < UINT32_MAX);
    }
    return b;
}

void buf_unref(struct buf *b)
{
    if (b == NULL) {
        return;
    }
    /* Release: our reads happen before the last owner frees. Acquire: the last owner sees that. */
    uint32_t before = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1) {
        free(b);
    }
}

struct bufslice bufslice_ref(struct bufslice s)
{
    buf_ref(s.owner);
    return s;
}

struct bufslice bufslice_keep(struct bufslice s)
{
    if (s.bytes.size == 0) {
        return (struct bufslice){0};
    }
    if (s.owner != NULL) {
        return bufslice_ref(s);
    }
    struct buf *b = buf_copy(s.bytes.data, s.bytes.size);
    return (struct bufslice){b, slice_of(b->data, b->size)};
}

void bufslice_unref(struct bufslice s)
{
    buf_unref(s.owner);
}
