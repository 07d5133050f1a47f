/* Membership changes in a running group: simple, joint, learners, witnesses, removal. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static void start(size_t n)
{
    cluster_init(&c, n, 61);
    cluster_make_leader(&c, 1);
}

static void start_with_learner(void)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1}, 1, (uint64_t[]){2}, 1);

    cluster_init_config(&c, &config, 61);
    cluster_make_leader(&c, 1);
}

static const struct raft_config *config_at_node(uint64_t id)
{
    return raft_config(c.nodes[id].raft);
}

static enum thole_code change(uint64_t leader, enum raft_change_op op, uint64_t id)
{
    struct raft_change ch = change_one(op, id);
    enum thole_code code = node_change(&c, leader, &ch);

    cluster_settle(&c);
    return code;
}

static void settle_down(void)
{
    cluster_run(&c, 5 * HEARTBEAT_MS);
    cluster_assert_converged(&c);
}

/* What of the log from `from` on are CONFIG entries. */
static size_t config_entries(uint64_t id)
{
    size_t n = 0;
    const struct disk *d = &c.nodes[id].disk;

    for (size_t i = 0; i < d->count; i++) {
        n += d->entries[i]->kind == RAFT_ENTRY_CONFIG;
    }
    return n;
}

TEST(step_config)
{
    (void)state;
    solo_init(&c, 2);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    uint64_t before = node_last(&c, 1);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 3), THOLE_OK);
    assert_int_equal(node_last(&c, 1), before + 1);
    assert_int_equal(config_at_node(1)->member_count, 2); /* acts when committed */
    cluster_deinit(&c);
}

TEST(step_ignore_config)
{
    (void)state;
    solo_init(&c, 2);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 3), THOLE_OK);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 4), THOLE_ABORTED); /* one at a time */
    assert_int_equal(node_last(&c, 1), 2);
    cluster_deinit(&c);
}

TEST(new_leader_pending_config)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    /* Nothing of its own term is committed: changes of two leaders might overlap. */
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 4), THOLE_ABORTED);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 4), THOLE_OK);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 5));
    solo_lead(&c); /* again, with the change of before in its log */
    (void)give_ack(&c, 2, 1);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 5), THOLE_ABORTED);
    (void)give_ack(&c, 2, 3);
    assert_int_equal(config_at_node(1)->member_count, 4);
    cluster_deinit(&c);
}

TEST(add_node)
{
    (void)state;
    start(1);
    cluster_join(&c);
    cluster_learn(&c, 1, 2);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_OK);
    settle_down();
    assert_true(raft_config_is_voter(config_at_node(2), 2));
    cluster_deinit(&c);
}

TEST(raw_node_propose_add_duplicate_node)
{
    (void)state;
    start(1);
    cluster_join(&c);
    cluster_learn(&c, 1, 2);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_OK);
    settle_down();
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_OK); /* idempotent */
    settle_down();
    assert_int_equal(config_at_node(1)->member_count, 2);
    cluster_deinit(&c);
}

TEST(add_learner)
{
    (void)state;
    start(1);
    cluster_join(&c);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 2), THOLE_OK);
    settle_down();
    assert_false(raft_config_is_voter(config_at_node(2), 2));
    cluster_propose(&c, 3);
    settle_down();
    cluster_deinit(&c);
}

/* A newcomer counts as active at first, so it is sent a snapshot; for a vote it must answer. */
TEST(add_node_check_quorum)
{
    (void)state;
    solo_init(&c, 1);
    raft_campaign(c.nodes[1].raft, c.now_ms);
    cluster_settle(&c);
    cluster_run(&c, TIMEOUT_MS - 5); /* the check is due soon */
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_UNAVAILABLE); /* no learner yet */
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 2), THOLE_OK);
    assert_true(peer_of(&c, 1, 2).recently_active);
    assert_false(peer_of(&c, 1, 2).answers);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_UNAVAILABLE);
    cluster_run(&c, 3 * TIMEOUT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER); /* it never answers, and costs nothing */
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_UNAVAILABLE);
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 2), THOLE_OK); /* it can be taken back */
    cluster_deinit(&c);
}

TEST(vote_is_given_to_who_answered_lately_and_has_what_is_committed)
{
    (void)state;
    start(1);
    cluster_join(&c);
    cluster_learn(&c, 1, 2);
    c.nodes[2].manual_disk = true; /* heartbeats are answered, entries are not stored */
    cluster_propose(&c, 3);
    cluster_run(&c, 3 * TIMEOUT_MS);
    assert_true(peer_of(&c, 1, 2).answers);
    assert_false(peer_of(&c, 1, 2).caught_up);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_UNAVAILABLE);
    c.nodes[2].manual_disk = false;
    (void)node_sync(&c, 2, SIZE_MAX);
    cluster_run(&c, 3 * HEARTBEAT_MS);
    assert_true(peer_of(&c, 1, 2).caught_up);
    cluster_isolate(&c, 2);
    cluster_run(&c, TIMEOUT_MS + HEARTBEAT_MS);
    assert_false(peer_of(&c, 1, 2).answers);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_UNAVAILABLE);
    cluster_heal(&c);
    cluster_run(&c, 3 * HEARTBEAT_MS);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_OK);
    settle_down();
    cluster_deinit(&c);
}

/* A voter whose disk hangs answers heartbeats, and a group that needs it to commit commits nothing:
 * no change may leave the others without a majority. */
TEST(voter_that_stores_nothing_is_not_counted_on)
{
    (void)state;
    start(3);
    c.nodes[2].manual_disk = true;
    cluster_propose(&c, 3);
    cluster_run(&c, 3 * TIMEOUT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_true(peer_of(&c, 1, 2).answers);
    assert_false(peer_of(&c, 1, 2).caught_up);
    assert_int_equal(change(1, RAFT_CHANGE_DEMOTE, 3), THOLE_UNAVAILABLE);
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 3), THOLE_UNAVAILABLE);
    c.nodes[2].manual_disk = false;
    (void)node_sync(&c, 2, SIZE_MAX);
    cluster_run(&c, 3 * HEARTBEAT_MS);
    assert_int_equal(change(1, RAFT_CHANGE_DEMOTE, 3), THOLE_OK);
    settle_down();
    cluster_deinit(&c);
}

/* The age of an answer is that of the message that it answers, however late it arrives. */
TEST(late_answer_is_no_recent_one)
{
    (void)state;
    solo_init(&c, 2);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    solo_learn(&c, 3);
    uint64_t then = c.now_ms;
    cluster_run(&c, TIMEOUT_MS - HEARTBEAT_MS);
    (void)give_ack(&c, 2, node_last(&c, 1));
    cluster_run(&c, 2 * HEARTBEAT_MS);
    struct raft_message late = msg(RAFT_MSG_HEARTBEAT_REPLY, 3, node_term(&c, 1));
    late.sent_ms = then;
    (void)give(&c, late);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 3), THOLE_UNAVAILABLE);
    late.sent_ms = c.now_ms + TIMEOUT_MS; /* nor is there an answer from the future */
    (void)give(&c, late);
    cluster_run(&c, HEARTBEAT_MS);
    (void)give_ack(&c, 2, node_last(&c, 1));
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 3), THOLE_OK);
    cluster_deinit(&c);
}

/* 1 leads three, 3 is silent: the nodes that answer must be a majority after the change, too. */
TEST(change_leaves_a_majority_that_answers)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 2), THOLE_UNAVAILABLE); /* {1, 3} */
    assert_int_equal(change(1, RAFT_CHANGE_DEMOTE, 2), THOLE_UNAVAILABLE);
    struct raft_change both = change_one(RAFT_CHANGE_REMOVE, 2);
    change_add(&both, RAFT_CHANGE_DEMOTE, 1);
    assert_int_equal(node_change(&c, 1, &both), THOLE_UNAVAILABLE);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_WITNESS, 4), THOLE_UNAVAILABLE); /* 2 of 4 */
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 3), THOLE_OK);
    cluster_deinit(&c);
}

TEST(one_grows_to_three_in_one_change_and_back)
{
    (void)state;
    start(1);
    cluster_join(&c);
    cluster_join(&c);
    cluster_learn(&c, 1, 2);
    struct raft_change grow = change_one(RAFT_CHANGE_ADD_VOTER, 2);
    change_add(&grow, RAFT_CHANGE_ADD_VOTER, 3);
    assert_int_equal(node_change(&c, 1, &grow), THOLE_UNAVAILABLE); /* 3 is no learner */
    cluster_learn(&c, 1, 3);
    assert_int_equal(node_change(&c, 1, &grow), THOLE_OK);
    settle_down();
    assert_int_equal(raft_config_votes(config_at_node(1)), 3);
    struct raft_change shrink = change_one(RAFT_CHANGE_DEMOTE, 1);
    change_add(&shrink, RAFT_CHANGE_DEMOTE, 2);
    assert_int_equal(node_change(&c, 1, &shrink), THOLE_OK); /* the leader, too */
    settle_down();
    assert_int_equal(cluster_leader(&c), 3);
    assert_int_equal(raft_config_votes(config_at_node(3)), 1);
    cluster_deinit(&c);
}

TEST(remove_node)
{
    (void)state;
    start(2);
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 2), THOLE_OK);
    assert_int_equal(config_at_node(1)->member_count, 1);
    assert_true(raft_config_is_removed(config_at_node(1), 2));
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 1), THOLE_FAILED_PRECONDITION);
    cluster_propose(&c, 1);
    assert_int_equal(node_commit(&c, 1), node_last(&c, 1));
    cluster_deinit(&c);
}

TEST(remove_learner)
{
    (void)state;
    start_with_learner();
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 2), THOLE_OK);
    assert_int_equal(config_at_node(1)->member_count, 1);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 2), THOLE_FAILED_PRECONDITION);
    cluster_deinit(&c);
}

TEST(raft_nodes)
{
    const struct raft_config *config;
    (void)state;
    start(5);
    config = config_at_node(1);
    assert_int_equal(config->member_count, 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(config->members[i].replica_id, i + 1); /* sorted */
    }
    cluster_deinit(&c);
}

TEST(promotable)
{
    AUTO_CONFIG in = config_of((uint64_t[]){1, 2}, 2, NULL, 0);
    AUTO_CONFIG out = config_of((uint64_t[]){2}, 1, (uint64_t[]){3}, 1);
    (void)state;
    solo_init_config(&c, &in);
    assert_true(raft__may_campaign(c.nodes[1].raft));
    raft__membership_reset(&c.nodes[1].raft->membership, 0, &out);
    assert_false(raft__may_campaign(c.nodes[1].raft));
    raft__membership_reset(&c.nodes[1].raft->membership, 0, &(struct raft_config){0});
    assert_false(raft__may_campaign(c.nodes[1].raft));
    cluster_deinit(&c);
}

TEST(commit_after_remove_node)
{
    (void)state;
    solo_init(&c, 2);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 2), THOLE_OK);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_commit(&c, 1), 1);
    (void)give_ack(&c, 2, 2); /* the removal: later entries need no other node */
    assert_int_equal(node_commit(&c, 1), 3);
    cluster_deinit(&c);
}

TEST(learner_election_timeout)
{
    (void)state;
    start_with_learner();
    cluster_isolate(&c, 2);
    cluster_run(&c, 10 * TIMEOUT_MS);
    assert_int_equal(node_role(&c, 2), RAFT_FOLLOWER);
    assert_int_equal(node_term(&c, 2), node_term(&c, 1));
    cluster_deinit(&c);
}

TEST(learner_campaign)
{
    (void)state;
    start_with_learner();
    uint64_t term = node_term(&c, 1);
    raft_campaign(c.nodes[2].raft, c.now_ms);
    struct raft_message m = {.kind = RAFT_MSG_TIMEOUT_NOW, .from = 1, .to = 2, .term = term};
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_role(&c, 2), RAFT_FOLLOWER);
    cluster_deinit(&c);
}

TEST(learner_promotion)
{
    (void)state;
    start_with_learner();
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_OK);
    settle_down();
    assert_true(raft_deadline_ms(c.nodes[2].raft) < UINT64_MAX);
    assert_int_equal(raft_transfer(c.nodes[1].raft, 2, c.now_ms, NULL), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_role(&c, 2), RAFT_LEADER);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    cluster_deinit(&c);
}

TEST(learner_can_vote)
{
    AUTO_CONFIG config = config_of((uint64_t[]){2}, 1, (uint64_t[]){1}, 1);
    (void)state;
    solo_init_config(&c, &config);
    struct raft_message m = msg(RAFT_MSG_VOTE, 2, 2);
    m.index = 11;
    m.log_term = 2;
    (void)give(&c, m);
    assert_false(sent(&c, RAFT_MSG_VOTE_REPLY, 2)->reject);
    cluster_deinit(&c);
}

/* 3 is a voter and does not know it; without its vote no node could be elected. */
TEST(campaign_learner_must_vote)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1, 2}, 2, (uint64_t[]){3}, 1);
    (void)state;
    cluster_init_config(&c, &config, 1);
    cluster_make_leader(&c, 1);
    cluster_isolate(&c, 3);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 3), THOLE_OK);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_true(raft_config_is_voter(config_at_node(2), 3));
    node_crash(&c, 1);
    cluster_heal(&c);
    assert_false(raft_config_is_voter(config_at_node(3), 3));
    assert_int_equal(cluster_elect(&c, 10 * TIMEOUT_MS), 2);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_true(raft_config_is_voter(config_at_node(3), 3));
    cluster_deinit(&c);
}

TEST(learner_log_replication)
{
    (void)state;
    start_with_learner();
    cluster_propose(&c, 5);
    settle_down();
    cluster_isolate(&c, 2);
    cluster_propose(&c, 5);
    assert_int_equal(node_commit(&c, 1), 11); /* it does not count */
    cluster_deinit(&c);
}

TEST(non_promotable_voter_with_check_quorum)
{
    (void)state;
    start(2);
    raft__membership_reset(&c.nodes[2].raft->membership, 0, &(struct raft_config){0});
    raft__rearm_election(c.nodes[2].raft);
    cluster_run(&c, 10 * TIMEOUT_MS);
    assert_int_equal(node_status(&c.nodes[2]).leader, 1);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    cluster_deinit(&c);
}

/* A committed change that does not act yet keeps a replica from campaigning. */
static void change_before_campaign(const struct raft_change *ch)
{
    start(3);
    cluster_make_leader(&c, 2);
    c.nodes[1].manual_disk = true;
    assert_int_equal(node_change(&c, 2, ch), THOLE_OK);
    cluster_settle(&c);
    cluster_run(&c, 2 * HEARTBEAT_MS); /* 1 hears of the commit; its own write hangs */
    struct raft *r = c.nodes[1].raft;
    r->commit = node_last(&c, 1);
    assert_false(raft__may_campaign(r));
    raft_campaign(r, c.now_ms);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    c.nodes[1].manual_disk = false;
    cluster_settle(&c);
    assert_true(raft__may_campaign(r));
    cluster_deinit(&c);
}

TEST(conf_change_check_before_campaign)
{
    struct raft_change ch = change_one(RAFT_CHANGE_REMOVE, 3);
    (void)state;
    change_before_campaign(&ch);
}

TEST(conf_change_v2_check_before_campaign)
{
    struct raft_change ch = change_one(RAFT_CHANGE_DEMOTE, 3);
    (void)state;
    change_before_campaign(&ch);
}

TEST(confchange_v1_add_single)
{
    (void)state;
    start(1);
    cluster_propose(&c, 3);
    cluster_join(&c);
    cluster_learn(&c, 1, 2);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_OK);
    settle_down();
    assert_false(config_at_node(1)->joint);
    /* Although the log is whole it started from a snapshot: the first configuration is in no
     * entry. */
    assert_int_equal(c.nodes[2].disk.start_index, 5);
    cluster_deinit(&c);
}

TEST(confchange_v1_remove_leader_stepdown)
{
    (void)state;
    start(3);
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 1), THOLE_OK);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_true(c.nodes[1].removed);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_UNAVAILABLE);
    raft_campaign(c.nodes[1].raft, c.now_ms);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    /* Its successor need not wait for a timeout. */
    uint64_t leader = cluster_leader(&c);
    assert_true(leader == 2 || leader == 3);
    settle_down();
    assert_int_equal(config_at_node(leader)->member_count, 2);
    cluster_deinit(&c);
}

/* Its own removal is committed by counting the old configuration, in which it is; nothing after
 * that by counting itself. */
TEST(confchange_v1_remove_leader)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    (void)give_ack(&c, 3, 1);
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 1), THOLE_OK);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 2, 2);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_int_equal(node_commit(&c, 1), 2); /* not 3, which only the leader has */
    assert_int_equal(node_propose(&c, 1, 8), THOLE_UNAVAILABLE);
    cluster_deinit(&c);
}

TEST(confchange_v2_add_double_auto)
{
    (void)state;
    start(1);
    cluster_join(&c);
    cluster_join(&c);
    cluster_learn(&c, 1, 2);
    cluster_learn(&c, 1, 3);
    struct raft_change ch = change_one(RAFT_CHANGE_ADD_VOTER, 2);
    change_add(&ch, RAFT_CHANGE_ADD_VOTER, 3);
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK); /* triggers no second leave */
    settle_down();
    assert_false(config_at_node(1)->joint);
    assert_int_equal(config_at_node(1)->member_count, 3);
    assert_int_equal(config_entries(1), 4); /* in, and out once */

    ch = change_one(RAFT_CHANGE_REMOVE, 2);
    change_add(&ch, RAFT_CHANGE_REMOVE, 3);
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    cluster_settle(&c);
    cluster_propose(&c, 3);
    assert_int_equal(config_at_node(1)->member_count, 1);
    assert_int_equal(config_entries(1), 6);
    cluster_deinit(&c);
}

/* The leader that proposed the joint configuration is gone before it proposes to leave it. */
TEST(raw_node_joint_auto_leave)
{
    (void)state;
    start(3);
    struct raft_change ch = change_one(RAFT_CHANGE_ADD_LEARNER, 4);
    change_add(&ch, RAFT_CHANGE_DEMOTE, 3);
    cluster_join(&c);
    c.filter = NULL;
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    node_harvest(&c, 1); /* the appends leave */
    node_crash(&c, 1);   /* and with it the leader */
    cluster_settle(&c);
    (void)cluster_elect(&c, 10 * TIMEOUT_MS);
    node_start(&c, 1);
    settle_down();
    uint64_t leader = cluster_leader(&c);
    assert_true(leader != 0);
    assert_false(config_at_node(leader)->joint);
    assert_int_equal(raft_config_find(config_at_node(leader), 3)->role, RAFT_LEARNER);
    cluster_deinit(&c);
}

TEST(confchange_v2_add_single_auto)
{
    (void)state;
    start(1);
    cluster_join(&c);
    cluster_learn(&c, 1, 2);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_VOTER, 2), THOLE_OK);
    settle_down();
    assert_int_equal(config_entries(1), 2); /* the simple protocol, twice */
    cluster_deinit(&c);
}

TEST(changes_during_joint_are_refused_and_a_second_leave_is_a_no_op)
{
    struct raft_change leave = {.revision = 1};
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    struct raft_change ch = change_one(RAFT_CHANGE_DEMOTE, 3);
    change_add(&ch, RAFT_CHANGE_ADD_LEARNER, 4);
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 2, 2);
    assert_true(config_at_node(1)->joint);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 5), THOLE_ABORTED);
    assert_int_equal(node_change(&c, 1, &leave), THOLE_ABORTED); /* one is in flight */
    uint64_t left = node_last(&c, 1);
    (void)give_ack(&c, 2, left);
    assert_false(config_at_node(1)->joint);
    assert_int_equal(node_change(&c, 1, &leave), THOLE_FAILED_PRECONDITION);
    cluster_deinit(&c);
}

TEST(joint_commits_need_both_majorities)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    solo_learn(&c, 4);
    solo_learn(&c, 5);
    struct raft_change ch = change_one(RAFT_CHANGE_ADD_VOTER, 4);
    change_add(&ch, RAFT_CHANGE_ADD_VOTER, 5);
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 2, 4);
    assert_true(config_at_node(1)->joint);
    uint64_t last = node_last(&c, 1);
    (void)give_ack(&c, 4, last);
    (void)give_ack(&c, 5, last); /* a majority of the new, not of the old */
    assert_true(node_commit(&c, 1) < last);
    (void)give_ack(&c, 2, last);
    assert_int_equal(node_commit(&c, 1), last);
    cluster_deinit(&c);
}

static void replace_leader(bool transfer)
{
    start(3);
    cluster_join(&c);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 4), THOLE_OK);
    settle_down();
    struct raft_change ch = change_one(RAFT_CHANGE_ADD_VOTER, 4);
    change_add(&ch, RAFT_CHANGE_REMOVE, 1);
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    if (transfer) {
        c.filter = hold_all; /* stop between the two halves */
        cluster_settle(&c);
        c.filter = NULL;
        cluster_release_held(&c);
        for (int i = 0; i < 50 && !config_at_node(1)->joint; i++) {
            cluster_settle(&c);
        }
    }
    settle_down();
    uint64_t leader = cluster_leader(&c);
    assert_true(leader > 1);
    assert_true(raft_config_is_removed(config_at_node(leader), 1));
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    raft_campaign(c.nodes[1].raft, c.now_ms);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    cluster_make_leader(&c, 4);
    cluster_propose(&c, 2);
    settle_down();
    cluster_deinit(&c);
}

TEST(confchange_v2_replace_leader)
{
    (void)state;
    replace_leader(true);
}

TEST(confchange_v2_replace_leader_stepdown)
{
    (void)state;
    replace_leader(false);
}

TEST(transfer_to_a_new_voter_while_joint)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    solo_learn(&c, 4);
    struct raft_change ch = change_one(RAFT_CHANGE_ADD_VOTER, 4);
    change_add(&ch, RAFT_CHANGE_REMOVE, 3);
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 2, node_last(&c, 1));
    assert_true(config_at_node(1)->joint);
    /* 3 is on its way out, 4 on its way in. */
    assert_int_equal(raft_transfer(c.nodes[1].raft, 3, c.now_ms, NULL), THOLE_FAILED_PRECONDITION);
    assert_int_equal(raft_transfer(c.nodes[1].raft, 4, c.now_ms, NULL), THOLE_OK);
    (void)give_ack(&c, 4, node_last(&c, 1));
    assert_non_null(sent(&c, RAFT_MSG_TIMEOUT_NOW, 4));
    cluster_deinit(&c);
}

TEST(removed_replica_is_told_when_it_calls)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    assert_int_equal(change(1, RAFT_CHANGE_REMOVE, 3), THOLE_OK);
    cluster_run(&c, 3 * TIMEOUT_MS);
    assert_false(c.nodes[3].removed);
    cluster_heal(&c);
    cluster_run(&c, 3 * TIMEOUT_MS); /* it campaigns, and hears why in vain */
    assert_true(c.nodes[3].removed);
    assert_int_equal(raft_deadline_ms(c.nodes[3].raft), UINT64_MAX);
    settle_down();
    cluster_deinit(&c);
}

TEST(removed_is_no_word_of_strangers)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, msg(RAFT_MSG_REMOVED, 9, 0));
    assert_false(c.nodes[1].removed);
    (void)give(&c, msg(RAFT_MSG_REMOVED, 2, 0));
    assert_true(c.nodes[1].removed);
    cluster_deinit(&c);
}

TEST(joiner_is_passive)
{
    (void)state;
    start(1);
    struct node *n = cluster_join(&c);
    cluster_run(&c, 10 * TIMEOUT_MS);
    assert_int_equal(node_term(&c, 2), 0);
    assert_int_equal(raft_deadline_ms(n->raft), UINT64_MAX);
    /* An append from the very start is refused: the first configuration is in no entry. */
    struct raft_message m = append_msg(1, 1, 0, 0, 0, (uint64_t[]){1}, 1);
    m.to = 2;
    c.filter = hold_all;
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    cluster_settle(&c);
    assert_true(sent(&c, RAFT_MSG_APPEND_REPLY, 1)->reject);
    assert_int_equal(node_last(&c, 2), 0);
    cluster_deinit(&c);
}

TEST(stale_revision_becomes_a_no_op_when_applied)
{
    (void)state;
    start(3);
    cluster_join(&c);
    struct raft_change ch = change_one(RAFT_CHANGE_ADD_LEARNER, 4);
    ch.revision = 10;
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    cluster_settle(&c);
    ch = change_one(RAFT_CHANGE_REMOVE, 3);
    ch.revision = 9;
    assert_int_equal(node_change(&c, 1, &ch), THOLE_FAILED_PRECONDITION);
    /* If such an entry gets into the log all the same, all replicas skip it. */
    struct raft_entry *e = raft__change_entry(&ch);
    raft__lead_append(c.nodes[1].raft, e, 0);
    raft_entry_unref(e);
    settle_down();
    assert_true(raft_config_is_voter(config_at_node(2), 3));
    assert_int_equal(config_at_node(2)->revision, 10);
    cluster_deinit(&c);
}

TEST(malformed_change_is_a_no_op)
{
    (void)state;
    start(3);
    struct buf *b = buf_copy("nonsense", 8);
    struct bufslice payload = {.owner = b, .bytes = {.data = b->data, .size = b->size}};
    struct raft_entry *e = raft_entry_new(RAFT_ENTRY_CONFIG, 0, 0, payload);
    raft__lead_append(c.nodes[1].raft, e, 0);
    raft_entry_unref(e);
    settle_down();
    assert_int_equal(config_at_node(3)->member_count, 3);
    cluster_deinit(&c);
}

/* Voters 1 and 2, a witness 3 and a learner 4. */
static void start_with_witness_and_learner(void)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1, 2, 3}, 3, (uint64_t[]){4}, 1);

    config.members[2].role = RAFT_WITNESS;
    cluster_init_config(&c, &config, 61);
    cluster_make_leader(&c, 1);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_int_equal(node_status(&c.nodes[3]).leader, 1);
    assert_int_equal(node_status(&c.nodes[4]).leader, 1);
}

/* The leader steps down because it reaches no quorum. Nothing is sent any more, and a learner and a
 * witness have no election that would make them doubt the leader. */
TEST(a_learner_and_a_witness_forget_a_leader_that_stepped_down)
{
    (void)state;
    start_with_witness_and_learner();
    cluster_isolate(&c, 2);
    cluster_isolate(&c, 3); /* the leader reaches the learner alone */
    cluster_run(&c, 6 * TIMEOUT_MS);
    assert_int_not_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_status(&c.nodes[3]).leader, 0);
    assert_int_equal(node_status(&c.nodes[4]).leader, 0);
    cluster_heal(&c);
    uint64_t leader = cluster_elect(&c, 10 * TIMEOUT_MS);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_int_equal(node_status(&c.nodes[3]).leader, leader);
    assert_int_equal(node_status(&c.nodes[4]).leader, leader);
    cluster_deinit(&c);
}

/* A learner that hears its leader keeps it. After the last message it asks once, and forgets the
 * leader that does not answer. */
TEST(a_learner_forgets_a_leader_that_it_asked_in_vain)
{
    (void)state;
    start_with_witness_and_learner();
    cluster_run(&c, 5 * TIMEOUT_MS);
    assert_int_equal(node_status(&c.nodes[4]).leader, 1);
    cluster_isolate(&c, 4);
    cluster_run(&c, 2 * TIMEOUT_MS - HEARTBEAT_MS);
    assert_int_equal(node_status(&c.nodes[4]).leader, 1);
    cluster_run(&c, 2 * TIMEOUT_MS + HEARTBEAT_MS);
    assert_int_equal(node_status(&c.nodes[4]).leader, 0);
    assert_int_equal(node_role(&c, 4), RAFT_FOLLOWER);
    assert_int_equal(node_term(&c, 4), node_term(&c, 1));
    cluster_heal(&c);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_int_equal(node_status(&c.nodes[4]).leader, 1);
    cluster_deinit(&c);
}

/* All sleep, and one learner is woken by a late message. It must not take the silence of a group
 * that sleeps for the end of its leader. */
TEST(a_learner_that_wakes_alone_wakes_its_leader)
{
    (void)state;
    AUTO_CONFIG config = config_of((uint64_t[]){1, 2}, 2, (uint64_t[]){3}, 1);
    cluster_init_config(&c, &config, 61);
    for (uint64_t id = 1; id <= 3; id++) {
        c.nodes[id].options.sleep_after_ms = TIMEOUT_MS;
        node_restart(&c, id);
    }
    cluster_make_leader(&c, 1);
    cluster_run(&c, 4 * TIMEOUT_MS);
    assert_true(raft_asleep(c.nodes[1].raft) && raft_asleep(c.nodes[3].raft));
    raft_wake(c.nodes[3].raft, 0, c.now_ms);
    cluster_run(&c, 3 * TIMEOUT_MS);
    assert_int_equal(node_status(&c.nodes[3]).leader, 1);
    cluster_run(&c, 4 * TIMEOUT_MS);
    assert_true(raft_asleep(c.nodes[1].raft) && raft_asleep(c.nodes[3].raft));
    assert_int_equal(node_status(&c.nodes[3]).leader, 1);
    cluster_deinit(&c);
}

TEST(witness_gets_no_payload_votes_and_never_leads)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1, 2, 3}, 3, NULL, 0);
    (void)state;
    config.members[2].role = RAFT_WITNESS;
    cluster_init_config(&c, &config, 1);
    cluster_make_leader(&c, 1);
    cluster_propose(&c, 5);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    for (size_t i = 0; i < c.nodes[3].disk.count; i++) {
        assert_int_equal(c.nodes[3].disk.entries[i]->payload.bytes.size, 0);
        assert_int_equal(c.nodes[3].disk.entries[i]->kind, c.nodes[1].disk.entries[i]->kind);
    }
    raft_campaign(c.nodes[3].raft, c.now_ms);
    assert_int_equal(node_role(&c, 3), RAFT_FOLLOWER);
    assert_int_equal(raft_transfer(c.nodes[1].raft, 3, c.now_ms, NULL), THOLE_FAILED_PRECONDITION);
    node_crash(&c, 1);
    assert_int_equal(cluster_elect(&c, 10 * TIMEOUT_MS), 2); /* by the witness' vote */
    cluster_propose(&c, 3);
    assert_int_equal(node_commit(&c, 2), node_last(&c, 2)); /* and counted for commits */
    cluster_deinit(&c);
}

TEST(config_at_follows_the_log)
{
    (void)state;
    start(1);
    cluster_propose(&c, 2);
    assert_int_equal(change(1, RAFT_CHANGE_ADD_LEARNER, 2), THOLE_OK); /* at 4 */
    cluster_propose(&c, 2);
    const struct raft *r = c.nodes[1].raft;
    assert_int_equal(raft_config_at(r, 0)->member_count, 1);
    assert_int_equal(raft_config_at(r, 3)->member_count, 1);
    assert_int_equal(raft_config_at(r, 4)->member_count, 2);
    assert_int_equal(node_status(&c.nodes[1]).config_index, 4);
    node_compact(&c, 1, 5);
    assert_int_equal(raft_config_at(r, 5)->member_count, 2);
    assert_null(r->membership.current->before);
    cluster_settle(&c);
    assert_int_equal(c.nodes[1].disk.start_config.member_count, 2);
    node_restart(&c, 1);
    assert_int_equal(raft_config(c.nodes[1].raft)->member_count, 2);
    cluster_deinit(&c);
}

TEST(pending_change_is_dropped_with_the_log_that_held_it)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 1);
    struct raft_change ch = change_one(RAFT_CHANGE_REMOVE, 3);
    assert_int_equal(node_change(&c, 1, &ch), THOLE_OK);
    cluster_settle(&c);
    cluster_run(&c, 5 * TIMEOUT_MS); /* the others elect a leader */
    cluster_heal(&c);
    settle_down();
    assert_int_equal(config_at_node(1)->member_count, 3);
    assert_int_equal(c.nodes[1].raft->membership.pending_count, 0);
    cluster_deinit(&c);
}

/* Node 1 leads; 2 is a voter, 3 a witness. Everything before is acknowledged by all. */
static void solo_with_witness(void)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1, 2, 3}, 3, NULL, 0);

    config.members[2].role = RAFT_WITNESS;
    solo_init_config(&c, &config);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    (void)give_ack(&c, 3, 1);
    forget_sent(&c);
}

TEST(witness_is_never_ahead_of_all_data)
{
    (void)state;
    solo_with_witness();
    c.nodes[1].manual_disk = true;
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 1);
    assert_null(sent(&c, RAFT_MSG_APPEND, 3)); /* after a crash of 1, only 3 would have the entry */
    (void)node_sync(&c, 1, SIZE_MAX);
    cluster_settle(&c);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 3)->entry_count, 1);
    cluster_deinit(&c);
}

/* Entries that come from the log on disk obey the same bound as cached ones. */
TEST(witness_is_sent_no_more_of_a_log_read_than_a_voter_that_stays_has)
{
    (void)state;
    solo_with_witness();
    c.nodes[1].raft->options.cache_bytes = 0;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    }
    cluster_settle(&c);
    (void)give_ack(&c, 2, 4);
    raft_unreachable(c.nodes[1].raft, 3);
    assert_int_equal(change(1, RAFT_CHANGE_DEMOTE, 1), THOLE_OK); /* at 5; 2 does not have it yet */
    cluster_settle(&c);
    assert_null(raft_entry_at(c.nodes[1].raft, 2));
    forget_sent(&c);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT_REPLY, 3, 1));
    (void)give_ack(&c, 3, 1);
    const struct raft_message *m = sent(&c, RAFT_MSG_APPEND, 3);
    assert_int_equal(m->index, 1);
    assert_int_equal(m->entry_count, 3);
    (void)give_ack(&c, 2, 5);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 3)->index, 4);
    cluster_deinit(&c);
}

TEST(change_waits_for_a_voter_that_stays)
{
    (void)state;
    solo_with_witness();
    assert_int_equal(change(1, RAFT_CHANGE_DEMOTE, 1), THOLE_OK);
    assert_null(sent(&c, RAFT_MSG_APPEND, 3)); /* not before 2 has it */
    (void)give_ack(&c, 3, 2);                  /* a quorum of 1 and a witness */
    assert_int_equal(node_commit(&c, 1), 1);
    (void)give_ack(&c, 2, 2);
    assert_int_equal(node_commit(&c, 1), 2);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_non_null(sent(&c, RAFT_MSG_TIMEOUT_NOW, 2));
    cluster_deinit(&c);
}

TEST(change_that_leaves_only_a_lagging_voter_beside_a_witness_is_refused)
{
    (void)state;
    solo_with_witness();
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 3, 2);
    assert_int_equal(node_commit(&c, 1), 2);
    assert_int_equal(change(1, RAFT_CHANGE_DEMOTE, 1), THOLE_FAILED_PRECONDITION); /* 2 is behind */
    (void)give_ack(&c, 2, 2);
    assert_int_equal(change(1, RAFT_CHANGE_DEMOTE, 1), THOLE_OK);
    cluster_deinit(&c);
}

/* 1 has a committed change and does not know; 2, which it removed from the voters, has more entries
 * and a lower term. Its refusals carry the commit index that lets 1 win alone. */
TEST(commit_on_votes_counts_in_every_term)
{
    (void)state;
    solo_init(&c, 2);
    struct raft_change ch = change_one(RAFT_CHANGE_DEMOTE, 2);
    struct raft_entry *e = raft__change_entry(&ch);
    struct raft_message m = append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1);
    raft_entry_unref(m.entries[0]);
    m.entries[0] = e;
    e->index = 1;
    e->term = 1;
    (void)give(&c, m);
    (void)give(&c, msg(RAFT_MSG_VOTE, 2, 9)); /* the term of 1 is far above that of 2 */
    raft_campaign(c.nodes[1].raft, c.now_ms);
    cluster_settle(&c);
    m = msg(RAFT_MSG_PREVOTE_REPLY, 2, 1);
    m.reject = true;
    m.commit = 1;
    m.commit_term = 1;
    (void)give(&c, m);
    assert_int_equal(node_commit(&c, 1), 1);
    cluster_run(&c, 2 * TIMEOUT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    cluster_deinit(&c);
}

/* Whom it removes may be deleted as soon as it shows: after a crash there is no way back to
 * them. */
TEST(change_acts_when_its_commit_index_is_durable)
{
    (void)state;
    cluster_init(&c, 2, 91);
    cluster_make_leader(&c, 1);
    cluster_propose(&c, 1);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 2);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    c.nodes[1].manual_disk = true;
    cluster_settle(&c);
    assert_int_equal(node_sync(&c, 1, 1), 1); /* the entry */
    cluster_settle(&c);
    uint64_t index = node_last(&c, 1);
    assert_int_equal(node_commit(&c, 1), index);
    assert_true(raft_config_is_voter(raft_config(c.nodes[1].raft), 2));
    assert_int_equal(c.nodes[1].applied,
                     index - 1);              /* nor is it applied: a snapshot would lack it */
    assert_int_equal(node_sync(&c, 1, 1), 1); /* the commit index */
    cluster_settle(&c);
    assert_false(raft_config_is_voter(raft_config(c.nodes[1].raft), 2));
    node_crash(&c, 2); /* for good */
    node_restart(&c, 1);
    c.nodes[1].manual_disk = false;
    cluster_run(&c, 1);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    cluster_deinit(&c);
}

/* Accepted at the leader only; in force once committed; a learner has no vote and gets the log. */
TEST(node_propose_config)
{
    (void)state;
    cluster_init(&c, 3, 93);
    cluster_make_leader(&c, 1);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 3);
    assert_int_equal(node_change(&c, 2, &change), THOLE_UNAVAILABLE);
    uint64_t before = node_last(&c, 1);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    assert_int_equal(node_last(&c, 1), before + 1);
    assert_int_equal(raft_config(c.nodes[1].raft)->member_count, 3);
    cluster_settle(&c);
    assert_int_equal(raft_config(c.nodes[1].raft)->member_count, 2);
    assert_int_equal(node_status(&c.nodes[1]).config_index, before + 1);
    cluster_deinit(&c);
}

TEST(node_propose_add_learner_node)
{
    (void)state;
    cluster_init(&c, 1, 94);
    cluster_make_leader(&c, 1);
    (void)cluster_join(&c);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 2);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_false(raft_config_is_voter(raft_config(c.nodes[1].raft), 2));
    node_crash(&c, 2);
    cluster_propose(&c, 2); /* it is not needed */
    node_start(&c, 2);
    cluster_run(&c, TIMEOUT_MS);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(step_config),
        RUN(step_ignore_config),
        RUN(new_leader_pending_config),
        RUN(add_node),
        RUN(raw_node_propose_add_duplicate_node),
        RUN(add_learner),
        RUN(add_node_check_quorum),
        RUN(vote_is_given_to_who_answered_lately_and_has_what_is_committed),
        RUN(voter_that_stores_nothing_is_not_counted_on),
        RUN(late_answer_is_no_recent_one),
        RUN(change_leaves_a_majority_that_answers),
        RUN(one_grows_to_three_in_one_change_and_back),
        RUN(remove_node),
        RUN(remove_learner),
        RUN(raft_nodes),
        RUN(promotable),
        RUN(commit_after_remove_node),
        RUN(learner_election_timeout),
        RUN(learner_campaign),
        RUN(learner_promotion),
        RUN(learner_can_vote),
        RUN(campaign_learner_must_vote),
        RUN(learner_log_replication),
        RUN(non_promotable_voter_with_check_quorum),
        RUN(conf_change_check_before_campaign),
        RUN(conf_change_v2_check_before_campaign),
        RUN(confchange_v1_add_single),
        RUN(confchange_v1_remove_leader_stepdown),
        RUN(confchange_v1_remove_leader),
        RUN(confchange_v2_add_double_auto),
        RUN(raw_node_joint_auto_leave),
        RUN(confchange_v2_add_single_auto),
        RUN(changes_during_joint_are_refused_and_a_second_leave_is_a_no_op),
        RUN(joint_commits_need_both_majorities),
        RUN(confchange_v2_replace_leader),
        RUN(confchange_v2_replace_leader_stepdown),
        RUN(transfer_to_a_new_voter_while_joint),
        RUN(removed_replica_is_told_when_it_calls),
        RUN(removed_is_no_word_of_strangers),
        RUN(joiner_is_passive),
        RUN(stale_revision_becomes_a_no_op_when_applied),
        RUN(malformed_change_is_a_no_op),
        RUN(a_learner_and_a_witness_forget_a_leader_that_stepped_down),
        RUN(a_learner_forgets_a_leader_that_it_asked_in_vain),
        RUN(a_learner_that_wakes_alone_wakes_its_leader),
        RUN(witness_gets_no_payload_votes_and_never_leads),
        RUN(config_at_follows_the_log),
        RUN(pending_change_is_dropped_with_the_log_that_held_it),
        RUN(witness_is_never_ahead_of_all_data),
        RUN(witness_is_sent_no_more_of_a_log_read_than_a_voter_that_stays_has),
        RUN(change_waits_for_a_voter_that_stays),
        RUN(commit_on_votes_counts_in_every_term),
        RUN(change_that_leaves_only_a_lagging_voter_beside_a_witness_is_refused),
        RUN(change_acts_when_its_commit_index_is_durable),
        RUN(node_propose_config),
        RUN(node_propose_add_learner_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
