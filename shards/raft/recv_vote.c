/* Requests for votes, and the answers. Dissertation 3.4, 3.6.1, 9.6. */
#include "shards/raft/raft_internal.h"

static bool up_to_date(const struct raft *r, const struct raft_message *m)
{
    uint64_t last_term = raft__log_last_term(&r->log);

    return m->log_term > last_term || (m->log_term == last_term && m->index >= r->log.last_index);
}

/* A learner grants votes too: it may be a voter that does not know so yet. */
void raft__recv_vote(struct raft *r, const struct raft_message *m)
{
    bool pre = m->kind == RAFT_MSG_PREVOTE;
    bool may = r->vote == m->from || (r->vote == 0 && r->leader == 0) || (pre && m->term > r->term);
    bool grant = may && up_to_date(r, m);
    struct raft_message reply = {
        .kind = pre ? RAFT_MSG_PREVOTE_REPLY : RAFT_MSG_VOTE_REPLY,
        .to = m->from,
        .term = grant ? m->term : r->term, /* a PreVote grant echoes the request's term */
        .reject = !grant,
        .commit = r->commit,
    };

    (void)raft__log_term(&r->log, r->commit, &reply.commit_term);
    if (grant && !pre) {
        ASSERT(m->term == r->term && r->role != RAFT_CANDIDATE && r->role != RAFT_LEADER);
        raft__set_vote(r, m->from);
        raft__rearm_election(r);
    }
    raft__send(r, reply, 0); /* waits for term and vote, because it carries a term */
    raft__commit_by_vote(r, m);
}

void raft__recv_vote_reply(struct raft *r, const struct raft_message *m)
{
    bool pre = m->kind == RAFT_MSG_PREVOTE_REPLY;
    uint64_t term = pre && !m->reject ? r->term + 1 : r->term;

    /* Of a grant too: other voters may refuse because of a commit that this replica has not heard
     * of. It may end the campaign. */
    raft__commit_by_vote(r, m);
    if (r->role == (pre ? RAFT_PRE_CANDIDATE : RAFT_CANDIDATE) &&
        (m->term == term || CANARY(stale_vote_counted))) {
        raft__count_vote(r, m->from, !m->reject);
    }
}
