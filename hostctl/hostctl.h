/* The controllers of one host. Each compares desired with observed state and takes one safe step;
 * level-triggered (woken by changes, correct from any state), idempotent.
 *
 *   placement   on shard zero's leader host: specs and hosts -> replica rows
 *   membership  on each shard's leader host: replica rows -> Raft configuration
 *   host        on every host: replica rows for this host -> running replicas, and reports
 *
 * All run on one worker of the given executor, so they need no locks, and run under the
 * simulator. */
#ifndef HOSTCTL_HOSTCTL_H
#define HOSTCTL_HOSTCTL_H

#include "base/clock.h"
#include "base/worker.h"
#include "registry/registry.h"
#include "shards/engine/engine.h"

struct hostctl;

/* Provided by the layer above. Called on the controllers' worker; must not block. */
struct hostctl_callbacks {
    void *ctx;
    /* Propose a command to shard zero, wherever its leader is. `done` is called exactly once, on
     * any thread; `result` (thole.registry.v1.Result bytes) is borrowed and only valid on THOLE_OK
     * with code 0. Takes `command` over. */
    void (*propose)(void *ctx, struct bufslice command,
                    void (*done)(void *done_ctx, const struct thole_status *st, uint64_t code,
                                 struct slice result),
                    void *done_ctx);
    /* A host row was added, changed by a restart of the host, or dropped (address NULL). */
    void (*host_address)(void *ctx, const struct uuid *host, uint64_t incarnation,
                         const char *address);
    /* Ask host `asked` whether it reaches host `about`. `done` is called exactly once, on any
     * thread, after at most a second; `answered` is false if the host did not answer. */
    void (*reaches)(void *ctx, const struct uuid *asked, const struct uuid *about,
                    void (*done)(void *done_ctx, bool answered, bool reaches), void *done_ctx);
};

#define HOSTCTL_SUSPECT_AFTER_MS 1000
#define HOSTCTL_DEAD_AFTER_MS 30000

struct hostctl_options {
    struct uuid host_id;
    uint64_t incarnation;
    struct engine *engine;     /* borrowed */
    struct registry *registry; /* borrowed; hostctl_new subscribes to it */
    struct executor *executor;
    struct hostctl_callbacks callbacks;
    uint32_t retry_ms;           /* pause before a failed step is tried again; 0: 200 */
    uint32_t report_interval_ms; /* observed state is batched for this long; 0: 200 */
    /* On shard zero's leader host. The allowed silence of a host follows its signs of life
     * (detector.h), within these bounds. */
    uint32_t suspect_after_ms;     /* 0: HOSTCTL_SUSPECT_AFTER_MS */
    uint32_t suspect_after_ms_max; /* 0: 10000, or suspect_after_ms if that is more */
    uint32_t dead_after_ms;        /* the grace: a silence after which its replicas are replaced */
};

struct hostctl *hostctl_new(const struct hostctl_options *o);
/* Starts no more steps; steps under way end by themselves. Call before engine_stop. */
void hostctl_stop(struct hostctl *h);
/* Call after engine_stop, when the engine's and the registry's callbacks have ended. Answers to
 * proposals may still arrive later. */
void hostctl_free(struct hostctl *h);

/* From engine_observer.replica_changed: copied and posted. Any thread. */
void hostctl_replica_changed(struct hostctl *h, const struct engine_replica_status *s);
/* From engine_observer.leader_moved and .fitness_changed. Any thread. */
void hostctl_leader_moved(struct hostctl *h, uint64_t shard_id, uint64_t from, uint64_t to,
                          enum engine_move_reason reason);
void hostctl_fitness_changed(struct hostctl *h);
/* A peer host's liveness on the bus changed. Any thread. */
void hostctl_peer_state(struct hostctl *h, const struct uuid *host, bool up);
/* A frame came from a host: a sign of life. Any thread; cheap. */
void hostctl_heard(struct hostctl *h, const struct uuid *host);

#endif
