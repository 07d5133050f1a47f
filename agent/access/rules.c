/* The table of rules: one for each method of each service. test_access_rules.c walks the embedded
 * descriptors, and fails for a method without a rule. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "agent/access/access.h"
#include "thole/bus/v1/agent.upb.h"
#include "thole/v1/access.upb.h"

#define OBJECT(service, method, a_verb, a_kind)                                       \
    {                                                                                 \
        "thole.v1." #service "/" #method, ACCESS_OBJECT, thole_v1_ROLE_VERB_##a_verb, \
            thole_v1_ROLE_KIND_##a_kind, false                                        \
    }
#define DATA(service, method, right)                                                         \
    {                                                                                        \
        "thole.v1." #service "/" #method, ACCESS_DATA, thole_v1_DATA_RIGHT_##right, 0, false \
    }

/* On the shard that the call's metadata names. Writes need READ, too: answers may have old values
 * of keys. */
#define ETCD_READ_OF(service, method)                                       \
    {                                                                       \
        service "/" #method, ACCESS_DATA, thole_v1_DATA_RIGHT_READ, 0, true \
    }
#define ETCD_WRITE_OF(service, method)                                                         \
    {                                                                                          \
        service "/" #method, ACCESS_DATA, thole_v1_DATA_RIGHT_WRITE, thole_v1_DATA_RIGHT_READ, \
            true                                                                               \
    }
#define ETCD_READ(service, method) ETCD_READ_OF("etcdserverpb." #service, method)
#define ETCD_WRITE(service, method) ETCD_WRITE_OF("etcdserverpb." #service, method)

static const struct access_rule rules[] = {
    /* Health is public, as load balancers ask without saying who they are. */
    {"grpc.health.v1.Health/Check", ACCESS_PUBLIC, 0, 0, false},
    {"grpc.health.v1.Health/Watch", ACCESS_PUBLIC, 0, 0, false},
    {"grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ACCESS_REFLECTION, 0, 0, false},
    {"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ACCESS_REFLECTION, 0, 0,
     false},
    {"thole.bus.v1.Bus/Lane", ACCESS_BUS, 0, 0, false},
    {"thole.bus.v1.Bus/Exchange", ACCESS_BUS, 0, 0, false},
    {"thole.bus.v1.Bus/Ask", ACCESS_BUS, 0, 0, false},

    OBJECT(Hosts, GetHost, READ, HOSTS),
    OBJECT(Hosts, ListHosts, READ, HOSTS),
    OBJECT(Hosts, UpdateHost, UPDATE, HOSTS),
    OBJECT(Hosts, DeleteHost, DELETE, HOSTS),
    OBJECT(Shards, GetShard, READ, SHARDS),
    OBJECT(Shards, ListShards, READ, SHARDS),
    OBJECT(Shards, CreateShard, CREATE, SHARDS),
    OBJECT(Shards, UpdateShard, UPDATE, SHARDS), /* and CREATE, with allow_missing */
    OBJECT(Shards, DeleteShard, DELETE, SHARDS),
    OBJECT(Shards, TransferLeader, OPERATE, SHARDS),
    OBJECT(Pools, GetPool, READ, POOLS),
    OBJECT(Pools, ListPools, READ, POOLS),
    OBJECT(Pools, CreatePool, CREATE, POOLS),
    OBJECT(Pools, UpdatePool, UPDATE, POOLS), /* and CREATE, with allow_missing */
    OBJECT(Pools, DeletePool, DELETE, POOLS),
    OBJECT(Replicas, ListReplicas, READ, REPLICAS),
    OBJECT(Replicas, CreateReplica, CREATE, REPLICAS),
    OBJECT(Replicas, DeleteReplica, DELETE, REPLICAS),
    OBJECT(Operations, GetOperation, READ, OPERATIONS),
    OBJECT(Operations, ListOperations, READ, OPERATIONS),
    OBJECT(Operations, WatchOperation, READ, OPERATIONS),
    OBJECT(Operations, CancelOperation, OPERATE, OPERATIONS),
    OBJECT(Operations, DrainHost, OPERATE, HOSTS),
    OBJECT(Operations, UndrainHost, OPERATE, HOSTS),
    OBJECT(Operations, CordonHost, OPERATE, HOSTS),
    OBJECT(Operations, UncordonHost, OPERATE, HOSTS),
    OBJECT(Operations, DecommissionHost, DELETE, HOSTS),
    OBJECT(Operations, MoveShard, OPERATE, SHARDS),
    OBJECT(Operations, Rebalance, OPERATE, CLUSTER),
    OBJECT(Operations, PauseControllers, OPERATE, CLUSTER),
    OBJECT(Operations, ResumeControllers, OPERATE, CLUSTER),
    OBJECT(Events, ListEvents, READ, EVENTS),
    OBJECT(Events, WatchEvents, READ, EVENTS),
    OBJECT(Cluster, Status, READ, CLUSTER),
    OBJECT(Cluster, Watch, READ, CLUSTER), /* and READ of what it shows */
    OBJECT(Roles, GetRole, READ, ROLES),
    OBJECT(Roles, ListRoles, READ, ROLES),
    OBJECT(Roles, CreateRole, CREATE, ROLES),
    OBJECT(Roles, UpdateRole, UPDATE, ROLES), /* and CREATE, with allow_missing */
    OBJECT(Roles, DeleteRole, DELETE, ROLES),
    OBJECT(Tokens, CreateToken, CREATE, TOKENS),
    OBJECT(Tokens, ListTokens, READ, TOKENS),
    OBJECT(Tokens, RevokeToken, DELETE, TOKENS),

    OBJECT(Diagnostics, GetLogLevels, READ, HOSTS),
    OBJECT(Diagnostics, SetLogLevels, OPERATE, HOSTS),
    OBJECT(Diagnostics, GetHostReport, OPERATE, HOSTS),

    DATA(Data, Propose, WRITE),
    DATA(Data, OpenSession, WRITE),
    DATA(Data, CloseSession, WRITE),
    DATA(Data, Stream, WRITE),
    DATA(Data, Query, READ),
    DATA(Data, QueryStream, READ),
    DATA(Data, Watch, READ),
    DATA(Snapshots, SaveSnapshot, ADMIN),
    DATA(Snapshots, UploadSnapshot, ADMIN),  /* of some shard: the file does not say which */
    DATA(Snapshots, RestoreSnapshot, ADMIN), /* and CREATE of SHARDS */
    DATA(Repair, PlanRepair, ADMIN),
    DATA(Repair, RunRepair, ADMIN),

    ETCD_READ(KV, Range),
    ETCD_READ(KV, RangeStream),
    ETCD_WRITE(KV, Put),
    ETCD_WRITE(KV, DeleteRange),
    ETCD_WRITE(KV, Txn),
    ETCD_WRITE(KV, Compact),
    ETCD_READ(Watch, Watch),
    ETCD_WRITE(Lease, LeaseGrant),
    ETCD_WRITE(Lease, LeaseRevoke),
    ETCD_WRITE(Lease, LeaseKeepAlive),
    ETCD_READ(Lease, LeaseTimeToLive),
    ETCD_READ(Lease, LeaseLeases),
    ETCD_READ(Cluster, MemberList),
    ETCD_WRITE(Cluster, MemberAdd),
    ETCD_WRITE(Cluster, MemberRemove),
    ETCD_WRITE(Cluster, MemberUpdate),
    ETCD_WRITE(Cluster, MemberPromote),
    ETCD_READ(Maintenance, Status),
    ETCD_READ(Maintenance, Hash),
    ETCD_READ(Maintenance, HashKV),
    ETCD_WRITE(Maintenance, Alarm),
    ETCD_WRITE(Maintenance, Defragment),
    ETCD_WRITE_OF("v3lockpb.Lock", Lock),
    ETCD_WRITE_OF("v3lockpb.Lock", Unlock),
    ETCD_WRITE_OF("v3electionpb.Election", Campaign),
    ETCD_WRITE_OF("v3electionpb.Election", Proclaim),
    ETCD_READ_OF("v3electionpb.Election", Leader),
    ETCD_READ_OF("v3electionpb.Election", Observe),
    ETCD_WRITE_OF("v3electionpb.Election", Resign),

    /* The store has users of its own, and judges these calls itself once it knows some. */
    ETCD_READ(Auth, Authenticate),
    ETCD_READ(Auth, AuthStatus),
    ETCD_READ(Auth, UserGet),
    ETCD_READ(Auth, UserList),
    ETCD_READ(Auth, RoleGet),
    ETCD_READ(Auth, RoleList),
    ETCD_WRITE(Auth, AuthEnable),
    ETCD_WRITE(Auth, AuthDisable),
    ETCD_WRITE(Auth, UserAdd),
    ETCD_WRITE(Auth, UserDelete),
    ETCD_WRITE(Auth, UserChangePassword),
    ETCD_WRITE(Auth, UserGrantRole),
    ETCD_WRITE(Auth, UserRevokeRole),
    ETCD_WRITE(Auth, RoleAdd),
    ETCD_WRITE(Auth, RoleDelete),
    ETCD_WRITE(Auth, RoleGrantPermission),
    ETCD_WRITE(Auth, RoleRevokePermission),
};

/* Requests of the library's clients, and those between hosts. */
static const struct access_rule requests[] = {
    [thole_bus_v1_METHOD_PROPOSE] = {"Propose", ACCESS_DATA, thole_v1_DATA_RIGHT_WRITE, 0, false},
    [thole_bus_v1_METHOD_QUERY] = {"Query", ACCESS_DATA, thole_v1_DATA_RIGHT_READ, 0, false},
    [thole_bus_v1_METHOD_WATCH] = {"Watch", ACCESS_DATA, thole_v1_DATA_RIGHT_READ, 0, false},
    [thole_bus_v1_METHOD_TRANSFER] = {"Transfer", ACCESS_HOSTS, 0, 0, false},
    [thole_bus_v1_METHOD_JOIN] = {"Join", ACCESS_HOSTS, 0, 0, false},
    /* Clients ask by it which host has an address. */
    [thole_bus_v1_METHOD_PEER_BOOTSTRAP] = {"PeerBootstrap", ACCESS_USERS, 0, 0, false},
    [thole_bus_v1_METHOD_INSPECT] = {"Inspect", ACCESS_HOSTS, 0, 0, false},
    [thole_bus_v1_METHOD_FORCE] = {"Force", ACCESS_HOSTS, 0, 0, false},
    [thole_bus_v1_METHOD_SNAPSHOT] = {"Snapshot", ACCESS_HOSTS, 0, 0, false},
    [thole_bus_v1_METHOD_REACHES] = {"Reaches", ACCESS_HOSTS, 0, 0, false},
    [thole_bus_v1_METHOD_CALL] = {"Call", ACCESS_HOSTS, 0, 0, false},
    [thole_bus_v1_METHOD_ADDRESSES] = {"Addresses", ACCESS_HOSTS, 0, 0, false},
    [thole_bus_v1_METHOD_ANSWER] = {"Answer", ACCESS_DATA, thole_v1_DATA_RIGHT_READ, 0, false},
};

#define RULES (sizeof rules / sizeof rules[0])

static const struct access_rule *by_method[RULES];
static pthread_once_t sorted = PTHREAD_ONCE_INIT;

static int compare_rules(const void *a, const void *b)
{
    const struct access_rule *const *x = a, *const *y = b;
    return strcmp((*x)->method, (*y)->method);
}

static void sort_rules(void)
{
    for (size_t i = 0; i < RULES; i++) {
        by_method[i] = &rules[i];
    }
    qsort(by_method, RULES, sizeof by_method / RULES, compare_rules);
}

static int compare_method(const void *key, const void *element)
{
    const struct access_rule *const *x = element;
    return strcmp(key, (*x)->method);
}

const struct access_rule *access_rule(const char *path)
{
    (void)pthread_once(&sorted, sort_rules);
    if (path[0] != '/') {
        return NULL;
    }
    const struct access_rule *const *found =
        bsearch(path + 1, by_method, RULES, sizeof by_method / RULES, compare_method);
    return found != NULL ? *found : NULL;
}

size_t access_rule_count(void)
{
    return RULES;
}

const struct access_rule *access_request_rule(uint32_t method)
{
    bool known = method < sizeof requests / sizeof requests[0] && requests[method].method != NULL;
    return known ? &requests[method] : NULL;
}
