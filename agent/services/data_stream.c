/* thole.v1.Data.Stream: many proposals on one stream, answered in the order of completion.
 *
 * A stream ends when its reading side has ended (by the client, a cancellation or a failure) and
 * its last proposal was answered. `open` counts the proposals, and the reading side as one. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "agent/services/services_internal.h"
#include "base/assert.h"
#include "proto/decode.h"

#define STREAM_PROPOSALS_MAX 8192 /* in flight; further proposals are refused */

struct data_stream {
    struct services *s;
    struct bus_rpc *rpc;
    _Atomic uint32_t open;
    _Atomic bool reading;
    _Atomic bool failed;
    struct thole_status failure; /* written only by the thread that sets `failed` */
    _Atomic bool failure_written;
};

static void stream_unref(struct data_stream *t)
{
    uint32_t before = atomic_fetch_sub(&t->open, 1);
    ASSERT(before > 0);
    if (before != 1) {
        return;
    }
    if (atomic_load(&t->failure_written)) {
        services__fail(t->rpc, &t->failure, NULL);
    } else {
        bus_rpc_reply(t->rpc, (struct bufslice){NULL, {NULL, 0}});
    }
}

static void stop_reading(struct data_stream *t)
{
    if (atomic_exchange(&t->reading, false)) {
        stream_unref(t);
    }
}

static void stream_cancelled(void *ctx)
{
    stop_reading(ctx);
}

static void fail_stream(struct data_stream *t, const struct thole_status *st)
{
    if (!atomic_exchange(&t->failed, true)) {
        t->failure = *st;
        atomic_store(&t->failure_written, true);
    }
    stop_reading(t);
}

static struct data_stream *stream_of(struct services *s, struct bus_rpc *rpc)
{
    struct data_stream *t = bus_rpc_data(rpc);
    if (t == NULL) {
        t = xcalloc(1, sizeof *t);
        t->s = s;
        t->rpc = rpc;
        atomic_store(&t->open, 1);
        atomic_store(&t->reading, true);
        bus_rpc_set_data(rpc, t, free);
        bus_rpc_on_cancel(rpc, stream_cancelled, t);
    }
    return t;
}

static void send_response(struct data_stream *t, struct bytes *out)
{
    struct buf *b = bytes_to_buf(out);
    bytes_deinit(out);
    struct bufslice message = {b, slice_of(b->data, b->size)};
    if (atomic_load(&t->failed)) {
        bufslice_unref(message);
        return;
    }
    if (!bus_rpc_send(t->rpc, message)) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                         "the client does not read its answers");
        fail_stream(t, &st);
    }
}

static void send_failure(struct data_stream *t, uint64_t id, const struct thole_status *st)
{
    struct bytes out = {0};
    services__wire_varint(&out, 1, id);
    services__wire_varint(&out, 3, (uint64_t)st->code);
    services__wire_bytes(&out, 4, slice_str(thole_reason_name(services__of_peer(st).reason)));
    services__wire_bytes(&out, 5, slice_str(st->message));
    send_response(t, &out);
}

void services__data_stream_done(struct data_call *d)
{
    struct data_stream *t = d->stream;
    ASSERT(t != NULL && t->rpc == d->rpc && atomic_load(&t->open) > 0);
    size_t size = d->route.result.bytes.size * (d->text ? 2 : 1);
    (void)bus_rpc_hold(t->rpc, &d->held, 0);
    if (atomic_load(&t->failed)) { /* the stream takes no more answers */
        services__data_call_free(d);
        stream_unref(t);
        return;
    }
    if (d->route.status.code != THOLE_OK) {
        send_failure(t, d->stream_id, &d->route.status);
    } else if (!bus_rpc_room(t->rpc, size)) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_OUTCOME_UNKNOWN,
                         "applied, but the answer was dropped: the client reads too slowly");
        send_failure(t, d->stream_id, &st);
    } else {
        struct bytes out = {0}, body = {0};
        services__wire_varint(&out, 1, d->stream_id);
        services__data_propose_response_append(d, &body);
        services__wire_bytes(&out, 2, bytes_slice(&body));
        bytes_deinit(&body);
        send_response(t, &out);
    }
    services__data_call_free(d);
    stream_unref(t);
}

static void stream_propose(struct data_stream *t, const thole_v1_StreamRequest *q)
{
    uint64_t id = thole_v1_StreamRequest_id(q);
    const thole_v1_ProposeRequest *propose = thole_v1_StreamRequest_propose(q);
    struct thole_status st;
    if (propose == NULL) {
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "propose: is needed");
        send_failure(t, id, &st);
        return;
    }
    if (atomic_load(&t->open) > STREAM_PROPOSALS_MAX) {
        (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                         "more than %d proposals are in flight on this stream",
                         STREAM_PROPOSALS_MAX);
        send_failure(t, id, &st);
        return;
    }
    struct data_call *d = services__data_call_new(t->s, t->rpc);
    d->route.deadline_ns = clock_now(&clock_system) + SERVICES_DEADLINE_DEFAULT_MS * NS_PER_MS;
    d->stream = t;
    d->stream_id = id;
    if (!services__data_read_propose(d, propose, &st)) {
        send_failure(t, id, &st);
        services__data_call_free(d);
        return;
    }
    uint32_t before = atomic_fetch_add(&t->open, 1);
    ASSERT(before > 0); /* the reading side */
    services__data_send(d);
}

void services__data_stream_message(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct data_stream *t = stream_of(ctx, rpc);
    if (!atomic_load(&t->reading)) {
        return; /* the stream failed: ignore further messages */
    }
    _Alignas(16) char memory[1024];
    upb_Arena *arena = upb_Arena_Init(memory, sizeof memory, &upb_alloc_global);
    thole_v1_StreamRequest *q = PROTO_DECODE_ALIAS(thole_v1_StreamRequest, message, arena);
    if (q == NULL) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "request: is malformed");
        fail_stream(t, &st);
    } else {
        stream_propose(t, q);
    }
    upb_Arena_Free(arena);
}

void services__data_stream_end(void *ctx, struct bus_rpc *rpc)
{
    stop_reading(stream_of(ctx, rpc));
}
