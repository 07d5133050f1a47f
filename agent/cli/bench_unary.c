/* The bench over unary gRPC: each operation is one call of Data.Propose or Data.Query. One channel
 * per endpoint; an operation that ends starts the next on the channel's own thread. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/cli/cmd_bench.h"
#include "base/assert.h"
#include "base/clock.h"
#include "bus/bus.h"
#include "thole/v1/data.upb.h"

#define CALL_TIMEOUT_MS 10000

struct unary_slot {
    struct unary_mode *mode;
    struct bus_channel *channel;
    struct buf *propose, *query; /* encoded requests, shared by all slots of a shard */
    struct unary_slot *next;     /* waiting to be started again */
    uint64_t count, begin_ns;
    bool is_query;
};

struct unary_mode {
    struct bench *b;
    struct bus_channel **channels;
    struct buf **proposals, **queries; /* by shard */
    struct unary_slot *slots;
    pthread_mutex_t mutex;
    struct unary_slot *failed; /* retried by the next tick: no busy loop against a dead host */
};

static void slot_start(struct unary_slot *s);

static void slot_done(void *ctx, const struct thole_status *st, struct bufslice reply)
{
    struct unary_slot *s = ctx;
    struct unary_mode *m = s->mode;
    (void)reply;
    bench_record(m->b, s->is_query, s->begin_ns, st);
    if (atomic_load_explicit(&m->b->phase, memory_order_relaxed) == BENCH_END) {
        atomic_fetch_sub(&m->b->outstanding, 1);
    } else if (st->code == THOLE_OK) {
        slot_start(s);
    } else {
        pthread_mutex_lock(&m->mutex);
        s->next = m->failed;
        m->failed = s;
        pthread_mutex_unlock(&m->mutex);
    }
}

static void slot_start(struct unary_slot *s)
{
    s->is_query = bench_is_query(s->mode->b, s->count++);
    struct buf *request = buf_ref(s->is_query ? s->query : s->propose);
    s->begin_ns = clock_now(&clock_system);
    bus_channel_call_async(s->channel,
                           s->is_query ? "/thole.v1.Data/Query" : "/thole.v1.Data/Propose",
                           (struct bufslice){request, slice_of(request->data, request->size)},
                           CALL_TIMEOUT_MS, slot_done, s);
}

static void unary_tick(void *mode)
{
    struct unary_mode *m = mode;
    pthread_mutex_lock(&m->mutex);
    struct unary_slot *s = m->failed;
    m->failed = NULL;
    pthread_mutex_unlock(&m->mutex);
    while (s != NULL) {
        struct unary_slot *next = s->next;
        if (atomic_load(&m->b->phase) == BENCH_END) {
            atomic_fetch_sub(&m->b->outstanding, 1);
        } else {
            slot_start(s);
        }
        s = next;
    }
}

static void unary_stop(void *mode)
{
    struct unary_mode *m = mode;
    while (atomic_load(&m->b->outstanding) > 0) {
        unary_tick(m);
        cli__pause_ms(5);
    }
    for (size_t i = 0; i < m->b->endpoint_count; i++) {
        bus_channel_free(m->channels[i]);
    }
    for (size_t i = 0; i < m->b->shard_count; i++) {
        buf_unref(m->proposals[i]);
        buf_unref(m->queries[i]);
    }
    pthread_mutex_destroy(&m->mutex);
    free(m->channels);
    free(m->proposals);
    free(m->queries);
    free(m->slots);
    free(m);
}

static void encode_requests(struct unary_mode *m, size_t shard)
{
    upb_Arena *arena = upb_Arena_New();
    size_t size = m->b->payload_bytes;
    char *payload = upb_Arena_Malloc(arena, size + 1);
    memset(payload, 'x', size);
    thole_v1_ProposeRequest *propose = thole_v1_ProposeRequest_new(arena);
    thole_v1_ProposeRequest_set_shard(propose, cli__sv(m->b->shards[shard]));
    thole_v1_ProposeRequest_set_data(propose, (upb_StringView){payload, size});
    char *bytes = thole_v1_ProposeRequest_serialize(propose, arena, &size);
    m->proposals[shard] = buf_copy(bytes, size);
    thole_v1_QueryRequest *query = thole_v1_QueryRequest_new(arena);
    thole_v1_QueryRequest_set_shard(query, cli__sv(m->b->shards[shard]));
    bytes = thole_v1_QueryRequest_serialize(query, arena, &size);
    m->queries[shard] = buf_copy(bytes, size);
    upb_Arena_Free(arena);
}

static void *unary_start(struct bench *b, struct thole_status *st)
{
    struct unary_mode *m = xcalloc(1, sizeof *m);
    const size_t endpoints = b->endpoint_count, shards = b->shard_count;
    ASSERT(endpoints > 0 && shards > 0);
    m->b = b;
    pthread_mutex_init(&m->mutex, NULL);
    m->channels = xcalloc(b->endpoint_count, sizeof(struct bus_channel *));
    m->proposals = xcalloc(b->shard_count, sizeof(struct buf *));
    m->queries = xcalloc(b->shard_count, sizeof(struct buf *));
    m->slots = xcalloc(b->in_flight, sizeof *m->slots);
    for (size_t i = 0; i < b->endpoint_count; i++) {
        if (cli__open_channel(b->c, b->endpoints[i], &m->channels[i], st) != THOLE_OK) {
            unary_stop(m);
            return NULL;
        }
    }
    for (size_t i = 0; i < b->shard_count; i++) {
        encode_requests(m, i);
    }
    for (uint32_t i = 0; i < b->in_flight; i++) {
        struct unary_slot *s = &m->slots[i];
        *s = (struct unary_slot){.mode = m,
                                 .channel = m->channels[i % endpoints],
                                 .propose = m->proposals[i % shards],
                                 .query = m->queries[i % shards],
                                 .count = i};
        atomic_fetch_add(&b->outstanding, 1);
        slot_start(s);
    }
    return m;
}

const struct bench_mode bench_unary = {unary_start, unary_tick, unary_stop};
