/* Membership, transfer, removal, tombstones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

static void test_engine_grows_from_one_to_three(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 41);
    cluster_bootstrap(c, 1);
    for (int i = 0; i < 5; i++) {
        propose_ok(c, "x");
    }
    for (int h = 1; h < 3; h++) {
        struct raft_change add = change_one(RAFT_CHANGE_ADD_LEARNER, h);
        struct raft_change promote = change_one(RAFT_CHANGE_ADD_VOTER, h);
        host_join(c, h);
        assert_int_equal(change_wait(c, 0, &add), THOLE_OK);
        RUN_UNTIL(c, 10000, stale_state(c, h).count == 5);
        assert_int_equal(change_wait(c, 0, &promote), THOLE_OK);
        RUN_UNTIL(c, 10000, status_of(c, h).voter);
    }
    host_crash(c, 0);
    RUN_UNTIL(c, 20000, cluster_leader(c) > 0);
    propose_ok(c, "y");
    assert_int_equal(query_ok(c, 1).count, 6);
    cluster_free(c);
}

static void test_engine_progress_of_peers_is_shown(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 42);
    cluster_bootstrap(c, 3);
    uint64_t index = propose_ok(c, "x");
    int leader = cluster_leader(c), other = (leader + 1) % 3;
    struct raft_peer_status p = {0};
    struct engine *e = c->hosts[leader].engine;
    RUN_UNTIL(c, 5000, engine_shard_peer(e, SHARD, (uint64_t)other + 1, &p) && p.match >= index);
    assert_false(engine_shard_peer(c->hosts[other].engine, SHARD, (uint64_t)leader + 1, &p));
    struct raft_config config = {0};
    assert_true(engine_shard_config(c->hosts[other].engine, SHARD, &config));
    assert_int_equal(config.member_count, 3);
    raft_config_deinit(&config);
    cluster_free(c);
}

static void test_engine_changes_are_refused_for_a_reason(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(4, 43);
    cluster_bootstrap(c, 3);
    int leader = cluster_wait_leader(c);
    cluster_run(c, 300);
    struct raft_change add = change_one(RAFT_CHANGE_ADD_LEARNER, 3);
    assert_int_equal(change_wait(c, (leader + 1) % 3, &add), THOLE_UNAVAILABLE);
    struct raft_change unknown = change_one(RAFT_CHANGE_REMOVE, 6);
    assert_int_equal(change_wait(c, leader, &unknown), THOLE_FAILED_PRECONDITION);
    add.revision = 10;
    assert_int_equal(change_wait(c, leader, &add), THOLE_OK);
    struct raft_change stale = change_one(RAFT_CHANGE_REMOVE, 3);
    stale.revision = 9;
    assert_int_equal(change_wait(c, leader, &stale), THOLE_FAILED_PRECONDITION);
    cluster_free(c);
}

static void test_engine_transfers_leadership(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 44);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int leader = cluster_leader(c), target = (leader + 1) % 3;
    cluster_run(c, 500);
    struct done d = {0}, e = {0};
    engine_transfer(c->hosts[leader].engine, SHARD, (uint64_t)target + 1, NULL, on_done, &d);
    RUN_UNTIL(c, 5000, d.done);
    assert_int_equal(d.st.code, THOLE_OK);
    RUN_UNTIL(c, 5000, cluster_leader(c) == target);
    isolate(c, leader, true);
    engine_transfer(c->hosts[target].engine, SHARD, (uint64_t)leader + 1, NULL, on_done, &e);
    RUN_UNTIL(c, 10000, e.done);
    assert_int_equal(e.st.code, THOLE_ABORTED);
    cluster_free(c);
}

static enum thole_code remove_wait(struct cluster *c, int h, uint64_t replica)
{
    struct done d = {0};
    engine_replica_remove(c->hosts[h].engine, replica, on_done, &d);
    RUN_UNTIL(c, 5000, d.done);
    return d.st.code;
}

static enum thole_code start_wait(struct cluster *c, int h, uint64_t replica, uint64_t shard,
                                  const char *type)
{
    struct done d = {0};
    struct engine_replica_spec spec = {
        .replica_id = replica, .shard_id = shard, .machine_type = type};
    engine_replica_start(c->hosts[h].engine, &spec, on_done, &d);
    RUN_UNTIL(c, 5000, d.done);
    return d.st.code;
}

static void no_event(void *ctx, uint64_t index, struct slice key, struct slice event)
{
    (void)ctx;
    (void)index;
    (void)key;
    (void)event;
}

static void test_engine_witness_serves_no_watch_and_no_query(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(2, 46);
    cluster_bootstrap(c, 1);
    propose_ok(c, "x");
    struct done d = {0};
    struct engine_replica_spec spec = {
        .replica_id = 2, .shard_id = SHARD, .machine_type = "tally", .witness = true};
    host_start(c, 1);
    engine_replica_start(c->hosts[1].engine, &spec, on_done, &d);
    RUN_UNTIL(c, 5000, d.done);
    assert_int_equal(d.st.code, THOLE_OK);
    assert_true(status_of(c, 1).witness);
    assert_false(status_of(c, 0).witness);
    const struct engine_watcher w = {.event = no_event};
    uint64_t from = 0;
    assert_true(engine_watch(c->hosts[1].engine, SHARD, &w, &from) == 0);
    assert_true(engine_watch(c->hosts[0].engine, SHARD, &w, &from) != 0);
    for (int stale = 0; stale < 2; stale++) {
        struct op *q = stale ? op_query_stale(c, 1, 0) : op_query(c, 1);
        op_wait(q);
        assert_int_equal(q->r.status.code, THOLE_UNAVAILABLE); /* another replica can answer */
        assert_int_equal(q->r.status.reason, THOLE_REASON_NOT_READY);
        op_free(q);
    }
    cluster_free(c);
}

static void check_removal(const char *machine)
{
    struct cluster *c = cluster_new(3, 45);
    c->machine = machine;
    c->compact_log_bytes = 2000;
    c->keep_log_bytes = 200;
    cluster_bootstrap(c, 3);
    for (int i = 0; i < 100; i++) {
        propose_ok(c, "a payload of some bytes");
    }
    int leader = cluster_leader(c), gone = (leader + 1) % 3;
    struct raft_change remove = change_one(RAFT_CHANGE_REMOVE, gone);
    assert_int_equal(change_wait(c, leader, &remove), THOLE_OK);
    uint64_t id = (uint64_t)gone + 1;
    assert_int_equal(remove_wait(c, gone, id), THOLE_OK);
    assert_int_equal(remove_wait(c, gone, id), THOLE_OK);
    struct engine_replica_status s;
    assert_false(engine_shard_status(c->hosts[gone].engine, SHARD, &s));
    assert_int_equal(start_wait(c, gone, id, SHARD, machine), THOLE_FAILED_PRECONDITION);
    assert_int_equal(ledger_disk_spaces(c->hosts[gone].ledger), 0);
    host_crash(c, gone);
    host_start(c, gone);
    uint64_t *tombstones;
    assert_int_equal(engine_tombstones(c->hosts[gone].engine, &tombstones), 1);
    assert_int_equal(tombstones[0], id);
    free(tombstones);
    /* The same shard may return to this host under another replica id. */
    assert_int_equal(start_wait(c, gone, 50, SHARD, machine), THOLE_OK);
    struct raft_change add = change_one(RAFT_CHANGE_ADD_LEARNER, gone);
    add.items[0].replica_id = 50;
    assert_int_equal(change_wait(c, cluster_wait_leader(c), &add), THOLE_OK);
    RUN_UNTIL(c, 20000, stale_state(c, gone).count == 100);
    cluster_free(c);
}

static void test_engine_removed_replica_leaves_a_tombstone(void **state)
{
    (void)state;
    check_removal("tally");
    check_removal("ledger");
}

static void test_engine_deleted_replica_harms_nobody(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 46);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    int leader = cluster_leader(c), other = (leader + 1) % 3;
    /* A replica is deleted on its host without having left the group: the group continues without
     * it, and it does not return. */
    assert_int_equal(remove_wait(c, other, (uint64_t)other + 1), THOLE_OK);
    cluster_run(c, 1000);
    propose_ok(c, "y");
    assert_int_equal(query_ok(c, cluster_leader(c)).count, 2);
    cluster_free(c);
}

static void test_engine_start_checks_what_is_there(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 47);
    cluster_bootstrap(c, 1);
    assert_int_equal(start_wait(c, 0, 1, SHARD, "tally"), THOLE_OK);
    assert_int_equal(start_wait(c, 0, 2, SHARD, "tally"), THOLE_ALREADY_EXISTS);
    assert_int_equal(start_wait(c, 0, 3, 99, "nonesuch"), THOLE_NOT_FOUND);
    assert_int_equal(start_wait(c, 0, 0, 99, "tally"), THOLE_INVALID_ARGUMENT);
    /* A replica that never existed may get a tombstone, and the tombstone may be forgotten. */
    struct done d = {0}, e = {0};
    assert_int_equal(remove_wait(c, 0, 77), THOLE_OK);
    assert_int_equal(start_wait(c, 0, 77, 99, "tally"), THOLE_FAILED_PRECONDITION);
    engine_replica_forget(c->hosts[0].engine, 77, on_done, &d);
    RUN_UNTIL(c, 1000, d.done);
    engine_replica_forget(c->hosts[0].engine, 78, on_done, &e);
    RUN_UNTIL(c, 1000, e.done);
    assert_int_equal(e.st.code, THOLE_OK);
    /* Its id cannot be reused, and a request for it does no harm to the host. */
    assert_int_equal(start_wait(c, 0, 77, 99, "tally"), THOLE_FAILED_PRECONDITION);
    assert_int_equal(remove_wait(c, 0, 77), THOLE_OK);
    assert_int_equal(start_wait(c, 0, 79, 98, "tally"), THOLE_OK);
    uint64_t *tombstones;
    assert_int_equal(engine_tombstones(c->hosts[0].engine, &tombstones), 0);
    free(tombstones);
    struct engine_replica_status *all;
    assert_int_equal(engine_replicas(c->hosts[0].engine, &all), 2);
    free(all);
    cluster_free(c);
}

/* A replica that no store would accept must be refused earlier: a failed write stops the host. */
static void test_engine_impossible_replicas_are_refused(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 49);
    cluster_bootstrap(c, 1);
    struct raft_member initial[2] = {{.replica_id = 11, .role = RAFT_VOTER},
                                     {.replica_id = 12, .role = RAFT_VOTER}};
    struct engine_replica_spec spec = {.shard_id = 99, .machine_type = c->machine};
    const struct {
        uint64_t id, other;
        uint8_t role;
    } bad[] = {{0, 12, RAFT_VOTER},  {UINT64_MAX, 12, RAFT_VOTER},
               {11, 11, RAFT_VOTER}, {11, 0, RAFT_VOTER},
               {11, 12, 9},          {11, 12, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct done d = {0};
        initial[1].replica_id = bad[i].other;
        initial[1].role = bad[i].role;
        spec.replica_id = bad[i].id;
        spec.initial = initial;
        spec.initial_count = 2;
        engine_replica_start(c->hosts[0].engine, &spec, on_done, &d);
        RUN_UNTIL(c, 1000, d.done);
        assert_int_equal(d.st.code, THOLE_INVALID_ARGUMENT);
    }
    const uint64_t none[] = {0, UINT64_MAX};
    for (int i = 0; i < 2; i++) {
        struct done d = {0};
        engine_replica_remove(c->hosts[0].engine, none[i], on_done, &d);
        RUN_UNTIL(c, 1000, d.done);
        assert_int_equal(d.st.code, THOLE_INVALID_ARGUMENT);
    }
    assert_int_equal(c->hosts[0].host_failed, 0);
    propose_ok(c, "x");
    cluster_free(c);
}

/* The tombstone is written before the replica exists: the replica never starts, whenever its start
 * is requested. */
static void test_engine_buried_replica_does_not_start(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 50);
    c->loops = 2;
    cluster_bootstrap(c, 1);
    for (uint64_t id = 20; id < 24; id++) {
        struct done removed = {0}, started = {0};
        struct engine_replica_spec spec = {
            .replica_id = id, .shard_id = 100 + id, .machine_type = c->machine};
        engine_replica_remove(c->hosts[0].engine, id, on_done, &removed);
        engine_replica_start(c->hosts[0].engine, &spec, on_done, &started);
        RUN_UNTIL(c, 1000, removed.done && started.done);
        assert_int_equal(removed.st.code, THOLE_OK);
        assert_int_equal(started.st.reason, THOLE_REASON_REMOVED);
    }
    assert_int_equal(c->hosts[0].host_failed, 0);
    propose_ok(c, "x");
    cluster_free(c);
}

static void test_engine_many_groups_share_writes(void **state)
{
    (void)state;
    enum { GROUPS = 50 };
    struct cluster *c = cluster_new(1, 48);
    cluster_bootstrap(c, 1);
    struct done done[GROUPS + 1] = {{0}};
    for (uint64_t g = 1; g <= GROUPS; g++) {
        struct raft_member m = {.replica_id = 1000 + g, .role = RAFT_VOTER};
        memcpy(m.host, c->hosts[0].uuid.bytes, 16);
        struct engine_replica_spec spec = {.replica_id = 1000 + g,
                                           .shard_id = 100 + g,
                                           .machine_type = "tally",
                                           .initial = &m,
                                           .initial_count = 1};
        engine_replica_start(c->hosts[0].engine, &spec, on_done, &done[g]);
    }
    cluster_run(c, 3000);
    for (int g = 1; g <= GROUPS; g++) {
        assert_true(done[g].done && done[g].st.code == THOLE_OK);
    }
    uint64_t before = c->hosts[0].writes;
    struct op *ops[GROUPS];
    for (uint64_t g = 0; g < GROUPS; g++) {
        ops[g] = op_new(c, ENGINE_PROPOSE, "x");
        ops[g]->r.shard_id = 101 + g;
        op_submit(ops[g], 0);
    }
    for (int g = 0; g < GROUPS; g++) {
        op_wait(ops[g]);
        assert_int_equal(ops[g]->r.status.code, THOLE_OK);
        op_free(ops[g]);
    }
    assert_true(c->hosts[0].writes - before <= 2);
    host_crash(c, 0);
    host_start(c, 0);
    cluster_run(c, 3000);
    struct op *q = op_new(c, ENGINE_QUERY, "q");
    q->r.shard_id = 150;
    op_submit(q, 0);
    op_wait(q);
    assert_int_equal(q->r.status.code, THOLE_OK);
    assert_int_equal(q->r.status.code, THOLE_OK);
    assert_int_equal(get_le64(q->r.result.bytes.data), 1);
    op_free(q);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_grows_from_one_to_three),
        cmocka_unit_test(test_engine_progress_of_peers_is_shown),
        cmocka_unit_test(test_engine_changes_are_refused_for_a_reason),
        cmocka_unit_test(test_engine_transfers_leadership),
        cmocka_unit_test(test_engine_removed_replica_leaves_a_tombstone),
        cmocka_unit_test(test_engine_witness_serves_no_watch_and_no_query),
        cmocka_unit_test(test_engine_deleted_replica_harms_nobody),
        cmocka_unit_test(test_engine_start_checks_what_is_there),
        cmocka_unit_test(test_engine_impossible_replicas_are_refused),
        cmocka_unit_test(test_engine_buried_replica_does_not_start),
        cmocka_unit_test(test_engine_many_groups_share_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
