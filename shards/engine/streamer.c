/* The streamer: log pages for lagging followers, and snapshot transfers in both directions. Each
 * step is short, so it shares no thread with saving and restoring, which are not. */
#include <stdlib.h>

#include "shards/engine/engine_internal.h"
#include "shards/engine/streams.h"

#define CHUNKS_WAITING_MAX 64 /* they hold up to LIMIT_CHUNK_BYTES each */

struct streamer {
    struct engine *e;
    struct worker *w;
    struct snapshot_sends *sends;
    struct snapshot_receives *receives;
};

void log_read_free(struct log_read *m)
{
    for (size_t i = 0; i < m->count; i++)
        raft_entry_unref(m->entries[i]);
    free(m->entries);
    replica_unref(m->r);
    free(m);
}

static void read_log(struct streamer *s, struct log_read *m)
{
    struct log_store *log = s->e->o.log;
    m->entries = xcalloc(ENGINE_PAGE_ENTRIES, sizeof(struct raft_entry *));
    enum thole_code code = THOLE_OK;
    if (m->first <= m->last)
        code = log->ops->read(log, m->r->replica_id, m->first, m->last, m->max_bytes,
                              ENGINE_PAGE_ENTRIES, m->entries, &m->count, &m->st);
    if (code != THOLE_OK)
        m->count = 0; /* compacted: a snapshot will be asked for */
    loop_post(m->r->loop, &m->msg);
}

static uint64_t streamer_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct streamer *s = ctx;
    struct worker_msg *m;
    while ((m = msgq_pop(batch))) {
        if (m->kind == MSG_LOG_READ)
            read_log(s, CONTAINER_OF(m, struct log_read, msg));
        else if (atomic_load(&s->e->dead))
            stream_msg_free(CONTAINER_OF(m, struct stream_msg, msg));
        else if (m->kind == MSG_SEND)
            sends_start(s->sends, CONTAINER_OF(m, struct stream_msg, msg), now_ns);
        else if (m->kind == MSG_REPLY)
            sends_reply(s->sends, CONTAINER_OF(m, struct stream_msg, msg), now_ns);
        else if (m->kind == MSG_CHUNK)
            receives_chunk(s->receives, CONTAINER_OF(m, struct stream_msg, msg), now_ns);
        else
            receives_end(s->receives, CONTAINER_OF(m, struct stream_msg, msg));
    }
    if (atomic_load(&s->e->stopping))
        return CLOCK_NEVER;
    uint64_t a = sends_tick(s->sends, now_ns), b = receives_tick(s->receives, now_ns);
    return a < b ? a : b;
}

void streamer_post(struct engine *e, struct worker_msg *m)
{
    /* Chunks come from peers and may be lost; everything else is bounded by what asked for it. */
    bool ok = m->kind == MSG_CHUNK ? worker_post(e->streamer->w, m)
                                   : worker_post_internal(e->streamer->w, m);
    if (!ok)
        loop_discard(e->loops[0], m);
}

struct streamer *streamer_new(struct engine *e)
{
    struct streamer *s = xcalloc(1, sizeof(*s));
    s->e = e;
    s->sends = sends_new(e);
    s->receives = receives_new(e);
    s->w = worker_new(e->o.executor, "streamer", CHUNKS_WAITING_MAX, streamer_turn, s);
    return s;
}

void streamer_stop(struct streamer *s)
{
    worker_stop(s->w);
}

void streamer_free(struct streamer *s)
{
    if (!s)
        return;
    worker_free(s->w);
    sends_free(s->sends);
    receives_free(s->receives);
    free(s);
}
