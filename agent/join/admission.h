/* Hosts that ask this member to let them in: METHOD_JOIN. All but admission_msg, admission_refuse
 * and the outcome of the command run on the reconciler's worker. */
#ifndef AGENT_JOIN_ADMISSION_H
#define AGENT_JOIN_ADMISSION_H

#include "agent/core/agent_internal.h"

struct admissions;
struct admissions *admissions_new(struct agent *a);
void admissions_stop(struct admissions *js); /* refuses those that wait */
void admissions_free(struct admissions *js);
/* A request's message for the worker, or NULL when it was refused at once. */
struct worker_msg *admission_msg(struct agent *a, struct bus_request *request);
void admission_refuse(struct worker_msg *m);
void admissions_add(struct admissions *js, struct worker_msg *m, uint64_t now_ns);
/* Answers those that the view shows; returns when it wants to be called again at the latest. */
uint64_t admissions_step(struct admissions *js, uint64_t now_ns);

/* reconciler.c */
bool reconciler_repost(struct reconciler *cs, struct worker_msg *m);
struct bufslice reconciler_admit_command(const thole_v1_Host *host, const char *actor,
                                         uint64_t failed_replica, upb_StringView failure,
                                         upb_StringView lineage, upb_Arena *arena);

#endif
