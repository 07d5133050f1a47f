/* Deletions that cannot end, hosts that cannot be drained, and waits that cannot succeed say
 * why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

static struct cluster *cluster;
static char out[16384];

static int setup(void **state)
{
    (void)state;
    cluster = cluster_new();
    cluster_start_peers(cluster, 3);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cluster_free(cluster);
    return 0;
}

static void expect(const char *needle)
{
    if (strstr(out, needle) == NULL) {
        fail_msg("no \"%s\" in: %s", needle, out);
    }
}

static const char *file_of(const char *text)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/spec.yaml", cluster->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static void test_protected_specs_are_deleted_only_after_a_change(void **state)
{
    (void)state;
    apply_yaml(cluster, 0,
               "kind: Shard\nname: kept\nspec: {type: kv, voters: 1, deletion_protection: true}\n"
               "---\nkind: ShardPool\nname: p\n"
               "spec: {count: 2, shard: {type: kv, voters: 1, deletion_protection: true}}\n");
    assert_int_equal(cli(cluster, 1, out, sizeof out, "delete shard kept"), 1);
    expect(
        "shards/kept is protected from deletion; apply its spec with deletion_protection: false");
    assert_int_equal(cli(cluster, 1, out, sizeof out, "delete pool p"), 1);
    expect("pools/p is protected from deletion");
    const char *fewer =
        file_of("kind: ShardPool\nname: p\n"
                "spec: {count: 1, shard: {voters: 1, deletion_protection: true}}\n");
    assert_int_equal(cli(cluster, 1, out, sizeof out, "apply -f %s", fewer), 1);
    expect("cannot fall from 2 to 1: the shards are protected from deletion");
    assert_non_null(strstr(cli_ok(cluster, 0, "describe shard kept"), "Protected"));
    apply_yaml(cluster, 0,
               "kind: Shard\nname: kept\nspec: {type: kv, voters: 1}\n"
               "---\nkind: ShardPool\nname: p\nspec: {count: 2, shard: {voters: 1}}\n");
    cli_ok(cluster, 0, "delete shard kept --wait");
    cli_ok(cluster, 0, "delete pool p --wait");
}

/* A dead host has a replica of the deleted shard. */
static bool refuses_calls(void *ctx)
{
    (void)ctx;
    return cli(cluster, 0, out, sizeof out, "--command-timeout 2s propose orders 'put k v'") == 3 &&
           strstr(out, "being deleted") != NULL &&
           cli(cluster, 0, out, sizeof out, "--command-timeout 2s query orders 'get k'") == 3;
}

static void test_deletion_that_waits_for_a_dead_host_says_so(void **state)
{
    (void)state;
    static const char spec[] = "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n";
    apply_yaml(cluster, 0, spec);
    host_kill(cluster, 2);
    expect_lines(cluster, 0, "get hosts", " dead ", 1);
    cli_ok(cluster, 0, "delete shard orders");
    expect_lines(cluster, 0, "describe shard orders", "Ready      false   Deleting", 1);
    /* A caller learns at once that the shard is being deleted and that its call had no effect. */
    eventually(5000, "a call says that the shard is being deleted", refuses_calls, NULL);
    expect_lines(cluster, 0, "get shards", "deleting (waits for a host)", 1);
    assert_int_equal(
        cli(cluster, 0, out, sizeof out, "wait --for deleted shard/orders --timeout 1s"), 4);
    expect("waits for 1 replica on hosts that are dead, such as h3");
    expect("--timeout gives more time");
    /* Applying the same spec again is refused: the shard would disappear with the old one. */
    assert_int_equal(cli(cluster, 0, out, sizeof out, "apply -f %s", file_of(spec)), 1);
    expect("is being deleted; apply it again when it is gone");
    assert_int_equal(cli(cluster, 0, out, sizeof out, "diff -f %s", file_of(spec)), 2);
    expect("is being deleted");
    host_restart(cluster, 2);
    cli_ok(cluster, 0, "wait --for deleted shard/orders --timeout 30s");
    cli_ok(cluster, 0, "apply -f %s --wait --timeout 30s", file_of(spec));
    cli_ok(cluster, 0, "delete shard orders --wait --timeout 30s");
}

static void test_pool_takes_a_name_when_it_is_freed(void **state)
{
    (void)state;
    apply_yaml(cluster, 0, "kind: Shard\nname: p-1\nspec: {type: kv, voters: 1}\n");
    const char *path =
        file_of("kind: ShardPool\nname: p\nspec: {count: 3, shard: {type: kv, voters: 1}}\n");
    assert_int_equal(cli(cluster, 0, out, sizeof out, "apply -f %s --wait --timeout 3s", path), 4);
    expect("p-1 is a shard that is not of the pool");
    expect_lines(cluster, 0, "get pools", "the name p-1 is taken", 1);
    expect_lines(cluster, 0, "describe pool p", "p-1: a shard that is not of the pool", 1);
    expect_lines(cluster, 0, "get events --object pools/p", "PoolNameTaken", 1);
    /* The same spec again: says what is missing, and the pool tries again. */
    assert_int_equal(cli(cluster, 0, out, sizeof out, "apply -f %s", path), 0);
    expect("only 2 of 3 shards exist: shards/p-1 is a shard that is not of the pool");
    expect("pools/p unchanged");
    expect_lines(cluster, 0, "get events --object pools/p", "PoolNameTaken", 2);
    expect_lines(cluster, 0, "get pools", "the name p-1 is taken", 1);
    cli_ok(cluster, 0, "delete shard p-1 --wait --timeout 30s");
    cli_ok(cluster, 0, "wait --for ready pool/p --timeout 30s");
    expect_lines(cluster, 0, "get shards -o name", "shards/p-", 3);
    cli_ok(cluster, 0, "delete pool p --wait --timeout 30s");
}

static void test_drain_that_cannot_end_says_so_before_and_while_it_is_waited_for(void **state)
{
    (void)state;
    apply_yaml(cluster, 0, "kind: Shard\nname: wide\nspec: {type: kv, voters: 3}\n");
    assert_int_equal(cli(cluster, 0, out, sizeof out, "host drain h3 --dry-run"), 1);
    expect("replicas cannot leave; shards/wide cannot move: no host for 1 of 3 voters");
    assert_int_equal(cli(cluster, 0, out, sizeof out, "host decommission h3 --dry-run"), 1);
    expect("shards/wide cannot move");
    expect_lines(cluster, 0, "get hosts", "active", 3); /* nothing was done */
    assert_int_equal(cli(cluster, 0, out, sizeof out, "host drain h3 --wait --timeout 3s"), 4);
    expect("shards/wide cannot move: no host for 1 of 3 voters");
    expect("has not ended after 3 s");
    expect("--timeout gives more time");
    assert_null(strstr(out, "--command-timeout"));
    cli_ok(cluster, 0, "host undrain h3");
    cli_ok(cluster, 0, "delete shard wide --wait --timeout 30s");
    cli_ok(cluster, 0, "host drain h3 --dry-run");
}

static void test_waiting_in_vain_fails_at_once(void **state)
{
    (void)state;
    static const char *const commands[] = {
        "wait shard/nowhere",
        "wait --for formed shard/nowhere",
        "wait pool/nowhere",
        "wait replica/999999",
        "wait --for drained host/nowhere",
        "operation wait 999999",
        "get events --object shards/nowhere",
        "get events shards/nowhere",
        "get events --object pools/nowhere",
        "get events --object hosts/nowhere",
        "get events --object operations/999999",
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        uint64_t begin = now_ms();
        int code = cli(cluster, 0, out, sizeof out, "%s", commands[i]);
        if (code != 3 || now_ms() - begin > 5000) {
            fail_msg("thole %s: exit code %d: %s", commands[i], code, out);
        }
    }
    assert_int_equal(cli(cluster, 0, out, sizeof out, "get events --object foo"), 2);
    expect("shards/");
    cli_ok(cluster, 0, "wait --for deleted shard/nowhere");
    cli_ok(cluster, 0, "get events --object hosts/h1");
    apply_yaml(cluster, 0, "kind: Shard\nname: clicks\nspec: {type: counter, voters: 1}\n");
    cli_ok(cluster, 0, "propose clicks 'add 1'");
    assert_int_equal(cli(cluster, 0, out, sizeof out, "propose clicks rubbish"), 1);
    expect("expected: add N");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_protected_specs_are_deleted_only_after_a_change),
        cmocka_unit_test(test_deletion_that_waits_for_a_dead_host_says_so),
        cmocka_unit_test(test_pool_takes_a_name_when_it_is_freed),
        cmocka_unit_test(test_drain_that_cannot_end_says_so_before_and_while_it_is_waited_for),
        cmocka_unit_test(test_waiting_in_vain_fails_at_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
