/* The same seed gives the same run, to the byte; other seeds give others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/sim/sim.h"

#include <cmocka.h>

#define SEEDS 4

struct run {
    struct sim_report report;
    char *trace;
    size_t size;
};

static struct run run_seed(uint64_t seed)
{
    struct run r = {0};
    FILE *f = open_memstream(&r.trace, &r.size);
    assert_non_null(f);
    struct sim_options o = {.seed = seed, .ticks = 500, .trace = f};
    sim_run(&o, &r.report);
    (void)fclose(f);
    return r;
}

static void test_sim_same_seed_gives_same_trace(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct run a = run_seed(seed), b = run_seed(seed);
        assert_true(a.size > 10000);
        assert_int_equal(a.size, b.size);
        assert_memory_equal(a.trace, b.trace, a.size);
        assert_true(a.report.hash == b.report.hash);
        free(a.trace);
        free(b.trace);
    }
}

static void test_sim_trace_does_not_change_the_run(void **state)
{
    (void)state;
    struct sim_options o = {.seed = 3, .ticks = 500};
    struct sim_report r;
    struct run traced = run_seed(3);
    sim_run(&o, &r);
    assert_true(r.hash == traced.report.hash);
    free(traced.trace);
}

static void test_sim_other_seed_gives_other_run(void **state)
{
    (void)state;
    struct run a = run_seed(1), b = run_seed(2);
    assert_true(a.report.hash != b.report.hash);
    free(a.trace);
    free(b.trace);
}

static void test_sim_options_are_parsed(void **state)
{
    (void)state;
    uint32_t set = 0;
    assert_true(sim_fault_parse("loss,crash", &set));
    assert_int_equal(set, 1u << SIM_LOSS | 1u << SIM_CRASH);
    assert_false(sim_fault_parse("loss,nonsense", &set));
    assert_true(sim_fault_parse("all", &set));
    assert_int_equal(set, (1u << SIM_FAULTS) - 1);
    assert_false(sim_canary_set("nonsense"));
    assert_true(sim_canary_set(sim_canary_name(0)));
    assert_true(sim_canary_set(NULL));
}

static void test_sim_without_faults_elects_once_per_group(void **state)
{
    (void)state;
    struct sim_options o = {.seed = 1, .ticks = 2000, .bench = true};
    struct sim_report r;
    sim_run(&o, &r);
    assert_false(r.failed);
    assert_int_equal(r.elections, 1);
    assert_int_equal(r.unknown, 0);
    assert_true(r.proposals > 150);
}

static void test_sim_replay_line_names_what_was_chosen(void **state)
{
    (void)state;
    char line[512];
    struct sim_options o = {
        .seed = 7, .ticks = 100, .groups = 1, .without = 1u << SIM_LOSS, .canary = "stale_lease"};
    sim_replay_line(&o, line, sizeof line);
    assert_non_null(strstr(line, "thole-sim --seed 7 --ticks 100 --groups 1"));
    assert_non_null(strstr(line, "--canary stale_lease --without loss"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sim_same_seed_gives_same_trace),
        cmocka_unit_test(test_sim_trace_does_not_change_the_run),
        cmocka_unit_test(test_sim_other_seed_gives_other_run),
        cmocka_unit_test(test_sim_options_are_parsed),
        cmocka_unit_test(test_sim_without_faults_elects_once_per_group),
        cmocka_unit_test(test_sim_replay_line_names_what_was_chosen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
