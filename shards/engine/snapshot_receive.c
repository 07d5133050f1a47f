/* Receiving snapshots: chunks in order into a staged file; when it is complete and durable it goes
 * to the replica's loop. Every chunk is answered with what has been received in order so far. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/engine/codec.h"
#include "shards/engine/streams.h"

#define IDLE_NS (60 * NS_PER_S)

struct receive {
    struct stream_msg *m; /* what goes to the loop: ids, config, name */
    struct engine_file *file;
    struct hash_state *hash;
    uint64_t received;
    bool done; /* with the loop */
    struct uuid host;
    uint64_t transfer, from, term, index, index_term;
    uint64_t heard_ns;
};
struct snapshot_receives {
    struct engine *e;
    struct map by_replica; /* struct receive */
};

struct snapshot_receives *receives_new(struct engine *e)
{
    struct snapshot_receives *s = xcalloc(1, sizeof(*s));
    s->e = e;
    return s;
}

static void drop(struct snapshot_receives *s, struct receive *x)
{
    if (x->file)
        s->e->files->ops->discard(x->file);
    hash_state_free(x->hash);
    stream_msg_free(x->m);
    free(x);
}

void receives_free(struct snapshot_receives *s)
{
    size_t it = 0;
    struct receive *x;
    while ((x = map_next(&s->by_replica, &it, NULL)))
        drop(s, x);
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
    engine_send_reply(s->e, host, &m);
}

static struct receive *begin(struct snapshot_receives *s, const struct uuid *host,
                             const struct codec_chunk *c, struct replica *r)
{
    struct thole_status st;
    char staged[ENGINE_NAME_BYTES];
    struct receive *x = xcalloc(1, sizeof(*x));
    (void)snprintf(staged, sizeof(staged), "%" PRIu64 ".part", c->to);
    if (s->e->files->ops->create(s->e->files, staged, snapshot_is_kept(r), &x->file, &st) !=
        THOLE_OK) {
        LOG_WARN(ENGINE, "a snapshot is refused: %s", st.message);
        free(x);
        return NULL;
    }
    x->hash = hash_state_new(0);
    x->m = xcalloc(1, sizeof(*x->m));
    x->m->msg.kind = MSG_RECEIVED;
    x->m->r = replica_ref(r);
    x->m->shard_id = c->shard_id;
    x->m->from = c->from;
    x->m->to = c->to;
    x->m->index = c->index;
    x->m->index_term = c->index_term;
    bytes_append_slice(&x->m->config, c->config);
    snapshot_name(r, c->index, x->m->name);
    x->host = *host;
    x->from = c->from;
    x->index = c->index;
    x->index_term = c->index_term;
    (void)map_put(&s->by_replica, c->to, x);
    return x;
}

/* A file of this name may be all that is left of our log; what is in the stream is checked later. (One that
 * is saved between the two steps is replaced by one of the same index, hence of the same state.) */
static bool commit(struct snapshot_receives *s, struct engine_file *staged, const char *name)
{
    struct thole_status st;
    const struct engine_files_ops *ops = s->e->files->ops;
    struct engine_file *there;
    uint64_t size;
    if (ops->open(s->e->files, name, &there, &size, &st) != THOLE_OK)
        return ops->commit(staged, name, &st) == THOLE_OK;
    ops->close(there);
    ops->discard(staged);
    return true;
}

static bool complete(struct snapshot_receives *s, struct receive *x, const struct codec_chunk *c)
{
    struct thole_status st;
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    const struct engine_files_ops *ops = s->e->files->ops;
    if (hash_state_digest(x->hash) != c->total_checksum)
        return false;
    snapshot_trailer(c->total_checksum, trailer);
    if (ops->append(x->file, trailer, sizeof(trailer), &st) != THOLE_OK)
        return false;
    struct engine_file *file = x->file;
    x->file = NULL;
    if (!commit(s, file, x->m->name))
        return false;
    x->done = true;
    x->m->host = x->host;
    x->m->transfer = x->transfer;
    x->m->term = c->term;
    x->m->received = x->received;
    struct stream_msg *m = x->m;
    x->m = NULL;
    loop_post(m->r->loop, &m->msg);
    return true;
}

/* Of a leader that another one followed, or an attempt that its sender gave up: two at a time would only
 * throw each other's bytes away. */
static bool is_stale(const struct receive *x, const struct uuid *host, const struct codec_chunk *c)
{
    return c->term < x->term ||
           (c->term == x->term && uuid_equal(&x->host, host) && c->transfer < x->transfer);
}

/* The transfer that `c` belongs to; NULL if there is none, and none was begun. */
static struct receive *match(struct snapshot_receives *s, const struct uuid *host,
                             const struct codec_chunk *c, struct replica *r)
{
    struct receive *x = map_get(&s->by_replica, c->to);
    bool same = x && x->from == c->from && x->index == c->index && x->index_term == c->index_term &&
                uuid_equal(&x->host, host);
    if (x && (same || x->done))
        return same ? x : NULL; /* another attempt for the same goes on where we are */
    if (c->offset != 0)
        return NULL;
    if (x) {
        (void)map_remove(&s->by_replica, c->to);
        drop(s, x);
    }
    return begin(s, host, c, r);
}

static void take(struct snapshot_receives *s, const struct uuid *host, const struct codec_chunk *c,
                 struct replica *r, uint64_t now_ns)
{
    struct thole_status st;
    struct receive *x = map_get(&s->by_replica, c->to);
    if (x && is_stale(x, host, c)) {
        reply(s, host, c, 0, true);
        return;
    }
    x = match(s, host, c, r);
    if (!x) {
        reply(s, host, c, 0, false);
        return;
    }
    x->heard_ns = now_ns;
    x->term = c->term;
    x->transfer = c->transfer;
    bool ok = true;
    if (!x->done && c->offset == x->received) {
        hash_state_update(x->hash, c->data.data, c->data.size);
        ok = s->e->files->ops->append(x->file, c->data.data, c->data.size, &st) == THOLE_OK;
        x->received += c->data.size;
        if (ok && c->last)
            ok = complete(s, x, c);
    }
    reply(s, host, c, ok ? x->received : 0, !ok);
    if (!ok) {
        LOG_WARN(ENGINE, "a snapshot transfer broke off, the sender will start again");
        (void)map_remove(&s->by_replica, c->to);
        drop(s, x);
    }
}

void receives_chunk(struct snapshot_receives *s, struct stream_msg *m, uint64_t now_ns)
{
    struct codec_chunk c;
    struct thole_status st;
    if (codec_read_chunk(m->frame.bytes, &c, &st) != THOLE_OK) {
        engine_bad_frame(s->e, &m->host, &st);
    } else {
        struct replica *r = engine_find_replica(s->e, c.to);
        if (r && r->shard_id == c.shard_id)
            take(s, &m->host, &c, r, now_ns);
        else if (engine_is_tombstone(s->e, c.to))
            reply(s, &m->host, &c, 0, true);
        replica_unref(r);
        codec_release(c.arena);
    }
    stream_msg_free(m);
}

void receives_end(struct snapshot_receives *s, struct stream_msg *m)
{
    struct receive *x = map_get(&s->by_replica, m->to);
    if (x && x->done) {
        (void)map_remove(&s->by_replica, m->to);
        drop(s, x);
    }
    stream_msg_free(m);
}

uint64_t receives_tick(struct snapshot_receives *s, uint64_t now_ns)
{
    uint64_t next = CLOCK_NEVER, key, gone = 0;
    size_t it = 0;
    struct receive *x;
    while ((x = map_next(&s->by_replica, &it, &key))) {
        if (x->done)
            continue;
        uint64_t due = x->heard_ns + IDLE_NS;
        if (due <= now_ns)
            gone = key;
        next = due < next ? due : next;
    }
    if (gone != 0)
        drop(s, map_remove(&s->by_replica, gone));
    return next;
}
