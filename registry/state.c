/* The state: rows in their indexes, and the three bounded histories (events, journal, requests).
 * It keeps the indexes in step with each other and knows nothing of what a change means. */
#include "registry/registry_internal.h"

#include <string.h>

void registry__state_init(struct state *s)
{
    memset(s, 0, sizeof(*s));
    s->next_shard_id = 1;
    s->next_replica_id = 1;
    s->next_operation_id = 1;
    s->event_next = 1;
    s->journal_next = 1;
    s->request_next = 1;
}

void registry__state_copy(struct state *to, const struct state *from)
{
    *to = *from;
    for (size_t i = 0; i < INDEX_COUNT; i++) {
        registry__tree_ref(to->index[i]);
    }
}

void registry__state_deinit(struct state *s)
{
    for (size_t i = 0; i < INDEX_COUNT; i++) {
        registry__tree_unref(s->index[i]);
        s->index[i] = NULL;
    }
}

/* ---- Look-ups -------------------------------------------------------------------------------- */

struct row *registry__host(const struct state *s, const struct uuid *id)
{
    struct key k;
    return registry__tree_get(s->index[INDEX_HOSTS], registry__key_uuid(&k, id));
}

struct row *registry__host_by_name(const struct state *s, struct slice name)
{
    return registry__tree_get(s->index[INDEX_HOST_NAMES], name);
}

struct row *registry__shard(const struct state *s, uint64_t id)
{
    struct key k;
    return registry__tree_get(s->index[INDEX_SHARDS], registry__key_u64(&k, id));
}

struct row *registry__shard_by_name(const struct state *s, struct slice name)
{
    return registry__tree_get(s->index[INDEX_SHARD_NAMES], name);
}

struct row *registry__replica(const struct state *s, uint64_t id)
{
    struct key k;
    return registry__tree_get(s->index[INDEX_REPLICAS], registry__key_u64(&k, id));
}

struct row *registry__pool(const struct state *s, struct slice name)
{
    return registry__tree_get(s->index[INDEX_POOLS], name);
}

struct row *registry__operation(const struct state *s, uint64_t id)
{
    struct key k;
    return registry__tree_get(s->index[INDEX_OPERATIONS], registry__key_u64(&k, id));
}

struct row *registry__next_of_shard(const struct state *s, uint64_t shard_id, uint64_t after)
{
    struct key k;
    const struct node *n = registry__tree_after(s->index[INDEX_SHARD_REPLICAS],
                                                registry__key_u64_u64(&k, shard_id, after));
    bool same = n != NULL && thole_v1_Replica_shard_id(n->row->replica) == shard_id;
    return same ? n->row : NULL;
}

struct row *registry__next_of_host(const struct state *s, const struct uuid *host, uint64_t after)
{
    struct key k;
    const struct node *n = registry__tree_after(s->index[INDEX_HOST_REPLICAS],
                                                registry__key_uuid_u64(&k, host, after));
    return n != NULL && uuid_equal(&n->row->host_id, host) ? n->row : NULL;
}

uint32_t registry__count_of_shard(const struct state *s, uint64_t shard_id)
{
    struct key a;
    struct key b;
    const struct node *root = s->index[INDEX_SHARD_REPLICAS];
    return registry__tree_rank(root, registry__key_u64_u64(&b, shard_id, UINT64_MAX)) -
           registry__tree_rank(root, registry__key_u64_u64(&a, shard_id, 0));
}

uint32_t registry__count_of_host(const struct state *s, const struct uuid *host)
{
    struct key a;
    struct key b;
    const struct node *root = s->index[INDEX_HOST_REPLICAS];
    return registry__tree_rank(root, registry__key_uuid_u64(&b, host, UINT64_MAX)) -
           registry__tree_rank(root, registry__key_uuid_u64(&a, host, 0));
}

struct row *registry__occupant(const struct state *s, uint64_t shard_id, const struct uuid *host)
{
    uint64_t after = 0;
    struct row *row;
    while ((row = registry__next_of_shard(s, shard_id, after)) != NULL) {
        after = thole_v1_Replica_id(row->replica);
        bool out = thole_v1_Replica_desired(row->replica) == thole_v1_REPLICA_DESIRED_REMOVE &&
                   thole_v1_Replica_phase(row->replica) == thole_v1_REPLICA_PHASE_OUT;
        if (!out && uuid_equal(&row->host_id, host)) {
            return row;
        }
    }
    return NULL;
}

/* ---- Rows in and out ------------------------------------------------------------------------- */

static void put_replica(struct state *s, struct row *row)
{
    struct key k;
    uint64_t id = thole_v1_Replica_id(row->replica);
    uint64_t shard = thole_v1_Replica_shard_id(row->replica);
    registry__tree_put(&s->index[INDEX_REPLICAS], registry__key_u64(&k, id), row);
    registry__tree_put(&s->index[INDEX_SHARD_REPLICAS], registry__key_u64_u64(&k, shard, id), row);
    registry__tree_put(&s->index[INDEX_HOST_REPLICAS],
                       registry__key_uuid_u64(&k, &row->host_id, id), row);
}

void registry__state_put(struct state *s, struct row *row)
{
    struct key k;
    registry__row_pack(row);
    if (row->kind == ROW_HOST) {
        struct slice name = registry_str(thole_v1_Host_name(row->host));
        registry__tree_put(&s->index[INDEX_HOSTS], registry__key_uuid(&k, &row->host_id), row);
        if (name.size > 0) {
            registry__tree_put(&s->index[INDEX_HOST_NAMES], name, row);
        }
    } else if (row->kind == ROW_SHARD) {
        struct slice id = registry__key_u64(&k, thole_v1_Shard_id(row->shard));
        registry__tree_put(&s->index[INDEX_SHARDS], id, row);
        registry__tree_put(&s->index[INDEX_SHARD_NAMES],
                           registry_str(thole_v1_Shard_name(row->shard)), row);
    } else if (row->kind == ROW_POOL) {
        registry__tree_put(&s->index[INDEX_POOLS], registry_str(thole_v1_ShardPool_name(row->pool)),
                           row);
    } else if (row->kind == ROW_OPERATION) {
        struct slice id = registry__key_u64(&k, thole_v1_Operation_id(row->operation));
        registry__tree_put(&s->index[INDEX_OPERATIONS], id, row);
    } else {
        ASSERT(row->kind == ROW_REPLICA);
        put_replica(s, row);
    }
}

static void drop_replica(struct state *s, const struct row *row)
{
    struct key k;
    uint64_t id = thole_v1_Replica_id(row->replica);
    uint64_t shard = thole_v1_Replica_shard_id(row->replica);
    struct uuid host = row->host_id;
    registry__tree_remove(&s->index[INDEX_REPLICAS], registry__key_u64(&k, id));
    registry__tree_remove(&s->index[INDEX_SHARD_REPLICAS], registry__key_u64_u64(&k, shard, id));
    registry__tree_remove(&s->index[INDEX_HOST_REPLICAS], registry__key_uuid_u64(&k, &host, id));
}

/* The caller holds a reference to `row`, because the tree's may be the last one. */
void registry__state_drop(struct state *s, const struct row *row)
{
    struct key k;
    if (row->kind == ROW_HOST) {
        registry__tree_remove(&s->index[INDEX_HOST_NAMES],
                              registry_str(thole_v1_Host_name(row->host)));
        registry__tree_remove(&s->index[INDEX_HOSTS], registry__key_uuid(&k, &row->host_id));
    } else if (row->kind == ROW_SHARD) {
        registry__tree_remove(&s->index[INDEX_SHARD_NAMES],
                              registry_str(thole_v1_Shard_name(row->shard)));
        registry__tree_remove(&s->index[INDEX_SHARDS],
                              registry__key_u64(&k, thole_v1_Shard_id(row->shard)));
    } else if (row->kind == ROW_POOL) {
        registry__tree_remove(&s->index[INDEX_POOLS],
                              registry_str(thole_v1_ShardPool_name(row->pool)));
    } else if (row->kind == ROW_OPERATION) {
        registry__tree_remove(&s->index[INDEX_OPERATIONS],
                              registry__key_u64(&k, thole_v1_Operation_id(row->operation)));
    } else {
        ASSERT(row->kind == ROW_REPLICA);
        drop_replica(s, row);
    }
}

/* ---- Bounded histories ----------------------------------------------------------------------- */

/* Append under the next sequence, and drop the oldest past `max`; its revision, or 0. */
static uint64_t append(struct node **root, uint64_t *next, uint32_t max, struct row *row)
{
    struct key k;
    uint64_t dropped = 0;
    registry__tree_put(root, registry__key_u64(&k, (*next)++), row);
    if (registry__tree_count(*root) > max) {
        const struct node *oldest = registry__tree_first(*root);
        dropped = oldest->row->revision;
        k.size = registry__node_key(oldest).size;
        memcpy(k.bytes, registry__node_key(oldest).data, k.size);
        registry__tree_remove(root, slice_of(k.bytes, k.size));
    }
    return dropped;
}

static void compacted(struct state *s, uint64_t revision)
{
    if (revision > s->compacted_revision) {
        s->compacted_revision = revision;
    }
}

void registry__state_journal(struct state *s, struct row *mark)
{
    compacted(s, append(&s->index[INDEX_JOURNAL], &s->journal_next, REGISTRY_JOURNAL_MAX, mark));
}

void registry__state_event(struct state *s, struct row *event)
{
    registry__row_pack(event);
    compacted(s, append(&s->index[INDEX_EVENTS], &s->event_next, LIMIT_EVENTS, event));
}

void registry__state_remember(struct state *s, struct row *request)
{
    const struct node *oldest = registry__tree_first(s->index[INDEX_REQUEST_ORDER]);
    if (registry__tree_count(s->index[INDEX_REQUEST_ORDER]) >= REGISTRY_REQUESTS_MAX) {
        struct slice id =
            registry_str(thole_registry_v1_RememberedRequest_request_id(oldest->row->request));
        registry__tree_remove(&s->index[INDEX_REQUESTS], id);
    }
    registry__row_pack(request);
    struct slice id =
        registry_str(thole_registry_v1_RememberedRequest_request_id(request->request));
    registry__tree_put(&s->index[INDEX_REQUESTS], id, request);
    append(&s->index[INDEX_REQUEST_ORDER], &s->request_next, REGISTRY_REQUESTS_MAX, request);
}
