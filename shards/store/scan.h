/* The walk over the frames of a log, from the oldest on, for recovery and for inspection.
 *
 * A frame is written only after the one before it was synced. So an unreadable frame that no other
 * frame follows is a torn tail, which was never acknowledged. An unreadable frame with a later one
 * is damage. Damage inside a record affects the replica that the frame's directory names. */
#ifndef SHARDS_STORE_SCAN_H
#define SHARDS_STORE_SCAN_H

#include "shards/store/frame.h"
#include "shards/store/segments.h"

struct log_scan {
    struct segments *files; /* its `sequence`: of the frame that is expected next */
    void *ctx;
    /* A frame that counts, at `at` of a live segment. Records in it may be damaged. */
    enum thole_code (*frame)(void *ctx, const struct segment *g, uint32_t at, struct frame f,
                             struct thole_status *st);
    /* Acknowledged frames are lost at `at`, up to the next readable one. `in`: the file that holds
     * a later frame, if its header cannot be read; else NULL. NULL: damage is DATA_LOSS. */
    void (*lost)(void *ctx, const struct segment *g, uint32_t at, const struct segment *in);
    /* The torn tail. May be NULL. */
    void (*torn)(void *ctx, const struct segment *g, uint32_t at);
    struct bytes file; /* the segment being read */
    uint32_t last;     /* where its last frame begins; 0: it has none */
    struct bytes other;
};

/* Walk the live segment with this position, and set its end. UNAVAILABLE DISK; DATA_LOSS; errors of
 * `frame`. */
THOLE_MUST_CHECK enum thole_code log_scan_segment(struct log_scan *c, size_t position,
                                                  struct thole_status *st);
void log_scan_deinit(struct log_scan *c);

/* A record of a frame, as its directory has it. */
struct log_scan_record {
    struct frame_entry entry;
    uint32_t offset; /* in the frame */
    struct store_key key;
    char name[STORE_HOST_NAME_BYTES_MAX + 1]; /* of a host record */
    struct slice sealed; /* what is sealed under the key: the record, of a host record its end */
    bool intact;         /* its checksum is right */
};
/* The next record of the frame; false at its end. */
bool log_scan_next(struct frame *f, struct log_scan_record *ret);

#endif
