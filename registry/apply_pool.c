/* Operations on pools: many shards of one spec, named POOL-0 to POOL-(count - 1).
 *
 * A pool's spec changes at once. Its shards follow in bounded steps: the placement controller
 * proposes ReconcilePool repeatedly, and each command continues at status.next_index, until the
 * pool's generation is observed. The effect of a step follows from the rows alone, so the command
 * names no shards.
 *
 * Invariants: no shard of the pool that is not being deleted has an index >= status.extent;
 * status.shards and .ready count rows; a pool that is being deleted wants no shard, and is dropped
 * with its last one; the count of a pool with keys never changes, as its keys would change their
 * shard. */
#include "registry/placement/placement_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/slot.h"

static const thole_v1_ShardPoolStatus *status_of(const struct row *pool)
{
    return thole_v1_ShardPool_status(pool->pool);
}

static enum thole_code find_pool(struct txn *t, upb_StringView name, struct row **ret)
{
    struct row *pool = registry__pool(&t->s, registry_str(name));
    if (pool == NULL) {
        return THOLE_FAIL(&t->st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                          "no pool is named \"%.*s\"", (int)(name.size < 128 ? name.size : 128),
                          name.data != NULL ? name.data : "");
    }
    *ret = pool;
    return THOLE_OK;
}

static enum thole_code check_spec(struct txn *t, const thole_v1_ShardPoolSpec *spec,
                                  enum registry_spec_use use)
{
    struct registry_violation v;
    return registry__checked(t, registry_check_pool_spec("pool.spec", spec, use, &v), &v);
}

static bool has_keys(const thole_v1_ShardPoolSpec *spec)
{
    return thole_v1_ShardPoolSpec_keys(spec) == thole_v1_POOL_KEYS_SLOTS;
}

/* ---- What users say -------------------------------------------------------------------------- */

static enum thole_code create(struct txn *t, upb_StringView name,
                              const thole_v1_ShardPoolSpec *spec, bool awaits_restore)
{
    struct registry_violation v;
    enum thole_code code =
        registry__checked(t, registry_check_pool_name("pool.name", registry_str(name), &v), &v);
    if (code == THOLE_OK) {
        code = check_spec(t, spec, REGISTRY_SPEC_NEW);
    }
    if (code == THOLE_OK) {
        code = registry__check_type_known(t, "spec.shard.type", thole_v1_ShardPoolSpec_shard(spec));
    }
    if (code == THOLE_OK && registry__pool(&t->s, registry_str(name)) != NULL) {
        code = THOLE_FAIL(&t->st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                          "there is a pool named \"%.*s\"", (int)name.size, name.data);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct row *row = registry__row_new(&t->scope, ROW_POOL);
    upb_Arena *arena = row->arena;
    thole_v1_ShardPool_set_name(row->pool, registry__dup(arena, registry_str(name)));
    thole_v1_ShardPoolSpec *kept =
        registry__message_copy(spec, &thole_v1_ShardPoolSpec_msginit, arena);
    if (has_keys(spec) && thole_v1_ShardPoolSpec_count(spec) == 0) {
        thole_v1_ShardPoolSpec_set_count(kept, REGISTRY_KEYED_SHARDS);
    }
    thole_v1_ShardPool_set_spec(row->pool, kept);
    thole_v1_ShardPoolStatus_set_awaits_restore(thole_v1_ShardPool_mutable_status(row->pool, arena),
                                                awaits_restore);
    thole_v1_ShardPool_set_etag(row->pool, registry__txn_etag(t, arena));
    thole_v1_ShardPool_set_generation(row->pool, 1);
    thole_v1_ShardPool_set_create_time_ms(row->pool, thole_registry_v1_Command_time_ms(t->command));
    registry__txn_put(t, row);
    registry__txn_event(t, registry__pool(&t->s, registry_str(name)), "PoolCreated",
                        "%" PRIu32 " shards", thole_v1_ShardPoolSpec_count(kept));
    placement__preview_pool(t);
    return THOLE_OK;
}

enum thole_code registry__op_create_pool(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_CreatePool *c = thole_registry_v1_Operation_create_pool(op);
    return create(t, thole_registry_v1_CreatePool_name(c), thole_registry_v1_CreatePool_spec(c),
                  thole_registry_v1_CreatePool_awaits_restore(c));
}

/* A copy of the row for a new generation, which its shards have yet to follow. */
static struct row *begin_generation(struct txn *t, const struct row *pool)
{
    struct row *row = registry__txn_edit(t, pool);
    thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_mutable_status(row->pool, row->arena);
    thole_v1_ShardPoolStatus_set_next_index(status, 0);
    registry__clear(status, &thole_v1_ShardPoolStatus_msginit, 6 /* name_taken */);
    thole_v1_ShardPool_set_generation(row->pool, thole_v1_ShardPool_generation(row->pool) + 1);
    thole_v1_ShardPool_set_etag(row->pool, registry__txn_etag(t, row->arena));
    return row;
}

/* Whether a pool has keys cannot change, nor the count of one that has: keys would change their
 * shard, and their data would not. */
static enum thole_code check_keys(struct txn *t, const thole_v1_ShardPoolSpec *have,
                                  const thole_v1_ShardPoolSpec *given)
{
    uint32_t count = thole_v1_ShardPoolSpec_count(have);
    if (has_keys(given) && !has_keys(have)) {
        return registry__refuse(t, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST, "spec.keys",
                                "cannot change; leave it out, or create another pool");
    }
    if (has_keys(have) && thole_v1_ShardPoolSpec_count(given) != 0 &&
        thole_v1_ShardPoolSpec_count(given) != count) {
        return registry__refuse(
            t, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST, "spec.count",
            "cannot change from %" PRIu32 " to %" PRIu32
            ": the pool has keys, and they would belong to other shards than their data",
            count, thole_v1_ShardPoolSpec_count(given));
    }
    return THOLE_OK;
}

static bool is_protected(const thole_v1_ShardPoolSpec *spec)
{
    const thole_v1_ShardSpec *shard = thole_v1_ShardPoolSpec_shard(spec);
    return shard != NULL && thole_v1_ShardSpec_deletion_protection(shard);
}

/* Fewer shards would be deletions. */
static enum thole_code check_protection(struct txn *t, const thole_v1_ShardPoolSpec *have,
                                        const thole_v1_ShardPoolSpec *given)
{
    if (!is_protected(given) || has_keys(have) ||
        thole_v1_ShardPoolSpec_count(given) >= thole_v1_ShardPoolSpec_count(have)) {
        return THOLE_OK;
    }
    return registry__refuse(t, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST, "spec.count",
                            "cannot fall from %" PRIu32 " to %" PRIu32
                            ": the shards are protected from deletion (shard.deletion_protection)",
                            thole_v1_ShardPoolSpec_count(have),
                            thole_v1_ShardPoolSpec_count(given));
}

/* The pool's shards are gone through again, from the first. */
static void reconcile_again(struct txn *t, struct row *pool)
{
    struct row *row = registry__txn_edit(t, pool);
    thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_mutable_status(row->pool, row->arena);
    ASSERT(!thole_v1_ShardPool_deleting(row->pool));
    thole_v1_ShardPoolStatus_set_next_index(status, 0);
    thole_v1_ShardPoolStatus_set_observed_generation(status,
                                                     thole_v1_ShardPool_generation(row->pool) - 1);
    registry__clear(status, &thole_v1_ShardPoolStatus_msginit, 6 /* name_taken */);
    registry__txn_put(t, row);
}

/* Was every name of the newest generation tried, and some shard not created? */
static bool lacks_shards(const thole_v1_ShardPool *pool)
{
    const thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_status(pool);
    return status != NULL &&
           thole_v1_ShardPoolStatus_observed_generation(status) ==
               thole_v1_ShardPool_generation(pool) &&
           thole_v1_ShardPoolStatus_shards(status) <
               thole_v1_ShardPoolSpec_count(thole_v1_ShardPool_spec(pool));
}

static enum thole_code set_spec(struct txn *t, struct row *pool,
                                const thole_v1_ShardPoolSpec *given)
{
    const thole_v1_ShardPoolSpec *have = thole_v1_ShardPool_spec(pool->pool);
    thole_v1_ShardSpec *shard = NULL;
    enum thole_code code = check_spec(t, given, REGISTRY_SPEC_CHANGE);
    if (code == THOLE_OK) {
        code = check_keys(t, have, given);
    }
    if (code == THOLE_OK) {
        code = check_protection(t, have, given);
    }
    if (code == THOLE_OK) {
        code = registry__merge_spec(t, "spec.shard", thole_v1_ShardPoolSpec_shard(have),
                                    thole_v1_ShardPoolSpec_shard(given), &shard);
    }
    if (code != THOLE_OK) {
        return code;
    }
    uint32_t count = thole_v1_ShardPoolSpec_count(has_keys(have) ? have : given);
    thole_v1_ShardPoolSpec *spec = thole_v1_ShardPoolSpec_new(t->arena);
    thole_v1_ShardPoolSpec_set_count(spec, count);
    thole_v1_ShardPoolSpec_set_keys(spec, thole_v1_ShardPoolSpec_keys(have));
    thole_v1_ShardPoolSpec_set_shard(spec, shard);
    registry__txn_show(t, pool);
    if (!registry__message_equal(have, spec, &thole_v1_ShardPoolSpec_msginit, t->arena)) {
        struct slice name = registry_str(thole_v1_ShardPool_name(pool->pool));
        struct row *row = begin_generation(t, pool);
        uint64_t generation = thole_v1_ShardPool_generation(row->pool);
        thole_v1_ShardPool_set_spec(
            row->pool, registry__message_copy(spec, &thole_v1_ShardPoolSpec_msginit, row->arena));
        registry__txn_put(t, row);
        registry__txn_event(t, registry__pool(&t->s, name), "PoolUpdated",
                            "generation %" PRIu64 ": %" PRIu32 " shards", generation, count);
    } else if (lacks_shards(pool->pool)) {
        reconcile_again(t, pool);
    }
    placement__preview_pool(t);
    return THOLE_OK;
}

enum thole_code registry__op_update_pool(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_UpdatePool *u = thole_registry_v1_Operation_update_pool(op);
    upb_StringView name = thole_registry_v1_UpdatePool_name(u);
    upb_StringView etag = thole_registry_v1_UpdatePool_etag(u);
    struct row *pool = NULL;
    if (registry__pool(&t->s, registry_str(name)) == NULL &&
        thole_registry_v1_UpdatePool_allow_missing(u) && etag.size == 0) {
        return create(t, name, thole_registry_v1_UpdatePool_spec(u), false);
    }
    enum thole_code code = find_pool(t, name, &pool);
    if (code == THOLE_OK) {
        code = registry__check_revision(t, op, pool);
    }
    if (code == THOLE_OK) {
        code = registry__check_etag(t, thole_v1_ShardPool_etag(pool->pool), etag);
    }
    if (code == THOLE_OK && thole_v1_ShardPool_deleting(pool->pool)) {
        code = THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the pool is being deleted");
    }
    return code != THOLE_OK ? code : set_spec(t, pool, thole_registry_v1_UpdatePool_spec(u));
}

enum thole_code registry__op_delete_pool(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_DeletePool *d = thole_registry_v1_Operation_delete_pool(op);
    upb_StringView name = thole_registry_v1_DeletePool_name(d);
    struct row *pool = NULL;
    enum thole_code code = find_pool(t, name, &pool);
    if (code == THOLE_NOT_FOUND && thole_registry_v1_DeletePool_allow_missing(d)) {
        return THOLE_OK;
    }
    if (code == THOLE_OK) {
        code = registry__check_revision(t, op, pool);
    }
    if (code == THOLE_OK) {
        code = registry__check_etag(t, thole_v1_ShardPool_etag(pool->pool),
                                    thole_registry_v1_DeletePool_etag(d));
    }
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, pool);
    if (thole_v1_ShardPool_deleting(pool->pool)) {
        return THOLE_OK;
    }
    if (is_protected(thole_v1_ShardPool_spec(pool->pool))) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "pools/%.*s is protected from deletion; apply its spec with "
                          "shard.deletion_protection: false first",
                          (int)name.size, name.data);
    }
    struct row *row = begin_generation(t, pool);
    thole_v1_ShardPool_set_deleting(row->pool, true);
    registry__txn_put(t, row);
    registry__txn_event(t, registry__pool(&t->s, registry_str(name)), "PoolDeleting",
                        "%" PRIu32 " shards are being deleted",
                        thole_v1_ShardPoolStatus_shards(status_of(row)));
    registry__pool_settle(t, registry_str(name));
    return THOLE_OK;
}

/* ---- Counting -------------------------------------------------------------------------------- */

/* "events-12" -> the pool "events", if its spec wants a shard of that name; else NULL. */
static struct row *pool_that_wants(struct txn *t, struct slice name)
{
    size_t at = name.size;
    uint64_t index = 0;
    for (uint64_t unit = 1; at > 0 && name.data[at - 1] >= '0' && name.data[at - 1] <= '9'; at--) {
        if (unit > REGISTRY_POOL_SHARDS_MAX) {
            return NULL;
        }
        index += unit * (uint64_t)(name.data[at - 1] - '0');
        unit *= 10;
    }
    if (at == name.size || at < 2 || name.data[at - 1] != '-') {
        return NULL;
    }
    struct row *pool = registry__pool(&t->s, slice_of(name.data, at - 1));
    bool wants = pool != NULL && !thole_v1_ShardPool_deleting(pool->pool) &&
                 index < thole_v1_ShardPoolSpec_count(thole_v1_ShardPool_spec(pool->pool));
    return wants ? pool : NULL;
}

/* A shard of no pool was dropped. A pool that found its name taken goes through its names again. */
static void name_freed(struct txn *t, struct slice name)
{
    struct row *pool = pool_that_wants(t, name);
    if (pool == NULL || thole_v1_ShardPoolStatus_name_taken(status_of(pool)).size == 0) {
        return;
    }
    reconcile_again(t, pool);
}

void registry__pool_count(struct txn *t, const thole_v1_Shard *before, const thole_v1_Shard *after)
{
    if (after == NULL && thole_v1_Shard_pool(before).size == 0) {
        name_freed(t, registry_str(thole_v1_Shard_name(before)));
        return;
    }
    upb_StringView name = thole_v1_Shard_pool(after != NULL ? after : before);
    struct row *pool = name.size == 0 ? NULL : registry__pool(&t->s, registry_str(name));
    bool was_ready = before != NULL && registry_shard_is_ready(before);
    bool is_ready = after != NULL && registry_shard_is_ready(after);
    if (pool == NULL || ((before == NULL) == (after == NULL) && was_ready == is_ready)) {
        return;
    }
    struct row *row = registry__txn_edit(t, pool);
    thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_mutable_status(row->pool, row->arena);
    uint32_t shards = thole_v1_ShardPoolStatus_shards(status);
    uint32_t ready = thole_v1_ShardPoolStatus_ready(status);
    ASSERT_SLOW(shards + (before == NULL) >= (uint32_t)(after == NULL) &&
                ready + is_ready >= was_ready);
    thole_v1_ShardPoolStatus_set_shards(status, shards + (before == NULL) - (after == NULL));
    thole_v1_ShardPoolStatus_set_ready(status, ready + is_ready - was_ready);
    registry__txn_put(t, row);
    if (after == NULL) {
        registry__pool_settle(t, registry_str(name));
    }
}

void registry__pool_settle(struct txn *t, struct slice name)
{
    struct row *pool = registry__pool(&t->s, name);
    if (pool == NULL || !thole_v1_ShardPool_deleting(pool->pool) ||
        thole_v1_ShardPoolStatus_shards(status_of(pool)) > 0) {
        return;
    }
    registry__txn_event(t, pool, "PoolDeleted", "its last shard is gone");
    registry__txn_drop(t, pool);
}

/* ---- Its shards ------------------------------------------------------------------------------ */

void registry__pool_set_slots(struct txn *t, struct slice pool, struct row *shard)
{
    const struct row *row = pool.size > 0 ? registry__pool(&t->s, pool) : NULL;
    const thole_v1_ShardPoolSpec *spec = row != NULL ? thole_v1_ShardPool_spec(row->pool) : NULL;
    if (spec == NULL || !has_keys(spec)) {
        return;
    }
    uint32_t index = 0, first = 0, last = 0;
    upb_StringView name = thole_v1_Shard_name(shard->shard);
    for (size_t at = pool.size + 1; at < name.size; at++) { /* "events-12" */
        index = 10 * index + (uint32_t)(name.data[at] - '0');
    }
    if (index >= thole_v1_ShardPoolSpec_count(spec)) {
        return; /* only in a registry from a file that was made by hand */
    }
    slot_range(index, thole_v1_ShardPoolSpec_count(spec), &first, &last);
    thole_v1_SlotRange *slots = thole_v1_Shard_mutable_slots(shard->shard, shard->arena);
    thole_v1_SlotRange_set_first(slots, first);
    thole_v1_SlotRange_set_last(slots, last);
}

/* A shard that existed before was given up: it begins empty. */
static bool awaits_data(const struct row *pool, uint32_t index)
{
    return thole_v1_ShardPoolStatus_awaits_restore(status_of(pool)) &&
           index >= thole_v1_ShardPoolStatus_extent(status_of(pool));
}

/* False: the step must wait until the deleted shard of this name is dropped. */
static bool reconcile_one(struct txn *t, const struct row *pool, uint32_t index, bool wanted,
                          bool *ret_taken, char name[static LIMIT_NAME_BYTES + 1])
{
    struct slice pool_name = registry_str(thole_v1_ShardPool_name(pool->pool));
    const thole_v1_ShardSpec *spec =
        thole_v1_ShardPoolSpec_shard(thole_v1_ShardPool_spec(pool->pool));
    snprintf(name, LIMIT_NAME_BYTES + 1, "%.*s-%" PRIu32, (int)pool_name.size,
             (const char *)pool_name.data, index);
    struct row *shard = registry__shard_by_name(&t->s, slice_str(name));
    bool mine =
        shard != NULL && slice_equal(registry_str(thole_v1_Shard_pool(shard->shard)), pool_name);
    *ret_taken = false;
    if (!wanted) {
        if (mine) {
            registry__shard_retire(t, shard);
        }
        return true;
    }
    if (shard == NULL) {
        registry__shard_add(t, slice_str(name), spec, pool_name);
        if (awaits_data(pool, index)) {
            registry__shard_await(t, registry__shard_by_name(&t->s, slice_str(name)));
        }
    } else if (!mine) {
        *ret_taken = true;
    } else if (thole_v1_Shard_deleting(shard->shard)) {
        return false;
    } else {
        registry__shard_set_spec(t, shard, spec);
    }
    return true;
}

static void note_progress(struct txn *t, struct slice name, uint32_t next, uint32_t count,
                          uint32_t end, const char *taken)
{
    const struct row *pool = registry__pool(&t->s, name);
    if (pool == NULL) {
        return; /* it went with its last shard */
    }
    struct row *row = registry__txn_edit(t, pool);
    thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_mutable_status(row->pool, row->arena);
    uint32_t extent = thole_v1_ShardPoolStatus_extent(status);
    uint32_t created = next < count ? next : count;
    thole_v1_ShardPoolStatus_set_next_index(status, next);
    thole_v1_ShardPoolStatus_set_extent(status, next == end        ? count
                                                : extent < created ? created
                                                                   : extent);
    if (taken[0] != '\0') {
        thole_v1_ShardPoolStatus_set_name_taken(status, registry__dup_str(row->arena, taken));
    }
    if (next == end) {
        thole_v1_ShardPoolStatus_set_awaits_restore(status, false);
        thole_v1_ShardPoolStatus_set_observed_generation(status,
                                                         thole_v1_ShardPool_generation(row->pool));
    }
    registry__txn_put(t, row);
    if (taken[0] != '\0') {
        registry__txn_event(
            t, registry__pool(&t->s, name), "PoolNameTaken",
            "shard %s does not belong to the pool; once it is deleted, the pool makes its own",
            taken);
    }
}

enum thole_code registry__op_reconcile_pool(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_ReconcilePool *o = thole_registry_v1_Operation_reconcile_pool(op);
    struct slice name = registry_str(thole_registry_v1_ReconcilePool_name(o));
    struct row *pool = registry__pool(&t->s, name);
    uint64_t generation = thole_registry_v1_ReconcilePool_generation(o);
    if (pool == NULL || thole_v1_ShardPool_generation(pool->pool) != generation ||
        thole_v1_ShardPoolStatus_observed_generation(status_of(pool)) == generation) {
        return THOLE_OK; /* decided on an old view */
    }
    bool deleting = thole_v1_ShardPool_deleting(pool->pool);
    uint32_t count =
        deleting ? 0 : thole_v1_ShardPoolSpec_count(thole_v1_ShardPool_spec(pool->pool));
    uint32_t extent = thole_v1_ShardPoolStatus_extent(status_of(pool));
    uint32_t end = count > extent ? count : extent;
    uint32_t begin = thole_v1_ShardPoolStatus_next_index(status_of(pool));
    uint32_t limit = thole_registry_v1_ReconcilePool_limit(o);
    uint32_t next = begin;
    char taken[LIMIT_NAME_BYTES + 1] = "";
    while (next < end && next - begin < limit) {
        char shard[LIMIT_NAME_BYTES + 1];
        bool is_taken = false;
        if (!reconcile_one(t, pool, next, next < count, &is_taken, shard)) {
            break;
        }
        if (is_taken) {
            memcpy(taken, shard, sizeof taken);
        }
        next++;
    }
    ASSERT(next <= end && (next - begin <= limit || next == begin));
    if (next > begin || next == end) {
        note_progress(t, name, next, count, end, taken);
    }
    return THOLE_OK;
}
