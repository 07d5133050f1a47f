/* Status, conditions and health describe the present: with stopped hosts, leaders without a quorum,
 * and nearly full disks. Transfers of leadership. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "integration/test/cluster.h"

#define SPECS                                                  \
    "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n" \
    "---\nkind: ShardPool\nname: p\nspec: {count: 4, shard: {type: kv, voters: 3}}\n"

/* Two of three hosts stop. Within seconds the third host reports that nothing is ready; later, that
 * everything is. */
static void test_one_of_three_hosts_says_that_nothing_is_ready(void **state)
{
    (void)state;
    struct cluster *c = cluster_of_peers(3, SPECS);
    char out[65536];
    cli_ok(c, 0, "wait --for ready shard/orders pool/p");
    host_kill(c, 1);
    host_pause(c, 2, true);
    expect_soon(c, 0, 3000, "status", "no: this host has known no leader of shard zero for");
    expect_soon(c, 0, 2000, "status", "shards    6, 0 ready");
    expect_soon(c, 0, 5000, "get hosts --command-timeout 1s", "shard zero has no leader; --stale");
    expect_lines(c, 0, "get hosts --stale", "suspect", 2);
    expect_lines(c, 0, "get hosts --stale", "live", 1);
    assert_int_equal(cli(c, 0, out, sizeof out, "get shards --stale"), 0);
    assert_int_equal(count_lines(out, "ViewOld"), 6);
    uint64_t begin = now_ms();
    assert_int_not_equal(cli(c, 0, out, sizeof out, "wait --for ready shard/orders --timeout 1s"),
                         0);
    assert_non_null(strstr(out, "shard orders is not ready after 1 s; not ready: "));
    assert_int_not_equal(cli(c, 0, out, sizeof out, "wait --for ready pool/p --timeout 1s"), 0);
    assert_true(now_ms() - begin < 10000); /* the time that a call waits for a leader */
    host_pause(c, 2, false);
    host_restart(c, 1);
    cli_ok(c, 0, "wait --for ready --timeout 20s shard/orders pool/p");
    cluster_free(c);
}

/* A host without a replica of the shard judges by the rows, and by which hosts are silent. */
static void test_a_shard_without_a_quorum_is_not_ready_anywhere(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    cluster_join(c, 3, 0);
    cluster_join(c, 4, 0);
    expect_lines(c, 0, "get replicas --shard zero -o wide", "voter", 5);
    apply_yaml(c, 0, SPECS);
    cli_ok(c, 0, "wait --for ready shard/orders");
    char out[65536];
    int stopped = 0, other = -1;
    assert_int_equal(cli(c, 0, out, sizeof out, "get replicas --shard orders -o wide"), 0);
    for (int i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "h%d", i + 1);
        if (strstr(out, name) == NULL) {
            other = i;
        } else if (stopped < 2) {
            host_kill(c, i);
            stopped++;
        }
    }
    assert_true(other >= 0);
    expect_soon(c, other, 4000, "get shard orders -o json", "\"QuorumSilent\"");
    expect_soon(c, other, 5000, "get shard orders -o json", "do not answer; last confirmed ");
    expect_soon(c, other, 4000, "get shard orders", "no (");
    assert_int_not_equal(
        cli(c, other, out, sizeof out, "wait --for ready shard/orders --timeout 1s"), 0);
    /* A command that needs one of these hosts says which. */
    for (int i = 0; i < 5; i++) {
        if (i != other && host_running(c, i)) {
            host_kill(c, i);
        }
    }
    snprintf(out, sizeof out, "snapshot save orders %s/orders.snap --stale --command-timeout 3s",
             c->dir);
    char *command = xstrdup(out);
    expect_soon(c, other, 10000, command, ": the host is not connected");
    expect_soon(c, other, 10000, command, "cannot save the snapshot: host h");
    free(command);
    cluster_free(c);
}

/* The counts of shard zero in `status` agree with the phases of its replicas in the same output. */
static bool counts_the_silent_host(void *ctx)
{
    struct cluster *c = ctx;
    char out[65536];
    assert_int_equal(cli(c, 0, out, sizeof out, "status"), 0);
    bool silent = strstr(out, "shard zero: Degraded: ReplicasSilent: 1 of 3") != NULL;
    if (silent && strstr(out, "3 voters, 2 live: 0 more may fail") == NULL) {
        fail_msg("a silent voter counts as live: %s", out);
    }
    return silent;
}

static void expect_not(const char *text, const char *needle)
{
    if (strstr(text, needle) != NULL) {
        fail_msg("\"%s\" in: %s", needle, text);
    }
}

static void apply_spec(struct cluster *c, int via, const char *name, int voters)
{
    char path[256];
    snprintf(path, sizeof path, "%s/spec.yaml", c->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "kind: Shard\nname: %s\nspec: {type: kv, voters: %d}\n", name, voters);
    fclose(f);
    cli_ok(c, via, "apply -f %s", path);
}

/* A shard of one voter gets two more, one of them on a paused host. Then the controllers are
 * paused. */
static void test_replicas_without_a_vote_do_not_count(void **state)
{
    (void)state;
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    char out[65536];
    int only = leader_of(c, 0, "orders");
    int silent = only == 2 ? 1 : 2;
    cli_ok(c, 0, "shard transfer-leader zero --to h%d", only + 1);
    host_pause(c, silent, true);
    expect_lines(c, only, "get hosts", "suspect", 1);
    apply_spec(c, only, "orders", 3);
    expect_not(cli_ok(c, only, "get shard orders"), "no (Running)");
    expect_lines(c, only, "get replicas --shard orders", "catching-up", 1);
    expect_lines(c, only, "get shard orders", "1/3", 1);
    expect_not(cli_ok(c, only, "get shard orders -o json"), "Silent");
    cli_ok(c, only, "pause");
    apply_spec(c, only, "later", 1);
    expect_lines(c, only, "get shard later", "no (Paused)", 1);
    expect_lines(c, 3 - only - silent, "status", "placement and membership controllers are paused",
                 2);
    expect_lines(c, only, "status", "paused    placement, membership, balance, ", 1);
    assert_int_equal(cli(c, only, out, sizeof out, "wait --for ready shard/later --timeout 1s"), 4);
    assert_non_null(strstr(out, "\"thole resume\" ends that"));
    cli_ok(c, only, "resume");
    host_pause(c, silent, false);
    cli_ok(c, only, "wait --for ready shard/orders shard/later --timeout 20s");
    cluster_free(c);
}

/* One of three hosts is killed. Then a shard with a replica there is deleted. */
static void test_a_killed_host_is_counted_at_once(void **state)
{
    (void)state;
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    cli_ok(c, 0, "shard transfer-leader zero --to h1");
    host_kill(c, 2);
    eventually(3000, "the silent host is counted", counts_the_silent_host, c);
    assert_non_null(strstr(cli_ok(c, 0, "delete shard orders"), "shards/orders deleting"));
    const char *shown = cli_ok(c, 0, "describe shard orders");
    assert_non_null(strstr(shown, "Ready      false   Removing"));
    host_restart(c, 2);
    cli_ok(c, 0, "wait --for deleted shard/orders --timeout 20s");
    cluster_free(c);
}

static void test_transfers_go_where_they_are_told_and_are_events(void **state)
{
    (void)state;
    struct cluster *c = cluster_of_peers(3, SPECS);
    char out[65536];
    cli_ok(c, 0, "wait --for ready shard/orders pool/p");
    cli_ok(c, 0, "pause balance"); /* which moves leaderships, too */
    int to = (leader_of(c, 0, "orders") + 1) % 3;
    uint64_t begin = now_ms();
    for (int i = 0; i < 3; i++) { /* the second and third one change nothing */
        const char *text = cli_ok(c, 0, "shard transfer-leader orders --to h%d", to + 1);
        assert_non_null(strstr(text, "is led by"));
    }
    assert_true(now_ms() - begin < 3000);
    expect_lines(c, 0, "get operations", "transfer-leader", 1);
    expect_lines(c, 0, "get events --object shards/orders", "by user", 1);
    assert_int_not_equal(cli(c, 0, out, sizeof out, "shard transfer-leader orders --to nobody"), 0);
    assert_non_null(strstr(out, "no replica on host"));
    /* Without a target every host, also the leader's, names the replica that leads now. */
    for (int i = 2; i < 4; i++) {
        int via = i == 2 ? to : (to + 1) % 3;
        const char *text = strstr(cli_ok(c, via, "shard transfer-leader orders"), " on h");
        assert_non_null(text);
        assert_int_not_equal(text[5] - '1', to);
        to = text[5] - '1';
        expect_lines(c, 0, "get operations", "transfer-leader", i);
        expect_lines(c, 0, "get events --object shards/orders", "by user", i);
    }
    cluster_free(c);
}

static void test_a_full_disk_loses_its_leaders_and_says_so(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    c->preload = FAULTY_DISK_PATH;
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, SPECS);
    cli_ok(c, 0, "wait --for ready shard/orders pool/p");
    int full = leader_of(c, 0, "zero");
    int via = (full + 1) % 3;
    host_set_fault(c, full, "", "low", true);
    expect_soon(c, via, 3000, "get hosts", "low space");
    expect_lines(c, via, "get events --object shards/zero", "by disk", 1);
    char full_name[32];
    snprintf(full_name, sizeof full_name, "  %s  ", c->hosts[full].name);
    expect_lines(c, via, "get shards", full_name, 0);
    cli_ok(c, full, "propose orders 'put a 1'");
    apply_yaml(c, full, "kind: Shard\nname: more\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, via, "wait --for ready shard/orders pool/p shard/more");
    expect_lines(c, via, "get replicas --shard more -o wide", c->hosts[full].name, 0);
    /* No other voter can take over: proposals are refused, and the conditions say why. */
    for (int i = 0; i < 3; i++) {
        if (i != full) {
            host_set_fault(c, i, "", "low", true);
        }
    }
    expect_soon(c, via, 5000, "get shard orders --stale", "no (LowSpace)");
    expect_soon(c, via, 5000, "status", "no: shard zero: the disk of its leader's host");
    host_set_fault(c, full, "", "low", false);
    cli_ok(c, via, "wait --for ready --timeout 20s shard/orders");
    expect_soon(c, via, 5000, "get shard orders", full_name); /* it can take over, and does */
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_of_three_hosts_says_that_nothing_is_ready),
        cmocka_unit_test(test_a_shard_without_a_quorum_is_not_ready_anywhere),
        cmocka_unit_test(test_replicas_without_a_vote_do_not_count),
        cmocka_unit_test(test_a_killed_host_is_counted_at_once),
        cmocka_unit_test(test_transfers_go_where_they_are_told_and_are_events),
        cmocka_unit_test(test_a_full_disk_loses_its_leaders_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
