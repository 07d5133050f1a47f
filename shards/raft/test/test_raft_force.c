/* Quorum loss: raft_force, epochs, and members that come back. The exact exchange is the golden
 * trace force_two_of_three_lost. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static void add_voter(uint64_t leader, uint64_t id)
{
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, id);

    cluster_learn(&c, leader, id);
    change.revision = raft_config(c.nodes[leader].raft)->revision;
    assert_int_equal(node_change(&c, leader, &change), THOLE_OK);
    cluster_run(&c, 4 * HEARTBEAT_MS);
    assert_true(raft_config_is_voter(raft_config(c.nodes[leader].raft), id));
}

/* `id` leads a group of its own under `epoch`; the members before are removed. */
static void assert_alone(uint64_t id, uint64_t epoch, uint64_t members_before)
{
    const struct raft_config *config = raft_config(c.nodes[id].raft);

    assert_int_equal(node_role(&c, id), RAFT_LEADER);
    assert_true(node_status(&c.nodes[id]).leader_ready);
    assert_int_equal(node_status(&c.nodes[id]).epoch, epoch);
    assert_int_equal(config->epoch, epoch);
    assert_int_equal(config->member_count, 1);
    assert_false(config->joint);
    assert_true(raft_config_is_voter(config, id));
    assert_false(c.nodes[id].removed);
    for (uint64_t other = 1; other <= members_before; other++) {
        assert_true(raft_config_is_removed(config, other) == (other != id));
    }
    cluster_propose(&c, 1);
    assert_int_equal(node_commit(&c, id), node_last(&c, id));
}

static void lose_two_of_three(void)
{
    cluster_init(&c, 3, 31);
    cluster_make_leader(&c, 1);
    cluster_propose(&c, 5);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    node_crash(&c, 1);
    node_crash(&c, 2);
}

TEST(force_two_of_three_lost_keeps_the_data_and_grows_again)
{
    (void)state;
    lose_two_of_three();
    uint64_t had = node_last(&c, 3);
    node_force(&c, 3, 1);
    cluster_settle(&c);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    assert_true(c.checker.committed_count >= had);
    for (uint64_t id = 4; id <= 5; id++) {
        (void)cluster_join(&c);
        add_voter(3, id);
        assert_int_equal(node_status(&c.nodes[id]).epoch, 1);
    }
    cluster_propose(&c, 3);
    cluster_run(&c, TIMEOUT_MS);
    cluster_assert_converged(&c);
    node_restart(&c, 4); /* it knows its epoch from its disk */
    assert_int_equal(node_status(&c.nodes[4]).epoch, 1);
    cluster_deinit(&c);
}

TEST(force_commits_what_no_quorum_had)
{
    (void)state;
    cluster_init(&c, 3, 32);
    cluster_make_leader(&c, 1);
    cluster_isolate(&c, 1);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    uint64_t proposed = node_last(&c, 1);
    assert_true(node_commit(&c, 1) < proposed);
    node_crash(&c, 2);
    node_crash(&c, 3);
    node_force(&c, 1, 1); /* it leads still */
    cluster_settle(&c);
    cluster_run(&c, 1);
    assert_alone(1, 1, 3);
    assert_true(c.nodes[1].applied > proposed);
    cluster_deinit(&c);
}

TEST(force_nothing_acts_before_it_is_durable)
{
    (void)state;
    cluster_init(&c, 3, 33);
    cluster_make_leader(&c, 1);
    cluster_isolate(&c, 1);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c); /* durable here, committed nowhere */
    node_crash(&c, 2);
    node_crash(&c, 3);
    cluster_heal(&c);
    c.nodes[1].manual_disk = true;
    struct raft_status before = node_status(&c.nodes[1]);
    node_force(&c, 1, 4);
    cluster_settle(&c);
    struct raft_message vote = msg(RAFT_MSG_VOTE, 2, before.term + 7);
    vote.index = 99;
    vote.log_term = before.term + 6;
    c.filter = hold_all;
    assert_int_equal(give(&c, vote), THOLE_OK);
    vote.epoch = 4;
    assert_int_equal(give(&c, vote), THOLE_OK); /* deaf to its own epoch, too */
    raft_campaign(c.nodes[1].raft, c.now_ms);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    cluster_run(&c, 3 * TIMEOUT_MS);
    struct raft_status s = node_status(&c.nodes[1]);
    assert_int_equal(s.commit, before.commit);
    assert_int_equal(s.term, before.term + 1);
    assert_int_equal(s.role, RAFT_FOLLOWER);
    assert_int_equal(c.held_count, 0); /* not even "you were removed" */
    assert_int_equal(raft_config(c.nodes[1].raft)->epoch, 0);
    c.nodes[1].manual_disk = false;
    cluster_run(&c, 1);
    assert_alone(1, 4, 3);
    assert_int_equal(sent(&c, RAFT_MSG_REMOVED, 2)->epoch, 4);
    cluster_deinit(&c);
}

TEST(force_crash_before_the_sync_leaves_all_as_it_was)
{
    (void)state;
    lose_two_of_three();
    c.nodes[3].manual_disk = true;
    uint64_t last = node_last(&c, 3);
    node_force(&c, 3, 1);
    cluster_settle(&c);
    node_restart(&c, 3);
    c.nodes[3].manual_disk = false;
    assert_int_equal(node_status(&c.nodes[3]).epoch, 0);
    assert_int_equal(node_last(&c, 3), last);
    node_start(&c, 1);
    node_start(&c, 2);
    (void)cluster_elect(&c, 10 * TIMEOUT_MS);
    cluster_propose(&c, 1);
    cluster_run(&c, TIMEOUT_MS);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(force_crash_after_the_sync_leads_at_the_next_start)
{
    (void)state;
    lose_two_of_three();
    c.nodes[3].manual_disk = true;
    node_force(&c, 3, 1);
    cluster_settle(&c);
    assert_int_equal(node_sync(&c, 3, SIZE_MAX), 1);
    node_restart(&c, 3);
    c.nodes[3].manual_disk = false;
    assert_int_equal(node_status(&c.nodes[3]).epoch, 1);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    cluster_deinit(&c);
}

TEST(force_in_a_joint_configuration)
{
    (void)state;
    cluster_init(&c, 3, 34);
    cluster_make_leader(&c, 1);
    (void)cluster_join(&c);
    (void)cluster_join(&c);
    cluster_learn(&c, 1, 4);
    cluster_learn(&c, 1, 5);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 4);
    change_add(&change, RAFT_CHANGE_ADD_VOTER, 5);
    change_add(&change, RAFT_CHANGE_REMOVE, 2);
    c.cut[4][1] = c.cut[5][1] = true; /* the joint configuration cannot be left */
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_true(raft_config(c.nodes[3].raft)->joint);
    for (uint64_t id = 1; id <= 5; id++) {
        if (id != 3) {
            node_crash(&c, id);
        }
    }
    node_force(&c, 3, 1);
    cluster_settle(&c);
    cluster_run(&c, 1);
    assert_alone(3, 1, 5);
    cluster_deinit(&c);
}

/* The leader's log removes the survivor; whether that was committed is unknown. */
TEST(force_with_its_own_removal_pending)
{
    (void)state;
    cluster_init(&c, 3, 35);
    cluster_make_leader(&c, 1);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 3);
    change.revision = 5;
    c.cut[2][1] = c.cut[3][1] = true;
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    node_crash(&c, 1);
    node_crash(&c, 2);
    node_force(&c, 3, 1);
    cluster_settle(&c);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    assert_int_equal(raft_config(c.nodes[3].raft)->revision, 5);
    node_restart(&c, 3);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    cluster_deinit(&c);
}

/* Its addition is in its log only: it was caught up by a snapshot from before. */
TEST(force_with_its_own_addition_pending)
{
    (void)state;
    uint64_t ids[] = {1, 2};
    uint64_t learner = 3;
    AUTO_CONFIG config = config_of(ids, 2, &learner, 1);
    cluster_init_config(&c, &config, 36);
    cluster_make_leader(&c, 1);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 3);
    c.cut[2][1] = true; /* it cannot be committed */
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    assert_false(raft_config_is_voter(raft_config(c.nodes[3].raft), 3));
    node_crash(&c, 1);
    node_crash(&c, 2);
    node_force(&c, 3, 1); /* a learner has data, too */
    cluster_settle(&c);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    raft_config_deinit(&config);
    cluster_deinit(&c);
}

TEST(force_resurrected_majority_is_refused)
{
    (void)state;
    lose_two_of_three();
    node_force(&c, 3, 1);
    cluster_settle(&c);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    uint64_t term = node_term(&c, 3);
    uint64_t last = node_last(&c, 3);
    node_start(&c, 1);
    node_start(&c, 2);
    cluster_run(&c, 20 * TIMEOUT_MS);
    /* Whoever asked it for its vote knows now; it takes part in nothing any more. */
    assert_true(c.nodes[1].last_error == THOLE_DATA_LOSS ||
                c.nodes[2].last_error == THOLE_DATA_LOSS);
    for (uint64_t id = 1; id <= 2; id++) {
        assert_int_not_equal(node_role(&c, id), RAFT_LEADER);
        raft_campaign(c.nodes[id].raft, c.now_ms);
        cluster_settle(&c);
        assert_int_equal(node_receive(&c, (struct raft_message){.kind = RAFT_MSG_HEARTBEAT,
                                                                .from = 3 - id,
                                                                .to = id,
                                                                .term = term + 5}),
                         c.nodes[id].last_error);
    }
    assert_int_equal(node_role(&c, 3), RAFT_LEADER);
    assert_int_equal(node_term(&c, 3), term);
    assert_int_equal(node_last(&c, 3), last);
    cluster_deinit(&c);
}

/* The old majority goes on unnoticed; the forced replica ignores its messages. */
TEST(force_old_leader_with_a_later_term_cannot_talk_it_back)
{
    static const enum raft_message_kind kinds[] = {
        RAFT_MSG_PREVOTE,      RAFT_MSG_VOTE,        RAFT_MSG_APPEND,
        RAFT_MSG_APPEND_REPLY, RAFT_MSG_HEARTBEAT,   RAFT_MSG_HEARTBEAT_REPLY,
        RAFT_MSG_READ,         RAFT_MSG_TIMEOUT_NOW,
    };
    (void)state;
    solo_init(&c, 3);
    node_force(&c, 1, 2);
    cluster_run(&c, 1);
    assert_alone(1, 2, 3);
    struct raft_status before = node_status(&c.nodes[1]);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct raft_message m = msg(kinds[i], 2, 50);
        m.term = kinds[i] == RAFT_MSG_READ ? 0 : 50;
        m.index = 40;
        m.log_term = 49;
        m.commit = 40;
        m.epoch = i % 2; /* no epoch, and the one before */
        forget_sent(&c);
        assert_int_equal(give(&c, m), THOLE_OK);
        assert_int_equal(sent(&c, RAFT_MSG_REMOVED, 2)->epoch, 2);
    }
    forget_sent(&c);
    assert_int_equal(give(&c, msg(RAFT_MSG_REMOVED, 2, 0)), THOLE_OK);
    assert_int_equal(c.held_count, 0); /* two of them would answer each other for ever */
    struct raft_status after = node_status(&c.nodes[1]);
    assert_int_equal(after.term, before.term);
    assert_int_equal(after.commit, before.commit);
    assert_int_equal(after.role, RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(force_a_higher_epoch_supersedes_who_has_data)
{
    struct thole_status st = {0};
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    struct raft_message m = msg(RAFT_MSG_HEARTBEAT_REPLY, 2, node_term(&c, 1));
    m.epoch = 1;
    assert_int_equal(raft_receive(c.nodes[1].raft, &m, c.now_ms, &st), THOLE_DATA_LOSS);
    assert_int_equal(st.reason, THOLE_REASON_REMOVED);
    assert_non_null(strstr(st.message, "superseded"));
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    raft_campaign(c.nodes[1].raft, c.now_ms);
    cluster_run(&c, 5 * TIMEOUT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_int_equal(raft_force(c.nodes[1].raft, 9, c.now_ms, NULL), THOLE_FAILED_PRECONDITION);
    m = msg(RAFT_MSG_VOTE, 3, 99); /* of its own epoch */
    assert_int_equal(raft_receive(c.nodes[1].raft, &m, c.now_ms, NULL), THOLE_DATA_LOSS);
    cluster_deinit(&c);
}

/* Anybody may send a number: one that none of the members knows marks nobody. */
TEST(force_an_epoch_that_only_a_stranger_knows_is_none)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    struct raft_message m = msg(RAFT_MSG_HEARTBEAT, 77, node_term(&c, 1) + 1);
    m.epoch = 1;
    assert_int_equal(give(&c, m), THOLE_OK);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_status(&c.nodes[1]).epoch, 0);
    cluster_deinit(&c);
}

TEST(force_a_replica_without_data_takes_the_epoch_over)
{
    (void)state;
    cluster_init(&c, 1, 37);
    struct node *n = cluster_join(&c);
    struct raft_message m = {.kind = RAFT_MSG_HEARTBEAT, .from = 1, .to = n->id, .term = 3};
    m.epoch = 6;
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    assert_int_equal(node_status(n).epoch, 6);
    m.epoch = 5;
    m.term = 9;
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    assert_int_equal(node_status(n).term, 3); /* not heard */
    AUTO_CONFIG config = config_of((uint64_t[]){1}, 1, NULL, 0);
    bool install = true;
    config.epoch = 5;
    assert_int_equal(raft_snapshot_received(n->raft, 1, 9, 4, 3, (struct raft_stamp){0}, &config,
                                            c.now_ms, &install, NULL),
                     THOLE_OK);
    assert_false(install);
    config.epoch = 6;
    assert_int_equal(raft_snapshot_received(n->raft, 1, 9, 4, 3, (struct raft_stamp){0}, &config,
                                            c.now_ms, &install, NULL),
                     THOLE_OK);
    assert_true(install);
    config.epoch = 7;
    assert_int_equal(raft_snapshot_received(n->raft, 1, 9, 5, 3, (struct raft_stamp){0}, &config,
                                            c.now_ms, &install, NULL),
                     THOLE_DATA_LOSS);
    raft_config_deinit(&config);
    cluster_deinit(&c);
}

TEST(force_twice)
{
    (void)state;
    lose_two_of_three();
    node_force(&c, 3, 1);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    for (uint64_t id = 4; id <= 5; id++) {
        (void)cluster_join(&c);
        add_voter(3, id);
    }
    cluster_propose(&c, 2);
    cluster_run(&c, TIMEOUT_MS);
    node_crash(&c, 3);
    node_crash(&c, 4);
    assert_int_equal(raft_force(c.nodes[5].raft, 1, c.now_ms, NULL), THOLE_FAILED_PRECONDITION);
    node_force(&c, 5, 2);
    cluster_run(&c, 1);
    assert_alone(5, 2, 5);
    /* The replica that was forced first comes back now, and its messages must be ignored. */
    node_start(&c, 3);
    node_start(&c, 4);
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(node_role(&c, 5), RAFT_LEADER);
    assert_int_not_equal(node_role(&c, 3), RAFT_LEADER);
    assert_int_not_equal(node_role(&c, 4), RAFT_LEADER);
    cluster_deinit(&c);
}

/* The forced entry and what is before it never leave in an append: a new member could not know its
 * epoch. So it gets a snapshot from behind it, even if the log reaches back to the beginning. */
TEST(force_new_members_start_behind_the_forced_entry)
{
    (void)state;
    lose_two_of_three();
    node_force(&c, 3, 1);
    uint64_t forced = node_last(&c, 3);
    cluster_run(&c, 1);
    (void)cluster_join(&c);
    add_voter(3, 4);
    cluster_run(&c, TIMEOUT_MS);
    assert_true(node_status(&c.nodes[4]).first_index > forced);
    cluster_deinit(&c);

    /* Nor does a member get anything older by saying that it has less. */
    solo_init(&c, 3);
    assert_int_equal(give(&c, append_msg(2, 1, 0, 0, 2, (uint64_t[]){1, 1}, 2)), THOLE_OK);
    c.nodes[1].manual_snapshot = true;
    node_force(&c, 1, 1);
    forced = node_last(&c, 1);
    cluster_run(&c, 1);
    assert_alone(1, 1, 3);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 4);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    struct raft_message less = msg(RAFT_MSG_APPEND_REPLY, 4, node_term(&c, 1));
    less.epoch = 1;
    less.reject = true;
    less.index = sent(&c, RAFT_MSG_APPEND, 4)->index;
    less.hint = forced - 1;
    forget_sent(&c);
    assert_int_equal(give(&c, less), THOLE_OK);
    assert_null(sent(&c, RAFT_MSG_APPEND, 4));
    assert_int_equal(c.nodes[1].need_snapshot.peer, 4);
    assert_true(c.nodes[1].need_snapshot.min_index >= forced);
    cluster_deinit(&c);
}

TEST(force_is_refused_without_data_or_with_an_old_epoch)
{
    (void)state;
    uint64_t ids[] = {1, 2, 3};
    AUTO_CONFIG config = config_of(ids, 3, NULL, 0);
    config.members[2].role = RAFT_WITNESS;
    cluster_init_config(&c, &config, 38);
    cluster_make_leader(&c, 1);
    struct node *empty = cluster_join(&c);
    assert_int_equal(raft_force(c.nodes[3].raft, 1, c.now_ms, NULL), THOLE_FAILED_PRECONDITION);
    assert_int_equal(raft_force(empty->raft, 1, c.now_ms, NULL), THOLE_FAILED_PRECONDITION);
    assert_int_equal(raft_force(c.nodes[2].raft, 0, c.now_ms, NULL), THOLE_FAILED_PRECONDITION);
    assert_int_equal(raft_force(c.nodes[2].raft, UINT64_MAX, c.now_ms, NULL),
                     THOLE_FAILED_PRECONDITION);
    node_crash(&c, 1);
    node_crash(&c, 3);
    node_force(&c, 2, 7);
    assert_int_equal(raft_force(c.nodes[2].raft, 7, c.now_ms, NULL), THOLE_FAILED_PRECONDITION);
    cluster_run(&c, 1);
    assert_alone(2, 7, 3);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 2);
    change.epoch = 8;
    assert_int_equal(node_change(&c, 2, &change), THOLE_INVALID_ARGUMENT);
    raft_config_deinit(&config);
    cluster_deinit(&c);
}

TEST(force_keeps_the_promise_of_a_lease)
{
    (void)state;
    cluster_init(&c, 3, 39);
    for (uint64_t id = 1; id <= 3; id++) {
        c.nodes[id].options.lease = true;
        node_restart(&c, id);
    }
    cluster_run(&c, TIMEOUT_MS);
    cluster_make_leader(&c, 1);
    cluster_run(&c, HEARTBEAT_MS);
    node_crash(&c, 1);
    node_crash(&c, 2);
    node_force(&c, 3, 1);
    cluster_run(&c, TIMEOUT_MS - 1);
    assert_int_equal(node_role(&c, 3), RAFT_FOLLOWER);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    cluster_deinit(&c);
}

/* The leader is left, too, and holds a lease for which the forced replica has promised nothing. */
TEST(force_waits_for_a_lease_that_others_promised)
{
    (void)state;
    cluster_init(&c, 3, 40);
    for (uint64_t id = 1; id <= 3; id++) {
        c.nodes[id].options.lease = true;
        node_restart(&c, id);
    }
    cluster_run(&c, TIMEOUT_MS);
    cluster_make_leader(&c, 1);
    node_crash(&c, 3);
    cluster_run(&c, HEARTBEAT_MS);
    node_start(&c, 3);
    cluster_cut(&c, 1, 3);
    cluster_cut(&c, 2, 3);
    cluster_run(&c, 2 * TIMEOUT_MS); /* its own promise of the start is over */
    node_crash(&c, 2);
    node_force(&c, 3, 1);
    cluster_run(&c, TIMEOUT_MS - 1);
    assert_int_equal(node_role(&c, 3), RAFT_FOLLOWER);
    cluster_run(&c, 1);
    assert_alone(3, 1, 3);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(force_two_of_three_lost_keeps_the_data_and_grows_again),
        RUN(force_commits_what_no_quorum_had),
        RUN(force_nothing_acts_before_it_is_durable),
        RUN(force_crash_before_the_sync_leaves_all_as_it_was),
        RUN(force_crash_after_the_sync_leads_at_the_next_start),
        RUN(force_in_a_joint_configuration),
        RUN(force_with_its_own_removal_pending),
        RUN(force_with_its_own_addition_pending),
        RUN(force_resurrected_majority_is_refused),
        RUN(force_old_leader_with_a_later_term_cannot_talk_it_back),
        RUN(force_a_higher_epoch_supersedes_who_has_data),
        RUN(force_an_epoch_that_only_a_stranger_knows_is_none),
        RUN(force_a_replica_without_data_takes_the_epoch_over),
        RUN(force_twice),
        RUN(force_new_members_start_behind_the_forced_entry),
        RUN(force_is_refused_without_data_or_with_an_old_epoch),
        RUN(force_keeps_the_promise_of_a_lease),
        RUN(force_waits_for_a_lease_that_others_promised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
