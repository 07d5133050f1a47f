/* A life of a host. It runs the worker with the next turn in virtual time, one turn at a time. The
 * delay of each message is drawn at random, which interleaves the workers of all hosts in many
 * ways. A hung disk is a writer that gets no turn. */
#include <stdlib.h>
#include <string.h>

#include "agent/sim/world.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/log.h"

struct life *life__now;

struct sim_executor {
    struct executor ex;
    struct clock clock;
    struct life *life;
};

static struct sim_executor *executor_of(const struct executor *ex)
{
    return CONTAINER_OF(ex, struct sim_executor, ex);
}

struct life *life__new(struct world_host *host)
{
    struct life *life = xcalloc(1, sizeof *life);
    life->host = host;
    return life;
}

struct life *life__enter(struct life *life)
{
    struct life *before = life__now;
    life__now = life;
    (void)log_context_host(life != NULL ? life->host->name : NULL);
    return before;
}

void life__leave(struct life *before)
{
    (void)life__enter(before);
}

/* ---- Workers --------------------------------------------------------------------------------- */

static uint64_t monotonic(const struct clock *c)
{
    return host__clock_ns(CONTAINER_OF(c, struct sim_executor, clock)->life->host);
}

static uint64_t wall(const struct clock *c)
{
    const struct world_host *h = CONTAINER_OF(c, struct sim_executor, clock)->life->host;
    return UINT64_C(1767225600000) + (uint64_t)((int64_t)(monotonic(c) / NS_PER_MS) + h->wall_ms);
}

static struct work_slot *slot_of(const struct worker *worker)
{
    struct life *life = executor_of(worker->ex)->life;
    for (size_t i = 0; i < life->slot_count; i++) {
        if (life->slots[i]->worker == worker) {
            return life->slots[i];
        }
    }
    ASSERT(false && "a worker of another host");
    return NULL;
}

static void run(struct work_slot *slot)
{
    struct worker *worker = slot->worker;
    struct msgq batch;
    pthread_mutex_lock(&worker->mutex);
    worker__take(worker, &batch);
    pthread_mutex_unlock(&worker->mutex);
    slot->ready_ns = CLOCK_NEVER;
    worker->running = true;
    worker__turn(worker, &batch);
    worker->running = false;
    slot->deadline_ns = host__world_ns(slot->life->host, worker->deadline_ns);
}

static void due(void *ctx);

static void schedule(struct work_slot *slot)
{
    uint64_t at = slot->ready_ns < slot->deadline_ns ? slot->ready_ns : slot->deadline_ns;
    if (at < slot->event_ns) {
        slot->event_ns = at;
        world__at(at, slot->life, due, slot);
    }
}

static void due(void *ctx)
{
    struct work_slot *slot = ctx;
    uint64_t now = world__now_ns();
    if (slot->event_ns > now) {
        return; /* an earlier event replaced this one */
    }
    slot->event_ns = CLOCK_NEVER;
    if (slot->worker == NULL) {
        return;
    }
    if (slot->ready_ns <= now || slot->deadline_ns <= now) {
        run(slot);
    }
    if (!slot->life->ended && slot->worker != NULL) {
        schedule(slot);
    }
}

void life__clock_changed(struct life *life)
{
    for (size_t i = 0; i < life->slot_count; i++) {
        struct work_slot *slot = life->slots[i];
        if (slot->deadline_ns != CLOCK_NEVER) {
            slot->deadline_ns = host__world_ns(life->host, slot->worker->deadline_ns);
            schedule(slot);
        }
    }
}

static enum work_kind kind_of(const char *name)
{
    if (strcmp(name, "writer") == 0) {
        return WORK_WRITER;
    }
    return strcmp(name, "snapshotter") == 0 || strncmp(name, "job", 3) == 0 ? WORK_SLOW : WORK_FAST;
}

static uint64_t delay_of(const struct work_slot *slot)
{
    struct rand *r = world__rand();
    const struct world_host *h = slot->life->host;
    uint64_t now = world__now_ns();
    if (slot->kind == WORK_WRITER) {
        uint64_t delay = 200 * NS_PER_US + rand_below(r, NS_PER_MS);
        return h->disk_stalled_until_ns > now + delay ? h->disk_stalled_until_ns - now : delay;
    }
    if (rand_below(r, 2000) == 0) {
        return rand_below(r, 50 * NS_PER_MS); /* the scheduler ran other threads first */
    }
    return rand_below(r, (slot->kind == WORK_SLOW ? 2000 : 200) * NS_PER_US);
}

static void start(struct worker *worker)
{
    struct life *life = executor_of(worker->ex)->life;
    struct work_slot *slot = xcalloc(1, sizeof *slot);
    ASSERT(life->slot_count < WORLD_WORKERS_MAX);
    *slot = (struct work_slot){.life = life,
                               .worker = worker,
                               .kind = kind_of(worker->name),
                               .ready_ns = CLOCK_NEVER,
                               .deadline_ns = CLOCK_NEVER,
                               .event_ns = CLOCK_NEVER};
    life->slots[life->slot_count++] = slot;
}

static void unlock_and_wake(struct worker *worker)
{
    struct work_slot *slot = slot_of(worker);
    pthread_mutex_unlock(&worker->mutex);
    if (slot->ready_ns == CLOCK_NEVER) {
        slot->ready_ns = world__now_ns() + delay_of(slot);
        schedule(slot);
    }
}

static void finish(struct worker *worker)
{
    struct work_slot *slot = slot_of(worker);
    ASSERT(!worker->running);
    if (worker_depth(worker) > 0) {
        run(slot);
    }
    slot->ready_ns = slot->deadline_ns = CLOCK_NEVER;
    worker->deadline_ns = CLOCK_NEVER;
}

static void release(struct worker *worker)
{
    struct work_slot *slot = slot_of(worker);
    struct life *life = slot->life;
    slot->worker = NULL;
    for (size_t i = 0; i < life->slot_count; i++) {
        if (life->slots[i] == slot) {
            life->slots[i] = life->slots[--life->slot_count];
            break;
        }
    }
}

static void free_executor(struct executor *ex)
{
    free(executor_of(ex));
}

static const struct executor_ops ops = {
    .start = start,
    .unlock_and_wake = unlock_and_wake,
    .finish = finish,
    .release = release,
    .free = free_executor,
};

/* Replaces executor_threaded_new at link time: the workers of a host run here. */
struct executor *__wrap_executor_threaded_new(const struct clock *clock);
struct executor *__wrap_executor_threaded_new(const struct clock *clock)
{
    (void)clock;
    ASSERT(life__now != NULL);
    struct sim_executor *e = xcalloc(1, sizeof *e);
    e->ex.ops = &ops;
    e->ex.clock = &e->clock;
    e->clock = (struct clock){monotonic, wall};
    e->life = life__now;
    return &e->ex;
}
