/* Every message from a peer comes through here: is it well-formed, is its sender still a member, is
 * its term ours; then the function of its kind. Dissertation 3.3 (terms), 4.2.3 (disruption). */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

static enum thole_code bad(struct thole_status *st, const struct raft_message *m, const char *what)
{
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "message kind %u from replica %" PRIu64 ": bad %s", m->kind, m->from, what);
}

static bool entries_valid(const struct raft_message *m)
{
    uint64_t term = m->log_term;

    for (uint32_t i = 0; i < m->entry_count; i++) {
        const struct raft_entry *e = m->entries[i];
        if (e == NULL || e->index != m->index + 1 + i || e->term < term || e->term > m->term ||
            e->term == 0 || e->kind > RAFT_ENTRY_SESSION) {
            return false;
        }
        term = e->term;
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

/* A message below our term: whoever asks must learn the new one, or it is stuck for ever. */
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

/* Bring our term up to the message's. False if the message is done with. */
static bool adjust_term(struct raft *r, const struct raft_message *m)
{
    if (m->term < r->term && !(CANARY(stale_vote_counted) && is_vote_reply(m->kind))) {
        if (is_vote(m->kind) || is_vote_reply(m->kind)) {
            /* What is committed is so in every term; it may be what keeps us from winning. */
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
        return true; /* about a term that nobody is in yet */
    }
    bool leads =
        m->kind == RAFT_MSG_APPEND || m->kind == RAFT_MSG_HEARTBEAT || m->kind == RAFT_MSG_SLEEP;
    ASSERT(m->term > r->term);
    raft__become_follower(r, m->term, leads ? m->from : 0);
    return true;
}

/* With our commit index: the removed replica may hold the longest log of a configuration that
 * others still believe in, and must be able to tell them. */
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
        return; /* a stranger has no say */
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

/* A removed replica is told so and has no say any more; but a leader that removed itself may still
 * name its heir, who may have applied the removal already. */
static bool is_cast_out(const struct raft *r, const struct raft_message *m)
{
    bool heir = m->kind == RAFT_MSG_TIMEOUT_NOW && m->from == r->leader;

    return !heir && raft_config_is_removed(raft__config(r), m->from);
}

/* What belongs to falling asleep does not wake who sleeps. */
static bool may_sleep_on(const struct raft *r, const struct raft_message *m)
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
    r->awake->answering_life = m->incarnation_from;
    r->awake->answering_sent_ms = m->sent_ms;
    enum thole_code code = raft__check_message(r, m, st);
    bool ours = true;

    if (code == THOLE_OK) {
        code = raft__check_epoch(r, m->from, m->kind, m->epoch, &ours, st);
    }
    if (code != THOLE_OK || !ours) {
        goto done;
    }
    if (!may_sleep_on(r, m)) {
        raft__wake(r, now_ms);
    }
    if (is_cast_out(r, m)) {
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
