/* Snapshots and compaction. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static struct raft_status status(uint64_t id)
{
    return node_status(&c.nodes[id]);
}

static bool install(uint64_t from, uint64_t term, uint64_t index, uint64_t index_term,
                    const struct raft_config *config)
{
    bool done = false;
    enum thole_code code =
        raft_snapshot_received(c.nodes[1].raft, from, term, index, index_term,
                               (struct raft_stamp){0}, config, c.now_ms, &done, NULL);

    assert_int_equal(code, THOLE_OK);
    cluster_settle(&c);
    return done;
}

static struct raft_config three(void)
{
    return config_of((uint64_t[]){1, 2, 3}, 3, NULL, 0);
}

/* Node 1 leads; its log starts after 11; node 2 is at 0 and must have a snapshot. */
static void lead_compacted(void)
{
    AUTO_CONFIG config = three();

    solo_init(&c, 3);
    assert_true(install(3, 11, 11, 11, &config));
    solo_lead(&c);
    c.nodes[1].manual_snapshot = true;
}

static enum thole_code reject_from_2(void)
{
    struct raft_message m = msg(RAFT_MSG_APPEND_REPLY, 2, status(1).term);

    m.reject = true;
    m.index = peer_of(&c, 1, 2).next - 1;
    return give(&c, m);
}

TEST(restore)
{
    AUTO_CONFIG config = three();
    (void)state;
    solo_init(&c, 3);
    assert_true(install(2, 11, 11, 11, &config));
    assert_int_equal(status(1).last_index, 11);
    assert_int_equal(status(1).commit, 11);
    assert_int_equal(term_of(&c, 1, 11), 11);
    assert_int_equal(c.nodes[1].disk.start_index, 11);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 2)->index, 11);
    assert_false(install(2, 11, 11, 11, &config)); /* again */
    cluster_deinit(&c);
}

TEST(snapshot_ack_waits_until_it_is_durable)
{
    AUTO_CONFIG config = three();
    (void)state;
    solo_init(&c, 3);
    c.nodes[1].manual_disk = true;
    assert_true(install(2, 11, 11, 11, &config));
    assert_int_equal(c.held_count, 0);
    raft_campaign(c.nodes[1].raft, c.now_ms); /* not while it is pending */
    assert_int_equal(status(1).role, RAFT_FOLLOWER);
    (void)node_sync(&c, 1, SIZE_MAX);
    cluster_settle(&c);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 2)->index, 11);
    cluster_deinit(&c);
}

TEST(restore_with_learner)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1, 2}, 2, (uint64_t[]){3}, 1);
    (void)state;
    solo_init(&c, 3);
    assert_true(install(2, 11, 11, 11, &config));
    assert_true(raft_config_equal(raft_config(c.nodes[1].raft), &config));
    cluster_deinit(&c);
}

TEST(restore_with_voters_outgoing)
{
    AUTO_CONFIG config = three();
    (void)state;
    config.joint = true;
    config.auto_leave = true;
    config.members[0].outgoing_role = RAFT_VOTER;
    config.members[1].outgoing_role = RAFT_VOTER;
    solo_init(&c, 3);
    assert_true(install(2, 11, 11, 11, &config));
    assert_true(raft_config(c.nodes[1].raft)->joint);
    node_restart(&c, 1); /* it survives a restart too */
    assert_true(raft_config_equal(raft_config(c.nodes[1].raft), &config));
    cluster_deinit(&c);
}

TEST(restore_voter_to_learner)
{
    AUTO_CONFIG config = config_of((uint64_t[]){2, 3}, 2, (uint64_t[]){1}, 1);
    (void)state;
    solo_init(&c, 3);
    assert_true(install(2, 11, 11, 11, &config));
    cluster_run(&c, 4 * TIMEOUT_MS); /* forgets its leader, and does not campaign */
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_int_equal(status(1).leader, 0);
    assert_int_equal(status(1).term, 11);
    cluster_deinit(&c);
}

TEST(restore_learner_promotion)
{
    AUTO_CONFIG before = config_of((uint64_t[]){2, 3}, 2, (uint64_t[]){1}, 1);
    AUTO_CONFIG after = three();
    (void)state;
    solo_init_config(&c, &before);
    cluster_run(&c, 2 * TIMEOUT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_FOLLOWER);
    assert_true(install(2, 11, 11, 11, &after));
    cluster_run(&c, 2 * TIMEOUT_MS);
    assert_int_equal(node_role(&c, 1), RAFT_PRE_CANDIDATE);
    cluster_deinit(&c);
}

TEST(restore_ignore_snapshot)
{
    AUTO_CONFIG config = three();
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, append_msg(2, 1, 0, 0, 1, (uint64_t[]){1, 1, 1}, 3));
    assert_false(install(2, 1, 1, 1, &config)); /* behind the commit index */
    assert_int_equal(status(1).commit, 1);
    assert_false(install(2, 1, 2, 1, &config)); /* the log has it: only the commit index moves */
    assert_int_equal(status(1).commit, 2);
    assert_int_equal(status(1).last_index, 3);
    cluster_deinit(&c);
}

TEST(restore_from_snap_msg)
{
    AUTO_CONFIG config = three();
    (void)state;
    solo_init(&c, 3);
    solo_campaign(&c);
    assert_int_equal(status(1).role, RAFT_CANDIDATE);
    assert_true(install(2, 2, 11, 2, &config));
    assert_int_equal(status(1).role, RAFT_FOLLOWER);
    assert_int_equal(status(1).leader, 2);
    assert_int_equal(status(1).term, 2);
    forget_sent(&c);
    assert_false(install(3, 1, 20, 1, &config)); /* of a deposed leader */
    assert_true(sent(&c, RAFT_MSG_APPEND_REPLY, 3)->reject);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 3)->term, 2);
    cluster_deinit(&c);
}

TEST(snapshot_replaces_a_conflicting_log)
{
    AUTO_CONFIG config = three();
    (void)state;
    solo_init(&c, 3);
    c.nodes[1].manual_disk = true;
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1, 1, 1}, 3));
    assert_true(install(3, 2, 2, 2, &config));
    (void)give(&c, append_msg(3, 2, 2, 2, 2, (uint64_t[]){2}, 1));
    (void)node_sync(&c, 1, 1); /* the write of the old log */
    assert_int_equal(status(1).durable_index, 0);
    (void)node_sync(&c, 1, SIZE_MAX);
    cluster_settle(&c);
    assert_int_equal(status(1).durable_index, 3);
    assert_int_equal(c.nodes[1].disk.start_index, 2);
    assert_int_equal(c.nodes[1].disk.count, 1);
    cluster_deinit(&c);
}

TEST(snapshot_arguments_are_checked)
{
    AUTO_CONFIG config = three();
    bool done = true;
    (void)state;
    solo_init(&c, 3);
    struct raft *r = c.nodes[1].raft;
    assert_int_equal(
        raft_snapshot_received(r, 2, 1, 0, 1, (struct raft_stamp){0}, &config, 0, &done, NULL),
        THOLE_INVALID_ARGUMENT);
    assert_int_equal(
        raft_snapshot_received(r, 2, 1, 5, 2, (struct raft_stamp){0}, &config, 0, &done, NULL),
        THOLE_INVALID_ARGUMENT);
    assert_int_equal(
        raft_snapshot_received(r, 1, 1, 5, 1, (struct raft_stamp){0}, &config, 0, &done, NULL),
        THOLE_INVALID_ARGUMENT);
    config.members[0].role = 9;
    assert_int_equal(
        raft_snapshot_received(r, 2, 1, 5, 1, (struct raft_stamp){0}, &config, 0, &done, NULL),
        THOLE_INVALID_ARGUMENT);
    config.member_count = 0;
    assert_int_equal(
        raft_snapshot_received(r, 2, 1, 5, 1, (struct raft_stamp){0}, &config, 0, &done, NULL),
        THOLE_INVALID_ARGUMENT);
    assert_int_equal(status(1).term, 0);
    cluster_deinit(&c);
}

TEST(sending_snapshot_set_pending_snapshot)
{
    (void)state;
    lead_compacted();
    (void)reject_from_2();
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_SNAPSHOT);
    assert_int_equal(c.nodes[1].need_snapshot.peer, 2);
    assert_int_equal(c.nodes[1].need_snapshot.min_index, 11);
    cluster_deinit(&c);
}

TEST(provide_snap)
{
    (void)state;
    lead_compacted();
    assert_int_equal(c.nodes[1].need_snapshot_count, 0);
    (void)reject_from_2();
    assert_int_equal(c.nodes[1].need_snapshot_count, 1);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT_REPLY, 2, status(1).term));
    assert_int_equal(c.nodes[1].need_snapshot_count, 1); /* asked once */
    cluster_deinit(&c);
}

TEST(ignore_providing_snap)
{
    (void)state;
    lead_compacted();
    struct raft_progress *p = raft__peer(c.nodes[1].raft, 2);
    p->next = 5;
    p->paused = false;
    p->recently_active = false;
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(c.nodes[1].need_snapshot_count, 0); /* the member does not answer */
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT_REPLY, 2, status(1).term));
    assert_int_equal(c.nodes[1].need_snapshot_count, 1);
    cluster_deinit(&c);
}

TEST(pending_snapshot_pause_replication)
{
    (void)state;
    lead_compacted();
    (void)reject_from_2();
    forget_sent(&c);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_null(sent(&c, RAFT_MSG_APPEND, 2));
    cluster_deinit(&c);
}

TEST(snapshot_failure)
{
    (void)state;
    lead_compacted();
    (void)reject_from_2();
    raft_snapshot_sent(c.nodes[1].raft, 2, 11, false);
    cluster_settle(&c);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_PROBE);
    assert_int_equal(c.nodes[1].need_snapshot_count, 1); /* waits for a sign of life */
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT_REPLY, 2, status(1).term));
    assert_int_equal(c.nodes[1].need_snapshot_count, 2);
    cluster_deinit(&c);
}

TEST(snapshot_succeed)
{
    (void)state;
    lead_compacted();
    (void)reject_from_2();
    raft_snapshot_sent(c.nodes[1].raft, 2, 11, true);
    cluster_settle(&c);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_PROBE);
    assert_int_equal(peer_of(&c, 1, 2).next, 12);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->index, 11);
    cluster_deinit(&c);
}

TEST(snapshot_abort)
{
    (void)state;
    lead_compacted();
    (void)reject_from_2();
    (void)give_ack(&c, 2, 11); /* it got there by another way */
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_REPLICATE);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->index, 11);
    raft_snapshot_sent(c.nodes[1].raft, 2, 11, false); /* too late to matter */
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_REPLICATE);
    cluster_deinit(&c);
}

TEST(snapshot_succeed_via_app_resp)
{
    (void)state;
    lead_compacted();
    (void)reject_from_2();
    (void)give_ack(&c, 2, status(1).last_index);
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_REPLICATE);
    assert_int_equal(peer_of(&c, 1, 2).match, status(1).last_index);
    cluster_deinit(&c);
}

TEST(snapshot_succeed_via_app_resp_behind)
{
    (void)state;
    lead_compacted();
    for (int i = 0; i < 5; i++) {
        assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    }
    (void)reject_from_2();
    (void)give_ack(&c, 2, 10); /* an older snapshot: before the log start */
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_SNAPSHOT);
    (void)give_ack(&c, 2, 12); /* enough, although a newer snapshot may be under way */
    assert_int_equal(peer_of(&c, 1, 2).state, RAFT_REPLICATE);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->index, 12);
    cluster_deinit(&c);
}

TEST(slow_node_restore)
{
    (void)state;
    cluster_init(&c, 3, 1);
    cluster_make_leader(&c, 1);
    cluster_isolate(&c, 3);
    cluster_propose(&c, 100);
    node_compact(&c, 1, node_commit(&c, 1));
    node_compact(&c, 2, node_commit(&c, 2));
    cluster_settle(&c);
    cluster_heal(&c);
    cluster_run(&c, 5 * HEARTBEAT_MS);
    cluster_propose(&c, 1);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_int_equal(c.nodes[3].disk.start_index, 101);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(slow_follower_after_compaction)
{
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    (void)give_ack(&c, 2, 1);
    (void)give_ack(&c, 3, 1);
    c.nodes[1].manual_snapshot = true;
    for (int i = 0; i < LIMIT_INFLIGHT_MESSAGES + 10; i++) { /* 3's window is full */
        assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
        cluster_settle(&c);
        (void)give_ack(&c, 2, status(1).last_index);
    }
    uint64_t next = peer_of(&c, 1, 3).next;
    assert_true(next < status(1).last_index);
    node_compact(&c, 1, status(1).applied);
    cluster_settle(&c);
    forget_sent(&c);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT_REPLY, 3, status(1).term));
    assert_null(sent(&c, RAFT_MSG_APPEND, 3)); /* no empty append with an unreadable term */
    assert_int_equal(peer_of(&c, 1, 3).state, RAFT_SNAPSHOT);
    cluster_deinit(&c);
}

TEST(learner_receive_snapshot)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1}, 1, (uint64_t[]){2}, 1);
    (void)state;
    cluster_init_config(&c, &config, 1);
    cluster_make_leader(&c, 1);
    cluster_isolate(&c, 2);
    cluster_propose(&c, 20);
    node_compact(&c, 1, 15);
    cluster_settle(&c);
    cluster_heal(&c);
    cluster_run(&c, 5 * HEARTBEAT_MS);
    cluster_assert_converged(&c);
    assert_int_equal(c.nodes[2].disk.start_index, 21);
    cluster_deinit(&c);
}

TEST(compact_is_bounded_by_what_is_applied)
{
    (void)state;
    cluster_init(&c, 1, 1);
    cluster_make_leader(&c, 1);
    c.nodes[1].manual_apply = true;
    cluster_propose(&c, 10);
    node_compact(&c, 1, 5); /* not applied yet */
    assert_int_equal(status(1).first_index, 1);
    node_apply(&c, 1);
    node_compact(&c, 1, 5);
    assert_int_equal(status(1).first_index, 6);
    node_compact(&c, 1, 3);
    assert_int_equal(status(1).first_index, 6); /* never backwards */
    cluster_settle(&c);
    assert_int_equal(c.nodes[1].disk.start_index, 5);
    assert_int_equal(c.nodes[1].disk.hard.commit, 11);
    assert_null(raft_config_at(c.nodes[1].raft, 4));
    assert_non_null(raft_config_at(c.nodes[1].raft, 5));
    node_restart(&c, 1);
    assert_int_equal(status(1).last_index, 11);
    cluster_deinit(&c);
}

TEST(restart_from_snapshot)
{
    (void)state;
    cluster_init(&c, 3, 1);
    cluster_make_leader(&c, 1);
    cluster_propose(&c, 30);
    cluster_run(&c, HEARTBEAT_MS);
    for (uint64_t id = 1; id <= 3; id++) {
        node_compact(&c, id, 10 * id);
        cluster_settle(&c);
        node_restart(&c, id);
        assert_int_equal(status(id).first_index, 10 * id + 1);
    }
    (void)cluster_elect(&c, 10 * TIMEOUT_MS);
    cluster_propose(&c, 5);
    cluster_run(&c, 5 * HEARTBEAT_MS);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(snapshot_during_snapshot)
{
    AUTO_CONFIG config = three();
    (void)state;
    solo_init(&c, 3);
    c.nodes[1].manual_disk = true;
    assert_true(install(2, 5, 10, 5, &config));
    assert_true(install(2, 5, 20, 5, &config)); /* a newer snapshot before the first is durable */
    (void)node_sync(&c, 1, 1);
    cluster_settle(&c);
    assert_null(sent(&c, RAFT_MSG_APPEND_REPLY, 3));
    assert_true(status(1).durable_index < 20);
    (void)node_sync(&c, 1, SIZE_MAX);
    cluster_settle(&c);
    assert_int_equal(status(1).durable_index, 20);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 2)->index, 20);
    assert_int_equal(c.nodes[1].disk.start_index, 20);
    cluster_deinit(&c);
}

/* A group is founded on a snapshot: by a replica that has nothing, as its only voter. */
TEST(seed_founds_a_group)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1}, 1, NULL, 0);
    AUTO_CONFIG others = three();
    struct thole_status st;
    (void)state;
    solo_init(&c, 0);
    struct raft *r = cluster_join(&c)->raft;
    config.epoch = 4;
    assert_int_equal(raft_seed(r, 0, 3, (struct raft_stamp){0}, &config, c.now_ms, &st),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(raft_seed(r, 11, 0, (struct raft_stamp){0}, &config, c.now_ms, &st),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(raft_seed(r, 11, 3, (struct raft_stamp){0}, &others, c.now_ms, &st),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(raft_seed(r, 11, 3, (struct raft_stamp){0}, &config, c.now_ms, &st), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(raft_seed(r, 12, 3, (struct raft_stamp){0}, &config, c.now_ms, &st),
                     THOLE_FAILED_PRECONDITION);
    cluster_run(&c, 5000);
    assert_int_equal(status(1).role, RAFT_LEADER);
    assert_int_equal(status(1).term, 4);
    assert_int_equal(raft_config(r)->epoch, 4);
    assert_int_equal(status(1).commit, 12);
    assert_int_equal(c.nodes[1].disk.start_index, 11);
    cluster_deinit(&c);
}

/* An empty replica to which a forced group has spoken belongs to that group's epoch. */
TEST(seed_of_an_earlier_epoch_is_refused)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1}, 1, NULL, 0);
    struct raft_message m = msg(RAFT_MSG_HEARTBEAT, 2, 1);
    (void)state;
    solo_init(&c, 0);
    struct raft *r = cluster_join(&c)->raft;
    m.epoch = 5;
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    assert_int_equal(status(1).epoch, 5);
    config.epoch = 4;
    assert_int_equal(raft_seed(r, 11, 3, (struct raft_stamp){0}, &config, c.now_ms, NULL),
                     THOLE_FAILED_PRECONDITION);
    assert_int_equal(status(1).epoch, 5);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(restore),
        RUN(snapshot_ack_waits_until_it_is_durable),
        RUN(restore_with_learner),
        RUN(restore_with_voters_outgoing),
        RUN(restore_voter_to_learner),
        RUN(restore_learner_promotion),
        RUN(restore_ignore_snapshot),
        RUN(restore_from_snap_msg),
        RUN(snapshot_replaces_a_conflicting_log),
        RUN(snapshot_arguments_are_checked),
        RUN(sending_snapshot_set_pending_snapshot),
        RUN(provide_snap),
        RUN(ignore_providing_snap),
        RUN(pending_snapshot_pause_replication),
        RUN(snapshot_failure),
        RUN(snapshot_succeed),
        RUN(snapshot_abort),
        RUN(snapshot_succeed_via_app_resp),
        RUN(snapshot_succeed_via_app_resp_behind),
        RUN(slow_node_restore),
        RUN(slow_follower_after_compaction),
        RUN(learner_receive_snapshot),
        RUN(compact_is_bounded_by_what_is_applied),
        RUN(restart_from_snapshot),
        RUN(snapshot_during_snapshot),
        RUN(seed_founds_a_group),
        RUN(seed_of_an_earlier_epoch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
