/* A run in a child process, so that a failed assertion of the code under test is a failed run. */
#include <errno.h>
#include <signal.h>
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
        if (n == 0 || (n < 0 && errno != EINTR)) {
            return false;
        }
        have += n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* The failed assertion in the child's output. */
static void find_reason(FILE *said, char *ret, size_t size)
{
    char line[512];
    rewind(said);
    (void)snprintf(ret, size, "the process ended");
    while (fgets(line, sizeof line, said) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strstr(line, "assertion failed") != NULL ||
            strstr(line, "ERROR: AddressSanitizer") != NULL ||
            strstr(line, "runtime error") != NULL) {
            (void)snprintf(ret, size, "%.500s", line);
            return;
        }
    }
}

void sim_run_forked(const struct sim_options *o, struct sim_report *ret)
{
    int report[2];
    FILE *said = tmpfile();
    ASSERT(said != NULL && pipe(report) == 0);
    (void)fflush(NULL);
    pid_t child = fork();
    ASSERT(child >= 0);
    if (child == 0) {
        struct sim_report r;
        (void)signal(SIGABRT, SIG_DFL);
        (void)signal(SIGSEGV, SIG_DFL);
        (void)dup2(fileno(said), STDERR_FILENO);
        sim_run(o, &r);
        ssize_t n = write(report[1], &r, sizeof r);
        if (o->trace != NULL) {
            (void)fflush(o->trace);
        }
        _exit(n == (ssize_t)sizeof r ? 0 : 1);
    }
    (void)close(report[1]);
    bool complete = read_all(report[0], ret, sizeof *ret);
    pid_t ended;
    do {
        ended = waitpid(child, NULL, 0);
    } while (ended < 0 && errno == EINTR);
    if (!complete) {
        *ret = (struct sim_report){.failed = true};
        find_reason(said, ret->why, sizeof ret->why);
    }
    (void)close(report[0]);
    (void)fclose(said);
}
