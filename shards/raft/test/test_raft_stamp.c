/* The times of entries. */
#include "shards/raft/test/raft_test.h"

static struct cluster c;

/* Propose at the leader by this wall clock; the stamp that the entry got. */
static struct raft_stamp propose_at(uint64_t leader, uint64_t wall_ms)
{
    struct raft_entry *e = command_new(8);
    uint64_t first = 0;

    assert_int_equal(raft_propose(c.nodes[leader].raft, &e, 1, c.now_ms, wall_ms, &first, NULL),
                     THOLE_OK);
    struct raft_stamp stamp = e->stamp; /* the core has the reference, and has it still */
    cluster_settle(&c);
    assert_int_equal(node_commit(&c, leader), first);
    return stamp;
}

TEST(wall_clock_of_entries_never_falls)
{
    (void)state;
    cluster_init(&c, 3, 71);
    cluster_make_leader(&c, 1);
    assert_int_equal(propose_at(1, 5000).now_ms, 5000);
    assert_int_equal(propose_at(1, 4000).now_ms, 5000); /* the clock was set back */
    assert_int_equal(propose_at(1, 5001).now_ms, 5001);
    cluster_make_leader(&c, 2);
    assert_int_equal(propose_at(2, 100).now_ms, 5001); /* a clock that is behind */
    cluster_deinit(&c);
}

TEST(entries_of_one_proposal_have_one_stamp)
{
    struct raft_entry *e[2] = {command_new(8), command_new(8)};
    uint64_t first = 0;

    (void)state;
    cluster_init(&c, 3, 72);
    cluster_make_leader(&c, 1);
    assert_int_equal(raft_propose(c.nodes[1].raft, e, 2, c.now_ms, 77, &first, NULL), THOLE_OK);
    assert_memory_equal(&e[0]->stamp, &e[1]->stamp, sizeof e[0]->stamp);
    cluster_deinit(&c);
}

TEST(time_with_a_leader_counts_while_it_leads)
{
    (void)state;
    cluster_init(&c, 3, 73);
    cluster_make_leader(&c, 1);
    uint64_t before = propose_at(1, 1).alive_ms;
    cluster_run(&c, 3000);
    assert_int_equal(propose_at(1, 2).alive_ms, before + 3000);
    cluster_deinit(&c);
}

TEST(outage_and_election_do_not_count)
{
    (void)state;
    cluster_init(&c, 3, 74);
    cluster_make_leader(&c, 1);
    cluster_run(&c, 1000);
    uint64_t before = propose_at(1, 1000).alive_ms;
    node_crash(&c, 1);
    node_crash(&c, 2);
    cluster_run(&c, 60000);
    node_start(&c, 1);
    node_start(&c, 2);
    uint64_t leader = cluster_elect(&c, 20000);
    uint64_t elected_ms = c.now_ms;
    struct raft_stamp after = raft_stamp_now(c.nodes[leader].raft, c.now_ms, 61000);
    assert_in_range(after.alive_ms, before, before + 2000);
    assert_int_equal(after.now_ms, 61000); /* calendars go on */
    cluster_run(&c, 500);
    assert_true(cluster_leader(&c) == leader);
    assert_int_equal(raft_stamp_now(c.nodes[leader].raft, c.now_ms, 0).alive_ms,
                     after.alive_ms + c.now_ms - elected_ms);
    cluster_deinit(&c);
}

TEST(append_whose_times_fall_is_refused)
{
    struct raft_message m;

    (void)state;
    solo_init(&c, 3);
    m = append_msg(2, 1, 0, 0, 0, (uint64_t[]){1, 1}, 2);
    m.entries[0]->stamp = (struct raft_stamp){9, 5};
    m.entries[1]->stamp = (struct raft_stamp){9, 4};
    assert_int_equal(give(&c, m), THOLE_INVALID_ARGUMENT);
    assert_int_equal(node_last(&c, 1), 0);
    m = append_msg(2, 1, 0, 0, 0, (uint64_t[]){1}, 1);
    m.entries[0]->stamp = (struct raft_stamp){9, 5};
    assert_int_equal(give(&c, m), THOLE_OK);
    m = append_msg(2, 1, 1, 1, 0, (uint64_t[]){1}, 1); /* its stamp is 0 */
    assert_int_equal(give(&c, m), THOLE_INVALID_ARGUMENT);
    assert_int_equal(node_last(&c, 1), 1);
    cluster_deinit(&c);
}

TEST(times_survive_a_snapshot_and_a_restart)
{
    (void)state;
    cluster_init(&c, 3, 75);
    cluster_make_leader(&c, 1);
    cluster_isolate(&c, 3);
    cluster_run(&c, 1000);
    struct raft_stamp last = propose_at(1, 123456);
    node_compact(&c, 1, node_commit(&c, 1));
    cluster_settle(&c);
    cluster_heal(&c);
    cluster_run(&c, 3000);
    assert_int_equal(node_commit(&c, 3), node_commit(&c, 1));
    for (uint64_t id = 1; id <= 3; id++) {
        node_restart(&c, id);
        struct raft_stamp stamp = raft_stamp_now(c.nodes[id].raft, c.now_ms, 0);
        assert_int_equal(stamp.now_ms, last.now_ms);
        assert_true(stamp.alive_ms >= last.alive_ms);
    }
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(wall_clock_of_entries_never_falls),        RUN(entries_of_one_proposal_have_one_stamp),
        RUN(time_with_a_leader_counts_while_it_leads), RUN(outage_and_election_do_not_count),
        RUN(append_whose_times_fall_is_refused),       RUN(times_survive_a_snapshot_and_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
