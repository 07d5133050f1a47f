/* The state database: open, gets, views, spaces. Batches are in state_batch.c, iterators in
 * state_iter.c.
 *
 * Nothing here goes through a WAL: what is durable is what has been flushed. A batch lives in one
 * memtable and memtables are flushed in order, so a crash loses a suffix of the batches and never
 * a part of one. One column family; range deletions are fine here, as there is no insert hint. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/store/rocks.h"
#include "shards/store/state_internal.h"

#define STATE_FORMAT_VERSION 1
#define BLOCK_CACHE_BYTES ((size_t)64 * MIB)
#define BLOOM_BITS 10
void state__prefix(uint8_t p[STATE_PREFIX_BYTES], struct state_space s)
{
    put_be64(p, s.replica_id);
    put_be64(p + STATE_PREFIX_BYTES / 2, s.generation);
}

void state__key(struct bytes *out, struct state_space s, struct slice key)
{
    bytes_clear(out);
    state__prefix(bytes_extend(out, STATE_PREFIX_BYTES), s);
    bytes_append_slice(out, key);
}

bool state__space_after(struct state_space s, struct state_space *ret)
{
    *ret = (struct state_space){s.replica_id, s.generation + 1};
    if (ret->generation == 0) {
        ret->replica_id++;
    }
    return ret->replica_id != 0 || ret->generation != 0;
}

/* ---- Open, close, flush ---------------------------------------------------------------------- */

static void destroy(struct state_db *db)
{
    if (db->db != NULL) {
        rocksdb_close(db->db);
    }
    rocksdb_writeoptions_destroy(db->no_wal);
    rocksdb_readoptions_destroy(db->read);
    rocksdb_block_based_options_destroy(db->table);
    if (db->options != NULL) {
        rocksdb_options_destroy(db->options);
    }
    free(db->path);
    free(db);
}

static enum thole_code open_read_only(struct state_db *db, struct thole_status *st)
{
    char *error = NULL;

    db->db = rocksdb_open_for_read_only(db->options, db->path, 0, &error);
    return error != NULL ? rocks_fail(st, "open", error) : THOLE_OK;
}

static enum thole_code check_format(struct state_db *db, rocksdb_writeoptions_t *wo,
                                    struct thole_status *st)
{
    uint8_t format[STATE_PREFIX_BYTES] = {0}; /* replica id 0 names no replica */

    return rocks_check_format(db->db, wo, slice_of(format, sizeof format), STATE_FORMAT_VERSION,
                              st);
}

static enum thole_code open_read_write(struct state_db *db, struct thole_status *st)
{
    static const char *const expect[] = {"compression=kLZ4Compression", "paranoid_checks=true",
                                         "avoid_flush_during_shutdown=false", NULL};
    enum thole_code code = rocks_open(db->path, db->options, expect, &db->db, st);

    if (code == THOLE_OK) {
        code = check_format(db, db->no_wal, st);
    }
    return code == THOLE_OK ? state_db_flush(db, st) : code;
}

static enum thole_code open_db(struct state_db *db, const struct state_db_options *o,
                               bool read_only, struct thole_status *st)
{
    /* Read-only: an unreadable table must not prevent reading the others. */
    enum thole_code code =
        rocks_options(read_only ? "compression=kLZ4Compression;paranoid_checks=false"
                                : "compression=kLZ4Compression;avoid_flush_during_shutdown=0",
                      o->write_buffer_bytes, &db->options, st);
    if (code != THOLE_OK) {
        return code;
    }
    rocksdb_cache_t *cache = rocksdb_cache_create_lru(BLOCK_CACHE_BYTES);
    rocksdb_block_based_options_set_block_cache(db->table, cache);
    rocksdb_cache_destroy(cache);
    rocksdb_block_based_options_set_filter_policy(db->table,
                                                  rocksdb_filterpolicy_create_bloom(BLOOM_BITS));
    rocksdb_options_set_block_based_table_factory(db->options, db->table);
    rocksdb_writeoptions_disable_WAL(db->no_wal, 1);
    return read_only ? open_read_only(db, st) : open_read_write(db, st);
}

enum thole_code state__open(const struct state_db_options *o, bool read_only, struct state_db **ret,
                            struct thole_status *st)
{
    struct state_db *db = xcalloc(1, sizeof *db);

    db->path = xstrdup(o->path);
    db->no_wal = rocksdb_writeoptions_create();
    db->read = rocksdb_readoptions_create();
    db->table = rocksdb_block_based_options_create();
    enum thole_code code = rocks_check_files(o->path, st);
    if (code == THOLE_OK) {
        code = open_db(db, o, read_only, st);
    }
    if (code != THOLE_OK) {
        destroy(db);
        return code;
    }
    *ret = db;
    return THOLE_OK;
}

enum thole_code state__check_format(struct state_db *db, struct thole_status *st)
{
    return check_format(db, NULL, st);
}

enum thole_code state_db_open(const struct state_db_options *o, struct state_db **ret,
                              struct thole_status *st)
{
    enum thole_code code = state__prepare(o->path, st);

    if (code == THOLE_OK) {
        code = state__open(o, false, ret, st);
    }
    if (code == THOLE_OK) {
        (*ret)->damaged = o->damaged;
        (*ret)->damaged_ctx = o->ctx;
    }
    return code;
}

void state__close(struct state_db *db)
{
    if (db != NULL) {
        destroy(db);
    }
}

/* An unreadable sector counts as damage, like a wrong checksum. */
static bool is_damage(const char *error)
{
    return strncmp(error, "Corruption", 10) == 0 || strstr(error, "Input/output error") != NULL;
}

enum thole_code state__fail(struct state_db *db, struct thole_status *st, const char *what,
                            char *error)
{
    if (db->damaged != NULL && is_damage(error) && !atomic_exchange(&db->is_damaged, true)) {
        state__mark(db->path);
        db->damaged(db->damaged_ctx, error);
    }
    return rocks_fail(st, what, error);
}

void state_db_close(struct state_db *db)
{
    if (db == NULL) {
        return;
    }
    /* RocksDB also flushes on close. After a failure, the state of the last good flush remains. */
    if (state_db_flush(db, NULL) != THOLE_OK) {
        rocksdb_cancel_all_background_work(db->db, 1);
    }
    destroy(db);
}

enum thole_code state_db_flush(struct state_db *db, struct thole_status *st)
{
    rocksdb_flushoptions_t *fo = rocksdb_flushoptions_create();
    uint64_t before = atomic_load(&db->unflushed);
    char *error = NULL;

    rocksdb_flushoptions_set_wait(fo, 1);
    rocksdb_flush(db->db, fo, &error);
    rocksdb_flushoptions_destroy(fo);
    if (error != NULL) {
        return state__fail(db, st, "state flush", error);
    }
    /* Two flushes at once must not subtract the same bytes twice. */
    uint64_t now = atomic_load(&db->unflushed);
    while (!atomic_compare_exchange_weak(&db->unflushed, &now, now > before ? now - before : 0)) {
    }
    return THOLE_OK;
}

uint64_t state_db_unflushed_bytes(const struct state_db *db)
{
    return atomic_load_explicit(&db->unflushed, memory_order_relaxed);
}

/* ---- Views and gets -------------------------------------------------------------------------- */

struct state_view *state_view_acquire(struct state_db *db)
{
    struct state_view *v = xcalloc(1, sizeof *v);

    v->snapshot = rocksdb_create_snapshot(db->db);
    v->read = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(v->read, v->snapshot);
    return v;
}

void state_view_release(struct state_db *db, struct state_view *v)
{
    if (v != NULL) {
        rocksdb_readoptions_destroy(v->read);
        rocksdb_release_snapshot(db->db, v->snapshot);
        free(v);
    }
}

enum thole_code state_get(struct state_db *db, const struct state_view *v, struct state_space s,
                          struct slice key, struct buf **ret, struct thole_status *st)
{
    uint8_t small[256];
    struct bytes large = {0};
    const uint8_t *full = small;
    size_t full_size = STATE_PREFIX_BYTES + key.size, size;
    char *error = NULL;

    if (full_size <= sizeof small) {
        state__prefix(small, s);
        if (key.size > 0) {
            memcpy(small + STATE_PREFIX_BYTES, key.data, key.size);
        }
    } else {
        state__key(&large, s, key);
        full = large.data;
    }
    rocksdb_pinnableslice_t *p = rocksdb_get_pinned(db->db, v != NULL ? v->read : db->read,
                                                    (const char *)full, full_size, &error);
    bytes_deinit(&large);
    if (error != NULL) {
        return state__fail(db, st, "state read", error);
    }
    if (p == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no such key");
    }
    const char *value = rocksdb_pinnableslice_value(p, &size);
    *ret = buf_copy(value, size);
    rocksdb_pinnableslice_destroy(p);
    return THOLE_OK;
}

/* ---- Spaces ---------------------------------------------------------------------------------- */

enum thole_code state_space_drop(struct state_db *db, struct state_space s, struct thole_status *st)
{
    uint8_t from[STATE_PREFIX_BYTES], to[STATE_PREFIX_BYTES];
    struct state_space after;
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    char *error = NULL;

    bool bounded = state__space_after(s, &after);
    ASSERT(s.replica_id != 0 && bounded);
    state__prefix(from, s);
    state__prefix(to, after);
    rocksdb_writebatch_delete_range(b, (const char *)from, sizeof from, (const char *)to,
                                    sizeof to);
    rocksdb_write(db->db, db->no_wal, b, &error);
    rocksdb_writebatch_destroy(b);
    if (error != NULL) {
        return state__fail(db, st, "space drop", error);
    }
    atomic_fetch_add(&db->unflushed, 2 * STATE_PREFIX_BYTES + STATE_RECORD_BYTES);
    /* Best effort: ask for an early compaction of the files that hold the space. */
    rocksdb_suggest_compact_range(db->db, (const char *)from, sizeof from, (const char *)to,
                                  sizeof to, &error);
    rocksdb_free(error);
    return THOLE_OK;
}

enum thole_code state_spaces(struct state_db *db, struct state_space **ret, size_t *ret_count,
                             struct thole_status *st)
{
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    struct state_space *list = xmalloc(sizeof *list), s = {.replica_id = 1};
    uint8_t prefix[STATE_PREFIX_BYTES];
    char *error = NULL;
    size_t n = 0;

    rocksdb_iterator_t *it = rocksdb_create_iterator(db->db, ro);
    do {
        state__prefix(prefix, s);
        rocks_iter_seek(it, slice_of(prefix, sizeof prefix));
        if (!rocksdb_iter_valid(it)) {
            break;
        }
        struct slice key = rocks_iter_key(it);
        if (key.size < STATE_PREFIX_BYTES) {
            error = xstrdup("Corruption: malformed key");
            break;
        }
        s = (struct state_space){get_be64(key.data), get_be64(key.data + 8)};
        list = xrealloc(list, (n + 1) * sizeof *list);
        list[n++] = s;
    } while (state__space_after(s, &s));
    if (error == NULL) {
        rocksdb_iter_get_error(it, &error);
    }
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(ro);
    if (error != NULL) {
        free(list);
        return state__fail(db, st, "state recovery", error);
    }
    *ret = list;
    *ret_count = n;
    return THOLE_OK;
}
