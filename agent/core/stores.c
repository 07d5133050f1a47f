/* Opening the log and the state database, and salvaging a damaged state database.
 *
 * Damage must cost only the replicas whose bytes it hit, but RocksDB refuses every write once a
 * compaction found damage. So the agent restarts within the process, and copies what can be read
 * into a new database. A replica that lost data fails when it is opened, unless its log is
 * complete, and is rebuilt from its peers like any failed replica. The old database is kept until
 * no replica that lost data is left on this host. After SALVAGES_MAX salvages within
 * SALVAGES_PERIOD_S the disk counts as broken: the process ends, and the host must be replaced. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/core/stores.h"
#include "agent/core/textfile.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/metrics.h"
#include "shards/engine/frame_codec.h"
#include "shards/machine/builtin.h"

#define KEPT_PREFIX "state.damaged-"
/* With more salvages than this within the period, the disk counts as broken. */
#define SALVAGES_MAX 3
#define SALVAGES_PERIOD_S 3600

static METRIC_DEFINE_COUNTER(salvages, "thole_state_salvages_total",
                             "Times that a damaged state database was salvaged");
static METRIC_DEFINE_COUNTER(lost_replicas, "thole_state_lost_replicas_total",
                             "Replicas that lost their data to damage in the state database");

/* ---- Damage while the host runs -------------------------------------------------------------- */

void agent__stores_request_restart(struct agent *a)
{
    ASSERT(atomic_load(&a->state_damaged) && atomic_load(&a->opened));
    agent__request_restart(a, "its state database is damaged and must be salvaged");
}

static void on_damaged(void *ctx, const char *what)
{
    struct agent *a = ctx;
    LOG_ERROR(AGENT, "state database damaged error=\"%s\"", what);
    atomic_store(&a->state_damaged, true);
    if (atomic_load(&a->opened)) {
        agent__stores_request_restart(a);
    }
}

/* ---- Old databases --------------------------------------------------------------------------- */

struct lost_ids {
    struct log_store *log;
    bool any; /* such a replica still exists here */
};

static bool is_here(struct log_store *log, uint64_t replica_id)
{
    const struct store_replica *x;
    for (size_t it = 0; (x = log->ops->next(log, &it)) != NULL;) {
        if (x->replica_id == replica_id) {
            return !x->removed;
        }
    }
    return false;
}

static bool lost_line(void *ctx, const char *key, char *value)
{
    struct lost_ids *l = ctx;
    uint64_t id = 0;
    if (strcmp(key, "replica") != 0 || sscanf(value, "%" SCNu64, &id) != 1) {
        return false;
    }
    l->any = l->any || is_here(l->log, id);
    return true;
}

/* Who lost something in the old database; nobody: it is deleted at the next start, if the process
 * ends before it could do so now. */
static void note_lost(const char *old, const struct state_wanted *list, size_t n)
{
    struct thole_status st = {0};
    struct bytes lines = {0};
    for (size_t i = 0; i < n; i++) {
        if (list[i].lost && !list[i].can_lose) {
            bytes_printf(&lines, "replica %" PRIu64 "\n", list[i].space.replica_id);
        }
    }
    char *path = xasprintf("%s/LOST", old);
    if (textfile_write(path, "thole-lost", DATADIR_FORMAT, &lines, &st) != THOLE_OK) {
        LOG_WARN(
            AGENT,
            "cannot write the list of lost replicas error=\"%s\"; delete the old database by hand",
            st.message);
    }
    free(path);
}

static void sweep_one(struct agent *a, const char *name)
{
    struct lost_ids l = {a->log, false};
    struct thole_status st = {0};
    char *kept = datadir_file(&a->dir, name), *path = xasprintf("%s/LOST", kept);
    enum thole_code code = textfile_read(path, "thole-lost", DATADIR_FORMAT, lost_line, &l, &st);
    bool unused = code == THOLE_OK ? !l.any : code == THOLE_NOT_FOUND && state_db_is_remains(kept);
    if (unused && state_db_delete(kept, &st) == THOLE_OK) {
        LOG_INFO(AGENT, "deleted an old state database: no replica here lost data in it path=%s",
                 kept);
    } else {
        LOG_WARN(AGENT, "keeping the damaged state database until its replicas are rebuilt path=%s",
                 kept);
    }
    free(path);
    free(kept);
}

static void sweep_kept(struct agent *a)
{
    DIR *dir = opendir(a->dir.path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (strncmp(e->d_name, KEPT_PREFIX, strlen(KEPT_PREFIX)) == 0) {
            sweep_one(a, e->d_name);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

/* ---- History --------------------------------------------------------------------------------- */

struct history {
    uint64_t since_s;
    uint32_t count;
    struct bytes lines;
};

static bool history_line(void *ctx, const char *key, char *value)
{
    struct history *h = ctx;
    uint64_t at = 0;
    if (strcmp(key, "at") != 0 || sscanf(value, "%" SCNu64, &at) != 1) {
        return false;
    }
    if (at >= h->since_s) {
        h->count++;
        bytes_printf(&h->lines, "at %" PRIu64 "\n", at);
    }
    return true;
}

/* Durable before the salvage, so that a salvage that ends the process counts, too. `*ret_before`
 * has the history before it. */
static enum thole_code count_salvage(struct agent *a, struct bytes *ret_before,
                                     struct thole_status *st)
{
    uint64_t now_s = clock_system.wall_ms(&clock_system) / 1000;
    struct history h = {.since_s = now_s - SALVAGES_PERIOD_S};
    char *path = datadir_file(&a->dir, "salvages");
    enum thole_code code =
        textfile_read(path, "thole-salvages", DATADIR_FORMAT, history_line, &h, st);
    if (code == THOLE_NOT_FOUND || code == THOLE_DATA_LOSS) {
        code = THOLE_OK;
    }
    if (code == THOLE_OK && h.count >= SALVAGES_MAX) {
        code =
            THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                       "the state database was damaged %" PRIu32 " times within an hour: replace "
                       "the disk",
                       h.count + 1);
    } else if (code == THOLE_OK) {
        bytes_append_slice(ret_before, bytes_slice(&h.lines));
        bytes_printf(&h.lines, "at %" PRIu64 "\n", now_s);
        code = textfile_write(path, "thole-salvages", DATADIR_FORMAT, &h.lines, st);
    }
    bytes_deinit(&h.lines);
    free(path);
    return code;
}

/* An attempt that failed for want of room says nothing about the disk's health. */
static void uncount_salvage(struct agent *a, struct bytes *before)
{
    struct thole_status st = {0};
    char *path = datadir_file(&a->dir, "salvages");
    if (textfile_write(path, "thole-salvages", DATADIR_FORMAT, before, &st) != THOLE_OK) {
        LOG_WARN(AGENT, "the failed attempt counts as a salvage: %s", st.message);
    }
    free(path);
}

/* ---- Salvage --------------------------------------------------------------------------------- */

static const struct thole_machine_type *type_of(const struct agent *a, struct slice name)
{
    for (size_t i = 0; i < MACHINE_BUILTIN_COUNT; i++) {
        if (slice_equal(name, slice_str(machine_builtin[i]->name))) {
            return machine_builtin[i];
        }
    }
    for (size_t i = 0; i < a->o.type_count; i++) {
        if (slice_equal(name, slice_str(a->o.types[i]->name))) {
            return a->o.types[i];
        }
    }
    return NULL;
}

/* Does the replica have data in the database? True if that cannot be known. */
static bool has_data(const struct agent *a, const struct store_replica *x)
{
    struct codec_descriptor d = {0};
    struct thole_status st = {0};
    if (x->removed || x->hard.term == UINT64_MAX) {
        return false;
    }
    if (codec_descriptor_decode(x->descriptor, &d, &st) != THOLE_OK) {
        return true;
    }
    const struct thole_machine_type *type = type_of(a, d.machine_type);
    bool registry = slice_equal(d.machine_type, slice_str(REGISTRY_MACHINE_TYPE));
    bool yes = !registry && !d.witness &&
               (type == NULL || ((type->flags & THOLE_MACHINE_PERSISTENT) && type->flush == NULL));
    codec_release(d.arena);
    return yes;
}

static size_t find_wanted(struct agent *a, struct state_wanted **ret)
{
    const struct store_replica *x;
    struct state_wanted *list = xmalloc(sizeof *list);
    size_t n = 0;
    for (size_t it = 0; (x = a->log->ops->next(a->log, &it)) != NULL;) {
        if (!has_data(a, x)) {
            continue;
        }
        list = xrealloc(list, (n + 1) * sizeof *list);
        list[n++] = (struct state_wanted){.space = {x->replica_id, x->machine_generation},
                                          .can_lose = x->start_index == 0};
    }
    *ret = list;
    return n;
}

static void report_salvage(const struct state_wanted *list, size_t n, const char *kept)
{
    size_t lost = 0;
    for (size_t i = 0; i < n; i++) {
        lost += list[i].lost && !list[i].can_lose;
    }
    metric_add(&salvages, 1);
    metric_add(&lost_replicas, (int64_t)lost);
    LOG_WARN(AGENT, "state database salvaged replicas=%zu lost=%zu", n, lost);
    if (kept != NULL) {
        LOG_ERROR(
            AGENT,
            "replicas that lost their data are rebuilt from their peers; a replica whose shard "
            "has no majority elsewhere stays failed: restore a snapshot of the shard; the "
            "damaged database is kept until then path=%s",
            kept);
    }
}

static enum thole_code salvage(struct agent *a, const char *path, struct thole_status *st)
{
    struct state_wanted *list = NULL;
    char *kept = NULL;
    struct bytes before = {0};
    enum thole_code code = count_salvage(a, &before, st);
    if (code == THOLE_OK) {
        size_t n = find_wanted(a, &list);
        code = state_db_salvage(path, list, n, note_lost, &kept, st);
        if (code == THOLE_OK) {
            report_salvage(list, n, kept);
        } else if (code != THOLE_DATA_LOSS) {
            uncount_salvage(a, &before);
        }
    }
    bytes_deinit(&before);
    free(kept);
    free(list);
    return code;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static enum thole_code open_state(struct agent *a, struct thole_status *st)
{
    char *path = datadir_file(&a->dir, "state");
    const struct state_db_options o = {.path = path, .damaged = on_damaged, .ctx = a};
    enum thole_code code = state_db_open(&o, &a->state, st);
    if (code == THOLE_DATA_LOSS) {
        LOG_ERROR(AGENT, "state database damaged error=\"%s\"", st->message);
        code = salvage(a, path, st);
        if (code == THOLE_OK) {
            code = state_db_open(&o, &a->state, st);
        }
    }
    free(path);
    return code;
}

enum thole_code agent__stores_open(struct agent *a, struct thole_status *st)
{
    char *log = datadir_file(&a->dir, "log");
    const struct log_store_options lo = {.path = log};
    enum thole_code code = log_store_open(&lo, &a->log, st);
    if (code == THOLE_OK) {
        code = open_state(a, st);
    }
    if (code == THOLE_OK) {
        sweep_kept(a);
    }
    free(log);
    if (code == THOLE_DATA_LOSS && st != NULL) {
        LOG_ERROR(AGENT, "data directory damaged error=\"%s\"", st->message);
        code =
            THOLE_FAIL(st, THOLE_DATA_LOSS, st->reason,
                       "%.80s is damaged: for the cluster this disk is lost; start with an empty "
                       "data directory and --join, and \"thole host decommission %.64s\"",
                       a->dir.path, a->identity.name);
    }
    return code;
}
