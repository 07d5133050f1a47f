#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "base/clock.h"

static void test_clock_monotonic_is_boottime_and_never_goes_back(void **state)
{
    (void)state;
    struct timespec boot;
    assert_int_equal(clock_gettime(CLOCK_BOOTTIME, &boot), 0);
    uint64_t last = (uint64_t)boot.tv_sec * NS_PER_S + (uint64_t)boot.tv_nsec;
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_now(&clock_system);
        assert_true(now >= last);
        last = now;
    }
    assert_int_equal(clock_gettime(CLOCK_BOOTTIME, &boot), 0);
    assert_true(last <= (uint64_t)boot.tv_sec * NS_PER_S + (uint64_t)boot.tv_nsec);
}

static void test_clock_wall_is_the_epoch_in_milliseconds(void **state)
{
    (void)state;
    uint64_t before = (uint64_t)time(NULL) * 1000;
    uint64_t wall = clock_system.wall_ms(&clock_system);
    assert_true(wall + 1000 >= before && wall < before + 60000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clock_monotonic_is_boottime_and_never_goes_back),
        cmocka_unit_test(test_clock_wall_is_the_epoch_in_milliseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
