/* What can be said of rows at this moment. Rows tell what was observed when they were written: a
 * leader that is gone cannot take its report back, and without a leader of shard zero nobody writes
 * any. So what is shown of a shard's health is what its row says and this host can confirm now:
 *
 *   the view     shard zero has a leader, or the rows are as old as that
 *   the spec     placement has looked at it, as it is now
 *   the leader   a replica of the shard here knows one, else its row does; its host is live by the
 *                rows, connected, and can write
 *   the quorum   without a replica here: a majority of the votes is on such hosts. A leader that
 *                lacks one gives up by itself within two election timeouts.
 *
 * Nothing is asked and nothing is written. Any thread. */
#include "agent/now.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/agent_internal.h"

/* ---- The view -------------------------------------------------------------------------------- */

static bool knows_leader(const struct engine_replica_status *s)
{
    return !s->failed && (s->role == RAFT_LEADER ? s->leader_ready : !uuid_is_nil(&s->leader_host));
}

void agent_zero_changed(struct agent *a, const struct engine_replica_status *s)
{
    uint64_t lost = 0;
    if (knows_leader(s))
        atomic_store(&a->zero_lost_ns, 0);
    else
        (void)atomic_compare_exchange_strong(&a->zero_lost_ns, &lost, clock_now(&clock_system));
}

uint64_t agent_view_age_ms(struct agent *a)
{
    struct engine_replica_status s = {.failed = true};
    (void)engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s);
    agent_zero_changed(a, &s);
    uint64_t now = clock_now(&clock_system), lost = atomic_load(&a->zero_lost_ns);
    return lost == 0 ? 0 : 1 + (now > lost ? now - lost : 0) / NS_PER_MS;
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static bool parse_id(upb_StringView text, struct uuid *ret)
{
    char id[UUID_TEXT_BYTES];
    if (text.size != sizeof id - 1)
        return false;
    memcpy(id, text.data, sizeof id - 1);
    id[sizeof id - 1] = 0;
    return uuid_parse(id, ret);
}

static bool is_here(struct agent *a, const struct uuid *host)
{
    return uuid_equal(host, agent_host_id(a)) || bus_peer_up(a->bus, host);
}

int32_t agent_host_liveness(struct agent *a, const thole_v1_Host *row)
{
    struct uuid id;
    int32_t liveness = thole_v1_HostStatus_liveness(thole_v1_Host_status(row));
    bool unsure = liveness == thole_v1_HOST_LIVENESS_LIVE && parse_id(thole_v1_Host_id(row), &id) &&
                  !is_here(a, &id);
    return unsure ? thole_v1_HOST_LIVENESS_SUSPECT : liveness;
}

/* Of the view's hosts, by the leader of shard zero and by our own connection. */
static bool host_answers(const struct agent_now *n, const struct uuid *id)
{
    const thole_v1_Host *row = registry_host(n->view, id);
    return row != NULL && is_here(n->agent, id) &&
           thole_v1_HostStatus_liveness(thole_v1_Host_status(row)) == thole_v1_HOST_LIVENESS_LIVE;
}

/* ---- Shards ---------------------------------------------------------------------------------- */

struct agent_now agent_now_of(struct agent *a, const struct registry_view *v)
{
    return (struct agent_now){.agent = a, .view = v, .view_age_ms = agent_view_age_ms(a)};
}

/* Has the vote that its row asks for: the first replicas from the beginning, others when they say
 * so. Who is to lose it votes until it is out. */
static bool has_vote(const thole_v1_Replica *r)
{
    int32_t phase = thole_v1_Replica_phase(r);
    return thole_v1_Replica_initial(r) || phase == thole_v1_REPLICA_PHASE_RUNNING ||
           phase == thole_v1_REPLICA_PHASE_FAILED;
}

/* In a joint configuration no replica says that it votes as it should: then all rows count. */
static void count_votes(const struct agent_now *n, uint64_t shard_id, struct shard_now *ret)
{
    struct registry_replica_buf buf;
    const thole_v1_Replica *r;
    uint32_t rows = 0, silent_rows = 0;
    for (uint64_t after = 0;
         (r = registry_next_replica_of_shard(n->view, shard_id, after, &buf)) != NULL;) {
        struct uuid host;
        after = thole_v1_Replica_id(r);
        if (thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_NON_VOTING ||
            thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_OUT)
            continue;
        bool silent = !parse_id(thole_v1_Replica_host_id(r), &host) || !host_answers(n, &host);
        rows++;
        silent_rows += silent;
        ret->votes += has_vote(r);
        ret->silent += has_vote(r) && silent;
    }
    if (ret->votes == 0) {
        ret->votes = rows;
        ret->silent = silent_rows;
    }
}

__attribute__((format(printf, 3, 4))) static void unserved(struct shard_now *ret,
                                                           const char *reason, const char *format,
                                                           ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(ret->message, sizeof ret->message, format, args);
    va_end(args);
    ret->served = false;
    ret->reason = reason;
}

/* The host of the leader: does it answer, and can it write? */
static void check_leader_host(const struct agent_now *n, const struct uuid *id, uint64_t shard_id,
                              struct shard_now *ret)
{
    const thole_v1_Host *row = registry_host(n->view, id);
    upb_StringView name = row ? thole_v1_Host_name(row) : upb_StringView_FromString("?");
    int32_t disk = thole_v1_HostStatus_disk(thole_v1_Host_status(row));
    if (disk <= thole_v1_HOST_DISK_OK || shard_id == REGISTRY_SHARD_ID)
        disk = engine_peer_refuses(n->agent->engine, id, shard_id) ? thole_v1_HOST_DISK_LOW_SPACE
                                                                   : thole_v1_HOST_DISK_OK;
    if (!host_answers(n, id))
        unserved(ret, "LeaderSilent", "its leader's host %.*s does not answer", (int)name.size,
                 name.data);
    else if (disk > thole_v1_HOST_DISK_OK)
        unserved(ret, disk == thole_v1_HOST_DISK_STALLED ? "DiskStalled" : "LowSpace",
                 "the disk of its leader's host %.*s %s, and no other voter could take over",
                 (int)name.size, name.data,
                 disk == thole_v1_HOST_DISK_STALLED ? "does not finish a write" : "is nearly full");
}

/* By the replica that is here, a voter. */
static void check_here(const struct agent_now *n, const struct engine_replica_status *s,
                       struct shard_now *ret)
{
    if (!knows_leader(s)) {
        unserved(ret, "NoLeader",
                 s->role == RAFT_LEADER ? "its leader has not committed anything yet"
                                        : "its replica on this host knows no leader");
    } else if (s->role != RAFT_LEADER) {
        check_leader_host(n, &s->leader_host, s->shard_id, ret);
    } else if (engine_disk_refuses(n->agent->engine, s->shard_id)) {
        bool full = engine_disk(n->agent->engine) == ENGINE_DISK_LOW;
        unserved(ret, full ? "LowSpace" : "DiskStalled",
                 "the disk of this host, which leads it, %s, and no other voter could take over",
                 full ? "is nearly full" : "does not finish a write");
    }
}

/* By the rows alone. */
static void check_there(const struct agent_now *n, const thole_v1_Shard *row, struct shard_now *ret)
{
    struct registry_replica_buf buf;
    struct uuid host;
    uint64_t leader = thole_v1_ShardStatus_leader_replica(thole_v1_Shard_status(row));
    const thole_v1_Replica *r = leader ? registry_replica(n->view, leader, &buf) : NULL;
    if (!r || !parse_id(thole_v1_Replica_host_id(r), &host))
        unserved(ret, "NoLeader", "no replica has reported that it leads");
    else if (ret->silent * 2 >= ret->votes)
        unserved(ret, "QuorumSilent",
                 "%" PRIu32 " of its %" PRIu32 " voters are on hosts that do not answer",
                 ret->silent, ret->votes);
    else
        check_leader_host(n, &host, thole_v1_Shard_id(row), ret);
}

void agent_shard_now(const struct agent_now *n, const thole_v1_Shard *row, struct shard_now *ret)
{
    struct engine_replica_status s;
    uint64_t id = thole_v1_Shard_id(row);
    *ret = (struct shard_now){.served = true};
    count_votes(n, id, ret);
    uint64_t generation = thole_v1_Shard_generation(row);
    ret->changed =
        generation > thole_v1_ShardStatus_observed_generation(thole_v1_Shard_status(row));
    if (n->view_age_ms > 0)
        unserved(ret, "ViewOld",
                 "no leader of shard zero has been known on this host for %.1f s: what is shown is "
                 "as old",
                 (double)n->view_age_ms / 1000);
    else if (thole_v1_Shard_deleting(row))
        unserved(ret, "Removing", "the shard is being deleted");
    else if (ret->changed)
        unserved(ret, "NewSpec", "nothing was done yet for generation %" PRIu64 " of its spec",
                 generation);
    else if (engine_shard_status(n->agent->engine, id, &s) && s.voter && !s.failed)
        check_here(n, &s, ret);
    else
        check_there(n, row, ret);
}
