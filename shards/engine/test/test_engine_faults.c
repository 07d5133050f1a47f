/* Which faults stop one replica, which stop the host, and which resources are bounded. Also
 * watches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shards/engine/frame_codec.h"
#include "shards/engine/test/harness.h"

#include <cmocka.h>

static void test_engine_failing_machine_stops_alone(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 51);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int bad = (cluster_leader(c) + 1) % 3;
    c->hosts[bad].tally.poisoned = true;
    propose_ok(c, TALLY_POISON);
    RUN_UNTIL(c, 2000, status_of(c, bad).failed);
    assert_non_null(strstr(status_of(c, bad).failure, "poisoned"));
    assert_false(status_of(c, bad).unopened);
    assert_int_equal(c->hosts[bad].host_failed, 0);
    struct op *o = op_query_stale(c, bad, 0);
    op_wait(o);
    assert_int_equal(o->r.status.reason, THOLE_REASON_MACHINE_FAILED);
    op_free(o);
    propose_ok(c, "y");
    assert_int_equal(query_ok(c, cluster_leader(c)).count, 3);
    cluster_free(c);
}

/* The caller is told to try another replica, not that data is lost. The replica fails, so another
 * one leads, and nothing else is asked of the damaged data. */
static void test_engine_query_that_meets_damage_fails_its_replica(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 59);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int bad = cluster_leader(c);
    atomic_store(&c->hosts[bad].tally.damaged, true);
    struct op *a = op_query(c, bad), *b = op_query_stale(c, bad, 0);
    op_wait(a);
    op_wait(b);
    assert_int_equal(a->r.status.code, THOLE_UNAVAILABLE);
    assert_int_equal(a->r.status.reason, THOLE_REASON_MACHINE_FAILED);
    assert_int_equal(b->r.status.code, THOLE_UNAVAILABLE);
    assert_int_equal(a->r.result.bytes.size + b->r.result.bytes.size, 0);
    op_free(a);
    op_free(b);
    RUN_UNTIL(c, 2000, status_of(c, bad).failed);
    assert_non_null(strstr(status_of(c, bad).failure, "a table cannot be read"));
    assert_false(status_of(c, bad).unopened);
    assert_int_equal(c->hosts[bad].host_failed, 0);
    atomic_store(&c->hosts[bad].tally.damaged, false); /* it stays failed all the same */
    struct op *o = op_query_stale(c, bad, 0);
    op_wait(o);
    assert_int_equal(o->r.status.reason, THOLE_REASON_MACHINE_FAILED);
    op_free(o);
    RUN_UNTIL(c, 20000, cluster_leader(c) >= 0 && cluster_leader(c) != bad);
    propose_ok(c, "y");
    assert_int_equal(query_ok(c, cluster_leader(c)).count, 2);
    cluster_free(c);
}

/* The data is intact: another start opens it. */
static void test_engine_replica_whose_type_is_missing_is_unopened_and_kept(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 54);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int bad = (cluster_leader(c) + 1) % 3;
    struct host *h = &c->hosts[bad];
    host_crash(c, bad);
    for (size_t t = 0; t < 3; t++) {
        h->types[t] = h->types[t + 1];
    }
    host_start(c, bad);
    RUN_UNTIL(c, 2000, status_of(c, bad).failed);
    assert_true(status_of(c, bad).unopened);
    host_crash(c, bad);
    for (size_t t = 0; t < 3; t++) {
        h->types[t] = &h->types_[t];
    }
    host_start(c, bad);
    propose_ok(c, "y");
    RUN_UNTIL(c, 5000, status_of(c, bad).applied == status_of(c, cluster_leader(c)).applied);
    assert_false(status_of(c, bad).failed || status_of(c, bad).unopened);
    cluster_free(c);
}

static void test_engine_failing_machine_of_leader_answers_unknown(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 52);
    cluster_bootstrap(c, 3);
    int leader = cluster_wait_leader(c);
    c->hosts[leader].tally.poisoned = true;
    struct op *a = op_propose(c, leader, TALLY_POISON), *b = op_propose(c, leader, "after");
    op_wait(a);
    op_wait(b);
    assert_int_equal(a->r.status.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    assert_int_equal(b->r.status.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    op_free(a);
    op_free(b);
    RUN_UNTIL(c, 20000, cluster_leader(c) >= 0 && cluster_leader(c) != leader);
    propose_ok(c, "y");
    cluster_free(c);
}

static void test_engine_failed_write_stops_the_host(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 53);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int leader = cluster_leader(c);
    c->hosts[leader].fail_writes = true;
    struct op *o = op_propose(c, leader, "lost");
    op_wait(o);
    assert_int_equal(o->r.status.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    op_free(o);
    assert_int_equal(c->hosts[leader].host_failed, 1);
    o = op_propose(c, leader, "refused");
    op_wait(o);
    assert_int_equal(o->r.status.reason, THOLE_REASON_DISK);
    op_free(o);
    RUN_UNTIL(c, 20000, cluster_leader(c) >= 0 && cluster_leader(c) != leader);
    propose_ok(c, "y");
    assert_int_equal(c->hosts[leader].host_failed, 1);
    c->hosts[leader].fail_writes = false;
    host_crash(c, leader);
    host_start(c, leader);
    cluster_run(c, 2000);
    assert_int_equal(stale_state(c, leader).hash, stale_state(c, cluster_leader(c)).hash);
    cluster_free(c);
}

/* A copy of a disk must not serve: a group with one voter would, without asking another host. */
static void test_engine_fenced_host_serves_nothing(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 56);
    struct thole_status copy = {0};
    cluster_bootstrap(c, 1);
    propose_ok(c, "x");
    thole_status_set(&copy, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_INCARNATION, __FILE__,
                     __LINE__, "a copy");
    struct op *before = op_propose(c, 0, "before");
    engine_fence(c->hosts[0].engine, &copy);
    engine_fence(c->hosts[0].engine, &copy);
    struct op *write = op_propose(c, 0, "after"), *read = op_query(c, 0);
    op_wait(before);
    op_wait(write);
    op_wait(read);
    assert_int_not_equal(before->r.status.code, THOLE_OK);
    assert_int_equal(write->r.status.reason, THOLE_REASON_STOPPED);
    assert_int_equal(read->r.status.reason, THOLE_REASON_STOPPED);
    assert_int_equal(read->r.status.code, THOLE_UNAVAILABLE);
    assert_true(status_of(c, 0).failed);
    assert_int_equal(c->hosts[0].host_failed, 0);
    op_free(before);
    op_free(write);
    op_free(read);
    cluster_free(c);
}

static void test_engine_low_space_refuses_proposals(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 54);
    cluster_bootstrap(c, 1);
    propose_ok(c, "x");
    engine_files_memory_set_free_bytes(c->hosts[0].files, 1000);
    cluster_run(c, 3000);
    propose_ok(c, "notices");
    cluster_run(c, 10);
    struct op *o = op_propose(c, 0, "refused");
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(o->r.status.reason, THOLE_REASON_LOW_SPACE);
    op_free(o);
    engine_files_memory_set_free_bytes(c->hosts[0].files, UINT64_MAX);
    cluster_run(c, 3000);
    o = op_propose(c, 0, "refused, but looks again");
    op_wait(o);
    op_free(o);
    cluster_run(c, 10);
    propose_ok(c, "y");
    cluster_free(c);
}

static void test_engine_full_queue_refuses(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 55);
    cluster_bootstrap(c, 1);
    cluster_wait_leader(c);
    int n = ENGINE_QUEUE_MAX + 100, full = 0, ok = 0;
    struct op **ops = xcalloc((size_t)n, sizeof(struct op *));
    for (int i = 0; i < n; i++) {
        ops[i] = op_propose(c, 0, "x");
    }
    for (int i = 0; i < n; i++) {
        op_wait(ops[i]);
        full += ops[i]->r.status.reason == THOLE_REASON_QUEUE_FULL;
        ok += ops[i]->r.status.code == THOLE_OK;
        op_free(ops[i]);
    }
    assert_int_equal(full, 100);
    assert_int_equal(ok, ENGINE_QUEUE_MAX);
    free(ops);
    cluster_free(c);
}

static void test_engine_uncommitted_bytes_are_bounded(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 56);
    cluster_bootstrap(c, 3);
    int leader = cluster_wait_leader(c);
    isolate(c, leader, true);
    char *text = xmalloc(LIMIT_PAYLOAD_BYTES + 1);
    memset(text, 'x', LIMIT_PAYLOAD_BYTES);
    text[LIMIT_PAYLOAD_BYTES] = 0;
    struct op *ops[80];
    int full = 0;
    for (int i = 0; i < 80; i++) {
        ops[i] = op_propose(c, leader, text);
    }
    cluster_run(c, 10);
    for (int i = 0; i < 80; i++) {
        full += ops[i]->done && ops[i]->r.status.reason == THOLE_REASON_QUEUE_FULL;
    }
    assert_true(full >= 10);
    isolate(c, leader, false);
    for (int i = 0; i < 80; i++) {
        op_wait(ops[i]);
        op_free(ops[i]);
    }
    propose_ok(c, "y");
    free(text);
    cluster_free(c);
}

static void test_engine_malformed_frames_are_dropped(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 57);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int64_t before = metric_value(&engine_bad_frames);
    for (int i = 0; i < 2000; i++) {
        struct buf *b = buf_new(1 + rand_below(&c->rand, 200));
        for (size_t k = 0; k < b->size; k++) {
            b->data[k] = (uint8_t)(rand_chance(&c->rand, 0.5) ? rand_below(&c->rand, 16)
                                                              : rand_u64(&c->rand));
        }
        enum engine_lane lane = (enum engine_lane)(1 + rand_below(&c->rand, 3));
        engine_deliver(c->hosts[0].engine, &c->hosts[1].uuid, 1, lane,
                       (struct bufslice){b, slice_of(b->data, b->size)});
        executor_manual_run(c->ex, 1000);
    }
    assert_true(metric_value(&engine_bad_frames) - before > 1000);
    propose_ok(c, "y");
    assert_int_equal(query_ok(c, 0).count, 2);
    cluster_free(c);
}

/* Entries that the store would refuse must be dropped earlier: a refused write stops the whole
 * host. */
static void test_engine_oversized_entry_of_a_peer_is_dropped(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 58);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    cluster_run(c, 500);
    int leader = cluster_leader(c), h = (leader + 1) % 3;
    struct engine_replica_status s = status_of(c, h);
    struct buf *payload = buf_new(LIMIT_PAYLOAD_BYTES + 1);
    memset(payload->data, 'p', payload->size);
    struct bufslice large = {payload, slice_of(payload->data, payload->size)};
    struct raft_entry *e = raft_entry_new(RAFT_ENTRY_COMMAND, 0, 0, large);
    e->index = s.last_index + 1;
    e->term = s.term;
    struct out_msg m = {.shard_id = SHARD,
                        .raft = {.kind = RAFT_MSG_APPEND,
                                 .from = (uint64_t)leader + 1,
                                 .to = (uint64_t)h + 1,
                                 .term = s.term,
                                 .index = s.last_index,
                                 .log_term = s.term,
                                 .entries = &e,
                                 .entry_count = 1}};
    int64_t before = metric_value(&engine_bad_frames);
    engine_deliver(c->hosts[h].engine, &c->hosts[leader].uuid, 1, ENGINE_LANE_APPEND,
                   codec_frame(&m, 1));
    raft_entry_unref(e);
    cluster_run(c, 100);
    assert_int_equal(c->hosts[h].host_failed, 0);
    assert_int_equal(metric_value(&engine_bad_frames) - before, 1);
    propose_ok(c, "y");
    RUN_UNTIL(c, 5000, stale_state(c, h).count == 2);
    cluster_free(c);
}

/* A member's heartbeat that arrives from another host. And a heartbeat from a non-member, with a
 * term so high that no election could follow. */
static void test_engine_replicas_are_heard_from_their_hosts_alone(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 59);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    cluster_run(c, 500);
    int leader = cluster_leader(c), h = (leader + 1) % 3, other = (leader + 2) % 3;
    const struct engine_replica_status before = status_of(c, h);
    const int64_t bad = metric_value(&engine_bad_frames);
    struct out_msg m = {.shard_id = SHARD,
                        .raft = {.kind = RAFT_MSG_HEARTBEAT,
                                 .from = (uint64_t)leader + 1,
                                 .to = (uint64_t)h + 1,
                                 .term = before.term + 5}};
    engine_deliver(c->hosts[h].engine, &c->hosts[other].uuid, 1, ENGINE_LANE_CONTROL,
                   codec_frame(&m, 1));
    m.raft.from = 77;
    m.raft.term = UINT64_C(1) << 60;
    engine_deliver(c->hosts[h].engine, &c->hosts[other].uuid, 1, ENGINE_LANE_CONTROL,
                   codec_frame(&m, 1));
    cluster_run(c, 100);
    assert_int_equal(status_of(c, h).term, before.term);
    assert_int_equal(metric_value(&engine_bad_frames) - bad, 2);
    assert_int_equal(cluster_leader(c), leader);
    propose_ok(c, "y");
    cluster_free(c);
}

static void test_engine_hung_writer_loses_leadership(void **state)
{
    (void)state;
    /* The loop detects a batch that is at the writer for longer than T. The manual executor cannot
     * hang one worker, so the test turns the clock of the oldest batch back. */
    struct cluster *c = cluster_new(3, 58);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int leader = cluster_leader(c);
    struct loop *l = c->hosts[leader].engine->loops[0];
    struct write_batch stuck = {.loop = l};
    assert_null(l->in_flight);
    stuck.posted_ns = cluster_now(c);
    l->in_flight = &stuck;
    atomic_store(&l->in_flight_since_ns, stuck.posted_ns);
    struct op *waiting = op_propose(c, leader, "outcome unknown");
    RUN_UNTIL(c, 20000, cluster_leader(c) >= 0 && cluster_leader(c) != leader);
    RUN_UNTIL(c, 1000, waiting->done); /* long before its deadline */
    assert_int_equal(waiting->r.status.code, THOLE_UNKNOWN);
    op_free(waiting);
    struct op *o = op_propose(c, leader, "refused");
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_UNAVAILABLE);
    op_free(o);
    l->in_flight = NULL;
    atomic_store(&l->in_flight_since_ns, 0);
    propose_ok(c, "y");
    cluster_run(c, 2000);
    assert_int_equal(stale_state(c, leader).count, 3); /* the successor had the one in question */
    cluster_free(c);
}

/* ---- Watching -------------------------------------------------------------------------------- */

struct seen {
    int events, ended;
    uint64_t last_index;
    struct engine *e;
    uint64_t id;
    int unwatch_after;
};

static void on_event(void *ctx, uint64_t index, struct slice key, struct slice event)
{
    struct seen *s = ctx;
    assert_true(index > s->last_index);
    assert_int_equal(key.size, 1);
    assert_true(event.size > 0);
    s->last_index = index;
    if (++s->events == s->unwatch_after) {
        engine_unwatch(s->e, s->id);
    }
}

static void on_ended(void *ctx, const struct thole_status *st)
{
    struct seen *s = ctx;
    assert_int_not_equal(st->code, THOLE_OK);
    s->ended++;
}

/* A follower that is notified of the leader's end votes at once, without waiting for an election
 * timeout. */
static void test_engine_peer_down_ends_loyalty(void **state)
{
    (void)state;
    uint64_t took_ms[2];
    for (int told = 0; told < 2; told++) {
        struct cluster *c = cluster_new(3, 77);
        cluster_bootstrap(c, 3);
        propose_ok(c, "x");
        int old = cluster_leader(c), candidate = (old + 1) % 3, voter = (old + 2) % 3;
        cluster_run(c, 1000);
        isolate(c, old, true);
        cluster_run(c, 20);
        if (told) {
            engine_peer_state(c->hosts[voter].engine, &c->hosts[old].uuid, false);
        }
        engine_peer_state(c->hosts[candidate].engine, &c->hosts[old].uuid, false);
        uint64_t begin = cluster_now(c);
        cluster_run(c, 10);
        assert_int_equal(status_of(c, candidate).leader_replica, 0);
        assert_true(told == (status_of(c, voter).leader_replica == 0));
        RUN_UNTIL(c, 20000, cluster_leader(c) >= 0 && cluster_leader(c) != old);
        took_ms[told] = (cluster_now(c) - begin) / MS;
        cluster_free(c);
    }
    assert_true(took_ms[1] <= took_ms[0]);
}

static void test_engine_watch_sees_every_later_event(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 59);
    cluster_bootstrap(c, 3);
    uint64_t index = propose_ok(c, "before"), from = 0;
    int h = (cluster_leader(c) + 1) % 3;
    cluster_run(c, 500);
    struct engine *e = c->hosts[h].engine;
    struct seen a = {.e = e}, b = {.e = e, .unwatch_after = 3};
    struct engine_watcher w = {&a, on_event, on_ended}, v = {&b, on_event, on_ended};
    a.id = engine_watch(e, SHARD, &w, &from);
    assert_int_not_equal(a.id, 0);
    assert_int_equal(from, index);
    b.id = engine_watch(e, SHARD, &v, NULL);
    assert_int_equal(engine_watch(e, 999, &w, NULL), 0);
    for (int i = 0; i < 5; i++) {
        index = propose_ok(c, "x");
    }
    cluster_run(c, 500);
    assert_int_equal(a.events, 5);
    assert_int_equal(a.last_index, index);
    assert_int_equal(b.events, 3);
    host_stop(c, h);
    assert_int_equal(a.ended, 1);
    assert_int_equal(b.ended, 0);
    cluster_free(c);
}

static uint64_t cpu_ms(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A client with that many watches disconnects: each of its watches ends by itself. */
static void test_engine_many_watches_end_quickly(void **state)
{
    (void)state;
    enum { N = 60000 };
    struct cluster *c = cluster_new(1, 60);
    cluster_bootstrap(c, 1);
    propose_ok(c, "x");
    struct engine *e = c->hosts[0].engine;
    struct seen s = {.e = e};
    const struct engine_watcher w = {&s, on_event, on_ended};
    uint64_t *ids = calloc(N, sizeof *ids);
    for (int i = 0; i < N; i++) {
        ids[i] = engine_watch(e, SHARD, &w, NULL);
    }
    uint64_t begin = cpu_ms();
    for (int i = 0; i < N; i++) {
        engine_unwatch(e, ids[i]);
    }
    assert_true(cpu_ms() - begin < 1000);
    propose_ok(c, "nobody hears it");
    assert_int_equal(s.events, 0);
    assert_int_equal(s.ended, 0);
    free(ids);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_failing_machine_stops_alone),
        cmocka_unit_test(test_engine_query_that_meets_damage_fails_its_replica),
        cmocka_unit_test(test_engine_replica_whose_type_is_missing_is_unopened_and_kept),
        cmocka_unit_test(test_engine_failing_machine_of_leader_answers_unknown),
        cmocka_unit_test(test_engine_failed_write_stops_the_host),
        cmocka_unit_test(test_engine_fenced_host_serves_nothing),
        cmocka_unit_test(test_engine_low_space_refuses_proposals),
        cmocka_unit_test(test_engine_full_queue_refuses),
        cmocka_unit_test(test_engine_uncommitted_bytes_are_bounded),
        cmocka_unit_test(test_engine_malformed_frames_are_dropped),
        cmocka_unit_test(test_engine_oversized_entry_of_a_peer_is_dropped),
        cmocka_unit_test(test_engine_replicas_are_heard_from_their_hosts_alone),
        cmocka_unit_test(test_engine_hung_writer_loses_leadership),
        cmocka_unit_test(test_engine_peer_down_ends_loyalty),
        cmocka_unit_test(test_engine_watch_sees_every_later_event),
        cmocka_unit_test(test_engine_many_watches_end_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
