/* Whether a host can be removed for ever: not while acknowledged data may be on it alone.
 *
 * A removed host is refused when it returns, so its data is lost. The group can do without it if
 * the other replicas with data intersect every quorum of the group, and are a quorum themselves.
 * Rows of replicas that are joining or leaving count as votes without data: that only delays a
 * removal. */
#include "registry/registry_internal.h"

#include <stdio.h>

struct votes {
    uint32_t all;
    uint32_t live; /* on other hosts that are live */
    uint32_t data; /* of these, witnesses not counted */
};

static const thole_v1_Host *host_of(const struct state *s, const thole_v1_Replica *r)
{
    struct uuid id;
    return uuid_parse(registry_str(thole_v1_Replica_host_id(r)), &id)
               ? registry__packed_message(
                     registry__find(s, INDEX_HOSTS, registry__key_host(&id, 0)), NULL)
               : NULL;
}

static bool serves(const struct state *s, const thole_v1_Replica *r)
{
    const thole_v1_Host *host = host_of(s, r);
    return host != NULL && thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_RUN &&
           thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_RUNNING &&
           thole_v1_HostSpec_state(thole_v1_Host_spec(host)) != thole_v1_HOST_STATE_REMOVED &&
           thole_v1_HostStatus_liveness(thole_v1_Host_status(host)) == thole_v1_HOST_LIVENESS_LIVE;
}

/* A demotion is complete when the replica's host reports that it runs in its new role. A dead host
 * never reports. For shard zero the demotion must have happened: otherwise shard zero could not
 * have committed this command without the host. */
static bool is_learner(const struct state *s, const thole_v1_Replica *r)
{
    int32_t phase = thole_v1_Replica_phase(r);
    bool dead = thole_v1_HostStatus_liveness(thole_v1_Host_status(host_of(s, r))) ==
                thole_v1_HOST_LIVENESS_DEAD;
    return thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_NON_VOTING &&
           (phase == thole_v1_REPLICA_PHASE_RUNNING || phase <= thole_v1_REPLICA_PHASE_JOINING ||
            (dead && thole_v1_Replica_shard_id(r) == REGISTRY_SHARD_ID));
}

static struct votes count_votes(const struct state *s, uint64_t shard_id, uint64_t without)
{
    struct registry_replica_buf buf;
    struct votes v = {0};
    uint64_t after = 0;
    const thole_v1_Replica *r;
    while ((r = registry__packed_message(registry__find_of_shard(s, shard_id, after), &buf)) !=
           NULL) {
        after = thole_v1_Replica_id(r);
        if (thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_OUT || is_learner(s, r)) {
            continue;
        }
        bool live = after != without && serves(s, r) &&
                    thole_v1_Replica_role(r) != thole_v1_REPLICA_ROLE_NON_VOTING;
        v.all++;
        v.live += live;
        v.data += live && thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_VOTER;
    }
    return v;
}

static void explain(const struct votes *v, const thole_v1_Replica *r, bool dead, char *ret,
                    size_t size)
{
    upb_StringView shard = thole_v1_Replica_shard(r);
    bool zero = thole_v1_Replica_shard_id(r) == REGISTRY_SHARD_ID;
    snprintf(ret, size,
             "shards/%.*s needs this host: %" PRIu32 " of its %" PRIu32
             " voters are live on other hosts%s",
             (int)shard.size, shard.data, v->live, v->all,
             zero   ? ", and none that is active is ready to take its vote"
             : dead ? "; start the host again, or give up what only it has: \"thole repair "
                      "shard\", \"thole delete shard\""
                    : "");
}

bool registry__host_is_needed(const struct state *s, const struct uuid *host, char *ret_why,
                              size_t size)
{
    struct registry_replica_buf buf;
    struct registry_shard_buf shard_buf;
    uint64_t after = 0;
    const thole_v1_Replica *r;
    const thole_v1_Host *row =
        registry__packed_message(registry__find(s, INDEX_HOSTS, registry__key_host(host, 0)), NULL);
    bool dead =
        thole_v1_HostStatus_liveness(thole_v1_Host_status(row)) == thole_v1_HOST_LIVENESS_DEAD;
    while ((r = registry__packed_message(registry__find_of_host(s, host, after), &buf)) != NULL) {
        after = thole_v1_Replica_id(r);
        const thole_v1_Shard *shard = registry__packed_message(
            registry__find(s, INDEX_SHARDS, registry__key_id(thole_v1_Replica_shard_id(r))),
            &shard_buf);
        bool formed = thole_v1_ShardStatus_formed(thole_v1_Shard_status(shard));
        if (thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_OUT || is_learner(s, r) ||
            thole_v1_Shard_deleting(shard) || (dead && !formed)) {
            continue; /* a shard that never formed is recreated: apply_host.c */
        }
        struct votes v = count_votes(s, thole_v1_Replica_shard_id(r), after);
        uint32_t quorum = v.all / 2 + 1;
        if (v.live < quorum || v.data + quorum <= v.all) {
            explain(&v, r, dead, ret_why, size);
            return true;
        }
    }
    return false;
}

bool registry_host_is_needed(const struct registry_view *v, const struct uuid *host, char *ret_why,
                             size_t size)
{
    return registry__host_is_needed(&v->s, host, ret_why, size);
}
