/* A damaged file block would stop the host as soon as a compaction met it, again after each
 * restart. So a log database in which recovery met one is written anew, without the block:
 *
 *   1. Everything of the healthy replicas, the host's records, and of each damaged replica its
 *      identity and a DAMAGED record go into "<path>.new"; the format number comes last; flushed.
 *   2. "<path>" is renamed to "<path>.damaged" (for people to look at), "<path>.new" to "<path>".
 *
 * A crash before the first rename leaves a ".new" that the next salvage removes; one between the
 * two renames is finished by rocks_log__salvage_finish at the next open. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "shards/store/rocks.h"
#include "shards/store/rocks_log.h"

#define FLUSH_BYTES ((size_t)16 * MIB)

static char *join(const char *a, const char *b)
{
    struct bytes s = {0};

    bytes_append_str(&s, a);
    bytes_append_str(&s, b);
    bytes_append(&s, "", 1);
    return (char *)s.data;
}

/* Make the entries of the folder that holds `path` durable. */
static enum thole_code sync_parent(const char *path, struct thole_status *st)
{
    char *parent = xstrdup(path);
    char *slash = strrchr(parent, '/');

    if (slash != NULL) {
        slash[slash == parent] = '\0';
    }
    enum thole_code code = file_sync_dir(slash != NULL ? parent : ".", st);
    free(parent);
    return code;
}

static enum thole_code move(const char *from, const char *to, struct thole_status *st)
{
    if (rename(from, to) != 0) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "rename %s: %s", from,
                          strerror(errno));
    }
    return sync_parent(to, st);
}

enum thole_code rocks_log__salvage_finish(const char *path, struct thole_status *st)
{
    char *fresh = join(path, ".new");
    enum thole_code code = THOLE_OK;

    if (access(path, F_OK) != 0 && access(fresh, F_OK) == 0) {
        code = move(fresh, path, st);
    }
    free(fresh);
    return code;
}

/* ---- Copying ---------------------------------------------------------------------------------- */

struct copy {
    rocksdb_t *from, *to;
    rocksdb_writeoptions_t *no_wal;
    rocksdb_writebatch_t *batch;
    size_t bytes;
};

static enum thole_code copy_flush(struct copy *c, struct thole_status *st)
{
    char *error = NULL;

    rocksdb_write(c->to, c->no_wal, c->batch, &error);
    rocksdb_writebatch_clear(c->batch);
    c->bytes = 0;
    return error != NULL ? rocks_fail(st, "salvage", error) : THOLE_OK;
}

static enum thole_code copy_put(struct copy *c, struct slice key, struct slice value,
                                struct thole_status *st)
{
    rocksdb_writebatch_put(c->batch, (const char *)key.data, key.size, (const char *)value.data,
                           value.size);
    c->bytes += key.size + value.size;
    return c->bytes < FLUSH_BYTES ? THOLE_OK : copy_flush(c, st);
}

/* All records of one replica; of id 0 all but the format. */
static enum thole_code copy_replica(struct copy *c, uint64_t id, struct thole_status *st)
{
    struct store_key from = store_key(id, STORE_KIND_IDENTITY);
    struct store_key to = store_key(id + 1, STORE_KIND_FORMAT);
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    enum thole_code code = THOLE_OK;
    char *error = NULL;

    rocksdb_readoptions_set_iterate_upper_bound(ro, (const char *)to.bytes, to.size);
    rocksdb_iterator_t *it = rocksdb_create_iterator(c->from, ro);
    for (rocks_iter_seek(it, store_key_slice(&from)); code == THOLE_OK && rocksdb_iter_valid(it);
         rocksdb_iter_next(it)) {
        code = copy_put(c, rocks_iter_key(it), rocks_iter_value(it), st);
    }
    rocksdb_iter_get_error(it, &error);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(ro);
    if (error != NULL) {
        code = rocks_fail(st, "salvage", error);
    }
    return code;
}

/* A replica that is not whole any more: who it was, and that it is damaged; or its tombstone. */
static enum thole_code copy_remains(struct copy *c, const struct log_replica *r,
                                    struct thole_status *st)
{
    struct store_key k = store_key(r->id, STORE_KIND_IDENTITY);
    struct store_identity_record id = {
        .tombstone = r->state == LOG_TOMBSTONE,
        .shard_id = r->shard_id,
    };
    struct bytes record = {0};

    if (r->descriptor != NULL && !id.tombstone) {
        id.descriptor = slice_of(r->descriptor->data, r->descriptor->size);
    }
    store_encode_identity(&record, store_key_slice(&k), &id);
    enum thole_code code = copy_put(c, store_key_slice(&k), bytes_slice(&record), st);
    if (code == THOLE_OK && !id.tombstone) {
        k = store_key(r->id, STORE_KIND_DAMAGED);
        code = copy_put(c, store_key_slice(&k), (struct slice){0}, st);
    }
    bytes_deinit(&record);
    return code;
}

static enum thole_code copy_all(struct rocks_log *s, struct copy *c, struct thole_status *st)
{
    enum thole_code code = copy_replica(c, 0, st);
    struct log_replica *r;
    size_t it = 0;

    while (code == THOLE_OK && (r = map_next(&s->replicas, &it, NULL)) != NULL) {
        if (r->state == LOG_LIVE) {
            code = copy_replica(c, r->id, st);
        } else if (r->state == LOG_DAMAGED || r->state == LOG_TOMBSTONE) {
            code = copy_remains(c, r, st);
        }
    }
    return code == THOLE_OK ? copy_flush(c, st) : code;
}

static enum thole_code write_fresh(struct rocks_log *s, const char *fresh, struct thole_status *st)
{
    static const char *const expect[] = {"compression=kNoCompression", NULL};
    struct store_key format = store_key(0, STORE_KIND_FORMAT);
    rocksdb_flushoptions_t *fo = rocksdb_flushoptions_create();
    struct copy c = {.from = s->db, .no_wal = rocksdb_writeoptions_create()};
    char *error = NULL;
    enum thole_code code = file_remove_tree(fresh, st);

    c.batch = rocksdb_writebatch_create();
    rocksdb_writeoptions_disable_WAL(c.no_wal, 1);
    if (code == THOLE_OK) {
        code = rocks_open(fresh, s->options, expect, &c.to, st);
    }
    if (code == THOLE_OK) {
        code = copy_all(s, &c, st);
    }
    if (code == THOLE_OK) {
        code = copy_put(&c, store_key_slice(&format), slice_str(LOG_FORMAT_TEXT), st);
    }
    if (code == THOLE_OK) {
        code = copy_flush(&c, st);
    }
    if (code == THOLE_OK) {
        rocksdb_flush(c.to, fo, &error);
        code = error != NULL ? rocks_fail(st, "salvage", error) : THOLE_OK;
    }
    if (c.to != NULL) {
        rocksdb_close(c.to);
    }
    rocksdb_flushoptions_destroy(fo);
    rocksdb_writebatch_destroy(c.batch);
    rocksdb_writeoptions_destroy(c.no_wal);
    return code;
}

enum thole_code rocks_log__salvage(struct rocks_log *s, const char *path, struct thole_status *st)
{
    char *fresh = join(path, ".new"), *damaged = join(path, ".damaged");

    LOG_WARN(STORE, "writing the log database anew without its damaged blocks; kept=%s", damaged);
    enum thole_code code = write_fresh(s, fresh, st);
    if (code == THOLE_OK) {
        code = file_remove_tree(damaged, st);
    }
    if (code == THOLE_OK) {
        rocksdb_close(s->db);
        s->db = NULL;
        code = move(path, damaged, st);
    }
    if (code == THOLE_OK) {
        code = move(fresh, path, st);
    }
    free(fresh);
    free(damaged);
    return code;
}
