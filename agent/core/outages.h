/* Since when hosts and leaders are unavailable, for availability.c, which implements these. */
#ifndef AGENT_CORE_OUTAGES_H
#define AGENT_CORE_OUTAGES_H

#include "agent/core/agent_internal.h"

struct outages *agent__outages_new(void);
void agent__outages_free(struct outages *f);
/* Record since when hosts and leaders are unavailable. On the reconciler's worker, after each
 * change of the view, of connections and of disks. True: the availability of any shard may have
 * changed. */
bool agent__outages_update(struct agent *a, const struct registry_view *v);
/* This host's replica of a shard changed. Any thread. */
void agent__outages_replica_changed(struct agent *a, const struct engine_replica_status *s);
/* The state of this host's disk changed. Any thread. */
void agent__outages_disk_changed(struct agent *a);

#endif
