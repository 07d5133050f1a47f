/* Users, roles and permissions of the kv machine, in small sentences: who, what, and the refusal.
 * beside_etcd.py compares random ones with etcd's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/password.h"
#include "etcd/auth.upb.h"
#include "etcd/kv.upb.h"
#include "etcd/rpc.upb.h"
#include "proto/decode.h"
#include "shards/machine/builtin.h"
#include "shards/machine/test/machine_fixture.h"
#include "thole/kv/v1/kv.upb.h"
#include "thole/kv/v1/modify.upb.h"

#define WORDS_MAX 6
#define NOW_MS 1000000

#define DENIED "7 etcdserver: permission denied"
#define NOBODY "3 etcdserver: user name is empty"
#define BAD_TOKEN "16 etcdserver: invalid auth token"
#define OTHER_SALT "10 the password was changed meanwhile"
#define BAD_PASSWORD "3 etcdserver: authentication failed, invalid user ID or password"
#define BAD_MANAGEMENT "3 etcdserver: invalid auth management"
#define NO_USER "9 etcdserver: user name not found"
#define NO_ROLE "9 etcdserver: role name not found"

struct fixture {
    struct test_machine t;
    upb_Arena *arena;
    struct bytes out;
    struct slice tokens[128]; /* by the first letter of the user's name */
    char words[WORDS_MAX][32];
    uint64_t expire_ms; /* of the next log-in */
    int count;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    test_machine_init(&f->t, &machine_kv);
    f->arena = upb_Arena_New();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    test_machine_deinit(&f->t);
    upb_Arena_Free(f->arena);
    bytes_deinit(&f->out);
    free(f);
    return 0;
}

/* ---- Sentences ------------------------------------------------------------------------------- */

static upb_StringView word(const struct fixture *f, int i)
{
    const char *w = f->words[i];

    return i >= f->count            ? (upb_StringView){NULL, 0}
           : strcmp(w, "zero") == 0 ? (upb_StringView){"\0", 1}
                                    : upb_StringView_FromString(w);
}

static bool has(const struct fixture *f, const char *text)
{
    for (int i = 0; i < f->count; i++) {
        if (strcmp(f->words[i], text) == 0) {
            return true;
        }
    }
    return false;
}

/* The end of a range, if the sentence has one. */
static upb_StringView end(const struct fixture *f, int i)
{
    return i < f->count && strcmp(f->words[i], "prev") != 0 ? word(f, i)
                                                            : (upb_StringView){NULL, 0};
}

#define SALT "$2b$04$xxxxxxxxxxxxxxxxxxxxxx"

/* In place of a hash that takes time. */
static upb_StringView hash_with(struct fixture *f, upb_StringView salt, upb_StringView password)
{
    uint8_t *text = upb_Arena_Malloc(f->arena, PASSWORD_HASH_CHARS);

    memset(text, 'x', PASSWORD_HASH_CHARS);
    assert_int_equal(salt.size, PASSWORD_SALT_CHARS);
    memcpy(text, salt.data, PASSWORD_SALT_CHARS);
    memcpy(text + PASSWORD_SALT_CHARS, password.data, password.size);
    return (upb_StringView){(const char *)text, PASSWORD_HASH_CHARS};
}

static upb_StringView hash_of(struct fixture *f, upb_StringView password)
{
    return hash_with(f, upb_StringView_FromString(SALT), password);
}

static bool build_key_command(struct fixture *f, thole_kv_v1_Command *m)
{
    upb_Arena *a = f->arena;

    if (has(f, "put")) {
        etcdserverpb_PutRequest *p = thole_kv_v1_Command_mutable_put(m, a);
        etcdserverpb_PutRequest_set_key(p, word(f, 1));
        etcdserverpb_PutRequest_set_prev_kv(p, has(f, "prev"));
        etcdserverpb_PutRequest_set_lease(p, has(f, "lease") ? 7 : 0);
    } else if (has(f, "delete")) {
        etcdserverpb_DeleteRangeRequest *d = thole_kv_v1_Command_mutable_delete_range(m, a);
        etcdserverpb_DeleteRangeRequest_set_key(d, word(f, 1));
        etcdserverpb_DeleteRangeRequest_set_range_end(d, end(f, 2));
        etcdserverpb_DeleteRangeRequest_set_prev_kv(d, has(f, "prev"));
    } else if (has(f, "grant")) {
        etcdserverpb_LeaseGrantRequest *g = thole_kv_v1_Command_mutable_lease_grant(m, a);
        etcdserverpb_LeaseGrantRequest_set_ID(g, 7);
        etcdserverpb_LeaseGrantRequest_set_TTL(g, 100);
    } else if (has(f, "revoke")) {
        etcdserverpb_LeaseRevokeRequest_set_ID(thole_kv_v1_Command_mutable_lease_revoke(m, a), 7);
    } else if (has(f, "keep-alive")) {
        etcdserverpb_LeaseKeepAliveRequest_set_ID(
            thole_kv_v1_Command_mutable_lease_keep_alive(m, a), 7);
    } else if (has(f, "compact")) {
        etcdserverpb_CompactionRequest_set_revision(thole_kv_v1_Command_mutable_compact(m, a), 1);
    } else if (has(f, "alarm")) {
        etcdserverpb_AlarmRequest_set_action(thole_kv_v1_Command_mutable_alarm(m, a),
                                             etcdserverpb_AlarmRequest_DEACTIVATE);
    } else {
        return false;
    }
    return true;
}

/* txn {if|then|else|nested} {get|put|delete|add} KEY */
static bool build_txn(struct fixture *f, thole_kv_v1_Command *m)
{
    upb_Arena *a = f->arena;

    if (!has(f, "txn")) {
        return false;
    }
    etcdserverpb_TxnRequest *txn = thole_kv_v1_Command_mutable_txn(m, a);
    if (has(f, "if")) {
        etcdserverpb_Compare_set_key(etcdserverpb_TxnRequest_add_compare(txn, a), word(f, 2));
        return true;
    }
    etcdserverpb_RequestOp *op = has(f, "then") || has(f, "nested")
                                     ? etcdserverpb_TxnRequest_add_success(txn, a)
                                     : etcdserverpb_TxnRequest_add_failure(txn, a);
    if (has(f, "nested")) {
        txn = etcdserverpb_RequestOp_mutable_request_txn(op, a);
        op = etcdserverpb_TxnRequest_add_failure(txn, a);
    }
    if (has(f, "get")) {
        etcdserverpb_RangeRequest_set_key(etcdserverpb_RequestOp_mutable_request_range(op, a),
                                          word(f, 3));
    } else if (has(f, "put")) {
        etcdserverpb_PutRequest_set_key(etcdserverpb_RequestOp_mutable_request_put(op, a),
                                        word(f, 3));
        etcdserverpb_PutRequest_set_lease(etcdserverpb_RequestOp_mutable_request_put(op, a),
                                          has(f, "lease") ? 7 : 0);
    } else if (has(f, "delete")) {
        etcdserverpb_DeleteRangeRequest_set_key(
            etcdserverpb_RequestOp_mutable_request_delete_range(op, a), word(f, 3));
    } else {
        thole_kv_v1_ModifyRequest *add = etcdserverpb_RequestOp_mutable_request_modify(op, a);
        thole_kv_v1_ModifyRequest_set_key(add, word(f, 3));
        thole_kv_v1_ModifyRequest_set_add(add, 1);
    }
    return true;
}

static bool build_role_command(struct fixture *f, thole_kv_v1_Command *m)
{
    upb_Arena *a = f->arena;

    if (has(f, "role-add")) {
        etcdserverpb_AuthRoleAddRequest_set_name(thole_kv_v1_Command_mutable_auth_role_add(m, a),
                                                 word(f, 1));
    } else if (has(f, "role-delete")) {
        etcdserverpb_AuthRoleDeleteRequest_set_role(
            thole_kv_v1_Command_mutable_auth_role_delete(m, a), word(f, 1));
    } else if (has(f, "allow")) { /* allow ROLE {READ|WRITE|READWRITE} KEY [END] */
        etcdserverpb_AuthRoleGrantPermissionRequest *g =
            thole_kv_v1_Command_mutable_auth_role_grant_permission(m, a);
        authpb_Permission *p = etcdserverpb_AuthRoleGrantPermissionRequest_mutable_perm(g, a);
        etcdserverpb_AuthRoleGrantPermissionRequest_set_name(g, word(f, 1));
        authpb_Permission_set_permType(p, has(f, "READ")    ? authpb_Permission_READ
                                          : has(f, "WRITE") ? authpb_Permission_WRITE
                                                            : authpb_Permission_READWRITE);
        authpb_Permission_set_key(p, word(f, 3));
        authpb_Permission_set_range_end(p, end(f, 4));
    } else if (has(f, "forbid")) {
        etcdserverpb_AuthRoleRevokePermissionRequest *g =
            thole_kv_v1_Command_mutable_auth_role_revoke_permission(m, a);
        etcdserverpb_AuthRoleRevokePermissionRequest_set_role(g, word(f, 1));
        etcdserverpb_AuthRoleRevokePermissionRequest_set_key(g, word(f, 2));
        etcdserverpb_AuthRoleRevokePermissionRequest_set_range_end(g, end(f, 3));
    } else {
        return false;
    }
    return true;
}

static bool build_user_command(struct fixture *f, thole_kv_v1_Command *m)
{
    upb_Arena *a = f->arena;

    if (has(f, "enable")) {
        uint8_t *key = upb_Arena_Malloc(a, 32);
        memset(key, f->count > 1 ? f->words[1][0] : '0', 32);
        thole_kv_v1_AuthEnable_set_key(thole_kv_v1_Command_mutable_auth_enable(m, a),
                                       (upb_StringView){(const char *)key, 32});
    } else if (has(f, "disable")) {
        thole_kv_v1_Command_mutable_auth_disable(m, a);
    } else if (has(f, "user-add")) {
        etcdserverpb_AuthUserAddRequest *u = thole_kv_v1_Command_mutable_auth_user_add(m, a);
        etcdserverpb_AuthUserAddRequest_set_name(u, word(f, 1));
        if (f->count > 2) {
            etcdserverpb_AuthUserAddRequest_set_hashedPassword(u, hash_of(f, word(f, 2)));
        } else {
            authpb_UserAddOptions_set_no_password(
                etcdserverpb_AuthUserAddRequest_mutable_options(u, a), true);
        }
    } else if (has(f, "user-delete")) {
        etcdserverpb_AuthUserDeleteRequest_set_name(
            thole_kv_v1_Command_mutable_auth_user_delete(m, a), word(f, 1));
    } else if (has(f, "password")) {
        etcdserverpb_AuthUserChangePasswordRequest *u =
            thole_kv_v1_Command_mutable_auth_user_change_password(m, a);
        etcdserverpb_AuthUserChangePasswordRequest_set_name(u, word(f, 1));
        etcdserverpb_AuthUserChangePasswordRequest_set_hashedPassword(u, hash_of(f, word(f, 2)));
    } else if (has(f, "role-grant")) {
        etcdserverpb_AuthUserGrantRoleRequest *g =
            thole_kv_v1_Command_mutable_auth_user_grant_role(m, a);
        etcdserverpb_AuthUserGrantRoleRequest_set_user(g, word(f, 1));
        etcdserverpb_AuthUserGrantRoleRequest_set_role(g, word(f, 2));
    } else if (has(f, "role-revoke")) {
        etcdserverpb_AuthUserRevokeRoleRequest *g =
            thole_kv_v1_Command_mutable_auth_user_revoke_role(m, a);
        etcdserverpb_AuthUserRevokeRoleRequest_set_name(g, word(f, 1));
        etcdserverpb_AuthUserRevokeRoleRequest_set_role(g, word(f, 2));
    } else {
        return false;
    }
    return true;
}

static uint64_t query(struct fixture *f, const thole_kv_v1_Query *m);

static upb_StringView salt_of(struct fixture *f, upb_StringView name)
{
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(f->arena);

    thole_kv_v1_SaltRequest_set_name(thole_kv_v1_Query_mutable_salt(q, f->arena), name);
    if (query(f, q) != 0) { /* auth is disabled */
        return upb_StringView_FromString(SALT);
    }
    const thole_kv_v1_SaltResponse *m =
        PROTO_DECODE(thole_kv_v1_SaltResponse, bytes_slice(&f->out), f->arena);
    assert_non_null(m);
    return thole_kv_v1_SaltResponse_salt(m);
}

static thole_kv_v1_Query *build_query(struct fixture *f)
{
    upb_Arena *a = f->arena;
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(a);

    if (has(f, "get")) {
        etcdserverpb_RangeRequest *r = thole_kv_v1_Query_mutable_range(q, a);
        etcdserverpb_RangeRequest_set_key(r, word(f, 1));
        etcdserverpb_RangeRequest_set_range_end(r, end(f, 2));
    } else if (has(f, "ttl")) {
        etcdserverpb_LeaseTimeToLiveRequest_set_ID(
            thole_kv_v1_Query_mutable_lease_time_to_live(q, a), 7);
    } else if (has(f, "leases")) {
        thole_kv_v1_Query_mutable_lease_leases(q, a);
    } else if (has(f, "hash")) {
        thole_kv_v1_Query_mutable_hash_kv(q, a);
    } else if (has(f, "alarms")) {
        thole_kv_v1_Query_mutable_alarm(q, a);
    } else if (has(f, "status")) {
        thole_kv_v1_Query_mutable_status(q, a);
    } else if (has(f, "user-get")) {
        etcdserverpb_AuthUserGetRequest_set_name(thole_kv_v1_Query_mutable_auth_user_get(q, a),
                                                 word(f, 1));
    } else if (has(f, "role-get")) {
        etcdserverpb_AuthRoleGetRequest_set_role(thole_kv_v1_Query_mutable_auth_role_get(q, a),
                                                 word(f, 1));
    } else if (has(f, "user-list")) {
        thole_kv_v1_Query_mutable_auth_user_list(q, a);
    } else if (has(f, "role-list")) {
        thole_kv_v1_Query_mutable_auth_role_list(q, a);
    } else if (has(f, "salt")) {
        thole_kv_v1_SaltRequest_set_name(thole_kv_v1_Query_mutable_salt(q, a), word(f, 1));
    } else {
        assert_true(has(f, "login"));
        thole_kv_v1_LoginRequest *l = thole_kv_v1_Query_mutable_login(q, a);
        thole_kv_v1_LoginRequest_set_name(l, word(f, 1));
        upb_StringView salt = f->count > 3 ? word(f, 3) : salt_of(f, word(f, 1));
        thole_kv_v1_LoginRequest_set_hash(l, hash_with(f, salt, word(f, 2)));
        thole_kv_v1_LoginRequest_set_expire_ms(l, f->expire_ms);
    }
    return q;
}

static struct slice with_marker(struct fixture *f, const char *data, size_t size)
{
    uint8_t *p = upb_Arena_Malloc(f->arena, size + 1);

    p[0] = 0;
    if (size > 0) {
        memcpy(p + 1, data, size);
    }
    return slice_of(p, size + 1);
}

static uint64_t query(struct fixture *f, const thole_kv_v1_Query *m)
{
    struct thole_status st = {0};
    struct test_sink sink;
    size_t n = 0;
    void *view = NULL;
    char *data = thole_kv_v1_Query_serialize(m, f->arena, &n);
    struct slice q = with_marker(f, data, n);

    test_sink_init(&sink);
    assert_int_equal(f->t.type->view_acquire(f->t.m, &view, NULL), THOLE_OK);
    enum thole_code code =
        f->t.type->query(f->t.m, view, (struct thole_slice){q.data, q.size}, &sink.base, &st);
    /* The same rights for an answer in pieces, if the query can have one. */
    void *reader = NULL;
    enum thole_code opened =
        f->t.type->read_open(f->t.m, view, (struct thole_slice){q.data, q.size}, &reader, NULL);
    assert_true(opened == code || (opened == THOLE_OK && (reader == NULL || code == THOLE_OK)));
    if (reader != NULL) {
        f->t.type->read_close(f->t.m, reader);
    }
    f->t.type->view_release(f->t.m, view);
    bytes_clear(&f->out);
    bytes_append_slice(&f->out, code == THOLE_OK ? bytes_slice(&sink.out) : slice_str(st.message));
    bytes_deinit(&sink.out);
    return code;
}

/* The answer or the message is in f->out. */
static uint64_t say_with(struct fixture *f, struct slice token, const char *sentence)
{
    thole_kv_v1_Command *m = thole_kv_v1_Command_new(f->arena);
    upb_StringView sender = {(const char *)token.data, token.size};
    size_t n = 0;

    f->count = sscanf(sentence, "%31s %31s %31s %31s %31s %31s", f->words[0], f->words[1],
                      f->words[2], f->words[3], f->words[4], f->words[5]);
    if (build_txn(f, m) || build_role_command(f, m) || build_user_command(f, m) ||
        build_key_command(f, m)) {
        thole_kv_v1_Command_set_token(m, sender);
        char *data = thole_kv_v1_Command_serialize(m, f->arena, &n);
        return test_apply(&f->t, with_marker(f, data, n), &f->out);
    }
    thole_kv_v1_Query *q = build_query(f);
    thole_kv_v1_Query_set_token(q, sender);
    return query(f, q);
}

/* `who`: the first letter counts; "": nobody. `expected` "": it is done. */
static void say(struct fixture *f, const char *who, const char *sentence, const char *expected)
{
    char got[256] = "";
    uint64_t code = say_with(f, f->tokens[who[0] & 127], sentence);

    if (code != 0) {
        snprintf(got, sizeof got, "%d %.*s", (int)code, (int)f->out.size,
                 (const char *)f->out.data);
    }
    if (strcmp(got, expected) != 0) {
        fail_msg("%s: %s: \"%s\" instead of \"%s\"", who, sentence, got, expected);
    }
}

static void log_in_until(struct fixture *f, const char *who, const char *password, uint64_t ms)
{
    char sentence[64];

    f->expire_ms = ms;
    snprintf(sentence, sizeof sentence, "login %s %s", who, password);
    say(f, "", sentence, "");
    const thole_kv_v1_LoginResponse *answer =
        PROTO_DECODE(thole_kv_v1_LoginResponse, bytes_slice(&f->out), f->arena);
    assert_non_null(answer);
    upb_StringView token = thole_kv_v1_LoginResponse_token(answer);
    f->tokens[who[0] & 127] = slice_of(token.data, token.size);
}

static void log_in(struct fixture *f, const char *who, const char *password)
{
    log_in_until(f, who, password, NOW_MS);
}

/* root, and alice with role "r"; auth is enabled. */
static void enable(struct fixture *f)
{
    static const char *const steps[] = {"user-add root secret", "role-grant root root",
                                        "user-add alice word",  "role-add r",
                                        "role-grant alice r",   "enable"};

    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        say(f, "", steps[i], "");
    }
    log_in(f, "root", "secret");
    log_in(f, "alice", "word");
}

/* ---- Management ------------------------------------------------------------------------------ */

static void test_kv_auth_users_and_roles_are_managed_in_etcds_words(void **state)
{
    static const struct {
        const char *sentence, *expected;
    } steps[] = {
        {"enable", "9 etcdserver: root user does not exist"},
        {"user-add root secret", ""},
        {"user-add root other", "9 etcdserver: user name already exists"},
        {"enable", "9 etcdserver: root user does not have root role"},
        {"role-grant root nothing", NO_ROLE},
        {"role-grant bob root", NO_USER},
        {"role-grant root root", ""},
        {"role-grant root root", ""},
        {"role-add r", ""},
        {"role-add r", "9 etcdserver: role name already exists"},
        {"role-delete x", NO_ROLE},
        {"user-add bob word", ""},
        {"role-revoke bob r", "9 etcdserver: role is not granted to the user"},
        {"role-grant bob r", ""},
        {"role-revoke bob r", ""},
        {"role-revoke eve r", NO_USER},
        {"user-delete eve", NO_USER},
        {"password eve word", NO_USER},
        {"password bob other", ""},
        {"allow x READ a", NO_ROLE},
        {"allow r READ b a", BAD_MANAGEMENT},
        {"allow r READ a b", ""},
        {"forbid r a", "9 etcdserver: permission is not granted to the role"},
        {"forbid x a b", NO_ROLE},
        {"forbid r a b", ""},
        {"user-get eve", NO_USER},
        {"role-get x", NO_ROLE},
        {"login bob other", "9 etcdserver: authentication is not enabled"},
        {"salt bob", "9 etcdserver: authentication is not enabled"},
        {"enable", ""},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        say(f, "", steps[i].sentence, steps[i].expected);
    }
    log_in(f, "root", "secret");
    say(f, "root", "user-delete root", BAD_MANAGEMENT);
    say(f, "root", "role-delete root", BAD_MANAGEMENT);
    say(f, "root", "role-revoke root root", BAD_MANAGEMENT);
    say(f, "root", "user-add nobody", "");
    say(f, "", "login nobody x", BAD_PASSWORD); /* has no password */
    say(f, "", "login bob wrong", BAD_PASSWORD);
    say(f, "", "login eve wrong", BAD_PASSWORD);
    /* A hash of before, or one that anybody made: the same for those who do not exist. */
    say(f, "", "login bob wrong $2b$04$yyyyyyyyyyyyyyyyyyyyyy", OTHER_SALT);
    say(f, "", "login eve wrong $2b$04$yyyyyyyyyyyyyyyyyyyyyy", OTHER_SALT);
}

/* "name name" of the repeated field 2, which lists have. */
static void expect_list(struct fixture *f, const char *sentence, const char *expected)
{
    struct bytes seen = {0};
    size_t n = 0;

    say(f, "root", sentence, "");
    const etcdserverpb_AuthUserListResponse *m =
        PROTO_DECODE(etcdserverpb_AuthUserListResponse, bytes_slice(&f->out), f->arena);
    assert_non_null(m);
    const upb_StringView *list = etcdserverpb_AuthUserListResponse_users(m, &n);
    for (size_t i = 0; i < n; i++) {
        bytes_printf(&seen, "%s%.*s", i > 0 ? " " : "", (int)list[i].size, list[i].data);
    }
    if (!slice_equal(bytes_slice(&seen), slice_str(expected))) {
        fail_msg("%s: %.*s instead of %s", sentence, (int)seen.size, (const char *)seen.data,
                 expected);
    }
    bytes_deinit(&seen);
}

static void test_kv_auth_is_in_snapshots_and_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct bytes snapshot = {0};

    enable(f);
    say(f, "root", "allow r READWRITE a b", "");
    say(f, "root", "role-add q", "");
    say(f, "root", "role-grant alice q", "");
    test_machine_reopen(&f->t);
    say(f, "alice", "put a1", "");
    test_save(&f->t, &snapshot);
    f->t.type->close(f->t.m);
    f->t.env.generation++;
    assert_int_equal(f->t.type->open(&f->t.env, &f->t.m, NULL), THOLE_OK);
    assert_int_equal(test_restore(&f->t, bytes_slice(&snapshot), 0, NULL), THOLE_OK);
    bytes_deinit(&snapshot);
    say(f, "alice", "put a1", "");
    say(f, "alice", "put c", DENIED);
    expect_list(f, "user-list", "alice root");
    expect_list(f, "role-list", "q r");
    expect_list(f, "user-get alice", "q r");
    say(f, "root", "role-delete q", "");
    expect_list(f, "user-get alice", "r"); /* a deleted role leaves its users */
}

static void test_kv_auth_refuses_what_is_too_much(void **state)
{
    struct fixture *f = *state;
    char sentence[64];

    say(f, "", "user-add u word", "");
    for (int i = 0; i <= 1000; i++) {
        snprintf(sentence, sizeof sentence, "role-add r%d", i);
        say(f, "", sentence, i < 1000 ? "" : "8 a store has at most 1000 roles");
    }
    for (int i = 0; i <= 100; i++) {
        snprintf(sentence, sizeof sentence, "role-grant u r%d", i);
        say(f, "", sentence, i < 100 ? "" : "8 a user has at most 100 roles");
    }
    for (int i = 0; i <= 1000; i++) {
        snprintf(sentence, sizeof sentence, "allow r0 READ k%d", i);
        say(f, "", sentence,
            i < 1000 ? "" : "8 a role has at most 1000 permissions, and 256 KiB of their keys");
    }
}

static void test_kv_auth_takes_no_password_and_no_weak_key(void **state)
{
    struct fixture *f = *state;
    thole_kv_v1_Command *m = thole_kv_v1_Command_new(f->arena);
    etcdserverpb_AuthUserAddRequest *u = thole_kv_v1_Command_mutable_auth_user_add(m, f->arena);
    size_t n = 0;

    etcdserverpb_AuthUserAddRequest_set_name(u, upb_StringView_FromString("bob"));
    etcdserverpb_AuthUserAddRequest_set_password(u, upb_StringView_FromString("plain"));
    char *data = thole_kv_v1_Command_serialize(m, f->arena, &n);
    assert_int_equal(test_apply(&f->t, with_marker(f, data, n), &f->out), THOLE_INVALID_ARGUMENT);
    etcdserverpb_AuthUserAddRequest_set_hashedPassword(
        u, hash_of(f, upb_StringView_FromString("plain")));
    data = thole_kv_v1_Command_serialize(m, f->arena, &n);
    assert_int_equal(test_apply(&f->t, with_marker(f, data, n), &f->out), THOLE_INVALID_ARGUMENT);

    thole_kv_v1_AuthEnable_set_key(thole_kv_v1_Command_mutable_auth_enable(m, f->arena),
                                   upb_StringView_FromString("short"));
    data = thole_kv_v1_Command_serialize(m, f->arena, &n);
    assert_int_equal(test_apply(&f->t, with_marker(f, data, n), &f->out), THOLE_INVALID_ARGUMENT);
}

/* ---- Rights ---------------------------------------------------------------------------------- */

static void test_kv_auth_nobody_may_do_anything(void **state)
{
    static const char *const sentences[] = {
        "get a",         "put a",          "delete a",      "txn if a",       "txn then get a",
        "grant",         "revoke",         "keep-alive",    "compact",        "alarm",
        "ttl",           "leases",         "hash",          "alarms",         "user-list",
        "role-list",     "user-get alice", "role-get r",    "user-add x",     "role-add x",
        "disable",       "enable",         "user-get root", "txn else put a", "password alice x",
        "role-delete r", "allow r READ a",
    };
    struct fixture *f = *state;

    enable(f);
    for (size_t i = 0; i < sizeof sentences / sizeof sentences[0]; i++) {
        say(f, "", sentences[i], NOBODY);
    }
    test_text(&f->t, "put a 1", THOLE_INVALID_ARGUMENT, "error: etcdserver: user name is empty");
    test_ask(&f->t, "get a", NULL);
    say(f, "", "status", "");
    say(f, "root", "disable", "");
    say(f, "", "put a", "");
    test_text(&f->t, "get a", 0, "");
}

static void test_kv_auth_roles_give_ranges_of_keys(void **state)
{
    static const struct {
        const char *sentence, *expected;
    } steps[] = {
        /* READ c to f and f to k, READWRITE k, WRITE m and all after x */
        {"get c", ""},
        {"get c k", ""}, /* the two touch */
        {"get c kz", DENIED},
        {"get d e", ""},
        {"get b", DENIED},
        {"get b d", DENIED},
        {"get k", ""},
        {"get k0", DENIED},
        {"get c zero", DENIED},
        {"get m", DENIED},
        {"put c", DENIED},
        {"put k", ""},
        {"put k prev", ""},
        {"put m", ""},
        {"put m prev", DENIED},
        {"put m0", DENIED},
        {"put xyz", ""},
        {"delete x zero", ""},
        {"delete w zero", DENIED},
        {"delete x zero prev", DENIED},
        {"delete x y", ""},
        {"delete k prev", ""},
        {"txn if c", ""},
        {"txn if m", DENIED},
        {"txn then get c", ""},
        {"txn else get b", DENIED}, /* both branches count */
        {"txn then put m", ""},
        {"txn then put c", DENIED},
        {"txn then delete m", ""},
        {"txn else delete c", DENIED},
        {"txn nested get b", DENIED},
        {"txn nested get c", ""},
        {"txn then add k", ""},
        {"txn then add m", DENIED}, /* the answer has the value */
        {"txn then add c", DENIED},
        {"compact", DENIED},
        {"hash", DENIED},
        {"alarm", DENIED},
        {"alarms", ""},
        {"user-list", DENIED},
        {"user-get root", DENIED},
        {"user-get alice", ""},
        {"role-get r", ""},
        {"role-get root", DENIED},
        {"password alice mine", DENIED},
        {"role-grant alice root", DENIED},
        {"disable", DENIED},
    };
    struct fixture *f = *state;

    enable(f);
    say(f, "alice", "get c", DENIED);
    say(f, "root", "role-add q", "");
    say(f, "root", "role-grant alice q", "");
    say(f, "root", "allow r READ c f", "");
    say(f, "root", "allow q READ f k", "");
    say(f, "root", "allow q READWRITE k", "");
    say(f, "root", "allow r WRITE m", "");
    say(f, "root", "allow r WRITE x zero", "");
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        say(f, "alice", steps[i].sentence, steps[i].expected);
        say(f, "", steps[i].sentence, NOBODY);
    }
    say(f, "root", "get zero zero", "");
    say(f, "root", "allow r READ k", ""); /* of another role */
    say(f, "alice", "put k", "");
    say(f, "root", "allow q READ k", ""); /* replaces READWRITE */
    say(f, "alice", "put k", DENIED);
    say(f, "root", "role-revoke alice r", "");
    say(f, "alice", "get c", DENIED);
    say(f, "alice", "get g", "");
}

static void test_kv_auth_leases_are_as_their_keys(void **state)
{
    struct fixture *f = *state;

    enable(f);
    say(f, "root", "allow r READWRITE a", "");
    say(f, "root", "allow r READ b", "");
    say(f, "alice", "grant", "");
    say(f, "alice", "put a lease", "");
    say(f, "alice", "keep-alive", "");
    say(f, "alice", "ttl", "");
    say(f, "root", "put b lease", "");
    say(f, "alice", "ttl", "");
    say(f, "alice", "leases", "");
    say(f, "alice", "put a lease", DENIED); /* b is attached, which alice may not write */
    say(f, "alice", "txn then put a lease", DENIED);
    say(f, "alice", "keep-alive", DENIED);
    say(f, "alice", "revoke", DENIED);
    say(f, "root", "put c lease", "");
    say(f, "alice", "ttl", DENIED);
    say(f, "alice", "leases", DENIED);
    say(f, "", "revoke", NOBODY);
    say(f, "root", "revoke", "");
    say(f, "alice", "revoke", "5 etcdserver: requested lease not found");
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static void test_kv_auth_tokens_end(void **state)
{
    struct fixture *f = *state;

    enable(f);
    say(f, "root", "allow r READWRITE a", "");
    say(f, "alice", "put a", "");
    say(f, "root", "password alice other", "");
    say(f, "alice", "put a", BAD_TOKEN);
    say(f, "alice", "get a", BAD_TOKEN);
    say(f, "alice", "status", ""); /* which looks at no token */
    log_in(f, "alice", "other");
    say(f, "alice", "put a", "");
    say(f, "root", "user-delete alice", "");
    say(f, "alice", "put a", BAD_TOKEN);
    say(f, "root", "user-add alice other", "");
    say(f, "alice", "put a", BAD_TOKEN);
    f->tokens['o'] = f->tokens['r'];
    say(f, "root", "disable", "");
    say(f, "alice", "put a", ""); /* any token, while auth is disabled */
    say(f, "", "enable 2", "");
    log_in(f, "root", "secret");
    say(f, "alice", "put a", BAD_TOKEN);
    say(f, "old", "put a", BAD_TOKEN); /* root's, signed with the key before */

    /* Time is the log's. */
    uint8_t payload[512] = {0};
    struct test_sink sink;
    struct slice token = f->tokens['r'];
    thole_kv_v1_Command *m = thole_kv_v1_Command_new(f->arena);
    size_t n = 0;
    etcdserverpb_PutRequest_set_key(thole_kv_v1_Command_mutable_put(m, f->arena),
                                    upb_StringView_FromString("a"));
    thole_kv_v1_Command_set_token(m, (upb_StringView){(const char *)token.data, token.size});
    char *data = thole_kv_v1_Command_serialize(m, f->arena, &n);
    memcpy(payload + 1, data, n);
    for (uint64_t now = NOW_MS - 1; now <= NOW_MS; now++) {
        struct thole_entry e = test_entry(++f->t.index, slice_of(payload, n + 1), &sink);
        e.now_ms = now;
        struct thole_apply batch = test_batch(&e, 1);
        assert_int_equal(f->t.type->apply(f->t.m, &batch, NULL), THOLE_OK);
        assert_int_equal(e.code, now < NOW_MS ? THOLE_OK : THOLE_UNAUTHENTICATED);
        bytes_deinit(&sink.out);
    }
}

static void test_kv_auth_forged_tokens_are_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t forged[512];

    enable(f);
    struct slice token = f->tokens['r'];
    memcpy(forged, token.data, token.size);
    assert_int_equal(say_with(f, slice_of(forged, token.size), "put a"), 0);
    for (size_t i = 0; i < token.size * 8; i++) {
        forged[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_int_equal(say_with(f, slice_of(forged, token.size), "put a"), THOLE_UNAUTHENTICATED);
        forged[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t size = 1; size < token.size; size++) {
        assert_int_equal(say_with(f, slice_of(forged, size), "put a"), THOLE_UNAUTHENTICATED);
    }
    /* A store of another shard has the same key, by a restore. */
    f->t.env.shard_id++;
    test_machine_reopen(&f->t);
    assert_int_equal(say_with(f, token, "put a"), THOLE_UNAUTHENTICATED);
}

static void test_kv_auth_salts_do_not_tell_who_exists(void **state)
{
    struct fixture *f = *state;
    struct bytes first = {0};

    enable(f);
    say(f, "", "salt alice", "");
    bytes_append_slice(&first, bytes_slice(&f->out));
    say(f, "", "salt eve", "");
    assert_int_equal(f->out.size, first.size);
    bytes_clear(&first);
    bytes_append_slice(&first, bytes_slice(&f->out));
    say(f, "", "salt eve", "");
    assert_true(slice_equal(bytes_slice(&first), bytes_slice(&f->out)));
    const thole_kv_v1_SaltResponse *m =
        PROTO_DECODE(thole_kv_v1_SaltResponse, bytes_slice(&first), f->arena);
    upb_StringView salt = thole_kv_v1_SaltResponse_salt(m);
    assert_true(password_is_salt(slice_of(salt.data, salt.size)));
    say(f, "", "salt mallory", "");
    assert_false(slice_equal(bytes_slice(&first), bytes_slice(&f->out)));
    bytes_deinit(&first);
}

/* ---- Watches --------------------------------------------------------------------------------- */

static uint64_t events_with(struct fixture *f, struct slice token, const char *key, const char *to)
{
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(f->arena);
    thole_kv_v1_EventsRequest *e = thole_kv_v1_Query_mutable_events(q, f->arena);

    thole_kv_v1_EventsRequest_set_key(e, upb_StringView_FromString(key));
    thole_kv_v1_EventsRequest_set_range_end(e, upb_StringView_FromString(to));
    thole_kv_v1_EventsRequest_set_start_revision(e, 1);
    thole_kv_v1_Query_set_token(q, (upb_StringView){(const char *)token.data, token.size});
    return query(f, q);
}

static uint64_t events(struct fixture *f, const char *who, const char *key)
{
    return events_with(f, f->tokens[who[0] & 127], key, "");
}

static void test_kv_auth_changes_are_shown_to_those_who_may_read(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(events(f, "", "a"), 0);
    enable(f);
    say(f, "root", "allow r READ a", "");
    assert_int_equal(events(f, "", "a"), THOLE_INVALID_ARGUMENT);
    assert_int_equal(events(f, "alice", "a"), 0);
    assert_int_equal(events(f, "alice", "b"), THOLE_PERMISSION_DENIED);
    assert_int_equal(events(f, "root", "b"), 0);
}

/* May the holder watch "a", "b", and from a to d? "CODE CODE CODE"; `*ret` is the ticket. */
static const char *permit(struct fixture *f, struct slice token, struct slice *ret)
{
    static const char *const ranges[][2] = {{"a", ""}, {"b", ""}, {"a", "d"}};
    static char said[64];
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(f->arena);
    thole_kv_v1_PermitRequest *m = thole_kv_v1_Query_mutable_permit(q, f->arena);
    size_t n = 0;

    for (size_t i = 0; i < 3; i++) {
        thole_kv_v1_PermitRequest_Range *r = thole_kv_v1_PermitRequest_add_ranges(m, f->arena);
        thole_kv_v1_PermitRequest_Range_set_key(r, upb_StringView_FromString(ranges[i][0]));
        thole_kv_v1_PermitRequest_Range_set_range_end(r, upb_StringView_FromString(ranges[i][1]));
    }
    thole_kv_v1_Query_set_token(q, (upb_StringView){(const char *)token.data, token.size});
    assert_int_equal(query(f, q), 0);
    const thole_kv_v1_PermitResponse *answer =
        PROTO_DECODE(thole_kv_v1_PermitResponse, bytes_slice(&f->out), f->arena);
    assert_non_null(answer);
    const uint32_t *codes = thole_kv_v1_PermitResponse_codes(answer, &n);
    assert_int_equal(n, 3);
    snprintf(said, sizeof said, "%u %u %u", codes[0], codes[1], codes[2]);
    upb_StringView ticket = thole_kv_v1_PermitResponse_ticket(answer);
    *ret = slice_of(ticket.data, ticket.size);
    return said;
}

static void assert_seen(struct fixture *f, struct slice ticket, const char *keys)
{
    char seen[64] = "";
    size_t n = 0;

    assert_int_equal(events_with(f, ticket, "a", "z"), 0);
    const thole_kv_v1_EventsResponse *answer =
        PROTO_DECODE(thole_kv_v1_EventsResponse, bytes_slice(&f->out), f->arena);
    assert_non_null(answer);
    const mvccpb_Event *const *all = thole_kv_v1_EventsResponse_events(answer, &n);
    for (size_t i = 0; i < n; i++) {
        upb_StringView key = mvccpb_KeyValue_key(mvccpb_Event_kv(all[i]));
        size_t at = strlen(seen);
        snprintf(seen + at, sizeof seen - at, "%.*s", (int)key.size, key.data);
    }
    assert_string_equal(seen, keys);
    assert_int_equal(thole_kv_v1_EventsResponse_next_revision(answer),
                     thole_kv_v1_EventsResponse_current_revision(answer) + 1);
}

static void test_kv_auth_a_ticket_shows_what_its_user_may_read_now(void **state)
{
    struct fixture *f = *state;
    const struct slice none = {0};
    struct slice ticket, again, of_root;

    say(f, "", "put a", "");
    say(f, "", "put b", "");
    say(f, "", "put c", "");
    assert_string_equal(permit(f, none, &ticket), "0 0 0");
    assert_int_equal(ticket.size, 0);
    enable(f);
    say(f, "root", "allow r READ a", "");
    assert_string_equal(permit(f, none, &ticket), "3 3 3");
    assert_string_equal(permit(f, slice_of("x", 1), &ticket), "16 16 16");
    assert_int_equal(ticket.size, 0);
    assert_string_equal(permit(f, f->tokens['r'], &of_root), "0 0 0");
    assert_seen(f, of_root, "abc");
    assert_string_equal(permit(f, f->tokens['a'], &ticket), "0 7 7");
    assert_seen(f, ticket, "a");
    log_in(f, "alice", "word");
    assert_string_equal(permit(f, f->tokens['a'], &again), "0 7 7");
    assert_true(slice_equal(again, ticket) && !slice_equal(of_root, ticket));
    /* It opens nothing else. */
    assert_int_equal(say_with(f, ticket, "get a"), THOLE_UNAUTHENTICATED);
    assert_int_equal(say_with(f, of_root, "put a"), THOLE_UNAUTHENTICATED);
    assert_int_equal(say_with(f, of_root, "user-list"), THOLE_UNAUTHENTICATED);
    /* The rights of now. */
    say(f, "root", "allow r READ a zero", "");
    assert_string_equal(permit(f, ticket, &again), "0 0 0");
    assert_seen(f, ticket, "abc");
    say(f, "root", "role-revoke alice r", "");
    assert_string_equal(permit(f, ticket, &again), "7 7 7");
    assert_seen(f, ticket, "");
    say(f, "root", "role-grant alice r", "");
    assert_seen(f, ticket, "abc");
}

static void test_kv_auth_a_ticket_outlives_its_token_only(void **state)
{
    struct fixture *f = *state;
    struct slice ticket, none;

    enable(f);
    say(f, "root", "allow r READ a", "");
    say(f, "root", "put a", "");
    (void)permit(f, f->tokens['a'], &ticket);
    /* The time at which the token ends. */
    struct test_sink sink;
    struct thole_entry e = test_entry(++f->t.index, slice_str("x"), &sink);
    e.now_ms = NOW_MS;
    struct thole_apply batch = test_batch(&e, 1);
    assert_int_equal(f->t.type->apply(f->t.m, &batch, NULL), THOLE_OK);
    bytes_deinit(&sink.out);
    assert_int_equal(events(f, "alice", "a"), THOLE_UNAUTHENTICATED);
    assert_seen(f, ticket, "a");
    uint8_t forged[512];
    memcpy(forged, ticket.data, ticket.size);
    for (size_t i = 0; i < ticket.size; i++) {
        forged[i] ^= 1;
        assert_int_equal(events_with(f, slice_of(forged, ticket.size), "a", ""),
                         THOLE_UNAUTHENTICATED);
        forged[i] ^= 1;
    }
    log_in_until(f, "root", "secret", NOW_MS + 1);
    say(f, "root", "password alice other", "");
    assert_int_equal(events_with(f, ticket, "a", ""), THOLE_UNAUTHENTICATED);
    assert_string_equal(permit(f, ticket, &none), "16 16 16");
    say(f, "root", "disable", "");
    assert_seen(f, ticket, "a");
    say(f, "", "enable 2", "");
    assert_int_equal(events_with(f, ticket, "a", ""), THOLE_UNAUTHENTICATED);
}

/* The engine's watches know no users: they hear that something changed, and not what. */
static void test_kv_auth_events_of_the_engine_say_nothing(void **state)
{
    struct fixture *f = *state;
    thole_kv_v1_Command *m = thole_kv_v1_Command_new(f->arena);
    struct test_watch watch;
    struct test_sink sink;
    size_t n = 0;

    enable(f);
    etcdserverpb_PutRequest *p = thole_kv_v1_Command_mutable_put(m, f->arena);
    etcdserverpb_PutRequest_set_key(p, upb_StringView_FromString("secret"));
    struct slice token = f->tokens['r'];
    thole_kv_v1_Command_set_token(m, (upb_StringView){(const char *)token.data, token.size});
    char *data = thole_kv_v1_Command_serialize(m, f->arena, &n);
    struct thole_entry e = test_entry(++f->t.index, with_marker(f, data, n), &sink);
    struct thole_apply batch = test_batch(&e, 1);
    test_watch_init(&watch);
    batch.watch = &watch.base;
    assert_int_equal(f->t.type->apply(f->t.m, &batch, NULL), THOLE_OK);
    assert_int_equal(e.code, 0);
    assert_int_equal(watch.count, 1);
    assert_int_equal(watch.events[0].index, f->t.index);
    assert_string_equal(watch.events[0].key, "");
    assert_null(memmem(watch.events[0].event->data, watch.events[0].event->size, "secret", 6));
    test_watch_clear(&watch);
    bytes_deinit(&sink.out);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_kv_auth_users_and_roles_are_managed_in_etcds_words),
        TEST(test_kv_auth_is_in_snapshots_and_after_a_restart),
        TEST(test_kv_auth_refuses_what_is_too_much),
        TEST(test_kv_auth_takes_no_password_and_no_weak_key),
        TEST(test_kv_auth_nobody_may_do_anything),
        TEST(test_kv_auth_roles_give_ranges_of_keys),
        TEST(test_kv_auth_leases_are_as_their_keys),
        TEST(test_kv_auth_tokens_end),
        TEST(test_kv_auth_forged_tokens_are_refused),
        TEST(test_kv_auth_salts_do_not_tell_who_exists),
        TEST(test_kv_auth_events_of_the_engine_say_nothing),
        TEST(test_kv_auth_changes_are_shown_to_those_who_may_read),
        TEST(test_kv_auth_a_ticket_shows_what_its_user_may_read_now),
        TEST(test_kv_auth_a_ticket_outlives_its_token_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
