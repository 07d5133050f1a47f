/* The life of a replica on its loop: boot, one harvest per turn, end. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/engine_internal.h"

/* Entries of one range handed to the applier, at most. */
#define APPLY_ENTRIES_MAX 8192

/* ---- Events ---------------------------------------------------------------------------------- */

static void learn_host(struct replica *r, uint64_t replica_id, const struct uuid *host)
{
    if (raft_config_find(raft_config(r->core), replica_id) != NULL) {
        return; /* engine__replica_host asks the configuration first */
    }
    struct uuid *known = map_get(&work_of(r)->peer_hosts, replica_id);
    if (known != NULL) {
        *known = *host;
    } else if (work_of(r)->peer_hosts.count <
               2 * LIMIT_MEMBERS) { /* a peer decides the key: bounded */
        known = xmalloc(sizeof *known);
        *known = *host;
        (void)map_put(&work_of(r)->peer_hosts, replica_id, known);
    }
}

/* Does this host speak for the replica? The configuration says where each of its members is. What a
 * replica that is not in it says counts less: it may be a member that we do not know of yet. */
static bool speaks_for(const struct replica *r, uint64_t replica_id, const struct uuid *host)
{
    const struct raft_member *m = raft_config_find(raft_config(r->core), replica_id);
    return m == NULL || memcmp(m->host, host->bytes, sizeof m->host) == 0;
}

void engine__group_receive(struct loop *l, struct replica *r, struct raft_message *m,
                           const struct uuid *host)
{
    struct thole_status st;
    ASSERT(r->loop == l && worker_is_current(l->w));
    ASSERT(r->state == GROUP_RUNNING && m->to == r->replica_id);
    if (!speaks_for(r, m->from, host)) {
        (void)THOLE_FAIL(&st, THOLE_PERMISSION_DENIED, THOLE_REASON_WRONG_HOST,
                         "a message of replica %" PRIu64 " came from another host than its own",
                         m->from);
        engine__bad_frame(l->e, host, &st);
        raft_message_deinit(m);
        *m = (struct raft_message){0};
        return;
    }
    learn_host(r, m->from, host);
    if ((m->kind == RAFT_MSG_APPEND || m->kind == RAFT_MSG_HEARTBEAT ||
         m->kind == RAFT_MSG_SLEEP) &&
        m->term >= work_of(r)->status.term) {
        r->leader_heard_ns = l->now_ns;
    }
    if (m->kind == RAFT_MSG_SLEEP && !engine__heartbeats_accepts_sleep(l, host, m)) {
        m->kind = RAFT_MSG_HEARTBEAT;
        m->index = m->log_term = m->context = m->hint = 0;
    }
    if (m->kind != RAFT_MSG_SLEEP && m->kind != RAFT_MSG_SLEEP_REPLY) {
        engine__heartbeats_wake(l, r);
    }
    enum thole_code code = raft_receive(r->core, m, l->now_ms, &st);
    *m = (struct raft_message){0};
    if (code == THOLE_DATA_LOSS) {
        /* This log and the leader's contradict each other about committed entries. */
        engine__group_fail(l, r, &st);
    } else if (code != THOLE_OK) {
        engine__bad_frame(l->e, host, &st);
    }
    engine__loop_dirty(l, r);
}

static void forget_peers(struct replica *r)
{
    pthread_mutex_lock(&r->e->lock);
    free(r->shown_peers);
    r->shown_peers = NULL;
    r->shown_peer_count = 0;
    pthread_mutex_unlock(&r->e->lock);
}

/* Leadership began or ended here: tell the heartbeats of hosts. */
static void note_leadership(struct loop *l, struct replica *r, bool changed)
{
    bool leads = work_of(r)->status.role == RAFT_LEADER;
    if (r->led && !leads) {
        engine__heartbeats_leader_ended(l, r);
        engine__timer_cancel(l, r);
        forget_peers(r);
    }
    if (leads && !r->led) {
        metric_add(&engine_leader_changes, 1);
    }
    if (leads && changed) {
        engine__heartbeats_show_leader(l, r);
    }
    r->led = leads;
}

static void show_config(struct replica *r)
{
    const struct raft_config *old = r->shown_config;
    pthread_mutex_lock(&r->e->lock);
    r->shown_config = raft_config_hold(r->core);
    pthread_mutex_unlock(&r->e->lock);
    raft_config_release(old);
}

static void show_peers(struct replica *r)
{
    const struct raft_config *c = raft_config(r->core);
    if (!r->led || c->member_count == 0) {
        return;
    }
    pthread_mutex_lock(&r->e->lock);
    r->shown_peers = xrealloc(r->shown_peers, c->member_count * sizeof r->shown_peers[0]);
    r->shown_peer_count = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        struct peer_view *v = &r->shown_peers[r->shown_peer_count];
        v->replica_id = c->members[i].replica_id;
        if (raft_peer(r->core, v->replica_id, &v->status)) {
            r->shown_peer_count++;
        }
    }
    pthread_mutex_unlock(&r->e->lock);
}

void engine__group_tick(struct loop *l, struct replica *r)
{
    ASSERT(r->state == GROUP_RUNNING && r->loop == l);
    raft_clock(r->core, l->drained_ns);
    raft_tick(r->core, l->now_ms);
    if (atomic_load_explicit(&r->peers_wanted, memory_order_relaxed)) {
        show_peers(r);
    }
    engine__loop_dirty(l, r);
}

/* ---- The apply side -------------------------------------------------------------------------- */

static void collect_cached(struct replica *r, struct apply_job *j, size_t max)
{
    j->entries = xmalloc(max * sizeof(struct raft_entry *));
    size_t n = 0;
    while (n < max && j->bytes < LIMIT_APPLYING_BYTES / 4) {
        struct raft_entry *e = raft_entry_at(r->core, j->first + n);
        if (e == NULL) {
            break;
        }
        j->entries[n++] = raft_entry_ref(e);
        j->bytes += raft_entry_size(e);
    }
    ASSERT(n > 0); /* the caller has seen the first one in the cache */
    j->last = j->first + n - 1;
}

static struct apply_job *next_job(struct replica *r)
{
    ASSERT(work_of(r)->apply_next <= work_of(r)->apply_last);
    uint64_t left = work_of(r)->apply_last - work_of(r)->apply_next + 1;
    size_t max = left < APPLY_ENTRIES_MAX ? (size_t)left : APPLY_ENTRIES_MAX;
    bool cached = raft_entry_at(r->core, work_of(r)->apply_next) != NULL;
    if (!cached && work_of(r)->applying_jobs > 0) {
        return NULL; /* one range at a time is read from the log store */
    }
    struct apply_job *j = xcalloc(1, sizeof *j);
    j->msg.kind = MSG_APPLY;
    j->r = replica_ref(r);
    j->first = work_of(r)->apply_next;
    if (cached) {
        collect_cached(r, j, max);
        return j;
    }
    j->last = j->first;
    while (j->last < work_of(r)->apply_last && j->last - j->first + 1 < max &&
           raft_entry_at(r->core, j->last + 1) == NULL) {
        j->last++;
    }
    j->bytes = ENGINE_PAGE_BYTES;
    return j;
}

static void dispatch_witness(struct loop *l, struct replica *r)
{
    struct apply_job none = {.first = work_of(r)->apply_next};
    ASSERT(r->machine == NULL && work_of(r)->applying_jobs == 0);
    engine__proposals_take(l, r, work_of(r)->apply_last, &none);
    free(none.requests);
    work_of(r)->apply_next = work_of(r)->apply_last + 1;
    r->applied = work_of(r)->apply_last;
    raft_applied(r->core, r->applied);
    engine__compact_consider(l, r);
    engine__loop_dirty(l, r);
}

void engine__group_dispatch(struct loop *l, struct replica *r)
{
    struct replica_work *w = work_of(r);
    ASSERT(r->state == GROUP_RUNNING && worker_is_current(l->w));
    if (r->holding_applies || r->holding_for_save || w->apply_next > w->apply_last) {
        return;
    }
    if (r->kind->witness) {
        dispatch_witness(l, r);
        return;
    }
    while (w->apply_next <= w->apply_last && w->applying_bytes < LIMIT_APPLYING_BYTES) {
        struct apply_job *j = next_job(r);
        if (j == NULL) {
            return;
        }
        ASSERT(j->first == w->apply_next && j->first <= j->last && j->last <= w->apply_last);
        engine__proposals_take(l, r, j->last, j);
        bool skip = CANARY(apply_skips) && j->entries == NULL && j->last < w->apply_last;
        w->apply_next = j->last + (skip ? 2 : 1);
        w->applying_bytes += j->bytes;
        w->applying_jobs++;
        j->handed_ns = l->now_ns;
        metric_record(&engine_apply_entries, j->last - j->first + 1);
        if (!worker_post_internal(r->applier->w, &j->msg)) {
            engine__loop_discard(l, &j->msg);
        }
    }
}

void engine__apply_job_free(struct apply_job *j)
{
    if (j->entries != NULL) {
        for (uint64_t i = 0; i <= j->last - j->first; i++) {
            raft_entry_unref(j->entries[i]);
        }
    }
    free(j->entries);
    free(j->requests);
    replica_unref(j->r);
    free(j);
}

void engine__group_applied(struct loop *l, struct apply_job *j)
{
    struct replica *r = j->r;
    ASSERT(r->loop == l);
    ASSERT(work_of(r)->applying_jobs > 0 && work_of(r)->applying_bytes >= j->bytes);
    work_of(r)->applying_bytes -= j->bytes;
    work_of(r)->applying_jobs--;
    if (r->state == GROUP_RUNNING && j->st.code != THOLE_OK) {
        engine__group_fail(l, r, &j->st);
    } else if (r->state == GROUP_RUNNING) {
        if (!j->overtaken && j->last > r->applied) {
            r->applied = j->last;
            engine__timer_due(l, r, &j->due, j->ticked);
            raft_applied(r->core, j->last);
        }
        engine__compact_consider(l, r);
        engine__loop_dirty(l, r);
        engine__loop_publish(l, r);
    }
    engine__apply_job_free(j);
}

/* ---- Harvest --------------------------------------------------------------------------------- */

static void ask_log(struct replica *r, const struct raft_peer_request *q)
{
    struct log_read *m = xcalloc(1, sizeof *m);
    m->msg.kind = MSG_LOG_READ;
    m->r = replica_ref(r);
    m->peer = q->peer;
    m->first = q->first;
    m->last = work_of(r)->status.durable_index;
    m->max_bytes = q->max_bytes < LIMIT_APPEND_BYTES ? q->max_bytes : LIMIT_APPEND_BYTES;
    engine__streamer_post(r->e, &m->msg);
}

static void rearm(struct loop *l, struct replica *r)
{
    uint64_t due = raft_deadline_ms(r->core);
    uint64_t beat = l->e->o.heartbeat_ms;
    if (work_of(r)->status.role == RAFT_LEADER && due != UINT64_MAX) {
        due = (due + beat - 1) / beat * beat; /* all leaders of a loop beat in the same turn */
    }
    if (due <= l->now_ms && CANARY(leader_silent) && work_of(r)->status.role == RAFT_LEADER) {
        return;
    }
    if (due <= l->now_ms) {
        due = l->now_ms + 1;
    }
    if (wheel_armed(&work_of(r)->tick) && work_of(r)->tick.due_ms == due) {
        return;
    }
    wheel_cancel(l->ticks, &work_of(r)->tick);
    if (due != UINT64_MAX) {
        wheel_arm(l->ticks, &work_of(r)->tick, due);
    }
}

/* A leader shows its peers' progress on ticks. Asleep it has none, so show it once more now. */
static void note_sleep(struct replica *r, bool asleep)
{
    if (asleep == r->slept) {
        return;
    }
    r->slept = asleep;
    metric_add(&engine_sleeping, asleep ? 1 : -1);
    if (asleep && CANARY(timer_lost_asleep)) {
        engine__timer_cancel(r->loop, r);
    }
    if (asleep && r->led) {
        show_peers(r);
    }
}

static const char *const role_names[] = {
    [RAFT_FOLLOWER] = "follower",
    [RAFT_PRE_CANDIDATE] = "pre-candidate",
    [RAFT_CANDIDATE] = "candidate",
    [RAFT_LEADER] = "leader",
};

static void carry_out(struct loop *l, struct replica *r, struct raft_update *u)
{
    if (u->persist != 0) {
        engine__write_batch_merge(l, r, u);
    }
    for (size_t i = 0; i < u->message_count; i++) {
        engine__outbox_add(l, r, &u->messages[i]);
    }
    raft_status(r->core, &work_of(r)->status);
    if (u->apply_first != 0) {
        ASSERT(u->apply_first == work_of(r)->apply_last + 1 && u->apply_first <= u->apply_last);
        work_of(r)->apply_last = u->apply_last;
    }
    for (size_t i = 0; i < u->need_log_count; i++) {
        ask_log(r, &u->need_log[i]);
    }
    for (size_t i = 0; i < u->need_snapshot_count; i++) {
        engine__snapshot_wanted(l, r, &u->need_snapshot[i]);
    }
    engine__reads_answer(l, r, u->reads, u->read_count);
    r->removed_by_peer = r->removed_by_peer || u->removed;
    note_leadership(l, r, u->status_changed || u->config_changed);
    r->notify = r->notify || u->status_changed || u->config_changed || u->removed;
    if (u->config_changed) {
        show_config(r);
    }
    if (u->status_changed) {
        LOG_DEBUG(RAFT, "became %s term=%" PRIu64 " leader=%" PRIu64,
                  role_names[work_of(r)->status.role], work_of(r)->status.term,
                  work_of(r)->status.leader);
    }
}

/* What must hold between two harvests, whatever the order of messages. */
static void check(const struct replica *r)
{
    const struct replica_work *w = r->work;
    ASSERT(r->state == GROUP_RUNNING && r->core != NULL && r->boot == NULL);
    ASSERT(r->saving || !r->holding_for_save);
    if (w == NULL) {
        return;
    }
    /* Applied, handed over, committed: in this order. */
    ASSERT(r->applied < w->apply_next && w->apply_next <= w->apply_last + 1);
    ASSERT(w->apply_last <= w->status.commit);
    ASSERT((w->applying_jobs == 0) == (w->applying_bytes == 0));
    /* One snapshot is restored or installed at a time, and nothing is applied across it. */
    ASSERT(w->install == NULL || (r->holding_applies && !r->restoring));
    ASSERT(r->led == (w->status.role == RAFT_LEADER));
}

void engine__group_harvest(struct loop *l, struct replica *r)
{
    ASSERT(r->loop == l && worker_is_current(l->w));
    log_context(r->shard_id, r->replica_id);
    engine__proposals_flush(l, r);
    engine__timer_consider(l, r);
    engine__reads_flush(l, r);
    if (raft_has_update(r->core)) {
        struct raft_update u;
        raft_clock(r->core, l->drained_ns);
        raft_harvest(r->core, &u);
        carry_out(l, r, &u);
        engine__control_check_transfers(l, r);
        engine__hand_over_check(l, r);
        engine__control_check_forces(r);
        engine__loop_publish(l, r);
    }
    engine__group_dispatch(l, r);
    check(r);
    note_sleep(r, raft_asleep(r->core));
    raft_trim(r->core);
    rearm(l, r);
    replica_release_work(r);
}

/* ---- Life ------------------------------------------------------------------------------------ */

static enum thole_code new_core(struct loop *l, struct replica *r, const struct task *t,
                                struct thole_status *st)
{
    struct raft_config config = {0};
    ASSERT(r->core == NULL && r->boot != NULL);
    struct slice encoded = bytes_slice(&r->boot->config);
    enum thole_code code = THOLE_OK;
    if (encoded.size > 0) {
        code = raft_config_decode(encoded, &config, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct raft_boot b = r->boot->raft;
    b.config = &config;
    b.config_entries = t->config_entries;
    b.config_entry_count = t->config_entry_count;
    b.applied = t->machine != NULL ? t->machine->applied : b.start_index;
    b.now_ms = l->now_ms;
    b.last_stamp = t->stamp;
    const struct engine_options *o = &l->e->o;
    struct raft_options ro = {
        .replica_id = r->replica_id,
        .seed = o->seed ^ o->incarnation, /* the core adds its replica's id */
        .election_timeout_ms = o->election_timeout_ms,
        .heartbeat_ms = o->heartbeat_ms,
        .sleep_after_ms = o->sleep_after_ms == ENGINE_SLEEP_NEVER ? 0 : o->sleep_after_ms,
        .cache_bytes = o->cache_bytes,
        .pre_vote = true,
        .check_quorum = true,
        .lease = r->kind->lease_reads,
        .witness = r->kind->witness,
    };
    code = raft_new(&ro, &b, &r->core, st);
    if (code == THOLE_OK) {
        r->applied = b.applied;
    }
    raft_config_deinit(&config);
    return code;
}

void engine__group_boot(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    struct thole_status st = t->st;
    ASSERT(r->loop == l && worker_is_current(l->w));
    if (r->state != GROUP_OPENING) {
        return;
    }
    if (st.code != THOLE_OK || new_core(l, r, t, &st) != THOLE_OK) {
        engine__group_fail(l, r, &st);
        return;
    }
    ASSERT(r->machine == NULL && (t->machine != NULL) == !r->kind->witness);
    r->machine = t->machine;
    if (r->machine != NULL) {
        engine__timer_due(l, r, &r->machine->due, false);
    }
    t->machine = NULL;
    r->state = GROUP_RUNNING;
    r->watch_applied = r->applied;
    work_of(r)->apply_next = r->applied + 1;
    work_of(r)->apply_last = r->applied;
    r->snapshot_index = t->index;
    r->snapshot_term = t->term;
    r->snapshot_bytes = t->bytes;
    raft_status(r->core, &work_of(r)->status);
    r->persistent = r->machine != NULL && r->machine->persistent;
    r->has_views = r->machine != NULL && r->machine->type->view_acquire != NULL;
    engine__compact_boot(r);
    replica_boot_free(r);
    show_config(r);
    r->notify = true;
    engine__loop_publish(l, r);
    engine__loop_dirty(l, r);
    LOG_DEBUG(ENGINE, "replica started applied=%" PRIu64 " last_index=%" PRIu64, r->applied,
              work_of(r)->status.last_index);
    if (work_of(r)->starting != NULL) {
        struct control *c = work_of(r)->starting;
        work_of(r)->starting = NULL;
        engine__control_answer(c);
    }
}

void engine__group_persisted(struct loop *l, struct write_update *w)
{
    struct replica *r = w->r;
    ASSERT(r != NULL || (w->token == 0 && !w->create && !w->install));
    if (r != NULL && w->create && r->state == GROUP_CREATING) {
        r->state = GROUP_OPENING;
        struct task *t = engine__task_new(TASK_OPEN, r);
        if (!worker_post_internal(l->e->snapshotter, &t->msg)) {
            engine__task_free(t);
        }
    }
    if (r != NULL && w->token != 0 && r->state == GROUP_RUNNING) {
        ASSERT(w->token > work_of(r)->durable_token);
        work_of(r)->durable_token = w->token;
        raft_persisted(r->core, w->token, l->now_ms);
        if (w->install) {
            engine__snapshot_installed(l, r);
        }
        if (w->u.has_start) {
            engine__compact_started(r, w->u.start_index);
        }
        engine__loop_dirty(l, r);
    }
    if (w->u.remove && r != NULL) {
        engine__control_removed(l, r, w->control);
    } else if (w->control != NULL) {
        engine__control_answer(w->control);
    }
    w->control = NULL;
}

/* Answer everything that waits on this replica, and free the core. */
static void end_work(struct loop *l, struct replica *r, const struct thole_status *st)
{
    ASSERT(st->code != THOLE_OK);
    /* Callers get UNAVAILABLE, so that they try elsewhere. The cause is in the replica's status. */
    struct thole_status failed = *st;
    if (r->state == GROUP_FAILED) {
        (void)THOLE_FAIL(&failed, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                         "this replica has failed");
    }
    wheel_cancel(l->ticks, &work_of(r)->tick);
    engine__timer_due(l, r, &(struct thole_due){THOLE_NEVER, THOLE_NEVER}, false);
    engine__proposals_end(l, r, &failed);
    engine__reads_end(l, r, &failed);
    engine__control_fail_all(r, st);
    if (work_of(r)->starting != NULL) {
        struct control *c = work_of(r)->starting;
        work_of(r)->starting = NULL;
        c->st = *st;
        engine__control_answer(c);
    }
    engine__task_free(work_of(r)->install);
    work_of(r)->install = NULL;
    engine__snapshot_end(r);
    if (r->core != NULL) {
        if (r->led) {
            engine__heartbeats_leader_ended(l, r);
        }
        note_sleep(r, false);
        raft_free(r->core);
    }
    r->led = false;
    r->core = NULL;
    work_of(r)->status.role = RAFT_FOLLOWER;
    work_of(r)->status.leader = 0;
    work_of(r)->status.leader_ready = false;
}

void engine__group_fail(struct loop *l, struct replica *r, const struct thole_status *st)
{
    ASSERT(r->loop == l && worker_is_current(l->w));
    log_context(r->shard_id, r->replica_id);
    LOG_ERROR(ENGINE, "replica failed, it stays stopped error=\"%s\"", st->message);
    replica_set_failure(r, st);
    r->state = GROUP_FAILED;
    end_work(l, r, r->failure);
    r->notify = true;
    engine__loop_publish(l, r);
}

void engine__group_stop(struct loop *l, struct replica *r, const struct thole_status *st)
{
    ASSERT(r->loop == l && worker_is_current(l->w));
    end_work(l, r, st);
    r->state = GROUP_GONE;
    struct task *t = engine__task_new(TASK_CLOSE, r);
    t->st = *st;
    if (!worker_post_internal(r->applier->w, &t->msg)) {
        engine__task_free(t);
    }
}
