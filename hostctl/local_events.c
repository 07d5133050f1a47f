/* Reports to shard zero what happens on this host and follows from no row: transfers of leadership,
 * with who began them and why; a disk that cannot be written, or can be again; a wall clock that is
 * wrong, or right again.
 *
 * Moves of leadership are kept until shard zero acknowledges them. The command that records a batch
 * of them has a request id, and every retry is the same batch under the same id: if the command
 * took effect and only its answer was lost, shard zero repeats the answer and records nothing
 * twice. At most HOSTCTL_MOVES_KEPT moves are kept; the oldest ones give way. A restart loses them.
 *
 * Disk and clock need none of that: they are compared with the host's row until both agree. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Leadership ------------------------------------------------------------------------------ */

/* The oldest `count` moves. Those of the batch are the oldest ones. */
static void forget_moves(struct hostctl *h, size_t count)
{
    ASSERT(count <= h->move_count && h->moves_proposed <= h->move_count);
    h->move_count -= count;
    h->moves_proposed -= count < h->moves_proposed ? count : h->moves_proposed;
    memmove(h->moves, h->moves + count, h->move_count * sizeof h->moves[0]);
}

struct ctl_op *hostctl__op_move(struct hostctl *h, enum ctl_op_kind kind, uint64_t shard_id,
                                uint64_t to, const char *by, const char *why)
{
    struct engine_replica_status local = {0};
    struct ctl_op *op = hostctl__op_new(h, kind, shard_id, to);
    (void)engine_shard_status(h->o.engine, shard_id, &local);
    op->move = xcalloc(1, sizeof *op->move);
    *op->move =
        (struct ctl_move){.shard_id = shard_id, .from = local.replica_id, .to = to, .by = by};
    snprintf(op->move->why, sizeof op->move->why, "%s", why);
    return op;
}

void hostctl__note_move(struct hostctl *h, const struct ctl_move *move)
{
    if (h->move_count == HOSTCTL_MOVES_KEPT) {
        forget_moves(h, 1);
        h->moves_lost++;
    }
    h->moves[h->move_count++] = *move;
}

static void add_move(thole_registry_v1_Command *c, const struct ctl_move *m, upb_Arena *arena)
{
    thole_registry_v1_RecordLeaderMove *o = thole_registry_v1_Operation_mutable_record_leader_move(
        thole_registry_v1_Command_add_operations(c, arena), arena);
    thole_registry_v1_RecordLeaderMove_set_shard_id(o, m->shard_id);
    thole_registry_v1_RecordLeaderMove_set_from_replica(o, m->from);
    thole_registry_v1_RecordLeaderMove_set_to_replica(o, m->to);
    thole_registry_v1_RecordLeaderMove_set_by(o, upb_StringView_FromString(m->by));
    thole_registry_v1_RecordLeaderMove_set_why(o, upb_StringView_FromString(m->why));
}

/* ---- Disk and clock -------------------------------------------------------------------------- */

static int32_t disk_now(const struct hostctl *h)
{
    switch (engine_disk(h->o.engine)) {
    case ENGINE_DISK_LOW:
        return thole_v1_HOST_DISK_LOW_SPACE;
    case ENGINE_DISK_STALLED:
        return thole_v1_HOST_DISK_STALLED;
    case ENGINE_DISK_OK:
        break;
    }
    return thole_v1_HOST_DISK_OK;
}

/* The host's own row, if a report would count and the view has the last one. */
static const thole_v1_HostStatus *own_status(const struct hostctl *h)
{
    const thole_v1_Host *own = hostctl__own_row(h);
    bool counts = own != NULL && registry_view_revision(h->view) >= h->events_revision &&
                  thole_v1_HostStatus_incarnation(thole_v1_Host_status(own)) == h->o.incarnation &&
                  !hostctl__host_has_state(own, thole_v1_HOST_STATE_REMOVED);
    return counts ? thole_v1_Host_status(own) : NULL;
}

struct host_news {
    bool is_disk;  /* otherwise the clock */
    int32_t state; /* thole_v1_HOST_DISK_..., thole_v1_HOST_CLOCK_... */
};

/* The disk or the clock, one at a time: the reason of a report is the message of its event. False:
 * the row agrees with both. */
static bool find_news(const struct hostctl *h, struct host_news *ret)
{
    const thole_v1_HostStatus *own = own_status(h);
    int32_t disk = disk_now(h);
    bool wrong = engine_clock_is_wrong(h->o.engine);
    if (own == NULL) {
        return false;
    }
    bool is_disk = thole_v1_HostStatus_disk(own) != disk;
    *ret = (struct host_news){
        .is_disk = is_disk,
        .state = is_disk ? disk
                 : wrong ? thole_v1_HOST_CLOCK_WRONG
                         : thole_v1_HOST_CLOCK_OK,
    };
    return is_disk || (thole_v1_HostStatus_clock(own) == thole_v1_HOST_CLOCK_WRONG) != wrong;
}

static const char *describe_disk(int32_t disk)
{
    return disk == thole_v1_HOST_DISK_LOW_SPACE
               ? "the disk is nearly full: the host takes no proposals, and its leaders move to "
                 "hosts that can write"
           : disk == thole_v1_HOST_DISK_STALLED ? "a write to the log does not end"
                                                : "the disk can be written again";
}

static void describe_clock(const struct hostctl *h, bool wrong, char *text, size_t size)
{
    int64_t ahead_ms = engine_clock_ahead_ms(h->o.engine);
    if (wrong) {
        snprintf(text, size,
                 "the wall clock is %.1f s %s the other hosts': leaders move to other hosts",
                 (double)llabs(ahead_ms) / 1000, ahead_ms < 0 ? "behind" : "ahead of");
    } else {
        snprintf(text, size, "the wall clock agrees with the other hosts' again");
    }
}

static void add_host_report(const struct hostctl *h, const struct host_news *news,
                            thole_registry_v1_Command *c, upb_Arena *arena)
{
    char text[160];
    const char *reason = text;
    thole_registry_v1_ObserveHost *o = thole_registry_v1_Operation_mutable_observe_host(
        thole_registry_v1_Command_add_operations(c, arena), arena);
    thole_v1_HostStatus *status = thole_registry_v1_ObserveHost_mutable_status(o, arena);
    if (news->is_disk) {
        reason = describe_disk(news->state);
        thole_v1_HostStatus_set_disk(status, news->state);
    } else {
        describe_clock(h, news->state == thole_v1_HOST_CLOCK_WRONG, text, sizeof text);
        thole_v1_HostStatus_set_clock(status, news->state);
    }
    thole_v1_HostStatus_set_incarnation(status, h->o.incarnation);
    thole_registry_v1_ObserveHost_set_host_id(o, thole_v1_Host_id(hostctl__own_row(h)));
    thole_registry_v1_ObserveHost_set_reason(o, hostctl__copy(arena, slice_str(reason)));
}

/* ---- Proposals ------------------------------------------------------------------------------- */

/* The batch that was not acknowledged yet, or a new batch. */
static void add_moves(struct hostctl *h, thole_registry_v1_Command *c, upb_Arena *arena)
{
    char host[UUID_TEXT_BYTES];
    char id[LIMIT_NAME_BYTES];
    ASSERT(h->move_count > 0);
    if (h->moves_proposed == 0) {
        h->moves_proposed = h->move_count;
        h->moves_batch++;
    }
    uuid_format(&h->o.host_id, host);
    snprintf(id, sizeof id, "moves/%s/%" PRIu64 "/%" PRIu64, host, h->o.incarnation,
             h->moves_batch);
    registry_command_set_request_id(c, slice_str(id), arena);
    for (size_t i = 0; i < h->moves_proposed; i++) {
        add_move(c, &h->moves[i], arena);
    }
}

bool hostctl__local_events_are_due(const struct hostctl *h)
{
    struct host_news news;
    return h->view != NULL && !h->events_outstanding && (h->move_count > 0 || find_news(h, &news));
}

void hostctl__local_events_run(struct hostctl *h)
{
    struct host_news news;
    bool differs = find_news(h, &news);
    if (!differs && h->move_count == 0) {
        return; /* disk and clock changed back just now */
    }
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = hostctl__host_command(h, arena);
    /* Never both in one command: shard zero may answer a retry without executing it. The two
     * alternate, so that a failing command does not delay the other one. */
    h->events_host = differs && !(h->events_host && h->move_count > 0);
    if (h->events_host) {
        add_host_report(h, &news, c, arena);
    } else {
        add_moves(h, c, arena);
    }
    h->events_outstanding = true;
    hostctl__propose(h, c, arena, hostctl__op_new(h, OP_LOCAL_EVENTS, 0, 0));
    upb_Arena_Free(arena);
}

static void moves_acknowledged(struct hostctl *h)
{
    forget_moves(h, h->moves_proposed);
    if (h->moves_lost > 0) {
        LOG_WARN(HOSTCTL,
                 "moves of leadership were not recorded as events: shard zero did not answer for "
                 "too long moves=%" PRIu64,
                 h->moves_lost);
        h->moves_lost = 0;
    }
}

void hostctl__local_events_done(struct hostctl *h, struct ctl_op *op)
{
    bool answered = op->st.code == THOLE_OK;
    h->events_outstanding = false;
    h->events_after_ms = h->now_ms + h->o.retry_ms;
    if (answered && op->code == THOLE_OK) {
        h->events_after_ms = h->now_ms;
    }
    /* Only after a report of the host: the view does not advance while the disk hangs. */
    if (h->events_host && answered && op->code == THOLE_OK) {
        h->events_revision = op->revision;
    }
    if (!h->events_host && answered && op->code == THOLE_OK) {
        moves_acknowledged(h);
    } else if (!h->events_host && answered && op->code == THOLE_INVALID_ARGUMENT) {
        LOG_WARN(HOSTCTL, "moves of leadership were refused as events; dropping them moves=%zu",
                 h->moves_proposed);
        forget_moves(h, h->moves_proposed);
    }
}
