/* Snapshots on the loop: start a save or a transfer, and install a received one. The steps of an
 * install: restore beside the running machine, offer it to the core, write the batch that makes it
 * live, switch the applier to the new machine, delete the old generation. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/canary.h"
#include "shards/engine/snapshot/streams.h"

struct save_waiter {
    struct save_waiter *next;
    uint64_t peer;
};

#define RESTORE_FAILURES_MAX 3

/* ---- Tasks and messages ---------------------------------------------------------------------- */

struct task *engine__task_new(enum task_kind kind, struct replica *r)
{
    struct task *t = xcalloc(1, sizeof *t);
    t->msg.kind = MSG_TASK;
    t->kind = kind;
    t->r = r != NULL ? replica_ref(r) : NULL;
    t->loop = r != NULL ? r->loop : NULL;
    return t;
}

void engine__task_free(struct task *t)
{
    if (t == NULL) {
        return;
    }
    if (t->view != NULL && t->machine != NULL && t->machine->type->view_release != NULL) {
        t->machine->type->view_release(t->machine->state, t->view);
    }
    engine__pipe_break(t->pipe);
    engine__pipe_unref(t->pipe);
    engine__machine_unref(t->machine);
    for (size_t i = 0; i < t->config_entry_count; i++) {
        raft_entry_unref(t->config_entries[i]);
    }
    free(t->config_entries);
    bytes_deinit(&t->config);
    bytes_deinit(&t->sessions);
    engine__stream_msg_free(t->received);
    if (t->control != NULL) {
        struct engine_export *x = t->control->export;
        if (x != NULL && x->file != NULL) {
            x->ops->close(x->file);
        }
        if (t->control->st.code == THOLE_OK) {
            (void)THOLE_FAIL(&t->control->st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED,
                             "the host is stopping");
        }
        engine__control_answer(t->control);
    }
    replica_unref(t->r);
    free(t);
}

void engine__stream_msg_free(struct stream_msg *m)
{
    if (m == NULL) {
        return;
    }
    bufslice_unref(m->frame);
    bytes_deinit(&m->config);
    engine__task_free(m->save);
    engine__pipe_unref(m->pipe);
    if (m->seeding != NULL) {
        (void)THOLE_FAIL(&m->seeding->st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED,
                         "the replica is stopping");
        engine__control_answer(m->seeding);
    }
    replica_unref(m->r);
    free(m);
}

void engine__snapshot_name(const struct replica *r, uint64_t index, char ret[ENGINE_NAME_BYTES])
{
    (void)snprintf(ret, ENGINE_NAME_BYTES, "%" PRIu64 "-%" PRIu64 ".snap", r->replica_id, index);
}

void engine__snapshot_post(struct loop *l, struct task *t)
{
    if (!worker_post_internal(l->e->snapshotter, &t->msg)) {
        engine__loop_discard(l, &t->msg);
    }
}

void engine__snapshot_remove_files(struct loop *l, struct replica *r, uint64_t below)
{
    struct task *t = engine__task_new(TASK_REMOVE, r);
    t->index = below;
    engine__snapshot_post(l, t);
}

/* ---- Saving ---------------------------------------------------------------------------------- */

bool engine__snapshot_is_sent(const struct replica *r)
{
    return r->work != NULL && (r->work->sending > 0 || r->work->save_waiters != NULL);
}

/* The balancing of leaders waits for the end of transfers: show when it changes. */
static void show_sending(struct loop *l, struct replica *r)
{
    if (engine__snapshot_is_sent(r) == r->shown.sends_snapshot) {
        return;
    }
    r->notify = true;
    engine__loop_publish(l, r);
}

static void acquire_view(struct loop *l, struct replica *r, uint64_t peer)
{
    struct task *t = engine__task_new(TASK_VIEW, r);
    t->peer = peer;
    if (!worker_post_internal(r->applier->w, &t->msg)) {
        engine__loop_discard(l, &t->msg);
    }
}

void engine__snapshot_start_save(struct loop *l, struct replica *r)
{
    ASSERT(!r->saving && r->machine != NULL && worker_is_current(l->w)); /* one at a time */
    r->saving = true;
    r->holding_for_save = !r->has_views;
    acquire_view(l, r, 0);
}

static void save_failed(struct replica *r, const struct thole_status *st)
{
    LOG_WARN(ENGINE, "snapshot save failed, retried when one is needed error=\"%s\"", st->message);
    r->saving = r->compacting = r->holding_for_save = false;
    engine__compact_later(r);
    while (work_of(r)->save_waiters != NULL) {
        struct save_waiter *w = work_of(r)->save_waiters;
        work_of(r)->save_waiters = w->next;
        raft_snapshot_sent(r->core, w->peer, 0, false);
        free(w);
    }
    engine__exports_fail(r, st);
}

/* Send the newest file, or the stream that `save` will write. Send nothing if the leadership was
 * lost meanwhile: the peer would take this replica for the leader of a term that another one
 * leads. */
static void send_snapshot(struct loop *l, struct replica *r, uint64_t peer, struct task *save)
{
    if (work_of(r)->status.role != RAFT_LEADER && !CANARY(snapshot_without_lead)) {
        engine__task_free(save);
        show_sending(l, r);
        return;
    }
    ASSERT(peer != 0 && peer != r->replica_id);
    ASSERT(save != NULL ? save->kind == TASK_SAVE : r->snapshot_index != 0);
    struct stream_msg *m = xcalloc(1, sizeof *m);
    m->msg.kind = MSG_SEND;
    m->r = replica_ref(r);
    m->shard_id = r->shard_id;
    m->from = r->replica_id;
    m->to = peer;
    m->term = work_of(r)->status.term;
    m->index = save != NULL ? save->index : r->snapshot_index;
    m->index_term = save != NULL ? save->term : r->snapshot_term;
    m->save = save;
    const struct raft_config *config = raft_config_at(r->core, m->index);
    if (work_of(r)->sending++ == 0) {
        work_of(r)->sending_index = m->index;
    }
    if (config == NULL || !engine__replica_host(r, peer, &m->host)) {
        m->msg.kind = MSG_SENT;
        engine__loop_post(l, &m->msg);
        return;
    }
    raft_config_encode(config, &m->config);
    if (save == NULL) {
        engine__snapshot_name(r, m->index, m->name);
    }
    engine__streamer_post(l->e, &m->msg);
}

static bool take_waiter(struct replica *r, uint64_t peer)
{
    struct save_waiter **at = &work_of(r)->save_waiters;
    while (*at != NULL && (*at)->peer != peer) {
        at = &(*at)->next;
    }
    struct save_waiter *w = *at;
    if (w == NULL) {
        return false;
    }
    *at = w->next;
    free(w);
    return true;
}

/* The view for a stream is there: send it while the machine writes (snapshot_stream.c). */
static void send_stream(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    if (!take_waiter(r, t->peer)) {
        engine__task_free(t);
    } else if (t->st.code != THOLE_OK) {
        LOG_WARN(ENGINE, "snapshot not sent, retried when the peer needs one error=\"%s\"",
                 t->st.message);
        raft_snapshot_sent(r->core, t->peer, 0, false);
        show_sending(l, r);
        engine__loop_dirty(l, r);
        engine__task_free(t);
    } else {
        t->kind = TASK_SAVE;
        send_snapshot(l, r, t->peer, t);
    }
}

static void view_acquired(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    ASSERT(t->peer != 0 || r->saving);
    const struct raft_config *config =
        t->st.code == THOLE_OK ? raft_config_at(r->core, t->index) : NULL;
    bool current = t->machine != NULL && t->machine->generation == r->generation;
    if (t->st.code == THOLE_OK && (config == NULL || !current || t->index == 0)) {
        (void)THOLE_FAIL(&t->st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                         "nothing to save, or a snapshot was installed meanwhile");
    }
    if (t->st.code == THOLE_OK) {
        raft_config_encode(config, &t->config);
    }
    if (t->peer != 0) {
        send_stream(l, t);
        return;
    }
    if (t->st.code != THOLE_OK) {
        save_failed(r, &t->st);
        engine__loop_dirty(l, r);
        engine__task_free(t);
        return;
    }
    t->kind = TASK_SAVE;
    engine__snapshot_post(l, t);
}

static void saved(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    ASSERT(r->saving && t->pipe == NULL);
    if (t->st.code == THOLE_OK && t->machine->generation != r->generation) {
        (void)THOLE_FAIL(&t->st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                         "a snapshot was installed meanwhile");
    }
    if (t->st.code != THOLE_OK) {
        save_failed(r, &t->st);
        engine__loop_dirty(l, r);
        return;
    }
    ASSERT(t->index <= r->applied);
    metric_add(&engine_snapshots_saved, 1);
    r->saving = r->holding_for_save = false;
    engine__loop_dirty(l, r);
    if (t->index > r->snapshot_index) {
        r->snapshot_index = t->index;
        r->snapshot_term = t->term;
        r->snapshot_bytes = t->bytes;
    }
    engine__snapshot_remove_files(l, r, r->snapshot_index + (CANARY(snapshot_index_lost) ? 1 : 0));
    if (r->compacting && !r->persistent) {
        engine__compact_to(l, r, t->index);
    }
    while (work_of(r)->save_waiters != NULL) {
        struct save_waiter *w = work_of(r)->save_waiters;
        work_of(r)->save_waiters = w->next;
        send_snapshot(l, r, w->peer, NULL);
        free(w);
    }
    engine__exports_saved(l, r);
    engine__loop_publish(l, r);
}

void engine__snapshot_end(struct replica *r)
{
    while (work_of(r)->save_waiters != NULL) {
        struct save_waiter *w = work_of(r)->save_waiters;
        work_of(r)->save_waiters = w->next;
        free(w);
    }
    engine__exports_fail(r, &(struct thole_status){.code = THOLE_UNAVAILABLE,
                                                   .reason = THOLE_REASON_STOPPED,
                                                   .message = "the replica is stopping"});
}

/* ---- Sending --------------------------------------------------------------------------------- */

void engine__snapshot_wanted(struct loop *l, struct replica *r, const struct raft_peer_request *q)
{
    uint64_t least = q->min_index > work_of(r)->status.first_index ? q->min_index
                                                                   : work_of(r)->status.first_index;
    bool streams = r->persistent && r->has_views;
    if (!streams && r->snapshot_index != 0 && r->snapshot_index + 1 >= least &&
        r->snapshot_index >= q->min_index) {
        send_snapshot(l, r, q->peer, NULL);
        show_sending(l, r);
        return;
    }
    for (struct save_waiter *w = work_of(r)->save_waiters; w != NULL; w = w->next) {
        if (w->peer == q->peer) {
            return;
        }
    }
    struct save_waiter *w = xcalloc(1, sizeof *w);
    w->peer = q->peer;
    w->next = work_of(r)->save_waiters;
    work_of(r)->save_waiters = w;
    show_sending(l, r);
    if (streams) {
        acquire_view(l, r, q->peer);
    } else if (!r->saving) {
        engine__snapshot_start_save(l, r);
    }
}

/* A transfer broke off. The reason may be that our file is damaged. Then no peer will ever accept
 * it, and this replica could not restart from it. */
static void check_file(struct loop *l, struct replica *r)
{
    if (r->checking || r->persistent || r->snapshot_index == 0) {
        return;
    }
    r->checking = true;
    ASSERT(worker_is_current(l->w));
    struct task *t = engine__task_new(TASK_CHECK, r);
    t->index = r->snapshot_index;
    engine__snapshot_name(r, t->index, t->name);
    engine__snapshot_post(l, t);
}

static void checked(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    ASSERT(r->checking);
    r->checking = false;
    if (t->st.code == THOLE_OK || t->index != r->snapshot_index || r->saving) {
        return;
    }
    LOG_WARN(ENGINE, "snapshot file damaged, saving another one error=\"%s\"", t->st.message);
    engine__snapshot_start_save(l, r);
}

void engine__snapshot_sent(struct loop *l, struct stream_msg *m)
{
    struct replica *r = m->r;
    ASSERT(work_of(r)->sending > 0);
    work_of(r)->sending--;
    if (m->ok) {
        metric_add(&engine_snapshots_sent, 1);
    }
    if (r->state == GROUP_RUNNING) {
        if (!m->superseded) {
            raft_snapshot_sent(r->core, m->to, m->index, m->ok);
        }
        engine__loop_dirty(l, r);
        if (!m->ok && !m->superseded && m->index == r->snapshot_index) {
            check_file(l, r);
        }
        show_sending(l, r);
        if (r->persistent && r->snapshot_index != 0 && !engine__snapshot_is_sent(r) && !r->saving) {
            r->snapshot_index = r->snapshot_term = 0; /* the file was only for sending */
            engine__snapshot_remove_files(l, r, UINT64_MAX);
        }
    }
    engine__stream_msg_free(m);
}

/* ---- Receiving ------------------------------------------------------------------------------- */

/* Report the result to the sender, and the end of the transfer to the streamer. Takes over `m`. */
static void end_receive(struct loop *l, struct stream_msg *m, bool installed, bool keep_file)
{
    if (m->seeding != NULL) {
        engine__control_answer(m->seeding);
        m->seeding = NULL;
        engine__stream_msg_free(m);
        return;
    }
    m->installed = installed;
    m->refused = !installed;
    engine__send_reply(l->e, &m->host, m);
    /* A save in progress may produce a file of this name. It will remove older files itself. */
    if (!keep_file && m->name[0] && m->index != m->r->snapshot_index && !m->r->saving) {
        struct task *t = engine__task_new(TASK_REMOVE, m->r);
        memcpy(t->name, m->name, sizeof t->name);
        engine__snapshot_post(l, t);
    }
    m->msg.kind = MSG_RECEIVE_END;
    engine__streamer_post(l->e, &m->msg);
}

/* Offer it to the core. True if the core replaces its log by it. */
static bool offer(struct loop *l, struct replica *r, const struct stream_msg *m,
                  const struct machine *restored, bool *ret_ok)
{
    /* A witness has no times. It needs none, because it never leads. */
    struct raft_stamp stamp = restored != NULL ? restored->applied_stamp : (struct raft_stamp){0};
    struct raft_config config = {0};
    struct thole_status st;
    bool install = false;
    *ret_ok = raft_config_decode(bytes_slice(&m->config), &config, &st) == THOLE_OK &&
              raft_snapshot_received(r->core, m->from, m->term, m->index, m->index_term, stamp,
                                     &config, l->now_ms, &install, &st) == THOLE_OK;
    if (!*ret_ok) {
        LOG_WARN(ENGINE, "received snapshot refused index=%" PRIu64 " error=\"%s\"", m->index,
                 st.message);
    }
    raft_config_deinit(&config);
    engine__loop_dirty(l, r);
    return install;
}

void engine__snapshot_received(struct loop *l, struct stream_msg *m)
{
    struct replica *r = m->r;
    bool ok = false;
    ASSERT(r->loop == l && m->msg.kind == MSG_RECEIVED);
    if (r->state != GROUP_RUNNING || r->restoring || work_of(r)->install != NULL) {
        end_receive(l, m, false, true); /* keep the file: the replica may start from it */
        return;
    }
    if (m->index <= work_of(r)->status.commit) {
        bool installs = offer(l, r, m, NULL, &ok);
        ASSERT(!installs); /* the core never forgets what is committed */
        end_receive(l, m, ok, false);
        return;
    }
    r->restoring = true;
    struct task *t = engine__task_new(TASK_RESTORE, r);
    t->received = m;
    t->generation = r->generation + 1;
    t->pipe = m->pipe;
    m->pipe = NULL;
    if (t->pipe != NULL) {
        engine__streamer_post(l->e, &t->msg);
    } else {
        engine__snapshot_post(l, t);
    }
}

/* `received`, if any, ends only after that: the next one is restored into the same generation. */
static void discard(struct loop *l, struct replica *r, uint64_t generation,
                    struct stream_msg *received)
{
    struct task *t = engine__task_new(TASK_DESTROY, r);
    t->generation = generation;
    t->received = received;
    engine__streamer_post(l->e, &t->msg);
}

void engine__snapshot_discard(struct loop *l, struct replica *r)
{
    r->restoring = true;
    discard(l, r, r->generation + 1, NULL);
}

/* A machine that repeatedly fails to restore snapshots can never catch up. Not counted: errors that
 * may go away, such as a full disk. */
static bool restores_no_more(struct replica *r, const struct thole_status *st)
{
    if (st->code == THOLE_OK || st->code == THOLE_UNAVAILABLE ||
        st->code == THOLE_RESOURCE_EXHAUSTED) {
        return false;
    }
    return ++r->restore_failures >= RESTORE_FAILURES_MAX && r->state == GROUP_RUNNING;
}

static void restored(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    struct stream_msg *m = t->received;
    bool ok = false;
    ASSERT(r->restoring && work_of(r)->install == NULL && m != NULL);
    ASSERT(t->generation == r->generation + 1);
    t->received = NULL;
    if (t->st.code != THOLE_OK) {
        LOG_WARN(ENGINE, "restore of a received snapshot failed index=%" PRIu64 " error=\"%s\"",
                 m->index, t->st.message);
    }
    if (t->st.code != THOLE_OK || !offer(l, r, m, t->machine, &ok)) {
        m->ok = ok;
        engine__machine_unref(t->machine);
        t->machine = NULL;
        discard(l, r, t->generation, m);
        if (restores_no_more(r, &t->st)) {
            engine__group_fail(l, r, &t->st);
        }
        engine__task_free(t);
        return;
    }
    r->restoring = false;
    r->restore_failures = 0;
    LOG_INFO(ENGINE, "received snapshot restored index=%" PRIu64 " generation=%" PRIu64, m->index,
             t->generation);
    t->received = m;
    engine__snapshot_install(r, t);
}

void engine__snapshot_install(struct replica *r, struct task *t)
{
    ASSERT(work_of(r)->install == NULL && !r->restoring);
    ASSERT((t->machine != NULL) == !r->kind->witness && t->received->index > r->applied);
    work_of(r)->install = t; /* until the batch that makes it live is durable */
    r->holding_applies = true;
    work_of(r)->apply_next = t->received->index + 1;
    work_of(r)->apply_last = t->received->index;
}

void engine__snapshot_installed(struct loop *l, struct replica *r)
{
    struct task *t = work_of(r)->install;
    ASSERT(t != NULL && r->holding_applies && t->generation == r->generation + 1);
    struct stream_msg *m = t->received;
    work_of(r)->install = NULL;
    r->holding_applies = false;
    t->received = NULL;
    r->generation = t->generation;
    r->applied = m->index;
    metric_add(&engine_snapshots_installed, 1);
    if (!r->kind->witness && !r->persistent) {
        r->snapshot_index = m->index;
        r->snapshot_term = m->index_term;
        r->snapshot_bytes = t->bytes;
    }
    engine__snapshot_remove_files(l, r, r->persistent || r->kind->witness ? UINT64_MAX : m->index);
    end_receive(l, m, true, true);
    if (r->saving || r->compacting) {
        /* Their results are of the old generation, and will be dropped. */
        engine__compact_later(r);
    }
    if (r->kind->witness) {
        engine__task_free(t);
        return;
    }
    engine__timer_due(l, r, &t->machine->due, false);
    t->kind = TASK_SWITCH;
    if (!worker_post_internal(r->applier->w, &t->msg)) {
        engine__loop_discard(l, &t->msg);
    }
    engine__proposals_installed(l, r, r->applied);
    engine__group_dispatch(l, r);
    engine__loop_publish(l, r);
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void flushed(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    if (t->st.code == THOLE_OK && t->machine->generation == r->generation) {
        engine__compact_to(l, r, t->index);
        return;
    }
    r->compacting = false;
    engine__compact_later(r);
    if (t->st.code != THOLE_OK && t->machine != NULL) {
        engine__group_fail(l, r, &t->st);
    }
}

static void destroyed(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    if (t->st.code != THOLE_OK) {
        LOG_WARN(ENGINE,
                 "old data not deleted, the next start retries"
                 " error=\"%s\"",
                 t->st.message);
    }
    if (!t->everything && t->generation == r->generation + 1) {
        r->restoring = false;
    }
    if (t->received != NULL) {
        end_receive(l, t->received, t->received->ok, false);
        t->received = NULL;
    }
    if (!t->everything) {
        return;
    }
    engine__drop(l->e, r);
    engine__control_fail_transfers(r, &(struct thole_status){0}); /* further removals of the same */
    if (map_remove(&l->by_replica, r->replica_id) != NULL) {
        replica_unref(r);
    }
    r->state = GROUP_GONE;
    engine__control_answer(t->control);
    t->control = NULL;
}

static void space_measured(struct loop *l, struct task *t)
{
    ASSERT(l->space_checking);
    l->space_checking = false;
    bool was_low = atomic_load(&l->e->low_space);
    uint64_t min = l->e->o.free_bytes_min;
    /* Hysteresis, so that leaderships do not move back and forth at the bound. */
    bool low = t->st.code == THOLE_OK && t->index < min + (was_low ? min / 8 : 0);
    bool critical = t->st.code == THOLE_OK && t->index < min / 4;
    bool changed = critical != atomic_exchange(&l->e->critical_space, critical);
    if (low != atomic_exchange(&l->e->low_space, low)) {
        changed = true;
        LOG_WARN(ENGINE, "free disk space %s free_bytes=%" PRIu64,
                 low ? "low: proposals are refused, leaderships move to other hosts"
                     : "sufficient again: proposals are accepted",
                 t->index);
    }
    if (changed) {
        engine__fitness_changed(l->e);
    }
}

void engine__snapshot_task_done(struct loop *l, struct task *t)
{
    struct replica *r = t->r;
    ASSERT(worker_is_current(l->w) && t->loop == l);
    if (r == NULL) {
        ASSERT(t->kind == TASK_SPACE);
        space_measured(l, t);
        engine__task_free(t);
        return;
    }
    bool runs = r->state == GROUP_RUNNING;
    log_context(r->shard_id, r->replica_id);
    if (t->kind == TASK_OPEN) {
        engine__group_boot(l, t);
    } else if (t->kind == TASK_DESTROY) {
        destroyed(l, t);
    } else if (t->kind == TASK_SWITCH && r->state != GROUP_GONE) {
        discard(l, r, t->generation, NULL);
    } else if (runs && t->kind == TASK_DAMAGED) {
        engine__group_fail(l, r, &t->st);
    } else if (runs && t->kind == TASK_VIEW) {
        view_acquired(l, t);
        return;
    } else if (runs && t->kind == TASK_SAVE) {
        saved(l, t);
    } else if (t->kind == TASK_EXPORT) {
        engine__export_opened(l, t);
    } else if (runs && t->kind == TASK_SEED) {
        engine__seed_loaded(l, t);
        return;
    } else if (runs && t->kind == TASK_CHECK) {
        checked(l, t);
    } else if (runs && t->kind == TASK_FLUSH) {
        flushed(l, t);
    } else if (runs && t->kind == TASK_RESTORE) {
        restored(l, t); /* keeps or frees it */
        return;
    } else if (t->kind == TASK_RESTORE) { /* the replica failed or stopped meanwhile */
        end_receive(l, t->received, false, false);
        t->received = NULL;
    }
    engine__task_free(t);
}
