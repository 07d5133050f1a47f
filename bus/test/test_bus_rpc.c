/* The control plane's server: calls of all kinds, statuses with details, health and reflection.
 * Also its life cycle: ports, overload, garbage, stopping with calls in flight. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bus/bus_internal.h"
#include "bus/channel.h"
#include "bus/test/fixture.h"
#include "google/protobuf/any.upb.h"
#include "google/protobuf/duration.upb.h"
#include "google/rpc/error_details.upb.h"
#include "google/rpc/status.upb.h"
#include "grpc/reflection/v1/reflection.upb.h"
#include "proto/decode.h"

/* ---- A server with some methods -------------------------------------------------------------- */

#define HELD_RPCS_MAX 64

struct served {
    pthread_mutex_t mutex; /* below */
    struct host *h;
    struct bus_channel *c;
    struct bus_rpc *held[HELD_RPCS_MAX];
    int held_count, cancels, ends, freed;
    bool drained;
    int sent[HELD_RPCS_MAX]; /* by `fill`, one count for each stream */
    uint64_t deadline_ns;
    char peer[64];
};

static void echo(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct served *s = ctx;
    struct buf *b = buf_copy(message.data, message.size);
    pthread_mutex_lock(&s->mutex);
    s->deadline_ns = bus_rpc_deadline_ns(rpc);
    snprintf(s->peer, sizeof s->peer, "%s", bus_rpc_peer(rpc));
    pthread_mutex_unlock(&s->mutex);
    bus_rpc_reply(rpc, (struct bufslice){b, {b->data, b->size}});
}

static void fail_rich(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    const char *const metadata[] = {"leader", "h2", "term", "7", NULL};
    struct thole_status st;
    (void)ctx;
    (void)message;
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER, __FILE__, __LINE__,
                     "no leader for \"%s\"", "ord\303\251rs");
    bus_rpc_fail(rpc, &st, 1500, metadata);
}

static void count_cancel(void *ctx)
{
    struct served *s = ctx;
    pthread_mutex_lock(&s->mutex);
    s->cancels++;
    pthread_mutex_unlock(&s->mutex);
}

static void count_free(void *data)
{
    struct served *s = data;
    pthread_mutex_lock(&s->mutex);
    s->freed++;
    pthread_mutex_unlock(&s->mutex);
}

/* "N": the handler reserves N bytes for the call. "deaf": the handler never checks for
 * cancellation. */
static void hold(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct served *s = ctx;
    struct thole_status st;
    char text[16];
    snprintf(text, sizeof text, "%.*s", (int)message.size, (const char *)message.data);
    if (!bus_rpc_hold(rpc, NULL, (size_t)atoi(text))) {
        thole_status_set(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL, __FILE__, __LINE__,
                         "no room");
        bus_rpc_fail(rpc, &st, 0, NULL);
        return;
    }
    bus_rpc_set_data(rpc, s, count_free);
    if (message.size == 0) {
        bus_rpc_on_cancel(rpc, count_cancel, s);
    }
    pthread_mutex_lock(&s->mutex);
    ASSERT(s->held_count < HELD_RPCS_MAX);
    s->held[s->held_count++] = rpc;
    pthread_mutex_unlock(&s->mutex);
}

static void release(struct served *s)
{
    struct bus_rpc *held[HELD_RPCS_MAX];
    pthread_mutex_lock(&s->mutex);
    int n = s->held_count;
    memcpy(held, s->held, sizeof held);
    s->held_count = 0;
    pthread_mutex_unlock(&s->mutex);
    for (int i = 0; i < n; i++) {
        bus_rpc_reply(held[i], body_of("late"));
    }
}

/* "N": that many messages, then OK, or an error if N is odd. */
static void count_up(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    char text[16];
    (void)ctx;
    snprintf(text, sizeof text, "%.*s", (int)message.size, (const char *)message.data);
    int n = atoi(text);
    for (int i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%d", i);
        assert_true(bus_rpc_send(rpc, body_of(text)));
    }
    if (n % 2) {
        struct thole_status st;
        thole_status_set(&st, THOLE_OUT_OF_RANGE, THOLE_REASON_COMPACTED, __FILE__, __LINE__,
                         "gone");
        bus_rpc_fail(rpc, &st, 0, NULL);
    } else {
        bus_rpc_reply(rpc, (struct bufslice){0});
    }
}

static void note_drained(void *ctx)
{
    struct served *s = ctx;
    pthread_mutex_lock(&s->mutex);
    s->drained = true;
    pthread_mutex_unlock(&s->mutex);
}

static void flood(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct served *s = ctx;
    hold(ctx, rpc, message);
    bus_rpc_on_drained(rpc, note_drained, s);
    for (int i = 0; i < 10000; i++) {
        struct buf *b = buf_new(65536);
        memset(b->data, 0, b->size);
        if (!bus_rpc_send(rpc, (struct bufslice){b, {b->data, b->size}})) {
            return;
        }
    }
    ASSERT(false);
}

#define FILL_BYTES 1000
#define SHARED_BYTES ((size_t)1 * MIB)

/* Sends until the stream has no room, and once more each time that it has drained. */
static void fill(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct served *s = ctx;
    int sent = 0;
    hold(ctx, rpc, message);
    bus_rpc_on_drained(rpc, note_drained, s);
    for (;;) {
        struct buf *b = buf_new(FILL_BYTES);
        memset(b->data, 0, b->size);
        if (!bus_rpc_send(rpc, (struct bufslice){b, {b->data, b->size}})) {
            break;
        }
        sent++;
    }
    struct buf *large = buf_new(SHARED_BYTES);
    memset(large->data, 0, large->size);
    ASSERT(!bus_rpc_flushed(rpc));
    ASSERT(!bus_rpc_send(rpc, (struct bufslice){large, {large->data, large->size}}));
    pthread_mutex_lock(&s->mutex);
    s->sent[s->held_count - 1] = sent;
    pthread_mutex_unlock(&s->mutex);
}

static void bidi_cancelled(void *ctx)
{
    bus_rpc_reply(ctx, (struct bufslice){0});
}

static void bidi_message(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    (void)ctx;
    bus_rpc_on_cancel(rpc, bidi_cancelled, rpc);
    struct buf *b = buf_copy(message.data, message.size);
    assert_true(bus_rpc_send(rpc, (struct bufslice){b, {b->data, b->size}}));
}

static void bidi_end(void *ctx, struct bus_rpc *rpc)
{
    struct served *s = ctx;
    pthread_mutex_lock(&s->mutex);
    s->ends++;
    pthread_mutex_unlock(&s->mutex);
    bus_rpc_reply(rpc, (struct bufslice){0});
}

static struct served *served_new_bounded(uint32_t unary_slots, uint32_t streams_max,
                                         size_t memory_bytes)
{
    struct served *s = xcalloc(1, sizeof *s);
    struct thole_status st = {0};
    pthread_mutex_init(&s->mutex, NULL);
    s->h = host_alloc();
    struct bus_options o = host_options(s->h, 1, 9, 1, "127.0.0.1:0");
    o.unary_slots = unary_slots;
    o.streams_max = streams_max;
    o.memory_bytes = memory_bytes;
    if (bus_new(&o, &s->h->bus, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    snprintf(s->h->address, sizeof s->h->address, "%s", bus_address(s->h->bus));
    const struct bus_method methods[] = {
        {"/test.Test/Echo", BUS_RPC_UNARY, s, echo, NULL, 0},
        {"/test.Test/Fail", BUS_RPC_UNARY, s, fail_rich, NULL, 0},
        {"/test.Test/Hold", BUS_RPC_UNARY, s, hold, NULL, 0},
        {"/test.Test/Count", BUS_RPC_SERVER_STREAM, s, count_up, NULL, 0},
        {"/test.Test/Watch", BUS_RPC_SERVER_STREAM, s, hold, NULL, 0},
        {"/test.Test/Flood", BUS_RPC_SERVER_STREAM, s, flood, NULL, 0},
        {"/test.Test/Fill", BUS_RPC_SERVER_STREAM, s, fill, NULL, SHARED_BYTES},
        {"/test.Test/Bidi", BUS_RPC_BIDI_STREAM, s, bidi_message, bidi_end, 0},
    };
    bus_register(s->h->bus, methods, sizeof methods / sizeof *methods);
    bus_start(s->h->bus);
    if (bus_channel_new(s->h->address, &s->c, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    return s;
}

static struct served *served_new(uint32_t unary_slots)
{
    return served_new_bounded(unary_slots, 0, 0);
}

static void served_free(struct served *s)
{
    bus_channel_free(s->c);
    bus_stop(s->h->bus, 0);
    release(s);
    bus_free(s->h->bus);
    pthread_mutex_destroy(&s->h->mutex);
    free(s->h);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static enum thole_code call(struct bus_channel *c, const char *path, struct slice request,
                            struct buf **ret, struct thole_status *st)
{
    memset(st, 0, sizeof *st);
    *ret = NULL;
    return bus_channel_call(c, path, request, 5000, ret, st);
}

static void expect_echo(struct bus_channel *c, const char *text)
{
    struct buf *reply;
    struct thole_status st;
    if (call(c, "/test.Test/Echo", slice_str(text), &reply, &st) != THOLE_OK) {
        fail_msg("echo: %s %s", thole_code_name(st.code), st.message);
    }
    assert_true(slice_equal(slice_str(text), (struct slice){reply->data, reply->size}));
    buf_unref(reply);
}

/* ---- Calls ----------------------------------------------------------------------------------- */

static void test_unary_calls(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct buf *reply;
    struct thole_status st;
    for (int i = 0; i < 100; i++) {
        expect_echo(s->c, "hello");
    }
    expect_echo(s->c, ""); /* an empty message counts as a message */
    assert_true(locked(s, s->deadline_ns) > clock_now(&clock_system));
    assert_true(locked(s, s->deadline_ns) < clock_now(&clock_system) + 6 * NS_PER_S);
    assert_non_null(strstr(locked(s, (char *)s->peer), "127.0.0.1"));
    assert_int_equal(bus_channel_call(s->c, "/test.Test/Echo", slice_str("x"), 0, &reply, &st),
                     THOLE_OK);
    buf_unref(reply);
    assert_true(locked(s, s->deadline_ns) == CLOCK_NEVER);
    struct buf *big = buf_new(4 * MIB);
    memset(big->data, 'x', big->size);
    assert_int_equal(
        call(s->c, "/test.Test/Echo", (struct slice){big->data, big->size}, &reply, &st), THOLE_OK);
    assert_int_equal(reply->size, big->size);
    buf_unref(reply);
    buf_unref(big);
    assert_int_equal(call(s->c, "/test.Test/Nothing", slice_str(""), &reply, &st),
                     THOLE_UNIMPLEMENTED);
    assert_int_equal(call(s->c, "/other.Service/Nothing", slice_str(""), &reply, &st),
                     THOLE_UNIMPLEMENTED);
    served_free(s);
}

static void test_oversize_message_is_refused(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct buf *reply, *big = buf_new(5 * MIB);
    struct thole_status st;
    memset(big->data, 'x', big->size);
    assert_int_equal(
        call(s->c, "/test.Test/Echo", (struct slice){big->data, big->size}, &reply, &st),
        THOLE_RESOURCE_EXHAUSTED);
    buf_unref(big);
    expect_echo(s->c, "still there");
    served_free(s);
}

/* The view of a client in another language. */
static grpc_slice rich_details;
static bool rich_done;
static pthread_mutex_t rich_mutex = PTHREAD_MUTEX_INITIALIZER;

struct rich {
    struct bus_tag tag;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *reply;
    grpc_status_code code;
    grpc_slice message;
};

static void rich_returned(struct bus_tag *tag, bool ok)
{
    struct rich *r = CONTAINER_OF(tag, struct rich, tag);
    (void)ok;
    pthread_mutex_lock(&rich_mutex);
    for (size_t i = 0; i < r->trailing.count; i++) {
        if (grpc_slice_str_cmp(r->trailing.metadata[i].key, "grpc-status-details-bin") == 0) {
            rich_details = grpc_slice_copy(r->trailing.metadata[i].value);
        }
    }
    rich_done = true;
    pthread_mutex_unlock(&rich_mutex);
}

static void check_details(upb_Arena *arena)
{
    const google_rpc_Status *status = PROTO_DECODE(
        google_rpc_Status,
        slice_of(GRPC_SLICE_START_PTR(rich_details), GRPC_SLICE_LENGTH(rich_details)), arena);
    assert_non_null(status);
    assert_int_equal(google_rpc_Status_code(status), THOLE_UNAVAILABLE);
    size_t n;
    const google_protobuf_Any *const *details = google_rpc_Status_details(status, &n);
    assert_int_equal(n, 2);
    upb_StringView v = google_protobuf_Any_value(details[0]);
    const google_rpc_ErrorInfo *info =
        PROTO_DECODE(google_rpc_ErrorInfo, slice_of(v.data, v.size), arena);
    upb_StringView reason = google_rpc_ErrorInfo_reason(info);
    assert_true(slice_equal(slice_of(reason.data, reason.size), slice_str("NO_LEADER")));
    upb_StringView term;
    assert_true(google_rpc_ErrorInfo_metadata_get(info, upb_StringView_FromString("term"), &term));
    assert_true(slice_equal(slice_of(term.data, term.size), slice_str("7")));
    v = google_protobuf_Any_value(details[1]);
    const google_rpc_RetryInfo *retry =
        PROTO_DECODE(google_rpc_RetryInfo, slice_of(v.data, v.size), arena);
    const google_protobuf_Duration *delay = google_rpc_RetryInfo_retry_delay(retry);
    assert_int_equal(google_protobuf_Duration_seconds(delay), 1);
    assert_int_equal(google_protobuf_Duration_nanos(delay), 500000000);
}

static void test_error_details_round_trip(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct buf *reply;
    struct thole_status st;
    assert_int_equal(call(s->c, "/test.Test/Fail", slice_str(""), &reply, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_NO_LEADER);
    assert_string_equal(st.message, "no leader for \"ord\303\251rs\"");

    struct rich r = {.tag = bus_tag_of(rich_returned)};
    grpc_call *c =
        bus__call_new(s->c->channel, &s->c->loop, "/test.Test/Fail", bus__deadline(5000));
    grpc_byte_buffer *empty = grpc_raw_byte_buffer_create(NULL, 0);
    grpc_op ops[] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},  {.op = GRPC_OP_SEND_MESSAGE},
                     {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}, {.op = GRPC_OP_RECV_STATUS_ON_CLIENT},
                     {.op = GRPC_OP_RECV_INITIAL_METADATA},  {.op = GRPC_OP_RECV_MESSAGE}};
    ops[1].data.send_message.send_message = empty;
    ops[4].data.recv_initial_metadata.recv_initial_metadata = &r.initial;
    ops[5].data.recv_message.recv_message = &r.reply;
    ops[3].data.recv_status_on_client.trailing_metadata = &r.trailing;
    ops[3].data.recv_status_on_client.status = &r.code;
    ops[3].data.recv_status_on_client.status_details = &r.message;
    bus__start(c, ops, 6, &r.tag);
    grpc_byte_buffer_destroy(empty);
    for (bool done = false; !done; pause_ms(1)) {
        pthread_mutex_lock(&rich_mutex);
        done = rich_done;
        pthread_mutex_unlock(&rich_mutex);
    }
    upb_Arena *arena = upb_Arena_New();
    check_details(arena);
    upb_Arena_Free(arena);
    grpc_slice_unref(rich_details);
    grpc_slice_unref(r.message);
    grpc_metadata_array_destroy(&r.initial);
    grpc_metadata_array_destroy(&r.trailing);
    grpc_call_unref(c);
    served_free(s);
}

static void test_server_streams(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct thole_status st;
    for (int n = 1000; n <= 1001; n++) {
        struct bus_stream *stream;
        struct buf *m;
        char text[16];
        snprintf(text, sizeof text, "%d", n);
        assert_int_equal(
            bus_channel_stream(s->c, "/test.Test/Count", slice_str(text), &stream, &st), THOLE_OK);
        for (int i = 0; i < n; i++) {
            assert_int_equal(bus_stream_next(stream, 5000, &m, &st), THOLE_OK);
            snprintf(text, sizeof text, "%d", i);
            assert_true(slice_equal(slice_str(text), (struct slice){m->data, m->size}));
            buf_unref(m);
        }
        assert_int_equal(bus_stream_next(stream, 5000, &m, &st), THOLE_OUT_OF_RANGE);
        assert_int_equal(st.reason, n % 2 ? THOLE_REASON_COMPACTED : THOLE_REASON_NONE);
        bus_stream_free(stream);
    }
    served_free(s);
}

static void test_stream_times_out_and_is_cancelled(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct thole_status st;
    struct bus_stream *stream;
    struct buf *m;
    assert_int_equal(bus_channel_stream(s->c, "/test.Test/Watch", slice_str(""), &stream, &st),
                     THOLE_OK);
    assert_int_equal(bus_stream_next(stream, 50, &m, &st), THOLE_DEADLINE_EXCEEDED);
    eventually(s, s->held_count == 1);
    bus_stream_cancel(stream);
    assert_int_equal(bus_stream_next(stream, 5000, &m, &st), THOLE_CANCELLED);
    eventually(s, s->cancels == 1);
    bus_stream_free(stream);
    release(s);
    eventually(s, s->freed == 1);
    served_free(s);
}

static void test_slow_reader_meets_the_bound_and_drains(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct thole_status st;
    struct bus_stream *stream;
    struct buf *m;
    assert_int_equal(bus_channel_stream(s->c, "/test.Test/Flood", slice_str(""), &stream, &st),
                     THOLE_OK);
    eventually(s, s->held_count == 1);
    int n = 0;
    for (bool drained = false; !drained; n++) {
        assert_int_equal(bus_stream_next(stream, 5000, &m, &st), THOLE_OK);
        assert_int_equal(m->size, 65536);
        buf_unref(m);
        pthread_mutex_lock(&s->mutex);
        drained = s->drained;
        pthread_mutex_unlock(&s->mutex);
    }
    release(s); /* "late", then the end */
    enum thole_code code;
    while ((code = bus_stream_next(stream, 5000, &m, &st)) == THOLE_OK) {
        buf_unref(m);
    }
    assert_int_equal(code, THOLE_OUT_OF_RANGE);
    bus_stream_free(stream);
    served_free(s);
}

/* Each stream gets a 64th of what is free, at least BUS_RPC_SHARE_BYTES_MIN. */
static void test_streams_that_share_their_queue_get_a_part_of_what_is_free(void **state)
{
    (void)state;
    enum { STREAMS = 40 };
    struct served *s = served_new(0);
    struct bus_stream *streams[STREAMS];
    struct thole_status st;
    struct buf *m;
    for (int i = 0; i < STREAMS; i++) {
        assert_int_equal(
            bus_channel_stream(s->c, "/test.Test/Fill", slice_str(""), &streams[i], &st), THOLE_OK);
        eventually(s, s->sent[i] > 0);
        assert_in_range(s->sent[i], BUS_RPC_SHARE_BYTES_MIN / FILL_BYTES,
                        SHARED_BYTES / 64 / FILL_BYTES);
    }
    for (int i = 0; i < STREAMS; i++) {
        for (int n = 0; n < s->sent[i]; n++) {
            assert_int_equal(bus_stream_next(streams[i], 5000, &m, &st), THOLE_OK);
            assert_int_equal(m->size, FILL_BYTES);
            buf_unref(m);
        }
    }
    eventually(s, s->drained);
    for (int i = 0; i < STREAMS; i++) {
        bus_stream_free(streams[i]);
    }
    served_free(s);
}

/* ---- A bidirectional client, from the bus's own pieces --------------------------------------- */

struct bidi {
    pthread_mutex_t mutex;
    struct bus_pipe *pipe;
    struct buf *last;
    int messages;
    bool closed;
    struct thole_status st;
};

static void bidi_received(void *ctx, struct bufslice message)
{
    struct bidi *b = ctx;
    pthread_mutex_lock(&b->mutex);
    buf_unref(b->last);
    b->last = buf_ref(message.owner);
    b->messages++;
    pthread_mutex_unlock(&b->mutex);
}

static void bidi_closed(void *ctx, const struct thole_status *st)
{
    struct bidi *b = ctx;
    pthread_mutex_lock(&b->mutex);
    b->st = *st;
    b->closed = true;
    pthread_mutex_unlock(&b->mutex);
}

static const struct bus_pipe_events bidi_events = {.message = bidi_received, .closed = bidi_closed};

static void bidi_open(struct bidi *b, struct served *s, const char *path, struct bufslice first,
                      bool half_close)
{
    memset(b, 0, sizeof *b);
    pthread_mutex_init(&b->mutex, NULL);
    grpc_call *c =
        bus__call_new(s->c->channel, &s->c->loop, path, gpr_inf_future(GPR_CLOCK_MONOTONIC));
    const struct bus_pipe_options o = {.loop = &s->c->loop,
                                       .call = c,
                                       .half_close = half_close,
                                       .queue_bytes = MIB,
                                       .events = &bidi_events,
                                       .ctx = b};
    b->pipe = bus__pipe_new(&o);
    bus__pipe_start(b->pipe, first);
}

static void bidi_close(struct bidi *b)
{
    bus__pipe_cancel(b->pipe);
    eventually(b, b->closed);
    bus__pipe_unref(b->pipe);
    buf_unref(b->last);
}

static void test_bidi_stream(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct bidi b;
    bidi_open(&b, s, "/test.Test/Bidi", body_of("one"), false);
    eventually(&b, b.messages == 1);
    assert_int_equal(bus__pipe_put(b.pipe, (struct slice){0}, body_of("two"), false, NULL),
                     BUS_PUT_OK);
    eventually(&b, b.messages == 2);
    assert_memory_equal(b.last->data, "two", 3);
    bidi_close(&b);
    assert_int_equal(b.st.code, THOLE_CANCELLED);
    assert_int_equal(locked(s, s->ends), 0);
    bidi_open(&b, s, "/test.Test/Bidi", body_of("one"), true);
    eventually(&b, b.closed);
    assert_int_equal(b.messages, 1);
    assert_int_equal(b.st.code, THOLE_OK);
    assert_int_equal(locked(s, s->ends), 1);
    bidi_close(&b);
    served_free(s);
}

/* ---- Reflection ------------------------------------------------------------------------------ */

typedef grpc_reflection_v1_ServerReflectionRequest Request;
typedef grpc_reflection_v1_ServerReflectionResponse Response;

static struct bufslice encode(const Request *q, upb_Arena *arena)
{
    size_t n;
    const char *data = grpc_reflection_v1_ServerReflectionRequest_serialize(q, arena, &n);
    struct buf *b = buf_copy(data, n);
    return (struct bufslice){b, {b->data, n}};
}

static const Response *reflect(struct bidi *b, const Request *q, upb_Arena *arena)
{
    int before = b->messages;
    bus__pipe_put(b->pipe, (struct slice){0}, encode(q, arena), false, NULL);
    eventually(b, b->messages == before + 1);
    const Response *r = PROTO_DECODE(grpc_reflection_v1_ServerReflectionResponse,
                                     slice_of(b->last->data, b->last->size), arena);
    assert_non_null(r);
    return r;
}

static size_t files_of(const Response *r)
{
    size_t n = 0;
    const grpc_reflection_v1_FileDescriptorResponse *f =
        grpc_reflection_v1_ServerReflectionResponse_file_descriptor_response(r);
    assert_non_null(f);
    grpc_reflection_v1_FileDescriptorResponse_file_descriptor_proto(f, &n);
    return n;
}

static int error_of(const Response *r)
{
    const grpc_reflection_v1_ErrorResponse *e =
        grpc_reflection_v1_ServerReflectionResponse_error_response(r);
    assert_non_null(e);
    return grpc_reflection_v1_ErrorResponse_error_code(e);
}

static void check_symbols(struct bidi *b, upb_Arena *arena)
{
    static const char *const known[] = {"thole.v1.Data", "thole.v1.Data.Propose", "thole.v1.Host",
                                        "thole.v1.Host.id", "thole.v1.HOST_STATE_ACTIVE"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        Request *q = grpc_reflection_v1_ServerReflectionRequest_new(arena);
        grpc_reflection_v1_ServerReflectionRequest_set_file_containing_symbol(
            q, upb_StringView_FromString(known[i]));
        assert_int_equal(files_of(reflect(b, q, arena)), 1);
    }
    static const char *const unknown[] = {"thole.v1.Nothing",
                                          "thole.v1.Data.Nothing",
                                          "",
                                          ".",
                                          "a.b.c",
                                          "thole.bus.v1.Bus",
                                          "thole.bus.v1.Hello",
                                          "thole.registry.v1.Command",
                                          "thole.engine.v1.SessionResult"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        Request *q = grpc_reflection_v1_ServerReflectionRequest_new(arena);
        grpc_reflection_v1_ServerReflectionRequest_set_file_containing_symbol(
            q, upb_StringView_FromString(unknown[i]));
        assert_int_equal(error_of(reflect(b, q, arena)), THOLE_NOT_FOUND);
    }
}

static void check_reflection(struct served *s, const char *path)
{
    struct bidi b;
    upb_Arena *arena = upb_Arena_New();
    Request *q = grpc_reflection_v1_ServerReflectionRequest_new(arena);
    grpc_reflection_v1_ServerReflectionRequest_set_list_services(q, upb_StringView_FromString("*"));
    bidi_open(&b, s, path, encode(q, arena), false);
    eventually(&b, b.messages == 1);
    const Response *r = reflect(&b, q, arena);
    size_t n;
    grpc_reflection_v1_ListServiceResponse_service(
        grpc_reflection_v1_ServerReflectionResponse_list_services_response(r), &n);
    assert_int_equal(n, 3); /* Health, two of reflection; not the bus's own */
    check_symbols(&b, arena);
    q = grpc_reflection_v1_ServerReflectionRequest_new(arena);
    grpc_reflection_v1_ServerReflectionRequest_set_file_by_filename(
        q, upb_StringView_FromString("google/rpc/status.proto"));
    assert_int_equal(files_of(reflect(&b, q, arena)), 2); /* with any.proto */
    grpc_reflection_v1_ServerReflectionRequest_set_file_by_filename(
        q, upb_StringView_FromString("no.proto"));
    assert_int_equal(error_of(reflect(&b, q, arena)), THOLE_NOT_FOUND);
    q = grpc_reflection_v1_ServerReflectionRequest_new(arena);
    grpc_reflection_v1_ServerReflectionRequest_mutable_file_containing_extension(q, arena);
    assert_int_equal(error_of(reflect(&b, q, arena)), THOLE_NOT_FOUND);
    q = grpc_reflection_v1_ServerReflectionRequest_new(arena);
    grpc_reflection_v1_ServerReflectionRequest_set_all_extension_numbers_of_type(
        q, upb_StringView_FromString("thole.v1.Host"));
    r = reflect(&b, q, arena);
    assert_true(grpc_reflection_v1_ServerReflectionResponse_has_all_extension_numbers_response(r));
    q = grpc_reflection_v1_ServerReflectionRequest_new(arena);
    assert_int_equal(error_of(reflect(&b, q, arena)), THOLE_INVALID_ARGUMENT);
    bidi_close(&b);
    bidi_open(&b, s, path, body_of("\xff\xff\xff"), false);
    eventually(&b, b.closed);
    assert_int_equal(b.st.code, THOLE_INVALID_ARGUMENT);
    bidi_close(&b);
    upb_Arena_Free(arena);
}

static void test_reflection_under_both_names(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    check_reflection(s, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    check_reflection(s, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
    served_free(s);
}

/* ---- Health ---------------------------------------------------------------------------------- */

static int check_health(struct served *s, const char *name)
{
    struct bytes request = {0};
    struct buf *reply;
    struct thole_status st;
    bytes_append_varint(&request, 1 << 3 | 2);
    bytes_append_varint(&request, strlen(name));
    bytes_append_str(&request, name);
    enum thole_code code =
        call(s->c, "/grpc.health.v1.Health/Check", bytes_slice(&request), &reply, &st);
    bytes_deinit(&request);
    if (code != THOLE_OK) {
        return -(int)code;
    }
    int status = reply->data[1];
    buf_unref(reply);
    return status;
}

static void test_health(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    assert_int_equal(check_health(s, ""), 1);
    assert_int_equal(check_health(s, "test.Test"), 1);
    assert_int_equal(check_health(s, "test.Tes"), -THOLE_NOT_FOUND);
    assert_int_equal(check_health(s, "shard/orders"), -THOLE_NOT_FOUND);
    uint8_t request[] = "\012\014shard/orders";
    struct bus_stream *w;
    struct thole_status st;
    struct buf *m;
    assert_int_equal(bus_channel_stream(s->c, "/grpc.health.v1.Health/Watch",
                                        (struct slice){request, sizeof request - 1}, &w, &st),
                     THOLE_OK);
    const bool steps[] = {true, false, true};
    assert_int_equal(bus_stream_next(w, 5000, &m, &st), THOLE_OK);
    assert_int_equal(m->data[1], 3);
    buf_unref(m);
    for (int i = 0; i < 3; i++) {
        bus_health_set(s->h->bus, "shard/orders", steps[i]);
        bus_health_set(s->h->bus, "shard/other", steps[i]);
        assert_int_equal(bus_stream_next(w, 5000, &m, &st), THOLE_OK);
        assert_int_equal(m->data[1], steps[i] ? 1 : 2);
        buf_unref(m);
    }
    assert_int_equal(check_health(s, "shard/orders"), 1);
    bus_health_remove(s->h->bus, "shard/orders");
    assert_int_equal(bus_stream_next(w, 5000, &m, &st), THOLE_OK);
    assert_int_equal(m->data[1], 3);
    buf_unref(m);
    bus_health_set(s->h->bus, "", false);
    assert_int_equal(check_health(s, "test.Test"), 2);
    bus_stop(s->h->bus, 1000);
    assert_int_equal(bus_stream_next(w, 5000, &m, &st), THOLE_UNAVAILABLE);
    bus_stream_free(w);
    served_free(s);
}

/* ---- The server's life ----------------------------------------------------------------------- */

static void on_reply(void *ctx, const struct thole_status *st, struct bufslice reply)
{
    on_answer(ctx, st, reply, false);
}

static void test_overload_is_refused(void **state)
{
    (void)state;
    struct served *s = served_new(4);
    struct outcome o[4];
    struct buf *reply;
    struct thole_status st;
    for (int i = 0; i < 4; i++) {
        outcome_init(&o[i]);
        bus_channel_call_async(s->c, "/test.Test/Hold", body_of(""), 0, on_reply, &o[i]);
    }
    eventually(s, s->held_count == 4);
    assert_int_equal(call(s->c, "/test.Test/Echo", slice_str(""), &reply, &st),
                     THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_QUEUE_FULL);
    release(s);
    for (int i = 0; i < 4; i++) {
        eventually(&o[i], o[i].done);
        assert_string_equal(o[i].body, "late");
    }
    expect_echo(s->c, "again");
    served_free(s);
}

/* Three waiting calls hold 1 MiB each, of 4 MiB less 64 KiB; so does an Ask. */
static void test_what_calls_hold_is_bounded(void **state)
{
    (void)state;
    enum { N = 3 };
    struct served *s = served_new_bounded(0, 0, 4 * MIB - 64 * KIB);
    struct outcome o[N];
    struct buf *reply, *big = buf_new(MIB);
    struct thole_status st;
    memset(big->data, 'x', big->size);
    for (int i = 0; i < N; i++) {
        outcome_init(&o[i]);
        bus_channel_call_async(s->c, "/test.Test/Hold", body_of("1048576"), 0, on_reply, &o[i]);
    }
    eventually(s, s->held_count == N);
    assert_int_equal(call(s->c, "/test.Test/Hold", slice_str("1048576"), &reply, &st),
                     THOLE_RESOURCE_EXHAUSTED);
    assert_string_equal(st.message, "no room");
    struct bus *client = NULL;
    const struct bus_options plain = {0};
    assert_int_equal(bus_new(&plain, &client, &st), THOLE_OK);
    bus_start(client);
    assert_int_equal(bus_ask(client, s->h->address, METHOD_ECHO, slice_of(big->data, big->size),
                             WAIT_MS, &reply, NULL, &st),
                     THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_QUEUE_FULL);
    expect_echo(s->c, "small ones go on");
    release(s);
    for (int i = 0; i < N; i++) {
        eventually(&o[i], o[i].done);
    }
    eventually(s->h, atomic_load(&s->h->bus->held_bytes) == 0);
    bus_stop(client, 0);
    bus_free(client);
    buf_unref(big);
    served_free(s);
}

/* The last of five streams is not available to clients of the control plane. */
static void test_streams_are_bounded(void **state)
{
    (void)state;
    enum { MAX = 5, N = MAX - 1 };
    struct served *s = served_new_bounded(0, MAX, 0);
    struct bus_stream *streams[N], *more;
    struct thole_status st;
    struct buf *message = NULL;
    for (int i = 0; i < N; i++) {
        assert_int_equal(
            bus_channel_stream(s->c, "/test.Test/Watch", slice_str(""), &streams[i], &st),
            THOLE_OK);
    }
    eventually(s, s->held_count == N);
    assert_int_equal(bus_channel_stream(s->c, "/test.Test/Watch", slice_str(""), &more, &st),
                     THOLE_OK);
    assert_int_equal(bus_stream_next(more, WAIT_MS, &message, &st), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_QUEUE_FULL);
    bus_stream_free(more);
    expect_echo(s->c, "calls that are no streams go on");
    for (int i = 0; i < N; i++) {
        bus_stream_free(streams[i]);
    }
    eventually(s, s->cancels == N);
    release(s);
    eventually(s->h, atomic_load(&s->h->bus->streams_active) == 0);
    served_free(s);
}

static void test_stop_lets_calls_end_then_ends_them(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct outcome o, p;
    outcome_init(&o);
    outcome_init(&p);
    bus_channel_call_async(s->c, "/test.Test/Hold", body_of(""), 0, on_reply, &o);
    bus_channel_call_async(s->c, "/test.Test/Hold", body_of("deaf"), 0, on_reply, &p);
    struct bus_stream *w;
    struct thole_status st;
    struct buf *m;
    assert_int_equal(bus_channel_stream(s->c, "/test.Test/Watch", slice_str(""), &w, &st),
                     THOLE_OK);
    eventually(s, s->held_count == 3);
    uint64_t began = now_ms();
    bus_stop(s->h->bus, 200);
    assert_true(now_ms() - began >= 190);
    eventually(&o, o.done);
    assert_int_equal(o.st.code, THOLE_UNAVAILABLE);
    assert_int_equal(o.st.reason, THOLE_REASON_STOPPED);
    eventually(&p, p.done);
    assert_int_equal(p.st.code, THOLE_UNAVAILABLE);
    assert_int_equal(p.st.reason, THOLE_REASON_STOPPED);
    assert_int_equal(bus_stream_next(w, 5000, &m, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_STOPPED); /* of the server, with details */
    eventually(s, s->cancels == 2);
    bus_stream_free(w);
    release(s); /* finishing a call after the stop is fine */
    struct buf *reply;
    enum thole_code code;
    do { /* until the channel has noticed that its connection is closed */
        code = call(s->c, "/test.Test/Echo", slice_str(""), &reply, &st);
    } while (st.reason == THOLE_REASON_OUTCOME_UNKNOWN);
    assert_int_equal(code, THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_UNREACHABLE);
    served_free(s);
}

static void test_finish_after_the_bus_was_freed(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct outcome o;
    outcome_init(&o);
    bus_channel_call_async(s->c, "/test.Test/Hold", body_of(""), 0, on_reply, &o);
    eventually(s, s->held_count == 1);
    bus_stop(s->h->bus, 0);
    bus_free(s->h->bus);
    bus_channel_free(s->c);
    assert_true(o.done);
    release(s);
    assert_int_equal(locked(s, s->freed), 1);
    free(s->h);
    free(s);
}

static void test_port_in_use(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct host *h = host_alloc();
    struct bus *b;
    struct thole_status st;
    struct bus_options o = host_options(h, 2, 9, 1, s->h->address);
    assert_int_equal(bus_new(&o, &b, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_ADDRESS_IN_USE);
    static const char *const bad[] = {"nonsense", "127.0.0.1:", "127.0.0.1:99999", "8.8.8.8:0", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.listen_address = bad[i];
        assert_int_equal(bus_new(&o, &b, &st), THOLE_INVALID_ARGUMENT);
    }
    free(h);
    served_free(s);
}

static void test_nothing_is_answered_before_start(void **state)
{
    (void)state;
    struct host *h = host_alloc();
    struct thole_status st;
    struct bus_options o = host_options(h, 2, 9, 1, "127.0.0.1:0");
    assert_int_equal(bus_new(&o, &h->bus, &st), THOLE_OK);
    struct bus_channel *c;
    struct buf *reply;
    assert_int_equal(bus_channel_new(bus_address(h->bus), &c, &st), THOLE_OK);
    const uint8_t empty[1] = {0};
    assert_int_not_equal(bus_channel_call(c, "/grpc.health.v1.Health/Check",
                                          (struct slice){empty, 0}, 200, &reply, &st),
                         THOLE_OK);
    bus_start(h->bus);
    enum thole_code code = THOLE_UNKNOWN;
    for (uint64_t end = now_ms() + WAIT_MS; code != THOLE_OK && now_ms() < end;) {
        code = bus_channel_call(c, "/grpc.health.v1.Health/Check", (struct slice){empty, 0}, 1000,
                                &reply, &st);
    }
    assert_int_equal(code, THOLE_OK);
    buf_unref(reply);
    bus_channel_free(c);
    host_free(h);
}

static int connect_raw(const struct served *s)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(bus_port(s->h->bus))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void test_garbage_on_the_port_disturbs_nobody(void **state)
{
    (void)state;
    static const char preface[24] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct served *s = served_new(0);
    struct host *peer = host_new(2, 9, 1, NULL);
    s->h->id = uuid_of(1);
    host_knows(peer, s->h);
    eventually(peer, peer->ups == 1);
    for (int i = 0; i < 20; i++) {
        char bytes[4096];
        int fd = connect_raw(s);
        for (size_t k = 0; k < sizeof bytes; k++) {
            bytes[k] = (char)(k * 31 + (size_t)i);
        }
        if (i % 2) { /* looks like HTTP/2 at first */
            memcpy(bytes, preface, sizeof preface);
        }
        assert_int_equal(send(fd, bytes, sizeof bytes, MSG_NOSIGNAL), sizeof bytes);
        if (i % 3) {
            shutdown(fd, SHUT_WR);
        }
        expect_echo(s->c, "undisturbed");
        close(fd);
    }
    assert_int_equal(locked(peer, peer->downs), 0);
    host_free(peer);
    served_free(s);
}

static void test_malformed_streams_are_refused(void **state)
{
    (void)state;
    static const char *const paths[] = {"/thole.bus.v1.Bus/Lane", "/thole.bus.v1.Bus/Exchange"};
    static const char *const bodies[] = {"\xff\xff\xff", "", "\012\003\012\001x", "\022\002ab"};
    struct served *s = served_new(0);
    for (int i = 0; i < 8; i++) {
        struct bidi b;
        bidi_open(&b, s, paths[i % 2], body_of(bodies[i / 2]), false);
        eventually(&b, b.closed);
        assert_int_equal(b.st.code, THOLE_INVALID_ARGUMENT);
        assert_int_equal(b.st.reason, THOLE_REASON_BAD_REQUEST);
        bidi_close(&b);
    }
    struct buf *reply;
    struct thole_status st;
    assert_int_equal(call(s->c, "/thole.bus.v1.Bus/Ask", slice_str("\xff"), &reply, &st),
                     THOLE_INVALID_ARGUMENT);
    served_free(s);
}

static void test_several_addresses(void **state)
{
    (void)state;
    struct served *s = served_new(0);
    struct bus_channel *c;
    struct thole_status st;
    char list[200];
    snprintf(list, sizeof list, "127.0.0.1:1,%s,localhost:2", s->h->address);
    assert_int_equal(bus_channel_new(list, &c, &st), THOLE_OK);
    expect_echo(c, "found");
    bus_channel_free(c);
    assert_int_equal(bus_channel_new("nonsense", &c, &st), THOLE_INVALID_ARGUMENT);
    assert_int_equal(bus_channel_new("", &c, &st), THOLE_INVALID_ARGUMENT);
    served_free(s);
}

/* "grpc-timeout: 99999999H", and a clock that has passed the deadline. */
static void test_deadlines_of_any_distance_do_not_overflow(void **state)
{
    (void)state;
    assert_true(bus__deadline_ns(5, 2, 7) == 2 * NS_PER_S + 12);
    assert_true(bus__deadline_ns(5, -1, 999999999) == 5);
    assert_true(bus__deadline_ns(5, INT64_C(99999999) * 3600, 0) == CLOCK_NEVER);
    assert_true(bus__deadline_ns(5, INT64_MAX, 999999999) == CLOCK_NEVER);
    assert_true(bus__deadline_ns(5, INT64_MIN, 0) == 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deadlines_of_any_distance_do_not_overflow),
        cmocka_unit_test(test_unary_calls),
        cmocka_unit_test(test_oversize_message_is_refused),
        cmocka_unit_test(test_error_details_round_trip),
        cmocka_unit_test(test_server_streams),
        cmocka_unit_test(test_stream_times_out_and_is_cancelled),
        cmocka_unit_test(test_slow_reader_meets_the_bound_and_drains),
        cmocka_unit_test(test_streams_that_share_their_queue_get_a_part_of_what_is_free),
        cmocka_unit_test(test_bidi_stream),
        cmocka_unit_test(test_reflection_under_both_names),
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_overload_is_refused),
        cmocka_unit_test(test_what_calls_hold_is_bounded),
        cmocka_unit_test(test_streams_are_bounded),
        cmocka_unit_test(test_stop_lets_calls_end_then_ends_them),
        cmocka_unit_test(test_finish_after_the_bus_was_freed),
        cmocka_unit_test(test_port_in_use),
        cmocka_unit_test(test_nothing_is_answered_before_start),
        cmocka_unit_test(test_garbage_on_the_port_disturbs_nobody),
        cmocka_unit_test(test_malformed_streams_are_refused),
        cmocka_unit_test(test_several_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
