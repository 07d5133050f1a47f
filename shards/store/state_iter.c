/* Iterators over one space of the state database. */
#include <stdlib.h>

#include "base/assert.h"
#include "shards/store/rocks.h"
#include "shards/store/state_internal.h"

struct state_iter *state_iter_new(struct state_db *db, const struct state_view *v,
                                  struct state_space s, struct slice from, struct slice to)
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
    if (v != NULL) {
        rocksdb_readoptions_set_snapshot(it->read, v->snapshot);
    }
    it->it = rocksdb_create_iterator(db->db, it->read);
    return it;
}

static void position(struct state_iter *it)
{
    if (!it->started) {
        rocks_iter_seek(it->it, bytes_slice(&it->lower));
    } else if (it->step) {
        rocksdb_iter_next(it->it);
    }
    it->started = true;
    it->step = false;
}

/* The next record of the overlay, unless the database has one before it. */
static const struct overlay_record *take_from_overlay(struct state_iter *it)
{
    if (it->order_at == it->order_count) {
        return NULL;
    }
    const struct overlay_record *r = &it->overlay->records[it->order[it->order_at]];
    int order = rocksdb_iter_valid(it->it)
                    ? slice_compare(rocks_iter_key(it->it), overlay_key(it->overlay, r))
                    : 1;
    if (order < 0) {
        return NULL;
    }
    if (order == 0) {
        rocksdb_iter_next(it->it); /* the overlay replaces it */
    }
    it->order_at++;
    return r;
}

static struct slice without_prefix(struct slice key)
{
    return slice_of(key.data + STATE_PREFIX_BYTES, key.size - STATE_PREFIX_BYTES);
}

bool state_iter_next(struct state_iter *it, struct slice *ret_key, struct slice *ret_value)
{
    const struct overlay_record *r;

    position(it);
    while ((r = take_from_overlay(it)) != NULL) {
        if (!r->deletion) {
            *ret_key = without_prefix(overlay_key(it->overlay, r));
            *ret_value = overlay_value(it->overlay, r);
            return true;
        }
    }
    if (!rocksdb_iter_valid(it->it)) {
        return false;
    }
    *ret_key = without_prefix(rocks_iter_key(it->it));
    *ret_value = rocks_iter_value(it->it);
    it->step = true;
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
        free(it->order);
        bytes_deinit(&it->lower);
        bytes_deinit(&it->upper);
        free(it);
    }
}
