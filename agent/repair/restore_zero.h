/* Offline restore of the registry: from a snapshot file to a data directory for the only host of a
 * new cluster. */
#ifndef AGENT_REPAIR_RESTORE_ZERO_H
#define AGENT_REPAIR_RESTORE_ZERO_H

#include "agent/core/datadir.h"
#include "registry/registry.h"

struct restored_zero {
    struct uuid cluster;
    char name[LIMIT_NAME_BYTES + 1]; /* of the host */
    struct registry_refounded registry;
};

/* `dir` is created or must be empty; `name` NULL: made from the new host id. A failure leaves `dir`
 * as it was. The first start founds shard zero (join/bootstrap.c). NOT_FOUND: no file; DATA_LOSS
 * CORRUPT, FAILED_PRECONDITION FORMAT: the file; FAILED_PRECONDITION BAD_REQUEST: a snapshot of
 * another shard; EXISTS: the directory is not empty; INVALID_ARGUMENT: the name; UNAVAILABLE DISK.
 * */
THOLE_MUST_CHECK enum thole_code restore_zero(const char *file, const char *dir, const char *name,
                                              struct restored_zero *ret, struct thole_status *st);

#endif
