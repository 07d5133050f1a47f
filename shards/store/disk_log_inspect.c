/* A log that is only looked at: the scan and the effect of its records are those of recovery, but
 * damage is reported, and nothing is written. */
#include "shards/store/disk_log.h"
#include "shards/store/inspect.h"

struct look {
    struct disk_log *s;
    const struct log_visitor *v;
};

static void tell(const struct look *l, struct log_damage d)
{
    if (l->v->damage != NULL) {
        l->v->damage(l->v->ctx, &d);
    }
}

static void on_file(void *ctx, uint32_t file, const char *what)
{
    tell(ctx, (struct log_damage){.kind = LOG_DAMAGE_FILE, .file = file, .what = what});
}

static void on_lost(void *ctx, const struct segment *g, uint32_t at, const struct segment *in)
{
    if (in != NULL) {
        tell(ctx, (struct log_damage){.kind = LOG_DAMAGE_FILE,
                                      .file = in->file,
                                      .what = "its header is damaged, and writes follow in it"});
        return;
    }
    tell(ctx, (struct log_damage){.kind = LOG_DAMAGE_FRAMES,
                                  .file = g->file,
                                  .offset = at,
                                  .what = "the header or directory of a write is damaged"});
}

static void on_torn(void *ctx, const struct segment *g, uint32_t at)
{
    tell(ctx, (struct log_damage){.kind = LOG_DAMAGE_TORN,
                                  .file = g->file,
                                  .offset = at,
                                  .what = "the last write is incomplete"});
}

static enum thole_code on_frame(void *ctx, const struct segment *g, uint32_t at, struct frame f,
                                struct thole_status *st)
{
    const struct look *l = ctx;
    struct log_scan_record r;

    (void)st;
    while (log_scan_next(&f, &r)) {
        const struct log_where where = {g->file, at + r.offset, f.sequence};
        struct log_place place = {g->number, at + r.offset, r.entry.bytes};
        struct slice whole = slice_of(f.data + r.offset, r.entry.bytes);
        const char *damage = disk_log__apply(l->s, &r.entry, whole, place);

        if (damage != NULL) {
            tell(l, (struct log_damage){.kind = LOG_DAMAGE_RECORD,
                                        .file = g->file,
                                        .offset = at + r.offset,
                                        .replica_id = r.entry.replica_id,
                                        .what = damage});
        }
        if (damage != NULL && r.entry.replica_id != 0) {
            disk_log__note_damage(l->s, r.entry.replica_id, damage);
        }
        if (l->v->record != NULL) {
            l->v->record(l->v->ctx, &where, &r);
        }
    }
    return THOLE_OK;
}

/* A segment that is missing before this one was reported; the count goes on behind it. */
static enum thole_code look_at_segments(struct look *l, struct thole_status *st)
{
    struct segments *files = &l->s->files;
    struct log_scan c = {
        .files = files, .ctx = l, .frame = on_frame, .lost = on_lost, .torn = on_torn};
    enum thole_code code = THOLE_OK;

    for (size_t i = 0; i < files->live.count && code == THOLE_OK; i++) {
        const struct segment *g = files->live.items[files->live.head + i];

        files->sequence = g->first_sequence != 0 ? g->first_sequence : files->sequence;
        code = log_scan_segment(&c, i, st);
    }
    log_scan_deinit(&c);
    return code;
}

static void look_at_replicas(struct look *l)
{
    struct log_replica *r;
    const char *what;

    for (size_t it = 0; (r = disk_log__next_damaged(l->s, &it, &what)) != NULL;) {
        tell(l, (struct log_damage){.kind = LOG_DAMAGE_REPLICA, .replica_id = r->id, .what = what});
        r->state = LOG_DAMAGED;
    }
}

enum thole_code log_inspect(const char *path, const struct log_visitor *v, struct log_store **ret,
                            struct thole_status *st)
{
    struct disk_log *s = disk_log__new();
    struct look l = {s, v};
    enum thole_code code = segments_open_read_only(&s->files, &s->lock, path, on_file, &l, st);

    s->poisoned = true; /* refuses writes */
    if (code == THOLE_OK) {
        code = look_at_segments(&l, st);
    }
    if (code != THOLE_OK) {
        s->base.ops->close(&s->base);
        return code;
    }
    look_at_replicas(&l);
    *ret = &s->base;
    return THOLE_OK;
}
