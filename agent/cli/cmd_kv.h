/* The kv machine, for `thole kv` and `thole watch`. */
#ifndef AGENT_CLI_CMD_KV_H
#define AGENT_CLI_CMD_KV_H

#include "agent/cli/cli.h"

/* One line for an event of a kv shard; false if it does not decode. */
bool kv_show_event(struct cli *c, upb_StringView key, upb_StringView bytes);

#endif
