/* The protobuf form of commands, queries, results and events. */
#include "proto/decode.h"
#include "shards/machine/kv/kv_internal.h"
#include "thole/kv/v1/kv.upb.h"

static struct slice of_view(upb_StringView v)
{
    return slice_of(v.data, v.size);
}

static upb_StringView to_view(struct slice s)
{
    return upb_StringView_FromDataAndSize((const char *)s.data, s.size);
}

static const char *check_key(struct slice key)
{
    if (key.size == 0) {
        return "a key must not be empty";
    }
    return key.size > KV_KEY_BYTES_MAX ? "a key has at most 4096 bytes" : NULL;
}

static uint32_t limit_or(uint32_t limit, uint32_t otherwise)
{
    limit = limit == 0 ? otherwise : limit;
    return limit < KV_RANGE_LIMIT_MAX ? limit : KV_RANGE_LIMIT_MAX;
}

static const char *parse_cas(const thole_kv_v1_CompareAndSet *m, struct kv_op *op)
{
    op->kind = KV_CAS;
    op->key = of_view(thole_kv_v1_CompareAndSet_key(m));
    switch (thole_kv_v1_CompareAndSet_expect_case(m)) {
    case thole_kv_v1_CompareAndSet_expect_mod_index:
        op->expect = KV_EXPECT_MOD_INDEX;
        op->expect_index = thole_kv_v1_CompareAndSet_mod_index(m);
        break;
    case thole_kv_v1_CompareAndSet_expect_value:
        op->expect = KV_EXPECT_VALUE;
        op->expect_value = of_view(thole_kv_v1_CompareAndSet_value(m));
        break;
    case thole_kv_v1_CompareAndSet_expect_absent:
        op->expect = KV_EXPECT_ABSENT;
        if (!thole_kv_v1_CompareAndSet_absent(m)) {
            return "absent must be true";
        }
        break;
    case thole_kv_v1_CompareAndSet_expect_NOT_SET:
    default:
        return "compare_and_set says nothing to compare with";
    }
    switch (thole_kv_v1_CompareAndSet_change_case(m)) {
    case thole_kv_v1_CompareAndSet_change_new_value:
        op->value = of_view(thole_kv_v1_CompareAndSet_new_value(m));
        break;
    case thole_kv_v1_CompareAndSet_change_delete:
        op->cas_delete = true;
        if (!thole_kv_v1_CompareAndSet_delete(m)) {
            return "delete must be true";
        }
        break;
    case thole_kv_v1_CompareAndSet_change_NOT_SET:
    default:
        return "compare_and_set says nothing to set";
    }
    return check_key(op->key);
}

const char *kv__proto_command(struct slice in, upb_Arena *arena, struct kv_op *op)
{
    const thole_kv_v1_Command *m = PROTO_DECODE_ALIAS(thole_kv_v1_Command, in, arena);

    if (m == NULL) {
        return "not a thole.kv.v1.Command";
    }
    switch (thole_kv_v1_Command_op_case(m)) {
    case thole_kv_v1_Command_op_put:
        op->kind = KV_PUT;
        op->key = of_view(thole_kv_v1_Put_key(thole_kv_v1_Command_put(m)));
        op->value = of_view(thole_kv_v1_Put_value(thole_kv_v1_Command_put(m)));
        return check_key(op->key);
    case thole_kv_v1_Command_op_delete:
        op->kind = KV_DELETE;
        op->key = of_view(thole_kv_v1_Delete_key(thole_kv_v1_Command_delete(m)));
        return check_key(op->key);
    case thole_kv_v1_Command_op_delete_range: {
        const thole_kv_v1_DeleteRange *r = thole_kv_v1_Command_delete_range(m);
        op->kind = KV_DELETE_RANGE;
        op->key = of_view(thole_kv_v1_DeleteRange_from(r));
        op->to = of_view(thole_kv_v1_DeleteRange_to(r));
        op->limit = limit_or(thole_kv_v1_DeleteRange_limit(r), KV_RANGE_LIMIT_MAX);
        return NULL;
    }
    case thole_kv_v1_Command_op_compare_and_set:
        return parse_cas(thole_kv_v1_Command_compare_and_set(m), op);
    case thole_kv_v1_Command_op_get:
        op->kind = KV_GET;
        op->key = of_view(thole_kv_v1_Get_key(thole_kv_v1_Command_get(m)));
        return check_key(op->key);
    case thole_kv_v1_Command_op_NOT_SET:
    default:
        return "the command is empty";
    }
}

const char *kv__proto_query(struct slice in, upb_Arena *arena, struct kv_op *op)
{
    const thole_kv_v1_Query *m = PROTO_DECODE_ALIAS(thole_kv_v1_Query, in, arena);

    if (m == NULL) {
        return "not a thole.kv.v1.Query";
    }
    switch (thole_kv_v1_Query_op_case(m)) {
    case thole_kv_v1_Query_op_get:
        op->kind = KV_GET;
        op->key = of_view(thole_kv_v1_Get_key(thole_kv_v1_Query_get(m)));
        return check_key(op->key);
    case thole_kv_v1_Query_op_range: {
        const thole_kv_v1_Range *r = thole_kv_v1_Query_range(m);
        op->kind = KV_RANGE;
        op->key = of_view(thole_kv_v1_Range_from(r));
        op->to = of_view(thole_kv_v1_Range_to(r));
        op->limit = limit_or(thole_kv_v1_Range_limit(r), KV_RANGE_LIMIT);
        op->keys_only = thole_kv_v1_Range_keys_only(r);
        return NULL;
    }
    case thole_kv_v1_Query_op_NOT_SET:
    default:
        return "the query is empty";
    }
}

/* ---- Results --------------------------------------------------------------------------------- */

static void fill_item(thole_kv_v1_KeyValue *m, const struct kv_item *item, bool with_value)
{
    if (with_value) {
        thole_kv_v1_KeyValue_set_key(m, to_view(item->key));
        thole_kv_v1_KeyValue_set_value(m, to_view(item->value));
    }
    thole_kv_v1_KeyValue_set_create_index(m, item->create_index);
    thole_kv_v1_KeyValue_set_mod_index(m, item->mod_index);
    thole_kv_v1_KeyValue_set_version(m, item->version);
}

void kv__proto_result(const struct kv_result *r, upb_Arena *arena, struct bytes *out)
{
    thole_kv_v1_Result *m = thole_kv_v1_Result_new(arena);
    size_t size = 0;

    thole_kv_v1_Result_set_code(m, (int32_t)r->code);
    if (r->error != NULL) {
        thole_kv_v1_Result_set_error(m, upb_StringView_FromString(r->error));
    }
    if (r->has_current) {
        fill_item(thole_kv_v1_Result_mutable_current(m, arena), &r->current, r->with_value);
    }
    thole_kv_v1_Result_set_deleted(m, r->deleted);
    thole_kv_v1_Result_set_more(m, r->more);
    const char *data = thole_kv_v1_Result_serialize(m, arena, &size);
    bytes_clear(out);
    bytes_append(out, data, size);
}

void kv__proto_event(const struct kv_item *item, bool deleted, upb_Arena *arena, struct bytes *out)
{
    thole_kv_v1_Event *m = thole_kv_v1_Event_new(arena);
    size_t size = 0;

    thole_kv_v1_Event_set_type(m, deleted ? thole_kv_v1_Event_TYPE_DELETE
                                          : thole_kv_v1_Event_TYPE_PUT);
    fill_item(thole_kv_v1_Event_mutable_item(m, arena), item, true);
    const char *data = thole_kv_v1_Event_serialize(m, arena, &size);
    bytes_clear(out);
    bytes_append(out, data, size);
}
