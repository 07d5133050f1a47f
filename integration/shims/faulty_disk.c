/* A preloaded shim that makes a disk faulty for the files below a path X, while a file exists:
 *
 *   X.low     16 MiB are free. Writes still succeed; only the answer about free space changes.
 *   X.failed  every write and sync fails with EIO. Reads succeed.
 *   X.hung    every write and sync waits until the file is gone. Reads succeed.
 *
 * Only the calls that RocksDB and Thole use are intercepted. */
// libc's parameter names are not ours.
// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name)
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FREE_BYTES (16UL << 20)
#define LOOK_AGAIN_NS 10000000 /* 10 ms */

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_statvfs)(const char *, struct statvfs *);

static void *must_find(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (f == NULL) {
        abort();
    }
    return f;
}

__attribute__((constructor)) static void shim_start(void)
{
    if (real_write != NULL) {
        return;
    }
    *(void **)&real_pwrite = must_find("pwrite64");
    *(void **)&real_pwritev = must_find("pwritev64");
    *(void **)&real_fsync = must_find("fsync");
    *(void **)&real_fdatasync = must_find("fdatasync");
    *(void **)&real_statvfs = must_find("statvfs");
    *(void **)&real_write = must_find("write");
}

/* Is there a file named like the path or one of the folders above it, and `fault`? */
static bool has_fault(const char *path, const char *fault)
{
    char mark[PATH_MAX + 8];
    for (size_t size = strlen(path); size > 1 && size < PATH_MAX; size--) {
        if (path[size] != '\0' && path[size] != '/') {
            continue;
        }
        snprintf(mark, sizeof mark, "%.*s%s", (int)size, path, fault);
        if (access(mark, F_OK) == 0) {
            return true;
        }
    }
    return false;
}

/* False: the call must fail. May wait. */
static bool disk_serves(int fd)
{
    char link[64], path[PATH_MAX];
    struct stat s;
    int before = errno;
    shim_start();
    if (fstat(fd, &s) != 0 || (!S_ISREG(s.st_mode) && !S_ISDIR(s.st_mode))) {
        errno = before;
        return true;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    path[size > 0 ? size : 0] = '\0';
    while (has_fault(path, ".hung")) {
        nanosleep(&(struct timespec){.tv_nsec = LOOK_AGAIN_NS}, NULL);
    }
    bool failed = has_fault(path, ".failed");
    errno = failed ? EIO : before;
    return !failed;
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t at)
{
    return disk_serves(fd) ? real_pwrite(fd, bytes, size, at) : -1;
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) __attribute__((alias("pwrite64")));

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at)
{
    return disk_serves(fd) ? real_pwritev(fd, parts, count, at) : -1;
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
    __attribute__((alias("pwritev64")));

ssize_t write(int fd, const void *bytes, size_t size)
{
    return disk_serves(fd) ? real_write(fd, bytes, size) : -1;
}

int fsync(int fd)
{
    return disk_serves(fd) ? real_fsync(fd) : -1;
}

int fdatasync(int fd)
{
    return disk_serves(fd) ? real_fdatasync(fd) : -1;
}

int statvfs(const char *path, struct statvfs *ret)
{
    shim_start();
    int failed = real_statvfs(path, ret);
    if (failed == 0 && has_fault(path, ".low")) {
        ret->f_bavail = FREE_BYTES / ret->f_frsize;
    }
    return failed;
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
