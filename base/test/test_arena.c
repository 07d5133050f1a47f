#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sanitizer/asan_interface.h>
#include <string.h>

#include "base/arena.h"
#include "base/rand.h"

static void test_arena_allocations_are_aligned_zeroed_and_apart(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    struct rand r;
    rand_seed(&r, 1);
    for (int round = 0; round < 20; round++) {
        uint8_t *blocks[400];
        size_t sizes[400];
        for (int i = 0; i < 400; i++) {
            size_t bound = rand_chance(&r, 0.02) ? 600000 : 300;
            sizes[i] = (size_t)rand_below(&r, bound);
            blocks[i] = arena_alloc(a, sizes[i]);
            assert_int_equal((uintptr_t)blocks[i] % 16, 0);
            for (size_t k = 0; k < sizes[i]; k++) {
                if (blocks[i][k] != 0) {
                    fail();
                }
            }
            memset(blocks[i], i % 255 + 1, sizes[i]);
        }
        for (int i = 0; i < 400; i++) {
            for (size_t k = 0; k < sizes[i]; k++) {
                if (blocks[i][k] != i % 255 + 1) {
                    fail();
                }
            }
        }
        arena_reset(a);
    }
    arena_free(a);
    arena_free(NULL);
}

static void test_arena_reset_reuses_the_first_block(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    void *first = arena_alloc(a, 100);
    (void)arena_alloc(a, 1000000);
    arena_reset(a);
    assert_ptr_equal(arena_alloc(a, 100), first);
    arena_free(a);
}

static void test_arena_copies_are_their_own(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    char text[] = "shard";
    char *s = arena_strdup(a, text);
    struct slice copy = arena_copy(a, slice_str(text));
    memset(text, 'x', sizeof text - 1);
    assert_string_equal(s, "shard");
    assert_true(slice_equal(copy, slice_str("shard")));
    assert_int_equal(arena_copy(a, slice_of(NULL, 0)).size, 0);
    arena_free(a);
}

/* Only AddressSanitizer can detect a use of memory that was not allocated. */
static void test_arena_memory_not_handed_out_is_poisoned(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    uint8_t *p = arena_alloc(a, 10);
#if defined(__SANITIZE_ADDRESS__)
    assert_false(__asan_address_is_poisoned(p + 9));
    assert_true(__asan_address_is_poisoned(p + 16));
    arena_reset(a);
    assert_true(__asan_address_is_poisoned(p));
#else
    assert_non_null(p);
#endif
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena_allocations_are_aligned_zeroed_and_apart),
        cmocka_unit_test(test_arena_reset_reuses_the_first_block),
        cmocka_unit_test(test_arena_copies_are_their_own),
        cmocka_unit_test(test_arena_memory_not_handed_out_is_poisoned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
