/* `thole doctor` on clusters that are well, and that are not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

static char out[65536];

struct finding {
    struct cluster *c;
    int via;
    const char *text;
};

static bool finds(void *ctx)
{
    const struct finding *f = ctx;
    return cli(f->c, f->via, out, sizeof out, "doctor") == 1 && strstr(out, f->text) != NULL;
}

static void expect_problem(struct cluster *c, int via, const char *text)
{
    eventually(30000, text, finds, &(struct finding){c, via, text});
}

static bool is_well(void *ctx)
{
    return cli(ctx, 0, out, sizeof out, "doctor") == 0 && strstr(out, "no problem found") != NULL;
}

static void expect_well(struct cluster *c)
{
    eventually(30000, "nothing is wrong", is_well, c);
}

static void test_three_hosts_are_well_until_one_is_lost(void **state)
{
    (void)state;
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n"
                            "---\nkind: Shard\nname: lonely\nspec: {type: kv, voters: 1}\n");
    expect_well(c);
    assert_non_null(strstr(out, "3 hosts"));
    assert_non_null(strstr(out, "remark  shards: 1 have a single voter"));
    assert_null(strstr(out, "PROBLEM"));

    host_kill(c, 2);
    expect_problem(c, 0, "PROBLEM hosts/h3: it does not answer the other hosts");
    expect_problem(c, 0, "PROBLEM shards/zero: no more host may fail: 2 of its 3 voters are live");
    expect_problem(c, 0, "PROBLEM shards/orders: Degraded");
    assert_non_null(strstr(out, "Look whether its daemon runs"));

    /* Without a majority, what a host sees itself. */
    host_kill(c, 1);
    expect_problem(c, 0, "PROBLEM shards/zero: the called host is not ready: ");
    assert_non_null(strstr(out, "thole repair zero"));
    expect_problem(c, 0, "1 of its 3 voters are live: no majority");

    host_restart(c, 1);
    host_restart(c, 2);
    cluster_wait_ready(c, 0, 30000);
    expect_well(c);
    cluster_free(c);
}

static void test_pauses_and_stuck_operations_are_found(void **state)
{
    (void)state;
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    expect_well(c);
    cli_ok(c, 0, "pause placement");
    expect_problem(c, 1, "controllers have been paused for ");
    cli_ok(c, 0, "resume");
    cli_ok(c, 0, "host cordon h2");
    expect_well(c);
    assert_non_null(strstr(out, "remark  hosts/h2: it is cordoned"));
    cli_ok(c, 0, "host uncordon h2");
    cli_ok(c, 0, "host drain h2"); /* three voters find no third host */
    expect_problem(c, 0, "drain of hosts/h2 makes no progress");
    assert_int_equal(cli(c, 0, out, sizeof out, "doctor -o json"), 1);
    assert_non_null(strstr(out, "{\"kind\":\"Diagnosis\",\"findings\":[{\"severity\":\"PROBLEM\""));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_hosts_are_well_until_one_is_lost),
        cmocka_unit_test(test_pauses_and_stuck_operations_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
