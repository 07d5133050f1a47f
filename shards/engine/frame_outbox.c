/* Groups the messages of one turn into one frame per host and lane; more only beyond the bound. */
#include <stdlib.h>

#include "shards/engine/frame_codec.h"

/* A lane keeps room for this many messages. All groups may beat in one turn, but rarely do. */
#define LANE_KEPT 1024

struct peer_host *engine__loop_host(struct loop *l, const struct uuid *host)
{
    uint64_t key = uuid_hash(host);
    struct peer_host *h;
    while ((h = map_get(&l->hosts, key)) != NULL && !uuid_equal(&h->host, host)) {
        key++;
    }
    if (h == NULL) {
        h = xcalloc(1, sizeof *h);
        h->host = *host;
        (void)map_put(&l->hosts, key, h);
        engine__heartbeats_add_peer(l->e, host);
    }
    return h;
}

static bool is_reply(uint8_t kind)
{
    return kind == RAFT_MSG_PREVOTE_REPLY || kind == RAFT_MSG_VOTE_REPLY ||
           kind == RAFT_MSG_APPEND_REPLY || kind == RAFT_MSG_HEARTBEAT_REPLY ||
           kind == RAFT_MSG_READ_REPLY || kind == RAFT_MSG_SLEEP_REPLY;
}

/* A follower that gets one of these starts no election for another election timeout. */
static bool delays_elections(uint8_t kind)
{
    return kind == RAFT_MSG_APPEND || kind == RAFT_MSG_HEARTBEAT || kind == RAFT_MSG_SLEEP;
}

/* A reply carries the incarnation that it answers: a restarted host must not take it. */
static uint64_t answered_incarnation(const struct peer_host *h, const struct raft_message *m)
{
    return m->incarnation_to != 0 ? m->incarnation_to : h->incarnation;
}

void engine__outbox_add_to(struct loop *l, const struct uuid *host, uint64_t shard_id,
                           const struct raft_message *m)
{
    struct peer_host *h = engine__loop_host(l, host);
    ASSERT(worker_is_current(l->w));
    ASSERT(m->from != 0 && m->to != 0);
    struct out_lane *lane = &h->lanes[m->kind == RAFT_MSG_APPEND];
    if (lane->count == lane->capacity) {
        lane->capacity = lane->capacity ? lane->capacity * 2 : 16;
        lane->messages = xrealloc(lane->messages, lane->capacity * sizeof lane->messages[0]);
    }
    lane->messages[lane->count++] = (struct out_msg){
        .shard_id = shard_id,
        .to_incarnation = is_reply(m->kind) ? answered_incarnation(h, m) : 0,
        .raft = *m,
    };
    if (m->kind == RAFT_MSG_SLEEP) {
        lane->messages[lane->count - 1].raft.hint = engine__heartbeats_sent(l->e, host);
    }
    if (h->touched) {
        return;
    }
    h->touched = true;
    if (l->touched_count == l->touched_capacity) {
        l->touched_capacity = l->touched_capacity ? l->touched_capacity * 2 : 16;
        l->touched = xrealloc(l->touched, l->touched_capacity * sizeof(struct peer_host *));
    }
    l->touched[l->touched_count++] = h;
}

void engine__outbox_add(struct loop *l, struct replica *r, struct raft_message *m)
{
    struct uuid host;
    if ((delays_elections(m->kind) && engine__loop_writer_stalled(l, l->now_ns)) ||
        !engine__replica_host(r, m->to, &host)) {
        return; /* the entries stay the core's */
    }
    engine__outbox_add_to(l, &host, r->shard_id, m);
    m->entry_count = 0; /* taken over, with the array */
    m->entries = NULL;
}

static void flush_lane(struct loop *l, struct peer_host *h, struct out_lane *lane,
                       enum engine_lane which)
{
    size_t from = 0;
    while (from < lane->count) {
        size_t n = 0, weight = 0, entries = 0;
        while (from + n < lane->count) {
            size_t w = codec_weight(&lane->messages[from + n].raft);
            if (n > 0 && weight + w > LIMIT_FRAME_BYTES) {
                break;
            }
            weight += w;
            entries += lane->messages[from + n].raft.entry_count;
            n++;
        }
        ASSERT(n > 0);
        engine__send(l->e, &h->host, which, codec_frame(lane->messages + from, n));
        if (entries > 0) {
            metric_record(&engine_frame_entries, entries);
        }
        from += n;
    }
    for (size_t i = 0; i < lane->count; i++) {
        raft_message_deinit(&lane->messages[i].raft);
    }
    lane->count = 0;
    if (lane->capacity > LANE_KEPT) {
        free(lane->messages);
        *lane = (struct out_lane){0};
    }
}

void engine__outbox_flush(struct loop *l)
{
    for (size_t i = 0; i < l->touched_count; i++) {
        struct peer_host *h = l->touched[i];
        ASSERT(h->touched);
        h->touched = false;
        flush_lane(l, h, &h->lanes[0], ENGINE_LANE_CONTROL);
        flush_lane(l, h, &h->lanes[1], ENGINE_LANE_APPEND);
    }
    l->touched_count = 0;
}
