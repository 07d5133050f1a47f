/* Hosts are stopped by SIGTERM and started again, one after the other, under load. A host transfers
 * leadership first, so writes never wait for an election, and no acknowledged write is lost.
 *
 * Whether they waited is read from the roles that the logs show, because a busy machine stretches
 * every pause: a replica that was handed leadership becomes a candidate at once. One that missed
 * its leader for an election timeout is a pre-candidate before. */
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/load.h"

#define ROUNDS 2
#define GAP_MS_MAX (10 * ELECTION_TIMEOUT_MS) /* of any pause, however busy the machine is */
#define SILENT_MS 3000                        /* a search for the silent hosts has begun */
#define STOP_MS_MAX 2000                      /* a stop takes 300 ms on a quiet machine */
#define ORDERS " shard=orders "

static const char *const specs = "kind: Shard\n"
                                 "name: orders\n"
                                 "spec: {type: kv, voters: 3}\n"
                                 "---\n"
                                 "kind: ShardPool\n"
                                 "name: many\n"
                                 "spec: {count: 12, shard: {type: kv, voters: 3}}\n";

/* How often a replica of "orders" stood for election because it missed its leader. */
static int elections(const struct cluster *c)
{
    char line[1024];
    int n = 0;
    for (int i = 0; i < 3; i++) {
        bool missed = false;
        FILE *f = fopen(c->hosts[i].log_path, "r");
        assert_non_null(f);
        while (fgets(line, sizeof line, f) != NULL) {
            if (strstr(line, ORDERS) != NULL && strstr(line, " became ") != NULL) {
                n += missed && strstr(line, " became candidate ") != NULL;
                missed = strstr(line, " became pre-candidate ") != NULL;
            }
        }
        fclose(f);
    }
    return n;
}

static void test_rolling_restart_under_load_never_waits_for_an_election(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    uint64_t worst = 0;
    int waited = 0;
    c->extra_args[0] = "--log-level";
    c->extra_args[1] = "info,raft=debug";
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, specs);
    struct load *load = load_start(cluster_endpoints(c, 3), "orders", 32);
    load_wait_progress(load, 200, 10000);
    for (int k = 0; k < 3 * ROUNDS; k++) {
        int h = k % 3;
        load_reset_gap(load);
        int before = elections(c);
        assert_true(before >= 1); /* the first leader's: they are seen */
        host_stop(c, h);
        load_wait_progress(load, 100, 15000);
        waited += elections(c) - before;
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
    assert_int_equal(waited, 0);
    assert_true(worst < GAP_MS_MAX);
}

static bool is_not_ready(void *ctx)
{
    return host_log_has(ctx, 0, "not ready: ");
}

/* Nobody is there who could take a leadership over, or answer a request for addresses. */
static void test_a_stop_does_not_wait_for_silent_hosts(void **state)
{
    (void)state;
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    host_pause(c, 1, true);
    host_pause(c, 2, true);
    eventually(20000, "h1 notices", is_not_ready, c);
    (void)poll(NULL, 0, SILENT_MS);
    uint64_t begin = now_ms();
    host_stop(c, 0);
    uint64_t took = now_ms() - begin;
    if (took >= STOP_MS_MAX) {
        fail_msg("the stop took %" PRIu64 " ms", took);
    }
    host_pause(c, 1, false);
    host_pause(c, 2, false);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stop_does_not_wait_for_silent_hosts),
        cmocka_unit_test(test_rolling_restart_under_load_never_waits_for_an_election),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
