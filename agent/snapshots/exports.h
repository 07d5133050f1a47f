/* Snapshot files on their way out, piece by piece: of a replica here, or of one on another host,
 * which is asked for each piece (METHOD_SNAPSHOT). Whoever reads decides how fast. */
#ifndef AGENT_SNAPSHOTS_EXPORTS_H
#define AGENT_SNAPSHOTS_EXPORTS_H

#include "agent/core/agent.h"

#define EXPORTS_PIECE_BYTES (512 * KIB)

struct exports;

struct exports *exports_new(struct agent *a);
void exports_stop(struct exports *x); /* after engine_stop: answers what is left */
void exports_free(struct exports *x); /* before engine_free */

struct export_read {
    struct uuid host; /* who has the replica */
    uint64_t shard_id;
    uint64_t id; /* 0: take a snapshot; then as the first answer says */
    uint64_t offset;
    bool stale; /* of what is applied there, without asking a quorum */
    uint64_t deadline_ns;
};
struct export_piece {
    uint64_t id, total_bytes, index;
    struct bufslice data; /* released after `done` */
};
/* `done` comes once, on any thread (inline if the host is stopping). What is not read for a while
 * is closed (NOT_FOUND). */
typedef void (*export_piece_fn)(void *ctx, const struct thole_status *st,
                                const struct export_piece *piece);
void exports_read(struct exports *x, const struct export_read *q, export_piece_fn done, void *ctx);
void exports_serve(struct exports *x, struct bus_request *q); /* METHOD_SNAPSHOT */

#endif
