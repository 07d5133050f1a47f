/* The options that a seed expands to, and the line that repeats a run. */
#include <bsd/string.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "shards/sim/commit.h"
#include "shards/sim/sim_internal.h"

static const char *const names[SIM_FAULTS] = {
    [SIM_LOSS] = "loss",
    [SIM_DUPLICATE] = "duplicate",
    [SIM_DELAY] = "delay",
    [SIM_REORDER] = "reorder",
    [SIM_CLOG] = "clog",
    [SIM_PARTITION] = "partition",
    [SIM_ONE_WAY] = "one-way",
    [SIM_REPORTS] = "reports",
    [SIM_CRASH] = "crash",
    [SIM_CRASH_WRITE] = "crash-write",
    [SIM_STOP] = "stop",
    [SIM_PAUSE] = "pause",
    [SIM_SKEW] = "skew",
    [SIM_STALL] = "stall",
    [SIM_EIO] = "eio",
    [SIM_SPACE] = "space",
    [SIM_FLIP] = "flip",
    [SIM_MEMBERSHIP] = "membership",
    [SIM_WITNESS] = "witness",
    [SIM_TRANSFER] = "transfer",
    [SIM_COMPACT] = "compact",
    [SIM_SESSIONS] = "sessions",
    [SIM_REQUEST_IDS] = "request-ids",
    [SIM_PERSISTENT] = "persistent",
    [SIM_SLEEP] = "sleep",
    [SIM_FORCE] = "force",
};

const char *sim_fault_name(int fault)
{
    return fault >= 0 && fault < SIM_FAULTS ? names[fault] : NULL;
}

bool sim_fault_parse(const char *list, uint32_t *ret)
{
    char *copy = xstrdup(list), *rest = copy, *word;
    bool ok = true;
    uint32_t set = 0;
    while (ok && (word = strsep(&rest, ",")) != NULL) {
        int i = 0;
        while (i < SIM_FAULTS && strcmp(names[i], word) != 0) {
            i++;
        }
        if (strcmp(word, "all") == 0) {
            set = (1u << SIM_FAULTS) - 1;
        } else if (i < SIM_FAULTS) {
            set |= 1u << i;
        } else {
            ok = false;
        }
    }
    free(copy);
    if (ok) {
        *ret = set;
    }
    return ok;
}

static void draw_bench(const struct sim_options *o, struct sim_config *c)
{
    c->faults = 0;
    c->hosts = 3;
    c->groups = 1;
    c->clients = 1;
    c->loops = c->appliers = 1;
    c->loss = c->duplicate = c->delay = c->reorder = 0;
    c->election_ms = 500;
    c->heartbeat_ms = 100;
    c->delay_min_ns = c->delay_max_ns = 200 * NS_PER_US;
    c->think_ns = 10 * SIM_TICK_MS * NS_PER_MS;
    c->sync_ns = 100 * NS_PER_US;
    c->compact_bytes = 1 * MIB;
    c->keep_bytes = 64 * KIB;
    c->cache_bytes = 64 * KIB;
    c->ballast = 0;
    c->skew_ppm = 0;
    c->reads = 0;
    c->sleep_ms = ENGINE_SLEEP_NEVER;
    c->request_id_ms = LIMIT_REQUEST_ID_MS;
    c->leases = 0;
    (void)o;
}

static double some(struct rand *r, bool on, double max)
{
    double x = rand_unit(r) * rand_unit(r) * max;
    return on ? x : 0;
}

void sim__config_draw(const struct sim_options *o, struct sim_config *ret)
{
    struct rand r;
    struct sim_config c = {0};
    rand_seed(&r, o->seed * UINT64_C(0x9e3779b97f4a7c15) + 1);
    for (int i = 0; i < SIM_FAULTS; i++) {
        if (rand_chance(&r, 0.6)) {
            c.faults |= 1u << i;
        }
    }
    if (o->force) {
        c.faults |= 1u << SIM_FORCE | 1u << SIM_MEMBERSHIP; /* the group must grow again */
    }
    c.faults &= ~o->without;
    c.hosts = (int)rand_between(&r, 3, SIM_HOSTS_MAX);
    /* Mostly few groups: then each of them sees more faults. */
    static const int groups[] = {1, 1, 2, 3, 5, 20};
    c.groups = groups[rand_below(&r, 6)];
    c.clients = (int)rand_between(&r, 4, 16);
    c.loops = (uint32_t)rand_between(&r, 1, 2);
    c.appliers = (uint32_t)rand_between(&r, 1, 2);
    c.election_ms = rand_chance(&r, 0.5) ? 500 : 200;
    c.heartbeat_ms = c.election_ms / (rand_chance(&r, 0.5) ? 5 : 4);
    c.delay_min_ns = rand_between(&r, 50, 1000) * NS_PER_US;
    c.delay_max_ns = c.delay_min_ns + rand_below(&r, 5000) * NS_PER_US;
    c.loss = some(&r, sim_has(&c, SIM_LOSS), 0.3);
    c.duplicate = some(&r, sim_has(&c, SIM_DUPLICATE), 0.3);
    c.delay = some(&r, sim_has(&c, SIM_DELAY), 0.1);
    c.reorder = some(&r, sim_has(&c, SIM_REORDER), 0.5);
    c.think_ns = rand_between(&r, 1, 60) * NS_PER_MS;
    c.request_id_ms = (uint32_t)rand_between(&r, 4000, 15000);
    c.nemesis_ns = rand_between(&r, 150, 1500) * NS_PER_MS;
    c.sync_ns = rand_between(&r, 50, 8000) * NS_PER_US;
    bool compact = sim_has(&c, SIM_COMPACT);
    uint64_t small = rand_between(&r, 512, 16384), keep = rand_below(&r, small / 2 + 1);
    c.compact_bytes = compact ? small : 4 * MIB;
    c.keep_bytes = compact ? keep + 1 : 1 * MIB;
    c.cache_bytes = rand_chance(&r, 0.5) ? 1 : rand_between(&r, 256, 65536);
    c.ballast = rand_chance(&r, 0.3) ? rand_below(&r, 600 * KIB) : 0;
    c.skew_ppm = sim_has(&c, SIM_SKEW) ? (uint32_t)rand_between(&r, 100, 100000) : 0;
    c.reads = 0.2 + 0.5 * rand_unit(&r);
    c.sleep_ms = sim_has(&c, SIM_SLEEP) ? (uint32_t)rand_between(&r, 20, 600) : ENGINE_SLEEP_NEVER;
    c.leases = rand_chance(&r, 0.35) ? 1 : 0;
    /* A cap makes chunks smaller, so that transfers take several. */
    c.snapshot_rate = c.ballast > 0 && rand_chance(&r, 0.7) ? rand_between(&r, 200, 2000) * KIB : 0;
    if (c.groups > 5) {
        c.clients = SIM_CLIENTS_MAX;
    }
    if (o->hosts != 0) {
        c.hosts = (int)o->hosts;
    }
    if (o->groups != 0 || o->force) {
        c.groups = o->force ? 1 : (int)o->groups;
    }
    if (o->bench) {
        draw_bench(o, &c);
    }
    *ret = c;
}

void sim_describe(const struct sim_options *o, char *ret, size_t size)
{
    struct sim_config c;
    sim__config_draw(o, &c);
    struct bytes b = {0};
    bytes_printf(
        &b,
        "hosts=%d groups=%d clients=%d loops=%u election_ms=%u heartbeat_ms=%u sync_us=%" PRIu64 " "
        "loss=%.3f duplicate=%.3f delay=%.3f reorder=%.3f compact=%" PRIu64 " leases=%.2f faults=",
        c.hosts, c.groups, c.clients, c.loops, c.election_ms, c.heartbeat_ms,
        (c.sync_ns / NS_PER_US), c.loss, c.duplicate, c.delay, c.reorder, c.compact_bytes,
        c.leases);
    for (int i = 0, n = 0; i < SIM_FAULTS; i++) {
        if (c.faults >> i & 1) {
            bytes_printf(&b, "%s%s", n++ ? "," : "", names[i]);
        }
    }
    bytes_append(&b, "", 1);
    (void)strlcpy(ret, (const char *)b.data, size);
    bytes_deinit(&b);
}

void sim_replay_line(const struct sim_options *o, char *ret, size_t size)
{
    struct bytes b = {0};
    bytes_printf(&b, "thole-sim --seed %" PRIu64 " --ticks %" PRIu64, o->seed, o->ticks);
    if (o->hosts != 0) {
        bytes_printf(&b, " --hosts %u", o->hosts);
    }
    if (o->groups != 0) {
        bytes_printf(&b, " --groups %u", o->groups);
    }
    if (o->force) {
        bytes_printf(&b, " --force");
    }
    if (o->canary != NULL) {
        bytes_printf(&b, " --canary %s", o->canary);
    }
    for (int i = 0, n = 0; i < SIM_FAULTS; i++) {
        if (o->without >> i & 1) {
            bytes_printf(&b, "%s%s", n++ ? "," : " --without ", names[i]);
        }
    }
    bytes_printf(&b, "  # commit %s", SIM_COMMIT);
    bytes_append(&b, "", 1);
    (void)strlcpy(ret, (const char *)b.data, size);
    bytes_deinit(&b);
}
