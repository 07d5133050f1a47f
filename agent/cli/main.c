/* The command line: `thole`. Parse, run, exit with the documented code. */
#include <locale.h>
#include <signal.h>
#include <stdlib.h>

#include "agent/cli/cli.h"
#include "base/log.h"
#include "base/process.h"

static int run(struct cli *c, int argc, const char *const *argv)
{
    int result = cli__parse(c, argc, argv);
    if (result != CLI_OK) {
        return result;
    }
    if (cli_flag(c, OPT_VERSION)) {
        return cli__command_version(c);
    }
    if (cli_flag(c, OPT_HELP) || c->command == NULL) {
        bool asked = cli_flag(c, OPT_HELP);
        if (c->command != NULL) {
            cli__help_command(stdout, c->command);
        } else {
            cli__help_all(asked ? stdout : stderr);
        }
        return asked ? cli__flush() : CLI_USAGE;
    }
    result = cli__read_settings(c, NULL);
    if (result != CLI_OK) {
        return result;
    }
    return c->command->run(c);
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "C.UTF-8"); /* widths of table cells */
    signal(SIGPIPE, SIG_IGN);
    process_own();
    log_configure(LOG_LEVEL_ERROR, false);
    const char *log = getenv("THOLE_LOG"); /* for debugging the client itself */
    if (log != NULL && !log_configure_text(log)) {
        return cli__say_usage(
            NULL,
            "THOLE_LOG \"%s\": must be error, warn, info or debug, or SUBJECT=LEVEL after a comma",
            log);
    }
    struct cli c = {0};
    c.arena = upb_Arena_New();
    c.pool = upb_DefPool_New();
    int result = run(&c, argc, (const char *const *)argv);
    cli__deinit(&c);
    return result;
}
