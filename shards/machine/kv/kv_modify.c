/* Operations of a transaction that etcd does not have: the new value is made from the old one. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/assert.h"
#include "shards/machine/kv/kv_internal.h"

#define DIGITS_MAX 19 /* of an int64_t */

/* A decimal number with an optional minus; no locale, no spaces. An empty value is 0. */
static bool parse_number(struct slice s, int64_t *ret)
{
    bool negative = s.size > 0 && s.data[0] == '-';
    size_t i = negative ? 1 : 0;
    uint64_t v = 0;

    if (s.size - i > DIGITS_MAX || (negative && s.size == 1)) {
        return false;
    }
    for (; i < s.size; i++) {
        if (s.data[i] < '0' || s.data[i] > '9') {
            return false;
        }
        v = v * 10 + (uint64_t)(s.data[i] - '0'); /* 19 digits fit in 64 bits */
    }
    if (v > (uint64_t)INT64_MAX + negative) {
        return false;
    }
    *ret = negative ? (int64_t)(~v + 1) : (int64_t)v;
    return true;
}

const struct kv_refusal *kv__modified_value(const thole_kv_v1_ModifyRequest *m,
                                            const struct kv_item *old, struct bytes *ret)
{
    struct slice value = old != NULL ? old->value : (struct slice){0};
    int64_t now = 0, next = 0, operand;

    bytes_clear(ret);
    if (thole_kv_v1_ModifyRequest_has_append(m)) {
        struct slice more = kv__slice(thole_kv_v1_ModifyRequest_append(m));
        if (value.size + more.size > LIMIT_PAYLOAD_BYTES) {
            return &kv__value_too_large;
        }
        bytes_append_slice(ret, value);
        bytes_append_slice(ret, more);
        return NULL;
    }
    if (!parse_number(value, &now)) {
        return &kv__not_a_number;
    }
    switch (thole_kv_v1_ModifyRequest_operation_case(m)) {
    case thole_kv_v1_ModifyRequest_operation_add:
        if (__builtin_add_overflow(now, thole_kv_v1_ModifyRequest_add(m), &next)) {
            return &kv__number_out_of_range;
        }
        break;
    case thole_kv_v1_ModifyRequest_operation_min:
        operand = thole_kv_v1_ModifyRequest_min(m);
        next = old == NULL || operand < now ? operand : now;
        break;
    case thole_kv_v1_ModifyRequest_operation_max:
        operand = thole_kv_v1_ModifyRequest_max(m);
        next = old == NULL || operand > now ? operand : now;
        break;
    case thole_kv_v1_ModifyRequest_operation_append:
    case thole_kv_v1_ModifyRequest_operation_NOT_SET:
    default:
        return &kv__malformed;
    }
    bytes_printf(ret, "%" PRIi64, next);
    return NULL;
}

enum thole_code kv__do_modify(struct kv_exec *x, const thole_kv_v1_ModifyRequest *m,
                              struct bytes *out, struct thole_status *st)
{
    struct slice key = kv__slice(thole_kv_v1_ModifyRequest_key(m));
    struct kv_item old, item;
    struct bytes value = {0};
    bool found = false;
    enum thole_code code = kv__get_latest(&x->reader, key, true, x->arena, &old, &found, st);

    if (code == THOLE_OK) {
        x->refusal = kv__modified_value(m, found ? &old : NULL, &value);
        if (x->refusal == NULL) {
            kv__put(x, key, bytes_slice(&value), found ? old.lease : 0, found ? &old : NULL, &item);
            kv__wire_message(out, 1, item.encoded);
        }
    }
    bytes_deinit(&value);
    return code;
}
