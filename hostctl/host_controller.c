/* The host controller: rows with this host's id -> running replicas.
 *
 * Data is deleted only on a positive sign: the row says that the replica is out (or its shard is
 * being deleted), or the id is below the view's watermark and has no row, which means that the
 * replica is gone. An empty or old view has a low watermark, so it never deletes anything. An id
 * that a repair of shard zero lost has no row either: there the sign comes from its group. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool may_delete(const struct hostctl *h, const struct engine_replica_status *local)
{
    struct registry_replica_buf replica_buf;
    struct registry_shard_buf shard_buf;
    const thole_v1_Replica *row = registry_replica(h->view, local->replica_id, &replica_buf);
    if (row == NULL) {
        return local->replica_id < registry_next_replica_id(h->view) &&
               (local->removed_by_peer || !registry_replica_is_lost(h->view, local->replica_id));
    }
    if (thole_v1_Replica_desired(row) != thole_v1_REPLICA_DESIRED_REMOVE) {
        return false;
    }
    const thole_v1_Shard *shard = registry_shard(h->view, local->shard_id, &shard_buf);
    bool host_removed = hostctl__host_has_state(hostctl__own_row(h), thole_v1_HOST_STATE_REMOVED);
    return thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_OUT ||
           (shard != NULL && thole_v1_Shard_deleting(shard)) ||
           (host_removed && local->removed_by_peer);
}

/* ---- Starting -------------------------------------------------------------------------------- */

/* The initial members, exactly as in the shard's row. False if the row is malformed. */
static bool initial_members(const thole_v1_Shard *shard, struct raft_member *ret, size_t *ret_count)
{
    size_t count = 0;
    const thole_v1_InitialReplica *const *initial = thole_v1_Shard_initial(shard, &count);
    if (count > LIMIT_MEMBERS) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        struct uuid host;
        if (!uuid_parse(registry_str(thole_v1_InitialReplica_host_id(initial[i])), &host)) {
            return false;
        }
        ret[i] = (struct raft_member){.replica_id = thole_v1_InitialReplica_replica_id(initial[i]),
                                      .role = RAFT_VOTER};
        memcpy(ret[i].host, host.bytes, sizeof ret[i].host);
    }
    *ret_count = count;
    return true;
}

static void start(struct hostctl *h, struct ctl_shard *s, const thole_v1_Shard *shard,
                  const thole_v1_Replica *row)
{
    struct raft_member members[LIMIT_MEMBERS];
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(shard);
    upb_StringView type = thole_v1_ShardSpec_type(spec);
    char *type_text = xstrndup(type.data, type.size);
    struct engine_replica_spec r = {
        .replica_id = thole_v1_Replica_id(row),
        .shard_id = s->id,
        .machine_type = type_text,
        .machine_config = registry_str(thole_v1_ShardSpec_config(spec)),
        .lease_reads = thole_v1_ShardSpec_lease_reads(spec),
        .witness = thole_v1_Replica_role(row) == thole_v1_REPLICA_ROLE_WITNESS,
    };
    if (thole_v1_Replica_initial(row) && !thole_v1_Shard_has_seed(shard)) {
        r.initial = members;
        if (!initial_members(shard, members, &r.initial_count)) {
            free(type_text);
            return;
        }
    }
    LOG_INFO(HOSTCTL, "starting a replica shard=%" PRIu64 " replica=%" PRIu64 " initial=%zu", s->id,
             r.replica_id, r.initial_count);
    s->starting = true;
    engine_replica_start(h->o.engine, &r, hostctl__op_engine_done,
                         hostctl__op_new(h, OP_START, s->id, r.replica_id));
    free(type_text);
}

/* A replica that starts its group from a snapshot starts empty, like a joining one. Idempotent:
 * after a crash the step may already have been done. */
static void seed(struct hostctl *h, struct ctl_shard *s, const thole_v1_Shard *shard,
                 const struct engine_replica_status *local)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *row = registry_replica(h->view, local->replica_id, &replica_buf);
    upb_StringView file = thole_v1_ShardSeed_file(thole_v1_Shard_seed(shard));
    if (row == NULL || !thole_v1_Replica_initial(row) ||
        thole_v1_Replica_desired(row) != thole_v1_REPLICA_DESIRED_RUN) {
        return;
    }
    char *name = xstrndup(file.data, file.size);
    s->seeding = true;
    engine_seed(h->o.engine, s->id, name, hostctl__op_engine_done,
                hostctl__op_new(h, OP_SEED, s->id, local->replica_id));
    free(name);
}

static void seed_done(struct hostctl *h, struct ctl_shard *s, const struct ctl_op *op)
{
    s->seeding = false;
    if (op->st.code != THOLE_OK) { /* a final error makes the replica fail with its reason */
        LOG_WARN(HOSTCTL,
                 "a replica did not take its snapshot shard=%" PRIu64 " replica=%" PRIu64
                 " error=\"%s\"",
                 op->shard_id, op->replica_id, op->st.message);
        hostctl__work(s)->host_after_ms = h->now_ms + h->o.retry_ms;
        hostctl__again(h, s, s->work->host_after_ms);
    }
}

/* The row of the replica that should run on this host. */
static const thole_v1_Replica *wanted_row(const struct hostctl *h, uint64_t shard_id,
                                          struct registry_replica_buf *buf)
{
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(h->view, shard_id, after, buf)) != NULL) {
        struct uuid host;
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN &&
            uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &host) &&
            uuid_equal(&host, &h->o.host_id)) {
            return row;
        }
    }
    return NULL;
}

bool hostctl__view_is_fresh(struct hostctl *h, struct ctl_shard *s)
{
    if (h->barrier_known && registry_view_revision(h->view) >= h->barrier_revision) {
        return true;
    }
    if (!h->barrier_known && !h->barrier_asked) {
        h->barrier_asked = true;
        hostctl__barrier(h);
    }
    hostctl__again(h, s, h->now_ms + h->o.retry_ms);
    return false;
}

void hostctl__barrier_done(struct hostctl *h, struct ctl_op *op)
{
    h->barrier_asked = false;
    if (op->st.code == THOLE_OK) {
        h->barrier_known = true;
        h->barrier_revision = op->revision;
        hostctl__dirty_all(h);
    }
}

void hostctl__host_evaluate(struct hostctl *h, struct ctl_shard *s,
                            const struct engine_replica_status *local)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    if (s->starting || s->seeding || s->removing) {
        return;
    }
    if (h->now_ms < s->work->host_after_ms) {
        hostctl__again(h, s, s->work->host_after_ms);
        return;
    }
    const thole_v1_Shard *shard = registry_shard(h->view, s->id, &shard_buf);
    if (local != NULL) {
        if (may_delete(h, local)) {
            LOG_INFO(HOSTCTL, "deleting a removed replica shard=%" PRIu64 " replica=%" PRIu64,
                     s->id, local->replica_id);
            s->removing = true;
            engine_replica_remove(h->o.engine, local->replica_id, hostctl__op_engine_done,
                                  hostctl__op_new(h, OP_REMOVE, s->id, local->replica_id));
        } else if (shard != NULL && thole_v1_Shard_has_seed(shard) && !local->initialised &&
                   !local->failed &&
                   s->id != REGISTRY_SHARD_ID) { /* the bootstrap creates that replica */
            seed(h, s, shard, local);
        }
        return;
    }
    const thole_v1_Replica *row = wanted_row(h, s->id, &replica_buf);
    /* A row whose replica was seen here before and is missing now has lost its data, and with it
     * its votes. It must not start again under its id: report.c reports it FAILED. */
    if (shard != NULL && row != NULL && !thole_v1_Shard_deleting(shard) &&
        thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_UNSPECIFIED &&
        hostctl__view_is_fresh(h, s)) {
        start(h, s, shard, row);
    }
}

static void start_done(struct hostctl *h, struct ctl_shard *s, const struct ctl_op *op)
{
    s->starting = false;
    if (op->st.code == THOLE_OK) {
        if (s->work->failed_replica != 0) {
            hostctl__work(s)->failed_replica = 0;
        }
        return;
    }
    LOG_WARN(HOSTCTL,
             "a replica did not start shard=%" PRIu64 " replica=%" PRIu64
             " error=\"%s\"; retrying in %" PRIu32 " ms",
             op->shard_id, op->replica_id, op->st.message, h->o.retry_ms);
    hostctl__work(s)->host_after_ms = h->now_ms + h->o.retry_ms;
    hostctl__again(h, s, s->work->host_after_ms);
    if (op->st.code != THOLE_ALREADY_EXISTS && op->st.code != THOLE_UNAVAILABLE) {
        hostctl__work(s)->failed_replica = op->replica_id;
        free(s->work->failure);
        hostctl__work(s)->failure = xstrdup(op->st.message);
    }
}

static void remove_done(struct hostctl *h, struct ctl_shard *s, const struct ctl_op *op)
{
    s->removing = false;
    h->tombstones_dirty = true;
    if (op->st.code != THOLE_OK) {
        LOG_WARN(HOSTCTL,
                 "a replica's data was not deleted shard=%" PRIu64 " replica=%" PRIu64
                 " error=\"%s\"; retrying in %" PRIu32 " ms",
                 op->shard_id, op->replica_id, op->st.message, h->o.retry_ms);
        hostctl__work(s)->host_after_ms = h->now_ms + h->o.retry_ms;
        hostctl__again(h, s, s->work->host_after_ms);
    }
}

void hostctl__host_done(struct hostctl *h, struct ctl_op *op)
{
    if (op->kind == OP_FORGET) {
        h->forgetting = false;
        h->tombstones_dirty |= op->st.code == THOLE_OK; /* look for the next row */
        return;
    }
    struct ctl_shard *s = hostctl__shard(h, op->shard_id);
    if (op->kind == OP_START) {
        start_done(h, s, op);
    } else if (op->kind == OP_SEED) {
        seed_done(h, s, op);
    } else {
        remove_done(h, s, op);
    }
    hostctl__dirty(h, op->shard_id);
}

/* A tombstone keeps a removed id from starting again. A view past the removal does so as well, so
 * the tombstone can go. A removed host keeps its tombstones: that of shard zero's replica tells
 * its next start that it was removed. */
void hostctl__forget_tombstones(struct hostctl *h)
{
    h->tombstones_dirty = false;
    if (hostctl__host_has_state(hostctl__own_row(h), thole_v1_HOST_STATE_REMOVED)) {
        return;
    }
    uint64_t *ids = NULL;
    size_t count = h->forgetting ? 0 : engine_tombstones(h->o.engine, &ids);
    for (size_t i = 0; i < count && !h->forgetting; i++) {
        if (ids[i] < registry_next_replica_id(h->view) && !registry_has_replica(h->view, ids[i])) {
            h->forgetting = true;
            engine_replica_forget(h->o.engine, ids[i], hostctl__op_engine_done,
                                  hostctl__op_new(h, OP_FORGET, 0, ids[i]));
        }
    }
    free(ids);
}
