/* Reading snapshot files in pieces. See exports.h.
 *
 * For a local replica: take a read point (unless stale), then the engine's file of that point or
 * later; a worker reads its pieces. The file's head is made here, from the registry's view. */
#include "agent/snapshots/exports.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/snapshots/snapshot_file.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/worker.h"
#include "proto/decode.h"
#include "proto/status_decode.h"
#include "shards/engine/snapshot/files.h"

#define OPEN_MAX 16
#define IDLE_NS (60 * NS_PER_S)
/* A read point comes with the next heartbeats, if there is a leader. */
#define READ_POINT_NS (20 * NS_PER_S)

struct export
{
    struct export *next;
    uint64_t id, shard_id, used_ns;
    struct bytes head;
    struct engine_export file;
};

struct exports {
    struct agent *agent;
    struct worker *worker;
    struct export *open; /* the worker's */
    size_t open_count;
    uint64_t last_id;
};

/* One read of a piece. */
struct job {
    struct worker_msg msg;
    struct exports *x;
    struct export_read q;
    struct engine_request read_point;
    uint64_t epoch;            /* of the replica, before the snapshot */
    struct engine_export file; /* of the first piece */
    export_piece_fn done;
    void *ctx;
};

static void answer(struct job *j, const struct thole_status *st, const struct export_piece *piece)
{
    if (j->file.file != NULL) {
        j->file.ops->close(j->file.file);
    }
    j->done(j->ctx, st, piece);
    free(j);
}

static void post(struct job *j)
{
    struct thole_status st;
    if (worker_post_internal(j->x->worker, &j->msg)) {
        return;
    }
    (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
    answer(j, &st, NULL);
}

/* ---- A replica of this host ------------------------------------------------------------------ */

static void exported(void *ctx, const struct thole_status *st)
{
    struct job *j = ctx;
    if (st->code != THOLE_OK) {
        answer(j, st, NULL);
    } else {
        post(j);
    }
}

/* Epochs only rise: one that is the same now was the same at the read point. */
static bool is_unchanged(const struct job *j)
{
    struct engine_replica_status now;
    return j->q.unless_index != 0 && j->read_point.index == j->q.unless_index &&
           j->read_point.term == j->q.unless_term &&
           engine_shard_status(j->x->agent->engine, j->q.shard_id, &now) &&
           now.epoch == j->q.unless_epoch;
}

static void read_point_known(struct engine_request *r)
{
    struct job *j = CONTAINER_OF(r, struct job, read_point);
    struct thole_status st = r->status;
    uint64_t index = r->index;
    bufslice_unref(r->result);
    if (st.code != THOLE_OK) {
        answer(j, &st, NULL);
    } else if (is_unchanged(j)) {
        answer(j, &st, &(struct export_piece){.unchanged = true});
    } else {
        engine_export(j->x->agent->engine, j->q.shard_id, index, &j->file, exported, j);
    }
}

static void take_snapshot(struct job *j)
{
    struct engine *e = j->x->agent->engine;
    struct engine_replica_status s = {0};
    (void)engine_shard_status(e, j->q.shard_id, &s);
    j->epoch = s.epoch;
    if (j->q.stale) {
        engine_export(e, j->q.shard_id, s.applied, &j->file, exported, j);
        return;
    }
    j->read_point.kind = ENGINE_READ_POINT;
    j->read_point.shard_id = j->q.shard_id;
    uint64_t latest = clock_now(&clock_system) + READ_POINT_NS;
    j->read_point.deadline_ns = j->q.deadline_ns < latest ? j->q.deadline_ns : latest;
    j->read_point.done = read_point_known;
    engine_submit(e, &j->read_point);
}

static enum thole_code make_head(struct exports *x, const struct job *j, struct bytes *out,
                                 struct thole_status *st)
{
    const struct engine_export *file = &j->file;
    uint64_t shard_id = j->q.shard_id;
    struct registry_shard_buf shard_buf;
    uint8_t trailer[SNAPSHOT_FILE_TRAILER_BYTES];
    struct uuid cluster = {{0}};
    uint64_t checksum = 0;
    enum thole_code code = THOLE_OK;
    if (file->size > sizeof trailer) {
        code =
            file->ops->read(file->file, file->size - sizeof trailer, trailer, sizeof trailer, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (file->size <= sizeof trailer || !snapshot_file_trailer(trailer, &checksum)) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "the snapshot file of the engine is cut off");
    }
    struct registry_view *v = registry_view_acquire(x->agent->registry);
    const thole_v1_Shard *row = registry_shard(v, shard_id, &shard_buf);
    upb_Arena *arena = upb_Arena_New();
    thole_v1_SnapshotFile *head = thole_v1_SnapshotFile_new(arena);
    if (!agent_has_view(x->agent, st)) {
        code = THOLE_UNAVAILABLE;
    } else if (row == NULL) {
        code = THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                          "shard %" PRIu64 " not found on the host", shard_id);
    } else {
        (void)registry_view_cluster(v, &cluster);
        thole_v1_SnapshotFile_set_format(head, SNAPSHOT_FILE_FORMAT);
        thole_v1_SnapshotFile_set_cluster_id(
            head,
            upb_StringView_FromDataAndSize((const char *)cluster.bytes, sizeof cluster.bytes));
        thole_v1_SnapshotFile_set_shard(head, thole_v1_Shard_name(row));
        thole_v1_SnapshotFile_set_shard_id(head, shard_id);
        thole_v1_SnapshotFile_set_host(head, upb_StringView_FromString(agent_name(x->agent)));
        /* The row is only read, for as long as the view is held. */
        thole_v1_SnapshotFile_set_spec(head, (thole_v1_ShardSpec *)thole_v1_Shard_spec(row));
        thole_v1_SnapshotFile_set_machine_version(head, file->machine_version);
        thole_v1_SnapshotFile_set_index(head, file->index);
        thole_v1_SnapshotFile_set_term(head, file->term);
        thole_v1_SnapshotFile_set_epoch(head, j->epoch);
        thole_v1_SnapshotFile_set_revision(head, registry_view_revision(v));
        thole_v1_SnapshotFile_set_time_ms(head, (int64_t)clock_system.wall_ms(&clock_system));
        thole_v1_SnapshotFile_set_body_bytes(head, file->size);
        thole_v1_SnapshotFile_set_body_checksum(head, checksum);
        snapshot_file_head(head, out);
    }
    upb_Arena_Free(arena);
    registry_view_release(v);
    return code;
}

/* ---- Pieces, on the worker ------------------------------------------------------------------- */

static void close_export(struct exports *x, struct export *e)
{
    struct export **at = &x->open;
    ASSERT(x->open_count > 0);
    while (*at != e) {
        at = &(*at)->next;
    }
    *at = e->next;
    x->open_count--;
    e->file.ops->close(e->file.file);
    bytes_deinit(&e->head);
    free(e);
}

static struct export *open_export(struct exports *x, struct job *j, struct thole_status *st)
{
    struct bytes head = {0};
    if (x->open_count >= OPEN_MAX) {
        (void)THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                         "%d snapshots are being read from this host already; retry later",
                         OPEN_MAX);
        return NULL;
    }
    if (make_head(x, j, &head, st) != THOLE_OK) {
        bytes_deinit(&head);
        return NULL;
    }
    struct export *e = xcalloc(1, sizeof *e);
    e->id = ++x->last_id;
    e->shard_id = j->q.shard_id;
    e->head = head;
    e->file = j->file;
    j->file.file = NULL;
    e->next = x->open;
    x->open = e;
    x->open_count++;
    return e;
}

static struct export *find_export(struct exports *x, const struct export_read *q)
{
    struct export *e = x->open;
    while (e != NULL && (e->id != q->id || e->shard_id != q->shard_id)) {
        e = e->next;
    }
    return e;
}

static enum thole_code read_piece(const struct export *e, uint64_t offset, uint64_t total,
                                  struct buf **ret, struct thole_status *st)
{
    size_t size =
        total - offset < EXPORTS_PIECE_BYTES ? (size_t)(total - offset) : EXPORTS_PIECE_BYTES;
    ASSERT(offset < total);
    struct buf *b = buf_new(size);
    size_t from_head = 0;
    enum thole_code code = THOLE_OK;
    if (offset < e->head.size) {
        from_head = e->head.size - (size_t)offset < size ? e->head.size - (size_t)offset : size;
        memcpy(b->data, e->head.data + offset, from_head);
    }
    if (size > from_head) {
        code = e->file.ops->read(e->file.file, offset + from_head - e->head.size,
                                 b->data + from_head, size - from_head, st);
    }
    if (code == THOLE_OK) {
        *ret = b;
    } else {
        buf_unref(b);
    }
    return code;
}

static void run(struct exports *x, struct job *j, uint64_t now_ns)
{
    struct thole_status st = {0};
    struct export_piece piece = {0};
    struct buf *b = NULL;
    ASSERT(worker_is_current(x->worker));
    struct export *e = j->file.file != NULL ? open_export(x, j, &st) : find_export(x, &j->q);
    if (e == NULL && st.code == THOLE_OK) {
        (void)THOLE_FAIL(
            &st, THOLE_NOT_FOUND, THOLE_REASON_NONE,
            "the snapshot was closed, because it was not read for a minute or its host restarted");
    }
    if (e != NULL) {
        e->used_ns = now_ns;
        piece = (struct export_piece){
            .id = e->id, .total_bytes = e->head.size + e->file.size, .index = e->file.index};
        if (j->q.offset >= piece.total_bytes) {
            (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                             "offset: is beyond the end");
        } else {
            (void)read_piece(e, j->q.offset, piece.total_bytes, &b, &st);
        }
    }
    if (b != NULL) {
        piece.data = (struct bufslice){b, slice_of(b->data, b->size)};
        if (j->q.offset + b->size == piece.total_bytes) {
            close_export(x, e);
        }
    }
    answer(j, &st, st.code == THOLE_OK ? &piece : NULL);
    buf_unref(b);
}

static uint64_t turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct exports *x = ctx;
    struct worker_msg *m;
    uint64_t next = CLOCK_NEVER;
    while ((m = msgq_pop(batch)) != NULL) {
        run(x, CONTAINER_OF(m, struct job, msg), now_ns);
    }
    for (struct export *e = x->open, *after; e != NULL; e = after) {
        after = e->next;
        if (e->used_ns + IDLE_NS <= now_ns) {
            close_export(x, e);
        } else if (e->used_ns + IDLE_NS < next) {
            next = e->used_ns + IDLE_NS;
        }
    }
    return next;
}

struct exports *agent_exports(struct agent *a)
{
    return a->exports;
}

struct exports *exports_new(struct agent *a)
{
    struct exports *x = xcalloc(1, sizeof *x);
    x->agent = a;
    x->worker = worker_new(a->executor, "exports", 1024, turn, x);
    return x;
}

void exports_stop(struct exports *x)
{
    worker_stop(x->worker);
}

void exports_free(struct exports *x)
{
    if (x == NULL) {
        return;
    }
    worker_free(x->worker);
    while (x->open != NULL) {
        close_export(x, x->open);
    }
    free(x);
}

/* ---- Other hosts ----------------------------------------------------------------------------- */

static void remote_answer(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    struct job *j = ctx;
    struct thole_status out = *st;
    struct export_piece piece = {0};
    if (more) {
        return;
    }
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_SnapshotPiece *m = NULL;
    if (st->code == THOLE_OK) {
        m = PROTO_DECODE(thole_bus_v1_SnapshotPiece, body.bytes, arena);
        if (m == NULL) {
            (void)THOLE_FAIL(&out, THOLE_INTERNAL, THOLE_REASON_BAD_REQUEST,
                             "malformed piece of a snapshot");
        }
    }
    if (m != NULL && thole_bus_v1_SnapshotPiece_failure_code(m) != 0) {
        upb_StringView reason = thole_bus_v1_SnapshotPiece_failure_reason(m);
        upb_StringView message = thole_bus_v1_SnapshotPiece_failure_message(m);
        proto_status_decode(thole_bus_v1_SnapshotPiece_failure_code(m),
                            slice_of(reason.data, reason.size),
                            slice_of(message.data, message.size), &out);
    } else if (m != NULL) {
        upb_StringView data = thole_bus_v1_SnapshotPiece_data(m);
        struct buf *b = buf_copy(data.data, data.size);
        piece.unchanged = thole_bus_v1_SnapshotPiece_unchanged(m);
        piece.id = thole_bus_v1_SnapshotPiece_id(m);
        piece.total_bytes = thole_bus_v1_SnapshotPiece_total_bytes(m);
        piece.index = thole_bus_v1_SnapshotPiece_index(m);
        piece.data = (struct bufslice){b, slice_of(b->data, b->size)};
    }
    answer(j, &out, out.code == THOLE_OK ? &piece : NULL);
    bufslice_unref(piece.data);
    upb_Arena_Free(arena);
}

static struct bufslice serialized(const char *bytes, size_t size)
{
    ASSERT(bytes != NULL);
    struct buf *b = buf_copy(bytes, size);
    return (struct bufslice){b, slice_of(b->data, size)};
}

static void ask(struct job *j)
{
    size_t size = 0;
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_SnapshotRead *m = thole_bus_v1_SnapshotRead_new(arena);
    thole_bus_v1_SnapshotRead_set_shard_id(m, j->q.shard_id);
    thole_bus_v1_SnapshotRead_set_id(m, j->q.id);
    thole_bus_v1_SnapshotRead_set_offset(m, j->q.offset);
    thole_bus_v1_SnapshotRead_set_stale(m, j->q.stale);
    thole_bus_v1_SnapshotRead_set_unless_index(m, j->q.unless_index);
    thole_bus_v1_SnapshotRead_set_unless_term(m, j->q.unless_term);
    thole_bus_v1_SnapshotRead_set_unless_epoch(m, j->q.unless_epoch);
    const char *bytes = thole_bus_v1_SnapshotRead_serialize(m, arena, &size);
    uint64_t now = clock_now(&clock_system);
    uint64_t left_ms = j->q.deadline_ns > now ? (j->q.deadline_ns - now) / NS_PER_MS + 1 : 1;
    (void)bus_exchange(j->x->agent->bus, &j->q.host, METHOD_SNAPSHOT, serialized(bytes, size),
                       left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX, remote_answer, j);
    upb_Arena_Free(arena);
}

void exports_read(struct exports *x, const struct export_read *q, export_piece_fn done, void *ctx)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->x = x;
    j->q = *q;
    j->done = done;
    j->ctx = ctx;
    if (!uuid_equal(&q->host, agent_host_id(x->agent))) {
        ask(j);
    } else if (q->id == 0) {
        take_snapshot(j);
    } else {
        post(j);
    }
}

/* ---- For other hosts ------------------------------------------------------------------------- */

static void served(void *ctx, const struct thole_status *st, const struct export_piece *piece)
{
    struct bus_request *q = ctx;
    size_t size = 0;
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_SnapshotPiece *m = thole_bus_v1_SnapshotPiece_new(arena);
    if (piece != NULL) {
        thole_bus_v1_SnapshotPiece_set_unchanged(m, piece->unchanged);
        thole_bus_v1_SnapshotPiece_set_id(m, piece->id);
        thole_bus_v1_SnapshotPiece_set_total_bytes(m, piece->total_bytes);
        thole_bus_v1_SnapshotPiece_set_index(m, piece->index);
        thole_bus_v1_SnapshotPiece_set_data(
            m, upb_StringView_FromDataAndSize((const char *)piece->data.bytes.data,
                                              piece->data.bytes.size));
    } else {
        thole_bus_v1_SnapshotPiece_set_failure_code(m, (uint32_t)st->code);
        thole_bus_v1_SnapshotPiece_set_failure_reason(
            m, upb_StringView_FromString(thole_reason_name(st->reason)));
        thole_bus_v1_SnapshotPiece_set_failure_message(m, upb_StringView_FromString(st->message));
    }
    const char *bytes = thole_bus_v1_SnapshotPiece_serialize(m, arena, &size);
    bus_answer(q, serialized(bytes, size), false);
    upb_Arena_Free(arena);
}

void exports_serve(struct exports *x, struct bus_request *q)
{
    struct thole_status st;
    struct slice body = bus_request_body(q);
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_SnapshotRead *m = PROTO_DECODE(thole_bus_v1_SnapshotRead, body, arena);
    if (m != NULL) {
        uint64_t latest = clock_now(&clock_system) + IDLE_NS;
        uint64_t deadline_ns = bus_request_deadline_ns(q);
        const struct export_read read = {
            .host = *agent_host_id(x->agent),
            .shard_id = thole_bus_v1_SnapshotRead_shard_id(m),
            .id = thole_bus_v1_SnapshotRead_id(m),
            .offset = thole_bus_v1_SnapshotRead_offset(m),
            .stale = thole_bus_v1_SnapshotRead_stale(m),
            .unless_index = thole_bus_v1_SnapshotRead_unless_index(m),
            .unless_term = thole_bus_v1_SnapshotRead_unless_term(m),
            .unless_epoch = thole_bus_v1_SnapshotRead_unless_epoch(m),
            .deadline_ns = deadline_ns < latest ? deadline_ns : latest,
        };
        exports_read(x, &read, served, q);
    } else {
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "malformed request for a snapshot");
        bus_answer_failure(q, &st);
    }
    upb_Arena_Free(arena);
}
