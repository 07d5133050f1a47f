/* When and how far a log is cut: only below what is durable in the machine or a snapshot, and with
 * a tail kept for slow followers. Marks tell where in the log how many bytes were reached. */
#include <stdlib.h>
#include <string.h>

#include "shards/engine/engine_internal.h"

#define MARKS_PER_LOG 64 /* a log about to be compacted has this many */
#define BOOT_MARKS 16    /* for what was in the log at start, assuming equal sizes */

static void add_mark(struct replica *r, uint64_t index, uint64_t bytes)
{
    while (r->mark_count > 0 && r->marks[r->mark_count - 1].index >= index)
        r->mark_count--; /* the tail was replaced */
    if (r->mark_count == r->mark_capacity) {
        r->mark_capacity = r->mark_capacity ? r->mark_capacity * 2 : 2; /* an idle log needs one */
        r->marks = xrealloc(r->marks, r->mark_capacity * sizeof(r->marks[0]));
    }
    r->marks[r->mark_count++] = (struct log_mark){index, bytes};
}

void compact_boot(struct replica *r)
{
    uint64_t n = r->boot->raft.last_index - r->boot->raft.start_index;
    r->log_bytes = r->appended_bytes = r->boot->bytes;
    r->compact_at_bytes = r->e->o.compact_log_bytes;
    for (uint64_t i = 1; i <= BOOT_MARKS && n >= BOOT_MARKS; i++)
        add_mark(r, r->boot->raft.start_index + n / BOOT_MARKS * i,
                 r->boot->bytes / BOOT_MARKS * i);
}

void compact_note_entries(struct replica *r, struct raft_entry *const *entries, size_t n)
{
    uint64_t step = r->e->o.compact_log_bytes / MARKS_PER_LOG + 1;
    for (size_t i = 0; i < n; i++) {
        size_t size = raft_entry_size(entries[i]);
        r->log_bytes += size;
        r->appended_bytes += size;
        if (r->mark_count == 0 || r->appended_bytes - r->marks[r->mark_count - 1].bytes >= step)
            add_mark(r, entries[i]->index, r->appended_bytes);
    }
}

/* The newest mark that leaves the tail to keep behind it; 0 if there is none. */
static uint64_t keep_point(const struct replica *r, uint64_t limit)
{
    for (size_t i = r->mark_count; i-- > 0;)
        if (r->marks[i].index <= limit &&
            r->appended_bytes - r->marks[i].bytes >= r->e->o.keep_log_bytes)
            return r->marks[i].index;
    return 0;
}

void compact_to(struct loop *l, struct replica *r, uint64_t index)
{
    uint64_t point = keep_point(r, index);
    r->compacting = false;
    /* Not again before the log has grown by half, whether or not this one achieves something. */
    r->compact_at_bytes = r->log_bytes + r->e->o.compact_log_bytes / 2;
    if (point >= r->status.first_index) {
        raft_compact(r->core, point);
        loop_dirty(l, r);
    }
}

void compact_started(struct replica *r, uint64_t start_index)
{
    size_t gone = 0;
    uint64_t bytes = r->appended_bytes - r->log_bytes;
    while (gone < r->mark_count && r->marks[gone].index <= start_index)
        bytes = r->marks[gone++].bytes;
    r->mark_count -= gone;
    if (gone > 0)
        memmove(r->marks, r->marks + gone, r->mark_count * sizeof(r->marks[0]));
    if (r->status.last_index <= start_index)
        bytes = r->appended_bytes;
    r->log_bytes = r->appended_bytes - bytes;
    uint64_t limit = r->e->o.compact_log_bytes;
    r->compact_at_bytes = r->log_bytes < limit / 2 ? limit : r->log_bytes + limit / 2;
}

void compact_consider(struct loop *l, struct replica *r)
{
    if (r->log_bytes < r->compact_at_bytes || r->compacting || r->restoring || r->install)
        return;
    if (r->witness) {
        compact_to(l, r, r->applied);
        return;
    }
    if (!r->persistent && r->saving)
        return;
    r->compacting = true;
    if (!r->persistent) {
        snapshot_start_save(l, r);
        return;
    }
    struct task *t = task_new(TASK_FLUSH, r);
    if (!worker_post_internal(r->applier->w, &t->msg))
        loop_discard(l, &t->msg);
}
