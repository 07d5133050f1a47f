/* Patterns, tokens as text, and the rights that roles give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "agent/access/bearer.h"
#include "agent/access/rights.h"
#include "registry/test/registry_fixture.h"

#define SV upb_StringView_FromString

static bool fits(const char *pattern, const char *name)
{
    return rights_pattern_fits(slice_str(pattern), slice_str(name));
}

static void test_access_patterns(void **state)
{
    (void)state;
    assert_true(fits("orders", "orders"));
    assert_false(fits("orders", "orders-1"));
    assert_false(fits("orders", "order"));
    assert_true(fits("*", "orders") && fits("*", "") && fits("**", "x"));
    assert_true(fits("orders-*", "orders-12") && fits("orders-*", "orders-"));
    assert_false(fits("orders-*", "orders"));
    assert_true(fits("*-eu", "orders-eu") && fits("a*b*c", "axxbxxbyyc"));
    assert_false(fits("a*b*c", "axxcxxb"));
    assert_false(fits("", "x"));
    assert_true(fits("", ""));
    assert_false(fits("a?c", "abc")); /* a star is the only pattern */
    /* Many stars must not take for ever. */
    assert_false(
        fits("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b",
             "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

static void test_access_tokens_as_text(void **state)
{
    (void)state;
    char text[BEARER_BYTES + 1], other[BEARER_BYTES + 1];
    struct bearer b, c;
    bearer_new(text, &b);
    bearer_new(other, &c);
    assert_string_not_equal(text, other);
    assert_memory_equal(text + 6, b.id, BEARER_ID_BYTES);
    assert_true(bearer_parse(slice_str(text), &c));
    assert_string_equal(c.id, b.id);
    assert_memory_equal(c.hash, b.hash, sizeof b.hash);
    text[BEARER_BYTES - 1] = text[BEARER_BYTES - 1] == '0' ? '1' : '0';
    assert_true(bearer_parse(slice_str(text), &c));
    assert_memory_not_equal(c.hash, b.hash, sizeof b.hash);
    text[BEARER_BYTES - 1] = 'G';
    assert_false(bearer_parse(slice_str(text), &c));
    assert_false(bearer_parse(slice_of(other, BEARER_BYTES - 1), &c));
    assert_false(bearer_parse(slice_str(""), &c));
    struct slice found;
    assert_true(bearer_of_authorization(slice_str("Bearer abc"), &found));
    assert_true(slice_equal(found, slice_str("abc")));
    assert_true(bearer_of_authorization(slice_str("bEARER abc"), &found));
    assert_false(bearer_of_authorization(slice_str("Basic abc"), &found));
    assert_false(bearer_of_authorization(slice_str("Bearer "), &found));
    assert_false(bearer_of_authorization(slice_str(""), &found));
}

/* SHA-256 of "abc", from FIPS 180-2. */
static void test_access_hash_is_sha256(void **state)
{
    (void)state;
    static const uint8_t wanted[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea,
                                     0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
                                     0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c,
                                     0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    uint8_t hash[SECRET_HASH_BYTES];
    secret_hash(slice_str("abc"), hash);
    assert_memory_equal(hash, wanted, sizeof wanted);
}

/* ---- Rights ---------------------------------------------------------------------------------- */

static void add_role(struct fixture *f, const char *name, int32_t verb, int32_t kind,
                     const char *pattern, int32_t right, const char *shards, const char *member)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdateRole *u =
        thole_registry_v1_Operation_mutable_update_role(cmd_op(&c), c.arena);
    thole_v1_RoleSpec *spec = thole_registry_v1_UpdateRole_mutable_spec(u, c.arena);
    thole_registry_v1_UpdateRole_set_name(u, SV(name));
    thole_registry_v1_UpdateRole_set_allow_missing(u, true);
    if (verb != 0) {
        thole_v1_RoleRule *r = thole_v1_RoleSpec_add_rules(spec, c.arena);
        thole_v1_RoleRule_add_verbs(r, verb, c.arena);
        thole_v1_RoleRule_add_kinds(r, kind, c.arena);
        if (pattern != NULL) {
            thole_v1_RoleRule_add_names(r, SV(pattern), c.arena);
        }
    }
    if (right != 0) {
        thole_v1_DataRule *d = thole_v1_RoleSpec_add_data(spec, c.arena);
        thole_v1_DataRule_add_rights(d, right, c.arena);
        thole_v1_DataRule_add_shards(d, SV(shards), c.arena);
    }
    thole_v1_RoleSpec_add_members(spec, SV(member), c.arena);
    assert_int_equal(fixture_run(f, &c), THOLE_OK);
}

static void rights_of(struct fixture *f, const char *user, struct rights *ret)
{
    struct registry_view *v = registry_view_acquire(f->r);
    rights_init(ret, v, slice_str(user), false);
    registry_view_release(v);
}

static bool may(const struct rights *r, int32_t verb, int32_t kind, const char *name)
{
    return rights_allow(r, verb, kind, slice_str(name));
}

static bool may_data(const struct rights *r, int32_t right, const char *shard)
{
    return rights_allow_data(r, right, slice_str(shard));
}

static void test_access_rights_of_roles(void **state)
{
    struct fixture *f = *state;
    struct rights r;
    add_role(f, "clerks", thole_v1_ROLE_VERB_UPDATE, thole_v1_ROLE_KIND_POOLS, "events-*",
             thole_v1_DATA_RIGHT_WRITE, "orders*", "carol");
    add_role(f, "readers", thole_v1_ROLE_VERB_READ, thole_v1_ROLE_KIND_ANY, NULL,
             thole_v1_DATA_RIGHT_READ, "*", "carol");
    rights_of(f, "carol", &r);
    assert_true(may(&r, thole_v1_ROLE_VERB_UPDATE, thole_v1_ROLE_KIND_POOLS, "events-1"));
    assert_false(may(&r, thole_v1_ROLE_VERB_UPDATE, thole_v1_ROLE_KIND_POOLS, "other"));
    assert_false(may(&r, thole_v1_ROLE_VERB_UPDATE, thole_v1_ROLE_KIND_POOLS, "")); /* all names */
    assert_false(may(&r, thole_v1_ROLE_VERB_UPDATE, thole_v1_ROLE_KIND_SHARDS, "events-1"));
    assert_false(may(&r, thole_v1_ROLE_VERB_DELETE, thole_v1_ROLE_KIND_POOLS, "events-1"));
    assert_true(may(&r, thole_v1_ROLE_VERB_READ, thole_v1_ROLE_KIND_TOKENS, ""));
    assert_true(may_data(&r, thole_v1_DATA_RIGHT_WRITE, "orders-eu"));
    assert_false(may_data(&r, thole_v1_DATA_RIGHT_WRITE, "events"));
    assert_true(may_data(&r, thole_v1_DATA_RIGHT_READ, "events"));
    assert_false(may_data(&r, thole_v1_DATA_RIGHT_ADMIN, "orders"));
    assert_false(may(&r, thole_v1_ROLE_VERB_READ, 0, ""));
    assert_false(may(&r, thole_v1_ROLE_VERB_READ, 31, ""));
    rights_deinit(&r);
    rights_of(f, "nobody", &r);
    for (int32_t kind = 1; kind < RIGHTS_KINDS; kind++) {
        assert_false(may(&r, thole_v1_ROLE_VERB_READ, kind, ""));
    }
    assert_false(may_data(&r, thole_v1_DATA_RIGHT_READ, "orders"));
    rights_deinit(&r);
}

static void test_access_rights_of_builtin_roles(void **state)
{
    struct fixture *f = *state;
    struct rights r;
    add_role(f, "admin", 0, 0, NULL, 0, NULL, "anna");
    add_role(f, "operator", 0, 0, NULL, 0, NULL, "olga");
    add_role(f, "viewer", 0, 0, NULL, 0, NULL, "victor");
    rights_of(f, "anna", &r);
    assert_true(may(&r, thole_v1_ROLE_VERB_UPDATE, thole_v1_ROLE_KIND_ROLES, ""));
    assert_true(may_data(&r, thole_v1_DATA_RIGHT_WRITE, "x"));
    assert_true(may_data(&r, thole_v1_DATA_RIGHT_ADMIN, "zero"));
    rights_deinit(&r);
    rights_of(f, "olga", &r);
    assert_true(may(&r, thole_v1_ROLE_VERB_DELETE, thole_v1_ROLE_KIND_HOSTS, ""));
    assert_true(may(&r, thole_v1_ROLE_VERB_READ, thole_v1_ROLE_KIND_ROLES, ""));
    assert_false(may(&r, thole_v1_ROLE_VERB_UPDATE, thole_v1_ROLE_KIND_ROLES, "viewer"));
    assert_false(may(&r, thole_v1_ROLE_VERB_CREATE, thole_v1_ROLE_KIND_TOKENS, "olga"));
    assert_true(may_data(&r, thole_v1_DATA_RIGHT_ADMIN, "x"));
    assert_false(may_data(&r, thole_v1_DATA_RIGHT_READ, "x"));
    rights_deinit(&r);
    rights_of(f, "victor", &r);
    assert_true(may(&r, thole_v1_ROLE_VERB_READ, thole_v1_ROLE_KIND_SHARDS, ""));
    assert_false(may(&r, thole_v1_ROLE_VERB_OPERATE, thole_v1_ROLE_KIND_SHARDS, "x"));
    assert_false(may_data(&r, thole_v1_DATA_RIGHT_READ, "x"));
    rights_deinit(&r);
}

#define WITH_REGISTRY(t) cmocka_unit_test_setup_teardown(t, fixture_setup_three, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_access_patterns),
        cmocka_unit_test(test_access_tokens_as_text),
        cmocka_unit_test(test_access_hash_is_sha256),
        WITH_REGISTRY(test_access_rights_of_roles),
        WITH_REGISTRY(test_access_rights_of_builtin_roles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
