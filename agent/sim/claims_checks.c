/* Compares the claims of hosts and of the control plane with the state of the simulation. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/availability.h"
#include "agent/sim/play.h"
#include "base/map.h"
#include "shards/engine/engine.h"

#define LOOK_NS (500 * NS_PER_MS)
/* Limits on how outdated a claim may be. The first is for a host with a local voter. The second is
 * for a host that relies on rows: these wait until the leader of shard zero suspects a silent host
 * (10 s). Witnesses and replicas without a vote never campaign, so they do not notice that their
 * leader stepped down. */
#define TRUTH_NS (5 * NS_PER_S)
#define TRUTH_BY_ROWS_NS (15 * NS_PER_S)
/* A leader on a nearly full disk, or with a wrong clock, must hand over within this time. */
#define HAND_OVER_NS (8 * NS_PER_S)
/* What frames on their way and clocks of different speed add to the distance of two clocks. */
#define CLOCK_SLACK_MS 2000
/* Limits in any minute. The maxima in the first 20 stories were 21 and 127. */
#define REPLICAS_PER_MINUTE 60
#define REVISIONS_PER_MINUTE 600

static struct map quorum_ns; /* shard id -> when it last had a quorum up; see store_ns */
static struct map wrong_ns;  /* shard and host -> since when it is called available wrongly */
static uint64_t disturbed_ns[WORLD_HOSTS_MAX];

static bool is_up(int n)
{
    const struct world_host *h = world__host(n);
    return h->life != NULL && h->paused_until_ns <= world__now_ns();
}

static bool is_host_of(int n, const struct raft_member *m)
{
    return memcmp(world__host(n)->id.bytes, m->host, sizeof m->host) == 0;
}

static bool is_member_up(const struct raft_member *m)
{
    int n = 0;
    while (n < world__host_count() && !is_host_of(n, m)) {
        n++;
    }
    return n < world__host_count() && is_up(n);
}

static bool is_half_up(const struct raft_config *c, bool outgoing)
{
    uint32_t all = 0, up = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        uint8_t role = outgoing ? c->members[i].outgoing_role : c->members[i].role;
        if (role == RAFT_VOTER || role == RAFT_WITNESS) {
            all++;
            up += is_member_up(&c->members[i]);
        }
    }
    return up * 2 > all;
}

static void store_ns(struct map *m, uint64_t key, uint64_t ns)
{
    if (ns == 0) {
        (void)map_remove(m, key + 1);
    } else {
        (void)map_put(m, key + 1, (void *)(uintptr_t)ns);
    }
}

static uint64_t stored_ns(const struct map *m, uint64_t key)
{
    return (uint64_t)(uintptr_t)map_get(m, key + 1);
}

/* Since when is it so, of that shard at that host? 0: it is not. */
static uint64_t since_ns(struct map *m, uint64_t shard_id, int n, bool is)
{
    uint64_t key = shard_id * WORLD_HOSTS_MAX + (uint64_t)n, since = stored_ns(m, key);
    since = !is ? 0 : since != 0 ? since : world__now_ns();
    store_ns(m, key, since);
    return since;
}

/* Checks every configuration that a replica holds: if replicas hold different ones, this check does
 * not know which one is committed. */
static void note_quorums(struct engine *e)
{
    struct engine_replica_status *all = NULL;
    size_t count = engine_replicas(e, &all);
    for (size_t i = 0; i < count; i++) {
        struct raft_config c = {0};
        if (engine_shard_config(e, all[i].shard_id, &c) && is_half_up(&c, false) &&
            (!c.joint || is_half_up(&c, true))) {
            store_ns(&quorum_ns, all[i].shard_id, world__now_ns());
        }
        raft_config_deinit(&c);
    }
    free(all);
}

/* A shard that a host calls available must recently have had a quorum of running hosts. */
static void check_claims(int n, struct agent *a, const struct registry_view *v)
{
    const struct availability_check check = agent_availability_begin(a, v);
    struct registry_shard_buf buf;
    const thole_v1_Shard *row;
    char name[64] = "";
    while ((row = registry_next_shard(v, slice_str(name), &buf)) != NULL) {
        struct slice text = registry_str(thole_v1_Shard_name(row));
        struct shard_availability claim;
        struct engine_replica_status s;
        uint64_t seen_ns = stored_ns(&quorum_ns, thole_v1_Shard_id(row));
        snprintf(name, sizeof name, "%.*s", (int)text.size, (const char *)text.data);
        agent_check_shard(&check, row, &claim);
        bool by_voter = engine_shard_status(agent_engine(a), thole_v1_Shard_id(row), &s) &&
                        s.voter && !s.witness;
        uint64_t allowed_ns = by_voter ? TRUTH_NS : TRUTH_BY_ROWS_NS;
        bool wrong = claim.available && seen_ns != 0 && world__now_ns() - seen_ns > LOOK_NS;
        uint64_t since = since_ns(&wrong_ns, thole_v1_Shard_id(row), n, wrong);
        if (since != 0 && since < disturbed_ns[n]) { /* of the claims before */
            (void)since_ns(&wrong_ns, thole_v1_Shard_id(row), n, false);
            since = since_ns(&wrong_ns, thole_v1_Shard_id(row), n, wrong);
        }
        if (since != 0 && world__now_ns() - since > allowed_ns) {
            world__fail("h%d says for %.1f s that shard %s is available, which has no quorum",
                        n + 1, (double)(world__now_ns() - since) / 1e9, name);
        }
    }
}

/* ---- Leaders without space, or with a wrong clock -------------------------------------------- */

/* shard id * hosts + host -> when it began to lead without need */
static struct map low_ns, clock_ns;

static bool is_connected(int a, int b)
{
    struct agent *agent = world__host(a)->life->agent;
    return agent != NULL && bus_peer_up(agent_bus(agent), &world__host(b)->id) &&
           !world__link(a, b)->cut && !world__link(b, a)->cut &&
           world__link(a, b)->delay_max_ns == 0 && world__link(b, a)->delay_max_ns == 0;
}

static bool has_member(const struct raft_config *c, int n)
{
    uint32_t i = 0;
    while (i < c->member_count && !is_host_of(n, &c->members[i])) {
        i++;
    }
    return i < c->member_count;
}

/* How far the wall clock of `n` is from the median of the hosts of a group that run; 0 unless they
 * are all connected, and three or more. */
static int64_t clock_distance_ms(struct engine *e, uint64_t shard_id, int n)
{
    struct raft_config c = {0};
    int64_t near = INT64_MAX, walls[WORLD_HOSTS_MAX];
    int count = 0;
    bool connected = engine_shard_config(e, shard_id, &c);
    for (int k = 0; k < world__host_count(); k++) {
        int64_t wall = world__host(k)->wall_ms;
        if (!is_up(k) || !has_member(&c, k) ||
            world__host(k)->disk_stalled_until_ns > world__now_ns()) {
            continue; /* it sends no beats */
        }
        connected = connected && (k == n || is_connected(n, k));
        int i = count++;
        for (; i > 0 && walls[i - 1] > wall; i--) {
            walls[i] = walls[i - 1];
        }
        walls[i] = wall;
    }
    raft_config_deinit(&c);
    for (int i = (count - 1) / 2; connected && count >= 3 && i <= count / 2; i++) {
        int64_t away = llabs(walls[i] - world__host(n)->wall_ms);
        near = away < near ? away : near;
    }
    return near == INT64_MAX ? 0 : near;
}

/* A host hears from those with whom it shares a group that either of them leads. So the clocks that
 * it compares are at least those of a group that it leads, and at most those of shard zero. */
static bool has_wrong_clock(struct engine *e, uint64_t shard_id, int n)
{
    int64_t limit_ms = LIMIT_CLOCK_AHEAD_MS + CLOCK_SLACK_MS;
    return clock_distance_ms(e, shard_id, n) > limit_ms && clock_distance_ms(e, 0, n) > limit_ms;
}

static bool says_wrong_clock(int n)
{
    struct agent *a = world__host(n)->life->agent;
    return a == NULL || engine_clock_is_wrong(agent_engine(a));
}

/* Could another voter lead, and has it caught up with the log? */
static bool has_heir(struct engine *e, int n, const struct engine_replica_status *s, bool by_clock)
{
    struct raft_config c = {0};
    bool heir = false;
    if (engine_shard_config(e, s->shard_id, &c)) {
        for (uint32_t i = 0; i < c.member_count && !heir; i++) {
            struct raft_peer_status peer;
            for (int k = 0; k < world__host_count() && !heir; k++) {
                heir = k != n && is_host_of(k, &c.members[i]) && is_up(k) &&
                       c.members[i].role == RAFT_VOTER && !c.joint &&
                       world__host(k)->free_bytes == UINT64_MAX &&
                       world__host(k)->wall_ms == 0 && /* else its clock is found to be wrong */
                       world__host(k)->disk_stalled_until_ns <= world__now_ns() &&
                       !world__link(n, k)->cut && !world__link(k, n)->cut &&
                       (!by_clock || !says_wrong_clock(k)) &&
                       engine_shard_peer(e, s->shard_id, c.members[i].replica_id, &peer) &&
                       peer.answers && peer.caught_up;
            }
        }
    }
    raft_config_deinit(&c);
    return heir;
}

/* `unfit`: the host should not lead the shard. */
static void check_hand_over(int n, struct engine *e, const struct engine_replica_status *s,
                            bool unfit, bool by_clock)
{
    bool needless = s->leader_ready && unfit && has_heir(e, n, s, by_clock);
    uint64_t since = since_ns(by_clock ? &clock_ns : &low_ns, s->shard_id, n, needless);
    if (since != 0 && world__now_ns() - since > HAND_OVER_NS) {
        world__fail("h%d has %s, and still leads shard %" PRIu64 ", which another voter could",
                    n + 1, by_clock ? "a wrong clock" : "no space", s->shard_id);
    }
}

static void check_leaders(int n, struct engine *e)
{
    struct engine_replica_status *all = NULL;
    const struct world_host *h = world__host(n);
    bool low = h->free_bytes != UINT64_MAX && h->disk_stalled_until_ns <= world__now_ns();
    size_t count = engine_replicas(e, &all);
    for (size_t i = 0; i < count; i++) {
        check_hand_over(n, e, &all[i], low, false);
        check_hand_over(n, e, &all[i], has_wrong_clock(e, all[i].shard_id, n), true);
    }
    free(all);
}

/* ---- Bounds ---------------------------------------------------------------------------------- */

static void check_bounds(void *ctx)
{
    static uint64_t revision_before, next_before;
    uint64_t revision = checks__revision(), next = next_before;
    (void)ctx;
    for (int n = 0; n < world__host_count(); n++) {
        struct registry_view *v = checks__view(n);
        if (v != NULL) {
            next = registry_next_replica_id(v) > next ? registry_next_replica_id(v) : next;
            registry_view_release(v);
        }
    }
    uint64_t made = next - next_before;
    uint64_t revisions = revision > revision_before ? revision - revision_before : 0;
    world__trace("in a minute: %" PRIu64 " replicas made, %" PRIu64 " revisions", made, revisions);
    if (made > REPLICAS_PER_MINUTE || revisions > REVISIONS_PER_MINUTE) {
        world__fail("in one minute %" PRIu64 " replicas were made, and %" PRIu64
                    " revisions of the registry",
                    made, revisions);
    }
    next_before = next;
    revision_before = revision > revision_before ? revision : revision_before;
    world__at(world__now_ns() + 60 * NS_PER_S, NULL, check_bounds, NULL);
}

/* ---- Every look ------------------------------------------------------------------------------ */

static void look_at_host(int n)
{
    struct world_host *h = world__host(n);
    if (!is_up(n) || h->life->agent == NULL || h->stopping) {
        disturbed_ns[n] = world__now_ns();
        return;
    }
    struct life *earlier = life__enter(h->life);
    struct agent *a = h->life->agent;
    if (world__now_ns() - disturbed_ns[n] > TRUTH_NS) {
        struct registry_view *v = registry_view_acquire(agent_registry(a));
        check_claims(n, a, v);
        registry_view_release(v);
    }
    check_leaders(n, agent_engine(a));
    life__leave(earlier);
}

static void look(void *ctx)
{
    (void)ctx;
    disks__note();
    for (int n = 0; n < world__host_count(); n++) {
        struct life *life = world__host(n)->life;
        if (life != NULL && life->agent != NULL) {
            struct life *earlier = life__enter(life);
            note_quorums(agent_engine(life->agent));
            life__leave(earlier);
        }
    }
    for (int n = 0; n < world__host_count() && !world__failed(); n++) {
        look_at_host(n);
    }
    world__at(world__now_ns() + LOOK_NS, NULL, look, NULL);
}

void claims__start(void)
{
    look(NULL);
    check_bounds(NULL);
}
