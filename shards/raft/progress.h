/* A leader's view of one member, and what it may send to it now. No messages are made here.
 *
 *   PROBE      the match is unknown: one append, then wait for its answer or a heartbeat's
 *   REPLICATE  `next` runs ahead of `match` by at most a window of messages and bytes
 *   SNAPSHOT   the log no longer reaches the member: paused until the snapshot is reported, or the
 *              member acknowledges enough
 *
 * Invariant: match < next. */
#ifndef SHARDS_RAFT_PROGRESS_H
#define SHARDS_RAFT_PROGRESS_H

#include "shards/raft/raft.h"

struct raft_inflight {
    uint64_t last; /* index of the last entry of the message */
    uint64_t bytes;
};

struct raft_progress {
    uint64_t match, next;
    enum raft_peer_state state;
    bool recently_active; /* since the last quorum check, or it is new since then */
    bool answered;        /* it answered a message that this leader sent, ... */
    uint64_t answered_ms; /* ... the newest of them at this time */
    bool paused;          /* PROBE: a message is under way */
    bool want_append; /* it answered a heartbeat and is behind: send an append, even an empty one */
    bool log_wait;    /* REPLICATE: a log read from `log_first` is outstanding */
    uint64_t log_first;
    uint64_t commit_sent;
    bool absent;             /* its host is not heard: see sleep.c */
    uint64_t sleep_round;    /* the last one in which it consented to sleep */
    uint64_t read_acked;     /* the newest read round that it confirmed */
    uint64_t lease_until_ns; /* its promise not to vote ends then, by the leader's clock */

    struct raft_inflight *inflight; /* ring */
    uint32_t inflight_capacity;     /* grows up to LIMIT_INFLIGHT_MESSAGES */
    uint32_t inflight_head, inflight_count;
    uint64_t inflight_bytes;
};

void raft__progress_init(struct raft_progress *p, uint64_t next);
/* Of a sleeping member: it has everything up to `last` and knows the commit index `commit`. */
void raft__progress_slept(struct raft_progress *p, uint64_t last, uint64_t commit);
void raft__progress_deinit(struct raft_progress *p);
void raft__progress_probe(struct raft_progress *p, uint64_t next);
void raft__progress_replicate(struct raft_progress *p);
void raft__progress_snapshot(struct raft_progress *p);
/* The member has everything up to `index`. True if that is news. */
bool raft__progress_acked(struct raft_progress *p, uint64_t index);
/* It has no match at `rejected` and may have one at `guess`. False if the rejection is stale. */
bool raft__progress_rejected(struct raft_progress *p, uint64_t rejected, uint64_t guess);
/* An append with `count` > 0 entries up to `last` leaves. */
void raft__progress_sent(struct raft_progress *p, uint64_t last, uint32_t count, uint64_t bytes);
void raft__progress_trim(struct raft_progress *p); /* free the window if it is empty */
bool raft__progress_window_full(const struct raft_progress *p);
/* The invariants of struct raft_progress as assertions. */
void raft__progress_check(const struct raft_progress *p);

#endif
