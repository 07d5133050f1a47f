/* The scan at open: reads and verifies every frame of the live segments, from the oldest on, and
 * applies its records.
 *
 * A frame is written only after the one before it was synced. So an unreadable frame that no other
 * frame follows is a torn tail, which was never acknowledged. An unreadable frame with a later one
 * is damage. Damage inside a record affects the replica that the frame's directory names. It is
 * reported, and a DAMAGED record outlives the damaged one; the other replicas run. Damage of a
 * frame's header or directory hides which replicas lost records: the log does not open. */
#include <inttypes.h>

#include "base/log.h"
#include "shards/store/disk_log.h"
#include "shards/store/record_internal.h"

struct scan {
    struct disk_log *s;
    struct bytes file; /* the segment being read */
    uint32_t last;     /* where its last frame begins; 0: it has none */
    struct bytes other;
};

static enum thole_code fail_loss(struct thole_status *st, const struct segment *g, uint32_t at)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                      "log segment %" PRIu32 " is damaged at %" PRIu32
                      ": acknowledged writes follow",
                      g->file, at);
}

/* ---- Torn or damaged? ------------------------------------------------------------------------ */

/* More frames than fit into a segment. */
#define FRAMES_AHEAD_MAX ((uint64_t)1 << 24)

/* Does a frame with this sequence, or a later one, begin anywhere in these bytes? Payloads of users
 * may look like frames. So the sequence is compared before the checksum is computed, which may
 * cover megabytes. */
static bool holds_frame(const struct disk_log *s, struct slice bytes, uint64_t sequence)
{
    struct frame f;

    for (size_t at = 0; at + FRAME_HEADER_BYTES <= bytes.size; at += FRAME_ALIGN) {
        struct slice rest = slice_of(bytes.data + at, bytes.size - at);

        if (frame_sequence(rest.data) - sequence < FRAMES_AHEAD_MAX &&
            frame_open(&f, rest, s->files.seed)) {
            return true;
        }
    }
    return false;
}

/* The frame at `at` of the loaded segment, the live one with this position, cannot be read. Does a
 * later frame exist, in the segment or in a file whose header cannot be read? */
static enum thole_code has_later_frames(struct scan *c, size_t position, uint32_t at, bool *ret,
                                        struct thole_status *st)
{
    const struct segments *f = &c->s->files;
    uint32_t next = at + FRAME_ALIGN;

    *ret = position + 1 < f->live.count ||
           (next < c->file.size &&
            holds_frame(c->s, slice_of(c->file.data + next, c->file.size - next), f->sequence + 1));
    for (size_t i = 0; i < f->spare.count && !*ret; i++) {
        const struct segment *g = f->spare.items[f->spare.head + i];

        if (g->number == 0) {
            enum thole_code code = segment_load(g, &c->other, st);
            if (code != THOLE_OK) {
                return code;
            }
            *ret = holds_frame(c->s, bytes_slice(&c->other), f->sequence);
        }
    }
    return THOLE_OK;
}

/* ---- One segment ----------------------------------------------------------------------------- */

static bool is_intact(struct frame f)
{
    char name[STORE_HOST_NAME_BYTES_MAX + 1];
    struct frame_entry e;
    uint32_t offset;

    while (frame_next(&f, &e, &offset)) {
        struct slice record = slice_of(f.data + offset, e.bytes), body;
        struct store_key key = frame_key(&e);
        uint32_t count;
        uint8_t flags;

        if (e.kind == STORE_KIND_HOST && !disk_log__split_host(record, &key, name, &record)) {
            return false;
        }
        if ((e.flags & FRAME_DELETE) == 0 &&
            !store__record_open(store_key_slice(&key), record, &flags, &count, &body)) {
            return false;
        }
    }
    return true;
}

static enum thole_code apply_frame(struct disk_log *s, const struct segment *g, uint32_t at,
                                   struct frame f, struct thole_status *st)
{
    struct frame_entry e;
    uint32_t offset;

    while (frame_next(&f, &e, &offset)) {
        struct log_place place = {g->number, at + offset, e.bytes};
        const char *damage = disk_log__apply(s, &e, slice_of(f.data + offset, e.bytes), place);

        if (damage != NULL && e.replica_id == 0) {
            return fail_loss(st, g, at + offset);
        }
        if (damage != NULL) {
            (void)disk_log__replica(s, e.replica_id);
            (void)map_put(&s->damage, e.replica_id, (void *)(uintptr_t)damage);
        }
    }
    return THOLE_OK;
}

/* The first sequence of the next segment. A frame with that sequence in this segment was torn, not
 * acknowledged, and written again there. */
static uint64_t end_sequence(const struct segments *files, size_t position)
{
    return position + 1 < files->live.count
               ? files->live.items[files->live.head + position + 1]->first_sequence
               : UINT64_MAX;
}

/* Scan the live segment with this position, and set its end. */
static enum thole_code scan_segment(struct scan *c, size_t position, struct thole_status *st)
{
    struct segments *files = &c->s->files;
    struct segment *g = files->live.items[files->live.head + position];
    enum thole_code code = segment_load(g, &c->file, st);
    uint64_t end = end_sequence(files, position);
    uint32_t at = SEGMENT_HEADER_BYTES;
    struct frame f;
    bool more = false;

    c->last = 0;
    if (code != THOLE_OK) {
        return code;
    }
    while (at < c->file.size && files->sequence < end &&
           frame_open(&f, slice_of(c->file.data + at, c->file.size - at), files->seed) &&
           f.sequence == files->sequence) {
        if (!is_intact(f)) {
            code = has_later_frames(c, position, at, &more, st);
            if (code != THOLE_OK || !more) {
                break; /* torn */
            }
        }
        code = apply_frame(c->s, g, at, f, st);
        if (code != THOLE_OK) {
            return code;
        }
        files->sequence++;
        c->s->attested = f.count == 0 ? files->sequence : 0;
        c->s->attest_synced = true; /* by rewrite_last_frame, at the latest */
        c->last = at;
        at += f.bytes;
    }
    g->end = at;
    if (code == THOLE_OK && position + 1 == files->live.count) {
        code = has_later_frames(c, position, at, &more, st);
    } else if (code == THOLE_OK) {
        more = end != files->sequence;
    }
    return code == THOLE_OK && more ? fail_loss(st, g, at) : code;
}

/* The last frame may be in the page cache only: its writer was killed before the sync, or the sync
 * failed, which leaves pages that are marked clean. So it is written and synced again, before
 * anything relies on it. */
static enum thole_code rewrite_last_frame(struct scan *c, struct thole_status *st)
{
    struct segments *files = &c->s->files;
    uint32_t from = c->last == SEGMENT_HEADER_BYTES ? 0 : c->last;

    return c->last == 0
               ? THOLE_OK
               : segments_rewrite(files, from,
                                  slice_of(c->file.data + from, segments_newest(files)->end - from),
                                  st);
}

/* ---- The whole ------------------------------------------------------------------------------- */

static void put_mark(struct disk_log *s, const struct log_replica *r, const char *damage)
{
    struct store_key k = store_key(r->id, STORE_KIND_DAMAGED);

    LOG_ERROR(STORE,
              "log of a replica damaged, this replica stays stopped replica=%" PRIu64
              " damaged=\"%s\" after_index=%" PRIu64,
              r->id, damage, r->index.last);
    store_encode_host(frame_record(&s->frame), store_key_slice(&k), (struct slice){0});
    frame_record_end(&s->frame,
                     (struct frame_entry){.replica_id = r->id, .kind = STORE_KIND_DAMAGED});
}

static enum thole_code mark_damaged(struct disk_log *s, struct thole_status *st)
{
    struct log_replica *r;
    size_t it = 0;

    frame_begin(&s->frame);
    while ((r = map_next(&s->replicas, &it, NULL)) != NULL) {
        if (r->state != LOG_ABSENT && r->state != LOG_LIVE) {
            continue;
        }
        const char *damage = map_get(&s->damage, r->id);
        if (damage == NULL && r->state == LOG_ABSENT) {
            damage = "no identity";
        } else if (damage == NULL && !log_index_whole(&r->index)) {
            damage = "gap in the log";
        }
        if (damage != NULL) {
            put_mark(s, r, damage);
        }
    }
    map_deinit(&s->damage);
    return disk_log__commit(s, st);
}

enum thole_code disk_log__recover(struct disk_log *s, struct thole_status *st)
{
    struct scan c = {.s = s};
    enum thole_code code = THOLE_OK;

    s->files.sequence = segments_oldest(&s->files)->first_sequence;
    if (s->files.sequence == 0) {
        s->files.sequence = 1; /* a new log */
    }
    for (size_t i = 0; i < s->files.live.count && code == THOLE_OK; i++) {
        code = scan_segment(&c, i, st);
    }
    if (code == THOLE_OK) {
        code = rewrite_last_frame(&c, st);
    }
    bytes_deinit(&c.file);
    bytes_deinit(&c.other);
    while (code == THOLE_OK && segments_retire(&s->files)) {
    }
    return code == THOLE_OK ? mark_damaged(s, st) : code;
}
