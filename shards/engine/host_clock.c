/* Is the wall clock of this host right? Machines see the leader's clock, so a host with a wrong
 * clock should not lead.
 *
 * Every beat carries the sender's wall clock. Its distance from the clock here, when the beat
 * arrives, is the difference of the two clocks, less the time on the way. Loop 0 compares once per
 * second: the clock is wrong if it is LIMIT_CLOCK_AHEAD_MS or more from the median of the clocks of
 * all hosts that sent a beat within an election timeout, its own among them. If their number is
 * even, it must be that far from both middle clocks. So two hosts, or two halves of a cluster,
 * never judge each other: no majority says which of them is right. Beats come from the hosts that
 * lead a group of this host, or have a replica of a group that is led here.
 *
 * A process that was suspended receives the beats of that time all at once, and they show old
 * clocks. So a new judgement counts only when it has held for CONFIRM_NS. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "shards/engine/engine_internal.h"

#define CHECK_NS NS_PER_S
#define CONFIRM_NS (2 * NS_PER_S)
/* Hysteresis, so that leaderships do not move back and forth at the bound. */
#define RIGHT_AGAIN_MS (LIMIT_CLOCK_AHEAD_MS - LIMIT_CLOCK_AHEAD_MS / 10)
#define HOSTS_MIN 3

bool engine_clock_is_wrong(struct engine *e)
{
    return atomic_load_explicit(&e->wrong_clock, memory_order_relaxed);
}

int64_t engine_clock_ahead_ms(struct engine *e)
{
    return atomic_load_explicit(&e->clock_ahead_ms, memory_order_relaxed);
}

/* The caller holds the engine's lock. */
void engine__clock_heard(struct engine *e, struct beat_peer *p, const struct host_beat *b)
{
    if (b->wall_ms == 0) { /* not said */
        return;
    }
    uint64_t wall_ms = e->clock->wall_ms(e->clock);
    /* Any number may come from a peer: no difference of two such numbers overflows. */
    uint64_t theirs_ms = b->wall_ms < INT64_MAX / 2 ? b->wall_ms : INT64_MAX / 2;
    p->clock_ahead_ms = (int64_t)theirs_ms - (int64_t)wall_ms;
    p->heard_ns = clock_now(e->clock);
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* How far the other hosts' clocks are ahead of this one, and 0 for itself; sorted. */
static int64_t *collect(struct engine *e, uint64_t now_ns, size_t *ret_count)
{
    uint64_t lately_ns = e->o.election_timeout_ms * NS_PER_MS;
    size_t it = 0, n = 0;
    const struct beat_peer *p;
    pthread_mutex_lock(&e->lock);
    int64_t *ahead = xmalloc((e->beat_peers.count + 1) * sizeof *ahead);
    while ((p = map_next(&e->beat_peers, &it, NULL)) != NULL) {
        /* A group may have had two replicas here, and then this host is its own peer. */
        bool counts = p->heard_ns != 0 && !uuid_equal(&p->host, &e->o.host_id);
        /* A beat may arrive after the turn began. */
        if (counts && p->heard_ns + lately_ns >= now_ns) {
            ahead[n++] = p->clock_ahead_ms;
        }
    }
    pthread_mutex_unlock(&e->lock);
    ahead[n++] = 0;
    qsort(ahead, n, sizeof *ahead, compare);
    *ret_count = n;
    return ahead;
}

/* Signed: how far this host's clock is ahead of the nearer one of the middle clocks. */
static int64_t distance(const int64_t *ahead, size_t count)
{
    int64_t low = ahead[(count - 1) / 2], high = ahead[count / 2];
    ASSERT(low <= high);
    return low > 0 ? -low : high < 0 ? -high : 0;
}

static void judge(struct loop *l, bool wrong, int64_t ahead_ms)
{
    struct engine *e = l->e;
    if (wrong == engine_clock_is_wrong(e)) {
        e->clock_disputed_ns = 0;
        return;
    }
    if (e->clock_disputed_ns == 0) {
        e->clock_disputed_ns = l->now_ns;
    }
    if (l->now_ns - e->clock_disputed_ns < CONFIRM_NS) {
        return;
    }
    e->clock_disputed_ns = 0;
    atomic_store(&e->wrong_clock, wrong);
    LOG_WARN(ENGINE, "wall clock %s ahead_ms=%" PRId64,
             wrong ? "differs from those of the other hosts, leaderships move to other hosts"
                   : "agrees with those of the other hosts again",
             ahead_ms);
    engine__fitness_changed(e);
}

void engine__clock_check(struct loop *l)
{
    struct engine *e = l->e;
    size_t count;
    ASSERT(l->index == 0);
    if (l->now_ns < e->clock_due_ns) {
        return;
    }
    e->clock_due_ns = l->now_ns + CHECK_NS;
    int64_t *ahead = collect(e, l->now_ns, &count);
    int64_t ahead_ms = distance(ahead, count);
    free(ahead);
    int64_t limit_ms = engine_clock_is_wrong(e) ? RIGHT_AGAIN_MS : LIMIT_CLOCK_AHEAD_MS;
    atomic_store(&e->clock_ahead_ms, ahead_ms);
    /* Fewer hosts are no majority: keep the last judgement. */
    if (count >= HOSTS_MIN) {
        judge(l, llabs(ahead_ms) >= limit_ms, ahead_ms);
    }
}
