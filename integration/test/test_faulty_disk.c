/* Disks that hang or fail under running daemons: leaderships move to hosts that can write, nothing
 * acknowledged is missing, and events, conditions and status say what happened. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "integration/test/cluster.h"
#include "integration/test/load.h"

#define HOSTS 3
#define EXIT_DATA_DIRECTORY 3
#define EXIT_FAILED 5
/* The election timeout to notice it, an election, and a busy machine. */
#define MOVE_MS_MAX 5000

#define SPECS                                                  \
    "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n" \
    "---\nkind: ShardPool\nname: p\nspec: {count: 4, shard: {type: kv, voters: 3}}\n"

static struct cluster *begin(void)
{
    struct cluster *c = cluster_new();
    c->preload = FAULTY_DISK_PATH;
    cluster_start_peers(c, HOSTS);
    apply_yaml(c, 0, SPECS);
    cli_ok(c, 0, "wait --for ready shard/orders pool/p");
    return c;
}

struct look {
    struct cluster *c;
    int via;
    const char *host;
};

/* All six shards, shard zero among them, have a leader on another host. */
static bool leads_nothing(void *ctx)
{
    const struct look *l = ctx;
    char out[65536], shards[32];
    snprintf(shards, sizeof shards, "  %s  ", l->host);
    return cli(l->c, l->via, out, sizeof out, "get shards") == 0 && count_lines(out, shards) == 0 &&
           count_lines(out, "  h") == 6;
}

static void expect_leaders_move(struct cluster *c, int from, int via, uint64_t begin_ms)
{
    eventually(MOVE_MS_MAX, "all shards have other leaders", leads_nothing,
               &(struct look){c, via, c->hosts[from].name});
    print_message("leaders moved within %" PRIu64 " ms\n", now_ms() - begin_ms);
}

static void expect_all_ready(struct cluster *c, int via)
{
    cli_ok(c, via, "wait --for ready shard/orders pool/p --timeout 30s");
    expect_lines(c, via, "get hosts", " live ", HOSTS);
}

static void expect_nothing_is_missing(struct cluster *c, struct load *l)
{
    struct load_report r;
    load_stop(l, &r);
    assert_true(r.acknowledged > 0);
    print_message("longest time without an acknowledgement: %" PRIu64 " ms\n", r.gap_ms_max);
    assert_int_equal(load_verify(l, cluster_endpoints(c, HOSTS)), 0);
    load_free(l);
}

/* The host that leads shard zero does not finish a write any more. */
static void test_a_hung_disk_loses_its_leaders_and_says_so(void **state)
{
    (void)state;
    struct cluster *c = begin();
    struct load *l = load_start(cluster_endpoints(c, HOSTS), "orders", 8);
    load_wait_progress(l, 100, 20000);
    int hung = leader_of(c, 0, "zero");
    int via = (hung + 1) % HOSTS;
    char object[64];
    uint64_t at_ms = now_ms();
    host_set_fault(c, hung, "", "hung", true);
    expect_leaders_move(c, hung, via, at_ms);
    load_wait_progress(l, 1000, 20000);
    snprintf(object, sizeof object, "get events --object hosts/%s", c->hosts[hung].name);
    expect_lines(c, via, object, "HostDiskStalled", 1);
    expect_soon(c, via, 5000, "get hosts", "disk stalled");
    expect_soon(c, via, 5000, "status", "disk stalled");
    assert_true(host_running(c, hung));
    assert_true(host_log_has(c, hung, "log write stalled"));
    /* It gets nothing new, and its own status says that it is not ready, and why. */
    apply_yaml(c, via, "kind: Shard\nname: more\nspec: {type: kv, voters: 1}\n");
    expect_lines(c, via, "get replicas --shard more -o wide", c->hosts[hung].name, 0);
    expect_soon(c, hung, 5000, "status", "no: a write to the log of this host has not ended for");
    expect_soon(c, hung, 5000, "get shards --stale", "no (DiskStalled)");
    host_set_fault(c, hung, "", "hung", false);
    expect_lines(c, via, object, "HostDiskOk", 1);
    expect_all_ready(c, via);
    expect_nothing_is_missing(c, l);
    for (int i = 0; i < HOSTS; i++) {
        host_stop(c, i);
    }
    cluster_free(c);
}

static void test_a_failing_disk_ends_the_host_and_says_so(void **state)
{
    (void)state;
    struct cluster *c = begin();
    struct load *l = load_start(cluster_endpoints(c, HOSTS), "orders", 8);
    load_wait_progress(l, 100, 20000);
    int failed = leader_of(c, 0, "zero");
    int via = (failed + 1) % HOSTS;
    uint64_t at_ms = now_ms();
    host_set_fault(c, failed, "", "failed", true);
    int status = host_wait_exit(c, failed, 5000);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_FAILED);
    assert_true(host_log_has(c, failed, "Input/output error"));
    expect_leaders_move(c, failed, via, at_ms);
    load_wait_progress(l, 1000, 20000);
    expect_soon(c, via, 5000, "get hosts", "suspect");
    expect_soon(c, via, 5000, "status", "suspect");
    expect_soon(c, via, 5000, "get shard orders -o json", "\"ReplicasSilent\"");
    /* A start with that disk is refused and says why. */
    host_restart(c, failed);
    status = host_wait_exit(c, failed, 20000);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_DATA_DIRECTORY);
    host_set_fault(c, failed, "", "failed", false);
    host_restart(c, failed);
    cluster_wait_ready(c, failed, 30000);
    expect_all_ready(c, via);
    expect_nothing_is_missing(c, l);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_hung_disk_loses_its_leaders_and_says_so),
        cmocka_unit_test(test_a_failing_disk_ends_the_host_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
