/* gRPC health of this host and of its shards, as load balancers see it. */
#ifndef AGENT_CORE_HEALTH_H
#define AGENT_CORE_HEALTH_H

#include "agent/core/agent_internal.h"

struct health;
struct health *agent__health_new(struct agent *a);
void agent__health_free(struct health *h);
/* This host's replica of the shard changed. Any thread. */
void agent__health_replica_changed(struct health *h, uint64_t shard_id);
/* On the reconciler's worker. Returns when it must be called again at the latest. */
uint64_t agent__health_update(struct health *h, uint64_t now_ns);
/* Everything NOT_SERVING, before the host drains. */
void agent__health_stop_serving(struct agent *a);

#endif
