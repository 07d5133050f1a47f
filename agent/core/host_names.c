/* The names of shards and hosts in the log lines of a host, from its view of the registry. */
#include <stdio.h>

#include "agent/core/agent_internal.h"

static bool copy_name(upb_StringView name, char ret[static LOG_NAME_BYTES])
{
    snprintf(ret, LOG_NAME_BYTES, "%.*s", (int)name.size, name.size > 0 ? name.data : "");
    return name.size > 0;
}

static bool name_shard(void *ctx, uint64_t id, char ret[static LOG_NAME_BYTES])
{
    const struct agent *a = ctx;
    struct registry_view *v = registry_view_acquire(a->registry);
    struct registry_shard_buf buf;
    const thole_v1_Shard *row = registry_shard(v, id, &buf);
    bool found = row != NULL && copy_name(thole_v1_Shard_name(row), ret);
    registry_view_release(v);
    return found;
}

static bool name_peer(void *ctx, const struct uuid *id, char ret[static LOG_NAME_BYTES])
{
    const struct agent *a = ctx;
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Host *row = registry_host(v, id);
    bool found = row != NULL && copy_name(thole_v1_Host_name(row), ret);
    registry_view_release(v);
    return found;
}

void agent__log_names_begin(struct agent *a)
{
    a->log_names = (struct log_names){
        .host = a->identity.name, .ctx = a, .shard = name_shard, .peer = name_peer};
    log_names_add(&a->log_names);
}

void agent__log_names_end(struct agent *a)
{
    log_names_remove(&a->log_names);
}
