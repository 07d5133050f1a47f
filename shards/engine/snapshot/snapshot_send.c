/* Sending snapshots: chunks of a file, or of a pipe that a machine writes into, in a small window
 * that the receiver's replies advance. Silence means a lost chunk or reply. The receiver's reply
 * says where to continue: anywhere in a file, but in a pipe only at a piece that it has not
 * acknowledged. The cap on the host's rate is a token bucket, from which the transfers take a chunk
 * each in turn. */
#include <stdlib.h>

#include "shards/engine/snapshot/snapshots.h"
#include "shards/engine/snapshot/streams.h"

#define ACTIVE_MAX 4
#define WINDOW_BYTES (4 * LIMIT_CHUNK_BYTES)
#define RESEND_NS (1 * NS_PER_S)
#define GIVE_UP_NS (30 * NS_PER_S)
/* Under a cap, a chunk is a quarter of a second's bytes, and so is the largest burst. */
#define CAPPED_CHUNKS_PER_S 4
#define CAPPED_CHUNK_BYTES_MIN (16 * KIB)

/* The bound of a pipe: enough that neither end waits for the other. */
#define PIPE_BYTES (4 * LIMIT_CHUNK_BYTES)
/* So many replies that ask for acknowledged pieces end a transfer: the peer has lost its bytes. A
 * single one may be a late reply. */
#define LOST_MAX 2

struct unacked { /* a piece that may have to be sent again; the last one stays until the end */
    struct unacked *next;
    uint64_t offset;
    struct piece piece;
};
struct send {
    struct send *next;
    struct stream_msg *m;
    bool begun; /* false: waits until fewer than ACTIVE_MAX are active */
    struct engine_file *file;
    struct snapshot_pipe *pipe; /* if there is no file */
    struct unacked *unacked, **unacked_last;
    uint64_t size; /* bytes known so far; of a pipe, all of them once `whole` */
    bool whole;
    uint64_t checksum;
    uint64_t sent, acked;
    uint64_t generation; /* of the machine that writes into the pipe */
    uint32_t lost;
    bool last_sent;
    bool waiting; /* for a reply to a chunk */
    uint64_t begun_ns, progress_ns, sent_ns, rewound_ns;
};
struct snapshot_sends {
    struct engine *e;
    struct stream_jobs *jobs;
    struct send *first, **last;
    size_t active;
    uint8_t *buffer; /* a chunk of a file; NULL until a file is sent */
    uint64_t chunk_bytes;
    uint64_t rate, tokens, filled_ns; /* of the cap: bytes per second, 0 for none; bytes */
};

struct snapshot_sends *engine__sends_new(struct engine *e, struct stream_jobs *jobs)
{
    struct snapshot_sends *s = xcalloc(1, sizeof *s);
    s->e = e;
    s->jobs = jobs;
    s->last = &s->first;
    s->rate = e->o.snapshot_bytes_per_s;
    s->chunk_bytes = LIMIT_CHUNK_BYTES;
    if (s->rate != 0 && s->rate / CAPPED_CHUNKS_PER_S < LIMIT_CHUNK_BYTES) {
        s->chunk_bytes = s->rate / CAPPED_CHUNKS_PER_S;
    }
    if (s->chunk_bytes < CAPPED_CHUNK_BYTES_MIN) {
        s->chunk_bytes = CAPPED_CHUNK_BYTES_MIN;
    }
    s->filled_ns = clock_now(e->clock);
    return s;
}

static void drop_unacked(struct send *x)
{
    struct unacked *k = x->unacked;
    ASSERT(k != NULL);
    x->unacked = k->next;
    if (x->unacked == NULL) {
        x->unacked_last = &x->unacked;
    }
    bufslice_unref(k->piece.bytes);
    free(k);
}

static void release(struct snapshot_sends *s, struct send *x)
{
    if (x->file != NULL) {
        s->e->files->ops->close(x->file);
    }
    engine__pipe_break(x->pipe);
    engine__pipe_unref(x->pipe);
    while (x->unacked != NULL) {
        drop_unacked(x);
    }
    free(x);
}

void engine__sends_free(struct snapshot_sends *s)
{
    while (s->first != NULL) {
        struct send *x = s->first;
        s->first = x->next;
        engine__stream_msg_free(x->m);
        release(s, x);
    }
    free(s->buffer);
    free(s);
}

static void finish(struct snapshot_sends *s, struct send *x, bool ok)
{
    struct send **at = &s->first;
    while (*at != x) {
        ASSERT(*at != NULL);
        at = &(*at)->next;
    }
    *at = x->next;
    if (*at == NULL) {
        s->last = at;
    }
    if (x->begun) {
        ASSERT(s->active > 0);
        s->active--;
    }
    engine__task_free(x->m->save); /* NULL once a job has taken it */
    x->m->save = NULL;
    x->m->msg.kind = MSG_SENT;
    x->m->ok = ok;
    engine__loop_post(x->m->r->loop, &x->m->msg);
    release(s, x);
}

static bool open_file(struct snapshot_sends *s, struct send *x)
{
    const struct engine_files_ops *ops = s->e->files->ops;
    struct thole_status st;
    uint64_t size;
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    if (ops->open(s->e->files, x->m->name, &x->file, &size, &st) != THOLE_OK) {
        return false;
    }
    if (size < sizeof trailer ||
        ops->read(x->file, size - sizeof trailer, trailer, sizeof trailer, &st) != THOLE_OK ||
        !engine__snapshot_trailer_read(trailer, &x->checksum)) {
        return false;
    }
    if (s->buffer == NULL) {
        s->buffer = xmalloc(s->chunk_bytes);
    }
    x->size = size - sizeof trailer;
    x->whole = true;
    return true;
}

/* False: no job is free yet. */
static bool open_pipe(struct snapshot_sends *s, struct send *x)
{
    struct task *t = x->m->save;
    struct snapshot_pipe *pipe = engine__pipe_new(s->e, PIPE_BYTES);
    t->pipe = engine__pipe_ref(pipe);
    t->piece_bytes = s->chunk_bytes;
    if (!engine__jobs_start(s->jobs, t)) {
        engine__pipe_unref(t->pipe);
        engine__pipe_unref(pipe);
        t->pipe = NULL;
        return false;
    }
    x->m->save = NULL;
    x->generation = t->machine->generation;
    x->pipe = pipe;
    return true;
}

/* False: it cannot be sent. */
static bool begin(struct snapshot_sends *s, struct send *x, uint64_t now_ns)
{
    if (x->m->save != NULL ? !open_pipe(s, x) : !open_file(s, x)) {
        return x->m->save != NULL;
    }
    ASSERT(!x->begun && s->active < ACTIVE_MAX && (x->file == NULL) != (x->pipe == NULL));
    s->active++;
    x->begun = true;
    x->m->transfer = atomic_fetch_add(&s->e->transfer_id, 1) + 1;
    x->begun_ns = x->progress_ns = x->sent_ns = now_ns;
    return true;
}

/* ---- Chunks ---------------------------------------------------------------------------------- */

/* Take the next piece from the pipe, if there is one. */
static enum pipe_state extend(struct send *x)
{
    struct piece piece;
    ASSERT(!x->whole); /* the last piece ends the pipe */
    enum pipe_state state = engine__pipe_take(x->pipe, &piece);
    if (state != PIPE_PIECE) {
        return state;
    }
    struct unacked *k = xcalloc(1, sizeof *k);
    k->offset = x->size;
    k->piece = piece;
    *x->unacked_last = k;
    x->unacked_last = &k->next;
    x->size += piece.bytes.bytes.size;
    x->whole = piece.last;
    if (piece.last) {
        x->checksum = piece.checksum;
    }
    return state;
}

/* The data of the next chunk, at `sent`. False: it cannot be read. */
static bool next_data(struct snapshot_sends *s, struct send *x, struct slice *ret)
{
    struct thole_status st;
    if (x->file != NULL) {
        uint64_t left = x->size - x->sent;
        size_t n = (size_t)(left < s->chunk_bytes ? left : s->chunk_bytes);
        *ret = slice_of(s->buffer, n);
        return s->e->files->ops->read(x->file, x->sent, s->buffer, n, &st) == THOLE_OK;
    }
    const struct unacked *k = x->unacked;
    while (k != NULL && k->offset + k->piece.bytes.bytes.size <= x->sent) {
        k = k->next;
    }
    if (k == NULL) {
        return false;
    }
    x->sent = k->offset; /* the peer acknowledges whole chunks */
    *ret = k->piece.bytes.bytes;
    return true;
}

/* Where the last chunk begins. Its bytes are still available. */
static uint64_t last_offset(const struct snapshot_sends *s, const struct send *x)
{
    if (x->file != NULL) {
        return x->size % s->chunk_bytes ? x->size - x->size % s->chunk_bytes
                                        : x->size - s->chunk_bytes;
    }
    const struct unacked *k = x->unacked;
    while (k->next != NULL) {
        k = k->next;
    }
    return k->offset;
}

static void acknowledge(struct send *x, uint64_t received)
{
    ASSERT(received >= x->acked && received <= x->size);
    x->acked = received;
    x->lost = 0;
    while (x->unacked != NULL && !x->unacked->piece.last &&
           x->unacked->offset + x->unacked->piece.bytes.bytes.size <= received) {
        drop_unacked(x);
    }
}

static bool send_chunk(struct snapshot_sends *s, struct send *x, uint64_t now_ns)
{
    struct slice data;
    if (!next_data(s, x, &data)) {
        return false;
    }
    ASSERT(data.size > 0 && data.size <= LIMIT_CHUNK_BYTES);
    ASSERT(x->begun && x->m->index != 0 && x->sent + data.size <= x->size);
    ASSERT(s->rate == 0 || s->tokens >= data.size);
    bool last = x->whole && x->sent + data.size == x->size;
    struct codec_chunk c = {
        .shard_id = x->m->shard_id,
        .from = x->m->from,
        .to = x->m->to,
        .term = x->m->term,
        .transfer = x->m->transfer,
        .index = x->m->index,
        .index_term = x->m->index_term,
        .offset = x->sent,
        .config = x->sent == 0 ? bytes_slice(&x->m->config) : (struct slice){0},
        .data = data,
        .last = last,
        .total_checksum = last ? x->checksum : 0,
    };
    engine__send(s->e, &x->m->host, ENGINE_LANE_SNAPSHOT, codec_chunk_frame(&c));
    metric_add(&engine_snapshot_bytes, (int64_t)data.size);
    x->sent += data.size;
    x->last_sent = last;
    x->sent_ns = now_ns;
    x->waiting = true;
    s->tokens -= s->rate != 0 ? data.size : 0;
    return true;
}

static void refill(struct snapshot_sends *s, uint64_t now_ns)
{
    uint64_t full = s->chunk_bytes + s->rate / CAPPED_CHUNKS_PER_S;
    ASSERT(s->tokens <= full && now_ns >= s->filled_ns);
    double earned = (double)s->rate * (double)(now_ns - s->filled_ns) / (double)NS_PER_S;
    if (earned >= (double)(full - s->tokens)) {
        s->tokens = full;
        s->filled_ns = now_ns;
        return;
    }
    /* A fraction of a byte counts in the next turn, which may follow closely. */
    uint64_t bytes = (uint64_t)earned;
    s->tokens += bytes;
    s->filled_ns += (uint64_t)((double)bytes * (double)NS_PER_S / (double)s->rate);
}

static bool may_send(const struct snapshot_sends *s)
{
    return s->rate == 0 || s->tokens >= s->chunk_bytes;
}

/* When there will be enough tokens for a chunk. */
static uint64_t next_chunk_ns(const struct snapshot_sends *s, uint64_t now_ns)
{
    uint64_t missing = s->chunk_bytes - s->tokens;
    return now_ns + (uint64_t)((double)missing * (double)NS_PER_S / (double)s->rate) + 1;
}

static bool has_more(const struct send *x)
{
    bool there = x->file != NULL || x->sent < x->size;
    return there && !x->last_sent &&
           x->sent - (x->acked < x->sent ? x->acked : x->sent) < WINDOW_BYTES;
}

static bool is_complete(const struct send *x)
{
    return x->whole && x->acked == x->size;
}

/* All that the machine has written so far was sent. */
static bool is_starved(const struct send *x)
{
    return x->pipe != NULL && !x->whole && x->sent == x->size;
}

/* False: the transfer cannot go on. */
static bool check(const struct snapshot_sends *s, struct send *x, uint64_t now_ns)
{
    if (!x->waiting && !may_send(s)) {
        x->progress_ns = now_ns; /* it waits for the cap, not for the peer */
    }
    if (!x->waiting && is_starved(x)) {
        x->progress_ns = x->sent_ns = now_ns; /* it waits for the machine, not for the peer */
    }
    if (now_ns - x->progress_ns >= GIVE_UP_NS) {
        return false;
    }
    if (now_ns - x->sent_ns >= RESEND_NS) { /* silence: resend from the acknowledged offset */
        /* If all is acknowledged, the last chunk again asks for the result. */
        x->sent = is_complete(x) ? last_offset(s, x) : x->acked;
        x->last_sent = false;
    }
    return true;
}

/* Send a chunk of every transfer that may send one; false if there was none. Ends failed ones. */
static bool send_round(struct snapshot_sends *s, uint64_t now_ns)
{
    bool any = false;
    for (struct send *x = s->first, *after; x != NULL; x = after) {
        after = x->next;
        if (!x->begun) {
            continue;
        }
        if (is_starved(x) && extend(x) == PIPE_BROKEN) {
            finish(s, x, false);
        } else if (has_more(x) && may_send(s)) {
            any = true;
            if (!send_chunk(s, x, now_ns)) {
                finish(s, x, false);
            }
        }
    }
    return any;
}

/* Round robin under a cap: the first transfer becomes the last. */
static void rotate(struct snapshot_sends *s)
{
    struct send *x = s->first;
    if (s->rate == 0 || x == NULL || x->next == NULL) {
        return;
    }
    s->first = x->next;
    x->next = NULL;
    *s->last = x;
    s->last = &x->next;
}

uint64_t engine__sends_tick(struct snapshot_sends *s, uint64_t now_ns)
{
    uint64_t next = CLOCK_NEVER;
    if (s->rate != 0) {
        refill(s, now_ns);
    }
    for (struct send *x = s->first, *after; x != NULL; x = after) {
        after = x->next;
        if ((!x->begun && s->active < ACTIVE_MAX && !begin(s, x, now_ns)) ||
            (x->begun && !check(s, x, now_ns))) {
            finish(s, x, false);
        }
    }
    while (send_round(s, now_ns)) {
        rotate(s);
    }
    for (const struct send *x = s->first; x != NULL; x = x->next) {
        if (!x->begun || (!x->waiting && is_starved(x))) {
            continue; /* started by the end of another, or woken by its pipe */
        }
        uint64_t due = x->sent_ns + RESEND_NS;
        if (has_more(x)) {
            due = next_chunk_ns(s, now_ns);
        }
        next = due < next ? due : next;
    }
    return next;
}

/* A newer transfer to the same peer ends the older one: two would end each other's streams for
 * ever. The core gets no report, since it asked for the newer one. */
static void supersede(struct snapshot_sends *s, const struct stream_msg *m)
{
    for (struct send *x = s->first, *after; x != NULL; x = after) {
        after = x->next;
        if (x->m->r == m->r && x->m->to == m->to) {
            x->m->superseded = true;
            finish(s, x, false);
        }
    }
}

void engine__sends_start(struct snapshot_sends *s, struct stream_msg *m, uint64_t now_ns)
{
    (void)now_ns;
    supersede(s, m);
    struct send *x = xcalloc(1, sizeof *x);
    x->m = m;
    x->unacked_last = &x->unacked;
    *s->last = x;
    s->last = &x->next;
}

void engine__sends_reply(struct snapshot_sends *s, struct stream_msg *m, uint64_t now_ns)
{
    struct send *x = s->first;
    while (x != NULL &&
           (x->m->transfer != m->transfer || x->m->from != m->from || x->m->to != m->to)) {
        x = x->next;
    }
    if (x == NULL || !x->begun || m->received > x->size) {
        engine__stream_msg_free(m);
        return;
    }
    if (m->installed || m->refused) {
        finish(s, x, m->installed);
    } else if (m->received > x->acked || (m->received == x->size && x->acked == x->size)) {
        if (m->received == x->size && x->acked < x->size && x->whole) {
            metric_record(&engine_transfer_ns, now_ns - x->begun_ns);
        }
        acknowledge(x, m->received);
        x->sent = x->sent > x->acked ? x->sent : x->acked;
        x->waiting = x->acked < x->sent;
        x->progress_ns = x->sent_ns = now_ns; /* also while the peer installs */
        x->last_sent = is_complete(x) || (x->last_sent && x->sent == x->size);
    } else if (m->gap && x->pipe != NULL &&
               m->received < (x->unacked != NULL ? x->unacked->offset : x->size)) {
        if (++x->lost == LOST_MAX) {
            finish(s, x, false);
        }
    } else if (m->gap && m->received < x->sent && now_ns - x->rewound_ns > RESEND_NS / 10) {
        x->acked = x->sent = m->received; /* a chunk was lost, or the receiver restarted */
        x->last_sent = false;
        x->rewound_ns = now_ns;
    }
    engine__stream_msg_free(m);
}

void engine__sends_stop(struct snapshot_sends *s, const struct replica *r, uint64_t generation)
{
    for (struct send *x = s->first, *after; x != NULL; x = after) {
        after = x->next;
        const struct task *waiting = x->m->save;
        if (x->m->r == r && (x->pipe != NULL || waiting != NULL) &&
            (generation == ANY_GENERATION ||
             generation == (waiting != NULL ? waiting->machine->generation : x->generation))) {
            finish(s, x, false);
        }
    }
}

void engine__sends_break(struct snapshot_sends *s)
{
    for (struct send *x = s->first; x != NULL; x = x->next) {
        engine__pipe_break(x->pipe);
    }
}
