/* The format of snapshot files: whole, cut anywhere, with any bit flipped, in pieces of any
 * size. */
#include "agent/snapshots/snapshot_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

/* Wrap these bytes, as a machine's, in a snapshot file. */
static void make_file(struct slice stream, uint32_t format, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    thole_v1_SnapshotFile *head = thole_v1_SnapshotFile_new(arena);
    static const char word[8] = "tholsnap";
    uint8_t trailer[SNAPSHOT_FILE_TRAILER_BYTES];
    uint64_t checksum = hash64(stream.data, stream.size, 0);
    put_le64(trailer, checksum);
    memcpy(trailer + 8, word, sizeof word);
    thole_v1_SnapshotFile_set_format(head, format);
    thole_v1_SnapshotFile_set_shard(head, upb_StringView_FromString("orders"));
    (void)thole_v1_SnapshotFile_mutable_spec(head, arena);
    thole_v1_SnapshotFile_set_index(head, 7);
    thole_v1_SnapshotFile_set_term(head, 2);
    thole_v1_SnapshotFile_set_body_bytes(head, stream.size + sizeof trailer);
    thole_v1_SnapshotFile_set_body_checksum(head, checksum);
    snapshot_file_head(head, out);
    bytes_append_slice(out, stream);
    bytes_append(out, trailer, sizeof trailer);
    upb_Arena_Free(arena);
}

static enum thole_code check(struct slice file, size_t piece, struct bytes *body,
                             struct thole_status *st)
{
    struct snapshot_check *k = snapshot_check_new();
    enum thole_code code = THOLE_OK;
    for (size_t at = 0; at < file.size && code == THOLE_OK; at += piece) {
        struct slice got = {0};
        size_t n = file.size - at < piece ? file.size - at : piece;
        code = snapshot_check_feed(k, slice_of(file.data + at, n), &got, st);
        bytes_append_slice(body, got);
    }
    if (code == THOLE_OK) {
        code = snapshot_check_end(k, st);
    }
    snapshot_check_free(k);
    return code;
}

static void test_snapshot_file_in_pieces_of_any_size_is_read(void **state)
{
    (void)state;
    struct thole_status st;
    struct bytes file = {0}, body = {0};
    struct slice stream = slice_str("what a machine has to say of itself");
    make_file(stream, SNAPSHOT_FILE_FORMAT, &file);
    for (size_t piece = 1; piece <= file.size; piece++) {
        bytes_clear(&body);
        assert_int_equal(check(bytes_slice(&file), piece, &body, &st), THOLE_OK);
        assert_int_equal(body.size, stream.size + SNAPSHOT_FILE_TRAILER_BYTES);
        assert_memory_equal(body.data, stream.data, stream.size);
    }
    bytes_deinit(&file);
    bytes_deinit(&body);
}

static void test_snapshot_file_that_is_damaged_is_refused(void **state)
{
    (void)state;
    struct thole_status st;
    struct bytes file = {0}, body = {0};
    make_file(slice_str("what a machine has to say of itself"), SNAPSHOT_FILE_FORMAT, &file);
    for (size_t at = 0; at < file.size; at++) {
        assert_int_equal(check(slice_of(file.data, at), 16, &body, &st), THOLE_DATA_LOSS);
        for (int bit = 0; bit < 8; bit++) {
            file.data[at] = (uint8_t)(file.data[at] ^ 1 << bit);
            assert_int_equal(check(bytes_slice(&file), 16, &body, &st), THOLE_DATA_LOSS);
            file.data[at] = (uint8_t)(file.data[at] ^ 1 << bit);
        }
    }
    bytes_append(&file, "", 1);
    assert_int_equal(check(bytes_slice(&file), 16, &body, &st), THOLE_DATA_LOSS);
    bytes_deinit(&file);
    bytes_deinit(&body);
}

static void test_snapshot_file_of_another_format_is_refused(void **state)
{
    (void)state;
    struct thole_status st;
    struct bytes file = {0}, body = {0};
    make_file(slice_str("from the future"), SNAPSHOT_FILE_FORMAT + 1, &file);
    assert_int_equal(check(bytes_slice(&file), 100, &body, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_FORMAT);
    bytes_deinit(&file);
    bytes_deinit(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snapshot_file_in_pieces_of_any_size_is_read),
        cmocka_unit_test(test_snapshot_file_that_is_damaged_is_refused),
        cmocka_unit_test(test_snapshot_file_of_another_format_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
