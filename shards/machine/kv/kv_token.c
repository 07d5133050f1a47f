/* Logging in, tokens and tickets. A token names a user and an end, signed with a key of the state:
 * it is valid at every host and after restarts, and nothing is stored for it. It also ends when the
 * user's password changes, when the user is deleted, and when auth is disabled. A ticket is a token
 * without an end, for watchers only. */
#include <string.h>

#include "base/password.h"
#include "base/secret.h"
#include "shards/machine/kv/kv_internal.h"

#define TOKEN_VERSION 1
#define TICKET_VERSION 2
#define HEAD_BYTES (1 + 3 * 8)
enum { SALT_SALT = 1, LOGIN_TOKEN = 1, LOGIN_REVISION = 2 };

/* The purpose of a MAC: keeps salts and tokens apart. */
#define FOR_TOKEN 't'
#define FOR_SALT 's'

static KV_REFUSAL(failed, INVALID_ARGUMENT, "authentication failed, invalid user ID or password");
static const struct kv_refusal other_salt = {THOLE_ABORTED, "the password was changed meanwhile"};
static KV_REFUSAL(not_enabled, FAILED_PRECONDITION, "authentication is not enabled");

static void sign(const struct kv_reader *r, uint8_t what, struct slice text,
                 uint8_t ret[static SECRET_HASH_BYTES])
{
    const struct kv_auth *auth = &r->state->auth;
    struct bytes whole = {0};

    bytes_append(&whole, &what, 1);
    put_be64(bytes_extend(&whole, 8), r->kv->shard_id);
    bytes_append_slice(&whole, text);
    secret_mac(slice_of(auth->key, sizeof auth->key), bytes_slice(&whole), ret);
    bytes_deinit(&whole);
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

/* `revision`: of auth. */
static void token_make(const struct kv_reader *r, uint8_t version, struct slice name,
                       uint64_t expire_ms, uint64_t revision, struct bytes *out)
{
    uint8_t head[HEAD_BYTES] = {version}, mac[SECRET_HASH_BYTES];

    put_be64(head + 1, r->kv->shard_id);
    put_be64(head + 9, expire_ms);
    put_be64(head + 17, revision);
    bytes_append(out, head, sizeof head);
    bytes_append_slice(out, name);
    sign(r, FOR_TOKEN, bytes_slice(out), mac);
    bytes_append(out, mac, sizeof mac);
}

void kv__ticket_make(const struct kv_reader *r, const struct kv_user *u, struct bytes *out)
{
    token_make(r, TICKET_VERSION, u->name, UINT64_MAX, u->since, out);
}

bool kv__token_read(const struct kv_reader *r, struct slice token, struct kv_token *ret)
{
    uint8_t mac[SECRET_HASH_BYTES];

    if (token.size < HEAD_BYTES + sizeof mac ||
        (token.data[0] != TOKEN_VERSION && token.data[0] != TICKET_VERSION) ||
        token.size > HEAD_BYTES + sizeof mac + KV_AUTH_NAME_BYTES) {
        return false;
    }
    struct slice text = slice_of(token.data, token.size - sizeof mac);
    sign(r, FOR_TOKEN, text, mac);
    if (!secret_equal(slice_of(mac, sizeof mac), slice_of(token.data + text.size, sizeof mac)) ||
        get_be64(text.data + 9) <= r->state->now_ms) {
        return false;
    }
    *ret = (struct kv_token){
        .name = slice_of(text.data + HEAD_BYTES, text.size - HEAD_BYTES),
        .revision = get_be64(text.data + 17),
        .ticket = token.data[0] == TICKET_VERSION,
    };
    return true;
}

/* ---- Logging in ------------------------------------------------------------------------------ */

/* A salt for an unknown user: fixed for each name, so that it does not reveal whether the user
 * exists. */
static void made_up_salt(const struct kv_reader *r, struct slice name,
                         char ret[static PASSWORD_SALT_CHARS + 1])
{
    uint8_t mac[SECRET_HASH_BYTES];

    sign(r, FOR_SALT, name, mac);
    password_salt_of(mac, ret);
}

static enum thole_code find_with_password(const struct kv_reader *r, struct slice name,
                                          struct arena *arena, struct kv_user *ret, bool *ret_found,
                                          struct thole_status *st)
{
    enum thole_code code = kv__user_get(r, name, arena, ret, ret_found, st);

    *ret_found = code == THOLE_OK && *ret_found && ret->password.size > 0;
    return code;
}

/* `u` NULL: there is no such user with a password. */
static void salt_of(const struct kv_reader *r, struct slice name, const struct kv_user *u,
                    char ret[static PASSWORD_SALT_CHARS + 1])
{
    if (u == NULL) {
        made_up_salt(r, name, ret);
    } else {
        memcpy(ret, u->password.data, PASSWORD_SALT_CHARS);
        ret[PASSWORD_SALT_CHARS] = '\0';
    }
}

static enum thole_code salt(const struct kv_reader *r, struct slice name, struct arena *arena,
                            struct bytes *out, struct thole_status *st)
{
    char text[PASSWORD_SALT_CHARS + 1];
    struct kv_user u;
    bool found = false;
    enum thole_code code = find_with_password(r, name, arena, &u, &found, st);

    salt_of(r, name, found ? &u : NULL, text);
    kv__wire_bytes(out, SALT_SALT, slice_str(text));
    return code;
}

static enum thole_code login(const struct kv_reader *r, const thole_kv_v1_LoginRequest *m,
                             struct arena *arena, struct bytes *out,
                             const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    struct slice name = kv__slice(thole_kv_v1_LoginRequest_name(m));
    struct slice hash = kv__slice(thole_kv_v1_LoginRequest_hash(m));
    char text[PASSWORD_SALT_CHARS + 1];
    struct bytes token = {0};
    struct kv_user u;
    bool found = false;
    enum thole_code code = find_with_password(r, name, arena, &u, &found, st);

    if (code != THOLE_OK) {
        return code;
    }
    salt_of(r, name, found ? &u : NULL, text);
    if (password_is_hash(hash) && memcmp(hash.data, text, PASSWORD_SALT_CHARS) != 0) {
        *ret_refusal = &other_salt; /* also of unknown users: it does not reveal who exists */
        return THOLE_OK;
    }
    if (!found || !secret_equal(u.password, hash)) {
        *ret_refusal = &failed;
        return THOLE_OK;
    }
    token_make(r, TOKEN_VERSION, name, thole_kv_v1_LoginRequest_expire_ms(m),
               r->state->auth.revision, &token);
    kv__wire_bytes(out, LOGIN_TOKEN, bytes_slice(&token));
    kv__wire_number(out, LOGIN_REVISION, (uint64_t)r->revision);
    bytes_deinit(&token);
    return THOLE_OK;
}

/* ---- Queries ------------------------------------------------------------------------------ */

enum thole_code kv__token_query(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                struct bytes *out, const struct kv_refusal **ret_refusal,
                                struct thole_status *st)
{
    enum thole_code code = THOLE_OK;

    if (!r->state->auth.enabled) {
        *ret_refusal = &not_enabled;
        return THOLE_OK;
    }
    struct arena *arena = arena_new();
    if (thole_kv_v1_Query_has_salt(m)) {
        code = salt(r, kv__slice(thole_kv_v1_SaltRequest_name(thole_kv_v1_Query_salt(m))), arena,
                    out, st);
    } else {
        code = login(r, thole_kv_v1_Query_login(m), arena, out, ret_refusal, st);
    }
    arena_free(arena);
    return code;
}
