/* Sleep: an idle group costs neither timers nor messages.
 *
 * A leader that has been idle for a while sends its members SLEEP in place of a heartbeat. A member
 * whose log equals the leader's, all of it durable and committed, stops its timer and answers with
 * SLEEP_REPLY. When all members have consented, the leader stops its timer too. From then on the
 * caller watches the *hosts*. It must call raft_wake for a sleeping replica when the host of its
 * leader, or of a member that it leads, falls silent or restarts, and when its leader stopped. A
 * member whose host is known to be gone (raft_absent) need not consent, if the others are a quorum.
 *
 * Sleep concerns timers alone; terms, votes and logs do not depend on it. Every event wakes a
 * replica. So the worst case is a group that stays awake, or waits for an election, longer than
 * needed. */
#include "shards/raft/raft_internal.h"

void raft__busy(struct raft *r)
{
    r->awake->busy_ms = RAFT_NEVER_MS; /* set by the next tick: not every event knows the time */
    r->sleep_round++;                  /* earlier consents are void */
}

/* Is the whole log durable, committed and in force? */
static bool settled(const struct raft *r)
{
    return r->commit == r->log.last_index && r->log.durable == r->log.last_index &&
           r->log.durable >= r->log.start_index && !raft__dirty(r) &&
           r->membership.pending_count == 0 && r->awake->reads.count == 0 && !r->removed;
}

static bool has_everything(const struct raft *r, const struct raft_progress *p)
{
    return p->state == RAFT_REPLICATE && p->match == r->log.last_index && p->inflight_count == 0;
}

static bool may_sleep(const struct raft *r)
{
    const struct raft_config *c = raft__config(r);

    if (r->options.sleep_after_ms == 0 || r->awake->busy_ms == RAFT_NEVER_MS ||
        r->now_ms - r->awake->busy_ms < r->options.sleep_after_ms || !settled(r) ||
        r->commit < r->lead->first_index || c->joint || r->lead->transfer_target != 0) {
        return false;
    }
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_progress *p = &r->lead->peers[i];
        if (c->members[i].replica_id != r->options.replica_id && !p->absent &&
            !has_everything(r, p)) {
            return false;
        }
    }
    return true;
}

/* Have all members consented that are not absent, and are they a quorum? */
static bool all_agreed(const struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    uint8_t votes[LIMIT_MEMBERS];

    ASSERT(r->role == RAFT_LEADER && r->lead->peer_count == c->member_count);
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_progress *p = &r->lead->peers[i];
        bool agreed = c->members[i].replica_id == r->options.replica_id ||
                      (!p->absent && p->sleep_round == r->sleep_round);
        if (!agreed && !p->absent) {
            return false;
        }
        votes[i] = agreed ? RAFT_VOTE_GRANTED : RAFT_VOTE_REFUSED;
    }
    return raft__quorum_joint_tally(c, votes) == RAFT_TALLY_WON;
}

bool raft__lead_sleep(struct raft *r)
{
    const struct raft_config *c = raft__config(r);

    if (!may_sleep(r)) {
        return false;
    }
    ASSERT(!r->asleep && settled(r));
    if (all_agreed(r)) {
        r->asleep = true;
        return true;
    }
    for (uint32_t i = 0; i < c->member_count; i++) {
        if (c->members[i].replica_id == r->options.replica_id) {
            continue;
        }
        struct raft_message m = {
            .kind = r->lead->peers[i].absent ? RAFT_MSG_HEARTBEAT : RAFT_MSG_SLEEP,
            .to = c->members[i].replica_id,
            .term = r->term,
        };
        if (m.kind == RAFT_MSG_SLEEP) {
            m.index = r->log.last_index;
            m.log_term = raft__log_last_term(&r->log);
            m.commit = r->commit;
            m.context = r->sleep_round;
        } else {
            m.context = r->read_number;
        }
        raft__send(r, m, 0);
    }
    return true;
}

enum thole_code raft__recv_sleep(struct raft *r, const struct raft_message *m,
                                 struct thole_status *st)
{
    enum thole_code code = raft__take_heartbeat(r, m, st);

    if (code != THOLE_OK) {
        return code;
    }
    struct raft_message reply = {
        .kind = RAFT_MSG_HEARTBEAT_REPLY, /* if it cannot sleep: SLEEP counts as a heartbeat */
        .to = m->from,
        .term = r->term,
    };
    if (settled(r) && m->index == r->log.last_index &&
        m->log_term == raft__log_last_term(&r->log)) {
        ASSERT(r->role == RAFT_FOLLOWER && r->leader == m->from);
        reply.kind = RAFT_MSG_SLEEP_REPLY;
        reply.index = m->index;
        reply.context = m->context;
        r->asleep = true;
    }
    raft__send(r, reply, 0);
    return THOLE_OK;
}

void raft__recv_sleep_reply(struct raft *r, const struct raft_message *m)
{
    struct raft_progress *p = raft__peer(r, m->from);

    if (p == NULL) {
        return;
    }
    raft__lead_answered(r, p, m);
    p->paused = false;
    if (m->context == r->sleep_round && m->index == r->log.last_index) {
        p->sleep_round = r->sleep_round;
    }
    if (!r->asleep && may_sleep(r) && all_agreed(r)) {
        r->asleep = true;
    }
}

void raft__wake(struct raft *r, uint64_t heard_ms)
{
    if (!r->asleep) {
        return;
    }
    r->asleep = false;
    raft__busy(r);
    if (r->role == RAFT_LEADER) {
        /* The next tick knows the time. It sends a heartbeat, and a quorum has T to answer it. */
        r->lead->heartbeat_deadline_ms = r->now_ms;
        r->lead->quorum_deadline_ms = RAFT_NEVER_MS;
        for (uint32_t i = 0; i < r->lead->peer_count; i++) {
            r->lead->peers[i].answered = false; /* only its host was heard */
        }
        return;
    }
    heard_ms = heard_ms < r->now_ms ? heard_ms : r->now_ms;
    if (heard_ms > r->contact_ms) { /* it never goes back: a promise may depend on it (lease.c) */
        r->contact_ms = heard_ms;
    }
    raft__rearm_election(r);
    if (r->awake->election_deadline_ms != RAFT_NEVER_MS) {
        r->awake->election_deadline_ms = r->contact_ms + r->election_timeout_ms;
    }
}

void raft_wake(struct raft *r, uint64_t heard_ms, uint64_t now_ms)
{
    raft__begin(r, now_ms);
    raft__wake(r, heard_ms);
    raft__check(r);
}

bool raft_asleep(const struct raft *r)
{
    return r->asleep;
}

void raft__awake_new(struct raft *r)
{
    struct raft_awake *a = xcalloc(1, sizeof *a);

    ASSERT(r->asleep && r->awake == NULL);
    r->awake = a;
    rand_seed(&a->rand, r->asleep_seed);
    a->persist.token = a->persist.done = r->asleep_token;
    a->persist.commit = r->asleep_commit;
    a->busy_ms = RAFT_NEVER_MS;
    raft__rearm_election(r);
    if (r->role == RAFT_LEADER) {
        raft__lead_restore(r);
    }
}

void raft__awake_free(struct raft *r)
{
    if (r->awake != NULL) {
        raft__outbox_deinit(&r->awake->outbox);
        raft__reads_deinit(&r->awake->reads);
        free(r->awake);
        r->awake = NULL;
    }
}

static bool is_idle(const struct raft *r)
{
    const struct raft_awake *a = r->awake;

    return a->reads.count + a->reads.result_count == 0 && raft__outbox_is_empty(&a->outbox) &&
           !raft__dirty(r) && a->persist.done == a->persist.token && a->persist.commit_token == 0 &&
           a->force_index == 0 && a->transfer_term != r->term &&
           (r->role == RAFT_LEADER ? raft__lead_may_trim(r) : r->role == RAFT_FOLLOWER);
}

void raft_trim(struct raft *r)
{
    if (!r->asleep || r->awake == NULL) {
        return;
    }
    raft__begin(r, r->now_ms);
    raft__log_evict(&r->log, 0, r->applied);
    raft__log_trim(&r->log);
    for (uint32_t i = 0; r->role == RAFT_LEADER && i < r->lead->peer_count; i++) {
        raft__progress_trim(&r->lead->peers[i]);
    }
    if (!is_idle(r)) {
        return;
    }
    if (r->role == RAFT_LEADER) {
        raft__lead_trim(r);
    }
    ASSERT(r->awake->persist.hard_token <= r->awake->persist.done);
    r->asleep_seed = rand_u64(&r->awake->rand);
    r->asleep_token = r->awake->persist.token;
    r->asleep_commit = r->awake->persist.commit;
    raft__awake_free(r);
    raft__check(r);
}

void raft_absent(struct raft *r, uint64_t peer, bool absent, uint64_t now_ms)
{
    raft__begin(r, now_ms);
    struct raft_progress *p = raft__peer(r, peer);

    if (p != NULL && p->absent != absent) {
        raft__wake(r, r->now_ms);
        raft__busy(r); /* an earlier consent does not count */
        p->absent = absent;
    }
    raft__check(r);
}
