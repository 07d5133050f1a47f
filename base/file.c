#include "base/file.h"

#include <bsd/libutil.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static enum thole_code disk_error(const char *what, const char *path, struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "%s %s: %s", what, path,
                      strerror(errno));
}

enum thole_code file_sync_dir(const char *path, struct thole_status *st)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return disk_error("open", path, st);
    int failed = fsync(fd);
    int saved = errno;
    close(fd);
    errno = saved;
    return failed ? disk_error("sync", path, st) : THOLE_OK;
}

static enum thole_code sync_parent(const char *path, struct thole_status *st)
{
    char *parent = xstrdup(path);
    char *slash = strrchr(parent, '/');
    enum thole_code code = THOLE_OK;
    if (slash == parent)
        code = file_sync_dir("/", st);
    else if (slash) {
        *slash = 0;
        code = file_sync_dir(parent, st);
    } else {
        code = file_sync_dir(".", st);
    }
    free(parent);
    return code;
}

static enum thole_code make_one(const char *path, struct thole_status *st)
{
    if (mkdir(path, 0700) == 0)
        return sync_parent(path, st);
    struct stat s;
    if (errno == EEXIST && stat(path, &s) == 0) {
        if (S_ISDIR(s.st_mode))
            return THOLE_OK;
        errno = ENOTDIR;
    }
    return disk_error("create directory", path, st);
}

enum thole_code file_make_dirs(const char *path, struct thole_status *st)
{
    char *p = xstrdup(path);
    enum thole_code code = THOLE_OK;
    for (char *at = p + 1; code == THOLE_OK && *at; at++) {
        if (*at != '/' || at[-1] == '/')
            continue;
        *at = 0;
        code = make_one(p, st);
        *at = '/';
    }
    if (code == THOLE_OK)
        code = make_one(p, st);
    free(p);
    return code;
}

static int write_all(int fd, struct slice bytes)
{
    while (bytes.size) {
        ssize_t n = write(fd, bytes.data, bytes.size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        bytes.data += n;
        bytes.size -= (size_t)n;
    }
    return 0;
}

enum thole_code file_write_atomic(const char *path, struct slice bytes, struct thole_status *st)
{
    char *temporary = xasprintf("%s.tmp", path);
    enum thole_code code = THOLE_OK;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        code = disk_error("create", temporary, st);
        goto done;
    }
    if (write_all(fd, bytes) != 0 || fsync(fd) != 0)
        code = disk_error("write", temporary, st);
    if (close(fd) != 0 && code == THOLE_OK)
        code = disk_error("close", temporary, st);
    if (code == THOLE_OK && rename(temporary, path) != 0)
        code = disk_error("rename", path, st);
    if (code == THOLE_OK)
        code = sync_parent(path, st);
    else
        unlink(temporary);
done:
    free(temporary);
    return code;
}

enum thole_code file_read(const char *path, size_t max_bytes, struct buf **ret,
                          struct thole_status *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no file %s", path);
    if (fd < 0)
        return disk_error("open", path, st);
    struct stat s;
    enum thole_code code = THOLE_OK;
    struct buf *b = NULL;
    if (fstat(fd, &s) != 0) {
        code = disk_error("stat", path, st);
        goto done;
    }
    if ((uint64_t)s.st_size > max_bytes) {
        code = THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                          "%s has %lld bytes, more than %zu", path, (long long)s.st_size, max_bytes);
        goto done;
    }
    b = buf_new((size_t)s.st_size);
    for (size_t at = 0; at < b->size;) {
        ssize_t n = read(fd, b->data + at, b->size - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = EIO;
            code = disk_error("read", path, st);
            goto done;
        }
        at += (size_t)n;
    }
    *ret = b;
    b = NULL;
done:
    buf_unref(b);
    close(fd);
    return code;
}

enum thole_code file_lock(const char *path, int *ret_fd, struct thole_status *st)
{
    int fd = flopen(path, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EWOULDBLOCK) {
        char owner[32] = "?";
        FILE *f = fopen(path, "re");
        if (f) {
            if (!fgets(owner, sizeof owner, f))
                owner[0] = '?';
            owner[strcspn(owner, "\n")] = 0;
            fclose(f);
        }
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_LOCKED,
                          "%s is locked by process %s", path, owner);
    }
    if (fd < 0)
        return disk_error("lock", path, st);
    if (ftruncate(fd, 0) != 0 || dprintf(fd, "%ld\n", (long)getpid()) < 0) {
        enum thole_code code = disk_error("write", path, st);
        close(fd);
        return code;
    }
    *ret_fd = fd;
    return THOLE_OK;
}

enum thole_code file_remove_tree(const char *path, struct thole_status *st)
{
    char *roots[] = {(char *)(uintptr_t)path, NULL};
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (!walk)
        return disk_error("open", path, st);
    enum thole_code code = THOLE_OK;
    for (FTSENT *e; code == THOLE_OK && (e = fts_read(walk));) {
        if (e->fts_info == FTS_D)
            continue;
        if (remove(e->fts_accpath) != 0 && errno != ENOENT)
            code = disk_error("remove", e->fts_path, st);
    }
    fts_close(walk);
    return code;
}

enum thole_code file_space(const char *path, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                           struct thole_status *st)
{
    struct statvfs s;
    if (statvfs(path, &s) != 0)
        return disk_error("stat file system of", path, st);
    *ret_free_bytes = (uint64_t)s.f_bavail * s.f_frsize;
    *ret_total_bytes = (uint64_t)s.f_blocks * s.f_frsize;
    return THOLE_OK;
}
