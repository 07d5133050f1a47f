/* The conditions of a shard, from its rows: Placed (all wanted replicas have hosts) and Ready (all
 * of them run as wanted). Written only when they change. */
#include "registry/placement_internal.h"

#include <stdio.h>

struct condition {
    const char *type;
    bool status;
    const char *reason;
    char message[REGISTRY_TEXT_BYTES];
};

static void judge(const struct placement *p, const struct placement_result *decided,
                  struct condition *placed, struct condition *ready)
{
    uint32_t voters = thole_v1_ShardSpec_voters(p->spec);
    uint32_t others = thole_v1_ShardSpec_non_voting(p->spec);
    uint32_t have[2] = {0};
    uint32_t running[2] = {0};
    bool zero = thole_v1_Shard_id(p->shard) == REGISTRY_SHARD_ID;
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        have[m->voter] += m->run && m->keep;
        running[m->voter] += m->run && m->keep && m->running;
    }
    if (zero) {
        voters = have[true];
        others = have[false];
    }
    placed->status = have[true] >= voters && have[false] >= others;
    placed->reason = placed->status                                ? "Placed"
                     : decided->verdict == PLACEMENT_UNSATISFIABLE ? "Unsatisfiable"
                                                                   : "Placing";
    snprintf(placed->message, sizeof(placed->message), "%s",
             placed->status ? "" : decided->explanation);
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(p->shard);
    bool formed = status != NULL && thole_v1_ShardStatus_formed(status);
    ready->status = formed && running[true] >= voters && running[false] >= others;
    ready->reason = ready->status ? "Running" : formed ? "Waiting" : "NotFormed";
    snprintf(ready->message, sizeof(ready->message),
             "%" PRIu32 " of %" PRIu32 " voters and %" PRIu32 " of %" PRIu32 " non-voting run",
             running[true], voters, running[false], others);
}

static bool same(const thole_v1_Shard *shard, const struct condition *c)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(shard);
    size_t count = 0;
    const thole_v1_Condition *const *have =
        status == NULL ? NULL : thole_v1_ShardStatus_conditions(status, &count);
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(registry_str(thole_v1_Condition_type(have[i])), slice_str(c->type))) {
            return thole_v1_Condition_status(have[i]) == c->status &&
                   slice_equal(registry_str(thole_v1_Condition_reason(have[i])),
                               slice_str(c->reason)) &&
                   slice_equal(registry_str(thole_v1_Condition_message(have[i])),
                               slice_str(c->message));
        }
    }
    return false;
}

bool placement_conditions(const struct registry_view *v, const thole_v1_Shard *shard,
                          const struct placement_result *decided,
                          thole_registry_v1_Command *command, upb_Arena *arena)
{
    struct placement p = {.v = v, .shard = shard, .spec = thole_v1_Shard_spec(shard)};
    struct condition conditions[2] = {{.type = "Placed"}, {.type = "Ready"}};
    const thole_v1_ShardStatus *stored = thole_v1_Shard_status(shard);
    if (thole_v1_Shard_deleting(shard)) {
        return false;
    }
    placement__load_members(&p);
    judge(&p, decided, &conditions[0], &conditions[1]);
    if (same(shard, &conditions[0]) && same(shard, &conditions[1]) && stored != NULL &&
        thole_v1_ShardStatus_observed_generation(stored) == thole_v1_Shard_generation(shard)) {
        return false;
    }
    thole_registry_v1_ObserveShard *o = thole_registry_v1_Operation_mutable_observe_shard(
        thole_registry_v1_Command_add_operations(command, arena), arena);
    thole_registry_v1_ObserveShard_set_shard_id(o, thole_v1_Shard_id(shard));
    thole_v1_ShardStatus *status = thole_registry_v1_ObserveShard_mutable_status(o, arena);
    thole_v1_ShardStatus_set_observed_generation(status, thole_v1_Shard_generation(shard));
    for (size_t i = 0; i < 2; i++) {
        thole_v1_Condition *c = thole_v1_ShardStatus_add_conditions(status, arena);
        thole_v1_Condition_set_type(c, registry__dup_str(arena, conditions[i].type));
        thole_v1_Condition_set_status(c, conditions[i].status);
        thole_v1_Condition_set_reason(c, registry__dup_str(arena, conditions[i].reason));
        thole_v1_Condition_set_message(c, registry__dup_str(arena, conditions[i].message));
    }
    return true;
}
