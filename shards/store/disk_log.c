#include "shards/store/disk_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"

struct log_replica *disk_log__replica(struct disk_log *s, uint64_t id)
{
    struct log_replica *r = map_get(&s->replicas, id);

    if (r == NULL) {
        r = xcalloc(1, sizeof *r);
        r->id = id;
        pthread_mutex_lock(&s->lock);
        map_put(&s->replicas, id, r);
        pthread_mutex_unlock(&s->lock);
    }
    return r;
}

static void log_close(struct log_store *base)
{
    struct disk_log *s = (struct disk_log *)base;
    struct log_replica *r;
    size_t it = 0;

    disk_log__attest(s, true);
    while ((r = map_next(&s->replicas, &it, NULL)) != NULL) {
        log_index_deinit(&r->index, &s->files);
        free(r);
    }
    map_deinit(&s->replicas);
    while (s->host_records != NULL) {
        struct host_record *h = s->host_records;

        s->host_records = h->next;
        buf_unref(h->value);
        free(h);
    }
    segments_close(&s->files);
    frame_writer_deinit(&s->frame);
    bytes_deinit(&s->clean_frame);
    free(s->targets);
    free(s->walk);
    free(s->report_runs);
    bytes_deinit(&s->report_identity);
    bytes_deinit(&s->report_start);
    map_deinit(&s->damage);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->write_lock);
    free(s);
}

static void log_attest(struct log_store *base)
{
    struct disk_log *s = (struct disk_log *)base;

    pthread_mutex_lock(&s->write_lock);
    disk_log__attest(s, false);
    pthread_mutex_unlock(&s->write_lock);
}

/* ---- The walk over all replicas -------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const struct log_replica *x = *(struct log_replica *const *)a;
    const struct log_replica *y = *(struct log_replica *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

/* The record at `at`; empty if there is none. False: it cannot be read. */
static bool load(struct disk_log *s, struct log_place at, struct bytes *out)
{
    struct thole_status st;

    bytes_clear(out);
    if (at.segment == 0) {
        return true;
    }
    if (segment_read(segments_get(&s->files, at.segment), at.offset, bytes_extend(out, at.bytes),
                     at.bytes, &st) != THOLE_OK) {
        LOG_ERROR(STORE, "log record unreadable error=\"%s\"", st.message);
        return false;
    }
    return true;
}

/* What memory does not keep: the descriptor of an identity record, or the configuration and the
 * stamp of a START record. Empty if there is no record. False: the record cannot be read. `*ret`
 * points into `record`. */
static bool load_field(struct disk_log *s, uint64_t replica_id, enum store_kind kind,
                       struct log_place at, struct bytes *record, struct slice *ret,
                       struct raft_stamp *ret_stamp)
{
    struct store_key key = store_key(replica_id, kind);
    struct store_identity_record identity = {0};
    struct store_start start = {0};

    ASSERT(kind == STORE_KIND_IDENTITY || kind == STORE_KIND_START);
    if (!load(s, at, record)) {
        return false;
    }
    struct slice k = store_key_slice(&key), value = bytes_slice(record);
    if (at.segment != 0 &&
        !(kind == STORE_KIND_IDENTITY ? store_decode_identity(k, value, &identity)
                                      : store_decode_start(k, value, &start))) {
        return false;
    }
    *ret = kind == STORE_KIND_IDENTITY ? identity.descriptor : start.config;
    *ret_stamp = start.stamp;
    return true;
}

static void report_fill(struct disk_log *s, const struct log_replica *r)
{
    struct store_replica *p = &s->report;
    const struct log_index *x = &r->index;

    *p = (struct store_replica){
        .replica_id = r->id,
        .shard_id = r->shard_id,
        .removed = r->state == LOG_TOMBSTONE,
    };
    if (p->removed) {
        return;
    }
    if (!load_field(s, r->id, STORE_KIND_IDENTITY, r->identity, &s->report_identity, &p->descriptor,
                    &p->start_stamp) ||
        !load_field(s, r->id, STORE_KIND_START, r->start, &s->report_start, &p->start_config,
                    &p->start_stamp) ||
        r->state == LOG_DAMAGED) {
        p->hard.term = UINT64_MAX;
        return;
    }
    s->report_runs = xrealloc(s->report_runs, (x->end - x->head + 1) * sizeof *s->report_runs);
    p->run_count = log_index_terms(x, s->report_runs);
    p->runs = s->report_runs;
    p->hard = r->hard.hard;
    p->start_index = x->start;
    p->start_term = x->start_term;
    p->last_index = x->last;
    p->machine_generation = r->machine_generation;
    p->bytes = log_index_bytes(x);
}

static const struct store_replica *log_next(struct log_store *base, size_t *it)
{
    struct disk_log *s = (struct disk_log *)base;
    struct log_replica *r;

    ASSERT(*it == 0 || *it <= s->walk_count);
    if (*it == 0) {
        size_t walk = 0;

        s->walk = xrealloc(s->walk, (s->replicas.count + 1) * sizeof(struct log_replica *));
        s->walk_count = 0;
        while ((r = map_next(&s->replicas, &walk, NULL)) != NULL) {
            s->walk[s->walk_count++] = r;
        }
        qsort(s->walk, s->walk_count, sizeof(struct log_replica *), by_id);
    }
    while (*it < s->walk_count) {
        r = s->walk[(*it)++];
        if (r->state != LOG_ABSENT && r->state != LOG_GONE) {
            report_fill(s, r);
            return &s->report;
        }
    }
    return NULL;
}

/* ---- Host records ---------------------------------------------------------------------------- */

static enum thole_code check_name(const char *name, struct thole_status *st)
{
    return strlen(name) <= STORE_HOST_NAME_BYTES_MAX
               ? THOLE_OK
               : THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE, "host record name");
}

static enum thole_code log_put_host(struct log_store *base, const char *name, struct slice value,
                                    struct thole_status *st)
{
    struct disk_log *s = (struct disk_log *)base;
    enum thole_code code = check_name(name, st);

    if (code != THOLE_OK) {
        return code;
    }
    struct store_key key = store_key_host(name);
    uint8_t size = (uint8_t)strlen(name);
    pthread_mutex_lock(&s->write_lock);
    if (s->poisoned) {
        code = disk_log__fail_poisoned(st);
    } else {
        frame_begin(&s->frame);
        struct bytes *out = frame_record(&s->frame);
        bytes_append(out, &size, 1);
        bytes_append(out, name, size);
        store_encode_host(out, store_key_slice(&key), value);
        frame_record_end(&s->frame, (struct frame_entry){.kind = STORE_KIND_HOST});
        code = disk_log__commit(s, st);
    }
    pthread_mutex_unlock(&s->write_lock);
    return code;
}

static enum thole_code log_get_host(struct log_store *base, const char *name, struct buf **ret,
                                    struct thole_status *st)
{
    struct disk_log *s = (struct disk_log *)base;
    enum thole_code code = check_name(name, st);

    if (code != THOLE_OK) {
        return code;
    }
    code = THOLE_NOT_FOUND;
    pthread_mutex_lock(&s->lock);
    for (const struct host_record *h = s->host_records; h != NULL; h = h->next) {
        if (strcmp(h->name, name) == 0) {
            *ret = buf_ref(h->value);
            code = THOLE_OK;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return code == THOLE_OK
               ? THOLE_OK
               : THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no host record %s", name);
}

/* ---- Open ------------------------------------------------------------------------------------ */

static const struct log_store_ops disk_log_ops = {
    .close = log_close,
    .write = disk_log__write,
    .attest = log_attest,
    .read = disk_log__read,
    .next = log_next,
    .config_entries = disk_log__config_entries,
    .put_host = log_put_host,
    .get_host = log_get_host,
};

struct disk_log *disk_log__new(void)
{
    struct disk_log *s = xcalloc(1, sizeof *s);

    s->base.ops = &disk_log_ops;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->write_lock, NULL);
    return s;
}

enum thole_code log_store_open(const struct log_store_options *o, struct log_store **ret,
                               struct thole_status *st)
{
    struct disk_log *s = disk_log__new();

    enum thole_code code = segments_open(&s->files, &s->lock, o->path, o->segment_bytes, st);
    if (code == THOLE_OK) {
        code = disk_log__recover(s, st);
    }
    if (code != THOLE_OK) {
        s->poisoned = true;
        log_close(&s->base);
        return code;
    }
    *ret = &s->base;
    return THOLE_OK;
}
