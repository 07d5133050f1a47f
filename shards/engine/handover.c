/* Before a clean stop: every group that is led here, and could be led elsewhere, is handed to its
 * best voter; all at once, each as soon as its core can. What comes to be led here meanwhile is
 * handed on too, so this goes on until the loop stops.
 *
 * A loop is done when it leads nothing that another could lead, has heard of those that lead
 * instead (they may need its vote), and knows the outcome of every proposal that it had appended:
 * whoever waits for one gets its answer before the host is gone. */
#include <stdlib.h>

#include "shards/engine/engine_internal.h"

struct hand_over {
    _Atomic uint32_t loops; /* that are not done */
    _Atomic uint64_t left;  /* groups, at the deadline */
    engine_done_fn done;
    void *ctx;
};

static void loop_done(void *ctx, const struct thole_status *st)
{
    struct hand_over *h = ctx;
    (void)st; /* a loop that was stopped leads nothing either */
    if (atomic_fetch_sub(&h->loops, 1) != 1)
        return;
    struct thole_status late = {0};
    uint64_t left = atomic_load(&h->left);
    if (left > 0)
        (void)THOLE_FAIL(&late, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE,
                         "%llu groups are still led here, or have undecided proposals",
                         (unsigned long long)left);
    h->done(h->ctx, &late);
    free(h);
}

void engine_hand_over(struct engine *e, uint64_t deadline_ns, engine_done_fn done, void *ctx)
{
    struct hand_over *h = xcalloc(1, sizeof(*h));
    h->done = done;
    h->ctx = ctx;
    atomic_init(&h->loops, e->o.loop_count);
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        struct control *c = xcalloc(1, sizeof(*c));
        c->msg.kind = MSG_CONTROL;
        c->kind = CONTROL_HAND_OVER;
        c->deadline_ns = deadline_ns;
        c->done = loop_done;
        c->ctx = h;
        loop_post(e->loops[i], &c->msg);
    }
}

/* ---- On the loop ----------------------------------------------------------------------------- */

static bool another_may_lead(const struct replica *r)
{
    const struct raft_config *c = raft_config(r->core);
    for (uint32_t i = 0; i < c->member_count; i++)
        if (c->members[i].role == RAFT_VOTER && c->members[i].replica_id != r->replica_id)
            return true;
    return false;
}

/* True if it has a transfer to carry out. One that cannot be handed on yet, because none of its
 * peers is known to be there, is tried again in each turn; being led by nobody soon ends it. */
static bool hand_on(struct loop *l, struct replica *r)
{
    struct thole_status st;
    if (work_of(r)->status.transfer_target != 0 ||
        raft_transfer(r->core, 0, l->now_ms, &st) != THOLE_OK)
        return false;
    r->handed_on = true;
    loop_dirty(l, r);
    return true;
}

void hand_over_begin(struct loop *l, struct control *c)
{
    ASSERT(!l->handing_over);
    l->handing_over = true;
    l->hand_over = c;
    l->hand_over_ms = c->deadline_ns / NS_PER_MS;
}

void hand_over_end(struct loop *l)
{
    struct control *c = l->hand_over;
    l->hand_over = NULL;
    l->hand_over_ms = UINT64_MAX;
    control_answer(c);
}

bool hand_over_run(struct loop *l)
{
    size_t it = 0, left = 0;
    bool changed = false;
    struct replica *r;
    if (!l->handing_over)
        return false;
    while ((r = map_next(&l->by_replica, &it, NULL))) {
        if (r->state != GROUP_RUNNING)
            continue;
        if (r->led && another_may_lead(r)) {
            left++;
            changed = hand_on(l, r) || changed;
        } else if (!r->led && r->work &&
                   (r->work->pending.count > 0 || (r->handed_on && r->work->status.leader == 0))) {
            left++;
        }
    }
    if (l->hand_over && left > 0 && l->real_ms >= l->hand_over_ms) {
        struct hand_over *h = l->hand_over->ctx;
        atomic_fetch_add(&h->left, left);
        left = 0;
    }
    if (l->hand_over && left == 0)
        hand_over_end(l);
    return changed;
}
