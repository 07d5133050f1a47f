/* The streamer: reads log pages for lagging followers, and runs snapshot transfers in both
 * directions. Its steps are short, so it shares no thread with saves and restores. Tasks that
 * delete a machine's data pass through it, because it knows which jobs use that data. */
#include <stdlib.h>

#include "shards/engine/engine_internal.h"
#include "shards/engine/snapshot/streams.h"

#define CHUNKS_WAITING_MAX 64 /* they hold up to LIMIT_CHUNK_BYTES each */

struct streamer {
    struct engine *e;
    struct worker *w;
    struct snapshot_sends *sends;
    struct snapshot_receives *receives;
    struct stream_jobs *jobs;
};

void engine__log_read_free(struct log_read *m)
{
    for (size_t i = 0; i < m->count; i++) {
        raft_entry_unref(m->entries[i]);
    }
    free(m->entries);
    replica_unref(m->r);
    free(m);
}

static void read_log(struct streamer *s, struct log_read *m)
{
    struct log_store *log = s->e->o.log;
    m->entries = xcalloc(ENGINE_PAGE_ENTRIES, sizeof(struct raft_entry *));
    enum thole_code code = THOLE_OK;
    if (m->first <= m->last) {
        code = log->ops->read(log, m->r->replica_id, m->first, m->last, m->max_bytes,
                              ENGINE_PAGE_ENTRIES, m->entries, &m->count, &m->st);
    }
    if (code != THOLE_OK) {
        m->count = 0; /* compacted: the core will ask for a snapshot */
    }
    engine__loop_post(m->r->loop, &m->msg);
}

/* From a loop, or back from a job. */
static void handle_task(struct streamer *s, struct task *t)
{
    if (t->kind == TASK_DESTROY) {
        if (t->everything) {
            engine__receives_stop(s->receives, t->r);
        }
        engine__sends_stop(s->sends, t->r, t->everything ? ANY_GENERATION : t->generation);
        engine__readers_end(t->r, t->everything ? ANY_GENERATION : t->generation);
        engine__jobs_destroy(s->jobs, t);
    } else if (t->kind == TASK_RESTORE && !t->ran) {
        engine__receives_restore(s->receives, t);
    } else {
        engine__jobs_ended(s->jobs, t);
        if (t->kind == TASK_RESTORE) {
            engine__loop_post(t->loop, &t->msg);
            return;
        }
        if (t->st.code != THOLE_OK && t->st.code != THOLE_UNAVAILABLE) {
            LOG_WARN(ENGINE, "snapshot stream failed error=\"%s\"", t->st.message);
        }
        engine__task_free(t);
    }
}

static void handle(struct streamer *s, struct worker_msg *m, uint64_t now_ns)
{
    switch ((enum msg_kind)m->kind) {
    case MSG_LOG_READ:
        read_log(s, CONTAINER_OF(m, struct log_read, msg));
        break;
    case MSG_TASK:
        handle_task(s, CONTAINER_OF(m, struct task, msg));
        break;
    case MSG_SEND:
        engine__sends_start(s->sends, CONTAINER_OF(m, struct stream_msg, msg), now_ns);
        break;
    case MSG_REPLY:
        engine__sends_reply(s->sends, CONTAINER_OF(m, struct stream_msg, msg), now_ns);
        break;
    case MSG_CHUNK:
        engine__receives_chunk(s->receives, CONTAINER_OF(m, struct stream_msg, msg), now_ns);
        break;
    case MSG_RECEIVE_END:
        engine__receives_end(s->receives, CONTAINER_OF(m, struct stream_msg, msg));
        break;
    case MSG_FLOW: /* what is ready goes on at the end of the turn */
        engine__stream_msg_free(CONTAINER_OF(m, struct stream_msg, msg));
        break;
    case MSG_REQUEST:
    case MSG_REFUSE:
    case MSG_INBOUND:
    case MSG_WRITE:
    case MSG_APPLY:
    case MSG_QUERY:
    case MSG_CONTROL:
    case MSG_PEER:
    case MSG_STOP:
    case MSG_FENCE:
    case MSG_SENT:
    case MSG_RECEIVED:
    case MSG_BEAT:
    default:
        ASSERT(false && "a message that is not for the streamer");
    }
}

static bool is_of_a_transfer(const struct worker_msg *m)
{
    return m->kind != MSG_LOG_READ && m->kind != MSG_TASK;
}

static uint64_t streamer_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct streamer *s = ctx;
    struct worker_msg *m;
    while ((m = msgq_pop(batch)) != NULL) {
        if (is_of_a_transfer(m) && atomic_load(&s->e->crashed)) {
            engine__stream_msg_free(CONTAINER_OF(m, struct stream_msg, msg));
        } else {
            handle(s, m, now_ns);
        }
    }
    if (atomic_load(&s->e->stopping)) {
        return CLOCK_NEVER;
    }
    uint64_t a = engine__sends_tick(s->sends, now_ns),
             b = engine__receives_tick(s->receives, now_ns);
    return a < b ? a : b;
}

void engine__streamer_post(struct engine *e, struct worker_msg *m)
{
    /* Chunks come from peers and may be dropped. Everything else is bounded by its senders. */
    bool ok = m->kind == MSG_CHUNK ? worker_post(e->streamer->w, m)
                                   : worker_post_internal(e->streamer->w, m);
    if (!ok) {
        engine__loop_discard(e->loops[0], m);
    }
}

struct streamer *engine__streamer_new(struct engine *e)
{
    struct streamer *s = xcalloc(1, sizeof *s);
    s->e = e;
    s->jobs = engine__jobs_new(e);
    s->sends = engine__sends_new(e, s->jobs);
    s->receives = engine__receives_new(e, s->jobs);
    s->w = worker_new_background(e->o.executor, "streamer", CHUNKS_WAITING_MAX, streamer_turn, s);
    return s;
}

void engine__streamer_stop(struct streamer *s)
{
    worker_stop(s->w);
    engine__sends_break(s->sends);
    engine__receives_break(s->receives);
    engine__jobs_stop(s->jobs);
}

void engine__streamer_free(struct streamer *s)
{
    if (s == NULL) {
        return;
    }
    worker_free(s->w);
    engine__sends_free(s->sends);
    engine__receives_free(s->receives);
    engine__jobs_free(s->jobs);
    free(s);
}
