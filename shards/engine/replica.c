/* The replica object, which lives as long as it has references. Its life cycle is in group.c. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/engine/frame_codec.h"

/* ---- Kinds ----------------------------------------------------------------------------------- */

static bool same_kind(const struct replica_kind *k, const struct codec_descriptor *d)
{
    return slice_equal(slice_str(k->type_name), d->machine_type) &&
           k->type_version == d->machine_version && k->witness == d->witness &&
           k->lease_reads == d->lease_reads &&
           slice_equal(bytes_slice(&k->type_config), d->machine_config);
}

static struct replica_kind *kind_new(struct engine *e, uint64_t key,
                                     const struct codec_descriptor *d)
{
    struct replica_kind *k = xcalloc(1, sizeof *k);
    k->key = key;
    k->type_name = xstrndup((const char *)d->machine_type.data, d->machine_type.size);
    k->type_proposals = engine__type_proposals(e, k->type_name);
    k->type_version = d->machine_version;
    bytes_append_slice(&k->type_config, d->machine_config);
    k->witness = d->witness;
    k->lease_reads = d->lease_reads;
    return k;
}

static const struct replica_kind *kind_ref(struct engine *e, struct slice descriptor,
                                           const struct codec_descriptor *d)
{
    uint64_t key = hash64(descriptor.data, descriptor.size, 0);
    struct replica_kind *k;
    pthread_mutex_lock(&e->kinds_lock);
    while ((k = map_get(&e->kinds, key)) != NULL && !same_kind(k, d)) {
        key++;
    }
    if (k == NULL) {
        k = kind_new(e, key, d);
        (void)map_put(&e->kinds, key, k);
    }
    k->refs++;
    pthread_mutex_unlock(&e->kinds_lock);
    return k;
}

static void kind_unref(struct engine *e, uint64_t key)
{
    pthread_mutex_lock(&e->kinds_lock);
    struct replica_kind *k = map_get(&e->kinds, key);
    ASSERT(k != NULL && k->refs > 0);
    if (--k->refs == 0) {
        (void)map_remove(&e->kinds, key);
    } else {
        k = NULL;
    }
    pthread_mutex_unlock(&e->kinds_lock);
    if (k == NULL) {
        return;
    }
    bytes_deinit(&k->type_config);
    free(k->type_name);
    free(k);
}

/* ---- Replicas -------------------------------------------------------------------------------- */

struct replica *replica_new(struct engine *e, uint64_t replica_id, uint64_t shard_id,
                            struct slice descriptor)
{
    ASSERT(replica_id != 0 && replica_id != UINT64_MAX);
    struct replica *r = xcalloc(1, sizeof *r);
    atomic_init(&r->refs, 1);
    r->e = e;
    r->replica_id = replica_id;
    r->shard_id = shard_id;
    r->loop = engine__loop(e, shard_id);
    r->applier = e->appliers[shard_id % e->o.applier_count];
    r->boot = xcalloc(1, sizeof *r->boot);
    bytes_append_slice(&r->boot->descriptor, descriptor);
    struct codec_descriptor d = {0};
    struct thole_status st = {0};
    if (codec_descriptor_decode(bytes_slice(&r->boot->descriptor), &d, &st) != THOLE_OK) {
        d = (struct codec_descriptor){0};
        replica_set_failure(r, &st);
    }
    r->kind = kind_ref(e, descriptor, &d);
    codec_release(d.arena);
    return r;
}

void replica_boot_free(struct replica *r)
{
    if (r->boot == NULL) {
        return;
    }
    free(r->boot->runs);
    bytes_deinit(&r->boot->descriptor);
    bytes_deinit(&r->boot->config);
    free(r->boot);
    r->boot = NULL;
}

void replica_set_failure(struct replica *r, const struct thole_status *st)
{
    ASSERT(st->code != THOLE_OK);
    if (r->failure != NULL) {
        return;
    }
    r->failure = xmalloc(sizeof *r->failure);
    *r->failure = *st;
}

void replica_show(const struct replica *r, struct engine_replica_status *ret)
{
    const struct replica_shown *s = &r->shown;
    *ret = (struct engine_replica_status){
        .replica_id = r->replica_id,
        .shard_id = r->shard_id,
        .term = s->term,
        .leader_replica = s->leader,
        .leader_host = s->leader_host,
        .role = (enum raft_role)s->role,
        .leader_ready = s->leader_ready,
        .initialised = s->initialised,
        .witness = r->kind->witness,
        .voter = s->voter,
        .votes = s->votes,
        .removed_by_peer = s->removed_by_peer,
        .failed = s->failed,
        .unopened = s->unopened,
        .superseded = s->superseded,
        .sends_snapshot = s->sends_snapshot,
        .epoch = s->epoch,
        .last_term = s->last_term,
        .commit = s->commit,
        .applied = s->applied,
        .last_index = s->last_index,
        .first_index = s->first_index,
        .config_index = s->config_index,
        .config_revision = s->config_revision,
        .log_bytes = s->log_bytes,
        .snapshot_index = s->snapshot_index,
    };
    if (s->failed) {
        ASSERT(r->failure != NULL);
        memcpy(ret->failure, r->failure->message, sizeof ret->failure);
    }
}

/* ---- Work ------------------------------------------------------------------------------------ */

struct replica_work *replica_begin_work(struct replica *r)
{
    ASSERT(r->work == NULL && worker_is_current(r->loop->w));
    struct replica_work *w = xcalloc(1, sizeof *w);
    w->r = r;
    w->reads_tail = &w->reads;
    w->apply_next = r->applied + 1;
    w->apply_last = r->applied;
    replica_status(r, &w->status);
    r->work = w;
    return w;
}

void replica_status(const struct replica *r, struct raft_status *ret)
{
    if (r->work != NULL) {
        *ret = r->work->status;
    } else if (r->core != NULL) {
        raft_status(r->core, ret);
    } else {
        *ret = (struct raft_status){0};
    }
}

uint64_t replica_leader(const struct replica *r)
{
    struct raft_status s;
    replica_status(r, &s);
    return s.leader;
}

static bool is_idle(const struct replica_work *w)
{
    return !wheel_armed(&w->tick) && w->starting == NULL && w->proposing.count == 0 &&
           w->reading.count == 0 && w->pending.count == 0 && w->reads == NULL &&
           w->apply_next > w->apply_last && w->applying_jobs == 0 && w->update_batch == NULL &&
           w->transfers == NULL && w->forces == NULL && w->install == NULL &&
           w->save_waiters == NULL && w->exports == NULL && w->sending == 0;
}

static void free_work(struct replica *r)
{
    size_t it = 0;
    void *host;
    while ((host = map_next(&r->work->peer_hosts, &it, NULL)) != NULL) {
        free(host);
    }
    map_deinit(&r->work->peer_hosts);
    free(r->work->pending.slots);
    free(r->work);
    r->work = NULL;
}

/* The configuration has the hosts of members. Freeing the work loses the hosts of other senders,
 * which must not include the leader. */
static bool knows_leader(const struct replica *r)
{
    uint64_t leader = r->work->status.leader;
    return leader == 0 || raft_config_find(raft_config(r->core), leader) != NULL;
}

void replica_release_work(struct replica *r)
{
    ASSERT(worker_is_current(r->loop->w));
    if (r->work != NULL && raft_asleep(r->core) && is_idle(r->work) && knows_leader(r)) {
        free_work(r);
        r->loop->freed_works++;
    }
}

/* ---- References ------------------------------------------------------------------------------ */

struct replica *replica_ref(struct replica *r)
{
    uint32_t before = atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
    return r;
}

static void free_replica(struct replica *r)
{
    const struct replica_work *w = r->work;
    ASSERT(w == NULL ||
           (w->pending.count == 0 && w->proposing.count == 0 && w->reading.count == 0));
    ASSERT(w == NULL || (w->reads == NULL && w->transfers == NULL && w->forces == NULL));
    ASSERT(!r->dirty && !r->publish);
    ASSERT(r->parked == NULL && r->watches == NULL);
    if (r->core != NULL) {
        raft_free(r->core);
    }
    engine__machine_unref(r->machine);
    if (r->work != NULL) {
        engine__snapshot_end(r);
        free_work(r);
    }
    raft_config_release(r->shown_config);
    replica_boot_free(r);
    ASSERT(r->timer == NULL);
    free(r->failure);
    free(r->marks);
    free(r->shown_peers);
    kind_unref(r->e, r->kind->key);
    free(r);
}

void replica_unref(struct replica *r)
{
    if (r == NULL) {
        return;
    }
    uint32_t before = atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1) {
        free_replica(r);
    }
}
