/* Completion for bash, from the tables. Names of shards and hosts are queried on each tab. */
#include <string.h>

#include "agent/cli/cli.h"

/* The distinct first words, or the second words that follow `first`. */
static void print_words(const char *first)
{
    const char *last = "";
    size_t last_size = 0;
    for (size_t i = 0; i < cli_command_count; i++) {
        const char *name = cli_commands[i].name;
        size_t size = strcspn(name, " ");
        if (first == NULL) {
            if (size != last_size || strncmp(name, last, size) != 0) {
                printf("%.*s ", (int)size, name);
            }
            last = name;
            last_size = size;
        } else if (strlen(first) == size && strncmp(name, first, size) == 0 && name[size] == ' ') {
            printf("%s ", name + size + 1);
        }
    }
}

static void print_second_words(void)
{
    const char *last = "";
    for (size_t i = 0; i < cli_command_count; i++) {
        const char *name = cli_commands[i].name;
        size_t size = strcspn(name, " ");
        if (name[size] == ' ' && strncmp(name, last, size + 1) != 0) {
            char first[32];
            snprintf(first, sizeof first, "%.*s", (int)size, name);
            printf("        %s) words=\"", first);
            print_words(first);
            printf("\" ;;\n");
            last = name;
        }
    }
}

static void print_option_names(const struct cli_command *command)
{
    for (size_t i = 0; i < CLI_COMMAND_OPTIONS_MAX && command->options[i] != 0; i++) {
        printf("--%s ", cli_options[command->options[i]].name);
    }
}

static void print_values(void)
{
    static const enum cli_option_id named[] = {OPT_SHARD, OPT_HOST};
    options_print_completion(stdout, cli_options, OPT_OPTIONS);
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        const char *name = cli_options[named[i]].name;
        printf("    --%s) COMPREPLY=($(compgen -W \"$(_thole_names %ss)\" -- \"$cur\"));"
               " return ;;\n",
               name, name);
    }
}

/* The kind of names that a command's arguments have, from their description. */
static const char *names_of(const struct cli_command *command)
{
    if (strncmp(command->arguments, "SHARD", 5) == 0 || strncmp(command->name, "shard ", 6) == 0) {
        return strcmp(command->name, "completion") == 0 ? NULL : "shards";
    }
    return strncmp(command->name, "host ", 5) == 0 ? "hosts" : NULL;
}

static void print_command_cases(void)
{
    printf("    describe\\ shard*|delete\\ shard*) words=\"$(_thole_names shards)\" ;;\n"
           "    describe\\ host*|delete\\ host*) words=\"$(_thole_names hosts)\" ;;\n"
           "    describe\\ pool*|delete\\ pool*) words=\"$(_thole_names pools)\" ;;\n"
           "    describe\\ role*|delete\\ role*) words=\"$(_thole_names roles)\" ;;\n"
           "    token\\ revoke*) words=\"$(_thole_names tokens)\" ;;\n"
           "    delete\\ replica*) words=\"$(_thole_names replicas)\" ;;\n");
    for (size_t i = 0; i < cli_command_count; i++) {
        const struct cli_command *command = &cli_commands[i];
        const char *names = names_of(command);
        printf("    \"%s\"|\"%s \"*) options=\"", command->name, command->name);
        print_option_names(command);
        printf("\"");
        if (names != NULL) {
            printf("; words=\"$(_thole_names %s)\"", names);
        } else if (strncmp(command->name, "get", 3) == 0) {
            printf("; words=\"hosts shards pools replicas operations events roles tokens\"");
        } else if (strcmp(command->name, "describe") == 0) {
            printf("; words=\"host shard pool role\"");
        } else if (strcmp(command->name, "delete") == 0) {
            printf("; words=\"shard pool replica host role\"");
        }
        printf(" ;;\n");
    }
}

int cli__command_completion(struct cli *c)
{
    if (strcmp(c->args[0], "bash") != 0) {
        return cli__say_usage(c, "completion exists only for bash, not for \"%s\"", c->args[0]);
    }
    printf("# bash completion for thole; made by `thole completion bash`\n"
           "_thole_names() { thole get \"$1\" --stale -o name --command-timeout 1s 2>/dev/null |"
           " sed 's|.*/||'; }\n"
           "_thole() {\n"
           "    local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
           "    local words=\"\" options=\"\" line=\"\" i\n"
           "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
           "        [[ ${COMP_WORDS[i]} == -* ]] || line+=\"${line:+ }${COMP_WORDS[i]}\"\n"
           "    done\n"
           "    case \"$prev\" in\n");
    print_values();
    printf("    esac\n    case \"$line\" in\n    \"\") words=\"");
    print_words(NULL);
    printf("\" ;;\n");
    print_command_cases();
    printf("    *)\n        case \"$line\" in\n");
    print_second_words();
    printf("        esac ;;\n    esac\n"
           "    if [[ $cur == -* ]]; then\n        words=\"$options ");
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        if (cli__option_global((enum cli_option_id)id)) {
            printf("--%s ", cli_options[id].name);
        }
    }
    printf("\"\n    fi\n"
           "    COMPREPLY=($(compgen -W \"${words//|/ }\" -- \"$cur\"))\n"
           "}\n"
           "complete -F _thole thole\n");
    return cli__flush();
}
