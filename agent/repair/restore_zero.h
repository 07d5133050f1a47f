/* A new cluster from a snapshot file of the registry, offline: a data directory for its one
 * host. */
#ifndef AGENT_REPAIR_RESTORE_ZERO_H
#define AGENT_REPAIR_RESTORE_ZERO_H

#include "agent/core/datadir.h"
#include "registry/registry.h"

struct restored_zero {
    struct uuid cluster;
    char name[LIMIT_NAME_BYTES + 1]; /* of the host */
    struct registry_refounded registry;
};

/* `dir` is made, or is empty; `name` NULL: made of the host's new id. After a failure it is as it
 * was. Its first start founds shard zero (bootstrap.c).
 * NOT_FOUND: no file; DATA_LOSS CORRUPT, FAILED_PRECONDITION FORMAT: the file; FAILED_PRECONDITION
 * BAD_REQUEST: a snapshot of another shard; EXISTS: the directory holds something;
 * INVALID_ARGUMENT: the name; UNAVAILABLE DISK. */
THOLE_MUST_CHECK enum thole_code restore_zero(const char *file, const char *dir, const char *name,
                                              struct restored_zero *ret, struct thole_status *st);

#endif
