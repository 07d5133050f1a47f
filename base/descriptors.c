/* Reserved descriptors for the disk. Some are kept open on nothing and are closed when the process
 * has no other left, so that connections cannot keep a file from being opened. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/metrics.h"

#define RESERVE 16

static METRIC_DEFINE_COUNTER(metric_used, "thole_reserved_descriptors_used_total",
                             "Files opened with a reserved descriptor, because no other was left");

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int reserve[RESERVE]; /* below: under the mutex */
static size_t count;
static bool told;

static void fill(void)
{
    int fd;
    while (count < RESERVE && (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) {
        reserve[count++] = fd;
    }
    told = told && count < RESERVE;
}

static int open_with_reserve(const char *path, int flags, mode_t mode)
{
    int fd = -1, error = EMFILE;
    while (fd < 0 && (error == EMFILE || error == ENFILE) && count > 0) {
        (void)close(reserve[--count]); /* another thread may take it first */
        fd = open(path, flags, mode);
        error = errno;
    }
    if (!told) {
        LOG_ERROR(BASE,
                  "no descriptor is left for %s: files are opened with the reserved ones; "
                  "raise the limit of open files",
                  path);
    }
    told = true;
    metric_add(&metric_used, fd >= 0);
    errno = error;
    return fd;
}

int file_open(const char *path, int flags, mode_t mode)
{
    int fd = open(path, flags, mode);
    if (fd < 0 && errno != EMFILE && errno != ENFILE) {
        return fd;
    }
    int error = errno;
    pthread_mutex_lock(&mutex);
    if (fd < 0) {
        fd = open_with_reserve(path, flags, mode);
        error = errno;
    } else if (count < RESERVE) {
        fill();
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return fd;
}

uint64_t file_descriptors_max(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
               ? (uint64_t)limit.rlim_cur
               : UINT64_C(1) << 20;
}
