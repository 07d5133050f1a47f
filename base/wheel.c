/* Six levels of 64 slots: level l has slots of 64^l milliseconds, 2^36 ms (two years) in all; what
 * is due later waits in the last slot and is sorted in again. A bitmap per level finds the next
 * occupied slot without walking. */
#include "base/wheel.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"

#define LEVELS 6
#define SLOT_BITS 6
#define SLOTS (1u << SLOT_BITS)
#define SPAN_MS (UINT64_C(1) << (LEVELS * SLOT_BITS))

struct wheel {
    uint64_t now_ms;
    struct wheel_timer *slots[LEVELS][SLOTS];
    uint64_t occupied[LEVELS];
    struct wheel_timer *due; /* expired, not yet taken */
};

static void list_push(struct wheel_timer **head, struct wheel_timer *t)
{
    t->next = *head;
    if (*head)
        (*head)->prev = &t->next;
    t->prev = head;
    *head = t;
}

static void list_remove(struct wheel_timer *t)
{
    *t->prev = t->next;
    if (t->next)
        t->next->prev = t->prev;
    t->next = NULL;
    t->prev = NULL;
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

static unsigned slot_of(uint64_t ms, unsigned level)
{
    return (unsigned)(ms >> (level * SLOT_BITS)) & (SLOTS - 1);
}

static void place(struct wheel *w, struct wheel_timer *t)
{
    if (t->due_ms <= w->now_ms) {
        list_push(&w->due, t);
        return;
    }
    uint64_t at = t->due_ms - w->now_ms < SPAN_MS ? t->due_ms : w->now_ms + SPAN_MS - 1;
    /* The level of the highest group of bits in which it differs from now. */
    unsigned level = (63 - (unsigned)__builtin_clzll(at ^ w->now_ms)) / SLOT_BITS;
    if (level >= LEVELS)
        level = LEVELS - 1;
    unsigned slot = slot_of(at, level);
    list_push(&w->slots[level][slot], t);
    w->occupied[level] |= UINT64_C(1) << slot;
}

void wheel_arm(struct wheel *w, struct wheel_timer *t, uint64_t due_ms)
{
    wheel_cancel(w, t);
    t->due_ms = due_ms;
    place(w, t);
}

void wheel_cancel(struct wheel *w, struct wheel_timer *t)
{
    (void)w; /* a stale bit in `occupied` costs one look, and is cleared then */
    if (wheel_armed(t))
        list_remove(t);
}

/* The next slot of a level after now's own, and when it begins; false if the level is empty. */
static bool next_slot(const struct wheel *w, unsigned level, unsigned *ret_slot, uint64_t *ret_ms)
{
    uint64_t bits = w->occupied[level];
    if (!bits)
        return false;
    unsigned current = slot_of(w->now_ms, level);
    /* Rotate so that bit 0 is the slot after the current one. */
    unsigned shift = (current + 1) & (SLOTS - 1);
    uint64_t rotated = shift ? (bits >> shift) | (bits << (SLOTS - shift)) : bits;
    unsigned ahead = (unsigned)__builtin_ctzll(rotated) + 1;
    *ret_slot = (current + ahead) & (SLOTS - 1);
    uint64_t unit = UINT64_C(1) << (level * SLOT_BITS);
    *ret_ms = (w->now_ms / unit + ahead) * unit;
    return true;
}

uint64_t wheel_next(const struct wheel *w)
{
    if (w->due)
        return w->now_ms;
    uint64_t next = UINT64_MAX;
    for (unsigned level = 0; level < LEVELS; level++) {
        unsigned slot;
        uint64_t ms;
        if (next_slot(w, level, &slot, &ms) && ms < next)
            next = ms;
    }
    return next;
}

/* Enter the slots that begin at w->now_ms: sort their timers in again, lower or due. */
static void cascade(struct wheel *w)
{
    for (unsigned level = LEVELS; level-- > 0;) {
        uint64_t unit = UINT64_C(1) << (level * SLOT_BITS);
        if (w->now_ms & (unit - 1))
            continue;
        unsigned slot = slot_of(w->now_ms, level);
        if (!(w->occupied[level] >> slot & 1))
            continue;
        w->occupied[level] &= ~(UINT64_C(1) << slot);
        struct wheel_timer *t = w->slots[level][slot];
        w->slots[level][slot] = NULL;
        for (struct wheel_timer *next; t; t = next) {
            next = t->next;
            t->next = NULL;
            t->prev = NULL;
            place(w, t);
        }
    }
}

struct wheel_timer *wheel_expire(struct wheel *w, uint64_t now_ms)
{
    while (!w->due && w->now_ms < now_ms) {
        uint64_t next = wheel_next(w);
        w->now_ms = next < now_ms ? next : now_ms;
        cascade(w);
    }
    struct wheel_timer *t = w->due;
    if (t)
        list_remove(t);
    return t;
}
