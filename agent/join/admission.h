/* Requests of hosts to join the cluster through this member: METHOD_JOIN.
 *
 * Threads: join__admission_new and join__admission_refuse run on any thread, everything else on the
 * reconciler's worker. */
#ifndef AGENT_JOIN_ADMISSION_H
#define AGENT_JOIN_ADMISSION_H

#include "agent/core/agent_internal.h"
#include "base/worker.h"

struct admissions;
struct admissions *join__admissions_new(struct agent *a);
void join__admissions_stop(struct admissions *js); /* refuses the waiting hosts */
void join__admissions_free(struct admissions *js);
/* The message of a request for the worker; NULL: it was refused at once. */
struct worker_msg *join__admission_new(struct agent *a, struct bus_request *request);
void join__admission_refuse(struct worker_msg *m);
void join__admissions_handle(struct admissions *js, struct worker_msg *m, uint64_t now_ns);
/* Answer the hosts that the view shows. Returns when it must be called again at the latest. */
uint64_t join__admissions_step(struct admissions *js, uint64_t now_ns);

#endif
