/* A frame: the bytes that one synced write appends to the log. Pure encoding, no files; documented
 * in docs/formats.md.
 *
 * [header 32][records][directory: 32 per record][zeros to a multiple of 8]. One checksum covers the
 * header and the directory; each record has its own (record.h), so that damage inside a record is
 * known to be that record's. Both depend on the store's seed or on the record's key, and the
 * sequence counts frames. So bytes of an earlier use of the file are never taken for a frame. */
#ifndef SHARDS_STORE_FRAME_H
#define SHARDS_STORE_FRAME_H

#include "shards/store/record.h"

#define FRAME_HEADER_BYTES 32
#define FRAME_ENTRY_BYTES 32
#define FRAME_ALIGN 8

enum frame_flag {
    FRAME_COPY = 1,   /* a copy of a record of an older segment; it changes nothing */
    FRAME_DELETE = 2, /* the key is gone; the record is empty */
};

/* One record, as the directory has it. */
struct frame_entry {
    uint64_t replica_id;
    uint64_t first; /* runs only */
    uint32_t epoch; /* runs only */
    uint32_t bytes;
    uint8_t kind; /* enum store_kind */
    uint8_t flags;
};

/* Builds one frame in `out`: begin; per record frame_record, then its bytes; end. */
struct frame_writer {
    struct bytes out, directory;
    uint32_t count;
    size_t at; /* where the record that is being written began */
};
void frame_begin(struct frame_writer *w);
static inline struct bytes *frame_record(struct frame_writer *w)
{
    w->at = w->out.size;
    return &w->out;
}
void frame_record_end(struct frame_writer *w, struct frame_entry e); /* `bytes` is filled in */
struct slice frame_end(struct frame_writer *w, uint64_t sequence, uint64_t seed);
void frame_writer_deinit(struct frame_writer *w);

struct frame {
    uint64_t sequence;
    uint32_t bytes; /* of the whole frame */
    uint32_t count, next;
    const uint8_t *data;
    uint32_t offset; /* of the next record in the frame */
};
/* What the header says, unverified: the size of the whole frame, and its sequence. */
uint32_t frame_size(const uint8_t header[FRAME_HEADER_BYTES]);
uint64_t frame_sequence(const uint8_t header[FRAME_HEADER_BYTES]);
bool frame_is_begun(const uint8_t header[FRAME_HEADER_BYTES]); /* these bytes begin a frame */
/* The frame at the front of `s`; false if there is none. */
bool frame_open(struct frame *f, struct slice s, uint64_t seed);
/* The next record: its entry, and where in the frame it begins. False at the end. */
bool frame_next(struct frame *f, struct frame_entry *ret, uint32_t *ret_offset);
/* The key under which a record was sealed. */
struct store_key frame_key(const struct frame_entry *e);

#endif
