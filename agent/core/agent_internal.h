/* The agent's state, and what agent.c offers to the files of the agent's rooms. Other modules use
 * agent.h. Each part has a header of its own: see the table in agent/core/README.md. */
#ifndef AGENT_CORE_AGENT_INTERNAL_H
#define AGENT_CORE_AGENT_INTERNAL_H

#include <pthread.h>

#include "agent/core/agent.h"
#include "agent/core/datadir.h"
#include "base/latch.h"
#include "base/pool.h"
#include "hostctl/hostctl.h"
#include "thole/bus/v1/agent.upb.h"
#include "thole/v1/resources.upb.h"

/* ---- Parts ----------------------------------------------------------------------------------- */

struct addresses;
struct exports;
struct outages;
struct peer_bootstrap;
struct reconciler;
struct router;
struct router_watches;
struct uploads;

struct agent {
    /* Options, copied. */
    char *listen, *advertise, *addresses;
    bool advertise_derived; /* from the machine's addresses, for this start */
    char *tags;
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
    struct bus_tls *tls;             /* NULL: plain text */
    char *certified_name;            /* in the certificate; NULL: none */
    struct hostctl *_Atomic hostctl; /* the engine's observer may be called before it is there */
    struct router *router;
    struct pool forwarded; /* requests of others, in router_serve.c */
    struct router_watches *watches;
    struct exports *exports;
    struct uploads *uploads;
    struct addresses *peer_addresses; /* peer_addresses.h */
    struct reconciler *reconciler;
    struct peer_bootstrap *peer_bootstrap;
    bool served;          /* services were registered */
    _Atomic bool leaving; /* requests of others are sent elsewhere */
    /* Damage was met in the state database: replicas may fail because of others' bytes. */
    _Atomic bool state_damaged;
    _Atomic bool opened; /* agent_new succeeds */
    /* Shard zero is forced here: it takes nothing before it knows (RepairZero). */
    _Atomic bool repairing;
    struct outages *outages; /* outages.h */
    _Atomic uint64_t
        zero_lost_ns; /* when its leader was no longer known; 0: one is. availability.c */

    pthread_t bootstrap_thread;
    bool bootstrap_running;
    pthread_t replace_zero_thread;
    bool replace_zero_running; /* the reconciler's worker's, until it is stopped */

    struct latch stop; /* opened by agent_stop: pauses end */

    pthread_mutex_t lock; /* the rest */
    pthread_cond_t changed;
    struct identity identity;
    bool member; /* shard zero's replica runs here */
    bool stopping;
    bool failed;
    bool restart;          /* failed, and another start heals it */
    char waiting_for[360]; /* while the cluster forms: what is missing */
    uint64_t changes;      /* counts signals, for agent_wait */
};

/* What readiness is waiting for; "" for nothing. Logged when it changes. */
void agent__set_waiting_for(struct agent *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void agent__fail(struct agent *a, const struct thole_status *st);
/* Like a failure, but the data directory is in order: the owner should start it again. */
void agent__request_restart(struct agent *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* What a host is told that was removed from its cluster: FAILED_PRECONDITION REMOVED. */
enum thole_code agent__fail_removed(struct thole_status *st);
/* This host's row, as it reports itself: name, id, tags, address, incarnation, version, types. */
thole_v1_Host *agent__host_row(struct agent *a, upb_Arena *arena);
/* Encoded, in the arena. */
upb_StringView agent__lineage(const struct agent *a, upb_Arena *arena);
/* Tell the bus where these hosts are. */
void agent__learn_members(struct agent *a, const struct member_list *l);

#endif
