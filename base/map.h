/* A hash map from uint64_t to pointer: open addressing, grows, never stores NULL.
 * Not thread safe. Zero-initialise. Iteration order depends only on the insert/remove history, so
 * it is deterministic under the simulator. */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct map_slot {
    uint64_t key;
    void *value;
};

struct map {
    struct map_slot *slots;
    size_t count;
    size_t capacity; /* 0 or a power of two */
};

void map_deinit(struct map *m); /* the values are the caller's */
void *map_get(const struct map *m, uint64_t key);
void *map_put(struct map *m, uint64_t key, void *value); /* returns the value replaced, or NULL */
void *map_remove(struct map *m, uint64_t key);           /* returns the value removed, or NULL */
/* Walk: `size_t it = 0; while ((v = map_next(&m, &it, &key)))`. The current entry must not be
 * removed during the walk, nor anything be added. `ret_key` may be NULL. */
void *map_next(const struct map *m, size_t *it, uint64_t *ret_key);

#endif
