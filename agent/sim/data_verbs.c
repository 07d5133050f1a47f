/* The operator's work with files of snapshots, and with shards that lost their quorum. Each verb is
 * a chain of calls. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/play.h"
#include "agent/sim/register_machine.h"
#include "agent/snapshots/snapshot_file.h"
#include "base/buf.h"
#include "proto/decode.h"
#include "registry/registry.h"
#include "shards/engine/engine.h"
#include "thole/v1/control.upb.h"
#include "thole/v1/operations.upb.h"
#include "thole/v1/repair.upb.h"
#include "thole/v1/snapshots.upb.h"

#define TIMEOUT_NS (10 * NS_PER_S)
#define FILES_MAX 64
#define SLOW_READER_NS (3 * NS_PER_S)
/* A repair without an answer may still be carried out for this long. */
#define REPAIR_STRAY_NS (30 * NS_PER_S)

struct saved_file {
    struct buf *bytes;
    char source[16];
    uint64_t index;
    uint64_t values[REGISTER_KEYS]; /* unless it is of shard zero */
    bool of_zero;
};
static struct saved_file files[FILES_MAX];
static size_t file_count;
static bool restored[STORY_SHARDS]; /* a file was ever restored under that name */

/* ---- Saving ---------------------------------------------------------------------------------- */

struct saving {
    char shard[16];
    bool of_zero;
    struct file_read *read; /* NULL: of shard zero */
    struct bytes bytes;
    uint64_t total_bytes;
};

static void piece_arrived(void *ctx, struct slice message)
{
    struct saving *v = ctx;
    upb_Arena *a = upb_Arena_New();
    const thole_v1_SaveSnapshotResponse *r =
        PROTO_DECODE(thole_v1_SaveSnapshotResponse, message, a);
    upb_StringView data = thole_v1_SaveSnapshotResponse_data(r);
    v->total_bytes = thole_v1_SaveSnapshotResponse_total_bytes(r);
    bytes_append(&v->bytes, data.data, data.size);
    upb_Arena_Free(a);
}

/* The registers are the last bytes before the trailer. */
static bool read_values(const struct bytes *file, uint64_t *ret)
{
    size_t tail = SNAPSHOT_FILE_TRAILER_BYTES + 8 * REGISTER_KEYS;
    if (file->size < tail) {
        return false;
    }
    for (size_t i = 0; i < REGISTER_KEYS; i++) {
        ret[i] = get_le64(file->data + file->size - tail + 8 * i);
    }
    return true;
}

/* A file whose save ended with OK must be complete and undamaged. */
static bool keep_file(struct saving *v)
{
    struct saved_file f = {.of_zero = v->of_zero};
    struct snapshot_check *k = snapshot_check_new();
    struct thole_status st = {0};
    bool ok = v->bytes.size == v->total_bytes &&
              snapshot_check_feed(k, bytes_slice(&v->bytes), NULL, &st) == THOLE_OK &&
              snapshot_check_end(k, &st) == THOLE_OK &&
              (v->of_zero || read_values(&v->bytes, f.values));
    if (!ok) {
        world__fail("the file of %s is damaged: %zu of %" PRIu64 " bytes: %s", v->shard,
                    v->bytes.size, v->total_bytes, st.message);
    }
    if (ok && v->read != NULL) {
        clients__end_file(v->read, f.values);
        v->read = NULL;
    }
    if (ok && file_count < FILES_MAX) {
        memcpy(f.source, v->shard, sizeof f.source);
        f.index = thole_v1_SnapshotFile_index(snapshot_check_head(k));
        f.bytes = bytes_to_buf(&v->bytes);
        files[file_count++] = f;
    }
    snapshot_check_free(k);
    return ok;
}

static void saved(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct saving *v = ctx;
    (void)reply;
    bool ok = st->code == THOLE_OK && keep_file(v);
    play.verbs++;
    play.verbs_ok += ok;
    world__trace("operator: %s is saved: %s", v->shard, ok ? "OK" : st->message);
    if (v->read != NULL) {
        clients__end_file(v->read, NULL);
    }
    bytes_deinit(&v->bytes);
    free(v);
}

static void save(const struct step *p)
{
    struct saving *v = xcalloc(1, sizeof *v);
    upb_Arena *a = upb_Arena_New();
    size_t size = 0;
    v->of_zero = story__is_of_zero(p);
    shard_name_of(p->shard, v->shard);
    if (v->of_zero) {
        snprintf(v->shard, sizeof v->shard, "zero");
    } else {
        v->read = clients__begin_file(p->shard);
    }
    thole_v1_SaveSnapshotRequest *q = thole_v1_SaveSnapshotRequest_new(a);
    thole_v1_SaveSnapshotRequest_set_shard(q, upb_StringView_FromString(v->shard));
    const char *bytes = thole_v1_SaveSnapshotRequest_serialize(q, a, &size);
    struct client_call *c = world__stream(p->through, "/thole.v1.Snapshots/SaveSnapshot",
                                          slice_of(bytes, size), piece_arrived, saved, v);
    if (p->twice) {
        world__stream_slow(c, world__now_ns() + SLOW_READER_NS);
    }
    upb_Arena_Free(a);
}

/* ---- Restoring ------------------------------------------------------------------------------- */

struct restoring {
    const struct step *step;
    const struct saved_file *file;
    char shard[16], upload[64];
    bool damaged; /* a bit is flipped in the upload */
    uint64_t received;
};

bool saves__initial(int shard, const thole_v1_Shard *row, uint64_t *ret_values)
{
    const thole_v1_ShardSeed *seed = thole_v1_Shard_seed(row);
    const struct saved_file *found = NULL;
    memset(ret_values, 0, REGISTER_KEYS * sizeof *ret_values);
    if (seed == NULL) {
        return !restored[shard];
    }
    for (size_t i = 0; i < file_count; i++) {
        const struct saved_file *f = &files[i];
        if (f->of_zero || f->index != thole_v1_ShardSeed_index(seed) ||
            !slice_equal(registry_str(thole_v1_ShardSeed_source(seed)), slice_str(f->source))) {
            continue;
        }
        if (found != NULL && memcmp(found->values, f->values, sizeof f->values) != 0) {
            return false; /* two shards had the same name */
        }
        found = f;
    }
    if (found != NULL) {
        memcpy(ret_values, found->values, sizeof found->values);
    }
    return found != NULL;
}

static void restore_answered(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct restoring *v = ctx;
    (void)reply;
    play.verbs++;
    play.verbs_ok += st->code == THOLE_OK;
    world__trace("operator: a file of %s is restored as %s: %s", v->file->source, v->shard,
                 st->code == THOLE_OK ? "OK" : st->message);
}

static void send_restore(struct restoring *v)
{
    upb_Arena *a = upb_Arena_New();
    char id[32];
    size_t size = 0;
    snprintf(id, sizeof id, "step-%016" PRIx64, v->step->request_id);
    thole_v1_RestoreSnapshotRequest *q = thole_v1_RestoreSnapshotRequest_new(a);
    thole_v1_RestoreSnapshotRequest_set_upload(q, upb_StringView_FromString(v->upload));
    thole_v1_RestoreSnapshotRequest_set_name(q, upb_StringView_FromString(v->shard));
    thole_v1_RestoreSnapshotRequest_set_request_id(q, upb_StringView_FromString(id));
    const char *bytes = thole_v1_RestoreSnapshotRequest_serialize(q, a, &size);
    restored[v->step->shard] = true;
    for (int i = 0; i < (v->step->twice ? 2 : 1); i++) {
        world__call(v->step->through, "/thole.v1.Snapshots/RestoreSnapshot", slice_of(bytes, size),
                    TIMEOUT_NS, restore_answered, v);
    }
    upb_Arena_Free(a);
}

static void send_piece(struct restoring *v);

static void piece_answered(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct restoring *v = ctx;
    upb_Arena *a = upb_Arena_New();
    const thole_v1_UploadSnapshotResponse *r =
        st->code == THOLE_OK ? PROTO_DECODE(thole_v1_UploadSnapshotResponse, reply, a) : NULL;
    if (r == NULL) {
        world__trace("operator: a piece of a file is not taken: %s", st->message);
    } else if (thole_v1_UploadSnapshotResponse_complete(r) && v->damaged) {
        world__fail("a host accepted a damaged file of %s", v->file->source);
    } else {
        upb_StringView name = thole_v1_UploadSnapshotResponse_upload(r);
        snprintf(v->upload, sizeof v->upload, "%.*s", (int)name.size, name.data);
        v->received = thole_v1_UploadSnapshotResponse_received(r);
        if (thole_v1_UploadSnapshotResponse_complete(r)) {
            send_restore(v);
        } else if (v->received < v->file->bytes->size) {
            send_piece(v);
        } else {
            world__fail("a host has all of a file of %s, and does not call it complete",
                        v->file->source);
        }
    }
    upb_Arena_Free(a);
}

static void send_piece(struct restoring *v)
{
    upb_Arena *a = upb_Arena_New();
    size_t size = 0, left = v->file->bytes->size - v->received;
    size_t part = v->received == 0 && v->step->amount % 2 != 0 ? (left + 1) / 2 : left;
    char *data = upb_Arena_Malloc(a, part);
    memcpy(data, v->file->bytes->data + v->received, part);
    if (v->damaged && v->received + part == v->file->bytes->size) {
        data[part - 1 - SNAPSHOT_FILE_TRAILER_BYTES] ^= 4;
    }
    thole_v1_UploadSnapshotRequest *q = thole_v1_UploadSnapshotRequest_new(a);
    thole_v1_UploadSnapshotRequest_set_upload(q, upb_StringView_FromString(v->upload));
    thole_v1_UploadSnapshotRequest_set_offset(q, v->received);
    thole_v1_UploadSnapshotRequest_set_data(q, upb_StringView_FromDataAndSize(data, part));
    const char *bytes = thole_v1_UploadSnapshotRequest_serialize(q, a, &size);
    world__call(v->step->through, "/thole.v1.Snapshots/UploadSnapshot", slice_of(bytes, size),
                TIMEOUT_NS, piece_answered, v);
    upb_Arena_Free(a);
}

static void restore(const struct step *p)
{
    const struct saved_file *of_data[FILES_MAX];
    size_t n = 0;
    for (size_t i = 0; i < file_count; i++) {
        if (!files[i].of_zero) {
            of_data[n++] = &files[i];
        }
    }
    if (n == 0) {
        return;
    }
    struct restoring *v = xcalloc(1, sizeof *v); /* kept until the process ends */
    v->step = p;
    v->file = of_data[p->amount % n];
    v->damaged = p->amount % 11 == 0;
    shard_name_of(p->shard, v->shard);
    send_piece(v);
}

/* ---- Repair ---------------------------------------------------------------------------------- */

struct repairing {
    char shard[64];
    uint64_t shard_id, chosen;
    int through;
    bool deletes;     /* delete the shard if it cannot be repaired */
    bool really_lost; /* no quorum of its disks is left */
};

static uint64_t next_replica_id(void)
{
    uint64_t next = 0;
    for (int n = 0; n < world__host_count(); n++) {
        struct registry_view *v = checks__view(n);
        if (v != NULL) {
            next = registry_next_replica_id(v) > next ? registry_next_replica_id(v) : next;
            registry_view_release(v);
        }
    }
    return next;
}

/* While the voters that did not answer may be alive, they may be a quorum that serves until it
 * hears of the repair: see docs/operations.md, "Quorum loss". */
static void resume(void *ctx)
{
    struct repairing *v = ctx;
    if (!v->really_lost && !play__calm_for(REPAIR_STRAY_NS)) {
        world__at(world__now_ns() + NS_PER_S, NULL, resume, v);
        return;
    }
    clients__resume_shard(v->shard_id, v->chosen, next_replica_id());
    free(v);
}

static void repaired(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct repairing *v = ctx;
    (void)reply;
    bool ok = st->code == THOLE_OK;
    play.verbs++;
    play.verbs_ok += ok;
    world__trace("operator: %s is repaired: %s", v->shard, ok ? "OK" : st->message);
    checks__note_fault();
    if (ok) {
        disks__note_repaired(v->shard_id);
        resume(v);
    } else {
        world__at(world__now_ns() + REPAIR_STRAY_NS, NULL, resume, v);
    }
}

static void deleted(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct repairing *v = ctx;
    (void)reply;
    world__trace("operator: %s is given up: %s", v->shard,
                 st->code == THOLE_OK ? "OK" : st->message);
    free(v);
}

/* A shard of a pool is deleted with its pool. */
static void give_up(struct repairing *v)
{
    upb_Arena *a = upb_Arena_New();
    size_t size = 0;
    if (strncmp(v->shard, "p-", 2) == 0) {
        thole_v1_DeletePoolRequest *q = thole_v1_DeletePoolRequest_new(a);
        thole_v1_DeletePoolRequest_set_name(q, upb_StringView_FromString("p"));
        const char *bytes = thole_v1_DeletePoolRequest_serialize(q, a, &size);
        world__call(v->through, "/thole.v1.Pools/DeletePool", slice_of(bytes, size), TIMEOUT_NS,
                    deleted, v);
    } else {
        thole_v1_DeleteShardRequest *q = thole_v1_DeleteShardRequest_new(a);
        thole_v1_DeleteShardRequest_set_name(q, upb_StringView_FromString(v->shard));
        const char *bytes = thole_v1_DeleteShardRequest_serialize(q, a, &size);
        world__call(v->through, "/thole.v1.Shards/DeleteShard", slice_of(bytes, size), TIMEOUT_NS,
                    deleted, v);
    }
    upb_Arena_Free(a);
}

static void run_plan(struct repairing *v, const thole_v1_RepairPlan *plan)
{
    upb_Arena *a = upb_Arena_New();
    size_t size = 0;
    v->chosen = thole_v1_RepairPlan_chosen_replica(plan);
    v->really_lost = !disks__can_serve(v->shard_id);
    clients__lose_shard(v->shard_id); /* the repair may lose what other replicas had */
    thole_v1_RunRepairRequest *q = thole_v1_RunRepairRequest_new(a);
    thole_v1_RunRepairRequest_set_shard(q, upb_StringView_FromString(v->shard));
    thole_v1_RunRepairRequest_set_hash(q, thole_v1_RepairPlan_hash(plan));
    const char *bytes = thole_v1_RunRepairRequest_serialize(q, a, &size);
    world__call(v->through, "/thole.v1.Repair/RunRepair", slice_of(bytes, size), TIMEOUT_NS,
                repaired, v);
    upb_Arena_Free(a);
}

static void planned(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct repairing *v = ctx;
    upb_Arena *a = upb_Arena_New();
    const thole_v1_RepairPlan *plan =
        st->code == THOLE_OK ? PROTO_DECODE(thole_v1_RepairPlan, reply, a) : NULL;
    play.verbs++;
    play.verbs_ok += plan != NULL;
    if (plan != NULL && thole_v1_RepairPlan_possible(plan)) {
        upb_StringView text = thole_v1_RepairPlan_consequence(plan);
        world__trace("operator: a repair of %s is possible: %.*s", v->shard, (int)text.size,
                     text.data);
        run_plan(v, plan);
    } else {
        upb_StringView text = plan != NULL ? thole_v1_RepairPlan_refused_because(plan)
                                           : upb_StringView_FromString(st->message);
        world__trace("operator: %s cannot be repaired: %.*s", v->shard, (int)text.size, text.data);
        if (plan != NULL && v->deletes) {
            give_up(v);
        } else {
            free(v);
        }
    }
    upb_Arena_Free(a);
}

static void plan_repair(const char *shard, uint64_t shard_id, int through, bool deletes)
{
    upb_Arena *a = upb_Arena_New();
    size_t size = 0;
    struct repairing *v = xcalloc(1, sizeof *v);
    *v = (struct repairing){.shard_id = shard_id, .through = through, .deletes = deletes};
    snprintf(v->shard, sizeof v->shard, "%s", shard);
    thole_v1_PlanRepairRequest *q = thole_v1_PlanRepairRequest_new(a);
    thole_v1_PlanRepairRequest_set_shard(q, upb_StringView_FromString(v->shard));
    const char *bytes = thole_v1_PlanRepairRequest_serialize(q, a, &size);
    world__call(through, "/thole.v1.Repair/PlanRepair", slice_of(bytes, size), TIMEOUT_NS, planned,
                v);
    upb_Arena_Free(a);
}

void data_verbs__do(const struct step *p)
{
    char name[16];
    shard_name_of(p->shard, name);
    if (p->kind == STEP_SAVE) {
        save(p);
    } else if (p->kind == STEP_RESTORE) {
        restore(p);
    } else if (clients__shard_id(p->shard) != 0) {
        plan_repair(name, clients__shard_id(p->shard), p->through, false);
    }
}

/* ---- The operator after a disaster ----------------------------------------------------------- */

static void ignored(void *ctx, const struct thole_status *st, struct slice reply)
{
    (void)ctx, (void)reply;
    world__trace("operator: a lost host is decommissioned: %s",
                 st->code == THOLE_OK ? "OK" : st->message);
}

static bool is_running(struct slice name)
{
    for (int n = 0; n < world__host_count(); n++) {
        if (slice_equal(name, slice_str(world__host(n)->name)) && !play.wanted[n].out) {
            return true;
        }
    }
    return false;
}

/* Hosts whose disks are lost will not come back. */
static void remove_lost_hosts(const struct registry_view *v, int through)
{
    const thole_v1_Host *h;
    for (struct slice name = {0}; (h = registry_next_host(v, name)) != NULL;) {
        name = registry_str(thole_v1_Host_name(h));
        if (is_running(name) ||
            thole_v1_HostSpec_state(thole_v1_Host_spec(h)) == thole_v1_HOST_STATE_REMOVED) {
            continue;
        }
        upb_Arena *a = upb_Arena_New();
        size_t size = 0;
        thole_v1_DecommissionHostRequest *q = thole_v1_DecommissionHostRequest_new(a);
        thole_v1_DecommissionHostRequest_set_name(q, thole_v1_Host_name(h));
        const char *bytes = thole_v1_DecommissionHostRequest_serialize(q, a, &size);
        world__call(through, "/thole.v1.Operations/DecommissionHost", slice_of(bytes, size),
                    TIMEOUT_NS, ignored, NULL);
        upb_Arena_Free(a);
    }
}

static bool is_led(uint64_t shard_id)
{
    bool led = false;
    for (int n = 0; n < world__host_count(); n++) {
        struct world_host *h = world__host(n);
        struct engine_replica_status s;
        if (h->life != NULL && h->life->agent != NULL) {
            struct life *earlier = life__enter(h->life);
            led |= engine_shard_status(agent_engine(h->life->agent), shard_id, &s) &&
                   s.role == RAFT_LEADER;
            life__leave(earlier);
        }
    }
    return led;
}

/* A member may have lost its disk while it was given its vote, which the configurations of before
 * do not tell (disks.c). So in the end whatever does not serve is repaired, if that is possible. */
void data_verbs__mend(int through, bool give_up_shards)
{
    struct registry_view *v = checks__view(through);
    struct registry_shard_buf buf;
    const thole_v1_Shard *row;
    char name[64] = "";
    if (v == NULL) {
        return;
    }
    remove_lost_hosts(v, through);
    while ((row = registry_next_shard(v, slice_str(name), &buf)) != NULL) {
        struct slice text = registry_str(thole_v1_Shard_name(row));
        uint64_t id = thole_v1_Shard_id(row);
        snprintf(name, sizeof name, "%.*s", (int)text.size, (const char *)text.data);
        bool lost = disks__is_lost(id);
        if ((lost || (disks__any_lost() && give_up_shards)) && id != 0 && !checks__is_ready(row) &&
            !thole_v1_Shard_deleting(row) && !is_led(id)) {
            plan_repair(name, id, through, lost && give_up_shards);
        }
    }
    registry_view_release(v);
}
