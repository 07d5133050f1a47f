/* Batches of the state database. A readable batch keeps its records in an overlay, so that reads
 * see them over the database before they are written. It is written in key order: neighbours are
 * found from each other in RocksDB's skip list, which is the largest cost of a write. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/store/rocks.h"
#include "shards/store/state_internal.h"

struct state_batch {
    struct state_db *db;
    rocksdb_writebatch_t *plain; /* not readable: the records */
    struct overlay overlay;      /* readable: the records */
    bool is_readable;
    struct bytes key; /* scratch */
    uint64_t bytes;
    size_t count_at_mark;
    uint64_t bytes_at_mark;
};

static struct state_batch *new_batch(struct state_db *db, bool readable)
{
    struct state_batch *b = xcalloc(1, sizeof *b);

    ASSERT(db != NULL);
    b->db = db;
    b->plain = rocksdb_writebatch_create();
    b->is_readable = readable;
    return b;
}

struct state_batch *state_batch_new(struct state_db *db)
{
    return new_batch(db, false);
}

struct state_batch *state_batch_new_readable(struct state_db *db)
{
    return new_batch(db, true);
}

void state_batch_free(struct state_batch *b)
{
    if (b != NULL) {
        rocksdb_writebatch_destroy(b->plain);
        overlay_deinit(&b->overlay);
        bytes_deinit(&b->key);
        free(b);
    }
}

void state_batch_clear(struct state_batch *b)
{
    rocksdb_writebatch_clear(b->plain);
    overlay_clear(&b->overlay);
    b->bytes = 0;
}

static void plain_put(struct state_batch *b, struct slice key, struct slice value)
{
    rocksdb_writebatch_put(b->plain, (const char *)key.data, key.size, (const char *)value.data,
                           value.size);
}

static void plain_delete(struct state_batch *b, struct slice key)
{
    rocksdb_writebatch_delete(b->plain, (const char *)key.data, key.size);
}

void state_batch_put(struct state_batch *b, struct state_space s, struct slice key,
                     struct slice value)
{
    ASSERT(s.replica_id != 0); /* under 0 is the format */
    state__key(&b->key, s, key);
    if (b->is_readable) {
        overlay_put(&b->overlay, bytes_slice(&b->key), value);
    } else {
        plain_put(b, bytes_slice(&b->key), value);
    }
    b->bytes += b->key.size + value.size + STATE_RECORD_BYTES;
}

void state_batch_delete(struct state_batch *b, struct state_space s, struct slice key)
{
    state__key(&b->key, s, key);
    if (b->is_readable) {
        overlay_delete(&b->overlay, bytes_slice(&b->key));
    } else {
        plain_delete(b, bytes_slice(&b->key));
    }
    b->bytes += b->key.size + STATE_RECORD_BYTES;
}

static void sort_into_plain(struct state_batch *b)
{
    uint32_t *order = NULL;
    size_t n = overlay_sorted(&b->overlay, (struct slice){0}, (struct slice){0}, &order);

    rocksdb_writebatch_clear(b->plain);
    for (size_t i = 0; i < n; i++) {
        const struct overlay_record *r = &b->overlay.records[order[i]];
        if (r->deletion) {
            plain_delete(b, overlay_key(&b->overlay, r));
        } else {
            plain_put(b, overlay_key(&b->overlay, r), overlay_value(&b->overlay, r));
        }
    }
    free(order);
}

enum thole_code state_batch_write(struct state_batch *b, struct thole_status *st)
{
    char *error = NULL;

    if (b->is_readable) {
        sort_into_plain(b);
    }
    rocksdb_write(b->db->db, b->db->no_wal, b->plain, &error);
    if (error != NULL) {
        return state__fail(b->db, st, "state write", error);
    }
    atomic_fetch_add(&b->db->unflushed, b->bytes);
    return THOLE_OK;
}

/* ---- Reading --------------------------------------------------------------------------------- */

enum thole_code state_batch_get(struct state_batch *b, struct state_space s, struct slice key,
                                struct buf **ret, struct thole_status *st)
{
    ASSERT(b->is_readable);
    state__key(&b->key, s, key);
    const struct overlay_record *r = overlay_find(&b->overlay, bytes_slice(&b->key));
    if (r == NULL) {
        return state_get(b->db, NULL, s, key, ret, st);
    }
    if (r->deletion) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no such key");
    }
    struct slice value = overlay_value(&b->overlay, r);
    *ret = buf_copy(value.data, value.size);
    return THOLE_OK;
}

struct state_iter *state_batch_iter_new(struct state_batch *b, struct state_space s,
                                        struct slice from, struct slice to)
{
    struct state_iter *it = state_iter_new(b->db, NULL, s, from, to);

    ASSERT(b->is_readable);
    it->overlay = &b->overlay;
    it->order_count =
        overlay_sorted(&b->overlay, bytes_slice(&it->lower), bytes_slice(&it->upper), &it->order);
    return it;
}

void state_batch_mark(struct state_batch *b)
{
    ASSERT(b->is_readable);
    b->count_at_mark = b->overlay.count;
    b->bytes_at_mark = b->bytes;
}

void state_batch_undo(struct state_batch *b)
{
    overlay_truncate(&b->overlay, b->count_at_mark);
    b->bytes = b->bytes_at_mark;
}
