/* Snapshot files. See snapshot_io.h. */
#include "agent/cli/snapshot_io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "bus/bus.h"
#include "proto/decode.h"

#define PIECE_BYTES (1 * MIB)
/* The first piece comes after the machine has written its file. */
#define PIECE_MS (10 * 60 * 1000)

static enum thole_code fail_path(struct thole_status *st, int error, const char *what,
                                 const char *path)
{
    const char *why = strerrordesc_np(error); /* strerror is not thread safe */
    return THOLE_FAIL(st, error == ENOENT ? THOLE_NOT_FOUND : THOLE_FAILED_PRECONDITION,
                      THOLE_REASON_DISK, "%s %s: %s", what, path,
                      why != NULL ? why : "unknown error");
}

/* ---- From the cluster ------------------------------------------------------------------------ */

struct target {
    int fd; /* -1: no piece has come */
    const char *part;
    struct hash_state *hash;
};

static enum thole_code write_all(struct target *t, struct slice s, struct thole_status *st)
{
    if (t->fd < 0) {
        t->fd = file_create(t->part);
    }
    if (t->fd < 0) {
        return fail_path(st, errno, "create", t->part);
    }
    hash_state_update(t->hash, s.data, s.size);
    while (s.size > 0) {
        ssize_t n = write(t->fd, s.data, s.size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail_path(st, errno, "write", t->part);
        }
        s = slice_of(s.data + n, s.size - (size_t)n);
    }
    return THOLE_OK;
}

static enum thole_code take_piece(struct snapshot_fetch *q, struct target *t, struct slice message,
                                  struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    enum thole_code code = THOLE_OK;
    const thole_v1_SaveSnapshotResponse *m =
        PROTO_DECODE(thole_v1_SaveSnapshotResponse, message, arena);
    if (m == NULL) {
        code = THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE,
                          "a piece of the snapshot does not decode");
    } else {
        upb_StringView data = thole_v1_SaveSnapshotResponse_data(m);
        code = snapshot_check_feed(q->check, slice_of(data.data, data.size), NULL, st);
        if (code == THOLE_OK) {
            code = write_all(t, slice_of(data.data, data.size), st);
            q->is_own_failure = code != THOLE_OK;
        }
        q->progress(q->ctx, snapshot_check_fed(q->check),
                    thole_v1_SaveSnapshotResponse_total_bytes(m));
    }
    upb_Arena_Free(arena);
    return code;
}

static enum thole_code open_stream(struct snapshot_fetch *q, struct bus_stream **ret,
                                   struct thole_status *st)
{
    size_t size = 0;
    upb_Arena *arena = upb_Arena_New();
    thole_v1_SaveSnapshotRequest *request = thole_v1_SaveSnapshotRequest_new(arena);
    thole_v1_SaveSnapshotRequest_set_shard(request, q->shard);
    thole_v1_SaveSnapshotRequest_set_stale(request, q->stale);
    if (q->unless != NULL) {
        thole_v1_SaveSnapshotRequest_set_unless(request, (thole_v1_SnapshotPoint *)q->unless);
    }
    char *bytes = thole_v1_SaveSnapshotRequest_serialize(request, arena, &size);
    enum thole_code code = cli__connect(q->c, st);
    if (code == THOLE_OK) {
        code = bus_channel_stream(q->c->channel, "/thole.v1.Snapshots/SaveSnapshot",
                                  slice_of(bytes, size), ret, st);
    }
    upb_Arena_Free(arena);
    return code;
}

/* Write the stream to the target, and check it. */
static enum thole_code receive(struct snapshot_fetch *q, struct target *t, struct thole_status *st)
{
    struct bus_stream *stream = NULL;
    enum thole_code code = open_stream(q, &stream, st);
    while (code == THOLE_OK) {
        struct buf *b = NULL;
        code = bus_stream_next(stream, PIECE_MS, &b, st);
        if (code == THOLE_OK) {
            code = take_piece(q, t, slice_of(b->data, b->size), st);
        }
        buf_unref(b);
    }
    bus_stream_free(stream);
    if (code != THOLE_OUT_OF_RANGE || st->reason != THOLE_REASON_NONE) {
        return code;
    }
    /* The regular end. */
    q->unchanged = q->unless != NULL && snapshot_check_fed(q->check) == 0;
    return q->unchanged ? THOLE_OK : snapshot_check_end(q->check, st);
}

static enum thole_code into_place(const struct target *t, const char *path, struct thole_status *st)
{
    if (fsync(t->fd) != 0 || rename(t->part, path) != 0) {
        return fail_path(st, errno, "write", path);
    }
    const char *slash = strrchr(path, '/');
    char *dir = slash == NULL ? xstrdup(".") : xstrndup(path, (size_t)(slash - path) + 1);
    enum thole_code code = file_sync_dir(dir, st);
    free(dir);
    return code;
}

enum thole_code snapshot_fetch(struct snapshot_fetch *q, const char *path, struct thole_status *st)
{
    char *part = xasprintf("%s.part", path);
    struct target t = {.fd = -1, .part = part, .hash = hash_state_new(0)};
    enum thole_code code = receive(q, &t, st);
    if (code == THOLE_OK && !q->unchanged) {
        q->checksum = hash_state_digest(t.hash);
        code = into_place(&t, path, st);
        q->is_own_failure = code != THOLE_OK;
    }
    if (t.fd >= 0) {
        (void)close(t.fd);
        if (code != THOLE_OK) {
            (void)unlink(part);
        }
    }
    hash_state_free(t.hash);
    free(part);
    return code;
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* Calls `piece` for each piece of the file. */
typedef enum thole_code (*piece_fn)(void *ctx, uint64_t offset, struct slice piece,
                                    struct thole_status *st);

static enum thole_code read_pieces(const char *path, piece_fn piece, void *ctx,
                                   struct thole_status *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return fail_path(st, errno, "open", path);
    }
    uint8_t *buffer = xmalloc(PIECE_BYTES);
    enum thole_code code = THOLE_OK;
    uint64_t offset = 0;
    ssize_t n = 1;
    while (code == THOLE_OK && n != 0) {
        n = read(fd, buffer, PIECE_BYTES);
        if (n < 0 && errno != EINTR) {
            code = fail_path(st, errno, "read", path);
        } else if (n > 0) {
            code = piece(ctx, offset, slice_of(buffer, (size_t)n), st);
            offset += (uint64_t)n;
        }
    }
    free(buffer);
    (void)close(fd);
    return code;
}

struct checking {
    struct snapshot_check *check;
    struct hash_state *hash;
};

static enum thole_code check_piece(void *ctx, uint64_t offset, struct slice piece,
                                   struct thole_status *st)
{
    const struct checking *k = ctx;
    (void)offset;
    hash_state_update(k->hash, piece.data, piece.size);
    return snapshot_check_feed(k->check, piece, NULL, st);
}

enum thole_code snapshot_check_path(const char *path, struct snapshot_check *check,
                                    uint64_t *ret_checksum, struct thole_status *st)
{
    struct checking k = {check, hash_state_new(0)};
    enum thole_code code = read_pieces(path, check_piece, &k, st);
    if (code == THOLE_OK) {
        code = snapshot_check_end(check, st);
    }
    if (code == THOLE_OK && ret_checksum != NULL) {
        *ret_checksum = hash_state_digest(k.hash);
    }
    hash_state_free(k.hash);
    return code;
}

/* ---- Into a cluster -------------------------------------------------------------------------- */

struct upload {
    struct cli *c;
    snapshot_progress_fn progress;
    void *ctx;
    uint64_t total;
    char name[UUID_TEXT_BYTES];
    bool complete;
};

static enum thole_code send_piece(void *ctx, uint64_t offset, struct slice piece,
                                  struct thole_status *st)
{
    struct upload *u = ctx;
    upb_Arena *arena = upb_Arena_New();
    void *reply = NULL;
    thole_v1_UploadSnapshotRequest *q = thole_v1_UploadSnapshotRequest_new(arena);
    thole_v1_UploadSnapshotRequest_set_upload(q, cli__sv(u->name));
    thole_v1_UploadSnapshotRequest_set_offset(q, offset);
    thole_v1_UploadSnapshotRequest_set_data(
        q, upb_StringView_FromDataAndSize((const char *)piece.data, piece.size));
    enum thole_code code = cli__call_in(
        u->c, "/thole.v1.Snapshots/UploadSnapshot", q, &thole_v1_UploadSnapshotRequest_msginit,
        &thole_v1_UploadSnapshotResponse_msginit, arena, &reply, st);
    if (code == THOLE_OK) {
        upb_StringView name = thole_v1_UploadSnapshotResponse_upload(reply);
        uint64_t received = thole_v1_UploadSnapshotResponse_received(reply);
        u->complete = thole_v1_UploadSnapshotResponse_complete(reply);
        if (name.size >= sizeof u->name || received != offset + piece.size) {
            code = THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE,
                              "the host received %" PRIu64 " bytes instead of %" PRIu64, received,
                              offset + piece.size);
        } else {
            memcpy(u->name, name.data, name.size);
            u->name[name.size] = '\0';
            u->progress(u->ctx, received, u->total);
        }
    }
    upb_Arena_Free(arena);
    return code;
}

enum thole_code snapshot_upload(struct cli *c, const char *path, snapshot_progress_fn progress,
                                void *ctx, char ret_name[UUID_TEXT_BYTES], struct thole_status *st)
{
    struct upload u = {.c = c, .progress = progress, .ctx = ctx};
    struct snapshot_check *k = snapshot_check_new();
    enum thole_code code = snapshot_check_path(path, k, NULL, st); /* a damaged file is not sent */
    u.total = snapshot_check_fed(k);
    snapshot_check_free(k);
    if (code == THOLE_OK) {
        code = read_pieces(path, send_piece, &u, st);
    }
    if (code == THOLE_OK && !u.complete) {
        code = THOLE_FAIL(st, THOLE_ABORTED, THOLE_REASON_NONE,
                          "the file was changed during the upload");
    }
    if (code == THOLE_OK) {
        memcpy(ret_name, u.name, sizeof u.name);
    }
    return code;
}
