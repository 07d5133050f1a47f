/* The snapshotter: long tasks that no proposal waits for, one after the other. It opens machines,
 * saves, flushes, restores and deletes their data, and measures free space. */
#include <bsd/string.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/snapshot/snapshots.h"

/* ---- Files found at start -------------------------------------------------------------------- */

struct finder {
    struct engine *e;
    size_t capacity;
    char (*stale)[ENGINE_NAME_BYTES];
    size_t stale_count;
};

static void found_name(void *ctx, const char *name)
{
    struct finder *f = ctx;
    struct engine *e = f->e;
    struct found_snapshot s = {0};
    if (strlen(name) >= ENGINE_NAME_BYTES) {
        return;
    }
    (void)strlcpy(s.name, name, sizeof s.name);
    if (!engine__snapshot_name_parse(name, &s.replica_id, &s.index) ||
        map_get(&e->by_replica, s.replica_id) == NULL) {
        f->stale = xrealloc(f->stale, (f->stale_count + 1) * sizeof f->stale[0]);
        (void)strlcpy(f->stale[f->stale_count++], name, ENGINE_NAME_BYTES);
        return;
    }
    if (e->found_count == f->capacity) {
        f->capacity = f->capacity ? f->capacity * 2 : 16;
        e->found = xrealloc(e->found, f->capacity * sizeof e->found[0]);
    }
    e->found[e->found_count++] = s;
}

static int compare_found(const void *a, const void *b)
{
    const struct found_snapshot *x = a, *y = b;
    if (x->replica_id != y->replica_id) {
        return x->replica_id < y->replica_id ? -1 : 1;
    }
    return x->index > y->index ? -1 : x->index < y->index;
}

void engine__snapshots_find(struct engine *e)
{
    struct finder f = {.e = e};
    e->files->ops->list(e->files, found_name, &f);
    for (size_t i = 0; i < f.stale_count; i++) {
        e->files->ops->remove(e->files, f.stale[i]); /* unfinished, or of a replica that is gone */
    }
    free(f.stale);
    if (e->found_count > 1) {
        qsort(e->found, e->found_count, sizeof e->found[0], compare_found);
    }
}

enum thole_code engine__spaces_clean(struct engine *e, struct thole_status *st)
{
    struct state_space *spaces;
    size_t n;
    if (e->o.state == NULL) {
        return THOLE_OK;
    }
    enum thole_code code = state_spaces(e->o.state, &spaces, &n, st);
    if (code != THOLE_OK) {
        return code;
    }
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        const struct replica *r = map_get(&e->by_replica, spaces[i].replica_id);
        if (r == NULL || r->generation != spaces[i].generation) {
            code = state_space_drop(e->o.state, spaces[i], st);
        }
    }
    free(spaces);
    return code;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* Is (index, term) in this replica's log, or its start, so that the log continues from it? */
static bool on_log(const struct raft_boot *b, uint64_t index, uint64_t term)
{
    if (index == b->start_index) {
        return term == b->start_term;
    }
    if (index < b->start_index || index > b->last_index) {
        return false;
    }
    uint64_t found = 0;
    for (size_t i = 0; i < b->run_count && b->runs[i].first_index <= index; i++) {
        found = b->runs[i].term;
    }
    return found == term;
}

/* The epoch that the log is in at `index`; UINT64_MAX if that cannot be known. */
static uint64_t epoch_at(const struct task *t, uint64_t index)
{
    struct raft_config start = {0};
    struct raft_change change;
    struct slice encoded = bytes_slice(&t->r->boot->config);
    if (encoded.size > 0 && raft_config_decode(encoded, &start, NULL) != THOLE_OK) {
        return UINT64_MAX;
    }
    uint64_t epoch = start.epoch;
    for (size_t i = 0; i < t->config_entry_count; i++) {
        const struct raft_entry *e = t->config_entries[i];
        if (e->index <= index && raft_change_decode(e->payload.bytes, &change, NULL) == THOLE_OK &&
            change.epoch > epoch) {
            epoch = change.epoch;
        }
    }
    raft_config_deinit(&start);
    return epoch;
}

static size_t first_found(const struct engine *e, uint64_t replica_id)
{
    size_t low = 0, high = e->found_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (e->found[middle].replica_id < replica_id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* An in-memory machine: restore the newest good snapshot that is on the log. */
static enum thole_code open_memory(struct engine *e, struct task *t, struct thole_status *st)
{
    struct replica *r = t->r;
    for (size_t i = first_found(e, r->replica_id);
         i < e->found_count && e->found[i].replica_id == r->replica_id; i++) {
        const char *name = e->found[i].name;
        struct snapshot_info info = {0};
        struct thole_status why = {0};
        if (t->machine == NULL && engine__snapshot_check(e->files, name, &info, &why) == THOLE_OK &&
            info.shard_id == r->shard_id && on_log(&r->boot->raft, info.index, info.index_term) &&
            info.epoch == epoch_at(t, info.index) &&
            engine__snapshot_load(e, r, name, r->generation, &t->machine, &why) == THOLE_OK) {
            t->index = info.index;
            t->term = info.index_term;
            t->bytes = info.bytes;
            continue;
        }
        if (why.code != THOLE_OK) {
            LOG_WARN(ENGINE, "snapshot file removed file=%s error=\"%s\"", name, why.message);
        }
        e->files->ops->remove(e->files, name);
    }
    if (t->machine != NULL) {
        return THOLE_OK;
    }
    if (r->boot->raft.start_index > 0) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "no usable snapshot for a log that begins after %" PRIu64,
                          r->boot->raft.start_index);
    }
    return engine__machine_open(r, r->generation, &t->machine, st);
}

static enum thole_code open_persistent(struct engine *e, struct task *t, struct thole_status *st)
{
    struct replica *r = t->r;
    for (size_t i = first_found(e, r->replica_id);
         i < e->found_count && e->found[i].replica_id == r->replica_id; i++) {
        e->files->ops->remove(e->files, e->found[i].name); /* only for sending */
    }
    /* Generations that were half installed, or replaced and not yet deleted. engine__spaces_clean
     * has dropped those in the state database. */
    bool own = engine__machine_type_find(e, r->kind->type_name)->flush != NULL;
    enum thole_code code = THOLE_OK;
    if (own) {
        code = engine__machine_destroy(r, r->generation + 1, st);
    }
    if (own && code == THOLE_OK && r->generation > 0) {
        code = engine__machine_destroy(r, r->generation - 1, st);
    }
    if (code == THOLE_OK) {
        code = engine__machine_open(r, r->generation, &t->machine, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (t->machine->applied < r->boot->raft.start_index ||
        t->machine->applied > r->boot->raft.last_index) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "the machine is at %" PRIu64 ", its log is (%" PRIu64 ", %" PRIu64 "]",
                          t->machine->applied, r->boot->raft.start_index, r->boot->raft.last_index);
    }
    return THOLE_OK;
}

/* The stamp of the last entry; of an empty log, that of its start. */
static enum thole_code read_last_stamp(const struct engine *e, struct task *t)
{
    const struct raft_boot *b = &t->r->boot->raft;
    struct raft_entry *last = NULL;
    size_t n = 0;
    t->stamp = b->last_stamp;
    if (b->last_index == b->start_index) {
        return THOLE_OK;
    }
    enum thole_code code = e->o.log->ops->read(e->o.log, t->r->replica_id, b->last_index,
                                               b->last_index, SIZE_MAX, 1, &last, &n, &t->st);
    if (code == THOLE_OK && n == 0) {
        code = THOLE_FAIL(&t->st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "the last entry %" PRIu64 " is not in the log", b->last_index);
    }
    if (code == THOLE_OK) {
        t->stamp = last->stamp;
        raft_entry_unref(last);
    }
    return code;
}

void engine__snapshotter_open(struct engine *e, struct task *t)
{
    struct replica *r = t->r;
    const struct thole_machine_type *type = engine__machine_type_find(e, r->kind->type_name);
    enum thole_code code = THOLE_OK;
    ASSERT(r->boot != NULL && t->machine == NULL);
    if (r->failure != NULL) {
        t->st = *r->failure; /* its descriptor or records are damaged */
        return;
    }
    if (r->boot->raft.last_index > r->boot->raft.start_index) {
        code = e->o.log->ops->config_entries(e->o.log, r->replica_id, &t->config_entries,
                                             &t->config_entry_count, &t->st);
    }
    if (code == THOLE_OK) {
        code = read_last_stamp(e, t);
    }
    if (code != THOLE_OK || r->kind->witness) {
        t->st.code = code;
        return;
    }
    if (type != NULL && (type->flags & THOLE_MACHINE_PERSISTENT)) {
        code = open_persistent(e, t, &t->st);
    } else {
        code = open_memory(e, t, &t->st);
    }
    if (code != THOLE_OK) {
        t->st.code = code;
    }
}

/* ---- The other tasks ------------------------------------------------------------------------- */

/* One flush of the state database serves every task of the turn. */
static void flush(struct engine *e, struct task *t, bool *flushed)
{
    struct machine *m = t->machine;
    ASSERT(m != NULL && m->persistent);
    enum thole_code code = THOLE_OK;
    if (m->type->flush != NULL) {
        pthread_rwlock_wrlock(m->lock);
        code = engine__machine_result(m->type->flush(m->state, &t->st), &t->st);
        pthread_rwlock_unlock(m->lock);
    } else if (e->o.state != NULL && !*flushed) {
        code = state_db_flush(e->o.state, &t->st);
        *flushed = code == THOLE_OK;
    }
    t->st.code = code;
}

static void restore(struct engine *e, struct task *t)
{
    struct snapshot_info info = {0};
    struct raft_config announced = {0};
    const struct stream_msg *m = t->received;
    ASSERT(m != NULL && t->pipe == NULL && t->machine == NULL);
    if (t->r->kind->witness) {
        return;
    }
    enum thole_code code = engine__snapshot_check(e->files, m->name, &info, &t->st);
    if (code == THOLE_OK) {
        code = raft_config_decode(bytes_slice(&m->config), &announced, &t->st);
    }
    if (code == THOLE_OK && (info.index != m->index || info.index_term != m->index_term)) {
        code = THOLE_FAIL(&t->st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "the snapshot is not the one that was announced");
    }
    if (code == THOLE_OK && info.epoch != announced.epoch) {
        code = THOLE_FAIL(&t->st, THOLE_UNAVAILABLE, THOLE_REASON_NONE,
                          "a snapshot of another epoch had this name and is removed, the sender "
                          "will start again");
    }
    raft_config_deinit(&announced);
    if (code == THOLE_OK) {
        code = engine__machine_destroy(t->r, t->generation, &t->st);
    }
    if (code == THOLE_OK) {
        code = engine__snapshot_load(e, t->r, m->name, t->generation, &t->machine, &t->st);
    }
    t->bytes = info.bytes;
    t->st.code = code;
}

struct remover {
    struct engine *e;
    uint64_t replica_id, below;
    char (*names)[ENGINE_NAME_BYTES];
    size_t count;
};

static void maybe_remove(void *ctx, const char *name)
{
    struct remover *x = ctx;
    uint64_t replica, index;
    if (!engine__snapshot_name_parse(name, &replica, &index) || replica != x->replica_id ||
        index >= x->below) {
        return;
    }
    x->names = xrealloc(x->names, (x->count + 1) * sizeof x->names[0]);
    (void)strlcpy(x->names[x->count++], name, ENGINE_NAME_BYTES);
}

static void remove_files(struct engine *e, struct task *t)
{
    if (t->name[0]) {
        e->files->ops->remove(e->files, t->name);
        return;
    }
    struct remover x = {.e = e, .replica_id = t->r->replica_id, .below = t->index};
    e->files->ops->list(e->files, maybe_remove, &x);
    for (size_t i = 0; i < x.count; i++) {
        e->files->ops->remove(e->files, x.names[i]);
    }
    free(x.names);
}

static void destroy(struct engine *e, struct task *t)
{
    enum thole_code code;
    if (!t->everything) {
        code = engine__machine_destroy(t->r, t->generation, &t->st);
    } else {
        t->index = UINT64_MAX;
        remove_files(e, t);
        code = engine__machine_destroy(t->r, t->r->generation, &t->st);
        if (code == THOLE_OK) {
            code = engine__machine_destroy(t->r, t->r->generation + 1, &t->st);
        }
    }
    t->st.code = code;
}

static void open_export(struct engine *e, struct task *t)
{
    struct engine_export *x = t->control->export;
    struct snapshot_info info;
    if (t->everything && engine__snapshot_check(e->files, t->name, &info, &t->st) != THOLE_OK) {
        return;
    }
    *x = (struct engine_export){.ops = e->files->ops,
                                .index = t->index,
                                .term = t->term,
                                .machine_version = t->r->kind->type_version};
    t->st.code = x->ops->open(e->files, t->name, &x->file, &x->size, &t->st);
}

static void seed(struct engine *e, struct task *t)
{
    enum thole_code code = engine__snapshot_import(e, t, &t->st);
    if (code == THOLE_OK) {
        code = engine__machine_destroy(t->r, t->generation, &t->st);
    }
    if (code == THOLE_OK) {
        code = engine__snapshot_load(e, t->r, t->name, t->generation, &t->machine, &t->st);
    }
    t->st.code = code;
}

static void run(struct engine *e, struct task *t, bool *flushed)
{
    uint64_t begun = clock_now(e->clock);
    ASSERT(t->r != NULL || t->kind == TASK_SPACE);
    if (t->r != NULL) {
        log_context(t->r->shard_id, t->r->replica_id);
    }
    switch (t->kind) {
    case TASK_OPEN:
        engine__snapshotter_open(e, t);
        break;
    case TASK_SAVE:
        t->st.code = engine__snapshot_save(e, t, &t->st);
        if (t->view != NULL) {
            t->machine->type->view_release(t->machine->state, t->view);
            t->view = NULL;
        }
        metric_record(&engine_save_ns, clock_now(e->clock) - begun);
        break;
    case TASK_FLUSH:
        flush(e, t, flushed);
        break;
    case TASK_RESTORE:
        restore(e, t);
        metric_record(&engine_restore_ns, clock_now(e->clock) - begun);
        break;
    case TASK_DESTROY:
        destroy(e, t);
        break;
    case TASK_REMOVE:
        remove_files(e, t);
        break;
    case TASK_CHECK:
        t->st.code = engine__snapshot_check(e->files, t->name, &(struct snapshot_info){0}, &t->st);
        break;
    case TASK_EXPORT:
        open_export(e, t);
        break;
    case TASK_SEED:
        seed(e, t);
        break;
    case TASK_SPACE:
        t->st.code = e->files->ops->space(e->files, &t->index, &t->st);
        break;
    case TASK_VIEW:
    case TASK_SWITCH:
    case TASK_CLOSE:
    case TASK_DAMAGED:
        ASSERT(false && "a task that is not for the snapshotter");
    }
    log_context(0, 0);
}

uint64_t engine__snapshotter_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    (void)now_ns;
    struct engine *e = ctx;
    struct worker_msg *m;
    bool flushed = false;
    while ((m = msgq_pop(batch)) != NULL) {
        struct task *t = CONTAINER_OF(m, struct task, msg);
        if (!atomic_load(&e->crashed)) {
            run(e, t, &flushed);
        } else {
            (void)THOLE_FAIL(&t->st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "crashed");
        }
        engine__loop_post(t->loop, &t->msg);
    }
    return CLOCK_NEVER;
}
