/* gRPC health: the service "" (and with it every service) while this host is ready, and
 * "shard/<name>" while the replica of that shard here confirms that the shard takes proposals
 * (availability.h). A changed replica is checked again alone; a changed host checks all shards. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/core/availability.h"
#include "agent/core/health.h"
#include "agent/core/outages.h"
#include "base/map.h"

#define UPDATE_NS (50 * NS_PER_MS)
#define UPDATE_PARTS 20 /* at most one part of the time is spent here */
#define SHARD_PREFIX "shard/"

struct shard_health {
    bool serving;
    char name[];
};

struct health {
    struct agent *agent;
    bool reported, ready;
    uint64_t next_ns;  /* the next update: thousands of shards may change at once */
    struct map shards; /* shard id + 1 */
    size_t unnamed;    /* replicas whose shard is not in the view yet */
    pthread_mutex_t lock;
    struct map changed; /* (lock) shard id + 1 -> the map itself: a set */
};

struct health *agent__health_new(struct agent *a)
{
    struct health *h = xcalloc(1, sizeof *h);
    h->agent = a;
    pthread_mutex_init(&h->lock, NULL);
    return h;
}

void agent__health_free(struct health *h)
{
    struct shard_health *s;
    if (h == NULL) {
        return;
    }
    for (size_t it = 0; (s = map_next(&h->shards, &it, NULL)) != NULL;) {
        free(s);
    }
    map_deinit(&h->shards);
    map_deinit(&h->changed);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

void agent__health_replica_changed(struct health *h, uint64_t shard_id)
{
    pthread_mutex_lock(&h->lock);
    map_put(&h->changed, shard_id + 1, &h->changed);
    pthread_mutex_unlock(&h->lock);
}

/* Another shard may have the name by now, created after this shard was deleted. */
static void forget_shard(struct health *h, const struct registry_view *v, uint64_t key)
{
    struct registry_shard_buf shard_buf;
    struct shard_health *s = map_remove(&h->shards, key);
    if (s == NULL) {
        return;
    }
    const thole_v1_Shard *row =
        registry_shard_by_name(v, slice_str(s->name + sizeof SHARD_PREFIX - 1), &shard_buf);
    const struct shard_health *next =
        row != NULL ? map_get(&h->shards, thole_v1_Shard_id(row) + 1) : NULL;
    if (next != NULL) {
        bus_health_set(h->agent->bus, s->name, next->serving);
    } else {
        bus_health_remove(h->agent->bus, s->name);
    }
    free(s);
}

static struct shard_health *new_shard_health(const struct registry_view *v, uint64_t shard_id,
                                             bool serving)
{
    struct registry_shard_buf shard_buf;
    const thole_v1_Shard *row = registry_shard(v, shard_id, &shard_buf);
    if (row == NULL) {
        return NULL;
    }
    struct slice name = registry_str(thole_v1_Shard_name(row));
    struct shard_health *s = xcalloc(1, sizeof *s + sizeof SHARD_PREFIX + name.size);
    memcpy(s->name, SHARD_PREFIX, sizeof SHARD_PREFIX - 1);
    memcpy(s->name + sizeof SHARD_PREFIX - 1, name.data, name.size);
    s->serving = !serving;
    return s;
}

static bool is_serving(const struct availability_check *check, uint64_t shard_id)
{
    struct registry_shard_buf buf;
    struct shard_availability now = {0};
    const thole_v1_Shard *row = registry_shard(check->view, shard_id, &buf);
    if (row != NULL) {
        agent_check_shard(check, row, &now);
    }
    return now.available_here;
}

static void update_shard(struct health *h, const struct availability_check *check, uint64_t key)
{
    struct engine_replica_status s;
    if (!engine_shard_status(h->agent->engine, key - 1, &s)) {
        forget_shard(h, check->view, key);
        return;
    }
    bool serving = is_serving(check, s.shard_id);
    struct shard_health *sh = map_get(&h->shards, key);
    if (sh == NULL) {
        sh = new_shard_health(check->view, s.shard_id, serving);
        if (sh == NULL) { /* check it again with the next change, such as a new view */
            h->unnamed++;
            agent__health_replica_changed(h, s.shard_id);
            return;
        }
        map_put(&h->shards, key, sh);
    }
    if (sh->serving != serving) {
        bus_health_set(h->agent->bus, sh->name, serving);
    }
    sh->serving = serving;
}

/* Removed replicas are not reported: there are then fewer replicas than names. */
static void sweep(struct health *h, const struct registry_view *v)
{
    struct engine_replica_status s;
    struct map gone = {0};
    uint64_t key;
    if (engine_shard_count(h->agent->engine) >= h->shards.count + h->unnamed) {
        return;
    }
    for (size_t it = 0; map_next(&h->shards, &it, &key) != NULL;) {
        if (!engine_shard_status(h->agent->engine, key - 1, &s)) {
            map_put(&gone, key, h);
        }
    }
    for (size_t it = 0; map_next(&gone, &it, &key) != NULL;) {
        forget_shard(h, v, key);
    }
    map_deinit(&gone);
}

/* Includes replicas that have not started yet. */
static void mark_all_changed(struct health *h)
{
    struct engine_replica_status *all = NULL;
    size_t n = engine_replicas(h->agent->engine, &all);
    for (size_t i = 0; i < n; i++) {
        agent__health_replica_changed(h, all[i].shard_id);
    }
    free(all);
}

uint64_t agent__health_update(struct health *h, uint64_t now_ns)
{
    char why[160];
    struct agent *a = h->agent;
    if (agent_is_stopping(a)) {
        return CLOCK_NEVER;
    }
    if (now_ns < h->next_ns) {
        return h->next_ns;
    }
    bool ready = agent_is_ready(a, why, sizeof why);
    struct registry_view *v = registry_view_acquire(a->registry);
    if (agent__outages_update(a, v) || !h->reported) {
        mark_all_changed(h);
    }
    if (!h->reported || ready != h->ready) {
        bus_health_set(a->bus, "", ready);
    }
    h->reported = true;
    h->ready = ready;

    pthread_mutex_lock(&h->lock);
    struct map changed = h->changed;
    h->changed = (struct map){0};
    pthread_mutex_unlock(&h->lock);
    const struct availability_check check = agent_availability_begin(a, v);
    uint64_t key;
    h->unnamed = 0;
    for (size_t it = 0; map_next(&changed, &it, &key) != NULL;) {
        update_shard(h, &check, key);
    }
    sweep(h, v);
    registry_view_release(v);
    map_deinit(&changed);
    uint64_t end_ns = clock_now(&clock_system), pause_ns = UPDATE_PARTS * (end_ns - now_ns);
    h->next_ns = end_ns + (pause_ns > UPDATE_NS ? pause_ns : UPDATE_NS);
    return CLOCK_NEVER;
}

void agent__health_stop_serving(struct agent *a)
{
    bus_health_set(a->bus, "", false);
}
