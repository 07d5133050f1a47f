/* Liveness of hosts, judged on shard zero's leader host alone: a host that the bus cannot reach is
 * SUSPECT after a moment and DEAD after the grace; one that it reaches is LIVE. A new leader starts
 * its clocks anew, so that a change of leader never shortens a grace. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

static uint64_t replica_of_zero(const struct hostctl *h, const struct uuid *host)
{
    const thole_v1_Replica *row;
    uint64_t after = 0;
    while ((row = registry_next_replica_of_host(h->view, host, after)) != NULL) {
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_shard_id(row) == REGISTRY_SHARD_ID) {
            return after;
        }
    }
    return 0;
}

/* The bus has not spoken of it: does its replica of shard zero answer us? */
static bool answers(const struct hostctl *h, const struct uuid *host)
{
    struct raft_peer_status peer;
    uint64_t replica = replica_of_zero(h, host);
    return replica != 0 && engine_shard_peer(h->o.engine, REGISTRY_SHARD_ID, replica, &peer) &&
           peer.recently_active;
}

static void look_at(struct hostctl *h, uint64_t at_ms)
{
    if (at_ms < h->liveness_due_ms) {
        h->liveness_due_ms = at_ms;
    }
}

static int32_t judge(struct hostctl *h, const struct ctl_host *host)
{
    if (uuid_equal(&host->id, &h->o.host_id) || (host->known && host->up)) {
        return thole_v1_HOST_LIVENESS_LIVE;
    }
    if (!host->known && answers(h, &host->id)) {
        look_at(h, h->now_ms + h->o.dead_after_ms / 2);
        return thole_v1_HOST_LIVENESS_LIVE;
    }
    uint64_t since =
        host->since_ms > h->zero_leader_since_ms ? host->since_ms : h->zero_leader_since_ms;
    if (h->now_ms >= since + h->o.dead_after_ms) {
        return thole_v1_HOST_LIVENESS_DEAD;
    }
    if (h->now_ms >= since + h->o.suspect_after_ms) {
        look_at(h, since + h->o.dead_after_ms);
        return thole_v1_HOST_LIVENESS_SUSPECT;
    }
    look_at(h, since + h->o.suspect_after_ms);
    return thole_v1_HOST_LIVENESS_UNSPECIFIED; /* too early to say */
}

static void report(struct hostctl *h, struct ctl_host *host, const thole_v1_Host *row,
                   int32_t liveness)
{
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = hostctl__command(h, "placement", arena);
    thole_registry_v1_Operation *o = thole_registry_v1_Command_add_operations(c, arena);
    thole_registry_v1_ObserveHost *observe =
        thole_registry_v1_Operation_mutable_observe_host(o, arena);
    thole_v1_HostStatus *status = thole_registry_v1_ObserveHost_mutable_status(observe, arena);
    thole_registry_v1_Operation_set_expected_revision(o, thole_v1_Host_revision(row));
    thole_registry_v1_ObserveHost_set_host_id(observe, thole_v1_Host_id(row));
    thole_v1_HostStatus_set_liveness(status, liveness);
    thole_v1_HostStatus_set_incarnation(status,
                                        thole_v1_HostStatus_incarnation(thole_v1_Host_status(row)));
    struct ctl_op *op = hostctl__op_new(h, OP_LIVENESS, 0, 0);
    op->host = host->id;
    host->reporting = true;
    hostctl__propose(h, c, arena, op);
    upb_Arena_Free(arena);
}

void hostctl__liveness_run(struct hostctl *h)
{
    h->liveness_due_ms = UINT64_MAX;
    for (size_t i = 0; i < h->host_count; i++) {
        struct ctl_host *host = &h->hosts[i];
        const thole_v1_Host *row = registry_host(h->view, &host->id);
        if (!host->in_view || row == NULL || host->reporting ||
            hostctl__host_is(row, thole_v1_HOST_STATE_REMOVED)) {
            continue;
        }
        int32_t liveness = judge(h, host);
        if (liveness == thole_v1_HOST_LIVENESS_UNSPECIFIED ||
            liveness == thole_v1_HostStatus_liveness(thole_v1_Host_status(row))) {
            continue;
        }
        if (h->now_ms < host->report_after_ms) {
            look_at(h, host->report_after_ms);
        } else if (registry_view_revision(h->view) >= host->report_revision) {
            report(h, host, row, liveness); /* else: when the view has it */
        }
    }
}

void hostctl__liveness_done(struct hostctl *h, struct ctl_op *op)
{
    struct ctl_host *host = hostctl__host(h, &op->host);
    host->reporting = false;
    if (op->st.code == THOLE_OK && op->code == THOLE_OK) {
        host->report_revision = op->revision;
    } else {
        host->report_after_ms = h->now_ms + h->o.retry_ms;
    }
    look_at(h, h->now_ms);
}
