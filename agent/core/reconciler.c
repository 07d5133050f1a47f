/* The agent's worker. Level-triggered: each turn compares the actual with the wanted state, and
 * starts what is missing.
 *   - shard zero leads here and the registry is empty: propose its first command;
 *   - this host's row is missing or out of date: propose AdmitHost until it is accepted;
 *   - addresses of hosts changed: write the peers file;
 *   - this host was removed and has handed over its replicas: end;
 *   - this host's replica of shard zero failed or was removed from its group: replace it;
 *   - hosts ask to join: propose AdmitHost, and answer when the view shows them;
 *   - readiness or availability changed: update gRPC health. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/access/access.h"
#include "agent/core/agent_internal.h"
#include "agent/core/availability.h"
#include "agent/core/health.h"
#include "agent/core/reconciler.h"
#include "agent/core/tags.h"
#include "agent/join/admission.h"
#include "agent/join/join.h"
#include "agent/join/peer_addresses.h"
#include "agent/join/replace_zero.h"
#include "base/assert.h"
#include "base/canary.h"
#include "base/log.h"

#define COMMAND_NS (5 * NS_PER_S)
#define RETRY_NS (300 * NS_PER_MS)
/* The peers file is written this long after the first change, to batch changes. */
#define PEERS_DELAY_NS (200 * NS_PER_MS)

enum { MSG_WAKE, MSG_JOIN, MSG_OUTCOME };

/* A command of shard zero with at most one attempt in flight. */
struct pending_command {
    struct worker_msg msg; /* MSG_OUTCOME */
    struct reconciler *reconciler;
    bool in_flight;
    uint64_t retry_ns;
    struct thole_status outcome;
};

struct reconciler {
    struct agent *agent;
    struct worker *worker;
    struct worker_msg wake;
    _Atomic bool started, woken;
    struct pending_command bootstrap, admit;
    bool admitted;         /* AdmitHost of this start was accepted */
    bool admission_saved;  /* and the data directory says so */
    uint64_t exit_by_ns;   /* this host was removed, and ends by then; 0: it was not */
    uint64_t peers_due_ns; /* 0: nothing to write */
    struct admissions *admissions;
    struct health *health;
};

/* ---- Commands -------------------------------------------------------------------------------- */

struct bufslice reconciler_admit_command(const thole_v1_Host *host, const char *actor,
                                         uint64_t failed_replica, upb_StringView failure,
                                         upb_StringView lineage, upb_Arena *arena)
{
    thole_registry_v1_Command *c = agent_command_new(actor, arena);
    thole_registry_v1_Operation *op = thole_registry_v1_Command_add_operations(c, arena);
    thole_registry_v1_AdmitHost *admit = thole_registry_v1_Operation_mutable_admit_host(op, arena);
    thole_registry_v1_AdmitHost_set_host(admit, (thole_v1_Host *)(uintptr_t)host);
    thole_registry_v1_AdmitHost_set_failed_replica(admit, failed_replica);
    thole_registry_v1_AdmitHost_set_failure(admit, failure);
    thole_registry_v1_AdmitHost_set_lineage(admit, lineage);
    return registry_command_encode(c, arena);
}

static void command_done(void *ctx, const struct thole_status *st,
                         const thole_registry_v1_Result *result)
{
    struct pending_command *c = ctx;
    (void)result;
    c->outcome = *st;
    c->msg.kind = MSG_OUTCOME;
    if (!worker_post_internal(c->reconciler->worker, &c->msg)) {
        return; /* the worker stopped */
    }
}

static void propose(struct reconciler *r, struct pending_command *c, struct bufslice command,
                    uint64_t now)
{
    ASSERT(worker_is_current(r->worker) && !c->in_flight);
    c->in_flight = true;
    agent_command(r->agent, command, now + COMMAND_NS, command_done, c);
}

/* ---- The first command of shard zero --------------------------------------------------------- */

static thole_v1_Host *member_row(struct agent *a, const struct member *m, upb_Arena *arena)
{
    if (uuid_equal(&m->host, agent_host_id(a))) {
        return agent__host_row(a, arena);
    }
    char *id = upb_Arena_Malloc(arena, UUID_TEXT_BYTES);
    uuid_format(&m->host, id);
    thole_v1_Host *h = thole_v1_Host_new(arena);
    thole_v1_Host_set_name(h, upb_StringView_FromString(m->name));
    thole_v1_Host_set_id(h, upb_StringView_FromString(id));
    thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec(h, arena);
    thole_v1_HostSpec_set_state(spec, thole_v1_HOST_STATE_ACTIVE);
    agent__tags_set(spec, m->tags, arena);
    thole_v1_HostStatus *st = thole_v1_Host_mutable_status(h, arena);
    thole_v1_HostStatus_set_address(st, upb_StringView_FromString(m->address));
    thole_v1_HostStatus_set_liveness(st, thole_v1_HOST_LIVENESS_LIVE);
    return h;
}

static void add_default_shard(thole_registry_v1_Command *c, upb_Arena *arena)
{
    thole_registry_v1_CreateShard *create = thole_registry_v1_Operation_mutable_create_shard(
        thole_registry_v1_Command_add_operations(c, arena), arena);
    thole_registry_v1_CreateShard_set_name(create, upb_StringView_FromString(ACCESS_ETCD_SHARD));
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(create, arena);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("kv"));
    thole_v1_ShardSpec_set_voters(spec, 1);
}

static void propose_bootstrap(struct reconciler *r, uint64_t now)
{
    struct agent *a = r->agent;
    pthread_mutex_lock(&a->lock);
    struct member_list *l = xmalloc(sizeof *l);
    *l = a->identity.first;
    pthread_mutex_unlock(&a->lock);
    if (l->count > 0) {
        upb_Arena *arena = upb_Arena_New();
        thole_registry_v1_Command *c = agent_command_new("bootstrap", arena);
        thole_registry_v1_Operation *op = thole_registry_v1_Command_add_operations(c, arena);
        thole_registry_v1_Bootstrap *b = thole_registry_v1_Operation_mutable_bootstrap(op, arena);
        thole_registry_v1_Bootstrap_set_cluster_id(
            b, upb_StringView_FromDataAndSize((const char *)l->cluster.bytes, 16));
        thole_v1_Host **rows = thole_registry_v1_Bootstrap_resize_hosts(b, l->count, arena);
        for (uint32_t i = 0; i < l->count; i++) {
            rows[i] = member_row(a, &l->members[i], arena);
        }
        if (a->o.default_shard && a->bootstrap == AGENT_BOOTSTRAP_DEV) {
            add_default_shard(c, arena);
        }
        propose(r, &r->bootstrap, registry_command_encode(c, arena), now);
        upb_Arena_Free(arena);
    }
    free(l);
}

/* ---- This host's row ------------------------------------------------------------------------- */

static bool is_same_text(upb_StringView v, const char *s)
{
    return v.size == strlen(s) && memcmp(v.data, s, v.size) == 0;
}

bool agent__row_is_current(const struct agent *a, const struct registry_view *v)
{
    const thole_v1_Host *row = registry_host(v, agent_host_id(a));
    const thole_v1_HostStatus *st = row != NULL ? thole_v1_Host_status(row) : NULL;
    size_t types = 0;
    if (st == NULL) {
        return false;
    }
    thole_v1_HostStatus_machine_types(st, &types);
    return thole_v1_HostStatus_incarnation(st) == a->incarnation &&
           thole_v1_HostStatus_start(st) == a->lineage.start &&
           is_same_text(thole_v1_HostStatus_address(st), agent_address(a)) &&
           is_same_text(thole_v1_HostStatus_version(st), agent_version()) &&
           types + 1 == a->type_count;
}

static void propose_admit(struct reconciler *r, uint64_t now)
{
    upb_Arena *arena = upb_Arena_New();
    char actor[LIMIT_NAME_BYTES + 8];
    snprintf(actor, sizeof actor, "host/%s", agent_name(r->agent));
    propose(r, &r->admit,
            reconciler_admit_command(agent__host_row(r->agent, arena), actor, 0,
                                     upb_StringView_FromDataAndSize(NULL, 0),
                                     agent__lineage(r->agent, arena), arena),
            now);
    upb_Arena_Free(arena);
}

/* Retrying is useless after this refusal. */
static bool is_permanent(const struct thole_status *st)
{
    return st->reason == THOLE_REASON_REMOVED || st->reason == THOLE_REASON_STALE_INCARNATION ||
           st->reason == THOLE_REASON_WRONG_CLUSTER || st->reason == THOLE_REASON_WRONG_HOST;
}

/* A removed host that restarted while its replica of shard zero still votes goes on until that vote
 * is taken (decommission_step): the others may need it to take it. */
static bool is_removed_too_early(const struct reconciler *r, const struct thole_status *st)
{
    struct engine_replica_status zero;
    return st->reason == THOLE_REASON_REMOVED && !CANARY(removed_ends_early) &&
           engine_shard_status(r->agent->engine, REGISTRY_SHARD_ID, &zero) && zero.voter &&
           !zero.failed && !zero.removed_by_peer;
}

static void on_outcome(struct reconciler *r, struct pending_command *c, uint64_t now)
{
    ASSERT(c->in_flight);
    c->in_flight = false;
    c->retry_ns = now + RETRY_NS;
    if (c == &r->bootstrap) {
        if (c->outcome.code != THOLE_OK && c->outcome.code != THOLE_ALREADY_EXISTS &&
            c->outcome.code != THOLE_FAILED_PRECONDITION) {
            LOG_WARN(AGENT, "first command of shard zero failed error=\"%s\"; retrying in %u ms",
                     c->outcome.message, (unsigned)(RETRY_NS / NS_PER_MS));
        }
        return;
    }
    if (c->outcome.code == THOLE_OK) {
        r->admitted = true;
    } else if (is_removed_too_early(r, &c->outcome)) {
        c->retry_ns = now + NS_PER_S;
    } else if (is_permanent(&c->outcome)) {
        agent__fail(r->agent, &c->outcome);
        c->retry_ns = CLOCK_NEVER;
    } else {
        LOG_INFO(AGENT, "admission failed error=\"%s\"; retrying in %u ms", c->outcome.message,
                 (unsigned)(RETRY_NS / NS_PER_MS));
    }
}

/* ---- Addresses ------------------------------------------------------------------------------- */

static void write_peers(struct reconciler *r)
{
    struct thole_status st = {0};
    if (join__addresses_save(r->agent->peer_addresses, &st) != THOLE_OK) {
        LOG_WARN(AGENT, "cannot write the peers file error=\"%s\"; retrying after the next change",
                 st.message);
    }
    r->peers_due_ns = 0;
}

/* ---- Removed from the cluster ---------------------------------------------------------------- */

/* How long a removed host waits for the removal of its replica of shard zero, its last one. */
#define EXIT_GRACE_NS (5 * NS_PER_S)

static bool is_zero_leaving(const struct registry_view *v, uint64_t replica_id)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *row = registry_replica(v, replica_id, &replica_buf);
    return row == NULL || thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE;
}

/* A removed host hands over its leaderships and deletes its replicas, shard zero's last. The
 * process must not end while that replica votes: of two voters, the other would be without a
 * quorum. */
static uint64_t decommission_step(struct reconciler *r, uint64_t now)
{
    struct agent *a = r->agent;
    struct engine_replica_status zero = {0}, *all = NULL;
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Host *row = registry_host(v, agent_host_id(a));
    const thole_v1_HostSpec *spec = row != NULL ? thole_v1_Host_spec(row) : NULL;
    bool removed = spec != NULL && thole_v1_HostSpec_state(spec) == thole_v1_HOST_STATE_REMOVED;
    bool here = engine_shard_status(a->engine, REGISTRY_SHARD_ID, &zero);
    bool leaving = removed && (!here || is_zero_leaving(v, zero.replica_id));
    registry_view_release(v);
    size_t others = 0;
    if (removed) {
        size_t n = engine_replicas(a->engine, &all);
        others = n - here;
        free(all);
    }
    bool removed_by_peer = removed && here && zero.removed_by_peer;
    if (!removed_by_peer && (!removed || others > 0 || (here && zero.voter))) {
        r->exit_by_ns = 0;
        return CLOCK_NEVER;
    }
    if (r->exit_by_ns == 0) {
        r->exit_by_ns = now + EXIT_GRACE_NS;
    }
    if (removed_by_peer || leaving || now >= r->exit_by_ns) {
        struct thole_status st = {0};
        agent__fail_removed(&st);
        agent__fail(a, &st); /* only the first failure counts */
        return CLOCK_NEVER;
    }
    return r->exit_by_ns;
}

/* ---- Shard zero's replica -------------------------------------------------------------------- */

/* Voters ask each other for votes, and hear then that they were removed. One without a vote calls
 * nobody, and would wait for a leader for ever. */
#define ZERO_SILENT_MS 10000

/* Without this replica the host has no view, and learns nothing that is decided about it: it must
 * ask other hosts whether the host was removed, or only the replica.
 * Returns when to look again. */
static uint64_t check_zero_replica(struct reconciler *r, uint64_t now)
{
    struct agent *a = r->agent;
    struct engine_replica_status s;
    pthread_mutex_lock(&a->lock);
    bool member = a->member && !a->failed;
    pthread_mutex_unlock(&a->lock);
    if (!member || !engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s)) {
        return CLOCK_NEVER;
    }
    uint64_t silent_ms = s.voter ? 0 : agent_view_age_ms(a);
    if (s.unopened && !s.removed_by_peer) { /* keep its data: another start may open it */
        struct thole_status st = {0};
        thole_status_set(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY, __FILE__, __LINE__,
                         "the replica of shard zero cannot be opened: %.160s; its data is kept",
                         s.failure);
        agent__fail(a, &st);
    } else if (s.failed || s.removed_by_peer || silent_ms >= ZERO_SILENT_MS) {
        join__replace_zero_start(a, &s);
    }
    return silent_ms > 0 ? now + NS_PER_S : CLOCK_NEVER;
}

/* ---- A turn ---------------------------------------------------------------------------------- */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* --tag counts only when the host is new; later the registry's tags do. */
static void warn_ignored_tags(struct agent *a)
{
    upb_Arena *arena = upb_Arena_New();
    thole_v1_HostSpec *given = thole_v1_HostSpec_new(arena);
    agent__tags_set(given, a->tags, arena);
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Host *row = registry_host(v, agent_host_id(a));
    const thole_v1_HostSpec *spec = row != NULL ? thole_v1_Host_spec(row) : NULL;
    size_t n = thole_v1_HostSpec_tags_size(given), it = kUpb_Map_Begin;
    bool same = n == 0 || (spec != NULL && thole_v1_HostSpec_tags_size(spec) == n);
    const thole_v1_HostSpec_TagsEntry *e;
    while (same && n > 0 && (e = thole_v1_HostSpec_tags_next(given, &it)) != NULL) {
        upb_StringView value;
        same = thole_v1_HostSpec_tags_get(spec, thole_v1_HostSpec_TagsEntry_key(e), &value) &&
               upb_StringView_IsEqual(value, thole_v1_HostSpec_TagsEntry_value(e));
    }
    registry_view_release(v);
    upb_Arena_Free(arena);
    if (!same) {
        LOG_WARN(
            AGENT,
            "--tag is ignored: this host is a member already, and the registry has other tags; "
            "change them with \"thole apply\" (kind: Host) given=%s",
            a->tags);
    }
}

static void save_admission(struct reconciler *r)
{
    struct thole_status st = {0};
    warn_ignored_tags(r->agent);
    r->admission_saved = true; /* not retried: the next admitted start saves it, too */
    if (datadir_admitted(&r->agent->dir, r->agent->incarnation, &st) != THOLE_OK) {
        LOG_WARN(AGENT,
                 "cannot save that this start was admitted error=\"%s\"; the next start retries",
                 st.message);
    }
}

static uint64_t membership_step(struct reconciler *r, uint64_t now)
{
    struct agent *a = r->agent;
    struct engine_replica_status s;
    uint64_t next = CLOCK_NEVER;
    if (!agent_cluster(a, &(struct uuid){{0}})) {
        return next;
    }
    struct registry_view *v = registry_view_acquire(a->registry);
    bool empty = registry_view_revision(v) == 0;
    bool current = !empty && agent__row_is_current(a, v);
    registry_view_release(v);
    if (empty) {
        bool leads = engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s) &&
                     s.role == RAFT_LEADER && s.leader_ready;
        if (leads && !r->bootstrap.in_flight && now >= r->bootstrap.retry_ns) {
            propose_bootstrap(r, now);
        } else if (leads && !r->bootstrap.in_flight) {
            next = r->bootstrap.retry_ns;
        }
    } else if (current && !r->admission_saved) {
        save_admission(r);
    } else if (!current && !r->admitted && !r->admit.in_flight) {
        if (now >= r->admit.retry_ns) {
            propose_admit(r, now);
        } else {
            next = r->admit.retry_ns;
        }
    }
    return next;
}

static uint64_t reconciler_turn(void *ctx, struct msgq *batch, uint64_t now)
{
    struct reconciler *r = ctx;
    for (struct worker_msg *m; (m = msgq_pop(batch)) != NULL;) {
        switch (m->kind) {
        case MSG_JOIN:
            join__admissions_handle(r->admissions, m, now);
            break;
        case MSG_OUTCOME:
            on_outcome(r, CONTAINER_OF(m, struct pending_command, msg), now);
            break;
        default: /* MSG_WAKE may be posted again; the steps below see what changed */
            atomic_store(&r->woken, false);
            break;
        }
    }
    if (!atomic_load(&r->started)) {
        return CLOCK_NEVER;
    }
    uint64_t next = membership_step(r, now);
    next = earlier(next, decommission_step(r, now));
    next = earlier(next, check_zero_replica(r, now));
    next = earlier(next, join__admissions_step(r->admissions, now));
    if (r->peers_due_ns == 0 && join__addresses_changed(r->agent->peer_addresses)) {
        r->peers_due_ns = now + PEERS_DELAY_NS;
    }
    if (r->peers_due_ns != 0 && now >= r->peers_due_ns) {
        write_peers(r);
    }
    if (r->peers_due_ns != 0) {
        next = earlier(next, r->peers_due_ns);
    }
    next = earlier(next, agent__health_update(r->health, now));
    agent_signal(r->agent);
    return next;
}

/* ---- Interface ------------------------------------------------------------------------------- */

struct reconciler *agent__reconciler_new(struct agent *a)
{
    struct reconciler *r = xcalloc(1, sizeof *r);
    r->agent = a;
    r->bootstrap.reconciler = r->admit.reconciler = r;
    r->admissions = join__admissions_new(a);
    r->health = agent__health_new(a);
    r->worker = worker_new(a->executor, "agent", 1u << 16, reconciler_turn, r);
    return r;
}

void agent__reconciler_start(struct reconciler *r)
{
    atomic_store(&r->started, true);
    agent__reconciler_wake(r);
}

void agent__reconciler_stop(struct reconciler *r)
{
    worker_stop(r->worker);
    join__admissions_stop(r->admissions);
    if (join__addresses_changed(r->agent->peer_addresses)) {
        write_peers(r);
    }
}

void agent__reconciler_free(struct reconciler *r)
{
    if (r == NULL) {
        return;
    }
    worker_free(r->worker);
    join__admissions_free(r->admissions);
    agent__health_free(r->health);
    free(r);
}

void agent__reconciler_replica_changed(struct reconciler *r, uint64_t shard_id)
{
    agent__health_replica_changed(r->health, shard_id);
    agent__reconciler_wake(r);
}

void agent__reconciler_wake(struct reconciler *r)
{
    if (!atomic_load(&r->started) || atomic_exchange(&r->woken, true)) {
        return;
    }
    r->wake.kind = MSG_WAKE;
    if (!worker_post_internal(r->worker, &r->wake)) {
        atomic_store(&r->woken, true);
    }
}

void agent__reconciler_join(struct reconciler *r, struct bus_request *request)
{
    struct worker_msg *m = join__admission_new(r->agent, request);
    if (m == NULL) {
        return; /* refused, and answered */
    }
    m->kind = MSG_JOIN;
    if (!worker_post_internal(r->worker, m)) {
        join__admission_refuse(m);
    }
}

bool agent__reconciler_repost_join(struct reconciler *r, struct worker_msg *m)
{
    m->kind = MSG_JOIN;
    return worker_post_internal(r->worker, m);
}
