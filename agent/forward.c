/* Encoding of the exchanges between hosts: thole.bus.v1.Forward and ForwardReply.
 *
 * Encoding: everything but the payload goes through upb on the stack; the payload's field is put
 * behind by hand (fields of a message may come in any order), so that it is copied exactly once.
 * Decoding is by hand altogether: upb may copy short strings into its arena even when asked to alias
 * the input, and these are on the hot path, flat, and point into a body that its owner keeps. */
#include <string.h>

#include "agent/router.h"
#include "thole/bus/v1/agent.upb.h"

#define STACK_BYTES 1024
#define FORWARD_PAYLOAD_FIELD 3
#define REPLY_RESULT_FIELD 3

static upb_StringView view_of(const void *data, size_t size)
{
    return upb_StringView_FromDataAndSize(data, size);
}

static size_t varint_put(uint8_t *p, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    return n;
}

/* `head` and one more field, of bytes. */
static struct bufslice with_bytes(const char *head, size_t head_size, uint32_t field,
                                  struct slice bytes)
{
    uint8_t tag[16];
    size_t tag_size = 0;
    if (bytes.size > 0) {
        tag_size = varint_put(tag, (uint64_t)field << 3 | 2);
        tag_size += varint_put(tag + tag_size, bytes.size);
    }
    struct buf *b = buf_new(head_size + tag_size + bytes.size);
    if (head_size > 0)
        memcpy(b->data, head, head_size);
    memcpy(b->data + head_size, tag, tag_size);
    if (bytes.size > 0)
        memcpy(b->data + head_size + tag_size, bytes.data, bytes.size);
    return (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)};
}

struct bufslice forward_encode(const struct router_request *r, const char *shard_name)
{
    _Alignas(16) char stack[STACK_BYTES];
    upb_Arena *arena = upb_Arena_Init(stack, sizeof stack, &upb_alloc_global);
    thole_bus_v1_Forward *f = thole_bus_v1_Forward_new(arena);
    thole_bus_v1_Forward_set_shard_id(f, r->shard_id);
    if (shard_name)
        thole_bus_v1_Forward_set_shard_name(f, view_of(shard_name, strlen(shard_name)));
    thole_bus_v1_Forward_set_session(f, r->session);
    thole_bus_v1_Forward_set_sequence(f,
                                      r->kind == ROUTER_TRANSFER ? r->target_replica : r->sequence);
    thole_bus_v1_Forward_set_open_session(f, r->kind == ROUTER_OPEN_SESSION);
    thole_bus_v1_Forward_set_stale(f, r->stale);
    thole_bus_v1_Forward_set_max_staleness_ms(f, r->max_staleness_ms);
    thole_bus_v1_Forward_set_hops(f, r->hops);
    size_t size = 0;
    const char *head = thole_bus_v1_Forward_serialize(f, arena, &size);
    struct bufslice out = with_bytes(head, size, FORWARD_PAYLOAD_FIELD, r->payload.bytes);
    upb_Arena_Free(arena);
    return out;
}

struct bufslice forward_reply_encode(const struct forward_reply *in)
{
    _Alignas(16) char stack[STACK_BYTES];
    upb_Arena *arena = upb_Arena_Init(stack, sizeof stack, &upb_alloc_global);
    thole_bus_v1_ForwardReply *f = thole_bus_v1_ForwardReply_new(arena);
    thole_bus_v1_ForwardReply_set_code(f, in->code);
    thole_bus_v1_ForwardReply_set_index(f, in->index);
    thole_bus_v1_ForwardReply_set_duplicate(f, in->duplicate);
    if (in->failure.code != THOLE_OK) {
        const char *reason = thole_reason_name(in->failure.reason);
        thole_bus_v1_ForwardReply_set_failure_code(f, (uint32_t)in->failure.code);
        thole_bus_v1_ForwardReply_set_failure_reason(f, view_of(reason, strlen(reason)));
        thole_bus_v1_ForwardReply_set_failure_message(
            f, view_of(in->failure.message, strlen(in->failure.message)));
    }
    if (!uuid_is_nil(&in->leader_host)) {
        thole_bus_v1_ForwardReply_set_leader_term(f, in->leader_term);
        thole_bus_v1_ForwardReply_set_leader_host(f, view_of(in->leader_host.bytes, 16));
    }
    if (in->key.size > 0)
        thole_bus_v1_ForwardReply_set_key(f, view_of(in->key.data, in->key.size));
    thole_bus_v1_ForwardReply_set_bookmark(f, in->bookmark);
    size_t size = 0;
    const char *head = thole_bus_v1_ForwardReply_serialize(f, arena, &size);
    struct bufslice out = with_bytes(head, size, REPLY_RESULT_FIELD, in->result);
    upb_Arena_Free(arena);
    return out;
}

/* ---- Reading ----------------------------------------------------------------------------------- */

struct field {
    uint32_t number;
    uint64_t value;     /* varints */
    struct slice bytes; /* length-delimited */
};

/* Take one field from the front; false at the end or, with *ok cleared, on damage. Fixed-width fields
 * are none of ours, and are skipped by their size. */
static bool field_next(struct slice *in, struct field *ret, bool *ok)
{
    uint64_t tag, size = 0;
    struct slice skipped;
    if (in->size == 0)
        return false;
    memset(ret, 0, sizeof *ret);
    *ok = slice_take_varint(in, &tag) && tag >> 3 != 0 && tag >> 3 <= UINT32_MAX;
    if (!*ok)
        return false;
    ret->number = (uint32_t)(tag >> 3);
    switch (tag & 7) {
    case 0:
        *ok = slice_take_varint(in, &ret->value);
        break;
    case 1:
        *ok = slice_take(in, 8, &skipped);
        break;
    case 2:
        *ok = slice_take_varint(in, &size) && size <= in->size &&
              slice_take(in, (size_t)size, &ret->bytes);
        break;
    case 5:
        *ok = slice_take(in, 4, &skipped);
        break;
    default:
        *ok = false;
    }
    return *ok;
}

bool forward_decode(struct slice body, struct forward *ret)
{
    struct field f;
    bool ok = true;
    memset(ret, 0, sizeof *ret);
    while (field_next(&body, &f, &ok)) {
        switch (f.number) {
        case 1:
            ret->shard_id = f.value;
            break;
        case 2:
            ret->shard_name = f.bytes;
            break;
        case FORWARD_PAYLOAD_FIELD:
            ret->payload = f.bytes;
            break;
        case 4:
            ret->session = f.value;
            break;
        case 5:
            ret->sequence = f.value;
            break;
        case 6:
            ret->open_session = f.value != 0;
            break;
        case 7:
            ret->stale = f.value != 0;
            break;
        case 8:
            ret->max_staleness_ms = (uint32_t)f.value;
            break;
        case 9:
            ret->hops = (uint32_t)f.value;
            break;
        default:
            break;
        }
    }
    return ok;
}

static void read_failure(uint64_t code, struct slice reason, struct slice message,
                         struct thole_status *ret)
{
    char text[64] = "";
    if (reason.size > 0 && reason.size < sizeof text)
        memcpy(text, reason.data, reason.size);
    enum thole_code known = code <= THOLE_UNAUTHENTICATED ? (enum thole_code)code : THOLE_UNKNOWN;
    size_t n =
        message.size < THOLE_STATUS_MESSAGE_BYTES ? message.size : THOLE_STATUS_MESSAGE_BYTES;
    thole_status_set(ret, known, thole_reason_from_name(text), __FILE__, __LINE__, "%.*s", (int)n,
                     n > 0 ? (const char *)message.data : "");
}

bool forward_reply_decode(struct slice body, struct forward_reply *ret)
{
    struct field f;
    struct slice reason = {0}, message = {0};
    uint64_t failure = 0;
    bool ok = true;
    memset(ret, 0, sizeof *ret);
    while (field_next(&body, &f, &ok)) {
        switch (f.number) {
        case 1:
            ret->code = f.value;
            break;
        case 2:
            ret->index = f.value;
            break;
        case REPLY_RESULT_FIELD:
            ret->result = f.bytes;
            break;
        case 4:
            ret->duplicate = f.value != 0;
            break;
        case 5:
            failure = f.value;
            break;
        case 6:
            reason = f.bytes;
            break;
        case 7:
            message = f.bytes;
            break;
        case 8:
            ret->leader_term = f.value;
            break;
        case 9:
            if (f.bytes.size == sizeof ret->leader_host.bytes)
                memcpy(ret->leader_host.bytes, f.bytes.data, f.bytes.size);
            break;
        case 10:
            ret->key = f.bytes;
            break;
        case 11:
            ret->bookmark = f.value != 0;
            break;
        default:
            break;
        }
    }
    if (ok && failure != 0)
        read_failure(failure, reason, message, &ret->failure);
    return ok;
}
