/* Idle groups sleep; beats between their hosts detect a lost leader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/frame_codec.h"
#include "shards/engine/test/harness.h"

#include <cmocka.h>

#define T_MS 500 /* election timeout, heartbeat, and how long a group is idle before it sleeps */
#define BEAT_MS 100
#define IDLE_MS 1000

static struct replica *replica_at(struct cluster *c, int h)
{
    return c->hosts[h].engine != NULL ? map_get(&c->hosts[h].engine->by_shard, SHARD) : NULL;
}

static bool sleeps(struct cluster *c, int h)
{
    struct replica *r = replica_at(c, h);
    return r != NULL && r->core != NULL && raft_asleep(r->core);
}

static int sleepers(struct cluster *c)
{
    int n = 0;
    for (int i = 0; i < c->count; i++) {
        n += sleeps(c, i);
    }
    return n;
}

/* Three hosts whose group sleeps; returns the leader's host. */
static int lull(struct cluster *c)
{
    if (c->hosts[0].engine == NULL) {
        cluster_bootstrap(c, 3);
    }
    propose_ok(c, "x");
    RUN_UNTIL(c, 10000, sleepers(c) == 3);
    return cluster_leader(c);
}

static void expect_other_leader(struct cluster *c, int than)
{
    RUN_UNTIL(c, 3 * T_MS, cluster_leader(c) >= 0 && cluster_leader(c) != than);
}

static void test_sleep_idle_group_costs_only_beats(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 90);
    int leader = lull(c);
    uint64_t term = status_of(c, leader).term, before = c->control_frames;
    cluster_run(c, 100 * BEAT_MS);
    assert_int_equal(sleepers(c), 3);
    assert_int_equal(status_of(c, leader).term, term);
    /* One beat per interval in both directions between the leader's host and the followers' hosts.
     * The followers' hosts need not exchange beats. */
    assert_in_range(c->control_frames - before, 4 * 99, 6 * 101);
    propose_ok(c, "y");
    assert_int_equal(sleepers(c), 0);
    assert_int_equal(query_ok(c, (leader + 1) % 3).count, 2);
    (void)lull(c);
    cluster_free(c);
}

/* Sleeping replicas hold no requests from before, and a read of their status wakes no replica. */
static void test_sleep_replicas_hold_no_work(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 96);
    int leader = lull(c);
    assert_int_equal(stale_state(c, (leader + 1) % 3).count, 1);
    for (uint64_t round = 1; round <= 2; round++) {
        for (int h = 0; h < 3; h++) {
            const struct replica *r = replica_at(c, h);
            struct raft_status s;
            assert_null(r->work);
            replica_status(r, &s);
            assert_int_equal(s.commit, status_of(c, leader).commit);
            assert_int_equal(s.leader, replica_at(c, leader)->replica_id);
            assert_ptr_equal(r->shown_config, raft_config(r->core));
        }
        propose_ok(c, "y");
        assert_non_null(replica_at(c, leader)->work);
        (void)query_ok(c, (leader + 2) % 3);
        RUN_UNTIL(c, 10000, sleepers(c) == 3);
        assert_int_equal(cluster_leader(c), leader);
    }
    cluster_free(c);
}

static void test_sleep_leader_of_a_dead_host_is_replaced(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 91);
    int leader = lull(c);
    host_crash(c, leader);
    expect_other_leader(c, leader);
    propose_ok(c, "y");
    RUN_UNTIL(c, 10 * IDLE_MS, sleepers(c) == 2); /* without the stopped host */
    host_start(c, leader);
    RUN_UNTIL(c, 10 * IDLE_MS, sleepers(c) == 3);
    assert_int_equal(stale_state(c, leader).count, 2);
    cluster_free(c);
}

/* The restart is too fast for missed beats: only the incarnation reveals it. */
static void test_sleep_restart_of_a_host_is_noticed(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 92);
    int leader = lull(c);
    for (int h = 0; h < 3; h++) {
        host_crash(c, h);
        host_start(c, h);
        cluster_run(c, BEAT_MS);
        RUN_UNTIL(c, 20 * IDLE_MS, sleepers(c) == 3 && cluster_leader(c) >= 0);
    }
    (void)leader;
    propose_ok(c, "y");
    cluster_free(c);
}

static void test_sleep_partition_wakes_both_sides(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 93);
    int leader = lull(c);
    isolate(c, leader, true);
    expect_other_leader(c, leader);
    RUN_UNTIL(c, 4 * T_MS, status_of(c, leader).role != RAFT_LEADER);
    propose_ok(c, "y");
    isolate(c, leader, false);
    RUN_UNTIL(c, 20 * IDLE_MS, sleepers(c) == 3);
    assert_int_equal(stale_state(c, leader).count, 2);
    cluster_free(c);
}

/* The leader receives all frames, and its own frames are lost. */
static void test_sleep_mute_leader_is_replaced(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 94);
    int leader = lull(c);
    for (int h = 0; h < 3; h++) {
        c->cut[leader][h] = h != leader;
    }
    expect_other_leader(c, leader);
    memset(c->cut, 0, sizeof c->cut);
    RUN_UNTIL(c, 20 * IDLE_MS, sleepers(c) == 3);
    cluster_free(c);
}

/* The host stays up, its replica is deleted, and the first beats that report it are lost. */
static void test_sleep_deleted_leader_is_replaced(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 95);
    int leader = lull(c);
    struct done d = {0};
    isolate(c, leader, true);
    engine_replica_remove(c->hosts[leader].engine, (uint64_t)leader + 1, on_done, &d);
    cluster_run(c, 3 * BEAT_MS);
    assert_true(d.done);
    assert_int_equal(sleepers(c), 2);
    isolate(c, leader, false);
    expect_other_leader(c, leader);
    propose_ok(c, "y");
    cluster_free(c);
}

static void start_many(struct cluster *c, uint64_t shards)
{
    struct raft_member initial[3] = {0};
    for (uint64_t s = 1; s <= shards; s++) {
        for (int h = 0; h < 3; h++) {
            for (int i = 0; i < 3; i++) {
                initial[i] =
                    (struct raft_member){.replica_id = 1000 * s + (uint64_t)i, .role = RAFT_VOTER};
                memcpy(initial[i].host, c->hosts[i].uuid.bytes, 16);
            }
            struct done d = {0};
            struct engine_replica_spec spec = {.replica_id = 1000 * s + (uint64_t)h,
                                               .shard_id = 1000 + s,
                                               .machine_type = c->machine,
                                               .initial = initial,
                                               .initial_count = 3};
            engine_replica_start(c->hosts[h].engine, &spec, on_done, &d);
            RUN_UNTIL(c, 1000, d.done);
        }
    }
}

static uint64_t count_sleeping(struct cluster *c, int h, uint64_t shards)
{
    uint64_t n = 0;
    for (uint64_t s = 1; s <= shards; s++) {
        struct replica *r = map_get(&c->hosts[h].engine->by_shard, 1000 + s);
        n += r != NULL && r->core != NULL && raft_asleep(r->core);
    }
    return n;
}

/* More replicas than one beat can name. */
static void test_sleep_many_deleted_leaders_are_replaced(void **state)
{
    (void)state;
    enum { SHARDS = 4 * BEAT_WOKEN_MAX };
    struct cluster *c = cluster_new(3, 96);
    c->loops = 2;
    for (int h = 0; h < 3; h++) {
        host_start(c, h);
    }
    start_many(c, SHARDS);
    RUN_UNTIL(c, 20000,
              count_sleeping(c, 0, SHARDS) + count_sleeping(c, 1, SHARDS) +
                      count_sleeping(c, 2, SHARDS) ==
                  3 * SHARDS);
    struct done d[SHARDS] = {0};
    for (uint64_t s = 1; s <= SHARDS; s++) {
        engine_replica_remove(c->hosts[0].engine, 1000 * s, on_done, &d[s - 1]);
    }
    cluster_run(c, 4 * T_MS);
    for (uint64_t s = 1; s <= SHARDS; s++) {
        struct engine_replica_status a, b;
        assert_true(engine_shard_status(c->hosts[1].engine, 1000 + s, &a));
        assert_true(engine_shard_status(c->hosts[2].engine, 1000 + s, &b));
        assert_true(a.role == RAFT_LEADER || b.role == RAFT_LEADER);
    }
    cluster_free(c);
}

/* A host whose log hangs must not send beats for its leaders. */
static void test_sleep_hung_log_is_noticed(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 97);
    c->loops = 2;
    int leader = lull(c);
    struct engine *e = c->hosts[leader].engine;
    struct loop *other = e->loops[(engine__loop(e, SHARD)->index + 1) % 2];
    atomic_store(&other->in_flight_since_ns, cluster_now(c));
    cluster_run(c, T_MS); /* so long it may take */
    expect_other_leader(c, leader);
    atomic_store(&other->in_flight_since_ns, 0);
    cluster_free(c);
}

/* A sleeping follower's bounded-staleness reads are as fresh as the last beat of its leader's
 * host. */
static void test_sleep_staleness_counts_beats(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 98);
    int leader = lull(c), follower = (leader + 1) % 3;
    cluster_run(c, 10000);
    struct op *o = op_query_stale(c, follower, 3 * BEAT_MS);
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_OK);
    op_free(o);
    c->cut[leader][follower] = true;
    cluster_run(c, 4 * BEAT_MS);
    o = op_query_stale(c, follower, 3 * BEAT_MS);
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_UNAVAILABLE);
    op_free(o);
    cluster_free(c);
}

/* A SLEEP that is older than the report of its leader's end is ignored. */
static void test_sleep_old_invitation_is_refused(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 99);
    int leader = lull(c), follower = (leader + 1) % 3;
    struct engine *e = c->hosts[follower].engine;
    struct replica *r = replica_at(c, follower);
    struct peer_host *h = engine__loop_host(r->loop, &c->hosts[leader].uuid);
    struct raft_message m = {
        .kind = RAFT_MSG_SLEEP, .incarnation_from = h->incarnation, .hint = h->beat_number};
    (void)e;
    assert_true(engine__heartbeats_accepts_sleep(r->loop, &h->host, &m));
    m.hint--;
    assert_false(engine__heartbeats_accepts_sleep(r->loop, &h->host, &m));
    m.hint++;
    m.incarnation_from--;
    assert_false(engine__heartbeats_accepts_sleep(r->loop, &h->host, &m));
    c->cut[leader][follower] = true;
    cluster_run(c, 2 * T_MS);
    m.incarnation_from++;
    m.hint = UINT64_MAX;
    assert_false(engine__heartbeats_accepts_sleep(r->loop, &h->host, &m));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sleep_idle_group_costs_only_beats),
        cmocka_unit_test(test_sleep_replicas_hold_no_work),
        cmocka_unit_test(test_sleep_leader_of_a_dead_host_is_replaced),
        cmocka_unit_test(test_sleep_restart_of_a_host_is_noticed),
        cmocka_unit_test(test_sleep_partition_wakes_both_sides),
        cmocka_unit_test(test_sleep_mute_leader_is_replaced),
        cmocka_unit_test(test_sleep_deleted_leader_is_replaced),
        cmocka_unit_test(test_sleep_many_deleted_leaders_are_replaced),
        cmocka_unit_test(test_sleep_hung_log_is_noticed),
        cmocka_unit_test(test_sleep_staleness_counts_beats),
        cmocka_unit_test(test_sleep_old_invitation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
