/* What the control plane, the daemon and the public API use of the agent.
 *
 * The agent connects the parts of a host: bus <-> engine (transport), engine -> controllers
 * (observer), controllers -> router (commands), router -> engine or bus (routing).
 * See agent/README.md. */
#ifndef AGENT_CORE_AGENT_H
#define AGENT_CORE_AGENT_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"
#include "base/uuid.h"
#include "bus/bus.h"
#include "registry/registry.h"
#include "shards/engine/engine.h"
#include "thole/bus/v1/agent.upb.h"

struct agent;

/* thole.bus.v1.Method, without its prefix. */
enum {
    METHOD_PROPOSE = thole_bus_v1_METHOD_PROPOSE,
    METHOD_QUERY = thole_bus_v1_METHOD_QUERY,
    METHOD_WATCH = thole_bus_v1_METHOD_WATCH,
    METHOD_TRANSFER = thole_bus_v1_METHOD_TRANSFER,
    METHOD_JOIN = thole_bus_v1_METHOD_JOIN,
    METHOD_PEER_BOOTSTRAP = thole_bus_v1_METHOD_PEER_BOOTSTRAP,
    METHOD_INSPECT = thole_bus_v1_METHOD_INSPECT,
    METHOD_FORCE = thole_bus_v1_METHOD_FORCE,
    METHOD_SNAPSHOT = thole_bus_v1_METHOD_SNAPSHOT,
    METHOD_REACHES = thole_bus_v1_METHOD_REACHES,
    METHOD_ADDRESSES = thole_bus_v1_METHOD_ADDRESSES,
    METHOD_CALL = thole_bus_v1_METHOD_CALL,
    METHOD_ANSWER = thole_bus_v1_METHOD_ANSWER,
};

/* ---- Life ------------------------------------------------------------------------------------ */

enum agent_bootstrap {
    AGENT_BOOTSTRAP_NONE,  /* restart a member; a new data directory is refused */
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
    enum agent_bootstrap bootstrap; /* ignored if the data directory is a member's already */
    bool default_shard; /* DEV: the cluster is formed with the shard of etcd's clients */
    /* Comma separated. A member asks there, too, for hosts that have moved. */
    const char *addresses;
    uint32_t election_timeout_ms, heartbeat_ms;
    uint32_t suspect_after_ms, suspect_after_ms_max, dead_after_ms; /* hostctl.h */
    uint32_t loop_count, applier_count;
    uint64_t compact_log_bytes, snapshot_bytes_per_s;
    /* Certificates. NULL: connections are in plain text, and the addresses to listen on must be of
     * the loopback unless `insecure` says that others are meant. With it, this host's name is that
     * in its certificate. */
    const struct bus_tls_files *tls;
    bool insecure;
    bool reflection_for_all; /* with certificates: also for callers without one, and a token */
    const struct thole_machine_type *const *types; /* beside the built-in ones */
    size_t type_count;
    /* The control plane (services_register, services_unregister), or NULL for both. */
    void (*services)(struct agent *a);
    void (*services_end)(struct agent *a);
    /* Called once, on any thread: this host failed (disk, removed, stale copy of a disk). The owner
     * should stop the agent, but not from within this callback. */
    void (*failed)(void *ctx, const struct thole_status *st);
    void *failed_ctx;
    /* Readable when the owner wants to stop: a wait in agent_new then ends with CANCELLED. NULL:
     * such a wait cannot be cancelled. */
    const int *stop_fd;
    /* For tests: called at each named step of the bootstrap. False stops the bootstrap there, as if
     * the process had died. */
    bool (*step)(void *ctx, const char *name);
    void *step_ctx;
};

/* Open the data directory and start the host. Returns when the host runs; agent_is_ready says
 * whether it is a member of a formed cluster. */
THOLE_MUST_CHECK enum thole_code agent_new(const struct agent_options *o, struct agent **ret,
                                           struct thole_status *st);
void agent_stop(struct agent *a); /* graceful; not from a callback of the agent */
void agent_free(struct agent *a); /* after agent_stop; NULL is fine */
const char *agent_address(const struct agent *a);
struct bus_tls *agent_tls(const struct agent *a); /* NULL: plain text */
/* In plain text at an address that others reach? */
bool agent_exposed(const struct agent *a);
/* Can a host register this type? Its size, name and functions are checked. INVALID_ARGUMENT. */
THOLE_MUST_CHECK enum thole_code agent_check_machine_type(const struct thole_machine_type *type,
                                                          struct thole_status *st);
/* Is plain text allowed at this address? INVALID_ARGUMENT, with what to do. */
THOLE_MUST_CHECK enum thole_code agent_check_plain(const char *what, const char *address,
                                                   bool insecure, struct thole_status *st);
const char *agent_name(const struct agent *a);
bool agent_cluster(struct agent *a, struct uuid *ret); /* false until formed */
uint64_t agent_incarnation(const struct agent *a);
/* Wait until `predicate` holds, which is evaluated after each change of the view, of a local
 * replica or of the agent's state. False at the deadline. */
bool agent_wait(struct agent *a, uint64_t deadline_ns,
                bool (*predicate)(struct agent *a, void *ctx), void *ctx);
bool agent_is_stopping(struct agent *a);
void agent_signal(struct agent *a); /* wakes agent_wait */

/* ---- Parts ----------------------------------------------------------------------------------- */

struct registry *agent_registry(struct agent *a);
struct access *agent_access(struct agent *a); /* access.h: who may do what */
struct engine *agent_engine(struct agent *a);
struct bus *agent_bus(struct agent *a);
struct exports *agent_exports(struct agent *a); /* exports.h */
struct uploads *agent_uploads(struct agent *a); /* uploads.h */
struct answers *agent_answers(struct agent *a); /* answers.h */
const struct uuid *agent_host_id(const struct agent *a);
const char *agent_version(void);
/* Does this host know shard zero's leader, and does its view have a row for this host? */
bool agent_is_ready(struct agent *a, char *ret_reason, size_t reason_bytes);
/* False: this host's replica of shard zero has not applied anything yet, so a row that the view
 * lacks may exist. `st` (may be NULL) is then UNAVAILABLE NOT_READY. */
bool agent_has_view(struct agent *a, struct thole_status *st);

/* ---- The router: sends a request to a host that can answer it -------------------------------- */

enum router_kind {
    ROUTER_PROPOSE,
    ROUTER_OPEN_SESSION,
    ROUTER_CLOSE_SESSION,
    ROUTER_QUERY,
    ROUTER_TRANSFER,
};

/* The caller's memory; it must not be touched until `done`, which is called exactly once, on any
 * thread, and must not block. The router retries a proposal until the deadline, but only if it
 * certainly took no effect (NOT_LEADER, NO_LEADER, UNREACHABLE, DROPPED, ...). */
struct router_request {
    void *internal[8]; /* the router's */
    enum router_kind kind;
    uint64_t shard_id;
    /* The router takes over the reference; bytes without an owner must live until `done`. Given
     * back with NO_SUCH_SHARD (except for shard zero), to retry on another shard of that name. */
    struct bufslice payload;
    uint64_t session, sequence;
    struct slice request_id; /* of a proposal without a session; lives until `done` */
    bool streamed; /* a query that may be answered in pieces: give the request to answers_add */
    bool stale;
    uint32_t max_staleness_ms;
    uint32_t hops;           /* how often the request was forwarded before */
    uint64_t target_replica; /* TRANSFER; 0: the group chooses */
    uint32_t slot_plus_1;    /* a client's, with the name of a pool: see agent_find_shard */
    uint64_t deadline_ns;    /* monotonic; required */
    void (*done)(struct router_request *r);
    void *ctx;

    uint64_t index, code; /* OPEN_SESSION: `code` is the session; TRANSFER: `index` is the leader */
    uint64_t term; /* of the entry at `index`: of those who wait for each other it never falls */
    bool duplicate;
    bool forgotten;         /* a duplicate whose first answer is not remembered */
    bool here;              /* a replica of this host answered */
    struct bufslice result; /* the owner releases it */
    /* Streamed, with OK: what makes the answer, here or on another host (id 0: none). NULL and 0:
     * `result` is the whole answer. */
    struct engine_reader *reader;
    uint64_t answer_id;
    struct uuid answer_host;

    struct engine_request engine; /* the router's, while a local replica has the request */
    struct thole_status status;   /* of the result, too */
};
void agent_route(struct agent *a, struct router_request *r);

/* A command by `actor` at this time: see registry_command_new. */
thole_registry_v1_Command *agent_command_new(const char *actor, upb_Arena *arena);
/* A command for shard zero: ROUTER_PROPOSE on shard 0 with the result decoded. On refusal by the
 * registry `st` has its code, reason and message. `result` is borrowed. */
typedef void (*agent_command_fn)(void *ctx, const struct thole_status *st,
                                 const thole_registry_v1_Result *result);
void agent_command(struct agent *a, struct bufslice command, uint64_t deadline_ns,
                   agent_command_fn done, void *ctx);

/* INVALID_ARGUMENT: users change shard zero by commands of the control plane only. */
enum thole_code agent_refuse_zero(struct thole_status *st);

/* After `done` with OK, this host's view is at least as new as shard zero was when the call began:
 * a linearizable read of the registry is this barrier followed by registry_view_acquire. */
void agent_barrier(struct agent *a, uint64_t deadline_ns,
                   void (*done)(void *ctx, const struct thole_status *st), void *ctx);

/* Look up a shard's id in the local view, which may be behind, so try again after a barrier. With
 * `slot_plus_1`, 1 + the slot of a key (base/slot.h), `name` is a pool's; 0: the shard's name.
 * NOT_FOUND; INVALID_ARGUMENT: only with a key, or only without; UNAVAILABLE NOT_READY: the pool
 * has not created the shard yet. */
THOLE_MUST_CHECK enum thole_code agent_find_shard(struct agent *a, struct slice name,
                                                  uint32_t slot_plus_1, uint64_t *ret,
                                                  struct thole_status *st);
/* The same; if the view lacks the shard, again after a barrier. `done` may be called before this
 * returns. */
void agent_resolve(struct agent *a, struct slice name, uint32_t slot_plus_1, uint64_t deadline_ns,
                   void (*done)(void *ctx, const struct thole_status *st, uint64_t shard_id),
                   void *ctx);
/* The same, but always after a barrier: the id that the view had belongs to a deleted shard. */
void agent_resolve_anew(struct agent *a, struct slice name, uint32_t slot_plus_1,
                        uint64_t deadline_ns,
                        void (*done)(void *ctx, const struct thole_status *st, uint64_t shard_id),
                        void *ctx);

/* Watch a shard's machine events, on a local replica or on another host's. A bookmark has neither
 * key nor event. Returns an id, never 0. `ended` is the last callback and comes exactly once, on
 * the watches' thread: also after agent_unwatch (CANCELLED), and if the watch could not begin.
 * agent_unwatch may be called from a callback, and ignores an unknown id. */
struct agent_watcher {
    void *ctx;
    void (*event)(void *ctx, uint64_t index, struct slice key, struct slice event, bool bookmark);
    void (*ended)(void *ctx, const struct thole_status *st);
};
uint64_t agent_watch(struct agent *a, uint64_t shard_id, const struct agent_watcher *w);
void agent_unwatch(struct agent *a, uint64_t id);

/* ---- Services (agent/services/) -------------------------------------------------------------- */

/* Registers the control plane on the agent's bus; before bus_start. */
void services_register(struct agent *a);
/* METHOD_CALL of other hosts goes to `serve`, which answers it; before bus_start. */
void agent_serve_calls(struct agent *a, void (*serve)(void *ctx, struct bus_request *q), void *ctx);

#endif
