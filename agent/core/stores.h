/* Opening the log and the state database. */
#ifndef AGENT_CORE_STORES_H
#define AGENT_CORE_STORES_H

#include "agent/core/agent_internal.h"

/* A damaged state database is salvaged into a new one. DATA_LOSS CORRUPT: the disk is lost. */
THOLE_MUST_CHECK enum thole_code agent__stores_open(struct agent *a, struct thole_status *st);
/* After damage was found while the host runs. */
void agent__stores_request_restart(struct agent *a);

#endif
