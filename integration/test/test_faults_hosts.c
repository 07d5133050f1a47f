/* The leader of shard zero is killed at random instants while hosts are drained, decommissioned,
 * cordoned, and while controllers pause. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "integration/test/control.h"

static struct cluster *four_hosts(const char *test)
{
    struct cluster *c = cluster_new();
    control_reset();
    fault_seed(test);
    cluster_start_peers(c, 3);
    cluster_join(c, 3, 0);
    apply_yaml(c, 0, "kind: ShardPool\nname: p\nspec: {count: 6, shard: {type: kv, voters: 3}}\n");
    control_agree(c, 0);
    return c;
}

static void test_drain_survives_the_death_of_zeros_leader(void **state)
{
    (void)state;
    struct cluster *c = four_hosts(__func__);
    int last = 0;
    for (int round = 0; round < fault_rounds(); round++) {
        int host = fault_random(4);
        struct fault f = fault_plan(c, host);
        int via = f.via;
        int id = operation_of(cli_ok(c, via, "host drain h%d", host + 1));
        assert_true(id > last);
        fault_strike(c, &f, fault_random(1200));
        control_note(c, via);
        cli_ok(c, via, "operation wait %d --timeout 60s", id);
        last = operation_of(cli_ok(c, via, "host undrain h%d", host + 1));
        assert_true(last > id);
        control_agree(c, via);
    }
    control_check_disks(c);
    cluster_free(c);
}

static bool ended(void *ctx)
{
    struct expect *e = ctx;
    return !host_running(e->c, e->via);
}

/* Each round another host replaces the removed one. */
static void test_decommission_survives_the_death_of_zeros_leader(void **state)
{
    (void)state;
    struct cluster *c = four_hosts(__func__);
    int last = 0;
    for (int round = 0; round < fault_rounds(); round++) {
        char command[512];
        struct fault f = fault_plan(c, 3);
        int via = f.via;
        int id = operation_of(cli_ok(c, via, "host decommission h4"));
        assert_true(id > last);
        last = id;
        fault_strike(c, &f, fault_random(1200));
        control_note(c, via);
        cli_ok(c, via, "operation wait %d --timeout 60s", id);
        eventually(30000, "the removed host ends", ended, &(struct expect){.c = c, .via = 3});
        control_agree(c, via);
        snprintf(command, sizeof command, "rm -r '%s'", c->hosts[3].data_dir);
        assert_int_equal(system(command), 0);
        cluster_join(c, 3, via);
        control_agree(c, via);
    }
    control_check_disks(c);
    cluster_free(c);
}

static void test_cordons_and_pauses_survive_the_death_of_zeros_leader(void **state)
{
    (void)state;
    struct cluster *c = four_hosts(__func__);
    for (int round = 0; round < fault_rounds(); round++) {
        struct fault f = fault_plan(c, -1);
        int via = f.via;
        cli_ok(c, via, "host cordon h3");
        cli_ok(c, via, "pause placement");
        fault_strike(c, &f, fault_random(100));
        expect_lines(c, via, "get hosts", "cordoned", 1);
        expect_lines(c, via, "get operations", "running", 1);
        cli_ok(c, via, "resume");
        cli_ok(c, via, "host uncordon h3");
        control_agree(c, via);
    }
    control_check_disks(c);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drain_survives_the_death_of_zeros_leader),
        cmocka_unit_test(test_decommission_survives_the_death_of_zeros_leader),
        cmocka_unit_test(test_cordons_and_pauses_survive_the_death_of_zeros_leader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
