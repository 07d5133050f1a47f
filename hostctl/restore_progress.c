/* Progress of a shard that starts from a snapshot, for the operations controller. The host that
 * has the file makes the first voter from it (host_controller.c); then placement adds the others,
 * as for any shard. A restore that fails deletes the shard in the same command. */
#include "hostctl/hostctl_internal.h"

#include <stdio.h>

static void give_up(struct ctl_progress *p, const char *why)
{
    hostctl__progress_end(p, thole_v1_OPERATION_STATE_FAILED, why);
    p->retire = true;
}

/* The group has not formed. Only the host that has the file can form it. */
static void progress_of_seed(const struct hostctl *h, const thole_v1_Shard *shard,
                             struct ctl_progress *p)
{
    struct registry_replica_buf replica_buf;
    struct uuid id;
    char why[THOLE_STATUS_MESSAGE_BYTES];
    const thole_v1_Host *host = NULL;
    if (uuid_parse(registry_str(thole_v1_ShardSeed_host_id(thole_v1_Shard_seed(shard))), &id)) {
        host = registry_host(h->view, &id);
    }
    const thole_v1_Replica *row =
        registry_next_replica_of_shard(h->view, thole_v1_Shard_id(shard), 0, &replica_buf);
    p->step = "loading";
    if (host == NULL || hostctl__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
        give_up(p, "the host that had the file was removed");
    } else if (thole_v1_HostStatus_liveness(thole_v1_Host_status(host)) ==
               thole_v1_HOST_LIVENESS_DEAD) {
        give_up(p, "the host that has the file is dead: restore through another one");
    } else if (row != NULL && thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_FAILED) {
        upb_StringView message = thole_v1_Replica_message(row);
        snprintf(why, sizeof why, "its first replica failed: %.*s", (int)message.size,
                 message.size > 0 ? message.data : "");
        give_up(p, why);
    }
}

void hostctl__restore_progress(const struct hostctl *h, const thole_v1_Operation *row,
                               struct ctl_progress *p)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    uint64_t id = thole_v1_Operation_shard_id(row);
    const thole_v1_Shard *shard = registry_shard(h->view, id, &shard_buf);
    if (shard == NULL || thole_v1_Shard_deleting(shard)) {
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_CANCELLED, "the shard was deleted");
        return;
    }
    uint32_t running = 0;
    uint64_t after = 0;
    const thole_v1_Replica *replica;
    while ((replica = registry_next_replica_of_shard(h->view, id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(replica);
        running += thole_v1_Replica_desired(replica) == thole_v1_REPLICA_DESIRED_RUN &&
                   thole_v1_Replica_phase(replica) == thole_v1_REPLICA_PHASE_RUNNING &&
                   thole_v1_Replica_role(replica) != thole_v1_REPLICA_ROLE_NON_VOTING;
    }
    p->total = thole_v1_ShardSpec_voters(thole_v1_Shard_spec(shard));
    p->done = running < p->total ? running : p->total;
    if (!thole_v1_ShardStatus_formed(thole_v1_Shard_status(shard))) {
        progress_of_seed(h, shard, p);
        return;
    }
    const struct ctl_shard *s = map_get(&h->shards, id);
    p->step = "voters";
    if (p->done == p->total) {
        p->step = "";
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_DONE, "");
    } else if (s != NULL && s->decided && s->verdict == PLACEMENT_UNSATISFIABLE &&
               s->work->explanation != NULL) {
        snprintf(p->message, sizeof p->message, "it serves; more voters cannot be placed: %s",
                 s->work->explanation);
    }
}
