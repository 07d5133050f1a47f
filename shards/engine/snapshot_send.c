/* Sending snapshots: chunks of the file in a small window, driven by the receiver's replies. A lost
 * chunk or reply is found by silence; the receiver says where to go on. A cap on the host's rate is a
 * bucket of tokens, from which the transfers take a chunk each in turn. */
#include <stdlib.h>

#include "shards/engine/codec.h"
#include "shards/engine/streams.h"

#define ACTIVE_MAX 4
#define WINDOW_BYTES (4 * LIMIT_CHUNK_BYTES)
#define RESEND_NS (1 * NS_PER_S)
#define GIVE_UP_NS (30 * NS_PER_S)
/* Under a cap chunks are a quarter of a second's worth, and so is what may leave at once. */
#define CAPPED_CHUNKS_PER_S 4
#define CAPPED_CHUNK_BYTES_MIN (16 * KIB)

struct send {
    struct send *next;
    struct stream_msg *m;
    struct engine_file *file; /* NULL: waits for its turn */
    uint64_t size, checksum;
    uint64_t sent, acked;
    bool last_sent;
    bool waiting; /* for an answer to what was sent since the last one */
    uint64_t begun_ns, progress_ns, sent_ns, rewound_ns;
};
struct snapshot_sends {
    struct engine *e;
    struct send *first, **last;
    size_t active;
    uint8_t *buffer;
    uint64_t chunk_bytes;
    uint64_t rate, tokens, filled_ns; /* of the cap: bytes per second, 0 for none; bytes */
};

struct snapshot_sends *sends_new(struct engine *e)
{
    struct snapshot_sends *s = xcalloc(1, sizeof(*s));
    s->e = e;
    s->last = &s->first;
    s->rate = e->o.snapshot_bytes_per_s;
    s->chunk_bytes = LIMIT_CHUNK_BYTES;
    if (s->rate != 0 && s->rate / CAPPED_CHUNKS_PER_S < LIMIT_CHUNK_BYTES)
        s->chunk_bytes = s->rate / CAPPED_CHUNKS_PER_S;
    if (s->chunk_bytes < CAPPED_CHUNK_BYTES_MIN)
        s->chunk_bytes = CAPPED_CHUNK_BYTES_MIN;
    s->buffer = xmalloc(s->chunk_bytes);
    s->filled_ns = clock_now(e->clock);
    return s;
}

static void release(struct snapshot_sends *s, struct send *x)
{
    if (x->file)
        s->e->files->ops->close(x->file);
    free(x);
}

void sends_free(struct snapshot_sends *s)
{
    while (s->first) {
        struct send *x = s->first;
        s->first = x->next;
        stream_msg_free(x->m);
        release(s, x);
    }
    free(s->buffer);
    free(s);
}

static void finish(struct snapshot_sends *s, struct send *x, bool ok)
{
    struct send **at = &s->first;
    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    if (!*at)
        s->last = at;
    if (x->file)
        s->active--;
    x->m->msg.kind = MSG_SENT;
    x->m->ok = ok;
    loop_post(x->m->r->loop, &x->m->msg);
    release(s, x);
}

static bool begin(struct snapshot_sends *s, struct send *x, uint64_t now_ns)
{
    const struct engine_files_ops *ops = s->e->files->ops;
    struct thole_status st;
    uint64_t size;
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    if (ops->open(s->e->files, x->m->name, &x->file, &size, &st) != THOLE_OK)
        return false;
    s->active++;
    if (size < sizeof(trailer) ||
        ops->read(x->file, size - sizeof(trailer), trailer, sizeof(trailer), &st) != THOLE_OK ||
        !snapshot_trailer_read(trailer, &x->checksum))
        return false;
    x->size = size - sizeof(trailer);
    x->m->transfer = atomic_fetch_add(&s->e->transfer_id, 1) + 1;
    x->begun_ns = x->progress_ns = x->sent_ns = now_ns;
    return true;
}

static bool send_chunk(struct snapshot_sends *s, struct send *x, uint64_t now_ns)
{
    struct thole_status st;
    uint64_t left = x->size - x->sent;
    size_t n = (size_t)(left < s->chunk_bytes ? left : s->chunk_bytes);
    if (s->e->files->ops->read(x->file, x->sent, s->buffer, n, &st) != THOLE_OK)
        return false;
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
        .data = slice_of(s->buffer, n),
        .last = n == left,
        .total_checksum = n == left ? x->checksum : 0,
    };
    engine_send(s->e, &x->m->host, ENGINE_LANE_SNAPSHOT, codec_chunk_frame(&c));
    metric_add(&engine_snapshot_bytes, (int64_t)n);
    x->sent += n;
    x->last_sent = n == left;
    x->sent_ns = now_ns;
    x->waiting = true;
    s->tokens -= s->rate != 0 ? n : 0;
    return true;
}

static void refill(struct snapshot_sends *s, uint64_t now_ns)
{
    uint64_t full = s->chunk_bytes + s->rate / CAPPED_CHUNKS_PER_S, passed = now_ns - s->filled_ns;
    if (passed > NS_PER_S)
        passed = NS_PER_S;
    s->tokens += (uint64_t)((double)s->rate * (double)passed / (double)NS_PER_S);
    s->tokens = s->tokens < full ? s->tokens : full;
    s->filled_ns = now_ns;
}

static bool may_send(const struct snapshot_sends *s)
{
    return s->rate == 0 || s->tokens >= s->chunk_bytes;
}

/* When there will be enough for a chunk. */
static uint64_t next_chunk_ns(const struct snapshot_sends *s, uint64_t now_ns)
{
    uint64_t missing = s->chunk_bytes - s->tokens;
    return now_ns + (uint64_t)((double)missing * (double)NS_PER_S / (double)s->rate) + 1;
}

static bool has_more(const struct send *x)
{
    return !x->last_sent && x->sent - (x->acked < x->sent ? x->acked : x->sent) < WINDOW_BYTES;
}

/* False: the transfer cannot go on. */
static bool check(const struct snapshot_sends *s, struct send *x, uint64_t now_ns)
{
    if (!x->waiting && !may_send(s))
        x->progress_ns = now_ns; /* the cap holds it up, not the peer */
    if (now_ns - x->progress_ns >= GIVE_UP_NS)
        return false;
    if (now_ns - x->sent_ns >= RESEND_NS) { /* silence: from where we know */
        uint64_t tail = x->size % s->chunk_bytes;
        bool complete = x->acked == x->size; /* then the last chunk is a question */
        x->sent = !complete ? x->acked : tail ? x->size - tail : x->size - s->chunk_bytes;
        x->last_sent = false;
    }
    return true;
}

/* A chunk of every transfer that may send one; false if there was none. What cannot go on ends. */
static bool send_round(struct snapshot_sends *s, uint64_t now_ns)
{
    bool any = false;
    for (struct send *x = s->first, *after; x; x = after) {
        after = x->next;
        if (!x->file || !has_more(x) || !may_send(s))
            continue;
        any = true;
        if (!send_chunk(s, x, now_ns))
            finish(s, x, false);
    }
    return any;
}

/* Under a cap, who was first is last the next time. */
static void rotate(struct snapshot_sends *s)
{
    struct send *x = s->first;
    if (s->rate == 0 || !x || !x->next)
        return;
    s->first = x->next;
    x->next = NULL;
    *s->last = x;
    s->last = &x->next;
}

uint64_t sends_tick(struct snapshot_sends *s, uint64_t now_ns)
{
    uint64_t next = CLOCK_NEVER;
    if (s->rate != 0)
        refill(s, now_ns);
    for (struct send *x = s->first, *after; x; x = after) {
        after = x->next;
        if ((!x->file && s->active < ACTIVE_MAX && !begin(s, x, now_ns)) ||
            (x->file && !check(s, x, now_ns)))
            finish(s, x, false);
    }
    while (send_round(s, now_ns))
        rotate(s);
    for (const struct send *x = s->first; x; x = x->next) {
        if (!x->file)
            continue; /* a finished transfer makes room */
        uint64_t due = x->sent_ns + RESEND_NS;
        if (has_more(x))
            due = next_chunk_ns(s, now_ns);
        next = due < next ? due : next;
    }
    return next;
}

void sends_start(struct snapshot_sends *s, struct stream_msg *m, uint64_t now_ns)
{
    (void)now_ns;
    struct send *x = xcalloc(1, sizeof(*x));
    x->m = m;
    *s->last = x;
    s->last = &x->next;
}

void sends_reply(struct snapshot_sends *s, struct stream_msg *m, uint64_t now_ns)
{
    struct send *x = s->first;
    while (x && (x->m->transfer != m->transfer || x->m->from != m->from || x->m->to != m->to))
        x = x->next;
    if (!x || !x->file || m->received > x->size) {
        stream_msg_free(m);
        return;
    }
    if (m->installed || m->refused) {
        finish(s, x, m->installed);
    } else if (m->received > x->acked || (m->received == x->size && x->acked == x->size)) {
        if (m->received == x->size && x->acked < x->size)
            metric_record(&engine_transfer_ns, now_ns - x->begun_ns);
        x->acked = m->received;
        x->sent = x->sent > x->acked ? x->sent : x->acked;
        x->waiting = x->acked < x->sent;
        x->progress_ns = x->sent_ns = now_ns; /* complete, and being installed: it may take long */
        x->last_sent = x->acked == x->size || (x->last_sent && x->sent == x->size);
    } else if (m->gap && m->received < x->sent && now_ns - x->rewound_ns > RESEND_NS / 10) {
        x->acked = x->sent = m->received; /* a gap, or the receiver lost what it had */
        x->last_sent = false;
        x->rewound_ns = now_ns;
    }
    stream_msg_free(m);
}
