/* Proposals and queries, for the commands that send them. */
#ifndef AGENT_CLI_CMD_DATA_H
#define AGENT_CLI_CMD_DATA_H

#include "agent/cli/cli.h"
#include "thole/v1/data.upb.h"

struct payload {
    upb_StringView key; /* with the name of a pool; empty: none */
    upb_StringView bytes;
    bool text;   /* sent as text */
    bool base64; /* the answer is shown as base64 */
};

enum thole_code cli_data_propose(struct cli *c, const char *shard, const struct payload *p,
                                 const thole_v1_ProposeResponse **ret, struct thole_status *st);
enum thole_code cli_data_query(struct cli *c, const char *shard, const struct payload *p,
                               const thole_v1_QueryResponse **ret, struct thole_status *st);
/* All of a file, or of stdin if `path` is "-"; a failure was reported. */
bool cli_data_read_file(const char *path, struct bytes *to);
void cli_data_print(upb_StringView bytes, bool base64, bool newline);
/* "the WHAT shards/NAME failed", the reason, and what to do; returns the exit code. The command's
 * first argument is the shard. */
int cli_data_failed(const char *what, const struct cli *c, const struct thole_status *st);
/* With -o json or yaml: prints the message. False: nothing was printed. */
bool cli_data_shown(struct cli *c, const void *message, const upb_MessageDef *def);

#endif
