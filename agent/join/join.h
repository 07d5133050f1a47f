/* How a host becomes a member of a cluster, and one again after a restart. */
#ifndef AGENT_JOIN_JOIN_H
#define AGENT_JOIN_JOIN_H

#include "agent/core/agent_internal.h"

/* bootstrap.c: becoming a member. Start what the identity and the options ask for: a member's
 * replica of shard zero, or the thread that makes this host a member. */
THOLE_MUST_CHECK enum thole_code join__bootstrap_start(struct agent *a, struct thole_status *st);
void join__bootstrap_stop(struct agent *a);
/* Durably become a member with this identity, then start shard zero's replica. Blocking. */
THOLE_MUST_CHECK enum thole_code join__bootstrap_become_member(struct agent *a,
                                                               const struct identity *i,
                                                               struct thole_status *st);
/* Sleep, or return false at once when the agent stops. */
bool join__pause(struct agent *a, uint32_t ms);
bool join__bootstrap_step(struct agent *a, const char *name);

/* join.c */
void join__run(struct agent *a);
/* Is the data directory's cluster the one that these addresses belong to? */
THOLE_MUST_CHECK enum thole_code join__check_cluster(struct agent *a, struct thole_status *st);

/* For the files of this room. */

/* The body of METHOD_JOIN. `failed_replica` 0: this host is not a member yet. */
struct buf *join__encode_request(struct agent *a, uint64_t failed_replica, const char *failure);
/* Learn the addresses in the reply and save them. */
void join__learn_hosts(struct agent *a, const thole_bus_v1_JoinReply *reply);
/* Retrying is useless after this refusal. */
bool join__is_permanent_refusal(const struct thole_status *st);

#endif
