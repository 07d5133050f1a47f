/* thole.v1.Cluster.Watch: all rows of the registry, then each change. Events.WatchEvents: events
 * only. Operations.WatchOperation: one operation.
 * One worker owns all watches; changes of the registry wake it. A watch encodes more only after the
 * encoded rows were sent, so a slow client costs at most one round of changes. It catches up by
 * rows, not by history: a row that changed ten times in between is sent once. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <upb/encode.h>

#include "agent/services/cluster_watch.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/map.h"
#include "proto/decode.h"

#define LOOK_NS (NS_PER_S / 2) /* between checks of availability, whose changes change no row */

enum message_kind { MESSAGE_START = 1, MESSAGE_CANCEL, MESSAGE_DRAINED, MESSAGE_CHANGE };

static void watch_unref(void *data)
{
    struct cluster_watch *w = data;
    uint32_t before = atomic_fetch_sub(&w->refs, 1);
    ASSERT(before > 0);
    if (before == 1) {
        map_deinit(&w->differ);
        map_deinit(&w->pools);
        map_deinit(&w->hosts);
        free(w);
    }
}

/* ---- One watch ------------------------------------------------------------------------------- */

static void drop_pending(struct cluster_watch *w)
{
    while (w->first != NULL) {
        struct pending *p = w->first;
        w->first = p->next;
        bufslice_unref(p->message);
        free(p);
    }
    w->last = &w->first;
}

/* The caller holds a reference. */
static void finish(struct cluster_watch *w, const struct thole_status *st)
{
    drop_pending(w);
    if (w->view != NULL) {
        registry_view_release(w->view);
        w->view = NULL;
    }
    struct cluster_watch **at = &w->s->watches;
    while (*at != NULL && *at != w) {
        at = &(*at)->next;
    }
    bool listed = *at == w;
    if (listed) {
        *at = w->next;
    }
    if (!w->finished) {
        w->finished = true;
        if (st->code == THOLE_OK) {
            bus_rpc_reply(w->rpc, (struct bufslice){0});
        } else {
            const char *metadata[] = {EVENTS_OLDEST, w->oldest, NULL};
            services__fail(w->rpc, st, w->oldest[0] != '\0' ? metadata : NULL);
        }
    }
    if (listed) {
        atomic_fetch_sub(&w->refs, 1); /* another reference remains */
    }
}

/* Send the encoded rows. False: the call's queue is full. */
static bool send_pending(struct cluster_watch *w)
{
    while (w->first != NULL) {
        struct pending *p = w->first;
        if (!bus_rpc_send(w->rpc, bufslice_ref(p->message))) {
            w->blocked = true;
            return false;
        }
        w->first = p->next;
        if (w->first == NULL) {
            w->last = &w->first;
        }
        bufslice_unref(p->message);
        free(p);
    }
    return true;
}

/* Encode new events. False: there are none, or the watch ended. */
static bool events_more(struct cluster_watch *w)
{
    struct registry_event_buf event_buf;
    struct registry_view *view = registry_view_acquire(agent_registry(w->s->agent));
    uint64_t revision = registry_view_revision(view);
    bool any = revision > w->revision || !w->begun;
    struct thole_status st;
    if (!services__events_all_kept(view, w->revision, &st, w->oldest)) {
        finish(w, &st);
        any = false;
    }
    if (any) {
        upb_StringView object = upb_StringView_FromString(w->object);
        const thole_v1_Event *event;
        uint64_t it = 0;
        while ((event = registry_next_event(view, w->revision, &it, &event_buf)) != NULL) {
            if (services__events_is_about(event, object)) {
                services__watch_push_event(w, event);
            }
        }
        w->begun = true;
        w->revision = revision > w->revision ? revision : w->revision;
        services__watch_push_bookmark(w);
    }
    registry_view_release(view);
    return any;
}

/* Encode changed rows. False: there are none, or the watch ended. */
static bool changes_more(struct cluster_watch *w)
{
    struct registry_view *view = registry_view_acquire(agent_registry(w->s->agent));
    uint64_t revision = registry_view_revision(view);
    bool any = revision > w->revision;
    struct thole_status st;
    if (any) {
        w->view = view;
        enum thole_code code = services__watch_push_changes(w, &st);
        w->view = NULL;
        if (code != THOLE_OK) {
            finish(w, &st);
            any = false;
        } else {
            w->revision = revision;
            services__watch_push_bookmark(w);
        }
    }
    registry_view_release(view);
    return any;
}

/* Encode hosts, shards and pools whose availability changed without a change of their row. */
static bool conditions_more(struct cluster_watch *w)
{
    ASSERT(w->phase == PHASE_CHANGES && w->view == NULL && w->first == NULL);
    w->view = registry_view_acquire(agent_registry(w->s->agent));
    const struct availability_check check = agent_availability_begin(w->s->agent, w->view);
    bool any = services__conditions_changed(&check, &w->differ, services__watch_push_shard, w);
    any |= services__pools_changed(&check, &w->pools, services__watch_push_pool, w);
    any |= services__hosts_changed(&check, &w->hosts, services__watch_push_host, w);
    registry_view_release(w->view);
    w->view = NULL;
    if (any) {
        services__watch_push_bookmark(w);
    }
    return any;
}

/* Encode the operation if it changed. The stream ends when the operation has ended. */
static bool operation_more(struct cluster_watch *w)
{
    struct registry_view *view = registry_view_acquire(agent_registry(w->s->agent));
    const thole_v1_Operation *row = registry_operation(view, w->operation);
    bool any = row != NULL && thole_v1_Operation_revision(row) > w->revision;
    struct thole_status st = {.code = THOLE_OK};
    if (any) {
        upb_Arena *arena = upb_Arena_New();
        struct bufslice bytes = services__encode(row, &thole_v1_Operation_msginit, arena);
        struct bytes out = {0};
        upb_Arena_Free(arena);
        bytes_append_slice(&out, bytes.bytes);
        bufslice_unref(bytes);
        services__watch_push(w, &out);
        w->revision = thole_v1_Operation_revision(row);
    } else if (row == NULL) {
        (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "operation %" PRIu64 " not found",
                         w->operation);
        finish(w, &st);
    } else if (registry_operation_has_ended(row)) {
        finish(w, &st);
    }
    registry_view_release(view);
    return any;
}

static void pump(struct cluster_watch *w)
{
    ASSERT(worker_is_current(w->s->worker));
    while (!w->finished && !w->blocked && send_pending(w)) {
        if (w->phase != PHASE_CHANGES) {
            services__watch_push_snapshot(w);
        } else if (!(w->events      ? events_more(w)
                     : w->operation ? operation_more(w)
                                    : changes_more(w))) {
            return;
        }
    }
}

/* ---- The worker ------------------------------------------------------------------------------ */

static void pump_all(struct services *s)
{
    atomic_store(&s->change_posted, false);
    for (struct cluster_watch *w = s->watches, *next = NULL; w != NULL; w = next) {
        next = w->next;
        atomic_fetch_add(&w->refs, 1);
        pump(w);
        watch_unref(w);
    }
}

/* Takes at most a twentieth of the time. Returns the time of the next check. */
static uint64_t check_availability(struct services *s, uint64_t now_ns)
{
    bool any = false;
    if (now_ns < s->look_ns) {
        return s->look_ns;
    }
    for (struct cluster_watch *w = s->watches, *next = NULL; w != NULL; w = next) {
        next = w->next;
        if (w->events || w->operation != 0 || w->phase != PHASE_CHANGES || w->finished) {
            any |= w->phase != PHASE_CHANGES;
            continue;
        }
        any = true;
        if (!w->blocked && w->first == NULL && conditions_more(w)) {
            atomic_fetch_add(&w->refs, 1);
            pump(w);
            watch_unref(w);
        }
    }
    uint64_t end_ns = clock_now(&clock_system);
    uint64_t pause_ns = 20 * (end_ns - now_ns);
    s->look_ns = end_ns + (pause_ns > LOOK_NS ? pause_ns : LOOK_NS);
    return any ? s->look_ns : CLOCK_NEVER;
}

static void watch_message(struct cluster_watch *w, uint32_t kind)
{
    switch ((enum message_kind)kind) {
    case MESSAGE_START:
        if (!w->finished) {
            w->next = w->s->watches;
            w->s->watches = w;
            atomic_fetch_add(&w->refs, 1);
        }
        break;
    case MESSAGE_CANCEL: {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_CANCELLED, THOLE_REASON_NONE, "the client cancelled the call");
        finish(w, &st);
        break;
    }
    case MESSAGE_DRAINED:
        atomic_store(&w->drained_posted, false);
        w->blocked = false;
        break;
    case MESSAGE_CHANGE:
        break;
    }
    pump(w);
    watch_unref(w);
}

uint64_t services__cluster_watch_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct services *s = ctx;
    struct worker_msg *m = NULL;
    while ((m = msgq_pop(batch)) != NULL) {
        switch ((enum message_kind)m->kind) {
        case MESSAGE_CHANGE:
            pump_all(s);
            break;
        case MESSAGE_START:
            watch_message(CONTAINER_OF(m, struct cluster_watch, start), m->kind);
            break;
        case MESSAGE_CANCEL:
            watch_message(CONTAINER_OF(m, struct cluster_watch, cancel), m->kind);
            break;
        case MESSAGE_DRAINED:
            watch_message(CONTAINER_OF(m, struct cluster_watch, drained), m->kind);
            break;
        }
    }
    return s->watches != NULL ? check_availability(s, now_ns) : CLOCK_NEVER;
}

void services__cluster_watch_changed(void *ctx, uint64_t revision)
{
    (void)revision;
    struct services *s = ctx;
    if (!atomic_exchange(&s->change_posted, true)) {
        s->change.kind = MESSAGE_CHANGE;
        if (!worker_post_internal(s->worker, &s->change)) {
            atomic_store(&s->change_posted, false); /* the worker stopped */
        }
    }
}

static bool post(struct cluster_watch *w, struct worker_msg *m, enum message_kind kind)
{
    m->kind = kind;
    atomic_fetch_add(&w->refs, 1);
    if (worker_post_internal(w->s->worker, m)) {
        return true;
    }
    atomic_fetch_sub(&w->refs, 1); /* another reference remains: the call's */
    return false;
}

static void watch_cancelled(void *ctx)
{
    struct cluster_watch *w = ctx;
    (void)post(w, &w->cancel, MESSAGE_CANCEL);
}

static void watch_drained(void *ctx)
{
    struct cluster_watch *w = ctx;
    if (!atomic_exchange(&w->drained_posted, true)) {
        (void)post(w, &w->drained, MESSAGE_DRAINED);
    }
}

static void refuse_request(struct bus_rpc *rpc, const char *field, const char *why)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "%s: %s", field, why);
    services__fail(rpc, &st, (const char *const[]){"field", field, NULL});
}

#define UNDECODABLE "is malformed"

static struct cluster_watch *watch_new(struct services *s, struct bus_rpc *rpc)
{
    struct cluster_watch *w = xcalloc(1, sizeof *w);
    w->s = s;
    w->rpc = rpc;
    w->last = &w->first;
    atomic_store(&w->refs, 1);
    return w;
}

static void watch_begin(struct cluster_watch *w)
{
    struct bus_rpc *rpc = w->rpc;
    bus_rpc_set_data(rpc, w, watch_unref);
    bus_rpc_on_drained(rpc, watch_drained, w);
    bus_rpc_on_cancel(rpc, watch_cancelled, w);
    if (!post(w, &w->start, MESSAGE_START)) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
        if (w->view != NULL) {
            registry_view_release(w->view);
            w->view = NULL;
        }
        services__fail(w->rpc, &st, NULL);
    }
}

/* Without a view a watch would begin with no rows. */
static bool watch_has_view(struct services *s, struct bus_rpc *rpc)
{
    struct thole_status st;
    if (agent_has_view(s->agent, &st)) {
        return true;
    }
    services__fail(rpc, &st, NULL);
    return false;
}

/* ---- Beginning at a revision ----------------------------------------------------------------- */

/* Refuse to wait for a revision that does not exist yet: it is of another cluster, or of this
 * cluster before a restore. */
static void refuse_future(struct cluster_watch *w, uint64_t newest)
{
    struct thole_status st;
    const char *field = w->events ? "after_revision" : "from_revision";
    (void)THOLE_FAIL(&st, THOLE_OUT_OF_RANGE, THOLE_REASON_BAD_REQUEST,
                     "%s: revision %" PRIu64 " does not exist yet: the newest is %" PRIu64, field,
                     w->revision, newest);
    services__fail(w->rpc, &st, (const char *const[]){"field", field, NULL});
    free(w);
}

static uint64_t newest_revision(struct services *s)
{
    struct registry_view *view = registry_view_acquire(agent_registry(s->agent));
    uint64_t newest = registry_view_revision(view);
    registry_view_release(view);
    return newest;
}

static void resume_fresh(void *ctx, const struct thole_status *st)
{
    struct cluster_watch *w = ctx;
    if (st->code != THOLE_OK) {
        services__fail(w->rpc, st, NULL);
        free(w);
        return;
    }
    uint64_t newest = newest_revision(w->s);
    if (w->revision > newest) {
        refuse_future(w, newest);
    } else {
        watch_begin(w);
    }
}

/* The revision may come from another host and be newer than this host's view. */
static void watch_resume(struct cluster_watch *w)
{
    if (w->revision <= newest_revision(w->s)) {
        watch_begin(w);
    } else {
        agent_barrier(w->s->agent, services__deadline(w->rpc), resume_fresh, w);
    }
}

/* What Cluster.Watch always shows. Roles and tokens only if the user may read them. */
#define WATCHED_KINDS                                                                        \
    (ACCESS_KIND(HOSTS) | ACCESS_KIND(SHARDS) | ACCESS_KIND(POOLS) | ACCESS_KIND(REPLICAS) | \
     ACCESS_KIND(OPERATIONS) | ACCESS_KIND(EVENTS) | ACCESS_KIND(CLUSTER))

static bool may_read(struct services *s, struct bus_rpc *rpc, const char *path, uint32_t kinds)
{
    const struct access_right right = {.verb = thole_v1_ROLE_VERB_READ, .kinds = kinds};
    return services__stream_is_allowed(s, rpc, path, &right);
}

void services__cluster_watch_handle(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct services *s = ctx;
    upb_Arena *arena = upb_Arena_New();
    const thole_v1_WatchClusterRequest *q =
        PROTO_DECODE(thole_v1_WatchClusterRequest, message, arena);
    uint64_t from = q != NULL ? thole_v1_WatchClusterRequest_from_revision(q) : 0;
    upb_Arena_Free(arena);
    if (q == NULL) {
        refuse_request(rpc, "request", UNDECODABLE);
        return;
    }
    if (!may_read(s, rpc, "/thole.v1.Cluster/Watch", WATCHED_KINDS) || !watch_has_view(s, rpc)) {
        return;
    }
    struct cluster_watch *w = watch_new(s, rpc);
    if (from > 0) {
        w->phase = PHASE_CHANGES;
        w->revision = from;
        watch_resume(w);
        return;
    }
    w->view = registry_view_acquire(agent_registry(s->agent));
    watch_begin(w);
}

void services__events_watch_handle(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct services *s = ctx;
    upb_Arena *arena = upb_Arena_New();
    const thole_v1_WatchEventsRequest *q =
        PROTO_DECODE(thole_v1_WatchEventsRequest, message, arena);
    if (q == NULL) {
        refuse_request(rpc, "request", UNDECODABLE);
    } else if (thole_v1_WatchEventsRequest_object(q).size >= REGISTRY_NAME_BYTES) {
        refuse_request(rpc, "object", "is longer than any name");
    } else if (may_read(s, rpc, "/thole.v1.Events/WatchEvents", ACCESS_KIND(EVENTS)) &&
               watch_has_view(s, rpc)) {
        struct cluster_watch *w = watch_new(s, rpc);
        upb_StringView object = thole_v1_WatchEventsRequest_object(q);
        w->events = true;
        w->phase = PHASE_CHANGES;
        w->revision = thole_v1_WatchEventsRequest_after_revision(q);
        if (object.size > 0) {
            memcpy(w->object, object.data, object.size);
        }
        watch_resume(w);
    }
    upb_Arena_Free(arena);
}

/* The view now has every operation that any host has returned. */
static void operation_watch_fresh(void *ctx, const struct thole_status *st)
{
    struct cluster_watch *w = ctx;
    if (st->code == THOLE_OK) {
        watch_begin(w);
        return;
    }
    services__fail(w->rpc, st, NULL);
    free(w);
}

void services__operation_watch_handle(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct services *s = ctx;
    upb_Arena *arena = upb_Arena_New();
    const thole_v1_WatchOperationRequest *q =
        PROTO_DECODE(thole_v1_WatchOperationRequest, message, arena);
    uint64_t id = q != NULL ? thole_v1_WatchOperationRequest_id(q) : 0;
    bool decoded = q != NULL;
    upb_Arena_Free(arena);
    if (id == 0) {
        refuse_request(rpc, decoded ? "id" : "request", decoded ? "is needed" : UNDECODABLE);
        return;
    }
    if (!may_read(s, rpc, "/thole.v1.Operations/WatchOperation", ACCESS_KIND(OPERATIONS))) {
        return;
    }
    struct cluster_watch *w = watch_new(s, rpc);
    w->phase = PHASE_CHANGES;
    w->operation = id;
    agent_barrier(s->agent, services__deadline(rpc), operation_watch_fresh, w);
}
