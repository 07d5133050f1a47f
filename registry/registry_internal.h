/* Inside the registry: the state, made of trees of rows (rows/row.h), and the transaction that a
 * command runs in. Everything reachable from a published view is immutable. */
#ifndef REGISTRY_REGISTRY_INTERNAL_H
#define REGISTRY_REGISTRY_INTERNAL_H

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <upb/upb.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"
#include "registry/registry.h"
#include "registry/rows/row.h"
#include "registry/validate.h"

/* How many ids are skipped when it is unknown which were given out: more than any cluster gives
 * out between two entries of which one reached a majority and the other only one host. */
#define REGISTRY_LOST_IDS_MAX (UINT64_C(1) << 24)

/* ---- Limits ---------------------------------------------------------------------------------- */

#define REGISTRY_REQUESTS_MAX 1024         /* remembered request ids */
#define REGISTRY_REQUEST_RESULT_BYTES 4096 /* a larger result is remembered without its rows */
/* Rows of operations. The oldest ended ones are dropped; a start beyond the open ones is refused.
 */
#define REGISTRY_OPERATIONS_ENDED_MAX 256
#define REGISTRY_OPERATIONS_OPEN_MAX 256
#define REGISTRY_JOURNAL_MAX 16384 /* changes that registry_changes_since can go back over */
#define REGISTRY_JOURNAL_ROW_MARKS 64
#define REGISTRY_JOURNAL_ROWS_MAX (REGISTRY_JOURNAL_MAX / REGISTRY_JOURNAL_ROW_MARKS)
#define REGISTRY_SUBSCRIBERS_MAX 8
#define REGISTRY_FORMAT 1

/* ---- State ----------------------------------------------------------------------------------- */

struct state {
    uint64_t revision;
    bool bootstrapped;
    struct uuid cluster;
    uint64_t next_shard_id, next_replica_id, next_operation_id;
    uint64_t
        hosts_revision; /* a host was last added, removed, changed its spec, died or came back */
    uint64_t access_revision;                  /* a role or token last changed */
    uint64_t repair_epoch, lost_from, lost_to; /* replica ids in [from, to): see RepairZero */
    uint64_t
        compacted_revision; /* changes up to here are not in the journal; differs between hosts */
    uint64_t event_next, journal_next, request_next; /* sequences; differ between hosts */
    struct node *index[INDEX_COUNT];
    struct row_scope *scope; /* of the command that runs on it; NULL in views */
};

void registry__state_init(struct state *s);
void registry__state_copy(struct state *to, const struct state *from); /* `to` is uninitialised */
void registry__state_deinit(struct state *s);

/* state_check.c. Costly checks run where ASSERT_SLOW does. */
#ifdef THOLE_SLOW_ASSERTS
#define REGISTRY_CHECKS true
#else
#define REGISTRY_CHECKS false
#endif
/* Asserts every invariant of a state between two commands; returns true. */
bool registry__check_state(const struct state *s);
/* Is it this revision's turn? Whole checks become rarer as the rows become more. */
bool registry__check_is_due(const struct state *s);
/* Changes if a row, or the order of rows, does. */
uint64_t registry__state_digest(const struct state *s);

struct packed *registry__find(const struct state *s, enum registry_index index, struct key key);
struct packed *registry__find_after(const struct state *s, enum registry_index index,
                                    struct key key);
struct packed *registry__find_of_shard(const struct state *s, uint64_t shard_id, uint64_t after);
struct packed *registry__find_of_host(const struct state *s, const struct uuid *host,
                                      uint64_t after);

/* Open, on the state's scope. */
struct row *registry__host(const struct state *s, const struct uuid *id);
struct row *registry__host_by_name(const struct state *s, struct slice name);
struct row *registry__shard(const struct state *s, uint64_t id);
struct row *registry__shard_by_name(const struct state *s, struct slice name);
struct row *registry__replica(const struct state *s, uint64_t id);
struct row *registry__pool(const struct state *s, struct slice name);
struct row *registry__operation(const struct state *s, uint64_t id);
struct row *registry__role(const struct state *s, struct slice name);
struct row *registry__token(const struct state *s, struct slice id);
/* The replica of a shard that occupies a host: any row that is not desired REMOVE and OUT. */
struct row *registry__occupant(const struct state *s, uint64_t shard_id, const struct uuid *host);
/* Walks by id; start with 0. */
struct row *registry__next_of_shard(const struct state *s, uint64_t shard_id, uint64_t after);
struct row *registry__next_of_host(const struct state *s, const struct uuid *host, uint64_t after);
uint32_t registry__count_of_shard(const struct state *s, uint64_t shard_id);
uint32_t registry__count_of_host(const struct state *s, const struct uuid *host);

/* Puts and drops rows in the indexes, without journal or revision. */
void registry__state_put(struct state *s, struct row *row);
void registry__state_drop(struct state *s, const struct row *row);
void registry__state_event(struct state *s, struct row *event);
void registry__state_remember(struct state *s, struct row *request);

/* What changed: a row of this kind. */
struct mark {
    enum row_kind kind;
    bool gone;
    uint64_t revision;
    uint64_t id;         /* of an existing shard, replica or operation */
    struct uuid host_id; /* of an existing host */
    /* "pools/orders": of kinds that are found by name, and of every dropped row; borrowed */
    struct slice name;
};
/* Does a mark of this kind have a name even if the row exists? */
bool registry__is_found_by_name(enum row_kind kind);
void registry__journal_add(struct state *s, const struct mark *mark);
void registry__journal_since(const struct state *s, uint64_t revision,
                             void (*each)(void *ctx, const struct mark *mark), void *ctx);

/* ---- Commands -------------------------------------------------------------------------------- */

struct txn {
    const struct state *base; /* before the command: expected_revision is compared with it */
    struct state s;           /* discarded if an operation is refused */
    const thole_registry_v1_Command *command;
    struct row_scope scope;
    upb_Arena *arena;  /* of the scope */
    uint64_t revision; /* that the changes get */
    bool changed;
    struct row *last[ROW_RESOURCES]; /* by row_kind: for the result */
    struct thole_status st;
    char field[REGISTRY_FIELD_BYTES]; /* of the request, that `st` is about; empty: none */
};

/* Run one command against `s`; appends result bytes and returns its code. Never fails. */
uint64_t registry__apply(struct state *s, struct slice command, struct bytes *ret_result);

/* Edit: copy the row, change the copy, hand it to txn_put. */
struct row *registry__txn_edit(struct txn *t, const struct row *row);
void registry__txn_put(struct txn *t, struct row *row);
void registry__txn_drop(struct txn *t, struct row *row);
void registry__txn_touch_shard(struct txn *t, uint64_t shard_id);
void registry__txn_event(struct txn *t, const struct row *about, const char *reason,
                         const char *format, ...) __attribute__((format(printf, 4, 5)));
void registry__txn_show(struct txn *t, struct row *row); /* in the result, unchanged */
upb_StringView registry__txn_etag(const struct txn *t, upb_Arena *arena);
/* "hosts/h1" and so on; REGISTRY_NAME_BYTES. */
const char *registry__row_name(const struct row *row, char *ret);

typedef enum thole_code (*registry_operation_fn)(struct txn *t,
                                                 const thole_registry_v1_Operation *op);
enum thole_code registry__op_bootstrap(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_admit_host(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_update_host(struct txn *t, const thole_registry_v1_Operation *op);
bool registry__host_is_needed(const struct state *s, const struct uuid *host, char *ret_why,
                              size_t size); /* host_removal.c */
enum thole_code registry__op_delete_host(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_observe_host(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_create_shard(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_update_shard(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_delete_shard(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_record_leader_move(struct txn *t,
                                                const thole_registry_v1_Operation *op);
enum thole_code registry__op_observe_shard(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_place_replicas(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_remove_replica(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_create_replica(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_observe_replica(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_repair_zero(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_retire_replica(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_set_role(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_create_pool(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_update_pool(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_delete_pool(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_reconcile_pool(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_start_operation(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_cancel_operation(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_step_operation(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_restore_shard(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_record_snapshot(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_create_role(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_update_role(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_delete_role(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_create_token(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_revoke_token(struct txn *t, const thole_registry_v1_Operation *op);
enum thole_code registry__op_record_refusal(struct txn *t, const thole_registry_v1_Operation *op);
/* The first voter, on the host that has the file. Returns its id. */
uint64_t registry__place_seed(struct txn *t, uint64_t shard_id, const struct row *host,
                              const thole_v1_ShardSeed *seed);
/* Deletes a shard that has not formed. A shard that has formed is a shard like any other. */
enum thole_code registry__restore_cancel(struct txn *t, const thole_v1_Operation *operation);
/* Cancels every operation that is under way. */
void registry__operations_cancel(struct txn *t, const char *why);
/* May one more be under way? */
enum thole_code registry__operation_room(struct txn *t);

/* The first operation of this kind after `after` that is under way. */
struct row *registry__operation_open(const struct state *s, int32_t kind, uint64_t after);
/* A new row, to fill and then to add. `about` NULL: no particular row. */
struct row *registry__operation_new(struct txn *t, int32_t kind, const struct row *about);
void registry__operation_add(struct txn *t, struct row *row);
enum thole_code registry__move_start(struct txn *t, const thole_registry_v1_StartOperation *given);
enum thole_code registry__move_check_cancel(struct txn *t, const thole_v1_Operation *o);
void registry__move_end(struct txn *t, const thole_v1_Operation *o);
enum thole_code registry__transfer_record(struct txn *t,
                                          const thole_registry_v1_StartOperation *given);

/* ABORTED STALE_REVISION unless the row is as it was when the operation was decided. */
enum thole_code registry__check_revision(struct txn *t, const thole_registry_v1_Operation *op,
                                         const struct row *row);
/* The same for a shard, by the revision that the whole command was decided at. */
enum thole_code registry__check_decided(struct txn *t, const struct row *shard);
enum thole_code registry__check_etag(struct txn *t, upb_StringView have, upb_StringView given);

/* Changes that shards and pools share. The caller has made the checks. */
/* Set the slots of a new shard of `pool`, if the pool has keys. */
void registry__pool_set_slots(struct txn *t, struct slice pool, struct row *shard);
void registry__shard_add(struct txn *t, struct slice name, const thole_v1_ShardSpec *spec,
                         struct slice pool);
void registry__shard_set_spec(struct txn *t, struct row *shard, const thole_v1_ShardSpec *spec);
void registry__shard_retire(struct txn *t, struct row *shard);
/* The same for a shard that cannot form: it is recreated under another id when its last replica is
 * dropped. */
void registry__shard_begin_again(struct txn *t, struct row *shard);
/* Marks the shard as awaiting its data, without initial members or status. `shard` is of the
 * transaction. */
void registry__shard_await(struct txn *t, const struct row *shard);
/* A new shard without replicas; makes the checks. */
enum thole_code registry__shard_create(struct txn *t, upb_StringView name,
                                       const thole_v1_ShardSpec *spec);
/* A shard of a type that no host runs could never form: more likely the name is wrong. `field` is
 * where the type is. */
enum thole_code registry__check_type_known(struct txn *t, const char *field,
                                           const thole_v1_ShardSpec *spec);
/* `given` over `have`: type, config and lease_reads cannot change, so leaving them out keeps them.
 * Both have been checked; `at` is where `given` is ("spec"). In t->arena. */
enum thole_code registry__merge_spec(struct txn *t, const char *at, const thole_v1_ShardSpec *have,
                                     const thole_v1_ShardSpec *given, thole_v1_ShardSpec **ret);
/* Counts a shard in its pool. `before` NULL: it is new; `after` NULL: it is dropped. */
void registry__pool_count(struct txn *t, const thole_v1_Shard *before, const thole_v1_Shard *after);
void registry__pool_settle(struct txn *t, struct slice name);

/* May the host get a replica of the shard at all? */
enum thole_code registry__check_place(struct txn *t, const struct row *shard,
                                      const struct row *host);
/* A new host's row from its own description. The caller has made the checks. */
void registry__host_add(struct txn *t, const thole_v1_Host *host, const struct uuid *id);
/* A new replica row, borrowed. The caller has made the checks. */
struct row *registry__replica_add(struct txn *t, const struct row *shard, const struct row *host,
                                  int32_t role, int32_t owner, bool initial);
/* Drops the row, and with the last one its deleted shard or its removed host. */
void registry__replica_drop(struct txn *t, struct row *replica, const char *why);
void registry__replica_failed(struct txn *t, struct row *replica, upb_StringView message);
/* Drops a shard that is being deleted, or turns a removed host into a tombstone, if it has no
 * replica left. */
void registry__shard_settle(struct txn *t, uint64_t shard_id);
void registry__host_settle(struct txn *t, const struct uuid *id);
enum thole_code registry__find_host(struct txn *t, upb_StringView name, struct row **ret);
/* Sets only the state of a host's spec; no change if it has that state. */
/* host_failures.c. Counts a failed replica against its host. */
void registry__host_failed(struct txn *t, const struct row *replica, upb_StringView message);
void registry__host_forgive(struct txn *t, const struct uuid *id, upb_StringView why);
/* observe_host.c: merge `status` into the host's row. Without a change there is no revision. */
void registry__host_observe(struct txn *t, const struct row *host,
                            const thole_v1_HostStatus *status, upb_StringView why);
void registry__host_set_state(struct txn *t, const struct uuid *id, thole_v1_HostState state);
bool registry__host_another_stays(const struct state *s, const struct row *host);
bool registry__host_has_state(const struct row *host, thole_v1_HostState state);
bool registry__host_runs(const thole_v1_Host *host, upb_StringView type);

/* ---- Built-in roles (builtin_roles.c) -------------------------------------------------------- */

/* The first one after this name; NULL: none. */
const thole_v1_Role *registry__builtin_after(struct slice name);

/* ---- Refusals (refusal.c) -------------------------------------------------------------------- */

/* Refuse the command because of a field of its request: "FIELD: message". */
enum thole_code registry__refuse(struct txn *t, enum thole_code code, enum thole_reason reason,
                                 const char *field, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* Fill `ret`; returns false. */
bool registry__violates(struct registry_violation *ret, enum thole_reason reason, const char *field,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));
#define REGISTRY__BAD(ret, field, ...) \
    registry__violates(ret, THOLE_REASON_BAD_REQUEST, field, __VA_ARGS__)
#define REGISTRY__TOO_LARGE(ret, field, ...) \
    registry__violates(ret, THOLE_REASON_TOO_LARGE, field, __VA_ARGS__)
/* What validate.h found: THOLE_OK if `ok`, else INVALID_ARGUMENT. */
enum thole_code registry__checked(struct txn *t, bool ok, const struct registry_violation *v);
enum thole_code registry__check_text(struct txn *t, const char *field, upb_StringView text,
                                     size_t bytes_max);
/* The description that a host sends when it joins. */
enum thole_code registry__check_host(struct txn *t, const thole_v1_Host *host, struct uuid *ret_id);
/* NOT_FOUND, in one wording; the request's resource is to blame, not one of its fields. */
enum thole_code registry__no_such_shard(struct txn *t, upb_StringView name);
enum thole_code registry__no_such_replica(struct txn *t, uint64_t id);

/* ---- Snapshots ------------------------------------------------------------------------------- */

struct memory_source {
    struct thole_source base;
    struct slice rest;
};
struct memory_source registry__memory_source(struct slice bytes); /* borrowed */
enum thole_code registry__save(const struct state *s, struct thole_sink *out,
                               struct thole_status *st);
enum thole_code registry__restore(struct thole_source *in, struct state *ret,
                                  struct thole_status *st);

/* ---- Views and the registry ------------------------------------------------------------------ */

struct registry_view {
    _Atomic uint32_t refs;
    _Atomic int64_t *live; /* the registry's count of views */
    uint64_t digest;       /* of `s`, which never changes; 0: not computed */
    struct state s;
};

struct registry {
    struct thole_machine_type type;
    pthread_mutex_t lock; /* one publisher at a time */
    /* The address of the shown view and, in the upper bits, the number of references taken to it
     * here that its own count does not have yet: see registry.c. On a cache line of its own. */
    _Alignas(64) _Atomic uint64_t shown;
    uint8_t apart[64 - sizeof(uint64_t)];
    _Atomic int64_t views;
    struct {
        void (*changed)(void *ctx, uint64_t revision);
        void *ctx;
    } subscribers[REGISTRY_SUBSCRIBERS_MAX];
    _Atomic size_t subscriber_count;
};

struct registry_view *registry__view_new(struct registry *r, const struct state *s);
/* Show the view unless a newer one is shown. The caller keeps its reference. */
void registry__publish(struct registry *r, struct registry_view *v);
void registry__machine_type(struct registry *r, struct thole_machine_type *ret);

/* Times come from proposers' clocks: the difference of any two, clamped. */
static inline int64_t registry__ms_between(int64_t from_ms, int64_t to_ms)
{
    int64_t ms;
    if (__builtin_sub_overflow(to_ms, from_ms, &ms)) {
        return to_ms > from_ms ? INT64_MAX : INT64_MIN;
    }
    return ms;
}

#endif
