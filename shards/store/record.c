/* Keys, and the small records of a replica. Runs are in run.c. */
#include "shards/store/record.h"

#include <string.h>

#include "base/assert.h"
#include "shards/store/record_internal.h"

struct store_key store_key(uint64_t replica_id, enum store_kind kind)
{
    struct store_key k = {.size = STORE_KEY_BYTES};

    put_be64(k.bytes, replica_id);
    k.bytes[8] = (uint8_t)kind;
    return k;
}

struct store_key store_key_run(uint64_t replica_id, uint32_t epoch, uint64_t first)
{
    struct store_key k = store_key(replica_id, STORE_KIND_RUN);

    for (int i = 0; i < 4; i++) {
        k.bytes[9 + i] = (uint8_t)(epoch >> (24 - 8 * i));
    }
    put_be64(k.bytes + 13, first);
    k.size = STORE_RUN_KEY_BYTES;
    return k;
}

struct store_key store_key_host(const char *name)
{
    struct store_key k = store_key(0, STORE_KIND_HOST);
    size_t n = strlen(name);

    ASSERT(n <= STORE_HOST_NAME_BYTES_MAX);
    memcpy(k.bytes + k.size, name, n);
    k.size += n;
    return k;
}

bool store_key_parse(struct slice key, struct store_key_parts *ret)
{
    struct store_key_parts p = {0};

    if (key.size < STORE_KEY_BYTES) {
        return false;
    }
    p.replica_id = get_be64(key.data);
    p.kind = key.data[8];
    if (p.kind == STORE_KIND_RUN) {
        if (key.size != STORE_RUN_KEY_BYTES) {
            return false;
        }
        for (int i = 0; i < 4; i++) {
            p.epoch = p.epoch << 8 | key.data[9 + i];
        }
        p.first = get_be64(key.data + 13);
    } else if (p.replica_id != 0 && key.size != STORE_KEY_BYTES) {
        return false;
    }
    *ret = p;
    return true;
}

/* ---- The header ------------------------------------------------------------------------------ */

static uint64_t record_checksum(struct slice key, const uint8_t *value, size_t size)
{
    uint64_t seed = hash64(key.data, key.size, get_le64(value));

    return hash64(value + STORE_HEADER_BYTES, size - STORE_HEADER_BYTES, seed);
}

size_t store__record_begin(struct bytes *out)
{
    size_t at = out->size;

    memset(bytes_extend(out, STORE_HEADER_BYTES), 0, STORE_HEADER_BYTES);
    return at;
}

void store__record_seal(struct bytes *out, size_t at, struct slice key, uint8_t flags,
                        uint32_t count)
{
    uint8_t *p = out->data + at;

    ASSERT(out->size >= at + STORE_HEADER_BYTES);
    p[0] = STORE_RECORD_VERSION;
    p[1] = flags;
    put_le32(p + 4, count);
    put_le64(p + 8, record_checksum(key, p, out->size - at));
}

bool store__record_open(struct slice key, struct slice value, uint8_t *ret_flags,
                        uint32_t *ret_count, struct slice *ret_body)
{
    if (value.size < STORE_HEADER_BYTES || value.data[0] != STORE_RECORD_VERSION ||
        get_le64(value.data + 8) != record_checksum(key, value.data, value.size)) {
        return false;
    }
    *ret_flags = value.data[1];
    *ret_count = get_le32(value.data + 4);
    *ret_body = slice_of(value.data + STORE_HEADER_BYTES, value.size - STORE_HEADER_BYTES);
    return true;
}

void store__hard_put(uint8_t *p, const struct store_hard *h)
{
    put_le64(p, h->stamp);
    put_le64(p + 8, h->hard.term);
    put_le64(p + 16, h->hard.vote);
    put_le64(p + 24, h->hard.commit);
}

bool store__hard_take(struct slice *body, struct store_hard *ret)
{
    struct slice s;

    if (!slice_take(body, STORE_HARD_BYTES, &s)) {
        return false;
    }
    ret->stamp = get_le64(s.data);
    ret->hard.term = get_le64(s.data + 8);
    ret->hard.vote = get_le64(s.data + 16);
    ret->hard.commit = get_le64(s.data + 24);
    /* UINT64_MAX is how a damaged replica is reported, and no term that elections can reach. */
    return ret->hard.term != UINT64_MAX;
}

/* ---- Identity, start, hard, host ------------------------------------------------------------- */

static bool take_bytes(struct slice *s, struct slice *ret)
{
    uint64_t n;

    return slice_take_varint(s, &n) && n <= s->size && slice_take(s, (size_t)n, ret);
}

void store_encode_identity(struct bytes *out, struct slice key,
                           const struct store_identity_record *r)
{
    size_t at = store__record_begin(out);

    bytes_append_varint(out, r->shard_id);
    bytes_append_varint(out, r->incarnation_created);
    bytes_append_varint(out, r->descriptor.size);
    bytes_append_slice(out, r->descriptor);
    store__record_seal(out, at, key, r->tombstone ? STORE_FLAG_TOMBSTONE : 0, 1);
}

bool store_decode_identity(struct slice key, struct slice value, struct store_identity_record *ret)
{
    struct store_identity_record r = {0};
    struct slice body;
    uint32_t count;
    uint8_t flags;

    if (!store__record_open(key, value, &flags, &count, &body) ||
        !slice_take_varint(&body, &r.shard_id) ||
        !slice_take_varint(&body, &r.incarnation_created) || !take_bytes(&body, &r.descriptor) ||
        body.size != 0) {
        return false;
    }
    r.tombstone = (flags & STORE_FLAG_TOMBSTONE) != 0;
    *ret = r;
    return true;
}

void store_encode_start(struct bytes *out, struct slice key, const struct store_start *r)
{
    size_t at = store__record_begin(out);

    store__hard_put(bytes_extend(out, STORE_HARD_BYTES), &r->hard);
    bytes_append_varint(out, r->epoch);
    bytes_append_varint(out, r->index);
    bytes_append_varint(out, r->term);
    bytes_append_varint(out, r->machine_generation);
    bytes_append_varint(out, r->stamp.now_ms);
    bytes_append_varint(out, r->stamp.alive_ms);
    bytes_append_varint(out, r->config.size);
    bytes_append_slice(out, r->config);
    store__record_seal(out, at, key, STORE_FLAG_HARD, 1);
}

bool store_decode_start(struct slice key, struct slice value, struct store_start *ret)
{
    struct store_start r = {0};
    struct slice body;
    uint64_t epoch;
    uint32_t count;
    uint8_t flags;

    if (!store__record_open(key, value, &flags, &count, &body) ||
        !store__hard_take(&body, &r.hard) || !slice_take_varint(&body, &epoch) ||
        epoch > UINT32_MAX || !slice_take_varint(&body, &r.index) ||
        !slice_take_varint(&body, &r.term) || !slice_take_varint(&body, &r.machine_generation) ||
        !slice_take_varint(&body, &r.stamp.now_ms) ||
        !slice_take_varint(&body, &r.stamp.alive_ms) || !take_bytes(&body, &r.config) ||
        body.size != 0) {
        return false;
    }
    r.epoch = (uint32_t)epoch;
    *ret = r;
    return true;
}

void store_encode_hard(struct bytes *out, struct slice key, const struct store_hard *r)
{
    size_t at = store__record_begin(out);

    store__hard_put(bytes_extend(out, STORE_HARD_BYTES), r);
    store__record_seal(out, at, key, STORE_FLAG_HARD, 1);
}

bool store_decode_hard(struct slice key, struct slice value, struct store_hard *ret)
{
    struct store_hard r;
    struct slice body;
    uint32_t count;
    uint8_t flags;

    if (!store__record_open(key, value, &flags, &count, &body) || !store__hard_take(&body, &r) ||
        body.size != 0) {
        return false;
    }
    *ret = r;
    return true;
}

void store_encode_host(struct bytes *out, struct slice key, struct slice value)
{
    size_t at = store__record_begin(out);

    bytes_append_slice(out, value);
    store__record_seal(out, at, key, 0, 1);
}

bool store_decode_host(struct slice key, struct slice value, struct slice *ret)
{
    uint32_t count;
    uint8_t flags;

    return store__record_open(key, value, &flags, &count, ret);
}
