/* All hosts die at once under load and restart with nothing but their data directories: every
 * acknowledged write is there. First by kill -9 alone, then with a shim that drops what was not
 * synced. A build that does not sync must fail that test, or the test proves nothing. THOLE_ROUNDS
 * sets the number of rounds; the default keeps ./test short. */
#include <inttypes.h>
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
                                "spec: {type: kv, voters: 3}\n"
                                "---\n"
                                "kind: Shard\n"
                                "name: others\n"
                                "spec: {type: kv, voters: 3}\n";

static int rounds_wanted(void)
{
    const char *text = getenv("THOLE_ROUNDS");
    int rounds = text != NULL ? atoi(text) : 2;
    assert_in_range(rounds, 1, 1000);
    return rounds;
}

/* The first host, which is asked, and one more. A host ends at once if it cannot read its data. */
static bool can_come_back(struct cluster *c)
{
    return host_running(c, 0) && (host_running(c, 1) || host_running(c, 2));
}

/* Kills the whole cluster under load `rounds` times. Returns the number of acknowledged writes that
 * are missing; UINT64_MAX: the cluster does not come back at all. */
static uint64_t lose_power(const char *tholed, const char *preload, int rounds, bool must_restart)
{
    uint64_t missing = 0;
    struct cluster *c = cluster_new();
    c->tholed = tholed;
    c->preload = preload;
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, spec);
    for (int round = 0; round < rounds && missing == 0; round++) {
        struct load *a = load_start(cluster_endpoints(c, 3), "orders", 32);
        struct load *b = load_start(cluster_endpoints(c, 3), "others", 8);
        load_wait_progress(a, 500, 20000);
        load_wait_progress(b, 100, 20000);
        for (int i = 0; i < 3; i++) {
            host_kill(c, i);
        }
        for (int i = 0; i < 3; i++) {
            host_restart(c, i);
        }
        char out[4096];
        uint64_t deadline = now_ms() + 15000;
        bool back = false;
        while (!back && can_come_back(c) && now_ms() < deadline) {
            back = cli(c, 0, out, sizeof out, "--command-timeout 2s get shard orders") == 0;
        }
        /* Only now: until the hosts are back, the open writes wait for the end of their time. */
        struct load_report ra, rb;
        load_stop(a, &ra);
        load_stop(b, &rb);
        if (must_restart) {
            for (int i = 0; i < 3; i++) {
                cluster_wait_ready(c, i, 20000);
            }
        }
        missing =
            back ? load_verify(a, cluster_endpoints(c, 3)) + load_verify(b, cluster_endpoints(c, 3))
                 : UINT64_MAX;
        printf("round %d: acknowledged %" PRIu64 " + %" PRIu64 ", unknown %" PRIu64 " + %" PRIu64
               ", missing %" PRId64 "\n",
               round, ra.acknowledged, rb.acknowledged, ra.unknown, rb.unknown, (int64_t)missing);
        load_free(a);
        load_free(b);
    }
    cluster_free(c);
    return missing;
}

static void test_all_killed_at_once_every_acknowledged_write_is_there(void **state)
{
    (void)state;
    assert_int_equal(lose_power(THOLED_PATH, NULL, rounds_wanted(), true), 0);
}

static void test_all_lose_unsynced_data_every_acknowledged_write_is_there(void **state)
{
    (void)state;
    assert_int_equal(lose_power(THOLED_PATH, LOSE_UNSYNCED_PATH, rounds_wanted(), true), 0);
}

static void test_without_syncs_the_shim_shows_the_loss(void **state)
{
    (void)state;
    assert_int_not_equal(lose_power(THOLED_NOSYNC_PATH, LOSE_UNSYNCED_PATH, 3, false), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_killed_at_once_every_acknowledged_write_is_there),
        cmocka_unit_test(test_all_lose_unsynced_data_every_acknowledged_write_is_there),
        cmocka_unit_test(test_without_syncs_the_shim_shows_the_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
