/* The kv machine, for `thole kv` and `thole watch`. */
#ifndef AGENT_CLI_CMD_KV_H
#define AGENT_CLI_CMD_KV_H

#include "agent/cli/cmd_data.h"
#include "etcd/kv.upb.h"
#include "etcd/rpc.upb.h"
#include "thole/kv/v1/kv.upb.h"

/* ---- Calls (kv_call.c) ----------------------------------------------------------------------- */

/* Where requests go. */
struct kv_target {
    const char *shard;  /* or pool */
    upb_StringView key; /* of a pool: whose slot's owner is called; empty: `shard` is a shard */
};

/* From the command's first argument and --key; in a pool without --key, `key` says which shard.
 * CLI_OK, or the exit code of a failure that was reported: not of type kv, or a pool without a
 * key. A machine of another type would misread the bytes. */
int kv_find_target(struct cli *c, upb_StringView key, struct kv_target *ret);
/* `*ret` is the machine's answer: etcd's response message for the request. */
int kv_propose(struct cli *c, const struct kv_target *t, const thole_kv_v1_Command *command,
               struct slice *ret);
/* `ret_index`: in the log, of the answer; NULL: not wanted. */
int kv_query(struct cli *c, const struct kv_target *t, const thole_kv_v1_Query *q,
             struct slice *ret, uint64_t *ret_index);
int kv_undecodable(void); /* says so; the exit code */

#define KV_NONE      \
    (upb_StringView) \
    {                \
        NULL, 0      \
    }

/* ---- Keys and values (kv_words.c) ------------------------------------------------------------ */

/* The argument, or what its escapes mean with --escaped. CLI_OK, or the code of a failure. */
int kv_key_argument(struct cli *c, size_t index, upb_StringView *ret);
/* A value: text; @FILE and @- are a file and stdin; @@ begins a text with one @. Without the
 * argument: stdin. */
int kv_value_argument(struct cli *c, size_t index, upb_StringView *ret);
/* KEY, [KEY, END), --prefix or --from-key; all keys without KEY, which only `all` allows. */
int kv_range_arguments(struct cli *c, bool all, upb_StringView *ret_key, upb_StringView *ret_end);
/* The end of the range of all keys that begin with the prefix. */
upb_StringView kv_prefix_end(upb_Arena *arena, upb_StringView prefix);
/* The end of the range of all keys after a key. */
extern const upb_StringView kv_no_end;
/* False: a backslash that begins no escape. `text` ends where `out` is written, or is elsewhere. */
bool kv_unescape(upb_StringView text, struct bytes *out);
/* Text that is safe on a terminal and has no line breaks. Other bytes and backslashes are escapes
 * that kv_unescape reads; with `hex` all bytes. */
void kv_escape(upb_StringView bytes, bool hex, struct bytes *out);
/* An id in hexadecimal, as etcdctl shows them. */
bool kv_lease_id(const char *text, int64_t *ret);

/* ---- Output (kv_show.c) ---------------------------------------------------------------------- */

/* Keys with values, in the format of -o. With -o json and yaml they are one list. */
struct kv_list {
    struct cli *c;
    bool keys_only;
    struct bytes document;
};
void kv_list_add(struct kv_list *l, const mvccpb_KeyValue *const *items, size_t count);
int kv_list_end(struct kv_list *l); /* the exit code */
/* With -o json and yaml: the list of these items, with commas between. */
void kv_print_document(struct cli *c, const struct bytes *items);
/* One line "KEY VALUE". */
void kv_show_item(struct cli *c, const mvccpb_KeyValue *item);
/* One line for an event of a kv shard, and one for the key before it if the event has that. */
void kv_show_decoded(struct cli *c, const mvccpb_Event *event);
/* The same; false if it does not decode. */
bool kv_show_event(struct cli *c, upb_StringView bytes);

/* ---- Transactions (kv_txn_read.c) ------------------------------------------------------------ */

/* etcdctl's form of a transaction, line by line: comparisons, operations if all of them hold,
 * operations if not; an empty line ends each. */
enum kv_txn_section { KV_TXN_COMPARES, KV_TXN_SUCCESS, KV_TXN_FAILURE, KV_TXN_END };
struct kv_txn_reader {
    upb_Arena *arena;
    etcdserverpb_TxnRequest *txn;
    enum kv_txn_section section;
    unsigned line;
};
void kv_txn_reader_init(struct kv_txn_reader *r, upb_Arena *arena);
/* One line without its end. INVALID_ARGUMENT: what is wrong with it, and its number. */
THOLE_MUST_CHECK enum thole_code kv_txn_read_line(struct kv_txn_reader *r, struct slice line,
                                                  struct thole_status *st);

#endif
