/* The kv machine, for `thole kv` and `thole watch`. */
#ifndef AGENT_CLI_CMD_KV_H
#define AGENT_CLI_CMD_KV_H

#include "agent/cli/cmd_data.h"
#include "etcd/kv.upb.h"

/* One line for an event of a kv shard, and one for the key before it if the event has that. */
void kv_show_decoded(struct cli *c, const mvccpb_Event *event);
/* The same; false if it does not decode. */
bool kv_show_event(struct cli *c, upb_StringView bytes);
/* Is the command's first argument a shard of type kv, or a pool of such? CLI_OK, also if its row is
 * unknown, or the exit code. */
int kv_check_type(struct cli *c, bool *ret_pool);
int kv_refuse_pool(struct cli *c); /* the command is about one shard */
/* A thole.kv.v1.Query for one shard. */
struct payload kv_payload(struct cli *c, const char *bytes, size_t size);

#endif
