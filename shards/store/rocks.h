/* RocksDB for the state database: statuses, opening, format, OPTIONS. */
#ifndef SHARDS_STORE_ROCKS_H
#define SHARDS_STORE_ROCKS_H

#include <rocksdb/c.h>

#include "base/buf.h"
#include "shards/store/store.h"

/* Turn RocksDB's message into a status, and free it. */
enum thole_code rocks_fail(struct thole_status *st, const char *what, char *error);

/* The options. `more` is in RocksDB's option string syntax ("a=b;c=d"). */
THOLE_MUST_CHECK enum thole_code rocks_options(const char *more, size_t write_buffer_bytes,
                                               rocksdb_options_t **ret, struct thole_status *st);
/* FAILED_PRECONDITION FORMAT if an entry of the directory is no regular file, or larger than
 * RocksDB makes it. */
THOLE_MUST_CHECK enum thole_code rocks_check_files(const char *path, struct thole_status *st);
/* Open `path` (created if absent) and check that its OPTIONS file has every line of `expect`
 * (NULL-terminated): RocksDB ignores unknown names in an option string. */
THOLE_MUST_CHECK enum thole_code rocks_open(const char *path, rocksdb_options_t *options,
                                            const char *const *expect, rocksdb_t **ret,
                                            struct thole_status *st);
/* The database's format: a decimal number under `key`. A new, empty database gets `version` (wo
 * NULL: it is left alone).
 * FAILED_PRECONDITION FORMAT if it is newer, or if there is data but no number. */
THOLE_MUST_CHECK enum thole_code rocks_check_format(rocksdb_t *db, rocksdb_writeoptions_t *wo,
                                                    struct slice key, uint64_t version,
                                                    struct thole_status *st);

static inline struct slice rocks_iter_key(const rocksdb_iterator_t *it)
{
    size_t n;
    const char *p = rocksdb_iter_key(it, &n);
    return slice_of(p, n);
}
static inline struct slice rocks_iter_value(const rocksdb_iterator_t *it)
{
    size_t n;
    const char *p = rocksdb_iter_value(it, &n);
    return slice_of(p, n);
}
static inline void rocks_iter_seek(rocksdb_iterator_t *it, struct slice key)
{
    rocksdb_iter_seek(it, (const char *)key.data, key.size);
}

#endif
