/* The bus of simulated hosts: peers and frames. It keeps the guarantees of bus/bus.h as the real
 * bus does. It reconnects lost connections. Frames of a lane arrive in order or not at all. The
 * ping of a connection detects a silent peer. */
#include "agent/sim/sim_bus.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/assert.h"
#include "base/buf.h"

/* The same values as in bus/link.c. */
#define BACKOFF_MS_FIRST 100
#define BACKOFF_MS_MAX 1000
#define BACKOFF_MS_BROKEN 20
#define BACKOFF_MS_REFUSED 5000
#define CONNECT_MS_MAX 1000
#define SILENCE_MS_MAX 1500 /* time until an unanswered ping breaks a connection */

/* ---- Peers ----------------------------------------------------------------------------------- */

static struct peer *find_peer(struct bus *b, const struct uuid *host)
{
    struct peer *p = b->peers;
    while (p != NULL && !uuid_equal(&p->host, host)) {
        p = p->next;
    }
    return p;
}

static bool is_self(const struct bus *b, const struct uuid *host)
{
    return !uuid_is_nil(&b->o.host_id) && uuid_equal(&b->o.host_id, host);
}

static void report(struct peer *p)
{
    const struct sim_link *control = &p->links[BUS_LANE_CONTROL];
    const struct sim_link *append = &p->links[BUS_LANE_APPEND];
    p->up = !p->removed && control->state == SIM_READY && append->state == SIM_READY &&
            control->incarnation == append->incarnation;
    if (p->up == p->up_told) {
        return;
    }
    p->up_told = p->up;
    world__trace("%s: peer at %s is %s", p->bus->life->host->name, p->address,
                 p->up ? "connected" : "disconnected");
    if (p->bus->o.handler.peer_state != NULL) {
        p->bus->o.handler.peer_state(p->bus->o.handler.ctx, &p->host, p->up, control->incarnation);
    }
}

struct link_event {
    struct sim_link *link;
    uint64_t attempt;
    struct conn *conn;
    struct life *callee;
    struct hello hello;
    struct thole_status st; /* the reason of a refusal */
};

static void connect_link(struct sim_link *l);

static void retry(void *ctx)
{
    struct link_event *e = ctx;
    struct sim_link *l = e->link;
    bool meant = l->attempt == e->attempt && l->state == SIM_WAITING;
    free(e);
    if (meant) {
        connect_link(l);
    }
}

static bool is_refusal(enum thole_code code)
{
    return code == THOLE_FAILED_PRECONDITION || code == THOLE_PERMISSION_DENIED ||
           code == THOLE_UNAUTHENTICATED || code == THOLE_INVALID_ARGUMENT ||
           code == THOLE_UNIMPLEMENTED || code == THOLE_NOT_FOUND;
}

static struct link_event *event_of(struct sim_link *l)
{
    struct link_event *e = xcalloc(1, sizeof *e);
    e->link = l;
    e->attempt = l->attempt;
    return e;
}

void sim_bus__link_closed(struct sim_link *l, const struct thole_status *why, bool was_ready)
{
    struct peer *p = l->peer;
    bool refused = is_refusal(why->code);
    l->conn = NULL;
    l->attempt++;
    l->state = p->removed ? SIM_IDLE : SIM_WAITING;
    if (l->lane == 0) {
        sim_request__link_broken(p, why->message);
    }
    if (!p->removed) {
        uint32_t shift = l->failures < 5 ? l->failures : 5;
        uint64_t ms = refused     ? BACKOFF_MS_REFUSED
                      : was_ready ? BACKOFF_MS_BROKEN
                                  : (uint64_t)BACKOFF_MS_FIRST << shift;
        ms = !refused && ms > BACKOFF_MS_MAX ? BACKOFF_MS_MAX : ms;
        l->failures = was_ready ? 0 : l->failures + 1;
        world__at(world__now_ns() + ms * NS_PER_MS, p->bus->life, retry, event_of(l));
    }
    report(p);
    if (refused && !p->removed && p->bus->o.handler.refused != NULL) {
        p->bus->o.handler.refused(p->bus->o.handler.ctx, &p->host, why);
    }
}

static void connect_failed(void *ctx)
{
    struct link_event *e = ctx;
    if (e->link->attempt == e->attempt) {
        sim_bus__link_closed(e->link, &e->st, false);
    }
    free(e);
}

static enum thole_code judge(struct peer *p, const struct hello *h, struct thole_status *st)
{
    struct bus *b = p->bus;
    if (!uuid_equal(&h->host, &p->host)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_HOST,
                          "another host lives at this address");
    }
    if (!uuid_is_nil(&b->cluster) && !uuid_is_nil(&h->cluster) &&
        !uuid_equal(&b->cluster, &h->cluster)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
                          "the host belongs to another cluster");
    }
    return sim_bus__check_start(b, h, st);
}

/* Runs at the caller. */
static void hello_answered(void *ctx)
{
    struct link_event *e = ctx;
    struct sim_link *l = e->link;
    struct peer *p = l->peer;
    struct thole_status st = e->st;
    if (l->attempt != e->attempt || p->removed) {
        sim_bus__break(e->conn, "the caller gave up");
    } else if (st.code != THOLE_OK || judge(p, &e->hello, &st) != THOLE_OK) {
        bool ours = e->st.code == THOLE_OK;
        sim_bus__break(e->conn, "refused");
        void (*refused)(void *, const struct uuid *, const struct thole_status *) =
            p->bus->o.handler.refused;
        p->bus->o.handler.refused = ours ? NULL : refused; /* do not report our own verdict */
        sim_bus__link_closed(l, &st, false);
        p->bus->o.handler.refused = refused;
    } else {
        sim_bus__note_seen(p->bus, &e->hello);
        sim_bus__met(p->bus, &e->hello);
        l->state = SIM_READY;
        l->failures = 0;
        l->conn = e->conn;
        l->incarnation = e->hello.incarnation;
        if (l->lane == 0) {
            sim_request__link_ready(p);
        }
        report(p);
    }
    free(e);
}

/* Runs at the callee. */
static void hello_arrived(void *ctx)
{
    struct link_event *e = ctx;
    struct bus *b = e->callee->bus;
    if (sim_bus__admit(b, &e->hello, true, &e->st) == THOLE_OK) {
        e->st.code = THOLE_OK;
    }
    sim_bus__hello(b, &e->hello);
    sim_bus__carry(e->conn, 1, hello_answered, connect_failed, e);
}

static void timed_out(void *ctx)
{
    struct link_event *e = ctx;
    struct sim_link *l = e->link;
    if (l->attempt == e->attempt && l->state == SIM_CONNECTING) {
        thole_status_set(&e->st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
                         "no answer to the hello");
        sim_bus__link_closed(l, &e->st, false);
    }
    free(e);
}

static void connect_link(struct sim_link *l)
{
    struct peer *p = l->peer;
    struct life *caller = p->bus->life;
    uint64_t now = world__now_ns();
    l->attempt++;
    l->state = SIM_CONNECTING;
    struct life *callee = sim_bus__at(p->address);
    world__at(now + (uint64_t)(SILENCE_MS_MAX + CONNECT_MS_MAX) * NS_PER_MS, caller, timed_out,
              event_of(l));
    struct link_event *e = event_of(l);
    if (callee == NULL || !sim_bus__passes(caller, callee) || !sim_bus__passes(callee, caller)) {
        bool silent = callee != NULL;
        thole_status_set(&e->st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__, __LINE__,
                         silent ? "the connection timed out" : "connection refused");
        world__at(now + (silent ? CONNECT_MS_MAX * NS_PER_MS : 300 * NS_PER_US), caller,
                  connect_failed, e);
        return;
    }
    e->callee = callee;
    e->conn = sim_bus__conn_new(caller, callee, p, l->lane);
    sim_bus__hello(p->bus, &e->hello);
    e->hello.callee = p->host;
    e->hello.lane = l->lane;
    sim_bus__carry(e->conn, 0, hello_arrived, connect_failed, e);
}

static void kick(struct sim_link *l)
{
    if (l->conn != NULL) {
        sim_bus__break(l->conn, "the host has another address");
    } else {
        l->attempt++;
        l->failures = 0;
        connect_link(l);
    }
}

struct peer_event {
    struct peer *peer;
};

static void connect_all(void *ctx)
{
    struct peer_event *e = ctx;
    for (int i = 0; i < SIM_LINKS && !e->peer->removed; i++) {
        kick(&e->peer->links[i]);
    }
    free(e);
}

static void post(struct peer *p, world_fn fn)
{
    struct peer_event *e = xmalloc(sizeof *e);
    e->peer = p;
    world__at(world__now_ns() + 10 * NS_PER_US, p->bus->life, fn, e);
}

static void self_up(void *ctx)
{
    struct bus *b = ctx;
    if (b->o.handler.peer_state != NULL && !b->stopped) {
        b->o.handler.peer_state(b->o.handler.ctx, &b->o.host_id, true, b->o.incarnation);
    }
}

enum thole_code bus_peer_set(struct bus *b, const struct uuid *host, const char *address,
                             struct thole_status *st)
{
    if (uuid_is_nil(host)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a peer needs a host id");
    }
    if (is_self(b, host)) {
        world__at(world__now_ns() + 10 * NS_PER_US, b->life, self_up, b);
        return THOLE_OK;
    }
    if (address == NULL || !address_valid(slice_str(address), ADDRESS_REACH)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a peer's address must be host:port");
    }
    if (b->cut || b->stopped) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the bus was stopped");
    }
    struct peer *p = find_peer(b, host);
    bool fresh = p == NULL;
    if (fresh) {
        p = xcalloc(1, sizeof *p);
        p->bus = b;
        p->host = *host;
        for (int i = 0; i < SIM_LINKS; i++) {
            p->links[i].peer = p;
            p->links[i].lane = i;
        }
        p->next = b->peers;
        b->peers = p;
    }
    bool moved = strcmp(p->address, address) != 0;
    snprintf(p->address, sizeof p->address, "%s", address);
    if (fresh || moved) {
        post(p, connect_all);
    }
    return THOLE_OK;
}

static void close_all(void *ctx)
{
    struct peer_event *e = ctx;
    struct peer *p = e->peer;
    for (int i = 0; i < SIM_LINKS; i++) {
        struct sim_link *l = &p->links[i];
        l->attempt++;
        if (l->conn != NULL) {
            sim_bus__break(l->conn, "the peer was removed");
        }
        l->state = SIM_IDLE;
    }
    sim_request__link_broken(p, "the peer was removed");
    report(p);
    free(e);
}

static void remove_peer(struct peer *p)
{
    p->removed = true;
    post(p, close_all);
}

void bus_peer_remove(struct bus *b, const struct uuid *host)
{
    struct peer **at = &b->peers;
    while (*at != NULL && !uuid_equal(&(*at)->host, host)) {
        at = &(*at)->next;
    }
    struct peer *p = *at;
    if (p != NULL) {
        *at = p->next;
        remove_peer(p);
    }
}

bool bus_peer_up(struct bus *b, const struct uuid *host)
{
    const struct peer *p = find_peer(b, host);
    return is_self(b, host) || (p != NULL && p->up && !p->removed);
}

static void retry_waiting(void *ctx)
{
    struct peer_event *e = ctx;
    for (int i = 0; i < SIM_LINKS && !e->peer->removed; i++) {
        if (e->peer->links[i].state == SIM_WAITING) {
            kick(&e->peer->links[i]);
        }
    }
    free(e);
}

void bus_set_cluster(struct bus *b, const struct uuid *cluster_id)
{
    bool changed = !uuid_equal(&b->cluster, cluster_id);
    b->cluster = *cluster_id;
    for (struct peer *p = b->peers; p != NULL && changed; p = p->next) {
        post(p, retry_waiting);
    }
}

/* ---- Frames ---------------------------------------------------------------------------------- */

struct frame {
    struct conn *conn;
    struct life *to;
    struct uuid from;
    uint64_t incarnation;
    enum bus_lane lane;
    struct bufslice frame;
};

static void frame_lost(void *ctx)
{
    struct frame *f = ctx;
    bufslice_unref(f->frame);
    free(f);
}

static void frame_arrived(void *ctx)
{
    struct frame *f = ctx;
    struct bus *b = f->to->bus;
    if (b->o.handler.frame != NULL && !b->stopped) {
        b->o.handler.frame(b->o.handler.ctx, &f->from, f->incarnation, f->lane, f->frame);
    }
    frame_lost(f);
}

enum thole_code bus_send(struct bus *b, const struct uuid *host, enum bus_lane lane,
                         struct bufslice frame)
{
    struct peer *p = find_peer(b, host);
    struct sim_link *l = p != NULL && !p->removed ? &p->links[lane] : NULL;
    bool self = is_self(b, host);
    if (!self && (l == NULL || l->state != SIM_READY)) {
        bufslice_unref(frame);
        return THOLE_UNAVAILABLE;
    }
    struct frame *f = xmalloc(sizeof *f);
    *f = (struct frame){.to = self ? b->life : l->conn->to,
                        .from = b->o.host_id,
                        .incarnation = b->o.incarnation,
                        .lane = lane,
                        .frame = {.owner = buf_copy(frame.bytes.data, frame.bytes.size)}};
    f->frame.bytes = slice_of(f->frame.owner->data, f->frame.owner->size);
    bufslice_unref(frame);
    world__mix(f->frame.bytes.size, (uint64_t)lane);
    if (self) {
        world__at(world__now_ns() + 20 * NS_PER_US, b->life, frame_arrived, f);
    } else {
        sim_bus__carry(l->conn, 0, frame_arrived, frame_lost, f);
    }
    return THOLE_OK;
}

/* ---- Life ------------------------------------------------------------------------------------ */

enum thole_code bus_new(const struct bus_options *o, struct bus **ret, struct thole_status *st)
{
    ASSERT(life__now != NULL);
    struct bus *b = xcalloc(1, sizeof *b);
    b->life = life__now;
    b->o = *o;
    b->cluster = o->cluster_id;
    snprintf(b->listen, sizeof b->listen, "%s", o->listen_address);
    snprintf(b->address, sizeof b->address, "%s",
             o->advertise_address != NULL ? o->advertise_address : o->listen_address);
    if (sim_bus__at(o->listen_address) != NULL) {
        enum thole_code code = THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_ADDRESS_IN_USE,
                                          "cannot listen on %s", o->listen_address);
        free(b);
        return code;
    }
    b->life->bus = b;
    *ret = b;
    return THOLE_OK;
}

void bus_start(struct bus *b)
{
    b->started = true;
}

void bus_drain(struct bus *b, uint32_t grace_ms)
{
    if (b == NULL || b->draining) {
        return;
    }
    b->draining = true;
    if (grace_ms > 0 && fiber__here() != NULL) {
        (void)fiber__wait(world__now_ns() + grace_ms * NS_PER_MS);
    }
}

void bus_cut(struct bus *b)
{
    if (b == NULL || b->cut) {
        return;
    }
    b->cut = true;
    for (struct peer *p; (p = b->peers) != NULL;) {
        b->peers = p->next;
        p->removed = true;
        struct peer_event *e = xmalloc(sizeof *e);
        e->peer = p;
        close_all(e);
    }
    sim_bus__break_all(b->life, NULL, 0, "this host is shutting down");
    sim_request__stop(b);
}

void bus_stop(struct bus *b, uint32_t grace_ms)
{
    if (b == NULL || b->stopped) {
        return;
    }
    bus_end_asks(b);
    bus_drain(b, grace_ms);
    bus_cut(b);
    b->stopped = true;
}

void bus_free(struct bus *b)
{
    (void)b; /* late events may still read it; it is freed when the process ends */
}

const char *bus_address(const struct bus *b)
{
    return b->address;
}

uint16_t bus_port(const struct bus *b)
{
    const char *colon = strrchr(b->listen, ':');
    return (uint16_t)(colon != NULL ? atoi(colon + 1) : 0);
}

void bus_health_set(struct bus *b, const char *name, bool serving)
{
    (void)b;
    (void)name;
    (void)serving;
}

void bus_health_remove(struct bus *b, const char *name)
{
    (void)b;
    (void)name;
}
