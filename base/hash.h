/* Checksums of records and frames: XXH3, 64 bits. They detect damage, not malice. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash64(const void *data, size_t size, uint64_t seed);

/* A hash of a stream of pieces; equal to hash64 of their concatenation. */
struct hash_state;
struct hash_state *hash_state_new(uint64_t seed);
void hash_state_update(struct hash_state *h, const void *data, size_t size);
uint64_t hash_state_digest(const struct hash_state *h);
void hash_state_free(struct hash_state *h);

#endif
