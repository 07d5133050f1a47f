/* Any bytes as the spec of a role: the registry refuses it, or the rights of its first member are
 * those that its rules say, rule by rule. */
#include "agent/access/rights.h"
#include "base/assert.h"
#include "proto/decode.h"
#include "registry/test/registry_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool has(const int32_t *values, size_t n, int32_t value, int32_t any)
{
    for (size_t i = 0; i < n; i++) {
        if (values[i] == value || (any != 0 && values[i] == any)) {
            return true;
        }
    }
    return false;
}

/* An empty name: all names. */
static bool fits_any(const upb_StringView *patterns, size_t n, struct slice name)
{
    for (size_t i = 0; i < n; i++) {
        struct slice pattern = registry_str(patterns[i]);
        if (name.size > 0 ? rights_pattern_fits(pattern, name)
                          : slice_equal(pattern, slice_str("*"))) {
            return true;
        }
    }
    return false;
}

static bool rules_allow(const thole_v1_RoleSpec *spec, int32_t verb, int32_t kind,
                        struct slice name)
{
    size_t rules = 0, n = 0;
    const thole_v1_RoleRule *const *rule = thole_v1_RoleSpec_rules(spec, &rules);
    for (size_t i = 0; i < rules; i++) {
        const int32_t *verbs = thole_v1_RoleRule_verbs(rule[i], &n);
        bool may = has(verbs, n, verb, thole_v1_ROLE_VERB_ANY);
        const int32_t *kinds = thole_v1_RoleRule_kinds(rule[i], &n);
        may = may && has(kinds, n, kind, thole_v1_ROLE_KIND_ANY);
        const upb_StringView *names = thole_v1_RoleRule_names(rule[i], &n);
        if (may && (n == 0 || fits_any(names, n, name))) {
            return true;
        }
    }
    return false;
}

static bool data_allows(const thole_v1_RoleSpec *spec, int32_t right, struct slice name)
{
    size_t rules = 0, n = 0;
    const thole_v1_DataRule *const *rule = thole_v1_RoleSpec_data(spec, &rules);
    for (size_t i = 0; i < rules; i++) {
        const int32_t *rights = thole_v1_DataRule_rights(rule[i], &n);
        bool may = has(rights, n, right, 0);
        const upb_StringView *shards = thole_v1_DataRule_shards(rule[i], &n);
        if (may && fits_any(shards, n, name)) {
            return true;
        }
    }
    return false;
}

static void check(const struct fixture *f, const thole_v1_RoleSpec *spec, struct slice user)
{
    static const char *const names[] = {"", "a", "orders", "orders-1", "zero"};
    struct rights r;
    struct registry_view *v = registry_view_acquire(f->r);
    rights_init(&r, v, user, false);
    registry_view_release(v);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct slice name = slice_str(names[i]);
        for (int32_t kind = 1; kind < RIGHTS_KINDS; kind++) {
            for (int32_t verb = 1; verb < thole_v1_ROLE_VERB_ANY; verb++) {
                ASSERT(rights_allow(&r, verb, kind, name) == rules_allow(spec, verb, kind, name));
            }
        }
        for (int32_t right = 1; right <= thole_v1_DATA_RIGHT_ADMIN; right++) {
            ASSERT(rights_allow_data(&r, right, name) == data_allows(spec, right, name));
        }
    }
    rights_deinit(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fixture f;
    size_t members = 0;
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdateRole *u =
        thole_registry_v1_Operation_mutable_update_role(cmd_op(&c), c.arena);
    upb_Arena *arena = upb_Arena_New();
    thole_v1_RoleSpec *spec = PROTO_DECODE(thole_v1_RoleSpec, slice_of(data, size), arena);
    fixture_init(&f);
    ASSERT(do_bootstrap(&f, 1) == THOLE_OK);
    if (spec != NULL) {
        const upb_StringView *member = thole_v1_RoleSpec_members(spec, &members);
        thole_registry_v1_UpdateRole_set_name(u, upb_StringView_FromString("clerks"));
        thole_registry_v1_UpdateRole_set_allow_missing(u, true);
        thole_registry_v1_UpdateRole_set_spec(u, spec);
        if (fixture_run(&f, &c) == THOLE_OK && members > 0) {
            check(&f, spec, registry_str(member[0]));
        }
    } else {
        upb_Arena_Free(c.arena);
    }
    fixture_deinit(&f);
    upb_Arena_Free(arena);
    return 0;
}
