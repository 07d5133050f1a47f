/* Watches: events of a local replica, or of another host's over an exchange.
 *
 * Events arrive on an applier or bus thread, bookmarks on the watches' worker; the watch's lock
 * orders them. Every watch ends on the worker: it stops the source, then calls `ended` once, as the
 * last callback. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/core/wiring.h"
#include "agent/routing/forward_codec.h"
#include "agent/routing/router.h"
#include "agent/routing/router_cache.h"
#include "agent/routing/router_watches.h"
#include "base/assert.h"
#include "base/map.h"
#include "base/ref.h"
#include "base/worker.h"

#define BOOKMARK_NS (2 * NS_PER_S)

enum { MSG_START, MSG_END };

struct watch {
    struct worker_msg start_msg, end_msg;
    struct router_watches *set;
    uint64_t id, shard_id;
    uint32_t hops;
    struct agent_watcher w;
    struct ref refs;     /* table, source, pending messages */
    _Atomic bool ending; /* end_msg was posted */
    struct thole_status why;

    pthread_mutex_t lock;
    bool ended, begun;
    uint64_t local_id; /* the engine's */
    bool local_ref;    /* the engine holds a reference until local_ended */
    uint64_t remote_id;
    bool remote_open;
    struct uuid host;
    uint64_t bookmarked; /* index of the last bookmark; never decreases */
};

struct router_watches {
    struct agent *agent;
    struct worker *worker;
    pthread_mutex_t lock;
    struct map table;
    uint64_t next_id;
    uint64_t next_bookmark_ns; /* the worker's */
    bool stopping;
};

static void watch_release(struct ref *refs)
{
    struct watch *w = CONTAINER_OF(refs, struct watch, refs);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static void watch_unref(struct watch *w)
{
    ref_drop(&w->refs, watch_release);
}

/* Let the worker end the watch; the first reason counts. */
static void watch_end(struct watch *w, const struct thole_status *st)
{
    bool expected = false;
    if (!atomic_compare_exchange_strong(&w->ending, &expected, true)) {
        return;
    }
    w->why = *st;
    w->end_msg.kind = MSG_END;
    ref_take(&w->refs);
    if (!worker_post_internal(w->set->worker, &w->end_msg)) {
        watch_unref(w); /* router_watches_stop ends it */
    }
}

/* ---- Sources --------------------------------------------------------------------------------- */

static void deliver(struct watch *w, uint64_t index, struct slice key, struct slice event,
                    bool bookmark)
{
    const struct slice none = {0};
    pthread_mutex_lock(&w->lock);
    if (!w->ended) {
        if (!w->begun && !bookmark) {
            w->w.event(w->w.ctx, index > 0 ? index - 1 : 0, none, none, true);
        }
        w->begun = true;
        if (bookmark) { /* sent without events, too: it shows that the watch is alive */
            w->bookmarked = index = index > w->bookmarked ? index : w->bookmarked;
        }
        w->w.event(w->w.ctx, index, key, event, bookmark);
    }
    pthread_mutex_unlock(&w->lock);
}

static void local_event(void *ctx, uint64_t index, struct slice key, struct slice event)
{
    deliver(ctx, index, key, event, false);
}

static void local_release(struct watch *w)
{
    pthread_mutex_lock(&w->lock);
    bool had = w->local_ref;
    w->local_ref = false;
    pthread_mutex_unlock(&w->lock);
    if (had) {
        watch_unref(w);
    }
}

static void local_ended(void *ctx, const struct thole_status *st)
{
    struct watch *w = ctx;
    watch_end(w, st);
    local_release(w);
}

static bool start_local(struct watch *w)
{
    uint64_t from = 0;
    const struct engine_watcher ew = {.ctx = w, .event = local_event, .ended = local_ended};
    struct engine_replica_status s;
    if (!engine_shard_status(w->set->agent->engine, w->shard_id, &s) ||
        !router_is_serving_replica(&s)) {
        return false;
    }
    ref_take(&w->refs);
    w->local_ref = true;
    uint64_t id = engine_watch(w->set->agent->engine, w->shard_id, &ew, &from);
    if (id == 0) {
        local_release(w);
        return false;
    }
    pthread_mutex_lock(&w->lock);
    w->local_id = id;
    bool first = !w->begun;
    pthread_mutex_unlock(&w->lock);
    if (first) {
        deliver(w, from, (struct slice){0}, (struct slice){0}, true);
    }
    return true;
}

void router_watch_end_status(struct thole_status *st)
{
    if (st->code == THOLE_CANCELLED) {
        st->reason = THOLE_REASON_NONE;
        return;
    }
    if (st->code != THOLE_OK && st->reason != THOLE_REASON_OUTCOME_UNKNOWN &&
        st->reason != THOLE_REASON_UNREACHABLE) {
        return;
    }
    thole_status_set(st, THOLE_UNAVAILABLE, THOLE_REASON_PEER_UNREACHABLE, __FILE__, __LINE__,
                     "the host that served the watch is unreachable; watch again");
}

static void remote_answer(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    struct watch *w = ctx;
    struct forward_reply f = {0};
    struct thole_status why = *st;
    if (st->code == THOLE_OK && !router_decode_reply(body.bytes, &f)) {
        thole_status_set(&why, THOLE_INTERNAL, THOLE_REASON_NONE, __FILE__, __LINE__,
                         "malformed event from another host");
    }
    if (more && why.code == THOLE_OK) {
        deliver(w, f.index, f.key, f.result, f.bookmark);
        return;
    }
    if (why.code == THOLE_OK) {
        why = f.failure;
    }
    router_watch_end_status(&why);
    watch_end(w, &why);
    if (!more) {
        pthread_mutex_lock(&w->lock);
        w->remote_open = false;
        pthread_mutex_unlock(&w->lock);
        watch_unref(w);
    }
}

static bool start_remote(struct watch *w)
{
    struct agent *a = w->set->agent;
    const struct router_options o = agent__wiring_router(a);
    struct route_hint h;
    struct uuid host = {{0}};
    if (w->hops >= ROUTER_HOPS_MAX) {
        return false;
    }
    router_cache_get(router_get_cache(a->router), w->shard_id, &h);
    if (!uuid_is_nil(&h.leader_host) && !uuid_equal(&h.leader_host, agent_host_id(a)) &&
        bus_peer_up(a->bus, &h.leader_host)) {
        host = h.leader_host;
    } else if (!o.pick_host(o.ctx, w->shard_id, (uint32_t)w->id, &host, &host)) {
        return false;
    }
    const struct router_request r = {.shard_id = w->shard_id, .hops = w->hops + 1};
    pthread_mutex_lock(&w->lock);
    w->remote_open = true;
    w->host = host;
    pthread_mutex_unlock(&w->lock);
    ref_take(&w->refs);
    struct forward_space space;
    uint64_t id = bus_exchange(a->bus, &host, METHOD_WATCH, router_encode_forward(&r, NULL, &space),
                               0, remote_answer, w);
    pthread_mutex_lock(&w->lock);
    w->remote_id = id;
    pthread_mutex_unlock(&w->lock);
    return true;
}

/* ---- The worker ------------------------------------------------------------------------------ */

static void start(struct watch *w)
{
    ASSERT(worker_is_current(w->set->worker));
    if (start_local(w) || start_remote(w)) {
        return;
    }
    struct thole_status st = {0};
    const struct router_options o = agent__wiring_router(w->set->agent);
    if (agent_has_view(w->set->agent, &st) && o.shard_exists(o.ctx, w->shard_id)) {
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER, __FILE__, __LINE__,
                         "no replica of shard %" PRIu64 " is reachable", w->shard_id);
    } else if (st.code == THOLE_OK) {
        thole_status_set(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD, __FILE__, __LINE__,
                         "shard %" PRIu64 " not found", w->shard_id);
    }
    watch_end(w, &st);
}

static void finish(struct watch *w)
{
    struct agent *a = w->set->agent;
    pthread_mutex_lock(&w->lock);
    uint64_t local = w->local_id, remote = w->remote_open ? w->remote_id : 0;
    bool already = w->ended;
    w->ended = true;
    w->local_id = 0;
    pthread_mutex_unlock(&w->lock);
    if (already) {
        return;
    }
    if (local != 0) {
        engine_unwatch(a->engine, local); /* the engine makes no callback after this */
        local_release(w);
    }
    if (remote != 0) {
        bus_exchange_cancel(a->bus, &w->host, remote);
    }
    ASSERT(atomic_load(&w->ending)); /* so `why` is set, and does not change */
    w->w.ended(w->w.ctx, &w->why);
    pthread_mutex_lock(&w->set->lock);
    bool there = map_remove(&w->set->table, w->id) != NULL;
    pthread_mutex_unlock(&w->set->lock);
    if (there) {
        watch_unref(w);
    }
}

/* All watches, each with a reference. */
static struct watch **collect(struct router_watches *ws, size_t *ret_n)
{
    pthread_mutex_lock(&ws->lock);
    struct watch **all = xcalloc(ws->table.count + 1, sizeof(struct watch *));
    size_t n = 0;
    struct watch *w;
    for (size_t it = 0; (w = map_next(&ws->table, &it, NULL)) != NULL;) {
        ref_take(&w->refs);
        all[n++] = w;
    }
    pthread_mutex_unlock(&ws->lock);
    *ret_n = n;
    return all;
}

/* A bookmark says that no event up to the applied index was missed. A replica that may miss events
 * ends the watch instead. */
static void bookmark(struct watch *w)
{
    struct engine_replica_status s;
    struct thole_status st = {0};
    pthread_mutex_lock(&w->lock);
    bool local = w->local_id != 0;
    pthread_mutex_unlock(&w->lock);
    if (!local) {
        return;
    }
    if (engine_shard_status(w->set->agent->engine, w->shard_id, &s) &&
        router_is_serving_replica(&s)) {
        deliver(w, s.applied, (struct slice){0}, (struct slice){0}, true);
        return;
    }
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY, __FILE__, __LINE__,
                     "the watched replica no longer follows its group; watch again");
    watch_end(w, &st);
}

static void bookmarks(struct router_watches *ws)
{
    size_t n;
    struct watch **all = collect(ws, &n);
    for (size_t i = 0; i < n; i++) {
        bookmark(all[i]);
        watch_unref(all[i]);
    }
    free(all);
}

static uint64_t watches_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct router_watches *ws = ctx;
    for (struct worker_msg *m; (m = msgq_pop(batch)) != NULL;) {
        struct watch *w = m->kind == MSG_START ? CONTAINER_OF(m, struct watch, start_msg)
                                               : CONTAINER_OF(m, struct watch, end_msg);
        if (m->kind == MSG_START) {
            start(w);
        } else {
            finish(w);
        }
        watch_unref(w);
    }
    pthread_mutex_lock(&ws->lock);
    size_t count = ws->table.count;
    pthread_mutex_unlock(&ws->lock);
    if (count == 0) {
        return CLOCK_NEVER;
    }
    if (now_ns >= ws->next_bookmark_ns) {
        bookmarks(ws);
        ws->next_bookmark_ns = now_ns + BOOKMARK_NS;
    }
    return ws->next_bookmark_ns;
}

/* ---- Interface ------------------------------------------------------------------------------- */

struct router_watches *router_watches_new(struct agent *a)
{
    struct router_watches *ws = xcalloc(1, sizeof *ws);
    ws->agent = a;
    pthread_mutex_init(&ws->lock, NULL);
    ws->worker = worker_new(a->executor, "watches", 1u << 16, watches_turn, ws);
    return ws;
}

uint64_t router_watches_add(struct router_watches *ws, uint64_t shard_id, uint32_t hops,
                            const struct agent_watcher *watcher)
{
    struct watch *w = xcalloc(1, sizeof *w);
    w->set = ws;
    w->shard_id = shard_id;
    w->hops = hops;
    w->w = *watcher;
    w->start_msg.kind = MSG_START;
    pthread_mutex_init(&w->lock, NULL);
    ref_init(&w->refs, 2); /* table, start_msg */
    pthread_mutex_lock(&ws->lock);
    uint64_t id = w->id = ++ws->next_id;
    map_put(&ws->table, id, w);
    pthread_mutex_unlock(&ws->lock);
    if (!worker_post_internal(ws->worker, &w->start_msg)) {
        thole_status_set(&w->why, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "the host is stopping");
        atomic_store(&w->ending, true);
        finish(w);
        watch_unref(w);
    }
    return id;
}

void router_watches_remove(struct router_watches *ws, uint64_t id)
{
    pthread_mutex_lock(&ws->lock);
    struct watch *w = map_get(&ws->table, id);
    if (w != NULL) {
        ref_take(&w->refs);
    }
    pthread_mutex_unlock(&ws->lock);
    if (w == NULL) {
        return;
    }
    struct thole_status st = {0};
    thole_status_set(&st, THOLE_CANCELLED, THOLE_REASON_NONE, __FILE__, __LINE__, "unwatched");
    watch_end(w, &st);
    watch_unref(w);
}

void router_watches_stop(struct router_watches *ws)
{
    if (ws == NULL) {
        return;
    }
    worker_stop(ws->worker);
    size_t n;
    struct watch **all = collect(ws, &n);
    for (size_t i = 0; i < n; i++) {
        if (!atomic_exchange(&all[i]->ending, true)) {
            thole_status_set(&all[i]->why, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__,
                             __LINE__, "the host is stopping");
        }
        finish(all[i]);
        watch_unref(all[i]);
    }
    free(all);
}

void router_watches_free(struct router_watches *ws)
{
    if (ws == NULL) {
        return;
    }
    worker_free(ws->worker);
    map_deinit(&ws->table);
    pthread_mutex_destroy(&ws->lock);
    free(ws);
}

uint64_t agent_watch(struct agent *a, uint64_t shard_id, const struct agent_watcher *w)
{
    return router_watches_add(a->watches, shard_id, 0, w);
}

void agent_unwatch(struct agent *a, uint64_t id)
{
    router_watches_remove(a->watches, id);
}
