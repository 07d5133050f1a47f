#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/test/death.h"

static void test_slice_compare_is_byte_order_then_length(void **state)
{
    (void)state;
    const char *const ascending[] = {"", "a", "aa", "ab", "b", "\xff"};
    const int n = (int)(sizeof ascending / sizeof ascending[0]);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            int order = slice_compare(slice_str(ascending[i]), slice_str(ascending[j]));
            assert_int_equal((order > 0) - (order < 0), (i > j) - (i < j));
            assert_int_equal(slice_equal(slice_str(ascending[i]), slice_str(ascending[j])), i == j);
        }
    }
    assert_true(slice_equal(slice_of(NULL, 0), slice_str("")));
    assert_int_equal(slice_compare(slice_of(NULL, 0), slice_str("")), 0);
}

static void null_slice(void *arg)
{
    (void)slice_of(arg, 1);
}

static void test_slice_of_null_with_a_size_is_refused(void **state)
{
    (void)state;
    assert_true(dies(null_slice, NULL, "data != NULL"));
}

static void test_slice_take_beyond_the_end_leaves_it_untouched(void **state)
{
    (void)state;
    struct slice s = slice_str("abc"), part = {0};
    assert_true(slice_take(&s, 2, &part));
    assert_true(slice_equal(part, slice_str("ab")));
    assert_true(slice_equal(s, slice_str("c")));
    assert_false(slice_take(&s, 2, &part));
    assert_false(slice_take(&s, SIZE_MAX, &part));
    assert_true(slice_equal(part, slice_str("ab")));
    assert_true(slice_equal(s, slice_str("c")));
    assert_true(slice_take(&s, 1, &part));
    assert_true(slice_take(&s, 0, &part));
    assert_int_equal(part.size, 0);
    struct slice nothing = {0};
    assert_true(slice_take(&nothing, 0, &part));
    assert_false(slice_take(&nothing, 1, &part));
}

static void test_buf_copy_holds_the_bytes(void **state)
{
    (void)state;
    struct buf *b = buf_copy("hello", 5);
    assert_int_equal(b->size, 5);
    assert_memory_equal(b->data, "hello", 5);
    buf_unref(b);
    b = buf_copy(NULL, 0);
    assert_int_equal(b->size, 0);
    buf_unref(b);
    buf_unref(NULL);
    assert_null(buf_ref(NULL));
}

static void *ref_and_unref(void *arg)
{
    struct buf *b = arg;
    for (int i = 0; i < 20000; i++) {
        struct bufslice s = {.owner = b, .bytes = slice_of(b->data, b->size)};
        struct bufslice copy = bufslice_ref(s);
        assert_int_equal(copy.bytes.data[0], 'x');
        bufslice_unref(copy);
    }
    buf_unref(b);
    return NULL;
}

static void test_buf_refs_from_many_threads_are_counted(void **state)
{
    (void)state;
    struct buf *b = buf_copy("x", 1);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ref_and_unref, buf_ref(b)), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&b->refs), 1);
    buf_unref(b);
}

static void test_bufslice_without_owner_is_borrowed(void **state)
{
    (void)state;
    struct bufslice s = {.bytes = slice_str("static")};
    s = bufslice_ref(s);
    bufslice_unref(s);
    assert_true(slice_equal(s.bytes, slice_str("static")));
}

static void test_bytes_grow_and_keep_what_they_hold(void **state)
{
    (void)state;
    struct bytes b = {0};
    assert_int_equal(bytes_slice(&b).size, 0);
    bytes_append(&b, NULL, 0);
    assert_non_null(bytes_extend(&b, 0));
    assert_int_equal(b.size, 0);
    for (uint32_t i = 0; i < 10000; i++) {
        put_le32(bytes_extend(&b, 4), i);
    }
    assert_int_equal(b.size, 40000);
    for (uint32_t i = 0; i < 10000; i++) {
        assert_int_equal(get_le32(b.data + (size_t)4 * i), i);
    }
    size_t capacity = b.capacity;
    bytes_clear(&b);
    assert_int_equal(b.size, 0);
    assert_int_equal(b.capacity, capacity);
    bytes_append_str(&b, "ab");
    bytes_append_slice(&b, slice_str("cd"));
    assert_true(slice_equal(bytes_slice(&b), slice_str("abcd")));
    struct buf *taken = bytes_to_buf(&b);
    assert_int_equal(b.size, 0);
    assert_memory_equal(taken->data, "abcd", 4);
    buf_unref(taken);
    bytes_deinit(&b);
    bytes_deinit(&b);
    bytes_deinit(NULL);
}

static void test_bytes_printf_of_any_length_is_whole(void **state)
{
    (void)state;
    struct bytes b = {0};
    for (int n = 0; n < 300; n++) {
        bytes_clear(&b);
        bytes_append_str(&b, ">");
        bytes_printf(&b, "%0*d", n, 0);
        bytes_printf(&b, "%s", "");
        bytes_printf(&b, "<");
        size_t digits = n == 0 ? 1 : (size_t)n;
        assert_int_equal(b.size, digits + 2);
        assert_int_equal(b.data[0], '>');
        assert_int_equal(b.data[digits], '0');
        assert_int_equal(b.data[digits + 1], '<');
        if (n % 7 == 0) {
            bytes_deinit(&b);
        }
    }
    bytes_deinit(&b);
}

static void extend_too_far(void *arg)
{
    bytes_extend(arg, SIZE_MAX / 2 + 1);
}

static void test_bytes_extend_beyond_memory_is_refused(void **state)
{
    (void)state;
    struct bytes b = {0};
    assert_true(dies(extend_too_far, &b, "assertion failed"));
}

static void test_integers_have_their_byte_order(void **state)
{
    (void)state;
    uint8_t p[8];
    const uint64_t v = UINT64_C(0x0102030405060708);
    put_be64(p, v);
    assert_memory_equal(p, "\x01\x02\x03\x04\x05\x06\x07\x08", 8);
    assert_true(get_be64(p) == v);
    put_le64(p, v);
    assert_memory_equal(p, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
    assert_true(get_le64(p) == v);
    put_le32(p, UINT32_C(0xfffefdfc));
    assert_memory_equal(p, "\xfc\xfd\xfe\xff", 4);
    assert_true(get_le32(p) == UINT32_C(0xfffefdfc));
    put_le64(p, UINT64_MAX);
    assert_true(get_le64(p) == UINT64_MAX);
}

static void check_varint(uint64_t v, size_t size)
{
    struct bytes b = {0};
    bytes_append_varint(&b, v);
    assert_int_equal(b.size, size);
    assert_int_equal(varint_size(v), size);
    uint8_t put[VARINT_BYTES_MAX + 1];
    memset(put, 0xee, sizeof put);
    assert_true(put_varint(put, v) == put + size);
    assert_memory_equal(put, b.data, size);
    assert_int_equal(put[size], 0xee); /* nothing behind its end */
    /* Every truncation is refused, and leaves the slice and the result unchanged. */
    for (size_t n = 0; n < size; n++) {
        struct slice cut = slice_of(b.data, n);
        uint64_t untouched = 42;
        assert_false(slice_take_varint(&cut, &untouched));
        assert_true(cut.data == b.data && cut.size == n && untouched == 42);
    }
    bytes_append_str(&b, "rest");
    struct slice s = bytes_slice(&b);
    uint64_t read = 0;
    assert_true(slice_take_varint(&s, &read));
    assert_true(read == v);
    assert_true(slice_equal(s, slice_str("rest")));
    bytes_deinit(&b);
}

static void test_varint_of_every_length_comes_back(void **state)
{
    (void)state;
    check_varint(0, 1);
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t v = UINT64_C(1) << bit;
        check_varint(v, bit / 7 + 1);
        if (bit > 0) {
            check_varint(v - 1, (bit - 1) / 7 + 1);
        }
    }
    check_varint(UINT64_MAX, 10);
}

static void check_bad_varint(const char *bytes, size_t size)
{
    struct slice s = slice_of(bytes, size);
    uint64_t v = 42;
    assert_false(slice_take_varint(&s, &v));
    assert_true(s.data == (const uint8_t *)bytes && s.size == size && v == 42);
}

static void test_varint_malformed_is_refused(void **state)
{
    (void)state;
    check_bad_varint("\x80\x00", 2);                                  /* 0 in two bytes */
    check_bad_varint("\xff\x80\x00", 3);                              /* 127 in three */
    check_bad_varint("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10); /* 2^64 and more */
    check_bad_varint("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\x00", 11);
    check_bad_varint("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12);
    check_bad_varint("\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00", 10); /* 1 in ten */
    struct slice empty = {0};
    uint64_t v;
    assert_false(slice_take_varint(&empty, &v));
}

static void test_alloc_of_nothing_is_a_pointer(void **state)
{
    (void)state;
    void *p = xmalloc(0);
    assert_non_null(p);
    p = xrealloc(p, 0);
    assert_non_null(p);
    free(p);
    uint8_t *zeroed = xcalloc(3, 5);
    for (int i = 0; i < 15; i++) {
        assert_int_equal(zeroed[i], 0);
    }
    free(zeroed);
    p = xcalloc(0, 0);
    assert_non_null(p);
    free(p);
}

static void test_alloc_strings_are_copies(void **state)
{
    (void)state;
    char *s = xstrdup("thole");
    assert_string_equal(s, "thole");
    free(s);
    s = xstrndup("thole", 3);
    assert_string_equal(s, "tho");
    free(s);
    s = xstrndup("thole", 100);
    assert_string_equal(s, "thole");
    free(s);
    s = xasprintf("%s-%d", "host", 3);
    assert_string_equal(s, "host-3");
    free(s);
}

static void false_assertion(void *arg)
{
    ASSERT(arg != NULL);
}

static void test_assert_false_names_the_place_and_aborts(void **state)
{
    (void)state;
    assert_true(dies(false_assertion, NULL, "test_buf.c:"));
    assert_true(dies(false_assertion, NULL, "assertion failed: arg != NULL"));
    int there = 0;
    assert_false(dies(false_assertion, &there, ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slice_compare_is_byte_order_then_length),
        cmocka_unit_test(test_slice_of_null_with_a_size_is_refused),
        cmocka_unit_test(test_slice_take_beyond_the_end_leaves_it_untouched),
        cmocka_unit_test(test_buf_copy_holds_the_bytes),
        cmocka_unit_test(test_buf_refs_from_many_threads_are_counted),
        cmocka_unit_test(test_bufslice_without_owner_is_borrowed),
        cmocka_unit_test(test_bytes_grow_and_keep_what_they_hold),
        cmocka_unit_test(test_bytes_printf_of_any_length_is_whole),
        cmocka_unit_test(test_bytes_extend_beyond_memory_is_refused),
        cmocka_unit_test(test_integers_have_their_byte_order),
        cmocka_unit_test(test_varint_of_every_length_comes_back),
        cmocka_unit_test(test_varint_malformed_is_refused),
        cmocka_unit_test(test_alloc_of_nothing_is_a_pointer),
        cmocka_unit_test(test_alloc_strings_are_copies),
        cmocka_unit_test(test_assert_false_names_the_place_and_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
