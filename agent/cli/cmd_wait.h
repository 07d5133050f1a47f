/* Waiting for a state of the cluster, with progress on stderr. */
#ifndef AGENT_CLI_CMD_WAIT_H
#define AGENT_CLI_CMD_WAIT_H

#include "agent/cli/rows.h"
#include "base/map.h"

enum wait_for { WAIT_READY, WAIT_FORMED, WAIT_DELETED, WAIT_DRAINED, WAIT_RUNNING };

struct wait_item {
    enum rows_kind kind; /* hosts, shards, pools, replicas */
    enum wait_for what;
    const char *name; /* of a host, shard or pool */
    uint64_t id; /* of a replica, or of a shard that is being deleted (0: the first one seen) */
    uint64_t generation; /* of a shard's or pool's spec: at least */
    bool quiet;          /* no progress lines */

    /* Used only by cmd_wait.c. */
    bool seen, done;
    bool gone;           /* deleted, while another state was waited for */
    struct map replicas; /* ids of the replicas on a host that is drained or deleted */
    size_t most;         /* their highest number */
    uint64_t begin_ns;
    size_t reached, total;       /* of a pool's shards */
    char taken[ROWS_NAME_BYTES]; /* a name of the pool that belongs to a shard outside of it */
    uint64_t told_ns;
    char told[200]; /* the last progress line */
};

/* Waits for all items with one watch. CLI_OK when all are done; CLI_UNAVAILABLE after `timeout_ms`
 * (0: never), with a message that says what is missing. */
int wait_all(struct cli *c, struct wait_item *items, size_t count, uint64_t timeout_ms);
/* The value of --timeout. */
uint64_t wait_timeout_ms(const struct cli *c);

/* Handle one message of the watch, or NULL: see rows_watch. Public for tests. */
void wait_observe(struct wait_item *w, const thole_v1_WatchClusterResponse *m);

#endif
