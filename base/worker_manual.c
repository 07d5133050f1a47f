/* The manual executor: workers run on the caller's thread, in creation order, in virtual time. The
 * same calls give the same run. Posting from another thread is safe, but not deterministic; only
 * the caller's thread may use virtual time. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/worker_internal.h"

/* Virtual wall time at virtual time 0: 2026-01-01T00:00:00Z. */
#define WALL_MS_AT_ZERO UINT64_C(1767225600000)

struct manual {
    struct executor ex;
    struct clock clock;
    uint64_t now_ns;
    TAILQ_HEAD(, worker) workers; /* in creation order */
    struct worker *cursor;        /* the next to look at in a pass */
    unsigned depth;               /* turns on the stack: one, or more inside worker_stop */
};

static struct manual *manual_of(const struct executor *ex)
{
    return CONTAINER_OF(ex, struct manual, ex);
}

static uint64_t manual_monotonic_ns(const struct clock *c)
{
    return CONTAINER_OF(c, struct manual, clock)->now_ns;
}

static uint64_t manual_wall_ms(const struct clock *c)
{
    return WALL_MS_AT_ZERO + CONTAINER_OF(c, struct manual, clock)->now_ns / NS_PER_MS;
}

static void manual_start(struct worker *w)
{
    TAILQ_INSERT_TAIL(&manual_of(w->ex)->workers, w, entry);
}

static void manual_unlock_and_wake(struct worker *w)
{
    atomic_store_explicit(&w->has_mail, w->mailbox.head != NULL, memory_order_relaxed);
    pthread_mutex_unlock(&w->mutex);
}

static void run_turn(struct manual *m, struct worker *w)
{
    struct msgq batch;
    pthread_mutex_lock(&w->mutex);
    worker__take(w, &batch);
    atomic_store_explicit(&w->has_mail, false, memory_order_relaxed);
    pthread_mutex_unlock(&w->mutex);
    w->running = true;
    m->depth++;
    worker__turn(w, &batch);
    m->depth--;
    w->running = false;
}

static bool has_mail(const struct worker *w)
{
    return atomic_load_explicit(&w->has_mail, memory_order_relaxed);
}

static void manual_finish(struct worker *w)
{
    ASSERT(!w->running);
    if (has_mail(w)) {
        run_turn(manual_of(w->ex), w);
    }
    w->deadline_ns = CLOCK_NEVER;
}

static void manual_release(struct worker *w)
{
    struct manual *m = manual_of(w->ex);
    if (m->cursor == w) {
        m->cursor = TAILQ_NEXT(w, entry);
    }
    TAILQ_REMOVE(&m->workers, w, entry);
}

static void manual_free(struct executor *ex)
{
    free(manual_of(ex));
}

static const struct executor_ops manual_ops = {
    .start = manual_start,
    .unlock_and_wake = manual_unlock_and_wake,
    .finish = manual_finish,
    .release = manual_release,
    .free = manual_free,
};

struct executor *executor_manual_new(uint64_t start_ns)
{
    struct manual *m = xcalloc(1, sizeof *m);
    m->clock = (struct clock){.monotonic_ns = manual_monotonic_ns, .wall_ms = manual_wall_ms};
    m->ex.ops = &manual_ops;
    m->ex.clock = &m->clock;
    m->now_ns = start_ns;
    TAILQ_INIT(&m->workers);
    return &m->ex;
}

/* When a worker wants its next turn: now if messages wait. */
static uint64_t wanted_ns(const struct manual *m, const struct worker *w)
{
    return has_mail(w) ? m->now_ns : w->deadline_ns;
}

size_t executor_manual_run(struct executor *ex, size_t max_turns)
{
    struct manual *m = manual_of(ex);
    ASSERT(m->depth == 0);
    size_t turns = 0, turns_before;
    do {
        turns_before = turns;
        m->cursor = TAILQ_FIRST(&m->workers);
        while (m->cursor != NULL) {
            struct worker *w = m->cursor;
            m->cursor = TAILQ_NEXT(w, entry);
            if (wanted_ns(m, w) > m->now_ns) {
                continue;
            }
            ASSERT(turns < max_turns);
            run_turn(m, w);
            turns++;
        }
    } while (turns > turns_before);
    return turns;
}

void executor_manual_advance(struct executor *ex, uint64_t to_ns, size_t max_turns)
{
    struct manual *m = manual_of(ex);
    ASSERT(to_ns >= m->now_ns);
    size_t turns = 0;
    uint64_t next_ns;
    while ((next_ns = executor_manual_next_deadline(ex)) <= to_ns && next_ns != CLOCK_NEVER) {
        if (next_ns > m->now_ns) {
            m->now_ns = next_ns;
        }
        turns += executor_manual_run(ex, max_turns - turns);
    }
    m->now_ns = to_ns;
}

uint64_t executor_manual_next_deadline(const struct executor *ex)
{
    const struct manual *m = manual_of(ex);
    const struct worker *w;
    uint64_t next_ns = CLOCK_NEVER;
    TAILQ_FOREACH (w, &m->workers, entry) {
        uint64_t ns = wanted_ns(m, w);
        if (ns < next_ns) {
            next_ns = ns;
        }
    }
    return next_ns;
}
