/* Lease reads: the round trips they save, and that they are never stale. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

/* A leader with fresh contact to all followers; heartbeats are 100 ms apart. */
static int settled_leader(struct cluster *c)
{
    propose_ok(c, "x");
    cluster_run(c, 1000);
    uint64_t before = c->control_frames;
    while (c->control_frames == before) {
        cluster_run(c, 1);
    }
    cluster_run(c, 20);
    return cluster_leader(c);
}

static uint64_t frames_of_a_read(bool lease)
{
    struct cluster *c = cluster_new(3, 91);
    c->lease_reads = lease;
    cluster_bootstrap(c, 3);
    int leader = settled_leader(c);
    uint64_t before = c->control_frames;
    struct op *o = op_query(c, leader);
    cluster_run(c, 20);
    assert_true(o->done);
    assert_int_equal(o->r.status.code, THOLE_OK);
    uint64_t frames = c->control_frames - before;
    op_free(o);
    cluster_free(c);
    return frames;
}

static void test_engine_lease_read_sends_nothing(void **state)
{
    (void)state;
    assert_int_equal(frames_of_a_read(true), 0);
    assert_true(frames_of_a_read(false) > 0);
}

/* The old leader is cut off at every phase of its heartbeats, and queried continually. */
static void isolate_and_ask(int phase_ms, int *ret_served, int *ret_refused)
{
    struct cluster *c = cluster_new(3, 92);
    c->lease_reads = true;
    cluster_bootstrap(c, 3);
    int old = settled_leader(c);
    cluster_run(c, (uint64_t)phase_ms);
    isolate(c, old, true);
    struct op *write = NULL;
    for (int ms = 0; ms < 2000; ms += 5) {
        int leader = cluster_leader(c);
        bool written = write != NULL && write->done && write->r.status.code == THOLE_OK;
        if (leader >= 0 && leader != old && write == NULL) {
            write = op_propose(c, leader, "y");
        }
        struct op *o = op_query(c, old);
        cluster_run(c, 5);
        bool served = o->done && o->r.status.code == THOLE_OK;
        assert_false(served && written); /* such a read would be stale */
        *ret_served += served;
        *ret_refused += o->done && !served;
        if (!o->done) {
            op_wait(o);
        }
        op_free(o);
    }
    assert_true(write != NULL && write->done && write->r.status.code == THOLE_OK);
    op_free(write);
    cluster_free(c);
}

static void test_engine_isolated_leader_serves_nothing_stale(void **state)
{
    int served = 0, refused = 0;
    (void)state;
    for (int phase_ms = 0; phase_ms < 100; phase_ms += 9) {
        isolate_and_ask(phase_ms, &served, &refused);
    }
    assert_true(served > 0 && refused > 0);
}

/* The lease promise outlives a restart of the voters that made it. */
static void test_engine_restarted_voters_keep_their_promise(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 93);
    c->lease_reads = true;
    cluster_bootstrap(c, 3);
    int old = settled_leader(c);
    isolate(c, old, true);
    for (int i = 0; i < 3; i++) {
        if (i == old) {
            continue;
        }
        host_crash(c, i);
        host_start(c, i);
    }
    uint64_t begin = cluster_now(c);
    while (cluster_leader(c) < 0 || cluster_leader(c) == old) {
        cluster_run(c, 1);
    }
    assert_true(cluster_now(c) - begin >= 500 * MS);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_lease_read_sends_nothing),
        cmocka_unit_test(test_engine_isolated_leader_serves_nothing_stale),
        cmocka_unit_test(test_engine_restarted_voters_keep_their_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
