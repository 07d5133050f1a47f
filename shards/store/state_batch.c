/* Batches of the state database. A readable batch has an index, so that what it holds can be read
 * over the database before it is written. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/store/rocks.h"
#include "shards/store/state_internal.h"

struct state_batch {
    struct state_db *db;
    rocksdb_writebatch_t *plain;
    rocksdb_writebatch_wi_t *indexed; /* one of the two is NULL */
    struct bytes key;                 /* scratch */
    uint64_t bytes;
    uint64_t bytes_at_mark;
};

struct state_batch *state_batch_new(struct state_db *db)
{
    struct state_batch *b = xcalloc(1, sizeof *b);

    ASSERT(db != NULL);
    b->db = db;
    b->plain = rocksdb_writebatch_create();
    return b;
}

struct state_batch *state_batch_new_readable(struct state_db *db)
{
    struct state_batch *b = xcalloc(1, sizeof *b);

    ASSERT(db != NULL);
    b->db = db;
    /* One record per key in the index: iterators over the database need that. */
    b->indexed = rocksdb_writebatch_wi_create(0, 1);
    return b;
}

void state_batch_free(struct state_batch *b)
{
    if (b != NULL) {
        if (b->plain != NULL) {
            rocksdb_writebatch_destroy(b->plain);
        }
        if (b->indexed != NULL) {
            rocksdb_writebatch_wi_destroy(b->indexed);
        }
        bytes_deinit(&b->key);
        free(b);
    }
}

void state_batch_clear(struct state_batch *b)
{
    if (b->plain != NULL) {
        rocksdb_writebatch_clear(b->plain);
    } else {
        rocksdb_writebatch_wi_clear(b->indexed);
    }
    b->bytes = 0;
}

void state_batch_put(struct state_batch *b, struct state_space s, struct slice key,
                     struct slice value)
{
    ASSERT(s.replica_id != 0); /* under 0 is the format */
    state__key(&b->key, s, key);
    const char *k = (const char *)b->key.data, *v = (const char *)value.data;
    if (b->plain != NULL) {
        rocksdb_writebatch_put(b->plain, k, b->key.size, v, value.size);
    } else {
        rocksdb_writebatch_wi_put(b->indexed, k, b->key.size, v, value.size);
    }
    b->bytes += b->key.size + value.size + STATE_RECORD_BYTES;
}

void state_batch_delete(struct state_batch *b, struct state_space s, struct slice key)
{
    state__key(&b->key, s, key);
    if (b->plain != NULL) {
        rocksdb_writebatch_delete(b->plain, (const char *)b->key.data, b->key.size);
    } else {
        rocksdb_writebatch_wi_delete(b->indexed, (const char *)b->key.data, b->key.size);
    }
    b->bytes += b->key.size + STATE_RECORD_BYTES;
}

enum thole_code state_batch_write(struct state_batch *b, struct thole_status *st)
{
    char *error = NULL;

    if (b->plain != NULL) {
        rocksdb_write(b->db->db, b->db->no_wal, b->plain, &error);
    } else {
        rocksdb_write_writebatch_wi(b->db->db, b->db->no_wal, b->indexed, &error);
    }
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
    char *error = NULL;
    size_t size = 0;

    ASSERT(b->indexed != NULL);
    state__key(&b->key, s, key);
    char *value = rocksdb_writebatch_wi_get_from_batch_and_db(
        b->indexed, b->db->db, b->db->read, (const char *)b->key.data, b->key.size, &size, &error);
    if (error != NULL) {
        return state__fail(b->db, st, "state read", error);
    }
    if (value == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no such key");
    }
    *ret = buf_copy(value, size);
    rocksdb_free(value);
    return THOLE_OK;
}

struct state_iter *state_batch_iter_new(struct state_batch *b, struct state_space s,
                                        struct slice from, struct slice to)
{
    struct state_iter *it = state__iter_new(b->db, s, from, to);

    ASSERT(b->indexed != NULL);
    it->it = rocksdb_writebatch_wi_create_iterator_with_base(
        b->indexed, rocksdb_create_iterator(b->db->db, it->read)); /* owns the base */
    return it;
}

void state_batch_mark(struct state_batch *b)
{
    ASSERT(b->indexed != NULL);
    rocksdb_writebatch_wi_set_save_point(b->indexed);
    b->bytes_at_mark = b->bytes;
}

void state_batch_undo(struct state_batch *b)
{
    char *error = NULL;

    rocksdb_writebatch_wi_rollback_to_save_point(b->indexed, &error);
    ASSERT(error == NULL); /* only without a mark */
    b->bytes = b->bytes_at_mark;
}
