/* Iterators over one space of the state database. */
#include <stdlib.h>

#include "base/assert.h"
#include "shards/store/rocks.h"
#include "shards/store/state_internal.h"

struct state_iter *state__iter_new(struct state_db *db, struct state_space s, struct slice from,
                                   struct slice to)
{
    struct state_iter *it = xcalloc(1, sizeof *it);
    struct state_space after;

    it->db = db;
    state__key(&it->lower, s, from);
    if (to.size > 0) {
        state__key(&it->upper, s, to);
    } else {
        bool bounded = state__space_after(s, &after);
        ASSERT(bounded);
        state__key(&it->upper, after, (struct slice){0});
    }
    it->read = rocksdb_readoptions_create();
    rocksdb_readoptions_set_iterate_upper_bound(it->read, (const char *)it->upper.data,
                                                it->upper.size);
    return it;
}

struct state_iter *state_iter_new(struct state_db *db, const struct state_view *v,
                                  struct state_space s, struct slice from, struct slice to)
{
    struct state_iter *it = state__iter_new(db, s, from, to);

    if (v != NULL) {
        rocksdb_readoptions_set_snapshot(it->read, v->snapshot);
    }
    it->it = rocksdb_create_iterator(db->db, it->read);
    return it;
}

bool state_iter_next(struct state_iter *it, struct slice *ret_key, struct slice *ret_value)
{
    if (!it->started) {
        it->started = true;
        rocks_iter_seek(it->it, bytes_slice(&it->lower));
    } else if (rocksdb_iter_valid(it->it)) {
        rocksdb_iter_next(it->it);
    }
    if (!rocksdb_iter_valid(it->it)) {
        return false;
    }
    struct slice key = rocks_iter_key(it->it);
    if (slice_compare(key, bytes_slice(&it->upper)) >= 0) {
        return false; /* of a batch: RocksDB does not bound the batch's own records */
    }
    *ret_key = slice_of(key.data + STATE_PREFIX_BYTES, key.size - STATE_PREFIX_BYTES);
    *ret_value = rocks_iter_value(it->it);
    return true;
}

enum thole_code state_iter_status(const struct state_iter *it, struct thole_status *st)
{
    char *error = NULL;

    rocksdb_iter_get_error(it->it, &error);
    return error != NULL ? state__fail(it->db, st, "state read", error) : THOLE_OK;
}

void state_iter_free(struct state_iter *it)
{
    if (it != NULL) {
        rocksdb_iter_destroy(it->it);
        rocksdb_readoptions_destroy(it->read);
        bytes_deinit(&it->lower);
        bytes_deinit(&it->upper);
        free(it);
    }
}
