/* See secret.h. */
#include "base/secret.h"

#include <bsd/stdlib.h>
#include <sha2.h>

void secret_random(void *ret, size_t size)
{
    arc4random_buf(ret, size);
}

void secret_hash(struct slice text, uint8_t ret[static SECRET_HASH_BYTES])
{
    SHA2_CTX c;
    SHA256Init(&c);
    SHA256Update(&c, text.data, text.size);
    SHA256Final(ret, &c);
}
