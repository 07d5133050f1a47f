/* `thole snapshot`: files with the state of shards. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/cmd_apply.h"
#include "agent/snapshots/snapshot_file.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/uuid.h"
#include "bus/bus.h"
#include "proto/decode.h"
#include "thole/v1/snapshots.upbdefs.h"

#define PIECE_BYTES (1 * MIB)
/* The first piece comes after the machine has written its file. */
#define PIECE_MS (10 * 60 * 1000)

/* ---- Progress -------------------------------------------------------------------------------- */

struct meter {
    const char *what;
    bool terminal;
    uint64_t told_ns;
};

static struct meter meter_of(const char *what)
{
    return (struct meter){.what = what, .terminal = isatty(STDERR_FILENO) != 0};
}

static void show(struct meter *m, uint64_t done, uint64_t total)
{
    char have[16], all[16];
    uint64_t now = clock_now(&clock_system);
    bool end = done == total;
    if (!end && m->told_ns != 0 && now - m->told_ns < (m->terminal ? NS_PER_S / 5 : NS_PER_S)) {
        return;
    }
    m->told_ns = now;
    fprintf(stderr, "%s%s %s of %s (%.0f%%)%s", m->terminal ? "\r\033[K" : "", m->what,
            cli__bytes(done, have, sizeof have), cli__bytes(total, all, sizeof all),
            total > 0 ? 100.0 * (double)done / (double)total : 0, m->terminal && !end ? "" : "\n");
    fflush(stderr);
}

/* ---- Save ------------------------------------------------------------------------------------ */

static enum thole_code write_all(int fd, const char *path, struct slice s, struct thole_status *st)
{
    while (s.size > 0) {
        ssize_t n = write(fd, s.data, s.size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_DISK, "write %s: %s",
                              path, strerror(errno));
        }
        s = slice_of(s.data + n, s.size - (size_t)n);
    }
    return THOLE_OK;
}

static enum thole_code take_piece(struct snapshot_check *k, int fd, const char *path,
                                  struct slice message, uint64_t *ret_total,
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
        *ret_total = thole_v1_SaveSnapshotResponse_total_bytes(m);
        code = snapshot_check_feed(k, slice_of(data.data, data.size), NULL, st);
        if (code == THOLE_OK) {
            code = write_all(fd, path, slice_of(data.data, data.size), st);
        }
    }
    upb_Arena_Free(arena);
    return code;
}

/* Write the stream to `fd`, and check it. */
static enum thole_code receive(struct cli *c, struct snapshot_check *k, int fd, const char *path,
                               struct thole_status *st)
{
    struct bus_stream *stream = NULL;
    struct meter meter = meter_of("saved");
    size_t size = 0;
    uint64_t total = 0;
    thole_v1_SaveSnapshotRequest *request = thole_v1_SaveSnapshotRequest_new(c->arena);
    thole_v1_SaveSnapshotRequest_set_shard(request, cli__sv(cli__strip(c->args[0], "shard")));
    thole_v1_SaveSnapshotRequest_set_stale(request, cli_flag(c, OPT_STALE));
    char *bytes = thole_v1_SaveSnapshotRequest_serialize(request, c->arena, &size);
    enum thole_code code = cli__connect(c, st);
    if (code == THOLE_OK) {
        code = bus_channel_stream(c->channel, "/thole.v1.Snapshots/SaveSnapshot",
                                  slice_of(bytes, size), &stream, st);
    }
    while (code == THOLE_OK) {
        struct buf *b = NULL;
        code = bus_stream_next(stream, PIECE_MS, &b, st);
        if (code == THOLE_OK) {
            code = take_piece(k, fd, path, slice_of(b->data, b->size), &total, st);
            show(&meter, snapshot_check_fed(k), total);
        }
        buf_unref(b);
    }
    bus_stream_free(stream);
    if (code == THOLE_OUT_OF_RANGE && st->reason == THOLE_REASON_NONE) { /* the regular end */
        code = snapshot_check_end(k, st);
    }
    return code;
}

static enum thole_code into_place(int fd, const char *part, const char *path,
                                  struct thole_status *st)
{
    if (fsync(fd) != 0 || rename(part, path) != 0) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_DISK, "%s: %s", path,
                          strerror(errno));
    }
    char *copy = xstrdup(path);
    enum thole_code code = file_sync_dir(dirname(copy), st);
    free(copy);
    return code;
}

static void print_saved(const char *path, const thole_v1_SnapshotFile *head, uint64_t bytes)
{
    printf("%s: shards/%.*s up to log index %" PRIu64 ", %" PRIu64 " bytes\n", path,
           CLI_SV(thole_v1_SnapshotFile_shard(head)), thole_v1_SnapshotFile_index(head), bytes);
}

int cli__command_snapshot_save(struct cli *c)
{
    struct thole_status st;
    const char *path = c->args[1];
    char *part = xasprintf("%s.part", path);
    int fd = file_create(part);
    if (fd < 0) {
        int result = cli__say_failed("cannot create %s: %s", part, strerror(errno));
        free(part);
        return result;
    }
    struct snapshot_check *k = snapshot_check_new();
    enum thole_code code = receive(c, k, fd, part, &st);
    if (code == THOLE_OK) {
        code = into_place(fd, part, path, &st);
    }
    if (code != THOLE_OK) {
        (void)unlink(part);
    }
    (void)close(fd);
    free(part);
    int result = CLI_OK;
    if (code != THOLE_OK) {
        result = cli__say_status("cannot save the snapshot", &st);
    } else {
        const thole_v1_SnapshotFile *head = snapshot_check_head(k);
        if (cli__is_document(c)) {
            cli__document(c, "SnapshotFile", head, thole_v1_SnapshotFile_getmsgdef(c->pool));
        } else {
            print_saved(path, head, snapshot_check_fed(k));
        }
        result = cli__flush();
    }
    snapshot_check_free(k);
    return result;
}

/* ---- Status ---------------------------------------------------------------------------------- */

/* Calls `piece` for each piece of the file. */
typedef enum thole_code (*piece_fn)(void *ctx, uint64_t offset, struct slice piece,
                                    struct thole_status *st);
static enum thole_code read_pieces(const char *path, piece_fn piece, void *ctx,
                                   struct thole_status *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return THOLE_FAIL(st, errno == ENOENT ? THOLE_NOT_FOUND : THOLE_FAILED_PRECONDITION,
                          THOLE_REASON_DISK, "open %s: %s", path, strerror(errno));
    }
    uint8_t *buffer = xmalloc(PIECE_BYTES);
    enum thole_code code = THOLE_OK;
    uint64_t offset = 0;
    ssize_t n = 1;
    while (code == THOLE_OK && n != 0) {
        n = read(fd, buffer, PIECE_BYTES);
        if (n < 0 && errno != EINTR) {
            code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_DISK, "read %s: %s", path,
                              strerror(errno));
        } else if (n > 0) {
            code = piece(ctx, offset, slice_of(buffer, (size_t)n), st);
            offset += (uint64_t)n;
        }
    }
    free(buffer);
    (void)close(fd);
    return code;
}

static enum thole_code check_piece(void *ctx, uint64_t offset, struct slice piece,
                                   struct thole_status *st)
{
    (void)offset;
    return snapshot_check_feed(ctx, piece, NULL, st);
}

static enum thole_code check_file(const char *path, struct snapshot_check *k,
                                  struct thole_status *st)
{
    enum thole_code code = read_pieces(path, check_piece, k, st);
    return code == THOLE_OK ? snapshot_check_end(k, st) : code;
}

static void print_head(const thole_v1_SnapshotFile *h, uint64_t bytes)
{
    char time[40], size[16], cluster[UUID_TEXT_BYTES] = "?";
    struct uuid id;
    upb_StringView raw = thole_v1_SnapshotFile_cluster_id(h);
    const thole_v1_ShardSpec *spec = thole_v1_SnapshotFile_spec(h);
    if (raw.size == sizeof id.bytes) {
        memcpy(id.bytes, raw.data, sizeof id.bytes);
        uuid_format(&id, cluster);
    }
    printf("Shard:     %.*s (id %" PRIu64 ")\n", CLI_SV(thole_v1_SnapshotFile_shard(h)),
           thole_v1_SnapshotFile_shard_id(h));
    printf("Type:      %.*s, version %" PRIu32 "\n", CLI_SV(thole_v1_ShardSpec_type(spec)),
           thole_v1_SnapshotFile_machine_version(h));
    printf("Voters:    %" PRIu32 "\n", thole_v1_ShardSpec_voters(spec));
    printf("Index:     %" PRIu64 ", term %" PRIu64 "\n", thole_v1_SnapshotFile_index(h),
           thole_v1_SnapshotFile_term(h));
    printf("Saved:     %s, on %.*s\n",
           cli__time(thole_v1_SnapshotFile_time_ms(h), time, sizeof time),
           CLI_SV(thole_v1_SnapshotFile_host(h)));
    printf("Cluster:   %s, revision %" PRIu64 "\n", cluster, thole_v1_SnapshotFile_revision(h));
    printf("Size:      %" PRIu64 " bytes (%s)\n", bytes, cli__bytes(bytes, size, sizeof size));
    printf("Checksum:  %016" PRIx64 ", right\n", thole_v1_SnapshotFile_body_checksum(h));
}

static int show_head(struct cli *c, const thole_v1_SnapshotFile *h, uint64_t bytes)
{
    if (cli__format(c) == FORMAT_NAME) {
        printf("shards/%.*s\n", CLI_SV(thole_v1_SnapshotFile_shard(h)));
    } else if (cli__is_document(c)) {
        cli__document(c, "SnapshotFile", h, thole_v1_SnapshotFile_getmsgdef(c->pool));
    } else {
        print_head(h, bytes);
    }
    return cli__flush();
}

int cli__command_snapshot_status(struct cli *c)
{
    struct thole_status st;
    struct snapshot_check *k = snapshot_check_new();
    int result = check_file(c->args[0], k, &st) == THOLE_OK
                     ? show_head(c, snapshot_check_head(k), snapshot_check_fed(k))
                     : cli__say_status(c->args[0], &st);
    snapshot_check_free(k);
    return result;
}

/* ---- Restore --------------------------------------------------------------------------------- */

struct upload {
    struct cli *c;
    struct meter meter;
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
            show(&u->meter, received, u->total);
        }
    }
    upb_Arena_Free(arena);
    return code;
}

/* Read the spec of -f, if given; false after a message. */
static bool read_spec(struct cli *c, thole_v1_RestoreSnapshotRequest *request, int *ret)
{
    struct spec_list list = {0};
    *ret = CLI_OK;
    if (!cli_given(c, OPT_FILE)) {
        return true;
    }
    *ret = apply_read(c, &list);
    if (*ret == CLI_OK && (list.count != 1 || list.items[0].kind != SPEC_SHARD)) {
        *ret = cli__say_usage(c, "%s: one spec of kind Shard is needed", cli_text(c, OPT_FILE));
    }
    if (*ret == CLI_OK) {
        const thole_v1_Shard *row = (const thole_v1_Shard *)list.items[0].row;
        thole_v1_RestoreSnapshotRequest_set_spec(request,
                                                 (thole_v1_ShardSpec *)thole_v1_Shard_spec(row));
    }
    spec_list_deinit(&list);
    return *ret == CLI_OK;
}

/* The server refuses a taken name, too, but only after the whole upload. */
static bool is_free(struct cli *c, const char *name)
{
    struct thole_status st;
    const thole_v1_Shard *row = NULL;
    return rows_get_shard(c, name, false, &row, &st) != THOLE_OK ||
           thole_v1_Shard_awaits_restore(row);
}

/* A damaged file is not sent. */
static enum thole_code upload_file(struct cli *c, struct upload *u, struct thole_status *st)
{
    struct snapshot_check *k = snapshot_check_new();
    enum thole_code code = check_file(c->args[0], k, st);
    u->total = snapshot_check_fed(k);
    snapshot_check_free(k);
    if (code == THOLE_OK) {
        code = read_pieces(c->args[0], send_piece, u, st);
    }
    if (code == THOLE_OK && !u->complete) {
        code = THOLE_FAIL(st, THOLE_ABORTED, THOLE_REASON_NONE,
                          "the file was changed during the upload");
    }
    return code;
}

int cli__command_snapshot_restore(struct cli *c)
{
    struct thole_status st;
    struct upload u = {.c = c, .meter = meter_of("sent")};
    const thole_v1_Operation *reply = NULL;
    int result = CLI_OK;
    thole_v1_RestoreSnapshotRequest *request = thole_v1_RestoreSnapshotRequest_new(c->arena);
    thole_v1_RestoreSnapshotRequest_set_name(request, cli__sv(cli__strip(c->args[1], "shard")));
    thole_v1_RestoreSnapshotRequest_set_request_id(request, cli__request_id(c));
    if (!read_spec(c, request, &result)) {
        return result;
    }
    if (!is_free(c, cli__strip(c->args[1], "shard"))) {
        return cli__say_failed("shard \"%s\" exists: nothing is overwritten; give another name",
                               cli__strip(c->args[1], "shard"));
    }
    if (upload_file(c, &u, &st) != THOLE_OK) {
        return cli__say_status("cannot upload the snapshot to the host", &st);
    }
    thole_v1_RestoreSnapshotRequest_set_upload(request, cli__sv(u.name));
    enum thole_code code = CLI_CALL(c, Snapshots, RestoreSnapshot, request, &reply, Operation, &st);
    return operation_started(c, code, reply, &st);
}
