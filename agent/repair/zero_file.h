/* A snapshot file of the registry, read offline. */
#ifndef AGENT_REPAIR_ZERO_FILE_H
#define AGENT_REPAIR_ZERO_FILE_H

#include "agent/snapshots/snapshot_file.h"
#include "registry/registry.h"

struct zero_file {
    struct buf *bytes;
    struct snapshot_check *check;
    struct slice body;
    size_t machine; /* where the machine's bytes begin in the body */
    struct registry *registry;
    struct registry_view *view; /* the rows, after zero_file_read; NULL before */
};

/* Reads the file into memory and checks it. NOT_FOUND: no file; DATA_LOSS CORRUPT,
 * FAILED_PRECONDITION FORMAT: the file; FAILED_PRECONDITION BAD_REQUEST: a snapshot of another
 * shard. */
THOLE_MUST_CHECK enum thole_code zero_file_open(const char *path, struct zero_file *ret,
                                                struct thole_status *st);
void zero_file_close(struct zero_file *z); /* a zeroed one is fine */

struct slice zero_file_machine(const struct zero_file *z);
/* Reads the rows. DATA_LOSS CORRUPT. */
THOLE_MUST_CHECK enum thole_code zero_file_read(struct zero_file *z, struct thole_status *st);

#endif
