/* The metrics of one host: what its view, its replicas, its disk and its certificate say now. */
#ifndef AGENT_CORE_HOST_METRICS_H
#define AGENT_CORE_HOST_METRICS_H

#include "agent/core/agent.h"

/* Append their Prometheus text. Walks all shards, so it is meant for scrapes. Any thread. */
void agent_metrics(struct agent *a, struct bytes *out);

#endif
