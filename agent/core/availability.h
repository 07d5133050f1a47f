/* What can be said of rows at this moment: see availability.c. */
#ifndef AGENT_CORE_AVAILABILITY_H
#define AGENT_CORE_AVAILABILITY_H

#include "agent/core/agent.h"

/* For how long no leader of shard zero has been known here; 0: one is known. */
uint64_t agent_view_age_ms(struct agent *a);
/* As its row says, but suspect instead of live while it is not connected to this host. */
int32_t agent_check_host_liveness(struct agent *a, const thole_v1_Host *row);

/* For many shards in a row. Borrows the view. */
struct availability_check {
    struct agent *agent;
    const struct registry_view *view;
    uint64_t view_age_ms;
};
struct availability_check agent_availability_begin(struct agent *a, const struct registry_view *v);

struct shard_availability {
    bool available;          /* as far as can be told: it takes proposals */
    bool available_here;     /* a replica of this host says so, however old the view is */
    bool spec_pending;       /* the spec, and nothing was done for that yet */
    const char *reason;      /* if not served; static, one word */
    uint64_t age_ms;         /* and how long ago it was confirmed last; the message says it, too */
    uint32_t voters, silent; /* its voters, by the rows; of these, on hosts that do not answer */
    uint64_t silent_ms;      /* for how long the first of these */
    char message[THOLE_STATUS_MESSAGE_BYTES];
};
void agent_check_shard(const struct availability_check *check, const thole_v1_Shard *row,
                       struct shard_availability *ret);

#endif
