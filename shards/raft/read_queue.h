/* Reads that wait for a linearizable point, in order of arrival, and answers for the next harvest.
 *
 * A leader gives the reads that arrived since the last harvest one *round*; heartbeats carry its
 * number, and a quorum that echoes it (or a later one) confirms them all. A follower gives them one
 * *forward* number, which the leader's answer echoes. Both counters only grow. */
#ifndef SHARDS_RAFT_READ_QUEUE_H
#define SHARDS_RAFT_READ_QUEUE_H

#include "shards/raft/raft.h"

/* Reads outstanding in one replica, its own and those of peers. */
#define RAFT_READS_MAX 65536

struct raft_read_wait {
    uint64_t context; /* the engine's number, or the peer's forward number */
    uint64_t from;    /* replica that asked */
    uint64_t number;  /* round or forward number; 0: not started */
    uint64_t index;   /* leader: commit when the round was opened */
    uint64_t deadline_ms;
};

struct raft_reads {
    struct raft_read_wait *queue; /* ring: started ones first, numbers ascending */
    size_t capacity, head, count;
    size_t started; /* how many at the front have a number */

    struct raft_read_result *results; /* for the next update */
    size_t result_count, result_capacity;
    bool lent; /* the results are in the last update */
};

void raft__reads_deinit(struct raft_reads *q);
bool raft__reads_full(const struct raft_reads *q);
void raft__reads_push(struct raft_reads *q, struct raft_read_wait w);
struct raft_read_wait *raft__reads_front(struct raft_reads *q); /* NULL if empty */
struct raft_read_wait *raft__reads_at(const struct raft_reads *q, size_t i);
struct raft_read_wait raft__reads_pop(struct raft_reads *q);
void raft__reads_result(struct raft_reads *q, uint64_t context, uint64_t index, bool failed);
void raft__reads_take_back(struct raft_reads *q);
/* The order of the queue as assertions. `number`: the last round or forward. */
void raft__reads_check(const struct raft_reads *q, uint64_t number);

#endif
