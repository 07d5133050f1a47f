/* What `thole status` and `thole doctor` look at. */
#ifndef AGENT_CLI_CMD_STATUS_H
#define AGENT_CLI_CMD_STATUS_H

#include "agent/cli/rows.h"

/* The status of the called host; not its own view of the cluster's rows. */
enum thole_code status_get(struct cli *c, const thole_v1_StatusResponse **ret,
                           struct thole_status *st);
/* All hosts and shards, or none. If shard zero cannot be asked, they are the host's own view, and
 * `status` is not ready. */
enum thole_code status_look_around(struct cli *c, const thole_v1_StatusResponse **status,
                                   struct rows *hosts, struct rows *shards,
                                   struct thole_status *st);

/* Shard zero's votes. A voting replica that runs reports so itself, from the current configuration
 * on its host. */
struct zero_votes {
    uint32_t voters, live;
};
struct zero_votes status_count_zero(struct cli *c, const struct rows *hosts, bool stale);
/* How many more hosts may fail before shard zero loses its majority; -1: it has lost it. */
int32_t status_may_fail(const struct zero_votes *z);
/* "Degraded" is a problem if true, all other conditions if false. */
bool status_is_problem(const thole_v1_Condition *c);

#define STATUS_DAYS_WARNED 30 /* fewer days that a certificate has left are a warning */
/* Whole days for which the certificate of a host with TLS, or its CA's, is valid. */
int64_t status_certificate_days(const thole_v1_StatusResponse *status);

#endif
