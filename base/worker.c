/* Mailboxes: the part that all executors share. */
#include "base/worker.h"

#include <bsd/string.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/log_internal.h"
#include "base/worker_internal.h"

/* The worker whose turn runs on this thread; NULL outside of turns. */
static _Thread_local const struct worker *current;

void msgq_push(struct msgq *q, struct worker_msg *m)
{
    m->next = NULL;
    if (q->tail != NULL) {
        q->tail->next = m;
    } else {
        q->head = m;
    }
    q->tail = m;
    q->count++;
}

struct worker_msg *msgq_pop(struct msgq *q)
{
    struct worker_msg *m = q->head;
    if (m == NULL) {
        return NULL;
    }
    q->head = m->next;
    if (q->head == NULL) {
        q->tail = NULL;
    }
    q->count--;
    m->next = NULL;
    return m;
}

void msgq_concat(struct msgq *to, struct msgq *from)
{
    if (from->head == NULL) {
        return;
    }
    if (to->tail != NULL) {
        to->tail->next = from->head;
    } else {
        to->head = from->head;
    }
    to->tail = from->tail;
    to->count += from->count;
    *from = (struct msgq){0};
}

/* Critical sections are a few instructions, while a sleep on the mutex costs a wake-up of another
 * core: so contenders spin for a moment first. */
static void mutex_init(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;
    int rc = pthread_mutexattr_init(&attributes);
    ASSERT(rc == 0);
    rc = pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
    ASSERT(rc == 0);
    rc = pthread_mutex_init(mutex, &attributes);
    ASSERT(rc == 0);
    pthread_mutexattr_destroy(&attributes);
}

static struct worker *start(struct executor *ex, const char *name, size_t capacity,
                            worker_turn_fn turn, void *ctx, bool background)
{
    struct worker *w = xcalloc(1, sizeof *w);
    size_t size = strlcpy(w->name, name, sizeof w->name);
    ASSERT(size < sizeof w->name && turn != NULL && capacity > 0);
    w->ex = ex;
    w->background = background;
    w->capacity = capacity;
    w->turn = turn;
    w->ctx = ctx;
    w->deadline_ns = CLOCK_NEVER;
    mutex_init(&w->mutex);
    atomic_fetch_add_explicit(&ex->workers, 1, memory_order_relaxed);
    ex->ops->start(w);
    return w;
}

struct worker *worker_new(struct executor *ex, const char *name, size_t capacity,
                          worker_turn_fn turn, void *ctx)
{
    return start(ex, name, capacity, turn, ctx, false);
}

struct worker *worker_new_background(struct executor *ex, const char *name, size_t capacity,
                                     worker_turn_fn turn, void *ctx)
{
    return start(ex, name, capacity, turn, ctx, true);
}

bool worker_post(struct worker *w, struct worker_msg *m)
{
    pthread_mutex_lock(&w->mutex);
    if (w->stopped || w->counted >= w->capacity) {
        pthread_mutex_unlock(&w->mutex);
        return false;
    }
    w->counted++;
    msgq_push(&w->mailbox, m);
    w->ex->ops->unlock_and_wake(w);
    return true;
}

bool worker_post_internal(struct worker *w, struct worker_msg *m)
{
    struct msgq q = {0};
    msgq_push(&q, m);
    return worker_post_internal_q(w, &q);
}

bool worker_post_internal_q(struct worker *w, struct msgq *q)
{
    pthread_mutex_lock(&w->mutex);
    if (w->stopped) {
        pthread_mutex_unlock(&w->mutex);
        return false;
    }
    if (q->head == NULL) {
        pthread_mutex_unlock(&w->mutex);
        return true;
    }
    msgq_concat(&w->mailbox, q);
    w->ex->ops->unlock_and_wake(w);
    return true;
}

bool worker_is_current(const struct worker *w)
{
    return current == w;
}

size_t worker_depth(const struct worker *w)
{
    /* const does not cover the mutex. */
    pthread_mutex_t *mutex = (pthread_mutex_t *)(uintptr_t)&w->mutex;
    pthread_mutex_lock(mutex);
    size_t depth = w->mailbox.count;
    pthread_mutex_unlock(mutex);
    return depth;
}

void worker_stop(struct worker *w)
{
    pthread_mutex_lock(&w->mutex);
    w->stopped = true;
    w->ex->ops->unlock_and_wake(w);
    w->ex->ops->finish(w);
}

void worker_free(struct worker *w)
{
    if (w == NULL) {
        return;
    }
    ASSERT(w->stopped && w->mailbox.head == NULL);
    w->ex->ops->release(w);
    pthread_mutex_destroy(&w->mutex);
    atomic_fetch_sub_explicit(&w->ex->workers, 1, memory_order_relaxed);
    free(w);
}

void worker__take(struct worker *w, struct msgq *batch)
{
    *batch = w->mailbox;
    w->mailbox = (struct msgq){0};
    w->counted = 0;
}

const struct worker *worker_assume(const struct worker *w)
{
    const struct worker *before = current;
    current = w;
    return before;
}

void worker__turn(struct worker *w, struct msgq *batch)
{
    /* The manual executor can run a turn within a turn. */
    const struct worker *outer = worker_assume(w);
    const char *before = log__thread(w->name);
    const char *host_before = log_context_host(w->ex->host);
    w->deadline_ns = w->turn(w->ctx, batch, clock_now(w->ex->clock));
    (void)worker_assume(outer);
    log_context(0, 0);
    log_context_host(host_before);
    log__thread(before);
}

void executor_free(struct executor *ex)
{
    if (ex == NULL) {
        return;
    }
    ASSERT(atomic_load_explicit(&ex->workers, memory_order_relaxed) == 0);
    free(ex->host);
    ex->ops->free(ex);
}

void executor_set_host(struct executor *ex, const char *name)
{
    ASSERT(atomic_load_explicit(&ex->workers, memory_order_relaxed) == 0);
    free(ex->host);
    ex->host = xstrdup(name);
}

const struct clock *executor_clock(const struct executor *ex)
{
    return ex->clock;
}

bool executor_may_wait(const struct executor *ex)
{
    return ex->ops->threads;
}
