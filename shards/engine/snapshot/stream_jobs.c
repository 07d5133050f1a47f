/* The workers on which machines write into pipes and read from them. They block on other hosts, so
 * they are separate from the snapshotter. Savers are separate from restorers, or two hosts that
 * send to each other could block for ever. A worker has one job at a time; a replica has at most
 * one job of each kind. */
#include <stdio.h>
#include <stdlib.h>

#include "shards/engine/snapshot/streams.h"

struct slot {
    struct worker *w;
    struct task *job; /* NULL: idle */
};
struct stream_jobs {
    struct engine *e;
    struct slot savers[STREAM_JOBS_MAX], restorers[STREAM_JOBS_MAX];
    struct msgq held; /* TASK_DESTROY */
};

static void run(struct engine *e, struct task *t)
{
    uint64_t begun = clock_now(e->clock);
    log_context(t->r->shard_id, t->r->replica_id);
    if (atomic_load(&e->crashed)) {
        t->st.code = THOLE_FAIL(&t->st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "crashed");
        engine__pipe_break(t->pipe);
    } else if (t->kind == TASK_SAVE) {
        t->st.code = engine__snapshot_save_stream(t, &t->st);
        metric_record(&engine_save_ns, clock_now(e->clock) - begun);
    } else {
        t->st.code = engine__snapshot_load_stream(t, &t->st);
        metric_record(&engine_restore_ns, clock_now(e->clock) - begun);
    }
    t->ran = true;
    if (t->view != NULL) {
        t->machine->type->view_release(t->machine->state, t->view);
        t->view = NULL;
    }
    log_context(0, 0);
}

static uint64_t job_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct engine *e = ctx;
    struct worker_msg *m;
    (void)now_ns;
    while ((m = msgq_pop(batch)) != NULL) {
        run(e, CONTAINER_OF(m, struct task, msg));
        engine__streamer_post(e, m);
    }
    return CLOCK_NEVER;
}

struct stream_jobs *engine__jobs_new(struct engine *e)
{
    struct stream_jobs *j = xcalloc(1, sizeof *j);
    char name[16];
    j->e = e;
    for (unsigned i = 0; i < STREAM_JOBS_MAX; i++) {
        (void)snprintf(name, sizeof name, "saver-%u", i);
        j->savers[i].w = worker_new_background(e->o.executor, name, SIZE_MAX, job_turn, e);
        (void)snprintf(name, sizeof name, "restorer-%u", i);
        j->restorers[i].w = worker_new_background(e->o.executor, name, SIZE_MAX, job_turn, e);
    }
    return j;
}

static struct slot *slots_of(struct stream_jobs *j, enum task_kind kind)
{
    return kind == TASK_SAVE ? j->savers : j->restorers;
}

bool engine__jobs_start(struct stream_jobs *j, struct task *t)
{
    struct slot *slots = slots_of(j, t->kind), *idle = NULL;
    ASSERT((t->kind == TASK_SAVE || t->kind == TASK_RESTORE) && t->pipe != NULL && !t->ran);
    for (int i = 0; i < STREAM_JOBS_MAX; i++) {
        if (slots[i].job != NULL && slots[i].job->r == t->r) {
            return false;
        }
        if (slots[i].job == NULL) {
            idle = &slots[i];
        }
    }
    if (idle == NULL) {
        return false;
    }
    idle->job = t;
    bool posted = worker_post_internal(idle->w, &t->msg);
    ASSERT(posted); /* the streamer stops before the jobs do */
    return true;
}

/* Deleting everything waits for all jobs of the replica. Deleting one generation waits for the jobs
 * that save from it; a restore into it has ended before. */
static bool in_use(struct stream_jobs *j, const struct task *destroy)
{
    for (int i = 0; i < STREAM_JOBS_MAX; i++) {
        const struct task *save = j->savers[i].job, *restore = j->restorers[i].job;
        if (save != NULL && save->r == destroy->r &&
            (destroy->everything || save->machine->generation == destroy->generation)) {
            return true;
        }
        if (restore != NULL && restore->r == destroy->r && destroy->everything) {
            return true;
        }
    }
    return false;
}

static void release_held(struct stream_jobs *j)
{
    struct msgq all = {0};
    struct worker_msg *m;
    msgq_concat(&all, &j->held);
    while ((m = msgq_pop(&all)) != NULL) {
        struct task *t = CONTAINER_OF(m, struct task, msg);
        if (in_use(j, t)) {
            msgq_push(&j->held, m);
        } else {
            engine__snapshot_post(t->loop, t);
        }
    }
}

void engine__jobs_ended(struct stream_jobs *j, const struct task *t)
{
    struct slot *slots = slots_of(j, t->kind);
    bool found = false;
    for (int i = 0; i < STREAM_JOBS_MAX; i++) {
        if (slots[i].job == t) {
            slots[i].job = NULL;
            found = true;
        }
    }
    ASSERT(found && t->ran);
    release_held(j);
}

void engine__jobs_destroy(struct stream_jobs *j, struct task *t)
{
    ASSERT(t->kind == TASK_DESTROY);
    msgq_push(&j->held, &t->msg);
    release_held(j);
}

void engine__jobs_stop(struct stream_jobs *j)
{
    for (int i = 0; i < STREAM_JOBS_MAX; i++) {
        worker_stop(j->savers[i].w);
        worker_stop(j->restorers[i].w);
        j->savers[i].job = j->restorers[i].job = NULL;
    }
    release_held(j);
}

void engine__jobs_free(struct stream_jobs *j)
{
    for (int i = 0; i < STREAM_JOBS_MAX; i++) {
        worker_free(j->savers[i].w);
        worker_free(j->restorers[i].w);
    }
    free(j);
}
