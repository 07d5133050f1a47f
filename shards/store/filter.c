#include "shards/store/filter.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/map.h"

struct known {
    uint32_t epoch;
    bool gone;
    uint64_t start;
};

struct log_filter {
    pthread_mutex_t lock;
    struct map known; /* replica id -> struct known */
    _Atomic uint64_t dropped;
};

/* One compaction's: keys come in order, so the lock is taken once per replica. */
struct pass {
    struct log_filter *filter;
    uint64_t replica_id; /* 0: none yet */
    bool has_known;
    struct known known;
};

struct log_filter *log_filter_new(void)
{
    struct log_filter *f = xcalloc(1, sizeof *f);

    pthread_mutex_init(&f->lock, NULL);
    return f;
}

void log_filter_free(struct log_filter *f)
{
    struct known *k;
    size_t it = 0;

    if (f == NULL) {
        return;
    }
    while ((k = map_next(&f->known, &it, NULL)) != NULL) {
        free(k);
    }
    map_deinit(&f->known);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static struct known *known_get(struct log_filter *f, uint64_t replica_id)
{
    struct known *k = map_get(&f->known, replica_id);

    if (k == NULL) {
        k = xcalloc(1, sizeof *k);
        map_put(&f->known, replica_id, k);
    }
    return k;
}

void log_filter_set_start(struct log_filter *f, uint64_t replica_id, uint32_t epoch, uint64_t start)
{
    pthread_mutex_lock(&f->lock);
    struct known *k = known_get(f, replica_id);
    k->epoch = epoch;
    k->start = start;
    pthread_mutex_unlock(&f->lock);
}

void log_filter_set_gone(struct log_filter *f, uint64_t replica_id)
{
    pthread_mutex_lock(&f->lock);
    known_get(f, replica_id)->gone = true;
    pthread_mutex_unlock(&f->lock);
}

uint64_t log_filter_dropped(const struct log_filter *f)
{
    return atomic_load_explicit(&f->dropped, memory_order_relaxed);
}

static bool droppable(struct pass *p, struct slice key, struct slice value)
{
    struct store_key_parts parts;

    if (!store_key_parse(key, &parts) || parts.kind != STORE_KIND_RUN) {
        return false;
    }
    if (parts.replica_id != p->replica_id) {
        pthread_mutex_lock(&p->filter->lock);
        const struct known *k = map_get(&p->filter->known, parts.replica_id);
        p->replica_id = parts.replica_id;
        p->has_known = k != NULL;
        if (k != NULL) {
            p->known = *k;
        }
        pthread_mutex_unlock(&p->filter->lock);
    }
    if (!p->has_known) {
        return false;
    }
    if (p->known.gone || parts.epoch < p->known.epoch) {
        return true;
    }
    uint32_t count = store_run_count(value);
    return parts.epoch == p->known.epoch && parts.first <= p->known.start && count > 0 &&
           count - 1 <= p->known.start - parts.first;
}

static unsigned char filter_call(void *state, int level, const char *key, size_t key_size,
                                 const char *value, size_t value_size, char **new_value,
                                 size_t *new_value_size, unsigned char *value_changed)
{
    struct pass *p = state;

    (void)level, (void)new_value, (void)new_value_size;
    *value_changed = 0;
    if (!droppable(p, slice_of(key, key_size), slice_of(value, value_size))) {
        return 0;
    }
    atomic_fetch_add_explicit(&p->filter->dropped, 1, memory_order_relaxed);
    return 1;
}

static const char *filter_name(void *state)
{
    (void)state;
    return "thole.log";
}

static void factory_destroy(void *state)
{
    (void)state; /* the store frees it */
}

static rocksdb_compactionfilter_t *factory_create(void *state,
                                                  rocksdb_compactionfiltercontext_t *context)
{
    struct pass *p = xcalloc(1, sizeof *p);

    (void)context;
    p->filter = state;
    return rocksdb_compactionfilter_create(p, free, filter_call, filter_name);
}

void log_filter_install(struct log_filter *f, rocksdb_options_t *options)
{
    rocksdb_options_set_compaction_filter_factory(
        options,
        rocksdb_compactionfilterfactory_create(f, factory_destroy, factory_create, filter_name));
}
