#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rand.h"
#include "base/test/death.h"

/* Simulations are replayed by seed, so the sequence is part of the contract. */
static void test_rand_sequence_is_that_of_the_reference_code(void **state)
{
    (void)state;
    /* xoshiro256** from the state {1, 2, 3, 4}: the vector of the Rust and NumPy test suites. */
    static const uint64_t expected[] = {
        UINT64_C(11520),
        UINT64_C(0),
        UINT64_C(1509978240),
        UINT64_C(1215971899390074240),
        UINT64_C(1216172134540287360),
        UINT64_C(607988272756665600),
        UINT64_C(16172922978634559625),
        UINT64_C(8476171486693032832),
        UINT64_C(10595114339597558777),
        UINT64_C(2904607092377533576),
    };
    struct rand r = {.s = {1, 2, 3, 4}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_true(rand_u64(&r) == expected[i]);
    }
    /* splitmix64 from 1234567, as published with it. */
    rand_seed(&r, 1234567);
    assert_true(r.s[0] == UINT64_C(6457827717110365317));
    assert_true(r.s[1] == UINT64_C(3203168211198807973));
    assert_true(r.s[2] == UINT64_C(9817491932198370423));
    assert_true(r.s[3] == UINT64_C(4593380528125082431));
}

static void test_rand_same_seed_gives_the_same_sequence(void **state)
{
    (void)state;
    struct rand a, b, other;
    rand_seed(&a, 0);
    rand_seed(&b, 0);
    rand_seed(&other, 1);
    int same = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t x = rand_u64(&a);
        assert_true(x == rand_u64(&b));
        same += x == rand_u64(&other);
    }
    assert_int_equal(same, 0);
}

static void test_rand_below_stays_in_range_and_is_even(void **state)
{
    (void)state;
    struct rand r;
    rand_seed(&r, 5);
    unsigned counts[7] = {0};
    for (int i = 0; i < 70000; i++) {
        counts[rand_below(&r, 7)]++;
    }
    for (int i = 0; i < 7; i++) {
        assert_in_range(counts[i], 9500, 10500);
    }
    /* A range for which nearly half of all draws are rejected. */
    const uint64_t n = (UINT64_C(1) << 63) + 1;
    unsigned upper = 0;
    for (int i = 0; i < 10000; i++) {
        uint64_t x = rand_below(&r, n);
        assert_true(x < n);
        upper += x >= n / 2;
    }
    assert_in_range(upper, 4700, 5300);
    for (int i = 0; i < 100; i++) {
        assert_true(rand_below(&r, 1) == 0);
    }
}

static void test_rand_between_includes_both_ends(void **state)
{
    (void)state;
    struct rand r;
    rand_seed(&r, 6);
    unsigned seen = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t x = rand_between(&r, 10, 12);
        assert_in_range(x, 10, 12);
        seen |= 1u << (x - 10);
    }
    assert_int_equal(seen, 7);
    assert_true(rand_between(&r, UINT64_MAX, UINT64_MAX) == UINT64_MAX);
    bool high = false;
    for (int i = 0; i < 100; i++) {
        high |= rand_between(&r, 0, UINT64_MAX) > UINT64_MAX / 2;
    }
    assert_true(high);
}

static void test_rand_unit_and_chance_follow_the_probability(void **state)
{
    (void)state;
    struct rand r;
    rand_seed(&r, 7);
    double sum = 0;
    unsigned hits = 0;
    for (int i = 0; i < 100000; i++) {
        double x = rand_unit(&r);
        assert_true(x >= 0 && x < 1);
        sum += x;
        hits += rand_chance(&r, 0.25);
        assert_false(rand_chance(&r, 0));
        assert_true(rand_chance(&r, 1));
    }
    assert_true(sum > 49500 && sum < 50500);
    assert_in_range(hits, 24500, 25500);
}

static void below_zero(void *arg)
{
    (void)rand_below(arg, 0);
}

static void test_rand_below_zero_is_refused(void **state)
{
    (void)state;
    struct rand r;
    rand_seed(&r, 8);
    assert_true(dies(below_zero, &r, "n > 0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rand_sequence_is_that_of_the_reference_code),
        cmocka_unit_test(test_rand_same_seed_gives_the_same_sequence),
        cmocka_unit_test(test_rand_below_stays_in_range_and_is_even),
        cmocka_unit_test(test_rand_between_includes_both_ends),
        cmocka_unit_test(test_rand_unit_and_chance_follow_the_probability),
        cmocka_unit_test(test_rand_below_zero_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
