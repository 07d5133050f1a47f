/* Protobuf by hand for the messages that the data path is made of. A KeyValue is encoded once, when
 * it is put; ranges, events and HashKV copy those bytes. They equal etcd's: fields in order, and
 * none that is 0 or empty. */
#include "shards/machine/kv/kv_internal.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { ITEM_KEY = 1, ITEM_CREATE, ITEM_MOD, ITEM_VERSION, ITEM_VALUE, ITEM_LEASE };
#define HEADER_FIELD 1
#define HEADER_REVISION 3

void kv__wire_number(struct bytes *out, uint32_t field, uint64_t v)
{
    if (v != 0) {
        bytes_append_varint(out, (uint64_t)field << 3 | WIRE_VARINT);
        bytes_append_varint(out, v);
    }
}

void kv__wire_message(struct bytes *out, uint32_t field, struct slice s)
{
    bytes_append_varint(out, (uint64_t)field << 3 | WIRE_BYTES);
    bytes_append_varint(out, s.size);
    bytes_append_slice(out, s);
}

void kv__wire_bytes(struct bytes *out, uint32_t field, struct slice s)
{
    if (s.size > 0) {
        kv__wire_message(out, field, s);
    }
}

void kv__wire_header(struct bytes *out, int64_t revision)
{
    uint8_t body[1 + VARINT_BYTES_MAX];

    body[0] = HEADER_REVISION << 3 | WIRE_VARINT;
    uint8_t *end = put_varint(body + 1, (uint64_t)revision);
    kv__wire_message(out, HEADER_FIELD, slice_of(body, (size_t)(end - body)));
}

void kv__wire_item(struct bytes *out, const struct kv_item *item)
{
    kv__wire_bytes(out, ITEM_KEY, item->key);
    kv__wire_number(out, ITEM_CREATE, (uint64_t)item->create);
    kv__wire_number(out, ITEM_MOD, (uint64_t)item->mod);
    kv__wire_number(out, ITEM_VERSION, (uint64_t)item->version);
    kv__wire_bytes(out, ITEM_VALUE, item->value);
    kv__wire_number(out, ITEM_LEASE, (uint64_t)item->lease);
}

bool kv__wire_item_decode(struct slice in, struct kv_item *ret)
{
    uint64_t tag, v;

    ret->key = ret->value = (struct slice){0};
    ret->create = ret->mod = ret->version = ret->lease = 0;
    while (in.size > 0) {
        if (!slice_take_varint(&in, &tag) || !slice_take_varint(&in, &v)) {
            return false;
        }
        switch (tag) {
        case ITEM_KEY << 3 | WIRE_BYTES:
            if (v > in.size || !slice_take(&in, (size_t)v, &ret->key)) {
                return false;
            }
            break;
        case ITEM_VALUE << 3 | WIRE_BYTES:
            if (v > in.size || !slice_take(&in, (size_t)v, &ret->value)) {
                return false;
            }
            break;
        case ITEM_CREATE << 3 | WIRE_VARINT:
            ret->create = (int64_t)v;
            break;
        case ITEM_MOD << 3 | WIRE_VARINT:
            ret->mod = (int64_t)v;
            break;
        case ITEM_VERSION << 3 | WIRE_VARINT:
            ret->version = (int64_t)v;
            break;
        case ITEM_LEASE << 3 | WIRE_VARINT:
            ret->lease = (int64_t)v;
            break;
        default:
            return false;
        }
    }
    return true;
}
