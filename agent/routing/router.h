/* The router: sends a request to a host that can answer it, and completes it with the answer.
 *
 * One per agent. A client of the library has one, too, without an engine: its callbacks
 * `find_leader` and `pick_host` name the endpoint to use. Leaders are known by a cache of hints
 * (router_cache.h): a wrong hint costs a round trip, never correctness.
 *
 * Threads: router_route runs on the caller's thread and never blocks. Completions run on an engine
 * thread, a bus thread or the router's worker. A request has exactly one owner at a time (engine,
 * exchange, or the worker, while it waits for a retry), so it needs no lock. */
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
    /* Without a hint: pick a host that may have a replica of the shard or know its leader.
     * `attempt` counts up, to pick another host each time; the host `avoid` just failed. False:
     * none. */
    bool (*pick_host)(void *ctx, uint64_t shard_id, uint32_t attempt, const struct uuid *avoid,
                      struct uuid *ret);
    /* For clients; NULL with an engine, which uses the cache. The leader of the request's shard by
     * earlier answers, unless it is `avoid`; and the leader by this answer (nil: unknown). */
    bool (*find_leader)(void *ctx, const struct router_request *r, const struct uuid *avoid,
                        struct uuid *ret);
    void (*learn_leader)(void *ctx, const struct router_request *r, const struct uuid *host);
    /* Does the shard exist? True if that is unknown, false while it is being deleted. */
    bool (*shard_exists)(void *ctx, uint64_t shard_id);
    /* True, with `st` set, while this host has no view. NULL: it needs none. */
    bool (*lacks_view)(void *ctx, struct thole_status *st);
    /* Are proposals to the shard held back for now? NULL: never. */
    bool (*is_held)(void *ctx, uint64_t shard_id);
    /* An exchange with this host failed. */
    void (*host_unreachable)(void *ctx, const struct uuid *host);
};

struct router *router_new(const struct router_options *o);
/* Before the first request; never in a client. */
void router_set_engine(struct router *ro, struct engine *e);
/* Fail new and waiting requests with STOPPED. Requests in the engine or on the bus end when these
 * stop. */
void router_stop(struct router *ro);
void router_free(struct router *ro);

/* `shard_name` (a client's, instead of an id) must live until `done`; NULL otherwise. */
void router_route(struct router *ro, struct router_request *r, const char *shard_name);

struct router_cache *router_get_cache(struct router *ro);

#endif
