/* Proposals, queries, refusals, deadlines, restarts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

static void test_engine_one_voter_proposes_and_queries(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 1);
    cluster_bootstrap(c, 1);
    assert_int_equal(cluster_wait_leader(c), 0);
    struct op *o = op_propose(c, 0, "a");
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_OK);
    assert_int_equal(o->r.code, 1);
    assert_int_equal(o->r.result.bytes.size, 8);
    assert_int_equal(get_le64(o->r.result.bytes.data), 1);
    op_free(o);
    assert_int_equal(query_ok(c, 0).count, 1);
    cluster_free(c);
}

static void test_engine_three_voters_query_from_all(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 2);
    cluster_bootstrap(c, 3);
    for (int i = 0; i < 20; i++) {
        propose_ok(c, "x");
    }
    for (int h = 0; h < 3; h++) {
        assert_int_equal(query_ok(c, h).count, 20);
    }
    cluster_run(c, 500);
    struct tally first = stale_state(c, 0);
    for (int h = 1; h < 3; h++) {
        assert_int_equal(stale_state(c, h).hash, first.hash);
    }
    cluster_free(c);
}

static void test_engine_many_in_flight_are_batched(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 3);
    cluster_bootstrap(c, 3);
    int leader = cluster_wait_leader(c);
    struct op *ops[3000];
    uint64_t before = c->hosts[leader].writes;
    for (int i = 0; i < 3000; i++) {
        ops[i] = op_propose(c, leader, "payload");
    }
    for (int i = 0; i < 3000; i++) {
        op_wait(ops[i]);
        assert_int_equal(ops[i]->r.status.code, THOLE_OK);
        assert_int_equal(ops[i]->r.code, i + 1);
        op_free(ops[i]);
    }
    assert_true(c->hosts[leader].writes - before < 100);
    cluster_free(c);
}

/* Results that a client reads late keep their own buffer, or share a small buffer with a few
 * others. */
static void check_results(struct cluster *c, size_t padding, size_t most, size_t batch)
{
    static struct op *ops[600];
    int leader = cluster_wait_leader(c);
    struct tally_ctx *m = &c->hosts[leader].tally;
    m->padding = padding;
    m->batch = 0;
    for (int i = 0; i < 600; i++) {
        ops[i] = op_propose(c, leader, "payload");
    }
    for (int i = 0; i < 600; i++) {
        op_wait(ops[i]);
        struct bufslice result = ops[i]->r.result;
        assert_int_equal(ops[i]->r.status.code, THOLE_OK);
        assert_int_equal(result.bytes.size, 8 + padding);
        assert_int_equal(get_le64(result.bytes.data), ops[i]->r.code);
        assert_true(result.owner->size <= most);
        assert_true(result.bytes.data >= result.owner->data &&
                    result.bytes.data + result.bytes.size <=
                        result.owner->data + result.owner->size);
    }
    for (int i = 0; i < 600; i++) {
        op_free(ops[i]);
    }
    assert_true(m->batch <= batch);
    m->padding = 0;
}

static void test_engine_results_are_bounded(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 20);
    cluster_bootstrap(c, 1);
    check_results(c, 0, 600 * 8, 512);
    check_results(c, 1000, 64 * KIB, 512);
    check_results(c, 10000, 8 + 10000, 512);
    c->hosts[0].tally.padding = LIMIT_RESULT_BYTES - 8;
    propose_ok(c, "the first");
    check_results(c, 100 * KIB, 8 + 100 * KIB, 16 * MIB / LIMIT_RESULT_BYTES);
    cluster_free(c);
}

static void test_engine_follower_refuses_with_leader_hint(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 4);
    cluster_bootstrap(c, 3);
    int leader = cluster_wait_leader(c);
    cluster_run(c, 300);
    int other = (leader + 1) % 3;
    struct op *o = op_propose(c, other, "x");
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_UNAVAILABLE);
    assert_int_equal(o->r.status.reason, THOLE_REASON_NOT_LEADER);
    assert_true(uuid_equal(&o->r.leader_host, &c->hosts[leader].uuid));
    assert_int_equal(o->r.leader_term, status_of(c, leader).term);
    op_free(o);
    cluster_free(c);
}

static void test_engine_unknown_shard_is_not_found(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 5);
    cluster_bootstrap(c, 1);
    struct op *o = op_new(c, ENGINE_PROPOSE, "x");
    o->r.shard_id = 999;
    op_submit(o, 0);
    assert_false(o->done); /* never inline */
    op_wait(o);
    assert_int_equal(o->r.status.reason, THOLE_REASON_NO_SUCH_SHARD);
    op_free(o);
    cluster_free(c);
}

static void test_engine_restart_keeps_state(void **state)
{
    (void)state;
    const char *machines[] = {"tally", "tally-plain", "ledger"};
    for (int m = 0; m < 3; m++) {
        struct cluster *c = cluster_new(3, 6);
        c->machine = machines[m];
        cluster_bootstrap(c, 3);
        for (int i = 0; i < 10; i++) {
            propose_ok(c, "x");
        }
        for (int h = 0; h < 3; h++) {
            host_stop(c, h);
        }
        for (int h = 0; h < 3; h++) {
            host_start(c, h);
        }
        cluster_wait_leader(c);
        for (int h = 0; h < 3; h++) {
            assert_int_equal(query_ok(c, h).count, 10);
        }
        for (int h = 0; h < 3; h++) {
            host_crash(c, h);
        }
        for (int h = 0; h < 3; h++) {
            host_start(c, h);
        }
        propose_ok(c, "y");
        for (int h = 0; h < 3; h++) {
            assert_int_equal(query_ok(c, h).count, 11);
        }
        cluster_free(c);
    }
}

static void test_engine_oversized_payload_is_refused(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 7);
    cluster_bootstrap(c, 1);
    cluster_wait_leader(c);
    struct op *o = op_new(c, ENGINE_PROPOSE, NULL);
    struct buf *b = buf_new(LIMIT_PAYLOAD_BYTES + 1);
    memset(b->data, 0, b->size);
    o->r.payload = (struct bufslice){b, slice_of(b->data, b->size)};
    op_submit(o, 0);
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_INVALID_ARGUMENT);
    assert_int_equal(o->r.status.reason, THOLE_REASON_TOO_LARGE);
    op_free(o);
    cluster_free(c);
}

static void test_engine_deadline_before_append_is_exceeded(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 8);
    cluster_bootstrap(c, 1);
    cluster_wait_leader(c);
    struct op *o = op_new(c, ENGINE_PROPOSE, "x");
    o->r.deadline_ns = cluster_now(c);
    op_submit(o, 0);
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_DEADLINE_EXCEEDED);
    op_free(o);
    cluster_free(c);
}

static void test_engine_deadline_after_append_is_unknown(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 9);
    cluster_bootstrap(c, 3);
    int leader = cluster_wait_leader(c);
    isolate(c, leader, true);
    struct op *p = op_new(c, ENGINE_PROPOSE, "x"), *q = op_new(c, ENGINE_QUERY, "q");
    p->r.deadline_ns = q->r.deadline_ns = cluster_now(c) + 50 * MS;
    op_submit(p, leader);
    op_submit(q, leader);
    op_wait(p);
    op_wait(q);
    assert_int_equal(p->r.status.code, THOLE_UNKNOWN);
    assert_int_equal(p->r.status.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    assert_true(p->done_ns <= cluster_now(c) && p->done_ns >= p->r.deadline_ns);
    assert_int_equal(q->r.status.code, THOLE_DEADLINE_EXCEEDED);
    op_free(p);
    op_free(q);
    isolate(c, leader, false);
    propose_ok(c, "y"); /* a late reply to the abandoned request is discarded */
    cluster_free(c);
}

static void test_engine_deposed_leader_drops_or_keeps_proposals(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 10);
    cluster_bootstrap(c, 3);
    int old = cluster_wait_leader(c);
    isolate(c, old, true);
    struct op *o = op_propose(c, old, "lost");
    o->r.deadline_ns = CLOCK_NEVER;
    RUN_UNTIL(c, 20000, cluster_leader(c) != old && cluster_leader(c) >= 0);
    propose_ok(c, "kept");
    isolate(c, old, false);
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_ABORTED);
    assert_int_equal(o->r.status.reason, THOLE_REASON_DROPPED);
    op_free(o);
    assert_int_equal(query_ok(c, old).count, 1);
    cluster_free(c);
}

static void test_engine_stop_answers_everything(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 11);
    cluster_bootstrap(c, 3);
    int leader = cluster_wait_leader(c);
    isolate(c, leader, true);
    struct op *ops[20];
    for (int i = 0; i < 20; i++) {
        ops[i] = i % 2 ? op_propose(c, leader, "x") : op_query(c, leader);
    }
    executor_manual_run(c->ex, 1000);
    host_stop(c, leader);
    for (int i = 0; i < 20; i++) {
        assert_true(ops[i]->done);
        assert_int_equal(ops[i]->r.status.reason,
                         i % 2 ? THOLE_REASON_OUTCOME_UNKNOWN : THOLE_REASON_STOPPED);
        op_free(ops[i]);
    }
    cluster_free(c);
}

static void test_engine_stale_query_respects_bound(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 12);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    cluster_run(c, 500);
    int other = (cluster_leader(c) + 1) % 3;
    struct op *o = op_query_stale(c, other, 400);
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_OK);
    op_free(o);
    isolate(c, other, true);
    cluster_run(c, 1000);
    o = op_query_stale(c, other, 400);
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_UNAVAILABLE);
    op_free(o);
    assert_int_equal(stale_state(c, other).count, 1);
    cluster_free(c);
}

static void test_engine_parked_query_keeps_its_deadline(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 14);
    cluster_bootstrap(c, 1);
    cluster_wait_leader(c);
    /* A read index beyond the applier's position, as after a long range was handed over. */
    struct replica *r = engine__find_shard(c->hosts[0].engine, SHARD);
    struct query_job *j = xcalloc(1, sizeof *j);
    struct op *a = op_new(c, ENGINE_QUERY, "q"), *b = op_new(c, ENGINE_QUERY, "q");
    j->msg.kind = MSG_QUERY;
    j->r = r;
    j->index = r->applied + 1;
    a->r.deadline_ns = cluster_now(c) + 50 * MS;
    msgq_push(&j->requests, &a->r.msg);
    msgq_push(&j->requests, &b->r.msg);
    assert_true(worker_post_internal(r->applier->w, &j->msg));
    op_wait(a);
    assert_int_equal(a->r.status.code, THOLE_DEADLINE_EXCEEDED);
    assert_true(a->done_ns - a->r.deadline_ns <= 2 * MS);
    assert_false(b->done);
    propose_ok(c, "x");
    op_wait(b);
    assert_int_equal(b->r.status.code, THOLE_OK);
    op_free(a);
    op_free(b);
    cluster_free(c);
}

static void test_engine_bad_query_fails_alone(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 13);
    cluster_bootstrap(c, 1);
    cluster_wait_leader(c);
    struct op *bad = op_new(c, ENGINE_QUERY, "!");
    op_submit(bad, 0);
    op_wait(bad);
    assert_int_equal(bad->r.status.code, THOLE_INVALID_ARGUMENT);
    op_free(bad);
    assert_int_equal(query_ok(c, 0).count, 0);
    cluster_free(c);
}

/* Groups that start together are not all led by one host. */
static void test_engine_leaders_of_many_groups_are_spread(void **state)
{
    (void)state;
    enum { GROUPS = 60 };
    struct cluster *c = cluster_new(3, 20);
    cluster_bootstrap(c, 3);
    for (uint64_t g = 1; g <= GROUPS; g++) {
        struct raft_member initial[3] = {0};
        for (uint64_t h = 0; h < 3; h++) {
            initial[h].replica_id = 100 * g + h;
            initial[h].role = RAFT_VOTER;
            memcpy(initial[h].host, c->hosts[h].uuid.bytes, 16);
        }
        for (uint64_t h = 0; h < 3; h++) {
            struct done d = {0};
            struct engine_replica_spec spec = {.replica_id = 100 * g + h,
                                               .shard_id = 100 * g,
                                               .machine_type = "tally",
                                               .initial = initial,
                                               .initial_count = 3};
            engine_replica_start(c->hosts[h].engine, &spec, on_done, &d);
            RUN_UNTIL(c, 1000, d.done);
            assert_int_equal(d.st.code, THOLE_OK);
        }
    }
    cluster_run(c, 5000);
    int led[3] = {0};
    for (uint64_t g = 1; g <= GROUPS; g++) {
        for (int h = 0; h < 3; h++) {
            struct engine_replica_status s;
            assert_true(engine_shard_status(c->hosts[h].engine, 100 * g, &s));
            led[h] += s.role == RAFT_LEADER;
        }
    }
    assert_int_equal(led[0] + led[1] + led[2], GROUPS);
    for (int h = 0; h < 3; h++) {
        assert_true(led[h] > GROUPS / 6);
    }
    cluster_free(c);
}

/* Whatever instant of the clock's minute it fell into. */
static void test_engine_one_proposal_is_load_for_minutes(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 21);
    struct engine_load load;
    cluster_bootstrap(c, 1);
    (void)propose_ok(c, "1");
    cluster_run(c, 4 * 60 * 1000);
    engine_load(c->hosts[0].engine, &load);
    assert_int_equal(load.top_count, 1);
    cluster_run(c, 4 * 60 * 1000);
    engine_load(c->hosts[0].engine, &load);
    assert_int_equal(load.top_count, 0);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_one_voter_proposes_and_queries),
        cmocka_unit_test(test_engine_three_voters_query_from_all),
        cmocka_unit_test(test_engine_many_in_flight_are_batched),
        cmocka_unit_test(test_engine_results_are_bounded),
        cmocka_unit_test(test_engine_follower_refuses_with_leader_hint),
        cmocka_unit_test(test_engine_unknown_shard_is_not_found),
        cmocka_unit_test(test_engine_restart_keeps_state),
        cmocka_unit_test(test_engine_oversized_payload_is_refused),
        cmocka_unit_test(test_engine_deadline_before_append_is_exceeded),
        cmocka_unit_test(test_engine_deadline_after_append_is_unknown),
        cmocka_unit_test(test_engine_deposed_leader_drops_or_keeps_proposals),
        cmocka_unit_test(test_engine_stop_answers_everything),
        cmocka_unit_test(test_engine_stale_query_respects_bound),
        cmocka_unit_test(test_engine_parked_query_keeps_its_deadline),
        cmocka_unit_test(test_engine_bad_query_fails_alone),
        cmocka_unit_test(test_engine_leaders_of_many_groups_are_spread),
        cmocka_unit_test(test_engine_one_proposal_is_load_for_minutes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
