/* Completion of a command line. See complete.h.
 *
 * The descriptions of arguments and of options' values, which the help shows, say what may stand
 * there: "host|shard" are words, SHARD is the name of one, FILE a path. */
#include "agent/cli/complete.h"

#include <stdlib.h>
#include <string.h>

#define PLAIN_MAX 8 /* arguments that are looked at */

struct line {
    const char *plain[PLAIN_MAX]; /* the words before the last one that are no options */
    size_t plain_count;
    enum cli_option_id open; /* the option whose value comes next; OPT_NONE: none */
    bool flags;              /* may an option stand next? */
};

static void add(struct complete *c, const char *word, size_t size, const char *text)
{
    for (size_t i = 0; i < c->count; i++) {
        if (strlen(c->words[i].word) == size && memcmp(c->words[i].word, word, size) == 0) {
            return;
        }
    }
    c->kind = COMPLETE_WORDS;
    c->words = xrealloc(c->words, (c->count + 1) * sizeof *c->words);
    c->words[c->count++] = (struct complete_word){xstrndup(word, size), text};
}

void complete_deinit(struct complete *c)
{
    for (size_t i = 0; i < c->count; i++) {
        free(c->words[i].word);
    }
    free(c->words);
    *c = (struct complete){0};
}

/* ---- What was typed -------------------------------------------------------------------------- */

/* The option of a word such as "--output" or "-wo" that takes its value from the next word. */
static enum cli_option_id option_of(const char *word)
{
    bool is_long = word[1] == '-';
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        const struct option_def *d = &cli_options[id];
        if (d->kind != OPTION_FLAG &&
            (is_long ? strcmp(d->name, word + 2) == 0
                     : d->letter != '\0' && word[strlen(word) - 1] == d->letter)) {
            return (enum cli_option_id)id;
        }
    }
    return OPT_NONE;
}

static void read_line(const char *const *words, size_t count, struct line *ret)
{
    *ret = (struct line){.flags = true};
    for (size_t i = 0; i + 1 < count; i++) {
        const char *word = words[i];
        if (ret->open != OPT_NONE) {
            ret->open = OPT_NONE;
        } else if (ret->flags && strcmp(word, "--") == 0) {
            ret->flags = false;
        } else if (ret->flags && word[0] == '-' && word[1] != '\0') {
            ret->open = option_of(word);
        } else if (ret->plain_count < PLAIN_MAX) {
            ret->plain[ret->plain_count++] = word;
        }
    }
}

/* ---- What may come --------------------------------------------------------------------------- */

/* "a|b|c" */
static void add_choices(struct complete *c, const char *text, size_t size)
{
    while (size > 0) {
        const char *bar = memchr(text, '|', size);
        size_t part = bar != NULL ? (size_t)(bar - text) : size;
        add(c, text, part, "");
        part += bar != NULL;
        text += part;
        size -= part;
    }
}

static void set_names(struct complete *c, enum rows_kind kind)
{
    c->kind = COMPLETE_NAMES;
    c->rows = kind;
}

/* By a description such as "shard|pool", "SHARD", "FILE|-". False if it says nothing. */
static bool add_described(struct complete *c, const char *text, size_t size)
{
    if (size >= 3 && memcmp(text, "DIR", 3) == 0) {
        c->kind = COMPLETE_DIRS;
    } else if (size >= 4 && memcmp(text, "FILE", 4) == 0) {
        c->kind = COMPLETE_FILES;
    } else if (size == 5 && memcmp(text, "SHARD", 5) == 0) {
        set_names(c, ROWS_SHARDS);
    } else if ((size == 4 || (size > 4 && text[4] == '|')) && memcmp(text, "HOST", 4) == 0) {
        set_names(c, ROWS_HOSTS);
    } else if (memchr(text, '|', size) != NULL && text[0] >= 'a' && text[0] <= 'z') {
        add_choices(c, text, size);
    } else {
        return false;
    }
    return true;
}

static void add_options(struct complete *c, const struct cli_command *command)
{
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        bool allowed =
            cli__option_global((enum cli_option_id)id) ||
            (command != NULL && memchr(command->options, (int)id, sizeof command->options) != NULL);
        if (allowed) {
            char name[64];
            int size = snprintf(name, sizeof name, "--%s", cli_options[id].name);
            add(c, name, (size_t)size, cli_options[id].help);
        }
    }
}

/* The next word of all commands that begin with these. */
static void add_commands(struct complete *c, const char *const *words, size_t count)
{
    for (size_t i = 0; i < cli_command_count; i++) {
        const struct cli_command *command = &cli_commands[i];
        const char *next = NULL;
        if (cli__name_begins(command->name, words, count, &next) && next[0] != '\0') {
            size_t size = strcspn(next, " ");
            add(c, next, size, next[size] == ' ' ? "" : command->summary);
        }
    }
}

/* May `word`, which is not complete, become the second word of a command such as "backup list"? */
static bool may_be_second(const char *first, const char *word)
{
    size_t size = strlen(first);
    for (size_t i = 0; i < cli_command_count; i++) {
        const char *name = cli_commands[i].name;
        if (strncmp(name, first, size) == 0 && name[size] == ' ' &&
            strncmp(name + size + 1, word, strlen(word)) == 0) {
            return true;
        }
    }
    return false;
}

/* The description of argument `index`, without brackets and dots; size 0: there is none. */
static struct slice described(const struct cli_command *command, size_t index)
{
    const char *at = command->arguments;
    size_t size = strcspn(at, " ");
    while (index > 0 && at[size] != '\0') {
        at += size + 1;
        size = strcspn(at, " ");
        index--;
    }
    bool many = memmem(at, size, "...", 3) != NULL;
    size = index > 0 && !many ? 0 : size;
    size_t skip = size > 0 && at[0] == '[';
    size_t end = skip;
    while (end < size && at[end] != ']' && at[end] != '.') {
        end++;
    }
    return slice_of(at + skip, end - skip);
}

static void add_argument(struct complete *c, const struct cli_command *command,
                         const struct line *line, size_t index)
{
    struct slice text = described(command, index);
    if (text.size == 0 || add_described(c, (const char *)text.data, text.size)) {
        return;
    }
    /* NAME or ID: of the kind that the word before says: `get shards NAME`, `host drain NAME`. */
    enum rows_kind kind;
    bool named = slice_equal(text, slice_str("NAME")) || slice_equal(text, slice_str("ID"));
    const char *word = index > 0 ? line->plain[line->plain_count - 1] : line->plain[0];
    if (named && rows_parse_kind(word, &kind) && kind != ROWS_EVENTS) {
        set_names(c, kind);
    }
}

void complete_line(const char *const *words, size_t count, struct complete *ret)
{
    struct line line;
    *ret = (struct complete){0};
    read_line(words, count, &line);
    if (line.open != OPT_NONE) {
        const struct option_def *d = &cli_options[line.open];
        (void)add_described(ret, d->value, strlen(d->value));
        return;
    }
    const struct cli_command *command = NULL;
    if (line.plain_count > 0) {
        command = cli__command_find(line.plain, line.plain_count);
    }
    if (line.flags && count > 0 && words[count - 1][0] == '-') {
        add_options(ret, command);
    } else if (command == NULL ||
               (line.plain_count == 1 && may_be_second(line.plain[0], words[count - 1]))) {
        add_commands(ret, line.plain, line.plain_count);
    } else if (command->run == cli__command_help) {
        add_commands(ret, line.plain + 1, line.plain_count - 1);
    } else {
        add_argument(ret, command, &line, line.plain_count - cli__name_words(command->name));
    }
}
