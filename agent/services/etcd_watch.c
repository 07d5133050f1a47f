/* etcdserverpb.Watch: the streams of clients. Requests of a stream are answered in order. Before a
 * watcher is created, the store is asked for its revision and whether the user may have the watcher
 * (linearizable), once for all requests that have arrived by then: a watcher without a start gets
 * what is written after that. */
#include "agent/services/etcd_watch.h"

#include <stdlib.h>
#include <string.h>

#include "agent/services/etcd_wait.h"
#include "base/assert.h"
#include "proto/decode.h"

#define WAITING_BYTES_MAX ((size_t)2 * MIB) /* requests of one stream */
#define REQUEST_BYTES 64                    /* what a request takes beside its bytes */
#define LOOK_NS (NS_PER_S / 4)

static void go_on(struct etcd_stream *t);

static void stream_release(struct ref *refs)
{
    struct etcd_stream *t = CONTAINER_OF(refs, struct etcd_stream, refs);

    ASSERT(t->watchers.count == 0);
    map_deinit(&t->watchers);
    free(t);
}

static void stream_unref(struct etcd_stream *t)
{
    ref_drop(&t->refs, stream_release);
}

static void call_freed(void *data)
{
    stream_unref(data);
}

/* ---- Sending --------------------------------------------------------------------------------- */

void services__etcd_response(const struct etcd_stream *t, int64_t revision, int64_t watch_id,
                             struct bytes *out)
{
    struct bytes header = {0};

    ASSERT(t->feed != NULL);
    services__wire_varint(&header, 1, t->feed->cluster_id);
    services__wire_varint(&header, 2, t->feed->member_id);
    services__wire_varint(&header, 3, (uint64_t)revision);
    services__wire_varint(&header, 4, t->feed->term);
    services__wire_bytes(out, RESPONSE_HEADER, bytes_slice(&header));
    services__wire_varint(out, RESPONSE_WATCH_ID, (uint64_t)watch_id);
    bytes_deinit(&header);
}

static void stall(struct etcd_stream *t)
{
    if (!t->stalled) {
        t->stalled = true;
        TAILQ_INSERT_TAIL(&t->set->stalled, t, stalled_link);
    }
}

static void unstall(struct etcd_stream *t)
{
    if (t->stalled) {
        t->stalled = false;
        TAILQ_REMOVE(&t->set->stalled, t, stalled_link);
    }
}

bool services__etcd_stream_send(struct etcd_stream *t, const struct etcd_watcher *w,
                                struct bytes *message)
{
    bool sent = false;

    if (!t->stalled && (t->fragmenting == NULL || t->fragmenting == w)) {
        if (t->sink != NULL) {
            sent = t->sink->response(t->sink_ctx, bytes_slice(message));
        } else {
            struct buf *b = buf_copy(message->data, message->size);
            sent = bus_rpc_send(t->rpc, (struct bufslice){b, slice_of(b->data, b->size)});
        }
        if (!sent) {
            stall(t);
        }
    }
    bytes_deinit(message);
    return sent;
}

static void resume(struct etcd_stream *t)
{
    struct etcd_watcher *w;

    unstall(t);
    while ((w = TAILQ_FIRST(&t->blocked)) != NULL) {
        services__etcd_watcher_leave(w);
        services__etcd_watcher_enter(w, WATCHER_QUEUED);
    }
}

void services__etcd_stream_progress(struct etcd_stream *t)
{
    struct bytes message = {0};

    if (!t->progress_wanted || t->unsynced > 0) {
        return;
    }
    services__etcd_response(t, services__etcd_feed_sent(t->feed), -1, &message);
    t->progress_wanted = !services__etcd_stream_send(t, NULL, &message);
}

bool services__etcd_stream_hold(struct etcd_stream *t, size_t bytes)
{
    bool held = bus_rpc_hold(t->rpc, &t->held, t->memory + bytes);

    t->memory += held ? bytes : 0;
    return held;
}

void services__etcd_stream_give(struct etcd_stream *t, size_t bytes)
{
    ASSERT(t->memory >= bytes);
    t->memory -= bytes;
    (void)bus_rpc_hold(t->rpc, &t->held, t->memory);
}

/* ---- The end --------------------------------------------------------------------------------- */

static void drop_requests(struct etcd_stream *t)
{
    struct etcd_request *q;

    while ((q = TAILQ_FIRST(&t->requests)) != NULL) {
        TAILQ_REMOVE(&t->requests, q, link);
        atomic_fetch_sub(&t->waiting_bytes, q->size + REQUEST_BYTES);
        services__etcd_stream_give(t, q->size + REQUEST_BYTES);
        free(q);
    }
}

static void drop_watchers(struct etcd_stream *t)
{
    struct map watchers = t->watchers;
    struct etcd_watcher *w;

    t->watchers = (struct map){0};
    for (size_t it = 0; (w = map_next(&watchers, &it, NULL)) != NULL;) {
        services__etcd_watcher_free(w);
    }
    map_deinit(&watchers);
}

/* `st` NULL: the client, or the call that owns it, has ended it. */
static void finish(struct etcd_stream *t, const struct thole_status *st)
{
    if (t->over) {
        return;
    }
    t->over = true;
    drop_requests(t);
    drop_watchers(t);
    unstall(t);
    if (t->feed != NULL) {
        services__etcd_feed_part(t);
    }
    if (t->sink != NULL && st != NULL) {
        t->sink->failed(t->sink_ctx, st);
    } else if (t->sink == NULL && st != NULL) {
        services__etcd_fail(t->rpc, st);
    } else if (t->sink == NULL) {
        bus_rpc_reply(t->rpc, (struct bufslice){NULL, {NULL, 0}});
    }
    stream_unref(t);
}

void services__etcd_stream_fail(struct etcd_stream *t, const struct thole_status *st)
{
    finish(t, st);
}

/* ---- The store's revision, and rights -------------------------------------------------------- */

static void read_done(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct etcd_stream *t = CONTAINER_OF(r, struct etcd_stream, read);

    (void)answer;
    t->read_status = *st;
    t->read_msg.kind = WATCH_READ;
    if (!worker_post_internal(t->set->worker, &t->read_msg)) {
        bufslice_unref(r->route.result);
        stream_unref(t);
    }
}

static void start_read(struct etcd_stream *t)
{
    struct bytes request = {0};

    t->reading = true;
    t->read_number = services__etcd_rights_encode(t, &request);
    ref_take(&t->refs);
    t->read = (struct etcd_route){.s = t->set->s, .done = read_done};
    services__etcd_caller(&t->read, t->rpc);
    t->read.route.deadline_ns = t->set->now_ns + SERVICES_DEADLINE_DEFAULT_MS * NS_PER_MS;
    services__etcd_send(&t->read, ROUTER_QUERY, thole_kv_v1_Query_op_permit, bytes_slice(&request));
    bytes_deinit(&request);
}

/* Takes the message's reference over. */
static void read_answered(struct etcd_stream *t)
{
    const struct router_request *r = &t->read.route;
    struct thole_status st = t->read_status;

    t->reading = false;
    if (st.code == THOLE_OK && t->feed != NULL && t->feed->shard_id != r->shard_id) {
        (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                         "the shard was deleted, and another one has its name");
    }
    if (!t->over && st.code == THOLE_OK) {
        upb_Arena *arena = upb_Arena_New();
        const thole_kv_v1_PermitResponse *m =
            PROTO_DECODE(thole_kv_v1_PermitResponse, r->result.bytes, arena);
        if (m == NULL || !services__etcd_rights_learn(t, m)) {
            (void)THOLE_FAIL(&st, THOLE_INTERNAL, THOLE_REASON_NONE,
                             "the machine's answer does not decode");
        } else {
            upb_StringView ticket = thole_kv_v1_PermitResponse_ticket(m);
            services__etcd_feed_join(t, r->shard_id, slice_of(ticket.data, ticket.size));
            t->feed->term = r->term > t->feed->term ? r->term : t->feed->term;
        }
        upb_Arena_Free(arena);
    }
    bufslice_unref(r->result);
    if (st.code != THOLE_OK) {
        finish(t, &st);
    } else if (!t->over) {
        go_on(t);
    }
    stream_unref(t);
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void fail_with(struct etcd_stream *t, enum thole_code code, enum thole_reason reason,
                      const char *what)
{
    struct thole_status st;

    (void)THOLE_FAIL(&st, code, reason, "%s", what);
    finish(t, &st);
}

/* False: no room. */
static bool create(struct etcd_stream *t, const struct etcd_request *q,
                   const etcdserverpb_WatchCreateRequest *m)
{
    struct bytes message = {0};
    const char *why = services__etcd_rights_reason(q->code);
    int64_t current = t->known_revision;
    struct etcd_watcher *w =
        q->code == 0 ? services__etcd_watcher_new(t, m, q->rights, &why) : NULL;

    if (w == NULL && t->sink != NULL) {
        fail_with(t, q->code != 0 ? (enum thole_code)q->code : THOLE_RESOURCE_EXHAUSTED,
                  q->code != 0 ? THOLE_REASON_NONE : THOLE_REASON_QUEUE_FULL,
                  q->code != 0 ? services__etcd_rights_text(q->code) : why);
        return false;
    }
    services__etcd_response(t, current, w != NULL ? w->id : -1, &message);
    services__wire_varint(&message, RESPONSE_CREATED, true);
    if (w == NULL) {
        services__wire_varint(&message, RESPONSE_CANCELED, true);
        services__wire_bytes(&message, RESPONSE_CANCEL_REASON, slice_str(why));
    }
    if (!services__etcd_stream_send(t, NULL, &message)) {
        if (w != NULL) {
            t->next_id = etcdserverpb_WatchCreateRequest_watch_id(m) == 0 ? w->id : t->next_id;
            services__etcd_watcher_free(w);
        }
        return false;
    }
    if (w == NULL) {
        return true;
    }
    w->next = w->next == 0 ? current + 1 : w->next;
    services__etcd_feed_place(t->feed, w, current, t->known_index);
    return true;
}

static bool cancel(struct etcd_stream *t, int64_t id)
{
    struct bytes message = {0};
    struct etcd_watcher *w = map_get(&t->watchers, (uint64_t)id);

    if (w == NULL) {
        return true;
    }
    services__etcd_response(t, t->feed->current, id, &message);
    services__wire_varint(&message, RESPONSE_CANCELED, true);
    /* The rest of a revision that is divided is not wanted any more. */
    if (!services__etcd_stream_send(t, w, &message)) {
        return false;
    }
    if (t->fragmenting == w) {
        services__etcd_stream_resume(t);
    }
    services__etcd_watcher_free(w);
    return true;
}

/* False: not now. */
static bool answer(struct etcd_stream *t, const struct etcd_request *q,
                   const etcdserverpb_WatchRequest *m)
{
    switch (etcdserverpb_WatchRequest_request_union_case(m)) {
    case etcdserverpb_WatchRequest_request_union_create_request:
        return create(t, q, etcdserverpb_WatchRequest_create_request(m));
    case etcdserverpb_WatchRequest_request_union_cancel_request:
        return cancel(t, etcdserverpb_WatchCancelRequest_watch_id(
                             etcdserverpb_WatchRequest_cancel_request(m)));
    case etcdserverpb_WatchRequest_request_union_progress_request:
        t->progress_wanted = true;
        services__etcd_stream_progress(t);
        return true;
    case etcdserverpb_WatchRequest_request_union_NOT_SET:
    default: /* of a later version */
        return true;
    }
}

/* False: not now, or the stream is over. */
static bool take(struct etcd_stream *t, const struct etcd_request *q)
{
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_WatchRequest *m =
        PROTO_DECODE(etcdserverpb_WatchRequest, slice_of(q->bytes, q->size), arena);
    bool done = false;

    if (m == NULL) {
        fail_with(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "request: is malformed");
    } else if (t->feed == NULL ||
               (etcdserverpb_WatchRequest_has_create_request(m) && q->number > t->known_number)) {
        if (!t->reading) {
            start_read(t);
        }
    } else {
        done = answer(t, q, m);
    }
    upb_Arena_Free(arena);
    return done;
}

static void go_on(struct etcd_stream *t)
{
    struct etcd_request *q;

    services__etcd_stream_progress(t);
    while (!t->over && !t->stalled && (q = TAILQ_FIRST(&t->requests)) != NULL && take(t, q)) {
        TAILQ_REMOVE(&t->requests, q, link);
        atomic_fetch_sub(&t->waiting_bytes, q->size + REQUEST_BYTES);
        services__etcd_stream_give(t, q->size + REQUEST_BYTES);
        free(q);
    }
}

static void requested(struct etcd_request *q)
{
    struct etcd_stream *t = q->stream;

    q->number = ++t->number;
    if (t->over) {
        free(q);
    } else if (!services__etcd_stream_hold(t, q->size + REQUEST_BYTES)) {
        free(q);
        fail_with(t, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                  "etcdserver: too many requests");
    } else {
        TAILQ_INSERT_TAIL(&t->requests, q, link);
        if (atomic_load(&t->waiting_bytes) > WAITING_BYTES_MAX && TAILQ_FIRST(&t->requests) != q) {
            fail_with(t, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                      "etcdserver: too many requests");
        } else {
            go_on(t);
        }
    }
    stream_unref(t);
}

/* ---- The bus --------------------------------------------------------------------------------- */

/* At most one such message of a stream is on its way. */
static void post_once(struct etcd_stream *t, _Atomic bool *posted, struct worker_msg *m,
                      enum etcd_watch_message kind)
{
    if (atomic_exchange(posted, true)) {
        return;
    }
    ref_take(&t->refs);
    m->kind = kind;
    if (!worker_post_internal(t->set->worker, m)) {
        stream_unref(t);
    }
}

static void drained(void *ctx)
{
    struct etcd_stream *t = ctx;

    post_once(t, &t->drained_posted, &t->drained_msg, WATCH_DRAINED);
}

void services__etcd_stream_resume(struct etcd_stream *t)
{
    drained(t);
}

static void ended(void *ctx)
{
    struct etcd_stream *t = ctx;

    post_once(t, &t->end_posted, &t->end_msg, WATCH_END);
}

static struct etcd_stream *stream_new(struct etcd_watches *set, struct bus_rpc *rpc)
{
    struct etcd_stream *t = xcalloc(1, sizeof *t);

    t->set = set;
    t->rpc = rpc;
    ref_init(&t->refs, 1); /* the worker's */
    TAILQ_INIT(&t->requests);
    TAILQ_INIT(&t->blocked);
    services__etcd_shard(rpc, t->shard);
    return t;
}

static struct etcd_stream *stream_of(struct services *s, struct bus_rpc *rpc)
{
    struct etcd_stream *t = bus_rpc_data(rpc);

    if (t == NULL) {
        t = stream_new(s->etcd_watches, rpc);
        ref_take(&t->refs); /* the call's */
        t->needs_leader = slice_equal(bus_rpc_metadata(rpc, "hasleader"), slice_str("true"));
        bus_rpc_set_data(rpc, t, call_freed);
        bus_rpc_on_drained(rpc, drained, t);
        bus_rpc_on_cancel(rpc, ended, t);
    }
    return t;
}

static struct etcd_request *request_new(struct etcd_stream *t, struct slice message)
{
    struct etcd_request *q = xcalloc(1, sizeof *q + message.size);

    q->stream = t;
    q->size = message.size;
    if (message.size > 0) {
        memcpy(q->bytes, message.data, message.size);
    }
    atomic_fetch_add(&t->waiting_bytes, q->size + REQUEST_BYTES);
    return q;
}

void services__etcd_watch(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct etcd_stream *t = stream_of(ctx, rpc);
    struct etcd_request *q = request_new(t, message);

    ref_take(&t->refs);
    q->msg.kind = WATCH_REQUEST;
    if (!worker_post_internal(t->set->worker, &q->msg)) {
        stream_unref(t);
        free(q);
    }
}

void services__etcd_watch_end(void *ctx, struct bus_rpc *rpc)
{
    ended(stream_of(ctx, rpc));
}

/* ---- Streams of other calls ------------------------------------------------------------------ */

struct etcd_stream *services__etcd_stream_new(struct etcd_watches *set, struct bus_rpc *rpc,
                                              const struct etcd_sink *sink, void *ctx)
{
    struct etcd_stream *t = stream_new(set, rpc);

    t->sink = sink;
    t->sink_ctx = ctx;
    return t;
}

void services__etcd_stream_end(struct etcd_stream *t)
{
    finish(t, NULL);
}

void services__etcd_stream_forget(struct etcd_stream *t)
{
    drop_requests(t);
}

/* As a client of Watch does: the user may have no right to it. */
static enum thole_code ask_for_watcher(struct etcd_stream *t,
                                       const etcdserverpb_WatchCreateRequest *m,
                                       struct thole_status *st)
{
    struct bytes whole = {0};
    upb_Arena *arena = upb_Arena_New();
    size_t size = 0;
    const char *bytes = etcdserverpb_WatchCreateRequest_serialize(m, arena, &size);

    services__wire_bytes(&whole, etcdserverpb_WatchRequest_request_union_create_request,
                         slice_of(bytes, size));
    bool held = services__etcd_stream_hold(t, whole.size + REQUEST_BYTES);
    if (held) {
        struct etcd_request *q = request_new(t, bytes_slice(&whole));
        q->number = ++t->number;
        TAILQ_INSERT_TAIL(&t->requests, q, link);
        go_on(t);
    }
    bytes_deinit(&whole);
    upb_Arena_Free(arena);
    return held ? THOLE_OK : services__no_room(st);
}

enum thole_code services__etcd_stream_watch(struct etcd_stream *t,
                                            const etcdserverpb_WatchCreateRequest *m,
                                            const struct etcd_route *r, int64_t revision,
                                            struct thole_status *st)
{
    const char *why = NULL;

    if (t->feed != NULL && t->feed->shard_id != r->route.shard_id) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                          "the shard was deleted, and another one has its name");
    }
    if (bus_rpc_metadata(t->rpc, "token").size > 0) {
        return ask_for_watcher(t, m, st);
    }
    /* The answer came without a token, so auth is disabled. */
    services__etcd_feed_join(t, r->route.shard_id, (struct slice){0});
    t->feed->term = r->route.term > t->feed->term ? r->route.term : t->feed->term;
    struct etcd_watcher *w = services__etcd_watcher_new(t, m, 0, &why);
    if (w == NULL) {
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL, "%s", why);
    }
    w->next = revision + 1;
    services__etcd_feed_place(t->feed, w, revision, r->route.index);
    return THOLE_OK;
}

/* ---- The worker ------------------------------------------------------------------------------ */

static void handle_drained(struct etcd_stream *t)
{
    atomic_store(&t->drained_posted, false);
    if (!t->over) {
        resume(t);
        go_on(t);
    }
    stream_unref(t);
}

static void handle(struct worker_msg *m)
{
    struct etcd_stream *t;

    switch ((enum etcd_watch_message)m->kind) {
    case WATCH_REQUEST:
        requested(CONTAINER_OF(m, struct etcd_request, msg));
        break;
    case WATCH_DRAINED:
        handle_drained(CONTAINER_OF(m, struct etcd_stream, drained_msg));
        break;
    case WATCH_END:
        t = CONTAINER_OF(m, struct etcd_stream, end_msg);
        finish(t, NULL);
        stream_unref(t);
        break;
    case WATCH_READ:
        read_answered(CONTAINER_OF(m, struct etcd_stream, read_msg));
        break;
    case WATCH_WOKEN:
        services__etcd_feed_woken(m);
        break;
    case WATCH_LOST:
        services__etcd_feed_lost(m);
        break;
    case WATCH_PAGE:
        services__etcd_feed_page(m);
        break;
    case WATCH_WAIT:
        services__etcd_wait_woken(m);
        break;
    case WATCH_CHECKED:
        services__etcd_rights_checked(m);
        break;
    }
}

/* Streams that had to wait for memory which others held have nothing of their own that drains. */
static void look_at_stalled(struct etcd_watches *set)
{
    struct etcd_stream *t = TAILQ_FIRST(&set->stalled), *last;

    last = TAILQ_LAST(&set->stalled, etcd_stream_list);
    while (t != NULL) {
        struct etcd_stream *next = t != last ? TAILQ_NEXT(t, stalled_link) : NULL;
        if (bus_rpc_flushed(t->rpc)) {
            ref_take(&t->refs);
            resume(t);
            go_on(t);
            stream_unref(t);
        }
        t = next;
    }
}

static void look(struct etcd_watches *set)
{
    struct etcd_feed *f;
    struct etcd_feed **all = xmalloc((set->feeds.count + 1) * sizeof(struct etcd_feed *));
    size_t n = 0;

    look_at_stalled(set);
    services__etcd_wait_look(set);
    for (size_t it = 0; (f = map_next(&set->feeds, &it, NULL)) != NULL;) {
        all[n++] = f;
    }
    for (size_t i = 0; i < n; i++) {
        services__etcd_feed_look(all[i]);
    }
    free(all);
}

static uint64_t turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct etcd_watches *set = ctx;
    struct worker_msg *m;
    struct etcd_feed *f;

    set->now_ns = now_ns;
    while ((m = msgq_pop(batch)) != NULL) {
        handle(m);
    }
    bool looks = now_ns >= set->look_ns;
    if (looks) {
        look(set);
    }
    while ((f = TAILQ_FIRST(&set->marked)) != NULL) {
        TAILQ_REMOVE(&set->marked, f, marked_link);
        f->marked = false;
        services__etcd_feed_read_on(f); /* may free it */
    }
    bool waits = set->feeds.count > 0 || !TAILQ_EMPTY(&set->stalled) || !TAILQ_EMPTY(&set->later);
    if (looks || set->look_ns == CLOCK_NEVER) {
        set->look_ns = waits ? now_ns + LOOK_NS : CLOCK_NEVER;
    }
    return set->look_ns;
}

struct etcd_watches *services__etcd_watches_new(struct services *s)
{
    struct etcd_watches *set = xcalloc(1, sizeof *set);

    set->s = s;
    set->look_ns = CLOCK_NEVER;
    TAILQ_INIT(&set->stalled);
    TAILQ_INIT(&set->marked);
    TAILQ_INIT(&set->later);
    set->worker = worker_new(s->executor, "etcd-watches", 1u << 16, turn, set);
    return set;
}

void services__etcd_watches_free(struct etcd_watches *set)
{
    struct etcd_feed *f;

    worker_stop(set->worker);
    worker_free(set->worker);
    for (size_t it = 0; (f = map_next(&set->feeds, &it, NULL)) != NULL;) {
        services__etcd_feed_free(f);
    }
    map_deinit(&set->feeds);
    free(set);
}
