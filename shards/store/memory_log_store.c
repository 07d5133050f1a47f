/* The log store in memory, for harnesses and as the oracle in tests of the disk log. Keeps entries
 * by reference. Thread-safe like the disk log, with one lock. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/map.h"
#include "shards/store/plan.h"
#include "shards/store/store.h"

struct mem_replica {
    uint64_t id, shard_id;
    enum log_state state;
    struct buf *descriptor, *start_config;
    struct raft_hard hard;
    uint64_t start, start_term, machine_generation;
    struct raft_stamp start_stamp;
    struct raft_entry **entries; /* entries[i] has index start + 1 + i */
    size_t count, capacity;
    uint64_t plan_batch;
    struct log_plan plan;
    struct store_replica report;
    struct buf *report_config;
    struct raft_term_run *report_runs;
};

struct mem_host {
    struct mem_host *next;
    char *name;
    struct buf *value;
};

struct mem_log {
    struct log_store base; /* first */
    pthread_mutex_t lock;
    struct map replicas;
    struct mem_host *hosts;
    uint64_t batch_number;
    struct mem_replica **walk;
    size_t walk_count;
};

/* Drop `n` entries at the front, or all. */
static void drop_front(struct mem_replica *r, size_t n)
{
    n = n < r->count ? n : r->count;
    for (size_t i = 0; i < n; i++) {
        raft_entry_unref(r->entries[i]);
    }
    if (n > 0) {
        r->count -= n;
        memmove(r->entries, r->entries + n, r->count * sizeof(struct raft_entry *));
    }
}

static void drop_tail(struct mem_replica *r, uint64_t from)
{
    while (r->count > 0 && r->start + r->count >= from) {
        raft_entry_unref(r->entries[--r->count]);
    }
}

static void mem_close(struct log_store *base)
{
    struct mem_log *s = (struct mem_log *)base;
    struct mem_replica *r;
    size_t it = 0;

    while ((r = map_next(&s->replicas, &it, NULL)) != NULL) {
        drop_front(r, r->count);
        free(r->entries);
        buf_unref(r->descriptor);
        buf_unref(r->start_config);
        buf_unref(r->report_config);
        free(r->report_runs);
        free(r);
    }
    map_deinit(&s->replicas);
    while (s->hosts != NULL) {
        struct mem_host *h = s->hosts;
        s->hosts = h->next;
        free(h->name);
        buf_unref(h->value);
        free(h);
    }
    free(s->walk);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- Write ----------------------------------------------------------------------------------- */

static enum thole_code check(struct mem_log *s, const struct store_update *updates, size_t n,
                             struct thole_status *st)
{
    if (n > STORE_BATCH_UPDATES_MAX) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "%zu updates in a batch", n);
    }
    s->batch_number++;
    for (size_t i = 0; i < n; i++) {
        struct mem_replica *r = map_get(&s->replicas, updates[i].replica_id);

        if (r == NULL) {
            r = xcalloc(1, sizeof *r);
            r->id = updates[i].replica_id;
            map_put(&s->replicas, r->id, r);
        }
        if (r->plan_batch != s->batch_number) {
            r->plan_batch = s->batch_number;
            r->plan = (struct log_plan){r->state, r->start, r->start + r->count};
        }
        enum thole_code code = store__plan(&r->plan, &updates[i], st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}

static void carry_out(struct mem_replica *r, const struct store_update *u)
{
    if (u->remove || u->forget) {
        drop_front(r, r->count);
        r->start = 0;
        r->state = u->forget ? LOG_GONE : LOG_TOMBSTONE;
        return;
    }
    if (u->create != NULL) {
        r->state = LOG_LIVE;
        r->shard_id = u->create->shard_id;
        r->descriptor = buf_copy(u->create->descriptor.data, u->create->descriptor.size);
    }
    if (u->has_hard) {
        r->hard = u->hard;
    }
    if (u->has_start) {
        uint64_t up_to = u->start_index - r->start;

        ASSERT(u->start_reset || u->start_index >= r->start);
        drop_front(r, u->start_reset || up_to > r->count ? r->count : (size_t)up_to);
        r->start = u->start_index;
        r->start_term = u->start_term;
        r->start_stamp = u->start_stamp;
        r->machine_generation = u->machine_generation;
        buf_unref(r->start_config);
        r->start_config = buf_copy(u->start_config.data, u->start_config.size);
    }
    if (u->entry_count > 0) {
        drop_tail(r, u->entries[0]->index);
        ASSERT(u->entries[0]->index == r->start + r->count + 1); /* the plan was checked */
        if (r->count + u->entry_count > r->capacity) {
            r->capacity = (r->count + u->entry_count) * 2;
            r->entries = xrealloc(r->entries, r->capacity * sizeof(struct raft_entry *));
        }
        for (size_t i = 0; i < u->entry_count; i++) {
            r->entries[r->count++] = raft_entry_ref(u->entries[i]);
        }
    }
}

static enum thole_code mem_write(struct log_store *base, const struct store_update *updates,
                                 size_t n, struct thole_status *st)
{
    struct mem_log *s = (struct mem_log *)base;

    pthread_mutex_lock(&s->lock);
    enum thole_code code = check(s, updates, n, st);
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        carry_out(map_get(&s->replicas, updates[i].replica_id), &updates[i]);
    }
    pthread_mutex_unlock(&s->lock);
    return code;
}

/* ---- Read ------------------------------------------------------------------------------------ */

/* NULL, with NOT_FOUND in `st`, unless the replica is live. */
static struct mem_replica *find_live(struct mem_log *s, uint64_t id, struct thole_status *st)
{
    struct mem_replica *r = map_get(&s->replicas, id);

    if (r != NULL && r->state == LOG_LIVE) {
        return r;
    }
    thole_status_set(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA, __FILE__, __LINE__,
                     "replica %" PRIu64, id);
    return NULL;
}

static enum thole_code mem_read(struct log_store *base, uint64_t replica_id, uint64_t first,
                                uint64_t last, size_t max_bytes, size_t max_entries,
                                struct raft_entry **ret, size_t *ret_count, struct thole_status *st)
{
    struct mem_log *s = (struct mem_log *)base;
    size_t bytes = 0, n = 0;
    enum thole_code code = THOLE_OK;

    pthread_mutex_lock(&s->lock);
    const struct mem_replica *r = find_live(s, replica_id, st);
    if (r == NULL) {
        code = THOLE_NOT_FOUND;
    } else if (first <= r->start || first > r->start + r->count) {
        code = THOLE_FAIL(st, THOLE_OUT_OF_RANGE, THOLE_REASON_COMPACTED,
                          "replica %" PRIu64 ": %" PRIu64 " is not in (%" PRIu64 ", %" PRIu64 "]",
                          replica_id, first, r->start, r->start + r->count);
    } else {
        for (uint64_t i = first; i <= last && i <= r->start + r->count && n < max_entries; i++) {
            struct raft_entry *e = r->entries[i - r->start - 1];

            ASSERT(e->index == i);
            if (n > 0 && bytes + raft_entry_size(e) > max_bytes) {
                break;
            }
            bytes += raft_entry_size(e);
            ret[n++] = raft_entry_ref(e);
        }
        *ret_count = n;
    }
    pthread_mutex_unlock(&s->lock);
    return code;
}

static enum thole_code mem_config_entries(struct log_store *base, uint64_t replica_id,
                                          struct raft_entry ***ret, size_t *ret_count,
                                          struct thole_status *st)
{
    struct mem_log *s = (struct mem_log *)base;
    size_t n = 0;

    pthread_mutex_lock(&s->lock);
    const struct mem_replica *r = find_live(s, replica_id, st);
    if (r != NULL) {
        struct raft_entry **list = xmalloc((r->count + 1) * sizeof(struct raft_entry *));
        for (size_t i = 0; i < r->count; i++) {
            if (r->entries[i]->kind == RAFT_ENTRY_CONFIG) {
                list[n++] = raft_entry_ref(r->entries[i]);
            }
        }
        *ret = list;
        *ret_count = n;
    }
    pthread_mutex_unlock(&s->lock);
    return r != NULL ? THOLE_OK : THOLE_NOT_FOUND;
}

/* ---- The walk -------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const struct mem_replica *x = *(struct mem_replica *const *)a;
    const struct mem_replica *y = *(struct mem_replica *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

static void report_fill(struct mem_replica *r)
{
    struct store_replica *p = &r->report;

    *p = (struct store_replica){
        .replica_id = r->id,
        .shard_id = r->shard_id,
        .removed = r->state == LOG_TOMBSTONE,
    };
    if (p->removed) {
        return;
    }
    buf_unref(r->report_config);
    r->report_config = buf_ref(r->start_config);
    free(r->report_runs);
    r->report_runs = xmalloc((r->count + 1) * sizeof *r->report_runs);
    for (size_t i = 0; i < r->count; i++) {
        const struct raft_entry *e = r->entries[i];

        p->bytes += raft_entry_size(e);
        if (p->run_count == 0 || r->report_runs[p->run_count - 1].term != e->term) {
            r->report_runs[p->run_count++] = (struct raft_term_run){e->index, e->term};
        }
    }
    p->runs = r->report_runs;
    p->descriptor = slice_of(r->descriptor->data, r->descriptor->size);
    p->hard = r->hard;
    p->start_index = r->start;
    p->start_term = r->start_term;
    p->start_stamp = r->start_stamp;
    p->last_index = r->start + r->count;
    p->machine_generation = r->machine_generation;
    if (r->start_config != NULL) {
        p->start_config = slice_of(r->start_config->data, r->start_config->size);
    }
}

static const struct store_replica *mem_next(struct log_store *base, size_t *it)
{
    struct mem_log *s = (struct mem_log *)base;
    struct mem_replica *r;
    struct store_replica *found = NULL;
    size_t walk = 0;

    pthread_mutex_lock(&s->lock);
    if (*it == 0) {
        s->walk = xrealloc(s->walk, (s->replicas.count + 1) * sizeof(struct mem_replica *));
        s->walk_count = 0;
        while ((r = map_next(&s->replicas, &walk, NULL)) != NULL) {
            s->walk[s->walk_count++] = r;
        }
        qsort(s->walk, s->walk_count, sizeof(struct mem_replica *), by_id);
    }
    while (found == NULL && *it < s->walk_count) {
        r = s->walk[(*it)++];
        if (r->state == LOG_LIVE || r->state == LOG_TOMBSTONE) {
            report_fill(r);
            found = &r->report;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

/* ---- Host records ---------------------------------------------------------------------------- */

static struct mem_host *find_host(struct mem_log *s, const char *name)
{
    struct mem_host *h = s->hosts;

    while (h != NULL && strcmp(h->name, name) != 0) {
        h = h->next;
    }
    return h;
}

static enum thole_code mem_put_host(struct log_store *base, const char *name, struct slice value,
                                    struct thole_status *st)
{
    struct mem_log *s = (struct mem_log *)base;

    (void)st;
    pthread_mutex_lock(&s->lock);
    struct mem_host *h = find_host(s, name);
    if (h == NULL) {
        h = xcalloc(1, sizeof *h);
        h->name = xstrdup(name);
        h->next = s->hosts;
        s->hosts = h;
    }
    buf_unref(h->value);
    h->value = buf_copy(value.data, value.size);
    pthread_mutex_unlock(&s->lock);
    return THOLE_OK;
}

static enum thole_code mem_get_host(struct log_store *base, const char *name, struct buf **ret,
                                    struct thole_status *st)
{
    struct mem_log *s = (struct mem_log *)base;

    pthread_mutex_lock(&s->lock);
    const struct mem_host *h = find_host(s, name);
    struct buf *value = h != NULL ? buf_ref(h->value) : NULL;
    pthread_mutex_unlock(&s->lock);
    if (value == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "no host record %s", name);
    }
    *ret = value;
    return THOLE_OK;
}

static const struct log_store_ops mem_ops = {
    .close = mem_close,
    .write = mem_write,
    .read = mem_read,
    .next = mem_next,
    .config_entries = mem_config_entries,
    .put_host = mem_put_host,
    .get_host = mem_get_host,
};

struct log_store *log_store_memory_new(void)
{
    struct mem_log *s = xcalloc(1, sizeof *s);

    s->base.ops = &mem_ops;
    pthread_mutex_init(&s->lock, NULL);
    return &s->base;
}
