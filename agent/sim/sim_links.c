/* The network between simulated hosts: directed links in virtual time, and ordered connections. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/sim_bus.h"
#include "base/assert.h"
#include "base/buf.h"

#define SILENCE_MS_MAX 1500 /* time until an unanswered ping breaks a connection */
#define HELD_BACK_MS 20

static struct conn *conns;
static struct world_link links[WORLD_MACHINES_MAX][WORLD_MACHINES_MAX];

/* ---- The network ----------------------------------------------------------------------------- */

struct world_link *world__link(int from, int to)
{
    return &links[from][to];
}

bool sim_bus__passes(const struct life *from, const struct life *to)
{
    return from == to || !links[from->host->n][to->host->n].cut;
}

uint64_t sim_bus__delay_ns(const struct life *from, const struct life *to)
{
    const struct world_link *l = &links[from->host->n][to->host->n];
    if (from == to || l->delay_max_ns == 0) {
        return world__draw_ns(20 * NS_PER_US, 300 * NS_PER_US);
    }
    return world__draw_ns(l->delay_min_ns, l->delay_max_ns);
}

struct life *sim_bus__at(const char *address)
{
    address = world__resolve(address);
    for (int i = 0; i < WORLD_MACHINES_MAX; i++) {
        struct life *life = world__host(i)->life;
        if (life != NULL && !life->ended && life->bus != NULL && life->bus->started &&
            !life->bus->stopped && strcmp(life->bus->listen, address) == 0) {
            return life;
        }
    }
    return NULL;
}

struct carried {
    struct conn *conn;
    int direction;
    void (*fn)(void *ctx);
    void (*lost)(void *ctx);
    void *ctx;
};

static void arrive(void *ctx)
{
    struct carried *m = ctx;
    struct conn *c = m->conn;
    struct life *from = m->direction == 0 ? c->from : c->to;
    struct life *to = m->direction == 0 ? c->to : c->from;
    uint64_t now = world__now_ns();
    if (c->broken || to->ended) {
        if (m->lost != NULL) {
            m->lost(m->ctx);
        }
        free(m);
        return;
    }
    bool frozen = to->host->paused_until_ns > now;
    if (!sim_bus__passes(from, to) || frozen) { /* the sender's kernel keeps the packets */
        uint64_t again = frozen ? to->host->paused_until_ns : now + HELD_BACK_MS * NS_PER_MS;
        c->last_due_ns[m->direction] =
            again > c->last_due_ns[m->direction] ? again : c->last_due_ns[m->direction];
        world__at(again, NULL, arrive, m);
        return;
    }
    struct life *earlier = life__enter(to);
    m->fn(m->ctx);
    life__leave(earlier);
    free(m);
}

void sim_bus__carry(struct conn *c, int direction, void (*fn)(void *ctx), void (*lost)(void *ctx),
                    void *ctx)
{
    struct life *from = direction == 0 ? c->from : c->to;
    struct life *to = direction == 0 ? c->to : c->from;
    uint64_t due = world__now_ns() + sim_bus__delay_ns(from, to);
    if (due <= c->last_due_ns[direction]) {
        due = c->last_due_ns[direction] + 1;
    }
    c->last_due_ns[direction] = due;
    struct carried *m = xmalloc(sizeof *m);
    *m = (struct carried){c, direction, fn, lost, ctx};
    world__at(due, NULL, arrive, m);
}

struct conn *sim_bus__conn_new(struct life *from, struct life *to, struct peer *peer, int lane)
{
    struct conn *c = xcalloc(1, sizeof *c);
    c->from = from;
    c->to = to;
    c->peer = peer;
    c->lane = lane;
    c->next = conns;
    conns = c;
    return c;
}

/* ---- Breaks ---------------------------------------------------------------------------------- */

void sim_bus__break(struct conn *c, const char *why)
{
    struct thole_status st;
    if (c->broken) {
        return;
    }
    c->broken = true;
    for (struct conn **at = &conns; *at != NULL; at = &(*at)->next) {
        if (*at == c) {
            *at = c->next;
            break;
        }
    }
    if (!c->to->ended) {
        struct life *earlier = life__enter(c->to);
        sim_request__caller_gone(c);
        life__leave(earlier);
    }
    if (!c->from->ended && c->peer != NULL) {
        struct life *earlier = life__enter(c->from);
        struct sim_link *l = &c->peer->links[c->lane];
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, __FILE__, __LINE__, "%s",
                         why);
        if (l->conn == c) {
            sim_bus__link_closed(l, &st, true);
        }
        life__leave(earlier);
    }
}

static bool crosses(const struct conn *c, int a, int b)
{
    int x = c->from->host->n, y = c->to->host->n;
    return (x == a && y == b) || (x == b && y == a);
}

struct silence {
    int a, b;
};

/* Break the connections whose ping went unanswered. Pings need both directions. */
static void silence_ends(void *ctx)
{
    struct silence *s = ctx;
    int a = s->a, b = s->b;
    free(s);
    if (!links[a][b].cut && !links[b][a].cut) {
        return;
    }
    for (struct conn *c = conns; c != NULL;) {
        if (crosses(c, a, b)) {
            sim_bus__break(c, "the connection is silent");
            c = conns;
        } else {
            c = c->next;
        }
    }
}

void world__cut(int from, int to, bool cut)
{
    if (from == to || links[from][to].cut == cut) {
        return;
    }
    links[from][to].cut = cut;
    if (cut) {
        struct silence *s = xmalloc(sizeof *s);
        *s = (struct silence){from, to};
        world__at(world__now_ns() + world__draw_ns(1000, SILENCE_MS_MAX) * NS_PER_MS, NULL,
                  silence_ends, s);
    }
}

struct dead {
    struct life *life;
};

static void notice_dead(void *ctx)
{
    struct dead *d = ctx;
    sim_rpc__host_gone(d->life);
    for (struct conn *c = conns; c != NULL;) {
        if (c->from == d->life || c->to == d->life) {
            sim_bus__break(c, "connection reset by peer");
            c = conns;
        } else {
            c = c->next;
        }
    }
    free(d);
}

void sim_bus__crashed(struct life *life, bool silent)
{
    struct dead *d = xmalloc(sizeof *d);
    d->life = life;
    uint64_t after = silent ? world__draw_ns(1000, SILENCE_MS_MAX) * NS_PER_MS
                            : world__draw_ns(100 * NS_PER_US, 2 * NS_PER_MS);
    world__at(world__now_ns() + after, NULL, notice_dead, d);
}

bool sim_bus__is_connected(struct bus *b, const struct uuid *host, uint64_t incarnation)
{
    for (const struct conn *c = conns; c != NULL; c = c->next) {
        const struct bus *from = c->from->bus;
        if (c->to == b->life && from != NULL && uuid_equal(&from->o.host_id, host) &&
            from->o.incarnation == incarnation && c->peer != NULL) {
            return true;
        }
    }
    return bus_peer_up(b, host);
}

void sim_bus__stopped(struct life *life)
{
    sim_rpc__host_gone(life);
}

void sim_bus__break_all(struct life *callee, const struct uuid *caller, uint64_t older_than,
                        const char *why)
{
    for (struct conn *c = conns; c != NULL;) {
        const struct bus *b = c->from->bus;
        bool matches = c->to == callee && b != NULL &&
                       (caller == NULL ||
                        (uuid_equal(&b->o.host_id, caller) && b->o.incarnation < older_than));
        if (matches) {
            sim_bus__break(c, why);
            c = conns;
        } else {
            c = c->next;
        }
    }
}
