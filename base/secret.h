/* Secrets: random bytes that nobody can guess, hashes from which nobody finds them again, and codes
 * that only those who have a key can make. */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define SECRET_HASH_BYTES 32

void secret_random(void *ret, size_t size);
/* SHA-256. */
void secret_hash(struct slice text, uint8_t ret[static SECRET_HASH_BYTES]);
/* HMAC-SHA-256. */
void secret_mac(struct slice key, struct slice text, uint8_t ret[static SECRET_HASH_BYTES]);
/* Takes as long wherever they differ. */
bool secret_equal(struct slice a, struct slice b);

#endif
