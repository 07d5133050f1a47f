/* Tables, by libsmartcols: columns as wide as their cells, no colours, nothing cut. */
#include <libsmartcols/libsmartcols.h>
#include <stdarg.h>
#include <stdlib.h>

#include "agent/cli/cli.h"
#include "base/assert.h"

#define COLUMNS_MAX 24

struct cli_table {
    struct libscols_table *table;
    struct libscols_line *line;
    bool shown[COLUMNS_MAX]; /* of the columns as declared */
    size_t columns, at, at_shown;
};

struct cli_table *cli_table_new(bool wide, const char *const *columns)
{
    struct cli_table *t = xcalloc(1, sizeof(*t));
    t->table = scols_new_table();
    ASSERT(t->table != NULL);
    scols_table_set_column_separator(t->table, "  ");
    scols_table_enable_maxout(t->table, 0);
    /* Not the terminal's width: what does not fit wraps there, and a pipe gets everything. */
    scols_table_set_termforce(t->table, SCOLS_TERMFORCE_NEVER);
    scols_table_set_termwidth(t->table, 10000);
    for (; columns[t->columns] != NULL; t->columns++) {
        ASSERT(t->columns < COLUMNS_MAX);
        const char *name = columns[t->columns];
        bool only_wide = name[0] == '+';
        name += only_wide;
        bool right = name[0] == '>';
        name += right;
        t->shown[t->columns] = wide || !only_wide;
        if (t->shown[t->columns]) {
            scols_table_new_column(t->table, name, 0, right ? SCOLS_FL_RIGHT : 0);
        }
    }
    return t;
}

void cli_table_row(struct cli_table *t)
{
    t->line = scols_table_new_line(t->table, NULL);
    t->at = t->at_shown = 0;
}

void cli_table_cell(struct cli_table *t, const char *format, ...)
{
    ASSERT(t->line != NULL && t->at < t->columns);
    if (t->shown[t->at++]) {
        char *text = NULL;
        va_list args;
        va_start(args, format);
        if (vasprintf(&text, format, args) >= 0) {
            scols_line_refer_data(t->line, t->at_shown++, text[0] != '\0' ? text : xstrdup("-"));
            if (text[0] == '\0') {
                free(text);
            }
        }
        va_end(args);
    }
}

void cli_table_print(struct cli_table *t)
{
    char *text = NULL;
    /* Without the spaces that fill the last column. */
    if (scols_print_table_to_string(t->table, &text) == 0 && text != NULL) {
        for (char *line = text; *line != '\0';) {
            char *end = line;
            while (*end != '\0' && *end != '\n') {
                end++;
            }
            char *next = *end == '\n' ? end + 1 : end;
            while (end > line && end[-1] == ' ') {
                end--;
            }
            printf("%.*s\n", (int)(end - line), line);
            line = next;
        }
    }
    free(text);
    scols_unref_table(t->table);
    free(t);
}
