/* A watcher of etcdserverpb.Watch: which events it gets, and in which responses. */
#include "agent/services/etcd_watch.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/metrics.h"

#define NODE_BYTES 200 /* of the tree of ranges, and of the stream's map */

static METRIC_DEFINE_GAUGE(metric_watchers, "thole_etcd_watchers", "Watchers of etcd's clients");
static METRIC_DEFINE_COUNTER(metric_blocked, "thole_etcd_watchers_blocked_total",
                             "Times that a watcher waited for its client to read");

/* ---- States ---------------------------------------------------------------------------------- */

static struct etcd_watcher_list *list_of(struct etcd_watcher *w)
{
    switch (w->state) {
    case WATCHER_QUEUED:
        return &w->stream->feed->queued;
    case WATCHER_PULLING:
        return &w->pull->members;
    case WATCHER_BLOCKED:
        return &w->stream->blocked;
    case WATCHER_NEW:
    case WATCHER_SYNCED:
        break;
    }
    ASSERT(false);
    return NULL;
}

void services__etcd_watcher_enter(struct etcd_watcher *w, enum etcd_watcher_state state)
{
    struct etcd_stream *t = w->stream;

    w->state = state;
    if (state == WATCHER_SYNCED) {
        t->feed->synced++;
        services__etcd_stream_progress(t);
        return;
    }
    t->unsynced++;
    TAILQ_INSERT_TAIL(list_of(w), w, link);
    if (state == WATCHER_QUEUED) {
        services__etcd_feed_mark(t->feed);
    }
}

void services__etcd_watcher_leave(struct etcd_watcher *w)
{
    struct etcd_stream *t = w->stream;

    if (w->state == WATCHER_SYNCED) {
        t->feed->synced--;
    } else {
        t->unsynced--;
        TAILQ_REMOVE(list_of(w), w, link);
    }
    w->pull = NULL;
}

void services__etcd_watcher_rewind(struct etcd_watcher *w)
{
    if (w->touched != NULL) {
        TAILQ_REMOVE(w->touched, w, touched_link);
        w->touched = NULL;
    }
    (void)bus_rpc_hold(w->stream->rpc, &w->held, 0);
    bytes_deinit(&w->out);
    w->out_revisions = w->out_events = 0;
    w->too_large = false;
    w->seen = 0;
}

static void block(struct etcd_watcher *w)
{
    metric_add(&metric_blocked, 1);
    services__etcd_watcher_rewind(w);
    services__etcd_watcher_leave(w);
    services__etcd_watcher_enter(w, WATCHER_BLOCKED);
}

/* ---- Life ------------------------------------------------------------------------------------ */

struct watch_keys services__etcd_watcher_keys(const etcdserverpb_WatchCreateRequest *m)
{
    static const uint8_t zero[1] = {0};
    upb_StringView key = etcdserverpb_WatchCreateRequest_key(m);
    upb_StringView end = etcdserverpb_WatchCreateRequest_range_end(m);

    /* No key is less than one byte 0. */
    return (struct watch_keys){
        .from = key.size > 0 ? slice_of(key.data, key.size) : slice_of(zero, 1),
        .to = slice_of(end.data, end.size),
        .no_end = end.size == 1 && end.data[0] == '\0',
    };
}

static void add_interest(struct etcd_watcher *w, struct watch_keys keys)
{
    struct bytes end = {0};

    if (!keys.no_end && keys.to.size == 0) { /* one key */
        bytes_append_slice(&end, keys.from);
        bytes_append(&end, "", 1);
        keys.to = bytes_slice(&end);
    } else if (keys.no_end) {
        keys.to = (struct slice){0};
    }
    services__watch_ranges_add(&w->stream->feed->ranges, &keys, &w->interest);
    bytes_deinit(&end);
}

static void read_filters(struct etcd_watcher *w, const etcdserverpb_WatchCreateRequest *m)
{
    size_t n = 0;
    const int32_t *filters = etcdserverpb_WatchCreateRequest_filters(m, &n);

    for (size_t i = 0; i < n; i++) {
        w->no_put = w->no_put || filters[i] == etcdserverpb_WatchCreateRequest_NOPUT;
        w->no_delete = w->no_delete || filters[i] == etcdserverpb_WatchCreateRequest_NODELETE;
    }
}

struct etcd_watcher *services__etcd_watcher_new(struct etcd_stream *t,
                                                const etcdserverpb_WatchCreateRequest *m,
                                                uint64_t rights, const char **ret_why)
{
    struct watch_keys keys = services__etcd_watcher_keys(m);
    int64_t id = etcdserverpb_WatchCreateRequest_watch_id(m);
    size_t memory = sizeof(struct etcd_watcher) + NODE_BYTES + keys.from.size + keys.to.size;

    *ret_why = NULL;
    if (keys.to.size > 0 && !keys.no_end && slice_compare(keys.from, keys.to) >= 0) {
        *ret_why = "mvcc: watcher range is empty";
    } else if (id != 0 && map_get(&t->watchers, (uint64_t)id) != NULL) {
        *ret_why = "mvcc: duplicate watch ID provided on the WatchStream";
    } else if (etcdserverpb_WatchCreateRequest_start_revision(m) < 0) {
        *ret_why = "mvcc: the start revision is negative";
    } else if (!services__etcd_stream_hold(t, memory)) {
        *ret_why = "etcdserver: this host has no memory for more watchers";
    }
    if (*ret_why != NULL) {
        return NULL;
    }
    while (id == 0 && map_get(&t->watchers, (uint64_t)t->next_id) != NULL) {
        t->next_id++;
    }
    struct etcd_watcher *w = xcalloc(1, sizeof *w);
    w->stream = t;
    w->memory = memory;
    w->id = id != 0 ? id : t->next_id++;
    w->prev_kv = etcdserverpb_WatchCreateRequest_prev_kv(m);
    w->progress = etcdserverpb_WatchCreateRequest_progress_notify(m);
    w->fragment = etcdserverpb_WatchCreateRequest_fragment(m);
    w->next = etcdserverpb_WatchCreateRequest_start_revision(m);
    w->told_ns = t->set->now_ns;
    w->rights = rights;
    read_filters(w, m);
    add_interest(w, keys);
    (void)map_put(&t->watchers, (uint64_t)w->id, w);
    t->feed->previous += w->prev_kv;
    services__etcd_rights_add(w);
    metric_add(&metric_watchers, 1);
    return w;
}

void services__etcd_watcher_free(struct etcd_watcher *w)
{
    struct etcd_stream *t = w->stream;

    services__etcd_watcher_rewind(w);
    if (w->state != WATCHER_NEW) {
        services__etcd_watcher_leave(w);
    }
    t->fragmenting = t->fragmenting == w ? NULL : t->fragmenting;
    t->feed->previous -= w->prev_kv;
    (void)map_remove(&t->watchers, (uint64_t)w->id);
    services__etcd_rights_remove(w);
    services__watch_ranges_remove(&t->feed->ranges, &w->interest);
    services__etcd_stream_give(t, w->memory);
    metric_add(&metric_watchers, -1);
    free(w);
}

/* ---- Responses ------------------------------------------------------------------------------- */

/* Everything that was read. `more`: further fragments of this revision follow. */
static bool send_out(struct etcd_watcher *w, bool more)
{
    if (w->out_first != w->next) {
        w->next = w->out_first;
        w->sent = 0;
    }
    struct etcd_stream *t = w->stream;
    struct bytes message = {0};

    services__etcd_response(t, t->feed->current, w->id, &message);
    services__wire_varint(&message, RESPONSE_FRAGMENT, more);
    bytes_append_slice(&message, bytes_slice(&w->out));
    if (!services__etcd_stream_send(t, w, &message)) {
        return false;
    }
    w->told_ns = t->set->now_ns;
    return true;
}

/* Complete revisions. False: the watcher is BLOCKED. */
static bool flush(struct etcd_watcher *w)
{
    struct etcd_stream *t = w->stream;
    int64_t last = w->out_last;

    if (!send_out(w, false)) {
        block(w);
        return false;
    }
    if (t->fragmenting == w) {
        t->fragmenting = NULL;
        services__etcd_stream_resume(t);
    }
    services__etcd_watcher_rewind(w);
    w->next = last + 1;
    w->sent = 0;
    return true;
}

/* A part of a revision. */
static bool flush_fragment(struct etcd_watcher *w)
{
    uint32_t events = w->out_events;

    if (!send_out(w, true)) {
        block(w);
        return false;
    }
    w->stream->fragmenting = w;
    services__etcd_watcher_rewind(w);
    w->sent += events;
    w->seen = w->sent;
    return true;
}

static bool make_room(struct etcd_watcher *w, const struct etcd_event *e, size_t size,
                      int64_t divided)
{
    if (w->out.size == 0) {
        return true;
    }
    if (e->revision != w->out_last &&
        (e->revision == divided || w->out.size >= WATCH_RESPONSE_BYTES ||
         w->out_revisions >= WATCH_RESPONSE_REVISIONS)) {
        return flush(w);
    }
    if (w->fragment && w->out_first == e->revision && w->out.size + size > WATCH_FRAGMENT_BYTES) {
        return flush_fragment(w);
    }
    return true;
}

void services__etcd_watcher_event(struct etcd_watcher *w, const struct etcd_event *e,
                                  int64_t divided, struct etcd_watcher_list *touched)
{
    struct slice bytes = w->prev_kv ? e->full : e->plain;

    if (e->revision < w->next || (e->deletion ? w->no_delete : w->no_put) || w->too_large) {
        return;
    }
    if (e->revision == w->next && w->seen < w->sent) {
        w->seen++;
        return;
    }
    if (!make_room(w, e, bytes.size, divided)) {
        return;
    }
    if (w->touched == NULL) {
        w->touched = touched;
        TAILQ_INSERT_TAIL(touched, w, touched_link);
    }
    if (w->out.size == 0) {
        w->out_first = e->revision;
    }
    w->out_revisions += w->out.size == 0 || w->out_last != e->revision;
    w->out_last = e->revision;
    w->out_events++;
    bytes_append_slice(&w->out, bytes);
    w->too_large = w->out.size > WATCH_REVISION_BYTES_MAX && !w->fragment;
}

static void cancel(struct etcd_watcher *w, const char *why, int64_t compacted)
{
    struct etcd_stream *t = w->stream;
    struct bytes message = {0};

    services__etcd_response(t, t->feed->current, w->id, &message);
    services__wire_varint(&message, RESPONSE_CANCELED, true);
    services__wire_varint(&message, RESPONSE_COMPACT_REVISION, (uint64_t)compacted);
    if (why != NULL) {
        services__wire_bytes(&message, RESPONSE_CANCEL_REASON, slice_str(why));
    }
    if (services__etcd_stream_send(t, NULL, &message)) {
        services__etcd_watcher_free(w);
        services__etcd_stream_progress(t); /* the others may all be SYNCED */
    } else {
        block(w); /* it will read the same again */
    }
}

void services__etcd_watcher_compacted(struct etcd_watcher *w, int64_t compacted)
{
    cancel(w, NULL, compacted);
}

void services__etcd_watcher_denied(struct etcd_watcher *w)
{
    struct etcd_stream *t = w->stream;
    struct bytes message = {0};
    struct thole_status st;

    services__etcd_response(t, t->feed->current, w->id, &message);
    services__wire_varint(&message, RESPONSE_CANCELED, true);
    services__wire_bytes(&message, RESPONSE_CANCEL_REASON,
                         slice_str(services__etcd_rights_reason(THOLE_PERMISSION_DENIED)));
    if (!services__etcd_stream_send(t, w, &message)) {
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_QUEUE_FULL,
                         "the user lost a right while the client did not read: watch again");
        services__etcd_stream_fail(t, &st);
        return;
    }
    if (t->fragmenting == w) {
        services__etcd_stream_resume(t);
    }
    services__etcd_watcher_free(w);
    services__etcd_stream_progress(t); /* the others may all be SYNCED */
}

void services__etcd_watcher_page_end(struct etcd_watcher *w, int64_t divided)
{
    bool waits = w->out_first == divided && !w->too_large;

    ASSERT(w->touched != NULL && w->out.size > 0);
    if (waits && !bus_rpc_hold(w->stream->rpc, &w->held, w->out.size)) {
        w->too_large = true;
        waits = false;
    }
    if (w->too_large) {
        w->next = w->out_first;
        cancel(w, "the events of one revision are too many for one response: take fragments", 0);
    } else if (!waits) {
        (void)flush(w);
    }
}

void services__etcd_watcher_progress(struct etcd_watcher *w, int64_t revision, uint64_t now_ns)
{
    struct bytes message = {0};

    services__etcd_response(w->stream, revision, w->id, &message);
    if (services__etcd_stream_send(w->stream, NULL, &message)) {
        w->told_ns = now_ns;
    }
}
