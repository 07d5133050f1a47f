/* Compares what a control plane reports with what its hosts have, for tests that kill the leader of
 * shard zero at random instants. Helpers fail the test. */
#ifndef INTEGRATION_TEST_CONTROL_H
#define INTEGRATION_TEST_CONTROL_H

#include "integration/test/cluster.h"

/* Rounds of a fault test (THOLE_OPERATION_FAULTS, or 5). The seed of its random numbers is printed
 * and can be given as THOLE_SEED. */
int fault_rounds(void);
void fault_seed(const char *test);
int fault_random(int below);

/* Chooses the host to kill, the leader of shard zero, and another of the first four hosts, through
 * which the test calls. That host is not `aside` (-1: any). */
struct fault {
    int leader, via;
};
struct fault fault_plan(struct cluster *c, int aside);
/* Kills the leader after `ms` and restarts it, unless it has ended by itself. Does not wait until
 * it is ready. */
void fault_strike(struct cluster *c, const struct fault *f, long ms);

/* "operations/7 drain hosts/h1 pending" -> 7 */
int operation_of(const char *text);

/* Waits until only pauses are under way, every replica runs where its row says, no host has another
 * replica, and no row is being removed. Meanwhile, and in every call of control_note, each replica
 * id must keep its shard and host. */
void control_agree(struct cluster *c, int via);
void control_note(struct cluster *c, int via);
/* Stops all hosts and compares the last seen rows with the logs on their disks. */
void control_check_disks(struct cluster *c);
/* Forgets all rows, before another cluster is used. */
void control_reset(void);

/* Is a replica of the shard on this host, by the last seen rows? */
bool control_has(struct cluster *c, int host, const char *shard);

#endif
