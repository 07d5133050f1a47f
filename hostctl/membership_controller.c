/* The membership controller: on a shard's leader host, replica rows -> Raft configuration. One
 * change at a time, in this order: add missing members as learners; give and take votes, all in
 * one (joint) change that votes.c plans; remove learners. Each change carries the revision of the
 * view it was decided on, so that a leader with an older view cannot undo the change of one with a
 * newer view. A leader hands leadership on before it gives up its vote. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- What to do next ------------------------------------------------------------------------- */

static void find_missing(const struct hostctl *h, const struct raft_config *c, uint64_t shard_id,
                         struct vote_plan *step)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while (step->count == 0 && c->member_count < LIMIT_MEMBERS &&
           (row = registry_next_replica_of_shard(h->view, shard_id, after, &replica_buf)) != NULL) {
        struct uuid host;
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN &&
            thole_v1_Replica_role(row) != thole_v1_REPLICA_ROLE_WITNESS &&
            raft_config_find(c, after) == NULL && !raft_config_is_removed(c, after) &&
            uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &host)) {
            hostctl__plan_add(step, RAFT_CHANGE_ADD_LEARNER, after, host.bytes);
        }
    }
}

static void find_departed_learner(const struct hostctl *h, const struct raft_config *c,
                                  uint64_t shard_id, struct vote_plan *step)
{
    for (uint32_t i = 0; i < c->member_count && step->count == 0; i++) {
        const struct raft_member *m = &c->members[i];
        if (m->role == RAFT_LEARNER && hostctl__should_go(h, c, shard_id, m->replica_id)) {
            hostctl__plan_add(step, RAFT_CHANGE_REMOVE, m->replica_id, m->host);
        }
    }
}

/* ---- Taking the step ------------------------------------------------------------------------- */

/* Hands leadership on before the leader itself loses its vote. False: there is no successor. */
static bool transfer_leadership(struct hostctl *h, struct ctl_shard *s,
                                const struct vote_plan *plan)
{
    if (plan->successor == 0) {
        return false;
    }
    LOG_INFO(HOSTCTL, "handing leadership on shard=%" PRIu64 " to=%" PRIu64, s->id,
             plan->successor);
    s->changing = true;
    engine_transfer(h->o.engine, s->id, plan->successor, NULL, hostctl__op_engine_done,
                    hostctl__op_move(h, OP_CHANGE, s->id, plan->successor, "membership",
                                     "the leader loses its vote"));
    return true;
}

static void take_step(struct hostctl *h, struct ctl_shard *s, const struct vote_plan *plan)
{
    struct raft_change change = {.revision = registry_view_revision(h->view),
                                 .item_count = plan->count};
    memcpy(change.items, plan->items, sizeof change.items);
    for (uint32_t i = 0; i < plan->count; i++) {
        LOG_INFO(HOSTCTL, "changing members shard=%" PRIu64 " op=%u replica=%" PRIu64 " step=%u/%u",
                 s->id, (unsigned)plan->items[i].op, plan->items[i].replica_id, i + 1, plan->count);
    }
    s->changing = true;
    engine_change(h->o.engine, s->id, &change, hostctl__op_engine_done,
                  hostctl__op_new(h, OP_CHANGE, s->id, plan->items[0].replica_id));
}

static void decide(struct hostctl *h, struct ctl_shard *s,
                   const struct engine_replica_status *local, const struct raft_config *c)
{
    struct vote_plan step = {0};
    find_missing(h, c, s->id, &step);
    if (step.count == 0) {
        hostctl__plan_votes(h, local, c, &step);
    }
    bool look_again = step.look_again;
    if (step.self_leaves && transfer_leadership(h, s, &step)) {
        return;
    }
    if (step.count == 0) {
        find_departed_learner(h, c, s->id, &step);
    }
    if (step.count > 0) {
        take_step(h, s, &step);
    } else if (look_again) {
        hostctl__again(h, s, h->now_ms + h->o.retry_ms);
    }
}

void hostctl__membership_evaluate(struct hostctl *h, struct ctl_shard *s,
                                  const struct engine_replica_status *local)
{
    struct registry_shard_buf shard_buf;
    const thole_v1_Shard *shard = registry_shard(h->view, s->id, &shard_buf);
    if (s->changing || shard == NULL || thole_v1_Shard_deleting(shard) ||
        hostctl__is_paused(h, thole_v1_CONTROLLER_MEMBERSHIP)) {
        return;
    }
    if (h->now_ms < s->work->change_after_ms) {
        hostctl__again(h, s, s->work->change_after_ms);
        return;
    }
    struct raft_config c = {0};
    if (!engine_shard_config(h->o.engine, s->id, &c)) {
        return;
    }
    if (c.joint || c.revision > registry_view_revision(h->view)) {
        hostctl__again(h, s,
                       h->now_ms + h->o.retry_ms); /* it was removed; the local state catches up */
    } else {
        decide(h, s, local, &c);
    }
    raft_config_deinit(&c);
}

void hostctl__membership_done(struct hostctl *h, struct ctl_op *op)
{
    struct ctl_shard *s = hostctl__shard(h, op->shard_id);
    s->changing = false;
    if (op->st.code != THOLE_OK) {
        LOG_INFO(HOSTCTL,
                 "a membership step was refused shard=%" PRIu64 " error=\"%s\"; "
                 "retrying in %" PRIu32 " ms",
                 op->shard_id, op->st.message, h->o.retry_ms);
        hostctl__work(s)->change_after_ms = h->now_ms + h->o.retry_ms;
        hostctl__again(h, s, s->work->change_after_ms);
    }
    hostctl__dirty(h, op->shard_id);
}

/* ---- Fences ---------------------------------------------------------------------------------- */

bool hostctl__config_is_fenced(struct hostctl *h, struct ctl_shard *s,
                               const struct engine_replica_status *local)
{
    if (s->work->fenced_index == local->config_index && s->work->fenced_term == local->term) {
        return true;
    }
    if (!s->fencing && h->now_ms >= s->work->change_after_ms) {
        s->fencing = true;
        hostctl__work(s)->fencing_index = local->config_index;
        hostctl__work(s)->fencing_term = local->term;
        hostctl__fence(h, s->id);
    }
    return false;
}

void hostctl__fence_done(struct hostctl *h, struct ctl_op *op)
{
    struct ctl_shard *s = hostctl__shard(h, op->shard_id);
    s->fencing = false;
    if (op->st.code == THOLE_OK) {
        hostctl__work(s)->fenced_index = s->work->fencing_index;
        hostctl__work(s)->fenced_term = s->work->fencing_term;
    } else {
        hostctl__work(s)->change_after_ms = h->now_ms + h->o.retry_ms;
        hostctl__again(h, s, s->work->change_after_ms);
    }
    hostctl__dirty(h, op->shard_id);
}
