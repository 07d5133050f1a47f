/* The wire format between engines (thole.engine.v1). Frames are written by hand, into one buffer of
 * the exact size. They are read by upb, with payloads that alias the frame and keep it alive.
 * Decoders take hostile input: they fail, and never assert.
 *
 * upb may copy short strings into its arena: what other decoders return lives until codec_release
 * of its `arena`. */
#ifndef SHARDS_ENGINE_FRAME_CODEC_H
#define SHARDS_ENGINE_FRAME_CODEC_H

#include "shards/engine/engine_internal.h"

/* The weight of a message in the byte bound of a frame; not below its encoded size. */
size_t codec_weight(const struct raft_message *m);
/* One frame of `n` messages. */
struct bufslice codec_frame(const struct out_msg *messages, size_t n);
struct bufslice codec_reply_frame(const struct stream_msg *m);
struct bufslice codec_beat_frame(const struct host_beat *b);
/* INVALID_ARGUMENT BAD_REQUEST. `message` is called for each Raft message, which it takes over;
 * `reply` for each snapshot reply. Either may have been called before a failure is found. */
struct codec_sink {
    void *ctx;
    void (*message)(void *ctx, uint64_t shard_id, uint64_t to_incarnation, struct raft_message *m);
    void (*reply)(void *ctx, const struct stream_msg *m, uint64_t reply_from, uint64_t reply_to);
    void (*beat)(void *ctx, const struct host_beat *b); /* borrowed */
};
THOLE_MUST_CHECK enum thole_code codec_read_frame(struct bufslice frame,
                                                  const struct codec_sink *sink,
                                                  struct thole_status *st);

void codec_release(void *arena); /* NULL is fine */

/* A chunk of the snapshot lane. */
struct codec_chunk {
    uint64_t shard_id, from, to, term, transfer, index, index_term, offset;
    struct slice config, data;
    uint64_t checksum, total_checksum;
    bool last;
    void *arena;
};
struct bufslice codec_chunk_frame(const struct codec_chunk *c);
/* Also checks the chunk's checksum (DATA_LOSS CORRUPT). The slices need the frame too. */
THOLE_MUST_CHECK enum thole_code codec_read_chunk(struct slice frame, struct codec_chunk *ret,
                                                  struct thole_status *st);

struct codec_descriptor {
    struct slice machine_type, machine_config; /* live as long as the input and the arena */
    uint32_t machine_version;
    bool witness, lease_reads;
    void *arena;
};
void codec_descriptor_encode(const struct codec_descriptor *d, struct bytes *out);
THOLE_MUST_CHECK enum thole_code codec_descriptor_decode(struct slice in,
                                                         struct codec_descriptor *ret,
                                                         struct thole_status *st);

/* The header of a snapshot's byte stream. */
struct codec_header {
    uint64_t shard_id, index, index_term;
    struct slice machine_type, config; /* live as long as the input and the arena */
    uint32_t machine_version;
    struct raft_stamp stamp; /* of the entry at `index` */
    void *arena;
};
#define SNAPSHOT_FORMAT 2
void codec_header_encode(const struct codec_header *h, struct bytes *out);
THOLE_MUST_CHECK enum thole_code codec_header_decode(struct slice in, struct codec_header *ret,
                                                     struct thole_status *st);

#endif
