/* Fault injection. Each fault has its own clock and its own random numbers. */
#include <inttypes.h>

#include "shards/sim/sim_internal.h"

static uint64_t between_ms(struct sim *s, int fault, uint64_t low, uint64_t high)
{
    return rand_between(&s->rand[fault], low, high) * SIM_MS;
}

static struct sim_host *some_host(struct sim *s, int fault)
{
    return &s->hosts[rand_below(&s->rand[fault], (uint64_t)s->c.hosts)];
}

static struct sim_host *some_running(struct sim *s, int fault)
{
    struct sim_host *h = some_host(s, fault);
    return h->engine != NULL && !h->ending ? h : NULL;
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void do_crash(struct sim *s)
{
    struct sim_host *h = some_running(s, SIM_CRASH);
    if (h == NULL) {
        return;
    }
    sim__host_crash(h);
    sim__host_restart_later(h, between_ms(s, SIM_CRASH, 1, 3000));
}

static void do_crash_write(struct sim *s)
{
    struct sim_host *h = some_running(s, SIM_CRASH_WRITE);
    double what = rand_unit(&s->rand[SIM_CRASH_WRITE]);
    if (h != NULL) {
        h->crash_in_write = what < 0.6;
        h->crash_in_commit = what >= 0.6 && what < 0.8;
        h->crash_in_apply = what >= 0.8;
    }
}

static void do_stop(struct sim *s)
{
    struct sim_host *h = some_running(s, SIM_STOP);
    if (h == NULL) {
        return;
    }
    sim__host_stop(h);
    sim__host_restart_later(h, between_ms(s, SIM_STOP, 1, 2000));
}

static void do_pause(struct sim *s)
{
    struct sim_host *h = some_host(s, SIM_PAUSE);
    h->paused_until_ns = s->now_ns + between_ms(s, SIM_PAUSE, 1, 3000);
    h->next_stale = true;
    SIM_TRACE(s, "host %d: pauses until %" PRIu64, h->id, h->paused_until_ns / NS_PER_MS);
}

static void do_skew(struct sim *s)
{
    struct sim_host *h = some_host(s, SIM_SKEW);
    uint64_t ppm = 1000000 - s->c.skew_ppm + rand_below(&s->rand[SIM_SKEW], 2 * s->c.skew_ppm);
    sim__host_set_rate(h, ppm);
    SIM_TRACE(s, "host %d: its clock runs at %" PRIu64 " ppm", h->id, ppm);
    if (rand_chance(&s->rand[SIM_SKEW], 0.5)) { /* most steps are small */
        int64_t most = rand_chance(&s->rand[SIM_SKEW], 0.8) ? 1000 : SIM_STEP_MS_MAX;
        h->wall_step_ms = (int64_t)rand_below(&s->rand[SIM_SKEW], (uint64_t)most * 2) - most;
        SIM_TRACE(s, "host %d: its wall clock is off by %" PRId64 " ms", h->id, h->wall_step_ms);
    }
}

static void do_stall(struct sim *s)
{
    struct sim_host *h = some_host(s, SIM_STALL);
    h->stalled_until_ns = s->now_ns + between_ms(s, SIM_STALL, 1, 4000);
    SIM_TRACE(s, "host %d: its disk hangs until %" PRIu64, h->id, h->stalled_until_ns / NS_PER_MS);
}

static void do_eio(struct sim *s)
{
    struct sim_host *h = some_running(s, SIM_EIO);
    if (h != NULL && rand_chance(&s->rand[SIM_EIO], 0.5)) {
        h->fail_write = true;
    } else if (h != NULL) {
        h->fail_file = true;
    }
}

static void space_back(struct sim *s, void *arg)
{
    (void)s;
    ((struct sim_host *)arg)->space_low = false;
}

static void do_space(struct sim *s)
{
    struct sim_host *h = some_host(s, SIM_SPACE);
    h->space_low = true;
    sim__at(s, s->now_ns + between_ms(s, SIM_SPACE, 100, 5000), space_back, h);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static void do_flip(struct sim *s)
{
    /* The shard must keep a quorum, and enough data to be repaired. */
    struct rand *d = &s->rand[SIM_FLIP];
    struct shard *shard = &s->shards[rand_below(d, (uint64_t)s->c.groups)];
    struct sim_host *h = some_host(s, SIM_FLIP);
    const struct replica *r = sim__replica(s, h->id, shard);
    struct member *m = r != NULL ? sim__shadow_member(s, r->replica_id) : NULL;
    if (m == NULL || shard->config_count == 0 ||
        raft_config_find(&shard->configs[shard->config_count - 1].config, m->replica_id) == NULL ||
        !sim__final_survives(s, shard, 0, m->replica_id)) {
        return;
    }
    if (rand_chance(d, 0.5)) {
        sim__disk_flip(h->log, r->replica_id);
    } else if (!sim__files_flip(h->files, r->replica_id)) {
        return;
    }
    m->damaged = true;
    s->report->flips++;
    SIM_TRACE(s, "host %d: shard %" PRIu64 " replica %" PRIu64 " is damaged", h->id, shard->id,
              r->replica_id);
}

/* ---- Network --------------------------------------------------------------------------------- */

static void heal(struct sim *s, void *arg)
{
    (void)arg;
    if (s->calm) {
        return;
    }
    SIM_TRACE(s, "the network heals");
    sim__network_heal(s);
}

static void do_clog(struct sim *s)
{
    int a = some_host(s, SIM_CLOG)->id, b = some_host(s, SIM_CLOG)->id;
    s->links[a][b].clogged_until_ns = s->now_ns + between_ms(s, SIM_CLOG, 10, 3000);
    SIM_TRACE(s, "link %d to %d is clogged", a, b);
}

static void do_partition(struct sim *s)
{
    uint32_t side = (uint32_t)rand_u64(&s->rand[SIM_PARTITION]);
    if (rand_chance(&s->rand[SIM_PARTITION],
                    0.5)) { /* one alone: the leader of some shard, often */
        struct shard *shard =
            &s->shards[rand_below(&s->rand[SIM_PARTITION], (uint64_t)s->c.groups)];
        int alone = sim__leader(s, shard);
        side = 1u << (alone >= 0 ? alone : 0);
    }
    for (int a = 0; a < s->c.hosts; a++) {
        for (int b = 0; b < s->c.hosts; b++) {
            s->links[a][b].cut = (side >> a & 1) != (side >> b & 1);
        }
    }
    SIM_TRACE(s, "partition %x", side & ((1u << s->c.hosts) - 1));
    sim__at(s, s->now_ns + between_ms(s, SIM_PARTITION, 50, 4000), heal, NULL);
}

static void do_one_way(struct sim *s)
{
    double part = rand_unit(&s->rand[SIM_ONE_WAY]);
    for (int a = 0; a < s->c.hosts; a++) {
        for (int b = 0; b < s->c.hosts; b++) {
            s->links[a][b].cut = a != b && rand_chance(&s->rand[SIM_ONE_WAY], part);
            if (s->links[a][b].cut) {
                SIM_TRACE(s, "link %d to %d is cut", a, b);
            }
        }
    }
    sim__at(s, s->now_ns + between_ms(s, SIM_ONE_WAY, 50, 3000), heal, NULL);
}

static void do_report(struct sim *s)
{
    struct sim_host *h = some_running(s, SIM_REPORTS), *about = some_host(s, SIM_REPORTS);
    bool up = rand_chance(&s->rand[SIM_REPORTS], 0.5);
    if (h == NULL || h == about) {
        return;
    }
    SIM_TRACE(s, "host %d is told that host %d is %s", h->id, about->id, up ? "up" : "down");
    engine_peer_state(h->engine, &about->uuid, up);
}

/* A pause of all clients: long enough for groups to fall asleep and for faults to hit them then. */
static void do_lull(struct sim *s)
{
    s->lull_until_ns = s->now_ns + s->c.sleep_ms * SIM_MS + between_ms(s, SIM_SLEEP, 200, 4000);
    SIM_TRACE(s, "clients pause until %" PRIu64, s->lull_until_ns / NS_PER_MS);
}

/* ---- The clocks ------------------------------------------------------------------------------ */

static const struct nemesis {
    enum sim_fault fault;
    void (*act)(struct sim *s);
    unsigned rarity;
} all[] = {
    {SIM_CRASH, do_crash, 3},
    {SIM_CRASH_WRITE, do_crash_write, 3},
    {SIM_STOP, do_stop, 4},
    {SIM_PAUSE, do_pause, 3},
    {SIM_SKEW, do_skew, 3},
    {SIM_STALL, do_stall, 3},
    {SIM_EIO, do_eio, 5},
    {SIM_SPACE, do_space, 8},
    {SIM_FLIP, do_flip, 5},
    {SIM_CLOG, do_clog, 2},
    {SIM_PARTITION, do_partition, 3},
    {SIM_ONE_WAY, do_one_way, 4},
    {SIM_REPORTS, do_report, 2},
    {SIM_SLEEP, do_lull, 6},
};

static void strike(struct sim *s, void *arg)
{
    const struct nemesis *n = arg;
    if (s->calm) {
        return;
    }
    n->act(s);
    sim__at(s, s->now_ns + 1 + rand_below(&s->rand[n->fault], 2 * s->c.nemesis_ns * n->rarity),
            strike, arg);
}

void sim__nemesis_start(struct sim *s)
{
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (sim_has(&s->c, all[i].fault)) {
            sim__at(s,
                    s->now_ns +
                        rand_below(&s->rand[all[i].fault], 2 * s->c.nemesis_ns * all[i].rarity),
                    strike, (void *)(uintptr_t)&all[i]);
        }
    }
}

/* Stop all faults; hosts that are dead stay dead. */
void sim__nemesis_stop(struct sim *s, bool silently)
{
    s->calm = true;
    for (int i = 0; i < s->c.hosts; i++) {
        struct sim_host *h = &s->hosts[i];
        h->crash_in_write = h->crash_in_commit = h->crash_in_apply = false;
        h->fail_write = h->fail_file = false;
        h->space_low = false;
        h->wall_step_ms = 0;
        h->stalled_until_ns = h->paused_until_ns = 0;
        h->next_stale = true;
        for (int k = 0; k < s->c.hosts; k++) {
            s->links[i][k] = (struct sim_link){0};
        }
    }
    for (int i = 0; i < s->c.hosts; i++) {
        for (int k = 0; k < s->c.hosts && s->hosts[i].engine != NULL; k++) {
            if (i != k && !(silently && s->hosts[k].dead)) {
                engine_peer_state(s->hosts[i].engine, &s->hosts[k].uuid, !s->hosts[k].dead);
            }
        }
    }
}
