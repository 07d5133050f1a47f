/* Rows of the cluster: reading them (rows.c), and showing them (show.c). */
#ifndef AGENT_CLI_ROWS_H
#define AGENT_CLI_ROWS_H

#include "agent/cli/cli.h"
#include "thole/v1/access.upb.h"
#include "thole/v1/control.upb.h"
#include "thole/v1/operations.upb.h"
#include "thole/v1/resources.upb.h"

enum rows_kind {
    ROWS_HOSTS,
    ROWS_SHARDS,
    ROWS_REPLICAS,
    ROWS_EVENTS,
    ROWS_POOLS,
    ROWS_OPERATIONS,
    ROWS_ROLES,
    ROWS_TOKENS
};

struct rows {
    enum rows_kind kind;
    const void **items; /* in the caller's arena; the array is released by rows_deinit */
    size_t count;
    uint64_t revision;
};

struct rows_query {
    enum rows_kind kind;
    const char *shard, *host; /* replicas; NULL: any */
    const char *object;       /* events; NULL: any */
    uint64_t after;           /* events */
    bool stale;
};

/* All pages. */
enum thole_code rows_list(struct cli *c, const struct rows_query *q, struct rows *ret,
                          struct thole_status *st);
void rows_deinit(struct rows *rows);
void rows_add(struct rows *rows, const void *item);

enum thole_code rows_get_shard(struct cli *c, const char *name, bool stale,
                               const thole_v1_Shard **ret, struct thole_status *st);
enum thole_code rows_get_host(struct cli *c, const char *name, bool stale,
                              const thole_v1_Host **ret, struct thole_status *st);
enum thole_code rows_get_pool(struct cli *c, const char *name, bool stale,
                              const thole_v1_ShardPool **ret, struct thole_status *st);
enum thole_code rows_get_role(struct cli *c, const char *name, bool stale,
                              const thole_v1_Role **ret, struct thole_status *st);
/* The spec of the shard of this name, or of the shards of the pool of this name, which `ret_pool`
 * (may be NULL) then says; in the called host's view. NULL: there is neither. */
const thole_v1_ShardSpec *rows_spec_of(struct cli *c, const char *name, bool *ret_pool);
/* Lists all. */
enum thole_code rows_get_replica(struct cli *c, uint64_t id, bool stale,
                                 const thole_v1_Replica **ret, struct thole_status *st);
enum thole_code rows_get_operation(struct cli *c, uint64_t id, bool stale,
                                   const thole_v1_Operation **ret, struct thole_status *st);
/* Parts of a row. A part that the server left out is an empty message, never NULL. */
const thole_v1_HostSpec *rows_host_spec(const thole_v1_Host *host);
const thole_v1_ShardSpec *rows_shard_spec(const thole_v1_Shard *shard);
const thole_v1_ShardStatus *rows_shard_status(const thole_v1_Shard *shard);
const thole_v1_ShardPoolSpec *rows_pool_spec(const thole_v1_ShardPool *pool);
const thole_v1_ShardSpec *rows_pool_shard_spec(const thole_v1_ShardPool *pool);
const thole_v1_ShardPoolStatus *rows_pool_status(const thole_v1_ShardPool *pool);
const thole_v1_RoleSpec *rows_role_spec(const thole_v1_Role *role);
const thole_v1_Condition *rows_condition(const thole_v1_Shard *shard, const char *type);
/* Is the shard Ready, with its newest spec? */
bool rows_shard_ready(const thole_v1_Shard *shard);
/* Are all its shards Ready, with the pool's newest spec? */
bool rows_pool_ready(const thole_v1_ShardPool *pool);

/* "shards/orders" and the like. */
const char *rows_name(enum rows_kind kind, const void *row, char *ret, size_t size);
#define ROWS_NAME_BYTES 320
const char *rows_kind_name(enum rows_kind kind);             /* "Shard" */
bool rows_parse_kind(const char *text, enum rows_kind *ret); /* "shards" or "shard" */
/* ,"NAME":[all rows] of a document. */
void rows_json(struct cli *c, const struct rows *rows, const char *name, struct bytes *out);
const upb_MessageDef *rows_def(struct cli *c, enum rows_kind kind);

/* In the format of -o; a table has a header if `header`. `single`: an object instead of a list. */
void rows_show(struct cli *c, const struct rows *rows, bool header, bool single);
const char *rows_enum(enum rows_kind kind, int32_t value); /* host state, replica phase */
const char *show_liveness(int32_t value);
const char *show_role(int32_t value);
const char *show_host_state(int32_t value);
const char *show_phase(int32_t value);
const char *show_operation_kind(int32_t value);
const char *show_operation_state(int32_t value);
/* Prints that the operation was started, or why not, and waits for its end if --wait is given. */
int operation_started(struct cli *c, enum thole_code code, const thole_v1_Operation *o,
                      const struct thole_status *st);
const char *show_owner(int32_t value);
/* "READ, UPDATE of SHARDS named a*, b" */
void show_role_rule(const thole_v1_RoleRule *rule, struct bytes *out);
void show_data_rule(const thole_v1_DataRule *rule, struct bytes *out);
void show_members(const thole_v1_RoleSpec *spec, struct bytes *out);
void show_tags(const thole_v1_Host *host, struct bytes *out);
void show_constraints(const thole_v1_Constraint *const *constraints, size_t count,
                      struct bytes *out);
/* "2; cover edge exists" */
void show_groups(const thole_v1_ShardSpec *spec, struct bytes *out);

/* Calls `row` for each message of Cluster.Watch until it returns false, the time is over
 * (DEADLINE_EXCEEDED) or the stream fails. timeout_ms 0: for ever. Resumes by revision when a host
 * is lost. A NULL message: a snapshot of all rows follows, and rows seen before may be gone. */
typedef bool (*rows_watch_fn)(void *ctx, const thole_v1_WatchClusterResponse *message);
enum thole_code rows_watch(struct cli *c, uint64_t timeout_ms, rows_watch_fn row, void *ctx,
                           struct thole_status *st);
/* The same for Events.WatchEvents, without end, of q->object and after q->after. If some of those
 * events are no longer kept, it says so and starts with the oldest one; so does rows_list. */
enum thole_code rows_watch_events(struct cli *c, const struct rows_query *q, rows_watch_fn row,
                                  void *ctx, struct thole_status *st);

#endif
