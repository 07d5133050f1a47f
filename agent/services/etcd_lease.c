/* etcdserverpb.Lease.LeaseKeepAlive: a stream of renewals, answered in order. One renewal is under
 * way at a time; the others wait in the stream. */
#include <stdlib.h>
#include <string.h>

#include "agent/services/etcd_service.h"
#include "proto/decode.h"
#include "thole/kv/v1/kv.upb.h"

#define WAITING_MAX 4096 /* renewals of one stream */

struct keep_alive {
    struct services *s;
    struct bus_rpc *rpc;
    pthread_mutex_t lock;
    int64_t *waiting; /* lease ids */
    size_t count, capacity;
    bool busy, ended, failed, finished;
    struct thole_status failure;
    struct etcd_route route; /* of the renewal under way */
};

static void keep_alive_free(void *data)
{
    struct keep_alive *k = data;

    pthread_mutex_destroy(&k->lock);
    free(k->waiting);
    free(k);
}

static void renewed(struct etcd_route *r, const struct thole_status *st, struct slice answer);

/* Under the lock: what to do next. True: renew `*ret_id`. */
static bool take(struct keep_alive *k, int64_t *ret_id)
{
    if (k->busy || k->failed || k->count == 0) {
        return false;
    }
    *ret_id = k->waiting[0];
    memmove(k->waiting, k->waiting + 1, --k->count * sizeof *k->waiting);
    k->busy = true;
    return true;
}

/* Renew what waits, or finish the call if nothing does and nothing will. Gives the lock back; then
 * the stream may be gone, unless this renews or finishes. */
static void unlock_and_go_on(struct keep_alive *k)
{
    int64_t id = 0;

    bool renew = take(k, &id), failed = k->failed;
    bool finish = !k->busy && !k->finished && (failed || (k->ended && k->count == 0));
    k->finished = k->finished || finish;
    pthread_mutex_unlock(&k->lock);
    if (renew) {
        struct bytes request = {0};
        services__wire_varint(&request, 1, (uint64_t)id);
        k->route = (struct etcd_route){.s = k->s, .done = renewed};
        services__etcd_caller(&k->route, k->rpc);
        k->route.route.deadline_ns =
            clock_now(&clock_system) + SERVICES_DEADLINE_DEFAULT_MS * NS_PER_MS;
        services__etcd_send(&k->route, ROUTER_PROPOSE, thole_kv_v1_Command_op_lease_keep_alive,
                            bytes_slice(&request));
        bytes_deinit(&request);
    } else if (finish && failed) {
        services__etcd_fail(k->rpc, &k->failure);
    } else if (finish) {
        bus_rpc_reply(k->rpc, (struct bufslice){NULL, {NULL, 0}});
    }
}

static void fail_stream(struct keep_alive *k, const struct thole_status *st)
{
    pthread_mutex_lock(&k->lock);
    if (!k->failed) {
        k->failed = true;
        k->failure = *st;
    }
    pthread_mutex_unlock(&k->lock);
}

static void renewed(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct keep_alive *k = CONTAINER_OF(r, struct keep_alive, route);
    struct thole_status slow;

    if (st->code != THOLE_OK) {
        fail_stream(k, st);
    } else {
        struct bytes out = {0};
        bytes_append_slice(&out, answer);
        services__etcd_header(r, &out);
        struct buf *b = bytes_to_buf(&out);
        bytes_deinit(&out);
        if (!bus_rpc_send(k->rpc, (struct bufslice){b, slice_of(b->data, b->size)})) {
            (void)THOLE_FAIL(&slow, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                             "the client does not read its answers");
            fail_stream(k, &slow);
        }
    }
    bufslice_unref(r->route.result);
    pthread_mutex_lock(&k->lock);
    k->busy = false;
    unlock_and_go_on(k);
}

static void end(struct keep_alive *k)
{
    pthread_mutex_lock(&k->lock);
    k->ended = true;
    unlock_and_go_on(k);
}

static void cancelled(void *ctx)
{
    struct keep_alive *k = ctx;

    pthread_mutex_lock(&k->lock);
    k->count = 0;
    k->ended = true;
    unlock_and_go_on(k);
}

static struct keep_alive *stream_of(struct services *s, struct bus_rpc *rpc)
{
    struct keep_alive *k = bus_rpc_data(rpc);

    if (k == NULL) {
        k = xcalloc(1, sizeof *k);
        k->s = s;
        k->rpc = rpc;
        pthread_mutex_init(&k->lock, NULL);
        bus_rpc_set_data(rpc, k, keep_alive_free);
        bus_rpc_on_cancel(rpc, cancelled, k);
    }
    return k;
}

/* False: the stream has too many. */
static bool add(struct keep_alive *k, int64_t id)
{
    pthread_mutex_lock(&k->lock);
    bool room = k->count < WAITING_MAX;
    if (room && k->count == k->capacity) {
        k->capacity = k->capacity * 2 + 8;
        k->waiting = xrealloc(k->waiting, k->capacity * sizeof *k->waiting);
    }
    if (room) {
        k->waiting[k->count++] = id;
    }
    pthread_mutex_unlock(&k->lock);
    return room;
}

void services__etcd_keep_alive(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct keep_alive *k = stream_of(ctx, rpc);
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_LeaseKeepAliveRequest *m =
        PROTO_DECODE(etcdserverpb_LeaseKeepAliveRequest, message, arena);
    struct thole_status st;

    if (m == NULL) {
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "request: is malformed");
        fail_stream(k, &st);
    } else if (!add(k, etcdserverpb_LeaseKeepAliveRequest_ID(m))) {
        (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                         "etcdserver: too many requests");
        fail_stream(k, &st);
    }
    upb_Arena_Free(arena);
    pthread_mutex_lock(&k->lock);
    unlock_and_go_on(k);
}

void services__etcd_keep_alive_end(void *ctx, struct bus_rpc *rpc)
{
    end(stream_of(ctx, rpc));
}
