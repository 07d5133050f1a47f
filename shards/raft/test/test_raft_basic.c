/* The shortest way through the core: elect, replicate, commit, apply, restart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shards/raft/test/core_cluster.h"

static void test_basic_progress(void **state)
{
    static struct cluster c;
    (void)state;

    cluster_init(&c, 5, 1);
    (void)cluster_elect(&c, 1000);
    cluster_propose(&c, 100);
    cluster_run(&c, 100);
    assert_int_equal(node_commit(&c, 1), 101);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

static void test_restart(void **state)
{
    static struct cluster c;
    (void)state;

    cluster_init(&c, 5, 2);
    uint64_t leader = cluster_elect(&c, 1000);
    uint64_t down = leader % 5 + 1;
    cluster_propose(&c, 30);
    node_crash(&c, down);
    cluster_propose(&c, 30);
    node_start(&c, down);
    cluster_propose(&c, 30);
    node_restart(&c, leader);
    (void)cluster_elect(&c, 1000);
    cluster_propose(&c, 30);
    cluster_run(&c, 200);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

static void test_pause(void **state)
{
    static struct cluster c;
    (void)state;

    cluster_init(&c, 5, 3);
    uint64_t leader = cluster_elect(&c, 1000);
    uint64_t paused = leader % 5 + 1;
    cluster_isolate(&c, paused);
    cluster_propose(&c, 50);
    cluster_run(&c, 500);
    cluster_heal(&c);
    cluster_run(&c, 500);
    cluster_propose(&c, 5);
    cluster_run(&c, 100);
    cluster_assert_converged(&c);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_basic_progress),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_pause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
