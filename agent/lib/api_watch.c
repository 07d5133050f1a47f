/* libthole: watches. A host watches through its agent, a client over one exchange with a host. */
#include <stdlib.h>
#include <string.h>

#include "agent/lib/api_internal.h"
#include "agent/routing/forward_codec.h"
#include "agent/routing/router_watches.h"
#include "base/assert.h"
#include "base/map.h"
#include "base/ref.h"

struct api_watch {
    struct thole *t;
    struct thole_watcher w;
    struct ref refs; /* references: the source until it ended, and the table until thole_unwatch */
    uint64_t id;
    /* Client. */
    struct uuid host;
    uint64_t exchange; /* 0 until known */
    bool cancelled;
};

static void watch_release(struct ref *refs)
{
    free(CONTAINER_OF(refs, struct api_watch, refs));
}

static void watch_unref(struct api_watch *w)
{
    ref_drop(&w->refs, watch_release);
}

static void event(void *ctx, uint64_t index, struct slice key, struct slice bytes, bool bookmark)
{
    struct api_watch *w = ctx;
    w->w.event(w->w.ctx, index, (struct thole_slice){.data = key.data, .size = key.size},
               (struct thole_slice){.data = bytes.data, .size = bytes.size}, bookmark);
}

static void ended(void *ctx, const struct thole_status *st)
{
    struct api_watch *w = ctx;
    ASSERT(w->id != 0);
    pthread_mutex_lock(&w->t->lock);
    bool there = map_remove(&w->t->watches, w->id) != NULL;
    pthread_mutex_unlock(&w->t->lock);
    w->w.ended(w->w.ctx, st);
    if (there) {
        watch_unref(w);
    }
    watch_unref(w);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void resolved(void *ctx, const struct thole_status *st, uint64_t shard_id)
{
    struct api_watch *w = ctx;
    const struct agent_watcher watcher = {.ctx = w, .event = event, .ended = ended};
    if (st->code != THOLE_OK) {
        ended(w, st);
        return;
    }
    uint64_t id = agent_watch(w->t->agent, shard_id, &watcher);
    pthread_mutex_lock(&w->t->lock);
    w->exchange = id;
    bool cancelled = w->cancelled;
    pthread_mutex_unlock(&w->t->lock);
    if (cancelled) {
        agent_unwatch(w->t->agent, id);
    }
}

/* ---- Clients --------------------------------------------------------------------------------- */

static void answer(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    struct api_watch *w = ctx;
    struct forward_reply f = {0};
    bool ok = st->code == THOLE_OK && router_decode_reply(body.bytes, &f);
    if (more) {
        if (ok) {
            event(w, f.index, f.key, f.result, f.bookmark);
        }
        return;
    }
    struct thole_status why = *st;
    if (st->code == THOLE_OK && ok && f.failure.code != THOLE_OK) {
        why = f.failure;
    }
    router_watch_end_status(&why);
    ended(w, &why);
}

static enum thole_code start_client(struct api_watch *w, const struct thole_shard *shard,
                                    struct thole_status *st)
{
    const struct router_request r = {.slot_plus_1 = shard->slot_plus_1};
    struct forward_space space;
    if (!api__client_host(w->t->client, &w->host)) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, "no host answers");
    }
    uint64_t exchange = bus_exchange(api__client_bus(w->t->client), &w->host, METHOD_WATCH,
                                     router_encode_forward(&r, shard->name, &space), 0, answer, w);
    pthread_mutex_lock(&w->t->lock);
    w->exchange = exchange;
    bool cancelled = w->cancelled;
    pthread_mutex_unlock(&w->t->lock);
    if (cancelled) {
        bus_exchange_cancel(api__client_bus(w->t->client), &w->host, exchange);
    }
    return THOLE_OK;
}

/* ---- Interface ------------------------------------------------------------------------------- */

enum thole_code thole_watch(struct thole *t, struct thole_shard *shard,
                            const struct thole_watcher *watcher, uint64_t *ret_id,
                            struct thole_status *st)
{
    enum thole_code code = api__need_running(t, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (shard == NULL || shard->t != t || watcher == NULL || watcher->event == NULL ||
        watcher->ended == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a shard of this handle and both callbacks are required");
    }
    struct api_watch *w = xcalloc(1, sizeof *w);
    w->t = t;
    w->w = *watcher;
    ref_init(&w->refs, 2); /* references: source, table */
    pthread_mutex_lock(&t->lock);
    uint64_t id = w->id = ++t->next_watch;
    map_put(&t->watches, id, w);
    pthread_mutex_unlock(&t->lock);
    *ret_id = id;
    if (!t->is_client) {
        agent_resolve(t->agent, slice_str(shard->name), shard->slot_plus_1, api__deadline(0),
                      resolved, w);
        return THOLE_OK;
    }
    code = start_client(w, shard, st);
    if (code != THOLE_OK) {
        pthread_mutex_lock(&t->lock);
        map_remove(&t->watches, id);
        pthread_mutex_unlock(&t->lock);
        free(w);
    }
    return code;
}

void thole_unwatch(struct thole *t, uint64_t id)
{
    pthread_mutex_lock(&t->lock);
    struct api_watch *w = map_remove(&t->watches, id);
    uint64_t source = 0;
    struct uuid host = {{0}};
    if (w != NULL) {
        w->cancelled = true;
        source = w->exchange;
        host = w->host;
    }
    pthread_mutex_unlock(&t->lock);
    if (w == NULL) {
        return;
    }
    if (source != 0 && t->is_client) {
        bus_exchange_cancel(api__client_bus(t->client), &host, source);
    } else if (source != 0) {
        agent_unwatch(t->agent, source);
    }
    watch_unref(w);
}
