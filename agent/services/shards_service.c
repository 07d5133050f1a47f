/* thole.v1.Shards. */
#include "agent/services/services_internal.h"
#include "proto/decode.h"

#include <inttypes.h>

static void no_such_shard(struct call *c, upb_StringView name)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD, "shard \"%.*s\" not found",
                     (int)name.size, name.data);
    services__call_fail(c, &st);
}

static void get_run(struct call *c)
{
    struct registry_shard_buf shard_buf;
    const thole_v1_GetShardRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_GetShardRequest_name(q), "shards");
    const thole_v1_Shard *row = registry_shard_by_name(c->view, registry_str(name), &shard_buf);
    if (row == NULL) {
        no_such_shard(c, name);
        return;
    }
    const struct availability_check check = agent_availability_begin(c->s->agent, c->view);
    services__call_reply(c, services__conditions_now(&check, row, c->arena),
                         &thole_v1_Shard_msginit);
}

void services__shards_get(struct call *c)
{
    const thole_v1_GetShardRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_GetShardRequest_name(q), "shards");
    services__call_about(c, "shard", name);
    if (services__call_name(c, "name", name)) {
        services__call_read(c, thole_v1_GetShardRequest_stale(q), get_run);
    }
}

static void list_run(struct call *c)
{
    struct registry_shard_buf shard_buf;
    const thole_v1_ListShardsRequest *q = c->request;
    struct page p;
    struct bytes key = {0};
    if (!services__page_begin(&p, c, PAGE_SHARDS, thole_v1_ListShardsRequest_page_size(q),
                              thole_v1_ListShardsRequest_page_token(q), &key)) {
        bytes_deinit(&key);
        return;
    }
    struct slice last = bytes_slice(&key);
    const thole_v1_Shard *row = NULL;
    const struct availability_check check = agent_availability_begin(c->s->agent, c->view);
    while ((row = registry_next_shard(c->view, last, &shard_buf)) != NULL) {
        if (!services__page_add(&p, c, services__conditions_now(&check, row, c->arena),
                                &thole_v1_Shard_msginit)) {
            break;
        }
        last = registry_str(thole_v1_Shard_name(row));
    }
    services__page_reply(&p, c, PAGE_SHARDS, row != NULL ? &last : NULL);
    bytes_deinit(&key);
}

void services__shards_list(struct call *c)
{
    const thole_v1_ListShardsRequest *q = c->request;
    services__call_read(c, thole_v1_ListShardsRequest_stale(q), list_run);
}

/* The checks of create and update. */
static bool check_shard(struct call *c, const thole_v1_Shard *shard, enum registry_spec_use use,
                        upb_StringView request_id, upb_StringView *ret_name)
{
    if (shard == NULL) {
        services__call_refuse(c, "shard", "is needed");
        return false;
    }
    *ret_name = services__name_strip(thole_v1_Shard_name(shard), "shards");
    services__call_about(c, "shard", *ret_name);
    struct slice name = registry_str(*ret_name);
    struct registry_violation v;
    bool ok = registry_check_name("shard.name", name, &v) &&
              registry_check_request_id(registry_str(request_id), &v) &&
              registry_check_shard_spec("shard.spec", thole_v1_Shard_spec(shard), use, &v);
    return services__call_checked(c, ok, &v);
}

void services__shards_create(struct call *c)
{
    const thole_v1_CreateShardRequest *q = c->request;
    const thole_v1_Shard *shard = thole_v1_CreateShardRequest_shard(q);
    upb_StringView request_id = thole_v1_CreateShardRequest_request_id(q);
    upb_StringView name;
    if (!check_shard(c, shard, REGISTRY_SPEC_NEW, request_id, &name)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_CreateShard *create =
        thole_registry_v1_Operation_mutable_create_shard(op, c->arena);
    thole_registry_v1_CreateShard_set_name(create, name);
    thole_registry_v1_CreateShard_set_spec(
        create, (thole_v1_ShardSpec *)(uintptr_t)thole_v1_Shard_spec(shard));
    services__call_command(c, op, request_id, thole_v1_CreateShardRequest_validate_only(q),
                           &thole_v1_Shard_msginit);
}

void services__shards_update(struct call *c)
{
    const thole_v1_UpdateShardRequest *q = c->request;
    const thole_v1_Shard *shard = thole_v1_UpdateShardRequest_shard(q);
    upb_StringView request_id = thole_v1_UpdateShardRequest_request_id(q);
    upb_StringView name;
    if (!check_shard(c, shard, REGISTRY_SPEC_CHANGE, request_id, &name)) {
        return;
    }
    bool allow_missing = thole_v1_UpdateShardRequest_allow_missing(q);
    if (!services__call_may_create(c, ACCESS_KIND(SHARDS), name, registry_has_shard_name,
                                   &allow_missing)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_UpdateShard *update =
        thole_registry_v1_Operation_mutable_update_shard(op, c->arena);
    thole_registry_v1_UpdateShard_set_name(update, name);
    thole_registry_v1_UpdateShard_set_spec(
        update, (thole_v1_ShardSpec *)(uintptr_t)thole_v1_Shard_spec(shard));
    thole_registry_v1_UpdateShard_set_etag(update, thole_v1_Shard_etag(shard));
    thole_registry_v1_UpdateShard_set_allow_missing(update, allow_missing);
    services__call_command(c, op, request_id, thole_v1_UpdateShardRequest_validate_only(q),
                           &thole_v1_Shard_msginit);
}

void services__shards_delete(struct call *c)
{
    const thole_v1_DeleteShardRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_DeleteShardRequest_name(q), "shards");
    services__call_about(c, "shard", name);
    if (!services__call_name(c, "name", name) ||
        !services__call_request_id(c, thole_v1_DeleteShardRequest_request_id(q))) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_DeleteShard *del =
        thole_registry_v1_Operation_mutable_delete_shard(op, c->arena);
    thole_registry_v1_DeleteShard_set_name(del, name);
    thole_registry_v1_DeleteShard_set_etag(del, thole_v1_DeleteShardRequest_etag(q));
    thole_registry_v1_DeleteShard_set_allow_missing(del,
                                                    thole_v1_DeleteShardRequest_allow_missing(q));
    services__call_command(c, op, thole_v1_DeleteShardRequest_request_id(q), false, NULL);
}

/* ---- TransferLeader -------------------------------------------------------------------------- */

static void transfer_done(struct router_request *r)
{
    struct registry_replica_buf replica_buf;
    struct call *c = r->ctx;
    const thole_v1_TransferLeaderRequest *q = c->request;
    upb_StringView shard = services__name_strip(thole_v1_TransferLeaderRequest_shard(q), "shards");
    if (r->status.code != THOLE_OK) {
        const thole_v1_Replica *target = registry_replica(c->view, r->target_replica, &replica_buf);
        services__operations_record_transfer(
            c, shard, target != NULL ? thole_v1_Replica_host(target) : (upb_StringView){NULL, 0},
            r->status.message);
        services__call_fail(c, &r->status);
        return;
    }
    /* The old leader named the new one; the report in the row comes later. */
    uint64_t leader = r->index;
    registry_view_release(c->view);
    c->view = registry_view_acquire(agent_registry(c->s->agent));
    thole_v1_TransferLeaderResponse *reply = thole_v1_TransferLeaderResponse_new(c->arena);
    thole_v1_TransferLeaderResponse_set_leader_replica(reply, leader);
    const thole_v1_Replica *row = registry_replica(c->view, leader, &replica_buf);
    if (row != NULL) {
        thole_v1_TransferLeaderResponse_set_leader_host(reply, thole_v1_Replica_host(row));
    }
    if (!proto_equal(c->from, thole_v1_TransferLeaderResponse_leader_host(reply))) {
        services__operations_record_transfer(
            c, shard, thole_v1_TransferLeaderResponse_leader_host(reply), "");
    }
    services__call_reply(c, reply, &thole_v1_TransferLeaderResponse_msginit);
}

/* The shard's replica on the host. 0: none, and the call was failed. */
static uint64_t replica_on(struct call *c, const thole_v1_Shard *shard, upb_StringView host)
{
    struct registry_replica_buf buf;
    struct thole_status st;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(c->view, thole_v1_Shard_id(shard), after, &buf)) !=
           NULL) {
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN &&
            proto_equal(thole_v1_Replica_host(row), host)) {
            return after;
        }
    }
    (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA,
                     "the shard has no replica on host \"%.*s\"", (int)host.size, host.data);
    services__call_fail(c, &st);
    return 0;
}

/* False: the call was failed. */
static bool transfer_target(struct call *c, const thole_v1_Shard *shard, uint64_t *ret)
{
    struct registry_replica_buf replica_buf;
    struct thole_status st;
    const thole_v1_TransferLeaderRequest *q = c->request;
    upb_StringView host = services__name_strip(thole_v1_TransferLeaderRequest_host(q), "hosts");
    uint64_t target = thole_v1_TransferLeaderRequest_replica_id(q);
    if (host.size > 0) {
        target = replica_on(c, shard, host);
        if (target == 0) {
            return false;
        }
    }
    const thole_v1_Replica *row =
        target != 0 ? registry_replica(c->view, target, &replica_buf) : NULL;
    if (target != 0 &&
        (row == NULL || thole_v1_Replica_shard_id(row) != thole_v1_Shard_id(shard))) {
        upb_StringView name = thole_v1_Shard_name(shard);
        (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA,
                         "shard \"%.*s\" has no replica %" PRIu64, (int)name.size, name.data,
                         target);
        services__call_fail(c, &st);
        return false;
    }
    if (row != NULL && thole_v1_Replica_role(row) != thole_v1_REPLICA_ROLE_VOTER) {
        (void)THOLE_FAIL(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                         "replica %" PRIu64 " is not a voter, so it cannot become the leader",
                         target);
        services__call_fail(c, &st);
        return false;
    }
    *ret = target;
    return true;
}

/* The leader's host, as the local replica knows it; otherwise by the last report. */
static upb_StringView leader_host(struct call *c, const thole_v1_Shard *shard)
{
    struct engine_replica_status s;
    if (engine_shard_status(agent_engine(c->s->agent), thole_v1_Shard_id(shard), &s)) {
        const thole_v1_Host *host = registry_host(
            c->view, s.role == RAFT_LEADER ? agent_host_id(c->s->agent) : &s.leader_host);
        if (host != NULL) {
            return thole_v1_Host_name(host);
        }
    }
    return thole_v1_ShardStatus_leader_host(thole_v1_Shard_status(shard));
}

static void transfer_run(struct call *c)
{
    struct registry_shard_buf shard_buf;
    const thole_v1_TransferLeaderRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_TransferLeaderRequest_shard(q), "shards");
    uint64_t target = 0;
    const thole_v1_Shard *shard = registry_shard_by_name(c->view, registry_str(name), &shard_buf);
    if (shard == NULL) {
        no_such_shard(c, name);
        return;
    }
    if (!transfer_target(c, shard, &target)) {
        return;
    }
    upb_StringView from = leader_host(c, shard);
    char *copy = upb_Arena_Malloc(c->arena, from.size + 1);
    memcpy(copy, from.size > 0 ? from.data : "", from.size);
    c->from = upb_StringView_FromDataAndSize(
        copy, from.size); /* the view is released before this is used */
    c->route.kind = ROUTER_TRANSFER;
    c->route.shard_id = thole_v1_Shard_id(shard);
    c->route.target_replica = target;
    c->route.deadline_ns = c->deadline_ns;
    c->route.done = transfer_done;
    c->route.ctx = c;
    agent_route(c->s->agent, &c->route);
}

void services__shards_transfer(struct call *c)
{
    const thole_v1_TransferLeaderRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_TransferLeaderRequest_shard(q), "shards");
    upb_StringView host = services__name_strip(thole_v1_TransferLeaderRequest_host(q), "hosts");
    services__call_about(c, "shard", name);
    if (host.size > 0 && thole_v1_TransferLeaderRequest_replica_id(q) != 0) {
        services__call_refuse(c, "host", "excludes replica_id: give one of them");
    } else if (services__call_name(c, "shard", name) &&
               (host.size == 0 || services__call_name(c, "host", host))) {
        services__call_read(c, true, transfer_run);
    }
}
