/* Manual pages (roff) and the example of a configuration file, from the table. See options.h. */
#include <ctype.h>
#include <string.h>

#include "agent/options/options.h"

#define EXAMPLE_COLUMNS 98

static void print_escaped(FILE *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '-') {
            fputs("\\-", out);
        } else if (text[i] == '\\') {
            fputs("\\(rs", out);
        } else {
            fputc(text[i], out);
        }
    }
}

void options_print_roff(FILE *out, const char *text)
{
    bool verbatim = false;
    for (const char *at = text; *at != '\0';) {
        size_t size = strcspn(at, "\n");
        bool begins = at[0] == ' ';
        if (begins != verbatim && size > 0) {
            fputs(begins ? ".nf\n" : ".fi\n", out);
            verbatim = begins;
        }
        if (size == 0) {
            fputs(".PP\n", out);
        } else {
            if (at[0] == '.' || at[0] == '\'') {
                fputs("\\&", out);
            }
            print_escaped(out, at, size);
            fputc('\n', out);
        }
        at += size + (at[size] == '\n');
    }
    if (verbatim) {
        fputs(".fi\n", out);
    }
}

void options_print_manual(FILE *out, const struct option_def *def)
{
    fputs(".TP\n", out);
    if (def->letter != '\0') {
        fprintf(out, "\\fB\\-%c\\fR, ", def->letter);
    }
    fputs("\\fB\\-\\-", out);
    print_escaped(out, def->name, strlen(def->name));
    fputs("\\fR", out);
    if (def->kind != OPTION_FLAG) {
        fputs(" \\fI", out);
        print_escaped(out, def->value, strlen(def->value));
        fputs("\\fR", out);
    }
    fputc('\n', out);
    print_escaped(out, def->help, strlen(def->help));
    if (def->standard != NULL) {
        fputs(" (default: ", out);
        print_escaped(out, def->standard, strlen(def->standard));
        fputc(')', out);
    }
    fputc('\n', out);
    if (def->environment != NULL) {
        fprintf(out, "[%s]\n", def->environment);
    }
}

void options_print_example(FILE *out, const struct option_def *def)
{
    if (!def->in_file) {
        return;
    }
    size_t column = 1;
    fputs("\n#", out);
    for (const char *at = def->help; *at != '\0';) {
        size_t size = strcspn(at, " ");
        if (column + 1 + size > EXAMPLE_COLUMNS) {
            fputs("\n#", out);
            column = 1;
        }
        fprintf(out, " %c%.*s", at == def->help ? toupper((unsigned char)*at) : *at, (int)size - 1,
                at + 1);
        column += 1 + size;
        at += size + (at[size] == ' ');
    }
    const char *value = def->standard != NULL      ? def->standard
                        : def->kind == OPTION_FLAG ? "true"
                                                   : def->value;
    fprintf(out, ".\n#%s: %s\n", def->name, value);
}
