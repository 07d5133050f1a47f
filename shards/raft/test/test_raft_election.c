/* Elections: roles, terms, votes, PreVote, CheckQuorum. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static void set_options(size_t n, bool pre_vote, bool check_quorum)
{
    for (uint64_t id = 1; id <= n; id++) {
        c.nodes[id].options.pre_vote = pre_vote;
        c.nodes[id].options.check_quorum = check_quorum;
        node_restart(&c, id);
    }
}

static void start(size_t n, bool pre_vote, bool check_quorum)
{
    cluster_init(&c, n, 11);
    set_options(n, pre_vote, check_quorum);
}

static void solo(size_t n, bool pre_vote, bool check_quorum)
{
    solo_init(&c, n);
    set_options(1, pre_vote, check_quorum);
}

static void campaign(uint64_t id)
{
    raft_campaign(c.nodes[id].raft, c.now_ms);
    cluster_settle(&c);
}

static struct raft_message vote_msg(enum raft_message_kind kind, uint64_t from, uint64_t term,
                                    uint64_t index, uint64_t log_term)
{
    struct raft_message m = msg(kind, from, term);

    m.index = index;
    m.log_term = log_term;
    return m;
}

TEST(start_as_follower)
{
    (void)state;
    solo(3, true, true);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_int_equal(node_term(&c, 1), 0);
    cluster_deinit(&c);
}

/* Puts node 1 into a role at term 1. */
static void enter(enum raft_role role)
{
    solo(3, false, false);
    if (role == RAFT_FOLLOWER) {
        (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    } else if (role == RAFT_CANDIDATE) {
        solo_campaign(&c);
    } else {
        solo_lead(&c);
    }
    assert_int_equal(node_role(&c, 1), role);
    assert_int_equal(node_term(&c, 1), 1);
}

static void update_term_from_message(enum raft_role role)
{
    enter(role);
    assert_int_equal(give(&c, append_msg(2, 2, 0, 0, 0, NULL, 0)), THOLE_OK);
    assert_int_equal(node_term(&c, 1), 2);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    cluster_deinit(&c);
}

TEST(follower_update_term_from_message)
{
    (void)state;
    update_term_from_message(RAFT_FOLLOWER);
}

TEST(candidate_update_term_from_message)
{
    (void)state;
    update_term_from_message(RAFT_CANDIDATE);
}

TEST(leader_update_term_from_message)
{
    (void)state;
    update_term_from_message(RAFT_LEADER);
}

TEST(reject_stale_term_message)
{
    (void)state;
    solo(3, true, true);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 5));
    (void)give(&c, append_msg(3, 4, 0, 0, 0, (uint64_t[]){4}, 1));
    assert_int_equal(node_last(&c, 1), 0);
    assert_int_equal(node_status(&c.nodes[1]).leader, 2);
    cluster_deinit(&c);
}

TEST(step_ignore_old_term_msg)
{
    (void)state;
    solo(3, true, true);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 2));
    forget_sent(&c);
    (void)give(&c, msg(RAFT_MSG_APPEND_REPLY, 3, 1));
    (void)give(&c, msg(RAFT_MSG_TIMEOUT_NOW, 3, 1));
    (void)give(&c, msg(RAFT_MSG_VOTE_REPLY, 3, 1));
    assert_int_equal(c.held_count, 0);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    cluster_deinit(&c);
}

TEST(follower_start_election)
{
    (void)state;
    solo(3, false, true);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    cluster_run(&c, 2 * TIMEOUT_MS - 1);
    assert_int_equal(node_role(&c, 1), RAFT_CANDIDATE);
    assert_int_equal(node_term(&c, 1), 2);
    assert_int_equal(node_status(&c.nodes[1]).vote, 1);
    assert_int_equal(sent(&c, RAFT_MSG_VOTE, 2)->term, 2);
    assert_int_equal(sent(&c, RAFT_MSG_VOTE, 3)->term, 2);
    cluster_deinit(&c);
}

TEST(candidate_start_new_election)
{
    (void)state;
    solo(3, false, true);
    campaign(1);
    assert_int_equal(node_term(&c, 1), 1);
    cluster_run(&c, 2 * TIMEOUT_MS - 1);
    assert_int_equal(node_role(&c, 1), RAFT_CANDIDATE);
    assert_int_equal(node_term(&c, 1), 2);
    cluster_deinit(&c);
}

TEST(leader_election_in_one_round_rpc)
{
    static const struct {
        size_t nodes;
        int grants, refusals;
        enum raft_role want;
    } cases[] = {
        {1, 0, 0, RAFT_LEADER},    {3, 1, 0, RAFT_LEADER},    {3, 2, 0, RAFT_LEADER},
        {5, 2, 0, RAFT_LEADER},    {5, 3, 0, RAFT_LEADER},    {5, 2, 2, RAFT_LEADER},
        {3, 0, 2, RAFT_FOLLOWER},  {5, 0, 4, RAFT_FOLLOWER},  {5, 1, 3, RAFT_FOLLOWER},
        {3, 0, 0, RAFT_CANDIDATE}, {5, 1, 0, RAFT_CANDIDATE}, {5, 0, 2, RAFT_CANDIDATE},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        solo(cases[i].nodes, false, true);
        campaign(1);
        uint64_t from = 2;
        for (int k = 0; k < cases[i].grants; k++) {
            (void)give(&c, msg(RAFT_MSG_VOTE_REPLY, from++, 1));
        }
        for (int k = 0; k < cases[i].refusals; k++) {
            struct raft_message m = msg(RAFT_MSG_VOTE_REPLY, from++, 1);
            m.reject = true;
            (void)give(&c, m);
        }
        assert_int_equal(node_role(&c, 1), cases[i].want);
        assert_int_equal(node_term(&c, 1), 1);
        cluster_deinit(&c);
    }
}

TEST(votes_count_once_per_voter)
{
    (void)state;
    solo(5, false, true);
    campaign(1);
    for (int i = 0; i < 5; i++) {
        (void)give(&c, msg(RAFT_MSG_VOTE_REPLY, 2, 1));
    }
    (void)give(&c, msg(RAFT_MSG_VOTE_REPLY, 9, 1)); /* a stranger */
    assert_int_equal(node_role(&c, 1), RAFT_CANDIDATE);
    cluster_deinit(&c);
}

TEST(follower_vote)
{
    static const struct {
        uint64_t vote, from;
        bool reject;
    } cases[] = {{0, 2, false}, {0, 3, false}, {2, 2, false},
                 {3, 3, false}, {2, 3, true},  {3, 2, true}};
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        solo(3, true, true);
        node_restart_with_log(&c, 1, NULL, 0, 1, cases[i].vote);
        (void)give(&c, vote_msg(RAFT_MSG_VOTE, cases[i].from, 1, 0, 0));
        assert_int_equal(sent(&c, RAFT_MSG_VOTE_REPLY, cases[i].from)->reject, cases[i].reject);
        cluster_deinit(&c);
    }
}

TEST(candidate_fallback)
{
    (void)state;
    for (uint64_t term = 1; term <= 2; term++) {
        solo(3, false, true);
        campaign(1);
        (void)give(&c, append_msg(2, term, 0, 0, 0, NULL, 0));
        assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
        assert_int_equal(node_term(&c, 1), term);
        assert_int_equal(node_status(&c.nodes[1]).leader, 2);
        cluster_deinit(&c);
    }
}

static void timeouts_are_spread(enum raft_role role)
{
    bool seen[TIMEOUT_MS] = {0};
    size_t distinct = 0;

    /* Each rank has slots of its own: together they cover the range. */
    for (uint64_t id = 1; id <= 3; id++) {
        cluster_init(&c, 3, id);
        c.filter = hold_all;
        struct raft *r = c.nodes[id].raft;
        for (int round = 0; round < 2000; round++) {
            if (role == RAFT_FOLLOWER) {
                raft__become_follower(r, r->term + 1, id % 3 + 1);
            } else {
                raft__become_candidate(r);
            }
            uint64_t d = raft_deadline_ms(r) - c.now_ms;
            assert_true(d >= TIMEOUT_MS && d < 2 * TIMEOUT_MS);
            distinct += !seen[d - TIMEOUT_MS];
            seen[d - TIMEOUT_MS] = true;
        }
        cluster_deinit(&c);
    }
    assert_true(distinct >= TIMEOUT_MS - 3);
}

TEST(follower_election_timeout_randomized)
{
    (void)state;
    timeouts_are_spread(RAFT_FOLLOWER);
}

TEST(candidate_election_timeout_randomized)
{
    (void)state;
    timeouts_are_spread(RAFT_CANDIDATE);
}

/* Voters of one group never draw the same time, whatever their seeds. */
static void timeouts_do_not_conflict(bool candidates)
{
    (void)candidates;
    cluster_init(&c, 5, 3);
    for (int round = 0; round < 1000; round++) {
        uint64_t due[6];
        for (uint64_t id = 1; id <= 5; id++) {
            struct raft *r = c.nodes[id].raft;
            if (candidates) {
                raft__become_candidate(r);
            } else {
                raft__become_follower(r, r->term + 1, 0);
            }
            due[id] = raft_deadline_ms(r);
            for (uint64_t other = 1; other < id; other++) {
                assert_true(due[id] != due[other]);
            }
        }
    }
    cluster_deinit(&c);
}

TEST(followers_election_timeout_nonconflict)
{
    (void)state;
    timeouts_do_not_conflict(false);
}

TEST(candidates_election_timeout_nonconflict)
{
    (void)state;
    timeouts_do_not_conflict(true);
}

TEST(past_election_timeout)
{
    int before_half = 0;
    (void)state;

    cluster_init(&c, 3, 5);
    struct raft *r = c.nodes[2].raft;
    for (int i = 0; i < 10000; i++) {
        raft__redraw_election(r);
        before_half += raft_deadline_ms(r) - c.now_ms < TIMEOUT_MS * 3 / 2;
    }
    assert_in_range(before_half, 4700, 5300);
    cluster_deinit(&c);
}

TEST(vote_request)
{
    (void)state;
    solo(3, false, true);
    node_restart_with_log(&c, 1, (uint64_t[]){1, 2}, 2, 2, 0);
    campaign(1);
    const struct raft_message *m = sent(&c, RAFT_MSG_VOTE, 3);
    assert_int_equal(m->index, 2);
    assert_int_equal(m->log_term, 2);
    assert_int_equal(m->term, 3);
    cluster_deinit(&c);
}

TEST(voter)
{
    static const struct {
        uint64_t terms[2];
        size_t count;
        uint64_t index, log_term;
        bool reject;
    } cases[] = {
        {{1}, 1, 1, 1, false}, {{1}, 1, 2, 1, false}, {{1, 1}, 2, 1, 1, true},
        {{1}, 1, 1, 2, false}, {{1}, 1, 2, 2, false}, {{1, 1}, 2, 1, 2, false},
        {{2}, 1, 1, 1, true},  {{2}, 1, 2, 1, true},  {{2, 2}, 2, 1, 1, true},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        solo(3, true, true);
        node_restart_with_log(&c, 1, cases[i].terms, cases[i].count, 2, 0);
        (void)give(&c, vote_msg(RAFT_MSG_VOTE, 2, 3, cases[i].index, cases[i].log_term));
        assert_int_equal(sent(&c, RAFT_MSG_VOTE_REPLY, 2)->reject, cases[i].reject);
        cluster_deinit(&c);
    }
}

static void recv_msg_vote(enum raft_message_kind kind, enum raft_message_kind reply)
{
    static const uint64_t log[] = {2, 2};
    bool pre = kind == RAFT_MSG_PREVOTE;

    for (uint64_t vote = 0; vote <= 3; vote++) {
        for (uint64_t index = 0; index <= 3; index++) {
            for (uint64_t log_term = 1; log_term <= 3; log_term++) {
                solo(3, true, true);
                node_restart_with_log(&c, 1, log, 2, 3, vote);
                (void)give(&c, vote_msg(kind, 2, pre ? 4 : 3, index, log_term));
                bool fresh = log_term > 2 || (log_term == 2 && index >= 2);
                bool free_to = pre || vote == 0 || vote == 2;
                assert_int_equal(sent(&c, reply, 2)->reject, !(fresh && free_to));
                cluster_deinit(&c);
            }
        }
    }
}

TEST(recv_msg_vote)
{
    (void)state;
    recv_msg_vote(RAFT_MSG_VOTE, RAFT_MSG_VOTE_REPLY);
}

TEST(recv_msg_pre_vote)
{
    (void)state;
    recv_msg_vote(RAFT_MSG_PREVOTE, RAFT_MSG_PREVOTE_REPLY);
}

static void vote_from_any_state(enum raft_message_kind kind, enum raft_message_kind reply)
{
    for (int role = RAFT_FOLLOWER; role <= RAFT_LEADER; role++) {
        solo(3, role == RAFT_PRE_CANDIDATE, false);
        if (role == RAFT_LEADER) {
            solo_lead(&c);
        } else if (role != RAFT_FOLLOWER) {
            campaign(1);
        }
        assert_int_equal(node_role(&c, 1), role);
        uint64_t before = node_term(&c, 1);
        (void)give(&c, vote_msg(kind, 2, before + 1, 9, before + 1));
        assert_false(sent(&c, reply, 2)->reject);
        assert_int_equal(sent(&c, reply, 2)->term, before + 1);
        if (kind == RAFT_MSG_VOTE) {
            assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
            assert_int_equal(node_term(&c, 1), before + 1);
            assert_int_equal(node_status(&c.nodes[1]).vote, 2);
        } else {
            assert_int_equal(node_role(&c, 1), role);
            assert_int_equal(node_term(&c, 1), before);
        }
        cluster_deinit(&c);
    }
}

TEST(vote_from_any_state)
{
    (void)state;
    vote_from_any_state(RAFT_MSG_VOTE, RAFT_MSG_VOTE_REPLY);
}

TEST(pre_vote_from_any_state)
{
    (void)state;
    vote_from_any_state(RAFT_MSG_PREVOTE, RAFT_MSG_PREVOTE_REPLY);
}

TEST(pre_vote_grant_leaves_last_contact_alone)
{
    (void)state;
    solo(3, true, true);
    uint64_t deadline = raft_deadline_ms(c.nodes[1].raft);
    c.now_ms += 50;
    (void)give(&c, vote_msg(RAFT_MSG_PREVOTE, 2, 1, 0, 0));
    assert_false(sent(&c, RAFT_MSG_PREVOTE_REPLY, 2)->reject);
    assert_int_equal(raft_deadline_ms(c.nodes[1].raft), deadline);
    assert_int_equal(c.nodes[1].disk.hard.vote, 0);
    cluster_deinit(&c);
}

TEST(same_term_step_down_keeps_the_vote)
{
    (void)state;
    solo(3, true, true);
    solo_lead(&c);
    uint64_t term = node_term(&c, 1);
    cluster_run(&c, 2 * TIMEOUT_MS); /* no quorum answers */
    assert_int_not_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_term(&c, 1), term);
    assert_int_equal(node_status(&c.nodes[1]).vote, 1);
    (void)give(&c, vote_msg(RAFT_MSG_VOTE, 2, term, 9, term));
    assert_true(sent(&c, RAFT_MSG_VOTE_REPLY, 2)->reject);
    cluster_deinit(&c);
}

TEST(stale_term_vote_response_is_not_counted)
{
    (void)state;
    solo(3, false, true);
    campaign(1);
    cluster_run(&c, 2 * TIMEOUT_MS - 1);
    assert_int_equal(node_term(&c, 1), 2);
    (void)give(&c, msg(RAFT_MSG_VOTE_REPLY, 2, 1));
    assert_int_equal(node_role(&c, 1), RAFT_CANDIDATE);
    cluster_deinit(&c);
}

static void leader_election(bool pre_vote)
{
    for (size_t up = 1; up <= 5; up++) {
        start(5, pre_vote, true);
        for (uint64_t id = up + 1; id <= 5; id++) {
            node_crash(&c, id);
        }
        campaign(1);
        bool won = up >= 3;
        assert_int_equal(node_role(&c, 1) == RAFT_LEADER, won);
        assert_int_equal(node_term(&c, 1), won || !pre_vote ? 1 : 0);
        cluster_deinit(&c);
    }
}

TEST(leader_election)
{
    (void)state;
    leader_election(false);
}

TEST(leader_election_pre_vote)
{
    (void)state;
    leader_election(true);
}

static void leader_cycle(bool pre_vote)
{
    start(3, pre_vote, false);
    for (uint64_t id = 1; id <= 3; id++) {
        campaign(id);
        for (uint64_t other = 1; other <= 3; other++) {
            assert_int_equal(node_role(&c, other) == RAFT_LEADER, other == id);
        }
    }
    cluster_deinit(&c);
}

TEST(leader_cycle)
{
    (void)state;
    leader_cycle(false);
}

TEST(leader_cycle_pre_vote)
{
    (void)state;
    leader_cycle(true);
}

/* Nodes 4 and 5 voted in term 2 and have nothing of it; 1 to 3 have entries of terms 1 and 2. */
static void overwrite_newer_logs(bool pre_vote)
{
    start(5, pre_vote, false);
    node_restart_with_log(&c, 1, (uint64_t[]){1}, 1, 1, 0);
    node_restart_with_log(&c, 2, (uint64_t[]){1}, 1, 1, 0);
    node_restart_with_log(&c, 3, (uint64_t[]){2}, 1, 2, 3);
    node_restart_with_log(&c, 4, NULL, 0, 2, 3);
    node_restart_with_log(&c, 5, NULL, 0, 2, 3);
    campaign(1); /* learns of term 2 */
    campaign(1);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    cluster_run(&c, 5 * HEARTBEAT_MS);
    for (uint64_t id = 1; id <= 5; id++) {
        assert_int_equal(node_last(&c, id), 2);
        assert_int_equal(term_of(&c, id, 1), 1);
        assert_int_equal(term_of(&c, id, 2), 3);
    }
    cluster_deinit(&c);
}

TEST(leader_election_overwrite_newer_logs)
{
    (void)state;
    overwrite_newer_logs(false);
}

TEST(leader_election_overwrite_newer_logs_pre_vote)
{
    (void)state;
    overwrite_newer_logs(true);
}

TEST(dueling_candidates)
{
    (void)state;
    start(3, false, false);
    cluster_cut(&c, 1, 3);
    campaign(1);
    campaign(3);
    /* of term 1: it has not heard of the term of 3 */
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_role(&c, 3), RAFT_CANDIDATE);
    cluster_heal(&c);
    campaign(3); /* its log is behind: it only disturbs */
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_int_equal(node_term(&c, 1), 2);
    assert_int_equal(node_role(&c, 3), RAFT_FOLLOWER);
    cluster_deinit(&c);
}

TEST(dueling_pre_candidates)
{
    (void)state;
    start(3, true, false);
    cluster_cut(&c, 1, 3);
    campaign(1);
    campaign(3);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    cluster_heal(&c);
    campaign(3);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_term(&c, 1), 1);
    assert_int_equal(node_role(&c, 3), RAFT_FOLLOWER);
    cluster_deinit(&c);
}

TEST(candidate_concede)
{
    (void)state;
    start(3, false, true);
    cluster_isolate(&c, 1);
    campaign(1);
    campaign(3);
    cluster_heal(&c);
    assert_int_equal(node_propose(&c, 3, 8), THOLE_OK);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

static void single_node_candidate(bool pre_vote)
{
    start(1, pre_vote, true);
    campaign(1);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(single_node_candidate)
{
    (void)state;
    single_node_candidate(false);
}

TEST(single_node_pre_candidate)
{
    (void)state;
    single_node_candidate(true);
}

TEST(state_transition)
{
    (void)state;
    solo(1, true, true);
    struct raft *r = c.nodes[1].raft;
    raft__become_pre_candidate(r);
    raft__become_follower(r, 0, 0);
    raft__become_candidate(r);
    raft__become_pre_candidate(r);
    raft__become_candidate(r);
    cluster_settle(&c); /* its vote is durable */
    raft__become_leader(r);
    assert_int_equal(r->role, RAFT_LEADER);
    raft__become_follower(r, r->term, 0);
    assert_int_equal(r->role, RAFT_FOLLOWER);
    /* What the table in role.c forbids ends the process: see test_raft_check.c. */
    cluster_deinit(&c);
}

TEST(all_server_stepdown)
{
    (void)state;
    for (int role = RAFT_FOLLOWER; role <= RAFT_LEADER; role++) {
        for (int kind = 0; kind < 2; kind++) {
            solo(3, role == RAFT_PRE_CANDIDATE, false);
            if (role == RAFT_LEADER) {
                solo_lead(&c);
            } else if (role != RAFT_FOLLOWER) {
                campaign(1);
            }
            struct raft_message m = kind == 0 ? vote_msg(RAFT_MSG_VOTE, 2, 3, 9, 3)
                                              : append_msg(2, 3, 0, 0, 0, NULL, 0);
            (void)give(&c, m);
            assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
            assert_int_equal(node_term(&c, 1), 3);
            assert_int_equal(node_status(&c.nodes[1]).leader, kind == 0 ? 0 : 2);
            cluster_deinit(&c);
        }
    }
}

static void candidate_reset_term(bool heartbeat)
{
    start(3, false, true);
    campaign(1);
    cluster_isolate(&c, 3);
    campaign(3);
    cluster_run(&c, 5 * TIMEOUT_MS); /* its term runs away */
    assert_true(node_term(&c, 3) > node_term(&c, 1));
    cluster_heal(&c);
    if (!heartbeat) {
        (void)node_propose(&c, 1, 8);
        cluster_settle(&c);
    }
    (void)cluster_elect(&c, 10 * TIMEOUT_MS);
    cluster_run(&c, 10 * HEARTBEAT_MS);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(candidate_reset_term_msg_heartbeat)
{
    (void)state;
    candidate_reset_term(true);
}

TEST(candidate_reset_term_msg_app)
{
    (void)state;
    candidate_reset_term(false);
}

static void campaign_of_a_leader(bool pre_vote)
{
    solo(1, pre_vote, true);
    campaign(1);
    uint64_t term = node_term(&c, 1);
    campaign(1);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_term(&c, 1), term);
    cluster_deinit(&c);
}

TEST(campaign_while_leader)
{
    (void)state;
    campaign_of_a_leader(false);
}

TEST(pre_campaign_while_leader)
{
    (void)state;
    campaign_of_a_leader(true);
}

TEST(leader_stepdown_when_quorum_active)
{
    (void)state;
    solo(3, true, true);
    solo_lead(&c);
    for (int i = 0; i < 30; i++) {
        (void)give(&c, msg(RAFT_MSG_HEARTBEAT_REPLY, 2, node_term(&c, 1)));
        cluster_run(&c, HEARTBEAT_MS);
    }
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(leader_stepdown_when_quorum_lost)
{
    (void)state;
    solo(3, true, true);
    solo_lead(&c);
    cluster_run(&c, 2 * TIMEOUT_MS - 1);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_int_equal(node_status(&c.nodes[1]).leader, 0);
    cluster_deinit(&c);
}

TEST(checkquorum)
{
    (void)state;
    start(3, false, true);
    campaign(1);
    campaign(2); /* ignored: 1 is at work */
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_role(&c, 2), RAFT_CANDIDATE);
    cluster_deinit(&c);

    start(3, true, true);
    campaign(1);
    cluster_isolate(&c, 1);
    cluster_run(&c, 2 * TIMEOUT_MS);
    assert_int_not_equal(node_role(&c, 1), RAFT_LEADER);
    (void)cluster_elect(&c, 5 * TIMEOUT_MS);
    assert_int_not_equal(cluster_leader(&c), 1);
    cluster_deinit(&c);
}

TEST(leader_superseding_with_check_quorum)
{
    (void)state;
    start(3, false, true);
    campaign(1);
    campaign(3);
    assert_int_equal(node_role(&c, 3), RAFT_CANDIDATE);
    cluster_cut(&c, 1, 2); /* 2's view of the leader gets old */
    cluster_cut(&c, 1, 3);
    c.nodes[2].raft->contact_ms = 0;
    campaign(3);
    assert_int_equal(node_role(&c, 3), RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(leader_election_with_check_quorum)
{
    (void)state;
    start(3, false, true);
    campaign(1);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    c.now_ms += TIMEOUT_MS; /* the leases run out, before any tick */
    raft__become_follower(c.nodes[1].raft, node_term(&c, 1), 0);
    campaign(3);
    assert_int_equal(node_role(&c, 3), RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(free_stuck_candidate_with_check_quorum)
{
    (void)state;
    start(3, false, true);
    campaign(1);
    cluster_isolate(&c, 3);
    campaign(3);
    campaign(3);
    cluster_heal(&c);
    campaign(3);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER); /* votes are ignored */
    assert_int_equal(node_role(&c, 3), RAFT_CANDIDATE);
    uint64_t stuck = node_term(&c, 3);
    cluster_run(&c, HEARTBEAT_MS); /* the answer to a heartbeat carries the term */
    assert_true(node_term(&c, 1) >= stuck);
    (void)cluster_elect(&c, 5 * TIMEOUT_MS);
    cluster_run(&c, 10 * HEARTBEAT_MS);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

static uint64_t late_node;

static enum verdict drop_heartbeats(struct cluster *k, const struct raft_message *m)
{
    (void)k;
    return m->to == late_node && (m->kind == RAFT_MSG_HEARTBEAT || m->kind == RAFT_MSG_APPEND)
               ? DROP
               : PASS;
}

TEST(disruptive_follower)
{
    (void)state;
    start(3, false, true);
    campaign(1);
    late_node = 3;
    c.filter = drop_heartbeats;
    cluster_run(&c, 2 * TIMEOUT_MS);
    assert_true(node_term(&c, 3) > 1); /* it campaigned */
    c.filter = NULL;
    cluster_run(&c, HEARTBEAT_MS);
    assert_true(node_term(&c, 1) > 1); /* and that unseats the leader */
    cluster_deinit(&c);
}

TEST(disruptive_follower_pre_vote)
{
    (void)state;
    start(3, true, true);
    campaign(1);
    late_node = 3;
    c.filter = drop_heartbeats;
    cluster_run(&c, 4 * TIMEOUT_MS);
    c.filter = NULL;
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_term(&c, 1), 1);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(prevote)
{
    (void)state;
    start(3, true, false);
    campaign(1);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 2);
    cluster_heal(&c);
    campaign(3);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_term(&c, 1), 1);
    campaign(2);
    assert_int_equal(node_role(&c, 2), RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(prevote_checkquorum)
{
    (void)state;
    start(3, true, true);
    campaign(1);
    campaign(2);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER); /* 3 heard from 1 just now */
    assert_int_equal(node_term(&c, 3), 1);
    cluster_isolate(&c, 1);
    raft__become_pre_candidate(c.nodes[3].raft); /* a quorum wants an election */
    campaign(2);
    assert_int_equal(node_role(&c, 2), RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(node_with_smaller_term_can_complete_election)
{
    (void)state;
    start(3, true, true);
    campaign(1);
    cluster_isolate(&c, 3);
    for (int i = 0; i < 2; i++) {
        raft_campaign(c.nodes[1].raft, c.now_ms);
        cluster_settle(&c);
    }
    /* 2 is in a higher term than 3, with the same log: 3 must not be stuck behind it. */
    cluster_propose(&c, 1);
    node_crash(&c, 1);
    cluster_heal(&c);
    (void)cluster_elect(&c, 10 * TIMEOUT_MS);
    cluster_deinit(&c);
}

TEST(pre_vote_with_split_vote)
{
    (void)state;
    start(3, true, true);
    campaign(1);
    cluster_isolate(&c, 1);
    cluster_run(&c, 10 * TIMEOUT_MS);
    uint64_t leader = cluster_leader(&c);
    assert_true(leader == 2 || leader == 3);
    cluster_deinit(&c);
}

TEST(pre_vote_with_check_quorum)
{
    (void)state;
    start(3, true, true);
    campaign(1);
    cluster_isolate(&c, 1);
    c.nodes[2].raft->contact_ms = 0;
    c.nodes[3].raft->contact_ms = 0;
    campaign(2);
    assert_int_equal(node_role(&c, 2), RAFT_LEADER);
    assert_int_equal(node_role(&c, 3), RAFT_FOLLOWER);
    cluster_deinit(&c);
}

/* Node 3 is the last node without PreVote. */
static void start_migration(void)
{
    start(3, true, true);
    c.nodes[3].options.pre_vote = false;
    node_restart(&c, 3);
    campaign(1);
    cluster_isolate(&c, 3);
    campaign(3);
    cluster_run(&c, 4 * TIMEOUT_MS);
    cluster_propose(&c, 1);
    c.nodes[3].options.pre_vote = true;
    node_restart(&c, 3); /* upgraded, with the term that ran away */
    assert_true(node_term(&c, 3) > node_term(&c, 1));
}

TEST(pre_vote_migration_can_complete_election)
{
    (void)state;
    start_migration();
    node_crash(&c, 1);
    cluster_heal(&c);
    assert_int_equal(cluster_elect(&c, 20 * TIMEOUT_MS), 2); /* 3 lacks an entry */
    cluster_deinit(&c);
}

TEST(pre_vote_migration_with_free_stuck_pre_candidate)
{
    (void)state;
    start_migration();
    cluster_heal(&c);
    cluster_run(&c, 10 * TIMEOUT_MS);
    (void)cluster_elect(&c, 10 * TIMEOUT_MS);
    cluster_run(&c, 10 * HEARTBEAT_MS);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

/* ---- The commit index that votes carry ------------------------------------------------------- */

static void advance_by(struct raft_message m, bool campaigning)
{
    solo(3, m.kind == RAFT_MSG_PREVOTE_REPLY, false);
    node_restart_with_log(&c, 1, (uint64_t[]){1, 1, 1}, 3, 1, 0);
    if (campaigning) {
        campaign(1);
        m.term = node_term(&c, 1);
    }
    m.commit = 2;
    m.commit_term = 9; /* not ours */
    (void)give(&c, m);
    assert_int_equal(node_commit(&c, 1), 0);
    if (campaigning && m.from == 2) {
        m.from = 3;
    }
    cluster_deinit(&c);

    solo(3, m.kind == RAFT_MSG_PREVOTE_REPLY, false);
    node_restart_with_log(&c, 1, (uint64_t[]){1, 1, 1}, 3, 1, 0);
    if (campaigning) {
        campaign(1);
        m.term = node_term(&c, 1);
    }
    m.commit_term = 1;
    (void)give(&c, m);
    assert_int_equal(node_commit(&c, 1), 2);
    cluster_deinit(&c);
}

TEST(advance_commit_index_by_vote_request)
{
    (void)state;
    advance_by(vote_msg(RAFT_MSG_VOTE, 2, 2, 1, 1), false);
}

TEST(advance_commit_index_by_direct_vote_request)
{
    struct raft_message m = vote_msg(RAFT_MSG_VOTE, 2, 2, 1, 1);
    (void)state;
    m.transfer = true;
    advance_by(m, false);
}

TEST(advance_commit_index_by_prevote_request)
{
    (void)state;
    advance_by(vote_msg(RAFT_MSG_PREVOTE, 2, 2, 1, 1), false);
}

TEST(advance_commit_index_by_vote_response)
{
    struct raft_message m = msg(RAFT_MSG_VOTE_REPLY, 2, 0);
    (void)state;
    m.reject = true;
    advance_by(m, true);
}

TEST(advance_commit_index_by_prevote_response)
{
    struct raft_message m = msg(RAFT_MSG_PREVOTE_REPLY, 2, 0);
    (void)state;
    m.reject = true;
    advance_by(m, true);
}

TEST(two_leaders_of_a_term_are_refused_not_asserted)
{
    (void)state;
    solo(3, true, true);
    solo_lead(&c);
    uint64_t term = node_term(&c, 1);
    assert_int_equal(give(&c, append_msg(2, term, 0, 0, 0, NULL, 0)), THOLE_INVALID_ARGUMENT);
    assert_int_equal(give(&c, msg(RAFT_MSG_HEARTBEAT, 2, term)), THOLE_INVALID_ARGUMENT);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, term + 1));
    assert_int_equal(give(&c, msg(RAFT_MSG_HEARTBEAT, 3, term + 1)), THOLE_INVALID_ARGUMENT);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(start_as_follower),
        RUN(follower_update_term_from_message),
        RUN(candidate_update_term_from_message),
        RUN(leader_update_term_from_message),
        RUN(reject_stale_term_message),
        RUN(step_ignore_old_term_msg),
        RUN(follower_start_election),
        RUN(candidate_start_new_election),
        RUN(leader_election_in_one_round_rpc),
        RUN(votes_count_once_per_voter),
        RUN(follower_vote),
        RUN(candidate_fallback),
        RUN(follower_election_timeout_randomized),
        RUN(candidate_election_timeout_randomized),
        RUN(followers_election_timeout_nonconflict),
        RUN(candidates_election_timeout_nonconflict),
        RUN(past_election_timeout),
        RUN(vote_request),
        RUN(voter),
        RUN(recv_msg_vote),
        RUN(recv_msg_pre_vote),
        RUN(vote_from_any_state),
        RUN(pre_vote_from_any_state),
        RUN(pre_vote_grant_leaves_last_contact_alone),
        RUN(same_term_step_down_keeps_the_vote),
        RUN(stale_term_vote_response_is_not_counted),
        RUN(leader_election),
        RUN(leader_election_pre_vote),
        RUN(leader_cycle),
        RUN(leader_cycle_pre_vote),
        RUN(leader_election_overwrite_newer_logs),
        RUN(leader_election_overwrite_newer_logs_pre_vote),
        RUN(dueling_candidates),
        RUN(dueling_pre_candidates),
        RUN(candidate_concede),
        RUN(single_node_candidate),
        RUN(single_node_pre_candidate),
        RUN(state_transition),
        RUN(all_server_stepdown),
        RUN(candidate_reset_term_msg_heartbeat),
        RUN(candidate_reset_term_msg_app),
        RUN(campaign_while_leader),
        RUN(pre_campaign_while_leader),
        RUN(leader_stepdown_when_quorum_active),
        RUN(leader_stepdown_when_quorum_lost),
        RUN(checkquorum),
        RUN(leader_superseding_with_check_quorum),
        RUN(leader_election_with_check_quorum),
        RUN(free_stuck_candidate_with_check_quorum),
        RUN(disruptive_follower),
        RUN(disruptive_follower_pre_vote),
        RUN(prevote),
        RUN(prevote_checkquorum),
        RUN(node_with_smaller_term_can_complete_election),
        RUN(pre_vote_with_split_vote),
        RUN(pre_vote_with_check_quorum),
        RUN(pre_vote_migration_can_complete_election),
        RUN(pre_vote_migration_with_free_stuck_pre_candidate),
        RUN(advance_commit_index_by_vote_request),
        RUN(advance_commit_index_by_direct_vote_request),
        RUN(advance_commit_index_by_prevote_request),
        RUN(advance_commit_index_by_vote_response),
        RUN(advance_commit_index_by_prevote_response),
        RUN(two_leaders_of_a_term_are_refused_not_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
