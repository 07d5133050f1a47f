/* What can be said of rows at this moment: see confirmed.c. */
#ifndef AGENT_CORE_CONFIRMED_H
#define AGENT_CORE_CONFIRMED_H

#include "agent/core/agent.h"

struct confirmed_facts *confirmed_facts_new(void);
void confirmed_facts_free(struct confirmed_facts *f);
/* Notes since when what could be confirmed cannot be. After each change of the view, connections
 * and disks; on the reconciler's worker. True: agent_shard_confirmed may say something else of any
 * shard. */
bool confirmed_facts_update(struct agent *a, const struct registry_view *v);

/* For how long no leader of shard zero has been known here; 0: one is known. */
uint64_t agent_view_age_ms(struct agent *a);
/* As its row says, but suspect instead of live while it is not connected to this host. */
int32_t agent_host_liveness(struct agent *a, const thole_v1_Host *row);

/* For many shards in a row. Borrows the view. */
struct agent_confirmed {
    struct agent *agent;
    const struct registry_view *view;
    uint64_t view_age_ms;
};
struct agent_confirmed agent_confirmed_of(struct agent *a, const struct registry_view *v);

struct shard_now {
    bool served;            /* as far as can be told: it takes proposals */
    bool served_here;       /* a replica of this host says so, however old the view is */
    bool changed;           /* the spec, and nothing was done for that yet */
    const char *reason;     /* if not served; static, one word */
    uint64_t age_ms;        /* and how long ago it was confirmed last; the message says it, too */
    uint32_t votes, silent; /* its voters, by the rows; of these, on hosts that do not answer */
    uint64_t silent_ms;     /* for how long the first of these */
    char message[THOLE_STATUS_MESSAGE_BYTES];
};
void agent_shard_confirmed(const struct agent_confirmed *n, const thole_v1_Shard *row,
                           struct shard_now *ret);

#endif
