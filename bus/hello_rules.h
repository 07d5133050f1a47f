/* Which callers a host accepts by what their hello says. Pure functions: the simulated bus of
 * agent/sim obeys the same rules. */
#ifndef BUS_HELLO_RULES_H
#define BUS_HELLO_RULES_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/lineage.h"
#include "base/uuid.h"

/* A nil cluster is unknown. `stream`: an Ask may cross from a host without a cluster to a member.
 * FAILED_PRECONDITION WRONG_CLUSTER; UNAVAILABLE NOT_READY: we have no cluster yet. */
THOLE_MUST_CHECK enum thole_code hello_check_cluster(const struct uuid *ours,
                                                     const struct uuid *theirs, bool caller_is_host,
                                                     bool stream, struct thole_status *st);

/* The newest start of a host's process that was accepted. */
struct known_start {
    uint64_t incarnation; /* 0: none */
    uint64_t number;      /* in its lineage */
    const char *address;
    /* The cluster has not recorded this start, as far as this host knows: it may be that of a copy,
     * and another one that of the original. */
    bool undecided;
};
/* What the cluster has recorded of the starts of a host. */
struct recorded_start {
    bool asked; /* false: this host cannot know */
    bool found;
    uint64_t incarnation, number;
};
/* May the start that was accepted stay, now that another one calls? A host that does not know the
 * newest records may accept a copy, and must not refuse the original for it later. */
enum known_verdict {
    KNOWN_STAYS,
    KNOWN_STAYS_IF_CONNECTED, /* undecided; else it is forgotten */
    KNOWN_IS_FORGOTTEN,       /* it is that of a copy */
};
/* `known` has the accepted start, with its lineage; sets known->undecided. */
enum known_verdict hello_judge_known(const struct recorded_start *recorded,
                                     const struct lineage *lineage, struct known_start *known);
/* A data directory belongs to one process at a time: a second one is a copy. INVALID_ARGUMENT
 * BAD_REQUEST: an impossible incarnation; FAILED_PRECONDITION STALE_INCARNATION: the caller is a
 * copy, and must end; UNAVAILABLE NOT_READY: one of the two is, and this host cannot tell which
 * (the one that is connected may stay; when it is gone, its start is forgotten). */
THOLE_MUST_CHECK enum thole_code hello_check_start(const struct known_start *known,
                                                   uint64_t incarnation,
                                                   const struct lineage *lineage,
                                                   const char *address, struct thole_status *st);

#endif
