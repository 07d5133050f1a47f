/* Shards that are founded on a snapshot: one command creates all their rows, and cancelling removes
 * them all. */
#include "registry/test/registry_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define FILE_NAME "0f3a-1"

static uint64_t restore(struct fixture *f, const char *name, uint64_t host, const char *file)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_RestoreShard *o =
        thole_registry_v1_Operation_mutable_restore_shard(cmd_op(&c), c.arena);
    thole_registry_v1_RestoreShard_set_name(o, upb_StringView_FromString(name));
    fill_spec(thole_registry_v1_RestoreShard_mutable_spec(o, c.arena), c.arena, 3, 0);
    thole_v1_ShardSeed *seed = thole_registry_v1_RestoreShard_mutable_seed(o, c.arena);
    thole_v1_ShardSeed_set_host_id(seed, upb_StringView_FromString(test_uuid_text(host)));
    thole_v1_ShardSeed_set_file(seed, upb_StringView_FromString(file));
    thole_v1_ShardSeed_set_source(seed, upb_StringView_FromString("orders"));
    return fixture_run(f, &c);
}

static uint64_t cancel(struct fixture *f, uint64_t id)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CancelOperation *o =
        thole_registry_v1_Operation_mutable_cancel_operation(cmd_op(&c), c.arena);
    thole_registry_v1_CancelOperation_set_id(o, id);
    return fixture_run(f, &c);
}

static void test_restore_makes_shard_voter_and_operation(void **state)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    struct fixture *f = *state;
    assert_int_equal(restore(f, "copy", 2, FILE_NAME), THOLE_OK);
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *shard = registry_shard_by_name(v, slice_str("copy"), &shard_buf);
    assert_non_null(shard);
    size_t count = 0;
    const thole_v1_InitialReplica *const *initial = thole_v1_Shard_initial(shard, &count);
    assert_int_equal(count, 1);
    const thole_v1_Replica *replica =
        registry_replica(v, thole_v1_InitialReplica_replica_id(initial[0]), &replica_buf);
    assert_true(thole_v1_Replica_initial(replica));
    assert_int_equal(thole_v1_Replica_role(replica), thole_v1_REPLICA_ROLE_VOTER);
    assert_true(slice_equal(registry_str(thole_v1_Replica_host(replica)), slice_str("h2")));
    assert_true(slice_equal(registry_str(thole_v1_ShardSeed_file(thole_v1_Shard_seed(shard))),
                            slice_str(FILE_NAME)));
    const thole_v1_Operation *row = registry_operation(v, 1);
    assert_int_equal(thole_v1_Operation_kind(row), thole_v1_OPERATION_KIND_RESTORE);
    assert_int_equal(thole_v1_Operation_state(row), thole_v1_OPERATION_STATE_PENDING);
    assert_int_equal(thole_v1_Operation_shard_id(row), thole_v1_Shard_id(shard));
    registry_view_release(v);
}

static void test_restore_that_cannot_be_leaves_nothing(void **state)
{
    struct registry_shard_buf shard_buf;
    struct fixture *f = *state;
    assert_int_equal(do_create_shard(f, "orders", 3, 0), THOLE_OK);
    assert_int_equal(restore(f, "orders", 2, FILE_NAME), THOLE_ALREADY_EXISTS);
    assert_int_equal(restore(f, "copy", 77, FILE_NAME), THOLE_FAILED_PRECONDITION);
    assert_int_equal(restore(f, "copy", 2, "../identity"), THOLE_INVALID_ARGUMENT);
    assert_int_equal(restore(f, "copy", 2, ""), THOLE_INVALID_ARGUMENT);
    assert_int_equal(do_host_state(f, 2, thole_v1_HOST_STATE_CORDONED), THOLE_OK);
    assert_int_equal(restore(f, "copy", 2, FILE_NAME), THOLE_FAILED_PRECONDITION);
    struct registry_view *v = registry_view_acquire(f->r);
    assert_null(registry_shard_by_name(v, slice_str("copy"), &shard_buf));
    assert_null(registry_operation(v, 1));
    registry_view_release(v);
}

static void test_restore_is_not_started_by_kind(void **state)
{
    struct fixture *f = *state;
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_StartOperation_set_kind(o, thole_v1_OPERATION_KIND_RESTORE);
    assert_int_equal(fixture_run(f, &c), THOLE_INVALID_ARGUMENT);
}

static void test_cancel_before_it_serves_deletes_the_shard(void **state)
{
    struct registry_shard_buf shard_buf;
    struct fixture *f = *state;
    assert_int_equal(restore(f, "copy", 2, FILE_NAME), THOLE_OK);
    assert_int_equal(cancel(f, 1), THOLE_OK);
    struct registry_view *v = registry_view_acquire(f->r);
    assert_true(thole_v1_Shard_deleting(registry_shard_by_name(v, slice_str("copy"), &shard_buf)));
    assert_int_equal(thole_v1_Operation_state(registry_operation(v, 1)),
                     thole_v1_OPERATION_STATE_CANCELLED);
    registry_view_release(v);
}

static void test_cancel_of_a_shard_that_serves_is_refused(void **state)
{
    struct registry_shard_buf shard_buf;
    struct fixture *f = *state;
    assert_int_equal(restore(f, "copy", 2, FILE_NAME), THOLE_OK);
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *shard = registry_shard_by_name(v, slice_str("copy"), &shard_buf);
    uint64_t id = thole_v1_Shard_id(shard);
    size_t count = 0;
    uint64_t first = thole_v1_InitialReplica_replica_id(thole_v1_Shard_initial(shard, &count)[0]);
    registry_view_release(v);
    assert_int_equal(do_formed(f, id, first, 3), THOLE_OK);
    assert_int_equal(cancel(f, 1), THOLE_FAILED_PRECONDITION);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup_three, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_restore_makes_shard_voter_and_operation),
        TEST(test_restore_that_cannot_be_leaves_nothing),
        TEST(test_restore_is_not_started_by_kind),
        TEST(test_cancel_before_it_serves_deletes_the_shard),
        TEST(test_cancel_of_a_shard_that_serves_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
