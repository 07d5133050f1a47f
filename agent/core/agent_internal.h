/* The agent's own parts. agent.h is what the rest of agent/ may use. */
#ifndef AGENT_CORE_AGENT_INTERNAL_H
#define AGENT_CORE_AGENT_INTERNAL_H

#include <pthread.h>

#include "agent/core/agent.h"
#include "agent/core/datadir.h"
#include "agent/routing/router.h"
#include "base/pool.h"
#include "base/worker.h"
#include "hostctl/hostctl.h"
#include "thole/bus/v1/agent.upb.h"
#include "thole/registry/v1/registry.upb.h"
#include "thole/v1/resources.upb.h"

/* thole.bus.v1.Method, without its prefix. */
enum {
    METHOD_PROPOSE = thole_bus_v1_METHOD_PROPOSE,
    METHOD_QUERY = thole_bus_v1_METHOD_QUERY,
    METHOD_WATCH = thole_bus_v1_METHOD_WATCH,
    METHOD_TRANSFER = thole_bus_v1_METHOD_TRANSFER,
    METHOD_JOIN = thole_bus_v1_METHOD_JOIN,
    METHOD_MEET = thole_bus_v1_METHOD_MEET,
    METHOD_INSPECT = thole_bus_v1_METHOD_INSPECT,
    METHOD_FORCE = thole_bus_v1_METHOD_FORCE,
    METHOD_SNAPSHOT = thole_bus_v1_METHOD_SNAPSHOT,
    METHOD_REACHES = thole_bus_v1_METHOD_REACHES,
    METHOD_ADDRESSES = thole_bus_v1_METHOD_ADDRESSES,
};

enum agent_bootstrap {
    AGENT_BOOTSTRAP_NONE,  /* only a data directory that is a member's already */
    AGENT_BOOTSTRAP_DEV,   /* a cluster of this host alone */
    AGENT_BOOTSTRAP_PEERS, /* a new cluster of `addresses`, this host among them */
    AGENT_BOOTSTRAP_JOIN,  /* an existing cluster, through one of `addresses` */
};

#define AGENT_TYPES_MAX 64

/* Everything is copied but the machine types and `services`. */
struct agent_options {
    const char *data_dir;
    const char *listen;      /* NULL: as at the last start, or 127.0.0.1:7400 */
    const char *advertise;   /* NULL: the listen address with the real port */
    const char *name;        /* NULL: from the data directory, or made from the new host id */
    const char *const *tags; /* "key=value" */
    size_t tag_count;
    enum agent_bootstrap bootstrap; /* a data directory that is a member's already stays that */
    /* Comma separated; of a member: where to look for the others, if they have moved. */
    const char *addresses;
    uint32_t election_timeout_ms, heartbeat_ms;
    uint32_t suspect_after_ms, suspect_after_ms_max, dead_after_ms; /* hostctl.h */
    uint32_t loop_count, applier_count;
    uint64_t compact_log_bytes, snapshot_bytes_per_s;
    const struct thole_machine_type *const *types; /* beside the built-in ones */
    size_t type_count;
    /* The control plane (services_register, services_unregister), or NULL for both. */
    void (*services)(struct agent *a);
    void (*services_end)(struct agent *a);
    /* Once, on any thread: this host cannot go on (disk, removed, stale copy of a disk). The owner
     * should stop the process; agent_stop is not called from here. */
    void (*failed)(void *ctx, const struct thole_status *st);
    void *failed_ctx;
    /* Readable when the owner wants to stop: agent_new then ends a wait that it may be in with
     * CANCELLED. NULL: it waits. */
    const int *stop_fd;
    /* Tests: called at the named step of the bootstrap; false stops the bootstrap there as if the
     * process had died. */
    bool (*step)(void *ctx, const char *name);
    void *step_ctx;
};

/* Opens the data directory and everything on it, and starts it. Returns when the host runs; that it
 * is a member of a formed cluster is told by agent_ready. */
THOLE_MUST_CHECK enum thole_code agent_new(const struct agent_options *o, struct agent **ret,
                                           struct thole_status *st);
void agent_stop(struct agent *a); /* graceful; not from a callback of the agent's */
void agent_free(struct agent *a); /* after agent_stop; NULL is fine */
const char *agent_address(const struct agent *a);
const char *agent_name(const struct agent *a);
/* The id of a host as rows have it (registry_command.c). */
bool agent_parse_uuid(upb_StringView text, struct uuid *ret);
bool agent_cluster(struct agent *a, struct uuid *ret); /* false until formed */
uint64_t agent_incarnation(const struct agent *a);
/* Wait until agent_ready, or until `predicate` (looked at after every change of view, of a local
 * replica, or of the agent's own state) holds. False at the deadline. */
bool agent_wait(struct agent *a, uint64_t deadline_ns,
                bool (*predicate)(struct agent *a, void *ctx), void *ctx);

/* ---- Parts ----------------------------------------------------------------------------------- */

struct chores;
struct meeting;

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
    struct chores *chores;
    struct meeting *meeting;
    bool served;          /* services were registered */
    _Atomic bool leaving; /* requests of others are sent elsewhere */
    /* Damage was met in the state database: replicas may fail because of others' bytes. */
    _Atomic bool state_damaged;
    _Atomic bool opened; /* agent_new succeeds */
    /* Shard zero is forced here: it takes nothing before it knows (RepairZero). */
    _Atomic bool repairing;
    struct now_facts *facts;       /* confirmed.h */
    _Atomic uint64_t zero_lost_ns; /* when its leader was no longer known; 0: one is. confirmed.c */

    pthread_t bootstrap_thread;
    bool bootstrap_running;
    pthread_t renew_thread;
    bool renew_running; /* the chores' worker's, until it is stopped */

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

bool agent_stopping(struct agent *a);
/* What readiness is waiting for; "" for nothing. Logged when it changes. */
void agent_waiting_for(struct agent *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void agent_signal(struct agent *a); /* wakes agent_wait */
void agent_fail(struct agent *a, const struct thole_status *st);
/* Like a failure, but the data directory is in order: the owner should start it again. */
void agent_start_again(struct agent *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool agent_starts_again(struct agent *a);
/* What a host is told that was removed from its cluster: FAILED_PRECONDITION REMOVED. */
enum thole_code agent_removed(struct thole_status *st);
/* This host's row, as it reports itself: name, id, tags, address, incarnation, version, types. */
thole_v1_Host *agent_host_row(struct agent *a, upb_Arena *arena);
/* Encoded, in the arena. */
upb_StringView agent_lineage(const struct agent *a, upb_Arena *arena);
/* "k=v,k=v" */
/* What is wrong with a tag that a host is started with, "key=value"; NULL: nothing. */
const char *agent_tag_problem(struct slice tag);
THOLE_MUST_CHECK enum thole_code agent_check_tags(const char *const *tags, size_t count,
                                                  struct thole_status *st);
void agent_set_tags(thole_v1_HostSpec *spec, const char *tags, upb_Arena *arena);

/* Tell the bus where these hosts are. */
void agent_know_members(struct agent *a, const struct member_list *l);

/* agent_options.c */
THOLE_MUST_CHECK enum thole_code options_check(const struct agent_options *o,
                                               struct thole_status *st);
/* What was not given: as at the last start, or by what this machine is. */
void options_default_listen(struct agent *a);
/* Remember it, with the port that was really taken. */
THOLE_MUST_CHECK enum thole_code options_save_listen(struct agent *a, struct thole_status *st);

/* stores.c: open the log and the state database, which is made anew if it is damaged. */
THOLE_MUST_CHECK enum thole_code stores_open(struct agent *a, struct thole_status *st);
void stores_start_again(struct agent *a);

/* wiring.c */
struct engine_transport wiring_transport(struct agent *a);
struct engine_observer wiring_observer(struct agent *a);
struct bus_handler wiring_bus_handler(struct agent *a);
struct hostctl_upward wiring_upward(struct agent *a);
struct router_options wiring_router(struct agent *a);

/* reconciler.c: the agent's worker: bootstrap command, admission, addresses, joins, health. */
struct chores *chores_new(struct agent *a);
void chores_start(struct chores *c); /* wakes before this are remembered */
void chores_stop(struct chores *c);
void chores_free(struct chores *c);
void chores_wake(struct chores *c);
void chores_replica_changed(struct chores *c, uint64_t shard_id); /* any thread */
/* A command of shard zero, as it is proposed. */
struct bufslice chores_encode(thole_registry_v1_Command *c, const char *actor, upb_Arena *arena);
void chores_join(struct chores *c, struct bus_request *request); /* METHOD_JOIN */

/* confirmed.c: a replica here changed. Any thread. */
void agent_replica_changed(struct agent *a, const struct engine_replica_status *s);

/* health.c */
struct health;
struct health *health_new(struct agent *a);
void health_free(struct health *h);
void health_changed(struct health *h, uint64_t shard_id); /* its replica here; any thread */
/* On the chores' worker. Returns when it wants to be called again. */
uint64_t health_update(struct health *h, uint64_t now_ns);
void health_down(struct agent *a); /* before a drain: everything NOT_SERVING */

#endif
