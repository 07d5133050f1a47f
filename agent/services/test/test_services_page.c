/* Page tokens and sizes, and the checks of names, specs and text. */
#include <string.h>

#include "agent/services/services_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void test_token_round_trip_keeps_the_key(void **state)
{
    (void)state;
    for (size_t size = 0; size <= LIMIT_NAME_BYTES; size++) {
        uint8_t key[LIMIT_NAME_BYTES];
        for (size_t i = 0; i < size; i++) {
            key[i] = (uint8_t)(i * 37 + size);
        }
        struct bytes token = {0}, back = {0};
        services__page_token_encode(PAGE_SHARDS, slice_of(key, size), &token);
        assert_true(services__page_token_decode(PAGE_SHARDS, bytes_slice(&token), &back));
        assert_int_equal(back.size, size);
        assert_true(size == 0 || memcmp(back.data, key, size) == 0);
        bytes_clear(&back);
        assert_false(services__page_token_decode(PAGE_HOSTS, bytes_slice(&token), &back));
        assert_int_equal(back.size, 0);
        bytes_deinit(&token);
        bytes_deinit(&back);
    }
}

static void test_forged_tokens_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "c", "*", "c3Jk=", "c3 k", "c3Jkx", "\xff\xff"};
    struct bytes key = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(services__page_token_decode(PAGE_SHARDS, slice_str(bad[i]), &key));
    }
    char big[4 * LIMIT_NAME_BYTES + 4];
    memset(big, 'c', sizeof big);
    assert_false(services__page_token_decode(PAGE_SHARDS, slice_of(big, sizeof big), &key));
    bytes_deinit(&key);
}

static void test_sizes_follow_the_rules(void **state)
{
    (void)state;
    assert_int_equal(services__page_size_effective(0), PAGE_SIZE_DEFAULT);
    assert_int_equal(services__page_size_effective(1), 1);
    assert_int_equal(services__page_size_effective(1000), 1000);
    assert_int_equal(services__page_size_effective(1001), PAGE_SIZE_MAX);
    assert_int_equal(services__page_size_effective(INT32_MAX), PAGE_SIZE_MAX);
}

static void test_collections_are_stripped_from_names(void **state)
{
    (void)state;
    upb_StringView name =
        services__name_strip(upb_StringView_FromString("shards/orders"), "shards");
    assert_true(upb_StringView_IsEqual(name, upb_StringView_FromString("orders")));
    name = services__name_strip(upb_StringView_FromString("orders"), "shards");
    assert_true(upb_StringView_IsEqual(name, upb_StringView_FromString("orders")));
    name = services__name_strip(upb_StringView_FromString("shards/"), "shards");
    assert_true(upb_StringView_IsEqual(name, upb_StringView_FromString("shards/")));
}

static void test_only_valid_utf8_is_text(void **state)
{
    (void)state;
    static const char *const good[] = {
        "", "plain", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "a\364\217\277\277b"};
    static const char *const bad[] = {"\x80",
                                      "\xc3",
                                      "\xc0\xaf",
                                      "\xe0\x80\x80",
                                      "\xed\xa0\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xf8\x88\x80\x80\x80",
                                      "a\xe2\x82",
                                      "\xff"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(text_is_utf8(slice_str(good[i])));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(text_is_utf8(slice_str(bad[i])));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_round_trip_keeps_the_key),
        cmocka_unit_test(test_forged_tokens_are_refused),
        cmocka_unit_test(test_sizes_follow_the_rules),
        cmocka_unit_test(test_collections_are_stripped_from_names),
        cmocka_unit_test(test_only_valid_utf8_is_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
