/* An applier changes the machines of its replicas, and serves their queries. No other worker
 * does. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "shards/engine/engine_internal.h"

/* ---- Queries --------------------------------------------------------------------------------- */

void engine__query_job_fail(struct query_job *j, enum thole_code code, enum thole_reason reason,
                            const char *message)
{
    struct worker_msg *m;
    while ((m = msgq_pop(&j->requests)) != NULL) {
        engine__request_fail(CONTAINER_OF(m, struct engine_request, msg), code, reason, message);
    }
    replica_unref(j->r);
    free(j);
}

/* A query met damage in the machine's data. Every later query and snapshot could meet it too. So
 * the replica fails: another one leads, and this one is rebuilt. */
static void fail_damaged(struct replica *r, struct thole_status *st)
{
    if (!r->machine_failed) {
        struct task *t = engine__task_new(TASK_DAMAGED, r);
        t->st = *st;
        r->machine_failed = true;
        engine__loop_post(t->loop, &t->msg);
    }
    (void)THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                     "the data of this replica is damaged: retry on another replica");
}

static void serve_one(struct replica *r, void *view, struct engine_request *q, struct bytes *out)
{
    struct machine *m = r->machine;
    bytes_clear(out);
    q->index = m->applied;
    q->term = m->applied_term;
    if (q->streamed && engine__machine_has_reader(m)) {
        (void)engine__reader_open(r, q->payload.bytes, &q->reader, &q->status);
    }
    if (q->kind != ENGINE_READ_POINT && q->reader == NULL && q->status.code == THOLE_OK &&
        engine__machine_query(m, view, q->payload.bytes, out, &q->status) == THOLE_OK &&
        out->size > 0) {
        q->result.owner = buf_copy(out->data, out->size);
        q->result.bytes = slice_of(q->result.owner->data, out->size);
    }
    if (q->status.code == THOLE_DATA_LOSS) {
        fail_damaged(r, &q->status);
    }
    engine__request_finish(q);
}

/* One view serves all queries of a job. */
static void serve(struct query_job *j)
{
    struct machine *m = j->r->machine;
    struct thole_status st = {0};
    struct bytes out = {0};
    void *view = NULL;
    bool locked = m->type->view_acquire == NULL;
    ASSERT(j->index <= m->applied && j->requests.count > 0);
    if (locked) {
        pthread_rwlock_rdlock(m->lock);
    } else if (engine__machine_view(m, &view, &st) != THOLE_OK) {
        engine__query_job_fail(j, st.code, st.reason, st.message);
        return;
    }
    struct worker_msg *msg;
    while ((msg = msgq_pop(&j->requests)) != NULL) {
        serve_one(j->r, view, CONTAINER_OF(msg, struct engine_request, msg), &out);
    }
    if (locked) {
        pthread_rwlock_unlock(m->lock);
    } else if (m->type->view_release != NULL) {
        m->type->view_release(m->state, view);
    }
    bytes_deinit(&out);
    replica_unref(j->r);
    free(j);
}

static void park(struct query_job *j)
{
    struct replica *r = j->r;
    uint64_t first = CLOCK_NEVER;
    ASSERT(worker_is_current(r->applier->w) && j->requests.count > 0);
    for (struct worker_msg *m = j->requests.head; m != NULL; m = m->next) {
        const struct engine_request *q = CONTAINER_OF(m, struct engine_request, msg);
        first = q->deadline_ns < first ? q->deadline_ns : first;
    }
    if (first != CLOCK_NEVER) {
        wheel_arm(r->applier->deadlines, &j->expiry, first / NS_PER_MS + 1);
    }
    j->next = r->parked;
    r->parked = j;
}

static void unpark(struct query_job *j)
{
    struct query_job **at = &j->r->parked;
    while (*at != j) {
        ASSERT(*at != NULL);
        at = &(*at)->next;
    }
    *at = j->next;
    wheel_cancel(j->r->applier->deadlines, &j->expiry);
}

/* Fail those requests of a parked job whose deadline has passed. */
static void expire(struct query_job *j, uint64_t now_ns)
{
    struct msgq left = {0};
    struct worker_msg *m;
    unpark(j);
    while ((m = msgq_pop(&j->requests)) != NULL) {
        struct engine_request *q = CONTAINER_OF(m, struct engine_request, msg);
        if (q->deadline_ns > now_ns) {
            msgq_push(&left, m);
        } else {
            engine__request_fail(q, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE,
                                 "the deadline passed before the read point was applied here");
        }
    }
    j->requests = left;
    if (left.count > 0) {
        park(j);
        return;
    }
    replica_unref(j->r);
    free(j);
}

static void handle_query(struct query_job *j)
{
    struct replica *r = j->r;
    if (r->machine_failed) {
        engine__query_job_fail(j, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                               "the machine has failed");
    } else if (r->machine == NULL) {
        engine__query_job_fail(j, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED,
                               "the replica is stopping");
    } else if (j->index <= r->machine->applied) {
        serve(j);
    } else {
        park(j);
    }
}

static void serve_parked(struct replica *r)
{
    for (struct query_job *j = r->parked, *next; j != NULL; j = next) {
        next = j->next;
        if (j->index > r->machine->applied) {
            continue;
        }
        unpark(j);
        serve(j);
    }
}

static void fail_parked(struct replica *r, enum thole_code code, enum thole_reason reason,
                        const char *message)
{
    struct query_job *all = r->parked;
    r->parked = NULL;
    while (all != NULL) {
        struct query_job *j = all;
        all = j->next;
        wheel_cancel(r->applier->deadlines, &j->expiry);
        engine__query_job_fail(j, code, reason, message);
    }
}

/* ---- Apply ----------------------------------------------------------------------------------- */

static enum thole_code apply_pages(struct applier *a, struct apply_job *j, struct thole_status *st)
{
    struct raft_entry *page[ENGINE_PAGE_ENTRIES];
    struct log_store *log = a->e->o.log;
    uint64_t next = j->first;
    while (next <= j->last) {
        size_t n = 0;
        enum thole_code code = log->ops->read(log, j->r->replica_id, next, j->last,
                                              ENGINE_PAGE_BYTES, ENGINE_PAGE_ENTRIES, page, &n, st);
        if (code == THOLE_OK && n == 0) {
            code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "committed entry %" PRIu64 " is not in the log", next);
        }
        if (code == THOLE_OK) {
            code = engine__apply_entries(a->batch, page, n, st);
        }
        for (size_t i = 0; i < n; i++) {
            raft_entry_unref(page[i]);
        }
        if (code != THOLE_OK) {
            return code;
        }
        next += n;
    }
    return THOLE_OK;
}

/* A snapshot was installed while the job waited, and replaced the log. Its machine contains these
 * entries. The old machine must apply nothing more, because that would leave a gap. */
static void apply_overtaken(struct applier *a, struct apply_job *j)
{
    ASSERT(j->r->machine != NULL);
    j->r->machine->overtaken = true;
    j->st = (struct thole_status){0};
    j->overtaken = true;
    engine__apply_abandon(a->batch);
}

static enum thole_code apply_job(struct applier *a, struct apply_job *j)
{
    if (j->entries != NULL) {
        return engine__apply_entries(a->batch, j->entries, (size_t)(j->last - j->first + 1),
                                     &j->st);
    }
    return apply_pages(a, j, &j->st);
}

/* Proposals that were appended in one turn of the loop are recorded together. */
static void record_answers(const struct apply_job *j, uint64_t now)
{
    for (size_t i = 0, next; i < j->request_count; i = next) {
        uint64_t appended = j->requests[i].appended_ns;
        for (next = i + 1; next < j->request_count && j->requests[next].appended_ns == appended;) {
            next++;
        }
        metric_record_many(&engine_answer_ns, now > appended ? now - appended : 0, next - i);
    }
}

static void handle_apply(struct applier *a, struct apply_job *j)
{
    struct replica *r = j->r;
    ASSERT(r->applier == a && j->first <= j->last);
    log_context(r->shard_id, r->replica_id);
    uint64_t begun = clock_now(a->e->clock);
    engine__apply_begin(a->batch, r, j);
    if (r->machine_failed || r->machine == NULL) {
        (void)THOLE_FAIL(&j->st, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                         "the machine is not running");
        engine__apply_abandon(a->batch);
    } else if (r->machine->overtaken) {
        apply_overtaken(a, j);
    } else {
        enum thole_code code = apply_job(a, j);
        if (code == THOLE_OK) {
            engine__apply_done(a->batch);
            serve_parked(r);
        } else if (j->entries == NULL && j->st.reason == THOLE_REASON_COMPACTED) {
            apply_overtaken(a, j);
        } else {
            j->st.code = code;
            r->machine_failed = true;
            engine__apply_abandon(a->batch);
            fail_parked(r, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                        "the machine has failed");
            engine__watch_end(r, THOLE_REASON_MACHINE_FAILED, "the machine has failed");
        }
    }
    uint64_t now = clock_now(a->e->clock);
    metric_record(&engine_apply_ns, now - begun);
    metric_record(&engine_apply_lag_ns, now - j->handed_ns);
    record_answers(j, now);
    engine__loop_post(r->loop, &j->msg);
}

/* ---- Tasks ----------------------------------------------------------------------------------- */

static void encode_sessions(const struct session_table *t, struct bytes *out)
{
    for (const struct session *s = t->oldest; s != NULL; s = s->newer) {
        size_t at = out->size;
        (void)bytes_extend(out, 4);
        session_encode(s, out);
        put_le32(out->data + at, (uint32_t)(out->size - at - 4));
    }
    for (const struct request_answer *r = t->ids.oldest;
         r != NULL && !CANARY(request_ids_not_saved); r = r->newer) {
        size_t at = out->size;
        (void)bytes_extend(out, 4);
        session_encode_request(r, out);
        put_le32(out->data + at, (uint32_t)(out->size - at - 4));
    }
    put_le32(bytes_extend(out, 4), 0);
}

static void acquire_view(struct task *t)
{
    struct machine *m = t->r->machine;
    ASSERT(worker_is_current(t->r->applier->w) && t->machine == NULL && t->view == NULL);
    if (m == NULL || t->r->machine_failed) {
        (void)THOLE_FAIL(&t->st, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                         "the machine is not running");
        return;
    }
    t->machine = engine__machine_ref(m);
    t->index = m->applied;
    t->term = m->applied_term;
    t->stamp = m->applied_stamp;
    encode_sessions(&m->sessions, &t->sessions);
    if (m->type->view_acquire != NULL) {
        (void)engine__machine_view(m, &t->view, &t->st);
    }
}

/* The flush makes durable what is applied now. */
static void acquire_for_flush(struct applier *a, struct task *t)
{
    struct machine *m = t->r->machine;
    if (m == NULL || t->r->machine_failed) {
        (void)THOLE_FAIL(&t->st, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                         "the machine is not running");
        engine__loop_post(t->loop, &t->msg);
        return;
    }
    t->machine = engine__machine_ref(m);
    t->index = m->applied;
    if (!worker_post_internal(a->e->snapshotter, &t->msg)) {
        engine__loop_discard(t->loop, &t->msg);
    }
}

static void switch_machine(struct task *t)
{
    struct replica *r = t->r;
    struct machine *old = r->machine;
    ASSERT(worker_is_current(r->applier->w) && t->machine != NULL);
    ASSERT(old == NULL || t->machine->generation == old->generation + 1);
    pthread_mutex_lock(&r->applier->watch_lock);
    r->machine = t->machine;
    r->watch_applied = t->machine->applied;
    pthread_mutex_unlock(&r->applier->watch_lock);
    t->machine = NULL;
    t->generation = old != NULL ? old->generation : 0;
    engine__machine_unref(old);
    r->machine_failed = false;
    engine__watch_end(r, THOLE_REASON_NOT_READY,
                      "a snapshot was installed: events may have been missed");
    serve_parked(r);
}

static void close_machine(struct task *t)
{
    struct replica *r = t->r;
    ASSERT(worker_is_current(r->applier->w));
    fail_parked(r, t->st.code ? t->st.code : THOLE_UNAVAILABLE,
                t->st.reason ? t->st.reason : THOLE_REASON_STOPPED, "the replica is stopping");
    engine__watch_end(r, t->st.reason ? t->st.reason : THOLE_REASON_STOPPED,
                      "the replica is stopping");
    engine__machine_unref(r->machine);
    r->machine = NULL;
}

static void handle_task(struct applier *a, struct task *t)
{
    switch (t->kind) {
    case TASK_VIEW:
        acquire_view(t);
        engine__loop_post(t->loop, &t->msg);
        break;
    case TASK_SWITCH:
        switch_machine(t);
        engine__loop_post(t->loop, &t->msg);
        break;
    case TASK_CLOSE:
        close_machine(t);
        engine__task_free(t);
        break;
    case TASK_FLUSH:
        acquire_for_flush(a, t);
        break;
    case TASK_DESTROY: /* forwarded to the streamer, after TASK_CLOSE */
        engine__streamer_post(a->e, &t->msg);
        break;
    case TASK_OPEN:
    case TASK_SAVE:
    case TASK_RESTORE:
    case TASK_REMOVE:
    case TASK_CHECK:
    case TASK_SPACE:
    case TASK_EXPORT:
    case TASK_DAMAGED:
    case TASK_SEED:
        ASSERT(false && "a task that is not for an applier");
    }
}

static uint64_t applier_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct applier *a = ctx;
    struct worker_msg *m;
    struct wheel_timer *t;
    cork_begin();
    while ((m = msgq_pop(batch)) != NULL) {
        if (m->kind == MSG_APPLY) {
            handle_apply(a, CONTAINER_OF(m, struct apply_job, msg));
        } else if (m->kind == MSG_QUERY) {
            handle_query(CONTAINER_OF(m, struct query_job, msg));
        } else {
            ASSERT(m->kind == MSG_TASK);
            handle_task(a, CONTAINER_OF(m, struct task, msg));
        }
    }
    while ((t = wheel_expire(a->deadlines, now_ns / NS_PER_MS)) != NULL) {
        expire(CONTAINER_OF(t, struct query_job, expiry), now_ns);
    }
    cork_end();
    uint64_t next = wheel_next(a->deadlines);
    return next == UINT64_MAX ? CLOCK_NEVER : next * NS_PER_MS;
}

struct applier *engine__applier_new(struct engine *e, uint32_t index)
{
    struct applier *a = xcalloc(1, sizeof *a);
    char name[16];
    (void)snprintf(name, sizeof name, "applier-%u", index % 100);
    a->e = e;
    a->batch = engine__apply_batch_new();
    a->deadlines = wheel_new(clock_now(e->clock) / NS_PER_MS);
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&a->watch_lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    a->w = worker_new(e->o.executor, name, ENGINE_QUEUE_MAX, applier_turn, a);
    return a;
}

void engine__applier_free(struct applier *a)
{
    if (a == NULL) {
        return;
    }
    worker_free(a->w);
    engine__apply_batch_free(a->batch);
    wheel_free(a->deadlines);
    pthread_mutex_destroy(&a->watch_lock);
    free(a);
}
