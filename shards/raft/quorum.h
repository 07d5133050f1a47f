/* Majorities: the index or the vote that a majority (or both majorities of a joint configuration)
 * supports. Pure functions of a configuration and an array parallel to its members. */
#ifndef SHARDS_RAFT_QUORUM_H
#define SHARDS_RAFT_QUORUM_H

#include "shards/raft/raft.h"

enum raft_vote {
    RAFT_VOTE_MISSING = 0,
    RAFT_VOTE_GRANTED = 1,
    RAFT_VOTE_REFUSED = 2,
};

enum raft_tally {
    RAFT_TALLY_PENDING = 0,
    RAFT_TALLY_WON = 1,
    RAFT_TALLY_LOST = 2,
};

/* The largest value that a majority of `n` values reaches. UINT64_MAX if n == 0, so that an empty
 * half never decides. Reorders `values`. */
uint64_t raft__quorum_value(uint64_t *values, size_t n);
/* How `granted` and `refused` of `n` voters decide. n == 0 is won: an empty half never decides. */
enum raft_tally raft__quorum_tally(size_t granted, size_t refused, size_t n);

/* Over both halves of `c`; `values` and `votes` have one element per member of `c`, in its
 * order. */
uint64_t raft__quorum_joint_value(const struct raft_config *c, const uint64_t *values);
enum raft_tally raft__quorum_joint_tally(const struct raft_config *c, const uint8_t *votes);

/* Roles that count in a majority. */
static inline bool raft__role_votes(uint8_t role)
{
    return role == RAFT_VOTER || role == RAFT_WITNESS;
}

#endif
