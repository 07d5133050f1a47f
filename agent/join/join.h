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
bool join__bootstrap_pause(struct agent *a, uint32_t ms);
bool join__bootstrap_step(struct agent *a, const char *name);

/* peer_bootstrap.c */
struct peer_bootstrap *join__peer_bootstrap_new(struct agent *a);
void join__peer_bootstrap_free(struct peer_bootstrap *m);
/* Before the bus answers: read the promise, if one was made, and the addresses. */
THOLE_MUST_CHECK enum thole_code join__peer_bootstrap_prepare(struct agent *a,
                                                              struct thole_status *st);
void join__peer_bootstrap_run(struct agent *a); /* the bootstrap thread */
/* METHOD_PEER_BOOTSTRAP */
void join__peer_bootstrap_serve(struct agent *a, struct bus_request *request);
/* The id of a cluster that these members form: a hash over (address, host id), sorted. */
struct uuid join__peer_bootstrap_cluster_id(const struct member_list *l);

/* join.c */
void join__run(struct agent *a);
/* Is the data directory's cluster the one that these addresses belong to? */
THOLE_MUST_CHECK enum thole_code join__check_cluster(struct agent *a, struct thole_status *st);

/* A member whose replica of shard zero failed, or is none of the group any more, gets another one
 * from the others, and starts again with it. On the reconciler's worker. */
void join__renew_start(struct agent *a, const struct engine_replica_status *zero);
void join__renew_stop(struct agent *a); /* after the worker */

#endif
