/* The part of the dedupe table that has proposals with request ids.
 *
 * Records are in the order of the log. They expire by the engine's time in the entries and by
 * nothing else, so an id is known to all replicas or to none. When an expired record is freed means
 * nothing: it is found by nobody, does not count, and may be in one replica's snapshot and not in
 * another's. An entry frees only a few, so that no entry pays for a long time without entries. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/limits.h"
#include "shards/engine/session.h"

/* An entry adds one record at most, so the expired ones become fewer. Those of the batch that is at
 * the machine cannot be freed. */
#define FREED_PER_ENTRY 16

static struct request_answer *find(const struct request_ids *ids, struct slice id, uint64_t hash)
{
    struct request_answer *r = map_get(&ids->by_hash, hash);
    while (r != NULL && !slice_equal(slice_of(r->id, r->id_size), id)) {
        r = r->same_hash;
    }
    return r;
}

static void link_newest(struct request_ids *ids, struct request_answer *r)
{
    r->newer = NULL;
    r->older = ids->newest;
    if (ids->newest != NULL) {
        ids->newest->newer = r;
    } else {
        ids->oldest = r;
    }
    ids->newest = r;
    if (ids->uncut == NULL) {
        ids->uncut = r;
    }
    if (ids->live == NULL) {
        ids->live = r;
    }
    ids->live_count++;
}

static void unlink_answer(struct request_ids *ids, struct request_answer *r)
{
    if (ids->uncut == r) {
        ids->uncut = r->newer;
    }
    if (r->older != NULL) {
        r->older->newer = r->newer;
    } else {
        ids->oldest = r->newer;
    }
    if (r->newer != NULL) {
        r->newer->older = r->older;
    } else {
        ids->newest = r->older;
    }
}

static void drop(struct request_ids *ids, struct request_answer *r,
                 const struct session_observer *o)
{
    struct request_answer *first = map_get(&ids->by_hash, r->hash);
    ASSERT(!r->reserved && first != NULL && r != ids->live);
    if (first != r) {
        while (first->same_hash != r) {
            first = first->same_hash;
        }
        first->same_hash = r->same_hash;
    } else if (r->same_hash != NULL) {
        (void)map_put(&ids->by_hash, r->hash, r->same_hash);
    } else {
        (void)map_remove(&ids->by_hash, r->hash);
    }
    unlink_answer(ids, r);
    ids->count--;
    if (o != NULL) {
        o->request_changed(o->ctx, RESULT_GONE, r);
    }
    buf_unref(r->result);
    free(r);
}

static bool has_expired(const struct request_ids *ids, const struct request_answer *r,
                        uint64_t alive_ms)
{
    return alive_ms >= r->alive_ms && alive_ms - r->alive_ms >= ids->window_ms;
}

void request_ids_expire(struct session_table *t, uint64_t alive_ms,
                        const struct session_observer *o)
{
    struct request_ids *ids = &t->ids;
    while (ids->live != NULL && has_expired(ids, ids->live, alive_ms)) {
        ids->live = ids->live->newer;
        ids->live_count--;
    }
    for (int i = 0; i < FREED_PER_ENTRY && ids->oldest != ids->live; i++) {
        if (ids->oldest->reserved) {
            return;
        }
        drop(ids, ids->oldest, o);
    }
}

static struct request_answer *add(struct request_ids *ids, struct slice id, uint64_t hash)
{
    ASSERT(id.size > 0 && id.size <= LIMIT_REQUEST_ID_BYTES);
    ASSERT(ids->count < LIMIT_REQUEST_IDS_MAX);
    struct request_answer *r = xmalloc(sizeof *r + id.size);
    *r = (struct request_answer){.hash = hash, .id_size = (uint8_t)id.size};
    memcpy(r->id, id.data, id.size);
    r->same_hash = map_put(&ids->by_hash, hash, r);
    link_newest(ids, r);
    ids->count++;
    return r;
}

struct request_answer *request_ids_add(struct session_table *t, struct slice id)
{
    struct request_ids *ids = &t->ids;
    uint64_t hash = hash64(id.data, id.size, ids->seed);
    return ids->count >= LIMIT_REQUEST_IDS_MAX || find(ids, id, hash) != NULL ? NULL
                                                                              : add(ids, id, hash);
}

enum session_verdict request_id_begin(struct session_table *t, struct slice id, uint64_t index,
                                      uint64_t alive_ms, const struct session_observer *o,
                                      struct request_answer **ret)
{
    struct request_ids *ids = &t->ids;
    uint64_t hash = hash64(id.data, id.size, ids->seed);
    struct request_answer *r = find(ids, id, hash);
    if (r != NULL && r->reserved) {
        return SESSION_BUSY;
    }
    if (r != NULL && !has_expired(ids, r, alive_ms)) {
        *ret = r;
        return SESSION_DUPLICATE;
    }
    if (r != NULL) {
        drop(ids, r, o);
    }
    if (ids->live_count >= LIMIT_REQUEST_IDS) {
        return REQUEST_IDS_FULL;
    }
    r = add(ids, id, hash);
    ASSERT(r->older == NULL || r->older->index < index);
    r->index = index;
    r->alive_ms = alive_ms;
    r->reserved = true;
    *ret = r;
    return SESSION_APPLY;
}

void request_id_finish(struct session_table *t, struct request_answer *r, uint64_t code,
                       struct slice result, const struct session_observer *o)
{
    ASSERT(r->reserved);
    r->reserved = false;
    r->code = code;
    r->cut = result.size > LIMIT_SESSION_RESULT_BYTES;
    if (result.size > 0 && !r->cut) {
        r->result = buf_copy(result.data, result.size);
    }
    session__count_answer(t, r->result, &r->answer_bytes, o);
}

void request_ids__cut(struct session_table *t, const struct session_observer *o)
{
    struct request_ids *ids = &t->ids;
    for (struct request_answer *r = ids->uncut; r != NULL && !r->reserved; r = r->newer) {
        if (r->answer_bytes + LIMIT_SESSION_ANSWERS_BYTES > t->answer_bytes) {
            return;
        }
        ids->uncut = r->newer;
        if (r->result == NULL) {
            continue;
        }
        buf_unref(r->result);
        r->result = NULL;
        r->cut = true;
        if (o != NULL) {
            o->request_changed(o->ctx, RESULT_CUT, r);
        }
    }
}

static int compare_index(const void *a, const void *b)
{
    const struct request_answer *x = *(struct request_answer *const *)a;
    const struct request_answer *y = *(struct request_answer *const *)b;
    return x->index < y->index ? -1 : x->index > y->index;
}

void request_ids__sort(struct session_table *t)
{
    struct request_ids *ids = &t->ids;
    size_t n = ids->count, i = 0;
    if (n == 0) {
        return;
    }
    struct request_answer **all = xcalloc(n, sizeof(struct request_answer *));
    for (struct request_answer *r = ids->oldest; r != NULL; r = r->newer) {
        all[i++] = r;
    }
    ASSERT(i == n);
    qsort(all, n, sizeof(struct request_answer *), compare_index);
    ids->oldest = ids->newest = ids->uncut = ids->live = NULL;
    ids->live_count = 0;
    for (i = 0; i < n; i++) {
        link_newest(ids, all[i]);
    }
    free(all);
}

void request_ids__deinit(struct request_ids *ids)
{
    while (ids->oldest != NULL) {
        struct request_answer *r = ids->oldest;
        ids->oldest = r->newer;
        buf_unref(r->result);
        free(r);
    }
    map_deinit(&ids->by_hash);
}
