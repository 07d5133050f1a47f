/* A leader's work beside replication: its start and end, heartbeats, the check that a quorum and
 * its own disk are alive, and the effects of a new configuration. */
#include "shards/raft/raft_internal.h"

struct raft_progress *raft__peer(struct raft *r, uint64_t replica_id)
{
    if (r->role != RAFT_LEADER || replica_id == r->options.replica_id) {
        return NULL;
    }
    uint32_t i = raft__config_position(raft__config(r), replica_id);
    return i < r->lead->peer_count ? &r->lead->peers[i] : NULL;
}

void raft__lead_begin(struct raft *r)
{
    struct raft_lead *l = xmalloc(sizeof *l);
    struct raft_entry *noop;

    ASSERT(r->role == RAFT_LEADER && r->lead == NULL);
    ASSERT(raft_config_is_voter(raft__config(r), r->options.replica_id));
    r->lead = l;
    *l = (struct raft_lead){
        .peer_count = raft__config(r)->member_count,
        .first_index = r->log.last_index + 1,
        .began_ms = r->now_ms,
        .began_alive_ms = r->log.last_stamp.alive_ms,
        .heartbeat_deadline_ms = r->now_ms + r->options.heartbeat_ms,
        .quorum_deadline_ms = r->now_ms + r->options.election_timeout_ms,
    };
    l->peers = xcalloc(l->peer_count, sizeof *l->peers);
    if (r->options.lease) {
        l->rounds = xcalloc(RAFT_LEASE_ROUNDS, sizeof *l->rounds);
    }
    for (uint32_t i = 0; i < l->peer_count; i++) {
        raft__progress_init(&l->peers[i], l->first_index);
    }
    noop = raft_entry_new(RAFT_ENTRY_NOOP, 0, 0, (struct bufslice){0});
    raft__lead_append(r, noop, 0);
    raft_entry_unref(noop);
}

static void free_peers(struct raft_progress *peers, uint32_t n)
{
    for (uint32_t i = 0; peers != NULL && i < n; i++) {
        raft__progress_deinit(&peers[i]);
    }
    free(peers);
}

void raft__lead_end(struct raft *r)
{
    if (r->lead != NULL) {
        free_peers(r->lead->peers, r->lead->peer_count);
        free(r->lead->rounds);
        free(r->lead);
        r->lead = NULL;
    }
}

static bool is_self(const struct raft *r, uint32_t i)
{
    return raft__config(r)->members[i].replica_id == r->options.replica_id;
}

bool raft__lead_may_trim(const struct raft *r)
{
    for (uint32_t i = 0; i < r->lead->peer_count; i++) {
        const struct raft_progress *p = &r->lead->peers[i];
        if (!is_self(r, i) &&
            (p->absent || p->state != RAFT_REPLICATE || p->match != r->log.last_index ||
             p->inflight_count > 0 || p->sleep_round != r->sleep_round)) {
            return false;
        }
    }
    return r->lead->uncommitted_bytes == 0 && r->lead->transfer_target == 0;
}

void raft__lead_trim(struct raft *r)
{
    ASSERT(r->asleep && r->lead->peers != NULL);
    free_peers(r->lead->peers, r->lead->peer_count);
    r->lead->peers = NULL;
}

void raft__lead_restore(struct raft *r)
{
    struct raft_lead *l = r->lead;

    ASSERT(r->asleep && l->peers == NULL);
    l->peers = xcalloc(l->peer_count, sizeof *l->peers);
    for (uint32_t i = 0; i < l->peer_count; i++) {
        raft__progress_slept(&l->peers[i], r->log.last_index, r->commit);
        l->peers[i].sleep_round = r->sleep_round;
    }
}

/* A peer's answer is not trusted: it cannot name a time after now. */
void raft__lead_answered(struct raft *r, struct raft_progress *p, const struct raft_message *m)
{
    uint64_t sent_ms = m->sent_ms < r->now_ms ? m->sent_ms : r->now_ms;

    ASSERT(r->role == RAFT_LEADER && sent_ms <= r->now_ms);
    p->recently_active = true;
    if (m->sent_ms > 0 && (!p->answered || sent_ms > p->answered_ms)) {
        p->answered = true;
        p->answered_ms = sent_ms;
    }
}

bool raft__lead_answers(const struct raft *r, uint32_t i)
{
    const struct raft_progress *p = r->lead->peers != NULL ? &r->lead->peers[i] : NULL;

    ASSERT(i < r->lead->peer_count && (p != NULL || r->asleep));
    if (is_self(r, i)) {
        return true;
    }
    if (r->asleep) {
        return p == NULL || !p->absent; /* an absent member prevents the trim */
    }
    return p != NULL && p->answered && r->now_ms - p->answered_ms < r->options.election_timeout_ms;
}

bool raft__lead_knows(const struct raft *r, uint32_t i)
{
    const struct raft_progress *p = r->lead->peers != NULL ? &r->lead->peers[i] : NULL;

    return is_self(r, i) || r->asleep || (p != NULL && p->answered) ||
           r->now_ms - r->lead->began_ms >= r->options.election_timeout_ms;
}

/* A member is caught up if it answers, and has the commit index of the check before the last
 * (check_quorum: one to two election timeouts old) and at least this term's first entry, which must
 * be committed. The leader itself always is. */
bool raft__lead_caught_up(const struct raft *r, uint32_t i)
{
    uint64_t wanted = r->lead->first_index;

    if (wanted < r->lead->recent_commit) {
        wanted = r->lead->recent_commit;
    }
    if (is_self(r, i)) {
        return true;
    }
    return r->commit >= r->lead->first_index && raft__lead_answers(r, i) &&
           (r->lead->peers == NULL || r->lead->peers[i].match >= wanted);
}

/* The log takes its own reference of `e`. Entries of the core itself need no wall clock: 0. */
void raft__lead_append(struct raft *r, struct raft_entry *e, uint64_t wall_ms)
{
    ASSERT(r->role == RAFT_LEADER);
    raft__wake(r, r->now_ms);
    raft__busy(r);
    e->index = r->log.last_index + 1;
    e->term = r->term;
    e->stamp = raft_stamp_now(r, r->now_ms, wall_ms);
    raft__log_append(&r->log, e);
    if (e->kind == RAFT_ENTRY_CONFIG) {
        raft__membership_note(&r->membership, e);
    }
    r->lead->uncommitted_bytes += raft_entry_size(e);
    r->work = true;
}

void raft__heartbeat(struct raft *r, bool voters_only)
{
    const struct raft_config *c = raft__config(r);

    ASSERT(r->role == RAFT_LEADER && r->lead->peer_count == c->member_count);
    raft__lease_round(r);
    for (uint32_t i = 0; i < c->member_count; i++) {
        uint64_t to = c->members[i].replica_id;
        uint64_t match = r->lead->peers[i].match;
        if (to == r->options.replica_id || (voters_only && !raft_config_is_voter(c, to))) {
            continue;
        }
        struct raft_message m = {
            .kind = RAFT_MSG_HEARTBEAT,
            .to = to,
            .term = r->term,
            .commit = match < r->commit ? match : r->commit, /* only entries that the peer has */
            .context = r->read_number,
        };
        raft__send(r, m, 0);
    }
}

/* Dissertation 6.2: a leader that hears no quorum steps down. True if it still leads. */
static bool check_quorum(struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    uint8_t votes[LIMIT_MEMBERS];

    for (uint32_t i = 0; i < c->member_count; i++) {
        bool self = c->members[i].replica_id == r->options.replica_id;
        bool active = self || r->lead->peers[i].recently_active;
        votes[i] = active ? RAFT_VOTE_GRANTED : RAFT_VOTE_REFUSED;
        r->lead->peers[i].recently_active = false;
    }
    r->lead->quorum_deadline_ms = r->now_ms + r->options.election_timeout_ms;
    r->lead->recent_commit = r->lead->checked_commit;
    r->lead->checked_commit = r->commit;
    if (r->options.check_quorum && raft__quorum_joint_tally(c, votes) != RAFT_TALLY_WON) {
        raft__become_follower(r, r->term, 0);
        return false;
    }
    return true;
}

void raft__lead_tick(struct raft *r)
{
    ASSERT(r->role == RAFT_LEADER && !r->asleep);
    if (r->awake->busy_ms == RAFT_NEVER_MS) {
        r->awake->busy_ms = r->now_ms;
    }
    if (r->lead->quorum_deadline_ms == RAFT_NEVER_MS) {
        r->lead->quorum_deadline_ms = r->now_ms + r->options.election_timeout_ms;
    }
    if (raft__writer_stalled(r)) {
        /* Its disk hangs. The successor need not wait until it misses this leader. */
        uint64_t successor = raft__transfer_choose(r);
        if (successor != 0) {
            raft__timeout_now(r, successor);
        }
        raft__become_follower(r, r->term, 0);
        return;
    }
    if (r->now_ms >= r->lead->quorum_deadline_ms && !check_quorum(r)) {
        return;
    }
    if (r->lead->transfer_target != 0 && r->now_ms >= r->lead->transfer_deadline_ms) {
        raft__transfer_end(r);
    }
    if (r->now_ms >= r->lead->heartbeat_deadline_ms) {
        if (!raft__lead_sleep(r)) {
            raft__heartbeat(r, false);
        }
        r->lead->heartbeat_deadline_ms = r->now_ms + r->options.heartbeat_ms;
    }
}

uint64_t raft__lead_deadline(const struct raft *r)
{
    uint64_t deadline = r->lead->heartbeat_deadline_ms;

    if (r->lead->quorum_deadline_ms < deadline) {
        deadline = r->lead->quorum_deadline_ms;
    }
    if (r->lead->transfer_target != 0 && r->lead->transfer_deadline_ms < deadline) {
        deadline = r->lead->transfer_deadline_ms;
    }
    return deadline;
}

/* Move the progress of members that stay into an array for the new configuration. */
static void rebuild_peers(struct raft *r, const struct raft_config *before)
{
    const struct raft_config *now = raft__config(r);
    struct raft_progress *peers = xcalloc(now->member_count, sizeof *peers);

    ASSERT(r->lead->peers != NULL && r->lead->peer_count == before->member_count);
    for (uint32_t i = 0; i < now->member_count; i++) {
        uint32_t old = raft__config_position(before, now->members[i].replica_id);
        if (old < before->member_count) {
            peers[i] = r->lead->peers[old];
            r->lead->peers[old] = (struct raft_progress){0};
        } else {
            raft__progress_init(&peers[i], r->log.last_index);
            peers[i].recently_active =
                !CANARY(new_peer_inactive); /* grace: it must not fail the next quorum check */
        }
    }
    free_peers(r->lead->peers, r->lead->peer_count);
    r->lead->peers = peers;
    r->lead->peer_count = now->member_count;
}

void raft__lead_config_changed(struct raft *r, const struct raft_config *before)
{
    const struct raft_config *now = raft__config(r);

    rebuild_peers(r, before);
    raft__busy(r);
    if (r->lead->transfer_target != 0) {
        const struct raft_member *m = raft_config_find(now, r->lead->transfer_target);
        if (m == NULL || m->role != RAFT_VOTER) {
            raft__transfer_end(r);
        }
    }
    if (raft_config_is_voter(now, r->options.replica_id)) {
        raft__reads_confirm(r); /* a smaller quorum may have confirmed more */
        return;
    }
    /* Dissertation 4.2.2: a removed leader steps down when the removal is committed. It first sends
     * the commit index to the members, and names a successor, which need not wait for a timeout. */
    uint64_t successor = raft__transfer_choose(r);
    raft__replicate(r);
    if (successor != 0) {
        raft__timeout_now(r, successor);
    }
    raft__become_follower(r, r->term, 0);
}

/* Dissertation 4.3: the leader, be it a later one, proposes to leave the joint configuration, once.
 * No bound may refuse that proposal. */
void raft__lead_auto_leave(struct raft *r)
{
    const struct raft_config *c = raft__config(r);

    if (r->role != RAFT_LEADER || !c->joint || !c->auto_leave ||
        r->membership.pending_count > (CANARY(auto_leave_repeated) ? 1 : 0) ||
        r->commit < r->lead->first_index) {
        return;
    }
    ASSERT(r->membership.pending_count == 0 || CANARY(auto_leave_repeated));
    struct raft_entry *e = raft__change_entry(&(struct raft_change){.revision = c->revision});
    raft__lead_append(r, e, 0);
    raft_entry_unref(e);
}
