/* JSON to the wire format of protobuf, along a message's definition: canonical proto3 JSON without
 * the well-known types. See json.h.
 *
 * Written by hand, because upb's decoder reads numbers beyond the end of its input, and takes NULL
 * for memory when an arena is full. Nothing here is allocated by a number in the input: the output
 * is at most a few times as large as the input. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <upb/def.h>

#include "proto/json.h"

#define DEPTH_MAX 64        /* as in decode.c */
#define NUMBER_BYTES_MAX 64 /* of digits */
#define SHOWN_BYTES 64      /* of a name, in messages */

enum wire { WIRE_VARINT, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct reader {
    const uint8_t *at, *end;
    bool lenient;
    int depth;
    char *why; /* filled once, by the first failure */
    size_t why_size;
};

static bool read_message(struct reader *r, const upb_MessageDef *def, struct bytes *out);

__attribute__((format(printf, 2, 3))) static bool fail(struct reader *r, const char *format, ...)
{
    if (r->why_size > 0 && r->why[0] == '\0') {
        va_list args;
        va_start(args, format);
        vsnprintf(r->why, r->why_size, format, args);
        va_end(args);
    }
    return false;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static int peek(struct reader *r)
{
    while (r->at < r->end &&
           (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) {
        r->at++;
    }
    return r->at < r->end ? *r->at : -1;
}

static bool take(struct reader *r, char c)
{
    if (peek(r) != c) {
        return false;
    }
    r->at++;
    return true;
}

static bool expect(struct reader *r, char c)
{
    return take(r, c) || fail(r, "'%c' is expected", c);
}

static bool take_word(struct reader *r, const char *word)
{
    size_t n = strlen(word);
    if (peek(r) != word[0] || (size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) {
        return false;
    }
    r->at += n;
    return true;
}

static bool take_hex4(struct reader *r, uint32_t *ret)
{
    *ret = 0;
    for (int i = 0; i < 4; i++) {
        int c = r->at < r->end ? *r->at : -1;
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16) {
            return fail(r, "\\u needs four hexadecimal digits");
        }
        *ret = *ret << 4 | digit;
        r->at++;
    }
    return true;
}

static void append_utf8(struct bytes *out, uint32_t c)
{
    uint8_t b[4];
    size_t n = 0;
    if (c < 0x80) {
        b[n++] = (uint8_t)c;
    } else if (c < 0x800) {
        b[n++] = (uint8_t)(0xc0 | c >> 6);
    } else if (c < 0x10000) {
        b[n++] = (uint8_t)(0xe0 | c >> 12);
        b[n++] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    } else {
        b[n++] = (uint8_t)(0xf0 | c >> 18);
        b[n++] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
        b[n++] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    }
    if (c >= 0x80) {
        b[n++] = (uint8_t)(0x80 | (c & 0x3f));
    }
    bytes_append(out, b, n);
}

static bool read_unicode(struct reader *r, struct bytes *out)
{
    uint32_t c = 0, low = 0;
    if (!take_hex4(r, &c)) {
        return false;
    }
    if (c >= 0xd800 && c < 0xdc00) {
        if (r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u') {
            return fail(r, "half of a surrogate pair");
        }
        r->at += 2;
        if (!take_hex4(r, &low)) {
            return false;
        }
        if (low < 0xdc00 || low > 0xdfff) {
            return fail(r, "half of a surrogate pair");
        }
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    } else if (c >= 0xdc00 && c < 0xe000) {
        return fail(r, "half of a surrogate pair");
    }
    append_utf8(out, c);
    return true;
}

static bool read_escape(struct reader *r, struct bytes *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = r->at < r->end ? *r->at++ : -1;
    if (c == 'u') {
        return read_unicode(r, out);
    }
    const char *found = c > 0 ? strchr(from, c) : NULL;
    if (found == NULL) {
        return fail(r, "an unknown escape in a string");
    }
    bytes_append(out, &to[found - from], 1);
    return true;
}

/* Appends the string's bytes. UTF-8 is judged by whoever decodes the message. */
static bool read_string(struct reader *r, struct bytes *out)
{
    if (!take(r, '"')) {
        return fail(r, "a string is expected");
    }
    for (;;) {
        const uint8_t *from = r->at;
        while (r->at < r->end && *r->at != '"' && *r->at != '\\' && *r->at >= 0x20) {
            r->at++;
        }
        bytes_append(out, from, (size_t)(r->at - from));
        if (r->at == r->end || *r->at < 0x20) {
            return fail(r, r->at == r->end ? "a string does not end"
                                           : "a control character in a "
                                             "string");
        }
        if (*r->at++ == '"') {
            return true;
        }
        if (!read_escape(r, out)) {
            return false;
        }
    }
}

static bool digits(struct reader *r)
{
    const uint8_t *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') {
        r->at++;
    }
    return r->at > from;
}

/* A number by the grammar of JSON, as text with a zero byte behind it. */
static bool read_number(struct reader *r, char ret[static NUMBER_BYTES_MAX + 1])
{
    (void)peek(r);
    const uint8_t *from = r->at;
    r->at += r->at < r->end && *r->at == '-';
    bool zero = r->at < r->end && *r->at == '0';
    const uint8_t *first = r->at;
    bool ok = digits(r) && (!zero || r->at == first + 1);
    if (ok && r->at < r->end && *r->at == '.') {
        r->at++;
        ok = digits(r);
    }
    if (ok && r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        r->at++;
        r->at += r->at < r->end && (*r->at == '+' || *r->at == '-');
        ok = digits(r);
    }
    size_t size = (size_t)(r->at - from);
    if (!ok || size > NUMBER_BYTES_MAX) {
        return fail(r, ok ? "a number has too many digits" : "a value is expected");
    }
    memcpy(ret, from, size);
    ret[size] = '\0';
    return true;
}

/* ---- Values that no field takes -------------------------------------------------------------- */

static bool enter(struct reader *r)
{
    return ++r->depth <= DEPTH_MAX || fail(r, "is nested too deeply");
}

static bool skip_value(struct reader *r);

static bool skip_members(struct reader *r, char close, bool named)
{
    struct bytes name = {0};
    bool ok = enter(r);
    while (ok && !take(r, close)) {
        bytes_clear(&name);
        ok = (!named || (read_string(r, &name) && expect(r, ':'))) && skip_value(r) &&
             (peek(r) == close ||
              (expect(r, ',') && (peek(r) != close || fail(r, "a comma too many"))));
    }
    bytes_deinit(&name);
    r->depth--;
    return ok;
}

static bool skip_value(struct reader *r)
{
    char number[NUMBER_BYTES_MAX + 1];
    switch (peek(r)) {
    case '{':
        r->at++;
        return skip_members(r, '}', true);
    case '[':
        r->at++;
        return skip_members(r, ']', false);
    case '"': {
        struct bytes text = {0};
        bool ok = read_string(r, &text);
        bytes_deinit(&text);
        return ok;
    }
    case 't':
    case 'f':
    case 'n':
        return take_word(r, "true") || take_word(r, "false") || take_word(r, "null") ||
               fail(r, "a value is expected");
    default:
        return read_number(r, number);
    }
}

/* ---- Scalars --------------------------------------------------------------------------------- */

static void put_tag(struct bytes *out, const upb_FieldDef *f, enum wire wire)
{
    bytes_append_varint(out, (uint64_t)upb_FieldDef_Number(f) << 3 | wire);
}

static void put_bytes(struct bytes *out, const upb_FieldDef *f, struct slice value)
{
    put_tag(out, f, WIRE_BYTES);
    bytes_append_varint(out, value.size);
    bytes_append_slice(out, value);
}

static void put_fixed(struct bytes *out, const upb_FieldDef *f, uint64_t value, bool is_64)
{
    uint8_t b[8];
    put_tag(out, f, is_64 ? WIRE_64 : WIRE_32);
    put_le64(b, value);
    bytes_append(out, b, is_64 ? 8 : 4);
}

static bool out_of_range(struct reader *r, const upb_FieldDef *f)
{
    return fail(r, "%s: is not a number of its type", upb_FieldDef_Name(f));
}

/* The text of a number, which may stand in quotes. */
static bool number_text(struct reader *r, char ret[static NUMBER_BYTES_MAX + 1])
{
    if (peek(r) != '"') {
        return read_number(r, ret);
    }
    struct bytes text = {0};
    bool ok = read_string(r, &text);
    if (ok && text.size > 0) {
        struct reader inner = {
            .at = text.data, .end = text.data + text.size, .why = r->why, .why_size = r->why_size};
        ok = read_number(&inner, ret) && inner.at == inner.end;
    } else {
        ok = false;
    }
    bytes_deinit(&text);
    return ok;
}

/* A whole number, also one that is written with an exponent or a fraction. */
static bool parse_integer(const char *text, bool is_signed, uint64_t *ret)
{
    char *rest = NULL;
    errno = 0;
    if (strpbrk(text, ".eE") != NULL) {
        double d = strtod(text, &rest);
        bool fits = is_signed ? d >= -0x1p63 && d < 0x1p63 : d >= 0 && d < 0x1p64;
        if (!fits || floor(d) != d) {
            return false;
        }
        *ret = is_signed ? (uint64_t)(int64_t)d : (uint64_t)d;
        return true;
    }
    if (is_signed) {
        *ret = (uint64_t)strtoll(text, &rest, 10);
    } else {
        *ret = strtoull(text, &rest, 10);
    }
    return errno == 0 && *rest == '\0' && (is_signed || text[0] != '-' || *ret == 0);
}

static bool read_integer(struct reader *r, const upb_FieldDef *f, struct bytes *out)
{
    char text[NUMBER_BYTES_MAX + 1];
    upb_FieldType type = upb_FieldDef_Type(f);
    upb_CType c = upb_FieldDef_CType(f);
    bool is_signed = c == kUpb_CType_Int32 || c == kUpb_CType_Int64 || c == kUpb_CType_Enum;
    uint64_t v = 0;
    if (!number_text(r, text) || !parse_integer(text, is_signed, &v)) {
        return out_of_range(r, f);
    }
    int64_t s = (int64_t)v;
    if (((c == kUpb_CType_Int32 || c == kUpb_CType_Enum) && (s < INT32_MIN || s > INT32_MAX)) ||
        (c == kUpb_CType_UInt32 && v > UINT32_MAX)) {
        return out_of_range(r, f);
    }
    switch ((int)type) {
    case kUpb_FieldType_SInt32:
    case kUpb_FieldType_SInt64:
        v = v << 1 ^ (s < 0 ? UINT64_MAX : 0);
        break;
    case kUpb_FieldType_Fixed32:
    case kUpb_FieldType_SFixed32:
        put_fixed(out, f, v, false);
        return true;
    case kUpb_FieldType_Fixed64:
    case kUpb_FieldType_SFixed64:
        put_fixed(out, f, v, true);
        return true;
    default:
        break;
    }
    put_tag(out, f, WIRE_VARINT);
    bytes_append_varint(out, v);
    return true;
}

static bool read_real(struct reader *r, const upb_FieldDef *f, struct bytes *out)
{
    char text[NUMBER_BYTES_MAX + 1];
    double d;
    if (take_word(r, "\"NaN\"")) {
        d = (double)NAN;
    } else if (take_word(r, "\"Infinity\"")) {
        d = (double)INFINITY;
    } else if (take_word(r, "\"-Infinity\"")) {
        d = (double)-INFINITY;
    } else if (number_text(r, text)) {
        d = strtod(text, NULL);
    } else {
        return out_of_range(r, f);
    }
    uint64_t bits = 0;
    bool is_double = upb_FieldDef_CType(f) == kUpb_CType_Double;
    float narrow = (float)d;
    if (is_double) {
        memcpy(&bits, &d, sizeof d);
    } else {
        memcpy(&bits, &narrow, sizeof narrow); /* the low half, on little-endian machines */
    }
    put_fixed(out, f, bits, is_double);
    return true;
}

static bool read_bool(struct reader *r, const upb_FieldDef *f, bool quoted, struct bytes *out)
{
    bool yes = take_word(r, quoted ? "\"true\"" : "true");
    if (!yes && !take_word(r, quoted ? "\"false\"" : "false")) {
        return fail(r, "%s: must be true or false", upb_FieldDef_Name(f));
    }
    put_tag(out, f, WIRE_VARINT);
    bytes_append_varint(out, yes);
    return true;
}

static bool read_enum(struct reader *r, const upb_FieldDef *f, struct bytes *out)
{
    if (peek(r) != '"') {
        return read_integer(r, f, out);
    }
    struct bytes name = {0};
    bool ok = read_string(r, &name);
    const upb_EnumValueDef *v =
        ok ? upb_EnumDef_FindValueByNameWithSize(upb_FieldDef_EnumSubDef(f),
                                                 name.data != NULL ? (const char *)name.data : "",
                                                 name.size)
           : NULL;
    if (ok && v == NULL) {
        ok = fail(r, "%s: has no value \"%.*s\"", upb_FieldDef_Name(f),
                  (int)(name.size < SHOWN_BYTES ? name.size : SHOWN_BYTES),
                  name.data != NULL ? (const char *)name.data : "");
    }
    if (ok) {
        put_tag(out, f, WIRE_VARINT);
        bytes_append_varint(out, (uint64_t)(int64_t)upb_EnumValueDef_Number(v));
    }
    bytes_deinit(&name);
    return ok;
}

static int base64_digit(uint8_t c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+' || c == '-' ? 62
           : c == '/' || c == '_' ? 63
                                  : -1;
}

/* In place; both alphabets, with or without padding. */
static bool decode_base64(struct bytes *b)
{
    size_t n = b->size, used = 0;
    while (n > 0 && b->size - n < 2 && b->data[n - 1] == '=') {
        n--;
    }
    if ((n < b->size && b->size % 4 != 0) || n % 4 == 1) {
        return false;
    }
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int digit = base64_digit(b->data[i]);
        if (digit < 0) {
            return false;
        }
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 != 0) { /* a digit after the first of four completes a byte */
            b->data[used++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
        }
    }
    b->size = used;
    return true;
}

static bool read_text(struct reader *r, const upb_FieldDef *f, bool is_bytes, struct bytes *out)
{
    struct bytes text = {0};
    bool ok = read_string(r, &text);
    if (ok && is_bytes && !decode_base64(&text)) {
        ok = fail(r, "%s: is not base64", upb_FieldDef_Name(f));
    }
    if (ok) {
        put_bytes(out, f, bytes_slice(&text));
    }
    bytes_deinit(&text);
    return ok || fail(r, "%s: must be a string", upb_FieldDef_Name(f));
}

/* ---- Messages -------------------------------------------------------------------------------- */

static bool read_sub_message(struct reader *r, const upb_FieldDef *f, struct bytes *out)
{
    struct bytes sub = {0};
    bool ok = read_message(r, upb_FieldDef_MessageSubDef(f), &sub);
    if (ok) {
        put_bytes(out, f, bytes_slice(&sub));
    }
    bytes_deinit(&sub);
    return ok;
}

static bool read_value(struct reader *r, const upb_FieldDef *f, bool is_key, struct bytes *out)
{
    switch (upb_FieldDef_CType(f)) {
    case kUpb_CType_Bool:
        return read_bool(r, f, is_key, out);
    case kUpb_CType_Float:
    case kUpb_CType_Double:
        return read_real(r, f, out);
    case kUpb_CType_Int32:
    case kUpb_CType_UInt32:
    case kUpb_CType_Int64:
    case kUpb_CType_UInt64:
        return read_integer(r, f, out);
    case kUpb_CType_Enum:
        return read_enum(r, f, out);
    case kUpb_CType_String:
        return read_text(r, f, false, out);
    case kUpb_CType_Bytes:
        return read_text(r, f, true, out);
    case kUpb_CType_Message:
        return read_sub_message(r, f, out);
    }
    return fail(r, "%s: has a type without JSON", upb_FieldDef_Name(f));
}

/* After a member: is there another one? False with *ok true: no. */
static bool more(struct reader *r, char close, bool *ok)
{
    if (take(r, close)) {
        return false;
    }
    *ok = expect(r, ',') && (peek(r) != close || fail(r, "a comma too many"));
    return *ok;
}

static bool read_list(struct reader *r, const upb_FieldDef *f, struct bytes *out)
{
    bool ok = true;
    if (!take(r, '[')) {
        return fail(r, "%s: must be a list", upb_FieldDef_Name(f));
    }
    if (take(r, ']')) {
        return true;
    }
    do {
        ok = read_value(r, f, false, out);
    } while (ok && more(r, ']', &ok));
    return ok;
}

static bool read_map(struct reader *r, const upb_FieldDef *f, struct bytes *out)
{
    const upb_MessageDef *entry = upb_FieldDef_MessageSubDef(f);
    const upb_FieldDef *key = upb_MessageDef_FindFieldByNumber(entry, 1);
    const upb_FieldDef *value = upb_MessageDef_FindFieldByNumber(entry, 2);
    struct bytes pair = {0};
    bool ok = true;
    if (!take(r, '{')) {
        return fail(r, "%s: must be an object", upb_FieldDef_Name(f));
    }
    if (take(r, '}')) {
        return true;
    }
    do {
        bytes_clear(&pair);
        ok = (peek(r) == '"' || fail(r, "a name is expected")) && read_value(r, key, true, &pair) &&
             expect(r, ':') && read_value(r, value, false, &pair);
        if (ok) {
            put_bytes(out, f, bytes_slice(&pair));
        }
    } while (ok && more(r, '}', &ok));
    bytes_deinit(&pair);
    return ok;
}

static bool read_field(struct reader *r, const upb_FieldDef *f, struct bytes *out)
{
    if (take_word(r, "null")) {
        return true; /* absent */
    }
    if (upb_FieldDef_IsMap(f)) {
        return read_map(r, f, out);
    }
    return upb_FieldDef_IsRepeated(f) ? read_list(r, f, out) : read_value(r, f, false, out);
}

static bool read_member(struct reader *r, const upb_MessageDef *def, struct bytes *name,
                        struct bytes *out)
{
    bytes_clear(name);
    if (!read_string(r, name) || !expect(r, ':')) {
        return false;
    }
    const char *text = name->data != NULL ? (const char *)name->data : "";
    const upb_FieldDef *f = upb_MessageDef_FindByJsonNameWithSize(def, text, name->size);
    if (f == NULL) {
        f = upb_MessageDef_FindFieldByNameWithSize(def, text, name->size);
    }
    if (f != NULL) {
        return read_field(r, f, out);
    }
    return r->lenient ? skip_value(r)
                      : fail(r, "%s has no field \"%.*s\"", upb_MessageDef_Name(def),
                             (int)(name->size < SHOWN_BYTES ? name->size : SHOWN_BYTES), text);
}

static bool read_message(struct reader *r, const upb_MessageDef *def, struct bytes *out)
{
    struct bytes name = {0};
    bool ok = enter(r);
    if (ok && !take(r, '{')) {
        ok = fail(r, "%s: must be an object", upb_MessageDef_Name(def));
    }
    if (ok && !take(r, '}')) {
        do {
            ok = read_member(r, def, &name, out);
        } while (ok && more(r, '}', &ok));
    }
    bytes_deinit(&name);
    r->depth--;
    return ok;
}

bool proto_json_read(const upb_MessageDef *def, struct slice *json, bool lenient, struct bytes *ret,
                     char *ret_why, size_t why_size)
{
    const uint8_t *from = json->size > 0 ? json->data : (const uint8_t *)"";
    struct reader r = {.at = from,
                       .end = from + json->size,
                       .lenient = lenient,
                       .why = ret_why,
                       .why_size = why_size};
    if (why_size > 0) {
        ret_why[0] = '\0';
    }
    bool ok = read_message(&r, def, ret);
    (void)peek(&r);
    *json = slice_of(r.at, (size_t)(r.end - r.at));
    return ok;
}
