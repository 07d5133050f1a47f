/* From what a request names to the id of a shard: the name of a shard, or that of a pool and the
 * slot of a key. See agent_find_shard in agent.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "base/slot.h"

#define SHOWN(name) (int)((name).size < 128 ? (name).size : 128), (const char *)(name).data

/* ---- In one view ----------------------------------------------------------------------------- */

/* The shard is missing; say what its name should have been. */
static enum thole_code no_such_shard(const struct registry_view *v, struct slice name,
                                     struct thole_status *st)
{
    const thole_v1_ShardPool *pool = registry_pool_by_name(v, name);
    if (pool == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                          "shard \"%.*s\" not found", SHOWN(name));
    }
    if (thole_v1_ShardPoolSpec_keys(thole_v1_ShardPool_spec(pool)) == thole_v1_POOL_KEYS_SLOTS) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "key: is needed: \"%.*s\" is a pool with keys", SHOWN(name));
    }
    return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                      "shard \"%.*s\" not found: it is a pool; name one of its shards, "
                      "\"%.*s-0\" and so on",
                      SHOWN(name), SHOWN(name));
}

static enum thole_code no_keys(const struct registry_view *v, struct slice name,
                               struct thole_status *st)
{
    struct registry_shard_buf buf;
    if (registry_pool_by_name(v, name) == NULL && registry_shard_by_name(v, name, &buf) == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                          "pool \"%.*s\" not found", SHOWN(name));
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "key: must be left out: \"%.*s\" is not a pool with keys", SHOWN(name));
}

static enum thole_code find_by_slot(const struct registry_view *v, struct slice name, uint32_t slot,
                                    uint64_t *ret, struct thole_status *st)
{
    const thole_v1_ShardPool *pool = registry_pool_by_name(v, name);
    const thole_v1_ShardPoolSpec *spec = pool != NULL ? thole_v1_ShardPool_spec(pool) : NULL;
    if (spec == NULL || thole_v1_ShardPoolSpec_keys(spec) != thole_v1_POOL_KEYS_SLOTS) {
        return no_keys(v, name, st);
    }
    struct registry_shard_buf buf;
    char text[LIMIT_NAME_BYTES + 1];
    int size = snprintf(text, sizeof text, "%.*s-%" PRIu32, SHOWN(name),
                        slot_shard(slot, thole_v1_ShardPoolSpec_count(spec)));
    const thole_v1_Shard *shard =
        registry_shard_by_name(v, slice_of(text, size > 0 ? (size_t)size : 0), &buf);
    if (shard != NULL && slice_equal(registry_str(thole_v1_Shard_pool(shard)), name)) {
        *ret = thole_v1_Shard_id(shard);
        return THOLE_OK;
    }
    if (thole_v1_ShardPool_deleting(pool)) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                          "pool \"%.*s\" is being deleted", SHOWN(name));
    }
    /* A foreign shard may have the name; the pool waits for it. */
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                      "the pool has not created its shard \"%s\" yet", text);
}

enum thole_code agent_find_shard(struct agent *a, struct slice name, uint32_t slot_plus_1,
                                 uint64_t *ret, struct thole_status *st)
{
    struct registry_shard_buf buf;
    enum thole_code code = THOLE_OK;
    struct registry_view *v = registry_view_acquire(a->registry);
    if (!agent__view_is_formed(v, st)) {
        code = THOLE_UNAVAILABLE;
    } else if (slot_plus_1 > 0) {
        code = find_by_slot(v, name, (slot_plus_1 - 1) % SLOT_COUNT, ret, st);
    } else {
        const thole_v1_Shard *shard = registry_shard_by_name(v, name, &buf);
        if (shard != NULL) {
            *ret = thole_v1_Shard_id(shard);
        } else {
            code = no_such_shard(v, name, st);
        }
    }
    registry_view_release(v);
    return code;
}

/* ---- With a barrier -------------------------------------------------------------------------- */

struct resolve {
    struct agent *agent;
    uint32_t slot_plus_1;
    char name[LIMIT_NAME_BYTES + 1];
    void (*done)(void *ctx, const struct thole_status *st, uint64_t shard_id);
    void *ctx;
};

static void resolve_again(void *ctx, const struct thole_status *st)
{
    struct resolve *r = ctx;
    struct thole_status out = *st;
    uint64_t id = 0;
    if (st->code == THOLE_OK &&
        agent_find_shard(r->agent, slice_str(r->name), r->slot_plus_1, &id, &out) != THOLE_OK) {
        id = 0;
    }
    r->done(r->ctx, &out, id);
    free(r);
}

void agent_resolve(struct agent *a, struct slice name, uint32_t slot_plus_1, uint64_t deadline_ns,
                   void (*done)(void *ctx, const struct thole_status *st, uint64_t shard_id),
                   void *ctx)
{
    struct thole_status st = {0};
    uint64_t id = 0;
    if (agent_find_shard(a, name, slot_plus_1, &id, &st) == THOLE_OK) {
        done(ctx, &st, id);
    } else { /* it may have just been created through another host */
        agent_resolve_anew(a, name, slot_plus_1, deadline_ns, done, ctx);
    }
}

void agent_resolve_anew(struct agent *a, struct slice name, uint32_t slot_plus_1,
                        uint64_t deadline_ns,
                        void (*done)(void *ctx, const struct thole_status *st, uint64_t shard_id),
                        void *ctx)
{
    struct thole_status st = {0};
    if (name.size > LIMIT_NAME_BYTES) {
        (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                         "shard \"%.*s\" not found", SHOWN(name));
        done(ctx, &st, 0);
        return;
    }
    struct resolve *r = xcalloc(1, sizeof *r);
    r->agent = a;
    r->slot_plus_1 = slot_plus_1;
    r->done = done;
    r->ctx = ctx;
    memcpy(r->name, name.data, name.size);
    agent_barrier(a, deadline_ns, resolve_again, r);
}
