/* What this host knows about which host leads which shard. Hints only, and any thread. */
#ifndef AGENT_ROUTING_ROUTER_CACHE_H
#define AGENT_ROUTING_ROUTER_CACHE_H

#include "agent/core/agent.h"

struct route_hint {
    bool local;        /* a replica runs here ... */
    bool local_serves; /* ... and can answer queries */
    bool local_leads;
    uint64_t term;
    struct uuid leader_host; /* nil: unknown */
};
/* May this replica answer queries and feed watches? A replica that was removed from its group may
 * lack newer entries. */
static inline bool router_is_serving_replica(const struct engine_replica_status *s)
{
    return s->initialised && !s->failed && !s->removed_by_peer && !s->witness;
}
struct router_cache;
struct router_cache *router_cache_new(const struct uuid *self);
void router_cache_free(struct router_cache *c);
bool router_cache_get(struct router_cache *c, uint64_t shard_id, struct route_hint *ret);
/* From the engine's observer. */
void router_cache_set_local(struct router_cache *c, const struct engine_replica_status *s);
/* The local replica was removed. */
void router_cache_remove_local(struct router_cache *c, uint64_t shard_id);
/* An answer named the leader. Ignored if its term is older than the known one. */
void router_cache_set_leader(struct router_cache *c, uint64_t shard_id, uint64_t term,
                             const struct uuid *host);
/* The host did not answer for the shard. */
void router_cache_forget_leader(struct router_cache *c, uint64_t shard_id, const struct uuid *host);

#endif
