/* etcdserverpb.Cluster. MemberList: the replicas of the shard, each a member with the name and the
 * address of its host. Changes are refused. */
#include <stdio.h>
#include <string.h>

#include "agent/services/etcd_service.h"
#include "proto/decode.h"
#include "thole/kv/v1/kv.upb.h"

static upb_StringView url_of(struct services *s, upb_StringView address, upb_Arena *arena)
{
    const char *scheme = agent_tls(s->agent) != NULL ? "https" : "http";
    size_t room = strlen(scheme) + 3 + address.size + 1;
    char *url = upb_Arena_Malloc(arena, room);
    int n = snprintf(url, room, "%s://%.*s", scheme, (int)address.size, address.data);

    return (upb_StringView){url, (size_t)n};
}

static void add_member(struct services *s, const struct registry_view *view, uint64_t shard_id,
                       const thole_v1_Replica *row, etcdserverpb_MemberListResponse *answer,
                       upb_Arena *arena)
{
    struct uuid id;
    int32_t role = thole_v1_Replica_role(row);
    const thole_v1_Host *host = uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &id)
                                    ? registry_host(view, &id)
                                    : NULL;

    if (host == NULL) {
        return;
    }
    etcdserverpb_Member *m = etcdserverpb_MemberListResponse_add_members(answer, arena);
    etcdserverpb_Member_set_ID(m, services__etcd_member_id(shard_id, &id));
    etcdserverpb_Member_set_name(m, thole_v1_Host_name(host));
    etcdserverpb_Member_set_isLearner(m, role == thole_v1_REPLICA_ROLE_NON_VOTING);
    upb_StringView url = url_of(s, thole_v1_HostStatus_address(thole_v1_Host_status(host)), arena);
    etcdserverpb_Member_add_peerURLs(m, url, arena);
    if (role != thole_v1_REPLICA_ROLE_WITNESS) { /* a witness has no data to serve */
        etcdserverpb_Member_add_clientURLs(m, url, arena);
    }
}

static bool answer(struct etcd_call *c, struct slice status, struct bytes *out,
                   struct thole_status *ret)
{
    const uint64_t shard_id = c->r.route.shard_id;
    upb_Arena *arena = upb_Arena_New();
    struct registry_view *view = registry_view_acquire(agent_registry(c->r.s->agent));
    etcdserverpb_MemberListResponse *m = etcdserverpb_MemberListResponse_new(arena);
    struct registry_replica_buf buf;
    const thole_v1_Replica *row = NULL;

    (void)status, (void)ret;
    for (uint64_t after = 0;
         (row = registry_next_replica_of_shard(view, shard_id, after, &buf)) != NULL;) {
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN) {
            add_member(c->r.s, view, shard_id, row, m, arena);
        }
    }
    struct bufslice bytes = services__encode(m, &etcdserverpb_MemberListResponse_msginit, arena);
    bytes_append_slice(out, bytes.bytes);
    bufslice_unref(bytes);
    registry_view_release(view);
    upb_Arena_Free(arena);
    return true;
}

/* The rows are those of this host, which follow shard zero closely. The shard is asked for its
 * term, and so, with `linearizable`, whether it can serve at all. */
void services__etcd_members(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct etcd_call *c = services__etcd_call_new(ctx, rpc);
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_MemberListRequest *m =
        PROTO_DECODE(etcdserverpb_MemberListRequest, message, arena);

    c->answer = answer;
    c->r.route.stale = m == NULL || !etcdserverpb_MemberListRequest_linearizable(m);
    upb_Arena_Free(arena);
    services__etcd_send(&c->r, ROUTER_QUERY, thole_kv_v1_Query_op_status, (struct slice){0});
}

void services__etcd_member_change(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct thole_status st;

    (void)ctx;
    (void)message;
    (void)THOLE_FAIL(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                     "etcdserver: members follow the shard's spec: change `voters` and `nonVoting` "
                     "with `thole apply`, move one with `thole shard move`, empty a host with "
                     "`thole host drain`");
    services__etcd_fail(rpc, &st);
}
