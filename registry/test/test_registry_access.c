/* Roles and tokens through the machine's interface: built-in roles, rules, etags, bounds, hashes,
 * refused calls, changes, snapshots. */
#include "registry/test/registry_fixture.h"
#include "registry/validate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define SV upb_StringView_FromString

static thole_v1_RoleSpec *update(struct cmd *c, const char *name, const char *etag)
{
    *c = cmd_new("user/alice");
    thole_registry_v1_UpdateRole *u =
        thole_registry_v1_Operation_mutable_update_role(cmd_op(c), c->arena);
    thole_registry_v1_UpdateRole_set_name(u, SV(name));
    thole_registry_v1_UpdateRole_set_allow_missing(u, true);
    thole_registry_v1_UpdateRole_set_etag(u, SV(etag));
    return thole_registry_v1_UpdateRole_mutable_spec(u, c->arena);
}

static thole_v1_RoleRule *add_rule(thole_v1_RoleSpec *spec, int32_t verb, int32_t kind,
                                   upb_Arena *arena)
{
    thole_v1_RoleRule *r = thole_v1_RoleSpec_add_rules(spec, arena);
    thole_v1_RoleRule_add_verbs(r, verb, arena);
    thole_v1_RoleRule_add_kinds(r, kind, arena);
    return r;
}

static uint64_t apply_role(struct fixture *f, const char *name, const char *member,
                           const char *etag)
{
    struct cmd c;
    thole_v1_RoleSpec *spec = update(&c, name, etag);
    add_rule(spec, thole_v1_ROLE_VERB_READ, thole_v1_ROLE_KIND_SHARDS, c.arena);
    thole_v1_RoleSpec_add_members(spec, SV(member), c.arena);
    return fixture_run(f, &c);
}

static uint64_t set_members(struct fixture *f, const char *name, const char *member)
{
    struct cmd c;
    thole_v1_RoleSpec *spec = update(&c, name, "");
    thole_v1_RoleSpec_add_members(spec, SV(member), c.arena);
    return fixture_run(f, &c);
}

static uint64_t delete_role(struct fixture *f, const char *name)
{
    struct cmd c = cmd_new("user/alice");
    thole_registry_v1_DeleteRole *d =
        thole_registry_v1_Operation_mutable_delete_role(cmd_op(&c), c.arena);
    thole_registry_v1_DeleteRole_set_name(d, SV(name));
    return fixture_run(f, &c);
}

static const char *const hash = "0123456789abcdef0123456789abcdef";

static uint64_t create_token(struct fixture *f, const char *id, int64_t life_ms)
{
    struct cmd c = cmd_new("user/alice");
    thole_registry_v1_CreateToken *t =
        thole_registry_v1_Operation_mutable_create_token(cmd_op(&c), c.arena);
    thole_registry_v1_CreateToken_set_id(t, SV(id));
    thole_registry_v1_CreateToken_set_user(t, SV("bob"));
    thole_registry_v1_CreateToken_set_hash(t, SV(hash));
    thole_registry_v1_CreateToken_set_expire_time_ms(t, f->time_ms + 1 + life_ms);
    return fixture_run(f, &c);
}

static uint64_t revoke_token(struct fixture *f, const char *id)
{
    struct cmd c = cmd_new("user/alice");
    thole_registry_v1_RevokeToken *r =
        thole_registry_v1_Operation_mutable_revoke_token(cmd_op(&c), c.arena);
    thole_registry_v1_RevokeToken_set_id(r, SV(id));
    return fixture_run(f, &c);
}

/* "admin,clerks,..." */
static void names(struct fixture *f, char *ret, size_t size)
{
    struct registry_view *v = registry_view_acquire(f->r);
    struct slice after = {0};
    const thole_v1_Role *r;
    size_t at = 0;
    ret[0] = '\0';
    while ((r = registry_next_role(v, after)) != NULL) {
        after = registry_str(thole_v1_Role_name(r));
        at += (size_t)snprintf(ret + at, size - at, "%s%.*s", at > 0 ? "," : "", (int)after.size,
                               (const char *)after.data);
    }
    registry_view_release(v);
}

static size_t rules_of(struct fixture *f, const char *name)
{
    struct registry_view *v = registry_view_acquire(f->r);
    size_t n = 0;
    const thole_v1_Role *r = registry_role_by_name(v, slice_str(name));
    assert_non_null(r);
    (void)thole_v1_RoleSpec_rules(thole_v1_Role_spec(r), &n);
    registry_view_release(v);
    return n;
}

static void test_access_builtin_roles_always_exist(void **state)
{
    struct fixture *f = *state;
    char all[200];
    names(f, all, sizeof all);
    assert_string_equal(all, "admin,operator,viewer");
    assert_int_equal(apply_role(f, "clerks", "carol", ""), THOLE_OK);
    assert_int_equal(apply_role(f, "zoo", "carol", ""), THOLE_OK);
    names(f, all, sizeof all);
    assert_string_equal(all, "admin,clerks,operator,viewer,zoo");
    assert_int_equal(set_members(f, "operator", "olga"), THOLE_OK);
    names(f, all, sizeof all);
    assert_string_equal(all, "admin,clerks,operator,viewer,zoo");
    assert_int_equal(rules_of(f, "operator"), 2);
}

static void test_access_rules_of_builtin_roles_cannot_change(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(apply_role(f, "viewer", "eve", ""), THOLE_FAILED_PRECONDITION);
    assert_int_equal(delete_role(f, "viewer"), THOLE_FAILED_PRECONDITION);
    assert_int_equal(set_members(f, "viewer", "victor"), THOLE_OK);
    assert_true(thole_v1_Role_builtin(thole_registry_v1_Result_role(f->result)));
    assert_int_equal(thole_v1_Role_generation(thole_registry_v1_Result_role(f->result)), 2);
    assert_int_equal(delete_role(f, "viewer"), THOLE_FAILED_PRECONDITION);
    assert_int_equal(rules_of(f, "viewer"), 1);
}

static void test_access_etag_and_unchanged_specs(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(apply_role(f, "clerks", "carol", ""), THOLE_OK);
    uint64_t revision = thole_registry_v1_Result_revision(f->result);
    char etag[32];
    upb_StringView given = thole_v1_Role_etag(thole_registry_v1_Result_role(f->result));
    snprintf(etag, sizeof etag, "%.*s", (int)given.size, given.data);
    assert_int_equal(apply_role(f, "clerks", "carol", ""), THOLE_OK);
    assert_int_equal(thole_registry_v1_Result_revision(f->result), revision);
    assert_int_equal(apply_role(f, "clerks", "dora", "r1"), THOLE_ABORTED);
    assert_int_equal(apply_role(f, "clerks", "dora", etag), THOLE_OK);
    assert_int_equal(apply_role(f, "viewer", "dora", "r7"), THOLE_ABORTED);
    assert_int_equal(delete_role(f, "clerks"), THOLE_OK);
    assert_int_equal(delete_role(f, "clerks"), THOLE_NOT_FOUND);
}

static void test_access_bad_roles_are_refused(void **state)
{
    struct fixture *f = *state;
    struct cmd c;
    assert_int_equal(apply_role(f, "Clerks!", "carol", ""), THOLE_INVALID_ARGUMENT);
    assert_int_equal(apply_role(f, "clerks", "", ""), THOLE_INVALID_ARGUMENT);
    assert_int_equal(apply_role(f, "clerks", "a\nb", ""), THOLE_INVALID_ARGUMENT);
    thole_v1_RoleSpec *spec = update(&c, "clerks", "");
    add_rule(spec, 77, thole_v1_ROLE_KIND_SHARDS, c.arena);
    assert_int_equal(fixture_run(f, &c), THOLE_INVALID_ARGUMENT);
    spec = update(&c, "clerks", "");
    (void)thole_v1_RoleSpec_add_rules(spec, c.arena); /* neither verbs nor kinds */
    assert_int_equal(fixture_run(f, &c), THOLE_INVALID_ARGUMENT);
    spec = update(&c, "clerks", "");
    thole_v1_DataRule *data = thole_v1_RoleSpec_add_data(spec, c.arena);
    thole_v1_DataRule_add_rights(data, thole_v1_DATA_RIGHT_READ, c.arena); /* of no shard */
    assert_int_equal(fixture_run(f, &c), THOLE_INVALID_ARGUMENT);
    spec = update(&c, "clerks", "");
    for (size_t i = 0; i <= REGISTRY_ROLE_RULES_MAX; i++) {
        add_rule(spec, thole_v1_ROLE_VERB_READ, thole_v1_ROLE_KIND_SHARDS, c.arena);
    }
    assert_int_equal(fixture_run(f, &c), THOLE_INVALID_ARGUMENT);
    assert_string_equal(fixture_reason(f), "TOO_LARGE");
    spec = update(&c, "clerks", "");
    for (size_t i = 0; i <= REGISTRY_ROLE_MEMBERS_MAX; i++) {
        thole_v1_RoleSpec_add_members(spec, SV("x"), c.arena);
    }
    assert_int_equal(fixture_run(f, &c), THOLE_INVALID_ARGUMENT);
    assert_string_equal(fixture_reason(f), "TOO_LARGE");
}

static void test_access_roles_are_bounded(void **state)
{
    struct fixture *f = *state;
    char name[16];
    for (size_t i = 0; i < REGISTRY_ROLES_MAX - 3; i++) {
        snprintf(name, sizeof name, "r%zu", i);
        assert_int_equal(apply_role(f, name, "carol", ""), THOLE_OK);
    }
    assert_int_equal(apply_role(f, "one-more", "carol", ""), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(set_members(f, "admin", "alice"), THOLE_OK); /* built-in ones have room */
    assert_int_equal(set_members(f, "operator", "alice"), THOLE_OK);
    assert_int_equal(set_members(f, "viewer", "alice"), THOLE_OK);
}

static bool matches(struct fixture *f, const char *id, const char *text)
{
    struct registry_view *v = registry_view_acquire(f->r);
    bool yes = registry_token_matches(v, slice_str(id), slice_str(text));
    registry_view_release(v);
    return yes;
}

static void test_access_only_the_hash_matches_a_token(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(create_token(f, "abc", 1000), THOLE_OK);
    assert_true(thole_registry_v1_Result_has_token(f->result));
    assert_true(matches(f, "abc", hash));
    assert_false(matches(f, "abc", "0123456789abcdef0123456789abcdeX"));
    assert_false(matches(f, "abc", "0123456789abcdef"));
    assert_false(matches(f, "abc", ""));
    assert_false(matches(f, "other", hash));
    assert_int_equal(create_token(f, "abc", 1000), THOLE_ALREADY_EXISTS);
    assert_int_equal(create_token(f, "def", 0), THOLE_INVALID_ARGUMENT);
    assert_int_equal(create_token(f, "def", REGISTRY_TOKEN_LIFE_MS_MAX + 1),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(create_token(f, "", 1000), THOLE_INVALID_ARGUMENT);
}

static int64_t revoked_at(struct fixture *f, const char *id)
{
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Token *t = registry_token(v, slice_str(id));
    int64_t at = t == NULL ? -1 : thole_v1_Token_revoke_time_ms(t);
    registry_view_release(v);
    return at;
}

static void test_access_revoked_tokens_stay_revoked(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(create_token(f, "abc", 1000), THOLE_OK);
    assert_int_equal(revoked_at(f, "abc"), 0);
    assert_int_equal(revoke_token(f, "abc"), THOLE_OK);
    int64_t at = revoked_at(f, "abc");
    assert_true(at > 0);
    assert_int_equal(revoke_token(f, "abc"), THOLE_OK);
    assert_int_equal(revoked_at(f, "abc"), at);
    assert_int_equal(revoke_token(f, "none"), THOLE_NOT_FOUND);
}

static uint64_t access_revision(struct fixture *f)
{
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t revision = registry_access_revision(v);
    registry_view_release(v);
    return revision;
}

static void test_access_revision_follows_roles_and_tokens_only(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(access_revision(f), 0);
    assert_int_equal(do_create_shard(f, "orders", 3, 0), THOLE_OK);
    assert_int_equal(access_revision(f), 0);
    assert_int_equal(apply_role(f, "clerks", "carol", ""), THOLE_OK);
    uint64_t first = access_revision(f);
    assert_int_equal(first, thole_registry_v1_Result_revision(f->result));
    assert_int_equal(create_token(f, "abc", 1000), THOLE_OK);
    uint64_t second = access_revision(f);
    assert_true(second > first);
    assert_int_equal(delete_role(f, "clerks"), THOLE_OK);
    assert_true(access_revision(f) > second);
}

struct seen {
    char text[200];
};

static void on_role(void *ctx, const thole_v1_Role *row)
{
    struct seen *s = ctx;
    upb_StringView name = thole_v1_Role_name(row);
    size_t at = strlen(s->text);
    snprintf(s->text + at, sizeof s->text - at, "role %.*s;", (int)name.size, name.data);
}

static void on_token(void *ctx, const thole_v1_Token *row)
{
    struct seen *s = ctx;
    upb_StringView id = thole_v1_Token_id(row);
    size_t at = strlen(s->text);
    snprintf(s->text + at, sizeof s->text - at, "token %.*s;", (int)id.size, id.data);
}

static void on_gone(void *ctx, const char *name)
{
    struct seen *s = ctx;
    size_t at = strlen(s->text);
    snprintf(s->text + at, sizeof s->text - at, "gone %s;", name);
}

static void test_access_changes_are_reported(void **state)
{
    struct fixture *f = *state;
    struct seen seen = {{0}};
    struct thole_status st;
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t from = registry_view_revision(v);
    registry_view_release(v);
    assert_int_equal(apply_role(f, "clerks", "carol", ""), THOLE_OK);
    assert_int_equal(apply_role(f, "old", "carol", ""), THOLE_OK);
    assert_int_equal(create_token(f, "abc", 1000), THOLE_OK);
    assert_int_equal(delete_role(f, "old"), THOLE_OK);
    const struct registry_changes c = {
        .ctx = &seen, .role = on_role, .token = on_token, .gone = on_gone};
    v = registry_view_acquire(f->r);
    assert_int_equal(registry_changes_since(v, from, &c, &st), THOLE_OK);
    registry_view_release(v);
    assert_string_equal(seen.text, "role clerks;token abc;gone roles/old;");
}

static void test_access_refusals_are_events_with_address_and_method(void **state)
{
    struct fixture *f = *state;
    struct cmd c = cmd_new("user/eve");
    registry_command_set_origin(c.c, "ipv4:10.0.0.9:4711", "Hosts.DeleteHost", c.arena);
    thole_registry_v1_RecordRefusal *r =
        thole_registry_v1_Operation_mutable_record_refusal(cmd_op(&c), c.arena);
    thole_registry_v1_RecordRefusal_set_host_id(r, SV(test_uuid_text(2)));
    thole_registry_v1_RecordRefusal_set_why(r, SV("needs DELETE of HOSTS"));
    thole_registry_v1_RecordRefusal_set_others(r, 3);
    assert_int_equal(fixture_run(f, &c), THOLE_OK);
    struct registry_view *v = registry_view_acquire(f->r);
    struct registry_event_buf buf;
    const thole_v1_Event *e, *last = NULL;
    uint64_t it = 0, after = registry_view_revision(v) - 1;
    while ((e = registry_next_event(v, after, &it, &buf)) != NULL) {
        last = e;
    }
    assert_non_null(last);
    assert_true(slice_equal(registry_str(thole_v1_Event_actor(last)), slice_str("user/eve")));
    assert_true(slice_equal(registry_str(thole_v1_Event_object(last)), slice_str("hosts/h2")));
    assert_true(slice_equal(registry_str(thole_v1_Event_reason(last)), slice_str("CallRefused")));
    assert_true(
        slice_equal(registry_str(thole_v1_Event_method(last)), slice_str("Hosts.DeleteHost")));
    assert_true(
        slice_equal(registry_str(thole_v1_Event_address(last)), slice_str("ipv4:10.0.0.9:4711")));
    assert_true(slice_equal(registry_str(thole_v1_Event_message(last)),
                            slice_str("needs DELETE of HOSTS (and 3 other calls)")));
    registry_view_release(v);
}

static void test_access_survives_a_snapshot(void **state)
{
    struct fixture *f = *state;
    struct bytes before = {0}, after = {0};
    struct thole_status st;
    assert_int_equal(apply_role(f, "clerks", "carol", ""), THOLE_OK);
    assert_int_equal(set_members(f, "admin", "alice"), THOLE_OK);
    assert_int_equal(create_token(f, "abc", 1000), THOLE_OK);
    uint64_t revision = access_revision(f);
    fixture_save(f, &before);
    assert_int_equal(fixture_restore(f, bytes_slice(&before), &st), THOLE_OK);
    fixture_save(f, &after);
    assert_true(slice_equal(bytes_slice(&before), bytes_slice(&after)));
    assert_true(matches(f, "abc", hash));
    assert_int_equal(access_revision(f), revision);
    bytes_deinit(&before);
    bytes_deinit(&after);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup_three, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_access_builtin_roles_always_exist),
        TEST(test_access_rules_of_builtin_roles_cannot_change),
        TEST(test_access_etag_and_unchanged_specs),
        TEST(test_access_bad_roles_are_refused),
        TEST(test_access_roles_are_bounded),
        TEST(test_access_only_the_hash_matches_a_token),
        TEST(test_access_revoked_tokens_stay_revoked),
        TEST(test_access_revision_follows_roles_and_tokens_only),
        TEST(test_access_changes_are_reported),
        TEST(test_access_refusals_are_events_with_address_and_method),
        TEST(test_access_survives_a_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
