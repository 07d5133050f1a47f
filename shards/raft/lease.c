/* Lease reads, an option: a leader that lately heard from a quorum answers reads without a round.
 *
 * A voter promises, in its answer to a heartbeat, not to vote for `hint` ms of its clock. Votes for
 * a leadership transfer are excepted. A replica that starts waits as long before it votes, because
 * it may have promised before. So no other replica can be elected while a quorum, under the
 * configuration in force when the read is answered, keeps that promise. The leader counts a promise
 * from when it *sent* the heartbeat, and shortens it by the largest difference between clocks. Its
 * time here is real time (raft_clock): the logical time of a stalled loop would make a lease too
 * long. A voter may use logical time for its promise, because that never runs faster. Dissertation
 * 6.4.1. */
#include "base/clock.h"
#include "shards/raft/raft_internal.h"

void raft_clock(struct raft *r, uint64_t real_ns)
{
    if (real_ns > r->real_ns) {
        r->real_ns = real_ns;
    }
    r->real_fresh = true;
}

/* One millisecond less than a voter waits: logical time comes in whole milliseconds. */
uint64_t raft__lease_promise_ms(const struct raft *r)
{
    return r->options.lease ? r->options.election_timeout_ms - 1 : 0;
}

bool raft__promised(const struct raft *r)
{
    return r->options.lease && r->now_ms - r->contact_ms < r->options.election_timeout_ms;
}

void raft__lease_round(struct raft *r)
{
    if (r->options.lease) {
        ASSERT(r->role == RAFT_LEADER && r->lead->rounds != NULL);
        uint64_t number = ++r->read_number;
        r->lead->rounds[number % RAFT_LEASE_ROUNDS] =
            (struct raft_lease_round){.number = number, .sent_ns = r->real_ns};
    }
}

void raft__lease_acked(const struct raft *r, struct raft_progress *p, const struct raft_message *m)
{
    uint64_t longest_ms = raft__lease_promise_ms(r);

    if (longest_ms == 0) {
        return;
    }
    const struct raft_lease_round *round = &r->lead->rounds[m->context % RAFT_LEASE_ROUNDS];
    if (round->number != m->context || round->sent_ns == 0) {
        return;
    }
    ASSERT(r->role == RAFT_LEADER && round->sent_ns <= r->real_ns);
    uint64_t promise_ms = m->hint < longest_ms ? m->hint : longest_ms;
    promise_ms *= CANARY(lease_too_long) ? 10 : 1;
    uint64_t until_ns =
        round->sent_ns + promise_ms * NS_PER_MS / 100 * (100 - LIMIT_CLOCK_DRIFT_PERCENT);
    if (until_ns > p->lease_until_ns) {
        p->lease_until_ns = until_ns;
    }
}

bool raft__lease_valid(const struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    uint64_t until_ns[LIMIT_MEMBERS];

    if (!r->options.lease || r->role != RAFT_LEADER || r->commit < r->lead->first_index ||
        r->lead->lease_void || !r->real_fresh || raft__writer_stalled(r)) {
        return false;
    }
    ASSERT(r->options.check_quorum && r->lead->peer_count == c->member_count);
    for (uint32_t i = 0; i < c->member_count; i++) {
        /* A leader votes for no other replica. */
        bool self = c->members[i].replica_id == r->options.replica_id;
        until_ns[i] = self ? UINT64_MAX : r->lead->peers[i].lease_until_ns;
    }
    return r->real_ns < raft__quorum_joint_value(c, until_ns);
}
