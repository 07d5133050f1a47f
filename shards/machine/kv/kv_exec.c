/* What each command does. */
#include "shards/machine/kv/kv_internal.h"

static void set_current(struct kv_result *r, const struct kv_cell *c, bool with_value)
{
    r->has_current = c->present;
    r->with_value = with_value;
    r->current = c->item;
}

static bool as_expected(const struct kv_op *op, const struct kv_cell *c)
{
    switch (op->expect) {
    case KV_EXPECT_ABSENT:
        return !c->present;
    case KV_EXPECT_MOD_INDEX:
        return c->present && c->item.mod_index == op->expect_index;
    case KV_EXPECT_VALUE:
        return c->present && slice_equal(c->item.value, op->expect_value);
    default:
        return false;
    }
}

static void compare_and_set(struct kv_batch *b, const struct kv_op *op, struct kv_cell *c,
                            uint64_t index, struct kv_result *r)
{
    if (!as_expected(op, c)) {
        r->code = KV_CONFLICT;
        r->error = "not as expected";
        set_current(r, c, true);
        return;
    }
    if (!op->cas_delete) {
        kv__batch_put(b, c, op->value, index);
        set_current(r, c, false);
        return;
    }
    r->counts_deleted = true;
    if (c->present) {
        kv__batch_delete(b, c, index);
        r->deleted = 1;
    }
}

enum thole_code kv__exec(struct kv_batch *b, const struct kv_op *op, uint64_t index,
                         struct kv_result *ret, struct thole_status *st)
{
    struct kv_result r = {0};
    struct kv_cell *c = NULL;
    enum thole_code code = THOLE_OK;

    if (op->kind == KV_DELETE_RANGE) {
        r.counts_deleted = true;
        code =
            kv__batch_delete_range(b, op->key, op->to, op->limit, index, &r.deleted, &r.more, st);
    } else {
        code = kv__batch_cell(b, op->key, &c, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    switch (op->kind) {
    case KV_GET:
        set_current(&r, c, true);
        if (!c->present) {
            r.code = KV_NOT_FOUND;
            r.error = "no such key";
        }
        break;
    case KV_PUT:
        kv__batch_put(b, c, op->value, index);
        set_current(&r, c, false);
        break;
    case KV_DELETE:
        r.counts_deleted = true;
        if (c->present) {
            kv__batch_delete(b, c, index);
            r.deleted = 1;
        }
        break;
    case KV_CAS:
        compare_and_set(b, op, c, index, &r);
        break;
    case KV_DELETE_RANGE:
    case KV_RANGE: /* not a command: the parsers refuse it */
    default:
        break;
    }
    *ret = r;
    return THOLE_OK;
}
