/* See text.h. */
#include "base/text.h"

#include <string.h>

#define STRING_OF(number) #number
#define NUMBER_TEXT(number) STRING_OF(number)

/* Bytes of the character at the front, 0 if there is none. Not empty. */
static size_t character(struct slice text)
{
    uint8_t b = text.data[0];
    if (b < 0x80) {
        return 1;
    }
    size_t more = b >= 0xf0 ? 3 : b >= 0xe0 ? 2 : 1;
    if (b < 0xc2 || b > 0xf4 || text.size - 1 < more) {
        return 0;
    }
    uint8_t low = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
    uint8_t high = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
    if (text.data[1] < low || text.data[1] > high) {
        return 0;
    }
    for (size_t k = 2; k <= more; k++) {
        if ((text.data[k] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return 1 + more;
}

/* U+0000 to U+001F, U+007F to U+009F. */
static bool is_control(const uint8_t *character)
{
    return character[0] < 0x20 || character[0] == 0x7f ||
           (character[0] == 0xc2 && character[1] < 0xa0);
}

bool text_is_utf8(struct slice text)
{
    while (text.size > 0) {
        size_t n = character(text);
        if (n == 0) {
            return false;
        }
        text = slice_of(text.data + n, text.size - n);
    }
    return true;
}

const char *text_label_problem(struct slice text, size_t bytes_min)
{
    if (text.size < bytes_min) {
        return "must not be empty";
    }
    if (text.size > LIMIT_NAME_BYTES) {
        return "has more than " NUMBER_TEXT(LIMIT_NAME_BYTES) " bytes";
    }
    while (text.size > 0) {
        size_t n = character(text);
        if (n == 0) {
            return "is not valid UTF-8";
        }
        if (is_control(text.data)) {
            return "has a control character";
        }
        text = slice_of(text.data + n, text.size - n);
    }
    return NULL;
}

void text_clean(char *text)
{
    struct slice left = slice_str(text);
    while (left.size > 0) {
        size_t n = character(left);
        if (n == 0 || is_control(left.data)) {
            size_t at = (size_t)((const char *)left.data - text);
            n = n == 0 ? 1 : n;
            memset(text + at, '?', n);
        }
        left = slice_of(left.data + n, left.size - n);
    }
}
