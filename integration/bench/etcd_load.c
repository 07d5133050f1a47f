/* Load on a server of etcd's API, whichever it is: closed loops, each with one call open.
 *
 *   etcd_load --endpoints A,B,C --op put|get|serializable|range|txn [--clients N] [--keys N]
 *             [--value BYTES] [--total N] [--warmup S] [--seconds S]
 *
 * put writes any of the keys; get reads one, linearizable; range reads 1,000 keys from one on; txn
 * is the write of Kubernetes: if a key's mod_revision is the one that was seen last, put, else get.
 * Loops take the endpoints in turn, with a connection for each 100 loops. With --total the keys are
 * written in order, until there are so many. Prints JSON. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/process.h"
#include "base/rand.h"
#include "bus/bus.h"
#include "etcd/kv.upb.h"
#include "etcd/rpc.upb.h"
#include "proto/decode.h"

#define TIMEOUT_MS 30000
#define KEY_BYTES 16
#define RANGE_KEYS 1000
#define LOOPS_PER_CHANNEL 100
#define CHANNELS_MAX 64
#define ENDPOINTS_MAX 16
#define KV "/etcdserverpb.KV/"

enum op { OP_PUT, OP_GET, OP_SERIALIZABLE, OP_RANGE, OP_TXN };
static const char *const op_names[] = {"put", "get", "serializable", "range", "txn"};
static const char *const op_paths[] = {KV "Put", KV "Range", KV "Range", KV "Range", KV "Txn"};

struct config {
    const char *endpoints;
    enum op op;
    uint64_t clients, keys, value, total, warmup, seconds;
};

struct loop {
    struct load *load;
    struct bus_channel *channel;
    struct rand rand;
    uint64_t begun_ns, key;
    int64_t revision; /* txn: of the loop's own key */
};

struct load {
    struct config c;
    struct bus_channel *channels[CHANNELS_MAX];
    size_t channel_count;
    struct loop *loops;
    char *value;
    _Atomic uint64_t next_key, done, failed, open;
    _Atomic bool measuring, ending, said;
    struct histogram latency;
};

static upb_StringView key_of(upb_Arena *arena, uint64_t number)
{
    char *text = upb_Arena_Malloc(arena, KEY_BYTES + 1);
    snprintf(text, KEY_BYTES + 1, "key-%012" PRIu64, number);
    return upb_StringView_FromDataAndSize(text, KEY_BYTES);
}

static upb_StringView value_of(const struct load *l)
{
    return upb_StringView_FromDataAndSize(l->value, l->c.value);
}

static char *encode_put(struct loop *o, upb_Arena *arena, size_t *size)
{
    etcdserverpb_PutRequest *r = etcdserverpb_PutRequest_new(arena);
    etcdserverpb_PutRequest_set_key(r, key_of(arena, o->key));
    etcdserverpb_PutRequest_set_value(r, value_of(o->load));
    return etcdserverpb_PutRequest_serialize(r, arena, size);
}

static char *encode_range(struct loop *o, upb_Arena *arena, size_t *size)
{
    etcdserverpb_RangeRequest *r = etcdserverpb_RangeRequest_new(arena);
    etcdserverpb_RangeRequest_set_key(r, key_of(arena, o->key));
    etcdserverpb_RangeRequest_set_serializable(r, o->load->c.op == OP_SERIALIZABLE);
    if (o->load->c.op == OP_RANGE) {
        etcdserverpb_RangeRequest_set_range_end(r, key_of(arena, o->key + RANGE_KEYS));
        etcdserverpb_RangeRequest_set_limit(r, RANGE_KEYS);
    }
    return etcdserverpb_RangeRequest_serialize(r, arena, size);
}

static char *encode_txn(struct loop *o, upb_Arena *arena, size_t *size)
{
    etcdserverpb_TxnRequest *r = etcdserverpb_TxnRequest_new(arena);
    etcdserverpb_Compare *c = etcdserverpb_TxnRequest_add_compare(r, arena);
    upb_StringView key = key_of(arena, o->key);
    etcdserverpb_Compare_set_target(c, etcdserverpb_Compare_MOD);
    etcdserverpb_Compare_set_result(c, etcdserverpb_Compare_EQUAL);
    etcdserverpb_Compare_set_key(c, key);
    etcdserverpb_Compare_set_mod_revision(c, o->revision);
    etcdserverpb_PutRequest *put = etcdserverpb_RequestOp_mutable_request_put(
        etcdserverpb_TxnRequest_add_success(r, arena), arena);
    etcdserverpb_PutRequest_set_key(put, key);
    etcdserverpb_PutRequest_set_value(put, value_of(o->load));
    etcdserverpb_RangeRequest *get = etcdserverpb_RequestOp_mutable_request_range(
        etcdserverpb_TxnRequest_add_failure(r, arena), arena);
    etcdserverpb_RangeRequest_set_key(get, key);
    return etcdserverpb_TxnRequest_serialize(r, arena, size);
}

/* The revision at which the loop's key is now. */
static void learn(struct loop *o, struct slice reply)
{
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_TxnResponse *r = PROTO_DECODE(etcdserverpb_TxnResponse, reply, arena);
    size_t n = 0;
    if (r != NULL && etcdserverpb_TxnResponse_succeeded(r)) {
        o->revision = etcdserverpb_ResponseHeader_revision(etcdserverpb_TxnResponse_header(r));
    } else if (r != NULL) {
        const etcdserverpb_ResponseOp *const *ops = etcdserverpb_TxnResponse_responses(r, &n);
        const etcdserverpb_RangeResponse *range =
            n > 0 ? etcdserverpb_ResponseOp_response_range(ops[0]) : NULL;
        const mvccpb_KeyValue *const *kvs =
            range != NULL ? etcdserverpb_RangeResponse_kvs(range, &n) : NULL;
        o->revision = kvs != NULL && n > 0 ? mvccpb_KeyValue_mod_revision(kvs[0]) : 0;
    }
    upb_Arena_Free(arena);
}

static void start(struct loop *o);

static void done(void *ctx, const struct thole_status *st, struct bufslice reply)
{
    struct loop *o = ctx;
    struct load *l = o->load;
    if (st->code != THOLE_OK) {
        atomic_fetch_add(&l->failed, 1);
        if (!atomic_exchange(&l->said, true)) {
            fprintf(stderr, "etcd_load: the first failure: %s\n", st->message);
        }
    } else {
        if (l->c.op == OP_TXN) {
            learn(o, reply.bytes);
        }
        if (atomic_load_explicit(&l->measuring, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&l->done, 1, memory_order_relaxed);
            histogram_record(&l->latency, clock_now(&clock_system) - o->begun_ns);
        }
    }
    /* A failed loop ends: whoever measures a broken server learns it from `failed`. */
    if (st->code == THOLE_OK && !atomic_load_explicit(&l->ending, memory_order_relaxed)) {
        start(o);
    } else {
        atomic_fetch_sub(&l->open, 1);
    }
}

static void start(struct loop *o)
{
    struct load *l = o->load;
    upb_Arena *arena = upb_Arena_New();
    size_t size = 0;
    if (l->c.total > 0) {
        o->key = atomic_fetch_add(&l->next_key, 1);
        if (o->key >= l->c.total) {
            upb_Arena_Free(arena);
            atomic_fetch_sub(&l->open, 1);
            return;
        }
    } else if (l->c.op != OP_TXN) {
        o->key = rand_below(&o->rand, l->c.keys);
    }
    char *bytes = l->c.op == OP_PUT   ? encode_put(o, arena, &size)
                  : l->c.op == OP_TXN ? encode_txn(o, arena, &size)
                                      : encode_range(o, arena, &size);
    struct buf *request = buf_copy(bytes, size);
    upb_Arena_Free(arena);
    o->begun_ns = clock_now(&clock_system);
    bus_channel_call_async(o->channel, op_paths[l->c.op],
                           (struct bufslice){request, slice_of(request->data, request->size)},
                           TIMEOUT_MS, done, o);
}

static void pause_ms(uint64_t ms)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000},
        NULL);
}

static void connect_all(struct load *l)
{
    char *copy = xstrdup(l->c.endpoints), *save = NULL, *endpoints[ENDPOINTS_MAX];
    size_t n = 0;
    for (char *w = strtok_r(copy, ",", &save); w != NULL && n < ENDPOINTS_MAX;
         w = strtok_r(NULL, ",", &save)) {
        endpoints[n++] = w;
    }
    ASSERT(n > 0);
    size_t per_endpoint = (l->c.clients / n + LOOPS_PER_CHANNEL - 1) / LOOPS_PER_CHANNEL;
    l->channel_count = n * (per_endpoint > 0 ? per_endpoint : 1);
    ASSERT(l->channel_count <= CHANNELS_MAX);
    for (size_t i = 0; i < l->channel_count; i++) {
        struct thole_status st;
        if (bus_channel_new(endpoints[i % n], &l->channels[i], &st) != THOLE_OK) {
            fprintf(stderr, "etcd_load: %s\n", st.message);
            exit(1);
        }
    }
    free(copy);
}

static bool read_option(struct config *c, const char *name, const char *value)
{
    const struct {
        const char *name;
        uint64_t *to;
    } numbers[] = {{"--clients", &c->clients}, {"--keys", &c->keys},
                   {"--value", &c->value},     {"--total", &c->total},
                   {"--warmup", &c->warmup},   {"--seconds", &c->seconds}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].to = strtoull(value, NULL, 10);
            return true;
        }
    }
    for (size_t i = 0; i < sizeof op_names / sizeof op_names[0]; i++) {
        if (strcmp(name, "--op") == 0 && strcmp(value, op_names[i]) == 0) {
            c->op = (enum op)i;
            return true;
        }
    }
    if (strcmp(name, "--endpoints") == 0) {
        c->endpoints = value;
        return true;
    }
    return false;
}

static void run(struct load *l)
{
    if (l->c.total > 0) {
        atomic_store(&l->measuring, true);
        while (atomic_load(&l->open) > 0) {
            pause_ms(5);
        }
        return;
    }
    pause_ms(l->c.warmup * 1000);
    atomic_store(&l->measuring, true);
    pause_ms(l->c.seconds * 1000);
    atomic_store(&l->measuring, false);
}

static void report(struct load *l, double seconds)
{
    printf("{\"seconds\":%.3f,\"done\":%" PRIu64 ",\"rate\":%.0f,\"failed\":%" PRIu64
           ",\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f,\"cpu\":%.3f}\n",
           seconds, (uint64_t)atomic_load(&l->done), (double)atomic_load(&l->done) / seconds,
           (uint64_t)atomic_load(&l->failed), (double)histogram_percentile(&l->latency, 50) / 1e6,
           (double)histogram_percentile(&l->latency, 99) / 1e6,
           (double)histogram_percentile(&l->latency, 100) / 1e6, (double)clock() / CLOCKS_PER_SEC);
}

int main(int argc, char **argv)
{
    struct load *l = xcalloc(1, sizeof *l);
    process_own();
    l->c = (struct config){.clients = 1, .keys = 10000, .value = 256, .warmup = 1, .seconds = 5};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 >= argc || !read_option(&l->c, argv[i], argv[i + 1])) {
            fprintf(stderr, "etcd_load: what is %s? See the top of etcd_load.c\n", argv[i]);
            return 2;
        }
    }
    if (l->c.endpoints == NULL || l->c.clients == 0 || l->c.keys == 0) {
        return 2;
    }
    log_configure(LOG_LEVEL_WARN, false);
    l->value = xmalloc(l->c.value + 1);
    memset(l->value, 'v', l->c.value);
    connect_all(l);
    l->loops = xcalloc(l->c.clients, sizeof *l->loops);
    uint64_t begin = clock_now(&clock_system);
    atomic_store(&l->open, l->c.clients);
    for (uint64_t i = 0; i < l->c.clients; i++) {
        struct loop *o = &l->loops[i];
        *o = (struct loop){.load = l, .channel = l->channels[i % l->channel_count], .key = i};
        rand_seed(&o->rand, i + 1);
        start(o);
    }
    run(l);
    double seconds =
        l->c.total > 0 ? (double)(clock_now(&clock_system) - begin) / 1e9 : (double)l->c.seconds;
    report(l, seconds);
    atomic_store(&l->ending, true);
    while (atomic_load(&l->open) > 0) {
        pause_ms(5);
    }
    for (size_t i = 0; i < l->channel_count; i++) {
        bus_channel_free(l->channels[i]);
    }
    free(l->loops);
    free(l->value);
    free(l);
    return 0;
}
