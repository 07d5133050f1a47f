#include "shards/store/frame.h"

#include <string.h>

#include "base/assert.h"
#include "base/hash.h"

#define FRAME_MAGIC UINT64_C(0x31656d6172666c74) /* "tlframe1" */

void frame_begin(struct frame_writer *w)
{
    bytes_clear(&w->out);
    bytes_clear(&w->directory);
    w->count = 0;
    memset(bytes_extend(&w->out, FRAME_HEADER_BYTES), 0, FRAME_HEADER_BYTES);
}

void frame_record_end(struct frame_writer *w, struct frame_entry e)
{
    uint8_t *p = bytes_extend(&w->directory, FRAME_ENTRY_BYTES);

    ASSERT(w->at >= FRAME_HEADER_BYTES && w->at <= w->out.size);
    ASSERT(w->out.size - w->at <= UINT32_MAX);
    memset(p, 0, FRAME_ENTRY_BYTES);
    put_le64(p, e.replica_id);
    put_le64(p + 8, e.first);
    put_le32(p + 16, e.epoch);
    put_le32(p + 20, (uint32_t)(w->out.size - w->at));
    p[24] = e.kind;
    p[25] = e.flags;
    w->count++;
}

static uint64_t frame_checksum(const uint8_t *header, const uint8_t *directory, size_t size,
                               uint64_t seed)
{
    return hash64(directory, size, hash64(header, 24, seed));
}

struct slice frame_end(struct frame_writer *w, uint64_t sequence, uint64_t seed)
{
    size_t pad = -w->out.size % FRAME_ALIGN;

    memset(bytes_extend(&w->out, pad), 0, pad);
    bytes_append_slice(&w->out, bytes_slice(&w->directory));
    ASSERT(w->directory.size == (size_t)w->count * FRAME_ENTRY_BYTES);
    ASSERT(w->out.size <= UINT32_MAX && w->out.size % FRAME_ALIGN == 0);
    uint8_t *p = w->out.data;
    put_le64(p, FRAME_MAGIC);
    put_le64(p + 8, sequence);
    put_le32(p + 16, (uint32_t)w->out.size);
    put_le32(p + 20, w->count);
    put_le64(p + 24, frame_checksum(p, w->directory.data, w->directory.size, seed));
    return bytes_slice(&w->out);
}

void frame_writer_deinit(struct frame_writer *w)
{
    bytes_deinit(&w->out);
    bytes_deinit(&w->directory);
}

uint32_t frame_size(const uint8_t header[FRAME_HEADER_BYTES])
{
    return get_le32(header + 16);
}

uint64_t frame_sequence(const uint8_t header[FRAME_HEADER_BYTES])
{
    return get_le64(header + 8);
}

bool frame_is_begun(const uint8_t header[FRAME_HEADER_BYTES])
{
    return get_le64(header) == FRAME_MAGIC;
}

static const uint8_t *directory_of(const struct frame *f)
{
    return f->data + f->bytes - (size_t)f->count * FRAME_ENTRY_BYTES;
}

static struct frame_entry entry_at(const struct frame *f, uint32_t i)
{
    const uint8_t *p = directory_of(f) + (size_t)i * FRAME_ENTRY_BYTES;

    return (struct frame_entry){
        .replica_id = get_le64(p),
        .first = get_le64(p + 8),
        .epoch = get_le32(p + 16),
        .bytes = get_le32(p + 20),
        .kind = p[24],
        .flags = p[25],
    };
}

bool frame_open(struct frame *f, struct slice s, uint64_t seed)
{
    if (s.size < FRAME_HEADER_BYTES || get_le64(s.data) != FRAME_MAGIC) {
        return false;
    }
    struct frame n = {
        .sequence = get_le64(s.data + 8),
        .bytes = frame_size(s.data),
        .count = get_le32(s.data + 20),
        .data = s.data,
        .offset = FRAME_HEADER_BYTES,
    };
    uint64_t directory = (uint64_t)n.count * FRAME_ENTRY_BYTES, records = 0;
    if (n.bytes > s.size || n.bytes % FRAME_ALIGN != 0 ||
        n.bytes < FRAME_HEADER_BYTES + directory ||
        get_le64(s.data + 24) !=
            frame_checksum(s.data, directory_of(&n), (size_t)directory, seed)) {
        return false;
    }
    for (uint32_t i = 0; i < n.count; i++) {
        records += entry_at(&n, i).bytes;
    }
    if (records > n.bytes - FRAME_HEADER_BYTES - directory) {
        return false;
    }
    *f = n;
    return true;
}

bool frame_next(struct frame *f, struct frame_entry *ret, uint32_t *ret_offset)
{
    if (f->next == f->count) {
        return false;
    }
    *ret = entry_at(f, f->next++);
    *ret_offset = f->offset;
    f->offset += ret->bytes;
    ASSERT(f->offset <= f->bytes); /* frame_open has added the sizes up */
    return true;
}

struct store_key frame_key(const struct frame_entry *e)
{
    return e->kind == STORE_KIND_RUN ? store_key_run(e->replica_id, e->epoch, e->first)
                                     : store_key(e->replica_id, (enum store_kind)e->kind);
}
