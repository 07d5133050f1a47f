/* Views: what everybody outside reads. A view is a state that never changes again. */
#include "registry/registry_internal.h"

#include <string.h>

struct registry_view *registry__view_new(struct registry *r, const struct state *s)
{
    struct registry_view *v = xcalloc(1, sizeof(*v));
    atomic_init(&v->refs, 1);
    v->live = &r->views;
    atomic_fetch_add_explicit(v->live, 1, memory_order_relaxed);
    registry__state_copy(&v->s, s);
    return v;
}

struct registry_view *registry_view_ref(struct registry_view *v)
{
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    return v;
}

void registry_view_release(struct registry_view *v)
{
    if (v == NULL || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    _Atomic int64_t *live = v->live;
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

bool registry_replica_lost(const struct registry_view *v, uint64_t id)
{
    return id >= v->s.lost_from && id < v->s.lost_to && registry__replica(&v->s, id) == NULL;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static const thole_v1_Host *as_host(const struct row *row)
{
    return row == NULL ? NULL : row->host;
}

static const thole_v1_Shard *as_shard(const struct row *row)
{
    return row == NULL ? NULL : row->shard;
}

static const thole_v1_Replica *as_replica(const struct row *row)
{
    return row == NULL ? NULL : row->replica;
}

static const thole_v1_ShardPool *as_pool(const struct row *row)
{
    return row == NULL ? NULL : row->pool;
}

static const struct row *row_after(const struct registry_view *v, enum registry_index index,
                                   struct key key)
{
    return registry__tree_after(v->s.index[index], &key);
}

const thole_v1_Host *registry_host(const struct registry_view *v, const struct uuid *id)
{
    return as_host(registry__host(&v->s, id));
}

const thole_v1_Host *registry_host_by_name(const struct registry_view *v, struct slice name)
{
    return as_host(registry__host_by_name(&v->s, name));
}

const thole_v1_Shard *registry_shard(const struct registry_view *v, uint64_t id)
{
    return as_shard(registry__shard(&v->s, id));
}

const thole_v1_Shard *registry_shard_by_name(const struct registry_view *v, struct slice name)
{
    return as_shard(registry__shard_by_name(&v->s, name));
}

const thole_v1_Replica *registry_replica(const struct registry_view *v, uint64_t id)
{
    return as_replica(registry__replica(&v->s, id));
}

const thole_v1_Host *registry_next_host(const struct registry_view *v, struct slice after_name)
{
    return as_host(row_after(v, INDEX_HOST_NAMES, registry__key_name(after_name)));
}

const thole_v1_Shard *registry_next_shard(const struct registry_view *v, struct slice after_name)
{
    return as_shard(row_after(v, INDEX_SHARD_NAMES, registry__key_name(after_name)));
}

const thole_v1_Replica *registry_next_replica(const struct registry_view *v, uint64_t after_id)
{
    return as_replica(row_after(v, INDEX_REPLICAS, registry__key_id(after_id)));
}

const thole_v1_ShardPool *registry_pool_by_name(const struct registry_view *v, struct slice name)
{
    return as_pool(registry__pool(&v->s, name));
}

const thole_v1_ShardPool *registry_next_pool(const struct registry_view *v, struct slice after_name)
{
    return as_pool(row_after(v, INDEX_POOLS, registry__key_name(after_name)));
}

const thole_v1_Operation *registry_operation(const struct registry_view *v, uint64_t id)
{
    const struct row *row = registry__operation(&v->s, id);
    return row == NULL ? NULL : row->operation;
}

const thole_v1_Operation *registry_next_operation(const struct registry_view *v, uint64_t after_id)
{
    const struct row *row = row_after(v, INDEX_OPERATIONS, registry__key_id(after_id));
    return row == NULL ? NULL : row->operation;
}

bool registry_operation_ended(const thole_v1_Operation *row)
{
    return thole_v1_Operation_state(row) >= thole_v1_OPERATION_STATE_DONE;
}

const thole_v1_Replica *registry_next_replica_of_shard(const struct registry_view *v,
                                                       uint64_t shard_id, uint64_t after_id)
{
    return as_replica(registry__next_of_shard(&v->s, shard_id, after_id));
}

const thole_v1_Replica *registry_next_replica_of_host(const struct registry_view *v,
                                                      const struct uuid *host, uint64_t after_id)
{
    return as_replica(registry__next_of_host(&v->s, host, after_id));
}

/* `*it` is the sequence of the last event given. */
static const struct row *next_event(const struct state *s, uint64_t after_revision, uint64_t *it)
{
    const struct node *root = s->index[INDEX_EVENTS];
    struct key key = registry__key_id(*it);
    const struct row *row = *it == 0 ? registry__tree_after_revision(root, after_revision)
                                     : registry__tree_after(root, &key);
    if (row != NULL) {
        *it = row->sequence;
    }
    return row;
}

uint64_t registry_oldest_event(const struct registry_view *v)
{
    const struct node *root = v->s.index[INDEX_EVENTS];
    return registry__tree_count(root) < LIMIT_EVENTS ? 0 : registry__tree_first(root)->revision;
}

const thole_v1_Event *registry_next_event(const struct registry_view *v, uint64_t after_revision,
                                          uint64_t *it)
{
    const struct row *row = next_event(&v->s, after_revision, it);
    return row == NULL ? NULL : row->event;
}

bool registry_request_answered(const struct registry_view *v, struct slice request_id)
{
    struct key key = registry__key_name(request_id);
    return request_id.size > 0 && registry__tree_get(v->s.index[INDEX_REQUESTS], &key) != NULL;
}

bool registry_shard_ready(const thole_v1_Shard *shard)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(shard);
    size_t count = 0;
    const thole_v1_Condition *const *have =
        status == NULL ? NULL : thole_v1_ShardStatus_conditions(status, &count);
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(registry_str(thole_v1_Condition_type(have[i])), slice_str("Ready"))) {
            return thole_v1_Condition_status(have[i]) && !thole_v1_Shard_deleting(shard) &&
                   thole_v1_ShardStatus_observed_generation(status) >=
                       thole_v1_Shard_generation(shard);
        }
    }
    return false;
}

/* ---- Changes --------------------------------------------------------------------------------- */

/* "orders" of "shards/orders". */
static struct slice mark_name(const struct row *mark)
{
    struct slice name = slice_str(mark->name);
    const uint8_t *slash = memchr(name.data, '/', name.size);
    size_t prefix = (size_t)(slash - name.data) + 1;
    return slice_of(name.data + prefix, name.size - prefix);
}

/* A name that was used again belongs to the new row now: only that one is reported. */
static bool name_in_use(const struct state *s, const struct row *mark)
{
    switch (mark->mark_kind) {
    case ROW_HOST:
        return registry__host_by_name(s, mark_name(mark)) != NULL;
    case ROW_SHARD:
        return registry__shard_by_name(s, mark_name(mark)) != NULL;
    case ROW_POOL:
        return registry__pool(s, mark_name(mark)) != NULL;
    default:
        return false;
    }
}

static const struct row *marked_row(const struct state *s, const struct row *mark)
{
    switch (mark->mark_kind) {
    case ROW_HOST:
        return registry__host(s, &mark->host_id);
    case ROW_SHARD:
        return registry__shard(s, mark->id);
    case ROW_REPLICA:
        return registry__replica(s, mark->id);
    case ROW_POOL:
        return registry__pool(s, mark_name(mark));
    case ROW_OPERATION:
        return registry__operation(s, mark->id);
    default:
        return NULL;
    }
}

static void report_mark(const struct state *s, const struct row *mark,
                        const struct registry_changes *c)
{
    if (mark->gone) {
        if (c->gone != NULL && !name_in_use(s, mark)) {
            c->gone(c->ctx, mark->name);
        }
        return;
    }
    const struct row *row = marked_row(s, mark);
    bool tombstone =
        row != NULL && row->kind == ROW_HOST && thole_v1_Host_name(row->host).size == 0;
    if (row == NULL || tombstone) {
        return; /* went later, or with the same command */
    }
    /* Reported once, by the mark of its last change. */
    if (row->kind == ROW_HOST && c->host != NULL &&
        thole_v1_Host_revision(row->host) == mark->revision) {
        c->host(c->ctx, row->host);
    } else if (row->kind == ROW_SHARD && c->shard != NULL &&
               thole_v1_Shard_revision(row->shard) == mark->revision) {
        c->shard(c->ctx, row->shard);
    } else if (row->kind == ROW_REPLICA && c->replica != NULL &&
               thole_v1_Replica_revision(row->replica) == mark->revision) {
        c->replica(c->ctx, row->replica);
    } else if (row->kind == ROW_POOL && c->pool != NULL &&
               thole_v1_ShardPool_revision(row->pool) == mark->revision) {
        c->pool(c->ctx, row->pool);
    } else if (row->kind == ROW_OPERATION && c->operation != NULL &&
               thole_v1_Operation_revision(row->operation) == mark->revision) {
        c->operation(c->ctx, row->operation);
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
    const struct node *root = s->index[INDEX_JOURNAL];
    const struct row *mark = registry__tree_after_revision(root, from);
    while (mark != NULL) {
        struct key key = registry__key_id(mark->sequence);
        report_mark(s, mark, c);
        mark = registry__tree_after(root, &key);
    }
    uint64_t it = 0;
    const struct row *event;
    while (c->event != NULL && (event = next_event(s, from, &it)) != NULL) {
        c->event(c->ctx, event->event);
    }
    return THOLE_OK;
}
