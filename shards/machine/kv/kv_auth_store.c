/* Users and roles in the state database: authpb.User and authpb.Role. */
#include <stdlib.h>
#include <string.h>

#include "base/password.h"
#include "etcd/auth.upb.h"
#include "proto/decode.h"
#include "shards/machine/kv/kv_internal.h"

enum { USER_NAME = 1, USER_PASSWORD = 2, USER_ROLES = 3, USER_OPTIONS = 4, USER_SINCE = 100 };
enum { OPTIONS_NO_PASSWORD = 1 };
enum { ROLE_NAME = 1, ROLE_PERMISSION = 2 };
enum { PERMISSION_TYPE = 1, PERMISSION_KEY = 2, PERMISSION_END = 3 };

const struct slice kv__root = {(const uint8_t *)"root", 4};

/* ---- Users ----------------------------------------------------------------------------------- */

static bool user_decode(struct slice stored, struct arena *arena, struct kv_user *ret)
{
    upb_Arena *upb = upb_Arena_New();
    const authpb_User *m = PROTO_DECODE_ALIAS(authpb_User, stored, upb);
    size_t n = 0;
    bool ok = m != NULL;

    if (ok) {
        const upb_StringView *roles = authpb_User_roles(m, &n);
        *ret = (struct kv_user){
            .name = arena_copy(arena, kv__slice(authpb_User_name(m))),
            .password = arena_copy(arena, kv__slice(authpb_User_password(m))),
            .roles = arena_alloc(arena, n * sizeof *ret->roles + 1),
            .role_count = n,
            .since = authpb_User_since(m),
        };
        for (size_t i = 0; i < n; i++) {
            ret->roles[i] = arena_copy(arena, kv__slice(roles[i]));
            ok = ok && (i == 0 || slice_compare(ret->roles[i - 1], ret->roles[i]) < 0);
        }
        ok = ok && (ret->password.size == 0 || password_is_hash(ret->password));
    }
    upb_Arena_Free(upb);
    return ok;
}

bool kv__user_sound(struct slice name, struct slice stored)
{
    struct arena *arena = arena_new();
    struct kv_user u = {0};
    bool ok = name.size > 0 && name.size <= KV_AUTH_NAME_BYTES && user_decode(stored, arena, &u) &&
              slice_equal(u.name, name);

    arena_free(arena);
    return ok;
}

enum thole_code kv__user_get(const struct kv_reader *r, struct slice name, struct arena *arena,
                             struct kv_user *ret, bool *ret_found, struct thole_status *st)
{
    struct bytes key = {0};
    struct buf *stored = NULL;

    kv__key(&key, KV_PREFIX_USER, name);
    enum thole_code code = kv__get(r, bytes_slice(&key), &stored, st);
    bytes_deinit(&key);
    *ret_found = code == THOLE_OK;
    if (code != THOLE_OK) {
        return code == THOLE_NOT_FOUND ? THOLE_OK : code;
    }
    bool ok = user_decode(slice_of(stored->data, stored->size), arena, ret);
    buf_unref(stored);
    return ok ? THOLE_OK : kv__damaged(st, "user");
}

void kv__user_put(struct kv_exec *x, const struct kv_user *u)
{
    struct bytes options = {0};

    bytes_clear(&x->value);
    kv__wire_bytes(&x->value, USER_NAME, u->name);
    kv__wire_bytes(&x->value, USER_PASSWORD, u->password);
    for (size_t i = 0; i < u->role_count; i++) {
        kv__wire_message(&x->value, USER_ROLES, u->roles[i]);
    }
    if (u->password.size == 0) {
        kv__wire_number(&options, OPTIONS_NO_PASSWORD, true);
        kv__wire_message(&x->value, USER_OPTIONS, bytes_slice(&options));
    }
    kv__wire_number(&x->value, USER_SINCE, u->since);
    bytes_deinit(&options);
    kv__key(&x->key, KV_PREFIX_USER, u->name);
    kv__batch_put(x, bytes_slice(&x->key), bytes_slice(&x->value));
}

bool kv__user_has_role(const struct kv_user *u, struct slice role)
{
    for (size_t i = 0; i < u->role_count; i++) {
        if (slice_equal(u->roles[i], role)) {
            return true;
        }
    }
    return false;
}

/* ---- Roles ----------------------------------------------------------------------------------- */

bool kv__permission_is_valid(const struct kv_permission *p)
{
    struct kv_keys keys = kv__keys_of(p->key, p->range_end);

    return p->key.size > 0 && p->type >= authpb_Permission_READ &&
           p->type <= authpb_Permission_READWRITE &&
           (keys.one || keys.to.size == 0 || slice_compare(keys.from, keys.to) < 0);
}

static bool role_decode(struct slice stored, struct arena *arena, struct kv_role *ret)
{
    upb_Arena *upb = upb_Arena_New();
    const authpb_Role *m = PROTO_DECODE_ALIAS(authpb_Role, stored, upb);
    size_t n = 0;
    bool ok = m != NULL;

    if (ok) {
        const authpb_Permission *const *list = authpb_Role_keyPermission(m, &n);
        *ret = (struct kv_role){
            .name = arena_copy(arena, kv__slice(authpb_Role_name(m))),
            /* Room for one more. */
            .permissions = arena_alloc(arena, (n + 1) * sizeof *ret->permissions),
            .count = n,
        };
        for (size_t i = 0; i < n && ok; i++) {
            struct kv_permission *p = &ret->permissions[i];
            *p = (struct kv_permission){
                .key = arena_copy(arena, kv__slice(authpb_Permission_key(list[i]))),
                .range_end = arena_copy(arena, kv__slice(authpb_Permission_range_end(list[i]))),
                .type = authpb_Permission_permType(list[i]),
            };
            ok = kv__permission_is_valid(p) && (i == 0 || slice_compare(p[-1].key, p->key) <= 0);
        }
    }
    upb_Arena_Free(upb);
    return ok;
}

bool kv__role_sound(struct slice name, struct slice stored)
{
    struct arena *arena = arena_new();
    struct kv_role role = {0};
    bool ok = name.size > 0 && name.size <= KV_AUTH_NAME_BYTES &&
              role_decode(stored, arena, &role) && slice_equal(role.name, name);

    arena_free(arena);
    return ok;
}

enum thole_code kv__role_get(const struct kv_reader *r, struct slice name, struct arena *arena,
                             struct kv_role *ret, bool *ret_found, struct thole_status *st)
{
    struct bytes key = {0};
    struct buf *stored = NULL;

    kv__key(&key, KV_PREFIX_ROLE, name);
    enum thole_code code = kv__get(r, bytes_slice(&key), &stored, st);
    bytes_deinit(&key);
    *ret_found = code == THOLE_OK;
    if (code != THOLE_OK) {
        return code == THOLE_NOT_FOUND ? THOLE_OK : code;
    }
    bool ok = role_decode(slice_of(stored->data, stored->size), arena, ret);
    buf_unref(stored);
    return ok ? THOLE_OK : kv__damaged(st, "role");
}

void kv__wire_permission(struct bytes *out, const struct kv_permission *p)
{
    kv__wire_number(out, PERMISSION_TYPE, (uint64_t)p->type);
    kv__wire_bytes(out, PERMISSION_KEY, p->key);
    kv__wire_bytes(out, PERMISSION_END, p->range_end);
}

void kv__role_put(struct kv_exec *x, const struct kv_role *role)
{
    struct bytes one = {0};

    bytes_clear(&x->value);
    kv__wire_bytes(&x->value, ROLE_NAME, role->name);
    for (size_t i = 0; i < role->count; i++) {
        bytes_clear(&one);
        kv__wire_permission(&one, &role->permissions[i]);
        kv__wire_message(&x->value, ROLE_PERMISSION, bytes_slice(&one));
    }
    bytes_deinit(&one);
    kv__key(&x->key, KV_PREFIX_ROLE, role->name);
    kv__batch_put(x, bytes_slice(&x->key), bytes_slice(&x->value));
}

/* ---- Lists ----------------------------------------------------------------------------------- */

enum thole_code kv__auth_names(const struct kv_reader *r, enum kv_prefix prefix,
                               struct arena *arena, struct slice **ret, size_t *ret_count,
                               struct thole_status *st)
{
    struct state_iter *it = kv__iter_prefix(r, prefix, (struct slice){0});
    struct slice key, value;
    size_t capacity = 0;

    *ret = NULL;
    *ret_count = 0;
    while (state_iter_next(it, &key, &value)) {
        if (*ret_count == capacity) {
            capacity = capacity * 2 + 16;
            *ret = xrealloc(*ret, capacity * sizeof **ret);
        }
        (*ret)[(*ret_count)++] = arena_copy(arena, slice_of(key.data + 1, key.size - 1));
    }
    enum thole_code code = state_iter_status(it, st);
    state_iter_free(it);
    return code;
}
