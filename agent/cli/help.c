/* Help texts, from the tables. */
#include <string.h>

#include "agent/cli/cli.h"

const char cli__about[] =
    "Any host of the cluster serves any command. Most commands read or change the desired\n"
    "state: specs of shards, pools, hosts and roles, which controllers make true. Others propose\n"
    "to shards and query them, save and restore them, or work offline on files and directories.\n";
const char cli__settings[] =
    "A flag beats the environment, which beats ~/.config/thole/config.yaml (lines such as\n"
    "\"endpoints: HOST:PORT\"). Data goes to stdout, messages to stderr.\n";
const char cli__exit_codes[] =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unavailable or timed out\n"
    "(try again), 5 outcome unknown, 6 some shards are missing (backup, restore).\n";

static void print_global(FILE *out)
{
    fputs("\nOptions of all commands:\n", out);
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        if (cli__option_global((enum cli_option_id)id)) {
            options_print_help(out, &cli_options[id]);
        }
    }
}

void cli__help_all(FILE *out)
{
    fputs("Usage: thole COMMAND [ARGUMENTS] [OPTIONS]\n\nCommands:\n", out);
    for (size_t i = 0; i < cli_command_count; i++) {
        const struct cli_command *command = &cli_commands[i];
        fprintf(out, "  %-22s %s\n", command->name, command->summary);
    }
    print_global(out);
    fprintf(out, "\n%s\n%s\n`thole help COMMAND` explains a command.\n", cli__settings,
            cli__exit_codes);
}

void cli__help_command(FILE *out, const struct cli_command *command)
{
    fprintf(out, "Usage: thole %s%s%s%s\n\n%s\n", command->name,
            command->arguments[0] != '\0' ? " " : "", command->arguments,
            command->options[0] != 0 ? " [OPTIONS]" : "", command->summary);
    if (command->text != NULL) {
        fprintf(out, "\n%s\n", command->text);
    }
    if (command->options[0] != 0) {
        fputs("\nOptions:\n", out);
        for (size_t i = 0; i < CLI_COMMAND_OPTIONS_MAX && command->options[i] != 0; i++) {
            options_print_help(out, &cli_options[command->options[i]]);
        }
    }
    print_global(out);
}

/* `thole help kv` lists the commands that begin with it. */
static bool help_group(const char *const *words, size_t count)
{
    bool any = false;
    const char *rest = NULL;
    for (size_t i = 0; i < cli_command_count; i++) {
        const struct cli_command *command = &cli_commands[i];
        if (cli__name_begins(command->name, words, count, &rest)) {
            char usage[80];
            snprintf(usage, sizeof usage, "%s %s", command->name, command->arguments);
            printf("  thole %-34s %s\n", usage, command->summary);
            any = true;
        }
    }
    return any;
}

int cli__command_help(struct cli *c)
{
    if (c->arg_count == 0) {
        cli__help_all(stdout);
        return cli__flush();
    }
    const struct cli_command *command = cli__command_find(c->args, c->arg_count);
    if (command != NULL) {
        cli__help_command(stdout, command);
    } else if (!help_group(c->args, c->arg_count)) {
        c->command = NULL;
        return cli__say_usage(c, "there is no command \"%s\"", c->args[0]);
    }
    return cli__flush();
}
