/* Validates a batch of updates. Both log stores call it before they change anything, so a refused
 * batch has written nothing. A replica may occur in several updates of one batch. */
#ifndef SHARDS_STORE_PLAN_H
#define SHARDS_STORE_PLAN_H

#include "shards/store/store.h"

/*            create           remove             forget
 *   ABSENT ---------> LIVE ----------> TOMBSTONE --------> GONE
 *      \                \-> DAMAGED (found at recovery) -> TOMBSTONE
 *       \------ remove ------------------>
 * An id that is GONE was used, and must not be used again. */
enum log_state { LOG_ABSENT = 0, LOG_LIVE, LOG_DAMAGED, LOG_TOMBSTONE, LOG_GONE };

struct log_plan {
    enum log_state state;
    uint64_t start, last;
};
/* Check `u` against `p`, and change `p` to the state after `u`. INVALID_ARGUMENT if refused. */
THOLE_MUST_CHECK enum thole_code store__plan(struct log_plan *p, const struct store_update *u,
                                             struct thole_status *st);

#endif
