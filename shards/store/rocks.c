#include "shards/store/rocks.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"

#define OPEN_FILES_MAX 512
#define WRITE_BUFFER_BYTES_DEFAULT ((size_t)64 * MIB)
#define OPTIONS_FILE_BYTES_MAX ((size_t)1 * MIB)
#define WAL_BYTES_MAX (64 * MIB)
#define MANIFEST_BYTES_MAX ((size_t)256 * MIB) /* then RocksDB begins another one */

/* The C API returns texts without codes. These prefixes are the names of the codes
 * (rocksdb::Status::ToString), not free text. */
enum thole_code rocks_fail(struct thole_status *st, const char *what, char *error)
{
    enum thole_code code = THOLE_UNAVAILABLE;
    enum thole_reason reason = THOLE_REASON_DISK;

    if (strncmp(error, "Corruption", 10) == 0) {
        code = THOLE_DATA_LOSS;
        reason = THOLE_REASON_CORRUPT;
    } else if (strstr(error, "/LOCK: ") != NULL) {
        code = THOLE_FAILED_PRECONDITION;
        reason = THOLE_REASON_LOCKED;
    }
    thole_status_set(st, code, reason, __FILE__, __LINE__, "%s: %s", what, error);
    rocksdb_free(error);
    return code;
}

/* A share of the descriptors: connections and the log need some too. */
static int open_files_max(void)
{
    uint64_t share = file_descriptors_max() / 4;
    return share < OPEN_FILES_MAX ? (int)share : OPEN_FILES_MAX;
}

enum thole_code rocks_options(const char *more, size_t write_buffer_bytes, rocksdb_options_t **ret,
                              struct thole_status *st)
{
    rocksdb_options_t *base = rocksdb_options_create();
    rocksdb_options_t *o = rocksdb_options_create();
    char *error = NULL;

    rocksdb_options_set_create_if_missing(base, 1);
    rocksdb_options_set_paranoid_checks(base, 1);
    rocksdb_options_set_write_buffer_size(
        base, write_buffer_bytes != 0 ? write_buffer_bytes : WRITE_BUFFER_BYTES_DEFAULT);
    rocksdb_options_set_max_write_buffer_number(base, 4);
    rocksdb_options_set_max_background_jobs(base, 2);
    rocksdb_options_set_max_open_files(base, open_files_max());
    /* There are few concurrent writers: the appliers. */
    rocksdb_options_set_allow_concurrent_memtable_write(base, 0);
    /* No periodic statistics: an idle host does no work. */
    rocksdb_options_set_stats_dump_period_sec(base, 0);
    rocksdb_options_set_stats_persist_period_sec(base, 0);
    /* No lines while it runs: after a write to its log file has failed, this RocksDB aborts the
     * process at the next line. Each error is in a status, too. */
    rocksdb_options_set_info_log_level(base, 4);
    rocksdb_options_set_max_log_file_size(base, (size_t)4 * MIB);
    rocksdb_options_set_keep_log_file_num(base, 2);
    rocksdb_options_set_max_manifest_file_size(base, MANIFEST_BYTES_MAX);
    rocksdb_get_options_from_string(base, more, o, &error);
    rocksdb_options_destroy(base);
    if (error != NULL) {
        rocksdb_options_destroy(o);
        return rocks_fail(st, "options", error);
    }
    *ret = o;
    return THOLE_OK;
}

/* Reads the newest OPTIONS-<number> file: the options that RocksDB uses. */
static enum thole_code read_options_file(const char *path, struct buf **ret,
                                         struct thole_status *st)
{
    uint64_t newest = 0;
    char name[256] = "";
    struct bytes full = {0};
    struct dirent *e;
    DIR *d = opendir(path);

    while (d != NULL && (e = readdir(d)) != NULL) {
        uint64_t n;
        if (sscanf(e->d_name, "OPTIONS-%" SCNu64, &n) == 1 && n >= newest &&
            strstr(e->d_name, "dbtmp") == NULL) {
            newest = n;
            snprintf(name, sizeof name, "%s", e->d_name);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    bytes_printf(&full, "%s/%s", path, name);
    bytes_append(&full, "", 1);
    enum thole_code code = file_read((const char *)full.data, OPTIONS_FILE_BYTES_MAX, ret, st);
    bytes_deinit(&full);
    return code;
}

static enum thole_code verify_options(const char *path, const char *const *expect,
                                      struct thole_status *st)
{
    struct buf *file = NULL;
    enum thole_code code = read_options_file(path, &file, st);

    for (; code == THOLE_OK && *expect != NULL; expect++) {
        if (memmem(file->data, file->size, *expect, strlen(*expect)) == NULL) {
            code = THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_FORMAT,
                              "%s: this RocksDB did not take the option \"%s\"", path, *expect);
        }
    }
    buf_unref(file);
    return code;
}

/* Files that RocksDB reads whole at its start are never larger. */
static off_t file_bytes_max(const char *name)
{
    static const struct {
        const char *prefix;
        off_t bytes_max;
    } files[] = {
        {"CURRENT", MIB},
        {"IDENTITY", MIB},
        {"OPTIONS-", OPTIONS_FILE_BYTES_MAX},
        {"MANIFEST-", 2 * MANIFEST_BYTES_MAX},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (strncmp(name, files[i].prefix, strlen(files[i].prefix)) == 0) {
            return files[i].bytes_max;
        }
    }
    const char *dot = strrchr(name, '.'); /* "000004.log"; nothing is written with the WAL */
    return dot != NULL && strcmp(dot, ".log") == 0 ? WAL_BYTES_MAX : INT64_MAX;
}

static enum thole_code check_file(const char *path, const char *name, const struct stat *info,
                                  struct thole_status *st)
{
    if (!S_ISREG(info->st_mode)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "%s/%s is not a regular file", path, name);
    }
    if (info->st_size > file_bytes_max(name)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "%s/%s is larger than %jd bytes", path, name,
                          (intmax_t)file_bytes_max(name));
    }
    return THOLE_OK;
}

/* RocksDB opens what its names lead to: it would wait at a FIFO, and follow links. */
enum thole_code rocks_check_files(const char *path, struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    struct dirent *e;
    DIR *d = opendir(path);

    while (code == THOLE_OK && d != NULL && (e = readdir(d)) != NULL) {
        struct stat info;
        bool entry = strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
        if (entry && fstatat(dirfd(d), e->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0) {
            code = check_file(path, e->d_name, &info, st);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return code;
}

enum thole_code rocks_open(const char *path, rocksdb_options_t *options, const char *const *expect,
                           rocksdb_t **ret, struct thole_status *st)
{
    char *error = NULL;
    enum thole_code code = file_make_dirs(path, st);

    if (code != THOLE_OK) {
        return code;
    }
    rocksdb_t *db = rocksdb_open(options, path, &error);
    if (error != NULL) {
        return rocks_fail(st, "open", error);
    }
    code = verify_options(path, expect, st);
    if (code != THOLE_OK) {
        rocksdb_close(db);
        return code;
    }
    *ret = db;
    return THOLE_OK;
}

static bool is_empty(rocksdb_t *db)
{
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    rocksdb_iterator_t *it = rocksdb_create_iterator(db, ro);

    rocksdb_iter_seek_to_first(it);
    bool empty = !rocksdb_iter_valid(it);
    char *error = NULL;
    rocksdb_iter_get_error(it, &error);
    if (error != NULL) {
        empty = false;
        rocksdb_free(error);
    }
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(ro);
    return empty;
}

enum thole_code rocks_check_format(rocksdb_t *db, rocksdb_writeoptions_t *wo, struct slice key,
                                   uint64_t version, struct thole_status *st)
{
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    char *error = NULL;
    size_t size = 0;
    char *value = rocksdb_get(db, ro, (const char *)key.data, key.size, &size, &error);
    enum thole_code code = THOLE_OK;
    char text[24];

    rocksdb_readoptions_destroy(ro);
    if (error != NULL) {
        return rocks_fail(st, "format", error);
    }
    if (value == NULL && is_empty(db)) {
        if (wo == NULL) {
            return THOLE_OK;
        }
        int n = snprintf(text, sizeof text, "%" PRIu64, version);
        rocksdb_put(db, wo, (const char *)key.data, key.size, text, (size_t)n, &error);
        return error != NULL ? rocks_fail(st, "format", error) : THOLE_OK;
    }
    snprintf(text, sizeof text, "%.*s", (int)size, value != NULL ? value : "");
    rocksdb_free(value);
    uint64_t found = strtoull(text, NULL, 10);
    if (found == 0) {
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "not a database of this program");
    } else if (found > version) {
        code =
            THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                       "format %" PRIu64 " is newer than this program's %" PRIu64, found, version);
    }
    return code;
}
