/* The router: how a request finds its leader. See router.h and README.md.
 *
 *   router_route -> attempt -> LOCAL  engine_submit / engine_transfer -> local_done  -\
 *                          REMOTE bus_exchange                   -> remote_done --> settle
 *                          NONE   no host known                                 -/    |
 *                                                                  done, or retry now or later
 *
 * Only the host where a request began (hops == 0) retries it, only if it certainly took no effect
 * (a query always), and only until its deadline. Waiting requests are in one FIFO per delay: with a
 * constant delay, the first in is the first due, so no timer structure is needed. */
#include "agent/routing/router.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/routing/forward_codec.h"
#include "agent/routing/router_cache.h"
#include "base/assert.h"
#include "base/metrics.h"

static METRIC_DEFINE_COUNTER(metric_local, "thole_router_local_total",
                             "Requests handed to a replica on this host");
static METRIC_DEFINE_COUNTER(metric_remote, "thole_router_remote_total",
                             "Requests sent to another host");
static METRIC_DEFINE_COUNTER(metric_retries, "thole_router_retries_total",
                             "Requests retried because they certainly took no effect");

static const uint32_t retry_delays_ms[] = {2, 5, 10, 25, 50, 100, 200};
#define RETRY_DELAYS (sizeof retry_delays_ms / sizeof retry_delays_ms[0])

struct router {
    struct router_options o;
    struct engine *engine; /* NULL in a client */
    const struct clock *clock;
    struct router_cache *cache;
    struct worker *worker;
    struct msgq waiting[RETRY_DELAYS]; /* the worker's */
    _Atomic bool stopping;
};

/* Who has a request. Each hand-over is checked: no request is ever in two places. */
enum place { PLACE_ROUTER, PLACE_ENGINE, PLACE_EXCHANGE, PLACE_WAITING, PLACE_DONE };

/* What the router keeps in router_request.internal. */
struct __attribute__((may_alias)) route {
    struct router *router;
    const char *shard_name;
    uint64_t due_ns;
    struct uuid target; /* of the exchange under way */
    struct uuid avoid;  /* failed last */
    uint16_t attempt;
    uint8_t delay;      /* index into retry_delays_ms */
    uint8_t place;      /* enum place */
    bool local_refused; /* the local replica cannot serve this query */
    bool by_hint;       /* a client: `find_leader` named the target */
};
_Static_assert(sizeof(struct route) <= sizeof(((struct router_request *)0)->internal),
               "the router's part of a request must fit");

static struct route *route_of(struct router_request *r)
{
    return (struct route *)(void *)r->internal;
}

static void move(struct router_request *r, enum place from, enum place to)
{
    struct route *rt = route_of(r);
    ASSERT(rt->place == from);
    rt->place = (uint8_t)to;
}

static void attempt(struct router_request *r);
static void finish_or_retry(struct router_request *r, bool learned);

static void finish(struct router_request *r)
{
    if (r->status.reason != THOLE_REASON_NO_SUCH_SHARD || r->shard_id == REGISTRY_SHARD_ID) {
        struct bufslice payload = r->payload;
        r->payload = (struct bufslice){0};
        bufslice_unref(payload);
    }
    move(r, PLACE_ROUTER, PLACE_DONE);
    r->done(r); /* may free the request */
}

/* ---- Targets --------------------------------------------------------------------------------- */

enum target { TARGET_LOCAL, TARGET_REMOTE, TARGET_NONE };

static bool is_candidate(const struct router *ro, const struct route *rt, const struct uuid *host)
{
    return !uuid_is_nil(host) && !uuid_equal(host, &ro->o.self) && !uuid_equal(host, &rt->avoid);
}

/* A replica that has not changed since the start has not been reported yet. Its status is not put
 * into the cache: a newer report may arrive meanwhile. */
static void read_local_replica(struct router *ro, uint64_t shard_id, struct route_hint *ret)
{
    struct engine_replica_status s;
    if (!engine_shard_status(ro->engine, shard_id, &s)) {
        return;
    }
    ret->local = true;
    ret->local_serves = router_is_serving_replica(&s);
    ret->local_leads = s.role == RAFT_LEADER && !s.failed;
    ret->leader_host = s.leader_host;
}

static enum target choose_target(struct router *ro, struct router_request *r)
{
    struct route *rt = route_of(r);
    struct route_hint h = {0};
    if (ro->o.is_held != NULL && r->kind != ROUTER_QUERY && ro->o.is_held(ro->o.ctx, r->shard_id)) {
        return TARGET_NONE;
    }
    if (ro->engine != NULL) {
        if (!router_cache_get(ro->cache, r->shard_id, &h)) {
            read_local_replica(ro, r->shard_id, &h);
        }
        /* Queries of shard zero synchronise this host's view (agent_barrier): only locally. */
        if (r->kind == ROUTER_QUERY && r->shard_id == REGISTRY_SHARD_ID) {
            return h.local && h.local_serves ? TARGET_LOCAL : TARGET_NONE;
        }
        if (r->kind == ROUTER_QUERY ? h.local && h.local_serves && !rt->local_refused
                                    : h.local_leads) {
            return TARGET_LOCAL;
        }
    }
    /* Wrong hints may form a cycle. */
    if (r->hops >= ROUTER_HOPS_MAX) {
        return TARGET_NONE;
    }
    /* Skip a replica that knows no leader: its group cannot answer. */
    if (is_candidate(ro, rt, &h.leader_host)) {
        rt->target = h.leader_host;
        return TARGET_REMOTE;
    }
    rt->by_hint = ro->o.find_leader != NULL && r->kind != ROUTER_QUERY &&
                  ro->o.find_leader(ro->o.ctx, r, &rt->avoid, &rt->target);
    if (rt->by_hint) {
        return TARGET_REMOTE;
    }
    if (ro->o.pick_host(ro->o.ctx, r->shard_id, rt->attempt, &rt->avoid, &rt->target)) {
        return TARGET_REMOTE;
    }
    return TARGET_NONE;
}

/* ---- Local ----------------------------------------------------------------------------------- */

static void local_done(struct engine_request *e)
{
    struct router_request *r = CONTAINER_OF(e, struct router_request, engine);
    struct router *ro = route_of(r)->router;
    move(r, PLACE_ENGINE, PLACE_ROUTER);
    if (e->status.code == THOLE_OK) {
        r->status.code = THOLE_OK;
        r->status.reason = THOLE_REASON_NONE;
        r->index = e->index;
        r->term = e->term;
        r->code = e->code;
        r->duplicate = e->duplicate;
        r->forgotten = e->forgotten;
        r->here = true;
        r->result = e->result;
        r->reader = e->reader;
        finish(r);
        return;
    }
    bufslice_unref(e->result);
    r->status = e->status;
    bool learned = false;
    if (e->status.reason == THOLE_REASON_NOT_LEADER) {
        learned = is_candidate(ro, route_of(r), &e->leader_host);
        router_cache_set_leader(ro->cache, r->shard_id, e->leader_term, &e->leader_host);
    } else if (e->status.reason == THOLE_REASON_NO_SUCH_SHARD) {
        router_cache_remove_local(ro->cache, r->shard_id);
        if (ro->o.shard_exists(ro->o.ctx, r->shard_id)) { /* only the replica was removed */
            thole_status_set(&r->status, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY, __FILE__,
                             __LINE__, "this host has no replica of shard %" PRIu64 " now",
                             r->shard_id);
        }
    }
    if (r->kind == ROUTER_QUERY) {
        route_of(r)->local_refused = true;
    }
    finish_or_retry(r, learned);
}

static void transfer_done(void *ctx, const struct thole_status *st)
{
    struct router_request *r = ctx;
    move(r, PLACE_ENGINE, PLACE_ROUTER);
    if (st != NULL && st->code != THOLE_OK) {
        r->status = *st;
    } else {
        r->status.code = THOLE_OK;
    }
    finish_or_retry(r, false);
}

static enum engine_request_kind engine_kind(enum router_kind kind)
{
    switch (kind) {
    case ROUTER_PROPOSE:
        return ENGINE_PROPOSE;
    case ROUTER_OPEN_SESSION:
        return ENGINE_OPEN_SESSION;
    case ROUTER_CLOSE_SESSION:
        return ENGINE_CLOSE_SESSION;
    case ROUTER_QUERY:
        return ENGINE_QUERY;
    case ROUTER_TRANSFER: /* not a request of the engine */
        break;
    }
    ASSERT(false);
    return ENGINE_QUERY;
}

static void submit_local(struct router *ro, struct router_request *r)
{
    metric_add(&metric_local, 1);
    move(r, PLACE_ROUTER, PLACE_ENGINE);
    if (r->kind == ROUTER_TRANSFER) {
        engine_transfer(ro->engine, r->shard_id, r->target_replica, &r->index, transfer_done, r);
        return;
    }
    struct engine_request *e = &r->engine;
    memset(e, 0, offsetof(struct engine_request, index)); /* the engine clears the rest */
    e->kind = engine_kind(r->kind);
    e->shard_id = r->shard_id;
    e->payload = bufslice_ref(r->payload);
    e->session = r->session;
    e->sequence = r->sequence;
    e->request_id = r->request_id;
    e->streamed = r->streamed;
    e->stale = r->stale;
    e->max_staleness_ms = r->max_staleness_ms;
    e->deadline_ns = r->deadline_ns;
    e->done = local_done;
    engine_submit(ro->engine, e);
}

/* ---- Remote ---------------------------------------------------------------------------------- */

static void remote_failed(struct router *ro, struct router_request *r,
                          const struct thole_status *st)
{
    struct route *rt = route_of(r);
    r->status = *st;
    if (st->code == THOLE_UNAVAILABLE || st->code == THOLE_UNKNOWN) {
        router_cache_forget_leader(ro->cache, r->shard_id, &rt->target);
        rt->avoid = rt->target;
        if (ro->o.learn_leader != NULL) {
            ro->o.learn_leader(ro->o.ctx, r, &(struct uuid){{0}});
        }
        if (ro->o.host_unreachable != NULL) {
            ro->o.host_unreachable(ro->o.ctx, &rt->target);
        }
    }
    finish_or_retry(r, false);
}

static void remote_done(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    struct router_request *r = ctx;
    struct route *rt = route_of(r);
    struct router *ro = rt->router;
    if (more) {
        return;
    }
    move(r, PLACE_EXCHANGE, PLACE_ROUTER);
    if (st->code != THOLE_OK) {
        remote_failed(ro, r, st);
        return;
    }
    struct forward_reply f;
    if (!router_decode_reply(body.bytes, &f)) {
        thole_status_set(&r->status, THOLE_INTERNAL, THOLE_REASON_NONE, __FILE__, __LINE__,
                         "malformed reply from another host");
        finish(r);
        return;
    }
    bool learned = is_candidate(ro, rt, &f.leader_host) && !uuid_equal(&f.leader_host, &rt->target);
    if (ro->engine != NULL && !uuid_is_nil(&f.leader_host)) {
        router_cache_set_leader(ro->cache, r->shard_id, f.leader_term, &f.leader_host);
    }
    if (ro->o.learn_leader != NULL &&
        (f.failure.code != THOLE_OK || !uuid_is_nil(&f.leader_host))) {
        ro->o.learn_leader(ro->o.ctx, r, &f.leader_host);
    }
    if (f.failure.code != THOLE_OK) {
        r->status = f.failure;
        if (!learned) {
            router_cache_forget_leader(ro->cache, r->shard_id, &rt->target);
            rt->avoid = rt->target;
        }
        finish_or_retry(r, learned);
        return;
    }
    r->status.code = THOLE_OK;
    r->status.reason = THOLE_REASON_NONE;
    r->index = f.index;
    r->term = f.term;
    r->code = f.code;
    r->duplicate = f.duplicate;
    r->forgotten = f.forgotten;
    r->here = false;
    r->result = bufslice_keep((struct bufslice){body.owner, f.result});
    r->answer_id = f.answer;
    r->answer_host = rt->target;
    finish(r);
}

static uint32_t method_of(enum router_kind kind)
{
    switch (kind) {
    case ROUTER_PROPOSE:
    case ROUTER_OPEN_SESSION:
    case ROUTER_CLOSE_SESSION:
        return 1; /* METHOD_PROPOSE */
    case ROUTER_QUERY:
        return 2; /* METHOD_QUERY */
    case ROUTER_TRANSFER:
        return 4; /* METHOD_TRANSFER */
    }
    ASSERT(false);
    return 0;
}

static void send_remote(struct router *ro, struct router_request *r, uint64_t now)
{
    struct route *rt = route_of(r);
    ASSERT(r->hops < ROUTER_HOPS_MAX && now < r->deadline_ns);
    metric_add(&metric_remote, 1);
    move(r, PLACE_ROUTER, PLACE_EXCHANGE);
    /* Rounded down, so that no hop extends the deadline; 0 would mean no limit. */
    uint64_t left_ms = (r->deadline_ns - now) / NS_PER_MS;
    left_ms = left_ms > 0 ? left_ms : 1;
    /* A partitioned former leader must not hold the request until its deadline: a host does not
     * retry a forwarded request (hops > 0), its sender does. */
    uint32_t hop = ro->engine != NULL || rt->by_hint;
    struct forward_space space;
    r->hops += hop;
    struct bufslice body = router_encode_forward(r, rt->shard_name, &space);
    r->hops -= hop;
    bus_exchange(ro->o.bus, &rt->target, method_of(r->kind), body,
                 left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX, remote_done, r);
}

/* ---- Retries --------------------------------------------------------------------------------- */

static bool is_safe_to_retry(struct router *ro, const struct router_request *r)
{
    if (r->status.reason == THOLE_REASON_TOO_STALE) {
        return false; /* the caller prefers this refusal to an older or later answer */
    }
    if (r->kind == ROUTER_QUERY &&
        (r->status.code == THOLE_UNAVAILABLE || r->status.code == THOLE_UNKNOWN)) {
        return true;
    }
    if (r->kind == ROUTER_TRANSFER) {
        return r->status.reason == THOLE_REASON_NOT_LEADER;
    }
    switch ((int)r->status.reason) {
    case THOLE_REASON_NOT_LEADER:
    case THOLE_REASON_NO_LEADER:
    case THOLE_REASON_UNREACHABLE:
    case THOLE_REASON_TRANSFERRING:
    case THOLE_REASON_NOT_READY:
    case THOLE_REASON_DROPPED:
    case THOLE_REASON_STOPPED:
        return true;
    case THOLE_REASON_MACHINE_FAILED: /* another replica will lead soon */
        return r->status.code == THOLE_UNAVAILABLE;
    case THOLE_REASON_NO_SUCH_SHARD:
        return ro->engine != NULL && ro->o.shard_exists(ro->o.ctx, r->shard_id);
    default:
        return false;
    }
}

static void retry_later(struct router *ro, struct router_request *r)
{
    struct route *rt = route_of(r);
    rt->delay = (uint8_t)(rt->attempt < RETRY_DELAYS ? rt->attempt : RETRY_DELAYS - 1);
    uint64_t delay_ns = retry_delays_ms[rt->delay] * NS_PER_MS;
    uint64_t now = clock_now(ro->clock);
    rt->due_ns = now + delay_ns;
    if (rt->due_ns >= r->deadline_ns) { /* the last failure says more than DEADLINE_EXCEEDED */
        finish(r);
        return;
    }
    move(r, PLACE_ROUTER, PLACE_WAITING);
    if (!worker_post_internal(ro->worker, &r->engine.msg)) {
        move(r, PLACE_WAITING, PLACE_ROUTER);
        thole_status_set(&r->status, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "the host is stopping");
        finish(r);
    }
}

static void finish_or_retry(struct router_request *r, bool learned)
{
    struct route *rt = route_of(r);
    struct router *ro = rt->router;
    if (r->status.code == THOLE_OK || r->hops > 0 || atomic_load(&ro->stopping) ||
        !is_safe_to_retry(ro, r)) {
        finish(r);
        return;
    }
    metric_add(&metric_retries, 1);
    if (rt->attempt < UINT16_MAX) {
        rt->attempt++;
    }
    /* Try a newly named leader at once, but not forever: two hosts may name each other. */
    if (learned && rt->attempt % 4 != 0) {
        attempt(r);
        return;
    }
    retry_later(ro, r);
}

/* ---- Entry ----------------------------------------------------------------------------------- */

static void attempt(struct router_request *r)
{
    struct route *rt = route_of(r);
    struct router *ro = rt->router;
    uint64_t now = clock_now(ro->clock);
    if (now >= r->deadline_ns) {
        if (r->status.code == THOLE_OK) {
            thole_status_set(&r->status, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE, __FILE__,
                             __LINE__, "the deadline passed before the request was sent");
        }
        finish(r);
        return;
    }
    switch (choose_target(ro, r)) {
    case TARGET_LOCAL:
        submit_local(ro, r);
        return;
    case TARGET_REMOTE:
        send_remote(ro, r, now);
        return;
    case TARGET_NONE:
        break;
    }
    rt->avoid = (struct uuid){{0}};
    rt->local_refused = false;
    if (ro->o.lacks_view != NULL && ro->o.lacks_view(ro->o.ctx, &r->status)) {
        finish_or_retry(r, false);
        return;
    }
    if (!ro->o.shard_exists(ro->o.ctx, r->shard_id)) {
        thole_status_set(&r->status, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD, __FILE__,
                         __LINE__, "shard %" PRIu64 " not found, or being deleted", r->shard_id);
    } else if (r->status.code == THOLE_OK || r->status.reason == THOLE_REASON_NOT_LEADER) {
        thole_status_set(&r->status, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER, __FILE__, __LINE__,
                         "no leader of shard %" PRIu64 " is known", r->shard_id);
    }
    finish_or_retry(r, false);
}

void router_route(struct router *ro, struct router_request *r, const char *shard_name)
{
    struct route *rt = route_of(r);
    ASSERT(r->done != NULL && r->deadline_ns > 0);
    memset(rt, 0, sizeof *rt);
    rt->router = ro;
    rt->shard_name = shard_name;
    r->status.code = THOLE_OK;
    r->status.reason = THOLE_REASON_NONE;
    r->status.message[0] = 0;
    r->result = (struct bufslice){0};
    r->index = r->term = r->code = r->answer_id = 0;
    r->reader = NULL;
    r->duplicate = r->forgotten = false;
    if (atomic_load_explicit(&ro->stopping, memory_order_relaxed)) {
        thole_status_set(&r->status, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "the host is stopping");
        finish(r);
        return;
    }
    attempt(r);
}

/* ---- The worker of waiting requests ---------------------------------------------------------- */

static uint64_t retry_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct router *ro = ctx;
    ASSERT(worker_is_current(ro->worker)); /* `waiting` has no lock */
    for (struct worker_msg *m; (m = msgq_pop(batch)) != NULL;) {
        struct router_request *r = CONTAINER_OF(m, struct router_request, engine.msg);
        msgq_push(&ro->waiting[route_of(r)->delay], m);
    }
    uint64_t next = CLOCK_NEVER;
    for (size_t i = 0; i < RETRY_DELAYS; i++) {
        struct msgq *q = &ro->waiting[i];
        while (q->head != NULL) {
            struct router_request *r = CONTAINER_OF(q->head, struct router_request, engine.msg);
            uint64_t due = route_of(r)->due_ns;
            if (due > now_ns && !atomic_load(&ro->stopping)) {
                next = due < next ? due : next;
                break;
            }
            msgq_pop(q);
            move(r, PLACE_WAITING, PLACE_ROUTER);
            attempt(r);
        }
    }
    return next;
}

struct router *router_new(const struct router_options *o)
{
    struct router *ro = xcalloc(1, sizeof *ro);
    ro->o = *o;
    ro->clock = executor_clock(o->executor);
    ro->cache = router_cache_new(&o->self);
    ro->worker = worker_new(o->executor, "router", 1u << 20, retry_turn, ro);
    return ro;
}

void router_set_engine(struct router *ro, struct engine *e)
{
    ASSERT(ro->engine == NULL && e != NULL);
    ro->engine = e;
}

void router_stop(struct router *ro)
{
    if (ro == NULL) {
        return;
    }
    atomic_store(&ro->stopping, true);
    worker_stop(ro->worker);
    for (size_t i = 0; i < RETRY_DELAYS; i++) {
        for (struct worker_msg *m; (m = msgq_pop(&ro->waiting[i])) != NULL;) {
            struct router_request *r = CONTAINER_OF(m, struct router_request, engine.msg);
            move(r, PLACE_WAITING, PLACE_ROUTER);
            thole_status_set(&r->status, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__,
                             __LINE__, "the host is stopping");
            finish(r);
        }
    }
}

void router_free(struct router *ro)
{
    if (ro == NULL) {
        return;
    }
    worker_free(ro->worker);
    router_cache_free(ro->cache);
    free(ro);
}

struct router_cache *router_get_cache(struct router *ro)
{
    return ro->cache;
}
