/* xoshiro256** 1.0 and splitmix64 (Blackman and Vigna, public domain reference code). */
#include "base/rand.h"

#include "base/assert.h"

static uint64_t splitmix64(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, unsigned n)
{
    return (x << n) | (x >> (64 - n));
}

void rand_seed(struct rand *r, uint64_t seed)
{
    /* splitmix64 is a bijection of a counter: at most one of four outputs is 0, never all. */
    for (int i = 0; i < 4; i++) {
        r->s[i] = splitmix64(&seed);
    }
}

uint64_t rand_u64(struct rand *r)
{
    uint64_t *s = r->s;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* Lemire, "Fast Random Integer Generation in an Interval" (2019): the high half of a 128-bit
 * product, rejecting the few low halves that would favour some results. */
uint64_t rand_below(struct rand *r, uint64_t n)
{
    ASSERT(n > 0);
    unsigned __int128 product = (unsigned __int128)rand_u64(r) * n;
    if ((uint64_t)product < n) {
        uint64_t threshold = (0 - n) % n; /* 2^64 mod n */
        while ((uint64_t)product < threshold) {
            product = (unsigned __int128)rand_u64(r) * n;
        }
    }
    return (uint64_t)(product >> 64);
}

uint64_t rand_between(struct rand *r, uint64_t lo, uint64_t hi)
{
    ASSERT(lo <= hi);
    uint64_t span = hi - lo;
    return span == UINT64_MAX ? rand_u64(r) : lo + rand_below(r, span + 1);
}

double rand_unit(struct rand *r)
{
    return (double)(rand_u64(r) >> 11) * 0x1.0p-53; /* 53 bits: every result is exact */
}

bool rand_chance(struct rand *r, double p)
{
    return rand_unit(r) < p;
}
