/* Random crashes, partitions and loss, over many seeds. No acknowledged proposal is lost, each is
 * applied once, and all replicas end in the same state. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

#define SEEDS 40 /* STORM_SEEDS overrides; STORM_SEED runs one alone */
#define CLIENTS 8

struct client { /* one session, one proposal at a time, retried until it has a reply */
    struct op *op;
    uint64_t session, sequence, acknowledged;
};
struct storm {
    struct cluster *c;
    struct rand rand;
    struct client clients[CLIENTS];
    uint64_t acknowledged;
    struct done changes[16]; /* replies are ignored: any reply is fine */
    size_t change_count;
    struct op *query;
    uint64_t query_floor; /* acknowledged before the query was sent */
    int queries;
};

static int random_host(struct storm *s)
{
    return (int)rand_below(&s->rand, (uint64_t)s->c->count);
}

static void collect(struct storm *s, struct client *k)
{
    struct op *o = k->op;
    if (o == NULL || !o->done) {
        return;
    }
    k->op = NULL;
    if (o->r.kind == ENGINE_OPEN_SESSION && o->r.status.code == THOLE_OK) {
        k->session = o->r.code;
    } else if (o->r.status.code == THOLE_OK) {
        k->acknowledged++;
        k->sequence++;
        s->acknowledged++;
    } else {
        /* These errors are wrong for a session in use, and for a sequence in its window. */
        assert_int_not_equal(o->r.status.reason, THOLE_REASON_SESSION_EXPIRED);
        assert_int_not_equal(o->r.status.reason, THOLE_REASON_SEQUENCE_TOO_OLD);
    }
    op_free(o);
}

static void submit(struct storm *s, struct client *k)
{
    struct cluster *c = s->c;
    int h = rand_chance(&s->rand, 0.7) ? cluster_leader(c) : random_host(s);
    if (k->op != NULL || h < 0 || c->hosts[h].engine == NULL) {
        return;
    }
    k->op = op_new(c, k->session ? ENGINE_PROPOSE : ENGINE_OPEN_SESSION, k->session ? "x" : NULL);
    k->op->r.session = k->session;
    k->op->r.sequence = k->sequence;
    k->op->r.deadline_ns = cluster_now(c) + 2000 * MS;
    op_submit(k->op, h);
}

/* A linearizable read on any host sees all proposals that were acknowledged before it started. */
static void read_sometimes(struct storm *s)
{
    struct cluster *c = s->c;
    if (s->query != NULL && s->query->done) {
        if (s->query->r.status.code == THOLE_OK) {
            struct tally t;
            memcpy(&t, s->query->r.result.bytes.data, sizeof t);
            assert_true(t.count >= s->query_floor);
            s->queries++;
        }
        op_free(s->query);
        s->query = NULL;
    }
    int h = random_host(s);
    if (s->query != NULL || c->hosts[h].engine == NULL) {
        return;
    }
    s->query_floor = s->acknowledged;
    s->query = op_query(c, h);
    s->query->r.deadline_ns = cluster_now(c) + 3000 * MS;
}

/* A replica becomes a learner, or a voter again, or the target of a transfer. */
static void rearrange(struct storm *s, int h)
{
    struct cluster *c = s->c;
    int leader = cluster_leader(c);
    if (leader < 0 || s->change_count == 16) {
        return;
    }
    struct done *d = &s->changes[s->change_count++];
    struct raft_change change =
        change_one(rand_chance(&s->rand, 0.4) ? RAFT_CHANGE_DEMOTE : RAFT_CHANGE_ADD_VOTER, h);
    if (rand_chance(&s->rand, 0.4)) {
        engine_transfer(c->hosts[leader].engine, SHARD, (uint64_t)h + 1, NULL, on_done, d);
    } else {
        engine_change(c->hosts[leader].engine, SHARD, &change, on_done, d);
    }
}

static void trouble(struct storm *s)
{
    struct cluster *c = s->c;
    int h = random_host(s);
    switch (rand_below(&s->rand, 10)) {
    case 0:
    case 1:
        host_crash(c, h);
        break;
    case 2:
        host_stop(c, h);
        break;
    case 3:
        isolate(c, h, rand_chance(&s->rand, 0.5));
        break;
    case 4:
        c->cut[h][random_host(s)] = rand_chance(&s->rand, 0.5);
        break;
    case 5:
        c->drop = rand_chance(&s->rand, 0.5) ? 0.15 : 0;
        c->delay_ms_max = rand_below(&s->rand, 60);
        break;
    case 6:
    case 7:
        rearrange(s, h);
        break;
    default:
        for (int i = 0; i < c->count; i++) {
            if (c->hosts[i].engine == NULL) {
                host_start(c, i);
            }
        }
    }
}

static void calm(struct storm *s)
{
    struct cluster *c = s->c;
    c->drop = 0;
    c->delay_ms_max = 2;
    memset(c->cut, 0, sizeof c->cut);
    for (int i = 0; i < c->count; i++) {
        if (c->hosts[i].engine == NULL) {
            host_start(c, i);
        }
    }
    for (int i = 0; i < CLIENTS; i++) {
        if (s->clients[i].op != NULL) {
            op_wait(s->clients[i].op);
            collect(s, &s->clients[i]);
        }
    }
    if (s->query != NULL) {
        op_wait(s->query);
        op_free(s->query);
        s->query = NULL;
    }
}

/* Each client's last unanswered proposal is settled by a retry; then the count is exact. */
static void settle(struct storm *s)
{
    uint64_t total = 0;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *k = &s->clients[i];
        uint64_t target = k->acknowledged + 1;
        while (!k->session || k->acknowledged < target) {
            (void)cluster_wait_leader(s->c);
            submit(s, k);
            if (k->op != NULL) {
                op_wait(k->op);
            }
            collect(s, k);
            cluster_run(s->c, 20);
        }
        total += k->acknowledged;
    }
    struct cluster *c = s->c;
    for (int h = 0; h < c->count; h++) {
        assert_int_equal(query_ok(c, h).count, total);
    }
    uint64_t hash = stale_state(c, 0).hash;
    for (int h = 1; h < c->count; h++) {
        assert_int_equal(stale_state(c, h).hash, hash);
    }
}

static void run_storm(uint64_t seed, const char *machine, int hosts)
{
    struct storm s = {.c = cluster_new(hosts, seed)};
    struct cluster *c = s.c;
    rand_seed(&s.rand, seed * 31 + 7);
    c->machine = machine;
    c->compact_log_bytes = 3000;
    c->keep_log_bytes = 500;
    cluster_bootstrap(c, hosts);
    for (int step = 0; step < 600; step++) {
        for (int i = 0; i < CLIENTS; i++) {
            collect(&s, &s.clients[i]);
            submit(&s, &s.clients[i]);
        }
        read_sometimes(&s);
        if (rand_chance(&s.rand, 0.08)) {
            trouble(&s);
        }
        cluster_run(c, rand_below(&s.rand, 60));
    }
    calm(&s);
    settle(&s);
    cluster_free(c);
    for (size_t i = 0; i < s.change_count; i++) {
        assert_true(s.changes[i].done);
    }
}

static void storms(const char *machine, int hosts, uint64_t base)
{
    const char *one = getenv("STORM_SEED");
    const char *many = getenv("STORM_SEEDS");
    uint64_t seeds = many != NULL ? strtoull(many, NULL, 10) : SEEDS;
    for (uint64_t seed = base; seed < base + seeds; seed++) {
        if (one != NULL && strtoull(one, NULL, 10) != seed) {
            continue;
        }
        print_message("seed %" PRIu64 "\r", seed);
        run_storm(seed, machine, hosts);
    }
}

static void test_engine_storm_three_hosts_memory(void **state)
{
    (void)state;
    storms("tally", 3, 100000);
}

static void test_engine_storm_three_hosts_persistent(void **state)
{
    (void)state;
    storms("ledger", 3, 200000);
}

static void test_engine_storm_five_hosts(void **state)
{
    (void)state;
    storms("tally-plain", 5, 300000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_storm_three_hosts_memory),
        cmocka_unit_test(test_engine_storm_three_hosts_persistent),
        cmocka_unit_test(test_engine_storm_five_hosts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
