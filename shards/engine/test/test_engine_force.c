/* Quorum loss: engine_force, and lost replicas that return. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/engine/snapshot/snapshots.h"
#include "shards/engine/test/harness.h"

#include <cmocka.h>

static enum thole_code force_wait(struct cluster *c, int h, uint64_t shard_id, uint64_t epoch)
{
    struct done d = {0};
    engine_force(c->hosts[h].engine, shard_id, epoch, on_done, &d);
    RUN_UNTIL(c, 5000, d.done);
    return d.st.code;
}

static void add_voter(struct cluster *c, int leader, int h)
{
    struct raft_change add = change_one(RAFT_CHANGE_ADD_LEARNER, h);
    struct raft_change promote = change_one(RAFT_CHANGE_ADD_VOTER, h);
    host_join(c, h);
    assert_int_equal(change_wait(c, leader, &add), THOLE_OK);
    assert_int_equal(change_wait(c, leader, &promote), THOLE_OK);
    RUN_UNTIL(c, 10000, status_of(c, h).voter);
}

/* The surviving log reuses indexes of the lost log. A client that opened its session in the lost
 * log must not share a session with another client. */
static void test_engine_force_gives_no_session_out_twice(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 64);
    cluster_bootstrap(c, 3);
    propose_ok(c, "x");
    cluster_run(c, 500);
    int keep = (cluster_wait_leader(c) + 1) % 3;
    isolate(c, keep, true);
    struct op *old = NULL;
    for (int i = 0; i < 10; i++) { /* the forced entry and a no-op take the first indexes */
        if (old != NULL) {
            op_free(old);
        }
        old = op_open_session(c, cluster_wait_leader(c));
        op_wait(old);
        assert_int_equal(old->r.status.code, THOLE_OK);
    }
    for (int h = 0; h < 3; h++) {
        if (h != keep) {
            host_crash(c, h);
        }
    }
    isolate(c, keep, false);
    assert_int_equal(force_wait(c, keep, SHARD, 1), THOLE_OK);
    uint64_t index = 0;
    while (index < old->r.index) {
        struct op *o = op_open_session(c, keep);
        op_wait(o);
        assert_int_equal(o->r.status.code, THOLE_OK);
        assert_int_not_equal(o->r.code, old->r.code);
        index = o->r.index;
        op_free(o);
    }
    struct op *late = op_propose_in(c, keep, old->r.code, 1, "late");
    op_wait(late);
    assert_int_equal(late->r.status.reason, THOLE_REASON_SESSION_EXPIRED);
    op_free(late);
    op_free(old);
    cluster_free(c);
}

static void test_engine_force_recovers_from_quorum_loss(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(5, 61);
    cluster_bootstrap(c, 3);
    for (int i = 0; i < 5; i++) {
        propose_ok(c, "x");
    }
    cluster_run(c, 1000);
    host_crash(c, 0);
    host_crash(c, 1);
    cluster_run(c, 2000);
    struct engine_replica_status before = status_of(c, 2);
    assert_int_equal(before.epoch, 0);
    assert_true(before.last_term > 0 && before.last_index >= 5);

    assert_int_equal(force_wait(c, 2, SHARD, 1), THOLE_OK);
    struct engine_replica_status s = status_of(c, 2);
    assert_int_equal(s.epoch, 1);
    assert_true(s.leader_ready && s.last_term > before.last_term);
    propose_ok(c, "y");
    assert_int_equal(force_wait(c, 2, SHARD, 1), THOLE_FAILED_PRECONDITION);
    assert_int_equal(force_wait(c, 2, SHARD + 1, 1), THOLE_NOT_FOUND);

    add_voter(c, 2, 3);
    add_voter(c, 2, 4);
    assert_int_equal(query_ok(c, 3).count, 6);
    assert_int_equal(status_of(c, 3).epoch, 1);

    /* The lost replicas return; in their configuration they are a majority. */
    host_start(c, 0);
    host_start(c, 1);
    RUN_UNTIL(c, 20000, status_of(c, 0).superseded || status_of(c, 1).superseded);
    cluster_run(c, 5000);
    for (int h = 0; h < 2; h++) {
        assert_int_not_equal(status_of(c, h).role, RAFT_LEADER);
        if (status_of(c, h).superseded) {
            assert_true(status_of(c, h).failed);
            assert_non_null(strstr(status_of(c, h).failure, "superseded"));
        }
    }
    propose_ok(c, "z");

    /* All of it is durable. */
    for (int h = 2; h < 5; h++) {
        host_crash(c, h);
    }
    for (int h = 2; h < 5; h++) {
        host_start(c, h);
    }
    RUN_UNTIL(c, 20000, cluster_leader(c) >= 2);
    assert_int_equal(query_ok(c, cluster_leader(c)).count, 7);
    assert_int_equal(status_of(c, 4).epoch, 1);
    cluster_free(c);
}

/* A crash right after the call: either the call had no effect, or the replica leads at the next
 * start. */
static void test_engine_force_survives_a_crash_or_never_was(void **state)
{
    int happened = 0;
    (void)state;
    for (uint64_t ms = 0; ms < 12; ms++) {
        struct cluster *c = cluster_new(3, 62);
        cluster_bootstrap(c, 3);
        propose_ok(c, "x");
        cluster_run(c, 1000);
        host_crash(c, 0);
        host_crash(c, 1);
        struct done d = {0};
        engine_force(c->hosts[2].engine, SHARD, 3, on_done, &d);
        if (ms > 0) {
            cluster_run(c, ms);
        }
        bool answered = d.done && d.st.code == THOLE_OK;
        host_crash(c, 2);
        host_start(c, 2);
        cluster_run(c, 3000);
        struct engine_replica_status s = status_of(c, 2);
        assert_true(s.epoch == 3 || (s.epoch == 0 && !answered));
        assert_true((s.epoch == 3) == (s.role == RAFT_LEADER));
        happened += s.epoch == 3;
        if (s.epoch == 0) {
            host_start(c, 0);
            RUN_UNTIL(c, 10000, cluster_leader(c) >= 0);
        }
        assert_int_equal(query_ok(c, cluster_leader(c)).count, 1);
        cluster_free(c);
    }
    assert_true(happened > 0 && happened < 12);
}

/* ---- Snapshots of the lost group ------------------------------------------------------------- */

static void propose_many(struct cluster *c, int n, const char *text)
{
    for (int i = 0; i < n; i++) {
        propose_ok(c, text);
    }
}

static struct cluster *compacting(int hosts, int voters, const char *machine, uint64_t seed)
{
    struct cluster *c = cluster_new(hosts, seed);
    c->machine = machine;
    c->compact_log_bytes = 4000;
    c->keep_log_bytes = 500;
    cluster_bootstrap(c, voters);
    return c;
}

/* The snapshot is in transfer, staged, being restored or restored when the replica is forced. In
 * each case it is discarded in the end, with all its entries. */
static void check_late_snapshot(const char *machine)
{
    int before = 0, after = 0;
    for (uint64_t at = 0; at < 40; at++) {
        struct cluster *c = compacting(3, 3, machine, 65 + at);
        for (int h = 0; h < 3; h++) {
            c->hosts[h].tally.ballast = 100;
        }
        propose_many(c, 10, "x");
        int keep = (cluster_wait_leader(c) + 1) % 3;
        cluster_run(c, 500);
        isolate(c, keep, true);
        propose_many(c, 300, "some payload of a few bytes");
        c->delay_ms_max = 30;
        isolate(c, keep, false);
        uint64_t frames = c->snapshot_frames;
        while (c->snapshot_frames == frames) {
            cluster_run(c, 1);
        }
        cluster_run(c, at);
        struct done d = {0};
        engine_force(c->hosts[keep].engine, SHARD, 1, on_done, &d);
        cluster_run(c, 1);
        uint64_t count = stale_state(c, keep).count;
        for (int h = 0; h < 3; h++) {
            if (h != keep) {
                host_crash(c, h);
            }
        }
        RUN_UNTIL(c, 5000, d.done);
        if (d.st.code != THOLE_OK) { /* a snapshot was just being installed */
            cluster_run(c, 1000);
            count = stale_state(c, keep).count;
            assert_int_equal(force_wait(c, keep, SHARD, 2), THOLE_OK);
        }
        cluster_run(c, 3000);
        struct engine_replica_status s = status_of(c, keep);
        assert_true(s.leader_ready && s.epoch >= 1 && !s.failed);
        assert_int_equal(stale_state(c, keep).count, count);
        propose_ok(c, "y");
        host_crash(c, keep);
        host_start(c, keep);
        RUN_UNTIL(c, 5000, cluster_leader(c) == keep);
        assert_int_equal(query_ok(c, keep).count, count + 1);
        if (strcmp(machine, "ledger") == 0) {
            assert_int_equal(ledger_disk_spaces(c->hosts[keep].ledger), 1);
        }
        before += count == 10;
        after += count > 300;
        cluster_free(c);
    }
    assert_true(before > 0 && after > 0);
}

struct found {
    uint64_t index;
    char name[ENGINE_NAME_BYTES];
};

static void find_newest(void *ctx, const char *name)
{
    struct found *f = ctx;
    uint64_t replica, index;
    if (engine__snapshot_name_parse(name, &replica, &index) && index >= f->index) {
        f->index = index;
        (void)snprintf(f->name, sizeof f->name, "%s", name);
    }
}

/* The newest snapshot of a host, with another index, term and epoch in its header. */
static void forge(struct host *h, uint64_t index, uint64_t term, uint64_t epoch, struct bytes *out)
{
    struct found f = {0};
    struct thole_status st;
    struct engine_file *file;
    struct codec_header head;
    struct raft_config config = {0};
    struct bytes header = {0}, encoded = {0};
    uint64_t size;
    h->files->ops->list(h->files, find_newest, &f);
    assert_true(f.index > 0);
    assert_int_equal(h->files->ops->open(h->files, f.name, &file, &size, &st), THOLE_OK);
    uint8_t *data = xmalloc(size);
    assert_int_equal(h->files->ops->read(file, 0, data, size, &st), THOLE_OK);
    h->files->ops->close(file);
    size_t head_size = get_le32(data);
    assert_int_equal(codec_header_decode(slice_of(data + 4, head_size), &head, &st), THOLE_OK);
    assert_int_equal(raft_config_decode(head.config, &config, &st), THOLE_OK);
    config.epoch = epoch;
    raft_config_encode(&config, &encoded);
    head.index = index;
    head.index_term = term;
    head.config = bytes_slice(&encoded);
    codec_header_encode(&head, &header);
    put_le32(bytes_extend(out, 4), (uint32_t)header.size);
    bytes_append_slice(out, bytes_slice(&header));
    bytes_append(out, data + 4 + head_size, size - SNAPSHOT_TRAILER_BYTES - 4 - head_size);
    codec_release(head.arena);
    raft_config_deinit(&config);
    bytes_deinit(&header);
    bytes_deinit(&encoded);
    free(data);
}

static void put_file(struct host *h, const char *name, const struct bytes *stream)
{
    struct thole_status st;
    struct engine_file *file;
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    engine__snapshot_trailer(hash64(stream->data, stream->size, 0), trailer);
    assert_int_equal(h->files->ops->create(h->files, name, true, &file, &st), THOLE_OK);
    assert_int_equal(h->files->ops->append(file, stream->data, stream->size, &st), THOLE_OK);
    assert_int_equal(h->files->ops->append(file, trailer, sizeof trailer, &st), THOLE_OK);
    assert_int_equal(h->files->ops->commit(file, name, &st), THOLE_OK);
}

/* The lost group may have had another entry at the same index and term as the forced group. A
 * snapshot of that entry may reappear after a crash. */
static void test_engine_start_takes_no_snapshot_of_another_epoch(void **state)
{
    (void)state;
    struct cluster *c = compacting(1, 1, "tally", 66);
    struct bytes stream = {0};
    char name[ENGINE_NAME_BYTES];
    propose_many(c, 300, "some payload of a few bytes");
    cluster_run(c, 500);
    assert_int_equal(force_wait(c, 0, SHARD, 1), THOLE_OK);
    propose_many(c, 20, "x");
    cluster_run(c, 500);
    struct engine_replica_status s = status_of(c, 0);
    forge(&c->hosts[0], s.last_index, s.last_term, 0, &stream);
    host_crash(c, 0);
    (void)snprintf(name, sizeof name, "1-%" PRIu64 ".snap", s.last_index);
    put_file(&c->hosts[0], name, &stream);
    host_start(c, 0);
    cluster_wait_leader(c);
    assert_int_equal(query_ok(c, 0).count, 320);
    bytes_deinit(&stream);
    cluster_free(c);
}

static void deliver(struct cluster *c, int h, uint64_t transfer, uint64_t index, uint64_t term,
                    const struct bytes *stream)
{
    struct codec_header head;
    struct thole_status st;
    assert_int_equal(
        codec_header_decode(slice_of(stream->data + 4, get_le32(stream->data)), &head, &st),
        THOLE_OK);
    struct codec_chunk chunk = {.shard_id = SHARD,
                                .from = 1,
                                .to = (uint64_t)h + 1,
                                .term = 50,
                                .transfer = transfer,
                                .index = index,
                                .index_term = term,
                                .config = head.config,
                                .data = bytes_slice(stream),
                                .last = true,
                                .total_checksum = hash64(stream->data, stream->size, 0)};
    engine_deliver(c->hosts[h].engine, &c->hosts[0].uuid, c->hosts[0].incarnation,
                   ENGINE_LANE_SNAPSHOT, codec_chunk_frame(&chunk));
    codec_release(head.arena);
    cluster_run(c, 1000);
}

static void snapshot_of(const char *machine, const char *text, uint64_t epoch, struct bytes *out)
{
    struct cluster *c = compacting(1, 1, machine, 67);
    propose_many(c, 300, text);
    cluster_run(c, 500);
    forge(&c->hosts[0], 400, 40, epoch, out);
    cluster_free(c);
}

/* Nor does a start accept a snapshot from a later term of the lost group. */
static void check_snapshot_of_a_later_term(const char *machine)
{
    struct cluster *c = compacting(3, 3, machine, 68);
    struct bytes old = {0};
    propose_many(c, 300, "some payload of a few bytes");
    cluster_run(c, 500);
    snapshot_of(machine, "what is lost, as many bytes", 0, &old);
    host_crash(c, 0);
    host_crash(c, 1);
    assert_int_equal(force_wait(c, 2, SHARD, 1), THOLE_OK);
    struct engine_replica_status before = status_of(c, 2);
    uint64_t hash = stale_state(c, 2).hash;
    for (uint64_t transfer = 1; transfer < 4; transfer++) {
        deliver(c, 2, transfer, 400, 40, &old);
    }
    struct engine_replica_status after = status_of(c, 2);
    assert_true(after.leader_ready && after.term == before.term);
    assert_int_equal(stale_state(c, 2).hash, hash);
    host_crash(c, 2);
    host_start(c, 2);
    cluster_wait_leader(c);
    assert_int_equal(query_ok(c, 2).hash, hash);
    bytes_deinit(&old);
    cluster_free(c);
}

/* What a new replica stores of a snapshot stream; NULL: no file of its name exists. */
static uint64_t received(const struct bytes *there, const struct bytes *stream)
{
    struct cluster *c = compacting(2, 1, "tally", 67);
    host_join(c, 1);
    if (there != NULL) {
        put_file(&c->hosts[1], "2-400.snap", there);
    }
    for (uint64_t transfer = 1; transfer < 4; transfer++) {
        deliver(c, 1, transfer, 400, 40, stream);
    }
    assert_int_equal(status_of(c, 1).applied, 400);
    uint64_t hash = stale_state(c, 1).hash;
    cluster_free(c);
    return hash;
}

static void test_engine_snapshot_of_the_lost_group_changes_nothing_after_force(void **state)
{
    (void)state;
    check_late_snapshot("tally");
    check_late_snapshot("tally-plain");
    check_late_snapshot("ledger");
    check_snapshot_of_a_later_term("tally");
    check_snapshot_of_a_later_term("tally-plain");
}

/* A new replica received the file of a snapshot of the lost group. Then the forced group sends its
 * own snapshot of the same index and term. */
static void test_engine_received_snapshot_is_of_the_announced_epoch(void **state)
{
    (void)state;
    struct bytes old = {0}, new = {0};
    snapshot_of("tally", "what is lost, as many bytes", 0, &old);
    snapshot_of("tally", "some payload of a few bytes", 1, &new);
    assert_int_not_equal(received(NULL, &old), received(NULL, &new));
    assert_int_equal(received(&old, &new), received(NULL, &new));
    bytes_deinit(&old);
    bytes_deinit(&new);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_force_recovers_from_quorum_loss),
        cmocka_unit_test(test_engine_force_gives_no_session_out_twice),
        cmocka_unit_test(test_engine_force_survives_a_crash_or_never_was),
        cmocka_unit_test(test_engine_snapshot_of_the_lost_group_changes_nothing_after_force),
        cmocka_unit_test(test_engine_start_takes_no_snapshot_of_another_epoch),
        cmocka_unit_test(test_engine_received_snapshot_is_of_the_announced_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
