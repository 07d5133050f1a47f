/* Packed messages: rows take a third of the size of the message, and less (decision 22).
 *
 * A message is packed as one bit for each field of its type, set if the field is present, followed
 * by the present fields in the order of the type: numbers as varints, strings after their size,
 * arrays after their count. Packed bytes never leave the process, so every reader trusts them. A
 * part that many rows have in common is replaced by a reference to the one copy (share.c);
 * `sharing` says whether the message may contain references.
 *
 * To be read, a message is opened into memory of the caller, in the form that upb's accessors
 * expect. Strings are not copied, nor are shared parts, unless the message is opened for editing.
 */
#include "registry/rows/row.h"

#include <string.h>

static size_t rounded(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

static size_t bitmap_bytes(const upb_MiniTable *table)
{
    return (table->field_count + 7u) / 8;
}

static bool is_string(const upb_MiniTable_Field *f)
{
    return f->descriptortype == kUpb_FieldType_String || f->descriptortype == kUpb_FieldType_Bytes;
}

static bool is_message(const upb_MiniTable_Field *f)
{
    return f->descriptortype == kUpb_FieldType_Message;
}

static const upb_MiniTable *type_of(const upb_MiniTable *table, const upb_MiniTable_Field *f)
{
    return table->subs[f->submsg_index].submsg;
}

/* Size of a number in a message; 0: a type that is not packed. */
static size_t number_bytes(const upb_MiniTable_Field *f)
{
    switch (f->descriptortype) {
    case kUpb_FieldType_Bool:
        return 1;
    case kUpb_FieldType_Int32:
    case kUpb_FieldType_UInt32:
    case kUpb_FieldType_Enum:
        return 4;
    case kUpb_FieldType_Int64:
    case kUpb_FieldType_UInt64:
        return 8;
    default:
        return 0;
    }
}

static size_t element_bytes(const upb_MiniTable_Field *f)
{
    return is_string(f) ? sizeof(upb_StringView) : is_message(f) ? sizeof(void *) : number_bytes(f);
}

static int log2_of(size_t size)
{
    return __builtin_ctzl(size);
}

static uint64_t load(const void *at, size_t size)
{
    uint64_t value = 0;
    memcpy(&value, at, size); /* little-endian, like every platform of Thole */
    return value;
}

static const upb_Array *array_at(const void *at)
{
    return *(const upb_Array *const *)at;
}

static bool is_there(const void *msg, const upb_MiniTable_Field *f)
{
    const void *at = (const uint8_t *)msg + f->offset;
    if (upb_FieldMode_Get(f) == kUpb_FieldMode_Array) {
        return array_at(at) != NULL && array_at(at)->len > 0;
    }
    if (f->presence > 0) {
        return _upb_hasbit(msg, (size_t)f->presence);
    }
    return is_string(f) ? ((const upb_StringView *)at)->size > 0 : load(at, number_bytes(f)) != 0;
}

void registry__clear(void *msg, const upb_MiniTable *table, uint32_t number)
{
    const upb_MiniTable_Field *f = table->fields;
    while (f < table->fields + table->field_count && f->number != number) {
        f++;
    }
    ASSERT(f < table->fields + table->field_count && f->presence >= 0);
    bool array = upb_FieldMode_Get(f) == kUpb_FieldMode_Array;
    memset((uint8_t *)msg + f->offset, 0, array ? sizeof(upb_Array *) : element_bytes(f));
    if (f->presence > 0) {
        _upb_clearhas(msg, (size_t)f->presence);
    }
}

/* ---- Whether it can be packed, and how large it is when opened ------------------------------- */

static bool measure_sub(const void *sub, const upb_MiniTable *table, bool sharing, size_t *opened)
{
    size_t held = 0; /* by the part */
    bool shared = sharing && registry__shares(table);
    return registry__can_pack(sub, table, sharing && !shared, shared ? &held : opened);
}

static bool measure_field(const void *msg, const upb_MiniTable *table, const upb_MiniTable_Field *f,
                          bool sharing, size_t *opened)
{
    const void *at = (const uint8_t *)msg + f->offset;
    if (upb_FieldMode_Get(f) != kUpb_FieldMode_Array) {
        return !is_message(f) ||
               measure_sub(*(const void *const *)at, type_of(table, f), sharing, opened);
    }
    const upb_Array *array = array_at(at);
    *opened += rounded(sizeof *array) + rounded(array->len * element_bytes(f));
    const void *const *subs = _upb_array_constptr(array);
    for (size_t i = 0; is_message(f) && i < array->len; i++) {
        if (!measure_sub(subs[i], type_of(table, f), sharing, opened)) {
            return false;
        }
    }
    return true;
}

bool registry__can_pack(const void *msg, const upb_MiniTable *table, bool sharing, size_t *opened)
{
    *opened += rounded(sizeof(upb_Message_Internal) + table->size);
    if (((const upb_Message_Internal *)msg - 1)->internal != NULL) {
        return false; /* unknown fields */
    }
    for (uint16_t i = 0; i < table->field_count; i++) {
        const upb_MiniTable_Field *f = &table->fields[i];
        if (upb_FieldMode_Get(f) == kUpb_FieldMode_Map || f->presence < 0 ||
            (element_bytes(f) == 0)) {
            return false; /* maps, oneofs and fractions, which few rows have */
        }
        if (is_there(msg, f) && !measure_field(msg, table, f, sharing, opened)) {
            return false;
        }
    }
    return true;
}

/* ---- Packing --------------------------------------------------------------------------------- */

static void pack_reference(struct bytes *out, const struct part *part)
{
    uint8_t address[8];
    put_le64(address, (uintptr_t)part);
    bytes_append(out, address, REGISTRY_REFERENCE_BYTES);
}

static void pack_string(struct bytes *out, upb_StringView s, bool shared)
{
    bytes_append_varint(out, s.size);
    if (shared) {
        pack_reference(out, registry__share(registry_str(s), NULL, NULL));
    } else {
        bytes_append_slice(out, registry_str(s));
    }
}

static void pack_sub(struct bytes *out, const void *sub, const upb_MiniTable *table, bool sharing)
{
    if (!sharing || !registry__shares(table)) {
        registry__pack(out, sub, table, sharing);
        return;
    }
    size_t before = out->size;
    registry__pack(out, sub, table, false);
    struct slice packed = slice_of(out->data + before, out->size - before);
    const struct part *part = registry__share(packed, table, sub);
    out->size = before;
    pack_reference(out, part);
}

static void pack_element(struct bytes *out, const void *at, const upb_MiniTable *table,
                         const upb_MiniTable_Field *f, bool sharing)
{
    if (is_string(f)) {
        upb_StringView s = *(const upb_StringView *)at;
        pack_string(out, s, sharing && registry__shares_string(table, f, s.size));
    } else if (is_message(f)) {
        pack_sub(out, *(const void *const *)at, type_of(table, f), sharing);
    } else {
        bytes_append_varint(out, load(at, number_bytes(f)));
    }
}

void registry__pack(struct bytes *out, const void *msg, const upb_MiniTable *table, bool sharing)
{
    size_t bitmap = out->size;
    memset(bytes_extend(out, bitmap_bytes(table)), 0, bitmap_bytes(table));
    for (uint16_t i = 0; i < table->field_count; i++) {
        const upb_MiniTable_Field *f = &table->fields[i];
        const uint8_t *at = (const uint8_t *)msg + f->offset;
        if (!is_there(msg, f)) {
            continue;
        }
        out->data[bitmap + i / 8] |= (uint8_t)(1u << i % 8);
        if (upb_FieldMode_Get(f) != kUpb_FieldMode_Array) {
            pack_element(out, at, table, f, sharing);
            continue;
        }
        const upb_Array *array = array_at(at);
        const uint8_t *elements = _upb_array_constptr(array);
        bytes_append_varint(out, array->len);
        for (size_t k = 0; k < array->len; k++) {
            pack_element(out, elements + k * element_bytes(f), table, f, sharing);
        }
    }
}

/* ---- Reading --------------------------------------------------------------------------------- */

uint64_t registry__packed_number(const uint8_t **from)
{
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
        uint8_t byte = *(*from)++;
        value |= (uint64_t)(byte & 0x7fu) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
}

const struct part *registry__packed_reference(const uint8_t **from)
{
    uint8_t address[8] = {0};
    memcpy(address, *from, REGISTRY_REFERENCE_BYTES);
    *from += REGISTRY_REFERENCE_BYTES;
    return (const struct part *)(uintptr_t)get_le64(address); /* NOLINT */
}

/* Memory for a part of the opened message. */
static void *take(struct opening *o, size_t size)
{
    size = rounded(size);
    if (o->arena != NULL) {
        void *ret = upb_Arena_Malloc(o->arena, size);
        ASSERT(ret != NULL);
        return ret;
    }
    ASSERT(size <= o->room);
    void *ret = o->to;
    o->to += size;
    o->room -= size;
    return ret;
}

static upb_StringView open_string(struct opening *o, const upb_MiniTable *table,
                                  const upb_MiniTable_Field *f)
{
    upb_StringView s = {.size = registry__packed_number(&o->from)};
    if (o->sharing && registry__shares_string(table, f, s.size)) {
        s.data = registry__packed_reference(&o->from)->content;
    } else {
        s.data = (const char *)o->from;
        o->from += s.size;
    }
    return s;
}

static const void *open_sub(struct opening *o, const upb_MiniTable *table)
{
    if (!o->sharing || !registry__shares(table)) {
        return registry__open_message(o, table);
    }
    const struct part *part = registry__packed_reference(&o->from);
    if (!o->edit) {
        return part->content;
    }
    struct opening own = {.from = part->packed, .arena = o->arena, .edit = true};
    return registry__open_message(&own, table);
}

static void open_element(struct opening *o, uint8_t *to, const upb_MiniTable *table,
                         const upb_MiniTable_Field *f)
{
    if (is_string(f)) {
        upb_StringView s = open_string(o, table, f);
        memcpy(to, &s, sizeof s);
    } else if (is_message(f)) {
        const void *sub = open_sub(o, type_of(table, f));
        memcpy(to, &sub, sizeof sub);
    } else {
        uint64_t value = registry__packed_number(&o->from);
        memcpy(to, &value, number_bytes(f));
    }
}

static void open_array(struct opening *o, uint8_t *to, const upb_MiniTable *table,
                       const upb_MiniTable_Field *f)
{
    size_t count = registry__packed_number(&o->from);
    upb_Array *array = take(o, sizeof *array);
    uint8_t *elements = take(o, count * element_bytes(f));
    array->data = _upb_tag_arrptr(elements, log2_of(element_bytes(f)));
    array->len = count;
    array->size = count;
    for (size_t i = 0; i < count; i++) {
        open_element(o, elements + i * element_bytes(f), table, f);
    }
    memcpy(to, &array, sizeof(void *));
}

void *registry__open_message(struct opening *o, const upb_MiniTable *table)
{
    upb_Message_Internal *head = take(o, sizeof *head + table->size);
    uint8_t *msg = (uint8_t *)(head + 1);
    const uint8_t *bitmap = o->from;
    memset(head, 0, sizeof *head + table->size);
    o->from += bitmap_bytes(table);
    for (uint16_t i = 0; i < table->field_count; i++) {
        const upb_MiniTable_Field *f = &table->fields[i];
        bool array = upb_FieldMode_Get(f) == kUpb_FieldMode_Array;
        if ((bitmap[i / 8] >> i % 8 & 1) == 0) {
            if (!array &&
                is_string(f)) { /* an empty string must not be NULL for memcmp and memcpy */
                memcpy(msg + f->offset, &(upb_StringView){.data = ""}, sizeof(upb_StringView));
            }
            continue;
        }
        if (array) {
            open_array(o, msg + f->offset, table, f);
            continue;
        }
        open_element(o, msg + f->offset, table, f);
        if (f->presence > 0) {
            _upb_sethas(msg, (size_t)f->presence);
        }
    }
    return msg;
}

/* ---- The end of it --------------------------------------------------------------------------- */

static void give_back_element(const uint8_t **from, const upb_MiniTable *table,
                              const upb_MiniTable_Field *f)
{
    if (is_string(f)) {
        size_t size = registry__packed_number(from);
        if (registry__shares_string(table, f, size)) {
            registry__unshare(registry__packed_reference(from));
        } else {
            *from += size;
        }
    } else if (!is_message(f)) {
        (void)registry__packed_number(from);
    } else if (registry__shares(type_of(table, f))) {
        registry__unshare(registry__packed_reference(from));
    } else {
        registry__give_back(from, type_of(table, f));
    }
}

void registry__give_back(const uint8_t **from, const upb_MiniTable *table)
{
    const uint8_t *bitmap = *from;
    *from += bitmap_bytes(table);
    for (uint16_t i = 0; i < table->field_count; i++) {
        const upb_MiniTable_Field *f = &table->fields[i];
        if ((bitmap[i / 8] >> i % 8 & 1) != 0) {
            bool array = upb_FieldMode_Get(f) == kUpb_FieldMode_Array;
            size_t count = array ? registry__packed_number(from) : 1;
            for (size_t k = 0; k < count; k++) {
                give_back_element(from, table, f);
            }
        }
    }
}
