/* Log entries and messages as objects: creation, references and release. */
#include "shards/raft/raft.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

static struct raft_entry *new_entry(enum raft_entry_kind kind, struct slice id,
                                    struct bufslice payload)
{
    size_t size = payload.bytes.size;
    bool copied = size > 0 && (size <= RAFT_ENTRY_COPIED_BYTES || payload.owner == NULL);
    struct raft_entry *e = xmalloc(sizeof *e + id.size + (copied ? size : 0));

    ASSERT(id.size <= LIMIT_REQUEST_ID_BYTES);
    *e = (struct raft_entry){
        .kind = (uint8_t)kind,
        .id_size = (uint8_t)id.size,
        .payload = payload,
    };
    atomic_init(&e->refs, 1);
    if (id.size > 0) {
        memcpy(e->copied, id.data, id.size);
    }
    if (copied) {
        memcpy(e->copied + id.size, payload.bytes.data, size);
        e->payload = (struct bufslice){.bytes = slice_of(e->copied + id.size, size)};
        bufslice_unref(payload);
    }
    return e;
}

struct raft_entry *raft_entry_new(enum raft_entry_kind kind, uint64_t session, uint64_t sequence,
                                  struct bufslice payload)
{
    struct raft_entry *e = new_entry(kind, (struct slice){0}, payload);
    e->session = session;
    e->sequence = sequence;
    return e;
}

struct raft_entry *raft_entry_new_with_id(struct slice id, struct bufslice payload)
{
    return new_entry(RAFT_ENTRY_COMMAND, id, payload);
}

struct raft_entry *raft_entry_ref(struct raft_entry *e)
{
    /* Relaxed: the hand-over of the entry to this thread already made its contents visible. */
    uint32_t before = atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
    ASSERT(before > 0 && before < UINT32_MAX);
    return e;
}

void raft_entry_unref(struct raft_entry *e)
{
    if (e == NULL) {
        return;
    }
    uint32_t before = atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1) {
        bufslice_unref(e->payload);
        free(e);
    }
}

void raft_message_deinit(struct raft_message *m)
{
    if (m == NULL || m->entry_count == 0) {
        return; /* with no entries there is no array of ours either */
    }
    for (uint32_t i = 0; i < m->entry_count; i++) {
        raft_entry_unref(m->entries[i]);
    }
    free(m->entries);
    m->entries = NULL;
    m->entry_count = 0;
}
