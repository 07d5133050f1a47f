/* A loop's batch for the writer: one update per replica, merged from all its harvests. */
#include <stdlib.h>

#include "shards/engine/engine_internal.h"

struct write_batch *engine__write_batch_new(struct loop *l)
{
    struct write_batch *b = xcalloc(1, sizeof *b);
    b->msg.kind = MSG_WRITE;
    b->loop = l;
    return b;
}

static void drop_entries(struct write_update *w, size_t from)
{
    for (size_t i = from; i < w->entry_count; i++) {
        raft_entry_unref(w->entries[i]);
    }
    if (from < w->entry_count) {
        w->entry_count = from;
    }
}

void engine__write_batch_free(struct write_batch *b)
{
    if (b == NULL) {
        return;
    }
    for (size_t i = 0; i < b->count; i++) {
        struct write_update *w = &b->updates[i];
        drop_entries(w, 0);
        free(w->entries);
        bytes_deinit(&w->config);
        ASSERT(w->control == NULL);
        replica_unref(w->r);
    }
    free(b->updates);
    free(b);
}

struct write_update *engine__write_batch_add(struct write_batch *b, struct replica *r)
{
    ASSERT(worker_is_current(b->loop->w) && (r == NULL || r->loop == b->loop));
    ASSERT(b != b->loop->in_flight);
    if (b->count == b->capacity) {
        b->capacity = b->capacity ? b->capacity * 2 : 16;
        b->updates = xrealloc(b->updates, b->capacity * sizeof b->updates[0]);
    }
    if (r != NULL) {
        work_of(r)->update_batch = b;
        work_of(r)->update_slot = b->count;
    }
    struct write_update *w = &b->updates[b->count++];
    *w = (struct write_update){0};
    w->r = r != NULL ? replica_ref(r) : NULL;
    w->u.replica_id = r != NULL ? r->replica_id : 0;
    return w;
}

static void merge_start(struct replica *r, struct write_update *w, const struct raft_update *u)
{
    if (u->snapshot) {
        ASSERT(work_of(r)->install != NULL && !w->install);
        drop_entries(w, 0);
        w->install = true;
        w->u.start_reset = true;
    }
    w->u.has_start = true;
    w->u.start_index = u->log_start_index;
    w->u.start_term = u->log_start_term;
    w->u.start_stamp = u->log_start_stamp;
    w->u.machine_generation = r->generation + (w->install ? 1 : 0);
    bytes_clear(&w->config);
    raft_config_encode(u->log_start_config, &w->config);
}

static bool is_contiguous(const struct write_update *w)
{
    for (size_t i = 1; i < w->entry_count; i++) {
        if (w->entries[i]->index != w->entries[i - 1]->index + 1 ||
            w->entries[i]->term < w->entries[i - 1]->term) {
            return false;
        }
    }
    return true;
}

static void merge_entries(struct write_update *w, const struct raft_update *u)
{
    if (u->entry_count == 0) {
        return;
    }
    uint64_t first = u->entries[0]->index;
    if (w->entry_count > 0) {
        uint64_t base = w->entries[0]->index;
        drop_entries(w, first <= base ? 0 : (size_t)(first - base));
        ASSERT(w->entry_count == 0 || w->entries[w->entry_count - 1]->index + 1 == first);
        ASSERT(w->entry_count == 0 || w->entries[w->entry_count - 1]->term <= u->entries[0]->term);
    }
    size_t need = w->entry_count + u->entry_count;
    if (need > w->entry_capacity) {
        w->entry_capacity = need * 2;
        w->entries = xrealloc(w->entries, w->entry_capacity * sizeof(struct raft_entry *));
    }
    for (size_t i = 0; i < u->entry_count; i++) {
        w->entries[w->entry_count++] = raft_entry_ref(u->entries[i]);
    }
    ASSERT_SLOW(is_contiguous(w));
}

void engine__write_batch_merge(struct loop *l, struct replica *r, const struct raft_update *u)
{
    if (l->next == NULL) {
        l->next = engine__write_batch_new(l);
    }
    struct write_update *w = work_of(r)->update_batch == l->next
                                 ? &l->next->updates[work_of(r)->update_slot]
                                 : engine__write_batch_add(l->next, r);
    ASSERT(w->r == r && !w->u.remove);
    ASSERT(u->persist > w->token && u->persist > work_of(r)->merged_token);
    w->token = work_of(r)->merged_token = u->persist;
    w->u.has_hard = true;
    w->u.hard = u->hard;
    if (u->log_start_changed || u->snapshot) {
        merge_start(r, w, u);
    }
    merge_entries(w, u);
    engine__compact_note_entries(r, u->entries, u->entry_count);
}
