/* Secrets: random bytes that nobody can guess, and hashes from which nobody finds them again. */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include <stdint.h>

#include "base/buf.h"

#define SECRET_HASH_BYTES 32

void secret_random(void *ret, size_t size);
/* SHA-256. */
void secret_hash(struct slice text, uint8_t ret[static SECRET_HASH_BYTES]);

#endif
