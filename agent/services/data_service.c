/* thole.v1.Data, the unary calls: Propose, Query, OpenSession, CloseSession.
 *
 * The hot path. A call comes from a pool and contains a small payload; its answer is encoded by
 * hand into the buffer that is sent. */
#include <stdlib.h>
#include <string.h>

#include "agent/services/services_internal.h"
#include "base/assert.h"
#include "base/slot.h"
#include "proto/decode.h"

#define POOL_CALLS_MAX 4096
#define DECODE_BYTES 1024 /* on the stack: strings are not copied, so a request fits */

struct data_call *services__data_call_new(struct services *s, struct bus_rpc *rpc)
{
    pthread_mutex_lock(&s->pool_mutex);
    struct data_call *d = s->pool;
    if (d != NULL) {
        s->pool = d->next;
        s->pool_count--;
    }
    pthread_mutex_unlock(&s->pool_mutex);
    if (d == NULL) {
        d = xmalloc(sizeof *d);
    }
    /* Clears everything except the name and the messages of statuses, which are large. */
    memset(&d->route, 0, offsetof(struct router_request, engine));
    d->route.status.code = THOLE_OK;
    d->s = s;
    d->rpc = rpc;
    d->stream = NULL;
    d->stream_id = 0;
    d->held = 0;
    d->next = NULL;
    d->field = NULL;
    d->right = NULL;
    d->text = d->searched = false;
    d->shard[0] = '\0';
    return d;
}

void services__data_call_free(struct data_call *d)
{
    struct services *s = d->s;
    bufslice_unref(d->route.result);
    free(d->right);
    pthread_mutex_lock(&s->pool_mutex);
    bool keep = s->pool_count < POOL_CALLS_MAX;
    if (keep) {
        d->next = s->pool;
        s->pool = d;
        s->pool_count++;
    }
    pthread_mutex_unlock(&s->pool_mutex);
    if (!keep) {
        free(d);
    }
}

void services__data_pool_deinit(struct services *s)
{
    while (s->pool != NULL) {
        struct data_call *d = s->pool;
        s->pool = d->next;
        free(d);
    }
    s->pool_count = 0;
}

enum thole_code services__data_read_key(upb_StringView key, uint32_t *ret, struct thole_status *st)
{
    if (key.size > LIMIT_KEY_BYTES) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "key: has %zu bytes, more than the limit of %d", key.size,
                          LIMIT_KEY_BYTES);
    }
    *ret = key.size > 0 ? 1 + slot_of_key(registry_str(key)) : 0;
    return THOLE_OK;
}

/* ---- Answers --------------------------------------------------------------------------------- */

/* Room for code, index, duplicate, forgotten, and the heads of data and text. */
#define PROPOSE_OVERHEAD_BYTES 48

void services__data_propose_response_append(const struct data_call *d, struct bytes *out)
{
    const struct router_request *r = &d->route;
    services__wire_varint(out, 1, r->code);
    if (r->result.bytes.size > 0) {
        services__wire_bytes(out, 2, r->result.bytes);
        if (d->text && text_is_utf8(r->result.bytes)) {
            services__wire_bytes(out, 3, r->result.bytes);
        }
    }
    services__wire_varint(out, 4, r->index);
    services__wire_varint(out, 5, r->duplicate);
    services__wire_varint(out, 6, r->forgotten);
}

struct bufslice services__data_propose_response(const struct data_call *d)
{
    size_t results = d->route.result.bytes.size * (d->text ? 2 : 1);
    struct bytes out;
    struct buf *b = services__builder_begin(&out, results + PROPOSE_OVERHEAD_BYTES);
    services__data_propose_response_append(d, &out);
    return services__builder_end(b, &out);
}

static struct bufslice query_response(const struct data_call *d)
{
    struct slice result = d->route.result.bytes;
    struct bytes out;
    struct buf *b =
        services__builder_begin(&out, result.size * (d->text ? 2 : 1) + PROPOSE_OVERHEAD_BYTES);
    if (result.size > 0) {
        services__wire_bytes(&out, 1, result);
        if (d->text && text_is_utf8(result)) {
            services__wire_bytes(&out, 2, result);
        }
    }
    services__wire_varint(&out, 3, d->route.index);
    return services__builder_end(b, &out);
}

static struct bufslice session_response(const struct data_call *d)
{
    struct bytes out;
    struct buf *b = services__builder_begin(&out, PROPOSE_OVERHEAD_BYTES);
    if (d->route.kind == ROUTER_OPEN_SESSION) {
        services__wire_varint(&out, 1, d->route.code);
    }
    return services__builder_end(b, &out);
}

static void data_fail(struct data_call *d, const struct thole_status *st)
{
    const char *metadata[7] = {NULL};
    size_t n = 0;
    if (d->field != NULL) {
        metadata[n++] = "field";
        metadata[n++] = d->field;
    }
    if (d->shard[0] != '\0') {
        metadata[n++] = "shard";
        metadata[n++] = d->shard;
    }
    if (d->right != NULL) {
        metadata[n++] = "right";
        metadata[n] = d->right;
    }
    services__fail(d->rpc, st, metadata[0] != NULL ? metadata : NULL);
    services__data_call_free(d);
}

static void search_done(void *ctx, const struct thole_status *st);

static void data_done(struct router_request *r)
{
    struct data_call *d = r->ctx;
    if (r->status.reason == THOLE_REASON_NO_SUCH_SHARD) {
        if (!d->searched) { /* a new shard may have the name */
            agent_barrier(d->s->agent, r->deadline_ns, search_done, d);
            return;
        }
        bufslice_unref(r->payload);
        r->payload = (struct bufslice){NULL, {NULL, 0}};
    }
    if (d->stream != NULL) {
        services__data_stream_done(d);
        return;
    }
    if (r->streamed) {
        (void)bus_rpc_hold(d->rpc, &d->held, 0);
    }
    if (r->status.code != THOLE_OK) {
        data_fail(d, &r->status);
        return;
    }
    if (r->streamed) {
        services__data_answer(d);
        return;
    }
    struct bufslice reply = r->kind == ROUTER_PROPOSE ? services__data_propose_response(d)
                            : r->kind == ROUTER_QUERY ? query_response(d)
                                                      : session_response(d);
    bus_rpc_reply(d->rpc, reply);
    services__data_call_free(d);
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void data_end(struct data_call *d, const struct thole_status *st)
{
    bufslice_unref(d->route.payload);
    d->route.payload = (struct bufslice){NULL, {NULL, 0}};
    d->route.status = *st;
    d->searched = true;
    data_done(&d->route);
}

static void search_done(void *ctx, const struct thole_status *st)
{
    struct data_call *d = ctx;
    if (st->code != THOLE_OK) {
        data_end(d, st);
        return;
    }
    d->searched = true;
    services__data_send(d);
}

void services__data_send(struct data_call *d)
{
    d->route.done = data_done;
    d->route.ctx = d;
    struct thole_status st;
    if (agent_find_shard(d->s->agent, slice_str(d->shard), d->route.slot_plus_1, &d->route.shard_id,
                         &st) == THOLE_OK) {
        agent_route(d->s->agent, &d->route);
    } else if (!d->searched) { /* it may have just been created through another host */
        agent_barrier(d->s->agent, d->route.deadline_ns, search_done, d);
    } else {
        d->field = st.code == THOLE_INVALID_ARGUMENT ? "key" : NULL;
        data_end(d, &st);
    }
}

static bool read_payload(struct data_call *d, upb_StringView payload, bool text,
                         struct thole_status *st)
{
    if (payload.size > LIMIT_PAYLOAD_BYTES) {
        d->field = text ? "text" : "data";
        (void)THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                         "%s: has %zu bytes, more than the limit of %d", d->field, payload.size,
                         LIMIT_PAYLOAD_BYTES);
        return false;
    }
    struct buf *copy = NULL;
    if (payload.size > sizeof d->copied) {
        if (!bus_rpc_hold(d->rpc, d->stream != NULL || d->route.streamed ? &d->held : NULL,
                          payload.size)) {
            (void)services__no_room(st);
            return false;
        }
        copy = buf_copy(payload.data, payload.size);
    } else if (payload.size > 0) {
        memcpy(d->copied, payload.data, payload.size);
    }
    d->route.payload =
        (struct bufslice){copy, slice_of(copy != NULL ? copy->data : d->copied, payload.size)};
    d->text = text;
    return true;
}

static bool read_shard(struct data_call *d, upb_StringView name, upb_StringView key,
                       struct thole_status *st)
{
    d->field = "shard";
    if (!services__name_of_data_shard(name, d->shard, st)) {
        return false;
    }
    d->field = "key";
    if (services__data_read_key(key, &d->route.slot_plus_1, st) != THOLE_OK) {
        return false;
    }
    d->field = NULL;
    return services__data_allowed(d, st) == THOLE_OK;
}

static bool read_request_id(struct data_call *d, upb_StringView id, struct thole_status *st)
{
    if (id.size == 0) {
        return true;
    }
    d->field = "request_id";
    if (id.size > LIMIT_REQUEST_ID_BYTES) {
        (void)THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                         "request_id: has %zu bytes, more than the limit of %d", id.size,
                         LIMIT_REQUEST_ID_BYTES);
        return false;
    }
    if (d->route.session != 0) {
        (void)THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "request_id: a proposal in a session has a sequence instead");
        return false;
    }
    d->field = NULL;
    memcpy(d->request_id, id.data, id.size);
    d->route.request_id = slice_of(d->request_id, id.size);
    return true;
}

bool services__data_read_propose(struct data_call *d, const thole_v1_ProposeRequest *q,
                                 struct thole_status *st)
{
    d->route.kind = ROUTER_PROPOSE;
    d->route.session = thole_v1_ProposeRequest_session(q);
    d->route.sequence = thole_v1_ProposeRequest_sequence(q);
    if (!read_shard(d, thole_v1_ProposeRequest_shard(q), thole_v1_ProposeRequest_key(q), st)) {
        return false;
    }
    if ((d->route.session == 0) != (d->route.sequence == 0)) {
        d->field = d->route.session == 0 ? "session" : "sequence";
        (void)THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "%s: session and sequence must be given together; sequences begin at 1",
                         d->field);
        return false;
    }
    if (!read_request_id(d, thole_v1_ProposeRequest_request_id(q), st)) {
        return false;
    }
    bool text = thole_v1_ProposeRequest_payload_case(q) == thole_v1_ProposeRequest_payload_text;
    return read_payload(d, text ? thole_v1_ProposeRequest_text(q) : thole_v1_ProposeRequest_data(q),
                        text, st);
}

static bool read_query(struct data_call *d, const thole_v1_QueryRequest *q, struct thole_status *st)
{
    d->route.kind = ROUTER_QUERY;
    d->route.stale = thole_v1_QueryRequest_stale(q);
    d->route.max_staleness_ms = thole_v1_QueryRequest_max_staleness_ms(q);
    if (!read_shard(d, thole_v1_QueryRequest_shard(q), thole_v1_QueryRequest_key(q), st)) {
        return false;
    }
    if (d->route.max_staleness_ms != 0 && !d->route.stale) {
        d->field = "max_staleness_ms";
        (void)THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "max_staleness_ms: requires stale");
        return false;
    }
    bool text = thole_v1_QueryRequest_payload_case(q) == thole_v1_QueryRequest_payload_text;
    return read_payload(d, text ? thole_v1_QueryRequest_text(q) : thole_v1_QueryRequest_data(q),
                        text, st);
}

static bool read_open(struct data_call *d, const thole_v1_OpenSessionRequest *q,
                      struct thole_status *st)
{
    d->route.kind = ROUTER_OPEN_SESSION;
    return read_shard(d, thole_v1_OpenSessionRequest_shard(q), thole_v1_OpenSessionRequest_key(q),
                      st);
}

static bool read_close(struct data_call *d, const thole_v1_CloseSessionRequest *q,
                       struct thole_status *st)
{
    d->route.kind = ROUTER_CLOSE_SESSION;
    d->route.session = thole_v1_CloseSessionRequest_session(q);
    if (!read_shard(d, thole_v1_CloseSessionRequest_shard(q), thole_v1_CloseSessionRequest_key(q),
                    st)) {
        return false;
    }
    if (d->route.session == 0) {
        d->field = "session";
        (void)THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "session: is needed");
        return false;
    }
    return true;
}

/* Decode without copying strings, check, and route. */
static void data_begin(struct services *s, struct bus_rpc *rpc, struct slice message,
                       const upb_MiniTable *kind, bool streamed)
{
    _Alignas(16) char memory[DECODE_BYTES];
    upb_Arena *arena = upb_Arena_Init(memory, sizeof memory, &upb_alloc_global);
    const char *why = NULL;
    const void *q = proto_decode(kind, message, true, arena, &why);
    struct data_call *d = services__data_call_new(s, rpc);
    d->route.deadline_ns = services__deadline(rpc);
    d->route.streamed = streamed;
    struct thole_status st;
    bool ok = q != NULL;
    if (!ok) {
        d->field = "request";
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "request: %s", why);
    } else if (kind == &thole_v1_ProposeRequest_msginit) {
        ok = services__data_read_propose(d, q, &st);
    } else if (kind == &thole_v1_QueryRequest_msginit) {
        ok = read_query(d, q, &st);
    } else if (kind == &thole_v1_OpenSessionRequest_msginit) {
        ok = read_open(d, q, &st);
    } else {
        ok = read_close(d, q, &st);
    }
    upb_Arena_Free(arena);
    if (!ok) {
        data_fail(d, &st);
        return;
    }
    services__data_send(d);
}

void services__data_propose(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    data_begin(ctx, rpc, message, &thole_v1_ProposeRequest_msginit, false);
}

void services__data_query(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    data_begin(ctx, rpc, message, &thole_v1_QueryRequest_msginit, false);
}

void services__data_query_begin(struct services *s, struct bus_rpc *rpc, struct slice message)
{
    data_begin(s, rpc, message, &thole_v1_QueryRequest_msginit, true);
}

void services__data_open_session(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    data_begin(ctx, rpc, message, &thole_v1_OpenSessionRequest_msginit, false);
}

void services__data_close_session(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    data_begin(ctx, rpc, message, &thole_v1_CloseSessionRequest_msginit, false);
}
