/* Small durable files and directories.
 *
 * A change of a directory (a new, renamed or removed name) is durable only after a sync of the
 * directory; every function here syncs it before returning. FAIL_ERRNO keeps the place where a
 * failure was raised. Does not log, does not retry. */
#include "base/file.h"

#include <bsd/libutil.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/limits.h"

static enum thole_code code_of_errno(int err, enum thole_reason *ret_reason)
{
    *ret_reason = THOLE_REASON_DISK;
    switch (err) {
    case ENOENT:
        return THOLE_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return THOLE_PERMISSION_DENIED;
    case ENOSPC:
    case EDQUOT:
        *ret_reason = THOLE_REASON_LOW_SPACE;
        return THOLE_RESOURCE_EXHAUSTED;
    case EMFILE:
    case ENFILE:
        return THOLE_RESOURCE_EXHAUSTED;
    case EEXIST:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
        return THOLE_FAILED_PRECONDITION;
    case ENAMETOOLONG:
        *ret_reason = THOLE_REASON_BAD_REQUEST;
        return THOLE_INVALID_ARGUMENT;
    default:
        return THOLE_UNAVAILABLE;
    }
}

static enum thole_code fail_errno(struct thole_status *st, int err, const char *file, int line,
                                  const char *what, const char *path)
{
    enum thole_reason reason;
    enum thole_code code = code_of_errno(err, &reason);
    const char *why = strerrordesc_np(err); /* strerror is not thread safe */
    return thole_status_set(st, code, reason, file, line, "cannot %s %s: %s", what, path,
                            why != NULL ? why : "unknown error");
}

#define FAIL_ERRNO(st, what, path) fail_errno((st), errno, __FILE__, __LINE__, (what), (path))

/* The directory that holds `path`; the caller frees it. */
static char *parent_of(const char *path)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/') {
        size--;
    }
    while (size > 0 && path[size - 1] != '/') {
        size--;
    }
    if (size == 0) {
        return xstrdup(".");
    }
    while (size > 1 && path[size - 1] == '/') {
        size--;
    }
    return xstrndup(path, size);
}

enum thole_code file_sync_dir(const char *path, struct thole_status *st)
{
    int fd = file_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) {
        return FAIL_ERRNO(st, "open directory", path);
    }
    enum thole_code code = THOLE_OK;
    if (fsync(fd) != 0) {
        code = FAIL_ERRNO(st, "sync directory", path);
    }
    (void)close(fd); /* nothing was written through it */
    return code;
}

static enum thole_code sync_parent(const char *path, struct thole_status *st)
{
    char *parent = parent_of(path);
    enum thole_code code = file_sync_dir(parent, st);
    free(parent);
    return code;
}

static enum thole_code make_dir(const char *path, struct thole_status *st)
{
    struct stat info;
    if (mkdir(path, 0700) == 0) {
        return sync_parent(path, st);
    }
    if (errno != EEXIST) {
        return FAIL_ERRNO(st, "make directory", path);
    }
    if (stat(path, &info) != 0) {
        return FAIL_ERRNO(st, "look at", path);
    }
    if (!S_ISDIR(info.st_mode)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_DISK,
                          "cannot make directory %s: a file has that name", path);
    }
    /* A process killed at this point may have created the directory without syncing its parent.
     * Parents that we may not read were not created by us. */
    struct thole_status ignored;
    enum thole_code code = sync_parent(path, &ignored);
    if (code == THOLE_OK || code == THOLE_PERMISSION_DENIED) {
        return THOLE_OK;
    }
    if (st != NULL) {
        *st = ignored;
    }
    return code;
}

enum thole_code file_make_dirs(const char *path, struct thole_status *st)
{
    if (path[0] == '\0') {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the name of the directory is empty");
    }
    enum thole_code code = THOLE_OK;
    char *prefix = xstrdup(path);
    size_t end = 0;
    while (code == THOLE_OK && path[end] != '\0') {
        end += strspn(path + end, "/");
        size_t name = strcspn(path + end, "/");
        if (name == 0) {
            break;
        }
        end += name;
        prefix[end] = '\0';
        code = make_dir(prefix, st);
        prefix[end] = path[end];
    }
    free(prefix);
    return code;
}

static bool write_all(int fd, struct slice bytes)
{
    while (bytes.size > 0) {
        ssize_t n = write(fd, bytes.data, bytes.size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return false;
        }
        bytes.data += n;
        bytes.size -= (size_t)n;
    }
    return true;
}

int file_create(const char *path)
{
    /* Writing into an existing file would change its other names (hard links), and wait for the
     * reader of a FIFO. */
    if (unlink(path) != 0 && errno != ENOENT) {
        return -1;
    }
    return file_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
}

/* Write and sync a new file at `path`; replaces what a crash left there. */
static enum thole_code write_file(const char *path, struct slice bytes, struct thole_status *st)
{
    int fd = file_create(path);
    if (fd < 0) {
        return FAIL_ERRNO(st, "create", path);
    }
    enum thole_code code = THOLE_OK;
    if (!write_all(fd, bytes)) {
        code = FAIL_ERRNO(st, "write", path);
    } else if (fsync(fd) != 0) {
        code = FAIL_ERRNO(st, "sync", path);
    }
    if (close(fd) != 0 && code == THOLE_OK) {
        code = FAIL_ERRNO(st, "close", path);
    }
    return code;
}

/* The temporary name is fixed: a crash leaves at most one such file, and the next write reuses it.
 * Two threads must therefore not write the same path at once. */
enum thole_code file_write_atomic(const char *path, struct slice bytes, struct thole_status *st)
{
    char *temporary = xasprintf("%s.tmp", path);
    enum thole_code code = write_file(temporary, bytes, st);
    if (code == THOLE_OK && rename(temporary, path) != 0) {
        code = FAIL_ERRNO(st, "replace", path);
    }
    if (code != THOLE_OK) {
        (void)unlink(temporary); /* keep the first error */
    } else {
        code = sync_parent(path, st);
    }
    free(temporary);
    return code;
}

static enum thole_code check_regular(int fd, const char *path, struct thole_status *st)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return FAIL_ERRNO(st, "look at", path);
    }
    if (!S_ISREG(info.st_mode)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "%s is not a regular file", path);
    }
    return THOLE_OK;
}

/* A regular file that has no other name: what is written into it changes no other file. */
static enum thole_code check_alone(int fd, const char *path, struct thole_status *st)
{
    struct stat info;
    enum thole_code code = check_regular(fd, path, st);
    if (code == THOLE_OK && fstat(fd, &info) == 0 && info.st_nlink > 1) {
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "%s is a hard link of another file", path);
    }
    return code;
}

static enum thole_code too_large(const char *path, size_t max_bytes, struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                      "%s is larger than %zu bytes", path, max_bytes);
}

/* Reads until the end of the file, not to its size: a file that grows meanwhile, or one of /proc
 * without a size, is read whole or refused. */
static enum thole_code read_fd(int fd, const char *path, size_t max_bytes, struct bytes *into,
                               struct thole_status *st)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return FAIL_ERRNO(st, "look at", path);
    }
    if (info.st_size > 0 && (uint64_t)info.st_size > max_bytes) {
        return too_large(path, max_bytes, st);
    }
    size_t chunk = (size_t)info.st_size + 1; /* one more than the size finds the end in two reads */
    for (;;) {
        uint8_t *end = bytes_extend(into, chunk);
        ssize_t n = read(fd, end, chunk);
        into->size -= n > 0 ? chunk - (size_t)n : chunk;
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return FAIL_ERRNO(st, "read", path);
        }
        if (into->size > max_bytes) {
            return too_large(path, max_bytes, st);
        }
        if (n == 0) {
            return THOLE_OK;
        }
        chunk = 4 * KIB;
    }
}

enum thole_code file_read(const char *path, size_t max_bytes, struct buf **ret,
                          struct thole_status *st)
{
    /* Without O_NONBLOCK the open of a FIFO waits for its writer. */
    int fd = file_open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd < 0) {
        return FAIL_ERRNO(st, "open", path);
    }
    struct bytes content = {0};
    enum thole_code code = check_regular(fd, path, st);
    if (code == THOLE_OK) {
        code = read_fd(fd, path, max_bytes, &content, st);
    }
    if (code == THOLE_OK) {
        *ret = bytes_to_buf(&content);
    }
    bytes_deinit(&content);
    (void)close(fd); /* nothing was written through it */
    return code;
}

/* The message names the holder, whose pid is in the file. The file may be empty or stale for a
 * moment. */
static enum thole_code fail_locked(const char *path, struct thole_status *st)
{
    char text[24] = "";
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text - 1);
        text[n > 0 ? n : 0] = '\0';
        (void)close(fd);
    }
    text[strspn(text, "0123456789")] = '\0';
    if (text[0] == '\0') {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_LOCKED,
                          "%s is locked by another process", path);
    }
    bool own = strtoll(text, NULL, 10) == getpid();
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_LOCKED, "%s is locked by %s %s",
                      path, own ? "this process, pid" : "process", text);
}

/* The lock belongs to the open file, not to the process: a second attempt of the same process is
 * refused too, and the kernel releases it however the process ends. The file stays. */
enum thole_code file_lock(const char *path, int *ret_fd, struct thole_status *st)
{
    /* Following a link would truncate another file; without O_NONBLOCK a FIFO would wait for its
     * other end. */
    int fd = flopen(path, O_RDWR | O_CREAT | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EWOULDBLOCK) {
        return fail_locked(path, st);
    }
    if (fd < 0) {
        return FAIL_ERRNO(st, "lock", path);
    }
    enum thole_code alone = check_alone(fd, path, st);
    if (alone != THOLE_OK) {
        (void)close(fd);
        return alone;
    }
    if (ftruncate(fd, 0) != 0 || dprintf(fd, "%" PRIdMAX "\n", (intmax_t)getpid()) < 0) {
        enum thole_code code = FAIL_ERRNO(st, "write", path);
        (void)close(fd);
        return code;
    }
    *ret_fd = fd;
    return THOLE_OK;
}

enum thole_code file_lock_shared(const char *path, int *ret_fd, struct thole_status *st)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT
                   ? THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_DISK, "no file %s", path)
                   : FAIL_ERRNO(st, "open", path);
    }
    if (flock(fd, LOCK_SH | LOCK_NB) != 0) {
        enum thole_code code =
            errno == EWOULDBLOCK ? fail_locked(path, st) : FAIL_ERRNO(st, "lock", path);
        (void)close(fd);
        return code;
    }
    *ret_fd = fd;
    return THOLE_OK;
}

static enum thole_code remove_entry(int dir_fd, const char *name, const char *path,
                                    struct thole_status *st);

/* Takes `fd`. Names are resolved against it, so a directory that is replaced by a link meanwhile
 * does not lead outside. */
static enum thole_code remove_content(int fd, const char *path, struct thole_status *st)
{
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        enum thole_code failed = FAIL_ERRNO(st, "list", path);
        (void)close(fd);
        return failed;
    }
    enum thole_code code = THOLE_OK;
    while (code == THOLE_OK) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            if (errno != 0) {
                code = FAIL_ERRNO(st, "list", path);
            }
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        char *inner = xasprintf("%s/%s", path, entry->d_name);
        code = remove_entry(dirfd(dir), entry->d_name, inner, st);
        free(inner);
    }
    (void)closedir(dir);
    return code;
}

static enum thole_code remove_entry(int dir_fd, const char *name, const char *path,
                                    struct thole_status *st)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int flags = 0;
    if (fd >= 0) {
        enum thole_code code = remove_content(fd, path, st);
        if (code != THOLE_OK) {
            return code;
        }
        flags = AT_REMOVEDIR;
    } else if (errno != ENOTDIR && errno != ELOOP && errno != ENOENT) {
        return FAIL_ERRNO(st, "open directory", path);
    }
    if (unlinkat(dir_fd, name, flags) != 0 && errno != ENOENT) {
        return FAIL_ERRNO(st, "remove", path);
    }
    return THOLE_OK;
}

enum thole_code file_remove_tree(const char *path, struct thole_status *st)
{
    struct stat info;
    if (lstat(path, &info) != 0 && errno == ENOENT) {
        return THOLE_OK;
    }
    enum thole_code code = remove_entry(AT_FDCWD, path, path, st);
    return code == THOLE_OK ? sync_parent(path, st) : code;
}

mode_t file_shared_bits(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? info.st_mode & (S_IRWXG | S_IRWXO) : 0;
}

enum thole_code file_space(const char *path, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                           struct thole_status *st)
{
    struct statvfs info;
    if (statvfs(path, &info) != 0) {
        return FAIL_ERRNO(st, "look at the file system of", path);
    }
    /* Without blocks reserved for root. */
    *ret_free_bytes = (uint64_t)info.f_bavail * info.f_frsize;
    *ret_total_bytes = (uint64_t)info.f_blocks * info.f_frsize;
    return THOLE_OK;
}
