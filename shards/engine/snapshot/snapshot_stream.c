/* Snapshots of persistent machines are streamed without files: the machine writes into a pipe while
 * its bytes are being sent, and the peer restores while the rest arrives. Both run as jobs. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/engine/snapshot/snapshots.h"
#include "shards/engine/snapshot/streams.h"

/* ---- Out ------------------------------------------------------------------------------------- */

struct pipe_sink {
    struct thole_sink base;
    struct snapshot_pipe *pipe;
    struct hash_state *hash;
    size_t piece_bytes;
    struct buf *piece; /* held back until more is written: the last piece is marked */
    size_t used;
    bool broken;
};

static bool emit(struct pipe_sink *s, bool last)
{
    ASSERT(s->piece != NULL && s->used > 0 && s->used <= s->piece_bytes);
    hash_state_update(s->hash, s->piece->data, s->used);
    struct piece p = {.bytes = {s->piece, slice_of(s->piece->data, s->used)}, .last = last};
    if (last) {
        p.checksum = hash_state_digest(s->hash);
    }
    s->piece = NULL;
    s->broken = !engine__pipe_put_wait(s->pipe, &p);
    return !s->broken;
}

static enum thole_code write_pipe(struct thole_sink *base, const void *data, size_t size)
{
    struct pipe_sink *s = CONTAINER_OF(base, struct pipe_sink, base);
    const uint8_t *p = data;
    while (size > 0 && !s->broken) {
        if (s->piece != NULL && s->used == s->piece_bytes && !emit(s, false)) {
            break;
        }
        if (s->piece == NULL) {
            s->piece = buf_new(s->piece_bytes);
            s->used = 0;
        }
        size_t room = s->piece_bytes - s->used, n = size < room ? size : room;
        memcpy(s->piece->data + s->used, p, n);
        s->used += n;
        p += n;
        size -= n;
    }
    return s->broken ? THOLE_UNAVAILABLE : THOLE_OK;
}

enum thole_code engine__snapshot_save_stream(struct task *t, struct thole_status *st)
{
    struct pipe_sink s = {.base = {sizeof(struct thole_sink), write_pipe},
                          .pipe = t->pipe,
                          .piece_bytes = t->piece_bytes};
    s.hash = hash_state_new(0);
    enum thole_code code = engine__body_save(&s.base, t, st);
    if (!s.broken && code == THOLE_OK) {
        (void)emit(&s, true); /* a stream has a header, so it is never empty */
    }
    if (s.broken) {
        code = THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NONE, "the transfer was given up");
    }
    engine__pipe_break(t->pipe);
    buf_unref(s.piece);
    hash_state_free(s.hash);
    return code;
}

/* ---- In -------------------------------------------------------------------------------------- */

struct pipe_source {
    struct body_source body;
    struct snapshot_pipe *pipe;
    struct piece piece; /* owns the window */
};

/* False: the end, or the transfer broke off. */
static bool next_piece(struct body_source *body)
{
    struct pipe_source *s = CONTAINER_OF(body, struct pipe_source, body);
    bufslice_unref(s->piece.bytes);
    s->piece = (struct piece){0};
    body->window = (struct slice){0};
    switch (engine__pipe_take_wait(s->pipe, &s->piece)) {
    case PIPE_PIECE:
        body->window = s->piece.bytes.bytes;
        return true;
    case PIPE_BROKEN:
        (void)THOLE_FAIL(&body->st, THOLE_UNAVAILABLE, THOLE_REASON_NONE, "the transfer broke off");
        return false;
    case PIPE_EMPTY:
    case PIPE_END:
    default:
        return false;
    }
}

/* Read what the machine left unread: only the end proves that the stream is complete. */
static enum thole_code read_to_the_end(struct pipe_source *s, struct thole_status *st)
{
    while (s->body.st.code == THOLE_OK && next_piece(&s->body)) {
    }
    if (s->body.st.code != THOLE_OK) {
        *st = s->body.st;
    }
    return s->body.st.code;
}

enum thole_code engine__snapshot_load_stream(struct task *t, struct thole_status *st)
{
    const struct stream_msg *m = t->received;
    ASSERT(m != NULL && t->pipe != NULL && t->machine == NULL);
    struct pipe_source s = {.pipe = t->pipe};
    engine__body_source_init(&s.body, next_piece);
    enum thole_code code = THOLE_OK;
    if (!t->r->kind->witness) {
        /* What an earlier restore has left. */
        code = engine__machine_destroy(t->r, t->generation, st);
    }
    if (!t->r->kind->witness && code == THOLE_OK) {
        code = engine__body_load(&s.body, t->r, t->pipe, "from a peer", t->generation, &t->machine,
                                 st);
    }
    if (code == THOLE_OK && t->machine != NULL &&
        (t->machine->applied != m->index || t->machine->applied_term != m->index_term)) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "the snapshot is not the one that was announced");
    }
    if (code == THOLE_OK) {
        code = read_to_the_end(&s, st);
    }
    bufslice_unref(s.piece.bytes);
    engine__pipe_break(t->pipe);
    return code;
}
