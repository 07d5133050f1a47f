/* A stream, seen from either side: one receive and one send outstanding, a bounded send queue.
 *
 *            start            queue empty and finish wanted (server)
 *   NEW ---------------> OPEN -------------------------------------> FINISHING
 *                         |  a failed send, an abort, the end tag       |  end tag
 *                         v                                             v
 *                       BROKEN ---- all tags have returned ----------> CLOSED
 *
 * Invariants:
 *   1. Every tag handed to gRPC holds a reference; so does the owner.
 *   2. `closed` comes once, on the loop, when every tag has returned; no batch is started
 *      afterwards, so the queue may be shut down although the owner still holds a reference.
 *   3. `sending` admits one send batch at a time and `receiving` one receive, so batches are
 *      started outside the mutex. */
#include <stdio.h>
#include <stdlib.h>

#include "bus/bus_internal.h"

enum pipe_state { PIPE_NEW, PIPE_OPEN, PIPE_FINISHING, PIPE_BROKEN, PIPE_CLOSED };

#define MAY(state) (1u << (state))
static const unsigned moves[] = {
    [PIPE_NEW] = MAY(PIPE_OPEN) | MAY(PIPE_FINISHING) | MAY(PIPE_BROKEN),
    [PIPE_OPEN] = MAY(PIPE_FINISHING) | MAY(PIPE_BROKEN),
    [PIPE_FINISHING] = MAY(PIPE_BROKEN) | MAY(PIPE_CLOSED),
    [PIPE_BROKEN] = MAY(PIPE_CLOSED),
    [PIPE_CLOSED] = 0,
};

struct bus_pipe {
    struct bus_pipe_options o;
    _Atomic uint32_t refs;
    struct bus_tag send_tag, recv_tag, end_tag;
    grpc_byte_buffer *outgoing; /* reused: gRPC takes the slices out of it */
    pthread_mutex_t mutex;      /* below, to the blank line */
    struct bus_writer writer;
    size_t sending_bytes;    /* with gRPC */
    struct bus_queue bounds; /* of both */
    bool sending, receiving, paused, read_end;
    bool pump_promised; /* late_pump is posted: a corked thread will send */
    struct cork_item late_pump;
    bool sent_initial, headers_wanted, want_drained, finish_wanted;
    enum pipe_state state;
    enum thole_code finish_code;
    char finish_message[THOLE_STATUS_MESSAGE_BYTES];
    grpc_slice finish_details;

    grpc_byte_buffer *incoming; /* of the running receive */
    grpc_metadata_array initial, trailing;
    bool asked_initial; /* a client's first receive also asks for the initial metadata */
    grpc_status_code code;
    grpc_slice details;
    int cancelled;
    bool ended; /* loop thread */
};

static void ref(struct bus_pipe *p)
{
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
}

static void pump_late(struct cork_item *item);
static void send_returned(struct bus_tag *tag, bool ok);
static void recv_returned(struct bus_tag *tag, bool ok);
static void end_returned(struct bus_tag *tag, bool ok);
static void maybe_closed(struct bus_pipe *p);
static void receive(struct bus_pipe *p);

/* The mutex is held. */
static void move(struct bus_pipe *p, enum pipe_state to)
{
    ASSERT((moves[p->state] & MAY(to)) != 0);
    p->state = to;
}

/* The mutex is held. */
static void check(const struct bus_pipe *p)
{
    ASSERT(p->sending || p->sending_bytes == 0);
    ASSERT(p->state < PIPE_BROKEN || bus__writer_empty(&p->writer));
    ASSERT(p->state != PIPE_FINISHING || p->finish_wanted);
    ASSERT(p->state != PIPE_CLOSED || (!p->sending && !p->receiving));
}

struct bus_pipe *bus__pipe_new(const struct bus_pipe_options *o)
{
    struct bus_pipe *p = xcalloc(1, sizeof *p);
    p->o = *o;
    p->bounds =
        (struct bus_queue){.budget = o->budget, .bytes_max = o->queue_bytes, .share = o->share};
    atomic_init(&p->refs, 1);
    p->send_tag = bus_tag_of(send_returned);
    p->recv_tag = bus_tag_of(recv_returned);
    p->end_tag = bus_tag_of(end_returned);
    p->late_pump.fn = pump_late;
    p->outgoing = grpc_raw_byte_buffer_create(NULL, 0);
    pthread_mutex_init(&p->mutex, NULL);
    bus__writer_init(&p->writer, o->join);
    p->finish_details = grpc_empty_slice();
    p->details = grpc_empty_slice();
    grpc_metadata_array_init(&p->initial);
    grpc_metadata_array_init(&p->trailing);
    bus__loop_live(o->loop, 1);
    return p;
}

struct bus_pipe *bus__pipe_ref(struct bus_pipe *p)
{
    ref(p);
    return p;
}

void bus__pipe_unref(struct bus_pipe *p)
{
    if (p == NULL || !bus__drop(&p->refs)) {
        return;
    }
    ASSERT(!p->sending && !p->receiving && !p->pump_promised);
    ASSERT(p->bounds.shared == 0); /* break_off */
    bus__queue_charge(&p->bounds, 0);
    grpc_call_unref(p->o.call);
    grpc_byte_buffer_destroy(p->outgoing);
    if (p->incoming != NULL) {
        grpc_byte_buffer_destroy(p->incoming);
    }
    bus__writer_deinit(&p->writer);
    grpc_slice_unref(p->finish_details);
    grpc_slice_unref(p->details);
    grpc_metadata_array_destroy(&p->initial);
    grpc_metadata_array_destroy(&p->trailing);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

grpc_call *bus__pipe_call(struct bus_pipe *p)
{
    return p->o.call;
}

/* ---- Sending --------------------------------------------------------------------------------- */

#define SEND_OPS_MAX 4
struct batch {
    grpc_op ops[SEND_OPS_MAX];
    size_t n;
    grpc_metadata trailer;
    grpc_slice message; /* status message; owned here */
};

static void add_status(struct bus_pipe *p, struct batch *b)
{
    grpc_op *op = &b->ops[b->n++];
    op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    op->data.send_status_from_server.status = (grpc_status_code)p->finish_code;
    if (p->finish_code == THOLE_OK) {
        return;
    }
    b->message = grpc_slice_from_copied_string(p->finish_message);
    op->data.send_status_from_server.status_details = &b->message;
    if (GRPC_SLICE_LENGTH(p->finish_details) > 0) {
        b->trailer = (grpc_metadata){.key = bus__details_key(), .value = p->finish_details};
        op->data.send_status_from_server.trailing_metadata = &b->trailer;
        op->data.send_status_from_server.trailing_metadata_count = 1;
    }
}

/* The next batch; false if there is nothing to send. The mutex is held. */
static bool next_batch(struct bus_pipe *p, struct batch *b)
{
    bool message = !bus__writer_empty(&p->writer);
    bool finish = p->finish_wanted && !message;
    check(p);
    if (p->sending || p->state > PIPE_OPEN) {
        return false;
    }
    if (!message && !finish && !(p->headers_wanted && !p->sent_initial)) {
        return false;
    }
    *b = (struct batch){.message = grpc_empty_slice()};
    if (!p->sent_initial) {
        p->sent_initial = true;
        b->ops[b->n++] = bus__send_headers(p->o.loop); /* a server's loop has no token */
    }
    if (message) {
        size_t before = p->writer.bytes;
        bus__writer_take(&p->writer, &p->outgoing->data.raw.slice_buffer);
        p->sending_bytes = before - p->writer.bytes;
        grpc_op *op = &b->ops[b->n++];
        op->op = GRPC_OP_SEND_MESSAGE;
        op->data.send_message.send_message = p->outgoing;
        /* A batch with the initial metadata ends only when it was written. With the buffer hint
         * nothing starts the write, so it would never end. */
        if (!bus__writer_empty(&p->writer) && b->n == 1) {
            op->flags = GRPC_WRITE_BUFFER_HINT;
        }
        if (p->o.half_close) {
            b->ops[b->n++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        }
    }
    if (finish) {
        move(p, PIPE_FINISHING);
        add_status(p, b);
    }
    ASSERT(b->n <= SEND_OPS_MAX);
    p->sending = true;
    return true;
}

/* Takes the mutex over. */
static void pump(struct bus_pipe *p)
{
    struct batch b;
    bool any = next_batch(p, &b);
    pthread_mutex_unlock(&p->mutex);
    if (!any) {
        return;
    }
    ref(p);
    bus__start(p->o.call, b.ops, b.n, &p->send_tag);
    grpc_slice_unref(b.message);
}

static void pump_late(struct cork_item *item)
{
    struct bus_pipe *p = CONTAINER_OF(item, struct bus_pipe, late_pump);
    pthread_mutex_lock(&p->mutex);
    ASSERT(p->pump_promised);
    p->pump_promised = false;
    pump(p);
    bus__pipe_unref(p);
}

/* Send at once, or at the end of a corked thread's scope. Takes the mutex over. */
static void pump_soon(struct bus_pipe *p)
{
    bool corked = cork_is_on();
    bool late = corked && !p->sending && !p->pump_promised;
    if (!corked) {
        pump(p);
        return;
    }
    if (late) {
        p->pump_promised = true;
        ref(p);
    }
    pthread_mutex_unlock(&p->mutex);
    if (late) {
        (void)cork_add(&p->late_pump);
    }
}

/* The mutex is held. */
static void charge(struct bus_pipe *p)
{
    bus__queue_charge(&p->bounds, p->writer.bytes + p->sending_bytes);
}

/* Nothing more is sent. The mutex is held. */
static void break_off(struct bus_pipe *p)
{
    if (p->state < PIPE_BROKEN) {
        move(p, PIPE_BROKEN);
    }
    bus__writer_clear(&p->writer);
    charge(p);
}

static void send_returned(struct bus_tag *tag, bool ok)
{
    struct bus_pipe *p = CONTAINER_OF(tag, struct bus_pipe, send_tag);
    ASSERT(bus__loop_here(p->o.loop));
    grpc_slice_buffer_reset_and_unref(&p->outgoing->data.raw.slice_buffer);
    pthread_mutex_lock(&p->mutex);
    ASSERT(p->sending && p->state != PIPE_CLOSED);
    p->sending = false;
    p->sending_bytes = 0;
    if (!ok) { /* the end tag has the reason */
        break_off(p);
    }
    charge(p);
    bool drained = p->want_drained && p->state < PIPE_BROKEN &&
                   bus__queue_has_drained(&p->bounds, p->writer.bytes);
    bool resume = drained && p->paused;
    if (drained) {
        p->want_drained = p->paused = false;
    }
    pump(p);
    if (resume) {
        pthread_mutex_lock(&p->mutex);
        receive(p);
    }
    if (drained && p->o.events->drained != NULL) {
        p->o.events->drained(p->o.ctx);
    }
    maybe_closed(p);
    bus__pipe_unref(p);
}

enum bus_put bus__pipe_put(struct bus_pipe *p, struct slice head, struct bufslice body, bool must,
                           uint64_t *ret_seq)
{
    enum bus_put result = BUS_PUT_OK;
    pthread_mutex_lock(&p->mutex);
    if (p->state >= PIPE_BROKEN || p->finish_wanted) {
        result = BUS_PUT_CLOSED;
    } else if (!must && bus__queue_is_full(&p->bounds, p->writer.bytes, p->sending_bytes,
                                           p->writer.bytes > 0 || p->sending, body.bytes.size)) {
        p->want_drained = true;
        result = BUS_PUT_FULL;
    }
    if (result != BUS_PUT_OK) {
        pthread_mutex_unlock(&p->mutex);
        buf_unref(body.owner);
        return result;
    }
    bus__writer_put(&p->writer, head, body);
    charge(p);
    if (ret_seq != NULL) {
        *ret_seq = p->writer.queued;
    }
    pump_soon(p);
    return result;
}

bool bus__pipe_taken(struct bus_pipe *p, uint64_t seq)
{
    pthread_mutex_lock(&p->mutex);
    bool taken = p->writer.taken >= seq;
    pthread_mutex_unlock(&p->mutex);
    return taken;
}

size_t bus__pipe_queued(struct bus_pipe *p)
{
    pthread_mutex_lock(&p->mutex);
    size_t bytes = p->writer.bytes;
    pthread_mutex_unlock(&p->mutex);
    return bytes;
}

bool bus__pipe_flushed(struct bus_pipe *p)
{
    pthread_mutex_lock(&p->mutex);
    bool flushed = bus__writer_empty(&p->writer) && !p->sending;
    pthread_mutex_unlock(&p->mutex);
    return flushed;
}

void bus__pipe_headers(struct bus_pipe *p)
{
    pthread_mutex_lock(&p->mutex);
    p->headers_wanted = true;
    pump(p);
}

void bus__pipe_finish(struct bus_pipe *p, enum thole_code code, const char *message,
                      grpc_slice details)
{
    ASSERT(p->o.server);
    pthread_mutex_lock(&p->mutex);
    if (p->state >= PIPE_BROKEN || p->finish_wanted) {
        pthread_mutex_unlock(&p->mutex);
        grpc_slice_unref(details);
        return;
    }
    p->finish_wanted = true;
    p->finish_code = code;
    snprintf(p->finish_message, sizeof p->finish_message, "%s", message != NULL ? message : "");
    p->finish_details = details;
    pump(p);
}

void bus__pipe_abort(struct bus_pipe *p, enum thole_code code, const char *why)
{
    pthread_mutex_lock(&p->mutex);
    break_off(p);
    pthread_mutex_unlock(&p->mutex);
    grpc_call_cancel_with_status(p->o.call, (grpc_status_code)code, why, NULL);
}

void bus__pipe_cancel(struct bus_pipe *p)
{
    grpc_call_cancel(p->o.call, NULL);
}

/* ---- Receiving ------------------------------------------------------------------------------- */

/* Takes the mutex over. */
static void receive(struct bus_pipe *p)
{
    bool start = !p->receiving && !p->paused && !p->read_end;
    if (start) {
        p->receiving = true;
    }
    pthread_mutex_unlock(&p->mutex);
    if (!start) {
        return;
    }
    grpc_op ops[2] = {{.op = GRPC_OP_RECV_MESSAGE}, {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    ops[0].data.recv_message.recv_message = &p->incoming;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &p->initial;
    bool first = !p->o.server && !p->asked_initial;
    p->asked_initial = true; /* only one receive runs at a time */
    ref(p);
    bus__start(p->o.call, ops, first ? 2 : 1, &p->recv_tag);
}

static void maybe_closed(struct bus_pipe *p)
{
    pthread_mutex_lock(&p->mutex);
    bool now = p->ended && !p->receiving && !p->sending && p->state != PIPE_CLOSED;
    if (now) {
        p->read_end = true;
        break_off(p);
        move(p, PIPE_CLOSED);
        check(p);
    }
    pthread_mutex_unlock(&p->mutex);
    if (!now) {
        return;
    }
    struct thole_status st = {0};
    if (!p->o.server) {
        bus__status_decode(p->code, p->details, &p->trailing, bus__pipe_taken(p, 1), &st);
    }
    struct bus_loop *loop = p->o.loop;
    p->o.events->closed(p->o.ctx, &st);
    bus__loop_live(loop, -1);
}

static void recv_returned(struct bus_tag *tag, bool ok)
{
    struct bus_pipe *p = CONTAINER_OF(tag, struct bus_pipe, recv_tag);
    ASSERT(bus__loop_here(p->o.loop));
    grpc_byte_buffer *bb = p->incoming;
    p->incoming = NULL;
    (void)ok; /* on failure there is no message either */
    if (bb != NULL) {
        struct buf *buf = bus__buf_of(bb);
        grpc_byte_buffer_destroy(bb);
        if (p->o.server) {
            bus__accept_delivered(p->o.budget->acceptor, p->o.call, buf->size);
        }
        p->o.events->message(p->o.ctx, (struct bufslice){buf, {buf->data, buf->size}});
        buf_unref(buf);
        pthread_mutex_lock(&p->mutex);
        p->receiving = false;
        if (p->o.server && p->sending && p->writer.bytes > p->o.queue_bytes / 2) {
            p->paused = p->want_drained =
                true; /* a caller that does not read answers gets no new requests in */
        }
        receive(p);
    } else {
        pthread_mutex_lock(&p->mutex);
        p->receiving = false;
        p->read_end = true;
        bool half = p->o.server && !p->ended && !grpc_call_failed_before_recv_message(p->o.call);
        pthread_mutex_unlock(&p->mutex);
        if (half && p->o.events->half_closed != NULL) {
            p->o.events->half_closed(p->o.ctx);
        }
    }
    maybe_closed(p);
    bus__pipe_unref(p);
}

static void end_returned(struct bus_tag *tag, bool ok)
{
    struct bus_pipe *p = CONTAINER_OF(tag, struct bus_pipe, end_tag);
    (void)ok;
    ASSERT(bus__loop_here(p->o.loop) && !p->ended);
    p->ended = true;
    bool gone = !p->o.server || p->cancelled != 0;
    if (gone) {
        pthread_mutex_lock(&p->mutex);
        p->paused = false;
        break_off(p);
        pthread_mutex_unlock(&p->mutex);
        if (p->o.server && p->o.events->cancelled != NULL) {
            p->o.events->cancelled(p->o.ctx);
        }
    }
    maybe_closed(p);
    bus__pipe_unref(p);
}

void bus__pipe_pause(struct bus_pipe *p)
{
    pthread_mutex_lock(&p->mutex);
    p->paused = true;
    pthread_mutex_unlock(&p->mutex);
}

void bus__pipe_resume(struct bus_pipe *p)
{
    pthread_mutex_lock(&p->mutex);
    p->paused = false;
    receive(p);
}

void bus__pipe_start(struct bus_pipe *p, struct bufslice first)
{
    grpc_op end = {0};
    if (p->o.server) {
        end.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
        end.data.recv_close_on_server.cancelled = &p->cancelled;
    } else {
        end.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
        end.data.recv_status_on_client.trailing_metadata = &p->trailing;
        end.data.recv_status_on_client.status = &p->code;
        end.data.recv_status_on_client.status_details = &p->details;
    }
    pthread_mutex_lock(&p->mutex);
    if (p->state == PIPE_NEW) { /* otherwise it was ended before its start */
        move(p, PIPE_OPEN);
    }
    pthread_mutex_unlock(&p->mutex);
    ref(p);
    ref(p); /* for this function: the pipe may end at once */
    bus__start(p->o.call, &end, 1, &p->end_tag);
    if (!p->o.server && !p->o.connected) {
        bus__pipe_headers(p);
    }
    if (!p->o.server) {
        bus__pipe_put(p, (struct slice){0}, first, true, NULL);
    }
    pthread_mutex_lock(&p->mutex);
    receive(p);
    bus__pipe_unref(p);
}
