/* The system clock. CLOCK_BOOTTIME continues while the machine is suspended, so a host that was
 * suspended during an election notices it. */
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

/* ---- Conditions ------------------------------------------------------------------------------ */

/* Longest single sleep; a longer wait takes several. Keeps sums of times far from an overflow. */
#define SLEEP_NS_MAX (3600 * NS_PER_S)

void clock_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    int rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    ASSERT(rc == 0);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* Condition variables cannot wait for CLOCK_BOOTTIME, so the remaining time is waited by
 * CLOCK_MONOTONIC: after a suspend the wait ends late by at most the time that remained. */
bool clock_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    if (deadline_ns == CLOCK_NEVER) {
        pthread_cond_wait(cond, mutex);
        return true;
    }
    uint64_t now_ns = clock_now(&clock_system);
    if (now_ns >= deadline_ns) {
        return false;
    }
    uint64_t left_ns = deadline_ns - now_ns < SLEEP_NS_MAX ? deadline_ns - now_ns : SLEEP_NS_MAX;
    struct timespec until = read_clock(CLOCK_MONOTONIC);
    left_ns += (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(left_ns / NS_PER_S);
    until.tv_nsec = (long)(left_ns % NS_PER_S);
    (void)pthread_cond_timedwait(cond, mutex, &until);
    return true;
}
