/* Between the files of the fixture. */
#ifndef SHARDS_RAFT_TEST_CORE_CLUSTER_INTERNAL_H
#define SHARDS_RAFT_TEST_CORE_CLUSTER_INTERNAL_H

#include "shards/raft/test/core_cluster.h"

void disk_truncate(struct disk *d, size_t count);
void network_send(struct cluster *c, const struct raft_message *m);
void network_send_snapshot(struct cluster *c, struct node *from, uint64_t to, uint64_t min_index);
bool network_deliver_due(struct cluster *c);
uint64_t network_next_due(struct cluster *c);
void network_deinit(struct cluster *c);
/* trace.c: nothing without c->trace */
void trace_message(struct cluster *c, const struct node *n, const struct raft_message *m);
void trace_state(struct cluster *c, const struct node *n);
void trace_line(struct cluster *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
