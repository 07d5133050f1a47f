/* Status of replicas: copies under the engine's lock, updated by loops at the end of a turn. */
#include <stdlib.h>

#include "shards/engine/engine_internal.h"

static int compare_status(const void *a, const void *b)
{
    const struct engine_replica_status *x = a, *y = b;
    return x->replica_id < y->replica_id ? -1 : x->replica_id > y->replica_id;
}

size_t engine_replicas(struct engine *e, struct engine_replica_status **ret)
{
    pthread_mutex_lock(&e->lock);
    size_t n = 0, it = 0;
    struct engine_replica_status *all = xcalloc(e->by_replica.count + 1, sizeof *all);
    struct replica *r;
    while ((r = map_next(&e->by_replica, &it, NULL)) != NULL) {
        replica_show(r, &all[n++]);
    }
    pthread_mutex_unlock(&e->lock);
    qsort(all, n, sizeof *all, compare_status);
    *ret = all;
    return n;
}

size_t engine_shard_count(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    size_t n = e->by_shard.count;
    pthread_mutex_unlock(&e->lock);
    return n;
}

static int compare_id(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

size_t engine_tombstones(struct engine *e, uint64_t **ret)
{
    pthread_mutex_lock(&e->lock);
    size_t n = 0, it = 0;
    uint64_t key, *all = xcalloc(e->tombstones.count + 1, sizeof *all);
    while (map_next(&e->tombstones, &it, &key) != NULL) {
        all[n++] = key;
    }
    pthread_mutex_unlock(&e->lock);
    qsort(all, n, sizeof *all, compare_id);
    *ret = all;
    return n;
}

bool engine_shard_status(struct engine *e, uint64_t shard_id, struct engine_replica_status *ret)
{
    pthread_mutex_lock(&e->lock);
    const struct replica *r = map_get(&e->by_shard, shard_id);
    if (r != NULL) {
        replica_show(r, ret);
    }
    pthread_mutex_unlock(&e->lock);
    return r != NULL;
}

bool engine_shard_config(struct engine *e, uint64_t shard_id, struct raft_config *ret)
{
    pthread_mutex_lock(&e->lock);
    const struct replica *r = map_get(&e->by_shard, shard_id);
    if (r != NULL) {
        raft_config_copy(ret, r->shown_config != NULL ? r->shown_config : &(struct raft_config){0});
    }
    pthread_mutex_unlock(&e->lock);
    return r != NULL;
}

bool engine_shard_peer(struct engine *e, uint64_t shard_id, uint64_t replica_id,
                       struct raft_peer_status *ret)
{
    bool found = false;
    pthread_mutex_lock(&e->lock);
    struct replica *r = map_get(&e->by_shard, shard_id);
    if (r != NULL) {
        atomic_store(&r->peers_wanted, true); /* updated from the next heartbeat on */
        for (size_t i = 0; i < r->shown_peer_count && !found; i++) {
            found = r->shown.role == RAFT_LEADER && r->shown_peers[i].replica_id == replica_id;
            if (found) {
                *ret = r->shown_peers[i].status;
            }
        }
    }
    pthread_mutex_unlock(&e->lock);
    return found;
}
