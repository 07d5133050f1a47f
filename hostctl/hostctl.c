/* The controllers' worker: what wakes it, which shards it evaluates, and its timers. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Which shards to look at ----------------------------------------------------------------- */

struct ctl_shard *hostctl__shard(struct hostctl *h, uint64_t id)
{
    struct ctl_shard *s = map_get(&h->shards, id);
    if (s == NULL) {
        s = xcalloc(1, sizeof *s);
        s->id = id;
        s->work = &hostctl__no_work;
        (void)map_put(&h->shards, id, s);
    }
    return s;
}

const struct ctl_work hostctl__no_work;

struct ctl_work *hostctl__work(struct ctl_shard *s)
{
    if (s->work == &hostctl__no_work) {
        struct ctl_work *w = xcalloc(1, sizeof *w);
        w->shard_id = s->id;
        s->work = w;
    }
    return (struct ctl_work *)(uintptr_t)s->work; /* NOLINT: it belongs to this shard */
}

static void forget_work(struct hostctl *h, struct ctl_shard *s)
{
    if (s->work != &hostctl__no_work) {
        struct ctl_work *w = hostctl__work(s);
        wheel_cancel(h->wheel, &w->timer);
        free(w->explanation);
        free(w->failure);
        free(w);
        s->work = &hostctl__no_work;
    }
}

static void mark_dirty(struct hostctl *h, struct ctl_shard *s)
{
    if (!s->dirty) {
        s->dirty = true;
        s->next_dirty = NULL;
        *h->dirty_tail = s;
        h->dirty_tail = &s->next_dirty;
        ASSERT(s->next_dirty == NULL);
    }
}

void hostctl__dirty(struct hostctl *h, uint64_t shard_id)
{
    mark_dirty(h, hostctl__shard(h, shard_id));
}

void hostctl__dirty_all(struct hostctl *h)
{
    struct registry_shard_buf shard_buf;
    struct slice name = {0};
    const thole_v1_Shard *row;
    while (h->view != NULL && (row = registry_next_shard(h->view, name, &shard_buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(row));
        hostctl__dirty(h, thole_v1_Shard_id(row));
    }
    struct engine_replica_status *local = NULL;
    size_t count = engine_replicas(h->o.engine, &local);
    for (size_t i = 0; i < count; i++) {
        hostctl__dirty(h, local[i].shard_id);
    }
    free(local);
    size_t it = 0;
    struct ctl_shard *s;
    while ((s = map_next(&h->shards, &it, NULL)) != NULL) {
        mark_dirty(h, s);
    }
}

void hostctl__again(struct hostctl *h, struct ctl_shard *s, uint64_t at_ms)
{
    struct ctl_work *w = hostctl__work(s);
    if (!wheel_armed(&w->timer) || at_ms < w->timer.due_ms) {
        wheel_arm(h->wheel, &w->timer, at_ms);
    }
}

static void forget_shard(struct hostctl *h, struct ctl_shard *s)
{
    hostctl__place_forget(h, s);
    forget_work(h, s);
    (void)map_remove(&h->shards, s->id);
    free(s);
}

static void note_zero_leader(struct hostctl *h)
{
    struct engine_replica_status zero;
    bool leads = engine_shard_status(h->o.engine, REGISTRY_SHARD_ID, &zero) && zero.leader_ready;
    if (leads && !h->zero_leader) {
        hostctl__liveness_begin(h);
        hostctl__place_reset(h);
        hostctl__balance_changed(h);
        h->pools_dirty = true;
        h->operate_due_ms = h->now_ms;
        hostctl__dirty_all(h);
    } else if (!leads && h->zero_leader) {
        hostctl__liveness_end(h);
    }
    h->zero_leader = leads;
}

static bool is_busy(const struct ctl_shard *s)
{
    return s->dirty || s->starting || s->seeding || s->removing || s->changing || s->fencing ||
           s->placing || s->place_blocked || s->healing || s->reporting || s->report_queued;
}

static bool has_nothing_to_do(const struct hostctl *h, const struct ctl_shard *s)
{
    const struct ctl_work *w = s->work;
    return !wheel_armed(&w->timer) && w->failed_replica == 0 && !s->moving &&
           w->report_after_ms <= h->now_ms && w->host_after_ms <= h->now_ms &&
           w->change_after_ms <= h->now_ms && w->lead_after_ms <= h->now_ms &&
           w->report_revision <= registry_view_revision(h->view);
}

/* On shard zero's leader host, also for placement. */
static bool has_nothing_to_place(const struct hostctl *h, const struct ctl_shard *s)
{
    const struct ctl_work *w = s->work;
    return !h->zero_leader ||
           (w->explanation == NULL && w->place_after_ms <= h->now_ms &&
            w->heal_after_ms <= h->now_ms && w->place_revision <= registry_view_revision(h->view));
}

static void flush_leader_log(struct hostctl *h)
{
    if (h->leader_log.more > 0) {
        LOG_INFO(RAFT, "leadership changed on more shards, not logged one by one shards=%" PRIu32,
                 h->leader_log.more);
    }
    h->leader_log.more = 0;
    h->leader_log.lines = 0;
    h->leader_log.window_end_ms = h->now_ms + 1000;
}

static void log_leader(struct hostctl *h, struct ctl_shard *s,
                       const struct engine_replica_status *local)
{
    bool leads = local != NULL && local->leader_ready && !local->failed;
    if (leads == s->leads) {
        return;
    }
    s->leads = leads;
    if (h->now_ms >= h->leader_log.window_end_ms) {
        flush_leader_log(h);
    }
    if (h->leader_log.lines >= HOSTCTL_LEADER_LINES_MAX) {
        h->leader_log.more++;
        return;
    }
    h->leader_log.lines++;
    struct registry_shard_buf buf;
    const thole_v1_Shard *row = registry_shard(h->view, s->id, &buf);
    /* The view may be behind: at first shard zero itself is not in it. */
    upb_StringView name =
        row != NULL ? thole_v1_Shard_name(row)
                    : upb_StringView_FromString(s->id == REGISTRY_SHARD_ID ? REGISTRY_SHARD_NAME
                                                                           : "unknown");
    uint64_t replica_id = local != NULL ? local->replica_id : 0;
    LOG_INFO(RAFT, "%s shard=%.*s shard_id=%" PRIu64 " replica=%" PRIu64 " term=%" PRIu64,
             leads ? "became leader" : "leadership ended", (int)name.size, name.data, s->id,
             replica_id, local != NULL ? local->term : 0);
}

static void evaluate(struct hostctl *h, struct ctl_shard *s)
{
    struct engine_replica_status status;
    bool here = engine_shard_status(h->o.engine, s->id, &status);
    const struct engine_replica_status *local = here ? &status : NULL;
    log_leader(h, s, local);
    hostctl__host_evaluate(h, s, local);
    if (here && status.leader_ready && !status.failed) {
        hostctl__membership_evaluate(h, s, local);
        hostctl__leaders_note(h, s);
    }
    if (h->zero_leader) {
        hostctl__place_evaluate(h, s);
        hostctl__heal_evaluate(h, s);
    }
    hostctl__report_evaluate(h, s, local);
    bool leads =
        here && status.role == RAFT_LEADER; /* balance of leaders needs the shards that lead here */
    bool gone = !here && !registry_has_shard(h->view, s->id);
    bool idle = !is_busy(s) && has_nothing_to_do(h, s);
    if (!is_busy(s) && !leads && (gone || (idle && !h->zero_leader))) {
        forget_shard(h, s);
    } else if (idle && has_nothing_to_place(h, s)) {
        forget_work(h, s);
    }
}

/* ---- The turn -------------------------------------------------------------------------------- */

static void op_done(struct hostctl *h, struct ctl_op *op)
{
    if (op->move != NULL && op->st.code == THOLE_OK) {
        hostctl__note_move(h, op->move);
    }
    switch (op->kind) {
    case OP_START:
    case OP_SEED:
    case OP_REMOVE:
    case OP_FORGET:
        hostctl__host_done(h, op);
        break;
    case OP_BARRIER:
        hostctl__barrier_done(h, op);
        break;
    case OP_CHANGE:
        hostctl__membership_done(h, op);
        break;
    case OP_FENCE:
        hostctl__fence_done(h, op);
        break;
    case OP_PLACE:
        hostctl__place_done(h, op); /* may keep it */
        return;
    case OP_POOL:
        hostctl__pools_done(h, op);
        break;
    case OP_OPERATE:
        hostctl__operate_done(h, op);
        break;
    case OP_TRANSFER:
        hostctl__leaders_done(h, op);
        break;
    case OP_REPORT:
        hostctl__report_done(h, op);
        break;
    case OP_LIVENESS:
        hostctl__liveness_done(h, op);
        break;
    case OP_REACHES:
        hostctl__liveness_answer(h, op);
        break;
    case OP_HEAL:
        hostctl__heal_done(h, op);
        break;
    case OP_LOCAL_EVENTS:
        hostctl__local_events_done(h, op);
        break;
    }
    hostctl__op_free(op);
}

static void handle(struct hostctl *h, struct worker_msg *m)
{
    switch ((enum ctl_msg)m->kind) {
    case MSG_WAKE:
        atomic_store(&h->wake_posted, false);
        break;
    case MSG_REPLICA: {
        struct ctl_replica_msg *r = CONTAINER_OF(m, struct ctl_replica_msg, msg);
        hostctl__dirty(h, r->shard_id);
        free(r);
        break;
    }
    case MSG_PEER: {
        struct ctl_peer_msg *p = CONTAINER_OF(m, struct ctl_peer_msg, msg);
        hostctl__liveness_peer(h, &p->host, p->up);
        free(p);
        break;
    }
    case MSG_OP:
        op_done(h, CONTAINER_OF(m, struct ctl_op, msg));
        break;
    case MSG_MOVE: {
        struct ctl_move *move = CONTAINER_OF(m, struct ctl_move, msg);
        hostctl__note_move(h, move);
        free(move);
        break;
    }
    }
}

static uint64_t next_turn_ns(const struct hostctl *h)
{
    uint64_t due_ms = wheel_next(h->wheel);
    if (h->zero_leader && h->liveness_due_ms < due_ms) {
        due_ms = h->liveness_due_ms;
    }
    if (!h->report_outstanding && h->report_due_ms < due_ms) {
        due_ms = h->report_due_ms;
    }
    if (h->zero_leader && h->balance_due_ms < due_ms) {
        due_ms = h->balance_due_ms;
    }
    if (hostctl__pools_are_due(h) && h->pool_after_ms < due_ms) {
        due_ms = h->pool_after_ms;
    }
    if (hostctl__operations_are_due(h) && h->operate_due_ms < due_ms) {
        due_ms = h->operate_due_ms;
    }
    if (h->leaders_due_ms < due_ms) {
        due_ms = h->leaders_due_ms;
    }
    if (h->leader_log.more > 0 && h->leader_log.window_end_ms < due_ms) {
        due_ms = h->leader_log.window_end_ms;
    }
    if (hostctl__local_events_are_due(h) && h->events_after_ms < due_ms) {
        due_ms = h->events_after_ms;
    }
    if (h->dirty != NULL) {
        due_ms = h->now_ms;
    }
    return due_ms == UINT64_MAX ? CLOCK_NEVER : due_ms * NS_PER_MS;
}

/* The rest is evaluated in the next turn, so that answers do not wait for thousands of shards. */
static void evaluate_dirty(struct hostctl *h)
{
    struct ctl_shard *s;
    for (size_t i = 0; i < HOSTCTL_EVALUATIONS_MAX && (s = h->dirty) != NULL; i++) {
        h->dirty = s->next_dirty;
        if (h->dirty == NULL) {
            h->dirty_tail = &h->dirty;
        }
        s->dirty = false;
        evaluate(h, s);
    }
}

static uint64_t turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct hostctl *h = ctx;
    h->now_ms = now_ns / NS_PER_MS;
    struct worker_msg *m;
    while ((m = msgq_pop(batch)) != NULL) {
        handle(h, m);
    }
    if (atomic_load(&h->stopping)) {
        return CLOCK_NEVER;
    }
    hostctl__refresh_view(h);
    if (atomic_exchange(&h->all_dirty, false)) {
        hostctl__dirty_all(h);
    }
    note_zero_leader(h);
    struct wheel_timer *t;
    while ((t = wheel_expire(h->wheel, h->now_ms)) != NULL) {
        hostctl__dirty(h, CONTAINER_OF(t, struct ctl_work, timer)->shard_id);
    }
    if (h->zero_leader && h->liveness_due_ms <= h->now_ms) {
        hostctl__liveness_run(h);
    }
    if (!h->report_outstanding && h->report_due_ms <= h->now_ms) {
        hostctl__report_run(h);
    }
    evaluate_dirty(h);
    if (h->leader_log.more > 0 && h->leader_log.window_end_ms <= h->now_ms) {
        flush_leader_log(h);
    }
    if (h->zero_leader && h->balance_due_ms <= h->now_ms) {
        hostctl__balance_run(h);
    }
    hostctl__place_flush(h);
    if (hostctl__pools_are_due(h) && h->pool_after_ms <= h->now_ms) {
        hostctl__pools_run(h);
    }
    if (hostctl__operations_are_due(h) && h->operate_due_ms <= h->now_ms) {
        hostctl__operate_run(h);
    }
    if (h->leaders_due_ms <= h->now_ms) {
        hostctl__leaders_run(h);
    }
    if (hostctl__local_events_are_due(h) && h->events_after_ms <= h->now_ms) {
        hostctl__local_events_run(h);
    }
    if (h->tombstones_dirty) {
        hostctl__forget_tombstones(h);
    }
    h->turns++;
    ASSERT_SLOW(hostctl__check_tables(h));
    return next_turn_ns(h);
}

/* ---- From other threads ---------------------------------------------------------------------- */

static void wake(struct hostctl *h)
{
    if (!atomic_exchange(&h->wake_posted, true)) {
        (void)!worker_post_internal(h->worker, &h->wake); /* false: stopped, nothing to wake */
    }
}

static void view_changed(void *ctx, uint64_t revision)
{
    (void)revision;
    wake(ctx);
}

void hostctl_replica_changed(struct hostctl *h, const struct engine_replica_status *s)
{
    struct ctl_replica_msg *m = xcalloc(1, sizeof *m);
    m->msg.kind = MSG_REPLICA;
    m->shard_id = s->shard_id;
    if (!worker_post(h->worker, &m->msg)) {
        free(m);
        atomic_store(&h->all_dirty, true);
        wake(h);
    }
}

void hostctl_leader_moved(struct hostctl *h, uint64_t shard_id, uint64_t from, uint64_t to,
                          enum engine_move_reason reason)
{
    static const char *const why[] = {
        [ENGINE_MOVE_SHUTDOWN] = "its host is being stopped",
        [ENGINE_MOVE_DISK] = "its disk is nearly full, or hangs",
        [ENGINE_MOVE_CLOCK] = "its wall clock differs from those of the other hosts",
    };
    struct ctl_move *m = xcalloc(1, sizeof *m);
    *m = (struct ctl_move){.msg.kind = MSG_MOVE, .shard_id = shard_id, .from = from, .to = to};
    m->by = engine_move_reason_name(reason);
    snprintf(m->why, sizeof m->why, "%s", why[reason]);
    if (!worker_post_internal(h->worker, &m->msg)) {
        free(m);
    }
}

void hostctl_fitness_changed(struct hostctl *h)
{
    wake(h);
}

void hostctl_peer_state(struct hostctl *h, const struct uuid *host, bool up)
{
    struct ctl_peer_msg *m = xcalloc(1, sizeof *m);
    m->msg.kind = MSG_PEER;
    m->host = *host;
    m->up = up;
    if (!worker_post_internal(h->worker, &m->msg)) {
        free(m);
    }
}

void hostctl_heard(struct hostctl *h, const struct uuid *host)
{
    struct ctl_signs *s = &h->signs;
    if (!atomic_load_explicit(&s->wanted, memory_order_relaxed)) {
        return;
    }
    const struct detector_bounds b = {h->o.suspect_after_ms, h->o.suspect_after_ms_max};
    uint64_t now_ms = clock_now(h->clock) / NS_PER_MS;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->count; i++) {
        if (uuid_equal(&s->of[i].host, host)) {
            detector_heard(&s->of[i].detector, &b, now_ms);
            break;
        }
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- Life ------------------------------------------------------------------------------------ */

struct hostctl *hostctl_new(const struct hostctl_options *o)
{
    struct hostctl *h = xcalloc(1, sizeof *h);
    h->o = *o;
    h->o.retry_ms = o->retry_ms > 0 ? o->retry_ms : 200;
    h->o.report_interval_ms = o->report_interval_ms > 0 ? o->report_interval_ms : 200;
    h->o.suspect_after_ms =
        o->suspect_after_ms > 0 ? o->suspect_after_ms : HOSTCTL_SUSPECT_AFTER_MS;
    uint32_t suspect_max_ms = o->suspect_after_ms_max > 0 ? o->suspect_after_ms_max : 10000;
    h->o.suspect_after_ms_max =
        suspect_max_ms > h->o.suspect_after_ms ? suspect_max_ms : h->o.suspect_after_ms;
    h->o.dead_after_ms = o->dead_after_ms > 0 ? o->dead_after_ms : HOSTCTL_DEAD_AFTER_MS;
    h->clock = executor_clock(o->executor);
    h->now_ms = clock_now(h->clock) / NS_PER_MS;
    h->wheel = wheel_new(h->now_ms);
    h->wake.kind = MSG_WAKE;
    h->reports_tail = &h->reports;
    h->dirty_tail = &h->dirty;
    h->blocked_tail = &h->blocked;
    h->place_limit = HOSTCTL_PLACE_SHARDS_MAX;
    h->balance_due_ms = UINT64_MAX;
    h->leaders_due_ms = UINT64_MAX;
    h->operate_due_ms = UINT64_MAX;
    h->report_limit = HOSTCTL_REPORT_SHARDS_MAX;
    h->report_due_ms = UINT64_MAX;
    h->liveness_due_ms = UINT64_MAX;
    h->port = hostctl__port_new();
    int failed = pthread_mutex_init(&h->signs.lock, NULL);
    ASSERT(failed == 0);
    h->tombstones_dirty = true;
    atomic_init(&h->all_dirty, true);
    h->worker = worker_new(o->executor, "hostctl", HOSTCTL_MAILBOX, turn, h);
    h->port->worker = h->worker;
    registry_subscribe(o->registry, view_changed, h);
    wake(h);
    return h;
}

void hostctl_stop(struct hostctl *h)
{
    if (!atomic_exchange(&h->stopping, true)) {
        worker_stop(h->worker);
    }
}

void hostctl_free(struct hostctl *h)
{
    if (h == NULL) {
        return;
    }
    hostctl_stop(h);
    pthread_mutex_lock(&h->port->lock);
    h->port->worker = NULL;
    pthread_mutex_unlock(&h->port->lock);
    worker_free(h->worker);
    hostctl__port_unref(h->port);
    registry_view_release(h->view);
    size_t it = 0;
    struct ctl_shard *s;
    while ((s = map_next(&h->shards, &it, NULL)) != NULL) {
        forget_work(h, s);
        free(s);
    }
    map_deinit(&h->shards);
    map_deinit(&h->pool_attempts);
    map_deinit(&h->leaders_look);
    while (h->unseen_placements != NULL) {
        struct ctl_op *op = h->unseen_placements;
        h->unseen_placements = op->next;
        hostctl__op_free(op);
    }
    for (size_t i = 0; i < h->host_count; i++) {
        free(h->hosts[i].address);
    }
    free(h->hosts);
    free(h->signs.of);
    pthread_mutex_destroy(&h->signs.lock);
    wheel_free(h->wheel);
    free(h);
}
