/* Operations on shards: spec, deletion, observed state. */
#include "registry/placement/placement_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const thole_v1_ShardStatus *status_of(const struct row *shard)
{
    return thole_v1_Shard_status(shard->shard);
}

static enum thole_code refuse_zero(struct txn *t, const struct row *shard)
{
    if (thole_v1_Shard_id(shard->shard) == REGISTRY_SHARD_ID) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "the cluster manages shard zero; users cannot change it");
    }
    return THOLE_OK;
}

/* The spec of a pool's shard is changed in the pool only. */
static enum thole_code refuse_pool(struct txn *t, const struct row *shard)
{
    upb_StringView pool = thole_v1_Shard_pool(shard->shard);
    if (pool.size > 0) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "the shard belongs to the pool \"%.*s\": change the pool", (int)pool.size,
                          pool.data);
    }
    return THOLE_OK;
}

enum thole_code registry__check_type_known(struct txn *t, const char *field,
                                           const thole_v1_ShardSpec *spec)
{
    upb_StringView type = thole_v1_ShardSpec_type(spec);
    const struct packed *p = registry__tree_first(t->s.index[INDEX_HOST_NAMES]);
    while (p != NULL && !registry__host_runs(registry__packed_message(p, NULL), type)) {
        p = registry__find_after(&t->s, INDEX_HOST_NAMES,
                                 registry__key_name(registry__packed_name(p)));
    }
    if (p == NULL) {
        return registry__refuse(t, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_TYPE, field,
                                "no host runs machines of type \"%.*s\"", (int)type.size,
                                type.data);
    }
    return THOLE_OK;
}

void registry__shard_add(struct txn *t, struct slice name, const thole_v1_ShardSpec *spec,
                         struct slice pool)
{
    struct row *row = registry__row_new(&t->scope, ROW_SHARD);
    upb_Arena *arena = row->arena;
    uint64_t id = t->s.next_shard_id++;
    ASSERT(id != REGISTRY_SHARD_ID && registry_name_is_valid(name) &&
           registry__shard_by_name(&t->s, name) == NULL);
    thole_v1_Shard_set_name(row->shard, registry__dup(arena, name));
    thole_v1_Shard_set_id(row->shard, id);
    thole_v1_Shard_set_spec(row->shard,
                            registry__message_copy(spec, &thole_v1_ShardSpec_msginit, arena));
    thole_v1_Shard_mutable_status(row->shard, arena);
    thole_v1_Shard_set_etag(row->shard, registry__txn_etag(t, arena));
    thole_v1_Shard_set_generation(row->shard, 1);
    thole_v1_Shard_set_create_time_ms(row->shard, thole_registry_v1_Command_time_ms(t->command));
    thole_v1_Shard_set_pool(row->shard, registry__dup(arena, pool));
    registry__pool_set_slots(t, pool, row);
    registry__txn_put(t, row);
    registry__txn_event(t, registry__shard(&t->s, id), "ShardCreated",
                        "%" PRIu32 " voters, %" PRIu32 " non-voting",
                        thole_v1_ShardSpec_voters(spec), registry_non_voting(spec));
}

enum thole_code registry__shard_create(struct txn *t, upb_StringView name,
                                       const thole_v1_ShardSpec *spec)
{
    struct registry_violation v;
    bool ok = registry_check_name("shard.name", registry_str(name), &v) &&
              registry_check_shard_spec("shard.spec", spec, REGISTRY_SPEC_NEW, &v);
    enum thole_code code = registry__checked(t, ok, &v);
    if (code == THOLE_OK) {
        code = registry__check_type_known(t, "spec.type", spec);
    }
    if (code == THOLE_OK && registry__shard_by_name(&t->s, registry_str(name)) != NULL) {
        code = THOLE_FAIL(&t->st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                          "there is a shard named \"%.*s\"", (int)name.size, name.data);
    }
    if (code == THOLE_OK) {
        registry__shard_add(t, registry_str(name), spec, (struct slice){0});
    }
    return code;
}

static enum thole_code create(struct txn *t, upb_StringView name, const thole_v1_ShardSpec *spec)
{
    enum thole_code code = registry__shard_create(t, name, spec);
    if (code == THOLE_OK) {
        placement__preview_shard(t);
    }
    return code;
}

enum thole_code registry__op_create_shard(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_CreateShard *c = thole_registry_v1_Operation_create_shard(op);
    return create(t, thole_registry_v1_CreateShard_name(c), thole_registry_v1_CreateShard_spec(c));
}

/* ---- Update ---------------------------------------------------------------------------------- */

static bool differs(upb_StringView have, upb_StringView given)
{
    return given.size > 0 && !slice_equal(registry_str(have), registry_str(given));
}

static enum thole_code refuse_change(struct txn *t, const char *at, const char *name)
{
    char field[REGISTRY_FIELD_BYTES];
    snprintf(field, sizeof field, "%s.%s", at, name);
    return registry__refuse(t, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST, field,
                            "cannot change; leave it out, or create another shard");
}

enum thole_code registry__merge_spec(struct txn *t, const char *at, const thole_v1_ShardSpec *have,
                                     const thole_v1_ShardSpec *given, thole_v1_ShardSpec **ret)
{
    if (differs(thole_v1_ShardSpec_type(have), thole_v1_ShardSpec_type(given))) {
        return refuse_change(t, at, "type");
    }
    if (differs(thole_v1_ShardSpec_config(have), thole_v1_ShardSpec_config(given))) {
        return refuse_change(t, at, "config");
    }
    if (thole_v1_ShardSpec_lease_reads(given) && !thole_v1_ShardSpec_lease_reads(have)) {
        return refuse_change(t, at, "lease_reads");
    }
    thole_v1_ShardSpec *spec = registry__message_copy(given, &thole_v1_ShardSpec_msginit, t->arena);
    thole_v1_ShardSpec_set_type(spec, thole_v1_ShardSpec_type(have));
    thole_v1_ShardSpec_set_config(spec, thole_v1_ShardSpec_config(have));
    thole_v1_ShardSpec_set_lease_reads(spec, thole_v1_ShardSpec_lease_reads(have));
    *ret = spec;
    return THOLE_OK;
}

void registry__shard_set_spec(struct txn *t, struct row *shard, const thole_v1_ShardSpec *spec)
{
    registry__txn_show(t, shard);
    if (registry__message_equal(thole_v1_Shard_spec(shard->shard), spec,
                                &thole_v1_ShardSpec_msginit, t->arena)) {
        return;
    }
    struct row *row = registry__txn_edit(t, shard);
    uint64_t generation = thole_v1_Shard_generation(row->shard) + 1;
    uint64_t id = thole_v1_Shard_id(row->shard);
    thole_v1_Shard_set_spec(row->shard,
                            registry__message_copy(spec, &thole_v1_ShardSpec_msginit, row->arena));
    thole_v1_Shard_set_generation(row->shard, generation);
    thole_v1_Shard_set_etag(row->shard, registry__txn_etag(t, row->arena));
    registry__txn_put(t, row);
    registry__txn_event(t, registry__shard(&t->s, id), "ShardUpdated",
                        "generation %" PRIu64 ": %" PRIu32 " voters, %" PRIu32 " non-voting",
                        generation, thole_v1_ShardSpec_voters(spec), registry_non_voting(spec));
}

enum thole_code registry__op_update_shard(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_UpdateShard *u = thole_registry_v1_Operation_update_shard(op);
    upb_StringView name = thole_registry_v1_UpdateShard_name(u);
    upb_StringView etag = thole_registry_v1_UpdateShard_etag(u);
    const thole_v1_ShardSpec *given = thole_registry_v1_UpdateShard_spec(u);
    struct row *shard = registry__shard_by_name(&t->s, registry_str(name));
    if (shard == NULL) {
        if (thole_registry_v1_UpdateShard_allow_missing(u) && etag.size == 0) {
            return create(t, name, given);
        }
        return registry__no_such_shard(t, name);
    }
    enum thole_code code = refuse_zero(t, shard);
    if (code == THOLE_OK) {
        code = refuse_pool(t, shard);
    }
    if (code == THOLE_OK) {
        code = registry__check_revision(t, op, shard);
    }
    if (code == THOLE_OK) {
        code = registry__check_etag(t, thole_v1_Shard_etag(shard->shard), etag);
    }
    if (code == THOLE_OK && thole_v1_Shard_deleting(shard->shard)) {
        code = THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the shard is being deleted");
    }
    thole_v1_ShardSpec *spec = NULL;
    if (code == THOLE_OK) {
        struct registry_violation v;
        bool ok = registry_check_shard_spec("shard.spec", given, REGISTRY_SPEC_CHANGE, &v);
        code = registry__checked(t, ok, &v);
    }
    if (code == THOLE_OK) {
        code = registry__merge_spec(t, "spec", thole_v1_Shard_spec(shard->shard), given, &spec);
    }
    if (code == THOLE_OK) {
        registry__shard_set_spec(t, shard, spec);
        placement__preview_shard(t);
    }
    return code;
}

/* ---- Deletion -------------------------------------------------------------------------------- */

void registry__shard_await(struct txn *t, const struct row *shard)
{
    uint64_t id = thole_v1_Shard_id(shard->shard);
    struct row *row = registry__txn_edit(t, shard);
    registry__clear(row->shard, &thole_v1_Shard_msginit, 9 /* initial */);
    registry__clear(row->shard, &thole_v1_Shard_msginit, 60 /* seed */);
    thole_v1_Shard_set_status(row->shard, thole_v1_ShardStatus_new(row->arena));
    thole_v1_Shard_set_awaits_restore(row->shard, true);
    registry__txn_put(t, row);
    registry__txn_event(t, registry__shard(&t->s, id), "ShardAwaitsRestore",
                        "the shard awaits its data: restore a snapshot, or delete the shard");
}

/* Recreate the shard under another id. The counts of its pool do not change. */
static void replace(struct txn *t, struct row *shard, bool awaits)
{
    registry__txn_drop(t, shard);
    struct slice pool_name = registry_str(thole_v1_Shard_pool(shard->shard));
    const struct row *pool = registry__pool(&t->s, pool_name);
    if (pool_name.size == 0 || (pool != NULL && !thole_v1_ShardPool_deleting(pool->pool))) {
        struct slice name = registry_str(thole_v1_Shard_name(shard->shard));
        registry__shard_add(t, name, thole_v1_Shard_spec(shard->shard), pool_name);
        if (awaits) {
            registry__shard_await(t, registry__shard_by_name(&t->s, name));
        }
    }
}

void registry__shard_settle(struct txn *t, uint64_t shard_id)
{
    struct row *shard = registry__shard(&t->s, shard_id);
    if (shard == NULL || !thole_v1_Shard_deleting(shard->shard) ||
        registry__next_of_shard(&t->s, shard_id, 0) != NULL) {
        return;
    }
    if (!thole_v1_Shard_begins_again(shard->shard)) {
        registry__txn_event(t, shard, "ShardDeleted", "its last replica is gone");
        registry__txn_drop(t, shard);
        return;
    }
    replace(t, shard, thole_v1_Shard_awaits_restore(shard->shard));
}

/* The whole group is deleted with the shard, so no replica has to leave it first. */
static void retire_replicas(struct txn *t, uint64_t shard_id)
{
    uint64_t after = 0;
    struct row *row;
    while ((row = registry__next_of_shard(&t->s, shard_id, after)) != NULL) {
        after = thole_v1_Replica_id(row->replica);
        const struct row *host = registry__host(&t->s, &row->host_id);
        if (registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
            registry__replica_drop(t, row, "its shard was deleted and its host was removed");
        } else if (thole_v1_Replica_desired(row->replica) != thole_v1_REPLICA_DESIRED_REMOVE) {
            struct row *edit = registry__txn_edit(t, row);
            thole_v1_Replica_set_desired(edit->replica, thole_v1_REPLICA_DESIRED_REMOVE);
            registry__txn_put(t, edit);
        }
    }
}

static void retire(struct txn *t, struct row *shard, bool again)
{
    registry__txn_show(t, shard);
    bool deleting = thole_v1_Shard_deleting(shard->shard);
    if (deleting && thole_v1_Shard_begins_again(shard->shard) == again) {
        return;
    }
    uint64_t id = thole_v1_Shard_id(shard->shard);
    struct row *row = registry__txn_edit(t, shard);
    thole_v1_Shard_set_deleting(row->shard, true);
    thole_v1_Shard_set_begins_again(row->shard, again);
    registry__txn_put(t, row);
    if (!deleting) {
        registry__txn_event(t, registry__shard(&t->s, id), "ShardDeleting", "%s",
                            again ? "it cannot form; it is recreated under another id" : "");
        retire_replicas(t, id);
    }
    registry__shard_settle(t, id);
}

void registry__shard_retire(struct txn *t, struct row *shard)
{
    retire(t, shard, false);
}

void registry__shard_begin_again(struct txn *t, struct row *shard)
{
    retire(t, shard, true);
}

/* Give up the data of a pool's shard: the pool still wants the shard, so it starts empty. */
static enum thole_code delete_in_pool(struct txn *t, struct row *shard)
{
    if (!thole_v1_Shard_awaits_restore(shard->shard)) {
        return refuse_pool(t, shard);
    }
    if (thole_v1_Shard_has_seed(shard->shard)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "the shard is being restored: cancel the restore first");
    }
    registry__txn_event(t, shard, "ShardDeleted", "its data is given up");
    replace(t, shard, false);
    return THOLE_OK;
}

/* Restores that fail, and groups that cannot form, are not the user's deletions. */
static enum thole_code refuse_protected(struct txn *t, const struct row *shard)
{
    upb_StringView name = thole_v1_Shard_name(shard->shard);
    upb_StringView pool = thole_v1_Shard_pool(shard->shard);
    if (!thole_v1_ShardSpec_deletion_protection(thole_v1_Shard_spec(shard->shard)) ||
        thole_v1_Shard_deleting(shard->shard)) {
        return THOLE_OK;
    }
    return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                      "shards/%.*s is protected from deletion; apply %s spec with "
                      "deletion_protection: false first",
                      (int)name.size, name.data, pool.size > 0 ? "its pool's" : "its");
}

enum thole_code registry__op_delete_shard(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_DeleteShard *d = thole_registry_v1_Operation_delete_shard(op);
    upb_StringView name = thole_registry_v1_DeleteShard_name(d);
    struct row *shard = registry__shard_by_name(&t->s, registry_str(name));
    if (shard == NULL) {
        return thole_registry_v1_DeleteShard_allow_missing(d) ? THOLE_OK
                                                              : registry__no_such_shard(t, name);
    }
    enum thole_code code = refuse_zero(t, shard);
    if (code == THOLE_OK) {
        code = registry__check_revision(t, op, shard);
    }
    if (code == THOLE_OK) {
        code = registry__check_etag(t, thole_v1_Shard_etag(shard->shard),
                                    thole_registry_v1_DeleteShard_etag(d));
    }
    if (code == THOLE_OK && !thole_registry_v1_DeleteShard_restore_failed(d)) {
        code = refuse_protected(t, shard);
    }
    if (code == THOLE_OK && thole_registry_v1_DeleteShard_restore_failed(d)) {
        retire(t, shard, thole_v1_Shard_awaits_restore(shard->shard));
    } else if (code == THOLE_OK && thole_v1_Shard_pool(shard->shard).size > 0) {
        code = delete_in_pool(t, shard);
    } else if (code == THOLE_OK) {
        registry__shard_retire(t, shard);
    }
    return code;
}

/* ---- Leadership ------------------------------------------------------------------------------ */

static upb_StringView host_of(const struct txn *t, uint64_t replica_id)
{
    const struct row *row = registry__replica(&t->s, replica_id);
    return row == NULL ? upb_StringView_FromString("?") : thole_v1_Replica_host(row->replica);
}

enum thole_code registry__op_record_leader_move(struct txn *t,
                                                const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_RecordLeaderMove *m =
        thole_registry_v1_Operation_record_leader_move(op);
    upb_StringView by = thole_registry_v1_RecordLeaderMove_by(m);
    upb_StringView why = thole_registry_v1_RecordLeaderMove_why(m);
    struct row *shard = registry__shard(&t->s, thole_registry_v1_RecordLeaderMove_shard_id(m));
    enum thole_code code = registry__check_text(t, "by", by, LIMIT_NAME_BYTES);
    if (code == THOLE_OK) {
        code = registry__check_text(t, "why", why, REGISTRY_TEXT_BYTES);
    }
    if (code != THOLE_OK || shard == NULL) {
        return code; /* a late report about a shard that is gone */
    }
    upb_StringView from = host_of(t, thole_registry_v1_RecordLeaderMove_from_replica(m));
    upb_StringView to = host_of(t, thole_registry_v1_RecordLeaderMove_to_replica(m));
    registry__txn_event(t, shard, "LeaderMoved", "from %.*s to %.*s by %.*s: %.*s", (int)from.size,
                        from.data, (int)to.size, to.data, (int)by.size, by.size > 0 ? by.data : "",
                        (int)why.size, why.size > 0 ? why.data : "");
    return THOLE_OK;
}

/* ---- Observed state -------------------------------------------------------------------------- */

static void merge_leader(thole_v1_ShardStatus *to, const thole_v1_ShardStatus *from,
                         upb_Arena *arena)
{
    uint64_t term = thole_v1_ShardStatus_leader_term(from);
    if (term == 0 || term < thole_v1_ShardStatus_leader_term(to)) {
        return;
    }
    upb_StringView host = thole_v1_ShardStatus_leader_host(from);
    thole_v1_ShardStatus_set_leader_term(to, term);
    thole_v1_ShardStatus_set_leader_replica(to, thole_v1_ShardStatus_leader_replica(from));
    thole_v1_ShardStatus_set_leader_host(to, registry__dup(arena, registry_str(host)));
    if (thole_v1_ShardStatus_voting(from) > 0) {
        thole_v1_ShardStatus_set_voting(to, thole_v1_ShardStatus_voting(from));
    }
}

/* Index of the condition, or the number of conditions if there is none. */
static size_t find_condition(const thole_v1_ShardStatus *status, upb_StringView type)
{
    size_t count = 0;
    const thole_v1_Condition *const *have = thole_v1_ShardStatus_conditions(status, &count);
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(registry_str(thole_v1_Condition_type(have[i])), registry_str(type))) {
            return i;
        }
    }
    return count;
}

/* Conditions are merged by type. The transition time is when the status last changed. */
static void merge_conditions(const struct txn *t, thole_v1_ShardStatus *to,
                             const thole_v1_ShardStatus *from, upb_Arena *arena)
{
    size_t count = 0;
    const thole_v1_Condition *const *given = thole_v1_ShardStatus_conditions(from, &count);
    for (size_t i = 0; i < count; i++) {
        upb_StringView type = thole_v1_Condition_type(given[i]);
        upb_StringView reason = thole_v1_Condition_reason(given[i]);
        upb_StringView message = thole_v1_Condition_message(given[i]);
        bool status = thole_v1_Condition_status(given[i]);
        size_t at = find_condition(to, type);
        size_t have_count = 0;
        thole_v1_Condition **have = thole_v1_ShardStatus_mutable_conditions(to, &have_count);
        bool fresh = at == have_count;
        thole_v1_Condition *c = fresh ? thole_v1_ShardStatus_add_conditions(to, arena) : have[at];
        thole_v1_Condition_set_type(c, registry__dup(arena, registry_str(type)));
        if (fresh || thole_v1_Condition_status(c) != status) {
            thole_v1_Condition_set_transition_time_ms(
                c, thole_registry_v1_Command_time_ms(t->command));
        }
        thole_v1_Condition_set_status(c, status);
        thole_v1_Condition_set_reason(c, registry__dup(arena, registry_str(reason)));
        thole_v1_Condition_set_message(c, registry__dup(arena, registry_str(message)));
    }
    uint64_t generation = thole_v1_ShardStatus_observed_generation(from);
    if (generation > thole_v1_ShardStatus_observed_generation(to)) {
        thole_v1_ShardStatus_set_observed_generation(to, generation);
    }
}

static bool is_known_condition(upb_StringView type)
{
    static const char *const types[] = {"Placed", "Ready", "Degraded", "Balanced"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (slice_equal(registry_str(type), slice_str(types[i]))) {
            return true;
        }
    }
    return false;
}

static enum thole_code check_status(struct txn *t, const thole_v1_ShardStatus *status)
{
    size_t count = 0;
    const thole_v1_Condition *const *given = thole_v1_ShardStatus_conditions(status, &count);
    enum thole_code code = registry__check_text(
        t, "status.leader_host", thole_v1_ShardStatus_leader_host(status), LIMIT_NAME_BYTES);
    if (code == THOLE_OK && count > 8) {
        code = registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                                "status.conditions", "at most 8");
    }
    for (size_t i = 0; code == THOLE_OK && i < count; i++) {
        upb_StringView type = thole_v1_Condition_type(given[i]);
        code = is_known_condition(type)
                   ? registry__check_text(t, "status.conditions",
                                          thole_v1_Condition_message(given[i]), REGISTRY_TEXT_BYTES)
                   : registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                      "status.conditions",
                                      "the types are Placed, Ready, Degraded and Balanced");
        if (code == THOLE_OK) {
            code = registry__check_text(t, "status.conditions", thole_v1_Condition_reason(given[i]),
                                        LIMIT_NAME_BYTES);
        }
    }
    return code;
}

/* NULL: changes of this condition are no events. */
static const char *condition_event(upb_StringView type, bool status)
{
    if (slice_equal(registry_str(type), slice_str("Placed"))) {
        return status ? "ShardPlaced" : "ShardNotPlaced";
    }
    if (slice_equal(registry_str(type), slice_str("Ready"))) {
        return status ? "ShardReady" : "ShardNotReady";
    }
    if (slice_equal(registry_str(type), slice_str("Degraded"))) {
        return status ? "ShardDegraded" : "ShardHealthy";
    }
    return NULL;
}

static void condition_events(struct txn *t, const struct row *before, uint64_t id)
{
    struct row *after = registry__shard(&t->s, id);
    size_t count = 0;
    size_t old_count = 0;
    const thole_v1_Condition *const *now =
        thole_v1_ShardStatus_conditions(status_of(after), &count);
    const thole_v1_Condition *const *old =
        thole_v1_ShardStatus_conditions(status_of(before), &old_count);
    for (size_t i = 0; i < count; i++) {
        upb_StringView type = thole_v1_Condition_type(now[i]);
        size_t at = find_condition(status_of(before), type);
        bool was = at < old_count && thole_v1_Condition_status(old[at]);
        bool status = thole_v1_Condition_status(now[i]);
        upb_StringView message = thole_v1_Condition_message(now[i]);
        if (was == status) {
            continue;
        }
        const char *reason = condition_event(type, status);
        if (reason != NULL) {
            registry__txn_event(t, after, reason, "%.*s", (int)message.size,
                                message.data != NULL ? message.data : "");
        }
    }
}

enum thole_code registry__op_observe_shard(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_ObserveShard *o = thole_registry_v1_Operation_observe_shard(op);
    const thole_v1_ShardStatus *status = thole_registry_v1_ObserveShard_status(o);
    uint64_t id = thole_registry_v1_ObserveShard_shard_id(o);
    struct row *shard = registry__shard(&t->s, id);
    if (shard == NULL && id < t->s.next_shard_id) {
        return THOLE_OK; /* a late report about a shard that is gone */
    }
    if (shard == NULL) {
        return registry__refuse(t, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD, "shard_id",
                                "no shard has this id");
    }
    enum thole_code code = status == NULL ? THOLE_OK : check_status(t, status);
    if (code == THOLE_OK) {
        code = registry__check_revision(t, op, shard);
    }
    if (code != THOLE_OK || status == NULL) {
        return code;
    }
    registry__txn_show(t, shard);
    struct row *row = registry__txn_edit(t, shard);
    thole_v1_ShardStatus *to = thole_v1_Shard_mutable_status(row->shard, row->arena);
    bool formed = !thole_v1_ShardStatus_formed(to) && thole_v1_ShardStatus_formed(status);
    merge_leader(to, status, row->arena);
    merge_conditions(t, to, status, row->arena);
    thole_v1_ShardStatus_set_formed(to, formed || thole_v1_ShardStatus_formed(to));
    if (formed) {
        thole_v1_Shard_set_awaits_restore(row->shard, false);
    }
    if (registry__message_equal(shard->shard, row->shard, &thole_v1_Shard_msginit, t->arena)) {
        return THOLE_OK;
    }
    registry__txn_put(t, row);
    if (formed) {
        registry__txn_event(t, registry__shard(&t->s, id), "ShardFormed", "%s", "");
    }
    condition_events(t, shard, id);
    return THOLE_OK;
}
