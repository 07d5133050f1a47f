/* Reading snapshot files in pieces: of a local replica, or of another host's, which is asked for
 * each piece (METHOD_SNAPSHOT). The reader sets the pace. */
#ifndef AGENT_SNAPSHOTS_EXPORTS_H
#define AGENT_SNAPSHOTS_EXPORTS_H

#include "agent/core/agent.h"

#define EXPORTS_PIECE_BYTES (512 * KIB)

struct exports;

struct exports *exports_new(struct agent *a);
void exports_stop(struct exports *x); /* after engine_stop: answers the waiting reads */
void exports_free(struct exports *x); /* before engine_free */

struct export_read {
    struct uuid host; /* which has the replica */
    uint64_t shard_id;
    uint64_t id; /* 0: take a snapshot; then the id in the first answer */
    uint64_t offset;
    bool stale; /* of the replica's applied state, without a read point */
    /* Index 0: read in any case. Otherwise nothing is read if the newest state is this one. */
    uint64_t unless_index, unless_term, unless_epoch;
    uint64_t deadline_ns;
};
struct export_piece {
    bool unchanged; /* see unless_index; everything else is 0 then */
    uint64_t id, total_bytes, index;
    struct bufslice data; /* released after `done` */
};
/* `done` is called once, on any thread, or inline if the host is stopping. A snapshot that is not
 * read for a minute is closed (NOT_FOUND). */
typedef void (*export_piece_fn)(void *ctx, const struct thole_status *st,
                                const struct export_piece *piece);
void exports_read(struct exports *x, const struct export_read *q, export_piece_fn done, void *ctx);
void exports_serve(struct exports *x, struct bus_request *q); /* METHOD_SNAPSHOT */

#endif
