/* The log size at which compaction starts: it follows the cost of the machine's snapshot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

#define MOST (64 * KIB)  /* of a log, and the tail in proportion */
#define LEAST (MOST / 8) /* a small machine's */
#define KEPT_MOST (8 * KIB)
#define ENTRY 100u /* at least, in the log */
#define LARGE 4000u

static struct cluster *compacting(int hosts, int voters, const char *machine, uint64_t seed)
{
    struct cluster *c = cluster_new(hosts, seed);
    c->machine = machine;
    c->compact_log_bytes = MOST;
    c->keep_log_bytes = KEPT_MOST;
    cluster_bootstrap(c, voters);
    cluster_wait_leader(c);
    return c;
}

static void propose_each(struct cluster *c, size_t bytes, size_t each)
{
    char text[LARGE + 1] = {0};
    memset(text, 'x', each);
    for (size_t i = 0; i < bytes / each; i++) {
        propose_ok(c, text);
    }
}

static void propose_bytes(struct cluster *c, size_t bytes)
{
    propose_each(c, bytes, ENTRY);
}

/* The host's largest log while this much is written; also returns how many snapshots were saved
 * meanwhile. */
static uint64_t largest_log(struct cluster *c, int h, size_t bytes, int64_t *ret_saved)
{
    uint64_t largest = 0;
    int64_t before = metric_value(&engine_snapshots_saved);
    for (size_t at = 0; at < bytes; at += 1000) {
        propose_bytes(c, 1000);
        uint64_t now = status_of(c, h).log_bytes;
        if (now > largest) {
            largest = now;
        }
    }
    *ret_saved = metric_value(&engine_snapshots_saved) - before;
    return largest;
}

static void test_compact_small_machine_has_a_small_log(void **state)
{
    (void)state;
    const char *machines[] = {"tally", "tally-plain"};
    for (int i = 0; i < 2; i++) {
        struct cluster *c = compacting(1, 1, machines[i], 1);
        int64_t saved;
        uint64_t largest = largest_log(c, 0, 4 * MOST, &saved);
        assert_true(largest > LEAST * 3 / 4 && largest < LEAST * 5 / 4);
        assert_true(saved >= 40);
        cluster_free(c);
    }
}

static void test_compact_log_is_four_times_the_snapshot(void **state)
{
    (void)state;
    struct cluster *c = compacting(1, 1, "tally", 2);
    int64_t saved;
    c->hosts[0].tally.ballast = 6 * KIB;
    propose_bytes(c, 2 * LEAST);
    assert_true(status_of(c, 0).snapshot_index > 0);
    uint64_t largest = largest_log(c, 0, 4 * MOST, &saved);
    assert_true(largest > 23 * KIB && largest < 28 * KIB);
    cluster_free(c);
}

static void test_compact_large_machine_is_not_saved_more_often(void **state)
{
    (void)state;
    struct cluster *c = compacting(1, 1, "tally", 3);
    int64_t saved;
    c->hosts[0].tally.ballast = 4 * MOST;
    propose_bytes(c, 2 * LEAST);
    uint64_t largest = largest_log(c, 0, 8 * MOST, &saved);
    assert_true(largest > MOST * 7 / 8 && largest < MOST * 9 / 8);
    assert_true(saved >= 8 && saved <= 14);
    cluster_free(c);
}

/* A flush covers all machines of the host. */
static void test_compact_persistent_machine_has_the_largest_log(void **state)
{
    (void)state;
    struct cluster *c = compacting(1, 1, "ledger", 4);
    int64_t saved;
    uint64_t largest = largest_log(c, 0, 4 * MOST, &saved);
    assert_true(largest > MOST * 7 / 8 && largest < MOST * 9 / 8);
    assert_int_equal(saved, 0);
    cluster_free(c);
}

static void test_compact_bound_is_known_after_a_restart(void **state)
{
    (void)state;
    struct cluster *c = compacting(1, 1, "tally", 5);
    c->hosts[0].tally.ballast = 4 * MOST;
    propose_bytes(c, 4 * LEAST);
    uint64_t index = status_of(c, 0).snapshot_index;
    assert_true(index > 0);
    host_crash(c, 0);
    host_start(c, 0);
    cluster_wait_leader(c);
    propose_bytes(c, LEAST);
    assert_true(status_of(c, 0).log_bytes > 2 * LEAST);
    assert_int_equal(status_of(c, 0).snapshot_index, index);
    cluster_free(c);
}

static void test_compact_bound_is_known_after_an_installation(void **state)
{
    (void)state;
    struct cluster *c = compacting(3, 3, "tally", 6);
    for (int h = 0; h < 3; h++) {
        c->hosts[h].tally.ballast = 4 * MOST;
    }
    int behind = (cluster_wait_leader(c) + 1) % 3;
    isolate(c, behind, true);
    cluster_run(c, 2000);
    propose_bytes(c, 4 * MOST);
    isolate(c, behind, false);
    RUN_UNTIL(c, 20000, status_of(c, behind).snapshot_index > 0);
    cluster_run(c, 1000);
    uint64_t index = status_of(c, behind).snapshot_index;
    propose_bytes(c, 3 * LEAST);
    assert_int_equal(status_of(c, behind).snapshot_index, index);
    cluster_free(c);
}

/* A slow follower delays compaction, up to the largest log. A follower that needs more gets a
 * snapshot. */
static void check_slow(size_t bytes, bool snapshot)
{
    struct cluster *c = compacting(3, 3, "tally", 7);
    propose_bytes(c, 2 * LEAST);
    int leader = cluster_wait_leader(c), slow = (leader + 1) % 3;
    uint64_t frames = c->snapshot_frames;
    c->no_appends[slow] = true;
    propose_bytes(c, bytes);
    assert_int_equal(cluster_leader(c), leader);
    assert_true(status_of(c, leader).snapshot_index > status_of(c, slow).last_index);
    c->no_appends[slow] = false;
    uint64_t last = status_of(c, leader).last_index;
    RUN_UNTIL(c, 20000, status_of(c, slow).applied >= last);
    assert_int_equal(c->snapshot_frames > frames, snapshot);
    propose_bytes(c, 4 * LEAST); /* then compaction waits for no follower */
    assert_true(status_of(c, leader).log_bytes < 2 * LEAST);
    cluster_free(c);
}

static void test_compact_slow_follower_needs_no_snapshot(void **state)
{
    (void)state;
    check_slow(MOST * 3 / 4, false);
    check_slow(MOST * 3, true);
}

/* Entries written during a long transfer are still in the log when the transfer ends. */
static void test_compact_waits_for_a_snapshot_under_way(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(3, 8);
    c->machine = "tally";
    c->compact_log_bytes = 10 * MOST;
    c->keep_log_bytes = KEPT_MOST;
    c->snapshot_bytes_per_s = 40 * KIB;
    cluster_bootstrap(c, 3);
    for (int h = 0; h < 3; h++) {
        c->hosts[h].tally.ballast = 100 * KIB;
    }
    int leader = cluster_wait_leader(c), behind = (leader + 1) % 3;
    isolate(c, behind, true);
    cluster_run(c, 2000);
    propose_bytes(c, 20 * MOST);
    int64_t installed = metric_value(&engine_snapshots_installed);
    int64_t saved = metric_value(&engine_snapshots_saved);
    isolate(c, behind, false);
    RUN_UNTIL(c, 5000, c->snapshot_frames > 0);
    propose_each(c, 6 * MOST, LARGE);
    assert_int_equal(metric_value(&engine_snapshots_installed), installed);
    assert_true(metric_value(&engine_snapshots_saved) > saved);
    uint64_t last = status_of(c, leader).last_index;
    RUN_UNTIL(c, 20000, status_of(c, behind).applied >= last);
    assert_int_equal(metric_value(&engine_snapshots_installed), installed + 1);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compact_small_machine_has_a_small_log),
        cmocka_unit_test(test_compact_log_is_four_times_the_snapshot),
        cmocka_unit_test(test_compact_large_machine_is_not_saved_more_often),
        cmocka_unit_test(test_compact_persistent_machine_has_the_largest_log),
        cmocka_unit_test(test_compact_bound_is_known_after_a_restart),
        cmocka_unit_test(test_compact_bound_is_known_after_an_installation),
        cmocka_unit_test(test_compact_slow_follower_needs_no_snapshot),
        cmocka_unit_test(test_compact_waits_for_a_snapshot_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
