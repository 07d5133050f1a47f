/* Shared by apply and diff. */
#ifndef AGENT_CLI_CMD_APPLY_H
#define AGENT_CLI_CMD_APPLY_H

#include "agent/cli/rows.h"
#include "agent/cli/spec.h"

/* Read the specs of --file; prints what fails. */
int apply_read(struct cli *c, struct spec_list *list);
const char *apply_name(struct cli *c, const struct spec *s);
enum rows_kind apply_kind(const struct spec *s);
/* "shards/orders" */
const char *apply_resource(struct cli *c, const struct spec *s, char *ret, size_t size);
/* The current row; NULL for a shard or pool that does not exist. */
enum thole_code apply_current(struct cli *c, const struct spec *s, const void **ret,
                              struct thole_status *st);
/* Is the current spec equal to the wanted one? Fills in a host's state that the spec leaves out. */
bool apply_same(struct cli *c, const struct spec *s, const void *current);
/* The spec of a row of the kind; NULL: none. `ret_kind` and `ret_def`, unless NULL, describe it. */
const void *apply_spec(struct cli *c, const struct spec *s, const void *row,
                       const upb_MiniTable **ret_kind, const upb_MessageDef **ret_def);

/* CLI_FAILED, after a message that begins with `what`, if the row is being deleted: it would
 * disappear although its spec equals the wanted one. */
int apply_deleting(const char *what, const struct spec *s, const void *current);

#endif
