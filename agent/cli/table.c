/* Tables with libsmartcols: columns as wide as their cells, no colours, no truncation. */
#include <libsmartcols/libsmartcols.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cli.h"
#include "base/assert.h"

struct cli_table {
    struct libscols_table *table;
    struct libscols_line *line;
    bool shown[CLI_TABLE_COLUMNS_MAX]; /* of the columns as declared */
    size_t columns, at, at_shown;
};

struct cli_table *cli__table_new(bool wide, const char *const *columns)
{
    struct cli_table *t = xcalloc(1, sizeof *t);
    t->table = scols_new_table();
    ASSERT(t->table != NULL);
    scols_table_set_column_separator(t->table, "  ");
    scols_table_enable_maxout(t->table, 0);
    /* Ignore the width of the terminal: long lines wrap there, and a pipe gets everything. */
    scols_table_set_termforce(t->table, SCOLS_TERMFORCE_NEVER);
    scols_table_set_termwidth(t->table, 10000);
    for (; columns[t->columns] != NULL; t->columns++) {
        ASSERT(t->columns < CLI_TABLE_COLUMNS_MAX);
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

void cli__table_row(struct cli_table *t)
{
    t->line = scols_table_new_line(t->table, NULL);
    t->at = t->at_shown = 0;
}

void cli__table_cell(struct cli_table *t, const char *format, ...)
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

/* One cell with the old width keeps the column that wide. */
static void widen(struct libscols_line *line, struct libscols_column *column, size_t i,
                  size_t width)
{
    struct libscols_cell *cell = scols_line_get_cell(line, i);
    const char *data = cell != NULL ? scols_cell_get_data(cell) : NULL;
    if (data != NULL && strlen(data) < width) {
        bool right = scols_column_is_right(column) != 0;
        scols_line_refer_data(line, i, xasprintf(right ? "%*s" : "%-*s", (int)width, data));
    }
}

static void apply_layout(struct cli_table *t, struct cli_table_layout *layout, bool after)
{
    struct libscols_line *first = scols_table_get_line(t->table, 0);
    for (size_t i = 0; i < t->columns; i++) {
        struct libscols_column *column = scols_table_get_column(t->table, i);
        if (column == NULL || first == NULL) {
            break;
        }
        if (!after) {
            widen(first, column, i, layout->widths[i]);
        } else if (scols_column_get_width(column) > layout->widths[i]) {
            layout->widths[i] = scols_column_get_width(column);
        }
    }
    if (!after) {
        scols_table_enable_noheadings(t->table, layout->begun);
    }
    layout->begun = true;
}

void cli__table_print(struct cli_table *t, struct cli_table_layout *layout)
{
    char *text = NULL;
    if (layout != NULL) {
        apply_layout(t, layout, false);
    }
    /* Without trailing spaces of the last column. */
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
    if (layout != NULL) {
        apply_layout(t, layout, true);
    }
    free(text);
    scols_unref_table(t->table);
    free(t);
}
