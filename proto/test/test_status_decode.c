/* Statuses from other processes, with any content. */
#include <string.h>

#include "proto/status_decode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void test_failures_of_other_processes_are_failures_here(void **state)
{
    (void)state;
    static const struct {
        uint64_t code;
        const char *reason;
        enum thole_code expected;
        enum thole_reason expected_reason;
    } rows[] = {
        {THOLE_NOT_FOUND, "NO_SUCH_SHARD", THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD},
        {THOLE_UNAUTHENTICATED, "", THOLE_UNAUTHENTICATED, THOLE_REASON_NONE},
        {THOLE_UNAVAILABLE, "OF_A_LATER_VERSION", THOLE_UNAVAILABLE, THOLE_REASON_NONE},
        {THOLE_OK, "DISK", THOLE_UNKNOWN, THOLE_REASON_DISK},
        {17, "DISK", THOLE_UNKNOWN, THOLE_REASON_DISK},
        {UINT64_C(1) << 32 | THOLE_NOT_FOUND, "", THOLE_UNKNOWN, THOLE_REASON_NONE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct thole_status st = {0};
        proto_status_decode(rows[i].code, slice_str(rows[i].reason), slice_str("why"), &st);
        assert_int_equal(st.code, rows[i].expected);
        assert_int_equal(st.reason, rows[i].expected_reason);
        assert_string_equal(st.message, "why");
    }
}

static void test_long_texts_are_cut(void **state)
{
    (void)state;
    char text[1000];
    struct thole_status st = {0};
    memset(text, 'A', sizeof text);
    proto_status_decode(THOLE_INTERNAL, slice_of(text, sizeof text), slice_of(text, sizeof text),
                        &st);
    assert_int_equal(st.reason, THOLE_REASON_NONE);
    assert_int_equal(strlen(st.message), THOLE_STATUS_MESSAGE_BYTES - 1);
    proto_status_decode(THOLE_INTERNAL, (struct slice){0}, (struct slice){0}, &st);
    assert_string_equal(st.message, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failures_of_other_processes_are_failures_here),
        cmocka_unit_test(test_long_texts_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
