/* What the files of the kv machine share.
 *
 *   kv.c           the machine: open, apply, views, destroy
 *   kv_exec.c      one command: which operation, its answer, the revision it takes
 *   kv_check.c     whether a request is well formed
 *   kv_apart.c     whether a Txn puts a key twice
 *   kv_change.c    put and delete: the records of a change
 *   kv_range.c     Range: options, order, limit, count
 *   kv_txn.c       Txn: comparisons, the path, its operations
 *   kv_modify.c    operations of a Txn that etcd does not have
 *   kv_lease.c     leases
 *   kv_compact.c   compaction, and the walk that deletes
 *   kv_quota.c     quota and alarms
 *   kv_auth.c      users and roles: the commands that change and show them
 *   kv_auth_store.c  their records
 *   kv_permit.c    what a user may do
 *   kv_token.c     logging in, and tokens
 *   kv_query.c     queries on a view
 *   kv_events.c    changes from a revision on
 *   kv_hash.c      HashKV
 *   kv_scan.c      keys of a range as of a revision
 *   kv_count.c     how many keys a range has, without a scan
 *   kv_layout.c    keys and records in the state database
 *   kv_wire.c      protobuf by hand, where bytes are on the data path
 *   kv_text.c      commands and queries as text
 *   kv_snapshot.c  save and restore
 *   kv_inspect.c   data of a machine that is not open */
#ifndef SHARDS_MACHINE_KV_INTERNAL_H
#define SHARDS_MACHINE_KV_INTERNAL_H

#include <thole/machine.h>
#include <upb/upb.h>

#include "base/arena.h"
#include "base/limits.h"
#include "etcd/rpc.upb.h"
#include "shards/store/store.h"
#include "thole/kv/v1/kv.upb.h"
#include "thole/kv/v1/modify.upb.h"

#define KV_PROTO_BYTE 0x00        /* the first byte of a payload in protobuf */
#define KV_TXN_OPERATIONS_MAX 128 /* of a level, and on a path through the levels; etcd's limit */
#define KV_TXN_TOTAL_MAX 1024     /* comparisons and operations of all levels and branches */
#define KV_LEASE_TTL_MAX INT64_C(9000000000) /* seconds */
/* Twice the election timeout of a host's defaults: a lease must outlive an election. */
#define KV_LEASE_TTL_MIN INT64_C(2)
#define KV_ALARMS_MAX 64
/* Of auth. The list of all users, 5,000 * (256 + 4) bytes, must fit in an answer. */
#define KV_AUTH_NAME_BYTES 256
#define KV_AUTH_USERS_MAX 5000
#define KV_AUTH_ROLES_MAX 1000
#define KV_AUTH_USER_ROLES_MAX 100
#define KV_AUTH_ROLE_PERMISSIONS_MAX 1000
#define KV_AUTH_ROLE_BYTES ((size_t)256 * KIB) /* of a role's keys */
#define KV_AUTH_KEY_BYTES 32
/* Values up to this size are stored with the latest key as well, so a read needs one record. */
#define KV_INLINE_BYTES ((size_t)1 * KIB)

/* ---- Layout: the first byte of a key in the machine's space ---------------------------------- */

enum kv_prefix {
    KV_PREFIX_META = 0x00,     /* the engine's records */
    KV_PREFIX_OLD = 0x01,      /* keys of the machine's first layout, which is not read any more */
    KV_PREFIX_STATE = 0x10,    /* struct kv_state */
    KV_PREFIX_CHANGE = 0x11,   /* revision BE 8, sub BE 4 -> struct kv_change */
    KV_PREFIX_LATEST = 0x12,   /* key -> struct kv_item as it is now */
    KV_PREFIX_HISTORY = 0x13,  /* key escaped, ~revision BE 8, ~sub BE 4 -> struct kv_past */
    KV_PREFIX_LEASE = 0x14,    /* id BE 8 -> struct kv_lease */
    KV_PREFIX_ATTACHED = 0x15, /* lease id BE 8, key -> nothing */
    KV_PREFIX_DUE = 0x16,      /* alive_ms BE 8, lease id BE 8 -> nothing */
    KV_PREFIX_ALARM = 0x17,    /* member BE 8, alarm type -> nothing */
    KV_PREFIX_USER = 0x18,     /* name -> authpb.User */
    KV_PREFIX_ROLE = 0x19,     /* name -> authpb.Role */
    KV_PREFIX_END = 0x1a,
};

/* Where a change stands in the history. */
struct kv_at {
    int64_t revision;
    uint32_t sub;
};

struct kv_auth {
    bool enabled;
    uint64_t revision;              /* of the last change of auth; 1 at first */
    uint32_t users, roles;          /* how many there are */
    uint8_t key[KV_AUTH_KEY_BYTES]; /* tokens are signed with it; zeros while auth is disabled */
};

/* The machine's counters, one record. */
struct kv_state {
    int64_t revision;  /* of the last change; 1 at first */
    int64_t compacted; /* -1 at first */
    struct kv_at walk; /* the next change that the walk of a compaction looks at */
    uint64_t keys;     /* that exist now */
    uint64_t leases;
    uint64_t bytes;    /* of the changes that are kept */
    uint64_t alive_ms; /* the engine's time, of the last entry */
    uint64_t now_ms;   /* wall clock, never falling, of the last entry */
    uint32_t no_space; /* alarms of that type */
    uint32_t corrupt;
    struct kv_auth auth;
};

/* A key and its value. */
struct kv_item {
    struct slice key, value;
    int64_t create, mod, version, lease;
    uint32_t sub;         /* of the change in its revision */
    bool value_elsewhere; /* the value is only in the change's record */
    struct slice encoded; /* as mvccpb.KeyValue; without the value if it is elsewhere */
    uint64_t whole_bytes; /* of the KeyValue with its value */
};

/* A change: a version of a key, or its deletion. */
struct kv_change {
    struct kv_at at;
    bool deletion;
    struct kv_at previous;   /* the version that it superseded; revision 0: none */
    uint64_t previous_bytes; /* of that version's record */
    struct slice encoded;    /* mvccpb.KeyValue; of a deletion: the key only */
};

struct kv_lease {
    int64_t id;
    int64_t ttl_s;
    uint64_t deadline_ms; /* on the engine's clock (alive) */
    uint64_t due_ms;      /* where it stands in KV_PREFIX_DUE: not later than the deadline */
};

/* Key builders replace the contents of `out`. */
void kv__key(struct bytes *out, enum kv_prefix prefix, struct slice rest);
void kv__key_change(struct bytes *out, struct kv_at at);
void kv__key_history(struct bytes *out, struct slice key, struct kv_at at);
void kv__key_history_start(struct bytes *out, struct slice key); /* before all of the key's */
void kv__key_u64(struct bytes *out, enum kv_prefix prefix, uint64_t a);
void kv__key_u64_rest(struct bytes *out, enum kv_prefix prefix, uint64_t a, struct slice rest);
/* Parse a key without its prefix byte; the user's key of a history key is put into `ret_key`. */
bool kv__parse_history(struct slice in, struct bytes *ret_key, struct kv_at *ret);
bool kv__parse_at(struct slice in, struct kv_at *ret);

void kv__state_encode(const struct kv_state *s, struct bytes *out);
/* Is the record of a version that kv__state_decode reads? */
bool kv__state_is_current(struct slice in);
bool kv__state_decode(struct slice in, struct kv_state *ret);
/* Decoders fail if the record is damaged. Encoders replace the contents of `out`. */
void kv__latest_encode(const struct kv_item *item, struct bytes *out);
bool kv__latest_decode(struct slice stored, struct kv_item *ret);
void kv__change_encode(const struct kv_change *c, struct slice encoded, struct bytes *out);
bool kv__change_decode(struct slice stored, struct kv_change *ret); /* not `at` */
/* What a change with a KeyValue of that size counts for in kv_state.bytes. */
uint64_t kv__change_bytes(uint64_t encoded_bytes);
void kv__lease_encode(const struct kv_lease *l, struct bytes *out);
bool kv__lease_decode(struct slice stored, struct kv_lease *ret); /* not `id` */
/* Of a superseded version: whether it is a deletion, and the revision that superseded it. */
struct kv_past {
    bool deletion;
    int64_t next; /* of a deletion: 0 */
};
void kv__past_encode(const struct kv_past *p, struct bytes *out);
bool kv__past_decode(struct slice stored, struct kv_past *ret);
/* Whether a record of a snapshot is of a known kind and well formed. */
bool kv__record_sound(struct slice key, struct slice value);

/* ---- Protobuf by hand ------------------------------------------------------------------------ */

void kv__wire_number(struct bytes *out, uint32_t field, uint64_t v);    /* nothing if 0 */
void kv__wire_bytes(struct bytes *out, uint32_t field, struct slice s); /* nothing if empty */
void kv__wire_message(struct bytes *out, uint32_t field, struct slice s);
void kv__wire_header(struct bytes *out, int64_t revision);         /* field 1: a ResponseHeader */
void kv__wire_item(struct bytes *out, const struct kv_item *item); /* the body of a KeyValue */
bool kv__wire_item_decode(struct slice in, struct kv_item *ret);   /* not sub and encoded */

/* ---- The machine ----------------------------------------------------------------------------- */

struct kv_counts; /* kv_count.c */
struct kv_exec;

struct kv {
    struct state_db *db;
    struct state_space space;
    uint64_t shard_id;
    uint64_t quota_bytes; /* 0: none */
    struct kv_state state;
    /* Leases: when the first may be due; and the record at which the walk for it may begin. */
    uint64_t next_due_ms, due_floor_ms;
    int64_t due_floor_id;
    struct kv_counts *counts;
};

struct kv_view {
    struct state_view *db;
    struct kv_state state;
};

/* Reads either a view, or the database under the batch of an apply. */
struct kv_reader {
    struct kv *kv;
    const struct state_view *view;
    struct state_batch *batch;    /* if not NULL, `view` is not used */
    const struct kv_state *state; /* as of the view; in an apply: after the last entry */
    int64_t revision;             /* what "now" is for reads */
};
/* NOT_FOUND leaves `ret` and `st` alone. */
enum thole_code kv__get(const struct kv_reader *r, struct slice key, struct buf **ret,
                        struct thole_status *st);
struct state_iter *kv__iter(const struct kv_reader *r, struct slice from, struct slice to);
/* From [prefix, from] to the end of the prefix. */
struct state_iter *kv__iter_prefix(const struct kv_reader *r, enum kv_prefix prefix,
                                   struct slice from);
enum thole_code kv__damaged(struct thole_status *st, const char *what);
/* The record of a change; its slices point into `*ret_buf`. NOT_FOUND as kv__get. */
enum thole_code kv__get_change(const struct kv_reader *r, struct kv_at at, struct kv_change *ret,
                               struct buf **ret_buf, struct thole_status *st);
/* The item as of now, in `arena`; `*ret_found` says whether it exists. Without `with_value` a large
 * value is left elsewhere. */
enum thole_code kv__get_latest(const struct kv_reader *r, struct slice key, bool with_value,
                               struct arena *arena, struct kv_item *ret, bool *ret_found,
                               struct thole_status *st);

/* ---- Refusals -------------------------------------------------------------------------------- */

struct kv_refusal {
    enum thole_code code;
    const char *text;
};
/* With etcd's code and text. */
#define KV_REFUSAL(name, code, text) \
    const struct kv_refusal name = {THOLE_##code, "etcdserver: " text}
extern const struct kv_refusal kv__empty_key, kv__key_not_found, kv__value_provided,
    kv__lease_provided, kv__too_many_operations, kv__duplicate_key, kv__bad_sort, kv__compacted,
    kv__future, kv__lease_not_found, kv__lease_exists, kv__ttl_too_large, kv__no_space, kv__corrupt,
    kv__not_a_number, kv__number_out_of_range, kv__too_large, kv__malformed, kv__too_many_alarms,
    kv__read_only, kv__value_too_large, kv__user_empty, kv__permission_denied, kv__invalid_token;

const struct kv_refusal *kv__check_range(const etcdserverpb_RangeRequest *m);
const struct kv_refusal *kv__check_put(const etcdserverpb_PutRequest *m);
const struct kv_refusal *kv__check_delete(const etcdserverpb_DeleteRangeRequest *m);
const struct kv_refusal *kv__check_txn(const etcdserverpb_TxnRequest *m);
bool kv__txn_is_read_only(const etcdserverpb_TxnRequest *m);
/* Bytes that its puts may add. */
uint64_t kv__txn_cost(const etcdserverpb_TxnRequest *m);

typedef const etcdserverpb_RequestOp *const *kv__operations; /* of one branch of a Txn */

static inline kv__operations kv__branch(const etcdserverpb_TxnRequest *m, bool success,
                                        size_t *ret_count)
{
    return success ? etcdserverpb_TxnRequest_success(m, ret_count)
                   : etcdserverpb_TxnRequest_failure(m, ret_count);
}
/* `total`: at least the number of operations in `ops`, with nested ones. */
bool kv__is_apart(kv__operations ops, size_t n, size_t total);

static inline int kv__compare_i64(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static inline struct slice kv__slice(upb_StringView v)
{
    return slice_of(v.data, v.size);
}

/* ---- Ranges ---------------------------------------------------------------------------------- */

/* The keys of a request: one, or [from, to) with `to` empty for no end. */
struct kv_keys {
    struct slice from, to;
    bool one;
};
struct kv_keys kv__keys_of(struct slice key, struct slice range_end);
struct kv_keys kv__keys(upb_StringView key, upb_StringView range_end);
bool kv__keys_contain(const struct kv_keys *k, struct slice key);

struct kv_scan;
/* The keys in order as of `revision`, which is not compacted and not in the future. */
struct kv_scan *kv__scan_new(const struct kv_reader *r, const struct kv_keys *keys,
                             int64_t revision, bool with_values);
/* False at the end, or on failure (then kv__scan_status is not OK). `ret` lives until the next
 * call. */
bool kv__scan_next(struct kv_scan *s, struct kv_item *ret);
enum thole_code kv__scan_status(struct kv_scan *s, struct thole_status *st);
void kv__scan_free(struct kv_scan *s);

/* Appends a RangeResponse; or sets `*ret_refusal`. */
enum thole_code kv__range(const struct kv_reader *r, const etcdserverpb_RangeRequest *m,
                          struct bytes *out, const struct kv_refusal **ret_refusal,
                          struct thole_status *st);

/* ---- Counts ---------------------------------------------------------------------------------- */

/* A query that scans so many keys only to count them has the tree built for the next one. */
#define KV_COUNT_SCAN_MAX 10000

struct kv_counts *kv__counts_new(void);
void kv__counts_free(struct kv_counts *c);
void kv__counts_reset(struct kv *kv); /* the state was loaded */
/* The number of keys of a range as of a revision, if that is known without a scan. */
bool kv__count(const struct kv_reader *r, const struct kv_keys *keys, int64_t revision,
               int64_t *ret);
void kv__count_scanned(const struct kv_reader *r, int64_t keys);
/* An apply batch: at its begin, for keys that come and go, and when it is in the database. */
void kv__count_begin(struct kv_exec *x);
void kv__count_add(struct kv_exec *x, struct slice key);
void kv__count_remove(struct kv_exec *x, struct slice key);
void kv__count_commit(struct kv_exec *x);

/* ---- One entry ------------------------------------------------------------------------------- */

struct kv_event {
    uint64_t index;
    size_t key_at, key_size, event_at, event_size; /* in kv_exec.event_bytes */
};

struct kv_delta {            /* a key that came or went */
    size_t key_at, key_size; /* in kv_exec.delta_bytes */
    bool added;
};

/* Executes the commands of an apply batch. */
struct kv_exec {
    struct kv *kv;
    struct kv_reader reader;
    upb_Arena *upb;
    struct arena *arena; /* reset for each entry */
    struct bytes key, key2, value, item;
    /* The entry */
    uint64_t index;
    int64_t begin; /* the revision before it */
    uint32_t subs; /* changes so far */
    const struct kv_refusal *refusal;
    struct bytes out;
    /* The batch */
    bool watched;
    struct kv_event *events;
    size_t event_count, event_capacity;
    struct bytes event_bytes;
    bool counting;
    struct kv_delta *deltas;
    size_t delta_count, delta_capacity;
    struct bytes delta_bytes;
};
/* Carry out one command; x->refusal or x->out says what came of it. Fails only if the database
 * does. */
enum thole_code kv__execute(struct kv_exec *x, struct thole_slice payload, struct thole_status *st);
static inline int64_t kv__revision(const struct kv_exec *x)
{
    return x->begin + (x->subs > 0);
}
/* After each change: reads of the same entry see it. */
void kv__changed(struct kv_exec *x);
/* The changes so far are a revision; what follows is another. */
void kv__finish_revision(struct kv_exec *x);

void kv__batch_put(struct kv_exec *x, struct slice key, struct slice value);
void kv__batch_delete(struct kv_exec *x, struct slice key);

/* `old` NULL: the key does not exist. `*ret` (may be NULL) is the new item; its slices live until
 * the next change. */
void kv__put(struct kv_exec *x, struct slice key, struct slice value, int64_t lease,
             const struct kv_item *old, struct kv_item *ret);
void kv__delete(struct kv_exec *x, const struct kv_item *old);
enum thole_code kv__delete_keys(struct kv_exec *x, const struct kv_keys *keys, size_t *ret_deleted,
                                struct thole_status *st);

enum thole_code kv__do_put(struct kv_exec *x, const etcdserverpb_PutRequest *m, struct bytes *out,
                           struct thole_status *st);
enum thole_code kv__do_delete(struct kv_exec *x, const etcdserverpb_DeleteRangeRequest *m,
                              struct bytes *out, struct thole_status *st);
/* `x` NULL: a query, which must not change anything. */
enum thole_code kv__do_txn(struct kv_exec *x, const struct kv_reader *r,
                           const etcdserverpb_TxnRequest *m, struct bytes *out,
                           const struct kv_refusal **ret_refusal, struct thole_status *st);
/* The value after the operation; `old` NULL: the key does not exist. */
const struct kv_refusal *kv__modified_value(const thole_kv_v1_ModifyRequest *m,
                                            const struct kv_item *old, struct bytes *ret);
enum thole_code kv__do_modify(struct kv_exec *x, const thole_kv_v1_ModifyRequest *m,
                              struct bytes *out, struct thole_status *st);
enum thole_code kv__do_compact(struct kv_exec *x, const etcdserverpb_CompactionRequest *m,
                               struct thole_status *st);
/* Look at up to `budget` changes below the compacted revision, and delete what they superseded. */
enum thole_code kv__walk(struct kv_exec *x, size_t budget, struct thole_status *st);
bool kv__walk_pending(const struct kv_state *s);

/* ---- Leases ---------------------------------------------------------------------------------- */

enum thole_code kv__lease_get(const struct kv_reader *r, int64_t id, struct kv_lease *ret,
                              bool *ret_found, struct thole_status *st);
void kv__lease_attach(struct kv_exec *x, int64_t id, struct slice key);
void kv__lease_detach(struct kv_exec *x, int64_t id, struct slice key);
enum thole_code kv__do_grant(struct kv_exec *x, const etcdserverpb_LeaseGrantRequest *m,
                             struct thole_status *st);
enum thole_code kv__do_revoke(struct kv_exec *x, const etcdserverpb_LeaseRevokeRequest *m,
                              struct thole_status *st);
enum thole_code kv__do_keep_alive(struct kv_exec *x, const etcdserverpb_LeaseKeepAliveRequest *m,
                                  struct thole_status *st);
/* Revoke what is overdue at the time of the last entry, at least one lease and about
 * THOLE_TICK_ITEMS_MAX keys; each lease takes a revision of its own. */
enum thole_code kv__expire(struct kv_exec *x, struct thole_status *st);
/* When the next lease may be due, on the engine's clock; UINT64_MAX: none. */
enum thole_code kv__lease_next_due(const struct kv_reader *r, uint64_t *ret,
                                   struct thole_status *st);
enum thole_code kv__lease_time_to_live(const struct kv_reader *r,
                                       const etcdserverpb_LeaseTimeToLiveRequest *m,
                                       struct bytes *out, struct thole_status *st);
enum thole_code kv__lease_list(const struct kv_reader *r, struct bytes *out,
                               struct thole_status *st);

/* Of a record's key under KV_PREFIX_ATTACHED: the user's key. */
static inline struct slice kv__attached_key(struct slice record_key)
{
    size_t head = 1 + 8; /* the prefix and the lease */
    return slice_of(record_key.data + head, record_key.size - head);
}
/* The keys attached to the lease, in order; each in the arena, the array malloced. */
enum thole_code kv__lease_keys(const struct kv_reader *r, int64_t id, struct arena *arena,
                               struct slice **ret, size_t *ret_count, struct thole_status *st);

/* ---- Auth ------------------------------------------------------------------------------------ */

struct kv_user {
    struct slice name, password; /* empty: the user has none */
    struct slice *roles;         /* in order */
    size_t role_count;
    uint64_t since; /* the revision of auth as of which the password is valid */
};

struct kv_permission {
    struct slice key, range_end;
    int32_t type; /* authpb_Permission_Type */
};

struct kv_role {
    struct slice name;
    struct kv_permission *permissions; /* in order of their keys */
    size_t count;
};

extern const struct slice kv__root; /* the name of the user and of the role */

/* All they point to is in the arena. */
enum thole_code kv__user_get(const struct kv_reader *r, struct slice name, struct arena *arena,
                             struct kv_user *ret, bool *ret_found, struct thole_status *st);
enum thole_code kv__role_get(const struct kv_reader *r, struct slice name, struct arena *arena,
                             struct kv_role *ret, bool *ret_found, struct thole_status *st);
void kv__user_put(struct kv_exec *x, const struct kv_user *u);
void kv__role_put(struct kv_exec *x, const struct kv_role *role);
/* Of every record under the prefix: the names, in order, in the arena; the array malloced. */
enum thole_code kv__auth_names(const struct kv_reader *r, enum kv_prefix prefix,
                               struct arena *arena, struct slice **ret, size_t *ret_count,
                               struct thole_status *st);
/* Its type is known, and its range is not empty. */
bool kv__permission_is_valid(const struct kv_permission *p);
void kv__wire_permission(struct bytes *out, const struct kv_permission *p);
bool kv__user_has_role(const struct kv_user *u, struct slice role);
bool kv__user_sound(struct slice name, struct slice stored);
bool kv__role_sound(struct slice name, struct slice stored);

/* Commands and queries about users and roles; x->refusal, or x->out. */
enum thole_code kv__do_auth(struct kv_exec *x, const thole_kv_v1_Command *m,
                            struct thole_status *st);
enum thole_code kv__auth_query(const struct kv_reader *r, const thole_kv_v1_Query *m,
                               struct bytes *out, const struct kv_refusal **ret_refusal,
                               struct thole_status *st);

/* May the caller do all that the request does? kv_permit.c. */
enum thole_code kv__permit_command(struct kv_exec *x, const thole_kv_v1_Command *m,
                                   const struct kv_refusal **ret_refusal, struct thole_status *st);
enum thole_code kv__permit_query(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                 const struct kv_refusal **ret_refusal, struct thole_status *st);

/* Answers a PermitRequest. */
enum thole_code kv__permit_ranges(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                  struct bytes *out, const struct kv_refusal **ret_refusal,
                                  struct thole_status *st);
/* The keys whose changes the holder of a ticket may see. NULL: all. The ticket is valid, or `token`
 * is none. */
struct kv_sight;
enum thole_code kv__sight_new(const struct kv_reader *r, struct slice token, struct kv_sight **ret,
                              struct thole_status *st);
bool kv__sight_has(const struct kv_sight *s, struct slice key);
void kv__sight_free(struct kv_sight *s);
/* The revision of auth whose rights count, for answers; 0: auth is disabled. */
static inline uint64_t kv__auth_revision(const struct kv_reader *r)
{
    return r->state->auth.enabled ? r->state->auth.revision : 0;
}

/* What a valid token says; the name is a slice of it. */
struct kv_token {
    struct slice name;
    uint64_t revision; /* of auth, when it was made; of a ticket: see kv_user.since */
    bool ticket;
};
bool kv__token_read(const struct kv_reader *r, struct slice token, struct kv_token *ret);
void kv__ticket_make(const struct kv_reader *r, const struct kv_user *u, struct bytes *out);
/* Salt and login. */
enum thole_code kv__token_query(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                struct bytes *out, const struct kv_refusal **ret_refusal,
                                struct thole_status *st);

/* ---- Quota and alarms ------------------------------------------------------------------------ */

/* Refuses, and raises the alarm, if `cost` more bytes pass the quota. */
const struct kv_refusal *kv__check_space(struct kv_exec *x, uint64_t cost);
enum thole_code kv__do_alarm(struct kv_exec *x, const etcdserverpb_AlarmRequest *m,
                             struct thole_status *st);
enum thole_code kv__alarm_list(const struct kv_reader *r, const etcdserverpb_AlarmRequest *m,
                               struct bytes *out, struct thole_status *st);
uint64_t kv__parse_quota(struct thole_slice config);

/* ---- Queries --------------------------------------------------------------------------------- */

/* Is the query well formed, and may the caller make it? */
enum thole_code kv__admit_query(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                const struct kv_refusal **ret_refusal, struct thole_status *st);
enum thole_code kv__query(void *machine, const void *view, struct thole_slice query,
                          struct thole_sink *answer, struct thole_status *st);

/* Answers in pieces: those of Range that come in the order of the keys. Each piece is a
 * RangeResponse, and so are all of them together (kv_range.c). */
enum thole_code kv__read_open(void *machine, const void *view, struct thole_slice query,
                              void **ret_reader, struct thole_status *st);
enum thole_code kv__read_next(void *machine, void *reader, size_t bytes, struct thole_sink *piece,
                              bool *ret_end, struct thole_status *st);
void kv__read_close(void *machine, void *reader);
enum thole_code kv__events(const struct kv_reader *r, const thole_kv_v1_EventsRequest *m,
                           struct slice token, struct bytes *out,
                           const struct kv_refusal **ret_refusal, struct thole_status *st);
enum thole_code kv__hash(const struct kv_reader *r, const etcdserverpb_HashKVRequest *m,
                         struct bytes *out, const struct kv_refusal **ret_refusal,
                         struct thole_status *st);
/* The body of an mvccpb.Event; `previous` may be empty. */
void kv__append_event(struct bytes *out, bool deletion, struct slice encoded,
                      struct slice previous);

/* ---- Text ------------------------------------------------------------------------------------ */

enum thole_code kv__text_execute(struct kv_exec *x, struct slice in, struct thole_status *st);
enum thole_code kv__text_query(const struct kv_reader *r, struct slice in, struct bytes *out,
                               const struct kv_refusal **ret_refusal, struct thole_status *st);

/* ---- Snapshots ------------------------------------------------------------------------------- */

enum thole_code kv__save(void *machine, const void *view, struct thole_save *to,
                         struct thole_status *st);
enum thole_code kv__restore(void *machine, struct thole_restore *from, struct thole_status *st);
void kv__put_meta(struct kv *kv, struct state_batch *batch, const struct thole_meta *meta,
                  size_t meta_count);
/* When the next TICK has something to do. */
struct thole_due kv__due(const struct kv *kv);
/* Reads struct kv_state, or the state of an empty store. */
enum thole_code kv__load_state(struct kv *kv, struct thole_status *st);

#endif
