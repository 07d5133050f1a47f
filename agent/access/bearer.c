/* See bearer.h. */
#include "agent/access/bearer.h"

#include <string.h>

#include "base/assert.h"

#define PREFIX "thole_"
#define PREFIX_BYTES (sizeof PREFIX - 1)
#define SECRET_BYTES 32

_Static_assert(BEARER_BYTES == PREFIX_BYTES + BEARER_ID_BYTES + 1 + 2 * SECRET_BYTES, "its parts");

static void put_hex(const uint8_t *bytes, size_t n, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = digits[bytes[i] >> 4];
        ret[2 * i + 1] = digits[bytes[i] & 15];
    }
}

void bearer_new(char ret_text[static BEARER_BYTES + 1], struct bearer *ret)
{
    uint8_t bytes[BEARER_ID_BYTES / 2 + SECRET_BYTES];
    secret_random(bytes, sizeof bytes);
    memcpy(ret_text, PREFIX, PREFIX_BYTES);
    put_hex(bytes, BEARER_ID_BYTES / 2, ret_text + PREFIX_BYTES);
    ret_text[PREFIX_BYTES + BEARER_ID_BYTES] = '_';
    put_hex(bytes + BEARER_ID_BYTES / 2, SECRET_BYTES,
            ret_text + PREFIX_BYTES + BEARER_ID_BYTES + 1);
    ret_text[BEARER_BYTES] = '\0';
    bool ok = bearer_parse(slice_of(ret_text, BEARER_BYTES), ret);
    ASSERT(ok);
}

static bool is_hex(const uint8_t *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool digit = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
        if (!digit) {
            return false;
        }
    }
    return true;
}

bool bearer_parse(struct slice text, struct bearer *ret)
{
    if (text.size != BEARER_BYTES || memcmp(text.data, PREFIX, PREFIX_BYTES) != 0 ||
        text.data[PREFIX_BYTES + BEARER_ID_BYTES] != '_' ||
        !is_hex(text.data + PREFIX_BYTES, BEARER_ID_BYTES) ||
        !is_hex(text.data + PREFIX_BYTES + BEARER_ID_BYTES + 1, (size_t)2 * SECRET_BYTES)) {
        return false;
    }
    memcpy(ret->id, text.data + PREFIX_BYTES, BEARER_ID_BYTES);
    ret->id[BEARER_ID_BYTES] = '\0';
    secret_hash(text, ret->hash);
    return true;
}

bool bearer_of_authorization(struct slice value, struct slice *ret_text)
{
    static const char scheme[] = "bearer ";
    const size_t n = sizeof scheme - 1;
    if (value.size <= n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) { /* the scheme's case does not matter: RFC 9110 */
        uint8_t c = value.data[i];
        if ((c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c) != scheme[i]) {
            return false;
        }
    }
    *ret_text = slice_of(value.data + n, value.size - n);
    return true;
}
