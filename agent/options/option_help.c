/* Help and completion, from the table. See options.h. */
#include <string.h>

#include "agent/options/options.h"

#define NAME_COLUMNS 30 /* "--name VALUE", behind the letter */
#define TEXT_COLUMN 36  /* where the text begins */
#define LINE_COLUMNS 100

/* Words of `text`, in lines from TEXT_COLUMN on. */
static void print_words(FILE *out, const char *text, size_t *column)
{
    for (const char *at = text; *at != '\0';) {
        size_t size = strcspn(at, " ");
        if (*column > TEXT_COLUMN && *column + 1 + size > LINE_COLUMNS) {
            fprintf(out, "\n%*s", TEXT_COLUMN, "");
            *column = TEXT_COLUMN;
        }
        if (*column > TEXT_COLUMN) {
            fputc(' ', out);
            ++*column;
        }
        fprintf(out, "%.*s", (int)size, at);
        *column += size;
        at += size + (at[size] == ' ');
    }
}

void options_print_help(FILE *out, const struct option_def *def)
{
    char name[80], note[120];
    size_t column = TEXT_COLUMN;
    bool value = def->kind != OPTION_FLAG;
    int size = snprintf(name, sizeof name, "--%s%s%s", def->name, value ? " " : "",
                        value ? def->value : "");
    if (def->letter != '\0') {
        fprintf(out, "  -%c, %-*s", def->letter, NAME_COLUMNS, name);
    } else {
        fprintf(out, "      %-*s", NAME_COLUMNS, name);
    }
    if (size >= NAME_COLUMNS) { /* the line has no room for the text */
        fprintf(out, "\n%*s", TEXT_COLUMN, "");
    }
    print_words(out, def->help, &column);
    if (def->standard != NULL) {
        snprintf(note, sizeof note, "(default: %s)", def->standard);
        print_words(out, note, &column);
    }
    if (def->environment != NULL) {
        snprintf(note, sizeof note, "[%s]", def->environment);
        print_words(out, note, &column);
    }
    fputc('\n', out);
}

static void print_branch(FILE *out, const struct option_def *d)
{
    fprintf(out, "    --%s", d->name);
    if (d->letter != '\0') {
        fprintf(out, "|-%c", d->letter);
    }
}

void options_print_completion(FILE *out, const struct option_def *defs, size_t count)
{
    for (size_t id = 0; id < count; id++) {
        const struct option_def *d = &defs[id];
        if (d->name == NULL || d->value == NULL) {
            continue;
        }
        if (d->kind == OPTION_CHOICE) {
            print_branch(out, d);
            fprintf(out,
                    ") words=\"%s\"; COMPREPLY=($(compgen -W \"${words//|/ }\" -- \"$cur\"));"
                    " return ;;\n",
                    d->value);
        } else if (strncmp(d->value, "FILE", 4) == 0 || strncmp(d->value, "DIR", 3) == 0) {
            print_branch(out, d);
            fprintf(out, ") COMPREPLY=($(compgen -%c -- \"$cur\")); return ;;\n",
                    d->value[0] == 'F' ? 'f' : 'd');
        }
    }
}
