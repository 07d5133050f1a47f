/* Snapshot files on the file system. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "shards/engine/engine_internal.h"

struct disk {
    struct engine_files base;
    char *directory;
};
struct engine_file {
    struct disk *disk;
    int fd;
    char *path;
    bool durable;
    uint64_t written, started; /* bytes; how many of them were handed to the disk */
};

/* The disk starts writing early, in steps of this size. So the sync at the end is short, and delays
 * the log's syncs little. */
#define WRITE_OUT_BYTES (4 * MIB)

static struct disk *disk_of(struct engine_files *f)
{
    return CONTAINER_OF(f, struct disk, base);
}

static enum thole_code fail(struct thole_status *st, const char *what, const char *path)
{
    int e = errno;
    if (e == ENOENT) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_DISK, "%s %s: %s", what, path,
                          strerror(e));
    }
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "%s %s: %s", what, path,
                      strerror(e));
}

static enum thole_code open_file(struct disk *d, const char *name, bool create,
                                 struct engine_file **ret, struct thole_status *st)
{
    char *path = xasprintf("%s/%s", d->directory, name);
    struct stat info;
    int fd = create ? file_create(path)
                    : file_open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd >= 0 && fstat(fd, &info) == 0 && !S_ISREG(info.st_mode)) {
        close(fd);
        fd = -1;
        errno = EINVAL;
    }
    if (fd < 0) {
        enum thole_code code = fail(st, "open", path);
        free(path);
        return code;
    }
    struct engine_file *file = xcalloc(1, sizeof *file);
    *file = (struct engine_file){.disk = d, .fd = fd, .path = path};
    *ret = file;
    return THOLE_OK;
}

static void disk_close(struct engine_file *file)
{
    if (file->fd >= 0) {
        (void)close(file->fd);
    }
    free(file->path);
    free(file);
}

static enum thole_code disk_create(struct engine_files *f, const char *name, bool durable,
                                   struct engine_file **ret, struct thole_status *st)
{
    enum thole_code code = open_file(disk_of(f), name, true, ret, st);
    if (code == THOLE_OK) {
        (*ret)->durable = durable;
    }
    return code;
}

static void write_out(struct engine_file *file)
{
    ASSERT(file->started <= file->written);
    uint64_t n = file->written - file->started;
    if (!file->durable || n < WRITE_OUT_BYTES) {
        return;
    }
    (void)sync_file_range(file->fd, (off_t)file->started, (off_t)n, SYNC_FILE_RANGE_WRITE);
    file->started = file->written;
}

static enum thole_code disk_append(struct engine_file *file, const void *data, size_t size,
                                   struct thole_status *st)
{
    const uint8_t *p = data;
    while (size > 0) {
        ssize_t n = write(file->fd, p, size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail(st, "write", file->path);
        }
        p += n;
        size -= (size_t)n;
        file->written += (uint64_t)n;
    }
    write_out(file);
    return THOLE_OK;
}

static void disk_discard(struct engine_file *file)
{
    (void)unlink(file->path);
    disk_close(file);
}

static enum thole_code disk_commit(struct engine_file *file, const char *final_name,
                                   struct thole_status *st)
{
    char *path = xasprintf("%s/%s", file->disk->directory, final_name);
    enum thole_code code = THOLE_OK;
    if (file->durable && fsync(file->fd) != 0) {
        code = fail(st, "sync", file->path);
    } else if (rename(file->path, path) != 0) {
        code = fail(st, "rename", file->path);
    } else if (file->durable) {
        code = file_sync_dir(file->disk->directory, st);
    }
    if (code != THOLE_OK) {
        (void)unlink(file->path);
    }
    free(path);
    disk_close(file);
    return code;
}

static enum thole_code disk_open(struct engine_files *f, const char *name, struct engine_file **ret,
                                 uint64_t *ret_size, struct thole_status *st)
{
    enum thole_code code = open_file(disk_of(f), name, false, ret, st);
    if (code != THOLE_OK) {
        return code;
    }
    off_t size = lseek((*ret)->fd, 0, SEEK_END);
    if (size < 0) {
        code = fail(st, "size of", (*ret)->path);
        disk_close(*ret);
        return code;
    }
    *ret_size = (uint64_t)size;
    return THOLE_OK;
}

static enum thole_code disk_read(struct engine_file *file, uint64_t offset, void *data, size_t size,
                                 struct thole_status *st)
{
    uint8_t *p = data;
    while (size > 0) {
        ssize_t n = pread(file->fd, p, size, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail(st, "read", file->path);
        }
        if (n == 0) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "%s is cut", file->path);
        }
        p += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return THOLE_OK;
}

static void disk_remove(struct engine_files *f, const char *name)
{
    char *path = xasprintf("%s/%s", disk_of(f)->directory, name);
    if (unlink(path) != 0 && errno != ENOENT) {
        LOG_WARN(ENGINE, "snapshot file not removed, the next start retries file=%s error=\"%s\"",
                 path, strerror(errno));
    }
    free(path);
}

static void disk_list(struct engine_files *f, void (*each)(void *ctx, const char *name), void *ctx)
{
    DIR *dir = opendir(disk_of(f)->directory);
    if (dir == NULL) {
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.') {
            each(ctx, entry->d_name);
        }
    }
    (void)closedir(dir);
}

static enum thole_code disk_space(struct engine_files *f, uint64_t *ret_free_bytes,
                                  struct thole_status *st)
{
    uint64_t total;
    return file_space(disk_of(f)->directory, ret_free_bytes, &total, st);
}

static void disk_free(struct engine_files *f)
{
    free(disk_of(f)->directory);
    free(disk_of(f));
}

static const struct engine_files_ops disk_ops = {
    .free = disk_free,
    .create = disk_create,
    .append = disk_append,
    .commit = disk_commit,
    .discard = disk_discard,
    .open = disk_open,
    .read = disk_read,
    .close = disk_close,
    .remove = disk_remove,
    .list = disk_list,
    .space = disk_space,
};

enum thole_code engine_files_disk_new(const char *directory, struct engine_files **ret,
                                      struct thole_status *st)
{
    enum thole_code code = file_make_dirs(directory, st);
    if (code != THOLE_OK) {
        return code;
    }
    struct disk *d = xcalloc(1, sizeof *d);
    d->base.ops = &disk_ops;
    d->directory = xstrdup(directory);
    *ret = &d->base;
    return THOLE_OK;
}
