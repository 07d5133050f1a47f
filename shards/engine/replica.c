/* The replica object: what lives as long as anything refers to it. Its life is in group.c. */
#include <stdlib.h>
#include <string.h>

#include "shards/engine/codec.h"

struct replica *replica_new(struct engine *e, uint64_t replica_id, uint64_t shard_id,
                            struct slice descriptor)
{
    struct replica *r = xcalloc(1, sizeof(*r));
    atomic_init(&r->refs, 1);
    r->e = e;
    r->replica_id = replica_id;
    r->shard_id = shard_id;
    r->loop = engine_loop(e, shard_id);
    r->applier = e->appliers[shard_id % e->o.applier_count];
    r->boot = xcalloc(1, sizeof(*r->boot));
    bytes_append_slice(&r->boot->descriptor, descriptor);
    struct codec_descriptor d = {0};
    struct thole_status st = {0};
    if (codec_descriptor_decode(bytes_slice(&r->boot->descriptor), &d, &st) != THOLE_OK) {
        d = (struct codec_descriptor){0};
        replica_set_failure(r, &st);
    }
    r->type_name = xstrndup((const char *)d.machine_type.data, d.machine_type.size);
    r->type_version = d.machine_version;
    bytes_append_slice(&r->type_config, d.machine_config);
    r->witness = d.witness;
    r->lease_reads = d.lease_reads;
    codec_release(d.arena);
    r->reads_tail = &r->reads;
    return r;
}

void replica_boot_free(struct replica *r)
{
    if (!r->boot)
        return;
    free(r->boot->runs);
    bytes_deinit(&r->boot->descriptor);
    bytes_deinit(&r->boot->config);
    free(r->boot);
    r->boot = NULL;
}

void replica_set_failure(struct replica *r, const struct thole_status *st)
{
    if (r->failure)
        return;
    r->failure = xmalloc(sizeof(*r->failure));
    *r->failure = *st;
}

void replica_show(const struct replica *r, struct engine_replica_status *ret)
{
    const struct replica_shown *s = &r->shown;
    *ret = (struct engine_replica_status){
        .replica_id = r->replica_id,
        .shard_id = r->shard_id,
        .term = s->raft.term,
        .leader_replica = s->raft.leader,
        .leader_host = s->leader_host,
        .role = s->raft.role,
        .leader_ready = s->raft.leader_ready,
        .initialised = s->initialised,
        .voter = s->voter,
        .votes = s->votes,
        .removed_by_peer = s->removed_by_peer,
        .failed = s->failed,
        .superseded = s->superseded,
        .epoch = s->raft.epoch,
        .last_term = s->raft.last_term,
        .commit = s->raft.commit,
        .applied = s->applied,
        .last_index = s->raft.last_index,
        .first_index = s->raft.first_index,
        .config_index = s->raft.config_index,
        .config_revision = s->config_revision,
        .log_bytes = s->log_bytes,
        .snapshot_index = s->snapshot_index,
    };
    if (s->failed)
        memcpy(ret->failure, r->failure->message, sizeof(ret->failure));
}

struct replica *replica_ref(struct replica *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

static void free_replica(struct replica *r)
{
    ASSERT(r->pending.count == 0 && r->proposing.count == 0 && r->reading.count == 0);
    ASSERT(!r->reads && !r->parked && !r->transfers && !r->watches);
    if (r->core)
        raft_free(r->core);
    machine_unref(r->machine);
    snapshot_end(r);
    size_t it = 0;
    void *host;
    while ((host = map_next(&r->peer_hosts, &it, NULL)))
        free(host);
    map_deinit(&r->peer_hosts);
    raft_config_deinit(&r->shown_config);
    bytes_deinit(&r->type_config);
    replica_boot_free(r);
    free(r->failure);
    free(r->pending.slots);
    free(r->marks);
    free(r->shown_peers);
    free(r->type_name);
    free(r);
}

void replica_unref(struct replica *r)
{
    if (r && atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1)
        free_replica(r);
}
