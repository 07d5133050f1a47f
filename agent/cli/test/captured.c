#include "agent/cli/test/captured.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"

char *captured(void (*print)(struct cli *c), struct cli *c)
{
    static char text[4096];
    char path[] = "/tmp/test-cli-out-XXXXXX";
    int fd = mkstemp(path), saved = dup(STDOUT_FILENO);
    ASSERT(fd >= 0 && saved >= 0);
    fflush(stdout);
    ASSERT(dup2(fd, STDOUT_FILENO) >= 0);
    print(c);
    fflush(stdout);
    ASSERT(dup2(saved, STDOUT_FILENO) >= 0);
    close(saved);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    close(fd);
    unlink(path);
    return text;
}

struct cli cli_with(const char *format)
{
    struct cli c = {.arena = upb_Arena_New(), .pool = upb_DefPool_New()};
    options_init(&c.options, cli_options, OPT_OPTIONS);
    c.options.values[OPT_OUTPUT].text = format;
    return c;
}
