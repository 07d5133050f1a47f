/* The records of a batch that can be read before it is written: a list in the order of their
 * arrival, with a hash table over the keys. Not thread safe. Zero-initialise. */
#ifndef SHARDS_STORE_OVERLAY_H
#define SHARDS_STORE_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct overlay_record {
    size_t key_at, key_size; /* in the overlay's data; the value follows the key */
    size_t value_size;
    uint64_t hash; /* of the key */
    uint32_t next; /* the one before it in its bucket, counted from 1; 0: none */
    bool deletion;
};

struct overlay {
    struct bytes data;
    struct overlay_record *records;
    uint32_t *buckets; /* the newest record of each, counted from 1; 0: none */
    size_t count, capacity;
    size_t bucket_count; /* 0 or a power of two */
};

void overlay_deinit(struct overlay *o);
void overlay_clear(struct overlay *o);
void overlay_put(struct overlay *o, struct slice key, struct slice value);
void overlay_delete(struct overlay *o, struct slice key);
/* Take the newest records back, until `count` are left. */
void overlay_truncate(struct overlay *o, size_t count);

/* Slices live until something is added. */
struct slice overlay_key(const struct overlay *o, const struct overlay_record *r);
struct slice overlay_value(const struct overlay *o, const struct overlay_record *r);
/* The newest record of the key, or NULL. */
const struct overlay_record *overlay_find(const struct overlay *o, struct slice key);
/* The newest record of each key in [from, to), in key order; an empty `to`: of all from `from` on.
 * Returns their number; `*ret` is theirs by index, malloced. */
size_t overlay_sorted(const struct overlay *o, struct slice from, struct slice to, uint32_t **ret);

#endif
