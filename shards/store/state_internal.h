#ifndef SHARDS_STORE_STATE_INTERNAL_H
#define SHARDS_STORE_STATE_INTERNAL_H

#include <rocksdb/c.h>
#include <stdatomic.h>

#include "shards/store/overlay.h"
#include "shards/store/store.h"

#define STATE_PREFIX_BYTES 16 /* replica id BE 8, generation BE 8 */
/* Approximate overhead of a record in a memtable. */
#define STATE_RECORD_BYTES 32

struct state_db {
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_block_based_table_options_t *table;
    rocksdb_writeoptions_t *no_wal;
    rocksdb_readoptions_t *read;
    _Atomic uint64_t unflushed;
    char *path;
    void (*damaged)(void *ctx, const char *what);
    void *damaged_ctx;
    _Atomic bool is_damaged;
};
struct state_iter {
    struct state_db *db;
    rocksdb_iterator_t *it;
    rocksdb_readoptions_t *read;
    struct bytes lower, upper;     /* RocksDB borrows them */
    const struct overlay *overlay; /* of a batch: its records count before the database's */
    uint32_t *order;               /* those within the bounds, in key order */
    size_t order_count, order_at;
    bool started;
    bool step; /* RocksDB's iterator stands at the record that was returned */
};
struct state_view {
    const rocksdb_snapshot_t *snapshot;
    rocksdb_readoptions_t *read;
};

/* Read-only: even if some of its tables cannot be read. Closing it flushes nothing. */
enum thole_code state__open(const struct state_db_options *o, bool read_only, struct state_db **ret,
                            struct thole_status *st);
void state__close(struct state_db *db); /* NULL is fine */
/* FAILED_PRECONDITION FORMAT. Writes nothing. */
enum thole_code state__check_format(struct state_db *db, struct thole_status *st);
/* RocksDB's message as a status; notes damage. */
enum thole_code state__fail(struct state_db *db, struct thole_status *st, const char *what,
                            char *error);
/* state_salvage.c: leave a mark of damage; finish what a salvage began, refuse what has a mark. */
void state__mark(const char *path);
enum thole_code state__prepare(const char *path, struct thole_status *st);

void state__prefix(uint8_t p[STATE_PREFIX_BYTES], struct state_space s);
void state__key(struct bytes *out, struct state_space s, struct slice key);
/* The space that follows in key order; false if `s` is the last one there can be. */
bool state__space_after(struct state_space s, struct state_space *ret);

#endif
