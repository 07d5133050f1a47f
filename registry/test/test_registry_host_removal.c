/* When a host may be removed permanently. */
#include "registry/test/registry_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define VOTER thole_v1_REPLICA_ROLE_VOTER
#define WITNESS thole_v1_REPLICA_ROLE_WITNESS
#define RUNNING thole_v1_REPLICA_PHASE_RUNNING
#define DEAD thole_v1_HOST_LIVENESS_DEAD
#define SUSPECT thole_v1_HOST_LIVENESS_SUSPECT
#define LIVE thole_v1_HOST_LIVENESS_LIVE

/* As a user writes it. */
static uint64_t user_deletes(struct fixture *f, const char *host)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_DeleteHost_set_name(
        thole_registry_v1_Operation_mutable_delete_host(cmd_op(&c), c.arena),
        upb_StringView_FromString(host));
    return fixture_run(f, &c);
}

static bool message_has(const struct fixture *f, const char *text)
{
    upb_StringView m = thole_registry_v1_Result_message(f->result);
    return m.size > 0 && memmem(m.data, m.size, text, strlen(text)) != NULL;
}

static uint64_t last_replica(struct fixture *f)
{
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t id = registry_next_replica_id(v) - 1;
    registry_view_release(v);
    return id;
}

/* Shard zero serves on hosts 0 to 2: replicas 1 to 3. */
static void begin(struct fixture *f)
{
    assert_int_equal(do_formed(f, 0, 1, 1), THOLE_OK);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_int_equal(do_observe(f, id, RUNNING, 0), THOLE_OK);
    }
}

/* A formed shard whose voters run on hosts first .. first + voters - 1. */
static uint64_t serving(struct fixture *f, const char *name, uint64_t first, uint32_t voters)
{
    assert_int_equal(do_create_shard(f, name, voters, 0), THOLE_OK);
    uint64_t id = thole_v1_Shard_id(thole_registry_v1_Result_shard(f->result));
    assert_int_equal(do_place(f, id, first, voters), THOLE_OK);
    uint64_t last = last_replica(f);
    assert_int_equal(do_formed(f, id, last, 1), THOLE_OK);
    for (uint64_t i = 0; i < voters; i++) {
        assert_int_equal(do_observe(f, last - i, RUNNING, 0), THOLE_OK);
    }
    return id;
}

static void test_user_deletes_only_dead_hosts_without_replicas(void **state)
{
    struct fixture *f = *state;
    begin(f);
    assert_int_equal(user_deletes(f, "h2"), THOLE_FAILED_PRECONDITION);
    assert_true(message_has(f, "thole host decommission h2"));
    assert_int_equal(do_liveness(f, 2, SUSPECT), THOLE_OK);
    assert_int_equal(user_deletes(f, "h2"), THOLE_FAILED_PRECONDITION);
    uint64_t id = serving(f, "orders", 0, 3);
    assert_int_equal(do_liveness(f, 2, DEAD), THOLE_OK);
    assert_int_equal(user_deletes(f, "h2"), THOLE_FAILED_PRECONDITION);
    assert_true(message_has(f, "orders"));
    uint64_t replica = last_replica(f);
    assert_int_equal(do_update_shard(f, "orders", 1, 0, ""), THOLE_OK);
    assert_int_equal(do_remove_replica(f, replica), THOLE_OK);
    assert_int_equal(do_observe(f, replica, thole_v1_REPLICA_PHASE_OUT, 9), THOLE_OK);
    assert_true(id > 0);
    assert_int_equal(user_deletes(f, "h2"), THOLE_OK);
}

static void test_only_voter_is_never_removed_with_its_host(void **state)
{
    struct fixture *f = *state;
    begin(f);
    serving(f, "orders", 2, 1);
    assert_int_equal(do_delete_host(f, 2), THOLE_FAILED_PRECONDITION);
    assert_true(message_has(f, "shards/orders needs this host: 0 of its 1 voters"));
    assert_int_equal(do_liveness(f, 2, DEAD), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_FAILED_PRECONDITION);
    assert_true(message_has(f, "start the host again"));
    assert_int_equal(do_delete_shard(f, "orders"), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_OK);
}

static void test_one_of_three_voters_may_go_and_not_the_second(void **state)
{
    struct fixture *f = *state;
    begin(f);
    serving(f, "orders", 0, 3);
    assert_int_equal(do_liveness(f, 1, SUSPECT), THOLE_OK);
    assert_int_equal(do_liveness(f, 2, DEAD), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_FAILED_PRECONDITION);
    assert_int_equal(do_liveness(f, 1, LIVE), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_OK);
    assert_int_equal(do_liveness(f, 1, DEAD), THOLE_OK);
    assert_int_equal(do_delete_host(f, 1), THOLE_FAILED_PRECONDITION);
}

/* The other voter may lack entries that the lost voter and the witness acknowledged. */
static void test_a_witness_is_no_copy(void **state)
{
    struct fixture *f = *state;
    begin(f);
    uint64_t id = serving(f, "orders", 1, 2);
    assert_int_equal(do_place_one(f, id, 0, WITNESS), THOLE_OK);
    assert_int_equal(do_observe(f, last_replica(f), RUNNING, 0), THOLE_OK);
    assert_int_equal(do_liveness(f, 2, DEAD), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_FAILED_PRECONDITION);
    assert_true(message_has(f, "shards/orders needs this host"));
}

/* The vote of a replica that has no data yet does not count. */
static void test_a_replica_that_catches_up_is_no_copy(void **state)
{
    struct fixture *f = *state;
    begin(f);
    uint64_t id = serving(f, "orders", 2, 1);
    assert_int_equal(do_place_one(f, id, 1, VOTER), THOLE_OK);
    assert_int_equal(do_observe(f, last_replica(f), thole_v1_REPLICA_PHASE_CATCHING_UP, 0),
                     THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_FAILED_PRECONDITION);
}

static void test_only_voter_of_shard_zero_stays(void **state)
{
    struct fixture *f = *state;
    begin(f);
    for (uint64_t id = 2; id <= 3; id++) {
        assert_int_equal(do_set_role(f, id, thole_v1_REPLICA_ROLE_NON_VOTING), THOLE_OK);
        assert_int_equal(do_observe(f, id, RUNNING, 0), THOLE_OK);
    }
    assert_int_equal(do_delete_host(f, 0), THOLE_FAILED_PRECONDITION);
    assert_true(message_has(f, "shards/zero needs this host: 0 of its 1 voters"));
    assert_int_equal(do_delete_host(f, 1), THOLE_OK);
}

/* Its vote was removed, which a dead host never confirms. */
static void test_dead_host_without_a_vote_of_zero_may_go(void **state)
{
    struct fixture *f = *state;
    begin(f);
    assert_int_equal(do_set_role(f, 2, thole_v1_REPLICA_ROLE_NON_VOTING), THOLE_OK);
    assert_int_equal(do_set_role(f, 3, thole_v1_REPLICA_ROLE_NON_VOTING), THOLE_OK);
    assert_int_equal(do_observe(f, 2, RUNNING, 0), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_FAILED_PRECONDITION); /* may still vote */
    assert_int_equal(do_liveness(f, 2, DEAD), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup_three, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_user_deletes_only_dead_hosts_without_replicas),
        TEST(test_only_voter_is_never_removed_with_its_host),
        TEST(test_one_of_three_voters_may_go_and_not_the_second),
        TEST(test_a_witness_is_no_copy),
        TEST(test_a_replica_that_catches_up_is_no_copy),
        TEST(test_only_voter_of_shard_zero_stays),
        TEST(test_dead_host_without_a_vote_of_zero_may_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
