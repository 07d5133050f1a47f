/* What a user may do, while auth is enabled. Roles give ranges of keys to read and to write; the
 * user with role root may do everything. A request may do what all its parts may: comparisons, both
 * branches, previous values, and the keys of the leases that it attaches, renews or revokes. */
#include <stdlib.h>
#include <string.h>

#include "etcd/auth.upb.h"
#include "shards/machine/kv/kv_internal.h"

/* A check: the caller, and the first refusal. */
struct check {
    const struct kv_reader *r;
    struct arena *arena; /* of the request */
    struct kv_user user;
    bool root; /* the user has role root */
    /* What the user may read and write: merged, in order; filled in when it is first needed. */
    bool loaded;
    struct kv_keys *spans[2]; /* by whether it is for writes */
    size_t span_count[2];
    const struct kv_refusal *refusal;
    struct thole_status *st;
};

/* ---- The caller ------------------------------------------------------------------------------ */

/* `with_ticket`: a ticket is as good as a token. */
static enum thole_code find_caller(struct check *k, struct slice token, bool with_ticket)
{
    struct kv_token t;
    bool found = false;

    if (token.size == 0) {
        k->refusal = &kv__user_empty;
        return THOLE_OK;
    }
    if (!kv__token_read(k->r, token, &t) || (t.ticket && !with_ticket)) {
        k->refusal = &kv__invalid_token;
        return THOLE_OK;
    }
    enum thole_code code = kv__user_get(k->r, t.name, k->arena, &k->user, &found, k->st);
    if (code != THOLE_OK || !found || t.revision < k->user.since) {
        k->refusal = &kv__invalid_token;
        return code;
    }
    k->root = kv__user_has_role(&k->user, kv__root);
    return THOLE_OK;
}

static const struct kv_refusal *must_be_root(const struct check *k)
{
    return k->root ? NULL : &kv__permission_denied;
}

/* ---- Ranges ---------------------------------------------------------------------------------- */

/* Of ends of ranges: empty is above all keys. */
static int compare_ends(struct slice a, struct slice b)
{
    return a.size == 0 || b.size == 0 ? (a.size == 0) - (b.size == 0) : slice_compare(a, b);
}

static int compare_spans(const void *a, const void *b)
{
    return slice_compare(((const struct kv_keys *)a)->from, ((const struct kv_keys *)b)->from);
}

static struct kv_keys span_of(const struct kv_permission *p, struct arena *arena)
{
    struct kv_keys keys = kv__keys_of(p->key, p->range_end);

    if (keys.one) { /* up to the next key */
        uint8_t *next = arena_alloc(arena, p->key.size + 1);
        memcpy(next, p->key.data, p->key.size);
        keys = (struct kv_keys){.from = p->key, .to = slice_of(next, p->key.size + 1)};
    }
    return keys;
}

/* Joins what overlaps or touches. */
static size_t merge(struct kv_keys *spans, size_t n)
{
    size_t kept = 0;

    qsort(spans, n, sizeof *spans, compare_spans);
    for (size_t i = 0; i < n; i++) {
        struct kv_keys *last = kept > 0 ? &spans[kept - 1] : NULL;
        if (last != NULL && compare_ends(last->to, spans[i].from) >= 0) {
            last->to = compare_ends(spans[i].to, last->to) > 0 ? spans[i].to : last->to;
        } else {
            spans[kept++] = spans[i];
        }
    }
    return kept;
}

static void collect_spans(struct check *k, const struct kv_role *roles, size_t most, bool write)
{
    int32_t type = write ? authpb_Permission_WRITE : authpb_Permission_READ;
    struct kv_keys *spans = arena_alloc(k->arena, (most + 1) * sizeof *spans);
    size_t n = 0;

    for (size_t i = 0; i < k->user.role_count; i++) {
        for (size_t at = 0; at < roles[i].count; at++) {
            const struct kv_permission *p = &roles[i].permissions[at];
            if (p->type == type || p->type == authpb_Permission_READWRITE) {
                spans[n++] = span_of(p, k->arena);
            }
        }
    }
    k->spans[write] = spans;
    k->span_count[write] = merge(spans, n);
}

static enum thole_code load(struct check *k)
{
    /* Zeroed: "root" needs no record, and gives nothing here then. */
    struct kv_role *roles = arena_alloc(k->arena, (k->user.role_count + 1) * sizeof *roles);
    enum thole_code code = THOLE_OK;
    size_t most = 0;

    for (size_t i = 0; i < k->user.role_count && code == THOLE_OK; i++) {
        bool found = false;
        code = kv__role_get(k->r, k->user.roles[i], k->arena, &roles[i], &found, k->st);
        most += roles[i].count;
    }
    if (code == THOLE_OK) {
        collect_spans(k, roles, most, false);
        collect_spans(k, roles, most, true);
        k->loaded = true;
    }
    return code;
}

static bool covered(const struct kv_keys *spans, size_t n, const struct kv_keys *keys)
{
    size_t low = 0;

    while (n > 0) { /* the last span that does not begin after the keys */
        size_t half = n / 2;
        if (slice_compare(spans[low + half].from, keys->from) <= 0) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    if (low == 0) {
        return false;
    }
    struct slice to = spans[low - 1].to;
    return compare_ends(to, keys->from) > 0 && (keys->one || compare_ends(to, keys->to) >= 0);
}

/* ---- Requests -------------------------------------------------------------------------------- */

static enum thole_code may_keys(struct check *k, const struct kv_keys *keys, bool write)
{
    enum thole_code code = THOLE_OK;

    if (k->root || k->refusal != NULL) {
        return THOLE_OK;
    }
    if (!k->loaded) {
        code = load(k);
    }
    if (code == THOLE_OK && !covered(k->spans[write], k->span_count[write], keys)) {
        k->refusal = &kv__permission_denied;
    }
    return code;
}

static enum thole_code may(struct check *k, upb_StringView key, upb_StringView range_end,
                           bool write)
{
    struct kv_keys keys = kv__keys(key, range_end);

    return may_keys(k, &keys, write);
}

static enum thole_code may_range(struct check *k, const etcdserverpb_RangeRequest *m)
{
    return may(k, etcdserverpb_RangeRequest_key(m), etcdserverpb_RangeRequest_range_end(m), false);
}

/* All keys that are attached to the lease. One that does not exist has none. */
static enum thole_code may_lease(struct check *k, int64_t id, bool write)
{
    struct slice *keys = NULL;
    size_t n = 0;

    if (k->root || k->refusal != NULL || id == 0) {
        return THOLE_OK;
    }
    enum thole_code code = kv__lease_keys(k->r, id, k->arena, &keys, &n, k->st);
    for (size_t i = 0; i < n && code == THOLE_OK && k->refusal == NULL; i++) {
        struct kv_keys one = {.from = keys[i], .one = true};
        code = may_keys(k, &one, write);
    }
    free(keys);
    return code;
}

static enum thole_code may_put(struct check *k, const etcdserverpb_PutRequest *m)
{
    upb_StringView key = etcdserverpb_PutRequest_key(m), none = {NULL, 0};
    enum thole_code code = may(k, key, none, true);

    if (code == THOLE_OK) {
        code = may_lease(k, etcdserverpb_PutRequest_lease(m), true);
    }
    return code == THOLE_OK && etcdserverpb_PutRequest_prev_kv(m) ? may(k, key, none, false) : code;
}

static enum thole_code may_delete(struct check *k, const etcdserverpb_DeleteRangeRequest *m)
{
    upb_StringView key = etcdserverpb_DeleteRangeRequest_key(m);
    upb_StringView end = etcdserverpb_DeleteRangeRequest_range_end(m);
    enum thole_code code = may(k, key, end, true);

    return code == THOLE_OK && etcdserverpb_DeleteRangeRequest_prev_kv(m) ? may(k, key, end, false)
                                                                          : code;
}

/* The answer has the value, which the change depends on. */
static enum thole_code may_modify(struct check *k, const thole_kv_v1_ModifyRequest *m)
{
    upb_StringView key = thole_kv_v1_ModifyRequest_key(m), none = {NULL, 0};
    enum thole_code code = may(k, key, none, true);

    return code == THOLE_OK ? may(k, key, none, false) : code;
}

static enum thole_code may_txn(struct check *k, const etcdserverpb_TxnRequest *m);

static enum thole_code may_operation(struct check *k, const etcdserverpb_RequestOp *op)
{
    if (etcdserverpb_RequestOp_has_request_range(op)) {
        return may_range(k, etcdserverpb_RequestOp_request_range(op));
    }
    if (etcdserverpb_RequestOp_has_request_put(op)) {
        return may_put(k, etcdserverpb_RequestOp_request_put(op));
    }
    if (etcdserverpb_RequestOp_has_request_delete_range(op)) {
        return may_delete(k, etcdserverpb_RequestOp_request_delete_range(op));
    }
    if (etcdserverpb_RequestOp_has_request_modify(op)) {
        return may_modify(k, etcdserverpb_RequestOp_request_modify(op));
    }
    return etcdserverpb_RequestOp_has_request_txn(op)
               ? may_txn(k, etcdserverpb_RequestOp_request_txn(op))
               : THOLE_OK;
}

static enum thole_code may_txn(struct check *k, const etcdserverpb_TxnRequest *m)
{
    enum thole_code code = THOLE_OK;
    size_t n = 0;
    const etcdserverpb_Compare *const *compares = etcdserverpb_TxnRequest_compare(m, &n);

    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        code = may(k, etcdserverpb_Compare_key(compares[i]),
                   etcdserverpb_Compare_range_end(compares[i]), false);
    }
    for (int branch = 0; branch < 2; branch++) {
        kv__operations ops = kv__branch(m, branch == 0, &n);
        for (size_t i = 0; i < n && code == THOLE_OK && k->refusal == NULL; i++) {
            code = may_operation(k, ops[i]);
        }
    }
    return code;
}

static bool is_alarm_get(const etcdserverpb_AlarmRequest *m)
{
    return etcdserverpb_AlarmRequest_action(m) == etcdserverpb_AlarmRequest_GET;
}

static enum thole_code check_command(struct check *k, const thole_kv_v1_Command *m)
{
    if (thole_kv_v1_Command_has_put(m)) {
        return may_put(k, thole_kv_v1_Command_put(m));
    }
    if (thole_kv_v1_Command_has_delete_range(m)) {
        return may_delete(k, thole_kv_v1_Command_delete_range(m));
    }
    if (thole_kv_v1_Command_has_txn(m)) {
        return may_txn(k, thole_kv_v1_Command_txn(m));
    }
    if (thole_kv_v1_Command_has_range(m)) {
        return may_range(k, thole_kv_v1_Command_range(m));
    }
    if (thole_kv_v1_Command_has_lease_revoke(m)) {
        return may_lease(k, etcdserverpb_LeaseRevokeRequest_ID(thole_kv_v1_Command_lease_revoke(m)),
                         true);
    }
    if (thole_kv_v1_Command_has_lease_keep_alive(m)) {
        return may_lease(
            k, etcdserverpb_LeaseKeepAliveRequest_ID(thole_kv_v1_Command_lease_keep_alive(m)),
            true);
    }
    bool anybody = thole_kv_v1_Command_has_lease_grant(m) ||
                   (thole_kv_v1_Command_has_alarm(m) && is_alarm_get(thole_kv_v1_Command_alarm(m)));
    k->refusal = anybody ? NULL : must_be_root(k);
    return THOLE_OK;
}

enum thole_code kv__permit_command(struct kv_exec *x, const thole_kv_v1_Command *m,
                                   const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    if (!x->kv->state.auth.enabled) {
        return THOLE_OK;
    }
    struct check k = {.r = &x->reader, .arena = x->arena, .st = st};
    enum thole_code code = find_caller(&k, kv__slice(thole_kv_v1_Command_token(m)), false);
    if (code == THOLE_OK && k.refusal == NULL) {
        code = check_command(&k, m);
    }
    *ret_refusal = k.refusal;
    return code;
}

/* The list shows all leases, so all that are attached must be readable. */
static enum thole_code may_list_leases(struct check *k)
{
    struct slice key, value;
    enum thole_code code = THOLE_OK;

    if (k->root) {
        return THOLE_OK;
    }
    struct state_iter *it = kv__iter_prefix(k->r, KV_PREFIX_ATTACHED, (struct slice){0});
    while (code == THOLE_OK && k->refusal == NULL && state_iter_next(it, &key, &value)) {
        struct kv_keys one = {.from = kv__attached_key(key), .one = true};
        code = may_keys(k, &one, false);
    }
    if (code == THOLE_OK) {
        code = state_iter_status(it, k->st);
    }
    state_iter_free(it);
    return code;
}

/* Queries about users and roles: root, or about the user's own user and roles. */
static const struct kv_refusal *check_auth_query(const struct check *k, const thole_kv_v1_Query *m)
{
    bool own = false;

    if (thole_kv_v1_Query_has_auth_user_get(m)) {
        own = slice_equal(
            kv__slice(etcdserverpb_AuthUserGetRequest_name(thole_kv_v1_Query_auth_user_get(m))),
            k->user.name);
    } else if (thole_kv_v1_Query_has_auth_role_get(m)) {
        own = kv__user_has_role(&k->user, kv__slice(etcdserverpb_AuthRoleGetRequest_role(
                                              thole_kv_v1_Query_auth_role_get(m))));
    }
    return own ? NULL : must_be_root(k);
}

/* Of a caller that was found. */
static bool is_ticket(const struct check *k, struct slice token)
{
    struct kv_token t;

    return kv__token_read(k->r, token, &t) && t.ticket;
}

static enum thole_code check_query(struct check *k, const thole_kv_v1_Query *m)
{
    if (thole_kv_v1_Query_has_range(m)) {
        return may_range(k, thole_kv_v1_Query_range(m));
    }
    if (thole_kv_v1_Query_has_events(m)) {
        const thole_kv_v1_EventsRequest *q = thole_kv_v1_Query_events(m);
        if (is_ticket(k, kv__slice(thole_kv_v1_Query_token(m)))) {
            return THOLE_OK; /* kv__sight_new */
        }
        return may(k, thole_kv_v1_EventsRequest_key(q), thole_kv_v1_EventsRequest_range_end(q),
                   false);
    }
    if (thole_kv_v1_Query_has_txn(m)) {
        return may_txn(k, thole_kv_v1_Query_txn(m));
    }
    if (thole_kv_v1_Query_has_lease_time_to_live(m)) {
        return may_lease(
            k, etcdserverpb_LeaseTimeToLiveRequest_ID(thole_kv_v1_Query_lease_time_to_live(m)),
            false);
    }
    if (thole_kv_v1_Query_has_lease_leases(m)) {
        return may_list_leases(k);
    }
    k->refusal = thole_kv_v1_Query_has_alarm(m) ? NULL : check_auth_query(k, m);
    return THOLE_OK;
}

/* Does the query need no token? */
static bool is_for_all(const thole_kv_v1_Query *m)
{
    return thole_kv_v1_Query_has_status(m) || thole_kv_v1_Query_has_auth_status(m) ||
           thole_kv_v1_Query_has_salt(m) || thole_kv_v1_Query_has_login(m) ||
           thole_kv_v1_Query_has_permit(m);
}

enum thole_code kv__permit_query(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                 const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    if (!r->state->auth.enabled || is_for_all(m)) {
        return THOLE_OK;
    }
    struct check k = {.r = r, .arena = arena_new(), .st = st};
    enum thole_code code =
        find_caller(&k, kv__slice(thole_kv_v1_Query_token(m)), thole_kv_v1_Query_has_events(m));
    if (code == THOLE_OK && k.refusal == NULL) {
        code = check_query(&k, m);
    }
    *ret_refusal = k.refusal;
    arena_free(k.arena);
    return code;
}

/* ---- Watchers -------------------------------------------------------------------------------- */

enum { PERMIT_CODES = 1, PERMIT_REVISION, PERMIT_AUTH, PERMIT_TICKET };
#define PERMIT_RANGES_MAX 1000

static const struct kv_refusal too_many_ranges = {THOLE_INVALID_ARGUMENT,
                                                  "permit.ranges: at most 1000"};

static enum thole_code permit(struct check *k, const thole_kv_v1_PermitRequest *m,
                              struct bytes *codes)
{
    const struct kv_refusal *nobody = k->refusal;
    enum thole_code code = THOLE_OK;
    size_t n = 0;
    const thole_kv_v1_PermitRequest_Range *const *ranges = thole_kv_v1_PermitRequest_ranges(m, &n);

    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        k->refusal = nobody;
        code = may(k, thole_kv_v1_PermitRequest_Range_key(ranges[i]),
                   thole_kv_v1_PermitRequest_Range_range_end(ranges[i]), false);
        bytes_append_varint(codes, k->refusal != NULL ? (uint64_t)k->refusal->code : 0);
    }
    k->refusal = nobody;
    return code;
}

enum thole_code kv__permit_ranges(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                  struct bytes *out, const struct kv_refusal **ret_refusal,
                                  struct thole_status *st)
{
    const thole_kv_v1_PermitRequest *q = thole_kv_v1_Query_permit(m);
    struct check k = {.r = r, .arena = arena_new(), .root = !r->state->auth.enabled, .st = st};
    struct bytes codes = {0}, ticket = {0};
    enum thole_code code = THOLE_OK;
    size_t n = 0;

    (void)thole_kv_v1_PermitRequest_ranges(q, &n);
    if (n > PERMIT_RANGES_MAX) {
        *ret_refusal = &too_many_ranges;
    } else if (r->state->auth.enabled) {
        code = find_caller(&k, kv__slice(thole_kv_v1_Query_token(m)), true);
        if (code == THOLE_OK && k.refusal == NULL) {
            kv__ticket_make(r, &k.user, &ticket);
        }
    }
    if (code == THOLE_OK && *ret_refusal == NULL) {
        code = permit(&k, q, &codes);
    }
    kv__wire_bytes(out, PERMIT_CODES, bytes_slice(&codes));
    kv__wire_number(out, PERMIT_REVISION, (uint64_t)r->revision);
    kv__wire_number(out, PERMIT_AUTH, kv__auth_revision(r));
    kv__wire_bytes(out, PERMIT_TICKET, bytes_slice(&ticket));
    bytes_deinit(&codes);
    bytes_deinit(&ticket);
    arena_free(k.arena);
    return code;
}

struct kv_sight {
    struct check check;
};

enum thole_code kv__sight_new(const struct kv_reader *r, struct slice token, struct kv_sight **ret,
                              struct thole_status *st)
{
    struct check k = {.r = r, .arena = arena_new(), .st = st};
    enum thole_code code = THOLE_OK;

    *ret = NULL;
    if (r->state->auth.enabled && is_ticket(&k, token)) {
        code = find_caller(&k, token, true);
        if (code == THOLE_OK && !k.root) {
            code = load(&k);
            *ret = xmalloc(sizeof **ret);
            (*ret)->check = k;
        }
    }
    if (*ret == NULL) {
        arena_free(k.arena);
    }
    return code;
}

bool kv__sight_has(const struct kv_sight *s, struct slice key)
{
    const struct kv_keys keys = {.from = key, .one = true};

    return s == NULL || covered(s->check.spans[0], s->check.span_count[0], &keys);
}

void kv__sight_free(struct kv_sight *s)
{
    if (s != NULL) {
        arena_free(s->check.arena);
        free(s);
    }
}
