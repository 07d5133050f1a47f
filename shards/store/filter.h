/* The compaction filter: drops runs that a log no longer needs, while RocksDB rewrites its files.
 *
 * It knows of each replica only what is *durable*: the log's start and epoch after the batch that
 * set them was synced, and that the replica was removed. A replica it knows nothing of is left
 * alone, so that compactions which start while the database is still being recovered are harmless.
 * Entries at or below a durable start are never read or written again, and a run of an older epoch
 * or of a removed replica is invisible already: dropping them late or never is only space.
 *
 * Thread-safe: RocksDB makes one filter per compaction and calls it on that compaction's thread. */
#ifndef SHARDS_STORE_FILTER_H
#define SHARDS_STORE_FILTER_H

#include <rocksdb/c.h>

#include "shards/store/record.h"

struct log_filter;
struct log_filter *log_filter_new(void);
void log_filter_free(struct log_filter *f); /* after the database was closed */
/* Hand it to the options, which own the factory. */
void log_filter_install(struct log_filter *f, rocksdb_options_t *options);
/* Only after the batch is durable. */
void log_filter_set_start(struct log_filter *f, uint64_t replica_id, uint32_t epoch,
                          uint64_t start);
void log_filter_set_gone(struct log_filter *f, uint64_t replica_id);
uint64_t log_filter_dropped(const struct log_filter *f); /* records, for tests and metrics */

#endif
