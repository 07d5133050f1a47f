/* Uploads of snapshot files: received in pieces, checked as a whole, and kept under <data>/restores
 * until the shard that is restored from the file has formed, or no shard can need it any more. */
#ifndef AGENT_SNAPSHOTS_UPLOADS_H
#define AGENT_SNAPSHOTS_UPLOADS_H

#include "agent/core/agent.h"
#include "thole/v1/snapshots.upb.h"

#define UPLOADS_PIECE_BYTES_MAX (2 * MIB)

struct uploads;
struct engine_files;

/* `dir` is created. UNAVAILABLE DISK. */
THOLE_MUST_CHECK enum thole_code uploads_new(struct agent *a, const char *dir, struct uploads **ret,
                                             struct thole_status *st);
void uploads_stop(struct uploads *u);
void uploads_free(struct uploads *u); /* after engine_free, which uses the files */
/* For engine_options.seeds. */
struct engine_files *uploads_files(struct uploads *u);
/* The registry's view changed, or the host became a member. Any thread. */
void uploads_wake(struct uploads *u);

struct upload_state {
    const char *name; /* of the upload, and of its file */
    uint64_t received;
    bool complete;
    const thole_v1_SnapshotFile *head; /* of a complete one */
};
/* Called once, on the uploads' worker. `state` is borrowed; NULL on failure. */
typedef void (*upload_fn)(void *ctx, const struct thole_status *st,
                          const struct upload_state *state);
/* The bytes at `offset`; an empty name begins an upload. Bytes that were received before, or that
 * leave a gap, are ignored: `received` in the answer is the next offset. NOT_FOUND: no such upload,
 * or it expired. */
void uploads_put(struct uploads *u, struct slice name, uint64_t offset, struct bufslice data,
                 upload_fn done, void *ctx);
/* Keep a complete upload, of which a shard is to be made, until uploads_settle.
 * FAILED_PRECONDITION: the upload is not complete. */
void uploads_claim(struct uploads *u, struct slice name, upload_fn done, void *ctx);
/* A shard was made of it at this revision; 0: it was not, or the outcome is unknown. A file that no
 * shard needs is deleted. */
void uploads_settle(struct uploads *u, const char *name, uint64_t revision);

#endif
