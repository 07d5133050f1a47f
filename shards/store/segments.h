/* The files of the log: a ring of segments of equal size, written one after the other.
 *
 * The oldest segments go when nothing in them is wanted any more, and their files are written
 * again: to sync a write into a file that has its blocks already takes half the time and a third of
 * the disk's work. Segments are numbered; `live` holds the numbers tail to head without a gap. Each
 * segment's header says what the tail was when it was begun: at open everything from there on must
 * be present, and what is older is spare. A segment that left the ring later than that is therefore
 * not written again before the next header says so.
 *
 * Threads: one writer (append, retire). `lock` is of whoever owns this: under it are the ring of
 * live segments and their `live` and `readers`. Readers use the descriptor of a segment that they
 * hold by `readers`. */
#ifndef SHARDS_STORE_SEGMENTS_H
#define SHARDS_STORE_SEGMENTS_H

#include <pthread.h>

#include <thole/status.h>

#include "base/buf.h"
#include "base/uuid.h"

#define SEGMENT_BYTES_DEFAULT (32 * 1024 * 1024)
#define SEGMENT_HEADER_BYTES 64

/* Where a record is. Segment 0: nowhere. */
struct log_place {
    uint32_t segment, offset, bytes;
};

struct segment {
    uint32_t number; /* from 1; 0: never used, or its header cannot be read */
    uint32_t file;   /* its name */
    int fd;
    uint32_t end;    /* of its frames; up to SEGMENT_HEADER_BYTES: it has none */
    uint32_t extent; /* bytes that the file has */
    uint32_t tail;   /* as its header says */
    uint32_t readers;
    uint64_t first_sequence; /* of its frames */
    uint64_t live;           /* bytes of records that are wanted */
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
    uint32_t files; /* that exist at least, as the file ID says */
    uint64_t seed;
    uint64_t sequence;        /* of the next frame */
    uint64_t live_bytes;      /* of all segments */
    struct segment_ring live; /* the last one is being written */
    struct segment_ring spare;
    uint32_t recorded_tail; /* in a synced header */
    uint32_t next_file;
};

/* Open the directory (made if absent) and lock it. What the segments hold is not looked at: the
 * caller reads them from the oldest on and sets `end` of the newest and `sequence`. DATA_LOSS: one
 * is missing. FAILED_PRECONDITION FORMAT, LOCKED. On failure, close all the same. */
THOLE_MUST_CHECK enum thole_code segments_open(struct segments *s, pthread_mutex_t *lock,
                                               const char *path, uint32_t segment_bytes,
                                               struct thole_status *st);
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
/* The record is not wanted any more; also sets `*at` to nowhere. */
void segments_drop(struct segments *s, struct log_place *at);

/* Append one frame, synced, without the lock; begins another segment if it does not fit into the
 * newest. The frame's place is then the last `frame.size` bytes before `end` of the newest.
 * UNAVAILABLE DISK. */
THOLE_MUST_CHECK enum thole_code segments_append(struct segments *s, struct slice frame,
                                                 struct thole_status *st);
/* Put a frame without records where the next one will be, and stay in front of it. */
THOLE_MUST_CHECK enum thole_code segments_attest(struct segments *s, struct slice frame, bool sync,
                                                 struct thole_status *st);
/* Write the newest segment's bytes from `at` on once more, synced: what was found there at open. */
THOLE_MUST_CHECK enum thole_code segments_rewrite(struct segments *s, uint32_t at,
                                                  struct slice bytes, struct thole_status *st);
/* With the lock: take the oldest segment out of the ring if nothing in it is wanted and nobody
 * reads it. */
bool segments_retire(struct segments *s);

/* UNAVAILABLE DISK; DATA_LOSS if the file is shorter. */
THOLE_MUST_CHECK enum thole_code segment_read(const struct segment *g, uint32_t offset, void *to,
                                              size_t n, struct thole_status *st);
/* The whole file. */
THOLE_MUST_CHECK enum thole_code segment_load(const struct segment *g, struct bytes *out,
                                              struct thole_status *st);

#endif
