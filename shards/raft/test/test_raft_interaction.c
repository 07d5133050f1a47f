/* Golden traces: every message that arrives and every change of role, in order, for the scenarios
 * whose value is in the exact exchange. RAFT_GOLDEN_REWRITE=1 writes the files anew; then read the
 * difference before committing it. */
#include "shards/raft/test/core_cluster_internal.h"
#include "shards/raft/test/raft_test.h"

static struct cluster c;
static struct bytes trace;

static void begin(size_t n)
{
    cluster_init(&c, n, 71);
    bytes_clear(&trace);
    c.trace = &trace;
}

static void note(const char *what)
{
    bytes_append(&trace, "# ", 2);
    bytes_append(&trace, what, strlen(what));
    bytes_append(&trace, "\n", 1);
}

static char *golden_path(const char *name)
{
    return xasprintf("%s/golden/%s.txt", THOLE_TEST_SOURCE_DIR, name);
}

static void compare(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct bytes want = {0};
    char part[4096];
    size_t n;

    if (f == NULL) {
        fail_msg("no golden trace %s", path);
        return;
    }
    while ((n = fread(part, 1, sizeof part, f)) > 0) {
        bytes_append(&want, part, n);
    }
    (void)fclose(f);
    if (!slice_equal(bytes_slice(&want), bytes_slice(&trace))) {
        (void)fprintf(stderr, "%s differs; now:\n%.*s", path, (int)trace.size,
                      (const char *)trace.data);
        fail();
    }
    bytes_deinit(&want);
}

static void end(const char *name)
{
    char *path = golden_path(name);

    if (getenv("RAFT_GOLDEN_REWRITE") != NULL) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(trace.data, 1, trace.size, f), trace.size);
        assert_int_equal(fclose(f), 0);
    } else {
        compare(path);
    }
    free(path);
    cluster_deinit(&c);
    bytes_deinit(&trace);
}

static void campaign(uint64_t id)
{
    note("campaign");
    raft_campaign(c.nodes[id].raft, c.now_ms);
    cluster_settle(&c);
}

static void propose(size_t n)
{
    note("propose");
    cluster_propose(&c, n);
}

static void wait_ms(uint64_t ms)
{
    note("time passes");
    cluster_run(&c, ms);
}

TEST(campaign)
{
    (void)state;
    begin(3);
    campaign(1);
    end("campaign");
}

TEST(campaign_without_pre_vote)
{
    (void)state;
    begin(3);
    c.nodes[1].options.pre_vote = false;
    node_restart(&c, 1);
    campaign(1);
    end("campaign_without_pre_vote");
}

TEST(single_node)
{
    (void)state;
    begin(1);
    campaign(1);
    propose(2);
    end("single_node");
}

TEST(async_storage_writes)
{
    (void)state;
    begin(3);
    campaign(1);
    c.nodes[1].manual_disk = true;
    c.nodes[2].manual_disk = true;
    propose(1);
    propose(1);
    note("disk of 2: first write");
    (void)node_sync(&c, 2, 1);
    cluster_settle(&c);
    note("disk of 1: both writes");
    (void)node_sync(&c, 1, SIZE_MAX);
    cluster_settle(&c);
    note("disk of 2: second write");
    (void)node_sync(&c, 2, SIZE_MAX);
    cluster_settle(&c);
    end("async_storage_writes");
}

TEST(checkquorum)
{
    (void)state;
    begin(3);
    campaign(1);
    note("2 in vain");
    campaign(2);
    note("1 is cut off");
    cluster_isolate(&c, 1);
    wait_ms(2 * TIMEOUT_MS);
    end("checkquorum");
}

TEST(prevote)
{
    (void)state;
    begin(3);
    campaign(1);
    cluster_isolate(&c, 3);
    propose(1);
    cluster_heal(&c);
    campaign(3);
    end("prevote");
}

TEST(prevote_checkquorum)
{
    (void)state;
    begin(3);
    campaign(1);
    cluster_isolate(&c, 1);
    wait_ms(2 * TIMEOUT_MS);
    end("prevote_checkquorum");
}

static void forget(uint64_t id)
{
    struct raft_status before = node_status(&c.nodes[id]);
    uint64_t deadline_ms = raft_deadline_ms(c.nodes[id].raft);
    char what[] = "? forgets its leader";

    what[0] = (char)('0' + id);
    note(what);
    assert_int_equal(raft_forget_leader(c.nodes[id].raft, c.now_ms, NULL), THOLE_OK);
    struct raft_status after = node_status(&c.nodes[id]);
    assert_int_equal(after.role, before.role);
    assert_int_equal(after.term, before.term);
    assert_int_equal(after.vote, before.vote);
    assert_int_equal(raft_deadline_ms(c.nodes[id].raft), deadline_ms);
    cluster_settle(&c);
}

static void begin_with_learner(size_t voters)
{
    uint64_t ids[NODES_MAX];
    uint64_t learner = voters + 1;

    for (size_t i = 0; i < voters; i++) {
        ids[i] = i + 1;
    }
    AUTO_CONFIG config = config_of(ids, voters, &learner, 1);
    cluster_init_config(&c, &config, 71);
    bytes_clear(&trace);
    c.trace = &trace;
}

TEST(forget_leader)
{
    (void)state;
    begin_with_learner(3);
    campaign(1);
    forget(1); /* leads */
    forget(2);
    assert_int_equal(node_status(&c.nodes[2]).leader, 0);
    forget(2); /* has none */
    forget(4);
    assert_int_equal(node_status(&c.nodes[4]).leader, 0);
    wait_ms(HEARTBEAT_MS); /* they learn it again */
    assert_int_equal(node_status(&c.nodes[2]).leader, 1);
    note("3 is cut off and campaigns");
    cluster_isolate(&c, 3);
    raft_campaign(c.nodes[3].raft, c.now_ms);
    cluster_settle(&c);
    forget(3); /* a pre-candidate */
    assert_int_equal(node_role(&c, 3), RAFT_PRE_CANDIDATE);
    end("forget_leader");
}

TEST(forget_leader_prevote_checkquorum)
{
    (void)state;
    begin(3);
    campaign(1);
    note("in vain: the leader was heard just now");
    campaign(3);
    wait_ms(HEARTBEAT_MS);
    forget(2);
    note("2 alone is enough");
    campaign(3);
    assert_int_equal(node_role(&c, 3), RAFT_LEADER);
    note("1 misses an entry");
    cluster_isolate(&c, 1);
    propose(1);
    cluster_heal(&c);
    forget(2);
    note("in vain: its log is not up to date");
    campaign(1);
    assert_int_equal(node_role(&c, 3), RAFT_LEADER);
    end("forget_leader_prevote_checkquorum");
}

static void begin_with_leases(size_t n)
{
    cluster_init(&c, n, 71);
    for (uint64_t id = 1; id <= n; id++) {
        c.nodes[id].options.lease = true;
        node_restart(&c, id);
    }
    cluster_run(&c, TIMEOUT_MS); /* promises from before the start are over */
    bytes_clear(&trace);
    c.trace = &trace;
}

static void ask(uint64_t id, uint64_t context, bool answered)
{
    struct raft_read_result read = {0};
    char what[] = "read on ?";

    what[8] = (char)('0' + id);
    note(what);
    assert_int_equal(raft_read(c.nodes[id].raft, context, c.now_ms, NULL), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_take_read(&c.nodes[id], context, &read), answered);
    assert_true(!answered || (!read.failed && read.index == node_commit(&c, id)));
}

TEST(read_only_option_lease)
{
    (void)state;
    begin_with_leases(3);
    campaign(1);
    note("no heartbeat was answered yet");
    ask(1, 1, true);
    wait_ms(HEARTBEAT_MS);
    note("the leader knows, also for others");
    ask(1, 2, true);
    ask(2, 3, true);
    note("1 is cut off: its lease holds for a while");
    cluster_isolate(&c, 1);
    wait_ms(TIMEOUT_MS / 2);
    ask(1, 4, true);
    wait_ms(TIMEOUT_MS / 3);
    ask(1, 5, false);
    /* and no node votes before its promise ends */
    assert_int_equal(node_status(&c.nodes[2]).leader, 1);
    wait_ms(2 * TIMEOUT_MS);
    assert_int_not_equal(cluster_leader(&c), 1);
    end("read_only_option_lease");
}

TEST(forget_leader_read_only_lease_based)
{
    (void)state;
    begin_with_leases(3);
    campaign(1);
    note("2 keeps its leader, and 3 is not elected");
    assert_int_equal(raft_forget_leader(c.nodes[2].raft, c.now_ms, NULL),
                     THOLE_FAILED_PRECONDITION);
    assert_int_equal(node_status(&c.nodes[2]).leader, 1);
    campaign(3);
    assert_int_equal(node_role(&c, 1), RAFT_LEADER);
    end("forget_leader_read_only_lease_based");
}

TEST(force_two_of_three_lost)
{
    (void)state;
    begin(3);
    campaign(1);
    propose(1);
    wait_ms(HEARTBEAT_MS);
    note("1 and 2 are lost; 3 is forced");
    node_crash(&c, 1);
    node_crash(&c, 2);
    node_force(&c, 3, 1);
    cluster_settle(&c);
    wait_ms(1);
    note("2 comes back, and 4 is new");
    node_start(&c, 2);
    raft_campaign(c.nodes[2].raft, c.now_ms);
    cluster_settle(&c);
    assert_int_equal(c.nodes[2].last_error, THOLE_DATA_LOSS);
    (void)cluster_join(&c);
    cluster_learn(&c, 3, 4);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 4);
    assert_int_equal(node_change(&c, 3, &change), THOLE_OK);
    cluster_settle(&c);
    wait_ms(HEARTBEAT_MS);
    end("force_two_of_three_lost");
}

TEST(lagging_commit)
{
    (void)state;
    begin(3);
    campaign(1);
    c.cut[2][1] = true; /* the acknowledgements of 2 are lost */
    propose(1);
    c.cut[2][1] = false;
    wait_ms(2 * HEARTBEAT_MS);
    end("lagging_commit");
}

TEST(heartbeat_resp_recovers_from_probing)
{
    (void)state;
    begin(3);
    campaign(1);
    raft_unreachable(c.nodes[1].raft, 2);
    wait_ms(HEARTBEAT_MS);
    propose(1);
    end("heartbeat_resp_recovers_from_probing");
}

TEST(probe_and_replicate)
{
    static const uint64_t logs[7][12] = {
        {1, 1, 1, 4, 4, 5, 5, 6, 6, 6},
        {1, 1, 1, 4, 4, 5, 5, 6, 6},
        {1, 1, 1, 4},
        {1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6},
        {1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7},
        {1, 1, 1, 4, 4, 4, 4},
        {1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3},
    };
    static const size_t counts[7] = {10, 9, 4, 11, 12, 7, 11};
    (void)state;
    begin(7);
    for (uint64_t id = 1; id <= 7; id++) {
        node_restart_with_log(&c, id, logs[id - 1], counts[id - 1], 7, 0);
    }
    campaign(1);
    wait_ms(HEARTBEAT_MS);
    end("probe_and_replicate");
}

TEST(confchange_v1_add_single)
{
    (void)state;
    begin(1);
    campaign(1);
    (void)cluster_join(&c);
    cluster_learn(&c, 1, 2);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 2);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    wait_ms(HEARTBEAT_MS);
    end("confchange_v1_add_single");
}

TEST(confchange_v1_remove_leader_stepdown)
{
    (void)state;
    begin(3);
    campaign(1);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 1);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    end("confchange_v1_remove_leader_stepdown");
}

TEST(confchange_v2_add_double_auto)
{
    (void)state;
    begin(1);
    campaign(1);
    (void)cluster_join(&c);
    (void)cluster_join(&c);
    cluster_learn(&c, 1, 2);
    cluster_learn(&c, 1, 3);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 2);
    change_add(&change, RAFT_CHANGE_ADD_VOTER, 3);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    wait_ms(HEARTBEAT_MS);
    end("confchange_v2_add_double_auto");
}

TEST(confchange_v2_add_single_auto)
{
    (void)state;
    begin(2);
    campaign(1);
    (void)cluster_join(&c);
    note("one at a time is no joint change");
    struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 3);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    assert_false(raft_config(c.nodes[1].raft)->joint);
    wait_ms(HEARTBEAT_MS);
    end("confchange_v2_add_single_auto");
}

TEST(confchange_v2_replace_leader_stepdown)
{
    (void)state;
    begin(3);
    campaign(1);
    (void)cluster_join(&c);
    struct raft_change learner = change_one(RAFT_CHANGE_ADD_LEARNER, 4);
    assert_int_equal(node_change(&c, 1, &learner), THOLE_OK);
    wait_ms(3 * HEARTBEAT_MS);
    note("4 for 1");
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 4);
    change_add(&change, RAFT_CHANGE_REMOVE, 1);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    assert_int_not_equal(cluster_leader(&c), 1);
    campaign(1); /* in vain */
    end("confchange_v2_replace_leader_stepdown");
}

TEST(campaign_learner_must_vote)
{
    (void)state;
    begin_with_learner(2);
    campaign(1);
    note("3 becomes a voter and does not hear of it; 1 dies");
    cluster_isolate(&c, 3);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 3);
    assert_int_equal(node_change(&c, 1, &change), THOLE_OK);
    cluster_settle(&c);
    wait_ms(2 * HEARTBEAT_MS);
    node_crash(&c, 1);
    cluster_heal(&c);
    wait_ms(2 * TIMEOUT_MS);
    assert_int_equal(cluster_leader(&c), 2);
    end("campaign_learner_must_vote");
}

TEST(snapshot_succeed_via_app_resp)
{
    (void)state;
    begin(3);
    campaign(1);
    cluster_isolate(&c, 3);
    propose(3);
    node_compact(&c, 1, 4);
    cluster_settle(&c);
    note("the snapshot arrives, the report of it does not");
    c.nodes[1].manual_snapshot = true;
    cluster_heal(&c);
    wait_ms(3 * HEARTBEAT_MS);
    network_send_snapshot(&c, node_at(&c, 1), 3, 1);
    cluster_settle(&c);
    propose(1);
    end("snapshot_succeed_via_app_resp");
}

TEST(slow_follower_after_compaction)
{
    (void)state;
    begin(3);
    campaign(1);
    cluster_isolate(&c, 3);
    propose(5);
    node_compact(&c, 1, 6);
    cluster_settle(&c);
    cluster_heal(&c);
    wait_ms(2 * HEARTBEAT_MS);
    end("slow_follower_after_compaction");
}

TEST(leader_transfer)
{
    (void)state;
    begin(3);
    campaign(1);
    propose(1);
    assert_int_equal(raft_transfer(c.nodes[1].raft, 2, c.now_ms, NULL), THOLE_OK);
    note("transfer");
    cluster_settle(&c);
    end("leader_transfer");
}

TEST(reads)
{
    (void)state;
    begin(3);
    campaign(1);
    note("two reads on 1, two on 2");
    for (uint64_t id = 1; id <= 2; id++) {
        assert_int_equal(raft_read(c.nodes[id].raft, 1, c.now_ms, NULL), THOLE_OK);
        assert_int_equal(raft_read(c.nodes[id].raft, 2, c.now_ms, NULL), THOLE_OK);
    }
    cluster_settle(&c);
    end("reads");
}

TEST(sleep)
{
    (void)state;
    begin(3);
    for (uint64_t id = 1; id <= 3; id++) {
        node_at(&c, id)->options.sleep_after_ms = 2 * HEARTBEAT_MS;
        node_restart(&c, id);
    }
    campaign(1);
    note("nothing happens");
    wait_ms(10 * HEARTBEAT_MS);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_true(raft_asleep(c.nodes[id].raft));
    }
    note("much later");
    wait_ms(8000);
    propose(1);
    note("node 1 dies, and its host is missed");
    wait_ms(10 * HEARTBEAT_MS);
    node_crash(&c, 1);
    for (uint64_t id = 2; id <= 3; id++) {
        raft_wake(c.nodes[id].raft, c.now_ms - TIMEOUT_MS, c.now_ms);
    }
    wait_ms(TIMEOUT_MS);
    end("sleep");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(campaign),
        RUN(campaign_without_pre_vote),
        RUN(single_node),
        RUN(async_storage_writes),
        RUN(checkquorum),
        RUN(prevote),
        RUN(prevote_checkquorum),
        RUN(forget_leader),
        RUN(forget_leader_prevote_checkquorum),
        RUN(read_only_option_lease),
        RUN(forget_leader_read_only_lease_based),
        RUN(force_two_of_three_lost),
        RUN(lagging_commit),
        RUN(heartbeat_resp_recovers_from_probing),
        RUN(probe_and_replicate),
        RUN(confchange_v1_add_single),
        RUN(confchange_v1_remove_leader_stepdown),
        RUN(confchange_v2_add_double_auto),
        RUN(confchange_v2_add_single_auto),
        RUN(confchange_v2_replace_leader_stepdown),
        RUN(campaign_learner_must_vote),
        RUN(snapshot_succeed_via_app_resp),
        RUN(slow_follower_after_compaction),
        RUN(leader_transfer),
        RUN(reads),
        RUN(sleep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
