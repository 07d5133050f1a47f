/* The index of one replica's log in memory: its start and end, and its runs (records), 32 bytes
 * each. All entries of a run have one term. No locks: the caller has them.
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
    uint32_t count : 31; /* fewer than in the record, if the log was truncated in it */
    uint32_t config : 1; /* holds CONFIG entries */
};

/* runs[head .. end) is a queue: compaction advances `head`, and make_room reuses the space. */
struct log_index {
    uint64_t start, start_term, last;
    struct store_run *runs;
    uint32_t head, end, capacity;
};

/* All functions report to the segments which records have become live or dead. */
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
/* Bytes of all its records. */
uint64_t log_index_bytes(const struct log_index *x);
/* The log has no gaps. */
bool log_index_whole(const struct log_index *x);

/* Position of the run that holds `index`, or of the first one behind it. */
size_t log_index_find(const struct log_index *x, uint64_t index);
/* The stretches of equal term in (start, last]; room for one per run. Returns how many. */
size_t log_index_terms(const struct log_index *x, struct raft_term_run *ret);

#endif
