/* The caller's side of exchanges: requests to a peer (or to this process), and their answers,
 * matched by id.
 *
 * Exchanges are freed only on the loop, so code on the loop may use an exchange that it found in
 * the table after releasing the lock. "Sent" means that gRPC was given the message: an exchange
 * that was not sent was certainly not handled. */
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"

static METRIC_DEFINE_COUNTER(metric_exchanges, "thole_bus_exchanges_total",
                             "Requests sent to other hosts and to this one");
static METRIC_DEFINE_COUNTER(metric_failed, "thole_bus_exchanges_failed_total",
                             "Requests that their host did not answer");
static METRIC_DEFINE_GAUGE(metric_open, "thole_bus_exchanges_open",
                           "Requests to other hosts that wait for an answer");

struct exchange {
    struct peer *peer;
    struct exchange *next; /* waiting */
    uint64_t id;
    uint64_t seq; /* number in the pipe's queue; 0: not queued */
    uint32_t method, timeout_ms;
    struct bufslice body; /* while waiting */
    struct bus_timer timer;
    struct bus_request *local; /* of a request to this process */
    bus_answer_fn done;
    void *ctx;
};

size_t bus__exchange_bytes(void)
{
    return sizeof(struct exchange);
}

/* ---- Ends that need no exchange -------------------------------------------------------------- */

struct early_end {
    struct bus_task task;
    struct thole_status st;
    bus_answer_fn done;
    void *ctx;
};

static void run_early_end(struct bus_task *t)
{
    struct early_end *e = CONTAINER_OF(t, struct early_end, task);
    metric_add(&metric_failed, 1);
    e->done(e->ctx, &e->st, (struct bufslice){0}, false);
    free(e);
}

static void end_early(struct bus *b, bus_answer_fn done, void *ctx, enum thole_code code,
                      enum thole_reason reason, const char *why)
{
    struct early_end *e = xcalloc(1, sizeof *e);
    e->task.fn = run_early_end;
    e->done = done;
    e->ctx = ctx;
    thole_status_set(&e->st, code, reason, __FILE__, __LINE__, "%s", why);
    bus__loop_post(&b->loop, &e->task);
}

/* ---- The table ------------------------------------------------------------------------------- */

/* The mutex is held. */
static bool was_sent(const struct exchange *x, struct bus_pipe *pipe)
{
    if (x->local != NULL) {
        return true;
    }
    return x->seq > 0 && pipe != NULL && bus__pipe_taken(pipe, x->seq);
}

/* The mutex is held. */
static void unwait(struct peer *p, const struct exchange *x)
{
    struct exchange **at = &p->waiting;
    while (*at != NULL && *at != x) {
        at = &(*at)->next;
    }
    if (*at == NULL) {
        return;
    }
    *at = x->next;
    if (x->next == NULL) {
        p->waiting_tail = at;
    }
    ASSERT(p->waiting_bytes >= x->body.bytes.size);
    p->waiting_bytes -= x->body.bytes.size;
}

/* Loop. The exchange was removed from the table. */
static void end(struct exchange *x, const struct thole_status *st, struct bufslice body)
{
    bus__loop_cancel(&x->peer->bus->loop, &x->timer);
    metric_add(&metric_open, -1);
    x->done(x->ctx, st, body, false);
    bufslice_unref(x->body);
    if (x->local != NULL) {
        bus__request_unref(x->local);
    }
    struct peer *p = x->peer;
    pool_give(&p->bus->exchanges, x);
    bus__peer_unref(p);
}

/* End an open exchange and cancel it at the callee. Loop. */
static void abandon(struct peer *p, uint64_t id, enum thole_code code, const char *why)
{
    pthread_mutex_lock(&p->mutex);
    struct exchange *x = map_remove(&p->exchanges, id);
    struct bus_pipe *pipe = p->links[0].pipe != NULL ? bus__pipe_ref(p->links[0].pipe) : NULL;
    bool sent = x != NULL && was_sent(x, pipe);
    if (x != NULL && x->seq == 0) {
        unwait(p, x);
    }
    pthread_mutex_unlock(&p->mutex);
    if (x != NULL && x->seq > 0 && pipe != NULL) {
        struct bus_head head;
        const struct bus_item item = {.id = id, .cancel = true};
        bus__item_head(&head, &item, 0);
        bus__pipe_put(pipe, (struct slice){head.data, head.size}, (struct bufslice){0}, true, NULL);
    }
    if (pipe != NULL) {
        bus__pipe_unref(pipe);
    }
    if (x == NULL) {
        return;
    }
    if (x->local != NULL) {
        bus__request_cancel(x->local);
    }
    struct thole_status st;
    thole_status_set(&st, code, sent ? THOLE_REASON_OUTCOME_UNKNOWN : THOLE_REASON_NONE, __FILE__,
                     __LINE__, "%s", why);
    metric_add(&metric_failed, 1);
    end(x, &st, (struct bufslice){0});
}

static void timed_out(struct bus_timer *t)
{
    struct exchange *x = CONTAINER_OF(t, struct exchange, timer);
    abandon(x->peer, x->id, THOLE_DEADLINE_EXCEEDED, "the host did not answer in time");
}

/* ---- Starting -------------------------------------------------------------------------------- */

/* The mutex is held; the link has a pipe. Takes `body` over. */
static enum bus_put put(struct peer *p, struct exchange *x, struct bufslice body, bool must)
{
    ASSERT(p->links[0].pipe != NULL && x->seq == 0);
    struct bus_head head;
    const struct bus_item item = {.id = x->id, .method = x->method, .timeout_ms = x->timeout_ms};
    bus__item_head(&head, &item, body.bytes.size);
    return bus__pipe_put(p->links[0].pipe, (struct slice){head.data, head.size}, body, must,
                         &x->seq);
}

/* The mutex is held. On failure `x` is not kept. Takes `body` over. */
static enum bus_put admit(struct peer *p, struct exchange *x, struct bufslice body)
{
    struct bus *b = p->bus;
    enum link_state state = p->links[0].state;
    bool self = p == b->self;
    enum bus_put result = BUS_PUT_OK;
    if (p->removed || (!self && state == LINK_WAITING)) {
        result = BUS_PUT_CLOSED;
    } else if (p->exchanges.count >= BUS_EXCHANGES_MAX ||
               (state != LINK_READY && p->waiting_bytes > 0 &&
                p->waiting_bytes + body.bytes.size > b->o.peer_queue_bytes)) {
        result = BUS_PUT_FULL;
    }
    if (result != BUS_PUT_OK) {
        bufslice_unref(body);
        return result;
    }
    if (self) {
        body = bus__own(body);
        uint64_t deadline =
            x->timeout_ms ? clock_now(b->clock) + x->timeout_ms * NS_PER_MS : CLOCK_NEVER;
        x->local = bus__request_self(b, x->id, x->method, body, deadline);
    } else if (state == LINK_READY) {
        result = put(p, x, body, false);
    } else {
        x->body = bus__own(body);
        *p->waiting_tail = x;
        p->waiting_tail = &x->next;
        p->waiting_bytes += body.bytes.size;
    }
    return result;
}

uint64_t bus_exchange(struct bus *b, const struct uuid *host, uint32_t method, struct bufslice body,
                      uint32_t timeout_ms, bus_answer_fn done, void *ctx)
{
    metric_add(&metric_exchanges, 1);
    struct peer *p = bus__peer_find(b, host);
    if (p == NULL || body.bytes.size > LIMIT_FRAME_BYTES) {
        bufslice_unref(body);
        if (p == NULL) {
            end_early(b, done, ctx, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE,
                      "the address of the host is not known");
        } else {
            end_early(b, done, ctx, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                      "the request is larger than a frame");
        }
        bus__peer_unref(p);
        return 0;
    }
    struct exchange *x = pool_take(&b->exchanges);
    *x = (struct exchange){.peer = p,
                           .method = method,
                           .timeout_ms = timeout_ms,
                           .timer = {.fn = timed_out},
                           .done = done,
                           .ctx = ctx};
    pthread_mutex_lock(&p->mutex);
    uint64_t id = x->id = ++p->next_id;
    enum bus_put result = admit(p, x, body);
    if (result == BUS_PUT_OK) {
        void *other = map_put(&p->exchanges, id, x);
        ASSERT(other == NULL);
        if (timeout_ms > 0) {
            bus__loop_arm(&b->loop, &x->timer, timeout_ms);
        }
        if (x->local != NULL) {
            bus__request_deliver(x->local);
        }
        metric_add(&metric_open, 1);
    }
    pthread_mutex_unlock(&p->mutex);
    if (result == BUS_PUT_OK) {
        return id;
    }
    pool_give(&b->exchanges, x);
    bus__peer_unref(p);
    if (result == BUS_PUT_FULL) {
        end_early(b, done, ctx, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                  "the queue to the host is full");
    } else {
        end_early(b, done, ctx, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE,
                  "the host is not connected");
    }
    return 0;
}

struct cancel_task {
    struct bus_task task;
    struct peer *peer;
    uint64_t id;
};

static void run_cancel(struct bus_task *t)
{
    struct cancel_task *c = CONTAINER_OF(t, struct cancel_task, task);
    abandon(c->peer, c->id, THOLE_CANCELLED, "cancelled by the caller");
    bus__peer_unref(c->peer);
    free(c);
}

void bus_exchange_cancel(struct bus *b, const struct uuid *host, uint64_t id)
{
    struct peer *p = id > 0 ? bus__peer_find(b, host) : NULL;
    if (p == NULL) {
        return;
    }
    struct cancel_task *c = xcalloc(1, sizeof *c);
    c->task.fn = run_cancel;
    c->peer = p;
    c->id = id;
    bus__loop_post(&b->loop, &c->task);
}

/* ---- Events of the link, on the loop --------------------------------------------------------- */

void bus__exchange_ready(struct peer *p)
{
    pthread_mutex_lock(&p->mutex);
    struct exchange *x = p->waiting;
    p->waiting = NULL;
    p->waiting_tail = &p->waiting;
    p->waiting_bytes = 0;
    while (x != NULL && p->links[0].pipe != NULL) {
        struct exchange *next = x->next;
        struct bufslice body = x->body;
        x->next = NULL;
        x->body = (struct bufslice){0};
        put(p, x, body, true); /* if the pipe is closing, its end fails the exchange as not sent */
        x = next;
    }
    pthread_mutex_unlock(&p->mutex);
}

struct answers {
    struct peer *peer;
    struct buf *owner;
};

static void on_item(void *ctx, struct bus_item *item)
{
    const struct answers *a = ctx;
    struct peer *p = a->peer;
    bool more = item->more && item->failure == NULL;
    pthread_mutex_lock(&p->mutex);
    struct exchange *x =
        more ? map_get(&p->exchanges, item->id) : map_remove(&p->exchanges, item->id);
    pthread_mutex_unlock(&p->mutex);
    if (x == NULL) {
        return; /* cancelled in the meantime */
    }
    const struct thole_status ok = {0};
    const struct bufslice body = {a->owner, item->body};
    if (more) {
        x->done(x->ctx, &ok, body, true);
    } else if (item->failure != NULL) {
        end(x, item->failure, (struct bufslice){0});
    } else {
        end(x, &ok, body);
    }
}

void bus__exchange_message(struct peer *p, struct bufslice message)
{
    struct answers a = {p, message.owner};
    struct bus_hello hello;
    bool has_hello;
    if (bus__exchange_decode(message.bytes, &has_hello, &hello, on_item, &a)) {
        return;
    }
    if (bus__log_allowed(p->bus)) {
        LOG_WARN(BUS, "malformed message from a peer; reconnecting");
    }
    if (p->links[0].pipe != NULL) {
        bus__pipe_cancel(p->links[0].pipe);
    }
}

void bus__exchange_broken(struct peer *p, struct bus_pipe *pipe, const char *why)
{
    struct exchange *list = NULL;
    size_t it = 0;
    struct exchange *x;
    while ((x = map_next(&p->exchanges, &it, NULL)) != NULL) {
        if (was_sent(x, pipe)) {
            x->seq = UINT64_MAX; /* counts as sent */
        } else {
            x->seq = 0;
        }
    }
    it = 0;
    while ((x = map_next(&p->exchanges, &it, NULL)) != NULL) {
        x->next = list;
        list = x;
    }
    map_deinit(&p->exchanges);
    p->exchanges = (struct map){0};
    p->waiting = NULL;
    p->waiting_tail = &p->waiting;
    p->waiting_bytes = 0;
    pthread_mutex_unlock(&p->mutex);
    for (; list != NULL; list = x) {
        struct thole_status st;
        x = list->next;
        bool sent = list->seq > 0;
        thole_status_set(
            &st, sent ? THOLE_UNKNOWN : THOLE_UNAVAILABLE,
            sent ? THOLE_REASON_OUTCOME_UNKNOWN : THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
            "%s: %.180s",
            sent ? "the connection broke before the answer" : "the host was not reached", why);
        metric_add(&metric_failed, 1);
        if (list->local != NULL) {
            bus__request_cancel(list->local);
        }
        end(list, &st, (struct bufslice){0});
    }
}

/* ---- Ourselves ------------------------------------------------------------------------------- */

struct self_answer {
    struct bus_task task;
    struct peer *self;
    uint64_t id;
    struct bufslice body;
    struct thole_status st;
    bool more;
};

static void run_self_answer(struct bus_task *t)
{
    struct self_answer *a = CONTAINER_OF(t, struct self_answer, task);
    struct peer *p = a->self;
    pthread_mutex_lock(&p->mutex);
    ASSERT(p->self_bytes >= a->body.bytes.size);
    p->self_bytes -= a->body.bytes.size;
    struct exchange *x = a->more ? map_get(&p->exchanges, a->id) : map_remove(&p->exchanges, a->id);
    pthread_mutex_unlock(&p->mutex);
    if (x != NULL && a->more) {
        x->done(x->ctx, &a->st, a->body, true);
    } else if (x != NULL) {
        end(x, &a->st, a->body);
    }
    bufslice_unref(a->body);
    bus__peer_unref(p);
    free(a);
}

bool bus__self_answer(struct bus *b, uint64_t id, struct bufslice body,
                      const struct thole_status *st, bool more)
{
    struct peer *p = b->self;
    pthread_mutex_lock(&p->mutex);
    bool full =
        more && p->self_bytes > 0 && p->self_bytes + body.bytes.size > b->o.peer_queue_bytes;
    if (!full) {
        p->self_bytes += body.bytes.size;
    }
    pthread_mutex_unlock(&p->mutex);
    if (full) {
        bufslice_unref(body);
        return false;
    }
    struct self_answer *a = xcalloc(1, sizeof *a);
    a->task.fn = run_self_answer;
    a->self = bus__peer_ref(p);
    a->id = id;
    a->body = bus__own(body);
    a->more = more;
    if (st != NULL) {
        a->st = *st;
    }
    bus__loop_post(&b->loop, &a->task);
    return true;
}
