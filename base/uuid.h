/* 128-bit identifiers (UUID version 4) for hosts and clusters. Text form is the usual 36
 * characters. */
#ifndef BASE_UUID_H
#define BASE_UUID_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define UUID_TEXT_BYTES 37 /* 36 characters and a NUL */

struct uuid {
    uint8_t bytes[16];
};

struct uuid uuid_random(void); /* from arc4random_buf */
bool uuid_is_nil(const struct uuid *u);
bool uuid_equal(const struct uuid *a, const struct uuid *b);
int uuid_compare(const struct uuid *a, const struct uuid *b);
uint64_t uuid_hash(const struct uuid *u); /* for maps; equal uuids have equal hashes */
void uuid_format(const struct uuid *u, char ret_text[UUID_TEXT_BYTES]);
/* False, with `ret` untouched, unless the text is exactly the canonical form: one id has one text.
 * The nil id is refused too: it names nothing, and stands for "none" where an id may be missing. */
bool uuid_parse(struct slice text, struct uuid *ret);

#endif
