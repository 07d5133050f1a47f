/* Queries: reads on a view, on any thread. */
#include "shards/machine/kv/kv_internal.h"
#include "thole/kv/v1/kv.upb.h"

/* Collects items in the form of the query: text or protobuf. Protobuf items are encoded one by one:
 * a repeated field is the concatenation of its elements, so no item is in memory twice. */
struct answer {
    const struct kv_op *op;
    struct bytes out;
};

enum { ANSWER_ITEMS_TAG = 1 << 3 | 2, ANSWER_MORE_TAG = 2 << 3, ANSWER_NEXT_TAG = 3 << 3 | 2 };
enum {
    ITEM_KEY_TAG = 1 << 3 | 2,
    ITEM_VALUE_TAG = 2 << 3 | 2,
    ITEM_CREATE_TAG = 3 << 3,
    ITEM_MOD_TAG = 4 << 3,
    ITEM_VERSION_TAG = 5 << 3,
};

static void append_number(struct bytes *out, uint8_t tag, uint64_t v)
{
    bytes_append(out, &tag, 1);
    bytes_append_varint(out, v);
}

static void append_bytes(struct bytes *out, uint8_t tag, struct slice s)
{
    append_number(out, tag, s.size);
    bytes_append_slice(out, s);
}

static void add_proto(struct bytes *out, const struct kv_item *item, bool keys_only)
{
    size_t size = 1 + varint_size(item->key.size) + item->key.size + 1 +
                  varint_size(item->create_index) + 1 + varint_size(item->mod_index) + 1 +
                  varint_size(item->version);

    if (!keys_only) {
        size += 1 + varint_size(item->value.size) + item->value.size;
    }
    append_number(out, ANSWER_ITEMS_TAG, size);
    append_bytes(out, ITEM_KEY_TAG, item->key);
    if (!keys_only) {
        append_bytes(out, ITEM_VALUE_TAG, item->value);
    }
    append_number(out, ITEM_CREATE_TAG, item->create_index);
    append_number(out, ITEM_MOD_TAG, item->mod_index);
    append_number(out, ITEM_VERSION_TAG, item->version);
}

static void add(struct answer *a, const struct kv_item *item)
{
    if (!a->op->text) {
        add_proto(&a->out, item, a->op->keys_only);
    } else if (a->op->kind == KV_GET) {
        bytes_append_slice(&a->out, item->value);
    } else {
        bytes_append_slice(&a->out, item->key);
        bytes_append_str(&a->out, " ");
        bytes_append_slice(&a->out, item->value);
        bytes_append_str(&a->out, "\n");
    }
}

static void add_more(struct answer *a, struct slice next)
{
    if (a->op->text) {
        bytes_append_str(&a->out, "(more from ");
        bytes_append_slice(&a->out, next);
        bytes_append_str(&a->out, ")\n");
    } else {
        append_number(&a->out, ANSWER_MORE_TAG, 1);
        append_bytes(&a->out, ANSWER_NEXT_TAG, next);
    }
}

static enum thole_code corrupt(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "a stored value is malformed");
}

static enum thole_code get(struct kv *kv, const struct state_view *view, struct answer *a,
                           struct thole_status *st)
{
    struct kv_item item = {.key = a->op->key};
    struct bytes key = {0};
    struct buf *stored = NULL;

    kv__user_key(&key, item.key);
    struct thole_status why = {0};
    enum thole_code code = state_get(kv->db, view, kv->space, bytes_slice(&key), &stored, &why);
    bytes_deinit(&key);
    if (code == THOLE_NOT_FOUND && !a->op->text) {
        return THOLE_OK; /* an answer without items */
    }
    if (code != THOLE_OK) {
        if (st != NULL) {
            *st = why;
        }
        return code;
    }
    if (kv__item_decode(slice_of(stored->data, stored->size), &item)) {
        add(a, &item);
    } else {
        code = corrupt(st);
    }
    buf_unref(stored);
    return code;
}

static enum thole_code range(struct kv *kv, const struct state_view *view, struct answer *a,
                             struct thole_status *st)
{
    static const uint8_t end = KV_PREFIX_USER + 1;
    struct bytes lower = {0}, upper = {0};
    struct slice stored_key, stored;
    enum thole_code code = THOLE_OK;
    uint32_t n = 0;

    kv__user_key(&lower, a->op->key);
    if (a->op->to.size > 0) {
        kv__user_key(&upper, a->op->to);
    } else {
        bytes_append(&upper, &end, 1);
    }
    struct state_iter *it =
        state_iter_new(kv->db, view, kv->space, bytes_slice(&lower), bytes_slice(&upper));
    while (code == THOLE_OK && state_iter_next(it, &stored_key, &stored)) {
        struct kv_item item = {.key = slice_of(stored_key.data + 1, stored_key.size - 1)};

        if (n > 0 && (n == a->op->limit ||
                      a->out.size + stored_key.size + stored.size > KV_RANGE_BYTES_MAX)) {
            add_more(a, item.key);
            break;
        }
        if (kv__item_decode(stored, &item)) {
            add(a, &item);
            n++;
        } else {
            code = corrupt(st);
        }
    }
    if (code == THOLE_OK) {
        code = state_iter_status(it, st);
    }
    state_iter_free(it);
    bytes_deinit(&lower);
    bytes_deinit(&upper);
    return code;
}

const char *kv__parse_query(struct thole_slice payload, upb_Arena *arena, struct kv_op *ret)
{
    struct slice in = slice_of(payload.data, payload.size);

    *ret = (struct kv_op){.text = in.size == 0 || in.data[0] != KV_PROTO_BYTE};
    return ret->text ? kv__text_query(in, ret)
                     : kv__proto_query(slice_of(in.data + 1, in.size - 1), arena, ret);
}

enum thole_code kv__query(void *machine, const void *view, struct thole_slice query,
                          struct thole_sink *answer, struct thole_status *st)
{
    struct kv *kv = machine;
    upb_Arena *arena = upb_Arena_New();
    struct kv_op op;
    struct answer a = {.op = &op};
    const char *wrong = kv__parse_query(query, arena, &op);
    enum thole_code code;

    if (wrong != NULL) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "%s", wrong);
    } else {
        code = op.kind == KV_GET ? get(kv, view, &a, st) : range(kv, view, &a, st);
    }
    if (code == THOLE_OK && a.out.size > 0) {
        code = answer->write(answer, a.out.data, a.out.size);
    }
    bytes_deinit(&a.out);
    upb_Arena_Free(arena);
    return code;
}
