/* The agent's own parts. agent.h is what the rest of agent/ may use. */
#ifndef AGENT_CORE_AGENT_INTERNAL_H
#define AGENT_CORE_AGENT_INTERNAL_H

#include <pthread.h>

#include "agent/core/agent.h"
#include "agent/core/datadir.h"
#include "agent/routing/router.h"
#include "base/latch.h"
#include "base/pool.h"
#include "base/worker.h"
#include "hostctl/hostctl.h"
#include "thole/bus/v1/agent.upb.h"
#include "thole/registry/v1/registry.upb.h"
#include "thole/v1/resources.upb.h"

/* ---- Parts ----------------------------------------------------------------------------------- */

struct reconciler;
struct peer_bootstrap;

struct agent {
    /* Options, copied. */
    char *listen, *advertise, *addresses;
    bool advertise_derived; /* from the machine's addresses, for this start */
    char *tags;             /* "k=v,k=v" */
    enum agent_bootstrap bootstrap;
    const struct thole_machine_type *types[AGENT_TYPES_MAX + 1];
    size_t type_count;
    struct agent_options o; /* its pointers are valid only during agent_new */

    struct datadir dir;
    uint64_t incarnation;
    struct lineage lineage; /* of this start */
    struct executor *executor;
    struct log_store *log;
    struct state_db *state;
    struct registry *registry;
    struct engine *engine;
    struct bus *bus;
    struct hostctl *_Atomic hostctl; /* the engine's observer may be called before it is there */
    struct router *router;
    struct pool forwarded; /* requests of others, in router_serve.c */
    struct watches *watches;
    struct exports *exports;
    struct uploads *uploads;
    struct addresses *addresses_known; /* peer_addresses.h */
    struct reconciler *reconciler;
    struct peer_bootstrap *peer_bootstrap;
    bool served;          /* services were registered */
    _Atomic bool leaving; /* requests of others are sent elsewhere */
    /* Damage was met in the state database: replicas may fail because of others' bytes. */
    _Atomic bool state_damaged;
    _Atomic bool opened; /* agent_new succeeds */
    /* Shard zero is forced here: it takes nothing before it knows (RepairZero). */
    _Atomic bool repairing;
    struct confirmed_facts *facts; /* confirmed.h */
    _Atomic uint64_t zero_lost_ns; /* when its leader was no longer known; 0: one is. confirmed.c */

    pthread_t bootstrap_thread;
    bool bootstrap_running;
    pthread_t renew_thread;
    bool renew_running; /* the reconciler's worker's, until it is stopped */

    struct latch stop; /* opened by agent_stop: pauses end */

    pthread_mutex_t lock; /* the rest */
    pthread_cond_t changed;
    struct identity identity;
    bool member; /* shard zero's replica runs here */
    bool stopping;
    bool failed;
    bool again;            /* failed, and another start heals it */
    char waiting_for[360]; /* while the cluster forms: what is missing */
    uint64_t changes;      /* counts signals, for agent_wait */
};

/* What readiness is waiting for; "" for nothing. Logged when it changes. */
void agent__waiting_for(struct agent *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void agent__fail(struct agent *a, const struct thole_status *st);
/* Like a failure, but the data directory is in order: the owner should start it again. */
void agent__start_again(struct agent *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* What a host is told that was removed from its cluster: FAILED_PRECONDITION REMOVED. */
enum thole_code agent__removed(struct thole_status *st);
/* This host's row, as it reports itself: name, id, tags, address, incarnation, version, types. */
thole_v1_Host *agent__host_row(struct agent *a, upb_Arena *arena);
/* Encoded, in the arena. */
upb_StringView agent__lineage(const struct agent *a, upb_Arena *arena);
/* "k=v,k=v" */
/* What is wrong with a tag that a host is started with, "key=value"; NULL: nothing. */
const char *agent__tag_problem(struct slice tag);
THOLE_MUST_CHECK enum thole_code agent_check_tags(const char *const *tags, size_t count,
                                                  struct thole_status *st);
void agent__set_tags(thole_v1_HostSpec *spec, const char *tags, upb_Arena *arena);

/* Tell the bus where these hosts are. */
void agent__know_members(struct agent *a, const struct member_list *l);

/* agent_options.c */
THOLE_MUST_CHECK enum thole_code agent__options_check(const struct agent_options *o,
                                                      struct thole_status *st);
/* What was not given: as at the last start, or by what this machine is. */
void agent__options_default_listen(struct agent *a);
/* Remember it, with the port that was really taken. */
THOLE_MUST_CHECK enum thole_code agent__options_save_listen(struct agent *a,
                                                            struct thole_status *st);

/* stores.c: open the log and the state database, which is made anew if it is damaged. */
THOLE_MUST_CHECK enum thole_code agent__stores_open(struct agent *a, struct thole_status *st);
void agent__stores_start_again(struct agent *a);

/* wiring.c */
struct engine_transport agent__wiring_transport(struct agent *a);
struct engine_observer agent__wiring_observer(struct agent *a);
struct bus_handler agent__wiring_bus_handler(struct agent *a);
struct hostctl_callbacks agent__wiring_callbacks(struct agent *a);
struct router_options agent__wiring_router(struct agent *a);

/* reconciler.c: the agent's worker: bootstrap command, admission, addresses, joins, health. */
struct reconciler *agent__reconciler_new(struct agent *a);
void agent__reconciler_start(struct reconciler *c); /* wakes before this are remembered */
void agent__reconciler_stop(struct reconciler *c);
void agent__reconciler_free(struct reconciler *c);
void agent__reconciler_wake(struct reconciler *c);
void agent__reconciler_replica_changed(struct reconciler *c, uint64_t shard_id); /* any thread */
/* A command of shard zero, as it is proposed. */
struct bufslice agent__reconciler_encode(thole_registry_v1_Command *c, const char *actor,
                                         upb_Arena *arena);
void agent__reconciler_join(struct reconciler *c, struct bus_request *request); /* METHOD_JOIN */

/* confirmed.c: a replica here changed. Any thread. */
void agent__replica_changed(struct agent *a, const struct engine_replica_status *s);

/* health.c */
struct health;
struct health *agent__health_new(struct agent *a);
void agent__health_free(struct health *h);
void agent__health_changed(struct health *h, uint64_t shard_id); /* its replica here; any thread */
/* On the reconciler's worker. Returns when it wants to be called again. */
uint64_t agent__health_update(struct health *h, uint64_t now_ns);
void agent__health_down(struct agent *a); /* before a drain: everything NOT_SERVING */

#endif
