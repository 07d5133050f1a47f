/* The effect of one record on memory. Records come in the order in which they were synced: from a
 * write, or from the scan at open. At open the oldest segments may be gone. Then the copy of an
 * early record comes late: a START after the runs behind it, an identity after everything else. So
 * nothing here depends on the records before it, except that the newer one wins. */
#include <bsd/string.h>
#include <stdlib.h>
#include <string.h>

#include "shards/store/disk_log.h"

static void set_place(struct disk_log *s, struct log_place *at, struct log_place to)
{
    segments_drop(&s->files, at);
    *at = to;
    segments_add_live(&s->files, to);
}

/* The hard state with the highest stamp counts. An update that drops the record which carries it
 * writes a newer one. So a separate HARD record is dead once a newer hard state is known. */
static void newest_hard(struct disk_log *s, struct log_replica *r, const struct store_hard *h)
{
    if (h->stamp >= r->hard.stamp) {
        r->hard = *h;
        segments_drop(&s->files, &r->hard_or_mark);
    }
}

void disk_log__drop_log(struct disk_log *s, struct log_replica *r)
{
    segments_drop(&s->files, &r->start);
    segments_drop(&s->files, &r->hard_or_mark);
    log_index_deinit(&r->index, &s->files);
}

static const char *apply_identity(struct disk_log *s, struct log_replica *r, struct slice key,
                                  struct slice record, struct log_place at)
{
    struct store_identity_record id;

    if (!store_decode_identity(key, record, &id)) {
        return "identity";
    }
    if (r->state == LOG_GONE) {
        return NULL;
    }
    set_place(s, &r->identity, at);
    r->shard_id = id.shard_id;
    if (id.tombstone) {
        r->state = LOG_TOMBSTONE;
        disk_log__drop_log(s, r);
        return NULL;
    }
    if (r->state == LOG_ABSENT) {
        r->state = LOG_LIVE;
    }
    return NULL;
}

static const char *apply_start(struct disk_log *s, struct log_replica *r, struct slice key,
                               struct slice record, struct log_place at)
{
    struct store_start start;

    if (!store_decode_start(key, record, &start)) {
        return "log start";
    }
    if (start.epoch < r->epoch) {
        return NULL;
    }
    newest_hard(s, r, &start.hard);
    if (start.epoch > r->epoch) {
        r->epoch = start.epoch;
        log_index_reset(&r->index, &s->files, start.index, start.term);
    } else {
        log_index_compact(&r->index, &s->files, start.index, start.term);
    }
    r->machine_generation = start.machine_generation;
    set_place(s, &r->start, at);
    return NULL;
}

static const char *apply_run(struct disk_log *s, struct log_replica *r, const struct frame_entry *e,
                             struct slice key, struct slice record, struct log_place at)
{
    struct store_run_reader reader;
    struct store_entry first;

    if (!store_run_open(&reader, key, record)) {
        return "run";
    }
    struct store_run run = {
        .first = e->first,
        .place = at,
        .count = reader.count & INT32_MAX,
        .config = (reader.flags & STORE_FLAG_CONFIG) != 0,
    };
    if (!store_run_next(&reader, &first) || reader.count > INT32_MAX) {
        return "run";
    }
    run.term = first.term;
    if (e->epoch < r->epoch) {
        return NULL;
    }
    if (e->epoch > r->epoch) {
        r->epoch = e->epoch;
        log_index_reset(&r->index, &s->files, 0, 0);
    }
    if ((reader.flags & STORE_FLAG_HARD) != 0) {
        newest_hard(s, r, &reader.hard);
    }
    if ((e->flags & FRAME_COPY) != 0) {
        log_index_move(&r->index, &s->files, run);
    } else {
        log_index_append(&r->index, &s->files, run);
    }
    return NULL;
}

/* ---- Host records ---------------------------------------------------------------------------- */

/* [name size 1][name][record] */
bool disk_log__split_host(struct slice blob, struct store_key *ret_key, char *ret_name,
                          struct slice *ret_record)
{
    struct slice size, name;

    if (!slice_take(&blob, 1, &size) || size.data[0] > STORE_HOST_NAME_BYTES_MAX ||
        !slice_take(&blob, size.data[0], &name) || memchr(name.data, 0, name.size) != NULL) {
        return false;
    }
    memcpy(ret_name, name.data, name.size);
    ret_name[name.size] = '\0';
    *ret_key = store_key_host(ret_name);
    *ret_record = blob;
    return true;
}

static struct host_record *find_host_record(const struct disk_log *s, const char *name)
{
    struct host_record *h = s->host_records;

    while (h != NULL && strcmp(h->name, name) != 0) {
        h = h->next;
    }
    return h;
}

static const char *apply_host(struct disk_log *s, struct slice blob, struct log_place at)
{
    char name[STORE_HOST_NAME_BYTES_MAX + 1];
    struct slice record, value;
    struct store_key key;

    if (!disk_log__split_host(blob, &key, name, &record) ||
        !store_decode_host(store_key_slice(&key), record, &value)) {
        return "host record";
    }
    struct host_record *h = find_host_record(s, name);
    if (h == NULL) {
        h = xcalloc(1, sizeof *h);
        strlcpy(h->name, name, sizeof h->name);
        h->next = s->host_records;
        s->host_records = h;
    }
    buf_unref(h->value);
    h->value = buf_copy(value.data, value.size);
    set_place(s, &h->place, at);
    return NULL;
}

/* ---- Any record ------------------------------------------------------------------------------ */

static const char *apply_damaged(struct disk_log *s, struct log_replica *r, struct log_place at)
{
    disk_log__drop_log(s, r);
    r->state = LOG_DAMAGED;
    set_place(s, &r->hard_or_mark, at);
    return NULL;
}

static const char *apply_hard(struct disk_log *s, struct log_replica *r, struct slice key,
                              struct slice record, struct log_place at)
{
    struct store_hard h;

    if (!store_decode_hard(key, record, &h)) {
        return "hard state";
    }
    if (h.stamp >= r->hard.stamp) {
        newest_hard(s, r, &h);
        set_place(s, &r->hard_or_mark, at);
    }
    return NULL;
}

const char *disk_log__apply(struct disk_log *s, const struct frame_entry *e, struct slice record,
                            struct log_place at)
{
    struct store_key key = frame_key(e);
    struct slice k = store_key_slice(&key);
    bool is_deletion = (e->flags & FRAME_DELETE) != 0;

    if (is_deletion ? e->kind != STORE_KIND_IDENTITY : e->bytes == 0) {
        return "directory entry";
    }
    if (e->kind == STORE_KIND_HOST) {
        return apply_host(s, record, at);
    }
    struct log_replica *r = disk_log__replica(s, e->replica_id);
    if (e->kind == STORE_KIND_IDENTITY) {
        if (!is_deletion) {
            return apply_identity(s, r, k, record, at);
        }
        segments_drop(&s->files, &r->identity);
        disk_log__drop_log(s, r);
        r->state = LOG_GONE;
        return NULL;
    }
    if (r->state != LOG_ABSENT && r->state != LOG_LIVE && e->kind != STORE_KIND_DAMAGED) {
        return NULL; /* a leftover of a removed or damaged log */
    }
    switch (e->kind) {
    case STORE_KIND_START:
        return apply_start(s, r, k, record, at);
    case STORE_KIND_HARD:
        return apply_hard(s, r, k, record, at);
    case STORE_KIND_RUN:
        return apply_run(s, r, e, k, record, at);
    case STORE_KIND_DAMAGED:
        return r->state == LOG_TOMBSTONE || r->state == LOG_GONE ? NULL : apply_damaged(s, r, at);
    default:
        return "unknown record";
    }
}

static bool same_place(struct log_place a, struct log_place b)
{
    return a.segment == b.segment && a.offset == b.offset;
}

bool disk_log__is_live(const struct disk_log *s, const struct frame_entry *e, struct slice record,
                       struct log_place at)
{
    if (e->kind == STORE_KIND_HOST) {
        char name[STORE_HOST_NAME_BYTES_MAX + 1];
        struct slice value;
        struct store_key key;
        const struct host_record *h =
            disk_log__split_host(record, &key, name, &value) ? find_host_record(s, name) : NULL;

        return h != NULL && same_place(h->place, at);
    }
    const struct log_replica *r = map_get(&s->replicas, e->replica_id);
    if (r == NULL) {
        return false;
    }
    if (e->kind == STORE_KIND_RUN) {
        size_t i = log_index_find(&r->index, e->first);

        return i < r->index.end && same_place(r->index.runs[i].place, at);
    }
    return same_place(e->kind == STORE_KIND_IDENTITY ? r->identity
                      : e->kind == STORE_KIND_START  ? r->start
                                                     : r->hard_or_mark,
                      at);
}
