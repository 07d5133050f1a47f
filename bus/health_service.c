/* grpc.health.v1. Health is set by name; a service without its own entry has that of the server
 * (the name ""). A watch gets the current state at once, then each change. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/map.h"
#include "bus/bus_internal.h"
#include "grpc/health/v1/health.upb.h"
#include "proto/decode.h"

enum {
    UNKNOWN = grpc_health_v1_HealthCheckResponse_SERVICE_UNKNOWN,
    SERVING = grpc_health_v1_HealthCheckResponse_SERVING,
    NOT_SERVING = grpc_health_v1_HealthCheckResponse_NOT_SERVING,
};
#define NAME_BYTES_MAX 512
#define WATCHERS_MAX 4096

struct named {
    struct named *next; /* of the same hash */
    int status;
    char name[];
};

struct watcher { /* the data of its rpc; outlives it only until it is removed from the list */
    struct watcher *next, **prev; /* NULL prev: not in the list */
    struct bus_health *health;
    struct bus_rpc *rpc;
    int told;
    char *name;
};

struct bus_health {
    pthread_mutex_t mutex; /* below */
    struct bus *bus;
    struct map names; /* hash of a name -> struct named; there may be one name per shard */
    struct watcher *watchers;
    size_t watcher_count;
    bool stopped;
};

/* ---- State; the mutex is held ---------------------------------------------------------------- */

static uint64_t key_of(const char *name)
{
    return hash64(name, strlen(name), 0);
}

static struct named *find(const struct bus_health *h, const char *name)
{
    struct named *n = map_get(&h->names, key_of(name));
    while (n != NULL && strcmp(n->name, name) != 0) {
        n = n->next;
    }
    return n;
}

static int status_of(struct bus_health *h, const char *name)
{
    const struct named *n = find(h, name);
    const struct named *server = find(h, "");
    int whole = server != NULL ? server->status : SERVING;
    if (h->stopped) {
        whole = NOT_SERVING;
    }
    if (n != NULL) {
        return h->stopped ? NOT_SERVING : n->status;
    }
    if (!*name || bus__serves(h->bus, name, strlen(name))) {
        return whole;
    }
    return UNKNOWN;
}

static struct bufslice encode(int status)
{
    /* HealthCheckResponse.status is field 1, a varint. */
    const uint8_t bytes[2] = {1 << 3, (uint8_t)status};
    struct buf *buf = buf_copy(bytes, sizeof bytes);
    return (struct bufslice){buf, {buf->data, buf->size}};
}

static void tell_all(struct bus_health *h)
{
    for (struct watcher *w = h->watchers; w != NULL; w = w->next) {
        int status = status_of(h, w->name);
        if (status == w->told) {
            continue;
        }
        w->told = status;
        bus_rpc_send(w->rpc, encode(status)); /* a full queue: the watcher gets the next change */
    }
}

static void leave(struct watcher *w)
{
    if (w->prev == NULL) {
        return;
    }
    *w->prev = w->next;
    if (w->next != NULL) {
        w->next->prev = w->prev;
    }
    w->prev = NULL;
    w->health->watcher_count--;
}

/* ---- Calls ----------------------------------------------------------------------------------- */

/* The service's name, or NULL if the request is malformed (answered). */
static char *name_of(struct bus_rpc *rpc, struct slice message)
{
    upb_Arena *arena = upb_Arena_New();
    const grpc_health_v1_HealthCheckRequest *q =
        PROTO_DECODE(grpc_health_v1_HealthCheckRequest, message, arena);
    char *name = NULL;
    if (q != NULL && grpc_health_v1_HealthCheckRequest_service(q).size <= NAME_BYTES_MAX) {
        upb_StringView v = grpc_health_v1_HealthCheckRequest_service(q);
        name = xstrndup(v.size ? v.data : "", v.size);
    } else {
        struct thole_status st;
        thole_status_set(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __FILE__, __LINE__,
                         "malformed health request");
        bus_rpc_fail(rpc, &st, 0, NULL);
    }
    upb_Arena_Free(arena);
    return name;
}

static void check(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct bus_health *h = ctx;
    char *name = name_of(rpc, message);
    if (name == NULL) {
        return;
    }
    pthread_mutex_lock(&h->mutex);
    int status = status_of(h, name);
    pthread_mutex_unlock(&h->mutex);
    if (status == UNKNOWN) {
        struct thole_status st;
        thole_status_set(&st, THOLE_NOT_FOUND, THOLE_REASON_NONE, __FILE__, __LINE__,
                         "there is no service \"%.100s\"", name);
        bus_rpc_fail(rpc, &st, 0, NULL);
    } else {
        bus_rpc_reply(rpc, encode(status));
    }
    free(name);
}

static void forget(void *data)
{
    struct watcher *w = data;
    pthread_mutex_lock(&w->health->mutex);
    leave(w);
    pthread_mutex_unlock(&w->health->mutex);
    free(w->name);
    free(w);
}

static void cancelled(void *ctx)
{
    struct watcher *w = ctx;
    pthread_mutex_lock(&w->health->mutex);
    bool ours = w->prev != NULL; /* otherwise bus__health_stop finishes it */
    leave(w);
    pthread_mutex_unlock(&w->health->mutex);
    if (ours) {
        bus_rpc_reply(w->rpc, (struct bufslice){0});
    }
}

static void watch(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct bus_health *h = ctx;
    char *name = name_of(rpc, message);
    if (name == NULL) {
        return;
    }
    struct watcher *w = xcalloc(1, sizeof *w);
    *w = (struct watcher){.health = h, .rpc = rpc, .name = name};
    bus_rpc_set_data(rpc, w, forget);
    pthread_mutex_lock(&h->mutex);
    bool refuse = h->stopped || h->watcher_count >= WATCHERS_MAX;
    if (!refuse) {
        w->told = status_of(h, name);
        bus_rpc_send(rpc, encode(w->told));
        w->next = h->watchers;
        w->prev = &h->watchers;
        if (w->next != NULL) {
            w->next->prev = &w->next;
        }
        h->watchers = w;
        h->watcher_count++;
    }
    pthread_mutex_unlock(&h->mutex);
    if (!refuse) {
        bus_rpc_on_cancel(rpc, cancelled, w);
        return;
    }
    struct thole_status st;
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_QUEUE_FULL, __FILE__, __LINE__,
                     "too many health watches are open");
    bus_rpc_fail(rpc, &st, 1000, NULL);
}

/* ---- The owner's face ------------------------------------------------------------------------ */

void bus_health_set(struct bus *b, const char *name, bool serving)
{
    struct bus_health *h = b->health;
    if (h == NULL) {
        return;
    }
    pthread_mutex_lock(&h->mutex);
    struct named *n = find(h, name);
    if (n == NULL) {
        size_t size = strlen(name) + 1;
        n = xcalloc(1, sizeof *n + size);
        memcpy(n->name, name, size);
        n->next = map_get(&h->names, key_of(name));
        map_put(&h->names, key_of(name), n);
    }
    n->status = serving ? SERVING : NOT_SERVING;
    tell_all(h);
    pthread_mutex_unlock(&h->mutex);
}

void bus_health_remove(struct bus *b, const char *name)
{
    struct bus_health *h = b->health;
    if (h == NULL) {
        return;
    }
    pthread_mutex_lock(&h->mutex);
    struct named *n = find(h, name);
    if (n != NULL) {
        struct named *first = map_remove(&h->names, key_of(name));
        struct named **at = &first;
        while (*at != n) {
            at = &(*at)->next;
        }
        *at = n->next;
        if (first != NULL) {
            map_put(&h->names, key_of(name), first);
        }
        free(n);
    }
    tell_all(h);
    pthread_mutex_unlock(&h->mutex);
}

void bus__health_init(struct bus *b)
{
    struct bus_health *h = xcalloc(1, sizeof *h);
    h->bus = b;
    pthread_mutex_init(&h->mutex, NULL);
    b->health = h;
    const struct bus_method methods[] = {
        {.path = "/grpc.health.v1.Health/Check", .kind = BUS_RPC_UNARY, .ctx = h, .handle = check},
        {.path = "/grpc.health.v1.Health/Watch",
         .kind = BUS_RPC_SERVER_STREAM,
         .ctx = h,
         .handle = watch},
    };
    bus_register(b, methods, sizeof methods / sizeof *methods);
}

void bus__health_stop(struct bus *b)
{
    struct bus_health *h = b->health;
    struct thole_status st;
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                     "this host is shutting down");
    pthread_mutex_lock(&h->mutex);
    h->stopped = true;
    tell_all(h);
    while (h->watchers != NULL) {
        struct watcher *w = h->watchers;
        leave(w);
        pthread_mutex_unlock(&h->mutex);
        bus_rpc_fail(w->rpc, &st, 0, NULL); /* may free w */
        pthread_mutex_lock(&h->mutex);
    }
    pthread_mutex_unlock(&h->mutex);
}

void bus__health_free(struct bus *b)
{
    struct bus_health *h = b->health;
    if (h == NULL) {
        return;
    }
    ASSERT(h->watchers == NULL);
    size_t it = 0;
    for (struct named *n; (n = map_next(&h->names, &it, NULL)) != NULL;) {
        for (struct named *next; n != NULL; n = next) {
            next = n->next;
            free(n);
        }
    }
    map_deinit(&h->names);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}
