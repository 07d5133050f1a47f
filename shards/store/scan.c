/* The walk over the frames of a log. See scan.h. */
#include "shards/store/scan.h"

#include "shards/store/disk_log.h"
#include "shards/store/record_internal.h"

static enum thole_code fail_loss(struct thole_status *st, const struct segment *g, uint32_t at)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                      "log segment %" PRIu32 " is damaged at %" PRIu32
                      ": acknowledged writes follow",
                      g->file, at);
}

/* ---- Records --------------------------------------------------------------------------------- */

static bool is_intact_record(struct log_scan_record *r)
{
    struct slice body;
    uint32_t count;
    uint8_t flags;

    if (r->entry.kind == STORE_KIND_HOST &&
        !disk_log__split_host(r->sealed, &r->key, r->name, &r->sealed)) {
        return false;
    }
    return (r->entry.flags & FRAME_DELETE) != 0 ||
           store__record_open(store_key_slice(&r->key), r->sealed, &flags, &count, &body);
}

bool log_scan_next(struct frame *f, struct log_scan_record *ret)
{
    if (!frame_next(f, &ret->entry, &ret->offset)) {
        return false;
    }
    ret->key = frame_key(&ret->entry);
    ret->name[0] = '\0';
    ret->sealed = slice_of(f->data + ret->offset, ret->entry.bytes);
    ret->intact = is_intact_record(ret);
    return true;
}

static bool is_intact(struct frame f)
{
    struct log_scan_record r;

    while (log_scan_next(&f, &r)) {
        if (!r.intact) {
            return false;
        }
    }
    return true;
}

/* ---- Torn or damaged? ------------------------------------------------------------------------ */

/* More frames than fit into a segment. */
#define FRAMES_AHEAD_MAX ((uint64_t)1 << 24)

/* Does a frame with this sequence, or a later one, begin anywhere in these bytes? Payloads of users
 * may look like frames. So the sequence is compared before the checksum is computed, which may
 * cover megabytes. */
static bool find_frame(const struct segments *s, struct slice bytes, uint64_t sequence,
                       size_t *ret_at)
{
    struct frame f;

    for (size_t at = 0; at + FRAME_HEADER_BYTES <= bytes.size; at += FRAME_ALIGN) {
        struct slice rest = slice_of(bytes.data + at, bytes.size - at);

        if (frame_sequence(rest.data) - sequence < FRAMES_AHEAD_MAX &&
            frame_open(&f, rest, s->seed)) {
            *ret_at = at;
            return true;
        }
    }
    return false;
}

/* The frame at `at` of the loaded segment cannot be read. Where in the segment does a later one
 * begin? 0: nowhere. */
static uint32_t later_in_segment(const struct log_scan *c, uint32_t at)
{
    size_t next = (size_t)at + FRAME_ALIGN, found;

    return next < c->file.size &&
                   find_frame(c->files, slice_of(c->file.data + next, c->file.size - next),
                              c->files->sequence + 1, &found)
               ? (uint32_t)(next + found)
               : 0;
}

/* Is there a later frame, in the segment, the next one, or a file whose header cannot be read?
 * `*ret_in` is that file. */
static enum thole_code has_later_frames(struct log_scan *c, size_t position, uint32_t at, bool *ret,
                                        const struct segment **ret_in, struct thole_status *st)
{
    const struct segments *f = c->files;
    size_t found;

    *ret_in = NULL;
    *ret = position + 1 < f->live.count || later_in_segment(c, at) != 0;
    for (size_t i = 0; i < f->spare.count && !*ret; i++) {
        const struct segment *g = f->spare.items[f->spare.head + i];

        if (g->number == 0) {
            enum thole_code code = segment_load(g, &c->other, st);
            if (code != THOLE_OK) {
                return code;
            }
            *ret = find_frame(f, bytes_slice(&c->other), f->sequence, &found);
            *ret_in = *ret ? g : NULL;
        }
    }
    return THOLE_OK;
}

/* ---- One segment ----------------------------------------------------------------------------- */

/* The first sequence of the next segment. A frame with that sequence in this segment was torn, not
 * acknowledged, and written again there. */
static uint64_t end_sequence(const struct segments *files, size_t position)
{
    return position + 1 < files->live.count
               ? files->live.items[files->live.head + position + 1]->first_sequence
               : UINT64_MAX;
}

/* The frames from `*at` on that count. `*at` is then the end of the last one. */
static enum thole_code scan_frames(struct log_scan *c, size_t position, uint32_t *at,
                                   struct thole_status *st)
{
    struct segments *files = c->files;
    const struct segment *g = files->live.items[files->live.head + position], *in;
    uint64_t end = end_sequence(files, position);
    struct frame f;
    bool more;

    while (*at < c->file.size && files->sequence < end &&
           frame_open(&f, slice_of(c->file.data + *at, c->file.size - *at), files->seed) &&
           f.sequence == files->sequence) {
        enum thole_code code = THOLE_OK;

        if (!is_intact(f)) {
            code = has_later_frames(c, position, *at, &more, &in, st);
            if (code != THOLE_OK || !more) {
                return code; /* torn */
            }
        }
        code = c->frame(c->ctx, g, *at, f, st);
        if (code != THOLE_OK) {
            return code;
        }
        files->sequence++;
        c->last = *at;
        *at += f.bytes;
    }
    return THOLE_OK;
}

/* Are acknowledged frames lost at `at`, where the last readable one ends? */
static enum thole_code is_lost(struct log_scan *c, size_t position, uint32_t at, bool *ret,
                               const struct segment **ret_in, struct thole_status *st)
{
    *ret_in = NULL;
    if (position + 1 < c->files->live.count) {
        *ret = end_sequence(c->files, position) != c->files->sequence;
        return THOLE_OK;
    }
    return has_later_frames(c, position, at, ret, ret_in, st);
}

static bool looks_torn(const struct log_scan *c, uint32_t at)
{
    const uint8_t *header = c->file.data + at;

    return c->file.size >= (size_t)at + FRAME_HEADER_BYTES && frame_is_begun(header) &&
           frame_sequence(header) == c->files->sequence;
}

enum thole_code log_scan_segment(struct log_scan *c, size_t position, struct thole_status *st)
{
    struct segments *files = c->files;
    struct segment *g = files->live.items[files->live.head + position];
    enum thole_code code = segment_load(g, &c->file, st);
    uint32_t at = SEGMENT_HEADER_BYTES;
    const struct segment *in = NULL;
    bool lost = false;

    c->last = 0;
    if (code != THOLE_OK) {
        return code;
    }
    do {
        code = scan_frames(c, position, &at, st);
        g->end = at;
        if (code == THOLE_OK) {
            code = is_lost(c, position, at, &lost, &in, st);
        }
        if (code != THOLE_OK || !lost) {
            break;
        }
        if (c->lost == NULL) {
            return fail_loss(st, g, at);
        }
        c->lost(c->ctx, g, at, in);
        at = later_in_segment(c, at);
        files->sequence =
            at != 0 ? frame_sequence(c->file.data + at) : end_sequence(files, position);
    } while (at != 0);
    if (code == THOLE_OK && !lost && c->torn != NULL && position + 1 == files->live.count &&
        looks_torn(c, at)) {
        c->torn(c->ctx, g, at);
    }
    return code;
}

void log_scan_deinit(struct log_scan *c)
{
    bytes_deinit(&c->file);
    bytes_deinit(&c->other);
}
