/* Progress of a rebalance, which replica_balance.c and leader_balance.c carry out: how uneven the
 * hosts are. replica_balance.c decides that nothing more can move, because constraints and spread
 * may keep hosts uneven for ever. */
#include "hostctl/hostctl_internal.h"

#include <stdio.h>

static const struct ctl_host *find_host(const struct hostctl *h, upb_StringView text)
{
    struct uuid id;
    for (size_t i = 0; uuid_parse(registry_str(text), &id) && i < h->host_count; i++) {
        if (uuid_equal(&h->hosts[i].id, &id)) {
            return &h->hosts[i];
        }
    }
    return NULL;
}

static bool takes_more(const thole_v1_Host *row)
{
    return hostctl__host_has_state(row, thole_v1_HOST_STATE_ACTIVE) &&
           !placement_host_is_failing(row) &&
           thole_v1_HostStatus_liveness(thole_v1_Host_status(row)) == thole_v1_HOST_LIVENESS_LIVE;
}

/* A lower bound of the moves that would make all hosts even. */
static uint32_t uneven_replicas(const struct hostctl *h)
{
    uint32_t hosts = 0;
    uint32_t sum = 0;
    uint32_t over = 0;
    uint32_t under = 0;
    for (int pass = 0; pass < 2; pass++) {
        struct slice name = {0};
        const thole_v1_Host *row;
        while ((row = registry_next_host(h->view, name)) != NULL) {
            struct uuid id;
            name = registry_str(thole_v1_Host_name(row));
            if (!takes_more(row) || !uuid_parse(registry_str(thole_v1_Host_id(row)), &id)) {
                continue;
            }
            uint32_t load = placement_host_replicas(h->view, &id);
            if (pass == 0) {
                hosts++;
                sum += load;
            } else if (hosts > 0) {
                uint32_t least = sum / hosts;
                uint32_t most = (sum + hosts - 1) / hosts;
                over += load > most ? load - most : 0;
                under += load < least ? least - load : 0;
            }
        }
    }
    return over > under ? over : under;
}

/* Would the leader's host hand leadership on? Decided from the rows alone, as leader_balance.c
 * does. */
static bool leader_should_move(const struct hostctl *h, const thole_v1_Shard *shard)
{
    struct registry_replica_buf own_buf, buf;
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(shard);
    uint64_t leader = thole_v1_ShardStatus_leader_replica(thole_v1_Shard_status(shard));
    const thole_v1_Replica *own = registry_replica(h->view, leader, &own_buf);
    const struct ctl_host *at = own == NULL ? NULL : find_host(h, thole_v1_Replica_host_id(own));
    const thole_v1_Host *row = at == NULL ? NULL : registry_host(h->view, &at->id);
    bool preferred = false;
    if (row == NULL || thole_v1_Shard_deleting(shard)) {
        return false;
    }
    (void)placement_host_leads(row, spec, &preferred);
    uint64_t after = 0;
    const thole_v1_Replica *r;
    while ((r = registry_next_replica_of_shard(h->view, thole_v1_Shard_id(shard), after, &buf)) !=
           NULL) {
        bool better = false;
        after = thole_v1_Replica_id(r);
        const struct ctl_host *other = find_host(h, thole_v1_Replica_host_id(r));
        const thole_v1_Host *host = other == NULL ? NULL : registry_host(h->view, &other->id);
        if (after != leader && host != NULL &&
            thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_RUN &&
            thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_VOTER &&
            thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_RUNNING &&
            placement_host_leads(host, spec, &better) &&
            ((better && !preferred) || (better == preferred && at->leads >= other->leads + 2))) {
            return true;
        }
    }
    return false;
}

/* One such shard is enough, and while there are many the search is short. If hosts lead evenly and
 * no shard has a preference, no shard is examined. */
static bool leaders_should_move(const struct hostctl *h)
{
    struct registry_shard_buf shard_buf;
    struct slice name = {0};
    const thole_v1_Shard *row;
    int64_t least = INT64_MAX;
    int64_t most = 0;
    for (size_t i = 0; i < h->host_count; i++) {
        least = h->hosts[i].in_view && h->hosts[i].leads < least ? h->hosts[i].leads : least;
        most = h->hosts[i].in_view && h->hosts[i].leads > most ? h->hosts[i].leads : most;
    }
    if (most < least + 2 && !h->leaders_preferred) {
        return false;
    }
    while ((row = registry_next_shard(h->view, name, &shard_buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(row));
        if (thole_v1_Shard_id(row) != REGISTRY_SHARD_ID && leader_should_move(h, row)) {
            return true;
        }
    }
    return false;
}

/* The shards that hosts lead above their share. */
static uint32_t uneven_leaders(const struct hostctl *h)
{
    int64_t sum = 0;
    int64_t hosts = 0;
    for (size_t i = 0; i < h->host_count; i++) {
        hosts += h->hosts[i].in_view;
        sum += h->hosts[i].in_view ? h->hosts[i].leads : 0;
    }
    uint32_t over = 0;
    for (size_t i = 0; i < h->host_count && hosts > 0; i++) {
        int64_t more = h->hosts[i].leads - (sum + hosts - 1) / hosts;
        over += h->hosts[i].in_view && more > 0 ? (uint32_t)more : 0;
    }
    return over;
}

void hostctl__rebalance_progress(const struct hostctl *h, struct ctl_progress *p)
{
    uint32_t replicas = uneven_replicas(h);
    bool still = h->balance_even && h->moving == 0 && h->unsettled == 0;
    uint32_t leaders = uneven_leaders(h);
    if (!still) {
        p->step = "replicas";
        /* A replica that runs may still wait for the old one to be removed. */
        hostctl__progress_left(p, replicas + leaders + (replicas + leaders == 0));
        if (h->unsettled > h->moving) {
            snprintf(p->message, sizeof p->message, "%zu shards are not settled",
                     h->unsettled - h->moving);
        }
        return;
    }
    leaders = !leaders_should_move(h) ? 0 : leaders == 0 ? 1 : leaders; /* 1: a preference */
    p->step = leaders > 0 ? "leaders" : "";
    hostctl__progress_left(p, leaders);
    if (leaders == 0) {
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_DONE,
                              replicas > 0 ? "spread and constraints keep hosts uneven" : "");
    }
}
