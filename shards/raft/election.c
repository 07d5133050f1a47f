/* Campaigns: asking for votes, counting them. Dissertation 3.4, 9.6 (PreVote), 3.10 (transfer). */
#include "shards/raft/raft_internal.h"

bool raft__may_campaign(const struct raft *r)
{
    if (!raft__has_election_timer(r) || r->awake->force_index != 0) {
        return false;
    }
    if (r->log.durable < r->log.start_index || raft__writer_stalled(r)) {
        return false; /* an installed snapshot is not durable, or the disk hangs */
    }
    return !raft__change_is_due(r) || CANARY(campaign_unapplied);
}

/* Rule 1: requests leave, and our own vote counts, when term, vote and the advertised log tail are
 * durable. */
static void request_votes(struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    bool pre = r->role == RAFT_PRE_CANDIDATE;
    uint64_t token = raft__log_token(r, r->log.last_index);

    ASSERT(pre || (r->role == RAFT_CANDIDATE && r->vote == r->options.replica_id));
    struct raft_message m = {
        .kind = pre ? RAFT_MSG_PREVOTE : RAFT_MSG_VOTE,
        .transfer = r->awake->campaign.transfer,
        .term = pre ? r->term + 1 : r->term,
        .index = r->log.last_index,
        .log_term = raft__log_last_term(&r->log),
        .commit = r->commit,
    };

    (void)raft__log_term(&r->log, r->commit, &m.commit_term);
    for (uint32_t i = 0; i < c->member_count; i++) {
        m.to = c->members[i].replica_id;
        if (m.to != r->options.replica_id && raft_config_is_voter(c, m.to)) {
            raft__send(r, m, token);
        }
    }
    r->awake->campaign.self_token =
        token > r->awake->persist.hard_token ? token : r->awake->persist.hard_token;
    if (r->awake->campaign.self_token <= r->awake->persist.done) {
        raft__self_vote_durable(r);
    }
}

static void start_election(struct raft *r, bool transfer)
{
    raft__become_candidate(r);
    r->awake->campaign.transfer = transfer;
    request_votes(r);
}

void raft__campaign(struct raft *r, bool transfer)
{
    if (!raft__may_campaign(r) || (!transfer && raft__promised(r))) {
        return; /* a lease promise covers the replica's own vote too */
    }
    if (transfer || !r->options.pre_vote) {
        start_election(r, transfer);
        return;
    }
    raft__become_pre_candidate(r);
    request_votes(r);
}

static void forget_leader(struct raft *r)
{
    r->leader = 0;
    r->status_changed = true;
    raft__reads_fail(r); /* they were sent to it */
}

/* A message that promises nothing, and wakes who gets it: a sleeping leader sends heartbeats then.
 * The leader may sleep rightly, and only this replica have been awoken. */
static void ask_for_leader(struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    struct raft_message m = {.kind = RAFT_MSG_HEARTBEAT_REPLY, .term = r->term};

    for (uint32_t i = 0; i < c->member_count; i++) {
        m.to = c->members[i].replica_id;
        if (m.to != r->options.replica_id && (r->leader == 0 || r->leader == m.to) &&
            raft_config_is_voter(c, m.to)) {
            raft__send(r, m, 0);
        }
    }
}

void raft__leader_is_silent(struct raft *r)
{
    ASSERT(r->role != RAFT_LEADER && !r->asleep && raft__has_timer(r));
    raft__rearm_election(r);
    if (raft__has_election_timer(r)) {
        raft__campaign(r, false);
        return;
    }
    if (r->leader != 0 && r->awake->asked) {
        forget_leader(r);
    }
    ask_for_leader(r);
    r->awake->asked = true;
}

enum thole_code raft_forget_leader(struct raft *r, uint64_t now_ms, struct thole_status *st)
{
    raft__begin(r, now_ms);
    if (r->options.lease) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NONE,
                          "with lease reads a leader is not forgotten before its time");
    }
    if (r->role == RAFT_FOLLOWER && r->leader != 0) {
        raft__wake(r, r->now_ms);
        forget_leader(r);
    }
    raft__check(r);
    return THOLE_OK;
}

void raft__self_vote_durable(struct raft *r)
{
    /* A change of role or term clears the token, so a late write cannot count for another one. */
    ASSERT(r->awake->campaign.self_token <= r->awake->persist.done);
    ASSERT(r->role == RAFT_PRE_CANDIDATE || r->role == RAFT_CANDIDATE);
    r->awake->campaign.self_token = 0;
    raft__count_vote(r, r->options.replica_id, true);
}

void raft__count_vote(struct raft *r, uint64_t from, bool granted)
{
    uint32_t i = raft__config_position(raft__config(r), from);

    ASSERT(r->role == RAFT_PRE_CANDIDATE || r->role == RAFT_CANDIDATE);
    if (i == raft__config(r)->member_count) {
        return;
    }
    if (r->awake->campaign.votes[i] == RAFT_VOTE_MISSING) {
        r->awake->campaign.votes[i] = granted ? RAFT_VOTE_GRANTED : RAFT_VOTE_REFUSED;
    }
    switch (raft__quorum_joint_tally(raft__config(r), r->awake->campaign.votes)) {
    case RAFT_TALLY_PENDING:
        break;
    case RAFT_TALLY_LOST:
        raft__become_follower(r, r->term, 0);
        break;
    case RAFT_TALLY_WON:
        if (r->role == RAFT_PRE_CANDIDATE) {
            start_election(r, false);
        } else if (r->awake->persist.hard_token <= r->awake->persist.done) {
            raft__become_leader(r);
        }
        break;
    }
}
