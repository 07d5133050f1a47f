/* v3electionpb.Election but for Campaign, and v3lockpb.Lock/Unlock: calls of one request, and
 * Observe.
 *
 * Observe sends the key of who is elected, and again whenever its value changes; then that of the
 * next one. It reads who is elected and watches that key, or all keys of the election while there
 * is none. A client that does not read slows the watch down, so it misses no value of a key that it
 * was shown. */
#include <stdlib.h>

#include "agent/services/etcd_lock.h"
#include "agent/services/etcd_wait.h"
#include "etcd/kv.upb.h"
#include "proto/decode.h"

/* ---- Calls of one request -------------------------------------------------------------------- */

static void send_call(struct services *s, struct bus_rpc *rpc, enum router_kind kind,
                      uint32_t field, const void *request, const upb_MiniTable *table,
                      bool (*answer)(struct etcd_call *c, struct slice answer, struct bytes *out,
                                     struct thole_status *ret))
{
    upb_Arena *arena = upb_Arena_New();
    struct bufslice bytes = services__encode(request, table, arena);

    if (services__etcd_hold(rpc, bytes.bytes.size)) {
        struct etcd_call *c = services__etcd_call_new(s, rpc);
        c->answer = answer;
        services__etcd_send(&c->r, kind, field, bytes.bytes);
    }
    bufslice_unref(bytes);
    upb_Arena_Free(arena);
}

static bool answer_deleted(struct etcd_call *c, struct slice answer, struct bytes *out,
                           struct thole_status *ret)
{
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_DeleteRangeResponse *m =
        PROTO_DECODE_ALIAS(etcdserverpb_DeleteRangeResponse, answer, arena);

    (void)c;
    if (m != NULL) {
        services__etcd_append_revision(
            services__etcd_revision(etcdserverpb_DeleteRangeResponse_header(m)), out);
    }
    upb_Arena_Free(arena);
    return m != NULL || services__etcd_undecodable(ret) == THOLE_OK;
}

/* Of a transaction. `must`: its comparison must have held. */
static bool answer_txn(struct slice answer, bool must, struct bytes *out, struct thole_status *ret)
{
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_TxnResponse *m = PROTO_DECODE_ALIAS(etcdserverpb_TxnResponse, answer, arena);
    bool ok = m != NULL && (!must || etcdserverpb_TxnResponse_succeeded(m));

    if (ok) {
        services__etcd_append_revision(services__etcd_revision(etcdserverpb_TxnResponse_header(m)),
                                       out);
    } else if (m != NULL) {
        services__lock_error("election: not leader", ret);
    } else {
        (void)services__etcd_undecodable(ret);
    }
    upb_Arena_Free(arena);
    return ok;
}

static bool answer_proclaimed(struct etcd_call *c, struct slice answer, struct bytes *out,
                              struct thole_status *ret)
{
    (void)c;
    return answer_txn(answer, true, out, ret);
}

/* Who is not elected any more has nothing to resign from. */
static bool answer_resigned(struct etcd_call *c, struct slice answer, struct bytes *out,
                            struct thole_status *ret)
{
    (void)c;
    return answer_txn(answer, false, out, ret);
}

static void append_key(const mvccpb_KeyValue *kv, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    struct bufslice bytes = services__encode(kv, &mvccpb_KeyValue_msginit, arena);

    services__wire_bytes(out, 2, bytes.bytes);
    bufslice_unref(bytes);
    upb_Arena_Free(arena);
}

static bool answer_leader(struct etcd_call *c, struct slice answer, struct bytes *out,
                          struct thole_status *ret)
{
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_RangeResponse *m =
        PROTO_DECODE_ALIAS(etcdserverpb_RangeResponse, answer, arena);
    size_t n = 0;
    const mvccpb_KeyValue *const *kvs = m != NULL ? etcdserverpb_RangeResponse_kvs(m, &n) : NULL;

    (void)c;
    if (n > 0) {
        services__etcd_append_revision(
            services__etcd_revision(etcdserverpb_RangeResponse_header(m)), out);
        append_key(kvs[0], out);
    } else if (m != NULL) {
        services__lock_error("election: no leader", ret);
    } else {
        (void)services__etcd_undecodable(ret);
    }
    upb_Arena_Free(arena);
    return n > 0;
}

void services__etcd_unlock(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    upb_Arena *arena = upb_Arena_New();
    const v3lockpb_UnlockRequest *m =
        services__decode(rpc, &v3lockpb_UnlockRequest_msginit, message, arena);

    if (m != NULL) {
        etcdserverpb_DeleteRangeRequest *q = etcdserverpb_DeleteRangeRequest_new(arena);
        etcdserverpb_DeleteRangeRequest_set_key(q, v3lockpb_UnlockRequest_key(m));
        send_call(ctx, rpc, ROUTER_PROPOSE, thole_kv_v1_Command_op_delete_range, q,
                  &etcdserverpb_DeleteRangeRequest_msginit, answer_deleted);
    }
    upb_Arena_Free(arena);
}

/* A transaction of who is elected, for which the key must be as it was then. False: the request
 * does not say who; the call was refused. */
static bool as_leader(struct bus_rpc *rpc, const v3electionpb_LeaderKey *leader, upb_Arena *arena,
                      etcdserverpb_TxnRequest **ret)
{
    struct thole_status st;

    if (leader == NULL) {
        services__lock_error("\"leader\" field must be provided", &st);
        services__etcd_fail(rpc, &st);
        return false;
    }
    *ret = etcdserverpb_TxnRequest_new(arena);
    services__lock_compare(*ret, arena, registry_str(v3electionpb_LeaderKey_key(leader)),
                           etcdserverpb_Compare_CREATE, v3electionpb_LeaderKey_rev(leader));
    return true;
}

void services__etcd_proclaim(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    upb_Arena *arena = upb_Arena_New();
    const v3electionpb_ProclaimRequest *m =
        services__decode(rpc, &v3electionpb_ProclaimRequest_msginit, message, arena);
    const v3electionpb_LeaderKey *leader =
        m != NULL ? v3electionpb_ProclaimRequest_leader(m) : NULL;
    etcdserverpb_TxnRequest *txn;

    if (m != NULL && as_leader(rpc, leader, arena, &txn)) {
        etcdserverpb_PutRequest *put = etcdserverpb_RequestOp_mutable_request_put(
            etcdserverpb_TxnRequest_add_success(txn, arena), arena);
        etcdserverpb_PutRequest_set_key(put, v3electionpb_LeaderKey_key(leader));
        etcdserverpb_PutRequest_set_value(put, v3electionpb_ProclaimRequest_value(m));
        etcdserverpb_PutRequest_set_lease(put, v3electionpb_LeaderKey_lease(leader));
        send_call(ctx, rpc, ROUTER_PROPOSE, thole_kv_v1_Command_op_txn, txn,
                  &etcdserverpb_TxnRequest_msginit, answer_proclaimed);
    }
    upb_Arena_Free(arena);
}

void services__etcd_resign(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    upb_Arena *arena = upb_Arena_New();
    const v3electionpb_ResignRequest *m =
        services__decode(rpc, &v3electionpb_ResignRequest_msginit, message, arena);
    const v3electionpb_LeaderKey *leader = m != NULL ? v3electionpb_ResignRequest_leader(m) : NULL;
    etcdserverpb_TxnRequest *txn;

    if (m != NULL && as_leader(rpc, leader, arena, &txn)) {
        etcdserverpb_DeleteRangeRequest_set_key(
            etcdserverpb_RequestOp_mutable_request_delete_range(
                etcdserverpb_TxnRequest_add_success(txn, arena), arena),
            v3electionpb_LeaderKey_key(leader));
        send_call(ctx, rpc, ROUTER_PROPOSE, thole_kv_v1_Command_op_txn, txn,
                  &etcdserverpb_TxnRequest_msginit, answer_resigned);
    }
    upb_Arena_Free(arena);
}

void services__etcd_leader(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    upb_Arena *arena = upb_Arena_New();
    const v3electionpb_LeaderRequest *m =
        services__decode(rpc, &v3electionpb_LeaderRequest_msginit, message, arena);
    struct bytes from = {0}, end = {0};

    if (m != NULL) {
        etcdserverpb_RangeRequest *q = etcdserverpb_RangeRequest_new(arena);
        services__lock_range(registry_str(v3electionpb_LeaderRequest_name(m)), &from, &end);
        services__lock_by_age(q, &from, &end, true, 1);
        send_call(ctx, rpc, ROUTER_QUERY, thole_kv_v1_Query_op_range, q,
                  &etcdserverpb_RangeRequest_msginit, answer_leader);
    }
    bytes_deinit(&from);
    bytes_deinit(&end);
    upb_Arena_Free(arena);
}

/* ---- Observe --------------------------------------------------------------------------------- */

#define OBSERVER_BYTES 1024 /* what a call takes beside its request */

enum observer_step {
    OBSERVER_READS,
    OBSERVER_FOLLOWS, /* the key of who is elected */
    OBSERVER_WAITS,   /* for the first key */
    OBSERVER_BLOCKED, /* the client does not read */
};

struct observer {
    struct etcd_wait w;
    enum observer_step step;
    struct bytes from, end;
    _Atomic bool drained;
    int64_t created, sent; /* revisions of what was sent last: creation, modification */
};

static bool send_leader(struct observer *o, int64_t revision, const mvccpb_KeyValue *kv)
{
    struct bytes out = {0};

    services__etcd_append_revision(revision, &out);
    services__etcd_header(&o->w.route, &out);
    append_key(kv, &out);
    struct buf *b = bytes_to_buf(&out);
    bytes_deinit(&out);
    if (!bus_rpc_send(o->w.rpc, (struct bufslice){b, slice_of(b->data, b->size)})) {
        return false;
    }
    o->created = mvccpb_KeyValue_create_revision(kv);
    o->sent = mvccpb_KeyValue_mod_revision(kv);
    return true;
}

static void read_leader(struct observer *o)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_RangeRequest *m = etcdserverpb_RangeRequest_new(arena);

    o->step = OBSERVER_READS;
    services__lock_by_age(m, &o->from, &o->end, true, 1);
    services__etcd_wait_send(&o->w, ROUTER_QUERY, thole_kv_v1_Query_op_range, m,
                             &etcdserverpb_RangeRequest_msginit);
    upb_Arena_Free(arena);
}

static void watch(struct observer *o, struct slice key, struct slice end, int64_t revision)
{
    services__etcd_wait_watch(
        &o->w, &(struct etcd_wait_watch){.key = key, .end = end, .revision = revision});
    if (o->w.stream != NULL) {
        o->w.stream->needs_leader =
            slice_equal(bus_rpc_metadata(o->w.rpc, "hasleader"), slice_str("true"));
    }
}

static bool was_sent(const struct observer *o, const mvccpb_KeyValue *kv)
{
    return mvccpb_KeyValue_create_revision(kv) == o->created &&
           mvccpb_KeyValue_mod_revision(kv) <= o->sent;
}

static void leader_read(struct observer *o)
{
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_RangeResponse *m =
        PROTO_DECODE_ALIAS(etcdserverpb_RangeResponse, o->w.answer, arena);
    struct thole_status st;
    size_t n = 0;

    if (m == NULL) {
        (void)services__etcd_undecodable(&st);
        services__etcd_wait_fail(&o->w, &st);
        upb_Arena_Free(arena);
        return;
    }
    int64_t revision = services__etcd_revision(etcdserverpb_RangeResponse_header(m));
    const mvccpb_KeyValue *const *kvs = etcdserverpb_RangeResponse_kvs(m, &n);
    if (n == 0) {
        o->step = OBSERVER_WAITS;
        watch(o, bytes_slice(&o->from), bytes_slice(&o->end), revision);
    } else if (was_sent(o, kvs[0]) || send_leader(o, revision, kvs[0])) {
        o->step = OBSERVER_FOLLOWS;
        watch(o, registry_str(mvccpb_KeyValue_key(kvs[0])), (struct slice){0}, revision);
    } else {
        o->step = OBSERVER_BLOCKED;
    }
    upb_Arena_Free(arena);
}

static void observer_answered(struct etcd_wait *w)
{
    struct observer *o = CONTAINER_OF(w, struct observer, w);

    if (w->status.code == THOLE_OK) {
        leader_read(o);
    } else if (services__etcd_wait_may_repeat(&w->status)) {
        services__etcd_wait_later(w);
    } else {
        services__etcd_wait_fail(w, &w->status);
    }
}

static void observer_turn(struct etcd_wait *w)
{
    struct observer *o = CONTAINER_OF(w, struct observer, w);
    bool drained = atomic_exchange(&o->drained, false);

    if (atomic_load(&w->cancelled)) {
        services__etcd_wait_reply(w, (struct bufslice){NULL, {NULL, 0}});
    } else if (w->stream_status.code != THOLE_OK) {
        services__etcd_wait_fail(w, &w->stream_status);
    } else if (w->changed || (o->step == OBSERVER_BLOCKED && drained) ||
               (o->step == OBSERVER_READS && !w->later)) {
        services__etcd_wait_unwatch(w);
        w->changed = false;
        read_leader(o);
    } else if (drained && w->stream != NULL) {
        services__etcd_stream_resume(w->stream);
    }
}

/* Events of one key, or the first key of all. */
static bool observer_watched(struct etcd_wait *w, const etcdserverpb_WatchResponse *m)
{
    struct observer *o = CONTAINER_OF(w, struct observer, w);
    size_t n = 0;
    const mvccpb_Event *const *events = etcdserverpb_WatchResponse_events(m, &n);

    for (size_t i = 0; i < n && !w->changed; i++) {
        const mvccpb_KeyValue *kv = mvccpb_Event_kv(events[i]);
        if (o->step == OBSERVER_WAITS || mvccpb_Event_type(events[i]) == mvccpb_Event_DELETE) {
            w->changed = true;
        } else if (kv != NULL && !was_sent(o, kv) &&
                   !send_leader(o, mvccpb_KeyValue_mod_revision(kv), kv)) {
            return false;
        }
    }
    return true;
}

static void observer_release(struct etcd_wait *w)
{
    struct observer *o = CONTAINER_OF(w, struct observer, w);

    bytes_deinit(&o->from);
    bytes_deinit(&o->end);
    free(o);
}

static const struct etcd_wait_kind observer_kind = {
    .turn = observer_turn,
    .answered = observer_answered,
    .watched = observer_watched,
    .release = observer_release,
};

static void drained(void *ctx)
{
    struct observer *o = ctx;

    atomic_store(&o->drained, true);
    services__etcd_wait_wake(&o->w);
}

void services__etcd_observe(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    upb_Arena *arena = upb_Arena_New();
    const v3electionpb_LeaderRequest *m =
        services__decode(rpc, &v3electionpb_LeaderRequest_msginit, message, arena);

    if (m != NULL) {
        struct observer *o = xcalloc(1, sizeof *o);
        struct slice name = registry_str(v3electionpb_LeaderRequest_name(m));
        services__lock_range(name, &o->from, &o->end);
        if (services__etcd_wait_begin(&o->w, ctx, rpc, &observer_kind,
                                      OBSERVER_BYTES + 2 * name.size)) {
            bus_rpc_on_drained(rpc, drained, o);
        }
    }
    upb_Arena_Free(arena);
}
