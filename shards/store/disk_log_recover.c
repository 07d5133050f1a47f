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
#include "shards/store/scan.h"

static enum thole_code apply_frame(void *ctx, const struct segment *g, uint32_t at, struct frame f,
                                   struct thole_status *st)
{
    struct disk_log *s = ctx;
    struct frame_entry e;
    uint32_t offset;

    s->attested = f.count == 0 ? f.sequence + 1 : 0;
    s->attest_synced = true; /* by rewrite_last_frame, at the latest */
    while (frame_next(&f, &e, &offset)) {
        struct log_place place = {g->number, at + offset, e.bytes};
        const char *damage = disk_log__apply(s, &e, slice_of(f.data + offset, e.bytes), place);

        if (damage != NULL && e.replica_id == 0) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "log segment %" PRIu32 " is damaged at %" PRIu32
                              ": a record of the host",
                              g->file, at + offset);
        }
        if (damage != NULL) {
            disk_log__note_damage(s, e.replica_id, damage);
        }
    }
    return THOLE_OK;
}

/* The last frame may be in the page cache only: its writer was killed before the sync, or the sync
 * failed, which leaves pages that are marked clean. So it is written and synced again, before
 * anything relies on it. */
static enum thole_code rewrite_last_frame(const struct log_scan *c, struct thole_status *st)
{
    struct segments *files = c->files;
    uint32_t from = c->last == SEGMENT_HEADER_BYTES ? 0 : c->last;

    return c->last == 0
               ? THOLE_OK
               : segments_rewrite(files, from,
                                  slice_of(c->file.data + from, segments_newest(files)->end - from),
                                  st);
}

/* ---- Damaged replicas ------------------------------------------------------------------------ */

void disk_log__note_damage(struct disk_log *s, uint64_t replica_id, const char *damage)
{
    (void)disk_log__replica(s, replica_id);
    (void)map_put(&s->damage, replica_id, (void *)(uintptr_t)damage);
}

struct log_replica *disk_log__next_damaged(struct disk_log *s, size_t *it, const char **ret)
{
    struct log_replica *r;

    while ((r = map_next(&s->replicas, it, NULL)) != NULL) {
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
            *ret = damage;
            return r;
        }
    }
    return NULL;
}

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
    const char *damage;
    struct log_replica *r;
    size_t it = 0;

    frame_begin(&s->frame);
    while ((r = disk_log__next_damaged(s, &it, &damage)) != NULL) {
        put_mark(s, r, damage);
    }
    map_deinit(&s->damage);
    return disk_log__commit(s, st);
}

enum thole_code disk_log__recover(struct disk_log *s, struct thole_status *st)
{
    struct log_scan c = {.files = &s->files, .ctx = s, .frame = apply_frame};
    enum thole_code code = THOLE_OK;

    s->files.sequence = segments_oldest(&s->files)->first_sequence;
    if (s->files.sequence == 0) {
        s->files.sequence = 1; /* a new log */
    }
    for (size_t i = 0; i < s->files.live.count && code == THOLE_OK; i++) {
        code = log_scan_segment(&c, i, st);
    }
    if (code == THOLE_OK) {
        code = rewrite_last_frame(&c, st);
    }
    log_scan_deinit(&c);
    while (code == THOLE_OK && segments_retire(&s->files)) {
    }
    return code == THOLE_OK ? mark_damaged(s, st) : code;
}
