/* etcd's Lock and Election on shards of type kv: declarations that their files share.
 *
 * Whoever contends for a name has a key below it: NAME/LEASE, the lease in hexadecimal, attached to
 * that lease. Of these keys the one that was created first holds the name. Clients that do the same
 * themselves, such as those of etcd's package "concurrency", exclude each other with calls. */
#ifndef AGENT_SERVICES_ETCD_LOCK_H
#define AGENT_SERVICES_ETCD_LOCK_H

#include "agent/services/etcd_service.h"
#include "etcd/election.upb.h"
#include "etcd/lock.upb.h"

/* All keys below a name: from `ret_from` to `ret_end`. */
void services__lock_range(struct slice name, struct bytes *ret_from, struct bytes *ret_end);
/* Adds a comparison of a key: the target is of etcdserverpb.Compare. */
void services__lock_compare(etcdserverpb_TxnRequest *m, upb_Arena *arena, struct slice key,
                            int32_t target, int64_t value);
/* Fills in a range of keys below a name by creation: the oldest, or the youngest `limit`. */
void services__lock_by_age(etcdserverpb_RangeRequest *m, const struct bytes *from,
                           const struct bytes *end, bool oldest, int64_t limit);
/* Errors in etcd's words, which have no code of their own there: UNKNOWN. */
void services__lock_error(const char *what, struct thole_status *ret);

void services__etcd_lock(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_campaign(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_unlock(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_proclaim(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_leader(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_resign(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_observe(void *ctx, struct bus_rpc *rpc, struct slice message);

#endif
