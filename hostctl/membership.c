/* The membership controller: on a shard's leader host, replica rows -> Raft configuration.
 *
 * One change at a time, in this order: bring in who is missing, promote who has caught up, demote,
 * remove. A replica that an operation moves gives its vote to the new one in the same (joint)
 * change that promotes that. Each carries the revision of the view it was decided on, so that a
 * leader with an older view cannot undo what one with a newer view did. A vote is only taken while
 * those who keep theirs are a majority that answers; nobody removes or demotes itself: leadership
 * is handed on first. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

/* How far behind the commit index a learner may be when it gets its vote. */
#define CAUGHT_UP_ENTRIES 64
/* Or, under a load that commits more than that between two looks at a learner, it has what was
 * committed when a round began, before the round ends (thesis 4.2.1). In units of retry_ms; longer
 * than the leader's heartbeats, with which what we see of learners is renewed. */
#define ROUND_RETRIES 5

struct member_step {
    uint8_t op; /* enum raft_change_op; 0: none */
    uint64_t replica_id;
    struct uuid host;
    uint64_t demoted; /* in the same change; 0: none */
    bool look_again;  /* something is wanted that is not possible yet */
};

static bool peer_active(const struct hostctl *h, const struct engine_replica_status *local,
                        uint64_t replica_id)
{
    struct raft_peer_status peer;
    return replica_id == local->replica_id ||
           (engine_shard_peer(h->o.engine, local->shard_id, replica_id, &peer) &&
            peer.recently_active);
}

static bool caught_up(const struct hostctl *h, const struct ctl_shard *s,
                      const struct engine_replica_status *local, uint64_t replica_id)
{
    struct raft_peer_status peer;
    if (!engine_shard_peer(h->o.engine, local->shard_id, replica_id, &peer) ||
        !peer.recently_active) {
        return false;
    }
    return peer.match + CAUGHT_UP_ENTRIES >= local->commit ||
           (h->now_ms < s->work->round_end_ms && peer.match >= s->work->round_commit);
}

/* Begin a round, unless the one under way lasts until we look again. */
static void begin_round(const struct hostctl *h, struct ctl_shard *s,
                        const struct engine_replica_status *local)
{
    if (h->now_ms + h->o.retry_ms >= s->work->round_end_ms) {
        hostctl__work(s)->round_commit = local->commit;
        hostctl__work(s)->round_end_ms = h->now_ms + (uint64_t)ROUND_RETRIES * h->o.retry_ms;
    }
}

/* Do those who still vote without `leaving` answer, a majority of them? `coming` votes then. */
static bool can_lose_vote(const struct hostctl *h, const struct engine_replica_status *local,
                          const struct raft_config *c, uint64_t leaving, uint64_t coming)
{
    uint32_t voters = 0;
    uint32_t active = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        if ((m->role != RAFT_LEARNER || m->replica_id == coming) && m->replica_id != leaving) {
            voters++;
            active += peer_active(h, local, m->replica_id);
        }
    }
    return voters > 0 && active * 2 > voters;
}

/* ---- What to do next ------------------------------------------------------------------------- */

static void find_missing(const struct hostctl *h, const struct raft_config *c, uint64_t shard_id,
                         struct member_step *step)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while (step->op == 0 &&
           (row = registry_next_replica_of_shard(h->view, shard_id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN &&
            raft_config_find(c, after) == NULL && !raft_config_is_removed(c, after) &&
            c->member_count < LIMIT_MEMBERS &&
            hostctl__parse_uuid(thole_v1_Replica_host_id(row), &step->host)) {
            bool witness = thole_v1_Replica_role(row) == thole_v1_REPLICA_ROLE_WITNESS;
            step->op = witness ? RAFT_CHANGE_ADD_WITNESS : RAFT_CHANGE_ADD_LEARNER;
            step->replica_id = after;
        }
    }
}

static bool wants(const thole_v1_Replica *row, thole_v1_ReplicaRole role)
{
    return row != NULL && thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN &&
           thole_v1_Replica_role(row) == (int32_t)role;
}

/* The voter whose place the learner takes; 0: none. */
static uint64_t moved_from(const struct hostctl *h, const struct raft_config *c,
                           const thole_v1_Replica *row)
{
    struct registry_replica_buf replica_buf;
    uint64_t operation = thole_v1_Replica_moved_by(row);
    for (uint32_t i = 0; i < c->member_count && operation != 0; i++) {
        const thole_v1_Replica *old =
            registry_replica(h->view, c->members[i].replica_id, &replica_buf);
        if (c->members[i].role == RAFT_VOTER && old != NULL &&
            thole_v1_Replica_moving_by(old) == operation) {
            return c->members[i].replica_id;
        }
    }
    return 0;
}

/* A replica that is being moved does not get back the vote that it gave away. */
static bool wants_vote(const thole_v1_Replica *row)
{
    return wants(row, thole_v1_REPLICA_ROLE_VOTER) && thole_v1_Replica_moving_by(row) == 0;
}

static void find_promotion(const struct hostctl *h, const struct ctl_shard *s,
                           const struct engine_replica_status *local, const struct raft_config *c,
                           struct member_step *step)
{
    struct registry_replica_buf replica_buf;
    for (uint32_t i = 0; i < c->member_count && step->op == 0; i++) {
        const struct raft_member *m = &c->members[i];
        const thole_v1_Replica *row = registry_replica(h->view, m->replica_id, &replica_buf);
        if (m->role != RAFT_LEARNER || !wants_vote(row)) {
            continue;
        }
        uint64_t demoted = moved_from(h, c, row);
        if (caught_up(h, s, local, m->replica_id) &&
            (demoted == 0 || can_lose_vote(h, local, c, demoted, m->replica_id))) {
            step->demoted = demoted;
            step->op = RAFT_CHANGE_ADD_VOTER;
            step->replica_id = m->replica_id;
            memcpy(step->host.bytes, m->host, sizeof(step->host.bytes));
        } else {
            step->look_again = true;
        }
    }
}

/* Do all vote that should? */
static bool wanted_voters_vote(const struct hostctl *h, const struct raft_config *c,
                               uint64_t shard_id)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(h->view, shard_id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        const struct raft_member *m = raft_config_find(c, after);
        if (wants(row, thole_v1_REPLICA_ROLE_VOTER) && (m == NULL || m->role != RAFT_VOTER)) {
            return false;
        }
    }
    return true;
}

/* The row says REMOVE, or there is none although the id was given out. A member that a repair of
 * shard zero does not know holds what its group has: it goes when the wanted ones have that too. */
static bool should_go(const struct hostctl *h, const struct raft_config *c, uint64_t shard_id,
                      uint64_t replica_id)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *row = registry_replica(h->view, replica_id, &replica_buf);
    if (row == NULL) {
        return replica_id < registry_next_replica_id(h->view) &&
               (!registry_replica_lost(h->view, replica_id) || wanted_voters_vote(h, c, shard_id));
    }
    return thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE;
}

static void find_departure(const struct hostctl *h, const struct engine_replica_status *local,
                           const struct raft_config *c, struct member_step *step)
{
    struct registry_replica_buf replica_buf;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        bool voter = m->role != RAFT_LEARNER;
        bool go = should_go(h, c, local->shard_id, m->replica_id);
        bool demote =
            m->role == RAFT_VOTER && wants(registry_replica(h->view, m->replica_id, &replica_buf),
                                           thole_v1_REPLICA_ROLE_NON_VOTING);
        if (!go && !demote) {
            continue;
        }
        if (voter && !can_lose_vote(h, local, c, m->replica_id, 0)) {
            step->look_again = true;
            continue;
        }
        /* Ourselves last: who follows can do the rest. */
        if (step->op == 0 || step->replica_id == local->replica_id) {
            step->op = go ? RAFT_CHANGE_REMOVE : RAFT_CHANGE_DEMOTE;
            step->replica_id = m->replica_id;
        }
    }
}

static struct member_step decide(const struct hostctl *h, const struct ctl_shard *s,
                                 const struct engine_replica_status *local,
                                 const struct raft_config *c)
{
    struct member_step step = {0};
    find_missing(h, c, local->shard_id, &step);
    if (step.op == 0) {
        find_promotion(h, s, local, c, &step);
    }
    if (step.op == 0) {
        find_departure(h, local, c, &step);
    }
    return step;
}

/* The best voter that is to stay. 0: none answers. */
static uint64_t successor(const struct hostctl *h, const struct engine_replica_status *local,
                          const struct raft_config *c)
{
    struct registry_replica_buf replica_buf;
    uint64_t best = 0;
    uint64_t best_match = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        struct raft_peer_status peer;
        if (m->role == RAFT_VOTER && m->replica_id != local->replica_id &&
            wants_vote(registry_replica(h->view, m->replica_id, &replica_buf)) &&
            engine_shard_peer(h->o.engine, local->shard_id, m->replica_id, &peer) &&
            peer.recently_active && peer.match >= best_match) {
            best = m->replica_id;
            best_match = peer.match;
        }
    }
    return best;
}

/* ---- Taking the step ------------------------------------------------------------------------- */

/* Leadership is handed on before the leader itself loses its vote. False: to nobody. */
static bool hand_on(struct hostctl *h, struct ctl_shard *s,
                    const struct engine_replica_status *local, const struct raft_config *c)
{
    uint64_t target = successor(h, local, c);
    if (target == 0) {
        return false;
    }
    LOG_INFO(HOSTCTL, "handing leadership on shard=%" PRIu64 " to=%" PRIu64, s->id, target);
    s->changing = true;
    engine_transfer(h->o.engine, s->id, target, hostctl__op_engine_done,
                    hostctl__op_new(h, OP_CHANGE, s->id, 0));
    return true;
}

static void take_step(struct hostctl *h, struct ctl_shard *s,
                      const struct engine_replica_status *local, const struct raft_config *c,
                      const struct member_step *step)
{
    bool leaving = step->op == RAFT_CHANGE_REMOVE || step->op == RAFT_CHANGE_DEMOTE;
    bool self_leaves = leaving && step->replica_id == local->replica_id;
    bool self_swapped = step->demoted == local->replica_id;
    if ((self_leaves || self_swapped) && hand_on(h, s, local, c)) {
        return;
    }
    if (self_leaves) {
        hostctl__again(h, s, h->now_ms + h->o.retry_ms);
        return;
    }
    struct raft_change change = {.revision = registry_view_revision(h->view), .item_count = 1};
    change.items[0].op = step->op;
    change.items[0].replica_id = step->replica_id;
    memcpy(change.items[0].host, step->host.bytes, sizeof(change.items[0].host));
    /* The only voter cannot give its vote away: then the new one votes beside it first. */
    if (step->demoted != 0 && !self_swapped) {
        change.items[change.item_count].op = RAFT_CHANGE_DEMOTE;
        change.items[change.item_count++].replica_id = step->demoted;
    }
    LOG_INFO(HOSTCTL,
             "changing members shard=%" PRIu64 " op=%u replica=%" PRIu64 " demoted=%" PRIu64, s->id,
             (unsigned)step->op, step->replica_id, change.item_count > 1 ? step->demoted : 0);
    s->changing = true;
    engine_change(h->o.engine, s->id, &change, hostctl__op_engine_done,
                  hostctl__op_new(h, OP_CHANGE, s->id, step->replica_id));
}

void hostctl__membership_evaluate(struct hostctl *h, struct ctl_shard *s,
                                  const struct engine_replica_status *local)
{
    struct registry_shard_buf shard_buf;
    const thole_v1_Shard *shard = registry_shard(h->view, s->id, &shard_buf);
    if (s->changing || shard == NULL || thole_v1_Shard_deleting(shard) ||
        hostctl__paused(h, thole_v1_CONTROLLER_MEMBERSHIP)) {
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
        hostctl__again(h, s, h->now_ms + h->o.retry_ms); /* it leaves by itself; we catch up */
    } else {
        struct member_step step = decide(h, s, local, &c);
        if (step.op != 0) {
            take_step(h, s, local, &c, &step);
        } else if (step.look_again) {
            begin_round(h, s, local);
            hostctl__again(h, s, h->now_ms + h->o.retry_ms);
        }
    }
    raft_config_deinit(&c);
}

void hostctl__membership_done(struct hostctl *h, struct ctl_op *op)
{
    struct ctl_shard *s = hostctl__shard(h, op->shard_id);
    s->changing = false;
    if (op->st.code != THOLE_OK) {
        LOG_INFO(HOSTCTL,
                 "a membership step was refused shard=%" PRIu64 " error=\"%s\"; trying "
                 "again in %" PRIu32 " ms",
                 op->shard_id, op->st.message, h->o.retry_ms);
        hostctl__work(s)->change_after_ms = h->now_ms + h->o.retry_ms;
        hostctl__again(h, s, s->work->change_after_ms);
    }
    hostctl__dirty(h, op->shard_id);
}

/* ---- Fences ---------------------------------------------------------------------------------- */

bool hostctl__config_fenced(struct hostctl *h, struct ctl_shard *s,
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
