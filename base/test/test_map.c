#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>

#include "base/map.h"
#include "base/rand.h"
#include "base/test/death.h"

#define KEYS 200

/* How the i-th key of a run looks: in sequence, far apart, or equal in its low bits. */
static uint64_t key_of(unsigned run, unsigned i)
{
    switch (run % 4) {
    case 0:
        return i;
    case 1:
        return (uint64_t)i << 32;
    case 2:
        return UINT64_MAX - i;
    default:
        return (uint64_t)i * UINT64_C(0x9e3779b97f4a7c15);
    }
}

static void check_walk(const struct map *m, void *const naive[KEYS], unsigned run)
{
    bool seen[KEYS] = {false};
    size_t count = 0, it = 0;
    uint64_t key = 0;
    void *v;
    while ((v = map_next(m, &it, &key)) != NULL) {
        unsigned i = 0;
        while (i < KEYS && key_of(run, i) != key) {
            i++;
        }
        assert_true(i < KEYS && !seen[i]);
        seen[i] = true;
        assert_ptr_equal(v, naive[i]);
        count++;
    }
    assert_int_equal(count, m->count);
    assert_null(map_next(m, &it, NULL));
}

static void test_map_random_operations_agree_with_an_array(void **state)
{
    (void)state;
    static char values[1000];
    for (unsigned run = 0; run < 60; run++) {
        struct map m = {0};
        void *naive[KEYS] = {NULL};
        size_t count = 0;
        struct rand r;
        rand_seed(&r, run);
        /* Few keys: runs that wrap around a small table. Many: growth. */
        unsigned keys = run % 3 == 0 ? 7 : KEYS;
        double put_chance = 0.2 + 0.1 * (run % 5);
        for (unsigned step = 0; step < 3000; step++) {
            unsigned i = (unsigned)rand_below(&r, keys);
            uint64_t key = key_of(run, i);
            if (rand_chance(&r, put_chance)) {
                void *v = &values[rand_below(&r, sizeof values)];
                count += naive[i] == NULL;
                assert_ptr_equal(map_put(&m, key, v), naive[i]);
                naive[i] = v;
            } else if (rand_chance(&r, 0.6)) {
                count -= naive[i] != NULL;
                assert_ptr_equal(map_remove(&m, key), naive[i]);
                naive[i] = NULL;
            }
            assert_ptr_equal(map_get(&m, key), naive[i]);
            assert_int_equal(m.count, count);
            if (step % 50 == 0) {
                check_walk(&m, naive, run);
                for (unsigned k = 0; k < KEYS; k++) {
                    assert_ptr_equal(map_get(&m, key_of(run, k)), naive[k]);
                }
            }
        }
        map_deinit(&m);
    }
}

static void test_map_empty_has_nothing(void **state)
{
    (void)state;
    struct map m = {0};
    size_t it = 0;
    assert_null(map_get(&m, 0));
    assert_null(map_remove(&m, 0));
    assert_null(map_next(&m, &it, NULL));
    map_deinit(&m);
    map_deinit(&m);
    map_deinit(NULL);
}

static void test_map_large_stays_within_twice_its_need(void **state)
{
    (void)state;
    static char value;
    struct map m = {0};
    const uint64_t n = 100000;
    for (uint64_t key = 0; key < n; key++) {
        assert_null(map_put(&m, key, &value));
    }
    assert_true(m.capacity <= n * 8 / 3);
    size_t capacity = m.capacity;
    /* Removals leave no tombstones: unlimited churn fits the same table. */
    for (uint64_t key = n; key < 4 * n; key++) {
        assert_ptr_equal(map_remove(&m, key - n), &value);
        assert_null(map_put(&m, key, &value));
    }
    assert_int_equal(m.capacity, capacity);
    assert_int_equal(m.count, n);
    map_deinit(&m);
}

static void test_map_same_history_walks_in_the_same_order(void **state)
{
    (void)state;
    static char value;
    struct map a = {0}, b = {0};
    for (uint64_t i = 0; i < 500; i++) {
        map_put(&a, i * 7, &value);
        map_put(&b, i * 7, &value);
        if (i % 3 == 0) {
            map_remove(&a, i);
            map_remove(&b, i);
        }
    }
    size_t ia = 0, ib = 0;
    uint64_t ka = 0, kb = 0;
    while (map_next(&a, &ia, &ka) != NULL) {
        assert_non_null(map_next(&b, &ib, &kb));
        assert_true(ka == kb);
    }
    map_deinit(&a);
    map_deinit(&b);
}

static void put_null(void *arg)
{
    map_put(arg, 1, NULL);
}

static void test_map_put_of_null_is_refused(void **state)
{
    (void)state;
    struct map m = {0};
    assert_true(dies(put_null, &m, "value != NULL"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map_random_operations_agree_with_an_array),
        cmocka_unit_test(test_map_empty_has_nothing),
        cmocka_unit_test(test_map_large_stays_within_twice_its_need),
        cmocka_unit_test(test_map_same_history_walks_in_the_same_order),
        cmocka_unit_test(test_map_put_of_null_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
