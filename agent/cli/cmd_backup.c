/* `thole backup`: the registry and all shards, in a folder.
 *
 * The registry is saved first. Its file says which shards there are, so every shard of a backup is
 * at a state that is at least as new as its row. Shards follow from several threads. A shard that
 * cannot be read becomes a gap, with its last saved state if there is one; a failure of this
 * machine's disk ends the backup, and the next one goes on with the files that are complete. */
#include "agent/cli/cmd_backup.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/cli/snapshot_io.h"
#include "agent/repair/zero_file.h"
#include "base/clock.h"
#include "base/map.h"
#include "proto/decode.h"
#include "registry/registry.h"
#include "thole/v1/snapshots.upbdefs.h"

#define TRIES 3
#define RETRY_MS 1000

struct item {
    upb_StringView name;
    uint64_t id;
    const thole_v1_BackupFile *older; /* NULL: none */
    const thole_v1_BackupFile *file;  /* of this backup; NULL: none */
    bool saved;                       /* by this backup */
    char *gap;                        /* malloced; NULL: none */
};

struct backup {
    struct cli *c;
    struct backup_dir dir;
    uint64_t number;
    upb_StringView cluster;
    struct zero_file zero;
    struct item *items; /* the first is the registry */
    size_t count;
    struct parallel parallel;
};

/* ---- One shard ------------------------------------------------------------------------------- */

/* The file's entry; NULL if the file is of another shard or cluster. */
static const thole_v1_BackupFile *entry(const struct backup *b, const struct item *i,
                                        const struct snapshot_check *k, uint64_t checksum,
                                        upb_Arena *arena)
{
    const thole_v1_SnapshotFile *head = snapshot_check_head(k);
    if (thole_v1_SnapshotFile_shard_id(head) != i->id ||
        !proto_equal(thole_v1_SnapshotFile_shard(head), i->name) ||
        (b->cluster.size > 0 && !proto_equal(thole_v1_SnapshotFile_cluster_id(head), b->cluster))) {
        return NULL;
    }
    thole_v1_BackupFile *f = backup_file_of(head, snapshot_check_fed(k), checksum, arena);
    thole_v1_BackupFile_set_saved_by(f, b->number);
    return f;
}

/* A file that an interrupted run of this backup completed. */
static const thole_v1_BackupFile *find_leftover(const struct backup *b, const struct item *i,
                                                const char *path, upb_Arena *arena)
{
    struct thole_status ignored;
    uint64_t checksum = 0;
    const thole_v1_BackupFile *f = NULL;
    struct snapshot_check *k = snapshot_check_new();
    if (access(path, F_OK) == 0 && snapshot_check_path(path, k, &checksum, &ignored) == THOLE_OK) {
        f = entry(b, i, k, checksum, arena);
    }
    snapshot_check_free(k);
    return f;
}

static bool may_retry(const struct thole_status *st)
{
    return st->code == THOLE_UNAVAILABLE || st->code == THOLE_UNKNOWN ||
           st->code == THOLE_DEADLINE_EXCEEDED || st->code == THOLE_ABORTED ||
           st->code == THOLE_RESOURCE_EXHAUSTED;
}

/* One try. `ret_own`: the failure is this machine's. */
static enum thole_code fetch(struct backup *b, struct cli *mine, struct item *i, const char *path,
                             bool *ret_own, struct thole_status *st)
{
    struct transfer t = {.p = &b->parallel};
    struct snapshot_fetch q = {.c = mine,
                               .shard = i->name,
                               .unless =
                                   i->older != NULL ? thole_v1_BackupFile_point(i->older) : NULL,
                               .progress = transfer_progress,
                               .ctx = &t,
                               .check = snapshot_check_new()};
    enum thole_code code = snapshot_fetch(&q, path, st);
    *ret_own = q.is_own_failure;
    if (code == THOLE_OK && q.unchanged) {
        i->file = i->older;
        parallel_skipped(&b->parallel);
    } else if (code == THOLE_OK) {
        i->file = entry(b, i, q.check, q.checksum, mine->arena);
        i->saved = true;
        if (i->file == NULL) {
            (void)unlink(path);
            code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NONE,
                              "the shard was deleted and created again meanwhile, or the hosts of "
                              "--endpoints are of several clusters");
        }
    }
    snapshot_check_free(q.check);
    return code;
}

/* Parallel. Fails only if the whole backup does. */
static enum thole_code save_one(void *ctx, struct cli *mine, size_t item, struct thole_status *st)
{
    struct backup *b = ctx;
    struct item *i = &b->items[item];
    char name[BACKUP_NAME_BYTES];
    bool own = false;
    backup_file_name(b->number, i->id, name);
    char *path = backup_dir_path(&b->dir, name);
    const thole_v1_BackupFile *leftover = find_leftover(b, i, path, mine->arena);
    if (leftover != NULL) {
        i->older = leftover;
    }
    enum thole_code code = fetch(b, mine, i, path, &own, st);
    for (int n = 1; n < TRIES && code != THOLE_OK && !own && may_retry(st); n++) {
        cli__pause_ms(RETRY_MS);
        code = fetch(b, mine, i, path, &own, st);
    }
    free(path);
    if (code != THOLE_OK && !own && item > 0 && st->reason != THOLE_REASON_NO_SUCH_SHARD) {
        i->gap = xstrdup(st->message);
        i->file = i->older;
    }
    /* A shard that was deleted meanwhile has neither a file nor a gap. */
    return own || item == 0 ? code : THOLE_OK;
}

/* ---- All ------------------------------------------------------------------------------------- */

/* The newest file of each shard, by id. */
static void find_older(const struct backup *b, struct map *ret)
{
    for (size_t n = b->dir.count; n > 0; n--) {
        size_t count = 0;
        const thole_v1_BackupFile *const *files = thole_v1_Backup_files(b->dir.all[n - 1], &count);
        for (size_t k = 1; k < count; k++) {
            uint64_t id = thole_v1_SnapshotPoint_shard_id(thole_v1_BackupFile_point(files[k]));
            if (map_get(ret, id) == NULL && backup_dir_has(&b->dir, files[k])) {
                (void)map_put(ret, id, (void *)(uintptr_t)files[k]);
            }
        }
    }
}

/* Shards that are being deleted are left out. */
static void list_shards(struct backup *b)
{
    struct map older = {0};
    struct slice name = {0};
    const thole_v1_Shard *row;
    size_t room = 0;
    find_older(b, &older);
    for (;;) {
        struct registry_shard_buf buf;
        if ((row = registry_next_shard(b->zero.view, name, &buf)) == NULL) {
            break;
        }
        name = registry_str(thole_v1_Shard_name(row));
        uint64_t id = thole_v1_Shard_id(row);
        if (id == REGISTRY_SHARD_ID || thole_v1_Shard_deleting(row)) {
            continue;
        }
        if (b->count >= room) {
            room = 2 * room + 64;
            b->items = xrealloc(b->items, room * sizeof *b->items);
        }
        b->items[b->count++] =
            (struct item){.name = thole_v1_Shard_name(row), .id = id, .older = map_get(&older, id)};
    }
    map_deinit(&older);
}

/* Saves the registry, and reads from its file which shards there are. */
static enum thole_code save_registry(struct backup *b, struct thole_status *st)
{
    struct item *zero = &b->items[0];
    char *path = NULL;
    enum thole_code code = cli__connect(b->c, st);
    if (code == THOLE_OK) {
        code = save_one(b, b->c, 0, st);
    }
    if (code == THOLE_OK) {
        path = backup_dir_file(&b->dir, zero->file);
        code = zero_file_open(path, &b->zero, st);
    }
    if (code == THOLE_OK) {
        code = zero_file_read(&b->zero, st);
    }
    if (code == THOLE_OK) {
        b->cluster = thole_v1_SnapshotFile_cluster_id(snapshot_check_head(b->zero.check));
        list_shards(b);
    }
    free(path);
    return code;
}

/* A folder has backups of one cluster. */
static enum thole_code check_cluster(struct backup *b, struct thole_status *st)
{
    if (b->dir.count == 0 ||
        proto_equal(thole_v1_Backup_cluster_id(b->dir.all[b->dir.count - 1]), b->cluster)) {
        return THOLE_OK;
    }
    char *path = backup_dir_file(&b->dir, b->items[0].file);
    (void)unlink(path);
    free(path);
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
                      "%s has backups of another cluster: give another folder", b->dir.path);
}

static thole_v1_Backup *manifest(struct backup *b, int64_t begin_ms)
{
    size_t files = 0;
    upb_Arena *arena = b->c->arena;
    thole_v1_Backup *m = thole_v1_Backup_new(arena);
    thole_v1_Backup_set_format(m, BACKUP_FORMAT);
    thole_v1_Backup_set_number(m, b->number);
    thole_v1_Backup_set_cluster_id(m, b->cluster);
    thole_v1_Backup_set_begin_time_ms(m, begin_ms);
    thole_v1_Backup_set_end_time_ms(m, (int64_t)clock_system.wall_ms(&clock_system));
    thole_v1_Backup_set_revision(m, registry_view_revision(b->zero.view));
    thole_v1_BackupFile **to = thole_v1_Backup_resize_files(m, b->count, arena);
    for (size_t n = 0; n < b->count; n++) {
        const struct item *i = &b->items[n];
        if (i->file != NULL) {
            to[files++] = (thole_v1_BackupFile *)(uintptr_t)i->file;
        }
        if (i->gap != NULL) {
            thole_v1_BackupGap *g = thole_v1_Backup_add_gaps(m, arena);
            thole_v1_BackupGap_set_shard(g, i->name);
            thole_v1_BackupGap_set_reason(g, cli__sv(i->gap));
            thole_v1_BackupGap_set_has_older(g, i->file != NULL);
        }
    }
    (void)thole_v1_Backup_resize_files(m, files, arena);
    return m;
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void print_result(const struct backup *b, const thole_v1_Backup *m, size_t removed)
{
    char size[16];
    size_t saved = 0, unchanged = 0;
    uint64_t bytes = 0;
    for (size_t n = 1; n < b->count; n++) {
        const struct item *i = &b->items[n];
        saved += i->saved && i->gap == NULL;
        unchanged += !i->saved && i->gap == NULL && i->file != NULL;
        bytes += i->saved && i->file != NULL ? thole_v1_BackupFile_bytes(i->file) : 0;
    }
    cli__line("%s: backup %" PRIu64 " of the registry and %zu shards: %zu saved (%s), %zu "
              "unchanged",
              b->dir.path, thole_v1_Backup_number(m), b->count - 1, saved,
              cli__bytes(bytes, size, sizeof size), unchanged);
    if (removed > 0) {
        cli__line("%zu old backup%s removed", removed, removed == 1 ? "" : "s");
    }
}

static int say_gaps(const thole_v1_Backup *m)
{
    size_t count = 0;
    const thole_v1_BackupGap *const *gaps = thole_v1_Backup_gaps(m, &count);
    for (size_t n = 0; n < count; n++) {
        (void)cli__say_failed("shards/%.*s was not saved: %.*s; the backup has %s of it",
                              CLI_SV(thole_v1_BackupGap_shard(gaps[n])),
                              CLI_SV(thole_v1_BackupGap_reason(gaps[n])),
                              thole_v1_BackupGap_has_older(gaps[n]) ? "an older state" : "nothing");
    }
    return count > 0 ? CLI_PARTIAL : CLI_OK;
}

static void backup_deinit(struct backup *b)
{
    for (size_t n = 0; n < b->count; n++) {
        free(b->items[n].gap);
    }
    free(b->items);
    zero_file_close(&b->zero);
    backup_dir_close(&b->dir);
}

static int finish(struct backup *b, const thole_v1_Backup *m)
{
    struct thole_status st;
    size_t removed = 0;
    if (backup_dir_retain(&b->dir, (size_t)cli_number(b->c, OPT_KEEP), &removed, &st) != THOLE_OK) {
        (void)cli__say_failed("the backup is complete, but old files cannot be removed: %s",
                              st.message);
    }
    if (cli__is_document(b->c)) {
        cli__document(b->c, "Backup", m, thole_v1_Backup_getmsgdef(b->c->pool));
    } else {
        print_result(b, m, removed);
    }
    int flushed = cli__flush();
    int gaps = say_gaps(m);
    return gaps != CLI_OK ? gaps : flushed;
}

int cli__command_backup(struct cli *c)
{
    struct thole_status st;
    int64_t begin_ms = (int64_t)clock_system.wall_ms(&clock_system);
    struct backup b = {.c = c, .count = 1, .items = xcalloc(64, sizeof *b.items)};
    if (backup_dir_open(c->args[0], BACKUP_DIR_WRITE, &b.dir, &st) != THOLE_OK) {
        free(b.items);
        return cli__say_status("cannot use the folder", &st);
    }
    b.number = b.dir.newest + 1;
    b.items[0].name = cli__sv(REGISTRY_SHARD_NAME);
    parallel_init(&b.parallel, c, "saved", &b, save_one);
    int result = CLI_OK;
    const thole_v1_Backup *m = NULL;
    enum thole_code code = save_registry(&b, &st);
    if (code == THOLE_OK) {
        code = check_cluster(&b, &st);
    }
    if (code == THOLE_OK) {
        b.parallel.first = 1;
        b.parallel.count = b.count;
        code = parallel_run(&b.parallel, &st);
    }
    if (code == THOLE_OK) {
        m = manifest(&b, begin_ms);
        code = backup_dir_add(&b.dir, m, &st);
    }
    if (code == THOLE_OK) {
        result = finish(&b, m);
    } else {
        result = cli__say_status("no backup was made; earlier ones are as they were", &st);
    }
    parallel_deinit(&b.parallel);
    backup_deinit(&b);
    return result;
}
