/* Rebuilds failed replicas, on shard zero's leader host. The row of the failed replica is set to
 * REMOVE; the other controllers do the rest (membership removes it, its host deletes its data,
 * placement makes another one, which gets a snapshot).
 *
 * A rebuild must do no harm:
 * - it starts only while the others are a running majority, and for one replica of a shard at a
 *   time;
 * - the pause after the n-th consecutive failure on one host doubles with n;
 * - a machine that fails everywhere must not move through all hosts: after PLACEMENT_FAILURES_MAX
 *   failures of a shard the pauses are long, and its condition Degraded says Failing. Placement
 *   prefers hosts on which the shard has not failed;
 * - a host on which replicas of several shards fail one after the other gets nothing new
 *   (registry/host_failures.c).
 *
 * Failures are counted in the shard's row, so a new leader continues the count. Users' replicas
 * are not touched. A host whose replica of shard zero failed sees no rows any more: it asks other
 * hosts, and reports the failure (agent/join/join.c). */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>

#define PAUSE_MS_FIRST 1000
#define PAUSE_MS_MAX (5 * 60 * 1000)
#define PAUSE_MS_FAILING (10 * 60 * 1000)

static bool is_voting(const thole_v1_Replica *r)
{
    return thole_v1_Replica_role(r) != thole_v1_REPLICA_ROLE_NON_VOTING;
}

static const thole_v1_Host *host_of(const struct hostctl *h, const thole_v1_Replica *r)
{
    struct uuid id;
    return uuid_parse(registry_str(thole_v1_Replica_host_id(r)), &id) ? registry_host(h->view, &id)
                                                                      : NULL;
}

static bool on_live_host(const struct hostctl *h, const thole_v1_Replica *r)
{
    const thole_v1_Host *host = host_of(h, r);
    return host != NULL && !hostctl__host_has_state(host, thole_v1_HOST_STATE_REMOVED) &&
           thole_v1_HostStatus_liveness(thole_v1_Host_status(host)) == thole_v1_HOST_LIVENESS_LIVE;
}

/* The replica to rebuild now, or NULL. */
static const thole_v1_Replica *find_failed(const struct hostctl *h, const thole_v1_Shard *shard,
                                           struct registry_replica_buf *buf)
{
    uint64_t found = 0;
    bool votes = false;
    const thole_v1_Replica *r;
    uint32_t voting = 0;
    uint32_t running = 0;
    uint64_t after = 0;
    while ((r = registry_next_replica_of_shard(h->view, thole_v1_Shard_id(shard), after, buf)) !=
           NULL) {
        int32_t phase = thole_v1_Replica_phase(r);
        after = thole_v1_Replica_id(r);
        if (thole_v1_Replica_desired(r) != thole_v1_REPLICA_DESIRED_RUN) {
            if (phase != thole_v1_REPLICA_PHASE_OUT) {
                return NULL; /* one change at a time */
            }
            continue;
        }
        voting += is_voting(r);
        running += is_voting(r) && phase == thole_v1_REPLICA_PHASE_RUNNING && on_live_host(h, r);
        if (found == 0 && phase == thole_v1_REPLICA_PHASE_FAILED && on_live_host(h, r) &&
            thole_v1_Replica_owner(r) == thole_v1_REPLICA_OWNER_PLACEMENT) {
            found = after;
            votes = is_voting(r);
        }
    }
    /* A running replica has the role that is wanted; a failed one may have been without a vote. */
    uint32_t in_force = thole_v1_ShardStatus_voting(thole_v1_Shard_status(shard));
    voting = in_force > 0 ? in_force : voting;
    bool safe = found != 0 && (!votes || running * 2 > voting);
    return safe ? registry_replica(h->view, found, buf) : NULL;
}

/* The pause before the replica is rebuilt, and when it failed. */
static uint64_t pause_of(const thole_v1_Shard *shard, const thole_v1_Replica *r,
                         uint64_t *ret_failed_ms)
{
    size_t count = 0;
    const thole_v1_ReplicaFailure *const *failures =
        thole_v1_ShardStatus_failures(thole_v1_Shard_status(shard), &count);
    uint32_t times = 1;
    uint32_t all = 0;
    *ret_failed_ms = 0;
    for (size_t i = 0; i < count; i++) {
        all += thole_v1_ReplicaFailure_count(failures[i]);
        if (slice_equal(registry_str(thole_v1_ReplicaFailure_host_id(failures[i])),
                        registry_str(thole_v1_Replica_host_id(r)))) {
            times = thole_v1_ReplicaFailure_count(failures[i]);
            *ret_failed_ms = (uint64_t)thole_v1_ReplicaFailure_time_ms(failures[i]);
        }
    }
    if (all >= PLACEMENT_FAILURES_MAX) {
        return PAUSE_MS_FAILING;
    }
    uint64_t pause_ms = (uint64_t)PAUSE_MS_FIRST << (times < 20 ? times - 1 : 19);
    return pause_ms < PAUSE_MS_MAX ? pause_ms : PAUSE_MS_MAX;
}

static void rebuild(struct hostctl *h, struct ctl_shard *s, const thole_v1_Replica *r)
{
    char why[512];
    upb_StringView message = thole_v1_Replica_message(r);
    snprintf(why, sizeof why, "it failed, and is rebuilt: %.*s",
             (int)(message.size < 400 ? message.size : 400), message.size > 0 ? message.data : "");
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = hostctl__command(h, "healing", arena);
    thole_registry_v1_Operation *o = thole_registry_v1_Command_add_operations(c, arena);
    thole_registry_v1_RemoveReplica *remove =
        thole_registry_v1_Operation_mutable_remove_replica(o, arena);
    thole_registry_v1_Command_set_decided_at(c, registry_view_revision(h->view));
    thole_registry_v1_Operation_set_expected_revision(o, thole_v1_Replica_revision(r));
    thole_registry_v1_RemoveReplica_set_replica_id(remove, thole_v1_Replica_id(r));
    thole_registry_v1_RemoveReplica_set_reason(remove, upb_StringView_FromString(why));
    LOG_INFO(HOSTCTL, "rebuilding a failed replica shard=%" PRIu64 " replica=%" PRIu64, s->id,
             thole_v1_Replica_id(r));
    s->healing = true;
    hostctl__propose(h, c, arena, hostctl__op_new(h, OP_HEAL, s->id, thole_v1_Replica_id(r)));
    upb_Arena_Free(arena);
}

void hostctl__heal_evaluate(struct hostctl *h, struct ctl_shard *s)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    const thole_v1_Shard *shard = registry_shard(h->view, s->id, &shard_buf);
    if (s->healing || s->placing || shard == NULL || thole_v1_Shard_deleting(shard) ||
        h->now_ms < s->work->heal_after_ms ||
        !thole_v1_ShardStatus_formed(thole_v1_Shard_status(shard))) {
        return;
    }
    const thole_v1_Replica *r = find_failed(h, shard, &replica_buf);
    if (r == NULL) {
        return;
    }
    if (s->work->failed_seen != thole_v1_Replica_id(r)) {
        hostctl__work(s)->failed_seen = thole_v1_Replica_id(r);
        hostctl__work(s)->failed_seen_ms = h->now_ms;
    }
    uint64_t failed_ms = 0;
    uint64_t pause_ms = pause_of(shard, r, &failed_ms);
    uint64_t passed_ms = hostctl__passed_ms(h, failed_ms, s->work->failed_seen_ms);
    if (passed_ms < pause_ms) {
        hostctl__again(h, s, h->now_ms + (pause_ms - passed_ms));
        return;
    }
    rebuild(h, s, r);
}

void hostctl__heal_done(struct hostctl *h, struct ctl_op *op)
{
    struct ctl_shard *s = hostctl__shard(h, op->shard_id);
    s->healing = false;
    if (op->st.code != THOLE_OK || op->code != THOLE_OK) {
        hostctl__work(s)->heal_after_ms = h->now_ms + h->o.retry_ms;
        hostctl__again(h, s, s->work->heal_after_ms);
    }
    hostctl__dirty(h, op->shard_id);
}
