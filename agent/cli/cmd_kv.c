/* `thole kv`: the built-in key-value machine, in its protobuf form (proto/thole/kv/v1/kv.proto), so
 * that keys and values may be any bytes. */
#include "agent/cli/cmd_kv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cmd_data.h"
#include "agent/cli/rows.h"
#include "base/text.h"
#include "proto/decode.h"
#include "thole/kv/v1/kv.upbdefs.h"

#define RANGE_PAGE 1000

/* A machine of another type would misread the bytes. Checks the called host's rows; if they lack
 * the shard, the call itself reports it. */
static int check_type(struct cli *c)
{
    const thole_v1_Shard *shard = NULL;
    struct thole_status st;
    const char *name = cli__strip(c->args[0], "shard");
    if (rows_get_shard(c, name, true, &shard, &st) != THOLE_OK) {
        return CLI_OK;
    }
    upb_StringView type = thole_v1_ShardSpec_type(rows_shard_spec(shard));
    return upb_StringView_IsEqual(type, cli__sv("kv"))
               ? CLI_OK
               : cli__say_failed(
                     "shards/%s is of type %.*s, not kv; use `thole propose` and `thole "
                     "query`",
                     name, CLI_SV(type));
}

/* The byte 0x00, which marks the protobuf form, then the message. */
static struct payload encoded(struct cli *c, const char *bytes, size_t size)
{
    char *copy = upb_Arena_Malloc(c->arena, size + 1);
    copy[0] = '\0';
    if (size > 0) {
        memcpy(copy + 1, bytes, size);
    }
    return (struct payload){.bytes = {copy, size + 1}};
}

static int propose(struct cli *c, const thole_kv_v1_Command *command,
                   const thole_kv_v1_Result **ret)
{
    struct thole_status st;
    const thole_v1_ProposeResponse *reply = NULL;
    size_t size = 0;
    int type = check_type(c);
    if (type != CLI_OK) {
        return type;
    }
    char *bytes = thole_kv_v1_Command_serialize(command, c->arena, &size);
    const struct payload p = encoded(c, bytes, size);
    if (cli_data_propose(c, cli__strip(c->args[0], "shard"), &p, &reply, &st) != THOLE_OK) {
        return cli_data_failed("proposal to", c, &st);
    }
    upb_StringView data = thole_v1_ProposeResponse_data(reply);
    *ret = PROTO_DECODE(thole_kv_v1_Result, slice_of(data.data, data.size), c->arena);
    if (*ret == NULL) {
        return cli__say_failed("the answer does not decode; is it a shard of type kv?");
    }
    return CLI_OK;
}

/* Shows a result; CLI_FAILED with a message if the command was refused. */
static int show_result(struct cli *c, const thole_kv_v1_Result *result)
{
    const thole_kv_v1_KeyValue *current = thole_kv_v1_Result_current(result);
    if (cli_data_shown(c, result, thole_kv_v1_Result_getmsgdef(c->pool))) {
        int flushed = cli__flush();
        return thole_kv_v1_Result_code(result) == thole_kv_v1_CODE_OK ? flushed : CLI_FAILED;
    }
    switch (thole_kv_v1_Result_code(result)) {
    case thole_kv_v1_CODE_OK:
        return CLI_OK;
    case thole_kv_v1_CODE_CONFLICT:
        if (current != NULL) {
            cli_data_print(thole_kv_v1_KeyValue_value(current), false, true);
        }
        return cli__say_failed(current != NULL ? "not changed: the key has another value"
                                               : "not changed: there is no such key");
    default:
        return cli__say_failed("not changed: %.*s", CLI_SV(thole_kv_v1_Result_error(result)));
    }
}

int cli__command_kv_put(struct cli *c)
{
    const thole_kv_v1_Result *result = NULL;
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    thole_kv_v1_Put *put = thole_kv_v1_Command_mutable_put(command, c->arena);
    thole_kv_v1_Put_set_key(put, cli__sv(c->args[1]));
    thole_kv_v1_Put_set_value(put, cli__sv(c->args[2]));
    int code = propose(c, command, &result);
    return code == CLI_OK ? show_result(c, result) : code;
}

int cli__command_kv_delete(struct cli *c)
{
    const thole_kv_v1_Result *result = NULL;
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    thole_kv_v1_Delete *del = thole_kv_v1_Command_mutable_delete(command, c->arena);
    thole_kv_v1_Delete_set_key(del, cli__sv(c->args[1]));
    int code = propose(c, command, &result);
    if (code == CLI_OK) {
        code = show_result(c, result);
    }
    if (code == CLI_OK && thole_kv_v1_Result_deleted(result) == 0) {
        (void)cli__say_failed("there is no such key: %s", c->args[1]);
        code = CLI_NOT_FOUND;
    }
    return code;
}

int cli__command_kv_cas(struct cli *c)
{
    const thole_kv_v1_Result *result = NULL;
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    thole_kv_v1_CompareAndSet *cas = thole_kv_v1_Command_mutable_compare_and_set(command, c->arena);
    thole_kv_v1_CompareAndSet_set_key(cas, cli__sv(c->args[1]));
    thole_kv_v1_CompareAndSet_set_value(cas, cli__sv(c->args[2]));
    thole_kv_v1_CompareAndSet_set_new_value(cas, cli__sv(c->args[3]));
    int code = propose(c, command, &result);
    return code == CLI_OK ? show_result(c, result) : code;
}

/* ---- Queries --------------------------------------------------------------------------------- */

static int query(struct cli *c, const thole_kv_v1_Query *q, const thole_kv_v1_Answer **ret,
                 struct thole_status *st)
{
    const thole_v1_QueryResponse *reply = NULL;
    size_t size = 0;
    *st = (struct thole_status){0};
    int type = check_type(c);
    if (type != CLI_OK) {
        return type;
    }
    char *bytes = thole_kv_v1_Query_serialize(q, c->arena, &size);
    const struct payload p = encoded(c, bytes, size);
    if (cli_data_query(c, cli__strip(c->args[0], "shard"), &p, &reply, st) != THOLE_OK) {
        return st->code == THOLE_NOT_FOUND && st->reason == THOLE_REASON_NONE
                   ? CLI_NOT_FOUND
                   : cli_data_failed("query of", c, st);
    }
    upb_StringView data = thole_v1_QueryResponse_data(reply);
    *ret = PROTO_DECODE(thole_kv_v1_Answer, slice_of(data.data, data.size), c->arena);
    return *ret != NULL ? CLI_OK
                        : cli__say_failed("the answer does not decode; is the shard of type kv?");
}

int cli__command_kv_get(struct cli *c)
{
    struct thole_status st;
    const thole_kv_v1_Answer *answer = NULL;
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    thole_kv_v1_Get *get = thole_kv_v1_Query_mutable_get(q, c->arena);
    thole_kv_v1_Get_set_key(get, cli__sv(c->args[1]));
    int code = query(c, q, &answer, &st);
    size_t n = 0;
    const thole_kv_v1_KeyValue *const *items =
        code == CLI_OK ? thole_kv_v1_Answer_items(answer, &n) : NULL;
    if ((code == CLI_OK && n == 0) || (code == CLI_NOT_FOUND && st.reason == THOLE_REASON_NONE)) {
        (void)cli__say_failed("there is no such key: %s", c->args[1]);
        return CLI_NOT_FOUND;
    }
    if (code != CLI_OK) {
        return code;
    }
    if (!cli_data_shown(c, items[0], thole_kv_v1_KeyValue_getmsgdef(c->pool))) {
        cli_data_print(thole_kv_v1_KeyValue_value(items[0]), false, true);
    }
    return cli__flush();
}

/* `document` collects the rows of one list. */
static void show_items(struct cli *c, const thole_kv_v1_Answer *answer, struct bytes *document)
{
    size_t n = 0;
    const thole_kv_v1_KeyValue *const *items = thole_kv_v1_Answer_items(answer, &n);
    for (size_t i = 0; i < n; i++) {
        if (cli__is_document(c)) {
            bytes_append_str(document, document->size > 0 ? ",\n " : "");
            cli__json(items[i], thole_kv_v1_KeyValue_getmsgdef(c->pool), document);
            continue;
        }
        cli_data_print(thole_kv_v1_KeyValue_key(items[i]), false, false);
        if (cli__format(c) != FORMAT_NAME) {
            printf(" ");
            cli_data_print(thole_kv_v1_KeyValue_value(items[i]), false, false);
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

int cli__command_kv_range(struct cli *c)
{
    uint64_t left = cli_given(c, OPT_LIMIT) ? cli_number(c, OPT_LIMIT) : UINT64_MAX;
    upb_StringView from = c->arg_count > 1 ? cli__sv(c->args[1]) : (upb_StringView){NULL, 0};
    struct bytes document = {0};
    while (left > 0) {
        struct thole_status st;
        const thole_kv_v1_Answer *answer = NULL;
        thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
        thole_kv_v1_Range *range = thole_kv_v1_Query_mutable_range(q, c->arena);
        thole_kv_v1_Range_set_from(range, from);
        if (c->arg_count > 2) {
            thole_kv_v1_Range_set_to(range, cli__sv(c->args[2]));
        }
        thole_kv_v1_Range_set_limit(range, left < RANGE_PAGE ? (uint32_t)left : RANGE_PAGE);
        int code = query(c, q, &answer, &st);
        if (code != CLI_OK) {
            bytes_deinit(&document);
            return code;
        }
        size_t n = 0;
        (void)thole_kv_v1_Answer_items(answer, &n);
        show_items(c, answer, &document);
        left -= n < left ? n : left;
        from = thole_kv_v1_Answer_next(answer);
        if (!thole_kv_v1_Answer_more(answer) || n == 0) {
            break;
        }
    }
    return print_list(c, &document);
}

bool kv_show_event(struct cli *c, upb_StringView key, upb_StringView bytes)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_kv_v1_Event *event =
        PROTO_DECODE(thole_kv_v1_Event, slice_of(bytes.data, bytes.size), arena);
    bool ok = event != NULL;
    if (ok && cli_data_shown(c, event, thole_kv_v1_Event_getmsgdef(c->pool))) {
        upb_Arena_Free(arena);
        return true;
    }
    if (ok) {
        const thole_kv_v1_KeyValue *item = thole_kv_v1_Event_item(event);
        bool put = thole_kv_v1_Event_type(event) == thole_kv_v1_Event_TYPE_PUT;
        printf("%" PRIu64 " %s ", item != NULL ? thole_kv_v1_KeyValue_mod_index(item) : 0,
               put ? "put" : "delete");
        cli_data_print(key, false, false);
        if (put && item != NULL) {
            printf(" ");
            cli_data_print(thole_kv_v1_KeyValue_value(item), false, false);
        }
        printf("\n");
    }
    upb_Arena_Free(arena);
    return ok;
}
