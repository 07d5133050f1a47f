/* `thole backup list` and `thole backup verify`: what a folder of backups has; offline. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/backup_dir.h"
#include "base/map.h"
#include "thole/v1/snapshots.upbdefs.h"

/* ---- List ------------------------------------------------------------------------------------ */

static const char *state_of(const struct backup_dir *d, const thole_v1_Backup *b, char *ret,
                            size_t size)
{
    size_t gaps = 0, older = 0;
    const thole_v1_BackupGap *const *all = thole_v1_Backup_gaps(b, &gaps);
    for (size_t i = 0; i < gaps; i++) {
        older += thole_v1_BackupGap_has_older(all[i]);
    }
    if (!backup_dir_has_all(d, b)) {
        return "files missing";
    }
    if (gaps == 0) {
        return "complete";
    }
    snprintf(ret, size, "partial: %zu older, %zu missing", older, gaps - older);
    return ret;
}

static void add_row(struct cli_table *t, const struct backup_dir *d, const thole_v1_Backup *b)
{
    char time[40], size[16], saved_size[16], state[80];
    size_t count = 0, saved = 0;
    uint64_t bytes = 0, saved_bytes = 0;
    const thole_v1_BackupFile *const *files = thole_v1_Backup_files(b, &count);
    for (size_t i = 0; i < count; i++) {
        bool now = thole_v1_BackupFile_saved_by(files[i]) == thole_v1_Backup_number(b);
        bytes += thole_v1_BackupFile_bytes(files[i]);
        saved += now && i > 0;
        saved_bytes += now ? thole_v1_BackupFile_bytes(files[i]) : 0;
    }
    cli__table_row(t);
    cli__table_cell(t, "%" PRIu64, thole_v1_Backup_number(b));
    cli__table_cell(t, "%s", cli__time(thole_v1_Backup_end_time_ms(b), time, sizeof time));
    cli__table_cell(t, "%zu", count - 1);
    cli__table_cell(t, "%zu", saved);
    cli__table_cell(t, "%s", cli__bytes(bytes, size, sizeof size));
    cli__table_cell(t, "%s", cli__bytes(saved_bytes, saved_size, sizeof saved_size));
    cli__table_cell(t, "%s", state_of(d, b, state, sizeof state));
}

static void print_document(struct cli *c, const struct backup_dir *d)
{
    struct bytes out = {0};
    cli__document_begin(&out, "BackupList");
    bytes_append_str(&out, ",\"backups\":[");
    for (size_t i = 0; i < d->count; i++) {
        bytes_append_str(&out, i > 0 ? "," : "");
        cli__json(d->all[i], thole_v1_Backup_getmsgdef(c->pool), &out);
    }
    bytes_append_str(&out, "]");
    cli__document_end(c, &out);
}

int cli__command_backup_list(struct cli *c)
{
    static const char *const columns[] = {"BACKUP", "TIME",     ">SHARDS", ">SAVED",
                                          ">SIZE",  ">WRITTEN", "STATE",   NULL};
    struct thole_status st;
    struct backup_dir d;
    if (backup_dir_open(c->args[0], BACKUP_DIR_READ, &d, &st) != THOLE_OK) {
        return cli__say_status("cannot read the backups", &st);
    }
    if (cli__is_document(c)) {
        print_document(c, &d);
    } else {
        struct cli_table *t = cli__table_new(false, columns);
        for (size_t i = 0; i < d.count; i++) {
            add_row(t, &d, d.all[i]);
        }
        cli__table_print(t, NULL);
    }
    int result = d.unreadable > 0 ? CLI_FAILED : CLI_OK;
    backup_dir_close(&d);
    int flushed = cli__flush();
    return result != CLI_OK ? result : flushed;
}

/* ---- Verify ---------------------------------------------------------------------------------- */

struct verify {
    const struct backup_dir *dir;
    struct map *checked; /* by shard id: a map by `saved_by`, of FINE or BAD */
    size_t files, bad;
};

static char fine, bad;

/* Files that several backups share are read once. */
static bool is_fine(struct verify *v, const thole_v1_BackupFile *f, upb_StringView cluster)
{
    struct thole_status st;
    uint64_t id = thole_v1_SnapshotPoint_shard_id(thole_v1_BackupFile_point(f));
    struct map *of_shard = map_get(v->checked, id);
    if (of_shard == NULL) {
        of_shard = xcalloc(1, sizeof *of_shard);
        (void)map_put(v->checked, id, of_shard);
    }
    const char *known = map_get(of_shard, thole_v1_BackupFile_saved_by(f));
    if (known == NULL) {
        bool ok = backup_dir_check(v->dir, f, cluster, &st) == THOLE_OK;
        known = ok ? &fine : &bad;
        (void)map_put(of_shard, thole_v1_BackupFile_saved_by(f), ok ? &fine : &bad);
        v->files++;
        v->bad += !ok;
        if (!ok) {
            (void)cli__say_failed("shards/%.*s: %s", CLI_SV(thole_v1_BackupFile_shard(f)),
                                  st.message);
        }
    }
    return known == &fine;
}

static void verify_backup(struct verify *v, const thole_v1_Backup *b)
{
    size_t count = 0, gaps = 0, damaged = 0;
    const thole_v1_BackupFile *const *files = thole_v1_Backup_files(b, &count);
    (void)thole_v1_Backup_gaps(b, &gaps);
    for (size_t i = 0; i < count; i++) {
        damaged += !is_fine(v, files[i], thole_v1_Backup_cluster_id(b));
    }
    if (damaged > 0) {
        cli__line("backup %" PRIu64 ": %zu of %zu files are damaged or missing",
                  thole_v1_Backup_number(b), damaged, count);
    } else {
        cli__line("backup %" PRIu64 ": the registry and %zu shards, all right%s",
                  thole_v1_Backup_number(b), count - 1,
                  gaps > 0 ? "; it is partial: see `thole backup list`" : "");
    }
}

static void verify_deinit(struct verify *v)
{
    size_t it = 0;
    for (struct map *m; (m = map_next(v->checked, &it, NULL)) != NULL;) {
        map_deinit(m);
        free(m);
    }
    map_deinit(v->checked);
}

int cli__command_backup_verify(struct cli *c)
{
    struct thole_status st;
    struct backup_dir d;
    struct map checked = {0};
    if (backup_dir_open(c->args[0], BACKUP_DIR_READ, &d, &st) != THOLE_OK) {
        return cli__say_status("cannot read the backups", &st);
    }
    struct verify v = {.dir = &d, .checked = &checked};
    const thole_v1_Backup *chosen = NULL;
    int result = CLI_OK;
    bool found = backup_dir_choose(&d, c, &chosen, &st) == THOLE_OK;
    for (size_t i = 0; found && i < d.count; i++) {
        if (!cli_given(c, OPT_NUMBER) || d.all[i] == chosen) {
            verify_backup(&v, d.all[i]);
        }
    }
    if (!found) {
        result = cli__say_status("nothing to verify", &st);
    } else if (v.bad > 0) {
        result =
            cli__say_failed("%zu of %zu files are damaged or missing: delete damaged ones, and "
                            "the next `thole backup` saves their shards again",
                            v.bad, v.files);
    } else if (d.unreadable > 0) {
        result = CLI_FAILED; /* their manifests were named */
    }
    verify_deinit(&v);
    backup_dir_close(&d);
    int flushed = cli__flush();
    return result != CLI_OK ? result : flushed;
}
