/* Call services_register (agent.h) before bus_start, and this when the agent is freed. */
#ifndef AGENT_SERVICES_SERVICES_H
#define AGENT_SERVICES_SERVICES_H

#include "agent/core/agent.h"

/* After bus_stop (which ends every call), before the registry is freed. Does nothing for an agent
 * without services. */
void services_unregister(struct agent *a);

#endif
