/* Declarations shared by the files of the simulated bus. */
#ifndef AGENT_SIM_SIM_BUS_H
#define AGENT_SIM_SIM_BUS_H

#include "agent/sim/world.h"
#include "base/map.h"
#include "bus/bus.h"

#define SIM_LINKS 4 /* one for exchanges, and three lanes */
#define SIM_SEEN_MAX 64

/* One connection, from its hello to its break. Messages in one direction arrive in order. */
struct conn {
    struct conn *next; /* list of all connections */
    struct life *from, *to;
    int lane;                /* 0: exchanges */
    struct peer *peer;       /* the peer on the caller's bus; NULL: the connection of an Ask */
    uint64_t last_due_ns[2]; /* by direction; 0: from the caller */
    bool broken;
};

enum sim_link_state { SIM_IDLE, SIM_CONNECTING, SIM_READY, SIM_WAITING };
struct sim_link {
    struct peer *peer;
    int lane;
    enum sim_link_state state;
    struct conn *conn;
    uint64_t attempt; /* attempt number, to ignore late events of earlier attempts */
    uint32_t failures;
    uint64_t incarnation; /* the callee's incarnation */
};

struct peer {
    struct peer *next;
    struct bus *bus;
    struct uuid host;
    char address[WORLD_ADDRESS_BYTES];
    struct sim_link links[SIM_LINKS];
    bool up, up_told, removed;
};

struct seen {
    struct uuid host;
    uint64_t incarnation;
    struct lineage lineage;
    char address[WORLD_ADDRESS_BYTES];
};

struct exchange;
struct bus {
    struct life *life;
    struct bus_options o;
    char address[WORLD_ADDRESS_BYTES], listen[WORLD_ADDRESS_BYTES];
    struct uuid cluster;
    bool started, draining, cut, stopped, asks_ended;
    struct peer *peers;
    struct seen seen[SIM_SEEN_MAX];
    size_t seen_count;
    struct map exchanges; /* id -> struct exchange, where this bus is the caller */
    uint64_t next_exchange;
    struct bus_method *methods;
    size_t method_count;
    struct sim_ask *asks;
    struct bus_request *requests; /* unanswered requests from callers */
    struct bus_rpc *rpcs;
};

struct hello {
    struct uuid host, cluster, callee;
    uint64_t incarnation;
    struct lineage lineage;
    char address[WORLD_ADDRESS_BYTES];
    int lane;
};
void sim_bus__hello(const struct bus *b, struct hello *ret);
/* Does `b` accept the caller? Follows the real bus__admit. */
enum thole_code sim_bus__admit(struct bus *b, const struct hello *h, bool stream,
                               struct thole_status *st);
void sim_bus__met(struct bus *b, const struct hello *h);
enum thole_code sim_bus__check_start(struct bus *b, const struct hello *h, struct thole_status *st);

void sim_bus__note_seen(struct bus *b, const struct hello *h);
struct bufslice sim_bus__own(struct bufslice s); /* copies the bytes into an owned buffer */

/* Returns the life that now listens at an address, or NULL. */
struct life *sim_bus__at(const char *address);
/* Can packets pass now? */
bool sim_bus__passes(const struct life *from, const struct life *to);
uint64_t sim_bus__delay_ns(const struct life *from, const struct life *to);

struct conn *sim_bus__conn_new(struct life *from, struct life *to, struct peer *peer, int lane);
/* Deliver in order while the connection holds: `fn` runs in the receiver's life. If the connection
 * breaks first, `lost` is called instead; it may be NULL. Both get ctx. */
void sim_bus__carry(struct conn *c, int direction, void (*fn)(void *ctx), void (*lost)(void *ctx),
                    void *ctx);
void sim_bus__break(struct conn *c, const char *why);
/* Is that start of the host connected to this one, in either direction? */
bool sim_bus__is_connected(struct bus *b, const struct uuid *host, uint64_t incarnation);
/* Break connections to a life: all, or those from incarnations of `caller` older than the given
 * one. */
void sim_bus__break_all(struct life *callee, const struct uuid *caller, uint64_t older_than,
                        const char *why);
void sim_bus__link_closed(struct sim_link *l, const struct thole_status *why, bool was_ready);

/* sim_request.c */
void sim_request__link_ready(struct peer *p);
void sim_request__link_broken(struct peer *p, const char *why);
void sim_request__caller_gone(struct conn *c);
void sim_request__stop(struct bus *b);

/* sim_rpc.c: the streams of clients to a host that died end. */
void sim_rpc__host_gone(const struct life *life);

#endif
