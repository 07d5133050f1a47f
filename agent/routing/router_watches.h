/* Watches: of a replica here, or of one on another host. */
#ifndef AGENT_ROUTING_ROUTER_WATCHES_H
#define AGENT_ROUTING_ROUTER_WATCHES_H

#include "agent/core/agent.h"

struct router_watches;
struct router_watches *router_watches_new(struct agent *a);
/* Every watch ends with STOPPED. Before engine and bus are freed. */
void router_watches_stop(struct router_watches *ws);
void router_watches_free(struct router_watches *ws);
/* Translate the end of an exchange into the end of a watch, whose outcome is never unknown. */
void router_watch_end_status(struct thole_status *st);
uint64_t router_watches_add(struct router_watches *ws, uint64_t shard_id, uint32_t hops,
                            const struct agent_watcher *w);
void router_watches_remove(struct router_watches *ws, uint64_t id);

#endif
