/* Text from people and other hosts: one check for each kind. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/limits.h"

/* Is this valid UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing past U+10FFFF)? */
bool text_is_utf8(struct slice text);

/* Keys and values of tags, machine types, request ids, addresses: `bytes_min` to LIMIT_NAME_BYTES
 * bytes of UTF-8 without control characters. NULL, or what is wrong: "is not valid UTF-8". */
const char *text_label_problem(struct slice text, size_t bytes_min);

/* Each byte that is no valid UTF-8, and each control character, becomes '?': for messages, which
 * quote what others sent. */
void text_clean(char *text);

#endif
