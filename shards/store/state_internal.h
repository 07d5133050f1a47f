#ifndef SHARDS_STORE_STATE_INTERNAL_H
#define SHARDS_STORE_STATE_INTERNAL_H

#include <rocksdb/c.h>
#include <stdatomic.h>

#include "shards/store/store.h"

#define STATE_PREFIX_BYTES 16 /* replica id BE 8, generation BE 8 */

struct state_db {
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_block_based_table_options_t *table;
    rocksdb_writeoptions_t *no_wal;
    rocksdb_readoptions_t *read;
    _Atomic uint64_t unflushed;
};
struct state_view {
    const rocksdb_snapshot_t *snapshot;
    rocksdb_readoptions_t *read;
};

void state__prefix(uint8_t p[STATE_PREFIX_BYTES], struct state_space s);
void state__key(struct bytes *out, struct state_space s, struct slice key);
/* The space that follows in key order; false if `s` is the last one there can be. */
bool state__space_after(struct state_space s, struct state_space *ret);

#endif
