/* libthole: snapshots of shards, out and in: calls of thole.v1.Snapshots, with the bytes of a file
 * in the program's hands. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/lib/api_internal.h"
#include "agent/snapshots/snapshot_file.h"
#include "proto/decode.h"
#include "thole/v1/snapshots.upb.h"

#define SEND_BYTES ((size_t)1 * MIB)
/* The first piece comes after the machine has written its file. */
#define PIECE_MS (10 * 60 * 1000)

static upb_StringView text(const char *s)
{
    return s != NULL ? upb_StringView_FromString(s) : upb_StringView_FromDataAndSize(NULL, 0);
}

static enum thole_code undecodable(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE, "the answer does not decode");
}

/* ---- Out ------------------------------------------------------------------------------------- */

static enum thole_code open_stream(struct thole *t, const char *shard, uint32_t flags,
                                   struct bus_stream **ret, struct thole_status *st)
{
    struct bus_channel *channel = NULL;
    size_t size = 0;
    enum thole_code code = api__channel(t, &channel, st);
    if (code != THOLE_OK) {
        return code;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_v1_SaveSnapshotRequest *q = thole_v1_SaveSnapshotRequest_new(arena);
    thole_v1_SaveSnapshotRequest_set_shard(q, text(shard));
    thole_v1_SaveSnapshotRequest_set_stale(q, flags == THOLE_STALE);
    const char *bytes = thole_v1_SaveSnapshotRequest_serialize(q, arena, &size);
    code = bus_channel_stream(channel, "/thole.v1.Snapshots/SaveSnapshot", slice_of(bytes, size),
                              ret, st);
    upb_Arena_Free(arena);
    return code;
}

static enum thole_code give_piece(struct snapshot_check *k, const struct buf *message,
                                  thole_piece_fn piece, void *ctx, struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    enum thole_code code = THOLE_OK;
    const thole_v1_SaveSnapshotResponse *m =
        PROTO_DECODE(thole_v1_SaveSnapshotResponse, slice_of(message->data, message->size), arena);
    if (m == NULL) {
        code = undecodable(st);
    } else {
        upb_StringView data = thole_v1_SaveSnapshotResponse_data(m);
        code = snapshot_check_feed(k, slice_of(data.data, data.size), NULL, st);
        if (code == THOLE_OK && !piece(ctx, (struct thole_slice){data.data, data.size})) {
            code = THOLE_FAIL(st, THOLE_CANCELLED, THOLE_REASON_NONE, "stopped by the caller");
        }
    }
    upb_Arena_Free(arena);
    return code;
}

enum thole_code thole_snapshot_save(struct thole *t, const char *shard, uint32_t flags,
                                    thole_piece_fn piece, void *ctx, uint64_t *ret_index,
                                    struct thole_status *st)
{
    struct bus_stream *stream = NULL;
    struct thole_status failure = {0};
    if (piece == NULL || (flags & ~THOLE_STALE) != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a function for the pieces is required, and no flag but THOLE_STALE");
    }
    struct snapshot_check *k = snapshot_check_new();
    enum thole_code code = open_stream(t, shard, flags, &stream, &failure);
    while (code == THOLE_OK) {
        struct buf *message = NULL;
        code = bus_stream_next(stream, PIECE_MS, &message, &failure);
        if (code == THOLE_OK) {
            code = give_piece(k, message, piece, ctx, &failure);
        }
        buf_unref(message);
    }
    bus_stream_free(stream);
    if (code == THOLE_OUT_OF_RANGE && failure.reason == THOLE_REASON_NONE) { /* the regular end */
        code = snapshot_check_end(k, &failure);
    }
    if (code == THOLE_OK && ret_index != NULL) {
        *ret_index = thole_v1_SnapshotFile_index(snapshot_check_head(k));
    }
    snapshot_check_free(k);
    if (code != THOLE_OK && st != NULL) {
        *st = failure;
    }
    return code;
}

/* ---- In -------------------------------------------------------------------------------------- */

struct sending {
    struct bus_channel *channel;
    uint32_t timeout_ms;
    uint64_t sent;
    bool complete;
    char upload[UUID_TEXT_BYTES]; /* "" before the first answer */
};

/* Fill the buffer, unless the file ends. */
static enum thole_code fill(thole_read_fn read, void *ctx, uint8_t *buffer, size_t *ret_size,
                            struct thole_status *st)
{
    size_t have = 0;
    int64_t n = 1;
    while (have < SEND_BYTES && n > 0) {
        n = read(ctx, buffer + have, SEND_BYTES - have);
        if (n < 0 || (size_t)n > SEND_BYTES - have) {
            return THOLE_FAIL(st, THOLE_CANCELLED, THOLE_REASON_NONE, "stopped by the caller");
        }
        have += (size_t)n;
    }
    *ret_size = have;
    return THOLE_OK;
}

static enum thole_code read_received(struct sending *s, const struct buf *reply, size_t size,
                                     struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    enum thole_code code = THOLE_OK;
    const thole_v1_UploadSnapshotResponse *m =
        PROTO_DECODE(thole_v1_UploadSnapshotResponse, slice_of(reply->data, reply->size), arena);
    upb_StringView name = m != NULL ? thole_v1_UploadSnapshotResponse_upload(m) : text(NULL);
    if (name.size == 0 || name.size >= sizeof s->upload) {
        code = undecodable(st);
    } else if (thole_v1_UploadSnapshotResponse_received(m) != s->sent + size) {
        code = THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE,
                          "the host received %" PRIu64 " bytes instead of %" PRIu64,
                          thole_v1_UploadSnapshotResponse_received(m), s->sent + size);
    } else {
        memcpy(s->upload, name.data, name.size);
        s->upload[name.size] = '\0';
        s->sent += size;
        s->complete = thole_v1_UploadSnapshotResponse_complete(m);
    }
    upb_Arena_Free(arena);
    return code;
}

static enum thole_code send_piece(struct sending *s, const uint8_t *data, size_t size,
                                  struct thole_status *st)
{
    size_t bytes_size = 0;
    struct buf *reply = NULL;
    upb_Arena *arena = upb_Arena_New();
    thole_v1_UploadSnapshotRequest *q = thole_v1_UploadSnapshotRequest_new(arena);
    thole_v1_UploadSnapshotRequest_set_upload(q, text(s->upload));
    thole_v1_UploadSnapshotRequest_set_offset(q, s->sent);
    thole_v1_UploadSnapshotRequest_set_data(
        q, upb_StringView_FromDataAndSize((const char *)data, size));
    const char *bytes = thole_v1_UploadSnapshotRequest_serialize(q, arena, &bytes_size);
    enum thole_code code = bus_channel_call(s->channel, "/thole.v1.Snapshots/UploadSnapshot",
                                            slice_of(bytes, bytes_size), s->timeout_ms, &reply, st);
    upb_Arena_Free(arena);
    if (code == THOLE_OK) {
        code = read_received(s, reply, size, st);
    }
    buf_unref(reply);
    return code;
}

static enum thole_code send_all(struct sending *s, thole_read_fn read, void *ctx,
                                struct thole_status *st)
{
    uint8_t *buffer = xmalloc(SEND_BYTES);
    size_t size = SEND_BYTES;
    enum thole_code code = THOLE_OK;
    while (code == THOLE_OK && size == SEND_BYTES) {
        code = fill(read, ctx, buffer, &size, st);
        if (code == THOLE_OK && size > 0) {
            code = send_piece(s, buffer, size, st);
        }
    }
    free(buffer);
    if (code == THOLE_OK && !s->complete) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "the snapshot is cut");
    }
    return code;
}

/* The shard from what was sent. */
static enum thole_code restore(const struct sending *s, const char *name,
                               const struct thole_shard_spec *spec, struct thole_status *st)
{
    size_t size = 0;
    struct buf *reply = NULL;
    upb_Arena *arena = upb_Arena_New();
    thole_v1_RestoreSnapshotRequest *q = thole_v1_RestoreSnapshotRequest_new(arena);
    thole_v1_RestoreSnapshotRequest_set_upload(q, text(s->upload));
    thole_v1_RestoreSnapshotRequest_set_name(q, text(name));
    if (spec != NULL) {
        thole_v1_RestoreSnapshotRequest_set_spec(q, api__shard_spec(spec, arena));
        thole_v1_RestoreSnapshotRequest_set_request_id(q, text(spec->request_id));
    }
    const char *bytes = thole_v1_RestoreSnapshotRequest_serialize(q, arena, &size);
    enum thole_code code = bus_channel_call(s->channel, "/thole.v1.Snapshots/RestoreSnapshot",
                                            slice_of(bytes, size), s->timeout_ms, &reply, st);
    buf_unref(reply);
    upb_Arena_Free(arena);
    return code;
}

enum thole_code thole_snapshot_restore(struct thole *t, const char *name,
                                       const struct thole_shard_spec *given, thole_read_fn read,
                                       void *ctx, uint32_t timeout_ms, struct thole_status *st)
{
    struct thole_shard_spec spec = {0};
    struct thole_status failure = {0};
    struct sending s = {.timeout_ms = timeout_ms != 0 ? timeout_ms : API_TIMEOUT_MS};
    enum thole_code code = THOLE_OK;
    if (name == NULL || read == NULL) {
        code = THOLE_FAIL(&failure, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a name and a function that reads the snapshot are required");
    } else if (given != NULL) {
        code = api__read_shard_spec(given, &spec, &failure);
        if (code == THOLE_OK &&
            (strcmp(spec.name, name) != 0 || spec.etag != NULL || spec.validate_only)) {
            code = THOLE_FAIL(&failure, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "spec: the name must be the new shard's, etag and validate_only are "
                              "not for restores");
        }
    }
    if (code == THOLE_OK) {
        code = api__channel(t, &s.channel, &failure);
    }
    if (code == THOLE_OK) {
        code = send_all(&s, read, ctx, &failure);
    }
    if (code == THOLE_OK) {
        code = restore(&s, name, given != NULL ? &spec : NULL, &failure);
    }
    if (code != THOLE_OK && st != NULL) {
        *st = failure;
    }
    return code;
}
