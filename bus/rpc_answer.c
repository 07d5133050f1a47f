/* What handlers of calls call to answer, to send and to wait. */
#include <stdlib.h>

#include "bus/bus_internal.h"

static METRIC_DEFINE_COUNTER(metric_failures, "thole_rpc_failures_total",
                             "Calls of clients that ended with an error");

void bus_rpc_on_cancel(struct bus_rpc *rpc, void (*on_cancel)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&rpc->mutex);
    bool now = rpc->cancelled;
    bool listen = !now && rpc->local == NULL && bus__rpc_is_unary(rpc) && !rpc->listening;
    if (!now) {
        rpc->on_cancel = on_cancel;
        rpc->on_cancel_ctx = ctx;
        rpc->listening |= listen;
    }
    pthread_mutex_unlock(&rpc->mutex);
    if (now) {
        on_cancel(ctx);
    } else if (listen) {
        bus__rpc_listen(rpc);
    }
}

void bus_rpc_on_drained(struct bus_rpc *rpc, void (*drained)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&rpc->mutex);
    rpc->on_drained = drained;
    rpc->on_drained_ctx = ctx;
    pthread_mutex_unlock(&rpc->mutex);
}

bool bus_rpc_send(struct bus_rpc *rpc, struct bufslice message)
{
    ASSERT(!bus__rpc_is_unary(rpc));
    if (rpc->local != NULL) {
        return bus__local_send(rpc->local, message);
    }
    return bus__pipe_put(rpc->pipe, (struct slice){0}, message, false, NULL) != BUS_PUT_FULL;
}

static void finish(struct bus_rpc *r, const struct thole_status *st, grpc_slice details,
                   struct bufslice message)
{
    bool twice = atomic_exchange(&r->finished, true);
    ASSERT(!twice);
    if (st != NULL && !r->entry->inward) {
        metric_add(&metric_failures, 1);
    }
    if (r->pipe == NULL) {
        bus__rpc_answer(r, st, details, message);
        return;
    }
    if (message.bytes.data != NULL) {
        bus__pipe_put(r->pipe, (struct slice){0}, message, true, NULL);
    } else {
        bufslice_unref(message);
    }
    bus__pipe_finish(r->pipe, st != NULL ? st->code : THOLE_OK, st != NULL ? st->message : NULL,
                     details);
    bus__rpc_unref(r);
}

bool bus_rpc_room(const struct bus_rpc *rpc, size_t bytes)
{
    return bus__has_room(rpc->bus, bytes);
}

bool bus_rpc_flushed(const struct bus_rpc *rpc)
{
    return rpc->local != NULL ? bus__local_flushed(rpc->local) : bus__pipe_flushed(rpc->pipe);
}

bool bus_rpc_hold(struct bus_rpc *rpc, size_t *held, size_t bytes)
{
    size_t *charged = held != NULL ? held : &rpc->held;
    if (bytes > *charged && !bus__has_room(rpc->bus, bytes - *charged)) {
        return false;
    }
    bus__charge(rpc->bus, charged, bytes);
    return true;
}

void bus_rpc_reply(struct bus_rpc *rpc, struct bufslice message)
{
    if (rpc->pipe == NULL && !bus__has_room(rpc->bus, message.bytes.size)) {
        struct thole_status st;
        bufslice_unref(message);
        thole_status_set(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_OUTCOME_UNKNOWN, __FILE__,
                         __LINE__, "the answer was dropped: the memory for unread answers is full");
        bus_rpc_fail(rpc, &st, 0, NULL);
        return;
    }
    if (rpc->pipe == NULL) { /* the queue of a local call counts its answer */
        bus__charge(rpc->bus, &rpc->held, rpc->local != NULL ? 0 : message.bytes.size);
    }
    finish(rpc, NULL, grpc_empty_slice(), message);
}

void bus_rpc_fail(struct bus_rpc *rpc, const struct thole_status *st, uint32_t retry_ms,
                  const char *const *metadata)
{
    ASSERT(st->code != THOLE_OK);
    finish(rpc, st, bus__details_encode(st, retry_ms, metadata), (struct bufslice){0});
}
