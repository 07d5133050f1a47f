#include "base/hash.h"

#include <stdlib.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/buf.h"

struct hash_state {
    XXH3_state_t *xxh; /* its own allocation: it wants 64-byte alignment */
};

uint64_t hash64(const void *data, size_t size, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, size, seed);
}

struct hash_state *hash_state_new(uint64_t seed)
{
    struct hash_state *h = xcalloc(1, sizeof *h);
    h->xxh = XXH3_createState();
    ASSERT(h->xxh != NULL);
    XXH_errorcode rc = XXH3_64bits_reset_withSeed(h->xxh, seed);
    ASSERT(rc == XXH_OK);
    return h;
}

void hash_state_update(struct hash_state *h, const void *data, size_t size)
{
    if (size == 0) {
        return; /* data may be NULL, which the library refuses */
    }
    XXH_errorcode rc = XXH3_64bits_update(h->xxh, data, size);
    ASSERT(rc == XXH_OK);
}

uint64_t hash_state_digest(const struct hash_state *h)
{
    return XXH3_64bits_digest(h->xxh);
}

void hash_state_free(struct hash_state *h)
{
    if (h == NULL) {
        return;
    }
    XXH3_freeState(h->xxh);
    free(h);
}
