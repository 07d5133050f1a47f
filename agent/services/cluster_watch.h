/* A watch of rows: its state, which belongs to the worker of cluster_watch.c, and what encodes its
 * rows (watch_rows.c). */
#ifndef AGENT_SERVICES_CLUSTER_WATCH_H
#define AGENT_SERVICES_CLUSTER_WATCH_H

#include "agent/services/services_internal.h"
#include "base/map.h"

enum phase {
    PHASE_HOSTS,
    PHASE_POOLS,
    PHASE_OPERATIONS,
    PHASE_ROLES,
    PHASE_TOKENS,
    PHASE_SHARDS,
    PHASE_REPLICAS,
    PHASE_CHANGES
};

struct pending {
    struct pending *next;
    struct bufslice message;
};

struct cluster_watch {
    struct cluster_watch *next;
    struct services *s;
    struct bus_rpc *rpc;
    struct worker_msg start, cancel, drained;
    _Atomic bool drained_posted;
    _Atomic uint32_t refs; /* the call, the worker's list, each posted message */

    /* Owned by the worker. */
    bool blocked;  /* until the call's queue has room again */
    bool finished; /* the call was answered */
    enum phase phase;
    struct registry_view *view; /* of the snapshot, or of the changes that are being sent */
    struct map
        pools; /* hash of a name -> how much lower than in the row the sent ready count was */
    struct map differ; /* shard id -> conditions that were sent differently from the row */
    struct map hosts;  /* hash of an id -> what was sent: services__host_sent */
    char after_name[LIMIT_NAME_BYTES + 1];
    uint64_t after_id;
    uint64_t revision; /* rows up to this revision were sent */
    bool events;       /* a watch of events only, about `object` */
    bool begun;        /* the first bookmark of events was sent */
    char object[REGISTRY_NAME_BYTES];
    char oldest
        [EVENTS_OLDEST_BYTES]; /* not empty: the watch ends because older events were dropped */
    uint64_t operation;        /* a watch of only this operation; 0: it is another kind of watch */
    struct pending *first, **last;
};

/* Append a message; takes over `out`. */
void services__watch_push(struct cluster_watch *w, struct bytes *out);
void services__watch_push_bookmark(struct cluster_watch *w);
void services__watch_push_event(void *ctx, const thole_v1_Event *row);
/* With the current conditions, or number of ready shards, of w->view. */
void services__watch_push_shard(void *ctx, const thole_v1_Shard *row);
void services__watch_push_host(void *ctx, const thole_v1_Host *row);
void services__watch_push_pool(void *ctx, const thole_v1_ShardPool *row);
/* The next rows of the snapshot. */
void services__watch_push_snapshot(struct cluster_watch *w);
/* What changed from w->revision to w->view. */
enum thole_code services__watch_push_changes(struct cluster_watch *w, struct thole_status *st);

#endif
