/* Salvage of a damaged state database: copies its readable spaces into a new one.
 *
 * A compaction that meets a damaged block makes RocksDB refuse every write of the database. So the
 * first function that meets damage leaves a mark file in the directory. A directory with a mark is
 * not opened but salvaged: every wanted space is read from its first to its last key, and copied. A
 * space that cannot be read completely is lost completely. If the database does not open at all,
 * every space is lost: RocksDB's own repair would bring deleted data back.
 *
 * The new database is complete and synced before it is renamed to PATH.whole. Only then is the old
 * one renamed. If the process ends between the renames, the next open uses PATH.whole. An
 * incomplete copy (PATH.new) is never used, even if the old database was deleted to make room. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "shards/store/inspect.h"
#include "shards/store/rocks.h"
#include "shards/store/state_internal.h"

#define MARK_NAME "DAMAGED"
#define COPY_BYTES ((uint64_t)MIB)
#define KEPT_MAX 1000 /* old directories beside each other */

static char *new_path(const char *path)
{
    return xasprintf("%s.new", path);
}

static char *whole_path(const char *path)
{
    return xasprintf("%s.whole", path);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static char *mark_path(const char *path)
{
    return xasprintf("%s/" MARK_NAME, path);
}

void state__mark(const char *path)
{
    char *mark = mark_path(path);
    int fd = open(mark, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    /* Best effort: without the mark the damage is met again. */
    if (fd >= 0) {
        close(fd);
    }
    free(mark);
}

static enum thole_code move(const char *from, const char *to, struct thole_status *st)
{
    if (rename(from, to) != 0) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "%s: rename: %s", from,
                          strerror(errno));
    }
    char *parent = xstrdup(to), *slash = strrchr(parent, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    enum thole_code code = file_sync_dir(slash != NULL ? parent : ".", st);
    free(parent);
    return code;
}

enum thole_code state__prepare(const char *path, struct thole_status *st)
{
    char *whole = whole_path(path), *mark = mark_path(path);
    enum thole_code code = THOLE_OK;

    if (!exists(path) && exists(whole)) {
        code = move(whole, path, st);
    } else if (exists(mark)) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "the state database was found damaged before");
    }
    free(whole);
    free(mark);
    return code;
}

bool state_inspect_is_marked(const char *path)
{
    char *mark = mark_path(path);
    bool marked = exists(mark);

    free(mark);
    return marked;
}

enum thole_code state_inspect(const char *path, struct state_db **ret, struct thole_status *st)
{
    char *whole = whole_path(path);
    const char *used = !exists(path) && exists(whole) ? whole : path; /* as state__prepare */
    struct state_db *db = NULL;
    enum thole_code code =
        exists(used) ? state__open(&(struct state_db_options){.path = used}, true, &db, st)
                     : THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no state database");

    free(whole);
    if (code != THOLE_OK) {
        return code;
    }
    code = state__check_format(db, st);
    if (code != THOLE_OK && code != THOLE_DATA_LOSS) { /* its damage is met again by readers */
        state__close(db);
        return code;
    }
    *ret = db;
    return THOLE_OK;
}

enum thole_code state_inspect_all(struct state_db *db, uint64_t *ret_records,
                                  struct thole_status *st)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator(db->db, db->read);
    char *error = NULL;

    *ret_records = 0;
    for (rocksdb_iter_seek_to_first(it); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        ++*ret_records;
    }
    rocksdb_iter_get_error(it, &error);
    rocksdb_iter_destroy(it);
    return error != NULL ? state__fail(db, st, "state read", error) : THOLE_OK;
}

void state_inspect_close(struct state_db *db)
{
    state__close(db);
}

/* ---- Copying --------------------------------------------------------------------------------- */

static enum thole_code copy_all(struct state_iter *it, struct state_batch *b, struct state_space s,
                                struct thole_status *st)
{
    struct slice key, value;
    uint64_t bytes = 0;

    while (state_iter_next(it, &key, &value)) {
        state_batch_put(b, s, key, value);
        bytes += key.size + value.size;
        if (bytes >= COPY_BYTES) {
            enum thole_code code = state_batch_write(b, st);
            if (code != THOLE_OK) {
                return code;
            }
            state_batch_clear(b);
            bytes = 0;
        }
    }
    return state_batch_write(b, st);
}

/* Copy one space. Sets `*ret_lost` if it cannot be read; the status is about the new database. */
static enum thole_code copy_space(struct state_db *from, struct state_db *to, struct state_space s,
                                  bool *ret_lost, struct thole_status *st)
{
    struct thole_status why = {0};
    struct state_iter *it = state_iter_new(from, NULL, s, (struct slice){0}, (struct slice){0});
    struct state_batch *b = state_batch_new(to);
    enum thole_code code = copy_all(it, b, s, st);

    *ret_lost = state_iter_status(it, &why) != THOLE_OK;
    state_batch_free(b);
    state_iter_free(it);
    if (code == THOLE_OK && *ret_lost) {
        LOG_ERROR(STORE, "state of a replica damaged replica=%" PRIu64 " error=\"%s\"",
                  s.replica_id, why.message);
        code = state_space_drop(to, s, st);
    }
    return code;
}

static enum thole_code fill(const char *path, const char *fresh, struct state_wanted *list,
                            size_t n, struct thole_status *st)
{
    struct thole_status why = {0};
    struct state_db *from = NULL, *to = NULL;
    enum thole_code code = state__open(&(struct state_db_options){.path = fresh}, false, &to, st);

    if (code != THOLE_OK) {
        return code;
    }
    if (state__open(&(struct state_db_options){.path = path}, true, &from, &why) != THOLE_OK) {
        LOG_ERROR(STORE, "state database unreadable, all its data is lost error=\"%s\"",
                  why.message);
    }
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        list[i].lost = from == NULL;
        if (from != NULL) {
            code = copy_space(from, to, list[i].space, &list[i].lost, st);
        }
    }
    if (code == THOLE_OK) {
        code = state_db_flush(to, st);
    }
    state__close(from);
    state__close(to);
    return code;
}

/* ---- The whole ------------------------------------------------------------------------------- */

static char *kept_path(const char *path)
{
    char *kept = NULL;

    for (int i = 1; i <= KEPT_MAX; i++) {
        free(kept);
        kept = xasprintf("%s.damaged-%d", path, i);
        if (!exists(kept)) {
            return kept;
        }
    }
    free(kept);
    return NULL;
}

static enum thole_code swap(const char *path, const char *fresh, const char *kept,
                            struct thole_status *st)
{
    char *whole = whole_path(path);
    enum thole_code code = move(fresh, whole, st);

    if (code == THOLE_OK) {
        code = move(path, kept, st);
    }
    if (code == THOLE_OK) {
        code = move(whole, path, st);
    }
    free(whole);
    return code;
}

/* Of an earlier attempt. */
static enum thole_code remove_leftovers(const char *path, struct thole_status *st)
{
    char *fresh = new_path(path), *whole = whole_path(path);
    enum thole_code code = file_remove_tree(fresh, st);

    if (code == THOLE_OK) {
        code = file_remove_tree(whole, st);
    }
    free(fresh);
    free(whole);
    return code;
}

static char *current_path(const char *path)
{
    return xasprintf("%s/CURRENT", path);
}

/* Without this file it is no database any more, to RocksDB either. */
enum thole_code state_db_delete(const char *path, struct thole_status *st)
{
    char *current = current_path(path);
    bool gone = unlink(current) == 0 || errno == ENOENT;
    enum thole_code code = gone ? file_remove_tree(path, st)
                                : THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK,
                                             "%s: unlink: %s", current, strerror(errno));

    free(current);
    return code;
}

bool state_db_is_remains(const char *path)
{
    char *current = current_path(path);
    bool remains = !exists(current);

    free(current);
    return remains;
}

enum thole_code state_db_salvage(const char *path, struct state_wanted *list, size_t n,
                                 void (*note)(const char *old, const struct state_wanted *list,
                                              size_t n),
                                 char **ret_kept, struct thole_status *st)
{
    char *fresh = new_path(path), *kept = kept_path(path);
    bool lost = false;

    *ret_kept = NULL;
    enum thole_code code =
        kept != NULL ? remove_leftovers(path, st)
                     : THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK,
                                  "%s: too many damaged databases are kept beside it", path);
    if (code == THOLE_OK) {
        code = fill(path, fresh, list, n, st);
        struct thole_status why = {0};
        if (code != THOLE_OK && remove_leftovers(path, &why) != THOLE_OK) { /* it may be full */
            LOG_WARN(STORE, "unfinished copy not deleted path=%s error=\"%s\"", fresh, why.message);
        }
    }
    if (code == THOLE_OK && note != NULL) {
        note(path, list, n);
    }
    if (code == THOLE_OK) {
        code = swap(path, fresh, kept, st);
    }
    for (size_t i = 0; i < n; i++) {
        lost = lost || (list[i].lost && !list[i].can_lose);
    }
    if (code == THOLE_OK && lost) {
        *ret_kept = kept;
        kept = NULL;
    } else if (code == THOLE_OK) {
        struct thole_status why = {0};
        if (state_db_delete(kept, &why) != THOLE_OK) {
            LOG_WARN(STORE, "damaged database not deleted path=%s error=\"%s\"", kept, why.message);
        }
    }
    free(fresh);
    free(kept);
    return code;
}
