#include "shards/sim/linear.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"

enum op_end { OP_RUNNING, OP_RETURNED, OP_REFUSED, OP_OPEN };

struct op {
    bool swap;
    enum op_end end;
    uint64_t value, result;
    int slot; /* while pending in the search; -1: it is not */
};
struct event {
    uint64_t op;
    bool is_return;
};
/* `done`: which pending operations have taken effect. */
struct state {
    uint64_t value, done;
};
struct states {
    struct state *items;
    size_t count, capacity;
};

struct linear {
    struct op *ops;
    size_t op_count, op_capacity;
    struct event *events;
    size_t event_count, event_capacity, event_next;
    uint64_t slot_op[LINEAR_PENDING_MAX];
    uint64_t used;
    size_t open;
    struct states now, next, seen;
    enum linear_verdict verdict;
};

static void states_push(struct states *s, struct state x)
{
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 16;
        s->items = xrealloc(s->items, s->capacity * sizeof s->items[0]);
    }
    s->items[s->count++] = x;
}

static bool states_add(struct states *s, struct state x)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->items[i].value == x.value && s->items[i].done == x.done) {
            return false;
        }
    }
    states_push(s, x);
    return true;
}

struct linear *linear_new(uint64_t initial)
{
    struct linear *l = xcalloc(1, sizeof *l);
    states_push(&l->now, (struct state){initial, 0});
    return l;
}

void linear_free(struct linear *l)
{
    if (l == NULL) {
        return;
    }
    free(l->ops);
    free(l->events);
    free(l->now.items);
    free(l->next.items);
    free(l->seen.items);
    free(l);
}

static void add_event(struct linear *l, uint64_t op, bool is_return)
{
    if (l->event_count == l->event_capacity) {
        l->event_capacity = l->event_capacity ? l->event_capacity * 2 : 64;
        l->events = xrealloc(l->events, l->event_capacity * sizeof l->events[0]);
    }
    l->events[l->event_count++] = (struct event){op, is_return};
}

static uint64_t begin(struct linear *l, bool swap, uint64_t value)
{
    if (l->op_count == l->op_capacity) {
        l->op_capacity = l->op_capacity ? l->op_capacity * 2 : 64;
        l->ops = xrealloc(l->ops, l->op_capacity * sizeof l->ops[0]);
    }
    l->ops[l->op_count] = (struct op){.swap = swap, .value = value, .slot = -1};
    add_event(l, l->op_count, false);
    return l->op_count++;
}

uint64_t linear_swap(struct linear *l, uint64_t value)
{
    return begin(l, true, value);
}

uint64_t linear_read(struct linear *l)
{
    return begin(l, false, 0);
}

static struct op *running(struct linear *l, uint64_t op)
{
    ASSERT(op < l->op_count && l->ops[op].end == OP_RUNNING);
    return &l->ops[op];
}

void linear_return(struct linear *l, uint64_t op, uint64_t result)
{
    struct op *o = running(l, op);
    o->end = OP_RETURNED;
    o->result = result;
    add_event(l, op, true);
}

void linear_refused(struct linear *l, uint64_t op)
{
    running(l, op)->end = OP_REFUSED;
}

void linear_open(struct linear *l, uint64_t op)
{
    struct op *o = running(l, op);
    /* A read without a result constrains nothing. */
    o->end = o->swap ? OP_OPEN : OP_REFUSED;
    l->open += o->swap;
}

size_t linear_open_count(const struct linear *l)
{
    return l->open;
}

/* ---- The search ------------------------------------------------------------------------------ */

/* Has another pending operation seen the value that the operation in `slot` wrote? */
static bool wanted(const struct linear *l, struct state x, int slot)
{
    uint64_t value = l->ops[l->slot_op[slot]].value;
    for (uint64_t left = l->used & ~x.done; left != 0; left &= left - 1) {
        const struct op *o = &l->ops[l->slot_op[__builtin_ctzll(left)]];
        if (o->end == OP_RETURNED && o->result == value) {
            return true;
        }
    }
    return false;
}

/* Can the operation in `slot` take effect now? An open one whose value no pending operation has
 * seen need not yet: if it is seen later, it can take effect later. */
static bool allowed(const struct linear *l, struct state x, int slot)
{
    const struct op *o = &l->ops[l->slot_op[slot]];
    return o->end == OP_OPEN ? wanted(l, x, slot) : o->result == x.value;
}

static struct state effect(const struct linear *l, struct state x, int slot)
{
    const struct op *o = &l->ops[l->slot_op[slot]];
    return (struct state){o->swap ? o->value : x.value, x.done | UINT64_C(1) << slot};
}

/* Which of the used slots hold open operations. */
static uint64_t open_slots(const struct linear *l)
{
    uint64_t open = 0;
    for (int i = 0; i < LINEAR_PENDING_MAX; i++) {
        if ((l->used >> i & 1) && l->ops[l->slot_op[i]].end == OP_OPEN) {
            open |= UINT64_C(1) << i;
        }
    }
    return open;
}

static void drop_dominated(struct linear *l, struct states *s)
{
    uint64_t open = open_slots(l);
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct state x = s->items[i];
        bool dominated = false;
        for (size_t k = 0; k < s->count && !dominated; k++) {
            struct state y = s->items[k];
            dominated = y.value == x.value && y.done != x.done &&
                        (y.done & ~open) == (x.done & ~open) && (y.done & ~x.done) == 0;
        }
        if (!dominated) {
            l->seen.items[kept++] = x; /* `seen` has at least as much room, see search */
        }
    }
    memcpy(s->items, l->seen.items, kept * sizeof s->items[0]);
    s->count = kept;
}

/* Every way in which the operation in `slot` has taken effect by now, from every state of `now`. */
static void search(struct linear *l, int slot)
{
    uint64_t bit = UINT64_C(1) << slot;
    l->next.count = l->seen.count = 0;
    for (size_t i = 0; i < l->now.count; i++) {
        (void)states_add(&l->seen, l->now.items[i]);
    }
    /* `seen` grows while it is walked: breadth first, each state once. */
    for (size_t i = 0; i < l->seen.count; i++) {
        struct state x = l->seen.items[i];
        if (l->seen.count > LINEAR_STATES_MAX) {
            l->verdict = LINEAR_INCONCLUSIVE;
            return;
        }
        if (x.done & bit) {
            states_push(&l->next, (struct state){x.value, x.done & ~bit});
            continue;
        }
        for (int p = 0; p < LINEAR_PENDING_MAX; p++) {
            if ((l->used >> p & 1) && !(x.done >> p & 1) && allowed(l, x, p)) {
                (void)states_add(&l->seen, effect(l, x, p));
            }
        }
    }
    if (l->next.count == 0) {
        l->verdict = LINEAR_VIOLATION;
    }
}

static void take_slot(struct linear *l, uint64_t op)
{
    if (l->used == UINT64_MAX) {
        l->verdict = LINEAR_INCONCLUSIVE;
        return;
    }
    int slot = __builtin_ctzll(~l->used);
    l->used |= UINT64_C(1) << slot;
    l->slot_op[slot] = op;
    l->ops[op].slot = slot;
}

static void returned(struct linear *l, struct op *o)
{
    search(l, o->slot);
    if (l->verdict != LINEAR_OK) {
        return;
    }
    l->used &= ~(UINT64_C(1) << o->slot);
    drop_dominated(l, &l->next);
    struct states swap = l->now;
    l->now = l->next;
    l->next = swap;
}

/* Events before `event_next` are decided; forget them once they are most of all. */
static void trim(struct linear *l)
{
    if (l->event_next < 256 || l->event_next * 2 < l->event_count) {
        return;
    }
    l->event_count -= l->event_next;
    memmove(l->events, l->events + l->event_next, l->event_count * sizeof l->events[0]);
    l->event_next = 0;
}

enum linear_verdict linear_check(struct linear *l, bool end)
{
    while (l->event_next < l->event_count && l->verdict == LINEAR_OK) {
        struct event e = l->events[l->event_next];
        struct op *o = &l->ops[e.op];
        if (o->end == OP_RUNNING) {
            if (!end) {
                break;
            }
            linear_open(l, e.op);
        }
        l->event_next++;
        if (e.is_return) {
            returned(l, o);
        } else if (o->end != OP_REFUSED) {
            take_slot(l, e.op);
        }
    }
    trim(l);
    return l->verdict;
}
