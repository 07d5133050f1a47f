/* Packed rows: a message, with all that it points to, copied into one allocation of just its size.
 *
 * A message in an arena takes whole blocks of it, and the arena more than the message. Tens of
 * thousands of rows never change again for most of their life. What a packed message looks like is
 * what upb's accessors expect: structs first, in 8-byte steps, then the bytes of all strings. What many
 * rows have in common is not in there, but in share.c. */
#include "registry/registry_internal.h"

#include <stdlib.h>
#include <string.h>

struct packing {
    uint8_t *structs, *strings; /* where the next ones go; NULL: only measure */
    size_t struct_bytes, string_bytes;
    bool possible; /* no unknown fields, maps or oneofs: rows that have them are few */
    bool whole;    /* nothing is shared: this is itself what others share */
    upb_Arena *scratch;
};

static void *take_struct(struct packing *p, size_t size)
{
    size = (size + 7) & ~(size_t)7;
    void *ret = p->structs;
    p->struct_bytes += size;
    if (p->structs != NULL) {
        p->structs += size;
    }
    return ret;
}

static upb_StringView pack_string(struct packing *p, upb_StringView from)
{
    upb_StringView to = {.data = (const char *)p->strings, .size = from.size};
    if (!p->whole && registry__shares_string(from)) {
        to.data = p->structs == NULL ? NULL : registry__share_string(from);
        return to;
    }
    p->string_bytes += from.size;
    if (p->strings != NULL && from.size > 0) {
        memcpy(p->strings, from.data, from.size);
        p->strings += from.size;
    }
    return to;
}

static bool is_string(const upb_MiniTable_Field *f)
{
    return f->descriptortype == kUpb_FieldType_String || f->descriptortype == kUpb_FieldType_Bytes;
}

static void *pack_message(struct packing *p, const void *from, const upb_MiniTable *table);

static const void *pack_sub(struct packing *p, const void *from, const upb_MiniTable *table)
{
    if (p->whole || !registry__shares(table)) {
        return pack_message(p, from, table);
    }
    if (p->structs != NULL) {
        return registry__share(from, table, p->scratch);
    }
    struct packing measured = {.possible = true, .whole = true};
    (void)pack_message(&measured, from, table);
    p->possible = p->possible && measured.possible;
    return NULL;
}

static upb_Array *pack_array(struct packing *p, const upb_Array *from, const upb_MiniTable_Field *f,
                             const upb_MiniTable *table)
{
    int size_log2 = (int)(from->data & 7);
    size_t bytes = from->len << size_log2;
    const void *elements = _upb_array_constptr(from);
    upb_Array *to = take_struct(p, sizeof(*to));
    uint8_t *into = take_struct(p, bytes);
    if (to != NULL) {
        to->data = _upb_tag_arrptr(into, size_log2);
        to->len = from->len;
        to->size = from->len;
        if (bytes > 0) {
            memcpy(into, elements, bytes);
        }
    }
    for (size_t i = 0; i < from->len; i++) {
        if (is_string(f)) {
            upb_StringView s = pack_string(p, ((const upb_StringView *)elements)[i]);
            if (into != NULL) {
                memcpy(into + i * sizeof(s), &s, sizeof(s));
            }
        } else if (f->descriptortype == kUpb_FieldType_Message) {
            const void *m = pack_sub(p, ((const void *const *)elements)[i],
                                     table->subs[f->submsg_index].submsg);
            if (into != NULL) {
                memcpy(into + i * sizeof(m), &m, sizeof(m));
            }
        }
    }
    return to;
}

static void pack_field(struct packing *p, const void *from, void *to, const upb_MiniTable *table,
                       const upb_MiniTable_Field *f)
{
    const void *at = (const uint8_t *)from + f->offset;
    void *into = to == NULL ? NULL : (uint8_t *)to + f->offset;
    upb_FieldMode mode = upb_FieldMode_Get(f);
    if (mode == kUpb_FieldMode_Map || f->presence < 0) {
        p->possible = false;
    } else if (mode == kUpb_FieldMode_Array) {
        const upb_Array *have = *(const upb_Array *const *)at;
        const upb_Array *copy = have == NULL ? NULL : pack_array(p, have, f, table);
        if (into != NULL) {
            *(const upb_Array **)into = copy;
        }
    } else if (is_string(f)) {
        upb_StringView copy = pack_string(p, *(const upb_StringView *)at);
        if (into != NULL) {
            memcpy(into, &copy, sizeof(copy));
        }
    } else if (f->descriptortype == kUpb_FieldType_Message) {
        const void *have = *(const void *const *)at;
        const void *copy =
            have == NULL ? NULL : pack_sub(p, have, table->subs[f->submsg_index].submsg);
        if (into != NULL) {
            memcpy(into, &copy, sizeof(copy));
        }
    }
}

/* Recursion is as deep as the type of the message, which is fixed. */
static void *pack_message(struct packing *p, const void *from, const upb_MiniTable *table)
{
    const upb_Message_Internal *before = (const upb_Message_Internal *)from - 1;
    upb_Message_Internal *head = take_struct(p, sizeof(*head) + table->size);
    void *to = head == NULL ? NULL : head + 1;
    p->possible = p->possible && before->internal == NULL;
    if (to != NULL) {
        head->internal = NULL;
        memcpy(to, from, table->size);
    }
    for (uint16_t i = 0; i < table->field_count && p->possible; i++) {
        pack_field(p, from, to, table, &table->fields[i]);
    }
    return to;
}

struct packed_size registry__packed_size(const void *msg, const upb_MiniTable *table)
{
    struct packing p = {.possible = true, .whole = true};
    (void)pack_message(&p, msg, table);
    return (struct packed_size){p.struct_bytes, p.string_bytes};
}

void *registry__pack_into(uint8_t *to, struct packed_size size, const void *msg,
                          const upb_MiniTable *table)
{
    struct packing p = {
        .structs = to, .strings = to + size.structs, .possible = true, .whole = true};
    return pack_message(&p, msg, table);
}

void registry__row_pack(struct row *row)
{
    if (row->arena == NULL) {
        return;
    }
    const upb_MiniTable *table = registry__row_table(row->kind);
    struct packing measured = {.possible = true};
    (void)pack_message(&measured, row->msg, table);
    if (!measured.possible) {
        return;
    }
    uint8_t *to = xmalloc(measured.struct_bytes + measured.string_bytes);
    struct packing p = {.structs = to,
                        .strings = to + measured.struct_bytes,
                        .possible = true,
                        .scratch = row->arena};
    void *msg = pack_message(&p, row->msg, table);
    ASSERT(p.struct_bytes == measured.struct_bytes && p.string_bytes == measured.string_bytes);
    upb_Arena_Free(row->arena);
    row->arena = NULL;
    row->msg = msg;
}

static void give_back(const void *msg, const upb_MiniTable *table);

static void give_back_sub(const void *msg, const upb_MiniTable *table)
{
    if (registry__shares(table)) {
        registry__unshare(msg);
    } else {
        give_back(msg, table);
    }
}

static void give_back_string(upb_StringView s)
{
    if (registry__shares_string(s)) {
        registry__unshare_string(s.data);
    }
}

/* What a packed message shares with others. */
static void give_back(const void *msg, const upb_MiniTable *table)
{
    for (uint16_t i = 0; i < table->field_count; i++) {
        const upb_MiniTable_Field *f = &table->fields[i];
        const void *at = (const uint8_t *)msg + f->offset;
        bool is_message = f->descriptortype == kUpb_FieldType_Message;
        if (!is_message && !is_string(f)) {
            continue;
        }
        if (upb_FieldMode_Get(f) == kUpb_FieldMode_Array) {
            const upb_Array *array = *(const upb_Array *const *)at;
            const void *elements = array == NULL ? NULL : _upb_array_constptr(array);
            for (size_t k = 0; array != NULL && k < array->len; k++) {
                if (is_message) {
                    give_back_sub(((const void *const *)elements)[k],
                                  table->subs[f->submsg_index].submsg);
                } else {
                    give_back_string(((const upb_StringView *)elements)[k]);
                }
            }
        } else if (!is_message) {
            give_back_string(*(const upb_StringView *)at);
        } else if (*(const void *const *)at != NULL) {
            give_back_sub(*(const void *const *)at, table->subs[f->submsg_index].submsg);
        }
    }
}

void registry__row_free_message(struct row *row)
{
    if (row->kind == ROW_MARK) {
        free(row->name);
    } else if (row->arena != NULL) {
        upb_Arena_Free(row->arena);
    } else {
        give_back(row->msg, registry__row_table(row->kind));
        free((upb_Message_Internal *)row->msg - 1);
    }
}
