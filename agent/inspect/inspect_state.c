/* The states of replicas: in the state database, or in snapshot files. See inspect.h. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/inspect/inspect_internal.h"
#include "shards/engine/inspect.h"

struct state_db *inspect__state(struct inspect *i)
{
    if (!i->state_tried) {
        char *path = datadir_file(&i->dir, "state");
        i->state_tried = true;
        if (state_inspect(path, &i->state, &i->state_why) != THOLE_OK) {
            i->state = NULL;
        }
        free(path);
    }
    return i->state;
}

bool inspect_has_keys(const struct inspect_replica *r)
{
    return !r->removed && !r->damaged && !r->witness &&
           strcmp(r->machine_type, KV_MACHINE_TYPE) == 0;
}

static struct state_space space_of(const struct inspect_replica *r)
{
    return (struct state_space){r->replica_id, r->generation};
}

/* ---- In the database ------------------------------------------------------------------------- */

struct meta_reader {
    struct engine_meta *meta;
    uint64_t malformed;
};

static void on_meta(void *ctx, struct slice key, struct slice value)
{
    struct meta_reader *m = ctx;
    m->malformed += !engine_meta_add(m->meta, key, value);
}

static void look_at_database(struct inspect *i, const struct inspect_replica *r,
                             struct inspect_state *ret)
{
    struct thole_status st = {0};
    struct meta_reader m = {.meta = engine_meta_new()};
    if (inspect__state(i) == NULL) {
        snprintf(ret->problem, sizeof ret->problem, "%s", i->state_why.message);
        engine_meta_free(m.meta);
        return;
    }
    if (kv_look(i->state, space_of(r), on_meta, &m, &ret->kv, &st) != THOLE_OK) {
        snprintf(ret->problem, sizeof ret->problem, "%s", st.message);
    } else if (ret->kv.malformed + m.malformed > 0) {
        snprintf(ret->problem, sizeof ret->problem,
                 "%" PRIu64 " of its records are malformed, though their checksums are right",
                 ret->kv.malformed + m.malformed);
    }
    const struct engine_meta_seen sum = engine_meta_sum(m.meta);
    ret->where = STATE_DATABASE;
    ret->applied = sum.applied;
    ret->now_ms = sum.now_ms;
    ret->sessions = sum.sessions;
    ret->request_ids = sum.request_ids;
    ret->bytes = ret->kv.record_bytes;
    engine_meta_free(m.meta);
}

/* ---- In snapshot files ----------------------------------------------------------------------- */

static void look_at_snapshots(struct inspect *i, const struct inspect_replica *r,
                              struct inspect_state *ret)
{
    struct engine_files *files = NULL;
    struct thole_status st;
    char *path = datadir_file(&i->dir, "snapshots");
    DIR *dir = opendir(path);
    if (dir != NULL && engine_files_disk_new(path, &files, &st) == THOLE_OK) {
        for (struct dirent *e; (e = readdir(dir)) != NULL;) {
            struct engine_snapshot_seen seen;
            char prefix[32];
            int n = snprintf(prefix, sizeof prefix, "%" PRIu64 "-", r->replica_id);
            if (strncmp(e->d_name, prefix, (size_t)n) != 0 ||
                strlen(e->d_name) >= sizeof ret->snapshot) {
                continue;
            }
            if (engine_snapshot_look(files, e->d_name, &seen, &st) == THOLE_OK &&
                seen.replica_id == r->replica_id && seen.index >= ret->applied) {
                ret->where = STATE_SNAPSHOT;
                ret->applied = seen.index;
                ret->bytes = seen.bytes;
                snprintf(ret->snapshot, sizeof ret->snapshot, "%s", e->d_name);
            }
        }
        files->ops->free(files);
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    free(path);
}

void inspect_state_of(struct inspect *i, const struct inspect_replica *r, struct inspect_state *ret)
{
    memset(ret, 0, sizeof *ret);
    if (r->removed || r->damaged || r->witness) {
        return;
    }
    if (inspect_has_keys(r)) {
        look_at_database(i, r, ret);
    } else {
        look_at_snapshots(i, r, ret);
    }
}

enum thole_code inspect_keys(struct inspect *i, const struct inspect_replica *r,
                             bool (*each)(void *ctx, const struct kv_key_seen *key), void *ctx,
                             struct thole_status *st)
{
    if (!inspect_has_keys(r)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NONE,
                          "replica %" PRIu64 " has no keys here", r->replica_id);
    }
    if (inspect__state(i) == NULL) {
        *st = i->state_why;
        return st->code;
    }
    return kv_look_at_keys(i->state, space_of(r), each, ctx, st);
}
