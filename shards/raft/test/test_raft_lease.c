/* Lease reads: what makes a lease, and what ends it. Time is given by hand: the logical one of the
 * core and the real one of raft_clock. */
#include "base/clock.h"
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static void lease_all(void)
{
    for (uint64_t id = 1; id <= c.node_count; id++) {
        c.nodes[id].options.lease = true;
        node_restart(&c, id);
    }
    cluster_run(&c, TIMEOUT_MS); /* they may have promised something before they started */
}

/* Node 1 leads two nodes whose messages the test makes. */
static void lead_alone(size_t n)
{
    solo_init(&c, n);
    c.nodes[1].options.lease = true;
    node_restart(&c, 1);
    cluster_run(&c, TIMEOUT_MS);
    solo_lead(&c);
    assert_int_equal(give_ack(&c, 2, node_last(&c, 1)), THOLE_OK);
    for (uint64_t id = 3; id <= n; id++) {
        assert_int_equal(give_ack(&c, id, node_last(&c, 1)), THOLE_OK);
    }
    forget_sent(&c);
}

/* The next heartbeat round leaves; returns its number. */
static uint64_t beat(void)
{
    forget_sent(&c);
    cluster_run(&c, HEARTBEAT_MS);
    assert_non_null(sent(&c, RAFT_MSG_HEARTBEAT, 2));
    return sent(&c, RAFT_MSG_HEARTBEAT, 2)->context;
}

static void answer_beat(uint64_t from, uint64_t round, uint64_t promise_ms)
{
    struct raft_message m = msg(RAFT_MSG_HEARTBEAT_REPLY, from, node_term(&c, 1));

    m.context = round;
    m.hint = promise_ms;
    assert_int_equal(give(&c, m), THOLE_OK);
}

/* Does a read get its answer without a word from anybody? */
static bool serves(uint64_t id)
{
    static uint64_t context;
    struct raft_read_result read;

    context++;
    assert_int_equal(raft_read(c.nodes[id].raft, context, c.now_ms, NULL), THOLE_OK);
    size_t before = c.sent[RAFT_MSG_HEARTBEAT];
    cluster_settle(&c);
    bool served = node_take_read(&c.nodes[id], context, &read) && !read.failed;
    assert_true(served == (c.sent[RAFT_MSG_HEARTBEAT] == before)); /* or a round is opened */
    return served;
}

TEST(lease_starts_when_the_round_left)
{
    (void)state;
    lead_alone(3);
    uint64_t round = beat();
    cluster_run(&c, 79); /* the answer takes its time */
    answer_beat(2, round, TIMEOUT_MS - 1);
    assert_true(serves(1)); /* 99 ms less 20% from when it was sent: 79.2 ms */
    cluster_run(&c, 1);
    assert_false(serves(1));
    cluster_deinit(&c);
}

TEST(lease_needs_a_quorum_of_promises)
{
    (void)state;
    lead_alone(5);
    uint64_t round = beat();
    assert_false(serves(1));
    answer_beat(2, round, TIMEOUT_MS - 1);
    assert_false(serves(1));
    answer_beat(3, round, 0); /* it confirms reads, and promises nothing */
    assert_false(serves(1));
    answer_beat(4, round, TIMEOUT_MS - 1);
    assert_true(serves(1));
    cluster_deinit(&c);
}

TEST(lease_is_no_longer_than_the_shortest_promise)
{
    (void)state;
    lead_alone(3);
    answer_beat(2, beat(), 50);
    cluster_run(&c, 39);
    assert_true(serves(1));
    cluster_run(&c, 1);
    assert_false(serves(1));
    /* no hint makes it longer than the leader's own timeout */
    answer_beat(2, beat(), UINT64_MAX / 8);
    cluster_run(&c, TIMEOUT_MS * 8 / 10);
    assert_false(serves(1));
    cluster_deinit(&c);
}

TEST(lease_of_an_old_round_is_not_counted_from_a_new_one)
{
    (void)state;
    lead_alone(3);
    uint64_t old = beat();
    for (int i = 0; i < 9; i++) {
        answer_beat(3, beat(), 0); /* keeps the leadership, promises nothing */
    }
    answer_beat(2, old, TIMEOUT_MS - 1);
    assert_false(serves(1)); /* it left 90 ms ago */
    cluster_deinit(&c);
}

TEST(lease_of_a_round_that_is_forgotten_is_not_counted)
{
    (void)state;
    lead_alone(3);
    uint64_t old = beat();
    cluster_run(&c, 5);
    for (int i = 0; i < 2 * RAFT_LEASE_ROUNDS; i++) {
        assert_false(serves(1)); /* a round for each */
    }
    answer_beat(2, old, TIMEOUT_MS - 1);
    assert_false(serves(1));
    cluster_deinit(&c);
}

TEST(lease_read_before_the_commit_of_the_term_is_parked)
{
    struct raft_read_result read;
    (void)state;
    solo_init(&c, 3);
    c.nodes[1].options.lease = true;
    node_restart(&c, 1);
    cluster_run(&c, TIMEOUT_MS);
    solo_lead(&c);
    answer_beat(2, beat(), TIMEOUT_MS - 1);
    assert_int_equal(raft_read(c.nodes[1].raft, 77, c.now_ms, NULL), THOLE_OK);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK); /* something to harvest */
    cluster_settle(&c);
    assert_false(node_take_read(&c.nodes[1], 77, &read));
    assert_int_equal(give_ack(&c, 2, node_last(&c, 1)), THOLE_OK);
    assert_true(node_take_read(&c.nodes[1], 77, &read));
    assert_false(read.failed);
    cluster_deinit(&c);
}

TEST(lease_needs_a_clock_read_after_the_question)
{
    struct raft_update u;
    (void)state;
    lead_alone(3);
    answer_beat(2, beat(), TIMEOUT_MS - 1);
    assert_true(serves(1));
    assert_int_equal(raft_read(c.nodes[1].raft, 78, c.now_ms, NULL), THOLE_OK);
    raft_harvest(c.nodes[1].raft, &u); /* without raft_clock */
    assert_int_equal(u.read_count, 0);
    assert_int_equal(u.messages[0].kind, RAFT_MSG_HEARTBEAT);
    cluster_deinit(&c);
}

TEST(lease_is_void_after_a_transfer_even_if_it_is_given_up)
{
    (void)state;
    lead_alone(3);
    answer_beat(2, beat(), TIMEOUT_MS - 1);
    assert_int_equal(raft_transfer(c.nodes[1].raft, 2, c.now_ms, NULL), THOLE_OK);
    cluster_settle(&c);
    assert_non_null(sent(&c, RAFT_MSG_TIMEOUT_NOW, 2));
    assert_false(serves(1));
    for (uint64_t ms = 0; ms < 2 * TIMEOUT_MS; ms += HEARTBEAT_MS) {
        answer_beat(2, beat(), TIMEOUT_MS - 1);
    }
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_int_equal(node_status(&c.nodes[1]).transfer_target, 0); /* given up */
    assert_false(serves(1)); /* TIMEOUT_NOW may still arrive */
    cluster_deinit(&c);
}

TEST(lease_survives_a_transfer_that_was_never_sent)
{
    (void)state;
    lead_alone(3);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(raft_transfer(c.nodes[1].raft, 2, c.now_ms, NULL), THOLE_OK);
    answer_beat(2, beat(), TIMEOUT_MS - 1); /* it is behind: no TIMEOUT_NOW */
    assert_null(sent(&c, RAFT_MSG_TIMEOUT_NOW, 2));
    assert_true(serves(1));
    cluster_deinit(&c);
}

TEST(lease_ends_with_a_hung_disk)
{
    (void)state;
    lead_alone(3);
    answer_beat(2, beat(), TIMEOUT_MS - 1);
    c.nodes[1].manual_disk = true;
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    raft_clock(c.nodes[1].raft, c.now_ms * NS_PER_MS + c.nodes[1].clock_ahead_ns);
    assert_true(raft__lease_valid(c.nodes[1].raft));
    raft__begin(c.nodes[1].raft, c.now_ms + TIMEOUT_MS); /* logical time; the clock stands still */
    assert_false(raft__lease_valid(c.nodes[1].raft));
    cluster_deinit(&c);
}

/* Its logical time has moved by a heartbeat interval at most, the clock tells what really
 * passed. */
TEST(lease_of_a_stalled_loop_has_ended)
{
    (void)state;
    lead_alone(3);
    answer_beat(2, beat(), TIMEOUT_MS - 1);
    assert_true(serves(1));
    c.nodes[1].clock_ahead_ns += TIMEOUT_MS * NS_PER_MS;
    assert_false(serves(1));
    cluster_deinit(&c);
}

/* What counts is the configuration when the read is answered. */
TEST(lease_is_counted_under_the_configuration_in_force)
{
    (void)state;
    uint64_t ids[] = {1, 2, 3, 4, 5};
    AUTO_CONFIG config = config_of(ids, 5, NULL, 0);
    cluster_init_config(&c, &config, 5);
    lease_all();
    cluster_make_leader(&c, 1);
    cluster_run(&c, HEARTBEAT_MS);
    assert_true(serves(1));
    /* 4 and 5 are gone, 2 and 3 answer: a quorum of five, and of three. */
    cluster_isolate(&c, 4);
    cluster_isolate(&c, 5);
    cluster_run(&c, 2 * TIMEOUT_MS);
    assert_true(serves(1));
    /* 2 and 3 leave one by one: the nodes that promised are no quorum of {1, 4, 5}. */
    c.cut[1][4] = c.cut[4][1] = false; /* or nothing could be committed */
    cluster_run(&c, 2 * HEARTBEAT_MS);
    for (uint64_t id = 2; id <= 3; id++) {
        struct raft_change change = change_one(RAFT_CHANGE_REMOVE, id);
        change.revision = id;
        assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
        cluster_run(&c, HEARTBEAT_MS);
    }
    assert_true(serves(1)); /* 1 and 4 of {1, 4, 5} */
    cluster_isolate(&c, 4);
    cluster_run(&c, TIMEOUT_MS * 8 / 10 + HEARTBEAT_MS);
    assert_true(node_role(&c, 1) != RAFT_LEADER || !serves(1));
    cluster_deinit(&c);
}

TEST(voter_keeps_its_promise)
{
    (void)state;
    static const uint64_t terms[] = {1};
    solo_init(&c, 3);
    c.nodes[1].options.lease = true;
    node_restart(&c, 1);
    struct raft_message vote = msg(RAFT_MSG_VOTE, 3, 5);
    vote.index = 9;
    vote.log_term = 4;
    struct raft_message pre = vote;
    pre.kind = RAFT_MSG_PREVOTE;

    /* It may have promised something before it started. */
    cluster_run(&c, TIMEOUT_MS - 1);
    assert_int_equal(give(&c, vote), THOLE_OK);
    assert_int_equal(give(&c, pre), THOLE_OK);
    assert_int_equal(node_term(&c, 1), 0);
    cluster_run(&c, 1);
    assert_int_equal(give(&c, pre), THOLE_OK);
    assert_false(sent(&c, RAFT_MSG_PREVOTE_REPLY, 3)->reject);

    /* A message of a later term makes the voter forget the leader, but not its promise. */
    assert_int_equal(give(&c, append_msg(2, 1, 0, 0, 0, terms, 1)), THOLE_OK);
    struct raft_message later = msg(RAFT_MSG_APPEND_REPLY, 3, 5);
    later.reject = true;
    assert_int_equal(give(&c, later), THOLE_OK);
    assert_int_equal(node_term(&c, 1), 5);
    assert_int_equal(node_status(&c.nodes[1]).leader, 0);
    cluster_run(&c, TIMEOUT_MS - 1);
    forget_sent(&c);
    assert_int_equal(give(&c, vote), THOLE_OK); /* of its own term, in which it has not voted */
    assert_int_equal(sent_count(&c, RAFT_MSG_VOTE_REPLY), 0);
    vote.transfer = true; /* the old leader itself asked for it */
    assert_int_equal(give(&c, vote), THOLE_OK);
    assert_false(sent(&c, RAFT_MSG_VOTE_REPLY, 3)->reject);
    cluster_deinit(&c);
}

TEST(voter_does_not_campaign_against_its_promise)
{
    (void)state;
    cluster_init(&c, 3, 4);
    lease_all();
    cluster_make_leader(&c, 1);
    raft_campaign(c.nodes[2].raft, c.now_ms);
    assert_int_equal(node_role(&c, 2), RAFT_FOLLOWER);
    /* The only voter waits too: a leader of a larger configuration may rely on its promise. */
    cluster_deinit(&c);
    cluster_init(&c, 1, 4);
    c.nodes[1].options.lease = true;
    node_restart(&c, 1);
    cluster_run(&c, TIMEOUT_MS - 1);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    cluster_run(&c, 1);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    assert_true(serves(1));
    cluster_deinit(&c);
}

TEST(lease_without_the_check_of_the_quorum_is_refused)
{
    struct raft *r = NULL;
    struct raft_config config = {0};
    (void)state;
    struct raft_options o = {.replica_id = 1, .election_timeout_ms = 30, .heartbeat_ms = 10};
    struct raft_boot b = {.config = &config};
    o.lease = true;
    assert_int_equal(raft_new(&o, &b, &r, NULL), THOLE_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(lease_starts_when_the_round_left),
        RUN(lease_needs_a_quorum_of_promises),
        RUN(lease_is_no_longer_than_the_shortest_promise),
        RUN(lease_of_an_old_round_is_not_counted_from_a_new_one),
        RUN(lease_of_a_round_that_is_forgotten_is_not_counted),
        RUN(lease_read_before_the_commit_of_the_term_is_parked),
        RUN(lease_needs_a_clock_read_after_the_question),
        RUN(lease_is_void_after_a_transfer_even_if_it_is_given_up),
        RUN(lease_survives_a_transfer_that_was_never_sent),
        RUN(lease_ends_with_a_hung_disk),
        RUN(lease_of_a_stalled_loop_has_ended),
        RUN(lease_is_counted_under_the_configuration_in_force),
        RUN(voter_keeps_its_promise),
        RUN(voter_does_not_campaign_against_its_promise),
        RUN(lease_without_the_check_of_the_quorum_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
