/* etcd's v3 API, the unary calls: KV, Lease, Maintenance, most of Auth. The request's bytes go to
 * the shard's machine unchanged, inside a thole.kv.v1.Command or Query, with the caller's token.
 * The machine's answer is sent back with the missing fields of the header appended. */
#include "agent/services/etcd_service.h"

#include <stdlib.h>
#include <string.h>

#include "agent/services/services.h"
#include "base/hash.h"
#include "proto/decode.h"
#include "thole/kv/v1/kv.upb.h"

/* Fields of thole.kv.v1.Command and Query. */
#define COMMAND(field) thole_kv_v1_Command_op_##field
#define QUERY(field) thole_kv_v1_Query_op_##field

/* ---- To the machine -------------------------------------------------------------------------- */

uint64_t services__etcd_cluster_id(struct services *s, uint64_t shard_id)
{
    struct uuid cluster = {0};

    (void)agent_cluster(s->agent, &cluster);
    return hash64(&cluster, sizeof cluster, shard_id) | 1; /* never 0 */
}

uint64_t services__etcd_member_id(uint64_t shard_id, const struct uuid *host)
{
    return hash64(host, sizeof *host, shard_id) | 1;
}

void services__etcd_header(const struct etcd_route *r, struct bytes *out)
{
    struct bytes header = {0};

    services__wire_varint(&header, 1, services__etcd_cluster_id(r->s, r->route.shard_id));
    services__wire_varint(&header, 2,
                          services__etcd_member_id(r->route.shard_id, agent_host_id(r->s->agent)));
    services__wire_varint(&header, 4, r->route.term);
    services__wire_bytes(out, 1, bytes_slice(&header));
    bytes_deinit(&header);
}

void services__etcd_shard(const struct bus_rpc *rpc, char ret[static LIMIT_NAME_BYTES + 1])
{
    struct slice name = access_etcd_shard(rpc);

    memcpy(ret, name.data, name.size);
    ret[name.size] = '\0';
}

void services__etcd_caller(struct etcd_route *r, const struct bus_rpc *rpc)
{
    services__etcd_shard(rpc, r->shard);
    r->token = bus_rpc_metadata(rpc, "token");
}

void services__etcd_fail(struct bus_rpc *rpc, const struct thole_status *st)
{
    struct thole_status shown = *st;

    if (st->reason == THOLE_REASON_NO_LEADER || st->reason == THOLE_REASON_NOT_LEADER) {
        (void)THOLE_FAIL(&shown, THOLE_UNAVAILABLE, st->reason, "etcdserver: no leader");
    } else if (st->code == THOLE_DEADLINE_EXCEEDED ||
               (st->code == THOLE_UNKNOWN && st->reason == THOLE_REASON_OUTCOME_UNKNOWN)) {
        (void)THOLE_FAIL(&shown, THOLE_UNAVAILABLE, st->reason, "etcdserver: request timed out");
    } else if (st->reason == THOLE_REASON_STOPPED) {
        (void)THOLE_FAIL(&shown, THOLE_UNAVAILABLE, st->reason, "etcdserver: server stopped");
    }
    bus_rpc_fail(rpc, &shown, 0, NULL);
}

static void finish(struct etcd_route *r, const struct thole_status *st)
{
    r->done(r, st, (struct slice){0});
}

static void shard_found(void *ctx, const struct thole_status *st, uint64_t shard_id);

static void route_done(struct router_request *route)
{
    struct etcd_route *r = route->ctx;
    struct thole_status st = route->status;
    struct slice result = route->result.bytes;

    if (st.reason == THOLE_REASON_NO_SUCH_SHARD && !r->anew) {
        r->anew = true;
        agent_resolve_anew(r->s->agent, slice_str(r->shard), 0, route->deadline_ns, shard_found, r);
        return;
    }
    if (st.reason == THOLE_REASON_NO_SUCH_SHARD) {
        bufslice_unref(route->payload);
    }
    if (st.code == THOLE_OK && route->code != 0) { /* refused by the machine */
        (void)THOLE_FAIL(&st, (enum thole_code)route->code, THOLE_REASON_NONE, "%.*s",
                         (int)result.size, (const char *)result.data);
    }
    r->done(r, &st, st.code == THOLE_OK ? result : (struct slice){0});
}

/* A shard keeps its type and id, so the last answer is remembered. */
static bool is_kv(struct services *s, uint64_t shard_id)
{
    struct registry_shard_buf buf;
    if (atomic_load_explicit(&s->kv_shard_plus_1, memory_order_relaxed) == shard_id + 1) {
        return true;
    }
    struct registry_view *view = registry_view_acquire(agent_registry(s->agent));
    const thole_v1_Shard *row = registry_shard(view, shard_id, &buf);
    bool ok =
        row != NULL && slice_equal(registry_str(thole_v1_ShardSpec_type(thole_v1_Shard_spec(row))),
                                   slice_str("kv"));

    registry_view_release(view);
    if (ok) {
        atomic_store_explicit(&s->kv_shard_plus_1, shard_id + 1, memory_order_relaxed);
    }
    return ok;
}

static void shard_found(void *ctx, const struct thole_status *st, uint64_t shard_id)
{
    struct etcd_route *r = ctx;
    struct thole_status wrong = {0};

    if (st->code == THOLE_OK && !is_kv(r->s, shard_id)) {
        (void)THOLE_FAIL(&wrong, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                         "shard \"%s\" is not of type kv", r->shard);
        st = &wrong;
    }
    if (st->code != THOLE_OK) {
        bufslice_unref(r->route.payload);
        finish(r, st);
        return;
    }
    r->route.shard_id = shard_id;
    agent_route(r->s->agent, &r->route);
}

#define FIELD_HEAD_BYTES 16 /* room for the marker, a field's number and its size */
#define COMMAND_TOKEN 100   /* in Command and Query */
#define TOKEN_TEXT_MAX 1024 /* longer than those of the longest names */

/* The token's bytes. What is none becomes a byte that the machine refuses, if it asks for one. */
static void read_token(const struct etcd_route *r, struct bytes *ret)
{
    static const uint8_t none = 0;

    if (r->ticket.size > 0) {
        bytes_append_slice(ret, r->ticket);
    } else if (r->token.size > TOKEN_TEXT_MAX ||
               (r->token.size > 0 && !services__base64url_decode(r->token, ret))) {
        bytes_clear(ret);
        bytes_append(ret, &none, 1);
    }
}

void services__etcd_send(struct etcd_route *r, enum router_kind kind, uint32_t field,
                         struct slice request)
{
    static const uint8_t marker = 0;
    struct bytes token = {0};
    struct thole_status st;

    if (strcmp(r->shard, REGISTRY_SHARD_NAME) == 0) {
        (void)agent_refuse_zero(&st);
        finish(r, &st);
        return;
    }
    read_token(r, &token);
    size_t room = FIELD_HEAD_BYTES + (token.size > 0 ? token.size + FIELD_HEAD_BYTES : 0);
    if (request.size > LIMIT_PAYLOAD_BYTES - room) {
        bytes_deinit(&token);
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                         "etcdserver: request is too large");
        finish(r, &st);
        return;
    }
    struct bytes payload;
    struct buf *b = services__builder_begin(&payload, request.size + room);
    bytes_append(&payload, &marker, 1);
    services__wire_bytes(&payload, field, request);
    if (token.size > 0) {
        services__wire_bytes(&payload, COMMAND_TOKEN, bytes_slice(&token));
    }
    bytes_deinit(&token);
    r->route.kind = kind;
    r->route.payload = services__builder_end(b, &payload);
    r->route.done = route_done;
    r->route.ctx = r;
    agent_resolve(r->s->agent, slice_str(r->shard), 0, r->route.deadline_ns, shard_found, r);
}

/* ---- Calls ----------------------------------------------------------------------------------- */

/* How a request is sent. */
struct sending {
    enum router_kind kind;
    uint32_t field;
    bool stale;
};

struct etcd_method {
    const char *path;
    enum router_kind kind;
    uint32_t field;
    const upb_MiniTable *request;
    /* Looks at the request before it is sent; NULL: not needed. */
    void (*look)(const void *request, struct sending *ret);
    /* Of the call. */
    bool (*answer)(struct etcd_call *c, struct slice answer, struct bytes *out,
                   struct thole_status *ret);
};

static void look_range(const void *request, struct sending *ret)
{
    ret->stale = etcdserverpb_RangeRequest_serializable(request);
}

static bool reads_only(const etcdserverpb_TxnRequest *m)
{
    for (int branch = 0; branch < 2; branch++) {
        size_t n = 0;
        const etcdserverpb_RequestOp *const *ops = branch == 0
                                                       ? etcdserverpb_TxnRequest_success(m, &n)
                                                       : etcdserverpb_TxnRequest_failure(m, &n);
        for (size_t i = 0; i < n; i++) {
            if (!etcdserverpb_RequestOp_has_request_range(ops[i])) {
                return false; /* nested ones go through the log */
            }
        }
    }
    return true;
}

static void look_txn(const void *request, struct sending *ret)
{
    if (reads_only(request)) {
        ret->kind = ROUTER_QUERY;
        ret->field = QUERY(txn);
    }
}

static void look_alarm(const void *request, struct sending *ret)
{
    if (etcdserverpb_AlarmRequest_action(request) == etcdserverpb_AlarmRequest_GET) {
        ret->kind = ROUTER_QUERY;
        ret->field = QUERY(alarm);
    }
}

/* The member that leads, according to the registry; 0: unknown. */
static uint64_t leader_of(const struct etcd_call *c)
{
    struct registry_shard_buf buf;
    struct registry_view *view = registry_view_acquire(agent_registry(c->r.s->agent));
    const thole_v1_Shard *row = registry_shard(view, c->r.route.shard_id, &buf);
    const thole_v1_ShardStatus *status = row != NULL ? thole_v1_Shard_status(row) : NULL;
    const thole_v1_Host *host =
        status != NULL
            ? registry_host_by_name(view, registry_str(thole_v1_ShardStatus_leader_host(status)))
            : NULL;
    struct uuid id;
    bool found = host != NULL && uuid_parse(registry_str(thole_v1_Host_id(host)), &id);

    registry_view_release(view);
    return found ? services__etcd_member_id(c->r.route.shard_id, &id) : 0;
}

static bool answer_status(struct etcd_call *c, struct slice answer, struct bytes *out,
                          struct thole_status *ret)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_kv_v1_StoreStatus *m = PROTO_DECODE(thole_kv_v1_StoreStatus, answer, arena);

    if (m != NULL) {
        uint64_t bytes = thole_kv_v1_StoreStatus_bytes(m), index = c->r.route.index;
        services__etcd_append_revision(thole_kv_v1_StoreStatus_revision(m), out);
        services__wire_bytes(out, 2, slice_str(ETCD_VERSION));
        services__wire_varint(out, 3, bytes);
        services__wire_varint(out, 4, leader_of(c));
        services__wire_varint(out, 5, index);
        services__wire_varint(out, 6, c->r.route.term);
        services__wire_varint(out, 7, index);
        services__wire_varint(out, 9, bytes);
    }
    upb_Arena_Free(arena);
    return m != NULL || services__etcd_undecodable(ret) == THOLE_OK;
}

/* The state database compacts itself, so there is nothing to do: the answer is a header. */
static bool answer_defragment(struct etcd_call *c, struct slice answer, struct bytes *out,
                              struct thole_status *ret)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_kv_v1_StoreStatus *m = PROTO_DECODE(thole_kv_v1_StoreStatus, answer, arena);

    (void)c;
    if (m != NULL) {
        services__etcd_append_revision(thole_kv_v1_StoreStatus_revision(m), out);
    }
    upb_Arena_Free(arena);
    return m != NULL || services__etcd_undecodable(ret) == THOLE_OK;
}

#define METHOD(service, call, message, kind, field, look_fn, answer_fn)  \
    {                                                                    \
        "/etcdserverpb." service "/" call, ROUTER_##kind, field,         \
            &etcdserverpb_##message##Request_msginit, look_fn, answer_fn \
    }
#define AUTH(call, message, kind, field) METHOD("Auth", call, message, kind, field, NULL, NULL)
static const struct etcd_method methods[] = {
    METHOD("KV", "Range", Range, QUERY, QUERY(range), look_range, NULL),
    METHOD("KV", "Put", Put, PROPOSE, COMMAND(put), NULL, NULL),
    METHOD("KV", "DeleteRange", DeleteRange, PROPOSE, COMMAND(delete_range), NULL, NULL),
    METHOD("KV", "Txn", Txn, PROPOSE, COMMAND(txn), look_txn, NULL),
    METHOD("KV", "Compact", Compaction, PROPOSE, COMMAND(compact), NULL, NULL),
    METHOD("Lease", "LeaseGrant", LeaseGrant, PROPOSE, COMMAND(lease_grant), NULL, NULL),
    METHOD("Lease", "LeaseRevoke", LeaseRevoke, PROPOSE, COMMAND(lease_revoke), NULL, NULL),
    METHOD("Lease", "LeaseTimeToLive", LeaseTimeToLive, QUERY, QUERY(lease_time_to_live), NULL,
           NULL),
    METHOD("Lease", "LeaseLeases", LeaseLeases, QUERY, QUERY(lease_leases), NULL, NULL),
    METHOD("Maintenance", "Alarm", Alarm, PROPOSE, COMMAND(alarm), look_alarm, NULL),
    METHOD("Maintenance", "Status", Status, QUERY, QUERY(status), NULL, answer_status),
    METHOD("Maintenance", "HashKV", HashKV, QUERY, QUERY(hash_kv), NULL, NULL),
    /* Of everything there is: HashKV without a revision, whose answer begins with the same fields.
     * etcd's Hash is that of its file, which no two hosts have in common. */
    METHOD("Maintenance", "Hash", Hash, QUERY, QUERY(hash_kv), NULL, NULL),
    METHOD("Maintenance", "Defragment", Defragment, QUERY, QUERY(status), NULL, answer_defragment),
    AUTH("AuthDisable", AuthDisable, PROPOSE, COMMAND(auth_disable)),
    AUTH("AuthStatus", AuthStatus, QUERY, QUERY(auth_status)),
    AUTH("UserGet", AuthUserGet, QUERY, QUERY(auth_user_get)),
    AUTH("UserList", AuthUserList, QUERY, QUERY(auth_user_list)),
    AUTH("UserDelete", AuthUserDelete, PROPOSE, COMMAND(auth_user_delete)),
    AUTH("UserGrantRole", AuthUserGrantRole, PROPOSE, COMMAND(auth_user_grant_role)),
    AUTH("UserRevokeRole", AuthUserRevokeRole, PROPOSE, COMMAND(auth_user_revoke_role)),
    AUTH("RoleAdd", AuthRoleAdd, PROPOSE, COMMAND(auth_role_add)),
    AUTH("RoleGet", AuthRoleGet, QUERY, QUERY(auth_role_get)),
    AUTH("RoleList", AuthRoleList, QUERY, QUERY(auth_role_list)),
    AUTH("RoleDelete", AuthRoleDelete, PROPOSE, COMMAND(auth_role_delete)),
    AUTH("RoleGrantPermission", AuthRoleGrantPermission, PROPOSE,
         COMMAND(auth_role_grant_permission)),
    AUTH("RoleRevokePermission", AuthRoleRevokePermission, PROPOSE,
         COMMAND(auth_role_revoke_permission)),
};
_Static_assert(sizeof methods / sizeof methods[0] == ETCD_UNARY_METHODS, "see etcd_service.h");

const char *services__etcd_unary_path(size_t i)
{
    return methods[i].path;
}

/* Beside the answer: a header. */
#define ANSWER_ROOM_BYTES 128

void services__etcd_reply(const struct etcd_route *r, struct bus_rpc *rpc, struct slice answer)
{
    struct bytes out;
    struct buf *b = services__builder_begin(&out, answer.size + ANSWER_ROOM_BYTES);

    bytes_append_slice(&out, answer);
    services__etcd_header(r, &out);
    bus_rpc_reply(rpc, services__builder_end(b, &out));
}

int64_t services__etcd_revision(const etcdserverpb_ResponseHeader *header)
{
    return header != NULL ? etcdserverpb_ResponseHeader_revision(header) : 0;
}

void services__etcd_append_revision(int64_t revision, struct bytes *out)
{
    struct bytes header = {0};

    services__wire_varint(&header, 3, (uint64_t)revision);
    services__wire_bytes(out, 1, bytes_slice(&header));
    bytes_deinit(&header);
}

enum thole_code services__etcd_undecodable(struct thole_status *ret)
{
    return THOLE_FAIL(ret, THOLE_INTERNAL, THOLE_REASON_NONE, "the answer does not decode");
}

bool services__etcd_hold(struct bus_rpc *rpc, size_t bytes)
{
    struct thole_status st;

    if (!bus_rpc_hold(rpc, NULL, bytes)) {
        (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                         "etcdserver: too many requests");
        services__etcd_fail(rpc, &st);
        return false;
    }
    return true;
}

static void call_done(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct etcd_call *c = CONTAINER_OF(r, struct etcd_call, r);
    struct bytes out = {0};
    struct thole_status error = *st;

    if (st->code != THOLE_OK) {
        services__etcd_fail(c->rpc, st);
    } else if (c->answer == NULL) {
        services__etcd_reply(r, c->rpc, answer);
    } else if (c->answer(c, answer, &out, &error)) {
        services__etcd_reply(r, c->rpc, bytes_slice(&out));
    } else {
        services__etcd_fail(c->rpc, &error);
    }
    bytes_deinit(&out);
    bufslice_unref(r->route.result);
    free(c);
}

struct etcd_call *services__etcd_call_new(struct services *s, struct bus_rpc *rpc)
{
    struct etcd_call *c = xcalloc(1, sizeof *c);

    c->r.s = s;
    c->r.done = call_done;
    services__etcd_caller(&c->r, rpc);
    c->r.route.deadline_ns = services__deadline(rpc);
    c->rpc = rpc;
    return c;
}

void services__etcd_unary(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    const struct etcd_binding *binding = ctx;
    const struct etcd_method *method = &methods[binding->method];
    struct sending how = {.kind = method->kind, .field = method->field};

    if (!services__etcd_hold(rpc, message.size)) {
        return;
    }
    if (method->look != NULL) {
        upb_Arena *arena = upb_Arena_New();
        const void *request = proto_decode(method->request, message, true, arena, NULL);
        if (request != NULL) { /* the machine refuses what does not decode */
            method->look(request, &how);
        }
        upb_Arena_Free(arena);
    }
    struct etcd_call *c = services__etcd_call_new(binding->s, rpc);
    c->answer = method->answer;
    c->r.route.stale = how.stale;
    services__etcd_send(&c->r, how.kind, how.field, message);
}
