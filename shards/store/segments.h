/* The files of the log: a ring of segments of equal size, written one after the other.
 *
 * A segment leaves the ring when it is the oldest and has no live records. Its file is reused: a
 * synced write into allocated blocks takes half the time, and a third of the disk's work. Segments
 * are numbered; `live` holds the numbers from tail to head without a gap. The header of each
 * segment records the tail at the time it was begun. At open, every segment from the newest
 * recorded tail on must be present, and older ones are spare. So a segment that left the ring later
 * is reused only after a synced header records a tail behind it.
 *
 * Threads: one writer (append, retire). The owner provides `lock`. It protects the ring of live
 * segments and their `live` and `readers`. A reader uses the descriptor of a segment while it
 * counts in `readers`. */
#ifndef SHARDS_STORE_SEGMENTS_H
#define SHARDS_STORE_SEGMENTS_H

#include <inttypes.h>
#include <pthread.h>

#include <thole/status.h>

#include "base/buf.h"
#include "base/uuid.h"

#define SEGMENT_BYTES_DEFAULT (32 * 1024 * 1024)
#define SEGMENT_HEADER_BYTES 64
#define SEGMENT_NAME_FORMAT "%08" PRIu32 ".seg"

/* Where a record is. Segment 0: nowhere. */
struct log_place {
    uint32_t segment, offset, bytes;
};

struct segment {
    uint32_t number; /* from 1; 0: never used, or its header cannot be read */
    uint32_t file;   /* its name */
    int fd;
    uint32_t end;    /* of its frames; at most SEGMENT_HEADER_BYTES if it has none */
    uint32_t extent; /* size of the file */
    uint32_t tail;   /* in its header */
    uint32_t readers;
    uint64_t first_sequence; /* of its frames */
    uint64_t live;           /* bytes of live records */
};

struct segment_ring {
    struct segment **items;
    size_t head, count, capacity;
};

struct segments {
    pthread_mutex_t *lock;
    char *path;
    int lock_fd;
    uint32_t segment_bytes;
    struct uuid id; /* of the store; `seed` is made of it */
    uint32_t files; /* count in the file ID: at least this many exist */
    uint64_t seed;
    uint64_t sequence;        /* of the next frame */
    uint64_t live_bytes;      /* of all segments */
    struct segment_ring live; /* the last one is being written */
    struct segment_ring spare;
    uint32_t recorded_tail; /* in a synced header */
    uint32_t next_file;
    /* Opened for reading alone. What is wrong is reported, and does not end the opening. `file` 0:
     * of no single file. */
    void (*report)(void *ctx, uint32_t file, const char *what);
    void *report_ctx;
};

/* Open the directory (created if absent) and lock it. Does not read the segments: the caller scans
 * them from the oldest on, and sets `end` of each and `sequence`. DATA_LOSS: a segment is missing.
 * FAILED_PRECONDITION FORMAT, LOCKED. Call segments_close even after a failure. */
THOLE_MUST_CHECK enum thole_code segments_open(struct segments *s, pthread_mutex_t *lock,
                                               const char *path, uint32_t segment_bytes,
                                               struct thole_status *st);
/* The same without a lock, and without changing a byte: only for segment_read and segment_load.
 * There may be no live segment. NOT_FOUND: no log; DATA_LOSS: the file ID is unreadable. The live
 * segments are numbered from 1, so that none seems to be missing between them. */
THOLE_MUST_CHECK enum thole_code segments_open_read_only(
    struct segments *s, pthread_mutex_t *lock, const char *path,
    void (*report)(void *ctx, uint32_t file, const char *what), void *ctx, struct thole_status *st);
void segments_close(struct segments *s);

static inline struct segment *segments_oldest(const struct segments *s)
{
    return s->live.items[s->live.head];
}
static inline struct segment *segments_newest(const struct segments *s)
{
    return s->live.items[s->live.head + s->live.count - 1];
}
/* A live segment by its number. */
struct segment *segments_get(const struct segments *s, uint32_t number);
void segments_add_live(struct segments *s, struct log_place at);
/* The record is dead now. Sets `*at` to nowhere. */
void segments_drop(struct segments *s, struct log_place *at);

/* Append one frame, synced, without the lock; begins another segment if it does not fit into the
 * newest. The frame's place is then the last `frame.size` bytes before `end` of the newest.
 * UNAVAILABLE DISK. */
THOLE_MUST_CHECK enum thole_code segments_append(struct segments *s, struct slice frame,
                                                 struct thole_status *st);
/* Write a frame without records where the next frame will be; the next frame overwrites it. */
THOLE_MUST_CHECK enum thole_code segments_attest(struct segments *s, struct slice frame, bool sync,
                                                 struct thole_status *st);
/* Write the newest segment's bytes from `at` on again, as they were found at open, synced. */
THOLE_MUST_CHECK enum thole_code segments_rewrite(struct segments *s, uint32_t at,
                                                  struct slice bytes, struct thole_status *st);
/* The caller holds the lock. Moves the oldest segment to the spares if it has no live records and
 * no readers. */
bool segments_retire(struct segments *s);

/* UNAVAILABLE DISK; DATA_LOSS if the file is shorter. */
THOLE_MUST_CHECK enum thole_code segment_read(const struct segment *g, uint32_t offset, void *to,
                                              size_t n, struct thole_status *st);
/* The whole file. */
THOLE_MUST_CHECK enum thole_code segment_load(const struct segment *g, struct bytes *out,
                                              struct thole_status *st);

#endif
