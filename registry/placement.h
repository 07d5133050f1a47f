/* Placement: a pure, deterministic function from one shard's spec, its rows and the hosts to a
 * decision. It never removes below safety, prefers the fewest moves, and explains each refusal.
 * It knows nothing of threads, time or proposals. */
#ifndef REGISTRY_PLACEMENT_H
#define REGISTRY_PLACEMENT_H

#include "registry/registry.h"

enum placement_verdict {
    PLACEMENT_SETTLED,       /* nothing to do */
    PLACEMENT_ACT,           /* `command` has operations to propose */
    PLACEMENT_WAIT,          /* something is under way; look again when a row changes */
    PLACEMENT_UNSATISFIABLE, /* `explanation` says why */
};

struct placement_result {
    enum placement_verdict verdict;
    char explanation[512];
};

/* Decide the next step for one shard and append its operations to `command` (arena given), whose
 * `decided_at` it sets. Shard zero is decided like the others, except that its voters are the
 * largest of 1, 3, 5 that the live hosts allow, and every other host has a non-voting replica. */
void placement_decide(const struct registry_view *v, const thole_v1_Shard *shard,
                      thole_registry_v1_Command *command, upb_Arena *arena,
                      struct placement_result *ret);

/* The same, when more replicas are on their way than the view shows: `extra` tells how many to add
 * to what a host has. Without it, many shards decided on one view would all choose the same hosts. */
struct placement_load {
    void *ctx;
    uint32_t (*extra)(void *ctx, const struct uuid *host);
};
void placement_decide_loaded(const struct registry_view *v, const thole_v1_Shard *shard,
                             const struct placement_load *load, thole_registry_v1_Command *command,
                             upb_Arena *arena, struct placement_result *ret);

/* Append an ObserveShard with the conditions Placed and Ready, if they differ from the stored ones.
 * `decided` is what placement_decide said about the same view. True if something was appended. */
bool placement_conditions(const struct registry_view *v, const thole_v1_Shard *shard,
                          const struct placement_result *decided,
                          thole_registry_v1_Command *command, upb_Arena *arena);

/* Does a host satisfy all constraints of a spec? On false, `*ret_failed` is the first that fails. */
bool placement_host_matches(const thole_v1_Host *host, const thole_v1_ShardSpec *spec,
                            size_t *ret_failed);

#endif
