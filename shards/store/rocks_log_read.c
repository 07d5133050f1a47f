/* Reading entries beside the writer.
 *
 * What a reader may see is bounded by `visible`; the index is only a hint where to begin, because
 * it runs ahead while a batch is being synced. A reader takes both under the lock, then reads from
 * RocksDB without it, in one consistent view (a get or an iterator), and checks that the entries
 * follow each other from the first one wanted. If they do not, the log was cut or reset meanwhile:
 * it waits for the batch in flight and looks again. If nothing changed, the log is damaged. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/assert.h"
#include "shards/store/rocks.h"
#include "shards/store/rocks_log.h"

struct reading {
    struct rocks_log *s;
    uint64_t replica_id;
    uint64_t next, last; /* the next index wanted, the last one */
    size_t max_bytes, max_entries;
    struct raft_entry **ret;
    size_t count, bytes;
    bool full;
    bool damaged; /* a record's checksum or contents are wrong */
    /* Taken under the lock. */
    uint32_t epoch;
    uint64_t version;
    uint64_t run_first; /* hint: the run that holds `next` begins here; 0: not known */
    bool run_holds_all;
};

/* ---- One run ---------------------------------------------------------------------------------- */

/* How many entries of the run from `r` on are wanted, and the stretch of bytes that holds their
 * payloads, so that a few entries do not keep a whole run in memory. */
static size_t measure(struct reading *g, struct store_run_reader r, const uint8_t **ret_lo,
                      const uint8_t **ret_hi)
{
    struct store_entry e;
    size_t n = 0;

    *ret_lo = *ret_hi = r.rest.data;
    while (g->count + n < g->max_entries && g->next + n <= g->last && store_run_next(&r, &e)) {
        size_t size = e.payload.size + RAFT_ENTRY_OVERHEAD_BYTES;

        if (g->count + n > 0 && g->bytes + size > g->max_bytes) {
            g->full = true;
            break;
        }
        g->bytes += size;
        if (n == 0) {
            *ret_lo = e.payload.data;
        }
        *ret_hi = e.payload.data + e.payload.size;
        n++;
    }
    g->full = g->full || g->count + n >= g->max_entries || g->next + n > g->last;
    return n;
}

/* Take what is wanted from one run. False if it does not hold `next`. */
static bool take_run(struct reading *g, struct slice key, struct slice value)
{
    struct store_run_reader r;
    struct store_entry e;
    const uint8_t *lo, *hi;

    if (!store_run_open(&r, key, value)) {
        g->damaged = true;
        return false;
    }
    if (r.index > g->next || r.index + r.count <= g->next) {
        return false;
    }
    while (r.index < g->next) {
        if (!store_run_next(&r, &e)) {
            g->damaged = true;
            return false;
        }
    }
    size_t n = measure(g, r, &lo, &hi);
    if (n == 0) {
        g->damaged = !g->full;
        return g->full;
    }
    struct buf *payloads = hi > lo ? buf_copy(lo, (size_t)(hi - lo)) : NULL;
    for (size_t i = 0; i < n && store_run_next(&r, &e); i++) {
        struct bufslice payload = {0};

        if (e.payload.size > 0) {
            payload.owner = buf_ref(payloads);
            payload.bytes = slice_of(payloads->data + (e.payload.data - lo), e.payload.size);
        }
        struct raft_entry *entry =
            raft_entry_new((enum raft_entry_kind)e.kind, e.session, e.sequence, payload);
        entry->index = e.index;
        entry->term = e.term;
        g->ret[g->count++] = entry;
        g->next++;
    }
    buf_unref(payloads);
    return true;
}

/* ---- Getting at the runs ---------------------------------------------------------------------- */

static enum thole_code take_single(struct reading *g, struct thole_status *st)
{
    struct store_key k = store_key_run(g->replica_id, g->epoch, g->run_first);
    char *error = NULL;
    rocksdb_pinnableslice_t *p =
        rocksdb_get_pinned(g->s->db, g->s->read, (const char *)k.bytes, k.size, &error);

    if (error != NULL) {
        return rocks_fail(st, "log read", error);
    }
    if (p != NULL) {
        size_t size;
        const char *value = rocksdb_pinnableslice_value(p, &size);

        take_run(g, store_key_slice(&k), slice_of(value, size));
        rocksdb_pinnableslice_destroy(p);
    }
    return THOLE_OK;
}

static enum thole_code take_many(struct reading *g, struct thole_status *st)
{
    struct store_key upper = store_key_run(g->replica_id, g->epoch, g->last + 1);
    struct store_key from =
        store_key_run(g->replica_id, g->epoch, g->run_first != 0 ? g->run_first : g->next);
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    char *error = NULL;

    /* Without it the iterator walks into what follows this log. */
    rocksdb_readoptions_set_iterate_upper_bound(ro, (const char *)upper.bytes, upper.size);
    rocksdb_iterator_t *it = rocksdb_create_iterator(g->s->db, ro);
    if (g->run_first != 0) {
        rocks_iter_seek(it, store_key_slice(&from));
    } else {
        rocksdb_iter_seek_for_prev(it, (const char *)from.bytes, from.size);
    }
    while (!g->full && rocksdb_iter_valid(it)) {
        struct store_key_parts parts;
        struct slice key = rocks_iter_key(it);

        if (!store_key_parse(key, &parts) || parts.replica_id != g->replica_id ||
            parts.kind != STORE_KIND_RUN || parts.epoch != g->epoch ||
            !take_run(g, key, rocks_iter_value(it))) {
            break;
        }
        if (!g->full) {
            rocksdb_iter_next(it);
        }
    }
    rocksdb_iter_get_error(it, &error);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(ro);
    return error != NULL ? rocks_fail(st, "log read", error) : THOLE_OK;
}

/* ---- The read --------------------------------------------------------------------------------- */

/* Where to read, under the lock. */
static enum thole_code locate(struct reading *g, uint64_t last, bool use_hint,
                              struct thole_status *st)
{
    struct rocks_log *s = g->s;
    enum thole_code code = THOLE_OK;

    pthread_mutex_lock(&s->lock);
    const struct log_replica *r = map_get(&s->replicas, g->replica_id);
    if (r != NULL && r->state == LOG_DAMAGED) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "replica %" PRIu64 " is damaged", g->replica_id);
    } else if (r == NULL || r->state != LOG_LIVE) {
        code = THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA, "replica %" PRIu64,
                          g->replica_id);
    } else if (g->next <= r->visible.start || g->next > r->visible.last) {
        code = THOLE_FAIL(st, THOLE_OUT_OF_RANGE, THOLE_REASON_COMPACTED,
                          "replica %" PRIu64 ": %" PRIu64 " is not in (%" PRIu64 ", %" PRIu64 "]",
                          g->replica_id, g->next, r->visible.start, r->visible.last);
    } else {
        const struct store_run *run = use_hint ? log_index_find(&r->index, g->next) : NULL;

        g->last = last < r->visible.last ? last : r->visible.last;
        g->epoch = r->visible.epoch;
        g->version = r->visible.version;
        g->run_first = run != NULL ? run->first : 0;
        g->run_holds_all = run != NULL && run->first + run->count > g->last;
    }
    pthread_mutex_unlock(&s->lock);
    return code;
}

/* Wait for the batch in flight; did it change this log? */
static bool changed_meanwhile(struct reading *g)
{
    struct rocks_log *s = g->s;

    pthread_mutex_lock(&s->lock);
    while (s->writing) {
        pthread_cond_wait(&s->written, &s->lock);
    }
    const struct log_replica *r = map_get(&s->replicas, g->replica_id);
    bool changed = r == NULL || r->state != LOG_LIVE || r->visible.version != g->version;
    pthread_mutex_unlock(&s->lock);
    return changed;
}

enum thole_code rocks_log__read(struct log_store *base, uint64_t replica_id, uint64_t first,
                                uint64_t last, size_t max_bytes, size_t max_entries,
                                struct raft_entry **ret, size_t *ret_count, struct thole_status *st)
{
    struct reading g = {
        .s = (struct rocks_log *)base,
        .replica_id = replica_id,
        .next = first,
        .max_bytes = max_bytes,
        .max_entries = max_entries,
        .ret = ret,
    };
    bool use_hint = true;

    for (;;) {
        enum thole_code code = locate(&g, last, use_hint, st);
        if (code != THOLE_OK) {
            return code;
        }
        if (max_entries == 0 || g.next > g.last) {
            break;
        }
        code = g.run_holds_all ? take_single(&g, st) : take_many(&g, st);
        if (code == THOLE_OK && g.count > 0) {
            break; /* perhaps fewer than wanted: the caller reads on from there */
        }
        if (code != THOLE_OK) {
            while (g.count > 0) {
                raft_entry_unref(ret[--g.count]); /* from before the error */
            }
            return code;
        }
        if (g.damaged || (!changed_meanwhile(&g) && !use_hint)) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "replica %" PRIu64 ": entry %" PRIu64 " is missing or damaged",
                              replica_id, first);
        }
        use_hint = false;
    }
    *ret_count = g.count;
    return THOLE_OK;
}

/* ---- CONFIG entries --------------------------------------------------------------------------- */

static enum thole_code add_configs(struct log_store *base, uint64_t id, struct store_run run,
                                   uint64_t start, struct raft_entry ***list, size_t *count,
                                   struct thole_status *st)
{
    uint64_t first = run.first > start ? run.first : start + 1;
    uint64_t last = run.first + run.count - 1;
    struct raft_entry **entries = xmalloc(run.count * sizeof(struct raft_entry *));
    size_t n = 0;

    while (first <= last) {
        enum thole_code code =
            rocks_log__read(base, id, first, last, SIZE_MAX, run.count, entries, &n, st);
        if (code != THOLE_OK) {
            free(entries);
            return code;
        }
        for (size_t i = 0; i < n; i++) {
            if (entries[i]->kind == RAFT_ENTRY_CONFIG) {
                *list = xrealloc(*list, (*count + 1) * sizeof(struct raft_entry *));
                (*list)[(*count)++] = entries[i];
            } else {
                raft_entry_unref(entries[i]);
            }
        }
        first += n;
    }
    free(entries);
    return THOLE_OK;
}

/* For recovery: not beside a writer of the same replica. */
enum thole_code rocks_log__config_entries(struct log_store *base, uint64_t replica_id,
                                          struct raft_entry ***ret, size_t *ret_count,
                                          struct thole_status *st)
{
    struct rocks_log *s = (struct rocks_log *)base;
    struct raft_entry **list = xmalloc(sizeof(struct raft_entry *));
    size_t count = 0, run_count = 0;
    struct store_run *runs = NULL;
    uint64_t start = 0;
    enum thole_code code = THOLE_OK;

    pthread_mutex_lock(&s->lock);
    const struct log_replica *r = map_get(&s->replicas, replica_id);
    if (r != NULL && r->state == LOG_LIVE) {
        start = r->visible.start;
        for (size_t i = r->index.run_head; i < r->index.run_end; i++) {
            if (r->index.runs[i].config) {
                runs = xrealloc(runs, (run_count + 1) * sizeof *runs);
                runs[run_count++] = r->index.runs[i];
            }
        }
    } else {
        code = THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA, "replica %" PRIu64,
                          replica_id);
    }
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < run_count && code == THOLE_OK; i++) {
        code = add_configs(base, replica_id, runs[i], start, &list, &count, st);
    }
    free(runs);
    if (code != THOLE_OK) {
        while (count > 0) {
            raft_entry_unref(list[--count]);
        }
        free(list);
        return code;
    }
    *ret = list;
    *ret_count = count;
    return THOLE_OK;
}
