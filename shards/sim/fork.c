/* Runs in a child process: a failed assertion of the code under test is then a finding too. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "shards/sim/sim.h"

static bool read_all(int fd, void *data, size_t size)
{
    size_t have = 0;
    while (have < size) {
        ssize_t n = read(fd, (char *)data + have, size - have);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        have += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static void keep_first_line(int fd, char *ret, size_t size)
{
    ssize_t n = read(fd, ret, size - 1);
    ret[n > 0 ? n : 0] = '\0';
    ret[strcspn(ret, "\n")] = '\0';
}

void sim_run_forked(const struct sim_options *o, struct sim_report *ret)
{
    int report[2], error[2];
    ASSERT(pipe(report) == 0 && pipe(error) == 0);
    (void)fflush(NULL);
    pid_t child = fork();
    ASSERT(child >= 0);
    if (child == 0) {
        struct sim_report r;
        (void)dup2(error[1], STDERR_FILENO);
        sim_run(o, &r);
        ssize_t n = write(report[1], &r, sizeof(r));
        if (o->trace)
            (void)fflush(o->trace);
        _exit(n == (ssize_t)sizeof(r) ? 0 : 1);
    }
    (void)close(report[1]);
    (void)close(error[1]);
    if (!read_all(report[0], ret, sizeof(*ret))) {
        *ret = (struct sim_report){.failed = true};
        keep_first_line(error[0], ret->why, sizeof(ret->why));
    }
    (void)close(report[0]);
    (void)close(error[0]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
}
