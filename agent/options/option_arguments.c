/* Flags and arguments of the command line. Flags stand anywhere, up to a "--". See options.h. */
#include <string.h>

#include "agent/options/options_internal.h"

struct command_line {
    int argc;
    const char *const *argv;
    int at;
};

static size_t find_letter(const struct options *o, char letter)
{
    for (size_t id = 0; id < o->count; id++) {
        if (o->defs[id].name != NULL && o->defs[id].letter != '\0' &&
            o->defs[id].letter == letter) {
            return id;
        }
    }
    return SIZE_MAX;
}

/* `attached` is the value that the word itself has after "=" or after the letter; NULL: none. */
static enum thole_code take_value(struct options *o, struct command_line *line, size_t id,
                                  const char *shown, const char *attached, struct thole_status *st)
{
    const struct option_def *d = &o->defs[id];
    const char *text = attached;
    if (o->values[id].source == OPTION_ARGUMENT && d->kind != OPTION_LIST) {
        return OPTIONS_REFUSE(st, "--%s is given twice", d->name);
    }
    if (text == NULL && d->kind == OPTION_FLAG) {
        text = "true";
    } else if (text == NULL) {
        if (line->at + 1 >= line->argc) {
            return OPTIONS_REFUSE(st, "%s needs a value: %s", shown, d->value);
        }
        text = line->argv[++line->at];
    }
    return options__set(o, id, OPTION_ARGUMENT, shown, text, st);
}

static enum thole_code take_long(struct options *o, struct command_line *line, const char *word,
                                 struct thole_status *st)
{
    const char *name = word + 2;
    const char *equals = strchr(name, '=');
    size_t size = equals != NULL ? (size_t)(equals - name) : strlen(name);
    size_t id = options_find(o, name, size);
    char shown[64];
    if (id == SIZE_MAX) {
        return OPTIONS_REFUSE(st, "there is no option --%.*s", size < 64 ? (int)size : 64, name);
    }
    snprintf(shown, sizeof shown, "--%s", o->defs[id].name);
    return take_value(o, line, id, shown, equals != NULL ? equals + 1 : NULL, st);
}

/* "-w", "-ojson", "-o=json", "-wo json": only the last letter may take a value. */
static enum thole_code take_short(struct options *o, struct command_line *line, const char *word,
                                  struct thole_status *st)
{
    for (const char *at = word + 1; *at != '\0'; at++) {
        size_t id = find_letter(o, *at);
        char shown[3] = {'-', *at, '\0'};
        if (id == SIZE_MAX) {
            return OPTIONS_REFUSE(st, "there is no option %s", shown);
        }
        if (o->defs[id].kind != OPTION_FLAG) {
            const char *attached = at[1] != '\0' ? at + 1 + (at[1] == '=') : NULL;
            return take_value(o, line, id, shown, attached, st);
        }
        if (take_value(o, line, id, shown, NULL, st) != THOLE_OK) {
            return THOLE_INVALID_ARGUMENT;
        }
    }
    return THOLE_OK;
}

enum thole_code options_read_arguments(struct options *o, int argc, const char *const *argv,
                                       struct thole_status *st)
{
    struct command_line line = {argc, argv, 1};
    bool flags = true;
    o->arguments = xcalloc((size_t)argc + 1, sizeof *o->arguments);
    for (; line.at < argc; line.at++) {
        const char *word = argv[line.at];
        enum thole_code code = THOLE_OK;
        if (flags && strcmp(word, "--") == 0) {
            flags = false;
        } else if (flags && word[0] == '-' && word[1] == '-') {
            code = take_long(o, &line, word, st);
        } else if (flags && word[0] == '-' && word[1] != '\0') {
            code = take_short(o, &line, word, st);
        } else {
            o->arguments[o->argument_count++] = word;
        }
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}
