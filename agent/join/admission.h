/* Hosts that ask this member to let them in: METHOD_JOIN. All but joiner_msg, joiner_refuse and the
 * outcome of the command run on the chores' worker. */
#ifndef AGENT_JOIN_ADMISSION_H
#define AGENT_JOIN_ADMISSION_H

#include "agent/core/agent_internal.h"

struct joiners;
struct joiners *joiners_new(struct agent *a);
void joiners_stop(struct joiners *js); /* refuses those that wait */
void joiners_free(struct joiners *js);
/* A request's message for the worker, or NULL when it was refused at once. */
struct worker_msg *joiner_msg(struct agent *a, struct bus_request *request);
void joiner_refuse(struct worker_msg *m);
void joiners_add(struct joiners *js, struct worker_msg *m, uint64_t now_ns);
/* Answers those that the view shows; returns when it wants to be called again at the latest. */
uint64_t joiners_step(struct joiners *js, uint64_t now_ns);

/* reconciler.c */
bool chores_repost(struct chores *cs, struct worker_msg *m);
struct bufslice chores_admit_command(const thole_v1_Host *host, const char *actor,
                                     uint64_t failed_replica, upb_StringView failure,
                                     upb_StringView lineage, upb_Arena *arena);

#endif
