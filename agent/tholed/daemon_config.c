/* The configuration file: a YAML mapping of options to scalars, or to lists of them; `tag` may also
 * be a mapping (tag: {zone: a}). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "agent/tholed/daemon_options.h"
#include "base/buf.h"

typedef enum thole_code (*set_fn)(void *ctx, const char *key, const char *value,
                                  struct thole_status *st);

/* NULL: none, or nothing, such as a plain null, which is no text. */
static const char *scalar(const yaml_node_t *n)
{
    static const char *const nothing[] = {"", "~", "null", "Null", "NULL"};
    if (n == NULL || n->type != YAML_SCALAR_NODE) {
        return NULL;
    }
    const char *text = (const char *)n->data.scalar.value;
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        if (n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strcmp(text, nothing[i]) == 0) {
            return NULL;
        }
    }
    return text;
}

static enum thole_code bad(struct thole_status *st, const char *path, const yaml_node_t *n)
{
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "%s:%zu: expected a value, a list or key: value", path,
                      n ? n->start_mark.line + 1 : 1);
}

static enum thole_code set_sequence(yaml_document_t *d, const char *path, const char *key,
                                    const yaml_node_t *n, set_fn set, void *ctx,
                                    struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    for (yaml_node_item_t *it = n->data.sequence.items.start;
         code == THOLE_OK && it < n->data.sequence.items.top; it++) {
        const yaml_node_t *item = yaml_document_get_node(d, *it);
        code = scalar(item) != NULL ? set(ctx, key, scalar(item), st) : bad(st, path, item);
    }
    return code;
}

static enum thole_code set_mapping(yaml_document_t *d, const char *path, const char *key,
                                   const yaml_node_t *n, set_fn set, void *ctx,
                                   struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start;
         code == THOLE_OK && p < n->data.mapping.pairs.top; p++) {
        const char *k = scalar(yaml_document_get_node(d, p->key));
        const char *v = scalar(yaml_document_get_node(d, p->value));
        if (k == NULL || v == NULL) {
            return bad(st, path, n);
        }
        char *pair = xasprintf("%s=%s", k, v);
        code = set(ctx, key, pair, st);
        free(pair);
    }
    return code;
}

static enum thole_code set_all(yaml_document_t *d, const char *path, set_fn set, void *ctx,
                               struct thole_status *st)
{
    const yaml_node_t *root = yaml_document_get_root_node(d);
    if (root == NULL) {
        return THOLE_OK; /* empty */
    }
    if (root->type != YAML_MAPPING_NODE) {
        return bad(st, path, root);
    }
    enum thole_code code = THOLE_OK;
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start;
         code == THOLE_OK && p < root->data.mapping.pairs.top; p++) {
        const char *key = scalar(yaml_document_get_node(d, p->key));
        const yaml_node_t *value = yaml_document_get_node(d, p->value);
        if (key == NULL || value == NULL) {
            code = bad(st, path, root);
        } else if (scalar(value) != NULL) {
            code = set(ctx, key, scalar(value), st);
        } else if (value->type == YAML_SEQUENCE_NODE) {
            code = set_sequence(d, path, key, value, set, ctx, st);
        } else if (value->type == YAML_SCALAR_NODE) {
            code = bad(st, path, value);
        } else {
            code = set_mapping(d, path, key, value, set, ctx, st);
        }
    }
    return code;
}

enum thole_code config_read(const char *path, set_fn set, void *ctx, struct thole_status *st)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "cannot read %s: %s", path, strerror(errno));
    }
    yaml_parser_t parser;
    yaml_document_t document;
    enum thole_code code;
    yaml_parser_initialize(&parser);
    yaml_parser_set_input_file(&parser, f);
    if (yaml_parser_load(&parser, &document)) {
        code = set_all(&document, path, set, ctx, st);
        yaml_document_delete(&document);
    } else {
        code =
            THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "%s:%zu: %s", path,
                       parser.problem_mark.line + 1, parser.problem ? parser.problem : "not YAML");
    }
    yaml_parser_delete(&parser);
    fclose(f);
    return code;
}
