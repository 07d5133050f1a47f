/* Data and the watches, called over gRPC. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/services/test/services_fixture.h"
#include "base/limits.h"
#include "proto/decode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static int setup(void **state)
{
    struct services_fixture *f = services_fixture_new();
    services_fixture_create(f, "clicks", "counter");
    services_fixture_wait_ready(f, "clicks");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    services_fixture_free(*state);
    return 0;
}

static const thole_v1_ProposeResponse *propose(struct services_fixture *f, const char *shard,
                                               const char *text, uint64_t session,
                                               uint64_t sequence)
{
    thole_v1_ProposeRequest *q = NEW(f, ProposeRequest);
    thole_v1_ProposeRequest_set_shard(q, sv(shard));
    thole_v1_ProposeRequest_set_text(q, sv(text));
    thole_v1_ProposeRequest_set_session(q, session);
    thole_v1_ProposeRequest_set_sequence(q, sequence);
    return CALL(f, Data, Propose, q, ProposeResponse);
}

static const thole_v1_QueryResponse *query(struct services_fixture *f, const char *shard,
                                           const char *text, bool stale)
{
    thole_v1_QueryRequest *q = NEW(f, QueryRequest);
    thole_v1_QueryRequest_set_shard(q, sv(shard));
    thole_v1_QueryRequest_set_text(q, sv(text));
    thole_v1_QueryRequest_set_stale(q, stale);
    return CALL(f, Data, Query, q, QueryResponse);
}

/* ---- Unary ----------------------------------------------------------------------------------- */

static void test_text_is_answered_as_text_and_bytes_as_bytes(void **state)
{
    struct services_fixture *f = *state;
    const thole_v1_ProposeResponse *r = propose(f, "clicks", "add 5", 0, 0);
    assert_non_null(r);
    assert_true(thole_v1_ProposeResponse_index(r) > 0);
    assert_true(thole_v1_ProposeResponse_text(r).size > 0);
    assert_true(
        upb_StringView_IsEqual(thole_v1_ProposeResponse_text(r), thole_v1_ProposeResponse_data(r)));
    thole_v1_ProposeRequest *q = NEW(f, ProposeRequest);
    thole_v1_ProposeRequest_set_shard(q, sv("shards/clicks"));
    thole_v1_ProposeRequest_set_data(q, sv("get"));
    r = CALL(f, Data, Propose, q, ProposeResponse);
    assert_non_null(r);
    assert_int_equal(thole_v1_ProposeResponse_text(r).size, 0);
    assert_true(thole_v1_ProposeResponse_data(r).size > 0);
}

static void test_a_query_sees_what_was_proposed(void **state)
{
    struct services_fixture *f = *state;
    const thole_v1_ProposeResponse *p = propose(f, "clicks", "add 3", 0, 0);
    assert_non_null(p);
    for (int stale = 0; stale < 2; stale++) {
        const thole_v1_QueryResponse *q = query(f, "clicks", "get", stale == 1);
        assert_non_null(q);
        assert_true(thole_v1_QueryResponse_index(q) >= thole_v1_ProposeResponse_index(p));
        assert_true(upb_StringView_IsEqual(thole_v1_QueryResponse_text(q),
                                           thole_v1_ProposeResponse_text(p)));
    }
}

static void test_a_session_applies_once(void **state)
{
    struct services_fixture *f = *state;
    thole_v1_OpenSessionRequest *q = NEW(f, OpenSessionRequest);
    thole_v1_OpenSessionRequest_set_shard(q, sv("clicks"));
    const thole_v1_OpenSessionResponse *r = CALL(f, Data, OpenSession, q, OpenSessionResponse);
    assert_non_null(r);
    uint64_t session = thole_v1_OpenSessionResponse_session(r);
    assert_true(session > 0);
    const thole_v1_ProposeResponse *first = propose(f, "clicks", "add 1", session, 1);
    const thole_v1_ProposeResponse *second = propose(f, "clicks", "add 1", session, 1);
    assert_non_null(first);
    assert_non_null(second);
    assert_false(thole_v1_ProposeResponse_duplicate(first));
    assert_true(thole_v1_ProposeResponse_duplicate(second));
    assert_true(upb_StringView_IsEqual(thole_v1_ProposeResponse_text(first),
                                       thole_v1_ProposeResponse_text(second)));
    assert_failed(f, propose(f, "clicks", "add 1", UINT64_C(1) << 60, 1), THOLE_FAILED_PRECONDITION,
                  THOLE_REASON_SESSION_EXPIRED);
}

static const thole_v1_ProposeResponse *propose_once(struct services_fixture *f, const char *text,
                                                    const char *id)
{
    thole_v1_ProposeRequest *q = NEW(f, ProposeRequest);
    thole_v1_ProposeRequest_set_shard(q, sv("clicks"));
    thole_v1_ProposeRequest_set_text(q, sv(text));
    thole_v1_ProposeRequest_set_request_id(q, sv(id));
    return CALL(f, Data, Propose, q, ProposeResponse);
}

static void test_a_request_id_applies_once(void **state)
{
    struct services_fixture *f = *state;
    const thole_v1_ProposeResponse *first = propose_once(f, "add 1", "one");
    const thole_v1_ProposeResponse *second = propose_once(f, "add 1", "one");
    const thole_v1_ProposeResponse *other = propose_once(f, "add 1", "two");
    assert_non_null(first);
    assert_non_null(second);
    assert_non_null(other);
    assert_false(thole_v1_ProposeResponse_duplicate(first));
    assert_true(thole_v1_ProposeResponse_duplicate(second));
    assert_false(thole_v1_ProposeResponse_forgotten(second));
    assert_false(thole_v1_ProposeResponse_duplicate(other));
    assert_int_equal(thole_v1_ProposeResponse_index(first), thole_v1_ProposeResponse_index(second));
    assert_true(upb_StringView_IsEqual(thole_v1_ProposeResponse_text(first),
                                       thole_v1_ProposeResponse_text(second)));
    char id[LIMIT_REQUEST_ID_BYTES + 2] = "";
    memset(id, 'x', LIMIT_REQUEST_ID_BYTES + 1);
    assert_failed(f, propose_once(f, "add 1", id), THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE);
    id[LIMIT_REQUEST_ID_BYTES] = '\0';
    assert_non_null(propose_once(f, "add 1", id));
    thole_v1_ProposeRequest *both = NEW(f, ProposeRequest);
    thole_v1_ProposeRequest_set_shard(both, sv("clicks"));
    thole_v1_ProposeRequest_set_session(both, 1);
    thole_v1_ProposeRequest_set_sequence(both, 1);
    thole_v1_ProposeRequest_set_request_id(both, sv("one"));
    assert_failed(f, CALL(f, Data, Propose, both, ProposeResponse), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
}

static void test_a_closed_session_is_expired(void **state)
{
    struct services_fixture *f = *state;
    thole_v1_OpenSessionRequest *open = NEW(f, OpenSessionRequest);
    thole_v1_OpenSessionRequest_set_shard(open, sv("clicks"));
    const thole_v1_OpenSessionResponse *r = CALL(f, Data, OpenSession, open, OpenSessionResponse);
    assert_non_null(r);
    uint64_t session = thole_v1_OpenSessionResponse_session(r);
    assert_non_null(propose(f, "clicks", "add 1", session, 1));
    thole_v1_CloseSessionRequest *close = NEW(f, CloseSessionRequest);
    thole_v1_CloseSessionRequest_set_shard(close, sv("clicks"));
    assert_failed(f, CALL(f, Data, CloseSession, close, CloseSessionResponse),
                  THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    thole_v1_CloseSessionRequest_set_session(close, session);
    for (int i = 0; i < 2; i++) {
        assert_non_null(CALL(f, Data, CloseSession, close, CloseSessionResponse));
        assert_failed(f, propose(f, "clicks", "add 1", session, 1), THOLE_FAILED_PRECONDITION,
                      THOLE_REASON_SESSION_EXPIRED);
    }
}

static void test_wrong_requests_are_refused(void **state)
{
    struct services_fixture *f = *state;
    assert_failed(f, propose(f, "", "x", 0, 0), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    assert_failed(f, propose(f, "missing", "x", 0, 0), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD);
    assert_failed(f, propose(f, "clicks", "x", 7, 0), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
    assert_failed(f, propose(f, "clicks", "x", 0, 7), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
    assert_failed(f, query(f, "missing", "get", false), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_SHARD);
    assert_failed(f, query(f, "missing", "get", true), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD);
    thole_v1_QueryRequest *q = NEW(f, QueryRequest);
    thole_v1_QueryRequest_set_shard(q, sv("clicks"));
    thole_v1_QueryRequest_set_max_staleness_ms(q, 5);
    assert_failed(f, CALL(f, Data, Query, q, QueryResponse), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
    thole_v1_QueryRequest_set_max_staleness_ms(q, 0);
    thole_v1_QueryRequest_set_text(q, sv("get"));
    assert_non_null(CALL(f, Data, Query, q, QueryResponse));
    thole_v1_QueryRequest_set_shard(q, upb_StringView_FromDataAndSize("clicks\0x", 8));
    assert_failed(f, CALL(f, Data, Query, q, QueryResponse), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
}

static void test_a_payload_past_the_limit_is_refused(void **state)
{
    struct services_fixture *f = *state;
    char *big = malloc(LIMIT_PAYLOAD_BYTES + 2);
    memset(big, 'x', LIMIT_PAYLOAD_BYTES + 1);
    big[LIMIT_PAYLOAD_BYTES + 1] = '\0';
    assert_failed(f, propose(f, "clicks", big, 0, 0), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_TOO_LARGE);
    big[LIMIT_PAYLOAD_BYTES] = '\0';
    assert_non_null(propose(f, "clicks", big, 0, 0)); /* nonsense to the counter, but it fits */
    free(big);
}

struct many {
    _Atomic int done, failed;
};

static void many_done(void *ctx, const struct thole_status *st, struct bufslice reply)
{
    struct many *m = ctx;
    (void)reply;
    m->failed += st->code != THOLE_OK;
    m->done++;
}

static void test_many_calls_at_once_are_all_answered(void **state)
{
    struct services_fixture *f = *state;
    struct many m = {0, 0};
    thole_v1_ProposeRequest *q = NEW(f, ProposeRequest);
    thole_v1_ProposeRequest_set_shard(q, sv("clicks"));
    thole_v1_ProposeRequest_set_text(q, sv("add 1"));
    size_t size = 0;
    char *bytes = thole_v1_ProposeRequest_serialize(q, f->arena, &size);
    const int total = 2000, window = 100;
    for (int i = 0; i < total; i++) {
        while (i - m.done >= window) {
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        }
        struct buf *b = buf_copy(bytes, size);
        bus_channel_call_async(f->channel, "/thole.v1.Data/Propose",
                               (struct bufslice){b, slice_of(b->data, size)}, 10000, many_done, &m);
    }
    while (m.done < total) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(m.failed, 0);
}

static void test_shard_zero_is_not_served(void **state)
{
    struct services_fixture *f = *state;
    static const char *const names[] = {"zero", "shards/zero"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        thole_v1_OpenSessionRequest *open = NEW(f, OpenSessionRequest);
        thole_v1_OpenSessionRequest_set_shard(open, sv(names[i]));
        assert_failed(f, CALL(f, Data, OpenSession, open, OpenSessionResponse),
                      THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
        assert_failed(f, propose(f, names[i], "x", 0, 0), THOLE_INVALID_ARGUMENT,
                      THOLE_REASON_BAD_REQUEST);
        assert_non_null(strstr(f->st.message, "registry"));
        assert_failed(f, query(f, names[i], "", false), THOLE_INVALID_ARGUMENT,
                      THOLE_REASON_BAD_REQUEST);
        assert_failed(f, query(f, names[i], "", true), THOLE_INVALID_ARGUMENT,
                      THOLE_REASON_BAD_REQUEST);
    }
}

/* ---- Data.Watch ------------------------------------------------------------------------------ */

static struct bus_stream *watch(struct services_fixture *f, const char *shard)
{
    thole_v1_WatchRequest *q = NEW(f, WatchRequest);
    thole_v1_WatchRequest_set_shard(q, sv(shard));
    size_t size = 0;
    char *bytes = thole_v1_WatchRequest_serialize(q, f->arena, &size);
    struct bus_stream *s = NULL;
    assert_int_equal(
        bus_channel_stream(f->channel, "/thole.v1.Data/Watch", slice_of(bytes, size), &s, &f->st),
        THOLE_OK);
    return s;
}

static const thole_v1_WatchResponse *next_event(struct services_fixture *f, struct bus_stream *s)
{
    struct buf *b = NULL;
    if (bus_stream_next(s, 10000, &b, &f->st) != THOLE_OK) {
        return NULL;
    }
    const thole_v1_WatchResponse *m =
        PROTO_DECODE(thole_v1_WatchResponse, slice_of(b->data, b->size), f->arena);
    assert_non_null(m);
    buf_unref(b);
    return m;
}

static void test_a_watch_begins_with_a_bookmark_and_sees_changes(void **state)
{
    struct services_fixture *f = *state;
    struct bus_stream *s = watch(f, "clicks");
    const thole_v1_WatchResponse *m = next_event(f, s);
    assert_non_null(m);
    assert_true(thole_v1_WatchResponse_bookmark(m));
    uint64_t from = thole_v1_WatchResponse_index(m);
    const thole_v1_ProposeResponse *p = propose(f, "clicks", "add 1", 0, 0);
    assert_non_null(p);
    do {
        m = next_event(f, s);
        assert_non_null(m);
    } while (thole_v1_WatchResponse_bookmark(m));
    assert_true(thole_v1_WatchResponse_index(m) > from);
    assert_int_equal(thole_v1_WatchResponse_index(m), thole_v1_ProposeResponse_index(p));
    bus_stream_free(s); /* in the middle: the server must release the stream */
}

static void test_an_idle_watch_is_sent_bookmarks(void **state)
{
    struct services_fixture *f = *state;
    struct bus_stream *s = watch(f, "clicks");
    uint64_t index = 0;
    for (int i = 0; i < 3; i++) { /* 4 s: next_event waits for 10 */
        const thole_v1_WatchResponse *m = next_event(f, s);
        assert_non_null(m);
        assert_true(thole_v1_WatchResponse_bookmark(m));
        assert_true(thole_v1_WatchResponse_index(m) >= index);
        index = thole_v1_WatchResponse_index(m);
    }
    bus_stream_free(s);
}

static void test_a_watch_of_nothing_fails(void **state)
{
    struct services_fixture *f = *state;
    struct bus_stream *s = watch(f, "missing");
    assert_failed(f, next_event(f, s), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD);
    bus_stream_free(s);
    s = watch(f, "");
    assert_failed(f, next_event(f, s), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    bus_stream_free(s);
}

/* The error reports the malformed bytes, not the missing shard name. */
static void test_streams_of_bytes_that_do_not_decode_are_refused(void **state)
{
    struct services_fixture *f = *state;
    static const char *const paths[] = {"/thole.v1.Data/Watch", "/thole.v1.Snapshots/SaveSnapshot"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct bus_stream *s = NULL;
        assert_int_equal(
            bus_channel_stream(f->channel, paths[i], slice_of("\x0a\x01\xff", 3), &s, &f->st),
            THOLE_OK);
        assert_failed(f, next_event(f, s), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
        assert_non_null(strstr(f->st.message, "request: a string field is not valid UTF-8"));
        bus_stream_free(s);
    }
}

static void test_a_watch_ends_with_its_shard(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "brief", "counter");
    services_fixture_wait_ready(f, "brief");
    struct bus_stream *s = watch(f, "brief");
    assert_non_null(next_event(f, s));
    assert_int_equal(thole_shard_delete(f->host, "brief", 10000, &f->st), THOLE_OK);
    while (next_event(f, s) != NULL) {
    }
    assert_true(f->st.code == THOLE_UNAVAILABLE || f->st.code == THOLE_NOT_FOUND);
    bus_stream_free(s);
}

static void test_a_watcher_that_does_not_read_is_cut_off(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "heavy", "kv");
    services_fixture_wait_ready(f, "heavy");
    struct bus_stream *s = watch(f, "heavy");
    assert_non_null(next_event(f, s)); /* the bookmark: it has begun */
    char *text = malloc(300 * KIB + 1);
    memset(text, 'x', 300 * KIB);
    memcpy(text, "put key ", 8);
    text[300 * KIB] = '\0';
    for (int i = 0; i < 100; i++) { /* 30 MB of events */
        assert_non_null(propose(f, "heavy", text, 0, 0));
    }
    free(text);
    while (next_event(f, s) != NULL) {
    }
    assert_failed(f, NULL, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL);
    bus_stream_free(s);
}

/* ---- Cluster.Watch --------------------------------------------------------------------------- */

struct seen {
    size_t hosts, shards, replicas, events;
    uint64_t revision; /* of the bookmark */
    bool named, deleted;
};

static struct bus_stream *watch_cluster(struct services_fixture *f, uint64_t from)
{
    thole_v1_WatchClusterRequest *q = NEW(f, WatchClusterRequest);
    thole_v1_WatchClusterRequest_set_from_revision(q, from);
    size_t size = 0;
    char *bytes = thole_v1_WatchClusterRequest_serialize(q, f->arena, &size);
    struct bus_stream *s = NULL;
    assert_int_equal(bus_channel_stream(f->channel, "/thole.v1.Cluster/Watch",
                                        slice_of(bytes, size), &s, &f->st),
                     THOLE_OK);
    return s;
}

/* Count events up to the next bookmark; false if the stream failed. */
static bool read_batch(struct services_fixture *f, struct bus_stream *s, const char *name,
                       struct seen *seen)
{
    char gone[64];
    snprintf(gone, sizeof gone, "shards/%s", name);
    for (;;) {
        struct buf *b = NULL;
        if (bus_stream_next(s, 10000, &b, &f->st) != THOLE_OK) {
            return false;
        }
        const thole_v1_WatchClusterResponse *m =
            PROTO_DECODE(thole_v1_WatchClusterResponse, slice_of(b->data, b->size), f->arena);
        buf_unref(b);
        assert_non_null(m);
        const thole_v1_Shard *shard = thole_v1_WatchClusterResponse_shard(m);
        seen->hosts += thole_v1_WatchClusterResponse_has_host(m);
        seen->shards += thole_v1_WatchClusterResponse_has_shard(m);
        seen->replicas += thole_v1_WatchClusterResponse_has_replica(m);
        seen->events += thole_v1_WatchClusterResponse_has_event(m);
        seen->named |=
            shard != NULL && upb_StringView_IsEqual(thole_v1_Shard_name(shard), sv(name));
        seen->deleted |= upb_StringView_IsEqual(thole_v1_WatchClusterResponse_deleted(m), sv(gone));
        if (thole_v1_WatchClusterResponse_bookmark(m)) {
            assert_true(thole_v1_WatchClusterResponse_revision(m) >= seen->revision);
            seen->revision = thole_v1_WatchClusterResponse_revision(m);
            return true;
        }
    }
}

static void test_a_cluster_watch_is_snapshot_then_changes(void **state)
{
    struct services_fixture *f = *state;
    struct bus_stream *s = watch_cluster(f, 0);
    struct seen first = {0}, later = {0}, resumed = {0};
    assert_true(read_batch(f, s, "wat", &first));
    assert_int_equal(first.hosts, 1);
    assert_true(first.shards >= 2 && first.replicas >= 2); /* zero and clicks */
    assert_true(first.revision > 0);
    assert_false(first.named);
    services_fixture_create(f, "wat", "noop");
    while (!later.named) {
        assert_true(read_batch(f, s, "wat", &later));
    }
    assert_true(later.revision > first.revision);
    assert_true(later.events > 0);
    services_fixture_wait_ready(f, "wat");
    assert_int_equal(thole_shard_delete(f->host, "wat", 10000, &f->st), THOLE_OK);
    while (!later.deleted) {
        assert_true(read_batch(f, s, "wat", &later));
    }
    bus_stream_free(s);
    /* Resume where the first snapshot ended: the changes since then, without removed objects. */
    s = watch_cluster(f, first.revision);
    assert_true(read_batch(f, s, "wat", &resumed));
    assert_false(resumed.named);
    assert_true(resumed.events > 0);
    assert_true(resumed.revision >= later.revision);
    bus_stream_free(s);
}

static void test_many_cluster_watches_come_and_go(void **state)
{
    struct services_fixture *f = *state;
    for (int i = 0; i < 50; i++) {
        struct bus_stream *s = watch_cluster(f, 0);
        struct seen seen = {0};
        if (i % 2 == 0) {
            assert_true(read_batch(f, s, "x", &seen));
        }
        bus_stream_free(s);
    }
}

static struct bus_stream *watch_events(struct services_fixture *f, uint64_t after,
                                       const char *object)
{
    thole_v1_WatchEventsRequest *q = NEW(f, WatchEventsRequest);
    thole_v1_WatchEventsRequest_set_after_revision(q, after);
    thole_v1_WatchEventsRequest_set_object(q, sv(object));
    size_t size = 0;
    char *bytes = thole_v1_WatchEventsRequest_serialize(q, f->arena, &size);
    struct bus_stream *s = NULL;
    assert_int_equal(bus_channel_stream(f->channel, "/thole.v1.Events/WatchEvents",
                                        slice_of(bytes, size), &s, &f->st),
                     THOLE_OK);
    return s;
}

/* Read events up to the next bookmark; returns its revision. */
static size_t read_events(struct services_fixture *f, struct bus_stream *s, uint64_t *ret_revision)
{
    size_t count = 0;
    for (;;) {
        struct buf *b = NULL;
        assert_int_equal(bus_stream_next(s, 10000, &b, &f->st), THOLE_OK);
        const thole_v1_WatchEventsResponse *m =
            PROTO_DECODE(thole_v1_WatchEventsResponse, slice_of(b->data, b->size), f->arena);
        buf_unref(b);
        assert_non_null(m);
        *ret_revision = thole_v1_WatchEventsResponse_revision(m);
        if (thole_v1_WatchEventsResponse_bookmark(m)) {
            return count;
        }
        assert_true(thole_v1_WatchEventsResponse_has_event(m));
        count++;
    }
}

static void test_an_event_watch_gives_events_and_resumes(void **state)
{
    struct services_fixture *f = *state;
    uint64_t all = 0, one = 0, later = 0;
    struct bus_stream *s = watch_events(f, 0, "");
    struct bus_stream *about = watch_events(f, 0, "shards/evw");
    assert_true(read_events(f, s, &all) > 0);
    assert_true(all > 0);
    assert_int_equal(read_events(f, about, &one), 0); /* and a bookmark all the same */
    services_fixture_create(f, "evw", "noop");
    size_t news = 0;
    while (news == 0) {
        news = read_events(f, about, &one);
    }
    services_fixture_wait_ready(f, "evw");
    bus_stream_free(about);
    bus_stream_free(s);
    /* Resume at the first bookmark: all changes since then. */
    s = watch_events(f, all, "");
    size_t since = read_events(f, s, &later);
    bus_stream_free(s);
    s = watch_events(f, 0, "shards/evw");
    assert_int_equal(read_events(f, s, &later), since);
    bus_stream_free(s);
    s = watch_events(f, later, "");
    assert_int_equal(read_events(f, s, &one), 0);
    assert_int_equal(one, later);
    bus_stream_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_answered_as_text_and_bytes_as_bytes),
        cmocka_unit_test(test_a_query_sees_what_was_proposed),
        cmocka_unit_test(test_a_session_applies_once),
        cmocka_unit_test(test_a_request_id_applies_once),
        cmocka_unit_test(test_a_closed_session_is_expired),
        cmocka_unit_test(test_wrong_requests_are_refused),
        cmocka_unit_test(test_shard_zero_is_not_served),
        cmocka_unit_test(test_a_payload_past_the_limit_is_refused),
        cmocka_unit_test(test_many_calls_at_once_are_all_answered),
        cmocka_unit_test(test_a_watch_begins_with_a_bookmark_and_sees_changes),
        cmocka_unit_test(test_an_idle_watch_is_sent_bookmarks),
        cmocka_unit_test(test_a_watch_of_nothing_fails),
        cmocka_unit_test(test_streams_of_bytes_that_do_not_decode_are_refused),
        cmocka_unit_test(test_a_watch_ends_with_its_shard),
        cmocka_unit_test(test_a_watcher_that_does_not_read_is_cut_off),
        cmocka_unit_test(test_a_cluster_watch_is_snapshot_then_changes),
        cmocka_unit_test(test_many_cluster_watches_come_and_go),
        cmocka_unit_test(test_an_event_watch_gives_events_and_resumes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
