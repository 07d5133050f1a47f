/* Looking at what the engine of a stopped host left on disk; nothing is changed. */
#ifndef SHARDS_ENGINE_INSPECT_H
#define SHARDS_ENGINE_INSPECT_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "shards/engine/snapshot/files.h"

struct engine_snapshot_seen {
    uint64_t replica_id; /* of its name; 0: it has another name */
    uint64_t shard_id, index, term, bytes, epoch;
};
/* Reads all of a snapshot file and verifies its checksum. DATA_LOSS CORRUPT; NOT_FOUND;
 * UNAVAILABLE DISK. */
THOLE_MUST_CHECK enum thole_code engine_snapshot_look(struct engine_files *files, const char *name,
                                                      struct engine_snapshot_seen *ret,
                                                      struct thole_status *st);

/* The metadata records that a persistent machine holds for the engine. */
struct engine_meta_seen {
    uint64_t applied, applied_term; /* 0: nothing was applied */
    uint64_t now_ms;                /* of the entry at `applied` */
    uint64_t sessions, request_ids;
};
struct engine_meta;
struct engine_meta *engine_meta_new(void);
/* False: the record is malformed. */
bool engine_meta_add(struct engine_meta *m, struct slice key, struct slice value);
struct engine_meta_seen engine_meta_sum(const struct engine_meta *m);
void engine_meta_free(struct engine_meta *m);

#endif
