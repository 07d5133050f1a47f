/* Text from outside: which text is refused, and how messages show it. */
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <thole/status.h>
#include <cmocka.h>

static const char *const not_utf8[] = {
    "\xff",         "caf\xe9", "a\xc3",    "\xc0\x80",         "\xe0\x80\x80",    "\xed\xa0\x80",
    "\xf0\x80\x80", "\x80",    "\xe2\x82", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80"};
static const char *const control[] = {"a\nb", "\x1b[31m", "\x7f", "\xc2\x80", "tab\t"};
static const char *const fine[] = {"a",   "zone-1",           "caf\xc3\xa9", "100%",
                                   "a b", "\xf0\x9f\x9b\xb6", "\xc2\xa0"};
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static void test_text_labels_are_checked(void **state)
{
    (void)state;
    char text[LIMIT_NAME_BYTES + 2];
    for (size_t i = 0; i < COUNT(not_utf8); i++) {
        assert_string_equal(text_label_problem(slice_str(not_utf8[i]), 0), "is not valid UTF-8");
        assert_false(text_is_utf8(slice_str(not_utf8[i])));
    }
    for (size_t i = 0; i < COUNT(control); i++) {
        assert_string_equal(text_label_problem(slice_str(control[i]), 0),
                            "has a control character");
        assert_true(text_is_utf8(slice_str(control[i])));
    }
    for (size_t i = 0; i < COUNT(fine); i++) {
        assert_null(text_label_problem(slice_str(fine[i]), 1));
    }
    assert_non_null(text_label_problem(slice_of("a\0b", 3), 0));
    assert_null(text_label_problem(slice_str(""), 0));
    assert_string_equal(text_label_problem(slice_str(""), 1), "must not be empty");
    memset(text, 'a', sizeof text);
    assert_null(text_label_problem(slice_of(text, LIMIT_NAME_BYTES), 1));
    assert_string_equal(text_label_problem(slice_of(text, LIMIT_NAME_BYTES + 1), 1),
                        "has more than 128 bytes");
}

static void test_text_of_messages_is_always_utf8(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(not_utf8); i++) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_UNKNOWN, THOLE_REASON_NONE, "it says \"%s\"", not_utf8[i]);
        assert_true(text_is_utf8(slice_str(st.message)));
        assert_non_null(strchr(st.message, '?'));
    }
    char text[] = "caf\xc3\xa9\n\xc2\x80\xe2\x82 %n";
    text_clean(text);
    assert_string_equal(text, "caf\xc3\xa9????? %n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_labels_are_checked),
        cmocka_unit_test(test_text_of_messages_is_always_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
