/* The code generators, the headers and the run time of upb come from three places (see
 * .ci/upb-toolchain). This proves that they fit together: generated accessors, the wire format,
 * reflection and JSON. It also proves that the embedded descriptors are complete. */
#include <google/protobuf/descriptor.upb.h>
#include <google/protobuf/struct.upb.h>
#include <google/protobuf/struct.upbdefs.h>
#include <google/protobuf/timestamp.upb.h>
#include <google/protobuf/timestamp.upbdefs.h>
#include <upb/json_decode.h>
#include <upb/json_encode.h>
#include <upb/reflection.h>

#include "proto/decode.h"
#include "thole_descriptors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void test_upb_wire_round_trip_keeps_fields(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    google_protobuf_Timestamp *out = google_protobuf_Timestamp_new(arena);
    google_protobuf_Timestamp_set_seconds(out, 1700000000);
    google_protobuf_Timestamp_set_nanos(out, 5);
    size_t size = 0;
    char *bytes = google_protobuf_Timestamp_serialize(out, arena, &size);
    assert_non_null(bytes);
    google_protobuf_Timestamp *in =
        PROTO_DECODE(google_protobuf_Timestamp, slice_of(bytes, size), arena);
    assert_non_null(in);
    assert_int_equal(google_protobuf_Timestamp_seconds(in), 1700000000);
    assert_int_equal(google_protobuf_Timestamp_nanos(in), 5);
    assert_null(PROTO_DECODE(google_protobuf_Timestamp, slice_of("\x08", 1), arena));
    upb_Arena_Free(arena);
}

static void test_upb_json_round_trip_is_canonical(void **state)
{
    (void)state;
    static const char json[] = "{\"hosts\":[\"a\",\"b\"],\"live\":true}";
    upb_Arena *arena = upb_Arena_New();
    upb_DefPool *pool = upb_DefPool_New();
    const upb_MessageDef *def = google_protobuf_Struct_getmsgdef(pool);
    assert_non_null(def);
    google_protobuf_Struct *message = google_protobuf_Struct_new(arena);
    upb_Status status;
    upb_Status_Clear(&status);
    assert_true(upb_JsonDecode(json, strlen(json), message, def, pool, 0, arena, &status));
    assert_int_equal(google_protobuf_Struct_fields_size(message), 2);
    char text[64];
    size_t length = upb_JsonEncode(message, def, pool, 0, text, sizeof text, &status);
    assert_true(upb_Status_IsOk(&status));
    assert_int_equal(length, strlen(json));
    /* The order of a map's entries is not defined. */
    assert_non_null(strstr(text, "\"hosts\":[\"a\",\"b\"]"));
    assert_non_null(strstr(text, "\"live\":true"));
    upb_DefPool_Free(pool);
    upb_Arena_Free(arena);
}

static void test_upb_reflection_reads_field_by_name(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    upb_DefPool *pool = upb_DefPool_New();
    const upb_MessageDef *def = google_protobuf_Timestamp_getmsgdef(pool);
    const upb_FieldDef *field = upb_MessageDef_FindFieldByName(def, "seconds");
    assert_non_null(field);
    google_protobuf_Timestamp *message = google_protobuf_Timestamp_new(arena);
    google_protobuf_Timestamp_set_seconds(message, 42);
    assert_int_equal(upb_Message_Get(message, field).int64_val, 42);
    upb_DefPool_Free(pool);
    upb_Arena_Free(arena);
}

static void test_embedded_descriptors_load_in_order(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    upb_DefPool *pool = upb_DefPool_New();
    google_protobuf_FileDescriptorSet *set =
        PROTO_DECODE(google_protobuf_FileDescriptorSet,
                     slice_of(thole_descriptor_set, thole_descriptor_set_size), arena);
    assert_non_null(set);
    size_t count = 0;
    const google_protobuf_FileDescriptorProto *const *files =
        google_protobuf_FileDescriptorSet_file(set, &count);
    assert_true(count > 0);
    for (size_t i = 0; i < count; i++) {
        upb_Status status;
        upb_Status_Clear(&status);
        if (upb_DefPool_AddFile(pool, files[i], &status) == NULL) {
            fail_msg("%s", upb_Status_ErrorMessage(&status));
        }
    }
    assert_non_null(upb_DefPool_FindMessageByName(pool, "google.protobuf.Any"));
    upb_DefPool_Free(pool);
    upb_Arena_Free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_upb_wire_round_trip_keeps_fields),
        cmocka_unit_test(test_upb_json_round_trip_is_canonical),
        cmocka_unit_test(test_upb_reflection_reads_field_by_name),
        cmocka_unit_test(test_embedded_descriptors_load_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
