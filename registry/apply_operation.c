/* Operations on operations: rows for users' requests that take a while.
 *
 * Starting one sets the desired state that controllers follow (the host is draining) in the same
 * command as the row; cancelling restores it. In between only progress is written. The operations
 * controller derives it from other rows, so nothing is lost with the host that runs the
 * controller.
 *
 * Invariants: an id is given once; at most one drain or decommission of a host is under way; a row
 * that has ended never changes; at most REGISTRY_OPERATIONS_ENDED_MAX ended rows are kept. */
#include "proto/names.h"
#include "registry/placement/placement_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool is_open(const struct row *row)
{
    return !registry_operation_has_ended(row->operation);
}

static struct row *next_operation(const struct state *s, uint64_t after)
{
    return registry__open(s->scope,
                          registry__find_after(s, INDEX_OPERATIONS, registry__key_id(after)));
}

/* Drop the oldest ended operation if too many are kept. Returns how many are under way. */
static size_t trim(struct txn *t)
{
    size_t open = 0;
    uint64_t after = 0;
    struct row *oldest = NULL;
    struct row *row;
    while ((row = next_operation(&t->s, after)) != NULL) {
        after = thole_v1_Operation_id(row->operation);
        open += is_open(row);
        oldest = oldest == NULL && !is_open(row) ? row : oldest;
    }
    size_t count = registry__tree_count(t->s.index[INDEX_OPERATIONS]);
    if (count - open > REGISTRY_OPERATIONS_ENDED_MAX) {
        registry__txn_drop(t, oldest);
    }
    return open;
}

/* ---- Ends ------------------------------------------------------------------------------------ */

static const char *state_reason(int32_t state)
{
    return state == thole_v1_OPERATION_STATE_DONE     ? "OperationDone"
           : state == thole_v1_OPERATION_STATE_FAILED ? "OperationFailed"
                                                      : "OperationCancelled";
}

static void say(struct txn *t, const struct row *row, const char *reason)
{
    upb_StringView target = thole_v1_Operation_target(row->operation);
    upb_StringView message = thole_v1_Operation_message(row->operation);
    upb_StringView from = thole_v1_Operation_from(row->operation);
    upb_StringView to = thole_v1_Operation_to(row->operation);
    const char *kind = proto_operation_kind(thole_v1_Operation_kind(row->operation));
    char hosts[2 * LIMIT_NAME_BYTES + 16] = "";
    if (to.size > 0) {
        snprintf(hosts, sizeof hosts, " from %.*s to %.*s", (int)from.size,
                 from.size > 0 ? from.data : "", (int)to.size, to.data);
    }
    registry__txn_event(t, row, reason, "%s %.*s%s%s%.*s", kind != NULL ? kind : "operation",
                        (int)target.size, target.size > 0 ? target.data : "", hosts,
                        message.size > 0 ? ": " : "", (int)message.size,
                        message.size > 0 ? message.data : "");
}

/* Puts the edited row as ended. */
static void put_ended(struct txn *t, struct row *row, thole_v1_OperationState state)
{
    ASSERT(row->packed == NULL && state >= thole_v1_OPERATION_STATE_DONE);
    uint64_t id = thole_v1_Operation_id(row->operation);
    thole_v1_Operation_set_state(row->operation, (int32_t)state);
    if (thole_v1_Operation_kind(row->operation) == thole_v1_OPERATION_KIND_MOVE) {
        registry__move_end(t, row->operation);
    }
    thole_v1_Operation_set_end_time_ms(row->operation,
                                       thole_registry_v1_Command_time_ms(t->command));
    registry__txn_put(t, row);
    say(t, registry__operation(&t->s, id), state_reason((int32_t)state));
    (void)trim(t);
}

static void end(struct txn *t, const struct row *operation, thole_v1_OperationState state,
                const char *message)
{
    struct row *row = registry__txn_edit(t, operation);
    thole_v1_Operation_set_message(row->operation, registry__dup_str(row->arena, message));
    put_ended(t, row, state);
}

void registry__operations_cancel(struct txn *t, const char *why)
{
    uint64_t after = 0;
    struct row *row;
    while ((row = next_operation(&t->s, after)) != NULL) {
        after = thole_v1_Operation_id(row->operation);
        if (is_open(row)) {
            end(t, row, thole_v1_OPERATION_STATE_CANCELLED, why);
        }
    }
}

struct row *registry__operation_open(const struct state *s, int32_t kind, uint64_t after)
{
    struct row *row;
    while ((row = next_operation(s, after)) != NULL &&
           !(thole_v1_Operation_kind(row->operation) == kind && is_open(row))) {
        after = thole_v1_Operation_id(row->operation);
    }
    return row;
}

/* The drain or decommission of the host that is under way, or NULL. */
static struct row *find_open(struct txn *t, const struct uuid *host)
{
    uint64_t after = 0;
    struct row *row;
    while ((row = next_operation(&t->s, after)) != NULL) {
        after = thole_v1_Operation_id(row->operation);
        struct uuid id;
        if (is_open(row) &&
            uuid_parse(registry_str(thole_v1_Operation_host_id(row->operation)), &id) &&
            uuid_equal(&id, host)) {
            return row;
        }
    }
    return NULL;
}

/* ---- Start ----------------------------------------------------------------------------------- */

struct start {
    int32_t kind;
    struct row *host; /* NULL: not about one */
    const thole_registry_v1_StartOperation *given;
};

static const struct {
    bool host;
    thole_v1_HostState state; /* that it sets at once; of hosts */
    bool lasts;               /* is under way afterwards */
} kinds[] = {
    [thole_v1_OPERATION_KIND_DRAIN] = {true, thole_v1_HOST_STATE_DRAINING, true},
    [thole_v1_OPERATION_KIND_UNDRAIN] = {true, thole_v1_HOST_STATE_ACTIVE, false},
    [thole_v1_OPERATION_KIND_CORDON] = {true, thole_v1_HOST_STATE_CORDONED, false},
    [thole_v1_OPERATION_KIND_UNCORDON] = {true, thole_v1_HOST_STATE_ACTIVE, false},
    [thole_v1_OPERATION_KIND_DECOMMISSION] = {true, thole_v1_HOST_STATE_DRAINING, true},
    [thole_v1_OPERATION_KIND_PAUSE] = {false, thole_v1_HOST_STATE_UNSPECIFIED, true},
    [thole_v1_OPERATION_KIND_MOVE] = {false, thole_v1_HOST_STATE_UNSPECIFIED, true},
    [thole_v1_OPERATION_KIND_REBALANCE] = {false, thole_v1_HOST_STATE_UNSPECIFIED, true},
    [thole_v1_OPERATION_KIND_TRANSFER_LEADER] = {false, thole_v1_HOST_STATE_UNSPECIFIED, false},
    [thole_v1_OPERATION_KIND_RESTORE] = {false, thole_v1_HOST_STATE_UNSPECIFIED, true},
};

enum thole_code registry__operation_room(struct txn *t)
{
    if (trim(t) < REGISTRY_OPERATIONS_OPEN_MAX) {
        return THOLE_OK;
    }
    return THOLE_FAIL(&t->st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                      "%d operations are under way, which is the limit",
                      REGISTRY_OPERATIONS_OPEN_MAX);
}

static enum thole_code check_start(struct txn *t, struct start *o)
{
    struct registry_violation v;
    size_t count = 0;
    const int32_t *controllers = thole_registry_v1_StartOperation_controllers(o->given, &count);
    if (proto_operation_kind(o->kind) == NULL ||
        (size_t)o->kind >= sizeof kinds / sizeof kinds[0] ||
        o->kind == thole_v1_OPERATION_KIND_RESTORE) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "kind",
                                "%d is no operation", (int)o->kind);
    }
    enum thole_code code =
        registry__checked(t, registry_check_controllers(controllers, count, &v), &v);
    if (code == THOLE_OK) {
        code = registry__operation_room(t);
    }
    if (code != THOLE_OK || !kinds[o->kind].host) {
        return code;
    }
    code = registry__find_host(t, thole_registry_v1_StartOperation_host(o->given), &o->host);
    if (code == THOLE_OK && registry__host_has_state(o->host, thole_v1_HOST_STATE_REMOVED)) {
        code = THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the host is being removed");
    }
    return code;
}

/* The replicas of the last host have nowhere to go; an undrain needs a drain. */
static enum thole_code check_host_verb(struct txn *t, const struct start *o)
{
    if (o->kind == thole_v1_OPERATION_KIND_UNDRAIN &&
        !registry__host_has_state(o->host, thole_v1_HOST_STATE_DRAINING)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "the host is not being drained");
    }
    if (o->kind == thole_v1_OPERATION_KIND_DECOMMISSION &&
        !registry__host_another_stays(&t->s, o->host)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "this is the last host of the cluster");
    }
    return THOLE_OK;
}

struct row *registry__operation_new(struct txn *t, int32_t kind, const struct row *about)
{
    struct row *row = registry__row_new(&t->scope, ROW_OPERATION);
    thole_v1_Operation *to = row->operation;
    char target[REGISTRY_NAME_BYTES];
    int64_t now_ms = thole_registry_v1_Command_time_ms(t->command);
    ASSERT(kind > 0 && (size_t)kind < sizeof kinds / sizeof kinds[0]);
    bool lasts = kinds[kind].lasts;
    thole_v1_Operation_set_id(to, t->s.next_operation_id++);
    thole_v1_Operation_set_kind(to, kind);
    upb_StringView actor = thole_registry_v1_Command_actor(t->command);
    thole_v1_Operation_set_actor(to, registry__dup(row->arena, registry_str(actor)));
    thole_v1_Operation_set_state(to, lasts ? thole_v1_OPERATION_STATE_PENDING
                                           : thole_v1_OPERATION_STATE_DONE);
    thole_v1_Operation_set_start_time_ms(to, now_ms);
    thole_v1_Operation_set_end_time_ms(to, lasts ? 0 : now_ms);
    if (about != NULL) {
        thole_v1_Operation_set_target(
            to, registry__dup_str(row->arena, registry__row_name(about, target)));
    }
    return row;
}

void registry__operation_add(struct txn *t, struct row *row)
{
    uint64_t id = thole_v1_Operation_id(row->operation);
    int32_t state = thole_v1_Operation_state(row->operation);
    bool open = is_open(row);
    registry__txn_put(t, row);
    say(t, registry__operation(&t->s, id), open ? "OperationStarted" : state_reason(state));
    (void)trim(t);
}

static void add_pause(struct txn *t, const struct start *o)
{
    struct row *row = registry__operation_new(t, o->kind, NULL);
    size_t count = 0;
    const int32_t *given = thole_registry_v1_StartOperation_controllers(o->given, &count);
    thole_v1_Operation_set_state(row->operation, thole_v1_OPERATION_STATE_RUNNING);
    for (size_t i = 0; i < (count > 0 ? count : thole_v1_CONTROLLER_BALANCE); i++) {
        thole_v1_Operation_add_controllers(row->operation, count > 0 ? given[i] : (int32_t)i + 1,
                                           row->arena);
    }
    registry__operation_add(t, row);
}

/* At most one is under way: a rebalance is about the whole cluster. */
static void add_rebalance(struct txn *t, const struct start *o)
{
    const struct row *other = registry__operation_open(&t->s, o->kind, 0);
    if (other != NULL) {
        registry__txn_show(t, (struct row *)(uintptr_t)other);
        return;
    }
    registry__operation_add(t, registry__operation_new(t, o->kind, NULL));
}

/* `before`: the host's state, or the state that the replaced operation found. */
static void add_of_host(struct txn *t, const struct start *o, int32_t before)
{
    struct row *row = registry__operation_new(t, o->kind, o->host);
    thole_v1_Operation_set_host_id(
        row->operation, registry__dup(row->arena, registry_str(thole_v1_Host_id(o->host->host))));
    if (kinds[o->kind].lasts) {
        thole_v1_Operation_set_before(row->operation, before);
    }
    registry__operation_add(t, row);
}

/* The decommission of a dead host does not wait for it. */
static void preview_drain(struct txn *t, const struct start *o)
{
    bool decommission = o->kind == thole_v1_OPERATION_KIND_DECOMMISSION;
    if (o->kind == thole_v1_OPERATION_KIND_DRAIN ||
        (decommission && !placement__host_is_dead(o->host->host))) {
        placement__preview_drain(t, &o->host->host_id);
    }
}

static enum thole_code start_of_host(struct txn *t, struct start *o)
{
    struct uuid id = o->host->host_id;
    int32_t before = thole_v1_HostSpec_state(thole_v1_Host_spec(o->host->host));
    struct row *other = find_open(t, &id);
    int32_t other_kind = other == NULL ? thole_v1_OPERATION_KIND_UNSPECIFIED
                                       : thole_v1_Operation_kind(other->operation);
    bool draining = registry__host_has_state(o->host, thole_v1_HOST_STATE_DRAINING);
    if (other_kind == o->kind && draining) {
        registry__txn_show(t, other);
        preview_drain(t, o);
        return THOLE_OK;
    }
    if (o->kind == thole_v1_OPERATION_KIND_DRAIN &&
        other_kind == thole_v1_OPERATION_KIND_DECOMMISSION && draining) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_EXISTS,
                          "the host is being decommissioned: cancel that first");
    }
    enum thole_code code = check_host_verb(t, o);
    if (code != THOLE_OK) {
        return code;
    }
    if (other != NULL) {
        char why[64];
        before = draining ? thole_v1_Operation_before(other->operation) : before;
        snprintf(why, sizeof why, "replaced by: %s", proto_operation_kind(o->kind));
        end(t, other, thole_v1_OPERATION_STATE_CANCELLED, why);
    }
    registry__host_set_state(t, &id, kinds[o->kind].state);
    if (o->kind == thole_v1_OPERATION_KIND_UNCORDON) {
        registry__host_forgive(t, &id, upb_StringView_FromString("a user uncordoned it"));
    }
    o->host = registry__host(&t->s, &id);
    add_of_host(t, o, before);
    preview_drain(t, o);
    return THOLE_OK;
}

enum thole_code registry__op_start_operation(struct txn *t, const thole_registry_v1_Operation *op)
{
    struct start o = {.given = thole_registry_v1_Operation_start_operation(op)};
    o.kind = thole_registry_v1_StartOperation_kind(o.given);
    enum thole_code code = check_start(t, &o);
    if (code != THOLE_OK) {
        return code;
    }
    if (o.kind == thole_v1_OPERATION_KIND_MOVE) {
        return registry__move_start(t, o.given);
    }
    if (o.kind == thole_v1_OPERATION_KIND_TRANSFER_LEADER) {
        return registry__transfer_record(t, o.given);
    }
    if (o.kind == thole_v1_OPERATION_KIND_REBALANCE) {
        add_rebalance(t, &o);
        return THOLE_OK;
    }
    if (o.kind == thole_v1_OPERATION_KIND_PAUSE) {
        add_pause(t, &o);
        return THOLE_OK;
    }
    return start_of_host(t, &o);
}

/* ---- Cancel ---------------------------------------------------------------------------------- */

static enum thole_code find_operation(struct txn *t, uint64_t id,
                                      const thole_registry_v1_Operation *op, struct row **ret)
{
    struct row *row = registry__operation(&t->s, id);
    if (row == NULL) {
        return THOLE_FAIL(&t->st, THOLE_NOT_FOUND, THOLE_REASON_NONE,
                          "there is no operation %" PRIu64 "%s", id,
                          id < t->s.next_operation_id ? " any more" : "");
    }
    *ret = row;
    return registry__check_revision(t, op, row);
}

static enum thole_code cancel_pauses(struct txn *t)
{
    struct row *row = registry__operation_open(&t->s, thole_v1_OPERATION_KIND_PAUSE, 0);
    if (row == NULL) {
        return THOLE_FAIL(&t->st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "nothing is paused");
    }
    while (row != NULL) {
        uint64_t id = thole_v1_Operation_id(row->operation);
        end(t, row, thole_v1_OPERATION_STATE_DONE, "resumed");
        row = registry__operation_open(&t->s, thole_v1_OPERATION_KIND_PAUSE, id);
    }
    return THOLE_OK;
}

/* Restore the state before the operation, if it is about a host. */
static enum thole_code cancel_of_host(struct txn *t, const thole_v1_Operation *o)
{
    struct uuid host;
    if (!uuid_parse(registry_str(thole_v1_Operation_host_id(o)), &host)) {
        return THOLE_OK;
    }
    const struct row *of = registry__host(&t->s, &host);
    if (of == NULL || registry__host_has_state(of, thole_v1_HOST_STATE_REMOVED)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the host is being removed, which cannot be taken back");
    }
    if (registry__host_has_state(of, thole_v1_HOST_STATE_DRAINING)) {
        bool cordoned = thole_v1_Operation_before(o) == thole_v1_HOST_STATE_CORDONED;
        registry__host_set_state(
            t, &host, cordoned ? thole_v1_HOST_STATE_CORDONED : thole_v1_HOST_STATE_ACTIVE);
    }
    return THOLE_OK;
}

enum thole_code registry__op_cancel_operation(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_CancelOperation *o = thole_registry_v1_Operation_cancel_operation(op);
    uint64_t id = thole_registry_v1_CancelOperation_id(o);
    struct row *row = NULL;
    if (thole_registry_v1_CancelOperation_pauses(o)) {
        return cancel_pauses(t);
    }
    enum thole_code code = find_operation(t, id, op, &row);
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, row);
    if (thole_v1_Operation_state(row->operation) == thole_v1_OPERATION_STATE_CANCELLED) {
        return THOLE_OK;
    }
    if (!is_open(row)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "operation %" PRIu64 " has ended", id);
    }
    int32_t kind = thole_v1_Operation_kind(row->operation);
    code = kind == thole_v1_OPERATION_KIND_MOVE ? registry__move_check_cancel(t, row->operation)
           : kind == thole_v1_OPERATION_KIND_RESTORE ? registry__restore_cancel(t, row->operation)
                                                     : cancel_of_host(t, row->operation);
    if (code != THOLE_OK) {
        return code;
    }
    end(t, registry__operation(&t->s, id), thole_v1_OPERATION_STATE_CANCELLED, "");
    return THOLE_OK;
}

/* ---- Progress -------------------------------------------------------------------------------- */

enum thole_code registry__op_step_operation(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_StepOperation *o = thole_registry_v1_Operation_step_operation(op);
    int32_t state = thole_registry_v1_StepOperation_state(o);
    upb_StringView step = thole_registry_v1_StepOperation_step(o);
    upb_StringView message = thole_registry_v1_StepOperation_message(o);
    struct row *row = NULL;
    enum thole_code code = registry__check_text(t, "step", step, LIMIT_NAME_BYTES);
    if (code == THOLE_OK) {
        code = registry__check_text(t, "message", message, REGISTRY_TEXT_BYTES);
    }
    if (code == THOLE_OK) {
        code = find_operation(t, thole_registry_v1_StepOperation_id(o), op, &row);
    }
    if (code == THOLE_OK &&
        (state < thole_v1_OPERATION_STATE_RUNNING || state > thole_v1_OPERATION_STATE_CANCELLED)) {
        code = registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "state",
                                "%d is no state", (int)state);
    }
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, row);
    if (!is_open(row)) {
        return THOLE_OK;
    }
    struct row *edit = registry__txn_edit(t, row);
    thole_v1_Operation *to = edit->operation;
    thole_v1_Operation_set_state(to, state);
    thole_v1_Operation_set_step(to, registry__dup(edit->arena, registry_str(step)));
    thole_v1_Operation_set_done(to, thole_registry_v1_StepOperation_done(o));
    thole_v1_Operation_set_total(to, thole_registry_v1_StepOperation_total(o));
    thole_v1_Operation_set_message(to, registry__dup(edit->arena, registry_str(message)));
    if (registry_operation_has_ended(to)) {
        put_ended(t, edit, (thole_v1_OperationState)state);
    } else if (registry__message_equal(row->operation, to, &thole_v1_Operation_msginit, t->arena)) {
    } else {
        registry__txn_put(t, edit);
    }
    return THOLE_OK;
}
