/* The commit index, and what follows from it. Dissertation 3.6.2. */
#include "shards/raft/raft_internal.h"

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Entries of this leadership stay cached until they are committed, so their sizes are known. */
static void free_uncommitted(struct raft *r, uint64_t from, uint64_t to)
{
    for (uint64_t i = from < r->lead->first_index ? r->lead->first_index : from; i <= to; i++) {
        const struct raft_entry *e = raft__log_entry(&r->log, i);
        ASSERT(e != NULL && r->lead->uncommitted_bytes >= raft_entry_size(e));
        if (!CANARY(uncommitted_leak) || e->kind != RAFT_ENTRY_CONFIG) {
            r->lead->uncommitted_bytes -= raft_entry_size(e);
        }
    }
}

void raft__commit_to(struct raft *r, uint64_t index)
{
    if (index <= r->commit) {
        return;
    }
    ASSERT(index <= r->log.last_index && r->awake->force_index == 0);
    if (r->role == RAFT_LEADER) {
        free_uncommitted(r, r->commit + 1, index);
        r->status_changed = r->status_changed ||
                            (r->commit < r->lead->first_index && index >= r->lead->first_index);
        r->work = true;
    }
    r->commit = index;
    raft__advance(r);
}

bool raft__has_witness(const struct raft_config *c)
{
    for (uint32_t i = 0; i < c->member_count; i++) {
        if (c->members[i].role == RAFT_WITNESS || c->members[i].outgoing_role == RAFT_WITNESS) {
            return true;
        }
    }
    return false;
}

uint64_t raft__best_match(const struct raft *r, const struct raft_config *next)
{
    const struct raft_config *c = raft__config(r);
    uint64_t best = 0;

    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = raft_config_find(next, c->members[i].replica_id);
        bool self = c->members[i].replica_id == r->options.replica_id;
        uint64_t match = self ? r->log.durable : r->lead->peers[i].match;
        if (m != NULL && (m->role == RAFT_VOTER || m->outgoing_role == RAFT_VOTER) &&
            match > best) {
            best = match;
        }
    }
    return best;
}

uint64_t raft__staying_match(const struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    const struct raft_membership *m = &r->membership;
    struct raft_config next = {0};
    struct raft_change change;

    if (!raft__has_witness(c)) {
        return UINT64_MAX;
    }
    if (m->pending_count > 0 &&
        raft_change_decode(m->pending[0]->payload.bytes, &change, NULL) == THOLE_OK &&
        raft_change_apply(c, &change, &next, NULL) == THOLE_OK) {
        uint64_t best = raft__best_match(r, &next);
        raft_config_deinit(&next);
        return best;
    }
    /* A leader that stays a voter has all entries itself. */
    return raft_config_is_voter(c, r->options.replica_id) ? UINT64_MAX : raft__best_match(r, c);
}

/* With witnesses, do not commit a change before a voter that stays is at least as far as any
 * witness: see raft__staying_match. Commit one change at a time, because the voters that stay after
 * the second depend on the first. To commit late is always safe. */
static uint64_t hold_back_changes(const struct raft *r, uint64_t index)
{
    const struct raft_membership *m = &r->membership;

    if (m->pending_count == 0 || index < m->pending[0]->index ||
        !raft__has_witness(raft__config(r))) {
        return index;
    }
    uint64_t wanted = m->pending[0]->index;
    if (wanted < r->lead->first_index) {
        wanted = r->lead->first_index; /* then no witness has a newer last term */
    }
    if (wanted < r->lead->witness_sent) {
        wanted = r->lead->witness_sent;
    }
    if (raft__staying_match(r) < wanted) {
        return m->pending[0]->index - 1;
    }
    return m->pending_count > 1 ? min_u64(index, m->pending[1]->index - 1) : index;
}

void raft__commit_by_quorum(struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    uint64_t match[LIMIT_MEMBERS];

    if (r->role != RAFT_LEADER) {
        return;
    }
    ASSERT(r->lead->peer_count == c->member_count);
    for (uint32_t i = 0; i < c->member_count; i++) {
        /* Invariant 3: the leader counts its own log only as far as it is durable. */
        bool self = c->members[i].replica_id == r->options.replica_id;
        match[i] = self ? r->log.durable : r->lead->peers[i].match;
    }
    uint64_t index = raft__quorum_joint_value(c, match);
    /* Only entries of the leader's own term are committed by counting (3.6.2, figure 3.7). */
    if (index > r->commit && raft__log_matches(&r->log, index, r->term)) {
        raft__commit_to(r, hold_back_changes(r, index));
    }
}

void raft__commit_by_vote(struct raft *r, const struct raft_message *m)
{
    if (r->role != RAFT_LEADER && m->commit > r->commit &&
        raft__log_matches(&r->log, m->commit, m->commit_term)) {
        raft__commit_to(r, m->commit);
    }
}

static void config_acts(struct raft *r, const struct raft_config *before)
{
    const struct raft_config *now = raft__config(r);
    uint64_t self = r->options.replica_id;

    ASSERT(raft__membership_index(&r->membership) <= r->awake->persist.commit);
    ASSERT(raft__membership_index(&r->membership) <= r->log.durable);
    r->config_changed = true;
    r->status_changed = true;
    r->work = true;
    if (now->epoch > before->epoch) {
        raft__force_acts(r);
    }
    if (raft_config_is_removed(now, self) && !r->removed) {
        r->removed = true;
        r->removed_changed = true;
    }
    if (r->role == RAFT_LEADER) {
        raft__lead_config_changed(r, before);
    } else if (r->role != RAFT_FOLLOWER) {
        raft__become_follower(r, r->term, 0); /* its votes were counted by another configuration */
    } else if (r->awake->election_deadline_ms == RAFT_NEVER_MS ||
               !raft_config_is_voter(now, self)) {
        raft__rearm_election(r);
    }
}

/* The index up to which no member will need entries soon: as leader, what all members have. */
static uint64_t had_by_all(const struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    uint64_t index = r->handed;
    for (uint32_t i = 0; r->role == RAFT_LEADER && i < c->member_count; i++) {
        bool self = c->members[i].replica_id == r->options.replica_id;
        if (!self && r->lead->peers[i].match < index) {
            index = r->lead->peers[i].match;
        }
    }
    return index;
}

static void evict(struct raft *r)
{
    uint64_t droppable = r->log.durable;

    if (r->role == RAFT_LEADER) {
        /* free_uncommitted needs the sizes of our own proposals. */
        uint64_t counted = r->commit >= r->lead->first_index ? r->commit : r->lead->first_index - 1;
        droppable = min_u64(droppable, counted);
    }
    /* Entries that no member needs are evicted at once, because memory that is used again soon is
     * still in the processor's caches. The last entry stays: the ring would be freed with it.
     * Entries that a member may need are evicted over the limit; the store has them. */
    uint64_t had = min_u64(had_by_all(r), r->log.last_index - 1);
    raft__log_evict(&r->log, 0, min_u64(droppable, had));
    raft__log_evict(&r->log, r->options.cache_bytes, min_u64(droppable, r->handed));
    raft__log_evict(&r->log, r->options.cache_bytes + LIMIT_APPLYING_BYTES, droppable);
}

/* A configuration acts only once a crash cannot bring back the one before. Members that it removes
 * may be deleted as soon as it acts. Without them the old configuration may have no quorum. */
static bool commit_is_durable(struct raft *r, uint64_t index)
{
    struct raft_persist *p = &r->awake->persist;

    if (index <= p->commit) {
        return true;
    }
    if (p->commit_token == 0) {
        p->hard_dirty = true;
        p->commit_token = p->token + 1;
        p->commit_marked = r->commit;
    }
    return false;
}

bool raft__change_is_due(const struct raft *r)
{
    const struct raft_membership *m = &r->membership;

    return m->pending_count > 0 && m->pending[0]->index <= r->commit;
}

void raft__advance(struct raft *r)
{
    struct raft_membership *m = &r->membership;
    uint64_t before = r->commit;

    while (m->pending_count > 0 && m->pending[0]->index <= min_u64(r->commit, r->log.durable) &&
           commit_is_durable(r, m->pending[0]->index) &&
           !(CANARY(campaign_unapplied) && m->pending[0]->index > r->applied)) {
        const struct raft_config *old = raft__config(r);
        if (raft__membership_apply_next(m)) {
            config_acts(r, old);
        }
    }
    if ((r->role == RAFT_PRE_CANDIDATE || r->role == RAFT_CANDIDATE) && raft__change_is_due(r) &&
        !CANARY(campaign_unapplied)) {
        raft__become_follower(r, r->term, 0);
    }
    raft__transfer_resume(r);
    if (r->role == RAFT_LEADER) {
        raft__commit_by_quorum(r); /* a smaller quorum may have more; comes back here if so */
        raft__lead_auto_leave(r);
    }
    if (r->commit == before) {
        evict(r);
    }
}
