/* etcd's v3 API on shards of type kv: what the files of it share. */
#ifndef AGENT_SERVICES_ETCD_SERVICE_H
#define AGENT_SERVICES_ETCD_SERVICE_H

#include "agent/services/services_internal.h"
#include "etcd/rpc.upb.h"

/* What clients decide by: the version whose calls we answer. */
#define ETCD_VERSION "3.4.23"

/* A proposal to, or a query of, the shard of an rpc. */
struct etcd_route {
    struct services *s;
    struct router_request route;
    bool anew; /* the name was looked up once more */
    /* Called once; st is OK with the machine's answer in `answer`, or an error, which
     * services__etcd_fail puts into etcd's words. */
    void (*done)(struct etcd_route *r, const struct thole_status *st, struct slice answer);
};
/* `field` of thole.kv.v1.Command or Query, filled with the request's bytes as they are. `kind` is
 * ROUTER_PROPOSE or ROUTER_QUERY. `done` may be called before this returns. */
void services__etcd_send(struct etcd_route *r, enum router_kind kind, uint32_t field,
                         struct slice request);
/* In place of a status' own words, etcd's for the same. */
void services__etcd_fail(struct bus_rpc *rpc, const struct thole_status *st);
/* Numbers of a cluster and of its members: hashes, equal on every host. */
uint64_t services__etcd_cluster_id(struct services *s, uint64_t shard_id);
uint64_t services__etcd_member_id(uint64_t shard_id, const struct uuid *host);
/* The rest of a header: merged with the machine's by whoever decodes it. */
void services__etcd_header(const struct etcd_route *r, struct bytes *out);

/* The unary calls that the machine answers: number and paths. ctx is a struct etcd_binding. */
#define ETCD_UNARY_METHODS 12
struct etcd_binding {
    struct services *s;
    size_t method;
};
const char *services__etcd_unary_path(size_t i);
void services__etcd_unary(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_members(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_keep_alive(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_keep_alive_end(void *ctx, struct bus_rpc *rpc);

#endif
