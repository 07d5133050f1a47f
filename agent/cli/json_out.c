/* Messages as JSON, for programs: proto3 JSON without its pitfalls. Every field is present, also
 * with its default value (except sub-messages and optional fields that are not set). Enumeration
 * values are named as in specs: "ACTIVE"; null if unspecified. Times are RFC 3339 under a name
 * without the unit: create_time_ms is "createTime"; null if not set. 64-bit numbers are strings;
 * bytes are base64. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <upb/array.h>
#include <upb/map.h>

#include "agent/cli/cli.h"

static void put_message(const upb_Message *m, const upb_MessageDef *def, struct bytes *out);

void cli__json_string(struct slice s, struct bytes *out)
{
    bytes_append_str(out, "\"");
    for (size_t i = 0; i < s.size; i++) {
        uint8_t b = s.data[i];
        if (b == '"' || b == '\\') {
            bytes_printf(out, "\\%c", b);
        } else if (b < 0x20 || b == 0x7f) {
            bytes_printf(out, "\\u%04x", b);
        } else {
            bytes_append(out, &b, 1);
        }
    }
    bytes_append_str(out, "\"");
}

static void put_text(upb_StringView s, struct bytes *out)
{
    cli__json_string(slice_of(s.data, s.size), out);
}

static void put_enum(const upb_EnumDef *def, int32_t value, struct bytes *out)
{
    const char *zero = upb_EnumValueDef_Name(upb_EnumDef_Value(def, 0));
    size_t prefix = strlen(zero) - strlen("UNSPECIFIED");
    const upb_EnumValueDef *v = upb_EnumDef_FindValueByNumber(def, value);
    if (value == 0) {
        bytes_append_str(out, "null");
    } else if (v == NULL) {
        bytes_printf(out, "%" PRId32, value);
    } else {
        bytes_printf(out, "\"%s\"", upb_EnumValueDef_Name(v) + prefix);
    }
}

static void put_value(const upb_FieldDef *f, upb_MessageValue v, struct bytes *out)
{
    switch (upb_FieldDef_CType(f)) {
    case kUpb_CType_Bool:
        bytes_append_str(out, v.bool_val ? "true" : "false");
        break;
    case kUpb_CType_Int32:
        bytes_printf(out, "%" PRId32, v.int32_val);
        break;
    case kUpb_CType_UInt32:
        bytes_printf(out, "%" PRIu32, v.uint32_val);
        break;
    case kUpb_CType_Int64:
        bytes_printf(out, "\"%" PRId64 "\"", v.int64_val);
        break;
    case kUpb_CType_UInt64:
        bytes_printf(out, "\"%" PRIu64 "\"", v.uint64_val);
        break;
    case kUpb_CType_Float:
        bytes_printf(out, "%.9g", (double)v.float_val);
        break;
    case kUpb_CType_Double:
        bytes_printf(out, "%.17g", v.double_val);
        break;
    case kUpb_CType_Enum:
        put_enum(upb_FieldDef_EnumSubDef(f), v.int32_val, out);
        break;
    case kUpb_CType_String:
        put_text(v.str_val, out);
        break;
    case kUpb_CType_Bytes:
        bytes_append_str(out, "\"");
        cli__base64_encode(slice_of(v.str_val.data, v.str_val.size), out);
        bytes_append_str(out, "\"");
        break;
    case kUpb_CType_Message:
        put_message(v.msg_val, upb_FieldDef_MessageSubDef(f), out);
        break;
    }
}

static void put_list(const upb_FieldDef *f, const upb_Array *a, struct bytes *out)
{
    bytes_append_str(out, "[");
    for (size_t i = 0; a != NULL && i < upb_Array_Size(a); i++) {
        bytes_append_str(out, i > 0 ? "," : "");
        put_value(f, upb_Array_Get(a, i), out);
    }
    bytes_append_str(out, "]");
}

/* Keys are strings. */
static void put_map(const upb_FieldDef *f, const upb_Map *map, struct bytes *out)
{
    const upb_FieldDef *value = upb_MessageDef_FindFieldByNumber(upb_FieldDef_MessageSubDef(f), 2);
    size_t it = kUpb_Map_Begin;
    bool first = true;
    bytes_append_str(out, "{");
    while (map != NULL && upb_MapIterator_Next(map, &it)) {
        bytes_append_str(out, first ? "" : ",");
        put_text(upb_MapIterator_Key(map, it).str_val, out);
        bytes_append_str(out, ":");
        put_value(value, upb_MapIterator_Value(map, it), out);
        first = false;
    }
    bytes_append_str(out, "}");
}

static void put_time(int64_t ms, struct bytes *out)
{
    struct tm tm;
    time_t seconds = (time_t)(ms / 1000);
    char text[32];
    if (ms <= 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm) == 0) {
        bytes_append_str(out, "null");
    } else {
        bytes_printf(out, "\"%s.%03dZ\"", text, (int)(ms % 1000));
    }
}

static bool is_time(const upb_FieldDef *f)
{
    static const char suffix[] = "time_ms";
    const char *name = upb_FieldDef_Name(f);
    size_t size = strlen(name), n = sizeof suffix - 1;
    return upb_FieldDef_CType(f) == kUpb_CType_Int64 && size >= n &&
           strcmp(name + size - n, suffix) == 0;
}

static void put_message(const upb_Message *m, const upb_MessageDef *def, struct bytes *out)
{
    bool first = true;
    bytes_append_str(out, "{");
    for (int i = 0; i < upb_MessageDef_FieldCount(def); i++) {
        const upb_FieldDef *f = upb_MessageDef_Field(def, i);
        if (upb_FieldDef_HasPresence(f) && !upb_Message_Has(m, f)) {
            continue;
        }
        const char *name = upb_FieldDef_JsonName(f);
        bool time = is_time(f);
        bytes_printf(out, "%s\"%.*s\":", first ? "" : ",", (int)(strlen(name) - (time ? 2 : 0)),
                     name);
        first = false;
        upb_MessageValue v = upb_Message_Get(m, f);
        if (time) {
            put_time(v.int64_val, out);
        } else if (upb_FieldDef_IsMap(f)) {
            put_map(f, v.map_val, out);
        } else if (upb_FieldDef_IsRepeated(f)) {
            put_list(f, v.array_val, out);
        } else {
            put_value(f, v, out);
        }
    }
    bytes_append_str(out, "}");
}

void cli__json(const void *message, const upb_MessageDef *def, struct bytes *out)
{
    put_message(message, def, out);
}

/* ---- Documents ------------------------------------------------------------------------------- */

bool cli__is_document(const struct cli *c)
{
    enum cli_format format = cli__format(c);
    return format == FORMAT_JSON || format == FORMAT_YAML;
}

void cli__document_begin(struct bytes *out, const char *kind)
{
    bytes_printf(out, "{\"kind\":\"%s\"", kind);
}

void cli__document_text(struct bytes *out, const char *name, const char *value)
{
    bytes_printf(out, ",\"%s\":", name);
    cli__json_string(slice_str(value), out);
}

void cli__document_number(struct bytes *out, const char *name, uint64_t value)
{
    bytes_printf(out, ",\"%s\":\"%" PRIu64 "\"", name, value);
}

void cli__document_message(struct bytes *out, const char *name, const void *message,
                           const upb_MessageDef *def)
{
    bytes_printf(out, ",\"%s\":", name);
    cli__json(message, def, out);
}

void cli__document_end(struct cli *c, struct bytes *out)
{
    struct bytes yaml = {0};
    bytes_append_str(out, "}");
    if (cli__format(c) == FORMAT_YAML && cli__yaml(NULL, bytes_slice(out), &yaml)) {
        cli__print(bytes_slice(&yaml));
    } else {
        bytes_append_str(out, "\n");
        cli__print(bytes_slice(out));
    }
    bytes_deinit(out);
    bytes_deinit(&yaml);
}

/* An operation has its own field `kind`. */
void cli__json_object(const char *kind, const void *message, const upb_MessageDef *def,
                      struct bytes *out)
{
    struct bytes fields = {0};
    cli__json(message, def, &fields);
    if (upb_MessageDef_FindFieldByName(def, "kind") == NULL) {
        cli__document_begin(out, kind);
        bytes_append_str(out, fields.size > 2 ? "," : "");
        bytes_append(out, fields.data + 1, fields.size - 1);
    } else {
        bytes_append_slice(out, bytes_slice(&fields));
    }
    bytes_deinit(&fields);
}

void cli__document(struct cli *c, const char *kind, const void *message, const upb_MessageDef *def)
{
    struct bytes out = {0};
    cli__json_object(kind, message, def, &out);
    out.size--; /* without the brace, which cli__document_end adds */
    cli__document_end(c, &out);
}
