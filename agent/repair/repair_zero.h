/* Repair of shard zero, offline: which of these data directories has the most of it, and the mark
 * in one of them that makes its next start force the group. The daemons must be stopped: each
 * directory is locked until repair_zero_close. */
#ifndef AGENT_REPAIR_REPAIR_ZERO_H
#define AGENT_REPAIR_REPAIR_ZERO_H

#include "agent/core/datadir.h"
#include "agent/repair/shard_repair.h"

#define REPAIR_ZERO_DIRS_MAX LIMIT_MEMBERS

struct repair_zero {
    struct datadir
        dirs[REPAIR_ZERO_DIRS_MAX]; /* of plan.replicas[i]; those that were not given follow */
    size_t dir_count;
    struct repair_plan plan;
};

/* NOT_FOUND: no data directory; FAILED_PRECONDITION LOCKED, WRONG_CLUSTER; what the stores say. */
THOLE_MUST_CHECK enum thole_code repair_zero_open(const char *const *paths, size_t n,
                                                  struct repair_zero *ret, struct thole_status *st);
/* Durable. FAILED_PRECONDITION if the plan is not possible. */
THOLE_MUST_CHECK enum thole_code repair_zero_mark(struct repair_zero *z, struct thole_status *st);
void repair_zero_close(struct repair_zero *z);

/* The mark, at the start of a host: 0, or the epoch under which to force. */
THOLE_MUST_CHECK enum thole_code repair_zero_marked(struct datadir *d, uint64_t *ret_epoch,
                                                    struct thole_status *st);
THOLE_MUST_CHECK enum thole_code repair_zero_unmark(struct datadir *d, struct thole_status *st);

#endif
