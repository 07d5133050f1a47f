#include "shards/store/overlay.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/hash.h"

#define BUCKETS_MIN 16

void overlay_deinit(struct overlay *o)
{
    bytes_deinit(&o->data);
    free(o->records);
    free(o->buckets);
    *o = (struct overlay){0};
}

void overlay_clear(struct overlay *o)
{
    overlay_truncate(o, 0);
}

struct slice overlay_key(const struct overlay *o, const struct overlay_record *r)
{
    return slice_of(o->data.data + r->key_at, r->key_size);
}

struct slice overlay_value(const struct overlay *o, const struct overlay_record *r)
{
    return slice_of(o->data.data + r->key_at + r->key_size, r->value_size);
}

/* The newest record leads its bucket, so it hides older ones of its key. */
static void link_record(struct overlay *o, uint32_t number)
{
    struct overlay_record *r = &o->records[number - 1];
    uint32_t *bucket = &o->buckets[r->hash & (o->bucket_count - 1)];

    r->next = *bucket;
    *bucket = number;
}

static void reserve(struct overlay *o)
{
    if (o->count < o->capacity) {
        return;
    }
    o->capacity = o->capacity > 0 ? o->capacity * 2 : BUCKETS_MIN;
    ASSERT(o->capacity <= UINT32_MAX);
    o->records = xrealloc(o->records, o->capacity * sizeof *o->records);
    free(o->buckets);
    o->bucket_count = o->capacity * 2;
    o->buckets = xcalloc(o->bucket_count, sizeof *o->buckets);
    for (size_t i = 0; i < o->count; i++) {
        link_record(o, (uint32_t)i + 1);
    }
}

static void add(struct overlay *o, struct slice key, struct slice value, bool deletion)
{
    reserve(o);
    o->records[o->count++] = (struct overlay_record){
        .key_at = o->data.size,
        .key_size = key.size,
        .value_size = value.size,
        .hash = hash64(key.data, key.size, 0),
        .deletion = deletion,
    };
    bytes_append_slice(&o->data, key);
    bytes_append_slice(&o->data, value);
    link_record(o, (uint32_t)o->count);
}

void overlay_put(struct overlay *o, struct slice key, struct slice value)
{
    add(o, key, value, false);
}

void overlay_delete(struct overlay *o, struct slice key)
{
    add(o, key, (struct slice){0}, true);
}

void overlay_truncate(struct overlay *o, size_t count)
{
    ASSERT(count <= o->count);
    while (o->count > count) {
        const struct overlay_record *r = &o->records[--o->count];
        o->buckets[r->hash & (o->bucket_count - 1)] = r->next;
        o->data.size = r->key_at;
    }
}

const struct overlay_record *overlay_find(const struct overlay *o, struct slice key)
{
    if (o->count == 0) {
        return NULL;
    }
    uint64_t hash = hash64(key.data, key.size, 0);
    uint32_t number = o->buckets[hash & (o->bucket_count - 1)];
    while (number != 0) {
        const struct overlay_record *r = &o->records[number - 1];
        if (r->hash == hash && slice_equal(overlay_key(o, r), key)) {
            return r;
        }
        number = r->next;
    }
    return NULL;
}

/* By key; of one key the newest first. */
static int compare(const void *a, const void *b, void *ctx)
{
    const struct overlay *o = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    int by_key = slice_compare(overlay_key(o, &o->records[x]), overlay_key(o, &o->records[y]));

    return by_key != 0 ? by_key : (x < y) - (x > y);
}

size_t overlay_sorted(const struct overlay *o, struct slice from, struct slice to, uint32_t **ret)
{
    uint32_t *all = xcalloc(o->count + 1, sizeof *all);
    size_t n = 0, kept = 0;

    for (size_t i = 0; i < o->count; i++) {
        struct slice key = overlay_key(o, &o->records[i]);
        if (slice_compare(key, from) >= 0 && (to.size == 0 || slice_compare(key, to) < 0)) {
            all[n++] = (uint32_t)i;
        }
    }
    qsort_r(all, n, sizeof *all, compare, (void *)(uintptr_t)o);
    for (size_t i = 0; i < n; i++) {
        const struct overlay_record *r = &o->records[all[i]];
        if (kept == 0 ||
            !slice_equal(overlay_key(o, r), overlay_key(o, &o->records[all[kept - 1]]))) {
            all[kept++] = all[i];
        }
    }
    *ret = all;
    return kept;
}
