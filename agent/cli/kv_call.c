/* Proposals to, and queries of, shards of type kv, in their protobuf form
 * (proto/thole/kv/v1/kv.proto), so that keys and values may be any bytes. */
#include <string.h>

#include "agent/cli/cmd_kv.h"
#include "agent/cli/rows.h"

int kv_undecodable(void)
{
    return cli__say_failed("the answer does not decode; is it a shard of type kv?");
}

/* Looks at the called host's rows; if they lack the shard, the call itself reports it. */
int kv_find_target(struct cli *c, upb_StringView key, struct kv_target *ret)
{
    const char *name = cli__strip(c->args[0], "shard"), *chosen = cli_text(c, OPT_KEY);
    bool pool = false;
    const thole_v1_ShardSpec *spec = rows_spec_of(c, name, &pool);
    if (spec != NULL && !upb_StringView_IsEqual(thole_v1_ShardSpec_type(spec), cli__sv("kv"))) {
        return cli__say_failed("%s/%s is of type %.*s, not kv; use `thole propose` and `thole "
                               "query`",
                               pool ? "pools" : "shards", name,
                               CLI_SV(thole_v1_ShardSpec_type(spec)));
    }
    *ret = (struct kv_target){.shard = name};
    if (chosen != NULL) {
        ret->key = cli__sv(chosen);
    } else if (pool && key.size > 0) {
        ret->key = key;
    } else if (pool) {
        return cli__say_failed("%s is a pool: name one of its shards, \"%s-0\" and so on",
                               c->args[0], name);
    }
    return CLI_OK;
}

/* The byte 0x00, which marks the protobuf form, then the message. */
static struct payload encoded(struct cli *c, const struct kv_target *t, const char *bytes,
                              size_t size)
{
    char *copy = upb_Arena_Malloc(c->arena, size + 1);
    copy[0] = '\0';
    if (size > 0) {
        memcpy(copy + 1, bytes, size);
    }
    return (struct payload){.key = t->key, .bytes = {copy, size + 1}};
}

int kv_propose(struct cli *c, const struct kv_target *t, const thole_kv_v1_Command *command,
               struct slice *ret)
{
    struct thole_status st;
    const thole_v1_ProposeResponse *reply = NULL;
    size_t size = 0;
    char *bytes = thole_kv_v1_Command_serialize(command, c->arena, &size);
    const struct payload p = encoded(c, t, bytes, size);
    if (cli_data_propose(c, t->shard, &p, &reply, &st) != THOLE_OK) {
        return cli_data_failed("proposal to", c, &st);
    }
    upb_StringView data = thole_v1_ProposeResponse_data(reply);
    if (thole_v1_ProposeResponse_code(reply) != 0) {
        (void)cli__say_failed("not changed: %.*s", CLI_SV(data));
        return thole_v1_ProposeResponse_code(reply) == THOLE_NOT_FOUND ? CLI_NOT_FOUND : CLI_FAILED;
    }
    *ret = slice_of(data.data, data.size);
    return CLI_OK;
}

int kv_query(struct cli *c, const struct kv_target *t, const thole_kv_v1_Query *q,
             struct slice *ret, uint64_t *ret_index)
{
    const thole_v1_QueryResponse *reply = NULL;
    struct thole_status st = {0};
    size_t size = 0;
    char *bytes = thole_kv_v1_Query_serialize(q, c->arena, &size);
    const struct payload p = encoded(c, t, bytes, size);
    if (cli_data_query(c, t->shard, &p, &reply, &st) != THOLE_OK) {
        return cli_data_failed("query of", c, &st);
    }
    upb_StringView data = thole_v1_QueryResponse_data(reply);
    *ret = slice_of(data.data, data.size);
    if (ret_index != NULL) {
        *ret_index = thole_v1_QueryResponse_index(reply);
    }
    return CLI_OK;
}
