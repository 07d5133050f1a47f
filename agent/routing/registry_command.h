/* Commands of shard zero, as other hosts and clients propose them, and their results. */
#ifndef AGENT_ROUTING_REGISTRY_COMMAND_H
#define AGENT_ROUTING_REGISTRY_COMMAND_H

#include "agent/access/access.h"
#include "agent/core/agent.h"

/* A client of the library that proposes a command. */
struct router_client {
    struct access *access;
    const struct access_user *user;
    const char *address;
};
/* Check a command that another host (NULL) or a client of the library proposes: a client needs the
 * rights that the services ask for. This host sets actor and time of a client's command. `ret` has
 * an owner if it is not `given`. */
THOLE_MUST_CHECK enum thole_code router_admit_command(struct slice given,
                                                      const struct router_client *client,
                                                      struct bufslice *ret,
                                                      struct bus_denial *ret_why);
/* The result of a command. `ret` lives in `arena`; NULL on failure, with *ret_st set. */
void router_read_result(const struct router_request *r, upb_Arena *arena,
                        struct thole_status *ret_st, const thole_registry_v1_Result **ret);

#endif
