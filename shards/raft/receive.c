/* Every message from a peer comes through here: validation, epoch, removed senders and terms; then
 * the function of its kind. Dissertation 3.3 (terms), 4.2.3 (disruption). */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

static enum thole_code bad(struct thole_status *st, const struct raft_message *m, const char *what)
{
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "message kind %u from replica %" PRIu64 ": bad %s", m->kind, m->from, what);
}

/* Terms are counted by elections: an election every second for two years. Without a bound, one
 * message could use up all terms, after which nobody could be elected any more. */
#define TERM_JUMP_MAX (UINT64_C(1) << 26)

static bool entries_valid(const struct raft_message *m)
{
    uint64_t term = m->log_term;
    struct raft_stamp stamp = {0};

    for (uint32_t i = 0; i < m->entry_count; i++) {
        const struct raft_entry *e = m->entries[i];
        if (e == NULL || e->index != m->index + 1 + i || e->term < term || e->term > m->term ||
            e->term == 0 || e->kind > RAFT_ENTRY_KIND_MAX ||
            !(raft_stamp_precedes(stamp, e->stamp) || CANARY(stamp_falls))) {
            return false;
        }
        term = e->term;
        stamp = e->stamp;
    }
    return true;
}

static bool has_term(uint8_t kind)
{
    return kind != RAFT_MSG_READ && kind != RAFT_MSG_READ_REPLY && kind != RAFT_MSG_REMOVED;
}

enum thole_code raft__check_message(const struct raft *r, const struct raft_message *m,
                                    struct thole_status *st)
{
    if (m->kind == 0 || m->kind > RAFT_MSG_KIND_MAX) {
        return bad(st, m, "kind");
    }
    if (m->from == 0 || m->from == r->options.replica_id || m->to != r->options.replica_id) {
        return bad(st, m, "address");
    }
    if (has_term(m->kind) && m->term == 0) {
        return bad(st, m, "term");
    }
    if (m->epoch > RAFT_NUMBER_MAX || m->term > RAFT_NUMBER_MAX || m->index > RAFT_NUMBER_MAX ||
        m->commit > RAFT_NUMBER_MAX || m->hint > RAFT_NUMBER_MAX || m->log_term > RAFT_NUMBER_MAX) {
        return bad(st, m, "number");
    }
    if (has_term(m->kind) && !raft__has_no_data(r) && m->term > r->term + TERM_JUMP_MAX) {
        return bad(st, m, "term, far above ours");
    }
    if (m->entry_count > 0 && (m->kind != RAFT_MSG_APPEND || m->entries == NULL)) {
        return bad(st, m, "entries");
    }
    if (m->kind == RAFT_MSG_APPEND && !entries_valid(m)) {
        return bad(st, m, "entry");
    }
    return THOLE_OK;
}

static bool is_request(uint8_t kind)
{
    return kind == RAFT_MSG_PREVOTE || kind == RAFT_MSG_VOTE || kind == RAFT_MSG_APPEND ||
           kind == RAFT_MSG_HEARTBEAT || kind == RAFT_MSG_SLEEP || kind == RAFT_MSG_READ;
}

static bool is_vote(uint8_t kind)
{
    return kind == RAFT_MSG_PREVOTE || kind == RAFT_MSG_VOTE;
}

static bool is_vote_reply(uint8_t kind)
{
    return kind == RAFT_MSG_PREVOTE_REPLY || kind == RAFT_MSG_VOTE_REPLY;
}

static bool leader_is_fresh(const struct raft *r)
{
    if (!r->options.check_quorum || r->leader == 0) {
        return false;
    }
    return r->role == RAFT_LEADER || r->now_ms - r->contact_ms < r->options.election_timeout_ms;
}

/* A request of a lower term: the sender must learn the newer term, or it is stuck for ever. */
static void answer_stale(struct raft *r, const struct raft_message *m)
{
    struct raft_message reply = {
        .to = m->from, .term = r->term, .index = m->index, .reject = true, .commit = r->commit};

    ASSERT(m->term < r->term);
    (void)raft__log_term(&r->log, r->commit, &reply.commit_term);
    switch (CANARY(pre_vote_deadlock) ? 0 : m->kind) {
    case RAFT_MSG_PREVOTE:
        reply.kind = RAFT_MSG_PREVOTE_REPLY;
        break;
    case RAFT_MSG_VOTE:
        reply.kind = RAFT_MSG_VOTE_REPLY;
        break;
    case RAFT_MSG_APPEND:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_SLEEP:
        reply.kind = RAFT_MSG_APPEND_REPLY;
        break;
    default:
        return;
    }
    raft__send(r, reply, 0);
}

/* Raise the term to the message's. False if the message needs no further handling. */
static bool adjust_term(struct raft *r, const struct raft_message *m)
{
    if (m->term < r->term && !(CANARY(stale_vote_counted) && is_vote_reply(m->kind))) {
        if (is_vote(m->kind) || is_vote_reply(m->kind)) {
            /* A commit index counts in every term: without it this replica may never win. */
            raft__commit_by_vote(r, m);
        }
        answer_stale(r, m);
        return false;
    }
    if (is_vote(m->kind) && !m->transfer && raft__promised(r)) {
        return false;
    }
    if (m->term == r->term || (CANARY(stale_vote_counted) && m->term < r->term)) {
        return true;
    }
    if (is_vote(m->kind) && !m->transfer && leader_is_fresh(r)) {
        return false; /* 4.2.3: a leader is at work */
    }
    if (m->kind == RAFT_MSG_PREVOTE || (m->kind == RAFT_MSG_PREVOTE_REPLY && !m->reject)) {
        return true; /* about a term that no replica has begun */
    }
    bool leads =
        m->kind == RAFT_MSG_APPEND || m->kind == RAFT_MSG_HEARTBEAT || m->kind == RAFT_MSG_SLEEP;
    ASSERT(m->term > r->term);
    raft__become_follower(r, m->term, leads ? m->from : 0);
    return true;
}

/* Carries the commit index: members with an old configuration may need the removed replica's vote,
 * and must learn from its answer that the removal is committed. */
void raft__answer_removed(struct raft *r, uint64_t to)
{
    struct raft_message m = {.kind = RAFT_MSG_REMOVED, .to = to, .commit = r->commit};

    (void)raft__log_term(&r->log, r->commit, &m.commit_term);
    raft__send(r, m, 0);
}

void raft__recv_removed(struct raft *r, const struct raft_message *m)
{
    const struct raft_config *c = raft__config(r);

    if (c->member_count > 0 && raft_config_find(c, m->from) == NULL) {
        return; /* only a member may say so */
    }
    if (!r->removed) {
        r->removed = true;
        r->removed_changed = true;
    }
    raft__become_follower(r, r->term, 0);
    raft__commit_by_vote(r, m);
    raft__rearm_election(r);
    ASSERT(r->role == RAFT_FOLLOWER);
}

static enum thole_code dispatch(struct raft *r, struct raft_message *m, struct thole_status *st)
{
    ASSERT(m->epoch == r->epoch && r->awake->force_index == 0 && !r->superseded);
    ASSERT(!r->asleep || m->kind == RAFT_MSG_SLEEP || m->kind == RAFT_MSG_SLEEP_REPLY);
    switch ((enum raft_message_kind)m->kind) {
    case RAFT_MSG_PREVOTE:
    case RAFT_MSG_VOTE:
        raft__recv_vote(r, m);
        break;
    case RAFT_MSG_PREVOTE_REPLY:
    case RAFT_MSG_VOTE_REPLY:
        raft__recv_vote_reply(r, m);
        break;
    case RAFT_MSG_APPEND:
        return raft__recv_append(r, m, st);
    case RAFT_MSG_APPEND_REPLY:
        return raft__recv_append_reply(r, m, st);
    case RAFT_MSG_HEARTBEAT:
        return raft__recv_heartbeat(r, m, st);
    case RAFT_MSG_HEARTBEAT_REPLY:
        return raft__recv_heartbeat_reply(r, m, st);
    case RAFT_MSG_READ:
        raft__recv_read(r, m);
        break;
    case RAFT_MSG_READ_REPLY:
        raft__recv_read_reply(r, m);
        break;
    case RAFT_MSG_TIMEOUT_NOW:
        raft__recv_timeout_now(r, m);
        break;
    case RAFT_MSG_REMOVED:
        raft__recv_removed(r, m);
        break;
    case RAFT_MSG_SLEEP:
        return raft__recv_sleep(r, m, st);
    case RAFT_MSG_SLEEP_REPLY:
        raft__recv_sleep_reply(r, m);
        break;
    }
    return THOLE_OK;
}

/* A message of a removed replica is refused. Exception: a leader that removed itself may still name
 * its successor, which may have applied the removal already. */
static bool is_from_removed(const struct raft *r, const struct raft_message *m)
{
    bool names_successor = m->kind == RAFT_MSG_TIMEOUT_NOW && m->from == r->leader;

    return !names_successor && raft_config_is_removed(raft__config(r), m->from);
}

/* The messages of falling asleep do not wake a sleeping replica. */
static bool keeps_sleeping(const struct raft *r, const struct raft_message *m)
{
    return m->term == r->term &&
           (m->kind == RAFT_MSG_SLEEP_REPLY || (m->kind == RAFT_MSG_SLEEP && m->from == r->leader));
}

enum thole_code raft_receive(struct raft *r, struct raft_message *m, uint64_t now_ms,
                             struct thole_status *st)
{
    raft__begin(r, now_ms);
    ASSERT(r->awake->answering == 0); /* one message at a time */
    r->awake->answering = m->from;
    r->awake->answering_incarnation = m->incarnation_from;
    r->awake->answering_sent_ms = m->sent_ms;
    enum thole_code code = raft__check_message(r, m, st);
    bool ours = true;

    if (code == THOLE_OK) {
        code = raft__check_epoch(r, m->from, m->kind, m->epoch, &ours, st);
    }
    if (code != THOLE_OK || !ours) {
        goto done;
    }
    if (!keeps_sleeping(r, m)) {
        raft__wake(r, now_ms);
    }
    if (is_from_removed(r, m)) {
        if (is_request(m->kind)) {
            raft__answer_removed(r, m->from);
        }
        goto done;
    }
    if (has_term(m->kind) && !adjust_term(r, m)) {
        goto done;
    }
    code = dispatch(r, m, st);
done:
    r->awake->answering = 0;
    raft_message_deinit(m);
    raft__check(r);
    return code;
}
