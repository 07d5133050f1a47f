/* Commands after a group was forced (raft_force): entries that the survivor did not have are lost.
 */
#include "registry/registry_internal.h"

#include <inttypes.h>

enum thole_code registry__op_repair_zero(struct txn *t, const thole_registry_v1_Operation *op)
{
    uint64_t epoch =
        thole_registry_v1_RepairZero_epoch(thole_registry_v1_Operation_repair_zero(op));
    if (epoch <= t->s.repair_epoch) {
        return THOLE_OK;
    }
    t->s.repair_epoch = epoch;
    if (t->s.lost_to == 0) {
        t->s.lost_from = t->s.next_replica_id;
    }
    t->s.next_replica_id += REGISTRY_LOST_IDS_MAX;
    t->s.next_shard_id += REGISTRY_LOST_IDS_MAX;
    t->s.next_operation_id += REGISTRY_LOST_IDS_MAX;
    /* Etags may name lost revisions, and groups refuse membership changes that are older than
     * their last one: skip those revisions too. */
    t->revision += REGISTRY_LOST_IDS_MAX;
    t->s.lost_to = t->s.next_replica_id;
    registry__txn_event(t, registry__shard(&t->s, REGISTRY_SHARD_ID), "ShardZeroRepaired",
                        "epoch %" PRIu64 "; what came after revision %" PRIu64 " is lost", epoch,
                        t->s.revision);
    return THOLE_OK;
}

/* The other replicas are no longer members, whatever their rows say, and their ids can never be
 * members again. */
enum thole_code registry__op_retire_replica(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_RetireReplica *o = thole_registry_v1_Operation_retire_replica(op);
    uint64_t id = thole_registry_v1_RetireReplica_replica_id(o);
    struct row *row = registry__replica(&t->s, id);
    if (row == NULL && id < t->s.next_replica_id) {
        return THOLE_OK; /* gone meanwhile */
    }
    if (row == NULL) {
        return registry__no_such_replica(t, id);
    }
    enum thole_code code = registry__check_revision(t, op, row);
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, row);
    if (thole_v1_Replica_phase(row->replica) == thole_v1_REPLICA_PHASE_OUT) {
        return THOLE_OK;
    }
    uint64_t shard_id = thole_v1_Replica_shard_id(row->replica);
    struct row *edit = registry__txn_edit(t, row);
    thole_v1_Replica_set_desired(edit->replica, thole_v1_REPLICA_DESIRED_REMOVE);
    thole_v1_Replica_set_phase(edit->replica, thole_v1_REPLICA_PHASE_OUT);
    thole_v1_Replica_set_out_index(edit->replica, thole_registry_v1_RetireReplica_out_index(o));
    registry__clear(edit->replica, &thole_v1_Replica_msginit, 11 /* message */);
    registry__txn_put(t, edit);
    row = registry__replica(&t->s, id);
    registry__txn_event(t, row, "ReplicaRetired",
                        "the shard was repaired without it, epoch %" PRIu64,
                        thole_registry_v1_RetireReplica_epoch(o));
    if (registry__host_has_state(registry__host(&t->s, &row->host_id),
                                 thole_v1_HOST_STATE_REMOVED)) {
        registry__replica_drop(t, row, "its host was removed");
    }
    registry__txn_touch_shard(t, shard_id);
    return THOLE_OK;
}
