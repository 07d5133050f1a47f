/* Open rows, which a command reads or edits, and the messages in them. */
#include "registry/rows/row.h"
#include "proto/decode.h"

#include <stdlib.h>
#include <string.h>
#include <upb/encode.h>

const upb_MiniTable *registry__row_table(enum row_kind kind)
{
    switch (kind) {
    case ROW_HOST:
        return &thole_v1_Host_msginit;
    case ROW_SHARD:
        return &thole_v1_Shard_msginit;
    case ROW_REPLICA:
        return &thole_v1_Replica_msginit;
    case ROW_POOL:
        return &thole_v1_ShardPool_msginit;
    case ROW_OPERATION:
        return &thole_v1_Operation_msginit;
    case ROW_ROLE:
        return &thole_v1_Role_msginit;
    case ROW_TOKEN:
        return &thole_registry_v1_StoredToken_msginit;
    case ROW_EVENT:
        return &thole_v1_Event_msginit;
    case ROW_REQUEST:
        return &thole_registry_v1_RememberedRequest_msginit;
    case ROW_MARKS:
        break;
    }
    return NULL;
}

/* ---- Open rows ------------------------------------------------------------------------------- */

void registry__scope_init(struct row_scope *d)
{
    *d = (struct row_scope){.arena = upb_Arena_New()};
    ASSERT(d->arena != NULL);
}

void registry__scope_deinit(struct row_scope *d)
{
    for (const struct held *h = d->held; h != NULL; h = h->next) {
        registry__packed_unref(h->row);
    }
    bytes_deinit(&d->scratch);
    upb_Arena_Free(d->arena);
}

void registry__scope_hold(struct row_scope *d, struct packed *p)
{
    struct held *h = upb_Arena_Malloc(d->arena, sizeof *h);
    ASSERT(h != NULL);
    *h = (struct held){.row = registry__packed_ref(p), .next = d->held};
    d->held = h;
}

struct row *registry__row_adopt(struct row_scope *d, enum row_kind kind, void *msg)
{
    struct row *row = upb_Arena_Malloc(d->arena, sizeof *row);
    ASSERT(row != NULL);
    *row = (struct row){.kind = kind, .arena = d->arena, .msg = msg};
    return row;
}

struct row *registry__row_new(struct row_scope *d, enum row_kind kind)
{
    return registry__row_adopt(d, kind, _upb_Message_New(registry__row_table(kind), d->arena));
}

static struct row *open_row(struct row_scope *d, struct packed *p, bool edit)
{
    enum row_kind kind = (enum row_kind)p->kind;
    struct row *row = registry__row_adopt(d, kind, NULL);
    registry__scope_hold(d, p);
    row->packed = edit ? NULL : p;
    if (kind == ROW_HOST || kind == ROW_REPLICA) {
        row->host_id = registry__packed_host(p);
    }
    row->msg = registry__packed_open(p, d->arena, edit);
    return row;
}

struct row *registry__open(struct row_scope *d, struct packed *p)
{
    return p == NULL ? NULL : open_row(d, p, false);
}

struct row *registry__row_copy(struct row_scope *d, const struct row *from)
{
    if (from->packed != NULL) {
        return open_row(d, from->packed, true);
    }
    struct row *row = registry__row_adopt(d, from->kind, NULL);
    row->msg = registry__message_copy(from->msg, registry__row_table(from->kind), d->arena);
    row->host_id = from->host_id;
    return row;
}

/* ---- Messages -------------------------------------------------------------------------------- */

struct slice registry__encode(const void *msg, const upb_MiniTable *table, upb_Arena *arena)
{
    char *bytes = NULL;
    size_t size = 0;
    upb_EncodeStatus status =
        upb_Encode(msg, table, kUpb_EncodeOption_Deterministic, arena, &bytes, &size);
    ASSERT(status == kUpb_EncodeStatus_Ok); /* only memory can be missing: the message is ours */
    return slice_of(bytes, size);
}

void *registry__message_copy(const void *msg, const upb_MiniTable *table, upb_Arena *arena)
{
    struct slice bytes = registry__encode(msg, table, arena);
    void *copy = proto_decode(table, bytes, true, arena, NULL);
    ASSERT(copy != NULL);
    return copy;
}

bool registry__message_equal(const void *a, const void *b, const upb_MiniTable *table,
                             upb_Arena *scratch)
{
    if (a == NULL || b == NULL) {
        return a == b;
    }
    return slice_equal(registry__encode(a, table, scratch), registry__encode(b, table, scratch));
}

upb_StringView registry__dup(upb_Arena *arena, struct slice s)
{
    if (s.size == 0) {
        return upb_StringView_FromDataAndSize(NULL, 0);
    }
    char *copy = upb_Arena_Malloc(arena, s.size);
    ASSERT(copy != NULL);
    memcpy(copy, s.data, s.size);
    return upb_StringView_FromDataAndSize(copy, s.size);
}

upb_StringView registry__dup_str(upb_Arena *arena, const char *s)
{
    return registry__dup(arena, slice_str(s));
}

void registry__trim_utf8(char *text)
{
    size_t size = strlen(text);
    size_t start = size;
    while (start > 0 && size - start < 3 && ((uint8_t)text[start - 1] & 0xc0u) == 0x80u) {
        start--;
    }
    if (start == 0) {
        return;
    }
    uint8_t lead = (uint8_t)text[start - 1];
    size_t need = lead >= 0xf0u ? 3 : lead >= 0xe0u ? 2 : lead >= 0xc0u ? 1 : 0;
    if (need != size - start) {
        text[lead >= 0xc0u ? start - 1 : start] = '\0';
    }
}

struct slice registry_str(upb_StringView s)
{
    return slice_of(s.data, s.size);
}

upb_StringView registry_view_of(struct slice s)
{
    return upb_StringView_FromDataAndSize((const char *)s.data, s.size);
}
