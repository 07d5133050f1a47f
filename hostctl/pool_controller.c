/* Pools of shards, on shard zero's leader host: while not all shards of a pool follow its newest
 * generation, propose the next bounded step. The registry decides what the step does. */
#include "hostctl/hostctl_internal.h"

#include "base/hash.h"
#include "base/log.h"

static uint64_t attempt_key(struct slice name)
{
    return hash64(name.data, name.size, 0);
}

/* A step without effect, because a name is still in use, waits until the row changes. */
static bool was_tried(const struct hostctl *h, const thole_v1_ShardPool *row)
{
    uint64_t key = attempt_key(registry_str(thole_v1_ShardPool_name(row)));
    return (uintptr_t)map_get(&h->pool_attempts, key) == thole_v1_ShardPool_revision(row);
}

static const thole_v1_ShardPool *next_pool(const struct hostctl *h)
{
    struct slice name = {0};
    const thole_v1_ShardPool *row;
    while ((row = registry_next_pool(h->view, name)) != NULL) {
        name = registry_str(thole_v1_ShardPool_name(row));
        if (thole_v1_ShardPoolStatus_observed_generation(thole_v1_ShardPool_status(row)) !=
                thole_v1_ShardPool_generation(row) &&
            !was_tried(h, row)) {
            return row;
        }
    }
    return NULL;
}

bool hostctl__pools_are_due(const struct hostctl *h)
{
    return h->zero_leader && h->pools_dirty && !h->pool_outstanding &&
           registry_view_revision(h->view) >= h->pool_revision;
}

void hostctl__pools_run(struct hostctl *h)
{
    const thole_v1_ShardPool *row = next_pool(h);
    if (row == NULL) {
        h->pools_dirty = false;
        return;
    }
    upb_StringView name = thole_v1_ShardPool_name(row);
    uintptr_t revision = (uintptr_t)thole_v1_ShardPool_revision(row);
    (void)map_put(&h->pool_attempts, attempt_key(registry_str(name)), (void *)revision);
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = hostctl__command(h, "placement", arena);
    thole_registry_v1_ReconcilePool *o = thole_registry_v1_Operation_mutable_reconcile_pool(
        thole_registry_v1_Command_add_operations(c, arena), arena);
    thole_registry_v1_ReconcilePool_set_name(o, name);
    thole_registry_v1_ReconcilePool_set_generation(o, thole_v1_ShardPool_generation(row));
    thole_registry_v1_ReconcilePool_set_limit(o, HOSTCTL_POOL_SHARDS_MAX);
    h->pool_outstanding = true;
    hostctl__propose(h, c, arena, hostctl__op_new(h, OP_POOL, 0, 0));
    upb_Arena_Free(arena);
}

void hostctl__pools_done(struct hostctl *h, struct ctl_op *op)
{
    h->pool_outstanding = false;
    h->pools_dirty = true;
    if (op->st.code == THOLE_OK && op->code == THOLE_OK) {
        h->pool_revision = op->revision;
        return;
    }
    LOG_INFO(HOSTCTL, "a step of a pool was refused error=\"%s\"; retrying in %" PRIu32 " ms",
             op->st.message, h->o.retry_ms);
    h->pool_after_ms = h->now_ms + h->o.retry_ms;
    map_deinit(&h->pool_attempts);
    h->pool_attempts = (struct map){0};
}
