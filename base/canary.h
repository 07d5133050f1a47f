/* Injected bugs: each is a known mistake of other Raft implementations, at the place where it would
 * have been made. `CANARY(x)` is false at compile time in every build except the simulator's own
 * copy of the code, which switches one on to prove that the simulator finds it. */
#ifndef BASE_CANARY_H
#define BASE_CANARY_H

#include <stdbool.h>

/* Numbered as in the catalogue of shards/sim/README.md. */
#define CANARY_LIST(X)            \
    X(vote_before_sync, 1)        \
    X(stale_lease, 2)             \
    X(duplicate_read_context, 3)  \
    X(read_before_commit, 4)      \
    X(reads_parked, 5)            \
    X(step_down_erases_vote, 6)   \
    X(stale_vote_counted, 7)      \
    X(two_changes_in_flight, 8)   \
    X(term_not_synced, 9)         \
    X(pre_vote_deadlock, 10)      \
    X(commit_past_match, 17)      \
    X(empty_append_term_zero, 18) \
    X(inflight_leak, 19)          \
    X(apply_skips, 20)            \
    X(uncommitted_leak, 21)       \
    X(auto_leave_repeated, 22)    \
    X(campaign_unapplied, 23)     \
    X(new_peer_inactive, 24)      \
    X(old_append_truncates, 25)   \
    X(leader_silent, 26)          \
    X(wake_up_lost, 27)           \
    X(failed_write_counts, 29)    \
    X(log_over_snapshot, 30)      \
    X(snapshot_index_lost, 31)    \
    X(lease_too_long, 36)         \
    X(asleep_is_stalled, 37)      \
    X(vote_unanswered, 38)        \
    X(snapshot_without_lead, 39)  \
    X(force_before_sync, 40)      \
    X(force_uncommitted, 41)      \
    X(answers_apart, 44)          \
    X(request_ids_not_saved, 45)  \
    X(request_ids_by_clock, 46)   \
    X(stamp_falls, 47)            \
    X(tick_of_deposed, 48)        \
    X(alive_in_outage, 49)        \
    X(timer_lost_in_snapshot, 50) \
    X(timer_lost_asleep, 51)

/* Those of whole hosts, as in the catalogue of agent/sim/README.md. */
#define CANARY_HOST_LIST(X)          \
    X(promoted_unanswered, 101)      \
    X(drain_shrinks_zero, 103)       \
    X(ready_without_leader, 104)     \
    X(addresses_from_rows, 105)      \
    X(low_space_leads, 106)          \
    X(request_forgotten, 107)        \
    X(replica_id_reused, 108)        \
    X(two_replicas, 109)             \
    X(forward_drops_session, 110)    \
    X(forward_drops_request_id, 111) \
    X(removed_ends_early, 112)       \
    X(failed_voter_counts, 113)      \
    X(stalled_host_vouches, 114)     \
    X(pause_by_wall_clock, 115)      \
    X(move_never_ends, 116)          \
    X(stall_never_ends, 118)         \
    X(wrong_clock_leads, 117)

enum canary {
    CANARY_none = 0,
#define CANARY_NUMBER(name, number) CANARY_##name = (number),
    CANARY_LIST(CANARY_NUMBER) CANARY_HOST_LIST(CANARY_NUMBER)
#undef CANARY_NUMBER
};

#ifdef THOLE_CANARIES
extern enum canary canary_on;
#define CANARY(name) (__builtin_expect(canary_on == CANARY_##name, 0))
#else
#define CANARY(name) false
#endif

#endif
