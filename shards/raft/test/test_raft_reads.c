/* Linearizable reads: ReadIndex on leaders, followers and learners. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static void start(size_t n)
{
    cluster_init(&c, n, 41);
    cluster_make_leader(&c, 1);
}

static enum thole_code ask(uint64_t id, uint64_t context)
{
    return raft_read(c.nodes[id].raft, context, c.now_ms, NULL);
}

static void assert_read(uint64_t id, uint64_t context, uint64_t index)
{
    struct raft_read_result r;

    assert_true(node_take_read(&c.nodes[id], context, &r));
    assert_false(r.failed);
    assert_int_equal(r.index, index);
}

static void assert_failed(uint64_t id, uint64_t context)
{
    struct raft_read_result r;

    assert_true(node_take_read(&c.nodes[id], context, &r));
    assert_true(r.failed);
}

static enum thole_code beat_reply(uint64_t from, uint64_t context)
{
    struct raft_message m = msg(RAFT_MSG_HEARTBEAT_REPLY, from, node_term(&c, 1));

    m.context = context;
    return give(&c, m);
}

TEST(read_only_option_safe)
{
    (void)state;
    start(3);
    for (uint64_t id = 1; id <= 3; id++) {
        cluster_propose(&c, 10);
        assert_int_equal(ask(id, 100 + id), THOLE_OK);
        cluster_settle(&c);
        assert_read(id, 100 + id, 1 + 10 * id);
    }
    cluster_deinit(&c);
}

TEST(read_only_with_learner)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1}, 1, (uint64_t[]){2}, 1);
    (void)state;
    cluster_init_config(&c, &config, 1);
    cluster_make_leader(&c, 1);
    cluster_propose(&c, 4);
    for (uint64_t id = 1; id <= 2; id++) {
        assert_int_equal(ask(id, id), THOLE_OK);
        cluster_settle(&c);
        assert_read(id, id, 5);
    }
    cluster_deinit(&c);
}

TEST(read_index)
{
    (void)state;
    start(1); /* a single voter needs no answer */
    cluster_propose(&c, 3);
    assert_int_equal(ask(1, 7), THOLE_OK);
    cluster_settle(&c);
    assert_read(1, 7, 4);
    cluster_deinit(&c);
}

TEST(read_only_for_new_leader)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    assert_int_equal(ask(1, 1), THOLE_OK);
    cluster_settle(&c);
    (void)beat_reply(2, 0);
    assert_int_equal(sent_count(&c, RAFT_MSG_HEARTBEAT), 0); /* parked */
    (void)give_ack(&c, 2, 1);
    const struct raft_message *beat = sent(&c, RAFT_MSG_HEARTBEAT, 2);
    assert_non_null(beat);
    (void)beat_reply(2, beat->context);
    assert_read(1, 1, 1);
    cluster_deinit(&c);
}

/* Two reads with the same context from a client, and late answers to old rounds: a round confirms
 * only what was asked before it. */
TEST(read_only_duplicate_request)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(ask(1, 5), THOLE_OK);
    cluster_settle(&c);
    uint64_t first = sent(&c, RAFT_MSG_HEARTBEAT, 2)->context;
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 2, 2);
    assert_int_equal(ask(1, 5), THOLE_OK); /* again, after the write */
    cluster_settle(&c);
    (void)beat_reply(2, first); /* the late answer */
    assert_read(1, 5, 1);
    struct raft_read_result r;
    assert_false(node_take_read(&c.nodes[1], 5, &r)); /* does not confirm the second */
    (void)beat_reply(3, first + 1);
    assert_read(1, 5, 2);
    cluster_deinit(&c);
}

TEST(one_round_confirms_all_earlier_reads)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    forget_sent(&c);
    for (uint64_t i = 0; i < 50; i++) {
        assert_int_equal(ask(1, i), THOLE_OK);
    }
    cluster_settle(&c);
    assert_int_equal(sent_count(&c, RAFT_MSG_HEARTBEAT), 2); /* one per voter, not per read */
    assert_int_equal(ask(1, 50), THOLE_OK);
    cluster_settle(&c);
    uint64_t last = sent(&c, RAFT_MSG_HEARTBEAT, 3)->context;
    (void)beat_reply(3, last);
    for (uint64_t i = 0; i <= 50; i++) {
        assert_read(1, i, 1);
    }
    assert_int_equal(beat_reply(3, last + 1), THOLE_INVALID_ARGUMENT);
    cluster_deinit(&c);
}

TEST(lost_round_is_repeated_by_the_heartbeat)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(ask(1, 1), THOLE_OK);
    cluster_settle(&c);
    uint64_t round = sent(&c, RAFT_MSG_HEARTBEAT, 2)->context;
    forget_sent(&c);
    cluster_run(&c, HEARTBEAT_MS);
    assert_int_equal(sent(&c, RAFT_MSG_HEARTBEAT, 2)->context, round);
    cluster_deinit(&c);
}

TEST(follower_reads_are_batched_and_forwarded)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    for (uint64_t i = 0; i < 5; i++) {
        assert_int_equal(ask(1, i), THOLE_OK);
    }
    cluster_settle(&c);
    assert_int_equal(sent_count(&c, RAFT_MSG_READ), 1);
    struct raft_message m = msg(RAFT_MSG_READ_REPLY, 2, 0);
    m.context = sent(&c, RAFT_MSG_READ, 2)->context;
    assert_int_equal(sent(&c, RAFT_MSG_READ, 2)->term, 0);
    m.index = 9;
    (void)give(&c, m);
    for (uint64_t i = 0; i < 5; i++) {
        assert_read(1, i, 9);
    }
    cluster_deinit(&c);
}

TEST(read_index_to_old_leader)
{
    (void)state;
    start(3);
    cluster_isolate(&c, 1);
    cluster_run(&c, 3 * HEARTBEAT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER); /* it does not know better yet */
    uint64_t next = 0;
    raft__become_follower(c.nodes[2].raft, node_term(&c, 2), 0);
    raft__become_follower(c.nodes[3].raft, node_term(&c, 3), 0);
    cluster_make_leader(&c, 2);
    next = 2;
    assert_int_equal(ask(1, 1), THOLE_OK);
    cluster_settle(&c);
    struct raft_read_result r;
    assert_false(node_take_read(&c.nodes[1], 1, &r));
    assert_int_equal(ask(3, 3), THOLE_OK);
    cluster_settle(&c);
    assert_read(3, 3, node_commit(&c, next));
    cluster_heal(&c);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_failed(1, 1); /* not left hanging */
    cluster_deinit(&c);
}

TEST(reads_fail_after_two_timeouts)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    c.nodes[1].raft->removed = true; /* so that it does not campaign meanwhile */
    raft__rearm_election(c.nodes[1].raft);
    assert_int_equal(ask(1, 1), THOLE_OK);
    for (int i = 0; i < 21; i++) {
        cluster_run(&c, HEARTBEAT_MS);
        (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    }
    assert_failed(1, 1);
    cluster_deinit(&c);
}

TEST(reads_without_a_leader_are_refused)
{
    struct thole_status st;
    (void)state;
    solo_init(&c, 3);
    assert_int_equal(raft_read(c.nodes[1].raft, 1, c.now_ms, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_NO_LEADER);
    cluster_deinit(&c);
}

TEST(read_sent_to_a_follower_is_rejected)
{
    (void)state;
    solo_init(&c, 3);
    struct raft_message m = msg(RAFT_MSG_READ, 2, 0);
    m.context = 77;
    (void)give(&c, m);
    assert_true(sent(&c, RAFT_MSG_READ_REPLY, 2)->reject);
    assert_int_equal(sent(&c, RAFT_MSG_READ_REPLY, 2)->context, 77);
    cluster_deinit(&c);
}

TEST(raft_frees_read_only_mem)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    for (uint64_t i = 0; i < 200; i++) {
        assert_int_equal(ask(1, i), THOLE_OK);
    }
    cluster_settle(&c);
    (void)beat_reply(2, c.nodes[1].raft->read_number);
    assert_int_equal(c.nodes[1].raft->awake->reads.count, 0);
    assert_null(c.nodes[1].raft->awake->reads.queue);
    cluster_deinit(&c);
}

TEST(reads_are_bounded)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    for (uint64_t i = 0; i < RAFT_READS_MAX; i++) {
        assert_int_equal(ask(1, i), THOLE_OK);
    }
    assert_int_equal(ask(1, 1), THOLE_RESOURCE_EXHAUSTED);
    struct raft_message m = msg(RAFT_MSG_READ, 2, 0);
    (void)give(&c, m);
    assert_true(sent(&c, RAFT_MSG_READ_REPLY, 2)->reject);
    raft_free(c.nodes[1].raft);
    c.nodes[1].raft = NULL;
    cluster_deinit(&c);
}

TEST(read_when_quorum_becomes_less)
{
    (void)state;
    solo_init(&c, 2);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(ask(1, 1), THOLE_OK);
    cluster_settle(&c);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 2);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 2, 2); /* commits the removal: 1 is the only voter now */
    assert_read(1, 1, 1);
    cluster_deinit(&c);
}

TEST(answers_to_an_earlier_life_are_ignored)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    assert_int_equal(ask(1, 1), THOLE_OK);
    cluster_settle(&c);
    struct raft_message m = msg(RAFT_MSG_READ_REPLY, 2, 0);
    m.context = sent(&c, RAFT_MSG_READ, 2)->context;
    for (int i = 0; i < 100; i++) {
        node_restart(&c, 1);
        (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
        assert_int_equal(ask(1, 2), THOLE_OK);
        cluster_settle(&c);
        (void)give(&c, m);
        struct raft_read_result r;
        assert_false(node_take_read(&c.nodes[1], 2, &r));
    }
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(read_only_option_safe),
        RUN(read_only_with_learner),
        RUN(read_index),
        RUN(read_only_for_new_leader),
        RUN(read_only_duplicate_request),
        RUN(one_round_confirms_all_earlier_reads),
        RUN(lost_round_is_repeated_by_the_heartbeat),
        RUN(follower_reads_are_batched_and_forwarded),
        RUN(read_index_to_old_leader),
        RUN(reads_fail_after_two_timeouts),
        RUN(reads_without_a_leader_are_refused),
        RUN(read_sent_to_a_follower_is_rejected),
        RUN(raft_frees_read_only_mem),
        RUN(reads_are_bounded),
        RUN(read_when_quorum_becomes_less),
        RUN(answers_to_an_earlier_life_are_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
