/* Rows as clients see them: with the current availability (agent/core/availability.h) instead of
 * the conditions that were stored. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/services/services_internal.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/map.h"
#include "proto/decode.h"
#include "registry/placement/placement.h"

/* Rows of a view never change; the copy is the caller's. */
static void *copy_row(const void *row, const upb_MiniTable *kind, upb_Arena *arena)
{
    struct bufslice bytes = services__encode(row, kind, arena);
    void *copy = proto_decode(kind, bytes.bytes, false, arena, NULL);
    bufslice_unref(bytes);
    ASSERT(copy != NULL);
    return copy;
}

static thole_v1_Condition *condition(thole_v1_ShardStatus *status, const char *type)
{
    size_t count = 0;
    thole_v1_Condition **all = thole_v1_ShardStatus_mutable_conditions(status, &count);
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(registry_str(thole_v1_Condition_type(all[i])), slice_str(type))) {
            return all[i];
        }
    }
    return NULL;
}

static void set(thole_v1_Condition *c, bool status, const char *reason, const char *message,
                int64_t time_ms, upb_Arena *arena)
{
    size_t size = strlen(message);
    char *copy = upb_Arena_Malloc(arena, size + 1);
    memcpy(copy, message, size + 1);
    thole_v1_Condition_set_status(c, status);
    thole_v1_Condition_set_reason(c, upb_StringView_FromString(reason));
    thole_v1_Condition_set_message(c, upb_StringView_FromDataAndSize(copy, size));
    thole_v1_Condition_set_transition_time_ms(c, time_ms);
}

/* Paused controllers that shards need to become ready, as bits. */
static uint32_t paused_controllers(const struct registry_view *v)
{
    return registry_paused_controllers(v) &
           (1u << thole_v1_CONTROLLER_PLACEMENT | 1u << thole_v1_CONTROLLER_MEMBERSHIP);
}

static const char *paused_text(uint32_t paused)
{
    return paused == 1u << thole_v1_CONTROLLER_PLACEMENT
               ? "the placement controller is paused, \"thole resume\" ends that"
           : paused == 1u << thole_v1_CONTROLLER_MEMBERSHIP
               ? "the membership controller is paused, \"thole resume\" ends that"
               : "the placement and membership controllers are paused, \"thole resume\" ends that";
}

uint32_t services__conditions_differ(const struct availability_check *check,
                                     const thole_v1_Shard *row, struct shard_availability *ret)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(row);
    uint32_t differ = 0;
    size_t count = 0;
    bool acts = true; /* must the controllers act before the shard is ready? */
    if (status != NULL) {
        (void)thole_v1_ShardStatus_conditions(status, &count);
    }
    if (count == 0 || !thole_v1_ShardStatus_formed(status)) {
        *ret = (struct shard_availability){.reason = "NotFormed"};
    } else {
        const thole_v1_Condition *ready = registry_shard_condition(row, "Ready");
        const thole_v1_Condition *degraded = registry_shard_condition(row, "Degraded");
        bool is_ready = ready != NULL && thole_v1_Condition_status(ready);
        agent_check_shard(check, row, ret);
        acts = is_ready ? ret->spec_pending : ready != NULL;
        if (is_ready && !ret->available) {
            differ |= CONDITIONS_NOT_READY;
        }
        if (degraded != NULL && !thole_v1_Condition_status(degraded) && ret->silent > 0) {
            differ |= CONDITIONS_DEGRADED;
        }
    }
    if (acts && !thole_v1_Shard_deleting(row) && paused_controllers(check->view) != 0) {
        differ |= CONDITIONS_PAUSED;
    }
    return differ;
}

/* Keeps the condition's message about the shard. */
static void set_paused(const struct availability_check *check, thole_v1_ShardStatus *status,
                       int64_t time_ms, upb_Arena *arena)
{
    char text[THOLE_STATUS_MESSAGE_BYTES];
    const char *why = paused_text(paused_controllers(check->view));
    thole_v1_Condition *placed = condition(status, "Placed");
    thole_v1_Condition *ready = condition(status, "Ready");
    if (ready == NULL) {
        ready = thole_v1_ShardStatus_add_conditions(status, arena);
        thole_v1_Condition_set_type(ready, upb_StringView_FromString("Ready"));
    }
    upb_StringView was = thole_v1_Condition_message(ready);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(was.size < 256 ? was.size : 256),
             was.size > 0 ? was.data : "", was.size > 0 ? "; " : "", why);
    set(ready, false, "Paused", text, time_ms, arena);
    if (placed != NULL && !thole_v1_Condition_status(placed) &&
        slice_equal(registry_str(thole_v1_Condition_reason(placed)), slice_str("Placing"))) {
        set(placed, false, "Paused", why, time_ms, arena);
    }
}

const thole_v1_Shard *services__conditions_now(const struct availability_check *check,
                                               const thole_v1_Shard *row, upb_Arena *arena)
{
    struct shard_availability now;
    char text[THOLE_STATUS_MESSAGE_BYTES];
    uint32_t differ = services__conditions_differ(check, row, &now);
    if (differ == 0) {
        return row;
    }
    int64_t wall_ms = (int64_t)clock_system.wall_ms(&clock_system);
    thole_v1_Shard *copy = copy_row(row, &thole_v1_Shard_msginit, arena);
    thole_v1_ShardStatus *status = thole_v1_Shard_mutable_status(copy, arena);
    if ((differ & CONDITIONS_NOT_READY) != 0) {
        set(condition(status, "Ready"), false, now.reason, now.message,
            wall_ms - (int64_t)now.age_ms, arena);
    }
    if ((differ & CONDITIONS_DEGRADED) != 0) {
        snprintf(text, sizeof text,
                 "%" PRIu32 " of %" PRIu32
                 " voting replicas %s on hosts that do not answer, the first for %.1f s",
                 now.silent, now.voters, now.silent == 1 ? "is" : "are",
                 (double)now.silent_ms / 1000);
        set(condition(status, "Degraded"), true,
            now.silent * 2 >= now.voters ? "QuorumSilent" : "ReplicasSilent", text,
            wall_ms - (int64_t)now.silent_ms, arena);
    }
    if ((differ & CONDITIONS_PAUSED) != 0) {
        set_paused(check, status, wall_ms - (int64_t)check->view_age_ms, arena);
    }
    return copy;
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

/* The parts of a host that its row does not have. */
struct host_now {
    int32_t liveness;
    uint32_t replicas; /* replicas that use its capacity: all but shard zero's */
};

static struct host_now host_now(const struct availability_check *check, const thole_v1_Host *row)
{
    struct registry_replica_buf buf;
    struct uuid id;
    uint64_t after = 0;
    const thole_v1_Replica *zero;
    struct host_now now = {.liveness = agent_check_host_liveness(check->agent, row)};
    if (!uuid_parse(registry_str(thole_v1_Host_id(row)), &id)) {
        return now;
    }
    now.replicas = placement_host_replicas(check->view, &id);
    while ((zero = registry_next_replica_of_shard(check->view, REGISTRY_SHARD_ID, after, &buf)) !=
           NULL) {
        after = thole_v1_Replica_id(zero);
        if (proto_equal(thole_v1_Replica_host_id(zero), thole_v1_Host_id(row))) {
            ASSERT(now.replicas > 0);
            now.replicas--;
        }
    }
    return now;
}

/* Never returns NULL. */
static void *host_mark(const struct host_now *now)
{
    return (void *)((uintptr_t)now->replicas << 8 | (uintptr_t)(now->liveness & 0x7f) << 1 | 1);
}

static uint64_t host_key(const thole_v1_Host *row)
{
    upb_StringView id = thole_v1_Host_id(row);
    return hash64(id.data, id.size, 0) | 1;
}

const thole_v1_Host *services__host_now(const struct availability_check *check,
                                        const thole_v1_Host *row, upb_Arena *arena)
{
    const struct host_now now = host_now(check, row);
    thole_v1_Host *copy = copy_row(row, &thole_v1_Host_msginit, arena);
    if (thole_v1_Host_status(row) != NULL) {
        thole_v1_HostStatus_set_liveness(thole_v1_Host_mutable_status(copy, arena), now.liveness);
    }
    thole_v1_Host_set_replicas(copy, now.replicas);
    return copy;
}

void services__host_sent(const struct availability_check *check, const thole_v1_Host *row,
                         struct map *sent)
{
    const struct host_now now = host_now(check, row);
    (void)map_put(sent, host_key(row), host_mark(&now));
}

bool services__hosts_changed(const struct availability_check *check, const struct map *sent,
                             void (*changed)(void *ctx, const thole_v1_Host *row), void *ctx)
{
    struct slice name = {0};
    const thole_v1_Host *row;
    bool any = false;
    while ((row = registry_next_host(check->view, name)) != NULL) {
        const struct host_now now = host_now(check, row);
        name = registry_str(thole_v1_Host_name(row));
        if (map_get(sent, host_key(row)) != host_mark(&now)) {
            changed(ctx, row);
            any = true;
        }
    }
    return any;
}

/* ---- Pools ----------------------------------------------------------------------------------- */

/* Shards that the pool's row counts as ready and that are not ready now. Only counted if the row
 * says that all shards are ready. */
static uint32_t pool_unready(const struct availability_check *check, const thole_v1_ShardPool *row)
{
    struct registry_shard_buf buf;
    char first[LIMIT_NAME_BYTES + 2];
    const thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_status(row);
    upb_StringView pool = thole_v1_ShardPool_name(row);
    uint32_t unready = 0;
    if (status == NULL || thole_v1_ShardPoolStatus_ready(status) == 0 ||
        thole_v1_ShardPoolStatus_ready(status) < thole_v1_ShardPoolStatus_shards(status)) {
        return 0;
    }
    snprintf(first, sizeof first, "%.*s-", (int)pool.size, pool.data);
    struct slice prefix = slice_str(first), name = prefix;
    const thole_v1_Shard *shard;
    while ((shard = registry_next_shard(check->view, name, &buf)) != NULL) {
        struct shard_availability now;
        name = registry_str(thole_v1_Shard_name(shard));
        if (name.size < prefix.size || memcmp(name.data, prefix.data, prefix.size) != 0) {
            break;
        }
        unready += proto_equal(thole_v1_Shard_pool(shard), pool) &&
                   (services__conditions_differ(check, shard, &now) & CONDITIONS_NOT_READY) != 0;
    }
    return unready;
}

const thole_v1_ShardPool *services__pool_now(const struct availability_check *check,
                                             const thole_v1_ShardPool *row, upb_Arena *arena,
                                             uint32_t *ret_unready)
{
    *ret_unready = pool_unready(check, row);
    if (*ret_unready == 0) {
        return row;
    }
    thole_v1_ShardPool *copy = copy_row(row, &thole_v1_ShardPool_msginit, arena);
    thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_mutable_status(copy, arena);
    thole_v1_ShardPoolStatus_set_ready(status,
                                       thole_v1_ShardPoolStatus_ready(status) - *ret_unready);
    return copy;
}

uint64_t services__pool_key(const thole_v1_ShardPool *row)
{
    upb_StringView name = thole_v1_ShardPool_name(row);
    return hash64(name.data, name.size, 0) | 1;
}

bool services__conditions_changed(const struct availability_check *check, const struct map *sent,
                                  void (*changed)(void *ctx, const thole_v1_Shard *row), void *ctx)
{
    struct registry_shard_buf buf;
    struct slice name = {0};
    const thole_v1_Shard *row;
    bool any = false;
    while ((row = registry_next_shard(check->view, name, &buf)) != NULL) {
        struct shard_availability now;
        name = registry_str(thole_v1_Shard_name(row));
        const void *differ = map_get(sent, thole_v1_Shard_id(row));
        if (services__conditions_differ(check, row, &now) != (uint32_t)(uintptr_t)differ) {
            changed(ctx, row);
            any = true;
        }
    }
    return any;
}

bool services__pools_changed(const struct availability_check *check, const struct map *sent,
                             void (*changed)(void *ctx, const thole_v1_ShardPool *row), void *ctx)
{
    struct slice name = {0};
    const thole_v1_ShardPool *row;
    bool any = false;
    while ((row = registry_next_pool(check->view, name)) != NULL) {
        name = registry_str(thole_v1_ShardPool_name(row));
        if (pool_unready(check, row) !=
            (uint32_t)(uintptr_t)map_get(sent, services__pool_key(row))) {
            changed(ctx, row);
            any = true;
        }
    }
    return any;
}
