/* See decode.h. The check walks the wire format along the message's table, and only where a map can
 * occur: a message without maps goes straight to upb. */
#include "proto/decode.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <upb/mini_table.h>
#include <upb/msg_internal.h>

#define DEPTH_MAX 64 /* of messages in messages, as in upb */

enum wire { WIRE_VARINT, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* ---- Where maps can occur -------------------------------------------------------------------- */

#define TABLES_MAX 64 /* tables reachable from one message */

struct seen {
    const upb_MiniTable *tables[TABLES_MAX];
    size_t count;
};

static bool search(const upb_MiniTable *t, struct seen *seen)
{
    for (size_t i = 0; i < seen->count; i++) {
        if (seen->tables[i] == t) {
            return false; /* a cycle, or already visited */
        }
    }
    if (seen->count == TABLES_MAX) {
        return true; /* not known: check */
    }
    seen->tables[seen->count++] = t;
    for (size_t i = 0; i < t->field_count; i++) {
        const upb_MiniTable_Field *f = &t->fields[i];
        if (upb_IsSubMessage(f) && (upb_FieldMode_Get(f) == kUpb_FieldMode_Map ||
                                    search(upb_MiniTable_GetSubMessageTable(t, f), seen))) {
            return true;
        }
    }
    return false;
}

/* Cache by table: its address, with the answer in the lowest bit. An entry is set once, by the
 * first thread; a table without an entry is searched again. */
#define KNOWN_SLOTS 1024
#define KNOWN_PROBES 8
static _Atomic uintptr_t known[KNOWN_SLOTS];

static bool has_maps(const upb_MiniTable *t)
{
    uintptr_t key = (uintptr_t)t;
    for (size_t i = 0; i < KNOWN_PROBES; i++) {
        _Atomic uintptr_t *slot = &known[(key / sizeof *t + i) % KNOWN_SLOTS];
        uintptr_t value = atomic_load_explicit(slot, memory_order_relaxed);
        if ((value & ~(uintptr_t)1) == key) {
            return value & 1;
        }
        if (value == 0) {
            bool found = search(t, &(struct seen){.count = 0});
            (void)atomic_compare_exchange_strong(slot, &value, key | found);
            return found;
        }
    }
    return search(t, &(struct seen){.count = 0});
}

/* ---- The check ------------------------------------------------------------------------------- */

/* As upb reads it: any length, and bits beyond the 64th are ignored. */
static bool take_varint(struct slice *in, uint64_t *ret)
{
    *ret = 0;
    for (size_t i = 0; i < VARINT_BYTES_MAX && i < in->size; i++) {
        *ret |= (uint64_t)(in->data[i] & 0x7f) << (7 * i);
        if (in->data[i] < 0x80) {
            *in = slice_of(in->data + i + 1, in->size - i - 1);
            return true;
        }
    }
    return false;
}

/* One field from the front of `in`, its bytes in `ret` if it has any. Groups, which proto3 does not
 * have, are refused. */
static bool take_field(struct slice *in, uint32_t *ret_number, unsigned *ret_wire,
                       struct slice *ret)
{
    uint64_t tag = 0, value = 0;
    if (!take_varint(in, &tag) || tag > UINT32_MAX || tag >> 3 == 0) {
        return false;
    }
    *ret_number = (uint32_t)(tag >> 3);
    *ret_wire = (unsigned)(tag & 7);
    switch (*ret_wire) {
    case WIRE_VARINT:
        return take_varint(in, &value);
    case WIRE_64:
        return slice_take(in, 8, ret);
    case WIRE_32:
        return slice_take(in, 4, ret);
    case WIRE_BYTES:
        return take_varint(in, &value) && value <= in->size && slice_take(in, (size_t)value, ret);
    default:
        return false;
    }
}

static unsigned wire_of(const upb_MiniTable_Field *f)
{
    switch (f->descriptortype) {
    case kUpb_FieldType_Double:
    case kUpb_FieldType_Fixed64:
    case kUpb_FieldType_SFixed64:
        return WIRE_64;
    case kUpb_FieldType_Float:
    case kUpb_FieldType_Fixed32:
    case kUpb_FieldType_SFixed32:
        return WIRE_32;
    case kUpb_FieldType_String:
    case kUpb_FieldType_Bytes:
    case kUpb_FieldType_Message:
        return WIRE_BYTES;
    default:
        return WIRE_VARINT;
    }
}

static bool maps_are_sound(const upb_MiniTable *t, struct slice in, bool is_entry, int depth)
{
    while (in.size > 0) {
        uint32_t number = 0;
        unsigned wire = 0;
        struct slice value = {NULL, 0};
        if (!take_field(&in, &number, &wire, &value)) {
            return false;
        }
        const upb_MiniTable_Field *f = upb_MiniTable_FindFieldByNumber(t, number);
        if (f == NULL || wire != wire_of(f)) {
            if (is_entry) {
                return false; /* upb would keep it as an unknown field */
            }
            continue; /* unknown, or packed numbers */
        }
        if (!upb_IsSubMessage(f)) {
            continue;
        }
        const upb_MiniTable *sub = upb_MiniTable_GetSubMessageTable(t, f);
        bool is_map = upb_FieldMode_Get(f) == kUpb_FieldMode_Map;
        if ((is_map || has_maps(sub)) &&
            (depth == 0 || !maps_are_sound(sub, value, is_map, depth - 1))) {
            return false;
        }
    }
    return true;
}

void *proto_decode(const upb_MiniTable *table, struct slice bytes, bool alias, upb_Arena *arena,
                   const char **ret_why)
{
    const char *why = "it does not decode";
    void *message = NULL;
    if (has_maps(table) && !maps_are_sound(table, bytes, false, DEPTH_MAX)) {
        why = "it does not decode, or the entry of a map has more than a key and a value";
    } else if ((message = _upb_Message_New(table, arena)) != NULL) {
        upb_DecodeStatus status =
            upb_Decode((const char *)bytes.data, bytes.size, message, table, NULL,
                       alias ? kUpb_DecodeOption_AliasString : 0, arena);
        if (status != kUpb_DecodeStatus_Ok) {
            message = NULL;
        }
        if (status == kUpb_DecodeStatus_BadUtf8) {
            why = "a string field is not valid UTF-8";
        } else if (status == kUpb_DecodeStatus_OutOfMemory) {
            why = "it has too many parts";
        }
    }
    if (message == NULL && ret_why != NULL) {
        *ret_why = why;
    }
    return message;
}
