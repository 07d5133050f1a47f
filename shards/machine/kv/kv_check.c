/* Refusals in etcd's words, and whether a request is well formed whatever the state. */
#include "shards/machine/kv/kv_internal.h"

KV_REFUSAL(kv__empty_key, INVALID_ARGUMENT, "key is not provided");
KV_REFUSAL(kv__key_not_found, INVALID_ARGUMENT, "key not found");
KV_REFUSAL(kv__value_provided, INVALID_ARGUMENT, "value is provided");
KV_REFUSAL(kv__lease_provided, INVALID_ARGUMENT, "lease is provided");
KV_REFUSAL(kv__too_many_operations, INVALID_ARGUMENT, "too many operations in txn request");
KV_REFUSAL(kv__duplicate_key, INVALID_ARGUMENT, "duplicate key given in txn request");
KV_REFUSAL(kv__bad_sort, INVALID_ARGUMENT, "invalid sort option");
KV_REFUSAL(kv__compacted, OUT_OF_RANGE, "mvcc: required revision has been compacted");
KV_REFUSAL(kv__future, OUT_OF_RANGE, "mvcc: required revision is a future revision");
KV_REFUSAL(kv__lease_not_found, NOT_FOUND, "requested lease not found");
KV_REFUSAL(kv__lease_exists, FAILED_PRECONDITION, "lease already exists");
KV_REFUSAL(kv__ttl_too_large, OUT_OF_RANGE, "too large lease TTL");
KV_REFUSAL(kv__no_space, RESOURCE_EXHAUSTED, "mvcc: database space exceeded");
KV_REFUSAL(kv__corrupt, DATA_LOSS, "corrupt cluster");
KV_REFUSAL(kv__user_empty, INVALID_ARGUMENT, "user name is empty");
KV_REFUSAL(kv__permission_denied, PERMISSION_DENIED, "permission denied");
KV_REFUSAL(kv__invalid_token, UNAUTHENTICATED, "invalid auth token");
const struct kv_refusal kv__not_a_number = {THOLE_FAILED_PRECONDITION,
                                            "the value is not a 64-bit decimal number"};
const struct kv_refusal kv__number_out_of_range = {THOLE_FAILED_PRECONDITION,
                                                   "the sum is out of the range of 64 bits"};
const struct kv_refusal kv__too_large = {THOLE_RESOURCE_EXHAUSTED,
                                         "the answer would be larger than " LIMIT_RESULT_TEXT
                                         "; nothing was changed"};
const struct kv_refusal kv__malformed = {THOLE_INVALID_ARGUMENT, "not a command of thole.kv.v1"};
const struct kv_refusal kv__too_many_alarms = {THOLE_RESOURCE_EXHAUSTED,
                                               "a store has at most 64 alarms"};
const struct kv_refusal kv__read_only = {THOLE_INVALID_ARGUMENT,
                                         "a query must not change anything"};

const struct kv_refusal kv__value_too_large = {
    THOLE_INVALID_ARGUMENT, "the value would be larger than " LIMIT_PAYLOAD_TEXT};

const struct kv_refusal *kv__check_range(const etcdserverpb_RangeRequest *m)
{
    if (etcdserverpb_RangeRequest_key(m).size == 0) {
        return &kv__empty_key;
    }
    int order = etcdserverpb_RangeRequest_sort_order(m);
    int target = etcdserverpb_RangeRequest_sort_target(m);
    return order < 0 || order > etcdserverpb_RangeRequest_DESCEND || target < 0 ||
                   target > etcdserverpb_RangeRequest_VALUE
               ? &kv__bad_sort
               : NULL;
}

const struct kv_refusal *kv__check_put(const etcdserverpb_PutRequest *m)
{
    if (etcdserverpb_PutRequest_key(m).size == 0) {
        return &kv__empty_key;
    }
    if (etcdserverpb_PutRequest_ignore_value(m) && etcdserverpb_PutRequest_value(m).size > 0) {
        return &kv__value_provided;
    }
    return etcdserverpb_PutRequest_ignore_lease(m) && etcdserverpb_PutRequest_lease(m) != 0
               ? &kv__lease_provided
               : NULL;
}

const struct kv_refusal *kv__check_delete(const etcdserverpb_DeleteRangeRequest *m)
{
    return etcdserverpb_DeleteRangeRequest_key(m).size == 0 ? &kv__empty_key : NULL;
}

/* ---- Transactions ---------------------------------------------------------------------------- */

static const struct kv_refusal *check_level(const etcdserverpb_TxnRequest *m, size_t budget,
                                            size_t *total);

static const struct kv_refusal *check_operation(const etcdserverpb_RequestOp *op, size_t budget,
                                                size_t *total)
{
    switch (etcdserverpb_RequestOp_request_case(op)) {
    case etcdserverpb_RequestOp_request_request_range:
        return kv__check_range(etcdserverpb_RequestOp_request_range(op));
    case etcdserverpb_RequestOp_request_request_put:
        return kv__check_put(etcdserverpb_RequestOp_request_put(op));
    case etcdserverpb_RequestOp_request_request_delete_range:
        return kv__check_delete(etcdserverpb_RequestOp_request_delete_range(op));
    case etcdserverpb_RequestOp_request_request_txn:
        return check_level(etcdserverpb_RequestOp_request_txn(op), budget, total);
    case etcdserverpb_RequestOp_request_request_modify: {
        const thole_kv_v1_ModifyRequest *modify = etcdserverpb_RequestOp_request_modify(op);
        return thole_kv_v1_ModifyRequest_key(modify).size == 0 ? &kv__empty_key : NULL;
    }
    case etcdserverpb_RequestOp_request_NOT_SET:
    default:
        return &kv__key_not_found; /* as etcd answers an empty operation */
    }
}

/* A nested transaction has what its parent left of the operations that a level may have. That also
 * bounds the depth. `*total` counts the comparisons and operations of all levels. */
static const struct kv_refusal *check_level(const etcdserverpb_TxnRequest *m, size_t budget,
                                            size_t *total)
{
    size_t compares = 0, successes = 0, failures = 0;
    const etcdserverpb_Compare *const *compare = etcdserverpb_TxnRequest_compare(m, &compares);
    kv__operations success = etcdserverpb_TxnRequest_success(m, &successes);
    kv__operations failure = etcdserverpb_TxnRequest_failure(m, &failures);
    const struct kv_refusal *wrong = NULL;
    size_t most = compares > successes ? compares : successes;

    most = most > failures ? most : failures;
    *total += compares + successes + failures;
    if (most > budget || *total > KV_TXN_TOTAL_MAX) {
        return &kv__too_many_operations;
    }
    for (size_t i = 0; i < compares; i++) {
        if (etcdserverpb_Compare_key(compare[i]).size == 0) {
            return &kv__empty_key;
        }
    }
    for (size_t i = 0; i < successes && wrong == NULL; i++) {
        wrong = check_operation(success[i], budget - most, total);
    }
    for (size_t i = 0; i < failures && wrong == NULL; i++) {
        wrong = check_operation(failure[i], budget - most, total);
    }
    return wrong;
}

const struct kv_refusal *kv__check_txn(const etcdserverpb_TxnRequest *m)
{
    size_t total = 0;
    const struct kv_refusal *wrong = check_level(m, KV_TXN_OPERATIONS_MAX, &total);

    for (int i = 0; i < 2 && wrong == NULL; i++) {
        size_t n = 0;
        kv__operations ops = kv__branch(m, i == 0, &n);
        wrong = kv__is_apart(ops, n, total) ? NULL : &kv__duplicate_key;
    }
    return wrong;
}

static bool operation_reads_only(const etcdserverpb_RequestOp *op)
{
    return etcdserverpb_RequestOp_has_request_range(op) ||
           (etcdserverpb_RequestOp_has_request_txn(op) &&
            kv__txn_is_read_only(etcdserverpb_RequestOp_request_txn(op)));
}

bool kv__txn_is_read_only(const etcdserverpb_TxnRequest *m)
{
    for (int branch = 0; branch < 2; branch++) {
        size_t n = 0;
        kv__operations ops = kv__branch(m, branch == 0, &n);
        for (size_t i = 0; i < n; i++) {
            if (!operation_reads_only(ops[i])) {
                return false;
            }
        }
    }
    return true;
}

static uint64_t operation_cost(const etcdserverpb_RequestOp *op)
{
    if (etcdserverpb_RequestOp_has_request_put(op)) {
        const etcdserverpb_PutRequest *m = etcdserverpb_RequestOp_request_put(op);
        return kv__change_bytes(etcdserverpb_PutRequest_key(m).size +
                                etcdserverpb_PutRequest_value(m).size);
    }
    if (etcdserverpb_RequestOp_has_request_modify(op)) {
        const thole_kv_v1_ModifyRequest *m = etcdserverpb_RequestOp_request_modify(op);
        return kv__change_bytes(thole_kv_v1_ModifyRequest_key(m).size +
                                thole_kv_v1_ModifyRequest_append(m).size);
    }
    return etcdserverpb_RequestOp_has_request_txn(op)
               ? kv__txn_cost(etcdserverpb_RequestOp_request_txn(op))
               : 0;
}

uint64_t kv__txn_cost(const etcdserverpb_TxnRequest *m)
{
    uint64_t cost[2] = {0};

    for (int branch = 0; branch < 2; branch++) {
        size_t n = 0;
        kv__operations ops = kv__branch(m, branch == 0, &n);
        for (size_t i = 0; i < n; i++) {
            cost[branch] += operation_cost(ops[i]);
        }
    }
    return cost[0] > cost[1] ? cost[0] : cost[1];
}
