/* Every decoder of the engine for input from peers and disks. The first byte chooses the
 * decoder. */
#include <stddef.h>
#include <stdint.h>

#include "shards/engine/frame_codec.h"
#include "shards/engine/meta.h"

static void take_message(void *ctx, uint64_t shard, uint64_t to_incarnation, struct raft_message *m)
{
    (void)ctx, (void)shard, (void)to_incarnation;
    for (uint32_t i = 0; i < m->entry_count; i++) {
        ASSERT(m->entries[i]->index == m->entries[0]->index + i && m->entries[i]->term > 0);
    }
    raft_message_deinit(m);
}

static void take_reply(void *ctx, const struct stream_msg *m, uint64_t from, uint64_t to)
{
    (void)ctx, (void)m, (void)from, (void)to;
}

static void take_beat(void *ctx, const struct host_beat *b)
{
    (void)ctx;
    ASSERT(b->number > 0 && b->woken_count <= BEAT_WOKEN_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    struct slice in = slice_of(data + 1, size - 1);
    struct thole_status st;
    struct codec_sink sink = {NULL, take_message, take_reply, take_beat};
    struct codec_chunk chunk;
    struct codec_header header;
    struct codec_descriptor descriptor;
    struct session_table table = {0};
    switch (data[0] % 6) {
    case 0: {
        struct buf *b = buf_copy(in.data, in.size);
        (void)!codec_read_frame((struct bufslice){b, slice_of(b->data, b->size)}, &sink, &st);
        buf_unref(b);
        break;
    }
    case 1:
        if (codec_read_chunk(in, &chunk, &st) == THOLE_OK) {
            codec_release(chunk.arena);
        }
        break;
    case 2:
        if (codec_header_decode(in, &header, &st) == THOLE_OK) {
            codec_release(header.arena);
        }
        break;
    case 4: /* a metadata record that a persistent machine holds */
        if (in.size >= 17) {
            struct machine m = {0};
            size_t key = in.data[0] == 'a' ? 1 : in.data[0] == 's' ? 9 : 17;
            (void)meta_read(&m, slice_of(in.data, key), slice_of(in.data + key, in.size - key));
            session_table_sort(&m.sessions);
            session_table_deinit(&m.sessions);
        }
        break;
    case 3:
        if (codec_descriptor_decode(in, &descriptor, &st) == THOLE_OK) {
            codec_release(descriptor.arena);
        }
        break;
    default:
        (void)session_decode(&table, in);
        (void)session_decode_result(&table, 5, in);
        session_table_sort(&table);
        session_table_deinit(&table);
    }
    return 0;
}
