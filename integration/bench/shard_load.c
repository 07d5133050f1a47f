/* Load on shards of a running cluster, shard by shard: how long each had to wait, whatever happened
 * to its hosts. `thole bench` measures the whole; this one finds the longest gap of each.
 *
 *   shard_load --endpoints A,B,C [--prefix NAME] [--shards N] [--in-flight N] [--rate PER_SECOND]
 *              [--kv BYTES | --lease TTL] [--total N] [--warmup S] [--seconds S]
 *
 * Proposes 16 bytes (shards of type noop), or with --kv puts values of that size under ever new
 * keys, or with --lease grants leases of that many seconds; until the time is over, or with --total
 * until so many bytes of values were put, or leases granted. Prints JSON. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>
#include <time.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/process.h"

#define BATCH 256
#define OP_TIMEOUT_MS 10000
#define TICK_MS 5
#define KEY_BYTES 32

struct config {
    const char *endpoints, *prefix;
    uint64_t shards, in_flight, rate, kv, lease, total, warmup, seconds;
};

struct slot { /* one operation, in flight or waiting */
    struct load *load;
    uint32_t shard;
    uint64_t begun_ns;
    char *payload;
    size_t payload_bytes;
};

struct load {
    struct config c;
    struct thole *t;
    struct thole_shard **shards;
    struct slot *slots;
    _Atomic uint64_t keys, done, failed, unknown;
    _Atomic bool measuring, ending;

    pthread_mutex_t lock; /* the rest */
    struct slot **waiting;
    size_t waiting_count;
    uint64_t *last_ns, *gap_ns; /* by shard: the last success, and the longest wait for one */
    uint64_t any_ns, stall_ns;  /* the same of all together */
    struct histogram latency;
};

static void die(const char *what, const struct thole_status *st)
{
    fprintf(stderr, "shard_load: %s: %s (%s)\n", what, st->message, thole_reason_name(st->reason));
    exit(1);
}

static void note(uint64_t *last_ns, uint64_t *longest_ns, uint64_t now)
{
    if (now - *last_ns > *longest_ns) {
        *longest_ns = now - *last_ns;
    }
    *last_ns = now;
}

static void completed(void *ctx, const struct thole_result *results, size_t count)
{
    struct load *l = ctx;
    uint64_t now = clock_now(&clock_system);
    bool measuring = atomic_load(&l->measuring);
    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < count; i++) {
        struct slot *s = results[i].user;
        l->waiting[l->waiting_count++] = s;
        if (results[i].code == THOLE_OK) {
            atomic_fetch_add(&l->done, 1);
        } else {
            atomic_fetch_add(
                results[i].reason == THOLE_REASON_OUTCOME_UNKNOWN ? &l->unknown : &l->failed, 1);
        }
        if (results[i].code != THOLE_OK || !measuring) {
            continue;
        }
        note(&l->last_ns[s->shard], &l->gap_ns[s->shard], now);
        note(&l->any_ns, &l->stall_ns, now);
        histogram_record(&l->latency, now - s->begun_ns);
    }
    pthread_mutex_unlock(&l->lock);
}

static void fill(struct load *l, struct slot *s, uint64_t now, struct thole_op *op)
{
    s->begun_ns = now;
    if (l->c.kv > 0) { /* the machine also accepts text */
        int n =
            snprintf(s->payload, KEY_BYTES, "put %016" PRIx64 " ", atomic_fetch_add(&l->keys, 1));
        memset(s->payload + n, 'v', l->c.kv);
        s->payload_bytes = (size_t)n + l->c.kv;
    } else if (l->c.lease > 0) { /* thole.kv.v1.Command{lease_grant: {TTL}} */
        uint8_t ttl[VARINT_BYTES_MAX];
        size_t n = (size_t)(put_varint(ttl, l->c.lease) - ttl);
        const uint8_t head[] = {0, 5 << 3 | 2, (uint8_t)(n + 1), 1 << 3};
        memcpy(s->payload, head, sizeof head);
        memcpy(s->payload + sizeof head, ttl, n);
        s->payload_bytes = sizeof head + n;
    }
    *op = (struct thole_op){.kind = THOLE_PROPOSE,
                            .shard = l->shards[s->shard],
                            .payload = {s->payload, s->payload_bytes},
                            .timeout_ms = OP_TIMEOUT_MS,
                            .user = s};
}

/* Starts up to `most` of the waiting operations. Returns how many. */
static size_t start(struct load *l, size_t most)
{
    struct thole_op ops[BATCH];
    struct slot *slots[BATCH];
    struct thole_status st;
    size_t n = 0, all = 0;
    do {
        pthread_mutex_lock(&l->lock);
        for (n = 0; n < BATCH && all + n < most && l->waiting_count > 0; n++) {
            slots[n] = l->waiting[--l->waiting_count];
        }
        pthread_mutex_unlock(&l->lock);
        uint64_t now = clock_now(&clock_system);
        for (size_t i = 0; i < n; i++) {
            fill(l, slots[i], now, &ops[i]);
        }
        if (n > 0 && thole_submit(l->t, ops, n, completed, l, &st) != THOLE_OK) {
            die("submit", &st);
        }
        all += n;
    } while (n == BATCH);
    return all;
}

static void pause_ms(uint64_t ms)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000},
        NULL);
}

static bool enough(const struct load *l)
{
    uint64_t each = l->c.kv > 0 ? l->c.kv : 1;
    return l->c.total > 0 && atomic_load(&l->done) * each >= l->c.total;
}

/* This thread starts every operation, one tick at a time: a gap is then caused by the cluster, and
 * the rate is kept. */
static void run_for(struct load *l, uint64_t seconds)
{
    uint64_t begin = clock_now(&clock_system), end = begin + seconds * NS_PER_S;
    uint64_t started = 0;
    for (uint64_t now = begin; now < end && !enough(l); now = clock_now(&clock_system)) {
        uint64_t due = l->c.rate ? (now - begin) / 1000 * l->c.rate / 1000000 : UINT64_MAX;
        size_t n =
            due > started ? start(l, due - started > SIZE_MAX ? SIZE_MAX : due - started) : 0;
        started = l->c.rate ? started + n : 0;
        if (l->c.rate || n < BATCH) {
            pause_ms(l->c.rate || l->c.in_flight <= l->c.shards ? TICK_MS : 1);
        }
    }
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* A percentile of the sorted gaps. */
static double gap_ms(const struct load *l, uint64_t percent)
{
    uint64_t at = l->c.shards * percent / 100;
    return (double)l->gap_ns[at < l->c.shards ? at : l->c.shards - 1] / 1e6;
}

static void report(struct load *l, uint64_t done, double seconds)
{
    uint64_t now = clock_now(&clock_system), n = l->c.shards;
    pthread_mutex_lock(&l->lock);
    for (uint64_t i = 0; i < n; i++) {
        note(&l->last_ns[i], &l->gap_ns[i], now);
    }
    qsort(l->gap_ns, n, sizeof *l->gap_ns, by_size);
    printf("{\"seconds\":%.3f,\"proposalsPerSecond\":%.0f,\"failed\":%" PRIu64
           ",\"unknown\":%" PRIu64 ",\"latencyMs\":{\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f},"
           "\"gapMs\":{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f},\"stallMs\":%.1f}\n",
           seconds, (double)done / seconds, (uint64_t)atomic_load(&l->failed),
           (uint64_t)atomic_load(&l->unknown), (double)histogram_percentile(&l->latency, 50) / 1e6,
           (double)histogram_percentile(&l->latency, 99) / 1e6,
           (double)histogram_percentile(&l->latency, 100) / 1e6, gap_ms(l, 50), gap_ms(l, 90),
           gap_ms(l, 99), gap_ms(l, 100), (double)l->stall_ns / 1e6);
    fflush(stdout);
    pthread_mutex_unlock(&l->lock);
}

static void prepare(struct load *l)
{
    struct thole_status st;
    const uint64_t shards = l->c.shards;
    ASSERT(shards > 0);
    if (thole_connect(l->c.endpoints, &l->t, &st) != THOLE_OK) {
        die("connect", &st);
    }
    l->shards = xcalloc(l->c.shards, sizeof(struct thole_shard *));
    l->last_ns = xcalloc(2 * l->c.shards, sizeof *l->last_ns);
    l->gap_ns = l->last_ns + l->c.shards;
    for (uint64_t i = 0; i < l->c.shards; i++) {
        char *name = xasprintf("%s-%" PRIu64, l->c.prefix, i);
        if (thole_shard_open(l->t, name, &l->shards[i], &st) != THOLE_OK) {
            die(name, &st);
        }
        free(name);
    }
    l->slots = xcalloc(l->c.in_flight, sizeof *l->slots);
    l->waiting = xcalloc(l->c.in_flight, sizeof(struct slot *));
    for (uint64_t i = 0; i < l->c.in_flight; i++) {
        struct slot *s = &l->slots[i];
        *s = (struct slot){.load = l, .shard = (uint32_t)(i % shards), .payload_bytes = 16};
        s->payload = xcalloc(KEY_BYTES + l->c.kv, 1);
        l->waiting[l->waiting_count++] = s;
    }
    /* Keys of one run never equal those of another. */
    atomic_store(&l->keys, (uint64_t)time(NULL) << 32);
}

static void finish(struct load *l)
{
    uint64_t left = 1;
    while (left > 0) {
        pthread_mutex_lock(&l->lock);
        left = l->c.in_flight - l->waiting_count;
        pthread_mutex_unlock(&l->lock);
        pause_ms(TICK_MS);
    }
    for (uint64_t i = 0; i < l->c.shards; i++) {
        thole_shard_release(l->shards[i]);
    }
    thole_close(l->t);
    for (uint64_t i = 0; i < l->c.in_flight; i++) {
        free(l->slots[i].payload);
    }
    free(l->slots);
    free(l->waiting);
    free(l->shards);
    free(l->last_ns);
    free(l);
}

static bool read_option(struct config *c, const char *name, const char *value)
{
    const struct {
        const char *name;
        uint64_t *to;
    } numbers[] = {{"--shards", &c->shards}, {"--in-flight", &c->in_flight}, {"--rate", &c->rate},
                   {"--kv", &c->kv},         {"--lease", &c->lease},         {"--total", &c->total},
                   {"--warmup", &c->warmup}, {"--seconds", &c->seconds}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].to = strtoull(value, NULL, 10);
            return true;
        }
    }
    if (strcmp(name, "--endpoints") == 0) {
        c->endpoints = value;
    } else if (strcmp(name, "--prefix") == 0) {
        c->prefix = value;
    } else {
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct load *l = xcalloc(1, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    process_own();
    l->c = (struct config){.prefix = "bench", .shards = 1, .in_flight = 1, .seconds = 5};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 >= argc || !read_option(&l->c, argv[i], argv[i + 1])) {
            fprintf(stderr, "shard_load: what is %s? See the top of shard_load.c\n", argv[i]);
            return 2;
        }
    }
    if (l->c.endpoints == NULL || l->c.shards == 0 || l->c.in_flight == 0) {
        return 2;
    }
    log_configure(LOG_LEVEL_WARN, false);
    prepare(l);
    run_for(l, l->c.warmup);
    uint64_t begin = clock_now(&clock_system), before = atomic_load(&l->done);
    pthread_mutex_lock(&l->lock);
    for (uint64_t i = 0; i < l->c.shards; i++) {
        l->last_ns[i] = begin;
    }
    l->any_ns = begin;
    pthread_mutex_unlock(&l->lock);
    atomic_store(&l->measuring, true);
    fprintf(stderr, "measuring\n");
    run_for(l, l->c.seconds);
    report(l, atomic_load(&l->done) - before, (double)(clock_now(&clock_system) - begin) / 1e9);
    finish(l);
    return 0;
}
