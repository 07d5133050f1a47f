/* Operations on running clusters: drain, cancel, decommission, move, pause. test_faults_*.c kill
 * the host that carries them out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "base/buf.h"
#include "bus/bus.h"
#include "integration/test/cluster.h"
#include "proto/decode.h"
#include "thole/v1/operations.upb.h"

#define SHARDS 8
#define POOL "kind: ShardPool\nname: p\nspec: {count: 8, shard: {type: kv, voters: 3}}\n"

static struct cluster *four_hosts(void)
{
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    cluster_join(c, 3, 0);
    apply_yaml(c, 0, POOL);
    return c;
}

/* "operations/7 drain hosts/h1 pending" -> 7 */
static int operation_of(const char *text)
{
    const char *at = strstr(text, "operations/");
    assert_non_null(at);
    return (int)strtol(at + strlen("operations/"), NULL, 10);
}

/* Rows and observed state agree: every replica runs and nothing is under way. Balance may act for
 * moments. */
static void expect_whole(struct cluster *c, int via)
{
    cli_ok(c, via, "wait --for ready --timeout 60s pool/p");
    expect_lines(c, via, "get replicas -o wide", "removing", 0);
    expect_lines(c, via, "get operations", "pending", 0);
    expect_lines(c, via, "get operations", "running", 0);
    expect_lines(c, via, "get replicas -o wide", "p-", 3 * SHARDS);
}

static void test_drain_moves_leaders_and_replicas_and_can_be_ended(void **state)
{
    (void)state;
    struct cluster *c = four_hosts();
    char out[65536];
    const char *text = cli_ok(c, 0, "host drain h2 --wait --timeout 60s");
    assert_int_equal(operation_of(text), 1);
    assert_non_null(strstr(text, "operations/1 done"));
    assert_non_null(strstr(text, "operation cancel 1"));
    assert_int_equal(cli(c, 3, out, sizeof out, "get replicas --host h2"), 0);
    assert_int_equal(count_lines(out, "p-"), 0);
    expect_lines(c, 0, "get operations 1", "done", 1);
    expect_lines(c, 0, "get events --object operations/1", "Operation", 2);
    /* Drain it again: it is empty, so a new operation ends at once. */
    text = cli_ok(c, 0, "host drain h2 --wait --timeout 60s");
    assert_int_equal(operation_of(text), 2);
    cli_ok(c, 0, "host undrain h2");
    assert_int_not_equal(cli(c, 0, out, sizeof out, "host undrain h2"), 0);
    expect_lines(c, 0, "get hosts", "active", 4);
    expect_whole(c, 0);
    cluster_free(c);
}

/* Three voters on three hosts: nothing can move, and the operation says so. */
static void test_drain_that_cannot_end_says_why_and_is_cancelled(void **state)
{
    (void)state;
    struct cluster *c = cluster_of_peers(3, POOL);
    char out[65536];
    int id = operation_of(cli_ok(c, 1, "host drain h3"));
    expect_lines(c, 1, "get operations", "cannot move", 1);
    /* The same drain again is the same operation. */
    assert_int_equal(operation_of(cli_ok(c, 0, "host drain h3")), id);
    cli_ok(c, 2, "operation cancel %d", id);
    assert_int_equal(cli(c, 0, out, sizeof out, "operation cancel %d", id), 0);
    assert_int_equal(cli(c, 0, out, sizeof out, "operation wait %d", id), 1);
    assert_non_null(strstr(out, "cancelled"));
    expect_lines(c, 0, "get hosts", "active", 3);
    expect_whole(c, 0);
    assert_int_equal(cli(c, 0, out, sizeof out, "operation cancel 77"), 3);
    cluster_free(c);
}

static void test_decommission_empties_and_removes_the_host(void **state)
{
    (void)state;
    struct cluster *c = four_hosts();
    cli_ok(c, 0, "host decommission h2 --wait --timeout 90s");
    expect_lines(c, 0, "get hosts", "h2", 0);
    expect_lines(c, 0, "get hosts", "live", 3);
    expect_whole(c, 0);
    cluster_free(c);
}

/* The host has the only copy of a shard and the only vote of shard zero, and no other host may take
 * them. The operation waits and says for what. Killed meanwhile, the host returns with all of its
 * data. */
static void test_decommission_waits_until_nothing_needs_the_host(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_dev(c);
    cli_ok(c, 0, "delete shard default --wait"); /* so that only one shard is named as the reason */
    apply_yaml(c, 0, "kind: Shard\nname: only\nspec: {type: kv, voters: 1}\n");
    cluster_join(c, 1, 0);
    cli_ok(c, 0, "propose only 'put a kept'");
    cli_ok(c, 0, "host cordon h2");
    int id = operation_of(cli_ok(c, 0, "host decommission h1"));
    expect_lines(c, 0, "get operations", "shards/only cannot move", 1);
    host_kill(c, 0);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    assert_non_null(strstr(cli_ok(c, 0, "query only 'get a'"), "kept"));
    cli_ok(c, 0, "delete shard only --wait");
    expect_lines(c, 0, "get operations", "shards/zero needs this host", 1);
    host_kill(c, 0);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    cli_ok(c, 0, "host uncordon h2");
    cli_ok(c, 1, "operation wait %d --timeout 30s", id);
    assert_int_equal(WEXITSTATUS(host_wait_exit(c, 0, 20000)), 5);
    cli_ok(c, 1, "wait --for ready shard/zero");
    cluster_free(c);
}

static void test_paused_placement_holds_a_drain_until_resumed(void **state)
{
    (void)state;
    struct cluster *c = four_hosts();
    char out[65536];
    cli_ok(c, 0, "pause placement balance");
    int id = operation_of(cli_ok(c, 0, "host drain h1"));
    expect_lines(c, 0, "get operations", "placement controller is paused", 1);
    assert_int_not_equal(cli(c, 0, out, sizeof out, "operation wait %d --timeout 1s", id), 0);
    assert_int_equal(cli(c, 1, out, sizeof out, "get replicas --host h1"), 0);
    assert_true(count_lines(out, "p-") > 0);
    cli_ok(c, 0, "resume");
    assert_int_not_equal(cli(c, 0, out, sizeof out, "resume"), 0);
    cli_ok(c, 0, "operation wait %d --timeout 60s", id);
    cli_ok(c, 0, "host undrain h1");
    expect_whole(c, 0);
    cluster_free(c);
}

/* MoveShard as a client repeats it when it does not know the outcome. Returns the operation; 0:
 * refused. */
static uint64_t move_once(struct cluster *c, int via, const char *from, const char *to,
                          const char *request_id)
{
    struct thole_status st = {0};
    struct bus_channel *channel = NULL;
    struct buf *reply = NULL;
    size_t size = 0;
    uint64_t id = 0;
    upb_Arena *arena = upb_Arena_New();
    thole_v1_MoveShardRequest *q = thole_v1_MoveShardRequest_new(arena);
    thole_v1_MoveShardRequest_set_shard(q, upb_StringView_FromString("s"));
    thole_v1_MoveShardRequest_set_from(q, upb_StringView_FromString(from));
    thole_v1_MoveShardRequest_set_to(q, upb_StringView_FromString(to));
    thole_v1_MoveShardRequest_set_request_id(q, upb_StringView_FromString(request_id));
    char *bytes = thole_v1_MoveShardRequest_serialize(q, arena, &size);
    assert_int_equal(bus_channel_new(c->hosts[via].address, &channel, &st), THOLE_OK);
    if (bus_channel_call(channel, "/thole.v1.Operations/MoveShard", slice_of(bytes, size), 10000,
                         &reply, &st) == THOLE_OK) {
        id = thole_v1_Operation_id(
            PROTO_DECODE(thole_v1_Operation, slice_of(reply->data, reply->size), arena));
        buf_unref(reply);
    }
    bus_channel_free(channel);
    upb_Arena_Free(arena);
    return id;
}

/* Repeat it through another host and much later: when it would move the replica again, and when it
 * would be refused. */
static void expect_moved_once(struct cluster *c, uint64_t id)
{
    assert_int_equal(move_once(c, 2, "h4", "h1", "once"), id);
    cli_ok(c, 0, "operation wait %d --timeout 60s", (int)id);
    assert_int_equal(move_once(c, 1, "h4", "h1", "once"), id);
    assert_int_equal(move_once(c, 1, "h4", "h1", "another"), 0);
    uint64_t back = move_once(c, 0, "h1", "h4", "back");
    assert_true(back > id);
    cli_ok(c, 0, "operation wait %d --timeout 60s", (int)back);
    assert_int_equal(move_once(c, 3, "h4", "h1", "once"), id);
    apply_yaml(c, 0, "kind: Host\nname: h1\nspec: {tags: {zone: b}}\n");
    assert_int_equal(move_once(c, 2, "h4", "h1", "once"), id);
    assert_int_equal(move_once(c, 2, "h4", "h1", "third"), 0);
    expect_lines(c, 2, "get replicas --shard s", "h4", 1);
}

/* The result of a move is stable. A move against the spec is refused with the reason. ^C says how
 * to continue. */
static void test_move_goes_where_it_is_told_and_stays(void **state)
{
    (void)state;
    struct cluster *c = four_hosts();
    char out[65536];
    apply_yaml(c, 0, "kind: Host\nname: h4\nspec: {tags: {zone: b}}\n");
    apply_yaml(c, 0,
               "kind: Shard\nname: s\nspec: {type: kv, voters: 3, constraints: "
               "[{key: zone, operator: NOT_IN, values: [b]}]}\n");
    assert_int_equal(cli(c, 0, out, sizeof out, "shard move s --from h1 --to h4"), 1);
    assert_non_null(strstr(out, "does not satisfy the constraints"));
    assert_int_equal(cli(c, 0, out, sizeof out, "shard move s --from h1 --to h2"), 1);
    assert_non_null(strstr(out, "has a replica of this shard"));
    apply_yaml(c, 0, "kind: Host\nname: h4\nspec: {tags: {zone: a}}\n");
    cli_ok(c, 1, "shard move s --from h1 --to h4 --wait --timeout 60s");
    expect_lines(c, 2, "get replicas --shard s", "h4", 1);
    assert_int_equal(cli(c, 2, out, sizeof out, "get replicas --shard s"), 0);
    assert_int_equal(count_lines(out, "h1"), 0);
    expect_moved_once(c, move_once(c, 0, "h4", "h1", "once"));
    /* Interrupt a wait that never ends by itself. */
    int id = operation_of(cli_ok(c, 0, "pause placement"));
    int interrupted = cli(c, 0, out, sizeof out,
                          "--version; timeout -s INT 2 '%s' --endpoints %s "
                          "operation wait %d",
                          THOLE_PATH, c->hosts[0].address, id);
    assert_int_not_equal(interrupted, 0);
    assert_non_null(strstr(out, "detached; resume with: thole operation wait"));
    cli_ok(c, 0, "resume");
    expect_whole(c, 0);
    cluster_free(c);
}

/* The largest number of shards that a host leads, minus the smallest. */
static int leads_apart(struct cluster *c, int via)
{
    int leads[3] = {0};
    int least = SHARDS, most = 0;
    for (int i = 0; i < SHARDS; i++) {
        char shard[16];
        snprintf(shard, sizeof shard, "p-%d", i);
        leads[leader_of(c, via, shard)]++;
    }
    for (int i = 0; i < 3; i++) {
        least = leads[i] < least ? leads[i] : least;
        most = leads[i] > most ? leads[i] : most;
    }
    return most - least;
}

/* Rows may still show a leader from before balance was paused. Move the shard again until all rows
 * agree. */
static bool h2_leads_all(void *ctx)
{
    struct cluster *c = ctx;
    bool all = true;
    for (int i = 0; i < SHARDS; i++) {
        char shard[16];
        char out[16384];
        snprintf(shard, sizeof shard, "p-%d", i);
        if (leader_of(c, 0, shard) == 1) {
            continue;
        }
        all = false;
        const char *row = strchr(cli_ok(c, 0, "get replicas --shard %s --host h2", shard), '\n');
        assert_non_null(row);
        (void)cli(c, 0, out, sizeof out, "shard transfer-leader %s --to %d", shard,
                  (int)strtol(row, NULL, 10));
    }
    return all;
}

/* While balance is paused no controller moves leaders. */
static void test_rebalance_evens_out_leaders(void **state)
{
    (void)state;
    struct cluster *c = cluster_of_peers(3, POOL);
    cli_ok(c, 0, "pause balance");
    eventually(60000, "h2 leads all", h2_leads_all, c);
    cli_ok(c, 2, "rebalance --wait --timeout 60s");
    assert_in_range(leads_apart(c, 1), 0, 1);
    expect_lines(c, 0, "get operations", "running", 1); /* the pause, and nothing else */
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drain_moves_leaders_and_replicas_and_can_be_ended),
        cmocka_unit_test(test_drain_that_cannot_end_says_why_and_is_cancelled),
        cmocka_unit_test(test_decommission_empties_and_removes_the_host),
        cmocka_unit_test(test_decommission_waits_until_nothing_needs_the_host),
        cmocka_unit_test(test_paused_placement_holds_a_drain_until_resumed),
        cmocka_unit_test(test_move_goes_where_it_is_told_and_stays),
        cmocka_unit_test(test_rebalance_evens_out_leaders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
