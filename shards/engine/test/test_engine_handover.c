/* Leadership transfer before a stop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/test/shifted_clock.h"
#include "shards/engine/test/harness.h"

#include <cmocka.h>

enum { GROUPS = 20, FIRST = 100 };

/* Groups FIRST.. on all hosts, all led by host h. */
static void lead_many(struct cluster *c, int h)
{
    static struct done started[GROUPS][HOSTS_MAX], moved[GROUPS][HOSTS_MAX];
    memset(started, 0, sizeof started);
    memset(moved, 0, sizeof moved);
    for (uint64_t g = 0; g < GROUPS; g++) {
        struct raft_member m[HOSTS_MAX] = {{0}};
        for (int i = 0; i < c->count; i++) {
            m[i] =
                (struct raft_member){.replica_id = 1000 + g * 10 + (uint64_t)i, .role = RAFT_VOTER};
            memcpy(m[i].host, c->hosts[i].uuid.bytes, 16);
        }
        for (int i = 0; i < c->count; i++) {
            struct engine_replica_spec spec = {.replica_id = m[i].replica_id,
                                               .shard_id = FIRST + g,
                                               .machine_type = "tally",
                                               .initial = m,
                                               .initial_count = (size_t)c->count};
            engine_replica_start(c->hosts[i].engine, &spec, on_done, &started[g][i]);
        }
    }
    cluster_run(c, 3000);
    for (uint64_t g = 0; g < GROUPS; g++) {
        for (int i = 0; i < c->count; i++) {
            engine_transfer(c->hosts[i].engine, FIRST + g, 1000 + g * 10 + (uint64_t)h, NULL,
                            on_done, &moved[g][i]);
        }
    }
    cluster_run(c, 500);
}

static int led_by(struct cluster *c, int h)
{
    struct engine_replica_status *all;
    int n = 0;
    size_t count = engine_replicas(c->hosts[h].engine, &all);
    for (size_t i = 0; i < count; i++) {
        n += all[i].role == RAFT_LEADER;
    }
    free(all);
    return n;
}

static void hand_over(struct cluster *c, int h, uint64_t ms, struct done *d)
{
    *d = (struct done){0};
    engine_hand_over(c->hosts[h].engine, cluster_now(c) + ms * MS, on_done, d);
}

static void test_engine_hand_over_moves_all_groups_without_an_election_timeout(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 61);
    c->loops = 2;
    c->delay_ms_max = 5;
    cluster_bootstrap(c, 3);
    lead_many(c, 0);
    assert_true(led_by(c, 0) >= GROUPS);
    struct op *ops[GROUPS];
    for (uint64_t g = 0; g < GROUPS; g++) {
        ops[g] = op_new(c, ENGINE_PROPOSE, "x");
        ops[g]->r.shard_id = FIRST + g;
        op_submit(ops[g], 0);
    }
    struct done d;
    uint64_t begin = cluster_now(c);
    hand_over(c, 0, 3000, &d);
    RUN_UNTIL(c, 100, d.done); /* elections would take 500 at least */
    assert_int_equal(d.st.code, THOLE_OK);
    assert_int_equal(led_by(c, 0), 0);
    host_stop(c, 0);
    int led = led_by(c, 1) + led_by(c, 2);
    assert_true(led >= GROUPS);
    for (uint64_t g = 0; g < GROUPS; g++) { /* entries appended here get their outcome */
        op_wait(ops[g]);
        assert_true(ops[g]->r.status.code == THOLE_OK ||
                    ops[g]->r.status.reason == THOLE_REASON_TRANSFERRING);
        assert_true(ops[g]->done_ns - begin < 200 * MS);
        op_free(ops[g]);
    }
    cluster_free(c);
}

static void test_engine_hand_over_keeps_what_comes_back_moving(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 62);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int leader = cluster_leader(c), other;
    struct done d, back = {0};
    hand_over(c, leader, 3000, &d);
    RUN_UNTIL(c, 100, d.done);
    RUN_UNTIL(c, 400, cluster_leader(c) >= 0);
    other = cluster_leader(c);
    assert_int_not_equal(other, leader);
    engine_transfer(c->hosts[other].engine, SHARD, (uint64_t)leader + 1, NULL, on_done, &back);
    RUN_UNTIL(c, 400, back.done);
    RUN_UNTIL(c, 400, cluster_leader(c) >= 0 && cluster_leader(c) != leader);
    cluster_free(c);
}

static void test_engine_hand_over_of_a_group_alone_is_done_at_once(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 63);
    cluster_bootstrap(c, 1);
    propose_ok(c, "x");
    struct done d;
    hand_over(c, 0, 3000, &d);
    RUN_UNTIL(c, 20, d.done);
    assert_int_equal(d.st.code, THOLE_OK);
    propose_ok(c, "y"); /* the host continues to serve */
    cluster_free(c);
}

static void test_engine_hand_over_with_an_undecided_proposal_ends_at_its_deadline(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 64);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int leader = cluster_leader(c);
    isolate(c, leader, true);
    struct op *o = op_propose(c, leader, "lost");
    cluster_run(c, 20);
    struct done d;
    hand_over(c, leader, 2000, &d);
    cluster_run(c, 1900);
    assert_false(d.done);
    RUN_UNTIL(c, 200, d.done);
    assert_int_equal(d.st.code, THOLE_DEADLINE_EXCEEDED);
    host_stop(c, leader);
    op_wait(o);
    op_free(o);
    cluster_free(c);
}

static void test_engine_stopped_while_it_hands_over_answers(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 65);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int leader = cluster_leader(c);
    isolate(c, leader, true);
    struct op *o = op_propose(c, leader, "lost");
    cluster_run(c, 20);
    struct done d;
    hand_over(c, leader, 100000, &d);
    cluster_run(c, 100);
    assert_false(d.done);
    host_stop(c, leader);
    assert_true(d.done);
    op_wait(o);
    op_free(o);
    cluster_free(c);
}

static uint64_t highest_term(struct cluster *c)
{
    uint64_t term = 0;
    struct engine_replica_status s;
    for (int h = 0; h < c->count; h++) {
        for (uint64_t g = 0; g < GROUPS; g++) {
            if (engine_shard_status(c->hosts[h].engine, FIRST + g, &s) && s.term > term) {
                term = s.term;
            }
        }
    }
    return term;
}

/* The groups sleep when the disk fills up. */
static void test_engine_low_space_hands_leaders_to_hosts_that_can_write(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 66);
    c->loops = 2;
    cluster_bootstrap(c, 3);
    lead_many(c, 0);
    cluster_run(c, 3000);
    assert_true(led_by(c, 0) >= GROUPS);
    engine_files_memory_set_free_bytes(c->hosts[0].files, 1000);
    engine_files_memory_set_free_bytes(c->hosts[1].files, 1000);
    RUN_UNTIL(c, 2000, led_by(c, 2) >= GROUPS);
    assert_int_equal(led_by(c, 0) + led_by(c, 1), 0);
    assert_int_equal(engine_disk(c->hosts[0].engine), ENGINE_DISK_LOW);
    /* No host can write any more: the leaders stay where they are. */
    engine_files_memory_set_free_bytes(c->hosts[2].files, 1000);
    cluster_run(c, 2000);
    uint64_t term = highest_term(c);
    cluster_run(c, 5000);
    assert_int_equal(led_by(c, 2), GROUPS + 1);
    assert_int_equal(highest_term(c), term);
    engine_files_memory_set_free_bytes(c->hosts[1].files, UINT64_MAX);
    RUN_UNTIL(c, 2000, led_by(c, 1) >= GROUPS);
    cluster_free(c);
}

/* ---- Wall clocks ----------------------------------------------------------------------------- */

/* From its next call on, the engine of host `i` reads a clock that tests can shift. */
static void use_clock(struct cluster *c, int i, struct shifted_clock *s)
{
    shifted_clock_init(s, executor_clock(c->ex), 0);
    c->hosts[i].engine->clock = &s->clock;
}

static void test_engine_wrong_clock_hands_leaders_to_hosts_with_right_ones(void **state)
{
    (void)state;
    struct shifted_clock clock[3];
    struct cluster *c = cluster_new(3, 68);
    c->loops = 2;
    cluster_bootstrap(c, 3);
    for (int i = 0; i < 3; i++) {
        use_clock(c, i, &clock[i]);
    }
    lead_many(c, 0);
    clock[0].ahead_ms = -(LIMIT_CLOCK_AHEAD_MS - 100);
    cluster_run(c, 10000);
    assert_false(engine_clock_is_wrong(c->hosts[0].engine));
    assert_true(led_by(c, 0) >= GROUPS); /* and they sleep */
    clock[0].ahead_ms = LIMIT_CLOCK_AHEAD_MS + 1;
    RUN_UNTIL(c, 6000, led_by(c, 0) == 0);
    assert_true(engine_clock_is_wrong(c->hosts[0].engine));
    assert_int_equal(engine_clock_ahead_ms(c->hosts[0].engine) / 100, LIMIT_CLOCK_AHEAD_MS / 100);
    assert_false(engine_clock_is_wrong(c->hosts[1].engine));
    /* It comes back in time; no leadership returns because of that. */
    clock[0].ahead_ms = 0;
    RUN_UNTIL(c, 6000, !engine_clock_is_wrong(c->hosts[0].engine));
    cluster_free(c);
}

/* Each of two hosts is as far from the other: neither can tell which one is wrong. */
static void test_engine_two_clocks_do_not_judge_each_other(void **state)
{
    (void)state;
    struct shifted_clock clock[2];
    struct cluster *c = cluster_new(2, 69);
    cluster_bootstrap(c, 2);
    use_clock(c, 0, &clock[0]);
    use_clock(c, 1, &clock[1]);
    lead_many(c, 0);
    uint64_t term = highest_term(c);
    clock[0].ahead_ms = INT64_C(365) * 24 * 3600 * 1000;
    cluster_run(c, 20000);
    assert_true(led_by(c, 0) >= GROUPS);
    assert_int_equal(highest_term(c), term);
    cluster_free(c);
}

/* A host that was stopped reads the beats of that time at once, and its clock is right. */
static void test_engine_old_beats_make_no_clock_wrong(void **state)
{
    (void)state;
    struct shifted_clock clock[3];
    struct cluster *c = cluster_new(3, 70);
    cluster_bootstrap(c, 3);
    for (int i = 0; i < 3; i++) {
        use_clock(c, i, &clock[i]);
    }
    lead_many(c, 0);
    uint64_t term = highest_term(c);
    for (int round = 0; round < 3; round++) {
        clock[0].ahead_ms = 2 * LIMIT_CLOCK_AHEAD_MS;
        cluster_run(c, 1500);
        assert_false(engine_clock_is_wrong(c->hosts[0].engine));
        clock[0].ahead_ms = 0;
        cluster_run(c, 1500);
    }
    assert_int_equal(highest_term(c), term);
    cluster_free(c);
}

static uint64_t late(const struct clock *c)
{
    return clock_now(CONTAINER_OF(c, const struct shifted_clock, clock)->of) + 500 * NS_PER_MS;
}

/* Every beat arrives after the begin of the turn that looks at it. */
static void test_engine_beats_of_this_turn_count(void **state)
{
    (void)state;
    struct shifted_clock clock[3];
    struct cluster *c = cluster_new(3, 71);
    cluster_bootstrap(c, 3);
    for (int i = 0; i < 3; i++) {
        use_clock(c, i, &clock[i]);
    }
    clock[0].clock.monotonic_ns = late;
    lead_many(c, 0);
    clock[0].ahead_ms = 2 * LIMIT_CLOCK_AHEAD_MS;
    RUN_UNTIL(c, 6000, engine_clock_is_wrong(c->hosts[0].engine));
    cluster_free(c);
}

static uint64_t unknown(const struct clock *c)
{
    (void)c;
    return 0;
}

static void test_engine_beats_without_a_clock_judge_nobody(void **state)
{
    (void)state;
    struct shifted_clock clock[3];
    struct cluster *c = cluster_new(3, 72);
    cluster_bootstrap(c, 3);
    for (int i = 0; i < 3; i++) {
        use_clock(c, i, &clock[i]);
    }
    lead_many(c, 0);
    clock[1].clock.wall_ms = unknown;
    clock[2].clock.wall_ms = unknown;
    cluster_run(c, 6000);
    assert_false(engine_clock_is_wrong(c->hosts[0].engine));
    cluster_free(c);
}

static void test_engine_transfer_to_the_leader_is_done_at_once(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 67);
    cluster_bootstrap(c, 3);
    lead_many(c, 0);
    struct done d = {0};
    struct engine_replica_status s;
    assert_true(engine_shard_status(c->hosts[0].engine, FIRST, &s));
    engine_transfer(c->hosts[0].engine, FIRST, s.replica_id, NULL, on_done, &d);
    RUN_UNTIL(c, 20, d.done);
    assert_int_equal(d.st.code, THOLE_OK);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_hand_over_moves_all_groups_without_an_election_timeout),
        cmocka_unit_test(test_engine_hand_over_keeps_what_comes_back_moving),
        cmocka_unit_test(test_engine_hand_over_of_a_group_alone_is_done_at_once),
        cmocka_unit_test(test_engine_hand_over_with_an_undecided_proposal_ends_at_its_deadline),
        cmocka_unit_test(test_engine_low_space_hands_leaders_to_hosts_that_can_write),
        cmocka_unit_test(test_engine_wrong_clock_hands_leaders_to_hosts_with_right_ones),
        cmocka_unit_test(test_engine_two_clocks_do_not_judge_each_other),
        cmocka_unit_test(test_engine_old_beats_make_no_clock_wrong),
        cmocka_unit_test(test_engine_beats_of_this_turn_count),
        cmocka_unit_test(test_engine_beats_without_a_clock_judge_nobody),
        cmocka_unit_test(test_engine_transfer_to_the_leader_is_done_at_once),
        cmocka_unit_test(test_engine_stopped_while_it_hands_over_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
