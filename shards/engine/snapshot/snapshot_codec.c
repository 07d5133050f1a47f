/* Snapshot chunks and replies, hosts' heartbeats, descriptors and snapshot headers, by upb. */
#include <inttypes.h>
#include <string.h>

#include "base/hash.h"
#include "proto/decode.h"
#include "shards/engine/frame_codec.h"
#include "thole/engine/v1/engine.upb.h"

static upb_StringView view_of(struct slice s)
{
    return upb_StringView_FromDataAndSize((const char *)s.data, s.size);
}

static struct slice slice_of_view(upb_StringView v)
{
    return slice_of(v.data, v.size);
}

static struct bufslice frame_of(const char *data, size_t size)
{
    ASSERT(data != NULL);
    struct buf *b = buf_copy(data, size);
    return (struct bufslice){b, slice_of(b->data, size)};
}

void codec_release(void *arena)
{
    if (arena != NULL) {
        upb_Arena_Free(arena);
    }
}

struct bufslice codec_reply_frame(const struct stream_msg *m)
{
    upb_Arena *arena = upb_Arena_New();
    thole_engine_v1_RaftFrame *frame = thole_engine_v1_RaftFrame_new(arena);
    thole_engine_v1_SnapshotReply *r = thole_engine_v1_RaftFrame_add_snapshot_replies(frame, arena);
    ASSERT(r != NULL);
    thole_engine_v1_SnapshotReply_set_shard(r, m->shard_id);
    thole_engine_v1_SnapshotReply_set_from(r, m->to);
    thole_engine_v1_SnapshotReply_set_to(r, m->from);
    thole_engine_v1_SnapshotReply_set_transfer(r, m->transfer);
    thole_engine_v1_SnapshotReply_set_received(r, m->received);
    thole_engine_v1_SnapshotReply_set_installed(r, m->installed);
    thole_engine_v1_SnapshotReply_set_refused(r, m->refused);
    thole_engine_v1_SnapshotReply_set_gap(r, m->gap);
    size_t size;
    const char *data = thole_engine_v1_RaftFrame_serialize(frame, arena, &size);
    struct bufslice out = frame_of(data, size);
    upb_Arena_Free(arena);
    return out;
}

struct bufslice codec_beat_frame(const struct host_beat *b)
{
    ASSERT(b->woken_count <= BEAT_WOKEN_MAX);
    upb_Arena *arena = upb_Arena_New();
    thole_engine_v1_RaftFrame *frame = thole_engine_v1_RaftFrame_new(arena);
    thole_engine_v1_HostBeat *m = thole_engine_v1_RaftFrame_mutable_beat(frame, arena);
    ASSERT(m != NULL);
    thole_engine_v1_HostBeat_set_number(m, b->number);
    thole_engine_v1_HostBeat_set_heard(m, b->heard);
    thole_engine_v1_HostBeat_set_all_woken(m, b->all_woken);
    thole_engine_v1_HostBeat_set_low_space(m, b->low_space);
    thole_engine_v1_HostBeat_set_critical_space(m, b->critical_space);
    thole_engine_v1_HostBeat_set_wall_ms(m, b->wall_ms);
    thole_engine_v1_HostBeat_set_wrong_clock(m, b->wrong_clock);
    for (uint32_t i = 0; i < b->woken_count; i++) {
        bool added = thole_engine_v1_HostBeat_add_woken(m, b->woken[i], arena);
        ASSERT(added);
    }
    size_t size;
    const char *data = thole_engine_v1_RaftFrame_serialize(frame, arena, &size);
    struct bufslice out = frame_of(data, size);
    upb_Arena_Free(arena);
    return out;
}

/* Most of a chunk is data. It is copied once, behind the other fields. */
#define CHUNK_DATA_TAG ((10 << 3) | 2)

static struct bufslice frame_with_data(const char *fields, size_t size, struct slice data)
{
    struct bytes head = {0};
    bytes_append(&head, fields, size);
    bytes_append_varint(&head, CHUNK_DATA_TAG);
    bytes_append_varint(&head, data.size);
    struct buf *b = buf_new(head.size + data.size);
    memcpy(b->data, head.data, head.size);
    if (data.size > 0) {
        memcpy(b->data + head.size, data.data, data.size);
    }
    bytes_deinit(&head);
    return (struct bufslice){b, slice_of(b->data, b->size)};
}

struct bufslice codec_chunk_frame(const struct codec_chunk *c)
{
    upb_Arena *arena = upb_Arena_New();
    thole_engine_v1_SnapshotChunk *m = thole_engine_v1_SnapshotChunk_new(arena);
    thole_engine_v1_SnapshotChunk_set_shard(m, c->shard_id);
    thole_engine_v1_SnapshotChunk_set_from(m, c->from);
    thole_engine_v1_SnapshotChunk_set_to(m, c->to);
    thole_engine_v1_SnapshotChunk_set_term(m, c->term);
    thole_engine_v1_SnapshotChunk_set_transfer(m, c->transfer);
    thole_engine_v1_SnapshotChunk_set_index(m, c->index);
    thole_engine_v1_SnapshotChunk_set_index_term(m, c->index_term);
    thole_engine_v1_SnapshotChunk_set_config(m, view_of(c->config));
    thole_engine_v1_SnapshotChunk_set_offset(m, c->offset);
    thole_engine_v1_SnapshotChunk_set_checksum(m, hash64(c->data.data, c->data.size, c->offset));
    thole_engine_v1_SnapshotChunk_set_last(m, c->last);
    thole_engine_v1_SnapshotChunk_set_total_checksum(m, c->total_checksum);
    size_t size;
    const char *fields = thole_engine_v1_SnapshotChunk_serialize(m, arena, &size);
    struct bufslice out = frame_with_data(fields, size, c->data);
    upb_Arena_Free(arena);
    return out;
}

static void fill_chunk(const thole_engine_v1_SnapshotChunk *m, struct codec_chunk *ret)
{
    *ret = (struct codec_chunk){
        .shard_id = thole_engine_v1_SnapshotChunk_shard(m),
        .from = thole_engine_v1_SnapshotChunk_from(m),
        .to = thole_engine_v1_SnapshotChunk_to(m),
        .term = thole_engine_v1_SnapshotChunk_term(m),
        .transfer = thole_engine_v1_SnapshotChunk_transfer(m),
        .index = thole_engine_v1_SnapshotChunk_index(m),
        .index_term = thole_engine_v1_SnapshotChunk_index_term(m),
        .config = slice_of_view(thole_engine_v1_SnapshotChunk_config(m)),
        .offset = thole_engine_v1_SnapshotChunk_offset(m),
        .data = slice_of_view(thole_engine_v1_SnapshotChunk_data(m)),
        .checksum = thole_engine_v1_SnapshotChunk_checksum(m),
        .last = thole_engine_v1_SnapshotChunk_last(m),
        .total_checksum = thole_engine_v1_SnapshotChunk_total_checksum(m),
    };
}

enum thole_code codec_read_chunk(struct slice frame, struct codec_chunk *ret,
                                 struct thole_status *st)
{
    if (frame.size > LIMIT_FRAME_BYTES) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "chunk frame of %zu bytes", frame.size);
    }
    upb_Arena *arena = upb_Arena_New();
    const thole_engine_v1_SnapshotChunk *m =
        PROTO_DECODE_ALIAS(thole_engine_v1_SnapshotChunk, frame, arena);
    struct codec_chunk c = {0};
    if (m != NULL) {
        fill_chunk(m, &c);
    }
    enum thole_code code = THOLE_OK;
    if (m == NULL || c.from == 0 || c.to == 0 || c.index == 0 || c.data.size == 0 ||
        c.data.size > 2 * LIMIT_CHUNK_BYTES || c.offset > UINT64_MAX / 2) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "malformed snapshot chunk");
    } else if (c.checksum != hash64(c.data.data, c.data.size, c.offset)) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "damaged snapshot chunk at %" PRIu64, c.offset);
    }
    if (code != THOLE_OK) {
        upb_Arena_Free(arena);
        return code;
    }
    c.arena = arena;
    *ret = c;
    return THOLE_OK;
}

void codec_descriptor_encode(const struct codec_descriptor *d, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    thole_engine_v1_ReplicaDescriptor *m = thole_engine_v1_ReplicaDescriptor_new(arena);
    thole_engine_v1_ReplicaDescriptor_set_machine_type(m, view_of(d->machine_type));
    thole_engine_v1_ReplicaDescriptor_set_machine_version(m, d->machine_version);
    thole_engine_v1_ReplicaDescriptor_set_machine_config(m, view_of(d->machine_config));
    thole_engine_v1_ReplicaDescriptor_set_witness(m, d->witness);
    thole_engine_v1_ReplicaDescriptor_set_lease_reads(m, d->lease_reads);
    size_t size;
    const char *data = thole_engine_v1_ReplicaDescriptor_serialize(m, arena, &size);
    bytes_append(out, data, size);
    upb_Arena_Free(arena);
}

enum thole_code codec_descriptor_decode(struct slice in, struct codec_descriptor *ret,
                                        struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_engine_v1_ReplicaDescriptor *m =
        PROTO_DECODE_ALIAS(thole_engine_v1_ReplicaDescriptor, in, arena);
    enum thole_code code = THOLE_OK;
    if (m != NULL) {
        *ret = (struct codec_descriptor){
            .machine_type = slice_of_view(thole_engine_v1_ReplicaDescriptor_machine_type(m)),
            .machine_config = slice_of_view(thole_engine_v1_ReplicaDescriptor_machine_config(m)),
            .machine_version = thole_engine_v1_ReplicaDescriptor_machine_version(m),
            .arena = arena,
            .witness = thole_engine_v1_ReplicaDescriptor_witness(m),
            .lease_reads = thole_engine_v1_ReplicaDescriptor_lease_reads(m),
        };
    } else {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "unreadable descriptor");
    }
    if (code != THOLE_OK) {
        upb_Arena_Free(arena);
    }
    return code;
}

void codec_header_encode(const struct codec_header *h, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    thole_engine_v1_SnapshotHeader *m = thole_engine_v1_SnapshotHeader_new(arena);
    thole_engine_v1_SnapshotHeader_set_format(m, SNAPSHOT_FORMAT);
    thole_engine_v1_SnapshotHeader_set_shard(m, h->shard_id);
    thole_engine_v1_SnapshotHeader_set_index(m, h->index);
    thole_engine_v1_SnapshotHeader_set_index_term(m, h->index_term);
    thole_engine_v1_SnapshotHeader_set_machine_type(m, view_of(h->machine_type));
    thole_engine_v1_SnapshotHeader_set_machine_version(m, h->machine_version);
    thole_engine_v1_SnapshotHeader_set_config(m, view_of(h->config));
    thole_engine_v1_SnapshotHeader_set_now_ms(m, h->stamp.now_ms);
    thole_engine_v1_SnapshotHeader_set_alive_ms(m, h->stamp.alive_ms);
    size_t size;
    const char *data = thole_engine_v1_SnapshotHeader_serialize(m, arena, &size);
    bytes_append(out, data, size);
    upb_Arena_Free(arena);
}

enum thole_code codec_header_decode(struct slice in, struct codec_header *ret,
                                    struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_engine_v1_SnapshotHeader *m =
        PROTO_DECODE_ALIAS(thole_engine_v1_SnapshotHeader, in, arena);
    enum thole_code code = THOLE_OK;
    if (m == NULL) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "unreadable snapshot header");
    } else if (thole_engine_v1_SnapshotHeader_format(m) != SNAPSHOT_FORMAT) {
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT, "snapshot format %u",
                          thole_engine_v1_SnapshotHeader_format(m));
    } else {
        *ret = (struct codec_header){
            .shard_id = thole_engine_v1_SnapshotHeader_shard(m),
            .index = thole_engine_v1_SnapshotHeader_index(m),
            .index_term = thole_engine_v1_SnapshotHeader_index_term(m),
            .machine_type = slice_of_view(thole_engine_v1_SnapshotHeader_machine_type(m)),
            .config = slice_of_view(thole_engine_v1_SnapshotHeader_config(m)),
            .machine_version = thole_engine_v1_SnapshotHeader_machine_version(m),
            .stamp = {thole_engine_v1_SnapshotHeader_now_ms(m),
                      thole_engine_v1_SnapshotHeader_alive_ms(m)},
            .arena = arena,
        };
    }
    if (code != THOLE_OK) {
        upb_Arena_Free(arena);
    }
    return code;
}
