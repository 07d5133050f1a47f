/* Encoding of the exchanges between hosts: thole.bus.v1.Forward and ForwardReply.
 *
 * Everything but the payload goes through upb on the stack; the payload's field is put behind by
 * hand (fields of a message may come in any order), so that it is copied exactly once. */
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

static struct slice slice_of_view(upb_StringView v)
{
    return slice_of(v.data, v.size);
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

bool forward_decode(struct slice body, struct forward *ret)
{
    _Alignas(16) char stack[STACK_BYTES];
    upb_Arena *arena = upb_Arena_Init(stack, sizeof stack, &upb_alloc_global);
    const thole_bus_v1_Forward *f = thole_bus_v1_Forward_parse_ex(
        (const char *)body.data, body.size, NULL, kUpb_DecodeOption_AliasString, arena);
    if (f)
        *ret = (struct forward){
            .shard_id = thole_bus_v1_Forward_shard_id(f),
            .shard_name = slice_of_view(thole_bus_v1_Forward_shard_name(f)),
            .payload = slice_of_view(thole_bus_v1_Forward_payload(f)),
            .session = thole_bus_v1_Forward_session(f),
            .sequence = thole_bus_v1_Forward_sequence(f),
            .open_session = thole_bus_v1_Forward_open_session(f),
            .stale = thole_bus_v1_Forward_stale(f),
            .max_staleness_ms = thole_bus_v1_Forward_max_staleness_ms(f),
            .hops = thole_bus_v1_Forward_hops(f),
        };
    upb_Arena_Free(arena);
    return f != NULL;
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

static void reply_read(const thole_bus_v1_ForwardReply *f, struct forward_reply *ret)
{
    memset(ret, 0, offsetof(struct forward_reply, failure.message));
    ret->failure.message[0] = 0;
    ret->code = thole_bus_v1_ForwardReply_code(f);
    ret->index = thole_bus_v1_ForwardReply_index(f);
    ret->result = slice_of_view(thole_bus_v1_ForwardReply_result(f));
    ret->duplicate = thole_bus_v1_ForwardReply_duplicate(f);
    uint32_t code = thole_bus_v1_ForwardReply_failure_code(f);
    if (code != 0) {
        struct slice m = slice_of_view(thole_bus_v1_ForwardReply_failure_message(f));
        struct slice name = slice_of_view(thole_bus_v1_ForwardReply_failure_reason(f));
        char text[64] = "";
        if (name.size > 0 && name.size < sizeof text) {
            memcpy(text, name.data, name.size);
            text[name.size] = 0;
        }
        enum thole_code known =
            code <= THOLE_UNAUTHENTICATED ? (enum thole_code)code : THOLE_UNKNOWN;
        thole_status_set(&ret->failure, known, thole_reason_from_name(text), NULL, 0, "%.*s",
                         (int)(m.size < THOLE_STATUS_MESSAGE_BYTES ? m.size : 200), m.data);
    }
    struct slice leader = slice_of_view(thole_bus_v1_ForwardReply_leader_host(f));
    ret->leader_term = thole_bus_v1_ForwardReply_leader_term(f);
    memset(&ret->leader_host, 0, sizeof ret->leader_host);
    if (leader.size == sizeof ret->leader_host.bytes)
        memcpy(ret->leader_host.bytes, leader.data, leader.size);
    ret->key = slice_of_view(thole_bus_v1_ForwardReply_key(f));
    ret->bookmark = thole_bus_v1_ForwardReply_bookmark(f);
}

bool forward_reply_decode(struct slice body, struct forward_reply *ret)
{
    _Alignas(16) char stack[STACK_BYTES];
    upb_Arena *arena = upb_Arena_Init(stack, sizeof stack, &upb_alloc_global);
    const thole_bus_v1_ForwardReply *f = thole_bus_v1_ForwardReply_parse_ex(
        (const char *)body.data, body.size, NULL, kUpb_DecodeOption_AliasString, arena);
    if (f)
        reply_read(f, ret);
    upb_Arena_Free(arena);
    return f != NULL;
}
