/* Rows: one message in an arena of its own, immutable once it is in a tree. */
#include "registry/registry_internal.h"

#include <stdlib.h>
#include <string.h>
#include <upb/decode.h>
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
    case ROW_EVENT:
        return &thole_v1_Event_msginit;
    case ROW_REQUEST:
        return &thole_registry_v1_RememberedRequest_msginit;
    case ROW_MARK:
        break;
    }
    return NULL;
}

struct row *registry__row_adopt(enum row_kind kind, void *msg, upb_Arena *arena)
{
    struct row *row = xcalloc(1, sizeof(*row));
    atomic_init(&row->refs, 1);
    row->kind = (uint8_t)kind;
    row->msg = msg;
    row->arena = arena;
    return row;
}

struct row *registry__row_new(enum row_kind kind)
{
    const upb_MiniTable *table = registry__row_table(kind);
    if (table == NULL) {
        return registry__row_adopt(kind, NULL, NULL);
    }
    upb_Arena *arena = upb_Arena_New();
    ASSERT(arena != NULL);
    return registry__row_adopt(kind, _upb_Message_New(table, arena), arena);
}

struct row *registry__row_copy(const struct row *from)
{
    ASSERT(from->kind < ROW_RESOURCES);
    upb_Arena *arena = upb_Arena_New();
    ASSERT(arena != NULL);
    void *msg = registry__message_copy(from->msg, registry__row_table(from->kind), arena);
    struct row *row = registry__row_adopt(from->kind, msg, arena);
    row->host_id = from->host_id;
    return row;
}

struct row *registry__row_ref(struct row *row)
{
    atomic_fetch_add_explicit(&row->refs, 1, memory_order_relaxed);
    return row;
}

void registry__row_unref(struct row *row)
{
    if (row == NULL || atomic_fetch_sub_explicit(&row->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    registry__row_free_message(row);
    free(row);
}

struct slice registry__encode(const void *msg, const upb_MiniTable *table, upb_Arena *arena)
{
    char *bytes = NULL;
    size_t size = 0;
    upb_EncodeStatus status =
        upb_Encode(msg, table, kUpb_EncodeOption_Deterministic, arena, &bytes, &size);
    ASSERT(status ==
           kUpb_EncodeStatus_Ok); /* it was decoded or built by us: only memory can fail */
    return slice_of(bytes, size);
}

void *registry__message_copy(const void *msg, const upb_MiniTable *table, upb_Arena *arena)
{
    struct slice bytes = registry__encode(msg, table, arena);
    void *copy = _upb_Message_New(table, arena);
    upb_DecodeStatus status = upb_Decode((const char *)bytes.data, bytes.size, copy, table, NULL,
                                         kUpb_DecodeOption_AliasString, arena);
    ASSERT(status == kUpb_DecodeStatus_Ok);
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

bool registry__parse_uuid(upb_StringView text, struct uuid *ret)
{
    char copy[UUID_TEXT_BYTES];
    if (text.size != UUID_TEXT_BYTES - 1) {
        return false;
    }
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    return uuid_parse(copy, ret) && !uuid_is_nil(ret);
}
