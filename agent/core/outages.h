/* Since when what rows say cannot be confirmed: see availability.c. */
#ifndef AGENT_CORE_OUTAGES_H
#define AGENT_CORE_OUTAGES_H

#include "agent/core/agent.h"

struct outages *agent__outages_new(void);
void agent__outages_free(struct outages *f);
/* Notes since when what could be confirmed cannot be. After each change of the view, connections
 * and disks; on the reconciler's worker. True: agent_check_shard may say something else of any
 * shard. */
bool agent__outages_update(struct agent *a, const struct registry_view *v);
/* This host's replica of a shard changed. Any thread. */
void agent__outages_replica_changed(struct agent *a, const struct engine_replica_status *s);

#endif
