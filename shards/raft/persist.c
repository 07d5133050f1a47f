/* Writes: which of the state is durable, and the messages that wait for that. */
#include "shards/raft/raft_internal.h"

bool raft__dirty(const struct raft *r)
{
    const struct raft_persist *p;

    if (r->awake == NULL) {
        return false;
    }
    p = &r->awake->persist;
    return p->hard_dirty || p->snapshot_dirty || p->start_dirty ||
           raft__log_unsaved(&r->log) <= r->log.last_index;
}

uint64_t raft__log_token(const struct raft *r, uint64_t index)
{
    const struct raft_log *l = &r->log;

    ASSERT(index <= l->last_index);
    if (r->awake->persist.snapshot_dirty || index >= raft__log_unsaved(l)) {
        return r->awake->persist.token + 1;
    }
    if (index <= l->durable && l->durable >= l->start_index) {
        return 0;
    }
    for (size_t i = 0; i < raft__log_write_count(l); i++) {
        if (l->work->writes[i].last >= index) {
            return l->work->writes[i].token;
        }
    }
    ASSERT(false); /* every index is durable, under way or unsaved */
    return r->awake->persist.token + 1;
}

bool raft__writer_stalled(const struct raft *r)
{
    return r->options.check_quorum && raft__log_write_count(&r->log) > 0 &&
           r->now_ms - r->log.work->writes[0].started_ms >= r->options.election_timeout_ms;
}

/* The value of `sent_ms`; 0 in other messages, and in a reply to no message. */
static uint64_t time_of(const struct raft *r, const struct raft_message *m)
{
    switch (m->kind) {
    case RAFT_MSG_APPEND:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_SLEEP:
        return r->now_ms;
    case RAFT_MSG_APPEND_REPLY:
    case RAFT_MSG_HEARTBEAT_REPLY:
    case RAFT_MSG_SLEEP_REPLY:
        return m->to == r->awake->answering ? r->awake->answering_sent_ms : 0;
    default:
        return 0;
    }
}

void raft__send(struct raft *r, struct raft_message m, uint64_t token)
{
    m.from = r->options.replica_id;
    m.epoch = r->epoch;
    m.incarnation_to = m.to == r->awake->answering ? r->awake->answering_incarnation : 0;
    m.sent_ms = time_of(r, &m);
    ASSERT(m.to != m.from && m.to != 0);
    if (m.term != 0 && r->awake->persist.hard_token > token && !CANARY(vote_before_sync)) {
        token = r->awake->persist.hard_token;
    }
    if (r->awake->force_index != 0 && !CANARY(force_before_sync)) {
        /* The message carries an epoch that begins only when the forced entry is durable. */
        uint64_t begins =
            r->awake->force_token != 0 ? r->awake->force_token : r->awake->persist.token + 1;
        token = token > begins ? token : begins;
    }
    if (token > r->awake->persist.done) {
        raft__outbox_withhold(&r->awake->outbox, &m, token);
    } else {
        raft__outbox_ready(&r->awake->outbox, &m);
    }
}

void raft__send_ack(struct raft *r, uint64_t to, uint64_t index)
{
    struct raft_message m = {
        .kind = RAFT_MSG_APPEND_REPLY,
        .to = to,
        .term = r->term,
        .index = index,
        .commit = r->commit,
    };
    raft__send(r, m, raft__log_token(r, index));
}

void raft_persisted(struct raft *r, uint64_t token, uint64_t now_ms)
{
    raft__begin(r, now_ms);
    ASSERT(token > r->awake->persist.done && token <= r->awake->persist.token);
    r->awake->persist.done = token;
    raft__log_write_done(&r->log, token);
    raft__outbox_release(&r->awake->outbox, token);
    if (r->awake->campaign.self_token != 0 && r->awake->campaign.self_token <= token) {
        raft__self_vote_durable(r);
    }
    if (r->role == RAFT_LEADER && raft__has_witness(raft__config(r))) {
        r->work = true; /* witnesses get what is durable at the leader */
    }
    if (r->awake->persist.commit_token != 0 && r->awake->persist.commit_token <= token) {
        r->awake->persist.commit = r->awake->persist.commit_marked;
        r->awake->persist.commit_token = 0;
    }
    raft__force_durable(r, token);
    raft__advance(r);
    raft__check(r);
}
