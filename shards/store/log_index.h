/* What is known in memory of one replica's log: where it starts and ends, the terms of all its
 * indexes, and which runs (records) hold it. 16 bytes per run. Knows no RocksDB and no locks. */
#ifndef SHARDS_STORE_LOG_INDEX_H
#define SHARDS_STORE_LOG_INDEX_H

#include "shards/raft/raft.h"

struct store_run {
    uint64_t first;
    uint32_t count : 31;
    uint32_t config : 1; /* holds CONFIG entries */
    uint32_t bytes;      /* of key and value */
};

/* Both arrays are queues: the front moves on by compaction and is reclaimed now and then. */
struct log_index {
    uint64_t start, start_term, last;
    uint64_t bytes;
    struct store_run *runs;
    size_t run_head, run_end, run_capacity;
    struct raft_term_run *terms;
    size_t term_head, term_end, term_capacity;
};

void log_index_deinit(struct log_index *x);
/* Forget everything; the log is empty and begins after `start`. */
void log_index_reset(struct log_index *x, uint64_t start, uint64_t start_term);
/* A run of the log's next entries. Its terms are added apart, by log_index_add_term. */
void log_index_add_run(struct log_index *x, uint32_t count, bool config, size_t bytes);
/* `index` (last + 1, before its run is added, or any later index) has `term`. */
void log_index_add_term(struct log_index *x, uint64_t index, uint64_t term);
/* Drop everything from `from` (> start) on. A run that is cut keeps its head, of `cut_bytes` and
 * with or without CONFIG entries. */
void log_index_truncate(struct log_index *x, uint64_t from, size_t cut_bytes, bool cut_config);
/* The log now begins after `start` (>= the current one). Runs that are entirely below go. */
void log_index_compact(struct log_index *x, uint64_t start, uint64_t start_term);
/* The run that holds `index`; NULL if none does. */
const struct store_run *log_index_find(const struct log_index *x, uint64_t index);
/* Term of an index in [start, last]. */
uint64_t log_index_term(const struct log_index *x, uint64_t index);

#endif
