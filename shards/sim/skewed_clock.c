#include "shards/sim/skewed_clock.h"

#include "base/clock.h"

uint64_t skewed_clock_ns(const struct skewed_clock *c, uint64_t now_ns)
{
    uint64_t passed = now_ns - c->at_ns;
    if (c->rate_ppm != SKEWED_CLOCK_EXACT_PPM) {
        passed = (uint64_t)((unsigned __int128)passed * c->rate_ppm / SKEWED_CLOCK_EXACT_PPM);
    }
    return c->shown_ns + passed;
}

uint64_t skewed_clock_when(const struct skewed_clock *c, uint64_t clock_ns)
{
    if (clock_ns == CLOCK_NEVER) {
        return CLOCK_NEVER;
    }
    if (clock_ns <= c->shown_ns) {
        return c->at_ns;
    }
    uint64_t passed = clock_ns - c->shown_ns;
    if (c->rate_ppm != SKEWED_CLOCK_EXACT_PPM) {
        passed = (uint64_t)((unsigned __int128)passed * SKEWED_CLOCK_EXACT_PPM / c->rate_ppm) + 1;
    }
    return c->at_ns + passed;
}

void skewed_clock_set_rate(struct skewed_clock *c, uint64_t now_ns, uint64_t rate_ppm)
{
    c->shown_ns = skewed_clock_ns(c, now_ns);
    c->at_ns = now_ns;
    c->rate_ppm = rate_ppm;
}
