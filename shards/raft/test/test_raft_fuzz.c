/* Random runs of a whole cluster: crashes that lose what was not synced, messages lost, duplicated
 * and reordered, partitions, membership changes, compaction, transfers and reads. The checker looks
 * for broken safety all the time; at the end a healed cluster must make progress.
 *
 * RAFT_FUZZ_SEED=<n> runs one seed; RAFT_FUZZ_RUNS=<n> runs that many. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/assert.h"
#include "shards/raft/test/core_cluster.h"

#define STEPS 600
#define READS_MAX 4096

struct world {
    struct cluster c;
    uint64_t next_read;
    uint64_t read_floor[READS_MAX]; /* what was applied somewhere when the read was asked */
    uint64_t revision;
    uint64_t reads_done, reads_failed, changes;
};

static uint64_t random_node(struct world *w)
{
    return 1 + rand_below(&w->c.rand, w->c.node_count);
}

static void set_weather(struct world *w)
{
    struct cluster *c = &w->c;

    c->latency_min_ms = 0;
    c->latency_max_ms = rand_below(&c->rand, 4) == 0 ? 60 : 5;
    c->drop = rand_below(&c->rand, 3) == 0 ? 0.2 : 0.01;
    c->duplicate = 0.05;
    c->disk_max_ms = rand_below(&c->rand, 3) == 0 ? 80 : 3;
}

static void random_links(struct world *w)
{
    struct cluster *c = &w->c;
    uint64_t a = random_node(w);
    uint64_t b = random_node(w);

    switch (rand_below(&c->rand, 6)) {
    case 0:
        cluster_isolate(c, a);
        break;
    case 1:
        c->cut[a][b] = a != b; /* one direction only */
        break;
    case 2:
        if (a != b) {
            cluster_cut(c, a, b);
        }
        break;
    default:
        cluster_heal(c);
        break;
    }
}

static void random_crash(struct world *w)
{
    struct node *n = node_at(&w->c, random_node(w));

    if (n->raft == NULL) {
        node_start(&w->c, n->id);
        return;
    }
    /* Some of the writes under way may have made it. */
    if (n->write_count > 0) {
        (void)node_sync(&w->c, n->id, rand_below(&w->c.rand, n->write_count + 1));
    }
    node_crash(&w->c, n->id);
    n->options.pre_vote = rand_below(&w->c.rand, 4) != 0;
    n->options.cache_bytes = rand_below(&w->c.rand, 2) == 0 ? 0 : 2000;
    if (rand_below(&w->c.rand, 2) == 0) {
        node_start(&w->c, n->id);
    }
}

static void random_change(struct world *w)
{
    struct raft_change change = {.revision = ++w->revision};
    uint64_t leader = cluster_leader(&w->c);
    uint64_t items = 1 + rand_below(&w->c.rand, 3);

    if (leader == 0) {
        return;
    }
    if (rand_below(&w->c.rand, 8) == 0) {
        change.revision /= 2; /* a controller with a stale view */
    }
    for (uint64_t i = 0; i < items; i++) {
        uint64_t id = random_node(w);
        enum raft_change_op op = (enum raft_change_op)(1 + rand_below(&w->c.rand, 5));
        if (op == RAFT_CHANGE_REMOVE && (id <= 2 || rand_below(&w->c.rand, 4) != 0)) {
            op = RAFT_CHANGE_DEMOTE; /* ids never come back: keep some */
        }
        if (node_at(&w->c, id)->options.witness) {
            op = rand_below(&w->c.rand, 8) == 0 ? RAFT_CHANGE_REMOVE : RAFT_CHANGE_ADD_WITNESS;
        } else if (op == RAFT_CHANGE_ADD_WITNESS) {
            op = RAFT_CHANGE_ADD_VOTER;
        }
        change_add(&change, op, id);
    }
    w->changes += node_change(&w->c, leader, &change) == THOLE_OK;
}

static void random_read(struct world *w)
{
    struct node *n = node_at(&w->c, random_node(w));

    if (n->raft == NULL || w->next_read == READS_MAX || n->read_count > 200) {
        return;
    }
    if (raft_read(n->raft, w->next_read, w->c.now_ms, NULL) == THOLE_OK) {
        w->read_floor[w->next_read++] = w->c.checker.committed_count;
    }
}

static void check_reads(struct world *w)
{
    for (size_t i = 1; i <= w->c.node_count; i++) {
        struct node *n = node_at(&w->c, i);
        for (size_t k = 0; k < n->read_count; k++) {
            ASSERT(n->reads[k].failed || n->reads[k].index >= w->read_floor[n->reads[k].context]);
            w->reads_done += !n->reads[k].failed;
            w->reads_failed += n->reads[k].failed;
        }
        n->read_count = 0;
    }
}

static void random_compact(struct world *w)
{
    struct node *n = node_at(&w->c, random_node(w));

    if (n->raft != NULL && n->applied > 0) {
        node_compact(&w->c, n->id, 1 + rand_below(&w->c.rand, n->applied));
    }
}

static void step(struct world *w)
{
    struct cluster *c = &w->c;
    uint64_t id = random_node(w);
    uint64_t dice = rand_below(&c->rand, 100);

    if (dice < 45) {
        if (c->nodes[id].raft != NULL) {
            (void)node_propose(c, id, 8 + rand_below(&c->rand, 100));
        }
        uint64_t leader = cluster_leader(c);
        if (leader != 0) {
            (void)node_propose(c, leader, 8);
        }
    } else if (dice < 60) {
        random_read(w);
    } else if (dice < 66) {
        random_crash(w);
    } else if (dice < 74) {
        random_links(w);
    } else if (dice < 78) {
        set_weather(w);
    } else if (dice < 84) {
        random_change(w);
    } else if (dice < 90) {
        random_compact(w);
    } else if (dice < 93) {
        uint64_t leader = cluster_leader(c);
        if (leader != 0) {
            enum thole_code code = raft_transfer(c->nodes[leader].raft, 0, c->now_ms, NULL);
            (void)code;
        }
    } else if (dice < 95 && c->nodes[id].raft != NULL) {
        raft_campaign(c->nodes[id].raft, c->now_ms);
    } else if (dice < 97 && c->nodes[id].raft != NULL) {
        raft_unreachable(c->nodes[id].raft, random_node(w));
    }
    cluster_run(c, rand_below(&c->rand, 30));
    check_reads(w);
}

/* Everything works again: a leader, and a proposal that all members apply. */
static void recover(struct world *w)
{
    struct cluster *c = &w->c;

    cluster_heal(c);
    c->drop = 0;
    c->duplicate = 0;
    c->latency_max_ms = 1;
    c->disk_max_ms = 0;
    for (size_t i = 1; i <= c->node_count; i++) {
        c->nodes[i].options.pre_vote = true;
        if (c->nodes[i].raft != NULL) {
            node_crash(c, i);
        }
        node_start(c, i);
    }
    cluster_run(c, 20 * TIMEOUT_MS);
    for (int i = 0; i < 20; i++) {
        uint64_t leader = cluster_elect(c, 50 * TIMEOUT_MS);
        if (node_propose(c, leader, 8) == THOLE_OK) {
            break;
        }
        cluster_run(c, TIMEOUT_MS);
    }
    cluster_run(c, 20 * TIMEOUT_MS);
    cluster_assert_converged(c);
    check_reads(w);
}

static void run_seed(uint64_t seed)
{
    static struct world w;

    w = (struct world){0};
    cluster_init(&w.c, 3 + seed % 3, seed);
    for (uint64_t i = 0; i < 1 + seed % 4; i++) {
        struct node *n = cluster_join(&w.c);
        n->options.witness = i == 1;
        node_restart(&w.c, n->id);
    }
    for (size_t i = 1; i <= w.c.node_count && seed % 2 == 0; i++) {
        node_at(&w.c, i)->options.lease = true;
        node_restart(&w.c, i);
    }
    set_weather(&w);
    for (int i = 0; i < STEPS; i++) {
        step(&w);
    }
    recover(&w);
    if (getenv("RAFT_FUZZ_VERBOSE") != NULL) {
        print_message("seed %" PRIu64 ": committed %zu, term %" PRIu64 ", reads %" PRIu64
                      " + %" PRIu64 " failed, changes %" PRIu64 "\n",
                      seed, w.c.checker.committed_count, node_term(&w.c, 1), w.reads_done,
                      w.reads_failed, w.changes);
    }
    cluster_deinit(&w.c);
}

static void test_random_runs(void **state)
{
    const char *one = getenv("RAFT_FUZZ_SEED");
    const char *runs = getenv("RAFT_FUZZ_RUNS");
    uint64_t n = runs != NULL ? strtoull(runs, NULL, 10) : 60;
    (void)state;

    if (one != NULL) {
        run_seed(strtoull(one, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= n; seed++) {
        if (getenv("RAFT_FUZZ_VERBOSE") != NULL) {
            (void)fprintf(stderr, "seed %" PRIu64 "\n", seed);
        }
        run_seed(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_runs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
