/* Messages of thole.bus.v1 to and from bytes. upb decodes. Frequent messages are encoded by hand,
 * as a prefix followed by the body without a copy; upb at the other side decodes the result. */
#include <string.h>

#include "bus/bus_internal.h"
#include "proto/decode.h"
#include "proto/status_decode.h"
#include "thole/bus/v1/bus.upb.h"

/* Field tags: number << 3 | wire type (0: varint, 2: bytes). */
enum {
    TAG_HELLO = 1 << 3 | 2, /* of LaneMessage, LaneReply, ExchangeMessage, Ask... */
    TAG_LANE_BODY = 2 << 3 | 2,
    TAG_ITEMS = 2 << 3 | 2,
    TAG_ITEM_ID = 1 << 3,
    TAG_ITEM_METHOD = 2 << 3,
    TAG_ITEM_BODY = 3 << 3 | 2,
    TAG_ITEM_TIMEOUT = 4 << 3,
    TAG_ITEM_MORE = 5 << 3,
    TAG_ITEM_CANCEL = 6 << 3,
    TAG_ITEM_FAILURE = 7 << 3 | 2,
    TAG_ASK_METHOD = 2 << 3,
    TAG_ASK_BODY = 3 << 3 | 2,
    TAG_ANSWER_BODY = 2 << 3 | 2,
};

static upb_StringView view(const void *data, size_t size)
{
    return upb_StringView_FromDataAndSize(data, size);
}

/* Bytes of a decoded message, as part of its input. Even when aliasing, upb copies strings that end
 * in the last few bytes of the input into the arena; equal bytes anywhere in the input are as
 * good. */
static struct slice within(struct slice in, upb_StringView v)
{
    const uint8_t *data = (const uint8_t *)v.data;
    if (v.size == 0) {
        return (struct slice){in.data, 0};
    }
    if (data >= in.data && data < in.data + in.size) {
        return (struct slice){data, v.size};
    }
    size_t tail = in.size < 128 ? in.size : 128;
    const uint8_t *found = memmem(in.data + in.size - tail, tail, v.data, v.size);
    if (found == NULL) {
        found = memmem(in.data, in.size, v.data, v.size);
    }
    ASSERT(found != NULL);
    return (struct slice){found, v.size};
}

/* ---- Hello ----------------------------------------------------------------------------------- */

void bus__hello_append(struct bytes *out, const struct bus *b, uint32_t lane,
                       const struct uuid *callee)
{
    struct uuid cluster;
    bus__cluster((struct bus *)(uintptr_t)b, &cluster);
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_Hello *h = thole_bus_v1_Hello_new(arena);
    if (!uuid_is_nil(&b->o.host_id)) {
        thole_bus_v1_Hello_set_host_id(h, view(b->o.host_id.bytes, 16));
    }
    if (!uuid_is_nil(&cluster)) {
        thole_bus_v1_Hello_set_cluster_id(h, view(cluster.bytes, 16));
    }
    if (callee != NULL) {
        thole_bus_v1_Hello_set_callee_host_id(h, view(callee->bytes, 16));
    }
    thole_bus_v1_Hello_set_incarnation(h, b->o.incarnation);
    thole_bus_v1_Hello_set_version(h, view(b->version, strlen(b->version)));
    if (b->advertise_address != NULL) {
        thole_bus_v1_Hello_set_address(h, view(b->advertise_address, strlen(b->advertise_address)));
    }
    thole_bus_v1_Hello_set_lane(h, (int32_t)lane);
    uint8_t lineage[LINEAGE_BYTES_MAX];
    if (b->o.lineage.start != 0) {
        thole_bus_v1_Hello_set_lineage(h, view(lineage, lineage_encode(&b->o.lineage, lineage)));
    }
    size_t size = 0;
    const char *data = thole_bus_v1_Hello_serialize(h, arena, &size);
    ASSERT(data != NULL);
    bytes_append_varint(out, TAG_HELLO);
    bytes_append_varint(out, size);
    bytes_append(out, data, size);
    upb_Arena_Free(arena);
}

static struct bufslice take(struct bytes *bytes)
{
    struct buf *buf = bytes_to_buf(bytes);
    bytes_deinit(bytes);
    return (struct bufslice){buf, {buf->data, buf->size}};
}

struct bufslice bus__hello_encode(const struct bus *b, uint32_t lane, const struct uuid *callee)
{
    struct bytes out = {0};
    bus__hello_append(&out, b, lane, callee);
    return take(&out);
}

static bool read_uuid(upb_StringView v, struct uuid *ret)
{
    memset(ret, 0, sizeof *ret);
    if (v.size == 0) {
        return true;
    }
    if (v.size != sizeof ret->bytes) {
        return false;
    }
    memcpy(ret->bytes, v.data, sizeof ret->bytes);
    return true;
}

static void read_text(upb_StringView v, char *ret, size_t size)
{
    size_t n = v.size < size - 1 ? v.size : size - 1;
    if (n > 0) {
        memcpy(ret, v.data, n);
    }
    ret[n] = '\0';
    for (size_t i = 0; i < n; i++) { /* used in log lines */
        if ((unsigned char)ret[i] < ' ' || ret[i] == 0x7f) {
            ret[i] = '?';
        }
    }
}

static bool read_hello(const thole_bus_v1_Hello *h, struct bus_hello *ret)
{
    ret->incarnation = thole_bus_v1_Hello_incarnation(h);
    ret->lane = (uint32_t)thole_bus_v1_Hello_lane(h);
    read_text(thole_bus_v1_Hello_version(h), ret->version, sizeof ret->version);
    read_text(thole_bus_v1_Hello_address(h), ret->address, sizeof ret->address);
    upb_StringView lineage = thole_bus_v1_Hello_lineage(h);
    return lineage_decode(slice_of(lineage.data, lineage.size), &ret->lineage) &&
           read_uuid(thole_bus_v1_Hello_host_id(h), &ret->host) &&
           read_uuid(thole_bus_v1_Hello_cluster_id(h), &ret->cluster) &&
           read_uuid(thole_bus_v1_Hello_callee_host_id(h), &ret->callee);
}

/* ---- Encoding by hand ------------------------------------------------------------------------ */

static void put_byte(struct bus_head *h, unsigned byte)
{
    ASSERT(h->size < sizeof h->data);
    h->data[h->size++] = (uint8_t)byte;
}

static void put_number(struct bus_head *h, uint64_t v)
{
    ASSERT(varint_size(v) <= sizeof h->data - h->size);
    h->size = (size_t)(put_varint(h->data + h->size, v) - h->data);
}

void bus__lane_head(struct bus_head *h, size_t body_size)
{
    h->size = 0;
    put_byte(h, TAG_LANE_BODY);
    put_number(h, body_size);
}

/* The fields of an item before its body (or failure), which has `rest_size` bytes. */
static void item_fields(struct bus_head *h, const struct bus_item *item, size_t rest_size)
{
    size_t size = 1 + varint_size(item->id) + rest_size;
    size += item->method ? 1 + varint_size(item->method) : 0;
    size += item->timeout_ms ? 1 + varint_size(item->timeout_ms) : 0;
    size += (item->more ? 2U : 0U) + (item->cancel ? 2U : 0U);
    h->size = 0;
    put_byte(h, TAG_ITEMS);
    put_number(h, size);
    put_byte(h, TAG_ITEM_ID);
    put_number(h, item->id);
    if (item->method) {
        put_byte(h, TAG_ITEM_METHOD);
        put_number(h, item->method);
    }
    if (item->timeout_ms) {
        put_byte(h, TAG_ITEM_TIMEOUT);
        put_number(h, item->timeout_ms);
    }
    if (item->more) {
        put_byte(h, TAG_ITEM_MORE);
        put_byte(h, 1);
    }
    if (item->cancel) {
        put_byte(h, TAG_ITEM_CANCEL);
        put_byte(h, 1);
    }
}

void bus__item_head(struct bus_head *h, const struct bus_item *item, size_t body_size)
{
    if (body_size == 0) {
        item_fields(h, item, 0);
        return;
    }
    item_fields(h, item, 1 + varint_size(body_size) + body_size);
    put_byte(h, TAG_ITEM_BODY);
    put_number(h, body_size);
}

struct bufslice bus__item_failure(uint64_t id, const struct thole_status *st)
{
    const char *reason = thole_reason_name(st->reason);
    struct bytes failure = {0};
    bytes_append_varint(&failure, 1 << 3);
    bytes_append_varint(&failure, (uint64_t)st->code);
    bytes_append_varint(&failure, 2 << 3 | 2);
    bytes_append_varint(&failure, strlen(reason));
    bytes_append_str(&failure, reason);
    bytes_append_varint(&failure, 3 << 3 | 2);
    bytes_append_varint(&failure, strlen(st->message));
    bytes_append_str(&failure, st->message);
    struct bus_head h;
    struct bus_item item = {.id = id};
    item_fields(&h, &item, 1 + varint_size(failure.size) + failure.size);
    struct bytes out = {0};
    bytes_append(&out, h.data, h.size);
    bytes_append_varint(&out, TAG_ITEM_FAILURE);
    bytes_append_varint(&out, failure.size);
    bytes_append_slice(&out, bytes_slice(&failure));
    bytes_deinit(&failure);
    return take(&out);
}

struct bufslice bus__ask_encode(const struct bus *b, const struct bus_item *item)
{
    struct bytes out = {0};
    bus__hello_append(&out, b, 0, NULL);
    if (item->method) { /* a request */
        bytes_append_varint(&out, TAG_ASK_METHOD);
        bytes_append_varint(&out, item->method);
    }
    bytes_append_varint(&out, item->method ? TAG_ASK_BODY : TAG_ANSWER_BODY);
    bytes_append_varint(&out, item->body.size);
    bytes_append_slice(&out, item->body);
    return take(&out);
}

/* ---- Decoding -------------------------------------------------------------------------------- */

#define SCRATCH_BYTES 2048 /* small messages are decoded without an allocation */
#define ALIAS kUpb_DecodeOption_AliasString

bool bus__lane_decode(struct slice in, bool *has_hello, struct bus_hello *ret_hello,
                      struct slice *ret_body)
{
    _Alignas(16) char scratch[SCRATCH_BYTES];
    upb_Arena *arena = upb_Arena_Init(scratch, sizeof scratch, &upb_alloc_global);
    const thole_bus_v1_LaneMessage *m = PROTO_DECODE_ALIAS(thole_bus_v1_LaneMessage, in, arena);
    bool ok = m != NULL;
    if (ok) {
        const thole_bus_v1_Hello *h = thole_bus_v1_LaneMessage_hello(m);
        *has_hello = h != NULL;
        *ret_body = within(in, thole_bus_v1_LaneMessage_body(m));
        if (h != NULL) {
            ok = read_hello(h, ret_hello);
        }
    }
    upb_Arena_Free(arena);
    return ok;
}

bool bus__ask_decode(struct slice in, struct bus_hello *ret_hello, struct bus_item *ret)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_AskRequest *m = PROTO_DECODE_ALIAS(thole_bus_v1_AskRequest, in, arena);
    const thole_bus_v1_Hello *h = m != NULL ? thole_bus_v1_AskRequest_hello(m) : NULL;
    bool ok = h != NULL && read_hello(h, ret_hello);
    if (ok) {
        ret->method = thole_bus_v1_AskRequest_method(m);
        ret->body = within(in, thole_bus_v1_AskRequest_body(m));
    }
    upb_Arena_Free(arena);
    return ok;
}

bool bus__answer_decode(struct slice in, struct bus_hello *ret_hello, struct slice *ret_body)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_AskReply *m = PROTO_DECODE_ALIAS(thole_bus_v1_AskReply, in, arena);
    const thole_bus_v1_Hello *h = m != NULL ? thole_bus_v1_AskReply_hello(m) : NULL;
    bool ok = h != NULL && read_hello(h, ret_hello);
    if (ok) {
        *ret_body = within(in, thole_bus_v1_AskReply_body(m));
    }
    upb_Arena_Free(arena);
    return ok;
}

static void read_failure(const thole_bus_v1_Failure *f, struct thole_status *st)
{
    upb_StringView reason = thole_bus_v1_Failure_reason(f);
    upb_StringView message = thole_bus_v1_Failure_message(f);
    proto_status_decode(thole_bus_v1_Failure_code(f), slice_of(reason.data, reason.size),
                        slice_of(message.data, message.size), st);
}

/* An item takes at least 2 bytes on the wire, and 80 when decoded. Ours have at least 8, and are
 * joined up to 1 MiB, so a small message with more items is not ours. */
#define ITEMS_MAX (2 * BUS_EXCHANGES_MAX)
static bool too_many_items(struct slice in)
{
    size_t items = 0;
    uint64_t tag = 0, size = 0;
    if (in.size <= 2 * ITEMS_MAX) {
        return false;
    }
    while (slice_take_varint(&in, &tag) && (tag & 7) == 2 && slice_take_varint(&in, &size) &&
           size <= in.size) {
        items += tag == TAG_ITEMS;
        in = slice_of(in.data + size, in.size - (size_t)size);
    }
    return items > ITEMS_MAX || in.size > 0; /* our messages have no fields of other types */
}

bool bus__exchange_decode(struct slice in, bool *has_hello, struct bus_hello *ret_hello,
                          void (*item)(void *ctx, struct bus_item *item), void *ctx)
{
    _Alignas(16) char scratch[SCRATCH_BYTES];
    upb_Arena *arena = upb_Arena_Init(scratch, sizeof scratch, &upb_alloc_global);
    const thole_bus_v1_ExchangeMessage *m =
        too_many_items(in) ? NULL : PROTO_DECODE_ALIAS(thole_bus_v1_ExchangeMessage, in, arena);
    const thole_bus_v1_Hello *h = m != NULL ? thole_bus_v1_ExchangeMessage_hello(m) : NULL;
    bool ok = m != NULL && (h == NULL || read_hello(h, ret_hello));
    *has_hello = h != NULL;
    size_t n = 0;
    const thole_bus_v1_ExchangeItem *const *items =
        ok ? thole_bus_v1_ExchangeMessage_items(m, &n) : NULL;
    for (size_t i = 0; i < n; i++) {
        struct bus_item one;
        struct thole_status failure;
        const thole_bus_v1_Failure *f = thole_bus_v1_ExchangeItem_failure(items[i]);
        one.id = thole_bus_v1_ExchangeItem_id(items[i]);
        one.method = thole_bus_v1_ExchangeItem_method(items[i]);
        one.timeout_ms = thole_bus_v1_ExchangeItem_timeout_ms(items[i]);
        one.more = thole_bus_v1_ExchangeItem_more(items[i]);
        one.cancel = thole_bus_v1_ExchangeItem_cancel(items[i]);
        one.body = within(in, thole_bus_v1_ExchangeItem_body(items[i]));
        one.failure = f != NULL ? &failure : NULL;
        if (f != NULL) {
            read_failure(f, &failure);
        }
        item(ctx, &one);
    }
    upb_Arena_Free(arena);
    return ok;
}
