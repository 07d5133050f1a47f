/* Two of three hosts lost for good. Shard zero is repaired offline, the users' shard online; what was
 * acknowledged and reached the survivor is there, the cluster grows to three again, and an old host
 * that comes back is told what to do. */
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

struct look {
    struct cluster *c;
    int via;
    const char *command, *wanted;
};

static bool says(void *ctx)
{
    struct look *l = ctx;
    static char out[65536];
    return cli(l->c, l->via, out, sizeof out, "%s", l->command) == 0 && strstr(out, l->wanted);
}

static void says_eventually(struct cluster *c, int via, int ms, const char *command,
                            const char *wanted)
{
    eventually(ms, command, says, &(struct look){c, via, command, wanted});
}

/* Everything that was acknowledged has also been applied on host 0. */
static void settle_on(struct cluster *c)
{
    for (int i = 0; i < 20; i++)
        cli_ok(c, 0, "kv put orders key%d value%d", i, i);
    says_eventually(c, 0, 10000, "kv get --stale orders key19", "value19");
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

static void repair_zero_offline(struct cluster *c)
{
    char out[8192];
    /* While a daemon runs its directory is locked; then both other ones are a quorum. */
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
    assert_true(strstr(out, "leads") || strstr(out, "a quorum is alive"));

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
    says_eventually(c, 0, 10000, "get events", "ReplicaRetired");

    /* An old host comes back with its disk: it is refused, and told what to do. */
    host_restart(c, 1);
    assert_int_not_equal(host_wait_exit(c, 1, 20000), 0);
    assert_true(host_log_has(c, 1, "join as a new host"));

    says_eventually(c, 0, 20000, "get host h2", "dead");
    says_eventually(c, 0, 20000, "get host h3", "dead");
    cli_ok(c, 0, "delete host h2");
    cli_ok(c, 0, "delete host h3");
    cluster_join(c, 3, 0);
    cluster_join(c, 4, 0);
    cli_ok(c, 0, "wait --for ready --timeout 40s shard/orders shard/zero");
    host_kill(c, 0); /* the two new ones have all of it, and are a quorum */
    cluster_wait_ready(c, 3, 20000);
    check_values(c, 3);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_of_three_hosts_lost_everything_is_repaired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
