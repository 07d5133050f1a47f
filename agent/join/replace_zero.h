/* A member whose replica of shard zero cannot go on gets a new one. */
#ifndef AGENT_JOIN_REPLACE_ZERO_H
#define AGENT_JOIN_REPLACE_ZERO_H

#include "agent/core/agent_internal.h"

/* A member whose replica of shard zero failed or was removed from the group gets another one from
 * the others, and restarts with it. One that only hears no leader asks whether there is another
 * one, until it hears a leader. On the reconciler's worker. */
void join__replace_zero_start(struct agent *a, const struct engine_replica_status *zero);
void join__replace_zero_stop(struct agent *a); /* after the worker stopped */

#endif
