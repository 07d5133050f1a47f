/* A new cluster from a snapshot of the registry of a cluster whose hosts are lost
 * (docs/decisions/0013).
 *
 * One transaction, like a command, but outside any log: nobody sees the state before it. The
 * desired state stays. Observed state, replicas and operations are dropped with the hosts. Shards
 * await their data: formed from their specs alone they would be empty, under names whose data is
 * in snapshot files. */
#include "base/worker.h"
#include "registry/registry_internal.h"

#include <inttypes.h>
#include <stdio.h>

#define LOST_BECAUSE "the registry was restored without it"

/* ---- What goes ------------------------------------------------------------------------------- */

static void drop_replicas(struct txn *t)
{
    struct packed *p;
    while ((p = registry__tree_first(t->s.index[INDEX_REPLICAS])) != NULL) {
        registry__txn_drop(t, registry__open(&t->scope, p));
    }
}

/* Tombstones too: no data directory of the old cluster is ever admitted to the new one. */
static uint32_t drop_hosts(struct txn *t)
{
    struct packed *p;
    uint32_t count = 0;
    while ((p = registry__tree_first(t->s.index[INDEX_HOSTS])) != NULL) {
        struct row *row = registry__open(&t->scope, p);
        upb_StringView name = thole_v1_Host_name(row->host);
        if (name.size > 0) {
            upb_StringView address = thole_v1_HostStatus_address(thole_v1_Host_status(row->host));
            registry__txn_event(t, row, "HostLost", "at %.*s: " LOST_BECAUSE, (int)address.size,
                                address.size > 0 ? address.data : "");
            count++;
        }
        registry__txn_drop(t, row);
    }
    return count;
}

/* ---- What stays ------------------------------------------------------------------------------ */

static bool is_going(const struct txn *t, const struct row *shard)
{
    const struct row *pool = registry__pool(&t->s, registry_str(thole_v1_Shard_pool(shard->shard)));
    return thole_v1_Shard_deleting(shard->shard) ||
           (pool != NULL && thole_v1_ShardPool_deleting(pool->pool));
}

static void await_shards(struct txn *t)
{
    struct key key = registry__key_id(REGISTRY_SHARD_ID);
    struct packed *p;
    while ((p = registry__tree_after(t->s.index[INDEX_SHARDS], &key)) != NULL) {
        struct row *row = registry__open(&t->scope, p);
        key.id = thole_v1_Shard_id(row->shard);
        if (is_going(t, row)) {
            registry__txn_event(t, row, "ShardDeleted", LOST_BECAUSE);
            registry__txn_drop(t, row);
        } else {
            registry__shard_await(t, row);
        }
    }
}

/* The snapshot may show a pool whose shards were not all created yet. They were created since, and
 * hold data. */
static void complete_pool(struct txn *t, const struct row *pool)
{
    char name[LIMIT_NAME_BYTES + 1];
    struct slice pool_name = registry_str(thole_v1_ShardPool_name(pool->pool));
    const thole_v1_ShardPoolSpec *spec = thole_v1_ShardPool_spec(pool->pool);
    uint32_t count = thole_v1_ShardPoolSpec_count(spec);
    for (uint32_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%.*s-%" PRIu32, (int)pool_name.size,
                 (const char *)pool_name.data, i);
        if (registry__shard_by_name(&t->s, slice_str(name)) == NULL) {
            registry__shard_add(t, slice_str(name), thole_v1_ShardPoolSpec_shard(spec), pool_name);
            registry__shard_await(t, registry__shard_by_name(&t->s, slice_str(name)));
        }
    }
    struct row *row = registry__txn_edit(t, registry__pool(&t->s, pool_name));
    thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_mutable_status(row->pool, row->arena);
    if (thole_v1_ShardPoolStatus_extent(status) < count) {
        thole_v1_ShardPoolStatus_set_extent(status, count);
    }
    registry__txn_put(t, row);
}

static void complete_pools(struct txn *t)
{
    struct packed *p = registry__tree_first(t->s.index[INDEX_POOLS]);
    while (p != NULL) {
        const struct row *row = registry__open(&t->scope, p);
        complete_pool(t, row);
        p = registry__find_after(&t->s, INDEX_POOLS,
                                 registry__packed_key(INDEX_POOLS, row->packed));
    }
}

/* ---- The new cluster ------------------------------------------------------------------------- */

static enum thole_code add_host(struct txn *t, const struct registry_refound *o)
{
    char text[UUID_TEXT_BYTES];
    struct uuid id;
    uuid_format(&o->host, text);
    thole_v1_Host *host = thole_v1_Host_new(t->arena);
    thole_v1_Host_set_name(host, registry__dup_str(t->arena, o->host_name));
    thole_v1_Host_set_id(host, registry__dup_str(t->arena, text));
    (void)thole_v1_Host_mutable_spec(host, t->arena);
    (void)thole_v1_Host_mutable_status(host, t->arena);
    enum thole_code code = registry__check_host(t, host, &id);
    if (code == THOLE_OK) {
        registry__host_add(t, host, &id);
    }
    return code;
}

/* Shard zero starts from the file like any restored shard, but without an operation. */
static uint64_t found_zero(struct txn *t, const struct registry_refound *o)
{
    char text[UUID_TEXT_BYTES];
    thole_v1_ShardSeed *seed = thole_v1_ShardSeed_new(t->arena);
    uuid_format(&o->host, text);
    thole_v1_ShardSeed_set_host_id(seed, registry__dup_str(t->arena, text));
    thole_v1_ShardSeed_set_file(seed, registry__dup_str(t->arena, o->seed_file));
    thole_v1_ShardSeed_set_source(seed, registry__dup_str(t->arena, REGISTRY_SHARD_NAME));
    thole_v1_ShardSeed_set_index(seed, o->index);
    struct row *zero = registry__txn_edit(t, registry__shard(&t->s, REGISTRY_SHARD_ID));
    thole_v1_ShardSpec_set_voters(thole_v1_Shard_mutable_spec(zero->shard, zero->arena), 1);
    registry__clear(zero->shard, &thole_v1_Shard_msginit, 9 /* initial */);
    thole_v1_Shard_set_status(zero->shard, thole_v1_ShardStatus_new(zero->arena));
    registry__txn_put(t, zero);
    return registry__place_seed(t, REGISTRY_SHARD_ID, registry__host(&t->s, &o->host), seed);
}

static enum thole_code refound(struct txn *t, const struct registry_refound *o,
                               struct registry_refounded *ret)
{
    t->s.cluster = o->cluster;
    t->s.next_shard_id += REGISTRY_LOST_IDS_MAX;
    t->s.next_replica_id += REGISTRY_LOST_IDS_MAX;
    t->s.next_operation_id += REGISTRY_LOST_IDS_MAX;
    t->s.lost_from = t->s.lost_to = 0; /* no replica of before can be anywhere */
    registry__operations_cancel(t, LOST_BECAUSE);
    await_shards(t);
    complete_pools(t);
    drop_replicas(t);
    ret->hosts = drop_hosts(t);
    ret->shards = registry__tree_count(t->s.index[INDEX_SHARDS]) - 1; /* all but zero */
    enum thole_code code = add_host(t, o);
    if (code != THOLE_OK) {
        return code;
    }
    ret->replica_id = found_zero(t, o);
    registry__txn_event(t, registry__shard(&t->s, REGISTRY_SHARD_ID), "RegistryRestored",
                        "a new cluster from a snapshot of revision %" PRIu64 ": %" PRIu32
                        " shards await their data, %" PRIu32 " hosts are lost",
                        ret->revision, ret->shards, ret->hosts);
    t->s.revision = t->revision;
    return THOLE_OK;
}

/* ---- Face ------------------------------------------------------------------------------------ */

static enum thole_code check_state(const struct state *s, struct thole_status *st)
{
    struct registry_shard_buf buf;
    const thole_v1_Shard *zero = registry__packed_message(
        registry__find(s, INDEX_SHARDS, registry__key_id(REGISTRY_SHARD_ID)), &buf);
    uint64_t most = UINT64_MAX / 2;
    bool fits = s->revision < most && s->next_shard_id < most && s->next_replica_id < most &&
                s->next_operation_id < most;
    if (!s->bootstrapped || !fits || zero == NULL ||
        !slice_equal(registry_str(thole_v1_Shard_name(zero)), slice_str(REGISTRY_SHARD_NAME))) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "registry snapshot: not the registry of a cluster");
    }
    return THOLE_OK;
}

struct memory_sink {
    struct thole_sink base;
    struct bytes *out;
};

static enum thole_code write_memory(struct thole_sink *base, const void *data, size_t size)
{
    bytes_append(CONTAINER_OF(base, struct memory_sink, base)->out, data, size);
    return THOLE_OK;
}

static enum thole_code run(struct state *s, const struct registry_refound *o, struct bytes *out,
                           struct registry_refounded *ret, struct thole_status *st)
{
    struct memory_sink sink = {.base = {sizeof(struct thole_sink), write_memory}, .out = out};
    struct txn t = {.base = s};
    registry__scope_init(&t.scope);
    t.arena = t.scope.arena;
    t.revision = s->revision + REGISTRY_LOST_IDS_MAX;
    t.command = registry_command_new("restore", o->time_ms, t.arena);
    registry__state_copy(&t.s, s);
    t.s.scope = &t.scope;
    s->scope = &t.scope;
    struct registry_refounded done = {.revision = s->revision};
    enum thole_code code = refound(&t, o, &done);
    if (code == THOLE_OK) {
        code = registry__save(&t.s, &sink.base, st);
    } else {
        *st = t.st;
    }
    if (code == THOLE_OK) {
        *ret = done;
    }
    s->scope = NULL;
    registry__state_deinit(&t.s);
    registry__scope_deinit(&t.scope);
    return code;
}

enum thole_code registry_refound(struct slice in, const struct registry_refound *o,
                                 struct bytes *out, struct registry_refounded *ret,
                                 struct thole_status *st)
{
    struct state s;
    struct memory_source source = registry__memory_source(in);
    enum thole_code code = registry__restore(&source.base, &s, st);
    if (code != THOLE_OK) {
        return code;
    }
    code = check_state(&s, st);
    if (code == THOLE_OK) {
        code = run(&s, o, out, ret, st);
    }
    registry__state_deinit(&s);
    return code;
}
