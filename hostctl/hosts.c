/* Views: what changed since the last one, and what host rows mean to the bus. */
#include "hostctl/hostctl_internal.h"

#include <stdlib.h>
#include <string.h>

bool hostctl__parse_uuid(upb_StringView text, struct uuid *ret)
{
    char copy[UUID_TEXT_BYTES];
    if (text.size != UUID_TEXT_BYTES - 1) {
        return false;
    }
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    return uuid_parse(copy, ret);
}

bool hostctl__host_is(const thole_v1_Host *row, thole_v1_HostState state)
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
        h->hosts = xrealloc(h->hosts, h->host_capacity * sizeof(*h->hosts));
    }
    struct ctl_host *host = &h->hosts[h->host_count++];
    *host = (struct ctl_host){.id = *id};
    pthread_mutex_lock(&h->signs.lock);
    h->signs.of = xrealloc(h->signs.of, h->host_count * sizeof(*h->signs.of));
    h->signs.of[h->signs.count] = (struct ctl_sign){.host = *id};
    detector_restart(&h->signs.of[h->signs.count++].detector, h->now_ms);
    pthread_mutex_unlock(&h->signs.lock);
    return host;
}

/* ---- Addresses ------------------------------------------------------------------------------- */

static void set_address(struct hostctl *h, struct ctl_host *host, struct slice address)
{
    struct slice have = host->address == NULL ? (struct slice){0} : slice_str(host->address);
    if (slice_equal(have, address)) {
        return;
    }
    free(host->address);
    host->address = NULL;
    if (address.size > 0) {
        host->address = xstrndup((const char *)address.data, address.size);
    }
    h->o.upward.host_address(h->o.upward.ctx, &host->id, host->address);
}

static void refresh_hosts(struct hostctl *h)
{
    struct slice name = {0};
    const thole_v1_Host *row;
    for (size_t i = 0; i < h->host_count; i++) {
        h->hosts[i].in_view = false;
    }
    while ((row = registry_next_host(h->view, name)) != NULL) {
        struct uuid id;
        name = registry_str(thole_v1_Host_name(row));
        if (!hostctl__parse_uuid(thole_v1_Host_id(row), &id)) {
            continue;
        }
        struct ctl_host *host = hostctl__host(h, &id);
        const thole_v1_HostStatus *status = thole_v1_Host_status(row);
        host->in_view = true;
        if (status != NULL && thole_v1_HostStatus_address(status).size > 0) {
            set_address(h, host, registry_str(thole_v1_HostStatus_address(status)));
        }
    }
    for (size_t i = 0; i < h->host_count; i++) {
        if (!h->hosts[i].in_view && h->hosts[i].address != NULL) {
            set_address(h, &h->hosts[i], (struct slice){0});
        }
    }
}

/* ---- Changes --------------------------------------------------------------------------------- */

struct changes {
    struct hostctl *h;
    const struct registry_view *before;
    bool hosts;
};

static void host_changed(void *ctx, const thole_v1_Host *row)
{
    struct changes *c = ctx;
    (void)row;
    c->hosts = true;
}

static void shard_changed(void *ctx, const thole_v1_Shard *row)
{
    struct changes *c = ctx;
    hostctl__dirty(c->h, thole_v1_Shard_id(row));
}

static void replica_changed(void *ctx, const thole_v1_Replica *row)
{
    struct changes *c = ctx;
    hostctl__dirty(c->h, thole_v1_Replica_shard_id(row));
}

/* "hosts/NAME", "shards/NAME", "shards/NAME/replicas/ID": the shard is in the view before. */
static void row_gone(void *ctx, const char *name)
{
    struct changes *c = ctx;
    if (strncmp(name, "hosts/", 6) == 0) {
        c->hosts = true;
        return;
    }
    const char *shard = name + strlen("shards/");
    const char *end = strchr(shard, '/');
    size_t size = end == NULL ? strlen(shard) : (size_t)(end - shard);
    const thole_v1_Shard *row = registry_shard_by_name(c->before, slice_of(shard, size));
    if (row != NULL) {
        hostctl__dirty(c->h, thole_v1_Shard_id(row));
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
                                           .gone = row_gone};
    struct thole_status st;
    if (before == NULL ||
        registry_changes_since(now, registry_view_revision(before), &calls, &st) != THOLE_OK) {
        c.hosts = true;
        h->tombstones_dirty = true;
        hostctl__dirty_all(h);
    }
    if (c.hosts) {
        refresh_hosts(h);
        h->liveness_due_ms = h->now_ms;
        hostctl__dirty_all(h); /* placement depends on every host */
    }
    hostctl__place_view_changed(h);
    registry_view_release(before);
}
