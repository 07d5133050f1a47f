#include "base/test/death.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void child(int out, void (*f)(void *arg), void *arg)
{
    const struct rlimit none = {0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)dup2(out, STDERR_FILENO);
    f(arg);
    _exit(0);
}

bool dies(void (*f)(void *arg), void *arg, const char *text)
{
    int fds[2];
    if (pipe(fds) != 0) {
        return false;
    }
    pid_t pid = fork();
    if (pid == 0) {
        child(fds[1], f, arg);
    }
    (void)close(fds[1]);
    char output[4096] = "";
    size_t size = 0;
    ssize_t n;
    while ((n = read(fds[0], output + size, sizeof output - 1 - size)) > 0) {
        size += (size_t)n;
    }
    (void)close(fds[0]);
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return false;
    }
    return (WIFSIGNALED(status) || WEXITSTATUS(status) != 0) && strstr(output, text) != NULL;
}
