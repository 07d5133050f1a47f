/* See quorum.h. Dissertation 3.3 (majorities) and 4.3 (joint majorities). */
#include "shards/raft/quorum.h"

#include "base/assert.h"

uint64_t raft__quorum_value(uint64_t *values, size_t n)
{
    ASSERT(n <= LIMIT_MEMBERS);
    if (n == 0) {
        return UINT64_MAX;
    }
    /* Insertion sort, descending: n is at most LIMIT_MEMBERS and mostly 3 or 5. */
    for (size_t i = 1; i < n; i++) {
        uint64_t v = values[i];
        size_t j = i;
        for (; j > 0 && values[j - 1] < v; j--) {
            values[j] = values[j - 1];
        }
        values[j] = v;
    }
    return values[n / 2];
}

enum raft_tally raft__quorum_tally(size_t granted, size_t refused, size_t n)
{
    size_t majority = n / 2 + 1;

    ASSERT(granted + refused <= n);
    if (n == 0 || granted >= majority) {
        return RAFT_TALLY_WON;
    }
    return n - refused < majority ? RAFT_TALLY_LOST : RAFT_TALLY_PENDING;
}

uint64_t raft__quorum_joint_value(const struct raft_config *c, const uint64_t *values)
{
    uint64_t incoming[LIMIT_MEMBERS];
    uint64_t outgoing[LIMIT_MEMBERS];
    size_t incoming_count = 0;
    size_t outgoing_count = 0;

    ASSERT(c->member_count <= LIMIT_MEMBERS);
    for (uint32_t i = 0; i < c->member_count; i++) {
        if (raft__role_votes(c->members[i].role)) {
            incoming[incoming_count++] = values[i];
        }
        if (raft__role_votes(c->members[i].outgoing_role)) {
            outgoing[outgoing_count++] = values[i];
        }
    }
    uint64_t a = raft__quorum_value(incoming, incoming_count);
    uint64_t b = raft__quorum_value(outgoing, outgoing_count);
    return a < b ? a : b;
}

struct half {
    size_t granted, refused, count;
};

static void half_add(struct half *h, uint8_t role, uint8_t vote)
{
    if (!raft__role_votes(role)) {
        return;
    }
    h->count++;
    h->granted += vote == RAFT_VOTE_GRANTED;
    h->refused += vote == RAFT_VOTE_REFUSED;
}

enum raft_tally raft__quorum_joint_tally(const struct raft_config *c, const uint8_t *votes)
{
    struct half in = {0};
    struct half out = {0};

    ASSERT(c->member_count <= LIMIT_MEMBERS);
    for (uint32_t i = 0; i < c->member_count; i++) {
        half_add(&in, c->members[i].role, votes[i]);
        half_add(&out, c->members[i].outgoing_role, votes[i]);
    }
    enum raft_tally a = raft__quorum_tally(in.granted, in.refused, in.count);
    enum raft_tally b = raft__quorum_tally(out.granted, out.refused, out.count);
    if (a == RAFT_TALLY_LOST || b == RAFT_TALLY_LOST) {
        return RAFT_TALLY_LOST;
    }
    return a == RAFT_TALLY_WON && b == RAFT_TALLY_WON ? RAFT_TALLY_WON : RAFT_TALLY_PENDING;
}
