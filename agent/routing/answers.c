/* Answers in pieces. See answers.h.
 *
 * The lock guards the table and each answer's `calling`; who sets that has the answer until
 * `settle`. A piece of a local replica is made on the worker, of background priority. */
#include "agent/core/answers.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "agent/routing/forward_codec.h"
#include "base/assert.h"
#include "base/limits.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/secret.h"

/* Those that are read here, and those that others read through this host. */
#define ANSWERS_MAX (4 * LIMIT_READERS)
#define PIECE_TIMEOUT_MS 30000
#define CLOSE_TIMEOUT_MS 5000

static METRIC_DEFINE_GAUGE(metric_open, "thole_answers_open", "Streamed answers that are open");
static METRIC_DEFINE_COUNTER(metric_pieces, "thole_answer_pieces_total",
                             "Pieces of streamed answers that replicas of this host made");

struct answer {
    struct worker_msg msg;
    struct answers *all;
    uint64_t id, shard_id;
    struct engine_reader *reader; /* NULL: on another host */
    struct uuid host;
    uint64_t remote_id;
    uint64_t begun_ns, used_ns;
    bool calling; /* answers_next runs */
    bool unwanted;
    answer_piece_fn done;
    void *ctx;
};

struct answers {
    struct bus *bus;
    const struct clock *clock;
    struct worker *worker;
    struct worker_msg sweep; /* asks the worker to look when the next answer expires */
    pthread_mutex_t lock;
    struct map open; /* id -> struct answer */
    bool sweeping;   /* `sweep` is posted */
    bool stopping;
};

/* ---- Ends ------------------------------------------------------------------------------------ */

static void closed_there(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    (void)ctx, (void)st, (void)body, (void)more; /* else it ends there when it is idle */
}

static struct bufslice encode_read(uint64_t id, bool close, upb_Arena *arena)
{
    size_t size = 0;
    thole_bus_v1_AnswerRead *m = thole_bus_v1_AnswerRead_new(arena);
    thole_bus_v1_AnswerRead_set_id(m, id);
    thole_bus_v1_AnswerRead_set_close(m, close);
    const char *bytes = thole_bus_v1_AnswerRead_serialize(m, arena, &size);
    ASSERT(bytes != NULL);
    return (struct bufslice){NULL, slice_of(bytes, size)}; /* the bus copies it */
}

/* The answer is no longer in the table. `told`: the other host has ended it. */
static void destroy(struct answer *w, bool told)
{
    engine_reader_close(w->reader);
    if (w->reader == NULL && !told) {
        upb_Arena *arena = upb_Arena_New();
        (void)bus_exchange(w->all->bus, &w->host, METHOD_ANSWER,
                           encode_read(w->remote_id, true, arena), CLOSE_TIMEOUT_MS, closed_there,
                           NULL);
        upb_Arena_Free(arena);
    }
    metric_add(&metric_open, -1);
    free(w);
}

/* The running call of answers_next ends. */
static void settle(struct answer *w, const struct thole_status *st, struct bufslice piece, bool end)
{
    struct answers *a = w->all;
    answer_piece_fn done = w->done;
    void *ctx = w->ctx;
    bool failed = st->code != THOLE_OK;
    pthread_mutex_lock(&a->lock);
    ASSERT(w->calling);
    w->calling = false;
    w->used_ns = clock_now(a->clock);
    bool over = end || failed || w->unwanted;
    if (over) {
        (void)map_remove(&a->open, w->id);
    }
    pthread_mutex_unlock(&a->lock);
    if (over) {
        destroy(w, end || failed);
    }
    done(ctx, st, piece, end);
}

static void fail(struct answer *w, enum thole_code code, enum thole_reason reason,
                 const char *message)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, code, reason, "%s", message);
    settle(w, &st, (struct bufslice){0}, false);
}

static void fail_stopped(struct answer *w)
{
    fail(w, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
}

/* ---- Pieces ---------------------------------------------------------------------------------- */

static void read_here(struct answer *w)
{
    struct thole_status st = {0};
    struct buf *b = NULL;
    bool end = false;
    ASSERT(worker_is_current(w->all->worker));
    enum thole_code code = engine_reader_next(w->reader, &b, &end, &st);
    if (code == THOLE_OK && b == NULL && !end) { /* after the others, who wait for theirs */
        if (!worker_post_internal(w->all->worker, &w->msg)) {
            fail_stopped(w);
        }
        return;
    }
    metric_add(&metric_pieces, 1);
    struct bufslice piece = {0};
    if (b != NULL) {
        piece = (struct bufslice){b, slice_of(b->data, b->size)};
    }
    settle(w, &st, piece, end);
    buf_unref(b);
}

static void read_there(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    struct answer *w = ctx;
    struct forward_reply f;
    if (more) {
        return;
    }
    if (st->code != THOLE_OK) { /* a query changes nothing, so its outcome is never unknown */
        fail(w, st->code == THOLE_UNKNOWN ? THOLE_UNAVAILABLE : st->code,
             st->reason == THOLE_REASON_OUTCOME_UNKNOWN ? THOLE_REASON_UNREACHABLE : st->reason,
             st->message);
    } else if (!router_decode_reply(body.bytes, &f)) {
        fail(w, THOLE_INTERNAL, THOLE_REASON_BAD_REQUEST, "malformed piece from another host");
    } else if (f.failure.code != THOLE_OK) {
        settle(w, &f.failure, (struct bufslice){0}, false);
    } else {
        settle(w, &f.failure, (struct bufslice){body.owner, f.result}, f.end);
    }
}

/* Take the answer for a call, which fails with `st` if it is none. */
static struct answer *take(struct answers *a, uint64_t id, answer_piece_fn done, void *ctx,
                           struct thole_status *st)
{
    pthread_mutex_lock(&a->lock);
    struct answer *w = map_get(&a->open, id);
    if (a->stopping) {
        (void)THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
        w = NULL;
    } else if (w == NULL) {
        (void)THOLE_FAIL(
            st, THOLE_ABORTED, THOLE_REASON_NONE,
            "the answer has ended, or nothing of it was read for %d seconds: ask again",
            LIMIT_ANSWER_IDLE_MS / 1000);
    } else if (w->calling) {
        (void)THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "another piece of this answer is being read");
        w = NULL;
    } else {
        w->calling = true;
        w->done = done;
        w->ctx = ctx;
    }
    pthread_mutex_unlock(&a->lock);
    return w;
}

void answers_next(struct answers *a, uint64_t id, answer_piece_fn done, void *ctx)
{
    struct thole_status st = {0};
    struct answer *w = take(a, id, done, ctx, &st);
    if (w == NULL) {
        done(ctx, &st, (struct bufslice){0}, false);
    } else if (clock_now(a->clock) - w->begun_ns > LIMIT_ANSWER_MS * NS_PER_MS) {
        fail(w, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE,
             "the answer was not read within 10 minutes");
    } else if (w->reader == NULL) {
        upb_Arena *arena = upb_Arena_New();
        (void)bus_exchange(a->bus, &w->host, METHOD_ANSWER, encode_read(w->remote_id, false, arena),
                           PIECE_TIMEOUT_MS, read_there, w);
        upb_Arena_Free(arena);
    } else if (!worker_post_internal(a->worker, &w->msg)) {
        fail_stopped(w);
    }
}

/* ---- The table ------------------------------------------------------------------------------- */

enum thole_code answers_add(struct answers *a, struct router_request *r, uint64_t *ret_id,
                            struct thole_status *st)
{
    *ret_id = 0;
    if (r->reader == NULL && r->answer_id == 0) {
        return THOLE_OK;
    }
    struct answer *w = xcalloc(1, sizeof *w);
    w->all = a;
    w->shard_id = r->shard_id;
    w->reader = r->reader;
    w->host = r->answer_host;
    w->remote_id = r->answer_id;
    w->begun_ns = w->used_ns = clock_now(a->clock);
    r->reader = NULL;
    metric_add(&metric_open, 1);
    pthread_mutex_lock(&a->lock);
    bool room = !a->stopping && a->open.count < ANSWERS_MAX;
    while (room && (w->id == 0 || map_get(&a->open, w->id) != NULL)) {
        secret_random(&w->id, sizeof w->id);
    }
    if (room) {
        (void)map_put(&a->open, w->id, w);
        *ret_id = w->id;
        if (!a->sweeping) {
            a->sweeping = worker_post_internal(a->worker, &a->sweep);
        }
    }
    pthread_mutex_unlock(&a->lock);
    if (room) {
        return THOLE_OK;
    }
    destroy(w, false);
    return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                      "%d answers are being read through this host already; retry later",
                      ANSWERS_MAX);
}

void answers_close(struct answers *a, uint64_t id)
{
    pthread_mutex_lock(&a->lock);
    struct answer *w = map_get(&a->open, id);
    if (w != NULL && w->calling) {
        w->unwanted = true;
        w = NULL;
    } else if (w != NULL) {
        (void)map_remove(&a->open, id);
    }
    pthread_mutex_unlock(&a->lock);
    if (w != NULL) {
        destroy(w, false);
    }
}

bool answers_shard(struct answers *a, uint64_t id, uint64_t *ret_shard_id)
{
    pthread_mutex_lock(&a->lock);
    const struct answer *w = map_get(&a->open, id);
    if (w != NULL) {
        *ret_shard_id = w->shard_id;
    }
    pthread_mutex_unlock(&a->lock);
    return w != NULL;
}

static uint64_t expiry(const struct answer *w)
{
    uint64_t idle_ns = w->used_ns + LIMIT_ANSWER_IDLE_MS * NS_PER_MS;
    uint64_t last_ns = w->begun_ns + LIMIT_ANSWER_MS * NS_PER_MS;
    return idle_ns < last_ns ? idle_ns : last_ns;
}

/* Take an answer that has expired, or every one with `all`. */
static struct answer *take_expired(struct answers *a, uint64_t now_ns, bool all, uint64_t *ret_next)
{
    struct answer *w, *found = NULL;
    size_t it = 0;
    *ret_next = CLOCK_NEVER;
    pthread_mutex_lock(&a->lock);
    while (found == NULL && (w = map_next(&a->open, &it, NULL)) != NULL) {
        uint64_t due = w->calling ? now_ns + LIMIT_ANSWER_IDLE_MS * NS_PER_MS : expiry(w);
        if (!w->calling && (all || due <= now_ns)) {
            found = w;
        } else if (due < *ret_next) {
            *ret_next = due;
        }
    }
    if (found != NULL) {
        (void)map_remove(&a->open, found->id);
    }
    pthread_mutex_unlock(&a->lock);
    return found;
}

static uint64_t turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct answers *a = ctx;
    struct answer *w;
    uint64_t next;
    for (struct worker_msg *m; (m = msgq_pop(batch)) != NULL;) {
        if (m == &a->sweep) {
            pthread_mutex_lock(&a->lock);
            a->sweeping = false;
            pthread_mutex_unlock(&a->lock);
        } else {
            read_here(CONTAINER_OF(m, struct answer, msg));
        }
    }
    while ((w = take_expired(a, now_ns, false, &next)) != NULL) {
        destroy(w, false);
    }
    return next;
}

struct answers *answers_new(struct executor *executor, struct bus *bus)
{
    struct answers *a = xcalloc(1, sizeof *a);
    a->bus = bus;
    a->clock = executor_clock(executor);
    pthread_mutex_init(&a->lock, NULL);
    a->worker = worker_new_background(executor, "answers", 2 * ANSWERS_MAX, turn, a);
    return a;
}

void answers_stop(struct answers *a)
{
    if (a == NULL) {
        return;
    }
    pthread_mutex_lock(&a->lock);
    a->stopping = true;
    pthread_mutex_unlock(&a->lock);
    worker_stop(a->worker);
}

void answers_free(struct answers *a)
{
    struct answer *w;
    uint64_t next;
    if (a == NULL) {
        return;
    }
    while ((w = take_expired(a, 0, true, &next)) != NULL) {
        destroy(w, false);
    }
    ASSERT(a->open.count == 0); /* exchanges ended with the bus */
    map_deinit(&a->open);
    worker_free(a->worker);
    pthread_mutex_destroy(&a->lock);
    free(a);
}
