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
};
/* A data directory belongs to one process at a time: a second one is a copy. INVALID_ARGUMENT
 * BAD_REQUEST: an impossible incarnation; FAILED_PRECONDITION STALE_INCARNATION. */
THOLE_MUST_CHECK enum thole_code hello_check_start(const struct known_start *known,
                                                   uint64_t incarnation,
                                                   const struct lineage *lineage,
                                                   const char *address, struct thole_status *st);

#endif
