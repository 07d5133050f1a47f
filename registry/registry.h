/* The registry: shard zero's state machine, and the immutable views that every host reads.
 *
 * There is one `struct registry` per host. Its machine type ("registry") is given to the engine,
 * which opens one machine for the host's replica of shard zero. After each applied batch the
 * machine publishes a new view. Rows are protobuf messages of thole/v1, immutable and reference-
 * counted. A view is made of path-copying trees of rows, so a change costs O(log n) and readers
 * never block writers.
 *
 * Apply enforces these invariants, whoever the proposer is (registry__check_state asserts those
 * that a state shows):
 * - names of hosts, shards and pools are unique; ids of shards and replicas are never reused;
 * - at most one replica of a shard on a host is not desired REMOVE and OUT;
 * - `initial` of a shard is written once; its members are not edited until it has formed;
 * - the etag and generation of a row follow its spec only;
 * - observed state is accepted only from the newest incarnation of the row's own host;
 * - a replica goes RUN -> REMOVE and never back; phases move only as the removal handshake allows;
 * - a removed host never comes back under its id;
 * - ids of operations are never reused, and an operation that has ended never changes;
 * - an operation whose expected_revision does not match is refused, and with it the command.
 *
 * Threads: views may be acquired, read and released on any thread. */
#ifndef REGISTRY_REGISTRY_H
#define REGISTRY_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/machine.h>
#include <thole/status.h>

#include "base/buf.h"
#include "base/uuid.h"
#include "thole/registry/v1/registry.upb.h"
#include "thole/v1/access.upb.h"
#include "thole/v1/operations.upb.h"
#include "thole/v1/resources.upb.h"

#define REGISTRY_SHARD_ID 0
#define REGISTRY_SHARD_NAME "zero"
#define REGISTRY_MACHINE_TYPE "registry"

struct registry;
struct registry *registry_new(void);
void registry_free(struct registry *r); /* after the engine; every view must have been released */
/* Valid as long as the registry. */
const struct thole_machine_type *registry_machine_type(struct registry *r);

/* Called after each published view, on the applier's thread; must not block: post to a worker. At
 * most 8 subscribers, which are never removed. May be called while the engine runs. */
void registry_subscribe(struct registry *r, void (*changed)(void *ctx, uint64_t revision),
                        void *ctx);

/* ---- Views ----------------------------------------------------------------------------------- */

struct registry_view;
struct registry_view *registry_view_acquire(struct registry *r); /* never NULL; revision 0: empty */
struct registry_view *registry_view_ref(struct registry_view *v);
void registry_view_release(struct registry_view *v);

uint64_t registry_view_revision(const struct registry_view *v);
bool registry_view_cluster(const struct registry_view *v,
                           struct uuid *ret); /* false before bootstrap */

/* Rows are borrowed from the view. NULL: no such row.
 *
 * Shards, replicas and events are many, and are kept packed. The caller gives a buffer to open one
 * in. The message is valid as long as the view, and until the buffer is used again. Strings, specs
 * and conditions in it belong to the view and stay valid as long as it does. */
struct registry_shard_buf {
    uint64_t words[320]; /* a row that does not fit is not packed, and needs no buffer */
};
struct registry_replica_buf {
    uint64_t words[20];
};
struct registry_event_buf {
    uint64_t words[18];
};

const thole_v1_Host *registry_host(const struct registry_view *v, const struct uuid *id);
const thole_v1_Host *registry_host_by_name(const struct registry_view *v, struct slice name);
const thole_v1_Shard *registry_shard(const struct registry_view *v, uint64_t id,
                                     struct registry_shard_buf *buf);
const thole_v1_Shard *registry_shard_by_name(const struct registry_view *v, struct slice name,
                                             struct registry_shard_buf *buf);
bool registry_has_shard(const struct registry_view *v, uint64_t id);
bool registry_has_shard_name(const struct registry_view *v, struct slice name);
const thole_v1_Replica *registry_replica(const struct registry_view *v, uint64_t id,
                                         struct registry_replica_buf *buf);
bool registry_has_replica(const struct registry_view *v, uint64_t id);
const thole_v1_ShardPool *registry_pool_by_name(const struct registry_view *v, struct slice name);

const thole_v1_Operation *registry_operation(const struct registry_view *v, uint64_t id);
/* Built-in roles are found even if they have no row, which is the case until they get members. */
const thole_v1_Role *registry_role_by_name(const struct registry_view *v, struct slice name);
/* As it is without members; NULL: there is no built-in role of this name. */
const thole_v1_Role *registry_builtin_role(struct slice name);
const thole_v1_Token *registry_token(const struct registry_view *v, struct slice id);
/* Is this the hash of the token's secret? Takes the same time whether or not. */
bool registry_token_matches(const struct registry_view *v, struct slice id, struct slice hash);
/* Revision of the last change of a role or a token: rights that were derived from a view hold in
 * every view with the same number, of the same cluster. */
uint64_t registry_access_revision(const struct registry_view *v);

/* Walk in order: hosts, shards, pools, roles and tokens by name, replicas and operations by id.
 * Each call returns the first row after the given key (an empty name, or 0, begins). */
const thole_v1_Host *registry_next_host(const struct registry_view *v, struct slice after_name);
const thole_v1_Shard *registry_next_shard(const struct registry_view *v, struct slice after_name,
                                          struct registry_shard_buf *buf);
const thole_v1_Replica *registry_next_replica(const struct registry_view *v, uint64_t after_id,
                                              struct registry_replica_buf *buf);
const thole_v1_ShardPool *registry_next_pool(const struct registry_view *v,
                                             struct slice after_name);
const thole_v1_Operation *registry_next_operation(const struct registry_view *v, uint64_t after_id);
bool registry_operation_has_ended(const thole_v1_Operation *row);
/* The controllers that users have paused: bit N for the thole_v1_Controller N. */
uint32_t registry_paused_controllers(const struct registry_view *v);
const thole_v1_Role *registry_next_role(const struct registry_view *v, struct slice after_name);
const thole_v1_Token *registry_next_token(const struct registry_view *v, struct slice after_id);
/* The replicas of one shard, of one host; by id. */
const thole_v1_Replica *registry_next_replica_of_shard(const struct registry_view *v,
                                                       uint64_t shard_id, uint64_t after_id,
                                                       struct registry_replica_buf *buf);
const thole_v1_Replica *registry_next_replica_of_host(const struct registry_view *v,
                                                      const struct uuid *host, uint64_t after_id,
                                                      struct registry_replica_buf *buf);
/* A user handed on the leadership of this shard, and since then no host was added, removed,
 * changed its spec, died or came back. Then balance leaves the leader where it is. */
bool registry_leader_is_held(const struct registry_view *v, const thole_v1_Shard *shard);
/* Does acknowledged data depend on the host, so that it must not be removed for ever? Then
 * `ret_why` says which. */
bool registry_host_is_needed(const struct registry_view *v, const struct uuid *host, char *ret_why,
                             size_t size);
/* The id watermark. An id below it that has no row belonged to a replica that is gone, ... */
uint64_t registry_next_replica_id(const struct registry_view *v);
/* ... unless it may have been given out in entries that a repair of shard zero lost: only its
 * group knows whether it is a member. */
bool registry_replica_is_lost(const struct registry_view *v, uint64_t id);

/* Is the answer to this request remembered? A command that repeats the request gets that answer
 * and changes nothing. */
bool registry_request_is_answered(const struct registry_view *v, struct slice request_id);

/* Events after (revision, position): `*it` is 0 at first, opaque. NULL at the end. */
const thole_v1_Event *registry_next_event(const struct registry_view *v, uint64_t after_revision,
                                          uint64_t *it, struct registry_event_buf *buf);

/* 0: all events since the cluster began are kept. Else the revision of the oldest event kept;
 * others of that revision may have been dropped. */
uint64_t registry_oldest_event(const struct registry_view *v);

/* What changed from `from` (exclusive) to `v`: calls `row` for each changed or new row and `gone`
 * for each deleted one ("hosts/h1"), in any order; a row is valid during the call. OUT_OF_RANGE
 * COMPACTED if `from` is too old. Costs O(changes). NULL callbacks are skipped. */
struct registry_changes {
    void *ctx;
    void (*host)(void *ctx, const thole_v1_Host *row);
    void (*shard)(void *ctx, const thole_v1_Shard *row);
    void (*replica)(void *ctx, const thole_v1_Replica *row);
    void (*pool)(void *ctx, const thole_v1_ShardPool *row);
    void (*operation)(void *ctx, const thole_v1_Operation *row);
    void (*role)(void *ctx, const thole_v1_Role *row);
    void (*token)(void *ctx, const thole_v1_Token *row);
    void (*event)(void *ctx, const thole_v1_Event *row);
    void (*gone)(void *ctx, const char *name);
};
THOLE_MUST_CHECK enum thole_code registry_changes_since(const struct registry_view *v,
                                                        uint64_t from,
                                                        const struct registry_changes *c,
                                                        struct thole_status *st);

/* ---- Commands -------------------------------------------------------------------------------- */

/* A command by `actor` (user, placement, host/NAME, ...), decided at this wall-clock time. Add
 * operations, then encode it. Texts are copied into the arena. */
thole_registry_v1_Command *registry_command_new(const char *actor, int64_t time_ms,
                                                upb_Arena *arena);
/* Replaces the actor and time of a command that a client made. */
void registry_command_stamp(thole_registry_v1_Command *c, const char *actor, int64_t time_ms,
                            upb_Arena *arena);
/* The user's call that the command is from: for its events. */
void registry_command_set_origin(thole_registry_v1_Command *c, const char *address,
                                 const char *method, upb_Arena *arena);
void registry_command_set_request_id(thole_registry_v1_Command *c, struct slice id,
                                     upb_Arena *arena);
/* The bytes to propose to shard zero; the caller owns the reference. */
struct bufslice registry_command_encode(const thole_registry_v1_Command *c, upb_Arena *arena);

/* ---- Snapshots outside a group --------------------------------------------------------------- */

/* A registry with the rows of the snapshot `in`, for views. DATA_LOSS CORRUPT. */
THOLE_MUST_CHECK enum thole_code registry_of_snapshot(struct slice in, struct registry **ret,
                                                      struct thole_status *st);

/* The one host of the new cluster, and where the snapshot is on it. */
struct registry_refound {
    struct uuid cluster, host;
    const char *host_name;
    const char *seed_file; /* its name among the engine's seeds */
    uint64_t index;        /* the log index that the snapshot goes up to */
    int64_t time_ms;
};
struct registry_refounded {
    uint64_t replica_id; /* of shard zero on that host */
    uint64_t revision;   /* of the snapshot */
    uint32_t hosts, shards;
};
/* Appends to `out` the snapshot of a new cluster, made from the registry's snapshot `in`: its
 * shards and pools, which await their data, and its events. It has no host but the given one, and
 * no replicas but that host's of shard zero. Ids and revisions continue above any that may have
 * been given out since. DATA_LOSS CORRUPT; INVALID_ARGUMENT for a bad name of the host. */
THOLE_MUST_CHECK enum thole_code registry_refound(struct slice in, const struct registry_refound *o,
                                                  struct bytes *out, struct registry_refounded *ret,
                                                  struct thole_status *st);

/* ---- Small helpers shared by controllers and services ---------------------------------------- */

/* The non-voting replicas that a spec asks for by number, without those of groups that cover
 * hosts. */
uint32_t registry_non_voting(const thole_v1_ShardSpec *spec);
/* Is the shard Ready for its newest spec? */
bool registry_shard_is_ready(const thole_v1_Shard *shard);
/* NULL: the shard has no condition of this type. */
const thole_v1_Condition *registry_shard_condition(const thole_v1_Shard *shard, const char *type);
struct slice registry_str(upb_StringView s);
upb_StringView registry_view_of(struct slice s);
/* "shards/orders" etc. into a static-size buffer; returns ret. */
#define REGISTRY_NAME_BYTES 320
bool registry_name_is_valid(struct slice name); /* the rule of thole.v1.Host.name */

#endif
