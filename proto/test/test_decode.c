/* All input from outside is decoded or refused, without a crash. */
#include <google/protobuf/struct.upb.h>
#include <google/rpc/error_details.upb.h>
#include <string.h>
#include <thole/registry/v1/registry.upb.h>
#include <thole/v1/control.upb.h>
#include <thole/v1/resources.upb.h>

#include "base/buf.h"
#include "proto/decode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void append_field(struct bytes *out, uint32_t number, struct slice value)
{
    bytes_append_varint(out, number << 3 | 2);
    bytes_append_varint(out, value.size);
    bytes_append_slice(out, value);
}

/* Wraps `inner` as field `number` of an outer message; frees `inner`. */
static struct bytes within(uint32_t number, struct bytes inner)
{
    struct bytes out = {0};
    append_field(&out, number, bytes_slice(&inner));
    bytes_deinit(&inner);
    return out;
}

/* HostSpec{tags: one entry of a key and a value of `size` bytes, and `more`}. */
static struct bytes spec_with_entry(size_t size, struct slice more)
{
    char text[200];
    struct bytes entry = {0};
    assert_true(size <= sizeof text);
    memset(text, 'k', sizeof text);
    append_field(&entry, 1, slice_of(text, size));
    append_field(&entry, 2, slice_of(text, size));
    bytes_append_slice(&entry, more);
    return within(1, entry);
}

#define MORE(text) slice_of(text, sizeof(text) - 1)
#define ROW(text)              \
    {                          \
        text, sizeof(text) - 1 \
    }

/* Entries that are refused: fields with other numbers, in each wire type; own fields in a wrong
 * wire type; groups; truncated entries. */
static const struct {
    const char *bytes;
    size_t size;
} unsound[] = {
    ROW("\x78\x01"),                                     /* 15: a varint */
    ROW("\x79\1\2\3\4\5\6\7\7"),                         /* 15: 64 bits */
    ROW("\x7a\x02zz"),                                   /* 15: bytes */
    ROW("\x7d\1\2\3\4"),                                 /* 15: 32 bits */
    ROW("\x7b\x08\x01\x7c"),                             /* 15: a group */
    ROW("\x08\x01"),                                     /* the key as a varint */
    ROW("\x15\1\2\3\4"),                                 /* the value as 32 bits */
    ROW("\x0b\x0c"),                                     /* the key as a group */
    ROW("\xf8\xff\xff\xff\x0f\x01"),                     /* the largest number */
    ROW("\x02\x01z"),                                    /* number 0 */
    ROW("\x78"),                                         /* cut off */
    ROW("\x7a\x7f"),                                     /* longer than the entry */
    ROW("\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), /* endless */
};

static bool decodes(const upb_MiniTable *table, struct bytes bytes)
{
    upb_Arena *arena = upb_Arena_New();
    const char *why = NULL;
    bool ok = proto_decode(table, bytes_slice(&bytes), false, arena, &why) != NULL;
    bool aliased = proto_decode(table, bytes_slice(&bytes), true, arena, NULL) != NULL;
    assert_int_equal(ok, aliased);
    assert_int_equal(ok, why == NULL);
    upb_Arena_Free(arena);
    bytes_deinit(&bytes);
    return ok;
}

/* All lengths, since upb treats the last 16 bytes of its input differently. */
static void test_decode_map_entry_with_another_field_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof unsound / sizeof unsound[0]; i++) {
        struct slice more = slice_of(unsound[i].bytes, unsound[i].size);
        for (size_t size = 0; size < 100; size++) {
            assert_false(decodes(&thole_v1_HostSpec_msginit, spec_with_entry(size, more)));
            /* UpdateHostRequest.host.spec, and an operation in the log of shard zero. */
            assert_false(decodes(&thole_v1_UpdateHostRequest_msginit,
                                 within(1, within(3, spec_with_entry(size, more)))));
            assert_false(decodes(&thole_registry_v1_Command_msginit,
                                 within(6, within(4, within(2, spec_with_entry(size, more))))));
        }
    }
}

static void test_decode_error_details_of_a_server_are_checked(void **state)
{
    (void)state;
    struct bytes entry = {0};
    append_field(&entry, 1, slice_str("a key that is long enough not to fit in sixteen bytes"));
    bytes_append(&entry, "\x78\x01", 2);
    assert_false(decodes(&google_rpc_ErrorInfo_msginit, within(3, entry)));
}

static void test_decode_sound_maps_are_accepted(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    for (size_t size = 0; size < 100; size++) {
        assert_true(decodes(&thole_v1_HostSpec_msginit, spec_with_entry(size, MORE(""))));
    }
    /* The value first, the key twice, an empty entry; a length that is not in its shortest form. */
    static const char spec[] = "\x0a\x09\x12\x01v\x0a\x01x\x0a\x01k\x0a\x00\x0a\x84\x00\x0a\x02zz";
    const thole_v1_HostSpec *s = PROTO_DECODE(thole_v1_HostSpec, MORE(spec), arena);
    upb_StringView value = {NULL, 0};
    assert_non_null(s);
    assert_int_equal(thole_v1_HostSpec_tags_size(s), 3);
    assert_true(thole_v1_HostSpec_tags_get(s, upb_StringView_FromString("k"), &value));
    assert_memory_equal(value.data, "v", 1);
    upb_Arena_Free(arena);
}

/* A newer version may have more fields: they are accepted everywhere but in map entries. */
static void test_decode_unknown_fields_elsewhere_are_accepted(void **state)
{
    (void)state;
    static const char *const unknown[] = {"\xf8\x07\x01", "\xfa\x07\x03zzz", "\xfd\x07zzzz"};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        struct slice more = slice_str(unknown[i]);
        struct bytes spec = spec_with_entry(40, MORE(""));
        bytes_append_slice(&spec, more);
        struct bytes host = within(3, spec);
        bytes_append_slice(&host, more);
        struct bytes request = within(1, host);
        bytes_append_slice(&request, more);
        assert_true(decodes(&thole_v1_UpdateHostRequest_msginit, request));
    }
}

/* google.protobuf.Value consists of nested maps. */
static struct bytes nested_values(int depth)
{
    struct bytes value = {0};
    for (int i = 0; i < depth; i++) {
        value = within(5, within(1, within(2, value))); /* Value.struct_value.fields[""] */
    }
    return value;
}

static void test_decode_deep_messages_are_refused(void **state)
{
    (void)state;
    assert_true(decodes(&google_protobuf_Value_msginit, nested_values(20)));
    assert_false(decodes(&google_protobuf_Value_msginit, nested_values(22)));
    assert_false(decodes(&google_protobuf_Value_msginit, nested_values(3000)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_map_entry_with_another_field_is_refused),
        cmocka_unit_test(test_decode_error_details_of_a_server_are_checked),
        cmocka_unit_test(test_decode_sound_maps_are_accepted),
        cmocka_unit_test(test_decode_unknown_fields_elsewhere_are_accepted),
        cmocka_unit_test(test_decode_deep_messages_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
