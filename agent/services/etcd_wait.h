/* Calls that wait for keys: Lock and Campaign (etcd_lock.c), Observe (etcd_election.c). What they
 * share: a call sends one request at a time to its shard, and watches one or two keys, or a range.
 *
 * All of a call runs on the worker of the watches. Requests, watches and cancellations end there in
 * a turn of the call, which looks at what is new. */
#ifndef AGENT_SERVICES_ETCD_WAIT_H
#define AGENT_SERVICES_ETCD_WAIT_H

#include "agent/services/etcd_watch.h"

struct etcd_wait;
struct etcd_wait_kind {
    /* Something is new, and no request is under way. */
    void (*turn)(struct etcd_wait *w);
    /* An answer came: w->status, w->answer. */
    void (*answered)(struct etcd_wait *w);
    /* A response of the watch, perhaps without events. Only remembers it, or sends something to the
     * client. False: no room for that; the same comes again when the client has read. */
    bool (*watched)(struct etcd_wait *w, const etcdserverpb_WatchResponse *m);
    void (*release)(struct etcd_wait *w); /* frees it, on any thread */
};

/* Embed it. */
struct etcd_wait {
    struct etcd_watches *set;
    struct bus_rpc *rpc;
    const struct etcd_wait_kind *kind;
    struct ref refs; /* the call's, the worker's until `over`, one for each message on the way */
    struct worker_msg msg;
    _Atomic bool posted;    /* `msg` is on its way */
    _Atomic bool cancelled; /* the client is gone */
    _Atomic bool returned;  /* an answer waits for the next turn */

    /* The worker's. */
    bool over, sending, later;
    TAILQ_ENTRY(etcd_wait) later_link;
    size_t held; /* see bus_rpc_hold */
    struct etcd_route route;
    struct thole_status status;
    struct slice answer; /* during `answered` */
    struct etcd_stream *stream;
    int64_t watch_id;                  /* of the last watch; the next one is of its second key */
    bool watches;                      /* until unwatch, or until it failed */
    bool changed;                      /* for `watched`: look again, and watch no more */
    struct thole_status stream_status; /* not OK: the watch failed */
};

/* Begins the call, whose request takes `bytes` of memory. False: the host has no room for it; it
 * was refused and released. Otherwise the first turn comes on the worker. */
bool services__etcd_wait_begin(struct etcd_wait *w, struct services *s, struct bus_rpc *rpc,
                               const struct etcd_wait_kind *kind, size_t bytes);
/* Sends a thole.kv.v1.Command or Query of the call's shard: `answered` comes. */
void services__etcd_wait_send(struct etcd_wait *w, enum router_kind kind, uint32_t field,
                              const void *request, const upb_MiniTable *table);
/* May the same request succeed later? */
bool services__etcd_wait_may_repeat(const struct thole_status *st);
/* A turn soon. Any thread. */
void services__etcd_wait_wake(struct etcd_wait *w);
/* A turn in a while. */
void services__etcd_wait_later(struct etcd_wait *w);
/* What to watch, from behind the revision of the last answer. A failure is w->stream_status. */
struct etcd_wait_watch {
    struct slice key, end; /* the key, or with an end all keys from it to there */
    struct slice second;   /* another key; empty: none */
    bool no_put;
    int64_t revision; /* of the last answer */
};
void services__etcd_wait_watch(struct etcd_wait *w, const struct etcd_wait_watch *what);
void services__etcd_wait_unwatch(struct etcd_wait *w);
/* Ends the call: a message, or NULL and zeros for none. */
void services__etcd_wait_reply(struct etcd_wait *w, struct bufslice message);
void services__etcd_wait_fail(struct etcd_wait *w, const struct thole_status *st);

/* For etcd_watch.c. */
void services__etcd_wait_woken(struct worker_msg *m);
void services__etcd_wait_look(struct etcd_watches *set);

#endif
