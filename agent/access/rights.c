/* See rights.h. */
#include "agent/access/rights.h"

#include <stdlib.h>
#include <string.h>

#define BIT(n) (UINT32_C(1) << (n))

bool rights_pattern_fits(struct slice pattern, struct slice name)
{
    size_t p = 0, n = 0, star = SIZE_MAX, resume = 0;
    while (n < name.size) {
        if (p < pattern.size && pattern.data[p] == '*') {
            star = p++;
            resume = n;
        } else if (p < pattern.size && pattern.data[p] == name.data[n]) {
            p++;
            n++;
        } else if (star != SIZE_MAX) { /* let the last star take one more character */
            p = star + 1;
            n = ++resume;
        } else {
            return false;
        }
    }
    while (p < pattern.size && pattern.data[p] == '*') {
        p++;
    }
    return p == pattern.size;
}

/* ---- Putting together ------------------------------------------------------------------------ */

static bool is_all(struct slice pattern)
{
    return slice_equal(pattern, slice_str("*"));
}

static void add_all(struct rights *r, uint32_t verbs, uint32_t kinds)
{
    for (int32_t k = 1; k < RIGHTS_KINDS; k++) {
        if ((kinds & BIT(k)) != 0) {
            r->all[k] |= verbs;
            r->some[k] |= verbs;
        }
    }
    r->data_all |= kinds == 0 ? verbs : 0;
    r->data_some |= kinds == 0 ? verbs : 0;
}

static void add_pattern(struct rights *r, uint32_t verbs, uint32_t kinds, struct slice pattern)
{
    if (is_all(pattern)) {
        add_all(r, verbs, kinds);
        return;
    }
    r->patterns = xrealloc(r->patterns, (r->count + 1) * sizeof *r->patterns);
    r->patterns[r->count++] = (struct rights_pattern){
        .verbs = verbs,
        .kinds = kinds,
        .pattern = xstrndup((const char *)pattern.data, pattern.size),
    };
    for (int32_t k = 1; k < RIGHTS_KINDS; k++) {
        r->some[k] |= (kinds & BIT(k)) != 0 ? verbs : 0;
    }
    r->data_some |= kinds == 0 ? verbs : 0;
}

/* Values that this version does not know give nothing. `any` stands for all below it; 0: none
 * does. */
static uint32_t bits(const int32_t *values, size_t n, int32_t last, int32_t any)
{
    uint32_t mask = 0;
    for (size_t i = 0; i < n; i++) {
        if (values[i] == any && any != 0) {
            mask |= BIT(any) - 2;
        } else if (values[i] >= 1 && values[i] <= last) {
            mask |= BIT(values[i]);
        }
    }
    return mask;
}

static void add_rule(struct rights *r, const thole_v1_RoleRule *rule)
{
    size_t n = 0;
    const int32_t *values = thole_v1_RoleRule_verbs(rule, &n);
    uint32_t verbs = bits(values, n, thole_v1_ROLE_VERB_OPERATE, thole_v1_ROLE_VERB_ANY);
    values = thole_v1_RoleRule_kinds(rule, &n);
    uint32_t kinds = bits(values, n, thole_v1_ROLE_KIND_TOKENS, thole_v1_ROLE_KIND_ANY);
    const upb_StringView *names = thole_v1_RoleRule_names(rule, &n);
    if (kinds != 0 && n == 0) {
        add_all(r, verbs, kinds);
    }
    for (size_t i = 0; kinds != 0 && i < n; i++) {
        add_pattern(r, verbs, kinds, registry_str(names[i]));
    }
}

static void add_data_rule(struct rights *r, const thole_v1_DataRule *rule)
{
    size_t n = 0;
    const int32_t *values = thole_v1_DataRule_rights(rule, &n);
    uint32_t rights = bits(values, n, thole_v1_DATA_RIGHT_ADMIN, 0);
    const upb_StringView *names = thole_v1_DataRule_shards(rule, &n);
    for (size_t i = 0; i < n; i++) {
        add_pattern(r, rights, 0, registry_str(names[i]));
    }
}

static void add_role(struct rights *r, const thole_v1_RoleSpec *spec)
{
    size_t n = 0;
    const thole_v1_RoleRule *const *rules = thole_v1_RoleSpec_rules(spec, &n);
    for (size_t i = 0; i < n; i++) {
        add_rule(r, rules[i]);
    }
    const thole_v1_DataRule *const *data = thole_v1_RoleSpec_data(spec, &n);
    for (size_t i = 0; i < n; i++) {
        add_data_rule(r, data[i]);
    }
}

static bool is_member(const thole_v1_RoleSpec *spec, struct slice user)
{
    size_t n = 0;
    const upb_StringView *members = thole_v1_RoleSpec_members(spec, &n);
    for (size_t i = 0; i < n; i++) {
        if (slice_equal(registry_str(members[i]), user)) {
            return true;
        }
    }
    return false;
}

void rights_init(struct rights *r, const struct registry_view *v, struct slice user,
                 bool everything)
{
    memset(r, 0, sizeof *r);
    if (everything) {
        add_all(r, UINT32_MAX, BIT(RIGHTS_KINDS) - 2);
        add_all(r, UINT32_MAX, 0);
        return;
    }
    struct slice after = {0};
    const thole_v1_Role *role;
    while ((role = registry_next_role(v, after)) != NULL) {
        after = registry_str(thole_v1_Role_name(role));
        const thole_v1_RoleSpec *spec = thole_v1_Role_spec(role);
        if (spec != NULL && is_member(spec, user)) {
            /* The rules of a built-in role are this program's, not those of its row. */
            const thole_v1_Role *builtin = registry_builtin_role(after);
            add_role(r, builtin != NULL ? thole_v1_Role_spec(builtin) : spec);
        }
    }
}

void rights_deinit(struct rights *r)
{
    for (size_t i = 0; i < r->count; i++) {
        free(r->patterns[i].pattern);
    }
    free(r->patterns);
}

/* ---- Asking ---------------------------------------------------------------------------------- */

static bool fits_one(const struct rights *r, uint32_t verb, uint32_t kind, struct slice name)
{
    for (size_t i = 0; i < r->count; i++) {
        const struct rights_pattern *p = &r->patterns[i];
        bool same = kind == 0 ? p->kinds == 0 : (p->kinds & kind) != 0;
        if (same && (p->verbs & verb) != 0 && rights_pattern_fits(slice_str(p->pattern), name)) {
            return true;
        }
    }
    return false;
}

bool rights_allow(const struct rights *r, int32_t verb, int32_t kind, struct slice name)
{
    if (kind < 1 || kind >= RIGHTS_KINDS) {
        return false;
    }
    return (r->all[kind] & BIT(verb)) != 0 || (name.size > 0 && (r->some[kind] & BIT(verb)) != 0 &&
                                               fits_one(r, BIT(verb), BIT(kind), name));
}

bool rights_allow_data(const struct rights *r, int32_t right, struct slice shard)
{
    return (r->data_all & BIT(right)) != 0 || (shard.size > 0 && (r->data_some & BIT(right)) != 0 &&
                                               fits_one(r, BIT(right), 0, shard));
}
