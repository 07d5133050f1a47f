#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <thole/status.h>

#include "base/test/death.h"

static void test_status_names_of_every_code_and_reason_are_unique(void **state)
{
    (void)state;
    for (int i = THOLE_OK; i <= THOLE_UNAUTHENTICATED; i++) {
        const char *name = thole_code_name((enum thole_code)i);
        assert_non_null(name);
        assert_string_not_equal(name, "?");
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(name, thole_code_name((enum thole_code)j));
        }
    }
    for (int i = THOLE_REASON_NONE; i <= THOLE_REASON_HOSTS_ONLY; i++) {
        const char *name = thole_reason_name((enum thole_reason)i);
        assert_non_null(name);
        assert_int_equal(thole_reason_from_name(name), i);
    }
    assert_string_equal(thole_code_name(THOLE_NOT_FOUND), "NOT_FOUND");
    assert_string_equal(thole_reason_name(THOLE_REASON_NO_SUCH_SHARD), "NO_SUCH_SHARD");
}

static void test_status_names_of_unknown_numbers_are_question_marks(void **state)
{
    (void)state;
    volatile int unknown = 1000, negative = -1; /* volatile: otherwise the compiler warns */
    assert_string_equal(thole_code_name((enum thole_code)unknown), "?");
    assert_string_equal(thole_code_name((enum thole_code)negative), "?");
    assert_string_equal(thole_reason_name((enum thole_reason)unknown), "?");
    assert_string_equal(thole_reason_name((enum thole_reason)negative), "?");
    assert_int_equal(thole_reason_from_name("NO_SUCH_REASON"), THOLE_REASON_NONE);
    assert_int_equal(thole_reason_from_name(""), THOLE_REASON_NONE);
}

static void test_status_set_fills_every_field(void **state)
{
    (void)state;
    struct thole_status st;
    memset(&st, 0xff, sizeof st);
    int line = __LINE__ + 1;
    enum thole_code code = THOLE_FAIL(&st, THOLE_ABORTED, THOLE_REASON_DROPPED, "term %d", 7);
    assert_int_equal(code, THOLE_ABORTED);
    assert_int_equal(st.code, THOLE_ABORTED);
    assert_int_equal(st.reason, THOLE_REASON_DROPPED);
    assert_string_equal(st.file, __FILE__);
    assert_int_equal(st.line, line);
    assert_string_equal(st.message, "term 7");
    assert_int_equal(THOLE_FAIL(NULL, THOLE_ABORTED, THOLE_REASON_NONE, "x"), THOLE_ABORTED);
}

static void test_status_set_may_quote_its_own_message(void **state)
{
    (void)state;
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no file");
    (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_NONE, "open: %s", st.message);
    assert_string_equal(st.message, "open: no file");
}

/* Every length around the limit, so that the cut falls on each byte of a two- and three-byte
 * character. */
static void test_status_message_too_long_is_cut_between_characters(void **state)
{
    (void)state;
    struct thole_status st;
    for (int lead = THOLE_STATUS_MESSAGE_BYTES - 8; lead < THOLE_STATUS_MESSAGE_BYTES + 2; lead++) {
        (void)THOLE_FAIL(&st, THOLE_INTERNAL, THOLE_REASON_NONE, "%*s\xc3\xa9\xe2\x82\xac", lead,
                         "");
        size_t size = strlen(st.message);
        assert_true(size < THOLE_STATUS_MESSAGE_BYTES);
        size_t tail = size - strspn(st.message, " ");
        assert_true(tail == 0 || tail == 2 || tail == 5);
        size_t room = THOLE_STATUS_MESSAGE_BYTES - 1;
        size_t whole = (size_t)lead + 5;
        if (whole <= room) {
            assert_int_equal(size, whole);
        } else {
            assert_true(size + 3 > room); /* at most one character is lost */
        }
    }
}

static void set_ok(void *arg)
{
    (void)thole_status_set(arg, THOLE_OK, THOLE_REASON_NONE, "f", 1, "success has no status");
}

static void test_status_set_of_ok_is_refused(void **state)
{
    (void)state;
    struct thole_status st;
    assert_true(dies(set_ok, &st, "code != THOLE_OK"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_names_of_every_code_and_reason_are_unique),
        cmocka_unit_test(test_status_names_of_unknown_numbers_are_question_marks),
        cmocka_unit_test(test_status_set_fills_every_field),
        cmocka_unit_test(test_status_set_may_quote_its_own_message),
        cmocka_unit_test(test_status_message_too_long_is_cut_between_characters),
        cmocka_unit_test(test_status_set_of_ok_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
