/* thole.v1.Pools. */
#include "agent/services/services_internal.h"

static void no_such_pool(struct call *c, upb_StringView name)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD, "pool \"%.*s\" not found",
                     (int)name.size, name.data);
    services__call_fail(c, &st);
}

static void get_run(struct call *c)
{
    const thole_v1_GetPoolRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_GetPoolRequest_name(q), "pools");
    const thole_v1_ShardPool *row = registry_pool_by_name(c->view, registry_str(name));
    if (row == NULL) {
        no_such_pool(c, name);
        return;
    }
    uint32_t unready;
    const struct availability_check check = agent_availability_begin(c->s->agent, c->view);
    services__call_reply(c, services__pool_now(&check, row, c->arena, &unready),
                         &thole_v1_ShardPool_msginit);
}

void services__pools_get(struct call *c)
{
    const thole_v1_GetPoolRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_GetPoolRequest_name(q), "pools");
    services__call_about(c, "pool", name);
    if (services__call_name(c, "name", name)) {
        services__call_read(c, thole_v1_GetPoolRequest_stale(q), get_run);
    }
}

static void list_run(struct call *c)
{
    const thole_v1_ListPoolsRequest *q = c->request;
    struct page p;
    struct bytes key = {0};
    if (!services__page_begin(&p, c, PAGE_POOLS, thole_v1_ListPoolsRequest_page_size(q),
                              thole_v1_ListPoolsRequest_page_token(q), &key)) {
        bytes_deinit(&key);
        return;
    }
    struct slice last = bytes_slice(&key);
    const thole_v1_ShardPool *row = NULL;
    while ((row = registry_next_pool(c->view, last)) != NULL) {
        uint32_t unready;
        const struct availability_check check = agent_availability_begin(c->s->agent, c->view);
        if (!services__page_add(&p, c, services__pool_now(&check, row, c->arena, &unready),
                                &thole_v1_ShardPool_msginit)) {
            break;
        }
        last = registry_str(thole_v1_ShardPool_name(row));
    }
    services__page_reply(&p, c, PAGE_POOLS, row != NULL ? &last : NULL);
    bytes_deinit(&key);
}

void services__pools_list(struct call *c)
{
    const thole_v1_ListPoolsRequest *q = c->request;
    services__call_read(c, thole_v1_ListPoolsRequest_stale(q), list_run);
}

/* The checks of create and update. */
static bool check_pool(struct call *c, const thole_v1_ShardPool *pool, enum registry_spec_use use,
                       upb_StringView request_id, upb_StringView *ret_name)
{
    if (pool == NULL) {
        services__call_refuse(c, "pool", "is needed");
        return false;
    }
    *ret_name = services__name_strip(thole_v1_ShardPool_name(pool), "pools");
    services__call_about(c, "pool", *ret_name);
    struct slice name = registry_str(*ret_name);
    struct registry_violation v;
    bool ok = registry_check_pool_name("pool.name", name, &v) &&
              registry_check_request_id(registry_str(request_id), &v) &&
              registry_check_pool_spec("pool.spec", thole_v1_ShardPool_spec(pool), use, &v);
    return services__call_checked(c, ok, &v);
}

void services__pools_create(struct call *c)
{
    const thole_v1_CreatePoolRequest *q = c->request;
    const thole_v1_ShardPool *pool = thole_v1_CreatePoolRequest_pool(q);
    upb_StringView request_id = thole_v1_CreatePoolRequest_request_id(q);
    upb_StringView name;
    if (!check_pool(c, pool, REGISTRY_SPEC_NEW, request_id, &name)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_CreatePool *create =
        thole_registry_v1_Operation_mutable_create_pool(op, c->arena);
    thole_registry_v1_CreatePool_set_name(create, name);
    thole_registry_v1_CreatePool_set_spec(
        create, (thole_v1_ShardPoolSpec *)(uintptr_t)thole_v1_ShardPool_spec(pool));
    thole_registry_v1_CreatePool_set_awaits_restore(create,
                                                    thole_v1_CreatePoolRequest_awaits_restore(q));
    services__call_command(c, op, request_id, thole_v1_CreatePoolRequest_validate_only(q),
                           &thole_v1_ShardPool_msginit);
}

static bool exists(const struct registry_view *v, struct slice name)
{
    return registry_pool_by_name(v, name) != NULL;
}

void services__pools_update(struct call *c)
{
    const thole_v1_UpdatePoolRequest *q = c->request;
    const thole_v1_ShardPool *pool = thole_v1_UpdatePoolRequest_pool(q);
    upb_StringView request_id = thole_v1_UpdatePoolRequest_request_id(q);
    upb_StringView name;
    if (!check_pool(c, pool, REGISTRY_SPEC_CHANGE, request_id, &name)) {
        return;
    }
    bool allow_missing = thole_v1_UpdatePoolRequest_allow_missing(q);
    if (!services__call_may_create(c, ACCESS_KIND(POOLS), name, exists, &allow_missing)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_UpdatePool *update =
        thole_registry_v1_Operation_mutable_update_pool(op, c->arena);
    thole_registry_v1_UpdatePool_set_name(update, name);
    thole_registry_v1_UpdatePool_set_spec(
        update, (thole_v1_ShardPoolSpec *)(uintptr_t)thole_v1_ShardPool_spec(pool));
    thole_registry_v1_UpdatePool_set_etag(update, thole_v1_ShardPool_etag(pool));
    thole_registry_v1_UpdatePool_set_allow_missing(update, allow_missing);
    services__call_command(c, op, request_id, thole_v1_UpdatePoolRequest_validate_only(q),
                           &thole_v1_ShardPool_msginit);
}

void services__pools_delete(struct call *c)
{
    const thole_v1_DeletePoolRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_DeletePoolRequest_name(q), "pools");
    services__call_about(c, "pool", name);
    if (!services__call_name(c, "name", name) ||
        !services__call_request_id(c, thole_v1_DeletePoolRequest_request_id(q))) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_DeletePool *del =
        thole_registry_v1_Operation_mutable_delete_pool(op, c->arena);
    thole_registry_v1_DeletePool_set_name(del, name);
    thole_registry_v1_DeletePool_set_etag(del, thole_v1_DeletePoolRequest_etag(q));
    thole_registry_v1_DeletePool_set_allow_missing(del,
                                                   thole_v1_DeletePoolRequest_allow_missing(q));
    services__call_command(c, op, thole_v1_DeletePoolRequest_request_id(q), false, NULL);
}
