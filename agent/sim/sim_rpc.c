/* Calls of simulated clients to simulated hosts: unary calls and streams. */
#include <stdlib.h>
#include <string.h>

#include "agent/sim/sim_bus.h"
#include "base/assert.h"
#include "base/buf.h"

/* Bound of a stream's unread messages. Much smaller than that of the real bus, so that slow readers
 * reach it. */
#define UNREAD_BYTES_MAX (16 * 1024)

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
    void (*drained)(void *ctx);
    void *drained_ctx;
    _Alignas(8) uint8_t scratch[BUS_RPC_SCRATCH_BYTES];
};

void bus_register(struct bus *b, const struct bus_method *methods, size_t n)
{
    b->methods = xrealloc(b->methods, (b->method_count + n) * sizeof *methods);
    memcpy(b->methods + b->method_count, methods, n * sizeof *methods);
    b->method_count += n;
}

/* A client's call. It ends with the answer, or at the client's own deadline if the host never
 * answers. A stream has no deadline; it ends when its host dies. */
struct client_call {
    struct client_call *next; /* streams that have not ended */
    struct life *life;        /* of a stream: that of the host */
    struct bus_rpc *rpc;      /* of a stream: NULL before its arrival, and after its end */
    world_message_fn message; /* NULL: unary */
    world_reply_fn done;
    void *ctx;
    bool ended, full;
    size_t unread_bytes;
    uint64_t last_due_ns, reads_from_ns;
    struct thole_status st;
    struct bufslice reply;
    uint32_t uses; /* scheduled events that refer to this call */
};

static struct client_call *streams;

static void drop_use(struct client_call *c)
{
    if (--c->uses == 0) {
        bufslice_unref(c->reply);
        free(c);
    }
}

static void forget_stream(struct client_call *c)
{
    for (struct client_call **at = &streams; *at != NULL; at = &(*at)->next) {
        if (*at == c) {
            *at = c->next;
            break;
        }
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

/* Messages of a stream, and then its end, arrive in order. A slow client reads them late. */
static uint64_t next_due_ns(struct client_call *c)
{
    uint64_t due = world__now_ns() + world__draw_ns(20 * NS_PER_US, 300 * NS_PER_US);
    due = due < c->reads_from_ns ? c->reads_from_ns : due;
    due = due <= c->last_due_ns ? c->last_due_ns + 1 : due;
    c->last_due_ns = due;
    return due;
}

static void end_client(struct client_call *c, const struct thole_status *st, struct bufslice reply)
{
    c->st = *st;
    c->reply = sim_bus__own(reply);
    c->rpc = NULL;
    forget_stream(c);
    world__at(next_due_ns(c), NULL, tell_client, c);
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
    if (rpc->client->message != NULL) {
        rpc->client->rpc = rpc;
    }
    rpc->method->handle(rpc->method->ctx, rpc, rpc->request.bytes);
}

/* Send the call. Returns whether it is on its way. */
static bool begin_call(int host, const char *path, struct slice request, uint64_t timeout_ns,
                       struct client_call *c)
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
        end_client(c, &st, (struct bufslice){0});
        return false;
    }
    struct bus_rpc *rpc = xcalloc(1, sizeof *rpc);
    rpc->bus = b;
    rpc->method = m;
    rpc->request.owner = buf_copy(request.data, request.size);
    rpc->request.bytes = slice_of(rpc->request.owner->data, rpc->request.owner->size);
    rpc->deadline_ns =
        timeout_ns != CLOCK_NEVER ? host__clock_ns(life->host) + timeout_ns : CLOCK_NEVER;
    rpc->client = c;
    c->life = life;
    world__at(world__now_ns() + world__draw_ns(20 * NS_PER_US, 300 * NS_PER_US), life, rpc_arrived,
              rpc);
    return true;
}

void world__call(int host, const char *path, struct slice request, uint64_t timeout_ns,
                 world_reply_fn done, void *ctx)
{
    (void)begin_call(host, path, request, timeout_ns, client_new(timeout_ns, done, ctx));
}

/* ---- Streams --------------------------------------------------------------------------------- */

struct client_call *world__stream(int host, const char *path, struct slice request,
                                  world_message_fn message, world_reply_fn done, void *ctx)
{
    struct client_call *c = client_new(CLOCK_NEVER, done, ctx);
    c->message = message;
    c->next = streams;
    streams = c;
    (void)begin_call(host, path, request, CLOCK_NEVER, c);
    return c;
}

void world__stream_slow(struct client_call *c, uint64_t until_ns)
{
    c->reads_from_ns = until_ns;
}

void sim_rpc__host_gone(const struct life *life)
{
    for (struct client_call *c = streams; c != NULL;) {
        struct client_call *next = c->next;
        if (c->life == life) {
            struct thole_status st;
            thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
                             "the connection broke");
            end_client(c, &st, (struct bufslice){0});
        }
        c = next;
    }
}

struct stream_message {
    struct client_call *client;
    struct bufslice bytes;
};

static void call_drained(void *ctx)
{
    struct client_call *c = ctx;
    if (c->rpc != NULL && c->rpc->drained != NULL) {
        c->rpc->drained(c->rpc->drained_ctx);
    }
    drop_use(c);
}

static void message_read(void *ctx)
{
    struct stream_message *m = ctx;
    struct client_call *c = m->client;
    c->unread_bytes -= m->bytes.bytes.size;
    if (!c->ended) {
        c->message(c->ctx, m->bytes.bytes);
    }
    if (c->full && c->unread_bytes < UNREAD_BYTES_MAX / 2 && !c->life->ended) {
        c->full = false;
        c->uses++;
        world__at(world__now_ns(), c->life, call_drained, c);
    }
    bufslice_unref(m->bytes);
    free(m);
    drop_use(c);
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

/* The simulated network has no intruders: nobody is asked who calls. */
struct slice bus_rpc_metadata(const struct bus_rpc *rpc, const char *name)
{
    (void)rpc, (void)name;
    return (struct slice){0};
}

void bus_rpc_who(const struct bus_rpc *rpc, struct bus_identity *ret)
{
    bus_rpc_identity(rpc, ret);
}

void bus_rpc_set_user(struct bus_rpc *rpc, void *user, void (*free_fn)(void *user))
{
    (void)rpc;
    free_fn(user);
}

void *bus_rpc_user(const struct bus_rpc *rpc)
{
    (void)rpc;
    return NULL;
}

void *bus_request_user(const struct bus_request *r)
{
    (void)r;
    return NULL;
}

void *bus_rpc_scratch(struct bus_rpc *rpc)
{
    return rpc->scratch;
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
    struct client_call *c = rpc->client;
    if (c->unread_bytes > 0 && c->unread_bytes + message.bytes.size > UNREAD_BYTES_MAX) {
        c->full = true;
        bufslice_unref(message);
        return false;
    }
    struct stream_message *m = xmalloc(sizeof *m);
    *m = (struct stream_message){c, sim_bus__own(message)};
    c->unread_bytes += m->bytes.bytes.size;
    c->uses++;
    world__at(next_due_ns(c), NULL, message_read, m);
    return true;
}

bool bus_rpc_room(const struct bus_rpc *rpc, size_t bytes)
{
    (void)rpc;
    (void)bytes;
    return true;
}

bool bus_rpc_flushed(const struct bus_rpc *rpc)
{
    (void)rpc;
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
    rpc->drained = drained;
    rpc->drained_ctx = ctx;
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
