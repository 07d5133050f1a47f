#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/uuid.h"

#define TEXT "0a1b2c3d-4e5f-4a6b-8c7d-9e8f00112233"

static void test_uuid_random_is_version_4_and_unique(void **state)
{
    (void)state;
    struct uuid seen[100];
    for (int i = 0; i < 100; i++) {
        char text[UUID_TEXT_BYTES];
        seen[i] = uuid_random();
        uuid_format(&seen[i], text);
        assert_int_equal(text[14], '4');
        assert_non_null(strchr("89ab", text[19]));
        assert_false(uuid_is_nil(&seen[i]));
        for (int j = 0; j < i; j++) {
            assert_false(uuid_equal(&seen[i], &seen[j]));
        }
    }
}

static void test_uuid_text_and_bytes_agree(void **state)
{
    (void)state;
    struct uuid u, again;
    char text[UUID_TEXT_BYTES];
    assert_true(uuid_parse(slice_str(TEXT), &u));
    assert_memory_equal(u.bytes, "\x0a\x1b\x2c\x3d\x4e\x5f\x4a\x6b\x8c\x7d\x9e\x8f\x00\x11\x22\x33",
                        16);
    uuid_format(&u, text);
    assert_string_equal(text, TEXT);
    for (int i = 0; i < 1000; i++) {
        u = uuid_random();
        uuid_format(&u, text);
        assert_true(uuid_parse(slice_str(text), &again));
        assert_true(uuid_equal(&u, &again));
    }
}

static void check_bad(const char *text)
{
    struct uuid u, before;
    memset(&u, 0x5a, sizeof u);
    before = u;
    assert_false(uuid_parse(slice_str(text), &u));
    assert_true(uuid_equal(&u, &before));
}

static void test_uuid_parse_of_any_other_form_is_refused(void **state)
{
    (void)state;
    check_bad("");
    check_bad("0a1b2c3d4e5f4a6b8c7d9e8f00112233");
    check_bad("{" TEXT "}");
    check_bad(" " TEXT);
    check_bad(TEXT " ");
    check_bad(TEXT "0");
    check_bad("0A1B2C3D-4E5F-4A6B-8C7D-9E8F00112233");
    check_bad("------------------------------------");
    check_bad("00000000-0000-0000-0000-000000000000"); /* names nothing */
    const char wrong[] = {'g', '/', ':', '`', '@', 'G', ' ', '-', '\x80', '\0'};
    for (size_t at = 0; at < UUID_TEXT_BYTES - 1; at++) {
        for (size_t i = 0; i < sizeof wrong; i++) {
            char text[] = TEXT;
            if (text[at] == wrong[i]) {
                continue;
            }
            text[at] = wrong[i];
            check_bad(text);
        }
        char text[] = TEXT;
        if (text[at] == '-') { /* a digit in place of a hyphen */
            text[at] = '0';
            check_bad(text);
        }
    }
}

static void test_uuid_order_and_hash_follow_the_bytes(void **state)
{
    (void)state;
    struct uuid a = {{0}}, b = {{0}};
    assert_true(uuid_is_nil(&a));
    assert_int_equal(uuid_compare(&a, &b), 0);
    assert_true(uuid_hash(&a) == uuid_hash(&b));
    b.bytes[15] = 1;
    assert_false(uuid_is_nil(&b));
    assert_true(uuid_compare(&a, &b) < 0);
    assert_true(uuid_compare(&b, &a) > 0);
    assert_true(uuid_hash(&a) != uuid_hash(&b));
    a.bytes[0] = 0xff;
    assert_true(uuid_compare(&a, &b) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uuid_random_is_version_4_and_unique),
        cmocka_unit_test(test_uuid_text_and_bytes_agree),
        cmocka_unit_test(test_uuid_parse_of_any_other_form_is_refused),
        cmocka_unit_test(test_uuid_order_and_hash_follow_the_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
