#include "base/metrics.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static _Atomic(struct metric *) registered;

static void ensure_registered(struct metric *m)
{
    if (atomic_load_explicit(&m->registered, memory_order_relaxed))
        return;
    if (atomic_exchange(&m->registered, true))
        return;
    m->next = atomic_load(&registered);
    while (!atomic_compare_exchange_weak(&registered, &m->next, m))
        continue;
}

/* Values below 2 * 2^SUB are their own bucket; above, the exponent and the next SUB bits are. */
static unsigned bucket_of(uint64_t value)
{
    const unsigned sub = HISTOGRAM_SUB_BITS;
    if (value >= UINT64_C(1) << 40)
        value = (UINT64_C(1) << 40) - 1;
    if (value < (UINT64_C(1) << sub))
        return (unsigned)value;
    unsigned exponent = 63 - (unsigned)__builtin_clzll(value);
    return ((exponent - sub + 1) << sub) + (unsigned)((value >> (exponent - sub)) & ((1u << sub) - 1));
}

/* The largest value of a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    const unsigned sub = HISTOGRAM_SUB_BITS;
    if (bucket < (1u << sub))
        return bucket;
    unsigned shift = (bucket >> sub) - 1;
    uint64_t low = ((uint64_t)((1u << sub) + (bucket & ((1u << sub) - 1)))) << shift;
    return low + (UINT64_C(1) << shift) - 1;
}

void histogram_record(struct histogram *h, uint64_t value)
{
    atomic_fetch_add_explicit(&h->buckets[bucket_of(value)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, value, memory_order_relaxed);
}

uint64_t histogram_count(const struct histogram *h)
{
    return atomic_load_explicit(&h->count, memory_order_relaxed);
}

uint64_t histogram_percentile(const struct histogram *h, double p)
{
    uint64_t count = histogram_count(h);
    if (count == 0)
        return 0;
    uint64_t rank = (uint64_t)(p / 100.0 * (double)count + 0.5), seen = 0;
    if (rank == 0)
        rank = 1;
    unsigned last = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t n = atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
        if (n == 0)
            continue;
        last = i;
        seen += n;
        if (seen >= rank)
            break;
    }
    return bucket_top(last);
}

double histogram_mean(const struct histogram *h)
{
    uint64_t count = histogram_count(h);
    return count ? (double)atomic_load_explicit(&h->sum, memory_order_relaxed) / (double)count : 0;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        atomic_fetch_add_explicit(&into->buckets[i],
                                  atomic_load_explicit(&from->buckets[i], memory_order_relaxed),
                                  memory_order_relaxed);
    atomic_fetch_add_explicit(&into->count, histogram_count(from), memory_order_relaxed);
    atomic_fetch_add_explicit(&into->sum, atomic_load_explicit(&from->sum, memory_order_relaxed),
                              memory_order_relaxed);
}

void metric_add(struct metric *m, int64_t n)
{
    ensure_registered(m);
    atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}

void metric_set(struct metric *m, int64_t v)
{
    ensure_registered(m);
    atomic_store_explicit(&m->value, v, memory_order_relaxed);
}

void metric_record(struct metric *m, uint64_t value)
{
    ensure_registered(m);
    histogram_record(m->histogram, value);
}

int64_t metric_value(const struct metric *m)
{
    return atomic_load_explicit(&m->value, memory_order_relaxed);
}

/* Powers of four keep the text short and are exact bucket borders. */
static void render_histogram(const struct metric *m, struct bytes *out)
{
    double unit = m->kind == METRIC_HISTOGRAM_NS ? 1e9 : 1;
    unsigned next = 0;
    uint64_t seen = 0;
    for (unsigned exponent = m->kind == METRIC_HISTOGRAM_NS ? 10 : 0; exponent <= 38; exponent += 2) {
        uint64_t border = UINT64_C(1) << exponent;
        while (next < HISTOGRAM_BUCKETS && bucket_top(next) < border)
            seen += atomic_load_explicit(&m->histogram->buckets[next++], memory_order_relaxed);
        bytes_printf(out, "%s_bucket{le=\"%.9g\"} %llu\n", m->name, (double)border / unit,
                     (unsigned long long)seen);
    }
    uint64_t count = histogram_count(m->histogram);
    bytes_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n", m->name,
                 (unsigned long long)count, m->name,
                 (double)atomic_load_explicit(&m->histogram->sum, memory_order_relaxed) / unit,
                 m->name, (unsigned long long)count);
}

static void render_one(const struct metric *m, struct bytes *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram", "histogram"};
    bytes_printf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name, types[m->kind]);
    if (m->histogram)
        render_histogram(m, out);
    else
        bytes_printf(out, "%s %lld\n", m->name, (long long)metric_value(m));
}

static int by_name(const void *a, const void *b)
{
    const struct metric *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

void metrics_render(struct bytes *out)
{
    size_t n = 0;
    struct metric *first = atomic_load(&registered);
    for (struct metric *m = first; m; m = m->next)
        n++;
    struct metric **sorted = xcalloc(n, sizeof(struct metric *));
    size_t i = 0;
    for (struct metric *m = first; m; m = m->next)
        sorted[i++] = m;
    qsort(sorted, n, sizeof *sorted, by_name);
    for (i = 0; i < n; i++)
        render_one(sorted[i], out);
    free(sorted);
}
