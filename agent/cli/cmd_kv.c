/* `thole kv`: changes of keys of the built-in key-value machine. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent/cli/cmd_kv.h"
#include "base/clock.h"
#include "etcd/kv.upbdefs.h"
#include "etcd/rpc.upbdefs.h"
#include "proto/decode.h"
#include "thole/kv/v1/kv.upbdefs.h"

/* ---- put ------------------------------------------------------------------------------------- */

/* CLI_OK, or the exit code of a failure that was reported. */
static int read_put(struct cli *c, etcdserverpb_PutRequest *put)
{
    const char *lease = cli_text(c, OPT_LEASE);
    upb_StringView key = KV_NONE, value = KV_NONE;
    int64_t id = 0;
    int code = kv_key_argument(c, 1, &key);

    if (code == CLI_OK && lease != NULL && !kv_lease_id(lease, &id)) {
        return cli__say_usage(c, "--lease: an id as `thole kv lease grant` prints it");
    }
    if (code == CLI_OK && cli_flag(c, OPT_IGNORE_VALUE) && c->arg_count > 2) {
        return cli__say_usage(c, "--ignore-value keeps the value: give none");
    }
    if (code == CLI_OK && cli_flag(c, OPT_IGNORE_LEASE) && lease != NULL) {
        return cli__say_usage(c, "--ignore-lease keeps the lease: give none");
    }
    if (code == CLI_OK && !cli_flag(c, OPT_IGNORE_VALUE)) {
        code = kv_value_argument(c, 2, &value);
    }
    etcdserverpb_PutRequest_set_key(put, key);
    etcdserverpb_PutRequest_set_value(put, value);
    etcdserverpb_PutRequest_set_lease(put, id);
    etcdserverpb_PutRequest_set_prev_kv(put, cli_flag(c, OPT_PREV_KV));
    etcdserverpb_PutRequest_set_ignore_value(put, cli_flag(c, OPT_IGNORE_VALUE));
    etcdserverpb_PutRequest_set_ignore_lease(put, cli_flag(c, OPT_IGNORE_LEASE));
    return code;
}

int cli__command_kv_put(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_PutRequest *put = thole_kv_v1_Command_mutable_put(command, c->arena);
    int code = read_put(c, put);
    if (code == CLI_OK) {
        code = kv_find_target(c, etcdserverpb_PutRequest_key(put), &t);
    }
    if (code == CLI_OK) {
        code = kv_propose(c, &t, command, &data);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_PutResponse *answer = PROTO_DECODE(etcdserverpb_PutResponse, data, c->arena);
    if (answer == NULL) {
        return kv_undecodable();
    }
    if (!cli_data_shown(c, answer, etcdserverpb_PutResponse_getmsgdef(c->pool)) &&
        etcdserverpb_PutResponse_has_prev_kv(answer)) {
        kv_show_item(c, etcdserverpb_PutResponse_prev_kv(answer));
    }
    return cli__flush();
}

/* ---- del ------------------------------------------------------------------------------------- */

static int show_deleted(struct cli *c, const etcdserverpb_DeleteRangeResponse *answer, bool one)
{
    size_t n = 0;
    const mvccpb_KeyValue *const *old = etcdserverpb_DeleteRangeResponse_prev_kvs(answer, &n);
    int64_t deleted = etcdserverpb_DeleteRangeResponse_deleted(answer);

    if (!cli_data_shown(c, answer, etcdserverpb_DeleteRangeResponse_getmsgdef(c->pool))) {
        for (size_t i = 0; i < n; i++) {
            kv_show_item(c, old[i]);
        }
        if (!one) {
            cli__note("deleted %" PRIi64 " keys", deleted);
        }
    }
    if (one && deleted == 0) {
        (void)cli__say_failed("there is no such key: %s", c->args[1]);
        return CLI_NOT_FOUND;
    }
    return cli__flush();
}

int cli__command_kv_delete(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    upb_StringView key = KV_NONE, end = KV_NONE;
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_DeleteRangeRequest *del =
        thole_kv_v1_Command_mutable_delete_range(command, c->arena);
    int code = kv_range_arguments(c, false, &key, &end);

    etcdserverpb_DeleteRangeRequest_set_key(del, key);
    etcdserverpb_DeleteRangeRequest_set_range_end(del, end);
    etcdserverpb_DeleteRangeRequest_set_prev_kv(del, cli_flag(c, OPT_PREV_KV));
    if (code == CLI_OK) {
        code = kv_find_target(c, end.size == 0 ? key : KV_NONE, &t);
    }
    if (code == CLI_OK) {
        code = kv_propose(c, &t, command, &data);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_DeleteRangeResponse *answer =
        PROTO_DECODE(etcdserverpb_DeleteRangeResponse, data, c->arena);
    return answer != NULL ? show_deleted(c, answer, end.size == 0) : kv_undecodable();
}

/* ---- cas ------------------------------------------------------------------------------------- */

/* If the key's value is the expected one: put; otherwise read the key. */
static int read_cas(struct cli *c, etcdserverpb_TxnRequest *txn, upb_StringView *ret_key)
{
    upb_StringView expected = KV_NONE, value = KV_NONE;
    int code = kv_key_argument(c, 1, ret_key);
    if (code == CLI_OK) {
        code = kv_value_argument(c, 2, &expected);
    }
    if (code == CLI_OK) {
        code = kv_value_argument(c, 3, &value);
    }
    etcdserverpb_Compare *compare = etcdserverpb_TxnRequest_add_compare(txn, c->arena);
    etcdserverpb_Compare_set_key(compare, *ret_key);
    etcdserverpb_Compare_set_target(compare, etcdserverpb_Compare_VALUE);
    etcdserverpb_Compare_set_value(compare, expected);
    etcdserverpb_PutRequest *put = etcdserverpb_RequestOp_mutable_request_put(
        etcdserverpb_TxnRequest_add_success(txn, c->arena), c->arena);
    etcdserverpb_PutRequest_set_key(put, *ret_key);
    etcdserverpb_PutRequest_set_value(put, value);
    etcdserverpb_RangeRequest *range = etcdserverpb_RequestOp_mutable_request_range(
        etcdserverpb_TxnRequest_add_failure(txn, c->arena), c->arena);
    etcdserverpb_RangeRequest_set_key(range, *ret_key);
    return code;
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
    struct kv_target t;
    upb_StringView key = KV_NONE;
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    int code = read_cas(c, thole_kv_v1_Command_mutable_txn(command, c->arena), &key);
    if (code == CLI_OK) {
        code = kv_find_target(c, key, &t);
    }
    if (code == CLI_OK) {
        code = kv_propose(c, &t, command, &data);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_TxnResponse *answer = PROTO_DECODE(etcdserverpb_TxnResponse, data, c->arena);
    if (answer == NULL) {
        return kv_undecodable();
    }
    bool shown = cli_data_shown(c, answer, etcdserverpb_TxnResponse_getmsgdef(c->pool));
    int flushed = shown ? cli__flush() : CLI_OK;
    if (etcdserverpb_TxnResponse_succeeded(answer)) {
        return flushed;
    }
    return shown ? CLI_FAILED : say_conflict(answer);
}

/* ---- compact --------------------------------------------------------------------------------- */

/* The walk goes on for as long as it takes: each query has the time of a command. */
static int await_walk(struct cli *c, const struct kv_target *t, int64_t revision)
{
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    (void)thole_kv_v1_Query_mutable_status(q, c->arena);
    for (;;) {
        struct slice data = {0};
        int code = kv_query(c, t, q, &data, NULL);
        if (code != CLI_OK) {
            return code;
        }
        const thole_kv_v1_StoreStatus *m = PROTO_DECODE(thole_kv_v1_StoreStatus, data, c->arena);
        if (m == NULL) {
            return kv_undecodable();
        }
        if (thole_kv_v1_StoreStatus_walked_revision(m) >= revision) {
            return CLI_OK;
        }
        cli__pause_ms(100);
    }
}

int cli__command_kv_compact(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    uint64_t revision = 0;
    if (!options_parse_number(c->args[1], &revision) || revision == 0 || revision > INT64_MAX) {
        return cli__say_usage(c, "REVISION is a number from 1, as `thole kv status` shows it");
    }
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_CompactionRequest *m = thole_kv_v1_Command_mutable_compact(command, c->arena);
    etcdserverpb_CompactionRequest_set_revision(m, (int64_t)revision);
    int code = kv_find_target(c, KV_NONE, &t);
    if (code == CLI_OK) {
        code = kv_propose(c, &t, command, &data);
    }
    if (code == CLI_OK && cli_flag(c, OPT_PHYSICAL)) {
        code = await_walk(c, &t, (int64_t)revision);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_CompactionResponse *answer =
        PROTO_DECODE(etcdserverpb_CompactionResponse, data, c->arena);
    if (answer == NULL) {
        return kv_undecodable();
    }
    (void)cli_data_shown(c, answer, etcdserverpb_CompactionResponse_getmsgdef(c->pool));
    return cli__flush();
}

/* ---- status ---------------------------------------------------------------------------------- */

int cli__command_kv_status(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    (void)thole_kv_v1_Query_mutable_status(q, c->arena);
    int code = kv_find_target(c, KV_NONE, &t);
    if (code == CLI_OK) {
        code = kv_query(c, &t, q, &data, NULL);
    }
    if (code != CLI_OK) {
        return code;
    }
    const thole_kv_v1_StoreStatus *m = PROTO_DECODE(thole_kv_v1_StoreStatus, data, c->arena);
    if (m == NULL) {
        return kv_undecodable();
    }
    if (!cli_data_shown(c, m, thole_kv_v1_StoreStatus_getmsgdef(c->pool))) {
        char bytes[32], quota[32];
        int64_t compacted = thole_kv_v1_StoreStatus_compact_revision(m);
        uint64_t limit = thole_kv_v1_StoreStatus_quota_bytes(m);
        cli__line("revision   %" PRIi64, thole_kv_v1_StoreStatus_revision(m));
        if (compacted > 0) {
            cli__line("compacted  %" PRIi64, compacted);
        } else {
            cli__line("compacted  never");
        }
        cli__line("keys       %" PRIu64, thole_kv_v1_StoreStatus_keys(m));
        cli__line("leases     %" PRIu64, thole_kv_v1_StoreStatus_leases(m));
        cli__line("size       %s of %s",
                  cli__bytes(thole_kv_v1_StoreStatus_bytes(m), bytes, sizeof bytes),
                  limit > 0 ? cli__bytes(limit, quota, sizeof quota) : "no quota");
    }
    return cli__flush();
}
