/* Quorum loss: engine_force, and those who come back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

static enum thole_code force_wait(struct cluster *c, int h, uint64_t shard_id, uint64_t epoch)
{
    struct done d = {0};
    engine_force(c->hosts[h].engine, shard_id, epoch, on_done, &d);
    RUN_UNTIL(c, 5000, d.done);
    return d.st.code;
}

static void add_voter(struct cluster *c, int leader, int h)
{
    struct raft_change add = change_one(RAFT_CHANGE_ADD_LEARNER, h);
    struct raft_change promote = change_one(RAFT_CHANGE_ADD_VOTER, h);
    host_join(c, h);
    assert_int_equal(change_wait(c, leader, &add), THOLE_OK);
    assert_int_equal(change_wait(c, leader, &promote), THOLE_OK);
    RUN_UNTIL(c, 10000, status_of(c, h).voter);
}

/* The log that is left gives indexes out again that the lost one had used: a client that opened its
 * session in the lost one must not find itself in somebody else's. */
static void test_engine_force_gives_no_session_out_twice(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 64);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    cluster_run(c, 500);
    int keep = (cluster_wait_leader(c) + 1) % 3;
    isolate(c, keep, true);
    struct op *old = NULL;
    for (int i = 0; i < 10; i++) { /* the forced entry and a no-op take the first indexes */
        if (old)
            op_free(old);
        old = op_open_session(c, cluster_wait_leader(c));
        op_wait(old);
        assert_int_equal(old->r.status.code, THOLE_OK);
    }
    for (int h = 0; h < 3; h++)
        if (h != keep)
            host_crash(c, h);
    isolate(c, keep, false);
    assert_int_equal(force_wait(c, keep, SHARD, 1), THOLE_OK);
    uint64_t index = 0;
    while (index < old->r.index) {
        struct op *o = op_open_session(c, keep);
        op_wait(o);
        assert_int_equal(o->r.status.code, THOLE_OK);
        assert_int_not_equal(o->r.code, old->r.code);
        index = o->r.index;
        op_free(o);
    }
    struct op *late = op_propose_in(c, keep, old->r.code, 1, "late");
    op_wait(late);
    assert_int_equal(late->r.status.reason, THOLE_REASON_SESSION_EXPIRED);
    op_free(late);
    op_free(old);
    cluster_free(c);
}

static void test_engine_force_recovers_from_quorum_loss(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(5, 61);
    cluster_bootstrap(c, 3);
    for (int i = 0; i < 5; i++)
        propose_ok(c, "x");
    cluster_run(c, 1000);
    host_crash(c, 0);
    host_crash(c, 1);
    cluster_run(c, 2000);
    struct engine_replica_status before = status_of(c, 2);
    assert_int_equal(before.epoch, 0);
    assert_true(before.last_term > 0 && before.last_index >= 5);

    assert_int_equal(force_wait(c, 2, SHARD, 1), THOLE_OK);
    struct engine_replica_status s = status_of(c, 2);
    assert_int_equal(s.epoch, 1);
    assert_true(s.leader_ready && s.last_term > before.last_term);
    propose_ok(c, "y");
    assert_int_equal(force_wait(c, 2, SHARD, 1), THOLE_FAILED_PRECONDITION);
    assert_int_equal(force_wait(c, 2, SHARD + 1, 1), THOLE_NOT_FOUND);

    add_voter(c, 2, 3);
    add_voter(c, 2, 4);
    assert_int_equal(query_ok(c, 3).count, 6);
    assert_int_equal(status_of(c, 3).epoch, 1);

    /* The lost ones come back, as a majority of what they know. */
    host_start(c, 0);
    host_start(c, 1);
    RUN_UNTIL(c, 20000, status_of(c, 0).superseded || status_of(c, 1).superseded);
    cluster_run(c, 5000);
    for (int h = 0; h < 2; h++) {
        assert_int_not_equal(status_of(c, h).role, RAFT_LEADER);
        if (status_of(c, h).superseded) {
            assert_true(status_of(c, h).failed);
            assert_non_null(strstr(status_of(c, h).failure, "superseded"));
        }
    }
    propose_ok(c, "z");

    /* All of it lasts. */
    for (int h = 2; h < 5; h++)
        host_crash(c, h);
    for (int h = 2; h < 5; h++)
        host_start(c, h);
    RUN_UNTIL(c, 20000, cluster_leader(c) >= 2);
    assert_int_equal(query_ok(c, cluster_leader(c)).count, 7);
    assert_int_equal(status_of(c, 4).epoch, 1);
    cluster_free(c);
}

/* A crash right after the call: either it never happened, or it leads at the next start. */
static void test_engine_force_survives_a_crash_or_never_was(void **state)
{
    int happened = 0;
    (void)state;
    for (uint64_t ms = 0; ms < 12; ms++) {
        struct cluster *c = cluster_new(3, 62);
        cluster_bootstrap(c, 3);
        propose_ok(c, "x");
        cluster_run(c, 1000);
        host_crash(c, 0);
        host_crash(c, 1);
        struct done d = {0};
        engine_force(c->hosts[2].engine, SHARD, 3, on_done, &d);
        if (ms > 0)
            cluster_run(c, ms);
        bool answered = d.done && d.st.code == THOLE_OK;
        host_crash(c, 2);
        host_start(c, 2);
        cluster_run(c, 3000);
        struct engine_replica_status s = status_of(c, 2);
        assert_true(s.epoch == 3 || (s.epoch == 0 && !answered));
        assert_true((s.epoch == 3) == (s.role == RAFT_LEADER));
        happened += s.epoch == 3;
        if (s.epoch == 0) {
            host_start(c, 0);
            RUN_UNTIL(c, 10000, cluster_leader(c) >= 0);
        }
        assert_int_equal(query_ok(c, cluster_leader(c)).count, 1);
        cluster_free(c);
    }
    assert_true(happened > 0 && happened < 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_force_recovers_from_quorum_loss),
        cmocka_unit_test(test_engine_force_gives_no_session_out_twice),
        cmocka_unit_test(test_engine_force_survives_a_crash_or_never_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
