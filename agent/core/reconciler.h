/* The reconciler: the agent's worker, which compares what is with what should be after each change.
 * Start reading at reconciler.c, function reconciler_turn. */
#ifndef AGENT_CORE_RECONCILER_H
#define AGENT_CORE_RECONCILER_H

#include "agent/core/agent_internal.h"
#include "base/worker.h"
#include "thole/registry/v1/registry.upb.h"

struct reconciler *agent__reconciler_new(struct agent *a);
void agent__reconciler_start(struct reconciler *r); /* a wake before this is remembered */
void agent__reconciler_stop(struct reconciler *r);
void agent__reconciler_free(struct reconciler *r);

/* Any thread. */
void agent__reconciler_wake(struct reconciler *r);
void agent__reconciler_replica_changed(struct reconciler *r, uint64_t shard_id);
/* METHOD_JOIN. Answers the request, now or later. */
void agent__reconciler_join(struct reconciler *r, struct bus_request *request);
/* Hand the message of an admission to the worker again. False: the host is stopping. */
bool agent__reconciler_repost_join(struct reconciler *r, struct worker_msg *m);

/* A command of shard zero, as it is proposed. */
struct bufslice reconciler_admit_command(const thole_v1_Host *host, const char *actor,
                                         uint64_t failed_replica, upb_StringView failure,
                                         upb_StringView lineage, upb_Arena *arena);

#endif
