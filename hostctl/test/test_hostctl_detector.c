/* The failure detector on recorded and random series of intervals: false alarms, and time to
 * detection. */
#include "hostctl/detector.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/rand.h"

static const struct detector_bounds bounds = {.floor_ms = 1000, .ceiling_ms = 10000};

struct series {
    struct detector d;
    uint64_t now_ms;
    uint32_t alarms;
};

static struct series begin(void)
{
    struct series s = {.now_ms = 1000000};
    detector_restart(&s.d, s.now_ms);
    return s;
}

static void interval(struct series *s, uint64_t ms)
{
    s->alarms += s->now_ms + ms > detector_due_ms(&s->d, &bounds);
    s->now_ms += ms;
    detector_heard(&s->d, &bounds, s->now_ms);
}

static void regular(struct series *s, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        interval(s, 100);
    }
}

static void detector_regular_heartbeats_allow_the_floor(void **state)
{
    (void)state;
    struct series s = begin();
    assert_int_equal(detector_allowed_ms(&s.d, &bounds), 2000); /* no interval is known yet */
    regular(&s, 1000);
    assert_int_equal(s.alarms, 0);
    assert_int_equal(detector_allowed_ms(&s.d, &bounds), 1000);
    assert_int_equal(detector_due_ms(&s.d, &bounds) - s.now_ms, 1000);
}

/* The first gap of a second, as on a loaded machine, raises no alarm; afterwards the limit is
 * higher. */
static void detector_single_slow_second_raises_no_alarm(void **state)
{
    (void)state;
    struct series s = begin();
    regular(&s, 200);
    interval(&s, 990);
    assert_int_equal(s.alarms, 0);
    assert_int_equal(detector_allowed_ms(&s.d, &bounds), 1980);
    regular(&s, 300);
    interval(&s, 1900);
    assert_int_equal(s.alarms, 0);
    /* Gaps that do not recur are forgotten. */
    regular(&s, 3 * DETECTOR_WINDOW_MS / 100);
    assert_int_equal(detector_allowed_ms(&s.d, &bounds), 1000);
}

static void detector_bursts_do_not_shorten_what_is_expected(void **state)
{
    (void)state;
    struct series s = begin();
    for (uint32_t i = 0; i < 200; i++) {
        interval(&s, 300);
        for (uint32_t k = 0; k < 10; k++) {
            interval(&s, 1);
        }
    }
    assert_int_equal(s.alarms, 0);
    assert_true(s.d.mean_us > 250000 && s.d.mean_us < 350000);
}

static void detector_broken_connection_of_a_speaking_host_is_noticed_faster(void **state)
{
    (void)state;
    struct series s = begin();
    regular(&s, 200);
    detector_broken(&s.d, &bounds, s.now_ms + 30);
    assert_int_equal(detector_due_ms(&s.d, &bounds) - s.now_ms, 530);
    /* The peer reconnects at once: no alarm, and the gap is not recorded as an interval. */
    detector_heard(&s.d, &bounds, s.now_ms + 400);
    assert_int_equal(detector_allowed_ms(&s.d, &bounds), 1000);
    assert_int_equal(s.d.steady_ms, s.now_ms + 400);
    /* A peer that was silent before its connection broke keeps at least the time it had left. */
    s.now_ms += 400;
    detector_broken(&s.d, &bounds, s.now_ms + 700);
    assert_int_equal(detector_due_ms(&s.d, &bounds) - s.now_ms, 1000);
}

static void detector_our_own_absence_is_no_silence_of_others(void **state)
{
    (void)state;
    struct series s = begin();
    regular(&s, 200);
    detector_excuse(&s.d, 5000, s.now_ms + 5100);
    assert_true(detector_due_ms(&s.d, &bounds) > s.now_ms + 5100 + 800);
    /* No more than the peer's silence is excused. */
    detector_excuse(&s.d, 50000, s.now_ms + 5200);
    assert_int_equal(s.d.heard_ms, s.now_ms + 5200);
}

static void detector_long_absence_is_not_learned(void **state)
{
    (void)state;
    struct series s = begin();
    regular(&s, 200);
    interval(&s, 20000);
    assert_int_equal(s.alarms, 1);
    assert_int_equal(detector_allowed_ms(&s.d, &bounds), 1000);
    assert_int_equal(s.d.steady_ms, s.now_ms);
}

static void detector_threshold_stays_below_its_ceiling(void **state)
{
    (void)state;
    struct series s = begin();
    for (uint32_t i = 0; i < 100; i++) {
        interval(&s, 9000);
    }
    assert_int_equal(detector_allowed_ms(&s.d, &bounds), 10000);
}

/* Intervals in ms between heartbeats of one of three daemons. The daemons shared two cores with
 * eight busy loops for most of the time. */
static const uint16_t recorded[] = {
    24,  20,  104, 54,  155, 100, 89,  103, 199, 232, 166, 103, 199, 200, 198, 100, 102, 198,
    121, 179, 118, 188, 200, 104, 100, 96,  103, 100, 193, 111, 189, 199, 99,  110, 100, 95,
    97,  201, 100, 199, 112, 88,  165, 37,  110, 92,  97,  101, 99,  102, 115, 81,  103, 100,
    97,  100, 101, 100, 107, 93,  100, 117, 84,  98,  109, 192, 102, 99,  99,  115, 133, 52,
    105, 114, 81,  147, 55,  99,  110, 88,  106, 139, 164, 108, 192, 208, 183, 101, 100, 104,
    104, 92,  98,  106, 194, 102, 116, 192, 190, 103, 103, 94,  102, 104, 94,  100, 100, 106,
    194, 105, 201, 108, 196, 200, 244, 46,  110, 90,  100, 100, 100, 100, 100, 100, 100, 101,
    99,  100, 180, 126, 94,  100, 100, 100, 100, 100, 100, 100, 102, 200, 198, 100, 102, 100,
    98,  100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 110, 90,  100, 100, 100, 100,
    100, 100, 100, 100, 100, 100, 100, 100, 102, 98,  106, 94,  102, 200, 204, 94,  100, 100,
    100, 100, 100, 100, 118, 82,  100, 100, 100, 102, 98,  100, 102, 198, 100, 100, 114, 86,
    102, 100, 198, 100, 118, 82,  100, 100, 100, 100, 100, 100, 100, 100, 102, 206, 192, 100,
    100, 100, 106, 94,  100, 100, 110, 90,  100, 100, 100, 100, 100, 100, 100, 100, 102, 100,
    204, 196, 201, 219, 180, 208, 197, 195, 200, 208, 190, 102, 198, 100, 100, 100, 142, 180,
    180, 112, 96,  101, 203, 192, 96,  207, 194, 199, 198, 102, 200, 198, 102, 98,  110, 192,
    198, 106, 96,  208, 96,  194, 102, 98,  100, 106, 198, 202, 96,  208, 225, 71,  100, 212,
    184, 104, 94,  100, 100, 100, 100, 102, 198, 100, 115, 191, 96,  98,  103, 100, 99,  204,
    94,  100, 106, 96,  98,  100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100,
};

static void detector_recorded_intervals_of_a_loaded_machine_raise_no_alarm(void **state)
{
    (void)state;
    struct series s = begin();
    for (uint32_t round = 0; round < 50; round++) {
        for (size_t i = 0; i < sizeof recorded / sizeof recorded[0]; i++) {
            interval(&s, recorded[i]);
        }
    }
    assert_int_equal(s.alarms, 0);
    assert_int_equal(detector_allowed_ms(&s.d, &bounds), 1000);
}

/* Heartbeats of 100 ms with exponential delays; every twentieth has a stall of up to 1.5 s. */
static void detector_random_intervals_rarely_alarm_and_are_noticed_in_time(void **state)
{
    (void)state;
    uint64_t alarms = 0;
    uint64_t intervals = 0;
    uint64_t worst_ms = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct rand r;
        struct series s = begin();
        rand_seed(&r, seed);
        for (uint32_t i = 0; i < 4000; i++) {
            double u = ((double)rand_below(&r, 1000000) + 1) / 1000001.0;
            uint64_t ms = 100 + (uint64_t)(-40.0 * log(u));
            ms += rand_chance(&r, 0.05) ? rand_below(&r, 1500) : 0;
            interval(&s, ms);
        }
        alarms += s.alarms;
        intervals += 4000;
        uint64_t ms = detector_due_ms(&s.d, &bounds) - s.now_ms;
        worst_ms = ms > worst_ms ? ms : worst_ms;
    }
    print_message("%" PRIu64 " alarms in %" PRIu64 " intervals; a death is noticed within %" PRIu64
                  " ms\n",
                  alarms, intervals, worst_ms);
    /* Less than one alarm per host and seven minutes, where a fixed 1 s would alarm 300 times as
     * often. */
    assert_true(alarms * 4000 <= intervals);
    assert_true(worst_ms <= 4500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(detector_regular_heartbeats_allow_the_floor),
        cmocka_unit_test(detector_single_slow_second_raises_no_alarm),
        cmocka_unit_test(detector_bursts_do_not_shorten_what_is_expected),
        cmocka_unit_test(detector_broken_connection_of_a_speaking_host_is_noticed_faster),
        cmocka_unit_test(detector_our_own_absence_is_no_silence_of_others),
        cmocka_unit_test(detector_long_absence_is_not_learned),
        cmocka_unit_test(detector_threshold_stays_below_its_ceiling),
        cmocka_unit_test(detector_recorded_intervals_of_a_loaded_machine_raise_no_alarm),
        cmocka_unit_test(detector_random_intervals_rarely_alarm_and_are_noticed_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
