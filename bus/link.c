/* One connection to a peer, for one lane or for exchanges, kept up by reconnecting.
 *
 *          connect                 hello answered
 *   IDLE ----------> CONNECTING ------------------> READY
 *                      ^   | failed                   | broken
 *                      |   v                          |
 *                     WAITING <-----------------------+   (timer: 20 ms after READY, else backoff)
 *
 * Each attempt uses a channel of its own with its own subchannel pool, so the only backoff is the
 * one here. All of it happens on the loop. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"

#define BACKOFF_MS_FIRST 100
#define BACKOFF_MS_MAX 1000
#define BACKOFF_MS_BROKEN 20
#define BACKOFF_MS_REFUSED 5000
#define CONNECT_MS_MAX 1000

static METRIC_DEFINE_COUNTER(metric_connects, "thole_bus_connects_total",
                             "Connections to peers that became ready");
static METRIC_DEFINE_COUNTER(metric_breaks, "thole_bus_breaks_total",
                             "Connections to peers that broke after they were ready");

#define MAY(state) (1u << (state))
static const unsigned moves[] = {
    [LINK_IDLE] = MAY(LINK_CONNECTING),
    [LINK_CONNECTING] = MAY(LINK_READY) | MAY(LINK_WAITING) | MAY(LINK_IDLE),
    [LINK_READY] = MAY(LINK_WAITING) | MAY(LINK_IDLE),
    [LINK_WAITING] = MAY(LINK_CONNECTING),
};

static const char *const lane_names[BUS_LINKS] = {"exchange", "control", "append", "snapshot"};

struct link_call { /* context of the pipe of one attempt */
    struct link *link;
    struct bus_pipe *pipe;
    grpc_channel *channel;
    uint32_t generation;
    bool ready;
    struct thole_status verdict; /* why we reject the callee's hello; code 0: we do not */
};

grpc_channel *bus__channel_open(const char *address, bool peer, struct bus_tls *tls,
                                const char *names)
{
    grpc_arg args[] = {
        bus__int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        bus__int_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        bus__int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        bus__int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        bus__int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, BACKOFF_MS_FIRST),
        bus__int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS_MAX),
        bus__int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, BACKOFF_MS_MAX),
        bus__int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, peer ? 1000 : 10000),
        bus__int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, peer ? 500 : 5000),
        bus__int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        bus__int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, BUS_MESSAGE_BYTES_MAX),
        bus__int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        bus__int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        bus__int_arg(GRPC_ARG_MAX_CHANNEL_TRACE_EVENT_MEMORY_PER_NODE, 0),
        bus__int_arg(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, BACKOFF_MS_MAX),
    };
    const grpc_channel_args all = {sizeof args / sizeof *args, args};
    grpc_channel_credentials *credentials =
        tls != NULL ? bus__tls_channel_credentials(tls, names) : grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, credentials, &all);
    grpc_channel_credentials_release(credentials);
    return channel;
}

/* Hosts know each other by their certificates, wherever they are; a client knows an address. */
grpc_channel *bus__peer_channel(struct bus *b, const char *address)
{
    bool client = uuid_is_nil(&b->o.host_id);
    return bus__channel_open(address, true, b->o.tls, client ? address : NULL);
}

bool bus__channel_ready(grpc_channel *channel)
{
    return grpc_channel_check_connectivity_state(channel, 0) == GRPC_CHANNEL_READY;
}

static void retry_due(struct bus_timer *t)
{
    bus__link_connect(CONTAINER_OF(t, struct link, retry));
}

void bus__link_init(struct link *l, struct peer *p, uint32_t lane)
{
    *l = (struct link){.peer = p, .lane = lane, .retry = {.fn = retry_due}};
}

bool bus__link_wanted(const struct link *l)
{
    return l->lane == 0 || !uuid_is_nil(&l->peer->bus->o.host_id); /* a client has no lanes */
}

/* Loop; the peer's mutex is held. `pipe` is that of the new state. */
static void move(struct link *l, enum link_state to, struct bus_pipe *pipe)
{
    ASSERT(bus__loop_here(&l->peer->bus->loop));
    ASSERT((moves[l->state] & MAY(to)) != 0);
    ASSERT((pipe != NULL) == (to == LINK_CONNECTING || to == LINK_READY));
    l->state = to;
    l->pipe = pipe;
}

/* The peer's mutex is held. */
static void refresh_up(struct peer *p)
{
    const struct link *control = &p->links[BUS_LANE_CONTROL], *append = &p->links[BUS_LANE_APPEND];
    if (uuid_is_nil(&p->bus->o.host_id)) {
        p->up = p->links[0].state == LINK_READY;
    } else {
        p->up = control->state == LINK_READY && append->state == LINK_READY &&
                control->incarnation == append->incarnation;
    }
}

/* ---- Events of the pipe ---------------------------------------------------------------------- */

static enum thole_code check_identity(struct link_call *c, const struct bus_hello *h)
{
    struct bus *b = c->link->peer->bus;
    struct bus_certificate *shown = NULL;
    if (b->o.tls == NULL) {
        return THOLE_OK;
    }
    enum thole_code code = bus__tls_identify(b->o.tls, bus__pipe_call(c->pipe), CERTIFICATE_SERVER,
                                             &shown, &c->verdict);
    if (code == THOLE_OK) {
        code = bus__check_host(b, h, shown, h->address, &c->verdict);
    }
    bus__certificate_unref(shown);
    return code;
}

static void judge(struct link_call *c, const struct bus_hello *h)
{
    struct peer *p = c->link->peer;
    struct uuid ours;
    bus__cluster(p->bus, &ours);
    if (!uuid_equal(&h->host, &p->host)) {
        thole_status_set(&c->verdict, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_HOST, __FILE__,
                         __LINE__, "another host has this address");
    } else if (!uuid_is_nil(&ours) && !uuid_is_nil(&h->cluster) &&
               !uuid_equal(&ours, &h->cluster)) {
        thole_status_set(&c->verdict, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
                         __FILE__, __LINE__, "the host belongs to another cluster");
    } else if (check_identity(c, h) != THOLE_OK) {
        LOG_WARN(BUS, "another host answers address=%s why=\"%s\"", h->address, c->verdict.message);
    } else if (bus__check_start(p->bus, h, &c->verdict) != THOLE_OK) {
        LOG_WARN(BUS, "a copy of a host's disk answers address=%s incarnation=%" PRIu64, h->address,
                 h->incarnation);
    }
}

static void became_ready(struct link_call *c, const struct bus_hello *h)
{
    struct link *l = c->link;
    struct peer *p = l->peer;
    c->ready = true;
    l->failures = 0;
    l->peer->said[0] = '\0';
    metric_add(&metric_connects, 1);
    bus__seen(p->bus, h);
    bus__met(p->bus, h);
    pthread_mutex_lock(&p->mutex);
    if (!p->removed && l->pipe == c->pipe) {
        move(l, LINK_READY, c->pipe);
        l->incarnation = h->incarnation;
        refresh_up(p);
    }
    pthread_mutex_unlock(&p->mutex);
    LOG_DEBUG(BUS, "connected lane=%s address=%s incarnation=%" PRIu64, lane_names[l->lane],
              h->address, h->incarnation);
    if (l->lane == 0) {
        bus__exchange_ready(p);
    }
    bus__peer_report(p);
}

static void no_item(void *ctx, struct bus_item *item)
{
    (void)ctx;
    (void)item;
}

static void on_message(void *ctx, struct bufslice message)
{
    struct link_call *c = ctx;
    if (c->ready) {
        if (c->link->lane == 0) {
            bus__exchange_message(c->link->peer, message);
        }
        return; /* the callee answers nothing else on a lane */
    }
    struct bus_hello hello;
    bool has_hello = false;
    struct slice body;
    bool ok = c->link->lane == 0
                  ? bus__exchange_decode(message.bytes, &has_hello, &hello, no_item, NULL)
                  : bus__lane_decode(message.bytes, &has_hello, &hello, &body);
    if (!ok || !has_hello) {
        thole_status_set(&c->verdict, THOLE_INTERNAL, THOLE_REASON_FORMAT, __FILE__, __LINE__,
                         "the callee's hello is malformed");
    } else {
        judge(c, &hello);
    }
    if (c->verdict.code != THOLE_OK) {
        bus__pipe_cancel(c->pipe);
        return;
    }
    became_ready(c, &hello);
    if (c->link->lane == 0) {
        bus__exchange_message(c->link->peer,
                              message); /* the message may have items beside the hello */
    }
}

static uint32_t delay_of(struct link *l, const struct link_call *c, bool refused)
{
    if (refused) {
        return BACKOFF_MS_REFUSED;
    }
    if (c->ready) {
        return BACKOFF_MS_BROKEN;
    }
    uint32_t shift = l->failures < 5 ? l->failures : 5;
    uint32_t ms = (uint32_t)BACKOFF_MS_FIRST << shift;
    return ms < BACKOFF_MS_MAX ? ms : BACKOFF_MS_MAX;
}

/* Log each failure of a peer once, on any lane, until a lane is connected again. */
static void log_failure(struct link *l, const struct thole_status *st, bool ready, bool refused,
                        uint32_t delay_ms)
{
    char host[UUID_TEXT_BYTES];
    char *said = l->peer->said;
    if (strcmp(said, st->message) == 0) {
        return;
    }
    snprintf(said, sizeof l->peer->said, "%s", st->message);
    uuid_format(&l->peer->host, host);
    if (refused) {
        LOG_WARN(BUS,
                 "refused by a peer peer=%s lane=%s why=\"%s\" reason=%s; retrying every %u ms",
                 host, lane_names[l->lane], st->message, thole_reason_name(st->reason),
                 (unsigned)delay_ms);
    } else {
        LOG_INFO(BUS, "%s peer=%s lane=%s why=\"%s\"; retrying in %u ms",
                 ready ? "connection lost" : "cannot connect", host, lane_names[l->lane],
                 st->message, (unsigned)delay_ms);
    }
}

/* A callee that answers with one of these codes is alive, and would answer the same again. */
static bool is_refusal(enum thole_code code)
{
    return code == THOLE_FAILED_PRECONDITION || code == THOLE_PERMISSION_DENIED ||
           code == THOLE_UNAUTHENTICATED || code == THOLE_INVALID_ARGUMENT ||
           code == THOLE_UNIMPLEMENTED || code == THOLE_NOT_FOUND;
}

static void on_closed(void *ctx, const struct thole_status *st)
{
    struct link_call *c = ctx;
    struct link *l = c->link;
    struct peer *p = l->peer;
    struct thole_status why = c->verdict.code != THOLE_OK ? c->verdict : *st;
    if (why.code == THOLE_OK) {
        thole_status_set(&why, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
                         "the peer ended the stream");
    }
    bool refused = is_refusal(why.code);
    if (c->ready) {
        metric_add(&metric_breaks, 1);
    }
    pthread_mutex_lock(&p->mutex);
    bool moved = c->generation != p->generation;
    bool removed = p->removed;
    ASSERT(l->pipe == c->pipe);
    move(l, removed ? LINK_IDLE : LINK_WAITING, NULL);
    refresh_up(p);
    if (l->lane == 0) {
        bus__exchange_broken(p, c->pipe, why.message);
    } else {
        pthread_mutex_unlock(&p->mutex);
    }
    if (!removed) {
        uint32_t delay_ms = moved ? 0 : delay_of(l, c, refused);
        if (!moved) {
            log_failure(l, &why, c->ready, refused, delay_ms);
        }
        l->failures = c->ready || moved ? 0 : l->failures + 1;
        bus__loop_arm(&p->bus->loop, &l->retry, delay_ms);
    }
    bus__peer_report(p);
    const struct bus_handler *h = &p->bus->o.handler;
    if (refused && !removed && c->verdict.code == THOLE_OK && h->refused != NULL) {
        h->refused(h->ctx, &p->host, &why);
    }
    bus__pipe_unref(c->pipe);
    grpc_channel_destroy(c->channel);
    free(c);
    bus__peer_unref(p);
}

static const struct bus_pipe_events link_events = {.message = on_message, .closed = on_closed};

/* ---- Attempts -------------------------------------------------------------------------------- */

static void try_to_connect(struct link *l)
{
    struct peer *p = l->peer;
    struct bus *b = p->bus;
    struct link_call *c = xcalloc(1, sizeof *c);
    c->link = l;
    pthread_mutex_lock(&p->mutex);
    bool go = !p->removed && l->pipe == NULL;
    char *address = go ? xstrdup(p->address) : NULL;
    c->generation = p->generation;
    pthread_mutex_unlock(&p->mutex);
    if (!go) {
        free(c);
        return;
    }
    c->channel = bus__peer_channel(b, address);
    free(address);
    const char *path = l->lane == 0 ? "/thole.bus.v1.Bus/Exchange" : "/thole.bus.v1.Bus/Lane";
    grpc_call *call =
        bus__call_new(c->channel, &b->loop, path, gpr_inf_future(GPR_CLOCK_MONOTONIC));
    const struct bus_pipe_options o = {
        .loop = &b->loop,
        .call = call,
        .connected = true, /* bus__pipe_taken tells whether an exchange was sent */
        .join = l->lane == 0,
        .queue_bytes = b->o.peer_queue_bytes,
        .events = &link_events,
        .ctx = c,
    };
    c->pipe = bus__pipe_new(&o);
    bus__peer_ref(p);
    bus__pipe_start(c->pipe, bus__hello_encode(b, l->lane, &p->host));
    pthread_mutex_lock(&p->mutex);
    move(l, LINK_CONNECTING, c->pipe);
    bool removed = p->removed;
    pthread_mutex_unlock(&p->mutex);
    if (removed) {
        bus__pipe_cancel(c->pipe);
    }
}

/* The loop is entered first: between this decision and the first batch the bus may be stopped,
 * while nothing of this attempt is live yet. */
void bus__link_connect(struct link *l)
{
    struct bus_loop *loop = &l->peer->bus->loop;
    if (!bus__loop_enter(loop)) {
        return;
    }
    try_to_connect(l);
    bus__loop_live(loop, -1);
}

void bus__link_kick(struct link *l)
{
    if (l->pipe != NULL) {
        bus__pipe_cancel(l->pipe);
        return;
    }
    bus__loop_cancel(&l->peer->bus->loop, &l->retry);
    l->failures = 0;
    if (bus__link_wanted(l) || l->state == LINK_WAITING) {
        bus__link_connect(l);
    }
}

void bus__link_close(struct link *l)
{
    bus__loop_cancel(&l->peer->bus->loop, &l->retry);
    if (l->pipe != NULL) {
        bus__pipe_cancel(l->pipe);
    }
}
