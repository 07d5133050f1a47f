/* Commands on the data directory of a host that does not run. */
#ifndef AGENT_CLI_CMD_INSPECT_H
#define AGENT_CLI_CMD_INSPECT_H

#include "agent/cli/cli.h"
#include "agent/inspect/inspect.h"

/* Opens the directory that is the first argument; CLI_OK, or what to exit with. */
int inspect_begin(struct cli *c, struct inspect **ret);
/* The shard of --shard, an id or "zero"; CLI_OK, or CLI_USAGE. */
int inspect_shard(struct cli *c, bool *ret_given, uint64_t *ret_id);
/* Verifies all of it, prints what is damaged, and closes it. */
int inspect_verify_all(struct cli *c, struct inspect *i);
/* Says on stderr that the log is damaged, if it is. */
void inspect_warn(struct inspect *i);
int inspect_doctor(struct cli *c, const char *path);

/* The command of an entry as proto3 JSON, without secrets; false: it is not protobuf of a type that
 * this program knows. */
bool inspect_command_json(struct cli *c, const char *machine_type, struct slice payload,
                          struct bytes *out);
/* The commonest commands of kv as a few words; false: another one. */
bool inspect_kv_text(const char *machine_type, struct slice payload, struct bytes *out);

#endif
