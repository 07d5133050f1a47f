/* Offline repair of shard zero: finds the data directory with the newest log of shard zero, and
 * marks it, so that its next start makes its replica the only voter. The daemons must be stopped:
 * each directory is locked until repair_zero_close. */
#ifndef AGENT_REPAIR_REPAIR_ZERO_H
#define AGENT_REPAIR_REPAIR_ZERO_H

#include "agent/core/datadir.h"
#include "agent/repair/shard_repair.h"

#define REPAIR_ZERO_DIRS_MAX LIMIT_MEMBERS

struct repair_zero {
    struct datadir
        dirs[REPAIR_ZERO_DIRS_MAX]; /* of plan.replicas[i]; replicas without a directory follow */
    size_t dir_count;
    struct repair_plan plan;
};

/* NOT_FOUND: no data directory; FAILED_PRECONDITION LOCKED, WRONG_CLUSTER; errors of the log. */
THOLE_MUST_CHECK enum thole_code repair_zero_open(const char *const *paths, size_t n,
                                                  struct repair_zero *ret, struct thole_status *st);
/* Durable. FAILED_PRECONDITION if the plan is not possible. */
THOLE_MUST_CHECK enum thole_code repair_zero_mark(struct repair_zero *z, struct thole_status *st);
void repair_zero_close(struct repair_zero *z);

/* At the start of a host: the epoch of the mark; 0: there is no mark. */
THOLE_MUST_CHECK enum thole_code repair_zero_marked(struct datadir *d, uint64_t *ret_epoch,
                                                    struct thole_status *st);
THOLE_MUST_CHECK enum thole_code repair_zero_unmark(struct datadir *d, struct thole_status *st);

#endif
