/* The life of a bus: options, the listening server, its methods, start and orderly stop. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "bus/bus_internal.h"

#define UNARY_SLOTS_DEFAULT 256
#define STREAMS_DEFAULT 20480
#define SLOTS 16                  /* armed calls; more calls queue inside gRPC until one is free */
#define STREAMS_MAX 1024          /* concurrent calls of one connection */
#define CONNECTION_IDLE_MS 150000 /* without a call; the client reconnects for the next one */
#define CONNECTION_AGE_MS 3600000
#define CONNECTIONS_MAX 10000
#define CONNECTIONS_MIN 16
#define ANSWER_WAIT_MS 200 /* for answers that were given while their owners stopped */
#define CANCEL_WAIT_MS 10000
#define POOLED_MAX 8192 /* pooled requests, and exchanges: 2 MiB each */

/* ---- Listening ------------------------------------------------------------------------------- */

grpc_arg bus__int_arg(const char *key, int value)
{
    return (grpc_arg){
        .type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

static METRIC_DEFINE_GAUGE(metric_held, "thole_bus_held_bytes",
                           "Bytes of requests and unread answers that are held for callers");

void bus__charge(struct bus *b, size_t *charged, size_t now)
{
    size_t apart = now > *charged ? now - *charged : *charged - now;
    if (b == NULL || apart == 0 || (apart < BUS_CHARGE_STEP_BYTES && now > 0)) {
        return;
    }
    if (now > *charged) {
        atomic_fetch_add_explicit(&b->held_bytes, apart, memory_order_relaxed);
    } else {
        size_t before = atomic_fetch_sub_explicit(&b->held_bytes, apart, memory_order_relaxed);
        ASSERT(before >= apart);
    }
    metric_add(&metric_held, (int64_t)now - (int64_t)*charged);
    *charged = now;
}

bool bus__has_room(const struct bus *b, size_t bytes)
{
    return bytes <= BUS_SMALL_BYTES ||
           atomic_load_explicit(&b->held_bytes, memory_order_relaxed) + bytes <= b->o.memory_bytes;
}

static grpc_server *server_create(struct bus *b)
{
    b->quota = grpc_resource_quota_create("bus");
    grpc_resource_quota_resize(b->quota, b->o.memory_bytes);
    grpc_arg args[] = {
        {.type = GRPC_ARG_POINTER,
         .key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
         .value.pointer = {b->quota, grpc_resource_quota_arg_vtable()}},
        /* Decompression is unbounded: a message of 1 MB may become 1 GB. */
        bus__int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        bus__int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        bus__accept_arg(b->acceptor),
        bus__int_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS, CONNECTION_IDLE_MS),
        bus__int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, STREAMS_MAX),
        bus__int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, BUS_MESSAGE_BYTES_MAX),
        bus__int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        /* Clients may ping freely: peers ping every second, etcd-like clients when idle. */
        bus__int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        bus__int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 100),
        bus__int_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0),
        bus__int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 5000),
        bus__int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, BUS_KEEPALIVE_TIMEOUT_MS),
        bus__int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        bus__int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 5000),
        bus__int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        bus__int_arg(GRPC_ARG_MAX_CHANNEL_TRACE_EVENT_MEMORY_PER_NODE, 0),
        bus__int_arg(GRPC_ARG_MAX_CONNECTION_AGE_MS, (int)b->o.connection_age_ms),
    };
    /* Without TLS the last argument is left out: connections do not age. */
    const grpc_channel_args all = {sizeof args / sizeof *args - (b->o.tls == NULL), args};
    return grpc_server_create(&all, NULL);
}

static enum thole_code listen_on(struct bus *b, struct thole_status *st)
{
    /* gRPC needs a host. That of all IPv6 interfaces also takes IPv4. */
    if (b->listen_address[0] == ':') {
        int six = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        char *all = xasprintf("%s%s", six >= 0 ? "[::]" : "0.0.0.0", b->listen_address);
        if (six >= 0) {
            close(six);
        }
        free(b->listen_address);
        b->listen_address = all;
    }
    const char *address = b->listen_address;
    struct address_parts parts;
    char *rest = NULL;
    bool ok = address_split(slice_str(address), &parts);
    long number = ok ? strtol(parts.port, &rest, 10) : 0;
    if (!ok || *rest || number < 0 || number > UINT16_MAX) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "cannot listen on \"%s\": it must be host:port", address);
    }
    enum thole_code code =
        bus__accept_new(b, parts.host, parts.port, address, &b->acceptor, &b->port, st);
    if (code != THOLE_OK) {
        return code;
    }
    b->server = server_create(b);
    grpc_server_register_completion_queue(b->server, b->loop.cq, NULL);
    grpc_server_credentials *credentials = b->o.tls != NULL
                                               ? bus__tls_server_credentials(b->o.tls)
                                               : grpc_insecure_server_credentials_create();
    (void)grpc_server_add_http2_port(b->server, BUS_ACCEPT_ADDRESS, credentials);
    grpc_server_credentials_release(credentials);
    if (!bus__accept_ready(b->acceptor)) {
        return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE,
                          "this gRPC library cannot take accepted connections");
    }
    if (b->advertise_address != NULL && strcmp(address_port(b->advertise_address), "0") == 0) {
        char *real = xasprintf("%.*s%u", (int)strlen(b->advertise_address) - 1,
                               b->advertise_address, (unsigned)b->port);
        free(b->advertise_address);
        b->advertise_address = real;
    }
    if (b->advertise_address == NULL) {
        b->advertise_address =
            xasprintf(parts.bracket ? "[%s]:%u" : "%s:%u", parts.host, (unsigned)b->port);
    }
    return THOLE_OK;
}

/* ---- Methods --------------------------------------------------------------------------------- */

struct bus_entry *bus__register(struct bus *b, const struct bus_method *m)
{
    ASSERT(b->server != NULL && !b->started);
    struct bus_entry *e = xcalloc(1, sizeof *e);
    e->bus = b;
    e->m = *m;
    e->share.bytes_max = m->shared_bytes;
    void *before = map_put(&b->methods, hash64(m->path, strlen(m->path), 0), e);
    ASSERT(before == NULL); /* otherwise the path is registered twice, or two have one hash */
    return e;
}

void bus_register(struct bus *b, const struct bus_method *methods, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bus__register(b, &methods[i]);
    }
}

bool bus__serves(const struct bus *b, const char *service, size_t size)
{
    size_t it = 0;
    for (const struct bus_entry *e; (e = map_next(&b->methods, &it, NULL)) != NULL;) {
        const char *path = e->m.path;
        if (strncmp(path + 1, service, size) == 0 && path[1 + size] == '/') {
            return true;
        }
    }
    return false;
}

struct bus_entry *bus__find_method(const struct bus *b, struct slice path)
{
    struct bus_entry *e = map_get(&b->methods, hash64(path.data, path.size, 0));
    return e != NULL && slice_equal(path, slice_str(e->m.path)) ? e : b->no_method;
}

static void add_no_method(struct bus *b)
{
    b->no_method = xcalloc(1, sizeof *b->no_method);
    b->no_method->bus = b;
    b->no_method->inward = true;
}

/* ---- Life ------------------------------------------------------------------------------------ */

static void shutdown_returned(struct bus_tag *tag, bool ok)
{
    struct bus *b = CONTAINER_OF(tag, struct bus, shutdown_tag);
    (void)ok;
    pthread_mutex_lock(&b->loop.mutex);
    b->shutdown_done = true;
    pthread_cond_broadcast(&b->loop.changed);
    pthread_mutex_unlock(&b->loop.mutex);
}

/* Half of the descriptors, minus the minimum for files. The other half is for the log, the state
 * database, and connections to other hosts. */
static uint32_t connections_max(void)
{
    uint64_t all = file_descriptors_max(), half = all > 128 ? (all - 128) / 2 : 0;
    return half < CONNECTIONS_MAX ? (uint32_t)half : CONNECTIONS_MAX;
}

enum thole_code bus_new(const struct bus_options *o, struct bus **ret, struct thole_status *st)
{
    struct bus *b = xcalloc(1, sizeof *b);
    bus__grpc_init();
    atomic_init(&b->refs, 1);
    b->o = *o;
    b->o.tls = bus_tls_ref(o->tls);
    b->clock = o->clock != NULL ? o->clock : &clock_system;
    b->version = xstrdup(o->version != NULL ? o->version : "");
    b->listen_address = o->listen_address != NULL ? xstrdup(o->listen_address) : NULL;
    b->advertise_address = o->advertise_address != NULL ? xstrdup(o->advertise_address) : NULL;
    b->cluster_id = o->cluster_id;
    if (b->o.peer_queue_bytes == 0) {
        b->o.peer_queue_bytes = BUS_PEER_QUEUE_BYTES;
    }
    if (b->o.connections_max == 0) {
        b->o.connections_max = connections_max();
    }
    if (b->o.connections_max < CONNECTIONS_MIN) {
        b->o.connections_max = CONNECTIONS_MIN;
    }
    if (b->o.connection_age_ms == 0) {
        b->o.connection_age_ms = CONNECTION_AGE_MS;
    }
    if (b->o.memory_bytes == 0) {
        b->o.memory_bytes = BUS_MEMORY_BYTES;
    }
    if (b->o.unary_slots == 0) {
        b->o.unary_slots = UNARY_SLOTS_DEFAULT;
    }
    if (b->o.streams_max == 0) {
        b->o.streams_max = STREAMS_DEFAULT;
    }
    pthread_mutex_init(&b->mutex, NULL);
    pthread_mutex_init(&b->pool_mutex, NULL);
    pool_init(&b->requests, bus__request_bytes(), POOLED_MAX);
    pool_init(&b->exchanges, bus__exchange_bytes(), POOLED_MAX);
    b->shutdown_tag = bus_tag_of(shutdown_returned);
    bus__loop_init(&b->loop, b->clock);
    if (o->token != NULL) {
        bus__loop_set_token(&b->loop, o->token);
    }
    b->o.token = NULL;
    enum thole_code code = b->listen_address != NULL ? listen_on(b, st) : THOLE_OK;
    if (code != THOLE_OK) {
        bus_stop(b, 0);
        bus_free(b);
        return code;
    }
    if (!uuid_is_nil(&o->host_id)) {
        b->self = bus__peer_new(b, &o->host_id, "");
        struct bus_hello own = {
            .host = o->host_id, .incarnation = o->incarnation, .lineage = o->lineage};
        snprintf(own.address, sizeof own.address, "%s",
                 b->advertise_address != NULL ? b->advertise_address : "");
        bus__seen(b, &own);
    }
    if (b->server != NULL) {
        bus__lane_register(b);
        bus__exchange_register(b);
        bus__health_init(b);
        bus__reflection_init(b);
        add_no_method(b);
    }
    bus__loop_run(&b->loop, "bus", b->o.log_host);
    *ret = b;
    return THOLE_OK;
}

void bus_start(struct bus *b)
{
    ASSERT(!b->started);
    b->started = true;
    if (b->server == NULL) {
        return;
    }
    grpc_server_start(b->server);
    for (int i = 0; i < SLOTS; i++) {
        bus__rpc_arm(b);
    }
    bus__accept_start(b->acceptor);
    bus__recheck_start(b);
    LOG_INFO(BUS, "listening address=%s port=%u incarnation=%" PRIu64, b->advertise_address,
             (unsigned)b->port, b->o.incarnation);
}

static bool server_is_down(struct bus_loop *l)
{
    return CONTAINER_OF(l, struct bus, loop)->shutdown_done;
}

void bus_drain(struct bus *b, uint32_t grace_ms)
{
    if (b == NULL || b->drained) {
        return;
    }
    b->drained = true;
    atomic_store(&b->stopping, true);
    if (b->server == NULL) {
        return;
    }
    if (b->started) {
        bus__recheck_stop(b);
        bus__health_stop(b);
        bus__inbound_stop(b);
    }
    bus__accept_stop(b->acceptor);
    bus__tag_release(&b->shutdown_tag);
    grpc_server_shutdown_and_notify(b->server, b->loop.cq, &b->shutdown_tag);
    if (b->loop.threaded) {
        (void)bus__loop_wait(&b->loop, server_is_down, grace_ms);
    }
}

void bus_cut(struct bus *b)
{
    if (b == NULL || b->cut) {
        return;
    }
    b->cut = true;
    bus__rpc_end_streams(b);
    bus__peers_stop(b);
}

static void server_stop(struct bus *b)
{
    if (!b->loop.threaded || bus__loop_wait(&b->loop, server_is_down, ANSWER_WAIT_MS)) {
        return;
    }
    bus__rpc_end_unaries(b);
    if (bus__loop_wait(&b->loop, server_is_down, ANSWER_WAIT_MS)) {
        return;
    }
    LOG_INFO(BUS, "cancelling calls that did not end in time");
    grpc_server_cancel_all_calls(b->server);
    if (!bus__loop_wait(&b->loop, server_is_down, CANCEL_WAIT_MS)) {
        LOG_ERROR(BUS, "the server does not shut down; continuing without it");
    }
}

void bus_stop(struct bus *b, uint32_t grace_ms)
{
    if (b == NULL || b->stopped) {
        return;
    }
    ASSERT(!bus__loop_here(&b->loop));
    b->stopped = true;
    bus_drain(b, grace_ms);
    bus_cut(b);
    if (b->server != NULL) {
        server_stop(b);
    }
    bus__loop_stop(&b->loop);
}

void bus__ref(struct bus *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
}

/* Drops the last reference: an owner may finish a call after bus_free. */
void bus__unref(struct bus *b)
{
    if (!bus__drop(&b->refs)) {
        return;
    }
    bus__rpc_free_all(b);
    bus__peer_unref(b->self);
    bus__health_free(b);
    bus__reflection_free(b);
    if (b->server != NULL) {
        grpc_server_destroy(b->server);
    }
    bus__accept_free(b->acceptor);
    if (b->quota != NULL) {
        grpc_resource_quota_unref(b->quota);
    }
    bus__loop_deinit(&b->loop);
    size_t it = 0;
    for (struct bus_entry *e; (e = map_next(&b->methods, &it, NULL)) != NULL;) {
        free(e);
    }
    map_deinit(&b->methods);
    free(b->no_method);
    for (struct bus_seen *s = b->seen, *next; s != NULL; s = next) {
        next = s->next;
        free(s);
    }
    pthread_mutex_destroy(&b->mutex);
    pthread_mutex_destroy(&b->pool_mutex);
    pool_deinit(&b->requests);
    pool_deinit(&b->exchanges);
    free(b->version);
    free(b->listen_address);
    free(b->advertise_address);
    struct bus_tls *tls = b->o.tls;
    free(b);
    bus__grpc_shutdown();
    bus_tls_unref(tls);
}

void bus_free(struct bus *b)
{
    if (b == NULL) {
        return;
    }
    ASSERT(b->stopped);
    bus__unref(b);
}

const char *bus_address(const struct bus *b)
{
    return b->advertise_address != NULL ? b->advertise_address : "";
}

uint16_t bus_port(const struct bus *b)
{
    return b->port;
}

void bus__cluster(struct bus *b, struct uuid *ret)
{
    pthread_mutex_lock(&b->mutex);
    *ret = b->cluster_id;
    pthread_mutex_unlock(&b->mutex);
}
