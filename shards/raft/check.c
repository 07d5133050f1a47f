/* The invariants of README.md as assertions that run after each event. A precondition of one
 * function is asserted there. No assertion depends on what a peer, a disk or a caller sent: such
 * input is refused with a status before it changes anything. */
#include "shards/raft/raft_internal.h"

#ifdef THOLE_SLOW_ASSERTS
#define CHECKS_ALL true
#else
#define CHECKS_ALL false
#endif

/* The simulator must find an injected bug by what it sees from outside. */
#ifdef THOLE_CANARIES
#define BUG_INJECTED (canary_on != CANARY_none)
#else
#define BUG_INJECTED false
#endif

/* Uncommitted entries are counted again up to this many: a check after each event must not make a
 * long backlog quadratic. */
#define CHECKED_ENTRIES_MAX 256

static bool is_installing(const struct raft *r)
{
    return r->log.durable < r->log.start_index;
}

void raft__check_begin(struct raft *r)
{
    r->awake->found = (struct raft_found){
        .term = r->term,
        .vote = r->vote,
        .commit = r->commit,
        .applied = r->applied,
        .handed = r->handed,
        .epoch = r->epoch,
        .start_index = r->log.start_index,
        .last_stamp = r->log.last_stamp,
        .last_index = r->log.last_index,
        .read_number = r->read_number,
        .role = r->role,
    };
}

/* Invariants 1, 5, 6 and 18: what one event may change. */
static void check_event(const struct raft *r)
{
    const struct raft_found *f = &r->awake->found;
    bool same_term = r->term == f->term;

    ASSERT(r->term >= f->term && r->epoch >= f->epoch);
    ASSERT(!same_term || r->vote == f->vote || f->vote == 0);
    ASSERT(r->commit >= f->commit && r->applied >= f->applied && r->handed >= f->handed);
    ASSERT(r->log.start_index >= f->start_index && r->read_number >= f->read_number);
    if (r->role == RAFT_LEADER) {
        /* It was a candidate before, so that its vote could become durable. It only appends. */
        ASSERT(same_term && (f->role == RAFT_LEADER || f->role == RAFT_CANDIDATE));
        ASSERT(r->log.last_index >= f->last_index);
        ASSERT(raft_stamp_precedes(f->last_stamp, r->log.last_stamp));
    }
}

/* Invariants 5, 6 and 8: the order of the indexes. */
static void check_indexes(const struct raft *r)
{
    const struct raft_membership *m = &r->membership;
    uint64_t config_index = raft__membership_index(m);

    ASSERT(r->log.start_index <= r->applied && r->applied <= r->handed);
    ASSERT(r->handed <= r->commit && r->commit <= r->log.last_index);
    ASSERT(r->handed <= r->log.durable || (is_installing(r) && r->handed == r->log.start_index));
    ASSERT(raft__log_last_term(&r->log) <= r->term);
    ASSERT(config_index <= r->commit && (config_index <= r->log.durable || is_installing(r)));
    ASSERT(m->pending_count == 0 || r->handed < m->pending[0]->index);
    ASSERT(m->pending_count == 0 || m->pending[m->pending_count - 1]->index <= r->log.last_index);
}

/* Invariant 1, and the conditions of each role. */
static void check_role(const struct raft *r)
{
    uint64_t self = r->options.replica_id;

    ASSERT((r->role == RAFT_LEADER) == (r->lead != NULL));
    switch (r->role) {
    case RAFT_FOLLOWER:
        ASSERT(r->leader != self);
        break;
    case RAFT_PRE_CANDIDATE:
        ASSERT(r->leader == 0);
        break;
    case RAFT_CANDIDATE:
        ASSERT(r->leader == 0 && r->vote == self);
        break;
    case RAFT_LEADER:
        ASSERT(r->leader == self && r->vote == self);
        ASSERT(r->lead->first_index <= r->log.last_index);
        ASSERT(raft__log_last_term(&r->log) == r->term);
        ASSERT(r->lead->peer_count == raft__config(r)->member_count);
        break;
    }
    if (r->role != RAFT_FOLLOWER) {
        ASSERT(!r->removed && !r->superseded && !r->options.witness && !is_installing(r));
    }
    ASSERT(r->contact_ms <= r->now_ms);
}

/* Invariants 2, 3, 7 and 8: writes. */
static void check_persist(const struct raft *r)
{
    const struct raft_persist *p = &r->awake->persist;
    const struct raft_campaign *c = &r->awake->campaign;

    ASSERT(p->done <= p->token && p->hard_token <= p->token + 1);
    ASSERT(p->token - p->done == raft__log_write_count(&r->log));
    ASSERT(p->commit <= r->commit && p->commit_marked <= r->commit);
    ASSERT(p->commit_token == 0 || (p->done < p->commit_token && p->commit_token <= p->token + 1));
    ASSERT(p->commit_token <= p->token || p->hard_dirty);
    ASSERT(!is_installing(r) || p->snapshot_dirty || p->done < p->token); /* L5 */
    ASSERT(c->self_token == 0 ||
           (c->self_token > p->done && r->role != RAFT_FOLLOWER && r->role != RAFT_LEADER));
    ASSERT(r->role != RAFT_LEADER || p->hard_token <= p->done);
}

/* Invariants 19 and 21. */
static void check_rest(const struct raft *r)
{
    uint64_t force_index = r->awake != NULL ? r->awake->force_index : 0;

    ASSERT(r->epoch >= raft__config(r)->epoch);
    if (force_index != 0) {
        ASSERT(r->role == RAFT_FOLLOWER && r->leader == 0 && force_index == r->log.last_index);
        ASSERT(r->commit < force_index && r->epoch > raft__config(r)->epoch);
    }
    if (r->asleep) {
        ASSERT(r->role == RAFT_LEADER || r->role == RAFT_FOLLOWER);
        ASSERT(r->commit == r->log.last_index && r->log.durable == r->log.last_index);
        ASSERT(r->membership.pending_count == 0 && force_index == 0);
        ASSERT(!r->removed && !r->superseded);
        ASSERT(r->awake == NULL || r->awake->reads.count == 0);
        ASSERT(r->lead == NULL || (r->commit >= r->lead->first_index &&
                                   r->lead->transfer_target == 0 && !raft__config(r)->joint));
    } else {
        ASSERT(r->awake != NULL);
    }
    ASSERT(r->lead == NULL || (r->lead->peers == NULL) == (r->awake == NULL));
}

void raft__check(const struct raft *r)
{
    if (BUG_INJECTED) {
        return;
    }
    if (r->awake != NULL) {
        check_event(r);
    }
    raft__log_check(&r->log);
    check_indexes(r);
    check_role(r);
    check_rest(r);
    if (r->awake != NULL) {
        check_persist(r);
    }
    if (CHECKS_ALL) {
        raft__check_all(r);
    }
}

/* Invariants 8, 12, 18 and 19: configurations and epochs. */
static void check_configuration(const struct raft *r)
{
    const struct raft_membership *m = &r->membership;
    const struct raft_config *c = raft__config(r);
    uint64_t durable_commit = r->awake != NULL ? r->awake->persist.commit : r->asleep_commit;
    uint64_t index = raft__membership_index(m);

    raft__membership_check(m);
    ASSERT(index <= durable_commit || index <= r->log.start_index);
    ASSERT(r->epoch == c->epoch || raft__has_no_data(r) ||
           (r->awake != NULL && r->awake->force_index != 0));
    ASSERT(!raft_config_is_removed(c, r->options.replica_id) || r->removed);
    if (r->role == RAFT_PRE_CANDIDATE || r->role == RAFT_CANDIDATE) {
        ASSERT(raft_config_is_voter(c, r->options.replica_id) && !raft__change_is_due(r));
    }
    if (r->role == RAFT_LEADER) {
        ASSERT(raft_config_is_voter(c, r->options.replica_id));
        /* One change of its own in flight, after a commit of its own term. */
        ASSERT(m->pending_count < 2 ||
               m->pending[m->pending_count - 2]->index < r->lead->first_index);
        ASSERT(m->pending_count == 0 || r->commit >= r->lead->first_index ||
               m->pending[m->pending_count - 1]->index < r->lead->first_index);
    }
}

/* Invariant 22. */
static void check_timers(const struct raft *r)
{
    uint64_t deadline = r->awake->election_deadline_ms;

    if (r->asleep) {
        return;
    }
    if (r->role == RAFT_LEADER) {
        ASSERT(r->lead->heartbeat_deadline_ms <= r->now_ms + r->options.heartbeat_ms);
        ASSERT(r->lead->quorum_deadline_ms <= r->now_ms + r->options.election_timeout_ms ||
               r->lead->quorum_deadline_ms == RAFT_NEVER_MS);
        return;
    }
    ASSERT((deadline != RAFT_NEVER_MS) == raft__has_timer(r));
    ASSERT(deadline == RAFT_NEVER_MS || deadline <= r->now_ms + r->election_timeout_ms);
}

/* Invariants 9, 10 and 17, for one member. */
static void check_peer(const struct raft *r, const struct raft_progress *p)
{
    uint64_t promise_ns = raft__lease_promise_ms(r) * (UINT64_C(1000) * 1000);

    raft__progress_check(p);
    ASSERT(p->match <= r->log.last_index && p->next <= r->log.last_index + 1);
    ASSERT(p->commit_sent <= r->commit && p->sleep_round <= r->sleep_round);
    ASSERT(p->read_acked <= r->read_number);
    ASSERT(!p->answered || p->answered_ms <= r->now_ms);
    ASSERT(p->lease_until_ns <= r->real_ns + promise_ns);
}

/* Invariants 13 and 15: what a leader counts. */
static void check_lead(const struct raft *r)
{
    const struct raft_lead *l = r->lead;
    uint64_t first = r->commit < l->first_index ? l->first_index : r->commit + 1;
    uint64_t bytes = 0;

    ASSERT(l->recent_commit <= l->checked_commit && l->checked_commit <= r->commit);
    ASSERT(l->witness_sent <= r->log.durable);
    ASSERT(!l->transfer_sent || (l->transfer_target != 0 && l->lease_void));
    if (l->transfer_target != 0) {
        const struct raft_member *m = raft_config_find(raft__config(r), l->transfer_target);
        ASSERT(m != NULL && m->role == RAFT_VOTER && m->replica_id != r->options.replica_id);
    }
    for (uint32_t i = 0; l->peers != NULL && i < l->peer_count; i++) {
        check_peer(r, &l->peers[i]);
    }
    if (r->log.last_index + 1 - first <= CHECKED_ENTRIES_MAX) {
        for (uint64_t i = first; i <= r->log.last_index; i++) {
            ASSERT(raft__log_entry(&r->log, i) != NULL);
            bytes += raft_entry_size(raft__log_entry(&r->log, i));
        }
        ASSERT(bytes == l->uncommitted_bytes);
    }
}

void raft__check_all(const struct raft *r)
{
    raft__log_check_all(&r->log);
    check_configuration(r);
    if (r->lead != NULL) {
        check_lead(r);
    }
    if (r->awake != NULL) {
        const struct raft_awake *a = r->awake;
        check_timers(r);
        raft__reads_check(&a->reads, r->read_number);
        /* A message may wait for the next write only if something makes that write happen. */
        raft__outbox_check(&a->outbox, a->persist.done,
                           a->persist.token + (raft__dirty(r) ? 1 : 0));
    }
}

/* Invariant 2, when messages leave: they attest only to what is durable here. A message of an
 * earlier term was true when it was made. */
static void check_attested(const struct raft *r, const struct raft_message *m)
{
    bool hard_is_durable = r->awake->persist.hard_token <= r->awake->persist.done;
    bool log_is_durable = m->index <= r->log.durable || is_installing(r);

    ASSERT(m->from == r->options.replica_id && m->to != m->from && m->to != 0);
    ASSERT(m->epoch <= r->epoch);
    switch (m->kind) {
    case RAFT_MSG_PREVOTE:
        ASSERT(r->role != RAFT_PRE_CANDIDATE || m->term != r->term + 1 || log_is_durable);
        break;
    case RAFT_MSG_VOTE:
        ASSERT(m->term != r->term || (r->vote == m->from && hard_is_durable));
        ASSERT(r->role != RAFT_CANDIDATE || m->term != r->term || log_is_durable);
        break;
    case RAFT_MSG_VOTE_REPLY:
        ASSERT(m->reject || m->term != r->term || (r->vote == m->to && hard_is_durable));
        break;
    case RAFT_MSG_APPEND_REPLY:
    case RAFT_MSG_SLEEP_REPLY:
        ASSERT(m->reject || m->term != r->term || log_is_durable);
        break;
    default:
        break;
    }
}

void raft__check_leaving(const struct raft *r, const struct raft_message *messages, size_t n)
{
    for (size_t i = 0; CHECKS_ALL && !BUG_INJECTED && i < n; i++) {
        check_attested(r, &messages[i]);
    }
}
