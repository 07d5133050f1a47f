/* The controllers' tables, checked as a whole after a turn where ASSERT_SLOW is on; more rarely the
 * more shards there are. */
#include "hostctl/hostctl_internal.h"

#define SHARDS_PER_CHECK 64

static void check_shard(const struct ctl_shard *s, uint64_t id)
{
    ASSERT(s->id == id);
    ASSERT(s->work == &hostctl__no_work || s->work->shard_id == id);
    ASSERT(!s->decided || s->verdict <= PLACEMENT_UNSATISFIABLE);
}

static size_t dirty_length(const struct hostctl *h)
{
    size_t n = 0;
    const struct ctl_shard *const *tail = (const struct ctl_shard *const *)&h->dirty;
    for (const struct ctl_shard *s = h->dirty; s != NULL; s = s->next_dirty) {
        ASSERT(s->dirty);
        tail = (const struct ctl_shard *const *)&s->next_dirty;
        n++;
    }
    ASSERT((const void *)h->dirty_tail == (const void *)tail);
    return n;
}

static void check_shards(struct hostctl *h)
{
    size_t it = 0, dirty = 0, unsettled = 0, moving = 0;
    uint64_t id;
    const struct ctl_shard *s;
    while ((s = map_next(&h->shards, &it, &id)) != NULL) {
        check_shard(s, id);
        dirty += s->dirty;
        unsettled += s->decided && (s->verdict == PLACEMENT_ACT || s->verdict == PLACEMENT_WAIT);
        moving += s->moving;
    }
    ASSERT(dirty == dirty_length(h));
    ASSERT(unsettled == h->unsettled && moving == h->moving);
}

static void check_hosts(struct hostctl *h)
{
    ASSERT(h->host_count <= h->host_capacity);
    pthread_mutex_lock(&h->signs.lock);
    ASSERT(h->signs.count == h->host_count);
    for (size_t i = 0; i < h->host_count; i++) {
        ASSERT(uuid_equal(&h->hosts[i].id, &h->signs.of[i].host));
    }
    pthread_mutex_unlock(&h->signs.lock);
}

bool hostctl__check_tables(struct hostctl *h)
{
    if (h->turns % (h->shards.count / SHARDS_PER_CHECK + 1) == 0) {
        check_shards(h);
        check_hosts(h);
        ASSERT(h->placements <= HOSTCTL_PLACEMENTS_MAX);
        ASSERT(h->moves_proposed <= h->move_count && h->move_count <= HOSTCTL_MOVES_KEPT);
        ASSERT(h->report_limit > 0 && h->place_limit > 0);
    }
    return true;
}
