/* Changes between two views, and the addresses of hosts for the bus. */
#include "hostctl/hostctl_internal.h"

#include "base/metrics.h"

#include <stdlib.h>
#include <string.h>

static METRIC_DEFINE_GAUGE(metric_failing, "thole_hosts_failing",
                           "Hosts that get nothing new, because replicas keep failing there");

bool hostctl__host_has_state(const thole_v1_Host *row, thole_v1_HostState state)
{
    return row != NULL && thole_v1_Host_spec(row) != NULL &&
           thole_v1_HostSpec_state(thole_v1_Host_spec(row)) == (int32_t)state;
}

const thole_v1_Host *hostctl__own_row(const struct hostctl *h)
{
    return registry_host(h->view, &h->o.host_id);
}

struct ctl_host *hostctl__host(struct hostctl *h, const struct uuid *id)
{
    for (size_t i = 0; i < h->host_count; i++) {
        if (uuid_equal(&h->hosts[i].id, id)) {
            return &h->hosts[i];
        }
    }
    if (h->host_count == h->host_capacity) {
        h->host_capacity = h->host_capacity == 0 ? 16 : 2 * h->host_capacity;
        h->hosts = xrealloc(h->hosts, h->host_capacity * sizeof *h->hosts);
    }
    struct ctl_host *host = &h->hosts[h->host_count++];
    *host = (struct ctl_host){.id = *id};
    pthread_mutex_lock(&h->signs.lock);
    h->signs.of = xrealloc(h->signs.of, h->host_count * sizeof *h->signs.of);
    h->signs.of[h->signs.count] = (struct ctl_sign){.host = *id};
    detector_restart(&h->signs.of[h->signs.count++].detector, h->now_ms);
    pthread_mutex_unlock(&h->signs.lock);
    return host;
}

/* ---- Addresses ------------------------------------------------------------------------------- */

static void set_address(struct hostctl *h, struct ctl_host *host, uint64_t incarnation,
                        struct slice address)
{
    struct slice have = host->address == NULL ? (struct slice){0} : slice_str(host->address);
    if (slice_equal(have, address) && host->address_of == incarnation) {
        return;
    }
    host->address_of = incarnation;
    free(host->address);
    host->address = NULL;
    if (address.size > 0) {
        host->address = xstrndup((const char *)address.data, address.size);
    }
    h->o.callbacks.host_address(h->o.callbacks.ctx, &host->id, incarnation, host->address);
}

static void refresh_hosts(struct hostctl *h)
{
    struct slice name = {0};
    const thole_v1_Host *row;
    int64_t failing = 0;
    for (size_t i = 0; i < h->host_count; i++) {
        h->hosts[i].in_view = false;
    }
    while ((row = registry_next_host(h->view, name)) != NULL) {
        struct uuid id;
        name = registry_str(thole_v1_Host_name(row));
        if (!uuid_parse(registry_str(thole_v1_Host_id(row)), &id)) {
            continue;
        }
        struct ctl_host *host = hostctl__host(h, &id);
        const thole_v1_HostStatus *status = thole_v1_Host_status(row);
        host->in_view = true;
        failing += placement_host_is_failing(row);
        if (status != NULL && thole_v1_HostStatus_address(status).size > 0) {
            set_address(h, host, thole_v1_HostStatus_incarnation(status),
                        registry_str(thole_v1_HostStatus_address(status)));
        }
    }
    metric_set(&metric_failing, failing);
    for (size_t i = 0; i < h->host_count; i++) {
        if (!h->hosts[i].in_view && h->hosts[i].address != NULL) {
            set_address(h, &h->hosts[i], 0, (struct slice){0});
        }
    }
}

/* ---- Changes --------------------------------------------------------------------------------- */

struct changes {
    struct hostctl *h;
    const struct registry_view *before;
    bool hosts; /* addresses and liveness may have changed */
    bool all;   /* placement of every shard may be another one */
    bool replicas, leaders;
    bool operations;
    bool own;     /* what is wanted of this host */
    bool recount; /* names of hosts, by which leaders are counted, came or went */
};

static bool is_dead(const thole_v1_Host *row)
{
    return thole_v1_HostStatus_liveness(thole_v1_Host_status(row)) == thole_v1_HOST_LIVENESS_DEAD;
}

static bool same_types(const thole_v1_Host *a, const thole_v1_Host *b)
{
    size_t count = 0;
    size_t other = 0;
    const thole_v1_MachineType *const *x =
        thole_v1_HostStatus_machine_types(thole_v1_Host_status(a), &count);
    const thole_v1_MachineType *const *y =
        thole_v1_HostStatus_machine_types(thole_v1_Host_status(b), &other);
    bool same = count == other;
    for (size_t i = 0; same && i < count; i++) {
        same = slice_equal(registry_str(thole_v1_MachineType_name(x[i])),
                           registry_str(thole_v1_MachineType_name(y[i])));
    }
    return same;
}

/* A dead host affects the shards that have a replica on it, and those that lack a host anyway. */
static void dirty_of_host(struct hostctl *h, const struct uuid *id)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *row;
    uint64_t after = 0;
    while ((row = registry_next_replica_of_host(h->view, id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        hostctl__dirty(h, thole_v1_Replica_shard_id(row));
    }
    size_t it = 0;
    const struct ctl_shard *s;
    hostctl__dirty(h, REGISTRY_SHARD_ID);
    while ((s = map_next(&h->shards, &it, NULL)) != NULL) {
        if (s->decided && s->verdict == PLACEMENT_UNSATISFIABLE) {
            hostctl__dirty(h, s->id);
        }
    }
}

/* Shards with a step under way, or not yet possible. */
static void dirty_waiting(struct hostctl *h)
{
    size_t it = 0;
    const struct ctl_shard *s;
    hostctl__dirty(h, REGISTRY_SHARD_ID);
    while (h->unsettled > 0 && (s = map_next(&h->shards, &it, NULL)) != NULL) {
        if (s->decided && s->verdict == PLACEMENT_WAIT) {
            hostctl__dirty(h, s->id);
        }
    }
}

/* Only changes that placement depends on wake shards: a new address or a suspicion does not. */
static void host_changed(void *ctx, const thole_v1_Host *row)
{
    struct changes *c = ctx;
    struct uuid id;
    c->hosts = true;
    if (!uuid_parse(registry_str(thole_v1_Host_id(row)), &id)) {
        return;
    }
    const thole_v1_Host *was = registry_host(c->before, &id);
    c->recount |=
        was == NULL || !upb_StringView_IsEqual(thole_v1_Host_name(was), thole_v1_Host_name(row));
    bool own = uuid_equal(&id, &c->h->o.host_id);
    bool spec = was == NULL || thole_v1_Host_generation(was) != thole_v1_Host_generation(row);
    bool usable = !spec && ((is_dead(was) && !is_dead(row)) ||
                            (placement_host_is_failing(was) && !placement_host_is_failing(row)));
    if (spec || usable || !same_types(was, row)) {
        c->all |= own || c->h->zero_leader;
        c->own |= own;
    } else if (is_dead(row) && !is_dead(was) && c->h->zero_leader) {
        dirty_of_host(c->h, &id);
    } else if (c->h->zero_leader) {
        dirty_waiting(c->h); /* a suspect host is chosen only if there is no other */
    }
}

static void shard_changed(void *ctx, const thole_v1_Shard *row)
{
    struct registry_shard_buf shard_buf;
    struct changes *c = ctx;
    uint64_t id = thole_v1_Shard_id(row);
    const thole_v1_Shard *was = registry_shard(c->before, id, &shard_buf);
    if (was == NULL) { /* the name was reused: the old shard is not reported as gone */
        was = registry_shard_by_name(c->before, registry_str(thole_v1_Shard_name(row)), &shard_buf);
    }
    hostctl__dirty(c->h, id);
    hostctl__leaders_count(c->h, c->before, was, false);
    hostctl__leaders_count(c->h, c->h->view, row, true);
    c->leaders = true;
    c->h->leaders_moved |=
        was == NULL ||
        !upb_StringView_IsEqual(thole_v1_ShardStatus_leader_host(thole_v1_Shard_status(was)),
                                thole_v1_ShardStatus_leader_host(thole_v1_Shard_status(row)));
}

static void replica_changed(void *ctx, const thole_v1_Replica *row)
{
    struct changes *c = ctx;
    hostctl__dirty(c->h, thole_v1_Replica_shard_id(row));
    c->replicas = c->h->leaders_moved = true; /* a replica that runs now may lead */
}

static void pool_changed(void *ctx, const thole_v1_ShardPool *row)
{
    struct changes *c = ctx;
    (void)row;
    c->h->pools_dirty = true;
}

static void operation_changed(void *ctx, const thole_v1_Operation *row)
{
    struct changes *c = ctx;
    (void)row;
    c->operations = true;
}

/* "hosts/NAME", "shards/NAME", "shards/NAME/replicas/ID": the shard is in the view before. */
static void row_gone(void *ctx, const char *name)
{
    struct registry_shard_buf shard_buf;
    struct changes *c = ctx;
    if (strncmp(name, "hosts/", 6) == 0) {
        c->hosts = c->recount = true;
        c->all |= c->h->zero_leader;
        return;
    }
    if (strncmp(name, "shards/", 7) != 0) {
        return;
    }
    c->replicas = true;
    const char *shard = name + strlen("shards/");
    const char *end = strchr(shard, '/');
    size_t size = end == NULL ? strlen(shard) : (size_t)(end - shard);
    const thole_v1_Shard *row =
        registry_shard_by_name(c->before, slice_of(shard, size), &shard_buf);
    if (row != NULL) {
        hostctl__dirty(c->h, thole_v1_Shard_id(row));
    }
    if (end == NULL) {
        hostctl__leaders_count(c->h, c->before, row, false);
        c->leaders = c->h->leaders_moved = true;
    }
    if (end != NULL) { /* the replica of shard zero goes last from a removed host */
        hostctl__dirty(c->h, REGISTRY_SHARD_ID);
        c->h->tombstones_dirty = true;
    }
}

void hostctl__refresh_view(struct hostctl *h)
{
    struct registry_view *now = registry_view_acquire(h->o.registry);
    struct registry_view *before = h->view;
    if (before != NULL && registry_view_revision(before) == registry_view_revision(now)) {
        registry_view_release(now);
        return;
    }
    h->view = now;
    struct changes c = {.h = h, .before = before, .hosts = before == NULL};
    const struct registry_changes calls = {.ctx = &c,
                                           .host = host_changed,
                                           .shard = shard_changed,
                                           .replica = replica_changed,
                                           .pool = pool_changed,
                                           .operation = operation_changed,
                                           .gone = row_gone};
    struct thole_status st;
    if (before == NULL ||
        registry_changes_since(now, registry_view_revision(before), &calls, &st) != THOLE_OK) {
        c.hosts = c.all = c.replicas = c.leaders = c.operations = c.recount = true;
        h->tombstones_dirty = true;
        h->pools_dirty = true;
    }
    if (c.hosts) {
        refresh_hosts(h);
        h->liveness_due_ms = h->now_ms;
    }
    if (c.recount) {
        hostctl__leaders_recount(h);
    }
    if (c.all) {
        hostctl__dirty_all(h);
    }
    if (c.replicas || c.hosts) {
        hostctl__balance_changed(h);
    }
    bool draining = hostctl__host_has_state(hostctl__own_row(h), thole_v1_HOST_STATE_DRAINING);
    if (draining && (c.own || c.replicas)) {
        h->leaders_due_ms = h->now_ms;
    } else if (c.hosts) {
        hostctl__leaders_hosts_changed(h);
    } else if (c.leaders || c.replicas) {
        hostctl__leaders_changed(h);
    }
    if (c.operations) {
        hostctl__operations_changed(h);
    }
    if (c.leaders || c.hosts || c.replicas) {
        hostctl__operate_again(h);
    }
    hostctl__place_view_changed(h);
    registry_view_release(before);
}
