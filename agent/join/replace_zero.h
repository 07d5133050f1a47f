/* A member whose replica of shard zero cannot go on gets a new one. */
#ifndef AGENT_JOIN_REPLACE_ZERO_H
#define AGENT_JOIN_REPLACE_ZERO_H

#include "agent/core/agent_internal.h"

/* A member whose replica of shard zero failed, or is none of the group any more, gets another one
 * from the others, and starts again with it. On the reconciler's worker. */
void join__replace_zero_start(struct agent *a, const struct engine_replica_status *zero);
void join__replace_zero_stop(struct agent *a); /* after the worker */

#endif
