/* Snapshots of persistent machines: sent while they are written, restored while they arrive. This
 * machine reads the first bytes only, so the engine alone handles the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/engine/frame_codec.h"
#include "shards/engine/test/harness.h"

#include <cmocka.h>

#define BALLAST (6 * MIB + 17)

static struct cluster *ledgers(int hosts, int voters, uint64_t seed)
{
    struct cluster *c = cluster_new(hosts, seed);
    c->machine = "ledger";
    c->compact_log_bytes = 4000;
    c->keep_log_bytes = 500;
    cluster_bootstrap(c, voters);
    for (int h = 0; h < hosts; h++) {
        ledger_disk_set_ballast(c->hosts[h].ledger, BALLAST);
    }
    return c;
}

static void propose_many(struct cluster *c, int n)
{
    for (int i = 0; i < n; i++) {
        propose_ok(c, "some payload of a few bytes");
    }
}

/* A follower that needs a snapshot; its transfer is about to start. */
static int leave_behind(struct cluster *c)
{
    propose_many(c, 10);
    int behind = (cluster_wait_leader(c) + 1) % 3;
    c->delay_ms_max = 20;
    isolate(c, behind, true);
    propose_many(c, 400);
    cluster_run(c, 500);
    isolate(c, behind, false);
    return behind;
}

static void count_name(void *ctx, const char *name)
{
    (void)name;
    ++*(int *)ctx;
}

static int files_of(struct host *h)
{
    int count = 0;
    h->files->ops->list(h->files, count_name, &count);
    return count;
}

static void test_engine_stream_is_no_file(void **state)
{
    (void)state;
    struct cluster *c = ledgers(3, 3, 51);
    int behind = leave_behind(c), leader = cluster_wait_leader(c);
    c->delay_ms_max = 0; /* chunks stay in order */
    while (stale_state(c, behind).count != 410) {
        cluster_run(c, 1);
        assert_int_equal(files_of(&c->hosts[behind]), 0);
        assert_int_equal(files_of(&c->hosts[leader]), 0);
    }
    assert_in_range(c->snapshot_bytes, BALLAST, 2 * BALLAST);
    cluster_run(c, 500);
    assert_int_equal(ledger_disk_spaces(c->hosts[behind].ledger), 1);
    cluster_free(c);
}

static void test_engine_stream_survives_a_lossy_link(void **state)
{
    (void)state;
    for (uint64_t seed = 52; seed < 56; seed++) {
        struct cluster *c = ledgers(3, 3, seed);
        int behind = leave_behind(c);
        c->drop = 0.2;
        RUN_UNTIL(c, 60000, stale_state(c, behind).count == 410);
        c->drop = 0;
        propose_many(c, 5);
        RUN_UNTIL(c, 20000, stale_state(c, behind).count == 415);
        cluster_free(c);
    }
}

/* A partial stream is discarded, whenever its sender crashes. */
static void test_engine_half_a_stream_is_never_installed(void **state)
{
    (void)state;
    for (uint64_t bytes = 1; bytes < BALLAST; bytes += LIMIT_CHUNK_BYTES / 2) {
        struct cluster *c = ledgers(3, 3, 57);
        int behind = leave_behind(c), leader = cluster_wait_leader(c);
        RUN_UNTIL(c, 20000, c->snapshot_bytes >= bytes);
        uint64_t seen = c->snapshot_bytes;
        for (int h = 0; h < 3; h++) {
            if (h != behind) {
                host_crash(c, h);
            }
        }
        for (int i = 0; i < 100; i++) {
            cluster_run(c, 1000); /* beyond every timeout */
            assert_true(stale_state(c, behind).count == 10 || seen >= BALLAST);
        }
        assert_false(status_of(c, behind).failed);
        host_start(c, (leader + 1) % 3 == behind ? (leader + 2) % 3 : (leader + 1) % 3);
        RUN_UNTIL(c, 60000, stale_state(c, behind).count == 410);
        cluster_run(c, 1000);
        assert_int_equal(ledger_disk_spaces(c->hosts[behind].ledger), 1);
        cluster_free(c);
    }
}

static void test_engine_receiver_that_lost_a_stream_gets_another(void **state)
{
    (void)state;
    struct cluster *c = ledgers(3, 3, 58);
    int behind = leave_behind(c);
    RUN_UNTIL(c, 20000, c->snapshot_bytes >= BALLAST / 2);
    host_crash(c, behind);
    host_start(c, behind);
    RUN_UNTIL(c, 10000, stale_state(c, behind).count == 410);
    cluster_run(c, 1000);
    assert_int_equal(ledger_disk_spaces(c->hosts[behind].ledger), 1);
    cluster_free(c);
}

/* As after an election that the same leader won. */
static void test_engine_asked_again_sends_one_stream(void **state)
{
    (void)state;
    struct cluster *c = ledgers(3, 3, 63);
    int behind = leave_behind(c), leader = cluster_wait_leader(c);
    RUN_UNTIL(c, 20000, c->snapshot_bytes >= BALLAST / 3);
    assert_true(status_of(c, leader).sends_snapshot);
    struct replica *r = engine__find_replica(c->hosts[leader].engine, (uint64_t)leader + 1);
    struct raft_peer_request again = {.peer = (uint64_t)behind + 1, .min_index = 1};
    (void)worker_assume(r->loop->w);
    engine__snapshot_wanted(r->loop, r, &again);
    (void)worker_assume(NULL);
    cluster_run(c, 1);
    assert_int_equal(r->work->sending, 1);
    replica_unref(r);
    RUN_UNTIL(c, 10000, stale_state(c, behind).count == 410);
    RUN_UNTIL(c, 1000, !status_of(c, leader).sends_snapshot);
    cluster_free(c);
}

static void test_engine_replica_is_removed_in_the_middle_of_a_stream(void **state)
{
    (void)state;
    struct cluster *c = ledgers(3, 3, 59);
    int behind = leave_behind(c);
    struct done d = {0};
    RUN_UNTIL(c, 20000, c->snapshot_bytes >= BALLAST / 2);
    engine_replica_remove(c->hosts[behind].engine, (uint64_t)behind + 1, on_done, &d);
    RUN_UNTIL(c, 5000, d.done);
    assert_int_equal(d.st.code, THOLE_OK);
    cluster_run(c, 2000);
    assert_int_equal(ledger_disk_spaces(c->hosts[behind].ledger), 0);
    assert_int_equal(files_of(&c->hosts[behind]), 0);
    cluster_free(c);
}

static void test_engine_sender_is_removed_in_the_middle_of_a_stream(void **state)
{
    (void)state;
    struct cluster *c = ledgers(3, 3, 60);
    int behind = leave_behind(c), leader = cluster_wait_leader(c);
    struct done d = {0};
    RUN_UNTIL(c, 20000, c->snapshot_bytes >= BALLAST / 2);
    engine_replica_remove(c->hosts[leader].engine, (uint64_t)leader + 1, on_done, &d);
    RUN_UNTIL(c, 5000, d.done);
    assert_int_equal(ledger_disk_spaces(c->hosts[leader].ledger), 0);
    RUN_UNTIL(c, 60000, stale_state(c, behind).count == 410);
    cluster_free(c);
}

/* ---- Streams made by hand -------------------------------------------------------------------- */

struct stream {
    struct bytes bytes, config;
    uint64_t index, term;
};

/* Of host 0's replica. */
static void make_stream(struct cluster *c, struct stream *s)
{
    struct replica *r = engine__find_replica(c->hosts[0].engine, 1);
    struct bytes head = {0};
    struct tally t = {.count = 1000000, .hash = 1};
    *s = (struct stream){.index = r->applied, .term = status_of(c, 0).term};
    raft_config_encode(raft_config(r->core), &s->config);
    struct codec_header h = {.shard_id = SHARD,
                             .index = s->index,
                             .index_term = s->term,
                             .machine_type = slice_str("ledger"),
                             .config = bytes_slice(&s->config),
                             .machine_version = 1};
    codec_header_encode(&h, &head);
    put_le32(bytes_extend(&s->bytes, 4), (uint32_t)head.size);
    bytes_append_slice(&s->bytes, bytes_slice(&head));
    put_le32(bytes_extend(&s->bytes, 4), 0); /* no sessions */
    bytes_append(&s->bytes, &t, sizeof t);
    bytes_append(&s->bytes, "more", 4);
    bytes_deinit(&head);
    replica_unref(r);
}

static void free_stream(struct stream *s)
{
    bytes_deinit(&s->bytes);
    bytes_deinit(&s->config);
}

/* The bytes [from, to) of it to host 1, from host 0. */
static void deliver(struct cluster *c, const struct stream *s, uint64_t transfer, size_t from,
                    size_t to, uint64_t total)
{
    struct codec_chunk chunk = {.shard_id = SHARD,
                                .from = 1,
                                .to = 2,
                                .term = status_of(c, 0).term,
                                .transfer = transfer,
                                .index = s->index,
                                .index_term = s->term,
                                .config = from == 0 ? bytes_slice(&s->config) : (struct slice){0},
                                .offset = from,
                                .data = slice_of(s->bytes.data + from, to - from),
                                .last = to == s->bytes.size,
                                .total_checksum = total};
    engine_deliver(c->hosts[1].engine, &c->hosts[0].uuid, c->hosts[0].incarnation,
                   ENGINE_LANE_SNAPSHOT, codec_chunk_frame(&chunk));
    cluster_run(c, 100);
}

static bool is_installed(struct cluster *c)
{
    struct replica *r = engine__find_replica(c->hosts[1].engine, 2);
    bool installed = r->generation > 0;
    assert_int_equal(r->machine->generation, r->generation);
    assert_int_equal(ledger_disk_spaces(c->hosts[1].ledger), 1);
    replica_unref(r);
    return installed;
}

static void test_engine_stream_with_a_wrong_checksum_is_refused(void **state)
{
    (void)state;
    struct stream s;
    struct cluster *c = ledgers(2, 1, 61);
    propose_many(c, 20);
    host_join(c, 1);
    make_stream(c, &s);
    size_t half = s.bytes.size - 10, all = s.bytes.size;
    uint64_t checksum = hash64(s.bytes.data, all, 0);
    deliver(c, &s, 1, 0, half, 0);
    deliver(c, &s, 1, half, all, checksum + 1);
    assert_false(is_installed(c));
    deliver(c, &s, 2, half, all, checksum); /* the earlier chunks belonged to another transfer */
    assert_false(is_installed(c));
    deliver(c, &s, 3, 0, half, 0);
    deliver(c, &s, 4, 0, half, 0); /* starts anew, as soon as the previous transfer has ended */
    deliver(c, &s, 4, 0, half, 0);
    deliver(c, &s, 3, half, all, checksum);
    assert_false(is_installed(c));
    deliver(c, &s, 4, half, all, checksum);
    assert_true(is_installed(c));
    free_stream(&s);
    cluster_free(c);
}

static void test_engine_stream_of_another_index_is_refused(void **state)
{
    (void)state;
    struct stream s;
    struct cluster *c = ledgers(2, 1, 62);
    propose_many(c, 20);
    host_join(c, 1);
    make_stream(c, &s);
    uint64_t checksum = hash64(s.bytes.data, s.bytes.size, 0);
    s.index--;
    deliver(c, &s, 1, 0, s.bytes.size, checksum);
    assert_false(is_installed(c));
    s.index++;
    deliver(c, &s, 2, 0, s.bytes.size, checksum);
    assert_true(is_installed(c));
    free_stream(&s);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_stream_is_no_file),
        cmocka_unit_test(test_engine_stream_survives_a_lossy_link),
        cmocka_unit_test(test_engine_half_a_stream_is_never_installed),
        cmocka_unit_test(test_engine_receiver_that_lost_a_stream_gets_another),
        cmocka_unit_test(test_engine_asked_again_sends_one_stream),
        cmocka_unit_test(test_engine_replica_is_removed_in_the_middle_of_a_stream),
        cmocka_unit_test(test_engine_sender_is_removed_in_the_middle_of_a_stream),
        cmocka_unit_test(test_engine_stream_with_a_wrong_checksum_is_refused),
        cmocka_unit_test(test_engine_stream_of_another_index_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
