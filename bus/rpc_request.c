/* The request message of unary calls and server streams: waiting for it, within a bound.
 *
 * A call that has sent its headers alone costs gRPC some 12 KB, which its resource quota does not
 * count, and a client may open thousands. So calls arrive with their headers, and those whose
 * message has not come are kept in the order of their arrival. When there are too many, the oldest
 * one ends: the message of an honest call follows its headers at once.
 *
 * Calls that end without a message are waste. They cost the client a few bytes, so a connection
 * that makes many of them is closed (bus__accept_wasted). */
#include "bus/bus_internal.h"

#define WAITING_MAX 4096 /* 48 MiB */

static METRIC_DEFINE_GAUGE(metric_waiting, "thole_rpc_waiting_calls",
                           "Calls whose request message has not come yet");
static METRIC_DEFINE_COUNTER(metric_ended, "thole_rpc_waiting_ended_total",
                             "Calls without a request message that ended because others came");

static void add(struct bus_rpc *r)
{
    struct bus *b = r->bus;
    r->wait_next = NULL;
    r->wait_prev = b->waiting_newest;
    if (r->wait_prev != NULL) {
        r->wait_prev->wait_next = r;
    } else {
        b->waiting_oldest = r;
    }
    b->waiting_newest = r;
    b->waiting_count++;
    metric_add(&metric_waiting, 1);
}

static void remove_waiting(struct bus_rpc *r)
{
    struct bus *b = r->bus;
    if (r->wait_prev != NULL) {
        r->wait_prev->wait_next = r->wait_next;
    } else {
        b->waiting_oldest = r->wait_next;
    }
    if (r->wait_next != NULL) {
        r->wait_next->wait_prev = r->wait_prev;
    } else {
        b->waiting_newest = r->wait_prev;
    }
    r->wait_next = r->wait_prev = NULL;
    b->waiting_count--;
    metric_add(&metric_waiting, -1);
}

/* The call leaves the list when its tag returns, so it may be cancelled more than once. */
static void end_oldest(struct bus *b)
{
    struct bus_rpc *oldest = b->waiting_oldest;
    remove_waiting(oldest);
    add(oldest);
    metric_add(&metric_ended, 1);
    grpc_call_cancel(oldest->call, NULL);
}

static void received(struct bus_tag *tag, bool ok)
{
    struct bus_rpc *r = CONTAINER_OF(tag, struct bus_rpc, received);
    struct bus_loop *loop = &r->bus->loop;
    (void)ok;
    remove_waiting(r);
    if (r->payload == NULL) {
        bus__accept_wasted(r->bus->acceptor, r->call);
    } else {
        bus__accept_delivered(r->bus->acceptor, r->call, grpc_byte_buffer_length(r->payload));
    }
    bus__rpc_handle(r);
    bus__loop_live(loop, -1);
}

void bus__rpc_await_request(struct bus_rpc *r)
{
    struct bus *b = r->bus;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &r->payload;
    if (!bus__loop_enter(&b->loop)) {
        bus__rpc_handle(r); /* stopping: it is refused */
        return;
    }
    if (b->waiting_count >= WAITING_MAX) {
        end_oldest(b);
    }
    add(r);
    r->received = bus_tag_of(received);
    bus__start(r->call, &op, 1, &r->received);
}

struct slice bus__rpc_request(struct bus_rpc *r)
{
    if (r->local != NULL) {
        return bus__local_request(r->local);
    }
    const grpc_slice_buffer *s = &r->payload->data.raw.slice_buffer;
    if (r->payload->data.raw.compression == GRPC_COMPRESS_NONE && s->count <= 1) {
        return s->count == 0 ? (struct slice){0}
                             : (struct slice){GRPC_SLICE_START_PTR(s->slices[0]),
                                              GRPC_SLICE_LENGTH(s->slices[0])};
    }
    r->request = bus__buf_of(r->payload);
    return (struct slice){r->request->data, r->request->size};
}
