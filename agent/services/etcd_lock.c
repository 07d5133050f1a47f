/* v3lockpb.Lock/Lock and v3electionpb.Election/Campaign: a call that contends for a name.
 *
 *   GRANT       a lease, if the caller has none
 *   ENQUEUE     create our key, unless it exists; who was before us?
 *   WAIT        until the key of the last one before us is deleted, or ours
 *   LOOK        is our key still there, and who is before us now?
 *   CONFIRM     another call with our key is there: make ours the last
 *   HOLDING     answer
 *   LEAVE       the caller is gone, or we cannot go on: delete our key
 *
 * Two calls may have one key: a client repeats its call, perhaps at another host, before the first
 * one was noticed to be gone. Each call writes the key, so that its modification tells whose it is:
 * a call deletes the key only if it was the last to write it, and only while others were before it.
 * A call that finds itself first with a key that another one wrote writes it once more before it
 * answers, so that the other cannot delete it any more.
 *
 * Requests may be repeated: one that was carried out finds its key. A key whose fate nobody here
 * knows ends with its lease. */
#include "agent/services/etcd_lock.h"

#include <inttypes.h>
#include <stdlib.h>

#include "agent/services/etcd_wait.h"
#include "etcd/kv.upb.h"
#include "proto/decode.h"

#define OWN_LEASE_S 60 /* of callers without a lease, as in etcd */
#define LEAVE_NS (30 * NS_PER_S)
#define CONTENDER_BYTES 1024 /* what a call takes beside its request */

enum step { GRANT, ENQUEUE, WAIT, LOOK, CONFIRM, HOLDING, LEAVE };

struct contender {
    struct etcd_wait w;
    bool campaign;
    struct bytes name, from, end, key, value;
    int64_t lease;
    bool own_lease;
    enum step step;
    int64_t created, written; /* revisions of our key, as far as this call knows; 0: none */
    bool shared;              /* our key is not this call's to delete */
    int64_t revision;         /* of the last answer */
    uint64_t deadline_ns;     /* then a request that fails is not repeated */
    struct thole_status why;  /* of LEAVE; OK: the caller is gone */
};

/* ---- Requests -------------------------------------------------------------------------------- */

void services__lock_range(struct slice name, struct bytes *ret_from, struct bytes *ret_end)
{
    bytes_append_slice(ret_from, name);
    bytes_append_str(ret_from, "/");
    bytes_append_slice(ret_end, name);
    bytes_append_str(ret_end, "0"); /* what follows '/' */
}

void services__lock_compare(etcdserverpb_TxnRequest *m, upb_Arena *arena, struct slice key,
                            int32_t target, int64_t value)
{
    etcdserverpb_Compare *c = etcdserverpb_TxnRequest_add_compare(m, arena);

    etcdserverpb_Compare_set_key(c, registry_view_of(key));
    etcdserverpb_Compare_set_target(c, target);
    if (target == etcdserverpb_Compare_CREATE) {
        etcdserverpb_Compare_set_create_revision(c, value);
    } else {
        etcdserverpb_Compare_set_mod_revision(c, value);
    }
}

void services__lock_by_age(etcdserverpb_RangeRequest *m, const struct bytes *from,
                           const struct bytes *end, bool oldest, int64_t limit)
{
    etcdserverpb_RangeRequest_set_key(m, registry_view_of(bytes_slice(from)));
    etcdserverpb_RangeRequest_set_range_end(m, registry_view_of(bytes_slice(end)));
    etcdserverpb_RangeRequest_set_sort_target(m, etcdserverpb_RangeRequest_CREATE);
    etcdserverpb_RangeRequest_set_sort_order(m, oldest ? etcdserverpb_RangeRequest_ASCEND
                                                       : etcdserverpb_RangeRequest_DESCEND);
    etcdserverpb_RangeRequest_set_limit(m, limit);
}

void services__lock_error(const char *what, struct thole_status *ret)
{
    (void)THOLE_FAIL(ret, THOLE_UNKNOWN, THOLE_REASON_NONE, "%s", what);
}

static void send_txn(struct contender *c, enum router_kind kind, const etcdserverpb_TxnRequest *m)
{
    if (kind == ROUTER_QUERY) {
        services__etcd_wait_send(&c->w, kind, thole_kv_v1_Query_op_txn, m,
                                 &etcdserverpb_TxnRequest_msginit);
    } else {
        services__etcd_wait_send(&c->w, kind, thole_kv_v1_Command_op_txn, m,
                                 &etcdserverpb_TxnRequest_msginit);
    }
}

static void grant(struct contender *c)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_LeaseGrantRequest *m = etcdserverpb_LeaseGrantRequest_new(arena);

    etcdserverpb_LeaseGrantRequest_set_TTL(m, OWN_LEASE_S);
    services__etcd_wait_send(&c->w, ROUTER_PROPOSE, thole_kv_v1_Command_op_lease_grant, m,
                             &etcdserverpb_LeaseGrantRequest_msginit);
    upb_Arena_Free(arena);
}

/* A put of our key that keeps what is there, but for the modification. */
static void touch(const struct contender *c, etcdserverpb_PutRequest *put)
{
    etcdserverpb_PutRequest_set_key(put, registry_view_of(bytes_slice(&c->key)));
    etcdserverpb_PutRequest_set_ignore_value(put, true);
    etcdserverpb_PutRequest_set_ignore_lease(put, true);
}

static void put_new(const struct contender *c, etcdserverpb_PutRequest *put)
{
    etcdserverpb_PutRequest_set_key(put, registry_view_of(bytes_slice(&c->key)));
    etcdserverpb_PutRequest_set_value(put, registry_view_of(bytes_slice(&c->value)));
    etcdserverpb_PutRequest_set_lease(put, c->lease);
}

static void get_own(const struct contender *c, etcdserverpb_RangeRequest *range)
{
    etcdserverpb_RangeRequest_set_key(range, registry_view_of(bytes_slice(&c->key)));
    etcdserverpb_RangeRequest_set_keys_only(range, true);
}

#define OP_SUCCESS(m, arena, op)                                                                   \
    etcdserverpb_RequestOp_mutable_request_##op(etcdserverpb_TxnRequest_add_success((m), (arena)), \
                                                (arena))
#define OP_FAILURE(m, arena, op)                                                                   \
    etcdserverpb_RequestOp_mutable_request_##op(etcdserverpb_TxnRequest_add_failure((m), (arena)), \
                                                (arena))

/* New: our key, and the one before it. Else: our key, and the holder's. */
static void enqueue(struct contender *c)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_TxnRequest *m = etcdserverpb_TxnRequest_new(arena);

    services__lock_compare(m, arena, bytes_slice(&c->key), etcdserverpb_Compare_CREATE, 0);
    put_new(c, OP_SUCCESS(m, arena, put));
    etcdserverpb_RangeRequest *last = OP_SUCCESS(m, arena, range);
    services__lock_by_age(last, &c->from, &c->end, false, 2);
    etcdserverpb_RangeRequest_set_keys_only(last, true);
    if (c->campaign) {
        put_new(c, OP_FAILURE(m, arena, put));
    } else {
        touch(c, OP_FAILURE(m, arena, put));
    }
    get_own(c, OP_FAILURE(m, arena, range));
    etcdserverpb_RangeRequest *holder = OP_FAILURE(m, arena, range);
    services__lock_by_age(holder, &c->from, &c->end, true, 1);
    etcdserverpb_RangeRequest_set_keys_only(holder, true);
    send_txn(c, ROUTER_PROPOSE, m);
    upb_Arena_Free(arena);
}

/* Our key, and the one before it. */
static void look(struct contender *c)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_TxnRequest *m = etcdserverpb_TxnRequest_new(arena);

    get_own(c, OP_SUCCESS(m, arena, range));
    etcdserverpb_RangeRequest *before = OP_SUCCESS(m, arena, range);
    services__lock_by_age(before, &c->from, &c->end, false, 1);
    etcdserverpb_RangeRequest_set_max_create_revision(before, c->created - 1);
    etcdserverpb_RangeRequest_set_keys_only(before, true);
    send_txn(c, ROUTER_QUERY, m);
    upb_Arena_Free(arena);
}

static void confirm(struct contender *c)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_TxnRequest *m = etcdserverpb_TxnRequest_new(arena);

    c->shared = true;
    services__lock_compare(m, arena, bytes_slice(&c->key), etcdserverpb_Compare_CREATE, c->created);
    touch(c, OP_SUCCESS(m, arena, put));
    send_txn(c, ROUTER_PROPOSE, m);
    upb_Arena_Free(arena);
}

static void revoke(struct contender *c)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_LeaseRevokeRequest *m = etcdserverpb_LeaseRevokeRequest_new(arena);

    etcdserverpb_LeaseRevokeRequest_set_ID(m, c->lease);
    services__etcd_wait_send(&c->w, ROUTER_PROPOSE, thole_kv_v1_Command_op_lease_revoke, m,
                             &etcdserverpb_LeaseRevokeRequest_msginit);
    upb_Arena_Free(arena);
}

static void delete_key(struct contender *c)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_TxnRequest *m = etcdserverpb_TxnRequest_new(arena);

    services__lock_compare(m, arena, bytes_slice(&c->key), etcdserverpb_Compare_MOD, c->written);
    etcdserverpb_DeleteRangeRequest_set_key(OP_SUCCESS(m, arena, delete_range),
                                            registry_view_of(bytes_slice(&c->key)));
    send_txn(c, ROUTER_PROPOSE, m);
    upb_Arena_Free(arena);
}

/* ---- The end --------------------------------------------------------------------------------- */

static void finish(struct contender *c)
{
    if (c->why.code != THOLE_OK) {
        services__etcd_wait_fail(&c->w, &c->why);
    } else {
        services__etcd_wait_reply(&c->w, (struct bufslice){NULL, {NULL, 0}});
    }
}

/* `why` NULL: the caller is gone. */
static void leave(struct contender *c, const struct thole_status *why)
{
    if (why != NULL) {
        c->why = *why;
    }
    services__etcd_wait_unwatch(&c->w);
    c->step = LEAVE;
    c->deadline_ns = c->w.set->now_ns + LEAVE_NS;
    if (c->own_lease) {
        revoke(c);
    } else if (c->written != 0 && !c->shared) {
        delete_key(c);
    } else {
        finish(c);
    }
}

static void leave_with(struct contender *c, const char *what)
{
    struct thole_status st;

    services__lock_error(what, &st);
    leave(c, &st);
}

static void expired(struct contender *c)
{
    c->written = 0; /* there is nothing to delete */
    leave_with(c, c->campaign ? "election: session is expired" : "mutex: session is expired");
}

static void answer(struct contender *c)
{
    struct bytes out = {0}, leader = {0};

    /* As in etcd: of the request that put the key, or of the last look. */
    services__etcd_append_revision(c->campaign ? c->written : c->revision, &out);
    services__etcd_header(&c->w.route, &out);
    if (c->campaign) {
        services__wire_bytes(&leader, 1, bytes_slice(&c->name));
        services__wire_bytes(&leader, 2, bytes_slice(&c->key));
        services__wire_varint(&leader, 3, (uint64_t)c->created);
        services__wire_varint(&leader, 4, (uint64_t)c->lease);
        services__wire_bytes(&out, 2, bytes_slice(&leader));
    } else {
        services__wire_bytes(&out, 2, bytes_slice(&c->key));
    }
    struct buf *b = bytes_to_buf(&out);
    bytes_deinit(&leader);
    bytes_deinit(&out);
    services__etcd_wait_reply(&c->w, (struct bufslice){b, slice_of(b->data, b->size)});
}

/* ---- Answers --------------------------------------------------------------------------------- */

/* The only one of the keys in the answer of operation `i`; NULL: none. */
static const mvccpb_KeyValue *key_of(const etcdserverpb_TxnResponse *m, size_t i, size_t at)
{
    size_t n = 0, keys = 0;
    const etcdserverpb_ResponseOp *const *ops = etcdserverpb_TxnResponse_responses(m, &n);
    const etcdserverpb_RangeResponse *range =
        i < n ? etcdserverpb_ResponseOp_response_range(ops[i]) : NULL;
    const mvccpb_KeyValue *const *kvs =
        range != NULL ? etcdserverpb_RangeResponse_kvs(range, &keys) : NULL;

    return at < keys ? kvs[at] : NULL;
}

static void wait_for(struct contender *c, const mvccpb_KeyValue *before)
{
    const struct etcd_wait_watch what = {
        .key = registry_str(mvccpb_KeyValue_key(before)),
        .second = bytes_slice(&c->key), /* the lease may end */
        .no_put = true,
        .revision = c->revision,
    };

    c->step = WAIT;
    services__etcd_wait_watch(&c->w, &what);
}

static void enqueued(struct contender *c, const etcdserverpb_TxnResponse *m)
{
    const mvccpb_KeyValue *before = key_of(m, 1, 1), *own = key_of(m, 1, 0),
                          *holder = key_of(m, 2, 0);

    c->written = c->revision;
    if (etcdserverpb_TxnResponse_succeeded(m)) {
        c->created = c->revision;
        c->step = HOLDING;
        if (before != NULL) {
            wait_for(c, before);
        }
    } else if (own != NULL && holder != NULL) {
        c->created = mvccpb_KeyValue_create_revision(own);
        c->shared = mvccpb_KeyValue_create_revision(holder) == c->created;
        c->step = c->shared ? HOLDING : LOOK;
    } else {
        leave_with(c, "the answer of the store is not complete");
    }
}

static void looked(struct contender *c, const etcdserverpb_TxnResponse *m)
{
    const mvccpb_KeyValue *own = key_of(m, 0, 0), *before = key_of(m, 1, 0);

    if (own == NULL || mvccpb_KeyValue_create_revision(own) != c->created) {
        expired(c);
    } else if (before != NULL) {
        wait_for(c, before);
    } else {
        c->step = mvccpb_KeyValue_mod_revision(own) == c->written ? HOLDING : CONFIRM;
    }
}

static void confirmed(struct contender *c, const etcdserverpb_TxnResponse *m)
{
    if (etcdserverpb_TxnResponse_succeeded(m)) {
        c->step = HOLDING;
    } else {
        expired(c);
    }
}

static void txn_done(struct contender *c)
{
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_TxnResponse *m =
        PROTO_DECODE_ALIAS(etcdserverpb_TxnResponse, c->w.answer, arena);

    if (m == NULL) {
        leave_with(c, "the answer of the store does not decode");
        upb_Arena_Free(arena);
        return;
    }
    c->revision = services__etcd_revision(etcdserverpb_TxnResponse_header(m));
    if (c->step == ENQUEUE) {
        enqueued(c, m);
    } else if (c->step == LOOK) {
        looked(c, m);
    } else {
        confirmed(c, m);
    }
    upb_Arena_Free(arena);
}

static void granted(struct contender *c)
{
    upb_Arena *arena = upb_Arena_New();
    const etcdserverpb_LeaseGrantResponse *m =
        PROTO_DECODE(etcdserverpb_LeaseGrantResponse, c->w.answer, arena);

    c->lease = m != NULL ? etcdserverpb_LeaseGrantResponse_ID(m) : 0;
    upb_Arena_Free(arena);
    if (c->lease == 0) {
        leave_with(c, "the answer of the store does not decode");
        return;
    }
    c->own_lease = true;
    bytes_printf(&c->key, "%" PRIx64, (uint64_t)c->lease);
    c->step = ENQUEUE;
}

static void contender_answered(struct etcd_wait *w)
{
    struct contender *c = CONTAINER_OF(w, struct contender, w);
    bool waits = c->step == LOOK || c->step == CONFIRM; /* the caller has time */
    bool gone = atomic_load(&w->cancelled) && c->step != LEAVE;

    if (w->status.code != THOLE_OK && services__etcd_wait_may_repeat(&w->status) && !gone &&
        (waits || w->set->now_ns < c->deadline_ns)) {
        services__etcd_wait_later(w);
    } else if (c->step == LEAVE) {
        finish(c);
    } else if (w->status.code != THOLE_OK) {
        leave(c, gone ? NULL : &w->status);
    } else if (c->step == GRANT) {
        granted(c);
    } else {
        txn_done(c);
    }
}

/* ---- Turns ----------------------------------------------------------------------------------- */

static void send_step(struct contender *c)
{
    if (c->step == GRANT) {
        grant(c);
    } else if (c->step == ENQUEUE) {
        enqueue(c);
    } else if (c->step == LOOK) {
        look(c);
    } else if (c->step == CONFIRM) {
        confirm(c);
    } else if (c->own_lease) {
        revoke(c);
    } else {
        delete_key(c);
    }
}

static void contender_turn(struct etcd_wait *w)
{
    struct contender *c = CONTAINER_OF(w, struct contender, w);

    if (c->step != LEAVE && atomic_load(&w->cancelled)) {
        leave(c, NULL);
    } else if (w->later) {
        return;
    } else if (c->step == HOLDING) {
        answer(c);
    } else if (c->step != WAIT) {
        send_step(c);
    } else if (w->stream_status.code != THOLE_OK) {
        leave(c, &w->stream_status);
    } else if (w->changed) {
        services__etcd_wait_unwatch(w);
        c->step = LOOK;
        look(c);
    }
}

/* The key before ours was deleted, or ours, if there are events. */
static bool contender_watched(struct etcd_wait *w, const etcdserverpb_WatchResponse *m)
{
    size_t n = 0;

    (void)etcdserverpb_WatchResponse_events(m, &n);
    w->changed = n > 0;
    return true;
}

static void contender_release(struct etcd_wait *w)
{
    struct contender *c = CONTAINER_OF(w, struct contender, w);

    bytes_deinit(&c->name);
    bytes_deinit(&c->from);
    bytes_deinit(&c->end);
    bytes_deinit(&c->key);
    bytes_deinit(&c->value);
    free(c);
}

static const struct etcd_wait_kind contender_kind = {
    .turn = contender_turn,
    .answered = contender_answered,
    .watched = contender_watched,
    .release = contender_release,
};

static void begin(struct services *s, struct bus_rpc *rpc, struct contender *c, struct slice name,
                  int64_t lease)
{
    bytes_append_slice(&c->name, name);
    services__lock_range(name, &c->from, &c->end);
    bytes_append_slice(&c->key, bytes_slice(&c->from));
    c->lease = lease;
    c->step = lease == 0 ? GRANT : ENQUEUE;
    c->deadline_ns = services__deadline(rpc);
    if (lease != 0) { /* etcd writes the sign */
        uint64_t digits = lease < 0 ? -(uint64_t)lease : (uint64_t)lease;
        bytes_printf(&c->key, "%s%" PRIx64, lease < 0 ? "-" : "", digits);
    }
    size_t bytes = CONTENDER_BYTES + 4 * name.size + c->value.size;
    (void)services__etcd_wait_begin(&c->w, s, rpc, &contender_kind, bytes);
}

void services__etcd_lock(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    upb_Arena *arena = upb_Arena_New();
    const v3lockpb_LockRequest *m =
        services__decode(rpc, &v3lockpb_LockRequest_msginit, message, arena);

    if (m != NULL) {
        begin(ctx, rpc, xcalloc(1, sizeof(struct contender)),
              registry_str(v3lockpb_LockRequest_name(m)), v3lockpb_LockRequest_lease(m));
    }
    upb_Arena_Free(arena);
}

void services__etcd_campaign(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    upb_Arena *arena = upb_Arena_New();
    const v3electionpb_CampaignRequest *m =
        services__decode(rpc, &v3electionpb_CampaignRequest_msginit, message, arena);

    if (m != NULL) {
        struct contender *c = xcalloc(1, sizeof *c);
        c->campaign = true;
        bytes_append_slice(&c->value, registry_str(v3electionpb_CampaignRequest_value(m)));
        begin(ctx, rpc, c, registry_str(v3electionpb_CampaignRequest_name(m)),
              v3electionpb_CampaignRequest_lease(m));
    }
    upb_Arena_Free(arena);
}
