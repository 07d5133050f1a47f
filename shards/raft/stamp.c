/* The times of entries. The leader gives each run of entries that it appends one stamp.
 *
 * `now_ms` is the leader's wall clock, or the last stamp's if that is later: it never falls.
 *
 * `alive_ms` is the time during which the group had a leader. A leader goes on from the last stamp
 * in its log, and adds the engine's time since it became leader. So an outage, an election and a
 * step of a clock do not count. What passed between the last entry of a leader and its end does not
 * count either. A leader that is cut off counts until it steps down, which takes at most two
 * election timeouts (check_quorum in lead.c); that counts for the group only if a later leader has
 * its entries. */
#include "shards/raft/raft_internal.h"

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

struct raft_stamp raft_stamp_now(const struct raft *r, uint64_t now_ms, uint64_t wall_ms)
{
    struct raft_stamp last = r->log.last_stamp;

    if (r->role != RAFT_LEADER) {
        return last;
    }
    uint64_t led_ms = max_u64(now_ms, r->now_ms) - r->lead->began_ms;
    struct raft_stamp stamp = {
        .now_ms = max_u64(wall_ms, last.now_ms),
        .alive_ms = max_u64(r->lead->began_alive_ms + led_ms, last.alive_ms),
    };
    if (CANARY(alive_in_outage) && last.now_ms != 0 && wall_ms > last.now_ms) {
        stamp.alive_ms = last.alive_ms + (wall_ms - last.now_ms);
    }
    if (CANARY(stamp_falls) && wall_ms != 0) {
        stamp.now_ms = wall_ms;
    }
    ASSERT(raft_stamp_precedes(last, stamp) || CANARY(stamp_falls));
    return stamp;
}
