/* What enumerators are called in events, logs and on the command line. */
#ifndef PROTO_NAMES_H
#define PROTO_NAMES_H

#include <stdint.h>

/* Of a thole.v1.OperationKind: "drain"; NULL if it is none that this program knows. */
const char *proto_operation_kind(int32_t kind);
/* Of a thole.v1.ReplicaRole: "voter"; NULL if it is none that this program knows. */
const char *proto_replica_role(int32_t role);
/* Of a thole.v1.HostState, HostLiveness: "draining", "suspect"; NULL if it is none that this
 * program knows. */
const char *proto_host_state(int32_t state);
const char *proto_host_liveness(int32_t liveness);
/* Of a thole.v1.RoleVerb, RoleKind, DataRight: "READ", "SHARDS", "WRITE"; NULL if it is none that
 * this program knows. */
const char *proto_role_verb(int32_t verb);
const char *proto_role_kind(int32_t kind);
const char *proto_data_right(int32_t right);

#endif
