/* What a report of a problem needs of one host, without secrets. */
#ifndef AGENT_CORE_HOST_REPORT_H
#define AGENT_CORE_HOST_REPORT_H

#include "agent/core/agent.h"
#include "thole/v1/diagnostics.upb.h"

/* All but the status. Reads the data directory's entries. Any thread. */
void agent_host_report(struct agent *a, thole_v1_HostReport *report, upb_Arena *arena);

#endif
