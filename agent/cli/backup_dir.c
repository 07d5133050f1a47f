/* The folder of `thole backup`. See backup_dir.h. */
#include "agent/cli/backup_dir.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/cli/snapshot_io.h"
#include "base/file.h"
#include "base/limits.h"

char *backup_dir_path(const struct backup_dir *d, const char *name)
{
    return xasprintf("%s/%s", d->path, name);
}

char *backup_dir_file(const struct backup_dir *d, const thole_v1_BackupFile *f)
{
    char name[BACKUP_NAME_BYTES];
    backup_file_name(thole_v1_BackupFile_saved_by(f),
                     thole_v1_SnapshotPoint_shard_id(thole_v1_BackupFile_point(f)), name);
    return backup_dir_path(d, name);
}

bool backup_dir_has(const struct backup_dir *d, const thole_v1_BackupFile *f)
{
    struct stat info;
    char *path = backup_dir_file(d, f);
    bool has = stat(path, &info) == 0 && S_ISREG(info.st_mode) &&
               (uint64_t)info.st_size == thole_v1_BackupFile_bytes(f);
    free(path);
    return has;
}

bool backup_dir_has_all(const struct backup_dir *d, const thole_v1_Backup *b)
{
    size_t count = 0;
    const thole_v1_BackupFile *const *files = thole_v1_Backup_files(b, &count);
    for (size_t i = 0; i < count; i++) {
        if (!backup_dir_has(d, files[i])) {
            return false;
        }
    }
    return true;
}

enum thole_code backup_dir_check(const struct backup_dir *d, const thole_v1_BackupFile *f,
                                 upb_StringView cluster, struct thole_status *st)
{
    uint64_t checksum = 0;
    char *path = backup_dir_file(d, f);
    struct snapshot_check *k = snapshot_check_new();
    enum thole_code code = snapshot_check_path(path, k, &checksum, st);
    if (code == THOLE_OK && (checksum != thole_v1_BackupFile_checksum(f) ||
                             snapshot_check_fed(k) != thole_v1_BackupFile_bytes(f) ||
                             !backup_head_matches(snapshot_check_head(k), f, cluster))) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "%s: not the file that the backup names", path);
    } else if (code == THOLE_DATA_LOSS) {
        struct thole_status why = *st;
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "%s: %s", path, why.message);
    }
    snapshot_check_free(k);
    free(path);
    return code;
}

/* ---- Manifests ------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The numbers of all manifests, ascending; malloced. */
static enum thole_code list_numbers(const char *path, uint64_t **ret, size_t *ret_count,
                                    struct thole_status *st)
{
    uint64_t *all = NULL, number = 0;
    size_t count = 0;
    DIR *dir = opendir(path);
    if (dir == NULL) {
        const char *why = strerrordesc_np(errno);
        return THOLE_FAIL(st, errno == ENOENT ? THOLE_NOT_FOUND : THOLE_FAILED_PRECONDITION,
                          THOLE_REASON_DISK, "cannot read %s: %s", path,
                          why != NULL ? why : "unknown error");
    }
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (backup_manifest_number(e->d_name, &number)) {
            all = xrealloc(all, (count + 1) * sizeof *all);
            all[count++] = number;
        }
    }
    closedir(dir);
    if (count > 0) {
        qsort(all, count, sizeof *all, by_number);
    }
    *ret = all;
    *ret_count = count;
    return THOLE_OK;
}

static enum thole_code read_manifest(struct backup_dir *d, uint64_t number,
                                     const thole_v1_Backup **ret, struct thole_status *st)
{
    char name[BACKUP_NAME_BYTES];
    struct buf *b = NULL;
    backup_manifest_name(number, name);
    char *path = backup_dir_path(d, name);
    enum thole_code code = file_read(path, BACKUP_MANIFEST_BYTES_MAX, &b, st);
    if (code == THOLE_OK) {
        code = backup_decode(slice_of(b->data, b->size), d->arena, ret, st);
    }
    if (code == THOLE_OK && thole_v1_Backup_number(*ret) != number) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "this is the manifest of backup %" PRIu64, thole_v1_Backup_number(*ret));
    }
    if (code == THOLE_FAILED_PRECONDITION || code == THOLE_DATA_LOSS) {
        (void)cli__say_failed("%s: %s", path, st->message);
        d->unreadable++;
    }
    buf_unref(b);
    free(path);
    return code;
}

static enum thole_code read_manifests(struct backup_dir *d, struct thole_status *st)
{
    uint64_t *numbers = NULL;
    size_t count = 0;
    enum thole_code code = list_numbers(d->path, &numbers, &count, st);
    d->all = xcalloc(count + 1, sizeof(void *)); /* backup_dir_add adds one */
    for (size_t i = 0; i < count && code == THOLE_OK; i++) {
        d->newest = numbers[i];
        code = read_manifest(d, numbers[i], &d->all[d->count], st);
        d->count += code == THOLE_OK;
        if (code == THOLE_FAILED_PRECONDITION || code == THOLE_DATA_LOSS) {
            code = THOLE_OK; /* counted as unreadable */
        }
    }
    free(numbers);
    return code;
}

static enum thole_code lock(struct backup_dir *d, struct thole_status *st)
{
    char *files = backup_dir_path(d, BACKUP_FILES_DIR);
    char *path = backup_dir_path(d, "LOCK");
    enum thole_code code = file_make_dirs(files, st);
    if (code == THOLE_OK) {
        code = file_lock(path, &d->lock_fd, st);
    }
    if (code != THOLE_OK && st->reason == THOLE_REASON_LOCKED) {
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_LOCKED,
                          "another backup into %s is running", d->path);
    }
    free(files);
    free(path);
    return code;
}

enum thole_code backup_dir_open(const char *path, enum backup_dir_use use, struct backup_dir *ret,
                                struct thole_status *st)
{
    struct backup_dir d = {.path = path, .lock_fd = -1, .arena = upb_Arena_New()};
    enum thole_code code = use == BACKUP_DIR_WRITE ? lock(&d, st) : THOLE_OK;
    if (code == THOLE_OK) {
        code = read_manifests(&d, st);
    }
    if (code == THOLE_OK) {
        *ret = d;
    } else {
        backup_dir_close(&d);
    }
    return code;
}

void backup_dir_close(struct backup_dir *d)
{
    if (d->lock_fd >= 0) {
        (void)close(d->lock_fd);
    }
    free(d->all);
    upb_Arena_Free(d->arena);
}

enum thole_code backup_dir_choose(const struct backup_dir *d, const struct cli *c,
                                  const thole_v1_Backup **ret, struct thole_status *st)
{
    uint64_t number = cli_number(c, OPT_NUMBER);
    for (size_t i = d->count; i > 0; i--) {
        if (number == 0 || thole_v1_Backup_number(d->all[i - 1]) == number) {
            *ret = d->all[i - 1];
            return THOLE_OK;
        }
    }
    if (number == 0) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "%s has no backup", d->path);
    }
    return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE,
                      "%s has no backup %" PRIu64 " that can be read", d->path, number);
}

enum thole_code backup_dir_add(struct backup_dir *d, const thole_v1_Backup *b,
                               struct thole_status *st)
{
    char name[BACKUP_NAME_BYTES];
    struct bytes out = {0};
    backup_manifest_name(thole_v1_Backup_number(b), name);
    char *path = backup_dir_path(d, name);
    backup_encode(b, &out);
    enum thole_code code = THOLE_OK;
    if (out.size > BACKUP_MANIFEST_BYTES_MAX) {
        code = THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                          "the manifest is larger than %d MiB",
                          (int)(BACKUP_MANIFEST_BYTES_MAX / MIB));
    } else {
        code = file_write_atomic(path, bytes_slice(&out), st);
    }
    if (code == THOLE_OK) {
        d->all[d->count++] = b;
    }
    bytes_deinit(&out);
    free(path);
    return code;
}

/* ---- Retention ------------------------------------------------------------------------------- */

static enum thole_code remove_backups(struct backup_dir *d, size_t first, struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    for (size_t i = 0; i < first && code == THOLE_OK; i++) {
        char name[BACKUP_NAME_BYTES];
        backup_manifest_name(thole_v1_Backup_number(d->all[i]), name);
        char *path = backup_dir_path(d, name);
        code = file_remove_tree(path, st);
        free(path);
    }
    return code;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct names {
    char **items;
    size_t count;
};

static void names_deinit(struct names *n)
{
    for (size_t i = 0; i < n->count; i++) {
        free(n->items[i]);
    }
    free(n->items);
}

/* "shards/12-7.snap" of all files that manifests name, sorted. */
static struct names named_files(const struct backup_dir *d, size_t first)
{
    struct names n = {0};
    size_t room = 0;
    for (size_t i = first; i < d->count; i++) {
        size_t count = 0;
        const thole_v1_BackupFile *const *files = thole_v1_Backup_files(d->all[i], &count);
        for (size_t k = 0; k < count; k++) {
            char name[BACKUP_NAME_BYTES];
            backup_file_name(thole_v1_BackupFile_saved_by(files[k]),
                             thole_v1_SnapshotPoint_shard_id(thole_v1_BackupFile_point(files[k])),
                             name);
            if (n.count == room) {
                room = 2 * room + 64;
                n.items = xrealloc(n.items, room * sizeof *n.items);
            }
            n.items[n.count++] = xstrdup(name);
        }
    }
    if (n.count > 0) {
        qsort(n.items, n.count, sizeof *n.items, by_text);
    }
    return n;
}

static bool is_named(const struct names *n, const char *name)
{
    return n->count > 0 && bsearch(&name, n->items, n->count, sizeof *n->items, by_text) != NULL;
}

/* Only files that a backup wrote: *.snap, and *.part of one that was killed. */
static bool is_ours(const char *name)
{
    const char *end = strrchr(name, '.');
    return end != NULL && (strcmp(end, ".snap") == 0 || strcmp(end, ".part") == 0);
}

static enum thole_code sweep(struct backup_dir *d, size_t first, struct thole_status *st)
{
    struct names named = named_files(d, first);
    char *path = backup_dir_path(d, BACKUP_FILES_DIR);
    DIR *dir = opendir(path);
    enum thole_code code = THOLE_OK;
    for (struct dirent *e; dir != NULL && code == THOLE_OK && (e = readdir(dir)) != NULL;) {
        char *name = xasprintf(BACKUP_FILES_DIR "/%s", e->d_name);
        if (is_ours(name) && !is_named(&named, name)) {
            char *file = backup_dir_path(d, name);
            code = file_remove_tree(file, st);
            free(file);
        }
        free(name);
    }
    if (dir != NULL) {
        closedir(dir);
    }
    free(path);
    names_deinit(&named);
    return code;
}

enum thole_code backup_dir_retain(struct backup_dir *d, size_t keep, size_t *ret_removed,
                                  struct thole_status *st)
{
    size_t first = 0;
    *ret_removed = 0;
    if (d->unreadable > 0) {
        cli__note("nothing is removed from %s, because a manifest in it cannot be read", d->path);
        return THOLE_OK;
    }
    if (keep > 0) {
        bool *whole = xcalloc(d->count + 1, sizeof *whole);
        for (size_t i = 0; i < d->count; i++) {
            whole[i] = backup_dir_has_all(d, d->all[i]);
        }
        first = backup_first_kept(d->all, whole, d->count, keep);
        free(whole);
    }
    enum thole_code code = remove_backups(d, first, st);
    if (code == THOLE_OK) {
        code = sweep(d, first, st);
    }
    *ret_removed = code == THOLE_OK ? first : 0;
    return code;
}
