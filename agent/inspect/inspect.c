/* Opening a data directory to look at it: its identity, its log, its replicas. See inspect.h. */
#include "agent/inspect/inspect.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/inspect/inspect_internal.h"
#include "shards/engine/frame_codec.h"

const char inspect__advice_disk_lost[] =
    "The host does not start. For the cluster this disk is lost: start with an empty data "
    "directory and --join, and `thole host decommission NAME`. Keep this directory if it may be "
    "the last copy of something (docs/operations.md, All hosts lost).";
const char inspect__advice_replica[] =
    "Start the host: this replica stays stopped and is replaced, the others run. If its shard has "
    "no majority elsewhere: `thole repair shard NAME`, or restore a snapshot.";
static const char advice_torn[] =
    "Start the host: it drops that write. Only if the disk lies about syncs, or the power failed "
    "within moments of the write, can an acknowledged write be meant.";
static const char advice_mark[] = "Start the host, and let the cluster replace the replica.";

/* ---- Damage of the log ----------------------------------------------------------------------- */

static void name_place(const struct log_damage *d, char *ret, size_t size)
{
    if (d->file == 0) {
        snprintf(ret, size, "log");
    } else if (d->kind == LOG_DAMAGE_FILE) {
        snprintf(ret, size, "log/" SEGMENT_NAME_FORMAT, d->file);
    } else {
        snprintf(ret, size, "log/" SEGMENT_NAME_FORMAT " at %" PRIu64, d->file, d->offset);
    }
}

static void describe(const struct log_damage *d, struct log_finding *ret)
{
    name_place(d, ret->object, sizeof ret->object);
    ret->problem = d->kind != LOG_DAMAGE_TORN;
    ret->replica_id = d->replica_id;
    ret->advice = d->replica_id != 0 ? inspect__advice_replica : inspect__advice_disk_lost;
    switch (d->kind) {
    case LOG_DAMAGE_FILE:
        snprintf(ret->what, sizeof ret->what,
                 "%s: acknowledged writes are missing, of which replicas cannot be known", d->what);
        break;
    case LOG_DAMAGE_FRAMES:
        snprintf(ret->what, sizeof ret->what,
                 "%s, and acknowledged writes follow: of which replicas it was cannot be known",
                 d->what);
        break;
    case LOG_DAMAGE_RECORD:
        snprintf(ret->what, sizeof ret->what, "a record is damaged (%s)%s", d->what,
                 d->replica_id != 0 ? ", so that its log cannot be trusted" : "");
        break;
    case LOG_DAMAGE_REPLICA:
        snprintf(ret->what, sizeof ret->what, "its log is not whole: %s", d->what);
        break;
    case LOG_DAMAGE_TORN:
        ret->advice = advice_torn;
        snprintf(ret->what, sizeof ret->what, "%s: it was not acknowledged", d->what);
        break;
    }
}

static bool is_told(const struct inspect *i, uint64_t replica_id)
{
    for (size_t k = 0; k < i->finding_count; k++) {
        if (i->findings[k].replica_id == replica_id) {
            return true;
        }
    }
    return false;
}

static struct log_finding *add_finding(struct inspect *i)
{
    i->findings = xrealloc(i->findings, (i->finding_count + 1) * sizeof *i->findings);
    struct log_finding *f = &i->findings[i->finding_count++];
    memset(f, 0, sizeof *f);
    return f;
}

static void on_damage(void *ctx, const struct log_damage *d)
{
    if (d->kind != LOG_DAMAGE_REPLICA || !is_told(ctx, d->replica_id)) {
        describe(d, add_finding(ctx));
    }
}

static void on_record(void *ctx, const struct log_where *where, const struct log_scan_record *r)
{
    struct inspect *i = ctx;
    (void)where, (void)r;
    i->log_records++;
}

/* ---- Replicas -------------------------------------------------------------------------------- */

static void read_descriptor(const struct store_replica *s, struct inspect_replica *r)
{
    struct codec_descriptor d = {0};
    struct thole_status st;
    if (codec_descriptor_decode(s->descriptor, &d, &st) != THOLE_OK) {
        return;
    }
    snprintf(r->machine_type, sizeof r->machine_type, "%.*s", (int)d.machine_type.size,
             (const char *)d.machine_type.data);
    r->machine_version = d.machine_version;
    r->witness = d.witness;
    codec_release(d.arena);
}

static void read_replicas(struct inspect *i)
{
    const struct store_replica *s;
    for (size_t it = 0; (s = i->log->ops->next(i->log, &it)) != NULL;) {
        i->replicas = xrealloc(i->replicas, (i->replica_count + 1) * sizeof *i->replicas);
        struct inspect_replica *r = &i->replicas[i->replica_count++];
        *r = (struct inspect_replica){
            .replica_id = s->replica_id,
            .shard_id = s->shard_id,
            .removed = s->removed,
            .damaged = !s->removed && s->hard.term == UINT64_MAX,
        };
        read_descriptor(s, r);
        if (r->removed || r->damaged) {
            continue;
        }
        r->term = s->hard.term;
        r->vote = s->hard.vote;
        r->commit = s->hard.commit;
        r->start_index = s->start_index;
        r->last_index = s->last_index;
        r->generation = s->machine_generation;
        r->log_bytes = s->bytes;
    }
    for (size_t k = 0; k < i->replica_count; k++) {
        (void)map_put(&i->by_id, i->replicas[k].replica_id, &i->replicas[k]);
    }
}

/* Damage that an earlier start has met, and marked. */
static void find_marked(struct inspect *i)
{
    for (size_t k = 0; k < i->replica_count; k++) {
        const struct inspect_replica *r = &i->replicas[k];
        if (r->damaged && !is_told(i, r->replica_id)) {
            struct log_finding *f = add_finding(i);
            f->problem = true;
            f->replica_id = r->replica_id;
            f->advice = advice_mark;
            snprintf(f->object, sizeof f->object, "log");
            snprintf(f->what, sizeof f->what,
                     "it stays stopped: an earlier start found its log damaged");
        }
    }
}

/* ---- Open ------------------------------------------------------------------------------------ */

/* A log without the file ID: a host that has just been made, or damage. */
static void tell_missing_id(struct inspect *i, const char *log)
{
    size_t segments = 0;
    DIR *dir = opendir(log);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        const char *dot = strrchr(e->d_name, '.');
        segments += dot != NULL && strcmp(dot, ".seg") == 0;
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    if (segments > 0) {
        (void)THOLE_FAIL(&i->log_why, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                         "it has %zu segment(s), but the file ID is missing", segments);
    }
}

enum thole_code inspect_open(const char *path, struct inspect **ret, struct thole_status *st)
{
    struct inspect *i = xcalloc(1, sizeof *i);
    enum thole_code code = datadir_look(path, &i->dir, &i->identity, &i->identity_why, st);
    if (code != THOLE_OK) {
        free(i);
        return code;
    }
    const struct log_visitor v = {i, on_record, on_damage};
    char *log = datadir_file(&i->dir, "log");
    if (log_inspect(log, &v, &i->log, &i->log_why) == THOLE_OK) {
        read_replicas(i);
        find_marked(i);
    } else if (i->log_why.code == THOLE_NOT_FOUND) {
        tell_missing_id(i, log);
    }
    free(log);
    *ret = i;
    return THOLE_OK;
}

void inspect_close(struct inspect *i)
{
    if (i == NULL) {
        return;
    }
    state_inspect_close(i->state);
    if (i->log != NULL) {
        i->log->ops->close(i->log);
    }
    map_deinit(&i->by_id);
    free(i->replicas);
    free(i->findings);
    datadir_close(&i->dir);
    free(i);
}

const struct identity *inspect_identity(const struct inspect *i)
{
    return i->identity_why.code == THOLE_OK ? &i->identity : NULL;
}

const struct inspect_replica *inspect_next_replica(const struct inspect *i, size_t *it)
{
    return *it < i->replica_count ? &i->replicas[(*it)++] : NULL;
}

/* ---- Findings -------------------------------------------------------------------------------- */

void inspect__find(inspect_finding_fn each, void *ctx, bool problem, const char *object,
                   const char *advice, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0) {
        abort();
    }
    va_end(args);
    each(ctx, &(struct inspect_finding){problem, object, text, advice});
    free(text);
}

void inspect_log_findings(const struct inspect *i, inspect_finding_fn each, void *ctx)
{
    if (i->log == NULL && i->log_why.code == THOLE_NOT_FOUND) {
        inspect__find(each, ctx, false, "log", "Start the host.", "there is no log yet");
    } else if (i->log == NULL) {
        inspect__find(each, ctx, true, "log",
                      i->log_why.reason == THOLE_REASON_FORMAT
                          ? "Use the version of Thole that wrote it, or a newer one."
                          : inspect__advice_disk_lost,
                      "it cannot be read: %s", i->log_why.message);
    }
    for (size_t k = 0; k < i->finding_count; k++) {
        const struct log_finding *f = &i->findings[k];
        const struct inspect_replica *r = map_get(&i->by_id, f->replica_id);
        char shard[40] = "";
        if (r != NULL) {
            snprintf(shard, sizeof shard, " of shard %" PRIu64, r->shard_id);
        }
        if (f->replica_id != 0) {
            inspect__find(each, ctx, f->problem, f->object, f->advice, "replica %" PRIu64 "%s: %s",
                          f->replica_id, shard, f->what);
        } else {
            inspect__find(each, ctx, f->problem, f->object, f->advice, "%s", f->what);
        }
    }
}
