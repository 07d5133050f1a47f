/* The operations controller, on shard zero's leader host. Users' operations are rows. The other
 * controllers carry them out, from the desired state that was set with the row. This controller
 * derives their progress from hosts, shards and replicas, and writes it when it changes: by
 * compare-and-set, one row at a time, at most once per pause. So a new leader of shard zero
 * continues from the rows. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- Pauses ---------------------------------------------------------------------------------- */

bool hostctl__is_paused(const struct hostctl *h, thole_v1_Controller controller)
{
    return (h->paused & (1u << controller)) != 0;
}

/* The id of the rebalance that is under way; 0: none. */
static uint64_t current_rebalance(const struct hostctl *h)
{
    const thole_v1_Operation *row;
    uint64_t id = 0;
    for (uint64_t after = 0; (row = registry_next_operation(h->view, after)) != NULL;) {
        after = thole_v1_Operation_id(row);
        if (thole_v1_Operation_kind(row) == thole_v1_OPERATION_KIND_REBALANCE &&
            !registry_operation_has_ended(row)) {
            id = after;
        }
    }
    return id;
}

void hostctl__operations_changed(struct hostctl *h)
{
    uint32_t before = h->paused;
    uint64_t rebalance = h->rebalance;
    h->paused = registry_paused_controllers(h->view);
    h->rebalance = current_rebalance(h);
    if ((before & ~h->paused) != 0 ||
        h->rebalance > rebalance) { /* evaluate what changed meanwhile */
        hostctl__dirty_all(h);
        hostctl__balance_changed(h);
        hostctl__leaders_hosts_changed(h);
    }
    h->operate_due_ms = h->now_ms;
}

void hostctl__operate_again(struct hostctl *h)
{
    if (h->operate_due_ms == UINT64_MAX) {
        h->operate_due_ms = h->now_ms + h->o.retry_ms / 2;
    }
}

/* ---- Progress of hosts ----------------------------------------------------------------------- */

static bool is_dead(const thole_v1_Host *row)
{
    return thole_v1_HostStatus_liveness(thole_v1_Host_status(row)) == thole_v1_HOST_LIVENESS_DEAD;
}

/* Why placement cannot replace the replica, if it cannot. */
static void explain(const struct hostctl *h, const thole_v1_Replica *row, struct ctl_progress *p)
{
    const struct ctl_shard *s = map_get(&h->shards, thole_v1_Replica_shard_id(row));
    upb_StringView name = thole_v1_Replica_shard(row);
    if (p->message[0] == '\0' && s != NULL && s->decided && s->verdict == PLACEMENT_UNSATISFIABLE &&
        s->work->explanation != NULL) {
        snprintf(p->message, sizeof p->message, "shards/%.*s cannot move: %s", (int)name.size,
                 name.data, s->work->explanation);
    }
}

/* Replicas that have yet to leave. A replica on a dead host only has to be OUT. */
static uint32_t count_replicas(const struct hostctl *h, const struct uuid *id, bool dead,
                               struct ctl_progress *p)
{
    struct registry_replica_buf replica_buf;
    uint32_t count = 0;
    uint64_t first = 0;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_host(h->view, id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        bool out = thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE &&
                   thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_OUT;
        if (thole_v1_Replica_shard_id(row) == REGISTRY_SHARD_ID || (dead && out)) {
            continue;
        }
        first = count++ == 0 ? after : first;
        explain(h, row, p);
    }
    row = registry_replica(h->view, first, &replica_buf);
    if (p->message[0] == '\0' && row != NULL) {
        upb_StringView name = thole_v1_Replica_shard(row);
        snprintf(p->message, sizeof p->message, "waits for shards/%.*s%s", (int)name.size,
                 name.data, count > 1 ? " and others" : "");
    }
    return count;
}

void hostctl__progress_end(struct ctl_progress *p, thole_v1_OperationState state,
                           const char *message)
{
    p->state = state;
    snprintf(p->message, sizeof p->message, "%s", message);
}

void hostctl__progress_left(struct ctl_progress *p, uint32_t left)
{
    p->total = left > p->total ? left : p->total;
    p->done = p->total - left;
}

/* The host was removed: the tombstone has no name. */
static void progress_of_removal(const struct hostctl *h, const thole_v1_Host *host,
                                const struct uuid *id, struct ctl_progress *p)
{
    if (host == NULL || thole_v1_Host_name(host).size == 0) {
        p->step = "";
        hostctl__progress_left(p, 0);
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_DONE, "the host is no longer a member");
        return;
    }
    p->step = "removing";
    hostctl__progress_left(p, count_replicas(h, id, true, p));
}

static void progress_of_host(const struct hostctl *h, const thole_v1_Operation *row,
                             struct ctl_progress *p)
{
    struct uuid id;
    bool decommission = thole_v1_Operation_kind(row) == thole_v1_OPERATION_KIND_DECOMMISSION;
    if (!uuid_parse(registry_str(thole_v1_Operation_host_id(row)), &id)) {
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_FAILED, "it names no host");
        return;
    }
    const thole_v1_Host *host = registry_host(h->view, &id);
    if (host == NULL || hostctl__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
        progress_of_removal(h, host, &id, p);
        if (!decommission) {
            hostctl__progress_end(p, thole_v1_OPERATION_STATE_CANCELLED,
                                  "the host is being removed");
        }
        return;
    }
    if (!hostctl__host_has_state(host, thole_v1_HOST_STATE_DRAINING)) {
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_CANCELLED,
                              "the host's state was changed");
        return;
    }
    bool dead = is_dead(host);
    uint32_t leaders = hostctl__leads(h, &id);
    uint32_t replicas = count_replicas(h, &id, dead, p);
    hostctl__progress_left(p, leaders + replicas);
    p->step = leaders > 0 ? "leaders" : replicas > 0 ? "replicas" : "";
    if (hostctl__is_paused(h, thole_v1_CONTROLLER_PLACEMENT) && leaders + replicas > 0) {
        snprintf(p->message, sizeof p->message, "the placement controller is paused");
    }
    char why[THOLE_STATUS_MESSAGE_BYTES];
    if (decommission && (dead || leaders + replicas == 0)) {
        p->remove = !registry_host_is_needed(h->view, &id, why, sizeof why);
        p->step = p->remove ? "removing" : "waiting";
        snprintf(p->message, sizeof p->message, "%s", p->remove ? "" : why);
    } else if (leaders + replicas == 0) {
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_DONE, "");
    }
}

/* ---- Progress of moves ----------------------------------------------------------------------- */

#define MOVE_STEPS 4

static bool runs(const thole_v1_Replica *row)
{
    return row != NULL && thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN;
}

/* A replica on a dead host only has to be OUT. */
static bool is_gone(const struct hostctl *h, const thole_v1_Replica *row)
{
    struct uuid id;
    return row == NULL ||
           (!runs(row) && thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_OUT &&
            uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &id) &&
            registry_host(h->view, &id) != NULL && is_dead(registry_host(h->view, &id)));
}

/* If the new replica's host can no longer have it, the move ends: the old one stays. */
static bool host_is_lost(const struct hostctl *h, const thole_v1_Replica *row,
                         struct ctl_progress *p)
{
    struct uuid id;
    const thole_v1_Host *host = uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &id)
                                    ? registry_host(h->view, &id)
                                    : NULL;
    upb_StringView name = thole_v1_Replica_host(row);
    bool leaves = host == NULL || hostctl__host_has_state(host, thole_v1_HOST_STATE_DRAINING) ||
                  hostctl__host_has_state(host, thole_v1_HOST_STATE_REMOVED);
    if (leaves || is_dead(host)) {
        char why[THOLE_STATUS_MESSAGE_BYTES];
        snprintf(why, sizeof why, "hosts/%.*s is %s", (int)name.size, name.data,
                 leaves ? "being emptied" : "dead");
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_FAILED, why);
    }
    return leaves || is_dead(host);
}

static void explain_move(const struct hostctl *h, const thole_v1_Replica *to,
                         struct ctl_progress *p)
{
    upb_StringView why = thole_v1_Replica_message(to);
    explain(h, to, p);
    if (p->message[0] == '\0' && why.size > 0) {
        snprintf(p->message, sizeof p->message, "%.*s", (int)why.size, why.data);
    }
    for (int32_t c = thole_v1_CONTROLLER_PLACEMENT; c <= thole_v1_CONTROLLER_MEMBERSHIP; c++) {
        if (hostctl__is_paused(h, (thole_v1_Controller)c)) {
            snprintf(p->message, sizeof p->message, "the %s controller is paused",
                     c == thole_v1_CONTROLLER_PLACEMENT ? "placement" : "membership");
        }
    }
}

static void progress_of_move(const struct hostctl *h, const thole_v1_Operation *row,
                             struct ctl_progress *p)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf from_buf, to_buf;
    const thole_v1_Shard *shard =
        registry_shard(h->view, thole_v1_Operation_shard_id(row), &shard_buf);
    const thole_v1_Replica *from =
        registry_replica(h->view, thole_v1_Operation_from_replica(row), &from_buf);
    const thole_v1_Replica *to =
        registry_replica(h->view, thole_v1_Operation_to_replica(row), &to_buf);
    p->total = MOVE_STEPS;
    if (shard == NULL || thole_v1_Shard_deleting(shard)) {
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_CANCELLED, "the shard is being deleted");
    } else if (!runs(to)) {
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_FAILED, "the new replica was removed");
    } else if (is_gone(h, from) && thole_v1_Replica_phase(to) == thole_v1_REPLICA_PHASE_RUNNING) {
        p->done = MOVE_STEPS;
        hostctl__progress_end(p, thole_v1_OPERATION_STATE_DONE, "");
    } else if (runs(from) && host_is_lost(h, to, p)) {
        return;
    } else if (!runs(from)) {
        p->step = "removing";
        p->done = 3;
    } else {
        int32_t phase = thole_v1_Replica_phase(to);
        p->done = phase == thole_v1_REPLICA_PHASE_RUNNING       ? 2
                  : phase == thole_v1_REPLICA_PHASE_CATCHING_UP ? 1
                                                                : 0;
        p->step = p->done == 2 ? "swapping" : p->done == 1 ? "catching-up" : "joining";
        explain_move(h, to, p);
    }
}

/* False: nothing changed. */
static bool progress_of(const struct hostctl *h, const thole_v1_Operation *row,
                        struct ctl_progress *p)
{
    int32_t kind = thole_v1_Operation_kind(row);
    if (registry_operation_has_ended(row) || kind == thole_v1_OPERATION_KIND_PAUSE) {
        return false;
    }
    *p = (struct ctl_progress){.state = thole_v1_OPERATION_STATE_RUNNING,
                               .step = "",
                               .total = thole_v1_Operation_total(row)};
    if (kind == thole_v1_OPERATION_KIND_MOVE) {
        progress_of_move(h, row, p);
    } else if (kind == thole_v1_OPERATION_KIND_REBALANCE) {
        hostctl__rebalance_progress(h, p);
    } else if (kind == thole_v1_OPERATION_KIND_RESTORE) {
        hostctl__restore_progress(h, row, p);
    } else {
        progress_of_host(h, row, p);
    }
    return p->remove || (int32_t)p->state != thole_v1_Operation_state(row) ||
           p->done != thole_v1_Operation_done(row) || p->total != thole_v1_Operation_total(row) ||
           !slice_equal(slice_str(p->step), registry_str(thole_v1_Operation_step(row))) ||
           !slice_equal(slice_str(p->message), registry_str(thole_v1_Operation_message(row)));
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static void propose_step(struct hostctl *h, const thole_v1_Operation *row,
                         const struct ctl_progress *p)
{
    struct registry_shard_buf shard_buf;
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = hostctl__command(h, "operations", arena);
    thole_registry_v1_Operation *op = thole_registry_v1_Command_add_operations(c, arena);
    thole_registry_v1_StepOperation *o =
        thole_registry_v1_Operation_mutable_step_operation(op, arena);
    thole_registry_v1_Operation_set_expected_revision(op, thole_v1_Operation_revision(row));
    thole_registry_v1_StepOperation_set_id(o, thole_v1_Operation_id(row));
    thole_registry_v1_StepOperation_set_state(o, (int32_t)p->state);
    thole_registry_v1_StepOperation_set_step(o, upb_StringView_FromString(p->step));
    thole_registry_v1_StepOperation_set_done(o, p->done);
    thole_registry_v1_StepOperation_set_total(o, p->total);
    thole_registry_v1_StepOperation_set_message(o, upb_StringView_FromString(p->message));
    if (p->remove) {
        struct uuid id;
        (void)uuid_parse(registry_str(thole_v1_Operation_host_id(row)), &id);
        const thole_v1_Host *host = registry_host(h->view, &id);
        op = thole_registry_v1_Command_add_operations(c, arena);
        thole_registry_v1_Operation_set_expected_revision(op, thole_v1_Host_revision(host));
        thole_registry_v1_DeleteHost *d =
            thole_registry_v1_Operation_mutable_delete_host(op, arena);
        thole_registry_v1_DeleteHost_set_name(d, thole_v1_Host_name(host));
        thole_registry_v1_DeleteHost_set_decommission(d, true);
    }
    if (p->retire) {
        const thole_v1_Shard *shard =
            registry_shard(h->view, thole_v1_Operation_shard_id(row), &shard_buf);
        op = thole_registry_v1_Command_add_operations(c, arena);
        thole_registry_v1_Operation_set_expected_revision(op, thole_v1_Shard_revision(shard));
        thole_registry_v1_DeleteShard *d =
            thole_registry_v1_Operation_mutable_delete_shard(op, arena);
        thole_registry_v1_DeleteShard_set_name(d, thole_v1_Shard_name(shard));
        thole_registry_v1_DeleteShard_set_restore_failed(d, true);
    }
    h->operate_outstanding = true;
    hostctl__propose(h, c, arena, hostctl__op_new(h, OP_OPERATE, 0, 0));
    upb_Arena_Free(arena);
}

bool hostctl__operations_are_due(const struct hostctl *h)
{
    return h->zero_leader && !h->operate_outstanding && h->operate_due_ms != UINT64_MAX &&
           registry_view_revision(h->view) >= h->operate_revision;
}

/* The next operation, after that of the last step, whose progress changed. */
void hostctl__operate_run(struct hostctl *h)
{
    const thole_v1_Operation *row;
    struct ctl_progress p;
    uint64_t begin = h->operate_after;
    h->operate_due_ms = UINT64_MAX;
    for (bool wrapped = false;;) {
        row = registry_next_operation(h->view, h->operate_after);
        if (row == NULL || (wrapped && thole_v1_Operation_id(row) > begin)) {
            if (wrapped || begin == 0) {
                return;
            }
            wrapped = true;
            h->operate_after = 0;
            continue;
        }
        h->operate_after = thole_v1_Operation_id(row);
        if (progress_of(h, row, &p)) {
            propose_step(h, row, &p);
            return;
        }
    }
}

void hostctl__operate_done(struct hostctl *h, struct ctl_op *op)
{
    h->operate_outstanding = false;
    if (op->st.code == THOLE_OK && op->code == THOLE_OK) {
        h->operate_revision = op->revision;
        h->operate_due_ms = h->now_ms + h->o.retry_ms / 4;
        return;
    }
    LOG_DEBUG(HOSTCTL, "a step of an operation was refused code=%" PRIu64, op->code);
    h->operate_due_ms = h->now_ms + h->o.retry_ms;
}
