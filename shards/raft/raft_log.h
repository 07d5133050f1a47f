/* The log in memory: the term of every index (as runs), the newest entries (as a ring), the durable
 * prefix, and the writes under way. It does no I/O.
 *
 * Invariants (L):
 *   L1 the log holds (start_index, last_index]; runs cover exactly that.
 *   L2 the ring holds [cache_first, last_index], cache_first > start_index.
 *   L3 entries from `unsaved` on were in no harvest yet; durable < unsaved <= last_index + 1.
 *   L4 everything up to `durable` is on disk *as it is in this log now*. A write under way carries
 *      the last index that it will make durable; truncating lowers that (and `durable`), so a late
 *      report of an overwritten entry cannot count for the one that took its place.
 *   L5 durable < start_index only while an installed snapshot is not durable yet. */
#ifndef SHARDS_RAFT_RAFT_LOG_H
#define SHARDS_RAFT_RAFT_LOG_H

#include "shards/raft/raft.h"

struct raft_write {
    uint64_t token;
    uint64_t last; /* durable up to here once it is done; see L4 */
    uint64_t started_ms;
};

/* The part of a log that an idle one does not need. */
struct raft_log_work {
    uint64_t unsaved;

    struct raft_entry **ring; /* slot of an index: index & (ring_capacity - 1) */
    size_t ring_capacity;     /* 0 or a power of two */
    uint64_t cache_first;
    size_t cached_bytes;

    struct raft_write *writes; /* ascending by token, and by last */
    size_t write_count, write_capacity;
};

/* Not to be moved: `runs` may point into it. */
struct raft_log {
    uint64_t start_index, start_term;
    uint64_t last_index;
    struct raft_stamp last_stamp; /* at last_index. Not known after a truncation, until the
                                     entries that replace the old ones are appended */
    uint64_t durable;

    struct raft_term_run *runs; /* first_run, while that is enough */
    struct raft_term_run first_run;
    uint32_t run_count, run_capacity;

    struct raft_log_work *work; /* NULL: nothing is unsaved, cached or being written */
};

static inline uint64_t raft__log_unsaved(const struct raft_log *l)
{
    return l->work != NULL ? l->work->unsaved : l->last_index + 1;
}
static inline uint64_t raft__log_cache_first(const struct raft_log *l)
{
    return l->work != NULL ? l->work->cache_first : l->last_index + 1;
}
static inline size_t raft__log_cached_bytes(const struct raft_log *l)
{
    return l->work != NULL ? l->work->cached_bytes : 0;
}
static inline size_t raft__log_write_count(const struct raft_log *l)
{
    return l->work != NULL ? l->work->write_count : 0;
}

void raft__log_init(struct raft_log *l, const struct raft_boot *b);
void raft__log_deinit(struct raft_log *l);
uint64_t raft__log_last_term(const struct raft_log *l);
/* Term of an index in [start_index, last_index]; false outside. */
bool raft__log_term(const struct raft_log *l, uint64_t index, uint64_t *ret);
bool raft__log_matches(const struct raft_log *l, uint64_t index, uint64_t term);
/* The cached entry, borrowed, or NULL. */
struct raft_entry *raft__log_entry(const struct raft_log *l, uint64_t index);
/* Append `e`, whose index is last_index + 1. Takes a reference of its own. */
void raft__log_append(struct raft_log *l, struct raft_entry *e);
/* Drop [first, last_index]. */
void raft__log_truncate(struct raft_log *l, uint64_t first);
/* Drop everything up to `index`, which is in the log. */
void raft__log_compact(struct raft_log *l, uint64_t index);
/* Drop everything; the log starts at (index, term, stamp), which is not durable yet. */
void raft__log_reset(struct raft_log *l, uint64_t index, uint64_t term, struct raft_stamp stamp);
/* The largest index <= `index` whose term is <= `term`: where two logs may still agree. Not below
 * start_index. */
uint64_t raft__log_guess(const struct raft_log *l, uint64_t index, uint64_t term);
/* Drop cached entries from the front, none above `up_to`, until at most `limit` bytes remain. */
void raft__log_evict(struct raft_log *l, size_t limit, uint64_t up_to);
/* Free empty arrays, and `work` if it holds nothing. */
void raft__log_trim(struct raft_log *l);
/* A write under `token` carries everything up to last_index. */
void raft__log_write_started(struct raft_log *l, uint64_t token, uint64_t now_ms);
/* Writes up to `token` are durable. */
void raft__log_write_done(struct raft_log *l, uint64_t token);

/* L1 to L4 as assertions: those without loops, and all (of a long cache only its length). */
void raft__log_check(const struct raft_log *l);
void raft__log_check_all(const struct raft_log *l);

#endif
