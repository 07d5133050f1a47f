/* Roles, terms and votes: the moves between them and what each move resets.
 *
 *            timeout               won               won
 *  FOLLOWER --------> PRE_CANDIDATE ----> CANDIDATE -----> LEADER
 *     ^                     |                 |              |
 *     +---------------------+-----------------+--------------+
 *       higher term, lost, leader heard; leader: quorum or disk lost, removed
 */
#include "shards/raft/raft_internal.h"

static const bool role_may_follow[4][4] = {
    [RAFT_FOLLOWER] =
        {[RAFT_FOLLOWER] = true, [RAFT_PRE_CANDIDATE] = true, [RAFT_CANDIDATE] = true},
    [RAFT_PRE_CANDIDATE] =
        {[RAFT_FOLLOWER] = true, [RAFT_PRE_CANDIDATE] = true, [RAFT_CANDIDATE] = true},
    [RAFT_CANDIDATE] = {[RAFT_FOLLOWER] = true,
                        [RAFT_PRE_CANDIDATE] = true,
                        [RAFT_CANDIDATE] = true,
                        [RAFT_LEADER] = true},
    [RAFT_LEADER] = {[RAFT_FOLLOWER] = true},
};

void raft__set_term(struct raft *r, uint64_t term)
{
    ASSERT(term >= r->term);
    if (term == r->term) {
        return;
    }
    r->term = term;
    r->vote = 0; /* only a new term clears the vote */
    r->awake->persist.hard_dirty = !CANARY(term_not_synced);
    r->awake->persist.hard_token = r->awake->persist.token + (CANARY(term_not_synced) ? 0 : 1);
    r->status_changed = true;
}

void raft__set_vote(struct raft *r, uint64_t vote)
{
    if (r->vote == vote) {
        return;
    }
    ASSERT(r->vote == 0 && vote != 0);
    r->vote = vote;
    r->awake->persist.hard_dirty = true;
    r->awake->persist.hard_token = r->awake->persist.token + 1;
}

/* This replica's position among the voters, and their number. */
static uint64_t voter_rank(const struct raft *r, uint64_t *ret_voters)
{
    const struct raft_config *c = raft__config(r);
    uint64_t rank = 0;
    uint64_t voters = 0;

    for (uint32_t i = 0; i < c->member_count; i++) {
        if (c->members[i].role == RAFT_VOTER || c->members[i].outgoing_role == RAFT_VOTER) {
            rank += c->members[i].replica_id < r->options.replica_id;
            voters++;
        }
    }
    *ret_voters = voters;
    return rank;
}

/* Uniform in [T, 2T), but in slots by rank: two voters never draw times closer than a step, so that
 * groups which lose a leader together do not split their votes (dissertation 3.4, 9.3). */
static uint64_t draw_timeout(struct raft *r)
{
    uint64_t t = r->options.election_timeout_ms;
    uint64_t voters;
    uint64_t rank = voter_rank(r, &voters);
    uint64_t step = voters > 0 ? t / 32 / voters : 0;

    if (step == 0) {
        step = 1;
    }
    uint64_t slots = voters > 0 ? t / (voters * step) : 0;
    if (slots == 0) {
        return t + rand_below(&r->awake->rand, t);
    }
    return t + rand_below(&r->awake->rand, slots) * voters * step + rank % voters * step;
}

bool raft__has_election_timer(const struct raft *r)
{
    const struct raft_member *m = raft_config_find(raft__config(r), r->options.replica_id);

    return raft__has_timer(r) && !r->options.witness &&
           (m->role == RAFT_VOTER || m->outgoing_role == RAFT_VOTER);
}

bool raft__has_timer(const struct raft *r)
{
    return r->role != RAFT_LEADER && !r->removed && !r->superseded &&
           raft_config_find(raft__config(r), r->options.replica_id) != NULL;
}

void raft__rearm_election(struct raft *r)
{
    r->awake->election_deadline_ms =
        raft__has_timer(r) ? r->now_ms + r->election_timeout_ms : RAFT_NEVER_MS;
}

void raft__redraw_election(struct raft *r)
{
    r->election_timeout_ms = draw_timeout(r);
    raft__rearm_election(r);
}

static bool is_only_voter(const struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    uint32_t voters = 0;

    for (uint32_t i = 0; i < c->member_count; i++) {
        voters += raft_config_is_voter(c, c->members[i].replica_id);
    }
    return voters == 1 && raft_config_is_voter(c, r->options.replica_id);
}

void raft__hurry_if_only_voter(struct raft *r)
{
    if (raft__has_election_timer(r) && is_only_voter(r)) {
        /* With leases a leader of an earlier, larger configuration may rely on a promise. */
        r->awake->election_deadline_ms = r->now_ms;
        if (raft__promised(r)) {
            r->awake->election_deadline_ms = r->contact_ms + r->options.election_timeout_ms;
        }
    }
}

static void set_role(struct raft *r, enum raft_role role)
{
    ASSERT(role_may_follow[r->role][role] && !r->asleep);
    if (r->role == RAFT_LEADER) {
        raft__lead_end(r);
    }
    raft__outbox_drop_campaign(&r->awake->outbox);
    r->awake->campaign = (struct raft_campaign){0};
    r->role = role;
    r->status_changed = true;
    raft__redraw_election(r);
}

void raft__become_follower(struct raft *r, uint64_t term, uint64_t leader)
{
    if (r->role == RAFT_FOLLOWER && r->term == term && r->leader == leader) {
        return;
    }
    set_role(r, RAFT_FOLLOWER);
    r->vote = CANARY(step_down_erases_vote) ? 0 : r->vote;
    raft__set_term(r, term);
    r->leader = leader;
    raft__reads_fail(r); /* they were sent to another leader */
}

void raft__become_pre_candidate(struct raft *r)
{
    set_role(r, RAFT_PRE_CANDIDATE); /* neither term nor vote: dissertation 9.6 */
    r->leader = 0;
    raft__reads_fail(r);
}

void raft__become_candidate(struct raft *r)
{
    ASSERT(r->term < UINT64_MAX);
    set_role(r, RAFT_CANDIDATE);
    raft__set_term(r, r->term + 1);
    raft__set_vote(r, r->options.replica_id);
    r->leader = 0;
    raft__reads_fail(r);
}

void raft__become_leader(struct raft *r)
{
    /* A candidate becomes leader only with a durable term and vote, so no message of a leader
     * attests to a term or vote that is not on its disk. It counts only the durable part of
     * its own log. */
    ASSERT(r->vote == r->options.replica_id);
    ASSERT(r->awake->persist.hard_token <= r->awake->persist.done);
    set_role(r, RAFT_LEADER);
    r->leader = r->options.replica_id;
    raft__lead_begin(r);
}

void raft__heard_leader(struct raft *r, uint64_t leader)
{
    ASSERT(r->role != RAFT_LEADER && leader != 0 && leader != r->options.replica_id);
    raft__become_follower(r, r->term, leader);
    r->contact_ms = r->now_ms;
    r->awake->asked = false;
    raft__rearm_election(r);
}
