/* What a cluster's control plane says, compared with what its hosts have: for tests that kill the
 * leader of shard zero in the middle of things. Helpers fail the test. */
#ifndef INTEGRATION_TEST_CONTROL_H
#define INTEGRATION_TEST_CONTROL_H

#include "integration/test/cluster.h"

/* Rounds of a fault test (THOLE_OPERATION_FAULTS, or 5), and its random numbers: their seed is
 * printed, and can be given (THOLE_SEED). */
int fault_rounds(void);
void fault_seed(const char *test);
int fault_random(int below);

/* Which host will be killed: the leader of shard zero; and another one, by which the test asks,
 * among the first four. `aside` (or -1) is not the latter. */
struct fault {
    int leader, via;
};
struct fault fault_plan(struct cluster *c, int aside);
/* Kill the leader after `ms` and start it again, unless it has ended by itself. Does not wait until
 * it is ready. */
void fault_strike(struct cluster *c, const struct fault *f, long ms);

/* "operations/7 drain hosts/h1 pending" -> 7 */
int operation_of(const char *text);

/* Wait until no operation is under way but pauses, every replica runs where its row says, no host
 * has another one, and no row is being removed. Meanwhile, and in every call of control_note, each
 * replica id must always have the same shard and host. */
void control_agree(struct cluster *c, int via);
void control_note(struct cluster *c, int via);
/* Stop all hosts and compare the rows seen last with the logs on their disks. */
void control_check_disks(struct cluster *c);
/* Forget what was seen: for another cluster. */
void control_reset(void);

/* Of the rows seen last: a replica of the shard is on this host. */
bool control_has(struct cluster *c, int host, const char *shard);

#endif
