#include "base/uuid.h"

#include <bsd/stdlib.h>
#include <string.h>

#include "base/hash.h"

static const char hex_digits[] = "0123456789abcdef";

struct uuid uuid_random(void)
{
    struct uuid u;
    arc4random_buf(u.bytes, sizeof u.bytes);
    u.bytes[6] = (uint8_t)((u.bytes[6] & 0x0f) | 0x40); /* version 4 */
    u.bytes[8] = (uint8_t)((u.bytes[8] & 0x3f) | 0x80); /* variant of RFC 4122 */
    return u;
}

bool uuid_is_nil(const struct uuid *u)
{
    static const struct uuid nil;
    return uuid_equal(u, &nil);
}

bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return uuid_compare(a, b) == 0;
}

int uuid_compare(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

uint64_t uuid_hash(const struct uuid *u)
{
    return hash64(u->bytes, sizeof u->bytes, 0);
}

/* The text has a hyphen in front of these bytes: 8-4-4-4-12 digits. */
static bool hyphen_before(unsigned byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

void uuid_format(const struct uuid *u, char ret_text[UUID_TEXT_BYTES])
{
    char *p = ret_text;
    for (unsigned i = 0; i < sizeof u->bytes; i++) {
        if (hyphen_before(i)) {
            *p++ = '-';
        }
        *p++ = hex_digits[u->bytes[i] >> 4];
        *p++ = hex_digits[u->bytes[i] & 0x0f];
    }
    *p = '\0';
}

/* -1 for anything but a lower-case digit: one identifier has one text, so texts can be compared. */
static int digit_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return -1;
}

bool uuid_parse(struct slice text, struct uuid *ret)
{
    struct uuid u = {0};
    if (text.size != UUID_TEXT_BYTES - 1) {
        return false;
    }
    const char *p = (const char *)text.data;
    for (unsigned i = 0; i < sizeof u.bytes; i++) {
        if (hyphen_before(i) && *p++ != '-') {
            return false;
        }
        int high = digit_value(*p++);
        int low = digit_value(*p++);
        if (high < 0 || low < 0) {
            return false;
        }
        u.bytes[i] = (uint8_t)(high << 4 | low);
    }
    if (uuid_is_nil(&u)) {
        return false;
    }
    *ret = u;
    return true;
}
