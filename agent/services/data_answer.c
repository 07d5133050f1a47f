/* thole.v1.Data.QueryStream: an answer of any size, at the client's pace.
 *
 * Invariant: once the query was answered, the call waits for exactly one thing: a piece, or room in
 * its queue. */
#include <stdlib.h>
#include <string.h>

#include "agent/core/answers.h"
#include "agent/services/services_internal.h"
#include "base/assert.h"

#define RESPONSE_OVERHEAD_BYTES 32

struct data_answer {
    struct services *s;
    struct bus_rpc *rpc;
    char shard[LIMIT_NAME_BYTES + 1];
    uint64_t id, index;
    bool last; /* the piece that waits is the last one */

    pthread_mutex_t mutex; /* the rest */
    bool cancelled;
    struct bufslice waiting; /* for room in the queue */
};

static void answer_free(void *data)
{
    struct data_answer *w = data;
    bufslice_unref(w->waiting);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

/* Ends the call, which frees the answer. */
static void answer_fail(struct data_answer *w, const struct thole_status *st)
{
    const char *metadata[] = {"shard", w->shard, NULL};
    answers_close(agent_answers(w->s->agent), w->id);
    services__fail(w->rpc, st, metadata);
}

static void fail_cancelled(struct data_answer *w)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_CANCELLED, THOLE_REASON_NONE, "the client cancelled the call");
    answer_fail(w, &st);
}

static void fail_slow(struct data_answer *w)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                     "the client reads too slowly, and this host has no memory left for answers");
    answer_fail(w, &st);
}

enum queued { QUEUED, KEPT, CANCELLED };

/* Queue a message, or keep it until there is room. KEPT: the answer may have been freed. */
static enum queued queue(struct data_answer *w, struct bufslice message)
{
    pthread_mutex_lock(&w->mutex);
    enum queued q = w->cancelled                                  ? CANCELLED
                    : bus_rpc_send(w->rpc, bufslice_ref(message)) ? QUEUED
                                                                  : KEPT;
    if (q == KEPT) {
        w->waiting = bufslice_ref(message);
    }
    pthread_mutex_unlock(&w->mutex);
    return q;
}

static struct bufslice take_waiting(struct data_answer *w)
{
    pthread_mutex_lock(&w->mutex);
    struct bufslice message = w->waiting;
    w->waiting = (struct bufslice){0};
    pthread_mutex_unlock(&w->mutex);
    return message;
}

static void piece_read(void *ctx, const struct thole_status *st, struct bufslice piece, bool end);

static void send(struct data_answer *w, struct bufslice message)
{
    switch (queue(w, message)) {
    case CANCELLED:
        fail_cancelled(w);
        return;
    case KEPT:
        return;
    case QUEUED:
        break;
    }
    if (w->last) {
        bus_rpc_reply(w->rpc, (struct bufslice){0});
    } else {
        answers_next(agent_answers(w->s->agent), w->id, piece_read, w);
    }
}

static void send_piece(struct data_answer *w, struct slice piece)
{
    if (!bus_rpc_room(w->rpc, piece.size + RESPONSE_OVERHEAD_BYTES)) {
        fail_slow(w);
        return;
    }
    struct buf *b = buf_new(piece.size + RESPONSE_OVERHEAD_BYTES);
    struct bytes out = {.data = b->data, .capacity = piece.size + RESPONSE_OVERHEAD_BYTES};
    if (piece.size > 0) {
        services__wire_bytes(&out, 1, piece);
    }
    services__wire_varint(&out, 2, w->index);
    ASSERT(out.data == b->data); /* the buffer was large enough */
    send(w, (struct bufslice){b, slice_of(b->data, out.size)});
    buf_unref(b);
}

static void piece_read(void *ctx, const struct thole_status *st, struct bufslice piece, bool end)
{
    struct data_answer *w = ctx;
    if (st->code != THOLE_OK) {
        answer_fail(w, st);
        return;
    }
    w->last = end;
    send_piece(w, piece.bytes);
}

static void drained(void *ctx)
{
    struct data_answer *w = ctx;
    struct bufslice message = take_waiting(w);
    if (message.owner != NULL) {
        send(w, message);
    }
    bufslice_unref(message);
}

static void cancelled(void *ctx)
{
    struct data_answer *w = ctx;
    pthread_mutex_lock(&w->mutex);
    w->cancelled = true;
    pthread_mutex_unlock(&w->mutex);
    struct bufslice message = take_waiting(w);
    if (message.owner != NULL) {
        bufslice_unref(message);
        fail_cancelled(w);
    }
}

void services__data_answer(struct data_call *d)
{
    struct data_answer *w = bus_rpc_data(d->rpc);
    struct thole_status st;
    struct bufslice whole = d->route.result;
    memcpy(w->shard, d->shard, sizeof w->shard);
    w->index = d->route.index;
    enum thole_code code = answers_add(agent_answers(w->s->agent), &d->route, &w->id, &st);
    d->route.result = (struct bufslice){0};
    services__data_call_free(d);
    if (code != THOLE_OK) {
        answer_fail(w, &st);
    } else if (w->id == 0) {
        w->last = true;
        send_piece(w, whole.bytes);
    } else {
        answers_next(agent_answers(w->s->agent), w->id, piece_read, w);
    }
    bufslice_unref(whole);
}

void services__data_query_stream(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct services *s = ctx;
    struct data_answer *w = xcalloc(1, sizeof *w);
    w->s = s;
    w->rpc = rpc;
    pthread_mutex_init(&w->mutex, NULL);
    bus_rpc_set_data(rpc, w, answer_free);
    bus_rpc_on_drained(rpc, drained, w);
    bus_rpc_on_cancel(rpc, cancelled, w);
    services__data_query_begin(s, rpc, message);
}
