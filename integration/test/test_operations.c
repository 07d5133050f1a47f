/* Operations on running clusters: drain, cancel, decommission, pause, and what becomes of them when the
 * host that carries them out is killed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

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

/* Rows and observed state agree: all run, nothing is on its way. */
static void expect_whole(struct cluster *c, int via)
{
    char out[65536];
    cli_ok(c, via, "wait --for ready --timeout 60s pool/p");
    expect_lines(c, via, "get replicas -o wide", "removing", 0);
    expect_lines(c, via, "get operations", "pending", 0);
    expect_lines(c, via, "get operations", "running", 0);
    assert_int_equal(cli(c, via, out, sizeof out, "get replicas -o wide"), 0);
    assert_int_equal(count_lines(out, "p-"), 3 * SHARDS);
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
    /* Again: it is empty, so a new one ends at once. */
    text = cli_ok(c, 0, "host drain h2 --wait --timeout 60s");
    assert_int_equal(operation_of(text), 2);
    cli_ok(c, 0, "host undrain h2");
    assert_int_not_equal(cli(c, 0, out, sizeof out, "host undrain h2"), 0);
    expect_lines(c, 0, "get hosts", "active", 4);
    expect_whole(c, 0);
    cluster_free(c);
}

/* Three voters and three hosts: nothing can move, which the operation says. */
static void test_drain_that_cannot_end_says_why_and_is_cancelled(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char out[65536];
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, POOL);
    int id = operation_of(cli_ok(c, 1, "host drain h3"));
    expect_lines(c, 1, "get operations", "cannot move", 1);
    /* The same again is the same operation. */
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

/* ---- Faults ---------------------------------------------------------------------------------- */

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Kill the leader of shard zero after `ms`, and bring it back. `spared` is never killed. */
static void kill_zero_leader(struct cluster *c, long ms, int spared)
{
    pause_ms(ms); /* the instant of the fault, not a wait for anything */
    int leader = shard_leader(c, spared, "zero");
    if (leader < 0 || leader == spared) {
        return;
    }
    host_kill(c, leader);
    host_restart(c, leader);
    cluster_wait_ready(c, leader, 30000);
}

static int rounds(void)
{
    const char *text = getenv("THOLE_OPERATION_FAULTS");
    return text != NULL ? atoi(text) : 5;
}

static void test_drain_survives_the_death_of_zeros_leader(void **state)
{
    (void)state;
    struct cluster *c = four_hosts();
    int last = 0;
    srand(17);
    for (int round = 0; round < rounds(); round++) {
        int host = 1 + round % 4;
        int via = host % 4; /* another one than h<host> */
        int id = operation_of(cli_ok(c, via, "host drain h%d", host));
        assert_true(id > last);
        kill_zero_leader(c, rand() % 1500, via);
        cli_ok(c, via, "operation wait %d --timeout 60s", id);
        last = operation_of(cli_ok(c, via, "host undrain h%d", host));
        assert_true(last > id);
        expect_lines(c, via, "get hosts", "active", 4);
    }
    expect_whole(c, 0);
    cluster_free(c);
}

static bool ended(void *ctx)
{
    struct expect *e = ctx;
    return !host_running(e->c, e->via);
}

/* Each time another host takes the place of the one that went. */
static void test_decommission_survives_the_death_of_zeros_leader(void **state)
{
    (void)state;
    struct cluster *c = four_hosts();
    int last = 0;
    srand(18);
    for (int round = 0; round < rounds(); round++) {
        char command[512];
        int id = operation_of(cli_ok(c, 0, "host decommission h4"));
        assert_true(id > last);
        last = id;
        kill_zero_leader(c, rand() % 1500, 0);
        cli_ok(c, 0, "operation wait %d --timeout 60s", id);
        eventually(30000, "the removed host ends", ended, &(struct expect){.c = c, .via = 3});
        expect_lines(c, 0, "get hosts", "live", 3);
        snprintf(command, sizeof command, "rm -r '%s'", c->hosts[3].data_dir);
        assert_int_equal(system(command), 0);
        cluster_join(c, 3, 0);
    }
    expect_whole(c, 0);
    expect_lines(c, 0, "get hosts", "live", 4);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drain_moves_leaders_and_replicas_and_can_be_ended),
        cmocka_unit_test(test_drain_that_cannot_end_says_why_and_is_cancelled),
        cmocka_unit_test(test_decommission_empties_and_removes_the_host),
        cmocka_unit_test(test_paused_placement_holds_a_drain_until_resumed),
        cmocka_unit_test(test_drain_survives_the_death_of_zeros_leader),
        cmocka_unit_test(test_decommission_survives_the_death_of_zeros_leader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
