/* `thole snapshot`: files with the state of shards. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/cmd_apply.h"
#include "agent/cli/snapshot_io.h"
#include "base/clock.h"
#include "thole/v1/snapshots.upbdefs.h"

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

static void show(void *ctx, uint64_t done, uint64_t total)
{
    struct meter *m = ctx;
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

static void print_saved(const char *path, const thole_v1_SnapshotFile *head, uint64_t bytes)
{
    printf("%s: shards/%.*s up to log index %" PRIu64 ", %" PRIu64 " bytes\n", path,
           CLI_SV(thole_v1_SnapshotFile_shard(head)), thole_v1_SnapshotFile_index(head), bytes);
}

int cli__command_snapshot_save(struct cli *c)
{
    struct thole_status st;
    struct meter meter = meter_of("saved");
    const char *path = c->args[1];
    struct snapshot_fetch q = {.c = c,
                               .shard = cli__sv(cli__strip(c->args[0], "shard")),
                               .stale = cli_flag(c, OPT_STALE),
                               .progress = show,
                               .ctx = &meter,
                               .check = snapshot_check_new()};
    int result = CLI_OK;
    if (snapshot_fetch(&q, path, &st) != THOLE_OK) {
        result = cli__say_status("cannot save the snapshot", &st);
    } else {
        const thole_v1_SnapshotFile *head = snapshot_check_head(q.check);
        if (cli__is_document(c)) {
            cli__document(c, "SnapshotFile", head, thole_v1_SnapshotFile_getmsgdef(c->pool));
        } else {
            print_saved(path, head, snapshot_check_fed(q.check));
        }
        result = cli__flush();
    }
    snapshot_check_free(q.check);
    return result;
}

/* ---- Status ---------------------------------------------------------------------------------- */

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
    int result = snapshot_check_path(c->args[0], k, NULL, &st) == THOLE_OK
                     ? show_head(c, snapshot_check_head(k), snapshot_check_fed(k))
                     : cli__say_status(c->args[0], &st);
    snapshot_check_free(k);
    return result;
}

/* ---- Restore --------------------------------------------------------------------------------- */

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

int cli__command_snapshot_restore(struct cli *c)
{
    struct thole_status st;
    struct meter meter = meter_of("sent");
    char upload[UUID_TEXT_BYTES];
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
    if (snapshot_upload(c, c->args[0], show, &meter, upload, &st) != THOLE_OK) {
        return cli__say_status("cannot upload the snapshot to the host", &st);
    }
    thole_v1_RestoreSnapshotRequest_set_upload(request, cli__sv(upload));
    enum thole_code code = CLI_CALL(c, Snapshots, RestoreSnapshot, request, &reply, Operation, &st);
    return operation_started(c, code, reply, &st);
}
