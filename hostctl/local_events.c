/* What happens on this host and no row shows: leadership that is handed on, by whom and why; a disk
 * that cannot be written, or can be again. Told to shard zero, the first as events. */
#include "hostctl/hostctl_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Leadership ------------------------------------------------------------------------------ */

static struct ctl_move *move_at(struct hostctl *h)
{
    /* Shard zero may be away for long: the newest are told. */
    if (h->move_count == HOSTCTL_MOVES_KEPT) {
        h->move_count--;
        memmove(h->moves, h->moves + 1, h->move_count * sizeof h->moves[0]);
    }
    return &h->moves[h->move_count++];
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
    *move_at(h) = *move;
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

/* ---- The disk -------------------------------------------------------------------------------- */

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

/* False: the row says the same. */
static bool add_disk(const struct hostctl *h, thole_registry_v1_Command *c, upb_Arena *arena)
{
    const thole_v1_Host *own = hostctl__own_row(h);
    int32_t disk = disk_now(h);
    if (own == NULL || thole_v1_HostStatus_disk(thole_v1_Host_status(own)) == disk ||
        thole_v1_HostStatus_incarnation(thole_v1_Host_status(own)) != h->o.incarnation ||
        hostctl__host_is(own, thole_v1_HOST_STATE_REMOVED)) {
        return false;
    }
    if (c == NULL) {
        return true;
    }
    thole_registry_v1_ObserveHost *o = thole_registry_v1_Operation_mutable_observe_host(
        thole_registry_v1_Command_add_operations(c, arena), arena);
    thole_v1_HostStatus *status = thole_registry_v1_ObserveHost_mutable_status(o, arena);
    thole_registry_v1_ObserveHost_set_host_id(o, thole_v1_Host_id(own));
    thole_registry_v1_ObserveHost_set_reason(
        o, upb_StringView_FromString(
               disk == thole_v1_HOST_DISK_LOW_SPACE
                   ? "its disk is nearly full: it takes no proposals, and what it leads goes to "
                     "hosts that can write"
               : disk == thole_v1_HOST_DISK_STALLED ? "a write of its log does not end"
                                                    : "its disk can be written again"));
    thole_v1_HostStatus_set_disk(status, disk);
    thole_v1_HostStatus_set_incarnation(status, h->o.incarnation);
    return true;
}

/* ---- Telling --------------------------------------------------------------------------------- */

bool hostctl__notes_due(const struct hostctl *h)
{
    return h->view != NULL && !h->notes_outstanding &&
           (h->move_count > 0 ||
            (registry_view_revision(h->view) >= h->notes_revision && add_disk(h, NULL, NULL)));
}

void hostctl__notes_run(struct hostctl *h)
{
    char actor[LIMIT_NAME_BYTES + 8] = "host";
    upb_Arena *arena = upb_Arena_New();
    const thole_v1_Host *own = hostctl__own_row(h);
    if (own != NULL) {
        upb_StringView name = thole_v1_Host_name(own);
        snprintf(actor, sizeof actor, "host/%.*s", (int)name.size,
                 name.data != NULL ? name.data : "");
    }
    thole_registry_v1_Command *c = hostctl__command(h, actor, arena);
    struct ctl_op *op = hostctl__op_new(h, OP_NOTES, 0, 0);
    for (; op->count < h->move_count; op->count++) {
        add_move(c, &h->moves[op->count], arena);
    }
    h->move_count = 0;
    (void)add_disk(h, c, arena);
    h->notes_outstanding = true;
    hostctl__propose(h, c, arena, op);
    upb_Arena_Free(arena);
}

/* Events that could not be told are lost; the disk's state is told again. */
void hostctl__notes_done(struct hostctl *h, struct ctl_op *op)
{
    h->notes_outstanding = false;
    if (op->st.code == THOLE_OK && op->code == THOLE_OK) {
        h->notes_revision = op->revision;
        h->notes_after_ms = h->now_ms;
    } else {
        h->notes_after_ms = h->now_ms + h->o.retry_ms;
    }
}
