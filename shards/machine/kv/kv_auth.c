/* Users, roles and permissions: commands and queries with etcd's semantics. kv_permit.c has checked
 * the sender's rights. Each change is a revision of auth, none of the keys. */
#include <stdlib.h>
#include <string.h>

#include "base/password.h"
#include "etcd/auth.upb.h"
#include "shards/machine/kv/kv_internal.h"

enum { STATUS_ENABLED = 2, STATUS_REVISION = 3, LIST = 2 };

static KV_REFUSAL(root_user_missing, FAILED_PRECONDITION, "root user does not exist");
static KV_REFUSAL(root_role_missing, FAILED_PRECONDITION, "root user does not have root role");
static KV_REFUSAL(user_exists, FAILED_PRECONDITION, "user name already exists");
static KV_REFUSAL(role_exists, FAILED_PRECONDITION, "role name already exists");
static KV_REFUSAL(role_empty, INVALID_ARGUMENT, "role name is empty");
static KV_REFUSAL(role_not_granted, FAILED_PRECONDITION, "role is not granted to the user");
static KV_REFUSAL(permission_not_granted, FAILED_PRECONDITION,
                  "permission is not granted to the role");
static KV_REFUSAL(permission_not_given, INVALID_ARGUMENT, "permission not given");
static KV_REFUSAL(invalid_management, INVALID_ARGUMENT, "invalid auth management");
static KV_REFUSAL(user_not_found, FAILED_PRECONDITION, "user name not found");
static KV_REFUSAL(role_not_found, FAILED_PRECONDITION, "role name not found");
static const struct kv_refusal no_key = {THOLE_INVALID_ARGUMENT,
                                         "auth_enable.key must be 32 random bytes"};
static const struct kv_refusal no_hash = {
    THOLE_INVALID_ARGUMENT,
    "hashedPassword must be a bcrypt hash ($2b$), and password must be empty"};
static const struct kv_refusal name_too_long = {THOLE_INVALID_ARGUMENT,
                                                "the name of a user or role has at most 256 bytes"};
static const struct kv_refusal too_many_users = {THOLE_RESOURCE_EXHAUSTED,
                                                 "a store has at most 5000 users"};
static const struct kv_refusal too_many_roles = {THOLE_RESOURCE_EXHAUSTED,
                                                 "a store has at most 1000 roles"};
static const struct kv_refusal too_many_user_roles = {THOLE_RESOURCE_EXHAUSTED,
                                                      "a user has at most 100 roles"};
static const struct kv_refusal too_many_permissions = {
    THOLE_RESOURCE_EXHAUSTED, "a role has at most 1000 permissions, and 256 KiB of their keys"};

static void changed(struct kv_exec *x)
{
    x->kv->state.auth.revision++;
}

/* ---- On and off ------------------------------------------------------------------------------ */

static enum thole_code enable(struct kv_exec *x, const thole_kv_v1_AuthEnable *m,
                              struct thole_status *st)
{
    struct kv_auth *auth = &x->kv->state.auth;
    struct slice key = kv__slice(thole_kv_v1_AuthEnable_key(m));
    struct kv_user root = {0};
    bool found = false;

    if (auth->enabled) {
        return THOLE_OK;
    }
    if (key.size != sizeof auth->key) {
        x->refusal = &no_key;
        return THOLE_OK;
    }
    enum thole_code code = kv__user_get(&x->reader, kv__root, x->arena, &root, &found, st);
    if (code != THOLE_OK || !found) {
        x->refusal = &root_user_missing;
    } else if (!kv__user_has_role(&root, kv__root)) {
        x->refusal = &root_role_missing;
    } else {
        auth->enabled = true;
        memcpy(auth->key, key.data, sizeof auth->key);
    }
    return code;
}

static void disable(struct kv_exec *x)
{
    struct kv_auth *auth = &x->kv->state.auth;

    if (auth->enabled) {
        auth->enabled = false;
        memset(auth->key, 0, sizeof auth->key); /* the next key makes all tokens of now invalid */
        changed(x);
    }
}

/* While auth is enabled, its user and its role cannot go. */
static bool is_protected(const struct kv_exec *x, struct slice name)
{
    return x->kv->state.auth.enabled && slice_equal(name, kv__root);
}

static void delete_record(struct kv_exec *x, enum kv_prefix prefix, struct slice name)
{
    kv__key(&x->key, prefix, name);
    kv__batch_delete(x, bytes_slice(&x->key));
}

/* ---- Users ----------------------------------------------------------------------------------- */

/* Refuses if there is no such user. */
static enum thole_code find_user(struct kv_exec *x, struct slice name, struct kv_user *ret,
                                 struct thole_status *st)
{
    bool found = false;
    enum thole_code code = kv__user_get(&x->reader, name, x->arena, ret, &found, st);

    if (code == THOLE_OK && !found) {
        x->refusal = &user_not_found;
    }
    return code;
}

static enum thole_code find_role(struct kv_exec *x, struct slice name, struct kv_role *ret,
                                 struct thole_status *st)
{
    bool found = false;
    enum thole_code code = kv__role_get(&x->reader, name, x->arena, ret, &found, st);

    if (code == THOLE_OK && !found) {
        x->refusal = &role_not_found;
    }
    return code;
}

static enum thole_code user_add(struct kv_exec *x, const etcdserverpb_AuthUserAddRequest *m,
                                struct thole_status *st)
{
    const authpb_UserAddOptions *options = etcdserverpb_AuthUserAddRequest_options(m);
    struct kv_user old,
        u = {
            .name = kv__slice(etcdserverpb_AuthUserAddRequest_name(m)),
            .password = kv__slice(etcdserverpb_AuthUserAddRequest_hashedPassword(m)),
        };
    bool found = false;

    if (u.name.size == 0 || u.name.size > KV_AUTH_NAME_BYTES) {
        x->refusal = u.name.size == 0 ? &kv__user_empty : &name_too_long;
        return THOLE_OK;
    }
    bool no_password = options != NULL && authpb_UserAddOptions_no_password(options);
    bool hash_fits = no_password ? u.password.size == 0 : password_is_hash(u.password);
    if (!hash_fits || etcdserverpb_AuthUserAddRequest_password(m).size > 0) {
        x->refusal = &no_hash;
        return THOLE_OK;
    }
    enum thole_code code = kv__user_get(&x->reader, u.name, x->arena, &old, &found, st);
    if (code != THOLE_OK || found || x->kv->state.auth.users >= KV_AUTH_USERS_MAX) {
        x->refusal = found ? &user_exists : &too_many_users;
        return code;
    }
    changed(x);
    x->kv->state.auth.users++;
    u.since = x->kv->state.auth.revision;
    kv__user_put(x, &u);
    return THOLE_OK;
}

static enum thole_code user_delete(struct kv_exec *x, struct slice name, struct thole_status *st)
{
    struct kv_user u;

    if (is_protected(x, name)) {
        x->refusal = &invalid_management;
        return THOLE_OK;
    }
    enum thole_code code = find_user(x, name, &u, st);
    if (code != THOLE_OK || x->refusal != NULL) {
        return code;
    }
    delete_record(x, KV_PREFIX_USER, name);
    x->kv->state.auth.users--;
    changed(x);
    return THOLE_OK;
}

static enum thole_code change_password(struct kv_exec *x,
                                       const etcdserverpb_AuthUserChangePasswordRequest *m,
                                       struct thole_status *st)
{
    struct slice hash = kv__slice(etcdserverpb_AuthUserChangePasswordRequest_hashedPassword(m));
    struct kv_user u;

    if (!password_is_hash(hash) ||
        etcdserverpb_AuthUserChangePasswordRequest_password(m).size > 0) {
        x->refusal = &no_hash;
        return THOLE_OK;
    }
    enum thole_code code =
        find_user(x, kv__slice(etcdserverpb_AuthUserChangePasswordRequest_name(m)), &u, st);
    if (code != THOLE_OK || x->refusal != NULL) {
        return code;
    }
    changed(x);
    u.password = u.password.size == 0 ? (struct slice){0} : hash; /* made without one: stays so */
    u.since = x->kv->state.auth.revision;
    kv__user_put(x, &u);
    return THOLE_OK;
}

static enum thole_code grant_role(struct kv_exec *x, struct slice name, struct slice role,
                                  struct thole_status *st)
{
    struct kv_user u;
    struct kv_role found;
    enum thole_code code = find_user(x, name, &u, st);

    if (code == THOLE_OK && x->refusal == NULL && !slice_equal(role, kv__root)) {
        code = find_role(x, role, &found, st);
    }
    if (code != THOLE_OK || x->refusal != NULL || kv__user_has_role(&u, role)) {
        return code;
    }
    if (u.role_count >= KV_AUTH_USER_ROLES_MAX) {
        x->refusal = &too_many_user_roles;
        return THOLE_OK;
    }
    struct slice *roles = arena_alloc(x->arena, (u.role_count + 1) * sizeof *roles);
    size_t at = 0;
    while (at < u.role_count && slice_compare(u.roles[at], role) < 0) {
        roles[at] = u.roles[at];
        at++;
    }
    roles[at] = role;
    for (size_t i = at; i < u.role_count; i++) {
        roles[i + 1] = u.roles[i];
    }
    u.roles = roles;
    u.role_count++;
    kv__user_put(x, &u);
    changed(x);
    return THOLE_OK;
}

/* False: the user does not have it. */
static bool take_role(struct kv_user *u, struct slice role)
{
    size_t kept = 0;

    for (size_t i = 0; i < u->role_count; i++) {
        if (!slice_equal(u->roles[i], role)) {
            u->roles[kept++] = u->roles[i];
        }
    }
    bool had = kept < u->role_count;
    u->role_count = kept;
    return had;
}

static enum thole_code revoke_role(struct kv_exec *x, struct slice name, struct slice role,
                                   struct thole_status *st)
{
    struct kv_user u;

    if (is_protected(x, name) && slice_equal(role, kv__root)) {
        x->refusal = &invalid_management;
        return THOLE_OK;
    }
    enum thole_code code = find_user(x, name, &u, st);
    if (code != THOLE_OK || x->refusal != NULL) {
        return code;
    }
    if (!take_role(&u, role)) {
        x->refusal = &role_not_granted;
        return THOLE_OK;
    }
    kv__user_put(x, &u);
    changed(x);
    return THOLE_OK;
}

/* ---- Roles ----------------------------------------------------------------------------------- */

static enum thole_code role_add(struct kv_exec *x, struct slice name, struct thole_status *st)
{
    struct kv_role old;
    bool found = false;

    if (name.size == 0 || name.size > KV_AUTH_NAME_BYTES) {
        x->refusal = name.size == 0 ? &role_empty : &name_too_long;
        return THOLE_OK;
    }
    enum thole_code code = kv__role_get(&x->reader, name, x->arena, &old, &found, st);
    if (code != THOLE_OK || found || x->kv->state.auth.roles >= KV_AUTH_ROLES_MAX) {
        x->refusal = found ? &role_exists : &too_many_roles;
        return code;
    }
    kv__role_put(x, &(struct kv_role){.name = name});
    x->kv->state.auth.roles++;
    changed(x);
    return THOLE_OK;
}

/* Users lose a role that is deleted. */
static enum thole_code take_role_from_all(struct kv_exec *x, struct slice role,
                                          struct thole_status *st)
{
    struct slice *names;
    size_t n = 0;
    enum thole_code code = kv__auth_names(&x->reader, KV_PREFIX_USER, x->arena, &names, &n, st);
    struct arena *arena = arena_new(); /* of one user: all of them could be 100 MB */

    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        struct kv_user u;
        bool found = false;
        code = kv__user_get(&x->reader, names[i], arena, &u, &found, st);
        if (code == THOLE_OK && found && take_role(&u, role)) {
            kv__user_put(x, &u);
        }
        arena_reset(arena);
    }
    arena_free(arena);
    free(names);
    return code;
}

static enum thole_code role_delete(struct kv_exec *x, struct slice name, struct thole_status *st)
{
    struct kv_role role;

    if (is_protected(x, name)) {
        x->refusal = &invalid_management;
        return THOLE_OK;
    }
    enum thole_code code = find_role(x, name, &role, st);
    if (code != THOLE_OK || x->refusal != NULL) {
        return code;
    }
    delete_record(x, KV_PREFIX_ROLE, name);
    x->kv->state.auth.roles--;
    changed(x);
    return take_role_from_all(x, name, st);
}

static bool same_range(const struct kv_permission *a, const struct kv_permission *b)
{
    return slice_equal(a->key, b->key) && slice_equal(a->range_end, b->range_end);
}

/* Whether one more fits. */
static bool role_has_room(const struct kv_role *role, const struct kv_permission *p)
{
    size_t bytes = p->key.size + p->range_end.size;

    for (size_t i = 0; i < role->count; i++) {
        bytes += role->permissions[i].key.size + role->permissions[i].range_end.size;
    }
    return role->count < KV_AUTH_ROLE_PERMISSIONS_MAX && bytes <= KV_AUTH_ROLE_BYTES;
}

static enum thole_code grant_permission(struct kv_exec *x,
                                        const etcdserverpb_AuthRoleGrantPermissionRequest *m,
                                        struct thole_status *st)
{
    const authpb_Permission *given = etcdserverpb_AuthRoleGrantPermissionRequest_perm(m);
    struct kv_permission p = {0};
    struct kv_role role;

    if (given != NULL) {
        p = (struct kv_permission){
            .key = kv__slice(authpb_Permission_key(given)),
            .range_end = kv__slice(authpb_Permission_range_end(given)),
            .type = authpb_Permission_permType(given),
        };
    }
    if (given == NULL || !kv__permission_is_valid(&p)) {
        x->refusal = given == NULL ? &permission_not_given : &invalid_management;
        return THOLE_OK;
    }
    enum thole_code code =
        find_role(x, kv__slice(etcdserverpb_AuthRoleGrantPermissionRequest_name(m)), &role, st);
    if (code != THOLE_OK || x->refusal != NULL) {
        return code;
    }
    size_t at = 0;
    while (at < role.count && !same_range(&role.permissions[at], &p)) {
        at++;
    }
    if (at == role.count) {
        if (!role_has_room(&role, &p)) {
            x->refusal = &too_many_permissions;
            return THOLE_OK;
        }
        for (; at > 0 && slice_compare(role.permissions[at - 1].key, p.key) > 0; at--) {
            role.permissions[at] = role.permissions[at - 1];
        }
        role.count++;
    }
    role.permissions[at] = p;
    kv__role_put(x, &role);
    changed(x);
    return THOLE_OK;
}

static enum thole_code revoke_permission(struct kv_exec *x,
                                         const etcdserverpb_AuthRoleRevokePermissionRequest *m,
                                         struct thole_status *st)
{
    struct kv_permission p = {
        .key = kv__slice(etcdserverpb_AuthRoleRevokePermissionRequest_key(m)),
        .range_end = kv__slice(etcdserverpb_AuthRoleRevokePermissionRequest_range_end(m)),
    };
    struct kv_role role;
    size_t kept = 0;
    enum thole_code code =
        find_role(x, kv__slice(etcdserverpb_AuthRoleRevokePermissionRequest_role(m)), &role, st);

    if (code != THOLE_OK || x->refusal != NULL) {
        return code;
    }
    for (size_t i = 0; i < role.count; i++) {
        if (!same_range(&role.permissions[i], &p)) {
            role.permissions[kept++] = role.permissions[i];
        }
    }
    if (kept == role.count) {
        x->refusal = &permission_not_granted;
        return THOLE_OK;
    }
    role.count = kept;
    kv__role_put(x, &role);
    changed(x);
    return THOLE_OK;
}

/* ---- Commands -------------------------------------------------------------------------------- */

static enum thole_code change_user(struct kv_exec *x, const thole_kv_v1_Command *m,
                                   struct thole_status *st)
{
    if (thole_kv_v1_Command_has_auth_user_add(m)) {
        return user_add(x, thole_kv_v1_Command_auth_user_add(m), st);
    }
    if (thole_kv_v1_Command_has_auth_user_delete(m)) {
        return user_delete(x,
                           kv__slice(etcdserverpb_AuthUserDeleteRequest_name(
                               thole_kv_v1_Command_auth_user_delete(m))),
                           st);
    }
    if (thole_kv_v1_Command_has_auth_user_change_password(m)) {
        return change_password(x, thole_kv_v1_Command_auth_user_change_password(m), st);
    }
    if (thole_kv_v1_Command_has_auth_user_grant_role(m)) {
        const etcdserverpb_AuthUserGrantRoleRequest *g =
            thole_kv_v1_Command_auth_user_grant_role(m);
        return grant_role(x, kv__slice(etcdserverpb_AuthUserGrantRoleRequest_user(g)),
                          kv__slice(etcdserverpb_AuthUserGrantRoleRequest_role(g)), st);
    }
    const etcdserverpb_AuthUserRevokeRoleRequest *g = thole_kv_v1_Command_auth_user_revoke_role(m);
    return revoke_role(x, kv__slice(etcdserverpb_AuthUserRevokeRoleRequest_name(g)),
                       kv__slice(etcdserverpb_AuthUserRevokeRoleRequest_role(g)), st);
}

static enum thole_code change(struct kv_exec *x, const thole_kv_v1_Command *m,
                              struct thole_status *st)
{
    if (thole_kv_v1_Command_has_auth_enable(m)) {
        return enable(x, thole_kv_v1_Command_auth_enable(m), st);
    }
    if (thole_kv_v1_Command_has_auth_disable(m)) {
        disable(x);
        return THOLE_OK;
    }
    if (thole_kv_v1_Command_has_auth_role_add(m)) {
        return role_add(
            x,
            kv__slice(etcdserverpb_AuthRoleAddRequest_name(thole_kv_v1_Command_auth_role_add(m))),
            st);
    }
    if (thole_kv_v1_Command_has_auth_role_delete(m)) {
        return role_delete(x,
                           kv__slice(etcdserverpb_AuthRoleDeleteRequest_role(
                               thole_kv_v1_Command_auth_role_delete(m))),
                           st);
    }
    if (thole_kv_v1_Command_has_auth_role_grant_permission(m)) {
        return grant_permission(x, thole_kv_v1_Command_auth_role_grant_permission(m), st);
    }
    if (thole_kv_v1_Command_has_auth_role_revoke_permission(m)) {
        return revoke_permission(x, thole_kv_v1_Command_auth_role_revoke_permission(m), st);
    }
    return change_user(x, m, st);
}

enum thole_code kv__do_auth(struct kv_exec *x, const thole_kv_v1_Command *m,
                            struct thole_status *st)
{
    enum thole_code code = change(x, m, st);

    kv__wire_header(&x->out, kv__revision(x));
    return code;
}

/* ---- Queries --------------------------------------------------------------------------------- */

static enum thole_code list(const struct kv_reader *r, enum kv_prefix prefix, struct arena *arena,
                            struct bytes *out, struct thole_status *st)
{
    struct slice *names;
    size_t n = 0;
    enum thole_code code = kv__auth_names(r, prefix, arena, &names, &n, st);

    for (size_t i = 0; i < n; i++) {
        kv__wire_message(out, LIST, names[i]);
    }
    free(names);
    return code;
}

static enum thole_code user_get(const struct kv_reader *r, struct slice name, struct arena *arena,
                                struct bytes *out, const struct kv_refusal **ret_refusal,
                                struct thole_status *st)
{
    struct kv_user u = {0};
    bool found = false;
    enum thole_code code = kv__user_get(r, name, arena, &u, &found, st);

    *ret_refusal = found ? NULL : &user_not_found;
    for (size_t i = 0; i < u.role_count; i++) {
        kv__wire_message(out, LIST, u.roles[i]);
    }
    return code;
}

static enum thole_code role_get(const struct kv_reader *r, struct slice name, struct arena *arena,
                                struct bytes *out, const struct kv_refusal **ret_refusal,
                                struct thole_status *st)
{
    struct kv_role role = {0};
    struct bytes one = {0};
    bool found = false;
    enum thole_code code = kv__role_get(r, name, arena, &role, &found, st);

    *ret_refusal = found ? NULL : &role_not_found;
    for (size_t i = 0; i < role.count; i++) {
        bytes_clear(&one);
        kv__wire_permission(&one, &role.permissions[i]);
        kv__wire_message(out, LIST, bytes_slice(&one));
    }
    bytes_deinit(&one);
    return code;
}

enum thole_code kv__auth_query(const struct kv_reader *r, const thole_kv_v1_Query *m,
                               struct bytes *out, const struct kv_refusal **ret_refusal,
                               struct thole_status *st)
{
    struct arena *arena = arena_new();
    enum thole_code code = THOLE_OK;

    kv__wire_header(out, r->revision);
    if (thole_kv_v1_Query_has_auth_status(m)) {
        kv__wire_number(out, STATUS_ENABLED, r->state->auth.enabled);
        kv__wire_number(out, STATUS_REVISION, r->state->auth.revision);
    } else if (thole_kv_v1_Query_has_auth_user_list(m)) {
        code = list(r, KV_PREFIX_USER, arena, out, st);
    } else if (thole_kv_v1_Query_has_auth_role_list(m)) {
        code = list(r, KV_PREFIX_ROLE, arena, out, st);
    } else if (thole_kv_v1_Query_has_auth_user_get(m)) {
        code = user_get(
            r, kv__slice(etcdserverpb_AuthUserGetRequest_name(thole_kv_v1_Query_auth_user_get(m))),
            arena, out, ret_refusal, st);
    } else {
        code = role_get(
            r, kv__slice(etcdserverpb_AuthRoleGetRequest_role(thole_kv_v1_Query_auth_role_get(m))),
            arena, out, ret_refusal, st);
    }
    arena_free(arena);
    return code;
}
