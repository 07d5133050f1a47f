/* The safety properties of Raft (dissertation figure 3.2), checked from outside as a cluster
 * runs. */
#ifndef SHARDS_RAFT_TEST_CHECKER_H
#define SHARDS_RAFT_TEST_CHECKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cluster;
struct node;
struct raft_message;
struct raft_update;

struct checker {
    bool loose;                /* a solo node hears of commits that no node here made */
    uint64_t *committed_terms; /* [index - 1]: term of the committed entry, as first seen */
    uint64_t *committed_values;
    size_t committed_count, committed_capacity;
    uint64_t *leaders; /* [term]: who led it */
    size_t leader_capacity;
    uint64_t votes[16][4096]; /* [node][term]: whom its disk voted for */
    uint64_t commits[16];     /* since the node started */
};

void checker_deinit(struct checker *k);
void checker_started(struct cluster *c, struct node *n);
void checker_harvested(struct cluster *c, struct node *n, const struct raft_update *u);
void checker_sends(struct cluster *c, struct node *n, const struct raft_message *m);
void checker_applies(struct cluster *c, struct node *n, uint64_t index, uint64_t term,
                     uint64_t value);
/* Quorum loss: entries that this node does not have are lost, and no node needs to have them. */
void checker_forced(struct cluster *c, struct node *n);
void checker_synced(struct cluster *c, struct node *n);
/* Any two logs that agree on (index, term) agree before it. Costly. */
void checker_logs(struct cluster *c);

#endif
