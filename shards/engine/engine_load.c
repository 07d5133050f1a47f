/* What metrics show of the local replicas: roles, and the load by shard and machine type. */
#include <string.h>

#include "shards/engine/engine_internal.h"

#define MINUTE_NS (60 * NS_PER_S)
/* What one proposal adds to `recent`: it is seen for five minutes. */
#define RECENT_UNIT UINT32_C(16)

_Atomic uint64_t *engine__type_proposals(struct engine *e, const char *type)
{
    for (size_t i = 0; e->o.types != NULL && e->o.types[i] != NULL; i++) {
        if (strcmp(e->o.types[i]->name, type) == 0) {
            return &e->type_proposals[i];
        }
    }
    return NULL;
}

uint64_t engine_type_proposals(struct engine *e, const char *type)
{
    const _Atomic uint64_t *count = engine__type_proposals(e, type);
    return count != NULL ? atomic_load_explicit(count, memory_order_relaxed) : 0;
}

/* The count as of minute `now`. */
static uint32_t recent_at(const struct replica *r, uint32_t now)
{
    uint32_t age = now - atomic_load_explicit(&r->recent_minute, memory_order_relaxed);
    return age < 32 ? atomic_load_explicit(&r->recent, memory_order_relaxed) >> age : 0;
}

/* The loop is the only writer, so loads and stores suffice. */
void engine__note_proposals(struct replica *r, size_t n, uint64_t now_ns)
{
    uint32_t minute = (uint32_t)(now_ns / MINUTE_NS), recent = recent_at(r, minute);
    recent =
        n < (UINT32_MAX - recent) / RECENT_UNIT ? recent + (uint32_t)n * RECENT_UNIT : UINT32_MAX;
    atomic_store_explicit(&r->recent, recent, memory_order_relaxed);
    atomic_store_explicit(&r->recent_minute, minute, memory_order_relaxed);
    atomic_store_explicit(&r->proposed,
                          atomic_load_explicit(&r->proposed, memory_order_relaxed) + n,
                          memory_order_relaxed);
    if (r->kind->type_proposals != NULL) {
        atomic_fetch_add_explicit(r->kind->type_proposals, n, memory_order_relaxed);
    }
}

static void count_role(struct engine_load *load, const struct replica_shown *s)
{
    if (s->failed) {
        load->failed++;
        return;
    }
    switch ((enum raft_role)s->role) {
    case RAFT_LEADER:
        load->leaders++;
        break;
    case RAFT_CANDIDATE:
    case RAFT_PRE_CANDIDATE:
        load->candidates++;
        break;
    case RAFT_FOLLOWER:
        load->followers++;
        break;
    }
}

/* By insertion: the array is short, and most shards are no busier than its last one. */
static void insert_top(struct engine_load *load, const struct engine_shard_load *one)
{
    size_t at = load->top_count;
    if (at == ENGINE_TOP_SHARDS && load->top[at - 1].recent >= one->recent) {
        return;
    }
    at -= at == ENGINE_TOP_SHARDS;
    load->top_count = at + 1;
    for (; at > 0 && load->top[at - 1].recent < one->recent; at--) {
        load->top[at] = load->top[at - 1];
    }
    load->top[at] = *one;
}

void engine_load(struct engine *e, struct engine_load *ret)
{
    struct engine_load load = {0};
    uint32_t minute = (uint32_t)(clock_now(e->clock) / MINUTE_NS);
    size_t it = 0;
    struct replica *r;
    pthread_mutex_lock(&e->lock);
    while ((r = map_next(&e->by_replica, &it, NULL)) != NULL) {
        count_role(&load, &r->shown);
        load.leaderless += !r->shown.failed && r->shown.leader == 0;
        load.unapplied +=
            r->shown.commit > r->shown.applied ? r->shown.commit - r->shown.applied : 0;
        struct engine_shard_load one = {
            .shard_id = r->shard_id,
            .proposals = atomic_load_explicit(&r->proposed, memory_order_relaxed),
            .recent = recent_at(r, minute),
        };
        if (one.recent > 0) {
            insert_top(&load, &one);
        }
    }
    pthread_mutex_unlock(&e->lock);
    *ret = load;
}
