/* Calls of clients to the server's methods: slots that wait for a call, the unary path (one batch
 * per call), and streams around a pipe.
 *
 *   slot:  pool -> armed -> arrived -> handled -> finished -> pool
 *
 * References of a call: one for the required finish, one per tag that gRPC holds, one for the pipe.
 *
 * When the bus stops, it answers the unary calls that their owners have not finished. The owners
 * must still finish them, which then only releases the reference. */
#include <grpc/support/alloc.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"

/* When slots are wanted, an answer that was not read for so long gives its slot back. */
#define UNREAD_NS (2 * NS_PER_S)
#define UNREAD_LOOK_NS (NS_PER_S / 10)

static METRIC_DEFINE_COUNTER(metric_calls, "thole_rpc_calls_total",
                             "Calls of clients that started");
static METRIC_DEFINE_COUNTER(metric_refused, "thole_rpc_refused_total",
                             "Calls refused because too many were running");
static METRIC_DEFINE_COUNTER(metric_unread, "thole_rpc_unread_total",
                             "Answers not read for two seconds, cancelled because all slots were "
                             "taken");
static METRIC_DEFINE_HISTOGRAM_NS(metric_latency, "thole_rpc_unary_seconds",
                                  "From the arrival of a unary call to its answer");

static void arrived(struct bus_tag *tag, bool ok);
static void sent(struct bus_tag *tag, bool ok);
static void closed(struct bus_tag *tag, bool ok);

static _Atomic uint32_t *active_of(const struct bus_rpc *r)
{
    return bus__rpc_is_unary(r) && !r->entry->inward ? &r->bus->unary_active
                                                     : &r->bus->streams_active;
}

static void ref(struct bus_rpc *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
}

/* ---- Slots ----------------------------------------------------------------------------------- */

static struct bus_rpc *slot_get(struct bus *b)
{
    pthread_mutex_lock(&b->pool_mutex);
    struct bus_rpc *r = b->pool;
    if (r != NULL) {
        b->pool = r->next_free;
    }
    pthread_mutex_unlock(&b->pool_mutex);
    if (r != NULL) {
        return r;
    }
    r = xcalloc(1, sizeof *r);
    r->bus = b;
    r->arrived = bus_tag_of(arrived);
    r->sent = bus_tag_of(sent);
    r->closed = bus_tag_of(closed);
    r->reply = grpc_raw_byte_buffer_create(NULL, 0);
    grpc_metadata_array_init(&r->metadata);
    grpc_call_details_init(&r->details);
    pthread_mutex_init(&r->mutex, NULL);
    pthread_mutex_lock(&b->pool_mutex);
    r->next_slot = b->slots;
    b->slots = r;
    pthread_mutex_unlock(&b->pool_mutex);
    return r;
}

/* The bus's mutex is held. */
static void streams_remove(struct bus_rpc *r)
{
    if (r->prev_stream == NULL) {
        return;
    }
    *r->prev_stream = r->next_stream;
    if (r->next_stream != NULL) {
        r->next_stream->prev_stream = r->prev_stream;
    }
    r->prev_stream = NULL;
}

static void streams_add(struct bus_rpc *r)
{
    struct bus *b = r->bus;
    pthread_mutex_lock(&b->mutex);
    r->next_stream = b->streams;
    r->prev_stream = &b->streams;
    if (r->next_stream != NULL) {
        r->next_stream->prev_stream = &r->next_stream;
    }
    b->streams = r;
    pthread_mutex_unlock(&b->mutex);
}

/* Release all resources of the call. */
static void slot_clear(struct bus_rpc *r)
{
    bus__charge(r->bus, &r->held, 0);
    if (r->counted) {
        uint32_t before = atomic_fetch_sub_explicit(active_of(r), 1, memory_order_relaxed);
        ASSERT(before > 0);
    }
    if (r->data_free != NULL && r->data != NULL) {
        r->data_free(r->data);
    }
    if ((r->pipe != NULL || r->local != NULL) && !r->entry->inward) {
        pthread_mutex_lock(&r->bus->mutex);
        streams_remove(r);
        pthread_mutex_unlock(&r->bus->mutex);
    }
    bus__pipe_unref(r->pipe);
    if (r->call != NULL) {
        grpc_call_unref(r->call);
    }
    if (r->payload != NULL) {
        grpc_byte_buffer_destroy(r->payload);
    }
    buf_unref(r->request);
    grpc_slice_buffer_reset_and_unref(&r->reply->data.raw.slice_buffer);
    grpc_call_details_destroy(&r->details);
    grpc_call_details_init(&r->details);
    r->metadata.count = 0;
    if (r->local != NULL) {
        bus__local_free(r->local);
        r->local = NULL;
    }
    bus__rpc_forget_caller(r);
    r->data = NULL;
    r->data_free = NULL;
    r->pipe = NULL;
    r->call = NULL;
    r->payload = NULL;
    r->request = NULL;
    r->on_cancel = r->on_drained = NULL;
    r->cancelled = r->listening = r->counted = r->handled = r->open = false;
    r->cancelled_flag = 0;
    atomic_store_explicit(&r->answered, false, memory_order_relaxed);
    atomic_store_explicit(&r->answered_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&r->finished, false, memory_order_relaxed);
}

void bus__rpc_unref(struct bus_rpc *r)
{
    if (!bus__drop(&r->refs)) {
        return;
    }
    struct bus *b = r->bus;
    slot_clear(r);
    pthread_mutex_lock(&b->pool_mutex);
    r->next_free = b->pool;
    b->pool = r;
    pthread_mutex_unlock(&b->pool_mutex);
    bus__unref(b);
}

void bus__rpc_free_all(struct bus *b)
{
    for (struct bus_rpc *r = b->slots, *next; r != NULL; r = next) {
        next = r->next_slot;
        grpc_byte_buffer_destroy(r->reply);
        grpc_metadata_array_destroy(&r->metadata);
        grpc_call_details_destroy(&r->details);
        pthread_mutex_destroy(&r->mutex);
        free(r);
    }
    b->pool = b->slots = NULL;
}

struct bus_rpc *bus__rpc_take_slot(struct bus *b)
{
    struct bus_rpc *r = slot_get(b);
    bus__ref(b);
    atomic_store_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void bus__rpc_arm(struct bus *b)
{
    grpc_completion_queue *cq = b->loop.cq;
    if (atomic_load_explicit(&b->stopping, memory_order_relaxed)) {
        return; /* stopping: no new call is admitted, and the queue may be shut down */
    }
    struct bus_rpc *r = bus__rpc_take_slot(b);
    bus__tag_release(&r->arrived);
    grpc_call_error error = grpc_server_request_call(b->server, &r->call, &r->details, &r->metadata,
                                                     cq, cq, &r->arrived);
    ASSERT(error == GRPC_CALL_OK);
}

/* ---- The unary path -------------------------------------------------------------------------- */

/* Takes a reference over. */
void bus__rpc_answer(struct bus_rpc *r, const struct thole_status *st, grpc_slice details,
                     struct bufslice message)
{
    struct bus_loop *loop = &r->bus->loop;
    grpc_op ops[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}};
    grpc_metadata trailer;
    grpc_slice text = grpc_empty_slice();
    size_t n = 1;
    if (r->local != NULL) {
        if (!atomic_exchange(&r->answered, true) && bus__rpc_is_unary(r)) {
            metric_record(&metric_latency, clock_now(r->bus->clock) - r->started_ns);
        }
        bus__local_end(r->local, st, details, message);
        bus__rpc_unref(r);
        return;
    }
    /* The bus has answered already, or was stopped, and nobody waits for the answer. */
    if (atomic_exchange(&r->answered, true) || !bus__loop_enter(loop)) {
        grpc_slice_unref(details);
        bufslice_unref(message);
        bus__rpc_unref(r);
        return;
    }
    grpc_slice_buffer_add(&r->reply->data.raw.slice_buffer, bus__slice_of(message));
    if (st == NULL) {
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = r->reply;
    }
    ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    if (st != NULL) {
        text = grpc_slice_from_copied_string(st->message);
        trailer = (grpc_metadata){.key = bus__details_key(), .value = details};
        ops[n].data.send_status_from_server.status = (grpc_status_code)st->code;
        ops[n].data.send_status_from_server.status_details = &text;
        ops[n].data.send_status_from_server.trailing_metadata_count = 1;
        ops[n].data.send_status_from_server.trailing_metadata = &trailer;
    }
    n++;
    if (!r->listening) {
        ops[n].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
        ops[n++].data.recv_close_on_server.cancelled = &r->cancelled_flag;
    }
    uint64_t now_ns = clock_now(r->bus->clock);
    if (!r->entry->inward) {
        metric_record(&metric_latency, now_ns - r->started_ns);
    }
    atomic_store_explicit(&r->answered_ns, now_ns, memory_order_relaxed);
    /* The tag takes the reference. */
    bus__start(r->call, ops, n, &r->sent);
    grpc_slice_unref(text);
    grpc_slice_unref(details);
}

static void sent(struct bus_tag *tag, bool ok)
{
    struct bus_rpc *r = CONTAINER_OF(tag, struct bus_rpc, sent);
    struct bus_loop *loop = &r->bus->loop;
    (void)ok;
    bus__rpc_unref(r);
    bus__loop_live(loop, -1);
}

static void run_cancel(struct bus_rpc *r)
{
    pthread_mutex_lock(&r->mutex);
    void (*fn)(void *) = r->on_cancel;
    void *ctx = r->on_cancel_ctx;
    r->on_cancel = NULL;
    r->cancelled = true;
    pthread_mutex_unlock(&r->mutex);
    if (fn != NULL && !atomic_load(&r->finished)) {
        fn(ctx);
    }
}

static void closed(struct bus_tag *tag, bool ok)
{
    struct bus_rpc *r = CONTAINER_OF(tag, struct bus_rpc, closed);
    struct bus_loop *loop = &r->bus->loop;
    (void)ok;
    if (r->cancelled_flag) {
        run_cancel(r);
    }
    bus__rpc_unref(r);
    bus__loop_live(loop, -1);
}

/* A unary call is notified of its cancellation only by a batch that waits for it. */
void bus__rpc_listen(struct bus_rpc *r)
{
    if (!bus__loop_enter(&r->bus->loop)) {
        return;
    }
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &r->cancelled_flag;
    ref(r);
    bus__start(r->call, &op, 1, &r->closed);
}

/* ---- Arrival --------------------------------------------------------------------------------- */

void bus__rpc_message(struct bus_rpc *r, struct bufslice message)
{
    if (r->entry->m.kind != BUS_RPC_BIDI_STREAM || atomic_load(&r->finished)) {
        return;
    }
    r->handled = true;
    if (r->entry->handle_buf != NULL) {
        r->entry->handle_buf(r->entry->m.ctx, r, message);
    } else {
        r->entry->m.handle(r->entry->m.ctx, r, message.bytes);
    }
}

void bus__rpc_half_closed(struct bus_rpc *r)
{
    if (r->entry->m.kind != BUS_RPC_BIDI_STREAM || atomic_load(&r->finished)) {
        return;
    }
    if (r->entry->m.end != NULL) {
        r->handled = true;
        r->entry->m.end(r->entry->m.ctx, r);
    } else if (!r->handled) {
        bus_rpc_reply(r, (struct bufslice){0});
    }
}

void bus__rpc_cancelled(struct bus_rpc *r)
{
    /* A handler that was never called cannot finish the call. */
    bool ours = r->entry->m.kind == BUS_RPC_BIDI_STREAM && (!r->handled || r->entry->ends_itself);
    run_cancel(r);
    if (!r->handled && r->entry->m.kind == BUS_RPC_BIDI_STREAM && r->call != NULL) {
        bus__accept_wasted(r->bus->acceptor, r->call);
    }
    if (ours && !atomic_load(&r->finished)) {
        bus_rpc_reply(r, (struct bufslice){0});
    }
}

void bus__rpc_drained(struct bus_rpc *r)
{
    pthread_mutex_lock(&r->mutex);
    void (*fn)(void *) = r->on_drained;
    void *fn_ctx = r->on_drained_ctx;
    pthread_mutex_unlock(&r->mutex);
    if (fn != NULL && !atomic_load(&r->finished)) {
        fn(fn_ctx);
    }
}

static void stream_message(void *ctx, struct bufslice message)
{
    bus__rpc_message(ctx, message);
}

static void stream_half_closed(void *ctx)
{
    bus__rpc_half_closed(ctx);
}

static void stream_cancelled(void *ctx)
{
    bus__rpc_cancelled(ctx);
}

static void stream_drained(void *ctx)
{
    bus__rpc_drained(ctx);
}

static void stream_closed(void *ctx, const struct thole_status *st)
{
    (void)st;
    bus__rpc_unref(ctx);
}

static const struct bus_pipe_events stream_events = {
    .message = stream_message,
    .half_closed = stream_half_closed,
    .cancelled = stream_cancelled,
    .drained = stream_drained,
    .closed = stream_closed,
};

static void begin_stream(struct bus_rpc *r)
{
    if (r->local != NULL) {
        streams_add(r);
        return;
    }
    const struct bus_pipe_options o = {
        .loop = &r->bus->loop,
        .budget = r->bus,
        .call = r->call,
        .server = true,
        .join = r->entry->join,
        .queue_bytes = r->entry->inward ? r->bus->o.peer_queue_bytes : BUS_RPC_QUEUE_BYTES,
        .share = r->entry->m.shared_bytes > 0 ? &r->entry->share : NULL,
        .events = &stream_events,
        .ctx = r,
    };
    grpc_call_ref(r->call); /* the slot's own */
    r->pipe = bus__pipe_new(&o);
    ref(r);
    if (!r->entry->inward) {
        streams_add(r);
    }
    bus__pipe_start(r->pipe, (struct bufslice){0});
}

void bus__rpc_end_stream(struct bus_rpc *r, const struct bus_denial *d)
{
    const char *metadata[] = {"right", d->right, NULL};
    grpc_slice details = bus__details_encode(&d->st, 0, d->right[0] != '\0' ? metadata : NULL);
    r->denied = true;
    if (r->local != NULL) {
        bus__local_end(r->local, &d->st, details, (struct bufslice){0});
    } else {
        bus__pipe_finish(r->pipe, d->st.code, d->st.message, details);
    }
    bus__rpc_cancelled(r);
}

void bus__rpc_end(struct bus_rpc *r, const struct thole_status *st)
{
    const struct bus_denial d = {.st = *st, .right = ""};
    bus__rpc_end_stream(r, &d);
}

static void end_stream(struct bus_task *task)
{
    struct bus_rpc *r = CONTAINER_OF(task, struct bus_rpc, end_task);
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
    bus__rpc_end(r, &st);
    bus__rpc_unref(r);
}

void bus__rpc_end_streams(struct bus *b)
{
    pthread_mutex_lock(&b->mutex);
    for (struct bus_rpc *r; (r = b->streams) != NULL;) {
        streams_remove(r);
        ref(r);
        r->end_task.fn = end_stream;
        bus__loop_post(&b->loop, &r->end_task);
    }
    pthread_mutex_unlock(&b->mutex);
}

/* ---- When the bus stops ---------------------------------------------------------------------- */

/* Slots are armed, and calls arrive, only on this thread: a referenced call does not change state
 * meanwhile. */
bool bus__rpc_ref_if_used(struct bus_rpc *r)
{
    uint32_t refs = atomic_load_explicit(&r->refs, memory_order_acquire);
    while (refs > 0 && !atomic_compare_exchange_weak(&r->refs, &refs, refs + 1)) {
    }
    return refs > 0;
}

static bool ref_if_open(struct bus_rpc *r)
{
    if (!bus__rpc_ref_if_used(r)) {
        return false;
    }
    if (r->open && r->pipe == NULL && !atomic_load(&r->answered)) {
        return true;
    }
    bus__rpc_unref(r);
    return false;
}

static void end_unary(struct bus_rpc *r)
{
    struct thole_status st;
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                     "the host is stopping");
    run_cancel(r); /* before `listening` is read: afterwards nobody starts to listen */
    bus__rpc_answer(r, &st, bus__details_encode(&st, 0, NULL), (struct bufslice){0});
}

static void end_unaries(struct bus_task *task)
{
    struct bus *b = CONTAINER_OF(task, struct bus, end_task);
    pthread_mutex_lock(&b->pool_mutex);
    struct bus_rpc *all = b->slots;
    pthread_mutex_unlock(&b->pool_mutex);
    for (struct bus_rpc *r = all; r != NULL; r = r->next_slot) {
        if (ref_if_open(r)) {
            end_unary(r);
        }
    }
}

void bus__rpc_end_unaries(struct bus *b)
{
    b->end_task.fn = end_unaries;
    bus__loop_post(&b->loop, &b->end_task);
}

/* ---- Arriving -------------------------------------------------------------------------------- */

static bool too_many(struct bus_rpc *r)
{
    _Atomic uint32_t *active = active_of(r);
    uint32_t max = r->bus->o.unary_slots;
    if (active == &r->bus->streams_active) {
        max = r->bus->o.streams_max - (r->entry->inward ? 0 : r->bus->o.streams_max / 5);
    }
    r->counted = true;
    return atomic_fetch_add_explicit(active, 1, memory_order_relaxed) >= max;
}

/* Callers that do not read their answers must not keep all others out. */
static void end_unread(struct bus *b)
{
    uint64_t now_ns = clock_now(b->clock);
    if (now_ns - b->unread_ended_ns < UNREAD_LOOK_NS) {
        return;
    }
    b->unread_ended_ns = now_ns;
    pthread_mutex_lock(&b->pool_mutex);
    struct bus_rpc *all = b->slots;
    pthread_mutex_unlock(&b->pool_mutex);
    for (struct bus_rpc *r = all; r != NULL; r = r->next_slot) {
        if (!bus__rpc_ref_if_used(r)) {
            continue;
        }
        uint64_t answered_ns = atomic_load_explicit(&r->answered_ns, memory_order_relaxed);
        if (r->open && r->pipe == NULL && r->call != NULL && answered_ns > 0 &&
            now_ns > answered_ns + UNREAD_NS) {
            metric_add(&metric_unread, 1);
            grpc_call_cancel(r->call, NULL);
        }
        bus__rpc_unref(r);
    }
}

/* The messages of a BIDI call may come; those of a local one are there. */
static void receive(struct bus_rpc *r)
{
    if (r->local != NULL) {
        bus__local_deliver(r->local);
    } else {
        bus__pipe_headers(r->pipe);
    }
}

/* Tells the client that its watch is established. */
static void announce(struct bus_rpc *r)
{
    if (r->local != NULL) {
        bus__local_begun(r->local);
    } else {
        bus__pipe_headers(r->pipe);
    }
}

void bus__rpc_handle(struct bus_rpc *r)
{
    struct bus_entry *e = r->entry;
    struct thole_status st;
    if (r->local == NULL && bus__tls_identify(r->bus->o.tls, r->call, CERTIFICATE_CLIENT,
                                              &r->certificate, &st) != THOLE_OK) {
        if (bus__log_allowed(r->bus)) {
            LOG_WARN(BUS, "refused a caller's certificate address=%s why=\"%s\"", bus_rpc_peer(r),
                     st.message);
        }
        bus_rpc_fail(r, &st, 0, NULL);
        return;
    }
    if (e == r->bus->no_method) {
        thole_status_set(&st, THOLE_UNIMPLEMENTED, THOLE_REASON_NONE, __FILE__, __LINE__,
                         "there is no such method");
        bus_rpc_fail(r, &st, 0, NULL);
        return;
    }
    if (too_many(r)) {
        metric_add(&metric_refused, 1);
        end_unread(r->bus);
        thole_status_set(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL, __FILE__, __LINE__,
                         "too many calls are running; retry after a pause");
        bus_rpc_fail(r, &st, 100, NULL);
        return;
    }
    if (!bus__rpc_admit(r)) {
        return;
    }
    if (!bus__rpc_is_unary(r)) {
        begin_stream(r);
        bus__rpc_watch_streams(r->bus);
    }
    ref(r);
    if (e->m.kind == BUS_RPC_BIDI_STREAM) {
        receive(r);
    } else if (r->payload == NULL && r->local == NULL) {
        thole_status_set(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __FILE__, __LINE__,
                         "the call carries no request message");
        bus_rpc_fail(r, &st, 0, NULL);
    } else {
        e->m.handle(e->m.ctx, r, bus__rpc_request(r));
        if (e->m.kind == BUS_RPC_SERVER_STREAM) {
            announce(r);
        }
    }
    bus__rpc_unref(r);
}

void bus__rpc_begin(struct bus_rpc *r)
{
    r->open = true;
    r->started_ns = clock_now(r->bus->clock);
    if (!r->entry->inward) {
        metric_add(&metric_calls, 1);
    }
}

static void arrived(struct bus_tag *tag, bool ok)
{
    struct bus_rpc *r = CONTAINER_OF(tag, struct bus_rpc, arrived);
    if (!ok) {
        bus__rpc_unref(r);
        return;
    }
    struct bus *b = r->bus;
    bus__rpc_arm(b);
    r->entry = bus__find_method(
        b, slice_of(GRPC_SLICE_START_PTR(r->details.method), GRPC_SLICE_LENGTH(r->details.method)));
    r->deadline = r->details.deadline;
    bus__rpc_begin(r);
    /* The tag's reference becomes that of the finish. */
    if (r->entry != b->no_method && r->entry->m.kind != BUS_RPC_BIDI_STREAM) {
        bus__rpc_await_request(r);
        return;
    }
    if (r->entry == b->no_method) {
        bus__accept_wasted(b->acceptor, r->call);
    } else {
        bus__accept_delivered(b->acceptor, r->call, 0);
    }
    bus__rpc_handle(r);
}
