/* The manual page thole(1), from the tables. */
#include <string.h>
#include <thole/thole.h>

#include "agent/cli/cli.h"

static void print_command(FILE *out, const struct cli_command *command)
{
    fputs(".SS \"thole ", out);
    fprintf(out, "%s%s%s\"\n", command->name, command->arguments[0] != '\0' ? " " : "",
            command->arguments);
    char summary[160];
    snprintf(summary, sizeof summary, "%s.", command->summary);
    options_print_roff(out, summary);
    if (command->text != NULL) {
        fputs(".PP\n", out);
        options_print_roff(out, command->text);
    }
    for (size_t i = 0; i < CLI_COMMAND_OPTIONS_MAX && command->options[i] != 0; i++) {
        options_print_manual(out, &cli_options[command->options[i]]);
    }
}

void cli__print_manual(FILE *out)
{
    fputs(".TH THOLE 1 \"\" \"Thole " THOLE_VERSION "\" \"Thole\"\n"
          ".SH NAME\nthole \\- operate a Thole cluster, and use its shards\n"
          ".SH SYNOPSIS\n.B thole\n.I COMMAND\n[\\fIARGUMENTS\\fR] [\\fIOPTIONS\\fR]\n"
          ".SH DESCRIPTION\n",
          out);
    options_print_roff(out, cli__about);
    fputs(".SH COMMANDS\n", out);
    for (size_t i = 0; i < cli_command_count; i++) {
        print_command(out, &cli_commands[i]);
    }
    fputs(".SH OPTIONS\nThese are options of all commands.\n", out);
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        if (cli__option_global((enum cli_option_id)id)) {
            options_print_manual(out, &cli_options[id]);
        }
    }
    fputs(".SH \"SETTINGS\"\n", out);
    options_print_roff(out, cli__settings);
    fputs(".SH \"EXIT STATUS\"\n", out);
    options_print_roff(out, cli__exit_codes);
    fputs(".SH \"SEE ALSO\"\n.BR tholed (8)\n", out);
}
