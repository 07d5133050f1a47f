/* The clock of a simulated host: it may run fast or slow against virtual time. */
#ifndef SHARDS_SIM_SKEWED_CLOCK_H
#define SHARDS_SIM_SKEWED_CLOCK_H

#include <stdint.h>

#define SKEWED_CLOCK_EXACT_PPM 1000000u

struct skewed_clock {
    uint64_t shown_ns, at_ns; /* what it showed at a moment of virtual time */
    uint64_t rate_ppm;        /* its speed from then on */
};

/* What it shows at this virtual time. */
uint64_t skewed_clock_ns(const struct skewed_clock *c, uint64_t now_ns);
/* The first virtual time at which it shows at least `clock_ns`. CLOCK_NEVER stays that. */
uint64_t skewed_clock_when(const struct skewed_clock *c, uint64_t clock_ns);
void skewed_clock_set_rate(struct skewed_clock *c, uint64_t now_ns, uint64_t rate_ppm);

#endif
