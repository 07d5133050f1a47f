/* How a host becomes a member of a cluster, and a member again after a restart. */
#ifndef AGENT_JOIN_JOIN_H
#define AGENT_JOIN_JOIN_H

#include "agent/core/agent_internal.h"

/* bootstrap.c */

/* Start a member's replica of shard zero, or else the thread that makes this host a member. */
THOLE_MUST_CHECK enum thole_code join__bootstrap_start(struct agent *a, struct thole_status *st);
void join__bootstrap_stop(struct agent *a);
/* Save this identity durably, then start shard zero's replica. Blocking. */
THOLE_MUST_CHECK enum thole_code join__bootstrap_become_member(struct agent *a,
                                                               const struct identity *i,
                                                               struct thole_status *st);
/* Sleep; false, and at once, when the agent stops. */
bool join__pause(struct agent *a, uint32_t ms);
/* Call the hook of tests. False: the bootstrap must end here. */
bool join__bootstrap_step(struct agent *a, const char *name);

/* join.c */

/* Ask members until one admits this host. The bootstrap thread. */
void join__run(struct agent *a);
/* FAILED_PRECONDITION WRONG_CLUSTER: a host at --join belongs to another cluster. */
THOLE_MUST_CHECK enum thole_code join__check_cluster(struct agent *a, struct thole_status *st);

/* For the files of this room. */

/* The body of METHOD_JOIN. `failed_replica` 0: this host is not a member yet. */
struct buf *join__encode_request(struct agent *a, uint64_t failed_replica, const char *failure);
/* Learn the addresses in the reply and save them. */
void join__learn_hosts(struct agent *a, const thole_bus_v1_JoinReply *reply);
/* Retrying is useless after this refusal. */
bool join__is_permanent_refusal(const struct thole_status *st);

#endif
