/* Frames from a disk: the input is the content after a frame's magic. If the directory lies within
 * the input, the checksum is corrected first; otherwise no input would pass it. Every record must
 * then lie within the frame, before the directory. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "shards/store/frame.h"

enum { SEED = 7 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal(struct bytes *b)
{
    uint64_t bytes = frame_size(b->data);
    uint64_t directory = (uint64_t)get_le32(b->data + 20) * FRAME_ENTRY_BYTES;

    memcpy(b->data, "tlframe1", 8);
    if (bytes <= b->size && directory <= bytes) {
        put_le64(b->data + 24,
                 hash64(b->data + bytes - directory, (size_t)directory, hash64(b->data, 24, SEED)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes b = {0};
    struct frame_entry e;
    struct frame f;
    uint32_t offset, count = 0, end = FRAME_HEADER_BYTES;

    if (size < FRAME_HEADER_BYTES - 8) {
        return 0;
    }
    memset(bytes_extend(&b, 8), 0, 8);
    bytes_append(&b, data, size);
    seal(&b);
    if (frame_open(&f, bytes_slice(&b), SEED)) {
        ASSERT(f.bytes <= b.size && f.bytes >= FRAME_HEADER_BYTES);
        while (frame_next(&f, &e, &offset)) {
            struct store_key key = frame_key(&e);

            ASSERT(key.size <= sizeof key.bytes && offset == end);
            end += e.bytes;
            count++;
            ASSERT(end + (uint64_t)f.count * FRAME_ENTRY_BYTES <= f.bytes);
        }
        ASSERT(count == f.count);
    }
    bytes_deinit(&b);
    return 0;
}
