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

static void assert_shard(upb_Arena *arena, const char *type, uint32_t voters, uint32_t non_voting,
                         const char *field)
{
    struct check check = {{0}, {0}};
    thole_v1_ShardSpec *spec = thole_v1_ShardSpec_new(arena);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString(type));
    thole_v1_ShardSpec_set_voters(spec, voters);
    if (non_voting > 0) {
        thole_v1_ReplicaGroup_set_count(thole_v1_ShardSpec_add_non_voting(spec, arena), non_voting);
    }
    assert_int_equal(services__check_shard_spec(spec, &check), field == NULL);
    if (field != NULL) {
        assert_string_equal(check.field, field);
    }
}

static void test_shard_specs_are_checked_by_field(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    assert_shard(arena, "kv", 3, 2, NULL);
    assert_shard(arena, "kv", 15, 0, NULL);
    assert_shard(arena, "", 3, 0, "spec.type");
    assert_shard(arena, "kv", 0, 0, "spec.voters");
    assert_shard(arena, "kv", 16, 0, "spec.voters");
    assert_shard(arena, "kv", 3, UINT32_MAX, "spec.non_voting");
    upb_Arena_Free(arena);
}

static void test_constraints_are_checked_by_index(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    struct check check;
    thole_v1_ShardSpec *spec = thole_v1_ShardSpec_new(arena);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("kv"));
    thole_v1_ShardSpec_set_voters(spec, 1);
    thole_v1_Constraint *first = thole_v1_ShardSpec_add_constraints(spec, arena);
    thole_v1_Constraint_set_key(first, upb_StringView_FromString("zone"));
    thole_v1_Constraint_set_operator(first, thole_v1_CONSTRAINT_OPERATOR_EXISTS);
    thole_v1_Constraint *k = thole_v1_ShardSpec_add_constraints(spec, arena);
    assert_false(services__check_shard_spec(spec, &check));
    assert_string_equal(check.field, "spec.constraints[1].key");
    thole_v1_Constraint_set_key(k, upb_StringView_FromString("disk"));
    assert_false(services__check_shard_spec(spec, &check));
    assert_string_equal(check.field, "spec.constraints[1].operator");
    thole_v1_Constraint_set_operator(k, thole_v1_CONSTRAINT_OPERATOR_IN);
    assert_false(services__check_shard_spec(spec, &check));
    assert_string_equal(check.field, "spec.constraints[1].values");
    (void)thole_v1_Constraint_add_values(k, upb_StringView_FromString("ssd"), arena);
    assert_true(services__check_shard_spec(spec, &check));
    upb_Arena_Free(arena);
}

static void test_host_specs_are_checked_by_field(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    struct check check;
    thole_v1_HostSpec *spec = thole_v1_HostSpec_new(arena);
    assert_true(services__check_host_spec(spec, &check));
    thole_v1_HostSpec_set_state(spec, thole_v1_HOST_STATE_REMOVED);
    assert_false(services__check_host_spec(spec, &check));
    assert_string_equal(check.field, "spec.state");
    thole_v1_HostSpec_set_state(spec, 77);
    assert_false(services__check_host_spec(spec, &check));
    thole_v1_HostSpec_set_state(spec, thole_v1_HOST_STATE_CORDONED);
    thole_v1_HostSpec_tags_set(spec, upb_StringView_FromString(""), upb_StringView_FromString("x"),
                               arena);
    assert_false(services__check_host_spec(spec, &check));
    assert_string_equal(check.field, "spec.tags");
    upb_Arena_Free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_round_trip_keeps_the_key),
        cmocka_unit_test(test_forged_tokens_are_refused),
        cmocka_unit_test(test_sizes_follow_the_rules),
        cmocka_unit_test(test_collections_are_stripped_from_names),
        cmocka_unit_test(test_only_valid_utf8_is_text),
        cmocka_unit_test(test_shard_specs_are_checked_by_field),
        cmocka_unit_test(test_constraints_are_checked_by_index),
        cmocka_unit_test(test_host_specs_are_checked_by_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
