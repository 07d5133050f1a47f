/* The agent: opens a host's parts in order, and closes them in the reverse order.
 *
 *   data directory -> log and state stores -> registry -> bus (silent) -> engine -> router,
 *   watches, reconciler -> controllers -> bus (answers) -> bootstrap
 *
 * The bus exists before the engine because the engine sends from its first moment; it answers only
 * after everything that it hands requests to is there. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/core/agent_internal.h"
#include "agent/core/agent_options.h"
#include "agent/core/answers.h"
#include "agent/core/availability.h"
#include "agent/core/health.h"
#include "agent/core/outages.h"
#include "agent/core/reconciler.h"
#include "agent/core/stores.h"
#include "agent/core/tags.h"
#include "agent/core/wiring.h"
#include "agent/join/join.h"
#include "agent/join/peer_addresses.h"
#include "agent/join/peer_bootstrap.h"
#include "agent/join/replace_zero.h"
#include "agent/repair/repair_zero.h"
#include "agent/routing/router_serve.h"
#include "agent/routing/router_watches.h"
#include "agent/snapshots/exports.h"
#include "agent/snapshots/uploads.h"
#include "base/address.h"
#include "base/assert.h"
#include "base/file.h"
#include "base/latch.h"
#include "base/log.h"
#include "shards/machine/builtin.h"

/* Control-plane and data calls of gRPC clients in progress at once; more are refused. */
#define UNARY_CALLS_MAX 4096

/* How long calls may finish. Streams of peers never end by themselves: the drain takes all of it.
 * */
#define BUS_GRACE_MS 300
/* How long requests are refused before connections are cut: some round trips of a slow network. */
#define LEAVE_MS 100
/* Of a stop: time to retry a handoff whose first target does not answer. */
#define HAND_OVER_NS (3 * NS_PER_S)
#define HAND_OVER_ALONE_NS (200 * NS_PER_MS) /* no other host can take a leadership */
#define FORWARDED_POOLED_MAX 4096            /* about 5 MiB */

/* ---- Small getters --------------------------------------------------------------------------- */

struct registry *agent_registry(struct agent *a)
{
    return a->registry;
}

struct engine *agent_engine(struct agent *a)
{
    return a->engine;
}

struct bus_tls *agent_tls(const struct agent *a)
{
    return a->tls;
}

struct answers *agent_answers(struct agent *a)
{
    return a->answers;
}

struct bus *agent_bus(struct agent *a)
{
    return a->bus;
}

const struct uuid *agent_host_id(const struct agent *a)
{
    return &a->identity.host; /* never changes while the agent is open */
}

const char *agent_version(void)
{
    return AGENT_VERSION;
}

const char *agent_address(const struct agent *a)
{
    return bus_address(a->bus);
}

const char *agent_name(const struct agent *a)
{
    return a->identity.name; /* never changes while the agent is open */
}

uint64_t agent_incarnation(const struct agent *a)
{
    return a->incarnation;
}

bool agent_cluster(struct agent *a, struct uuid *ret)
{
    pthread_mutex_lock(&a->lock);
    bool member = a->member;
    if (member) {
        *ret = a->identity.cluster;
    }
    pthread_mutex_unlock(&a->lock);
    return member;
}

bool agent_is_stopping(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    bool stopping = a->stopping;
    pthread_mutex_unlock(&a->lock);
    return stopping;
}

/* ---- Readiness and failure ------------------------------------------------------------------- */

void agent_signal(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    a->changes++;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

bool agent_wait(struct agent *a, uint64_t deadline_ns,
                bool (*predicate)(struct agent *a, void *ctx), void *ctx)
{
    for (bool in_time = true;;) {
        pthread_mutex_lock(&a->lock);
        uint64_t seen = a->changes;
        pthread_mutex_unlock(&a->lock);
        if (predicate(a, ctx)) {
            return true;
        }
        if (!in_time) {
            return false;
        }
        pthread_mutex_lock(&a->lock);
        while (!a->stopping && a->changes == seen && in_time) {
            in_time = clock_cond_wait(&a->changed, &a->lock, deadline_ns);
        }
        bool stopping = a->stopping;
        pthread_mutex_unlock(&a->lock);
        if (stopping) {
            return predicate(a, ctx);
        }
    }
}

void agent__set_waiting_for(struct agent *a, const char *format, ...)
{
    char text[sizeof a->waiting_for];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pthread_mutex_lock(&a->lock);
    bool changed = strcmp(text, a->waiting_for) != 0;
    if (changed) {
        memcpy(a->waiting_for, text, sizeof text);
        a->changes++;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    if (changed && text[0]) {
        LOG_INFO(AGENT, "%s", text);
    }
}

void agent__fail(struct agent *a, const struct thole_status *st)
{
    pthread_mutex_lock(&a->lock);
    bool first = !a->failed && !a->stopping;
    a->failed = true;
    pthread_mutex_unlock(&a->lock);
    if (!first) {
        return;
    }
    LOG_ERROR(AGENT, "host failed reason=%s error=\"%s\"; the process should stop",
              thole_reason_name(st->reason), st->message);
    agent__set_waiting_for(a, "host failed: %s", st->message);
    /* A copy of a disk has forgotten what the original has promised and acknowledged since. */
    if (st->reason == THOLE_REASON_STALE_INCARNATION && a->engine != NULL) {
        engine_fence(a->engine, st);
    }
    if (a->o.failed != NULL) {
        a->o.failed(a->o.failed_ctx, st);
    }
}

void agent__request_restart(struct agent *a, const char *format, ...)
{
    struct thole_status st = {.code = THOLE_UNAVAILABLE, .reason = THOLE_REASON_STOPPED};
    char why[THOLE_STATUS_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                     "this host must restart: %s", why);
    agent__fail(a, &st);
}

/* Why shard zero cannot be written through this host now; NULL: it can. */
static const char *describe_zero_problem(struct agent *a, const struct registry_view *v, char *text,
                                         size_t size)
{
    struct registry_shard_buf buf;
    struct shard_availability now = {0};
    const struct availability_check check = agent_availability_begin(a, v);
    const thole_v1_Shard *row = registry_shard(v, REGISTRY_SHARD_ID, &buf);
    if (check.view_age_ms > 0) {
        snprintf(text, size, "%s for %.1f s", check.view_problem, (double)check.view_age_ms / 1000);
    } else if (row != NULL) {
        agent_check_shard(&check, row, &now);
    }
    if (check.view_age_ms > 0 || row == NULL || now.available_here) {
        return check.view_age_ms > 0 ? text : NULL;
    }
    snprintf(text, size, "shard zero: %.220s", now.message);
    return text;
}

bool agent_is_ready(struct agent *a, char *ret_reason, size_t reason_bytes)
{
    struct engine_replica_status s;
    const char *why = NULL;
    char text[THOLE_STATUS_MESSAGE_BYTES];
    pthread_mutex_lock(&a->lock);
    bool member = a->member && !a->stopping && !a->failed;
    if (!member) {
        snprintf(ret_reason, reason_bytes, "%s",
                 a->stopping         ? "the host is stopping"
                 : a->waiting_for[0] ? a->waiting_for
                                     : "not yet a member of a cluster");
    }
    pthread_mutex_unlock(&a->lock);
    if (!member) {
        return false;
    }
    struct registry_view *v = registry_view_acquire(a->registry);
    bool any = registry_view_revision(v) > 0;
    if (!engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s)) {
        why = "this host's replica of shard zero is not running";
    } else {
        why = describe_zero_problem(a, v, text, sizeof text);
    }
    if (why == NULL && !any) {
        why = "the registry is still empty";
    } else if (why == NULL && !agent__row_is_current(a, v)) {
        why = "this host has not yet reported itself to the registry since it started";
    }
    registry_view_release(v);
    if (why != NULL) {
        snprintf(ret_reason, reason_bytes, "%s", why);
    } else if (reason_bytes > 0) {
        ret_reason[0] = 0;
    }
    return why == NULL;
}

/* ---- This host's row ------------------------------------------------------------------------- */

static upb_StringView arena_text(upb_Arena *arena, const char *s)
{
    size_t n = strlen(s);
    char *copy = upb_Arena_Malloc(arena, n + 1);
    memcpy(copy, s, n + 1);
    return upb_StringView_FromDataAndSize(copy, n);
}

upb_StringView agent__lineage(const struct agent *a, upb_Arena *arena)
{
    uint8_t *bytes = upb_Arena_Malloc(arena, LINEAGE_BYTES_MAX);
    return upb_StringView_FromDataAndSize((const char *)bytes, lineage_encode(&a->lineage, bytes));
}

thole_v1_Host *agent__host_row(struct agent *a, upb_Arena *arena)
{
    char id[UUID_TEXT_BYTES];
    thole_v1_Host *h = thole_v1_Host_new(arena);
    uuid_format(agent_host_id(a), id);
    thole_v1_Host_set_name(h, arena_text(arena, agent_name(a)));
    thole_v1_Host_set_id(h, arena_text(arena, id));
    thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec(h, arena);
    thole_v1_HostSpec_set_state(spec, thole_v1_HOST_STATE_ACTIVE);
    agent__tags_set(spec, a->tags, arena);
    thole_v1_HostStatus *st = thole_v1_Host_mutable_status(h, arena);
    thole_v1_HostStatus_set_address(st, arena_text(arena, agent_address(a)));
    thole_v1_HostStatus_set_liveness(st, thole_v1_HOST_LIVENESS_LIVE);
    thole_v1_HostStatus_set_incarnation(st, a->incarnation);
    thole_v1_HostStatus_set_start(st, a->lineage.start);
    thole_v1_HostStatus_set_version(st, arena_text(arena, agent_version()));
    for (size_t i = 0; i < a->type_count; i++) {
        if (a->types[i] == registry_machine_type(a->registry)) {
            continue;
        }
        thole_v1_MachineType *t = thole_v1_HostStatus_add_machine_types(st, arena);
        thole_v1_MachineType_set_name(t, arena_text(arena, a->types[i]->name));
        thole_v1_MachineType_set_version(t, a->types[i]->version);
    }
    return h;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static struct agent *agent_alloc(const struct agent_options *o)
{
    struct agent *a = xcalloc(1, sizeof *a);
    a->outages = agent__outages_new();
    pool_init(&a->forwarded, router_forwarded_bytes(), FORWARDED_POOLED_MAX);
    a->o = *o;
    a->o.election_timeout_ms =
        o->election_timeout_ms ? o->election_timeout_ms : ENGINE_ELECTION_TIMEOUT_MS;
    a->dir.lock_fd = -1;
    a->bootstrap = o->bootstrap;
    a->listen = o->listen != NULL ? xstrdup(o->listen) : NULL;
    a->advertise = o->advertise != NULL ? xstrdup(o->advertise) : NULL;
    a->addresses = o->addresses != NULL ? xstrdup(o->addresses) : NULL;
    struct bytes tags = {0};
    for (size_t i = 0; i < o->tag_count; i++) {
        bytes_printf(&tags, "%s%s", i > 0 ? "," : "", o->tags[i]);
    }
    a->tags = tags.size > 0 ? xstrndup((const char *)tags.data, tags.size) : xstrdup("");
    bytes_deinit(&tags);
    pthread_mutex_init(&a->lock, NULL);
    clock_cond_init(&a->changed);
    latch_init(&a->stop);
    return a;
}

static enum thole_code open_bus(struct agent *a, struct thole_status *st)
{
    agent__options_default_listen(a);
    enum thole_code code =
        a->tls != NULL ? THOLE_OK : agent_check_plain("listen", a->listen, a->o.insecure, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (agent_exposed(a)) {
        LOG_WARN(AGENT,
                 "connections are in plain text, and anybody who reaches this host may do anything "
                 "listen=%s; give certificates instead of --insecure",
                 a->listen);
    }
    const struct bus_options o = {
        .listen_address = a->listen,
        .advertise_address = a->advertise,
        .host_id = a->identity.host,
        .cluster_id = a->identity.cluster,
        .incarnation = a->incarnation,
        .lineage = a->lineage,
        .version = agent_version(),
        .log_host = a->identity.name,
        .clock = executor_clock(a->executor),
        .unary_slots = UNARY_CALLS_MAX,
        .handler = agent__wiring_bus_handler(a),
        .tls = a->tls,
    };
    code = bus_new(&o, &a->bus, st);
    return code == THOLE_OK ? agent__options_save_listen(a, st) : code;
}

static void collect_types(struct agent *a)
{
    a->types[a->type_count++] = registry_machine_type(a->registry);
    for (size_t i = 0; i < MACHINE_BUILTIN_COUNT; i++) {
        a->types[a->type_count++] = machine_builtin[i];
    }
    for (size_t i = 0; i < a->o.type_count; i++) {
        a->types[a->type_count++] = a->o.types[i];
    }
    ASSERT(a->type_count <= AGENT_TYPES_MAX);
}

static enum thole_code open_engine(struct agent *a, struct thole_status *st)
{
    const struct engine_options o = {
        .host_id = a->identity.host,
        .incarnation = a->incarnation,
        .log = a->log,
        .state = a->state,
        .seeds = uploads_files(a->uploads),
        .directory =
            a->dir.path, /* the engine creates snapshots/ and the machines' folders there */
        .executor = a->executor,
        .transport = agent__wiring_transport(a),
        .observer = agent__wiring_observer(a),
        .loop_count = a->o.loop_count,
        .applier_count = a->o.applier_count,
        .election_timeout_ms = a->o.election_timeout_ms,
        .heartbeat_ms = a->o.heartbeat_ms,
        .compact_log_bytes = a->o.compact_log_bytes,
        .snapshot_bytes_per_s = a->o.snapshot_bytes_per_s,
        .types = a->types,
    };
    return engine_new(&o, &a->engine, st);
}

static void on_view(void *ctx, uint64_t revision)
{
    struct agent *a = ctx;
    (void)revision;
    if (a->reconciler != NULL) {
        agent__reconciler_wake(a->reconciler);
    }
    uploads_wake(a->uploads);
}

static void known_peer(void *ctx, const struct uuid *host, uint64_t incarnation,
                       const char *address)
{
    struct agent *a = ctx;
    join__addresses_learn(a->peer_addresses, host, incarnation, address, ADDRESSES_RELAYED);
}

void agent__learn_members(struct agent *a, const struct member_list *l)
{
    for (uint32_t i = 0; i < l->count; i++) {
        known_peer(a, &l->members[i].host, 0, l->members[i].address);
    }
}

static void open_rest(struct agent *a)
{
    const struct hostctl_options ho = {
        .host_id = a->identity.host,
        .incarnation = a->incarnation,
        .engine = a->engine,
        .registry = a->registry,
        .executor = a->executor,
        .callbacks = agent__wiring_callbacks(a),
        .suspect_after_ms = a->o.suspect_after_ms,
        .suspect_after_ms_max = a->o.suspect_after_ms_max,
        .dead_after_ms = a->o.dead_after_ms,
    };
    ASSERT(atomic_load(&a->hostctl) == NULL);
    router_set_engine(a->router, a->engine);
    atomic_store_explicit(&a->hostctl, hostctl_new(&ho), memory_order_release);
    /* Oldest source first: the founders' addresses, then the last-known addresses. */
    agent__learn_members(a, &a->identity.first);
    datadir_load_peers(&a->dir, known_peer, a);
}

static enum thole_code open_all(struct agent *a, struct thole_status *st)
{
    uint64_t epoch;
    enum thole_code code = agent__options_open_tls(a, st);
    if (code == THOLE_OK) {
        code = datadir_open(a->o.data_dir, a->o.name, &a->dir, &a->identity, st);
    }
    if (code == THOLE_OK) {
        code = datadir_next_start(&a->dir, a->o.election_timeout_ms, a->o.stop_fd, &a->incarnation,
                                  &a->lineage, st);
    }
    if (code == THOLE_OK) {
        code = agent__stores_open(a, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    (void)log_context_host(a->identity.name);
    a->executor = executor_threaded_new(&clock_system);
    executor_set_host(a->executor, a->identity.name);
    a->registry = registry_new();
    agent__log_names_begin(a);
    collect_types(a);
    code = open_bus(a, st);
    if (code != THOLE_OK) {
        return code;
    }
    const struct router_options ro = agent__wiring_router(a);
    a->router = router_new(&ro);
    a->watches = router_watches_new(a);
    a->peer_addresses = join__addresses_new(a);
    a->reconciler = agent__reconciler_new(a);
    a->answers = answers_new(a->executor, a->bus);
    a->exports = exports_new(a);
    char *restores = datadir_file(&a->dir, "restores");
    code = uploads_new(a, restores, &a->uploads, st);
    free(restores);
    if (code != THOLE_OK) {
        return code;
    }
    registry_subscribe(a->registry, on_view, a);
    code = open_engine(a, st);
    if (code != THOLE_OK) {
        return code;
    }
    open_rest(a);
    a->peer_bootstrap = join__peer_bootstrap_new(a);
    if (uuid_is_nil(&a->identity.cluster)) {
        code = join__peer_bootstrap_prepare(a, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (a->o.services != NULL) {
        a->o.services(a);
        a->served = true;
    }
    code = repair_zero_marked(&a->dir, &epoch, st);
    if (code != THOLE_OK) {
        return code;
    }
    atomic_store(&a->repairing, epoch > 0);
    /* The bus hands requests to all of these from now on. */
    ASSERT(a->router != NULL && a->watches != NULL && a->reconciler != NULL && a->exports != NULL &&
           a->engine != NULL && atomic_load(&a->hostctl) != NULL && a->peer_bootstrap != NULL);
    bus_start(a->bus);
    agent__reconciler_start(a->reconciler);
    join__addresses_start(a->peer_addresses);
    return join__bootstrap_start(a, st);
}

enum thole_code agent_new(const struct agent_options *o, struct agent **ret,
                          struct thole_status *st)
{
    enum thole_code code = agent__options_check(o, st);
    if (code != THOLE_OK) {
        return code;
    }
    bool again = false;
    do { /* opening again salvages damage that the engine found while it opened */
        struct agent *a = agent_alloc(o);
        code = open_all(a, st);
        again = code != THOLE_OK && !again && atomic_load(&a->state_damaged);
        if (code == THOLE_OK) {
            LOG_INFO(AGENT, "host started data_dir=%s version=%s", a->dir.path, agent_version());
            atomic_store(&a->opened, true);
            if (atomic_load(&a->state_damaged)) {
                agent__stores_request_restart(a);
            }
            *ret = a;
        } else {
            agent_stop(a);
            agent_free(a);
        }
    } while (again);
    (void)log_context_host(NULL);
    return code;
}

/* ---- Closing --------------------------------------------------------------------------------- */

/* Refuse requests on streams before the streams are cut: callers retry on another host, and no
 * request is in flight at the cut, which would make its outcome unknown. */
static void refuse_requests(struct agent *a)
{
    atomic_store(&a->leaving, true);
    nanosleep(&(struct timespec){.tv_nsec = LEAVE_MS * NS_PER_MS}, NULL);
}

/* Transfer leaderships while everything still runs, so that no group needs an election. */
static void hand_over(struct agent *a)
{
    struct latch done;
    struct thole_status st = {0};
    latch_init(&done);
    uint64_t begin = clock_now(&clock_system);
    uint64_t limit =
        join__addresses_all_down(a->peer_addresses) ? HAND_OVER_ALONE_NS : HAND_OVER_NS;
    engine_hand_over(a->engine, begin + limit, latch_callback, &done);
    enum thole_code code = latch_wait(&done, &st);
    latch_deinit(&done);
    if (code != THOLE_OK) {
        LOG_WARN(AGENT, "leadership handoff failed error=\"%s\"; stopping anyway", st.message);
    } else {
        LOG_INFO(AGENT, "leaderships handed over took_ms=%" PRIu64,
                 (clock_now(&clock_system) - begin) / NS_PER_MS);
    }
}

void agent_stop(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    bool again = a->stopping;
    a->stopping = true;
    a->changes++;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    if (again) {
        return;
    }
    latch_open(&a->stop, NULL);
    (void)log_context_host(agent_name(a));
    if (a->bus != NULL) {
        bus_end_asks(a->bus); /* the threads that wait for these answers are joined below */
    }
    join__bootstrap_stop(a);
    if (a->bus != NULL && a->reconciler != NULL) {
        agent__health_stop_serving(a);
    }
    struct hostctl *h = atomic_load(&a->hostctl);
    if (h != NULL) {
        hostctl_stop(h); /* or the leader preference would take leaderships back */
    }
    if (a->engine != NULL) {
        hand_over(a);
        refuse_requests(a);
    }
    if (a->reconciler != NULL) {
        agent__reconciler_stop(a->reconciler);
    }
    join__replace_zero_stop(a);
    /* Waiting requests are answered while these parts stop, before the bus stops. */
    bus_drain(a->bus, BUS_GRACE_MS);
    router_stop(a->router);
    router_watches_stop(a->watches);
    bus_cut(a->bus);
    if (a->engine != NULL) {
        engine_stop(a->engine);
    }
    bus_stop(a->bus, 0);
    if (a->peer_addresses != NULL) {
        join__addresses_stop(a->peer_addresses);
    }
    answers_stop(a->answers);
    if (a->exports != NULL) {
        exports_stop(a->exports);
    }
    if (a->uploads != NULL) {
        uploads_stop(a->uploads);
    }
    (void)log_context_host(NULL);
}

void agent_free(struct agent *a)
{
    if (a == NULL) {
        return;
    }
    ASSERT(a->stopping && !a->bootstrap_running && !a->replace_zero_running);
    if (a->served) {
        a->o.services_end(a);
    }
    struct hostctl *h = atomic_load(&a->hostctl);
    if (h != NULL) {
        hostctl_free(h);
    }
    exports_free(a->exports);
    answers_free(a->answers);
    if (a->engine != NULL) {
        engine_free(a->engine);
    }
    uploads_free(a->uploads);
    agent__wiring_free_bus(a);
    bus_tls_unref(a->tls);
    free(a->certified_name);
    join__peer_bootstrap_free(a->peer_bootstrap);
    router_watches_free(a->watches);
    agent__reconciler_free(a->reconciler);
    join__addresses_free(a->peer_addresses);
    router_free(a->router);
    if (a->registry != NULL) {
        agent__log_names_end(a);
        registry_free(a->registry);
    }
    if (a->executor != NULL) {
        executor_free(a->executor);
    }
    if (a->state != NULL) {
        state_db_close(a->state);
    }
    if (a->log != NULL) {
        a->log->ops->close(a->log);
    }
    datadir_close(&a->dir);
    agent__outages_free(a->outages);
    pool_deinit(&a->forwarded);
    free(a->tags);
    free(a->listen);
    free(a->advertise);
    free(a->addresses);
    latch_deinit(&a->stop);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a);
}
