/* A pipe between the streamer and a job: a bounded queue of pieces. The job may block on it. The
 * streamer never blocks: if it found no piece or no room, it gets a turn (MSG_FLOW) once there
 * is. */
#include <stdlib.h>

#include "shards/engine/snapshot/streams.h"

struct link {
    struct link *next;
    struct piece piece;
};
struct snapshot_pipe {
    _Atomic uint32_t refs;
    struct engine *e;
    bool may_wait;
    uint64_t bound;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* for the job */
    struct link *first, **last;
    uint64_t bytes;
    bool ended, broken;
    bool streamer_waits;
};

struct snapshot_pipe *engine__pipe_new(struct engine *e, uint64_t bound)
{
    struct snapshot_pipe *p = xcalloc(1, sizeof *p);
    atomic_init(&p->refs, 1);
    p->e = e;
    p->may_wait = executor_may_wait(e->o.executor);
    p->bound = p->may_wait ? bound : UINT64_MAX;
    p->last = &p->first;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    return p;
}

struct snapshot_pipe *engine__pipe_ref(struct snapshot_pipe *p)
{
    uint32_t before = atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
    return p;
}

static struct piece pop(struct snapshot_pipe *p)
{
    struct link *x = p->first;
    ASSERT(x != NULL && p->bytes >= x->piece.bytes.bytes.size);
    struct piece piece = x->piece;
    p->first = x->next;
    if (p->first == NULL) {
        p->last = &p->first;
    }
    p->bytes -= piece.bytes.bytes.size;
    free(x);
    return piece;
}

void engine__pipe_unref(struct snapshot_pipe *p)
{
    if (p == NULL || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    while (p->first != NULL) {
        bufslice_unref(pop(p).bytes);
    }
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    free(p);
}

static void wake_streamer(struct snapshot_pipe *p)
{
    struct stream_msg *m = xcalloc(1, sizeof *m);
    m->msg.kind = MSG_FLOW;
    engine__streamer_post(p->e, &m->msg);
}

/* The caller holds the lock; releases it, and wakes the other side. */
static void unlock_and_notify(struct snapshot_pipe *p, bool by_job)
{
    bool streamer = by_job && p->streamer_waits;
    if (streamer) {
        p->streamer_waits = false;
    }
    if (!by_job) {
        pthread_cond_signal(&p->changed);
    }
    pthread_mutex_unlock(&p->lock);
    if (streamer) {
        wake_streamer(p);
    }
}

static bool put(struct snapshot_pipe *p, const struct piece *piece, bool by_job)
{
    ASSERT(!p->ended && piece->bytes.bytes.size > 0);
    bool ok = !p->broken;
    if (ok) {
        struct link *x = xmalloc(sizeof *x);
        *x = (struct link){NULL, *piece};
        *p->last = x;
        p->last = &x->next;
        p->bytes += piece->bytes.bytes.size;
        p->ended = piece->last;
    } else {
        bufslice_unref(piece->bytes);
    }
    unlock_and_notify(p, by_job);
    return ok;
}

static enum pipe_state take(struct snapshot_pipe *p, struct piece *ret, bool by_job)
{
    enum pipe_state state = p->broken ? PIPE_BROKEN : p->ended ? PIPE_END : PIPE_EMPTY;
    if (p->first != NULL) {
        *ret = pop(p);
        state = PIPE_PIECE;
    }
    if (state == PIPE_EMPTY && !by_job) {
        p->streamer_waits = true;
    }
    if (state != PIPE_PIECE || (by_job && p->bytes >= p->bound)) {
        pthread_mutex_unlock(&p->lock);
    } else {
        unlock_and_notify(p, by_job);
    }
    return state;
}

bool engine__pipe_put(struct snapshot_pipe *p, const struct piece *piece)
{
    pthread_mutex_lock(&p->lock);
    return put(p, piece, false);
}

bool engine__pipe_put_wait(struct snapshot_pipe *p, const struct piece *piece)
{
    pthread_mutex_lock(&p->lock);
    while (p->bytes >= p->bound && !p->broken) {
        pthread_cond_wait(&p->changed, &p->lock);
    }
    return put(p, piece, true);
}

enum pipe_state engine__pipe_take(struct snapshot_pipe *p, struct piece *ret)
{
    pthread_mutex_lock(&p->lock);
    return take(p, ret, false);
}

enum pipe_state engine__pipe_take_wait(struct snapshot_pipe *p, struct piece *ret)
{
    pthread_mutex_lock(&p->lock);
    while (p->may_wait && p->first == NULL && !p->ended && !p->broken) {
        pthread_cond_wait(&p->changed, &p->lock);
    }
    enum pipe_state state = take(p, ret, true);
    return state == PIPE_EMPTY ? PIPE_BROKEN : state;
}

bool engine__pipe_has_room(struct snapshot_pipe *p)
{
    pthread_mutex_lock(&p->lock);
    bool room = p->bytes < p->bound;
    p->streamer_waits = p->streamer_waits || !room;
    pthread_mutex_unlock(&p->lock);
    return room;
}

void engine__pipe_break(struct snapshot_pipe *p)
{
    if (p == NULL) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->broken = p->broken || !p->ended;
    pthread_cond_signal(&p->changed);
    unlock_and_notify(p, true);
}

bool engine__pipe_is_open(struct snapshot_pipe *p)
{
    pthread_mutex_lock(&p->lock);
    bool open = !p->ended && !p->broken;
    pthread_mutex_unlock(&p->lock);
    return open;
}

bool engine__pipe_is_broken(struct snapshot_pipe *p)
{
    pthread_mutex_lock(&p->lock);
    bool broken = p->broken;
    pthread_mutex_unlock(&p->lock);
    return broken;
}

uint64_t engine__pipe_bytes(struct snapshot_pipe *p)
{
    pthread_mutex_lock(&p->lock);
    uint64_t bytes = p->bytes;
    pthread_mutex_unlock(&p->lock);
    return bytes;
}
