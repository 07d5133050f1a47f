/* A loop's turn: handle the inbox, run timers, harvest each dirty group, send, and hand one merged
 * batch to the writer. While a batch is at the writer, the next one accumulates. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/process.h"
#include "shards/engine/engine_internal.h"

#define TRIM_AFTER_WORKS 1024

static void list_add(struct replica ***list, size_t *count, size_t *capacity, struct replica *r)
{
    if (*count == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 64;
        *list = xrealloc(*list, *capacity * sizeof(struct replica *));
    }
    (*list)[(*count)++] = r;
}

void engine__loop_dirty(struct loop *l, struct replica *r)
{
    ASSERT(r->loop == l && worker_is_current(l->w));
    if (r->dirty) {
        return;
    }
    r->dirty = true;
    list_add(&l->dirty, &l->dirty_count, &l->dirty_capacity, replica_ref(r));
}

void engine__loop_publish(struct loop *l, struct replica *r)
{
    ASSERT(r->loop == l && worker_is_current(l->w));
    if (r->publish) {
        return;
    }
    r->publish = true;
    list_add(&l->published, &l->published_count, &l->published_capacity, replica_ref(r));
}

bool engine__loop_writer_stalled(const struct loop *l, uint64_t now_ns)
{
    uint64_t since = atomic_load_explicit(&l->in_flight_since_ns, memory_order_relaxed);
    return since != 0 && now_ns > since && now_ns - since > l->e->o.election_timeout_ms * NS_PER_MS;
}

/* ---- Messages -------------------------------------------------------------------------------- */

static void handle_request(struct loop *l, struct engine_request *q)
{
    if (atomic_load(&l->e->fenced)) {
        engine__request_fail(q, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, l->e->fence.message);
    } else if (l->stopping || l->failed) {
        engine__request_fail(
            q, THOLE_UNAVAILABLE, l->failed ? THOLE_REASON_DISK : THOLE_REASON_STOPPED,
            l->failed ? "the log of this host has failed" : "the host is stopping");
    } else if (map_get(&l->by_shard, q->shard_id) == NULL) {
        engine__request_fail(q, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                             "the shard has no replica on this host");
    } else if (q->kind == ENGINE_QUERY || q->kind == ENGINE_READ_POINT) {
        engine__read_submit(l, q);
    } else {
        engine__proposal_submit(l, q);
    }
}

static void stop_all(struct loop *l, const struct thole_status *st)
{
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&l->by_replica, &it, NULL)) != NULL) {
        engine__group_stop(l, r, st);
    }
}

static void fail_loop(struct loop *l, const struct thole_status *st)
{
    if (l->failed) {
        return;
    }
    l->failed = true;
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&l->by_replica, &it, NULL)) != NULL) {
        if (r->state != GROUP_FAILED && r->state != GROUP_GONE) {
            engine__group_fail(l, r, st);
        }
    }
}

static void handle_persisted(struct loop *l, struct write_batch *b)
{
    ASSERT(l->in_flight == b && b->loop == l);
    ASSERT(b->st.code == THOLE_OK || atomic_load(&l->e->failed) || atomic_load(&l->e->crashed));
    l->in_flight = NULL;
    atomic_store_explicit(&l->in_flight_since_ns, 0, memory_order_relaxed);
    metric_record(&engine_commit_ns, l->now_ns - b->posted_ns);
    for (size_t i = 0; i < b->count; i++) {
        struct write_update *w = &b->updates[i];
        if (w->r != NULL && w->r->work != NULL && w->r->work->update_batch == b) {
            w->r->work->update_batch = NULL;
        }
        if (b->st.code == THOLE_OK) {
            engine__group_persisted(l, w);
        } else if (w->control != NULL) {
            w->control->st = b->st;
            engine__control_answer(w->control);
            w->control = NULL;
        }
    }
    if (b->st.code != THOLE_OK) {
        fail_loop(l, &b->st);
    }
    engine__write_batch_free(b);
}

static void handle_log_read(struct loop *l, struct log_read *m)
{
    struct replica *r = m->r;
    ASSERT(r->loop == l);
    if (r->state == GROUP_RUNNING && m->st.code == THOLE_DATA_LOSS) {
        engine__group_fail(l, r, &m->st);
    } else if (r->state == GROUP_RUNNING) {
        raft_log_read(r->core, m->peer, m->first, m->entries, m->count);
        m->count = 0; /* references taken */
        engine__loop_dirty(l, r);
    }
    engine__log_read_free(m);
}

/* The leader's host is unreachable. Without this, check-quorum would make the replica reject votes
 * until an election timeout after the last heartbeat. With lease reads the core refuses, and keeps
 * its promise to the leader. */
static void forget_leader(struct loop *l, struct replica *r)
{
    enum thole_code code = raft_forget_leader(r->core, l->now_ms, NULL);
    (void)code;
}

/* Does nothing to a follower of another leader: it may be asleep, and stays so. */
static void peer_lost(struct loop *l, struct replica *r, uint64_t replica_id)
{
    bool follows = replica_leader(r) == replica_id;
    if (!r->led && !follows) {
        return;
    }
    raft_unreachable(r->core, replica_id);
    if (follows) {
        forget_leader(l, r);
    }
    engine__loop_dirty(l, r);
}

static void handle_peer(struct loop *l, struct peer_change *p)
{
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&l->by_replica, &it, NULL)) != NULL) {
        if (r->state != GROUP_RUNNING) {
            continue;
        }
        const struct raft_config *c = raft_config(r->core);
        for (uint32_t i = 0; i < c->member_count; i++) {
            const struct raft_member *m = &c->members[i];
            if (m->replica_id == r->replica_id || memcmp(m->host, p->host.bytes, 16) != 0) {
                continue;
            }
            if (!p->up) {
                peer_lost(l, r, m->replica_id);
            }
            break;
        }
    }
    free(p);
}

static void handle(struct loop *l, struct worker_msg *m)
{
    switch ((enum msg_kind)m->kind) {
    case MSG_REQUEST:
        handle_request(l, CONTAINER_OF(m, struct engine_request, msg));
        break;
    case MSG_REFUSE:
        engine__request_fail(CONTAINER_OF(m, struct engine_request, msg), THOLE_RESOURCE_EXHAUSTED,
                             THOLE_REASON_QUEUE_FULL, "too many requests wait for this loop");
        break;
    case MSG_INBOUND:
        engine__loop_inbound(l, CONTAINER_OF(m, struct inbound, msg));
        break;
    case MSG_WRITE:
        handle_persisted(l, CONTAINER_OF(m, struct write_batch, msg));
        break;
    case MSG_APPLY:
        engine__group_applied(l, CONTAINER_OF(m, struct apply_job, msg));
        break;
    case MSG_LOG_READ:
        handle_log_read(l, CONTAINER_OF(m, struct log_read, msg));
        break;
    case MSG_TASK:
        engine__snapshot_task_done(l, CONTAINER_OF(m, struct task, msg));
        break;
    case MSG_CONTROL:
        engine__control_handle(l, CONTAINER_OF(m, struct control, msg));
        break;
    case MSG_PEER:
        handle_peer(l, CONTAINER_OF(m, struct peer_change, msg));
        break;
    case MSG_BEAT:
        engine__heartbeats_heard(l, CONTAINER_OF(m, struct host_beat, msg));
        break;
    case MSG_SENT:
        engine__snapshot_sent(l, CONTAINER_OF(m, struct stream_msg, msg));
        break;
    case MSG_RECEIVED:
        engine__snapshot_received(l, CONTAINER_OF(m, struct stream_msg, msg));
        break;
    case MSG_STOP: {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
        l->stopping = true;
        stop_all(l, &st);
        engine__hand_over_end(l);
        break;
    }
    case MSG_FENCE:
        fail_loop(l, &l->e->fence);
        break;
    case MSG_QUERY:
    case MSG_CHUNK:
    case MSG_REPLY:
    case MSG_SEND:
    case MSG_RECEIVE_END:
    case MSG_FLOW:
    default:
        ASSERT(false && "a message that is not for a loop");
    }
}

/* A message to a worker that has stopped. Its callers still get an answer. */
void engine__loop_discard(struct loop *l, struct worker_msg *m)
{
    (void)l;
    struct thole_status stopped;
    (void)THOLE_FAIL(&stopped, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
    switch ((enum msg_kind)m->kind) {
    case MSG_REQUEST:
    case MSG_REFUSE: {
        struct engine_request *q = CONTAINER_OF(m, struct engine_request, msg);
        q->status = stopped;
        engine__request_finish(q);
        break;
    }
    case MSG_INBOUND:
        engine__inbound_free(CONTAINER_OF(m, struct inbound, msg));
        break;
    case MSG_WRITE: {
        struct write_batch *b = CONTAINER_OF(m, struct write_batch, msg);
        for (size_t i = 0; i < b->count; i++) {
            if (b->updates[i].control == NULL) {
                continue;
            }
            b->updates[i].control->st = b->st.code ? b->st : stopped;
            engine__control_answer(b->updates[i].control);
            b->updates[i].control = NULL;
        }
        engine__write_batch_free(b);
        break;
    }
    case MSG_APPLY: {
        struct apply_job *j = CONTAINER_OF(m, struct apply_job, msg);
        for (size_t i = 0; i < j->request_count; i++) {
            if (j->requests[i].request != NULL) { /* NULL: the applier has answered it */
                engine__request_fail(j->requests[i].request, THOLE_UNKNOWN,
                                     THOLE_REASON_OUTCOME_UNKNOWN,
                                     "the host stopped before the entry was applied");
            }
        }
        engine__apply_job_free(j);
        break;
    }
    case MSG_QUERY:
        engine__query_job_fail(CONTAINER_OF(m, struct query_job, msg), THOLE_UNAVAILABLE,
                               THOLE_REASON_STOPPED, "the host is stopping");
        break;
    case MSG_LOG_READ:
        engine__log_read_free(CONTAINER_OF(m, struct log_read, msg));
        break;
    case MSG_TASK:
        engine__task_free(CONTAINER_OF(m, struct task, msg));
        break;
    case MSG_CONTROL: {
        struct control *c = CONTAINER_OF(m, struct control, msg);
        c->st = stopped;
        engine__control_answer(c);
        break;
    }
    case MSG_PEER:
        free(CONTAINER_OF(m, struct peer_change, msg));
        break;
    case MSG_BEAT:
        free(CONTAINER_OF(m, struct host_beat, msg));
        break;
    case MSG_CHUNK:
    case MSG_REPLY:
    case MSG_SEND:
    case MSG_RECEIVE_END:
    case MSG_SENT:
    case MSG_RECEIVED:
    case MSG_FLOW:
        engine__stream_msg_free(CONTAINER_OF(m, struct stream_msg, msg));
        break;
    case MSG_STOP:
    case MSG_FENCE:
        break;
    }
}

void engine__loop_post(struct loop *l, struct worker_msg *m)
{
    if (!worker_post_internal(l->w, m)) {
        engine__loop_discard(l, m);
    }
}

/* ---- The turn -------------------------------------------------------------------------------- */

/* Logical time. If a turn comes much later than the last one asked for (a stall), logical time
 * moves by the planned wait and one heartbeat interval only. So messages that wait in the inbox are
 * handled before a peer counts as silent. */
static void move_time(struct loop *l, uint64_t now_ns)
{
    uint64_t real_ms = now_ns / NS_PER_MS, passed = real_ms - l->real_ms;
    uint64_t most = l->planned_ms + l->e->o.heartbeat_ms;
    ASSERT(now_ns >= l->now_ns);
    l->now_ns = now_ns;
    l->real_ms = real_ms;
    l->now_ms += passed < most ? passed : most;
    l->wall_ms = l->e->clock->wall_ms(l->e->clock);
}

static void run_timers(struct loop *l)
{
    struct wheel_timer *t;
    engine__heartbeats_run(l);
    engine__timers_run(l);
    while ((t = wheel_expire(l->ticks, l->now_ms)) != NULL) {
        struct replica *r = CONTAINER_OF(t, struct replica_work, tick)->r;
        if (r->state == GROUP_RUNNING) {
            engine__group_tick(l, r);
        }
    }
    while ((t = wheel_expire(l->deadlines, l->real_ms)) != NULL) {
        struct engine_request *q = CONTAINER_OF(t, struct engine_request, internal);
        struct replica *r = map_get(&l->by_shard, q->shard_id);
        ASSERT(r != NULL);
        if (q->kind == ENGINE_QUERY || q->kind == ENGINE_READ_POINT) {
            engine__read_expired(l, r, q);
        } else {
            engine__proposal_expired(l, q);
        }
    }
}

static void harvest_all(struct loop *l)
{
    for (size_t i = 0; i < l->dirty_count; i++) {
        struct replica *r = l->dirty[i];
        ASSERT(r->dirty && r->loop == l);
        r->dirty = false;
        if (r->state == GROUP_RUNNING) {
            engine__group_harvest(l, r);
        }
        replica_unref(r);
    }
    l->dirty_count = 0;
    log_context(0, 0);
}

void engine__loop_check_space(struct loop *l)
{
    if (l->space_checking || l->now_ns - l->space_checked_ns < ENGINE_SPACE_CHECK_NS) {
        return;
    }
    struct task *t = engine__task_new(TASK_SPACE, NULL);
    t->loop = l;
    l->space_checking = true;
    l->space_checked_ns = l->now_ns;
    if (!worker_post_internal(l->e->snapshotter, &t->msg)) {
        engine__task_free(t);
    }
}

static void post_batch(struct loop *l)
{
    if (l->next != NULL && l->in_flight == NULL) {
        l->in_flight = l->next;
        l->next = NULL;
        ASSERT(l->in_flight->count > 0 && l->in_flight->loop == l);
        l->in_flight->posted_ns = l->now_ns;
        atomic_store_explicit(&l->in_flight_since_ns, l->now_ns, memory_order_relaxed);
        for (size_t i = 0; i < l->in_flight->count; i++) {
            struct replica *r = l->in_flight->updates[i].r;
            if (r != NULL && r->work != NULL) {
                r->work->update_batch = NULL;
            }
        }
        engine__loop_check_space(l);
        if (!worker_post_internal(l->e->writer, &l->in_flight->msg)) {
            struct write_batch *b = l->in_flight;
            l->in_flight = NULL;
            engine__loop_discard(l, &b->msg);
        }
    } else if (atomic_load_explicit(&l->e->low_space, memory_order_relaxed)) {
        engine__loop_check_space(l); /* while proposals are refused, no write checks it */
    }
}

/* Other failures (options, an unregistered type, descriptors, memory, an unresponsive disk) are the
 * host's, and may be gone after a restart. */
static bool is_damage(const struct thole_status *st)
{
    return st->code == THOLE_DATA_LOSS || st->reason == THOLE_REASON_CORRUPT ||
           st->reason == THOLE_REASON_MACHINE_FAILED;
}

static void fill_shown(struct replica *r)
{
    struct replica_shown *s = &r->shown;
    struct raft_status raft;
    replica_status(r, &raft);
    s->term = raft.term;
    s->leader = raft.leader;
    s->epoch = raft.epoch;
    s->last_term = raft.last_term;
    s->commit = raft.commit;
    s->last_index = raft.last_index;
    s->first_index = raft.first_index;
    s->config_index = raft.config_index;
    s->role = (uint8_t)raft.role;
    s->leader_ready = raft.leader_ready;
    s->leader_host = (struct uuid){0};
    if (raft.leader == r->replica_id) {
        s->leader_host = r->e->o.host_id;
    } else if (raft.leader != 0) {
        (void)engine__replica_host(r, raft.leader, &s->leader_host);
    }
    if (r->core != NULL) {
        s->initialised =
            s->initialised || raft_config_find(raft_config(r->core), r->replica_id) != NULL;
        s->voter = raft_config_is_voter(raft_config(r->core), r->replica_id);
        s->votes = raft_config_votes(raft_config(r->core));
        s->config_revision = raft_config(r->core)->revision;
    }
    s->removed_by_peer = r->removed_by_peer;
    s->failed = r->state == GROUP_FAILED;
    ASSERT(!s->failed || r->failure != NULL);
    s->unopened = s->failed && r->boot != NULL && !is_damage(r->failure);
    s->superseded = s->failed && r->failure->code == THOLE_DATA_LOSS &&
                    r->failure->reason == THOLE_REASON_REMOVED;
    s->sends_snapshot = engine__snapshot_is_sent(r);
    s->applied = r->applied;
    s->log_bytes = r->log_bytes;
    s->snapshot_index = r->snapshot_index;
}

static void publish_all(struct loop *l)
{
    struct engine *e = l->e;
    if (l->published_count == 0) {
        return;
    }
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < l->published_count; i++) {
        fill_shown(l->published[i]);
    }
    pthread_mutex_unlock(&e->lock);
    for (size_t i = 0; i < l->published_count; i++) {
        struct replica *r = l->published[i];
        ASSERT(r->publish && r->loop == l);
        r->publish = false;
        if (r->notify && e->o.observer.replica_changed != NULL && !atomic_load(&e->crashed)) {
            struct engine_replica_status shown;
            replica_show(r, &shown);
            e->o.observer.replica_changed(e->o.observer.ctx, &shown);
        }
        r->notify = false;
        replica_unref(r);
    }
    l->published_count = 0;
}

static uint64_t next_turn(struct loop *l)
{
    uint64_t next = CLOCK_NEVER;
    uint64_t tick = wheel_next(l->ticks), deadline = wheel_next(l->deadlines);
    uint64_t timer = engine__timers_next(l);
    tick = l->beat_due_ms < tick ? l->beat_due_ms : tick;
    tick = timer < tick ? timer : tick;
    if (tick != UINT64_MAX) {
        next = (l->real_ms + (tick > l->now_ms ? tick - l->now_ms : 0)) * NS_PER_MS;
    }
    if (deadline != UINT64_MAX && deadline * NS_PER_MS < next) {
        next = deadline * NS_PER_MS;
    }
    if (l->hand_over_ms != UINT64_MAX && l->hand_over_ms * NS_PER_MS < next) {
        next = l->hand_over_ms * NS_PER_MS;
    }
    if (l->unfit_due_ms != UINT64_MAX && l->unfit_due_ms * NS_PER_MS < next) {
        next = l->unfit_due_ms * NS_PER_MS;
    }
    ASSERT(next / NS_PER_MS >= l->real_ms); /* what was due has been handled */
    /* Without timers logical time may move by any amount; a day bounds the arithmetic. */
    l->planned_ms = next == CLOCK_NEVER ? 86400000 : next / NS_PER_MS - l->real_ms;
    return next;
}

/* All groups sleep, and many have just fallen asleep. Their freed memory lies between blocks that
 * are still used, and glibc returns such pages only on malloc_trim. That takes milliseconds, during
 * which no group has anything to do. */
static void trim_memory(struct loop *l)
{
    if (l->freed_works < TRIM_AFTER_WORKS || wheel_next(l->ticks) != UINT64_MAX ||
        !process_is_own()) {
        return;
    }
    l->freed_works = 0;
    (void)malloc_trim(0);
}

uint64_t engine__loop_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct loop *l = ctx;
    struct worker_msg *m;
    atomic_store_explicit(&l->turn_since_ns, now_ns, memory_order_relaxed);
    cork_begin();
    move_time(l, now_ns);
    metric_record(&engine_loop_depth, batch->count);
    while ((m = msgq_pop(batch)) != NULL) {
        handle(l, m);
    }
    l->drained_ns = clock_now(l->e->clock);
    run_timers(l);
    harvest_all(l);
    if (engine__hand_over_run(l) || engine__hand_over_unfit(l)) {
        harvest_all(l);
    }
    engine__outbox_flush(l);
    post_batch(l);
    publish_all(l);
    cork_end();
    trim_memory(l);
    metric_record(&engine_turn_ns, clock_now(l->e->clock) - now_ns);
    atomic_store_explicit(&l->turn_since_ns, 0, memory_order_relaxed);
    return l->stopping ? CLOCK_NEVER : next_turn(l);
}

/* ---- Life ------------------------------------------------------------------------------------ */

struct loop *engine__loop_new(struct engine *e, uint32_t index)
{
    struct loop *l = xcalloc(1, sizeof *l);
    char name[16];
    l->e = e;
    l->index = index;
    l->now_ns = clock_now(e->clock);
    l->real_ms = l->now_ns / NS_PER_MS;
    l->now_ms = 1;
    l->beat_due_ms = UINT64_MAX;
    l->hand_over_ms = UINT64_MAX;
    l->unfit_due_ms = UINT64_MAX;
    l->ticks = wheel_new(l->now_ms);
    l->deadlines = wheel_new(l->real_ms);
    l->timers = wheel_new(l->now_ms);
    l->stop_msg.kind = MSG_STOP;
    l->fence_msg.kind = MSG_FENCE;
    (void)snprintf(name, sizeof name, "loop-%u", index % 100);
    l->w = worker_new(e->o.executor, name, ENGINE_QUEUE_MAX, engine__loop_turn, l);
    return l;
}

void engine__loop_free(struct loop *l)
{
    if (l == NULL) {
        return;
    }
    worker_free(l->w);
    ASSERT(l->dirty_count == 0 && l->published_count == 0);
    if (l->next != NULL) {
        engine__loop_discard(l, &l->next->msg);
    }
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&l->by_replica, &it, NULL)) != NULL) {
        replica_unref(r);
    }
    map_deinit(&l->by_replica);
    map_deinit(&l->by_shard);
    struct peer_host *h;
    for (it = 0; (h = map_next(&l->hosts, &it, NULL)) != NULL;) {
        free(h->lanes[0].messages);
        free(h->lanes[1].messages);
        free(h);
    }
    map_deinit(&l->hosts);
    wheel_free(l->ticks);
    wheel_free(l->deadlines);
    wheel_free(l->timers);
    free(l->dirty);
    free(l->published);
    free(l->touched);
    free(l);
}
