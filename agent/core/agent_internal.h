/* The agent's state, and what agent.c offers to the files of the agent's rooms. Other modules use
 * agent.h. Each part has a header of its own: see the table in agent/core/README.md. */
#ifndef AGENT_CORE_AGENT_INTERNAL_H
#define AGENT_CORE_AGENT_INTERNAL_H

#include <pthread.h>

#include "agent/core/agent.h"
#include "agent/core/datadir.h"
#include "base/latch.h"
#include "base/log.h"
#include "base/pool.h"
#include "hostctl/hostctl.h"
#include "thole/bus/v1/agent.upb.h"
#include "thole/v1/resources.upb.h"

/* ---- Parts ----------------------------------------------------------------------------------- */

struct access;
struct addresses;
struct answers;
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
    struct log_names log_names; /* of the rows; registered with the log while `registry` is there */
    struct engine *engine;
    struct bus *bus;
    struct bus_tls *tls;             /* NULL: plain text */
    struct access *access;           /* made with the bus's handler */
    char *certified_name;            /* in the certificate; NULL: none */
    struct hostctl *_Atomic hostctl; /* the engine's observer may be called before it is there */
    struct router *router;
    struct pool forwarded; /* requests of other hosts, see router_serve.c */
    struct router_watches *watches;
    struct answers *answers;
    struct exports *exports;
    struct uploads *uploads;
    struct addresses *peer_addresses; /* peer_addresses.h */
    struct reconciler *reconciler;
    struct peer_bootstrap *peer_bootstrap;
    bool served;                                          /* services were registered */
    void (*serve_call)(void *ctx, struct bus_request *q); /* NULL: without services */
    void *serve_call_ctx;
    _Atomic bool leaving; /* requests of other hosts are refused */
    /* The state database is damaged: a replica may fail because of another replica's bytes. */
    _Atomic bool state_damaged;
    _Atomic bool opened; /* agent_new succeeds */
    /* Shard zero is being repaired here: only the command RepairZero is proposed to it. */
    _Atomic bool repairing;
    struct outages *outages;       /* outages.h */
    _Atomic uint64_t zero_lost_ns; /* since when shard zero's leader is unknown; 0: it is known */
    _Atomic uint64_t stalled_ns;   /* since when a write of the log hangs; 0: none does */

    pthread_t bootstrap_thread;
    bool bootstrap_running;
    pthread_t replace_zero_thread;
    bool replace_zero_running;     /* owned by the reconciler's worker until it stops */
    atomic_bool replace_zero_over; /* its thread ends: there is a leader again */

    struct latch stop; /* opened by agent_stop: pauses end */

    pthread_mutex_t lock; /* the rest */
    pthread_cond_t changed;
    struct identity identity;
    bool member; /* shard zero's replica runs here */
    bool stopping;
    bool failed;
    char waiting_for[360]; /* what readiness waits for while the cluster forms */
    uint64_t changes;      /* counts agent_signal, for agent_wait */
};

/* reconciler.c: does the view show this very start of this host, with its machine types? What is
 * placed here before that is refused. */
bool agent__row_is_current(const struct agent *a, const struct registry_view *v);
/* registry_command.c: agent_has_view, of one view. */
bool agent__view_is_formed(const struct registry_view *v, struct thole_status *st);
/* host_names.c: while the registry is there. */
void agent__log_names_begin(struct agent *a);
void agent__log_names_end(struct agent *a);
/* Set what readiness waits for; "": nothing. Logged when it changes. */
void agent__set_waiting_for(struct agent *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void agent__fail(struct agent *a, const struct thole_status *st);
/* A failure that a restart on the same data directory cures. */
void agent__request_restart(struct agent *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* FAILED_PRECONDITION REMOVED: the answer to a host that was removed from the cluster. */
enum thole_code agent__fail_removed(struct thole_status *st);
/* A request of a client of the library was refused: log it, and make it an event. */
void agent__report_denial(struct agent *a, struct bus_request *q, const struct bus_denial *d);
/* The row that this host proposes for itself. */
thole_v1_Host *agent__host_row(struct agent *a, upb_Arena *arena);
/* This start's lineage, encoded in the arena. */
upb_StringView agent__lineage(const struct agent *a, upb_Arena *arena);
/* Learn the addresses of these hosts. */
void agent__learn_members(struct agent *a, const struct member_list *l);

#endif
