/* Time through a vtable, so that the simulator can control it. Monotonic time is CLOCK_BOOTTIME in
 * nanoseconds; wall time is only shown to people or stored in events. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)
#define CLOCK_NEVER UINT64_MAX

struct clock {
    uint64_t (*monotonic_ns)(const struct clock *c);
    uint64_t (*wall_ms)(const struct clock *c); /* since the Unix epoch */
};

extern const struct clock clock_system;

static inline uint64_t clock_now(const struct clock *c)
{
    return c->monotonic_ns(c);
}

/* A condition for clock_cond_wait. */
void clock_cond_init(pthread_cond_t *cond);
/* Wait for a signal or until clock_system reaches `deadline_ns` (CLOCK_NEVER: no limit). The mutex
 * is held. False at the deadline; true may be spurious, so call it in a loop. */
bool clock_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline_ns);

#endif
