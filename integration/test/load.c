#include "integration/test/load.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>
#include <time.h>

#include <cmocka.h>

#include "base/buf.h"

#define WRITES_MAX 4000000
#define DRAIN_MS 15000
#define VERIFY_IN_FLIGHT 128

enum outcome { OPEN = 0, ACKNOWLEDGED = 1, UNKNOWN = 2, VERIFIED = 3 };

struct load {
    struct thole *client;
    struct thole_shard *shard;
    char shard_name[64];
    unsigned in_flight;
    uint64_t client_of_key; /* distinguishes the keys of this load */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool stopping;
    uint64_t next; /* the next new write */
    uint64_t outstanding;
    uint64_t *again; /* refused ones, to send again */
    size_t again_count;
    uint8_t *outcome; /* by write: enum outcome */
    struct load_report report;
    uint64_t last_ack_ms;
    uint64_t wrong; /* of a verification */
};

static unsigned loads_made;

static void note_gap(struct load *l, uint64_t now)
{
    uint64_t gap = now - l->last_ack_ms;
    if (gap > l->report.gap_ms_max) {
        l->report.gap_ms_max = gap;
    }
}

static void one_done(struct load *l, const struct thole_result *r)
{
    uint64_t n = (uint64_t)(uintptr_t)r->user - 1;
    l->outstanding--;
    if (r->code == THOLE_OK && r->value == 0) {
        uint64_t now = now_ms();
        note_gap(l, now);
        l->last_ack_ms = now;
        l->outcome[n] = ACKNOWLEDGED;
        l->report.acknowledged++;
    } else if (r->code == THOLE_UNAVAILABLE || r->code == THOLE_RESOURCE_EXHAUSTED) {
        l->again[l->again_count++] = n;
        l->report.refused++;
    } else {
        l->outcome[n] = UNKNOWN;
        l->report.unknown++;
    }
}

static void on_results(void *ctx, const struct thole_result *results, size_t count)
{
    struct load *l = ctx;
    pthread_mutex_lock(&l->mutex);
    for (size_t i = 0; i < count; i++) {
        one_done(l, &results[i]);
    }
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->mutex);
}

static int put_text(const struct load *l, uint64_t n, char *text, size_t size)
{
    return snprintf(text, size, "put load-%" PRIx64 "-%" PRIu64 " value-%" PRIu64, l->client_of_key,
                    n, n);
}

/* Chooses the next write to send; false: wait. The mutex is held. */
static bool pick(struct load *l, uint64_t *ret)
{
    if (l->stopping || l->outstanding >= l->in_flight) {
        return false;
    }
    if (l->again_count > 0) {
        *ret = l->again[--l->again_count];
    } else {
        if (l->next >= WRITES_MAX) {
            return false;
        }
        *ret = l->next++;
    }
    l->outstanding++;
    return true;
}

static void *load_main(void *arg)
{
    struct load *l = arg;
    pthread_mutex_lock(&l->mutex);
    while (!l->stopping) {
        uint64_t n;
        if (!pick(l, &n)) {
            pthread_cond_wait(&l->cond, &l->mutex);
            continue;
        }
        pthread_mutex_unlock(&l->mutex);
        char text[128];
        int size = put_text(l, n, text, sizeof text);
        struct thole_op op = {
            .kind = THOLE_PROPOSE,
            .shard = l->shard,
            .payload = {text, (size_t)size},
            .timeout_ms = 10000,
            .user = (void *)(uintptr_t)(n + 1),
        };
        enum thole_code code = thole_submit(l->client, &op, 1, on_results, l, NULL);
        pthread_mutex_lock(&l->mutex);
        if (code != THOLE_OK) {
            l->outstanding--;
            l->again[l->again_count++] = n;
        }
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

struct load *load_start(const char *endpoints, const char *shard, unsigned in_flight)
{
    struct load *l = xcalloc(1, sizeof *l);
    struct thole_status st = {0};
    if (thole_connect(endpoints, &l->client, &st) != THOLE_OK ||
        thole_shard_open(l->client, shard, &l->shard, &st) != THOLE_OK) {
        fail_msg("load client: %s", st.message);
    }
    snprintf(l->shard_name, sizeof l->shard_name, "%s", shard);
    l->in_flight = in_flight;
    l->client_of_key = now_ms() << 8 | (loads_made++ & 255);
    l->outcome = xcalloc(WRITES_MAX, 1);
    l->again = xcalloc(in_flight + 1, sizeof *l->again);
    l->last_ack_ms = now_ms();
    pthread_mutex_init(&l->mutex, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->cond, &attr);
    pthread_condattr_destroy(&attr);
    assert_int_equal(pthread_create(&l->thread, NULL, load_main, l), 0);
    return l;
}

uint64_t load_acknowledged(const struct load *l)
{
    struct load *m = (struct load *)(uintptr_t)l;
    pthread_mutex_lock(&m->mutex);
    uint64_t n = m->report.acknowledged;
    pthread_mutex_unlock(&m->mutex);
    return n;
}

void load_reset_gap(struct load *l)
{
    pthread_mutex_lock(&l->mutex);
    l->report.gap_ms_max = 0;
    pthread_mutex_unlock(&l->mutex);
}

uint64_t load_gap_ms_max(const struct load *l)
{
    struct load *m = (struct load *)(uintptr_t)l;
    pthread_mutex_lock(&m->mutex);
    uint64_t gap = m->report.gap_ms_max;
    pthread_mutex_unlock(&m->mutex);
    return gap;
}

struct progress {
    const struct load *load;
    uint64_t target;
};

static bool has_progressed(void *ctx)
{
    struct progress *p = ctx;
    return load_acknowledged(p->load) >= p->target;
}

void load_wait_progress(struct load *l, uint64_t n, int timeout_ms)
{
    eventually(timeout_ms, "writes make progress", has_progressed,
               &(struct progress){l, load_acknowledged(l) + n});
}

/* Wait until nothing is outstanding; false after timeout_ms. The mutex is held. */
static bool drain(struct load *l, uint64_t timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(timeout_ms / 1000);
    while (l->outstanding > 0) {
        if (pthread_cond_timedwait(&l->cond, &l->mutex, &until) != 0) {
            return false;
        }
    }
    return true;
}

void load_stop(struct load *l, struct load_report *ret)
{
    pthread_mutex_lock(&l->mutex);
    l->stopping = true;
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->mutex);
    pthread_join(l->thread, NULL);
    pthread_mutex_lock(&l->mutex);
    bool drained = drain(l, DRAIN_MS);
    *ret = l->report;
    pthread_mutex_unlock(&l->mutex);
    if (!drained) {
        fail_msg("%" PRIu64 " operations were never completed", l->outstanding);
    }
    thole_shard_release(l->shard);
    thole_close(l->client);
    l->client = NULL;
}

static void check_one(struct load *l, const struct thole_result *r)
{
    uint64_t n = (uint64_t)(uintptr_t)r->user - 1;
    char wanted[64];
    int size = snprintf(wanted, sizeof wanted, "value-%" PRIu64, n);
    l->outstanding--;
    if (r->code != THOLE_OK && r->code != THOLE_NOT_FOUND) {
        return; /* retried */
    }
    l->outcome[n] = VERIFIED;
    if (r->data.size != (size_t)size || memcmp(r->data.data, wanted, (size_t)size) != 0) {
        if (l->wrong++ < 5) {
            fprintf(stderr, "write %" PRIu64 ": answered \"%.*s\"\n", n, (int)r->data.size,
                    (const char *)r->data.data);
        }
    }
}

static void on_answers(void *ctx, const struct thole_result *results, size_t count)
{
    struct load *l = ctx;
    pthread_mutex_lock(&l->mutex);
    for (size_t i = 0; i < count; i++) {
        check_one(l, &results[i]);
    }
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->mutex);
}

static void ask(struct load *l, uint64_t n)
{
    char text[128];
    int size = snprintf(text, sizeof text, "get load-%" PRIx64 "-%" PRIu64, l->client_of_key, n);
    struct thole_op op = {
        .kind = THOLE_QUERY,
        .shard = l->shard,
        .payload = {text, (size_t)size},
        .timeout_ms = 10000,
        .user = (void *)(uintptr_t)(n + 1),
    };
    pthread_mutex_lock(&l->mutex);
    while (l->outstanding >= VERIFY_IN_FLIGHT) {
        pthread_cond_wait(&l->cond, &l->mutex);
    }
    l->outstanding++;
    pthread_mutex_unlock(&l->mutex);
    if (thole_submit(l->client, &op, 1, on_answers, l, NULL) != THOLE_OK) {
        pthread_mutex_lock(&l->mutex);
        l->outstanding--;
        pthread_mutex_unlock(&l->mutex);
    }
}

uint64_t load_verify_in(struct load *l, const char *endpoints, const char *shard)
{
    struct thole_status st = {0};
    uint64_t deadline = now_ms() + 60000, left = 1;
    while (thole_connect(endpoints, &l->client, &st) != THOLE_OK) {
        if (now_ms() > deadline) {
            fail_msg("cannot connect to verify: %s", st.message);
        }
    }
    assert_int_equal(thole_shard_open(l->client, shard, &l->shard, &st), THOLE_OK);
    l->wrong = 0;
    for (uint64_t n = 0; n < l->next; n++) {
        l->outcome[n] = l->outcome[n] == VERIFIED ? ACKNOWLEDGED : l->outcome[n];
    }
    while (left > 0 && now_ms() < deadline) {
        for (uint64_t n = 0; n < l->next; n++) {
            if (l->outcome[n] == ACKNOWLEDGED) {
                ask(l, n);
            }
        }
        pthread_mutex_lock(&l->mutex);
        bool drained = drain(l, 30000);
        pthread_mutex_unlock(&l->mutex);
        assert_true(drained);
        left = 0;
        for (uint64_t n = 0; n < l->next; n++) {
            left += l->outcome[n] == ACKNOWLEDGED;
        }
    }
    thole_shard_release(l->shard);
    thole_close(l->client);
    l->client = NULL;
    return l->wrong + left;
}

uint64_t load_verify(struct load *l, const char *endpoints)
{
    return load_verify_in(l, endpoints, l->shard_name);
}

void load_free(struct load *l)
{
    pthread_mutex_destroy(&l->mutex);
    pthread_cond_destroy(&l->cond);
    free(l->outcome);
    free(l->again);
    free(l);
}
