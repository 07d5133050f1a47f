/* A broken invariant ends the process at once: untrusted state must not be written. Nothing here
 * allocates, because the heap may be the broken part. */
#include "base/assert.h"

#include <execinfo.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define FRAMES_MAX 32

/* Do not block on a pipe that nobody reads. */
static int stderr_takes(void)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT);
}

void assert_fail(const char *expression, const char *file, int line)
{
    if (stderr_takes()) {
        dprintf(STDERR_FILENO, "%s:%d: assertion failed: %s\n", file, line, expression);
    }
    void *frames[FRAMES_MAX];
    int count = backtrace(frames, FRAMES_MAX);
    if (stderr_takes()) {
        backtrace_symbols_fd(frames, count, STDERR_FILENO);
    }
    abort();
}
