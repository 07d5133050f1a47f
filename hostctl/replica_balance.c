/* Balance of replicas, on shard zero's leader host: while hosts differ by two replicas or more, or
 * one exceeds its capacity, find shards that can move a replica without harm. A few replicas move
 * at a time. None moves while other shards have pending steps, so that balance does not add load
 * to a recovering cluster. A round looks at every replica once, a part in each turn. A round
 * without a move ends the search until rows change. */
#include "hostctl/hostctl_internal.h"

#define BALANCE_PAUSE_RETRIES 5 /* in units of retry_ms: changes are collected for this long */
#define BALANCE_ROWS 4096       /* examined in one turn */
#define BALANCE_TRIES 128       /* shards that are decided about in one turn */

/* The only place that decides whether replicas and leaders may move for balance alone. */
bool hostctl__may_rebalance(const struct hostctl *h)
{
    return h->rebalance != 0 || !hostctl__is_paused(h, thole_v1_CONTROLLER_BALANCE);
}

void hostctl__balance_changed(struct hostctl *h)
{
    uint64_t due = h->now_ms + (uint64_t)BALANCE_PAUSE_RETRIES * h->o.retry_ms;
    h->balance_wrapped = false;
    h->balance_even = false;
    h->balance_begin = h->balance_after;
    if (h->balance_due_ms == UINT64_MAX) {
        h->balance_due_ms = due;
    }
}

struct loads {
    uint32_t least; /* of the hosts that may get more */
    uint32_t most;
    bool over; /* a host has more than its capacity */
};

static int64_t load_of(struct hostctl *h, const struct uuid *id)
{
    return (int64_t)placement_host_replicas(h->view, id) + hostctl__extra_load(h, id);
}

static bool is_over(const thole_v1_Host *row, int64_t load)
{
    uint32_t capacity = thole_v1_HostSpec_capacity(thole_v1_Host_spec(row));
    return capacity > 0 &&
           load > (int64_t)capacity + 1; /* one more for its replica of shard zero */
}

static void measure(struct hostctl *h, struct loads *l)
{
    struct slice name = {0};
    const thole_v1_Host *row;
    *l = (struct loads){.least = UINT32_MAX};
    while ((row = registry_next_host(h->view, name)) != NULL) {
        struct uuid id;
        name = registry_str(thole_v1_Host_name(row));
        if (!uuid_parse(registry_str(thole_v1_Host_id(row)), &id)) {
            continue;
        }
        int64_t load = load_of(h, &id);
        uint32_t count = load > 0 ? (uint32_t)load : 0;
        bool active =
            hostctl__host_has_state(row, thole_v1_HOST_STATE_ACTIVE) &&
            !placement_host_is_failing(row) &&
            thole_v1_HostStatus_liveness(thole_v1_Host_status(row)) == thole_v1_HOST_LIVENESS_LIVE;
        l->least = active && count < l->least ? count : l->least;
        l->most = count > l->most ? count : l->most;
        l->over |= is_over(row, load);
    }
}

/* Could moving a replica away from this host improve the balance? */
static bool is_source(struct hostctl *h, const struct loads *l, const struct uuid *id)
{
    const thole_v1_Host *row = registry_host(h->view, id);
    int64_t load = load_of(h, id);
    return row != NULL && (load >= (int64_t)l->least + 2 || is_over(row, load));
}

static bool move(struct hostctl *h, const thole_v1_Replica *row, const struct uuid *from)
{
    struct registry_shard_buf shard_buf;
    struct ctl_shard *s = hostctl__shard(h, thole_v1_Replica_shard_id(row));
    const thole_v1_Shard *shard = registry_shard(h->view, s->id, &shard_buf);
    if (s->placing || s->moving || s->place_blocked || shard == NULL || !s->decided ||
        s->verdict != PLACEMENT_SETTLED ||
        registry_view_revision(h->view) < s->work->place_revision) {
        return false;
    }
    upb_Arena *arena = NULL;
    thole_registry_v1_Command *c = hostctl__place_begin(h, &arena);
    const struct placement_options options = {.ctx = h,
                                              .extra = hostctl__extra_load,
                                              .unpinned = h->rebalance,
                                              .now_ms = (int64_t)h->clock->wall_ms(h->clock)};
    if (!placement_balance(h->view, shard, &options, from, c, arena)) {
        return false;
    }
    s->moving = true;
    hostctl__work(s)->moving_from = *from;
    h->moving++;
    hostctl__host(h, from)->extra--;
    hostctl__place_commit(h, s);
    return true;
}

/* The round has ended. */
static void end_round(struct hostctl *h)
{
    h->balance_even = h->moving == 0 && h->unsettled == 0;
    hostctl__operate_again(h);
}

void hostctl__balance_run(struct hostctl *h)
{
    struct registry_replica_buf replica_buf;
    struct loads l;
    size_t tries = 0;
    h->balance_due_ms = UINT64_MAX;
    if (!hostctl__may_rebalance(h) || h->unsettled >= HOSTCTL_MOVES_MAX ||
        h->placements >= HOSTCTL_PLACEMENTS_MAX) {
        return; /* the end of that step changes rows, which wakes this */
    }
    measure(h, &l);
    for (size_t rows = 0; h->moving < HOSTCTL_MOVES_MAX && (l.over || l.most >= l.least + 2);
         rows++) {
        const thole_v1_Replica *row =
            registry_next_replica(h->view, h->balance_after, &replica_buf);
        if (row == NULL) {
            if (h->balance_wrapped) {
                end_round(h);
                return;
            }
            h->balance_wrapped = true;
            h->balance_after = 0;
            continue;
        }
        if (h->balance_wrapped && h->balance_after >= h->balance_begin && rows > 0) {
            end_round(h); /* each replica once */
            return;
        }
        if (rows >= BALANCE_ROWS || tries >= BALANCE_TRIES) {
            h->balance_due_ms = h->now_ms + h->o.retry_ms / 4 + 1;
            return;
        }
        struct uuid host;
        h->balance_after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_shard_id(row) == REGISTRY_SHARD_ID ||
            thole_v1_Replica_owner(row) != thole_v1_REPLICA_OWNER_PLACEMENT ||
            !uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &host) ||
            !is_source(h, &l, &host)) {
            continue;
        }
        tries++;
        if (move(h, row, &host)) {
            measure(h, &l);
        }
    }
    end_round(h);
}
