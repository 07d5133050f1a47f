/* The availability of shards and hosts now: what their rows report, checked against what this host
 * observes. Any thread. */
#ifndef AGENT_CORE_AVAILABILITY_H
#define AGENT_CORE_AVAILABILITY_H

#include "agent/core/agent.h"

/* For how long this host has known no leader of shard zero; 0: it knows one. */
uint64_t agent_view_age_ms(struct agent *a);
/* The liveness in the host's row, but SUSPECT instead of LIVE while the host is not connected. */
int32_t agent_check_host_liveness(struct agent *a, const thole_v1_Host *row);

/* What the checks of several shards share. Borrows the view. */
struct availability_check {
    struct agent *agent;
    const struct registry_view *view;
    bool stalled;                           /* this host does not learn what changes */
    uint64_t view_age_ms;                   /* 0: the view is current, as far as this host knows */
    bool view_leaderless;                   /* it has an age because shard zero has no leader */
    const char *view_reason, *view_problem; /* why it has an age, in a word and as text */
};
struct availability_check agent_availability_begin(struct agent *a, const struct registry_view *v);

struct shard_availability {
    bool available;          /* takes proposals, as far as this host can verify */
    bool available_here;     /* by a replica on this host, however old the view is */
    bool spec_pending;       /* placement has not seen the current spec yet */
    bool leaderless;         /* no leader or quorum answers, as far as this host knows */
    const char *reason;      /* if not available: static, one word */
    uint64_t age_ms;         /* how long ago it was last confirmed available; also in the message */
    uint32_t voters, silent; /* voters by the rows; those on hosts that do not answer */
    uint64_t silent_ms;      /* since the first of those hosts fell silent */
    char message[THOLE_STATUS_MESSAGE_BYTES];
};
void agent_check_shard(const struct availability_check *check, const thole_v1_Shard *row,
                       struct shard_availability *ret);

#endif
