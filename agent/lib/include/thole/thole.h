/* libthole: a host of a Thole cluster inside your program, or a client of one.
 *
 * A *host* runs replicas of shards (your own machine types, see <thole/machine.h>, and the built-in
 * ones) and serves the same gRPC port as tholed, so that `thole` and any gRPC client work with it:
 *
 *     struct thole_options o = THOLE_OPTIONS_INIT;
 *     o.data_dir = "data";
 *     o.bootstrap = THOLE_BOOTSTRAP_DEV;
 *     thole_new(&o, &t, &st) -> thole_register(t, &my_type, &st) -> thole_start(t, &st)
 *     -> thole_wait_ready(t, 10000, &st) -> ... -> thole_close(t)
 *
 * A *client* has no data and no replicas: thole_connect("h1:7400,h2:7400", &t, &st). Calls for
 * hosts only are FAILED_PRECONDITION on a client.
 *
 * Errors: fallible functions return a code and fill `st` (may be NULL) only on failure.
 * UNAVAILABLE: certainly not applied; retry.  UNKNOWN / OUTCOME_UNKNOWN, DEADLINE_EXCEEDED: it may
 *   have been applied, or may still be; only a proposal with a request id or in a session can be
 *   retried safely.
 *   RESOURCE_EXHAUSTED / QUEUE_FULL: wait for completions, then retry.
 * libthole retries requests that certainly took no effect (no leader, host unreachable) until the
 * timeout.
 *
 * Threads: every function may be called from any thread, concurrently, unless it says otherwise;
 * thole_close must be the last call. Callbacks must not make blocking calls.
 * Callbacks: completions of thole_submit run on one thread per handle, in batches. A slow
 * completion delays the others, up to the in-flight limit, but must not block on this handle. Watch
 * callbacks run on other threads, one at a time per watch, and must be quick. Ownership: functions
 * copy strings and payloads before they return; the arguments of a callback are valid until it
 * returns. Limits: payload 1.5 MiB, result 3.25 MiB (thole_query_stream: none), THOLE_IN_FLIGHT_MAX
 * operations submitted and not completed. */
#ifndef THOLE_THOLE_H
#define THOLE_THOLE_H

#include <thole/machine.h>
#include <thole/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define THOLE_VERSION_MAJOR 0
#define THOLE_VERSION_MINOR 1
#define THOLE_VERSION_PATCH 0
#define THOLE_VERSION "0.1.0"
/* The version of the linked library: "0.1.0". */
THOLE_API const char *thole_version(void);

#define THOLE_IN_FLIGHT_MAX 65536
#define THOLE_KEY_BYTES_MAX 65536
#define THOLE_NAME_BYTES 129 /* names of hosts, shards, types, with their NUL */
#define THOLE_ID_BYTES 37    /* UUIDs as text, with their NUL */
#define THOLE_ADDRESS_BYTES 272

struct thole; /* a host or a client */

/* ---- Diagnostics: log lines of the whole process --------------------------------------------- */

enum thole_log_level {
    THOLE_LOG_ERROR = 0,
    THOLE_LOG_WARN = 1,
    THOLE_LOG_INFO = 2,
    THOLE_LOG_DEBUG = 3,
};
struct thole_log_line {
    uint32_t size;       /* of this struct; members may be added at its end */
    uint32_t level;      /* enum thole_log_level */
    uint64_t wall_ms;    /* since 1970 */
    const char *subject; /* "raft", "bus", "agent", ... */
    const char *message; /* text, with key=value */
    const char *host;    /* the host's name; NULL if unknown (lines of gRPC) */
    const char *thread;  /* the worker's name; NULL: not a worker of a host */
    uint64_t shard_id;   /* 0: none */
    uint64_t replica_id; /* 0: none */
    const char *shard;   /* the shard's name; NULL: unknown, or none */
};
/* Set the levels: "warn", or "info,raft=debug,bus=error". Default: info, to standard error.
 * INVALID_ARGUMENT. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_log_levels(const char *spec,
                                                            struct thole_status *st);
/* Send lines to `line` instead of standard error; NULL: to standard error again. Called on any
 * thread, one line at a time; must be quick and must not call libthole. */
THOLE_API void thole_log_to(void (*line)(void *ctx, const struct thole_log_line *line), void *ctx);

/* ---- Hosts ----------------------------------------------------------------------------------- */

enum thole_bootstrap {
    THOLE_BOOTSTRAP_NONE = 0,  /* restart a member; a new data directory is refused */
    THOLE_BOOTSTRAP_DEV = 1,   /* a cluster of this host alone; it can grow later */
    THOLE_BOOTSTRAP_PEERS = 2, /* a new cluster of `addresses`, this host among them */
    THOLE_BOOTSTRAP_JOIN = 3,  /* an existing cluster, through one of `addresses` */
};

/* Paths of PEM files. A host needs the first three: its certificate names it
 * (thole://CLUSTER/host/NAME, see `thole cert host`). A client needs `ca`; with `cert` and `key` it
 * is the user in its certificate. */
struct thole_tls {
    uint32_t size; /* of this struct */
    const char *cert, *key;
    const char *ca;        /* CAs that sign certificates of hosts */
    const char *client_ca; /* hosts: CAs that sign certificates of users; default: `ca` */
    /* Clients: a bearer token (`thole token create`), which is the user instead of a certificate.
     * Without `ca` it is sent in plain text, which is refused unless the hosts are this machine. */
    const char *token;
    const char *crl; /* certificates that these CAs revoked (CRLs); default: none */
};

/* 0 or NULL: the default. `size` lets the struct grow. */
struct thole_options {
    uint32_t size;        /* sizeof(struct thole_options) */
    uint32_t bootstrap;   /* enum thole_bootstrap; ignored on a member's data directory */
    const char *data_dir; /* required */
    /* HOST:PORT; port 0 picks one; default: as at the last start, or 127.0.0.1:7400. */
    const char *listen;
    const char *advertise;   /* where other hosts reach this one; default: the listen address */
    const char *name;        /* unique in the cluster; default: made from the new host's id */
    const char *addresses;   /* "a:7400,b:7400" */
    const char *const *tags; /* "key=value", NULL-terminated; only used when the host is new */
    uint32_t election_timeout_ms; /* 500 */
    uint32_t heartbeat_ms;        /* 100; at most a third of the election timeout */
    uint32_t loops, appliers;     /* threads; by cores */
    /* Called once, on any thread, when this host has failed (disk, removed from the cluster). It
     * should make another thread call thole_close. UNAVAILABLE STOPPED: then open the data
     * directory again, for example because the host got a new replica of shard zero. */
    void (*failed)(void *ctx, const struct thole_status *st);
    void *ctx;
    /* Used while this host leads shard zero. Another host is suspect after a silence between the
     * first two bounds (1000 and 10000), and its replicas are replaced after the third (30000). */
    uint32_t suspect_after_ms, suspect_after_ms_max, dead_after_ms;
    /* Limit of the rate of snapshots to other hosts; default: none. */
    uint64_t snapshot_bytes_per_s;
    /* 1: the process runs only this host. libthole then also changes the whole process: it returns
     * memory with malloc_trim when many shards become idle, and turns off the deadlock detection of
     * Debian's abseil, which costs time at each lock of gRPC. */
    uint32_t owns_process;
    /* 1: plain text is meant, also at a `listen` that other machines reach. */
    uint32_t insecure;
    /* PEM files, read again when they change: see struct thole_tls. NULL: plain text. */
    const struct thole_tls *tls;
    /* Called on a thread of its own when the host becomes ready (thole_wait_ready), ceases to be,
     * or waits for something else; `why` is "" when it is ready. It may block, but must not call
     * thole_close, which waits for it. */
    void (*ready)(void *ctx, bool ready, const char *why);
    /* A descriptor that is readable once the program wants to stop: a wait in thole_start then ends
     * with CANCELLED. 0: none. */
    int stop_fd;
    /* 1: a cluster that DEV forms has the shard "default" of type kv, which etcd's clients use. */
    uint32_t default_shard;
    /* 1: with certificates, server reflection (which methods there are) also answers callers that
     * show neither a certificate nor a token. */
    uint32_t reflection_for_all;
};
#ifdef __cplusplus
static inline thole_options thole_options_init()
{
    thole_options o = thole_options();
    o.size = (uint32_t)sizeof o;
    return o;
}
#define THOLE_OPTIONS_INIT thole_options_init()
#else
#define THOLE_OPTIONS_INIT                   \
    {                                        \
        .size = sizeof(struct thole_options) \
    }
#endif

/* Copy the options; opens nothing. INVALID_ARGUMENT. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_new(const struct thole_options *options,
                                                     struct thole **ret, struct thole_status *st);
/* Register a machine type, before thole_start; `type` must outlive the handle. kv, counter and noop
 * are built in. ALREADY_EXISTS, INVALID_ARGUMENT, FAILED_PRECONDITION (started, or a client). */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_register(struct thole *t,
                                                          const struct thole_machine_type *type,
                                                          struct thole_status *st);
/* Open the data directory and run. Returns when the host listens; thole_wait_ready waits until it
 * has joined or formed its cluster. FAILED_PRECONDITION (LOCKED, FORMAT, WRONG_CLUSTER,
 * WRONG_HOST), DATA_LOSS CORRUPT, UNAVAILABLE (ADDRESS_IN_USE, DISK). After a failure only
 * thole_close may be called. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_start(struct thole *t, struct thole_status *st);
/* Wait until this host is a member and knows the leader of shard zero (a client: until a host
 * answers). DEADLINE_EXCEEDED, with the reason. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_wait_ready(struct thole *t, uint32_t timeout_ms,
                                                            struct thole_status *st);
/* Stop gracefully and free: hand leaderships over (at most 3 s) and complete outstanding operations
 * (UNAVAILABLE STOPPED, or OUTCOME_UNKNOWN). Views and shards may be released later. Not from a
 * callback. NULL is fine. */
THOLE_API void thole_close(struct thole *t);
THOLE_API const char *thole_address(const struct thole *t); /* advertised; "" before thole_start */
THOLE_API const char *thole_host_name(const struct thole *t);

/* ---- Running a host as a service (hosts only, after thole_start) ----------------------------- */

struct thole_host_state {
    uint32_t size;         /* sizeof(struct thole_host_state), set by the caller */
    bool member;           /* of a cluster */
    bool registry;         /* its replica of shard zero runs */
    bool ready;            /* see thole_wait_ready */
    bool tls;              /* serves over TLS */
    bool exposed;          /* plain text, and others reach it: anybody may do anything */
    char waiting_for[200]; /* why it is not ready; "" */
    char id[THOLE_ID_BYTES];
    char cluster[THOLE_ID_BYTES]; /* "" until the cluster is formed */
    uint64_t incarnation;         /* counts the starts of the host */
};
/* FAILED_PRECONDITION: the host has not been started. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_host_state(struct thole *t,
                                                            struct thole_host_state *io,
                                                            struct thole_status *st);
/* Send a read through a loop and an applier of this host, as a watchdog may. `done` comes once, on
 * any thread, and must not block; DEADLINE_EXCEEDED means that the read did not get through.
 * UNAVAILABLE: the log's disk has not finished a write for an election timeout. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_probe(struct thole *t, uint32_t timeout_ms,
                                                       void (*done)(void *ctx,
                                                                    enum thole_code code),
                                                       void *ctx, struct thole_status *st);
/* The metrics of the process, and of the host, in Prometheus' text format: malloced, the caller
 * frees it. On a client as well, without those of a host. */
THOLE_API char *thole_metrics(struct thole *t);
/* Read the certificates again now, instead of in a few seconds. FAILED_PRECONDITION: plain text;
 * else as thole_start, and the old certificates stay in use. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_tls_reload(struct thole *t,
                                                            struct thole_status *st);
/* The certificate and the key in use, in PEM, for another server of this program: malloced, the
 * caller frees them. Returns a number that changes when they do; with `ret_cert` NULL only that. 0:
 * plain text. */
THOLE_API uint64_t thole_tls_pem(struct thole *t, char **ret_cert, char **ret_key);
/* May another server of this program listen in plain text at `address` (HOST:PORT)? Only on the
 * loopback, or with `insecure`. `what` names the option in the message. INVALID_ARGUMENT. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_check_plain(const char *what, const char *address,
                                                             bool insecure,
                                                             struct thole_status *st);

/* ---- Clients --------------------------------------------------------------------------------- */

/* Comma separated addresses of hosts. The client uses one host that answers, and sends proposals to
 * the shard's leader once an answer has named it, if the leader is in the list: so list all hosts.
 * Returns when a host has answered. UNAVAILABLE UNREACHABLE, INVALID_ARGUMENT. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_connect(const char *addresses, struct thole **ret,
                                                         struct thole_status *st);
/* The same over TLS; the hosts' certificates must be for the names or IP addresses in `addresses`.
 * Also UNAUTHENTICATED CERTIFICATE. NULL: plain text. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_connect_tls(const char *addresses,
                                                             const struct thole_tls *tls,
                                                             struct thole **ret,
                                                             struct thole_status *st);

/* ---- Declaring shards ------------------------------------------------------------------------ */

enum thole_operator {
    THOLE_IN = 1,
    THOLE_NOT_IN = 2,
    THOLE_EXISTS = 3,
    THOLE_NOT_EXISTS = 4,
};
struct thole_constraint {
    const char *key;           /* of the hosts' tags */
    uint32_t op;               /* enum thole_operator */
    const char *const *values; /* NULL-terminated; for IN and NOT_IN */
};
struct thole_shard_spec {
    uint32_t size; /* sizeof(struct thole_shard_spec) */
    const char *name;
    const char *type;          /* of the machine; cannot change */
    struct thole_slice config; /* for the machine; cannot change */
    uint32_t voters, non_voting;
    const struct thole_constraint *constraints;
    uint32_t constraint_count;
    const char *etag;       /* apply: only if the spec still has this etag */
    const char *request_id; /* idempotency: a retry gets the first answer */
    bool validate_only;
    /* A leader with a lease answers queries without a round to a quorum. Requires that the clocks
     * of two hosts differ in speed by at most 20%. Cannot change. */
    bool lease_reads;
};

/* ALREADY_EXISTS, INVALID_ARGUMENT, NOT_FOUND NO_SUCH_TYPE, ABORTED (etag). */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_shard_create(struct thole *t,
                                                              const struct thole_shard_spec *spec,
                                                              uint32_t timeout_ms,
                                                              struct thole_status *st);
/* Create the shard or change its spec. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_shard_apply(struct thole *t,
                                                             const struct thole_shard_spec *spec,
                                                             uint32_t timeout_ms,
                                                             struct thole_status *st);
/* Returns when the deletion is accepted; the data is deleted soon after. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_shard_delete(struct thole *t, const char *name,
                                                              uint32_t timeout_ms,
                                                              struct thole_status *st);
/* Wait until the shard has formed and every wanted replica runs. DEADLINE_EXCEEDED, with the
 * reason. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_shard_wait_ready(struct thole *t, const char *name,
                                                                  uint32_t timeout_ms,
                                                                  struct thole_status *st);
enum thole_role { THOLE_VOTER = 1, THOLE_NON_VOTING = 2 };
/* Create a replica besides those of placement, which leaves it alone; see CreateReplica. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_replica_create(struct thole *t, const char *shard,
                                                                const char *host, uint32_t role,
                                                                uint32_t timeout_ms,
                                                                uint64_t *ret_replica,
                                                                struct thole_status *st);
THOLE_API THOLE_MUST_CHECK enum thole_code thole_replica_delete(struct thole *t, uint64_t replica,
                                                                uint32_t timeout_ms,
                                                                struct thole_status *st);

/* ---- Operations on shards -------------------------------------------------------------------- */

/* A handle for operations on the shard of this name, or, if each operation has a key, on a pool
 * with keys. The shard need not exist: operations then fail with NOT_FOUND NO_SUCH_SHARD. Counted:
 * the caller has one reference. The handle of a pool takes 128 KiB from the first operation on. */
struct thole_shard;
THOLE_API THOLE_MUST_CHECK enum thole_code thole_shard_open(struct thole *t, const char *name,
                                                            struct thole_shard **ret,
                                                            struct thole_status *st);
/* A handle for operations without a key, watches and sessions on the shard of a pool that owns this
 * key, of 1 to THOLE_KEY_BYTES_MAX bytes. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_shard_open_key(struct thole *t, const char *pool,
                                                                struct thole_slice key,
                                                                struct thole_shard **ret,
                                                                struct thole_status *st);
/* One more reference, to be released. */
THOLE_API struct thole_shard *thole_shard_ref(struct thole_shard *s);
/* Operations that were submitted go on. Also after thole_close. NULL is fine. */
THOLE_API void thole_shard_release(struct thole_shard *s);

enum thole_op_kind {
    THOLE_PROPOSE = 1, /* complete when a majority has synced it and it was applied */
    THOLE_QUERY = 2,   /* linearizable, unless THOLE_STALE */
};
#define THOLE_STALE 1u /* query: from any replica, at most max_staleness_ms behind (0: no bound) */

struct thole_op {
    uint32_t kind;  /* enum thole_op_kind */
    uint32_t flags; /* THOLE_STALE */
    struct thole_shard *shard;
    struct thole_slice payload;
    uint64_t session, sequence; /* proposals, exactly once: see thole_session_open */
    uint32_t max_staleness_ms;
    uint32_t timeout_ms; /* 0: 5000 */
    void *user;
    /* In a pool with keys, the shard that owns the key's slot; at most THOLE_KEY_BYTES_MAX bytes.
     * size 0: no key. The machine does not see the key. */
    struct thole_slice key;
    /* Proposals without a session: at most 64 bytes that the caller chooses, unique in the shard.
     * A repeat within two minutes gets the first answer. That time stands still while the shard has
     * no leader. A shard remembers 262,144 ids; more are refused (RESOURCE_EXHAUSTED QUEUE_FULL,
     * certainly not applied). */
    struct thole_slice request_id;
};
struct thole_result {
    void *user;
    enum thole_code code;
    enum thole_reason reason;
    const char *message;     /* "" on success */
    uint64_t index;          /* proposal: of its entry; query: of the state that was read */
    uint64_t value;          /* proposal: the number that the machine returned */
    bool duplicate;          /* the answer of an earlier attempt ... */
    bool forgotten;          /* ... which is not remembered: `data` is empty */
    struct thole_slice data; /* the machine's result or answer */
};
/* Results in any order; one call may have results of several thole_submit. */
typedef void (*thole_results_fn)(void *ctx, const struct thole_result *results, size_t count);
/* Start all of `ops`, or none: RESOURCE_EXHAUSTED QUEUE_FULL, INVALID_ARGUMENT. Each accepted
 * operation completes exactly once, through `done`. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_submit(struct thole *t, const struct thole_op *ops,
                                                        size_t count, thole_results_fn done,
                                                        void *ctx, struct thole_status *st);
/* One operation, blocking. `ret` may be NULL. */
struct thole_answer {
    uint64_t index, value;
    bool duplicate, forgotten; /* as in struct thole_result */
    void *data;                /* malloced: the caller frees it */
    size_t size;
};
THOLE_API THOLE_MUST_CHECK enum thole_code thole_call(struct thole *t, const struct thole_op *op,
                                                      struct thole_answer *ret,
                                                      struct thole_status *st);

/* A query with an answer of any size, in pieces: `piece` gets them in order, on the caller's
 * thread, and sets the pace. All of them together are the answer, from one state of the machine;
 * *ret_index (may be NULL) is its index. Types that answer in one piece only give that, of at most
 * 3.25 MiB. `piece` returns false to stop: CANCELLED. It may block: up to 30 seconds, or the answer
 * ends with ABORTED; after 10 minutes DEADLINE_EXCEEDED. UNAVAILABLE: the replica that was read
 * went away; ask again from the beginning. RESOURCE_EXHAUSTED QUEUE_FULL: a host serves 64 answers
 * at a time. `op` is a THOLE_QUERY; its timeout is that of the beginning. */
typedef bool (*thole_piece_fn)(void *ctx, struct thole_slice piece);
THOLE_API THOLE_MUST_CHECK enum thole_code thole_query_stream(struct thole *t,
                                                              const struct thole_op *op,
                                                              thole_piece_fn piece, void *ctx,
                                                              uint64_t *ret_index,
                                                              struct thole_status *st);

/* A session makes proposals exactly-once: (session, sequence) is applied at most once, and a retry
 * gets the first answer. Sequences count from 1, and at most 64 of them are outstanding. A shard
 * remembers 4096 sessions, then forgets the least recently used (FAILED_PRECONDITION
 * SESSION_EXPIRED). */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_session_open(struct thole *t,
                                                              struct thole_shard *shard,
                                                              uint32_t timeout_ms, uint64_t *ret,
                                                              struct thole_status *st);

/* Forget a session and its answers. OK if it is not open (any more). */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_session_close(struct thole *t,
                                                               struct thole_shard *shard,
                                                               uint64_t session,
                                                               uint32_t timeout_ms,
                                                               struct thole_status *st);

/* Events that a shard's machine reports from now on. The first one is a bookmark: no event after
 * its index is missed; more bookmarks follow every few seconds. `ended` is the last callback, and
 * comes once: CANCELLED (thole_unwatch), UNAVAILABLE (watch again), NOT_FOUND. */
struct thole_watcher {
    void *ctx;
    void (*event)(void *ctx, uint64_t index, struct thole_slice key, struct thole_slice event,
                  bool bookmark);
    void (*ended)(void *ctx, const struct thole_status *st);
};
THOLE_API THOLE_MUST_CHECK enum thole_code thole_watch(struct thole *t, struct thole_shard *shard,
                                                       const struct thole_watcher *watcher,
                                                       uint64_t *ret_id, struct thole_status *st);
/* `ended` follows, possibly before this returns. An unknown id is ignored. */
THOLE_API void thole_unwatch(struct thole *t, uint64_t id);

/* Work that belongs where a shard leads (hosts only). `start` is called when this host's replica
 * leads and a majority has just confirmed it; `stop` when it does not lead any more, or when nobody
 * confirmed it for 80% of an election timeout (with lease_reads: after the lease has ended, too).
 * Another replica may lead before `stop` is called or has returned, so for a moment the work may
 * run twice: let it put `term` into what it writes, and refuse lower terms there. Terms of a shard
 * only grow. The machine sees the term of each entry, too.
 *
 * Both run on one thread for each registration, in turn, `start` first. `start` should return soon
 * (start a thread). `stop` returns once the work has ended, and is called as often as `start`. Both
 * may block and may use the handle, but must not call thole_off_lead or thole_close. A registration
 * costs a read round four times in an election timeout while this host leads, and keeps the shard
 * awake. */
struct thole_leader_work {
    uint32_t size; /* sizeof(struct thole_leader_work) */
    void *ctx;
    void (*start)(void *ctx, uint64_t term);
    void (*stop)(void *ctx, uint64_t term);
};
/* `shard` may be released afterwards. FAILED_PRECONDITION: not a started host. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_on_lead(struct thole *t, struct thole_shard *shard,
                                                         const struct thole_leader_work *work,
                                                         uint64_t *ret_id, struct thole_status *st);
/* Ends the registration, after `stop` if the work runs; thole_close does it for all of them, before
 * it hands leaderships over. An unknown id is ignored. */
THOLE_API void thole_off_lead(struct thole *t, uint64_t id);

/* ---- The control plane ----------------------------------------------------------------------- */

/* Every method of the services of thole.v1 (docs/specs.md; `grpcurl` lists them), by its name:
 * "Pools/UpdatePool", "Shards/TransferLeader", "Operations/DrainHost", "Hosts/UpdateHost",
 * "Cluster/Watch". A request and its answers are messages of that method, in the encoding of the
 * call. A host calls itself over its own port, a client one of its hosts: rights, limits and errors
 * are those of any caller. */
enum thole_encoding {
    THOLE_JSON = 1,     /* canonical proto3 JSON; an empty request is "{}" */
    THOLE_PROTOBUF = 2, /* bytes */
};
/* One answer, blocking. `ret` (may be NULL): `data`, with a zero byte behind it, and `size`.
 * INVALID_ARGUMENT: no such method, or no such message; else the method's errors. UNKNOWN and
 * DEADLINE_EXCEEDED: it may have taken effect; a `request_id` in the request makes a retry safe. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_control(
    struct thole *t, const char *method, uint32_t encoding, struct thole_slice request,
    uint32_t timeout_ms, struct thole_answer *ret, struct thole_status *st);
/* A method that answers with a stream, such as "Cluster/Watch" (rows of hosts, shards with their
 * leaders, operations, and events, as they change) or "Events/Watch". */
struct thole_stream;
THOLE_API THOLE_MUST_CHECK enum thole_code thole_stream_open(struct thole *t, const char *method,
                                                             uint32_t encoding,
                                                             struct thole_slice request,
                                                             struct thole_stream **ret,
                                                             struct thole_status *st);
/* The next answer, blocking; one thread at a time. DEADLINE_EXCEEDED: none came yet, call again.
 * OUT_OF_RANGE NONE: the regular end. Other errors are the method's, and end the stream. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_stream_next(struct thole_stream *s,
                                                             uint32_t timeout_ms,
                                                             struct thole_answer *ret,
                                                             struct thole_status *st);
/* Before thole_close. NULL is fine. */
THOLE_API void thole_stream_close(struct thole_stream *s);

/* ---- Snapshots of shards, out and in --------------------------------------------------------- */

/* The bytes of a snapshot file, as `thole snapshot save` writes it, in pieces: the shard's state at
 * some point at or after the call, or with THOLE_STALE what one replica has applied, even without a
 * quorum. "zero" is the registry. `piece` gets them in order, on the caller's thread, and sets the
 * pace, but may block for less than 30 seconds; it returns false to stop: CANCELLED. With THOLE_OK
 * the pieces are a whole snapshot, whose checksums are right, and *ret_index (may be NULL) is the
 * last log entry in it. Otherwise what was written is of no use. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_snapshot_save(struct thole *t, const char *shard,
                                                               uint32_t flags, thole_piece_fn piece,
                                                               void *ctx, uint64_t *ret_index,
                                                               struct thole_status *st);
/* Returns the number of bytes read, at most `size`; 0: the end; -1: stop (CANCELLED). May block for
 * less than a minute. */
typedef int64_t (*thole_read_fn)(void *ctx, void *data, size_t size);
/* Send the bytes of a snapshot file to a host, and create the shard `name` from it there; placement
 * adds the other replicas. `spec` (may be NULL) replaces the one in the file; type and config must
 * be the same. Returns when the restore has begun: see thole_shard_wait_ready. The timeout is for
 * each piece of 1 MiB. DATA_LOSS CORRUPT: damaged or cut; ALREADY_EXISTS: nothing is overwritten;
 * NOT_FOUND: the host was restarted, or lost what was sent: begin again. */
THOLE_API THOLE_MUST_CHECK enum thole_code thole_snapshot_restore(
    struct thole *t, const char *name, const struct thole_shard_spec *spec, thole_read_fn read,
    void *ctx, uint32_t timeout_ms, struct thole_status *st);

/* ---- The registry as this host sees it (hosts only) ------------------------------------------ */

/* An immutable view of the registry. After thole_close it is empty, and must still be released: one
 * thread uses a view and closes its handle. A linearizable view is at least
 * as new as shard zero was when the call began (UNAVAILABLE, DEADLINE_EXCEEDED); otherwise it is
 * this host's current view. */
struct thole_view;
THOLE_API THOLE_MUST_CHECK enum thole_code thole_view_acquire(struct thole *t, bool linearizable,
                                                              uint32_t timeout_ms,
                                                              struct thole_view **ret,
                                                              struct thole_status *st);
THOLE_API void thole_view_release(struct thole_view *v);
THOLE_API uint64_t thole_view_revision(const struct thole_view *v);

enum thole_liveness { THOLE_LIVE = 1, THOLE_SUSPECT = 2, THOLE_DEAD = 3 };
struct thole_host_info {
    uint32_t size; /* sizeof(struct thole_host_info), set by the caller */
    char name[THOLE_NAME_BYTES], id[THOLE_ID_BYTES], address[THOLE_ADDRESS_BYTES];
    uint32_t state;    /* 1 active, 2 cordoned, 3 draining, 4 removed */
    uint32_t liveness; /* enum thole_liveness, 0 unknown */
    uint64_t incarnation, revision;
};
struct thole_shard_info {
    uint32_t size;
    char name[THOLE_NAME_BYTES], type[THOLE_NAME_BYTES], leader_host[THOLE_NAME_BYTES];
    uint64_t id, leader_replica, leader_term; /* leader: the last one reported */
    uint32_t voters, non_voting;
    bool formed, ready, deleting;
    bool has_slots; /* the shard is of a pool with keys, and owns these slots */
    uint64_t generation, revision;
    char pool[THOLE_NAME_BYTES]; /* "": of none */
    uint32_t slot_first, slot_last;
};
struct thole_replica_info {
    uint32_t size;
    uint64_t id, shard_id;
    char shard[THOLE_NAME_BYTES], host[THOLE_NAME_BYTES];
    uint32_t role; /* enum thole_role */
    uint32_t
        phase; /* 1 joining, 2 catching up, 3 running, 4 out, 5 gone, 6 failed; 0 not reported */
    bool removing; /* being removed */
    bool user;     /* created by thole_replica_create */
    uint64_t revision;
};
/* Iterate: zero the struct except `size` before the first call, then pass the same struct again;
 * false at the end. Hosts and shards are ordered by name, replicas by id. */
THOLE_API bool thole_view_next_host(const struct thole_view *v, struct thole_host_info *io);
THOLE_API bool thole_view_next_shard(const struct thole_view *v, struct thole_shard_info *io);
THOLE_API bool thole_view_next_replica(const struct thole_view *v, struct thole_replica_info *io);
/* By name; false: not found. */
THOLE_API bool thole_view_shard(const struct thole_view *v, const char *name,
                                struct thole_shard_info *ret);
THOLE_API bool thole_view_host(const struct thole_view *v, const char *name,
                               struct thole_host_info *ret);

#ifdef __cplusplus
}
#endif
#endif
