/* The common part of all output formats. */
#include <errno.h>
#include <string.h>

#include "agent/cli/cli.h"

enum cli_format cli__format(const struct cli *c)
{
    static const char *const names[] = {"table", "wide", "json", "yaml", "name"};
    const char *text = cli_text(c, OPT_OUTPUT);
    for (size_t i = 0; text != NULL && i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], text) == 0) {
            return (enum cli_format)i;
        }
    }
    return FORMAT_TABLE;
}

void cli__print(struct slice bytes)
{
    fwrite(bytes.data, 1, bytes.size, stdout);
}

int cli__flush(void)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return errno == EPIPE ? CLI_OK : cli__say_failed("cannot write: %s", strerror(errno));
    }
    return CLI_OK;
}
