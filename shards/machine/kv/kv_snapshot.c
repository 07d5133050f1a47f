/* Snapshots. Format (docs/formats.md): the version byte, then per record of the machine's space in
 * order
 *   [key size varint, not 0][key][value size varint][value]
 * and at the end a 0 and the number of records, so that a truncated snapshot is detected. The
 * engine's metadata is not part of it: the engine passes its own at restore. */
#include <stdlib.h>
#include <string.h>

#include "shards/machine/kv/kv_internal.h"

#define SNAPSHOT_VERSION 3
#define CHUNK_BYTES ((size_t)256 * KIB)
#define RESTORE_BATCH_BYTES ((size_t)1 * MIB)
/* A history key escapes zeros, so it has at most twice the bytes of the user's key. */
#define KEY_BYTES_MAX (2 * LIMIT_PAYLOAD_BYTES + 64)
#define VALUE_BYTES_MAX (2 * LIMIT_PAYLOAD_BYTES + 64)

enum thole_code kv__save(void *machine, const void *view, struct thole_save *to,
                         struct thole_status *st)
{
    static const uint8_t first = KV_PREFIX_STATE, end = KV_PREFIX_END, version = SNAPSHOT_VERSION;
    struct thole_sink *out = to->out;
    const struct kv_view *v = view;
    struct kv *kv = machine;
    struct bytes chunk = {0};
    struct slice key, value;
    uint64_t count = 0;
    enum thole_code code = THOLE_OK;
    struct state_iter *it =
        state_iter_new(kv->db, v->db, kv->space, slice_of(&first, 1), slice_of(&end, 1));

    bytes_append(&chunk, &version, 1);
    while (code == THOLE_OK && state_iter_next(it, &key, &value)) {
        bytes_append_varint(&chunk, key.size);
        bytes_append_slice(&chunk, key);
        bytes_append_varint(&chunk, value.size);
        bytes_append_slice(&chunk, value);
        count++;
        if (chunk.size >= CHUNK_BYTES) {
            code = out->write(out, chunk.data, chunk.size);
            bytes_clear(&chunk);
        }
    }
    if (code == THOLE_OK) {
        code = state_iter_status(it, st);
    }
    state_iter_free(it);
    if (code == THOLE_OK) {
        bytes_append_varint(&chunk, 0);
        bytes_append_varint(&chunk, count);
        code = out->write(out, chunk.data, chunk.size);
    }
    bytes_deinit(&chunk);
    return code;
}

/* ---- Restore --------------------------------------------------------------------------------- */

struct reader {
    struct thole_source *in;
    struct bytes data; /* bytes read; consumed up to `at` */
    size_t at;
    bool end, failed;
};

/* Have at least `n` bytes at `at`, or as many as there are. */
static size_t fill(struct reader *r, size_t n)
{
    if (r->data.size - r->at < n && r->at > 0) {
        memmove(r->data.data, r->data.data + r->at, r->data.size - r->at);
        r->data.size -= r->at;
        r->at = 0;
    }
    while (r->data.size - r->at < n && !r->end) {
        uint8_t *p = bytes_extend(&r->data, CHUNK_BYTES);
        int64_t got = r->in->read(r->in, p, CHUNK_BYTES);

        r->data.size -= CHUNK_BYTES - (got > 0 ? (size_t)got : 0);
        r->end = got <= 0;
        r->failed = r->failed || got < 0;
    }
    return r->data.size - r->at;
}

static bool take_varint(struct reader *r, uint64_t *ret)
{
    size_t have = fill(r, VARINT_BYTES_MAX);
    struct slice s = slice_of(r->data.data + r->at, have);

    if (!slice_take_varint(&s, ret)) {
        return false;
    }
    r->at += have - s.size;
    return true;
}

/* Borrowed until the next call. */
static bool take_bytes(struct reader *r, uint64_t n, size_t max, struct slice *ret)
{
    if (n > max || fill(r, (size_t)n) < n) {
        return false;
    }
    *ret = slice_of(r->data.data + r->at, (size_t)n);
    r->at += (size_t)n;
    return true;
}

static enum thole_code malformed(const struct reader *r, struct thole_status *st)
{
    if (r->failed) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NONE, "the snapshot was cut off");
    }
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "not a kv snapshot");
}

struct restore {
    struct kv *kv;
    struct reader r;
    struct state_batch *batch;
    struct bytes key;
    uint64_t count;
    size_t bytes; /* in the batch */
    bool end;
};

/* One record. `end` at the end, with the count verified. */
static enum thole_code restore_record(struct restore *o, struct thole_status *st)
{
    uint64_t size;
    struct slice s;

    if (!take_varint(&o->r, &size)) {
        return malformed(&o->r, st);
    }
    if (size == 0) {
        o->end = true;
        return take_varint(&o->r, &size) && size == o->count && fill(&o->r, 1) == 0
                   ? THOLE_OK
                   : malformed(&o->r, st);
    }
    if (!take_bytes(&o->r, size, KEY_BYTES_MAX, &s)) {
        return malformed(&o->r, st);
    }
    bytes_clear(&o->key);
    bytes_append_slice(&o->key, s);
    if (!take_varint(&o->r, &size) || !take_bytes(&o->r, size, VALUE_BYTES_MAX, &s) ||
        !kv__record_sound(bytes_slice(&o->key), s)) {
        return malformed(&o->r, st);
    }
    state_batch_put(o->batch, o->kv->space, bytes_slice(&o->key), s);
    o->bytes += o->key.size + s.size;
    o->count++;
    return THOLE_OK;
}

static enum thole_code restore_all(struct restore *o, struct thole_status *st)
{
    struct slice version;
    enum thole_code code = THOLE_OK;

    if (!take_bytes(&o->r, 1, 1, &version) || version.data[0] != SNAPSHOT_VERSION) {
        return malformed(&o->r, st);
    }
    while (code == THOLE_OK && !o->end) {
        code = restore_record(o, st);
        if (code == THOLE_OK && o->bytes >= RESTORE_BATCH_BYTES) {
            code = state_batch_write(o->batch, st);
            state_batch_clear(o->batch);
            o->bytes = 0;
        }
    }
    return code;
}

/* What an interrupted restore left in this generation must not mix with the new data. */
static enum thole_code clear_space(struct kv *kv, struct thole_status *st)
{
    struct slice none = {0}, key, value;
    struct state_iter *it = state_iter_new(kv->db, NULL, kv->space, none, none);
    bool used = state_iter_next(it, &key, &value);
    enum thole_code code = state_iter_status(it, st);

    state_iter_free(it);
    return code == THOLE_OK && used ? state_space_drop(kv->db, kv->space, st) : code;
}

enum thole_code kv__restore(void *machine, struct thole_restore *from, struct thole_status *st)
{
    struct kv *kv = machine;
    struct restore o = {.kv = kv, .r.in = from->in};
    enum thole_code code = clear_space(kv, st);

    o.batch = state_batch_new(kv->db);
    if (code == THOLE_OK) {
        code = restore_all(&o, st);
    }
    bytes_deinit(&o.r.data);
    bytes_deinit(&o.key);
    if (code == THOLE_OK) {
        /* The metadata comes last: a generation that has it is complete. */
        kv__put_meta(kv, o.batch, from->meta, from->meta_count);
        code = state_batch_write(o.batch, st);
    }
    state_batch_free(o.batch);
    if (code == THOLE_OK) {
        code = kv__load_state(kv, st);
        from->due = kv__due(kv);
    }
    return code == THOLE_OK ? state_db_flush(kv->db, st) : code;
}
