/* Requests from other hosts and clients, by Exchange or Ask, and of this process to itself; and
 * their answers.
 *
 * References of a request: one for the answer that must come, one for the table of its stream (or
 * for the exchange, if it is this process's own), and short-lived ones while its cancellation is
 * delivered. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"

#define OPEN_BYTES_MAX (64 * MIB) /* bodies of the open requests of one stream */

static METRIC_DEFINE_COUNTER(metric_requests, "thole_bus_requests_total",
                             "Requests received from other hosts and clients of the library");
static METRIC_DEFINE_COUNTER(metric_refused, "thole_bus_requests_refused_total",
                             "Requests refused because too many were open on their stream");

static METRIC_DEFINE_COUNTER(
    metric_dropped, "thole_bus_dropped_answers_total",
    "Answers replaced by a failure because too many answers waited to be read");

#define BODY_BYTES_COPIED 88
/* A stream with fewer unread bytes is never ended for lack of memory. A stream of another host may
 * have more, because it has more in flight. */
#define UNREAD_BYTES_MIN (256 * KIB)
#define UNREAD_BYTES_MIN_HOST (8 * MIB)
#define REQUEST_BYTES 512 /* memory of an open request without its body */

/* A received message, kept while one of its requests is open. It counts as a whole. */
struct bus_hold {
    struct bus *bus;
    _Atomic uint32_t refs;
    struct buf *message;
    size_t charged;
};

struct bus_request {
    struct bus *bus;        /* a reference, unless `in` has one for all its requests */
    struct bus_inbound *in; /* Exchange */
    struct bus_rpc *rpc;    /* Ask; neither: this process */
    _Atomic uint32_t refs;
    uint64_t id;
    uint32_t method;
    struct bufslice body;
    struct bus_hold
        *hold; /* of the message that contains the body; NULL: the body is copied, or has its own */
    uint64_t deadline_ns;
    struct uuid from;
    _Atomic bool answered;
    void *data;
    void (*data_free)(void *data);
    pthread_mutex_t mutex; /* below */
    void (*on_cancel)(void *ctx);
    void *on_cancel_ctx;
    bool cancelled;
    bool told; /* under in->mutex: its cancellation is being or was delivered */
    struct bus_task task;
    /* A small body: counting references to its message on several threads costs more. */
    uint8_t copied[BODY_BYTES_COPIED];
};

size_t bus__request_bytes(void)
{
    return sizeof(struct bus_request);
}

static struct bus_request *request_new(struct bus *b, uint64_t id, uint32_t method,
                                       struct bufslice body, uint32_t refs)
{
    struct bus_request *r = pool_take(&b->requests);
    memset(r, 0, offsetof(struct bus_request, copied));
    r->bus = b;
    r->id = id;
    r->method = method;
    r->body = body;
    r->deadline_ns = CLOCK_NEVER;
    atomic_init(&r->refs, refs);
    pthread_mutex_init(&r->mutex, NULL);
    return r;
}

static struct bus_hold *hold_new(struct bus *b, struct buf *message)
{
    struct bus_hold *h = xcalloc(1, sizeof *h);
    h->bus = b;
    h->message = buf_ref(message);
    atomic_init(&h->refs, 1);
    bus__charge(b, &h->charged, message->size);
    return h;
}

static void hold_unref(struct bus_hold *h)
{
    if (h == NULL || !bus__drop(&h->refs)) {
        return;
    }
    bus__charge(h->bus, &h->charged, 0);
    buf_unref(h->message);
    free(h);
}

static void ref(struct bus_request *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
}

void bus__request_unref(struct bus_request *r)
{
    if (!bus__drop(&r->refs)) {
        return;
    }
    struct bus *b = r->bus;
    if (r->data_free != NULL && r->data != NULL) {
        r->data_free(r->data);
    }
    bufslice_unref(r->body);
    hold_unref(r->hold);
    struct bus_inbound *in = r->in;
    pthread_mutex_destroy(&r->mutex);
    pool_give(&b->requests, r);
    if (in == NULL) {
        bus__unref(b);
    } else {
        bus__inbound_unref(in);
    }
}

void bus__request_cancel(struct bus_request *r)
{
    pthread_mutex_lock(&r->mutex);
    void (*fn)(void *) = r->on_cancel;
    void *ctx = r->on_cancel_ctx;
    r->on_cancel = NULL;
    r->cancelled = true;
    pthread_mutex_unlock(&r->mutex);
    if (fn != NULL && !atomic_load(&r->answered)) {
        fn(ctx);
    }
}

void bus__request_cancel_all(struct bus_inbound *in)
{
    size_t it = 0, n = 0;
    struct bus_request *r;
    pthread_mutex_lock(&in->mutex);
    struct bus_request **all = xcalloc(in->requests.count + 1, sizeof(struct bus_request *));
    while ((r = map_next(&in->requests, &it, NULL)) != NULL) {
        if (!r->told) {
            r->told = true;
            ref(r);
            all[n++] = r;
        }
    }
    pthread_mutex_unlock(&in->mutex);
    for (size_t i = 0; i < n; i++) {
        bus__request_cancel(all[i]);
        bus__request_unref(all[i]);
    }
    free(all);
}

static void deliver(struct bus_request *r)
{
    struct bus *b = r->bus;
    struct thole_status st;
    if (b->o.handler.request != NULL) {
        b->o.handler.request(b->o.handler.ctx, r);
        return;
    }
    thole_status_set(&st, THOLE_UNIMPLEMENTED, THOLE_REASON_NONE, __FILE__, __LINE__,
                     "this process does not answer requests");
    bus_answer_failure(r, &st);
}

/* ---- Exchange -------------------------------------------------------------------------------- */

/* Failures and small answers are never refused for lack of memory. A caller that sends requests of
 * 7 bytes and does not read failures of 100 bytes could thus use memory without bound. Its stream
 * is ended when the memory for callers is used up. */
static void end_unread(struct bus_inbound *in)
{
    if (bus__has_room(in->bus, UNREAD_BYTES_MIN)) {
        return;
    }
    size_t min = uuid_is_nil(&in->hello.host) ? UNREAD_BYTES_MIN : UNREAD_BYTES_MIN_HOST;
    size_t queued = bus__pipe_queued(in->pipe);
    if (queued <= min || atomic_exchange(&in->unread, true)) {
        return;
    }
    if (bus__log_allowed(in->bus)) {
        LOG_WARN(BUS, "ending stream: answers are not read peer=%s unread_bytes=%zu",
                 bus_rpc_peer(in->rpc), queued);
    }
    bus__pipe_abort(in->pipe, THOLE_RESOURCE_EXHAUSTED,
                    "the answers of this stream are not read, and the host's memory for callers "
                    "is used up");
}

static void put_failure(struct bus_inbound *in, uint64_t id, const struct thole_status *st)
{
    end_unread(in);
    bus__pipe_put(in->pipe, (struct slice){0}, bus__item_failure(id, st), true, NULL);
}

static void refuse(struct bus_inbound *in, uint64_t id, enum thole_code code,
                   enum thole_reason reason, const char *why)
{
    struct thole_status st;
    thole_status_set(&st, code, reason, __FILE__, __LINE__, "%s", why);
    put_failure(in, id, &st);
}

static void on_cancel_item(struct bus_inbound *in, uint64_t id)
{
    pthread_mutex_lock(&in->mutex);
    struct bus_request *r = map_get(&in->requests, id);
    if (r != NULL && r->told) {
        r = NULL;
    }
    if (r != NULL) {
        r->told = true;
        ref(r);
    }
    pthread_mutex_unlock(&in->mutex);
    if (r == NULL) {
        return;
    }
    bus__request_cancel(r);
    bus__request_unref(r);
}

struct arrival {
    struct bus_inbound *in;
    struct buf *owner;
    struct bus_hold *hold; /* created when a request needs it */
    uint64_t now_ns;
    bool room;   /* room to keep the message */
    bool ignore; /* skip the items beside a hello, or after a malformed one */
};

static void on_item(void *ctx, struct bus_item *item)
{
    struct arrival *a = ctx;
    struct bus_inbound *in = a->in;
    if (a->ignore || !in->known || atomic_load_explicit(&in->unread, memory_order_relaxed)) {
        return;
    }
    if (item->cancel) {
        on_cancel_item(in, item->id);
        return;
    }
    metric_add(&metric_requests, 1);
    struct bus_request *r = request_new(in->bus, item->id, item->method, (struct bufslice){0}, 2);
    if (item->body.size <= BODY_BYTES_COPIED) {
        if (item->body.size > 0) {
            memcpy(r->copied, item->body.data, item->body.size);
        }
        r->body.bytes = slice_of(r->copied, item->body.size);
    } else {
        if (a->hold == NULL) {
            a->hold = hold_new(in->bus, a->owner);
        }
        atomic_fetch_add_explicit(&a->hold->refs, 1, memory_order_relaxed);
        r->hold = a->hold;
        r->body.bytes = item->body;
    }
    r->in = in;
    bus__inbound_ref(in);
    r->from = in->hello.host;
    if (item->timeout_ms > 0) {
        r->deadline_ns = a->now_ns + item->timeout_ms * NS_PER_MS;
    }
    pthread_mutex_lock(&in->mutex);
    bool stopping = in->draining || in->ended;
    struct thole_status barred; /* hundreds of bytes: written only if it is needed */
    barred.code = THOLE_OK;
    if (stopping) {
        barred = in->barred;
    }
    bool twice = map_get(&in->requests, item->id) != NULL;
    bool full = in->requests.count >= BUS_EXCHANGES_MAX || !a->room ||
                in->open_bytes + item->body.size > OPEN_BYTES_MAX;
    bool take = !stopping && !twice && !full;
    if (take) {
        map_put(&in->requests, item->id, r);
        in->open_bytes += item->body.size;
        bus__charge(in->bus, &in->charged, in->requests.count * REQUEST_BYTES);
    }
    pthread_mutex_unlock(&in->mutex);
    if (take) {
        deliver(r);
        return;
    }
    bus__request_unref(r);
    bus__request_unref(r);
    if (barred.code != THOLE_OK) {
        put_failure(in, item->id, &barred);
    } else if (stopping) {
        refuse(in, item->id, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "this host is shutting down");
    } else if (full) {
        metric_add(&metric_refused, 1);
        refuse(in, item->id, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
               "too many requests are open on this stream");
    } else {
        a->ignore = true;
        bus__inbound_malformed(in, "the id of an open request is used again");
    }
}

static void on_message(void *ctx, struct bus_rpc *rpc, struct bufslice message)
{
    struct bus *b = ctx;
    struct bus_inbound *in = bus__inbound_of(b, rpc, false);
    struct arrival a = {.in = in,
                        .owner = message.owner,
                        .now_ns = clock_now(b->clock),
                        .room = bus__has_room(b, message.bytes.size),
                        .ignore = !in->known};
    struct bus_hello hello;
    bool has_hello = false;
    bool ok = bus__exchange_decode(message.bytes, &has_hello, &hello, on_item, &a);
    hold_unref(a.hold);
    if (!ok) {
        bus__inbound_malformed(in, "not an ExchangeMessage");
        return;
    }
    if (!in->known) {
        bus__inbound_greet(in, has_hello ? &hello : NULL);
    }
}

/* The caller sends no more requests: answer the open ones, then end. */
static void on_end(void *ctx, struct bus_rpc *rpc)
{
    struct bus_inbound *in = bus__inbound_of(ctx, rpc, false);
    pthread_mutex_lock(&in->mutex);
    in->draining = true;
    bool now = in->requests.count == 0;
    pthread_mutex_unlock(&in->mutex);
    if (now) {
        bus__inbound_end(in, NULL);
    }
}

/* The request was answered: it is no longer open. */
static void settle(struct bus_request *r)
{
    struct bus_inbound *in = r->in;
    pthread_mutex_lock(&in->mutex);
    map_remove(&in->requests, r->id);
    in->open_bytes -= r->body.bytes.size;
    bus__charge(in->bus, &in->charged, in->requests.count * REQUEST_BYTES);
    bool end = in->draining && in->requests.count == 0;
    struct thole_status st;
    st.code = THOLE_OK;
    if (end) {
        st = in->barred;
    }
    pthread_mutex_unlock(&in->mutex);
    if (end && st.code == THOLE_OK && atomic_load(&r->bus->stopping)) {
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "this host is shutting down");
    }
    bus__request_unref(r);
    if (end) {
        bus__inbound_end(in, st.code != THOLE_OK ? &st : NULL);
    }
}

/* ---- Ask ------------------------------------------------------------------------------------- */

static void ask_cancelled(void *ctx)
{
    bus__request_cancel(ctx);
}

static void ask_forget(void *data)
{
    bus__request_unref(data);
}

static void on_ask(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct bus *b = ctx;
    struct bus_hello hello;
    struct bus_item item = {0};
    struct thole_status st;
    if (!bus__ask_decode(message, &hello, &item)) {
        thole_status_set(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __FILE__, __LINE__,
                         "malformed message: not an AskRequest with a hello");
        bus_rpc_fail(rpc, &st, 0, NULL);
        return;
    }
    if (bus__admit(b, &hello, rpc->certificate, bus_rpc_peer(rpc), false, &st) != THOLE_OK) {
        bus_rpc_fail(rpc, &st, 0, NULL);
        return;
    }
    if (!bus_rpc_hold(rpc, NULL, message.size)) {
        thole_status_set(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL, __FILE__, __LINE__,
                         "this host's memory for callers is full; retry after a pause");
        bus_rpc_fail(rpc, &st, 0, NULL);
        return;
    }
    struct buf *body = buf_copy(item.body.data, item.body.size);
    struct bus_request *r =
        request_new(b, 0, item.method, (struct bufslice){body, {body->data, body->size}}, 2);
    bus__ref(b);
    r->rpc = rpc;
    r->from = hello.host;
    r->deadline_ns = bus_rpc_deadline_ns(rpc);
    bus_rpc_set_data(rpc, r, ask_forget);
    bus_rpc_on_cancel(rpc, ask_cancelled, r);
    deliver(r);
}

/* ---- Ourselves ------------------------------------------------------------------------------- */

static void deliver_task(struct bus_task *t)
{
    deliver(CONTAINER_OF(t, struct bus_request, task));
}

struct bus_request *bus__request_self(struct bus *b, uint64_t id, uint32_t method,
                                      struct bufslice body, uint64_t deadline_ns)
{
    struct bus_request *r = request_new(b, id, method, body, 2);
    bus__ref(b);
    r->from = b->o.host_id;
    r->deadline_ns = deadline_ns;
    r->task.fn = deliver_task;
    return r;
}

void bus__request_deliver(struct bus_request *r)
{
    bus__loop_post(&r->bus->loop, &r->task);
}

/* ---- The handler's face ---------------------------------------------------------------------- */

uint32_t bus_request_method(const struct bus_request *r)
{
    return r->method;
}

struct slice bus_request_body(const struct bus_request *r)
{
    return r->body.bytes;
}

bool bus_request_from(const struct bus_request *r, struct uuid *ret_host)
{
    if (uuid_is_nil(&r->from)) {
        return false;
    }
    *ret_host = r->from;
    return true;
}

void bus_request_identity(const struct bus_request *r, struct bus_identity *ret)
{
    const struct bus_rpc *rpc = r->in != NULL ? r->in->rpc : r->rpc;
    if (rpc != NULL) {
        bus_rpc_identity(rpc, ret);
    } else {
        *ret = (struct bus_identity){.secure = true, .name = "", .address = "here"};
    }
    if (!uuid_is_nil(&r->from)) {
        ret->kind = BUS_HOST; /* it was checked, as far as that is possible, at the hello */
        ret->host_id = r->from;
    }
}

void *bus_request_user(const struct bus_request *r)
{
    const struct bus_rpc *rpc = r->in != NULL ? r->in->rpc : r->rpc;
    return rpc != NULL ? bus_rpc_user(rpc) : NULL;
}

uint64_t bus_request_deadline_ns(const struct bus_request *r)
{
    return r->deadline_ns;
}

void bus_request_set_data(struct bus_request *r, void *data, void (*free_fn)(void *data))
{
    r->data = data;
    r->data_free = free_fn;
}

void bus_request_on_cancel(struct bus_request *r, void (*on_cancel)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&r->mutex);
    bool now = r->cancelled;
    r->on_cancel = now ? NULL : on_cancel;
    r->on_cancel_ctx = ctx;
    pthread_mutex_unlock(&r->mutex);
    if (now) {
        on_cancel(ctx);
    }
}

static void answer_ask(struct bus_request *r, struct bufslice body, const struct thole_status *st)
{
    if (st != NULL) {
        bus_rpc_fail(r->rpc, st, 0, NULL);
    } else {
        const struct bus_item item = {.body = body.bytes};
        bus_rpc_reply(r->rpc, bus__ask_encode(r->bus, &item));
    }
    bufslice_unref(body);
}

static bool answer_fits(const struct bus_request *r, size_t size)
{
    return size <= BUS_SMALL_BYTES || r->in == NULL ||
           (bus__pipe_queued(r->in->pipe) + size <= BUS_ANSWERS_BYTES_MAX &&
            bus__has_room(r->bus, size));
}

static bool too_large(const struct bus_request *r, size_t size)
{
    if (size <= LIMIT_FRAME_BYTES) {
        return false;
    }
    LOG_ERROR(BUS, "answer too large method=%u size=%zu", (unsigned)r->method, size);
    return true;
}

bool bus_answer(struct bus_request *r, struct bufslice body, bool more)
{
    if (too_large(r, body.bytes.size)) {
        bufslice_unref(body);
        if (more) {
            return false;
        }
        struct thole_status st;
        thole_status_set(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE, __FILE__, __LINE__,
                         "the answer is larger than %d bytes", LIMIT_FRAME_BYTES);
        bus_answer_failure(r, &st);
        return true;
    }
    if (!more && !answer_fits(r, body.bytes.size)) {
        struct thole_status st;
        bufslice_unref(body);
        metric_add(&metric_dropped, 1);
        thole_status_set(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_OUTCOME_UNKNOWN, __FILE__,
                         __LINE__, "the answer was dropped: too many answers wait to be read");
        bus_answer_failure(r, &st);
        return true;
    }
    if (!more) {
        bool twice = atomic_exchange(&r->answered, true);
        ASSERT(!twice);
    }
    bool fits = true;
    if (r->in != NULL) {
        struct bus_head head;
        const struct bus_item item = {.id = r->id, .more = more};
        end_unread(r->in);
        bus__item_head(&head, &item, body.bytes.size);
        fits = bus__pipe_put(r->in->pipe, (struct slice){head.data, head.size}, body, !more,
                             NULL) != BUS_PUT_FULL;
        if (!more) {
            settle(r);
        }
    } else if (r->rpc == NULL) {
        fits = bus__self_answer(r->bus, r->id, body, NULL, more);
    } else if (!more) {
        answer_ask(r, body, NULL);
    } else { /* an Ask has one answer */
        bufslice_unref(body);
        fits = false;
    }
    if (!more) {
        bus__request_unref(r);
    }
    return fits;
}

void bus_answer_failure(struct bus_request *r, const struct thole_status *st)
{
    ASSERT(st->code != THOLE_OK);
    bool twice = atomic_exchange(&r->answered, true);
    ASSERT(!twice);
    if (r->in != NULL) {
        put_failure(r->in, r->id, st);
        settle(r);
    } else if (r->rpc != NULL) {
        answer_ask(r, (struct bufslice){0}, st);
    } else {
        bus__self_answer(r->bus, r->id, (struct bufslice){0}, st, false);
    }
    bus__request_unref(r);
}

void bus__exchange_register(struct bus *b)
{
    const struct bus_method exchange = {
        .path = "/thole.bus.v1.Bus/Exchange", .kind = BUS_RPC_BIDI_STREAM, .ctx = b, .end = on_end};
    struct bus_entry *e = bus__register(b, &exchange);
    e->handle_buf = on_message;
    e->join = true;
    e->inward = true;
    const struct bus_method ask = {
        .path = "/thole.bus.v1.Bus/Ask", .kind = BUS_RPC_UNARY, .ctx = b, .handle = on_ask};
    e = bus__register(b, &ask);
    e->inward = true;
}
