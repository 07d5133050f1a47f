/* Watchers of machines' events. A replica's list is under the watch_lock of its applier, which
 * holds it while a machine runs. So a watcher gets every event after the index it starts from, and
 * none after engine_unwatch has returned (unless that is called from an event). */
#include <stdlib.h>

#include "shards/engine/engine_internal.h"

/* The function that removes it from the engine's table frees it: engine_unwatch, or the end of the
 * replica. While the list is being walked, engine_unwatch leaves that to the end of the walk. */
struct watch_list {
    struct watch_list *next, **prev; /* prev NULL: in no list */
    struct replica *replica;         /* a reference, as long as it is in the table */
    uint64_t id;
    struct engine_watcher w;
    bool dead;
};

static void unlink_watch(struct watch_list *n)
{
    if (n->prev == NULL) {
        return;
    }
    *n->prev = n->next;
    if (n->next != NULL) {
        n->next->prev = n->prev;
    }
    n->prev = NULL;
}

uint64_t engine_watch(struct engine *e, uint64_t shard_id, const struct engine_watcher *w,
                      uint64_t *ret_from_index)
{
    struct replica *r = engine__find_shard(e, shard_id);
    if (r == NULL) {
        return 0;
    }
    if (r->kind->witness) { /* it applies nothing, so it has no events */
        replica_unref(r);
        return 0;
    }
    struct watch_list *n = xcalloc(1, sizeof *n);
    n->w = *w;
    n->replica = replica_ref(r);
    pthread_mutex_lock(&r->applier->watch_lock);
    pthread_mutex_lock(&e->lock);
    uint64_t id = n->id = ++e->watch_id;
    (void)map_put(&e->watches, id, n);
    pthread_mutex_unlock(&e->lock);
    n->next = r->watches;
    n->prev = &r->watches;
    if (n->next != NULL) {
        n->next->prev = &n->next;
    }
    r->watches = n;
    if (ret_from_index != NULL) {
        *ret_from_index = r->watch_applied;
    }
    pthread_mutex_unlock(&r->applier->watch_lock);
    replica_unref(r);
    return id;
}

static struct watch_list *take_watch(struct engine *e, uint64_t id)
{
    pthread_mutex_lock(&e->lock);
    struct watch_list *n = map_remove(&e->watches, id);
    pthread_mutex_unlock(&e->lock);
    return n;
}

void engine_unwatch(struct engine *e, uint64_t watch_id)
{
    struct watch_list *n = take_watch(e, watch_id);
    if (n == NULL) {
        return;
    }
    struct replica *r = n->replica;
    pthread_mutex_lock(&r->applier->watch_lock);
    n->dead = true;
    bool now = !r->watches_walked; /* else this was called from an event or an end */
    if (now) {
        unlink_watch(n);
    }
    pthread_mutex_unlock(&r->applier->watch_lock);
    if (now) {
        free(n);
    }
    replica_unref(r);
}

static void sweep(struct replica *r)
{
    for (struct watch_list *n = r->watches, *next; n != NULL; n = next) {
        next = n->next;
        if (n->dead) {
            unlink_watch(n);
            free(n);
        }
    }
}

void engine__watch_event(struct replica *r, uint64_t index, struct slice key, struct slice event)
{
    bool dead = false;
    ASSERT(!r->watches_walked && worker_is_current(r->applier->w));
    r->watches_walked = true;
    for (struct watch_list *n = r->watches; n != NULL; n = n->next) {
        if (!n->dead) {
            n->w.event(n->w.ctx, index, key, event);
        }
        dead = dead || n->dead;
    }
    r->watches_walked = false;
    if (dead) {
        sweep(r);
    }
}

void engine__watch_end(struct replica *r, enum thole_reason reason, const char *message)
{
    struct thole_status st;
    size_t held = 0;
    (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, reason, "%s", message);
    pthread_mutex_lock(&r->applier->watch_lock);
    r->watches_walked = true;
    for (struct watch_list *n = r->watches; n != NULL; n = n->next) {
        if (!n->dead && n->w.ended != NULL) {
            n->w.ended(n->w.ctx, &st);
        }
    }
    r->watches_walked = false;
    struct watch_list *next = r->watches;
    r->watches = NULL;
    for (struct watch_list *n = next; n != NULL; n = next) {
        next = n->next;
        n->prev = NULL;
        bool ours = take_watch(r->e, n->id) != NULL;
        held += ours;
        if (ours || n->dead) {
            free(n);
        }
        /* Else an engine_unwatch waits for the lock, and will free it. */
    }
    pthread_mutex_unlock(&r->applier->watch_lock);
    for (; held > 0; held--) {
        replica_unref(r);
    }
}
