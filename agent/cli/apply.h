/* What apply and diff share. */
#ifndef AGENT_CLI_APPLY_H
#define AGENT_CLI_APPLY_H

#include "agent/cli/rows.h"
#include "agent/cli/spec.h"

/* The specs of --file; words on stderr if that fails. */
int apply_read(struct cli *c, struct spec_list *list);
const char *apply_name(struct cli *c, const struct spec *s);
/* The row that is there; NULL for a shard that does not exist. */
enum thole_code apply_current(struct cli *c, const struct spec *s, const void **ret,
                              struct thole_status *st);
/* Is its spec as wanted? A host's state that the spec leaves out is filled in. */
bool apply_same(struct cli *c, const struct spec *s, const void *current);

#endif
