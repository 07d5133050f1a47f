#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/slot.h"

/* ---- The tables of docs/specs.md, "Keys" ----------------------------------------------------- */

/* Calls `row` for each line of the document; the number of lines for which it returned true. */
static int each_line(bool (*row)(const char *line))
{
    char line[256];
    int rows = 0;
    FILE *f = fopen(THOLE_TEST_SOURCE_DIR "/../../docs/specs.md", "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        rows += row(line);
    }
    fclose(f);
    return rows;
}

static bool key_row(const char *line)
{
    char key[64];
    unsigned slot = 0, of_3 = 0, of_64 = 0;
    if (sscanf(line, "| `%63[^`]` | %u | %u | %u |", key, &slot, &of_3, &of_64) != 4) {
        return false;
    }
    if (slot_of_key(slice_str(key)) != slot || slot_shard(slot, 3) != of_3 ||
        slot_shard(slot, 64) != of_64) {
        fail_msg("%s has slot %u", key, (unsigned)slot_of_key(slice_str(key)));
    }
    return true;
}

static bool range_row(const char *line)
{
    unsigned shards = 0, shard = 0, first = 0, last = 0;
    uint32_t is_first = 0, is_last = 0;
    if (sscanf(line, "| %u | %u | %u | %u |", &shards, &shard, &first, &last) != 4) {
        return false;
    }
    slot_range(shard, shards, &is_first, &is_last);
    assert_int_equal(is_first, first);
    assert_int_equal(is_last, last);
    return true;
}

static void test_slot_tables_of_the_documentation_are_right(void **state)
{
    (void)state;
    assert_int_equal(each_line(key_row), 10);
    assert_int_equal(each_line(range_row), 7);
}

/* ---- More ------------------------------------------------------------------------------------ */

static void test_slot_of_any_bytes(void **state)
{
    (void)state;
    static const uint8_t zero[1] = {0}, high[2] = {0xff, 0xff};
    assert_int_equal(slot_of_key((struct slice){0}), 0);
    assert_int_equal(slot_of_key(slice_of(zero, 1)), 0);
    assert_int_equal(slot_of_key(slice_of(high, 2)), 0x1d0f % SLOT_COUNT);
    assert_int_equal(slot_of_key(slice_str("{")), slot_of_key(slice_of("{", 1)));
    /* A zero byte is a byte of a tag like any other. */
    assert_int_equal(slot_of_key(slice_of("x{\0a}", 5)), slot_of_key(slice_of("\0a", 2)));
    /* The end of the slice ends the search. */
    assert_int_equal(slot_of_key(slice_of("k{ab}", 4)), slot_of_key(slice_of("k{ab", 4)));
}

/* Every slot has exactly one shard, ranges are contiguous and as even as they can be. */
static void test_slot_ranges_cover_all_slots_once(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= SLOT_COUNT; n = n < 200 || n > 16350 ? n + 1 : n + 97) {
        uint32_t next = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t first = 0, last = 0;
            slot_range(i, n, &first, &last);
            assert_int_equal(first, next);
            assert_true(last >= first && last < SLOT_COUNT);
            assert_true(last - first + 1 - SLOT_COUNT / n <= 1);
            assert_int_equal(slot_shard(first, n), i);
            assert_int_equal(slot_shard(last, n), i);
            next = last + 1;
        }
        assert_int_equal(next, SLOT_COUNT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slot_tables_of_the_documentation_are_right),
        cmocka_unit_test(test_slot_of_any_bytes),
        cmocka_unit_test(test_slot_ranges_cover_all_slots_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
