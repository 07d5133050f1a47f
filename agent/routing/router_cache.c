/* Hints about leaders. See router_cache.h.
 *
 * Written by the engine's observer for local replicas and by the answers of other hosts. Striped,
 * so that lookups on many threads rarely contend; a lock is held for a map lookup and a copy. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "agent/routing/router.h"
#include "agent/routing/router_cache.h"
#include "base/map.h"

#define STRIPES 16
/* Entries per stripe. A full stripe drops its hints of shards without a local replica. */
#define STRIPE_ENTRIES_MAX 8192

struct stripe {
    _Alignas(64) pthread_mutex_t lock;
    struct map entries; /* shard id + 1 -> struct route_hint; 0 is a shard, so keys are shifted */
};

struct router_cache {
    struct uuid self;
    struct stripe stripes[STRIPES];
};

static struct stripe *stripe_of(struct router_cache *c, uint64_t shard_id)
{
    return &c->stripes[shard_id % STRIPES];
}

struct router_cache *router_cache_new(const struct uuid *self)
{
    struct router_cache *c = aligned_alloc(64, sizeof *c);
    memset(c, 0, sizeof *c);
    c->self = *self;
    for (size_t i = 0; i < STRIPES; i++) {
        pthread_mutex_init(&c->stripes[i].lock, NULL);
    }
    return c;
}

static void stripe_clear(struct stripe *s, bool keep_local)
{
    struct map kept = {0};
    struct route_hint *h;
    uint64_t key;
    for (size_t it = 0; (h = map_next(&s->entries, &it, &key)) != NULL;) {
        if (keep_local && h->local) {
            map_put(&kept, key, h);
        } else {
            free(h);
        }
    }
    map_deinit(&s->entries);
    s->entries = kept;
}

void router_cache_free(struct router_cache *c)
{
    if (c == NULL) {
        return;
    }
    for (size_t i = 0; i < STRIPES; i++) {
        stripe_clear(&c->stripes[i], false);
        map_deinit(&c->stripes[i].entries);
        pthread_mutex_destroy(&c->stripes[i].lock);
    }
    free(c);
}

bool router_cache_get(struct router_cache *c, uint64_t shard_id, struct route_hint *ret)
{
    struct stripe *s = stripe_of(c, shard_id);
    pthread_mutex_lock(&s->lock);
    const struct route_hint *h = map_get(&s->entries, shard_id + 1);
    if (h != NULL) {
        *ret = *h;
    }
    pthread_mutex_unlock(&s->lock);
    if (h == NULL) {
        memset(ret, 0, sizeof *ret);
    }
    return h != NULL;
}

/* The stripe is locked. */
static struct route_hint *hint_make(struct stripe *s, uint64_t shard_id)
{
    struct route_hint *h = map_get(&s->entries, shard_id + 1);
    if (h != NULL) {
        return h;
    }
    if (s->entries.count >= STRIPE_ENTRIES_MAX) {
        stripe_clear(s, true);
    }
    h = xcalloc(1, sizeof *h);
    map_put(&s->entries, shard_id + 1, h);
    return h;
}

void router_cache_set_local(struct router_cache *c, const struct engine_replica_status *st)
{
    struct stripe *s = stripe_of(c, st->shard_id);
    pthread_mutex_lock(&s->lock);
    struct route_hint *h = hint_make(s, st->shard_id);
    h->local = true;
    h->local_serves = router_is_serving_replica(st);
    h->local_leads = st->role == RAFT_LEADER && !st->failed;
    if (h->local_leads) {
        h->leader_host = c->self;
        h->term = st->term;
    } else if (!uuid_is_nil(&st->leader_host) && st->term >= h->term) {
        h->leader_host = st->leader_host;
        h->term = st->term;
    } else if (uuid_equal(&h->leader_host, &c->self)) {
        memset(&h->leader_host, 0, sizeof h->leader_host);
    }
    pthread_mutex_unlock(&s->lock);
}

void router_cache_remove_local(struct router_cache *c, uint64_t shard_id)
{
    struct stripe *s = stripe_of(c, shard_id);
    pthread_mutex_lock(&s->lock);
    free(map_remove(&s->entries, shard_id + 1));
    pthread_mutex_unlock(&s->lock);
}

void router_cache_set_leader(struct router_cache *c, uint64_t shard_id, uint64_t term,
                             const struct uuid *host)
{
    if (uuid_is_nil(host) || uuid_equal(host, &c->self)) {
        return;
    }
    struct stripe *s = stripe_of(c, shard_id);
    pthread_mutex_lock(&s->lock);
    struct route_hint *h = hint_make(s, shard_id);
    if (term >= h->term && !h->local_leads) {
        h->term = term;
        h->leader_host = *host;
    }
    pthread_mutex_unlock(&s->lock);
}

void router_cache_forget_leader(struct router_cache *c, uint64_t shard_id, const struct uuid *host)
{
    struct stripe *s = stripe_of(c, shard_id);
    pthread_mutex_lock(&s->lock);
    struct route_hint *h = map_get(&s->entries, shard_id + 1);
    if (h != NULL && uuid_equal(&h->leader_host, host)) {
        memset(&h->leader_host, 0, sizeof h->leader_host);
    }
    pthread_mutex_unlock(&s->lock);
}
