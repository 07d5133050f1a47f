/* Moves leaderships to other hosts: before a clean stop, and while the disk is nearly full or
 * hangs, or the wall clock is wrong.
 *
 * Before a clean stop, every group that is led here and has another voter is transferred to its
 * best voter. All transfers run at once, each as soon as its core can. Groups that this host comes
 * to lead meanwhile are transferred too, so this continues until the loop stops.
 *
 * A loop is done when three things hold. It leads no group that another voter could lead. It has
 * heard from the new leaders, which may need its vote. It knows the outcome of every proposal that
 * it appended, so that each caller gets its answer before the host is gone.
 *
 * While the disk is nearly full, a write of the log hangs or the wall clock is wrong, every group
 * goes to the voter with the longest log among those whose hosts are alive and report enough space
 * and a right clock. Without such a voter the leadership stays here. The core of a group that waits
 * for the write that hangs steps down and names a successor (raft__lead_tick). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/canary.h"
#include "base/log.h"
#include "shards/engine/engine_internal.h"

#define UNFIT_RETRY_MS 200 /* between checks of the leaderships here */

const char *engine_move_reason_name(enum engine_move_reason reason)
{
    switch (reason) {
    case ENGINE_MOVE_SHUTDOWN:
        return "shutdown";
    case ENGINE_MOVE_DISK:
        return "disk";
    case ENGINE_MOVE_CLOCK:
        return "clock";
    }
    return "unknown";
}

struct hand_over {
    _Atomic uint32_t loops; /* that are not done */
    _Atomic uint64_t left;  /* groups that are not done at the deadline */
    engine_done_fn done;
    void *ctx;
};

static void loop_done(void *ctx, const struct thole_status *st)
{
    struct hand_over *h = ctx;
    (void)st; /* a loop that has stopped leads nothing either */
    uint32_t before = atomic_fetch_sub(&h->loops, 1);
    ASSERT(before > 0);
    if (before != 1) {
        return;
    }
    struct thole_status late = {0};
    uint64_t left = atomic_load(&h->left);
    if (left > 0) {
        (void)THOLE_FAIL(&late, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE,
                         "%" PRIu64 " groups are still led here, or have undecided proposals",
                         left);
    }
    h->done(h->ctx, &late);
    free(h);
}

void engine_hand_over(struct engine *e, uint64_t deadline_ns, engine_done_fn done, void *ctx)
{
    struct hand_over *h = xcalloc(1, sizeof *h);
    h->done = done;
    h->ctx = ctx;
    atomic_init(&h->loops, e->o.loop_count);
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        struct control *c = xcalloc(1, sizeof *c);
        c->msg.kind = MSG_CONTROL;
        c->kind = CONTROL_HAND_OVER;
        c->deadline_ns = deadline_ns;
        c->done = loop_done;
        c->ctx = h;
        engine__loop_post(e->loops[i], &c->msg);
    }
}

/* ---- On the loop ----------------------------------------------------------------------------- */

static bool has_other_voter(const struct replica *r)
{
    const struct raft_config *c = raft_config(r->core);
    for (uint32_t i = 0; i < c->member_count; i++) {
        if (c->members[i].role == RAFT_VOTER && c->members[i].replica_id != r->replica_id) {
            return true;
        }
    }
    return false;
}

/* True if a transfer was begun. It cannot begin while no peer is known to be alive; then it is
 * tried again in each turn, until check-quorum ends the leadership. */
static bool transfer_leadership(struct loop *l, struct replica *r)
{
    struct thole_status st;
    ASSERT(r->led && r->state == GROUP_RUNNING);
    if (work_of(r)->status.transfer_target != 0 ||
        raft_transfer(r->core, 0, l->now_ms, &st) != THOLE_OK) {
        return false;
    }
    r->handed_over = ENGINE_MOVE_SHUTDOWN;
    engine__loop_dirty(l, r);
    return true;
}

void engine__hand_over_begin(struct loop *l, struct control *c)
{
    ASSERT(!l->handing_over);
    l->handing_over = true;
    l->hand_over = c;
    l->hand_over_ms = c->deadline_ns / NS_PER_MS;
}

void engine__hand_over_end(struct loop *l)
{
    struct control *c = l->hand_over;
    l->hand_over = NULL;
    l->hand_over_ms = UINT64_MAX;
    engine__control_answer(c);
}

bool engine__hand_over_run(struct loop *l)
{
    size_t it = 0, left = 0;
    bool changed = false;
    struct replica *r;
    if (!l->handing_over) {
        return false;
    }
    while ((r = map_next(&l->by_replica, &it, NULL)) != NULL) {
        if (r->state != GROUP_RUNNING) {
            continue;
        }
        if (r->led && has_other_voter(r)) {
            left++;
            changed = transfer_leadership(l, r) || changed;
        } else if (!r->led && r->work != NULL &&
                   (r->work->pending.count > 0 ||
                    (r->handed_over != 0 && r->work->status.leader == 0))) {
            left++;
        }
    }
    if (l->hand_over != NULL && left > 0 && l->real_ms >= l->hand_over_ms) {
        struct hand_over *h = l->hand_over->ctx;
        atomic_fetch_add(&h->left, left);
        left = 0;
    }
    if (l->hand_over != NULL && left == 0) {
        engine__hand_over_end(l);
    }
    return changed;
}

/* ---- Hosts that should not lead -------------------------------------------------------------- */

void engine__fitness_changed(struct engine *e)
{
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        engine__loop_post(e->loops[i], &engine__control_new(CONTROL_FITNESS, NULL, NULL)->msg);
    }
    if (e->o.observer.fitness_changed != NULL && !atomic_load(&e->crashed)) {
        e->o.observer.fitness_changed(e->o.observer.ctx);
    }
}

/* `stalled` is set when beats are sent. A host without peers sends none, so look at the writers. */
static bool is_stalled(struct engine *e)
{
    bool stalled = atomic_load(&e->stalled);
    uint64_t now_ns = clock_now(e->clock);
    for (uint32_t i = 0; i < e->o.loop_count && !stalled; i++) {
        stalled = engine__loop_writer_stalled(e->loops[i], now_ns);
    }
    return stalled;
}

enum engine_disk engine_disk(struct engine *e)
{
    return atomic_load(&e->low_space) ? ENGINE_DISK_LOW
           : is_stalled(e)            ? ENGINE_DISK_STALLED
                                      : ENGINE_DISK_OK;
}

bool engine_disk_refuses(struct engine *e, uint64_t shard_id)
{
    return engine_space_refuses(e, shard_id) || atomic_load(&e->stalled);
}

/* A voter to transfer to; 0: none. */
static uint64_t find_target(struct loop *l, const struct replica *r)
{
    const struct raft_config *c = raft_config(r->core);
    uint64_t best = 0, best_match = 0;
    ASSERT(r->led);
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        struct raft_peer_status peer;
        struct uuid host;
        if (m->role != RAFT_VOTER || m->replica_id == r->replica_id) {
            continue;
        }
        memcpy(host.bytes, m->host, sizeof host.bytes);
        const struct peer_host *h = engine__loop_host(l, &host);
        bool beats = l->e->o.sleep_after_ms != ENGINE_SLEEP_NEVER;
        if ((beats && !h->alive) || h->unfit || !raft_peer(r->core, m->replica_id, &peer) ||
            peer.state == RAFT_SNAPSHOT) {
            continue;
        }
        if (best == 0 || peer.match > best_match) {
            best = m->replica_id;
            best_match = peer.match;
        }
    }
    return best;
}

bool engine__hand_over_unfit(struct loop *l)
{
    size_t it = 0;
    bool changed = false;
    struct replica *r;
    struct thole_status st;
    if (l->real_ms < l->unfit_due_ms) {
        return false;
    }
    bool low = atomic_load_explicit(&l->e->low_space, memory_order_relaxed);
    bool stalled = atomic_load_explicit(&l->e->stalled, memory_order_relaxed);
    bool wrong = atomic_load_explicit(&l->e->wrong_clock, memory_order_relaxed);
    bool unfit = low || stalled || wrong;
    enum engine_move_reason reason = low || stalled ? ENGINE_MOVE_DISK : ENGINE_MOVE_CLOCK;
    l->unfit_due_ms = unfit ? l->real_ms + UNFIT_RETRY_MS : UINT64_MAX;
    if (!unfit || l->handing_over || (low && CANARY(low_space_leads)) ||
        (wrong && CANARY(wrong_clock_leads))) {
        return false;
    }
    while ((r = map_next(&l->by_replica, &it, NULL)) != NULL) {
        if (stalled && r->state == GROUP_RUNNING && !r->led && r->work != NULL) {
            engine__proposals_abandon(l, r); /* their outcome cannot be learned here */
        }
        if (r->state != GROUP_RUNNING || !r->led || work_of(r)->status.transfer_target != 0) {
            continue;
        }
        uint64_t target = find_target(l, r);
        if (target == 0 || raft_transfer(r->core, target, l->now_ms, &st) != THOLE_OK) {
            continue;
        }
        LOG_INFO(ENGINE, "leadership transfer begun by=%s shard=%" PRIu64 " to=%" PRIu64,
                 engine_move_reason_name(reason), r->shard_id, target);
        r->handed_over = (uint8_t)reason;
        changed = true;
        engine__loop_dirty(l, r);
    }
    return changed;
}

void engine__hand_over_check(struct loop *l, struct replica *r)
{
    const struct raft_status *s = &work_of(r)->status;
    const struct engine_observer *o = &l->e->o.observer;
    enum engine_move_reason reason = r->handed_over;
    if (reason == 0 || s->leader == 0 || (s->leader == r->replica_id && s->transfer_target != 0)) {
        return;
    }
    r->handed_over = 0;
    if (s->leader != r->replica_id && o->leader_moved != NULL && !atomic_load(&l->e->crashed)) {
        o->leader_moved(o->ctx, r->shard_id, r->replica_id, s->leader, reason);
    }
}
