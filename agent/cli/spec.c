/* Documents of a file: {kind, name, spec}. */
#include "agent/cli/spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cli.h"
#include "thole/v1/access.upbdefs.h"
#include "thole/v1/resources.upbdefs.h"

/* Fields that the server fills in, which a document may have. */
static bool is_observed(const char *name)
{
    static const char *const names[] = {
        "id",       "status", "generation", "revision", "create_time_ms", "initial",
        "deleting", "pool",   "replicas",   "builtin",  "slots"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static yaml_node_t *find(struct spec_reader *r, yaml_node_t *mapping, const char *name)
{
    for (yaml_node_pair_t *p = mapping->data.mapping.pairs.start;
         p < mapping->data.mapping.pairs.top; p++) {
        yaml_node_t *key = yaml_document_get_node(r->doc, p->key);
        if (key->type == YAML_SCALAR_NODE &&
            strcmp((const char *)key->data.scalar.value, name) == 0) {
            return yaml_document_get_node(r->doc, p->value);
        }
    }
    return NULL;
}

static bool read_kind(struct spec_reader *r, yaml_node_t *root, enum spec_kind *ret)
{
    if (root->type != YAML_MAPPING_NODE) {
        return spec_fail(r, root, "expected a document with kind, name and spec");
    }
    yaml_node_t *node = find(r, root, "kind");
    if (node == NULL || node->type != YAML_SCALAR_NODE) {
        return spec_fail(r, root, "kind is missing: Shard, ShardPool, Host or Role");
    }
    const char *kind = (const char *)node->data.scalar.value;
    if (strcmp(kind, "Shard") == 0) {
        *ret = SPEC_SHARD;
    } else if (strcmp(kind, "Host") == 0) {
        *ret = SPEC_HOST;
    } else if (strcmp(kind, "ShardPool") == 0) {
        *ret = SPEC_POOL;
    } else if (strcmp(kind, "Role") == 0) {
        *ret = SPEC_ROLE;
    } else {
        return spec_fail(r, node, "kind: \"%.40s\" is not one of Shard, ShardPool, Host, Role",
                         kind);
    }
    return true;
}

/* name, spec and etag are copied to the row. Any other unknown field is an error. */
static bool read_row(struct spec_reader *r, yaml_node_t *root, const upb_MessageDef *def,
                     upb_Message *row)
{
    unsigned seen = 0;
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top;
         p++) {
        yaml_node_t *key = yaml_document_get_node(r->doc, p->key);
        yaml_node_t *value = yaml_document_get_node(r->doc, p->value);
        if (key->type != YAML_SCALAR_NODE) {
            return spec_fail(r, key, "expected the name of a field");
        }
        const char *name = (const char *)key->data.scalar.value;
        const upb_FieldDef *field = spec_field(def, name, key->data.scalar.length);
        if (strcmp(name, "kind") == 0 || strcmp(name, "createTime") == 0 ||
            (field != NULL && is_observed(upb_FieldDef_Name(field)))) {
            continue;
        }
        if (field == NULL) {
            return spec_fail(
                r, key, "there is no field %.60s; the fields are kind, name, spec, etag", name);
        }
        uint32_t bit = 1u << (upb_FieldDef_Number(field) & 31);
        if (seen & bit) {
            return spec_fail(r, key, "%.60s: is set twice", name);
        }
        seen |= bit;
        if (upb_FieldDef_IsSubMessage(field)) {
            upb_Message *spec = upb_Message_Mutable(row, field, r->arena).msg;
            if (!spec_message(r, value, name, 1, spec, upb_FieldDef_MessageSubDef(field))) {
                return false;
            }
            continue;
        }
        if (value->type != YAML_SCALAR_NODE) {
            return spec_fail(r, value, "%s: expected one value", name);
        }
        upb_MessageValue text;
        if (spec_is_null(value)) { /* null: not set, as in JSON */
            continue;
        }
        if (!spec_text(r, value, name, &text.str_val)) {
            return false;
        }
        upb_Message_Set(row, field, text, r->arena);
    }
    return true;
}

static bool read_document(struct spec_reader *r, yaml_node_t *root, struct spec_list *list)
{
    enum spec_kind kind = SPEC_SHARD;
    r->nodes = 0;
    if (!read_kind(r, root, &kind)) {
        return false;
    }
    const upb_MessageDef *def = kind == SPEC_SHARD  ? thole_v1_Shard_getmsgdef(r->pool)
                                : kind == SPEC_HOST ? thole_v1_Host_getmsgdef(r->pool)
                                : kind == SPEC_ROLE ? thole_v1_Role_getmsgdef(r->pool)
                                                    : thole_v1_ShardPool_getmsgdef(r->pool);
    upb_Message *row = upb_Message_New(def, r->arena);
    if (!read_row(r, root, def, row)) {
        return false;
    }
    const upb_FieldDef *name = upb_MessageDef_FindFieldByName(def, "name");
    if (upb_Message_Get(row, name).str_val.size == 0) {
        return spec_fail(r, root, "name is missing");
    }
    if (!upb_Message_Has(row, upb_MessageDef_FindFieldByName(def, "spec"))) {
        return spec_fail(r, root, "spec is missing");
    }
    list->items = xrealloc(list->items, (list->count + 1) * sizeof *list->items);
    list->items[list->count++] = (struct spec){r->source, root->start_mark.line + 1, kind, row};
    return true;
}

static bool say(struct spec_error *error, const char *source, size_t line, const char *what)
{
    snprintf(error->text, sizeof error->text, "%s:%zu: %s", source, line + 1, what);
    return false;
}

/* For each token libyaml visits all open levels, and for each anchor or alias all anchors: 100 kB
 * of "[" take a quarter of a minute. Bound both before building a document. */
static bool check_bounds(const char *source, struct slice text, struct spec_error *error)
{
    yaml_parser_t parser;
    unsigned depth = 0, anchors = 0;
    bool ok = true, end = false;
    if (!yaml_parser_initialize(&parser)) {
        abort(); /* out of memory */
    }
    yaml_parser_set_input_string(&parser, text.data, text.size);
    while (ok && !end) {
        yaml_event_t e;
        if (!yaml_parser_parse(&parser, &e)) {
            break; /* the reader of documents reports the error */
        }
        end = e.type == YAML_STREAM_END_EVENT;
        const yaml_char_t *anchor = NULL;
        if (e.type == YAML_SEQUENCE_START_EVENT || e.type == YAML_MAPPING_START_EVENT) {
            depth++;
            anchor = e.type == YAML_SEQUENCE_START_EVENT ? e.data.sequence_start.anchor
                                                         : e.data.mapping_start.anchor;
        } else if (e.type == YAML_SEQUENCE_END_EVENT || e.type == YAML_MAPPING_END_EVENT) {
            depth--;
        } else if (e.type == YAML_SCALAR_EVENT) {
            anchor = e.data.scalar.anchor;
        }
        anchors += anchor != NULL;
        if (depth > SPEC_DEPTH_MAX) {
            ok = say(error, source, e.start_mark.line, "is nested too deeply");
        } else if (anchors > SPEC_ANCHORS_MAX) {
            ok = say(error, source, e.start_mark.line, "has too many anchors");
        }
        yaml_event_delete(&e);
    }
    yaml_parser_delete(&parser);
    return ok;
}

bool spec_parse(upb_DefPool *pool, upb_Arena *arena, const char *source, struct slice text,
                struct spec_list *list, struct spec_error *error)
{
    yaml_parser_t parser;
    struct spec_reader r = {.pool = pool, .arena = arena, .error = error};
    size_t source_size = strlen(source) + 1;
    char *source_copy = upb_Arena_Malloc(arena, source_size);
    memcpy(source_copy, source, source_size);
    r.source = source_copy;
    if (text.size > SPEC_BYTES_MAX) {
        snprintf(error->text, sizeof error->text, "%s: has more than %d bytes", source,
                 SPEC_BYTES_MAX);
        return false;
    }
    if (!check_bounds(source, text, error)) {
        return false;
    }
    if (!yaml_parser_initialize(&parser)) {
        abort(); /* out of memory */
    }
    yaml_parser_set_input_string(&parser, text.data, text.size);
    bool ok = true, end = false;
    while (ok && !end) {
        yaml_document_t doc;
        if (!yaml_parser_load(&parser, &doc)) {
            ok = say(error, source, parser.problem_mark.line,
                     parser.problem != NULL ? parser.problem : "cannot be read as YAML");
            break;
        }
        yaml_node_t *root = yaml_document_get_root_node(&doc);
        end = root == NULL;
        r.doc = &doc;
        /* Ignore an empty document, as after a last "---". */
        bool empty =
            root != NULL && root->type == YAML_SCALAR_NODE && root->data.scalar.length == 0;
        if (!end && !empty) {
            ok = read_document(&r, root, list);
        }
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    return ok;
}

void spec_list_deinit(struct spec_list *list)
{
    free(list->items);
    *list = (struct spec_list){0};
}
