/* The threaded executor: one thread per worker, which sleeps on a condition variable when idle.
 *
 * Waking a thread costs 10 to 30 microseconds, more than most turns. So a poster signals only if
 * the worker sleeps and has not been signalled. It signals after unlocking: the woken thread may
 * take over the core at once, and would only block on the mutex. */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/worker_internal.h"

/* Deadlines are in CLOCK_BOOTTIME (or the time of the executor's clock), which a condition variable
 * cannot wait for. So add the remaining time to CLOCK_MONOTONIC. The two clocks differ only by the
 * time that the machine is suspended; a worker then wakes late by at most the remaining time. Limit
 * a sleep to an hour, so that no deadline overflows; the caller checks the clock again. */
#define SLEEP_NS_MAX (UINT64_C(3600) * NS_PER_S)

/* A background thread gets about a tenth of the CPU time of a competing thread. */
#define BACKGROUND_NICE 10

static struct timespec monotonic_after(uint64_t delay_ns)
{
    struct timespec t = {0};
    int rc = clock_gettime(CLOCK_MONOTONIC, &t);
    ASSERT(rc == 0);
    if (delay_ns > SLEEP_NS_MAX) {
        delay_ns = SLEEP_NS_MAX;
    }
    uint64_t ns = (uint64_t)t.tv_nsec + delay_ns;
    t.tv_sec += (time_t)(ns / NS_PER_S);
    t.tv_nsec = (long)(ns % NS_PER_S);
    return t;
}

/* Wait for a message, for the stop, or until the deadline. The caller holds the mutex. */
static void sleep_until_wanted(struct worker *w)
{
    while (w->mailbox.head == NULL && !w->stopped) {
        w->sleeping = true;
        if (w->deadline_ns == CLOCK_NEVER) {
            pthread_cond_wait(&w->wake, &w->mutex);
        } else {
            uint64_t now_ns = clock_now(w->ex->clock);
            if (now_ns >= w->deadline_ns) {
                break;
            }
            struct timespec until = monotonic_after(w->deadline_ns - now_ns);
            pthread_cond_timedwait(&w->wake, &w->mutex, &until);
        }
    }
    w->sleeping = false;
}

static void *run(void *arg)
{
    struct worker *w = arg;
    bool last = false;
    if (w->background) { /* affects this thread only; a failure only costs time */
        (void)setpriority(PRIO_PROCESS, 0, BACKGROUND_NICE);
    }
    while (!last) {
        struct msgq batch;
        pthread_mutex_lock(&w->mutex);
        sleep_until_wanted(w);
        /* Nothing can be posted once `stopped` is set, so this batch is the last one. */
        last = w->stopped;
        worker__take(w, &batch);
        pthread_mutex_unlock(&w->mutex);
        if (!last || batch.head != NULL) {
            worker__turn(w, &batch);
        }
    }
    return NULL;
}

static void wake_late(struct cork_item *item);

static void threaded_start(struct worker *w)
{
    w->late_wake.fn = wake_late;
    pthread_condattr_t attributes;
    int rc = pthread_condattr_init(&attributes);
    ASSERT(rc == 0);
    rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    ASSERT(rc == 0);
    rc = pthread_cond_init(&w->wake, &attributes);
    ASSERT(rc == 0);
    pthread_condattr_destroy(&attributes);

    /* Block all signals in the thread: they belong to the threads of the embedding program. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&w->thread, NULL, run, w);
    ASSERT(rc == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_setname_np(w->thread, w->name); /* for debuggers and process listings */
}

/* The posted message may cause the worker to be freed. threaded_release therefore waits for
 * signallers. */
static void threaded_unlock_and_wake(struct worker *w)
{
    bool corked = cork_is_on();
    if (!w->sleeping || (corked && w->wake_promised)) {
        pthread_mutex_unlock(&w->mutex);
        return;
    }
    atomic_fetch_add_explicit(&w->signallers, 1, memory_order_relaxed);
    if (corked) {
        w->wake_promised = true;
        pthread_mutex_unlock(&w->mutex);
        (void)cork_add(&w->late_wake);
        return;
    }
    w->sleeping = false;
    atomic_fetch_add_explicit(&w->signals, 1, memory_order_relaxed);
    pthread_mutex_unlock(&w->mutex);
    pthread_cond_signal(&w->wake);
    atomic_fetch_sub_explicit(&w->signallers, 1, memory_order_release);
}

static void wake_late(struct cork_item *item)
{
    struct worker *w = CONTAINER_OF(item, struct worker, late_wake);
    pthread_mutex_lock(&w->mutex);
    w->wake_promised = false;
    bool asleep = w->sleeping;
    w->sleeping = false;
    atomic_fetch_add_explicit(&w->signals, asleep, memory_order_relaxed);
    pthread_mutex_unlock(&w->mutex);
    if (asleep) {
        pthread_cond_signal(&w->wake);
    }
    atomic_fetch_sub_explicit(&w->signallers, 1, memory_order_release);
}

static void threaded_finish(struct worker *w)
{
    if (w->joined) {
        return;
    }
    ASSERT(!pthread_equal(w->thread, pthread_self()) && !cork_is_on());
    int rc = pthread_join(w->thread, NULL);
    ASSERT(rc == 0);
    w->joined = true;
}

static void threaded_release(struct worker *w)
{
    ASSERT(w->joined);
    while (atomic_load_explicit(&w->signallers, memory_order_acquire) > 0) {
        sched_yield();
    }
    pthread_cond_destroy(&w->wake);
}

static void threaded_free(struct executor *ex)
{
    free(ex);
}

static const struct executor_ops threaded_ops = {
    .threads = true,
    .start = threaded_start,
    .unlock_and_wake = threaded_unlock_and_wake,
    .finish = threaded_finish,
    .release = threaded_release,
    .free = threaded_free,
};

struct executor *executor_threaded_new(const struct clock *clock)
{
    struct executor *ex = xcalloc(1, sizeof *ex);
    ex->ops = &threaded_ops;
    ex->clock = clock;
    return ex;
}
