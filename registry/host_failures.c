/* Hosts on which replicas keep failing, whatever is placed there: nothing new is placed on them.
 *
 * One damaged block may fail all replicas of a host at once, and replicas that are rebuilt there
 * may run for years. So a failure counts against the host only if the replica was placed after the
 * last failure that counts, and belongs to another shard. Three failures that count make the host
 * failing. That ends when nothing has failed for a while (hostctl/liveness.c checks the time), or
 * when a user uncordons the host.
 *
 * If several replicas of one shard are down at once, a command or the machine is to blame: all
 * replicas apply the same. That counts against no host. */
#include "registry/placement/placement.h"
#include "registry/registry_internal.h"

static const thole_v1_HostFailures *failures_of(const struct row *host)
{
    return thole_v1_HostStatus_failures(thole_v1_Host_status(host->host));
}

static bool is_listed(const thole_v1_HostFailures *f, uint64_t shard_id)
{
    size_t count = 0;
    const uint64_t *shards = f == NULL ? NULL : thole_v1_HostFailures_shards(f, &count);
    bool listed = false;
    for (size_t i = 0; i < count; i++) {
        listed |= shards[i] == shard_id;
    }
    return listed;
}

static thole_v1_HostFailures *edit_failures(struct row *edit)
{
    return thole_v1_HostStatus_mutable_failures(
        thole_v1_Host_mutable_status(edit->host, edit->arena), edit->arena);
}

/* Removes the shard from the host's failures; a failing host stays failing. */
static void unlist(struct txn *t, const struct row *host, uint64_t shard_id)
{
    if (!is_listed(failures_of(host), shard_id)) {
        return;
    }
    size_t count = 0;
    size_t kept = 0;
    struct row *edit = registry__txn_edit(t, host);
    thole_v1_HostFailures *f = edit_failures(edit);
    uint64_t *shards = thole_v1_HostFailures_mutable_shards(f, &count);
    for (size_t i = 0; i < count; i++) {
        if (shards[i] != shard_id) {
            shards[kept++] = shards[i];
        }
    }
    thole_v1_HostFailures_resize_shards(f, kept, edit->arena);
    registry__txn_put(t, edit);
}

/* Are other replicas of the shard down, too? Then its failures no longer count against their
 * hosts. */
static bool shard_is_to_blame(struct txn *t, uint64_t replica_id, uint64_t shard_id)
{
    const struct row *other;
    uint64_t after = 0;
    bool others = false;
    while ((other = registry__next_of_shard(&t->s, shard_id, after)) != NULL) {
        after = thole_v1_Replica_id(other->replica);
        const struct row *host = registry__host(&t->s, &other->host_id);
        if (after != replica_id && host != NULL &&
            thole_v1_Replica_desired(other->replica) == thole_v1_REPLICA_DESIRED_RUN &&
            thole_v1_Replica_phase(other->replica) == thole_v1_REPLICA_PHASE_FAILED) {
            unlist(t, host, shard_id);
            others = true;
        }
    }
    return others;
}

static void count(struct txn *t, thole_v1_HostFailures *f, const thole_v1_Replica *r,
                  upb_Arena *arena)
{
    size_t had = 0;
    (void)thole_v1_HostFailures_shards(f, &had);
    if (had >= PLACEMENT_HOST_FAILURES_MAX || is_listed(f, thole_v1_Replica_shard_id(r)) ||
        thole_v1_Replica_id(r) < thole_v1_HostFailures_next_replica(f)) {
        return;
    }
    thole_v1_HostFailures_add_shards(f, thole_v1_Replica_shard_id(r), arena);
    thole_v1_HostFailures_set_next_replica(f, t->s.next_replica_id);
    if (had + 1 == PLACEMENT_HOST_FAILURES_MAX) {
        thole_v1_HostFailures_set_failing(f, true);
    }
}

void registry__host_failed(struct txn *t, const struct row *replica, upb_StringView message)
{
    const thole_v1_Replica *r = replica->replica;
    struct uuid id = replica->host_id;
    bool blame_shard = shard_is_to_blame(t, thole_v1_Replica_id(r), thole_v1_Replica_shard_id(r));
    const struct row *host = registry__host(&t->s, &id);
    if (host == NULL || registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
        return;
    }
    bool was = placement_host_is_failing(host->host);
    if (blame_shard && !was) {
        return;
    }
    struct row *edit = registry__txn_edit(t, host);
    thole_v1_HostFailures *f = edit_failures(edit);
    if (!blame_shard) {
        count(t, f, r, edit->arena);
    }
    thole_v1_HostFailures_set_time_ms(f, thole_registry_v1_Command_time_ms(t->command));
    thole_v1_HostFailures_set_message(f, registry__dup(edit->arena, registry_str(message)));
    bool failing = thole_v1_HostFailures_failing(f);
    registry__txn_put(t, edit);
    host = registry__host(&t->s, &id);
    if (failing && !was) {
        upb_StringView name = thole_v1_Host_name(host->host);
        registry__txn_event(
            t, host, "HostFailing",
            "replicas of %d shards failed there, each placed after the one before "
            "had failed; it gets nothing new until none has failed for %d minutes, "
            "or \"thole host uncordon %.*s\"; the last: %.*s",
            PLACEMENT_HOST_FAILURES_MAX, PLACEMENT_HOST_QUIET_MS / 60000, (int)name.size, name.data,
            (int)(message.size < 300 ? message.size : 300), message.size > 0 ? message.data : "");
    }
}

void registry__host_forgive(struct txn *t, const struct uuid *id, upb_StringView why)
{
    const struct row *host = registry__host(&t->s, id);
    if (host == NULL || failures_of(host) == NULL) {
        return;
    }
    bool was = placement_host_is_failing(host->host);
    struct row *edit = registry__txn_edit(t, host);
    registry__clear(thole_v1_Host_mutable_status(edit->host, edit->arena),
                    &thole_v1_HostStatus_msginit, 21 /* failures */);
    registry__txn_put(t, edit);
    if (was) {
        registry__txn_event(t, registry__host(&t->s, id), "HostFailingEnded", "%.*s", (int)why.size,
                            why.data != NULL ? why.data : "");
    }
}
