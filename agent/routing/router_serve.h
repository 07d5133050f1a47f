/* Requests that other hosts and the library's clients send to this host. */
#ifndef AGENT_ROUTING_ROUTER_SERVE_H
#define AGENT_ROUTING_ROUTER_SERVE_H

#include "agent/core/agent.h"

/* METHOD_PROPOSE, QUERY and TRANSFER; METHOD_WATCH. Answer the bus request, now or later. */
void router_serve_forward(struct agent *a, struct bus_request *q);
void router_serve_watch(struct agent *a, struct bus_request *q);
void router_serve_answer(struct agent *a, struct bus_request *q); /* METHOD_ANSWER */
size_t router_forwarded_bytes(void); /* of an object in the pool agent.forwarded */

#endif
