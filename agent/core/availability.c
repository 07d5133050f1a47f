/* The availability of shards and hosts now. See availability.h.
 *
 * A row says what was observed when it was written: a crashed leader cannot retract its report, and
 * without a leader of shard zero no row is written. So a shard counts as available only if its row
 * says so and this host can confirm, now:
 *
 *   the view     shard zero has a leader, and this host can write; otherwise the rows are outdated
 *   the spec     placement has seen the current generation
 *   the leader   the local replica knows a leader whose host is connected and can write;
 *                without a local replica, the row names one whose host is also live by its row
 *   the quorum   without a local replica that campaigns: a majority of the votes is on such hosts.
 *                A leader without a quorum steps down within two election timeouts.
 *
 * A check sends no message and writes nothing. Changes of connections, disks, rows and local
 * replicas record since when something cannot be confirmed (outages). */
#include "agent/core/availability.h"
#include "agent/core/outages.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "base/assert.h"
#include "base/canary.h"
#include "base/map.h"

/* ---- The view -------------------------------------------------------------------------------- */

static bool knows_leader(const struct engine_replica_status *s)
{
    return !s->failed && (s->role == RAFT_LEADER ? s->leader_ready : !uuid_is_nil(&s->leader_host));
}

static void note_zero_leader(struct agent *a, const struct engine_replica_status *s)
{
    uint64_t lost = 0;
    if (knows_leader(s)) {
        atomic_store(&a->zero_lost_ns, 0);
    } else {
        (void)atomic_compare_exchange_strong(&a->zero_lost_ns, &lost, clock_now(&clock_system));
    }
}

uint64_t agent_view_age_ms(struct agent *a)
{
    struct engine_replica_status s = {.failed = true};
    (void)engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s);
    note_zero_leader(a, &s);
    uint64_t now = clock_now(&clock_system), lost = atomic_load(&a->zero_lost_ns);
    return lost == 0 ? 0 : 1 + (now > lost ? now - lost : 0) / NS_PER_MS;
}

void agent__outages_disk_changed(struct agent *a)
{
    uint64_t since = 0;
    if (engine_disk(a->engine) != ENGINE_DISK_STALLED || CANARY(stalled_host_vouches)) {
        atomic_store(&a->stalled_ns, 0);
    } else {
        (void)atomic_compare_exchange_strong(&a->stalled_ns, &since, clock_now(&clock_system));
    }
}

/* For how long this host has not been able to write what would change its view. */
static uint64_t stalled_ms(struct agent *a)
{
    if (!CANARY(stall_never_ends)) {
        agent__outages_disk_changed(a); /* a host without peers is not told when a stall ends */
    }
    uint64_t now = clock_now(&clock_system), since = atomic_load(&a->stalled_ns);
    return since == 0 ? 0 : 1 + (now > since ? now - since : 0) / NS_PER_MS;
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static bool is_reachable(struct agent *a, const struct uuid *host)
{
    return uuid_equal(host, agent_host_id(a)) || bus_peer_up(a->bus, host);
}

int32_t agent_check_host_liveness(struct agent *a, const thole_v1_Host *row)
{
    struct uuid id;
    int32_t liveness = thole_v1_HostStatus_liveness(thole_v1_Host_status(row));
    bool unsure = liveness == thole_v1_HOST_LIVENESS_LIVE &&
                  uuid_parse(registry_str(thole_v1_Host_id(row)), &id) && !is_reachable(a, &id);
    return unsure ? thole_v1_HOST_LIVENESS_SUSPECT : liveness;
}

/* Both shard zero's leader and this host's connection must say that the host lives. */
static bool is_row_answering(struct agent *a, const struct uuid *id, const thole_v1_Host *row)
{
    const thole_v1_HostStatus *st = row != NULL ? thole_v1_Host_status(row) : NULL;
    return st != NULL && is_reachable(a, id) &&
           thole_v1_HostStatus_liveness(st) == thole_v1_HOST_LIVENESS_LIVE;
}

static bool is_host_answering(const struct availability_check *check, const struct uuid *id)
{
    return is_row_answering(check->agent, id, registry_host(check->view, id));
}

/* HOST_DISK_OK: the host can write as far as is known. `row` may be NULL. */
static int32_t disk_of(struct agent *a, const struct uuid *id, const thole_v1_Host *row,
                       uint64_t shard_id)
{
    const thole_v1_HostStatus *st = row != NULL ? thole_v1_Host_status(row) : NULL;
    int32_t disk = st != NULL ? thole_v1_HostStatus_disk(st) : thole_v1_HOST_DISK_OK;
    if (uuid_equal(id, agent_host_id(a))) {
        return !engine_disk_refuses(a->engine, shard_id)       ? thole_v1_HOST_DISK_OK
               : engine_disk(a->engine) == ENGINE_DISK_STALLED ? thole_v1_HOST_DISK_STALLED
                                                               : thole_v1_HOST_DISK_LOW_SPACE;
    }
    if (disk <= thole_v1_HOST_DISK_OK || shard_id == REGISTRY_SHARD_ID) {
        disk = engine_peer_refuses(a->engine, id, shard_id) ? thole_v1_HOST_DISK_LOW_SPACE
                                                            : thole_v1_HOST_DISK_OK;
    }
    return disk;
}

/* ---- Outages --------------------------------------------------------------------------------- */

struct host_outage { /* times at which each outage began; 0: none */
    struct uuid host;
    uint64_t silent_ns, disk_ns, zero_disk_ns;
};

struct outages {
    uint64_t revision; /* of the rows that were seen; the worker's, like `gone` */
    bool gone;         /* rows were removed, possibly of shards */
    pthread_mutex_t lock;
    struct host_outage *hosts;
    size_t count;
    /* Shard id + 1 -> since when. By rows: the shard formed, and its row names no leader. Here: the
     * local replica knows no leader. */
    struct map leaderless_by_rows, leaderless_here;
};

struct outages *agent__outages_new(void)
{
    struct outages *f = xcalloc(1, sizeof *f);
    pthread_mutex_init(&f->lock, NULL);
    return f;
}

void agent__outages_free(struct outages *f)
{
    if (f == NULL) {
        return;
    }
    map_deinit(&f->leaderless_by_rows);
    map_deinit(&f->leaderless_here);
    pthread_mutex_destroy(&f->lock);
    free(f->hosts);
    free(f);
}

static void note_leaderless(struct outages *f, struct map *m, uint64_t shard_id, bool leaderless)
{
    pthread_mutex_lock(&f->lock);
    if (!leaderless) {
        (void)map_remove(m, shard_id + 1);
    } else if (map_get(m, shard_id + 1) == NULL) {
        (void)map_put(m, shard_id + 1, (void *)(uintptr_t)clock_now(&clock_system));
    }
    pthread_mutex_unlock(&f->lock);
}

/* 0: it began after the last update. */
static uint64_t leaderless_since_ns(struct outages *f, const struct map *m, uint64_t shard_id)
{
    pthread_mutex_lock(&f->lock);
    uint64_t since = (uintptr_t)map_get(m, shard_id + 1);
    pthread_mutex_unlock(&f->lock);
    return since;
}

static void sweep(struct outages *f, const struct registry_view *v, struct map *m)
{
    struct map kept = {0};
    uint64_t key;
    void *since;
    pthread_mutex_lock(&f->lock);
    for (size_t it = 0; (since = map_next(m, &it, &key)) != NULL;) {
        if (registry_has_shard(v, key - 1)) {
            (void)map_put(&kept, key, since);
        }
    }
    map_deinit(m);
    *m = kept;
    pthread_mutex_unlock(&f->lock);
}

void agent__outages_replica_changed(struct agent *a, const struct engine_replica_status *s)
{
    note_leaderless(a->outages, &a->outages->leaderless_here, s->shard_id, !knows_leader(s));
    if (s->shard_id == REGISTRY_SHARD_ID) {
        note_zero_leader(a, s);
    }
}

/* `hint`: its likely index, because rows come in the same order each time. */
static const struct host_outage *find_outage(const struct host_outage *of, size_t count,
                                             size_t hint, const struct uuid *host)
{
    if (hint < count && uuid_equal(&of[hint].host, host)) {
        return &of[hint];
    }
    for (size_t i = 0; i < count; i++) {
        if (uuid_equal(&of[i].host, host)) {
            return &of[i];
        }
    }
    return NULL;
}

static bool note(uint64_t *since_ns, uint64_t before_ns, bool is, uint64_t now_ns)
{
    *since_ns = !is ? 0 : before_ns != 0 ? before_ns : now_ns;
    return (*since_ns != 0) != (before_ns != 0);
}

static bool note_hosts(struct agent *a, const struct registry_view *v, uint64_t now_ns)
{
    struct outages *f = a->outages;
    struct host_outage *next = NULL;
    struct slice name = {0};
    const thole_v1_Host *row;
    size_t n = 0;
    bool changed = false;
    while ((row = registry_next_host(v, name)) != NULL) {
        static const struct host_outage none;
        struct uuid id;
        name = registry_str(thole_v1_Host_name(row));
        if (!uuid_parse(registry_str(thole_v1_Host_id(row)), &id)) {
            continue;
        }
        const struct host_outage *before = find_outage(f->hosts, f->count, n, &id);
        const struct host_outage *was = before != NULL ? before : &none;
        next = xrealloc(next, (n + 1) * sizeof *next);
        struct host_outage *to = &next[n++];
        to->host = id;
        changed |= note(&to->silent_ns, was->silent_ns, !is_row_answering(a, &id, row), now_ns);
        changed |=
            note(&to->disk_ns, was->disk_ns,
                 disk_of(a, &id, row, REGISTRY_SHARD_ID + 1) > thole_v1_HOST_DISK_OK, now_ns);
        changed |= note(&to->zero_disk_ns, was->zero_disk_ns,
                        disk_of(a, &id, row, REGISTRY_SHARD_ID) > thole_v1_HOST_DISK_OK, now_ns);
    }
    changed |= n != f->count;
    pthread_mutex_lock(&f->lock);
    free(f->hosts);
    f->hosts = next;
    f->count = n;
    pthread_mutex_unlock(&f->lock);
    return changed;
}

static void note_shard(void *ctx, const thole_v1_Shard *row)
{
    struct outages *f = ctx;
    const thole_v1_ShardStatus *st = thole_v1_Shard_status(row);
    note_leaderless(f, &f->leaderless_by_rows, thole_v1_Shard_id(row),
                    st != NULL && thole_v1_ShardStatus_formed(st) &&
                        thole_v1_ShardStatus_leader_replica(st) == 0);
}

static void note_removed_row(void *ctx, const char *name)
{
    struct outages *f = ctx;
    (void)name;
    f->gone = true;
}

/* All shards at the start, and when the changes since then are no longer kept. */
static void note_shards(struct outages *f, const struct registry_view *v)
{
    const struct registry_changes changes = {
        .ctx = f, .shard = note_shard, .gone = note_removed_row};
    struct registry_shard_buf buf;
    struct thole_status st;
    const thole_v1_Shard *row;
    if (f->revision == 0 || registry_changes_since(v, f->revision, &changes, &st) != THOLE_OK) {
        for (struct slice name = {0}; (row = registry_next_shard(v, name, &buf)) != NULL;) {
            note_shard(f, row);
            name = registry_str(thole_v1_Shard_name(row));
        }
    }
    f->revision = registry_view_revision(v);
    if (f->gone) {
        sweep(f, v, &f->leaderless_by_rows);
        sweep(f, v, &f->leaderless_here);
    }
    f->gone = false;
}

bool agent__outages_update(struct agent *a, const struct registry_view *v)
{
    struct outages *f = a->outages;
    if (f->revision < registry_view_revision(v)) {
        note_shards(f, v);
    }
    return note_hosts(a, v, clock_now(&clock_system));
}

enum host_trouble { HOST_SILENT, HOST_DISK, HOST_DISK_ZERO };

/* 0: it began after the last update. */
static uint64_t host_since_ns(const struct availability_check *check, const struct uuid *host,
                              enum host_trouble what)
{
    struct outages *f = check->agent->outages;
    pthread_mutex_lock(&f->lock);
    const struct host_outage *h = find_outage(f->hosts, f->count, 0, host);
    uint64_t since = h == NULL             ? 0
                     : what == HOST_DISK   ? h->disk_ns
                     : what == HOST_SILENT ? h->silent_ns
                                           : h->zero_disk_ns;
    pthread_mutex_unlock(&f->lock);
    return since;
}

static uint64_t age_ms(uint64_t since_ns)
{
    uint64_t now = clock_now(&clock_system);
    return since_ns != 0 && now > since_ns ? (now - since_ns) / NS_PER_MS : 0;
}

/* ---- Shards ---------------------------------------------------------------------------------- */

struct availability_check agent_availability_begin(struct agent *a, const struct registry_view *v)
{
    uint64_t stalled = stalled_ms(a), age_ms = agent_view_age_ms(a);
    bool leaderless = age_ms > stalled;
    return (struct availability_check){
        .agent = a,
        .view = v,
        .stalled = engine_disk(a->engine) == ENGINE_DISK_STALLED && !CANARY(stalled_host_vouches),
        .view_age_ms = leaderless ? age_ms : stalled,
        .view_leaderless = leaderless,
        .view_reason = leaderless ? "ViewOld" : "DiskStalled",
        .view_problem = leaderless ? "this host has known no leader of shard zero"
                                   : "a write to the log of this host has not ended"};
}

struct votes {
    uint32_t all, silent;
    uint64_t first_ns, since_ns[LIMIT_MEMBERS]; /* of the silent voters */
};

/* When the voters that still answer stopped being a majority; 0: after the last update. */
static uint64_t quorum_lost_ns(const struct votes *v)
{
    uint32_t kept = v->silent < LIMIT_MEMBERS ? v->silent : LIMIT_MEMBERS;
    uint32_t enough = (v->all + 1) / 2;
    for (uint32_t i = 0; i < kept; i++) {
        uint32_t earlier = 0;
        for (uint32_t k = 0; k < kept; k++) {
            earlier +=
                v->since_ns[k] < v->since_ns[i] || (v->since_ns[k] == v->since_ns[i] && k < i);
        }
        if (earlier + 1 == enough) {
            return v->since_ns[i];
        }
    }
    return 0;
}

static void count_vote(struct votes *v, bool silent, uint64_t since_ns)
{
    v->all++;
    if (!silent) {
        return;
    }
    if (v->silent < LIMIT_MEMBERS) {
        v->since_ns[v->silent] = since_ns;
    }
    v->first_ns = v->silent == 0 || since_ns < v->first_ns ? since_ns : v->first_ns;
    v->silent++;
    ASSERT(v->silent <= v->all);
}

/* Initial replicas vote from the beginning, others once they report it. A replica that is being
 * removed votes until it is out of the configuration. */
static bool has_vote(const thole_v1_Replica *r)
{
    int32_t phase = thole_v1_Replica_phase(r);
    return thole_v1_Replica_initial(r) || phase == thole_v1_REPLICA_PHASE_RUNNING ||
           phase == thole_v1_REPLICA_PHASE_FAILED;
}

static bool has_failed(const struct availability_check *check, const thole_v1_Replica *r)
{
    struct engine_replica_status s;
    if (CANARY(failed_voter_counts)) {
        return false;
    }
    return thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_FAILED ||
           (engine_shard_status(check->agent->engine, thole_v1_Replica_shard_id(r), &s) &&
            s.failed && s.replica_id == thole_v1_Replica_id(r));
}

/* In a joint configuration no replica reports its wanted vote; then all rows count. Returns since
 * when the quorum is lost, if it is. */
static uint64_t count_votes(const struct availability_check *check, uint64_t shard_id,
                            struct shard_availability *ret)
{
    struct registry_replica_buf buf;
    const thole_v1_Replica *r;
    struct votes voting = {0}, rows = {0};
    for (uint64_t after = 0;
         (r = registry_next_replica_of_shard(check->view, shard_id, after, &buf)) != NULL;) {
        struct uuid host = {{0}};
        after = thole_v1_Replica_id(r);
        if (thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_NON_VOTING ||
            thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_OUT) {
            continue;
        }
        bool silent = !uuid_parse(registry_str(thole_v1_Replica_host_id(r)), &host) ||
                      !is_host_answering(check, &host) || has_failed(check, r);
        uint64_t ns = silent ? host_since_ns(check, &host, HOST_SILENT) : 0;
        ns = silent && ns == 0 ? clock_now(&clock_system) : ns;
        count_vote(&rows, silent, ns);
        if (has_vote(r)) {
            count_vote(&voting, silent, ns);
        }
    }
    const struct votes *v = voting.all > 0 ? &voting : &rows;
    ret->voters = v->all;
    ret->silent = v->silent;
    ret->silent_ms = age_ms(v->first_ns);
    return v->silent * 2 >= v->all ? quorum_lost_ns(v) : 0;
}

__attribute__((format(printf, 4, 0))) static void report(struct shard_availability *ret,
                                                         uint64_t age, const char *reason,
                                                         const char *format, va_list args)
{
    vsnprintf(ret->message, sizeof ret->message, format, args);
    ret->available = false;
    ret->reason = reason;
    ret->age_ms = age;
}

__attribute__((format(printf, 4, 5))) static void report_unconfirmed(struct shard_availability *ret,
                                                                     uint64_t since_ns,
                                                                     const char *reason,
                                                                     const char *format, ...)
{
    va_list args;
    va_start(args, format);
    report(ret, age_ms(since_ns), reason, format, args);
    va_end(args);
    size_t size = strlen(ret->message);
    snprintf(ret->message + size, sizeof ret->message - size, "; last confirmed %.1f s ago",
             (double)ret->age_ms / 1000);
}

/* The reason itself is confirmed, or its text says how old it is. */
__attribute__((format(printf, 4, 5))) static void report_unavailable(struct shard_availability *ret,
                                                                     uint64_t age,
                                                                     const char *reason,
                                                                     const char *format, ...)
{
    va_list args;
    va_start(args, format);
    report(ret, age, reason, format, args);
    va_end(args);
}

/* Can the leader's host write? */
static void check_disk(const struct availability_check *check, const struct uuid *id,
                       uint64_t shard_id, struct shard_availability *ret)
{
    const thole_v1_Host *row = registry_host(check->view, id);
    upb_StringView name = row != NULL ? thole_v1_Host_name(row) : upb_StringView_FromString("?");
    int32_t disk = disk_of(check->agent, id, row, shard_id);
    if (disk > thole_v1_HOST_DISK_OK) {
        report_unconfirmed(
            ret,
            host_since_ns(check, id, shard_id == REGISTRY_SHARD_ID ? HOST_DISK_ZERO : HOST_DISK),
            disk == thole_v1_HOST_DISK_STALLED ? "DiskStalled" : "LowSpace",
            "the disk of its leader's host %.*s %s, and no other voter could take over",
            (int)name.size, name.data,
            disk == thole_v1_HOST_DISK_STALLED ? "does not finish a write" : "is nearly full");
    }
}

static void report_silent_leader(const struct availability_check *check, const struct uuid *id,
                                 struct shard_availability *ret)
{
    const thole_v1_Host *row = registry_host(check->view, id);
    upb_StringView name = row != NULL ? thole_v1_Host_name(row) : upb_StringView_FromString("?");
    ret->leaderless = true;
    report_unconfirmed(ret, host_since_ns(check, id, HOST_SILENT), "LeaderSilent",
                       "its leader's host %.*s does not answer", (int)name.size, name.data);
}

/* By the local replica, which hears the leader itself. */
static void check_by_local_replica(const struct availability_check *check,
                                   const struct engine_replica_status *s,
                                   struct shard_availability *ret)
{
    if (CANARY(ready_without_leader)) {
        return;
    }
    if (!knows_leader(s)) {
        ret->leaderless = true;
        report_unconfirmed(ret,
                           leaderless_since_ns(check->agent->outages,
                                               &check->agent->outages->leaderless_here,
                                               s->shard_id),
                           "NoLeader",
                           s->role == RAFT_LEADER ? "its leader has not committed anything yet"
                                                  : "its replica on this host knows no leader");
    } else if (!is_reachable(check->agent, &s->leader_host)) {
        report_silent_leader(check, &s->leader_host, ret);
    } else {
        check_disk(check, &s->leader_host, s->shard_id, ret);
    }
}

/* By the rows alone. */
static void check_by_rows(const struct availability_check *check, const thole_v1_Shard *row,
                          uint64_t quorum_since_ns, struct shard_availability *ret)
{
    struct registry_replica_buf buf;
    struct uuid host;
    uint64_t id = thole_v1_Shard_id(row);
    uint64_t leader = thole_v1_ShardStatus_leader_replica(thole_v1_Shard_status(row));
    const thole_v1_Replica *r = leader ? registry_replica(check->view, leader, &buf) : NULL;
    if (ret->silent * 2 >= ret->voters && ret->voters > 0) {
        ret->leaderless = true;
        report_unconfirmed(ret, quorum_since_ns, "QuorumSilent",
                           "%" PRIu32 " of its %" PRIu32
                           " voters have failed, or are on hosts that do not answer",
                           ret->silent, ret->voters);
    } else if (r == NULL || !uuid_parse(registry_str(thole_v1_Replica_host_id(r)), &host)) {
        ret->leaderless = true;
        report_unconfirmed(ret,
                           leaderless_since_ns(check->agent->outages,
                                               &check->agent->outages->leaderless_by_rows, id),
                           "NoLeader", "no replica has reported that it leads");
    } else if (!is_host_answering(check, &host)) {
        report_silent_leader(check, &host, ret);
    } else {
        check_disk(check, &host, id, ret);
    }
}

void agent_check_shard(const struct availability_check *check, const thole_v1_Shard *row,
                       struct shard_availability *ret)
{
    struct engine_replica_status s;
    uint64_t id = thole_v1_Shard_id(row), generation = thole_v1_Shard_generation(row);
    ASSERT(check->agent != NULL && check->view != NULL);
    *ret = (struct shard_availability){.available = true};
    uint64_t quorum_since_ns = count_votes(check, id, ret);
    bool here = engine_shard_status(check->agent->engine, id, &s) && !s.failed &&
                (s.voter || knows_leader(&s));
    /* A replica that never campaigns does not notice that its leader is none any more. */
    here = here && ((s.voter && !s.witness) || ret->silent * 2 < ret->voters);
    /* Nor does any replica while it cannot write. */
    here = here && !check->stalled;
    if (here) {
        check_by_local_replica(check, &s, ret);
    } else {
        check_by_rows(check, row, quorum_since_ns, ret);
    }
    ret->available_here = here && ret->available;
    ret->spec_pending =
        generation > thole_v1_ShardStatus_observed_generation(thole_v1_Shard_status(row));
    if (check->view_age_ms > 0) {
        /* Without a leader of shard zero, only a replica here can tell. */
        ret->leaderless = check->view_leaderless && !ret->available_here;
        report_unavailable(ret, check->view_age_ms, check->view_reason,
                           "%s for %.1f s: what it shows is that old", check->view_problem,
                           (double)check->view_age_ms / 1000);
    } else if (thole_v1_Shard_deleting(row)) {
        ret->leaderless = false;
        report_unavailable(ret, 0, "Removing", "the shard is being deleted");
    } else if (ret->spec_pending && ret->available) {
        report_unavailable(ret, 0, "NewSpec",
                           "placement has not seen generation %" PRIu64 " of its spec yet",
                           generation);
    }
}
