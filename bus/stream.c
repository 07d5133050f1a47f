/* A server stream read by blocking calls. Messages wait in a short queue; while it is full, the
 * loop's thread does not read, and gRPC's flow control slows the server down. */
#include <stdlib.h>
#include <string.h>

#include "bus/channel.h"

#define QUEUE_MAX 16

struct bus_stream {
    struct bus_pipe *pipe;
    _Atomic uint32_t refs; /* the reader's, and the pipe's until it is closed */
    pthread_mutex_t mutex; /* below */
    pthread_cond_t cond;
    struct buf *queue[QUEUE_MAX];
    size_t head, count;
    bool closed;
    struct thole_status st;
};

static void unref(struct bus_stream *s)
{
    if (!bus__drop(&s->refs)) {
        return;
    }
    bus__pipe_unref(s->pipe);
    for (; s->count > 0; s->count--, s->head++) {
        buf_unref(s->queue[s->head % QUEUE_MAX]);
    }
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->cond);
    free(s);
}

static void on_message(void *ctx, struct bufslice message)
{
    struct bus_stream *s = ctx;
    pthread_mutex_lock(&s->mutex);
    ASSERT(s->count < QUEUE_MAX && !s->closed);
    s->queue[(s->head + s->count++) % QUEUE_MAX] = buf_ref(message.owner);
    if (s->count == QUEUE_MAX) {
        bus__pipe_pause(s->pipe);
    }
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

static void on_closed(void *ctx, const struct thole_status *st)
{
    struct bus_stream *s = ctx;
    pthread_mutex_lock(&s->mutex);
    ASSERT(!s->closed);
    s->closed = true;
    s->st = *st;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
    unref(s);
}

static const struct bus_pipe_events events = {.message = on_message, .closed = on_closed};

enum thole_code bus_channel_stream(struct bus_channel *c, const char *path, struct slice request,
                                   struct bus_stream **ret, struct thole_status *st)
{
    struct bus_stream *s = xcalloc(1, sizeof *s);
    (void)st; /* a failure of the call is returned by the first bus_stream_next */
    atomic_init(&s->refs, 2);
    pthread_mutex_init(&s->mutex, NULL);
    clock_cond_init(&s->cond);
    const struct bus_pipe_options o = {
        .loop = &c->loop,
        .call = bus__call_new(c->channel, &c->loop, path, gpr_inf_future(GPR_CLOCK_MONOTONIC)),
        .connected = bus__channel_ready(c->channel),
        .half_close = true,
        .queue_bytes = BUS_RPC_QUEUE_BYTES,
        .events = &events,
        .ctx = s,
    };
    s->pipe = bus__pipe_new(&o);
    bus__pipe_start(s->pipe, (struct bufslice){NULL, request});
    *ret = s;
    return THOLE_OK;
}

enum thole_code bus_stream_next(struct bus_stream *s, uint32_t timeout_ms, struct buf **ret,
                                struct thole_status *st)
{
    uint64_t deadline_ns =
        timeout_ms ? clock_now(&clock_system) + timeout_ms * NS_PER_MS : CLOCK_NEVER;
    enum thole_code code = THOLE_OK;
    bool resume = false;
    pthread_mutex_lock(&s->mutex);
    while (s->count == 0 && !s->closed && clock_cond_wait(&s->cond, &s->mutex, deadline_ns)) {
    }
    if (s->count > 0) {
        resume = s->count == QUEUE_MAX;
        *ret = s->queue[s->head];
        s->head = (s->head + 1) % QUEUE_MAX;
        s->count--;
    } else if (!s->closed) {
        code = THOLE_FAIL(st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE, "no message within %u ms",
                          (unsigned)timeout_ms);
    } else if (s->st.code == THOLE_OK) {
        code = THOLE_FAIL(st, THOLE_OUT_OF_RANGE, THOLE_REASON_NONE, "the stream has ended");
    } else {
        code = s->st.code;
        if (st != NULL) {
            *st = s->st;
        }
    }
    pthread_mutex_unlock(&s->mutex);
    if (resume) {
        bus__pipe_resume(s->pipe);
    }
    return code;
}

void bus_stream_cancel(struct bus_stream *s)
{
    bus__pipe_cancel(s->pipe);
}

void bus_stream_free(struct bus_stream *s)
{
    if (s == NULL) {
        return;
    }
    bus__pipe_cancel(s->pipe);
    unref(s);
}
