/* Timers of machines. A machine reports when its earliest timers are due, one time for each clock.
 * The leader keeps one timer of its own for the group. When that has run out, it appends a TICK, at
 * which every replica's machine does what is due (machine.h). One TICK is in flight at a time: what
 * is due after it is known when it is applied.
 *
 * The timer of a group is in its loop's wheel and not in the replica's work, so that a group sleeps
 * while it waits. A timer that runs out is only a reason to look: the stamp that a TICK would get
 * now decides.
 *
 * The wheel counts logical milliseconds. A time by the wall clock is converted when the timer is
 * armed. If the wall clock steps, or logical time stands still, all timers are armed anew. So a
 * step is noticed within TIMERS_LOOK_MS. */
#include <stdlib.h>

#include "base/canary.h"
#include "shards/engine/engine_internal.h"

/* A loop with timers has a turn at least this often. It also bounds how much of the time of a
 * suspended process can count as time with a leader. */
#define TIMERS_LOOK_MS 10000
/* The longest time that a timer is armed for at once: a month. */
#define TIMER_MS_MAX (UINT64_C(31) * 24 * 3600 * 1000)
/* How much the wall clock may drift from logical time before timers are armed anew. */
#define TIMERS_DRIFT_MS 100

struct due_timer {
    struct wheel_timer timer; /* armed while the replica leads and no TICK is in flight */
    struct replica *r;
    struct thole_due due; /* as the machine reported it last */
    bool ticking;         /* this leader has appended a TICK, and no TICK was applied since */
};

void engine__timer_due(struct loop *l, struct replica *r, const struct thole_due *due, bool ticked)
{
    bool never = due->now_ms == THOLE_NEVER && due->alive_ms == THOLE_NEVER;
    ASSERT(r->loop == l && worker_is_current(l->w));
    if (never && r->timer == NULL) {
        return;
    }
    if (never) {
        wheel_cancel(l->timers, &r->timer->timer);
        free(r->timer);
        r->timer = NULL;
        return;
    }
    if (r->timer == NULL) {
        r->timer = xcalloc(1, sizeof *r->timer);
        r->timer->r = r;
    }
    r->timer->due = *due;
    if (ticked && !(CANARY(tick_of_deposed) && !r->led)) {
        r->timer->ticking = false;
    }
}

void engine__timer_cancel(struct loop *l, struct replica *r)
{
    if (r->timer != NULL) {
        wheel_cancel(l->timers, &r->timer->timer);
        r->timer->ticking = r->timer->ticking && CANARY(tick_of_deposed);
    }
}

static uint64_t left_of(uint64_t due_ms, uint64_t now_ms)
{
    if (due_ms == THOLE_NEVER) {
        return UINT64_MAX;
    }
    return due_ms > now_ms ? due_ms - now_ms : 0;
}

/* Milliseconds until something is due; 0: now. */
static uint64_t left_until_due(const struct loop *l, const struct replica *r)
{
    struct raft_stamp now = raft_stamp_now(r->core, l->now_ms, l->wall_ms);
    uint64_t by_wall = left_of(r->timer->due.now_ms, now.now_ms);
    uint64_t by_alive = left_of(r->timer->due.alive_ms, now.alive_ms);
    return by_wall < by_alive ? by_wall : by_alive;
}

static void arm(struct loop *l, struct replica *r, uint64_t left_ms)
{
    uint64_t due_ms = l->now_ms + (left_ms > 0 ? left_ms : 1);
    if (left_ms > TIMER_MS_MAX) {
        due_ms = l->now_ms + TIMER_MS_MAX;
    }
    if (wheel_next(l->timers) == UINT64_MAX) {
        l->wall_offset_ms = l->wall_ms - l->now_ms;
    }
    if (!wheel_armed(&r->timer->timer) || r->timer->timer.due_ms != due_ms) {
        wheel_arm(l->timers, &r->timer->timer, due_ms);
    }
}

/* False: it could not be appended. */
static bool append_tick(struct loop *l, struct replica *r)
{
    uint64_t first = 0;
    if (engine_space_refuses(l->e, r->shard_id) || engine__loop_writer_stalled(l, l->now_ns)) {
        return false;
    }
    struct raft_entry *tick = raft_entry_new(RAFT_ENTRY_TICK, 0, 0, (struct bufslice){0});
    enum thole_code code = raft_propose(r->core, &tick, 1, l->now_ms, l->wall_ms, &first, NULL);
    if (code != THOLE_OK) {
        raft_entry_unref(tick);
        return false;
    }
    r->timer->ticking = true;
    wheel_cancel(l->timers, &r->timer->timer);
    metric_add(&engine_ticks, 1);
    return true;
}

void engine__timer_consider(struct loop *l, struct replica *r)
{
    struct raft_status s;
    ASSERT(r->loop == l && worker_is_current(l->w) && r->state == GROUP_RUNNING);
    if (!r->led || r->timer == NULL) {
        return;
    }
    raft_status(r->core, &s);
    if (s.role != RAFT_LEADER) {
        return; /* it was deposed in this turn: the harvest tells */
    }
    if (r->timer->ticking) {
        return; /* what is due then is known when that is applied */
    }
    uint64_t left_ms = left_until_due(l, r);
    if (left_ms > 0 || !s.leader_ready) {
        arm(l, r, left_ms > 0 ? left_ms : TICK_RETRY_MS);
    } else if (!append_tick(l, r)) {
        arm(l, r, TICK_RETRY_MS);
    }
}

static void arm_all(struct loop *l)
{
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&l->by_replica, &it, NULL)) != NULL) {
        if (r->timer != NULL && wheel_armed(&r->timer->timer)) {
            arm(l, r, left_until_due(l, r));
        }
    }
    l->wall_offset_ms = l->wall_ms - l->now_ms;
}

void engine__timers_run(struct loop *l)
{
    struct wheel_timer *t;
    uint64_t drift = l->wall_ms - l->now_ms - l->wall_offset_ms; /* in either direction */
    if (wheel_next(l->timers) != UINT64_MAX && drift + TIMERS_DRIFT_MS > 2 * TIMERS_DRIFT_MS) {
        arm_all(l);
    }
    while ((t = wheel_expire(l->timers, l->now_ms)) != NULL) {
        struct replica *r = CONTAINER_OF(t, struct due_timer, timer)->r;
        ASSERT(r->loop == l && r->state == GROUP_RUNNING);
        engine__loop_dirty(l, r);
    }
}

uint64_t engine__timers_next(const struct loop *l)
{
    uint64_t next = wheel_next(l->timers), look = l->now_ms + TIMERS_LOOK_MS;
    if (next == UINT64_MAX) {
        return UINT64_MAX; /* it holds no timers */
    }
    return next < look ? next : look;
}
