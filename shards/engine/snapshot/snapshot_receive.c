/* Receiving snapshots: chunks in order, each acknowledged with the number of bytes received in
 * order.
 *
 * A replica that restarts from its snapshot files gets a staged file. When it is complete and
 * durable it goes to the replica's loop. Any other replica gets a pipe, which is announced to its
 * loop at the beginning. A job restores from the pipe into a new generation while the rest arrives.
 * A pipe that breaks off, or whose checksum is wrong, has no last piece. So what was restored from
 * it is never used. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/engine/snapshot/snapshots.h"
#include "shards/engine/snapshot/streams.h"

#define IDLE_NS (60 * NS_PER_S)
/* With this much in a pipe, acknowledgements wait; with this much, chunks are dropped, whatever the
 * sender's window is. */
#define PIPE_BYTES (4 * LIMIT_CHUNK_BYTES)
#define PIPE_BYTES_MAX (4 * PIPE_BYTES)

struct receive {
    struct stream_msg *m; /* what goes to the loop: ids, config, name */
    struct engine_file *file;
    struct snapshot_pipe *pipe; /* if there is no file */
    struct task *restore;       /* until a job takes it */
    struct hash_state *hash;
    uint64_t received;
    uint64_t answered; /* bytes that were acknowledged */
    bool done;         /* complete, and handed to the loop */
    bool ending;       /* its pipe is broken; no other transfer begins before the loop ends it */
    uint64_t shard_id, to;
    struct uuid host;
    uint64_t transfer, from, term, index, index_term;
    uint64_t heard_ns;
};
struct snapshot_receives {
    struct engine *e;
    struct stream_jobs *jobs;
    struct map by_replica; /* struct receive */
};

struct snapshot_receives *engine__receives_new(struct engine *e, struct stream_jobs *jobs)
{
    struct snapshot_receives *s = xcalloc(1, sizeof *s);
    s->e = e;
    s->jobs = jobs;
    return s;
}

static void drop(struct snapshot_receives *s, struct receive *x)
{
    if (x->file != NULL) {
        s->e->files->ops->discard(x->file);
    }
    engine__pipe_break(x->pipe);
    engine__pipe_unref(x->pipe);
    engine__task_free(x->restore);
    hash_state_free(x->hash);
    engine__stream_msg_free(x->m);
    free(x);
}

void engine__receives_free(struct snapshot_receives *s)
{
    size_t it = 0;
    struct receive *x;
    while ((x = map_next(&s->by_replica, &it, NULL)) != NULL) {
        drop(s, x);
    }
    map_deinit(&s->by_replica);
    free(s);
}

static void reply(struct snapshot_receives *s, const struct uuid *host, const struct codec_chunk *c,
                  uint64_t received, bool refused)
{
    struct stream_msg m = {
        .shard_id = c->shard_id,
        .from = c->from,
        .to = c->to,
        .transfer = c->transfer,
        .received = received,
        .refused = refused,
        .gap = c->offset > received,
    };
    engine__send_reply(s->e, host, &m);
}

static bool stage(struct snapshot_receives *s, struct receive *x)
{
    struct thole_status st;
    char staged[ENGINE_NAME_BYTES];
    (void)snprintf(staged, sizeof staged, "%" PRIu64 ".part", x->to);
    if (s->e->files->ops->create(s->e->files, staged, true, &x->file, &st) == THOLE_OK) {
        return true;
    }
    LOG_WARN(ENGINE, "snapshot refused, its file cannot be created error=\"%s\"", st.message);
    return false;
}

/* Hand the pipe to the loop, which starts the restore if it needs the snapshot. */
static void announce(struct snapshot_receives *s, struct receive *x)
{
    x->pipe = engine__pipe_new(s->e, PIPE_BYTES);
    struct stream_msg *m = x->m;
    x->m = NULL;
    m->pipe = engine__pipe_ref(x->pipe);
    m->host = x->host;
    m->transfer = x->transfer;
    m->term = x->term;
    engine__loop_post(m->r->loop, &m->msg);
}

static struct receive *begin(struct snapshot_receives *s, const struct uuid *host,
                             const struct codec_chunk *c, struct replica *r)
{
    ASSERT(c->offset == 0 && map_get(&s->by_replica, c->to) == NULL);
    struct receive *x = xcalloc(1, sizeof *x);
    bool kept = engine__snapshot_restarts_from_file(r);
    x->shard_id = c->shard_id;
    x->to = c->to;
    if (kept && !stage(s, x)) {
        free(x);
        return NULL;
    }
    x->hash = hash_state_new(0);
    x->m = xcalloc(1, sizeof *x->m);
    x->m->msg.kind = MSG_RECEIVED;
    x->m->r = replica_ref(r);
    x->m->shard_id = c->shard_id;
    x->m->from = c->from;
    x->m->to = c->to;
    x->m->index = c->index;
    x->m->index_term = c->index_term;
    bytes_append_slice(&x->m->config, c->config);
    x->host = *host;
    x->from = c->from;
    x->term = c->term;
    x->transfer = c->transfer;
    x->index = c->index;
    x->index_term = c->index_term;
    if (kept) {
        engine__snapshot_name(r, c->index, x->m->name);
    } else {
        announce(s, x);
    }
    (void)map_put(&s->by_replica, c->to, x);
    return x;
}

/* An existing file of this name stays, since the replica may restart from it. The restore verifies
 * the stream, and that the file is of the announced epoch. (A file that is saved between the two
 * steps is replaced by one of the same index. Both have the same state, because a replica with data
 * of another epoch does not take part.) */
static bool commit(struct snapshot_receives *s, struct engine_file *staged, const char *name)
{
    struct thole_status st;
    const struct engine_files_ops *ops = s->e->files->ops;
    struct engine_file *there;
    uint64_t size;
    if (ops->open(s->e->files, name, &there, &size, &st) != THOLE_OK) {
        return ops->commit(staged, name, &st) == THOLE_OK;
    }
    ops->close(there);
    ops->discard(staged);
    return true;
}

static bool complete_file(struct snapshot_receives *s, struct receive *x,
                          const struct codec_chunk *c)
{
    struct thole_status st;
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    const struct engine_files_ops *ops = s->e->files->ops;
    engine__snapshot_trailer(c->total_checksum, trailer);
    if (ops->append(x->file, trailer, sizeof trailer, &st) != THOLE_OK) {
        return false;
    }
    struct engine_file *file = x->file;
    x->file = NULL;
    if (!commit(s, file, x->m->name)) {
        return false;
    }
    x->done = true;
    x->m->host = x->host;
    x->m->transfer = x->transfer;
    x->m->term = c->term;
    x->m->received = x->received;
    struct stream_msg *m = x->m;
    x->m = NULL;
    engine__loop_post(m->r->loop, &m->msg);
    return true;
}

/* The chunk's data with an owner. upb may have copied short data into its arena; copy that. */
static struct bufslice data_of(const struct codec_chunk *c, struct bufslice frame)
{
    const uint8_t *begin = frame.bytes.data, *end = begin + frame.bytes.size;
    if (frame.owner != NULL && c->data.data >= begin && c->data.data + c->data.size <= end) {
        return (struct bufslice){buf_ref(frame.owner), c->data};
    }
    struct buf *copy = buf_copy(c->data.data, c->data.size);
    return (struct bufslice){copy, slice_of(copy->data, copy->size)};
}

/* False: the transfer has failed. */
static bool add(struct snapshot_receives *s, struct receive *x, const struct codec_chunk *c,
                struct bufslice frame)
{
    struct thole_status st;
    ASSERT(!x->done && !x->ending && c->offset == x->received);
    ASSERT((x->file == NULL) != (x->pipe == NULL));
    hash_state_update(x->hash, c->data.data, c->data.size);
    x->received += c->data.size;
    if (c->last && hash_state_digest(x->hash) != c->total_checksum) {
        return false;
    }
    if (x->file != NULL) {
        return s->e->files->ops->append(x->file, c->data.data, c->data.size, &st) == THOLE_OK &&
               (!c->last || complete_file(s, x, c));
    }
    x->done = c->last;
    return engine__pipe_put(x->pipe, &(struct piece){.bytes = data_of(c, frame), .last = c->last});
}

/* From an earlier leader, or an earlier attempt of the same sender. Two transfers at a time would
 * discard each other's bytes. */
static bool is_stale(const struct receive *x, const struct uuid *host, const struct codec_chunk *c)
{
    return c->term < x->term ||
           (c->term == x->term && uuid_equal(&x->host, host) && c->transfer < x->transfer);
}

/* One with a pipe stays until its loop ends it. */
static void abandon(struct snapshot_receives *s, struct receive *x)
{
    ASSERT(map_get(&s->by_replica, x->to) == x);
    if (x->pipe == NULL) {
        (void)map_remove(&s->by_replica, x->to);
        drop(s, x);
        return;
    }
    engine__pipe_break(x->pipe);
    x->ending = true;
}

/* The transfer that `c` belongs to; NULL if there is none, and none was begun. A new attempt to
 * send the same file continues. A new stream does not: a machine may write other bytes the second
 * time. */
static struct receive *match(struct snapshot_receives *s, const struct uuid *host,
                             const struct codec_chunk *c, struct replica *r)
{
    struct receive *x = map_get(&s->by_replica, c->to);
    bool same = x != NULL && x->from == c->from && x->index == c->index &&
                x->index_term == c->index_term && uuid_equal(&x->host, host) &&
                (x->pipe == NULL || x->transfer == c->transfer);
    if (x != NULL && (same || x->done)) {
        return same && !x->ending ? x : NULL;
    }
    if (c->offset != 0) {
        return NULL;
    }
    if (x != NULL && x->pipe != NULL) {
        abandon(s, x); /* its sender retries until this one has ended */
        return NULL;
    }
    if (x != NULL) {
        abandon(s, x);
    }
    return begin(s, host, c, r);
}

static void answer(struct snapshot_receives *s, struct receive *x)
{
    struct codec_chunk c = {.shard_id = x->shard_id,
                            .from = x->from,
                            .to = x->to,
                            .transfer = x->transfer,
                            .offset = x->received};
    x->answered = x->received;
    reply(s, &x->host, &c, x->received, false);
}

static void take(struct snapshot_receives *s, const struct uuid *host, const struct codec_chunk *c,
                 struct bufslice frame, struct replica *r, uint64_t now_ns)
{
    struct receive *x = map_get(&s->by_replica, c->to);
    if (x != NULL && is_stale(x, host, c)) {
        reply(s, host, c, 0, true);
        return;
    }
    x = match(s, host, c, r);
    if (x == NULL) {
        reply(s, host, c, 0, false);
        return;
    }
    x->heard_ns = now_ns;
    x->term = c->term;
    x->transfer = c->transfer;
    bool ok = true, next = !x->done && c->offset == x->received;
    if (next && (x->pipe == NULL || engine__pipe_bytes(x->pipe) < PIPE_BYTES_MAX)) {
        ok = add(s, x, c, frame);
    }
    if (ok && x->pipe != NULL && !x->done && !engine__pipe_has_room(x->pipe)) {
        return; /* acknowledged once there is room */
    }
    x->answered = x->received;
    reply(s, host, c, ok ? x->received : 0, !ok);
    if (!ok) {
        LOG_WARN(ENGINE, "snapshot transfer broke off, the sender restarts it replica=%" PRIu64,
                 x->to);
        abandon(s, x);
    }
}

void engine__receives_chunk(struct snapshot_receives *s, struct stream_msg *m, uint64_t now_ns)
{
    struct codec_chunk c;
    struct thole_status st;
    if (codec_read_chunk(m->frame.bytes, &c, &st) != THOLE_OK) {
        engine__bad_frame(s->e, &m->host, &st);
    } else {
        struct replica *r = engine__find_replica(s->e, c.to);
        if (r != NULL && r->shard_id == c.shard_id) {
            take(s, &m->host, &c, m->frame, r, now_ns);
        } else if (engine__is_tombstone(s->e, c.to)) {
            reply(s, &m->host, &c, 0, true);
        }
        replica_unref(r);
        codec_release(c.arena);
    }
    engine__stream_msg_free(m);
}

void engine__receives_end(struct snapshot_receives *s, struct stream_msg *m)
{
    struct receive *x = map_get(&s->by_replica, m->to);
    if (x != NULL && (x->pipe != NULL ? x->transfer == m->transfer : x->done)) {
        (void)map_remove(&s->by_replica, m->to);
        drop(s, x);
    }
    engine__stream_msg_free(m);
}

/* ---- Restores from pipes --------------------------------------------------------------------- */

/* If workers may not block, a job begins only when its pipe has ended or broken. */
static void start_restore(struct snapshot_receives *s, struct receive *x)
{
    struct task *t = x->restore;
    ASSERT(t != NULL && t->kind == TASK_RESTORE && x->pipe != NULL);
    if (!executor_may_wait(s->e->o.executor) && engine__pipe_is_open(x->pipe)) {
        return;
    }
    bool started = engine__jobs_start(s->jobs, t);
    if (!started && !x->ending) {
        return;
    }
    x->restore = NULL;
    if (started) {
        return;
    }
    (void)THOLE_FAIL(&t->st, THOLE_UNAVAILABLE, THOLE_REASON_NONE, "the transfer broke off");
    engine__loop_post(t->loop, &t->msg);
}

void engine__receives_restore(struct snapshot_receives *s, struct task *t)
{
    struct receive *x = map_get(&s->by_replica, t->received->to);
    ASSERT(x != NULL && x->transfer == t->received->transfer && x->restore == NULL);
    x->restore = t;
    start_restore(s, x);
}

void engine__receives_stop(struct snapshot_receives *s, const struct replica *r)
{
    struct receive *x = map_get(&s->by_replica, r->replica_id);
    if (x == NULL || x->pipe == NULL) {
        return;
    }
    abandon(s, x);
    if (x->restore != NULL) {
        start_restore(s, x);
    }
}

void engine__receives_break(struct snapshot_receives *s)
{
    size_t it = 0;
    struct receive *x;
    while ((x = map_next(&s->by_replica, &it, NULL)) != NULL) {
        engine__pipe_break(x->pipe);
    }
}

uint64_t engine__receives_tick(struct snapshot_receives *s, uint64_t now_ns)
{
    uint64_t next = CLOCK_NEVER, key;
    size_t it = 0;
    struct receive *x, *gone = NULL;
    while ((x = map_next(&s->by_replica, &it, &key)) != NULL) {
        if (x->restore != NULL) {
            start_restore(s, x);
        }
        if (x->done || x->ending) {
            continue;
        }
        if (x->pipe != NULL && x->answered != x->received && engine__pipe_has_room(x->pipe)) {
            answer(s, x);
        }
        uint64_t due = x->heard_ns + IDLE_NS;
        if (due <= now_ns) {
            gone = x;
        }
        next = due < next ? due : next;
    }
    if (gone != NULL) {
        abandon(s, gone);
    }
    return next;
}
