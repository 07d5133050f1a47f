/* Requests from other hosts and from clients of the library. See router_serve.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/access/access.h"
#include "agent/core/agent_internal.h"
#include "agent/core/answers.h"
#include "agent/routing/forward_codec.h"
#include "agent/routing/registry_command.h"
#include "agent/routing/router.h"
#include "agent/routing/router_cache.h"
#include "agent/routing/router_serve.h"
#include "agent/routing/router_watches.h"
#include "base/assert.h"
#include "base/pool.h"
#include "proto/decode.h"

struct forwarded_request {
    struct agent *agent;
    struct bus_request *request;
    /* The shard's name; empty: the request has an id, or the name was resolved again. */
    struct slice name;
    struct router_request r;
};

/* For clients that set no deadline. */
#define SERVE_DEADLINE_NS (30 * NS_PER_S)

size_t router_forwarded_bytes(void)
{
    return sizeof(struct forwarded_request);
}

static void answer(struct forwarded_request *s)
{
    struct router_request *r = &s->r;
    struct forward_reply f;
    router_reply_init(&f);
    f.code = r->code;
    f.index = r->index;
    f.term = r->term;
    f.duplicate = r->duplicate;
    f.forgotten = r->forgotten;
    f.result = r->result.bytes;
    if (r->status.code == THOLE_OK && r->streamed &&
        answers_add(s->agent->answers, r, &f.answer, &r->status) != THOLE_OK) {
        f.answer = 0;
    }
    if (r->status.code != THOLE_OK) {
        f.failure = r->status;
    }
    struct route_hint h; /* unneeded if a local replica served the request */
    bool served = r->status.code == THOLE_OK && r->here;
    if (!served && router_cache_get(router_get_cache(s->agent->router), r->shard_id, &h)) {
        f.leader_host = h.leader_host;
        f.leader_term = h.term;
    }
    struct forward_space space;
    bus_answer(s->request, router_encode_reply(&f, &space), false);
    bufslice_unref(r->result);
    pool_give(&s->agent->forwarded, s);
}

/* May the caller do what it asks for with this shard's data? Hosts may: they have asked the same of
 * their callers. The shard must be in this host's view, where the right's name comes from. */
static enum thole_code check_data(struct agent *a, struct bus_request *q, uint64_t shard_id,
                                  struct thole_status *st)
{
    struct uuid from;
    struct registry_shard_buf buf;
    struct bus_denial d;
    if (!access_is_enforced(a->access) || bus_request_from(q, &from)) {
        return THOLE_OK;
    }
    const struct access_rule *rule = access_request_rule(bus_request_method(q));
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Shard *row = registry_shard(v, shard_id, &buf);
    enum thole_code code;
    if (row == NULL) {
        code = THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD, "shard not found");
    } else {
        struct access_right right = {
            .data = true, .verb = rule->verb, .name = registry_str(thole_v1_Shard_name(row))};
        code = access_require(a->access, bus_request_user(q), &right, &d);
        if (code == THOLE_PERMISSION_DENIED && thole_v1_Shard_pool(row).size > 0) {
            right.name = registry_str(thole_v1_Shard_pool(row));
            code = access_require(a->access, bus_request_user(q), &right, &d);
        }
        if (code != THOLE_OK) {
            agent__report_denial(a, q, &d);
            *st = d.st;
        }
    }
    registry_view_release(v);
    return code;
}

/* On shard zero hosts may do everything; clients may only propose what users declare. */
static enum thole_code check_zero_request(struct forwarded_request *s)
{
    struct uuid from;
    struct bus_identity id;
    struct bus_denial d;
    bool from_host = bus_request_from(s->request, &from);
    if (s->r.kind != ROUTER_PROPOSE) {
        return from_host ? THOLE_OK : agent_refuse_zero(&s->r.status);
    }
    bus_request_identity(s->request, &id);
    const struct router_client client = {
        .access = s->agent->access, .user = bus_request_user(s->request), .address = id.address};
    enum thole_code code =
        router_admit_command(s->r.payload.bytes, from_host ? NULL : &client, &s->r.payload, &d);
    if (code != THOLE_OK) {
        s->r.status = d.st;
    }
    if (code == THOLE_PERMISSION_DENIED || code == THOLE_UNAUTHENTICATED) {
        agent__report_denial(s->agent, s->request, &d);
    }
    return code;
}

static void route(struct forwarded_request *s, uint64_t shard_id)
{
    s->r.shard_id = shard_id;
    bool ok = shard_id == REGISTRY_SHARD_ID
                  ? check_zero_request(s) == THOLE_OK
                  : check_data(s->agent, s->request, shard_id, &s->r.status) == THOLE_OK;
    if (!ok) {
        answer(s);
    } else {
        agent_route(s->agent, &s->r);
    }
}

static void resolved(void *ctx, const struct thole_status *st, uint64_t shard_id)
{
    struct forwarded_request *s = ctx;
    if (st->code == THOLE_OK) {
        route(s, shard_id);
        return;
    }
    s->r.status = *st;
    answer(s);
}

/* The name may belong to a new shard: resolve it again if the shard of its id was deleted. */
static void served_done(struct router_request *r)
{
    struct forwarded_request *s = CONTAINER_OF(r, struct forwarded_request, r);
    struct slice name = s->name;
    if (r->status.reason != THOLE_REASON_NO_SUCH_SHARD || name.size == 0) {
        answer(s);
        return;
    }
    s->name = (struct slice){0};
    agent_resolve_anew(s->agent, name, r->slot_plus_1, r->deadline_ns, resolved, s);
}

static enum router_kind kind_of(uint32_t method, const struct forwarded *f)
{
    if (method == METHOD_QUERY) {
        return ROUTER_QUERY;
    }
    if (method == METHOD_TRANSFER) {
        return ROUTER_TRANSFER;
    }
    if (f->close_session) {
        return ROUTER_CLOSE_SESSION;
    }
    return f->open_session ? ROUTER_OPEN_SESSION : ROUTER_PROPOSE;
}

static void refuse(struct bus_request *q, const char *what)
{
    struct thole_status st = {0};
    thole_status_set(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __FILE__, __LINE__,
                     "%s", what);
    bus_answer_failure(q, &st);
}

void router_serve_forward(struct agent *a, struct bus_request *q)
{
    struct forwarded f;
    if (!router_decode_forward(bus_request_body(q), &f)) {
        refuse(q, "malformed request");
        return;
    }
    if (f.payload.size > LIMIT_PAYLOAD_BYTES) {
        refuse(q, "the payload is larger than " LIMIT_PAYLOAD_TEXT);
        return;
    }
    struct forwarded_request *s = pool_take(&a->forwarded);
    struct router_request *r = &s->r;
    memset(&r->kind, 0,
           offsetof(struct router_request, engine) - offsetof(struct router_request, kind));
    s->agent = a;
    s->request = q;
    r->kind = kind_of(bus_request_method(q), &f);
    r->payload =
        (struct bufslice){.bytes = f.payload}; /* the bus request owns the bytes until the answer */
    r->session = f.session;
    r->sequence = f.sequence;
    r->request_id = f.request_id; /* as the payload */
    r->target_replica = f.sequence;
    r->streamed = f.streamed;
    r->stale = f.stale;
    r->max_staleness_ms = f.max_staleness_ms;
    r->slot_plus_1 = f.slot_plus_1;
    r->hops = f.hops;
    r->deadline_ns = bus_request_deadline_ns(q);
    if (r->deadline_ns == CLOCK_NEVER) {
        r->deadline_ns = clock_now(&clock_system) + SERVE_DEADLINE_NS;
    }
    r->done = served_done;
    s->name = f.shard_name;
    if (f.shard_name.size > 0) {
        agent_resolve(a, f.shard_name, f.slot_plus_1, r->deadline_ns, resolved, s);
    } else {
        route(s, f.shard_id);
    }
}

/* ---- Answers in pieces ----------------------------------------------------------------------- */

static void piece_read(void *ctx, const struct thole_status *st, struct bufslice piece, bool end)
{
    struct forward_reply f;
    struct forward_space space;
    router_reply_init(&f);
    f.result = piece.bytes;
    f.end = end;
    f.failure = *st;
    bus_answer(ctx, router_encode_reply(&f, &space), false);
}

void router_serve_answer(struct agent *a, struct bus_request *q)
{
    struct thole_status st = {0};
    uint64_t id = 0, shard_id = 0;
    bool close = false;
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_AnswerRead *m =
        PROTO_DECODE(thole_bus_v1_AnswerRead, bus_request_body(q), arena);
    if (m != NULL) {
        id = thole_bus_v1_AnswerRead_id(m);
        close = thole_bus_v1_AnswerRead_close(m);
    }
    upb_Arena_Free(arena);
    if (m == NULL) {
        refuse(q, "malformed request for a piece of an answer");
    } else if (answers_shard(a->answers, id, &shard_id) &&
               check_data(a, q, shard_id, &st) != THOLE_OK) {
        answers_close(a->answers, id);
        piece_read(q, &st, (struct bufslice){0}, false);
    } else if (close) {
        answers_close(a->answers, id);
        piece_read(q, &st, (struct bufslice){0}, true);
    } else {
        answers_next(a->answers, id, piece_read, q);
    }
}

/* ---- Watches of others ----------------------------------------------------------------------- */

struct served_watch {
    struct agent *agent;
    struct bus_request *request;
    uint32_t hops;
    uint64_t shard_id;
    _Atomic uint64_t id;   /* 0 until the watch was made */
    _Atomic bool unwanted; /* cancelled, or too slow */
    _Atomic uint32_t refs; /* the watch, the function that starts it, and the bus request */
    bool slow;
    struct thole_status lost; /* the right to watch; OK: not yet */
};

static void served_watch_unref(void *data)
{
    struct served_watch *w = data;
    if (atomic_fetch_sub(&w->refs, 1) == 1) {
        free(w);
    }
}

static void served_watch_stop(struct served_watch *w)
{
    atomic_store(&w->unwanted, true);
    uint64_t id = atomic_load(&w->id);
    if (id != 0) {
        agent_unwatch(w->agent, id);
    }
}

static void served_event(void *ctx, uint64_t index, struct slice key, struct slice event,
                         bool bookmark)
{
    struct served_watch *w = ctx;
    struct forward_reply f = {.index = index, .key = key, .result = event, .bookmark = bookmark};
    struct forward_space space;
    if (w->lost.code == THOLE_OK &&
        check_data(w->agent, w->request, w->shard_id, &w->lost) != THOLE_OK) {
        served_watch_stop(w);
    }
    if (w->lost.code != THOLE_OK) {
        return;
    }
    if (!w->slow && !bus_answer(w->request, router_encode_reply(&f, &space), true)) {
        w->slow = true;
        served_watch_stop(w);
    }
}

static void served_ended(void *ctx, const struct thole_status *st)
{
    struct served_watch *w = ctx;
    struct forward_reply f = {.failure = w->lost.code != THOLE_OK ? w->lost : *st};
    if (w->slow) {
        thole_status_set(&f.failure, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL, __FILE__,
                         __LINE__, "the watcher is too slow; watch again");
    }
    struct forward_space space;
    bus_answer(w->request, router_encode_reply(&f, &space), false);
    served_watch_unref(w);
}

static void served_cancel(void *ctx)
{
    served_watch_stop(ctx);
}

static void watch_resolved(void *ctx, const struct thole_status *st, uint64_t shard_id)
{
    struct served_watch *w = ctx;
    struct thole_status why = *st;
    if (why.code != THOLE_OK || check_data(w->agent, w->request, shard_id, &why) != THOLE_OK) {
        served_ended(w, &why);
        /* A reference of its own, which the analyzer does not count. */
        // NOLINTNEXTLINE(clang-analyzer-unix.Malloc)
        served_watch_unref(w);
        return;
    }
    w->shard_id = shard_id;
    const struct agent_watcher watcher = {.ctx = w, .event = served_event, .ended = served_ended};
    uint64_t id = router_watches_add(w->agent->watches, shard_id, w->hops, &watcher);
    atomic_store(&w->id, id);
    if (atomic_load(&w->unwanted)) {
        agent_unwatch(w->agent, id);
    }
    served_watch_unref(w);
}

void router_serve_watch(struct agent *a, struct bus_request *q)
{
    struct forwarded f;
    if (!router_decode_forward(bus_request_body(q), &f)) {
        refuse(q, "malformed request of a watch");
        return;
    }
    struct uuid from;
    struct thole_status st;
    bool zero = f.shard_name.size > 0 ? slice_equal(f.shard_name, slice_str(REGISTRY_SHARD_NAME))
                                      : f.shard_id == REGISTRY_SHARD_ID;
    if (zero && !bus_request_from(q, &from) && agent_refuse_zero(&st) != THOLE_OK) {
        bus_answer_failure(q, &st);
        return;
    }
    struct served_watch *w = xcalloc(1, sizeof *w);
    w->agent = a;
    w->request = q;
    w->hops = f.hops;
    atomic_store(&w->refs, 3);
    bus_request_set_data(q, w, served_watch_unref);
    bus_request_on_cancel(q, served_cancel, w);
    if (f.shard_name.size > 0) {
        agent_resolve(a, f.shard_name, f.slot_plus_1, clock_now(&clock_system) + SERVE_DEADLINE_NS,
                      watch_resolved, w);
    } else {
        watch_resolved(w, &(struct thole_status){0}, f.shard_id);
    }
}
