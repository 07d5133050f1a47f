/* One command: decode it, repeat a remembered answer, or run its operations in a transaction.
 *
 * A transaction works on a copy of the state (the roots of its trees); a refusal discards the
 * copy. Everything a command changes gets one revision, the state's next one. A command without
 * effect takes none. Refusals are results with a gRPC code, never failures of the machine. */
#include "base/canary.h"
#include "proto/decode.h"
#include "registry/registry_internal.h"

#include <string.h>

static const registry_operation_fn operations[] = {
    [thole_registry_v1_Operation_op_bootstrap] = registry__op_bootstrap,
    [thole_registry_v1_Operation_op_admit_host] = registry__op_admit_host,
    [thole_registry_v1_Operation_op_update_host] = registry__op_update_host,
    [thole_registry_v1_Operation_op_delete_host] = registry__op_delete_host,
    [thole_registry_v1_Operation_op_observe_host] = registry__op_observe_host,
    [thole_registry_v1_Operation_op_create_shard] = registry__op_create_shard,
    [thole_registry_v1_Operation_op_update_shard] = registry__op_update_shard,
    [thole_registry_v1_Operation_op_delete_shard] = registry__op_delete_shard,
    [thole_registry_v1_Operation_op_place_replicas] = registry__op_place_replicas,
    [thole_registry_v1_Operation_op_remove_replica] = registry__op_remove_replica,
    [thole_registry_v1_Operation_op_create_replica] = registry__op_create_replica,
    [thole_registry_v1_Operation_op_observe_replica] = registry__op_observe_replica,
    [thole_registry_v1_Operation_op_observe_shard] = registry__op_observe_shard,
    [thole_registry_v1_Operation_op_set_role] = registry__op_set_role,
    [thole_registry_v1_Operation_op_create_pool] = registry__op_create_pool,
    [thole_registry_v1_Operation_op_update_pool] = registry__op_update_pool,
    [thole_registry_v1_Operation_op_delete_pool] = registry__op_delete_pool,
    [thole_registry_v1_Operation_op_reconcile_pool] = registry__op_reconcile_pool,
    [thole_registry_v1_Operation_op_retire_replica] = registry__op_retire_replica,
    [thole_registry_v1_Operation_op_repair_zero] = registry__op_repair_zero,
    [thole_registry_v1_Operation_op_start_operation] = registry__op_start_operation,
    [thole_registry_v1_Operation_op_cancel_operation] = registry__op_cancel_operation,
    [thole_registry_v1_Operation_op_step_operation] = registry__op_step_operation,
    [thole_registry_v1_Operation_op_restore_shard] = registry__op_restore_shard,
    [thole_registry_v1_Operation_op_record_snapshot] = registry__op_record_snapshot,
    [thole_registry_v1_Operation_op_record_leader_move] = registry__op_record_leader_move,
    [thole_registry_v1_Operation_op_create_role] = registry__op_create_role,
    [thole_registry_v1_Operation_op_update_role] = registry__op_update_role,
    [thole_registry_v1_Operation_op_delete_role] = registry__op_delete_role,
    [thole_registry_v1_Operation_op_create_token] = registry__op_create_token,
    [thole_registry_v1_Operation_op_revoke_token] = registry__op_revoke_token,
    [thole_registry_v1_Operation_op_record_refusal] = registry__op_record_refusal,
};

static enum thole_code run_operation(struct txn *t, const thole_registry_v1_Operation *op)
{
    size_t which = thole_registry_v1_Operation_op_case(op);
    if (which >= sizeof operations / sizeof operations[0] || operations[which] == NULL) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "operations",
                                "one is missing, or of an unknown kind");
    }
    bool bootstrap = which == thole_registry_v1_Operation_op_bootstrap;
    if (!bootstrap && !t->s.bootstrapped) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                          "the cluster has not been bootstrapped");
    }
    return operations[which](t, op);
}

static enum thole_code run_operations(struct txn *t)
{
    size_t count = 0;
    const thole_registry_v1_Operation *const *ops =
        thole_registry_v1_Command_operations(t->command, &count);
    if (count == 0) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "operations",
                                "at least one is needed");
    }
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && thole_registry_v1_Operation_has_bootstrap(ops[i])) {
            return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                    "operations", "bootstrap must come first");
        }
        enum thole_code code = run_operation(t, ops[i]);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}

static enum thole_code check_command(struct txn *t)
{
    struct registry_violation v;
    struct slice actor = registry_str(thole_registry_v1_Command_actor(t->command));
    struct slice id = registry_str(thole_registry_v1_Command_request_id(t->command));
    struct slice address = registry_str(thole_registry_v1_Command_address(t->command));
    struct slice method = registry_str(thole_registry_v1_Command_method(t->command));
    bool ok = registry_check_text("actor", actor, 2 * LIMIT_NAME_BYTES, &v) &&
              registry_check_text("address", address, LIMIT_NAME_BYTES, &v) &&
              registry_check_text("method", method, LIMIT_NAME_BYTES, &v) &&
              registry_check_request_id(id, &v);
    return registry__checked(t, ok, &v);
}

/* ---- Results --------------------------------------------------------------------------------- */

/* The row of an operation is small and always added. `all`: the other rows too. */
static void add_rows(const struct txn *t, thole_registry_v1_Result *result, bool all)
{
    if (t->last[ROW_OPERATION] != NULL) {
        thole_registry_v1_Result_set_operation(result, t->last[ROW_OPERATION]->operation);
    }
    if (!all) {
        return;
    }
    if (t->last[ROW_HOST] != NULL) {
        thole_registry_v1_Result_set_host(result, t->last[ROW_HOST]->host);
    }
    if (t->last[ROW_SHARD] != NULL) {
        thole_registry_v1_Result_set_shard(result, t->last[ROW_SHARD]->shard);
    }
    if (t->last[ROW_REPLICA] != NULL) {
        thole_registry_v1_Result_set_replica(result, t->last[ROW_REPLICA]->replica);
    }
    if (t->last[ROW_ROLE] != NULL) {
        thole_registry_v1_Result_set_role(result, t->last[ROW_ROLE]->role);
    }
    if (t->last[ROW_TOKEN] != NULL) {
        thole_registry_v1_StoredToken *row = t->last[ROW_TOKEN]->token;
        thole_registry_v1_Result_set_token(
            result, thole_registry_v1_StoredToken_mutable_token(row, t->arena));
    }
    if (t->last[ROW_POOL] != NULL) {
        thole_registry_v1_Result_set_pool(result, t->last[ROW_POOL]->pool);
    }
}

/* Returns bytes in the transaction's arena. The message borrows the rows while it is encoded. */
static struct slice make_result(struct txn *t, enum thole_code code, uint64_t revision,
                                bool all_rows)
{
    thole_registry_v1_Result *result = thole_registry_v1_Result_new(t->arena);
    thole_registry_v1_Result_set_revision(result, revision);
    if (code != THOLE_OK) {
        const char *reason = thole_reason_name(t->st.reason);
        registry__trim_utf8(t->st.message);
        thole_registry_v1_Result_set_reason(result, upb_StringView_FromString(reason));
        thole_registry_v1_Result_set_message(result, upb_StringView_FromString(t->st.message));
        thole_registry_v1_Result_set_field(result, upb_StringView_FromString(t->field));
    } else {
        add_rows(t, result, all_rows);
    }
    return registry__encode(result, &thole_registry_v1_Result_msginit, t->arena);
}

/* Is the result final, so that it is remembered? INVALID_ARGUMENT follows from the command alone;
 * the other two ask for a retry under the same request id. Every other refusal is final like a
 * success: a late duplicate must not do what its client was told is not done. */
static bool is_answer(enum thole_code code)
{
    return code != THOLE_INVALID_ARGUMENT && code != THOLE_ABORTED &&
           code != THOLE_RESOURCE_EXHAUSTED;
}

static void remember(struct state *s, struct txn *t, enum thole_code code, struct slice bytes)
{
    upb_StringView id = thole_registry_v1_Command_request_id(t->command);
    if (id.size == 0 || !s->bootstrapped || thole_registry_v1_Command_validate_only(t->command) ||
        CANARY(request_forgotten)) {
        return;
    }
    if (bytes.size > REGISTRY_REQUEST_RESULT_BYTES) {
        bytes = make_result(t, code, s->revision, false);
    }
    struct row *row = registry__row_new(&t->scope, ROW_REQUEST);
    thole_registry_v1_RememberedRequest_set_request_id(row->request,
                                                       registry__dup(row->arena, registry_str(id)));
    thole_registry_v1_RememberedRequest_set_code(row->request, code);
    thole_registry_v1_RememberedRequest_set_result(row->request, registry__dup(row->arena, bytes));
    s->scope = &t->scope;
    registry__state_remember(s, row);
    s->scope = NULL;
}

static bool recall(const struct state *s, const struct txn *t, uint64_t *ret_code,
                   struct bytes *ret_result)
{
    struct slice id = registry_str(thole_registry_v1_Command_request_id(t->command));
    if (id.size == 0 || thole_registry_v1_Command_validate_only(t->command)) {
        return false;
    }
    struct key key = registry__key_name(id);
    struct request_buf buf;
    const thole_registry_v1_RememberedRequest *request =
        registry__packed_message(registry__tree_get(s->index[INDEX_REQUESTS], &key), &buf);
    if (request == NULL) {
        return false;
    }
    *ret_code = thole_registry_v1_RememberedRequest_code(request);
    upb_StringView result = thole_registry_v1_RememberedRequest_result(request);
    bytes_append_slice(ret_result, registry_str(result));
    return true;
}

/* ---- The transaction ------------------------------------------------------------------------- */

static uint64_t run(struct state *s, struct txn *t, struct bytes *ret_result)
{
    enum thole_code code = check_command(t);
    if (code == THOLE_OK) {
        code = run_operations(t);
    }
    bool keep = code == THOLE_OK && !thole_registry_v1_Command_validate_only(t->command);
    if (keep && t->changed) {
        ASSERT(t->revision > s->revision && t->base->revision == s->revision);
        t->s.revision = t->revision;
        struct state old = *s;
        *s = t->s;
        s->scope = NULL;
        t->s = old; /* freed with the transaction */
    }
    struct slice bytes = make_result(t, code, s->revision, true);
    bytes_append_slice(ret_result, bytes);
    if (is_answer(code)) {
        remember(s, t, code, bytes);
    }
    return code;
}

uint64_t registry__apply(struct state *s, struct slice command, struct bytes *ret_result)
{
    struct txn t = {.base = s, .revision = s->revision + 1};
    uint64_t code;
    registry__scope_init(&t.scope);
    t.arena = t.scope.arena;
    t.command = PROTO_DECODE(thole_registry_v1_Command, command, t.arena);
    if (t.command == NULL) {
        code = registry__refuse(&t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "command",
                                "is no thole.registry.v1.Command");
        bytes_append_slice(ret_result, make_result(&t, (enum thole_code)code, s->revision, false));
    } else if (!recall(s, &t, &code, ret_result)) {
        /* `base` must stay valid after the new state has taken the place of `s`. */
        struct state base;
        registry__state_copy(&base, s);
        registry__state_copy(&t.s, s);
        t.base = &base;
        base.scope = &t.scope;
        t.s.scope = &t.scope;
        code = run(s, &t, ret_result);
        registry__state_deinit(&t.s);
        registry__state_deinit(&base);
    }
    ASSERT_SLOW(!registry__check_is_due(s) || registry__check_state(s));
    registry__scope_deinit(&t.scope);
    return code;
}
