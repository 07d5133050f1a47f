/* Log-linear histograms: values below 16 have a bucket each, and every further power of two up to
 * 2^40 is cut into 16 equal buckets. All arithmetic is on integers, so bounds are exact. */
#include <math.h>

#include "base/assert.h"
#include "base/metrics_internal.h"

#define SUB_BUCKETS (1u << HISTOGRAM_SUB_BITS)
#define VALUE_BITS (HISTOGRAM_BUCKETS / SUB_BUCKETS + HISTOGRAM_SUB_BITS - 1)
#define VALUE_MAX ((UINT64_C(1) << VALUE_BITS) - 1)

_Static_assert(VALUE_BITS == 40, "buckets reach 2^40");

size_t histogram__bucket_of(uint64_t value)
{
    if (value > VALUE_MAX) {
        value = VALUE_MAX;
    }
    if (value < SUB_BUCKETS) {
        return (size_t)value;
    }
    unsigned exponent = 63u - (unsigned)__builtin_clzll(value);
    unsigned shift = exponent - HISTOGRAM_SUB_BITS;
    /* (value >> shift) is in [16, 32): its top bit counts as one group of buckets. */
    return ((size_t)shift << HISTOGRAM_SUB_BITS) + (size_t)(value >> shift);
}

uint64_t histogram__bucket_max(size_t bucket)
{
    ASSERT(bucket < HISTOGRAM_BUCKETS);
    if (bucket < SUB_BUCKETS) {
        return bucket;
    }
    unsigned shift = (unsigned)(bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t top = SUB_BUCKETS + (bucket & (SUB_BUCKETS - 1));
    return ((top + 1) << shift) - 1;
}

void histogram_record_many(struct histogram *h, uint64_t value, uint64_t times)
{
    size_t bucket = histogram__bucket_of(value);
    ASSERT(bucket < HISTOGRAM_BUCKETS);
    atomic_fetch_add_explicit(&h->buckets[bucket], times, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->count, times, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, value * times, memory_order_relaxed);
}

void histogram_record(struct histogram *h, uint64_t value)
{
    histogram_record_many(h, value, 1);
}

uint64_t histogram_count(const struct histogram *h)
{
    return atomic_load_explicit(&h->count, memory_order_relaxed);
}

static uint64_t load(const struct histogram *h, size_t bucket)
{
    return atomic_load_explicit(&h->buckets[bucket], memory_order_relaxed);
}

/* The largest value of the percentile's bucket: at least the true value, and at most 1/16 more. */
uint64_t histogram_percentile(const struct histogram *h, double p)
{
    ASSERT(p >= 0 && p <= 100);
    /* Counted again, because `count` may differ from the buckets while others record. */
    uint64_t total = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        total += load(h, i);
    }
    if (total == 0) {
        return 0;
    }
    uint64_t rank = (uint64_t)ceil(p / 100 * (double)total);
    if (rank < 1) {
        rank = 1;
    }
    uint64_t seen = 0;
    size_t last = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS && seen < rank; i++) {
        uint64_t n = load(h, i);
        seen += n;
        if (n > 0) {
            last = i;
        }
    }
    return histogram__bucket_max(last);
}

double histogram_mean(const struct histogram *h)
{
    uint64_t count = histogram_count(h);
    uint64_t sum = atomic_load_explicit(&h->sum, memory_order_relaxed);
    return count == 0 ? 0 : (double)sum / (double)count;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t n = load(from, i);
        if (n > 0) {
            atomic_fetch_add_explicit(&into->buckets[i], n, memory_order_relaxed);
        }
    }
    atomic_fetch_add_explicit(&into->count, histogram_count(from), memory_order_relaxed);
    atomic_fetch_add_explicit(&into->sum, atomic_load_explicit(&from->sum, memory_order_relaxed),
                              memory_order_relaxed);
}
