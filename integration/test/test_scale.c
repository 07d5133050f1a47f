/* Hosts join, a shard grows to five voters and shrinks to three under load, a host is drained,
 * shards and replicas are deleted and leave nothing but tombstones; and a one-host cluster grows to
 * three without a restart. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <cmocka.h>

#include "integration/test/load.h"

/* Groups that run on one host, whatever the registry says: shard zero and "keeps". */
static bool runs_two_groups(void *ctx)
{
    struct expect *e = ctx;
    char out[65536];
    return cli(e->c, e->via, out, sizeof out, "status -o json") == 0 &&
           count_text(out, "\"shardId\"") == 2;
}

static void set_voters(struct cluster *c, int via, const char *shard, int voters)
{
    char yaml[256];
    snprintf(yaml, sizeof yaml, "kind: Shard\nname: %s\nspec: {type: kv, voters: %d}\n", shard,
             voters);
    apply_yaml(c, via, yaml);
}

static void test_scale_to_five_and_back_under_load(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    set_voters(c, 0, "orders", 3);
    struct load *load = load_start(cluster_endpoints(c, 3), "orders", 16);
    load_wait_progress(load, 200, 10000);

    cluster_join(c, 3, 0);
    cluster_join(c, 4, 1);
    set_voters(c, 4, "orders", 5);
    expect_lines(c, 3, "get replicas --shard orders -o wide", "running", 5);
    load_wait_progress(load, 200, 20000);
    set_voters(c, 2, "orders", 3);
    expect_lines(c, 3, "get replicas --shard orders -o wide", "running", 3);
    expect_lines(c, 3, "get replicas --shard orders -o name", "replicas/", 3);
    load_wait_progress(load, 200, 20000);

    /* Move everything away from one host that has a replica. */
    cli_ok(c, 0, "host drain h2 --wait --timeout 60s");
    load_wait_progress(load, 200, 20000);

    struct load_report r;
    load_stop(load, &r);
    printf("acknowledged %" PRIu64 ", unknown %" PRIu64 ", longest gap %" PRIu64 " ms\n",
           r.acknowledged, r.unknown, r.gap_ms_max);
    assert_int_equal(load_verify(load, cluster_endpoints(c, 5)), 0);
    load_free(load);
    cluster_free(c);
}

static void test_deleted_shards_leave_no_group_and_return_their_space(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    set_voters(c, 0, "orders", 3);
    set_voters(c, 0, "keeps", 3);
    struct load *load = load_start(cluster_endpoints(c, 3), "orders", 64);
    load_wait_progress(load, 2000, 30000);
    struct load_report r;
    load_stop(load, &r);
    load_free(load);

    cli_ok(c, 1, "delete shard orders --wait");
    expect_lines(c, 2, "get shards -o name", "shards/orders", 0);
    expect_lines(c, 2, "get replicas -o wide", "orders", 0);
    for (int i = 0; i < 3; i++) {
        eventually(30000, "only two groups run", runs_two_groups,
                   &(struct expect){.c = c, .via = i});
    }
    /* The name is free again for a new shard. */
    set_voters(c, 2, "orders", 3);
    cli_ok(c, 0, "propose orders 'put a 1'");
    assert_non_null(strstr(cli_ok(c, 1, "query orders 'get a'"), "1"));
    cluster_free(c);
}

static bool three_vote(void *ctx)
{
    const struct expect *e = ctx;
    char out[16384];
    int votes = 0;
    if (cli(e->c, e->via, out, sizeof out, "get replicas --shard %s -o wide", e->needle) != 0) {
        return false;
    }
    for (char *rest = out, *line; (line = strsep(&rest, "\n")) != NULL;) {
        votes += strstr(line, "voter") != NULL && strstr(line, "running") != NULL;
    }
    return votes == 3;
}

static void test_one_host_grows_to_three_without_a_restart(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_dev(c);
    pid_t first = c->hosts[0].pid;
    set_voters(c, 0, "orders", 1);
    cli_ok(c, 0, "propose orders 'put a 1'");
    cluster_join(c, 1, 0);
    cluster_join(c, 2, 0);
    set_voters(c, 1, "orders", 3);
    /* One voter becomes three in one change, in shard zero and in "orders". A host reports itself
     * that it votes in the configuration in force. Then the cluster can lose the first host. */
    eventually(30000, "three vote in shard zero", three_vote,
               &(struct expect){.c = c, .via = 2, .needle = "zero"});
    eventually(30000, "three vote in orders", three_vote,
               &(struct expect){.c = c, .via = 2, .needle = "orders"});
    assert_int_equal(c->hosts[0].pid, first);
    host_kill(c, 0);
    cluster_wait_ready(c, 1, 20000);
    assert_non_null(strstr(cli_ok(c, 2, "query orders 'get a'"), "1"));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale_to_five_and_back_under_load),
        cmocka_unit_test(test_deleted_shards_leave_no_group_and_return_their_space),
        cmocka_unit_test(test_one_host_grows_to_three_without_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
