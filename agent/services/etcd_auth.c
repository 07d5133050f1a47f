/* etcdserverpb.Auth: the calls that draw or hash something. AuthEnable draws the key of the store's
 * tokens. Passwords become hashes of bcrypt here, so that the log never has one. A log-in asks the
 * machine for the user's salt, hashes, and hands the hash in for a token (kv.proto). The other
 * calls are in etcd_service.c.
 *
 * bcrypt takes a processor for some 60 ms: two background threads do it, and few calls may wait. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <upb/encode.h>

#include "agent/services/etcd_service.h"
#include "base/assert.h"
#include "base/metrics.h"
#include "base/password.h"
#include "base/secret.h"
#include "etcd/auth.upb.h"
#include "proto/decode.h"
#include "thole/kv/v1/kv.upb.h"

#define THREADS 2
#define WAITING_MAX 64 /* calls with something to hash */
#define TRIES_MAX 3    /* of a log-in whose password changes meanwhile */
/* Tokens are not renewed by their use, so they live for longer than etcd's. What ends them earlier
 * is in the machine: another password, the user's deletion, the end of auth. */
#define TOKEN_MS (UINT64_C(24) * 60 * 60 * 1000)
#define KEY_BYTES 32

static METRIC_DEFINE_COUNTER(metric_hashed, "thole_etcd_passwords_hashed_total",
                             "Passwords of etcd's users that were hashed");
static METRIC_DEFINE_COUNTER(metric_refused, "thole_etcd_passwords_refused_total",
                             "Log-ins and new passwords refused because too many waited");

struct etcd_logins {
    struct worker *workers[THREADS];
    _Atomic uint32_t next;
    _Atomic uint32_t waiting;
};

struct auth_call {
    struct etcd_route r;
    struct bus_rpc *rpc;
    upb_Arena *arena; /* of the request */
    void *request;
    struct worker_msg msg; /* while it waits for its hash */
    _Atomic bool cancelled;
    struct slice password; /* in the arena */
    char salt[PASSWORD_SALT_CHARS + 1], hash[PASSWORD_HASH_CHARS + 1];
    void (*hashed)(struct auth_call *c, bool ok); /* not ok: bcrypt does not take the password */
    int tries;
};

/* ---- A call ---------------------------------------------------------------------------------- */

static void call_free(void *data)
{
    struct auth_call *c = data;

    upb_Arena_Free(c->arena);
    explicit_bzero(c->hash, sizeof c->hash);
    free(c);
}

static void cancelled(void *ctx)
{
    struct auth_call *c = ctx;

    atomic_store(&c->cancelled, true);
}

/* The call ends, and may be gone then. */
static void fail(struct auth_call *c, enum thole_code code, enum thole_reason reason,
                 const char *what)
{
    struct thole_status st;

    (void)THOLE_FAIL(&st, code, reason, "%s", what);
    services__etcd_fail(c->rpc, &st);
}

/* NULL: the call was failed. */
static struct auth_call *call_new(void *ctx, struct bus_rpc *rpc, const upb_MiniTable *kind,
                                  struct slice message)
{
    if (!services__etcd_hold(rpc, message.size)) {
        return NULL;
    }
    struct auth_call *c = xcalloc(1, sizeof *c);

    c->r.s = ctx;
    services__etcd_caller(&c->r, rpc);
    c->r.route.deadline_ns = services__deadline(rpc);
    c->rpc = rpc;
    c->arena = upb_Arena_New();
    c->request = proto_decode(kind, message, true, c->arena, NULL);
    bus_rpc_set_data(rpc, c, call_free);
    bus_rpc_on_cancel(rpc, cancelled, c);
    if (c->request == NULL) {
        fail(c, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "request: is malformed");
        return NULL;
    }
    return c;
}

/* The machine has answered the call. */
static void answered(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct auth_call *c = CONTAINER_OF(r, struct auth_call, r);
    struct bufslice result = r->route.result;

    if (st->code != THOLE_OK) {
        services__etcd_fail(c->rpc, st);
    } else {
        services__etcd_reply(r, c->rpc, answer);
    }
    bufslice_unref(result);
}

static void send_message(struct auth_call *c, enum router_kind kind, uint32_t field,
                         const upb_MiniTable *table, const void *message)
{
    upb_Arena *arena = upb_Arena_New();
    char *bytes = NULL;
    size_t size = 0;

    bool ok = upb_Encode(message, table, 0, arena, &bytes, &size) == kUpb_EncodeStatus_Ok;
    ASSERT(ok);
    services__etcd_send(&c->r, kind, field, slice_of(bytes, size));
    upb_Arena_Free(arena);
}

/* ---- Hashing --------------------------------------------------------------------------------- */

static void hash_one(struct etcd_logins *l, struct auth_call *c)
{
    bool late = clock_now(&clock_system) >= c->r.route.deadline_ns;

    atomic_fetch_sub(&l->waiting, 1);
    if (late || atomic_load(&c->cancelled)) { /* nobody waits any more */
        fail(c, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE, "the caller did not wait");
        return;
    }
    metric_add(&metric_hashed, 1);
    c->hashed(c, c->password.size <= PASSWORD_BYTES_MAX &&
                     password_hash(c->password, slice_str(c->salt), c->hash));
}

static uint64_t turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct worker_msg *m;

    (void)now_ns;
    while ((m = msgq_pop(batch)) != NULL) {
        hash_one(ctx, CONTAINER_OF(m, struct auth_call, msg));
    }
    return CLOCK_NEVER;
}

/* Hash the password with the salt, and then call `hashed`; or refuse the call. */
static void hash(struct auth_call *c, void (*hashed)(struct auth_call *c, bool ok))
{
    struct etcd_logins *l = c->r.s->etcd_logins;

    c->hashed = hashed;
    if (atomic_fetch_add(&l->waiting, 1) < WAITING_MAX &&
        worker_post_internal(l->workers[atomic_fetch_add(&l->next, 1) % THREADS], &c->msg)) {
        return;
    }
    atomic_fetch_sub(&l->waiting, 1);
    metric_add(&metric_refused, 1);
    fail(c, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL, "etcdserver: too many requests");
}

struct etcd_logins *services__etcd_logins_new(struct executor *executor)
{
    struct etcd_logins *l = xcalloc(1, sizeof *l);

    for (int i = 0; i < THREADS; i++) {
        l->workers[i] = worker_new_background(executor, "etcd-logins", WAITING_MAX, turn, l);
    }
    return l;
}

void services__etcd_logins_free(struct etcd_logins *l)
{
    for (int i = 0; i < THREADS; i++) {
        worker_stop(l->workers[i]);
        worker_free(l->workers[i]);
    }
    free(l);
}

/* ---- Logging in ------------------------------------------------------------------------------ */

static void ask_for_salt(struct auth_call *c);

static void give_token(struct auth_call *c, struct slice answer)
{
    const thole_kv_v1_LoginResponse *m = PROTO_DECODE(thole_kv_v1_LoginResponse, answer, c->arena);
    struct bytes header = {0}, text = {0}, out = {0};

    if (m == NULL) {
        fail(c, THOLE_INTERNAL, THOLE_REASON_NONE, "the machine's answer does not decode");
        return;
    }
    upb_StringView token = thole_kv_v1_LoginResponse_token(m);
    services__wire_varint(&header, 3, (uint64_t)thole_kv_v1_LoginResponse_revision(m));
    services__wire_bytes(&out, 1, bytes_slice(&header));
    services__base64url_encode(slice_of(token.data, token.size), &text);
    services__wire_bytes(&out, 2, bytes_slice(&text));
    services__etcd_reply(&c->r, c->rpc, bytes_slice(&out));
    bytes_deinit(&header);
    bytes_deinit(&text);
    bytes_deinit(&out);
}

static void logged_in(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct auth_call *c = CONTAINER_OF(r, struct auth_call, r);
    struct bufslice result = r->route.result;

    if (st->code == THOLE_ABORTED && ++c->tries < TRIES_MAX) {
        ask_for_salt(c);
    } else if (st->code != THOLE_OK) {
        services__etcd_fail(c->rpc, st);
    } else {
        give_token(c, answer);
    }
    bufslice_unref(result);
}

static void log_in(struct auth_call *c, bool ok)
{
    if (!ok) {
        fail(c, THOLE_INVALID_ARGUMENT, THOLE_REASON_NONE,
             "etcdserver: authentication failed, invalid user ID or password");
        return;
    }
    uint64_t now_ms = clock_system.wall_ms(&clock_system);
    thole_kv_v1_LoginRequest *m = thole_kv_v1_LoginRequest_new(c->arena);

    thole_kv_v1_LoginRequest_set_name(m, etcdserverpb_AuthenticateRequest_name(c->request));
    thole_kv_v1_LoginRequest_set_hash(m, upb_StringView_FromString(c->hash));
    thole_kv_v1_LoginRequest_set_expire_ms(m, now_ms + TOKEN_MS);
    c->r.done = logged_in;
    send_message(c, ROUTER_QUERY, thole_kv_v1_Query_op_login, &thole_kv_v1_LoginRequest_msginit, m);
}

static void salt_read(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct auth_call *c = CONTAINER_OF(r, struct auth_call, r);
    struct bufslice result = r->route.result;
    upb_Arena *arena = upb_Arena_New();
    const thole_kv_v1_SaltResponse *m =
        st->code == THOLE_OK ? PROTO_DECODE(thole_kv_v1_SaltResponse, answer, arena) : NULL;
    upb_StringView salt = m != NULL ? thole_kv_v1_SaltResponse_salt(m) : (upb_StringView){0};

    if (st->code != THOLE_OK) {
        services__etcd_fail(c->rpc, st);
    } else if (salt.data == NULL || !password_is_salt(slice_of(salt.data, salt.size))) {
        fail(c, THOLE_INTERNAL, THOLE_REASON_NONE, "the machine's salt is none");
    } else {
        memcpy(c->salt, salt.data, PASSWORD_SALT_CHARS);
        hash(c, log_in);
    }
    upb_Arena_Free(arena);
    bufslice_unref(result);
}

static void ask_for_salt(struct auth_call *c)
{
    thole_kv_v1_SaltRequest *m = thole_kv_v1_SaltRequest_new(c->arena);

    thole_kv_v1_SaltRequest_set_name(m, etcdserverpb_AuthenticateRequest_name(c->request));
    c->r.done = salt_read;
    send_message(c, ROUTER_QUERY, thole_kv_v1_Query_op_salt, &thole_kv_v1_SaltRequest_msginit, m);
}

void services__etcd_authenticate(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct auth_call *c = call_new(ctx, rpc, &etcdserverpb_AuthenticateRequest_msginit, message);

    if (c != NULL) {
        upb_StringView password = etcdserverpb_AuthenticateRequest_password(c->request);
        c->password = slice_of(password.data, password.size);
        ask_for_salt(c);
    }
}

/* ---- New passwords --------------------------------------------------------------------------- */

static void fail_password(struct auth_call *c)
{
    fail(c, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
         "etcdserver: a password has at most 72 bytes, and no zero byte");
}

static void hash_new(struct auth_call *c, upb_StringView password,
                     void (*hashed)(struct auth_call *c, bool ok))
{
    c->password = slice_of(password.data, password.size);
    c->r.done = answered;
    password_salt(c->salt);
    hash(c, hashed);
}

static void send_user(struct auth_call *c, upb_StringView hash_text)
{
    etcdserverpb_AuthUserAddRequest_set_password(c->request, (upb_StringView){0});
    etcdserverpb_AuthUserAddRequest_set_hashedPassword(c->request, hash_text);
    c->r.done = answered;
    send_message(c, ROUTER_PROPOSE, thole_kv_v1_Command_op_auth_user_add,
                 &etcdserverpb_AuthUserAddRequest_msginit, c->request);
}

static void add_user(struct auth_call *c, bool ok)
{
    if (ok) {
        send_user(c, upb_StringView_FromString(c->hash));
    } else {
        fail_password(c);
    }
}

void services__etcd_user_add(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct auth_call *c = call_new(ctx, rpc, &etcdserverpb_AuthUserAddRequest_msginit, message);

    if (c == NULL) {
        return;
    }
    const authpb_UserAddOptions *options = etcdserverpb_AuthUserAddRequest_options(c->request);
    if (options != NULL && authpb_UserAddOptions_no_password(options)) {
        send_user(c, (upb_StringView){0});
    } else {
        hash_new(c, etcdserverpb_AuthUserAddRequest_password(c->request), add_user);
    }
}

static void change_password(struct auth_call *c, bool ok)
{
    if (!ok) {
        fail_password(c);
        return;
    }
    etcdserverpb_AuthUserChangePasswordRequest_set_password(c->request, (upb_StringView){0});
    etcdserverpb_AuthUserChangePasswordRequest_set_hashedPassword(
        c->request, upb_StringView_FromString(c->hash));
    send_message(c, ROUTER_PROPOSE, thole_kv_v1_Command_op_auth_user_change_password,
                 &etcdserverpb_AuthUserChangePasswordRequest_msginit, c->request);
}

void services__etcd_change_password(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct auth_call *c =
        call_new(ctx, rpc, &etcdserverpb_AuthUserChangePasswordRequest_msginit, message);

    if (c != NULL) {
        hash_new(c, etcdserverpb_AuthUserChangePasswordRequest_password(c->request),
                 change_password);
    }
}

/* ---- AuthEnable ------------------------------------------------------------------------------ */

void services__etcd_auth_enable(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct auth_call *c = call_new(ctx, rpc, &etcdserverpb_AuthEnableRequest_msginit, message);
    uint8_t key[KEY_BYTES];

    if (c == NULL) {
        return;
    }
    thole_kv_v1_AuthEnable *m = thole_kv_v1_AuthEnable_new(c->arena);
    secret_random(key, sizeof key);
    thole_kv_v1_AuthEnable_set_key(m, (upb_StringView){(const char *)key, sizeof key});
    c->r.done = answered;
    send_message(c, ROUTER_PROPOSE, thole_kv_v1_Command_op_auth_enable,
                 &thole_kv_v1_AuthEnable_msginit, m);
}
