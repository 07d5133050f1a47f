/* See secret.h. */
#include "base/secret.h"

#include <bsd/stdlib.h>
#include <sha2.h>
#include <string.h>

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

/* RFC 2104. */
void secret_mac(struct slice key, struct slice text, uint8_t ret[static SECRET_HASH_BYTES])
{
    uint8_t inner[SHA256_BLOCK_LENGTH] = {0}, outer[SHA256_BLOCK_LENGTH];
    SHA2_CTX c;

    if (key.size > sizeof inner) {
        secret_hash(key, inner);
    } else if (key.size > 0) {
        memcpy(inner, key.data, key.size);
    }
    for (size_t i = 0; i < sizeof inner; i++) {
        outer[i] = inner[i] ^ 0x5c;
        inner[i] ^= 0x36;
    }
    SHA256Init(&c);
    SHA256Update(&c, inner, sizeof inner);
    SHA256Update(&c, text.data, text.size);
    SHA256Final(ret, &c);
    SHA256Init(&c);
    SHA256Update(&c, outer, sizeof outer);
    SHA256Update(&c, ret, SECRET_HASH_BYTES);
    SHA256Final(ret, &c);
}

bool secret_equal(struct slice a, struct slice b)
{
    volatile uint8_t differs = 0;

    if (a.size != b.size) {
        return false;
    }
    for (size_t i = 0; i < a.size; i++) {
        differs = differs | (a.data[i] ^ b.data[i]);
    }
    return differs == 0;
}
