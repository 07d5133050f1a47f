#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/metrics_internal.h"
#include "base/rand.h"
#include "base/test/death.h"

#define VALUE_LIMIT (UINT64_C(1) << 40)

static void check_bucket(uint64_t value)
{
    size_t bucket = histogram__bucket_of(value);
    assert_true(bucket < HISTOGRAM_BUCKETS);
    uint64_t max = histogram__bucket_max(bucket);
    uint64_t min = bucket == 0 ? 0 : histogram__bucket_max(bucket - 1) + 1;
    assert_true(min <= value && value <= max);
    assert_true(max - min <= min / 16);
}

static void test_histogram_buckets_cover_all_values_without_gaps(void **state)
{
    (void)state;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t max = histogram__bucket_max(i);
        assert_int_equal(histogram__bucket_of(max), i);
        if (i + 1 < HISTOGRAM_BUCKETS) {
            assert_int_equal(histogram__bucket_of(max + 1), i + 1);
        }
    }
    assert_true(histogram__bucket_max(HISTOGRAM_BUCKETS - 1) == VALUE_LIMIT - 1);
    for (uint64_t v = 0; v < 100000; v++) {
        check_bucket(v);
    }
    for (unsigned bit = 0; bit < 40; bit++) {
        check_bucket(UINT64_C(1) << bit);
        check_bucket((UINT64_C(1) << bit) - 1);
    }
    assert_int_equal(histogram__bucket_of(VALUE_LIMIT), HISTOGRAM_BUCKETS - 1);
    assert_int_equal(histogram__bucket_of(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

static int compare(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* The definition: the smallest value that at least p percent of all values do not exceed. */
static uint64_t naive_percentile(const uint64_t *sorted, size_t n, double p)
{
    size_t rank = (size_t)ceil(p / 100 * (double)n);
    return sorted[rank > 0 ? rank - 1 : 0];
}

static void test_histogram_percentiles_are_within_a_sixteenth(void **state)
{
    (void)state;
    static uint64_t values[3000];
    static const double percentiles[] = {0, 0.1, 1, 10, 25, 50, 75, 90, 99, 99.9, 100};
    struct rand r;
    rand_seed(&r, 1);
    for (int round = 0; round < 100; round++) {
        static struct histogram h;
        memset(&h, 0, sizeof h);
        size_t n = (size_t)rand_between(&r, 1, round % 2 ? 5 : 3000);
        unsigned bits = (unsigned)rand_between(&r, 1, 40);
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            values[i] = rand_below(&r, UINT64_C(1) << rand_between(&r, 0, bits));
            sum += (double)values[i];
            histogram_record(&h, values[i]);
        }
        qsort(values, n, sizeof values[0], compare);
        for (size_t i = 0; i < sizeof percentiles / sizeof percentiles[0]; i++) {
            uint64_t truth = naive_percentile(values, n, percentiles[i]);
            uint64_t answer = histogram_percentile(&h, percentiles[i]);
            assert_true(answer >= truth && answer - truth <= truth / 16);
        }
        assert_int_equal(histogram_count(&h), n);
        assert_true(fabs(histogram_mean(&h) - sum / (double)n) <= sum * 1e-9);
    }
}

static void test_histogram_empty_answers_zero(void **state)
{
    (void)state;
    static struct histogram h;
    assert_int_equal(histogram_count(&h), 0);
    assert_int_equal(histogram_percentile(&h, 50), 0);
    assert_true(histogram_mean(&h) == 0);
}

static void percentile_above_100(void *arg)
{
    (void)histogram_percentile(arg, 100.5);
}

static void test_histogram_percentile_out_of_range_is_refused(void **state)
{
    (void)state;
    static struct histogram h;
    assert_true(dies(percentile_above_100, &h, "p <= 100"));
}

static void test_histogram_merge_equals_recording_both(void **state)
{
    (void)state;
    static struct histogram a, b, both;
    struct rand r;
    rand_seed(&r, 2);
    for (int i = 0; i < 5000; i++) {
        uint64_t v = rand_u64(&r) >> rand_between(&r, 20, 63);
        histogram_record(i % 3 ? &a : &b, v);
        histogram_record(&both, v);
    }
    histogram_merge(&a, &b);
    assert_memory_equal(&a, &both, sizeof a);
}

METRIC_DEFINE_COUNTER(requests, "thole_test_requests_total", "Requests\nwith a \\ in the help");
METRIC_DEFINE_GAUGE(depth, "thole_test_depth", "Depth");
METRIC_DEFINE_HISTOGRAM_NS(latency, "thole_test_latency_seconds", "Latency");
static METRIC_DEFINE_HISTOGRAM(batch, "thole_test_batch_size", "Batch size");
METRIC_DEFINE_COUNTER(unused, "thole_test_unused_total", "Never touched");
METRIC_DEFINE_HISTOGRAM(idle, "thole_test_unused_size", "Never touched");

static char *rendered(void)
{
    struct bytes out = {0};
    metrics_render(&out);
    bytes_append(&out, "", 1);
    return (char *)out.data;
}

static void test_metrics_render_is_sorted_prometheus_text(void **state)
{
    (void)state;
    metric_add(&requests, 3);
    metric_add(&requests, 0);
    metric_set(&depth, 10);
    metric_add(&depth, -12);
    metric_record(&batch, 0);
    metric_record(&batch, 1);
    metric_record(&batch, 2);
    metric_record(&batch, UINT64_C(1) << 30);
    metric_record(&latency, 16383);
    metric_record(&latency, 16384);
    metric_record(&latency, UINT64_C(3000000000));
    assert_int_equal(metric_value(&requests), 3);
    assert_int_equal(metric_value(&depth), -2);

    char *text = rendered();
    const char *const parts[] = {
        "# HELP thole_test_batch_size Batch size\n"
        "# TYPE thole_test_batch_size histogram\n"
        "thole_test_batch_size_bucket{le=\"0\"} 1\n"
        "thole_test_batch_size_bucket{le=\"1\"} 2\n"
        "thole_test_batch_size_bucket{le=\"3\"} 3\n",
        "thole_test_batch_size_bucket{le=\"67108863\"} 3\n"
        "thole_test_batch_size_bucket{le=\"+Inf\"} 4\n"
        "thole_test_batch_size_sum 1073741827\n"
        "thole_test_batch_size_count 4\n"
        "# HELP thole_test_depth Depth\n"
        "# TYPE thole_test_depth gauge\n"
        "thole_test_depth -2\n"
        "# HELP thole_test_latency_seconds Latency\n"
        "# TYPE thole_test_latency_seconds histogram\n"
        "thole_test_latency_seconds_bucket{le=\"0.000016383\"} 1\n"
        "thole_test_latency_seconds_bucket{le=\"0.000032767\"} 2\n",
        "thole_test_latency_seconds_bucket{le=\"2.147483647\"} 2\n"
        "thole_test_latency_seconds_bucket{le=\"4.294967295\"} 3\n",
        "thole_test_latency_seconds_bucket{le=\"+Inf\"} 3\n"
        "thole_test_latency_seconds_sum 3.000032767\n"
        "thole_test_latency_seconds_count 3\n"
        "# HELP thole_test_requests_total Requests\\nwith a \\\\ in the help\n"
        "# TYPE thole_test_requests_total counter\n"
        "thole_test_requests_total 3\n",
    };
    const char *at = text;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const char *found = strstr(at, parts[i]);
        if (found == NULL) {
            fail_msg("missing:\n%s\nin:\n%s", parts[i], text);
        } else {
            at = found + strlen(parts[i]);
        }
    }
    assert_non_null(
        strstr(at, "# TYPE thole_test_unused_total counter\nthole_test_unused_total 0\n"));
    assert_non_null(strstr(
        text, "thole_test_unused_size_bucket{le=\"+Inf\"} 0\nthole_test_unused_size_sum 0\n"));
    free(text);
}

static void test_metrics_recording_many_equals_recording_each(void **state)
{
    (void)state;
    static struct histogram many, each;
    histogram_record_many(&many, 77, 5);
    for (int i = 0; i < 5; i++) {
        histogram_record(&each, 77);
    }
    assert_memory_equal(&many, &each, sizeof many);
}

static void test_metrics_samples_have_labels_and_numbers(void **state)
{
    (void)state;
    struct bytes out = {0};
    const struct metric_label labels[] = {{"shard", slice_str("a\"b\\c\nd")},
                                          {"host", slice_str("h1")}};
    metrics_single(&out, METRIC_GAUGE, "thole_test_days", INFINITY, "Days");
    metrics_sample(&out, "x", labels, 2, 9007199254740991);
    metrics_sample(&out, "x", labels + 1, 1, 0.25);
    metrics_sample(&out, "x", NULL, 0, -3);
    bytes_append(&out, "", 1);
    assert_string_equal((const char *)out.data,
                        "# HELP thole_test_days Days\n"
                        "# TYPE thole_test_days gauge\n"
                        "thole_test_days +Inf\n"
                        "x{shard=\"a\\\"b\\\\c\\nd\",host=\"h1\"} 9007199254740991\n"
                        "x{host=\"h1\"} 0.25\n"
                        "x -3\n");
    bytes_deinit(&out);
}

static double value_of(const char *text, const char *name)
{
    char *wanted = xasprintf("\n%s ", name);
    const char *at = strstr(text, wanted);
    if (at == NULL) {
        fail_msg("%s is missing in:\n%s", name, text);
        return 0;
    }
    double value = strtod(at + strlen(wanted), NULL);
    free(wanted);
    return value;
}

static void test_metrics_of_the_process_are_plausible(void **state)
{
    (void)state;
    struct bytes out = {0};
    metrics_render_process(&out);
    bytes_append(&out, "", 1);
    const char *text = (const char *)out.data;
    assert_true(value_of(text, "process_cpu_seconds_total") > 0);
    assert_true(value_of(text, "process_resident_memory_bytes") > 100e3);
    assert_true(value_of(text, "process_virtual_memory_bytes") >
                value_of(text, "process_resident_memory_bytes"));
    assert_true(value_of(text, "process_open_fds") >= 3);
    assert_true(value_of(text, "process_max_fds") >= value_of(text, "process_open_fds"));
    double age = (double)time(NULL) - value_of(text, "process_start_time_seconds");
    assert_true(age > -3 && age < 3600);
    bytes_deinit(&out);
}

static void count_down(void *arg)
{
    metric_add(arg, -1);
}

static void record_in_counter(void *arg)
{
    metric_record(arg, 1);
}

static void test_metrics_misuse_is_refused(void **state)
{
    (void)state;
    assert_true(dies(count_down, &requests, "n >= 0"));
    assert_true(dies(record_in_counter, &requests, "m->histogram != NULL"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histogram_buckets_cover_all_values_without_gaps),
        cmocka_unit_test(test_histogram_percentiles_are_within_a_sixteenth),
        cmocka_unit_test(test_histogram_empty_answers_zero),
        cmocka_unit_test(test_histogram_percentile_out_of_range_is_refused),
        cmocka_unit_test(test_histogram_merge_equals_recording_both),
        cmocka_unit_test(test_metrics_render_is_sorted_prometheus_text),
        cmocka_unit_test(test_metrics_recording_many_equals_recording_each),
        cmocka_unit_test(test_metrics_samples_have_labels_and_numbers),
        cmocka_unit_test(test_metrics_of_the_process_are_plausible),
        cmocka_unit_test(test_metrics_misuse_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
