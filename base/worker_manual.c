/* The manual executor: all workers on the caller's thread, in creation order, in virtual time. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/worker_internal.h"

struct manual_worker {
    struct worker base;
    struct manual_worker *next; /* in creation order */
    bool running;
};

struct manual_executor {
    struct executor base;
    struct clock clock;
    uint64_t now_ns;
    struct manual_worker *first, **last;
};

static struct manual_executor *manual_of(const struct executor *ex)
{
    return CONTAINER_OF((struct executor *)(uintptr_t)ex, struct manual_executor, base);
}

static struct manual_worker *worker_of(struct worker *w)
{
    return CONTAINER_OF(w, struct manual_worker, base);
}

static uint64_t virtual_now(const struct clock *c)
{
    return CONTAINER_OF((struct clock *)(uintptr_t)c, struct manual_executor, clock)->now_ns;
}

static uint64_t virtual_wall(const struct clock *c)
{
    return virtual_now(c) / NS_PER_MS;
}

static void run_turn(struct manual_worker *m)
{
    struct worker *w = &m->base;
    ASSERT(!m->running);
    m->running = true;
    struct msgq batch = worker__take(w);
    w->deadline_ns = w->turn(w->ctx, &batch, clock_now(w->executor->clock));
    m->running = false;
}

static bool is_due(const struct manual_worker *m, uint64_t now_ns)
{
    return m->base.inbox.head || m->base.deadline_ns <= now_ns;
}

size_t executor_manual_run(struct executor *ex, size_t max_turns)
{
    struct manual_executor *e = manual_of(ex);
    size_t turns = 0;
    for (bool any = true; any;) {
        any = false;
        for (struct manual_worker *m = e->first, *next; m; m = next) {
            bool due = is_due(m, e->now_ns);
            if (due) {
                ASSERT(turns++ < max_turns);
                run_turn(m);
                any = true;
            }
            next = m->next;
        }
    }
    return turns;
}

uint64_t executor_manual_next_deadline(const struct executor *ex)
{
    uint64_t next = CLOCK_NEVER;
    for (struct manual_worker *m = manual_of(ex)->first; m; m = m->next)
        if (m->base.deadline_ns < next)
            next = m->base.deadline_ns;
    return next;
}

void executor_manual_advance(struct executor *ex, uint64_t to_ns, size_t max_turns)
{
    struct manual_executor *e = manual_of(ex);
    ASSERT(to_ns >= e->now_ns);
    for (;;) {
        executor_manual_run(ex, max_turns);
        uint64_t next = executor_manual_next_deadline(ex);
        if (next > to_ns)
            break;
        e->now_ns = next > e->now_ns ? next : e->now_ns;
    }
    e->now_ns = to_ns;
}

static struct worker *manual_create(struct executor *ex)
{
    (void)ex;
    struct manual_worker *m = xcalloc(1, sizeof *m);
    return &m->base;
}

static void manual_begin(struct worker *w)
{
    struct manual_executor *e = manual_of(w->executor);
    struct manual_worker *m = worker_of(w);
    *e->last = m;
    e->last = &m->next;
}

static void manual_wake(struct worker *w)
{
    (void)w;
}

static void manual_join(struct worker *w)
{
    struct manual_worker *m = worker_of(w);
    while (w->inbox.head)
        run_turn(m);
    w->deadline_ns = CLOCK_NEVER;
}

static void manual_destroy(struct worker *w)
{
    struct manual_executor *e = manual_of(w->executor);
    struct manual_worker *m = worker_of(w), **at = &e->first;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    if (e->last == &m->next)
        e->last = at;
    worker__deinit(w);
    free(m);
}

static void manual_free(struct executor *ex)
{
    free(manual_of(ex));
}

struct executor *executor_manual_new(uint64_t start_ns)
{
    struct manual_executor *e = xcalloc(1, sizeof *e);
    e->now_ns = start_ns;
    e->clock = (struct clock){virtual_now, virtual_wall};
    e->last = &e->first;
    e->base = (struct executor){
        .clock = &e->clock,
        .create = manual_create,
        .begin = manual_begin,
        .wake = manual_wake,
        .join = manual_join,
        .destroy = manual_destroy,
        .free = manual_free,
    };
    pthread_mutex_init(&e->base.mutex, NULL);
    return &e->base;
}
