/* The invariants of a state, those of registry.h and README.md, as assertions.
 *
 * A whole check looks at every row. So that a command stays cheap in large tests, it runs after
 * every n-th change, where n grows with the number of rows. */
#include "registry/registry_internal.h"

#include "base/hash.h"
#include "base/slot.h"

#define ROWS_PER_CHECK 256

union row_buf {
    struct registry_shard_buf shard;
    struct registry_replica_buf replica;
    struct registry_event_buf event;
};

static const struct packed *next(const struct state *s, enum registry_index index,
                                 const struct packed *row)
{
    if (row == NULL) {
        return registry__tree_first(s->index[index]);
    }
    struct key key = registry__packed_key(index, row);
    return registry__tree_after(s->index[index], &key);
}

static bool is_indexed(const struct state *s, enum registry_index index, const struct packed *row)
{
    struct key key = registry__packed_key(index, row);
    return registry__tree_get(s->index[index], &key) == row;
}

static uint32_t count(const struct state *s, enum registry_index index)
{
    return registry__tree_count(s->index[index]);
}

/* ---- Kinds of rows --------------------------------------------------------------------------- */

static void check_hosts(const struct state *s)
{
    uint32_t named = 0;
    for (const struct packed *p = NULL; (p = next(s, INDEX_HOSTS, p)) != NULL;) {
        const thole_v1_Host *host = registry__packed_message(p, NULL);
        struct uuid id = registry__packed_host(p);
        bool has_name = registry__packed_name(p).size > 0;
        bool removed =
            thole_v1_HostSpec_state(thole_v1_Host_spec(host)) == thole_v1_HOST_STATE_REMOVED;
        ASSERT(!uuid_is_nil(&id) && thole_v1_Host_has_status(host));
        ASSERT(thole_v1_Host_revision(host) <= s->revision);
        ASSERT(!has_name || is_indexed(s, INDEX_HOST_NAMES, p));
        /* A removed host has its name as long as it has a replica. */
        ASSERT(!removed || has_name == (registry__find_of_host(s, &id, 0) != NULL));
        ASSERT(removed || has_name);
        named += has_name;
    }
    ASSERT(named == count(s, INDEX_HOST_NAMES));
}

static void check_initial(const struct state *s, const thole_v1_Shard *shard)
{
    size_t n = 0;
    const thole_v1_InitialReplica *const *initial = thole_v1_Shard_initial(shard, &n);
    for (size_t i = 0; i < n; i++) {
        union row_buf buf;
        uint64_t id = thole_v1_InitialReplica_replica_id(initial[i]);
        const thole_v1_Replica *r =
            registry__packed_message(registry__find(s, INDEX_REPLICAS, registry__key_id(id)), &buf);
        ASSERT(id < s->next_replica_id);
        ASSERT(r == NULL || (thole_v1_Replica_initial(r) &&
                             thole_v1_Replica_shard_id(r) == thole_v1_Shard_id(shard)));
    }
}

/* "orders-12" of the pool "orders" -> 12 */
static uint64_t pool_index(struct slice name, struct slice pool)
{
    uint64_t index = 0;
    ASSERT(name.size > pool.size + 1 && slice_equal(slice_of(name.data, pool.size), pool));
    for (size_t i = pool.size + 1; i < name.size; i++) {
        ASSERT(name.data[i] >= '0' && name.data[i] <= '9');
        index = 10 * index + (uint64_t)(name.data[i] - '0');
    }
    return index;
}

static void check_in_pool(const struct state *s, const thole_v1_Shard *shard)
{
    struct slice name = registry_str(thole_v1_Shard_pool(shard));
    const thole_v1_ShardPool *pool =
        registry__packed_message(registry__find(s, INDEX_POOLS, registry__key_name(name)), NULL);
    ASSERT(pool != NULL);
    uint64_t index = pool_index(registry_str(thole_v1_Shard_name(shard)), name);
    ASSERT(thole_v1_Shard_deleting(shard) ||
           index < thole_v1_ShardPoolStatus_extent(thole_v1_ShardPool_status(pool)));
    const thole_v1_ShardPoolSpec *spec = thole_v1_ShardPool_spec(pool);
    bool keys = thole_v1_ShardPoolSpec_keys(spec) == thole_v1_POOL_KEYS_SLOTS;
    ASSERT(thole_v1_Shard_has_slots(shard) == keys);
    if (keys) {
        uint32_t first = 0, last = 0;
        const thole_v1_SlotRange *slots = thole_v1_Shard_slots(shard);
        slot_range((uint32_t)index, thole_v1_ShardPoolSpec_count(spec), &first, &last);
        ASSERT(thole_v1_SlotRange_first(slots) == first && thole_v1_SlotRange_last(slots) == last);
    }
}

static void check_shards(const struct state *s)
{
    uint64_t in_pools = 0, ready_in_pools = 0, counted = 0, counted_ready = 0;
    ASSERT(count(s, INDEX_SHARDS) == count(s, INDEX_SHARD_NAMES));
    for (const struct packed *p = NULL; (p = next(s, INDEX_SHARDS, p)) != NULL;) {
        union row_buf buf;
        const thole_v1_Shard *shard = registry__packed_message(p, &buf);
        uint64_t id = thole_v1_Shard_id(shard);
        bool has_replica = registry__find_of_shard(s, id, 0) != NULL;
        ASSERT(is_indexed(s, INDEX_SHARD_NAMES, p) && id < s->next_shard_id);
        ASSERT(thole_v1_Shard_revision(shard) <= s->revision);
        ASSERT(!thole_v1_Shard_deleting(shard) || has_replica);
        ASSERT(!thole_v1_Shard_awaits_restore(shard) || thole_v1_Shard_has_seed(shard) ||
               !has_replica);
        check_initial(s, shard);
        if (thole_v1_Shard_pool(shard).size > 0) {
            check_in_pool(s, shard);
            in_pools++;
            ready_in_pools += registry_shard_is_ready(shard);
        }
    }
    for (const struct packed *p = NULL; (p = next(s, INDEX_POOLS, p)) != NULL;) {
        const thole_v1_ShardPool *pool = registry__packed_message(p, NULL);
        const thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_status(pool);
        ASSERT(thole_v1_ShardPool_revision(pool) <= s->revision);
        ASSERT(!thole_v1_ShardPool_deleting(pool) || thole_v1_ShardPoolStatus_shards(status) > 0);
        counted += thole_v1_ShardPoolStatus_shards(status);
        counted_ready += thole_v1_ShardPoolStatus_ready(status);
    }
    ASSERT(in_pools == counted && ready_in_pools == counted_ready);
}

/* A replica that is on its way out occupies its host no more. */
static bool is_out(const thole_v1_Replica *r)
{
    return thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_REMOVE &&
           thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_OUT;
}

static void check_occupant(const struct state *s, const struct packed *p, const thole_v1_Replica *r)
{
    struct uuid host = registry__packed_host(p);
    uint64_t shard_id = thole_v1_Replica_shard_id(r);
    const struct packed *other = p;
    while (!is_out(r) &&
           (other = registry__find_of_shard(s, shard_id, registry__packed_id(other))) != NULL) {
        union row_buf buf;
        struct uuid at = registry__packed_host(other);
        ASSERT(!uuid_equal(&at, &host) || is_out(registry__packed_message(other, &buf)));
    }
}

static bool is_open_move(const struct state *s, uint64_t operation)
{
    const thole_v1_Operation *o = registry__packed_message(
        registry__find(s, INDEX_OPERATIONS, registry__key_id(operation)), NULL);
    return o != NULL && thole_v1_Operation_kind(o) == thole_v1_OPERATION_KIND_MOVE &&
           !registry_operation_has_ended(o);
}

static void check_replicas(const struct state *s)
{
    ASSERT(count(s, INDEX_REPLICAS) == count(s, INDEX_SHARD_REPLICAS));
    ASSERT(count(s, INDEX_REPLICAS) == count(s, INDEX_HOST_REPLICAS));
    for (const struct packed *p = NULL; (p = next(s, INDEX_REPLICAS, p)) != NULL;) {
        union row_buf buf, shard_buf;
        const thole_v1_Replica *r = registry__packed_message(p, &buf);
        struct uuid host = registry__packed_host(p);
        const thole_v1_Shard *shard = registry__packed_message(
            registry__find(s, INDEX_SHARDS, registry__key_id(thole_v1_Replica_shard_id(r))),
            &shard_buf);
        bool runs = thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_RUN;
        ASSERT(is_indexed(s, INDEX_SHARD_REPLICAS, p) && is_indexed(s, INDEX_HOST_REPLICAS, p));
        ASSERT(thole_v1_Replica_id(r) < s->next_replica_id);
        ASSERT(thole_v1_Replica_revision(r) <= s->revision);
        ASSERT(shard != NULL &&
               registry__find(s, INDEX_HOSTS, registry__key_host(&host, 0)) != NULL);
        ASSERT(thole_v1_Replica_phase(r) != thole_v1_REPLICA_PHASE_GONE);
        ASSERT(!runs || (thole_v1_Replica_phase(r) != thole_v1_REPLICA_PHASE_OUT &&
                         !thole_v1_Shard_deleting(shard)));
        ASSERT(!runs || thole_v1_Replica_moving_by(r) == 0 ||
               is_open_move(s, thole_v1_Replica_moving_by(r)));
        check_occupant(s, p, r);
    }
}

static void check_operations(const struct state *s)
{
    uint32_t ended = 0;
    for (const struct packed *p = NULL; (p = next(s, INDEX_OPERATIONS, p)) != NULL;) {
        const thole_v1_Operation *o = registry__packed_message(p, NULL);
        uint64_t id = thole_v1_Operation_id(o);
        ASSERT(id > 0 && id < s->next_operation_id &&
               thole_v1_Operation_revision(o) <= s->revision);
        ended += registry_operation_has_ended(o);
        /* At most one move of a shard is under way. */
        for (const struct packed *q = p;
             is_open_move(s, id) && (q = next(s, INDEX_OPERATIONS, q)) != NULL;) {
            ASSERT(!is_open_move(s, registry__packed_id(q)) ||
                   thole_v1_Operation_shard_id(registry__packed_message(q, NULL)) !=
                       thole_v1_Operation_shard_id(o));
        }
    }
    ASSERT(ended <= REGISTRY_OPERATIONS_ENDED_MAX);
}

static void check_access(const struct state *s)
{
    ASSERT(count(s, INDEX_ROLES) <= REGISTRY_ROLES_MAX);
    ASSERT(count(s, INDEX_TOKENS) <= REGISTRY_TOKENS_MAX);
    ASSERT(s->access_revision <= s->revision);
    for (const struct packed *p = NULL; (p = next(s, INDEX_ROLES, p)) != NULL;) {
        const thole_v1_Role *role = registry__packed_message(p, NULL);
        bool builtin = registry_builtin_role(registry__packed_name(p)) != NULL;
        ASSERT(thole_v1_Role_revision(role) <= s->access_revision);
        ASSERT(thole_v1_Role_builtin(role) == builtin && thole_v1_Role_has_spec(role));
    }
    for (const struct packed *p = NULL; (p = next(s, INDEX_TOKENS, p)) != NULL;) {
        const thole_registry_v1_StoredToken *row = registry__packed_message(p, NULL);
        const thole_v1_Token *token = thole_registry_v1_StoredToken_token(row);
        ASSERT(thole_v1_Token_revision(token) <= s->access_revision);
        ASSERT(thole_registry_v1_StoredToken_hash(row).size == REGISTRY_TOKEN_HASH_BYTES);
    }
}

static void check_histories(const struct state *s)
{
    uint64_t revision = 0;
    ASSERT(count(s, INDEX_EVENTS) <= LIMIT_EVENTS);
    ASSERT(count(s, INDEX_JOURNAL) <= REGISTRY_JOURNAL_ROWS_MAX);
    ASSERT(count(s, INDEX_REQUESTS) <= REGISTRY_REQUESTS_MAX);
    ASSERT(count(s, INDEX_REQUESTS) == count(s, INDEX_REQUEST_ORDER));
    ASSERT(s->compacted_revision <= s->revision);
    for (const struct packed *p = NULL; (p = next(s, INDEX_EVENTS, p)) != NULL;) {
        ASSERT(registry__packed_revision(p) >= revision);
        revision = registry__packed_revision(p);
    }
    ASSERT(revision <= s->revision);
    for (const struct packed *p = NULL; (p = next(s, INDEX_REQUEST_ORDER, p)) != NULL;) {
        ASSERT(is_indexed(s, INDEX_REQUESTS, p));
    }
}

/* ---- The state ------------------------------------------------------------------------------- */

bool registry__check_state(const struct state *s)
{
    for (size_t i = 0; i < INDEX_COUNT; i++) {
        registry__tree_check(s->index[i], (enum registry_index)i);
    }
    check_hosts(s);
    check_shards(s);
    check_replicas(s);
    check_operations(s);
    check_access(s);
    check_histories(s);
    ASSERT(s->lost_from <= s->lost_to && s->lost_to <= s->next_replica_id);
    return true;
}

bool registry__check_is_due(const struct state *s)
{
    uint64_t rows = 0;
    for (size_t i = 0; i < INDEX_COUNT; i++) {
        rows += count(s, (enum registry_index)i);
    }
    return s->revision % (rows / ROWS_PER_CHECK + 1) == 0;
}

uint64_t registry__state_digest(const struct state *s)
{
    uint64_t digest = hash64(&s->revision, sizeof s->revision, s->next_replica_id);
    for (size_t i = 0; i < INDEX_COUNT; i++) {
        digest = registry__tree_digest(s->index[i], digest);
    }
    return digest;
}
