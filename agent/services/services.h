/* Call services_register (agent.h) before bus_start, and this when the agent is freed. */
#ifndef AGENT_SERVICES_SERVICES_H
#define AGENT_SERVICES_SERVICES_H

#include "agent/core/agent.h"

/* The etcd version of the API; clients decide by it which calls they use. */
#define ETCD_VERSION "3.4.23"
#define ETCD_CLUSTER "3.4.0"

/* After bus_stop (which ends every call), before the registry is freed. Does nothing for an agent
 * without services. */
void services_unregister(struct agent *a);

#endif
