/* Operations on replicas: placement, roles, removal, and the removal handshake.
 *
 *   desired RUN      nothing yet -> JOINING <-> CATCHING_UP <-> RUNNING <-> FAILED
 *   desired REMOVE   any of these -> OUT (membership) -> GONE (its host): the row is dropped
 *                    any of these -> GONE, when the whole shard is being deleted
 * A replica whose host was removed is dropped as soon as it is OUT: that host never reports. */
#include "base/canary.h"
#include "proto/names.h"
#include "registry/placement/placement.h"
#include "registry/registry_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool is_formed(const struct row *shard)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(shard->shard);
    return status != NULL && thole_v1_ShardStatus_formed(status);
}

struct row *registry__replica_add(struct txn *t, const struct row *shard, const struct row *host,
                                  int32_t role, int32_t owner, bool initial)
{
    struct row *row = registry__row_new(&t->scope, ROW_REPLICA);
    upb_Arena *arena = row->arena;
    thole_v1_Replica *r = row->replica;
    uint64_t id = t->s.next_replica_id++;
    ASSERT(!uuid_is_nil(&host->host_id) && !thole_v1_Shard_deleting(shard->shard));
    row->host_id = host->host_id;
    thole_v1_Replica_set_id(r, id);
    thole_v1_Replica_set_shard_id(r, thole_v1_Shard_id(shard->shard));
    thole_v1_Replica_set_shard(
        r, registry__dup(arena, registry_str(thole_v1_Shard_name(shard->shard))));
    thole_v1_Replica_set_host_id(r,
                                 registry__dup(arena, registry_str(thole_v1_Host_id(host->host))));
    thole_v1_Replica_set_host(r,
                              registry__dup(arena, registry_str(thole_v1_Host_name(host->host))));
    thole_v1_Replica_set_role(r, role);
    thole_v1_Replica_set_owner(r, owner);
    thole_v1_Replica_set_desired(r, thole_v1_REPLICA_DESIRED_RUN);
    thole_v1_Replica_set_create_time_ms(r, thole_registry_v1_Command_time_ms(t->command));
    thole_v1_Replica_set_initial(r, initial);
    registry__txn_put(t, row);
    return registry__replica(&t->s, id);
}

void registry__replica_drop(struct txn *t, struct row *replica, const char *why)
{
    uint64_t shard_id = thole_v1_Replica_shard_id(replica->replica);
    registry__txn_event(t, replica, "ReplicaGone", "%s", why);
    registry__txn_drop(t, replica);
    t->s.next_replica_id -= CANARY(replica_id_reused) &&
                            thole_v1_Replica_id(replica->replica) + 1 == t->s.next_replica_id;
    registry__shard_settle(t, shard_id);
    registry__host_settle(t, &replica->host_id);
}

/* ---- Creation -------------------------------------------------------------------------------- */

enum thole_code registry__check_place(struct txn *t, const struct row *shard,
                                      const struct row *host)
{
    uint64_t shard_id = thole_v1_Shard_id(shard->shard);
    upb_StringView name = thole_v1_Host_name(host->host);
    const struct row *there = registry__occupant(&t->s, shard_id, &host->host_id);
    if (thole_v1_Shard_awaits_restore(shard->shard)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                          "the shard awaits its data: restore a snapshot, or delete the shard");
    }
    if (there != NULL && !CANARY(two_replicas)) {
        return THOLE_FAIL(&t->st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                          "host %.*s already has replica %" PRIu64 " of this shard", (int)name.size,
                          name.data, thole_v1_Replica_id(there->replica));
    }
    if (registry__count_of_shard(&t->s, shard_id) >= LIMIT_MEMBERS) {
        return THOLE_FAIL(&t->st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                          "the shard has %d replicas, which is the limit", LIMIT_MEMBERS);
    }
    return THOLE_OK;
}

static enum thole_code place_one(struct txn *t, const struct row *shard,
                                 const thole_registry_v1_Placed *placed, bool first,
                                 const char *reason)
{
    int32_t role = thole_registry_v1_Placed_role(placed);
    struct uuid id;
    struct row *host = NULL;
    struct registry_violation v;
    enum thole_code code = registry__checked(t, registry_check_role(role, &v), &v);
    if (code != THOLE_OK) {
        return code;
    }
    if (uuid_parse(registry_str(thole_registry_v1_Placed_host_id(placed)), &id)) {
        host = registry__host(&t->s, &id);
    }
    if (host == NULL || registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
        return registry__refuse(t, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST, "replicas.host_id",
                                "no host has this id");
    }
    bool zero = thole_v1_Shard_id(shard->shard) == REGISTRY_SHARD_ID;
    if (!zero && !registry__host_has_state(host, thole_v1_HOST_STATE_ACTIVE)) {
        upb_StringView name = thole_v1_Host_name(host->host);
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "host %.*s takes no new replicas", (int)name.size, name.data);
    }
    code = registry__check_place(t, shard, host);
    if (code != THOLE_OK) {
        return code;
    }
    bool initial = first && role == thole_v1_REPLICA_ROLE_VOTER;
    const struct row *row =
        registry__replica_add(t, shard, host, role, thole_v1_REPLICA_OWNER_PLACEMENT, initial);
    upb_StringView name = thole_v1_Host_name(host->host);
    registry__txn_event(t, row, "ReplicaPlaced", "%s on %.*s: %s", proto_replica_role(role),
                        (int)name.size, name.data, reason);
    return THOLE_OK;
}

/* All voters of the first decision, and only they: each of them bootstraps with exactly this list.
 */
static enum thole_code set_initial(struct txn *t, uint64_t shard_id)
{
    struct row *shard = registry__txn_edit(t, registry__shard(&t->s, shard_id));
    size_t count = 0;
    uint64_t after = 0;
    const struct row *row;
    while ((row = registry__next_of_shard(&t->s, shard_id, after)) != NULL) {
        after = thole_v1_Replica_id(row->replica);
        if (!thole_v1_Replica_initial(row->replica)) {
            continue;
        }
        thole_v1_InitialReplica *initial = thole_v1_Shard_add_initial(shard->shard, shard->arena);
        upb_StringView host = thole_v1_Replica_host_id(row->replica);
        thole_v1_InitialReplica_set_replica_id(initial, after);
        thole_v1_InitialReplica_set_host_id(initial,
                                            registry__dup(shard->arena, registry_str(host)));
        count++;
    }
    registry__txn_put(t, shard);
    if (count == 0) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "replicas",
                                "the first ones of a shard need a voter");
    }
    return THOLE_OK;
}

static enum thole_code refuse_deleting(struct txn *t, const struct row *shard)
{
    if (thole_v1_Shard_deleting(shard->shard)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the shard is being deleted");
    }
    return THOLE_OK;
}

enum thole_code registry__op_place_replicas(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_PlaceReplicas *p = thole_registry_v1_Operation_place_replicas(op);
    uint64_t id = thole_registry_v1_PlaceReplicas_shard_id(p);
    size_t count = 0;
    const thole_registry_v1_Placed *const *placed =
        thole_registry_v1_PlaceReplicas_replicas(p, &count);
    const struct row *shard = registry__shard(&t->s, id);
    if (shard == NULL) {
        return registry__refuse(t, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD, "shard_id",
                                "no shard has this id");
    }
    if (count == 0) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "replicas",
                                "at least one is needed");
    }
    enum thole_code code = refuse_deleting(t, shard);
    if (code == THOLE_OK) {
        code = registry__check_revision(t, op, shard);
    }
    if (code == THOLE_OK) {
        code = registry__check_decided(t, shard);
    }
    char reason[REGISTRY_TEXT_BYTES / 2];
    upb_StringView why = thole_registry_v1_PlaceReplicas_reason(p);
    snprintf(reason, sizeof reason, "%.*s", (int)(why.size < 1024 ? why.size : 1024),
             why.data != NULL ? why.data : "");
    size_t initial_count = 0;
    thole_v1_Shard_initial(shard->shard, &initial_count);
    for (size_t i = 0; code == THOLE_OK && i < count; i++) {
        code = place_one(t, shard, placed[i], initial_count == 0, reason);
    }
    if (code == THOLE_OK && initial_count == 0) {
        code = set_initial(t, id);
    } else if (code == THOLE_OK) {
        registry__txn_touch_shard(t, id);
    }
    return code;
}

enum thole_code registry__op_create_replica(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_CreateReplica *c = thole_registry_v1_Operation_create_replica(op);
    int32_t role = thole_registry_v1_CreateReplica_role(c);
    upb_StringView shard_name = thole_registry_v1_CreateReplica_shard(c);
    const struct row *shard = registry__shard_by_name(&t->s, registry_str(shard_name));
    struct row *host = NULL;
    struct registry_violation v;
    if (shard == NULL) {
        return registry__no_such_shard(t, shard_name);
    }
    enum thole_code code = registry__find_host(t, thole_registry_v1_CreateReplica_host(c), &host);
    if (code == THOLE_OK) {
        code = registry__checked(t, registry_check_user_role(role, &v), &v);
    }
    if (code == THOLE_OK) {
        code = refuse_deleting(t, shard);
    }
    size_t initial_count = 0;
    thole_v1_Shard_initial(shard->shard, &initial_count);
    if (code == THOLE_OK && thole_v1_Shard_id(shard->shard) == REGISTRY_SHARD_ID) {
        code = THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "every host has a replica of shard zero already");
    }
    if (code == THOLE_OK && initial_count == 0) {
        code = THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                          "the shard's first replicas have not been placed yet");
    }
    if (code == THOLE_OK && (registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED) ||
                             registry__host_has_state(host, thole_v1_HOST_STATE_DRAINING))) {
        code = THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "the host is draining or removed");
    }
    if (code == THOLE_OK) {
        code = registry__check_place(t, shard, host);
    }
    if (code != THOLE_OK) {
        return code;
    }
    uint64_t shard_id = thole_v1_Shard_id(shard->shard);
    const struct row *row =
        registry__replica_add(t, shard, host, role, thole_v1_REPLICA_OWNER_USER, false);
    upb_StringView name = thole_v1_Host_name(host->host);
    registry__txn_event(t, row, "ReplicaCreated", "%s on %.*s", proto_replica_role(role),
                        (int)name.size, name.data);
    registry__txn_touch_shard(t, shard_id);
    return THOLE_OK;
}

/* ---- Role and removal ------------------------------------------------------------------------ */

/* The guards of every change that may take a vote away. */
static enum thole_code check_editable(struct txn *t, const struct row *shard,
                                      const struct row *replica, bool loses_vote)
{
    uint64_t id = thole_v1_Replica_id(replica->replica);
    uint64_t after = 0;
    const struct row *row;
    if (thole_v1_Replica_initial(replica->replica) && !is_formed(shard)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                          "the shard has not formed yet: its first members cannot be edited");
    }
    while (loses_vote &&
           (row = registry__next_of_shard(&t->s, thole_v1_Shard_id(shard->shard), after)) != NULL) {
        const thole_v1_Replica *r = row->replica;
        after = thole_v1_Replica_id(r);
        if (after != id && thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_RUN &&
            thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_VOTER) {
            loses_vote = false;
        }
    }
    if (loses_vote) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "this is the shard's last voter");
    }
    return THOLE_OK;
}

static enum thole_code find_replica(struct txn *t, uint64_t id,
                                    const thole_registry_v1_Operation *op, struct row **ret,
                                    struct row **ret_shard)
{
    struct row *row = registry__replica(&t->s, id);
    if (row == NULL) {
        return registry__no_such_replica(t, id);
    }
    *ret = row;
    *ret_shard = registry__shard(&t->s, thole_v1_Replica_shard_id(row->replica));
    enum thole_code code = registry__check_revision(t, op, row);
    return code != THOLE_OK ? code : registry__check_decided(t, *ret_shard);
}

enum thole_code registry__op_remove_replica(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_RemoveReplica *o = thole_registry_v1_Operation_remove_replica(op);
    uint64_t id = thole_registry_v1_RemoveReplica_replica_id(o);
    struct row *row = NULL;
    struct row *shard = NULL;
    enum thole_code code = find_replica(t, id, op, &row, &shard);
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, row);
    if (thole_v1_Replica_desired(row->replica) == thole_v1_REPLICA_DESIRED_REMOVE) {
        return THOLE_OK;
    }
    uint64_t shard_id = thole_v1_Shard_id(shard->shard);
    const struct row *host = registry__host(&t->s, &row->host_id);
    if (shard_id == REGISTRY_SHARD_ID &&
        !registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED) &&
        thole_v1_Replica_phase(row->replica) != thole_v1_REPLICA_PHASE_FAILED) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "every host keeps a replica of shard zero until it is removed");
    }
    bool voter = thole_v1_Replica_role(row->replica) == thole_v1_REPLICA_ROLE_VOTER;
    code = check_editable(t, shard, row, voter);
    if (code != THOLE_OK) {
        return code;
    }
    struct row *edit = registry__txn_edit(t, row);
    thole_v1_Replica_set_desired(edit->replica, thole_v1_REPLICA_DESIRED_REMOVE);
    registry__txn_put(t, edit);
    upb_StringView why = thole_registry_v1_RemoveReplica_reason(o);
    registry__txn_event(t, registry__replica(&t->s, id), "ReplicaRemoving", "%.*s",
                        (int)(why.size < 1024 ? why.size : 1024), why.data != NULL ? why.data : "");
    registry__txn_touch_shard(t, shard_id);
    return THOLE_OK;
}

enum thole_code registry__op_set_role(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_SetRole *o = thole_registry_v1_Operation_set_role(op);
    uint64_t id = thole_registry_v1_SetRole_replica_id(o);
    int32_t role = thole_registry_v1_SetRole_role(o);
    struct row *row = NULL;
    struct row *shard = NULL;
    struct registry_violation v;
    enum thole_code code = registry__checked(t, registry_check_role(role, &v), &v);
    if (code == THOLE_OK) {
        code = find_replica(t, id, op, &row, &shard);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (thole_v1_Replica_desired(row->replica) != thole_v1_REPLICA_DESIRED_RUN) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the replica is being removed");
    }
    registry__txn_show(t, row);
    if (thole_v1_Replica_role(row->replica) == role) {
        return THOLE_OK;
    }
    if (role == thole_v1_REPLICA_ROLE_WITNESS ||
        thole_v1_Replica_role(row->replica) == thole_v1_REPLICA_ROLE_WITNESS) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "a witness is created and removed as such: it has no data");
    }
    code = check_editable(t, shard, row, role != thole_v1_REPLICA_ROLE_VOTER);
    if (code != THOLE_OK) {
        return code;
    }
    uint64_t shard_id = thole_v1_Shard_id(shard->shard);
    struct row *edit = registry__txn_edit(t, row);
    thole_v1_Replica_set_role(edit->replica, role);
    if (thole_v1_Replica_phase(edit->replica) == thole_v1_REPLICA_PHASE_RUNNING) {
        /* Not in its wanted role until its host says so. */
        thole_v1_Replica_set_phase(edit->replica, thole_v1_REPLICA_PHASE_CATCHING_UP);
    }
    registry__txn_put(t, edit);
    upb_StringView why = thole_registry_v1_SetRole_reason(o);
    registry__txn_event(t, registry__replica(&t->s, id), "ReplicaRoleSet", "%s: %.*s",
                        proto_replica_role(role), (int)(why.size < 1024 ? why.size : 1024),
                        why.data != NULL ? why.data : "");
    registry__txn_touch_shard(t, shard_id);
    return THOLE_OK;
}

/* ---- Observed state -------------------------------------------------------------------------- */

static enum thole_code check_reporter(struct txn *t, const thole_registry_v1_ObserveReplica *o,
                                      const struct row *replica)
{
    upb_StringView text = thole_registry_v1_ObserveReplica_reporter_host_id(o);
    struct uuid id;
    if (text.size == 0) {
        return THOLE_OK;
    }
    const struct row *host =
        uuid_parse(registry_str(text), &id) ? registry__host(&t->s, &id) : NULL;
    if (host == NULL) {
        return registry__refuse(t, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST, "reporter_host_id",
                                "no host has this id");
    }
    bool own = uuid_equal(&id, &replica->host_id);
    if (!own && thole_registry_v1_ObserveReplica_phase(o) != thole_v1_REPLICA_PHASE_OUT) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_HOST,
                          "only the replica's own host can report this phase");
    }
    uint64_t newest = thole_v1_HostStatus_incarnation(thole_v1_Host_status(host->host));
    if (thole_registry_v1_ObserveReplica_reporter_incarnation(o) < newest) {
        return THOLE_FAIL(&t->st, THOLE_ABORTED, THOLE_REASON_STALE_INCARNATION,
                          "incarnation %" PRIu64 " of the reporter is known", newest);
    }
    return THOLE_OK;
}

static enum thole_code observe_gone(struct txn *t, struct row *row)
{
    const struct row *shard = registry__shard(&t->s, thole_v1_Replica_shard_id(row->replica));
    bool removed = thole_v1_Replica_desired(row->replica) == thole_v1_REPLICA_DESIRED_REMOVE;
    bool out = thole_v1_Replica_phase(row->replica) == thole_v1_REPLICA_PHASE_OUT;
    if (!removed || (!out && !thole_v1_Shard_deleting(shard->shard))) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "replica %" PRIu64 " is still a member: it cannot be gone",
                          thole_v1_Replica_id(row->replica));
    }
    registry__replica_drop(t, row, "its data is deleted");
    return THOLE_OK;
}

static enum thole_code observe_out(struct txn *t, struct row *row, uint64_t index)
{
    uint64_t id = thole_v1_Replica_id(row->replica);
    if (thole_v1_Replica_desired(row->replica) != thole_v1_REPLICA_DESIRED_REMOVE) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "replica %" PRIu64 " should run: it cannot be out", id);
    }
    if (thole_v1_Replica_phase(row->replica) == thole_v1_REPLICA_PHASE_OUT) {
        return THOLE_OK;
    }
    struct row *edit = registry__txn_edit(t, row);
    thole_v1_Replica_set_phase(edit->replica, thole_v1_REPLICA_PHASE_OUT);
    thole_v1_Replica_set_out_index(edit->replica, index);
    registry__clear(edit->replica, &thole_v1_Replica_msginit, 11 /* message */);
    registry__txn_put(t, edit);
    row = registry__replica(&t->s, id);
    registry__txn_event(t, row, "ReplicaOut", "as of index %" PRIu64, index);
    if (registry__host_has_state(registry__host(&t->s, &row->host_id),
                                 thole_v1_HOST_STATE_REMOVED)) {
        registry__replica_drop(t, row, "its host was removed");
    }
    return THOLE_OK;
}

/* A failure counts as long as it is less than this older than the next one. */
#define FAILURES_APART_MS_MAX PLACEMENT_FAILURE_RECENT_MS
#define FAILURE_HOSTS_MAX 16

/* Drop the failures that no longer count. Returns the one of this host, or NULL. */
static thole_v1_ReplicaFailure *recent_failure(thole_v1_ShardStatus *status, upb_StringView host_id,
                                               int64_t now_ms, upb_Arena *arena)
{
    size_t count = 0;
    size_t kept = 0;
    thole_v1_ReplicaFailure *own = NULL;
    thole_v1_ReplicaFailure **all = thole_v1_ShardStatus_mutable_failures(status, &count);
    for (size_t i = 0; i < count; i++) {
        if (registry__ms_between(thole_v1_ReplicaFailure_time_ms(all[i]), now_ms) <
            FAILURES_APART_MS_MAX) {
            bool is_own = slice_equal(registry_str(thole_v1_ReplicaFailure_host_id(all[i])),
                                      registry_str(host_id));
            own = is_own ? all[i] : own;
            all[kept++] = all[i];
        }
    }
    if (own == NULL && kept == FAILURE_HOSTS_MAX) { /* the one that was noted first */
        memmove(all, all + 1, (kept - 1) * sizeof(thole_v1_ReplicaFailure *));
        kept--;
    }
    if (count > 0) {
        thole_v1_ShardStatus_resize_failures(status, kept, arena);
    }
    return own;
}

/* The controller that rebuilds failed replicas needs the number of attempts. */
static void note_failure(struct txn *t, const struct row *replica, upb_StringView message)
{
    const thole_v1_Replica *r = replica->replica;
    struct row *shard = registry__txn_edit(t, registry__shard(&t->s, thole_v1_Replica_shard_id(r)));
    upb_Arena *arena = shard->arena;
    int64_t now_ms = thole_registry_v1_Command_time_ms(t->command);
    upb_StringView id = thole_v1_Replica_host_id(r);
    upb_StringView host = thole_v1_Replica_host(r);
    thole_v1_ShardStatus *status = thole_v1_Shard_mutable_status(shard->shard, arena);
    thole_v1_ReplicaFailure *f = recent_failure(status, id, now_ms, arena);
    if (f == NULL) {
        f = thole_v1_ShardStatus_add_failures(status, arena);
        thole_v1_ReplicaFailure_set_host_id(f, registry__dup(arena, registry_str(id)));
    }
    thole_v1_ReplicaFailure_set_host(f, registry__dup(arena, registry_str(host)));
    thole_v1_ReplicaFailure_set_count(f, thole_v1_ReplicaFailure_count(f) + 1);
    thole_v1_ReplicaFailure_set_time_ms(f, now_ms);
    thole_v1_ReplicaFailure_set_message(f, registry__dup(arena, registry_str(message)));
    registry__txn_put(t, shard);
}

static void observe_running(struct txn *t, struct row *row, int32_t phase, upb_StringView message)
{
    const thole_v1_Replica *r = row->replica;
    int32_t before = thole_v1_Replica_phase(r);
    if (before == thole_v1_REPLICA_PHASE_OUT ||
        (before == phase &&
         slice_equal(registry_str(thole_v1_Replica_message(r)), registry_str(message)))) {
        return; /* a late report, or no change */
    }
    uint64_t id = thole_v1_Replica_id(r);
    struct row *edit = registry__txn_edit(t, row);
    thole_v1_Replica_set_phase(edit->replica, phase);
    thole_v1_Replica_set_message(edit->replica, registry__dup(edit->arena, registry_str(message)));
    registry__txn_put(t, edit);
    if (before != phase && phase == thole_v1_REPLICA_PHASE_RUNNING) {
        registry__txn_event(t, registry__replica(&t->s, id), "ReplicaRunning", "%s", "");
    } else if (before != phase && phase == thole_v1_REPLICA_PHASE_FAILED) {
        registry__txn_event(t, registry__replica(&t->s, id), "ReplicaFailed", "%.*s",
                            (int)message.size, message.data != NULL ? message.data : "");
        note_failure(t, registry__replica(&t->s, id), message);
        registry__host_failed(t, registry__replica(&t->s, id), message);
    }
}

void registry__replica_failed(struct txn *t, struct row *replica, upb_StringView message)
{
    observe_running(t, replica, thole_v1_REPLICA_PHASE_FAILED, message);
}

enum thole_code registry__op_observe_replica(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_ObserveReplica *o = thole_registry_v1_Operation_observe_replica(op);
    uint64_t id = thole_registry_v1_ObserveReplica_replica_id(o);
    int32_t phase = thole_registry_v1_ObserveReplica_phase(o);
    upb_StringView message = thole_registry_v1_ObserveReplica_message(o);
    struct row *row = registry__replica(&t->s, id);
    enum thole_code code = registry__check_text(t, "message", message, REGISTRY_TEXT_BYTES);
    if (code != THOLE_OK) {
        return code;
    }
    if (phase <= thole_v1_REPLICA_PHASE_UNSPECIFIED || phase > thole_v1_REPLICA_PHASE_FAILED) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "phase",
                                "%d is no phase", (int)phase);
    }
    if (row == NULL && id < t->s.next_replica_id) {
        return THOLE_OK; /* a late report about a replica that is gone */
    }
    if (row == NULL) {
        return registry__no_such_replica(t, id);
    }
    code = registry__check_revision(t, op, row);
    if (code == THOLE_OK) {
        code = check_reporter(t, o, row);
    }
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, row);
    if (phase == thole_v1_REPLICA_PHASE_GONE) {
        return observe_gone(t, row);
    }
    if (phase == thole_v1_REPLICA_PHASE_OUT) {
        return observe_out(t, row, thole_registry_v1_ObserveReplica_out_index(o));
    }
    observe_running(t, row, phase, message);
    return THOLE_OK;
}
