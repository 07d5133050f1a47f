/* The format of snapshot files. See snapshot_file.h. */
#include "agent/snapshots/snapshot_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/limits.h"
#include "proto/decode.h"

#define FIRST_BYTES 12 /* magic and size */

static const char file_magic[8] = "tholfile";
static const char body_magic[8] = "tholsnap";

void snapshot_file_head(const thole_v1_SnapshotFile *head, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    size_t size = 0;
    uint8_t number[8];
    size_t begin = out->size;
    const char *bytes = thole_v1_SnapshotFile_serialize(head, arena, &size);
    ASSERT(bytes != NULL && size <= SNAPSHOT_FILE_HEAD_BYTES_MAX);
    bytes_append(out, file_magic, sizeof file_magic);
    put_le32(number, (uint32_t)size);
    bytes_append(out, number, 4);
    bytes_append(out, bytes, size);
    put_le64(number, hash64(out->data + begin, out->size - begin, 0));
    bytes_append(out, number, 8);
    upb_Arena_Free(arena);
}

bool snapshot_file_trailer(const uint8_t trailer[SNAPSHOT_FILE_TRAILER_BYTES], uint64_t *ret)
{
    *ret = get_le64(trailer);
    return memcmp(trailer + 8, body_magic, sizeof body_magic) == 0;
}

void snapshot_file_end(uint64_t checksum, struct bytes *out)
{
    uint8_t number[8];
    put_le64(number, checksum);
    bytes_append(out, number, sizeof number);
    bytes_append(out, body_magic, sizeof body_magic);
}

/* ---- Checking -------------------------------------------------------------------------------- */

struct snapshot_check {
    struct bytes first; /* until the head is complete */
    upb_Arena *arena;
    const thole_v1_SnapshotFile *head;
    size_t head_bytes; /* with everything before the body */
    uint64_t fed, body;
    struct hash_state *hash;
    uint8_t trailer[SNAPSHOT_FILE_TRAILER_BYTES];
};

struct snapshot_check *snapshot_check_new(void)
{
    struct snapshot_check *k = xcalloc(1, sizeof *k);
    k->arena = upb_Arena_New();
    k->hash = hash_state_new(0);
    return k;
}

void snapshot_check_free(struct snapshot_check *k)
{
    if (k == NULL) {
        return;
    }
    bytes_deinit(&k->first);
    upb_Arena_Free(k->arena);
    hash_state_free(k->hash);
    free(k);
}

const thole_v1_SnapshotFile *snapshot_check_head(const struct snapshot_check *k)
{
    return k->head;
}

uint64_t snapshot_check_total(const struct snapshot_check *k)
{
    return k->head != NULL ? k->head_bytes + thole_v1_SnapshotFile_body_bytes(k->head) : 0;
}

uint64_t snapshot_check_fed(const struct snapshot_check *k)
{
    return k->fed;
}

static enum thole_code damaged(struct thole_status *st, const char *what)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "the snapshot file is damaged: %s",
                      what);
}

static enum thole_code read_head(struct snapshot_check *k, size_t size, struct thole_status *st)
{
    size_t checked = FIRST_BYTES + size;
    if (get_le64(k->first.data + checked) != hash64(k->first.data, checked, 0)) {
        return damaged(st, "the checksum of its head is wrong");
    }
    const thole_v1_SnapshotFile *head =
        PROTO_DECODE(thole_v1_SnapshotFile, slice_of(k->first.data + FIRST_BYTES, size), k->arena);
    if (head == NULL) {
        return damaged(st, "its head does not decode");
    }
    if (thole_v1_SnapshotFile_format(head) != SNAPSHOT_FILE_FORMAT) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "the snapshot file has format %" PRIu32 "; this version knows %d",
                          thole_v1_SnapshotFile_format(head), SNAPSHOT_FILE_FORMAT);
    }
    uint64_t body = thole_v1_SnapshotFile_body_bytes(head);
    if (body <= SNAPSHOT_FILE_TRAILER_BYTES || body > UINT64_MAX / 4 ||
        thole_v1_SnapshotFile_index(head) == 0 || thole_v1_SnapshotFile_term(head) == 0 ||
        !thole_v1_SnapshotFile_has_spec(head)) {
        return damaged(st, "its head is malformed");
    }
    k->head = head;
    k->head_bytes = checked + 8;
    return THOLE_OK;
}

/* Takes from `in` only the bytes that the head still needs. */
static enum thole_code feed_head(struct snapshot_check *k, struct slice *in,
                                 struct thole_status *st)
{
    while (in->size > 0 && k->head == NULL) {
        bool sized = k->first.size >= FIRST_BYTES;
        size_t size = sized ? get_le32(k->first.data + 8) : 0;
        size_t want = sized ? FIRST_BYTES + size + 8 : FIRST_BYTES;
        size_t n = want - k->first.size < in->size ? want - k->first.size : in->size;
        bytes_append(&k->first, in->data, n);
        *in = slice_of(in->data + n, in->size - n);
        if (k->first.size < want) {
            return THOLE_OK;
        }
        if (sized) {
            return read_head(k, size, st);
        }
        if (memcmp(k->first.data, file_magic, sizeof file_magic) != 0) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "this is not a snapshot file");
        }
        if (get_le32(k->first.data + 8) > SNAPSHOT_FILE_HEAD_BYTES_MAX) {
            return damaged(st, "its head is too large");
        }
    }
    return THOLE_OK;
}

static enum thole_code feed_body(struct snapshot_check *k, struct slice in, struct thole_status *st)
{
    uint64_t total = thole_v1_SnapshotFile_body_bytes(k->head);
    uint64_t hashed = total - SNAPSHOT_FILE_TRAILER_BYTES;
    if (in.size > total - k->body) {
        return damaged(st, "it is too long");
    }
    if (k->body < hashed && in.size > 0) {
        uint64_t n = hashed - k->body < in.size ? hashed - k->body : in.size;
        hash_state_update(k->hash, in.data, (size_t)n);
        k->body += n;
        in = slice_of(in.data + n, in.size - (size_t)n);
    }
    if (in.size > 0) {
        memcpy(k->trailer + (k->body - hashed), in.data, in.size);
        k->body += in.size;
    }
    return THOLE_OK;
}

enum thole_code snapshot_check_feed(struct snapshot_check *k, struct slice in,
                                    struct slice *ret_body, struct thole_status *st)
{
    k->fed += in.size;
    enum thole_code code = k->head != NULL ? THOLE_OK : feed_head(k, &in, st);
    if (code == THOLE_OK && in.size > 0) {
        code = feed_body(k, in, st);
    }
    if (code == THOLE_OK && ret_body != NULL) {
        *ret_body = in;
    }
    return code;
}

enum thole_code snapshot_check_end(const struct snapshot_check *k, struct thole_status *st)
{
    uint64_t checksum;
    if (k->head == NULL || k->body < thole_v1_SnapshotFile_body_bytes(k->head)) {
        return damaged(st, "it is cut off");
    }
    if (!snapshot_file_trailer(k->trailer, &checksum) ||
        checksum != thole_v1_SnapshotFile_body_checksum(k->head) ||
        checksum != hash_state_digest(k->hash)) {
        return damaged(st, "the checksum of its body is wrong");
    }
    return THOLE_OK;
}
