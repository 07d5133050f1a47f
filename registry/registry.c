/* The registry of a host: the view that is shown, and who is told when it changes. */
#include "registry/registry_internal.h"

struct registry *registry_new(void)
{
    struct registry *r = xcalloc(1, sizeof(*r));
    int failed = pthread_mutex_init(&r->lock, NULL);
    ASSERT(failed == 0);
    struct state empty;
    registry__state_init(&empty);
    r->view = registry__view_new(r, &empty);
    registry__machine_type(r, &r->type);
    return r;
}

void registry_free(struct registry *r)
{
    if (r == NULL) {
        return;
    }
    registry_view_release(r->view);
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
    atomic_store(&r->subscriber_count, at + 1); /* publishes the entry to who calls it */
    pthread_mutex_unlock(&r->lock);
}

struct registry_view *registry_view_acquire(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    struct registry_view *v = registry_view_ref(r->view);
    pthread_mutex_unlock(&r->lock);
    return v;
}

void registry__publish(struct registry *r, struct registry_view *v)
{
    struct registry_view *old = NULL;
    pthread_mutex_lock(&r->lock);
    /* A machine that starts over (another replica, a restore) is behind for a while. */
    if (v->s.revision > r->view->s.revision) {
        old = r->view;
        r->view = registry_view_ref(v);
    }
    pthread_mutex_unlock(&r->lock);
    if (old == NULL) {
        return;
    }
    registry_view_release(old);
    size_t count = atomic_load(&r->subscriber_count);
    for (size_t i = 0; i < count; i++) {
        r->subscribers[i].changed(r->subscribers[i].ctx, v->s.revision);
    }
}
