/* Pages of lists: tokens, sizes, and the answer that all lists share. */
#include <string.h>
#include <upb/encode.h>

#include "agent/services/services_internal.h"
#include "base/assert.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void services__base64url_encode(struct slice raw, struct bytes *out)
{
    for (size_t i = 0; i < raw.size; i += 3) {
        size_t n = raw.size - i < 3 ? raw.size - i : 3;
        uint32_t v = (uint32_t)raw.data[i] << 16;
        v |= n > 1 ? (uint32_t)raw.data[i + 1] << 8 : 0;
        v |= n > 2 ? raw.data[i + 2] : 0;
        for (size_t k = 0; k <= n; k++) {
            bytes_append(out, &alphabet[(v >> (18 - 6 * k)) & 63], 1);
        }
    }
}

bool services__base64url_decode(struct slice text, struct bytes *out)
{
    uint32_t v = 0;
    size_t bits = 0;
    for (size_t i = 0; i < text.size; i++) {
        const char *at = text.data[i] != 0 ? strchr(alphabet, text.data[i]) : NULL;
        if (at == NULL) {
            return false;
        }
        v = (v << 6 | (uint32_t)(at - alphabet)) & 0xffffff;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            uint8_t byte = (uint8_t)(v >> bits);
            bytes_append(out, &byte, 1);
        }
    }
    /* Unused bits must be zero: bytes have exactly one text. */
    return bits < 6 && (v & ((1u << bits) - 1)) == 0;
}

void services__page_token_encode(enum page_kind kind, struct slice key, struct bytes *out)
{
    struct bytes raw = {0};
    uint8_t first = (uint8_t)kind;
    bytes_append(&raw, &first, 1);
    bytes_append_slice(&raw, key);
    services__base64url_encode(bytes_slice(&raw), out);
    bytes_deinit(&raw);
}

bool services__page_token_decode(enum page_kind kind, struct slice token, struct bytes *ret_key)
{
    struct bytes raw = {0};
    bool ok = token.size <= 4 * LIMIT_NAME_BYTES && services__base64url_decode(token, &raw) &&
              raw.size > 0 && raw.data[0] == (uint8_t)kind;
    if (ok) {
        bytes_append(ret_key, raw.data + 1, raw.size - 1);
    }
    bytes_deinit(&raw);
    return ok;
}

uint32_t services__page_size_effective(int32_t size)
{
    if (size == 0) {
        return PAGE_SIZE_DEFAULT;
    }
    return size > PAGE_SIZE_MAX ? PAGE_SIZE_MAX : (uint32_t)size;
}

bool services__page_begin(struct page *p, struct call *c, enum page_kind kind, int32_t size,
                          upb_StringView token, struct bytes *ret_key)
{
    if (size < 0) {
        services__call_refuse(c, "page_size", "%d is negative", size);
        return false;
    }
    if (token.size > 0 && !services__page_token_decode(kind, registry_str(token), ret_key)) {
        services__call_refuse(c, "page_token", "it was not made by this method");
        return false;
    }
    *p = (struct page){.rows_left = services__page_size_effective(size)};
    return true;
}

bool services__page_add(struct page *p, struct call *c, const void *row, const upb_MiniTable *kind)
{
    if (p->rows_left == 0 || p->out.size >= PAGE_BYTES_MAX) {
        return false;
    }
    char *bytes = NULL;
    size_t size = 0;
    upb_EncodeStatus status = upb_Encode(row, kind, 0, c->arena, &bytes, &size);
    ASSERT(status == kUpb_EncodeStatus_Ok && p->rows_left <= PAGE_SIZE_MAX);
    services__wire_bytes(&p->out, 1, slice_of(bytes, size));
    p->rows_left--;
    return true;
}

void services__page_reply(struct page *p, struct call *c, enum page_kind kind,
                          const struct slice *last_key)
{
    if (last_key != NULL) {
        struct bytes token = {0};
        services__page_token_encode(kind, *last_key, &token);
        services__wire_bytes(&p->out, 2, bytes_slice(&token));
        bytes_deinit(&token);
    }
    services__wire_varint(&p->out, 3, registry_view_revision(c->view));
    services__call_reply_bytes(c, &p->out);
    bytes_deinit(&p->out);
}

struct buf *services__builder_begin(struct bytes *out, size_t capacity)
{
    struct buf *b = buf_new(capacity);
    *out = (struct bytes){.data = b->data, .capacity = capacity};
    return b;
}

struct bufslice services__builder_end(struct buf *b, const struct bytes *out)
{
    ASSERT(out->data == b->data); /* the buffer was large enough */
    return (struct bufslice){b, slice_of(b->data, out->size)};
}

void services__wire_bytes(struct bytes *out, uint32_t field, struct slice value)
{
    bytes_append_varint(out, field << 3 | 2);
    bytes_append_varint(out, value.size);
    bytes_append_slice(out, value);
}

void services__wire_varint(struct bytes *out, uint32_t field, uint64_t value)
{
    if (value != 0) { /* proto3 omits zero */
        bytes_append_varint(out, field << 3);
        bytes_append_varint(out, value);
    }
}
