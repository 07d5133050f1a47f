/* Hosts are stopped by SIGTERM and started again, one after the other, under load. A host transfers
 * leadership first, so writes never wait for an election, and no acknowledged write is lost. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "integration/test/load.h"

#define ROUNDS 2

static const char *const specs = "kind: Shard\n"
                                 "name: orders\n"
                                 "spec: {type: kv, voters: 3}\n"
                                 "---\n"
                                 "kind: ShardPool\n"
                                 "name: many\n"
                                 "spec: {count: 12, shard: {type: kv, voters: 3}}\n";

static void test_rolling_restart_under_load_never_waits_for_an_election(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    uint64_t worst = 0;
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, specs);
    struct load *load = load_start(cluster_endpoints(c, 3), "orders", 32);
    load_wait_progress(load, 200, 10000);
    for (int k = 0; k < 3 * ROUNDS; k++) {
        int h = k % 3;
        load_reset_gap(load);
        host_stop(c, h);
        load_wait_progress(load, 100, 15000);
        host_restart(c, h);
        cluster_wait_ready(c, h, 15000);
        load_wait_progress(load, 200, 15000);
        uint64_t gap = load_gap_ms_max(load);
        printf("restart of %s: longest gap %" PRIu64 " ms\n", c->hosts[h].name, gap);
        worst = gap > worst ? gap : worst;
        assert_false(host_log_has(c, h, "leadership handoff failed"));
    }
    struct load_report r;
    load_stop(load, &r);
    uint64_t missing = load_verify(load, cluster_endpoints(c, 3));
    load_free(load);
    cluster_free(c);
    printf("rolling restart: writes stopped for most %" PRIu64 " ms; acknowledged %" PRIu64
           ", unknown %" PRIu64 ", "
           "missing %" PRIu64 "\n",
           worst, r.acknowledged, r.unknown, missing);
    assert_int_equal(missing, 0);
    assert_true(worst < ELECTION_TIMEOUT_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rolling_restart_under_load_never_waits_for_an_election),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
