/* etcdserverpb.KV.RangeStream: the answer of a Range in parts, all of one revision. Each part is a
 * Range of its own, from behind the last key, at the revision of the first one. The last part has
 * header, more and count. Orders other than that of the keys come in one part. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "agent/services/etcd_service.h"
#include "etcd/kv.upb.h"
#include "proto/decode.h"
#include "thole/kv/v1/kv.upb.h"

#define PART_KEYS 1000 /* fewer, if they are too large for one answer */

struct range_stream {
    struct etcd_route r;
    struct bus_rpc *rpc;
    upb_Arena *arena;                   /* of `request` */
    etcdserverpb_RangeRequest *request; /* of the next part, but for its limit */
    struct bytes from;                  /* the key that the next part begins with */
    bool parted;
    int64_t left; /* keys that the caller still wants */
    int64_t part; /* keys of a part */
    int64_t revision, count;
    pthread_mutex_t lock; /* below */
    bool blocked;         /* no room: `drained` goes on */
    bool cancelled;
};

static void stream_free(void *data)
{
    struct range_stream *t = data;

    upb_Arena_Free(t->arena);
    bytes_deinit(&t->from);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

/* Then the stream may be gone. `st` NULL: OK. */
static void finish(struct range_stream *t, const struct thole_status *st)
{
    if (st != NULL) {
        services__etcd_fail(t->rpc, st);
    } else {
        bus_rpc_reply(t->rpc, (struct bufslice){NULL, {NULL, 0}});
    }
}

static void read_part(struct range_stream *t)
{
    upb_Arena *arena = upb_Arena_New();
    int64_t limit = t->parted && t->part < t->left ? t->part : t->left;
    size_t size = 0;

    etcdserverpb_RangeRequest_set_limit(t->request, limit == INT64_MAX ? 0 : limit);
    const char *bytes = etcdserverpb_RangeRequest_serialize(t->request, arena, &size);
    t->r.route.deadline_ns = clock_now(&clock_system) + SERVICES_DEADLINE_DEFAULT_MS * NS_PER_MS;
    services__etcd_send(&t->r, ROUTER_QUERY, thole_kv_v1_Query_op_range, slice_of(bytes, size));
    upb_Arena_Free(arena);
}

/* The next part begins behind this key, at the revision of the first one. */
static void prepare_next(struct range_stream *t, upb_StringView last, size_t keys)
{
    bytes_clear(&t->from);
    bytes_append(&t->from, last.data, last.size);
    bytes_append(&t->from, "", 1);
    t->left -= (int64_t)keys;
    etcdserverpb_RangeRequest_set_key(
        t->request, upb_StringView_FromDataAndSize((const char *)t->from.data, t->from.size));
    etcdserverpb_RangeRequest_set_revision(t->request, t->revision);
    t->r.route.stale = false; /* another replica may be behind this revision */
}

static struct bufslice encode(struct range_stream *t, etcdserverpb_RangeResponse *m, bool last,
                              upb_Arena *arena)
{
    struct bytes inner = {0}, out = {0};
    size_t size = 0;

    if (last) {
        etcdserverpb_ResponseHeader_set_revision(
            etcdserverpb_RangeResponse_mutable_header(m, arena), t->revision);
        etcdserverpb_RangeResponse_set_count(m, t->count);
    } else {
        etcdserverpb_RangeResponse_clear_header(m);
        etcdserverpb_RangeResponse_set_more(m, false);
        etcdserverpb_RangeResponse_set_count(m, 0);
    }
    const char *bytes = etcdserverpb_RangeResponse_serialize(m, arena, &size);
    bytes_append(&inner, bytes, size);
    if (last) {
        services__etcd_header(&t->r, &inner);
    }
    services__wire_bytes(&out, 1, bytes_slice(&inner));
    struct buf *b = bytes_to_buf(&out);
    bytes_deinit(&inner);
    bytes_deinit(&out);
    return (struct bufslice){b, slice_of(b->data, b->size)};
}

/* Sends a part. False: there was no room, and `drained` reads it again; or the call has ended. Who
 * ends it: `cancelled` while the stream is blocked, otherwise the read under way. */
static bool send_part(struct range_stream *t, struct bufslice message)
{
    pthread_mutex_lock(&t->lock);
    t->blocked = !bus_rpc_send(t->rpc, message);
    bool sent = !t->blocked;
    bool cancelled = t->cancelled;
    pthread_mutex_unlock(&t->lock);
    if (cancelled) {
        finish(t, NULL);
    }
    return sent && !cancelled;
}

static void part_read(struct range_stream *t, struct slice answer)
{
    upb_Arena *arena = upb_Arena_New();
    etcdserverpb_RangeResponse *m = PROTO_DECODE_ALIAS(etcdserverpb_RangeResponse, answer, arena);
    struct thole_status st;
    size_t n = 0;

    if (m == NULL) {
        (void)services__etcd_undecodable(&st);
        finish(t, &st);
        upb_Arena_Free(arena);
        return;
    }
    const mvccpb_KeyValue *const *kvs = etcdserverpb_RangeResponse_kvs(m, &n);
    if (t->count < 0) { /* the first part */
        t->count = etcdserverpb_RangeResponse_count(m);
        t->revision = etcdserverpb_RangeRequest_revision(t->request) > 0
                          ? etcdserverpb_RangeRequest_revision(t->request)
                          : services__etcd_revision(etcdserverpb_RangeResponse_header(m));
    }
    bool last =
        !t->parted || !etcdserverpb_RangeResponse_more(m) || n == 0 || (int64_t)n >= t->left;
    if (send_part(t, encode(t, m, last, arena))) {
        if (last) {
            finish(t, NULL);
        } else {
            prepare_next(t, mvccpb_KeyValue_key(kvs[n - 1]), n);
            read_part(t);
        }
    }
    upb_Arena_Free(arena);
}

static void range_done(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct range_stream *t = CONTAINER_OF(r, struct range_stream, r);
    struct bufslice result = r->route.result;

    if (st->reason == THOLE_REASON_TOO_LARGE && t->parted && t->part > 1) {
        t->part /= 4;
        t->part += t->part == 0;
        read_part(t);
    } else if (st->code != THOLE_OK) {
        finish(t, st);
    } else {
        part_read(t, answer);
    }
    bufslice_unref(result);
}

static void drained(void *ctx)
{
    struct range_stream *t = ctx;

    pthread_mutex_lock(&t->lock);
    bool again = t->blocked && !t->cancelled;
    t->blocked = false;
    pthread_mutex_unlock(&t->lock);
    if (again) {
        read_part(t);
    }
}

static void cancelled(void *ctx)
{
    struct range_stream *t = ctx;

    pthread_mutex_lock(&t->lock);
    t->cancelled = true;
    bool waits = t->blocked;
    t->blocked = false;
    pthread_mutex_unlock(&t->lock);
    if (waits) {
        finish(t, NULL);
    }
}

void services__etcd_range_stream(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct range_stream *t = xcalloc(1, sizeof *t);
    struct thole_status st;

    pthread_mutex_init(&t->lock, NULL);
    t->r.s = ctx;
    t->r.done = range_done;
    t->rpc = rpc;
    t->arena = upb_Arena_New();
    t->request = PROTO_DECODE(etcdserverpb_RangeRequest, message, t->arena);
    t->part = PART_KEYS;
    t->count = -1;
    services__etcd_caller(&t->r, rpc);
    bus_rpc_set_data(rpc, t, stream_free);
    if (t->request == NULL) {
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "request: is malformed");
        finish(t, &st);
        return;
    }
    int64_t limit = etcdserverpb_RangeRequest_limit(t->request);
    int32_t order = etcdserverpb_RangeRequest_sort_order(t->request);
    t->left = limit > 0 ? limit : INT64_MAX;
    t->parted =
        etcdserverpb_RangeRequest_range_end(t->request).size > 0 &&
        etcdserverpb_RangeRequest_sort_target(t->request) == etcdserverpb_RangeRequest_KEY &&
        order != etcdserverpb_RangeRequest_DESCEND &&
        !etcdserverpb_RangeRequest_count_only(t->request);
    t->r.route.stale = etcdserverpb_RangeRequest_serializable(t->request);
    bus_rpc_on_drained(rpc, drained, t);
    bus_rpc_on_cancel(rpc, cancelled, t);
    read_part(t);
}
