/* What is known in memory of one replica's log: where it starts and ends, and which runs (records)
 * hold it, 32 bytes each. All entries of a run have one term. Knows no locks.
 *
 * Runs are ascending and do not overlap. While a log is being recovered there may be gaps between
 * them, because a run may have been copied to a place behind its successors: log_index_whole tells
 * at the end. */
#ifndef SHARDS_STORE_LOG_INDEX_H
#define SHARDS_STORE_LOG_INDEX_H

#include "shards/raft/raft.h"
#include "shards/store/segments.h"

struct store_run {
    uint64_t first, term;
    struct log_place place;
    uint32_t count : 31; /* fewer than the record has, if the log was cut there */
    uint32_t config : 1; /* holds CONFIG entries */
};

/* The runs are a queue: its front moves on by compaction and is reclaimed now and then. */
struct log_index {
    uint64_t start, start_term, last;
    struct store_run *runs;
    uint32_t head, end, capacity;
};

/* Both tell the segments what is not wanted any more. */
void log_index_deinit(struct log_index *x, struct segments *g);
/* Forget everything; the log is empty and begins after `start`. */
void log_index_reset(struct log_index *x, struct segments *g, uint64_t start, uint64_t start_term);
/* The log now begins after `start`. Runs that are entirely below go. */
void log_index_compact(struct log_index *x, struct segments *g, uint64_t start,
                       uint64_t start_term);
/* A run was appended: everything from its first entry on is replaced. */
void log_index_append(struct log_index *x, struct segments *g, struct store_run run);
/* A run that is already part of the log has moved to another place. */
void log_index_move(struct log_index *x, struct segments *g, struct store_run run);
/* Of all records. */
uint64_t log_index_bytes(const struct log_index *x);
/* The log has no gaps. */
bool log_index_whole(const struct log_index *x);

/* Position of the run that holds `index`, or of the first one behind it. */
size_t log_index_find(const struct log_index *x, uint64_t index);
/* The stretches of equal term in (start, last]; room for one per run. Returns how many. */
size_t log_index_terms(const struct log_index *x, struct raft_term_run *ret);

#endif
