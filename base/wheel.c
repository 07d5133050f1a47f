/* A hierarchical timer wheel whose levels cover all 64 bits of time, so that nothing overflows.
 *
 * A time is read as digits of six bits. Invariant: a timer that is due after `now` sits at the
 * level of the most significant digit in which its due time differs from `now`, in the slot of its
 * own digit there. It follows that
 *   - occupied slots of a level lie ahead of `now`, never behind: no slot wraps around;
 *   - everything on a lower level is due before everything on a higher one.
 * So the first occupied slot of the lowest occupied level comes next. Time jumps to the start of
 * that slot, its timers sink to lower levels, and what is due goes to the `due` list. A jump over
 * empty slots costs nothing. */
#include "base/wheel.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"

#define DIGIT_BITS 6u
#define SLOTS (1u << DIGIT_BITS)
#define LEVELS ((64u + DIGIT_BITS - 1) / DIGIT_BITS)

struct wheel {
    uint64_t now_ms;
    struct wheel_timer *due;   /* due_ms <= now_ms */
    uint64_t due_min_ms;       /* a lower bound over `due`, if that is not empty */
    uint64_t occupied[LEVELS]; /* bit s: slots[level][s] is not empty */
    struct wheel_timer *slots[LEVELS][SLOTS];
};

struct place {
    unsigned level, slot;
};

static unsigned digit(uint64_t t, unsigned level)
{
    return (unsigned)(t >> (level * DIGIT_BITS)) & (SLOTS - 1);
}

static struct place place_of(const struct wheel *w, uint64_t due_ms)
{
    unsigned highest = 63u - (unsigned)__builtin_clzll(due_ms ^ w->now_ms);
    unsigned level = highest / DIGIT_BITS;
    return (struct place){.level = level, .slot = digit(due_ms, level)};
}

static void push(struct wheel_timer **head, struct wheel_timer *t)
{
    t->next = *head;
    t->prev = head;
    if (t->next != NULL) {
        t->next->prev = &t->next;
    }
    *head = t;
}

static void unlink_timer(struct wheel_timer *t)
{
    *t->prev = t->next;
    if (t->next != NULL) {
        t->next->prev = t->prev;
    }
    t->next = NULL;
    t->prev = NULL;
}

static uint64_t start_of(const struct wheel *w, struct place p)
{
    unsigned shift = p.level * DIGIT_BITS;
    unsigned above = shift + DIGIT_BITS;
    uint64_t high = above >= 64 ? 0 : w->now_ms >> above << above;
    return high | (uint64_t)p.slot << shift;
}

static void insert(struct wheel *w, struct wheel_timer *t)
{
    if (t->due_ms <= w->now_ms) {
        if (w->due == NULL || t->due_ms < w->due_min_ms) {
            w->due_min_ms = t->due_ms;
        }
        push(&w->due, t);
        return;
    }
    struct place p = place_of(w, t->due_ms);
    ASSERT(start_of(w, p) > w->now_ms && start_of(w, p) <= t->due_ms);
    push(&w->slots[p.level][p.slot], t);
    w->occupied[p.level] |= UINT64_C(1) << p.slot;
}

struct wheel *wheel_new(uint64_t now_ms)
{
    struct wheel *w = xcalloc(1, sizeof *w);
    w->now_ms = now_ms;
    return w;
}

void wheel_free(struct wheel *w)
{
    free(w);
}

bool wheel_armed(const struct wheel_timer *t)
{
    return t->prev != NULL;
}

void wheel_cancel(struct wheel *w, struct wheel_timer *t)
{
    if (!wheel_armed(t)) {
        return;
    }
    bool waits_in_slot = t->due_ms > w->now_ms;
    unlink_timer(t);
    if (waits_in_slot) {
        struct place p = place_of(w, t->due_ms);
        if (w->slots[p.level][p.slot] == NULL) {
            w->occupied[p.level] &= ~(UINT64_C(1) << p.slot);
        }
    }
}

void wheel_arm(struct wheel *w, struct wheel_timer *t, uint64_t due_ms)
{
    wheel_cancel(w, t);
    t->due_ms = due_ms;
    insert(w, t);
}

/* The slot that comes next; false if all are empty. */
static bool next_place(const struct wheel *w, struct place *ret)
{
    for (unsigned level = 0; level < LEVELS; level++) {
        if (w->occupied[level] != 0) {
            unsigned slot = (unsigned)__builtin_ctzll(w->occupied[level]);
            *ret = (struct place){.level = level, .slot = slot};
            return true;
        }
    }
    return false;
}

/* Move time to the slot at `start_ms`; its timers sink to lower levels. */
static void open_slot(struct wheel *w, struct place p, uint64_t start_ms)
{
    ASSERT(start_ms > w->now_ms && w->slots[p.level][p.slot] != NULL);
    w->now_ms = start_ms;
    w->occupied[p.level] &= ~(UINT64_C(1) << p.slot);
    struct wheel_timer **slot = &w->slots[p.level][p.slot];
    struct wheel_timer *t;
    while ((t = *slot) != NULL) {
        unlink_timer(t);
        insert(w, t);
    }
}

struct wheel_timer *wheel_expire(struct wheel *w, uint64_t now_ms)
{
    struct place p;
    while (w->due == NULL && next_place(w, &p)) {
        uint64_t start_ms = start_of(w, p);
        if (start_ms > now_ms) {
            break;
        }
        open_slot(w, p, start_ms);
    }
    struct wheel_timer *t = w->due;
    if (t != NULL) {
        ASSERT(t->due_ms <= w->now_ms);
        unlink_timer(t);
        return t;
    }
    /* No slot starts before now_ms, so every timer keeps its place. */
    if (now_ms > w->now_ms) {
        w->now_ms = now_ms;
    }
    return NULL;
}

uint64_t wheel_next(const struct wheel *w)
{
    struct place p;
    if (w->due != NULL) {
        return w->due_min_ms;
    }
    return next_place(w, &p) ? start_of(w, p) : UINT64_MAX;
}
