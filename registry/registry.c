/* The registry of a host: the view that is shown, and its subscribers.
 *
 * Readers take a reference to the shown view without a lock, so readers and the publisher never
 * wait for each other. Reading the address and counting the reference must be one atomic step, or
 * the view might be freed between the two. So `shown` holds both: its upper 16 bits count the
 * references that were taken since the count was last moved to the view's own, and one addition
 * takes a reference and returns the address. While a view is shown, its own count is higher by
 * SHOWN_REFS: readers may already have released references that it does not count yet. */
#include "registry/registry_internal.h"

#include <stdlib.h>

#define ADDRESS_BITS 48
#define ADDRESS_MASK ((UINT64_C(1) << ADDRESS_BITS) - 1)
#define ONE_TAKEN (UINT64_C(1) << ADDRESS_BITS)
/* From here on the count is moved to the view's own. Far below the limit: each reader that finds
 * the count this high may have been overtaken by others. */
#define TAKEN_MAX (UINT32_C(1) << 14)
#define SHOWN_REFS (UINT32_C(1) << 30)

_Static_assert(sizeof(void *) == sizeof(uint64_t), "an address and a count in one word");

static struct registry_view *view_of(uint64_t shown)
{
    return (struct registry_view *)(uintptr_t)(shown & ADDRESS_MASK); /* NOLINT */
}

static uint32_t taken_of(uint64_t shown)
{
    return (uint32_t)(shown >> ADDRESS_BITS);
}

/* The value of `shown` for `v`; takes over a reference. */
static uint64_t to_show(struct registry_view *v)
{
    ASSERT(((uintptr_t)v & ~ADDRESS_MASK) == 0);
    atomic_fetch_add_explicit(&v->refs, SHOWN_REFS, memory_order_relaxed);
    return (uintptr_t)v;
}

/* The view was replaced. */
static void retire(uint64_t shown)
{
    struct registry_view *v = view_of(shown);
    /* One reference remains, so this is never the last release. */
    atomic_fetch_sub_explicit(&v->refs, SHOWN_REFS - taken_of(shown), memory_order_relaxed);
    registry_view_release(v);
}

/* Moves the count of taken references to the view's own count. The caller holds a reference to
 * `v`, so no other view can have its address. */
static void move_taken(struct registry *r, struct registry_view *v, uint64_t shown)
{
    while (view_of(shown) == v && taken_of(shown) >= TAKEN_MAX) {
        uint32_t taken = taken_of(shown);
        atomic_fetch_add_explicit(&v->refs, taken, memory_order_relaxed);
        if (atomic_compare_exchange_strong_explicit(&r->shown, &shown, (uintptr_t)v,
                                                    memory_order_acq_rel, memory_order_acquire)) {
            return;
        }
        atomic_fetch_sub_explicit(&v->refs, taken, memory_order_relaxed);
    }
}

struct registry *registry_new(void)
{
    struct registry *r = aligned_alloc(_Alignof(struct registry), sizeof *r);
    ASSERT(r != NULL);
    *r = (struct registry){0};
    int failed = pthread_mutex_init(&r->lock, NULL);
    ASSERT(failed == 0);
    struct state empty;
    registry__state_init(&empty);
    atomic_init(&r->shown, to_show(registry__view_new(r, &empty)));
    registry__machine_type(r, &r->type);
    return r;
}

void registry_free(struct registry *r)
{
    if (r == NULL) {
        return;
    }
    retire(atomic_load_explicit(&r->shown, memory_order_acquire));
    ASSERT(atomic_load_explicit(&r->views, memory_order_acquire) == 0);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

const struct thole_machine_type *registry_machine_type(struct registry *r)
{
    return &r->type;
}

void registry_subscribe(struct registry *r, void (*changed)(void *ctx, uint64_t revision),
                        void *ctx)
{
    pthread_mutex_lock(&r->lock);
    size_t at = atomic_load(&r->subscriber_count);
    ASSERT(at < REGISTRY_SUBSCRIBERS_MAX);
    r->subscribers[at].changed = changed;
    r->subscribers[at].ctx = ctx;
    atomic_store(&r->subscriber_count, at + 1); /* publishes the entry to callers */
    pthread_mutex_unlock(&r->lock);
}

struct registry_view *registry_view_acquire(struct registry *r)
{
    uint64_t shown =
        atomic_fetch_add_explicit(&r->shown, ONE_TAKEN, memory_order_acq_rel) + ONE_TAKEN;
    struct registry_view *v = view_of(shown);
    if (taken_of(shown) >= TAKEN_MAX) {
        move_taken(r, v, shown);
    }
    return v;
}

void registry__publish(struct registry *r, struct registry_view *v)
{
    uint64_t old = 0;
    pthread_mutex_lock(&r->lock);
    /* A machine that replays (another replica, a restore) has old revisions for a while. */
    if (v->s.revision > view_of(atomic_load(&r->shown))->s.revision) {
        ASSERT(v->s.scope == NULL && v->live == &r->views);
        uint64_t shown = to_show(registry_view_ref(v));
        old = atomic_exchange_explicit(&r->shown, shown, memory_order_acq_rel);
    }
    pthread_mutex_unlock(&r->lock);
    if (old == 0) {
        return;
    }
    retire(old);
    size_t count = atomic_load(&r->subscriber_count);
    for (size_t i = 0; i < count; i++) {
        r->subscribers[i].changed(r->subscribers[i].ctx, v->s.revision);
    }
}
