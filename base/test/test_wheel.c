#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/rand.h"
#include "base/wheel.h"

#define TIMERS 100

/* The model: due times in an array. */
struct model {
    struct wheel *w;
    struct wheel_timer timers[TIMERS];
    bool armed[TIMERS];
    bool late[TIMERS]; /* armed when already due: may fire in any order */
    uint64_t due_ms[TIMERS];
    uint64_t now_ms;
};

static uint64_t model_min(const struct model *m)
{
    uint64_t min = UINT64_MAX;
    for (int i = 0; i < TIMERS; i++) {
        if (m->armed[i] && m->due_ms[i] < min) {
            min = m->due_ms[i];
        }
    }
    return min;
}

static void check(const struct model *m)
{
    bool any = false;
    for (int i = 0; i < TIMERS; i++) {
        assert_int_equal(wheel_armed(&m->timers[i]), m->armed[i]);
        any |= m->armed[i];
    }
    uint64_t next = wheel_next(m->w);
    assert_true(next <= model_min(m));
    if (!any) {
        assert_true(next == UINT64_MAX);
    }
}

static void arm(struct model *m, int i, uint64_t due_ms)
{
    wheel_arm(m->w, &m->timers[i], due_ms);
    m->armed[i] = true;
    m->late[i] = due_ms <= m->now_ms;
    m->due_ms[i] = due_ms;
}

static void cancel(struct model *m, int i)
{
    wheel_cancel(m->w, &m->timers[i]);
    m->armed[i] = false;
}

static uint64_t add_capped(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t random_due(struct rand *r, uint64_t now_ms)
{
    switch (rand_below(r, 8)) {
    case 0:
        return rand_below(r, add_capped(now_ms, 1)); /* past */
    case 1:
        return now_ms;
    case 2:
        return UINT64_MAX - rand_below(r, 3);
    case 3:
        return rand_u64(r); /* anywhere */
    default:
        /* A span of any magnitude, with level boundaries more often than chance would give. */
        break;
    }
    uint64_t span = UINT64_C(1) << rand_below(r, 45);
    uint64_t due = add_capped(now_ms, rand_between(r, 0, span));
    if (rand_chance(r, 0.3)) {
        due = add_capped(due & ~(span - 1), rand_below(r, 3));
    }
    return due;
}

/* Take the timers that are due at `to_ms`; now and then change timers in between, as a turn
 * does. */
static void advance(struct model *m, struct rand *r, uint64_t to_ms)
{
    if (to_ms > m->now_ms) {
        m->now_ms = to_ms;
    }
    struct wheel_timer *t;
    uint64_t last_ms = 0;
    while ((t = wheel_expire(m->w, to_ms)) != NULL) {
        int i = (int)(t - m->timers);
        assert_true(m->armed[i]);
        assert_true(t->due_ms == m->due_ms[i]);
        assert_true(m->due_ms[i] <= m->now_ms);
        assert_false(wheel_armed(t));
        m->armed[i] = false;
        if (!m->late[i]) {
            assert_true(m->due_ms[i] >= last_ms);
            last_ms = m->due_ms[i];
        }
        if (rand_chance(r, 0.2)) {
            arm(m, i, add_capped(m->now_ms, 1 + rand_below(r, 10000)));
        }
        if (rand_chance(r, 0.1)) {
            cancel(m, (int)rand_below(r, TIMERS));
        }
        check(m);
    }
    for (int i = 0; i < TIMERS; i++) {
        assert_true(!m->armed[i] || m->due_ms[i] > to_ms);
    }
}

static void test_wheel_random_operations_agree_with_a_list(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 150; seed++) {
        static struct model m;
        struct rand r;
        rand_seed(&r, seed);
        memset(&m, 0, sizeof m);
        m.now_ms = seed % 3 == 0 ? 0 : rand_u64(&r) >> rand_below(&r, 64);
        m.w = wheel_new(m.now_ms);
        int timers = seed % 2 == 0 ? 5 : TIMERS;
        for (int step = 0; step < 400; step++) {
            int i = (int)rand_below(&r, (uint64_t)timers);
            uint64_t what = rand_below(&r, 10);
            if (what < 5) {
                arm(&m, i, random_due(&r, m.now_ms));
            } else if (what < 7) {
                cancel(&m, i);
            } else if (what < 9) {
                advance(
                    &m, &r,
                    add_capped(m.now_ms, rand_below(&r, 1 + (UINT64_C(1) << rand_below(&r, 16)))));
            } else if (rand_chance(&r, 0.1)) {
                advance(&m, &r, add_capped(m.now_ms, rand_u64(&r) >> rand_below(&r, 40)));
            } else {
                advance(&m, &r, model_min(&m)); /* exactly there */
            }
            check(&m);
        }
        advance(&m, &r, UINT64_MAX);
        wheel_free(m.w);
    }
}

/* A caller that repeatedly sleeps until wheel_next reaches the timer in a few steps, and not too
 * late. */
static void test_wheel_next_leads_to_the_timer_in_few_steps(void **state)
{
    (void)state;
    struct rand r;
    rand_seed(&r, 9);
    for (int round = 0; round < 2000; round++) {
        uint64_t now_ms = rand_u64(&r) >> rand_below(&r, 64);
        uint64_t due_ms = add_capped(now_ms, 1 + (rand_u64(&r) >> rand_below(&r, 64)));
        struct wheel *w = wheel_new(now_ms);
        struct wheel_timer t = {0};
        wheel_arm(w, &t, due_ms);
        int steps = 0;
        struct wheel_timer *expired = NULL;
        while (expired == NULL && steps < 12) {
            uint64_t next_ms = wheel_next(w);
            assert_true(next_ms > now_ms && next_ms <= due_ms);
            now_ms = next_ms;
            expired = wheel_expire(w, now_ms);
            steps++;
        }
        assert_ptr_equal(expired, &t);
        assert_true(now_ms == due_ms);
        wheel_free(w);
    }
}

static void test_wheel_time_that_goes_back_is_ignored(void **state)
{
    (void)state;
    struct wheel *w = wheel_new(1000);
    struct wheel_timer t = {0};
    wheel_arm(w, &t, 1500);
    assert_null(wheel_expire(w, 400));
    assert_null(wheel_expire(w, 1499));
    assert_null(wheel_expire(w, 1200));
    assert_ptr_equal(wheel_expire(w, 1500), &t);
    assert_null(wheel_expire(w, 1500));
    assert_true(wheel_next(w) == UINT64_MAX);
    wheel_free(w);
    wheel_free(NULL);
}

static void test_wheel_timer_armed_for_the_past_is_due_at_once(void **state)
{
    (void)state;
    struct wheel *w = wheel_new(1000);
    struct wheel_timer a = {0}, b = {0};
    wheel_arm(w, &a, 10);
    wheel_arm(w, &b, 1000);
    assert_true(wheel_next(w) <= 10);
    assert_non_null(wheel_expire(w, 1000));
    assert_non_null(wheel_expire(w, 1000));
    assert_null(wheel_expire(w, 1000));
    wheel_cancel(w, &a);
    assert_false(wheel_armed(&a));
    wheel_free(w);
}

static void test_wheel_rearm_moves_the_timer(void **state)
{
    (void)state;
    struct wheel *w = wheel_new(0);
    struct wheel_timer t = {0};
    wheel_arm(w, &t, 10);
    wheel_arm(w, &t, 5000);
    assert_null(wheel_expire(w, 4999));
    wheel_arm(w, &t, 6000);
    assert_null(wheel_expire(w, 5999));
    assert_ptr_equal(wheel_expire(w, 6000), &t);
    wheel_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wheel_random_operations_agree_with_a_list),
        cmocka_unit_test(test_wheel_next_leads_to_the_timer_in_few_steps),
        cmocka_unit_test(test_wheel_time_that_goes_back_is_ignored),
        cmocka_unit_test(test_wheel_timer_armed_for_the_past_is_due_at_once),
        cmocka_unit_test(test_wheel_rearm_moves_the_timer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
