/* Txn: compare, choose the path, check it, carry it out. Everything up to the check sees the state
 * before the transaction. What the check cannot foresee, such as a put that needs a key which an
 * earlier deletion with an open end took, is refused half way: the caller undoes it all. */
#include <stdlib.h>

#include "shards/machine/kv/kv_internal.h"

enum { TXN_SUCCEEDED = 2, TXN_RESPONSES = 3 };
enum { OP_RANGE = 1, OP_PUT, OP_DELETE, OP_TXN, OP_MODIFY = 100 };

struct txn {
    struct kv_exec *x; /* NULL: a query */
    const struct kv_reader *r;
    struct arena *arena;
    /* Which branch each transaction takes, in the order in which they are met. Their number is
     * bounded by the size of the request. */
    bool *path;
    size_t path_size, path_capacity, path_at;
    const struct kv_refusal *refusal;
    struct thole_status *st;
};

/* ---- Comparisons ----------------------------------------------------------------------------- */

static bool compare_item(const etcdserverpb_Compare *c, const struct kv_item *item)
{
    int order = 0;

    switch (etcdserverpb_Compare_target(c)) {
    case etcdserverpb_Compare_VALUE:
        order = slice_compare(item->value, kv__slice(etcdserverpb_Compare_value(c)));
        break;
    case etcdserverpb_Compare_CREATE:
        order = kv__compare_i64(item->create, etcdserverpb_Compare_create_revision(c));
        break;
    case etcdserverpb_Compare_MOD:
        order = kv__compare_i64(item->mod, etcdserverpb_Compare_mod_revision(c));
        break;
    case etcdserverpb_Compare_VERSION:
        order = kv__compare_i64(item->version, etcdserverpb_Compare_version(c));
        break;
    case etcdserverpb_Compare_LEASE:
        order = kv__compare_i64(item->lease, etcdserverpb_Compare_lease(c));
        break;
    default:
        break;
    }
    switch (etcdserverpb_Compare_result(c)) {
    case etcdserverpb_Compare_EQUAL:
        return order == 0;
    case etcdserverpb_Compare_NOT_EQUAL:
        return order != 0;
    case etcdserverpb_Compare_GREATER:
        return order > 0;
    case etcdserverpb_Compare_LESS:
        return order < 0;
    default:
        return true; /* as etcd does */
    }
}

static enum thole_code compare(struct txn *t, const etcdserverpb_Compare *c, bool *ret)
{
    struct kv_keys keys = kv__keys(etcdserverpb_Compare_key(c), etcdserverpb_Compare_range_end(c));
    bool of_value = etcdserverpb_Compare_target(c) == etcdserverpb_Compare_VALUE;
    struct kv_item item = {0};
    bool found = false;

    *ret = true;
    if (keys.one) {
        enum thole_code code =
            kv__get_latest(t->r, keys.from, of_value, t->arena, &item, &found, t->st);
        if (code == THOLE_OK) {
            *ret =
                found ? compare_item(c, &item) : !of_value && compare_item(c, &(struct kv_item){0});
        }
        return code;
    }
    struct kv_scan *scan = kv__scan_new(t->r, &keys, t->r->revision, of_value);
    while (*ret && kv__scan_next(scan, &item)) {
        found = true;
        *ret = compare_item(c, &item);
    }
    enum thole_code code = kv__scan_status(scan, t->st);
    kv__scan_free(scan);
    if (!found) {
        *ret = !of_value && compare_item(c, &(struct kv_item){0});
    }
    return code;
}

/* Decides the transaction, then those nested in the branch that it takes. */
static enum thole_code choose(struct txn *t, const etcdserverpb_TxnRequest *m)
{
    enum thole_code code = THOLE_OK;
    bool success = true;
    size_t n = 0;
    const etcdserverpb_Compare *const *compares = etcdserverpb_TxnRequest_compare(m, &n);

    for (size_t i = 0; i < n && success && code == THOLE_OK; i++) {
        code = compare(t, compares[i], &success);
    }
    if (t->path_size == t->path_capacity) {
        t->path_capacity = t->path_capacity * 2 + 8;
        t->path = xrealloc(t->path, t->path_capacity * sizeof *t->path);
    }
    t->path[t->path_size++] = success;
    kv__operations ops = kv__branch(m, success, &n);
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        if (etcdserverpb_RequestOp_has_request_txn(ops[i])) {
            code = choose(t, etcdserverpb_RequestOp_request_txn(ops[i]));
        }
    }
    return code;
}

/* ---- The check of the path ------------------------------------------------------------------- */

static enum thole_code check_put(struct txn *t, const etcdserverpb_PutRequest *m)
{
    struct kv_item item;
    struct kv_lease lease;
    bool found = true;
    enum thole_code code = THOLE_OK;

    if (etcdserverpb_PutRequest_ignore_value(m) || etcdserverpb_PutRequest_ignore_lease(m)) {
        code = kv__get_latest(t->r, kv__slice(etcdserverpb_PutRequest_key(m)), false, t->arena,
                              &item, &found, t->st);
        t->refusal = found ? t->refusal : &kv__key_not_found;
    }
    if (code == THOLE_OK && found && etcdserverpb_PutRequest_lease(m) != 0) {
        code = kv__lease_get(t->r, etcdserverpb_PutRequest_lease(m), &lease, &found, t->st);
        t->refusal = found ? t->refusal : &kv__lease_not_found;
    }
    return code;
}

static enum thole_code check_modify(struct txn *t, const thole_kv_v1_ModifyRequest *m)
{
    struct kv_item item;
    struct bytes value = {0};
    bool found = false;
    enum thole_code code = kv__get_latest(t->r, kv__slice(thole_kv_v1_ModifyRequest_key(m)), true,
                                          t->arena, &item, &found, t->st);

    if (code == THOLE_OK) {
        t->refusal = kv__modified_value(m, found ? &item : NULL, &value);
    }
    bytes_deinit(&value);
    return code;
}

static void check_range(struct txn *t, const etcdserverpb_RangeRequest *m)
{
    int64_t revision = etcdserverpb_RangeRequest_revision(m);

    if (revision > t->r->revision) {
        t->refusal = &kv__future;
    } else if (revision != 0 && revision < t->r->state->compacted) {
        t->refusal = &kv__compacted;
    }
}

/* Once for what changes, and once for ranges: first refusal in that order counts, as in etcd. */
static enum thole_code check_path(struct txn *t, const etcdserverpb_TxnRequest *m, bool ranges)
{
    enum thole_code code = THOLE_OK;
    size_t n = 0;
    kv__operations ops = kv__branch(m, t->path[t->path_at++], &n);

    for (size_t i = 0; i < n && code == THOLE_OK && t->refusal == NULL; i++) {
        if (etcdserverpb_RequestOp_has_request_txn(ops[i])) {
            code = check_path(t, etcdserverpb_RequestOp_request_txn(ops[i]), ranges);
        } else if (ranges && etcdserverpb_RequestOp_has_request_range(ops[i])) {
            check_range(t, etcdserverpb_RequestOp_request_range(ops[i]));
        } else if (!ranges && etcdserverpb_RequestOp_has_request_put(ops[i])) {
            code = check_put(t, etcdserverpb_RequestOp_request_put(ops[i]));
        } else if (!ranges && etcdserverpb_RequestOp_has_request_modify(ops[i])) {
            code = check_modify(t, etcdserverpb_RequestOp_request_modify(ops[i]));
        }
    }
    return code;
}

/* ---- The operations -------------------------------------------------------------------------- */

static enum thole_code run(struct txn *t, const etcdserverpb_TxnRequest *m, bool nested,
                           struct bytes *out);

static enum thole_code run_operation(struct txn *t, const etcdserverpb_RequestOp *op,
                                     struct bytes *out)
{
    const struct kv_refusal *refusal = NULL;
    struct bytes answer = {0}, wrapped = {0};
    enum thole_code code = THOLE_OK;
    uint32_t field = 0;

    switch (etcdserverpb_RequestOp_request_case(op)) {
    case etcdserverpb_RequestOp_request_request_range:
        field = OP_RANGE;
        code = kv__range(t->r, etcdserverpb_RequestOp_request_range(op), &answer, &refusal, t->st);
        break;
    case etcdserverpb_RequestOp_request_request_put:
        field = OP_PUT;
        code = kv__do_put(t->x, etcdserverpb_RequestOp_request_put(op), &answer, t->st);
        refusal = t->x->refusal;
        break;
    case etcdserverpb_RequestOp_request_request_delete_range:
        field = OP_DELETE;
        code = kv__do_delete(t->x, etcdserverpb_RequestOp_request_delete_range(op), &answer, t->st);
        break;
    case etcdserverpb_RequestOp_request_request_txn:
        field = OP_TXN;
        code = run(t, etcdserverpb_RequestOp_request_txn(op), true, &answer);
        refusal = t->refusal;
        break;
    case etcdserverpb_RequestOp_request_request_modify:
        field = OP_MODIFY;
        code = kv__do_modify(t->x, etcdserverpb_RequestOp_request_modify(op), &answer, t->st);
        refusal = t->x->refusal;
        break;
    case etcdserverpb_RequestOp_request_NOT_SET:
    default:
        break;
    }
    t->refusal = refusal;
    kv__wire_message(&wrapped, field, bytes_slice(&answer));
    kv__wire_message(out, TXN_RESPONSES, bytes_slice(&wrapped));
    bytes_deinit(&wrapped);
    bytes_deinit(&answer);
    return code;
}

/* Appends a TxnResponse. The header, which is first on the wire, has the revision of the end. A
 * nested one has an empty header, as etcd's. */
static enum thole_code run(struct txn *t, const etcdserverpb_TxnRequest *m, bool nested,
                           struct bytes *out)
{
    struct bytes responses = {0};
    enum thole_code code = THOLE_OK;
    bool success = t->path[t->path_at++];
    size_t n = 0;
    kv__operations ops = kv__branch(m, success, &n);

    for (size_t i = 0; i < n && code == THOLE_OK && t->refusal == NULL; i++) {
        code = run_operation(t, ops[i], &responses);
    }
    if (nested) {
        kv__wire_message(out, 1, (struct slice){0});
    } else {
        kv__wire_header(out, t->x != NULL ? kv__revision(t->x) : t->r->revision);
    }
    kv__wire_number(out, TXN_SUCCEEDED, success);
    bytes_append_slice(out, bytes_slice(&responses));
    bytes_deinit(&responses);
    return code;
}

enum thole_code kv__do_txn(struct kv_exec *x, const struct kv_reader *r,
                           const etcdserverpb_TxnRequest *m, struct bytes *out,
                           const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    struct txn t = {.x = x, .r = r, .st = st};

    if (x == NULL && !kv__txn_is_read_only(m)) {
        *ret_refusal = &kv__read_only;
        return THOLE_OK;
    }
    t.arena = arena_new();
    enum thole_code code = choose(&t, m);
    for (int ranges = 0; ranges < 2 && code == THOLE_OK && t.refusal == NULL; ranges++) {
        t.path_at = 0;
        code = check_path(&t, m, ranges != 0);
    }
    if (code == THOLE_OK && t.refusal == NULL) {
        t.path_at = 0;
        code = run(&t, m, false, out);
    }
    *ret_refusal = t.refusal;
    arena_free(t.arena);
    free(t.path);
    return code;
}
