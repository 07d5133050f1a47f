/* Snapshots for users: export, and seeding a new group from an export. An exported file is one of
 * the replica's own; a newer one is saved only if the last is too old. A seed is installed like a
 * received snapshot: restored into the next generation, which one batch makes live. */
#include <bsd/string.h>
#include <inttypes.h>

#include "shards/engine/engine_internal.h"

/* ---- Entry points, on any thread ------------------------------------------------------------- */

void engine_export(struct engine *e, uint64_t shard_id, uint64_t min_index,
                   struct engine_export *ret, engine_done_fn done, void *ctx)
{
    struct control *c = engine__control_new(CONTROL_EXPORT, done, ctx);
    *ret = (struct engine_export){0};
    c->shard_id = shard_id;
    c->min_index = min_index;
    c->export = ret;
    engine__loop_post(engine__loop(e, shard_id), &c->msg);
}

void engine_seed(struct engine *e, uint64_t shard_id, const char *name, engine_done_fn done,
                 void *ctx)
{
    struct control *c = engine__control_new(CONTROL_SEED, done, ctx);
    c->shard_id = shard_id;
    if (strlcpy(c->name, name, sizeof c->name) >= sizeof c->name) {
        (void)THOLE_FAIL(&c->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "the name of a seed is too long");
        c->kind = CONTROL_ANSWER;
    }
    engine__loop_post(engine__loop(e, shard_id), &c->msg);
}

/* ---- Out ------------------------------------------------------------------------------------- */

static void open_for(struct loop *l, struct replica *r, struct control *c, bool check)
{
    ASSERT(r->snapshot_index != 0 && c->export != NULL);
    struct task *t = engine__task_new(TASK_EXPORT, r);
    t->control = c;
    t->index = r->snapshot_index;
    t->term = r->snapshot_term;
    t->everything = check;
    engine__snapshot_name(r, t->index, t->name);
    engine__snapshot_post(l, t);
}

static void await_save(struct loop *l, struct replica *r, struct control *c)
{
    c->next = work_of(r)->exports;
    work_of(r)->exports = c;
    if (!r->saving) {
        engine__snapshot_start_save(l, r);
    }
}

void engine__export_begin(struct loop *l, struct control *c)
{
    struct replica *r = engine__control_running(l, c);
    if (r == NULL) {
        return;
    }
    if (r->kind->witness || c->min_index > work_of(r)->status.commit) {
        (void)THOLE_FAIL(&c->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                         r->kind->witness ? "a witness holds no data"
                                          : "nothing is committed at that index");
        engine__control_answer(c);
    } else if (r->snapshot_index != 0 && r->snapshot_index >= c->min_index) {
        open_for(l, r, c, true);
    } else {
        await_save(l, r, c);
    }
}

/* A file is opened before it is removed: both are tasks of the snapshotter, in this order. */
void engine__exports_saved(struct loop *l, struct replica *r)
{
    struct control *all = work_of(r)->exports;
    work_of(r)->exports = NULL;
    while (all != NULL) {
        struct control *c = all;
        all = c->next;
        if (r->snapshot_index >= c->min_index) {
            open_for(l, r, c, false);
        } else {
            await_save(l, r, c); /* the save began before this export */
        }
    }
    if (r->persistent && work_of(r)->sending == 0 && !r->saving) {
        r->snapshot_index = r->snapshot_term = 0;
        engine__snapshot_remove_files(l, r, UINT64_MAX);
    }
}

void engine__exports_fail(struct replica *r, const struct thole_status *st)
{
    engine__control_fail_list(&work_of(r)->exports, st);
}

void engine__export_opened(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    struct control *c = t->control;
    ASSERT(c != NULL && r->loop == l);
    t->control = NULL;
    c->st = t->st;
    if (c->st.code == THOLE_DATA_LOSS && t->everything && r->state == GROUP_RUNNING) {
        LOG_WARN(ENGINE, "snapshot file damaged, saving another one error=\"%s\"", t->st.message);
        c->st = (struct thole_status){0};
        await_save(l, r, c);
        return;
    }
    engine__control_answer(c);
}

/* ---- In -------------------------------------------------------------------------------------- */

void engine__seed_begin(struct loop *l, struct control *c)
{
    struct replica *r = engine__control_running(l, c);
    if (r == NULL) {
        return;
    }
    if (r->restoring || work_of(r)->install != NULL || r->kind->witness) {
        (void)THOLE_FAIL(&c->st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                         "the replica is a witness, or takes a snapshot already");
        engine__control_answer(c);
        return;
    }
    if (raft_config(r->core)->member_count > 0) {
        engine__control_answer(c);
        return;
    }
    ASSERT(r->applied == 0); /* a replica without members has nothing */
    r->restoring = true;
    struct task *t = engine__task_new(TASK_SEED, r);
    t->control = c;
    t->generation = r->generation + 1;
    (void)strlcpy(t->name, c->name, sizeof t->name);
    engine__snapshot_post(l, t);
}

static void refuse(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    struct control *c = t->control;
    bool later = t->st.code == THOLE_UNAVAILABLE || t->st.code == THOLE_RESOURCE_EXHAUSTED;
    LOG_WARN(ENGINE, "seed refused%s error=\"%s\"",
             later ? ", the caller may retry" : ", the replica fails", t->st.message);
    engine__snapshot_remove_files(l, r, UINT64_MAX);
    engine__machine_unref(t->machine);
    t->machine = NULL;
    engine__snapshot_discard(l, r);
    c->st = t->st;
    t->control = NULL;
    if (!later) {
        engine__group_fail(l, r, &t->st);
    }
    engine__control_answer(c);
    engine__task_free(t);
}

void engine__seed_loaded(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    struct raft_config config = {0};
    ASSERT(r->restoring && work_of(r)->install == NULL && t->control != NULL);
    r->restoring = false;
    if (t->st.code == THOLE_OK) {
        t->st.code = raft_config_decode(bytes_slice(&t->config), &config, &t->st);
    }
    if (t->st.code == THOLE_OK) {
        t->st.code = raft_seed(r->core, t->index, t->term, t->stamp, &config, l->now_ms, &t->st);
    }
    raft_config_deinit(&config);
    if (t->st.code != THOLE_OK) {
        refuse(l, t);
        return;
    }
    LOG_INFO(ENGINE, "seed restored, group starts from it index=%" PRIu64, t->index);
    struct stream_msg *m = xcalloc(1, sizeof *m);
    m->r = replica_ref(r);
    m->index = t->index;
    m->index_term = t->term;
    m->seeding = t->control;
    t->control = NULL;
    t->received = m;
    engine__snapshot_install(r, t);
    engine__loop_dirty(l, r);
}
