/* Leadership transfer. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static void start(size_t n)
{
    cluster_init(&c, n, 51);
    cluster_make_leader(&c, 1);
}

static enum thole_code transfer(uint64_t from, uint64_t to)
{
    enum thole_code code = raft_transfer(c.nodes[from].raft, to, c.now_ms, NULL);

    cluster_settle(&c);
    return code;
}

static void assert_leads(uint64_t id)
{
    assert_int_equal(node_role(&c, id), RAFT_LEADER);
    assert_int_equal(cluster_leader(&c), id);
    assert_int_equal(node_status(&c.nodes[id]).transfer_target, 0);
}

TEST(leader_transfer_to_up_to_date_node)
{
    (void)state;
    start(3);
    assert_int_equal(transfer(1, 2), THOLE_OK);
    assert_leads(2);
    cluster_propose(&c, 1);
    assert_int_equal(transfer(2, 1), THOLE_OK);
    assert_leads(1);
    assert_int_equal(transfer(1, 0), THOLE_OK); /* to the best voter */
    assert_true(cluster_leader(&c) != 1);
    cluster_deinit(&c);
}

TEST(leader_transfer_to_up_to_date_node_from_follower)
{
    (void)state;
    start(3);
    assert_int_equal(transfer(2, 3), THOLE_UNAVAILABLE); /* only a leader can; the engine routes */
    assert_leads(1);
    cluster_deinit(&c);
}

TEST(leader_transfer_with_check_quorum)
{
    (void)state;
    start(3); /* check quorum is on: 3 has just heard from 1 */
    cluster_run(&c, 3 * HEARTBEAT_MS);
    assert_int_equal(transfer(1, 2), THOLE_OK);
    assert_leads(2);
    cluster_deinit(&c);
}

TEST(leader_transfer_to_slow_follower)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 5);
    cluster_heal(&c);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    cluster_run(&c, 3 * HEARTBEAT_MS);
    assert_leads(3);
    cluster_deinit(&c);
}

TEST(leader_transfer_after_snapshot)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 5);
    node_compact(&c, 1, node_commit(&c, 1));
    cluster_settle(&c);
    cluster_heal(&c);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    cluster_run(&c, 5 * HEARTBEAT_MS);
    assert_leads(3);
    assert_int_equal(node_status(&c.nodes[3]).first_index, 7);
    cluster_deinit(&c);
}

TEST(leader_transfer_to_self)
{
    (void)state;
    start(3);
    assert_int_equal(transfer(1, 1), THOLE_OK);
    assert_leads(1);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_deinit(&c);
}

TEST(leader_transfer_to_non_existing_node)
{
    (void)state;
    start(3);
    assert_int_equal(transfer(1, 9), THOLE_NOT_FOUND);
    assert_leads(1);
    cluster_deinit(&c);
}

TEST(leader_transfer_to_learner)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1}, 1, (uint64_t[]){2}, 1);
    (void)state;
    cluster_init_config(&c, &config, 1);
    cluster_make_leader(&c, 1);
    assert_int_equal(transfer(1, 2), THOLE_FAILED_PRECONDITION);
    assert_int_equal(transfer(1, 0), THOLE_FAILED_PRECONDITION);
    assert_leads(1);
    cluster_deinit(&c);
}

TEST(leader_transfer_timeout)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 1);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    assert_int_equal(node_status(&c.nodes[1]).transfer_target, 3);
    cluster_run(&c, TIMEOUT_MS - 1);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_UNAVAILABLE);
    cluster_run(&c, 1);
    assert_leads(1);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_deinit(&c);
}

TEST(leader_transfer_ignore_proposal)
{
    struct raft_entry *e = command_new(8);
    struct thole_status st;
    uint64_t first;
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 1);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    assert_int_equal(raft_propose(c.nodes[1].raft, &e, 1, c.now_ms, 0, &first, &st),
                     THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_TRANSFERRING);
    raft_entry_unref(e);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 2);
    assert_int_equal(node_change(&c, 1, &change), THOLE_UNAVAILABLE);
    cluster_deinit(&c);
}

TEST(leader_transfer_receive_higher_term_vote)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 1);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    struct raft_message m = msg(RAFT_MSG_VOTE, 2, node_term(&c, 1) + 1);
    m.transfer = true; /* or it would be ignored while a leader is at work */
    m.index = 9;
    m.log_term = m.term;
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_int_equal(node_status(&c.nodes[1]).transfer_target, 0);
    cluster_deinit(&c);
}

/* The target of a transfer is changed by a change that was under way. */
static void transfer_to_a_changing_node(enum raft_change_op op)
{
    start(3);
    cluster_isolate(&c, 3);
    struct raft_change change = change_one(op, 3);
    c.filter = hold_all;
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    c.filter = NULL;
    cluster_release_held(&c);
    cluster_settle(&c);
    assert_leads(1); /* it cannot lead any more, and with that the transfer has ended */
    assert_int_equal(node_status(&c.nodes[1]).transfer_target, 0);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_deinit(&c);
}

TEST(leader_transfer_remove_node)
{
    (void)state;
    transfer_to_a_changing_node(RAFT_CHANGE_REMOVE);
}

TEST(leader_transfer_demote_node)
{
    (void)state;
    transfer_to_a_changing_node(RAFT_CHANGE_DEMOTE);
}

TEST(leader_transfer_back)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 1);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    assert_int_equal(transfer(1, 1), THOLE_OK); /* changes nothing: it runs out by itself */
    cluster_run(&c, TIMEOUT_MS);
    assert_leads(1);
    cluster_deinit(&c);
}

TEST(leader_transfer_second_transfer_to_another_node)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 1);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    assert_int_equal(transfer(1, 2), THOLE_ABORTED); /* one at a time */
    cluster_run(&c, TIMEOUT_MS);
    assert_int_equal(transfer(1, 2), THOLE_OK);
    assert_leads(2);
    cluster_deinit(&c);
}

TEST(leader_transfer_second_transfer_to_same_node)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 1);
    assert_int_equal(transfer(1, 3), THOLE_OK);
    cluster_run(&c, TIMEOUT_MS / 2);
    assert_int_equal(transfer(1, 3), THOLE_ABORTED); /* and it does not start the time anew */
    cluster_run(&c, TIMEOUT_MS / 2);
    assert_leads(1);
    cluster_deinit(&c);
}

TEST(transfer_non_member)
{
    (void)state;
    start(3);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 3);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    uint64_t term = node_term(&c, 3);
    struct raft_message last = {.kind = RAFT_MSG_HEARTBEAT, .from = 1, .to = 3, .term = term};
    last.commit = node_commit(&c, 1); /* as if on its way when the removal came into force */
    assert_int_equal(node_receive(&c, last), THOLE_OK);
    assert_true(raft_config_is_removed(raft_config(c.nodes[3].raft), 3));
    uint64_t asked = c.sent[RAFT_MSG_VOTE] + c.sent[RAFT_MSG_PREVOTE];
    struct raft_message m = {.kind = RAFT_MSG_TIMEOUT_NOW, .from = 1, .to = 3, .term = term};
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_role(&c, 3), RAFT_FOLLOWER);
    assert_int_equal(node_term(&c, 3), term);
    assert_int_equal(c.sent[RAFT_MSG_VOTE] + c.sent[RAFT_MSG_PREVOTE], asked);
    cluster_deinit(&c);
}

TEST(transfer_through_a_pre_vote_capable_follower)
{
    (void)state;
    start(3);
    cluster_propose(&c, 3);
    /* TIMEOUT_NOW skips PreVote: the others would refuse it while their leader lives. */
    uint64_t before = c.sent[RAFT_MSG_PREVOTE];
    assert_int_equal(transfer(1, 3), THOLE_OK);
    assert_leads(3);
    assert_int_equal(c.sent[RAFT_MSG_PREVOTE], before);
    cluster_deinit(&c);
}

/* The removed leader sends TIMEOUT_NOW with the change, which its successor must write first. */
TEST(removed_leaders_heir_stands_when_the_change_acts)
{
    (void)state;
    cluster_init(&c, 3, 92);
    cluster_make_leader(&c, 1);
    cluster_run(&c, HEARTBEAT_MS);
    c.nodes[2].manual_disk = true;
    c.cut[3][1] = true; /* so that 2 is the successor */
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 1);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_sync(&c, 2, 1), 1); /* the entry */
    cluster_settle(&c);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER); /* it has stepped down */
    assert_int_equal(node_role(&c, 2), RAFT_FOLLOWER);
    assert_int_equal(node_sync(&c, 2, 1), 1); /* the commit index */
    c.nodes[2].manual_disk = false;
    cluster_settle(&c); /* no time passes */
    assert_int_equal(node_role(&c, 2), RAFT_LEADER);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(leader_transfer_to_up_to_date_node),
        RUN(leader_transfer_to_up_to_date_node_from_follower),
        RUN(leader_transfer_with_check_quorum),
        RUN(leader_transfer_to_slow_follower),
        RUN(leader_transfer_after_snapshot),
        RUN(leader_transfer_to_self),
        RUN(leader_transfer_to_non_existing_node),
        RUN(leader_transfer_to_learner),
        RUN(leader_transfer_timeout),
        RUN(leader_transfer_ignore_proposal),
        RUN(leader_transfer_receive_higher_term_vote),
        RUN(leader_transfer_remove_node),
        RUN(leader_transfer_demote_node),
        RUN(leader_transfer_back),
        RUN(leader_transfer_second_transfer_to_another_node),
        RUN(leader_transfer_second_transfer_to_same_node),
        RUN(transfer_non_member),
        RUN(transfer_through_a_pre_vote_capable_follower),
        RUN(removed_leaders_heir_stands_when_the_change_acts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
