#include "base/test/shifted_clock.h"

#include "base/worker.h"

static uint64_t monotonic(const struct clock *c)
{
    return clock_now(CONTAINER_OF(c, const struct shifted_clock, clock)->of);
}

static uint64_t wall(const struct clock *c)
{
    const struct shifted_clock *s = CONTAINER_OF(c, const struct shifted_clock, clock);
    return s->of->wall_ms(s->of) + (uint64_t)s->ahead_ms;
}

void shifted_clock_init(struct shifted_clock *s, const struct clock *of, int64_t ahead_ms)
{
    *s = (struct shifted_clock){{monotonic, wall}, of, ahead_ms};
}
