/* `thole diff`: what apply would change, as a unified diff of YAML. */
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cmd_apply.h"
#include "thole/v1/resources.upbdefs.h"

#define DIFF_ERROR 2

struct lines {
    char *text;
    char **items;
    size_t count;
};

static void lines_split(struct bytes *text, struct lines *ret)
{
    bytes_append(text, "", 1);
    *ret = (struct lines){.text = xstrdup((const char *)text->data)};
    for (char *at = ret->text; *at != '\0';) {
        ret->items = xrealloc(ret->items, (ret->count + 1) * sizeof *ret->items);
        ret->items[ret->count++] = at;
        char *end = strchrnul(at, '\n');
        at = *end != '\0' ? end + 1 : end;
        *end = '\0';
    }
}

static void lines_deinit(struct lines *l)
{
    free(l->items);
    free(l->text);
}

/* Longest common subsequence by the simple algorithm: specs are short. */
static void print_diff(const struct lines *a, const struct lines *b)
{
    size_t width = b->count + 1;
    uint32_t *common = xcalloc((a->count + 1) * width, sizeof *common);
    for (size_t i = a->count; i-- > 0;) {
        for (size_t k = b->count; k-- > 0;) {
            uint32_t down = common[(i + 1) * width + k], right = common[i * width + k + 1];
            common[i * width + k] = strcmp(a->items[i], b->items[k]) == 0
                                        ? common[(i + 1) * width + k + 1] + 1
                                    : down > right ? down
                                                   : right;
        }
    }
    for (size_t i = 0, k = 0; i < a->count || k < b->count;) {
        if (i < a->count && k < b->count && strcmp(a->items[i], b->items[k]) == 0) {
            printf("  %s\n", a->items[i]);
            i++;
            k++;
        } else if (i < a->count &&
                   (k == b->count || common[(i + 1) * width + k] >= common[i * width + k + 1])) {
            printf("- %s\n", a->items[i++]);
        } else {
            printf("+ %s\n", b->items[k++]);
        }
    }
    free(common);
}

static void spec_lines(struct cli *c, const struct spec *s, const void *row, struct lines *ret)
{
    struct bytes json = {0}, yaml = {0};
    const upb_MessageDef *def = NULL;
    const void *spec = apply_spec(c, s, row, NULL, &def);
    if (spec != NULL) {
        cli__json(spec, def, &json);
        cli__yaml(NULL, bytes_slice(&json), &yaml);
    }
    lines_split(&yaml, ret);
    bytes_deinit(&json);
    bytes_deinit(&yaml);
}

/* The outcome of apply, and both specs; null: there is none. */
static void add_item(struct cli *c, const struct spec *s, const void *current, bool same,
                     struct bytes *document)
{
    char resource[ROWS_NAME_BYTES];
    const upb_MessageDef *def = NULL;
    const void *is = apply_spec(c, s, current, NULL, &def);
    bytes_append_str(document, document->size > 0 ? ",{\"name\":" : "{\"name\":");
    cli__json_string(slice_str(apply_resource(c, s, resource, sizeof resource)), document);
    bytes_printf(document, ",\"result\":\"%s\",\"is\":",
                 same              ? "unchanged"
                 : current == NULL ? "created"
                                   : "changed");
    if (is != NULL) {
        cli__json(is, def, document);
    } else {
        bytes_append_str(document, "null");
    }
    bytes_append_str(document, ",\"wanted\":");
    cli__json(apply_spec(c, s, s->row, NULL, NULL), def, document);
    bytes_append_str(document, "}");
}

/* 0: equal; 1: different; more: failed. */
static int diff_one(struct cli *c, const struct spec *s, struct bytes *document)
{
    struct thole_status st;
    const void *current = NULL;
    const char *name = apply_name(c, s);
    if (apply_current(c, s, &current, &st) != THOLE_OK) {
        int code = cli__say_status(name, &st);
        return code > DIFF_ERROR ? code : DIFF_ERROR;
    }
    char what[ROWS_NAME_BYTES];
    if (apply_deleting(apply_resource(c, s, what, sizeof what), s, current) != CLI_OK) {
        return DIFF_ERROR;
    }
    bool same = apply_same(c, s, current);
    if (cli__is_document(c)) {
        add_item(c, s, current, same, document);
    }
    if (same || cli__is_document(c)) {
        return same ? 0 : 1;
    }
    struct lines is, wanted;
    spec_lines(c, s, current, &is);
    spec_lines(c, s, s->row, &wanted);
    char resource[ROWS_NAME_BYTES];
    apply_resource(c, s, resource, sizeof resource);
    printf("--- %s%s\n+++ %s (%s:%zu)\n", resource, current == NULL ? " (none)" : "", resource,
           s->source, s->line);
    print_diff(&is, &wanted);
    lines_deinit(&is);
    lines_deinit(&wanted);
    return 1;
}

int cli__command_diff(struct cli *c)
{
    struct spec_list list = {0};
    int result = apply_read(c, &list);
    if (result != CLI_OK) {
        result = DIFF_ERROR;
    }
    struct bytes document = {0}, out = {0};
    for (size_t i = 0; result < DIFF_ERROR && i < list.count; i++) {
        int one = diff_one(c, &list.items[i], &document);
        result = one > result ? one : result;
    }
    if (cli__is_document(c) && result < DIFF_ERROR) {
        cli__document_begin(&out, "Diff");
        bytes_printf(&out, ",\"items\":[%.*s]", (int)document.size,
                     document.size > 0 ? (const char *)document.data : "");
        cli__document_end(c, &out);
    }
    bytes_deinit(&document);
    spec_list_deinit(&list);
    return cli__flush() == CLI_OK ? result : DIFF_ERROR;
}
