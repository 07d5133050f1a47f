/* Process-wide metrics: counters, gauges and log-linear histograms, and their Prometheus text.
 * Updates are lock-free relaxed atomics, callable from any thread. A metric is a static object
 * that registers itself when its program is loaded, so that the first scrape has all of them, with
 * zeros. Metrics whose values are only known when somebody asks are written at each scrape, see
 * below. Names follow Prometheus (`thole_..._total`, `_seconds`, `_bytes`). */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* Values up to 2^40 in 16 sub-buckets per power of two: at most 1/16 error, 592 buckets. */
#define HISTOGRAM_SUB_BITS 4
#define HISTOGRAM_BUCKETS ((40 - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
    _Atomic uint64_t buckets[HISTOGRAM_BUCKETS];
    _Atomic uint64_t count;
    _Atomic uint64_t sum;
};
void histogram_record(struct histogram *h, uint64_t value);
void histogram_record_many(struct histogram *h, uint64_t value, uint64_t times);
uint64_t histogram_count(const struct histogram *h);
uint64_t histogram_percentile(const struct histogram *h, double p); /* p in [0, 100]; 0 if empty */
double histogram_mean(const struct histogram *h);
void histogram_merge(struct histogram *into, const struct histogram *from);

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM_NS, METRIC_HISTOGRAM };

struct metric {
    const char *name;
    const char *help;
    enum metric_kind kind;
    struct metric *next;
    _Atomic int64_t value;
    struct histogram *histogram; /* for the histogram kinds; _NS is shown in seconds */
};

/* Once per metric, before it is rendered; not beside another registration. The macros below do
 * that. */
void metric_register(struct metric *m);

/* All at file scope; `static` may stand in front. */
#define METRIC_DEFINE(var, ...)                                   \
    struct metric var = {__VA_ARGS__};                            \
    __attribute__((constructor)) static void register_##var(void) \
    {                                                             \
        metric_register(&var);                                    \
    }                                                             \
    struct metric_end
#define METRIC_DEFINE_COUNTER(var, name_, help_) \
    METRIC_DEFINE(var, .name = (name_), .help = (help_), .kind = METRIC_COUNTER)
#define METRIC_DEFINE_GAUGE(var, name_, help_) \
    METRIC_DEFINE(var, .name = (name_), .help = (help_), .kind = METRIC_GAUGE)
#define METRIC_DEFINE_HISTOGRAM_NS(var, name_, help_)                                 \
    METRIC_DEFINE(var, .name = (name_), .help = (help_), .kind = METRIC_HISTOGRAM_NS, \
                  .histogram = &(struct histogram){.count = 0})
#define METRIC_DEFINE_HISTOGRAM(var, name_, help_)                                 \
    METRIC_DEFINE(var, .name = (name_), .help = (help_), .kind = METRIC_HISTOGRAM, \
                  .histogram = &(struct histogram){.count = 0})

void metric_add(struct metric *m, int64_t n);
void metric_set(struct metric *m, int64_t v);
void metric_record(struct metric *m, uint64_t value);
void metric_record_many(struct metric *m, uint64_t value, uint64_t times);
int64_t metric_value(const struct metric *m);

/* Append the Prometheus text of every registered metric, in name order. */
void metrics_render(struct bytes *out);

/* ---- Metrics that are computed at each scrape ------------------------------------------------ */

struct metric_label {
    const char *key;
    struct slice value;
};
/* The head of a family; its samples follow at once. `kind` is METRIC_COUNTER or METRIC_GAUGE. */
void metrics_head(struct bytes *out, enum metric_kind kind, const char *name, const char *help);
void metrics_sample(struct bytes *out, const char *name, const struct metric_label *labels,
                    size_t label_count, double value);
/* A family of one sample without labels. */
void metrics_single(struct bytes *out, enum metric_kind kind, const char *name, double value,
                    const char *help);
/* The process's own metrics, under the names that Prometheus' client libraries use. What the
 * operating system does not tell is left out. */
void metrics_render_process(struct bytes *out);

#endif
