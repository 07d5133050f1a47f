#include "proto/names.h"

#include <stddef.h>

#include "thole/v1/access.upb.h"
#include "thole/v1/operations.upb.h"
#include "thole/v1/resources.upb.h"

const char *proto_operation_kind(int32_t kind)
{
    static const char *const names[] = {
        [thole_v1_OPERATION_KIND_DRAIN] = "drain",
        [thole_v1_OPERATION_KIND_UNDRAIN] = "undrain",
        [thole_v1_OPERATION_KIND_CORDON] = "cordon",
        [thole_v1_OPERATION_KIND_UNCORDON] = "uncordon",
        [thole_v1_OPERATION_KIND_DECOMMISSION] = "decommission",
        [thole_v1_OPERATION_KIND_PAUSE] = "pause",
        [thole_v1_OPERATION_KIND_MOVE] = "move",
        [thole_v1_OPERATION_KIND_REBALANCE] = "rebalance",
        [thole_v1_OPERATION_KIND_TRANSFER_LEADER] = "transfer-leader",
        [thole_v1_OPERATION_KIND_RESTORE] = "restore",
    };
    return kind > 0 && (size_t)kind < sizeof names / sizeof names[0] ? names[kind] : NULL;
}

const char *proto_replica_role(int32_t role)
{
    static const char *const names[] = {
        [thole_v1_REPLICA_ROLE_VOTER] = "voter",
        [thole_v1_REPLICA_ROLE_NON_VOTING] = "non-voting",
        [thole_v1_REPLICA_ROLE_WITNESS] = "witness",
    };
    return role > 0 && (size_t)role < sizeof names / sizeof names[0] ? names[role] : NULL;
}

const char *proto_host_state(int32_t state)
{
    static const char *const names[] = {
        [thole_v1_HOST_STATE_ACTIVE] = "active",
        [thole_v1_HOST_STATE_CORDONED] = "cordoned",
        [thole_v1_HOST_STATE_DRAINING] = "draining",
        [thole_v1_HOST_STATE_REMOVED] = "removed",
    };
    return state > 0 && (size_t)state < sizeof names / sizeof names[0] ? names[state] : NULL;
}

const char *proto_host_liveness(int32_t liveness)
{
    static const char *const names[] = {
        [thole_v1_HOST_LIVENESS_LIVE] = "live",
        [thole_v1_HOST_LIVENESS_SUSPECT] = "suspect",
        [thole_v1_HOST_LIVENESS_DEAD] = "dead",
    };
    return liveness > 0 && (size_t)liveness < sizeof names / sizeof names[0] ? names[liveness]
                                                                             : NULL;
}

const char *proto_role_verb(int32_t verb)
{
    static const char *const names[] = {
        [thole_v1_ROLE_VERB_READ] = "READ",       [thole_v1_ROLE_VERB_CREATE] = "CREATE",
        [thole_v1_ROLE_VERB_UPDATE] = "UPDATE",   [thole_v1_ROLE_VERB_DELETE] = "DELETE",
        [thole_v1_ROLE_VERB_OPERATE] = "OPERATE", [thole_v1_ROLE_VERB_ANY] = "ANY",
    };
    return verb > 0 && (size_t)verb < sizeof names / sizeof names[0] ? names[verb] : NULL;
}

const char *proto_role_kind(int32_t kind)
{
    static const char *const names[] = {
        [thole_v1_ROLE_KIND_HOSTS] = "HOSTS",           [thole_v1_ROLE_KIND_SHARDS] = "SHARDS",
        [thole_v1_ROLE_KIND_POOLS] = "POOLS",           [thole_v1_ROLE_KIND_REPLICAS] = "REPLICAS",
        [thole_v1_ROLE_KIND_OPERATIONS] = "OPERATIONS", [thole_v1_ROLE_KIND_EVENTS] = "EVENTS",
        [thole_v1_ROLE_KIND_CLUSTER] = "CLUSTER",       [thole_v1_ROLE_KIND_ROLES] = "ROLES",
        [thole_v1_ROLE_KIND_TOKENS] = "TOKENS",         [thole_v1_ROLE_KIND_ANY] = "ANY",
    };
    return kind > 0 && (size_t)kind < sizeof names / sizeof names[0] ? names[kind] : NULL;
}

const char *proto_data_right(int32_t right)
{
    static const char *const names[] = {
        [thole_v1_DATA_RIGHT_READ] = "READ",
        [thole_v1_DATA_RIGHT_WRITE] = "WRITE",
        [thole_v1_DATA_RIGHT_ADMIN] = "ADMIN",
    };
    return right > 0 && (size_t)right < sizeof names / sizeof names[0] ? names[right] : NULL;
}
