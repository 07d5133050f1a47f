/* `thole host log-level`, `thole debug bundle`: calls of thole.v1.Diagnostics. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>
#include <time.h>
#include <unistd.h>

#include "agent/cli/rows.h"
#include "base/clock.h"
#include "base/limits.h"
#include "registry/registry.h"
#include "thole/v1/control.upbdefs.h"
#include "thole/v1/diagnostics.upb.h"
#include "thole/v1/diagnostics.upbdefs.h"

int cli__command_host_log_level(struct cli *c)
{
    struct thole_status st;
    const thole_v1_LogLevels *reply = NULL;
    upb_StringView name = cli__sv(cli__strip(c->args[0], "host"));
    enum thole_code code = THOLE_OK;
    if (c->arg_count > 1) {
        thole_v1_SetLogLevelsRequest *q = thole_v1_SetLogLevelsRequest_new(c->arena);
        thole_v1_SetLogLevelsRequest_set_name(q, name);
        thole_v1_SetLogLevelsRequest_set_levels(q, cli__sv(c->args[1]));
        code = CLI_CALL(c, Diagnostics, SetLogLevels, q, &reply, LogLevels, &st);
    } else {
        thole_v1_GetLogLevelsRequest *q = thole_v1_GetLogLevelsRequest_new(c->arena);
        thole_v1_GetLogLevelsRequest_set_name(q, name);
        code = CLI_CALL(c, Diagnostics, GetLogLevels, q, &reply, LogLevels, &st);
    }
    if (code != THOLE_OK) {
        return cli__say_status("host log-level", &st);
    }
    if (cli__is_document(c)) {
        cli__document(c, "LogLevels", reply, thole_v1_LogLevels_getmsgdef(c->pool));
    } else {
        cli__line("%.*s", CLI_SV(thole_v1_LogLevels_levels(reply)));
    }
    return cli__flush();
}

/* ---- The tar file ---------------------------------------------------------------------------- */

#define TAR_BLOCK 512
#define TAR_NAME_BYTES 100
#define ROOT "thole-debug" /* the folder in the file */

struct bundle {
    struct cli *c;
    FILE *out;
    struct bytes readme; /* written last */
    size_t answered, hosts;
};

/* A header of POSIX ustar: numbers are octal, and the sum counts its own field as spaces. */
static void tar_header(const char *name, size_t size, char block[static TAR_BLOCK])
{
    unsigned sum = 0;
    memset(block, 0, TAR_BLOCK);
    snprintf(block, TAR_NAME_BYTES, "%s", name);
    snprintf(block + 100, 8, "0000600");
    snprintf(block + 108, 8, "0000000");
    snprintf(block + 116, 8, "0000000");
    snprintf(block + 124, 12, "%011zo", size);
    snprintf(block + 136, 12, "%011" PRIo64, (uint64_t)time(NULL));
    memset(block + 148, ' ', 8);
    block[156] = '0';
    snprintf(block + 257, 6, "ustar");
    block[263] = block[264] = '0'; /* the version */
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        sum += (unsigned char)block[i];
    }
    snprintf(block + 148, 7, "%06o", sum & 0777777);
}

static void add_file(struct bundle *b, const char *name, struct slice text)
{
    static const char zeros[TAR_BLOCK];
    char block[TAR_BLOCK], path[TAR_NAME_BYTES];
    int n = snprintf(path, sizeof path, ROOT "/%s", name);
    if (n < 0 || (size_t)n >= sizeof path) {
        bytes_printf(&b->readme, "left out, its name is too long: %s\n", name);
        return;
    }
    tar_header(path, text.size, block);
    (void)fwrite(block, 1, sizeof block, b->out);
    (void)fwrite(text.data, 1, text.size, b->out);
    (void)fwrite(zeros, 1, (TAR_BLOCK - text.size % TAR_BLOCK) % TAR_BLOCK, b->out);
}

static void add_text(struct bundle *b, const char *folder, const char *name, struct slice text)
{
    char path[TAR_NAME_BYTES];
    snprintf(path, sizeof path, "%.80s%s", folder, name);
    add_file(b, path, text);
}

/* ---- What is in it --------------------------------------------------------------------------- */

static void missing(struct bundle *b, const char *what, const struct thole_status *st)
{
    bytes_printf(&b->readme, "missing: %s: %s\n", what, st->message);
    cli__note("missing: %s: %s", what, st->message);
}

/* The configuration of a machine is its user's, and may hold secrets. */
static void hide_config(const void *row, enum rows_kind kind)
{
    thole_v1_Shard *shard = (thole_v1_Shard *)(uintptr_t)row;
    thole_v1_ShardPool *pool = (thole_v1_ShardPool *)(uintptr_t)row;
    thole_v1_ShardSpec *spec = NULL;
    if (kind == ROWS_SHARDS && thole_v1_Shard_has_spec(shard)) {
        spec = (thole_v1_ShardSpec *)(uintptr_t)thole_v1_Shard_spec(shard);
    } else if (kind == ROWS_POOLS && thole_v1_ShardPool_has_spec(pool)) {
        spec = (thole_v1_ShardSpec *)(uintptr_t)thole_v1_ShardPoolSpec_shard(
            thole_v1_ShardPool_spec(pool));
    }
    if (spec != NULL && thole_v1_ShardSpec_config(spec).size > 0) {
        thole_v1_ShardSpec_set_config(spec, upb_StringView_FromString("hidden"));
    }
}

/* One JSON document per line. */
static void add_rows(struct bundle *b, enum rows_kind kind, const char *name)
{
    struct thole_status st;
    struct rows rows;
    struct bytes text = {0};
    struct rows_query q = {.kind = kind};
    enum thole_code code = rows_list(b->c, &q, &rows, &st);
    if (code == THOLE_UNAVAILABLE) {
        q.stale = true; /* shard zero has no leader, perhaps: what the host that answers knows */
        code = rows_list(b->c, &q, &rows, &st);
    }
    if (code != THOLE_OK) {
        missing(b, name, &st);
        return;
    }
    for (size_t i = 0; i < rows.count; i++) {
        hide_config(rows.items[i], kind);
        cli__json_object(rows_kind_name(kind), rows.items[i], rows_def(b->c, kind), &text);
        bytes_append_str(&text, "\n");
    }
    add_file(b, name, bytes_slice(&text));
    bytes_deinit(&text);
    rows_deinit(&rows);
}

static void add_report(struct bundle *b, const char *folder, const thole_v1_HostReport *r)
{
    struct bytes text = {0};
    size_t n = 0;
    if (thole_v1_HostReport_has_status(r)) {
        cli__json(thole_v1_HostReport_status(r), thole_v1_StatusResponse_getmsgdef(b->c->pool),
                  &text);
        bytes_append_str(&text, "\n");
        add_text(b, folder, "status.json", bytes_slice(&text));
    }
    add_text(b, folder, "metrics.txt", registry_str(thole_v1_HostReport_metrics(r)));
    add_text(b, folder, "log.txt", registry_str(thole_v1_HostReport_log(r)));
    text.size = 0;
    bytes_printf(&text, "system: %.*s\nlog-level: %.*s\n", CLI_SV(thole_v1_HostReport_system(r)),
                 CLI_SV(thole_v1_HostReport_log_levels(r)));
    const thole_v1_Setting *const *settings = thole_v1_HostReport_settings(r, &n);
    for (size_t i = 0; i < n; i++) {
        bytes_printf(&text, "%.*s: %.*s\n", CLI_SV(thole_v1_Setting_name(settings[i])),
                     CLI_SV(thole_v1_Setting_value(settings[i])));
    }
    add_text(b, folder, "settings.txt", bytes_slice(&text));
    text.size = 0;
    const thole_v1_DiskFile *const *files = thole_v1_HostReport_files(r, &n);
    for (size_t i = 0; i < n; i++) {
        char time_text[40];
        bytes_printf(
            &text, "%12" PRIu64 "  %s  %.*s\n", thole_v1_DiskFile_size_bytes(files[i]),
            cli__time(thole_v1_DiskFile_change_time_ms(files[i]), time_text, sizeof time_text),
            CLI_SV(thole_v1_DiskFile_path(files[i])));
    }
    add_text(b, folder, "files.txt", bytes_slice(&text));
    bytes_deinit(&text);
}

static void add_host(struct bundle *b, upb_StringView name)
{
    struct thole_status st;
    const thole_v1_HostReport *report = NULL;
    char folder[LIMIT_NAME_BYTES + 16];
    thole_v1_GetHostReportRequest *q = thole_v1_GetHostReportRequest_new(b->c->arena);
    thole_v1_GetHostReportRequest_set_name(q, name);
    snprintf(folder, sizeof folder, "hosts/%.*s/", CLI_SV(name));
    b->hosts++;
    if (CLI_CALL(b->c, Diagnostics, GetHostReport, q, &report, HostReport, &st) != THOLE_OK) {
        missing(b, folder, &st);
        return;
    }
    b->answered++;
    add_report(b, folder, report);
}

static void add_hosts(struct bundle *b)
{
    struct thole_status st;
    struct rows hosts;
    const struct rows_query q = {.kind = ROWS_HOSTS, .stale = true};
    if (rows_list(b->c, &q, &hosts, &st) != THOLE_OK) {
        missing(b, "hosts", &st);
        return;
    }
    for (size_t i = 0; i < hosts.count; i++) {
        add_host(b, thole_v1_Host_name(hosts.items[i]));
    }
    rows_deinit(&hosts);
}

static void write_bundle(struct bundle *b)
{
    static const char end[2 * TAR_BLOCK];
    add_hosts(b);
    add_rows(b, ROWS_HOSTS, "hosts.jsonl");
    add_rows(b, ROWS_SHARDS, "shards.jsonl");
    add_rows(b, ROWS_POOLS, "pools.jsonl");
    add_rows(b, ROWS_REPLICAS, "replicas.jsonl");
    add_rows(b, ROWS_OPERATIONS, "operations.jsonl");
    add_rows(b, ROWS_EVENTS, "events.jsonl");
    bytes_printf(&b->readme, "%zu of %zu hosts answered.\n", b->answered, b->hosts);
    add_file(b, "README.txt", bytes_slice(&b->readme));
    (void)fwrite(end, 1, sizeof end, b->out);
}

int cli__command_debug_bundle(struct cli *c)
{
    const char *path = c->args[0];
    struct bundle b = {.c = c};
    char now[40];
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    b.out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (b.out == NULL) {
        return cli__say_failed("%s: %s", path, strerror(errno));
    }
    (void)cli__time((int64_t)clock_system.wall_ms(&clock_system), now, sizeof now);
    bytes_printf(&b.readme, "thole %s debug bundle, made %s\nendpoints: %s\n", thole_version(), now,
                 cli_text(c, OPT_ENDPOINTS));
    write_bundle(&b);
    bytes_deinit(&b.readme);
    bool written = !ferror(b.out);
    if (fclose(b.out) != 0 || !written) {
        (void)unlink(path);
        return cli__say_failed("%s: %s", path, strerror(errno));
    }
    if (b.answered == 0) {
        (void)unlink(path);
        return cli__say_failed("no host answered");
    }
    cli__line("%s: %zu of %zu hosts", path, b.answered, b.hosts);
    return cli__flush();
}
