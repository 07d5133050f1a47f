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
    struct key key = registry__key_host(id, 0);
    return registry__tree_get(s->index[INDEX_HOSTS], &key);
}

struct row *registry__host_by_name(const struct state *s, struct slice name)
{
    struct key key = registry__key_name(name);
    return registry__tree_get(s->index[INDEX_HOST_NAMES], &key);
}

struct row *registry__shard(const struct state *s, uint64_t id)
{
    struct key key = registry__key_id(id);
    return registry__tree_get(s->index[INDEX_SHARDS], &key);
}

struct row *registry__shard_by_name(const struct state *s, struct slice name)
{
    struct key key = registry__key_name(name);
    return registry__tree_get(s->index[INDEX_SHARD_NAMES], &key);
}

struct row *registry__replica(const struct state *s, uint64_t id)
{
    struct key key = registry__key_id(id);
    return registry__tree_get(s->index[INDEX_REPLICAS], &key);
}

struct row *registry__pool(const struct state *s, struct slice name)
{
    struct key key = registry__key_name(name);
    return registry__tree_get(s->index[INDEX_POOLS], &key);
}

struct row *registry__operation(const struct state *s, uint64_t id)
{
    struct key key = registry__key_id(id);
    return registry__tree_get(s->index[INDEX_OPERATIONS], &key);
}

struct row *registry__next_of_shard(const struct state *s, uint64_t shard_id, uint64_t after)
{
    struct key key = registry__key_shard(shard_id, after);
    struct row *row = registry__tree_after(s->index[INDEX_SHARD_REPLICAS], &key);
    return row != NULL && thole_v1_Replica_shard_id(row->replica) == shard_id ? row : NULL;
}

struct row *registry__next_of_host(const struct state *s, const struct uuid *host, uint64_t after)
{
    struct key key = registry__key_host(host, after);
    struct row *row = registry__tree_after(s->index[INDEX_HOST_REPLICAS], &key);
    return row != NULL && uuid_equal(&row->host_id, host) ? row : NULL;
}

uint32_t registry__count_of_shard(const struct state *s, uint64_t shard_id)
{
    struct key from = registry__key_shard(shard_id, 0);
    struct key to = registry__key_shard(shard_id, UINT64_MAX);
    const struct node *root = s->index[INDEX_SHARD_REPLICAS];
    return registry__tree_rank(root, &to) - registry__tree_rank(root, &from);
}

uint32_t registry__count_of_host(const struct state *s, const struct uuid *host)
{
    struct key from = registry__key_host(host, 0);
    struct key to = registry__key_host(host, UINT64_MAX);
    const struct node *root = s->index[INDEX_HOST_REPLICAS];
    return registry__tree_rank(root, &to) - registry__tree_rank(root, &from);
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

/* The indexes that a kind of row is in; ends with INDEX_COUNT. */
static const enum registry_index indexes_of[ROW_RESOURCES][4] = {
    [ROW_HOST] = {INDEX_HOSTS, INDEX_HOST_NAMES, INDEX_COUNT},
    [ROW_SHARD] = {INDEX_SHARDS, INDEX_SHARD_NAMES, INDEX_COUNT},
    [ROW_REPLICA] = {INDEX_REPLICAS, INDEX_SHARD_REPLICAS, INDEX_HOST_REPLICAS, INDEX_COUNT},
    [ROW_POOL] = {INDEX_POOLS, INDEX_COUNT},
    [ROW_OPERATION] = {INDEX_OPERATIONS, INDEX_COUNT},
};

/* Tombstones of removed hosts have no name. */
static bool is_in(enum registry_index index, const struct row *row)
{
    return index != INDEX_HOST_NAMES || thole_v1_Host_name(row->host).size > 0;
}

void registry__state_put(struct state *s, struct row *row)
{
    ASSERT(row->kind < ROW_RESOURCES);
    registry__row_pack(row);
    for (const enum registry_index *i = indexes_of[row->kind]; *i != INDEX_COUNT; i++) {
        if (is_in(*i, row)) {
            registry__tree_put(&s->index[*i], *i, row);
        }
    }
}

/* The caller holds a reference to `row`, because the tree's may be the last one. */
void registry__state_drop(struct state *s, const struct row *row)
{
    ASSERT(row->kind < ROW_RESOURCES);
    for (const enum registry_index *i = indexes_of[row->kind]; *i != INDEX_COUNT; i++) {
        if (is_in(*i, row)) {
            struct key key = registry__row_key(*i, row);
            registry__tree_remove(&s->index[*i], &key);
        }
    }
}

/* ---- Bounded histories ----------------------------------------------------------------------- */

/* Append under the next sequence, and drop the oldest past `max`; its revision, or 0. */
static uint64_t append(struct state *s, enum registry_index index, uint64_t *next, uint32_t max,
                       struct row *row)
{
    struct node **root = &s->index[index];
    uint64_t dropped = 0;
    row->sequence = (*next)++;
    registry__tree_put(root, index, row);
    if (registry__tree_count(*root) > max) {
        const struct row *oldest = registry__tree_first(*root);
        struct key key = registry__row_key(index, oldest);
        dropped = oldest->revision;
        registry__tree_remove(root, &key);
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
    compacted(s, append(s, INDEX_JOURNAL, &s->journal_next, REGISTRY_JOURNAL_MAX, mark));
}

void registry__state_event(struct state *s, struct row *event)
{
    registry__row_pack(event);
    compacted(s, append(s, INDEX_EVENTS, &s->event_next, LIMIT_EVENTS, event));
}

void registry__state_remember(struct state *s, struct row *request)
{
    const struct row *oldest = registry__tree_first(s->index[INDEX_REQUEST_ORDER]);
    if (registry__tree_count(s->index[INDEX_REQUEST_ORDER]) >= REGISTRY_REQUESTS_MAX) {
        struct key key = registry__row_key(INDEX_REQUESTS, oldest);
        registry__tree_remove(&s->index[INDEX_REQUESTS], &key);
    }
    registry__row_pack(request);
    registry__tree_put(&s->index[INDEX_REQUESTS], INDEX_REQUESTS, request);
    (void)append(s, INDEX_REQUEST_ORDER, &s->request_next, REGISTRY_REQUESTS_MAX, request);
}
