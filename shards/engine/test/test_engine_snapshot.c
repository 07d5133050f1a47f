/* Compaction, snapshots to followers and learners, recovery of interrupted steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/engine/snapshot/snapshots.h"
#include "shards/engine/test/harness.h"

#include <cmocka.h>

static struct cluster *compacting(int hosts, int voters, const char *machine, uint64_t seed)
{
    struct cluster *c = cluster_new(hosts, seed);
    c->machine = machine;
    c->compact_log_bytes = 4000;
    c->keep_log_bytes = 500;
    cluster_bootstrap(c, voters);
    return c;
}

static void propose_many(struct cluster *c, int n)
{
    for (int i = 0; i < n; i++) {
        propose_ok(c, "some payload of a few bytes");
    }
}

static void check_compaction(const char *machine)
{
    struct cluster *c = compacting(3, 3, machine, 31);
    propose_many(c, 400);
    cluster_run(c, 500);
    for (int h = 0; h < 3; h++) {
        struct engine_replica_status s = status_of(c, h);
        assert_true(s.first_index > 250);
        assert_true(s.log_bytes < 3 * c->compact_log_bytes);
    }
    for (int h = 0; h < 3; h++) {
        host_crash(c, h);
    }
    for (int h = 0; h < 3; h++) {
        host_start(c, h);
    }
    cluster_wait_leader(c);
    for (int h = 0; h < 3; h++) {
        assert_int_equal(query_ok(c, h).count, 400);
    }
    propose_many(c, 200);
    cluster_run(c, 500);
    assert_int_equal(stale_state(c, 0).hash, stale_state(c, 1).hash);
    assert_int_equal(stale_state(c, 0).hash, stale_state(c, 2).hash);
    cluster_free(c);
}

static void test_engine_compacts_and_recovers(void **state)
{
    (void)state;
    check_compaction("tally");
    check_compaction("tally-plain");
    check_compaction("ledger");
}

static void check_lagging(const char *machine, size_t ballast, double drop)
{
    struct cluster *c = compacting(3, 3, machine, 32);
    for (int h = 0; h < 3; h++) {
        c->hosts[h].tally.ballast = ballast;
    }
    propose_many(c, 10);
    int behind = (cluster_wait_leader(c) + 1) % 3;
    isolate(c, behind, true);
    propose_many(c, 400);
    isolate(c, behind, false);
    c->drop = drop;
    c->delay_ms_max = drop > 0 ? 20 : 0;
    RUN_UNTIL(c, 60000, stale_state(c, behind).count == 410);
    c->drop = 0;
    assert_true(c->snapshot_frames > 0);
    propose_many(c, 10);
    cluster_run(c, 1000);
    assert_int_equal(stale_state(c, behind).hash, stale_state(c, cluster_leader(c)).hash);
    host_crash(c, behind);
    host_start(c, behind);
    cluster_run(c, 1000);
    assert_int_equal(stale_state(c, behind).count, 420);
    if (strcmp(machine, "ledger") == 0) { /* the old generation is gone */
        assert_int_equal(ledger_disk_spaces(c->hosts[behind].ledger), 1);
    }
    cluster_free(c);
}

static void test_engine_lagging_follower_gets_a_snapshot(void **state)
{
    (void)state;
    check_lagging("tally", 0, 0);
    check_lagging("tally-plain", 100, 0);
    check_lagging("ledger", 0, 0);
}

static void test_engine_large_snapshot_over_a_lossy_link(void **state)
{
    (void)state;
    check_lagging("tally", 3 * MIB + 17, 0.2);
    check_lagging("tally", 4 * LIMIT_CHUNK_BYTES - 100, 0.2);
}

/* The rate limit holds for any number of transfers, and each of them makes progress. */
static void check_cap(uint64_t rate, size_t ballast)
{
    struct cluster *c = cluster_new(5, 40);
    c->machine = "tally";
    c->compact_log_bytes = 4000;
    c->keep_log_bytes = 500;
    c->snapshot_bytes_per_s = rate;
    cluster_bootstrap(c, 5);
    for (int h = 0; h < 5; h++) {
        c->hosts[h].tally.ballast = ballast;
    }
    propose_many(c, 10);
    int leader = cluster_wait_leader(c), a = (leader + 1) % 5, b = (leader + 2) % 5;
    isolate(c, a, true);
    isolate(c, b, true);
    propose_many(c, 400);
    isolate(c, a, false);
    isolate(c, b, false);
    uint64_t begun = cluster_now(c), done_a = 0, done_b = 0, least = 2 * ballast * 1000 / rate;
    uint64_t at_once = rate > 20 * KIB ? rate : 20 * KIB; /* a chunk is not smaller */
    while (!done_a || !done_b) {
        cluster_run(c, 10);
        uint64_t passed = (cluster_now(c) - begun) / MS;
        assert_true(c->snapshot_bytes <= at_once + rate * passed / 1000);
        assert_true(passed < least * 5 / 4 + 3000);
        if (!done_a && stale_state(c, a).count == 410) {
            done_a = passed;
        }
        if (!done_b && stale_state(c, b).count == 410) {
            done_b = passed;
        }
    }
    uint64_t apart = done_a > done_b ? done_a - done_b : done_b - done_a;
    assert_true(apart < least / 4 + 1000);
    assert_true(least < 1000 + (done_a > done_b ? done_a : done_b));
    cluster_free(c);
}

static void test_engine_snapshot_cap_holds(void **state)
{
    (void)state;
    check_cap(1 * MIB, 5 * MIB);
    check_cap(40 * KIB, 1 * MIB); /* each takes longer than a transfer may be silent */
    check_cap(2 * KIB, 64 * KIB); /* less in a second than a chunk */
}

/* The old leader does not know yet that its snapshot is no longer needed. */
static void test_engine_snapshot_of_an_old_leader_disturbs_no_newer_one(void **state)
{
    (void)state;
    struct cluster *c = compacting(3, 3, "tally", 41);
    for (int h = 0; h < 3; h++) {
        c->hosts[h].tally.ballast = 8 * MIB;
    }
    propose_many(c, 10);
    int leader = cluster_wait_leader(c), behind = (leader + 1) % 3, other = (leader + 2) % 3;
    isolate(c, behind, true);
    propose_many(c, 400);
    isolate(c, behind, false);
    c->delay_ms_max = 20;
    struct codec_chunk old = {.shard_id = SHARD,
                              .from = (uint64_t)other + 1,
                              .to = (uint64_t)behind + 1,
                              .term = status_of(c, leader).term - 1,
                              .transfer = 1,
                              .index = 5,
                              .index_term = 1,
                              .data = slice_str("the first bytes")};
    for (int i = 0; i < 1000 && stale_state(c, behind).count != 410; i++) {
        engine_deliver(c->hosts[behind].engine, &c->hosts[other].uuid, c->hosts[other].incarnation,
                       ENGINE_LANE_SNAPSHOT, codec_chunk_frame(&old));
        cluster_run(c, 10);
    }
    assert_int_equal(stale_state(c, behind).count, 410);
    cluster_free(c);
}

static void test_engine_new_learner_gets_a_snapshot(void **state)
{
    (void)state;
    struct cluster *c = compacting(4, 3, "tally", 33);
    propose_many(c, 400);
    host_join(c, 3);
    assert_false(status_of(c, 3).initialised);
    struct raft_change add = change_one(RAFT_CHANGE_ADD_LEARNER, 3);
    assert_int_equal(change_wait(c, cluster_wait_leader(c), &add), THOLE_OK);
    RUN_UNTIL(c, 20000, stale_state(c, 3).count == 400);
    assert_true(status_of(c, 3).initialised);
    assert_false(status_of(c, 3).voter);
    assert_int_equal(query_ok(c, 3).count, 400);
    host_crash(c, 3);
    host_start(c, 3);
    propose_many(c, 5);
    RUN_UNTIL(c, 20000, stale_state(c, 3).count == 405);
    cluster_free(c);
}

/* After a crash at any moment of an installation the replica still catches up. */
static void check_crash_during_install(const char *machine)
{
    for (uint64_t at = 0; at < 60; at += 3) {
        struct cluster *c = compacting(3, 3, machine, 34 + at);
        c->delay_ms_max = 5;
        int behind = (cluster_wait_leader(c) + 1) % 3;
        isolate(c, behind, true);
        propose_many(c, 300);
        isolate(c, behind, false);
        uint64_t frames = c->snapshot_frames;
        RUN_UNTIL(c, 20000, c->snapshot_frames > frames);
        for (uint64_t i = 0; i < at; i++) {
            cluster_run(c, 1);
        }
        host_crash(c, behind);
        host_start(c, behind);
        RUN_UNTIL(c, 60000, stale_state(c, behind).count == 300);
        cluster_run(c, 500);
        if (strcmp(machine, "ledger") == 0) {
            assert_int_equal(ledger_disk_spaces(c->hosts[behind].ledger), 1);
        }
        cluster_free(c);
    }
}

static void test_engine_crash_while_installing(void **state)
{
    (void)state;
    check_crash_during_install("tally");
    check_crash_during_install("ledger");
}

static void test_engine_installed_snapshot_answers_proposals_unknown(void **state)
{
    (void)state;
    struct cluster *c = compacting(3, 3, "tally", 35);
    int old = cluster_wait_leader(c);
    isolate(c, old, true);
    struct op *o = op_propose(c, old, "x");
    o->r.deadline_ns = CLOCK_NEVER;
    RUN_UNTIL(c, 20000, cluster_leader(c) != old && cluster_leader(c) >= 0);
    propose_many(c, 300);
    isolate(c, old, false);
    op_wait(o);
    assert_int_equal(o->r.status.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    op_free(o);
    RUN_UNTIL(c, 20000, stale_state(c, old).count == 300);
    cluster_free(c);
}

static void count_name(void *ctx, const char *name)
{
    (void)name;
    ++*(int *)ctx;
}

struct newest {
    uint64_t replica_id, index;
    char name[ENGINE_NAME_BYTES];
};

static void find_newest(void *ctx, const char *name)
{
    struct newest *n = ctx;
    uint64_t replica, index;
    if (engine__snapshot_name_parse(name, &replica, &index) && replica == n->replica_id &&
        index >= n->index) {
        n->index = index;
        (void)snprintf(n->name, sizeof n->name, "%s", name);
    }
}

/* Flip a bit in the middle of a replica's newest snapshot. */
static void damage_snapshot(struct host *h)
{
    struct newest n = {.replica_id = (uint64_t)h->id + 1};
    struct thole_status st;
    struct engine_file *f;
    uint64_t size;
    h->files->ops->list(h->files, find_newest, &n);
    assert_true(n.index > 0);
    assert_int_equal(h->files->ops->open(h->files, n.name, &f, &size, &st), THOLE_OK);
    uint8_t *data = xmalloc(size);
    assert_int_equal(h->files->ops->read(f, 0, data, size, &st), THOLE_OK);
    h->files->ops->close(f);
    data[size / 2] ^= 1;
    assert_int_equal(h->files->ops->create(h->files, "damaged", true, &f, &st), THOLE_OK);
    assert_int_equal(h->files->ops->append(f, data, size, &st), THOLE_OK);
    assert_int_equal(h->files->ops->commit(f, n.name, &st), THOLE_OK);
    free(data);
}

/* The damaged snapshot must not be sent again and again: no follower would accept it. */
static void test_engine_damaged_snapshot_of_the_leader_is_replaced(void **state)
{
    (void)state;
    struct cluster *c = compacting(3, 3, "tally", 39);
    propose_many(c, 10);
    int leader = cluster_wait_leader(c), behind = (leader + 1) % 3;
    isolate(c, behind, true);
    propose_many(c, 400);
    cluster_run(c, 500);
    damage_snapshot(&c->hosts[leader]);
    isolate(c, behind, false);
    RUN_UNTIL(c, 20000, stale_state(c, behind).count == 410);
    assert_true(c->snapshot_frames > 1);
    host_crash(c, leader); /* and it can start from its current data */
    host_start(c, leader);
    cluster_run(c, 1000);
    assert_false(status_of(c, leader).failed);
    cluster_free(c);
}

static void test_engine_stale_files_are_removed(void **state)
{
    (void)state;
    struct thole_status st;
    struct cluster *c = compacting(1, 1, "tally", 36);
    cluster_wait_leader(c);
    propose_many(c, 300);
    host_crash(c, 0);
    struct engine_files *f = c->hosts[0].files;
    const char *names[] = {"1-999999.snap", "77-5.snap", "1.tmp", "garbage"};
    for (int i = 0; i < 4; i++) {
        struct engine_file *file;
        assert_int_equal(f->ops->create(f, names[i], true, &file, &st), THOLE_OK);
        assert_int_equal(f->ops->append(file, "damaged bytes, not a snapshot", 29, &st), THOLE_OK);
        assert_int_equal(f->ops->commit(file, names[i], &st), THOLE_OK);
    }
    host_start(c, 0);
    cluster_wait_leader(c);
    assert_int_equal(query_ok(c, 0).count, 300);
    int count = 0;
    f->ops->list(f, count_name, &count);
    assert_int_equal(count, 1);
    cluster_free(c);
}

/* A whole snapshot of host 0's replica, from a non-member, in one chunk. */
static void deliver_stream(struct cluster *c, uint64_t index, uint64_t term, struct slice stream)
{
    struct codec_chunk chunk = {.shard_id = SHARD,
                                .from = 2,
                                .to = 1,
                                .term = status_of(c, 0).term,
                                .transfer = 1,
                                .index = index,
                                .index_term = term,
                                .data = stream,
                                .last = true,
                                .total_checksum = hash64(stream.data, stream.size, 0)};
    engine_deliver(c->hosts[0].engine, &c->hosts[1].uuid, 1, ENGINE_LANE_SNAPSHOT,
                   codec_chunk_frame(&chunk));
    cluster_run(c, 100);
}

/* A replica saves the snapshot of an index, and an unneeded snapshot of the same index arrives. The
 * file of that name is about to be the only copy of the compacted log. */
static void test_engine_unneeded_snapshot_spares_the_one_being_saved(void **state)
{
    (void)state;
    struct thole_status st;
    struct cluster *c = compacting(1, 1, "tally", 37);
    struct host *h = &c->hosts[0];
    cluster_wait_leader(c);
    propose_many(c, 300);
    cluster_run(c, 500);
    struct replica *r = engine__find_replica(h->engine, 1);
    uint64_t index = r->snapshot_index;
    assert_true(index > 0 && status_of(c, 0).first_index > 1);
    char name[ENGINE_NAME_BYTES];
    engine__snapshot_name(r, index, name);
    struct engine_file *file;
    uint64_t size;
    assert_int_equal(h->files->ops->open(h->files, name, &file, &size, &st), THOLE_OK);
    struct buf *stream = buf_new(size - SNAPSHOT_TRAILER_BYTES);
    assert_int_equal(h->files->ops->read(file, 0, stream->data, stream->size, &st), THOLE_OK);
    h->files->ops->close(file);
    /* The state after the file is written, and before the loop is notified. */
    r->saving = true;
    r->snapshot_index = 0;
    deliver_stream(c, index, r->snapshot_term, slice_of(stream->data, stream->size));
    r->saving = false;
    r->snapshot_index = index;
    replica_unref(r);
    buf_unref(stream);
    host_crash(c, 0);
    host_start(c, 0);
    cluster_wait_leader(c);
    assert_int_equal(query_ok(c, 0).count, 300);
    cluster_free(c);
}

/* Leadership may be lost while a snapshot for a peer is being saved. The replica's term is then
 * another leader's, and the peer would take the sender for that leader. */
static void test_engine_no_snapshot_is_sent_without_leading(void **state)
{
    const char *machines[] = {"tally", "tally-plain", "ledger"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct cluster *c = compacting(3, 3, machines[i], 43);
        propose_many(c, 400);
        cluster_run(c, 1000);
        int follower = (cluster_wait_leader(c) + 1) % 3, peer = (follower + 1) % 3;
        struct replica *r = engine__find_replica(c->hosts[follower].engine, (uint64_t)follower + 1);
        uint64_t sent = c->snapshot_frames;
        (void)worker_assume(r->loop->w);
        engine__snapshot_wanted(r->loop, r,
                                &(struct raft_peer_request){.peer = (uint64_t)peer + 1});
        (void)worker_assume(NULL);
        cluster_run(c, 3000);
        assert_int_equal(c->snapshot_frames, sent);
        assert_false(engine__snapshot_is_sent(r));
        replica_unref(r);
        cluster_free(c);
    }
}

/* A snapshot of the same index arrives while the replica is being opened from its own. */
static void test_engine_snapshot_for_an_opening_replica_spares_its_own(void **state)
{
    (void)state;
    struct cluster *c = compacting(1, 1, "tally", 44);
    cluster_wait_leader(c);
    propose_many(c, 300);
    cluster_run(c, 500);
    struct replica *r = engine__find_replica(c->hosts[0].engine, 1);
    uint64_t index = r->snapshot_index;
    assert_true(index > 0 && status_of(c, 0).first_index > 1);
    r->state = GROUP_OPENING;
    r->snapshot_index = 0;
    struct stream_msg *m = xcalloc(1, sizeof *m);
    m->msg.kind = MSG_RECEIVED;
    m->r = r;
    m->from = 2;
    m->to = 1;
    m->index = index;
    engine__snapshot_name(r, index, m->name);
    (void)worker_assume(r->loop->w);
    engine__snapshot_received(r->loop, m);
    (void)worker_assume(NULL);
    r->state = GROUP_RUNNING;
    r->snapshot_index = index;
    cluster_run(c, 100);
    host_crash(c, 0);
    host_start(c, 0);
    cluster_wait_leader(c);
    assert_int_equal(query_ok(c, 0).count, 300);
    cluster_free(c);
}

/* A received stream with the name of a snapshot in use is not verified yet. */
static void test_engine_received_stream_replaces_no_snapshot(void **state)
{
    (void)state;
    struct cluster *c = compacting(1, 1, "tally", 38);
    cluster_wait_leader(c);
    propose_many(c, 300);
    cluster_run(c, 500);
    assert_true(status_of(c, 0).first_index > 1);
    deliver_stream(c, status_of(c, 0).snapshot_index, status_of(c, 0).term, slice_str("nonsense"));
    host_crash(c, 0);
    host_start(c, 0);
    cluster_wait_leader(c);
    assert_int_equal(query_ok(c, 0).count, 300);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_compacts_and_recovers),
        cmocka_unit_test(test_engine_lagging_follower_gets_a_snapshot),
        cmocka_unit_test(test_engine_large_snapshot_over_a_lossy_link),
        cmocka_unit_test(test_engine_snapshot_cap_holds),
        cmocka_unit_test(test_engine_snapshot_of_an_old_leader_disturbs_no_newer_one),
        cmocka_unit_test(test_engine_new_learner_gets_a_snapshot),
        cmocka_unit_test(test_engine_crash_while_installing),
        cmocka_unit_test(test_engine_installed_snapshot_answers_proposals_unknown),
        cmocka_unit_test(test_engine_damaged_snapshot_of_the_leader_is_replaced),
        cmocka_unit_test(test_engine_stale_files_are_removed),
        cmocka_unit_test(test_engine_no_snapshot_is_sent_without_leading),
        cmocka_unit_test(test_engine_snapshot_for_an_opening_replica_spares_its_own),
        cmocka_unit_test(test_engine_unneeded_snapshot_spares_the_one_being_saved),
        cmocka_unit_test(test_engine_received_stream_replaces_no_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
