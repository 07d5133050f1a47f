/* The stream of a snapshot: [size][SnapshotHeader][sessions, each with its size][0][machine
 * bytes]. */
#include <string.h>

#include "base/canary.h"
#include "shards/engine/meta.h"
#include "shards/engine/snapshot/snapshots.h"
#include "shards/engine/snapshot/streams.h"

/* Is the work for nothing: does the host stop, is the replica to be removed, or was the transfer
 * given up? Any thread. */
static bool is_given_up(const struct replica *r, struct snapshot_pipe *pipe)
{
    return atomic_load_explicit(&r->e->stopping, memory_order_relaxed) ||
           atomic_load_explicit(&r->removing, memory_order_relaxed) ||
           (pipe != NULL && engine__pipe_is_broken(pipe));
}

/* ---- Writing --------------------------------------------------------------------------------- */

void engine__body_write_head(struct thole_sink *out, const struct task *t)
{
    struct bytes header = {0};
    uint8_t size[4];
    struct codec_header h = {
        .shard_id = t->r->shard_id,
        .index = t->index,
        .index_term = t->term,
        .machine_type = slice_str(t->r->kind->type_name),
        .config = bytes_slice(&t->config),
        .machine_version = t->r->kind->type_version,
        .stamp = t->stamp,
    };
    codec_header_encode(&h, &header);
    put_le32(size, (uint32_t)header.size);
    (void)out->write(out, size, sizeof size);
    (void)out->write(out, header.data, header.size);
    (void)out->write(out, t->sessions.data, t->sessions.size);
    bytes_deinit(&header);
}

struct save_call {
    struct thole_save base;
    const struct task *t;
};

static bool save_stopping(const struct thole_save *base)
{
    const struct save_call *call = CONTAINER_OF(base, struct save_call, base);
    return is_given_up(call->t->r, call->t->pipe);
}

enum thole_code engine__body_save(struct thole_sink *out, const struct task *t,
                                  struct thole_status *st)
{
    struct machine *m = t->machine;
    bool locked = m->type->view_acquire == NULL;
    ASSERT(locked == (t->view == NULL) && t->index != 0);
    engine__body_write_head(out, t);
    if (locked) {
        pthread_rwlock_rdlock(m->lock);
    }
    struct save_call call = {{sizeof call.base, out, t->index, save_stopping}, t};
    enum thole_code code =
        engine__machine_result(m->type->save(m->state, t->view, &call.base, st), st);
    if (locked) {
        pthread_rwlock_unlock(m->lock);
    }
    return code;
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* As much as was asked for, unless the source ends: machines need not know where windows meet. */
static int64_t read_windows(struct thole_source *base, void *data, size_t size)
{
    struct body_source *s = CONTAINER_OF(base, struct body_source, base);
    size_t have = 0;
    while (have < size && s->st.code == THOLE_OK) {
        size_t n = s->window.size < size - have ? s->window.size : size - have;
        struct slice part;
        if (n == 0) {
            if (!s->next(s)) {
                break;
            }
            continue;
        }
        bool taken = slice_take(&s->window, n, &part);
        ASSERT(taken);
        memcpy((uint8_t *)data + have, part.data, n);
        have += n;
    }
    return s->st.code == THOLE_OK ? (int64_t)have : -1;
}

void engine__body_source_init(struct body_source *s, bool (*next)(struct body_source *s))
{
    *s = (struct body_source){.base = {sizeof(struct thole_source), read_windows}, .next = next};
}

static bool read_exactly(struct body_source *s, void *data, size_t size)
{
    uint8_t *p = data;
    while (size > 0) {
        int64_t n = s->base.read(&s->base, p, size);
        if (n <= 0) {
            return false;
        }
        p += n;
        size -= (size_t)n;
    }
    return true;
}

/* A piece with its 4-byte size; false if damaged. An empty piece ends a list. */
static bool read_piece(struct body_source *s, struct bytes *out)
{
    uint8_t size[4];
    bytes_clear(out);
    if (!read_exactly(s, size, sizeof size) || get_le32(size) > 2 * LIMIT_FRAME_BYTES) {
        return false;
    }
    uint32_t n = get_le32(size);
    return n == 0 || read_exactly(s, bytes_extend(out, n), n);
}

/* If the source failed, its status counts, and not what a reader or a machine made of it. */
static enum thole_code result_of(const struct body_source *s, enum thole_code code,
                                 struct thole_status *st)
{
    if (s->st.code == THOLE_OK) {
        return code;
    }
    *st = s->st;
    return s->st.code;
}

enum thole_code engine__body_read_head(struct body_source *s, const char *name, struct bytes *piece,
                                       struct codec_header *ret, struct thole_status *st)
{
    if (!read_piece(s, piece)) {
        return result_of(
            s,
            THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "snapshot %s: bad header", name),
            st);
    }
    return codec_header_decode(bytes_slice(piece), ret, st);
}

static enum thole_code read_sessions(struct body_source *s, struct session_table *t,
                                     struct thole_status *st)
{
    struct bytes piece = {0};
    bool ok;
    while ((ok = read_piece(s, &piece)) && piece.size > 0) {
        ok = session_decode(t, bytes_slice(&piece));
        if (!ok) {
            break;
        }
    }
    bytes_deinit(&piece);
    if (!ok) {
        return result_of(s,
                         THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                                    "snapshot with unreadable sessions"),
                         st);
    }
    session_table_sort(t);
    return THOLE_OK;
}

struct restore_call {
    struct thole_restore base;
    const struct replica *r;
    struct snapshot_pipe *pipe;
};

static bool restore_stopping(const struct thole_restore *base)
{
    const struct restore_call *call = CONTAINER_OF(base, struct restore_call, base);
    return is_given_up(call->r, call->pipe);
}

static enum thole_code restore(struct body_source *s, struct restore_call *call, struct machine *m,
                               struct thole_status *st)
{
    struct meta_list metas = {0};
    call->base = (struct thole_restore){
        .size = sizeof call->base,
        .in = &s->base,
        .index = m->applied,
        .term = m->applied_term,
        .now_ms = m->applied_stamp.now_ms,
        .alive_ms = m->applied_stamp.alive_ms,
        .stopping = restore_stopping,
        .due = {THOLE_NEVER, THOLE_NEVER},
    };
    if (m->persistent) {
        meta_add_applied(&metas, m->applied, m->applied_term, m->applied_stamp);
        meta_add_table(&metas, &m->sessions);
        call->base.meta = meta_list_ready(&metas);
        call->base.meta_count = metas.count;
    }
    enum thole_code code = engine__machine_result(m->type->restore(m->state, &call->base, st), st);
    if (!CANARY(timer_lost_in_snapshot)) {
        m->due = call->base.due;
    }
    meta_list_deinit(&metas);
    return result_of(s, code, st);
}

enum thole_code engine__body_load(struct body_source *s, struct replica *r,
                                  struct snapshot_pipe *pipe, const char *name, uint64_t generation,
                                  struct machine **ret, struct thole_status *st)
{
    struct restore_call call = {.r = r, .pipe = pipe};
    struct codec_header h = {0};
    struct bytes piece = {0};
    struct machine *m = NULL;
    enum thole_code code = engine__body_read_head(s, name, &piece, &h, st);
    if (code == THOLE_OK && (h.shard_id != r->shard_id ||
                             !slice_equal(h.machine_type, slice_str(r->kind->type_name)))) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "snapshot %s belongs to another shard or machine type", name);
    }
    if (code == THOLE_OK) {
        code = engine__machine_open(r, generation, &m, st);
    }
    if (code == THOLE_OK) {
        m->applied =
            CANARY(log_over_snapshot) && r->boot != NULL ? r->boot->raft.start_index : h.index;
        m->applied_term = h.index_term;
        m->applied_stamp = h.stamp;
        code = read_sessions(s, &m->sessions, st);
    }
    if (code == THOLE_OK) {
        code = restore(s, &call, m, st);
    }
    codec_release(h.arena);
    bytes_deinit(&piece);
    if (code == THOLE_OK) {
        *ret = m;
    } else {
        engine__machine_unref(m);
    }
    return code;
}
