/* Frames from peers: decoded on the thread of engine_deliver, split by loop, and fed to the
 * cores. */
#include <stdlib.h>
#include <string.h>

#include "shards/engine/frame_codec.h"

void engine__inbound_free(struct inbound *in)
{
    if (in == NULL) {
        return;
    }
    for (size_t i = 0; i < in->count; i++) {
        raft_message_deinit(&in->messages[i].raft);
    }
    free(in->messages);
    free(in);
}

/* ---- On the thread of engine_deliver --------------------------------------------------------- */

struct delivery {
    struct engine *e;
    const struct uuid *host;
    uint64_t incarnation;
    struct inbound **by_loop;
};

static void take_message(void *ctx, uint64_t shard_id, uint64_t to_incarnation,
                         struct raft_message *m)
{
    struct delivery *d = ctx;
    if (to_incarnation != 0 && to_incarnation != d->e->o.incarnation) {
        raft_message_deinit(m);
        return;
    }
    m->incarnation_from = d->incarnation;
    struct inbound **at = &d->by_loop[engine__loop(d->e, shard_id)->index];
    if (*at == NULL) {
        *at = xcalloc(1, sizeof **at);
        (*at)->msg.kind = MSG_INBOUND;
        (*at)->host = *d->host;
        (*at)->incarnation = d->incarnation;
    }
    struct inbound *in = *at;
    ASSERT(in->incarnation == d->incarnation);
    if (in->count == in->capacity) {
        in->capacity = in->capacity ? in->capacity * 2 : 8;
        in->messages = xrealloc(in->messages, in->capacity * sizeof in->messages[0]);
    }
    in->bytes += codec_weight(m);
    in->messages[in->count++] = (struct inbound_msg){shard_id, *m};
}

static void take_reply(void *ctx, const struct stream_msg *m, uint64_t reply_from,
                       uint64_t reply_to)
{
    struct delivery *d = ctx;
    struct stream_msg *copy = xcalloc(1, sizeof *copy);
    *copy = *m;
    copy->msg.kind = MSG_REPLY;
    copy->host = *d->host;
    copy->from = reply_to; /* the sender of the snapshot */
    copy->to = reply_from;
    engine__streamer_post(d->e, &copy->msg);
}

static void take_beat(void *ctx, const struct host_beat *b)
{
    struct delivery *d = ctx;
    engine__heartbeats_deliver(d->e, d->host, d->incarnation, b);
}

static void post_inbound(struct loop *l, struct inbound *in)
{
    size_t waiting = atomic_fetch_add(&l->inbound_bytes, in->bytes) + in->bytes;
    /* Bounded by bytes alone: a queue full of requests must not keep frames out. */
    if (waiting <= ENGINE_INBOUND_BYTES_MAX && worker_post_internal(l->w, &in->msg)) {
        return;
    }
    atomic_fetch_sub(&l->inbound_bytes, in->bytes);
    metric_add(&engine_dropped_frames, 1);
    engine__inbound_free(in);
}

static void deliver_chunk(struct engine *e, const struct uuid *host, struct bufslice frame)
{
    struct stream_msg *m = xcalloc(1, sizeof *m);
    m->msg.kind = MSG_CHUNK;
    m->host = *host;
    m->frame = frame;
    engine__streamer_post(e, &m->msg);
}

void engine_deliver(struct engine *e, const struct uuid *host, uint64_t incarnation,
                    enum engine_lane lane, struct bufslice frame)
{
    if (atomic_load(&e->stopping)) {
        bufslice_unref(frame);
        return;
    }
    if (lane == ENGINE_LANE_SNAPSHOT) {
        deliver_chunk(e, host, frame);
        return;
    }
    struct inbound *by_loop[ENGINE_LOOPS_MAX] = {0};
    struct delivery d = {.e = e, .host = host, .incarnation = incarnation, .by_loop = by_loop};
    struct codec_sink sink = {&d, take_message, take_reply, take_beat};
    struct thole_status st;
    if (codec_read_frame(frame, &sink, &st) != THOLE_OK) {
        engine__bad_frame(e, host, &st);
    }
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        if (by_loop[i] != NULL) {
            post_inbound(e->loops[i], by_loop[i]);
        }
    }
    bufslice_unref(frame);
}

/* ---- On the loop ----------------------------------------------------------------------------- */

void engine__loop_inbound(struct loop *l, struct inbound *in)
{
    size_t waiting = atomic_fetch_sub(&l->inbound_bytes, in->bytes);
    ASSERT(waiting >= in->bytes);
    struct peer_host *h = engine__loop_host(l, &in->host);
    engine__heartbeats_incarnation(l, h, in->incarnation);
    for (size_t i = 0; i < in->count; i++) {
        struct inbound_msg *m = &in->messages[i];
        struct replica *r = map_get(&l->by_replica, m->raft.to);
        if (r != NULL && r->shard_id == m->shard_id && r->state == GROUP_RUNNING) {
            engine__group_receive(l, r, &m->raft, &in->host);
        }
        /* Otherwise drop it: the replica is not here, not yet, or no more. A tombstone does not
         * answer. It knows that this replica was removed, but not whether the sender was. Members
         * answer a removed sender, from their configuration. */
    }
    engine__inbound_free(in);
}
