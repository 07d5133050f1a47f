/* The three controllers over real engines: shards are created, grow, shrink, move and are deleted.
 * Hosts join, drain, crash and restart. */
#include "hostctl/test/cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_create_shard_becomes_ready(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(1);
    cluster_bootstrap(h, 3);
    RUN_UNTIL(h, 5000, cluster_settled(h, "zero"));
    assert_int_equal(cluster_create(h, "orders", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 10000, cluster_settled(h, "orders"));
    assert_int_equal(cluster_voters(h, "orders"), 3);
    RUN_UNTIL(h, 5000, cluster_all_see_same(h));
    cluster_free(h);
}

static void test_single_host_grows_to_five(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(2);
    cluster_bootstrap(h, 1);
    RUN_UNTIL(h, 5000, cluster_settled(h, "zero") && cluster_voters(h, "zero") == 1);
    cluster_join(h, 1);
    cluster_join(h, 2);
    RUN_UNTIL(h, 20000, cluster_voters(h, "zero") == 3 && cluster_settled(h, "zero"));
    cluster_join(h, 3);
    cluster_join(h, 4);
    RUN_UNTIL(h, 20000, cluster_voters(h, "zero") == 5 && cluster_settled(h, "zero"));
    cluster_free(h);
}

/* All founders vote at first, as they agreed at bootstrap. */
static void test_even_founders_become_odd_voters(void **state)
{
    (void)state;
    for (uint64_t hosts = 2; hosts <= 4; hosts += 2) {
        struct cluster *h = cluster_new(12);
        cluster_bootstrap(h, hosts);
        RUN_UNTIL(h, 10000, cluster_voters(h, "zero") == hosts - 1 && cluster_settled(h, "zero"));
        cluster_run(h, 5000);
        assert_int_equal(cluster_voters(h, "zero"), hosts - 1);
        cluster_free(h);
    }
}

static void test_shard_three_to_five_to_three(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(3);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    cluster_join(h, 4);
    assert_int_equal(cluster_create(h, "orders", 3, 1), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "orders") && cluster_voters(h, "orders") == 3);
    assert_int_equal(cluster_update(h, "orders", 5, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "orders") && cluster_voters(h, "orders") == 5);
    assert_int_equal(cluster_update(h, "orders", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_settled(h, "orders") && cluster_voters(h, "orders") == 3);
    size_t local = 0;
    uint64_t id = cluster_shard_id(h, "orders");
    for (uint64_t i = 0; i < 5; i++) {
        struct engine_replica_status status;
        local += engine_shard_status(h->hosts[i].engine, id, &status);
    }
    assert_int_equal(local, 3); /* the data of the other replicas is deleted */
    cluster_free(h);
}

static void test_delete_shard_leaves_nothing(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(4);
    cluster_bootstrap(h, 3);
    assert_int_equal(cluster_create(h, "orders", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 10000, cluster_settled(h, "orders"));
    uint64_t id = cluster_shard_id(h, "orders");
    assert_int_equal(cluster_delete(h, "orders"), THOLE_OK);
    RUN_UNTIL(h, 10000, cluster_gone(h, "orders", id));
    assert_int_equal(cluster_create(h, "orders", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 10000, cluster_settled(h, "orders"));
    cluster_free(h);
}

static void test_drain_and_delete_host_moves_everything(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(5);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    assert_int_equal(cluster_create(h, "b", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "b"));
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    assert_int_equal(cluster_host_state(h, 0, thole_v1_HOST_STATE_DRAINING), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_replicas_on(h, 0) == 1); /* its non-voting one of shard zero */
    RUN_UNTIL(h, 30000, cluster_settled(h, "a") && cluster_settled(h, "b"));
    RUN_UNTIL(h, 30000, cluster_settled(h, "zero") && cluster_voters(h, "zero") == 3);
    assert_int_equal(cluster_delete_host(h, 0), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_replicas_on(h, 0) == 0);
    RUN_UNTIL(h, 30000, !h->hosts[1].address_known[0]);
    uint64_t replica;
    h->hosts[0].incarnation++;
    assert_int_equal(cluster_admit(h, 0, &replica), THOLE_FAILED_PRECONDITION);
    cluster_free(h);
}

static void test_dead_host_is_replaced_and_comes_back_empty(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(6);
    uint64_t replica;
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    uint64_t id = cluster_shard_id(h, "a");
    uint64_t dead = 0;
    struct engine_replica_status status;
    while (!engine_shard_status(h->hosts[dead].engine, id, &status)) {
        dead++;
    }
    cluster_stop(h, dead);
    cluster_run(h, CLUSTER_DEAD_MS / 2);
    assert_int_equal(cluster_replicas_on(h, dead), 2); /* no move within the grace period */
    /* The replica is removed from the group, but its data stays until the host restarts and deletes
     * it. */
    RUN_UNTIL(h, 30000,
              cluster_voters(h, "a") == 3 && cluster_shard_id(h, "a") == id &&
                  cluster_replicas_on(h, dead) == 2);
    cluster_run(h, 2 * CLUSTER_DEAD_MS);
    cluster_start(h, dead);
    memset(h->hosts[dead].address_known, true, sizeof h->hosts[dead].address_known);
    assert_int_equal(cluster_admit(h, dead, &replica), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    RUN_UNTIL(h, 30000, !engine_shard_status(h->hosts[dead].engine, id, &status));
    assert_int_equal(cluster_replicas_on(h, dead), 1);
    cluster_free(h);
}

static void test_idle_cluster_writes_nothing(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(7);
    cluster_bootstrap(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    assert_int_equal(cluster_create(h, "b", 1, 1), THOLE_OK);
    RUN_UNTIL(h, 20000,
              cluster_settled(h, "a") && cluster_settled(h, "b") && cluster_settled(h, "zero"));
    cluster_run(h, 2000);
    size_t before = h->proposals;
    cluster_run(h, 20000);
    assert_int_equal(h->proposals, before);
    cluster_free(h);
}

static void test_restart_of_all_hosts_continues(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(8);
    uint64_t replica;
    cluster_bootstrap(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    for (uint64_t i = 0; i < 3; i++) {
        cluster_stop(h, i);
    }
    for (uint64_t i = 0; i < 3; i++) {
        cluster_start(h, i);
        memset(h->hosts[i].address_known, true, sizeof h->hosts[i].address_known);
    }
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(cluster_admit(h, i, &replica), THOLE_OK);
    }
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    assert_int_equal(cluster_update(h, "a", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_voters(h, "a") == 1);
    cluster_free(h);
}

static void test_dead_host_deleted_needs_no_farewell(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(9);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    cluster_stop(h, 1);
    assert_int_equal(cluster_delete_host(h, 1), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_replicas_on(h, 1) == 0);
    RUN_UNTIL(h, 30000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    struct registry_view *v = cluster_view(h);
    struct uuid id = test_uuid(1);
    assert_null(registry_host_by_name(v, slice_str("h1")));
    assert_non_null(registry_host(v, &id)); /* the id is remembered */
    registry_view_release(v);
    cluster_free(h);
}

static void test_shard_that_cannot_form_can_be_deleted(void **state)
{
    struct registry_replica_buf replica_buf;
    (void)state;
    struct cluster *h = cluster_new(10);
    cluster_bootstrap(h, 3);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString("bad"));
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("failing"));
    thole_v1_ShardSpec_set_voters(spec, 3);
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
    uint64_t id = cluster_shard_id(h, "bad");
    cluster_run(h, 3000);
    assert_false(cluster_settled(h, "bad"));
    struct registry_view *v = cluster_view(h);
    const thole_v1_Replica *r = registry_next_replica_of_shard(v, id, 0, &replica_buf);
    assert_int_equal(thole_v1_Replica_phase(r), thole_v1_REPLICA_PHASE_FAILED);
    assert_true(thole_v1_Replica_message(r).size > 0);
    registry_view_release(v);
    assert_int_equal(cluster_delete(h, "bad"), THOLE_OK);
    RUN_UNTIL(h, 10000, cluster_gone(h, "bad", id));
    cluster_free(h);
}

static void test_user_replica_comes_and_goes(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(11);
    cluster_bootstrap(h, 3);
    assert_int_equal(cluster_create(h, "a", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    uint64_t id = cluster_shard_id(h, "a");
    struct engine_replica_status status;
    uint64_t free_host = 0;
    while (engine_shard_status(h->hosts[free_host].engine, id, &status)) {
        free_host++;
    }
    char name[8];
    snprintf(name, sizeof name, "h%d", (int)free_host);
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateReplica *r =
        thole_registry_v1_Operation_mutable_create_replica(cmd_op(&c), c.arena);
    thole_registry_v1_CreateReplica_set_shard(r, upb_StringView_FromString("a"));
    thole_registry_v1_CreateReplica_set_host(r, upb_StringView_FromString(name));
    thole_registry_v1_CreateReplica_set_role(r, thole_v1_REPLICA_ROLE_NON_VOTING);
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
    RUN_UNTIL(h, 10000, engine_shard_status(h->hosts[free_host].engine, id, &status));
    RUN_UNTIL(h, 10000, cluster_settled(h, "a"));
    cluster_run(h, 3000); /* placement does not touch it */
    assert_true(engine_shard_status(h->hosts[free_host].engine, id, &status));
    c = cmd_new("user");
    thole_registry_v1_RemoveReplica_set_replica_id(
        thole_registry_v1_Operation_mutable_remove_replica(cmd_op(&c), c.arena), status.replica_id);
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
    RUN_UNTIL(h, 10000, !engine_shard_status(h->hosts[free_host].engine, id, &status));
    RUN_UNTIL(h, 10000, cluster_settled(h, "a"));
    cluster_free(h);
}

/* After a removal down to one voter, that voter must be able to start alone. It must store the
 * committed removal before the other voter's data is deleted. */
static void test_survivor_of_removal_restarts_alone(void **state)
{
    (void)state;
    for (uint64_t seed = 20; seed < 26; seed++) {
        struct cluster *h = cluster_new(seed);
        cluster_bootstrap(h, 3);
        assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
        RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
        assert_int_equal(cluster_update(h, "a", 1, 0), THOLE_OK);
        uint64_t id = cluster_shard_id(h, "a");
        RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_voters(h, "a") == 1);
        for (uint64_t n = 0; n < 3; n++) {
            struct engine_replica_status status;
            if (engine_shard_status(h->hosts[n].engine, id, &status)) {
                uint64_t replica;
                cluster_stop(h, n);
                cluster_start(h, n);
                memset(h->hosts[n].address_known, true, sizeof h->hosts[n].address_known);
                assert_int_equal(cluster_admit(h, n, &replica), THOLE_OK);
                break;
            }
        }
        RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_voters(h, "a") == 1);
        cluster_free(h);
    }
}

/* ---- Storms ---------------------------------------------------------------------------------- */

/* Host `*deleted` is deleted, if it is not UINT64_MAX. */
static void disturb(struct cluster *h, uint64_t *deleted)
{
    uint64_t n = rand_below(&h->rand, 5);
    uint64_t replica;
    const char *shard = rand_chance(&h->rand, 0.5) ? "a" : "b";
    switch (rand_below(&h->rand, 7)) {
    case 0:
        if (h->hosts[n].hostctl != NULL && !h->cut[n]) {
            cluster_stop(h, n);
            cluster_run(h, rand_below(&h->rand, 2 * CLUSTER_DEAD_MS));
            cluster_start(h, n);
            memset(h->hosts[n].address_known, true, sizeof h->hosts[n].address_known);
            (void)cluster_admit(h, n, &replica);
        }
        break;
    case 1:
        cluster_cut(h, n, true);
        cluster_run(h, rand_below(&h->rand, 2 * CLUSTER_DEAD_MS));
        cluster_cut(h, n, false);
        break;
    case 2:
        (void)cluster_update(h, shard, (uint32_t)rand_between(&h->rand, 1, 3),
                             (uint32_t)rand_below(&h->rand, 2));
        break;
    case 3:
        (void)cluster_host_state(h, n, (int32_t)rand_between(&h->rand, 1, 3));
        break;
    case 4:
        (void)cluster_delete(h, shard);
        break;
    case 5:
        if (*deleted == UINT64_MAX && cluster_delete_host(h, n) == THOLE_OK) {
            *deleted = n;
        }
        break;
    default:
        (void)cluster_create(h, shard, (uint32_t)rand_between(&h->rand, 1, 3), 0);
        break;
    }
}

static bool shard_settled_or_gone(struct cluster *h, const char *shard)
{
    return cluster_shard_id(h, shard) == UINT64_MAX || cluster_settled(h, shard);
}

static void storm(uint64_t seed)
{
    struct cluster *h = cluster_new(seed);
    uint64_t deleted = UINT64_MAX;
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    cluster_join(h, 4);
    h->refuse = 0.1;
    (void)cluster_create(h, "a", 3, 0);
    for (int i = 0; i < 15; i++) {
        disturb(h, &deleted);
        cluster_run(h, rand_below(&h->rand, 1500));
    }
    h->refuse = 0;
    for (uint64_t n = 0; n < 5; n++) {
        if (n == deleted) {
            continue;
        }
        assert_int_equal(cluster_host_state(h, n, thole_v1_HOST_STATE_ACTIVE), THOLE_OK);
    }
    /* Not before: the host may hold one of two votes. */
    RUN_UNTIL(h, 120000, deleted == UINT64_MAX || cluster_replicas_on(h, deleted) == 0);
    if (deleted != UINT64_MAX) {
        cluster_stop(h, deleted);
    }
    RUN_UNTIL(h, 120000,
              shard_settled_or_gone(h, "a") && shard_settled_or_gone(h, "b") &&
                  cluster_settled(h, "zero") && cluster_all_see_same(h) &&
                  (deleted == UINT64_MAX || cluster_replicas_on(h, deleted) == 0));
    cluster_run(h, CLUSTER_DEAD_MS);
    struct registry_view *v = cluster_view(h);
    check_invariants(v);
    registry_view_release(v);
    size_t before = h->proposals;
    cluster_run(h, 3000);
    assert_int_equal(h->proposals, before);
    cluster_free(h);
}

static void test_storms_end_in_agreement(void **state)
{
    (void)state;
    const char *only = getenv("CLUSTER_SEED");
    if (only != NULL) {
        storm(strtoull(only, NULL, 10));
        return;
    }
    for (uint64_t seed = 100; seed < 112; seed++) {
        storm(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_shard_becomes_ready),
        cmocka_unit_test(test_single_host_grows_to_five),
        cmocka_unit_test(test_even_founders_become_odd_voters),
        cmocka_unit_test(test_shard_three_to_five_to_three),
        cmocka_unit_test(test_delete_shard_leaves_nothing),
        cmocka_unit_test(test_drain_and_delete_host_moves_everything),
        cmocka_unit_test(test_dead_host_is_replaced_and_comes_back_empty),
        cmocka_unit_test(test_idle_cluster_writes_nothing),
        cmocka_unit_test(test_restart_of_all_hosts_continues),
        cmocka_unit_test(test_dead_host_deleted_needs_no_farewell),
        cmocka_unit_test(test_shard_that_cannot_form_can_be_deleted),
        cmocka_unit_test(test_user_replica_comes_and_goes),
        cmocka_unit_test(test_survivor_of_removal_restarts_alone),
        cmocka_unit_test(test_storms_end_in_agreement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
