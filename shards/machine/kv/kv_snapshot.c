/* Snapshots. Format (docs/formats.md): the version byte, then per key in order
 *   [key size varint, not 0][key][stored size varint][stored value]
 * and at the end a 0 and the number of keys, so that a truncated snapshot is detected. Metadata is
 * not part of it: the engine passes its own at restore. */
#include <stdlib.h>
#include <string.h>

#include "shards/machine/kv/kv_internal.h"

#define SNAPSHOT_VERSION 1
#define CHUNK_BYTES ((size_t)256 * KIB)
#define RESTORE_BATCH_BYTES ((size_t)1 * MIB)

enum thole_code kv__save(void *machine, const void *view, struct thole_sink *out,
                         struct thole_status *st)
{
    static const uint8_t from = KV_PREFIX_USER, to = KV_PREFIX_USER + 1, version = SNAPSHOT_VERSION;
    struct kv *kv = machine;
    struct bytes chunk = {0};
    struct slice key, value;
    uint64_t count = 0;
    enum thole_code code = THOLE_OK;
    struct state_iter *it =
        state_iter_new(kv->db, view, kv->space, slice_of(&from, 1), slice_of(&to, 1));

    bytes_append(&chunk, &version, 1);
    while (code == THOLE_OK && state_iter_next(it, &key, &value)) {
        bytes_append_varint(&chunk, key.size - 1);
        bytes_append(&chunk, key.data + 1, key.size - 1);
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

/* One key. `*ret_end` at the end, with `*count` verified. */
static enum thole_code restore_key(struct kv *kv, struct reader *r, uint64_t *count, size_t *bytes,
                                   bool *ret_end, struct thole_status *st)
{
    uint64_t key_size, size;
    struct kv_item item;
    struct slice s;

    if (!take_varint(r, &key_size)) {
        return malformed(r, st);
    }
    if (key_size == 0) {
        *ret_end = true;
        return take_varint(r, &size) && size == *count && fill(r, 1) == 0 ? THOLE_OK
                                                                          : malformed(r, st);
    }
    if (!take_bytes(r, key_size, KV_KEY_BYTES_MAX, &s)) {
        return malformed(r, st);
    }
    kv__user_key(&kv->out, s);
    if (!take_varint(r, &size) ||
        !take_bytes(r, size, LIMIT_PAYLOAD_BYTES + KV_STORED_HEADER_BYTES, &s) ||
        !kv__item_decode(s, &item)) {
        return malformed(r, st);
    }
    state_batch_put(kv->batch, kv->space, bytes_slice(&kv->out), s);
    *bytes += kv->out.size + s.size;
    (*count)++;
    return THOLE_OK;
}

static enum thole_code restore_all(struct kv *kv, struct reader *r, struct thole_status *st)
{
    uint64_t count = 0;
    size_t bytes = 0;
    struct slice version;
    bool end = false;
    enum thole_code code = THOLE_OK;

    if (!take_bytes(r, 1, 1, &version) || version.data[0] != SNAPSHOT_VERSION) {
        return malformed(r, st);
    }
    while (code == THOLE_OK && !end) {
        code = restore_key(kv, r, &count, &bytes, &end, st);
        if (code == THOLE_OK && bytes >= RESTORE_BATCH_BYTES) {
            code = state_batch_write(kv->batch, st);
            state_batch_clear(kv->batch);
            bytes = 0;
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

enum thole_code kv__restore(void *machine, struct thole_source *in, const struct thole_meta *meta,
                            size_t meta_count, struct thole_status *st)
{
    struct kv *kv = machine;
    struct reader r = {.in = in};
    enum thole_code code = clear_space(kv, st);

    kv__work_begin(kv);
    if (code == THOLE_OK) {
        code = restore_all(kv, &r, st);
    }
    bytes_deinit(&r.data);
    if (code == THOLE_OK) {
        /* The metadata comes last: a generation that has it is complete. */
        kv__put_meta(kv, meta, meta_count);
        code = state_batch_write(kv->batch, st);
    }
    kv__work_end(kv);
    return code == THOLE_OK ? state_db_flush(kv->db, st) : code;
}
