/* The roles that every cluster has. Their rules are those of this program; a row, which a built-in
 * role has as soon as somebody changed its members, only adds the members. */
#include "registry/registry_internal.h"

struct builtin {
    const char *name;
    int32_t verbs[4], kinds[8]; /* one rule for all names; 0 ends a list */
    int32_t read_kinds[2];      /* a second rule: READ of these */
    int32_t rights[3];          /* on the data of all shards */
};

/* By name. */
static const struct builtin builtins[] = {
    {.name = "admin",
     .verbs = {thole_v1_ROLE_VERB_ANY},
     .kinds = {thole_v1_ROLE_KIND_ANY},
     .rights = {thole_v1_DATA_RIGHT_READ, thole_v1_DATA_RIGHT_WRITE, thole_v1_DATA_RIGHT_ADMIN}},
    {.name = "operator",
     .verbs = {thole_v1_ROLE_VERB_ANY},
     .kinds = {thole_v1_ROLE_KIND_HOSTS, thole_v1_ROLE_KIND_SHARDS, thole_v1_ROLE_KIND_POOLS,
               thole_v1_ROLE_KIND_REPLICAS, thole_v1_ROLE_KIND_OPERATIONS,
               thole_v1_ROLE_KIND_EVENTS, thole_v1_ROLE_KIND_CLUSTER},
     .read_kinds = {thole_v1_ROLE_KIND_ROLES, thole_v1_ROLE_KIND_TOKENS},
     .rights = {thole_v1_DATA_RIGHT_ADMIN}},
    {.name = "viewer", .verbs = {thole_v1_ROLE_VERB_READ}, .kinds = {thole_v1_ROLE_KIND_ANY}},
};

#define BUILTINS (sizeof builtins / sizeof builtins[0])

static const thole_v1_Role *roles[BUILTINS];
static pthread_once_t made = PTHREAD_ONCE_INIT;

static thole_v1_Role *make_role(const struct builtin *b, upb_Arena *arena)
{
    thole_v1_Role *role = thole_v1_Role_new(arena);
    thole_v1_RoleSpec *spec = thole_v1_Role_mutable_spec(role, arena);
    thole_v1_Role_set_name(role, upb_StringView_FromString(b->name));
    thole_v1_Role_set_etag(role, upb_StringView_FromString("r0"));
    thole_v1_Role_set_generation(role, 1);
    thole_v1_Role_set_builtin(role, true);
    thole_v1_RoleRule *rule = thole_v1_RoleSpec_add_rules(spec, arena);
    for (size_t i = 0; b->verbs[i] != 0; i++) {
        thole_v1_RoleRule_add_verbs(rule, b->verbs[i], arena);
    }
    for (size_t i = 0; b->kinds[i] != 0; i++) {
        thole_v1_RoleRule_add_kinds(rule, b->kinds[i], arena);
    }
    if (b->read_kinds[0] != 0) {
        rule = thole_v1_RoleSpec_add_rules(spec, arena);
        thole_v1_RoleRule_add_verbs(rule, thole_v1_ROLE_VERB_READ, arena);
        thole_v1_RoleRule_add_kinds(rule, b->read_kinds[0], arena);
        thole_v1_RoleRule_add_kinds(rule, b->read_kinds[1], arena);
    }
    if (b->rights[0] != 0) {
        thole_v1_DataRule *data = thole_v1_RoleSpec_add_data(spec, arena);
        for (size_t i = 0; i < sizeof b->rights / sizeof b->rights[0] && b->rights[i] != 0; i++) {
            thole_v1_DataRule_add_rights(data, b->rights[i], arena);
        }
        thole_v1_DataRule_add_shards(data, upb_StringView_FromString("*"), arena);
    }
    return role;
}

/* In memory that lasts as long as the process. */
static void make_all(void)
{
    upb_Arena *arena = upb_Arena_New();
    ASSERT(arena != NULL);
    for (size_t i = 0; i < BUILTINS; i++) {
        roles[i] = make_role(&builtins[i], arena);
    }
}

const thole_v1_Role *registry_builtin_role(struct slice name)
{
    (void)pthread_once(&made, make_all);
    for (size_t i = 0; i < BUILTINS; i++) {
        if (slice_equal(name, slice_str(builtins[i].name))) {
            return roles[i];
        }
    }
    return NULL;
}

const thole_v1_Role *registry__builtin_after(struct slice name)
{
    (void)pthread_once(&made, make_all);
    for (size_t i = 0; i < BUILTINS; i++) {
        if (slice_compare(slice_str(builtins[i].name), name) > 0) {
            return roles[i];
        }
    }
    return NULL;
}
