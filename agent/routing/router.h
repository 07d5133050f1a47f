/* The router: brings a request to where it can be answered, and brings the answer back.
 *
 * One per agent; a client of the library has one too, without an engine, whose `find_leader` and
 * `pick_host` name the endpoint to use. What it knows of leaders is a cache of hints
 * (router_cache.c): a wrong hint costs a round trip, never correctness.
 *
 * Threads: router_route runs on the caller's thread and never blocks; completions run on engine,
 * bus or the router's own thread. Each request is in exactly one place at a time: the engine, an
 * exchange, or the router's worker (waiting to be tried again), so it needs no lock. */
#ifndef AGENT_ROUTING_ROUTER_H
#define AGENT_ROUTING_ROUTER_H

#include "agent/core/agent.h"
#include "base/worker.h"

#define ROUTER_HOPS_MAX 4

struct router;
struct router_cache; /* router_cache.h */

struct router_options {
    struct bus *bus;
    struct uuid self; /* nil in a client */
    struct executor *executor;
    void *ctx;
    /* A host that may serve the shard, or know who does, when the cache does not know: `attempt`
     * counts up, so that another one may be named each time. `avoid` just failed. False: none. */
    bool (*pick_host)(void *ctx, uint64_t shard_id, uint32_t attempt, const struct uuid *avoid,
                      struct uuid *ret);
    /* A client: the host that leads the request's shard, as far as earlier answers told, if it is
     * not `avoid`; and what an answer tells (nil: that host knows nobody). NULL with an engine,
     * whose cache knows. */
    bool (*find_leader)(void *ctx, const struct router_request *r, const struct uuid *avoid,
                        struct uuid *ret);
    void (*learn_leader)(void *ctx, const struct router_request *r, const struct uuid *host);
    /* Is there such a shard, as far as is known? Unknown counts as yes, being deleted as no. */
    bool (*shard_exists)(void *ctx, uint64_t shard_id);
    /* This host has no view yet, as `st` then says. NULL: it never lacks one. */
    bool (*lacks_view)(void *ctx, struct thole_status *st);
    /* Does the shard take no proposals for now? NULL: it always does. */
    bool (*is_held)(void *ctx, uint64_t shard_id);
    /* An exchange with this host could not be made. */
    void (*host_unreachable)(void *ctx, const struct uuid *host);
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

struct router_cache *router_get_cache(struct router *ro);

#endif
