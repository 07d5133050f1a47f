/* The checker of histories, on histories whose verdict is known, and against brute force. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/rand.h"
#include "shards/sim/linear.h"

#include <cmocka.h>

static void test_linear_sequence_is_ok(void **state)
{
    (void)state;
    struct linear *l = linear_new(0);
    uint64_t a = linear_swap(l, 1);
    linear_return(l, a, 0);
    uint64_t b = linear_read(l);
    linear_return(l, b, 1);
    assert_int_equal(linear_check(l, true), LINEAR_OK);
    linear_free(l);
}

static void test_linear_stale_read_is_found(void **state)
{
    (void)state;
    struct linear *l = linear_new(0);
    linear_return(l, linear_swap(l, 1), 0);
    linear_return(l, linear_swap(l, 2), 1);
    linear_return(l, linear_read(l), 1);
    assert_int_equal(linear_check(l, false), LINEAR_VIOLATION);
    linear_free(l);
}

static void test_linear_concurrent_read_may_see_either(void **state)
{
    (void)state;
    for (uint64_t seen = 0; seen < 2; seen++) {
        struct linear *l = linear_new(0);
        uint64_t w = linear_swap(l, 1), r = linear_read(l);
        linear_return(l, r, seen);
        linear_return(l, w, 0);
        assert_int_equal(linear_check(l, true), LINEAR_OK);
        linear_free(l);
    }
}

static void test_linear_reads_that_go_back_are_found(void **state)
{
    (void)state;
    struct linear *l = linear_new(0);
    uint64_t w = linear_swap(l, 1);
    linear_return(l, linear_read(l), 1);
    linear_return(l, linear_read(l), 0);
    linear_return(l, w, 0);
    assert_int_equal(linear_check(l, true), LINEAR_VIOLATION);
    linear_free(l);
}

static void test_linear_open_swap_may_happen_late_or_never(void **state)
{
    (void)state;
    struct linear *l = linear_new(0);
    linear_open(l, linear_swap(l, 1));
    linear_return(l, linear_read(l), 0);
    linear_return(l, linear_swap(l, 2), 0);
    linear_return(l, linear_read(l), 1); /* late */
    assert_int_equal(linear_check(l, true), LINEAR_OK);
    linear_return(l, linear_read(l), 2); /* and not undone */
    assert_int_equal(linear_check(l, true), LINEAR_VIOLATION);
    linear_free(l);
}

static void test_linear_refused_swap_must_not_be_seen(void **state)
{
    (void)state;
    struct linear *l = linear_new(0);
    linear_refused(l, linear_swap(l, 1));
    linear_return(l, linear_read(l), 1);
    assert_int_equal(linear_check(l, true), LINEAR_VIOLATION);
    linear_free(l);
}

static void test_linear_lost_write_is_found(void **state)
{
    (void)state;
    struct linear *l = linear_new(0);
    linear_return(l, linear_swap(l, 1), 0);
    linear_return(l, linear_swap(l, 2), 0);
    assert_int_equal(linear_check(l, true), LINEAR_VIOLATION);
    linear_free(l);
}

/* ---- Against brute force --------------------------------------------------------------------- */

#define OPS 6
struct call {
    bool swap, open;
    int begin, end;
    uint64_t value, result;
};

static bool try_orders(const struct call *c, unsigned done, uint64_t value)
{
    bool all = true;
    for (int i = 0; i < OPS; i++) {
        all = all && ((done >> i & 1) || c[i].open);
    }
    if (all) {
        return true;
    }
    for (int i = 0; i < OPS; i++) {
        bool first = !(done >> i & 1);
        for (int k = 0; k < OPS && first; k++) {
            if (k != i && !(done >> k & 1) && !c[k].open && c[k].end < c[i].begin) {
                first = false;
            }
        }
        if (!first || (!c[i].open && c[i].result != value)) {
            continue;
        }
        if (try_orders(c, done | 1u << i, c[i].swap ? c[i].value : value)) {
            return true;
        }
    }
    return false;
}

static void make(struct rand *r, struct call *c)
{
    int moments[2 * OPS];
    for (int i = 0; i < 2 * OPS; i++) {
        moments[i] = i;
    }
    for (int i = 2 * OPS - 1; i > 0; i--) {
        int k = (int)rand_below(r, (uint64_t)i + 1), m = moments[i];
        moments[i] = moments[k];
        moments[k] = m;
    }
    for (int i = 0; i < OPS; i++) {
        int a = moments[2 * i], b = moments[2 * i + 1];
        c[i] = (struct call){.swap = rand_chance(r, 0.6),
                             .open = rand_chance(r, 0.2),
                             .begin = a < b ? a : b,
                             .end = a < b ? b : a,
                             .value = (uint64_t)i + 1,
                             .result = rand_below(r, 4)};
        c[i].open = c[i].open && c[i].swap;
    }
}

static void test_linear_agrees_with_brute_force(void **state)
{
    (void)state;
    struct rand r;
    rand_seed(&r, 1);
    int good = 0;
    for (int run = 0; run < 20000; run++) {
        struct call c[OPS];
        uint64_t op[OPS] = {0};
        make(&r, c);
        struct linear *l = linear_new(0);
        for (int t = 0; t < 2 * OPS; t++) {
            for (int i = 0; i < OPS; i++) {
                if (c[i].begin == t) {
                    op[i] = c[i].swap ? linear_swap(l, c[i].value) : linear_read(l);
                }
                if (c[i].end == t && c[i].open) {
                    linear_open(l, op[i]);
                } else if (c[i].end == t) {
                    linear_return(l, op[i], c[i].result);
                }
            }
        }
        bool expected = try_orders(c, 0, 0);
        good += expected;
        assert_int_equal(linear_check(l, true), expected ? LINEAR_OK : LINEAR_VIOLATION);
        linear_free(l);
    }
    assert_true(good > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_sequence_is_ok),
        cmocka_unit_test(test_linear_stale_read_is_found),
        cmocka_unit_test(test_linear_concurrent_read_may_see_either),
        cmocka_unit_test(test_linear_reads_that_go_back_are_found),
        cmocka_unit_test(test_linear_open_swap_may_happen_late_or_never),
        cmocka_unit_test(test_linear_refused_swap_must_not_be_seen),
        cmocka_unit_test(test_linear_lost_write_is_found),
        cmocka_unit_test(test_linear_agrees_with_brute_force),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
