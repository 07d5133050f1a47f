/* Which roles and names of users are accepted. See validate.h. */
#include "registry/registry_internal.h"

#include <stdio.h>

#include "base/text.h"

#define BAD REGISTRY__BAD
#define TOO_LARGE REGISTRY__TOO_LARGE

struct place {
    char field[REGISTRY_FIELD_BYTES];
};

static struct place at(const char *list, size_t i, const char *field)
{
    struct place p;
    snprintf(p.field, sizeof p.field, "spec.%s[%zu]%s%s", list, i, field[0] != '\0' ? "." : "",
             field);
    return p;
}

bool registry_check_user(const char *field, struct slice user, struct registry_violation *ret)
{
    return registry_check_label(field, user, 1, ret);
}

/* Values of an enumeration: from 1 to `last`, and at least one. */
static bool check_values(struct place p, const int32_t *values, size_t n, int32_t last,
                         struct registry_violation *ret)
{
    if (n == 0) {
        return BAD(ret, p.field, "must not be empty");
    }
    if (n > REGISTRY_RULE_VALUES_MAX) {
        return TOO_LARGE(ret, p.field, "%zu are more than %d", n, REGISTRY_RULE_VALUES_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        if (values[i] < 1 || values[i] > last) {
            return BAD(ret, p.field, "%d is unknown", (int)values[i]);
        }
    }
    return true;
}

static bool check_patterns(struct place p, const upb_StringView *names, size_t n,
                           struct registry_violation *ret)
{
    if (n > REGISTRY_RULE_NAMES_MAX) {
        return TOO_LARGE(ret, p.field, "%zu are more than %d", n, REGISTRY_RULE_NAMES_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        if (!registry_check_label(p.field, registry_str(names[i]), 1, ret)) {
            return false;
        }
    }
    return true;
}

static bool check_rule(const thole_v1_RoleRule *r, size_t i, struct registry_violation *ret)
{
    size_t n = 0;
    const int32_t *values = thole_v1_RoleRule_verbs(r, &n);
    if (!check_values(at("rules", i, "verbs"), values, n, thole_v1_ROLE_VERB_ANY, ret)) {
        return false;
    }
    values = thole_v1_RoleRule_kinds(r, &n);
    if (!check_values(at("rules", i, "kinds"), values, n, thole_v1_ROLE_KIND_ANY, ret)) {
        return false;
    }
    const upb_StringView *names = thole_v1_RoleRule_names(r, &n);
    return check_patterns(at("rules", i, "names"), names, n, ret);
}

static bool check_data_rule(const thole_v1_DataRule *r, size_t i, struct registry_violation *ret)
{
    size_t n = 0;
    const int32_t *values = thole_v1_DataRule_rights(r, &n);
    if (!check_values(at("data", i, "rights"), values, n, thole_v1_DATA_RIGHT_ADMIN, ret)) {
        return false;
    }
    const upb_StringView *names = thole_v1_DataRule_shards(r, &n);
    if (n == 0) {
        return BAD(ret, at("data", i, "shards").field, "must not be empty; \"*\" means all");
    }
    return check_patterns(at("data", i, "shards"), names, n, ret);
}

static bool check_size(const char *field, const thole_v1_RoleSpec *spec,
                       struct registry_violation *ret)
{
    upb_Arena *arena = upb_Arena_New();
    size_t size = registry__encode(spec, &thole_v1_RoleSpec_msginit, arena).size;
    upb_Arena_Free(arena);
    return size <= REGISTRY_ROLE_BYTES ||
           TOO_LARGE(ret, field, "has %zu bytes, more than %d", size, REGISTRY_ROLE_BYTES);
}

bool registry_check_role_spec(const char *field, const thole_v1_RoleSpec *spec,
                              struct registry_violation *ret)
{
    if (spec == NULL) {
        return BAD(ret, field, "is needed");
    }
    size_t rules = 0, data = 0, members = 0;
    const thole_v1_RoleRule *const *rule = thole_v1_RoleSpec_rules(spec, &rules);
    const thole_v1_DataRule *const *data_rule = thole_v1_RoleSpec_data(spec, &data);
    const upb_StringView *member = thole_v1_RoleSpec_members(spec, &members);
    if (rules > REGISTRY_ROLE_RULES_MAX || data > REGISTRY_ROLE_RULES_MAX) {
        return TOO_LARGE(ret, rules > REGISTRY_ROLE_RULES_MAX ? "spec.rules" : "spec.data",
                         "%zu rules are more than %d", rules > data ? rules : data,
                         REGISTRY_ROLE_RULES_MAX);
    }
    if (members > REGISTRY_ROLE_MEMBERS_MAX) {
        return TOO_LARGE(ret, "spec.members", "%zu members are more than %d", members,
                         REGISTRY_ROLE_MEMBERS_MAX);
    }
    for (size_t i = 0; i < rules; i++) {
        if (!check_rule(rule[i], i, ret)) {
            return false;
        }
    }
    for (size_t i = 0; i < data; i++) {
        if (!check_data_rule(data_rule[i], i, ret)) {
            return false;
        }
    }
    for (size_t i = 0; i < members; i++) {
        if (!registry_check_user(at("members", i, "").field, registry_str(member[i]), ret)) {
            return false;
        }
    }
    return check_size(field, spec, ret);
}
