/* Placement: a pure, deterministic function from one shard's spec, its rows and the hosts to a
 * decision. It never removes below safety, prefers the fewest moves, and explains each refusal.
 * It knows nothing of threads, time or proposals. */
#ifndef REGISTRY_PLACEMENT_PLACEMENT_H
#define REGISTRY_PLACEMENT_PLACEMENT_H

#include "base/limits.h"
#include "registry/registry.h"

#define PLACEMENT_TEXT_BYTES 512
/* After this many recent failures of its replicas a shard counts as failing. */
#define PLACEMENT_FAILURES_MAX 6
/* How long a failure of a shard's replica on a host is recent. */
#define PLACEMENT_FAILURE_RECENT_MS (3600 * 1000)
/* After this many failures that count against it a host gets nothing new (host_failures.c) ... */
#define PLACEMENT_HOST_FAILURES_MAX 3
/* ... until nothing has failed there for this long. More than the pause of a failing shard
 * (hostctl/heal.c), so that the next attempt comes first. */
#define PLACEMENT_HOST_QUIET_MS (30 * 60 * 1000)

enum placement_verdict {
    PLACEMENT_SETTLED,       /* nothing to do */
    PLACEMENT_ACT,           /* `command` has operations to propose */
    PLACEMENT_WAIT,          /* a step is under way; decide again when a row changes */
    PLACEMENT_UNSATISFIABLE, /* `explanation` says why */
};

struct placement_result {
    enum placement_verdict verdict;
    bool unbalanced; /* a better spread is possible, and is under way or held back */
    char explanation[PLACEMENT_TEXT_BYTES];
};

struct placement_options {
    void *ctx;
    /* Replicas on their way to a host, or away from it, that the view does not show. Without it,
     * many shards decided on one view would all choose the same hosts. NULL: none. */
    int32_t (*extra)(void *ctx, const struct uuid *host);
    /* Balance moves no replica that a later operation than this one placed. */
    uint64_t unpinned;
    /* Balance moves nothing to where a replica of the shard failed recently. 0: ever. */
    int64_t now_ms;
    /* Make no move that only improves the spread; missing replicas are still placed. */
    bool hold;
};

/* Decide the next step for one shard and append its operations to `command` (arena given), whose
 * `decided_at` it sets. Shard zero is decided like the others, except that its voters are the
 * largest of 1, 3, 5 that the live hosts allow, and every other host has a non-voting replica.
 * `o` NULL: no options. */
void placement_decide(const struct registry_view *v, const thole_v1_Shard *shard,
                      const struct placement_options *o, thole_registry_v1_Command *command,
                      upb_Arena *arena, struct placement_result *ret);

/* Append the first step of moving the shard's replica away from `from`, if that makes hosts evener
 * by two replicas or more (or `from` has more than its capacity), at no cost to the spread. Only
 * for a settled shard, and not its leader unless the host has more than its capacity. The rest of
 * the move is placement_decide's. */
bool placement_balance(const struct registry_view *v, const thole_v1_Shard *shard,
                       const struct placement_options *o, const struct uuid *from,
                       thole_registry_v1_Command *command, upb_Arena *arena);

/* May the shard's replica move from `from` to `to`, and stay there? False: `ret` says why not. The
 * machine checks the rows: whether the replica exists, and that no other move is under way. */
bool placement_may_move(const struct registry_view *v, const thole_v1_Shard *shard,
                        const struct uuid *from, const struct uuid *to,
                        char ret[static PLACEMENT_TEXT_BYTES]);

/* Voting replicas of the shard that its target has no place for: a replacement for each runs or is
 * being placed; users' replicas are never among them. Returns how many; `ret_wanted` is the wanted
 * number of voters. For shard zero both follow from the rows. */
size_t placement_spare_voters(const struct registry_view *v, const thole_v1_Shard *shard,
                              const struct placement_options *o, uint64_t ret[static LIMIT_MEMBERS],
                              uint32_t *ret_wanted);

/* Append an ObserveShard with the conditions, if they differ from the stored ones. `decided` is
 * what placement_decide said about the same view. True if something was appended. */
bool placement_conditions(const struct registry_view *v, const thole_v1_Shard *shard,
                          const struct placement_result *decided,
                          thole_registry_v1_Command *command, upb_Arena *arena);

/* Does a host satisfy all of these? On false, `*ret_failed` is the first that fails. */
bool placement_host_matches(const thole_v1_Host *host,
                            const thole_v1_Constraint *const *constraints, size_t count,
                            size_t *ret_failed);
/* May a leader be placed there: the host is active, live, and matches the shard's leader
 * preference? */
bool placement_host_leads(const thole_v1_Host *host, const thole_v1_ShardSpec *spec,
                          bool *ret_preferred);
/* Do replicas keep failing there, so that nothing new is placed on it? */
bool placement_host_is_failing(const thole_v1_Host *host);
/* How many replicas a host has, those of shard zero among them. */
uint32_t placement_host_replicas(const struct registry_view *v, const struct uuid *host);

#endif
