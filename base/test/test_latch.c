/* Waiting for a latch: opened before or during the wait, by the first of several threads, or
 * never. */
#include "base/latch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"

static const struct thole_status failure = {
    .code = THOLE_UNAVAILABLE, .reason = THOLE_REASON_STOPPED, .message = "stopped"};

static void test_latch_opened_before_the_wait_returns_at_once(void **state)
{
    (void)state;
    struct latch l;
    struct thole_status st = {.code = THOLE_INTERNAL};
    latch_init(&l);
    assert_false(latch_is_open(&l));
    latch_open(&l, NULL);
    assert_true(latch_is_open(&l));
    assert_int_equal(latch_wait(&l, &st), THOLE_OK);
    assert_int_equal(st.code, THOLE_INTERNAL); /* untouched on success */
    latch_deinit(&l);
}

static void test_latch_opened_twice_keeps_the_first_status(void **state)
{
    (void)state;
    struct latch l;
    struct thole_status st = {0};
    latch_init(&l);
    latch_callback(&l, &failure);
    latch_open(&l, NULL);
    assert_int_equal(latch_wait(&l, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_STOPPED);
    assert_string_equal(st.message, "stopped");
    assert_int_equal(latch_wait(&l, NULL), THOLE_UNAVAILABLE); /* again, and without a status */
    latch_deinit(&l);
}

static void test_latch_not_opened_gives_up_at_the_deadline(void **state)
{
    (void)state;
    struct latch l;
    latch_init(&l);
    uint64_t deadline = clock_now(&clock_system) + 20 * NS_PER_MS;
    assert_false(latch_wait_until(&l, deadline));
    assert_true(clock_now(&clock_system) >= deadline);
    assert_false(latch_wait_until(&l, 0)); /* a deadline that has passed */
    latch_open(&l, NULL);
    assert_true(latch_wait_until(&l, 0)); /* open counts, however late */
    latch_deinit(&l);
}

struct opener {
    struct latch go, done;
    int written; /* before `done` is opened */
};

static void *open_when_told(void *ctx)
{
    struct opener *o = ctx;
    (void)latch_wait(&o->go, NULL);
    o->written = 7;
    latch_open(&o->done, &failure);
    return NULL;
}

/* Many rounds: the opener must not touch the latch once the waiting thread may have freed it. The
 * sanitizers would report that. */
static void test_latch_opened_during_the_wait_wakes_it_and_shows_what_was_written(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct opener o = {.written = 0};
        pthread_t thread;
        struct thole_status st = {0};
        latch_init(&o.go);
        latch_init(&o.done);
        assert_int_equal(pthread_create(&thread, NULL, open_when_told, &o), 0);
        latch_open(&o.go, NULL);
        assert_int_equal(latch_wait(&o.done, &st), THOLE_UNAVAILABLE);
        assert_int_equal(o.written, 7);
        latch_deinit(&o.done);
        assert_int_equal(pthread_join(thread, NULL), 0);
        latch_deinit(&o.go);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_latch_opened_before_the_wait_returns_at_once),
        cmocka_unit_test(test_latch_opened_twice_keeps_the_first_status),
        cmocka_unit_test(test_latch_not_opened_gives_up_at_the_deadline),
        cmocka_unit_test(test_latch_opened_during_the_wait_wakes_it_and_shows_what_was_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
