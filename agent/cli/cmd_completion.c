/* `thole completion`: a short script for a shell, which calls `thole completion SHELL -- WORD...`
 * with each tab and gets the words that may come next, so that the logic is here, once. */
#include <stdlib.h>
#include <string.h>

#include "agent/cli/complete.h"

static const char bash_script[] =
    "# bash completion for thole; made by `thole completion bash`\n"
    "_thole() {\n"
    "    local line=\"${COMP_LINE:0:COMP_POINT}\" words=() found=()\n"
    "    read -ra words <<<\"$line\"\n"
    "    [[ $line == *[[:space:]] ]] && words+=(\"\")\n"
    "    mapfile -t found < <(\"$1\" completion bash -- \"${words[@]:1}\" 2>/dev/null)\n"
    "    case \"${found[0]-}\" in\n"
    "    :files|:dirs)\n"
    "        compopt -o filenames 2>/dev/null\n"
    "        mapfile -t COMPREPLY < <(compgen \"-${found[0]:1:1}\" -- \"${words[-1]}\")\n"
    "        ;;\n"
    "    *) COMPREPLY=(\"${found[@]}\") ;;\n"
    "    esac\n"
    "}\n"
    "complete -F _thole thole\n";

static const char zsh_script[] =
    "#compdef thole\n"
    "# zsh completion for thole; made by `thole completion zsh`\n"
    "_thole() {\n"
    "    local -a found\n"
    "    found=(\"${(@f)$(\"${words[1]}\" completion zsh -- \"${(@)words[2,CURRENT]}\""
    " 2>/dev/null)}\")\n"
    "    case \"${found[1]}\" in\n"
    "    :files) _files ;;\n"
    "    :dirs) _files -/ ;;\n"
    "    ?*) _describe thole found ;;\n"
    "    esac\n"
    "}\n"
    "if [[ ${funcstack[1]-} == _thole ]]; then _thole \"$@\"; else compdef _thole thole; fi\n";

static const char fish_script[] =
    "# fish completion for thole; made by `thole completion fish`\n"
    "function __thole_complete\n"
    "    set -l words (commandline -opc) (commandline -ct)\n"
    "    set -l found ($words[1] completion fish -- $words[2..-1] 2>/dev/null)\n"
    "    switch \"$found[1]\"\n"
    "        case ':files' ':dirs'\n"
    "            __fish_complete_path (commandline -ct)\n"
    "        case '*'\n"
    "            printf '%s\\n' $found\n"
    "    end\n"
    "end\n"
    "complete -c thole -f -a '(__thole_complete)'\n";

enum shell { BASH, ZSH, FISH, SHELLS };
static const struct {
    const char *name, *script;
} shells[SHELLS] = {
    [BASH] = {"bash", bash_script}, [ZSH] = {"zsh", zsh_script}, [FISH] = {"fish", fish_script}};

/* SHELLS: there is no such shell. */
static enum shell shell_named(const char *name)
{
    enum shell shell = BASH;
    while (shell < SHELLS && strcmp(shells[shell].name, name) != 0) {
        shell++;
    }
    return shell;
}

const char *cli__completion_script(const char *shell)
{
    enum shell found = shell_named(shell);
    return found < SHELLS ? shells[found].script : NULL;
}

/* bash takes bare words, zsh "word:text", fish "word TAB text". */
static void print_word(enum shell shell, const char *word, const char *text)
{
    for (const char *at = word; *at != '\0'; at++) {
        if (shell == ZSH && *at == ':') {
            putchar('\\');
        }
        putchar(*at);
    }
    if (shell != BASH && text[0] != '\0') {
        printf("%c%s", shell == ZSH ? ':' : '\t', text);
    }
    putchar('\n');
}

/* Names in the state of the host that the line's own options say, or the usual one. A tab must not
 * wait for long, nor fail loudly. */
static void print_names(enum shell shell, enum rows_kind kind, const char *const *words,
                        size_t count)
{
    struct thole_status st;
    struct cli c = {.arena = upb_Arena_New(), .pool = upb_DefPool_New()};
    const struct rows_query q = {.kind = kind, .stale = true};
    struct rows rows = {0};
    size_t size = strlen(words[count - 1]);
    options_init(&c.options, cli_options, OPT_OPTIONS);
    enum thole_code code = options_read_arguments(&c.options, (int)count - 1, words, &st);
    (void)code; /* an unfinished line: the options before its end count */
    if (cli__read_settings(&c, NULL) == CLI_OK) {
        if (!cli_given(&c, OPT_COMMAND_TIMEOUT)) {
            c.options.values[OPT_COMMAND_TIMEOUT].number = 1000;
        }
        if (rows_list(&c, &q, &rows, &st) == THOLE_OK) {
            for (size_t i = 0; i < rows.count; i++) {
                char name[ROWS_NAME_BYTES];
                rows_name(kind, rows.items[i], name, sizeof name);
                const char *slash = strrchr(name, '/');
                const char *word = slash != NULL ? slash + 1 : name;
                if (strncmp(word, words[count - 1], size) == 0) {
                    print_word(shell, word, "");
                }
            }
            rows_deinit(&rows);
        }
    }
    cli__deinit(&c);
}

/* `words` begins with the program. */
static void print_next(enum shell shell, const char *const *words, size_t count)
{
    struct complete next;
    complete_line(words + 1, count - 1, &next);
    switch (next.kind) {
    case COMPLETE_NOTHING:
        break;
    case COMPLETE_WORDS:
        for (size_t i = 0; i < next.count; i++) {
            if (strncmp(next.words[i].word, words[count - 1], strlen(words[count - 1])) == 0) {
                print_word(shell, next.words[i].word, next.words[i].text);
            }
        }
        break;
    case COMPLETE_NAMES:
        print_names(shell, next.rows, words, count);
        break;
    case COMPLETE_FILES:
        puts(":files");
        break;
    case COMPLETE_DIRS:
        puts(":dirs");
        break;
    }
    complete_deinit(&next);
}

int cli__command_completion(struct cli *c)
{
    enum shell shell = shell_named(c->args[0]);
    if (shell == SHELLS) {
        return cli__say_usage(c, "completion exists for bash, zsh and fish, not for \"%s\"",
                              c->args[0]);
    }
    if (c->arg_count == 1) {
        fputs(shells[shell].script, stdout);
    } else {
        print_next(shell, c->args, c->arg_count); /* args[0] stands for the program */
    }
    return cli__flush();
}
