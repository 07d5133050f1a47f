/* The threaded executor: each worker is a thread that sleeps on a condition variable. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/worker_internal.h"

struct thread_worker {
    struct worker base;
    pthread_t thread;
    pthread_cond_t cond;
    bool sleeping; /* under base.mutex: only a sleeper needs a signal */
};

static struct thread_worker *thread_of(struct worker *w)
{
    return CONTAINER_OF(w, struct thread_worker, base);
}

/* Wait until something happens or `deadline_ns` of the executor's clock, which may be another clock than
 * the condition variable's: convert by the difference, so a suspended machine may wake late once. */
static void sleep_until(struct thread_worker *t, uint64_t deadline_ns)
{
    t->sleeping = true;
    if (deadline_ns == CLOCK_NEVER) {
        pthread_cond_wait(&t->cond, &t->base.mutex);
    } else {
        uint64_t now = clock_now(t->base.executor->clock);
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        uint64_t wait = deadline_ns > now ? deadline_ns - now : 0;
        if (wait > 3600 * NS_PER_S)
            wait = 3600 * NS_PER_S;
        uint64_t ns = (uint64_t)ts.tv_nsec + wait % NS_PER_S;
        ts.tv_sec += (time_t)(wait / NS_PER_S + ns / NS_PER_S);
        ts.tv_nsec = (long)(ns % NS_PER_S);
        pthread_cond_timedwait(&t->cond, &t->base.mutex, &ts);
    }
    t->sleeping = false;
}

static void *thread_main(void *arg)
{
    struct thread_worker *t = arg;
    struct worker *w = &t->base;
    pthread_setname_np(pthread_self(), w->name);
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->inbox.head && !w->stopping) {
            if (w->deadline_ns != CLOCK_NEVER &&
                clock_now(w->executor->clock) >= w->deadline_ns)
                break;
            sleep_until(t, w->deadline_ns);
        }
        if (!w->inbox.head && w->stopping)
            break;
        struct msgq batch = worker__take(w);
        pthread_mutex_unlock(&w->mutex);
        uint64_t deadline = w->turn(w->ctx, &batch, clock_now(w->executor->clock));
        pthread_mutex_lock(&w->mutex);
        w->deadline_ns = deadline;
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static struct worker *threaded_create(struct executor *ex)
{
    (void)ex;
    struct thread_worker *t = xcalloc(1, sizeof *t);
    return &t->base;
}

static void threaded_begin(struct worker *w)
{
    struct thread_worker *t = thread_of(w);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->cond, &attr);
    pthread_condattr_destroy(&attr);
    ASSERT(pthread_create(&t->thread, NULL, thread_main, t) == 0);
}

static void threaded_wake(struct worker *w)
{
    struct thread_worker *t = thread_of(w);
    if (t->sleeping)
        pthread_cond_signal(&t->cond);
}

static void threaded_join(struct worker *w)
{
    struct thread_worker *t = thread_of(w);
    ASSERT(!pthread_equal(pthread_self(), t->thread));
    pthread_join(t->thread, NULL);
}

static void threaded_destroy(struct worker *w)
{
    struct thread_worker *t = thread_of(w);
    worker__deinit(w);
    pthread_cond_destroy(&t->cond);
    free(t);
}

static void threaded_free(struct executor *ex)
{
    free(ex);
}

struct executor *executor_threaded_new(const struct clock *clock)
{
    struct executor *ex = xcalloc(1, sizeof *ex);
    *ex = (struct executor){
        .clock = clock,
        .create = threaded_create,
        .begin = threaded_begin,
        .wake = threaded_wake,
        .join = threaded_join,
        .destroy = threaded_destroy,
        .free = threaded_free,
    };
    pthread_mutex_init(&ex->mutex, NULL);
    return ex;
}
