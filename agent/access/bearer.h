/* Bearer tokens: how a token is written, and what is kept of it.
 *
 *   thole_ID_SECRET    ID: 12, SECRET: 64 lower case hexadecimal digits
 *
 * The id finds the token's row. Only the hash of the whole text is kept. */
#ifndef AGENT_ACCESS_BEARER_H
#define AGENT_ACCESS_BEARER_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/secret.h"

#define BEARER_ID_BYTES 12
#define BEARER_BYTES (6 + BEARER_ID_BYTES + 1 + 64)

struct bearer {
    char id[BEARER_ID_BYTES + 1];
    uint8_t hash[SECRET_HASH_BYTES];
};

/* A new one: `ret_text` is the only copy of the secret. */
void bearer_new(char ret_text[static BEARER_BYTES + 1], struct bearer *ret);
/* A token. False: it is none. */
bool bearer_parse(struct slice text, struct bearer *ret);
/* The value of a call's "authorization". `ret_text` is the token in it; false: it has none, as it
 * is of another scheme, or malformed. */
bool bearer_of_authorization(struct slice value, struct slice *ret_text);

#endif
