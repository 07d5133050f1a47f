/* The list of metrics, and their Prometheus text (version 0.0.4). */
#include "base/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/metrics_internal.h"

/* Grows at the head, while programs and libraries are loaded. A reader may walk from any head that
 * it saw. */
static struct metric *_Atomic metrics;

void metric_register(struct metric *m)
{
    m->next = atomic_load_explicit(&metrics, memory_order_relaxed);
    atomic_store_explicit(&metrics, m, memory_order_release);
}

void metric_add(struct metric *m, int64_t n)
{
    ASSERT(m->kind == METRIC_GAUGE || (m->kind == METRIC_COUNTER && n >= 0));
    atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}

void metric_set(struct metric *m, int64_t v)
{
    ASSERT(m->histogram == NULL);
    atomic_store_explicit(&m->value, v, memory_order_relaxed);
}

void metric_record_many(struct metric *m, uint64_t value, uint64_t times)
{
    ASSERT(m->histogram != NULL);
    histogram_record_many(m->histogram, value, times);
}

void metric_record(struct metric *m, uint64_t value)
{
    metric_record_many(m, value, 1);
}

int64_t metric_value(const struct metric *m)
{
    return atomic_load_explicit(&m->value, memory_order_relaxed);
}

/* `ns` as seconds, with all its digits. */
static void append_seconds(struct bytes *out, uint64_t ns)
{
    bytes_printf(out, "%" PRIu64 ".%09" PRIu64, ns / NS_PER_S, ns % NS_PER_S);
}

static void append_value(struct bytes *out, enum metric_kind kind, uint64_t value)
{
    if (kind == METRIC_HISTOGRAM_NS) {
        append_seconds(out, value);
    } else {
        bytes_printf(out, "%" PRIu64, value);
    }
}

/* Every power of two of a range that suits the unit: 16 us to 17 s for times; up to 64 Mi for
 * counts and bytes. A bound is 2^k - 1, because `le` includes it and our buckets begin at 2^k: so
 * each figure is exact. */
static void render_histogram(struct bytes *out, const struct metric *m)
{
    bool is_time = m->kind == METRIC_HISTOGRAM_NS;
    unsigned first = is_time ? 14 : 0;
    unsigned last = is_time ? 34 : 26;
    uint64_t cumulated = 0;
    size_t bucket = 0;
    for (unsigned k = first; k <= last; k++) {
        uint64_t bound = (UINT64_C(1) << k) - 1;
        for (; bucket <= histogram__bucket_of(bound); bucket++) {
            cumulated += atomic_load_explicit(&m->histogram->buckets[bucket], memory_order_relaxed);
        }
        bytes_printf(out, "%s_bucket{le=\"", m->name);
        append_value(out, m->kind, bound);
        bytes_printf(out, "\"} %" PRIu64 "\n", cumulated);
    }
    for (; bucket < HISTOGRAM_BUCKETS; bucket++) {
        cumulated += atomic_load_explicit(&m->histogram->buckets[bucket], memory_order_relaxed);
    }
    bytes_printf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_sum ", m->name, cumulated, m->name);
    append_value(out, m->kind, atomic_load_explicit(&m->histogram->sum, memory_order_relaxed));
    /* Must equal the last bucket, even while others record. */
    bytes_printf(out, "\n%s_count %" PRIu64 "\n", m->name, cumulated);
}

static void append_help(struct bytes *out, const char *help)
{
    for (; *help != '\0'; help++) {
        if (*help == '\\') {
            bytes_append_str(out, "\\\\");
        } else if (*help == '\n') {
            bytes_append_str(out, "\\n");
        } else {
            bytes_append(out, help, 1);
        }
    }
}

void metrics_head(struct bytes *out, enum metric_kind kind, const char *name, const char *help)
{
    static const char *const types[] = {
        [METRIC_COUNTER] = "counter",
        [METRIC_GAUGE] = "gauge",
        [METRIC_HISTOGRAM_NS] = "histogram",
        [METRIC_HISTOGRAM] = "histogram",
    };
    bytes_printf(out, "# HELP %s ", name);
    append_help(out, help);
    bytes_printf(out, "\n# TYPE %s %s\n", name, types[kind]);
}

static void append_label(struct bytes *out, const struct metric_label *l)
{
    bytes_printf(out, "%s=\"", l->key);
    for (size_t i = 0; i < l->value.size; i++) {
        char c = (char)l->value.data[i];
        if (c == '\\' || c == '"') {
            bytes_append_str(out, "\\");
        }
        bytes_append(out, c == '\n' ? "\\n" : &c, c == '\n' ? 2 : 1);
    }
    bytes_append_str(out, "\"");
}

void metrics_sample(struct bytes *out, const char *name, const struct metric_label *labels,
                    size_t label_count, double value)
{
    bytes_append_str(out, name);
    for (size_t i = 0; i < label_count; i++) {
        bytes_append_str(out, i == 0 ? "{" : ",");
        append_label(out, &labels[i]);
    }
    bytes_append_str(out, label_count > 0 ? "} " : " ");
    if (isinf(value)) {
        bytes_append_str(out, value > 0 ? "+Inf\n" : "-Inf\n");
    } else {
        /* Whole numbers up to 2^53 with all their digits. */
        bytes_printf(out, value == floor(value) ? "%.0f\n" : "%.9g\n", value);
    }
}

void metrics_single(struct bytes *out, enum metric_kind kind, const char *name, double value,
                    const char *help)
{
    metrics_head(out, kind, name, help);
    metrics_sample(out, name, NULL, 0, value);
}

static void render_metric(struct bytes *out, const struct metric *m)
{
    metrics_head(out, m->kind, m->name, m->help);
    if (m->histogram != NULL) {
        render_histogram(out, m);
    } else {
        bytes_printf(out, "%s %" PRId64 "\n", m->name, metric_value(m));
    }
}

static int compare_names(const void *a, const void *b)
{
    const struct metric *const *x = a;
    const struct metric *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

void metrics_render(struct bytes *out)
{
    const struct metric *head = atomic_load_explicit(&metrics, memory_order_acquire);
    size_t count = 0;
    for (const struct metric *m = head; m != NULL; m = m->next) {
        count++;
    }
    const struct metric **sorted = xcalloc(count, sizeof(struct metric *));
    size_t i = 0;
    for (const struct metric *m = head; m != NULL; m = m->next) {
        sorted[i++] = m;
    }
    qsort(sorted, count, sizeof(struct metric *), compare_names);
    for (i = 0; i < count; i++) {
        render_metric(out, sorted[i]);
    }
    free(sorted);
}
