/* Repair of a group that lost its quorum for good. See docs/operations.md, "Quorum loss".
 *
 * shard_repair.c asks the hosts of the shard's replicas, and executes the plan; the decision is a
 * pure function (repair_plan.c). Afterwards the controllers retire and rebuild the other replicas,
 * which the new leader's configuration bans. */
#ifndef AGENT_REPAIR_SHARD_REPAIR_H
#define AGENT_REPAIR_SHARD_REPAIR_H

#include "agent/core/agent.h"
#include "base/limits.h"

struct repair_replica {
    uint64_t replica_id;
    struct uuid host_id;
    char host[LIMIT_NAME_BYTES + 1];
    bool answered;
    char problem[160]; /* why it did not answer, or cannot be chosen */
    bool leads, witness;
    uint64_t epoch, last_term, last_index, applied;
    struct raft_config config; /* in force at that replica */
    bool voter;                /* in the chosen replica's configuration; set by repair_decide */
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
    uint64_t hash; /* over all inputs of the decision */
    char consequence[600];
};

/* Choose the replica with the greatest (epoch, last term, last index). Refused while a leader, or a
 * quorum of the chosen replica's configuration, answers. */
void repair_decide(struct repair_plan *p);

/* `plan` is borrowed; NULL if `st` is not OK. `hash` NULL: only plan. Otherwise repair, and
 * complete when the chosen replica leads; ABORTED if `hash` is no longer the plan's. */
typedef void (*repair_done_fn)(void *ctx, const struct thole_status *st,
                               const struct repair_plan *plan);
void repair_shard(struct agent *a, uint64_t shard_id, const uint64_t *hash, uint64_t deadline_ns,
                  repair_done_fn done, void *ctx);

/* METHOD_INSPECT, METHOD_FORCE */
void repair_serve_inspect(struct agent *a, struct bus_request *q);
void repair_serve_force(struct agent *a, struct bus_request *q);

#endif
