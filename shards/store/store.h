/* The host's durable state: one log for all groups, and one state database for all persistent
 * machines.
 *
 * Log (segment files, every write synced): for each replica its identity, hard state, log start
 * with the configuration there, and its entries as byte-bounded *runs* with a checksum. State
 * database (RocksDB without WAL): data of persistent machines under replica-id prefixes. Only
 * flushed data is durable, and the log is kept from that point on.
 *
 * The engine uses only the vtables below, so the harness runs the same engine over memory. */
#ifndef SHARDS_STORE_STORE_H
#define SHARDS_STORE_STORE_H

#include <thole/status.h>

#include "base/buf.h"
#include "shards/raft/raft.h"

/* The identity of a replica: written once, when it is created. */
struct store_identity {
    uint64_t replica_id;
    uint64_t shard_id;
    uint64_t incarnation_created; /* of the host, for diagnostics */
    struct slice descriptor; /* the engine's own encoded replica descriptor (machine type...) */
};

/* One replica's part of a batch. Pointers are borrowed for the duration of the write. */
struct store_update {
    uint64_t replica_id;
    const struct store_identity *create; /* NULL unless the replica is created by this batch */
    bool remove; /* delete everything but a tombstone; no other field may be set */
    bool forget; /* drop the tombstone too */
    bool has_hard;
    struct raft_hard hard;
    /* The log now begins after `start_index`; entries up to it are dropped. With start_reset all
     * entries are dropped (snapshot install), whatever their index. */
    bool has_start;
    bool start_reset;
    uint64_t start_index, start_term;
    struct raft_stamp start_stamp; /* see raft_update.log_start_stamp */
    struct slice start_config;     /* raft_config_encode at start_index */
    uint64_t machine_generation;   /* with has_start: which generation of machine data is live */
    /* Appended entries; everything from entries[0]->index on is replaced. */
    struct raft_entry *const *entries;
    size_t entry_count;
};

/* The recovered state of one replica. Owned by the store; see log_store_ops.next. */
struct store_replica {
    uint64_t replica_id, shard_id;
    bool removed; /* a tombstone; nothing below is set */
    struct slice descriptor;
    struct raft_hard hard;
    uint64_t start_index, start_term, last_index;
    uint64_t machine_generation;
    struct raft_stamp start_stamp;
    struct slice start_config;
    const struct raft_term_run *runs;
    size_t run_count;
    uint64_t bytes; /* of its log records */
};

struct log_store;
struct log_store_ops {
    void (*close)(struct log_store *s); /* attests, synced */
    /* Persist all updates before returning, with one sync (a very large batch: several). An update
     * is atomic, and a crash leaves the updates of a batch up to some point. Serialised by the
     * caller (one writer). A replica may occur in several updates. Errors: UNAVAILABLE DISK - the
     * caller must stop the host, and every later write fails alike; INVALID_ARGUMENT for a gap, or
     * an update that the replica's state does not allow (nothing written). At most
     * STORE_BATCH_UPDATES_MAX updates. */
    enum thole_code (*write)(struct log_store *s, const struct store_update *updates, size_t n,
                             struct thole_status *st);
    /* Record that the last write is durable, so that recovery can tell damage in it from a torn
     * write. Not synced, and takes no space. Called by the writer in a pause between writes. May be
     * NULL. */
    void (*attest)(struct log_store *s);
    /* Read entries [first, last] until max_bytes is exceeded (at least one entry if any). Each gets
     * one reference for the caller; `ret` has room for `max_entries`. May run on any thread beside
     * write, and sees only what was synced. Only the first entry may exceed max_bytes. Errors:
     * OUT_OF_RANGE COMPACTED if `first` is not in the log; NOT_FOUND NO_SUCH_REPLICA; DATA_LOSS
     * CORRUPT. */
    enum thole_code (*read)(struct log_store *s, uint64_t replica_id, uint64_t first, uint64_t last,
                            size_t max_bytes, size_t max_entries, struct raft_entry **ret,
                            size_t *ret_count, struct thole_status *st);
    /* Recovered state: walk all replicas, tombstones too. `it` starts at 0; NULL at the end. What
     * it returns is valid until the next call. */
    const struct store_replica *(*next)(struct log_store *s, size_t *it);
    /* The CONFIG entries of a replica's log, ascending, one reference each; the array is
     * malloced. */
    enum thole_code (*config_entries)(struct log_store *s, uint64_t replica_id,
                                      struct raft_entry ***ret, size_t *ret_count,
                                      struct thole_status *st);
    /* Small durable records of the host itself (identity, incarnation). Synced. */
    enum thole_code (*put_host)(struct log_store *s, const char *key, struct slice value,
                                struct thole_status *st);
    enum thole_code (*get_host)(struct log_store *s, const char *key, struct buf **ret,
                                struct thole_status *st);
};
struct log_store {
    const struct log_store_ops *ops;
};
#define STORE_BATCH_UPDATES_MAX 65536

struct log_store_options {
    const char *path;       /* directory, created if absent */
    uint32_t segment_bytes; /* 0: default 32 MiB */
};
/* Opens and recovers. FAILED_PRECONDITION FORMAT (newer version) or LOCKED, DATA_LOSS CORRUPT,
 * UNAVAILABLE DISK. A replica whose records are damaged is reported with hard.term == UINT64_MAX
 * and does not keep the others from opening. */
THOLE_MUST_CHECK enum thole_code log_store_open(const struct log_store_options *o,
                                                struct log_store **ret, struct thole_status *st);
/* In memory, for harnesses: keeps what was written; never fails. */
struct log_store *log_store_memory_new(void);

/* ---- The state database ---------------------------------------------------------------------- */

/* Keys of a machine are (replica id, generation) followed by its own key; callers never see the
 * prefix. Thread-safe. A batch is atomic, not durable until flushed. */
struct state_db;
struct state_batch;
struct state_view; /* a consistent, immutable view of one space */
struct state_iter;

struct state_space { /* one replica's generation of data */
    uint64_t replica_id;
    uint64_t generation;
};

struct state_db_options {
    const char *path;
    size_t write_buffer_bytes; /* 0: default 64 MiB */
    /* Called at the first damage, on the thread that met it; must not block. From then on the
     * database may refuse all writes. The owner should close and salvage it. */
    void (*damaged)(void *ctx, const char *what);
    void *ctx;
};
/* DATA_LOSS CORRUPT: it cannot be opened, or it has a mark of damage. Then salvage it. */
THOLE_MUST_CHECK enum thole_code state_db_open(const struct state_db_options *o,
                                               struct state_db **ret, struct thole_status *st);
void state_db_close(struct state_db *db); /* flushes */

struct state_wanted {
    struct state_space space;
    bool can_lose; /* the log can replace it: the old database need not be kept for it */
    bool lost;     /* it could not be read */
};
/* Replace a damaged, closed database by a new one with its readable spaces. Spaces that are not in
 * the list are dropped. If a space is lost that the log cannot replace, the old database is kept:
 * `*ret_kept` is its path, malloced; else NULL. After an error the old one is still in place.
 * `note` is called when `list` says what is lost, before the old database's directory is renamed:
 * a file that it writes there moves along. */
THOLE_MUST_CHECK enum thole_code state_db_salvage(
    const char *path, struct state_wanted *list, size_t n,
    void (*note)(const char *old, const struct state_wanted *list, size_t n), char **ret_kept,
    struct thole_status *st);
/* Delete a database that is no longer used. state_db_is_remains is true of what an interrupted
 * deletion left. */
THOLE_MUST_CHECK enum thole_code state_db_delete(const char *path, struct thole_status *st);
bool state_db_is_remains(const char *path);
/* Make everything written so far durable (flush and sync). May take long; any thread. */
THOLE_MUST_CHECK enum thole_code state_db_flush(struct state_db *db, struct thole_status *st);
/* Bytes written since the last flush (approximate), to decide when to flush. */
uint64_t state_db_unflushed_bytes(const struct state_db *db);

struct state_batch *state_batch_new(struct state_db *db);
void state_batch_free(struct state_batch *b);
void state_batch_clear(struct state_batch *b);
void state_batch_put(struct state_batch *b, struct state_space s, struct slice key,
                     struct slice value);
void state_batch_delete(struct state_batch *b, struct state_space s, struct slice key);
THOLE_MUST_CHECK enum thole_code state_batch_write(struct state_batch *b, struct thole_status *st);

/* A batch with an index of its records: reads and iterators see them over the database, before they
 * are written. Nothing may be added while an iterator is open. */
struct state_batch *state_batch_new_readable(struct state_db *db);
THOLE_MUST_CHECK enum thole_code state_batch_get(struct state_batch *b, struct state_space s,
                                                 struct slice key, struct buf **ret,
                                                 struct thole_status *st);
struct state_iter *state_batch_iter_new(struct state_batch *b, struct state_space s,
                                        struct slice from, struct slice to);
/* Drop what was added since the last mark. Each mark can be used once. */
void state_batch_mark(struct state_batch *b);
void state_batch_undo(struct state_batch *b);

/* NOT_FOUND leaves *ret untouched. `v` NULL reads the latest. */
THOLE_MUST_CHECK enum thole_code state_get(struct state_db *db, const struct state_view *v,
                                           struct state_space s, struct slice key, struct buf **ret,
                                           struct thole_status *st);
struct state_view *state_view_acquire(struct state_db *db); /* O(1) */
void state_view_release(struct state_db *db, struct state_view *v);
/* Keys of the space in [from, to) in order; `to` with size 0 means to the end of the space. */
struct state_iter *state_iter_new(struct state_db *db, const struct state_view *v,
                                  struct state_space s, struct slice from, struct slice to);
/* False at the end or on error (then state_iter_status is not OK). Slices live until the next
 * call. */
bool state_iter_next(struct state_iter *it, struct slice *ret_key, struct slice *ret_value);
enum thole_code state_iter_status(const struct state_iter *it, struct thole_status *st);
void state_iter_free(struct state_iter *it);
/* Drop a whole space; space returns after compaction. */
THOLE_MUST_CHECK enum thole_code state_space_drop(struct state_db *db, struct state_space s,
                                                  struct thole_status *st);
/* Which spaces exist (recovery: to discard half-installed generations). Malloced array. */
THOLE_MUST_CHECK enum thole_code state_spaces(struct state_db *db, struct state_space **ret,
                                              size_t *ret_count, struct thole_status *st);

#endif
