/* A clock whose wall clock is ahead of another one's, or behind. */
#ifndef BASE_TEST_SHIFTED_CLOCK_H
#define BASE_TEST_SHIFTED_CLOCK_H

#include "base/clock.h"

struct shifted_clock {
    struct clock clock;
    const struct clock *of;
    int64_t ahead_ms; /* may change at any time */
};

void shifted_clock_init(struct shifted_clock *s, const struct clock *of, int64_t ahead_ms);

#endif
