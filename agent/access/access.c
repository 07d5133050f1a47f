/* See access.h. */
#include "agent/access/access.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/access/bearer.h"
#include "agent/access/rights.h"
#include "base/assert.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "proto/names.h"

#define USERS_MAX 4096 /* remembered; callers can invent names */
/* How refused calls become events: at most so many at once, and then one in this time. */
#define REPORTS_AT_ONCE 5
#define REPORT_PAUSE_NS (10 * NS_PER_S)
/* The user who is always a member of admin: who has it has a certificate that names it. */
#define ADMIN "admin"

static METRIC_DEFINE_COUNTER(metric_denied, "thole_access_denied_total",
                             "Calls refused because the user lacks a right");
static METRIC_DEFINE_COUNTER(metric_unknown, "thole_access_unauthenticated_total",
                             "Calls refused because nobody, or a bad token, made them");

enum user_kind { USER_NOBODY, USER_HOST, USER_CERTIFICATE, USER_ADMIN, USER_TOKEN };

struct access_user {
    _Atomic uint32_t refs;
    uint64_t revision; /* registry_access_revision */
    enum user_kind kind;
    char name[LIMIT_NAME_BYTES + 1];
    char token[BEARER_ID_BYTES + 1];
    int64_t expire_ms, revoked_ms; /* of the token */
    bool gone;                     /* the token has no row any more */
    struct rights rights;
};

struct access {
    struct access_options o;
    pthread_mutex_t lock; /* below */
    uint64_t revision;    /* of `users` */
    struct map users;     /* hash of kind, name and token -> struct access_user, a reference */
    uint32_t reports;     /* that may be made at once */
    uint64_t report_ns;   /* when the last one was added to them */
    uint32_t unreported;
};

/* ---- Users ----------------------------------------------------------------------------------- */

static struct access_user *user_ref(struct access_user *u)
{
    atomic_fetch_add_explicit(&u->refs, 1, memory_order_relaxed);
    return u;
}

static void user_unref(void *data)
{
    struct access_user *u = data;
    if (u != NULL && atomic_fetch_sub_explicit(&u->refs, 1, memory_order_acq_rel) == 1) {
        rights_deinit(&u->rights);
        free(u);
    }
}

static void users_clear(struct access *a)
{
    size_t it = 0;
    struct access_user *u;
    while ((u = map_next(&a->users, &it, NULL)) != NULL) {
        user_unref(u);
    }
    map_deinit(&a->users);
    a->users = (struct map){0};
}

/* Who somebody is; enough to look the rights up. */
struct who {
    enum user_kind kind;
    const char *name;
    const char *token; /* its id; "": none */
};

static uint64_t key_of(const struct who *w)
{
    return hash64(w->token, strlen(w->token), hash64(w->name, strlen(w->name), w->kind));
}

static bool is_same(const struct access_user *u, const struct who *w)
{
    return u->kind == w->kind && strcmp(u->name, w->name) == 0 && strcmp(u->token, w->token) == 0;
}

static struct access_user *user_new(const struct registry_view *v, const struct who *w)
{
    struct access_user *u = xcalloc(1, sizeof *u);
    atomic_init(&u->refs, 1);
    u->revision = registry_access_revision(v);
    u->kind = w->kind;
    snprintf(u->name, sizeof u->name, "%s", w->name);
    snprintf(u->token, sizeof u->token, "%s", w->token);
    if (w->kind == USER_TOKEN) {
        const thole_v1_Token *row = registry_token(v, slice_str(w->token));
        u->gone = row == NULL;
        u->expire_ms = row != NULL ? thole_v1_Token_expire_time_ms(row) : 0;
        u->revoked_ms = row != NULL ? thole_v1_Token_revoke_time_ms(row) : 0;
    }
    bool everything = w->kind == USER_HOST || w->kind == USER_ADMIN ||
                      (w->kind == USER_TOKEN && strcmp(w->name, ADMIN) == 0);
    rights_init(&u->rights, v, slice_str(w->kind == USER_NOBODY ? "" : w->name), everything);
    return u;
}

/* A reference. */
static struct access_user *look_up(struct access *a, const struct registry_view *v,
                                   const struct who *w)
{
    uint64_t key = key_of(w);
    uint64_t revision = registry_access_revision(v);
    pthread_mutex_lock(&a->lock);
    if (a->revision != revision || a->users.count >= USERS_MAX) {
        users_clear(a);
        a->revision = revision;
    }
    struct access_user *u = map_get(&a->users, key);
    if (u == NULL || !is_same(u, w)) {
        struct access_user *other = u;
        u = user_new(v, w);
        (void)map_put(&a->users, key, u);
        user_unref(other);
    }
    user_ref(u);
    pthread_mutex_unlock(&a->lock);
    return u;
}

/* The user with the rights of now. A reference. */
static struct access_user *refresh(struct access *a, const struct access_user *u)
{
    struct registry_view *v = registry_view_acquire(a->o.registry);
    struct access_user *now;
    if (registry_access_revision(v) == u->revision) {
        now = user_ref((struct access_user *)(uintptr_t)u);
    } else {
        now = look_up(a, v, &(struct who){u->kind, u->name, u->token});
    }
    registry_view_release(v);
    return now;
}

const char *access_actor(const struct access_user *u, char ret[static ACCESS_ACTOR_BYTES])
{
    if (u == NULL || u->kind == USER_NOBODY) {
        snprintf(ret, ACCESS_ACTOR_BYTES, "user");
    } else {
        snprintf(ret, ACCESS_ACTOR_BYTES, "%s/%s", u->kind == USER_HOST ? "host" : "user", u->name);
    }
    return ret;
}

const char *access_method(const char *path, char ret[static ACCESS_METHOD_BYTES])
{
    const char *slash = strrchr(path, '/');
    const char *from = slash;
    while (from != NULL && from > path && from[-1] != '.' && from[-1] != '/') {
        from--;
    }
    if (slash == NULL || from == slash) {
        snprintf(ret, ACCESS_METHOD_BYTES, "%s", path);
    } else {
        snprintf(ret, ACCESS_METHOD_BYTES, "%.*s.%s", (int)(slash - from), from, slash + 1);
    }
    return ret;
}

/* ---- Life ------------------------------------------------------------------------------------ */

struct access *access_new(const struct access_options *o)
{
    struct access *a = xcalloc(1, sizeof *a);
    a->o = *o;
    a->reports = REPORTS_AT_ONCE;
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

void access_free(struct access *a)
{
    if (a == NULL) {
        return;
    }
    users_clear(a);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

bool access_is_enforced(const struct access *a)
{
    return a->o.enforced;
}

/* ---- Refusals -------------------------------------------------------------------------------- */

/* May this refusal become an event? `ret_others` were refused since the last one. */
static bool may_report(struct access *a, uint32_t *ret_others)
{
    uint64_t now_ns = clock_now(a->o.clock);
    pthread_mutex_lock(&a->lock);
    if (now_ns - a->report_ns >= REPORT_PAUSE_NS) {
        uint64_t more = (now_ns - a->report_ns) / REPORT_PAUSE_NS;
        a->reports =
            more + a->reports > REPORTS_AT_ONCE ? REPORTS_AT_ONCE : a->reports + (uint32_t)more;
        a->report_ns = now_ns;
    }
    bool yes = a->reports > 0;
    *ret_others = a->unreported;
    a->reports -= yes;
    a->unreported = yes ? 0 : a->unreported + 1;
    pthread_mutex_unlock(&a->lock);
    return yes;
}

void access_report(struct access *a, const struct access_user *u, const char *address,
                   const char *path, const struct bus_denial *d)
{
    char actor[ACCESS_ACTOR_BYTES], method[ACCESS_METHOD_BYTES];
    uint32_t others = 0;
    metric_add(d->st.code == THOLE_PERMISSION_DENIED ? &metric_denied : &metric_unknown, 1);
    if (!may_report(a, &others)) {
        return;
    }
    const struct access_refusal r = {.actor = access_actor(u, actor),
                                     .address = address,
                                     .method = access_method(path, method),
                                     .why = d->st.message,
                                     .others = others};
    LOG_WARN(AGENT, "refused a call actor=%s address=%s method=%s others=%" PRIu32 " why=\"%s\"",
             r.actor, r.address, r.method, others, r.why);
    if (a->o.refused != NULL) {
        a->o.refused(a->o.ctx, &r);
    }
}

static const char *shown(const char *name)
{
    return name != NULL ? name : "?";
}

/* The first of the kinds that the user lacks. */
static int32_t first_kind(const struct access_user *u, const struct access_right *r)
{
    for (int32_t kind = 1; kind < RIGHTS_KINDS; kind++) {
        bool wanted = (r->kinds >> kind & 1) != 0;
        if (wanted && (u == NULL || !rights_allow(&u->rights, r->verb, kind, r->name))) {
            return kind;
        }
    }
    return 0;
}

/* PERMISSION_DENIED, or UNAUTHENTICATED if nobody calls: then to be somebody comes first. */
static enum thole_code lacks(const struct access_user *u, const struct access_right *r, bool some,
                             struct bus_denial *ret)
{
    char name[LIMIT_NAME_BYTES + 8] = "";
    if (r->name.size > 0) {
        snprintf(name, sizeof name, " %.*s",
                 (int)(r->name.size < LIMIT_NAME_BYTES ? r->name.size : LIMIT_NAME_BYTES),
                 (const char *)r->name.data);
    } else if (!some) {
        snprintf(name, sizeof name, " *");
    }
    if (r->data) {
        snprintf(ret->right, sizeof ret->right, "data %s of shards%s",
                 shown(proto_data_right(r->verb)), name);
    } else {
        snprintf(ret->right, sizeof ret->right, "%s of %s%s", shown(proto_role_verb(r->verb)),
                 shown(proto_role_kind(first_kind(u, r))), name);
    }
    if (u == NULL || u->kind == USER_NOBODY) {
        return THOLE_FAIL(&ret->st, THOLE_UNAUTHENTICATED, THOLE_REASON_NO_CREDENTIALS,
                          "the call needs the right \"%s\", and neither a user's certificate nor a "
                          "token came with it",
                          ret->right);
    }
    return THOLE_FAIL(&ret->st, THOLE_PERMISSION_DENIED, THOLE_REASON_NO_RIGHT,
                      "user \"%.80s\" lacks the right \"%s\"", u->name, ret->right);
}

/* ---- Who calls ------------------------------------------------------------------------------- */

static void format_time(int64_t ms, char ret[static 32])
{
    time_t at_s = (time_t)(ms / 1000);
    struct tm t;
    if (gmtime_r(&at_s, &t) == NULL || strftime(ret, 32, "%Y-%m-%dT%H:%M:%SZ", &t) == 0) {
        snprintf(ret, 32, "?");
    }
}

static enum thole_code bad_token(struct bus_denial *ret, const char *why)
{
    return THOLE_FAIL(&ret->st, THOLE_UNAUTHENTICATED, THOLE_REASON_TOKEN, "authorization: %s",
                      why);
}

/* Is the token of this user still valid? Users without one always are. */
static enum thole_code check_token(const struct access *a, const struct access_user *u,
                                   struct bus_denial *ret)
{
    char when[32];
    ASSERT(u != NULL);
    if (u->kind != USER_TOKEN) {
        return THOLE_OK;
    }
    if (u->gone) {
        return bad_token(ret, "the token is unknown");
    }
    if (u->revoked_ms != 0) {
        format_time(u->revoked_ms, when);
        return THOLE_FAIL(&ret->st, THOLE_UNAUTHENTICATED, THOLE_REASON_TOKEN,
                          "authorization: token %s of user \"%.80s\" was revoked at %s", u->token,
                          u->name, when);
    }
    if ((int64_t)a->o.clock->wall_ms(a->o.clock) >= u->expire_ms) {
        format_time(u->expire_ms, when);
        return THOLE_FAIL(&ret->st, THOLE_UNAUTHENTICATED, THOLE_REASON_TOKEN,
                          "authorization: token %s of user \"%.80s\" has expired at %s", u->token,
                          u->name, when);
    }
    return THOLE_OK;
}

/* In gRPC's notation: ipv4:127.0.0.1:1, ipv6:[::1]:1, ipv6:%5B::1%5D:1, unix:PATH */
static bool is_here(const char *peer)
{
    static const char *const prefixes[] = {
        "unix:",           "ipv4:127.",         "ipv6:[::1]:",
        "ipv6:%5B::1%5D:", "ipv6:[::ffff:127.", "ipv6:%5B::ffff:127."};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (strncmp(peer, prefixes[i], strlen(prefixes[i])) == 0) {
            return true;
        }
    }
    return false;
}

static enum thole_code user_of_token(struct access *a, const struct registry_view *v,
                                     struct bus_rpc *rpc, const struct bus_identity *id,
                                     struct access_user **ret_user, struct bus_denial *ret)
{
    struct slice text;
    struct bearer b;
    if (!id->secure && !is_here(bus_rpc_peer(rpc))) {
        return bad_token(ret, "a token is taken over TLS only: anybody on the way could read it; "
                              "it should be revoked");
    }
    if (!bearer_of_authorization(id->authorization, &text) || !bearer_parse(text, &b)) {
        return bad_token(ret, "is not \"Bearer TOKEN\" with a token of `thole token create`");
    }
    const thole_v1_Token *row = registry_token(v, slice_str(b.id));
    if (row == NULL ||
        !registry_token_matches(v, slice_str(b.id), slice_of(b.hash, sizeof b.hash))) {
        return bad_token(ret, "the token is unknown");
    }
    char name[LIMIT_NAME_BYTES + 1];
    upb_StringView user = thole_v1_Token_user(row);
    snprintf(name, sizeof name, "%.*s", (int)user.size, user.data);
    *ret_user = look_up(a, v, &(struct who){USER_TOKEN, name, b.id});
    return THOLE_OK;
}

static enum thole_code identify(struct access *a, struct bus_rpc *rpc,
                                const struct bus_identity *id, struct access_user **ret_user,
                                struct bus_denial *ret)
{
    struct registry_view *v = registry_view_acquire(a->o.registry);
    enum thole_code code = THOLE_OK;
    struct who w = {USER_NOBODY, "", ""};
    struct uuid cluster;
    if (id->kind == BUS_HOST) {
        w = (struct who){USER_HOST, id->name, ""};
    } else if (id->kind == BUS_CLIENT) {
        bool admin = id->ours && strcmp(id->name, ADMIN) == 0;
        w = (struct who){admin ? USER_ADMIN : USER_CERTIFICATE, id->name, ""};
    }
    if (id->authorization.size > 0 && !registry_view_cluster(v, &cluster)) {
        code = THOLE_FAIL(&ret->st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                          "this host has no view of the registry yet, and so knows no token: "
                          "retry, or use another host");
    } else if (id->authorization.size > 0) {
        code = user_of_token(a, v, rpc, id, ret_user, ret);
    } else {
        *ret_user = look_up(a, v, &w);
    }
    registry_view_release(v);
    return code;
}

/* ---- Rights ---------------------------------------------------------------------------------- */

static bool allows(const struct access_user *u, const struct access_right *r)
{
    return r->data ? rights_allow_data(&u->rights, r->verb, r->name) : first_kind(u, r) == 0;
}

struct slice access_etcd_shard(const struct bus_rpc *rpc)
{
    struct slice name = bus_rpc_metadata(rpc, "thole-shard");
    if (name.size == 0) {
        return slice_str(ACCESS_ETCD_SHARD);
    }
    return name.size <= LIMIT_NAME_BYTES ? name : slice_str("?"); /* no shard has that name */
}

/* `shard` is empty if the request names it. */
static enum thole_code check_data(const struct access_user *u, const struct access_rule *rule,
                                  struct slice shard, struct bus_denial *ret)
{
    const int32_t wanted[] = {rule->verb, rule->kind};
    for (size_t i = 0; i < 2 && wanted[i] != 0; i++) {
        const struct access_right right = {.data = true, .verb = wanted[i], .name = shard};
        bool ok = shard.size > 0 ? allows(u, &right) : (u->rights.data_some >> wanted[i] & 1) != 0;
        if (!ok) {
            return lacks(u, &right, true, ret);
        }
    }
    return THOLE_OK;
}

/* What a method needs before its request is read. `shard`: see check_data. */
static enum thole_code check_level(const struct access *a, const struct access_user *u,
                                   const struct access_rule *rule, struct slice shard,
                                   struct bus_denial *ret)
{
    switch (rule->level) {
    case ACCESS_PUBLIC:
    case ACCESS_BUS:
        break;
    case ACCESS_HOSTS:
        return u->kind == USER_HOST
                   ? THOLE_OK
                   : THOLE_FAIL(&ret->st, THOLE_PERMISSION_DENIED, THOLE_REASON_HOSTS_ONLY,
                                "only hosts may call this method");
    case ACCESS_REFLECTION:
    case ACCESS_USERS:
        return u->kind != USER_NOBODY ||
                       (rule->level == ACCESS_REFLECTION && a->o.reflection_for_all)
                   ? THOLE_OK
                   : THOLE_FAIL(&ret->st, THOLE_UNAUTHENTICATED, THOLE_REASON_NO_CREDENTIALS,
                                "the call needs a user's certificate or a token");
    case ACCESS_OBJECT: {
        const struct access_right right = {.verb = rule->verb, .kinds = UINT32_C(1) << rule->kind};
        bool some = (u->rights.some[rule->kind] >> rule->verb & 1) != 0;
        return some ? THOLE_OK : lacks(u, &right, true, ret);
    }
    case ACCESS_DATA:
        return check_data(u, rule, shard, ret);
    }
    return THOLE_OK;
}

/* What a stream was begun with; in bus_rpc_scratch. */
struct held {
    bool set, data;
    int32_t verb;
    uint32_t kinds;
    char name[LIMIT_NAME_BYTES + 1];
};
_Static_assert(sizeof(struct held) <= BUS_RPC_SCRATCH_BYTES, "a right fits");

static enum thole_code check_held(const struct access_user *u, struct bus_rpc *rpc,
                                  struct bus_denial *ret)
{
    const struct held *h = bus_rpc_scratch(rpc);
    const struct access_right right = {
        .data = h->data, .verb = h->verb, .kinds = h->kinds, .name = slice_str(h->name)};
    return !h->set || allows(u, &right) ? THOLE_OK : lacks(u, &right, false, ret);
}

enum thole_code access_admit(struct access *a, struct bus_rpc *rpc, const char *path,
                             struct bus_denial *ret)
{
    const struct access_rule *rule = access_rule(path);
    struct access_user *u = bus_rpc_user(rpc);
    bool again = u != NULL;
    enum thole_code code = THOLE_OK;
    struct bus_identity id;
    bus_rpc_who(rpc, &id);
    if (!a->o.enforced && rule != NULL && id.authorization.size == 0) {
        return THOLE_OK; /* nobody in particular, who may do everything */
    }
    if (again) {
        u = refresh(a, u);
    } else {
        code = identify(a, rpc, &id, &u, ret);
    }
    if (code == THOLE_OK) {
        code = check_token(a, u, ret);
    }
    if (code == THOLE_OK && rule == NULL) {
        code = THOLE_FAIL(&ret->st, THOLE_PERMISSION_DENIED, THOLE_REASON_NO_RIGHT,
                          "there is no rule for this method");
    }
    if (code == THOLE_OK && a->o.enforced) {
        ASSERT(u != NULL && rule != NULL);
        struct slice shard = rule->etcd ? access_etcd_shard(rpc) : (struct slice){0};
        code = check_level(a, u, rule, shard, ret);
    }
    if (code == THOLE_OK && a->o.enforced && again) {
        code = check_held(u, rpc, ret);
    }
    if (code != THOLE_OK && code != THOLE_UNAVAILABLE) {
        access_report(a, u, bus_rpc_peer(rpc), path, ret);
    }
    if (code == THOLE_OK && !again) {
        bus_rpc_set_user(rpc, u, user_unref);
    } else {
        user_unref(u);
    }
    return code;
}

enum thole_code access_admit_request(struct access *a, const struct access_user *u,
                                     const struct access_rule *rule, struct bus_denial *ret)
{
    const struct access_right none = {.data = true};
    ret->right[0] = '\0';
    if (!a->o.enforced) {
        return THOLE_OK;
    }
    if (u == NULL) {
        return lacks(NULL, &none, true, ret);
    }
    struct access_user *now = refresh(a, u);
    enum thole_code code = check_token(a, now, ret);
    if (code == THOLE_OK) {
        code = check_level(a, now, rule, (struct slice){0}, ret);
    }
    user_unref(now);
    return code;
}

enum thole_code access_require(struct access *a, const struct access_user *u,
                               const struct access_right *right, struct bus_denial *ret)
{
    if (!a->o.enforced) {
        return THOLE_OK;
    }
    if (u == NULL) { /* a door that let somebody in without asking */
        return lacks(NULL, right, false, ret);
    }
    struct access_user *now = refresh(a, u);
    enum thole_code code = check_token(a, now, ret);
    if (code == THOLE_OK && !allows(now, right)) {
        code = lacks(now, right, false, ret);
    }
    user_unref(now);
    return code;
}

enum thole_code access_require_of(struct access *a, struct bus_rpc *rpc,
                                  const struct access_right *right, const char *path,
                                  struct bus_denial *ret)
{
    if (!a->o.enforced) {
        return THOLE_OK;
    }
    const struct access_user *u = bus_rpc_user(rpc);
    enum thole_code code = access_require(a, u, right, ret);
    if (code != THOLE_OK) {
        /* The call has a reference, which the analyzer does not count. */
        // NOLINTNEXTLINE(clang-analyzer-unix.Malloc)
        access_report(a, u, bus_rpc_peer(rpc), path, ret);
        return code;
    }
    struct held *h = bus_rpc_scratch(rpc);
    size_t size = right->name.size < LIMIT_NAME_BYTES ? right->name.size : LIMIT_NAME_BYTES;
    h->set = true;
    h->data = right->data;
    h->verb = right->verb;
    h->kinds = right->kinds;
    if (size > 0) {
        memcpy(h->name, right->name.data, size);
    }
    h->name[size] = '\0';
    return THOLE_OK;
}
