/* The router: brings a request to where it can be answered, and brings the answer back.
 *
 * One per agent; a client of the library has one too, without an engine, whose `leader` and
 * `elsewhere` name the endpoint to use. What it knows of leaders is a cache of hints
 * (router_cache.c): a wrong hint costs a round trip, never correctness.
 *
 * Threads: router_route runs on the caller's thread and never blocks; completions run on engine,
 * bus or the router's own thread. Each request is in exactly one place at a time: the engine, an
 * exchange, or the router's worker (waiting to be tried again), so it needs no lock. */
#ifndef AGENT_ROUTING_ROUTER_H
#define AGENT_ROUTING_ROUTER_H

#include <string.h>

#include "agent/core/agent.h"
#include "base/worker.h"

#define ROUTER_HOPS_MAX 4

struct router;

struct router_options {
    struct bus *bus;
    struct uuid self; /* nil in a client */
    struct executor *executor;
    void *ctx;
    /* A host that may serve the shard, or know who does, when the cache does not know: `attempt`
     * counts up, so that another one may be named each time. `avoid` just failed. False: none. */
    bool (*elsewhere)(void *ctx, uint64_t shard_id, uint32_t attempt, const struct uuid *avoid,
                      struct uuid *ret);
    /* A client: the host that leads the request's shard, as far as earlier answers told, if it is
     * not `avoid`; and what an answer tells (nil: that host knows nobody). NULL with an engine,
     * whose cache knows. */
    bool (*leader)(void *ctx, const struct router_request *r, const struct uuid *avoid,
                   struct uuid *ret);
    void (*leads)(void *ctx, const struct router_request *r, const struct uuid *host);
    /* Is there such a shard, as far as is known? Unknown counts as yes, being deleted as no. */
    bool (*exists)(void *ctx, uint64_t shard_id);
    /* This host has no view yet, as `st` then says. NULL: it never lacks one. */
    bool (*blind)(void *ctx, struct thole_status *st);
    /* Does the shard take no proposals for now? NULL: it always does. */
    bool (*holds)(void *ctx, uint64_t shard_id);
    /* An exchange with this host could not be made. */
    void (*unreachable)(void *ctx, const struct uuid *host);
};

struct router *router_new(const struct router_options *o);
/* Before the first request; never in a client. */
void router_set_engine(struct router *ro, struct engine *e);
/* New and waiting requests fail with STOPPED from now on; those in the engine or on the bus must be
 * ended by stopping these. */
void router_stop(struct router *ro);
void router_free(struct router *ro);

/* `shard_name` (a client's, instead of an id) must live until `done`; NULL otherwise. */
void router_route(struct router *ro, struct router_request *r, const char *shard_name);

/* ---- The cache (router_cache.c) -------------------------------------------------------------- */

struct route_hint {
    bool local;        /* a replica runs here ... */
    bool local_serves; /* ... and can answer queries */
    bool local_leads;
    uint64_t term;
    struct uuid leader_host; /* nil: unknown */
};
/* May this replica answer queries and feed watches? One that was removed from its group may not
 * know what has happened since. */
static inline bool replica_serves(const struct engine_replica_status *s)
{
    return s->initialised && !s->failed && !s->removed_by_peer && !s->witness;
}
struct route_cache;
struct route_cache *route_cache_new(const struct uuid *self);
void route_cache_free(struct route_cache *c);
bool route_cache_get(struct route_cache *c, uint64_t shard_id, struct route_hint *ret);
/* From the engine's observer. */
void route_cache_local(struct route_cache *c, const struct engine_replica_status *s);
/* The local replica is gone. */
void route_cache_local_gone(struct route_cache *c, uint64_t shard_id);
/* Somebody says who leads; ignored if older than what is known. */
void route_cache_leader(struct route_cache *c, uint64_t shard_id, uint64_t term,
                        const struct uuid *host);
/* This host did not answer for the shard. */
void route_cache_forget(struct route_cache *c, uint64_t shard_id, const struct uuid *host);
struct route_cache *router_cache(struct router *ro);

/* ---- Bodies of exchanges (forward_codec.c) --------------------------------------------------- */

/* Where a small body is written. One that is larger has an owner. */
struct forward_space {
    uint8_t bytes[512];
};
/* One copy of the payload. */
struct bufslice forward_encode(const struct router_request *r, const char *shard_name,
                               struct forward_space *space);
struct forward {
    uint64_t shard_id;
    struct slice shard_name, payload; /* borrowed from the body */
    uint64_t session, sequence;
    bool open_session, stale;
    uint32_t max_staleness_ms, hops;
};
bool forward_decode(struct slice body, struct forward *ret);

struct forward_reply {
    uint64_t code, index;
    struct slice result; /* borrowed from the body when decoded */
    bool duplicate;
    uint64_t leader_term;
    struct uuid leader_host;
    struct slice key;
    bool bookmark;
    struct thole_status failure; /* code THOLE_OK: none, and the rest means nothing */
};
static inline void forward_reply_init(struct forward_reply *f)
{
    memset(f, 0, offsetof(struct forward_reply, failure));
    f->failure.code = THOLE_OK;
}
struct bufslice forward_reply_encode(const struct forward_reply *in, struct forward_space *space);
bool forward_reply_decode(struct slice body, struct forward_reply *ret);

/* ---- Serving (router_serve.c) ---------------------------------------------------------------- */

/* A PROPOSE, QUERY or TRANSFER exchange, or a WATCH. Answers the bus request, now or later. */
void serve_forward(struct agent *a, struct bus_request *q);
void serve_watch(struct agent *a, struct bus_request *q);
size_t served_bytes(void); /* of an object in agent.forwarded */

/* ---- Watches (watch_routing.c) ----------------------------------------------------------------
 * */

struct watches;
struct watches *watches_new(struct agent *a);
/* Every watch ends with STOPPED. Before engine and bus are freed. */
void watches_stop(struct watches *ws);
void watches_free(struct watches *ws);
/* What the end of an exchange means for a watch: it asked nothing whose outcome is unknown. */
void watch_source_gone(struct thole_status *st);
uint64_t watches_add(struct watches *ws, uint64_t shard_id, uint32_t hops,
                     const struct agent_watcher *w);
void watches_remove(struct watches *ws, uint64_t id);

#endif
