/* JSON of messages: what is taken, what is refused, and what is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "etcd/rpc.upb.h"
#include "proto/decode.h"
#include "proto/json.h"
#include "thole/v1/control.upb.h"

static char why[200];

/* The JSON of what was read; NULL: it was refused. */
static const char *through(const char *path, const char *json, bool lenient)
{
    static struct bytes out;
    struct proto_method m;
    struct bytes wire = {0};
    struct slice text = slice_str(json);
    assert_true(proto_method_find(path, &m));
    bytes_clear(&out);
    bool ok = proto_json_read(m.request, &text, lenient, &wire, why, sizeof why) &&
              text.size == 0 && proto_json_write(m.request, bytes_slice(&wire), lenient, &out);
    bytes_deinit(&wire);
    bytes_append(&out, "", 1);
    return ok ? (const char *)out.data : NULL;
}

static const char *etcd(const char *json)
{
    return through("/etcdserverpb.KV/Range", json, true);
}

static void test_both_names_and_both_forms_of_numbers_are_taken(void **state)
{
    (void)state;
    assert_string_equal(etcd("{\"key\":\"YQ==\",\"range_end\":\"Yg==\",\"limit\":5}"),
                        "{\"key\":\"YQ==\",\"range_end\":\"Yg==\",\"limit\":\"5\"}");
    assert_string_equal(etcd(" {\"key\" : \"YQ\",\n\"rangeEnd\":\"Yg==\", \"limit\":\"5\" } "),
                        "{\"key\":\"YQ==\",\"range_end\":\"Yg==\",\"limit\":\"5\"}");
    assert_string_equal(etcd("{\"limit\":1e3,\"revision\":-9223372036854775808}"),
                        "{\"limit\":\"1000\",\"revision\":\"-9223372036854775808\"}");
    assert_string_equal(etcd("{\"revision\":9007199254740993}"),
                        "{\"revision\":\"9007199254740993\"}");
    assert_string_equal(etcd("{\"sort_order\":\"DESCEND\",\"sortTarget\":2,\"limit\":null}"),
                        "{\"sort_order\":\"DESCEND\",\"sort_target\":\"CREATE\"}");
    assert_string_equal(etcd("{\"key\":\"-_8=\"}"), "{\"key\":\"+/8=\"}");
}

static void test_unknown_fields_are_skipped_only_if_asked(void **state)
{
    (void)state;
    const char *json = "{\"x\":{\"y\":[1,-2.5e-3,true,false,null,\"\\u00e9\\n\",{}]},\"z\":[[]]}";
    assert_string_equal(etcd(json), "{}");
    assert_null(through("/etcdserverpb.KV/Range", json, false));
    assert_string_equal(why, "RangeRequest has no field \"x\"");
}

static void test_what_is_no_message_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "nul",
        "{\"key\"",
        "{\"key\":",
        "{\"key\":\"YQ==\"",
        "{\"key\":\"YQ==\",}",
        "{,}",
        "{\"key\":\"YQ=\"}",
        "{\"key\":\"Y\"}",
        "{\"key\":\"Y*==\"}",
        "{\"key\":5}",
        "{\"limit\":01}",
        "{\"limit\":1.5}",
        "{\"limit\":+1}",
        "{\"limit\":\"\"}",
        "{\"limit\":\"5 \"}",
        "{\"limit\":9223372036854775808}",
        "{\"limit\":1e99}",
        "{\"limit\":true}",
        "{\"limit\":[1]}",
        "{\"serializable\":1}",
        "{\"serializable\":\"true\"}",
        "{\"sort_order\":\"SIDEWAYS\"}",
        "{\"sort_order\":2147483648}",
        "{\"x\":[1,]}",
        "{\"x\":{\"a\":1,}}",
        "{\"x\":\"\\q\"}",
        "{\"x\":\"\\u12g4\"}",
        "{\"x\":\"\\ud800\"}",
        "{\"x\":\"\\ud800\\u0041\"}",
        "{\"x\":\"\\udc00\"}",
        "{\"x\":\"\n\"}",
        "{\"x\":tru}",
        "{\"x\":-}",
        "{\"x\":1.}",
        "{\"x\":1e}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (etcd(bad[i]) != NULL) {
            fail_msg("%s was taken", bad[i]);
        }
        assert_true(why[0] != '\0');
    }
}

static void test_depth_is_bounded(void **state)
{
    (void)state;
    char json[1000];
    for (size_t depth = 60; depth < 70; depth++) {
        memset(json, '[', depth + 5);
        memcpy(json, "{\"x\":", 5);
        memset(json + 5 + depth, ']', depth);
        json[5 + 2 * depth] = '}';
        json[6 + 2 * depth] = '\0';
        assert_int_equal(etcd(json) != NULL, depth + 1 <= 64);
    }
}

static void test_lists_maps_and_strings_survive(void **state)
{
    (void)state;
    static const char *const update = "/thole.v1.Hosts/UpdateHost";
    const char *json = "{\"host\":{\"name\":\"h\",\"spec\":{\"tags\":{\"\":\"\",\"zone\":"
                       "\"\xc3\xa9\\\"\\\\\"}}}}";
    assert_non_null(through(update, json, false));
    assert_string_equal(through(update, through(update, json, false), false),
                        through(update, json, false));
    assert_non_null(strstr(through(update, "{\"host\":{\"name\":\"\\ud83d\\ude00\"}}", false),
                           "\xf0\x9f\x98\x80"));
    assert_null(through(update, "{\"host\":{\"name\":\"\xff\"}}", false)); /* not UTF-8 */
    assert_null(through(update, "{\"host\":{\"spec\":{\"tags\":{5:\"\"}}}}", false));
    assert_null(through(update, "{\"host\":{\"spec\":{\"tags\":[]}}}", false));
}

static void test_text_of_many_times_the_size_of_its_message_is_whole(void **state)
{
    (void)state;
    struct bytes json = {0};
    bytes_append_str(&json, "{\"host\":{\"name\":\"");
    for (int i = 0; i < 1000; i++) {
        bytes_append_str(&json, "\\u0001"); /* one byte */
    }
    bytes_append(&json, "\"}}", 4);
    assert_string_equal(through("/thole.v1.Hosts/UpdateHost", (const char *)json.data, false),
                        (const char *)json.data);
    bytes_deinit(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_names_and_both_forms_of_numbers_are_taken),
        cmocka_unit_test(test_unknown_fields_are_skipped_only_if_asked),
        cmocka_unit_test(test_what_is_no_message_is_refused),
        cmocka_unit_test(test_depth_is_bounded),
        cmocka_unit_test(test_lists_maps_and_strings_survive),
        cmocka_unit_test(test_text_of_many_times_the_size_of_its_message_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
