/* Forming a new cluster with the hosts of --peers. The rules are in agent/join/README.md. */
#ifndef AGENT_JOIN_PEER_BOOTSTRAP_H
#define AGENT_JOIN_PEER_BOOTSTRAP_H

#include "agent/core/agent_internal.h"

struct peer_bootstrap *join__peer_bootstrap_new(struct agent *a);
void join__peer_bootstrap_free(struct peer_bootstrap *m);
/* Read the promise, if one was made, and the addresses. Before the bus answers requests. */
THOLE_MUST_CHECK enum thole_code join__peer_bootstrap_prepare(struct agent *a,
                                                              struct thole_status *st);
void join__peer_bootstrap_run(struct agent *a); /* the bootstrap thread */
/* METHOD_PEER_BOOTSTRAP */
void join__peer_bootstrap_serve(struct agent *a, struct bus_request *request);
/* The id of the cluster that these members form: a hash over their sorted (address, host id). */
struct uuid join__peer_bootstrap_cluster_id(const struct member_list *l);

#endif
