/* Virtual time: one heap of events, and the state of a run. */
#include "agent/sim/world.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/hash.h"

struct event {
    uint64_t at_ns, number;
    struct life *life;
    world_fn fn;
    void *ctx;
};

static struct {
    uint64_t now_ns;
    struct event *heap;
    size_t count, capacity;
    uint64_t number, events;
    struct rand rand;
    bool failed, traces;
    char failure[512];
    uint64_t fingerprint;
} w;

uint64_t world__now_ns(void)
{
    return w.now_ns;
}

struct rand *world__rand(void)
{
    return &w.rand;
}

uint64_t world__draw_ns(uint64_t lo, uint64_t hi)
{
    return rand_between(&w.rand, lo, hi);
}

uint64_t world__events(void)
{
    return w.events;
}

/* ---- The heap -------------------------------------------------------------------------------- */

static bool before(const struct event *a, const struct event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->number < b->number;
}

static void sift_up(size_t i)
{
    struct event e = w.heap[i];
    while (i > 0 && before(&e, &w.heap[(i - 1) / 2])) {
        w.heap[i] = w.heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w.heap[i] = e;
}

static void sift_down(void)
{
    struct event e = w.heap[0];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w.count) {
            break;
        }
        if (child + 1 < w.count && before(&w.heap[child + 1], &w.heap[child])) {
            child++;
        }
        if (!before(&w.heap[child], &e)) {
            break;
        }
        w.heap[i] = w.heap[child];
        i = child;
    }
    w.heap[i] = e;
}

static void push(struct event e)
{
    if (w.count == w.capacity) {
        w.capacity = w.capacity != 0 ? 2 * w.capacity : 1024;
        w.heap = xrealloc(w.heap, w.capacity * sizeof *w.heap);
    }
    w.heap[w.count++] = e;
    sift_up(w.count - 1);
}

static struct event pop(void)
{
    struct event e = w.heap[0];
    w.heap[0] = w.heap[--w.count];
    if (w.count > 0) {
        sift_down();
    }
    return e;
}

void world__at(uint64_t at_ns, struct life *life, world_fn fn, void *ctx)
{
    ASSERT(at_ns != CLOCK_NEVER);
    push((struct event){at_ns > w.now_ns ? at_ns : w.now_ns, w.number++, life, fn, ctx});
}

void world__run(uint64_t until_ns, bool (*stop)(void *ctx), void *ctx)
{
    while (w.count > 0 && w.heap[0].at_ns <= until_ns && !w.failed) {
        struct event e = pop();
        w.now_ns = e.at_ns;
        if (e.life != NULL && e.life->ended) {
            continue;
        }
        if (e.life != NULL && e.life->host->paused_until_ns > w.now_ns) {
            e.at_ns = e.life->host->paused_until_ns;
            e.number = w.number++;
            push(e);
            continue;
        }
        struct life *earlier = life__enter(e.life);
        w.events++;
        e.fn(e.ctx);
        life__leave(earlier);
        if (stop != NULL && stop(ctx)) {
            return;
        }
    }
    if (w.now_ns < until_ns && !w.failed) {
        w.now_ns = until_ns;
    }
}

/* ---- State of a run -------------------------------------------------------------------------- */

void world__mix(uint64_t a, uint64_t b)
{
    const uint64_t words[] = {a, b, w.now_ns};
    w.fingerprint = hash64(words, sizeof words, w.fingerprint);
}

uint64_t world__fingerprint(void)
{
    return w.fingerprint;
}

void world__trace(const char *format, ...)
{
    va_list args;
    if (!w.traces) {
        return;
    }
    printf("%10.3f  ", (double)(w.now_ns - WORLD_START_NS) / 1e9);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

bool world__traces(void)
{
    return w.traces;
}

void world__fail(const char *format, ...)
{
    va_list args;
    if (w.failed) {
        return;
    }
    w.failed = true;
    va_start(args, format);
    vsnprintf(w.failure, sizeof w.failure, format, args);
    va_end(args);
    world__trace("FAILED: %s", w.failure);
}

bool world__failed(void)
{
    return w.failed;
}

const char *world__failure(void)
{
    return w.failure;
}

void world__begin(uint64_t seed, bool trace)
{
    memset(&w, 0, sizeof w);
    w.now_ns = WORLD_START_NS;
    w.traces = trace;
    rand_seed(&w.rand, seed * UINT64_C(0x9e3779b97f4a7c15) + 1);
}
