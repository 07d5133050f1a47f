/* Two of three hosts are lost for good. Shard zero is repaired offline, the users' shard online.
 * What was acknowledged and reached the survivor is there, the cluster grows to three again, and
 * old hosts that come back become members again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/load.h"

static const char *const spec = "kind: Shard\n"
                                "name: orders\n"
                                "spec: {type: kv, voters: 3}\n";

/* Everything that was acknowledged has been applied on host 0. */
static void settle_on(struct cluster *c)
{
    for (int i = 0; i < 20; i++) {
        cli_ok(c, 0, "kv put orders key%d value%d", i, i);
    }
    expect_soon(c, 0, 10000, "kv get --stale orders key19", "value19");
}

static void check_values(struct cluster *c, int via)
{
    for (int i = 0; i < 20; i++) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, "value%d", i);
        const char *out = cli_ok(c, via, "kv get orders key%d", i);
        assert_non_null(strstr(out, wanted));
    }
}

static bool possible(void *ctx)
{
    struct cluster *c = ctx;
    char out[8192];
    return cli(c, 0, out, sizeof out, "repair shard orders") == 0;
}

static bool has_three_voters(struct cluster *c, const char *shard)
{
    static char out[65536];
    return cli(c, 0, out, sizeof out, "get replicas --shard %s -o json", shard) == 0 &&
           count_text(out, "\"role\":\"VOTER\"") == 3 &&
           count_text(out, "\"phase\":\"RUNNING\"") == 3;
}

static bool three_voters(void *ctx)
{
    return has_three_voters(ctx, "zero") && has_three_voters(ctx, "orders");
}

static void repair_zero_offline(struct cluster *c)
{
    char out[8192];
    /* A running daemon locks its directory. The other two directories are a quorum. */
    assert_int_not_equal(cli(c, 0, out, sizeof out, "repair zero %s", c->hosts[0].data_dir), 0);
    assert_non_null(strstr(out, "is locked by"));
    host_kill(c, 0);
    assert_int_not_equal(cli(c, 0, out, sizeof out, "repair zero %s %s --yes", c->hosts[0].data_dir,
                             c->hosts[1].data_dir),
                         0);
    assert_non_null(strstr(out, "a quorum is alive"));
    assert_int_equal(cli(c, 0, out, sizeof out, "repair zero %s", c->hosts[0].data_dir), 0);
    assert_non_null(strstr(out, "nothing was changed"));
    assert_int_equal(cli(c, 0, out, sizeof out, "repair zero %s --yes", c->hosts[0].data_dir), 0);
    assert_non_null(strstr(out, "is marked"));
}

static void test_two_of_three_hosts_lost_everything_is_repaired(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char out[8192];
    c->extra_args[0] = "--dead-after-ms";
    c->extra_args[1] = "3000";
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, spec);
    settle_on(c);
    assert_int_not_equal(cli(c, 0, out, sizeof out, "repair shard orders --yes"), 0);
    assert_true(strstr(out, "leads") != NULL || strstr(out, "a quorum is alive") != NULL);

    host_kill(c, 1);
    host_kill(c, 2);
    eventually(10000, "a repair of the shard is possible", possible, c);
    assert_non_null(strstr(cli_ok(c, 0, "repair shard orders"), "chosen"));
    repair_zero_offline(c);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    assert_non_null(strstr(cli_ok(c, 0, "repair shard orders --yes"), "repaired"));
    check_values(c, 0);
    cli_ok(c, 0, "kv put orders after repair");
    expect_soon(c, 0, 10000, "get events", "ReplicaRetired");

    /* One host is lost for good. The other returns with its disk and gets new replicas. */
    expect_soon(c, 0, 20000, "get host h2", "dead");
    expect_soon(c, 0, 20000, "get host h3", "dead");
    cli_ok(c, 0, "host decommission h3");
    host_restart(c, 1);
    cluster_wait_ready(c, 1, 20000);
    cluster_join(c, 3, 0);
    eventually(40000, "both shards have three voters", three_voters, c);
    host_kill(c, 0); /* the two have all of it, and are a quorum */
    cluster_wait_ready(c, 3, 20000);
    check_values(c, 3);
    cluster_free(c);
}

/* Shard zero is repaired with the directory of a host that was away, and the other hosts return.
 * What only they know is kept, no id is given out twice, and no write of a shard is lost. */
static void test_hosts_with_a_newer_shard_zero_return_after_its_repair(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char out[8192];
    c->extra_args[0] = "--dead-after-ms";
    c->extra_args[1] = "3000";
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, spec);
    settle_on(c);
    host_kill(c, 0);
    expect_soon(c, 1, 20000, "get host h1", "dead"); /* nothing is placed there */
    cli_ok(c, 1, "kv put orders more value");
    apply_yaml(c, 1, "kind: Shard\nname: unknown\nspec: {type: kv, voters: 2}\n");
    cli_ok(c, 1, "kv put unknown secret value");
    host_kill(c, 1);
    host_kill(c, 2);
    assert_int_equal(cli(c, 0, out, sizeof out, "repair zero %s --yes", c->hosts[0].data_dir), 0);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    expect_soon(c, 0, 10000, "get events", "ShardZeroRepaired");
    expect_soon(c, 0, 20000, "get host h2", "dead");
    expect_soon(c, 0, 20000, "get host h3", "dead");
    apply_yaml(c, 0, "kind: Shard\nname: fresh\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, 0, "kv put fresh mine value");
    host_restart(c, 1);
    host_restart(c, 2);
    cluster_wait_ready(c, 1, 20000);
    cluster_wait_ready(c, 2, 20000);
    eventually(40000, "both shards have three voters", three_voters, c);
    check_values(c, 2);
    assert_non_null(strstr(cli_ok(c, 0, "kv get orders more"), "value"));
    apply_yaml(c, 0, "kind: Shard\nname: fresh\nspec: {type: kv, voters: 3}\n");
    assert_non_null(strstr(cli_ok(c, 1, "kv get fresh mine"), "value"));
    assert_int_not_equal(cli(c, 1, out, sizeof out, "kv get fresh secret"), 0);
    /* The shard keeps running although no row mentions it. */
    assert_true(count_text(cli_ok(c, 1, "status -o json"), "\"shardId\"") >= 4);
    cluster_free(c);
}

static bool gone(void *ctx)
{
    struct cluster *c = ctx;
    return count_text(cli_ok(c, 0, "get replicas --shard orders -o json"), "\"id\":") == 3;
}

static void test_shard_repaired_online_is_rebuilt_and_lost_hosts_may_return(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    c->extra_args[0] = "--dead-after-ms";
    c->extra_args[1] = "3000";
    cluster_start_peers(c, 5);
    for (int i = 0; i < 2; i++) { /* the shard comes to be on h1, h2, h3 */
        cli_ok(c, 0, "host cordon h%d", i + 4);
    }
    apply_yaml(c, 0, spec);
    settle_on(c);
    for (int i = 0; i < 2; i++) {
        cli_ok(c, 0, "host uncordon h%d", i + 4);
    }
    host_kill(c, 1);
    host_kill(c, 2);
    eventually(15000, "a repair of the shard is possible", possible, c);
    assert_non_null(strstr(cli_ok(c, 3, "repair shard orders --yes"), "repaired")); /* any host */
    check_values(c, 4);
    cli_ok(c, 0, "wait --for ready --timeout 40s shard/orders"); /* on h1, h4, h5 */
    host_restart(c, 1);
    host_restart(c, 2);
    cluster_wait_ready(c, 1, 20000);
    cluster_wait_ready(c, 2, 20000);
    eventually(20000, "void replicas are deleted", gone, c);
    check_values(c, 2);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_of_three_hosts_lost_everything_is_repaired),
        cmocka_unit_test(test_hosts_with_a_newer_shard_zero_return_after_its_repair),
        cmocka_unit_test(test_shard_repaired_online_is_rebuilt_and_lost_hosts_may_return),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
