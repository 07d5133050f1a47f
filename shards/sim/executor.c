/* An executor per host: it runs one turn at a time, of the worker that is next in virtual time. The
 * delay of each message is random, which interleaves the workers of all hosts in many ways. A hung
 * disk is a writer whose turn does not come. Each host has its own clock, which may run fast or
 * slow. */
#include <string.h>

#include "shards/sim/sim_internal.h"

static struct sim_host *host_of(const struct executor *ex)
{
    return CONTAINER_OF(ex, struct sim_host, executor);
}

/* ---- The clock ------------------------------------------------------------------------------- */

uint64_t sim__host_clock(const struct sim_host *h)
{
    return skewed_clock_ns(&h->skew, h->s->now_ns);
}

void sim__host_set_rate(struct sim_host *h, uint64_t rate_ppm)
{
    skewed_clock_set_rate(&h->skew, h->s->now_ns, rate_ppm);
    for (int i = 0; i < h->worker_count; i++) {
        h->workers[i].deadline_ns = skewed_clock_when(&h->skew, h->workers[i].w->deadline_ns);
    }
    h->next_stale = true;
}

static uint64_t clock_monotonic(const struct clock *c)
{
    return sim__host_clock(CONTAINER_OF(c, struct sim_host, clock));
}

static uint64_t clock_wall(const struct clock *c)
{
    struct sim_host *h = CONTAINER_OF(c, struct sim_host, clock);
    uint64_t wall_ms = UINT64_C(1767225600000) + clock_monotonic(c) / NS_PER_MS;
    wall_ms += (uint64_t)h->wall_step_ms;
    if (wall_ms > h->s->wall_ms_max) {
        h->s->wall_ms_max = wall_ms;
    }
    return wall_ms;
}

/* ---- Workers --------------------------------------------------------------------------------- */

static struct sim_worker *slot_of(struct sim_host *h, const struct worker *w)
{
    for (int i = 0; i < h->worker_count; i++) {
        if (h->workers[i].w == w) {
            return &h->workers[i];
        }
    }
    ASSERT(false && "a worker of another host");
    return NULL;
}

static enum worker_kind kind_of(const char *name)
{
    if (strncmp(name, "loop", 4) == 0) {
        return WORKER_LOOP;
    }
    if (strcmp(name, "writer") == 0) {
        return WORKER_WRITER;
    }
    return strncmp(name, "applier", 7) == 0 ? WORKER_APPLIER : WORKER_OTHER;
}

static void start(struct worker *w)
{
    struct sim_host *h = host_of(w->ex);
    ASSERT(h->worker_count < SIM_WORKERS_MAX);
    h->workers[h->worker_count++] =
        (struct sim_worker){w, kind_of(w->name), CLOCK_NEVER, CLOCK_NEVER};
}

/* How long a message waits for its worker. */
static uint64_t delay_of(struct sim_host *h, const struct sim_worker *slot)
{
    struct sim *s = h->s;
    struct rand *r = &s->rand[SIM_RAND_WORK];
    uint64_t delay = 0;
    if (slot->kind == WORKER_WRITER) {
        delay = s->c.sync_ns;
        if (!s->o.bench) {
            delay += rand_below(r, s->c.sync_ns + 1);
        }
        if (h->stalled_until_ns > s->now_ns + delay) {
            delay = h->stalled_until_ns - s->now_ns;
        }
    } else if (!s->o.bench) {
        delay = rand_below(r, slot->kind == WORKER_LOOP ? 50 * NS_PER_US : 200 * NS_PER_US);
        if (!s->calm && rand_below(r, 2000) == 0) {
            delay = rand_below(r, 50 * NS_PER_MS); /* other threads were scheduled */
        }
        if (!s->calm && slot->kind == WORKER_OTHER && rand_below(r, 50) == 0) {
            delay = rand_below(r, 2 * s->c.election_ms * NS_PER_MS); /* a large snapshot */
        }
        if (!s->calm && slot->kind == WORKER_APPLIER && rand_below(r, 300) == 0) {
            delay = rand_below(r, 2 * s->c.election_ms * NS_PER_MS); /* a slow machine */
        }
    }
    return delay;
}

static void unlock_and_wake(struct worker *w)
{
    struct sim_host *h = host_of(w->ex);
    struct sim_worker *slot = slot_of(h, w);
    pthread_mutex_unlock(&w->mutex);
    if (slot->ready_ns != CLOCK_NEVER) {
        return;
    }
    slot->ready_ns = h->s->now_ns + delay_of(h, slot);
    if (slot->ready_ns < h->next_ns) {
        h->next_ns = slot->ready_ns;
    }
}

static void run(struct sim_host *h, struct sim_worker *slot)
{
    struct worker *w = slot->w;
    struct msgq batch;
    pthread_mutex_lock(&w->mutex);
    worker__take(w, &batch);
    pthread_mutex_unlock(&w->mutex);
    slot->ready_ns = CLOCK_NEVER;
    w->running = true;
    worker__turn(w, &batch);
    w->running = false;
    slot->deadline_ns = skewed_clock_when(&h->skew, w->deadline_ns);
}

static void finish(struct worker *w)
{
    struct sim_host *h = host_of(w->ex);
    struct sim_worker *slot = slot_of(h, w);
    ASSERT(!w->running);
    if (worker_depth(w) > 0) {
        run(h, slot);
    }
    slot->ready_ns = slot->deadline_ns = w->deadline_ns = CLOCK_NEVER;
}

static void release(struct worker *w)
{
    struct sim_host *h = host_of(w->ex);
    struct sim_worker *slot = slot_of(h, w);
    *slot = h->workers[--h->worker_count];
    h->next_stale = true;
}

static void free_nothing(struct executor *ex)
{
    (void)ex;
}

static const struct executor_ops ops = {
    .start = start,
    .unlock_and_wake = unlock_and_wake,
    .finish = finish,
    .release = release,
    .free = free_nothing,
};

void sim__executor_init(struct sim_host *h)
{
    h->executor.ops = &ops;
    h->executor.clock = &h->clock;
    h->clock = (struct clock){clock_monotonic, clock_wall};
    h->skew = (struct skewed_clock){SIM_START_NS, h->s->now_ns, SKEWED_CLOCK_EXACT_PPM};
    h->next_ns = CLOCK_NEVER;
}

/* ---- Turns ----------------------------------------------------------------------------------- */

static uint64_t wanted(const struct sim_worker *slot)
{
    return slot->ready_ns < slot->deadline_ns ? slot->ready_ns : slot->deadline_ns;
}

uint64_t sim__host_next(struct sim_host *h)
{
    if (!h->next_stale) {
        return h->next_ns;
    }
    h->next_stale = false;
    h->next_ns = CLOCK_NEVER;
    for (int i = 0; i < h->worker_count; i++) {
        uint64_t at = wanted(&h->workers[i]);
        if (at < h->next_ns) {
            h->next_ns = at;
        }
    }
    if (h->next_ns < h->paused_until_ns) {
        h->next_ns = h->paused_until_ns;
    }
    return h->next_ns;
}

void sim__host_turn(struct sim_host *h)
{
    struct sim *s = h->s;
    struct sim_worker *best = NULL;
    for (int i = 0; i < h->worker_count; i++) {
        struct sim_worker *slot = &h->workers[i];
        if (wanted(slot) <= s->now_ns && (best == NULL || wanted(slot) < wanted(best))) {
            best = slot;
        }
    }
    h->next_stale = true;
    if (best == NULL) {
        return;
    }
    struct worker *w = best->w;
    bool loop = best->kind == WORKER_LOOP;
    s->report->turns++;
    run(h, best);
    if (loop && !h->ending) {
        sim__check_loop(s, h, w->ctx);
    }
}
