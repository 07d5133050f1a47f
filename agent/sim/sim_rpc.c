/* Calls of simulated clients to simulated hosts: unary calls and streams. */
#include <stdlib.h>
#include <string.h>

#include "agent/sim/sim_bus.h"
#include "base/assert.h"
#include "base/buf.h"

struct bus_rpc {
    struct bus_rpc *next;
    struct bus *bus;
    const struct bus_method *method;
    struct bufslice request;
    uint64_t deadline_ns; /* in the host's clock */
    struct client_call *client;
    bool finished;
    void *data;
    void (*data_free)(void *data);
    void (*on_cancel)(void *ctx);
    void *on_cancel_ctx;
};

void bus_register(struct bus *b, const struct bus_method *methods, size_t n)
{
    b->methods = xrealloc(b->methods, (b->method_count + n) * sizeof *methods);
    memcpy(b->methods + b->method_count, methods, n * sizeof *methods);
    b->method_count += n;
}

/* A client's call. It ends with the answer, or at the client's own deadline if the host never
 * answers. */
struct client_call {
    world_reply_fn done;
    void *ctx;
    bool ended;
    struct thole_status st;
    struct bufslice reply;
    uint32_t uses; /* scheduled events that refer to this call */
};

static void drop_use(struct client_call *c)
{
    if (--c->uses == 0) {
        bufslice_unref(c->reply);
        free(c);
    }
}

static void tell_client(void *ctx)
{
    struct client_call *c = ctx;
    if (!c->ended) {
        c->ended = true;
        c->done(c->ctx, &c->st, c->reply.bytes);
    }
    drop_use(c);
}

static void give_up(void *ctx)
{
    struct client_call *c = ctx;
    if (!c->ended) {
        struct thole_status st;
        thole_status_set(&st, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN, __FILE__, __LINE__,
                         "no answer");
        c->ended = true;
        c->done(c->ctx, &st, (struct slice){0});
    }
    drop_use(c);
}

static struct client_call *client_new(uint64_t timeout_ns, world_reply_fn done, void *ctx)
{
    struct client_call *c = xcalloc(1, sizeof *c);
    c->done = done;
    c->ctx = ctx;
    c->uses = 1; /* the reference of the bus */
    if (timeout_ns != CLOCK_NEVER) {
        c->uses++;
        world__at(world__now_ns() + timeout_ns + 500 * NS_PER_MS, NULL, give_up, c);
    }
    return c;
}

static void end_client(struct client_call *c, const struct thole_status *st, struct bufslice reply)
{
    c->st = *st;
    c->reply = sim_bus__own(reply);
    world__at(world__now_ns() + world__draw_ns(20 * NS_PER_US, 300 * NS_PER_US), NULL, tell_client,
              c);
}

static void finish(struct bus_rpc *rpc, const struct thole_status *st, struct bufslice reply)
{
    ASSERT(!rpc->finished);
    rpc->finished = true;
    end_client(rpc->client, st, reply);
    for (struct bus_rpc **at = &rpc->bus->rpcs; *at != NULL; at = &(*at)->next) {
        if (*at == rpc) {
            *at = rpc->next;
            break;
        }
    }
    if (rpc->data_free != NULL && rpc->data != NULL) {
        rpc->data_free(rpc->data);
    }
    bufslice_unref(rpc->request);
}

static void rpc_arrived(void *ctx)
{
    struct bus_rpc *rpc = ctx;
    rpc->next = rpc->bus->rpcs;
    rpc->bus->rpcs = rpc;
    if (rpc->bus->draining) {
        struct thole_status st;
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "this host is shutting down");
        finish(rpc, &st, (struct bufslice){0});
        return;
    }
    rpc->method->handle(rpc->method->ctx, rpc, rpc->request.bytes);
}

void world__call(int host, const char *path, struct slice request, uint64_t timeout_ns,
                 world_reply_fn done, void *ctx)
{
    struct life *life = world__host(host)->life;
    struct bus *b = life != NULL && !life->ended ? life->bus : NULL;
    const struct bus_method *m = NULL;
    for (size_t i = 0; b != NULL && b->started && !b->stopped && i < b->method_count; i++) {
        if (strcmp(b->methods[i].path, path) == 0) {
            m = &b->methods[i];
        }
    }
    if (m == NULL || world__host(host)->paused_until_ns > world__now_ns()) {
        struct thole_status st;
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
                         "the host was not reached");
        end_client(client_new(CLOCK_NEVER, done, ctx), &st, (struct bufslice){0});
        return;
    }
    struct bus_rpc *rpc = xcalloc(1, sizeof *rpc);
    rpc->bus = b;
    rpc->method = m;
    rpc->request.owner = buf_copy(request.data, request.size);
    rpc->request.bytes = slice_of(rpc->request.owner->data, rpc->request.owner->size);
    rpc->deadline_ns = host__clock_ns(life->host) + timeout_ns;
    rpc->client = client_new(timeout_ns, done, ctx);
    world__at(world__now_ns() + world__draw_ns(20 * NS_PER_US, 300 * NS_PER_US), life, rpc_arrived,
              rpc);
}

void bus_rpc_set_data(struct bus_rpc *rpc, void *data, void (*free_fn)(void *data))
{
    rpc->data = data;
    rpc->data_free = free_fn;
}

void *bus_rpc_data(const struct bus_rpc *rpc)
{
    return rpc->data;
}

uint64_t bus_rpc_deadline_ns(const struct bus_rpc *rpc)
{
    return rpc->deadline_ns;
}

const char *bus_rpc_peer(const struct bus_rpc *rpc)
{
    (void)rpc;
    return "client";
}

void bus_rpc_identity(const struct bus_rpc *rpc, struct bus_identity *ret)
{
    (void)rpc;
    *ret = (struct bus_identity){.kind = BUS_ANONYMOUS, .name = "", .address = "client"};
}

void bus_rpc_on_cancel(struct bus_rpc *rpc, void (*on_cancel)(void *ctx), void *ctx)
{
    rpc->on_cancel = on_cancel;
    rpc->on_cancel_ctx = ctx;
}

bool bus_rpc_send(struct bus_rpc *rpc, struct bufslice message)
{
    (void)rpc; /* clients open no streams yet */
    bufslice_unref(message);
    return true;
}

bool bus_rpc_room(const struct bus_rpc *rpc, size_t bytes)
{
    (void)rpc;
    (void)bytes;
    return true;
}

bool bus_rpc_hold(struct bus_rpc *rpc, size_t *held, size_t bytes)
{
    (void)rpc;
    if (held != NULL) {
        *held = bytes;
    }
    return true;
}

void bus_rpc_on_drained(struct bus_rpc *rpc, void (*drained)(void *ctx), void *ctx)
{
    (void)rpc;
    (void)drained;
    (void)ctx;
}

void bus_rpc_reply(struct bus_rpc *rpc, struct bufslice message)
{
    const struct thole_status ok = {0};
    finish(rpc, &ok, message);
}

void bus_rpc_fail(struct bus_rpc *rpc, const struct thole_status *st, uint32_t retry_ms,
                  const char *const *metadata)
{
    (void)retry_ms;
    (void)metadata;
    finish(rpc, st, (struct bufslice){0});
}

void sim_request__stop(struct bus *b)
{
    while (b->rpcs != NULL) {
        struct bus_rpc *rpc = b->rpcs;
        void (*fn)(void *) = rpc->on_cancel;
        rpc->on_cancel = NULL;
        if (fn != NULL) {
            fn(rpc->on_cancel_ctx);
        }
        if (b->rpcs == rpc && fn == NULL) {
            break; /* its handler ends the call */
        }
        if (b->rpcs == rpc) {
            b->rpcs = rpc->next;
        }
    }
}
