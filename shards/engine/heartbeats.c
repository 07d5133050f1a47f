/* Heartbeats between hosts. Sleeping groups (shards/raft/sleep.c) rely on them.
 *
 * Loop 0 sends one small frame (a beat) per interval to every other host that shares a group with
 * this one. A beat means: the process runs, all loops make progress, the log can be written, and
 * every sleeping leader here still leads. Every loop handles the beats of other hosts. If a host is
 * silent for an election timeout, or has another incarnation, its groups here wake.
 *
 * A leader can end here without a message (stopped, failed, deleted). Its followers may be asleep,
 * and still receive beats. So every beat names the leader's shard until a beat is acknowledged.
 * With too many shards, the beat says that all groups are awake. A SLEEP carries the number of the
 * last beat before it. A receiver that has a later beat ignores the SLEEP, because that beat may
 * have reported the leader's end. */
#include <stdlib.h>
#include <string.h>

#include "base/canary.h"
#include "base/log.h"
#include "shards/engine/frame_codec.h"

#define NEVER UINT64_MAX

/* ---- State per receiver, under the engine's lock --------------------------------------------- */

/* NULL if there is none; then its key would be *ret_key. The caller holds the engine's lock. */
static struct beat_peer *find_peer(const struct engine *e, const struct uuid *host,
                                   uint64_t *ret_key)
{
    struct beat_peer *p;
    *ret_key = uuid_hash(host);
    while ((p = map_get(&e->beat_peers, *ret_key)) != NULL && !uuid_equal(&p->host, host)) {
        ++*ret_key;
    }
    return p;
}

/* Created if absent. The caller holds the engine's lock. */
static struct beat_peer *peer_of(struct engine *e, const struct uuid *host, bool *ret_new)
{
    uint64_t key;
    struct beat_peer *p = find_peer(e, host, &key);
    *ret_new = false;
    if (p == NULL) {
        p = xcalloc(1, sizeof *p);
        p->host = *host;
        (void)map_put(&e->beat_peers, key, p);
        *ret_new = true;
    }
    return p;
}

void engine__heartbeats_add_peer(struct engine *e, const struct uuid *host)
{
    bool is_new;
    pthread_mutex_lock(&e->lock);
    (void)peer_of(e, host, &is_new);
    pthread_mutex_unlock(&e->lock);
    if (!is_new || e->o.sleep_after_ms == ENGINE_SLEEP_NEVER) {
        return;
    }
    struct host_beat *b = xcalloc(1, sizeof *b); /* number 0: start sending beats */
    b->msg.kind = MSG_BEAT;
    b->host = *host;
    engine__loop_post(e->loops[0], &b->msg);
}

void engine__heartbeats_free(struct engine *e)
{
    size_t it = 0;
    struct beat_peer *p;
    while ((p = map_next(&e->beat_peers, &it, NULL)) != NULL) {
        free(p);
    }
    map_deinit(&e->beat_peers);
}

uint64_t engine__heartbeats_sent(struct engine *e, const struct uuid *host)
{
    bool is_new;
    pthread_mutex_lock(&e->lock);
    uint64_t number = peer_of(e, host, &is_new)->sent;
    pthread_mutex_unlock(&e->lock);
    return number;
}

static void add_woken(struct beat_peer *p, uint64_t shard_id)
{
    p->woken_from = p->sent + 1;
    if (p->woken_count < BEAT_WOKEN_MAX) {
        p->woken[p->woken_count++] = shard_id;
    } else {
        p->all_woken = true;
    }
}

/* A leader here has ended, and its followers may be asleep. */
void engine__heartbeats_leader_ended(struct loop *l, struct replica *r)
{
    const struct raft_config *c = raft_config(r->core);
    bool is_new;
    ASSERT(r->led && worker_is_current(l->w));
    pthread_mutex_lock(&l->e->lock);
    for (uint32_t i = 0; i < c->member_count; i++) {
        struct uuid host;
        memcpy(host.bytes, c->members[i].host, sizeof host.bytes);
        if (c->members[i].replica_id != r->replica_id) {
            add_woken(peer_of(l->e, &host, &is_new), r->shard_id);
        }
    }
    pthread_mutex_unlock(&l->e->lock);
}

/* ---- Sending: loop 0 ------------------------------------------------------------------------- */

/* Do all loops turn, and is the log written? Otherwise this host sends no beats. */
static bool makes_progress(struct loop *l)
{
    struct engine *e = l->e;
    bool hung = false;
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        hung |= engine__loop_writer_stalled(e->loops[i], l->now_ns);
    }
    if (hung != atomic_exchange(&e->stalled, hung)) {
        LOG_WARN(ENGINE, "%s",
                 hung ? "log write stalled, the groups of this host elect other leaders"
                      : "log write ended after a stall");
        engine__fitness_changed(e);
    }
    if (hung) {
        return false;
    }
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        const struct loop *other = e->loops[i];
        uint64_t since = atomic_load_explicit(&other->turn_since_ns, memory_order_relaxed);
        bool stuck = other != l && since != 0 && l->now_ns > since &&
                     l->now_ns - since > e->o.election_timeout_ms * NS_PER_MS;
        if (stuck) {
            return false;
        }
    }
    return true;
}

static struct host_beat next_beat(const struct engine *e, struct beat_peer *p)
{
    ASSERT(p->woken_count <= BEAT_WOKEN_MAX && p->woken_from <= p->sent + 1);
    struct host_beat b = {
        .low_space = engine_space_refuses(e, 1),
        .critical_space = engine_space_refuses(e, 0),
        .wall_ms = e->clock->wall_ms(e->clock),
        .wrong_clock = atomic_load_explicit(&e->wrong_clock, memory_order_relaxed),
        .host = p->host,
        .number = ++p->sent,
        .heard = p->heard,
        .all_woken = p->all_woken,
        .woken_count = p->woken_count,
    };
    memcpy(b.woken, p->woken, p->woken_count * sizeof p->woken[0]);
    return b;
}

static void send_beats(struct loop *l)
{
    struct engine *e = l->e;
    ASSERT(l->index == 0);
    engine__loop_check_space(l);
    engine__clock_check(l);
    if (!makes_progress(l)) {
        return;
    }
    pthread_mutex_lock(&e->lock);
    size_t it = 0, n = 0;
    struct beat_peer *p;
    struct host_beat *beats = xmalloc((e->beat_peers.count + 1) * sizeof *beats);
    while ((p = map_next(&e->beat_peers, &it, NULL)) != NULL) {
        beats[n++] = next_beat(e, p);
    }
    pthread_mutex_unlock(&e->lock);
    for (size_t i = 0; i < n; i++) {
        engine__send(e, &beats[i].host, ENGINE_LANE_CONTROL, codec_beat_frame(&beats[i]));
    }
    free(beats);
}

/* ---- Receiving: on the thread of engine_deliver ---------------------------------------------- */

void engine__heartbeats_deliver(struct engine *e, const struct uuid *host, uint64_t incarnation,
                                const struct host_beat *heard)
{
    bool is_new, changed = false;
    if (e->o.sleep_after_ms == ENGINE_SLEEP_NEVER) {
        return;
    }
    pthread_mutex_lock(&e->lock);
    struct beat_peer *p = peer_of(e, host, &is_new);
    if (incarnation > p->incarnation) {
        p->incarnation = incarnation;
        p->heard = 0;
    }
    if (incarnation == p->incarnation && heard->number > p->heard) {
        p->heard = heard->number;
        changed = p->low_space != heard->low_space || p->critical_space != heard->critical_space;
        p->low_space = heard->low_space;
        p->critical_space = heard->critical_space;
        engine__clock_heard(e, p, heard);
    }
    /* Numbers of an earlier life of ours cannot reach the ones of this: they begin at 0. */
    if (heard->heard >= p->woken_from && heard->heard <= p->sent) {
        p->woken_count = 0;
        p->all_woken = false;
    }
    pthread_mutex_unlock(&e->lock);
    if (changed && e->o.observer.fitness_changed != NULL && !atomic_load(&e->crashed)) {
        e->o.observer.fitness_changed(e->o.observer.ctx);
    }
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        struct host_beat *b = xmalloc(sizeof *b);
        *b = *heard;
        b->msg = (struct worker_msg){.kind = MSG_BEAT};
        b->host = *host;
        b->incarnation = incarnation;
        engine__loop_post(e->loops[i], &b->msg);
    }
}

bool engine_peer_refuses(struct engine *e, const struct uuid *host, uint64_t shard_id)
{
    uint64_t key;
    pthread_mutex_lock(&e->lock);
    const struct beat_peer *p = find_peer(e, host, &key);
    bool refuses = p != NULL && (shard_id == 0 ? p->critical_space : p->low_space);
    pthread_mutex_unlock(&e->lock);
    return refuses;
}

/* ---- On a loop ------------------------------------------------------------------------------- */

static void arm(struct loop *l, uint64_t due_ms)
{
    if (due_ms < l->beat_due_ms) {
        l->beat_due_ms = due_ms;
    }
}

static struct peer_host *leader_host(struct loop *l, const struct replica *r)
{
    struct uuid host;
    struct raft_status s;
    replica_status(r, &s);
    if (s.leader == 0 || s.leader == r->replica_id || !engine__replica_host(r, s.leader, &host)) {
        return NULL;
    }
    return engine__loop_host(l, &host);
}

void engine__heartbeats_wake(struct loop *l, struct replica *r)
{
    if (!raft_asleep(r->core)) {
        return;
    }
    const struct peer_host *h = leader_host(l, r);
    raft_wake(r->core, h != NULL ? h->beat_ms : l->now_ms, l->now_ms);
    engine__loop_dirty(l, r);
}

/* Tell the core of a new leader which members' hosts are alive. */
void engine__heartbeats_show_leader(struct loop *l, struct replica *r)
{
    const struct raft_config *c = raft_config(r->core);
    for (uint32_t i = 0; i < c->member_count; i++) {
        struct uuid host;
        if (c->members[i].replica_id == r->replica_id) {
            continue;
        }
        memcpy(host.bytes, c->members[i].host, sizeof host.bytes);
        raft_absent(r->core, c->members[i].replica_id, !engine__loop_host(l, &host)->alive,
                    l->now_ms);
    }
}

/* A host came up or went silent. Followers of leaders there wake; leaders here learn whether their
 * members there are absent. */
static void host_changed(struct loop *l, const struct peer_host *h)
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
            if (memcmp(m->host, h->host.bytes, sizeof m->host) != 0 ||
                m->replica_id == r->replica_id) {
                continue;
            }
            if (!r->led && replica_leader(r) != m->replica_id) {
                continue; /* a follower of another leader: it may be asleep, and stays so */
            }
            raft_absent(r->core, m->replica_id, !h->alive, l->now_ms);
            engine__heartbeats_wake(l, r);
            engine__loop_dirty(l, r);
        }
    }
}

void engine__heartbeats_incarnation(struct loop *l, struct peer_host *h, uint64_t incarnation)
{
    if (incarnation <= h->incarnation) {
        return;
    }
    h->incarnation = incarnation;
    h->beat_number = 0;
    if (h->alive) {
        h->alive = false;
        host_changed(l, h);
    }
}

static void wake_named(struct loop *l, const struct peer_host *h, const struct host_beat *b)
{
    for (size_t i = 0; i < b->woken_count; i++) {
        struct replica *r = map_get(&l->by_shard, b->woken[i]);
        if (r != NULL && r->state == GROUP_RUNNING && leader_host(l, r) == h) {
            engine__heartbeats_wake(l, r);
        }
    }
}

void engine__heartbeats_heard(struct loop *l, struct host_beat *b)
{
    struct peer_host *h = engine__loop_host(l, &b->host);
    ASSERT(b->number != 0 || l->index == 0); /* only loop 0 is asked to begin */
    engine__heartbeats_incarnation(l, h, b->incarnation);
    if (b->number == 0) {
        arm(l, l->now_ms);
    } else if (b->incarnation == h->incarnation && b->number > h->beat_number) {
        bool returned = !h->alive;
        h->beat_number = b->number;
        h->beat_ms = l->now_ms;
        h->beat_ns = l->now_ns;
        h->unfit = b->low_space || b->wrong_clock;
        h->alive = true;
        if (returned || b->all_woken) {
            host_changed(l, h);
        } else {
            wake_named(l, h, b);
        }
        arm(l, l->now_ms + l->e->o.election_timeout_ms);
    }
    free(b);
}

bool engine__heartbeats_accepts_sleep(struct loop *l, const struct uuid *host,
                                      const struct raft_message *m)
{
    const struct peer_host *h = engine__loop_host(l, host);
    ASSERT(m->kind == RAFT_MSG_SLEEP);
    return h->alive && m->incarnation_from == h->incarnation && m->hint >= h->beat_number;
}

uint64_t engine__heartbeats_leader_heard_ns(struct loop *l, const struct replica *r)
{
    const struct peer_host *h = raft_asleep(r->core) ? leader_host(l, r) : NULL;
    return h != NULL && h->beat_ns > r->leader_heard_ns ? h->beat_ns : r->leader_heard_ns;
}

/* Groups that relied on this host's beats wake here. Our next beats wake the groups there too: that
 * host may not notice that its beats were lost. */
static void host_silent(struct loop *l, struct peer_host *h)
{
    bool is_new;
    ASSERT(h->alive);
    h->alive = false;
    if (!CANARY(wake_up_lost)) {
        host_changed(l, h);
    }
    pthread_mutex_lock(&l->e->lock);
    struct beat_peer *p = peer_of(l->e, &h->host, &is_new);
    p->all_woken = true;
    p->woken_from = p->sent + 1;
    pthread_mutex_unlock(&l->e->lock);
}

void engine__heartbeats_run(struct loop *l)
{
    uint64_t beat = l->e->o.heartbeat_ms;
    if (l->now_ms < l->beat_due_ms) {
        return;
    }
    l->beat_due_ms = NEVER;
    if (l->index == 0) {
        send_beats(l);
        arm(l, (l->now_ms / beat + 1) * beat); /* in the same turn as the heartbeats of groups */
    }
    size_t it = 0;
    struct peer_host *h;
    while ((h = map_next(&l->hosts, &it, NULL)) != NULL) {
        uint64_t silent_ms = h->beat_ms + l->e->o.election_timeout_ms;
        if (h->alive && l->now_ms >= silent_ms) {
            host_silent(l, h);
        } else if (h->alive) {
            arm(l, silent_ms);
        }
    }
}
