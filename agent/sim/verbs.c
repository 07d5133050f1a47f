/* The operator's actions: control plane calls to one of the hosts. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/play.h"
#include "agent/sim/register_machine.h"
#include "base/buf.h"
#include "proto/decode.h"
#include "registry/registry.h"
#include "thole/v1/control.upb.h"
#include "thole/v1/operations.upb.h"

#define VERB_TIMEOUT_NS (10 * NS_PER_S)

struct verb {
    const struct step *step;
    char what[160];
};

/* The first answer to each request id that is sent twice. Keeps only the newest requests. */
struct request_answer {
    uint64_t request_id, operation;
    bool ok;
};
static struct request_answer request_answers[64];

/* A request id is executed once, so both calls must get the answer of the same execution. */
static void check_once(const struct step *p, const struct thole_status *st, uint64_t operation)
{
    struct request_answer *known = &request_answers[p->request_id % 64];
    bool ok = st->code == THOLE_OK;
    if (known->request_id != p->request_id) {
        *known = (struct request_answer){p->request_id, operation, ok};
    } else if (known->ok && ok && known->operation != operation) {
        world__fail("one request began operation %" PRIu64 " and operation %" PRIu64,
                    known->operation, operation);
    } else if (known->ok && p->kind == STEP_CREATE && st->code == THOLE_ALREADY_EXISTS) {
        world__fail("a request made a shard, and its repetition is told: %s", st->message);
    }
}

static void check_answer(const struct step *p, const struct thole_status *st, struct slice reply)
{
    upb_Arena *a = upb_Arena_New();
    uint64_t operation = 0;
    if (st->code == THOLE_OK && (p->kind == STEP_MOVE_REPLICA || p->kind == STEP_DRAIN ||
                                 p->kind == STEP_DECOMMISSION || p->kind == STEP_REBALANCE)) {
        const thole_v1_Operation *o = PROTO_DECODE(thole_v1_Operation, reply, a);
        operation = o != NULL ? thole_v1_Operation_id(o) : 0;
    }
    if (p->twice) {
        check_once(p, st, operation);
    }
    upb_Arena_Free(a);
}

static void answered(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct verb *v = ctx;
    if (v->step != NULL) {
        check_answer(v->step, st, reply);
    }
    play.verbs++;
    play.verbs_ok += st->code == THOLE_OK;
    world__trace("operator: %s: %s", v->what, st->code == THOLE_OK ? "OK" : st->message);
    world__mix(st->code, play.verbs);
    free(v);
}

static void send(const struct step *p, const char *path, const char *bytes, size_t size)
{
    for (int i = 0; i < (p->twice ? 2 : 1); i++) {
        struct verb *v = xcalloc(1, sizeof *v);
        v->step = play.calm ? NULL : p; /* points into the story, which outlives the call */
        story__describe(p, v->what, sizeof v->what);
        int through = i == 0 ? p->through : p->other;
        world__call(through, path, slice_of(bytes, size), VERB_TIMEOUT_NS, answered, v);
    }
}

static upb_StringView text(upb_Arena *arena, const char *s)
{
    size_t n = strlen(s);
    char *copy = upb_Arena_Malloc(arena, n + 1);
    memcpy(copy, s, n + 1);
    return upb_StringView_FromDataAndSize(copy, n);
}

static upb_StringView request_id(upb_Arena *arena, const struct step *p)
{
    char id[32];
    snprintf(id, sizeof id, "step-%016" PRIx64, p->request_id);
    return text(arena, id);
}

#define SEND(p, path, message, type)                               \
    do {                                                           \
        size_t size_ = 0;                                          \
        const char *bytes_ = type##_serialize(message, a, &size_); \
        send(p, path, bytes_, size_);                              \
    } while (0)

static void fill_spec(thole_v1_ShardSpec *spec, const struct step *p, upb_Arena *a)
{
    uint32_t voters = p->kind == STEP_SCALE ? story__voters(p) : p->amount % 3 == 0 ? 1 : 3;
    thole_v1_ShardSpec_set_type(spec, text(a, REGISTER_TYPE));
    thole_v1_ShardSpec_set_voters(spec, voters);
    if (p->amount % 5 == 0 && voters > 1) {
        thole_v1_ShardSpec_set_witnesses(spec, 1);
    }
    if (p->amount % 7 == 0) {
        thole_v1_ReplicaGroup_set_count(thole_v1_ShardSpec_add_non_voting(spec, a), 1);
    }
    if (play.story->zones && p->amount % 2 == 0) {
        thole_v1_ShardSpec_add_spread(spec, text(a, "zone"), a);
    }
}

static void create_or_scale(const struct step *p, upb_Arena *a)
{
    char name[16];
    shard_name_of(p->shard, name);
    if (p->kind == STEP_CREATE) {
        thole_v1_CreateShardRequest *q = thole_v1_CreateShardRequest_new(a);
        thole_v1_Shard *s = thole_v1_CreateShardRequest_mutable_shard(q, a);
        thole_v1_Shard_set_name(s, text(a, name));
        fill_spec(thole_v1_Shard_mutable_spec(s, a), p, a);
        thole_v1_CreateShardRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Shards/CreateShard", q, thole_v1_CreateShardRequest);
    } else {
        thole_v1_UpdateShardRequest *q = thole_v1_UpdateShardRequest_new(a);
        thole_v1_Shard *s = thole_v1_UpdateShardRequest_mutable_shard(q, a);
        thole_v1_Shard_set_name(s, text(a, name));
        fill_spec(thole_v1_Shard_mutable_spec(s, a), p, a);
        thole_v1_UpdateShardRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Shards/UpdateShard", q, thole_v1_UpdateShardRequest);
    }
}

static void pool(const struct step *p, upb_Arena *a)
{
    thole_v1_UpdatePoolRequest *q = thole_v1_UpdatePoolRequest_new(a);
    thole_v1_ShardPool *row = thole_v1_UpdatePoolRequest_mutable_pool(q, a);
    thole_v1_ShardPoolSpec *spec = thole_v1_ShardPool_mutable_spec(row, a);
    thole_v1_ShardPool_set_name(row, text(a, "p"));
    thole_v1_ShardPoolSpec_set_count(spec, story__pool_shards(p));
    thole_v1_ShardSpec *shard = thole_v1_ShardPoolSpec_mutable_shard(spec, a);
    thole_v1_ShardSpec_set_type(shard, text(a, "counter"));
    thole_v1_ShardSpec_set_voters(shard, p->amount % 2 == 0 ? 1 : 3);
    thole_v1_UpdatePoolRequest_set_allow_missing(q, p->kind == STEP_CREATE_POOL);
    thole_v1_UpdatePoolRequest_set_request_id(q, request_id(a, p));
    SEND(p, "/thole.v1.Pools/UpdatePool", q, thole_v1_UpdatePoolRequest);
}

/* The replica's id in the view of the host that receives the call. */
static uint64_t replica_on(const struct step *p)
{
    char shard[16], host[16];
    struct registry_shard_buf sb;
    struct registry_replica_buf rb;
    uint64_t found = 0;
    struct registry_view *v = checks__view(p->through);
    if (v == NULL) {
        return 0;
    }
    shard_name_of(p->shard, shard);
    host_name_of(p->host, host);
    const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(shard), &sb);
    const thole_v1_Host *h = registry_host_by_name(v, slice_str(host));
    const thole_v1_Replica *r;
    for (uint64_t id = 0;
         row != NULL && h != NULL &&
         (r = registry_next_replica_of_shard(v, thole_v1_Shard_id(row), id, &rb)) != NULL;) {
        id = thole_v1_Replica_id(r);
        if (slice_equal(registry_str(thole_v1_Replica_host(r)), slice_str(host))) {
            found = id;
        }
    }
    registry_view_release(v);
    return found;
}

#define HOST_VERB(type, path)                                               \
    do {                                                                    \
        thole_v1_##type##Request *q = thole_v1_##type##Request_new(a);      \
        thole_v1_##type##Request_set_name(q, text(a, host));                \
        thole_v1_##type##Request_set_request_id(q, request_id(a, p));       \
        SEND(p, "/thole.v1.Operations/" path, q, thole_v1_##type##Request); \
    } while (0)

static void of_host(const struct step *p, upb_Arena *a)
{
    char host[16];
    host_name_of(p->host, host);
    if (p->kind == STEP_DRAIN) {
        HOST_VERB(DrainHost, "DrainHost");
    } else if (p->kind == STEP_UNDRAIN) {
        HOST_VERB(UndrainHost, "UndrainHost");
    } else if (p->kind == STEP_CORDON) {
        HOST_VERB(CordonHost, "CordonHost");
    } else if (p->kind == STEP_UNCORDON) {
        HOST_VERB(UncordonHost, "UncordonHost");
    } else {
        HOST_VERB(DecommissionHost, "DecommissionHost");
    }
}

static void of_replica(const struct step *p, upb_Arena *a)
{
    char shard[16], host[16], other[16];
    shard_name_of(p->shard, shard);
    host_name_of(p->host, host);
    host_name_of(p->other, other);
    if (p->kind == STEP_MOVE_REPLICA) {
        thole_v1_MoveShardRequest *q = thole_v1_MoveShardRequest_new(a);
        thole_v1_MoveShardRequest_set_shard(q, text(a, shard));
        thole_v1_MoveShardRequest_set_from(q, text(a, host));
        thole_v1_MoveShardRequest_set_to(q, text(a, other));
        thole_v1_MoveShardRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Operations/MoveShard", q, thole_v1_MoveShardRequest);
    } else if (p->kind == STEP_TRANSFER) {
        thole_v1_TransferLeaderRequest *q = thole_v1_TransferLeaderRequest_new(a);
        thole_v1_TransferLeaderRequest_set_shard(q, text(a, shard));
        thole_v1_TransferLeaderRequest_set_host(q, text(a, host));
        SEND(p, "/thole.v1.Shards/TransferLeader", q, thole_v1_TransferLeaderRequest);
    } else if (p->kind == STEP_ADD_REPLICA) {
        thole_v1_CreateReplicaRequest *q = thole_v1_CreateReplicaRequest_new(a);
        thole_v1_CreateReplicaRequest_set_shard(q, text(a, shard));
        thole_v1_CreateReplicaRequest_set_host(q, text(a, host));
        thole_v1_CreateReplicaRequest_set_role(
            q, p->amount % 2 == 0 ? thole_v1_REPLICA_ROLE_VOTER : thole_v1_REPLICA_ROLE_NON_VOTING);
        thole_v1_CreateReplicaRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Replicas/CreateReplica", q, thole_v1_CreateReplicaRequest);
    } else {
        thole_v1_DeleteReplicaRequest *q = thole_v1_DeleteReplicaRequest_new(a);
        thole_v1_DeleteReplicaRequest_set_id(q, replica_on(p));
        thole_v1_DeleteReplicaRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Replicas/DeleteReplica", q, thole_v1_DeleteReplicaRequest);
    }
}

static void of_cluster(const struct step *p, upb_Arena *a)
{
    if (p->kind == STEP_REBALANCE) {
        thole_v1_RebalanceRequest *q = thole_v1_RebalanceRequest_new(a);
        thole_v1_RebalanceRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Operations/Rebalance", q, thole_v1_RebalanceRequest);
    } else if (p->kind == STEP_PAUSE_CONTROLLERS) {
        thole_v1_PauseControllersRequest *q = thole_v1_PauseControllersRequest_new(a);
        thole_v1_PauseControllersRequest_add_controllers(q, (int32_t)(p->amount % 3) + 1, a);
        thole_v1_PauseControllersRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Operations/PauseControllers", q, thole_v1_PauseControllersRequest);
    } else if (p->kind == STEP_RESUME_CONTROLLERS) {
        thole_v1_ResumeControllersRequest *q = thole_v1_ResumeControllersRequest_new(a);
        thole_v1_ResumeControllersRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Operations/ResumeControllers", q, thole_v1_ResumeControllersRequest);
    } else {
        thole_v1_CancelOperationRequest *q = thole_v1_CancelOperationRequest_new(a);
        struct registry_view *v = checks__view(p->through);
        uint64_t newest = 0;
        const thole_v1_Operation *o;
        while (v != NULL && (o = registry_next_operation(v, newest)) != NULL) {
            newest = thole_v1_Operation_id(o);
        }
        if (v != NULL) {
            registry_view_release(v);
        }
        thole_v1_CancelOperationRequest_set_id(q, newest);
        thole_v1_CancelOperationRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Operations/CancelOperation", q, thole_v1_CancelOperationRequest);
    }
}

static void delete_one(const struct step *p, upb_Arena *a)
{
    char name[16];
    shard_name_of(p->shard, name);
    if (p->kind == STEP_DELETE) {
        thole_v1_DeleteShardRequest *q = thole_v1_DeleteShardRequest_new(a);
        thole_v1_DeleteShardRequest_set_name(q, text(a, name));
        thole_v1_DeleteShardRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Shards/DeleteShard", q, thole_v1_DeleteShardRequest);
    } else {
        thole_v1_DeletePoolRequest *q = thole_v1_DeletePoolRequest_new(a);
        thole_v1_DeletePoolRequest_set_name(q, text(a, "p"));
        thole_v1_DeletePoolRequest_set_request_id(q, request_id(a, p));
        SEND(p, "/thole.v1.Pools/DeletePool", q, thole_v1_DeletePoolRequest);
    }
}

void verbs__do(const struct step *p)
{
    upb_Arena *a = upb_Arena_New();
    switch ((int)p->kind) {
    case STEP_CREATE:
    case STEP_SCALE:
        create_or_scale(p, a);
        break;
    case STEP_DELETE:
    case STEP_DELETE_POOL:
        delete_one(p, a);
        break;
    case STEP_DRAIN:
    case STEP_UNDRAIN:
    case STEP_CORDON:
    case STEP_UNCORDON:
    case STEP_DECOMMISSION:
        of_host(p, a);
        break;
    case STEP_MOVE_REPLICA:
    case STEP_TRANSFER:
    case STEP_ADD_REPLICA:
    case STEP_REMOVE_REPLICA:
        of_replica(p, a);
        break;
    case STEP_CREATE_POOL:
    case STEP_SCALE_POOL:
        pool(p, a);
        break;
    default:
        of_cluster(p, a);
        break;
    }
    upb_Arena_Free(a);
}

void verbs__resume_controllers(int through)
{
    const struct step p = {
        .kind = STEP_RESUME_CONTROLLERS, .through = through, .request_id = rand_u64(world__rand())};
    verbs__do(&p);
}
