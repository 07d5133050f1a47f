/* `thole kv`: the built-in key-value machine, in its protobuf form (proto/thole/kv/v1/kv.proto), so
 * that keys and values may be any bytes. */
#include "agent/cli/cmd_kv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cmd_data.h"
#include "agent/cli/rows.h"
#include "base/text.h"
#include "etcd/kv.upb.h"
#include "etcd/kv.upbdefs.h"
#include "etcd/rpc.upb.h"
#include "etcd/rpc.upbdefs.h"
#include "proto/decode.h"
#include "thole/kv/v1/kv.upb.h"

#define RANGE_PAGE 1000

/* A machine of another type would misread the bytes. Checks the called host's rows; if they lack
 * the shard, the call itself reports it. In a pool the key of the item is that of the request. */
int kv_check_type(struct cli *c, bool *ret_pool)
{
    const char *name = cli__strip(c->args[0], "shard");
    const thole_v1_ShardSpec *spec = rows_spec_of(c, name, ret_pool);
    if (spec == NULL) {
        return CLI_OK;
    }
    upb_StringView type = thole_v1_ShardSpec_type(spec);
    return upb_StringView_IsEqual(type, cli__sv("kv"))
               ? CLI_OK
               : cli__say_failed("%s/%s is of type %.*s, not kv; use `thole propose` and `thole "
                                 "query`",
                                 *ret_pool ? "pools" : "shards", name, CLI_SV(type));
}

int kv_refuse_pool(struct cli *c)
{
    return cli__say_failed("%s is a pool: name one of its shards, \"%s-0\" and so on", c->args[0],
                           cli__strip(c->args[0], "shard"));
}

/* The byte 0x00, which marks the protobuf form, then the message. */
static struct payload encoded(struct cli *c, bool pool, const char *bytes, size_t size)
{
    char *copy = upb_Arena_Malloc(c->arena, size + 1);
    copy[0] = '\0';
    if (size > 0) {
        memcpy(copy + 1, bytes, size);
    }
    return (struct payload){
        .key = pool && c->arg_count > 1 ? cli__sv(c->args[1]) : (upb_StringView){NULL, 0},
        .bytes = {copy, size + 1},
    };
}

struct payload kv_payload(struct cli *c, const char *bytes, size_t size)
{
    return encoded(c, false, bytes, size);
}

/* `*ret` is the machine's answer: etcd's response message for the request. */
static int propose(struct cli *c, const thole_kv_v1_Command *command, struct slice *ret)
{
    struct thole_status st;
    const thole_v1_ProposeResponse *reply = NULL;
    size_t size = 0;
    bool pool = false;
    int type = kv_check_type(c, &pool);
    if (type != CLI_OK) {
        return type;
    }
    char *bytes = thole_kv_v1_Command_serialize(command, c->arena, &size);
    const struct payload p = encoded(c, pool, bytes, size);
    if (cli_data_propose(c, cli__strip(c->args[0], "shard"), &p, &reply, &st) != THOLE_OK) {
        return cli_data_failed("proposal to", c, &st);
    }
    upb_StringView data = thole_v1_ProposeResponse_data(reply);
    if (thole_v1_ProposeResponse_code(reply) != 0) {
        return cli__say_failed("not changed: %.*s", CLI_SV(data));
    }
    *ret = slice_of(data.data, data.size);
    return CLI_OK;
}

static int undecodable(void)
{
    return cli__say_failed("the answer does not decode; is it a shard of type kv?");
}

int cli__command_kv_put(struct cli *c)
{
    struct slice data = {0};
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_PutRequest *put = thole_kv_v1_Command_mutable_put(command, c->arena);
    etcdserverpb_PutRequest_set_key(put, cli__sv(c->args[1]));
    etcdserverpb_PutRequest_set_value(put, cli__sv(c->args[2]));
    int code = propose(c, command, &data);
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_PutResponse *answer = PROTO_DECODE(etcdserverpb_PutResponse, data, c->arena);
    if (answer == NULL) {
        return undecodable();
    }
    (void)cli_data_shown(c, answer, etcdserverpb_PutResponse_getmsgdef(c->pool));
    return cli__flush();
}

int cli__command_kv_delete(struct cli *c)
{
    struct slice data = {0};
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_DeleteRangeRequest *del =
        thole_kv_v1_Command_mutable_delete_range(command, c->arena);
    etcdserverpb_DeleteRangeRequest_set_key(del, cli__sv(c->args[1]));
    int code = propose(c, command, &data);
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_DeleteRangeResponse *answer =
        PROTO_DECODE(etcdserverpb_DeleteRangeResponse, data, c->arena);
    if (answer == NULL) {
        return undecodable();
    }
    (void)cli_data_shown(c, answer, etcdserverpb_DeleteRangeResponse_getmsgdef(c->pool));
    if (etcdserverpb_DeleteRangeResponse_deleted(answer) == 0) {
        (void)cli__say_failed("there is no such key: %s", c->args[1]);
        return CLI_NOT_FOUND;
    }
    return cli__flush();
}

/* If the key's value is the expected one: put; otherwise read the key. */
static thole_kv_v1_Command *cas_command(struct cli *c)
{
    upb_StringView key = cli__sv(c->args[1]);
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_TxnRequest *txn = thole_kv_v1_Command_mutable_txn(command, c->arena);
    etcdserverpb_Compare *compare = etcdserverpb_TxnRequest_add_compare(txn, c->arena);
    etcdserverpb_Compare_set_key(compare, key);
    etcdserverpb_Compare_set_target(compare, etcdserverpb_Compare_VALUE);
    etcdserverpb_Compare_set_value(compare, cli__sv(c->args[2]));
    etcdserverpb_PutRequest *put = etcdserverpb_RequestOp_mutable_request_put(
        etcdserverpb_TxnRequest_add_success(txn, c->arena), c->arena);
    etcdserverpb_PutRequest_set_key(put, key);
    etcdserverpb_PutRequest_set_value(put, cli__sv(c->args[3]));
    etcdserverpb_RangeRequest *range = etcdserverpb_RequestOp_mutable_request_range(
        etcdserverpb_TxnRequest_add_failure(txn, c->arena), c->arena);
    etcdserverpb_RangeRequest_set_key(range, key);
    return command;
}

static int say_conflict(const etcdserverpb_TxnResponse *answer)
{
    size_t n = 0, items = 0;
    const etcdserverpb_ResponseOp *const *ops = etcdserverpb_TxnResponse_responses(answer, &n);
    const etcdserverpb_RangeResponse *range =
        n > 0 ? etcdserverpb_ResponseOp_response_range(ops[0]) : NULL;
    const mvccpb_KeyValue *const *kvs =
        range != NULL ? etcdserverpb_RangeResponse_kvs(range, &items) : NULL;
    if (items > 0) {
        cli_data_print(mvccpb_KeyValue_value(kvs[0]), false, true);
    }
    return cli__say_failed(items > 0 ? "not changed: the key has another value"
                                     : "not changed: there is no such key");
}

int cli__command_kv_cas(struct cli *c)
{
    struct slice data = {0};
    int code = propose(c, cas_command(c), &data);
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_TxnResponse *answer = PROTO_DECODE(etcdserverpb_TxnResponse, data, c->arena);
    if (answer == NULL) {
        return undecodable();
    }
    bool shown = cli_data_shown(c, answer, etcdserverpb_TxnResponse_getmsgdef(c->pool));
    int flushed = shown ? cli__flush() : CLI_OK;
    if (etcdserverpb_TxnResponse_succeeded(answer)) {
        return flushed;
    }
    return shown ? CLI_FAILED : say_conflict(answer);
}

/* ---- Queries --------------------------------------------------------------------------------- */

static int query_range(struct cli *c, const thole_kv_v1_Query *q, bool pool,
                       const etcdserverpb_RangeResponse **ret)
{
    const thole_v1_QueryResponse *reply = NULL;
    struct thole_status st = {0};
    size_t size = 0;
    char *bytes = thole_kv_v1_Query_serialize(q, c->arena, &size);
    const struct payload p = encoded(c, pool, bytes, size);
    if (cli_data_query(c, cli__strip(c->args[0], "shard"), &p, &reply, &st) != THOLE_OK) {
        return cli_data_failed("query of", c, &st);
    }
    upb_StringView data = thole_v1_QueryResponse_data(reply);
    *ret = PROTO_DECODE(etcdserverpb_RangeResponse, slice_of(data.data, data.size), c->arena);
    return *ret != NULL ? CLI_OK : undecodable();
}

int cli__command_kv_get(struct cli *c)
{
    const etcdserverpb_RangeResponse *answer = NULL;
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    etcdserverpb_RangeRequest *range = thole_kv_v1_Query_mutable_range(q, c->arena);
    etcdserverpb_RangeRequest_set_key(range, cli__sv(c->args[1]));
    bool pool = false;
    int code = kv_check_type(c, &pool);
    if (code == CLI_OK) {
        code = query_range(c, q, pool, &answer);
    }
    if (code != CLI_OK) {
        return code;
    }
    size_t n = 0;
    const mvccpb_KeyValue *const *items = etcdserverpb_RangeResponse_kvs(answer, &n);
    if (n == 0) {
        (void)cli__say_failed("there is no such key: %s", c->args[1]);
        return CLI_NOT_FOUND;
    }
    if (!cli_data_shown(c, items[0], mvccpb_KeyValue_getmsgdef(c->pool))) {
        cli_data_print(mvccpb_KeyValue_value(items[0]), false, true);
    }
    return cli__flush();
}

/* `document` collects the rows of one list. */
static void show_items(struct cli *c, const etcdserverpb_RangeResponse *answer,
                       struct bytes *document)
{
    size_t n = 0;
    const mvccpb_KeyValue *const *items = etcdserverpb_RangeResponse_kvs(answer, &n);
    for (size_t i = 0; i < n; i++) {
        if (cli__is_document(c)) {
            bytes_append_str(document, document->size > 0 ? ",\n " : "");
            cli__json(items[i], mvccpb_KeyValue_getmsgdef(c->pool), document);
            continue;
        }
        cli_data_print(mvccpb_KeyValue_key(items[i]), false, false);
        if (cli__format(c) != FORMAT_NAME) {
            printf(" ");
            cli_data_print(mvccpb_KeyValue_value(items[i]), false, false);
        }
        printf("\n");
    }
}

static int print_list(struct cli *c, struct bytes *document)
{
    struct bytes out = {0}, yaml = {0};
    if (cli__is_document(c)) {
        bytes_printf(&out, "[%.*s]\n", (int)document->size,
                     document->size > 0 ? (const char *)document->data : "");
        bool as_yaml = cli__format(c) == FORMAT_YAML && cli__yaml(NULL, bytes_slice(&out), &yaml);
        cli__print(bytes_slice(as_yaml ? &yaml : &out));
    }
    bytes_deinit(&out);
    bytes_deinit(&yaml);
    bytes_deinit(document);
    return cli__flush();
}

/* The key that follows `key` in order: the key and a zero byte. */
static upb_StringView next_key(struct cli *c, upb_StringView key)
{
    char *next = upb_Arena_Malloc(c->arena, key.size + 1);
    memcpy(next, key.data, key.size);
    next[key.size] = '\0';
    return (upb_StringView){next, key.size + 1};
}

/* Page by page, all of the revision of the first. */
int cli__command_kv_range(struct cli *c)
{
    static const char first = '\0';
    uint64_t left = cli_given(c, OPT_LIMIT) ? cli_number(c, OPT_LIMIT) : UINT64_MAX;
    upb_StringView from = {&first, 1}, to = {&first, 1};
    struct bytes document = {0};
    int64_t revision = 0;
    bool more = left > 0, pool = false;
    int type = kv_check_type(c, &pool);
    if (type != CLI_OK) {
        return type;
    }
    if (pool) {
        return kv_refuse_pool(c);
    }
    if (c->arg_count > 1 && c->args[1][0] != '\0') {
        from = cli__sv(c->args[1]);
    }
    if (c->arg_count > 2) {
        to = cli__sv(c->args[2]);
    }
    while (more) {
        const etcdserverpb_RangeResponse *answer = NULL;
        thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
        etcdserverpb_RangeRequest *range = thole_kv_v1_Query_mutable_range(q, c->arena);
        etcdserverpb_RangeRequest_set_key(range, from);
        etcdserverpb_RangeRequest_set_range_end(range, to);
        etcdserverpb_RangeRequest_set_limit(range, left < RANGE_PAGE ? (int64_t)left : RANGE_PAGE);
        etcdserverpb_RangeRequest_set_revision(range, revision);
        int code = query_range(c, q, false, &answer);
        if (code != CLI_OK) {
            bytes_deinit(&document);
            return code;
        }
        size_t n = 0;
        const mvccpb_KeyValue *const *items = etcdserverpb_RangeResponse_kvs(answer, &n);
        show_items(c, answer, &document);
        if (revision == 0 && etcdserverpb_RangeResponse_has_header(answer)) {
            revision =
                etcdserverpb_ResponseHeader_revision(etcdserverpb_RangeResponse_header(answer));
        }
        left -= n < left ? n : left;
        more = etcdserverpb_RangeResponse_more(answer) && n > 0 && left > 0;
        from = more ? next_key(c, mvccpb_KeyValue_key(items[n - 1])) : from;
    }
    return print_list(c, &document);
}

void kv_show_decoded(struct cli *c, const mvccpb_Event *event)
{
    const mvccpb_KeyValue *item = mvccpb_Event_kv(event), *old = mvccpb_Event_prev_kv(event);
    bool put = mvccpb_Event_type(event) == mvccpb_Event_PUT;

    if (item == NULL || cli_data_shown(c, event, mvccpb_Event_getmsgdef(c->pool))) {
        return;
    }
    printf("%" PRIi64 " %s ", mvccpb_KeyValue_mod_revision(item), put ? "put" : "delete");
    cli_data_print(mvccpb_KeyValue_key(item), false, false);
    if (put) {
        printf(" ");
        cli_data_print(mvccpb_KeyValue_value(item), false, false);
    }
    printf("\n");
    if (old != NULL) {
        printf("%" PRIi64 " was ", mvccpb_KeyValue_mod_revision(old));
        cli_data_print(mvccpb_KeyValue_key(old), false, false);
        printf(" ");
        cli_data_print(mvccpb_KeyValue_value(old), false, false);
        printf("\n");
    }
}

bool kv_show_event(struct cli *c, upb_StringView bytes)
{
    upb_Arena *arena = upb_Arena_New();
    const mvccpb_Event *event = PROTO_DECODE(mvccpb_Event, slice_of(bytes.data, bytes.size), arena);

    if (event != NULL) {
        kv_show_decoded(c, event);
    }
    upb_Arena_Free(arena);
    return event != NULL;
}
