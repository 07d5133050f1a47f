/* Calls that wait for keys: see etcd_wait.h. */
#include "agent/services/etcd_wait.h"

#include <string.h>

#include "base/assert.h"
#include "proto/decode.h"

static void wait_release(struct ref *refs)
{
    struct etcd_wait *w = CONTAINER_OF(refs, struct etcd_wait, refs);

    ASSERT(w->stream == NULL);
    if (atomic_load(&w->returned)) { /* the worker has stopped */
        bufslice_unref(w->route.route.result);
    }
    w->kind->release(w);
}

static void wait_unref(struct etcd_wait *w)
{
    ref_drop(&w->refs, wait_release);
}

static void call_freed(void *data)
{
    wait_unref(data);
}

void services__etcd_wait_wake(struct etcd_wait *w)
{
    if (atomic_exchange(&w->posted, true)) {
        return;
    }
    ref_take(&w->refs);
    w->msg.kind = WATCH_WAIT;
    if (!worker_post_internal(w->set->worker, &w->msg)) {
        wait_unref(w);
    }
}

static void cancelled(void *ctx)
{
    struct etcd_wait *w = ctx;

    atomic_store(&w->cancelled, true);
    services__etcd_wait_wake(w);
}

bool services__etcd_wait_begin(struct etcd_wait *w, struct services *s, struct bus_rpc *rpc,
                               const struct etcd_wait_kind *kind, size_t bytes)
{
    struct thole_status st;

    w->set = s->etcd_watches;
    w->rpc = rpc;
    w->kind = kind;
    ref_init(&w->refs, 2);
    if (!bus_rpc_hold(rpc, &w->held, bytes)) {
        (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                         "etcdserver: too many requests");
        services__etcd_fail(rpc, &st);
        kind->release(w);
        return false;
    }
    bus_rpc_set_data(rpc, w, call_freed);
    bus_rpc_on_cancel(rpc, cancelled, w);
    services__etcd_wait_wake(w);
    return true;
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void route_done(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct etcd_wait *w = CONTAINER_OF(r, struct etcd_wait, route);

    w->status = *st;
    w->answer = answer;
    atomic_store(&w->returned, true);
    services__etcd_wait_wake(w);
}

void services__etcd_wait_send(struct etcd_wait *w, enum router_kind kind, uint32_t field,
                              const void *request, const upb_MiniTable *table)
{
    upb_Arena *arena = upb_Arena_New();
    struct bufslice bytes = services__encode(request, table, arena);

    ASSERT(!w->over && !w->sending);
    w->sending = true;
    w->route = (struct etcd_route){.s = w->set->s, .done = route_done};
    services__etcd_caller(&w->route, w->rpc);
    w->route.route.deadline_ns = w->set->now_ns + SERVICES_DEADLINE_DEFAULT_MS * NS_PER_MS;
    services__etcd_send(&w->route, kind, field, bytes.bytes);
    bufslice_unref(bytes);
    upb_Arena_Free(arena);
}

bool services__etcd_wait_may_repeat(const struct thole_status *st)
{
    return (st->code == THOLE_UNAVAILABLE && st->reason != THOLE_REASON_STOPPED) ||
           st->code == THOLE_UNKNOWN || st->code == THOLE_DEADLINE_EXCEEDED ||
           st->reason == THOLE_REASON_QUEUE_FULL;
}

/* ---- Watches --------------------------------------------------------------------------------- */

static bool sink_response(void *ctx, struct slice response)
{
    struct etcd_wait *w = ctx;
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_WatchResponse *m =
        PROTO_DECODE_ALIAS(etcdserverpb_WatchResponse, response, arena);
    bool taken = true;

    if (m != NULL && w->watches && etcdserverpb_WatchResponse_watch_id(m) >= w->watch_id) {
        if (etcdserverpb_WatchResponse_canceled(m)) { /* compacted: what is there now counts */
            w->changed = true;
        } else if (!w->changed) {
            taken = w->kind->watched(w, m);
        }
        if (w->changed) {
            services__etcd_wait_wake(w);
        }
    }
    upb_Arena_Free(arena);
    return taken;
}

static void sink_failed(void *ctx, const struct thole_status *st)
{
    struct etcd_wait *w = ctx;

    w->stream = NULL;
    w->watches = false;
    w->stream_status = *st;
    services__etcd_wait_wake(w);
}

static const struct etcd_sink sink = {.response = sink_response, .failed = sink_failed};

static enum thole_code watch_one(struct etcd_wait *w, const struct etcd_wait_watch *what,
                                 struct slice key, struct slice end, int64_t id)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_WatchCreateRequest *m = etcdserverpb_WatchCreateRequest_new(arena);

    etcdserverpb_WatchCreateRequest_set_key(
        m, upb_StringView_FromDataAndSize((const char *)key.data, key.size));
    etcdserverpb_WatchCreateRequest_set_range_end(
        m, upb_StringView_FromDataAndSize((const char *)end.data, end.size));
    etcdserverpb_WatchCreateRequest_set_watch_id(m, id);
    etcdserverpb_WatchCreateRequest_set_start_revision(m, what->revision + 1);
    if (what->no_put) {
        etcdserverpb_WatchCreateRequest_add_filters(m, etcdserverpb_WatchCreateRequest_NOPUT,
                                                    arena);
    }
    enum thole_code code =
        services__etcd_stream_watch(w->stream, m, &w->route, what->revision, &w->stream_status);
    upb_Arena_Free(arena);
    return code;
}

void services__etcd_wait_watch(struct etcd_wait *w, const struct etcd_wait_watch *what)
{
    ASSERT(!w->watches);
    if (w->stream == NULL) {
        w->stream = services__etcd_stream_new(w->set, w->rpc, &sink, w);
    }
    w->watch_id += 2;
    w->changed = false;
    w->watches = true;
    if (watch_one(w, what, what->key, what->end, w->watch_id) != THOLE_OK ||
        (what->second.size > 0 &&
         watch_one(w, what, what->second, (struct slice){0}, w->watch_id + 1) != THOLE_OK)) {
        services__etcd_wait_wake(w);
    }
}

void services__etcd_wait_unwatch(struct etcd_wait *w)
{
    for (int64_t id = w->watch_id; w->watches && id <= w->watch_id + 1; id++) {
        struct etcd_watcher *watcher = map_get(&w->stream->watchers, (uint64_t)id);
        if (watcher != NULL) { /* one that was compacted is gone already */
            services__etcd_watcher_free(watcher);
        }
    }
    if (w->watches) {
        services__etcd_stream_forget(w->stream);
    }
    w->watches = false;
}

/* ---- The end --------------------------------------------------------------------------------- */

static void end(struct etcd_wait *w)
{
    ASSERT(!w->over && !w->sending);
    services__etcd_wait_unwatch(w);
    if (w->stream != NULL) {
        services__etcd_stream_end(w->stream);
        w->stream = NULL;
    }
    if (w->later) {
        w->later = false;
        TAILQ_REMOVE(&w->set->later, w, later_link);
    }
    w->over = true;
    (void)bus_rpc_hold(w->rpc, &w->held, 0);
}

void services__etcd_wait_reply(struct etcd_wait *w, struct bufslice message)
{
    end(w);
    bus_rpc_reply(w->rpc, message);
    wait_unref(w);
}

void services__etcd_wait_fail(struct etcd_wait *w, const struct thole_status *st)
{
    end(w);
    services__etcd_fail(w->rpc, st);
    wait_unref(w);
}

/* ---- Turns ----------------------------------------------------------------------------------- */

static void turn(struct etcd_wait *w)
{
    if (w->over) {
        return;
    }
    if (w->sending && !atomic_load(&w->returned)) {
        return;
    }
    if (w->sending) {
        struct bufslice result = w->route.route.result;
        atomic_store(&w->returned, false);
        w->sending = false;
        w->kind->answered(w);
        bufslice_unref(result);
    }
    if (!w->over && !w->sending) {
        w->kind->turn(w);
    }
}

void services__etcd_wait_woken(struct worker_msg *m)
{
    struct etcd_wait *w = CONTAINER_OF(m, struct etcd_wait, msg);

    atomic_store(&w->posted, false);
    turn(w);
    wait_unref(w);
}

void services__etcd_wait_later(struct etcd_wait *w)
{
    if (!w->later) {
        w->later = true;
        TAILQ_INSERT_TAIL(&w->set->later, w, later_link);
    }
}

void services__etcd_wait_look(struct etcd_watches *set)
{
    struct etcd_wait *w;
    struct etcd_wait_list due = TAILQ_HEAD_INITIALIZER(due);

    TAILQ_CONCAT(&due, &set->later, later_link);
    while ((w = TAILQ_FIRST(&due)) != NULL) {
        TAILQ_REMOVE(&due, w, later_link);
        w->later = false;
        services__etcd_wait_wake(w);
    }
}
