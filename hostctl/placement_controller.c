/* The placement controller, on shard zero's leader host: runs placement_decide for every shard
 * whose rows or hosts changed, and proposes the decisions. The decisions of a turn, all on one
 * view, share a command. If one decision is refused the whole command is; halving finds it. A
 * shard has one proposal under way, and its next decision waits until the local view has the last
 * one. */
#include "base/canary.h"
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int32_t hostctl__extra_load(void *ctx, const struct uuid *host)
{
    return hostctl__host(ctx, host)->extra;
}

/* ---- This turn's command --------------------------------------------------------------------- */

thole_registry_v1_Command *hostctl__place_begin(struct hostctl *h, upb_Arena **ret_arena)
{
    if (h->batch.arena == NULL) {
        h->batch.arena = upb_Arena_New();
        h->batch.command = hostctl__command(h, "placement", h->batch.arena);
        h->batch.op = hostctl__op_new(h, OP_PLACE, 0, 0);
        h->batch.op->shards = xcalloc(HOSTCTL_PLACE_SHARDS_MAX, sizeof *h->batch.op->shards);
        h->batch.operations = 0;
    }
    *ret_arena = h->batch.arena;
    return h->batch.command;
}

/* Replicas that the view does not show yet count for the decisions that follow. */
static void note_placed(struct hostctl *h, struct ctl_op *op,
                        const thole_registry_v1_Operation *const *ops, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        size_t count = 0;
        if (!thole_registry_v1_Operation_has_place_replicas(ops[i])) {
            continue;
        }
        const thole_registry_v1_Placed *const *placed = thole_registry_v1_PlaceReplicas_replicas(
            thole_registry_v1_Operation_place_replicas(ops[i]), &count);
        op->placed = xrealloc(op->placed, (op->placed_count + count) * sizeof *op->placed);
        for (size_t k = 0; k < count; k++) {
            struct uuid *host = &op->placed[op->placed_count];
            if (uuid_parse(registry_str(thole_registry_v1_Placed_host_id(placed[k])), host)) {
                hostctl__host(h, host)->extra++;
                op->placed_count++;
            }
        }
    }
}

static void forget_placed(struct hostctl *h, struct ctl_op *op)
{
    for (size_t i = 0; i < op->placed_count; i++) {
        hostctl__host(h, &op->placed[i])->extra--;
    }
    hostctl__op_free(op);
}

void hostctl__place_commit(struct hostctl *h, struct ctl_shard *s)
{
    struct ctl_op *op = h->batch.op;
    size_t count = 0;
    const thole_registry_v1_Operation *const *ops =
        thole_registry_v1_Command_operations(h->batch.command, &count);
    note_placed(h, op, ops, h->batch.operations, count);
    h->batch.operations = count;
    op->shards[op->count++] = s->id;
    s->placing = true;
    if (op->count >= h->place_limit) {
        hostctl__place_flush(h);
    }
}

void hostctl__place_flush(struct hostctl *h)
{
    if (h->batch.arena == NULL) {
        return;
    }
    upb_Arena *arena = h->batch.arena;
    h->batch.arena = NULL;
    if (h->batch.operations == 0) {
        hostctl__op_free(h->batch.op);
    } else {
        h->placements++;
        hostctl__propose(h, h->batch.command, arena, h->batch.op);
    }
    upb_Arena_Free(arena);
}

/* ---- Decisions ------------------------------------------------------------------------------- */

static bool is_unsettled(const struct ctl_shard *s)
{
    return s->decided && (s->verdict == PLACEMENT_ACT || s->verdict == PLACEMENT_WAIT);
}

/* A dead host does not delete what is out of the group already. */
static bool is_out_for_good(const struct hostctl *h, const thole_v1_Replica *row)
{
    struct uuid id;
    const thole_v1_Host *host = uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &id)
                                    ? registry_host(h->view, &id)
                                    : NULL;
    return thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_OUT &&
           (host == NULL || thole_v1_HostStatus_liveness(thole_v1_Host_status(host)) ==
                                thole_v1_HOST_LIVENESS_DEAD);
}

static bool is_leaving(const struct hostctl *h, uint64_t shard_id)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(h->view, shard_id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE &&
            (!is_out_for_good(h, row) || CANARY(move_never_ends))) {
            return true;
        }
    }
    return false;
}

static void end_move(struct hostctl *h, struct ctl_shard *s)
{
    if (s->moving) {
        ASSERT(h->moving > 0);
        s->moving = false;
        h->moving--;
        hostctl__host(h, &s->work->moving_from)->extra++;
    }
}

static void remember(struct hostctl *h, struct ctl_shard *s, const struct placement_result *r)
{
    h->unsettled -= is_unsettled(s);
    s->decided = true;
    s->verdict = (uint8_t)r->verdict;
    s->unbalanced = r->unbalanced;
    h->unsettled += is_unsettled(s);
    if (h->unsettled == 0 && h->rebalance != 0 && !h->balance_even) {
        hostctl__balance_changed(h);
    }
    bool over = r->verdict == PLACEMENT_SETTLED ||
                (r->verdict == PLACEMENT_UNSATISFIABLE && !CANARY(move_never_ends));
    if (s->moving && over && !is_leaving(h, s->id)) {
        end_move(h, s);
        hostctl__balance_changed(h);
    }
    const char *had = s->work->explanation == NULL ? "" : s->work->explanation;
    if (strcmp(had, r->explanation) != 0) {
        struct ctl_work *w = hostctl__work(s);
        free(w->explanation);
        w->explanation = r->explanation[0] == '\0' ? NULL : xstrdup(r->explanation);
        if (w->explanation != NULL) {
            hostctl__operate_again(h);
        }
    }
}

void hostctl__place_forget(struct hostctl *h, struct ctl_shard *s)
{
    ASSERT(h->unsettled >= is_unsettled(s));
    h->unsettled -= is_unsettled(s);
    s->decided = false;
    end_move(h, s);
}

void hostctl__place_reset(struct hostctl *h)
{
    size_t it = 0;
    struct ctl_shard *s;
    while ((s = map_next(&h->shards, &it, NULL)) != NULL) {
        hostctl__place_forget(h, s);
    }
}

static void block(struct hostctl *h, struct ctl_shard *s)
{
    if (!s->place_blocked) {
        s->place_blocked = true;
        hostctl__work(s)->next_blocked = NULL;
        *h->blocked_tail = s;
        h->blocked_tail = &hostctl__work(s)->next_blocked;
    }
}

/* As many shards as the next commands can take. */
static void unblock(struct hostctl *h)
{
    for (size_t i = 0; i < 2 * HOSTCTL_PLACE_SHARDS_MAX && h->blocked != NULL; i++) {
        struct ctl_shard *s = h->blocked;
        h->blocked = s->work->next_blocked;
        if (h->blocked == NULL) {
            h->blocked_tail = &h->blocked;
        }
        s->place_blocked = false;
        hostctl__dirty(h, s->id);
    }
}

void hostctl__place_evaluate(struct hostctl *h, struct ctl_shard *s)
{
    struct registry_shard_buf shard_buf;
    const thole_v1_Shard *shard = registry_shard(h->view, s->id, &shard_buf);
    if (s->placing || s->place_blocked || shard == NULL ||
        hostctl__is_paused(h, thole_v1_CONTROLLER_PLACEMENT) ||
        registry_view_revision(h->view) < s->work->place_revision) {
        return;
    }
    if (h->now_ms < s->work->place_after_ms) {
        hostctl__again(h, s, s->work->place_after_ms);
        return;
    }
    if (h->placements >= HOSTCTL_PLACEMENTS_MAX) {
        block(h, s);
        return;
    }
    upb_Arena *arena = NULL;
    thole_registry_v1_Command *c = hostctl__place_begin(h, &arena);
    const struct placement_options options = {.ctx = h,
                                              .extra = hostctl__extra_load,
                                              .unpinned = h->rebalance,
                                              .hold = !hostctl__may_rebalance(h)};
    struct placement_result result;
    placement_decide(h->view, shard, &options, c, arena, &result);
    remember(h, s, &result);
    if (result.verdict == PLACEMENT_ACT) {
        hostctl__place_commit(h, s);
    }
}

/* ---- Answers --------------------------------------------------------------------------------- */

void hostctl__place_done(struct hostctl *h, struct ctl_op *op)
{
    bool accepted = op->st.code == THOLE_OK && op->code == THOLE_OK;
    h->placements--;
    if (accepted) {
        h->place_limit = 2 * h->place_limit < HOSTCTL_PLACE_SHARDS_MAX ? 2 * h->place_limit
                                                                       : HOSTCTL_PLACE_SHARDS_MAX;
    } else if (op->st.code == THOLE_OK) {
        h->place_limit = op->count > 1 ? op->count / 2 : 1;
        LOG_DEBUG(HOSTCTL, "a placement was refused shards=%zu code=%" PRIu64, op->count, op->code);
    }
    for (size_t i = 0; i < op->count; i++) {
        struct ctl_shard *s = hostctl__shard(h, op->shards[i]);
        s->placing = false;
        if (accepted) {
            hostctl__work(s)->place_revision = op->revision;
        } else {
            end_move(h, s);
            hostctl__work(s)->place_after_ms = h->now_ms + h->o.retry_ms;
            hostctl__again(h, s, s->work->place_after_ms);
        }
        hostctl__dirty(h, s->id);
    }
    unblock(h);
    if (!accepted) {
        forget_placed(h, op);
        return;
    }
    op->next = h->unseen_placements;
    h->unseen_placements = op;
    hostctl__place_view_changed(h);
}

/* The local view now shows some of the placed replicas: stop counting them twice. */
void hostctl__place_view_changed(struct hostctl *h)
{
    struct ctl_op **at = &h->unseen_placements;
    while (*at != NULL) {
        struct ctl_op *op = *at;
        if (h->view != NULL && op->revision <= registry_view_revision(h->view)) {
            *at = op->next;
            for (size_t i = 0; i < op->count; i++) {
                hostctl__dirty(h, op->shards[i]);
            }
            forget_placed(h, op);
        } else {
            at = &op->next;
        }
    }
}
