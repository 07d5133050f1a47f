/* The log on disk: shared by its files.
 *
 *   disk_log.c          open, close, host records, the vtable
 *   disk_log_apply.c    the effect of one record on memory
 *   disk_log_recover.c  the scan at open
 *   disk_log_inspect.c  the scan of a log that is only looked at
 *   disk_log_write.c    one batch of updates: check, encode, sync, apply
 *   disk_log_clean.c    moving live records out of the oldest segment
 *   disk_log_read.c     reading entries beside the writer
 *
 * A write encodes its updates into a frame, appends it with one sync, and then applies the frame's
 * records to memory one by one. Recovery uses the same code.
 *
 * Threads. One writer at a time (`write_lock`), any number of readers. Everything in memory changes
 * under `lock` and only after the sync, so readers see durable state only. The lock is never held
 * while a file is read or written. The writer needs no lock to read what only it changes. */
#ifndef SHARDS_STORE_DISK_LOG_H
#define SHARDS_STORE_DISK_LOG_H

#include <assert.h>

#include "base/map.h"
#include "shards/store/frame.h"
#include "shards/store/log_index.h"
#include "shards/store/plan.h"
#include "shards/store/store.h"

/* There may be tens of thousands, most of them of idle groups. So rarely used fields (the
 * descriptor, the configuration at the log start) are not in memory but read from their records. */
struct log_replica {
    uint64_t id, shard_id;
    struct store_hard hard;
    uint64_t machine_generation;
    struct log_index index;
    struct log_place identity, start; /* of the records */
    struct log_place
        hard_or_mark; /* a hard state newer than any other record's, or the mark of damage */
    uint32_t epoch;
    /* The writer's, while a batch has a target at this position that is this replica's. */
    uint32_t target;
    uint8_t state; /* enum log_state */
};
static_assert(sizeof(struct log_replica) <= 160, "one for each replica of the host");

/* The state of a replica after the updates of the current batch: as planned, and as encoded so
 * far. */
struct log_target {
    struct log_replica *r;
    struct log_plan plan;
    struct store_hard hard;
    uint32_t epoch;
};

struct host_record {
    struct host_record *next;
    char name[STORE_HOST_NAME_BYTES_MAX + 1];
    struct buf *value;
    struct log_place place;
};

struct disk_log {
    struct log_store base; /* first */
    struct segments files;
    pthread_mutex_t write_lock;
    pthread_mutex_t lock;
    struct map replicas; /* id -> struct log_replica; never shrinks */
    struct map damage;   /* id -> what recovery found, a string; empty afterwards */
    struct host_record *host_records;
    bool poisoned;     /* a write failed: nothing may be written any more */
    uint64_t attested; /* `files.sequence` at the last attestation: if equal, no frame came since */
    bool attest_synced;
    /* The writer's. */
    struct log_target *targets; /* the batch's replicas */
    uint32_t target_count, target_capacity;
    struct frame_writer frame;
    size_t copied_bytes;     /* of the frame that is being built */
    size_t last_batch_bytes; /* of the frame before, without copies */
    /* Cleaning has reached this place of the oldest segment. */
    uint32_t clean_segment, clean_offset;
    struct bytes clean_frame;
    /* Ascending by id, made when a walk begins. */
    struct log_replica **walk;
    size_t walk_count;
    /* The last result of `next`. */
    struct store_replica report;
    struct raft_term_run *report_runs;
    struct bytes report_identity, report_start; /* the records */
};

struct log_replica *disk_log__replica(struct disk_log *s, uint64_t id); /* created if absent */

/* Apply a record of a synced frame, now at `at`, to memory. NULL, or the name of what is
 * damaged. */
const char *disk_log__apply(struct disk_log *s, const struct frame_entry *e, struct slice record,
                            struct log_place at);
/* A host record as a frame has it: its name (room for STORE_HOST_NAME_BYTES_MAX + 1), its key, and
 * what was sealed with that. */
bool disk_log__split_host(struct slice blob, struct store_key *ret_key, char *ret_name,
                          struct slice *ret_record);
/* Is the record at `at` live: the one that memory refers to? */
bool disk_log__is_live(const struct disk_log *s, const struct frame_entry *e, struct slice record,
                       struct log_place at);
/* Forget the replica's log, but not its identity. */
void disk_log__drop_log(struct disk_log *s, struct log_replica *r);

/* At open: what is damaged of a replica (a string literal); then each replica that is not whole,
 * and why. `it` begins at 0. */
void disk_log__note_damage(struct disk_log *s, uint64_t replica_id, const char *damage);
struct log_replica *disk_log__next_damaged(struct disk_log *s, size_t *it, const char **ret);
enum thole_code disk_log__recover(struct disk_log *s, struct thole_status *st);
/* A log with this vtable, not open yet; after a failure it is closed like any other. */
struct disk_log *disk_log__new(void);
enum thole_code disk_log__write(struct log_store *base, const struct store_update *updates,
                                size_t n, struct thole_status *st);
/* Sync the frame that was built and apply it; a failure poisons the store. */
enum thole_code disk_log__commit(struct disk_log *s, struct thole_status *st);
enum thole_code disk_log__fail_poisoned(struct thole_status *st);
/* Attest that the last frame is durable: write a frame without records behind it, where the next
 * frame will be. Best effort. */
void disk_log__attest(struct disk_log *s, bool sync);
/* Add copies of live records of the oldest segment to the frame, if cleaning is due. */
enum thole_code disk_log__clean(struct disk_log *s, struct thole_status *st);
enum thole_code disk_log__read(struct log_store *base, uint64_t replica_id, uint64_t first,
                               uint64_t last, size_t max_bytes, size_t max_entries,
                               struct raft_entry **ret, size_t *ret_count, struct thole_status *st);
enum thole_code disk_log__config_entries(struct log_store *base, uint64_t replica_id,
                                         struct raft_entry ***ret, size_t *ret_count,
                                         struct thole_status *st);

#endif
