/* Operations on roles and tokens.
 *
 * Invariants: the rules of a built-in role are those of builtin_roles.c, and it is never deleted; a
 * token's user, hash and times never change, and a revoked token stays revoked. */
#include "registry/registry_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A token that has ended is kept for so long, for those who look for it in the list. */
#define ENDED_TOKEN_KEPT_MS (INT64_C(30) * 24 * 3600 * 1000)

/* ---- Roles ----------------------------------------------------------------------------------- */

static enum thole_code no_such_role(struct txn *t, upb_StringView name)
{
    return THOLE_FAIL(&t->st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no role is named \"%.*s\"",
                      (int)(name.size < 128 ? name.size : 128), name.data != NULL ? name.data : "");
}

/* The role as users see it; NULL: there is none. */
static const thole_v1_Role *find_role(struct txn *t, upb_StringView name, struct row **ret_row)
{
    *ret_row = registry__role(&t->s, registry_str(name));
    return *ret_row != NULL ? (*ret_row)->role : registry_builtin_role(registry_str(name));
}

static enum thole_code check_spec(struct txn *t, const thole_v1_RoleSpec *spec)
{
    struct registry_violation v;
    return registry__checked(t, registry_check_role_spec("role.spec", spec, &v), &v);
}

static void role_event(struct txn *t, const struct row *row, const char *reason)
{
    char text[REGISTRY_TEXT_BYTES / 2];
    size_t n = 0, at = 0;
    const upb_StringView *members = thole_v1_RoleSpec_members(thole_v1_Role_spec(row->role), &n);
    text[0] = '\0';
    for (size_t i = 0; i < n && at + members[i].size + 8 < sizeof text; i++) {
        int wrote = snprintf(text + at, sizeof text - at, "%s%.*s", i > 0 ? ", " : "",
                             (int)members[i].size, members[i].data);
        at += (size_t)wrote;
    }
    registry__txn_event(t, row, reason, "generation %" PRIu64 "; members: %s",
                        thole_v1_Role_generation(row->role), n > 0 ? text : "none");
}

static void put_role(struct txn *t, struct row *row, const thole_v1_RoleSpec *spec,
                     const char *reason)
{
    struct slice name = registry_str(thole_v1_Role_name(row->role));
    thole_v1_Role_set_spec(row->role,
                           registry__message_copy(spec, &thole_v1_RoleSpec_msginit, row->arena));
    thole_v1_Role_set_etag(row->role, registry__txn_etag(t, row->arena));
    thole_v1_Role_set_generation(row->role, thole_v1_Role_generation(row->role) + 1);
    registry__txn_put(t, row);
    role_event(t, registry__role(&t->s, name), reason);
}

static struct row *new_role(struct txn *t, upb_StringView name)
{
    struct row *row = registry__row_new(&t->scope, ROW_ROLE);
    thole_v1_Role_set_name(row->role, registry__dup(row->arena, registry_str(name)));
    thole_v1_Role_set_create_time_ms(row->role, thole_registry_v1_Command_time_ms(t->command));
    return row;
}

static enum thole_code create(struct txn *t, upb_StringView name, const thole_v1_RoleSpec *spec)
{
    struct registry_violation v;
    struct row *row = NULL;
    enum thole_code code =
        registry__checked(t, registry_check_name("role.name", registry_str(name), &v), &v);
    if (code == THOLE_OK) {
        code = check_spec(t, spec);
    }
    if (code == THOLE_OK && find_role(t, name, &row) != NULL) {
        code = THOLE_FAIL(&t->st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                          "there is a role named \"%.*s\"", (int)name.size, name.data);
    }
    if (code == THOLE_OK &&
        registry__tree_count(t->s.index[INDEX_ROLES]) >= REGISTRY_ROLES_MAX - 3) {
        code = THOLE_FAIL(&t->st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                          "there are %d roles already", REGISTRY_ROLES_MAX - 3);
    }
    if (code == THOLE_OK) {
        put_role(t, new_role(t, name), spec, "RoleCreated");
    }
    return code;
}

enum thole_code registry__op_create_role(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_CreateRole *c = thole_registry_v1_Operation_create_role(op);
    return create(t, thole_registry_v1_CreateRole_name(c), thole_registry_v1_CreateRole_spec(c));
}

/* The rules of a built-in role with the members of `given`, which may leave the rules out. */
static enum thole_code merge_builtin(struct txn *t, const thole_v1_Role *builtin,
                                     const thole_v1_RoleSpec *given, const thole_v1_RoleSpec **ret)
{
    size_t rules = 0, data = 0, members = 0;
    const upb_StringView *member = thole_v1_RoleSpec_members(given, &members);
    (void)thole_v1_RoleSpec_rules(given, &rules);
    (void)thole_v1_RoleSpec_data(given, &data);
    thole_v1_RoleSpec *spec =
        registry__message_copy(thole_v1_Role_spec(builtin), &thole_v1_RoleSpec_msginit, t->arena);
    upb_StringView *to = thole_v1_RoleSpec_resize_members(spec, members, t->arena);
    for (size_t i = 0; i < members; i++) {
        to[i] = member[i];
    }
    *ret = spec;
    if (rules + data == 0 ||
        registry__message_equal(spec, given, &thole_v1_RoleSpec_msginit, t->arena)) {
        return THOLE_OK;
    }
    return registry__refuse(t, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST, "spec.rules",
                            "the rules of a built-in role cannot be changed: leave out rules and "
                            "data, or make a role of another name");
}

static enum thole_code set_spec(struct txn *t, const thole_v1_Role *have, struct row *row,
                                const thole_v1_RoleSpec *given)
{
    upb_StringView name = thole_v1_Role_name(have);
    const thole_v1_Role *builtin = registry_builtin_role(registry_str(name));
    const thole_v1_RoleSpec *spec = given;
    enum thole_code code = check_spec(t, given);
    if (code == THOLE_OK && builtin != NULL) {
        code = merge_builtin(t, builtin, given, &spec);
    }
    if (code != THOLE_OK) {
        return code;
    }
    bool same = registry__message_equal(thole_v1_Role_spec(have), spec, &thole_v1_RoleSpec_msginit,
                                        t->arena);
    if (row != NULL && same) {
        registry__txn_show(t, row);
        return THOLE_OK;
    }
    struct row *edit = row != NULL ? registry__txn_edit(t, row) : new_role(t, name);
    thole_v1_Role_set_builtin(edit->role, builtin != NULL);
    thole_v1_Role_set_generation(edit->role, thole_v1_Role_generation(have));
    put_role(t, edit, spec, "RoleUpdated");
    return THOLE_OK;
}

enum thole_code registry__op_update_role(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_UpdateRole *u = thole_registry_v1_Operation_update_role(op);
    upb_StringView name = thole_registry_v1_UpdateRole_name(u);
    upb_StringView etag = thole_registry_v1_UpdateRole_etag(u);
    struct row *row = NULL;
    const thole_v1_Role *have = find_role(t, name, &row);
    if (have == NULL && thole_registry_v1_UpdateRole_allow_missing(u) && etag.size == 0) {
        return create(t, name, thole_registry_v1_UpdateRole_spec(u));
    }
    if (have == NULL) {
        return no_such_role(t, name);
    }
    enum thole_code code = row != NULL ? registry__check_revision(t, op, row) : THOLE_OK;
    if (code == THOLE_OK) {
        code = registry__check_etag(t, thole_v1_Role_etag(have), etag);
    }
    return code != THOLE_OK ? code : set_spec(t, have, row, thole_registry_v1_UpdateRole_spec(u));
}

enum thole_code registry__op_delete_role(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_DeleteRole *d = thole_registry_v1_Operation_delete_role(op);
    upb_StringView name = thole_registry_v1_DeleteRole_name(d);
    struct row *row = registry__role(&t->s, registry_str(name));
    if (registry_builtin_role(registry_str(name)) != NULL) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "role \"%.*s\" is built in; remove its members instead", (int)name.size,
                          name.data);
    }
    if (row == NULL) {
        return thole_registry_v1_DeleteRole_allow_missing(d) ? THOLE_OK : no_such_role(t, name);
    }
    enum thole_code code = registry__check_revision(t, op, row);
    if (code == THOLE_OK) {
        code = registry__check_etag(t, thole_v1_Role_etag(row->role),
                                    thole_registry_v1_DeleteRole_etag(d));
    }
    if (code == THOLE_OK) {
        registry__txn_event(t, row, "RoleDeleted", "its members lose its rights");
        registry__txn_drop(t, row);
    }
    return code;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static const thole_v1_Token *token_of(const struct row *row)
{
    return thole_registry_v1_StoredToken_token(row->token);
}

/* When it ended or will end. */
static int64_t end_of(const thole_v1_Token *token)
{
    int64_t revoked_ms = thole_v1_Token_revoke_time_ms(token);
    int64_t expire_ms = thole_v1_Token_expire_time_ms(token);
    return revoked_ms != 0 && revoked_ms < expire_ms ? revoked_ms : expire_ms;
}

static void drop_ended(struct txn *t)
{
    int64_t now_ms = thole_registry_v1_Command_time_ms(t->command);
    struct packed *p = registry__tree_first(t->s.index[INDEX_TOKENS]);
    while (p != NULL) {
        struct row *row = registry__open(&t->scope, p);
        struct key key = registry__packed_key(INDEX_TOKENS, p);
        if (registry__ms_between(end_of(token_of(row)), now_ms) > ENDED_TOKEN_KEPT_MS) {
            registry__txn_drop(t, row);
        }
        p = registry__find_after(&t->s, INDEX_TOKENS, key);
    }
}

static enum thole_code check_token(struct txn *t, const thole_registry_v1_CreateToken *c)
{
    struct registry_violation v;
    int64_t now_ms = thole_registry_v1_Command_time_ms(t->command);
    int64_t left_ms = registry__ms_between(now_ms, thole_registry_v1_CreateToken_expire_time_ms(c));
    struct slice id = registry_str(thole_registry_v1_CreateToken_id(c));
    struct slice user = registry_str(thole_registry_v1_CreateToken_user(c));
    enum thole_code code = registry__checked(
        t, registry_check_name("id", id, &v) && registry_check_user("user", user, &v), &v);
    if (code != THOLE_OK) {
        return code;
    }
    if (thole_registry_v1_CreateToken_hash(c).size != REGISTRY_TOKEN_HASH_BYTES) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "hash",
                                "must have %d bytes", REGISTRY_TOKEN_HASH_BYTES);
    }
    if (left_ms <= 0 || left_ms > REGISTRY_TOKEN_LIFE_MS_MAX) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                "expire_after_ms", "must be in the future, and at most 3650 days");
    }
    if (registry__token(&t->s, id) != NULL) {
        return THOLE_FAIL(&t->st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                          "there is a token with this id");
    }
    return THOLE_OK;
}

enum thole_code registry__op_create_token(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_CreateToken *c = thole_registry_v1_Operation_create_token(op);
    enum thole_code code = check_token(t, c);
    if (code != THOLE_OK) {
        return code;
    }
    drop_ended(t);
    if (registry__tree_count(t->s.index[INDEX_TOKENS]) >= REGISTRY_TOKENS_MAX) {
        return THOLE_FAIL(&t->st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                          "there are %d tokens already; those that have ended go 30 days later",
                          REGISTRY_TOKENS_MAX);
    }
    struct slice id = registry_str(thole_registry_v1_CreateToken_id(c));
    struct slice user = registry_str(thole_registry_v1_CreateToken_user(c));
    struct row *row = registry__row_new(&t->scope, ROW_TOKEN);
    upb_Arena *arena = row->arena;
    thole_v1_Token *token = thole_registry_v1_StoredToken_mutable_token(row->token, arena);
    thole_v1_Token_set_id(token, registry__dup(arena, id));
    thole_v1_Token_set_user(token, registry__dup(arena, user));
    thole_v1_Token_set_create_time_ms(token, thole_registry_v1_Command_time_ms(t->command));
    thole_v1_Token_set_expire_time_ms(token, thole_registry_v1_CreateToken_expire_time_ms(c));
    thole_v1_Token_set_creator(
        token, registry__dup(arena, registry_str(thole_registry_v1_Command_actor(t->command))));
    thole_registry_v1_StoredToken_set_hash(
        row->token, registry__dup(arena, registry_str(thole_registry_v1_CreateToken_hash(c))));
    registry__txn_put(t, row);
    registry__txn_event(t, row, "TokenCreated", "for user %.*s", (int)user.size,
                        (const char *)user.data);
    return THOLE_OK;
}

enum thole_code registry__op_revoke_token(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_RevokeToken *r = thole_registry_v1_Operation_revoke_token(op);
    upb_StringView id = thole_registry_v1_RevokeToken_id(r);
    struct row *row = registry__token(&t->s, registry_str(id));
    if (row == NULL) {
        return THOLE_FAIL(&t->st, THOLE_NOT_FOUND, THOLE_REASON_NONE,
                          "no token has the id \"%.*s\"", (int)(id.size < 128 ? id.size : 128),
                          id.data != NULL ? id.data : "");
    }
    enum thole_code code = registry__check_revision(t, op, row);
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, row);
    if (thole_v1_Token_revoke_time_ms(token_of(row)) != 0) {
        return THOLE_OK;
    }
    int64_t now_ms = thole_registry_v1_Command_time_ms(t->command);
    struct row *edit = registry__txn_edit(t, row);
    thole_v1_Token *token = thole_registry_v1_StoredToken_mutable_token(edit->token, edit->arena);
    thole_v1_Token_set_revoke_time_ms(token, now_ms != 0 ? now_ms : 1);
    registry__txn_put(t, edit);
    upb_StringView user = thole_v1_Token_user(token);
    registry__txn_event(t, edit, "TokenRevoked", "of user %.*s", (int)user.size, user.data);
    return THOLE_OK;
}

/* ---- Refused calls --------------------------------------------------------------------------- */

enum thole_code registry__op_record_refusal(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_RecordRefusal *r = thole_registry_v1_Operation_record_refusal(op);
    upb_StringView why = thole_registry_v1_RecordRefusal_why(r);
    uint32_t others = thole_registry_v1_RecordRefusal_others(r);
    struct uuid id;
    struct row *host = uuid_parse(registry_str(thole_registry_v1_RecordRefusal_host_id(r)), &id)
                           ? registry__host(&t->s, &id)
                           : NULL;
    enum thole_code code = registry__check_text(t, "why", why, REGISTRY_TEXT_BYTES);
    if (code == THOLE_OK && host == NULL) {
        code = registry__refuse(t, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST, "host_id",
                                "no host has it");
    }
    if (code != THOLE_OK) {
        return code;
    }
    char more[48] = "";
    if (others > 0) {
        snprintf(more, sizeof more, " (and %" PRIu32 " other calls)", others);
    }
    registry__txn_event(t, host, "CallRefused", "%.*s%s", (int)why.size, why.data, more);
    return THOLE_OK;
}
