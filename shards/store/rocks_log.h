/* The log database: what its files share.
 *
 *   rocks_log.c          open, close, host records, the vtable
 *   rocks_log_recover.c  the scan at open
 *   rocks_log_write.c    one batch of updates: check, encode, sync, publish
 *   rocks_log_salvage.c  writing the database anew when a file block is damaged
 *   rocks_log_read.c     reading entries beside the writer
 *
 * Threads. One writer at a time (the caller's promise, and `write_lock` for host records); any
 * number of readers. The map, and in each replica what is marked (lock), change only under `lock`,
 * which is held for memory operations alone, never across a sync. The writer reads its own fields
 * without the lock. */
#ifndef SHARDS_STORE_ROCKS_LOG_H
#define SHARDS_STORE_ROCKS_LOG_H

#include <pthread.h>
#include <rocksdb/c.h>

#include "base/map.h"
#include "shards/store/filter.h"
#include "shards/store/log_index.h"
#include "shards/store/plan.h"
#include "shards/store/record.h"
#include "shards/store/store.h"

#define LOG_FORMAT_VERSION 1
#define LOG_FORMAT_TEXT "1"

/* What readers may rely on: true of the database as of the last batch that was synced. */
struct log_visible {
    uint64_t start, last;
    uint32_t epoch;
    uint64_t version; /* of the replica's log: counts the batches that changed it */
};

struct log_replica {
    uint64_t id, shard_id;
    enum log_state state; /* (lock) */
    uint32_t epoch;
    struct buf *descriptor;
    struct buf *start_config;
    struct store_hard hard;
    uint64_t machine_generation;
    struct log_index index;     /* (lock) runs ahead of `visible` while a batch is being synced */
    struct log_visible visible; /* (lock) */
    /* The batch that is being checked: valid while plan_batch is the store's batch number. */
    uint64_t plan_batch;
    struct log_plan plan;
};

/* A run of the update that is being encoded. */
struct staged_run {
    uint32_t count;
    bool config;
    size_t bytes;
};

struct rocks_log {
    struct log_store base; /* first */
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_block_based_table_options_t *table;
    rocksdb_writeoptions_t *sync;
    rocksdb_readoptions_t *read;
    struct log_filter *filter;
    pthread_mutex_t write_lock; /* one batch at a time; held across the sync */
    pthread_mutex_t lock;
    pthread_cond_t written; /* `writing` became false */
    struct map replicas;    /* (lock) id -> struct log_replica; never shrinks */
    bool writing;           /* (lock) */
    bool bad_blocks;        /* found by recovery */
    bool poisoned;          /* (lock) a write failed: nothing may be written any more */
    /* The writer's. */
    uint64_t batch_number;
    rocksdb_writebatch_t *batch;
    struct log_replica **targets; /* of the batch's updates */
    size_t target_capacity;
    struct bytes record;
    struct staged_run *staged;
    size_t staged_count, staged_capacity;
    /* Ascending by id, made when a walk begins. */
    struct log_replica **walk;
    size_t walk_count;
    /* What `next` handed out last. */
    struct store_replica report;
    struct raft_term_run *report_runs;
};

struct log_replica *rocks_log__replica(struct rocks_log *s, uint64_t id); /* created if absent */
enum thole_code rocks_log__recover(struct rocks_log *s, struct thole_status *st);
/* Finish a salvage that a crash interrupted; before the database is opened. */
enum thole_code rocks_log__salvage_finish(const char *path, struct thole_status *st);
/* After recovery: replace the database by a healthy copy. Leaves `s->db` closed. */
enum thole_code rocks_log__salvage(struct rocks_log *s, const char *path, struct thole_status *st);
enum thole_code rocks_log__write(struct log_store *base, const struct store_update *updates,
                                 size_t n, struct thole_status *st);
/* Write `s->batch` with one sync; a failure poisons the store. */
enum thole_code rocks_log__commit(struct rocks_log *s, struct thole_status *st);
enum thole_code rocks_log__read(struct log_store *base, uint64_t replica_id, uint64_t first,
                                uint64_t last, size_t max_bytes, size_t max_entries,
                                struct raft_entry **ret, size_t *ret_count,
                                struct thole_status *st);
enum thole_code rocks_log__config_entries(struct log_store *base, uint64_t replica_id,
                                          struct raft_entry ***ret, size_t *ret_count,
                                          struct thole_status *st);

#endif
