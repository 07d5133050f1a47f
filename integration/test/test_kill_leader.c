/* Kills the leader's host (kill -9) under load, repeatedly. Writes resume within a bound set by the
 * election timeout, the killed host catches up, and no acknowledged write is lost. THOLE_KILLS sets
 * the number of kills; the default keeps ./test short. */
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
                                "spec: {type: kv, voters: 3}\n";

struct leader {
    struct cluster *c;
    int via, found;
};

static bool has_running_leader(void *ctx)
{
    struct leader *l = ctx;
    l->found = shard_leader(l->c, l->via, "orders");
    return l->found >= 0 && l->c->hosts[l->found].pid != 0;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_leader_killed_under_load_writes_resume_and_nothing_is_lost(void **state)
{
    (void)state;
    const char *text = getenv("THOLE_KILLS");
    int kills = text != NULL ? atoi(text) : 6;
    assert_in_range(kills, 1, 1000);
    uint64_t *gaps = calloc((size_t)kills, sizeof *gaps);

    struct cluster *c = cluster_of_peers(3, spec);
    struct load *load = load_start(cluster_endpoints(c, 3), "orders", 32);
    load_wait_progress(load, 200, 10000);

    for (int k = 0; k < kills; k++) {
        struct leader l = {.c = c};
        eventually(10000, "the shard has a leader", has_running_leader, &l);
        load_reset_gap(load);
        host_kill(c, l.found);
        load_wait_progress(load, 200, 15000);
        gaps[k] = load_gap_ms_max(load);
        host_restart(c, l.found);
        cluster_wait_ready(c, l.found, 15000);
        load_wait_progress(load, 200, 15000);
    }
    struct load_report r;
    load_stop(load, &r);
    uint64_t missing = load_verify(load, cluster_endpoints(c, 3));
    load_free(load);
    cluster_free(c);

    qsort(gaps, (size_t)kills, sizeof *gaps, compare);
    printf("kills %d: writes stopped for median %" PRIu64 " ms, most %" PRIu64
           " ms; acknowledged %" PRIu64 ", "
           "unknown %" PRIu64 ", "
           "missing %" PRIu64 "\n",
           kills, gaps[kills / 2], gaps[kills - 1], r.acknowledged, r.unknown, missing);
    assert_int_equal(missing, 0);
    assert_true(gaps[kills - 1] <= 4 * ELECTION_TIMEOUT_MS);
    if (kills >= 20) {
        assert_true(gaps[kills / 2] <= 2 * ELECTION_TIMEOUT_MS + 100);
    }
    free(gaps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leader_killed_under_load_writes_resume_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
