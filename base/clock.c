/* The system's clock. CLOCK_BOOTTIME goes on while the machine is suspended, so that a host which
 * slept through an election knows that it did. */
#include "base/clock.h"

#include <time.h>

#include "base/assert.h"

static struct timespec read_clock(clockid_t id)
{
    struct timespec t = {0};
    int rc = clock_gettime(id, &t);
    ASSERT(rc == 0);
    return t;
}

static uint64_t system_monotonic_ns(const struct clock *c)
{
    (void)c;
    struct timespec t = read_clock(CLOCK_BOOTTIME);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t system_wall_ms(const struct clock *c)
{
    (void)c;
    struct timespec t = read_clock(CLOCK_REALTIME);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / NS_PER_MS;
}

const struct clock clock_system = {
    .monotonic_ns = system_monotonic_ns,
    .wall_ms = system_wall_ms,
};
