/* Commands of shard zero on their way through the router. */
#ifndef AGENT_ROUTING_REGISTRY_COMMAND_H
#define AGENT_ROUTING_REGISTRY_COMMAND_H

#include "agent/core/agent_internal.h"

/* What may be proposed to shard zero, as it came from another host or from a client of
 * the library, whose actor and time are ours to say. `ret` has an owner if it is not `given`. */
THOLE_MUST_CHECK enum thole_code router_admit_command(struct slice given, bool from_host,
                                                      struct bufslice *ret,
                                                      struct thole_status *st);
/* What a command's answer means. `ret` lives in `arena`; NULL on failure. */
void router_read_result(const struct router_request *r, upb_Arena *arena,
                        struct thole_status *ret_st, const thole_registry_v1_Result **ret);

#endif
