/* Requests between simulated hosts: exchanges and asks. The caller gets the same outcome as from
 * the real bus: certainly not sent, or unknown. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/sim_bus.h"
#include "base/assert.h"
#include "base/buf.h"

struct exchange {
    struct bus *bus;
    struct peer *peer; /* NULL: the callee is this host itself */
    uint64_t id;
    uint32_t method, timeout_ms;
    struct bufslice body;
    struct conn *conn; /* the connection that carried it; NULL: not sent yet */
    bool sent;
    struct bus_request *local; /* the request, if the callee is this host itself */
    bus_answer_fn done;
    void *ctx;
};

/* A request that a handler must answer. */
struct bus_request {
    struct bus_request *next; /* list of the callee's unanswered requests */
    struct bus *bus;          /* the callee's bus */
    struct conn *conn;        /* NULL: the caller is this host itself */
    struct bus *caller;
    uint64_t id; /* exchange id; or, for an ask: */
    struct sim_ask *ask;
    uint64_t ask_number;
    uint32_t method;
    struct bufslice body;
    uint64_t deadline_ns;
    struct uuid from;
    bool answered, cancelled, released;
    void (*on_cancel)(void *ctx);
    void *on_cancel_ctx;
    void *data;
    void (*data_free)(void *data);
};

struct bufslice sim_bus__own(struct bufslice s)
{
    struct buf *copy = buf_copy(s.bytes.data, s.bytes.size);
    bufslice_unref(s);
    return (struct bufslice){.owner = copy, .bytes = slice_of(copy->data, copy->size)};
}

/* ---- The caller's side ----------------------------------------------------------------------- */

struct ending {
    struct thole_status st;
    struct bufslice body;
    bool more;
    bus_answer_fn done;
    void *ctx;
};

static void run_ending(void *ctx)
{
    struct ending *e = ctx;
    e->done(e->ctx, &e->st, e->body, e->more);
    bufslice_unref(e->body);
    free(e);
}

/* Always call `done` later, never inline: the caller may hold locks that `done` takes. */
static void end_later(struct bus *b, bus_answer_fn done, void *ctx, const struct thole_status *st)
{
    struct ending *e = xcalloc(1, sizeof *e);
    e->st = *st;
    e->done = done;
    e->ctx = ctx;
    world__at(world__now_ns() + 5 * NS_PER_US, b->life, run_ending, e);
}

static void end_exchange(struct exchange *x, const struct thole_status *st)
{
    (void)map_remove(&x->bus->exchanges, x->id);
    end_later(x->bus, x->done, x->ctx, st);
    bufslice_unref(x->body);
    free(x);
}

static void cancel_request(struct bus_request *r)
{
    void (*fn)(void *) = r->on_cancel;
    r->on_cancel = NULL;
    r->cancelled = true;
    if (fn != NULL && !r->answered) {
        fn(r->on_cancel_ctx);
    }
}

struct to_cancel {
    struct bus *caller, *callee;
    uint64_t id;
};

static void cancel_arrived(void *ctx)
{
    struct to_cancel *t = ctx;
    for (struct bus_request *r = t->callee->requests; r != NULL; r = r->next) {
        if (r->caller == t->caller && r->id == t->id && !r->cancelled) {
            cancel_request(r);
            break;
        }
    }
    free(t);
}

static void abandon(struct exchange *x, enum thole_code code, const char *why)
{
    struct thole_status st;
    if (x->conn != NULL && !x->conn->broken) {
        struct to_cancel *t = xmalloc(sizeof *t);
        *t = (struct to_cancel){x->bus, x->conn->to->bus, x->id};
        sim_bus__carry(x->conn, 0, cancel_arrived, free, t);
    } else if (x->local != NULL) {
        cancel_request(x->local);
    }
    thole_status_set(&st, code, x->sent ? THOLE_REASON_OUTCOME_UNKNOWN : THOLE_REASON_NONE,
                     __FILE__, __LINE__, "%s", why);
    end_exchange(x, &st);
}

struct exchange_id {
    struct bus *bus;
    uint64_t id;
};

static void exchange_timeout(void *ctx)
{
    struct exchange_id *e = ctx;
    struct exchange *x = map_get(&e->bus->exchanges, e->id);
    if (x != NULL) {
        abandon(x, THOLE_DEADLINE_EXCEEDED, "the host did not answer in time");
    }
    free(e);
}

static void exchange_cancelled(void *ctx)
{
    struct exchange_id *e = ctx;
    struct exchange *x = map_get(&e->bus->exchanges, e->id);
    if (x != NULL) {
        abandon(x, THOLE_CANCELLED, "cancelled by the caller");
    }
    free(e);
}

static struct exchange_id *id_of(struct bus *b, uint64_t id)
{
    struct exchange_id *e = xmalloc(sizeof *e);
    *e = (struct exchange_id){b, id};
    return e;
}

static void deliver(struct bus_request *r)
{
    struct thole_status st;
    struct bus *b = r->bus;
    r->next = b->requests;
    b->requests = r;
    if (b->o.handler.request != NULL && !b->stopped) {
        b->o.handler.request(b->o.handler.ctx, r);
        return;
    }
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                     "this host is shutting down");
    bus_answer_failure(r, &st);
}

static void request_arrived(void *ctx)
{
    struct bus_request *r = ctx;
    struct thole_status st;
    if (r->deadline_ns != CLOCK_NEVER) { /* the deadline was sent as a duration */
        r->deadline_ns += clock_now(r->bus->o.clock);
    }
    if (r->bus->draining) {
        r->next = r->bus->requests;
        r->bus->requests = r;
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "this host is shutting down");
        bus_answer_failure(r, &st);
        return;
    }
    deliver(r);
}

static struct bus_request *request_new(struct bus *callee, struct bus *caller, uint64_t id,
                                       uint32_t method, struct slice body, uint32_t timeout_ms)
{
    struct bus_request *r = xcalloc(1, sizeof *r);
    r->bus = callee;
    r->caller = caller;
    r->id = id;
    r->method = method;
    r->body.owner = buf_copy(body.data, body.size);
    r->body.bytes = slice_of(r->body.owner->data, r->body.owner->size);
    r->deadline_ns = timeout_ms > 0 ? timeout_ms * NS_PER_MS : CLOCK_NEVER;
    r->from = caller->o.host_id;
    return r;
}

static void send_exchange(struct exchange *x, struct conn *c)
{
    struct bus_request *r =
        request_new(c->to->bus, x->bus, x->id, x->method, x->body.bytes, x->timeout_ms);
    r->conn = c;
    x->conn = c;
    x->sent = true;
    sim_bus__carry(c, 0, request_arrived, NULL, r);
}

uint64_t bus_exchange(struct bus *b, const struct uuid *host, uint32_t method, struct bufslice body,
                      uint32_t timeout_ms, bus_answer_fn done, void *ctx)
{
    struct thole_status st;
    struct peer *p = b->peers;
    bool self = uuid_equal(&b->o.host_id, host) && !uuid_is_nil(host);
    while (p != NULL && !uuid_equal(&p->host, host)) {
        p = p->next;
    }
    const struct sim_link *l = p != NULL ? &p->links[0] : NULL;
    if (b->cut || (!self && (p == NULL || p->removed || l->state == SIM_WAITING))) {
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
                         p == NULL ? "no address of that host is known"
                                   : "the host is not connected");
        bufslice_unref(body);
        end_later(b, done, ctx, &st);
        return 0;
    }
    struct exchange *x = xcalloc(1, sizeof *x);
    *x = (struct exchange){.bus = b,
                           .peer = p,
                           .id = ++b->next_exchange,
                           .method = method,
                           .timeout_ms = timeout_ms,
                           .body = sim_bus__own(body),
                           .done = done,
                           .ctx = ctx};
    uint64_t id = x->id;
    (void)map_put(&b->exchanges, id, x);
    if (timeout_ms > 0) {
        uint64_t at =
            host__world_ns(b->life->host, host__clock_ns(b->life->host) + timeout_ms * NS_PER_MS);
        world__at(at, b->life, exchange_timeout, id_of(b, id));
    }
    if (self) {
        x->sent = true;
        x->local = request_new(b, b, id, method, x->body.bytes, timeout_ms);
        world__at(world__now_ns() + 20 * NS_PER_US, b->life, request_arrived, x->local);
    } else if (l->state == SIM_READY) {
        send_exchange(x, l->conn);
    }
    return id;
}

void bus_exchange_cancel(struct bus *b, const struct uuid *host, uint64_t id)
{
    (void)host;
    if (id > 0) {
        world__at(world__now_ns() + 5 * NS_PER_US, b->life, exchange_cancelled, id_of(b, id));
    }
}

/* Sorted by id, so that a run is repeatable. */
static size_t exchanges_of(struct bus *b, const struct peer *p, struct exchange ***ret)
{
    size_t it = 0, n = 0;
    struct exchange *x;
    struct exchange **list = xcalloc(b->exchanges.count + 1, sizeof(struct exchange *));
    while ((x = map_next(&b->exchanges, &it, NULL)) != NULL) {
        if (x->peer != p) {
            continue;
        }
        size_t i = n++;
        for (; i > 0 && list[i - 1]->id > x->id; i--) {
            list[i] = list[i - 1];
        }
        list[i] = x;
    }
    *ret = list;
    return n;
}

void sim_request__link_ready(struct peer *p)
{
    struct exchange **list;
    size_t n = exchanges_of(p->bus, p, &list);
    for (size_t i = 0; i < n; i++) {
        if (!list[i]->sent) {
            send_exchange(list[i], p->links[0].conn);
        }
    }
    free(list);
}

void sim_request__link_broken(struct peer *p, const char *why)
{
    struct exchange **list;
    size_t n = exchanges_of(p->bus, p, &list);
    for (size_t i = 0; i < n; i++) {
        struct thole_status st;
        bool sent = list[i]->sent;
        thole_status_set(
            &st, sent ? THOLE_UNKNOWN : THOLE_UNAVAILABLE,
            sent ? THOLE_REASON_OUTCOME_UNKNOWN : THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
            "%s: %.180s",
            sent ? "the connection broke before the answer" : "the host was not reached", why);
        end_exchange(list[i], &st);
    }
    free(list);
}

void sim_request__caller_gone(struct conn *c)
{
    struct bus *b = c->to->bus;
    for (struct bus_request *r = b->requests; r != NULL;) {
        struct bus_request *next = r->next;
        if (r->conn == c && !r->cancelled) {
            cancel_request(r);
            next = b->requests; /* the handler may have answered any request */
        }
        r = next;
    }
}

/* ---- Answers --------------------------------------------------------------------------------- */

struct answer {
    struct bus *caller;
    uint64_t id;
    struct bufslice body;
    struct thole_status st;
    bool more;
};

static void answer_lost(void *ctx)
{
    struct answer *a = ctx;
    bufslice_unref(a->body);
    free(a);
}

static void answer_arrived(void *ctx)
{
    struct answer *a = ctx;
    struct exchange *x = map_get(&a->caller->exchanges, a->id);
    if (x != NULL && a->more) {
        x->done(x->ctx, &a->st, a->body, true);
    } else if (x != NULL) {
        (void)map_remove(&a->caller->exchanges, a->id);
        x->done(x->ctx, &a->st, a->body, false);
        bufslice_unref(x->body);
        free(x);
    }
    answer_lost(a);
}

static void release(struct bus_request *r)
{
    for (struct bus_request **at = &r->bus->requests; *at != NULL; at = &(*at)->next) {
        if (*at == r) {
            *at = r->next;
            break;
        }
    }
    if (r->data_free != NULL && r->data != NULL) {
        r->data_free(r->data);
    }
    bufslice_unref(r->body);
    r->released = true; /* not freed: an exchange of this host may still point to it */
}

static void ask_answered(struct bus_request *r, struct bufslice body,
                         const struct thole_status *st);

static void give(struct bus_request *r, struct bufslice body, const struct thole_status *st,
                 bool more)
{
    if (r->ask != NULL) {
        ask_answered(r, body, st);
        return;
    }
    struct answer *a = xcalloc(1, sizeof *a);
    a->caller = r->caller;
    a->id = r->id;
    a->body = sim_bus__own(body);
    a->more = more;
    if (st != NULL) {
        a->st = *st;
    }
    if (r->conn == NULL) {
        world__at(world__now_ns() + 20 * NS_PER_US, r->bus->life, answer_arrived, a);
    } else {
        sim_bus__carry(r->conn, 1, answer_arrived, answer_lost, a);
    }
}

bool bus_answer(struct bus_request *r, struct bufslice body, bool more)
{
    ASSERT(!r->answered);
    if (more && r->ask != NULL) {
        bufslice_unref(body);
        return false;
    }
    r->answered = !more;
    give(r, body, NULL, more);
    if (!more) {
        release(r);
    }
    return true;
}

void bus_answer_failure(struct bus_request *r, const struct thole_status *st)
{
    ASSERT(st->code != THOLE_OK && !r->answered);
    r->answered = true;
    give(r, (struct bufslice){0}, st, false);
    release(r);
}

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
    *ret = (struct bus_identity){
        .kind = uuid_is_nil(&r->from) ? BUS_ANONYMOUS : BUS_HOST,
        .host_id = r->from,
        .name = "",
        .address = r->caller->address,
    };
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
    if (r->cancelled) {
        on_cancel(ctx);
        return;
    }
    r->on_cancel = on_cancel;
    r->on_cancel_ctx = ctx;
}

/* ---- Asks ------------------------------------------------------------------------------------ */

struct sim_ask {
    struct sim_ask *next;
    struct bus *bus;
    struct fiber *fiber;
    uint64_t number;
    bool done;
    struct thole_status st;
    struct bufslice body;
    struct bus_ask_peer peer;
};

static uint64_t ask_numbers;

/* An ask lives on the stack of its waiting caller, so a late answer looks it up by number. */
static struct sim_ask *find_ask(struct bus *b, uint64_t number)
{
    struct sim_ask *a = b->asks;
    while (a != NULL && a->number != number) {
        a = a->next;
    }
    return a;
}

struct ask_message {
    struct bus *caller, *callee;
    uint64_t number;
    uint32_t method, timeout_ms;
    struct conn *conn;
    struct hello hello;
    struct bufslice body;
    struct thole_status st;
};

static void ask_lost(void *ctx)
{
    struct ask_message *m = ctx;
    if (!m->caller->life->ended) {
        struct sim_ask *a = find_ask(m->caller, m->number);
        if (a != NULL) {
            thole_status_set(&a->st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__,
                             __LINE__, "the connection broke");
            a->done = true;
            fiber__wake(a->fiber);
        }
    }
    bufslice_unref(m->body);
    free(m);
}

static void ask_reply_arrived(void *ctx)
{
    struct ask_message *m = ctx;
    struct sim_ask *a = find_ask(m->caller, m->number);
    if (a != NULL) {
        a->st = m->st;
        a->body = sim_bus__own(m->body);
        m->body = (struct bufslice){0};
        a->peer = (struct bus_ask_peer){.host_id = m->hello.host,
                                        .cluster_id = m->hello.cluster,
                                        .incarnation = m->hello.incarnation};
        if (m->st.code == THOLE_OK) {
            sim_bus__met(m->caller, &m->hello);
        }
        a->done = true;
        fiber__wake(a->fiber);
    }
    if (!m->conn->broken) {
        sim_bus__break(m->conn, "the ask has ended");
    }
    bufslice_unref(m->body);
    free(m);
}

static void reply_to_ask(struct bus *callee, struct bus *caller, struct conn *c, uint64_t number,
                         struct bufslice body, const struct thole_status *st)
{
    struct ask_message *m = xcalloc(1, sizeof *m);
    m->caller = caller;
    m->callee = callee;
    m->number = number;
    m->conn = c;
    m->body = sim_bus__own(body);
    sim_bus__hello(callee, &m->hello);
    if (st != NULL) {
        m->st = *st;
    }
    sim_bus__carry(c, 1, ask_reply_arrived, ask_lost, m);
}

static void ask_answered(struct bus_request *r, struct bufslice body, const struct thole_status *st)
{
    reply_to_ask(r->bus, r->caller, r->conn, r->ask_number, body, st);
}

static void ask_arrived(void *ctx)
{
    struct ask_message *m = ctx;
    struct thole_status st;
    if (sim_bus__admit(m->callee, &m->hello, false, &st) != THOLE_OK) {
        reply_to_ask(m->callee, m->caller, m->conn, m->number, (struct bufslice){0}, &st);
    } else {
        struct bus_request *r =
            request_new(m->callee, m->caller, 0, m->method, m->body.bytes, m->timeout_ms);
        r->conn = m->conn;
        r->from = m->hello.host;
        r->ask = (struct sim_ask *)(uintptr_t)1; /* marks an ask; its caller is found by number */
        r->ask_number = m->number;
        r->deadline_ns += clock_now(m->callee->o.clock);
        deliver(r);
    }
    bufslice_unref(m->body);
    free(m);
}

static void send_ask(struct bus *b, struct sim_ask *a, const char *address, uint32_t method,
                     struct slice body, uint32_t timeout_ms)
{
    struct life *callee = sim_bus__at(address);
    if (callee == NULL) {
        (void)fiber__wait(world__now_ns() + 300 * NS_PER_US);
        thole_status_set(&a->st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
                         "connection refused");
        a->done = true;
        return;
    }
    if (!sim_bus__passes(b->life, callee) || !sim_bus__passes(callee, b->life)) {
        return; /* the ask ends at its timeout */
    }
    struct ask_message *m = xcalloc(1, sizeof *m);
    m->caller = b;
    m->callee = callee->bus;
    m->number = a->number;
    m->method = method;
    m->timeout_ms = timeout_ms > 0 ? timeout_ms : 1000;
    m->conn = sim_bus__conn_new(b->life, callee, NULL, 0);
    m->body.owner = buf_copy(body.data, body.size);
    m->body.bytes = slice_of(m->body.owner->data, m->body.owner->size);
    sim_bus__hello(b, &m->hello);
    sim_bus__carry(m->conn, 0, ask_arrived, ask_lost, m);
}

enum thole_code bus_ask(struct bus *b, const char *address, uint32_t method, struct slice body,
                        uint32_t timeout_ms, struct buf **ret_body, struct bus_ask_peer *ret_peer,
                        struct thole_status *st)
{
    struct sim_ask a = {.bus = b, .fiber = fiber__here(), .number = ++ask_numbers};
    ASSERT(a.fiber != NULL && "only threads may ask");
    uint64_t deadline = world__now_ns() + (timeout_ms > 0 ? timeout_ms : 1000) * NS_PER_MS;
    a.next = b->asks;
    b->asks = &a;
    if (!b->asks_ended) {
        send_ask(b, &a, address, method, body, timeout_ms);
    }
    while (!a.done && !b->asks_ended) {
        if (!fiber__wait(deadline)) {
            thole_status_set(&a.st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE, __FILE__, __LINE__,
                             "%s did not answer in time", address);
            break;
        }
    }
    if (!a.done && b->asks_ended) {
        thole_status_set(&a.st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "this host is stopping");
    }
    for (struct sim_ask **at = &b->asks; *at != NULL; at = &(*at)->next) {
        if (*at == &a) {
            *at = a.next;
            break;
        }
    }
    if (a.st.code != THOLE_OK) {
        if (st != NULL) {
            *st = a.st;
        }
        bufslice_unref(a.body);
        return a.st.code;
    }
    if (ret_peer != NULL) {
        *ret_peer = a.peer;
    }
    if (ret_body != NULL) {
        *ret_body = buf_copy(a.body.bytes.data, a.body.bytes.size);
    }
    bufslice_unref(a.body);
    return THOLE_OK;
}

void bus_end_asks(struct bus *b)
{
    b->asks_ended = true;
    for (struct sim_ask *a = b->asks; a != NULL; a = a->next) {
        fiber__wake(a->fiber);
    }
}
