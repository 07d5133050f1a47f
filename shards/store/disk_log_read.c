/* Reads entries beside the writer. Under the lock, a read looks up the runs and holds their
 * segments. It reads the records without the lock. A held segment is not reused. A record in it may
 * be dead by then, but it was part of the log when the read began. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/assert.h"
#include "shards/store/disk_log.h"

#define RUNS_AT_ONCE 64

struct reading {
    struct disk_log *s;
    uint64_t replica_id;
    uint64_t next, last; /* indexes still to read */
    size_t max_bytes, max_entries;
    struct raft_entry **ret;
    size_t count, bytes;
    bool full;
    /* Taken under the lock. */
    uint32_t epoch;
    struct store_run runs[RUNS_AT_ONCE];
    struct segment *segments[RUNS_AT_ONCE];
    size_t run_count;
};

/* ---- One run --------------------------------------------------------------------------------- */

/* How many entries of the run to take from `r` on, and the range of bytes that holds their
 * payloads. Only that range is copied, so that a few entries do not keep a whole run in memory. */
static size_t measure(struct reading *g, struct store_run_reader r, uint64_t run_last,
                      const uint8_t **ret_lo, const uint8_t **ret_hi)
{
    struct store_entry e;
    size_t n = 0;

    *ret_lo = *ret_hi = r.rest.data;
    while (g->count + n < g->max_entries && g->next + n <= g->last && g->next + n <= run_last &&
           store_run_next(&r, &e)) {
        size_t size = e.payload.size + e.id.size + RAFT_ENTRY_OVERHEAD_BYTES; /* raft_entry_size */

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

/* Take entries from one run. False: it is damaged. */
static bool take_run(struct reading *g, const struct store_run *run, struct slice record)
{
    struct store_key key = store_key_run(g->replica_id, g->epoch, run->first);
    struct store_run_reader r;
    struct store_entry e;
    const uint8_t *lo, *hi;

    if (!store_run_open(&r, store_key_slice(&key), record) || r.count < run->count) {
        return false;
    }
    while (r.index < g->next) {
        if (!store_run_next(&r, &e)) {
            return false;
        }
    }
    size_t n = measure(g, r, run->first + run->count - 1, &lo, &hi);
    if (n == 0) {
        return g->full;
    }
    struct buf *payloads = hi > lo ? buf_copy(lo, (size_t)(hi - lo)) : NULL;
    for (size_t i = 0; i < n && store_run_next(&r, &e); i++) {
        struct bufslice payload = {0};

        if (e.payload.size > 0) {
            payload.owner = buf_ref(payloads);
            payload.bytes = slice_of(payloads->data + (e.payload.data - lo), e.payload.size);
        }
        struct raft_entry *entry = e.id.size > 0 ? raft_entry_new_with_id(e.id, payload)
                                                 : raft_entry_new((enum raft_entry_kind)e.kind,
                                                                  e.session, e.sequence, payload);
        entry->index = e.index;
        entry->term = e.term;
        entry->stamp = e.stamp;
        ASSERT(entry->index == g->next && g->count < g->max_entries);
        g->ret[g->count++] = entry;
        g->next++;
    }
    buf_unref(payloads);
    return true;
}

/* ---- Looking up runs ------------------------------------------------------------------------- */

/* Is the last entry that was read still in the log? Then the entries after it there follow it,
 * because an index and a term identify an entry and all before it. */
static bool is_same_log(const struct reading *g, const struct log_index *x)
{
    ASSERT(g->count > 0 && g->ret[g->count - 1]->index == g->next - 1);
    size_t i = log_index_find(x, g->next - 1);

    return g->next - 1 > x->start && i < x->end && x->runs[i].term == g->ret[g->count - 1]->term;
}

static enum thole_code locate_locked(struct reading *g, uint64_t last, struct thole_status *st)
{
    const struct log_replica *r = map_get(&g->s->replicas, g->replica_id);
    ASSERT(g->run_count == 0); /* the segments of the round before are released */

    if (r != NULL && r->state == LOG_DAMAGED) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "replica %" PRIu64 " is damaged", g->replica_id);
    }
    if (r == NULL || r->state != LOG_LIVE) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA, "replica %" PRIu64,
                          g->replica_id);
    }
    const struct log_index *x = &r->index;
    if (g->next <= x->start || g->next > x->last || (g->count > 0 && !is_same_log(g, x))) {
        return THOLE_FAIL(st, THOLE_OUT_OF_RANGE, THOLE_REASON_COMPACTED,
                          "replica %" PRIu64 ": %" PRIu64 " is not in (%" PRIu64 ", %" PRIu64 "]",
                          g->replica_id, g->next, x->start, x->last);
    }
    g->last = last < x->last ? last : x->last;
    g->epoch = r->epoch;
    for (size_t i = log_index_find(x, g->next);
         i < x->end && x->runs[i].first <= g->last && g->run_count < RUNS_AT_ONCE; i++) {
        struct segment *segment = segments_get(&g->s->files, x->runs[i].place.segment);

        segment->readers++;
        g->segments[g->run_count] = segment;
        g->runs[g->run_count++] = x->runs[i];
    }
    return THOLE_OK;
}

static enum thole_code locate(struct reading *g, uint64_t last, struct thole_status *st)
{
    pthread_mutex_lock(&g->s->lock);
    enum thole_code code = locate_locked(g, last, st);
    pthread_mutex_unlock(&g->s->lock);
    return code;
}

static void release(struct reading *g)
{
    pthread_mutex_lock(&g->s->lock);
    for (size_t i = 0; i < g->run_count; i++) {
        ASSERT(g->segments[i]->readers > 0);
        g->segments[i]->readers--;
    }
    pthread_mutex_unlock(&g->s->lock);
    g->run_count = 0;
}

/* ---- The read -------------------------------------------------------------------------------- */

static enum thole_code take_runs(struct reading *g, struct thole_status *st)
{
    struct bytes record = {0};
    enum thole_code code = THOLE_OK;

    for (size_t i = 0; i < g->run_count && code == THOLE_OK && !g->full; i++) {
        const struct log_place *at = &g->runs[i].place;

        bytes_clear(&record);
        code = segment_read(g->segments[i], at->offset, bytes_extend(&record, at->bytes), at->bytes,
                            st);
        if (code == THOLE_OK && !take_run(g, &g->runs[i], bytes_slice(&record))) {
            code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "replica %" PRIu64 ": entry %" PRIu64 " is damaged", g->replica_id,
                              g->next);
        }
    }
    bytes_deinit(&record);
    return code;
}

enum thole_code disk_log__read(struct log_store *base, uint64_t replica_id, uint64_t first,
                               uint64_t last, size_t max_bytes, size_t max_entries,
                               struct raft_entry **ret, size_t *ret_count, struct thole_status *st)
{
    struct reading g = {
        .s = (struct disk_log *)base,
        .replica_id = replica_id,
        .next = first,
        .max_bytes = max_bytes,
        .max_entries = max_entries,
        .ret = ret,
    };
    enum thole_code code = locate(&g, last, st);

    if (code != THOLE_OK) {
        return code;
    }
    g.full = max_entries == 0 || first > g.last;
    for (;;) {
        code = take_runs(&g, st);
        release(&g);
        if (code != THOLE_OK || g.full) {
            break;
        }
        if (locate(&g, last, NULL) != THOLE_OK) {
            break; /* truncated or compacted meanwhile: return what was read before that */
        }
    }
    if (code != THOLE_OK) {
        while (g.count > 0) {
            raft_entry_unref(ret[--g.count]); /* read before the error */
        }
        return code;
    }
    *ret_count = g.count;
    return THOLE_OK;
}

/* ---- CONFIG entries -------------------------------------------------------------------------- */

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
            disk_log__read(base, id, first, last, SIZE_MAX, run.count, entries, &n, st);
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

/* For recovery only: nothing may write this replica meanwhile. */
enum thole_code disk_log__config_entries(struct log_store *base, uint64_t replica_id,
                                         struct raft_entry ***ret, size_t *ret_count,
                                         struct thole_status *st)
{
    struct disk_log *s = (struct disk_log *)base;
    struct raft_entry **list = xmalloc(sizeof(struct raft_entry *));
    size_t count = 0, run_count = 0;
    struct store_run *runs = NULL;
    uint64_t start = 0;
    enum thole_code code = THOLE_OK;

    pthread_mutex_lock(&s->lock);
    const struct log_replica *r = map_get(&s->replicas, replica_id);
    if (r != NULL && r->state == LOG_LIVE) {
        start = r->index.start;
        for (size_t i = r->index.head; i < r->index.end; i++) {
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
