/* What a daemon's HTTP port answers, and its metrics. Failures fail the test (cmocka). */
#ifndef INTEGRATION_TEST_SCRAPE_H
#define INTEGRATION_TEST_SCRAPE_H

#include <stdbool.h>

#include "integration/test/cluster.h"

/* GET `path` of a host of a cluster with `http`. The whole answer in a static buffer; empty if none
 * came in time. */
const char *http_get(const struct host *h, const char *path);
/* The text of /metrics, checked: it is well-formed. Static, like the answer. */
const char *scrape(const struct host *h);
/* The value of one series, such as `thole_hosts{liveness="live"}`. False: it is not there. */
bool scrape_find(const char *text, const char *series, double *ret);
double scrape_value(const char *text, const char *series);
/* Fails if the text is not what Prometheus reads (version 0.0.4), by the rules of OpenMetrics where
 * they are narrower: one head per family before its samples, no series twice, counters that end in
 * _total, cumulative buckets that end with the count. */
void scrape_check(const char *text);

#endif
