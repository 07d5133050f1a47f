/* `thole kv txn`: a transaction in etcdctl's form, from a file or from stdin. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/cmd_kv.h"
#include "etcd/rpc.upbdefs.h"
#include "proto/decode.h"
#include "thole/kv/v1/modify.upb.h"

#define LINE_BYTES_MAX ((size_t)2 << 20) /* a shard takes less in one request */

static void prompt(const struct kv_txn_reader *r)
{
    static const char *const texts[] = {
        "compares:", "success requests (get, put, del):", "failure requests (get, put, del):"};
    if (r->section != KV_TXN_END) {
        cli__note("%s", texts[r->section]);
    }
}

/* Up to the end of the file, or of the third part. On a terminal with a prompt for each part. */
static int read_txn(FILE *f, bool terminal, struct kv_txn_reader *r)
{
    struct thole_status st;
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    int code = CLI_OK;

    if (terminal) {
        prompt(r);
    }
    while (code == CLI_OK && !(terminal && r->section == KV_TXN_END) &&
           (n = getline(&line, &room, f)) >= 0) {
        enum kv_txn_section before = r->section;
        size_t size = (size_t)n - (n > 0 && line[n - 1] == '\n');
        if (size > LINE_BYTES_MAX) {
            code = cli__say_failed("line %u of the transaction is too long", r->line + 1);
        } else if (kv_txn_read_line(r, slice_of(line, size), &st) != THOLE_OK) {
            (void)cli__say_failed("%s", st.message);
            code = CLI_USAGE;
        } else if (terminal && r->section != before) {
            prompt(r);
        }
    }
    free(line);
    return code == CLI_OK && ferror(f) ? cli__say_failed("cannot read the transaction") : code;
}

static int read_file(struct cli *c, struct kv_txn_reader *r)
{
    const char *path = c->arg_count > 1 ? c->args[1] : "-";
    if (strcmp(path, "-") == 0) {
        return read_txn(stdin, isatty(STDIN_FILENO) != 0, r);
    }
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return cli__say_failed("cannot open %s: %s", path, strerror(errno));
    }
    int code = read_txn(f, false, r);
    fclose(f);
    return code;
}

static void show_operation(struct cli *c, const etcdserverpb_ResponseOp *op)
{
    size_t n = 0;
    const mvccpb_KeyValue *const *items = NULL;
    const etcdserverpb_RangeResponse *range = etcdserverpb_ResponseOp_response_range(op);
    const etcdserverpb_PutResponse *put = etcdserverpb_ResponseOp_response_put(op);
    const etcdserverpb_DeleteRangeResponse *del = etcdserverpb_ResponseOp_response_delete_range(op);
    const thole_kv_v1_ModifyResponse *modify = etcdserverpb_ResponseOp_response_modify(op);

    if (range != NULL) {
        items = etcdserverpb_RangeResponse_kvs(range, &n);
        cli__line("get %" PRIi64, etcdserverpb_RangeResponse_count(range));
    } else if (del != NULL) {
        items = etcdserverpb_DeleteRangeResponse_prev_kvs(del, &n);
        cli__line("del %" PRIi64, etcdserverpb_DeleteRangeResponse_deleted(del));
    } else if (put != NULL) {
        cli__line("put");
        if (etcdserverpb_PutResponse_has_prev_kv(put)) {
            kv_show_item(c, etcdserverpb_PutResponse_prev_kv(put));
        }
    } else if (modify != NULL && thole_kv_v1_ModifyResponse_has_kv(modify)) {
        cli__line("changed");
        kv_show_item(c, thole_kv_v1_ModifyResponse_kv(modify));
    }
    for (size_t i = 0; i < n; i++) {
        kv_show_item(c, items[i]);
    }
}

static int show_txn(struct cli *c, const etcdserverpb_TxnResponse *answer)
{
    size_t n = 0;
    const etcdserverpb_ResponseOp *const *ops = etcdserverpb_TxnResponse_responses(answer, &n);
    if (!cli_data_shown(c, answer, etcdserverpb_TxnResponse_getmsgdef(c->pool))) {
        cli__line("%s", etcdserverpb_TxnResponse_succeeded(answer) ? "SUCCESS" : "FAILURE");
        for (size_t i = 0; i < n; i++) {
            show_operation(c, ops[i]);
        }
    }
    return cli__flush();
}

int cli__command_kv_txn(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    struct kv_txn_reader r;
    kv_txn_reader_init(&r, c->arena);
    int code = kv_find_target(c, KV_NONE, &t);
    if (code == CLI_OK) {
        code = read_file(c, &r);
    }
    if (code == CLI_OK) {
        thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
        thole_kv_v1_Command_set_txn(command, r.txn);
        code = kv_propose(c, &t, command, &data);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_TxnResponse *answer = PROTO_DECODE(etcdserverpb_TxnResponse, data, c->arena);
    return answer != NULL ? show_txn(c, answer) : kv_undecodable();
}
