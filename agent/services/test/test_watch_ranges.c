/* Which watchers a key belongs to: the tree beside a plain list. */
#include "agent/services/watch_ranges.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define WATCHERS 300

struct watcher {
    struct watch_interest interest;
    uint8_t from[3], to[3];
    struct watch_keys keys;
    bool added;
    int found;
};

static struct slice random_key(struct rand *r, uint8_t bytes[3])
{
    size_t size = 1 + (size_t)rand_below(r, 3);

    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(rand_below(r, 4) * 85); /* 0 and 255, too */
    }
    return slice_of(bytes, size);
}

static void count(void *ctx, struct watch_interest *i)
{
    size_t *n = ctx;

    ((struct watcher *)(void *)i)->found++;
    ++*n;
}

static void check(const struct watch_ranges *r, struct watcher *all, struct slice key)
{
    size_t found = 0, expected = 0;

    services__watch_ranges_match(r, key, count, &found);
    for (size_t i = 0; i < WATCHERS; i++) {
        struct watcher *w = &all[i];
        bool wants = w->added && services__watch_keys_contain(&w->keys, key);
        assert_int_equal(w->found, wants);
        expected += wants;
        w->found = 0;
    }
    assert_int_equal(found, expected);
}

static void test_match_finds_what_a_list_finds(void **state)
{
    static struct watcher all[WATCHERS];
    struct watch_ranges ranges = {0};
    struct rand r;
    uint8_t bytes[3];

    (void)state;
    rand_seed(&r, 7);
    for (int step = 0; step < 20000; step++) {
        struct watcher *w = &all[rand_below(&r, WATCHERS)];
        if (w->added) {
            services__watch_ranges_remove(&ranges, &w->interest);
            w->added = false;
        } else {
            w->keys.from = random_key(&r, w->from);
            w->keys.to = random_key(&r, w->to);
            w->keys.no_end = rand_chance(&r, 0.1);
            w->keys.to = w->keys.no_end ? (struct slice){0} : w->keys.to;
            services__watch_ranges_add(&ranges, &w->keys, &w->interest);
            struct watch_keys kept = services__watch_interest_keys(&w->interest);
            assert_true(slice_equal(kept.from, w->keys.from) && slice_equal(kept.to, w->keys.to));
            w->added = true;
        }
        check(&ranges, all, random_key(&r, bytes));
    }
    for (size_t i = 0; i < WATCHERS; i++) {
        if (all[i].added) {
            services__watch_ranges_remove(&ranges, &all[i].interest);
        }
    }
    assert_null(ranges.root);
}

static struct watch_keys range(const char *from, const char *to)
{
    return (struct watch_keys){slice_str(from), slice_str(to != NULL ? to : ""), to == NULL};
}

static void test_join_contains_both(void **state)
{
    const struct watch_keys a = range("b", "d"), b = range("c", "e"), open = range("x", NULL);

    (void)state;
    struct watch_keys joined = services__watch_keys_join(&a, &b);
    assert_true(slice_equal(joined.from, slice_str("b")));
    assert_true(slice_equal(joined.to, slice_str("e")) && !joined.no_end);
    joined = services__watch_keys_join(&open, &a);
    assert_true(slice_equal(joined.from, slice_str("b")) && joined.no_end);
    assert_true(services__watch_keys_contain(&joined, slice_str("zzz")));
    assert_false(services__watch_keys_contain(&a, slice_str("d")));
    assert_false(services__watch_keys_contain(&a, slice_str("a")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_match_finds_what_a_list_finds),
        cmocka_unit_test(test_join_contains_both),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
