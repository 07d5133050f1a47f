/* A client's unary call: one batch (two while there is no connection), answered on the loop. And
 * Ask on top of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/latch.h"
#include "bus/bus_internal.h"

struct unary {
    struct unary *next, **prev; /* under loop.mutex */
    struct bus_loop *loop;
    grpc_call *call;
    struct bus_tag tag;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *request, *reply;
    bool sent; /* gRPC was given the request: the server may have seen it */
    grpc_status_code code;
    grpc_slice message;
    bus_unary_fn done;
    void *ctx;
};

static void returned(struct bus_tag *tag, bool ok)
{
    struct unary *u = CONTAINER_OF(tag, struct unary, tag);
    struct bus_loop *loop = u->loop;
    struct thole_status st;
    (void)ok; /* the status has the result */
    pthread_mutex_lock(&loop->mutex);
    *u->prev = u->next;
    if (u->next != NULL) {
        u->next->prev = u->prev;
    }
    pthread_mutex_unlock(&loop->mutex);
    bus__status_decode(u->code, u->message, &u->trailing, u->sent, &st);
    if (st.code == THOLE_OK && u->reply == NULL) {
        thole_status_set(&st, THOLE_INTERNAL, THOLE_REASON_NONE, __FILE__, __LINE__,
                         "the call succeeded without a reply");
    }
    u->done(u->ctx, &st, u->reply, u->call);
    grpc_byte_buffer_destroy(u->request);
    if (u->reply != NULL) {
        grpc_byte_buffer_destroy(u->reply);
    }
    grpc_slice_unref(u->message);
    grpc_metadata_array_destroy(&u->initial);
    grpc_metadata_array_destroy(&u->trailing);
    grpc_call_unref(u->call);
    free(u);
    bus__loop_live(loop, -1);
}

/* Send the request, and receive everything. */
static void start_all(struct unary *u, bool headers)
{
    grpc_op ops[6] = {
        bus__send_headers(u->loop),
        {.op = GRPC_OP_SEND_MESSAGE},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA},
        {.op = GRPC_OP_RECV_MESSAGE},
        {.op = GRPC_OP_RECV_STATUS_ON_CLIENT},
    };
    ops[1].data.send_message.send_message = u->request;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &u->initial;
    ops[4].data.recv_message.recv_message = &u->reply;
    ops[5].data.recv_status_on_client.trailing_metadata = &u->trailing;
    ops[5].data.recv_status_on_client.status = &u->code;
    ops[5].data.recv_status_on_client.status_details = &u->message;
    u->tag = bus_tag_of(returned);
    u->sent = true;
    bus__start(u->call, ops + !headers, headers ? 6 : 5, &u->tag);
}

static void headers_returned(struct bus_tag *tag, bool ok)
{
    struct unary *u = CONTAINER_OF(tag, struct unary, tag);
    if (ok) {
        start_all(u, false);
        return;
    }
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    status.data.recv_status_on_client.trailing_metadata = &u->trailing;
    status.data.recv_status_on_client.status = &u->code;
    status.data.recv_status_on_client.status_details = &u->message;
    u->tag = bus_tag_of(returned);
    bus__start(u->call, &status, 1, &u->tag);
}

static void start_headers(struct unary *u)
{
    const grpc_op headers = bus__send_headers(u->loop);
    u->tag = bus_tag_of(headers_returned);
    bus__start(u->call, &headers, 1, &u->tag);
}

bool bus__unary(struct bus_loop *loop, grpc_channel *channel, const char *path,
                struct bufslice request, uint32_t timeout_ms, bus_unary_fn done, void *ctx)
{
    if (!bus__loop_enter(loop)) {
        bufslice_unref(request);
        return false;
    }
    struct unary *u = xcalloc(1, sizeof *u);
    u->loop = loop;
    u->done = done;
    u->ctx = ctx;
    u->message = grpc_empty_slice();
    u->call = bus__call_new(channel, loop, path, bus__deadline(timeout_ms));
    grpc_slice slice = bus__slice_of(request);
    u->request = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    bool ready = bus__channel_ready(channel);
    pthread_mutex_lock(&loop->mutex);
    u->next = loop->unaries;
    u->prev = &loop->unaries;
    if (u->next != NULL) {
        u->next->prev = &u->next;
    }
    loop->unaries = u;
    bool late = loop->cancels;
    grpc_call_ref(u->call);
    grpc_call *call = u->call;
    pthread_mutex_unlock(&loop->mutex);
    if (ready) {
        start_all(u, true); /* `u` may be freed when it returns */
    } else {
        start_headers(u);
    }
    if (late) {
        grpc_call_cancel(call, NULL);
    }
    grpc_call_unref(call);
    return true;
}

void bus__unary_cancel_all(struct bus_loop *loop)
{
    for (struct unary *u = loop->unaries; u != NULL; u = u->next) {
        grpc_call_cancel(u->call, NULL);
    }
}

struct waiter {
    struct latch answered;
    struct buf *reply;
    grpc_call *call; /* a reference; NULL: not wanted, or it failed */
    bool wants_call;
};

static void on_answer(void *ctx, const struct thole_status *st, grpc_byte_buffer *reply,
                      grpc_call *call)
{
    struct waiter *w = ctx;
    w->reply = st->code == THOLE_OK ? bus__buf_of(reply) : NULL;
    if (w->wants_call && st->code == THOLE_OK) {
        grpc_call_ref(call);
        w->call = call;
    }
    latch_open(&w->answered, st);
}

enum thole_code bus__unary_wait(struct bus_loop *loop, grpc_channel *channel, const char *path,
                                struct bufslice request, uint32_t timeout_ms,
                                struct buf **ret_reply, grpc_call **ret_call,
                                struct thole_status *st)
{
    ASSERT(!bus__loop_here(loop)); /* it would deadlock */
    struct waiter w = {.wants_call = ret_call != NULL};
    latch_init(&w.answered);
    enum thole_code code;
    if (bus__unary(loop, channel, path, request, timeout_ms, on_answer, &w)) {
        code = latch_wait(&w.answered, st);
    } else {
        code = THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "stopped");
    }
    latch_deinit(&w.answered);
    if (code == THOLE_OK) {
        *ret_reply = w.reply;
        if (ret_call != NULL) {
            *ret_call = w.call;
        }
    }
    return code;
}

void bus_end_asks(struct bus *b)
{
    pthread_mutex_lock(&b->loop.mutex);
    b->loop.cancels = true;
    bus__unary_cancel_all(&b->loop);
    pthread_mutex_unlock(&b->loop.mutex);
}

static bool asks_ended(struct bus *b)
{
    pthread_mutex_lock(&b->loop.mutex);
    bool ended = b->loop.cancels;
    pthread_mutex_unlock(&b->loop.mutex);
    return ended;
}

static enum thole_code ask_and_identify(struct bus *b, grpc_channel *channel,
                                        struct bufslice request, uint32_t timeout_ms,
                                        struct buf **ret_reply, struct bus_certificate **ret_shown,
                                        struct thole_status *st)
{
    grpc_call *call = NULL;
    enum thole_code code = bus__unary_wait(&b->loop, channel, "/thole.bus.v1.Bus/Ask", request,
                                           timeout_ms, ret_reply, &call, st);
    if (code != THOLE_OK) {
        return code;
    }
    code = bus__tls_identify(b->o.tls, call, CERTIFICATE_SERVER, ret_shown, st);
    grpc_call_unref(call);
    if (code != THOLE_OK) {
        buf_unref(*ret_reply);
        *ret_reply = NULL;
    }
    return code;
}

enum thole_code bus_ask(struct bus *b, const char *address, uint32_t method, struct slice body,
                        uint32_t timeout_ms, struct buf **ret_body, struct bus_ask_peer *ret_peer,
                        struct thole_status *st)
{
    ASSERT(!bus__loop_here(&b->loop));
    const struct bus_item item = {.method = method, .body = body};
    if (method == 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a request needs a method");
    }
    struct buf *reply = NULL;
    struct bus_certificate *shown = NULL;
    grpc_channel *channel = bus__peer_channel(b, address);
    enum thole_code code =
        ask_and_identify(b, channel, bus__ask_encode(b, &item), timeout_ms, &reply, &shown, st);
    grpc_channel_destroy(channel);
    if (code == THOLE_CANCELLED && asks_ended(b)) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "this host is stopping");
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct bus_hello hello;
    struct slice answer;
    ASSERT(reply != NULL);
    if (!bus__answer_decode((struct slice){reply->data, reply->size}, &hello, &answer)) {
        bus__certificate_unref(shown);
        buf_unref(reply);
        return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_FORMAT, "the answer of %s is malformed",
                          address);
    }
    code = b->o.tls != NULL ? bus__check_host(b, &hello, shown, address, st) : THOLE_OK;
    if (code != THOLE_OK) {
        bus__certificate_unref(shown);
        buf_unref(reply);
        return code;
    }
    bus__met(b, &hello);
    if (ret_body != NULL) {
        *ret_body = buf_copy(answer.data, answer.size);
    }
    if (ret_peer != NULL) {
        *ret_peer = (struct bus_ask_peer){hello.host, hello.cluster, hello.incarnation, ""};
        snprintf(ret_peer->name, sizeof ret_peer->name, "%s", shown != NULL ? shown->c.name : "");
    }
    bus__certificate_unref(shown);
    buf_unref(reply);
    return THOLE_OK;
}
