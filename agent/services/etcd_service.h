/* etcd's v3 API on shards of type kv: declarations that its files share. */
#ifndef AGENT_SERVICES_ETCD_SERVICE_H
#define AGENT_SERVICES_ETCD_SERVICE_H

#include "agent/services/services_internal.h"
#include "etcd/rpc.upb.h"

/* A proposal to, or a query of, the shard of an rpc. */
struct etcd_route {
    struct services *s;
    struct router_request route;
    char shard[LIMIT_NAME_BYTES + 1]; /* its name */
    struct slice token;               /* of the caller, as text; borrowed, empty: none */
    struct slice ticket;              /* in place of the token, as bytes; borrowed likewise */
    bool anew;                        /* the name was resolved again after a failure */
    /* Called once. OK: `answer` is the machine's answer. Otherwise pass `st` to
     * services__etcd_fail, which answers with etcd's message. */
    void (*done)(struct etcd_route *r, const struct thole_status *st, struct slice answer);
};
/* The name of the shard that the call is for. */
void services__etcd_shard(const struct bus_rpc *rpc, char ret[static LIMIT_NAME_BYTES + 1]);
/* Sets shard and token to those of the call, which must live until the last services__etcd_send. */
void services__etcd_caller(struct etcd_route *r, const struct bus_rpc *rpc);
/* Sends `field` of thole.kv.v1.Command or Query, filled with the request's bytes. `kind` is
 * ROUTER_PROPOSE or ROUTER_QUERY. `done` may be called before this returns. */
void services__etcd_send(struct etcd_route *r, enum router_kind kind, uint32_t field,
                         struct slice request);

/* A call of one request. */
struct etcd_call {
    struct etcd_route r;
    struct bus_rpc *rpc;
    /* Appends the answer, but for the rest of its header. False: `ret` is the error. NULL: the
     * machine's answer is passed on. */
    bool (*answer)(struct etcd_call *c, struct slice answer, struct bytes *out,
                   struct thole_status *ret);
};
/* The call ends, and is freed, after services__etcd_send of its route. */
struct etcd_call *services__etcd_call_new(struct services *s, struct bus_rpc *rpc);

/* The revision in an answer's header; 0: the answer has none. */
int64_t services__etcd_revision(const etcdserverpb_ResponseHeader *header);
/* Appends a header with a revision; services__etcd_header appends the rest. */
void services__etcd_append_revision(int64_t revision, struct bytes *out);
/* The status of an answer that does not decode. */
enum thole_code services__etcd_undecodable(struct thole_status *ret);
/* Fails the call with etcd's message for the status, if there is one. */
void services__etcd_fail(struct bus_rpc *rpc, const struct thole_status *st);
/* Ids of a cluster and of its members: hashes, equal on every host. */
uint64_t services__etcd_cluster_id(struct services *s, uint64_t shard_id);
uint64_t services__etcd_member_id(uint64_t shard_id, const struct uuid *host);
/* Appends the missing fields of a header. Decoders merge the two headers into one. */
void services__etcd_header(const struct etcd_route *r, struct bytes *out);
/* Answers the call with the machine's answer, and the rest of its header. */
void services__etcd_reply(const struct etcd_route *r, struct bus_rpc *rpc, struct slice answer);
/* Counts the request's bytes as held. False: there is no room, and the call was failed. */
bool services__etcd_hold(struct bus_rpc *rpc, size_t bytes);

/* The unary calls that the machine answers: their number and paths. ctx is a struct etcd_binding.
 * */
#define ETCD_UNARY_METHODS 27
struct etcd_binding {
    struct services *s;
    size_t method;
};
const char *services__etcd_unary_path(size_t i);
void services__etcd_unary(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_members(void *ctx, struct bus_rpc *rpc, struct slice message);
/* Refuses: members of a shard follow its spec. */
void services__etcd_member_change(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_range_stream(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_keep_alive(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_keep_alive_end(void *ctx, struct bus_rpc *rpc);

/* Auth's calls that draw or hash something (etcd_auth.c). */
struct etcd_logins;
struct etcd_logins *services__etcd_logins_new(struct executor *executor);
void services__etcd_logins_free(struct etcd_logins *l); /* when no call is left */
void services__etcd_auth_enable(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_authenticate(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_user_add(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_change_password(void *ctx, struct bus_rpc *rpc, struct slice message);

#endif
