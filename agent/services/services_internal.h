/* Declarations that the files of the control plane share: the call, its answer, pages, checks. */
#ifndef AGENT_SERVICES_SERVICES_INTERNAL_H
#define AGENT_SERVICES_SERVICES_INTERNAL_H

#include <pthread.h>
#include <upb/upb.h>

#include "agent/access/access.h"
#include "agent/core/agent.h"
#include "agent/core/availability.h"
#include "base/limits.h"
#include "base/text.h"
#include "base/worker.h"
#include "registry/validate.h"
#include "thole/registry/v1/registry.upb.h"
#include "thole/v1/access.upb.h"
#include "thole/v1/control.upb.h"
#include "thole/v1/data.upb.h"
#include "thole/v1/diagnostics.upb.h"
#include "thole/v1/snapshots.upb.h"

#define SERVICES_DEADLINE_DEFAULT_MS 10000
#define SERVICES_DEADLINE_MAX_MS 30000
/* The retry delay in errors. */
#define SERVICES_RETRY_UNAVAILABLE_MS 200
#define SERVICES_RETRY_BUSY_MS 50

struct data_call;
struct cluster_watch;

/* One per agent. */
struct services {
    struct agent *agent;
    struct executor *executor;
    struct worker *worker; /* owns the cluster watches */
    struct services *next; /* link in the list of all, see services.c */

    /* Cluster.Watch: only touched on the worker. */
    struct cluster_watch *watches;
    _Atomic bool change_posted;
    struct worker_msg change;
    uint64_t look_ns; /* the next check of availability */

    _Atomic uint64_t kv_shard_plus_1;  /* a shard of type kv that etcd's clients used; 0: none */
    struct etcd_watches *etcd_watches; /* etcd_watch.h */
    struct etcd_logins *etcd_logins;   /* etcd_auth.c */

    /* A pool of unused data calls. */
    pthread_mutex_t pool_mutex;
    struct data_call *pool;
    size_t pool_count;
};

/* ---- Calls (call.c) -------------------------------------------------------------------------- */

/* One unary call, from its request to its answer. The call and all that it decodes and builds live
 * in its own arena. One thread handles it at a time. */
struct call;
struct call_memory;
typedef void (*call_fn)(struct call *c);

struct unary {
    const char *path;
    const upb_MiniTable *request;
    call_fn run;
    /* The name that the right must be for; NULL: it must be for all names, or is for none. */
    upb_StringView (*name)(const struct call *c);
    bool of_host; /* about one host, which other hosts may ask for it */
};

struct call {
    struct services *s;
    const struct unary *unary;
    struct bus_rpc *rpc;      /* NULL: another host called */
    struct bus_request *peer; /* that call */
    upb_Arena *arena;
    struct call_memory *memory; /* allocated in the arena */
    const void *request;        /* see unary.request; strings belong to the arena */
    uint64_t deadline_ns;
    /* The object of the request, for ErrorInfo: NAME, VALUE, NULL. */
    const char *metadata[3];
    const char *right; /* the right that the user lacks, for ErrorInfo; NULL: none */

    call_fn next; /* after the barrier */
    /* Called before a command is answered, with the revision of its effect; 0: refused, or the
     * outcome is unknown. */
    void (*settled)(struct call *c, uint64_t revision);
    const upb_MiniTable *row; /* the kind of row that answers a command; NULL: an empty message */
    /* Answers a command that succeeded, in place of its row. */
    void (*answer)(struct call *c, const thole_registry_v1_Result *result);
    upb_StringView secret;      /* CreateToken */
    struct registry_view *view; /* released with the call */
    /* The revision of the view by which c->next checked the command. If that was too old, c->next
     * runs again. 0: no check. */
    uint64_t decided_at;
    upb_StringView from; /* TransferLeader: the host that led */
    struct router_request route;
};

/* bus_method.handle of every unary method; its ctx is a struct unary_binding. */
struct unary_binding {
    struct services *s;
    const struct unary *unary;
};
void services__call_handle(void *ctx, struct bus_rpc *rpc, struct slice message);
/* A call of another host about this one, which its user may make: answers at once. */
void services__call_of_peer(struct services *s, const struct unary *unary, struct bus_request *q,
                            struct slice message);
/* Runs `here` if `name` is this host, or empty; else asks the host of that name. */
void services__call_on_host(struct call *c, upb_StringView name, call_fn here);
/* The method with that path that other hosts may call; NULL: none. (services.c) */
const struct unary *services__method_of_host(struct slice path);
void services__serve_peer(void *ctx, struct bus_request *q);

/* Name the call's object in errors, unless it is longer than any name. `value` is copied. */
void services__call_about(struct call *c, const char *name, upb_StringView value);

/* Each of these ends the call and frees it. */
void services__call_reply(struct call *c, const void *message, const upb_MiniTable *kind);
void services__call_reply_bytes(struct call *c, struct bytes *bytes);
void services__call_fail(struct call *c, const struct thole_status *st);
/* The same; `field` is the field of the request that caused the failure, NULL: none. */
void services__call_fail_field(struct call *c, const struct thole_status *st, const char *field);
/* INVALID_ARGUMENT BAD_REQUEST: "FIELD: why". */
void services__call_refuse(struct call *c, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Runs `next` with c->view set: this host's own view, or after a barrier. */
void services__call_read(struct call *c, bool stale, call_fn next);
/* A command of the call's user, with the address and the method for its events. Each command of
 * the services begins here. */
thole_registry_v1_Command *services__command_new(const struct bus_rpc *rpc, const char *path,
                                                 upb_Arena *arena);
/* Proposes one operation as the user; answers with the row of kind `row` in the result. */
thole_registry_v1_Operation *services__call_operation(struct call *c);
void services__call_command(struct call *c, thole_registry_v1_Operation *op,
                            upb_StringView request_id, bool validate_only,
                            const upb_MiniTable *row);
/* Was a command with this id answered before? Then a retry gets the same answer, whatever the rows
 * of c->view allow now. */
bool services__call_answered(const struct call *c, upb_StringView request_id);

/* Fail a call of any kind, with metadata and the retry delay of the code. */
void services__fail(struct bus_rpc *rpc, const struct thole_status *st,
                    const char *const *metadata);
/* For clients, UNREACHABLE becomes PEER_UNREACHABLE: this host answers, another one does not. */
struct thole_status services__of_peer(const struct thole_status *st);
uint64_t services__deadline(struct bus_rpc *rpc);
/* The refusal of a call for which bus_rpc_hold has no room. */
enum thole_code services__no_room(struct thole_status *st);
/* Decode the request of a stream. NULL: malformed, and the stream was failed. */
const void *services__decode(struct bus_rpc *rpc, const upb_MiniTable *kind, struct slice message,
                             upb_Arena *arena);
struct bufslice services__encode(const void *message, const upb_MiniTable *kind, upb_Arena *arena);

/* ---- Rights (call_access.c) ------------------------------------------------------------------ */

/* Each refuses the call, or fails the stream, and returns false if the user lacks the right. On the
 * bus's thread, before anything is waited for. */
bool services__call_is_allowed(struct call *c); /* checks the rule of its method */
bool services__call_may(struct call *c, int32_t verb, uint32_t kinds, upb_StringView name);
/* `*allow_missing` becomes false if the row exists and the user may not create it. */
bool services__call_may_create(struct call *c, uint32_t kinds, upb_StringView name,
                               bool (*exists)(const struct registry_view *v, struct slice name),
                               bool *allow_missing);
bool services__stream_is_allowed(struct services *s, struct bus_rpc *rpc, const char *path,
                                 const struct access_right *right);
/* The names in requests, for the table of methods. */
upb_StringView services__name_of_GetHost(const struct call *c);
upb_StringView services__name_of_DeleteHost(const struct call *c);
upb_StringView services__name_of_GetShard(const struct call *c);
upb_StringView services__name_of_DeleteShard(const struct call *c);
upb_StringView services__name_of_TransferLeader(const struct call *c);
upb_StringView services__name_of_GetPool(const struct call *c);
upb_StringView services__name_of_DeletePool(const struct call *c);
upb_StringView services__name_of_GetRole(const struct call *c);
upb_StringView services__name_of_DeleteRole(const struct call *c);
upb_StringView services__name_of_CreateToken(const struct call *c);
upb_StringView services__name_of_CreateReplica(const struct call *c);
upb_StringView services__name_of_DrainHost(const struct call *c);
upb_StringView services__name_of_UndrainHost(const struct call *c);
upb_StringView services__name_of_CordonHost(const struct call *c);
upb_StringView services__name_of_UncordonHost(const struct call *c);
upb_StringView services__name_of_DecommissionHost(const struct call *c);
upb_StringView services__name_of_MoveShard(const struct call *c);
upb_StringView services__name_of_RestoreSnapshot(const struct call *c);
upb_StringView services__name_of_PlanRepair(const struct call *c);
upb_StringView services__name_of_RunRepair(const struct call *c);
upb_StringView services__name_of_UpdateHost(const struct call *c);
upb_StringView services__name_of_CreateShard(const struct call *c);
upb_StringView services__name_of_UpdateShard(const struct call *c);
upb_StringView services__name_of_CreatePool(const struct call *c);
upb_StringView services__name_of_UpdatePool(const struct call *c);
upb_StringView services__name_of_CreateRole(const struct call *c);
upb_StringView services__name_of_UpdateRole(const struct call *c);
upb_StringView services__name_of_DeleteReplica(const struct call *c);
upb_StringView services__name_of_RevokeToken(const struct call *c);
struct data_call;
THOLE_MUST_CHECK enum thole_code services__data_allowed(struct data_call *d,
                                                        struct thole_status *st);

/* ---- Availability in rows (conditions.c) ----------------------------------------------------- */

#define CONDITIONS_NOT_READY 1u
#define CONDITIONS_DEGRADED 2u
#define CONDITIONS_PAUSED 4u
/* The conditions in the row that do not hold now. */
uint32_t services__conditions_differ(const struct availability_check *check,
                                     const thole_v1_Shard *row, struct shard_availability *ret);
/* The row, or a copy with the current conditions. */
const thole_v1_Shard *services__conditions_now(const struct availability_check *check,
                                               const thole_v1_Shard *row, upb_Arena *arena);
/* Likewise, with the current number of ready shards. */
const thole_v1_ShardPool *services__pool_now(const struct availability_check *check,
                                             const thole_v1_ShardPool *row, upb_Arena *arena,
                                             uint32_t *ret_unready);
uint64_t services__pool_key(const thole_v1_ShardPool *row);
/* Call `changed` for each row that differs now from what was `sent`: the conditions that differed,
 * by shard id, or the number of unready shards, by services__pool_key. False: no row differs. */
struct map;
bool services__conditions_changed(const struct availability_check *check, const struct map *sent,
                                  void (*changed)(void *ctx, const thole_v1_Shard *row), void *ctx);
bool services__pools_changed(const struct availability_check *check, const struct map *sent,
                             void (*changed)(void *ctx, const thole_v1_ShardPool *row), void *ctx);
/* A copy with the current liveness and the number of replicas that use the host's capacity. */
const thole_v1_Host *services__host_now(const struct availability_check *check,
                                        const thole_v1_Host *row, upb_Arena *arena);
/* Note in `sent` what a copy of the row says now; services__hosts_changed compares with that. */
void services__host_sent(const struct availability_check *check, const thole_v1_Host *row,
                         struct map *sent);
bool services__hosts_changed(const struct availability_check *check, const struct map *sent,
                             void (*changed)(void *ctx, const thole_v1_Host *row), void *ctx);

/* ---- Pages (page.c) -------------------------------------------------------------------------- */

#define PAGE_SIZE_DEFAULT 100
#define PAGE_SIZE_MAX 1000
/* Limit of a page's bytes: answers stay below the limit of gRPC clients. */
#define PAGE_BYTES_MAX (2 * MIB)

enum page_kind {
    PAGE_HOSTS = 'h',
    PAGE_SHARDS = 's',
    PAGE_REPLICAS = 'r',
    PAGE_EVENTS = 'e',
    PAGE_POOLS = 'p',
    PAGE_OPERATIONS = 'o',
    PAGE_ROLES = 'a',
    PAGE_TOKENS = 't'
};

/* Every List answer has the same shape: rows = 1, next_page_token = 2, revision = 3. */
struct page {
    uint32_t rows_left;
    struct bytes out;
};
/* Without padding; decode: false if the text is none, and `out` may have a part of it. */
void services__base64url_encode(struct slice raw, struct bytes *out);
bool services__base64url_decode(struct slice text, struct bytes *out);
/* Opaque: kind and last key, in base64url. */
void services__page_token_encode(enum page_kind kind, struct slice key, struct bytes *out);
/* False: not a token of this kind. `ret_key` is released by bytes_deinit. */
bool services__page_token_decode(enum page_kind kind, struct slice token, struct bytes *ret_key);
uint32_t services__page_size_effective(int32_t size); /* the size is not negative */
/* Refuses the call and returns false if page_size or page_token is bad. An absent token gives an
 * empty key. */
bool services__page_begin(struct page *p, struct call *c, enum page_kind kind, int32_t size,
                          upb_StringView token, struct bytes *ret_key);
/* False when the page is full: `row` was not added. */
bool services__page_add(struct page *p, struct call *c, const void *row, const upb_MiniTable *kind);
/* Answers; `last_key` NULL: there are no more pages. Releases the page. */
void services__page_reply(struct page *p, struct call *c, enum page_kind kind,
                          const struct slice *last_key);

/* Protobuf wire format by hand, where upb would copy the message once more. */
void services__wire_bytes(struct bytes *out, uint32_t field, struct slice value);
void services__wire_varint(struct bytes *out, uint32_t field, uint64_t value);
/* Bytes that are written into the buffer that is sent, which saves a copy. `capacity` suffices for
 * all of them. */
struct buf *services__builder_begin(struct bytes *out, size_t capacity);
struct bufslice services__builder_end(struct buf *b, const struct bytes *out);

/* ---- Checks (request_check.c) ---------------------------------------------------------------- */

/* A resource's name without its collection: "shards/orders" and "orders" are both orders. */
upb_StringView services__name_strip(upb_StringView name, const char *collection);
/* The name of a shard, which need not exist. */
bool services__name_of_shard(upb_StringView given, char ret[static LIMIT_NAME_BYTES + 1],
                             struct thole_status *st);
/* The same for thole.v1.Data, which does not serve shard zero. */
bool services__name_of_data_shard(upb_StringView given, char ret[static LIMIT_NAME_BYTES + 1],
                                  struct thole_status *st);
/* Refuses the call and returns false if the name is not valid. */
bool services__call_name(struct call *c, const char *field, upb_StringView name);
bool services__call_request_id(struct call *c, upb_StringView id);
/* Refuses the call for what registry/validate.h found. */
bool services__call_checked(struct call *c, bool ok, const struct registry_violation *v);

/* ---- The services ---------------------------------------------------------------------------- */

void services__hosts_get(struct call *c);
void services__hosts_list(struct call *c);
void services__hosts_update(struct call *c);
void services__hosts_delete(struct call *c);
void services__shards_get(struct call *c);
void services__shards_list(struct call *c);
void services__shards_create(struct call *c);
void services__shards_update(struct call *c);
void services__shards_delete(struct call *c);
void services__shards_transfer(struct call *c);
void services__pools_get(struct call *c);
void services__pools_list(struct call *c);
void services__pools_create(struct call *c);
void services__pools_update(struct call *c);
void services__pools_delete(struct call *c);
void services__operations_get(struct call *c);
void services__operations_list(struct call *c);
void services__operations_cancel(struct call *c);
void services__operations_drain(struct call *c);
void services__operations_undrain(struct call *c);
void services__operations_cordon(struct call *c);
void services__operations_uncordon(struct call *c);
void services__operations_decommission(struct call *c);
void services__operations_move(struct call *c);
void services__operations_rebalance(struct call *c);
/* Record a transfer of leadership as an ended operation, without waiting for the outcome. */
void services__operations_record_transfer(struct call *c, upb_StringView shard, upb_StringView to,
                                          const char *failure);
void services__operations_pause(struct call *c);
void services__operations_resume(struct call *c);
void services__roles_get(struct call *c);
void services__roles_list(struct call *c);
void services__roles_create(struct call *c);
void services__roles_update(struct call *c);
void services__roles_delete(struct call *c);
void services__tokens_create(struct call *c);
void services__tokens_list(struct call *c);
void services__tokens_revoke(struct call *c);
void services__replicas_list(struct call *c);
void services__replicas_create(struct call *c);
void services__replicas_delete(struct call *c);
void services__events_list(struct call *c);
bool services__events_is_about(const thole_v1_Event *event, upb_StringView object);
/* False: events after that revision were dropped, as `st` says. EVENTS_OLDEST in the error's
 * metadata is the revision of the oldest kept event. */
#define EVENTS_OLDEST "oldest_revision"
#define EVENTS_OLDEST_BYTES 24
bool services__events_all_kept(const struct registry_view *v, uint64_t after,
                               struct thole_status *st,
                               char ret_oldest[static EVENTS_OLDEST_BYTES]);
void services__cluster_status(struct call *c);
thole_v1_StatusResponse *services__status(struct call *c); /* of this host */
void services__log_levels_get(struct call *c);
void services__log_levels_set(struct call *c);
void services__host_report(struct call *c);
upb_StringView services__name_of_GetLogLevels(const struct call *c);
upb_StringView services__name_of_SetLogLevels(const struct call *c);
upb_StringView services__name_of_GetHostReport(const struct call *c);
void services__snapshots_upload(struct call *c);
void services__snapshots_restore(struct call *c);
void services__repair_plan(struct call *c);
void services__repair_run(struct call *c);

/* Cluster.Watch, Events.WatchEvents, Operations.WatchOperation (cluster_watch.c). */
void services__cluster_watch_handle(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__events_watch_handle(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__operation_watch_handle(void *ctx, struct bus_rpc *rpc, struct slice message);
uint64_t services__cluster_watch_turn(void *ctx, struct msgq *batch, uint64_t now_ns);
void services__cluster_watch_changed(void *ctx, uint64_t revision);

void services__snapshots_save(void *ctx, struct bus_rpc *rpc,
                              struct slice message); /* snapshots_save.c */

/* Data (data_service.c, data_watch.c, data_stream.c). */

/* 1 + the slot of a request's key; 0: it has none. INVALID_ARGUMENT TOO_LARGE. */
THOLE_MUST_CHECK enum thole_code services__data_read_key(upb_StringView key, uint32_t *ret,
                                                         struct thole_status *st);

/* A proposal, query or new session in flight; pooled. */
struct data_call {
    struct services *s;
    struct bus_rpc *rpc;
    struct data_stream *stream; /* NULL: unary */
    uint64_t stream_id;
    size_t held;            /* bytes of the payload that a stream holds: see bus_rpc_hold */
    struct data_call *next; /* link in the pool */
    bool text;              /* the request was text, so the answer is, too */
    bool searched;          /* the name was resolved again, after a barrier */
    const char *field;      /* the field of the request to blame; NULL: none */
    char *right;            /* the right that the user lacks, for ErrorInfo; NULL: none */
    char shard[LIMIT_NAME_BYTES + 1];
    struct router_request route;
    uint8_t copied[128]; /* space for a small payload */
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
};
struct data_call *services__data_call_new(struct services *s, struct bus_rpc *rpc);
void services__data_call_free(struct data_call *d);
void services__data_pool_deinit(struct services *s);
/* Reads the request into the call; false with `st` filled if it is not valid. */
bool services__data_read_propose(struct data_call *d, const thole_v1_ProposeRequest *q,
                                 struct thole_status *st);
/* Route the call to its shard. */
void services__data_send(struct data_call *d);
/* The answer as a ProposeResponse. */
struct bufslice services__data_propose_response(const struct data_call *d);
void services__data_propose_response_append(const struct data_call *d, struct bytes *out);

void services__data_propose(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__data_query(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__data_query_stream(void *ctx, struct bus_rpc *rpc, struct slice message);
/* The call of a QueryStream: as data_query, once its state is set up (data_answer.c). */
void services__data_query_begin(struct services *s, struct bus_rpc *rpc, struct slice message);
/* The query of a QueryStream succeeded: send its answer. Frees the call. */
void services__data_answer(struct data_call *d);
void services__data_open_session(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__data_close_session(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__data_watch(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__data_stream_message(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__data_stream_end(void *ctx, struct bus_rpc *rpc);
/* A call of a stream was answered; frees it. */
void services__data_stream_done(struct data_call *d);

#endif
