#include "proto/names.h"

#include <stddef.h>

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
