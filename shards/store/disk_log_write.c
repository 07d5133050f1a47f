/* Writes one batch: check all updates, encode them into a frame, sync it, apply it.
 *
 * The last record of every update carries the replica's hard state under a new stamp. Usually that
 * is the run itself, so a batch costs one record per replica. An update that truncates or drops the
 * record with the newest hard state writes a newer one. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/metrics.h"
#include "shards/store/disk_log.h"

/* A larger batch becomes several frames, each synced before the next one is written. */
#define FRAME_SPLIT_BYTES ((size_t)16 * MIB)
/* A frame buffer that grew beyond this is not kept. */
#define FRAME_KEEP_BYTES ((size_t)16 * MIB)
/* Nor are more targets than this. */
#define TARGETS_KEEP 1024

static METRIC_DEFINE_COUNTER(written_bytes, "thole_log_written_bytes_total",
                             "Bytes appended to the log.");
static METRIC_DEFINE_GAUGE(live_bytes, "thole_log_live_bytes",
                           "Live bytes of the log: in records that count.");
static METRIC_DEFINE_GAUGE(segments, "thole_log_segments", "Segments that the log consists of.");

/* ---- Check ----------------------------------------------------------------------------------- */

/* The batch's target for this replica, created if absent. */
static struct log_target *target(struct disk_log *s, uint64_t replica_id)
{
    struct log_replica *r = disk_log__replica(s, replica_id);

    if (r->target >= s->target_count || s->targets[r->target].r != r) {
        ASSERT(s->target_count < s->target_capacity);
        r->target = s->target_count++;
        s->targets[r->target] = (struct log_target){
            .r = r,
            .plan = {(enum log_state)r->state, r->index.start, r->index.last},
            .hard = r->hard,
            .epoch = r->epoch,
        };
    }
    ASSERT(s->targets[r->target].r->id == replica_id);
    return &s->targets[r->target];
}

static enum thole_code check(struct disk_log *s, const struct store_update *updates, size_t n,
                             struct thole_status *st)
{
    if (n > STORE_BATCH_UPDATES_MAX) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "%zu updates in a batch", n);
    }
    if (s->target_capacity < n) {
        s->target_capacity = (uint32_t)n;
        s->targets = xrealloc(s->targets, n * sizeof *s->targets);
    }
    s->target_count = 0;
    for (size_t i = 0; i < n; i++) {
        enum thole_code code =
            store__plan(&target(s, updates[i].replica_id)->plan, &updates[i], st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}

/* ---- Encoding one update --------------------------------------------------------------------- */

static void put_small(struct disk_log *s, const struct log_replica *r, enum store_kind kind)
{
    frame_record_end(&s->frame, (struct frame_entry){.replica_id = r->id, .kind = (uint8_t)kind});
}

static void put_identity(struct disk_log *s, const struct log_replica *r,
                         const struct store_identity *id)
{
    struct store_key k = store_key(r->id, STORE_KIND_IDENTITY);

    store_encode_identity(frame_record(&s->frame), store_key_slice(&k),
                          &(struct store_identity_record){
                              .tombstone = id == NULL,
                              .shard_id = id != NULL ? id->shard_id : r->shard_id,
                              .incarnation_created = id != NULL ? id->incarnation_created : 0,
                              .descriptor = id != NULL ? id->descriptor : (struct slice){0},
                          });
    put_small(s, r, STORE_KIND_IDENTITY);
}

static void put_removal(struct disk_log *s, const struct log_replica *r,
                        const struct store_update *u)
{
    if (!u->forget) {
        put_identity(s, r, NULL);
        return;
    }
    (void)frame_record(&s->frame);
    frame_record_end(&s->frame, (struct frame_entry){.replica_id = r->id,
                                                     .kind = STORE_KIND_IDENTITY,
                                                     .flags = FRAME_DELETE});
}

static void put_start(struct disk_log *s, struct log_target *t, const struct store_update *u)
{
    struct store_key k = store_key(t->r->id, STORE_KIND_START);

    ASSERT(t->epoch < UINT32_MAX || !u->start_reset);
    t->epoch += u->start_reset;
    store_encode_start(frame_record(&s->frame), store_key_slice(&k),
                       &(struct store_start){
                           .hard = t->hard,
                           .epoch = t->epoch,
                           .index = u->start_index,
                           .term = u->start_term,
                           .machine_generation = u->machine_generation,
                           .stamp = u->start_stamp,
                           .config = u->start_config,
                       });
    put_small(s, t->r, STORE_KIND_START);
}

static void end_run(struct disk_log *s, const struct log_target *t, struct store_run_writer *w,
                    uint64_t first, bool final)
{
    struct store_key k = store_key_run(t->r->id, t->epoch, first);

    store_run_end(w, store_key_slice(&k), final ? &t->hard : NULL);
    frame_record_end(&s->frame, (struct frame_entry){.replica_id = t->r->id,
                                                     .first = first,
                                                     .epoch = t->epoch,
                                                     .kind = STORE_KIND_RUN});
}

/* Runs are split by bytes, and where the term changes. */
static void put_entries(struct disk_log *s, const struct log_target *t,
                        const struct store_update *u)
{
    uint64_t first = u->entries[0]->index;
    struct store_run_writer w;

    ASSERT(u->entry_count > 0);
    store_run_begin(&w, frame_record(&s->frame));
    for (size_t i = 0; i < u->entry_count; i++) {
        const struct raft_entry *e = u->entries[i];
        size_t size = s->frame.out.size - s->frame.at;

        if (w.count > 0 &&
            (size + store_run_entry_bytes_max(e->payload.bytes.size) > LIMIT_RUN_BYTES ||
             e->term != w.term)) {
            end_run(s, t, &w, first, false);
            first = e->index;
            store_run_begin(&w, frame_record(&s->frame));
        }
        store_run_add(&w, &(struct store_entry){e->kind, e->index, e->term, e->session, e->sequence,
                                                e->payload.bytes, raft_entry_id(e), e->stamp});
    }
    end_run(s, t, &w, first, true);
}

static void encode(struct disk_log *s, struct log_target *t, const struct store_update *u)
{
    if (u->remove || u->forget) {
        put_removal(s, t->r, u);
        return;
    }
    if (u->create != NULL) {
        put_identity(s, t->r, u->create);
    }
    if (u->has_hard) {
        t->hard.hard = u->hard;
    }
    t->hard.stamp++;
    if (u->has_start) {
        put_start(s, t, u);
    }
    if (u->entry_count > 0) {
        put_entries(s, t, u);
    } else if (u->has_hard && !u->has_start) {
        struct store_key k = store_key(t->r->id, STORE_KIND_HARD);

        store_encode_hard(frame_record(&s->frame), store_key_slice(&k), &t->hard);
        put_small(s, t->r, STORE_KIND_HARD);
    }
}

/* ---- The write ------------------------------------------------------------------------------- */

enum thole_code disk_log__fail_poisoned(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK,
                      "an earlier write to the log failed; the host must be restarted");
}

/* After a failed write or sync the content of the disk is unknown, so nothing is written any
 * more. */
static enum thole_code poison(struct disk_log *s, struct thole_status *st)
{
    s->poisoned = true;
    if (st != NULL) {
        st->code = THOLE_UNAVAILABLE;
        st->reason = THOLE_REASON_DISK;
    }
    return THOLE_UNAVAILABLE;
}

static void apply_frame(struct disk_log *s, struct slice bytes)
{
    const struct segment *g = segments_newest(&s->files);
    struct frame_entry e;
    struct frame f;
    uint32_t offset;

    bool ok = frame_open(&f, bytes, s->files.seed);
    ASSERT(ok && f.bytes == bytes.size && g->end >= SEGMENT_HEADER_BYTES + f.bytes);
    pthread_mutex_lock(&s->lock);
    while (frame_next(&f, &e, &offset)) {
        struct log_place at = {g->number, g->end - f.bytes + offset, e.bytes};
        ASSERT(at.offset + at.bytes <= g->end);
        const char *damage = disk_log__apply(s, &e, slice_of(f.data + offset, e.bytes), at);

        ASSERT(damage == NULL);
    }
    while (segments_retire(&s->files)) {
    }
    pthread_mutex_unlock(&s->lock);
}

enum thole_code disk_log__commit(struct disk_log *s, struct thole_status *st)
{
    ASSERT(!s->poisoned);
    if (s->frame.count == 0) {
        return THOLE_OK;
    }
    if (s->frame.out.size + s->frame.directory.size > UINT32_MAX / 2) {
        THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "an update is too large");
        return poison(s, st);
    }
    struct slice bytes = frame_end(&s->frame, s->files.sequence, s->files.seed);
    enum thole_code code = segments_append(&s->files, bytes, st);
    if (code != THOLE_OK) {
        return poison(s, st);
    }
    apply_frame(s, bytes);
    ASSERT(bytes.size >= s->copied_bytes);
    s->last_batch_bytes = bytes.size - s->copied_bytes;
    s->copied_bytes = 0;
    metric_add(&written_bytes, (int64_t)bytes.size);
    metric_set(&live_bytes, (int64_t)s->files.live_bytes);
    metric_set(&segments, (int64_t)s->files.live.count);
    if (s->frame.out.capacity > FRAME_KEEP_BYTES) {
        frame_writer_deinit(&s->frame);
    }
    return THOLE_OK;
}

void disk_log__attest(struct disk_log *s, bool sync)
{
    struct frame_writer w = {0};
    struct thole_status st = {0};

    if (s->poisoned || segments_newest(&s->files)->end <= SEGMENT_HEADER_BYTES ||
        (s->attested == s->files.sequence && (s->attest_synced || !sync))) {
        return;
    }
    frame_begin(&w);
    if (segments_attest(&s->files, frame_end(&w, s->files.sequence, s->files.seed), sync, &st) ==
        THOLE_OK) {
        s->attested = s->files.sequence;
        s->attest_synced = sync;
    } else {
        LOG_WARN(STORE, "last log write not attested error=\"%s\"", st.message);
    }
    frame_writer_deinit(&w);
}

static enum thole_code write_locked(struct disk_log *s, const struct store_update *updates,
                                    size_t n, struct thole_status *st)
{
    if (s->poisoned) {
        return disk_log__fail_poisoned(st);
    }
    enum thole_code code = check(s, updates, n, st);
    if (code != THOLE_OK || n == 0) {
        return code;
    }
    frame_begin(&s->frame);
    if (disk_log__clean(s, st) != THOLE_OK) {
        return poison(s, st);
    }
    s->copied_bytes = s->frame.out.size;
    size_t split = s->files.segment_bytes / 2 < FRAME_SPLIT_BYTES ? s->files.segment_bytes / 2
                                                                  : FRAME_SPLIT_BYTES;
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        encode(s, target(s, updates[i].replica_id), &updates[i]);
        if (s->frame.out.size > split || i == n - 1) {
            code = disk_log__commit(s, st);
            frame_begin(&s->frame);
        }
    }
    return code;
}

enum thole_code disk_log__write(struct log_store *base, const struct store_update *updates,
                                size_t n, struct thole_status *st)
{
    struct disk_log *s = (struct disk_log *)base;

    pthread_mutex_lock(&s->write_lock);
    enum thole_code code = write_locked(s, updates, n, st);
    if (s->target_capacity > TARGETS_KEEP) {
        free(s->targets);
        s->targets = NULL;
        s->target_capacity = 0;
    }
    s->target_count = 0;
    pthread_mutex_unlock(&s->write_lock);
    return code;
}
