/* Moves and rebalances carried out by the controllers of simulated hosts. */
#include "hostctl/test/cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static thole_registry_v1_StartOperation *start_op(struct cmd *c, int32_t kind)
{
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(c), c->arena);
    thole_registry_v1_StartOperation_set_kind(o, kind);
    return o;
}

static enum thole_code move(struct cluster *h, const char *shard, uint64_t from, uint64_t to)
{
    struct cmd c = cmd_new("user");
    char names[2][8];
    snprintf(names[0], sizeof names[0], "h%u", (unsigned)from);
    snprintf(names[1], sizeof names[1], "h%u", (unsigned)to);
    thole_registry_v1_StartOperation *o = start_op(&c, thole_v1_OPERATION_KIND_MOVE);
    thole_registry_v1_StartOperation_set_shard(o, upb_StringView_FromString(shard));
    thole_registry_v1_StartOperation_set_from(o, upb_StringView_FromString(names[0]));
    thole_registry_v1_StartOperation_set_to(o, upb_StringView_FromString(names[1]));
    return cluster_command(h, &c);
}

static enum thole_code start(struct cluster *h, int32_t kind)
{
    struct cmd c = cmd_new("user");
    (void)start_op(&c, kind);
    return cluster_command(h, &c);
}

static enum thole_code cancel(struct cluster *h, uint64_t id)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CancelOperation_set_id(
        thole_registry_v1_Operation_mutable_cancel_operation(cmd_op(&c), c.arena), id);
    return cluster_command(h, &c);
}

/* Does the host have a movable replica of the shard that is wanted to run? */
static bool has(struct cluster *h, const char *shard, uint64_t n)
{
    struct registry_replica_buf replica_buf;
    struct registry_view *v = cluster_view(h);
    struct uuid id = test_uuid(n);
    bool found = false;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_host(v, &id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        found |= slice_equal(registry_str(thole_v1_Replica_shard(row)), slice_str(shard)) &&
                 thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN;
    }
    registry_view_release(v);
    return found;
}

static uint64_t host_with(struct cluster *h, const char *shard, bool with)
{
    uint64_t n = 0;
    while (has(h, shard, n) != with) {
        n++;
        assert_true(n < 4);
    }
    return n;
}

static uint64_t leader_of(struct cluster *h, const char *shard)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = cluster_view(h);
    const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(shard), &shard_buf);
    upb_StringView name = thole_v1_ShardStatus_leader_host(thole_v1_Shard_status(row));
    uint64_t n = name.size == 2 ? (uint64_t)(name.data[1] - '0') : UINT64_MAX;
    registry_view_release(v);
    return n;
}

static struct cluster *cluster_of_four(uint64_t seed, uint32_t voters)
{
    struct cluster *h = cluster_new(seed);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    assert_int_equal(cluster_create(h, "a", voters, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    return h;
}

/* Never more votes than wanted: the new replica gets the vote that the old replica gives up. */
static void test_move_swaps_the_vote_and_stays(void **state)
{
    (void)state;
    for (uint64_t seed = 60; seed < 66; seed++) {
        struct cluster *h = cluster_of_four(seed, 3);
        uint64_t to = host_with(h, "a", false);
        /* Every other seed moves the leader's own replica, too. */
        uint64_t from = seed % 2 == 0 ? leader_of(h, "a") : host_with(h, "a", true);
        assert_int_equal(move(h, "a", from, to), THOLE_OK);
        uint32_t most = 0;
        for (int i = 0; i < 1500 && cluster_operation_state(h, 1) != thole_v1_OPERATION_STATE_DONE;
             i++) {
            uint32_t voters = cluster_voters(h, "a");
            most = voters > most ? voters : most;
            cluster_run(h, 20);
        }
        assert_int_equal(cluster_operation_state(h, 1), thole_v1_OPERATION_STATE_DONE);
        assert_int_equal(most, 3);
        cluster_run(h, 20000);
        assert_true(cluster_settled(h, "a"));
        assert_true(has(h, "a", to) && !has(h, "a", from));
        cluster_free(h);
    }
}

static void test_move_of_the_only_voter_ends(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_four(70, 1);
    uint64_t from = host_with(h, "a", true);
    uint64_t to = (from + 1) % 4;
    assert_int_equal(move(h, "a", from, to), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    assert_true(has(h, "a", to) && !has(h, "a", from));
    cluster_free(h);
}

static void test_move_ends_under_each_leader_of_zero(void **state)
{
    (void)state;
    for (uint64_t seed = 80; seed < 92; seed++) {
        struct cluster *h = cluster_of_four(seed, 3);
        uint64_t to = host_with(h, "a", false);
        uint64_t from = host_with(h, "a", true);
        h->refuse = 0.2;
        assert_int_equal(move(h, "a", from, to), THOLE_OK);
        cluster_run(h, 40 * (seed - 79));
        uint64_t leader = cluster_zero_leader(h);
        if (leader != UINT64_MAX) {
            cluster_stop(h, leader);
            cluster_run(h, 700);
            cluster_start(h, leader);
        }
        RUN_UNTIL(h, 60000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE);
        RUN_UNTIL(h, 30000, cluster_settled(h, "a"));
        assert_true(has(h, "a", to) && !has(h, "a", from));
        cluster_free(h);
    }
}

static void test_cancelled_move_leaves_things_as_they_were(void **state)
{
    (void)state;
    for (uint64_t seed = 100; seed < 108; seed++) {
        struct cluster *h = cluster_of_four(seed, 3);
        uint64_t to = host_with(h, "a", false);
        uint64_t from = host_with(h, "a", true);
        assert_int_equal(move(h, "a", from, to), THOLE_OK);
        cluster_run(h, 60 * (seed - 100));
        enum thole_code code = cancel(h, 1);
        bool cancelled = code == THOLE_OK;
        assert_true(cancelled || code == THOLE_FAILED_PRECONDITION);
        RUN_UNTIL(h, 30000,
                  cluster_operation_state(h, 1) ==
                      (cancelled ? (int32_t)thole_v1_OPERATION_STATE_CANCELLED
                                 : (int32_t)thole_v1_OPERATION_STATE_DONE));
        RUN_UNTIL(h, 30000, cluster_settled(h, "a"));
        assert_true(has(h, "a", cancelled ? from : to));
        assert_true(!has(h, "a", cancelled ? to : from));
        cluster_free(h);
    }
}

static void test_move_to_a_host_that_dies_fails_and_the_old_one_stays(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_four(110, 3);
    uint64_t to = host_with(h, "a", false);
    uint64_t from = host_with(h, "a", true);
    cluster_stop(h, to);
    assert_int_equal(move(h, "a", from, to), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_FAILED);
    assert_true(has(h, "a", from));
    cluster_start(h, to);
    RUN_UNTIL(h, 30000, cluster_settled(h, "a"));
    assert_true(has(h, "a", from) && !has(h, "a", to));
    cluster_free(h);
}

static void test_move_ends_with_its_shard(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_four(111, 3);
    uint64_t id = cluster_shard_id(h, "a");
    assert_int_equal(move(h, "a", host_with(h, "a", true), host_with(h, "a", false)), THOLE_OK);
    cluster_run(h, 100);
    assert_int_equal(cluster_delete(h, "a"), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_CANCELLED);
    RUN_UNTIL(h, 30000, cluster_gone(h, "a", id));
    cluster_free(h);
}

/* Balance is paused, so that only the operation moves replicas. A replica that was moved by hand
 * may move, too. */
static void test_rebalance_evens_out_while_balance_is_paused(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(120);
    cluster_bootstrap(h, 3);
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation_add_controllers(start_op(&c, thole_v1_OPERATION_KIND_PAUSE),
                                                     thole_v1_CONTROLLER_BALANCE, c.arena);
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
    static const char *const names[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(cluster_create(h, names[i], 3, 0), THOLE_OK);
        RUN_UNTIL(h, 20000, cluster_settled(h, names[i]));
    }
    cluster_join(h, 3);
    cluster_run(h, 10000);
    assert_int_equal(cluster_replicas_on(h, 3), 1);
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_REBALANCE), THOLE_OK);
    RUN_UNTIL(h, 60000, cluster_operation_state(h, 2) == thole_v1_OPERATION_STATE_DONE);
    for (uint64_t n = 0; n < 4; n++) {
        assert_int_equal(cluster_replicas_on(h, n), 4); /* 12, and of shard zero */
    }
    for (size_t i = 0; i < 4; i++) {
        assert_true(cluster_settled(h, names[i]));
    }
    cluster_free(h);
}

/* One host has more replicas than balance would have left there. Balance leaves them; a rebalance
 * does not. */
static void test_balance_leaves_what_was_moved_by_hand(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(121);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    static const char *const names[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(cluster_create(h, names[i], 1, 0), THOLE_OK);
        RUN_UNTIL(h, 20000, cluster_settled(h, names[i]));
    }
    uint64_t id = 0;
    for (size_t i = 0; i < 4; i++) {
        uint64_t from = host_with(h, names[i], true);
        if (from != 0) {
            assert_int_equal(move(h, names[i], from, 0), THOLE_OK);
            id++;
            RUN_UNTIL(h, 30000, cluster_operation_state(h, id) == thole_v1_OPERATION_STATE_DONE);
        }
    }
    assert_true(id >= 3);
    cluster_run(h, 30000);
    assert_int_equal(cluster_replicas_on(h, 0), 5); /* one of them of shard zero */
    cluster_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_move_swaps_the_vote_and_stays),
        cmocka_unit_test(test_move_of_the_only_voter_ends),
        cmocka_unit_test(test_move_ends_under_each_leader_of_zero),
        cmocka_unit_test(test_cancelled_move_leaves_things_as_they_were),
        cmocka_unit_test(test_move_to_a_host_that_dies_fails_and_the_old_one_stays),
        cmocka_unit_test(test_move_ends_with_its_shard),
        cmocka_unit_test(test_rebalance_evens_out_while_balance_is_paused),
        cmocka_unit_test(test_balance_leaves_what_was_moved_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
