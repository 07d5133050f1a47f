/* Keys and values of `thole kv` in arguments and in output. */
#include <string.h>

#include "agent/cli/cmd_kv.h"
#include "base/text.h"

static const char zero_byte = '\0';
const upb_StringView kv_no_end = {&zero_byte, 1};

/* ---- Escapes --------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool kv_unescape(upb_StringView text, struct bytes *out)
{
    static const char names[] = "\\ntr\"'", meanings[] = "\\\n\t\r\"'";
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] != '\\') {
            bytes_append(out, text.data + i, 1);
            continue;
        }
        char next = i + 1 < text.size ? text.data[i + 1] : '\0';
        const char *found = next != '\0' ? strchr(names, next) : NULL;
        int high = next == 'x' && i + 3 < text.size ? hex_digit(text.data[i + 2]) : -1;
        int low = high >= 0 ? hex_digit(text.data[i + 3]) : -1;
        if (found != NULL) {
            bytes_append(out, meanings + (found - names), 1);
            i += 1;
        } else if (low >= 0) {
            uint8_t byte = (uint8_t)(high * 16 + low);
            bytes_append(out, &byte, 1);
            i += 3;
        } else {
            return false;
        }
    }
    return true;
}

void kv_escape(upb_StringView bytes, bool hex, struct bytes *out)
{
    bool text = !hex && text_is_utf8(slice_of(bytes.data, bytes.size));
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t b = (uint8_t)bytes.data[i];
        if (!hex && (b == '\\' || b == '\n' || b == '\t')) {
            bytes_append_str(out, b == '\\' ? "\\\\" : b == '\n' ? "\\n" : "\\t");
        } else if (hex || b < 0x20 || b == 0x7f || (b > 0x7f && !text)) {
            bytes_printf(out, "\\x%02x", b);
        } else {
            bytes_append(out, &b, 1);
        }
    }
}

/* ---- Arguments ------------------------------------------------------------------------------- */

static upb_StringView kept(struct cli *c, const struct bytes *b)
{
    char *copy = upb_Arena_Malloc(c->arena, b->size + 1);
    if (b->size > 0) {
        memcpy(copy, b->data, b->size);
    }
    return (upb_StringView){copy, b->size};
}

int kv_key_argument(struct cli *c, size_t index, upb_StringView *ret)
{
    struct bytes out = {0};
    upb_StringView text = cli__sv(c->args[index]);
    bool ok = !cli_flag(c, OPT_ESCAPED) || kv_unescape(text, &out);
    *ret = ok && cli_flag(c, OPT_ESCAPED) ? kept(c, &out) : text;
    bytes_deinit(&out);
    return ok ? CLI_OK
              : cli__say_usage(c, "\"%s\": escapes are \\xNN, \\n, \\t, \\r, \\\\, \\\" and \\'",
                               c->args[index]);
}

int kv_value_argument(struct cli *c, size_t index, upb_StringView *ret)
{
    const char *text = c->arg_count > index ? c->args[index] : "@-";
    if (text[0] == '@' && text[1] == '@') {
        *ret = cli__sv(text + 1);
        return CLI_OK;
    }
    if (text[0] != '@') {
        return kv_key_argument(c, index, ret);
    }
    struct bytes out = {0};
    bool ok = cli_data_read_file(text + 1, &out);
    *ret = kept(c, &out);
    bytes_deinit(&out);
    return ok ? CLI_OK : CLI_FAILED;
}

upb_StringView kv_prefix_end(upb_Arena *arena, upb_StringView prefix)
{
    size_t size = prefix.size;
    while (size > 0 && (uint8_t)prefix.data[size - 1] == UINT8_MAX) {
        size--;
    }
    if (size == 0) {
        return kv_no_end;
    }
    char *end = upb_Arena_Malloc(arena, size);
    memcpy(end, prefix.data, size);
    end[size - 1]++;
    return (upb_StringView){end, size};
}

int kv_range_arguments(struct cli *c, bool all, upb_StringView *ret_key, upb_StringView *ret_end)
{
    bool prefix = cli_flag(c, OPT_PREFIX), from = cli_flag(c, OPT_FROM_KEY);
    upb_StringView key = KV_NONE, end = KV_NONE;
    int code = CLI_OK;

    if (prefix && from) {
        return cli__say_usage(c, "--prefix and --from-key exclude each other");
    }
    if ((prefix || from) && c->arg_count != 2) {
        return cli__say_usage(c, "%s is about KEY, without END",
                              prefix ? "--prefix" : "--from-key");
    }
    if (c->arg_count > 1) {
        code = kv_key_argument(c, 1, &key);
    }
    if (code == CLI_OK && c->arg_count > 2) {
        code = kv_key_argument(c, 2, &end);
    }
    if (code != CLI_OK) {
        return code;
    }
    bool whole = all && c->arg_count == 1;
    if (key.size == 0 && !whole && !prefix && !from && end.size == 0) {
        return cli__say_usage(c, "KEY is empty; with --prefix it means all keys");
    }
    *ret_end = prefix || whole ? kv_prefix_end(c->arena, key) : from ? kv_no_end : end;
    *ret_key = key.size > 0 ? key : kv_no_end; /* no key is before a zero byte */
    return CLI_OK;
}

bool kv_lease_id(const char *text, int64_t *ret)
{
    uint64_t id = 0;
    if (strlen(text) > 16) {
        return false;
    }
    for (; *text != '\0'; text++) {
        if (hex_digit(*text) < 0) {
            return false;
        }
        id = id * 16 + (uint64_t)hex_digit(*text);
    }
    *ret = (int64_t)id;
    return id != 0 && id <= INT64_MAX;
}
