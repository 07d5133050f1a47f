/* Which items a corked thread holds back, and when they run. */
#include "base/cork.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/worker.h"

struct note {
    struct cork_item item;
    char name;
};

static char order[16];
static size_t length;

static void write_down(struct cork_item *item)
{
    order[length++] = CONTAINER_OF(item, struct note, item)->name;
    order[length] = 0;
}

static int setup(void **state)
{
    (void)state;
    length = 0;
    order[0] = 0;
    return 0;
}

static void test_cork_without_a_scope_keeps_nothing(void **state)
{
    (void)state;
    struct note a = {{.fn = write_down}, 'a'};
    assert_false(cork_is_on());
    assert_false(cork_add(&a.item));
    cork_begin();
    cork_end();
    assert_string_equal(order, "");
}

static void test_cork_at_the_end_of_the_outermost_scope_runs_all_in_order(void **state)
{
    (void)state;
    struct note a = {{.fn = write_down}, 'a'}, b = {{.fn = write_down}, 'b'};
    cork_begin();
    assert_true(cork_add(&a.item));
    cork_begin();
    assert_true(cork_add(&b.item));
    cork_end();
    assert_string_equal(order, "");
    cork_end();
    assert_string_equal(order, "ab");
    assert_false(cork_is_on());
}

static void test_cork_flushed_runs_what_was_added_and_stays_on(void **state)
{
    (void)state;
    struct note a = {{.fn = write_down}, 'a'};
    cork_begin();
    assert_true(cork_add(&a.item));
    cork_flush();
    assert_string_equal(order, "a");
    assert_true(cork_add(&a.item)); /* it ran, so it may be scheduled again */
    cork_end();
    assert_string_equal(order, "aa");
}

static struct note late = {{.fn = write_down}, 'l'};

static void add_another(struct cork_item *item)
{
    write_down(item);
    assert_true(cork_add(&late.item));
}

static void test_cork_item_added_by_an_item_runs_too(void **state)
{
    (void)state;
    struct note a = {{.fn = add_another}, 'a'};
    cork_begin();
    assert_true(cork_add(&a.item));
    cork_end();
    assert_string_equal(order, "al");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_cork_without_a_scope_keeps_nothing, setup),
        cmocka_unit_test_setup(test_cork_at_the_end_of_the_outermost_scope_runs_all_in_order,
                               setup),
        cmocka_unit_test_setup(test_cork_flushed_runs_what_was_added_and_stays_on, setup),
        cmocka_unit_test_setup(test_cork_item_added_by_an_item_runs_too, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
