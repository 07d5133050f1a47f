/* The vtables between bus, engine, controllers and router.
 *
 *   engine  --frames-->        bus        engine_transport.send -> bus_send
 *   bus     --frames-->        engine     bus_handler.frame -> engine_deliver
 *   bus     --peer states-->   engine, hostctl
 *   engine  --replica state--> router's cache, hostctl, reconciler
 *   hostctl --commands-->      router     callbacks.propose -> agent_route on shard zero
 *   hostctl --addresses-->     addresses -> bus, reconciler (the peers file)
 *   bus     --hellos-->        addresses
 *   hostctl --reach queries--> bus, to other hosts: do they reach a silent host?
 *   bus     --signs of life--> hostctl
 *
 * Each function runs on its caller's thread, passes the call on and never blocks. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/access/access.h"
#include "agent/core/agent_internal.h"
#include "agent/core/outages.h"
#include "agent/core/reconciler.h"
#include "agent/core/wiring.h"
#include "agent/join/join.h"
#include "agent/join/peer_addresses.h"
#include "agent/join/peer_bootstrap.h"
#include "agent/repair/shard_repair.h"
#include "agent/routing/router_cache.h"
#include "agent/routing/router_serve.h"
#include "agent/snapshots/exports.h"
#include "base/log.h"

_Static_assert((int)ENGINE_LANE_CONTROL == (int)BUS_LANE_CONTROL &&
                   (int)ENGINE_LANE_APPEND == (int)BUS_LANE_APPEND &&
                   (int)ENGINE_LANE_SNAPSHOT == (int)BUS_LANE_SNAPSHOT,
               "the engine's lanes are the bus's");

/* ---- Engine and bus -------------------------------------------------------------------------- */

static enum thole_code transport_send(void *ctx, const struct uuid *host, enum engine_lane lane,
                                      struct bufslice frame)
{
    struct agent *a = ctx;
    return bus_send(a->bus, host, (enum bus_lane)lane, frame);
}

struct engine_transport agent__wiring_transport(struct agent *a)
{
    return (struct engine_transport){.ctx = a, .send = transport_send};
}

static void on_replica_changed(void *ctx, const struct engine_replica_status *s)
{
    struct agent *a = ctx;
    router_cache_set_local(router_get_cache(a->router), s);
    struct hostctl *h = atomic_load_explicit(&a->hostctl, memory_order_acquire);
    /* After damage a restart follows, which may cure the failure. */
    if (h != NULL && !(s->failed && atomic_load(&a->state_damaged))) {
        hostctl_replica_changed(h, s);
    }
    agent__outages_replica_changed(a, s);
    agent__reconciler_replica_changed(a->reconciler, s->shard_id);
}

static void on_host_failed(void *ctx, const struct thole_status *st)
{
    agent__fail(ctx, st);
}

static void on_leader_moved(void *ctx, uint64_t shard_id, uint64_t from, uint64_t to,
                            enum engine_move_reason reason)
{
    struct agent *a = ctx;
    struct hostctl *h = atomic_load_explicit(&a->hostctl, memory_order_acquire);
    if (h != NULL) {
        hostctl_leader_moved(h, shard_id, from, to, reason);
    }
}

static void on_fitness_changed(void *ctx)
{
    struct agent *a = ctx;
    struct hostctl *h = atomic_load_explicit(&a->hostctl, memory_order_acquire);
    agent__outages_disk_changed(a);
    if (h != NULL) {
        hostctl_fitness_changed(h);
    }
    agent__reconciler_wake(a->reconciler);
}

struct engine_observer agent__wiring_observer(struct agent *a)
{
    return (struct engine_observer){.ctx = a,
                                    .replica_changed = on_replica_changed,
                                    .leader_moved = on_leader_moved,
                                    .fitness_changed = on_fitness_changed,
                                    .host_failed = on_host_failed};
}

static void on_frame(void *ctx, const struct uuid *from, uint64_t incarnation, enum bus_lane lane,
                     struct bufslice frame)
{
    struct agent *a = ctx;
    hostctl_heard(atomic_load_explicit(&a->hostctl, memory_order_acquire), from);
    engine_deliver(a->engine, from, incarnation, (enum engine_lane)lane, bufslice_ref(frame));
}

static void on_peer_state(void *ctx, const struct uuid *host, bool up, uint64_t incarnation)
{
    struct agent *a = ctx;
    (void)incarnation;
    engine_peer_state(a->engine, host, up);
    hostctl_peer_state(atomic_load_explicit(&a->hostctl, memory_order_acquire), host, up);
    if (!up) {
        join__addresses_wake(a->peer_addresses);
    }
    agent__reconciler_wake(a->reconciler);
}

/* The hello has the host's current address, which the registry learns later. */
static void on_hello(void *ctx, const struct uuid *host, uint64_t incarnation, const char *address)
{
    struct agent *a = ctx;
    join__addresses_learn(a->peer_addresses, host, incarnation, address, ADDRESSES_HELLO);
}

enum thole_code agent__fail_removed(struct thole_status *st)
{
    return THOLE_FAIL(
        st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
        "this host was removed from the cluster; to join as a new host, start it with "
        "an empty data directory");
}

/* A permanent refusal ends this host; the bus has logged the others. */
static void on_refused(void *ctx, const struct uuid *host, const struct thole_status *st)
{
    (void)host;
    if (st->reason == THOLE_REASON_STALE_INCARNATION || st->reason == THOLE_REASON_REMOVED) {
        agent__fail(ctx, st);
    }
}

/* A row follows each start, so there is never a gap like this. */
#define STARTS_MISSED_MAX (UINT64_C(1) << 20)

/* Refuse a removed host that has handed over everything, a start that does not follow the start in
 * the view (the view knows starts that this host has not seen), and a certificate with another name
 * than the host's row: an id keeps the name under which it was first admitted. */
static enum thole_code on_admit(void *ctx, const struct bus_identity *who, uint64_t incarnation,
                                const struct lineage *lineage, struct thole_status *st)
{
    struct agent *a = ctx;
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Host *row = registry_host(v, &who->host_id);
    const thole_v1_HostStatus *s = row != NULL ? thole_v1_Host_status(row) : NULL;
    bool gone = row != NULL && thole_v1_Host_name(row).size == 0; /* a tombstone */
    enum lineage_verdict verdict =
        s != NULL ? lineage_judge(lineage, incarnation, thole_v1_HostStatus_incarnation(s),
                                  thole_v1_HostStatus_start(s))
                  : LINEAGE_FOLLOWS;
    upb_StringView name = row != NULL ? thole_v1_Host_name(row) : (upb_StringView){0};
    char known[LIMIT_NAME_BYTES + 1];
    snprintf(known, sizeof known, "%.*s", (int)name.size, name.size > 0 ? name.data : "");
    uint64_t last = s != NULL ? thole_v1_HostStatus_incarnation(s) : 0;
    registry_view_release(v);
    if (gone) {
        return agent__fail_removed(st);
    }
    if (who->secure && name.size > 0 && strcmp(known, who->name) != 0) {
        return THOLE_FAIL(st, THOLE_PERMISSION_DENIED, THOLE_REASON_WRONG_HOST,
                          "a host may speak for itself only: this id is that of \"%.60s\", and the "
                          "certificate is that of \"%.60s\"",
                          known, who->name);
    }
    if (last > 0 && incarnation > last + STARTS_MISSED_MAX) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "start number %" PRIu64 " of this host is made up: the last one in the "
                          "registry is %" PRIu64,
                          incarnation, last);
    }
    if (verdict == LINEAGE_FOLLOWS) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_INCARNATION,
                      "%s in the registry: this data directory is a copy, or was restored from a "
                      "backup; wipe it and join as a new host",
                      lineage_words(verdict));
}

/* The registry decides which of two processes of a host is the copy: it has recorded one first. */
static bool on_recorded(void *ctx, const struct uuid *host, uint64_t *ret_incarnation,
                        uint64_t *ret_number)
{
    struct agent *a = ctx;
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Host *row = registry_host(v, host);
    const thole_v1_HostStatus *s = row != NULL ? thole_v1_Host_status(row) : NULL;
    if (s != NULL) {
        *ret_incarnation = thole_v1_HostStatus_incarnation(s);
        *ret_number = thole_v1_HostStatus_start(s);
    }
    registry_view_release(v);
    return s != NULL;
}

void agent__report_denial(struct agent *a, struct bus_request *q, const struct bus_denial *d)
{
    struct bus_identity id;
    char path[ACCESS_METHOD_BYTES];
    const struct access_rule *rule = access_request_rule(bus_request_method(q));
    bus_request_identity(q, &id);
    snprintf(path, sizeof path, "/Library/%s", rule != NULL ? rule->method : "?");
    access_report(a->access, bus_request_user(q), id.address, path, d);
}

/* One byte: does this host reach the one whose id is the request's body? */
static void serve_reaches(struct agent *a, struct bus_request *q)
{
    struct slice body = bus_request_body(q);
    struct uuid about;
    struct thole_status st = {0};
    if (body.size != sizeof about.bytes) {
        thole_status_set(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __FILE__, __LINE__,
                         "the host id must have %zu bytes", sizeof about.bytes);
        bus_answer_failure(q, &st);
        return;
    }
    memcpy(about.bytes, body.data, sizeof about.bytes);
    const uint8_t reaches = bus_peer_up(a->bus, &about);
    struct buf *b = buf_copy(&reaches, 1);
    bus_answer(q, (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)}, false);
}

/* What comes from a host was judged where it came from. */
static bool may_request(struct agent *a, struct bus_request *q, struct thole_status *st)
{
    struct uuid from;
    struct bus_denial d;
    const struct access_rule *rule = access_request_rule(bus_request_method(q));
    if (rule == NULL || bus_request_from(q, &from)) {
        return true; /* an unknown method is refused below */
    }
    if (rule->level == ACCESS_HOSTS) {
        (void)THOLE_FAIL(st, THOLE_PERMISSION_DENIED, THOLE_REASON_HOSTS_ONLY,
                         "only hosts may call this method");
        return false;
    }
    if (access_admit_request(a->access, bus_request_user(q), rule, &d) == THOLE_OK) {
        return true;
    }
    agent__report_denial(a, q, &d);
    *st = d.st;
    return false;
}

void agent_serve_calls(struct agent *a, void (*serve)(void *ctx, struct bus_request *q), void *ctx)
{
    a->serve_call = serve;
    a->serve_call_ctx = ctx;
}

static void on_request(void *ctx, struct bus_request *q)
{
    struct agent *a = ctx;
    struct thole_status st = {0};
    if (atomic_load_explicit(&a->leaving, memory_order_relaxed)) {
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "the host is stopping");
        bus_answer_failure(q, &st);
        return;
    }
    uint32_t method = bus_request_method(q);
    if (!may_request(a, q, &st)) {
        bus_answer_failure(q, &st);
        return;
    }
    switch (method) {
    case METHOD_PROPOSE:
    case METHOD_QUERY:
    case METHOD_TRANSFER:
        router_serve_forward(a, q);
        return;
    case METHOD_WATCH:
        router_serve_watch(a, q);
        return;
    case METHOD_JOIN:
        agent__reconciler_join(a->reconciler, q);
        return;
    case METHOD_PEER_BOOTSTRAP:
        join__peer_bootstrap_serve(a, q);
        return;
    case METHOD_INSPECT:
        repair_serve_inspect(a, q);
        return;
    case METHOD_FORCE:
        repair_serve_force(a, q);
        return;
    case METHOD_SNAPSHOT:
        exports_serve(a->exports, q);
        return;
    case METHOD_ANSWER:
        router_serve_answer(a, q);
        return;
    case METHOD_ADDRESSES:
        join__addresses_serve(a->peer_addresses, q);
        return;
    case METHOD_REACHES:
        serve_reaches(a, q);
        return;
    case METHOD_CALL:
        if (a->serve_call == NULL) {
            break;
        }
        a->serve_call(a->serve_call_ctx, q);
        return;
    default:
        break;
    }
    thole_status_set(&st, THOLE_UNIMPLEMENTED, THOLE_REASON_NONE, __FILE__, __LINE__,
                     "unknown method between hosts: %u", (unsigned)bus_request_method(q));
    bus_answer_failure(q, &st);
}

/* ---- Who may do what ------------------------------------------------------------------------- */

struct access *agent_access(struct agent *a)
{
    return a->access;
}

static enum thole_code on_authorise(void *ctx, struct bus_rpc *rpc, const char *path,
                                    struct bus_denial *ret)
{
    struct agent *a = ctx;
    return access_admit(a->access, rpc, path, ret);
}

#define REFUSAL_DEADLINE_NS (5 * NS_PER_S)

static void refusal_recorded(void *ctx, const struct thole_status *st,
                             const thole_registry_v1_Result *result)
{
    (void)ctx; /* if it was not, the log has it */
    (void)st;
    (void)result;
}

/* An event about this host. */
static void on_refused_call(void *ctx, const struct access_refusal *r)
{
    struct agent *a = ctx;
    char host[UUID_TEXT_BYTES];
    upb_Arena *arena = upb_Arena_New();
    if (atomic_load_explicit(&a->hostctl, memory_order_acquire) != NULL &&
        agent_has_view(a, NULL)) {
        thole_registry_v1_Command *c = agent_command_new(r->actor, arena);
        thole_registry_v1_Operation **op = thole_registry_v1_Command_resize_operations(c, 1, arena);
        op[0] = thole_registry_v1_Operation_new(arena);
        thole_registry_v1_RecordRefusal *record =
            thole_registry_v1_Operation_mutable_record_refusal(op[0], arena);
        uuid_format(agent_host_id(a), host);
        registry_command_set_origin(c, r->address, r->method, arena);
        thole_registry_v1_RecordRefusal_set_host_id(record, upb_StringView_FromString(host));
        thole_registry_v1_RecordRefusal_set_why(record, upb_StringView_FromString(r->why));
        thole_registry_v1_RecordRefusal_set_others(record, r->others);
        agent_command(a, registry_command_encode(c, arena),
                      clock_now(executor_clock(a->executor)) + REFUSAL_DEADLINE_NS,
                      refusal_recorded, NULL);
    }
    upb_Arena_Free(arena);
}

static void open_access(struct agent *a)
{
    const struct access_options o = {.registry = a->registry,
                                     .clock = executor_clock(a->executor),
                                     .enforced = a->tls != NULL,
                                     .reflection_for_all = a->o.reflection_for_all,
                                     .refused = on_refused_call,
                                     .ctx = a};
    a->access = access_new(&o);
}

void agent__wiring_free_bus(struct agent *a)
{
    bus_free(a->bus);
    access_free(a->access);
}

struct bus_handler agent__wiring_bus_handler(struct agent *a)
{
    open_access(a);
    return (struct bus_handler){.ctx = a,
                                .frame = on_frame,
                                .peer_state = on_peer_state,
                                .request = on_request,
                                .refused = on_refused,
                                .admit = on_admit,
                                .recorded = on_recorded,
                                .met = on_hello,
                                .authorise = on_authorise};
}

/* ---- Controllers ----------------------------------------------------------------------------- */

#define COMMAND_DEADLINE_NS (10 * NS_PER_S)

struct proposed {
    struct router_request r;
    void (*done)(void *ctx, const struct thole_status *st, uint64_t code, struct slice result);
    void *ctx;
};

static void proposed_done(struct router_request *r)
{
    struct proposed *p = CONTAINER_OF(r, struct proposed, r);
    p->done(p->ctx, &r->status, r->code, r->result.bytes);
    bufslice_unref(r->result);
    free(p);
}

static void callback_propose(void *ctx, struct bufslice command,
                             void (*done)(void *done_ctx, const struct thole_status *st,
                                          uint64_t code, struct slice result),
                             void *done_ctx)
{
    struct agent *a = ctx;
    struct proposed *p = xcalloc(1, sizeof *p);
    p->done = done;
    p->ctx = done_ctx;
    p->r.kind = ROUTER_PROPOSE;
    p->r.shard_id = REGISTRY_SHARD_ID;
    p->r.payload = command;
    p->r.deadline_ns = clock_now(executor_clock(a->executor)) + COMMAND_DEADLINE_NS;
    p->r.done = proposed_done;
    agent_route(a, &p->r);
}

static void callback_host_address(void *ctx, const struct uuid *host, uint64_t incarnation,
                                  const char *address)
{
    struct agent *a = ctx;
    if (address != NULL) {
        join__addresses_learn(a->peer_addresses, host, incarnation, address, ADDRESSES_ROW);
    } else {
        join__addresses_forget(a->peer_addresses, host);
    }
}

#define REACHES_MS 700

struct reach_query {
    void (*done)(void *ctx, bool answered, bool reaches);
    void *ctx;
};

static void reaches_answered(void *ctx, const struct thole_status *st, struct bufslice body,
                             bool more)
{
    struct reach_query *q = ctx;
    if (more) {
        return;
    }
    bool answered = st->code == THOLE_OK && body.bytes.size == 1;
    q->done(q->ctx, answered, answered && body.bytes.data[0] != 0);
    free(q);
}

static void callback_reaches(void *ctx, const struct uuid *asked, const struct uuid *about,
                             void (*done)(void *done_ctx, bool answered, bool reaches),
                             void *done_ctx)
{
    struct agent *a = ctx;
    struct reach_query *q = xmalloc(sizeof *q);
    struct buf *b = buf_copy(about->bytes, sizeof about->bytes);
    q->done = done;
    q->ctx = done_ctx;
    (void)bus_exchange(a->bus, asked, METHOD_REACHES,
                       (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)},
                       REACHES_MS, reaches_answered, q);
}

struct hostctl_callbacks agent__wiring_callbacks(struct agent *a)
{
    return (struct hostctl_callbacks){.ctx = a,
                                      .propose = callback_propose,
                                      .host_address = callback_host_address,
                                      .reaches = callback_reaches};
}

/* ---- Router ---------------------------------------------------------------------------------- */

static bool is_eligible(struct agent *a, const struct uuid *host, const struct uuid *avoid)
{
    return !uuid_equal(host, agent_host_id(a)) && !uuid_equal(host, avoid);
}

/* At every other attempt the leader by the registry; else the shard's replicas with data in turn.
 * */
static bool pick_by_registry(struct agent *a, const struct registry_view *v, uint64_t shard_id,
                             uint32_t attempt, const struct uuid *avoid, struct uuid *ret)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    const thole_v1_Shard *s = registry_shard(v, shard_id, &shard_buf);
    const thole_v1_ShardStatus *st = s != NULL ? thole_v1_Shard_status(s) : NULL;
    if (st != NULL && attempt % 2 == 0) {
        upb_StringView name = thole_v1_ShardStatus_leader_host(st);
        const thole_v1_Host *h =
            name.size > 0 ? registry_host_by_name(v, registry_str(name)) : NULL;
        if (h != NULL && uuid_parse(registry_str(thole_v1_Host_id(h)), ret) &&
            is_eligible(a, ret, avoid)) {
            return true;
        }
    }
    struct uuid found[LIMIT_MEMBERS];
    uint32_t n = 0;
    const thole_v1_Replica *r = NULL;
    for (uint64_t after = 0;
         n < LIMIT_MEMBERS &&
         (r = registry_next_replica_of_shard(v, shard_id, after, &replica_buf)) != NULL;
         after = thole_v1_Replica_id(r)) {
        if (thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_RUN &&
            thole_v1_Replica_role(r) != thole_v1_REPLICA_ROLE_WITNESS &&
            uuid_parse(registry_str(thole_v1_Replica_host_id(r)), &found[n]) &&
            is_eligible(a, &found[n], avoid)) {
            n++;
        }
    }
    if (n == 0) {
        return false;
    }
    *ret = found[attempt % n];
    return true;
}

/* Without a view: the hosts that formed the cluster. */
static bool pick_by_identity(struct agent *a, uint32_t attempt, const struct uuid *avoid,
                             struct uuid *ret)
{
    bool found = false;
    pthread_mutex_lock(&a->lock);
    const struct member_list *l = &a->identity.first;
    for (uint32_t i = 0; i < l->count && !found; i++) {
        const struct uuid *host = &l->members[(attempt + i) % l->count].host;
        if (is_eligible(a, host, avoid)) {
            *ret = *host;
            found = true;
        }
    }
    pthread_mutex_unlock(&a->lock);
    return found;
}

static bool router_pick_host(void *ctx, uint64_t shard_id, uint32_t attempt,
                             const struct uuid *avoid, struct uuid *ret)
{
    struct agent *a = ctx;
    struct registry_view *v = registry_view_acquire(a->registry);
    bool found = pick_by_registry(a, v, shard_id, attempt, avoid, ret);
    registry_view_release(v);
    return found || (shard_id == REGISTRY_SHARD_ID && pick_by_identity(a, attempt, avoid, ret));
}

static bool router_shard_exists(void *ctx, uint64_t shard_id)
{
    struct agent *a = ctx;
    if (shard_id == REGISTRY_SHARD_ID) {
        return true;
    }
    struct registry_view *v = registry_view_acquire(a->registry);
    struct registry_shard_buf buf;
    struct uuid cluster;
    bool exists = true;
    if (registry_view_cluster(v, &cluster)) {
        const thole_v1_Shard *row = registry_shard(v, shard_id, &buf);
        /* A shard that is being deleted serves no requests, even while it waits for a dead host. */
        exists = row != NULL && !thole_v1_Shard_deleting(row);
    }
    registry_view_release(v);
    return exists;
}

static bool router_lacks_view(void *ctx, struct thole_status *st)
{
    return !agent_has_view(ctx, st);
}

static bool router_is_held(void *ctx, uint64_t shard_id)
{
    struct agent *a = ctx;
    return shard_id == REGISTRY_SHARD_ID && atomic_load(&a->repairing);
}

struct router_options agent__wiring_router(struct agent *a)
{
    return (struct router_options){
        .bus = a->bus,
        .self = *agent_host_id(a),
        .executor = a->executor,
        .ctx = a,
        .pick_host = router_pick_host,
        .shard_exists = router_shard_exists,
        .lacks_view = router_lacks_view,
        .is_held = router_is_held,
    };
}
