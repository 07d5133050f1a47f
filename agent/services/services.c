/* The table of the control plane's methods, and what an agent's services share. */
#include <stdlib.h>

#include "agent/services/services.h"
#include "agent/services/services_internal.h"
#include "thole/v1/repair.upb.h"

#define UNARY(service, method, run_fn)                                                 \
    {                                                                                  \
        "/thole.v1." #service "/" #method, &thole_v1_##method##Request_msginit, run_fn \
    }

static const struct unary unary_methods[] = {
    UNARY(Hosts, GetHost, hosts_get),
    UNARY(Hosts, ListHosts, hosts_list),
    UNARY(Hosts, UpdateHost, hosts_update),
    UNARY(Hosts, DeleteHost, hosts_delete),
    UNARY(Shards, GetShard, shards_get),
    UNARY(Shards, ListShards, shards_list),
    UNARY(Shards, CreateShard, shards_create),
    UNARY(Shards, UpdateShard, shards_update),
    UNARY(Shards, DeleteShard, shards_delete),
    UNARY(Shards, TransferLeader, shards_transfer),
    UNARY(Pools, GetPool, pools_get),
    UNARY(Pools, ListPools, pools_list),
    UNARY(Pools, CreatePool, pools_create),
    UNARY(Pools, UpdatePool, pools_update),
    UNARY(Pools, DeletePool, pools_delete),
    UNARY(Operations, GetOperation, operations_get),
    UNARY(Operations, ListOperations, operations_list),
    UNARY(Operations, CancelOperation, operations_cancel),
    UNARY(Operations, DrainHost, operations_drain),
    UNARY(Operations, UndrainHost, operations_undrain),
    UNARY(Operations, CordonHost, operations_cordon),
    UNARY(Operations, UncordonHost, operations_uncordon),
    UNARY(Operations, DecommissionHost, operations_decommission),
    UNARY(Operations, MoveShard, operations_move),
    UNARY(Operations, Rebalance, operations_rebalance),
    UNARY(Operations, PauseControllers, operations_pause),
    UNARY(Operations, ResumeControllers, operations_resume),
    UNARY(Replicas, ListReplicas, replicas_list),
    UNARY(Replicas, CreateReplica, replicas_create),
    UNARY(Replicas, DeleteReplica, replicas_delete),
    UNARY(Events, ListEvents, events_list),
    UNARY(Cluster, Status, cluster_status),
    UNARY(Snapshots, UploadSnapshot, snapshots_upload),
    UNARY(Snapshots, RestoreSnapshot, snapshots_restore),
    UNARY(Repair, PlanRepair, repair_plan),
    UNARY(Repair, RunRepair, repair_run),
};

#define UNARY_METHODS (sizeof unary_methods / sizeof unary_methods[0])

static const struct bus_method other_methods[] = {
    {.path = "/thole.v1.Cluster/Watch",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = cluster_watch_handle},
    {.path = "/thole.v1.Events/WatchEvents",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = events_watch_handle},
    {.path = "/thole.v1.Operations/WatchOperation",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = operation_watch_handle},
    {.path = "/thole.v1.Snapshots/SaveSnapshot",
     .kind = BUS_RPC_SERVER_STREAM,
     .handle = snapshots_save},
    {.path = "/thole.v1.Data/Propose", .kind = BUS_RPC_UNARY, .handle = data_propose},
    {.path = "/thole.v1.Data/Query", .kind = BUS_RPC_UNARY, .handle = data_query},
    {.path = "/thole.v1.Data/OpenSession", .kind = BUS_RPC_UNARY, .handle = data_open_session},
    {.path = "/thole.v1.Data/Watch", .kind = BUS_RPC_SERVER_STREAM, .handle = data_watch},
    {.path = "/thole.v1.Data/Stream",
     .kind = BUS_RPC_BIDI_STREAM,
     .handle = data_stream_message,
     .end = data_stream_end},
};

#define OTHER_METHODS (sizeof other_methods / sizeof other_methods[0])

/* An agent's services, with what the bus calls back with. */
struct registered {
    struct services services;
    struct unary_binding bindings[UNARY_METHODS];
};

/* All of this process, so that an agent finds its own. */
static pthread_mutex_t all_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct services *all;

void services_register(struct agent *a)
{
    struct registered *r = xcalloc(1, sizeof *r);
    struct services *s = &r->services;
    s->agent = a;
    pthread_mutex_init(&s->pool_mutex, NULL);
    s->executor = executor_threaded_new(&clock_system);
    s->worker = worker_new(s->executor, "services", 1u << 16, cluster_watch_turn, s);
    registry_subscribe(agent_registry(a), cluster_watch_changed, s);

    struct bus_method methods[UNARY_METHODS + OTHER_METHODS];
    for (size_t i = 0; i < UNARY_METHODS; i++) {
        r->bindings[i] = (struct unary_binding){s, &unary_methods[i]};
        methods[i] = (struct bus_method){.path = unary_methods[i].path,
                                         .kind = BUS_RPC_UNARY,
                                         .ctx = &r->bindings[i],
                                         .handle = call_handle};
    }
    for (size_t i = 0; i < OTHER_METHODS; i++) {
        methods[UNARY_METHODS + i] = other_methods[i];
        methods[UNARY_METHODS + i].ctx = s;
    }
    bus_register(agent_bus(a), methods, UNARY_METHODS + OTHER_METHODS);
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
    worker_stop(s->worker);
    worker_free(s->worker);
    executor_free(s->executor);
    data_pool_deinit(s);
    pthread_mutex_destroy(&s->pool_mutex);
    free(CONTAINER_OF(s, struct registered, services));
}
