/* Deterministic pseudo-random numbers (xoshiro256**, seeded by splitmix64; Blackman and Vigna).
 * Not for secrets: identifiers come from base/uuid.h. */
#ifndef BASE_RAND_H
#define BASE_RAND_H

#include <stdbool.h>
#include <stdint.h>

struct rand {
    uint64_t s[4];
};

void rand_seed(struct rand *r, uint64_t seed);
uint64_t rand_u64(struct rand *r);
uint64_t rand_below(struct rand *r, uint64_t n);                 /* uniform in [0, n), n > 0 */
uint64_t rand_between(struct rand *r, uint64_t lo, uint64_t hi); /* uniform in [lo, hi] */
double rand_unit(struct rand *r);                                /* uniform in [0, 1) */
bool rand_chance(struct rand *r, double p);

#endif
