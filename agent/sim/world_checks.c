/* Invariants that must hold throughout a run, and conditions that must hold at its end. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/play.h"
#include "base/buf.h"
#include "base/map.h"
#include "registry/registry.h"
#include "shards/engine/engine.h"

#define LOOK_NS (100 * NS_PER_MS)
#define SHARDS_MAX 64

static struct map replica_hosts; /* replica id -> 1 + the host that has or had the replica */

static bool runs(const struct world_host *h)
{
    return h->life != NULL && h->life->agent != NULL && !h->stopping;
}

struct registry_view *checks__view(int n)
{
    struct world_host *h = world__host(n);
    if (!runs(h)) {
        return NULL;
    }
    struct life *earlier = life__enter(h->life);
    struct registry_view *v = registry_view_acquire(agent_registry(h->life->agent));
    life__leave(earlier);
    return v;
}

uint64_t checks__revision(void)
{
    uint64_t newest = 0;
    for (int n = 0; n < world__host_count(); n++) {
        struct registry_view *v = checks__view(n);
        if (v != NULL) {
            uint64_t revision = registry_view_revision(v);
            newest = revision > newest ? revision : newest;
            registry_view_release(v);
        }
    }
    return newest;
}

/* ---- Replicas -------------------------------------------------------------------------------- */

/* A host has at most one active replica of a shard, and no two hosts share a replica id. */
static void check_replicas(int n)
{
    struct world_host *h = world__host(n);
    struct engine_replica_status *all = NULL;
    if (!runs(h)) {
        return;
    }
    struct life *earlier = life__enter(h->life);
    size_t count = engine_replicas(agent_engine(h->life->agent), &all);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < i; k++) {
            if (all[i].shard_id == all[k].shard_id) {
                world__fail("%s has two replicas of shard %" PRIu64 ": %" PRIu64 " and %" PRIu64,
                            h->name, all[i].shard_id, all[i].replica_id, all[k].replica_id);
            }
        }
        uintptr_t self = (uintptr_t)n + 1;
        uintptr_t owner = (uintptr_t)map_get(&replica_hosts, all[i].replica_id);
        if (owner == 0) {
            (void)map_put(&replica_hosts, all[i].replica_id, (void *)self);
        } else if (owner != self) {
            world__fail("replica %" PRIu64 " is on h%u and on h%d", all[i].replica_id,
                        (unsigned)owner, n + 1);
        }
        if (all[i].failed && !all[i].superseded && !disks__is_damaged(all[i].replica_id)) {
            world__fail("%s: replica %" PRIu64 " of shard %" PRIu64 " failed: %s", h->name,
                        all[i].replica_id, all[i].shard_id, all[i].failure);
        }
    }
    free(all);
    life__leave(earlier);
}

/* ---- Quorums --------------------------------------------------------------------------------- */

/* A leader may still count a host, or a replica that failed alone, as answering for this long after
 * its last answer. */
#define SILENCE_NS (1500 * NS_PER_MS)

static uint64_t answered_ns[WORLD_HOSTS_MAX];
static struct map ran_ns; /* replica id -> when it was last seen running */

static bool answers(int n)
{
    const struct world_host *h = world__host(n);
    uint64_t now = world__now_ns();
    return h->life != NULL && h->paused_until_ns <= now && h->disk_stalled_until_ns <= now;
}

static void note_answers(void)
{
    for (int n = 0; n < world__host_count(); n++) {
        if (answers(n)) {
            answered_ns[n] = world__now_ns();
        }
    }
}

static bool ran_lately(uint64_t replica_id)
{
    return (uintptr_t)map_get(&ran_ns, replica_id) + SILENCE_NS > world__now_ns();
}

static bool member_runs(const struct raft_member *m, uint64_t shard_id)
{
    for (int n = 0; n < world__host_count(); n++) {
        struct world_host *h = world__host(n);
        struct engine_replica_status s;
        if (memcmp(h->id.bytes, m->host, sizeof m->host) != 0) {
            continue;
        }
        if (!answers(n)) {
            return answered_ns[n] + SILENCE_NS > world__now_ns();
        }
        if (h->life->agent == NULL) { /* starting up: its replicas may already run */
            return true;
        }
        struct life *earlier = life__enter(h->life);
        bool here = engine_shard_status(agent_engine(h->life->agent), shard_id, &s) && !s.failed &&
                    s.replica_id == m->replica_id;
        life__leave(earlier);
        if (here) {
            (void)map_put(&ran_ns, m->replica_id, (void *)(uintptr_t)world__now_ns());
        }
        return here || ran_lately(m->replica_id);
    }
    return ran_lately(m->replica_id); /* its host has lost its disk */
}

static bool votes(uint8_t role)
{
    return role == RAFT_VOTER || role == RAFT_WITNESS;
}

static bool half_has_quorum(const struct raft_config *c, uint64_t shard_id, bool outgoing)
{
    uint32_t all = 0, run = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        bool running = member_runs(m, shard_id); /* remembered for learners, too */
        if (votes(outgoing ? m->outgoing_role : m->role)) {
            all++;
            run += running;
        }
    }
    return run * 2 > all;
}

static bool has_quorum(const struct raft_config *c, uint64_t shard_id)
{
    return half_has_quorum(c, shard_id, false) && (!c->joint || half_has_quorum(c, shard_id, true));
}

static void describe(const struct raft_config *c, uint64_t shard_id, char *ret, size_t size)
{
    size_t used = 0;
    ret[0] = '\0';
    for (uint32_t i = 0; i < c->member_count && used < size; i++) {
        const struct raft_member *m = &c->members[i];
        int n = 0;
        while (n < world__host_count() &&
               memcmp(world__host(n)->id.bytes, m->host, sizeof m->host) != 0) {
            n++;
        }
        used += (size_t)snprintf(
            ret + used, size - used, " h%d:%s%s%s", n + 1, votes(m->role) ? "votes" : "learns",
            votes(m->outgoing_role) ? ",leaves" : "", member_runs(m, shard_id) ? "" : ",silent");
    }
}

struct watched {
    uint64_t shard_id, config_index, steps;
    bool quorum;
    uint64_t last_index; /* of the leader's log, since when all of that is so */
};
static struct watched watched[SHARDS_MAX];
static uint64_t steps_done; /* faults change which hosts answer, and void earlier observations */

/* A configuration with a quorum must not be followed by one without. This compares two looks that
 * have no fault between them. A change in the log at the first look may be older than a fault. */
static void check_quorum(struct world_host *h, const struct engine_replica_status *s)
{
    struct raft_config c = {0};
    struct watched *w = &watched[s->shard_id % SHARDS_MAX];
    if (!s->leader_ready || !engine_shard_config(agent_engine(h->life->agent), s->shard_id, &c)) {
        return;
    }
    bool quorum = has_quorum(&c, s->shard_id);
    if (w->shard_id == s->shard_id && w->steps == steps_done && w->quorum &&
        s->config_index > w->config_index && s->config_index > w->last_index && !quorum) {
        char text[300];
        describe(&c, s->shard_id, text, sizeof text);
        world__fail("shard %" PRIu64 " had a quorum, and has none since its members changed:%s",
                    s->shard_id, text);
    }
    if (world__traces() && s->config_index != w->config_index) {
        char text[300];
        describe(&c, s->shard_id, text, sizeof text);
        world__trace("shard %" PRIu64 ": members:%s", s->shard_id, text);
    }
    bool same = w->config_index == s->config_index && w->steps == steps_done && w->quorum == quorum;
    if (w->shard_id != s->shard_id || (s->config_index >= w->config_index && !same)) {
        *w = (struct watched){s->shard_id, s->config_index, steps_done, quorum, s->last_index};
    }
    raft_config_deinit(&c);
}

static void check_quorums(int n)
{
    struct world_host *h = world__host(n);
    struct engine_replica_status *all = NULL;
    if (!answers(n) || h->life->agent == NULL) {
        return;
    }
    struct life *earlier = life__enter(h->life);
    size_t count = engine_replicas(agent_engine(h->life->agent), &all);
    for (size_t i = 0; i < count; i++) {
        check_quorum(h, &all[i]);
    }
    free(all);
    life__leave(earlier);
}

/* ---- Shard zero ------------------------------------------------------------------------------ */

static uint32_t zero_voters_max; /* that any look has seen */

static uint32_t zero_voters(const struct registry_view *v)
{
    struct registry_replica_buf buf;
    const thole_v1_Replica *r;
    uint32_t voters = 0;
    for (uint64_t id = 0; (r = registry_next_replica_of_shard(v, 0, id, &buf)) != NULL;) {
        id = thole_v1_Replica_id(r);
        voters += thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_VOTER;
    }
    return voters;
}

static void note_zero_voters(void)
{
    struct registry_view *v = NULL;
    for (int n = 0; n < world__host_count() && v == NULL; n++) {
        v = checks__view(n);
    }
    if (v != NULL) {
        uint32_t voters = zero_voters(v);
        zero_voters_max = voters > zero_voters_max ? voters : zero_voters_max;
        registry_view_release(v);
    }
}

/* ---- Every look ------------------------------------------------------------------------------ */

static void look(void *ctx)
{
    (void)ctx;
    note_answers();
    note_zero_voters();
    for (int n = 0; n < world__host_count() && !world__failed(); n++) {
        check_replicas(n);
        check_quorums(n);
    }
    world__at(world__now_ns() + LOOK_NS, NULL, look, NULL);
}

void checks__note_fault(void)
{
    steps_done++;
}

void checks__start(void)
{
    world__at(world__now_ns() + LOOK_NS, NULL, look, NULL);
}

/* ---- At the end ------------------------------------------------------------------------------ */

bool checks__is_ready(const thole_v1_Shard *row)
{
    const thole_v1_Condition *ready = registry_shard_condition(row, "Ready");
    return ready != NULL && thole_v1_Condition_status(ready) && !thole_v1_Shard_deleting(row);
}

/* A host that lost its disk never comes back, so its replicas go with its decommission. That may
 * wait for another shard, and says so. */
static bool waits_for_lost_hosts(const struct registry_view *v, const thole_v1_Shard *shard)
{
    struct registry_replica_buf buf;
    const thole_v1_Replica *r;
    uint64_t id = 0;
    while ((r = registry_next_replica_of_shard(v, thole_v1_Shard_id(shard), id, &buf)) != NULL) {
        id = thole_v1_Replica_id(r);
        struct uuid host;
        const thole_v1_Host *h = uuid_parse(registry_str(thole_v1_Replica_host_id(r)), &host)
                                     ? registry_host(v, &host)
                                     : NULL;
        if (h == NULL ||
            thole_v1_HostStatus_liveness(thole_v1_Host_status(h)) != thole_v1_HOST_LIVENESS_DEAD ||
            thole_v1_HostSpec_state(thole_v1_Host_spec(h)) != thole_v1_HOST_STATE_DRAINING) {
            return false;
        }
    }
    return id != 0 && disks__any_lost();
}

static bool shards_settled(const struct registry_view *v, char *ret, size_t size)
{
    struct registry_shard_buf buf;
    const thole_v1_Shard *row;
    char name[64] = "";
    while ((row = registry_next_shard(v, slice_str(name), &buf)) != NULL) {
        struct slice text = registry_str(thole_v1_Shard_name(row));
        const thole_v1_Condition *placed = registry_shard_condition(row, "Placed");
        const thole_v1_Condition *ready = registry_shard_condition(row, "Ready");
        snprintf(name, sizeof name, "%.*s", (int)text.size, (const char *)text.data);
        if (thole_v1_Shard_deleting(row) && waits_for_lost_hosts(v, row)) {
            continue;
        }
        if (thole_v1_Shard_deleting(row)) {
            snprintf(ret, size, "shard %s is still being deleted", name);
            return false;
        }
        if (placed == NULL || ready == NULL) {
            snprintf(ret, size, "nothing is known of shard %s", name);
            return false;
        }
        if (thole_v1_Condition_status(placed) && !thole_v1_Condition_status(ready)) {
            struct slice message = registry_str(thole_v1_Condition_message(ready));
            snprintf(ret, size, "shard %s is placed and not ready: %.*s", name, (int)message.size,
                     (const char *)message.data);
            return false;
        }
    }
    return true;
}

static bool operations_settled(const struct registry_view *v, char *ret, size_t size)
{
    const thole_v1_Operation *o;
    for (uint64_t id = 0; (o = registry_next_operation(v, id)) != NULL;) {
        id = thole_v1_Operation_id(o);
        if (!registry_operation_has_ended(o) && thole_v1_Operation_message(o).size == 0) {
            snprintf(ret, size,
                     "operation %" PRIu64 " of kind %d has not ended, and does not say why", id,
                     (int)thole_v1_Operation_kind(o));
            return false;
        }
    }
    return true;
}

/* Rows speak the truth of a silent host once it is dead by its row. */
static bool hosts_settled(const struct registry_view *v, char *ret, size_t size)
{
    const thole_v1_Host *h = NULL;
    for (struct slice name = {0}; (h = registry_next_host(v, name)) != NULL;) {
        name = registry_str(thole_v1_Host_name(h));
        if (thole_v1_HostStatus_liveness(thole_v1_Host_status(h)) ==
            thole_v1_HOST_LIVENESS_SUSPECT) {
            snprintf(ret, size, "host %.*s is suspect", (int)name.size, (const char *)name.data);
            return false;
        }
    }
    return true;
}

static bool votes_in_zero(const struct registry_view *v, const thole_v1_Host *h)
{
    struct registry_replica_buf buf;
    const thole_v1_Replica *r;
    for (uint64_t id = 0; (r = registry_next_replica_of_shard(v, 0, id, &buf)) != NULL;) {
        id = thole_v1_Replica_id(r);
        if (thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_VOTER &&
            slice_equal(registry_str(thole_v1_Replica_host_id(r)),
                        registry_str(thole_v1_Host_id(h)))) {
            return true;
        }
    }
    return false;
}

/* Draining must not remove a vote unless another host can get it. A host that is cordoned or
 * drained while it has no vote (or has lost it with its data) gets none. */
static bool zero_settled(const struct registry_view *v, char *ret, size_t size)
{
    uint32_t hosts = 0;
    const thole_v1_Host *h = NULL;
    for (struct slice name = {0}; (h = registry_next_host(v, name)) != NULL;) {
        name = registry_str(thole_v1_Host_name(h));
        hosts +=
            thole_v1_HostSpec_state(thole_v1_Host_spec(h)) != thole_v1_HOST_STATE_REMOVED &&
            (thole_v1_HostSpec_state(thole_v1_Host_spec(h)) == thole_v1_HOST_STATE_ACTIVE ||
             votes_in_zero(v, h) || !disks__any_lost()) &&
            thole_v1_HostStatus_liveness(thole_v1_Host_status(h)) == thole_v1_HOST_LIVENESS_LIVE;
    }
    uint32_t voters = zero_voters(v);
    if (hosts >= 3 && voters < 3 && zero_voters_max >= 3) {
        snprintf(ret, size, "%u hosts live, and shard zero has voters on %u", (unsigned)hosts,
                 (unsigned)voters);
        return false;
    }
    return true;
}

bool checks__settled(char *ret, size_t size)
{
    struct registry_view *v = NULL;
    for (int n = 0; n < world__host_count(); n++) {
        if (play.wanted[n].out) {
            continue;
        }
        if (!host__ready(world__host(n))) {
            struct world_host *h = world__host(n);
            char why[200] = "";
            if (runs(h)) {
                struct life *earlier = life__enter(h->life);
                (void)agent_is_ready(h->life->agent, why, sizeof why);
                life__leave(earlier);
            }
            snprintf(ret, size, "h%d is not ready: %.200s", n + 1, why);
            return false;
        }
        if (v == NULL) {
            v = checks__view(n);
        }
    }
    if (v == NULL) {
        snprintf(ret, size, "no host is left");
        return false;
    }
    bool ok = hosts_settled(v, ret, size) && zero_settled(v, ret, size) &&
              shards_settled(v, ret, size) && operations_settled(v, ret, size);
    registry_view_release(v);
    return ok;
}
