/* libthole: the registry as small plain structs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/lib/api_internal.h"
#include "base/latch.h"

struct thole_view {
    struct registry_view *v; /* NULL: the handle was closed */
    struct thole *t;         /* likewise */
    struct thole_view *next, *before;
};

static enum thole_code wait_barrier(struct agent *a, uint32_t timeout_ms, struct thole_status *st)
{
    struct latch passed;
    latch_init(&passed);
    agent_barrier(a, api__deadline(timeout_ms), latch_callback, &passed);
    enum thole_code code = latch_wait(&passed, st);
    latch_deinit(&passed);
    return code;
}

enum thole_code thole_view_acquire(struct thole *t, bool linearizable, uint32_t timeout_ms,
                                   struct thole_view **ret, struct thole_status *st)
{
    enum thole_code code = api__need_host(t, st);
    if (code == THOLE_OK && linearizable) {
        code = wait_barrier(t->agent, timeout_ms, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct thole_view *v = xcalloc(1, sizeof *v);
    v->t = t;
    v->v = registry_view_acquire(agent_registry(t->agent));
    pthread_mutex_lock(&t->lock);
    v->next = t->views;
    if (v->next != NULL) {
        v->next->before = v;
    }
    t->views = v;
    pthread_mutex_unlock(&t->lock);
    *ret = v;
    return THOLE_OK;
}

static void take_out(struct thole_view *v)
{
    pthread_mutex_lock(&v->t->lock);
    if (v->before != NULL) {
        v->before->next = v->next;
    } else {
        v->t->views = v->next;
    }
    if (v->next != NULL) {
        v->next->before = v->before;
    }
    pthread_mutex_unlock(&v->t->lock);
}

void api__views_end(struct thole *t)
{
    struct thole_view *next = NULL;
    for (struct thole_view *v = t->views; v != NULL; v = next) {
        next = v->next;
        registry_view_release(v->v);
        v->v = NULL;
        v->t = NULL;
    }
    t->views = NULL;
}

void thole_view_release(struct thole_view *v)
{
    if (v == NULL) {
        return;
    }
    if (v->t != NULL) {
        take_out(v);
        registry_view_release(v->v);
    }
    free(v);
}

uint64_t thole_view_revision(const struct thole_view *v)
{
    return v->v != NULL ? registry_view_revision(v->v) : 0;
}

static void copy_text(char *to, size_t size, upb_StringView v)
{
    size_t n = v.size < size ? v.size : size - 1;
    if (n > 0) {
        memcpy(to, v.data, n);
    }
    to[n] = 0;
}

/* The caller's struct may be of an older or newer version: write only what both versions have. */
static void copy_out(void *to, uint32_t size, void *full, size_t full_size)
{
    *(uint32_t *)full = size;
    memcpy(to, full, size < full_size ? size : full_size);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static bool copy_host(const thole_v1_Host *h, struct thole_host_info *io)
{
    if (h == NULL) {
        return false;
    }
    struct thole_host_info i = {0};
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(h);
    const thole_v1_HostStatus *st = thole_v1_Host_status(h);
    copy_text(i.name, sizeof i.name, thole_v1_Host_name(h));
    copy_text(i.id, sizeof i.id, thole_v1_Host_id(h));
    i.state = spec != NULL ? (uint32_t)thole_v1_HostSpec_state(spec) : 0;
    if (st != NULL) {
        copy_text(i.address, sizeof i.address, thole_v1_HostStatus_address(st));
        i.liveness = (uint32_t)thole_v1_HostStatus_liveness(st);
        i.incarnation = thole_v1_HostStatus_incarnation(st);
    }
    i.revision = thole_v1_Host_revision(h);
    copy_out(io, io->size, &i, sizeof i);
    return true;
}

bool thole_view_next_host(const struct thole_view *v, struct thole_host_info *io)
{
    return v->v != NULL && copy_host(registry_next_host(v->v, slice_str(io->name)), io);
}

bool thole_view_host(const struct thole_view *v, const char *name, struct thole_host_info *ret)
{
    return v->v != NULL && copy_host(registry_host_by_name(v->v, slice_str(name)), ret);
}

/* ---- Shards ---------------------------------------------------------------------------------- */

static bool condition(const thole_v1_ShardStatus *st, const char *type)
{
    size_t n = 0;
    const thole_v1_Condition *const *c = thole_v1_ShardStatus_conditions(st, &n);
    for (size_t i = 0; i < n; i++) {
        upb_StringView t = thole_v1_Condition_type(c[i]);
        if (t.size == strlen(type) && memcmp(t.data, type, t.size) == 0) {
            return thole_v1_Condition_status(c[i]);
        }
    }
    return false;
}

static bool copy_shard(const thole_v1_Shard *s, struct thole_shard_info *io)
{
    if (s == NULL) {
        return false;
    }
    struct thole_shard_info i = {0};
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(s);
    const thole_v1_ShardStatus *st = thole_v1_Shard_status(s);
    copy_text(i.name, sizeof i.name, thole_v1_Shard_name(s));
    i.id = thole_v1_Shard_id(s);
    if (spec != NULL) {
        copy_text(i.type, sizeof i.type, thole_v1_ShardSpec_type(spec));
        i.voters = thole_v1_ShardSpec_voters(spec);
        i.non_voting = registry_non_voting(spec);
    }
    if (st != NULL) {
        copy_text(i.leader_host, sizeof i.leader_host, thole_v1_ShardStatus_leader_host(st));
        i.leader_replica = thole_v1_ShardStatus_leader_replica(st);
        i.leader_term = thole_v1_ShardStatus_leader_term(st);
        i.formed = thole_v1_ShardStatus_formed(st);
        i.ready = condition(st, "Ready");
    }
    i.deleting = thole_v1_Shard_deleting(s);
    i.generation = thole_v1_Shard_generation(s);
    i.revision = thole_v1_Shard_revision(s);
    copy_text(i.pool, sizeof i.pool, thole_v1_Shard_pool(s));
    i.has_slots = thole_v1_Shard_has_slots(s);
    if (i.has_slots) {
        i.slot_first = thole_v1_SlotRange_first(thole_v1_Shard_slots(s));
        i.slot_last = thole_v1_SlotRange_last(thole_v1_Shard_slots(s));
    }
    copy_out(io, io->size, &i, sizeof i);
    return true;
}

bool thole_view_next_shard(const struct thole_view *v, struct thole_shard_info *io)
{
    struct registry_shard_buf shard_buf;
    return v->v != NULL &&
           copy_shard(registry_next_shard(v->v, slice_str(io->name), &shard_buf), io);
}

bool thole_view_shard(const struct thole_view *v, const char *name, struct thole_shard_info *ret)
{
    struct registry_shard_buf shard_buf;
    return v->v != NULL &&
           copy_shard(registry_shard_by_name(v->v, slice_str(name), &shard_buf), ret);
}

/* ---- Replicas -------------------------------------------------------------------------------- */

bool thole_view_next_replica(const struct thole_view *v, struct thole_replica_info *io)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *r =
        v->v != NULL ? registry_next_replica(v->v, io->id, &replica_buf) : NULL;
    if (r == NULL) {
        return false;
    }
    struct thole_replica_info i = {0};
    i.id = thole_v1_Replica_id(r);
    i.shard_id = thole_v1_Replica_shard_id(r);
    copy_text(i.shard, sizeof i.shard, thole_v1_Replica_shard(r));
    copy_text(i.host, sizeof i.host, thole_v1_Replica_host(r));
    i.role = (uint32_t)thole_v1_Replica_role(r);
    i.phase = (uint32_t)thole_v1_Replica_phase(r);
    i.removing = thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_REMOVE;
    i.user = thole_v1_Replica_owner(r) == thole_v1_REPLICA_OWNER_USER;
    i.revision = thole_v1_Replica_revision(r);
    copy_out(io, io->size, &i, sizeof i);
    return true;
}
