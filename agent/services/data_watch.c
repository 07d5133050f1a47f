/* thole.v1.Data.Watch: the events of a shard's machine, for a client.
 *
 * Every watch ends in the same way: agent_unwatch (or its source ends), then `ended`, which
 * completes the call. The call's queue is bounded, and events cannot be skipped: a slow client is
 * disconnected. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "agent/services/services_internal.h"

struct data_watch {
    struct services *s;
    struct bus_rpc *rpc;
    uint64_t shard_id;
    uint32_t slot_plus_1; /* of the request's key; 0: none */
    _Atomic uint64_t id;  /* 0 until agent_watch has returned */
    _Atomic bool stop;    /* cancelled, or too slow */
    _Atomic bool slow;
    _Atomic uint32_t refs; /* the call, and the agent until `ended` */
    char shard[LIMIT_NAME_BYTES + 1];
};

static void watch_unref(void *data)
{
    struct data_watch *w = data;
    if (atomic_fetch_sub(&w->refs, 1) == 1) {
        free(w);
    }
}

/* Races with the return of agent_watch: the later of the two unwatches. */
static void watch_stop(struct data_watch *w)
{
    atomic_store(&w->stop, true);
    uint64_t id = atomic_load(&w->id);
    if (id != 0) {
        agent_unwatch(w->s->agent, id);
    }
}

static void watch_cancelled(void *ctx)
{
    watch_stop(ctx);
}

static void watch_event(void *ctx, uint64_t index, struct slice key, struct slice event,
                        bool bookmark)
{
    struct data_watch *w = ctx;
    if (atomic_load(&w->stop)) {
        return;
    }
    struct bytes out = {0};
    services__wire_varint(&out, 1, index);
    if (!bookmark) {
        services__wire_bytes(&out, 2, key);
        services__wire_bytes(&out, 3, event);
    }
    services__wire_varint(&out, 4, bookmark);
    struct buf *b = bytes_to_buf(&out);
    bytes_deinit(&out);
    struct bufslice message = {b, slice_of(b->data, b->size)};
    bool room = bus_rpc_room(w->rpc, b->size);
    if (!room) {
        bufslice_unref(message);
    }
    if (!room || !bus_rpc_send(w->rpc, message)) {
        atomic_store(&w->slow, true);
        watch_stop(w);
    }
}

static void watch_ended(void *ctx, const struct thole_status *why)
{
    struct data_watch *w = ctx;
    struct thole_status st = *why;
    if (atomic_load(&w->slow)) {
        (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                         "the client reads too slowly; watch again");
    } else if (st.code == THOLE_OK) {
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED,
                         "the replica that served the watch stopped; watch again");
    }
    const char *metadata[] = {"shard", w->shard, NULL};
    services__fail(w->rpc, &st, metadata);
    watch_unref(w);
}

static void watch_begin(struct data_watch *w)
{
    const struct agent_watcher watcher = {.ctx = w, .event = watch_event, .ended = watch_ended};
    atomic_fetch_add(&w->refs, 2); /* one reference for the agent, one for this function */
    uint64_t id = agent_watch(w->s->agent, w->shard_id, &watcher);
    atomic_store(&w->id, id);
    if (atomic_load(&w->stop)) {
        agent_unwatch(w->s->agent, id);
    }
    watch_unref(w);
}

static void watch_search_done(void *ctx, const struct thole_status *st)
{
    struct data_watch *w = ctx;
    struct thole_status missing;
    if (st->code == THOLE_OK) {
        if (agent_find_shard(w->s->agent, slice_str(w->shard), w->slot_plus_1, &w->shard_id,
                             &missing) == THOLE_OK) {
            watch_begin(w);
            return;
        }
        st = &missing;
    }
    bool bad_key = st->code == THOLE_INVALID_ARGUMENT;
    const char *metadata[] = {"shard", w->shard, bad_key ? "field" : NULL, "key", NULL};
    services__fail(w->rpc, st, metadata);
}

void services__data_watch(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct services *s = ctx;
    upb_Arena *arena = upb_Arena_New();
    const thole_v1_WatchRequest *q =
        services__decode(rpc, &thole_v1_WatchRequest_msginit, message, arena);
    if (q == NULL) {
        upb_Arena_Free(arena);
        return;
    }
    struct thole_status st;
    struct data_watch *w = xcalloc(1, sizeof *w);
    bool named = services__name_of_data_shard(thole_v1_WatchRequest_shard(q), w->shard, &st);
    if (!named ||
        services__data_read_key(thole_v1_WatchRequest_key(q), &w->slot_plus_1, &st) != THOLE_OK) {
        services__fail(rpc, &st, (const char *const[]){"field", named ? "key" : "shard", NULL});
        free(w);
        upb_Arena_Free(arena);
        return;
    }
    const struct access_right right = {
        .data = true, .verb = thole_v1_DATA_RIGHT_READ, .name = slice_str(w->shard)};
    if (!services__stream_is_allowed(s, rpc, "/thole.v1.Data/Watch", &right)) {
        free(w);
        upb_Arena_Free(arena);
        return;
    }
    w->s = s;
    w->rpc = rpc;
    atomic_store(&w->refs, 1);
    upb_Arena_Free(arena);
    bus_rpc_set_data(rpc, w, watch_unref);
    bus_rpc_on_cancel(rpc, watch_cancelled, w);
    if (agent_find_shard(s->agent, slice_str(w->shard), w->slot_plus_1, &w->shard_id, &st) ==
        THOLE_OK) {
        watch_begin(w);
    } else {
        agent_barrier(s->agent, clock_now(&clock_system) + SERVICES_DEADLINE_DEFAULT_MS * NS_PER_MS,
                      watch_search_done, w);
    }
}
