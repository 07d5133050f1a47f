/* thole.v1.Operations: starting and reading operations. */
#include "agent/services/services_internal.h"

#include "base/clock.h"
#include "registry/placement/placement.h"
#include <inttypes.h>

static void no_such_operation(struct call *c, uint64_t id)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NONE,
                     "operation %" PRIu64 " not found; operations that ended long ago are deleted",
                     id);
    services__call_fail(c, &st);
}

static void get_run(struct call *c)
{
    uint64_t id = thole_v1_GetOperationRequest_id(c->request);
    const thole_v1_Operation *row = registry_operation(c->view, id);
    if (row == NULL) {
        no_such_operation(c, id);
        return;
    }
    services__call_reply(c, row, &thole_v1_Operation_msginit);
}

void services__operations_get(struct call *c)
{
    if (thole_v1_GetOperationRequest_id(c->request) == 0) {
        services__call_refuse(c, "id", "is needed");
        return;
    }
    services__call_read(c, thole_v1_GetOperationRequest_stale(c->request), get_run);
}

static void list_run(struct call *c)
{
    const thole_v1_ListOperationsRequest *q = c->request;
    struct page p;
    struct bytes key = {0};
    if (!services__page_begin(&p, c, PAGE_OPERATIONS, thole_v1_ListOperationsRequest_page_size(q),
                              thole_v1_ListOperationsRequest_page_token(q), &key)) {
        bytes_deinit(&key);
        return;
    }
    uint8_t last[8] = {0};
    uint64_t after = key.size == sizeof last ? get_be64(key.data) : 0;
    const thole_v1_Operation *row = NULL;
    while ((row = registry_next_operation(c->view, after)) != NULL) {
        if (!services__page_add(&p, c, row, &thole_v1_Operation_msginit)) {
            break;
        }
        after = thole_v1_Operation_id(row);
    }
    put_be64(last, after);
    const struct slice last_key = slice_of(last, sizeof last);
    services__page_reply(&p, c, PAGE_OPERATIONS, row != NULL ? &last_key : NULL);
    bytes_deinit(&key);
}

void services__operations_list(struct call *c)
{
    services__call_read(c, thole_v1_ListOperationsRequest_stale(c->request), list_run);
}

void services__operations_cancel(struct call *c)
{
    const thole_v1_CancelOperationRequest *q = c->request;
    upb_StringView request_id = thole_v1_CancelOperationRequest_request_id(q);
    if (thole_v1_CancelOperationRequest_id(q) == 0) {
        services__call_refuse(c, "id", "is needed");
        return;
    }
    if (!services__call_request_id(c, request_id)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_CancelOperation_set_id(
        thole_registry_v1_Operation_mutable_cancel_operation(op, c->arena),
        thole_v1_CancelOperationRequest_id(q));
    services__call_command(c, op, request_id, thole_v1_CancelOperationRequest_validate_only(q),
                           &thole_v1_Operation_msginit);
}

/* ---- Verbs on hosts -------------------------------------------------------------------------- */

static void start_on_host(struct call *c, int32_t kind, upb_StringView given,
                          upb_StringView request_id, bool validate_only)
{
    upb_StringView name = services__name_strip(given, "hosts");
    services__call_about(c, "host", name);
    if (!services__call_name(c, "name", name) || !services__call_request_id(c, request_id)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_StartOperation *start =
        thole_registry_v1_Operation_mutable_start_operation(op, c->arena);
    thole_registry_v1_StartOperation_set_kind(start, kind);
    thole_registry_v1_StartOperation_set_host(start, name);
    services__call_command(c, op, request_id, validate_only, &thole_v1_Operation_msginit);
}

#define HOST_VERB(function, Verb, KIND)                                                        \
    void function(struct call *c)                                                              \
    {                                                                                          \
        const thole_v1_##Verb##HostRequest *q = c->request;                                    \
        start_on_host(c, thole_v1_OPERATION_KIND_##KIND, thole_v1_##Verb##HostRequest_name(q), \
                      thole_v1_##Verb##HostRequest_request_id(q),                              \
                      thole_v1_##Verb##HostRequest_validate_only(q));                          \
    }

HOST_VERB(services__operations_drain, Drain, DRAIN)
HOST_VERB(services__operations_undrain, Undrain, UNDRAIN)
HOST_VERB(services__operations_cordon, Cordon, CORDON)
HOST_VERB(services__operations_uncordon, Uncordon, UNCORDON)
HOST_VERB(services__operations_decommission, Decommission, DECOMMISSION)

/* ---- Moves ----------------------------------------------------------------------------------- */

static bool host_id(const struct registry_view *v, upb_StringView name, struct uuid *ret)
{
    const thole_v1_Host *row = registry_host_by_name(v, registry_str(name));
    return row != NULL && uuid_parse(registry_str(thole_v1_Host_id(row)), ret);
}

/* Does the spec allow the move? The machine refuses what the rows do not allow, and a second move.
 * */
static bool move_fits(struct call *c, upb_StringView shard, upb_StringView from, upb_StringView to)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    char why[PLACEMENT_TEXT_BYTES];
    struct uuid from_id;
    struct uuid to_id;
    struct thole_status st;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    const thole_v1_Shard *s = registry_shard_by_name(c->view, registry_str(shard), &shard_buf);
    if (s == NULL || !host_id(c->view, from, &from_id) || !host_id(c->view, to, &to_id)) {
        return true;
    }
    while ((row = registry_next_replica_of_shard(c->view, thole_v1_Shard_id(s), after,
                                                 &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_moving_by(row) != 0) {
            return true;
        }
    }
    if (placement_may_move(c->view, s, &from_id, &to_id, why)) {
        return true;
    }
    (void)THOLE_FAIL(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE, "%s", why);
    services__call_fail(c, &st);
    return false;
}

static void move_run(struct call *c)
{
    const thole_v1_MoveShardRequest *q = c->request;
    upb_StringView shard = services__name_strip(thole_v1_MoveShardRequest_shard(q), "shards");
    upb_StringView from = services__name_strip(thole_v1_MoveShardRequest_from(q), "hosts");
    upb_StringView to = services__name_strip(thole_v1_MoveShardRequest_to(q), "hosts");
    upb_StringView request_id = thole_v1_MoveShardRequest_request_id(q);
    bool validate_only = thole_v1_MoveShardRequest_validate_only(q);
    if ((validate_only || !services__call_answered(c, request_id)) &&
        !move_fits(c, shard, from, to)) {
        return;
    }
    c->decided_at = registry_view_revision(c->view);
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_StartOperation *start =
        thole_registry_v1_Operation_mutable_start_operation(op, c->arena);
    thole_registry_v1_StartOperation_set_kind(start, thole_v1_OPERATION_KIND_MOVE);
    thole_registry_v1_StartOperation_set_shard(start, shard);
    thole_registry_v1_StartOperation_set_from(start, from);
    thole_registry_v1_StartOperation_set_to(start, to);
    services__call_command(c, op, request_id, validate_only, &thole_v1_Operation_msginit);
}

void services__operations_move(struct call *c)
{
    const thole_v1_MoveShardRequest *q = c->request;
    upb_StringView shard = services__name_strip(thole_v1_MoveShardRequest_shard(q), "shards");
    services__call_about(c, "shard", shard);
    if (services__call_name(c, "shard", shard) &&
        services__call_name(c, "from",
                            services__name_strip(thole_v1_MoveShardRequest_from(q), "hosts")) &&
        services__call_name(c, "to",
                            services__name_strip(thole_v1_MoveShardRequest_to(q), "hosts")) &&
        services__call_request_id(c, thole_v1_MoveShardRequest_request_id(q))) {
        services__call_read(c, false, move_run);
    }
}

void services__operations_rebalance(struct call *c)
{
    const thole_v1_RebalanceRequest *q = c->request;
    upb_StringView request_id = thole_v1_RebalanceRequest_request_id(q);
    if (!services__call_request_id(c, request_id)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_StartOperation_set_kind(
        thole_registry_v1_Operation_mutable_start_operation(op, c->arena),
        thole_v1_OPERATION_KIND_REBALANCE);
    services__call_command(c, op, request_id, thole_v1_RebalanceRequest_validate_only(q),
                           &thole_v1_Operation_msginit);
}

static void recorded(void *ctx, const struct thole_status *st,
                     const thole_registry_v1_Result *result)
{
    (void)ctx;
    (void)st;
    (void)result; /* best effort: the transfer has happened, whether recorded or not */
}

void services__operations_record_transfer(struct call *c, upb_StringView shard, upb_StringView to,
                                          const char *failure)
{
    thole_registry_v1_Command *command = services__command_new(c->rpc, c->unary->path, c->arena);
    thole_registry_v1_StartOperation *start = thole_registry_v1_Operation_mutable_start_operation(
        thole_registry_v1_Command_add_operations(command, c->arena), c->arena);
    thole_registry_v1_StartOperation_set_kind(start, thole_v1_OPERATION_KIND_TRANSFER_LEADER);
    thole_registry_v1_StartOperation_set_shard(start, shard);
    thole_registry_v1_StartOperation_set_from(start, c->from);
    thole_registry_v1_StartOperation_set_to(start, to);
    thole_registry_v1_StartOperation_set_failure(start, upb_StringView_FromString(failure));
    agent_command(c->s->agent, registry_command_encode(command, c->arena), c->deadline_ns, recorded,
                  NULL);
}

/* ---- Controllers ----------------------------------------------------------------------------- */

void services__operations_pause(struct call *c)
{
    const thole_v1_PauseControllersRequest *q = c->request;
    upb_StringView request_id = thole_v1_PauseControllersRequest_request_id(q);
    size_t count = 0;
    const int32_t *controllers = thole_v1_PauseControllersRequest_controllers(q, &count);
    struct registry_violation v;
    if (!services__call_request_id(c, request_id) ||
        !services__call_checked(c, registry_check_controllers(controllers, count, &v), &v)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_StartOperation *start =
        thole_registry_v1_Operation_mutable_start_operation(op, c->arena);
    thole_registry_v1_StartOperation_set_kind(start, thole_v1_OPERATION_KIND_PAUSE);
    for (size_t i = 0; i < count; i++) {
        thole_registry_v1_StartOperation_add_controllers(start, controllers[i], c->arena);
    }
    services__call_command(c, op, request_id, thole_v1_PauseControllersRequest_validate_only(q),
                           &thole_v1_Operation_msginit);
}

void services__operations_resume(struct call *c)
{
    const thole_v1_ResumeControllersRequest *q = c->request;
    upb_StringView request_id = thole_v1_ResumeControllersRequest_request_id(q);
    if (!services__call_request_id(c, request_id)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_CancelOperation_set_pauses(
        thole_registry_v1_Operation_mutable_cancel_operation(op, c->arena), true);
    services__call_command(c, op, request_id, thole_v1_ResumeControllersRequest_validate_only(q),
                           &thole_v1_Operation_msginit);
}
