/* Commands of shard zero, as other hosts and clients propose them, and their results. */
#ifndef AGENT_ROUTING_REGISTRY_COMMAND_H
#define AGENT_ROUTING_REGISTRY_COMMAND_H

#include "agent/core/agent.h"

/* Check a command that another host or a client of the library proposes. This host sets actor and
 * time of a client's command. `ret` has an owner if it is not `given`. */
THOLE_MUST_CHECK enum thole_code router_admit_command(struct slice given, bool from_host,
                                                      struct bufslice *ret,
                                                      struct thole_status *st);
/* The result of a command. `ret` lives in `arena`; NULL on failure, with *ret_st set. */
void router_read_result(const struct router_request *r, upb_Arena *arena,
                        struct thole_status *ret_st, const thole_registry_v1_Result **ret);

#endif
