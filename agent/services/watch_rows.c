/* Rows of a watch, encoded as WatchClusterResponse. */
#include <stdlib.h>
#include <string.h>
#include <upb/encode.h>

#include "agent/services/cluster_watch.h"

#define SNAPSHOT_ROWS 256 /* encoded at a time */

/* ---- Rows ------------------------------------------------------------------------------------ */

void services__watch_push(struct cluster_watch *w, struct bytes *out)
{
    struct pending *p = xcalloc(1, sizeof *p);
    struct buf *b = bytes_to_buf(out);
    bytes_deinit(out);
    p->message = (struct bufslice){b, slice_of(b->data, b->size)};
    *w->last = p;
    w->last = &p->next;
}

static void push_row(struct cluster_watch *w, uint32_t field, const void *row,
                     const upb_MiniTable *kind, uint64_t revision)
{
    upb_Arena *arena = upb_Arena_New();
    struct bufslice bytes = services__encode(row, kind, arena);
    upb_Arena_Free(arena);
    struct bytes out = {0};
    services__wire_bytes(&out, field, bytes.bytes);
    services__wire_varint(&out, 6, revision);
    bufslice_unref(bytes);
    services__watch_push(w, &out);
}

/* With the current ready count; remembers how it differed from the row. */
void services__watch_push_pool(void *ctx, const thole_v1_ShardPool *row)
{
    struct cluster_watch *w = ctx;
    uint32_t unready = 0;
    upb_Arena *arena = upb_Arena_New();
    const struct availability_check check = agent_availability_begin(w->s->agent, w->view);
    const thole_v1_ShardPool *now = services__pool_now(&check, row, arena, &unready);
    push_row(w, 8, now, &thole_v1_ShardPool_msginit, thole_v1_ShardPool_revision(row));
    upb_Arena_Free(arena);
    if (unready != 0) {
        (void)map_put(&w->pools, services__pool_key(row), (void *)(uintptr_t)unready);
    } else {
        (void)map_remove(&w->pools, services__pool_key(row));
    }
}

static void push_operation(void *ctx, const thole_v1_Operation *row)
{
    push_row(ctx, 9, row, &thole_v1_Operation_msginit, thole_v1_Operation_revision(row));
}

/* The user of the call stays valid while the watch is not finished. */
static bool may_read(struct cluster_watch *w, uint32_t kinds)
{
    struct bus_denial d;
    const struct access_right right = {.verb = thole_v1_ROLE_VERB_READ, .kinds = kinds};
    return access_require(agent_access(w->s->agent), bus_rpc_user(w->rpc), &right, &d) == THOLE_OK;
}

static void push_role(void *ctx, const thole_v1_Role *row)
{
    if (!may_read(ctx, ACCESS_KIND(ROLES))) {
        return;
    }
    push_row(ctx, 10, row, &thole_v1_Role_msginit, thole_v1_Role_revision(row));
}

static void push_token(void *ctx, const thole_v1_Token *row)
{
    if (!may_read(ctx, ACCESS_KIND(TOKENS))) {
        return;
    }
    push_row(ctx, 11, row, &thole_v1_Token_msginit, thole_v1_Token_revision(row));
}

/* With the current liveness and number of replicas, which it remembers. */
void services__watch_push_host(void *ctx, const thole_v1_Host *row)
{
    struct cluster_watch *w = ctx;
    upb_Arena *arena = upb_Arena_New();
    const struct availability_check check = agent_availability_begin(w->s->agent, w->view);
    push_row(w, 1, services__host_now(&check, row, arena), &thole_v1_Host_msginit,
             thole_v1_Host_revision(row));
    services__host_sent(&check, row, &w->hosts);
    upb_Arena_Free(arena);
}

/* With the current conditions; remembers which of them differed from the row. */
void services__watch_push_shard(void *ctx, const thole_v1_Shard *row)
{
    struct cluster_watch *w = ctx;
    struct shard_availability now;
    upb_Arena *arena = upb_Arena_New();
    const struct availability_check check = agent_availability_begin(w->s->agent, w->view);
    uint32_t differ = services__conditions_differ(&check, row, &now);
    push_row(w, 2, services__conditions_now(&check, row, arena), &thole_v1_Shard_msginit,
             thole_v1_Shard_revision(row));
    upb_Arena_Free(arena);
    if (differ != 0) {
        (void)map_put(&w->differ, thole_v1_Shard_id(row), (void *)(uintptr_t)differ);
    } else {
        (void)map_remove(&w->differ, thole_v1_Shard_id(row));
    }
}

static void push_replica(void *ctx, const thole_v1_Replica *row)
{
    push_row(ctx, 3, row, &thole_v1_Replica_msginit, thole_v1_Replica_revision(row));
}

void services__watch_push_event(void *ctx, const thole_v1_Event *row)
{
    push_row(ctx, 4, row, &thole_v1_Event_msginit, thole_v1_Event_revision(row));
}

/* The rows that need a right of their own; see push_role and push_token. */
static bool may_read_name(struct cluster_watch *w, const char *name)
{
    if (strncmp(name, "roles/", strlen("roles/")) == 0) {
        return may_read(w, ACCESS_KIND(ROLES));
    }
    return strncmp(name, "tokens/", strlen("tokens/")) != 0 || may_read(w, ACCESS_KIND(TOKENS));
}

static void push_gone(void *ctx, const char *name)
{
    struct cluster_watch *w = ctx;
    struct bytes out = {0};
    if (!may_read_name(w, name)) {
        return;
    }
    services__wire_bytes(&out, 5, slice_str(name));
    services__watch_push(w, &out);
}

void services__watch_push_bookmark(struct cluster_watch *w)
{
    struct bytes out = {0};
    services__wire_varint(&out, 6, w->revision);
    services__wire_varint(&out, 7, 1);
    services__watch_push(w, &out);
}

/* ---- Rounds ---------------------------------------------------------------------------------- */

static void remember_name(struct cluster_watch *w, upb_StringView name)
{
    size_t size = name.size < LIMIT_NAME_BYTES ? name.size : LIMIT_NAME_BYTES;
    memcpy(w->after_name, name.data, size);
    w->after_name[size] = '\0';
}

void services__watch_push_snapshot(struct cluster_watch *w)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    for (size_t i = 0; i < SNAPSHOT_ROWS && w->phase != PHASE_CHANGES; i++) {
        const thole_v1_Host *host = NULL;
        const thole_v1_ShardPool *pool = NULL;
        const thole_v1_Operation *operation = NULL;
        const thole_v1_Role *role = NULL;
        const thole_v1_Token *token = NULL;
        const thole_v1_Shard *shard = NULL;
        const thole_v1_Replica *replica = NULL;
        if (w->phase == PHASE_HOSTS &&
            (host = registry_next_host(w->view, slice_str(w->after_name))) != NULL) {
            services__watch_push_host(w, host);
            remember_name(w, thole_v1_Host_name(host));
        } else if (w->phase == PHASE_POOLS &&
                   (pool = registry_next_pool(w->view, slice_str(w->after_name))) != NULL) {
            services__watch_push_pool(w, pool);
            remember_name(w, thole_v1_ShardPool_name(pool));
        } else if (w->phase == PHASE_OPERATIONS &&
                   (operation = registry_next_operation(w->view, w->after_id)) != NULL) {
            push_operation(w, operation);
            w->after_id = thole_v1_Operation_id(operation);
        } else if (w->phase == PHASE_ROLES &&
                   (role = registry_next_role(w->view, slice_str(w->after_name))) != NULL) {
            push_role(w, role);
            remember_name(w, thole_v1_Role_name(role));
        } else if (w->phase == PHASE_TOKENS &&
                   (token = registry_next_token(w->view, slice_str(w->after_name))) != NULL) {
            push_token(w, token);
            remember_name(w, thole_v1_Token_id(token));
        } else if (w->phase == PHASE_SHARDS &&
                   (shard = registry_next_shard(w->view, slice_str(w->after_name), &shard_buf)) !=
                       NULL) {
            services__watch_push_shard(w, shard);
            remember_name(w, thole_v1_Shard_name(shard));
        } else if (w->phase == PHASE_REPLICAS &&
                   (replica = registry_next_replica(w->view, w->after_id, &replica_buf)) != NULL) {
            push_replica(w, replica);
            w->after_id = thole_v1_Replica_id(replica);
        } else {
            w->phase++;
            w->after_name[0] = '\0';
            w->after_id = 0;
        }
    }
    if (w->phase == PHASE_CHANGES) {
        w->revision = registry_view_revision(w->view);
        registry_view_release(w->view);
        w->view = NULL;
        services__watch_push_bookmark(w);
    }
}

enum thole_code services__watch_push_changes(struct cluster_watch *w, struct thole_status *st)
{
    const struct registry_changes changes = {.ctx = w,
                                             .host = services__watch_push_host,
                                             .shard = services__watch_push_shard,
                                             .replica = push_replica,
                                             .pool = services__watch_push_pool,
                                             .operation = push_operation,
                                             .role = push_role,
                                             .token = push_token,
                                             .event = services__watch_push_event,
                                             .gone = push_gone};
    return registry_changes_since(w->view, w->revision, &changes, st);
}
