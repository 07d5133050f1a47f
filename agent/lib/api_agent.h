/* The agent of a host's handle: for doors in the same program, which reach its bus. */
#ifndef AGENT_LIB_API_AGENT_H
#define AGENT_LIB_API_AGENT_H

struct agent;
struct thole;

/* NULL before thole_start, and of a client. */
struct agent *api_agent(struct thole *t);

#endif
