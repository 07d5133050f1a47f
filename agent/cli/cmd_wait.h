/* Waiting until the cluster is as somebody wants it, with progress on stderr. */
#ifndef AGENT_CLI_CMD_WAIT_H
#define AGENT_CLI_CMD_WAIT_H

#include "agent/cli/rows.h"
#include "base/map.h"

enum wait_for { WAIT_READY, WAIT_FORMED, WAIT_DELETED, WAIT_DRAINED, WAIT_RUNNING };

struct wait_item {
    enum rows_kind kind; /* hosts, shards, pools, replicas */
    enum wait_for what;
    const char *name;    /* of a host, shard or pool */
    uint64_t id;         /* of a replica; of a shard that is deleted, 0: the first that is seen */
    uint64_t generation; /* of a shard's or pool's spec: at least */
    bool quiet;          /* no progress lines */

    /* The waiting's own. */
    bool seen, done;
    bool gone;           /* deleted, while something else was waited for */
    struct map replicas; /* ids, on a host that is drained, or that is deleted */
    size_t most;         /* of them at any time */
    uint64_t begin_ns;
    size_t reached, total;       /* of a pool's shards */
    char taken[ROWS_NAME_BYTES]; /* a name that the pool cannot have */
    uint64_t told_ns;
    char told[200]; /* the last progress line */
};

/* One watch for all of them. CLI_OK when all are done; CLI_UNAVAILABLE after `timeout_ms`
 * (0: never), saying what is missing. */
int wait_all(struct cli *c, struct wait_item *items, size_t count, uint64_t timeout_ms);
/* What the option --timeout says. */
uint64_t wait_timeout_ms(const struct cli *c);

/* One message of the watch; for tests. */
void wait_observe(struct wait_item *w, const thole_v1_WatchClusterResponse *m);

#endif
