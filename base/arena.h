/* A bump allocator that lives for one request or one loop turn. Not thread safe. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

#include "base/buf.h"

struct arena;

struct arena *arena_new(void);
void arena_free(struct arena *a);
void arena_reset(struct arena *a);               /* keeps the first block */
void *arena_alloc(struct arena *a, size_t size); /* aligned to 16, zeroed */
char *arena_strdup(struct arena *a, const char *s);
struct slice arena_copy(struct arena *a, struct slice s);

#endif
