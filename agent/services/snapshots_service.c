/* thole.v1.Snapshots: uploads and restores. Saving is in snapshots_save.c. */
#include <stdlib.h>
#include <string.h>

#include "agent/services/services_internal.h"
#include "agent/snapshots/uploads.h"

/* ---- Upload ---------------------------------------------------------------------------------- */

static void uploaded(void *ctx, const struct thole_status *st, const struct upload_state *state)
{
    struct call *c = ctx;
    if (state == NULL) {
        services__call_fail(c, st);
        return;
    }
    thole_v1_UploadSnapshotResponse *reply = thole_v1_UploadSnapshotResponse_new(c->arena);
    thole_v1_UploadSnapshotResponse_set_upload(reply, upb_StringView_FromString(state->name));
    thole_v1_UploadSnapshotResponse_set_received(reply, state->received);
    thole_v1_UploadSnapshotResponse_set_complete(reply, state->complete);
    services__call_reply(c, reply, &thole_v1_UploadSnapshotResponse_msginit);
}

void services__snapshots_upload(struct call *c)
{
    const thole_v1_UploadSnapshotRequest *q = c->request;
    upb_StringView data = thole_v1_UploadSnapshotRequest_data(q);
    upb_StringView upload = thole_v1_UploadSnapshotRequest_upload(q);
    if (data.size == 0 || data.size > UPLOADS_PIECE_BYTES_MAX) {
        services__call_refuse(c, "data", "must have 1 byte to %d MiB",
                              (int)(UPLOADS_PIECE_BYTES_MAX / MIB));
        return;
    }
    if (upload.size == 0 && thole_v1_UploadSnapshotRequest_offset(q) != 0) {
        services__call_refuse(c, "offset", "must be 0 at the beginning of an upload");
        return;
    }
    struct buf *b = buf_copy(data.data, data.size);
    uploads_put(agent_uploads(c->s->agent), registry_str(upload),
                thole_v1_UploadSnapshotRequest_offset(q),
                (struct bufslice){b, slice_of(b->data, b->size)}, uploaded, c);
}

/* ---- Restore --------------------------------------------------------------------------------- */

static upb_StringView file_of(const struct call *c)
{
    return thole_v1_RestoreSnapshotRequest_upload(c->request);
}

static void settled(struct call *c, uint64_t revision)
{
    upb_StringView file = file_of(c);
    char *name = xstrndup(file.data, file.size);
    uploads_settle(agent_uploads(c->s->agent), name, revision);
    free(name);
}

static bool same_bytes(upb_StringView a, upb_StringView b)
{
    return slice_equal(registry_str(a), registry_str(b));
}

/* Does the shard exist, with a spec, and await its data? */
static bool spec_is_kept(const struct call *c)
{
    struct registry_shard_buf shard_buf;
    struct slice name = registry_str(
        services__name_strip(thole_v1_RestoreSnapshotRequest_name(c->request), "shards"));
    const thole_v1_Shard *row = registry_shard_by_name(c->view, name, &shard_buf);
    return row != NULL && thole_v1_Shard_awaits_restore(row);
}

/* Type and config of the machine are part of its state, so they cannot change. */
static const thole_v1_ShardSpec *choose_spec(struct call *c, const thole_v1_ShardSpec *saved)
{
    const thole_v1_ShardSpec *given = thole_v1_RestoreSnapshotRequest_spec(c->request);
    if (given == NULL) {
        return saved;
    }
    if (spec_is_kept(c)) {
        services__call_refuse(c, "spec",
                              "the shard has a spec and awaits its data: update the shard instead");
        return NULL;
    }
    bool type = same_bytes(thole_v1_ShardSpec_type(given), thole_v1_ShardSpec_type(saved));
    bool config = thole_v1_ShardSpec_config(given).size == 0 ||
                  same_bytes(thole_v1_ShardSpec_config(given), thole_v1_ShardSpec_config(saved));
    if (!type || !config) {
        upb_StringView is = thole_v1_ShardSpec_type(saved);
        services__call_refuse(c, type ? "spec.config" : "spec.type",
                              "the snapshot is of a machine of type \"%.*s\"%s", (int)is.size,
                              is.data, type ? " with another config" : "");
        return NULL;
    }
    thole_v1_ShardSpec_set_config((thole_v1_ShardSpec *)given, thole_v1_ShardSpec_config(saved));
    return given;
}

static bool may_restore(struct call *c, const thole_v1_SnapshotFile *head)
{
    struct thole_status st;
    if (thole_v1_SnapshotFile_shard_id(head) != REGISTRY_SHARD_ID) {
        return true;
    }
    (void)THOLE_FAIL(
        &st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
        "this is a snapshot of the registry, which is not restored as a shard; if all hosts "
        "are lost, use thole snapshot restore-zero");
    services__call_fail(c, &st);
    return false;
}

static void claimed(void *ctx, const struct thole_status *st, const struct upload_state *state)
{
    struct call *c = ctx;
    const thole_v1_RestoreSnapshotRequest *q = c->request;
    if (state == NULL) {
        services__call_fail(c, st);
        return;
    }
    const thole_v1_SnapshotFile *head = state->head;
    struct uploads *uploads = agent_uploads(c->s->agent); /* a refusal frees the call */
    struct registry_violation v;
    char id[UUID_TEXT_BYTES];
    if (!may_restore(c, head)) {
        uploads_settle(uploads, state->name, 0);
        return;
    }
    const thole_v1_ShardSpec *spec = choose_spec(c, thole_v1_SnapshotFile_spec(head));
    if (spec == NULL ||
        !services__call_checked(c, registry_check_shard_spec("spec", spec, REGISTRY_SPEC_NEW, &v),
                                &v)) {
        uploads_settle(uploads, state->name, 0);
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_RestoreShard *o =
        thole_registry_v1_Operation_mutable_restore_shard(op, c->arena);
    thole_registry_v1_RestoreShard_set_name(
        o, services__name_strip(thole_v1_RestoreSnapshotRequest_name(q), "shards"));
    thole_registry_v1_RestoreShard_set_spec(o, (thole_v1_ShardSpec *)spec);
    thole_v1_ShardSeed *seed = thole_registry_v1_RestoreShard_mutable_seed(o, c->arena);
    uuid_format(agent_host_id(c->s->agent), id);
    thole_v1_ShardSeed_set_host_id(seed, upb_StringView_FromString(id));
    thole_v1_ShardSeed_set_file(seed, file_of(c));
    thole_v1_ShardSeed_set_source(seed, thole_v1_SnapshotFile_shard(head));
    thole_v1_ShardSeed_set_index(seed, thole_v1_SnapshotFile_index(head));
    c->settled = settled;
    services__call_command(c, op, thole_v1_RestoreSnapshotRequest_request_id(q), false,
                           &thole_v1_Operation_msginit);
}

/* A retry gets the first answer, although its upload was consumed. */
static void restore_run(struct call *c)
{
    const thole_v1_RestoreSnapshotRequest *q = c->request;
    upb_StringView request_id = thole_v1_RestoreSnapshotRequest_request_id(q);
    if (!services__call_answered(c, request_id)) {
        uploads_claim(agent_uploads(c->s->agent), registry_str(file_of(c)), claimed, c);
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    (void)thole_registry_v1_Operation_mutable_restore_shard(op, c->arena);
    services__call_command(c, op, request_id, false, &thole_v1_Operation_msginit);
}

void services__snapshots_restore(struct call *c)
{
    const thole_v1_RestoreSnapshotRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_RestoreSnapshotRequest_name(q), "shards");
    services__call_about(c, "shard", name);
    if (!services__call_name(c, "name", name) ||
        !services__call_request_id(c, thole_v1_RestoreSnapshotRequest_request_id(q))) {
        return;
    }
    if (services__call_may(c, thole_v1_ROLE_VERB_CREATE, ACCESS_KIND(SHARDS), name)) {
        services__call_read(c, false, restore_run);
    }
}
