/* What the files of the kv machine share.
 *
 *   kv.c           the machine: open, apply, views, destroy
 *   kv_batch.c     the state as one apply batch sees it, and its one write
 *   kv__exec.c      what each command does
 *   kv_proto.c     commands, queries and results in protobuf
 *   kv_text.c      the same as text
 *   kv__query.c     reading from a view
 *   kv_snapshot.c  save and restore */
#ifndef SHARDS_MACHINE_KV_INTERNAL_H
#define SHARDS_MACHINE_KV_INTERNAL_H

#include <thole/machine.h>
#include <upb/upb.h>

#include "base/arena.h"
#include "shards/store/store.h"

#define KV_KEY_BYTES_MAX 4096
#define KV_RANGE_LIMIT 1000
#define KV_RANGE_LIMIT_MAX 10000
#define KV_RANGE_BYTES_MAX ((size_t)1 * MIB)
#define KV_PROTO_BYTE 0x00 /* the first byte of a payload in protobuf */
/* Keys of the space begin with one of these. */
#define KV_PREFIX_META 0x00
#define KV_PREFIX_USER 0x01

enum kv_code { KV_OK = 0, KV_INVALID = 1, KV_CONFLICT = 2, KV_NOT_FOUND = 3 };

struct kv {
    struct state_db *db;
    struct state_space space;
    /* Only during an apply or a restore: an idle machine is small, and there are many. */
    struct state_batch *batch;
    struct arena *arena;
    struct bytes out;
};
void kv__work_begin(struct kv *kv);
void kv__work_end(struct kv *kv);

/* A value as it is now. Stored as [create LE 8][mod LE 8][version LE 8][value]. */
#define KV_STORED_HEADER_BYTES 24
struct kv_item {
    struct slice key;
    struct slice value;
    uint64_t create_index, mod_index, version;
};
bool kv__item_decode(struct slice stored, struct kv_item *ret); /* not the key */
void kv__item_encode(const struct kv_item *item, struct bytes *out);

/* ---- Commands and queries, whichever form they came in --------------------------------------- */

enum kv_op_kind { KV_GET = 1, KV_PUT, KV_DELETE, KV_DELETE_RANGE, KV_CAS, KV_RANGE };
enum kv_expect { KV_EXPECT_ABSENT = 1, KV_EXPECT_MOD_INDEX, KV_EXPECT_VALUE };

struct kv_op {
    enum kv_op_kind kind;
    bool text;
    struct slice key; /* ranges: from */
    struct slice to;
    struct slice value;
    uint32_t limit;
    bool keys_only;
    enum kv_expect expect;
    uint64_t expect_index;
    struct slice expect_value;
    bool cas_delete;
};
/* Parse and check. NULL, or what is wrong (a static string). `op->text` is set in any case. */
const char *kv__parse_command(struct thole_slice payload, upb_Arena *arena, struct kv_op *ret);
const char *kv__parse_query(struct thole_slice payload, upb_Arena *arena, struct kv_op *ret);
const char *kv__proto_command(struct slice in, upb_Arena *arena, struct kv_op *op);
const char *kv__proto_query(struct slice in, upb_Arena *arena, struct kv_op *op);
const char *kv__text_command(struct slice in, struct kv_op *op);
const char *kv__text_query(struct slice in, struct kv_op *op);

struct kv_result {
    enum kv_code code;
    const char *error;
    bool has_current;
    bool with_value; /* current's key and value are part of the result */
    struct kv_item current;
    uint64_t deleted;
    bool counts_deleted;
    bool more;
};
/* Replace the contents of `out`. */
void kv__proto_result(const struct kv_result *r, upb_Arena *arena, struct bytes *out);
void kv__text_result(const struct kv_result *r, struct bytes *out);
void kv__proto_event(const struct kv_item *item, bool deleted, upb_Arena *arena, struct bytes *out);

/* ---- One apply batch ------------------------------------------------------------------------- */

/* The keys that the batch touched, over what the database holds. */
struct kv_cell {
    struct kv_item item; /* the key always; the rest if present */
    uint64_t hash;
    bool present, dirty;
};
struct kv_event {
    struct kv_item item;
    uint64_t index;
    bool deleted;
};
struct kv_batch {
    struct kv *kv;
    upb_Arena *upb;
    struct kv_cell **cells; /* in the order of first use */
    size_t cell_count, cell_capacity;
    uint32_t *table; /* open addressing: cell number + 1 */
    size_t table_size;
    struct kv_event *events; /* only if the shard has watchers */
    size_t event_count, event_capacity;
    bool watched;
};
void kv__batch_init(struct kv_batch *b, struct kv *kv, bool watched);
void kv__batch_deinit(struct kv_batch *b);
/* The key's cell, read from the database at first use. `key` must live as long as the batch. */
enum thole_code kv__batch_cell(struct kv_batch *b, struct slice key, struct kv_cell **ret,
                               struct thole_status *st);
void kv__batch_put(struct kv_batch *b, struct kv_cell *c, struct slice value, uint64_t index);
void kv__batch_delete(struct kv_batch *b, struct kv_cell *c, uint64_t index);
/* Delete up to `limit` keys of [from, to). */
enum thole_code kv__batch_delete_range(struct kv_batch *b, struct slice from, struct slice to,
                                       uint32_t limit, uint64_t index, uint64_t *ret_deleted,
                                       bool *ret_more, struct thole_status *st);
/* All changes and the metadata in one state_batch. */
enum thole_code kv__batch_write(struct kv_batch *b, const struct thole_meta *meta,
                                size_t meta_count, struct thole_status *st);
void kv__put_meta(struct kv *kv, const struct thole_meta *meta, size_t meta_count);

/* Carry out a parsed command. Fails only if the database does. */
enum thole_code kv__exec(struct kv_batch *b, const struct kv_op *op, uint64_t index,
                         struct kv_result *ret, struct thole_status *st);

/* ---- The machine's functions in other files -------------------------------------------------- */

void kv__user_key(struct bytes *out, struct slice key);
enum thole_code kv__query(void *machine, const void *view, struct thole_slice query,
                          struct thole_sink *answer, struct thole_status *st);
enum thole_code kv__save(void *machine, const void *view, struct thole_sink *out,
                         struct thole_status *st);
enum thole_code kv__restore(void *machine, struct thole_source *in, const struct thole_meta *meta,
                            size_t meta_count, struct thole_status *st);

#endif
