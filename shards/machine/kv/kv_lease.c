/* Leases. A lease lives on the engine's clock (alive), which stands still while there is no leader.
 * KV_PREFIX_DUE has one record per lease, at or before its deadline: a keepalive changes only the
 * lease's own record, and when the time of the due record comes it is moved to the deadline. */
#include <stdlib.h>

#include "base/hash.h"
#include "shards/machine/kv/kv_internal.h"

enum { LEASE_ID = 2, LEASE_TTL = 3, LEASE_GRANTED = 4, LEASE_KEYS = 5 };
#define MS_PER_S 1000

enum thole_code kv__lease_get(const struct kv_reader *r, int64_t id, struct kv_lease *ret,
                              bool *ret_found, struct thole_status *st)
{
    struct bytes key = {0};
    struct buf *stored = NULL;

    kv__key_u64(&key, KV_PREFIX_LEASE, (uint64_t)id);
    enum thole_code code = kv__get(r, bytes_slice(&key), &stored, st);
    bytes_deinit(&key);
    *ret_found = code == THOLE_OK;
    if (code != THOLE_OK) {
        return code == THOLE_NOT_FOUND ? THOLE_OK : code;
    }
    bool ok = kv__lease_decode(slice_of(stored->data, stored->size), ret);
    buf_unref(stored);
    ret->id = id;
    return ok ? THOLE_OK : kv__damaged(st, "lease");
}

static void put_lease(struct kv_exec *x, const struct kv_lease *l)
{
    kv__key_u64(&x->key, KV_PREFIX_LEASE, (uint64_t)l->id);
    kv__lease_encode(l, &x->value);
    kv__batch_put(x, bytes_slice(&x->key), bytes_slice(&x->value));
}

static void key_due(struct bytes *out, const struct kv_lease *l)
{
    uint8_t id[8];

    put_be64(id, (uint64_t)l->id);
    kv__key_u64_rest(out, KV_PREFIX_DUE, l->due_ms, slice_of(id, sizeof id));
}

void kv__lease_attach(struct kv_exec *x, int64_t id, struct slice key)
{
    kv__key_u64_rest(&x->key, KV_PREFIX_ATTACHED, (uint64_t)id, key);
    kv__batch_put(x, bytes_slice(&x->key), (struct slice){0});
}

void kv__lease_detach(struct kv_exec *x, int64_t id, struct slice key)
{
    kv__key_u64_rest(&x->key, KV_PREFIX_ATTACHED, (uint64_t)id, key);
    kv__batch_delete(x, bytes_slice(&x->key));
}

/* ---- Grant ----------------------------------------------------------------------------------- */

/* An id for a client that asked for any: positive, and the same on every replica. */
static enum thole_code choose_id(struct kv_exec *x, int64_t *ret, struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    struct kv_lease taken;
    bool found = true;

    for (uint64_t salt = 0; found && code == THOLE_OK; salt++) {
        uint64_t parts[] = {x->kv->shard_id, x->index, salt};
        *ret = (int64_t)(hash64(parts, sizeof parts, 0) & INT64_MAX);
        code = kv__lease_get(&x->reader, *ret, &taken, &found, st);
        found = found || *ret == 0;
    }
    return code;
}

enum thole_code kv__do_grant(struct kv_exec *x, const etcdserverpb_LeaseGrantRequest *m,
                             struct thole_status *st)
{
    struct kv_lease l = {.id = etcdserverpb_LeaseGrantRequest_ID(m),
                         .ttl_s = etcdserverpb_LeaseGrantRequest_TTL(m)};
    bool found = false;
    enum thole_code code = THOLE_OK;

    if (l.ttl_s > KV_LEASE_TTL_MAX) {
        x->refusal = &kv__ttl_too_large;
        return THOLE_OK;
    }
    if (l.id != 0) {
        struct kv_lease taken;
        code = kv__lease_get(&x->reader, l.id, &taken, &found, st);
    } else {
        code = choose_id(x, &l.id, st);
    }
    if (code != THOLE_OK || found) {
        x->refusal = found ? &kv__lease_exists : NULL;
        return code;
    }
    l.ttl_s = l.ttl_s < KV_LEASE_TTL_MIN ? KV_LEASE_TTL_MIN : l.ttl_s;
    l.deadline_ms = x->kv->state.alive_ms + (uint64_t)l.ttl_s * MS_PER_S;
    l.due_ms = l.deadline_ms;
    put_lease(x, &l);
    key_due(&x->key, &l);
    kv__batch_put(x, bytes_slice(&x->key), (struct slice){0});
    x->kv->state.leases++;
    if (l.due_ms < x->kv->next_due_ms) {
        x->kv->next_due_ms = l.due_ms;
    }
    kv__wire_header(&x->out, kv__revision(x));
    kv__wire_number(&x->out, LEASE_ID, (uint64_t)l.id);
    kv__wire_number(&x->out, LEASE_TTL, (uint64_t)l.ttl_s);
    return THOLE_OK;
}

/* ---- Revoke ---------------------------------------------------------------------------------- */

enum thole_code kv__lease_keys(const struct kv_reader *r, int64_t id, struct arena *arena,
                               struct slice **ret, size_t *ret_count, struct thole_status *st)
{
    struct bytes from = {0}, to = {0};
    struct slice key, value;
    size_t capacity = 0;

    *ret = NULL;
    *ret_count = 0;
    kv__key_u64(&from, KV_PREFIX_ATTACHED, (uint64_t)id);
    if ((uint64_t)id == UINT64_MAX) {
        kv__key(&to, KV_PREFIX_ATTACHED + 1, (struct slice){0});
    } else {
        kv__key_u64(&to, KV_PREFIX_ATTACHED, (uint64_t)id + 1);
    }
    struct state_iter *it = kv__iter(r, bytes_slice(&from), bytes_slice(&to));
    while (state_iter_next(it, &key, &value)) {
        if (*ret_count == capacity) {
            capacity = capacity * 2 + 8;
            *ret = xrealloc(*ret, capacity * sizeof **ret);
        }
        (*ret)[(*ret_count)++] = arena_copy(arena, kv__attached_key(key));
    }
    enum thole_code code = state_iter_status(it, st);
    state_iter_free(it);
    bytes_deinit(&from);
    bytes_deinit(&to);
    return code;
}

/* All in the revision of the entry. The due record is left to the caller. */
static enum thole_code revoke(struct kv_exec *x, const struct kv_lease *l, size_t *ret_keys,
                              struct thole_status *st)
{
    struct slice *keys;
    enum thole_code code = kv__lease_keys(&x->reader, l->id, x->arena, &keys, ret_keys, st);

    for (size_t i = 0; i < *ret_keys && code == THOLE_OK; i++) {
        struct kv_item item;
        bool found = false;
        code = kv__get_latest(&x->reader, keys[i], false, x->arena, &item, &found, st);
        if (code == THOLE_OK && found) {
            kv__delete(x, &item);
        } else if (code == THOLE_OK) {
            code = kv__damaged(st, "attachment");
        }
    }
    free(keys);
    kv__key_u64(&x->key, KV_PREFIX_LEASE, (uint64_t)l->id);
    kv__batch_delete(x, bytes_slice(&x->key));
    x->kv->state.leases--;
    return code;
}

enum thole_code kv__do_revoke(struct kv_exec *x, const etcdserverpb_LeaseRevokeRequest *m,
                              struct thole_status *st)
{
    struct kv_lease l;
    bool found = false;
    size_t keys = 0;
    enum thole_code code =
        kv__lease_get(&x->reader, etcdserverpb_LeaseRevokeRequest_ID(m), &l, &found, st);

    if (code != THOLE_OK || !found) {
        x->refusal = found ? NULL : &kv__lease_not_found;
        return code;
    }
    code = revoke(x, &l, &keys, st);
    key_due(&x->key, &l);
    kv__batch_delete(x, bytes_slice(&x->key));
    kv__wire_header(&x->out, kv__revision(x));
    return code;
}

/* ---- Time ------------------------------------------------------------------------------------ */

enum thole_code kv__do_keep_alive(struct kv_exec *x, const etcdserverpb_LeaseKeepAliveRequest *m,
                                  struct thole_status *st)
{
    struct kv_lease l = {.ttl_s = 0};
    int64_t id = etcdserverpb_LeaseKeepAliveRequest_ID(m);
    bool found = false;
    enum thole_code code = kv__lease_get(&x->reader, id, &l, &found, st);

    if (code == THOLE_OK && found) {
        l.deadline_ms = x->kv->state.alive_ms + (uint64_t)l.ttl_s * MS_PER_S;
        put_lease(x, &l);
    }
    kv__wire_header(&x->out, kv__revision(x));
    kv__wire_number(&x->out, LEASE_ID, (uint64_t)id);
    kv__wire_number(&x->out, LEASE_TTL, found ? (uint64_t)l.ttl_s : 0);
    return code;
}

/* The first `max` due records. */
static enum thole_code first_due(const struct kv_reader *r, size_t max, struct kv_lease *ret,
                                 size_t *ret_count, struct thole_status *st)
{
    struct slice key, value;
    uint8_t from[17] = {0}; /* the next key after that record */
    enum thole_code code = THOLE_OK;
    size_t n = 0;

    /* What was due before is gone: do not walk over its remains, of which many may be of one
     * millisecond. */
    put_be64(from, r->kv->due_floor_ms);
    put_be64(from + 8, (uint64_t)r->kv->due_floor_id);
    struct state_iter *it = kv__iter_prefix(r, KV_PREFIX_DUE, slice_of(from, sizeof from));
    while (code == THOLE_OK && n < max && state_iter_next(it, &key, &value)) {
        if (key.size != 17) {
            code = kv__damaged(st, "lease");
        } else {
            ret[n++] = (struct kv_lease){.id = (int64_t)get_be64(key.data + 9),
                                         .due_ms = get_be64(key.data + 1)};
        }
    }
    if (code == THOLE_OK) {
        code = state_iter_status(it, st);
    }
    state_iter_free(it);
    *ret_count = n;
    return code;
}

enum thole_code kv__lease_next_due(const struct kv_reader *r, uint64_t *ret,
                                   struct thole_status *st)
{
    struct kv_lease first = {0};
    size_t count = 0;
    enum thole_code code = first_due(r, 1, &first, &count, st);

    *ret = count > 0 ? first.due_ms : UINT64_MAX;
    return code;
}

/* The due record's time has come: the lease is over, or it was kept alive since. The record is left
 * to the caller. */
static enum thole_code expire_one(struct kv_exec *x, const struct kv_lease *due, size_t *ret_keys,
                                  struct thole_status *st)
{
    struct kv_lease l;
    bool found = false;
    enum thole_code code = kv__lease_get(&x->reader, due->id, &l, &found, st);

    if (code != THOLE_OK || !found || l.due_ms != due->due_ms) {
        return code != THOLE_OK ? code : kv__damaged(st, "lease");
    }
    if (l.deadline_ms <= x->kv->state.alive_ms) {
        code = revoke(x, &l, ret_keys, st);
        kv__finish_revision(x);
        return code;
    }
    l.due_ms = l.deadline_ms;
    put_lease(x, &l);
    key_due(&x->key, &l);
    kv__batch_put(x, bytes_slice(&x->key), (struct slice){0});
    return THOLE_OK;
}

/* The due records are searched for together, because a search costs more than an expiry. They are
 * deleted together at the end: a search for attached keys that finds none would walk over all
 * deletions of the batch that follow them, which are these. */
enum thole_code kv__expire(struct kv_exec *x, struct thole_status *st)
{
    struct kv_lease due[THOLE_TICK_ITEMS_MAX];
    size_t count = 0, past = 0;
    enum thole_code code = first_due(&x->reader, THOLE_TICK_ITEMS_MAX, due, &count, st);

    for (size_t done = 0; code == THOLE_OK && past < count && done < THOLE_TICK_ITEMS_MAX; done++) {
        size_t keys = 0;
        if (due[past].due_ms > x->kv->state.alive_ms) {
            break;
        }
        x->kv->due_floor_ms = due[past].due_ms;
        x->kv->due_floor_id = due[past].id;
        code = expire_one(x, &due[past++], &keys, st);
        done += keys;
        arena_reset(x->arena);
    }
    for (size_t i = 0; i < past; i++) {
        key_due(&x->key, &due[i]);
        kv__batch_delete(x, bytes_slice(&x->key));
    }
    return code == THOLE_OK ? kv__lease_next_due(&x->reader, &x->kv->next_due_ms, st) : code;
}

/* ---- Queries --------------------------------------------------------------------------------- */

enum thole_code kv__lease_time_to_live(const struct kv_reader *r,
                                       const etcdserverpb_LeaseTimeToLiveRequest *m,
                                       struct bytes *out, struct thole_status *st)
{
    int64_t id = etcdserverpb_LeaseTimeToLiveRequest_ID(m);
    struct kv_lease l;
    bool found = false;
    enum thole_code code = kv__lease_get(r, id, &l, &found, st);
    uint64_t now = r->state->alive_ms;

    kv__wire_header(out, r->revision);
    kv__wire_number(out, LEASE_ID, (uint64_t)id);
    if (code != THOLE_OK || !found) {
        kv__wire_number(out, LEASE_TTL, UINT64_MAX); /* -1 */
        return code;
    }
    kv__wire_number(out, LEASE_TTL, l.deadline_ms > now ? (l.deadline_ms - now) / MS_PER_S : 0);
    kv__wire_number(out, LEASE_GRANTED, (uint64_t)l.ttl_s);
    if (etcdserverpb_LeaseTimeToLiveRequest_keys(m)) {
        struct arena *arena = arena_new();
        struct slice *keys;
        size_t n = 0;
        code = kv__lease_keys(r, id, arena, &keys, &n, st);
        for (size_t i = 0; i < n; i++) {
            kv__wire_message(out, LEASE_KEYS, keys[i]);
        }
        free(keys);
        arena_free(arena);
    }
    return code;
}

enum thole_code kv__lease_list(const struct kv_reader *r, struct bytes *out,
                               struct thole_status *st)
{
    struct state_iter *it = kv__iter_prefix(r, KV_PREFIX_LEASE, (struct slice){0});
    struct bytes lease = {0};
    struct slice key, value;

    kv__wire_header(out, r->revision);
    while (state_iter_next(it, &key, &value)) {
        bytes_clear(&lease);
        kv__wire_number(&lease, 1, get_be64(key.data + 1));
        kv__wire_message(out, 2, bytes_slice(&lease));
    }
    enum thole_code code = state_iter_status(it, st);
    state_iter_free(it);
    bytes_deinit(&lease);
    return code;
}
