/* Encoding of the exchanges between hosts: thole.bus.v1.Forward and ForwardReply.
 *
 * By hand, because every operation needs it and the messages are flat. A small body is written into
 * the caller's space, without allocation; the bus copies it. Decoded fields point into the body
 * (upb may copy short strings even when it should alias them). */
#include <string.h>

#include "agent/routing/forward_codec.h"
#include "agent/routing/router.h"
#include "base/assert.h"
#include "base/canary.h"
#include "proto/status_decode.h"

#define NUMBER_BYTES_MAX (1 + VARINT_BYTES_MAX) /* a tag of one byte; a length is no longer */
#define FIELDS_MAX 15
#define FORWARD_PAYLOAD_FIELD 3
#define REPLY_RESULT_FIELD 3

static uint8_t *put_number(uint8_t *p, uint8_t field, uint64_t v)
{
    if (v == 0) {
        return p;
    }
    *p++ = (uint8_t)(field << 3);
    return put_varint(p, v);
}

static uint8_t *put_bytes(uint8_t *p, uint8_t field, struct slice bytes)
{
    if (bytes.size == 0) {
        return p;
    }
    *p++ = (uint8_t)(field << 3 | 2);
    p = put_varint(p, bytes.size);
    memcpy(p, bytes.data, bytes.size);
    return p + bytes.size;
}

/* Room for all fields; `variable` is the size of all byte fields together. */
static struct bufslice room(struct forward_space *space, size_t variable)
{
    size_t max = FIELDS_MAX * NUMBER_BYTES_MAX + variable;
    if (max <= sizeof space->bytes) {
        return (struct bufslice){NULL, slice_of(space->bytes, max)};
    }
    struct buf *b = buf_new(max);
    return (struct bufslice){b, slice_of(b->data, max)};
}

static struct bufslice used(struct bufslice out, const uint8_t *end)
{
    size_t size = (size_t)(end - out.bytes.data);
    ASSERT(size <= out.bytes.size);
    out.bytes.size = size;
    return out;
}

struct bufslice router_encode_forward(const struct router_request *r, const char *shard_name,
                                      struct forward_space *space)
{
    struct slice name = shard_name != NULL ? slice_str(shard_name) : (struct slice){0};
    struct bufslice out = room(space, name.size + r->payload.bytes.size + r->request_id.size);
    uint8_t *p = out.owner != NULL ? out.owner->data : space->bytes;
    p = put_number(p, 1, r->shard_id);
    p = put_bytes(p, 2, name);
    p = put_bytes(p, FORWARD_PAYLOAD_FIELD, r->payload.bytes);
    p = put_number(p, 4, r->session);
    p = put_number(p, 5, r->kind == ROUTER_TRANSFER ? r->target_replica : r->sequence);
    p = put_number(p, 6, r->kind == ROUTER_OPEN_SESSION);
    p = put_number(p, 7, r->stale);
    p = put_number(p, 8, r->max_staleness_ms);
    p = put_number(p, 9, r->hops);
    p = put_bytes(p, 10, r->request_id);
    p = put_number(p, 11, r->kind == ROUTER_CLOSE_SESSION);
    p = put_number(p, 14, r->streamed);
    p = put_number(p, 15, shard_name != NULL ? r->slot_plus_1 : 0);
    return used(out, p);
}

struct bufslice router_encode_reply(const struct forward_reply *in, struct forward_space *space)
{
    struct slice reason = {0}, message = {0};
    if (in->failure.code != THOLE_OK) {
        reason = slice_str(thole_reason_name(in->failure.reason));
        message = slice_str(in->failure.message);
    }
    struct bufslice out =
        room(space, in->result.size + reason.size + message.size + 16 + in->key.size);
    uint8_t *p = out.owner != NULL ? out.owner->data : space->bytes;
    p = put_number(p, 1, in->code);
    p = put_number(p, 2, in->index);
    p = put_bytes(p, REPLY_RESULT_FIELD, in->result);
    p = put_number(p, 4, in->duplicate);
    p = put_number(p, 5, (uint64_t)in->failure.code);
    p = put_bytes(p, 6, reason);
    p = put_bytes(p, 7, message);
    if (!uuid_is_nil(&in->leader_host)) {
        p = put_number(p, 8, in->leader_term);
        p = put_bytes(p, 9, slice_of(in->leader_host.bytes, 16));
    }
    p = put_bytes(p, 10, in->key);
    p = put_number(p, 11, in->bookmark);
    p = put_number(p, 12, in->forgotten);
    p = put_number(p, 13, in->term);
    p = put_number(p, 14, in->answer);
    p = put_number(p, 15, in->end);
    return used(out, p);
}

/* ---- Reading --------------------------------------------------------------------------------- */

struct field {
    uint32_t number;
    uint64_t value;     /* varints */
    struct slice bytes; /* length-delimited */
};

/* Take the first field. False at the end or, with *ok cleared, if the body is malformed. Unknown
 * fixed-width fields are skipped. */
static bool field_next(struct slice *in, struct field *ret, bool *ok)
{
    uint64_t tag, size = 0;
    struct slice skipped;
    if (in->size == 0) {
        return false;
    }
    memset(ret, 0, sizeof *ret);
    *ok = slice_take_varint(in, &tag) && tag >> 3 != 0 && tag >> 3 <= UINT32_MAX;
    if (!*ok) {
        return false;
    }
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

bool router_decode_forward(struct slice body, struct forwarded *ret)
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
            ret->session = CANARY(forward_drops_session) ? 0 : f.value;
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
        case 10:
            ret->request_id = CANARY(forward_drops_request_id) ? (struct slice){0} : f.bytes;
            break;
        case 11:
            ret->close_session = f.value != 0;
            break;
        case 14:
            ret->streamed = f.value != 0;
            break;
        case 15:
            ret->slot_plus_1 = (uint32_t)f.value;
            break;
        default:
            break;
        }
    }
    return ok;
}

bool router_decode_reply(struct slice body, struct forward_reply *ret)
{
    struct field f;
    struct slice reason = {0}, message = {0};
    uint64_t failure = 0;
    bool ok = true;
    router_reply_init(ret);
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
            if (f.bytes.size == sizeof ret->leader_host.bytes) {
                memcpy(ret->leader_host.bytes, f.bytes.data, f.bytes.size);
            }
            break;
        case 10:
            ret->key = f.bytes;
            break;
        case 11:
            ret->bookmark = f.value != 0;
            break;
        case 12:
            ret->forgotten = f.value != 0;
            break;
        case 14:
            ret->answer = f.value;
            break;
        case 15:
            ret->end = f.value != 0;
            break;
        case 13:
            ret->term = f.value;
            break;
        default:
            break;
        }
    }
    if (ok && failure != 0) {
        proto_status_decode(failure, reason, message, &ret->failure);
    }
    return ok;
}
