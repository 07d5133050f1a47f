/* Operations carried out by the controllers of simulated hosts. */
#include "hostctl/test/cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static enum thole_code start(struct cluster *h, int32_t kind, const char *host)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_StartOperation_set_kind(o, kind);
    thole_registry_v1_StartOperation_set_host(o, upb_StringView_FromString(host));
    return cluster_command(h, &c);
}

static enum thole_code cancel(struct cluster *h, uint64_t id, bool pauses)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CancelOperation *o =
        thole_registry_v1_Operation_mutable_cancel_operation(cmd_op(&c), c.arena);
    thole_registry_v1_CancelOperation_set_id(o, id);
    thole_registry_v1_CancelOperation_set_pauses(o, pauses);
    return cluster_command(h, &c);
}

static bool message_has(struct cluster *h, uint64_t id, const char *text)
{
    struct registry_view *v = cluster_view(h);
    const thole_v1_Operation *row = registry_operation(v, id);
    upb_StringView message = thole_v1_Operation_message(row);
    bool has = message.size > 0 && memmem(message.data, message.size, text, strlen(text)) != NULL;
    registry_view_release(v);
    return has;
}

static struct cluster *cluster_of_four(uint64_t seed)
{
    struct cluster *h = cluster_new(seed);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    assert_int_equal(cluster_create(h, "b", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "b"));
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    return h;
}

static void test_drain_ends_when_the_host_is_empty(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_four(31);
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DRAIN, "h0"), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE);
    assert_int_equal(cluster_replicas_on(h, 0), 1); /* of shard zero */
    assert_true(cluster_settled(h, "a") && cluster_settled(h, "b"));
    cluster_free(h);
}

static void test_decommission_removes_the_host_under_each_leader_of_zero(void **state)
{
    (void)state;
    for (uint64_t seed = 40; seed < 48; seed++) {
        struct cluster *h = cluster_of_four(seed);
        h->refuse = 0.2;
        assert_int_equal(start(h, thole_v1_OPERATION_KIND_DECOMMISSION, "h3"), THOLE_OK);
        cluster_run(h, 100 * (seed - 39));
        uint64_t leader = cluster_zero_leader(h);
        if (leader != UINT64_MAX && leader != 3) {
            cluster_stop(h, leader);
            cluster_run(h, 700);
            cluster_start(h, leader);
        }
        RUN_UNTIL(h, 60000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE);
        assert_int_equal(cluster_replicas_on(h, 3), 0);
        RUN_UNTIL(h, 30000, cluster_settled(h, "a") && cluster_settled(h, "b"));
        cluster_free(h);
    }
}

/* A dead host's replicas cannot be replaced, and yet the host is removed. A new host may then take
 * its place. */
static void test_decommission_of_a_dead_host_does_not_wait_for_its_replicas(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(50);
    cluster_bootstrap(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    cluster_stop(h, 2);
    RUN_UNTIL(h, 20000, cluster_liveness(h, 2) == thole_v1_HOST_LIVENESS_DEAD);
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DECOMMISSION, "h2"), THOLE_OK);
    RUN_UNTIL(h, 10000, cluster_events(h, "hosts/h2", "HostDeleted", NULL, 0) == 1);
    cluster_join(h, 3);
    RUN_UNTIL(h, 60000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE);
    RUN_UNTIL(h, 30000, cluster_settled(h, "a"));
    cluster_free(h);
}

/* The host with the only copy crashes during the operation. It is admitted again when it restarts,
 * and its replicas move elsewhere. */
static void test_decommission_waits_for_the_only_copy_on_a_dead_host(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(55);
    cluster_bootstrap(h, 4);
    assert_int_equal(cluster_create(h, "a", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    uint64_t n = 0;
    while (n < 4 && cluster_replicas_on(h, n) < 2) {
        n++;
    }
    assert_true(n < 4);
    char name[8];
    snprintf(name, sizeof name, "h%d", (int)n);
    cluster_stop(h, n);
    RUN_UNTIL(h, 20000, cluster_liveness(h, n) == thole_v1_HOST_LIVENESS_DEAD);
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DECOMMISSION, name), THOLE_OK);
    RUN_UNTIL(h, 10000, message_has(h, 1, "shards/a needs this host: 0 of its"));
    cluster_run(h, 5000);
    assert_int_equal(cluster_operation_state(h, 1), thole_v1_OPERATION_STATE_RUNNING);
    cluster_start(h, n);
    RUN_UNTIL(h, 60000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE);
    RUN_UNTIL(h, 30000, cluster_settled(h, "a"));
    cluster_free(h);
}

/* The other hosts are cordoned, so none of them may take its vote. */
static void test_decommission_of_the_only_voter_of_zero_waits_and_says_so(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(56);
    cluster_bootstrap(h, 1);
    cluster_join(h, 1);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    assert_int_equal(cluster_host_state(h, 1, thole_v1_HOST_STATE_CORDONED), THOLE_OK);
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DECOMMISSION, "h0"), THOLE_OK);
    RUN_UNTIL(h, 10000, message_has(h, 1, "shards/zero needs this host: 0 of its 1 voters"));
    cluster_stop(h, 0);
    cluster_run(h, 2000);
    cluster_start(h, 0);
    cluster_run(h, 10000);
    assert_int_equal(cluster_operation_state(h, 1), thole_v1_OPERATION_STATE_RUNNING);
    assert_int_equal(cluster_host_state(h, 1, thole_v1_HOST_STATE_ACTIVE), THOLE_OK);
    RUN_UNTIL(h, 60000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    cluster_free(h);
}

/* A shard is placed on a dead host whose failure is not detected yet. While the host may restart,
 * the shard may have formed there. Once the host is removed, there is nothing left to wait for. */
static void test_shard_placed_on_a_dying_host_begins_again_when_that_is_removed(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(52);
    char name[16];
    cluster_bootstrap(h, 3);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    uint64_t victim = (cluster_zero_leader(h) + 1) % 3;
    cluster_stop(h, victim);
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "s%d", i);
        assert_int_equal(cluster_create(h, name, 1, 0), THOLE_OK);
    }
    RUN_UNTIL(h, 20000, cluster_liveness(h, victim) == thole_v1_HOST_LIVENESS_DEAD);
    cluster_run(h, 10000);
    assert_true(cluster_replicas_on(h, victim) > 1); /* beside shard zero's */
    snprintf(name, sizeof name, "h%d", (int)victim);
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DECOMMISSION, name), THOLE_OK);
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "s%d", i);
        RUN_UNTIL(h, 30000, cluster_settled(h, name));
    }
    cluster_free(h);
}

static void test_stuck_drain_says_why_and_a_changed_host_ends_it(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(51);
    cluster_bootstrap(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DRAIN, "h2"), THOLE_OK);
    RUN_UNTIL(h, 10000, message_has(h, 1, "shards/a cannot move"));
    assert_int_equal(cluster_host_state(h, 2, thole_v1_HOST_STATE_ACTIVE), THOLE_OK);
    RUN_UNTIL(h, 10000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_CANCELLED);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    cluster_free(h);
}

static uint64_t replica_of(struct cluster *h, const char *shard, uint64_t host)
{
    struct registry_replica_buf buf;
    struct registry_view *v = cluster_view(h);
    struct uuid id = test_uuid(host);
    uint64_t shard_id = cluster_shard_id(h, shard);
    uint64_t found = 0;
    const thole_v1_Replica *row;
    for (uint64_t after = 0; (row = registry_next_replica_of_host(v, &id, after, &buf)) != NULL;) {
        after = thole_v1_Replica_id(row);
        found = thole_v1_Replica_shard_id(row) == shard_id ? after : found;
    }
    registry_view_release(v);
    return found;
}

static enum thole_code delete_replica(struct cluster *h, uint64_t id)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_RemoveReplica *o =
        thole_registry_v1_Operation_mutable_remove_replica(cmd_op(&c), c.arena);
    thole_registry_v1_RemoveReplica_set_replica_id(o, id);
    return cluster_command(h, &c);
}

/* A deleted replica must go, although the other hosts are draining as well. Only its own host can
 * take the replacement. */
static void test_deleted_replica_is_made_again_while_the_other_hosts_are_drained(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(55);
    cluster_bootstrap(h, 3);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DRAIN, "h2"), THOLE_OK);
    RUN_UNTIL(h, 10000, message_has(h, 2, "shards/a cannot move"));
    uint64_t before = replica_of(h, "a", 0);
    assert_int_equal(delete_replica(h, before), THOLE_OK);
    RUN_UNTIL(h, 20000, replica_of(h, "a", 0) > before && cluster_voters(h, "a") == 2);
    /* The new replica replaces that of one draining host. The other drain waits, and its message
     * names the reason. */
    RUN_UNTIL(h, 10000,
              (cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE &&
               message_has(h, 2, "shards/a cannot move")) ||
                  (cluster_operation_state(h, 2) == thole_v1_OPERATION_STATE_DONE &&
                   message_has(h, 1, "shards/a cannot move")));
    cluster_free(h);
}

static void drain_moves_what_a_user_created(uint32_t voters, int32_t role)
{
    struct cluster *h = cluster_new(56);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    assert_int_equal(cluster_create(h, "a", voters, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    uint64_t host = 3;
    while (replica_of(h, "a", host) != 0) {
        host--;
    }
    char name[8];
    snprintf(name, sizeof name, "h%d", (int)host);
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateReplica *r =
        thole_registry_v1_Operation_mutable_create_replica(cmd_op(&c), c.arena);
    thole_registry_v1_CreateReplica_set_shard(r, upb_StringView_FromString("a"));
    thole_registry_v1_CreateReplica_set_host(r, upb_StringView_FromString(name));
    thole_registry_v1_CreateReplica_set_role(r, role);
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_DRAIN, name), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_DONE);
    assert_int_equal(replica_of(h, "a", host), 0);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_voters(h, "a") == voters);
    cluster_free(h);
}

static void test_drain_moves_what_users_created(void **state)
{
    (void)state;
    drain_moves_what_a_user_created(1, thole_v1_REPLICA_ROLE_VOTER);
    drain_moves_what_a_user_created(3, thole_v1_REPLICA_ROLE_VOTER);
    drain_moves_what_a_user_created(3, thole_v1_REPLICA_ROLE_NON_VOTING);
}

static void test_paused_placement_places_nothing_until_resumed(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_four(52);
    assert_int_equal(start(h, thole_v1_OPERATION_KIND_PAUSE, ""), THOLE_OK);
    assert_int_equal(cluster_create(h, "c", 3, 0), THOLE_OK);
    cluster_run(h, 5000);
    assert_false(cluster_settled(h, "c"));
    assert_int_equal(cancel(h, 0, true), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "c"));
    cluster_free(h);
}

static enum thole_code restore(struct cluster *h, const char *name, uint64_t host)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_RestoreShard *o =
        thole_registry_v1_Operation_mutable_restore_shard(cmd_op(&c), c.arena);
    thole_registry_v1_RestoreShard_set_name(o, upb_StringView_FromString(name));
    fill_spec(thole_registry_v1_RestoreShard_mutable_spec(o, c.arena), c.arena, 3, 0);
    thole_v1_ShardSeed *seed = thole_registry_v1_RestoreShard_mutable_seed(o, c.arena);
    thole_v1_ShardSeed_set_host_id(seed, upb_StringView_FromString(test_uuid_text(host)));
    thole_v1_ShardSeed_set_file(seed, upb_StringView_FromString("missing"));
    return cluster_command(h, &c);
}

static bool is_gone(struct cluster *h, const char *name)
{
    struct registry_view *v = cluster_view(h);
    bool gone = !registry_has_shard_name(v, slice_str(name));
    registry_view_release(v);
    return gone;
}

/* The hosts of this test have no files at all. */
static void test_restore_without_its_file_fails_and_leaves_no_shard(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_four(53);
    assert_int_equal(restore(h, "copy", 1), THOLE_OK);
    RUN_UNTIL(h, 30000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_FAILED);
    assert_true(message_has(h, 1, "its first replica failed"));
    RUN_UNTIL(h, 30000, is_gone(h, "copy"));
    cluster_free(h);
}

/* The host with the file is dead before the restore could begin. */
static void test_restore_on_a_host_that_died_fails_and_leaves_no_shard(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_four(54);
    uint64_t host = cluster_zero_leader(h) == 3 ? 2 : 3;
    cluster_stop(h, host);
    assert_int_equal(restore(h, "copy", host), THOLE_OK);
    RUN_UNTIL(h, 90000, cluster_operation_state(h, 1) == thole_v1_OPERATION_STATE_FAILED);
    assert_true(message_has(h, 1, "is dead"));
    cluster_start(h, host);
    RUN_UNTIL(h, 60000, is_gone(h, "copy"));
    cluster_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drain_ends_when_the_host_is_empty),
        cmocka_unit_test(test_decommission_removes_the_host_under_each_leader_of_zero),
        cmocka_unit_test(test_decommission_of_a_dead_host_does_not_wait_for_its_replicas),
        cmocka_unit_test(test_decommission_waits_for_the_only_copy_on_a_dead_host),
        cmocka_unit_test(test_decommission_of_the_only_voter_of_zero_waits_and_says_so),
        cmocka_unit_test(test_shard_placed_on_a_dying_host_begins_again_when_that_is_removed),
        cmocka_unit_test(test_stuck_drain_says_why_and_a_changed_host_ends_it),
        cmocka_unit_test(test_deleted_replica_is_made_again_while_the_other_hosts_are_drained),
        cmocka_unit_test(test_drain_moves_what_users_created),
        cmocka_unit_test(test_paused_placement_places_nothing_until_resumed),
        cmocka_unit_test(test_restore_without_its_file_fails_and_leaves_no_shard),
        cmocka_unit_test(test_restore_on_a_host_that_died_fails_and_leaves_no_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
