/* A pool of objects: reuse, and how many are kept. */
#include "base/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void test_pool_gives_objects_of_its_size_and_keeps_at_most_its_bound(void **state)
{
    (void)state;
    struct pool p;
    void *objects[5];
    pool_init(&p, 100, 3);
    for (int i = 0; i < 5; i++) {
        objects[i] = pool_take(&p);
        memset(objects[i], i, 100);
    }
    for (int i = 0; i < 5; i++) {
        assert_int_equal(((uint8_t *)objects[i])[99], i);
    }
    for (int i = 0; i < 5; i++) {
        pool_give(&p, objects[i]);
    }
    assert_true(p.count <= 3); /* under a sanitizer the pool keeps none */
    for (int i = 0; i < 5; i++) {
        objects[i] = pool_take(&p);
    }
    assert_int_equal(p.count, 0);
    for (int i = 0; i < 5; i++) {
        pool_give(&p, objects[i]);
    }
    pool_deinit(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool_gives_objects_of_its_size_and_keeps_at_most_its_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
