/* The bench over the library's asynchronous calls: thole_submit with batches, as an embedding
 * client would use it. One client with all endpoints finds the leaders; a client reads from one
 * host, so with reads there is one client per endpoint. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>
#include <time.h>

#include "agent/cli/cmd_bench.h"
#include "base/clock.h"

#define BATCH 256
#define OP_TIMEOUT_MS 10000

struct async_slot {
    struct thole_shard *shard;
    struct async_slot *next; /* waiting to be started again */
    uint64_t count, begin_ns;
    bool is_query;
};

struct async_client {
    struct async_mode *mode;
    struct thole *handle;
    struct thole_shard **shards;
    pthread_mutex_t mutex;
    struct async_slot *waiting; /* failed or refused: the next tick starts them again */
};

struct async_mode {
    struct bench *b;
    struct async_client *clients;
    size_t client_count;
    struct async_slot *slots;
    char *payload;
};

static void set_aside(struct async_client *client, struct async_slot *s)
{
    pthread_mutex_lock(&client->mutex);
    s->next = client->waiting;
    client->waiting = s;
    pthread_mutex_unlock(&client->mutex);
}

static void results(void *ctx, const struct thole_result *r, size_t count);

/* Start all operations in one call. */
static void submit(struct async_client *client, struct async_slot *const *slots, size_t count)
{
    struct thole_op ops[BATCH];
    struct thole_status st;
    struct bench *b = client->mode->b;
    uint64_t now = clock_now(&clock_system);
    for (size_t i = 0; i < count; i++) {
        struct async_slot *s = slots[i];
        s->begin_ns = now;
        s->is_query = bench_is_query(b, s->count++);
        ops[i] = (struct thole_op){.kind = s->is_query ? THOLE_QUERY : THOLE_PROPOSE,
                                   .shard = s->shard,
                                   .timeout_ms = OP_TIMEOUT_MS,
                                   .user = s};
        if (!s->is_query) {
            ops[i].payload = (struct thole_slice){client->mode->payload, b->payload_bytes};
        }
    }
    if (count > 0 && thole_submit(client->handle, ops, count, results, client, &st) != THOLE_OK) {
        for (size_t i = 0; i < count; i++) {
            bench_record(b, slots[i]->is_query, now, &st);
            set_aside(client, slots[i]);
        }
    }
}

static void results(void *ctx, const struct thole_result *r, size_t count)
{
    struct async_client *client = ctx;
    struct bench *b = client->mode->b;
    struct async_slot *again[BATCH];
    size_t n = 0;
    bool end = atomic_load_explicit(&b->phase, memory_order_relaxed) == BENCH_END;
    for (size_t i = 0; i < count; i++) {
        struct async_slot *s = r[i].user;
        struct thole_status st;
        st.code = r[i].code;
        st.reason = r[i].reason;
        st.message[0] = '\0';
        if (st.code != THOLE_OK && r[i].message != NULL) {
            snprintf(st.message, sizeof st.message, "%s", r[i].message);
        }
        bench_record(b, s->is_query, s->begin_ns, &st);
        if (end) {
            atomic_fetch_sub(&b->outstanding, 1);
        } else if (st.code != THOLE_OK) {
            set_aside(client, s);
        } else {
            again[n++] = s;
        }
        if (n == BATCH) {
            submit(client, again, n);
            n = 0;
        }
    }
    submit(client, again, n);
}

static void client_tick(struct async_client *client)
{
    struct bench *b = client->mode->b;
    struct async_slot *again[BATCH];
    size_t n = 0;
    pthread_mutex_lock(&client->mutex);
    struct async_slot *s = client->waiting;
    client->waiting = NULL;
    pthread_mutex_unlock(&client->mutex);
    while (s != NULL) {
        struct async_slot *next = s->next;
        if (atomic_load(&b->phase) == BENCH_END) {
            atomic_fetch_sub(&b->outstanding, 1);
        } else {
            again[n++] = s;
        }
        if (n == BATCH) {
            submit(client, again, n);
            n = 0;
        }
        s = next;
    }
    submit(client, again, n);
}

static void async_tick(void *mode)
{
    struct async_mode *m = mode;
    for (size_t i = 0; i < m->client_count; i++) {
        client_tick(&m->clients[i]);
    }
}

static void async_stop(void *mode)
{
    struct async_mode *m = mode;
    while (atomic_load(&m->b->outstanding) > 0) {
        async_tick(m);
        cli__pause_ms(5);
    }
    for (size_t i = 0; i < m->client_count; i++) {
        struct async_client *client = &m->clients[i];
        for (size_t k = 0; k < m->b->shard_count; k++) {
            thole_shard_release(client->shards[k]);
        }
        thole_close(client->handle);
        pthread_mutex_destroy(&client->mutex);
        free(client->shards);
    }
    free(m->clients);
    free(m->slots);
    free(m->payload);
    free(m);
}

static enum thole_code open_client(struct async_mode *m, size_t i, struct thole_status *st)
{
    struct async_client *client = &m->clients[i];
    struct bytes addresses = {0};
    for (size_t k = 0; k < m->b->endpoint_count; k++) {
        bytes_printf(&addresses, "%s%s", k > 0 ? "," : "",
                     m->b->endpoints[(i + k) % m->b->endpoint_count]);
    }
    bytes_append(&addresses, "", 1);
    struct thole_tls tls;
    cli__tls_files(m->b->c, &tls);
    enum thole_code code = thole_connect_tls(
        (const char *)addresses.data, cli__has_tls(m->b->c) ? &tls : NULL, &client->handle, st);
    bytes_deinit(&addresses);
    for (size_t k = 0; code == THOLE_OK && k < m->b->shard_count; k++) {
        code = thole_shard_open(client->handle, m->b->shards[k], &client->shards[k], st);
    }
    return code;
}

/* Slots of one client are consecutive, so that they start in batches; each client has slots for
 * every shard. */
static void start_slots(struct async_mode *m)
{
    struct bench *b = m->b;
    struct async_slot *batch[BATCH];
    uint32_t first = 0;
    for (size_t i = 0; i < m->client_count; i++) {
        uint32_t last = (uint32_t)(b->in_flight * (i + 1) / m->client_count);
        size_t n = 0;
        for (uint32_t at = first; at < last; at++) {
            struct async_slot *s = &m->slots[at];
            *s = (struct async_slot){.shard = m->clients[i].shards[(at - first) % b->shard_count],
                                     .count = at};
            atomic_fetch_add(&b->outstanding, 1);
            batch[n++] = s;
            if (n == BATCH || at + 1 == last) {
                submit(&m->clients[i], batch, n);
                n = 0;
            }
        }
        first = last;
    }
}

static void *async_start(struct bench *b, struct thole_status *st)
{
    struct async_mode *m = xcalloc(1, sizeof *m);
    m->b = b;
    m->client_count = b->read_share > 0 ? b->endpoint_count : 1;
    m->clients = xcalloc(m->client_count, sizeof *m->clients);
    m->slots = xcalloc(b->in_flight, sizeof *m->slots);
    m->payload = xmalloc(b->payload_bytes + 1);
    memset(m->payload, 'x', b->payload_bytes);
    enum thole_code code = THOLE_OK;
    for (size_t i = 0; i < m->client_count; i++) {
        m->clients[i].mode = m;
        m->clients[i].shards = xcalloc(b->shard_count, sizeof(struct thole_shard *));
        pthread_mutex_init(&m->clients[i].mutex, NULL);
    }
    for (size_t i = 0; code == THOLE_OK && i < m->client_count; i++) {
        code = open_client(m, i, st);
    }
    if (code != THOLE_OK) {
        async_stop(m);
        return NULL;
    }
    start_slots(m);
    return m;
}

const struct bench_mode bench_async = {async_start, async_tick, async_stop};
