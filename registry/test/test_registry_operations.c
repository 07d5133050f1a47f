/* Operations as rows: start, retry, cancellation, progress, and their bounded history. */
#include "registry/test/registry_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static uint64_t start(struct fixture *f, int32_t kind, const char *host)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_StartOperation_set_kind(o, kind);
    thole_registry_v1_StartOperation_set_host(o, upb_StringView_FromString(host));
    return fixture_run(f, &c);
}

/* A command with one operation, which the same client retries again and again. */
static struct cmd asked(const char *request_id)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_Command_set_request_id(c.c, upb_StringView_FromString(request_id));
    return c;
}

static uint64_t start_once(struct fixture *f, int32_t kind, const char *host,
                           const char *request_id)
{
    struct cmd c = asked(request_id);
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_StartOperation_set_kind(o, kind);
    thole_registry_v1_StartOperation_set_host(o, upb_StringView_FromString(host));
    return fixture_run(f, &c);
}

static uint64_t move_once(struct fixture *f, const char *shard, const char *from, const char *to,
                          uint64_t decided_at, const char *request_id)
{
    struct cmd c = asked(request_id);
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_Command_set_decided_at(c.c, decided_at);
    thole_registry_v1_StartOperation_set_kind(o, thole_v1_OPERATION_KIND_MOVE);
    thole_registry_v1_StartOperation_set_shard(o, upb_StringView_FromString(shard));
    thole_registry_v1_StartOperation_set_from(o, upb_StringView_FromString(from));
    thole_registry_v1_StartOperation_set_to(o, upb_StringView_FromString(to));
    return fixture_run(f, &c);
}

static uint64_t cancel(struct fixture *f, uint64_t id, bool pauses)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CancelOperation *o =
        thole_registry_v1_Operation_mutable_cancel_operation(cmd_op(&c), c.arena);
    thole_registry_v1_CancelOperation_set_id(o, id);
    thole_registry_v1_CancelOperation_set_pauses(o, pauses);
    return fixture_run(f, &c);
}

static uint64_t step(struct fixture *f, uint64_t id, uint64_t revision, int32_t state,
                     uint32_t done)
{
    struct cmd c = cmd_new("operations");
    thole_registry_v1_Operation *op = cmd_op(&c);
    thole_registry_v1_StepOperation *o =
        thole_registry_v1_Operation_mutable_step_operation(op, c.arena);
    thole_registry_v1_Operation_set_expected_revision(op, revision);
    thole_registry_v1_StepOperation_set_id(o, id);
    thole_registry_v1_StepOperation_set_state(o, state);
    thole_registry_v1_StepOperation_set_done(o, done);
    thole_registry_v1_StepOperation_set_total(o, 9);
    return fixture_run(f, &c);
}

/* Of the last result. */
static const thole_v1_Operation *row_of(const struct fixture *f)
{
    const thole_v1_Operation *row = thole_registry_v1_Result_operation(f->result);
    assert_non_null(row);
    return row;
}

static int32_t state_of(struct fixture *f, uint64_t id)
{
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Operation *row = registry_operation(v, id);
    int32_t state = row == NULL ? 0 : thole_v1_Operation_state(row);
    registry_view_release(v);
    return state;
}

static int32_t host_state(struct fixture *f, const char *name)
{
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Host *row = registry_host_by_name(v, slice_str(name));
    int32_t state = thole_v1_HostSpec_state(thole_v1_Host_spec(row));
    registry_view_release(v);
    return state;
}

static void test_drain_sets_the_host_draining_once(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    uint64_t id = thole_v1_Operation_id(row_of(f));
    uint64_t revision = thole_registry_v1_Result_revision(f->result);
    assert_int_equal(thole_v1_Operation_state(row_of(f)), thole_v1_OPERATION_STATE_PENDING);
    assert_true(
        slice_equal(registry_str(thole_v1_Operation_target(row_of(f))), slice_str("hosts/h1")));
    assert_int_equal(host_state(f, "h1"), thole_v1_HOST_STATE_DRAINING);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    assert_int_equal(thole_v1_Operation_id(row_of(f)), id);
    assert_int_equal(thole_registry_v1_Result_revision(f->result), revision);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h9"), THOLE_NOT_FOUND);
    assert_int_equal(start(f, 99, "h1"), THOLE_INVALID_ARGUMENT);
}

static void test_cancel_sets_the_host_back_and_ids_go_on(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    uint64_t id = thole_v1_Operation_id(row_of(f));
    assert_int_equal(cancel(f, id, false), THOLE_OK);
    assert_int_equal(thole_v1_Operation_state(row_of(f)), thole_v1_OPERATION_STATE_CANCELLED);
    assert_int_equal(host_state(f, "h1"), thole_v1_HOST_STATE_ACTIVE);
    assert_int_equal(cancel(f, id, false), THOLE_OK);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    assert_true(thole_v1_Operation_id(row_of(f)) > id);
    assert_int_equal(state_of(f, id), thole_v1_OPERATION_STATE_CANCELLED);
    assert_int_equal(cancel(f, 77, false), THOLE_NOT_FOUND);
}

/* Also when another operation took over the drain. */
static void test_cancel_restores_a_cordoned_host(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_CORDON, "h1"), THOLE_OK);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    assert_int_equal(cancel(f, thole_v1_Operation_id(row_of(f)), false), THOLE_OK);
    assert_int_equal(host_state(f, "h1"), thole_v1_HOST_STATE_CORDONED);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DECOMMISSION, "h1"), THOLE_OK);
    assert_int_equal(cancel(f, thole_v1_Operation_id(row_of(f)), false), THOLE_OK);
    assert_int_equal(host_state(f, "h1"), thole_v1_HOST_STATE_CORDONED);
}

static void test_undrain_needs_a_drain_and_ends_it(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_UNDRAIN, "h1"), THOLE_FAILED_PRECONDITION);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    uint64_t id = thole_v1_Operation_id(row_of(f));
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_UNDRAIN, "h1"), THOLE_OK);
    assert_int_equal(thole_v1_Operation_state(row_of(f)), thole_v1_OPERATION_STATE_DONE);
    assert_int_equal(state_of(f, id), thole_v1_OPERATION_STATE_CANCELLED);
    assert_int_equal(host_state(f, "h1"), thole_v1_HOST_STATE_ACTIVE);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_CORDON, "h1"), THOLE_OK);
    assert_int_equal(host_state(f, "h1"), thole_v1_HOST_STATE_CORDONED);
}

static void test_decommission_takes_over_a_drain_and_not_the_reverse(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    uint64_t drain = thole_v1_Operation_id(row_of(f));
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DECOMMISSION, "h1"), THOLE_OK);
    uint64_t id = thole_v1_Operation_id(row_of(f));
    assert_int_equal(state_of(f, drain), thole_v1_OPERATION_STATE_CANCELLED);
    assert_int_equal(host_state(f, "h1"), thole_v1_HOST_STATE_DRAINING);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_FAILED_PRECONDITION);
    /* Past the point of return. */
    for (uint64_t zero = 1; zero <= 3; zero++) {
        assert_int_equal(do_observe(f, zero, thole_v1_REPLICA_PHASE_RUNNING, 0), THOLE_OK);
    }
    assert_int_equal(do_delete_host(f, 1), THOLE_OK);
    assert_int_equal(cancel(f, id, false), THOLE_FAILED_PRECONDITION);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DECOMMISSION, "h1"),
                     THOLE_FAILED_PRECONDITION);
}

static void test_step_is_guarded_and_ended_rows_never_change(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h1"), THOLE_OK);
    uint64_t id = thole_v1_Operation_id(row_of(f));
    uint64_t revision = thole_v1_Operation_revision(row_of(f));
    assert_int_equal(step(f, id, revision, thole_v1_OPERATION_STATE_RUNNING, 3), THOLE_OK);
    assert_int_equal(thole_v1_Operation_done(row_of(f)), 3);
    assert_int_equal(step(f, id, revision, thole_v1_OPERATION_STATE_RUNNING, 4), THOLE_ABORTED);
    assert_int_equal(step(f, id, 0, thole_v1_OPERATION_STATE_PENDING, 4), THOLE_INVALID_ARGUMENT);
    assert_int_equal(step(f, id, 0, thole_v1_OPERATION_STATE_DONE, 9), THOLE_OK);
    assert_int_equal(step(f, id, 0, thole_v1_OPERATION_STATE_RUNNING, 5), THOLE_OK);
    assert_int_equal(thole_v1_Operation_done(row_of(f)), 9);
    assert_int_equal(state_of(f, id), thole_v1_OPERATION_STATE_DONE);
    assert_int_equal(cancel(f, id, false), THOLE_FAILED_PRECONDITION);
    assert_int_equal(host_state(f, "h1"), thole_v1_HOST_STATE_DRAINING);
}

static void test_pauses_last_until_resumed(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(cancel(f, 0, true), THOLE_NOT_FOUND);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_PAUSE, ""), THOLE_OK);
    uint64_t first = thole_v1_Operation_id(row_of(f));
    size_t count = 0;
    thole_v1_Operation_controllers(row_of(f), &count);
    assert_int_equal(count, 3);
    assert_int_equal(state_of(f, first), thole_v1_OPERATION_STATE_RUNNING);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_PAUSE, ""), THOLE_OK);
    assert_int_equal(cancel(f, 0, true), THOLE_OK);
    assert_int_equal(state_of(f, first), thole_v1_OPERATION_STATE_DONE);
    assert_int_equal(state_of(f, first + 1), thole_v1_OPERATION_STATE_DONE);
}

/* The oldest ended operations are evicted; an operation under way stays, however old. A snapshot
 * contains them all, and the next id. */
static void test_history_is_bounded_and_restored(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h0"), THOLE_OK);
    for (int i = 0; i < 150; i++) {
        assert_int_equal(start(f, thole_v1_OPERATION_KIND_CORDON, "h1"), THOLE_OK);
        assert_int_equal(start(f, thole_v1_OPERATION_KIND_UNCORDON, "h1"), THOLE_OK);
    }
    assert_int_equal(state_of(f, 1), thole_v1_OPERATION_STATE_PENDING);
    assert_int_equal(state_of(f, 2), 0);
    assert_int_equal(state_of(f, 301 - 256), 0);
    assert_int_equal(state_of(f, 302 - 256), thole_v1_OPERATION_STATE_DONE);
    struct bytes saved = {0};
    struct bytes again = {0};
    struct thole_status st;
    fixture_save(f, &saved);
    assert_int_equal(fixture_restore(f, bytes_slice(&saved), &st), THOLE_OK);
    fixture_save(f, &again);
    assert_true(slice_equal(bytes_slice(&saved), bytes_slice(&again)));
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_CORDON, "h1"), THOLE_OK);
    assert_int_equal(thole_v1_Operation_id(row_of(f)), 302);
    bytes_deinit(&saved);
    bytes_deinit(&again);
}

static void test_too_many_under_way_are_refused(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 256; i++) {
        assert_int_equal(start(f, thole_v1_OPERATION_KIND_PAUSE, ""), THOLE_OK);
    }
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_PAUSE, ""), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(cancel(f, 0, true), THOLE_OK);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_PAUSE, ""), THOLE_OK);
}

static uint64_t revision_of(struct fixture *f)
{
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t revision = registry_view_revision(v);
    registry_view_release(v);
    return revision;
}

/* Also after the first operation has ended, when the same request would be refused, or would start
 * another operation. */
static void test_repeated_request_id_gets_the_first_operation(void **state)
{
    struct fixture *f = *state;
    static const int32_t kinds[] = {
        thole_v1_OPERATION_KIND_DRAIN,        thole_v1_OPERATION_KIND_UNDRAIN,
        thole_v1_OPERATION_KIND_CORDON,       thole_v1_OPERATION_KIND_UNCORDON,
        thole_v1_OPERATION_KIND_PAUSE,        thole_v1_OPERATION_KIND_REBALANCE,
        thole_v1_OPERATION_KIND_DECOMMISSION,
    };
    const size_t count = sizeof kinds / sizeof kinds[0];
    uint64_t ids[8];
    char name[16];
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "once-%zu", i);
        assert_int_equal(start_once(f, kinds[i], "h1", name), THOLE_OK);
        ids[i] = thole_v1_Operation_id(row_of(f));
        assert_int_equal(start_once(f, kinds[i], "h1", name), THOLE_OK);
        assert_int_equal(thole_v1_Operation_id(row_of(f)), ids[i]);
        if (state_of(f, ids[i]) < thole_v1_OPERATION_STATE_DONE &&
            kinds[i] != thole_v1_OPERATION_KIND_DRAIN) {
            assert_int_equal(step(f, ids[i], 0, thole_v1_OPERATION_STATE_DONE, 9), THOLE_OK);
        }
    }
    uint64_t before = revision_of(f);
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "once-%zu", i);
        assert_int_equal(start_once(f, kinds[i], "h1", name), THOLE_OK);
        assert_int_equal(thole_v1_Operation_id(row_of(f)), ids[i]);
        assert_int_equal(thole_v1_Operation_kind(row_of(f)), kinds[i]);
    }
    assert_int_equal(revision_of(f), before);
}

/* The command's result is the operation, however large the shard whose row changed with it. */
static void test_repeated_move_of_a_large_shard_gets_the_first_operation(void **state)
{
    struct fixture *f = *state;
    static char config[16 * 1024];
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    memset(config, 'c', sizeof config);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString("big"));
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    fill_spec(spec, c.arena, 1, 0);
    thole_v1_ShardSpec_set_config(spec, upb_StringView_FromDataAndSize(config, sizeof config));
    assert_int_equal(fixture_run(f, &c), THOLE_OK);
    uint64_t shard = thole_v1_Shard_id(thole_registry_v1_Result_shard(f->result));
    assert_int_equal(do_place(f, shard, 0, 1), THOLE_OK);
    uint64_t replica = thole_v1_Replica_id(thole_registry_v1_Result_replica(f->result));
    assert_int_equal(do_formed(f, shard, replica, 1), THOLE_OK);
    assert_int_equal(move_once(f, "big", "h0", "h1", 0, "move-1"), THOLE_OK);
    uint64_t id = thole_v1_Operation_id(row_of(f));
    assert_int_equal(cancel(f, id, false), THOLE_OK);
    assert_int_equal(move_once(f, "big", "h0", "h1", 0, "move-1"), THOLE_OK);
    assert_int_equal(thole_v1_Operation_id(row_of(f)), id);
    assert_int_equal(state_of(f, id), thole_v1_OPERATION_STATE_CANCELLED);
}

/* A retryable refusal is not recorded: a retry under the same id is decided anew. Other refusals
 * are recorded. */
static void test_refusals_are_remembered_unless_they_ask_for_another_try(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(do_create_shard(f, "s", 1, 0), THOLE_OK);
    uint64_t shard = thole_v1_Shard_id(thole_registry_v1_Result_shard(f->result));
    assert_int_equal(do_place(f, shard, 0, 1), THOLE_OK);
    uint64_t replica = thole_v1_Replica_id(thole_registry_v1_Result_replica(f->result));
    uint64_t early = revision_of(f);
    assert_int_equal(do_formed(f, shard, replica, 1), THOLE_OK);
    assert_int_equal(move_once(f, "s", "h0", "h1", early, "a"), THOLE_ABORTED);
    assert_int_equal(move_once(f, "s", "h0", "h1", revision_of(f), "a"), THOLE_OK);
    for (int i = 0; i < 255; i++) {
        assert_int_equal(start(f, thole_v1_OPERATION_KIND_PAUSE, ""), THOLE_OK);
    }
    assert_int_equal(start_once(f, thole_v1_OPERATION_KIND_DRAIN, "h1", "b"),
                     THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(cancel(f, 0, true), THOLE_OK);
    assert_int_equal(start_once(f, thole_v1_OPERATION_KIND_DRAIN, "h1", "b"), THOLE_OK);
    assert_int_equal(start_once(f, thole_v1_OPERATION_KIND_UNDRAIN, "h2", "c"),
                     THOLE_FAILED_PRECONDITION);
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_DRAIN, "h2"), THOLE_OK);
    assert_int_equal(start_once(f, thole_v1_OPERATION_KIND_UNDRAIN, "h2", "c"),
                     THOLE_FAILED_PRECONDITION);
    assert_int_equal(host_state(f, "h2"), thole_v1_HOST_STATE_DRAINING);
}

/* The message of a dry run of a drain. */
static void expect_dry_drain(struct fixture *f, const char *host, uint32_t total, const char *text)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_Command_set_validate_only(c.c, true);
    thole_registry_v1_StartOperation_set_kind(o, thole_v1_OPERATION_KIND_DRAIN);
    thole_registry_v1_StartOperation_set_host(o, upb_StringView_FromString(host));
    assert_int_equal(fixture_run(f, &c), THOLE_OK);
    upb_StringView message = thole_v1_Operation_message(row_of(f));
    assert_int_equal(thole_v1_Operation_total(row_of(f)), total);
    if (message.size < strlen(text) || memcmp(message.data, text, strlen(text)) != 0 ||
        (text[0] == '\0' && message.size > 0)) {
        fail_msg("\"%.*s\" does not begin with \"%s\"", (int)message.size, message.data, text);
    }
}

/* Its group has formed, and all of its replicas run. */
static void run_replicas(struct fixture *f, uint64_t shard)
{
    struct registry_replica_buf buf;
    const thole_v1_Replica *r;
    uint64_t after = 0;
    struct registry_view *v = registry_view_acquire(f->r);
    while ((r = registry_next_replica_of_shard(v, shard, after, &buf)) != NULL) {
        after = thole_v1_Replica_id(r);
        assert_int_equal(do_observe(f, after, thole_v1_REPLICA_PHASE_RUNNING, 1), THOLE_OK);
    }
    registry_view_release(v);
    assert_int_equal(do_formed(f, shard, after, 1), THOLE_OK);
}

/* The only shard that cannot leave is the last of many. */
static void test_dry_drain_looks_at_every_replica(void **state)
{
    struct fixture *f = *state;
    char name[16];
    for (uint64_t i = 1; i <= 300; i++) {
        snprintf(name, sizeof name, "s%" PRIu64, i);
        assert_int_equal(do_create_shard(f, name, 1, 0), THOLE_OK);
        assert_int_equal(do_place(f, i, 1, 1), THOLE_OK);
    }
    expect_dry_drain(f, "h1", 300, "");
    assert_int_equal(do_create_shard(f, "wide", 3, 0), THOLE_OK);
    assert_int_equal(do_place(f, 301, 0, 3), THOLE_OK);
    run_replicas(f, 301);
    expect_dry_drain(f, "h1", 301,
                     "1 of 301 replicas cannot leave; shards/wide cannot move: no host for 1 of 3");
    expect_dry_drain(f, "h2", 1, "1 of 1 replicas cannot leave; shards/wide");
}

static void test_dry_drain_names_a_pause(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(start(f, thole_v1_OPERATION_KIND_PAUSE, ""), THOLE_OK);
    expect_dry_drain(f, "h1", 0, "");
    assert_int_equal(do_create_shard(f, "s", 1, 0), THOLE_OK);
    assert_int_equal(do_place(f, 1, 1, 1), THOLE_OK);
    expect_dry_drain(f, "h1", 1, "the placement controller is paused");
    assert_int_equal(cancel(f, 0, true), THOLE_OK);
    expect_dry_drain(f, "h1", 1, "");
}

/* A drain moves or removes what users created. */
static void test_dry_drain_counts_replicas_of_users_like_others(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(do_create_shard(f, "s", 1, 0), THOLE_OK);
    assert_int_equal(do_place(f, 1, 1, 1), THOLE_OK);
    assert_int_equal(do_create_replica(f, "s", 2, thole_v1_REPLICA_ROLE_NON_VOTING), THOLE_OK);
    expect_dry_drain(f, "h2", 1, "");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup_three, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_drain_sets_the_host_draining_once),
        TEST(test_cancel_sets_the_host_back_and_ids_go_on),
        TEST(test_cancel_restores_a_cordoned_host),
        TEST(test_undrain_needs_a_drain_and_ends_it),
        TEST(test_dry_drain_looks_at_every_replica),
        TEST(test_dry_drain_names_a_pause),
        TEST(test_dry_drain_counts_replicas_of_users_like_others),
        TEST(test_decommission_takes_over_a_drain_and_not_the_reverse),
        TEST(test_step_is_guarded_and_ended_rows_never_change),
        TEST(test_pauses_last_until_resumed),
        TEST(test_history_is_bounded_and_restored),
        TEST(test_too_many_under_way_are_refused),
        TEST(test_repeated_request_id_gets_the_first_operation),
        TEST(test_repeated_move_of_a_large_shard_gets_the_first_operation),
        TEST(test_refusals_are_remembered_unless_they_ask_for_another_try),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
