#include "shards/store/rocks_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "shards/store/rocks.h"

#define WAL_BYTES_MAX_DEFAULT ((uint64_t)512 * MIB)
#define BLOCK_CACHE_BYTES ((size_t)16 * MIB)

/* A skip list insert begins where the last one for the same replica ended. Never write a range
 * deletion into a database that has this (RocksDB #5118). */
#define INSERT_HINT "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.8"

/* rocksdb::BlockBasedTableOptions::kBinarySearchWithFirstKey, which c.h has no name for. */
#define INDEX_WITH_FIRST_KEY 3

struct log_replica *rocks_log__replica(struct rocks_log *s, uint64_t id)
{
    struct log_replica *r = map_get(&s->replicas, id);

    if (r == NULL) {
        r = xcalloc(1, sizeof *r);
        r->id = id;
        pthread_mutex_lock(&s->lock);
        map_put(&s->replicas, id, r);
        pthread_mutex_unlock(&s->lock);
    }
    return r;
}

static void replica_free(struct log_replica *r)
{
    buf_unref(r->descriptor);
    buf_unref(r->start_config);
    log_index_deinit(&r->index);
    free(r);
}

static void log_close(struct log_store *base)
{
    struct rocks_log *s = (struct rocks_log *)base;
    struct log_replica *r;
    size_t it = 0;

    if (s->db != NULL) {
        rocksdb_close(s->db);
    }
    if (s->batch != NULL) {
        rocksdb_writebatch_destroy(s->batch);
    }
    rocksdb_writeoptions_destroy(s->sync);
    rocksdb_readoptions_destroy(s->read);
    rocksdb_block_based_options_destroy(s->table);
    if (s->options != NULL) {
        rocksdb_options_destroy(s->options);
    }
    log_filter_free(s->filter);
    while ((r = map_next(&s->replicas, &it, NULL)) != NULL) {
        replica_free(r);
    }
    map_deinit(&s->replicas);
    bytes_deinit(&s->record);
    free(s->targets);
    free(s->staged);
    free(s->walk);
    free(s->report_runs);
    pthread_cond_destroy(&s->written);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->write_lock);
    free(s);
}

/* ---- The walk over what is known --------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const struct log_replica *x = *(struct log_replica *const *)a;
    const struct log_replica *y = *(struct log_replica *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

static void report_fill(struct rocks_log *s, const struct log_replica *r)
{
    struct store_replica *p = &s->report;
    const struct log_index *x = &r->index;

    *p = (struct store_replica){
        .replica_id = r->id,
        .shard_id = r->shard_id,
        .removed = r->state == LOG_TOMBSTONE,
    };
    if (p->removed) {
        return;
    }
    if (r->descriptor != NULL) {
        p->descriptor = slice_of(r->descriptor->data, r->descriptor->size);
    }
    if (r->state == LOG_DAMAGED) {
        p->hard.term = UINT64_MAX;
        return;
    }
    p->run_count = x->term_end - x->term_head;
    s->report_runs = xrealloc(s->report_runs, (p->run_count + 1) * sizeof *s->report_runs);
    if (p->run_count > 0) {
        memcpy(s->report_runs, x->terms + x->term_head, p->run_count * sizeof *s->report_runs);
    }
    p->runs = s->report_runs;
    p->hard = r->hard.hard;
    p->start_index = x->start;
    p->start_term = x->start_term;
    p->last_index = x->last;
    p->machine_generation = r->machine_generation;
    p->bytes = x->bytes;
    if (r->start_config != NULL) {
        p->start_config = slice_of(r->start_config->data, r->start_config->size);
    }
}

static const struct store_replica *log_next(struct log_store *base, size_t *it)
{
    struct rocks_log *s = (struct rocks_log *)base;
    struct log_replica *r;

    if (*it == 0) {
        size_t walk = 0;

        s->walk = xrealloc(s->walk, (s->replicas.count + 1) * sizeof(struct log_replica *));
        s->walk_count = 0;
        while ((r = map_next(&s->replicas, &walk, NULL)) != NULL) {
            s->walk[s->walk_count++] = r;
        }
        qsort(s->walk, s->walk_count, sizeof(struct log_replica *), by_id);
    }
    while (*it < s->walk_count) {
        r = s->walk[(*it)++];
        if (r->state != LOG_ABSENT && r->state != LOG_GONE) {
            report_fill(s, r);
            return &s->report;
        }
    }
    return NULL;
}

/* ---- Host records ------------------------------------------------------------------------------ */

static enum thole_code log_put_host(struct log_store *base, const char *name, struct slice value,
                                    struct thole_status *st)
{
    struct rocks_log *s = (struct rocks_log *)base;

    if (strlen(name) > STORE_HOST_NAME_BYTES_MAX) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE, "host record name");
    }
    struct store_key key = store_key_host(name);
    struct bytes record = {0};

    store_encode_host(&record, store_key_slice(&key), value);
    pthread_mutex_lock(&s->write_lock);
    rocksdb_writebatch_clear(s->batch);
    rocksdb_writebatch_put(s->batch, (const char *)key.bytes, key.size, (const char *)record.data,
                           record.size);
    enum thole_code code = rocks_log__commit(s, st);
    pthread_mutex_unlock(&s->write_lock);
    bytes_deinit(&record);
    return code;
}

static enum thole_code log_get_host(struct log_store *base, const char *name, struct buf **ret,
                                    struct thole_status *st)
{
    struct rocks_log *s = (struct rocks_log *)base;
    char *error = NULL;
    size_t size;
    struct slice value;
    enum thole_code code = THOLE_OK;

    if (strlen(name) > STORE_HOST_NAME_BYTES_MAX) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE, "host record name");
    }
    struct store_key key = store_key_host(name);
    char *raw = rocksdb_get(s->db, s->read, (const char *)key.bytes, key.size, &size, &error);
    if (error != NULL) {
        return rocks_fail(st, name, error);
    }
    if (raw == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no host record %s", name);
    }
    if (store_decode_host(store_key_slice(&key), slice_of(raw, size), &value)) {
        *ret = buf_copy(value.data, value.size);
    } else {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "host record %s", name);
    }
    rocksdb_free(raw);
    return code;
}

/* ---- Open ------------------------------------------------------------------------------------- */

static const struct log_store_ops rocks_ops = {
    .close = log_close,
    .write = rocks_log__write,
    .read = rocks_log__read,
    .next = log_next,
    .config_entries = rocks_log__config_entries,
    .put_host = log_put_host,
    .get_host = log_get_host,
};

static enum thole_code open_db(struct rocks_log *s, const struct log_store_options *o,
                               struct thole_status *st)
{
    static const char *const expect[] = {
        INSERT_HINT,
        "allow_concurrent_memtable_write=false",
        "wal_recovery_mode=kTolerateCorruptedTailRecords",
        "compression=kNoCompression",
        "compaction_filter_factory=thole.log",
        "paranoid_checks=true",
        "index_type=kBinarySearchWithFirstKey",
        NULL,
    };
    /* Without compression damage stays where it is: the records beside it can still be read. Runs
     * are short-lived and often encrypted or compressed by those who propose them. */
    enum thole_code code = rocks_options(INSERT_HINT ";compression=kNoCompression",
                                         o->write_buffer_bytes, &s->options, st);
    if (code != THOLE_OK) {
        return code;
    }
    rocksdb_options_set_max_total_wal_size(
        s->options, o->wal_bytes_max != 0 ? o->wal_bytes_max : WAL_BYTES_MAX_DEFAULT);
    rocksdb_cache_t *cache = rocksdb_cache_create_lru(BLOCK_CACHE_BYTES);
    rocksdb_block_based_options_set_block_cache(s->table, cache);
    rocksdb_cache_destroy(cache);
    rocksdb_block_based_options_set_index_type(s->table, INDEX_WITH_FIRST_KEY);
    rocksdb_options_set_block_based_table_factory(s->options, s->table);
    log_filter_install(s->filter, s->options);
    rocksdb_writeoptions_set_sync(s->sync, 1);

    struct store_key format = store_key(0, STORE_KIND_FORMAT);
    code = rocks_open(o->path, s->options, expect, &s->db, st);
    if (code == THOLE_OK) {
        code = rocks_check_format(s->db, s->sync, store_key_slice(&format), LOG_FORMAT_VERSION, st);
    }
    return code == THOLE_OK ? rocks_log__recover(s, st) : code;
}

static enum thole_code log_open_once(const struct log_store_options *o, struct rocks_log **ret,
                                     struct thole_status *st)
{
    struct rocks_log *s = xcalloc(1, sizeof *s);

    s->base.ops = &rocks_ops;
    s->sync = rocksdb_writeoptions_create();
    s->read = rocksdb_readoptions_create();
    s->table = rocksdb_block_based_options_create();
    s->batch = rocksdb_writebatch_create();
    s->filter = log_filter_new();
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->write_lock, NULL);
    pthread_cond_init(&s->written, NULL);
    enum thole_code code = open_db(s, o, st);
    if (code != THOLE_OK) {
        log_close(&s->base);
        return code;
    }
    *ret = s;
    return THOLE_OK;
}

enum thole_code log_store_rocks_open(const struct log_store_options *o, struct log_store **ret,
                                     struct thole_status *st)
{
    struct rocks_log *s = NULL;
    enum thole_code code = rocks_log__salvage_finish(o->path, st);

    if (code == THOLE_OK) {
        code = log_open_once(o, &s, st);
    }
    if (code == THOLE_OK && s->bad_blocks) {
        struct thole_status why = {0};

        code = rocks_log__salvage(s, o->path, &why);
        if (code != THOLE_OK && s->db != NULL) { /* no space, perhaps: it can run as it is */
            LOG_WARN(STORE, "not written anew, a compaction may stop the host; why=\"%s\"",
                     why.message);
            code = THOLE_OK;
        } else {
            log_close(&s->base);
            if (code == THOLE_OK) {
                code = log_open_once(o, &s, st);
            } else if (st != NULL) {
                *st = why;
            }
        }
    }
    if (code == THOLE_OK) {
        *ret = &s->base;
    }
    return code;
}
