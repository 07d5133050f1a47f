/* gRPC health as others see it: "" and the services once this host is ready, and "shard/<name>" for
 * each shard with a replica here that knows a leader. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent_internal.h"
#include "base/map.h"

#define UPDATE_NS (50 * NS_PER_MS)

static const char *const services[] = {
    "",
    "thole.v1.Hosts",
    "thole.v1.Shards",
    "thole.v1.Replicas",
    "thole.v1.Events",
    "thole.v1.Cluster",
    "thole.v1.Repair",
    "thole.v1.Data",
};

struct shard_health {
    char name[LIMIT_NAME_BYTES + 8];
    bool serving, seen;
};

struct health {
    struct agent *agent;
    bool told, ready;
    uint64_t next_ns;  /* not before: thousands of shards may change at once */
    struct map shards; /* shard id + 1 */
};

struct health *health_new(struct agent *a)
{
    struct health *h = xcalloc(1, sizeof *h);
    h->agent = a;
    return h;
}

void health_free(struct health *h)
{
    struct shard_health *s;
    if (!h)
        return;
    for (size_t it = 0; (s = map_next(&h->shards, &it, NULL));)
        free(s);
    map_deinit(&h->shards);
    free(h);
}

static void set_all(struct agent *a, bool serving)
{
    for (size_t i = 0; i < sizeof services / sizeof services[0]; i++)
        bus_health_set(a->bus, services[i], serving);
}

static void update_shard(struct health *h, const struct registry_view *v,
                         const struct engine_replica_status *s)
{
    const thole_v1_Shard *row = registry_shard(v, s->shard_id);
    if (!row)
        return;
    struct shard_health *sh = map_get(&h->shards, s->shard_id + 1);
    bool serving = !s->failed && (s->role == RAFT_LEADER || !uuid_is_nil(&s->leader_host));
    if (!sh) {
        struct slice name = registry_str(thole_v1_Shard_name(row));
        sh = xcalloc(1, sizeof *sh);
        snprintf(sh->name, sizeof sh->name, "shard/%.*s", (int)name.size, (const char *)name.data);
        sh->serving = !serving;
        map_put(&h->shards, s->shard_id + 1, sh);
    }
    sh->seen = true;
    if (sh->serving != serving)
        bus_health_set(h->agent->bus, sh->name, serving);
    sh->serving = serving;
}

/* Forget one shard that has no replica here any more; false when there is none. */
static bool sweep_one(struct health *h)
{
    struct shard_health *s;
    uint64_t key;
    for (size_t it = 0; (s = map_next(&h->shards, &it, &key));)
        if (!s->seen) {
            bus_health_remove(h->agent->bus, s->name);
            map_remove(&h->shards, key);
            free(s);
            return true;
        }
    return false;
}

uint64_t health_update(struct health *h, uint64_t now_ns)
{
    char why[160];
    struct agent *a = h->agent;
    if (agent_stopping(a))
        return CLOCK_NEVER;
    if (now_ns < h->next_ns)
        return h->next_ns;
    h->next_ns = now_ns + UPDATE_NS;
    bool ready = agent_ready(a, why, sizeof why);
    if (!h->told || ready != h->ready)
        set_all(a, ready);
    h->told = true;
    h->ready = ready;

    struct engine_replica_status *all = NULL;
    struct shard_health *s;
    size_t n = engine_replicas(a->engine, &all);
    struct registry_view *v = registry_view_acquire(a->registry);
    for (size_t it = 0; (s = map_next(&h->shards, &it, NULL));)
        s->seen = false;
    for (size_t i = 0; i < n; i++)
        update_shard(h, v, &all[i]);
    while (sweep_one(h))
        ;
    registry_view_release(v);
    free(all);
    return CLOCK_NEVER;
}

void health_down(struct agent *a)
{
    set_all(a, false);
}
