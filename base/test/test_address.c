/* Addresses of hosts: which texts are valid, and which are not. */
#include "base/address.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const reachable[] = {
    "127.0.0.1:7400",
    "h1:1",
    "h1.example.org:65535",
    "h1.example.org.:7400",
    "[::1]:7400",
    "[fe80::1]:7400",
    "_x-1:7400",
    "1a.b:7",
};

static const char *const listened[] = {":7400", "0.0.0.0:7400", "[::]:7400", "127.0.0.1:0", ":0"};

static const char *const nonsense[] = {
    "",           "foo",         ":",           "foo:",       "foo:x",      "foo:70000",
    "foo:-1",     "foo: 1",      "foo:1\n",     "fo\no:7400", "foo :7400",  " foo:7400",
    "http://a:1", "http://a",    "a/b:1",       "::1:7400",   "[::1:7400",  "[foo]:7400",
    "1.2.3:7400", "999.1.1.1:1", "1.2.3.4.5:1", ".a:1",       "a..b:1",     "-a:1",
    "a-:1",       "unix:/tmp/x", "unix:1/2",    "a:1,b:2",    "f\x1b[1m:1", "f\xc3\xb6:1",
    "[]:1",       "a:00000001",
};

static void test_addresses_that_reach_a_host_are_valid(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof reachable / sizeof *reachable; i++) {
        assert_true(address_valid(slice_str(reachable[i]), ADDRESS_REACH));
        assert_true(address_valid(slice_str(reachable[i]), ADDRESS_LISTEN));
        assert_false(address_is_wildcard(reachable[i]));
    }
}

static void test_wildcards_and_port_0_are_for_listening(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof listened / sizeof *listened; i++) {
        struct thole_status st = {0};
        assert_true(address_valid(slice_str(listened[i]), ADDRESS_LISTEN));
        assert_int_equal(address_check("--advertise", slice_str(listened[i]), ADDRESS_REACH, &st),
                         THOLE_INVALID_ARGUMENT);
        assert_non_null(strstr(st.message, "--advertise"));
    }
    assert_true(address_is_wildcard(":1") && address_is_wildcard("0.0.0.0:1"));
    assert_true(address_is_wildcard("[::]:1") && !address_is_wildcard("127.0.0.1:0"));
}

static void test_nonsense_is_refused_and_shown_without_control_characters(void **state)
{
    (void)state;
    char label[80], name[300];
    memset(label, 'a', 64);
    snprintf(label + 64, 8, ":1");
    memset(name, 'a', sizeof name);
    snprintf(name + 290, 8, ":1");
    assert_false(address_valid(slice_str(label), ADDRESS_LISTEN));
    assert_false(address_valid(slice_str(name), ADDRESS_LISTEN));
    assert_false(address_valid(slice_of("a\0b:1", 5), ADDRESS_LISTEN));
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        struct thole_status st = {0};
        assert_int_equal(address_check("--listen", slice_str(nonsense[i]), ADDRESS_LISTEN, &st),
                         THOLE_INVALID_ARGUMENT);
        assert_null(strpbrk(st.message, "\n\x1b\xc3"));
    }
}

static void test_loopback_is_of_this_machine(void **state)
{
    (void)state;
    char source[64];
    assert_true(address_is_loopback("127.3.2.1:7400") && address_is_loopback("[::1]:7400"));
    assert_true(address_is_loopback("localhost:7400") &&
                address_place("localhost:1") == ADDRESS_HERE);
    assert_false(address_is_loopback("10.0.0.1:7400") || address_is_loopback("[::2]:1"));
    assert_int_equal(address_place("192.0.2.7:7400"), ADDRESS_ELSEWHERE);
    assert_int_equal(address_place("nowhere.invalid:7400"), ADDRESS_UNRESOLVED);
    assert_string_equal(address_port("[::1]:7400"), "7400");
    assert_true(address_source("127.0.0.9:1", source, sizeof source));
    assert_int_equal(strncmp(source, "127.", 4), 0);
}

static void test_list_is_split_at_commas_and_spaces(void **state)
{
    (void)state;
    const char *parts[3] = {NULL};
    char *copy = NULL;
    size_t n = 0;
    struct thole_status st = {0};
    assert_int_equal(address_list_split("a:1, b:2,c:3", &copy, parts, 3, &n, &st), THOLE_OK);
    assert_int_equal(n, 3);
    assert_string_equal(parts[0], "a:1");
    assert_string_equal(parts[1], "b:2");
    assert_string_equal(parts[2], "c:3");
    free(copy);
}

static void test_list_without_addresses_or_with_too_many_is_refused(void **state)
{
    (void)state;
    static const char *const lists[] = {"", ",", "a", "a:1,b", ":1", "a:", "a:1,b:2,c:3"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const char *parts[2];
        char *copy = NULL;
        size_t n;
        struct thole_status st = {0};
        assert_int_equal(address_list_split(lists[i], &copy, parts, 2, &n, &st),
                         THOLE_INVALID_ARGUMENT);
        assert_null(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_that_reach_a_host_are_valid),
        cmocka_unit_test(test_wildcards_and_port_0_are_for_listening),
        cmocka_unit_test(test_nonsense_is_refused_and_shown_without_control_characters),
        cmocka_unit_test(test_loopback_is_of_this_machine),
        cmocka_unit_test(test_list_is_split_at_commas_and_spaces),
        cmocka_unit_test(test_list_without_addresses_or_with_too_many_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
