/* Starts of a host, and starts of copies of its disk. */
#include "base/lineage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct lineage six = {.start = 106, .oldest = 4, .count = 2, .before = {104, 105}};

static void test_next_start_follows_any_that_it_had(void **state)
{
    (void)state;
    assert_int_equal(lineage_judge(&six, 6, 0, 0), LINEAGE_FOLLOWS);
    assert_int_equal(lineage_judge(&six, 6, 6, 106), LINEAGE_FOLLOWS);
    assert_int_equal(lineage_judge(&six, 6, 5, 105), LINEAGE_FOLLOWS);
    assert_int_equal(lineage_judge(&six, 6, 4, 104), LINEAGE_FOLLOWS);
    assert_int_equal(lineage_judge(&six, 6, 3, 103), LINEAGE_FOLLOWS); /* evicted */
    assert_int_equal(lineage_judge(&six, 6, 5, 0), LINEAGE_FOLLOWS);   /* no number */
}

static void test_copy_branches_however_often_it_starts(void **state)
{
    (void)state;
    /* The known start is the original's start 6; the copy was made before it. */
    assert_int_equal(lineage_judge(&six, 6, 6, 206), LINEAGE_BRANCH);
    assert_int_equal(lineage_judge(&six, 6, 5, 205), LINEAGE_BRANCH);
    struct lineage copy = {.start = 999, .oldest = 5, .count = 1, .before = {105}};
    for (uint64_t n = 7; n < 1000; n++) {
        if (copy.count < LINEAGE_MAX) {
            copy.before[copy.count++] = 300 + n;
        }
        assert_int_equal(lineage_judge(&copy, n, 6, 106), LINEAGE_BRANCH);
    }
    assert_int_equal(lineage_judge(&(struct lineage){0}, 9, 6, 106), LINEAGE_BRANCH);
}

static void test_older_start_is_stale(void **state)
{
    (void)state;
    assert_int_equal(lineage_judge(&six, 6, 7, 107), LINEAGE_STALE);
    assert_int_equal(lineage_judge(&six, 6, 7, 0), LINEAGE_STALE);
}

static void test_lineage_goes_round_and_nonsense_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[LINEAGE_BYTES_MAX + 8] = {0};
    struct lineage l;
    size_t n = lineage_encode(&six, bytes);
    assert_true(lineage_decode(slice_of(bytes, n), &l));
    assert_int_equal(l.start, six.start);
    assert_int_equal(l.oldest, six.oldest);
    assert_int_equal(l.count, 2);
    assert_int_equal(l.before[1], 105);
    assert_true(lineage_decode((struct slice){0}, &l) && l.start == 0 && l.count == 0);
    assert_false(lineage_decode(slice_of(bytes, 8), &l));
    assert_false(lineage_decode(slice_of(bytes, n - 1), &l));
    assert_true(lineage_decode(slice_of(bytes, LINEAGE_BYTES_MAX), &l));
    assert_false(lineage_decode(slice_of(bytes, LINEAGE_BYTES_MAX + 8), &l));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_start_follows_any_that_it_had),
        cmocka_unit_test(test_copy_branches_however_often_it_starts),
        cmocka_unit_test(test_older_start_is_stale),
        cmocka_unit_test(test_lineage_goes_round_and_nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
