/* Views: a state that never changes again, for readers on any thread. */
#include "registry/registry_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct registry_view *registry__view_new(struct registry *r, const struct state *s)
{
    struct registry_view *v = xcalloc(1, sizeof *v);
    atomic_init(&v->refs, 1);
    v->live = &r->views;
    atomic_fetch_add_explicit(v->live, 1, memory_order_relaxed);
    registry__state_copy(&v->s, s);
    if (REGISTRY_CHECKS && registry__check_is_due(s)) {
        v->digest = registry__state_digest(s);
    }
    return v;
}

struct registry_view *registry_view_ref(struct registry_view *v)
{
    uint32_t refs = atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    ASSERT(refs > 0);
    return v;
}

void registry_view_release(struct registry_view *v)
{
    if (v == NULL || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    _Atomic int64_t *live = v->live;
    ASSERT(v->digest == 0 || v->digest == registry__state_digest(&v->s));
    registry__state_deinit(&v->s);
    free(v);
    atomic_fetch_sub_explicit(live, 1, memory_order_release);
}

uint64_t registry_view_revision(const struct registry_view *v)
{
    return v->s.revision;
}

bool registry_view_cluster(const struct registry_view *v, struct uuid *ret)
{
    if (v->s.bootstrapped) {
        *ret = v->s.cluster;
    }
    return v->s.bootstrapped;
}

uint64_t registry_next_replica_id(const struct registry_view *v)
{
    return v->s.next_replica_id;
}

bool registry_replica_is_lost(const struct registry_view *v, uint64_t id)
{
    return id >= v->s.lost_from && id < v->s.lost_to && !registry_has_replica(v, id);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static const void *look(const struct registry_view *v, enum registry_index index, struct key key,
                        void *buf)
{
    return registry__packed_message(registry__find(&v->s, index, key), buf);
}

static const void *look_after(const struct registry_view *v, enum registry_index index,
                              struct key key, void *buf)
{
    return registry__packed_message(registry__find_after(&v->s, index, key), buf);
}

const thole_v1_Host *registry_host(const struct registry_view *v, const struct uuid *id)
{
    return look(v, INDEX_HOSTS, registry__key_host(id, 0), NULL);
}

const thole_v1_Host *registry_host_by_name(const struct registry_view *v, struct slice name)
{
    return look(v, INDEX_HOST_NAMES, registry__key_name(name), NULL);
}

const thole_v1_Shard *registry_shard(const struct registry_view *v, uint64_t id,
                                     struct registry_shard_buf *buf)
{
    return look(v, INDEX_SHARDS, registry__key_id(id), buf);
}

const thole_v1_Shard *registry_shard_by_name(const struct registry_view *v, struct slice name,
                                             struct registry_shard_buf *buf)
{
    return look(v, INDEX_SHARD_NAMES, registry__key_name(name), buf);
}

bool registry_has_shard(const struct registry_view *v, uint64_t id)
{
    return registry__find(&v->s, INDEX_SHARDS, registry__key_id(id)) != NULL;
}

bool registry_has_shard_name(const struct registry_view *v, struct slice name)
{
    return registry__find(&v->s, INDEX_SHARD_NAMES, registry__key_name(name)) != NULL;
}

const thole_v1_Replica *registry_replica(const struct registry_view *v, uint64_t id,
                                         struct registry_replica_buf *buf)
{
    return look(v, INDEX_REPLICAS, registry__key_id(id), buf);
}

bool registry_has_replica(const struct registry_view *v, uint64_t id)
{
    return registry__find(&v->s, INDEX_REPLICAS, registry__key_id(id)) != NULL;
}

const thole_v1_Host *registry_next_host(const struct registry_view *v, struct slice after_name)
{
    return look_after(v, INDEX_HOST_NAMES, registry__key_name(after_name), NULL);
}

const thole_v1_Shard *registry_next_shard(const struct registry_view *v, struct slice after_name,
                                          struct registry_shard_buf *buf)
{
    return look_after(v, INDEX_SHARD_NAMES, registry__key_name(after_name), buf);
}

const thole_v1_Replica *registry_next_replica(const struct registry_view *v, uint64_t after_id,
                                              struct registry_replica_buf *buf)
{
    return look_after(v, INDEX_REPLICAS, registry__key_id(after_id), buf);
}

const thole_v1_ShardPool *registry_pool_by_name(const struct registry_view *v, struct slice name)
{
    return look(v, INDEX_POOLS, registry__key_name(name), NULL);
}

const thole_v1_ShardPool *registry_next_pool(const struct registry_view *v, struct slice after_name)
{
    return look_after(v, INDEX_POOLS, registry__key_name(after_name), NULL);
}

const thole_v1_Operation *registry_operation(const struct registry_view *v, uint64_t id)
{
    return look(v, INDEX_OPERATIONS, registry__key_id(id), NULL);
}

const thole_v1_Role *registry_role_by_name(const struct registry_view *v, struct slice name)
{
    const thole_v1_Role *row = look(v, INDEX_ROLES, registry__key_name(name), NULL);
    return row != NULL ? row : registry_builtin_role(name);
}

const thole_v1_Role *registry_next_role(const struct registry_view *v, struct slice after_name)
{
    const thole_v1_Role *row = look_after(v, INDEX_ROLES, registry__key_name(after_name), NULL);
    const thole_v1_Role *builtin = registry__builtin_after(after_name);
    bool first = builtin != NULL &&
                 (row == NULL || slice_compare(registry_str(thole_v1_Role_name(builtin)),
                                               registry_str(thole_v1_Role_name(row))) < 0);
    return first ? builtin : row;
}

static const thole_v1_Token *token_of(const thole_registry_v1_StoredToken *row)
{
    return row != NULL ? thole_registry_v1_StoredToken_token(row) : NULL;
}

const thole_v1_Token *registry_token(const struct registry_view *v, struct slice id)
{
    return token_of(look(v, INDEX_TOKENS, registry__key_name(id), NULL));
}

const thole_v1_Token *registry_next_token(const struct registry_view *v, struct slice after_id)
{
    return token_of(look_after(v, INDEX_TOKENS, registry__key_name(after_id), NULL));
}

bool registry_token_matches(const struct registry_view *v, struct slice id, struct slice hash)
{
    const thole_registry_v1_StoredToken *row = look(v, INDEX_TOKENS, registry__key_name(id), NULL);
    if (row == NULL || hash.size != REGISTRY_TOKEN_HASH_BYTES) {
        return false;
    }
    struct slice have = registry_str(thole_registry_v1_StoredToken_hash(row));
    unsigned differ = have.size == hash.size ? 0 : 1;
    for (size_t i = 0; i < have.size && i < hash.size; i++) {
        differ |= (unsigned)(have.data[i] ^ hash.data[i]);
    }
    return differ == 0;
}

uint64_t registry_access_revision(const struct registry_view *v)
{
    return v->s.access_revision;
}

const thole_v1_Operation *registry_next_operation(const struct registry_view *v, uint64_t after_id)
{
    return look_after(v, INDEX_OPERATIONS, registry__key_id(after_id), NULL);
}

uint32_t registry_paused_controllers(const struct registry_view *v)
{
    const thole_v1_Operation *row;
    uint32_t paused = 0;
    for (uint64_t after = 0; (row = registry_next_operation(v, after)) != NULL;) {
        size_t count = 0;
        const int32_t *controllers = thole_v1_Operation_controllers(row, &count);
        after = thole_v1_Operation_id(row);
        for (size_t i = 0; i < count && !registry_operation_has_ended(row); i++) {
            paused |= 1u << (controllers[i] & 31);
        }
    }
    return paused;
}

bool registry_operation_has_ended(const thole_v1_Operation *row)
{
    return thole_v1_Operation_state(row) >= thole_v1_OPERATION_STATE_DONE;
}

const thole_v1_Replica *registry_next_replica_of_shard(const struct registry_view *v,
                                                       uint64_t shard_id, uint64_t after_id,
                                                       struct registry_replica_buf *buf)
{
    return registry__packed_message(registry__find_of_shard(&v->s, shard_id, after_id), buf);
}

const thole_v1_Replica *registry_next_replica_of_host(const struct registry_view *v,
                                                      const struct uuid *host, uint64_t after_id,
                                                      struct registry_replica_buf *buf)
{
    return registry__packed_message(registry__find_of_host(&v->s, host, after_id), buf);
}

/* `*it` is the sequence of the last event that was returned. */
static const thole_v1_Event *next_event(const struct state *s, uint64_t after_revision,
                                        uint64_t *it, struct registry_event_buf *buf)
{
    const struct node *root = s->index[INDEX_EVENTS];
    struct key key = registry__key_id(*it);
    const struct packed *row = *it == 0 ? registry__tree_after_revision(root, after_revision)
                                        : registry__tree_after(root, &key);
    if (row != NULL) {
        *it = registry__packed_id(row);
    }
    return registry__packed_message(row, buf);
}

uint64_t registry_oldest_event(const struct registry_view *v)
{
    const struct node *root = v->s.index[INDEX_EVENTS];
    return registry__tree_count(root) < LIMIT_EVENTS
               ? 0
               : registry__packed_revision(registry__tree_first(root));
}

const thole_v1_Event *registry_next_event(const struct registry_view *v, uint64_t after_revision,
                                          uint64_t *it, struct registry_event_buf *buf)
{
    return next_event(&v->s, after_revision, it, buf);
}

bool registry_request_is_answered(const struct registry_view *v, struct slice request_id)
{
    struct key key = registry__key_name(request_id);
    return request_id.size > 0 && registry__tree_get(v->s.index[INDEX_REQUESTS], &key) != NULL;
}

const thole_v1_Condition *registry_shard_condition(const thole_v1_Shard *shard, const char *type)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(shard);
    size_t count = 0;
    const thole_v1_Condition *const *have =
        status == NULL ? NULL : thole_v1_ShardStatus_conditions(status, &count);
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(registry_str(thole_v1_Condition_type(have[i])), slice_str(type))) {
            return have[i];
        }
    }
    return NULL;
}

bool registry_shard_is_ready(const thole_v1_Shard *shard)
{
    const thole_v1_Condition *ready = registry_shard_condition(shard, "Ready");
    return ready != NULL && thole_v1_Condition_status(ready) && !thole_v1_Shard_deleting(shard) &&
           thole_v1_ShardStatus_observed_generation(thole_v1_Shard_status(shard)) >=
               thole_v1_Shard_generation(shard);
}

bool registry_leader_is_held(const struct registry_view *v, const thole_v1_Shard *shard)
{
    return thole_v1_ShardStatus_leader_held(thole_v1_Shard_status(shard)) > v->s.hosts_revision;
}

/* ---- Changes --------------------------------------------------------------------------------- */

/* "orders" of "shards/orders". */
static struct slice mark_name(const struct mark *mark)
{
    const uint8_t *slash = memchr(mark->name.data, '/', mark->name.size);
    size_t prefix = (size_t)(slash - mark->name.data) + 1;
    return slice_of(mark->name.data + prefix, mark->name.size - prefix);
}

/* The index that a kind of row is found in by its mark, and how. */
static struct packed *marked_row(const struct state *s, const struct mark *mark)
{
    switch (mark->kind) {
    case ROW_HOST:
        return registry__find(s, INDEX_HOSTS, registry__key_host(&mark->host_id, 0));
    case ROW_SHARD:
        return registry__find(s, INDEX_SHARDS, registry__key_id(mark->id));
    case ROW_REPLICA:
        return registry__find(s, INDEX_REPLICAS, registry__key_id(mark->id));
    case ROW_POOL:
        return registry__find(s, INDEX_POOLS, registry__key_name(mark_name(mark)));
    case ROW_OPERATION:
        return registry__find(s, INDEX_OPERATIONS, registry__key_id(mark->id));
    case ROW_ROLE:
        return registry__find(s, INDEX_ROLES, registry__key_name(mark_name(mark)));
    case ROW_TOKEN:
        return registry__find(s, INDEX_TOKENS, registry__key_name(mark_name(mark)));
    case ROW_EVENT:
    case ROW_REQUEST:
    case ROW_MARKS:
        break;
    }
    return NULL;
}

/* A reused name belongs to the new row: only that row is reported. */
static bool is_name_in_use(const struct state *s, const struct mark *mark)
{
    enum registry_index index = mark->kind == ROW_HOST    ? INDEX_HOST_NAMES
                                : mark->kind == ROW_SHARD ? INDEX_SHARD_NAMES
                                : mark->kind == ROW_POOL  ? INDEX_POOLS
                                : mark->kind == ROW_ROLE  ? INDEX_ROLES
                                : mark->kind == ROW_TOKEN ? INDEX_TOKENS
                                                          : INDEX_COUNT;
    return index != INDEX_COUNT &&
           registry__find(s, index, registry__key_name(mark_name(mark))) != NULL;
}

struct changes {
    const struct state *s;
    const struct registry_changes *c;
};

static void report_gone(const struct changes *all, const struct mark *mark)
{
    char name[REGISTRY_NAME_BYTES];
    if (all->c->gone != NULL && !is_name_in_use(all->s, mark)) {
        snprintf(name, sizeof name, "%.*s", (int)mark->name.size, (const char *)mark->name.data);
        all->c->gone(all->c->ctx, name);
    }
}

/* A row is reported once, by the mark of its last change. */
static void report_mark(void *ctx, const struct mark *mark)
{
    const struct changes *all = ctx;
    const struct registry_changes *c = all->c;
    struct registry_shard_buf buf; /* the largest */
    if (mark->gone) {
        report_gone(all, mark);
        return;
    }
    const struct packed *p = marked_row(all->s, mark);
    const void *row = registry__packed_message(p, &buf);
    if (row == NULL || (mark->kind == ROW_HOST && registry__packed_name(p).size == 0)) {
        return; /* dropped later, or by the same command; or a tombstone */
    }
    if (mark->kind == ROW_HOST && c->host != NULL &&
        thole_v1_Host_revision(row) == mark->revision) {
        c->host(c->ctx, row);
    } else if (mark->kind == ROW_SHARD && c->shard != NULL &&
               thole_v1_Shard_revision(row) == mark->revision) {
        c->shard(c->ctx, row);
    } else if (mark->kind == ROW_REPLICA && c->replica != NULL &&
               thole_v1_Replica_revision(row) == mark->revision) {
        c->replica(c->ctx, row);
    } else if (mark->kind == ROW_POOL && c->pool != NULL &&
               thole_v1_ShardPool_revision(row) == mark->revision) {
        c->pool(c->ctx, row);
    } else if (mark->kind == ROW_OPERATION && c->operation != NULL &&
               thole_v1_Operation_revision(row) == mark->revision) {
        c->operation(c->ctx, row);
    } else if (mark->kind == ROW_ROLE && c->role != NULL &&
               thole_v1_Role_revision(row) == mark->revision) {
        c->role(c->ctx, row);
    } else if (mark->kind == ROW_TOKEN && c->token != NULL &&
               thole_v1_Token_revision(token_of(row)) == mark->revision) {
        c->token(c->ctx, token_of(row));
    }
}

enum thole_code registry_changes_since(const struct registry_view *v, uint64_t from,
                                       const struct registry_changes *c, struct thole_status *st)
{
    const struct state *s = &v->s;
    if (from < s->compacted_revision) {
        return THOLE_FAIL(st, THOLE_OUT_OF_RANGE, THOLE_REASON_COMPACTED,
                          "changes up to revision %" PRIu64 " are no longer known, asked from "
                          "%" PRIu64,
                          s->compacted_revision, from);
    }
    struct changes all = {.s = s, .c = c};
    registry__journal_since(s, from, report_mark, &all);
    uint64_t it = 0;
    struct registry_event_buf buf;
    const thole_v1_Event *event;
    while (c->event != NULL && (event = next_event(s, from, &it, &buf)) != NULL) {
        c->event(c->ctx, event);
    }
    return THOLE_OK;
}
