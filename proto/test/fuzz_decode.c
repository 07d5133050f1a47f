/* Any bytes as any of our messages: refused, or decoded to a message that survives encoding and
 * decoding. The first two bytes choose the message. The mutator puts unknown fields of every wire
 * type into messages at every depth. It also puts them into map entries, which random changes never
 * reach. */
#include <etcd/auth.upb.h>
#include <etcd/election.upb.h>
#include <etcd/kv.upb.h>
#include <etcd/lock.upb.h>
#include <etcd/rpc.upb.h>
#include <google/protobuf/descriptor.upb.h>
#include <google/protobuf/struct.upb.h>
#include <google/rpc/error_details.upb.h>
#include <google/rpc/status.upb.h>
#include <grpc/health/v1/health.upb.h>
#include <grpc/reflection/v1/reflection.upb.h>
#include <grpc/reflection/v1alpha/reflection.upb.h>
#include <stdlib.h>
#include <string.h>
#include <thole/bus/v1/agent.upb.h>
#include <thole/bus/v1/bus.upb.h>
#include <thole/engine/v1/engine.upb.h>
#include <thole/kv/v1/kv.upb.h>
#include <thole/kv/v1/modify.upb.h>
#include <thole/registry/v1/registry.upb.h>
#include <thole/v1/control.upb.h>
#include <thole/v1/data.upb.h>
#include <thole/v1/operations.upb.h>
#include <thole/v1/repair.upb.h>
#include <thole/v1/resources.upb.h>
#include <thole/v1/snapshots.upb.h>
#include <upb/encode.h>

#include "base/assert.h"
#include "proto/decode.h"

static const upb_MiniTable_File *const files[] = {
    &thole_v1_control_proto_upb_file_layout,
    &thole_v1_data_proto_upb_file_layout,
    &thole_v1_operations_proto_upb_file_layout,
    &thole_v1_repair_proto_upb_file_layout,
    &thole_v1_resources_proto_upb_file_layout,
    &thole_v1_snapshots_proto_upb_file_layout,
    &thole_registry_v1_registry_proto_upb_file_layout,
    &thole_bus_v1_agent_proto_upb_file_layout,
    &thole_bus_v1_bus_proto_upb_file_layout,
    &thole_engine_v1_engine_proto_upb_file_layout,
    &thole_kv_v1_kv_proto_upb_file_layout,
    &thole_kv_v1_modify_proto_upb_file_layout,
    &etcd_auth_proto_upb_file_layout,
    &etcd_election_proto_upb_file_layout,
    &etcd_kv_proto_upb_file_layout,
    &etcd_lock_proto_upb_file_layout,
    &etcd_rpc_proto_upb_file_layout,
    &google_rpc_status_proto_upb_file_layout,
    &google_rpc_error_details_proto_upb_file_layout,
    &google_protobuf_struct_proto_upb_file_layout,
    &grpc_health_v1_health_proto_upb_file_layout,
    &grpc_reflection_v1_reflection_proto_upb_file_layout,
    &grpc_reflection_v1alpha_reflection_proto_upb_file_layout,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);

/* Two bytes choose the message: there are more than 256. Map entries are left out: no caller
 * decodes them by themselves. */
static const upb_MiniTable *choose(uint8_t file, uint8_t message)
{
    const upb_MiniTable_File *f = files[file % (sizeof files / sizeof files[0])];
    size_t at = message % (size_t)f->msg_count;
    /* The strings of map entries have a layout of their own, which only maps use. */
    while (f->msgs[at]->field_count == 2 &&
           f->msgs[at]->fields[0].descriptortype == kUpb_FieldType_Bytes &&
           f->msgs[at]->fields[0].mode >> kUpb_FieldRep_Shift == kUpb_FieldRep_1Byte) {
        at = (at + 1) % (size_t)f->msg_count;
    }
    return f->msgs[at];
}

static struct slice encode(const void *message, const upb_MiniTable *table, upb_Arena *arena)
{
    char *bytes = NULL;
    size_t size = 0;
    upb_EncodeStatus status =
        upb_Encode(message, table, kUpb_EncodeOption_Deterministic, arena, &bytes, &size);
    ASSERT(status == kUpb_EncodeStatus_Ok || status == kUpb_EncodeStatus_MaxDepthExceeded);
    return status == kUpb_EncodeStatus_Ok ? slice_of(bytes, size) : slice_of(NULL, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    upb_Arena *arena = upb_Arena_New();
    const upb_MiniTable *table = choose(data[0], data[1]);
    struct slice in = slice_of(data + 2, size - 2);
    const char *why = NULL;
    void *message = proto_decode(table, in, false, arena, &why);
    void *aliased = proto_decode(table, in, true, arena, NULL);
    ASSERT((message == NULL) == (aliased == NULL) && (message == NULL) == (why != NULL));
    if (message != NULL) {
        struct slice once = encode(message, table, arena);
        ASSERT(slice_equal(once, encode(aliased, table, arena)));
        void *again = proto_decode(table, once, false, arena, NULL);
        ASSERT(again != NULL && slice_equal(once, encode(again, table, arena)));
    }
    upb_Arena_Free(arena);
    return 0;
}

/* ---- Mutations ------------------------------------------------------------------------------- */

/* Offsets of fields, at any depth: bytes that parse as a message may be a message. */
struct place {
    size_t at;
    size_t lengths[8]; /* positions of the one-byte lengths of the messages around it */
    size_t depth;
};
#define PLACES_MAX 256

static void find_places(const uint8_t *data, size_t begin, size_t end, const struct place *around,
                        struct place *places, size_t *count)
{
    for (size_t at = begin; at < end && *count < PLACES_MAX;) {
        places[*count] = *around;
        places[(*count)++].at = at;
        uint8_t tag = data[at++];
        if (tag >= 0x80 || at >= end) {
            return;
        }
        if ((tag & 7) == 0) {
            while (at < end && data[at++] >= 0x80) {
            }
        } else if ((tag & 7) == 2 && data[at] < 0x80 && at + 1 + data[at] <= end) {
            struct place inner = *around;
            if (inner.depth < 8) {
                inner.lengths[inner.depth++] = at;
                find_places(data, at + 1, at + 1 + data[at], &inner, places, count);
            }
            at += 1u + data[at];
        } else {
            at += (tag & 7) == 1 ? 8 : 4;
        }
    }
    if (*count < PLACES_MAX) {
        places[*count] = *around;
        places[(*count)++].at = end;
    }
}

static const struct {
    uint8_t size, bytes[12];
} unknown[] = {
    {2, {0x78, 1}},                         /* a varint */
    {3, {0xf8, 0x07, 1}},                   /* of a larger number */
    {9, {0x79, 1, 2, 3, 4, 5, 6, 7, 8}},    /* 64 bits */
    {4, {0x7a, 2, 'z', 'z'}},               /* bytes */
    {5, {0x7d, 1, 2, 3, 4}},                /* 32 bits */
    {4, {0x7b, 0x08, 1, 0x7c}},             /* a group */
    {2, {0x08, 1}},                         /* field 1, of another type perhaps */
    {2, {0x10, 1}},                         /* field 2 */
    {6, {0xfa, 0xff, 0xff, 0xff, 0x0f, 0}}, /* the largest number */
    {11, {0x78, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}}, /* the longest varint */
};

static size_t insert_unknown(uint8_t *data, size_t size, size_t size_max)
{
    struct place places[PLACES_MAX];
    size_t count = 0;
    size_t which = (size_t)rand() % (sizeof unknown / sizeof unknown[0]);
    size_t more = unknown[which].size;
    find_places(data, 2, size, &(struct place){.depth = 0}, places, &count);
    if (count == 0 || size + more > size_max) {
        return size;
    }
    const struct place *p = &places[(size_t)rand() % count];
    for (size_t i = 0; i < p->depth; i++) {
        if (data[p->lengths[i]] + more >= 0x80) {
            return size;
        }
    }
    memmove(data + p->at + more, data + p->at, size - p->at);
    memcpy(data + p->at, unknown[which].bytes, more);
    for (size_t i = 0; i < p->depth; i++) {
        data[p->lengths[i]] = (uint8_t)(data[p->lengths[i]] + more);
    }
    return size + more;
}

/* HostSpec, Host, Command, ErrorInfo and Value, each with a map of one entry. */
#define ENTRY "\x0a\x14kkkkkkkkkkkkkkkkkkkk\x12\x14vvvvvvvvvvvvvvvvvvvv"
static const struct {
    uint8_t size;
    const char *bytes;
} seeds[] = {
    {48, "\x04\x01\x0a\x2c" ENTRY},
    {50, "\x04\x00\x1a\x2e\x0a\x2c" ENTRY},
    {54, "\x06\x00\x32\x32\x22\x30\x12\x2e\x0a\x2c" ENTRY},
    {48, "\x0c\x01\x1a\x2c" ENTRY},
    {20, "\x0d\x02\x2a\x10\x0a\x0e\x0a\x01k\x12\x09\x1a\x07text..."},
};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed)
{
    srand(seed);
    if (size < 8 && seed % 2 == 0 && size_max >= 64) {
        size_t which = (seed / 2) % (sizeof seeds / sizeof seeds[0]);
        memcpy(data, seeds[which].bytes, seeds[which].size);
        return seeds[which].size;
    }
    return seed % 3 == 0 && size > 2 ? insert_unknown(data, size, size_max)
                                     : LLVMFuzzerMutate(data, size, size_max);
}
