/* The state: rows in their indexes, and two bounded histories (events, requests; journal.c has the
 * third). This file keeps the indexes consistent; the meaning of a change is the caller's. */
#include "registry/registry_internal.h"

#include <string.h>

void registry__state_init(struct state *s)
{
    memset(s, 0, sizeof *s);
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
    to->scope = NULL;
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

struct packed *registry__find(const struct state *s, enum registry_index index, struct key key)
{
    return registry__tree_get(s->index[index], &key);
}

struct packed *registry__find_after(const struct state *s, enum registry_index index,
                                    struct key key)
{
    return registry__tree_after(s->index[index], &key);
}

struct packed *registry__find_of_shard(const struct state *s, uint64_t shard_id, uint64_t after)
{
    struct packed *p =
        registry__find_after(s, INDEX_SHARD_REPLICAS, registry__key_shard(shard_id, after));
    return p != NULL && registry__packed_shard(p) == shard_id ? p : NULL;
}

struct packed *registry__find_of_host(const struct state *s, const struct uuid *host,
                                      uint64_t after)
{
    struct packed *p =
        registry__find_after(s, INDEX_HOST_REPLICAS, registry__key_host(host, after));
    struct uuid of = p == NULL ? (struct uuid){0} : registry__packed_host(p);
    return p != NULL && uuid_equal(&of, host) ? p : NULL;
}

static struct row *open_found(const struct state *s, enum registry_index index, struct key key)
{
    return registry__open(s->scope, registry__find(s, index, key));
}

struct row *registry__host(const struct state *s, const struct uuid *id)
{
    return open_found(s, INDEX_HOSTS, registry__key_host(id, 0));
}

struct row *registry__host_by_name(const struct state *s, struct slice name)
{
    return open_found(s, INDEX_HOST_NAMES, registry__key_name(name));
}

struct row *registry__shard(const struct state *s, uint64_t id)
{
    return open_found(s, INDEX_SHARDS, registry__key_id(id));
}

struct row *registry__shard_by_name(const struct state *s, struct slice name)
{
    return open_found(s, INDEX_SHARD_NAMES, registry__key_name(name));
}

struct row *registry__replica(const struct state *s, uint64_t id)
{
    return open_found(s, INDEX_REPLICAS, registry__key_id(id));
}

struct row *registry__pool(const struct state *s, struct slice name)
{
    return open_found(s, INDEX_POOLS, registry__key_name(name));
}

struct row *registry__operation(const struct state *s, uint64_t id)
{
    return open_found(s, INDEX_OPERATIONS, registry__key_id(id));
}

struct row *registry__role(const struct state *s, struct slice name)
{
    return open_found(s, INDEX_ROLES, registry__key_name(name));
}

struct row *registry__token(const struct state *s, struct slice id)
{
    return open_found(s, INDEX_TOKENS, registry__key_name(id));
}

struct row *registry__next_of_shard(const struct state *s, uint64_t shard_id, uint64_t after)
{
    return registry__open(s->scope, registry__find_of_shard(s, shard_id, after));
}

struct row *registry__next_of_host(const struct state *s, const struct uuid *host, uint64_t after)
{
    return registry__open(s->scope, registry__find_of_host(s, host, after));
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
    [ROW_ROLE] = {INDEX_ROLES, INDEX_COUNT},
    [ROW_TOKEN] = {INDEX_TOKENS, INDEX_COUNT},
};

/* Tombstones of removed hosts have no name. */
static bool is_in(enum registry_index index, const struct packed *row)
{
    return index != INDEX_HOST_NAMES || registry__packed_name(row).size > 0;
}

void registry__state_put(struct state *s, struct row *row)
{
    ASSERT(row->kind < ROW_RESOURCES);
    ASSERT(s->scope != NULL);
    struct packed *packed = registry__row_pack(row, &s->scope->scratch);
    for (const enum registry_index *i = indexes_of[row->kind]; *i != INDEX_COUNT; i++) {
        if (is_in(*i, packed)) {
            registry__tree_put(&s->index[*i], *i, packed);
        }
    }
    row->packed = packed;
    registry__scope_hold(s->scope, packed);
    registry__packed_unref(packed);
}

/* `row` is as it was found in the trees. */
void registry__state_drop(struct state *s, const struct row *row)
{
    ASSERT(row->kind < ROW_RESOURCES && row->packed != NULL);
    for (const enum registry_index *i = indexes_of[row->kind]; *i != INDEX_COUNT; i++) {
        if (is_in(*i, row->packed)) {
            struct key key = registry__packed_key(*i, row->packed);
            registry__tree_remove(&s->index[*i], &key);
        }
    }
}

/* ---- Bounded histories ----------------------------------------------------------------------- */

void registry__state_event(struct state *s, struct row *event)
{
    struct node **root = &s->index[INDEX_EVENTS];
    event->sequence = s->event_next++;
    struct packed *packed = registry__row_pack(event, &s->scope->scratch);
    registry__tree_put(root, INDEX_EVENTS, packed);
    registry__packed_unref(packed);
    if (registry__tree_count(*root) > LIMIT_EVENTS) {
        const struct packed *oldest = registry__tree_first(*root);
        struct key key = registry__packed_key(INDEX_EVENTS, oldest);
        ASSERT(key.id < event->sequence);
        uint64_t revision = registry__packed_revision(oldest);
        s->compacted_revision = revision > s->compacted_revision ? revision : s->compacted_revision;
        registry__tree_remove(root, &key);
    }
}

void registry__state_remember(struct state *s, struct row *request)
{
    struct node **order = &s->index[INDEX_REQUEST_ORDER];
    if (registry__tree_count(*order) >= REGISTRY_REQUESTS_MAX) {
        struct packed *oldest = registry__packed_ref(registry__tree_first(*order));
        struct key by_id = registry__packed_key(INDEX_REQUESTS, oldest);
        struct key by_order = registry__packed_key(INDEX_REQUEST_ORDER, oldest);
        registry__tree_remove(&s->index[INDEX_REQUESTS], &by_id);
        registry__tree_remove(order, &by_order);
        registry__packed_unref(oldest);
        ASSERT(registry__tree_count(*order) == registry__tree_count(s->index[INDEX_REQUESTS]));
    }
    request->sequence = s->request_next++;
    struct packed *packed = registry__row_pack(request, &s->scope->scratch);
    registry__tree_put(&s->index[INDEX_REQUESTS], INDEX_REQUESTS, packed);
    registry__tree_put(order, INDEX_REQUEST_ORDER, packed);
    registry__packed_unref(packed);
}
