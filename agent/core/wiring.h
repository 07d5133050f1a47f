/* The vtables through which bus, engine, controllers and router call each other. */
#ifndef AGENT_CORE_WIRING_H
#define AGENT_CORE_WIRING_H

#include "agent/core/agent_internal.h"
#include "agent/routing/router.h"

struct engine_transport agent__wiring_transport(struct agent *a);
struct engine_observer agent__wiring_observer(struct agent *a);
/* Also makes a->access. */
struct bus_handler agent__wiring_bus_handler(struct agent *a);
struct hostctl_callbacks agent__wiring_callbacks(struct agent *a);
struct router_options agent__wiring_router(struct agent *a);

void agent__wiring_free_bus(struct agent *a);

#endif
