/* Keys and records in the state database: see kv_internal.h for the list, docs/formats.md for the
 * bytes. Records are varints and bytes; a record that does not decode is damage. */
#include <string.h>

#include "shards/machine/kv/kv_internal.h"

#define STATE_VERSION 2
#define AT_BYTES 12
/* In a history key a zero byte of the user's key is 00 ff, and 00 01 ends it: order is kept. */
#define ESCAPE 0x00
#define ESCAPED_ZERO 0xff
#define ESCAPED_END 0x01

enum { FLAG_DELETION = 1, FLAG_VALUE_ELSEWHERE = 2 };

/* ---- Keys ------------------------------------------------------------------------------------ */

static void begin(struct bytes *out, enum kv_prefix prefix)
{
    uint8_t byte = (uint8_t)prefix;

    bytes_clear(out);
    bytes_append(out, &byte, 1);
}

void kv__key(struct bytes *out, enum kv_prefix prefix, struct slice rest)
{
    begin(out, prefix);
    bytes_append_slice(out, rest);
}

static void append_at(struct bytes *out, uint64_t revision, uint32_t sub)
{
    uint8_t *p = bytes_extend(out, AT_BYTES);

    put_be64(p, revision);
    for (int i = 0; i < 4; i++) {
        p[8 + i] = (uint8_t)(sub >> (24 - 8 * i));
    }
}

static struct kv_at read_at(const uint8_t *p)
{
    uint32_t sub = 0;

    for (int i = 0; i < 4; i++) {
        sub = sub << 8 | p[8 + i];
    }
    return (struct kv_at){(int64_t)get_be64(p), sub};
}

void kv__key_change(struct bytes *out, struct kv_at at)
{
    begin(out, KV_PREFIX_CHANGE);
    append_at(out, (uint64_t)at.revision, at.sub);
}

void kv__key_history_start(struct bytes *out, struct slice key)
{
    static const uint8_t zero[2] = {ESCAPE, ESCAPED_ZERO}, end[2] = {ESCAPE, ESCAPED_END};

    begin(out, KV_PREFIX_HISTORY);
    while (key.size > 0) {
        const uint8_t *at = memchr(key.data, ESCAPE, key.size);
        size_t n = at != NULL ? (size_t)(at - key.data) : key.size;

        bytes_append(out, key.data, n);
        if (at != NULL) {
            bytes_append(out, zero, sizeof zero);
            n++;
        }
        key = slice_of(key.data + n, key.size - n);
    }
    bytes_append(out, end, sizeof end);
}

void kv__key_history(struct bytes *out, struct slice key, struct kv_at at)
{
    kv__key_history_start(out, key);
    append_at(out, ~(uint64_t)at.revision, ~at.sub);
}

void kv__key_u64(struct bytes *out, enum kv_prefix prefix, uint64_t a)
{
    kv__key_u64_rest(out, prefix, a, (struct slice){0});
}

void kv__key_u64_rest(struct bytes *out, enum kv_prefix prefix, uint64_t a, struct slice rest)
{
    begin(out, prefix);
    put_be64(bytes_extend(out, 8), a);
    bytes_append_slice(out, rest);
}

bool kv__parse_at(struct slice in, struct kv_at *ret)
{
    if (in.size != AT_BYTES) {
        return false;
    }
    *ret = read_at(in.data);
    return ret->revision > 0;
}

bool kv__parse_history(struct slice in, struct bytes *ret_key, struct kv_at *ret)
{
    size_t i = 0;

    bytes_clear(ret_key);
    for (;;) {
        if (i >= in.size) {
            return false;
        }
        uint8_t byte = in.data[i++];
        if (byte == ESCAPE) {
            uint8_t kind = i < in.size ? in.data[i++] : 0;
            if (kind == ESCAPED_END) {
                break;
            }
            if (kind != ESCAPED_ZERO) {
                return false;
            }
        }
        bytes_append(ret_key, &byte, 1);
    }
    if (in.size - i != AT_BYTES) {
        return false;
    }
    struct kv_at inverted = read_at(in.data + i);
    *ret = (struct kv_at){~inverted.revision, ~inverted.sub};
    return ret->revision > 0;
}

/* ---- Records --------------------------------------------------------------------------------- */

static bool take_i64(struct slice *in, int64_t *ret)
{
    uint64_t v;

    if (!slice_take_varint(in, &v) || v > INT64_MAX) {
        return false;
    }
    *ret = (int64_t)v;
    return true;
}

static bool take_u32(struct slice *in, uint32_t *ret)
{
    uint64_t v;

    if (!slice_take_varint(in, &v) || v > UINT32_MAX) {
        return false;
    }
    *ret = (uint32_t)v;
    return true;
}

static bool take_flags(struct slice *in, uint8_t allowed, uint8_t *ret)
{
    struct slice s;

    if (!slice_take(in, 1, &s) || (s.data[0] & ~allowed) != 0) {
        return false;
    }
    *ret = s.data[0];
    return true;
}

void kv__state_encode(const struct kv_state *s, struct bytes *out)
{
    bytes_clear(out);
    bytes_append_varint(out, STATE_VERSION);
    bytes_append_varint(out, (uint64_t)s->revision);
    bytes_append_varint(out, (uint64_t)(s->compacted + 1)); /* -1 is stored as 0 */
    bytes_append_varint(out, (uint64_t)s->walk.revision);
    bytes_append_varint(out, s->walk.sub);
    bytes_append_varint(out, s->keys);
    bytes_append_varint(out, s->leases);
    bytes_append_varint(out, s->bytes);
    bytes_append_varint(out, s->alive_ms);
    bytes_append_varint(out, s->no_space);
    bytes_append_varint(out, s->corrupt);
    bytes_append_varint(out, s->now_ms);
    bytes_append_varint(out, s->auth.revision);
    bytes_append_varint(out, s->auth.users);
    bytes_append_varint(out, s->auth.roles);
    if (s->auth.enabled) {
        bytes_append(out, s->auth.key, sizeof s->auth.key);
    }
}

static bool take_auth(struct slice in, struct kv_auth *ret)
{
    struct slice key = {0};

    *ret = (struct kv_auth){0};
    if (!slice_take_varint(&in, &ret->revision) || ret->revision < 1 ||
        !take_u32(&in, &ret->users) || !take_u32(&in, &ret->roles)) {
        return false;
    }
    ret->enabled = in.size > 0;
    if (ret->enabled && (!slice_take(&in, sizeof ret->key, &key) || in.size > 0)) {
        return false;
    }
    if (ret->enabled) {
        memcpy(ret->key, key.data, sizeof ret->key);
    }
    return true;
}

bool kv__state_is_current(struct slice in)
{
    uint64_t version;

    return slice_take_varint(&in, &version) && version == STATE_VERSION;
}

bool kv__state_decode(struct slice in, struct kv_state *ret)
{
    uint64_t version;

    if (!slice_take_varint(&in, &version) || version != STATE_VERSION ||
        !take_i64(&in, &ret->revision) || ret->revision < 1 || !take_i64(&in, &ret->compacted) ||
        !take_i64(&in, &ret->walk.revision) || !take_u32(&in, &ret->walk.sub) ||
        !slice_take_varint(&in, &ret->keys) || !slice_take_varint(&in, &ret->leases) ||
        !slice_take_varint(&in, &ret->bytes) || !slice_take_varint(&in, &ret->alive_ms) ||
        !take_u32(&in, &ret->no_space) || !take_u32(&in, &ret->corrupt) ||
        !slice_take_varint(&in, &ret->now_ms) || !take_auth(in, &ret->auth)) {
        return false;
    }
    ret->compacted--;
    return ret->compacted <= ret->revision;
}

void kv__latest_encode(const struct kv_item *item, struct bytes *out)
{
    uint8_t head[1 + 2 * VARINT_BYTES_MAX];

    head[0] = item->value_elsewhere ? FLAG_VALUE_ELSEWHERE : 0;
    uint8_t *end = put_varint(head + 1, item->sub);
    if (item->value_elsewhere) {
        end = put_varint(end, item->whole_bytes);
    }
    bytes_clear(out);
    bytes_append(out, head, (size_t)(end - head));
    if (item->value_elsewhere) {
        struct kv_item without = *item;
        without.value = (struct slice){0};
        kv__wire_item(out, &without);
    } else {
        bytes_append_slice(out, item->encoded);
    }
}

bool kv__latest_decode(struct slice stored, struct kv_item *ret)
{
    uint8_t flags;

    if (!take_flags(&stored, FLAG_VALUE_ELSEWHERE, &flags) || !take_u32(&stored, &ret->sub)) {
        return false;
    }
    ret->value_elsewhere = flags != 0;
    if (ret->value_elsewhere && !slice_take_varint(&stored, &ret->whole_bytes)) {
        return false;
    }
    ret->encoded = stored;
    ret->whole_bytes = ret->value_elsewhere ? ret->whole_bytes : stored.size;
    return kv__wire_item_decode(stored, ret);
}

void kv__change_encode(const struct kv_change *c, struct slice encoded, struct bytes *out)
{
    uint8_t head[1 + 3 * VARINT_BYTES_MAX];

    head[0] = c->deletion ? FLAG_DELETION : 0;
    uint8_t *end = put_varint(head + 1, (uint64_t)c->previous.revision);
    end = put_varint(end, c->previous.sub);
    end = put_varint(end, c->previous_bytes);
    bytes_clear(out);
    bytes_append(out, head, (size_t)(end - head));
    bytes_append_slice(out, encoded);
}

uint64_t kv__change_bytes(uint64_t encoded_bytes)
{
    return 1 + AT_BYTES + encoded_bytes;
}

bool kv__change_decode(struct slice stored, struct kv_change *ret)
{
    uint8_t flags;

    if (!take_flags(&stored, FLAG_DELETION, &flags) ||
        !take_i64(&stored, &ret->previous.revision) || !take_u32(&stored, &ret->previous.sub) ||
        !slice_take_varint(&stored, &ret->previous_bytes)) {
        return false;
    }
    ret->deletion = flags != 0;
    ret->encoded = stored;
    return true;
}

void kv__lease_encode(const struct kv_lease *l, struct bytes *out)
{
    bytes_clear(out);
    bytes_append_varint(out, (uint64_t)l->ttl_s);
    bytes_append_varint(out, l->deadline_ms);
    bytes_append_varint(out, l->due_ms);
}

bool kv__lease_decode(struct slice in, struct kv_lease *ret)
{
    return take_i64(&in, &ret->ttl_s) && ret->ttl_s <= KV_LEASE_TTL_MAX &&
           slice_take_varint(&in, &ret->deadline_ms) && slice_take_varint(&in, &ret->due_ms) &&
           in.size == 0;
}

void kv__past_encode(const struct kv_past *p, struct bytes *out)
{
    uint8_t flags = p->deletion ? FLAG_DELETION : 0;

    bytes_clear(out);
    bytes_append(out, &flags, 1);
    bytes_append_varint(out, (uint64_t)p->next);
}

bool kv__past_decode(struct slice in, struct kv_past *ret)
{
    uint8_t flags;

    if (!take_flags(&in, FLAG_DELETION, &flags) || !take_i64(&in, &ret->next)) {
        return false;
    }
    ret->deletion = flags != 0;
    return in.size == 0;
}

bool kv__record_sound(struct slice key, struct slice value)
{
    struct slice rest = key.size > 0 ? slice_of(key.data + 1, key.size - 1) : key;
    struct bytes scratch = {0};
    struct kv_change change;
    struct kv_state state;
    struct kv_lease lease;
    struct kv_item item;
    struct kv_past past;
    struct kv_at at;
    bool ok = false;

    switch (key.size > 0 ? key.data[0] : KV_PREFIX_END) {
    case KV_PREFIX_STATE:
        return rest.size == 0 && kv__state_decode(value, &state);
    case KV_PREFIX_CHANGE:
        return kv__parse_at(rest, &at) && kv__change_decode(value, &change) &&
               kv__wire_item_decode(change.encoded, &item) && item.key.size > 0;
    case KV_PREFIX_LATEST:
        return rest.size > 0 && kv__latest_decode(value, &item) && slice_equal(item.key, rest);
    case KV_PREFIX_HISTORY:
        ok = kv__parse_history(rest, &scratch, &at) && kv__past_decode(value, &past);
        bytes_deinit(&scratch);
        return ok;
    case KV_PREFIX_LEASE:
        return rest.size == 8 && kv__lease_decode(value, &lease);
    case KV_PREFIX_ATTACHED:
        return rest.size > 8 && value.size == 0;
    case KV_PREFIX_DUE:
        return rest.size == 16 && value.size == 0;
    case KV_PREFIX_ALARM:
        return rest.size == 9 && value.size == 0;
    case KV_PREFIX_USER:
        return kv__user_sound(rest, value);
    case KV_PREFIX_ROLE:
        return kv__role_sound(rest, value);
    default:
        return false;
    }
}
