/* The agent's worker: small things to be done when something changed.
 *
 * Level-triggered: every turn compares what is with what should be, and starts what is missing.
 *   - shard zero leads here and the registry is empty: propose its first command;
 *   - this host's row is missing or out of date: propose AdmitHost, until it is accepted;
 *   - addresses of hosts changed: write the peers file;
 *   - this host was removed, and has handed over what it had: it ends;
 *   - its replica of shard zero failed, or is none any more: it gets another one;
 *   - hosts that want to join: propose AdmitHost for them, and answer when the view shows it;
 *   - health as seen from outside. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/join/admission.h"
#include "agent/join/join.h"
#include "agent/join/peer_addresses.h"
#include "base/log.h"

#define COMMAND_NS (5 * NS_PER_S)
#define RETRY_NS (300 * NS_PER_MS)
/* Addresses are written this long after the first change, to write many at once. */
#define PEERS_DELAY_NS (200 * NS_PER_MS)

enum { MSG_WAKE, MSG_JOIN, MSG_OUTCOME };

/* A command under way: at most one of each. */
struct chore {
    struct worker_msg msg; /* MSG_OUTCOME */
    struct reconciler *reconciler;
    bool busy;
    uint64_t again_ns;
    struct thole_status outcome;
};

struct reconciler {
    struct agent *agent;
    struct worker *worker;
    struct worker_msg wake;
    _Atomic bool started, woken;
    struct chore bootstrap, admit;
    bool admitted;         /* this start was admitted */
    bool noted;            /* and the data directory says so */
    uint64_t farewell_ns;  /* this host was removed, and ends by then; 0: it was not */
    uint64_t peers_due_ns; /* 0: nothing to write */
    struct admissions *admissions;
    struct health *health;
};

/* ---- Commands -------------------------------------------------------------------------------- */

struct bufslice agent__reconciler_encode(thole_registry_v1_Command *c, const char *actor,
                                         upb_Arena *arena)
{
    thole_registry_v1_Command_set_actor(c, upb_StringView_FromString(actor));
    thole_registry_v1_Command_set_time_ms(c, (int64_t)clock_system.wall_ms(&clock_system));
    size_t size = 0;
    const char *bytes = thole_registry_v1_Command_serialize(c, arena, &size);
    struct buf *b = buf_copy(bytes, size);
    return (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)};
}

struct bufslice reconciler_admit_command(const thole_v1_Host *host, const char *actor,
                                         uint64_t failed_replica, upb_StringView failure,
                                         upb_StringView lineage, upb_Arena *arena)
{
    thole_registry_v1_Command *c = thole_registry_v1_Command_new(arena);
    thole_registry_v1_Operation *op = thole_registry_v1_Command_add_operations(c, arena);
    thole_registry_v1_AdmitHost *admit = thole_registry_v1_Operation_mutable_admit_host(op, arena);
    thole_registry_v1_AdmitHost_set_host(admit, (thole_v1_Host *)(uintptr_t)host);
    thole_registry_v1_AdmitHost_set_failed_replica(admit, failed_replica);
    thole_registry_v1_AdmitHost_set_failure(admit, failure);
    thole_registry_v1_AdmitHost_set_lineage(admit, lineage);
    return agent__reconciler_encode(c, actor, arena);
}

static void outcome(void *ctx, const struct thole_status *st,
                    const thole_registry_v1_Result *result)
{
    struct chore *c = ctx;
    (void)result;
    c->outcome = *st;
    c->msg.kind = MSG_OUTCOME;
    if (!worker_post_internal(c->reconciler->worker, &c->msg)) {
        return; /* stopped: nobody waits */
    }
}

static void begin(struct reconciler *cs, struct chore *c, struct bufslice command, uint64_t now)
{
    c->busy = true;
    agent_command(cs->agent, command, now + COMMAND_NS, outcome, c);
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
    agent__set_tags(spec, m->tags, arena);
    thole_v1_HostStatus *st = thole_v1_Host_mutable_status(h, arena);
    thole_v1_HostStatus_set_address(st, upb_StringView_FromString(m->address));
    thole_v1_HostStatus_set_liveness(st, thole_v1_HOST_LIVENESS_LIVE);
    return h;
}

static void propose_bootstrap(struct reconciler *cs, uint64_t now)
{
    struct agent *a = cs->agent;
    pthread_mutex_lock(&a->lock);
    struct member_list *l = xmalloc(sizeof *l);
    *l = a->identity.first;
    pthread_mutex_unlock(&a->lock);
    if (l->count > 0) {
        upb_Arena *arena = upb_Arena_New();
        thole_registry_v1_Command *c = thole_registry_v1_Command_new(arena);
        thole_registry_v1_Operation *op = thole_registry_v1_Command_add_operations(c, arena);
        thole_registry_v1_Bootstrap *b = thole_registry_v1_Operation_mutable_bootstrap(op, arena);
        thole_registry_v1_Bootstrap_set_cluster_id(
            b, upb_StringView_FromDataAndSize((const char *)l->cluster.bytes, 16));
        thole_v1_Host **rows = thole_registry_v1_Bootstrap_resize_hosts(b, l->count, arena);
        for (uint32_t i = 0; i < l->count; i++) {
            rows[i] = member_row(a, &l->members[i], arena);
        }
        begin(cs, &cs->bootstrap, agent__reconciler_encode(c, "bootstrap", arena), now);
        upb_Arena_Free(arena);
    }
    free(l);
}

/* ---- This host's row ------------------------------------------------------------------------- */

static bool same_text(upb_StringView v, const char *s)
{
    return v.size == strlen(s) && memcmp(v.data, s, v.size) == 0;
}

/* Does the view show this very start of this host? */
static bool row_current(struct agent *a, const struct registry_view *v)
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
           same_text(thole_v1_HostStatus_address(st), agent_address(a)) &&
           same_text(thole_v1_HostStatus_version(st), agent_version()) &&
           types + 1 == a->type_count;
}

static void propose_admit(struct reconciler *cs, uint64_t now)
{
    upb_Arena *arena = upb_Arena_New();
    char actor[LIMIT_NAME_BYTES + 8];
    snprintf(actor, sizeof actor, "host/%s", agent_name(cs->agent));
    begin(cs, &cs->admit,
          reconciler_admit_command(agent__host_row(cs->agent, arena), actor, 0,
                                   upb_StringView_FromDataAndSize(NULL, 0),
                                   agent__lineage(cs->agent, arena), arena),
          now);
    upb_Arena_Free(arena);
}

/* Refusals that time does not heal. */
static bool for_good(const struct thole_status *st)
{
    return st->reason == THOLE_REASON_REMOVED || st->reason == THOLE_REASON_STALE_INCARNATION ||
           st->reason == THOLE_REASON_WRONG_CLUSTER || st->reason == THOLE_REASON_WRONG_HOST;
}

static void on_outcome(struct reconciler *cs, struct chore *c, uint64_t now)
{
    c->busy = false;
    c->again_ns = now + RETRY_NS;
    if (c == &cs->bootstrap) {
        if (c->outcome.code != THOLE_OK && c->outcome.code != THOLE_ALREADY_EXISTS &&
            c->outcome.code != THOLE_FAILED_PRECONDITION) {
            LOG_WARN(AGENT, "shard zero's first command failed error=\"%s\"; trying again",
                     c->outcome.message);
        }
        return;
    }
    if (c->outcome.code == THOLE_OK) {
        cs->admitted = true;
    } else if (for_good(&c->outcome)) {
        agent__fail(cs->agent, &c->outcome);
        c->again_ns = CLOCK_NEVER;
    } else {
        LOG_INFO(AGENT, "not admitted yet error=\"%s\"; trying again in %u ms", c->outcome.message,
                 (unsigned)(RETRY_NS / NS_PER_MS));
    }
}

/* ---- Addresses ------------------------------------------------------------------------------- */

static void write_peers(struct reconciler *cs)
{
    struct thole_status st = {0};
    if (addresses_save(cs->agent->addresses_known, &st) != THOLE_OK) {
        LOG_WARN(AGENT, "cannot write the peers file error=\"%s\"; a restart may need the registry",
                 st.message);
    }
    cs->peers_due_ns = 0;
}

/* ---- Removed from the cluster ---------------------------------------------------------------- */

/* After its row said REMOVED and all but shard zero's replica has gone: this long for the rest. */
#define FAREWELL_NS (5 * NS_PER_S)

static bool zero_is_leaving(const struct registry_view *v, uint64_t replica_id)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *row = registry_replica(v, replica_id, &replica_buf);
    return row == NULL || thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE;
}

/* A removed host hands over what it leads and deletes its replicas; that of shard zero goes last.
 * It must not vote any more when the process ends: of two voters, one would be left alone. */
static uint64_t farewell_step(struct reconciler *cs, uint64_t now)
{
    struct agent *a = cs->agent;
    struct engine_replica_status zero = {0}, *all = NULL;
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Host *row = registry_host(v, agent_host_id(a));
    const thole_v1_HostSpec *spec = row != NULL ? thole_v1_Host_spec(row) : NULL;
    bool removed = spec != NULL && thole_v1_HostSpec_state(spec) == thole_v1_HOST_STATE_REMOVED;
    bool here = engine_shard_status(a->engine, REGISTRY_SHARD_ID, &zero);
    bool leaving = removed && (!here || zero_is_leaving(v, zero.replica_id));
    registry_view_release(v);
    size_t others = 0;
    if (removed) {
        size_t n = engine_replicas(a->engine, &all);
        others = n - here;
        free(all);
    }
    bool told = removed && here && zero.removed_by_peer;
    if (!told && (!removed || others > 0 || (here && zero.voter))) {
        cs->farewell_ns = 0;
        return CLOCK_NEVER;
    }
    if (cs->farewell_ns == 0) {
        cs->farewell_ns = now + FAREWELL_NS;
    }
    if (told || leaving || now >= cs->farewell_ns) {
        struct thole_status st = {0};
        agent__removed(&st);
        agent__fail(a, &st); /* the first time; later ones are not heard */
        return CLOCK_NEVER;
    }
    return cs->farewell_ns;
}

/* ---- Shard zero's replica -------------------------------------------------------------------- */

/* Without it there is no view, and nothing that is decided about this host is heard. Others have to
 * be asked whether it was removed, or only its replica. */
static void renew_step(struct reconciler *cs)
{
    struct agent *a = cs->agent;
    struct engine_replica_status s;
    pthread_mutex_lock(&a->lock);
    bool member = a->member && !a->failed;
    pthread_mutex_unlock(&a->lock);
    if (!member || !engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s)) {
        return;
    }
    if (s.unopened && !s.removed_by_peer) { /* its data stays: another start may open it */
        struct thole_status st = {0};
        thole_status_set(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY, __FILE__, __LINE__,
                         "its replica of shard zero cannot be opened, and is left as it is: %.160s",
                         s.failure);
        agent__fail(a, &st);
    } else if (s.failed || s.removed_by_peer) {
        join__renew_start(a, &s);
    }
}

/* ---- A turn ---------------------------------------------------------------------------------- */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Those of --tag count when the host is new; later the registry's do. */
static void compare_tags(struct agent *a)
{
    upb_Arena *arena = upb_Arena_New();
    thole_v1_HostSpec *given = thole_v1_HostSpec_new(arena);
    agent__set_tags(given, a->tags, arena);
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
        LOG_WARN(AGENT,
                 "--tag is ignored: this host is a member already, and the registry has other tags "
                 "of it; \"thole apply\" of kind: Host changes them given=%s",
                 a->tags);
    }
}

static void note_admitted(struct reconciler *cs)
{
    struct thole_status st = {0};
    compare_tags(cs->agent);
    cs->noted = true; /* another start that was admitted will do as well */
    if (datadir_admitted(&cs->agent->dir, cs->agent->incarnation, &st) != THOLE_OK) {
        LOG_WARN(AGENT, "cannot note that this start was admitted error=\"%s\"; going on",
                 st.message);
    }
}

static uint64_t membership_step(struct reconciler *cs, uint64_t now)
{
    struct agent *a = cs->agent;
    struct engine_replica_status s;
    uint64_t next = CLOCK_NEVER;
    if (!agent_cluster(a, &(struct uuid){{0}})) {
        return next;
    }
    struct registry_view *v = registry_view_acquire(a->registry);
    bool empty = registry_view_revision(v) == 0;
    bool current = !empty && row_current(a, v);
    registry_view_release(v);
    if (empty) {
        bool leads = engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s) &&
                     s.role == RAFT_LEADER && s.leader_ready;
        if (leads && !cs->bootstrap.busy && now >= cs->bootstrap.again_ns) {
            propose_bootstrap(cs, now);
        } else if (leads && !cs->bootstrap.busy) {
            next = cs->bootstrap.again_ns;
        }
    } else if (current && !cs->noted) {
        note_admitted(cs);
    } else if (!current && !cs->admitted && !cs->admit.busy) {
        if (now >= cs->admit.again_ns) {
            propose_admit(cs, now);
        } else {
            next = cs->admit.again_ns;
        }
    }
    return next;
}

static uint64_t reconciler_turn(void *ctx, struct msgq *batch, uint64_t now)
{
    struct reconciler *cs = ctx;
    for (struct worker_msg *m; (m = msgq_pop(batch)) != NULL;) {
        switch (m->kind) {
        case MSG_JOIN:
            admissions_add(cs->admissions, m, now);
            break;
        case MSG_OUTCOME:
            on_outcome(cs, CONTAINER_OF(m, struct chore, msg), now);
            break;
        default: /* free to be posted again; what it tells of is looked at below */
            atomic_store(&cs->woken, false);
            break;
        }
    }
    if (!atomic_load(&cs->started)) {
        return CLOCK_NEVER;
    }
    uint64_t next = membership_step(cs, now);
    next = earlier(next, farewell_step(cs, now));
    renew_step(cs);
    next = earlier(next, admissions_step(cs->admissions, now));
    if (cs->peers_due_ns == 0 && addresses_changed(cs->agent->addresses_known)) {
        cs->peers_due_ns = now + PEERS_DELAY_NS;
    }
    if (cs->peers_due_ns != 0 && now >= cs->peers_due_ns) {
        write_peers(cs);
    }
    if (cs->peers_due_ns != 0) {
        next = earlier(next, cs->peers_due_ns);
    }
    next = earlier(next, agent__health_update(cs->health, now));
    agent_signal(cs->agent);
    return next;
}

/* ---- Face ------------------------------------------------------------------------------------ */

struct reconciler *agent__reconciler_new(struct agent *a)
{
    struct reconciler *cs = xcalloc(1, sizeof *cs);
    cs->agent = a;
    cs->bootstrap.reconciler = cs->admit.reconciler = cs;
    cs->admissions = admissions_new(a);
    cs->health = agent__health_new(a);
    cs->worker = worker_new(a->executor, "agent", 1u << 16, reconciler_turn, cs);
    return cs;
}

void agent__reconciler_start(struct reconciler *cs)
{
    atomic_store(&cs->started, true);
    agent__reconciler_wake(cs);
}

void agent__reconciler_stop(struct reconciler *cs)
{
    worker_stop(cs->worker);
    admissions_stop(cs->admissions);
    if (addresses_changed(cs->agent->addresses_known)) {
        write_peers(cs);
    }
}

void agent__reconciler_free(struct reconciler *cs)
{
    if (cs == NULL) {
        return;
    }
    worker_free(cs->worker);
    admissions_free(cs->admissions);
    agent__health_free(cs->health);
    free(cs);
}

void agent__reconciler_replica_changed(struct reconciler *cs, uint64_t shard_id)
{
    agent__health_changed(cs->health, shard_id);
    agent__reconciler_wake(cs);
}

void agent__reconciler_wake(struct reconciler *cs)
{
    if (!atomic_load(&cs->started) || atomic_exchange(&cs->woken, true)) {
        return;
    }
    cs->wake.kind = MSG_WAKE;
    if (!worker_post_internal(cs->worker, &cs->wake)) {
        atomic_store(&cs->woken, true);
    }
}

void agent__reconciler_join(struct reconciler *cs, struct bus_request *request)
{
    struct worker_msg *m = admission_msg(cs->agent, request);
    if (m == NULL) {
        return; /* refused, and answered */
    }
    m->kind = MSG_JOIN;
    if (!worker_post_internal(cs->worker, m)) {
        admission_refuse(m);
    }
}

bool reconciler_repost(struct reconciler *cs, struct worker_msg *m)
{
    m->kind = MSG_JOIN;
    return worker_post_internal(cs->worker, m);
}
