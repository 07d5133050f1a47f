/* From YAML nodes to the fields of a message, by its descriptor. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cli.h"
#include "agent/cli/spec.h"
#include "base/text.h"

#define PATH_BYTES 160

bool spec_fail(struct spec_reader *r, const yaml_node_t *at, const char *format, ...)
{
    int n = snprintf(r->error->text, sizeof r->error->text, "%s:%zu: ", r->source,
                     at->start_mark.line + 1);
    if (n > 0 && (size_t)n < sizeof r->error->text) {
        va_list args;
        va_start(args, format);
        vsnprintf(r->error->text + n, sizeof r->error->text - (size_t)n, format, args);
        va_end(args);
    }
    return false;
}

bool spec_visit(struct spec_reader *r, const yaml_node_t *node, unsigned depth)
{
    if (depth > SPEC_DEPTH_MAX) {
        return spec_fail(r, node, "more than %d levels deep", SPEC_DEPTH_MAX);
    }
    if (++r->nodes > SPEC_NODES_MAX) {
        return spec_fail(r, node, "more than %d values in a document", SPEC_NODES_MAX);
    }
    return true;
}

const upb_FieldDef *spec_field(const upb_MessageDef *def, const char *name, size_t size)
{
    const upb_FieldDef *field = upb_MessageDef_FindFieldByNameWithSize(def, name, size);
    return field != NULL ? field : upb_MessageDef_FindByJsonNameWithSize(def, name, size);
}

/* "type, config, voters": for the message about an unknown field. */
static void list_fields(const upb_MessageDef *def, char *ret, size_t size)
{
    size_t at = 0;
    ret[0] = '\0';
    for (int i = 0; i < upb_MessageDef_FieldCount(def) && at < size; i++) {
        int n = snprintf(ret + at, size - at, "%s%s", i > 0 ? ", " : "",
                         upb_FieldDef_Name(upb_MessageDef_Field(def, i)));
        at += n > 0 ? (size_t)n : 0;
    }
}

static void list_values(const upb_EnumDef *def, size_t prefix, char *ret, size_t size)
{
    size_t at = 0;
    ret[0] = '\0';
    for (int i = 1; i < upb_EnumDef_ValueCount(def) && at < size; i++) {
        int n = snprintf(ret + at, size - at, "%s%s", i > 1 ? ", " : "",
                         upb_EnumValueDef_Name(upb_EnumDef_Value(def, i)) + prefix);
        at += n > 0 ? (size_t)n : 0;
    }
}

/* HOST_STATE_UNSPECIFIED -> the size of HOST_STATE_. */
static size_t enum_prefix(const upb_EnumDef *def)
{
    const char *zero = upb_EnumValueDef_Name(upb_EnumDef_Value(def, 0));
    const char *end = strstr(zero, "UNSPECIFIED");
    return end != NULL ? (size_t)(end - zero) : 0;
}

static bool read_enum(struct spec_reader *r, const yaml_node_t *node, const char *path,
                      const upb_EnumDef *def, int32_t *ret)
{
    const char *text = (const char *)node->data.scalar.value;
    size_t prefix = enum_prefix(def);
    for (int i = 0; i < upb_EnumDef_ValueCount(def); i++) {
        const upb_EnumValueDef *value = upb_EnumDef_Value(def, i);
        const char *name = upb_EnumValueDef_Name(value);
        if (strcasecmp(name, text) == 0 ||
            (strlen(name) > prefix && strcasecmp(name + prefix, text) == 0)) {
            *ret = upb_EnumValueDef_Number(value);
            return true;
        }
    }
    char known[200];
    list_values(def, prefix, known, sizeof known);
    return spec_fail(r, node, "%s: \"%.40s\" is not one of %s", path, text, known);
}

static bool read_integer(struct spec_reader *r, const yaml_node_t *node, const char *path,
                         int64_t min, uint64_t max, uint64_t *ret)
{
    const char *text = (const char *)node->data.scalar.value;
    char *end = NULL;
    errno = 0;
    bool negative = text[0] == '-';
    uint64_t value = strtoull(text + negative, &end, 10);
    if (!isdigit((unsigned char)text[negative]) || *end != '\0') {
        return spec_fail(r, node, "%s: \"%.40s\" is not a whole number", path, text);
    }
    bool fits =
        errno == 0 && (negative ? min < 0 && value <= (uint64_t) - (min + 1) + 1 : value <= max);
    if (!fits) {
        return spec_fail(r, node, "%s: %.40s is out of range", path, text);
    }
    *ret = negative ? (uint64_t)0 - value : value;
    return true;
}

static upb_StringView copy_bytes(struct spec_reader *r, const void *data, size_t size)
{
    char *copy = upb_Arena_Malloc(r->arena, size + 1);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    copy[size] = '\0';
    return (upb_StringView){copy, size};
}

static bool read_bool(struct spec_reader *r, const yaml_node_t *node, const char *path, bool *ret)
{
    const char *text = (const char *)node->data.scalar.value;
    *ret = strcmp(text, "true") == 0;
    return *ret || strcmp(text, "false") == 0 ||
           spec_fail(r, node, "%s: \"%.40s\" is neither true nor false", path, text);
}

static bool read_double(struct spec_reader *r, const yaml_node_t *node, const char *path,
                        double *ret)
{
    const char *text = (const char *)node->data.scalar.value;
    char *end = NULL;
    *ret = strtod(text, &end);
    return (end != text && *end == '\0') ||
           spec_fail(r, node, "%s: \"%.40s\" is not a number", path, text);
}

static bool read_bytes(struct spec_reader *r, const yaml_node_t *node, const char *path,
                       upb_StringView *ret)
{
    struct bytes decoded = {0};
    bool ok = cli__base64_decode((const char *)node->data.scalar.value, node->data.scalar.length,
                                 &decoded);
    if (ok) {
        *ret = copy_bytes(r, decoded.data, decoded.size);
    } else {
        spec_fail(r, node, "%s: is not base64", path);
    }
    bytes_deinit(&decoded);
    return ok;
}

bool spec_text(struct spec_reader *r, const yaml_node_t *node, const char *path,
               upb_StringView *ret)
{
    struct slice text = slice_of(node->data.scalar.value, node->data.scalar.length);
    const char *problem = text_label_problem(text, 0);
    *ret = copy_bytes(r, text.data, text.size);
    return problem == NULL || spec_fail(r, node, "%s: %s", path, problem);
}

static bool read_scalar(struct spec_reader *r, const yaml_node_t *node, const char *path,
                        const upb_FieldDef *field, upb_MessageValue *ret)
{
    uint64_t integer = 0;
    bool ok = false;
    if (node->type != YAML_SCALAR_NODE) {
        return spec_fail(r, node, "%s: expected one value", path);
    }
    switch (upb_FieldDef_CType(field)) {
    case kUpb_CType_Bool:
        return read_bool(r, node, path, &ret->bool_val);
    case kUpb_CType_Float:
    case kUpb_CType_Double: {
        double value = 0;
        ok = read_double(r, node, path, &value);
        if (upb_FieldDef_CType(field) == kUpb_CType_Double) {
            ret->double_val = value;
        } else {
            ret->float_val = (float)value;
        }
        return ok;
    }
    case kUpb_CType_Int32:
        ok = read_integer(r, node, path, INT32_MIN, INT32_MAX, &integer);
        ret->int32_val = (int32_t)integer;
        return ok;
    case kUpb_CType_UInt32:
        ok = read_integer(r, node, path, 0, UINT32_MAX, &integer);
        ret->uint32_val = (uint32_t)integer;
        return ok;
    case kUpb_CType_Int64:
        ok = read_integer(r, node, path, INT64_MIN, INT64_MAX, &integer);
        ret->int64_val = (int64_t)integer;
        return ok;
    case kUpb_CType_UInt64:
        return read_integer(r, node, path, 0, UINT64_MAX, &ret->uint64_val);
    case kUpb_CType_Enum:
        return read_enum(r, node, path, upb_FieldDef_EnumSubDef(field), &ret->int32_val);
    case kUpb_CType_String:
        return spec_text(r, node, path, &ret->str_val);
    case kUpb_CType_Bytes:
        return read_bytes(r, node, path, &ret->str_val);
    case kUpb_CType_Message:
        break;
    }
    return spec_fail(r, node, "%s: expected a mapping", path);
}

bool spec_is_null(const yaml_node_t *node)
{
    const char *text = node->type == YAML_SCALAR_NODE ? (const char *)node->data.scalar.value : "x";
    return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0 ||
            strcmp(text, "Null") == 0 || strcmp(text, "NULL") == 0);
}

/* An element of a list, or the value of a key, cannot be null. */
static bool not_null(struct spec_reader *r, const yaml_node_t *node, const char *path)
{
    return !spec_is_null(node) ||
           spec_fail(r, node, "%s: has no value; text is put in quotes", path);
}

/* A single value: of a field, or of one element of it. */
static bool read_value(struct spec_reader *r, yaml_node_t *node, const char *path, unsigned depth,
                       const upb_FieldDef *field, upb_MessageValue *ret)
{
    if (!spec_visit(r, node, depth)) {
        return false;
    }
    const upb_MessageDef *def = upb_FieldDef_MessageSubDef(field);
    if (def == NULL) {
        return read_scalar(r, node, path, field, ret);
    }
    upb_Message *message = upb_Message_New(def, r->arena);
    ret->msg_val = message;
    return spec_message(r, node, path, depth + 1, message, def);
}

static bool read_map(struct spec_reader *r, yaml_node_t *node, const char *path, unsigned depth,
                     const upb_FieldDef *field, upb_Map *map)
{
    const upb_MessageDef *entry = upb_FieldDef_MessageSubDef(field);
    const upb_FieldDef *key_field = upb_MessageDef_FindFieldByNumber(entry, 1);
    const upb_FieldDef *value_field = upb_MessageDef_FindFieldByNumber(entry, 2);
    if (node->type != YAML_MAPPING_NODE) {
        return spec_fail(r, node, "%s: expected \"key: value\" pairs", path);
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top;
         p++) {
        yaml_node_t *key_node = yaml_document_get_node(r->doc, p->key);
        yaml_node_t *value_node = yaml_document_get_node(r->doc, p->value);
        upb_MessageValue key, value, old;
        char value_path[PATH_BYTES];
        snprintf(value_path, sizeof value_path, "%.100s.%.50s", path,
                 key_node->type == YAML_SCALAR_NODE ? (const char *)key_node->data.scalar.value
                                                    : "");
        if (!not_null(r, key_node, path) || !not_null(r, value_node, value_path) ||
            !read_value(r, key_node, path, depth + 1, key_field, &key) ||
            !read_value(r, value_node, value_path, depth + 1, value_field, &value)) {
            return false;
        }
        if (upb_Map_Get(map, key, &old)) {
            return spec_fail(r, key_node, "%s: \"%.40s\" is set twice", path,
                             (const char *)key_node->data.scalar.value);
        }
        upb_Map_Set(map, key, value, r->arena);
    }
    return true;
}

static bool read_repeated(struct spec_reader *r, yaml_node_t *node, const char *path,
                          unsigned depth, const upb_FieldDef *field, upb_Array *array)
{
    if (node->type != YAML_SEQUENCE_NODE) {
        return spec_fail(r, node, "%s: expected a list", path);
    }
    size_t i = 0;
    for (yaml_node_item_t *item = node->data.sequence.items.start;
         item < node->data.sequence.items.top; item++, i++) {
        char item_path[PATH_BYTES];
        snprintf(item_path, sizeof item_path, "%.130s[%zu]", path, i);
        upb_MessageValue value;
        yaml_node_t *item_node = yaml_document_get_node(r->doc, *item);
        if (!not_null(r, item_node, item_path) ||
            !read_value(r, item_node, item_path, depth + 1, field, &value)) {
            return false;
        }
        upb_Array_Append(array, value, r->arena);
    }
    return true;
}

static bool read_field(struct spec_reader *r, yaml_node_t *node, const char *path, unsigned depth,
                       upb_Message *message, const upb_FieldDef *field)
{
    if (!spec_visit(r, node, depth)) {
        return false;
    }
    if (spec_is_null(node)) { /* null: not set, as in JSON */
        return true;
    }
    if (upb_FieldDef_IsMap(field)) {
        return read_map(r, node, path, depth, field,
                        upb_Message_Mutable(message, field, r->arena).map);
    }
    if (upb_FieldDef_IsRepeated(field)) {
        return read_repeated(r, node, path, depth, field,
                             upb_Message_Mutable(message, field, r->arena).array);
    }
    upb_MessageValue value;
    return read_value(r, node, path, depth, field, &value) &&
           upb_Message_Set(message, field, value, r->arena);
}

bool spec_message(struct spec_reader *r, yaml_node_t *node, const char *path, unsigned depth,
                  upb_Message *message, const upb_MessageDef *def)
{
    if (!spec_visit(r, node, depth)) {
        return false;
    }
    if (node->type != YAML_MAPPING_NODE) {
        return spec_fail(r, node, "%s: expected fields with values", path);
    }
    uint64_t seen[4] = {0}; /* by field index */
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top;
         p++) {
        yaml_node_t *key = yaml_document_get_node(r->doc, p->key);
        if (key->type != YAML_SCALAR_NODE) {
            return spec_fail(r, key, "%s: expected the name of a field", path);
        }
        const char *name = (const char *)key->data.scalar.value;
        const upb_FieldDef *field = spec_field(def, name, key->data.scalar.length);
        if (field == NULL) {
            char known[200];
            list_fields(def, known, sizeof known);
            return spec_fail(r, key, "%s: there is no field %.60s; the fields are %s", path, name,
                             known);
        }
        uint32_t index = upb_FieldDef_Index(field) & 255;
        if (seen[index / 64] >> (index % 64) & 1) {
            return spec_fail(r, key, "%s.%.60s: is set twice", path, name);
        }
        seen[index / 64] |= UINT64_C(1) << (index % 64);
        char field_path[PATH_BYTES];
        snprintf(field_path, sizeof field_path, "%.100s.%.50s", path, upb_FieldDef_Name(field));
        if (!read_field(r, yaml_document_get_node(r->doc, p->value), field_path, depth + 1, message,
                        field)) {
            return false;
        }
    }
    return true;
}
