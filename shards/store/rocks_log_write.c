/* One batch: check all updates, encode them into one WriteBatch while moving the indexes on, sync,
 * then publish to readers and to the compaction filter.
 *
 * Every update's last record carries the replica's hard state under a new stamp: usually that is
 * the run itself, so that a batch costs one record per replica. Whenever the record that carried
 * the newest hard state is rewritten or dropped, the update that does so writes a newer one. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "shards/store/rocks.h"
#include "shards/store/rocks_log.h"

/* A batch buffer that grew beyond this is not kept. */
#define BATCH_KEEP_BYTES ((size_t)16 * MIB)

struct staging {
    struct rocks_log *s;
    const struct store_update *updates;
    size_t current; /* the update that is being encoded */
};

static void batch_put(struct rocks_log *s, const struct store_key *k)
{
    rocksdb_writebatch_put(s->batch, (const char *)k->bytes, k->size, (const char *)s->record.data,
                           s->record.size);
}

static void batch_delete(struct rocks_log *s, const struct store_key *k)
{
    rocksdb_writebatch_delete(s->batch, (const char *)k->bytes, k->size);
}

/* ---- Check ------------------------------------------------------------------------------------ */

static enum thole_code check(struct rocks_log *s, const struct store_update *updates, size_t n,
                             struct thole_status *st)
{
    if (n > STORE_BATCH_UPDATES_MAX) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "%zu updates in a batch", n);
    }
    if (s->target_capacity < n) {
        s->target_capacity = n;
        s->targets = xrealloc(s->targets, n * sizeof(struct log_replica *));
    }
    s->batch_number++;
    for (size_t i = 0; i < n; i++) {
        struct log_replica *r = rocks_log__replica(s, updates[i].replica_id);

        s->targets[i] = r;
        if (r->plan_batch != s->batch_number) {
            r->plan_batch = s->batch_number;
            r->plan = (struct log_plan){r->state, r->index.start, r->index.last};
        }
        enum thole_code code = store__plan(&r->plan, &updates[i], st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}

/* ---- Truncation ------------------------------------------------------------------------------- */

/* An entry that an earlier update of this batch appended; the latest one that did counts. */
static const struct raft_entry *staged_entry(const struct staging *g, uint64_t id, uint64_t index)
{
    for (size_t i = g->current; i-- > 0;) {
        const struct store_update *u = &g->updates[i];

        if (u->replica_id == id && u->entry_count > 0 && index >= u->entries[0]->index &&
            index - u->entries[0]->index < u->entry_count) {
            return u->entries[index - u->entries[0]->index];
        }
    }
    return NULL;
}

/* Write the head of `run`, up to but without `from`, again. The run is in the database, or was put
 * into this batch by an earlier update, or (cut twice in one batch) both. */
static enum thole_code rewrite_head(struct staging *g, struct log_replica *r,
                                    const struct store_run *run, uint64_t from, size_t *ret_bytes,
                                    bool *ret_config, struct thole_status *st)
{
    struct rocks_log *s = g->s;
    struct store_key k = store_key_run(r->id, r->epoch, run->first);
    struct store_run_reader reader = {0};
    struct store_run_writer w;
    struct store_entry e;
    char *error = NULL;
    size_t size = 0;
    bool on_disk = false;
    char *raw = rocksdb_get(s->db, s->read, (const char *)k.bytes, k.size, &size, &error);

    if (error != NULL) {
        return rocks_fail(st, "truncate", error);
    }
    if (raw != NULL) {
        on_disk = store_run_open(&reader, store_key_slice(&k), slice_of(raw, size));
    }
    store_run_begin(&w, &s->record);
    for (uint64_t i = run->first; i < from; i++) {
        const struct raft_entry *staged = staged_entry(g, r->id, i);

        on_disk = on_disk && store_run_next(&reader, &e);
        if (staged != NULL) {
            e = (struct store_entry){staged->kind,    staged->index,    staged->term,
                                     staged->session, staged->sequence, staged->payload.bytes};
        } else if (!on_disk || e.index != i || e.term < w.term) {
            rocksdb_free(raw);
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "replica %" PRIu64 ": run %" PRIu64 " is damaged", r->id, run->first);
        }
        store_run_add(&w, &e);
    }
    rocksdb_free(raw);
    store_run_end(&w, store_key_slice(&k), NULL);
    batch_put(s, &k);
    *ret_bytes = k.size + s->record.size;
    *ret_config = (w.flags & STORE_FLAG_CONFIG) != 0;
    return THOLE_OK;
}

/* Drop the log's tail from `from` on: whole runs are deleted, one that is cut is rewritten. */
static enum thole_code truncate_tail(struct staging *g, struct log_replica *r, uint64_t from,
                                     struct thole_status *st)
{
    struct rocks_log *s = g->s;
    struct log_index *x = &r->index;
    size_t cut_bytes = 0;
    bool cut_config = false;

    if (from > x->last) {
        return THOLE_OK;
    }
    for (size_t i = x->run_end; i > x->run_head; i--) {
        const struct store_run *run = &x->runs[i - 1];

        if (run->first + run->count <= from) {
            break;
        }
        if (run->first < from) {
            enum thole_code code = rewrite_head(g, r, run, from, &cut_bytes, &cut_config, st);
            if (code != THOLE_OK) {
                return code;
            }
            break;
        }
        struct store_key k = store_key_run(r->id, r->epoch, run->first);
        batch_delete(s, &k);
    }
    pthread_mutex_lock(&s->lock);
    log_index_truncate(x, from, cut_bytes, cut_config);
    pthread_mutex_unlock(&s->lock);
    return THOLE_OK;
}

/* ---- Encoding one update ---------------------------------------------------------------------- */

static void end_run(struct rocks_log *s, struct log_replica *r, struct store_run_writer *w,
                    uint64_t first, bool final)
{
    struct store_key k = store_key_run(r->id, r->epoch, first);

    store_run_end(w, store_key_slice(&k), final ? &r->hard : NULL);
    batch_put(s, &k);
    if (s->staged_count == s->staged_capacity) {
        s->staged_capacity = s->staged_capacity * 2 + 8;
        s->staged = xrealloc(s->staged, s->staged_capacity * sizeof *s->staged);
    }
    s->staged[s->staged_count++] = (struct staged_run){
        .count = w->count,
        .config = (w->flags & STORE_FLAG_CONFIG) != 0,
        .bytes = k.size + s->record.size,
    };
}

/* Runs are split by bytes only. */
static void append(struct rocks_log *s, struct log_replica *r, const struct store_update *u)
{
    uint64_t first = u->entries[0]->index;
    struct store_run_writer w;

    s->staged_count = 0;
    store_run_begin(&w, &s->record);
    for (size_t i = 0; i < u->entry_count; i++) {
        const struct raft_entry *e = u->entries[i];

        if (w.count > 0 &&
            s->record.size + store_run_entry_bytes_max(e->payload.bytes.size) > LIMIT_RUN_BYTES) {
            end_run(s, r, &w, first, false);
            first = e->index;
            store_run_begin(&w, &s->record);
        }
        store_run_add(&w, &(struct store_entry){e->kind, e->index, e->term, e->session, e->sequence,
                                                e->payload.bytes});
    }
    end_run(s, r, &w, first, true);
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < u->entry_count; i++) {
        log_index_add_term(&r->index, u->entries[i]->index, u->entries[i]->term);
    }
    for (size_t i = 0; i < s->staged_count; i++) {
        log_index_add_run(&r->index, s->staged[i].count, s->staged[i].config, s->staged[i].bytes);
    }
    pthread_mutex_unlock(&s->lock);
}

static void stage_identity(struct rocks_log *s, struct log_replica *r,
                           const struct store_identity *id)
{
    struct store_key k = store_key(r->id, STORE_KIND_IDENTITY);

    store_encode_identity(&s->record, store_key_slice(&k),
                          &(struct store_identity_record){
                              .tombstone = id == NULL,
                              .shard_id = id != NULL ? id->shard_id : r->shard_id,
                              .incarnation_created = id != NULL ? id->incarnation_created : 0,
                              .descriptor = id != NULL ? id->descriptor : (struct slice){0},
                          });
    batch_put(s, &k);
}

static void stage_start(struct rocks_log *s, struct log_replica *r, const struct store_update *u)
{
    struct store_key k = store_key(r->id, STORE_KIND_START);

    r->epoch += u->start_reset;
    r->machine_generation = u->machine_generation;
    buf_unref(r->start_config);
    r->start_config = buf_copy(u->start_config.data, u->start_config.size);
    store_encode_start(&s->record, store_key_slice(&k),
                       &(struct store_start){
                           .hard = r->hard,
                           .epoch = r->epoch,
                           .index = u->start_index,
                           .term = u->start_term,
                           .machine_generation = u->machine_generation,
                           .config = u->start_config,
                       });
    batch_put(s, &k);
    pthread_mutex_lock(&s->lock);
    if (u->start_reset) {
        log_index_reset(&r->index, u->start_index, u->start_term);
    } else {
        log_index_compact(&r->index, u->start_index, u->start_term);
    }
    pthread_mutex_unlock(&s->lock);
}

/* The end of a replica: its small records go at once, its runs when the filter meets them. */
static void stage_end(struct rocks_log *s, struct log_replica *r, const struct store_update *u)
{
    static const enum store_kind kinds[] = {STORE_KIND_START, STORE_KIND_HARD, STORE_KIND_DAMAGED};
    struct store_key k = store_key(r->id, STORE_KIND_IDENTITY);

    if (u->forget) {
        batch_delete(s, &k);
    } else {
        stage_identity(s, r, NULL);
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
            k = store_key(r->id, kinds[i]);
            batch_delete(s, &k);
        }
    }
    pthread_mutex_lock(&s->lock);
    r->state = u->forget ? LOG_GONE : LOG_TOMBSTONE;
    log_index_deinit(&r->index);
    pthread_mutex_unlock(&s->lock);
}

static enum thole_code stage(struct staging *g, struct log_replica *r, struct thole_status *st)
{
    const struct store_update *u = &g->updates[g->current];
    struct rocks_log *s = g->s;
    enum thole_code code = THOLE_OK;

    if (u->remove || u->forget) {
        stage_end(s, r, u);
        return THOLE_OK;
    }
    if (u->create != NULL) {
        stage_identity(s, r, u->create);
        pthread_mutex_lock(&s->lock);
        r->state = LOG_LIVE;
        r->shard_id = u->create->shard_id;
        r->descriptor = buf_copy(u->create->descriptor.data, u->create->descriptor.size);
        pthread_mutex_unlock(&s->lock);
    }
    if (u->has_hard) {
        r->hard.hard = u->hard;
    }
    r->hard.stamp++;
    if (u->has_start) {
        stage_start(s, r, u);
    }
    if (u->entry_count > 0) {
        code = truncate_tail(g, r, u->entries[0]->index, st);
        if (code == THOLE_OK) {
            append(s, r, u);
        }
    } else if (u->has_hard && !u->has_start) {
        struct store_key k = store_key(r->id, STORE_KIND_HARD);

        store_encode_hard(&s->record, store_key_slice(&k), &r->hard);
        batch_put(s, &k);
    }
    return code;
}

/* ---- The write -------------------------------------------------------------------------------- */

static enum thole_code fail_poisoned(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK,
                      "an earlier write to the log failed; the host must be restarted");
}

/* RocksDB's own state after a failed write or sync is not to be trusted, and what reached the disk
 * is unknown: nothing is ever written after it. */
static enum thole_code poison(struct rocks_log *s, enum thole_code code)
{
    pthread_mutex_lock(&s->lock);
    s->poisoned = true;
    s->writing = false;
    pthread_cond_broadcast(&s->written);
    pthread_mutex_unlock(&s->lock);
    return code;
}

enum thole_code rocks_log__commit(struct rocks_log *s, struct thole_status *st)
{
    char *error = NULL;

    if (s->poisoned) {
        return fail_poisoned(st);
    }
    rocksdb_write(s->db, s->sync, s->batch, &error);
    if (error != NULL) {
        rocks_fail(st, "log write", error);
        if (st != NULL) {
            st->code = THOLE_UNAVAILABLE;
            st->reason = THOLE_REASON_DISK;
        }
        return poison(s, THOLE_UNAVAILABLE);
    }
    return THOLE_OK;
}

static void publish(struct rocks_log *s, const struct store_update *updates, size_t n)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < n; i++) {
        struct log_replica *r = s->targets[i];

        r->visible = (struct log_visible){
            .start = r->index.start,
            .last = r->index.last,
            .epoch = r->epoch,
            .version = r->visible.version + 1,
        };
    }
    s->writing = false;
    pthread_cond_broadcast(&s->written);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < n; i++) {
        if (updates[i].remove || updates[i].forget) {
            log_filter_set_gone(s->filter, updates[i].replica_id);
        } else if (updates[i].has_start) {
            struct log_replica *r = s->targets[i];
            log_filter_set_start(s->filter, r->id, r->epoch, r->index.start);
        }
    }
}

static enum thole_code write_locked(struct rocks_log *s, const struct store_update *updates,
                                    size_t n, struct thole_status *st)
{
    struct staging g = {.s = s, .updates = updates};

    if (s->poisoned) {
        return fail_poisoned(st);
    }
    enum thole_code code = check(s, updates, n, st);
    if (code != THOLE_OK || n == 0) {
        return code;
    }
    rocksdb_writebatch_clear(s->batch);
    pthread_mutex_lock(&s->lock);
    s->writing = true;
    pthread_mutex_unlock(&s->lock);
    for (; g.current < n; g.current++) {
        code = stage(&g, s->targets[g.current], st);
        if (code != THOLE_OK) { /* a run that was to be cut cannot be read */
            if (st != NULL) {
                st->code = THOLE_UNAVAILABLE;
                st->reason = THOLE_REASON_DISK;
            }
            return poison(s, THOLE_UNAVAILABLE);
        }
    }
    code = rocks_log__commit(s, st);
    if (code != THOLE_OK) {
        return code;
    }
    publish(s, updates, n);
    if (s->record.capacity > BATCH_KEEP_BYTES) {
        bytes_deinit(&s->record);
    }
    return THOLE_OK;
}

enum thole_code rocks_log__write(struct log_store *base, const struct store_update *updates,
                                 size_t n, struct thole_status *st)
{
    struct rocks_log *s = (struct rocks_log *)base;

    pthread_mutex_lock(&s->write_lock);
    enum thole_code code = write_locked(s, updates, n, st);
    pthread_mutex_unlock(&s->write_lock);
    return code;
}
