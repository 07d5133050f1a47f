/* Moves of one replica to another host, as rows. The command that starts the operation places the
 * new replica and marks the old one. Placement and membership do the rest: a marked replica counts
 * as one on a draining host, and a joint change gives its vote to the new one.
 *
 * Invariants: at most one move of a shard is under way; `moving_by` of a replica that is desired
 * RUN names an operation under way; a move that ends without success marks the new replica REMOVE,
 * unless the old one leaves. */
#include "registry/registry_internal.h"

#include <inttypes.h>
#include <stdio.h>

static enum thole_code find_shard(struct txn *t, upb_StringView name, struct row **ret)
{
    struct row *shard = registry__shard_by_name(&t->s, registry_str(name));
    if (shard == NULL) {
        return registry__no_such_shard(t, name);
    }
    *ret = shard;
    return THOLE_OK;
}

static bool runs(const struct row *replica)
{
    return replica != NULL &&
           thole_v1_Replica_desired(replica->replica) == thole_v1_REPLICA_DESIRED_RUN;
}

static struct row *open_move(const struct state *s, uint64_t shard_id)
{
    struct row *row;
    uint64_t after = 0;
    while ((row = registry__operation_open(s, thole_v1_OPERATION_KIND_MOVE, after)) != NULL &&
           thole_v1_Operation_shard_id(row->operation) != shard_id) {
        after = thole_v1_Operation_id(row->operation);
    }
    return row;
}

static enum thole_code check_shard(struct txn *t, const struct row *shard)
{
    if (thole_v1_Shard_id(shard->shard) == REGISTRY_SHARD_ID) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "every host keeps its replica of shard zero");
    }
    if (thole_v1_Shard_deleting(shard->shard)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the shard is being deleted");
    }
    if (!thole_v1_ShardStatus_formed(thole_v1_Shard_status(shard->shard))) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                          "the shard has not formed yet");
    }
    return registry__check_decided(t, shard);
}

static enum thole_code check_hosts(struct txn *t, const struct row *shard, const struct row *from,
                                   const struct row *to, struct row **ret_replica)
{
    upb_StringView name = thole_v1_Host_name(from->host);
    struct row *old = registry__occupant(&t->s, thole_v1_Shard_id(shard->shard), &from->host_id);
    if (!runs(old)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NO_SUCH_REPLICA,
                          "host %.*s has no replica of this shard that could move", (int)name.size,
                          name.data);
    }
    if (thole_v1_Replica_owner(old->replica) == thole_v1_REPLICA_OWNER_USER) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "replica %" PRIu64 " was created by a user, who can create another one "
                          "and delete this",
                          thole_v1_Replica_id(old->replica));
    }
    name = thole_v1_Host_name(to->host);
    if (!registry__host_has_state(to, thole_v1_HOST_STATE_ACTIVE)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "host %.*s takes no new replicas", (int)name.size, name.data);
    }
    *ret_replica = old;
    return registry__check_place(t, shard, to);
}

/* Returns the id of the new replica. */
static uint64_t add_new(struct txn *t, const struct row *shard, const struct row *old,
                        const struct row *to, uint64_t operation)
{
    upb_StringView from = thole_v1_Replica_host(old->replica);
    upb_StringView name = thole_v1_Host_name(to->host);
    struct row *row = registry__replica_add(t, shard, to, thole_v1_Replica_role(old->replica),
                                            thole_v1_REPLICA_OWNER_PLACEMENT, false);
    struct row *edit = registry__txn_edit(t, row);
    uint64_t id = thole_v1_Replica_id(edit->replica);
    thole_v1_Replica_set_moved_by(edit->replica, operation);
    registry__txn_put(t, edit);
    registry__txn_event(t, registry__replica(&t->s, id), "ReplicaPlaced",
                        "on %.*s: operations/%" PRIu64 " moves it from %.*s", (int)name.size,
                        name.data, operation, (int)from.size, from.data);
    return id;
}

static void mark_old(struct txn *t, const struct row *old, uint64_t operation)
{
    struct row *edit = registry__txn_edit(t, old);
    thole_v1_Replica_set_moving_by(edit->replica, operation);
    registry__txn_put(t, edit);
}

static void add_move(struct txn *t, const struct row *shard, const struct row *old,
                     const struct row *to)
{
    uint64_t shard_id = thole_v1_Shard_id(shard->shard);
    struct row *row = registry__operation_new(t, thole_v1_OPERATION_KIND_MOVE, shard);
    thole_v1_Operation *o = row->operation;
    uint64_t id = thole_v1_Operation_id(o);
    thole_v1_Operation_set_shard_id(o, shard_id);
    upb_StringView from = thole_v1_Replica_host(old->replica);
    thole_v1_Operation_set_from(o, registry__dup(row->arena, registry_str(from)));
    upb_StringView name = thole_v1_Host_name(to->host);
    thole_v1_Operation_set_to(o, registry__dup(row->arena, registry_str(name)));
    thole_v1_Operation_set_from_replica(o, thole_v1_Replica_id(old->replica));
    thole_v1_Operation_set_to_replica(o, add_new(t, shard, old, to, id));
    mark_old(t, old, id);
    registry__txn_touch_shard(t, shard_id);
    registry__operation_add(t, row);
}

enum thole_code registry__move_start(struct txn *t, const thole_registry_v1_StartOperation *given)
{
    struct row *shard = NULL;
    struct row *from = NULL;
    struct row *to = NULL;
    struct row *old = NULL;
    enum thole_code code = find_shard(t, thole_registry_v1_StartOperation_shard(given), &shard);
    if (code == THOLE_OK) {
        code = registry__find_host(t, thole_registry_v1_StartOperation_from(given), &from);
    }
    if (code == THOLE_OK) {
        code = registry__find_host(t, thole_registry_v1_StartOperation_to(given), &to);
    }
    if (code != THOLE_OK) {
        return code;
    }
    ASSERT(shard != NULL && from != NULL && to != NULL);
    struct row *other = open_move(&t->s, thole_v1_Shard_id(shard->shard));
    if (other != NULL) {
        const thole_v1_Operation *o = other->operation;
        registry__txn_show(t, other);
        if (slice_equal(registry_str(thole_v1_Operation_from(o)),
                        registry_str(thole_v1_Host_name(from->host))) &&
            slice_equal(registry_str(thole_v1_Operation_to(o)),
                        registry_str(thole_v1_Host_name(to->host)))) {
            return THOLE_OK;
        }
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_EXISTS,
                          "operations/%" PRIu64 " moves a replica of this shard",
                          thole_v1_Operation_id(o));
    }
    code = check_shard(t, shard);
    if (code == THOLE_OK) {
        code = check_hosts(t, shard, from, to, &old);
    }
    if (code == THOLE_OK) {
        ASSERT(old != NULL);
        add_move(t, shard, old, to);
    }
    return code;
}

enum thole_code registry__move_check_cancel(struct txn *t, const thole_v1_Operation *o)
{
    if (!runs(registry__replica(&t->s, thole_v1_Operation_from_replica(o)))) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the replica on %.*s is being removed, which cannot be taken back",
                          (int)thole_v1_Operation_from(o).size, thole_v1_Operation_from(o).data);
    }
    return THOLE_OK;
}

void registry__move_end(struct txn *t, const thole_v1_Operation *o)
{
    bool done = thole_v1_Operation_state(o) == thole_v1_OPERATION_STATE_DONE;
    struct row *old = registry__replica(&t->s, thole_v1_Operation_from_replica(o));
    bool stays = runs(old);
    if (stays) {
        mark_old(t, old, 0);
    }
    struct row *row = registry__replica(&t->s, thole_v1_Operation_to_replica(o));
    if (row != NULL && !done) {
        uint64_t id = thole_v1_Replica_id(row->replica);
        struct row *edit = registry__txn_edit(t, row);
        bool leaves = stays && runs(row);
        thole_v1_Replica_set_moved_by(edit->replica, 0);
        if (leaves) {
            thole_v1_Replica_set_desired(edit->replica, thole_v1_REPLICA_DESIRED_REMOVE);
        }
        registry__txn_put(t, edit);
        if (leaves) {
            registry__txn_event(t, registry__replica(&t->s, id), "ReplicaRemoving",
                                "operations/%" PRIu64 " has ended without it",
                                thole_v1_Operation_id(o));
        }
    }
    if (registry__shard(&t->s, thole_v1_Operation_shard_id(o)) != NULL) {
        registry__txn_touch_shard(t, thole_v1_Operation_shard_id(o));
    }
}

enum thole_code registry__transfer_record(struct txn *t,
                                          const thole_registry_v1_StartOperation *given)
{
    struct row *shard = NULL;
    upb_StringView failure = thole_registry_v1_StartOperation_failure(given);
    upb_StringView from = thole_registry_v1_StartOperation_from(given);
    upb_StringView to = thole_registry_v1_StartOperation_to(given);
    enum thole_code code = find_shard(t, thole_registry_v1_StartOperation_shard(given), &shard);
    if (code == THOLE_OK) {
        code = registry__check_text(t, "failure", failure, REGISTRY_TEXT_BYTES);
    }
    if (code == THOLE_OK) {
        code = registry__check_text(t, "from", from, LIMIT_NAME_BYTES);
    }
    if (code == THOLE_OK) {
        code = registry__check_text(t, "to", to, LIMIT_NAME_BYTES);
    }
    if (code != THOLE_OK) {
        return code;
    }
    ASSERT(shard != NULL);
    struct row *row = registry__operation_new(t, thole_v1_OPERATION_KIND_TRANSFER_LEADER, shard);
    thole_v1_Operation *o = row->operation;
    thole_v1_Operation_set_shard_id(o, thole_v1_Shard_id(shard->shard));
    thole_v1_Operation_set_from(o, registry__dup(row->arena, registry_str(from)));
    thole_v1_Operation_set_to(o, registry__dup(row->arena, registry_str(to)));
    if (failure.size > 0) {
        thole_v1_Operation_set_state(o, thole_v1_OPERATION_STATE_FAILED);
        thole_v1_Operation_set_message(o, registry__dup(row->arena, registry_str(failure)));
    }
    registry__operation_add(t, row);
    if (failure.size == 0) {
        struct row *edit = registry__txn_edit(t, shard);
        thole_v1_ShardStatus_set_leader_held(
            thole_v1_Shard_mutable_status(edit->shard, edit->arena), t->revision);
        registry__txn_put(t, edit);
        upb_StringView actor = thole_registry_v1_Command_actor(t->command);
        registry__txn_event(t, registry__shard(&t->s, thole_v1_Operation_shard_id(o)),
                            "LeaderMoved", "from %.*s to %.*s by %.*s: operations/%" PRIu64,
                            (int)from.size, from.size > 0 ? from.data : "", (int)to.size,
                            to.size > 0 ? to.data : "", (int)actor.size,
                            actor.size > 0 ? actor.data : "", thole_v1_Operation_id(o));
    }
    return THOLE_OK;
}
