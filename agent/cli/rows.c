/* Reading rows: complete lists, single rows, watches. */
#include "agent/cli/rows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "bus/bus.h"
#include "proto/decode.h"
#include "thole/v1/access.upbdefs.h"
#include "thole/v1/operations.upbdefs.h"
#include "thole/v1/resources.upbdefs.h"

#define PAGE_SIZE 1000

void rows_add(struct rows *rows, const void *item)
{
    if ((rows->count & (rows->count - 1)) == 0) { /* the array is full at each power of two */
        size_t capacity = rows->count == 0 ? 1 : rows->count * 2;
        rows->items = xrealloc(rows->items, capacity * sizeof *rows->items);
    }
    rows->items[rows->count++] = item;
}

void rows_deinit(struct rows *rows)
{
    free(rows->items);
    rows->items = NULL;
    rows->count = 0;
}

static upb_StringView view_of(const char *text)
{
    return text != NULL ? cli__sv(text) : (upb_StringView){NULL, 0};
}

#define LIST_PAGE(Service, Names, names)                                                 \
    thole_v1_List##Names##Response *reply = NULL;                                        \
    thole_v1_List##Names##Request_set_page_size(request, PAGE_SIZE);                     \
    thole_v1_List##Names##Request_set_page_token(request, *token);                       \
    thole_v1_List##Names##Request_set_stale(request, q->stale);                          \
    if (CLI_CALL(c, Service, List##Names, request, &reply, List##Names##Response, st)) { \
        return st->code;                                                                 \
    }                                                                                    \
    size_t n = 0;                                                                        \
    const void *const *items =                                                           \
        (const void *const *)thole_v1_List##Names##Response_##names(reply, &n);          \
    for (size_t i = 0; i < n; i++) {                                                     \
        rows_add(ret, items[i]);                                                         \
    }                                                                                    \
    ret->revision = thole_v1_List##Names##Response_revision(reply);                      \
    *token = thole_v1_List##Names##Response_next_page_token(reply);                      \
    return THOLE_OK

static enum thole_code hosts_page(struct cli *c, const struct rows_query *q, upb_StringView *token,
                                  struct rows *ret, struct thole_status *st)
{
    thole_v1_ListHostsRequest *request = thole_v1_ListHostsRequest_new(c->arena);
    LIST_PAGE(Hosts, Hosts, hosts);
}

static enum thole_code shards_page(struct cli *c, const struct rows_query *q, upb_StringView *token,
                                   struct rows *ret, struct thole_status *st)
{
    thole_v1_ListShardsRequest *request = thole_v1_ListShardsRequest_new(c->arena);
    LIST_PAGE(Shards, Shards, shards);
}

static enum thole_code pools_page(struct cli *c, const struct rows_query *q, upb_StringView *token,
                                  struct rows *ret, struct thole_status *st)
{
    thole_v1_ListPoolsRequest *request = thole_v1_ListPoolsRequest_new(c->arena);
    LIST_PAGE(Pools, Pools, pools);
}

static enum thole_code roles_page(struct cli *c, const struct rows_query *q, upb_StringView *token,
                                  struct rows *ret, struct thole_status *st)
{
    thole_v1_ListRolesRequest *request = thole_v1_ListRolesRequest_new(c->arena);
    LIST_PAGE(Roles, Roles, roles);
}

static enum thole_code tokens_page(struct cli *c, const struct rows_query *q, upb_StringView *token,
                                   struct rows *ret, struct thole_status *st)
{
    thole_v1_ListTokensRequest *request = thole_v1_ListTokensRequest_new(c->arena);
    LIST_PAGE(Tokens, Tokens, tokens);
}

static enum thole_code operations_page(struct cli *c, const struct rows_query *q,
                                       upb_StringView *token, struct rows *ret,
                                       struct thole_status *st)
{
    thole_v1_ListOperationsRequest *request = thole_v1_ListOperationsRequest_new(c->arena);
    LIST_PAGE(Operations, Operations, operations);
}

static enum thole_code replicas_page(struct cli *c, const struct rows_query *q,
                                     upb_StringView *token, struct rows *ret,
                                     struct thole_status *st)
{
    thole_v1_ListReplicasRequest *request = thole_v1_ListReplicasRequest_new(c->arena);
    thole_v1_ListReplicasRequest_set_shard(request, view_of(q->shard));
    thole_v1_ListReplicasRequest_set_host(request, view_of(q->host));
    LIST_PAGE(Replicas, Replicas, replicas);
}

static enum thole_code events_page(struct cli *c, const struct rows_query *q, upb_StringView *token,
                                   struct rows *ret, struct thole_status *st)
{
    thole_v1_ListEventsRequest *request = thole_v1_ListEventsRequest_new(c->arena);
    thole_v1_ListEventsRequest_set_object(request, view_of(q->object));
    thole_v1_ListEventsRequest_set_after_revision(request, q->after);
    LIST_PAGE(Events, Events, events);
}

/* All kept events are newer than the wanted or the last seen one. */
static void tell_dropped(const struct thole_status *st)
{
    cli__note("%s; continuing from there", st->message);
}

enum thole_code rows_list(struct cli *c, const struct rows_query *q, struct rows *ret,
                          struct thole_status *st)
{
    upb_StringView token = {NULL, 0};
    struct rows_query kept = *q;
    *ret = (struct rows){.kind = q->kind};
    do {
        enum thole_code code = THOLE_OK;
        switch (q->kind) {
        case ROWS_HOSTS:
            code = hosts_page(c, q, &token, ret, st);
            break;
        case ROWS_SHARDS:
            code = shards_page(c, q, &token, ret, st);
            break;
        case ROWS_REPLICAS:
            code = replicas_page(c, q, &token, ret, st);
            break;
        case ROWS_EVENTS:
            code = events_page(c, q, &token, ret, st);
            if (code == THOLE_OUT_OF_RANGE && st->reason == THOLE_REASON_COMPACTED) {
                tell_dropped(st);
                kept.after = 0;
                token = (upb_StringView){NULL, 0};
                q = &kept;
                code = events_page(c, q, &token, ret, st);
            }
            break;
        case ROWS_POOLS:
            code = pools_page(c, q, &token, ret, st);
            break;
        case ROWS_OPERATIONS:
            code = operations_page(c, q, &token, ret, st);
            break;
        case ROWS_ROLES:
            code = roles_page(c, q, &token, ret, st);
            break;
        case ROWS_TOKENS:
            code = tokens_page(c, q, &token, ret, st);
            break;
        }
        if (code != THOLE_OK) {
            rows_deinit(ret);
            return code;
        }
    } while (token.size > 0);
    return THOLE_OK;
}

enum thole_code rows_get_shard(struct cli *c, const char *name, bool stale,
                               const thole_v1_Shard **ret, struct thole_status *st)
{
    thole_v1_GetShardRequest *request = thole_v1_GetShardRequest_new(c->arena);
    thole_v1_GetShardRequest_set_name(request, cli__sv(name));
    thole_v1_GetShardRequest_set_stale(request, stale);
    return CLI_CALL(c, Shards, GetShard, request, ret, Shard, st);
}

enum thole_code rows_get_host(struct cli *c, const char *name, bool stale,
                              const thole_v1_Host **ret, struct thole_status *st)
{
    thole_v1_GetHostRequest *request = thole_v1_GetHostRequest_new(c->arena);
    thole_v1_GetHostRequest_set_name(request, cli__sv(name));
    thole_v1_GetHostRequest_set_stale(request, stale);
    return CLI_CALL(c, Hosts, GetHost, request, ret, Host, st);
}

enum thole_code rows_get_pool(struct cli *c, const char *name, bool stale,
                              const thole_v1_ShardPool **ret, struct thole_status *st)
{
    thole_v1_GetPoolRequest *request = thole_v1_GetPoolRequest_new(c->arena);
    thole_v1_GetPoolRequest_set_name(request, cli__sv(name));
    thole_v1_GetPoolRequest_set_stale(request, stale);
    return CLI_CALL(c, Pools, GetPool, request, ret, ShardPool, st);
}

enum thole_code rows_get_role(struct cli *c, const char *name, bool stale,
                              const thole_v1_Role **ret, struct thole_status *st)
{
    thole_v1_GetRoleRequest *request = thole_v1_GetRoleRequest_new(c->arena);
    thole_v1_GetRoleRequest_set_name(request, cli__sv(name));
    thole_v1_GetRoleRequest_set_stale(request, stale);
    return CLI_CALL(c, Roles, GetRole, request, ret, Role, st);
}

const thole_v1_ShardSpec *rows_spec_of(struct cli *c, const char *name, bool *ret_pool)
{
    struct thole_status st;
    const thole_v1_Shard *shard = NULL;
    const thole_v1_ShardPool *pool = NULL;
    bool is_shard = rows_get_shard(c, name, true, &shard, &st) == THOLE_OK;
    bool is_pool = !is_shard && rows_get_pool(c, name, true, &pool, &st) == THOLE_OK;
    if (ret_pool != NULL) {
        *ret_pool = is_pool;
    }
    return is_shard ? rows_shard_spec(shard) : is_pool ? rows_pool_shard_spec(pool) : NULL;
}

enum thole_code rows_get_operation(struct cli *c, uint64_t id, bool stale,
                                   const thole_v1_Operation **ret, struct thole_status *st)
{
    thole_v1_GetOperationRequest *request = thole_v1_GetOperationRequest_new(c->arena);
    thole_v1_GetOperationRequest_set_id(request, id);
    thole_v1_GetOperationRequest_set_stale(request, stale);
    return CLI_CALL(c, Operations, GetOperation, request, ret, Operation, st);
}

enum thole_code rows_get_replica(struct cli *c, uint64_t id, bool stale,
                                 const thole_v1_Replica **ret, struct thole_status *st)
{
    struct rows all;
    const struct rows_query q = {.kind = ROWS_REPLICAS, .stale = stale};
    enum thole_code code = rows_list(c, &q, &all, st);
    if (code != THOLE_OK) {
        return code;
    }
    *ret = NULL;
    for (size_t i = 0; i < all.count && *ret == NULL; i++) {
        *ret = thole_v1_Replica_id(all.items[i]) == id ? all.items[i] : NULL;
    }
    rows_deinit(&all);
    return *ret != NULL ? THOLE_OK
                        : THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA,
                                     "there is no replica %" PRIu64, id);
}

/* In an absent message all fields have their default value. */
static const void *or_nothing(const void *message)
{
    static const uint64_t nothing[64];
    return message != NULL ? message : nothing;
}

const thole_v1_HostSpec *rows_host_spec(const thole_v1_Host *host)
{
    return or_nothing(thole_v1_Host_spec(host));
}

const thole_v1_ShardSpec *rows_shard_spec(const thole_v1_Shard *shard)
{
    return or_nothing(thole_v1_Shard_spec(shard));
}

const thole_v1_ShardStatus *rows_shard_status(const thole_v1_Shard *shard)
{
    return or_nothing(thole_v1_Shard_status(shard));
}

const thole_v1_ShardPoolSpec *rows_pool_spec(const thole_v1_ShardPool *pool)
{
    return or_nothing(thole_v1_ShardPool_spec(pool));
}

const thole_v1_ShardSpec *rows_pool_shard_spec(const thole_v1_ShardPool *pool)
{
    return or_nothing(thole_v1_ShardPoolSpec_shard(rows_pool_spec(pool)));
}

const thole_v1_ShardPoolStatus *rows_pool_status(const thole_v1_ShardPool *pool)
{
    return or_nothing(thole_v1_ShardPool_status(pool));
}

const thole_v1_RoleSpec *rows_role_spec(const thole_v1_Role *role)
{
    return or_nothing(thole_v1_Role_spec(role));
}

const thole_v1_Condition *rows_condition(const thole_v1_Shard *shard, const char *type)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(shard);
    size_t n = 0;
    const thole_v1_Condition *const *conditions =
        status != NULL ? thole_v1_ShardStatus_conditions(status, &n) : NULL;
    for (size_t i = 0; i < n; i++) {
        if (upb_StringView_IsEqual(thole_v1_Condition_type(conditions[i]), cli__sv(type))) {
            return conditions[i];
        }
    }
    return NULL;
}

bool rows_shard_ready(const thole_v1_Shard *shard)
{
    const thole_v1_Condition *ready = rows_condition(shard, "Ready");
    return ready != NULL && thole_v1_Condition_status(ready) && !thole_v1_Shard_deleting(shard) &&
           thole_v1_ShardStatus_observed_generation(rows_shard_status(shard)) >=
               thole_v1_Shard_generation(shard);
}

bool rows_pool_ready(const thole_v1_ShardPool *pool)
{
    const thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_status(pool);
    const thole_v1_ShardPoolSpec *spec = thole_v1_ShardPool_spec(pool);
    return status != NULL && spec != NULL && !thole_v1_ShardPool_deleting(pool) &&
           thole_v1_ShardPoolStatus_observed_generation(status) >=
               thole_v1_ShardPool_generation(pool) &&
           thole_v1_ShardPoolStatus_ready(status) == thole_v1_ShardPoolSpec_count(spec) &&
           thole_v1_ShardPoolStatus_shards(status) == thole_v1_ShardPoolSpec_count(spec);
}

const char *rows_name(enum rows_kind kind, const void *row, char *ret, size_t size)
{
    ret[0] = '\0';
    switch (kind) {
    case ROWS_HOSTS:
        snprintf(ret, size, "hosts/%.*s", CLI_SV(thole_v1_Host_name(row)));
        break;
    case ROWS_SHARDS:
        snprintf(ret, size, "shards/%.*s", CLI_SV(thole_v1_Shard_name(row)));
        break;
    case ROWS_REPLICAS:
        snprintf(ret, size, "shards/%.*s/replicas/%" PRIu64, CLI_SV(thole_v1_Replica_shard(row)),
                 thole_v1_Replica_id(row));
        break;
    case ROWS_EVENTS:
        snprintf(ret, size, "%.*s", CLI_SV(thole_v1_Event_object(row)));
        break;
    case ROWS_POOLS:
        snprintf(ret, size, "pools/%.*s", CLI_SV(thole_v1_ShardPool_name(row)));
        break;
    case ROWS_OPERATIONS:
        snprintf(ret, size, "operations/%" PRIu64, thole_v1_Operation_id(row));
        break;
    case ROWS_ROLES:
        snprintf(ret, size, "roles/%.*s", CLI_SV(thole_v1_Role_name(row)));
        break;
    case ROWS_TOKENS:
        snprintf(ret, size, "tokens/%.*s", CLI_SV(thole_v1_Token_id(row)));
        break;
    }
    return ret;
}

const upb_MessageDef *rows_def(struct cli *c, enum rows_kind kind)
{
    switch (kind) {
    case ROWS_HOSTS:
        return thole_v1_Host_getmsgdef(c->pool);
    case ROWS_SHARDS:
        return thole_v1_Shard_getmsgdef(c->pool);
    case ROWS_REPLICAS:
        return thole_v1_Replica_getmsgdef(c->pool);
    case ROWS_POOLS:
        return thole_v1_ShardPool_getmsgdef(c->pool);
    case ROWS_OPERATIONS:
        return thole_v1_Operation_getmsgdef(c->pool);
    case ROWS_ROLES:
        return thole_v1_Role_getmsgdef(c->pool);
    case ROWS_TOKENS:
        return thole_v1_Token_getmsgdef(c->pool);
    case ROWS_EVENTS:
        break;
    }
    return thole_v1_Event_getmsgdef(c->pool);
}

/* ---- Watching -------------------------------------------------------------------------------- */

struct watching {
    struct cli *c;
    uint64_t begin_ns, timeout_ms;
    uint64_t revision;               /* everything up to here was seen */
    const struct rows_query *events; /* for Events.WatchEvents; NULL: all rows, Cluster.Watch */
    rows_watch_fn row;
    void *ctx;
};

static bool time_left(const struct watching *w, uint32_t *ret_ms)
{
    uint64_t passed = (clock_now(&clock_system) - w->begin_ns) / NS_PER_MS;
    if (w->timeout_ms == 0) {
        *ret_ms = 24 * 3600 * 1000;
        return true;
    }
    *ret_ms = passed < w->timeout_ms ? (uint32_t)(w->timeout_ms - passed) : 0;
    return passed < w->timeout_ms;
}

/* Reads one stream to its end. True: the watcher needs no more. */
static bool watch_stream(struct watching *w, struct bus_stream *stream, struct thole_status *st)
{
    uint32_t left = 0;
    bool snapshot = w->revision == 0 && w->events == NULL;
    while (time_left(w, &left)) {
        struct buf *b = NULL;
        if (bus_stream_next(stream, left, &b, st) != THOLE_OK) {
            return false;
        }
        if (snapshot) {
            (void)w->row(w->ctx, NULL);
            snapshot = false;
        }
        upb_Arena *arena = upb_Arena_New();
        const thole_v1_WatchClusterResponse *m =
            PROTO_DECODE(thole_v1_WatchClusterResponse, slice_of(b->data, b->size), arena);
        bool more = m != NULL && w->row(w->ctx, m);
        if (m != NULL && thole_v1_WatchClusterResponse_bookmark(m)) {
            w->revision = thole_v1_WatchClusterResponse_revision(m);
        }
        upb_Arena_Free(arena);
        buf_unref(b);
        if (!more) {
            return true;
        }
    }
    (void)THOLE_FAIL(st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE, "the time is over");
    return false;
}

static struct bus_stream *open_stream(const struct watching *w, upb_Arena *arena,
                                      struct thole_status *st)
{
    size_t size = 0;
    char *bytes = NULL;
    struct bus_stream *stream = NULL;
    if (w->events != NULL) {
        thole_v1_WatchEventsRequest *request = thole_v1_WatchEventsRequest_new(arena);
        thole_v1_WatchEventsRequest_set_after_revision(request, w->revision);
        if (w->events->object != NULL) {
            thole_v1_WatchEventsRequest_set_object(request, cli__sv(w->events->object));
        }
        bytes = thole_v1_WatchEventsRequest_serialize(request, arena, &size);
    } else {
        thole_v1_WatchClusterRequest *request = thole_v1_WatchClusterRequest_new(arena);
        thole_v1_WatchClusterRequest_set_from_revision(request, w->revision);
        bytes = thole_v1_WatchClusterRequest_serialize(request, arena, &size);
    }
    const char *path =
        w->events != NULL ? "/thole.v1.Events/WatchEvents" : "/thole.v1.Cluster/Watch";
    enum thole_code code =
        bus_channel_stream(w->c->channel, path, slice_of(bytes, size), &stream, st);
    return code == THOLE_OK ? stream : NULL;
}

static enum thole_code watch(struct watching *w, struct thole_status *st)
{
    w->begin_ns = clock_now(&clock_system);
    uint32_t left = 0;
    if (cli__connect(w->c, st) != THOLE_OK) {
        return st->code;
    }
    while (time_left(w, &left)) {
        upb_Arena *arena = upb_Arena_New();
        struct bus_stream *stream = open_stream(w, arena, st);
        bool enough = stream != NULL && watch_stream(w, stream, st);
        bus_stream_free(stream);
        upb_Arena_Free(arena);
        if (enough) {
            return THOLE_OK;
        }
        /* Start again: at another host, or with a snapshot. */
        if (st->code == THOLE_OUT_OF_RANGE && st->reason == THOLE_REASON_COMPACTED) {
            w->revision = 0;
            if (w->events != NULL) {
                tell_dropped(st);
            }
        } else if ((st->code != THOLE_UNAVAILABLE && st->reason != THOLE_REASON_OUTCOME_UNKNOWN) ||
                   w->revision == 0) {
            return st->code;
        } else {
            cli__pause_ms(300);
        }
    }
    return THOLE_FAIL(st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE, "the time is over");
}

enum thole_code rows_watch(struct cli *c, uint64_t timeout_ms, rows_watch_fn row, void *ctx,
                           struct thole_status *st)
{
    struct watching w = {.c = c, .timeout_ms = timeout_ms, .row = row, .ctx = ctx};
    return watch(&w, st);
}

enum thole_code rows_watch_events(struct cli *c, const struct rows_query *q, rows_watch_fn row,
                                  void *ctx, struct thole_status *st)
{
    struct watching w = {.c = c, .revision = q->after, .events = q, .row = row, .ctx = ctx};
    return watch(&w, st);
}
