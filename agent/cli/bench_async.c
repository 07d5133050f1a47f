/* The bench over the library's asynchronous calls: thole_submit with batches, as a program that
 * embeds a client would. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>
#include <time.h>

#include "agent/cli/bench.h"
#include "base/clock.h"

#define BATCH 256
#define OP_TIMEOUT_MS 10000

struct async_slot {
    struct thole_shard *shard;
    struct async_slot *next; /* waiting to be started again */
    uint64_t count, begin_ns;
    bool is_query;
};

struct async_mode {
    struct bench *b;
    struct thole *client;
    struct thole_shard **shards;
    struct async_slot *slots;
    char *payload;
    pthread_mutex_t mutex;
    struct async_slot *waiting; /* failed or refused: a tick starts them again */
};

static void set_aside(struct async_mode *m, struct async_slot *s)
{
    pthread_mutex_lock(&m->mutex);
    s->next = m->waiting;
    m->waiting = s;
    pthread_mutex_unlock(&m->mutex);
}

static void results(void *ctx, const struct thole_result *r, size_t count);

/* Start all of them, in one call. */
static void submit(struct async_mode *m, struct async_slot *const *slots, size_t count)
{
    struct thole_op ops[BATCH];
    struct thole_status st;
    uint64_t now = clock_now(&clock_system);
    for (size_t i = 0; i < count; i++) {
        struct async_slot *s = slots[i];
        s->begin_ns = now;
        s->is_query = bench_is_query(m->b, s->count++);
        ops[i] = (struct thole_op){.kind = s->is_query ? THOLE_QUERY : THOLE_PROPOSE,
                                   .shard = s->shard,
                                   .timeout_ms = OP_TIMEOUT_MS,
                                   .user = s};
        if (!s->is_query) {
            ops[i].payload = (struct thole_slice){m->payload, m->b->payload_bytes};
        }
    }
    if (count > 0 && thole_submit(m->client, ops, count, results, m, &st) != THOLE_OK) {
        for (size_t i = 0; i < count; i++) {
            bench_record(m->b, slots[i]->is_query, now, &st);
            set_aside(m, slots[i]);
        }
    }
}

static void results(void *ctx, const struct thole_result *r, size_t count)
{
    struct async_mode *m = ctx;
    struct async_slot *again[BATCH];
    size_t n = 0;
    bool end = atomic_load_explicit(&m->b->phase, memory_order_relaxed) == BENCH_END;
    for (size_t i = 0; i < count; i++) {
        struct async_slot *s = r[i].user;
        struct thole_status st = {.code = r[i].code, .reason = r[i].reason};
        if (st.code != THOLE_OK && r[i].message != NULL) {
            strncpy(st.message, r[i].message, sizeof(st.message) - 1);
        }
        bench_record(m->b, s->is_query, s->begin_ns, &st);
        if (end) {
            atomic_fetch_sub(&m->b->outstanding, 1);
        } else if (st.code != THOLE_OK) {
            set_aside(m, s);
        } else {
            again[n++] = s;
        }
        if (n == BATCH) {
            submit(m, again, n);
            n = 0;
        }
    }
    submit(m, again, n);
}

static void async_tick(void *mode)
{
    struct async_mode *m = mode;
    struct async_slot *again[BATCH];
    size_t n = 0;
    pthread_mutex_lock(&m->mutex);
    struct async_slot *s = m->waiting;
    m->waiting = NULL;
    pthread_mutex_unlock(&m->mutex);
    while (s != NULL) {
        struct async_slot *next = s->next;
        if (atomic_load(&m->b->phase) == BENCH_END) {
            atomic_fetch_sub(&m->b->outstanding, 1);
        } else {
            again[n++] = s;
        }
        if (n == BATCH) {
            submit(m, again, n);
            n = 0;
        }
        s = next;
    }
    submit(m, again, n);
}

static void async_stop(void *mode)
{
    struct async_mode *m = mode;
    while (atomic_load(&m->b->outstanding) > 0) {
        async_tick(m);
        nanosleep(&(struct timespec){.tv_nsec = 5 * NS_PER_MS}, NULL);
    }
    for (size_t i = 0; i < m->b->shard_count; i++) {
        thole_shard_release(m->shards[i]);
    }
    thole_close(m->client);
    pthread_mutex_destroy(&m->mutex);
    free(m->shards);
    free(m->slots);
    free(m->payload);
    free(m);
}

static void *async_start(struct bench *b, struct thole_status *st)
{
    struct async_mode *m = xcalloc(1, sizeof(*m));
    m->b = b;
    pthread_mutex_init(&m->mutex, NULL);
    m->shards = xcalloc(b->shard_count, sizeof(struct thole_shard *));
    m->slots = xcalloc(b->in_flight, sizeof(*m->slots));
    m->payload = xmalloc(b->payload_bytes + 1);
    memset(m->payload, 'x', b->payload_bytes);
    enum thole_code code = thole_connect(b->c->values[OPT_ENDPOINTS].text, &m->client, st);
    for (size_t i = 0; code == THOLE_OK && i < b->shard_count; i++) {
        code = thole_shard_open(m->client, b->shards[i], &m->shards[i], st);
    }
    if (code != THOLE_OK) {
        async_stop(m);
        return NULL;
    }
    struct async_slot *batch[BATCH];
    size_t n = 0;
    for (uint32_t i = 0; i < b->in_flight; i++) {
        struct async_slot *s = &m->slots[i];
        *s = (struct async_slot){.shard = m->shards[i % b->shard_count], .count = i};
        atomic_fetch_add(&b->outstanding, 1);
        batch[n++] = s;
        if (n == BATCH || i + 1 == b->in_flight) {
            submit(m, batch, n);
            n = 0;
        }
    }
    return m;
}

const struct bench_mode bench_async = {async_start, async_tick, async_stop};
