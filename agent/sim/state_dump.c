/* Describes the rows of shard zero in the trace of a story that failed. */
#include <inttypes.h>
#include <stdio.h>

#include "agent/sim/play.h"
#include "proto/names.h"
#include "registry/registry.h"

#define TEXT(view) (int)(view).size, (view).data

static void trace_hosts(const struct registry_view *v)
{
    const thole_v1_Host *h;
    for (struct slice name = {0}; (h = registry_next_host(v, name)) != NULL;) {
        const char *state = proto_host_state(thole_v1_HostSpec_state(thole_v1_Host_spec(h)));
        const char *live =
            proto_host_liveness(thole_v1_HostStatus_liveness(thole_v1_Host_status(h)));
        name = registry_str(thole_v1_Host_name(h));
        world__trace("  host %.*s: %s, %s", TEXT(thole_v1_Host_name(h)),
                     state != NULL ? state : "unspecified", live != NULL ? live : "unspecified");
    }
}

static void trace_replicas(const struct registry_view *v, uint64_t shard_id)
{
    static const char *const phases[] = {"not reported", "joining", "catching up", "running",
                                         "out",          "gone",    "failed"};
    struct registry_replica_buf buf;
    const thole_v1_Replica *r;
    for (uint64_t id = 0; (r = registry_next_replica_of_shard(v, shard_id, id, &buf)) != NULL;) {
        bool remove = thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_REMOVE;
        id = thole_v1_Replica_id(r);
        world__trace("    replica %" PRIu64 " on %.*s: %s%s%s, %s %.*s", id,
                     TEXT(thole_v1_Replica_host(r)), proto_replica_role(thole_v1_Replica_role(r)),
                     thole_v1_Replica_owner(r) == thole_v1_REPLICA_OWNER_USER ? ", a user's" : "",
                     remove ? ", to be removed" : "", phases[thole_v1_Replica_phase(r) % 7],
                     TEXT(thole_v1_Replica_message(r)));
    }
}

static void trace_shards(const struct registry_view *v)
{
    struct registry_shard_buf buf;
    const thole_v1_Shard *row;
    char name[64] = "";
    while ((row = registry_next_shard(v, slice_str(name), &buf)) != NULL) {
        size_t n = 0;
        const thole_v1_ShardStatus *st = thole_v1_Shard_status(row);
        const thole_v1_Condition *const *all =
            st != NULL ? thole_v1_ShardStatus_conditions(st, &n) : NULL;
        snprintf(name, sizeof name, "%.*s", TEXT(thole_v1_Shard_name(row)));
        world__trace("  shard %s, id %" PRIu64 "%s", name, thole_v1_Shard_id(row),
                     thole_v1_Shard_deleting(row) ? ", being deleted" : "");
        for (size_t i = 0; i < n; i++) {
            world__trace("    %.*s %s: %.*s", TEXT(thole_v1_Condition_type(all[i])),
                         thole_v1_Condition_status(all[i]) ? "yes" : "no",
                         TEXT(thole_v1_Condition_message(all[i])));
        }
        trace_replicas(v, thole_v1_Shard_id(row));
    }
}

void checks__trace_state(void)
{
    struct registry_view *v = NULL;
    const thole_v1_Operation *o;
    for (int n = 0; n < world__host_count() && v == NULL; n++) {
        v = checks__view(n);
    }
    if (v == NULL || !world__traces()) {
        return;
    }
    world__trace("revision %" PRIu64 " of shard zero", registry_view_revision(v));
    trace_hosts(v);
    trace_shards(v);
    for (uint64_t id = 0; (o = registry_next_operation(v, id)) != NULL;) {
        id = thole_v1_Operation_id(o);
        if (!registry_operation_has_ended(o)) {
            world__trace("  operation %" PRIu64 ", %s: %.*s: %.*s", id,
                         proto_operation_kind(thole_v1_Operation_kind(o)),
                         TEXT(thole_v1_Operation_step(o)), TEXT(thole_v1_Operation_message(o)));
        }
    }
    registry_view_release(v);
}
