/* The controllers of six hosts under random faults in virtual time: crashes, pauses, partitions
 * between any two hosts, failing machines, a slow shard zero. Hosts join and leave, and users
 * change their minds. All the time, and in the end:
 *
 *   - a host never has two active replicas of a shard (in the engines, not only in the rows);
 *   - ids are never used again;
 *   - the controllers never cost a shard its majority: a configuration that can commit is not
 *     followed by one that cannot;
 *   - once the faults are over, the cluster reaches the wanted state, and writes end;
 *   - the number of commands is bounded by the number of faults.
 *
 * STORM_SEEDS=N runs so many seeds, STORM_SEED=N that one. */
#include "hostctl/test/cluster_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SEEDS 200
#define HOSTS 6
#define TROUBLES 14
#define SHARDS 3
/* Each fault may move every replica of every shard, and each move takes about ten commands.
 * Liveness and reports add more. A loop would exceed the limit by far. */
#define COMMANDS_PER_TROUBLE 250

static const char *const names[SHARDS] = {"a", "b", "f"};

struct watched { /* a shard, when it was last checked */
    uint64_t shard_id, config_index;
    bool majority;
};

struct storm {
    struct cluster *h;
    struct watched watched[SHARDS];
    uint64_t next_replica; /* the watermark of ids, as seen at the newest revision */
    uint64_t revision;
    uint64_t deleted; /* a host, or UINT64_MAX */
    uint64_t joined;  /* hosts */
};

/* ---- Invariants ------------------------------------------------------------------------------ */

static void check_engines(const struct storm *s)
{
    for (uint64_t n = 0; n < HOSTS; n++) {
        struct engine_replica_status *all = NULL;
        if (s->h->hosts[n].hostctl == NULL) {
            continue;
        }
        size_t count = engine_replicas(s->h->hosts[n].engine, &all);
        for (size_t i = 0; i < count; i++) {
            for (size_t k = 0; k < i; k++) {
                assert_int_not_equal(all[i].shard_id, all[k].shard_id);
                assert_int_not_equal(all[i].replica_id, all[k].replica_id);
            }
        }
        free(all);
    }
}

static void check_rows(struct storm *s)
{
    struct registry_view *v = cluster_view(s->h);
    check_invariants(v);
    uint64_t next = registry_next_replica_id(v);
    bool newest = registry_view_revision(v) >= s->revision;
    assert_true(!newest || next >= s->next_replica);
    if (newest) {
        s->revision = registry_view_revision(v);
        s->next_replica = next;
    }
    registry_view_release(v);
}

/* Does a majority of the voters run, on reachable hosts? */
static bool has_majority(struct storm *s, uint64_t shard_id, const struct raft_config *c)
{
    uint32_t voters = 0;
    uint32_t run = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        voters += m->role == RAFT_VOTER;
        for (uint64_t n = 0; n < HOSTS && m->role == RAFT_VOTER; n++) {
            const struct cluster_host *host = &s->h->hosts[n];
            struct engine_replica_status status;
            if (memcmp(host->id.bytes, m->host, sizeof m->host) == 0) {
                run += host->hostctl != NULL && !s->h->cut[n] && !s->h->mute[n] &&
                       engine_shard_status(host->engine, shard_id, &status) && !status.failed &&
                       status.replica_id == m->replica_id;
            }
        }
    }
    return run * 2 > voters;
}

/* Between two checks there is no new fault: only the controllers change members. A configuration
 * that could commit is not followed by one that cannot. */
static void check_majorities(struct storm *s)
{
    for (size_t k = 0; k < SHARDS; k++) {
        uint64_t id = cluster_shard_id(s->h, names[k]);
        struct watched *w = &s->watched[k];
        for (uint64_t n = 0; id != UINT64_MAX && n < HOSTS; n++) {
            struct engine_replica_status status;
            struct raft_config c = {0};
            if (s->h->hosts[n].hostctl == NULL || s->h->cut[n] || s->h->mute[n] ||
                !engine_shard_status(s->h->hosts[n].engine, id, &status) || !status.leader_ready ||
                !engine_shard_config(s->h->hosts[n].engine, id, &c)) {
                continue;
            }
            bool majority = has_majority(s, id, &c);
            if (w->shard_id == id && w->majority && status.config_index > w->config_index) {
                assert_true(majority);
            }
            *w = (struct watched){id, status.config_index, majority};
            raft_config_deinit(&c);
        }
    }
}

/* Starts after a fault, so earlier observations do not count. A host that fell silent is only known
 * to be silent after an election timeout. */
static void run(struct storm *s, uint64_t ms)
{
    memset(s->watched, 0, sizeof s->watched);
    for (uint64_t t = 0; t < ms; t += 50) {
        if (t >= ENGINE_ELECTION_TIMEOUT_MS) {
            check_majorities(s);
        }
        cluster_run(s->h, 50);
        check_engines(s);
    }
    check_rows(s);
}

/* ---- Trouble --------------------------------------------------------------------------------- */

static void up_again(struct storm *s, uint64_t n)
{
    uint64_t replica;
    cluster_start(s->h, n);
    memset(s->h->hosts[n].address_known, true, sizeof s->h->hosts[n].address_known);
    (void)cluster_admit(s->h, n, &replica);
}

static uint64_t pause_ms(struct storm *s)
{
    struct rand *r = &s->h->rand;
    /* Often near the grace period, where timing matters most. */
    return rand_chance(r, 0.3) ? CLUSTER_DEAD_MS - 300 + rand_below(r, 600)
                               : rand_below(r, 2 * CLUSTER_DEAD_MS);
}

static void crash(struct storm *s, uint64_t n)
{
    cluster_stop(s->h, n);
    run(s, pause_ms(s));
    up_again(s, n);
}

static void partition(struct storm *s, uint64_t n)
{
    uint64_t other = rand_below(&s->h->rand, s->joined);
    if (other != n) {
        cluster_part(s->h, n, other, true);
        run(s, pause_ms(s));
        cluster_part(s->h, n, other, false);
    }
}

static void isolate(struct storm *s, uint64_t n)
{
    cluster_cut(s->h, n, true);
    run(s, pause_ms(s));
    cluster_cut(s->h, n, false);
}

static void silence(struct storm *s, uint64_t n)
{
    s->h->mute[n] = true;
    run(s, pause_ms(s));
    s->h->mute[n] = false;
}

static void fail_machine(struct storm *s, uint64_t n)
{
    s->h->hosts[n].flaky_apply = true;
    s->h->hosts[n].flaky_open = rand_chance(&s->h->rand, 0.5);
    if (cluster_shard_id(s->h, "f") != UINT64_MAX) {
        (void)cluster_add(s->h, "f", 1);
    }
    run(s, pause_ms(s));
    s->h->hosts[n].flaky_apply = false;
    s->h->hosts[n].flaky_open = false;
}

static void change_minds(struct storm *s)
{
    struct rand *r = &s->h->rand;
    const char *name = names[rand_below(r, SHARDS)];
    uint32_t voters = rand_chance(r, 0.7) ? 3 : (uint32_t)rand_between(r, 1, 4);
    if (cluster_shard_id(s->h, name) == UINT64_MAX) {
        (void)cluster_create_type(s->h, name, name[0] == 'f' ? "flaky" : "counter", voters, 0);
    } else if (rand_chance(r, 0.15)) {
        (void)cluster_delete(s->h, name);
    } else if (name[0] != 'f') { /* update names the counter's type */
        (void)cluster_update(s->h, name, voters, voters < 4 ? (uint32_t)rand_below(r, 2) : 0);
    }
}

static void trouble(struct storm *s)
{
    struct rand *r = &s->h->rand;
    uint64_t n = rand_below(r, s->joined);
    if (n == s->deleted) {
        return;
    }
    switch (rand_below(r, 10)) {
    case 0:
    case 1:
        crash(s, n);
        break;
    case 2:
        partition(s, n);
        break;
    case 3:
        isolate(s, n);
        break;
    case 4:
        silence(s, n);
        break;
    case 5:
        fail_machine(s, n);
        break;
    case 6:
        s->h->refuse = 0.4; /* shard zero is slow to answer, or its answers get lost */
        run(s, pause_ms(s));
        s->h->refuse = 0.05;
        break;
    case 7:
        (void)cluster_host_state(s->h, n, (int32_t)rand_between(r, 1, 3));
        break;
    case 8:
        if (s->joined < HOSTS) {
            cluster_join(s->h, s->joined++);
        } else if (s->deleted == UINT64_MAX && cluster_delete_host(s->h, n) == THOLE_OK) {
            s->deleted = n;
        }
        break;
    default:
        change_minds(s);
        break;
    }
}

/* ---- One storm ------------------------------------------------------------------------------- */

static bool settled_or_gone(struct cluster *h, const char *shard)
{
    return cluster_shard_id(h, shard) == UINT64_MAX || cluster_settled(h, shard);
}

/* The operator's repair when machines failed on a majority: restart their hosts. No controller
 * rebuilds such replicas, since no other replica has newer data. */
static void restart_failed(struct storm *s)
{
    uint64_t id = cluster_shard_id(s->h, "f");
    bool failed[HOSTS] = {false};
    size_t all = 0;
    size_t bad = 0;
    for (uint64_t n = 0; id != UINT64_MAX && n < HOSTS; n++) {
        struct engine_replica_status status;
        if (s->h->hosts[n].hostctl != NULL &&
            engine_shard_status(s->h->hosts[n].engine, id, &status)) {
            failed[n] = status.failed;
            bad += status.failed;
            all++;
        }
    }
    for (uint64_t n = 0; bad * 2 >= all && n < HOSTS; n++) {
        if (failed[n]) {
            cluster_stop(s->h, n);
            up_again(s, n);
        }
    }
}

static void calm(struct storm *s)
{
    struct cluster *h = s->h;
    h->refuse = 0;
    restart_failed(s);
    for (uint64_t n = 0; n < s->joined; n++) {
        if (n != s->deleted) {
            assert_int_equal(cluster_host_state(h, n, thole_v1_HOST_STATE_ACTIVE), THOLE_OK);
        }
    }
    RUN_UNTIL(h, 120000, s->deleted == UINT64_MAX || cluster_replicas_on(h, s->deleted) == 0);
    if (s->deleted != UINT64_MAX) {
        cluster_stop(h, s->deleted); /* as its process would */
    }
    /* A shard that failed often is tried again after ten minutes. */
    RUN_UNTIL(h, 15 * 60000,
              settled_or_gone(h, "a") && settled_or_gone(h, "b") && settled_or_gone(h, "f") &&
                  cluster_settled(h, "zero") && cluster_all_see_same(h));
}

static void storm(uint64_t seed)
{
    struct storm s = {.h = cluster_new(seed), .deleted = UINT64_MAX, .joined = 5};
    cluster_bootstrap(s.h, 3);
    cluster_join(s.h, 3);
    cluster_join(s.h, 4);
    s.h->refuse = 0.05;
    assert_int_equal(cluster_create(s.h, "a", 3, 0), THOLE_OK);
    assert_int_equal(cluster_create_type(s.h, "f", "flaky", 3, 0), THOLE_OK);
    for (int i = 0; i < TROUBLES; i++) {
        trouble(&s);
        run(&s, rand_below(&s.h->rand, 2500));
    }
    calm(&s);
    run(&s, 2 * CLUSTER_DEAD_MS);
    assert_true(s.h->proposals < (size_t)COMMANDS_PER_TROUBLE * TROUBLES);
    size_t before = s.h->proposals;
    run(&s, 3000);
    assert_int_equal(s.h->proposals, before);
    cluster_free(s.h);
}

static void storm_ends_with_what_is_wanted(void **state)
{
    (void)state;
    const char *only = getenv("STORM_SEED");
    const char *count = getenv("STORM_SEEDS");
    uint64_t seeds = count != NULL ? strtoull(count, NULL, 10) : SEEDS;
    if (only != NULL) {
        storm(strtoull(only, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        if (seed % 10 == 1) {
            print_message("seeds from %" PRIu64 "\n", seed);
        }
        storm(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(storm_ends_with_what_is_wanted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
