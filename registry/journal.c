/* The journal: which rows changed at which revision, newest last. A mark is a few bytes: its kind,
 * the revision and the key of the changed row. 64 marks form a row of the journal's tree:
 * [sequence][revision of the last][bytes of each mark]. Dropping the oldest row drops all its
 * marks. */
#include "registry/registry_internal.h"

#include <string.h>

#define MARKS_MAX REGISTRY_JOURNAL_ROW_MARKS
#define GONE 0x80u

_Static_assert(REGISTRY_JOURNAL_MAX % MARKS_MAX == 0, "whole rows");

struct marks {
    uint64_t sequence; /* where packed rows have it */
    uint64_t last;     /* revision */
    uint32_t size;
    uint32_t count;
    uint8_t bytes[];
};

static const struct marks *marks_of(const struct packed *p)
{
    return (const struct marks *)(const void *)p->data;
}

uint64_t registry__marks_last(const struct packed *p)
{
    return marks_of(p)->last;
}

bool registry__is_found_by_name(enum row_kind kind)
{
    return kind == ROW_POOL || kind == ROW_ROLE || kind == ROW_TOKEN;
}

static void put_mark(struct bytes *out, const struct mark *m)
{
    uint8_t kind = (uint8_t)(m->kind | (m->gone ? GONE : 0));
    ASSERT(m->kind < ROW_RESOURCES &&
           ((m->gone || registry__is_found_by_name(m->kind)) == (m->name.size > 0)));
    bytes_append(out, &kind, 1);
    bytes_append_varint(out, m->revision);
    if (m->gone || registry__is_found_by_name(m->kind)) {
        bytes_append_varint(out, m->name.size);
        bytes_append_slice(out, m->name);
    } else if (m->kind == ROW_HOST) {
        bytes_append(out, m->host_id.bytes, sizeof m->host_id.bytes);
    } else {
        bytes_append_varint(out, m->id);
    }
}

static void take_mark(const uint8_t **from, struct mark *m)
{
    uint8_t kind = *(*from)++;
    *m = (struct mark){.kind = (enum row_kind)(kind & ~GONE), .gone = (kind & GONE) != 0};
    m->revision = registry__packed_number(from);
    if (m->gone || registry__is_found_by_name(m->kind)) {
        size_t size = registry__packed_number(from);
        m->name = slice_of(*from, size);
        *from += size;
    } else if (m->kind == ROW_HOST) {
        memcpy(m->host_id.bytes, *from, sizeof m->host_id.bytes);
        *from += sizeof m->host_id.bytes;
    } else {
        m->id = registry__packed_number(from);
    }
}

void registry__journal_add(struct state *s, const struct mark *mark)
{
    struct node **root = &s->index[INDEX_JOURNAL];
    struct bytes *scratch = &s->scope->scratch;
    struct key end = registry__key_id(s->journal_next);
    const struct packed *newest = registry__tree_before(*root, &end);
    const struct marks *before = newest == NULL ? NULL : marks_of(newest);
    struct marks head = {.last = mark->revision};
    ASSERT(before == NULL || (before->count <= MARKS_MAX && before->last <= mark->revision));
    bytes_clear(scratch);
    if (before != NULL && before->count < MARKS_MAX) {
        head.sequence = before->sequence;
        head.count = before->count;
        bytes_append(scratch, before->bytes, before->size);
    } else {
        head.sequence = s->journal_next++;
    }
    put_mark(scratch, mark);
    head.count++;
    head.size = (uint32_t)scratch->size;
    struct packed *row = registry__packed_new(ROW_MARKS, sizeof head + scratch->size);
    memcpy(row->data, &head, sizeof head);
    memcpy(row->data + sizeof head, scratch->data, scratch->size);
    registry__tree_put(root, INDEX_JOURNAL, row);
    registry__packed_unref(row);
    if (registry__tree_count(*root) > REGISTRY_JOURNAL_ROWS_MAX) {
        const struct packed *oldest = registry__tree_first(*root);
        struct key key = registry__packed_key(INDEX_JOURNAL, oldest);
        s->compacted_revision = marks_of(oldest)->last > s->compacted_revision
                                    ? marks_of(oldest)->last
                                    : s->compacted_revision;
        registry__tree_remove(root, &key);
    }
}

void registry__journal_since(const struct state *s, uint64_t revision,
                             void (*each)(void *ctx, const struct mark *mark), void *ctx)
{
    const struct node *root = s->index[INDEX_JOURNAL];
    const struct packed *row = registry__tree_after_revision(root, revision);
    while (row != NULL) {
        const uint8_t *from = marks_of(row)->bytes;
        for (uint32_t i = 0; i < marks_of(row)->count; i++) {
            struct mark mark;
            take_mark(&from, &mark);
            if (mark.revision > revision) {
                each(ctx, &mark);
            }
        }
        struct key key = registry__packed_key(INDEX_JOURNAL, row);
        row = registry__tree_after(root, &key);
    }
}
