/* thole.v1.Operations over a client's connection, on a cluster of one host. */
#include "agent/services/test/services_fixture.h"

#include "base/buf.h"
#include "base/clock.h"
#include "proto/decode.h"
#include "thole/v1/operations.upb.h"
#include "thole/v1/snapshots.upb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static int setup(void **state)
{
    *state = services_fixture_new();
    return 0;
}

static int teardown(void **state)
{
    services_fixture_free(*state);
    return 0;
}

static const thole_v1_Operation *ok(struct services_fixture *f, const thole_v1_Operation *o)
{
    if (o == NULL) {
        fail_msg("%s", f->st.message);
        abort(); /* not reached; the analyzer does not know */
    }
    return o;
}

static bool is(upb_StringView text, const char *want)
{
    return upb_StringView_IsEqual(text, sv(want));
}

static const thole_v1_Operation *pause_balance(struct services_fixture *f)
{
    thole_v1_PauseControllersRequest *q = NEW(f, PauseControllersRequest);
    thole_v1_PauseControllersRequest_add_controllers(q, thole_v1_CONTROLLER_BALANCE, f->arena);
    return ok(f, CALL(f, Operations, PauseControllers, q, Operation));
}

static const thole_v1_Operation *cancel(struct services_fixture *f, uint64_t id)
{
    thole_v1_CancelOperationRequest *q = NEW(f, CancelOperationRequest);
    thole_v1_CancelOperationRequest_set_id(q, id);
    return CALL(f, Operations, CancelOperation, q, Operation);
}

static const thole_v1_Operation *get(struct services_fixture *f, uint64_t id)
{
    thole_v1_GetOperationRequest *q = NEW(f, GetOperationRequest);
    thole_v1_GetOperationRequest_set_id(q, id);
    return CALL(f, Operations, GetOperation, q, Operation);
}

/* ---- Watching -------------------------------------------------------------------------------- */

static struct bus_stream *watch(struct services_fixture *f, uint64_t id)
{
    struct bus_stream *stream = NULL;
    size_t size = 0;
    thole_v1_WatchOperationRequest *q = NEW(f, WatchOperationRequest);
    thole_v1_WatchOperationRequest_set_id(q, id);
    char *bytes = thole_v1_WatchOperationRequest_serialize(q, f->arena, &size);
    assert_int_equal(bus_channel_stream(f->channel, "/thole.v1.Operations/WatchOperation",
                                        slice_of(bytes, size), &stream, &f->st),
                     THOLE_OK);
    return stream;
}

/* NULL: the stream has ended, f->st says how. */
static const thole_v1_Operation *next(struct services_fixture *f, struct bus_stream *stream)
{
    struct buf *b = NULL;
    if (bus_stream_next(stream, 20000, &b, &f->st) != THOLE_OK || b == NULL) {
        return NULL;
    }
    const thole_v1_Operation *o =
        PROTO_DECODE(thole_v1_Operation, slice_of(b->data, b->size), f->arena);
    assert_non_null(o);
    buf_unref(b);
    return o;
}

/* Watch the operation to its end; returns its last row. */
static const thole_v1_Operation *end_of(struct services_fixture *f, uint64_t id)
{
    struct bus_stream *stream = watch(f, id);
    const thole_v1_Operation *last = NULL;
    const thole_v1_Operation *o;
    while ((o = next(f, stream)) != NULL) {
        last = o;
    }
    bus_stream_free(stream);
    last = ok(f, last);
    assert_true(thole_v1_Operation_state(last) >= thole_v1_OPERATION_STATE_DONE);
    return last;
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void test_an_operation_is_found_listed_and_cancelled(void **state)
{
    struct services_fixture *f = *state;
    const thole_v1_Operation *first = pause_balance(f);
    const thole_v1_Operation *second = pause_balance(f);
    uint64_t id = thole_v1_Operation_id(first);
    assert_int_equal(thole_v1_Operation_id(second), id + 1);
    const thole_v1_Operation *o = ok(f, get(f, id));
    assert_int_equal(thole_v1_Operation_kind(o), thole_v1_OPERATION_KIND_PAUSE);
    assert_int_equal(thole_v1_Operation_state(o), thole_v1_OPERATION_STATE_RUNNING);
    assert_true(is(thole_v1_Operation_actor(o), "user"));

    size_t count = 0;
    thole_v1_ListOperationsRequest *q = NEW(f, ListOperationsRequest);
    thole_v1_ListOperationsRequest_set_page_size(q, 1);
    const thole_v1_ListOperationsResponse *page =
        CALL(f, Operations, ListOperations, q, ListOperationsResponse);
    const thole_v1_Operation *const *rows =
        thole_v1_ListOperationsResponse_operations(page, &count);
    assert_int_equal(count, 1);
    assert_int_equal(thole_v1_Operation_id(rows[0]), id);
    thole_v1_ListOperationsRequest_set_page_token(
        q, thole_v1_ListOperationsResponse_next_page_token(page));
    page = CALL(f, Operations, ListOperations, q, ListOperationsResponse);
    rows = thole_v1_ListOperationsResponse_operations(page, &count);
    assert_int_equal(count, 1);
    assert_int_equal(thole_v1_Operation_id(rows[0]), id + 1);
    assert_int_equal(thole_v1_ListOperationsResponse_next_page_token(page).size, 0);

    o = ok(f, cancel(f, id));
    assert_int_equal(thole_v1_Operation_state(o), thole_v1_OPERATION_STATE_CANCELLED);
    ok(f, cancel(f, id)); /* again: nothing to do */
    ok(f, cancel(f, id + 1));
    assert_int_equal(thole_v1_Operation_state(ok(f, get(f, id))),
                     thole_v1_OPERATION_STATE_CANCELLED);
}

static void test_what_is_not_there_is_not_found(void **state)
{
    struct services_fixture *f = *state;
    assert_failed(f, get(f, 4711), THOLE_NOT_FOUND, THOLE_REASON_NONE);
    assert_failed(f, cancel(f, 4711), THOLE_NOT_FOUND, THOLE_REASON_NONE);
    assert_failed(f, cancel(f, 0), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    struct bus_stream *stream = watch(f, 4711);
    assert_null(next(f, stream));
    assert_int_equal(f->st.code, THOLE_NOT_FOUND);
    bus_stream_free(stream);
    thole_v1_ResumeControllersRequest *q = NEW(f, ResumeControllersRequest);
    assert_failed(f, CALL(f, Operations, ResumeControllers, q, Operation), THOLE_NOT_FOUND,
                  THOLE_REASON_NONE);
}

static void test_a_watch_shows_each_change_and_ends_with_the_operation(void **state)
{
    struct services_fixture *f = *state;
    uint64_t id = thole_v1_Operation_id(pause_balance(f));
    struct bus_stream *stream = watch(f, id);
    const thole_v1_Operation *o = next(f, stream);
    assert_non_null(o);
    assert_int_equal(thole_v1_Operation_state(o), thole_v1_OPERATION_STATE_RUNNING);
    ok(f, cancel(f, id));
    o = next(f, stream);
    assert_non_null(o);
    assert_int_equal(thole_v1_Operation_state(o), thole_v1_OPERATION_STATE_CANCELLED);
    assert_true(thole_v1_Operation_end_time_ms(o) >= thole_v1_Operation_start_time_ms(o));
    assert_null(next(f, stream));
    bus_stream_free(stream);
    /* An operation that has ended is shown once. */
    assert_int_equal(thole_v1_Operation_state(end_of(f, id)), thole_v1_OPERATION_STATE_CANCELLED);
}

/* The only host has no target for its replicas, so the drain waits. Cancelling leaves the host as
 * it was: cordoned. */
static void test_a_cancelled_drain_leaves_a_cordoned_host_cordoned(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "d", "kv");
    services_fixture_wait_ready(f, "d");
    thole_v1_CordonHostRequest *cordon = NEW(f, CordonHostRequest);
    thole_v1_CordonHostRequest_set_name(cordon, sv("h1"));
    ok(f, CALL(f, Operations, CordonHost, cordon, Operation));
    thole_v1_DrainHostRequest *q = NEW(f, DrainHostRequest);
    thole_v1_DrainHostRequest_set_name(q, sv("hosts/h1"));
    const thole_v1_Operation *o = ok(f, CALL(f, Operations, DrainHost, q, Operation));
    assert_true(is(thole_v1_Operation_target(o), "hosts/h1"));
    ok(f, cancel(f, thole_v1_Operation_id(o)));
    thole_v1_GetHostRequest *get_host = NEW(f, GetHostRequest);
    thole_v1_GetHostRequest_set_name(get_host, sv("h1"));
    const thole_v1_Host *host = CALL(f, Hosts, GetHost, get_host, Host);
    assert_int_equal(thole_v1_HostSpec_state(thole_v1_Host_spec(host)),
                     thole_v1_HOST_STATE_CORDONED);
    thole_v1_UncordonHostRequest *uncordon = NEW(f, UncordonHostRequest);
    thole_v1_UncordonHostRequest_set_name(uncordon, sv("h1"));
    ok(f, CALL(f, Operations, UncordonHost, uncordon, Operation));
}

static void test_moves_that_cannot_be_are_refused(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "m", "kv");
    services_fixture_wait_ready(f, "m");
    thole_v1_MoveShardRequest *q = NEW(f, MoveShardRequest);
    thole_v1_MoveShardRequest_set_shard(q, sv("shards/m"));
    thole_v1_MoveShardRequest_set_from(q, sv("hosts/h1"));
    assert_failed(f, CALL(f, Operations, MoveShard, q, Operation), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
    thole_v1_MoveShardRequest_set_to(q, sv("hosts/h2"));
    assert_failed(f, CALL(f, Operations, MoveShard, q, Operation), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_HOST);
    thole_v1_MoveShardRequest_set_to(q, sv("hosts/h1"));
    assert_failed(f, CALL(f, Operations, MoveShard, q, Operation), THOLE_FAILED_PRECONDITION,
                  THOLE_REASON_UNSATISFIABLE);
    thole_v1_MoveShardRequest_set_shard(q, sv("none"));
    assert_failed(f, CALL(f, Operations, MoveShard, q, Operation), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_SHARD);
}

static void test_a_rebalance_of_one_host_is_done(void **state)
{
    struct services_fixture *f = *state;
    thole_v1_RebalanceRequest *q = NEW(f, RebalanceRequest);
    const thole_v1_Operation *o = ok(f, CALL(f, Operations, Rebalance, q, Operation));
    o = end_of(f, thole_v1_Operation_id(o));
    assert_int_equal(thole_v1_Operation_kind(o), thole_v1_OPERATION_KIND_REBALANCE);
    assert_int_equal(thole_v1_Operation_state(o), thole_v1_OPERATION_STATE_DONE);
}

/* Waits for an event of this method, which has the caller's address. */
static void wait_for_event(struct services_fixture *f, const char *method)
{
    for (uint64_t end = clock_now(&clock_system) + 20 * NS_PER_S; clock_now(&clock_system) < end;) {
        size_t count = 0;
        thole_v1_ListEventsRequest *q = NEW(f, ListEventsRequest);
        const thole_v1_ListEventsResponse *list =
            CALL(f, Events, ListEvents, q, ListEventsResponse);
        assert_non_null(list);
        const thole_v1_Event *const *rows = thole_v1_ListEventsResponse_events(list, &count);
        for (size_t i = 0; i < count; i++) {
            upb_StringView address = thole_v1_Event_address(rows[i]);
            if (is(thole_v1_Event_method(rows[i]), method) && address.size > 5 &&
                memcmp(address.data, "ipv4:", 5) == 0) {
                return;
            }
        }
    }
    fail_msg("no event by %s with an address", method);
}

/* The service does not wait for the record, so the record may appear a moment after the reply. */
static void test_a_failed_transfer_is_on_record(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "t", "kv");
    services_fixture_wait_ready(f, "t");
    thole_v1_TransferLeaderRequest *transfer = NEW(f, TransferLeaderRequest);
    thole_v1_TransferLeaderRequest_set_shard(transfer, sv("t"));
    assert_null(CALL(f, Shards, TransferLeader, transfer, TransferLeaderResponse));
    bool found = false;
    for (uint64_t end = clock_now(&clock_system) + 20 * NS_PER_S;
         !found && clock_now(&clock_system) < end;) {
        size_t count = 0;
        thole_v1_ListOperationsRequest *q = NEW(f, ListOperationsRequest);
        const thole_v1_Operation *const *rows = thole_v1_ListOperationsResponse_operations(
            CALL(f, Operations, ListOperations, q, ListOperationsResponse), &count);
        for (size_t i = 0; i < count; i++) {
            found |= is(thole_v1_Operation_target(rows[i]), "shards/t") &&
                     thole_v1_Operation_kind(rows[i]) == thole_v1_OPERATION_KIND_TRANSFER_LEADER &&
                     thole_v1_Operation_state(rows[i]) == thole_v1_OPERATION_STATE_FAILED &&
                     thole_v1_Operation_message(rows[i]).size > 0;
        }
    }
    assert_true(found);
    wait_for_event(f, "Shards.TransferLeader");
}

/* ---- Restores -------------------------------------------------------------------------------- */

/* A saved shard is brought to the host again; the upload's name. */
static upb_StringView save_and_upload(struct services_fixture *f, const char *shard)
{
    struct bus_stream *stream = NULL;
    struct buf *b = NULL;
    size_t size = 0;
    const thole_v1_UploadSnapshotResponse *got = NULL;
    thole_v1_SaveSnapshotRequest *save = NEW(f, SaveSnapshotRequest);
    thole_v1_SaveSnapshotRequest_set_shard(save, sv(shard));
    char *bytes = thole_v1_SaveSnapshotRequest_serialize(save, f->arena, &size);
    assert_int_equal(bus_channel_stream(f->channel, "/thole.v1.Snapshots/SaveSnapshot",
                                        slice_of(bytes, size), &stream, &f->st),
                     THOLE_OK);
    while (bus_stream_next(stream, 20000, &b, &f->st) == THOLE_OK) {
        const thole_v1_SaveSnapshotResponse *piece =
            PROTO_DECODE(thole_v1_SaveSnapshotResponse, slice_of(b->data, b->size), f->arena);
        thole_v1_UploadSnapshotRequest *q = NEW(f, UploadSnapshotRequest);
        buf_unref(b);
        assert_non_null(piece);
        if (got != NULL) {
            thole_v1_UploadSnapshotRequest_set_upload(q,
                                                      thole_v1_UploadSnapshotResponse_upload(got));
            thole_v1_UploadSnapshotRequest_set_offset(
                q, thole_v1_UploadSnapshotResponse_received(got));
        }
        thole_v1_UploadSnapshotRequest_set_data(q, thole_v1_SaveSnapshotResponse_data(piece));
        got = CALL(f, Snapshots, UploadSnapshot, q, UploadSnapshotResponse);
        assert_non_null(got);
    }
    bus_stream_free(stream);
    if (got == NULL || !thole_v1_UploadSnapshotResponse_complete(got)) {
        fail_msg("the file is not complete");
        return sv("");
    }
    return thole_v1_UploadSnapshotResponse_upload(got);
}

/* Although both the upload and the name have been used. */
static void test_a_repeated_restore_gets_the_first_operation(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "saved", "kv");
    services_fixture_wait_ready(f, "saved");
    thole_v1_RestoreSnapshotRequest *q = NEW(f, RestoreSnapshotRequest);
    thole_v1_RestoreSnapshotRequest_set_upload(q, save_and_upload(f, "saved"));
    wait_for_event(f, "Snapshots.SaveSnapshot");
    thole_v1_RestoreSnapshotRequest_set_name(q, sv("copy"));
    thole_v1_RestoreSnapshotRequest_set_request_id(q, sv("restore-1"));
    uint64_t id = thole_v1_Operation_id(ok(f, CALL(f, Snapshots, RestoreSnapshot, q, Operation)));
    assert_int_equal(thole_v1_Operation_state(end_of(f, id)), thole_v1_OPERATION_STATE_DONE);
    const thole_v1_Operation *o = ok(f, CALL(f, Snapshots, RestoreSnapshot, q, Operation));
    assert_int_equal(thole_v1_Operation_id(o), id);
    assert_int_equal(thole_v1_Operation_kind(o), thole_v1_OPERATION_KIND_RESTORE);
    thole_v1_RestoreSnapshotRequest_set_request_id(q, sv("restore-2"));
    assert_null(CALL(f, Snapshots, RestoreSnapshot, q, Operation));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_operation_is_found_listed_and_cancelled),
        cmocka_unit_test(test_what_is_not_there_is_not_found),
        cmocka_unit_test(test_a_watch_shows_each_change_and_ends_with_the_operation),
        cmocka_unit_test(test_a_cancelled_drain_leaves_a_cordoned_host_cordoned),
        cmocka_unit_test(test_moves_that_cannot_be_are_refused),
        cmocka_unit_test(test_a_rebalance_of_one_host_is_done),
        cmocka_unit_test(test_a_failed_transfer_is_on_record),
        cmocka_unit_test(test_a_repeated_restore_gets_the_first_operation),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
