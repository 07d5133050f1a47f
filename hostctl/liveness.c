/* Liveness of hosts, judged on shard zero's leader host alone. Every host has a replica of shard
 * zero, so its leader hears from every host all the time. The allowed silence of a host follows the
 * intervals between its signs of life (detector.h).
 *
 *   LIVE ----> SUSPECT   silent for longer than allowed, or its connection broke and stays so
 *   SUSPECT -> DEAD      silent for the whole grace
 *   either --> LIVE      heard steadily for a while: as long as the smallest threshold, or twice
 *                        that for a dead host
 *
 * Other hosts may still reach a host that the leader cannot reach. The leader asks them before it
 * calls the host suspect, and again before it calls it dead. A host that any other host reaches is
 * not dead: its replicas serve. If the leader's connection stands and the host is silent all the
 * same, the host itself hangs, and other hosts are not asked.
 *
 * A new leader restarts its clocks, so a change of leader never shortens a grace. A host without a
 * connection then becomes suspect as if its connection had broken. A suspect or dead host stays so
 * until it is heard. A pause of the leader's own process does not count as silence. */
#include "base/canary.h"
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The number of other hosts that are asked about a silent host. */
#define ASKED_MAX 3
/* The other hosts are asked again about a partitioned host after this part of the grace. */
#define ASK_AGAIN_PARTS 4

struct judgement {
    int32_t liveness; /* UNSPECIFIED: as it is */
    bool forgive;     /* no replica has failed there for a while */
    char reason[THOLE_STATUS_MESSAGE_BYTES];
};

static struct detector_bounds bounds_of(const struct hostctl *h)
{
    return (struct detector_bounds){h->o.suspect_after_ms, h->o.suspect_after_ms_max};
}

static void look_at(struct hostctl *h, uint64_t at_ms)
{
    if (at_ms < h->liveness_due_ms) {
        h->liveness_due_ms = at_ms;
    }
}

/* A copy of the detector of host `i`. */
static struct detector detector_of(struct hostctl *h, size_t i)
{
    pthread_mutex_lock(&h->signs.lock);
    struct detector d = h->signs.of[i].detector;
    pthread_mutex_unlock(&h->signs.lock);
    return d;
}

/* ---- What others say ------------------------------------------------------------------------- */

static bool may_be_asked(const struct hostctl *h, const struct ctl_host *host)
{
    const thole_v1_Host *row = registry_host(h->view, &host->id);
    return host->in_view && host->up && !uuid_equal(&host->id, &h->o.host_id) &&
           !hostctl__host_has_state(row, thole_v1_HOST_STATE_REMOVED);
}

static void ask_others(struct hostctl *h, struct ctl_host *about)
{
    about->asked_ms = h->now_ms;
    about->reached = false;
    about->unreached = 0;
    for (size_t i = 0; i < h->host_count && about->questions < ASKED_MAX; i++) {
        if (&h->hosts[i] != about && may_be_asked(h, &h->hosts[i])) {
            about->questions++;
            hostctl__ask_reaches(h, &h->hosts[i].id, &about->id);
        }
    }
}

void hostctl__liveness_answer(struct hostctl *h, const struct ctl_op *op)
{
    struct ctl_host *about = hostctl__host(h, &op->host);
    ASSERT(about->questions > 0);
    about->questions--;
    if (op->answered && op->reaches) {
        about->reached = true;
        about->witness = op->asked;
    } else if (op->answered) {
        about->unreached++;
    }
    look_at(h, h->now_ms);
}

/* Have other hosts been asked since then? If not, ask them now. */
static bool asked_since(struct hostctl *h, struct ctl_host *host, uint64_t since_ms)
{
    if (host->questions == 0 && host->asked_ms < since_ms) {
        ask_others(h, host);
    }
    return host->questions == 0;
}

static void append_others(const struct hostctl *h, const struct ctl_host *host,
                          struct judgement *ret)
{
    size_t size = strlen(ret->reason);
    char *end = ret->reason + size;
    if (host->up) {
        snprintf(end, sizeof ret->reason - size, "; its connection stands");
    } else if (host->reached) {
        const thole_v1_Host *row = registry_host(h->view, &host->witness);
        upb_StringView name =
            row == NULL ? upb_StringView_FromString("another host") : thole_v1_Host_name(row);
        snprintf(end, sizeof ret->reason - size, "; but %.*s reaches it", (int)name.size,
                 name.data);
    } else if (host->unreached > 0) {
        snprintf(end, sizeof ret->reason - size, "; %u other%s not reach it either",
                 (unsigned)host->unreached, host->unreached == 1 ? " does" : "s do");
    }
}

/* ---- Judging --------------------------------------------------------------------------------- */

static void judge_speaking(struct hostctl *h, const struct detector *d, int32_t before,
                           struct judgement *ret)
{
    const struct detector_bounds b = bounds_of(h);
    look_at(h, detector_due_ms(d, &b));
    if (!d->spoke || before == thole_v1_HOST_LIVENESS_LIVE) {
        return;
    }
    bool was_dead = before == thole_v1_HOST_LIVENESS_DEAD;
    uint64_t steady_ms = d->steady_ms + (was_dead ? 2 * b.floor_ms : b.floor_ms);
    if (before != thole_v1_HOST_LIVENESS_UNSPECIFIED && h->now_ms < steady_ms) {
        look_at(h, steady_ms);
        return;
    }
    ret->liveness = thole_v1_HOST_LIVENESS_LIVE;
    snprintf(ret->reason, sizeof ret->reason, "heard again for %.1f s",
             (double)(h->now_ms - d->steady_ms) / 1000);
}

static void judge_silent(struct hostctl *h, struct ctl_host *host, const struct detector *d,
                         int32_t before, struct judgement *ret)
{
    const struct detector_bounds b = bounds_of(h);
    uint64_t silent_ms = h->now_ms - d->heard_ms;
    uint64_t dead_ms = d->heard_ms + h->o.dead_after_ms;
    uint64_t again_ms = h->o.dead_after_ms / ASK_AGAIN_PARTS + 1;
    if (before == thole_v1_HOST_LIVENESS_DEAD) {
        return;
    }
    bool late = h->now_ms >= dead_ms;
    uint64_t since_ms = late && h->now_ms - dead_ms >= again_ms ? h->now_ms - again_ms + 1
                        : late                                  ? dead_ms
                                                                : detector_due_ms(d, &b);
    if (!host->up && !asked_since(h, host, since_ms)) {
        return; /* the answers wake us */
    }
    if (late && (host->up || !host->reached)) {
        ret->liveness = thole_v1_HOST_LIVENESS_DEAD;
        snprintf(ret->reason, sizeof ret->reason,
                 "silent for %.1f s, more than the grace of %.1f s", (double)silent_ms / 1000,
                 (double)h->o.dead_after_ms / 1000);
        append_others(h, host, ret);
        return;
    }
    look_at(h, late ? h->now_ms + again_ms : dead_ms);
    if (before == thole_v1_HOST_LIVENESS_SUSPECT) {
        return;
    }
    ret->liveness = thole_v1_HOST_LIVENESS_SUSPECT;
    if (d->broken) {
        snprintf(ret->reason, sizeof ret->reason, "it has not been connected for %.1f s",
                 (double)(h->now_ms - d->broken_ms) / 1000);
    } else {
        snprintf(ret->reason, sizeof ret->reason, "silent for %.1f s, expected within %.1f s",
                 (double)silent_ms / 1000, detector_allowed_ms(d, &b) / 1000.0);
    }
    append_others(h, host, ret);
}

static void judge(struct hostctl *h, size_t i, const thole_v1_Host *row, struct judgement *ret)
{
    struct ctl_host *host = &h->hosts[i];
    const struct detector_bounds b = bounds_of(h);
    int32_t before = thole_v1_HostStatus_liveness(thole_v1_Host_status(row));
    *ret = (struct judgement){.liveness = thole_v1_HOST_LIVENESS_UNSPECIFIED};
    if (uuid_equal(&host->id, &h->o.host_id)) {
        ret->liveness = thole_v1_HOST_LIVENESS_LIVE;
        snprintf(ret->reason, sizeof ret->reason, "it leads shard zero");
        return;
    }
    const struct detector d = detector_of(h, i);
    if (h->now_ms < detector_due_ms(&d, &b)) {
        judge_speaking(h, &d, before, ret);
    } else {
        judge_silent(h, host, &d, before, ret);
    }
}

uint64_t hostctl__passed_ms(const struct hostctl *h, uint64_t at_ms, uint64_t seen_ms)
{
    uint64_t wall_ms = h->clock->wall_ms(h->clock);
    uint64_t passed_ms = wall_ms > at_ms ? wall_ms - at_ms : 0;
    uint64_t seen_for_ms = h->now_ms - seen_ms;
    return passed_ms > seen_for_ms || CANARY(pause_by_wall_clock) ? passed_ms : seen_for_ms;
}

static void judge_failures(struct hostctl *h, struct ctl_host *host, const thole_v1_Host *row,
                           struct judgement *ret)
{
    const thole_v1_HostFailures *f = thole_v1_HostStatus_failures(thole_v1_Host_status(row));
    if (f == NULL || ret->liveness != thole_v1_HOST_LIVENESS_UNSPECIFIED) {
        return; /* after that */
    }
    int64_t failed_ms = thole_v1_HostFailures_time_ms(f);
    if (host->failed_ms != failed_ms) {
        host->failed_ms = failed_ms;
        host->failed_seen_ms = h->now_ms;
    }
    uint64_t passed_ms = hostctl__passed_ms(h, (uint64_t)failed_ms, host->failed_seen_ms);
    if (passed_ms < PLACEMENT_HOST_QUIET_MS) {
        look_at(h, h->now_ms + (PLACEMENT_HOST_QUIET_MS - passed_ms));
        return;
    }
    ret->forgive = true;
    snprintf(ret->reason, sizeof ret->reason, "no replica failed there for %" PRIu64 " minutes",
             passed_ms / 60000);
}

/* ---- Telling --------------------------------------------------------------------------------- */

static void report(struct hostctl *h, struct ctl_host *host, const thole_v1_Host *row,
                   const struct judgement *j)
{
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = hostctl__command(h, "liveness", arena);
    thole_registry_v1_Operation *o = thole_registry_v1_Command_add_operations(c, arena);
    thole_registry_v1_ObserveHost *observe =
        thole_registry_v1_Operation_mutable_observe_host(o, arena);
    thole_v1_HostStatus *status = thole_registry_v1_ObserveHost_mutable_status(observe, arena);
    thole_registry_v1_Operation_set_expected_revision(o, thole_v1_Host_revision(row));
    thole_registry_v1_ObserveHost_set_host_id(observe, thole_v1_Host_id(row));
    thole_registry_v1_ObserveHost_set_reason(observe, upb_StringView_FromString(j->reason));
    thole_registry_v1_ObserveHost_set_forgive_failures(observe, j->forgive);
    thole_v1_HostStatus_set_liveness(status, j->liveness);
    thole_v1_HostStatus_set_incarnation(status,
                                        thole_v1_HostStatus_incarnation(thole_v1_Host_status(row)));
    struct ctl_op *op = hostctl__op_new(h, OP_LIVENESS, 0, 0);
    op->host = host->id;
    host->reporting = true;
    hostctl__propose(h, c, arena, op);
    upb_Arena_Free(arena);
}

/* The turn was due at liveness_due_ms. Much later means that this process was stopped and received
 * nothing. */
static void excuse_all(struct hostctl *h)
{
    uint64_t late_ms = h->now_ms > h->liveness_due_ms ? h->now_ms - h->liveness_due_ms : 0;
    if (late_ms < h->o.suspect_after_ms / 4) {
        return;
    }
    uint64_t away_ms = h->now_ms - h->liveness_ran_ms;
    LOG_INFO(HOSTCTL, "process was stopped; silences of hosts are excused paused_ms=%" PRIu64,
             away_ms);
    pthread_mutex_lock(&h->signs.lock);
    for (size_t i = 0; i < h->signs.count; i++) {
        detector_excuse(&h->signs.of[i].detector, away_ms, h->now_ms);
    }
    pthread_mutex_unlock(&h->signs.lock);
}

/* The host restarted and shard zero admitted it: a sign of life, although none may have arrived
 * here. */
static void note_start(struct hostctl *h, size_t i, const thole_v1_Host *row)
{
    uint64_t incarnation = thole_v1_HostStatus_incarnation(thole_v1_Host_status(row));
    bool again = h->hosts[i].incarnation != 0 && incarnation > h->hosts[i].incarnation;
    h->hosts[i].incarnation = incarnation;
    if (again) {
        const struct detector_bounds b = bounds_of(h);
        pthread_mutex_lock(&h->signs.lock);
        detector_heard(&h->signs.of[i].detector, &b, h->now_ms);
        pthread_mutex_unlock(&h->signs.lock);
    }
}

void hostctl__liveness_run(struct hostctl *h)
{
    excuse_all(h);
    h->liveness_ran_ms = h->now_ms;
    h->liveness_due_ms = UINT64_MAX;
    for (size_t i = 0; i < h->host_count; i++) {
        struct ctl_host *host = &h->hosts[i];
        const thole_v1_Host *row = registry_host(h->view, &host->id);
        struct judgement j;
        if (!host->in_view || row == NULL || host->reporting ||
            hostctl__host_has_state(row, thole_v1_HOST_STATE_REMOVED)) {
            continue;
        }
        note_start(h, i, row);
        judge(h, i, row, &j);
        if (j.liveness == thole_v1_HostStatus_liveness(thole_v1_Host_status(row))) {
            j.liveness = thole_v1_HOST_LIVENESS_UNSPECIFIED;
        }
        judge_failures(h, host, row, &j);
        if (j.liveness == thole_v1_HOST_LIVENESS_UNSPECIFIED && !j.forgive) {
            continue;
        }
        if (h->now_ms < host->report_after_ms) {
            look_at(h, host->report_after_ms);
        } else if (registry_view_revision(h->view) >= host->report_revision) {
            report(h, host, row, &j); /* else: when the view has it */
        }
    }
}

void hostctl__liveness_done(struct hostctl *h, struct ctl_op *op)
{
    struct ctl_host *host = hostctl__host(h, &op->host);
    host->reporting = false;
    if (op->st.code == THOLE_OK && op->code == THOLE_OK) {
        host->report_revision = op->revision;
    } else {
        host->report_after_ms = h->now_ms + h->o.retry_ms;
    }
    look_at(h, h->now_ms);
}

/* ---- Beginning, end, the bus ----------------------------------------------------------------- */

void hostctl__liveness_begin(struct hostctl *h)
{
    const struct detector_bounds b = bounds_of(h);
    pthread_mutex_lock(&h->signs.lock);
    for (size_t i = 0; i < h->host_count; i++) {
        struct detector *d = &h->signs.of[i].detector;
        detector_restart(d, h->now_ms);
        if (!h->hosts[i].up) {
            detector_broken(d, &b, h->now_ms); /* it may have died together with the last leader */
        }
        h->hosts[i].asked_ms = 0;
    }
    pthread_mutex_unlock(&h->signs.lock);
    atomic_store_explicit(&h->signs.wanted, true, memory_order_relaxed);
    h->liveness_ran_ms = h->now_ms;
    h->liveness_due_ms = h->now_ms;
}

void hostctl__liveness_end(struct hostctl *h)
{
    atomic_store_explicit(&h->signs.wanted, false, memory_order_relaxed);
}

void hostctl__liveness_peer(struct hostctl *h, const struct uuid *id, bool up)
{
    const struct detector_bounds b = bounds_of(h);
    struct ctl_host *host = hostctl__host(h, id);
    struct detector *d = NULL;
    bool broke = host->up && !up;
    host->up = up;
    pthread_mutex_lock(&h->signs.lock);
    d = &h->signs.of[host - h->hosts].detector;
    if (up) {
        detector_heard(d, &b, h->now_ms);
    } else if (broke) {
        detector_broken(d, &b, h->now_ms);
    }
    pthread_mutex_unlock(&h->signs.lock);
    if (up) {
        hostctl__leaders_hosts_changed(h); /* it may be where leaders are preferred */
    }
    look_at(h, h->now_ms);
}
