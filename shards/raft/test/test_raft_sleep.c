/* Groups that fall asleep when nothing happens, and what wakes them. */
#include "shards/raft/test/raft_test.h"

#define SLEEP_AFTER_MS 50

static struct cluster c;

static void begin(size_t n)
{
    cluster_init(&c, n, 5);
    for (uint64_t id = 1; id <= n; id++) {
        node_at(&c, id)->options.sleep_after_ms = SLEEP_AFTER_MS;
        node_restart(&c, id);
    }
}

static bool asleep(uint64_t id)
{
    bool yes = raft_asleep(c.nodes[id].raft);
    assert_true(!yes || raft_deadline_ms(c.nodes[id].raft) == UINT64_MAX);
    return yes;
}

static size_t sleepers(void)
{
    size_t n = 0;
    for (uint64_t id = 1; id <= c.node_count; id++) {
        n += c.nodes[id].raft != NULL && asleep(id);
    }
    return n;
}

static uint64_t all_sent(void)
{
    uint64_t n = 0;
    for (int kind = 0; kind <= RAFT_MSG_KIND_MAX; kind++) {
        n += c.sent[kind];
    }
    return n;
}

/* An idle group of three, asleep. Returns its leader. */
static uint64_t lull(size_t n)
{
    begin(n);
    uint64_t leader = cluster_elect(&c, 2000);
    cluster_propose(&c, 3);
    cluster_run(&c, SLEEP_AFTER_MS + 3 * HEARTBEAT_MS);
    assert_int_equal(sleepers(), n);
    return leader;
}

static void wake(uint64_t id, uint64_t heard_ms)
{
    raft_wake(c.nodes[id].raft, heard_ms, c.now_ms);
    node_harvest(&c, id);
}

TEST(idle_group_falls_asleep_and_sends_nothing)
{
    (void)state;
    uint64_t leader = lull(3);
    uint64_t before = all_sent();
    uint64_t term = node_term(&c, leader);
    cluster_run(&c, 100 * TIMEOUT_MS);
    assert_int_equal(all_sent(), before);
    assert_int_equal(node_term(&c, leader), term);
    assert_int_equal(cluster_leader(&c), leader);
    cluster_deinit(&c);
}

TEST(single_voter_sleeps_alone)
{
    (void)state;
    lull(1);
    cluster_deinit(&c);
}

TEST(proposal_wakes_the_group_and_it_sleeps_again)
{
    (void)state;
    lull(3);
    cluster_propose(&c, 1);
    assert_int_equal(sleepers(), 0);
    cluster_run(&c, SLEEP_AFTER_MS + 5 * HEARTBEAT_MS);
    assert_int_equal(sleepers(), 3);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

/* After a sleep of many timeouts, its disk takes a while for the next write. Returns the leader. */
static uint64_t long_lull(uint64_t *ret_term)
{
    uint64_t leader = lull(3);
    *ret_term = node_term(&c, leader);
    cluster_run(&c, 10 * TIMEOUT_MS);
    c.nodes[leader].manual_disk = true;
    return leader;
}

/* Time without calls does not count as time that the disk took. */
static void assert_still_leads(uint64_t leader, uint64_t term)
{
    cluster_run(&c, HEARTBEAT_MS);
    c.nodes[leader].manual_disk = false;
    cluster_run(&c, HEARTBEAT_MS);
    assert_int_equal(cluster_leader(&c), leader);
    assert_int_equal(node_term(&c, leader), term);
    cluster_deinit(&c);
}

TEST(proposal_after_long_sleep_keeps_the_leader)
{
    (void)state;
    uint64_t term, leader = long_lull(&term);
    assert_int_equal(node_propose(&c, leader, 8), THOLE_OK);
    assert_still_leads(leader, term);
}

TEST(change_of_members_after_long_sleep_keeps_the_leader)
{
    (void)state;
    uint64_t term, leader = long_lull(&term);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, leader % 3 + 1);
    assert_int_equal(node_change(&c, leader, &change), THOLE_OK);
    assert_still_leads(leader, term);
}

/* The nodes trim after each harvest. */
TEST(sleeping_replica_keeps_no_entries_and_no_queues)
{
    (void)state;
    uint64_t leader = lull(3);
    for (uint64_t id = 1; id <= 3; id++) {
        raft_trim(c.nodes[id].raft);
        const struct raft *r = c.nodes[id].raft;
        assert_null(raft_entry_at(r, node_last(&c, id)));
        assert_null(r->log.work);
        assert_null(r->awake);
        assert_false(raft_has_update(r));
        assert_true(raft_deadline_ms(r) == UINT64_MAX);
        assert_true((r->lead != NULL) == (id == leader));
        ASSERT(id != leader || r->lead != NULL);
        for (uint64_t peer = 1; id == leader && peer <= 3; peer++) { /* known without keeping it */
            struct raft_peer_status p;
            assert_null(r->lead->peers);
            assert_true(raft_peer(r, peer, &p));
            assert_int_equal(p.match, node_last(&c, peer));
            assert_int_equal(p.state, RAFT_REPLICATE);
            assert_true(p.recently_active);
        }
    }
    cluster_propose(&c, 3);
    assert_non_null(raft_entry_at(c.nodes[leader].raft, node_last(&c, leader)));
    raft_trim(c.nodes[leader].raft); /* awake: nothing */
    assert_non_null(raft_entry_at(c.nodes[leader].raft, node_last(&c, leader)));
    cluster_run(&c, SLEEP_AFTER_MS + 5 * HEARTBEAT_MS);
    assert_int_equal(sleepers(), 3);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

/* Its log is cut while it sleeps: the engine trims it before it harvests that. */
TEST(sleeping_replica_is_harvested_after_it_was_trimmed)
{
    (void)state;
    uint64_t leader = lull(3);
    struct raft *r = c.nodes[leader % 3 + 1].raft;
    struct raft_update u;
    raft_trim(r);
    raft_compact(r, 1);
    raft_trim(r);
    assert_true(raft_has_update(r));
    raft_harvest(r, &u);
    assert_true(u.log_start_changed);
    assert_int_equal(u.message_count, 0);
    raft_trim(r);
    assert_non_null(r->awake); /* the write is under way */
    raft_persisted(r, u.persist, c.now_ms);
    raft_trim(r);
    assert_null(r->awake);
    cluster_deinit(&c);
}

TEST(read_wakes_the_group_at_leader_and_at_follower)
{
    (void)state;
    uint64_t leader = lull(3);
    struct raft_read_result result;
    struct thole_status st;
    for (uint64_t id = 1; id <= 3; id++) {
        assert_int_equal(raft_read(c.nodes[id].raft, 7, c.now_ms, &st), THOLE_OK);
        assert_false(asleep(id));
        node_harvest(&c, id);
        cluster_run(&c, 2 * HEARTBEAT_MS);
        assert_true(node_take_read(node_at(&c, id), 7, &result));
        assert_false(result.failed);
        assert_int_equal(result.index, node_commit(&c, leader));
        cluster_run(&c, SLEEP_AFTER_MS + 5 * HEARTBEAT_MS);
        assert_int_equal(sleepers(), 3);
    }
    cluster_deinit(&c);
}

TEST(follower_that_lags_keeps_the_group_awake)
{
    (void)state;
    begin(3);
    uint64_t leader = cluster_elect(&c, 2000);
    uint64_t behind = leader % 3 + 1;
    cluster_isolate(&c, behind);
    cluster_propose(&c, 2);
    cluster_run(&c, 10 * SLEEP_AFTER_MS);
    assert_int_equal(sleepers(), 0);
    cluster_heal(&c);
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(sleepers(), 3);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(member_whose_disk_is_behind_does_not_consent)
{
    (void)state;
    begin(3);
    uint64_t leader = cluster_elect(&c, 2000);
    uint64_t slow = leader % 3 + 1;
    node_at(&c, slow)->manual_disk = true;
    cluster_propose(&c, 1);
    cluster_run(&c, 10 * SLEEP_AFTER_MS);
    assert_int_equal(sleepers(), 0);
    node_at(&c, slow)->manual_disk = false;
    (void)node_sync(&c, slow, SIZE_MAX);
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(sleepers(), 3);
    cluster_deinit(&c);
}

TEST(absent_member_does_not_keep_the_others_awake)
{
    (void)state;
    begin(3);
    uint64_t leader = cluster_elect(&c, 2000);
    uint64_t gone = leader % 3 + 1;
    node_crash(&c, gone);
    cluster_propose(&c, 1);
    raft_absent(c.nodes[leader].raft, gone, true, c.now_ms);
    cluster_run(&c, SLEEP_AFTER_MS + 5 * HEARTBEAT_MS);
    assert_int_equal(sleepers(), 2);

    node_start(&c, gone); /* and its host is heard again */
    raft_absent(c.nodes[leader].raft, gone, false, c.now_ms);
    assert_false(asleep(leader));
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(sleepers(), 3);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(leader_without_a_quorum_does_not_sleep)
{
    (void)state;
    begin(3);
    uint64_t leader = cluster_elect(&c, 2000);
    for (uint64_t id = 1; id <= 3; id++) {
        if (id != leader) {
            node_crash(&c, id);
            raft_absent(c.nodes[leader].raft, id, true, c.now_ms);
        }
    }
    while (node_role(&c, leader) == RAFT_LEADER) {
        assert_false(asleep(leader));
        cluster_run(&c, HEARTBEAT_MS);
    }
    cluster_deinit(&c);
}

/* The leader's host died: the engine wakes its sleeping followers. */
TEST(followers_elect_when_the_leaders_host_falls_silent)
{
    (void)state;
    uint64_t leader = lull(3);
    node_crash(&c, leader);
    cluster_run(&c, 10 * TIMEOUT_MS);
    assert_int_equal(sleepers(), 2); /* the core alone cannot know */
    uint64_t heard = c.now_ms - TIMEOUT_MS;
    for (uint64_t id = 1; id <= 3; id++) {
        if (id != leader) {
            wake(id, heard);
            assert_true(raft_deadline_ms(c.nodes[id].raft) < heard + 2 * TIMEOUT_MS);
        }
    }
    assert_int_not_equal(cluster_elect(&c, 2 * TIMEOUT_MS), leader);
    cluster_deinit(&c);
}

/* One follower believes that the leader's host is gone; it is not. */
TEST(false_alarm_disturbs_nobody)
{
    (void)state;
    uint64_t leader = lull(3);
    uint64_t term = node_term(&c, leader);
    wake(leader % 3 + 1, c.now_ms - TIMEOUT_MS);
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(sleepers(), 3);
    assert_int_equal(cluster_leader(&c), leader);
    assert_int_equal(node_term(&c, leader), term);
    cluster_deinit(&c);
}

/* A sleeping voter that is asked for a vote does not give it away while it hears its leader's
 * host. */
TEST(sleeping_voter_keeps_faith_with_its_leader)
{
    (void)state;
    uint64_t leader = lull(3);
    uint64_t voter = leader % 3 + 1;
    uint64_t candidate = voter % 3 + 1;
    struct raft_message m = {.kind = RAFT_MSG_VOTE,
                             .from = candidate,
                             .to = voter,
                             .term = node_term(&c, leader) + 1,
                             .index = node_last(&c, voter) + 5,
                             .log_term = node_term(&c, leader) + 1};
    assert_int_equal(node_receive(&c, m), THOLE_OK);
    assert_false(asleep(voter));
    assert_int_equal(node_term(&c, voter), node_term(&c, leader));
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(sleepers(), 3);
    cluster_deinit(&c);
}

/* A member consents, then loses its host's word, and comes back: its old consent does not count. */
TEST(consent_of_an_earlier_round_does_not_count)
{
    (void)state;
    uint64_t leader = lull(3);
    uint64_t peer = leader % 3 + 1;
    struct raft_message late = {.kind = RAFT_MSG_SLEEP_REPLY,
                                .from = peer,
                                .to = leader,
                                .term = node_term(&c, leader),
                                .index = node_last(&c, leader),
                                .context = c.nodes[leader].raft->sleep_round};
    cluster_isolate(&c, peer);
    wake(leader, c.now_ms);
    cluster_run(&c, SLEEP_AFTER_MS + 2 * HEARTBEAT_MS);
    assert_int_equal(node_receive(&c, late), THOLE_OK);
    cluster_run(&c, 2 * HEARTBEAT_MS);
    assert_false(asleep(leader));
    cluster_deinit(&c);
}

TEST(change_of_members_wakes_and_the_new_group_sleeps)
{
    (void)state;
    uint64_t leader = lull(3);
    struct node *n = cluster_join(&c);
    n->options.sleep_after_ms = SLEEP_AFTER_MS;
    node_restart(&c, n->id);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, n->id);
    assert_int_equal(node_change(&c, leader, &change), THOLE_OK);
    assert_false(asleep(leader));
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(sleepers(), 4);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

TEST(transfer_wakes)
{
    (void)state;
    uint64_t leader = lull(3);
    struct thole_status st;
    uint64_t target = leader % 3 + 1;
    assert_int_equal(raft_transfer(c.nodes[leader].raft, target, c.now_ms, &st), THOLE_OK);
    node_harvest(&c, leader);
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(cluster_leader(&c), target);
    assert_int_equal(sleepers(), 3);
    cluster_deinit(&c);
}

TEST(restarted_follower_wakes_the_group)
{
    (void)state;
    uint64_t leader = lull(3);
    uint64_t peer = leader % 3 + 1;
    node_restart(&c, peer);
    assert_int_equal(sleepers(), 2);
    cluster_run(&c, 20 * TIMEOUT_MS);
    assert_int_equal(sleepers(), 3);
    assert_int_equal(cluster_leader(&c), leader);
    cluster_deinit(&c);
}

/* Its leader stepped down for a higher term: no old message may put it to sleep again. */
TEST(sleep_of_an_old_term_is_refused)
{
    (void)state;
    uint64_t leader = lull(3);
    uint64_t peer = leader % 3 + 1;
    struct raft_message old = {.kind = RAFT_MSG_SLEEP,
                               .from = leader,
                               .to = peer,
                               .term = node_term(&c, leader),
                               .index = node_last(&c, leader),
                               .log_term = term_of(&c, leader, node_last(&c, leader)),
                               .commit = node_commit(&c, leader),
                               .context = 1};
    struct raft_message newer = msg(RAFT_MSG_HEARTBEAT, peer % 3 + 1, old.term + 1);
    newer.to = peer;
    assert_int_equal(node_receive(&c, newer), THOLE_OK);
    assert_false(asleep(peer));
    assert_int_equal(node_receive(&c, old), THOLE_OK);
    assert_false(asleep(peer));
    assert_int_equal(node_status(node_at(&c, peer)).leader, newer.from);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(idle_group_falls_asleep_and_sends_nothing),
        RUN(single_voter_sleeps_alone),
        RUN(proposal_wakes_the_group_and_it_sleeps_again),
        RUN(proposal_after_long_sleep_keeps_the_leader),
        RUN(change_of_members_after_long_sleep_keeps_the_leader),
        RUN(sleeping_replica_keeps_no_entries_and_no_queues),
        RUN(sleeping_replica_is_harvested_after_it_was_trimmed),
        RUN(read_wakes_the_group_at_leader_and_at_follower),
        RUN(follower_that_lags_keeps_the_group_awake),
        RUN(member_whose_disk_is_behind_does_not_consent),
        RUN(absent_member_does_not_keep_the_others_awake),
        RUN(leader_without_a_quorum_does_not_sleep),
        RUN(followers_elect_when_the_leaders_host_falls_silent),
        RUN(false_alarm_disturbs_nobody),
        RUN(sleeping_voter_keeps_faith_with_its_leader),
        RUN(consent_of_an_earlier_round_does_not_count),
        RUN(change_of_members_wakes_and_the_new_group_sleeps),
        RUN(transfer_wakes),
        RUN(restarted_follower_wakes_the_group),
        RUN(sleep_of_an_old_term_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
