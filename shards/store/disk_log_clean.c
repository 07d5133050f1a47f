/* Cleaning: moves the live records out of the oldest segment, so that its file can be reused.
 *
 * Most segments empty themselves, because logs are compacted at their front. What stays is the
 * records of idle replicas, and logs whose machines have not taken a snapshot yet. When the log has
 * more than about twice the segments that its live bytes would fill, each write also cleans a part
 * of the oldest segment: live records are appended again as copies, in the same frame. The part is
 * proportional to the bytes written. So the size of the log is bounded, no thread competes for the
 * disk, and an idle log does nothing. */
#include <inttypes.h>

#include "base/assert.h"
#include "base/metrics.h"
#include "shards/store/disk_log.h"
#include "shards/store/record_internal.h"

/* A log of up to this many segments is not cleaned. */
#define SEGMENTS_MIN 4
/* Each write cleans this much of the oldest segment, and three times the bytes of the batch before.
 * At most half of all bytes are live when cleaning runs, so the log shrinks. */
#define CLEAN_BYTES_MIN ((size_t)64 * KIB)
#define CLEAN_BYTES_MAX ((size_t)4 * MIB)

static METRIC_DEFINE_COUNTER(moved_bytes, "thole_log_moved_bytes_total",
                             "Bytes of the log written again to empty its oldest segments.");

static enum thole_code fail_damaged(const struct disk_log *s, struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                      "log segment %" PRIu32 " is damaged at %" PRIu32
                      "; restart the host: it will name the replicas that lost records",
                      segments_oldest(&s->files)->file, s->clean_offset);
}

/* Copies the live part of a run: without the entries that were truncated from it. */
static bool copy_run(struct disk_log *s, const struct frame_entry *e, struct slice record)
{
    const struct log_replica *r = map_get(&s->replicas, e->replica_id);
    const struct store_run *run = &r->index.runs[log_index_find(&r->index, e->first)];
    struct store_key key = frame_key(e);
    struct store_run_reader reader;
    struct store_run_writer w;
    struct store_entry entry;

    if (!store_run_open(&reader, store_key_slice(&key), record)) {
        return false;
    }
    if (reader.count == run->count) {
        bytes_append_slice(frame_record(&s->frame), record);
        return true;
    }
    store_run_begin(&w, frame_record(&s->frame));
    for (uint32_t i = 0; i < run->count; i++) {
        if (!store_run_next(&reader, &entry)) {
            return false;
        }
        store_run_add(&w, &entry);
    }
    /* No hard state: the update that truncated the run wrote a newer one. */
    store_run_end(&w, store_key_slice(&key), NULL);
    return true;
}

static bool copy(struct disk_log *s, const struct frame_entry *e, struct slice record)
{
    struct store_key key = frame_key(e);
    uint32_t count;
    uint8_t flags;
    struct slice body;

    if (e->kind == STORE_KIND_RUN) {
        if (!copy_run(s, e, record)) {
            return false;
        }
    } else if (e->kind == STORE_KIND_HOST ||
               store__record_open(store_key_slice(&key), record, &flags, &count, &body)) {
        bytes_append_slice(frame_record(&s->frame), record);
    } else {
        return false;
    }
    struct frame_entry moved = *e;
    moved.flags |= FRAME_COPY;
    frame_record_end(&s->frame, moved);
    metric_add(&moved_bytes, e->bytes);
    return true;
}

static bool copy_frame(struct disk_log *s, struct slice bytes)
{
    uint32_t number = segments_oldest(&s->files)->number;
    struct frame_entry e;
    struct frame f;
    uint32_t offset;

    if (!frame_open(&f, bytes, s->files.seed)) {
        return false;
    }
    while (frame_next(&f, &e, &offset)) {
        struct slice record = slice_of(f.data + offset, e.bytes);
        struct log_place at = {number, s->clean_offset + offset, e.bytes};

        if (disk_log__is_live(s, &e, record, at) && !copy(s, &e, record)) {
            return false;
        }
    }
    return true;
}

enum thole_code disk_log__clean(struct disk_log *s, struct thole_status *st)
{
    const struct segment *g = segments_oldest(&s->files);
    uint64_t needed = s->files.live_bytes / s->files.segment_bytes + 1; /* segments */
    size_t budget = CLEAN_BYTES_MIN + 3 * s->last_batch_bytes;

    if (s->files.live.count <= SEGMENTS_MIN + 2 * needed) {
        return THOLE_OK;
    }
    if (s->clean_segment != g->number) {
        s->clean_segment = g->number;
        s->clean_offset = SEGMENT_HEADER_BYTES;
    }
    ASSERT(g != segments_newest(&s->files) && s->clean_offset >= SEGMENT_HEADER_BYTES);
    budget = budget < CLEAN_BYTES_MAX ? budget : CLEAN_BYTES_MAX;
    for (size_t looked = 0; looked < budget && s->clean_offset < g->end;) {
        uint8_t header[FRAME_HEADER_BYTES];
        enum thole_code code = segment_read(g, s->clean_offset, header, sizeof header, st);
        if (code != THOLE_OK) {
            return code;
        }
        uint32_t size = frame_size(header);
        if (size < sizeof header || size > g->end - s->clean_offset) {
            return fail_damaged(s, st);
        }
        bytes_clear(&s->clean_frame);
        code = segment_read(g, s->clean_offset, bytes_extend(&s->clean_frame, size), size, st);
        if (code != THOLE_OK) {
            return code;
        }
        if (!copy_frame(s, bytes_slice(&s->clean_frame))) {
            return fail_damaged(s, st);
        }
        s->clean_offset += size;
        looked += size;
    }
    return THOLE_OK;
}
