/* thole.v1.Snapshots.SaveSnapshot: streams a snapshot file of a local or remote replica, at the
 * client's pace.
 *
 * Invariant: a save waits for exactly one thing, a piece or room in the stream's queue. */
#include <stdlib.h>
#include <string.h>

#include "agent/services/services_internal.h"
#include "agent/snapshots/exports.h"

#define SAVE_PATH "/thole.v1.Snapshots/SaveSnapshot"
#define PIECE_DEADLINE_NS (30 * NS_PER_S)
/* A large machine takes a while to write its file. */
#define FIRST_DEADLINE_NS (10 * 60 * NS_PER_S)
#define RECORD_DEADLINE_NS (5 * NS_PER_S)

struct save {
    struct services *s;
    struct bus_rpc *rpc;
    char shard[LIMIT_NAME_BYTES + 1];
    /* Hosts that may have a replica, asked in this order. */
    struct uuid hosts[LIMIT_MEMBERS];
    size_t host_count, host_at;
    struct export_read read;
    uint64_t unless_shard; /* whose state read.unless_... is */
    uint64_t total_bytes, index;

    pthread_mutex_t mutex; /* the rest of the piece */
    bool cancelled;
    struct bufslice waiting; /* waits for room in the queue */
};

static void save_free(void *data)
{
    struct save *v = data;
    bufslice_unref(v->waiting);
    pthread_mutex_destroy(&v->mutex);
    free(v);
}

static void fail(struct save *v, const struct thole_status *st)
{
    const char *metadata[] = {"shard", v->shard, NULL};
    services__fail(v->rpc, st, metadata);
}

/* A failure of the host that was asked, with its name: "host h2: the host is not connected". */
static void fail_of_host(struct save *v, const struct thole_status *st)
{
    struct thole_status named = *st;
    struct registry_view *view = registry_view_acquire(agent_registry(v->s->agent));
    const thole_v1_Host *row = registry_host(view, &v->read.host);
    if (row != NULL && !uuid_equal(&v->read.host, agent_host_id(v->s->agent))) {
        upb_StringView name = thole_v1_Host_name(row);
        thole_status_set(&named, st->code, st->reason, st->file, st->line, "host %.*s: %s",
                         (int)name.size, name.data, st->message);
    }
    registry_view_release(view);
    fail(v, &named);
}

static void fail_cancelled(struct save *v)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_CANCELLED, THOLE_REASON_NONE, "the client cancelled the call");
    fail(v, &st);
}

/* ---- The event ------------------------------------------------------------------------------- */

static void recorded(void *ctx, const struct thole_status *st,
                     const thole_registry_v1_Result *result)
{
    (void)ctx, (void)st,
        (void)result; /* best effort: without shard zero there is a file but no event */
}

static void record(struct save *v)
{
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *command = services__command_new(v->rpc, SAVE_PATH, arena);
    thole_registry_v1_RecordSnapshot *o = thole_registry_v1_Operation_mutable_record_snapshot(
        thole_registry_v1_Command_add_operations(command, arena), arena);
    struct registry_view *view = registry_view_acquire(agent_registry(v->s->agent));
    const thole_v1_Host *own = registry_host(view, agent_host_id(v->s->agent));
    thole_registry_v1_RecordSnapshot_set_shard_id(o, v->read.shard_id);
    thole_registry_v1_RecordSnapshot_set_index(o, v->index);
    thole_registry_v1_RecordSnapshot_set_bytes(o, v->total_bytes);
    if (own != NULL) {
        thole_registry_v1_RecordSnapshot_set_host(o, thole_v1_Host_name(own));
    }
    struct bufslice bytes = registry_command_encode(command, arena);
    registry_view_release(view);
    upb_Arena_Free(arena);
    agent_command(v->s->agent, bytes, clock_now(&clock_system) + RECORD_DEADLINE_NS, recorded,
                  NULL);
}

/* ---- Pieces ---------------------------------------------------------------------------------- */

static void piece_done(void *ctx, const struct thole_status *st, const struct export_piece *piece);

static void ask(struct save *v)
{
    v->read.deadline_ns =
        clock_now(&clock_system) + (v->read.id == 0 ? FIRST_DEADLINE_NS : PIECE_DEADLINE_NS);
    exports_read(agent_exports(v->s->agent), &v->read, piece_done, v);
}

/* Called after each queued piece. */
static void continue_save(struct save *v)
{
    if (v->read.offset < v->total_bytes) {
        ask(v);
        return;
    }
    record(v);
    bus_rpc_reply(v->rpc, (struct bufslice){0});
}

/* Queue the piece, or keep it until there is room. False: kept, or the call was cancelled; the save
 * may be freed. */
static bool queue(struct save *v, struct bufslice message)
{
    pthread_mutex_lock(&v->mutex);
    bool cancelled = v->cancelled;
    bool sent = !cancelled && bus_rpc_send(v->rpc, bufslice_ref(message));
    if (!sent && !cancelled) {
        v->waiting = bufslice_ref(message);
    }
    pthread_mutex_unlock(&v->mutex);
    if (cancelled) {
        fail_cancelled(v);
    }
    return sent;
}

static struct bufslice take_waiting(struct save *v)
{
    pthread_mutex_lock(&v->mutex);
    struct bufslice message = v->waiting;
    v->waiting = (struct bufslice){0};
    pthread_mutex_unlock(&v->mutex);
    return message;
}

static void drained(void *ctx)
{
    struct save *v = ctx;
    struct bufslice message = take_waiting(v);
    if (message.owner != NULL && queue(v, message)) {
        continue_save(v);
    }
    bufslice_unref(message);
}

static void cancelled(void *ctx)
{
    struct save *v = ctx;
    pthread_mutex_lock(&v->mutex);
    v->cancelled = true;
    pthread_mutex_unlock(&v->mutex);
    struct bufslice message = take_waiting(v);
    if (message.owner != NULL) {
        bufslice_unref(message);
        fail_cancelled(v);
    }
}

static bool try_another(struct save *v, const struct thole_status *st)
{
    bool may = st->code == THOLE_UNAVAILABLE || st->code == THOLE_NOT_FOUND ||
               st->code == THOLE_FAILED_PRECONDITION || st->code == THOLE_UNKNOWN ||
               st->code == THOLE_DATA_LOSS;
    if (v->read.id != 0 || !may || v->host_at + 1 >= v->host_count) {
        return false;
    }
    v->read.host = v->hosts[++v->host_at];
    ask(v);
    return true;
}

static void piece_done(void *ctx, const struct thole_status *st, const struct export_piece *piece)
{
    struct save *v = ctx;
    struct thole_status wrong;
    if (piece == NULL) {
        if (!try_another(v, st)) {
            fail_of_host(v, st);
        }
        return;
    }
    if (piece->unchanged && v->read.unless_index != 0) {
        bus_rpc_reply(v->rpc, (struct bufslice){0});
        return;
    }
    uint64_t left = piece->total_bytes - v->read.offset;
    if ((v->read.id != 0 && piece->total_bytes != v->total_bytes) ||
        v->read.offset >= piece->total_bytes || piece->data.bytes.size == 0 ||
        piece->data.bytes.size > left || piece->id == 0) {
        (void)THOLE_FAIL(&wrong, THOLE_INTERNAL, THOLE_REASON_BAD_REQUEST,
                         "malformed piece from the host that has the snapshot");
        fail(v, &wrong);
        return;
    }
    v->read.id = piece->id;
    v->total_bytes = piece->total_bytes;
    v->index = piece->index;
    v->read.offset += piece->data.bytes.size;
    struct bytes out = {0};
    services__wire_varint(&out, 1, piece->total_bytes);
    services__wire_bytes(&out, 2, piece->data.bytes);
    struct buf *b = bytes_to_buf(&out);
    bytes_deinit(&out);
    struct bufslice message = {b, slice_of(b->data, b->size)};
    if (queue(v, message)) {
        continue_save(v);
    }
    bufslice_unref(message);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void add_host(struct save *v, const struct uuid *host)
{
    if (v->host_count < LIMIT_MEMBERS) {
        v->hosts[v->host_count++] = *host;
    }
}

/* The order: this host, hosts with a running replica, the other hosts. */
static void find_hosts(struct save *v)
{
    struct registry_replica_buf replica_buf;
    struct registry_view *view = registry_view_acquire(agent_registry(v->s->agent));
    const struct uuid *self = agent_host_id(v->s->agent);
    struct engine_replica_status here;
    if (engine_shard_status(agent_engine(v->s->agent), v->read.shard_id, &here) &&
        here.initialised) {
        add_host(v, self);
    }
    for (int running = 1; running >= 0; running--) {
        uint64_t after = 0;
        const thole_v1_Replica *row;
        while ((row = registry_next_replica_of_shard(view, v->read.shard_id, after,
                                                     &replica_buf)) != NULL) {
            struct slice id = registry_str(thole_v1_Replica_host_id(row));
            struct uuid host;
            after = thole_v1_Replica_id(row);
            if ((thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_RUNNING) == running &&
                thole_v1_Replica_role(row) != thole_v1_REPLICA_ROLE_WITNESS &&
                uuid_parse(id, &host) && !uuid_equal(&host, self)) {
                add_host(v, &host);
            }
        }
    }
    registry_view_release(view);
}

static void resolved(void *ctx, const struct thole_status *st, uint64_t shard_id)
{
    struct save *v = ctx;
    struct thole_status none;
    if (st->code != THOLE_OK) {
        fail(v, st);
        return;
    }
    v->read.shard_id = shard_id;
    if (v->unless_shard != shard_id) {
        v->read.unless_index = 0;
    }
    find_hosts(v);
    if (v->host_count == 0) {
        (void)THOLE_FAIL(&none, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                         "this host knows no replica of the shard");
        fail(v, &none);
        return;
    }
    v->read.host = v->hosts[0];
    ask(v);
}

void services__snapshots_save(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct services *s = ctx;
    upb_Arena *arena = upb_Arena_New();
    const thole_v1_SaveSnapshotRequest *q =
        services__decode(rpc, &thole_v1_SaveSnapshotRequest_msginit, message, arena);
    if (q == NULL) {
        upb_Arena_Free(arena);
        return;
    }
    struct thole_status st;
    struct save *v = xcalloc(1, sizeof *v);
    if (!services__name_of_shard(thole_v1_SaveSnapshotRequest_shard(q), v->shard, &st)) {
        services__fail(rpc, &st, (const char *const[]){"field", "shard", NULL});
        free(v);
        upb_Arena_Free(arena);
        return;
    }
    const struct access_right right = {
        .data = true, .verb = thole_v1_DATA_RIGHT_ADMIN, .name = slice_str(v->shard)};
    if (!services__stream_is_allowed(s, rpc, SAVE_PATH, &right)) {
        free(v);
        upb_Arena_Free(arena);
        return;
    }
    v->s = s;
    v->rpc = rpc;
    v->read.stale = thole_v1_SaveSnapshotRequest_stale(q);
    const thole_v1_SnapshotPoint *unless = thole_v1_SaveSnapshotRequest_unless(q);
    if (unless != NULL) {
        v->unless_shard = thole_v1_SnapshotPoint_shard_id(unless);
        v->read.unless_index = thole_v1_SnapshotPoint_index(unless);
        v->read.unless_term = thole_v1_SnapshotPoint_term(unless);
        v->read.unless_epoch = thole_v1_SnapshotPoint_epoch(unless);
    }
    pthread_mutex_init(&v->mutex, NULL);
    upb_Arena_Free(arena);
    bus_rpc_set_data(rpc, v, save_free);
    bus_rpc_on_drained(rpc, drained, v);
    bus_rpc_on_cancel(rpc, cancelled, v);
    agent_resolve(s->agent, slice_str(v->shard), 0,
                  clock_now(&clock_system) + SERVICES_DEADLINE_DEFAULT_MS * NS_PER_MS, resolved, v);
}
