/* The table of the control plane's methods, and the state that an agent's services share. */
#include <stdlib.h>

#include "agent/services/etcd_lock.h"
#include "agent/services/etcd_service.h"
#include "agent/services/etcd_watch.h"
#include "agent/services/services.h"
#include "agent/services/services_internal.h"
#include "thole/v1/repair.upb.h"

/* For all names, or for no name. */
#define UNARY(service, method, run_fn)                                                        \
    {                                                                                         \
        "/thole.v1." #service "/" #method, &thole_v1_##method##Request_msginit, run_fn, NULL, \
            false                                                                             \
    }
/* For the name in the request: services__name_of_METHOD. */
#define NAMED(service, method, run_fn)                                                  \
    {                                                                                   \
        "/thole.v1." #service "/" #method, &thole_v1_##method##Request_msginit, run_fn, \
            services__name_of_##method, false                                           \
    }
/* About one host, which answers it. */
#define OF_HOST(service, method, run_fn, name_fn)                                                \
    {                                                                                            \
        "/thole.v1." #service "/" #method, &thole_v1_##method##Request_msginit, run_fn, name_fn, \
            true                                                                                 \
    }

static const struct unary unary_methods[] = {
    NAMED(Hosts, GetHost, services__hosts_get),
    UNARY(Hosts, ListHosts, services__hosts_list),
    NAMED(Hosts, UpdateHost, services__hosts_update),
    NAMED(Hosts, DeleteHost, services__hosts_delete),
    NAMED(Shards, GetShard, services__shards_get),
    UNARY(Shards, ListShards, services__shards_list),
    NAMED(Shards, CreateShard, services__shards_create),
    NAMED(Shards, UpdateShard, services__shards_update),
    NAMED(Shards, DeleteShard, services__shards_delete),
    NAMED(Shards, TransferLeader, services__shards_transfer),
    NAMED(Pools, GetPool, services__pools_get),
    UNARY(Pools, ListPools, services__pools_list),
    NAMED(Pools, CreatePool, services__pools_create),
    NAMED(Pools, UpdatePool, services__pools_update),
    NAMED(Pools, DeletePool, services__pools_delete),
    UNARY(Operations, GetOperation, services__operations_get),
    UNARY(Operations, ListOperations, services__operations_list),
    UNARY(Operations, CancelOperation, services__operations_cancel),
    NAMED(Operations, DrainHost, services__operations_drain),
    NAMED(Operations, UndrainHost, services__operations_undrain),
    NAMED(Operations, CordonHost, services__operations_cordon),
    NAMED(Operations, UncordonHost, services__operations_uncordon),
    NAMED(Operations, DecommissionHost, services__operations_decommission),
    NAMED(Operations, MoveShard, services__operations_move),
    UNARY(Operations, Rebalance, services__operations_rebalance),
    UNARY(Operations, PauseControllers, services__operations_pause),
    UNARY(Operations, ResumeControllers, services__operations_resume),
    NAMED(Roles, GetRole, services__roles_get),
    UNARY(Roles, ListRoles, services__roles_list),
    NAMED(Roles, CreateRole, services__roles_create),
    NAMED(Roles, UpdateRole, services__roles_update),
    NAMED(Roles, DeleteRole, services__roles_delete),
    NAMED(Tokens, CreateToken, services__tokens_create),
    UNARY(Tokens, ListTokens, services__tokens_list),
    NAMED(Tokens, RevokeToken, services__tokens_revoke),
    UNARY(Replicas, ListReplicas, services__replicas_list),
    NAMED(Replicas, CreateReplica, services__replicas_create),
    NAMED(Replicas, DeleteReplica, services__replicas_delete),
    UNARY(Events, ListEvents, services__events_list),
    OF_HOST(Cluster, Status, services__cluster_status, NULL),
    OF_HOST(Diagnostics, GetLogLevels, services__log_levels_get, services__name_of_GetLogLevels),
    OF_HOST(Diagnostics, SetLogLevels, services__log_levels_set, services__name_of_SetLogLevels),
    OF_HOST(Diagnostics, GetHostReport, services__host_report, services__name_of_GetHostReport),
    UNARY(Snapshots, UploadSnapshot, services__snapshots_upload),
    NAMED(Snapshots, RestoreSnapshot, services__snapshots_restore),
    NAMED(Repair, PlanRepair, services__repair_plan),
    NAMED(Repair, RunRepair, services__repair_run),
};

#define UNARY_METHODS (sizeof unary_methods / sizeof unary_methods[0])

const struct unary *services__method_of_host(struct slice path)
{
    for (size_t i = 0; i < UNARY_METHODS; i++) {
        if (unary_methods[i].of_host && slice_equal(path, slice_str(unary_methods[i].path))) {
            return &unary_methods[i];
        }
    }
    return NULL;
}

static const struct bus_method other_methods[] = {
    {.path = "/thole.v1.Cluster/Watch",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = services__cluster_watch_handle},
    {.path = "/thole.v1.Events/WatchEvents",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = services__events_watch_handle},
    {.path = "/thole.v1.Operations/WatchOperation",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = services__operation_watch_handle},
    {.path = "/thole.v1.Snapshots/SaveSnapshot",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = services__snapshots_save},
    {.path = "/thole.v1.Data/Propose", .kind = BUS_RPC_UNARY, .handle = services__data_propose},
    {.path = "/thole.v1.Data/Query", .kind = BUS_RPC_UNARY, .handle = services__data_query},
    {.path = "/thole.v1.Data/QueryStream",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = services__data_query_stream},
    {.path = "/thole.v1.Data/OpenSession",
     .kind = BUS_RPC_UNARY,
     .handle = services__data_open_session},
    {.path = "/thole.v1.Data/CloseSession",
     .kind = BUS_RPC_UNARY,
     .handle = services__data_close_session},
    {.path = "/thole.v1.Data/Watch", .kind = BUS_RPC_SERVER_STREAM, .handle = services__data_watch},
    {.path = "/thole.v1.Data/Stream",
     .kind = BUS_RPC_BIDI_STREAM,
     .handle = services__data_stream_message,
     .end = services__data_stream_end},
    {.path = "/etcdserverpb.Cluster/MemberList",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_members},
    {.path = "/etcdserverpb.Cluster/MemberAdd",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_member_change},
    {.path = "/etcdserverpb.Cluster/MemberRemove",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_member_change},
    {.path = "/etcdserverpb.Cluster/MemberUpdate",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_member_change},
    {.path = "/etcdserverpb.Cluster/MemberPromote",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_member_change},
    {.path = "/etcdserverpb.Auth/AuthEnable",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_auth_enable},
    {.path = "/etcdserverpb.Auth/Authenticate",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_authenticate},
    {.path = "/etcdserverpb.Auth/UserAdd",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_user_add},
    {.path = "/etcdserverpb.Auth/UserChangePassword",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_change_password},
    {.path = "/etcdserverpb.KV/RangeStream",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = services__etcd_range_stream},
    {.path = "/etcdserverpb.Lease/LeaseKeepAlive",
     .kind = BUS_RPC_BIDI_STREAM,
     .handle = services__etcd_keep_alive,
     .end = services__etcd_keep_alive_end},
    {.path = "/etcdserverpb.Watch/Watch",
     .kind = BUS_RPC_BIDI_STREAM,
     .shared_bytes = WATCH_QUEUED_BYTES_MAX,
     .handle = services__etcd_watch,
     .end = services__etcd_watch_end},
    /* Answered once, but perhaps after hours: as streams they take no slot of short calls, and end
     * when their caller loses its rights. */
    {.path = "/v3lockpb.Lock/Lock", .kind = BUS_RPC_SERVER_STREAM, .handle = services__etcd_lock},
    {.path = "/v3electionpb.Election/Campaign",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = services__etcd_campaign},
    {.path = "/v3electionpb.Election/Observe",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = services__etcd_observe},
    {.path = "/v3lockpb.Lock/Unlock", .kind = BUS_RPC_UNARY, .handle = services__etcd_unlock},
    {.path = "/v3electionpb.Election/Proclaim",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_proclaim},
    {.path = "/v3electionpb.Election/Leader",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_leader},
    {.path = "/v3electionpb.Election/Resign",
     .kind = BUS_RPC_UNARY,
     .handle = services__etcd_resign},
};

#define OTHER_METHODS (sizeof other_methods / sizeof other_methods[0])

/* An agent's services, and the contexts of the bus's callbacks. */
struct registered {
    struct services services;
    struct unary_binding bindings[UNARY_METHODS];
    struct etcd_binding etcd[ETCD_UNARY_METHODS];
};

/* All services of this process, to find those of an agent. */
static pthread_mutex_t all_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct services *all;

void services_register(struct agent *a)
{
    struct registered *r = xcalloc(1, sizeof *r);
    struct services *s = &r->services;
    s->agent = a;
    pthread_mutex_init(&s->pool_mutex, NULL);
    s->executor = executor_threaded_new(&clock_system);
    s->worker = worker_new(s->executor, "services", 1u << 16, services__cluster_watch_turn, s);
    s->etcd_watches = services__etcd_watches_new(s);
    s->etcd_logins = services__etcd_logins_new(s->executor);
    registry_subscribe(agent_registry(a), services__cluster_watch_changed, s);

    struct bus_method methods[UNARY_METHODS + OTHER_METHODS + ETCD_UNARY_METHODS];
    for (size_t i = 0; i < UNARY_METHODS; i++) {
        r->bindings[i] = (struct unary_binding){s, &unary_methods[i]};
        methods[i] = (struct bus_method){.path = unary_methods[i].path,
                                         .kind = BUS_RPC_UNARY,
                                         .ctx = &r->bindings[i],
                                         .handle = services__call_handle};
    }
    for (size_t i = 0; i < OTHER_METHODS; i++) {
        methods[UNARY_METHODS + i] = other_methods[i];
        methods[UNARY_METHODS + i].ctx = s;
    }
    for (size_t i = 0; i < ETCD_UNARY_METHODS; i++) {
        r->etcd[i] = (struct etcd_binding){s, i};
        methods[UNARY_METHODS + OTHER_METHODS + i] =
            (struct bus_method){.path = services__etcd_unary_path(i),
                                .kind = BUS_RPC_UNARY,
                                .ctx = &r->etcd[i],
                                .handle = services__etcd_unary};
    }
    agent_serve_calls(a, services__serve_peer, s);
    bus_register(agent_bus(a), methods, sizeof methods / sizeof methods[0]);
    pthread_mutex_lock(&all_mutex);
    s->next = all;
    all = s;
    pthread_mutex_unlock(&all_mutex);
}

void services_unregister(struct agent *a)
{
    pthread_mutex_lock(&all_mutex);
    struct services **at = &all;
    while (*at != NULL && (*at)->agent != a) {
        at = &(*at)->next;
    }
    struct services *s = *at;
    if (s != NULL) {
        *at = s->next;
    }
    pthread_mutex_unlock(&all_mutex);
    if (s == NULL) {
        return;
    }
    services__etcd_watches_free(s->etcd_watches);
    services__etcd_logins_free(s->etcd_logins);
    worker_stop(s->worker);
    worker_free(s->worker);
    executor_free(s->executor);
    services__data_pool_deinit(s);
    pthread_mutex_destroy(&s->pool_mutex);
    free(CONTAINER_OF(s, struct registered, services));
}
