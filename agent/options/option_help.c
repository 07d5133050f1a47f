/* Help texts, from the table. See options.h. */
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
