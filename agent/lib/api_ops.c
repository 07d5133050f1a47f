/* libthole: operations in batches, blocking calls, sessions.
 *
 * An accepted operation is one object from a pool and one copy of its payload. A worker collects
 * completions and hands them to the caller's function in arrays, so that a caller with many
 * operations in flight is woken once for many. */
#include <stdlib.h>
#include <string.h>

#include "agent/core/answers.h"
#include "agent/lib/api_internal.h"
#include "base/assert.h"
#include "base/cork.h"
#include "base/latch.h"
#include "base/slot.h"

#define RESULTS_BATCH 256
#define POOL_MAX 8192
#define PAYLOAD_COPIED_BYTES 128

struct op {
    struct worker_msg msg;
    struct op *next; /* in the pool */
    thole_results_fn done;
    void *ctx, *user;
    struct api_request q;
    uint8_t copied[PAYLOAD_COPIED_BYTES]; /* a small payload */
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
};

struct results {
    struct thole *t;
    struct worker *worker;
    pthread_mutex_t lock;
    pthread_cond_t idle; /* signalled when nothing is in flight */
    struct op *pool;
    size_t pooled;
};

/* ---- The pool -------------------------------------------------------------------------------- */

static struct op *ops_take(struct results *rs, size_t n)
{
    struct op *list = NULL;
    pthread_mutex_lock(&rs->lock);
    while (n > 0 && rs->pool != NULL) {
        struct op *o = rs->pool;
        rs->pool = o->next;
        rs->pooled--;
        o->next = list;
        list = o;
        n--;
    }
    pthread_mutex_unlock(&rs->lock);
    while (n-- > 0) {
        struct op *o = xmalloc(sizeof *o);
        o->next = list;
        list = o;
    }
    return list;
}

static void ops_give(struct results *rs, struct op *list, size_t count)
{
    pthread_mutex_lock(&rs->lock);
    while (list != NULL && rs->pooled < POOL_MAX) {
        struct op *o = list;
        list = o->next;
        o->next = rs->pool;
        rs->pool = o;
        rs->pooled++;
    }
    size_t before = atomic_fetch_sub(&rs->t->in_flight, count);
    ASSERT(before >= count);
    if (before == count) {
        pthread_cond_broadcast(&rs->idle);
    }
    pthread_mutex_unlock(&rs->lock);
    while (list != NULL) {
        struct op *o = list;
        list = o->next;
        free(o);
    }
}

/* ---- Completions ----------------------------------------------------------------------------- */

static void op_done(struct api_request *q)
{
    struct op *o = CONTAINER_OF(q, struct op, q);
    bool posted = worker_post_internal(q->t->results->worker, &o->msg);
    ASSERT(posted); /* the worker outlives everything in flight */
}

static void fill(struct thole_result *to, const struct op *o)
{
    const struct router_request *r = &o->q.r;
    *to = (struct thole_result){
        .user = o->user,
        .code = r->status.code,
        .reason = r->status.reason,
        .message = r->status.code == THOLE_OK ? "" : r->status.message,
        .index = r->index,
        .value = r->code,
        .duplicate = r->duplicate,
        .forgotten = r->forgotten,
        .data = {.data = r->result.bytes.data, .size = r->result.bytes.size},
    };
}

static void call_back(struct results *rs, struct op **ops, size_t n)
{
    struct thole_result results[RESULTS_BATCH];
    struct op *list = NULL;
    size_t filled = 0;
    ASSERT(n > 0 && n <= RESULTS_BATCH && worker_is_current(rs->worker));
    do {
        fill(&results[filled], ops[filled]);
    } while (++filled < n);
    ops[0]->done(ops[0]->ctx, results, n);
    for (size_t i = 0; i < n; i++) {
        bufslice_unref(ops[i]->q.r.result);
        thole_shard_release(ops[i]->q.shard);
        ops[i]->next = list;
        list = ops[i];
    }
    ops_give(rs, list, n);
}

static uint64_t results_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct results *rs = ctx;
    struct op *ops[RESULTS_BATCH];
    size_t n = 0;
    (void)now_ns;
    for (struct worker_msg *m; (m = msgq_pop(batch)) != NULL;) {
        struct op *o = CONTAINER_OF(m, struct op, msg);
        bool other = n > 0 && (o->done != ops[0]->done || o->ctx != ops[0]->ctx);
        if (other || n == RESULTS_BATCH) {
            call_back(rs, ops, n);
            n = 0;
        }
        ops[n++] = o;
    }
    if (n > 0) {
        call_back(rs, ops, n);
    }
    return CLOCK_NEVER;
}

struct results *api__results_new(struct thole *t)
{
    struct results *rs = xcalloc(1, sizeof *rs);
    rs->t = t;
    pthread_mutex_init(&rs->lock, NULL);
    pthread_cond_init(&rs->idle, NULL);
    rs->worker = worker_new(t->executor, "results", 2 * THOLE_IN_FLIGHT_MAX, results_turn, rs);
    return rs;
}

void api__results_free(struct results *rs)
{
    pthread_mutex_lock(&rs->lock);
    while (atomic_load(&rs->t->in_flight) > 0) {
        pthread_cond_wait(&rs->idle, &rs->lock);
    }
    pthread_mutex_unlock(&rs->lock);
    ASSERT(atomic_load(&rs->t->in_flight) == 0);
    worker_stop(rs->worker);
    worker_free(rs->worker);
    while (rs->pool != NULL) {
        struct op *o = rs->pool;
        rs->pool = o->next;
        free(o);
    }
    pthread_cond_destroy(&rs->idle);
    pthread_mutex_destroy(&rs->lock);
    free(rs);
}

/* ---- Submitting ------------------------------------------------------------------------------ */

static enum thole_code check_op(const struct thole *t, const struct thole_op *op,
                                struct thole_status *st)
{
    if (op->shard == NULL || op->shard->t != t) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "op.shard belongs to another handle");
    }
    if (op->kind != THOLE_PROPOSE && op->kind != THOLE_QUERY) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "op.kind is unknown");
    }
    if (op->payload.size > LIMIT_PAYLOAD_BYTES) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "op.payload is larger than %d bytes", LIMIT_PAYLOAD_BYTES);
    }
    if (op->key.size > LIMIT_KEY_BYTES) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "op.key is larger than %d bytes", LIMIT_KEY_BYTES);
    }
    if (op->key.size > 0 && op->shard->slot_plus_1 != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "op.key must be empty: op.shard was opened with a key");
    }
    if (op->request_id.size > LIMIT_REQUEST_ID_BYTES) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "op.request_id is larger than %d bytes", LIMIT_REQUEST_ID_BYTES);
    }
    if (op->request_id.size > 0 && (op->session != 0 || op->kind != THOLE_PROPOSE)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "op.request_id is for proposals without a session");
    }
    return THOLE_OK;
}

/* Borrows the payload and the request id. */
static void fill_request(struct thole *t, const struct thole_op *op, uint64_t now,
                         struct api_request *q)
{
    struct router_request *r = &q->r;
    ASSERT(op->shard->t == t); /* check_op passed */
    memset(&r->kind, 0,
           offsetof(struct router_request, engine) - offsetof(struct router_request, kind));
    q->t = t;
    q->shard = op->shard;
    q->resolved_anew = false;
    r->kind = op->kind == THOLE_PROPOSE ? ROUTER_PROPOSE : ROUTER_QUERY;
    r->payload = (struct bufslice){.bytes = slice_of(op->payload.data, op->payload.size)};
    r->session = op->session;
    r->sequence = op->sequence;
    r->request_id = slice_of(op->request_id.data, op->request_id.size);
    r->stale = (op->flags & THOLE_STALE) != 0;
    r->max_staleness_ms = op->max_staleness_ms;
    r->slot_plus_1 = op->key.size > 0 ? 1 + slot_of_key(slice_of(op->key.data, op->key.size))
                                      : op->shard->slot_plus_1;
    r->deadline_ns = now + (op->timeout_ms ? op->timeout_ms : API_TIMEOUT_MS) * NS_PER_MS;
}

static struct bufslice keep_payload(struct op *o, struct slice payload)
{
    if (payload.size > sizeof o->copied) {
        struct buf *b = buf_copy(payload.data, payload.size);
        return (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)};
    }
    if (payload.size > 0) {
        memcpy(o->copied, payload.data, payload.size);
    }
    return (struct bufslice){.bytes = slice_of(o->copied, payload.size)};
}

static void keep_request_id(struct op *o)
{
    struct slice *id = &o->q.r.request_id;
    ASSERT(id->size <= sizeof o->request_id);
    if (id->size > 0) {
        memcpy(o->request_id, id->data, id->size);
        id->data = o->request_id;
    }
}

enum thole_code thole_submit(struct thole *t, const struct thole_op *ops, size_t count,
                             thole_results_fn done, void *ctx, struct thole_status *st)
{
    enum thole_code code = api__need_running(t, st);
    for (size_t i = 0; i < count && code == THOLE_OK; i++) {
        code = check_op(t, &ops[i], st);
    }
    if (code != THOLE_OK || count == 0) {
        return code;
    }
    if (atomic_fetch_add(&t->in_flight, count) + count > THOLE_IN_FLIGHT_MAX) {
        ops_give(t->results, NULL, count);
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                          "more than %d operations in flight", THOLE_IN_FLIGHT_MAX);
    }
    struct op *list = ops_take(t->results, count);
    uint64_t now = clock_now(&clock_system);
    cork_begin();
    for (size_t i = 0; i < count; i++) {
        struct op *o = list;
        list = o->next;
        o->done = done;
        o->ctx = ctx;
        o->user = ops[i].user;
        fill_request(t, &ops[i], now, &o->q);
        o->q.r.payload = keep_payload(o, o->q.r.payload.bytes);
        keep_request_id(o);
        ref_take(&o->q.shard->refs);
        o->q.done = op_done;
        api__route(&o->q);
    }
    ASSERT(list == NULL);
    cork_end();
    return THOLE_OK;
}

enum thole_code thole_call(struct thole *t, const struct thole_op *op, struct thole_answer *ret,
                           struct thole_status *st)
{
    enum thole_code code = api__need_running(t, st);
    if (code == THOLE_OK) {
        code = check_op(t, op, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct api_request q;
    fill_request(t, op, clock_now(&clock_system), &q);
    api__run(&q);
    code = api__finish(&q, st);
    if (code == THOLE_OK && ret != NULL) {
        size_t size = q.r.result.bytes.size;
        *ret = (struct thole_answer){.index = q.r.index,
                                     .value = q.r.code,
                                     .duplicate = q.r.duplicate,
                                     .forgotten = q.r.forgotten,
                                     .size = size};
        ret->data = xmalloc(size + 1);
        if (size > 0) {
            memcpy(ret->data, q.r.result.bytes.data, size);
        }
        ((char *)ret->data)[size] = 0;
    }
    bufslice_unref(q.r.result);
    return code;
}

/* ---- Answers in pieces ----------------------------------------------------------------------- */

struct next_piece {
    struct latch read;
    struct bufslice bytes; /* a reference */
    bool end;
};

static void piece_read(void *ctx, const struct thole_status *st, struct bufslice piece, bool end)
{
    struct next_piece *n = ctx;
    n->bytes = bufslice_keep(piece);
    n->end = end;
    latch_open(&n->read, st);
}

static enum thole_code read_pieces(struct answers *a, uint64_t id, thole_piece_fn piece, void *ctx,
                                   struct thole_status *st)
{
    for (bool end = false; !end;) {
        struct next_piece n = {.end = false};
        bool go_on = true;
        latch_init(&n.read);
        answers_next(a, id, piece_read, &n);
        enum thole_code code = latch_wait(&n.read, st);
        latch_deinit(&n.read);
        if (code == THOLE_OK && n.bytes.bytes.size > 0) {
            go_on = piece(ctx, (struct thole_slice){n.bytes.bytes.data, n.bytes.bytes.size});
        }
        bufslice_unref(n.bytes);
        if (code != THOLE_OK) {
            return code;
        }
        if (!go_on) {
            answers_close(a, id);
            return THOLE_FAIL(st, THOLE_CANCELLED, THOLE_REASON_NONE,
                              "the caller stopped the answer");
        }
        end = n.end;
    }
    return THOLE_OK;
}

enum thole_code thole_query_stream(struct thole *t, const struct thole_op *op, thole_piece_fn piece,
                                   void *ctx, uint64_t *ret_index, struct thole_status *st)
{
    enum thole_code code = api__need_running(t, st);
    if (code == THOLE_OK) {
        code = check_op(t, op, st);
    }
    if (code == THOLE_OK && op->kind != THOLE_QUERY) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "op.kind must be THOLE_QUERY");
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct api_request q;
    uint64_t id = 0;
    struct answers *a = t->is_client ? api__client_answers(t->client) : agent_answers(t->agent);
    fill_request(t, op, clock_now(&clock_system), &q);
    q.r.streamed = true;
    api__run(&q);
    code = api__finish(&q, st);
    if (code == THOLE_OK) {
        code = answers_add(a, &q.r, &id, st);
    }
    if (code == THOLE_OK && ret_index != NULL) {
        *ret_index = q.r.index;
    }
    if (code == THOLE_OK && id != 0) {
        code = read_pieces(a, id, piece, ctx, st);
    } else if (code == THOLE_OK && q.r.result.bytes.size > 0) {
        const struct thole_slice whole = {q.r.result.bytes.data, q.r.result.bytes.size};
        (void)piece(ctx, whole); /* it was the last one anyway */
    }
    bufslice_unref(q.r.result);
    return code;
}

/* Open a session, or close the one that `op` names; `ret_code` is the answer's number. */
static enum thole_code run_session(struct thole *t, const struct thole_op *op,
                                   enum router_kind kind, uint64_t *ret_code,
                                   struct thole_status *st)
{
    enum thole_code code = api__need_running(t, st);
    if (code == THOLE_OK) {
        code = check_op(t, op, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct api_request q;
    fill_request(t, op, clock_now(&clock_system), &q);
    q.r.kind = kind;
    api__run(&q);
    code = api__finish(&q, st);
    if (code == THOLE_OK) {
        *ret_code = q.r.code;
    }
    bufslice_unref(q.r.result);
    return code;
}

enum thole_code thole_session_open(struct thole *t, struct thole_shard *shard, uint32_t timeout_ms,
                                   uint64_t *ret, struct thole_status *st)
{
    const struct thole_op op = {.kind = THOLE_PROPOSE, .shard = shard, .timeout_ms = timeout_ms};
    return run_session(t, &op, ROUTER_OPEN_SESSION, ret, st);
}

enum thole_code thole_session_close(struct thole *t, struct thole_shard *shard, uint64_t session,
                                    uint32_t timeout_ms, struct thole_status *st)
{
    const struct thole_op op = {
        .kind = THOLE_PROPOSE, .shard = shard, .timeout_ms = timeout_ms, .session = session};
    uint64_t unused;
    if (session == 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "session is needed");
    }
    return run_session(t, &op, ROUTER_CLOSE_SESSION, &unused, st);
}
