/* When and how far a log is compacted: only up to an index that is durable in the machine or in a
 * snapshot, and with a tail kept for slow followers. Marks record at which index the log had how
 * many bytes.
 *
 * The bound of a log follows the cost of compacting it. For an in-memory machine that is a
 * snapshot, so its log may have four times the bytes of the last one. The log of a small machine
 * stays small, and a large machine is not saved for every few MiB. The tail is about as large as
 * the snapshot that a follower behind it gets. A persistent machine is made durable by a
 * flush of the state database of all machines, whatever its own size: its bound is always the
 * largest. A witness has nothing to save, and its log is not read: its bound is the lowest. */
#include <stdlib.h>
#include <string.h>

#include "shards/engine/engine_internal.h"

#define MARKS_PER_LOG 64 /* a log about to be compacted has this many */
#define LEAST_BOUND 8    /* the lowest bound is the highest divided by this */
#define LOG_PER_SNAPSHOT 4
#define TAIL_OF_BOUND 4
#define BOOT_MARKS 16 /* for the log found at start, as if its entries had equal sizes */

/* The first mark needs no allocation: an idle log has no more. */
static const struct log_mark *mark_at(const struct replica *r, size_t i)
{
    ASSERT(i < (r->marks != NULL ? r->mark_capacity : 1));
    return r->marks != NULL ? &r->marks[i] : &r->first_mark;
}

static void add_mark(struct replica *r, uint64_t index, uint64_t bytes)
{
    while (r->mark_count > 0 && mark_at(r, r->mark_count - 1)->index >= index) {
        r->mark_count--; /* the tail was replaced */
    }
    ASSERT(r->mark_count == 0 || mark_at(r, r->mark_count - 1)->bytes <= bytes);
    if (r->mark_count == (r->marks != NULL ? r->mark_capacity : 1)) {
        r->mark_capacity = r->mark_capacity ? r->mark_capacity * 2 : 4;
        bool first = r->marks == NULL;
        r->marks = xrealloc(r->marks, r->mark_capacity * sizeof(struct log_mark));
        if (first) {
            r->marks[0] = r->first_mark;
        }
    }
    *(r->marks != NULL ? &r->marks[r->mark_count] : &r->first_mark) =
        (struct log_mark){index, bytes};
    r->mark_count++;
}

static uint64_t bound(const struct replica *r)
{
    uint64_t most = r->e->o.compact_log_bytes, least = most / LEAST_BOUND;
    if (r->persistent) {
        return most;
    }
    if (r->snapshot_bytes >= most / LOG_PER_SNAPSHOT) {
        return most;
    }
    uint64_t b = r->snapshot_bytes * LOG_PER_SNAPSHOT; /* 0 until the first save */
    return b < least ? least : b;
}

static uint64_t tail(const struct replica *r)
{
    uint64_t t = bound(r) / TAIL_OF_BOUND, most = r->e->o.keep_log_bytes;
    return t < most ? t : most;
}

void engine__compact_later(struct replica *r)
{
    uint64_t b = bound(r);
    r->compact_at_bytes = r->log_bytes + (r->log_bytes > b ? r->log_bytes : b) / 2;
}

void engine__compact_boot(struct replica *r)
{
    uint64_t n = r->boot->raft.last_index - r->boot->raft.start_index;
    r->log_bytes = r->appended_bytes = r->boot->bytes;
    r->compact_at_bytes = bound(r);
    for (uint64_t i = 1; i <= BOOT_MARKS && n >= BOOT_MARKS; i++) {
        add_mark(r, r->boot->raft.start_index + n / BOOT_MARKS * i,
                 r->boot->bytes / BOOT_MARKS * i);
    }
}

void engine__compact_note_entries(struct replica *r, struct raft_entry *const *entries, size_t n)
{
    uint64_t step = bound(r) / MARKS_PER_LOG + 1;
    for (size_t i = 0; i < n; i++) {
        size_t size = raft_entry_size(entries[i]);
        r->log_bytes += size;
        r->appended_bytes += size;
        if (r->mark_count == 0 ||
            r->appended_bytes - mark_at(r, r->mark_count - 1)->bytes >= step) {
            add_mark(r, entries[i]->index, r->appended_bytes);
        }
    }
}

/* The newest mark up to `limit`, or -1. */
static ptrdiff_t find_mark(const struct replica *r, uint64_t limit)
{
    ptrdiff_t i = (ptrdiff_t)r->mark_count - 1;
    while (i >= 0 && mark_at(r, (size_t)i)->index > limit) {
        i--;
    }
    return i;
}

/* The index of the newest mark up to `limit` with enough of a tail behind it; 0 if there is
 * none. */
static uint64_t keep_point(const struct replica *r, uint64_t limit)
{
    ptrdiff_t i = find_mark(r, limit);
    while (i >= 0 && r->appended_bytes - mark_at(r, (size_t)i)->bytes < tail(r)) {
        i--;
    }
    return i >= 0 ? mark_at(r, (size_t)i)->index : 0;
}

/* Lower `*limit` to `from`, which a peer continues from; unless the log would be too large then:
 * the peer gets a snapshot instead. */
static void keep_from(const struct replica *r, uint64_t *limit, uint64_t from)
{
    if (from >= *limit || from + 1 < r->work->status.first_index) {
        return;
    }
    ptrdiff_t i = find_mark(r, from);
    uint64_t begin = i >= 0 ? mark_at(r, (size_t)i)->bytes : r->appended_bytes - r->log_bytes;
    if (r->appended_bytes - begin <= r->e->o.compact_log_bytes) {
        *limit = from;
    }
}

/* Lower `limit` to what live members still need, also after a snapshot that is being sent. */
static uint64_t needed_from(struct loop *l, struct replica *r, uint64_t limit)
{
    const struct raft_config *c = raft_config(r->core);
    if (work_of(r)->sending > 0) {
        keep_from(r, &limit, work_of(r)->sending_index);
    }
    for (uint32_t i = 0; r->led && i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        struct raft_peer_status peer;
        struct uuid host;
        memcpy(host.bytes, m->host, sizeof host.bytes);
        if (m->replica_id != r->replica_id && raft_peer(r->core, m->replica_id, &peer) &&
            peer.state != RAFT_SNAPSHOT && engine__loop_host(l, &host)->alive) {
            keep_from(r, &limit, peer.match);
        }
    }
    return limit;
}

void engine__compact_to(struct loop *l, struct replica *r, uint64_t index)
{
    uint64_t point = keep_point(r, needed_from(l, r, index));
    ASSERT(point <= index && index <= r->applied);
    r->compacting = false;
    engine__compact_later(r); /* even if this one drops nothing */
    if (point >= work_of(r)->status.first_index) {
        raft_compact(r->core, point);
        engine__loop_dirty(l, r);
    }
}

void engine__compact_started(struct replica *r, uint64_t start_index)
{
    uint32_t gone = 0;
    uint64_t bytes = r->appended_bytes - r->log_bytes;
    while (gone < r->mark_count && mark_at(r, gone)->index <= start_index) {
        bytes = mark_at(r, gone++)->bytes;
    }
    r->mark_count -= gone;
    if (gone > 0 && r->marks != NULL) {
        memmove(r->marks, r->marks + gone, r->mark_count * sizeof r->marks[0]);
    }
    if (work_of(r)->status.last_index <= start_index) {
        bytes = r->appended_bytes;
    }
    ASSERT(bytes <= r->appended_bytes);
    r->log_bytes = r->appended_bytes - bytes;
    uint64_t b = bound(r);
    if (r->log_bytes < b / 2) {
        r->compact_at_bytes = b;
    } else {
        engine__compact_later(r);
    }
}

void engine__compact_consider(struct loop *l, struct replica *r)
{
    if (r->log_bytes < r->compact_at_bytes || r->compacting || r->restoring ||
        work_of(r)->install != NULL) {
        return;
    }
    if (r->kind->witness) {
        engine__compact_to(l, r, r->applied);
        return;
    }
    if (!r->persistent && r->saving) {
        return;
    }
    ASSERT(!r->compacting && r->machine != NULL);
    r->compacting = true;
    if (!r->persistent) {
        engine__snapshot_start_save(l, r);
        return;
    }
    struct task *t = engine__task_new(TASK_FLUSH, r);
    if (!worker_post_internal(r->applier->w, &t->msg)) {
        engine__loop_discard(l, &t->msg);
    }
}
