/* What waits for the disk: tokens, withheld messages, and writes that finish too late. The node
 * under test has a manual disk: node_sync makes its oldest writes durable. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

static void solo_manual(size_t n, bool pre_vote)
{
    solo_init(&c, n);
    c.nodes[1].options.pre_vote = pre_vote;
    node_restart(&c, 1);
    c.nodes[1].manual_disk = true;
}

static void lead_manual(size_t n)
{
    solo_init(&c, n);
    solo_lead(&c);
    c.nodes[1].manual_disk = true;
}

static void sync_all(void)
{
    (void)node_sync(&c, 1, SIZE_MAX);
    cluster_settle(&c);
}

static void campaign(void)
{
    raft_campaign(c.nodes[1].raft, c.now_ms);
    cluster_settle(&c);
}

static struct raft_status status(void)
{
    return node_status(&c.nodes[1]);
}

TEST(vote_request_waits_for_term_and_vote)
{
    (void)state;
    solo_manual(3, false);
    campaign();
    assert_int_equal(c.held_count, 0);
    sync_all();
    assert_int_equal(sent_count(&c, RAFT_MSG_VOTE), 2);
    cluster_deinit(&c);
}

TEST(vote_request_waits_for_the_log_tail)
{
    (void)state;
    solo_manual(3, true);
    (void)give(&c, append_msg(2, 1, 0, 0, 0, NULL, 0));
    sync_all(); /* the term is durable: from here on only the entry is waited for */
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1));
    campaign();
    assert_int_equal(sent_count(&c, RAFT_MSG_PREVOTE), 0);
    sync_all();
    assert_int_equal(sent(&c, RAFT_MSG_PREVOTE, 3)->index, 1);
    cluster_deinit(&c);
}

TEST(campaign_requests_die_with_the_campaign)
{
    (void)state;
    solo_manual(3, false);
    campaign();
    (void)give(&c, append_msg(2, 1, 0, 0, 0, NULL, 0));
    sync_all();
    assert_int_equal(sent_count(&c, RAFT_MSG_VOTE), 0);
    cluster_deinit(&c);
}

TEST(self_vote_counts_when_durable)
{
    (void)state;
    solo_manual(1, false);
    campaign();
    assert_int_equal(status().role, RAFT_CANDIDATE);
    sync_all();
    assert_int_equal(status().role, RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(single_node_write_is_committed_after_its_sync)
{
    (void)state;
    solo_manual(1, false);
    campaign();
    sync_all();
    assert_int_equal(status().commit, 0); /* the no-op is under way */
    sync_all();
    assert_int_equal(status().commit, 1);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(status().commit, 1);
    sync_all();
    assert_int_equal(status().commit, 2);
    assert_int_equal(c.nodes[1].applied, 2);
    cluster_deinit(&c);
}

static void self_vote_after_lost_election(bool pre_vote)
{
    solo_manual(3, pre_vote);
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1)); /* something to persist */
    campaign();
    for (uint64_t id = 2; id <= 3; id++) {
        struct raft_message m =
            msg(pre_vote ? RAFT_MSG_PREVOTE_REPLY : RAFT_MSG_VOTE_REPLY, id, status().term);
        m.reject = true;
        (void)give(&c, m);
    }
    assert_int_equal(status().role, RAFT_FOLLOWER);
    sync_all();
    assert_int_equal(status().role, RAFT_FOLLOWER);
    cluster_deinit(&c);
}

TEST(candidate_self_vote_after_lost_election)
{
    (void)state;
    self_vote_after_lost_election(false);
}

TEST(candidate_self_vote_after_lost_election_pre_vote)
{
    (void)state;
    self_vote_after_lost_election(true);
}

TEST(candidate_delivers_pre_candidate_self_vote_after_becoming_candidate)
{
    (void)state;
    solo_manual(5, true);
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1));
    campaign();
    for (uint64_t id = 2; id <= 4; id++) { /* a majority without its own vote */
        (void)give(&c, msg(RAFT_MSG_PREVOTE_REPLY, id, 2));
    }
    assert_int_equal(status().role, RAFT_CANDIDATE);
    assert_int_equal(node_sync(&c, 1, 1), 1); /* the write that the PreVote waited for */
    cluster_settle(&c);
    (void)give(&c, msg(RAFT_MSG_VOTE_REPLY, 2, 2));
    (void)give(&c, msg(RAFT_MSG_VOTE_REPLY, 3, 2));
    assert_int_equal(status().role, RAFT_CANDIDATE); /* two votes of five, not three */
    sync_all();
    assert_int_equal(status().role, RAFT_LEADER);
    cluster_deinit(&c);
}

TEST(leader_msg_app_self_ack_after_term_change)
{
    (void)state;
    lead_manual(3);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    uint64_t term = status().term;
    (void)give(&c, append_msg(2, term + 1, 1, term, 0, (uint64_t[]){term + 1}, 1));
    assert_int_equal(node_sync(&c, 1, 1), 1); /* the old write of index 2 */
    assert_int_equal(status().durable_index, 1);
    sync_all();
    assert_int_equal(status().durable_index, 2);
    assert_int_equal(term_of(&c, 1, 2), term + 1);
    cluster_deinit(&c);
}

TEST(leader_appends_before_its_own_write_and_counts_itself_after)
{
    (void)state;
    lead_manual(3);
    (void)give_ack(&c, 2, 1);
    assert_int_equal(status().commit, 1);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND, 2)->entry_count, 1);
    (void)give_ack(&c, 2, 2);
    assert_int_equal(status().commit, 1); /* one of three on a disk */
    sync_all();
    assert_int_equal(status().commit, 2);
    cluster_deinit(&c);
}

TEST(quorum_without_the_leader_commits_and_the_leader_applies_after_its_sync)
{
    (void)state;
    lead_manual(3);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 2, 2);
    (void)give_ack(&c, 3, 2);
    assert_int_equal(status().commit, 2);
    assert_int_equal(c.nodes[1].apply_to, 1); /* a machine is never ahead of its log */
    sync_all();
    assert_int_equal(c.nodes[1].apply_to, 2);
    cluster_deinit(&c);
}

TEST(append_reply_waits_for_the_entries)
{
    (void)state;
    solo_manual(3, true);
    (void)give(&c, append_msg(2, 1, 0, 0, 1, (uint64_t[]){1}, 1));
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND_REPLY), 0);
    (void)give(&c, append_msg(2, 1, 1, 1, 1, (uint64_t[]){1}, 1));
    assert_int_equal(node_sync(&c, 1, 1), 1);
    cluster_settle(&c);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 2)->index, 1);
    assert_int_equal(sent_count(&c, RAFT_MSG_APPEND_REPLY), 1);
    sync_all();
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 2)->index, 2);
    cluster_deinit(&c);
}

TEST(append_reply_of_durable_entries_goes_at_once)
{
    (void)state;
    solo_manual(3, true);
    (void)give(&c, append_msg(2, 1, 0, 0, 1, (uint64_t[]){1}, 1));
    sync_all();
    forget_sent(&c);
    (void)give(&c, append_msg(2, 1, 0, 0, 1, (uint64_t[]){1}, 1));
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 2)->index, 1);
    cluster_deinit(&c);
}

TEST(heartbeat_reply_waits_only_for_a_new_term)
{
    (void)state;
    solo_manual(3, true);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    assert_int_equal(c.held_count, 0);
    sync_all();
    assert_int_equal(sent_count(&c, RAFT_MSG_HEARTBEAT_REPLY), 1);
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1)); /* pending entries */
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1));
    assert_int_equal(sent_count(&c, RAFT_MSG_HEARTBEAT_REPLY), 2);
    cluster_deinit(&c);
}

/* A crash between granting and syncing: the grant must not have left. */
TEST(vote_reply_waits_for_the_vote)
{
    (void)state;
    solo_manual(3, true);
    (void)give(&c, msg(RAFT_MSG_VOTE, 2, 1));
    assert_int_equal(c.held_count, 0);
    node_restart(&c, 1);
    (void)give(&c, msg(RAFT_MSG_VOTE, 3, 1));
    sync_all();
    assert_null(sent(&c, RAFT_MSG_VOTE_REPLY, 2));
    assert_false(sent(&c, RAFT_MSG_VOTE_REPLY, 3)->reject);
    cluster_deinit(&c);
}

TEST(term_survives_a_crash_after_sync_and_not_before)
{
    (void)state;
    solo_manual(3, true);
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 5));
    node_restart(&c, 1);
    assert_int_equal(status().term, 0);
    assert_int_equal(c.held_count, 0); /* so no other node can know */
    (void)give(&c, msg(RAFT_MSG_HEARTBEAT, 2, 5));
    sync_all();
    node_restart(&c, 1);
    assert_int_equal(status().term, 5);
    cluster_deinit(&c);
}

TEST(commit_alone_is_never_persisted)
{
    (void)state;
    solo_init(&c, 3);
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1));
    uint64_t before = c.persists;
    struct raft_message m = msg(RAFT_MSG_HEARTBEAT, 2, 1);
    m.commit = 1;
    (void)give(&c, m);
    assert_int_equal(status().commit, 1);
    assert_int_equal(c.persists, before);
    assert_int_equal(c.nodes[1].disk.hard.commit, 0);
    (void)give(&c, append_msg(2, 1, 1, 1, 1, (uint64_t[]){1}, 1));
    assert_int_equal(c.nodes[1].disk.hard.commit, 1); /* but always goes along */
    cluster_deinit(&c);
}

/* The exception: a removed node may be gone for good, so no node may return to the time before. */
TEST(commit_of_a_configuration_in_force_is_persisted)
{
    (void)state;
    struct raft_change change = {.revision = 1, .item_count = 1};
    change.items[0] = (struct raft_change_item){.op = RAFT_CHANGE_REMOVE, .replica_id = 3};
    solo_init(&c, 3);
    struct raft_message m = append_msg(2, 1, 0, 0, 0, NULL, 0);
    m.entries = xcalloc(1, sizeof(struct raft_entry *));
    m.entries[0] = raft__change_entry(&change);
    m.entries[0]->index = 1;
    m.entries[0]->term = 1;
    m.entry_count = 1;
    (void)give(&c, m);
    m = msg(RAFT_MSG_HEARTBEAT, 2, 1);
    m.commit = 1;
    (void)give(&c, m);
    assert_null(raft_config_find(raft_config(c.nodes[1].raft), 3));
    assert_int_equal(c.nodes[1].disk.hard.commit, 1);
    cluster_deinit(&c);
}

/* Seven nodes. Node 1 has entries of a deposed leader under way, which a new leader overwrites, and
 * so on, until (index, term) of the log is again what an old write carries. */
TEST(async_storage_writes_append_aba_race)
{
    (void)state;
    solo_manual(7, true);
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1, 1}, 2)); /* token 1 */
    (void)give(&c, append_msg(3, 2, 1, 1, 0, (uint64_t[]){2}, 1));    /* token 2: index 2 again */
    (void)give(&c, append_msg(4, 3, 0, 0, 0, (uint64_t[]){3}, 1));    /* token 3: all gone */
    struct raft_message m = append_msg(5, 4, 0, 0, 0, (uint64_t[]){1, 1}, 2);
    (void)give(&c, m); /* token 4: (2, 1) is back, and so is token 1's view */
    assert_int_equal(node_sync(&c, 1, 1), 1);
    assert_int_equal(status().durable_index, 0);
    assert_int_equal(node_sync(&c, 1, 1), 1);
    assert_int_equal(node_sync(&c, 1, 1), 1);
    assert_int_equal(status().durable_index, 0);
    cluster_settle(&c);
    assert_null(sent(&c, RAFT_MSG_APPEND_REPLY, 5));
    assert_int_equal(status().last_index, 2); /* and nothing was thrown away */
    sync_all();
    assert_int_equal(status().durable_index, 2);
    assert_int_equal(sent(&c, RAFT_MSG_APPEND_REPLY, 5)->index, 2);
    cluster_deinit(&c);
}

TEST(async_storage_writes)
{
    (void)state;
    lead_manual(3);
    c.nodes[1].manual_apply = true;
    (void)give_ack(&c, 2, 1);
    node_apply(&c, 1);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(c.nodes[1].write_count, 2); /* two appends under way */
    (void)give_ack(&c, 2, 3);
    assert_int_equal(status().commit, 1);
    assert_int_equal(node_sync(&c, 1, 1), 1);
    cluster_settle(&c);
    assert_int_equal(status().commit, 2);
    assert_int_equal(status().applied, 1);
    assert_int_equal(c.nodes[1].apply_to, 2);
    sync_all();
    assert_int_equal(status().commit, 3);
    assert_int_equal(c.nodes[1].apply_to, 3);
    node_apply(&c, 1);
    assert_int_equal(status().applied, 3);
    cluster_deinit(&c);
}

TEST(hung_disk_unseats_the_leader)
{
    (void)state;
    cluster_init(&c, 3, 1);
    uint64_t leader = cluster_elect(&c, 1000);
    c.nodes[leader].manual_disk = true;
    assert_int_equal(node_propose(&c, leader, 8), THOLE_OK);
    cluster_run(&c, TIMEOUT_MS + 2 * HEARTBEAT_MS);
    assert_int_not_equal(node_role(&c, leader), RAFT_LEADER);
    cluster_run(&c, 4 * TIMEOUT_MS);
    uint64_t next = cluster_leader(&c);
    assert_true(next != 0 && next != leader);
    c.nodes[leader].manual_disk = false;
    cluster_run(&c, 4 * TIMEOUT_MS);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(hung_disk_does_not_campaign_or_grow)
{
    (void)state;
    solo_manual(3, true);
    (void)give(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1));
    for (int i = 0; i < 10000; i++) {
        (void)give(&c, msg(RAFT_MSG_VOTE, 3, 1));
    }
    cluster_run(&c, 10 * TIMEOUT_MS);
    assert_int_equal(status().role, RAFT_FOLLOWER);
    assert_true(c.nodes[1].raft->awake->outbox.withheld_count <= RAFT_WITHHELD_MAX);
    cluster_deinit(&c);
}

TEST(consume_ready)
{
    struct raft_update u;
    (void)state;
    solo_init(&c, 3);
    solo_lead(&c);
    assert_false(raft_has_update(c.nodes[1].raft));
    raft_harvest(c.nodes[1].raft, &u);
    assert_int_equal(u.persist, 0);
    assert_int_equal(u.message_count + u.entry_count + u.read_count + u.need_log_count, 0);
    assert_int_equal(u.apply_first, 0);
    assert_false(u.status_changed || u.config_changed);
    cluster_deinit(&c);
}

TEST(soft_state_equal)
{
    struct raft_update u;
    (void)state;
    solo_init(&c, 3);
    c.nodes[1].manual_disk = true;
    assert_int_equal(node_receive(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1)), THOLE_OK);
    raft_harvest(c.nodes[1].raft, &u);
    assert_true(u.status_changed);
    assert_int_equal(node_receive(&c, msg(RAFT_MSG_HEARTBEAT, 2, 1)), THOLE_OK);
    raft_harvest(c.nodes[1].raft, &u);
    assert_false(u.status_changed);
    cluster_deinit(&c);
}

TEST(is_hard_state_equal)
{
    struct raft_update u;
    (void)state;
    solo_init(&c, 3);
    c.nodes[1].manual_disk = true;
    assert_int_equal(node_receive(&c, msg(RAFT_MSG_VOTE, 2, 1)), THOLE_OK);
    raft_harvest(c.nodes[1].raft, &u);
    assert_int_equal(u.persist, 1);
    assert_int_equal(u.hard.term, 1);
    assert_int_equal(u.hard.vote, 2);
    assert_int_equal(node_receive(&c, msg(RAFT_MSG_VOTE, 2, 1)), THOLE_OK); /* the same vote */
    raft_harvest(c.nodes[1].raft, &u);
    assert_int_equal(u.persist, 0);
    cluster_deinit(&c);
}

TEST(boot_refuses_contradictions)
{
    AUTO_CONFIG config = config_of((uint64_t[]){1}, 1, NULL, 0);
    struct raft_options o = {
        .replica_id = 1, .election_timeout_ms = 100, .heartbeat_ms = 10, .cache_bytes = 1};
    struct raft_term_run runs[2] = {{1, 1}, {3, 2}};
    const struct raft_boot good = {.hard = {.term = 2, .commit = 2},
                                   .config = &config,
                                   .last_index = 4,
                                   .runs = runs,
                                   .run_count = 2,
                                   .applied = 1};
    struct raft *r = NULL;
    struct raft_boot b = good;
    (void)state;

    assert_int_equal(raft_new(&o, &b, &r, NULL), THOLE_OK);
    raft_free(r);
    b.hard.commit = 5;
    assert_int_equal(raft_new(&o, &b, &r, NULL), THOLE_DATA_LOSS);
    b = good;
    b.hard.term = 1;
    assert_int_equal(raft_new(&o, &b, &r, NULL), THOLE_DATA_LOSS);
    b = good;
    b.applied = 5;
    assert_int_equal(raft_new(&o, &b, &r, NULL), THOLE_DATA_LOSS);
    b = good;
    b.start_index = 1;
    b.start_term = 1;
    assert_int_equal(raft_new(&o, &b, &r, NULL), THOLE_DATA_LOSS);
    b = good;
    b.run_count = 0;
    assert_int_equal(raft_new(&o, &b, &r, NULL), THOLE_DATA_LOSS);
    b = good;
    b.config = NULL;
    assert_int_equal(raft_new(&o, &b, &r, NULL), THOLE_INVALID_ARGUMENT);
    o.heartbeat_ms = 50;
    assert_int_equal(raft_new(&o, &good, &r, NULL), THOLE_INVALID_ARGUMENT);
    raft_free(NULL);
}

TEST(node_step_refuses_malformed)
{
    (void)state;
    solo_init(&c, 3);
    assert_int_equal(give(&c, msg((enum raft_message_kind)0, 2, 1)), THOLE_INVALID_ARGUMENT);
    assert_int_equal(give(&c, msg((enum raft_message_kind)99, 2, 1)), THOLE_INVALID_ARGUMENT);
    assert_int_equal(give(&c, msg(RAFT_MSG_APPEND, 0, 1)), THOLE_INVALID_ARGUMENT);
    assert_int_equal(give(&c, msg(RAFT_MSG_APPEND, 1, 1)), THOLE_INVALID_ARGUMENT);
    assert_int_equal(give(&c, msg(RAFT_MSG_APPEND, 2, 0)), THOLE_INVALID_ARGUMENT);
    assert_int_equal(give(&c, msg(RAFT_MSG_APPEND, 2, UINT64_MAX)), THOLE_INVALID_ARGUMENT);
    struct raft_message m = append_msg(2, 2, 0, 0, 0, (uint64_t[]){2, 1}, 2);
    assert_int_equal(give(&c, m), THOLE_INVALID_ARGUMENT); /* terms fall */
    m = append_msg(2, 2, 0, 0, 0, (uint64_t[]){3}, 1);
    assert_int_equal(give(&c, m), THOLE_INVALID_ARGUMENT); /* beyond the message's */
    m = append_msg(2, 2, 0, 0, 0, (uint64_t[]){1}, 1);
    m.entries[0]->index = 7;
    assert_int_equal(give(&c, m), THOLE_INVALID_ARGUMENT);
    assert_int_equal(status().term, 0); /* and nothing changed */
    cluster_deinit(&c);
}

TEST(next_unstable_ents)
{
    struct raft_update u;
    (void)state;
    solo_init(&c, 3);
    c.nodes[1].manual_disk = true;
    struct raft *r = c.nodes[1].raft;
    assert_int_equal(node_receive(&c, append_msg(2, 1, 0, 0, 0, (uint64_t[]){1, 1}, 2)), THOLE_OK);
    raft_harvest(r, &u);
    assert_int_equal(u.entry_count, 2);
    assert_int_equal(node_receive(&c, append_msg(2, 1, 2, 1, 0, (uint64_t[]){1}, 1)), THOLE_OK);
    raft_harvest(r, &u);
    assert_int_equal(u.persist, 2);
    assert_int_equal(u.entry_count, 1); /* each entry once */
    assert_int_equal(u.entries[0]->index, 3);
    /* A new leader replaces the tail: everything from there on goes again. */
    assert_int_equal(node_receive(&c, append_msg(3, 2, 1, 1, 0, (uint64_t[]){2}, 1)), THOLE_OK);
    raft_harvest(r, &u);
    assert_int_equal(u.entry_count, 1);
    assert_int_equal(u.entries[0]->index, 2);
    assert_int_equal(u.hard.term, 2);
    cluster_deinit(&c);
}

TEST(raw_node_status)
{
    struct raft_peer_status p;
    (void)state;
    solo_init(&c, 3);
    assert_false(raft_peer(c.nodes[1].raft, 2, &p)); /* a follower has no view of other members */
    solo_lead(&c);
    struct raft_status s = status();
    assert_int_equal(s.role, RAFT_LEADER);
    assert_int_equal(s.leader, 1);
    assert_false(s.leader_ready);
    assert_int_equal(s.durable_index, 1);
    assert_int_equal(s.first_index, 1);
    assert_true(raft_peer(c.nodes[1].raft, 2, &p));
    assert_int_equal(p.state, RAFT_PROBE);
    assert_false(raft_peer(c.nodes[1].raft, 9, &p));
    (void)give_ack(&c, 2, 1);
    assert_true(status().leader_ready);
    cluster_deinit(&c);
}

TEST(only_voter_campaigns_at_once)
{
    (void)state;
    cluster_init(&c, 1, 1);
    cluster_run(&c, 1);
    assert_true(status().leader_ready);
    node_restart(&c, 1);
    cluster_run(&c, 1);
    assert_true(status().leader_ready);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(vote_request_waits_for_term_and_vote),
        RUN(vote_request_waits_for_the_log_tail),
        RUN(campaign_requests_die_with_the_campaign),
        RUN(self_vote_counts_when_durable),
        RUN(single_node_write_is_committed_after_its_sync),
        RUN(candidate_self_vote_after_lost_election),
        RUN(candidate_self_vote_after_lost_election_pre_vote),
        RUN(candidate_delivers_pre_candidate_self_vote_after_becoming_candidate),
        RUN(leader_msg_app_self_ack_after_term_change),
        RUN(leader_appends_before_its_own_write_and_counts_itself_after),
        RUN(quorum_without_the_leader_commits_and_the_leader_applies_after_its_sync),
        RUN(append_reply_waits_for_the_entries),
        RUN(append_reply_of_durable_entries_goes_at_once),
        RUN(heartbeat_reply_waits_only_for_a_new_term),
        RUN(vote_reply_waits_for_the_vote),
        RUN(term_survives_a_crash_after_sync_and_not_before),
        RUN(commit_alone_is_never_persisted),
        RUN(commit_of_a_configuration_in_force_is_persisted),
        RUN(async_storage_writes_append_aba_race),
        RUN(async_storage_writes),
        RUN(hung_disk_unseats_the_leader),
        RUN(hung_disk_does_not_campaign_or_grow),
        RUN(consume_ready),
        RUN(soft_state_equal),
        RUN(is_hard_state_equal),
        RUN(boot_refuses_contradictions),
        RUN(node_step_refuses_malformed),
        RUN(next_unstable_ents),
        RUN(raw_node_status),
        RUN(only_voter_campaigns_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
