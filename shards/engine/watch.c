/* Watchers of machines' events. A replica's list is under the watch_lock of its applier, which
 * holds it while a machine runs: a watcher sees every event after the index it starts from, and
 * none after engine_unwatch has returned (unless it is called from an event). */
#include <stdlib.h>

#include "shards/engine/engine_internal.h"

struct watch_list {
    struct watch_list *next;
    uint64_t id;
    struct engine_watcher w;
    bool dead;
};

uint64_t engine_watch(struct engine *e, uint64_t shard_id, const struct engine_watcher *w,
                      uint64_t *ret_from_index)
{
    struct replica *r = engine_find_shard(e, shard_id);
    if (!r)
        return 0;
    struct watch_list *n = xcalloc(1, sizeof(*n));
    n->w = *w;
    pthread_mutex_lock(&e->lock);
    n->id = ++e->watch_id;
    (void)map_put(&e->watches, n->id, replica_ref(r));
    uint64_t id = n->id;
    pthread_mutex_unlock(&e->lock);
    pthread_mutex_lock(&r->applier->watch_lock);
    n->next = r->watches;
    r->watches = n;
    if (ret_from_index)
        *ret_from_index = r->watch_applied;
    pthread_mutex_unlock(&r->applier->watch_lock);
    replica_unref(r);
    return id;
}

static void sweep(struct replica *r)
{
    for (struct watch_list **at = &r->watches; *at;) {
        struct watch_list *n = *at;
        if (n->dead) {
            *at = n->next;
            free(n);
        } else {
            at = &n->next;
        }
    }
}

void engine_unwatch(struct engine *e, uint64_t watch_id)
{
    pthread_mutex_lock(&e->lock);
    struct replica *r = map_remove(&e->watches, watch_id);
    pthread_mutex_unlock(&e->lock);
    if (!r)
        return;
    /* Only marked: this may be called from an event, with the list being walked. */
    pthread_mutex_lock(&r->applier->watch_lock);
    for (struct watch_list *n = r->watches; n; n = n->next)
        n->dead = n->dead || n->id == watch_id;
    pthread_mutex_unlock(&r->applier->watch_lock);
    replica_unref(r);
}

void watch_event(struct replica *r, uint64_t index, struct slice key, struct slice event)
{
    sweep(r);
    for (struct watch_list *n = r->watches; n; n = n->next)
        if (!n->dead)
            n->w.event(n->w.ctx, index, key, event);
}

void watch_end(struct replica *r, enum thole_reason reason, const char *message)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, reason, "%s", message);
    pthread_mutex_lock(&r->applier->watch_lock);
    struct watch_list *all = r->watches;
    r->watches = NULL;
    for (struct watch_list *n = all; n; n = n->next)
        if (!n->dead && n->w.ended)
            n->w.ended(n->w.ctx, &st);
    pthread_mutex_unlock(&r->applier->watch_lock);
    while (all) {
        struct watch_list *n = all;
        all = n->next;
        pthread_mutex_lock(&r->e->lock);
        struct replica *held = map_remove(&r->e->watches, n->id);
        pthread_mutex_unlock(&r->e->lock);
        replica_unref(held);
        free(n);
    }
}
