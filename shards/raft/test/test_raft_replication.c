/* Replication and commit: what leaders send, what followers keep, windows and bounds. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static struct raft_status status(void)
{
    return node_status(&c.nodes[1]);
}

static void start(size_t n)
{
    cluster_init(&c, n, 21);
    cluster_make_leader(&c, 1);
}

static void solo_leader(size_t n)
{
    solo_init(&c, n);
    solo_lead(&c);
}

/* Both peers acknowledge everything: REPLICATE. */
static void solo_replicating(size_t n)
{
    solo_leader(n);
    for (uint64_t id = 2; id <= n; id++) {
        (void)give_ack(&c, id, status().last_index);
    }
    forget_sent(&c);
}

static void propose(size_t n, size_t size)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(node_propose(&c, 1, size), THOLE_OK);
    }
    cluster_settle(&c);
}

static enum thole_code give_reject(uint64_t from, uint64_t index, uint64_t hint, uint64_t term)
{
    struct raft_message m = msg(RAFT_MSG_APPEND_REPLY, from, status().term);

    m.reject = true;
    m.index = index;
    m.hint = hint;
    m.log_term = term;
    return give(&c, m);
}

static enum thole_code give_beat_reply(uint64_t from)
{
    return give(&c, msg(RAFT_MSG_HEARTBEAT_REPLY, from, status().term));
}

TEST(leader_bcast_beat)
{
    (void)state;
    solo_leader(3);
    cluster_run(&c, HEARTBEAT_MS);
    assert_non_null(sent(&c, RAFT_MSG_HEARTBEAT, 2));
    assert_non_null(sent(&c, RAFT_MSG_HEARTBEAT, 3));
    assert_int_equal(sent(&c, RAFT_MSG_HEARTBEAT, 2)->entry_count, 0);
    cluster_deinit(&c);
}

TEST(late_tick_does_not_silence_the_leader)
{
    (void)state;
    solo_leader(3);
    c.now_ms += TIMEOUT_MS - 1; /* long after the heartbeat was due */
    raft_tick(c.nodes[1].raft, c.now_ms);
    cluster_settle(&c);
    assert_int_equal(sent_count(&c, RAFT_MSG_HEARTBEAT), 2);
    assert_true(raft_deadline_ms(c.nodes[1].raft) <= c.now_ms + HEARTBEAT_MS);
    raft_tick(c.nodes[1].raft, 1); /* a clock that goes back is the time that was */
    cluster_settle(&c);
    (void)give_ack(&c, 2, 1);
    cluster_run(&c, HEARTBEAT_MS);
    assert_int_equal(sent_count(&c, RAFT_MSG_HEARTBEAT), 4);
    cluster_deinit(&c);
}

TEST(bcast_beat)
{
    (void)state;
    solo_leader(3);
    propose(3, 8);
    (void)give_ack(&c, 2, 3);
    assert_int_equal(status().commit, 3);
    cluster_run(&c, HEARTBEAT_MS);
    assert_int_equal(sent(&c, RAFT_MSG_HEARTBEAT, 2)->commit, 3);
    assert_int_equal(sent(&c, RAFT_MSG_HEARTBEAT, 3)->commit, 0); /* min(match, commit) */
    assert_int_equal(sent(&c, RAFT_MSG_HEARTBEAT, 3)->index, 0);
    cluster_deinit(&c);
}

TEST(recv_msg_beat)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    forget_sent(&c);
    cluster_run(&c, 5 * HEARTBEAT_MS);
    assert_int_equal(sent_count(&c, RAFT_MSG_HEARTBEAT), 0); /* only a leader beats */
    cluster_deinit(&c);
}

TEST(leader_start_replication)
{
    (void)state;
    solo_replicating(3);
    propose(1, 8);
    const struct raft_message *m = sent(&c, RAFT_MSG_APPEND, 3);
    assert_int_equal(m->index, 1);
    assert_int_equal(m->log_term, status().term);
    assert_int_equal(m->entry_count, 1);
    assert_int_equal(m->entries[0]->index, 2);
    assert_int_equal(m->commit, 1);
    assert_int_equal(c.nodes[1].disk.count, 2);
    cluster_deinit(&c);
}

TEST(leader_commit_entry)
{
    (void)state;
    solo_replicating(3);
    propose(1, 8);
    (void)give_ack(&c, 2, 2);
    assert_int_equal(status().commit, 2);
    assert_int_equal(c.nodes[1].applied, 2);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 3)->commit, 2); /* and the others hear of it */
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 3)->entry_count, 0);
    cluster_deinit(&c);
}

TEST(leader_acknowledge_commit)
{
    static const struct {
        size_t nodes;
        int acks;
        bool want;
    } cases[] = {{1, 0, true},  {3, 0, false}, {3, 1, true}, {3, 2, true},
                 {5, 0, false}, {5, 1, false}, {5, 2, true}, {5, 4, true}};
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        solo_replicating(cases[i].nodes);
        propose(1, 8);
        for (int k = 0; k < cases[i].acks; k++) {
            (void)give_ack(&c, (uint64_t)k + 2, 2);
        }
        assert_int_equal(status().commit == 2, cases[i].want);
        cluster_deinit(&c);
    }
}

TEST(leader_commit_preceding_entries)
{
    static const uint64_t logs[][2] = {{0, 0}, {2, 0}, {1, 2}, {1, 0}};
    static const size_t counts[] = {0, 1, 2, 1};
    (void)state;

    for (size_t i = 0; i < 4; i++) {
        solo_init(&c, 3);
        node_restart_with_log(&c, 1, logs[i], counts[i], 2, 0);
        solo_lead(&c);
        propose(1, 8);
        (void)give_ack(&c, 2, counts[i] + 2);
        assert_int_equal(status().commit, counts[i] + 2);
        cluster_deinit(&c);
    }
}

TEST(leader_only_commits_log_from_current_term)
{
    (void)state;
    for (uint64_t acked = 1; acked <= 3; acked++) {
        solo_init(&c, 3);
        node_restart_with_log(&c, 1, (uint64_t[]){1, 2}, 2, 2, 0);
        solo_lead(&c);
        (void)give_ack(&c, 2, acked);
        assert_int_equal(status().commit, acked == 3 ? 3 : 0);
        cluster_deinit(&c);
    }
}

/* Three match indexes and a log of terms: the commit index that follows for a leader of term 3. */
TEST(commit)
{
    static const struct {
        uint64_t match2, match3, want;
    } cases[] = {{0, 0, 0}, {1, 1, 0}, {2, 2, 0}, {3, 0, 3}, {0, 3, 3}, {4, 3, 4}, {4, 4, 4}};
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        solo_init(&c, 3);
        node_restart_with_log(&c, 1, (uint64_t[]){1, 2}, 2, 2, 0);
        solo_lead(&c); /* term 3, no-op at 3 */
        propose(1, 8);
        (void)give_ack(&c, 2, cases[i].match2);
        (void)give_ack(&c, 3, cases[i].match3);
        assert_int_equal(status().commit, cases[i].want);
        cluster_deinit(&c);
    }
}

TEST(follower_commit_entry)
{
    (void)state;
    for (uint64_t commit = 0; commit <= 3; commit++) {
        solo_init(&c, 3);
        (void)give(&c, append_msg(2, 1, 0, 0, commit, (uint64_t[]){1, 1}, 2));
        assert_int_equal(status().commit, commit < 2 ? commit : 2);
        assert_int_equal(c.nodes[1].applied, status().commit);
        cluster_deinit(&c);
    }
}

TEST(follower_check_msg_app)
{
    static const struct {
        uint64_t index, term, want_index, want_hint, want_hint_term;
        bool reject;
    } cases[] = {
        {0, 0, 1, 0, 0, false}, /* below commit: acknowledges that */
        {1, 1, 1, 0, 0, false}, {2, 2, 2, 0, 0, false}, {1, 2, 1, 1, 1, true},
        {2, 3, 2, 2, 2, true},  {3, 3, 3, 2, 2, true},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        solo_init(&c, 3);
        c.nodes[1].disk.hard.commit = 0;
        node_restart_with_log(&c, 1, (uint64_t[]){1, 2}, 2, 2, 0);
        (void)give(&c, append_msg(2, 3, 1, 1, 1, NULL, 0)); /* commits 1 */
        forget_sent(&c);
        (void)give(&c, append_msg(2, 3, cases[i].index, cases[i].term, 0, NULL, 0));
        const struct raft_message *m = sent(&c, RAFT_MSG_APPEND_REPLY, 2);
        assert_int_equal(m->reject, cases[i].reject);
        assert_int_equal(m->index, cases[i].want_index);
        assert_int_equal(m->hint, cases[i].want_hint);
        assert_int_equal(m->log_term, cases[i].want_hint_term);
        cluster_deinit(&c);
    }
}

static void follower_appends(uint64_t index, uint64_t term, const uint64_t *terms, uint32_t n,
                             const uint64_t *want, size_t want_count)
{
    solo_init(&c, 3);
    node_restart_with_log(&c, 1, (uint64_t[]){1, 2}, 2, 2, 0);
    (void)give(&c, append_msg(2, 4, index, term, 0, terms, n));
    assert_int_equal(status().last_index, want_count);
    assert_int_equal(c.nodes[1].disk.count, want_count);
    for (size_t i = 0; i < want_count; i++) {
        assert_int_equal(term_of(&c, 1, i + 1), want[i]);
        assert_int_equal(c.nodes[1].disk.entries[i]->term, want[i]);
    }
    cluster_deinit(&c);
}

TEST(follower_append_entries)
{
    (void)state;
    follower_appends(2, 2, (uint64_t[]){3}, 1, (uint64_t[]){1, 2, 3}, 3);
    follower_appends(1, 1, (uint64_t[]){3, 4}, 2, (uint64_t[]){1, 3, 4}, 3);
    follower_appends(0, 0, (uint64_t[]){1}, 1, (uint64_t[]){1, 2}, 2);
    follower_appends(0, 0, (uint64_t[]){3}, 1, (uint64_t[]){3}, 1);
}

TEST(handle_msg_app)
{
    static const struct {
        uint64_t term, index, log_term, commit, entries[2];
        uint32_t count;
        uint64_t want_last, want_commit;
        bool want_reject;
    } cases[] = {
        {2, 2, 3, 3, {0}, 0, 2, 0, true}, /* term differs */
        {2, 3, 3, 3, {0}, 0, 2, 0, true}, /* not there */
        {2, 1, 1, 1, {0}, 0, 2, 1, false},
        {2, 0, 0, 1, {2}, 1, 1, 1, false}, /* replaces all */
        {2, 2, 2, 3, {2, 2}, 2, 4, 3, false},
        {2, 2, 2, 4, {2}, 1, 3, 3, false},
        {2, 1, 1, 4, {2}, 1, 2, 2, false},
        {2, 1, 1, 3, {0}, 0, 2, 1, false}, /* commit only what it vouches for */
        {2, 1, 1, 3, {2}, 1, 2, 2, false},
        {2, 2, 2, 3, {0}, 0, 2, 2, false},
        {2, 2, 2, 4, {0}, 0, 2, 2, false},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        solo_init(&c, 3);
        node_restart_with_log(&c, 1, (uint64_t[]){1, 2}, 2, 2, 0);
        (void)give(&c, append_msg(2, cases[i].term, cases[i].index, cases[i].log_term,
                                  cases[i].commit, cases[i].entries, cases[i].count));
        assert_int_equal(status().last_index, cases[i].want_last);
        assert_int_equal(status().commit, cases[i].want_commit);
        assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 2)->reject, cases[i].want_reject);
        cluster_deinit(&c);
    }
}

TEST(old_appends_out_of_order_delete_nothing)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1, 1, 1, 1}, 4));
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1));
    (void)give(&c, append_msg(2, 1, 1, 1, 0, NULL, 0));
    assert_int_equal(status().last_index, 4);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 2)->index, 1); /* only what it vouches for */
    cluster_deinit(&c);
}

TEST(committed_entries_are_never_replaced)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, append_msg(2, 1, 0, 0, 2, (uint64_t[]){1, 1}, 2));
    assert_int_equal(status().commit, 2);
    struct raft_message m = append_msg(3, 2, 2, 1, 2, (uint64_t[]){2}, 1);
    assert_int_equal(give(&c, m), THOLE_OK);
    m = append_msg(3, 2, 3, 2, 3, NULL, 0);
    assert_int_equal(give(&c, m), THOLE_OK);
    /* 3 is committed in term 2; a peer that contradicts is faulty, which is no reason to crash. */
    m = append_msg(2, 3, 2, 1, 2, (uint64_t[]){3}, 1);
    assert_int_equal(give(&c, m), THOLE_OK); /* below the commit index: just answered */
    assert_int_equal(term_of(&c, 1, 3), 2);
    cluster_deinit(&c);
}

TEST(handle_heartbeat)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, append_msg(2, 2, 0, 0, 2, (uint64_t[]){1, 2, 2}, 3));
    struct raft_message m = msg(RAFT_MSG_HEARTBEAT, 2, 2);
    m.commit = 3;
    (void)give(&c, m);
    assert_int_equal(status().commit, 3);
    m.commit = 1;
    (void)give(&c, m);
    assert_int_equal(status().commit, 3); /* never falls */
    assert_non_null(sent(&c, RAFT_MSG_HEARTBEAT_REPLY, 2));
    m.commit = 9;
    assert_int_equal(give(&c, m), THOLE_DATA_LOSS); /* an acknowledged entry is gone */
    cluster_deinit(&c);
}

TEST(handle_heartbeat_resp)
{
    (void)state;
    solo_replicating(3);
    propose(3, 8);
    forget_sent(&c);
    (void)give_beat_reply(2); /* it lags: an append, even if empty */
    assert_non_null(sent(&c, RAFT_MSG_APPEND, 2));
    (void)give_ack(&c, 2, 4);
    forget_sent(&c);
    (void)give_beat_reply(2);
    assert_int_equal(c.held_count, 0); /* caught up */
    cluster_deinit(&c);
}

TEST(leader_app_resp)
{
    (void)state;
    solo_init(&c, 3);
    node_restart_with_log(&c, 1, (uint64_t[]){1, 1}, 2, 1, 0);
    solo_lead(&c); /* no-op at 3; peers probe at 3 */
    assert_int_equal(peer_of(&c, 1, 2).next, 3);
    (void)give_reject(2, 9, 9, 0); /* about another probe: stale */
    assert_int_equal(peer_of(&c, 1, 2).next, 3);
    assert_int_equal(c.held_count, 0);
    (void)give_reject(2, 2, 0, 0);
    assert_int_equal(peer_of(&c, 1, 2).next, 1);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->index, 0);
    forget_sent(&c);
    (void)give_ack(&c, 2, 3);
    assert_int_equal(peer_of(&c, 1, 2).match, 3);
    assert_int_equal(peer_of(&c, 1, 2).next, 4);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_REPLICATE);
    assert_int_equal(status().commit, 3);
    (void)give_ack(&c, 2, 1); /* old: changes nothing */
    assert_int_equal(peer_of(&c, 1, 2).match, 3);
    assert_int_equal(give_ack(&c, 2, 99), THOLE_INVALID_ARGUMENT);
    cluster_deinit(&c);
}

TEST(leader_increase_next)
{
    (void)state;
    solo_replicating(3);
    propose(2, 8);
    assert_int_equal(peer_of(&c, 1, 2).next, 4); /* optimistic */
    raft_unreachable(c.nodes[1].raft, 3);
    assert_int_equal(peer_of(&c, 1, 3).next, 2);
    (void)give_beat_reply(3);
    assert_int_equal(peer_of(&c, 1, 3).next, 2); /* not so in PROBE */
    cluster_deinit(&c);
}

TEST(progress_leader)
{
    (void)state;
    solo_replicating(2);
    propose(5, 8);
    assert_int_equal(peer_of(&c, 1, 1).match, 6);
    assert_int_equal(peer_of(&c, 1, 1).state, RAFT_REPLICATE);
    cluster_deinit(&c);
}

TEST(send_append_for_progress_probe)
{
    (void)state;
    solo_leader(3);
    propose(1, 8);
    propose(1, 8);
    propose(1, 8);
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 0); /* the probe with the no-op is out */
    for (int i = 0; i < 3; i++) {
        (void)give_beat_reply(2);
        assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), i + 1); /* one per heartbeat */
        propose(1, 8);
        assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), i + 1);
    }
    cluster_deinit(&c);
}

TEST(progress_paused)
{
    (void)state;
    solo_leader(2);
    for (int i = 0; i < 10; i++) {
        propose(1, 8);
    }
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 0);
    cluster_deinit(&c);
}

TEST(progress_resume_by_heartbeat_resp)
{
    (void)state;
    solo_leader(2);
    propose(1, 8);
    (void)give_beat_reply(2);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 2);
    cluster_deinit(&c);
}

TEST(msg_app_resp_wait_reset)
{
    (void)state;
    solo_leader(3);
    propose(1, 8);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 1); /* moves on */
    assert_null(sent(&c, RAFT_MSG_APPEND, 3));                      /* still waits */
    (void)give_ack(&c, 3, 1);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 3)->entry_count, 1);
    cluster_deinit(&c);
}

TEST(send_append_for_progress_replicate)
{
    (void)state;
    solo_replicating(3);
    for (int i = 0; i < 10; i++) {
        propose(1, 8);
    }
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 20); /* one per harvest and peer */
    forget_sent(&c);
    propose(10, 8); /* adjacent proposals travel together */
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 2);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 10);
    cluster_deinit(&c);
}

TEST(send_append_for_progress_snapshot)
{
    (void)state;
    solo_replicating(3);
    raft__progress_snapshot(raft__peer(c.nodes[1].raft, 2));
    propose(5, 8);
    (void)give_beat_reply(2);
    assert_null(sent(&c, RAFT_MSG_APPEND, 2));
    assert_non_null(sent(&c, RAFT_MSG_APPEND, 3));
    cluster_deinit(&c);
}

TEST(recv_msg_unreachable)
{
    (void)state;
    solo_replicating(3);
    propose(2, 8);
    raft_unreachable(c.nodes[1].raft, 2);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_PROBE);
    assert_int_equal(peer_of(&c, 1, 2).next, peer_of(&c, 1, 2).match + 1);
    raft_unreachable(c.nodes[1].raft, 99); /* a stranger: nothing */
    cluster_deinit(&c);
}

TEST(heartbeat_resp_recovers_from_probing)
{
    (void)state;
    solo_replicating(3);
    raft_unreachable(c.nodes[1].raft, 2);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_PROBE);
    (void)give_beat_reply(2);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_REPLICATE);
    cluster_deinit(&c);
}

TEST(msg_app_flow_control_full)
{
    (void)state;
    solo_replicating(2);
    for (int i = 0; i < LIMIT_INFLIGHT_MESSAGES; i++) {
        propose(1, 8);
    }
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), LIMIT_INFLIGHT_MESSAGES);
    propose(5, 8);
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), LIMIT_INFLIGHT_MESSAGES);
    cluster_deinit(&c);
}

TEST(msg_app_flow_control_move_forward)
{
    (void)state;
    solo_replicating(2);
    for (int i = 0; i < LIMIT_INFLIGHT_MESSAGES; i++) {
        propose(1, 8);
    }
    propose(1, 8);
    forget_sent(&c);
    (void)give_ack(&c, 2, 1); /* nothing new */
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 0);
    (void)give_ack(&c, 2, 2);
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 1);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 1);
    cluster_deinit(&c);
}

TEST(msg_app_flow_control_recv_heartbeat)
{
    (void)state;
    solo_replicating(2);
    for (int i = 0; i < LIMIT_INFLIGHT_MESSAGES + 5; i++) {
        propose(1, 8);
    }
    for (int i = 0; i < 5; i++) {
        forget_sent(&c);
        (void)give_beat_reply(2);
        assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 1); /* an empty one, each time */
        assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 0);
        assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->index, peer_of(&c, 1, 2).next - 1);
    }
    cluster_deinit(&c);
}

TEST(replicate_pause)
{
    (void)state;
    solo_replicating(2);
    for (int i = 0; i < LIMIT_INFLIGHT_MESSAGES + 5; i++) {
        propose(1, 8);
    }
    /* All of it was lost. The empty append of a heartbeat finds out. */
    uint64_t end = peer_of(&c, 1, 2).next - 1;
    forget_sent(&c);
    (void)give_beat_reply(2);
    (void)give_reject(2, end, 1, status().term);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_PROBE);
    const struct raft_message *m = sent(&c, RAFT_MSG_APPEND, 2);
    assert_int_equal(m->index, 1);
    assert_int_equal(m->entry_count, LIMIT_INFLIGHT_MESSAGES + 5);
    (void)give_ack(&c, 2, status().last_index);
    assert_int_equal(status().commit, status().last_index);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_REPLICATE);
    cluster_deinit(&c);
}

TEST(progress_flow_control)
{
    (void)state;
    solo_replicating(2);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(node_propose(&c, 1, MIB - 100), THOLE_OK);
    }
    cluster_settle(&c);
    size_t first = sent_count(&c, RAFT_MSG_APPEND);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 1); /* one fits */
    assert_in_range(first, LIMIT_INFLIGHT_BYTES / MIB, LIMIT_INFLIGHT_BYTES / MIB + 1);
    forget_sent(&c);
    (void)give_ack(&c, 2, 4);
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 3); /* as many as were freed */
    (void)give_ack(&c, 2, 1 + first + 3);
    (void)give_ack(&c, 2, status().last_index - 2);
    (void)give_ack(&c, 2, status().last_index);
    assert_int_equal(status().commit, 21);
    cluster_deinit(&c);
}

TEST(append_pagination)
{
    (void)state;
    solo_leader(2);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(node_propose(&c, 1, 100 * KIB), THOLE_OK);
    }
    (void)give_ack(&c, 2, 1);
    size_t total = 0;
    for (size_t i = 0; i < c.held_count; i++) {
        const struct raft_message *m = &c.held[i].message;
        size_t bytes = 0;
        for (uint32_t k = 0; k < m->entry_count; k++) {
            bytes += raft_entry_size(m->entries[k]);
        }
        assert_true(bytes <= LIMIT_APPEND_BYTES);
        total += m->entry_count;
    }
    assert_int_equal(total, 40);
    cluster_deinit(&c);
}

TEST(uncommitted_entry_limit)
{
    (void)state;
    solo_replicating(3);
    uint64_t fits = LIMIT_UNCOMMITTED_BYTES / (MIB - 1000 + RAFT_ENTRY_OVERHEAD_BYTES);
    for (uint64_t i = 0; i < fits; i++) {
        assert_int_equal(node_propose(&c, 1, MIB - 1000), THOLE_OK);
    }
    assert_int_equal(node_propose(&c, 1, MIB - 1000), THOLE_RESOURCE_EXHAUSTED);
    cluster_settle(&c);
    (void)give_ack(&c, 2, status().last_index);
    assert_int_equal(status().commit, fits + 1);
    assert_int_equal(c.nodes[1].raft->lead->uncommitted_bytes, 0);
    assert_int_equal(node_propose(&c, 1, MIB - 1000), THOLE_OK); /* freed */
    assert_int_equal(node_propose(&c, 1, LIMIT_PAYLOAD_BYTES + 1), THOLE_INVALID_ARGUMENT);
    cluster_deinit(&c);
}

TEST(uncommitted_state_advance_ready_from_last_term)
{
    (void)state;
    solo_replicating(3);
    propose(5, 1000);
    assert_true(c.nodes[1].raft->lead->uncommitted_bytes > 5000);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, status().term + 1)); /* another leads */
    solo_lead(&c);
    uint64_t bytes = c.nodes[1].raft->lead->uncommitted_bytes;
    assert_int_equal(bytes, RAFT_ENTRY_OVERHEAD_BYTES); /* only its own no-op counts */
    (void)give_ack(&c, 2, status().last_index);
    assert_int_equal(c.nodes[1].raft->lead->uncommitted_bytes, 0);
    cluster_deinit(&c);
}

TEST(bounded_log_growth_with_partition)
{
    size_t refused = 0;
    (void)state;
    solo_leader(3);
    for (int i = 0; i < 100; i++) {
        refused += node_propose(&c, 1, MIB - 1000) == THOLE_RESOURCE_EXHAUSTED;
    }
    assert_true(refused > 30);
    assert_true(raft__log_cached_bytes(&c.nodes[1].raft->log) <= LIMIT_UNCOMMITTED_BYTES + MIB);
    cluster_deinit(&c);
}

TEST(batch_msg_append)
{
    (void)state;
    solo_replicating(3);
    struct raft_entry *e[50];
    uint64_t first;
    for (int i = 0; i < 50; i++) {
        e[i] = command_new(8);
    }
    assert_int_equal(raft_propose(c.nodes[1].raft, e, 50, c.now_ms, 0, &first, NULL), THOLE_OK);
    assert_int_equal(first, 2);
    cluster_settle(&c);
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND), 2);
    assert_int_equal(c.nodes[1].disk.count, 51);
    cluster_deinit(&c);
}

TEST(proposal)
{
    (void)state;
    for (size_t up = 1; up <= 3; up++) {
        cluster_init(&c, 3, 1);
        cluster_make_leader(&c, 1);
        for (uint64_t id = up + 1; id <= 3; id++) {
            node_crash(&c, id);
        }
        assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
        cluster_settle(&c);
        assert_int_equal(status().commit, up >= 2 ? 2 : 1);
        cluster_deinit(&c);
    }
}

TEST(propose_on_follower_is_refused)
{
    struct thole_status st;
    struct raft_entry *e = command_new(8);
    uint64_t first = 77;
    (void)state;
    start(3);
    assert_int_equal(raft_propose(c.nodes[2].raft, &e, 1, c.now_ms, 0, &first, &st),
                     THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_NOT_LEADER);
    assert_int_equal(first, 77);
    raft_entry_unref(e); /* stayed ours */
    cluster_deinit(&c);
}

TEST(log_replication)
{
    (void)state;
    start(3);
    cluster_propose(&c, 1);
    assert_int_equal(node_commit(&c, 1), 2);
    cluster_make_leader(&c, 2);
    cluster_propose(&c, 1);
    cluster_run(&c, HEARTBEAT_MS);
    assert_int_equal(node_commit(&c, 3), 4);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(single_node_commit)
{
    (void)state;
    start(1);
    cluster_propose(&c, 2);
    assert_int_equal(status().commit, 3);
    cluster_deinit(&c);
}

TEST(cannot_commit_without_new_term_entry)
{
    (void)state;
    start(5);
    c.nodes[2].options.check_quorum = false;
    node_restart(&c, 2);
    cluster_cut(&c, 1, 3);
    cluster_cut(&c, 1, 4);
    cluster_cut(&c, 1, 5);
    (void)node_propose(&c, 1, 8);
    (void)node_propose(&c, 1, 8);
    cluster_settle(&c);
    assert_int_equal(status().commit, 1);
    /* 2 leads next, but its no-op reaches no other node. */
    cluster_heal(&c);
    for (uint64_t id = 1; id <= 5; id++) {
        raft__become_follower(c.nodes[id].raft, node_term(&c, id), 0);
    }
    c.filter = hold_all;
    raft_campaign(c.nodes[2].raft, c.now_ms);
    for (int i = 0; i < 6; i++) { /* votes pass, appends do not */
        cluster_settle(&c);
        c.filter = NULL;
        cluster_settle(&c);
        struct packet kept[64];
        size_t n = 0;
        for (size_t k = 0; k < c.held_count; k++) {
            if (c.held[k].message.kind != RAFT_MSG_APPEND) {
                kept[n++] = c.held[k];
            } else {
                raft_message_deinit(&c.held[k].message);
            }
        }
        memcpy(c.held, kept, n * sizeof kept[0]);
        c.held_count = n;
        c.filter = hold_all;
        cluster_release_held(&c);
    }
    assert_int_equal(node_role(&c, 2), RAFT_LEADER);
    assert_int_equal(node_commit(&c, 2), 1); /* the old entries wait for the new term's */
    c.filter = NULL;
    cluster_drop_held(&c);
    cluster_run(&c, 4 * HEARTBEAT_MS);
    assert_int_equal(node_commit(&c, 2), 4);
    cluster_deinit(&c);
}

TEST(commit_without_new_term_entry)
{
    (void)state;
    start(5);
    cluster_cut(&c, 1, 3);
    cluster_cut(&c, 1, 4);
    cluster_cut(&c, 1, 5);
    (void)node_propose(&c, 1, 8);
    (void)node_propose(&c, 1, 8);
    cluster_settle(&c);
    assert_int_equal(status().commit, 1);
    cluster_heal(&c);
    for (uint64_t id = 1; id <= 5; id++) {
        raft__become_follower(c.nodes[id].raft, node_term(&c, id), 0);
    }
    cluster_make_leader(&c, 2);
    assert_int_equal(node_commit(&c, 2), 4);
    cluster_deinit(&c);
}

TEST(old_messages)
{
    (void)state;
    cluster_init(&c, 3, 1);
    for (uint64_t id = 1; id <= 3; id++) {
        c.nodes[id].options.check_quorum = false;
        node_restart(&c, id);
    }
    cluster_make_leader(&c, 1);
    cluster_make_leader(&c, 2);
    cluster_make_leader(&c, 1);
    struct raft_message m = append_msg(2, 2, 2, 2, 0, (uint64_t[]){2}, 1);
    (void)give(&c, m); /* of the deposed leader */
    cluster_propose(&c, 1);
    assert_int_equal(status().last_index, 4);
    assert_int_equal(status().commit, 4);
    cluster_deinit(&c);
}

/* A log of terms for each node; node 1 (or `leader`) must bring all of them to its own. */
static void converge(const uint64_t logs[][16], const size_t *counts, size_t n, uint64_t term)
{
    cluster_init(&c, n, 31);
    for (uint64_t id = 1; id <= n; id++) {
        node_restart_with_log(&c, id, logs[id - 1], counts[id - 1], term, 0);
    }
    cluster_make_leader(&c, 1);
    cluster_run(&c, 20 * HEARTBEAT_MS);
    cluster_assert_converged(&c);
    for (uint64_t i = 1; i <= counts[0]; i++) {
        for (uint64_t id = 1; id <= n; id++) {
            assert_int_equal(term_of(&c, id, i), logs[0][i - 1]);
        }
    }
    cluster_deinit(&c);
}

/* Dissertation figure 3.6 (figure 7 of the paper). */
static const uint64_t figure7[7][16] = {
    {1, 1, 1, 4, 4, 5, 5, 6, 6, 6},    {1, 1, 1, 4, 4, 5, 5, 6, 6},          {1, 1, 1, 4},
    {1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6}, {1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7}, {1, 1, 1, 4, 4, 4, 4},
    {1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3},
};
static const size_t figure7_counts[7] = {10, 9, 4, 11, 12, 7, 11};

TEST(leader_sync_follower_log)
{
    (void)state;
    for (size_t i = 1; i < 7; i++) {
        uint64_t logs[3][16];
        memcpy(logs[0], figure7[0], sizeof logs[0]);
        memcpy(logs[1], figure7[0], sizeof logs[1]); /* whose vote elects it */
        memcpy(logs[2], figure7[i], sizeof logs[2]);
        converge(logs, (size_t[]){10, 10, figure7_counts[i]}, 3, 8);
    }
}

TEST(probe_and_replicate)
{
    (void)state;
    converge(figure7, figure7_counts, 7, 8);
}

TEST(probes_skip_by_term)
{
    uint64_t logs[3][16] = {{1, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5}, {0}, {0}};
    (void)state;
    memcpy(logs[1], logs[0], sizeof logs[0]);
    logs[2][0] = 1;
    logs[2][1] = 1;
    for (int i = 2; i < 12; i++) {
        logs[2][i] = 4;
    }
    cluster_init(&c, 3, 31);
    for (uint64_t id = 1; id <= 3; id++) {
        node_restart_with_log(&c, id, logs[id - 1], 12, 5, 0);
    }
    uint64_t before = c.sent[RAFT_MSG_APPEND];
    cluster_make_leader(&c, 1);
    cluster_assert_converged(&c);
    assert_true(c.sent[RAFT_MSG_APPEND] - before <= 8); /* two round trips for 3, no more */
    cluster_deinit(&c);
}

/* The leader's next append after a rejection with a hint, and the follower's hint. */
TEST(fast_log_rejection)
{
    static const struct {
        uint64_t leader[8], follower[8];
        size_t leader_count, follower_count;
        uint64_t hint, hint_term, next;
    } cases[] = {
        {{1, 2, 2, 4, 4, 4, 4}, {1, 2, 2, 4, 4, 4, 4}, 7, 6, 6, 4, 6},
        {{1, 2, 2, 3, 4, 4, 4, 5}, {1, 2, 2, 3, 3, 3, 3}, 8, 7, 7, 3, 4},
        {{1, 1, 1, 1}, {1, 1}, 4, 2, 2, 1, 2},
        {{1, 1, 1, 4}, {1, 1, 2, 2, 2, 2}, 4, 6, 4, 2, 3},
        {{1, 1, 1, 1, 5}, {1, 2, 2, 2}, 5, 4, 4, 2, 4},
        {{2, 5, 5, 5}, {2, 2, 4, 4}, 4, 4, 4, 4, 1},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cluster_init(&c, 3, 5);
        node_restart_with_log(&c, 1, cases[i].leader, cases[i].leader_count, 8, 0);
        node_restart_with_log(&c, 2, cases[i].follower, cases[i].follower_count, 8, 0);
        node_restart_with_log(&c, 3, cases[i].leader, cases[i].leader_count, 8, 0);
        cluster_cut(&c, 1, 2);
        cluster_make_leader(&c, 1);
        cluster_heal(&c);
        c.filter = hold_all;
        struct raft_message m = append_msg(1, 9, cases[i].leader_count,
                                           cases[i].leader[cases[i].leader_count - 1], 0, NULL, 0);
        m.to = 2;
        assert_int_equal(node_receive(&c, m), THOLE_OK);
        cluster_settle(&c);
        const struct raft_message *r = sent(&c, RAFT_MSG_APPEND_REPLY, 1);
        assert_true(r->reject);
        assert_int_equal(r->hint, cases[i].hint);
        assert_int_equal(r->log_term, cases[i].hint_term);
        struct raft_message reply = *r;
        assert_int_equal(node_receive(&c, reply), THOLE_OK);
        assert_int_equal(peer_of(&c, 1, 2).next, cases[i].next + 1);
        cluster_deinit(&c);
    }
}

static enum verdict lose_acks_of_2(struct cluster *k, const struct raft_message *m)
{
    (void)k;
    return m->from == 2 && m->kind == RAFT_MSG_APPEND_REPLY ? DROP : PASS;
}

TEST(lagging_commit)
{
    (void)state;
    start(3);
    c.filter = lose_acks_of_2;
    cluster_propose(&c, 5);
    c.filter = NULL;
    cluster_run(&c, 3 * HEARTBEAT_MS);
    assert_int_equal(node_commit(&c, 2), 6);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(log_replication_with_reordered_message)
{
    (void)state;
    solo_replicating(2);
    propose(1, 8);
    propose(1, 8);
    (void)give_ack(&c, 2, 3);
    (void)give_ack(&c, 2, 2); /* overtaken */
    (void)give_reject(2, 2, 1, 1);
    (void)give_reject(2, 3, 1, 1);
    assert_int_equal(peer_of(&c, 1, 2).match, 3);
    assert_int_equal(peer_of(&c, 1, 2).next, 4);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_REPLICATE);
    cluster_deinit(&c);
}

static bool linked(uint64_t a, uint64_t b)
{
    return !c.cut[a][b] && !c.cut[b][a];
}

/* A node without a two-way link does not lead. Two nodes with a two-way link go on with their work,
 * whatever the third one can send to one of them. */
static void assert_links_are_used(void)
{
    uint64_t leader = 0;

    for (uint64_t id = 1; id <= 3; id++) {
        if (node_role(&c, id) == RAFT_LEADER) {
            assert_true(linked(id, id % 3 + 1) || linked(id, (id + 1) % 3 + 1));
            leader = leader == 0 || node_term(&c, id) > node_term(&c, leader) ? id : leader;
        }
    }
    if (linked(1, 2) || linked(2, 3) || linked(1, 3)) {
        assert_true(leader != 0);
        uint64_t before = node_commit(&c, leader);
        uint64_t term = node_term(&c, leader);
        assert_int_equal(node_propose(&c, leader, 8), THOLE_OK);
        cluster_run(&c, 4 * TIMEOUT_MS);
        assert_int_equal(node_commit(&c, leader), before + 1);
        assert_int_equal(node_term(&c, leader), term); /* no election disturbed it */
    }
}

TEST(asymmetric_link_matrix)
{
    (void)state;
    /* Every pattern of one-way cuts between three nodes: never two leaders of a term (the checker
     * looks), a leader wherever there can be one, and all is well once the links are. */
    for (unsigned pattern = 0; pattern < 64; pattern++) {
        static const uint8_t pairs[6][2] = {{1, 2}, {2, 1}, {1, 3}, {3, 1}, {2, 3}, {3, 2}};
        cluster_init(&c, 3, pattern);
        (void)cluster_elect(&c, 10 * TIMEOUT_MS);
        for (unsigned i = 0; i < 6; i++) {
            c.cut[pairs[i][0]][pairs[i][1]] = (pattern >> i) & 1;
        }
        cluster_run(&c, 10 * TIMEOUT_MS);
        assert_links_are_used();
        cluster_heal(&c);
        (void)cluster_elect(&c, 20 * TIMEOUT_MS);
        cluster_run(&c, 4 * TIMEOUT_MS);
        cluster_assert_converged(&c);
        cluster_deinit(&c);
    }
}

TEST(next_committed_ents)
{
    struct raft_update u;
    (void)state;
    solo_init(&c, 3);
    struct raft_message m = append_msg(2, 1, 0, 0, 2, (uint64_t[]){1, 1, 1}, 3);
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    raft_harvest(c.nodes[1].raft, &u);
    assert_int_equal(u.apply_first, 0); /* committed, not durable here */
    raft_persisted(c.nodes[1].raft, u.persist, c.now_ms);
    raft_harvest(c.nodes[1].raft, &u);
    assert_int_equal(u.apply_first, 1);
    assert_int_equal(u.apply_last, 2);
    assert_false(raft_has_update(c.nodes[1].raft)); /* handed out once */
    raft_applied(c.nodes[1].raft, 1);
    assert_int_equal(status().applied, 1);
    raft_applied(c.nodes[1].raft, 1);
    cluster_deinit(&c);
}

TEST(commit_pagination_after_restart)
{
    (void)state;
    start(3);
    cluster_propose(&c, 50);
    cluster_run(&c, HEARTBEAT_MS);
    node_restart(&c, 2);
    cluster_run(&c, 5 * HEARTBEAT_MS);
    assert_int_equal(c.nodes[2].applied, 51); /* all of it again, in order: the checker looks */
    cluster_deinit(&c);
}

TEST(uncached_entries_are_read_from_the_log)
{
    (void)state;
    cluster_init(&c, 3, 21);
    c.nodes[1].options.cache_bytes = 0;
    node_restart(&c, 1);
    cluster_make_leader(&c, 1);
    node_crash(&c, 3);
    cluster_propose(&c, 200);
    node_start(&c, 3);
    cluster_run(&c, 10 * HEARTBEAT_MS);
    cluster_assert_converged(&c);
    assert_true(c.nodes[1].need_log_count > 0);
    cluster_deinit(&c);
}

TEST(need_log_is_asked_once)
{
    (void)state;
    solo_replicating(3);
    c.nodes[1].raft->options.cache_bytes = 0;
    c.nodes[1].manual_log = true;
    propose(10, 8);
    (void)give_ack(&c, 3, 11); /* committed and applied: out of the cache */
    assert_null(raft_entry_at(c.nodes[1].raft, 11));
    raft_unreachable(c.nodes[1].raft, 2);
    (void)give_beat_reply(2);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count,
                     0); /* a probe is not worth a read */
    (void)give_ack(&c, 2, 1);
    assert_int_equal(c.nodes[1].need_log_count, 1);
    assert_int_equal(c.nodes[1].need_log.first, 2);
    (void)give_beat_reply(2);
    assert_int_equal(c.nodes[1].need_log_count, 1);
    forget_sent(&c);
    struct raft_entry *e[10];
    for (size_t i = 0; i < 10; i++) {
        e[i] = raft_entry_ref(c.nodes[1].disk.entries[1 + i]);
    }
    raft_log_read(c.nodes[1].raft, 2, 2, e, 10);
    cluster_settle(&c);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 10);
    (void)give_ack(&c, 2, 11);
    assert_int_equal(peer_of(&c, 1, 2).match, 11);
    cluster_deinit(&c);
}

TEST(need_log_of_compacted_entries_becomes_a_snapshot)
{
    (void)state;
    solo_replicating(3);
    c.nodes[1].raft->options.cache_bytes = 0;
    c.nodes[1].manual_log = true;
    c.nodes[1].manual_snapshot = true;
    propose(10, 8);
    (void)give_ack(&c, 3, 11);
    raft_unreachable(c.nodes[1].raft, 2);
    (void)give_beat_reply(2);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(c.nodes[1].need_log.first, 2);
    raft_log_read(c.nodes[1].raft, 2, 2, NULL, 0);
    cluster_settle(&c);
    assert_int_equal(c.nodes[1].need_snapshot.peer, 2);
    assert_int_equal(c.nodes[1].need_snapshot.min_index, 2);
    cluster_deinit(&c);
}

/* A follower's commit index follows the leader's, never back, never beyond what it has. */
TEST(commit_to)
{
    static const struct {
        uint64_t said, commit;
    } steps[] = {{1, 1}, {3, 3}, {2, 3}, {9, 4}};
    (void)state;
    solo_init(&c, 3);
    assert_int_equal(give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1, 1, 1, 1}, 4)), THOLE_OK);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        assert_int_equal(give(&c, append_msg(2, 1, 4, 1, steps[i].said, NULL, 0)), THOLE_OK);
        assert_int_equal(node_commit(&c, 1), steps[i].commit);
    }
    cluster_deinit(&c);
}

/* Late and repeated reports of the machine change nothing. */
TEST(applied_to)
{
    (void)state;
    solo_init(&c, 3);
    c.nodes[1].manual_apply = true;
    assert_int_equal(give(&c, append_msg(2, 1, 0, 0, 3, (uint64_t[]){1, 1, 1}, 3)), THOLE_OK);
    assert_int_equal(c.nodes[1].apply_to, 3);
    static const uint64_t reports[][2] = {{2, 2}, {1, 2}, {2, 2}, {3, 3}};
    for (size_t i = 0; i < sizeof reports / sizeof reports[0]; i++) {
        raft_applied(c.nodes[1].raft, reports[i][0]);
        assert_int_equal(node_status(&c.nodes[1]).applied, reports[i][1]);
    }
    c.nodes[1].applied = 3;
    cluster_settle(&c);
    assert_int_equal(c.nodes[1].apply_to, 3); /* nothing is handed out twice */
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(leader_bcast_beat),
        RUN(late_tick_does_not_silence_the_leader),
        RUN(bcast_beat),
        RUN(recv_msg_beat),
        RUN(leader_start_replication),
        RUN(leader_commit_entry),
        RUN(leader_acknowledge_commit),
        RUN(leader_commit_preceding_entries),
        RUN(leader_only_commits_log_from_current_term),
        RUN(commit),
        RUN(follower_commit_entry),
        RUN(follower_check_msg_app),
        RUN(follower_append_entries),
        RUN(handle_msg_app),
        RUN(old_appends_out_of_order_delete_nothing),
        RUN(committed_entries_are_never_replaced),
        RUN(handle_heartbeat),
        RUN(handle_heartbeat_resp),
        RUN(leader_app_resp),
        RUN(leader_increase_next),
        RUN(progress_leader),
        RUN(send_append_for_progress_probe),
        RUN(progress_paused),
        RUN(progress_resume_by_heartbeat_resp),
        RUN(msg_app_resp_wait_reset),
        RUN(send_append_for_progress_replicate),
        RUN(send_append_for_progress_snapshot),
        RUN(recv_msg_unreachable),
        RUN(heartbeat_resp_recovers_from_probing),
        RUN(msg_app_flow_control_full),
        RUN(msg_app_flow_control_move_forward),
        RUN(msg_app_flow_control_recv_heartbeat),
        RUN(replicate_pause),
        RUN(progress_flow_control),
        RUN(append_pagination),
        RUN(uncommitted_entry_limit),
        RUN(uncommitted_state_advance_ready_from_last_term),
        RUN(bounded_log_growth_with_partition),
        RUN(batch_msg_append),
        RUN(proposal),
        RUN(propose_on_follower_is_refused),
        RUN(log_replication),
        RUN(single_node_commit),
        RUN(cannot_commit_without_new_term_entry),
        RUN(commit_without_new_term_entry),
        RUN(old_messages),
        RUN(leader_sync_follower_log),
        RUN(probe_and_replicate),
        RUN(probes_skip_by_term),
        RUN(fast_log_rejection),
        RUN(lagging_commit),
        RUN(log_replication_with_reordered_message),
        RUN(asymmetric_link_matrix),
        RUN(next_committed_ents),
        RUN(commit_pagination_after_restart),
        RUN(uncached_entries_are_read_from_the_log),
        RUN(need_log_is_asked_once),
        RUN(need_log_of_compacted_entries_becomes_a_snapshot),
        RUN(commit_to),
        RUN(applied_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
