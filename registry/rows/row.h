/* Rows of shard zero, packed and open, and the persistent trees that index them.
 *
 * Ownership: a tree node holds references to its rows and children. Counts are atomic because the
 * last reader of a view may be on any thread. */
#ifndef REGISTRY_ROWS_ROW_H
#define REGISTRY_ROWS_ROW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <upb/upb.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"
#include "registry/registry.h"

/* ---- Rows ------------------------------------------------------------------------------------ */

enum row_kind {
    ROW_HOST,
    ROW_SHARD,
    ROW_REPLICA,
    ROW_POOL,
    ROW_OPERATION,
    ROW_ROLE,
    ROW_TOKEN,
    ROW_RESOURCES, /* how many kinds of rows have a name and a revision */
    ROW_EVENT = ROW_RESOURCES,
    ROW_REQUEST,
    ROW_MARKS, /* of the journal: see journal.c */
};

/* A row in trees. */
struct packed {
    _Atomic uint32_t refs;
    uint8_t kind; /* enum row_kind */
    bool whole;   /* the message is not packed: see packed_row.c */
    uint16_t tag; /* events: a hash of object and reason */
    _Alignas(8) uint8_t data[];
};

/* A row that a command reads or edits; in the arena of its scope, and freed with it. */
struct row {
    enum row_kind kind;
    struct uuid host_id;   /* hosts: the id; replicas: the host they are on */
    uint64_t sequence;     /* events and requests */
    struct packed *packed; /* the packed row that is open here; NULL: the row is new, or edited */
    upb_Arena *arena;
    union {
        void *msg;
        thole_v1_Host *host;
        thole_v1_Shard *shard;
        thole_v1_Replica *replica;
        thole_v1_ShardPool *pool;
        thole_v1_Operation *operation;
        thole_v1_Role *role;
        thole_registry_v1_StoredToken *token;
        thole_v1_Event *event;
        thole_registry_v1_RememberedRequest *request;
    };
};

/* Where rows are open. A row that is opened stays valid as long as the scope, even if it is
 * dropped from the trees. */
struct row_scope {
    upb_Arena *arena;
    struct held {
        struct packed *row;
        const struct held *next;
    } * held;
    struct bytes scratch; /* to pack in */
};
void registry__scope_init(struct row_scope *d);
void registry__scope_deinit(struct row_scope *d);
void registry__scope_hold(struct row_scope *d, struct packed *p);

struct row *registry__row_new(struct row_scope *d, enum row_kind kind); /* an empty message */
struct row *registry__row_adopt(struct row_scope *d, enum row_kind kind, void *msg);
struct row *registry__row_copy(struct row_scope *d, const struct row *from); /* to edit */
struct row *registry__open(struct row_scope *d, struct packed *p);           /* NULL stays NULL */
const upb_MiniTable *registry__row_table(enum row_kind kind);

struct packed *registry__packed_new(enum row_kind kind, size_t data_bytes); /* one reference */
struct packed *registry__row_pack(const struct row *row, struct bytes *scratch);
struct packed *registry__packed_ref(struct packed *p);
void registry__packed_unref(struct packed *p); /* NULL is fine */
/* The row's message: valid as long as `p` and, if it is not whole, what `buf` is used for: the
 * buffer of its kind. NULL stays NULL. */
const void *registry__packed_message(const struct packed *p, void *buf);
void *registry__packed_open(const struct packed *p, upb_Arena *arena, bool edit);
struct slice registry__packed_name(const struct packed *p);
uint64_t registry__packed_id(const struct packed *p);       /* or sequence */
uint64_t registry__packed_shard(const struct packed *p);    /* of a replica */
struct uuid registry__packed_host(const struct packed *p);  /* a host, or that of a replica */
uint64_t registry__packed_revision(const struct packed *p); /* of an event; the last of marks */
uint64_t registry__marks_last(const struct packed *p);      /* journal.c */
/* A hash: events with different tags differ in their object or reason. */
uint16_t registry__event_tag(const thole_v1_Event *e);

struct request_buf {
    uint64_t words[12];
};

/* Make a field absent, by its number; not for oneofs. upb's generated `_clear_` leaves the presence
 * bit of a message field set, beside a null pointer: .ci/check-calls forbids it. */
void registry__clear(void *msg, const upb_MiniTable *table, uint32_t number);

/* Messages, packed (pack.c). */
#define REGISTRY_REFERENCE_BYTES 6 /* of an address: registry.c relies on 48 bits, too */
/* Can the message be packed? Adds to `opened` the room that it takes when it is opened. */
bool registry__can_pack(const void *msg, const upb_MiniTable *table, bool sharing, size_t *opened);
void registry__pack(struct bytes *out, const void *msg, const upb_MiniTable *table, bool sharing);
struct opening {
    const uint8_t *from;
    upb_Arena *arena; /* NULL: into `to` */
    uint8_t *to;
    size_t room;
    bool sharing; /* as it was packed */
    bool edit;    /* shares only strings with the packed message */
};
void *registry__open_message(struct opening *o, const upb_MiniTable *table);
/* Releases the references in a packed message, before it is freed. */
void registry__give_back(const uint8_t **from, const upb_MiniTable *table);
uint64_t registry__packed_number(const uint8_t **from);
const struct part *registry__packed_reference(const uint8_t **from);

/* Parts that packed rows share (share.c). Any thread. */
struct part {
    struct part *next; /* of the same hash */
    uint64_t hash;
    const upb_MiniTable *table; /* NULL: a text */
    const void *content;        /* the message, open; or the text */
    const uint8_t *packed;
    size_t size;           /* of `packed` */
    struct uuid uuid;      /* of the text of one */
    _Atomic uint32_t refs; /* becomes 0 under the lock only */
    _Alignas(8) uint8_t data[];
};
bool registry__shares(const upb_MiniTable *table);
bool registry__shares_string(const upb_MiniTable *table, const upb_MiniTable_Field *f, size_t size);
/* The shared part with these bytes, a reference for the caller; `msg` is `packed` open, `table`
 * NULL for texts. */
const struct part *registry__share(struct slice packed, const upb_MiniTable *table,
                                   const void *msg);
void registry__unshare(const struct part *part);
size_t registry__shared_count(void); /* for tests */

/* Deterministic bytes of a message, in `arena`. */
struct slice registry__encode(const void *msg, const upb_MiniTable *table, upb_Arena *arena);
void *registry__message_copy(const void *msg, const upb_MiniTable *table, upb_Arena *arena);
bool registry__message_equal(const void *a, const void *b, const upb_MiniTable *table,
                             upb_Arena *scratch);
upb_StringView registry__dup(upb_Arena *arena, struct slice s);
upb_StringView registry__dup_str(upb_Arena *arena, const char *s);
/* Cut off an incomplete character at the end of a text that was cut. */
void registry__trim_utf8(char *text);

/* ---- The persistent trees -------------------------------------------------------------------- */

enum registry_index {
    INDEX_HOSTS,          /* host id; also the tombstones of removed hosts, which have no name */
    INDEX_HOST_NAMES,     /* name */
    INDEX_SHARDS,         /* shard id */
    INDEX_SHARD_NAMES,    /* name */
    INDEX_REPLICAS,       /* replica id */
    INDEX_SHARD_REPLICAS, /* shard id, replica id */
    INDEX_HOST_REPLICAS,  /* host id, replica id */
    INDEX_POOLS,          /* name */
    INDEX_OPERATIONS,     /* operation id */
    INDEX_ROLES,          /* name */
    INDEX_TOKENS,         /* id, as a name */
    INDEX_EVENTS,         /* sequence */
    INDEX_JOURNAL,        /* sequence */
    INDEX_REQUESTS,       /* request id */
    INDEX_REQUEST_ORDER,  /* sequence */
    INDEX_COUNT,
};

#define REGISTRY_TREE_MAX ((UINT32_C(1) << 24) - 1) /* rows in one tree */
#define REGISTRY_TREE_HEIGHT_MAX 16                 /* nodes may be nearly empty */

/* The key of a row in an index; the fields that the index does not use are 0. */
struct key {
    struct slice name; /* borrowed */
    struct uuid host;
    uint64_t shard;
    uint64_t id; /* or sequence */
};

struct key registry__key_id(uint64_t id);
struct key registry__key_name(struct slice name);
struct key registry__key_host(const struct uuid *host, uint64_t id);
struct key registry__key_shard(uint64_t shard, uint64_t id);
struct key registry__packed_key(enum registry_index index, const struct packed *p);
int registry__packed_compare(enum registry_index index, const struct packed *p,
                             const struct key *key);

struct node;
struct node *registry__tree_ref(struct node *root);
void registry__tree_unref(struct node *root);
/* Rows are borrowed from the tree; NULL: no such row. */
struct packed *registry__tree_get(const struct node *root, const struct key *key);
struct packed *registry__tree_after(const struct node *root, const struct key *key);
struct packed *registry__tree_before(const struct node *root, const struct key *key);
struct packed *registry__tree_first(const struct node *root);
/* In a tree ordered by rising revision: the first row with a higher one. */
struct packed *registry__tree_after_revision(const struct node *root, uint64_t revision);
uint32_t registry__tree_count(const struct node *root);
uint32_t registry__tree_rank(const struct node *root,
                             const struct key *key); /* how many are below */
/* Replace *root by a version with `row` (a reference is taken) in the place of its key, or without
 * `key`. */
void registry__tree_put(struct node **root, enum registry_index index, struct packed *row);
void registry__tree_remove(struct node **root, const struct key *key);
/* Asserts that the tree is what tree.c says. */
void registry__tree_check(const struct node *root, enum registry_index index);
/* Depends on which rows are in the tree, and on their order. */
uint64_t registry__tree_digest(const struct node *root, uint64_t seed);

#endif
