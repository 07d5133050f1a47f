/* The mailbox, common to both executors. */
#include "base/worker.h"

#include <bsd/string.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/worker_internal.h"

void msgq_push(struct msgq *q, struct worker_msg *m)
{
    m->next = NULL;
    if (q->tail)
        q->tail->next = m;
    else
        q->head = m;
    q->tail = m;
    q->count++;
}

struct worker_msg *msgq_pop(struct msgq *q)
{
    struct worker_msg *m = q->head;
    if (!m)
        return NULL;
    q->head = m->next;
    if (!q->head)
        q->tail = NULL;
    q->count--;
    m->next = NULL;
    return m;
}

void msgq_concat(struct msgq *to, struct msgq *from)
{
    if (!from->head)
        return;
    if (to->tail)
        to->tail->next = from->head;
    else
        to->head = from->head;
    to->tail = from->tail;
    to->count += from->count;
    *from = (struct msgq){0};
}

struct msgq worker__take(struct worker *w)
{
    struct msgq batch = w->inbox;
    w->inbox = (struct msgq){0};
    w->counted = 0;
    return batch;
}

void worker__init(struct worker *w, struct executor *ex, const char *name, size_t capacity,
                  worker_turn_fn turn, void *ctx)
{
    w->executor = ex;
    w->turn = turn;
    w->ctx = ctx;
    w->capacity = capacity;
    w->deadline_ns = CLOCK_NEVER;
    strlcpy(w->name, name, sizeof w->name);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_mutex_lock(&ex->mutex);
    ex->worker_count++;
    pthread_mutex_unlock(&ex->mutex);
}

void worker__deinit(struct worker *w)
{
    struct executor *ex = w->executor;
    pthread_mutex_destroy(&w->mutex);
    pthread_mutex_lock(&ex->mutex);
    ex->worker_count--;
    pthread_mutex_unlock(&ex->mutex);
}

static bool post(struct worker *w, struct msgq *q, bool counted)
{
    pthread_mutex_lock(&w->mutex);
    bool ok = !w->stopping && (!counted || w->counted < w->capacity);
    if (ok && q->head) {
        bool was_empty = !w->inbox.head;
        w->counted += counted;
        msgq_concat(&w->inbox, q);
        /* A worker that has something waiting is awake, or was told already. */
        if (was_empty)
            w->executor->wake(w);
    }
    pthread_mutex_unlock(&w->mutex);
    return ok;
}

bool worker_post(struct worker *w, struct worker_msg *m)
{
    struct msgq q = {0};
    msgq_push(&q, m);
    return post(w, &q, true);
}

bool worker_post_internal(struct worker *w, struct worker_msg *m)
{
    struct msgq q = {0};
    msgq_push(&q, m);
    return post(w, &q, false);
}

bool worker_post_internal_q(struct worker *w, struct msgq *q)
{
    return post(w, q, false);
}

size_t worker_depth(const struct worker *w)
{
    struct worker *m = (struct worker *)(uintptr_t)w;
    pthread_mutex_lock(&m->mutex);
    size_t n = m->inbox.count;
    pthread_mutex_unlock(&m->mutex);
    return n;
}

void worker_stop(struct worker *w)
{
    pthread_mutex_lock(&w->mutex);
    bool first = !w->stopping;
    w->stopping = true;
    if (first)
        w->executor->wake(w);
    pthread_mutex_unlock(&w->mutex);
    if (first) {
        w->executor->join(w);
        w->joined = true;
    }
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    ASSERT(w->joined);
    ASSERT(!w->inbox.head);
    w->executor->destroy(w);
}

const struct clock *executor_clock(const struct executor *ex)
{
    return ex->clock;
}

void executor_free(struct executor *ex)
{
    if (!ex)
        return;
    ASSERT(ex->worker_count == 0);
    pthread_mutex_destroy(&ex->mutex);
    ex->free(ex);
}

struct worker *worker_new(struct executor *ex, const char *name, size_t capacity,
                          worker_turn_fn turn, void *ctx)
{
    struct worker *w = ex->create(ex);
    worker__init(w, ex, name, capacity, turn, ctx);
    ex->begin(w);
    return w;
}
