/* A preloaded shim that makes kill -9 act like a power failure: bytes that a process wrote below
 * LOSE_UNSYNCED_DIR and did not sync are lost when it is killed.
 *
 * Writes to such files stay in memory and reach the file only in fsync or fdatasync (or in a normal
 * exit). Unsynced bytes of a closed file are kept by inode. A read or a map of the file in the same
 * process writes them out first. Directory operations are not held back: a lost rename is not
 * simulated. Only the calls that RocksDB and Thole use are intercepted. */
// libc's parameter names are not ours.
// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name)
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS_MAX 4096

struct held { /* a file with bytes held back; `fd` is the shim's own descriptor of it */
    dev_t dev;
    ino_t ino;
    int fd;
    struct piece *first, **last;
    struct held *next;
};

struct piece {
    struct piece *next;
    off_t offset;
    size_t size;
    unsigned char bytes[];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct held *held_files;
static _Atomic bool tracked[FDS_MAX]; /* by descriptor: a regular file below the directory */

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_read)(int, void *, size_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_close)(int);
static int (*real_open)(const char *, int, ...);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static const char *directory;

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
    if (real_pwrite != NULL) {
        return;
    }
    directory = getenv("LOSE_UNSYNCED_DIR");
    real_pwritev = must_find("pwritev64");
    real_write = must_find("write");
    real_pread = must_find("pread64");
    real_read = must_find("read");
    real_fsync = must_find("fsync");
    real_fdatasync = must_find("fdatasync");
    real_ftruncate = must_find("ftruncate64");
    real_close = must_find("close");
    real_open = must_find("open64");
    real_mmap = must_find("mmap64");
    real_pwrite = must_find("pwrite64");
}

static bool is_tracked(int fd)
{
    return fd >= 0 && fd < FDS_MAX && tracked[fd];
}

static struct held *held_find(int fd, bool create)
{
    struct stat s;
    if (fstat(fd, &s) != 0) {
        return NULL;
    }
    for (struct held *h = held_files; h != NULL; h = h->next) {
        if (h->dev == s.st_dev && h->ino == s.st_ino) {
            return h;
        }
    }
    if (!create) {
        return NULL;
    }
    struct held *h = calloc(1, sizeof *h);
    if (h == NULL) {
        abort();
    }
    h->dev = s.st_dev;
    h->ino = s.st_ino;
    h->fd = fcntl(fd, F_DUPFD_CLOEXEC, FDS_MAX);
    h->last = &h->first;
    h->next = held_files;
    held_files = h;
    return h;
}

/* Writes out and forgets the held bytes of one file. */
static void held_release(struct held *h)
{
    struct held **at = &held_files;
    while (*at != h) {
        at = &(*at)->next;
    }
    *at = h->next;
    for (struct piece *p = h->first; p != NULL;) {
        struct piece *next = p->next;
        for (size_t done = 0; done < p->size;) {
            ssize_t n =
                real_pwrite(h->fd, p->bytes + done, p->size - done, p->offset + (off_t)done);
            if (n <= 0) {
                abort();
            }
            done += (size_t)n;
        }
        free(p);
        p = next;
    }
    real_close(h->fd);
    free(h);
}

static void release_fd(int fd)
{
    pthread_mutex_lock(&mutex);
    struct held *h = held_files != NULL ? held_find(fd, false) : NULL;
    if (h != NULL) {
        held_release(h);
    }
    pthread_mutex_unlock(&mutex);
}

static ssize_t hold(int fd, const void *data, size_t size, off_t offset)
{
    struct piece *p = malloc(sizeof *p + size);
    if (p == NULL) {
        abort();
    }
    p->next = NULL;
    p->offset = offset;
    p->size = size;
    memcpy(p->bytes, data, size);
    pthread_mutex_lock(&mutex);
    struct held *h = held_find(fd, true);
    *h->last = p;
    h->last = &p->next;
    pthread_mutex_unlock(&mutex);
    return (ssize_t)size;
}

ssize_t write(int fd, const void *data, size_t size)
{
    shim_start();
    if (!is_tracked(fd)) {
        return real_write(fd, data, size);
    }
    /* The file position moves as if the bytes were there. The writers here do not use O_APPEND. */
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t n = hold(fd, data, size, at);
    lseek(fd, at + n, SEEK_SET);
    return n;
}

ssize_t writev(int fd, const struct iovec *v, int count)
{
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t n = write(fd, v[i].iov_base, v[i].iov_len);
        if (n < 0) {
            return total > 0 ? total : n;
        }
        total += n;
        if ((size_t)n < v[i].iov_len) {
            break;
        }
    }
    return total;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    shim_start();
    return is_tracked(fd) ? hold(fd, data, size, offset) : real_pwrite(fd, data, size, offset);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
    __attribute__((alias("pwrite64")));

ssize_t pwritev64(int fd, const struct iovec *v, int count, off_t offset)
{
    shim_start();
    if (!is_tracked(fd)) {
        return real_pwritev(fd, v, count, offset);
    }
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        total += hold(fd, v[i].iov_base, v[i].iov_len, offset + total);
    }
    return total;
}
ssize_t pwritev(int fd, const struct iovec *v, int count, off_t offset)
    __attribute__((alias("pwritev64")));

int fsync(int fd)
{
    shim_start();
    if (is_tracked(fd)) {
        release_fd(fd);
    }
    return real_fsync(fd);
}

int fdatasync(int fd)
{
    shim_start();
    if (is_tracked(fd)) {
        release_fd(fd);
    }
    return real_fdatasync(fd);
}

int sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags)
{
    (void)fd, (void)offset, (void)count, (void)flags; /* a hint, and never a promise */
    return 0;
}

/* Reads and truncation must see what a running system sees. */
int ftruncate64(int fd, off_t size)
{
    shim_start();
    if (is_tracked(fd)) {
        release_fd(fd);
    }
    return real_ftruncate(fd, size);
}
int ftruncate(int fd, off_t size) __attribute__((alias("ftruncate64")));

ssize_t pread64(int fd, void *data, size_t size, off_t offset)
{
    shim_start();
    if (is_tracked(fd)) {
        release_fd(fd);
    }
    return real_pread(fd, data, size, offset);
}
ssize_t pread(int fd, void *data, size_t size, off_t offset) __attribute__((alias("pread64")));

ssize_t read(int fd, void *data, size_t size)
{
    shim_start();
    if (is_tracked(fd)) {
        release_fd(fd);
    }
    return real_read(fd, data, size);
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    shim_start();
    if (is_tracked(fd)) {
        release_fd(fd);
    }
    return real_mmap(address, size, protection, flags, fd, offset);
}

static int track(int fd)
{
    struct stat s;
    if (fd < 0 || fd >= FDS_MAX || directory == NULL || fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        return fd;
    }
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) {
        return fd;
    }
    path[n] = 0;
    if (strncmp(path, directory, strlen(directory)) == 0) {
        release_fd(fd); /* a file closed with bytes held back: its new reader must see them */
        tracked[fd] = true;
    }
    return fd;
}

int open64(const char *path, int flags, ...)
{
    shim_start();
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return track(real_open(path, flags, mode));
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open64(path, flags, mode);
}

int close(int fd)
{
    shim_start();
    if (fd >= 0 && fd < FDS_MAX) {
        tracked[fd] = false;
    }
    return real_close(fd);
}

__attribute__((destructor)) static void shim_end(void)
{
    pthread_mutex_lock(&mutex);
    while (held_files != NULL) {
        held_release(held_files);
    }
    pthread_mutex_unlock(&mutex);
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
