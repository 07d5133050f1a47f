/* Threads of simulated hosts. Each thread is a fiber with its own stack. It runs until it waits:
 * for a condition, for a time, or for another fiber to end. At link time, this file replaces the C
 * library's calls that create and block threads, and those that read the clock. The replacements
 * apply only to code that runs in a life; all other code calls the C library. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "agent/sim/world.h"
#include "base/assert.h"
#include "base/buf.h"

#define STACK_BYTES ((size_t)512 << 10)

struct fiber {
    struct fiber *next;
    struct life *life;
    ucontext_t context;
    void *stack;
    const char *name;
    void *(*main)(void *ctx); /* the start routine of pthread_create; or: */
    world_fn fn;
    void *ctx;
    void *result;
    bool done, waiting, woken;
    uint64_t waits;             /* number of waits, so that a timeout recognizes an earlier wait */
    const pthread_cond_t *cond; /* the condition that the fiber waits for */
    struct fiber *joiner;
};

static struct fiber *all; /* fibers that have not ended, newest first */
static struct fiber *here;
static ucontext_t scheduler;

struct fiber *fiber__here(void)
{
    return here;
}

static void main_of_fiber(void)
{
    struct fiber *f = here;
    if (f->main != NULL) {
        f->result = f->main(f->ctx);
    } else {
        f->fn(f->ctx);
    }
    f->done = true;
    if (f->joiner != NULL) {
        fiber__wake(f->joiner);
    }
    swapcontext(&f->context, &scheduler);
}

static void remove_fiber(struct fiber *f)
{
    struct fiber **at = &all;
    while (*at != f) {
        at = &(*at)->next;
    }
    *at = f->next;
    munmap(f->stack, STACK_BYTES);
    f->stack = NULL;
}

static void resume(void *ctx)
{
    struct fiber *f = ctx;
    ASSERT(here == NULL && !f->done);
    here = f;
    swapcontext(&scheduler, &f->context);
    here = NULL;
    if (f->done) {
        remove_fiber(f);
    }
}

static struct fiber *start(struct life *life, const char *name)
{
    struct fiber *f = xcalloc(1, sizeof *f);
    f->life = life;
    f->name = name;
    f->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(f->stack != MAP_FAILED);
    int rc = getcontext(&f->context);
    ASSERT(rc == 0);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->context.uc_link = NULL;
    makecontext(&f->context, main_of_fiber, 0);
    f->next = all;
    all = f;
    world__at(world__now_ns(), life, resume, f);
    return f;
}

void fiber__start(struct life *life, const char *name, world_fn fn, void *ctx)
{
    struct fiber *f = start(life, name);
    f->fn = fn;
    f->ctx = ctx;
}

/* ---- Waiting --------------------------------------------------------------------------------- */

struct timeout {
    struct fiber *fiber;
    uint64_t waits;
};

static void on_timeout(void *ctx)
{
    struct timeout *t = ctx;
    struct fiber *f = t->fiber;
    bool meant = f->waiting && f->waits == t->waits;
    free(t);
    if (meant) {
        f->waiting = false;
        resume(f);
    }
}

bool fiber__wait(uint64_t until_ns)
{
    struct fiber *f = here;
    ASSERT(f != NULL && "only threads may wait");
    f->waiting = true;
    f->woken = false;
    f->waits++;
    if (until_ns != CLOCK_NEVER) {
        struct timeout *t = xmalloc(sizeof *t);
        *t = (struct timeout){f, f->waits};
        world__at(until_ns, f->life, on_timeout, t);
    }
    swapcontext(&f->context, &scheduler);
    f->cond = NULL;
    return f->woken;
}

void fiber__wake(struct fiber *f)
{
    if (!f->waiting) {
        return;
    }
    f->waiting = false;
    f->woken = true;
    uint64_t delay = rand_below(world__rand(), 100 * NS_PER_US);
    world__at(world__now_ns() + delay, f->life, resume, f);
}

/* ---- Replacements for the C library ---------------------------------------------------------- */

static uint64_t world_time(const struct timespec *t)
{
    return host__world_ns(life__now->host, (uint64_t)t->tv_sec * NS_PER_S + (uint64_t)t->tv_nsec);
}

int __real_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret)
{
    if (life__now == NULL ||
        (id != CLOCK_MONOTONIC && id != CLOCK_BOOTTIME && id != CLOCK_REALTIME)) {
        return __real_clock_gettime(id, ret);
    }
    uint64_t ns = host__clock_ns(life__now->host);
    if (id == CLOCK_REALTIME) {
        ns += UINT64_C(1767225600) * NS_PER_S +
              (uint64_t)(life__now->host->wall_ms * (int64_t)NS_PER_MS);
    }
    ret->tv_sec = (time_t)(ns / NS_PER_S);
    ret->tv_nsec = (long)(ns % NS_PER_S);
    return 0;
}

int __real_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *ctx);
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *ctx);
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *ctx)
{
    if (life__now == NULL) {
        return __real_pthread_create(ret, attr, fn, ctx);
    }
    struct fiber *f = start(life__now, "thread");
    f->main = fn;
    f->ctx = ctx;
    *ret = (pthread_t)(uintptr_t)f;
    return 0;
}

int __real_pthread_join(pthread_t thread, void **ret);
int __wrap_pthread_join(pthread_t thread, void **ret);
int __wrap_pthread_join(pthread_t thread, void **ret)
{
    if (life__now == NULL) {
        return __real_pthread_join(thread, ret);
    }
    struct fiber *f = (struct fiber *)(uintptr_t)thread; /* still allocated after its end */
    while (!f->done) {
        f->joiner = here;
        (void)fiber__wait(CLOCK_NEVER);
    }
    if (ret != NULL) {
        *ret = f->result;
    }
    return 0;
}

int __real_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    if (life__now == NULL) {
        return __real_pthread_cond_wait(cond, mutex);
    }
    ASSERT(here != NULL && "only threads may wait");
    here->cond = cond;
    pthread_mutex_unlock(mutex);
    (void)fiber__wait(CLOCK_NEVER);
    pthread_mutex_lock(mutex);
    return 0;
}

int __real_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until)
{
    if (life__now == NULL) {
        return __real_pthread_cond_timedwait(cond, mutex, until);
    }
    ASSERT(here != NULL && "only threads may wait");
    here->cond = cond;
    pthread_mutex_unlock(mutex);
    bool woken = fiber__wait(world_time(until));
    pthread_mutex_lock(mutex);
    return woken ? 0 : ETIMEDOUT;
}

static void wake_waiting(const pthread_cond_t *cond, bool every)
{
    struct fiber *longest = NULL; /* the oldest waiting fiber */
    for (struct fiber *f = all; f != NULL; f = f->next) {
        if (!f->waiting || f->cond != cond) {
            continue;
        }
        if (every) {
            fiber__wake(f);
        }
        longest = f;
    }
    if (longest != NULL && !every) {
        fiber__wake(longest);
    }
}

int __real_pthread_cond_signal(pthread_cond_t *cond);
int __wrap_pthread_cond_signal(pthread_cond_t *cond);
int __wrap_pthread_cond_signal(pthread_cond_t *cond)
{
    if (life__now == NULL) {
        return __real_pthread_cond_signal(cond);
    }
    wake_waiting(cond, false);
    return 0;
}

int __real_pthread_cond_broadcast(pthread_cond_t *cond);
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond);
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond)
{
    if (life__now == NULL) {
        return __real_pthread_cond_broadcast(cond);
    }
    wake_waiting(cond, true);
    return 0;
}

int __real_nanosleep(const struct timespec *pause, struct timespec *rest);
int __wrap_nanosleep(const struct timespec *pause, struct timespec *rest);
int __wrap_nanosleep(const struct timespec *pause, struct timespec *rest)
{
    if (life__now == NULL) {
        return __real_nanosleep(pause, rest);
    }
    uint64_t ns = (uint64_t)pause->tv_sec * NS_PER_S + (uint64_t)pause->tv_nsec;
    (void)fiber__wait(host__world_ns(life__now->host, host__clock_ns(life__now->host) + ns));
    return 0;
}

/* Simulate the wait as a plain sleep: the awaited stop signal never arrives. */
int __real_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    if (life__now == NULL || here == NULL || timeout_ms <= 0) {
        return __real_poll(fds, n, timeout_ms);
    }
    uint64_t ns = (uint64_t)timeout_ms * NS_PER_MS;
    (void)fiber__wait(host__world_ns(life__now->host, host__clock_ns(life__now->host) + ns));
    return 0;
}

struct uuid __wrap_uuid_random(void);
struct uuid __wrap_uuid_random(void)
{
    struct uuid u;
    for (size_t i = 0; i < sizeof u.bytes; i += 8) {
        uint64_t word = rand_u64(world__rand());
        memcpy(u.bytes + i, &word, 8);
    }
    u.bytes[6] = (uint8_t)((u.bytes[6] & 0x0f) | 0x40);
    u.bytes[8] = (uint8_t)((u.bytes[8] & 0x3f) | 0x80);
    return u;
}
