/* Packed rows: immutable, reference-counted, one allocation each. pack.c packs the message. The
 * keys of a row can be read without opening it. */
#include "registry/rows/row.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* A row that is not packed: its kind is rare, or it does not fit into the buffer of its kind. */
struct whole {
    const void *msg;  /* in this allocation, or in the arena */
    upb_Arena *arena; /* or NULL */
    struct uuid host;
    uint64_t sequence;
};

/* Size of the buffer of this kind; 0: rows of this kind are not packed. */
static size_t room_of(enum row_kind kind)
{
    return kind == ROW_SHARD     ? sizeof(struct registry_shard_buf)
           : kind == ROW_REPLICA ? sizeof(struct registry_replica_buf)
           : kind == ROW_EVENT   ? sizeof(struct registry_event_buf)
           : kind == ROW_REQUEST ? sizeof(struct request_buf)
                                 : 0;
}

static bool has_sequence(enum row_kind kind)
{
    return kind == ROW_EVENT || kind == ROW_REQUEST;
}

static const struct whole *whole_of(const struct packed *p)
{
    return (const struct whole *)(const void *)p->data;
}

/* The packed message. */
static const uint8_t *body_of(const struct packed *p)
{
    return p->data + (has_sequence((enum row_kind)p->kind) ? sizeof(uint64_t) : 0);
}

static bool has_field(const uint8_t *body, unsigned index)
{
    return (body[index / 8] >> index % 8 & 1) != 0;
}

struct packed *registry__packed_new(enum row_kind kind, size_t data_bytes)
{
    struct packed *p = xmalloc(sizeof *p + data_bytes);
    atomic_init(&p->refs, 1);
    p->kind = (uint8_t)kind;
    p->whole = false;
    p->tag = 0;
    return p;
}

static struct packed *keep_whole(const struct row *row, struct bytes *scratch)
{
    const upb_MiniTable *table = registry__row_table(row->kind);
    size_t opened = 0;
    bool possible = registry__can_pack(row->msg, table, false, &opened);
    bytes_clear(scratch);
    if (possible) {
        registry__pack(scratch, row->msg, table, false);
    }
    size_t bytes = possible ? opened + scratch->size : 0;
    struct packed *p = registry__packed_new(row->kind, sizeof(struct whole) + bytes);
    struct whole *w = (struct whole *)(void *)p->data;
    p->whole = true;
    p->tag = row->kind == ROW_EVENT ? registry__event_tag(row->event) : 0;
    *w = (struct whole){.host = row->host_id, .sequence = row->sequence};
    if (possible) {
        uint8_t *to = p->data + sizeof *w;
        memcpy(to + opened, scratch->data, scratch->size);
        struct opening o = {.from = to + opened, .to = to, .room = opened};
        w->msg = registry__open_message(&o, table);
    } else {
        w->arena = upb_Arena_New();
        ASSERT(w->arena != NULL);
        w->msg = registry__message_copy(row->msg, table, w->arena);
    }
    return p;
}

uint16_t registry__event_tag(const thole_v1_Event *e)
{
    upb_StringView reason = thole_v1_Event_reason(e);
    upb_StringView object = thole_v1_Event_object(e);
    uint64_t hash = hash64(object.data, object.size, hash64(reason.data, reason.size, 0));
    return (uint16_t)hash;
}

struct packed *registry__row_pack(const struct row *row, struct bytes *scratch)
{
    const upb_MiniTable *table = registry__row_table(row->kind);
    size_t opened = 0;
    bool plain = row->kind != ROW_REPLICA ||
                 thole_v1_Replica_host_id(row->replica).size == UUID_TEXT_BYTES - 1;
    if (room_of(row->kind) == 0 || !plain || !registry__can_pack(row->msg, table, true, &opened) ||
        opened > room_of(row->kind)) {
        return keep_whole(row, scratch);
    }
    bytes_clear(scratch);
    if (has_sequence(row->kind)) {
        bytes_append(scratch, &row->sequence, sizeof row->sequence);
    }
    registry__pack(scratch, row->msg, table, true);
    struct packed *p = registry__packed_new(row->kind, scratch->size);
    memcpy(p->data, scratch->data, scratch->size);
    p->tag = row->kind == ROW_EVENT ? registry__event_tag(row->event) : 0;
    return p;
}

struct packed *registry__packed_ref(struct packed *p)
{
    uint32_t refs = atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    ASSERT(refs > 0);
    return p;
}

void registry__packed_unref(struct packed *p)
{
    if (p == NULL || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    if (p->whole && whole_of(p)->arena != NULL) {
        upb_Arena_Free(whole_of(p)->arena);
    } else if (!p->whole && p->kind != ROW_MARKS) {
        const uint8_t *from = body_of(p);
        registry__give_back(&from, registry__row_table((enum row_kind)p->kind));
    }
    free(p);
}

const void *registry__packed_message(const struct packed *p, void *buf)
{
    if (p == NULL || p->whole) {
        return p == NULL ? NULL : whole_of(p)->msg;
    }
    struct opening o = {
        .from = body_of(p), .to = buf, .room = room_of((enum row_kind)p->kind), .sharing = true};
    return registry__open_message(&o, registry__row_table((enum row_kind)p->kind));
}

void *registry__packed_open(const struct packed *p, upb_Arena *arena, bool edit)
{
    const upb_MiniTable *table = registry__row_table((enum row_kind)p->kind);
    struct opening o = {.from = body_of(p), .arena = arena, .sharing = true, .edit = edit};
    if (!p->whole) {
        return registry__open_message(&o, table);
    }
    return edit ? registry__message_copy(whole_of(p)->msg, table, arena)
                : (void *)(uintptr_t)whole_of(p)->msg; /* NOLINT: only copies are edited */
}

/* ---- What orders them ------------------------------------------------------------------------ */

/* Keys are read by position: the first fields of each kind are those of the proto files.
 * test_registry_pack.c checks that. */

static bool is_shared(const struct packed *p, unsigned index, size_t size)
{
    const upb_MiniTable *table = registry__row_table((enum row_kind)p->kind);
    return registry__shares_string(table, &table->fields[index], size);
}

/* The first field, which is a string. */
static struct slice first_string(const struct packed *p, const uint8_t **ret_next)
{
    size_t size = has_field(body_of(p), 0) ? registry__packed_number(ret_next) : 0;
    if (!is_shared(p, 0, size)) {
        struct slice s = slice_of(*ret_next, size);
        *ret_next += size;
        return s;
    }
    return slice_of(registry__packed_reference(ret_next)->content, size);
}

static const uint8_t *after_bitmap(const struct packed *p)
{
    const upb_MiniTable *table = registry__row_table((enum row_kind)p->kind);
    return body_of(p) + (table->field_count + 7u) / 8;
}

static uint64_t number_if(const uint8_t *body, unsigned index, const uint8_t **from)
{
    return has_field(body, index) ? registry__packed_number(from) : 0;
}

struct slice registry__packed_name(const struct packed *p)
{
    const void *msg = p->whole ? whole_of(p)->msg : NULL;
    if (msg == NULL) {
        ASSERT(p->kind == ROW_SHARD || p->kind == ROW_REQUEST);
        const uint8_t *from = after_bitmap(p);
        return first_string(p, &from);
    }
    return registry_str(
        p->kind == ROW_HOST      ? thole_v1_Host_name(msg)
        : p->kind == ROW_SHARD   ? thole_v1_Shard_name(msg)
        : p->kind == ROW_POOL    ? thole_v1_ShardPool_name(msg)
        : p->kind == ROW_ROLE    ? thole_v1_Role_name(msg)
        : p->kind == ROW_TOKEN   ? thole_v1_Token_id(thole_registry_v1_StoredToken_token(msg))
        : p->kind == ROW_REQUEST ? thole_registry_v1_RememberedRequest_request_id(msg)
                                 : (upb_StringView){0});
}

uint64_t registry__packed_id(const struct packed *p)
{
    uint64_t sequence;
    const void *msg = p->whole ? whole_of(p)->msg : NULL;
    switch ((enum row_kind)p->kind) {
    case ROW_HOST:
    case ROW_POOL:
    case ROW_ROLE:
    case ROW_TOKEN:
        return 0;
    case ROW_OPERATION:
        return thole_v1_Operation_id(whole_of(p)->msg);
    case ROW_EVENT:
    case ROW_REQUEST:
        if (msg != NULL) {
            return whole_of(p)->sequence;
        }
        break;
    case ROW_SHARD:
    case ROW_REPLICA: {
        if (msg != NULL) {
            return p->kind == ROW_SHARD ? thole_v1_Shard_id(msg) : thole_v1_Replica_id(msg);
        }
        const uint8_t *from = after_bitmap(p);
        if (p->kind == ROW_SHARD) {
            (void)first_string(p, &from);
        }
        return number_if(body_of(p), p->kind == ROW_SHARD ? 1 : 0, &from);
    }
    case ROW_MARKS:
        break;
    }
    memcpy(&sequence, p->data, sizeof sequence);
    return sequence;
}

uint64_t registry__packed_shard(const struct packed *p)
{
    ASSERT(p->kind == ROW_REPLICA);
    if (p->whole) {
        return thole_v1_Replica_shard_id(whole_of(p)->msg);
    }
    const uint8_t *from = after_bitmap(p);
    (void)number_if(body_of(p), 0, &from);
    return number_if(body_of(p), 1, &from);
}

struct uuid registry__packed_host(const struct packed *p)
{
    ASSERT(p->kind == ROW_HOST || p->kind == ROW_REPLICA);
    if (p->whole) {
        return whole_of(p)->host;
    }
    const uint8_t *body = body_of(p);
    const uint8_t *from = after_bitmap(p);
    (void)number_if(body, 0, &from);
    (void)number_if(body, 1, &from);
    size_t name = number_if(body, 2, &from);
    from += is_shared(p, 2, name) ? REGISTRY_REFERENCE_BYTES : name;
    (void)registry__packed_number(&from); /* the size */
    return registry__packed_reference(&from)->uuid;
}

uint64_t registry__packed_revision(const struct packed *p)
{
    if (p->kind == ROW_MARKS) {
        return registry__marks_last(p);
    }
    ASSERT(p->kind == ROW_EVENT);
    if (p->whole) {
        return thole_v1_Event_revision(whole_of(p)->msg);
    }
    const uint8_t *from = after_bitmap(p);
    return number_if(body_of(p), 0, &from);
}
