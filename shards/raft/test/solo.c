/* The solo node of raft_test.h. */
#include "shards/raft/test/raft_test.h"

enum verdict hold_all(struct cluster *c, const struct raft_message *m)
{
    (void)c;
    (void)m;
    return HOLD;
}

void solo_init_config(struct cluster *c, const struct raft_config *config)
{
    cluster_init_config(c, config, 7);
    for (uint64_t id = 2; id <= c->node_count; id++) {
        node_crash(c, id);
    }
    c->filter = hold_all;
    c->checker.loose = true;
}

void solo_init(struct cluster *c, size_t n)
{
    uint64_t ids[NODES_MAX];

    for (size_t i = 0; i < n; i++) {
        ids[i] = i + 1;
    }
    struct raft_config config = config_of(ids, n, NULL, 0);
    solo_init_config(c, &config);
    raft_config_deinit(&config);
}

struct raft_message msg(enum raft_message_kind kind, uint64_t from, uint64_t term)
{
    return (struct raft_message){.kind = (uint8_t)kind, .from = from, .to = 1, .term = term};
}

struct raft_message append_msg(uint64_t from, uint64_t term, uint64_t index, uint64_t log_term,
                               uint64_t commit, const uint64_t *terms, uint32_t count)
{
    struct raft_message m = msg(RAFT_MSG_APPEND, from, term);

    m.index = index;
    m.log_term = log_term;
    m.commit = commit;
    m.entry_count = count;
    if (count > 0) {
        m.entries = xmalloc(count * sizeof(struct raft_entry *));
    }
    for (uint32_t i = 0; i < count; i++) {
        m.entries[i] = raft_entry_new(RAFT_ENTRY_NOOP, 0, 0, (struct bufslice){0});
        m.entries[i]->index = index + 1 + i;
        m.entries[i]->term = terms[i];
    }
    return m;
}

enum thole_code give(struct cluster *c, struct raft_message m)
{
    bool reply = m.kind == RAFT_MSG_APPEND_REPLY || m.kind == RAFT_MSG_HEARTBEAT_REPLY ||
                 m.kind == RAFT_MSG_SLEEP_REPLY;
    m.sent_ms = reply && m.sent_ms == 0 ? c->now_ms : m.sent_ms; /* to what was just sent */
    enum thole_code code = node_receive(c, m);

    cluster_settle(c);
    return code;
}

enum thole_code give_ack(struct cluster *c, uint64_t from, uint64_t index)
{
    struct raft_message m = msg(RAFT_MSG_APPEND_REPLY, from, node_term(c, 1));

    m.index = index;
    return give(c, m);
}

void solo_learn(struct cluster *c, uint64_t id)
{
    struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, id);

    assert_int_equal(node_change(c, 1, &change), THOLE_OK);
    cluster_settle(c);
    (void)give_ack(c, 2, node_last(c, 1));
    (void)give_ack(c, id, node_last(c, 1));
}

static void grant(struct cluster *c, enum raft_message_kind kind, uint64_t term)
{
    for (uint64_t id = 2; id <= c->node_count; id++) {
        assert_int_equal(give(c, msg(kind, id, term)), THOLE_OK);
    }
}

void solo_campaign(struct cluster *c)
{
    raft_campaign(c->nodes[1].raft, c->now_ms);
    cluster_settle(c);
    if (node_role(c, 1) == RAFT_PRE_CANDIDATE) {
        grant(c, RAFT_MSG_PREVOTE_REPLY, node_term(c, 1) + 1);
    }
}

void solo_lead(struct cluster *c)
{
    solo_campaign(c);
    if (node_role(c, 1) == RAFT_CANDIDATE) {
        grant(c, RAFT_MSG_VOTE_REPLY, node_term(c, 1));
    }
    assert_int_equal(node_role(c, 1), RAFT_LEADER);
    forget_sent(c);
}

const struct raft_message *sent(struct cluster *c, enum raft_message_kind kind, uint64_t to)
{
    for (size_t i = c->held_count; i > 0; i--) {
        const struct raft_message *m = &c->held[i - 1].message;
        if (m->kind == kind && m->to == to) {
            return m;
        }
    }
    return NULL;
}

size_t sent_count(struct cluster *c, enum raft_message_kind kind)
{
    size_t n = 0;

    for (size_t i = 0; i < c->held_count; i++) {
        n += c->held[i].message.kind == kind;
    }
    return n;
}

void forget_sent(struct cluster *c)
{
    cluster_drop_held(c);
}

struct raft_peer_status peer_of(struct cluster *c, uint64_t leader, uint64_t id)
{
    struct raft_peer_status p = {0};

    assert_true(raft_peer(node_at(c, leader)->raft, id, &p));
    return p;
}

uint64_t term_of(struct cluster *c, uint64_t id, uint64_t index)
{
    uint64_t term = 0;

    assert_true(raft_term_at(node_at(c, id)->raft, index, &term));
    return term;
}
