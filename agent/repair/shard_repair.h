/* Repair of a group that lost its quorum for good. See docs/operations.md, "Quorum loss".
 *
 * A plan is made of what the hosts of the shard's replicas say, and its decision is a pure function
 * (repair_plan.c); shard_repair.c asks, and carries it out. What follows from it, that the other
 * replicas are retired and built anew, is the controllers' work: the leader's configuration says
 * who is banned. */
#ifndef AGENT_REPAIR_SHARD_REPAIR_H
#define AGENT_REPAIR_SHARD_REPAIR_H

#include "agent/core/agent.h"
#include "base/limits.h"

struct repair_replica {
    uint64_t replica_id;
    struct uuid host_id;
    char host[LIMIT_NAME_BYTES + 1];
    bool answered;
    char problem[160]; /* why not; or why it cannot be chosen */
    bool leads, witness;
    uint64_t epoch, last_term, last_index, applied;
    struct raft_config config; /* in force there */
    bool voter;                /* in the chosen one's configuration; set by repair_decide */
};

struct repair_plan {
    uint64_t shard_id;
    char shard[LIMIT_NAME_BYTES + 1];
    struct repair_replica replicas[LIMIT_MEMBERS];
    size_t count;
    /* Decided: */
    bool possible;
    char refused[200];
    size_t chosen; /* index; count: none */
    uint64_t epoch;
    uint64_t hash; /* over all that it rests on */
    char consequence[600];
};

/* Chooses the replica that has the most: by (epoch, term of the last entry, index of it). Refused
 * while somebody leads or a quorum of the chosen one's configuration answers. */
void repair_decide(struct repair_plan *p);

/* `plan` is borrowed; NULL if `st` is not OK. `hash` NULL: only plan. Else ABORTED unless it is
 * still the plan's; then repairs, and is done when the chosen replica leads. */
typedef void (*repair_done_fn)(void *ctx, const struct thole_status *st,
                               const struct repair_plan *plan);
void repair_shard(struct agent *a, uint64_t shard_id, const uint64_t *hash, uint64_t deadline_ns,
                  repair_done_fn done, void *ctx);

/* METHOD_INSPECT, METHOD_FORCE */
void repair_serve_inspect(struct agent *a, struct bus_request *q);
void repair_serve_force(struct agent *a, struct bus_request *q);

#endif
