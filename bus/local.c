/* Calls that came to this process by another protocol (bus_call): the same slots, bounds, rights
 * and handlers as calls by gRPC, without a connection. What the handler sends is queued here, until
 * the door takes it. */
#include <grpc/support/alloc.h>
#include <grpc/support/string_util.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"

struct bus_call {
    struct bus_rpc *rpc;     /* it frees this */
    void (*wake)(void *ctx); /* as in bus_call_options, like the next two */
    void (*released)(void *ctx);
    void *ctx;
    struct bus_header *headers;
    size_t header_count;
    struct bufslice *messages;
    size_t message_count;
    bool stays_open;
    struct bus_task arrive, cancel, drain;
    pthread_mutex_t mutex; /* below */
    bool let_go;           /* by the door */
    bool begun, ended;
    bool full;     /* the handler was refused room */
    bool draining; /* `drain` is posted */
    struct bufslice *queue;
    size_t first, count, capacity;
    size_t bytes; /* queued */
    struct bus_queue bounds;
    struct thole_status st;
    struct buf *details;
};

static char *text_of(struct slice s)
{
    return xstrndup(s.data != NULL ? (const char *)s.data : "", s.size);
}

/* ---- What the door calls --------------------------------------------------------------------- */

static void arrive(struct bus_task *task)
{
    struct bus_call *c = CONTAINER_OF(task, struct bus_call, arrive);
    struct bus_rpc *r = c->rpc;
    struct thole_status st;
    bus__rpc_begin(r);
    if (atomic_load(&r->bus->stopping)) {
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
        bus_rpc_fail(r, &st, 0, NULL);
    } else {
        bus__rpc_handle(r);
    }
    bus__rpc_unref(r);
}

struct bus_call *bus_call_begin(struct bus *b, const struct bus_call_options *o)
{
    struct bus_call *c = xcalloc(1, sizeof *c);
    struct bus_rpc *r = bus__rpc_take_slot(b);
    r->entry = bus__find_method(b, slice_str(o->path));
    if (r->entry->inward) {
        r->entry = b->no_method; /* calls between hosts come over the network alone */
    }
    c->rpc = r;
    c->bounds = (struct bus_queue){
        .budget = b,
        .bytes_max = BUS_RPC_QUEUE_BYTES,
        .share = r->entry->m.shared_bytes > 0 ? &r->entry->share : NULL,
    };
    c->wake = o->wake;
    c->released = o->released;
    c->ctx = o->ctx;
    c->stays_open = o->stays_open;
    c->header_count = o->header_count;
    c->message_count = o->message_count;
    c->headers = xcalloc(o->header_count + 1, sizeof *c->headers);
    for (size_t i = 0; i < o->header_count; i++) {
        c->headers[i].name = o->headers[i].name;
        c->headers[i].value = slice_str(text_of(o->headers[i].value));
    }
    c->messages = xcalloc(o->message_count + 1, sizeof *c->messages);
    for (size_t i = 0; i < o->message_count; i++) {
        c->messages[i] = bufslice_keep((struct bufslice){NULL, o->messages[i]});
    }
    pthread_mutex_init(&c->mutex, NULL);
    c->arrive.fn = arrive;
    r->local = c;
    r->peer = gpr_strdup(o->peer);
    r->deadline = bus__deadline(0);
    atomic_fetch_add(&r->refs, 2); /* of the task, and of the door; the first is for the finish */
    bus__loop_post(&b->loop, &c->arrive);
    return c;
}

static void drain(struct bus_task *task)
{
    struct bus_call *c = CONTAINER_OF(task, struct bus_call, drain);
    struct bus_rpc *r = c->rpc;
    pthread_mutex_lock(&c->mutex);
    c->draining = false;
    pthread_mutex_unlock(&c->mutex);
    bus__rpc_drained(r);
    bus__rpc_unref(r);
}

enum bus_call_state bus_call_take(struct bus_call *c, struct bufslice *ret)
{
    enum bus_call_state state = BUS_CALL_WAITS;
    bool drained = false;
    pthread_mutex_lock(&c->mutex);
    if (c->count > 0) {
        *ret = c->queue[c->first];
        c->first = (c->first + 1) % c->capacity;
        c->count--;
        c->bytes -= ret->bytes.size;
        bus__queue_charge(&c->bounds, c->bytes);
        drained = c->full && !c->draining && bus__queue_has_drained(&c->bounds, c->bytes);
        c->draining |= drained;
        c->full &= !drained;
        state = BUS_CALL_MESSAGE;
    } else if (c->ended) {
        state = BUS_CALL_ENDED;
    } else if (c->begun) {
        state = BUS_CALL_BEGUN;
    }
    pthread_mutex_unlock(&c->mutex);
    if (drained) {
        c->drain.fn = drain;
        atomic_fetch_add(&c->rpc->refs, 1);
        bus__loop_post(&c->rpc->bus->loop, &c->drain);
    }
    return state;
}

const struct thole_status *bus_call_status(const struct bus_call *c, struct slice *ret_details)
{
    *ret_details =
        c->details != NULL ? slice_of(c->details->data, c->details->size) : (struct slice){0};
    return &c->st;
}

static void cancel(struct bus_task *task)
{
    struct bus_call *c = CONTAINER_OF(task, struct bus_call, cancel);
    struct bus_rpc *r = c->rpc;
    if (!atomic_load(&r->finished)) {
        bus__rpc_cancelled(r);
    }
    bus__rpc_unref(r);
}

static void queue_clear(struct bus_call *c)
{
    while (c->count > 0) {
        bufslice_unref(c->queue[c->first]);
        c->first = (c->first + 1) % c->capacity;
        c->count--;
    }
    c->bytes = 0;
    bus__queue_charge(&c->bounds, c->bytes);
}

void bus_call_release(struct bus_call *c)
{
    struct bus_rpc *r = c->rpc;
    pthread_mutex_lock(&c->mutex);
    c->let_go = true;
    queue_clear(c);
    bool ended = c->ended;
    pthread_mutex_unlock(&c->mutex);
    if (ended) {
        bus__rpc_unref(r);
    } else {
        c->cancel.fn = cancel; /* takes the door's reference */
        bus__loop_post(&r->bus->loop, &c->cancel);
    }
}

/* ---- What the bus calls ---------------------------------------------------------------------- */

/* With the mutex held, which it gives back. */
static void unlock_and_wake(struct bus_call *c)
{
    bool wake = !c->let_go;
    pthread_mutex_unlock(&c->mutex);
    if (wake) {
        c->wake(c->ctx);
    }
}

/* With the mutex held. */
static void put(struct bus_call *c, struct bufslice message)
{
    if (c->let_go) {
        bufslice_unref(message);
        return;
    }
    if (c->count == c->capacity) {
        size_t capacity = c->capacity * 2 + 4;
        struct bufslice *queue = xcalloc(capacity, sizeof *queue);
        for (size_t i = 0; i < c->count; i++) {
            queue[i] = c->queue[(c->first + i) % c->capacity];
        }
        free(c->queue);
        c->queue = queue;
        c->first = 0;
        c->capacity = capacity;
    }
    c->queue[(c->first + c->count++) % c->capacity] = bus__own(message);
    c->bytes += message.bytes.size;
    bus__queue_charge(&c->bounds, c->bytes);
}

bool bus__local_send(struct bus_call *c, struct bufslice message)
{
    pthread_mutex_lock(&c->mutex);
    bool room = c->ended || c->let_go ||
                !bus__queue_is_full(&c->bounds, c->bytes, 0, c->count > 0, message.bytes.size);
    if (!room || c->ended) {
        c->full |= !room;
        pthread_mutex_unlock(&c->mutex);
        bufslice_unref(message);
        return room;
    }
    put(c, message);
    unlock_and_wake(c);
    return true;
}

bool bus__local_flushed(struct bus_call *c)
{
    pthread_mutex_lock(&c->mutex);
    bool flushed = c->count == 0;
    pthread_mutex_unlock(&c->mutex);
    return flushed;
}

void bus__local_begun(struct bus_call *c)
{
    pthread_mutex_lock(&c->mutex);
    c->begun = true;
    unlock_and_wake(c);
}

void bus__local_end(struct bus_call *c, const struct thole_status *st, grpc_slice details,
                    struct bufslice message)
{
    pthread_mutex_lock(&c->mutex);
    bool first = !c->ended;
    if (first && (message.bytes.data != NULL || (st == NULL && bus__rpc_is_unary(c->rpc)))) {
        put(c, message);
    } else {
        bufslice_unref(message);
    }
    if (first) {
        c->ended = true;
        if (st != NULL) {
            c->st = *st;
            c->details = buf_copy(GRPC_SLICE_START_PTR(details), GRPC_SLICE_LENGTH(details));
        }
    }
    unlock_and_wake(c);
    grpc_slice_unref(details);
}

void bus__local_deliver(struct bus_call *c)
{
    for (size_t i = 0; i < c->message_count; i++) {
        bus__rpc_message(c->rpc, c->messages[i]);
    }
    if (!c->stays_open) {
        bus__rpc_half_closed(c->rpc);
    }
}

struct slice bus__local_request(const struct bus_call *c)
{
    return c->message_count > 0 ? c->messages[0].bytes : (struct slice){0};
}

struct slice bus__local_header(const struct bus_call *c, const char *name)
{
    for (size_t i = 0; i < c->header_count; i++) {
        if (strcmp(c->headers[i].name, name) == 0) {
            return c->headers[i].value;
        }
    }
    return (struct slice){0};
}

void bus__local_free(struct bus_call *c)
{
    queue_clear(c);
    free(c->queue);
    for (size_t i = 0; i < c->message_count; i++) {
        bufslice_unref(c->messages[i]);
    }
    free(c->messages);
    for (size_t i = 0; i < c->header_count; i++) {
        free((void *)(uintptr_t)c->headers[i].value.data);
    }
    free(c->headers);
    buf_unref(c->details);
    c->released(c->ctx);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}
