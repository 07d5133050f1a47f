/* Is this valid UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing past U+10FFFF)? */
#ifndef AGENT_SERVICES_UTF8_H
#define AGENT_SERVICES_UTF8_H

#include <stdbool.h>

#include "base/buf.h"

static inline bool utf8_valid(struct slice text)
{
    size_t i = 0;
    while (i < text.size) {
        uint8_t b = text.data[i++];
        if (b < 0x80) {
            continue;
        }
        size_t more = b >= 0xf0 ? 3 : b >= 0xe0 ? 2 : 1;
        if (b < 0xc2 || b > 0xf4 || text.size - i < more) {
            return false;
        }
        uint8_t low = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
        uint8_t high = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
        if (text.data[i] < low || text.data[i] > high) {
            return false;
        }
        for (size_t k = 1; k < more; k++) {
            if ((text.data[i + k] & 0xc0) != 0x80) {
                return false;
            }
        }
        i += more;
    }
    return true;
}

#endif
