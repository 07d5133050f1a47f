/* Manifests of backups: read back, damaged anywhere, unsound; and which backups are kept. */
#include "agent/snapshots/backup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

struct fixture {
    upb_Arena *arena;
    thole_v1_Backup *backup;
    struct bytes bytes;
};

static thole_v1_BackupFile *add_file(struct fixture *f, const char *shard, uint64_t id)
{
    thole_v1_BackupFile *file = thole_v1_Backup_add_files(f->backup, f->arena);
    thole_v1_BackupFile_set_shard(file, upb_StringView_FromString(shard));
    thole_v1_SnapshotPoint *p = thole_v1_BackupFile_mutable_point(file, f->arena);
    thole_v1_SnapshotPoint_set_shard_id(p, id);
    thole_v1_SnapshotPoint_set_index(p, 100 + id);
    thole_v1_BackupFile_set_saved_by(file, 3);
    return file;
}

static struct fixture fixture_of(void)
{
    struct fixture f = {.arena = upb_Arena_New()};
    f.backup = thole_v1_Backup_new(f.arena);
    thole_v1_Backup_set_format(f.backup, BACKUP_FORMAT);
    thole_v1_Backup_set_number(f.backup, 3);
    thole_v1_Backup_set_cluster_id(f.backup,
                                   upb_StringView_FromDataAndSize("0123456789abcdef", 16));
    (void)add_file(&f, "zero", 0);
    return f;
}

static enum thole_code decode(struct fixture *f, const thole_v1_Backup **ret)
{
    struct thole_status st;
    bytes_clear(&f->bytes);
    backup_encode(f->backup, &f->bytes);
    return backup_decode(bytes_slice(&f->bytes), f->arena, ret, &st);
}

static void fixture_deinit(struct fixture *f)
{
    bytes_deinit(&f->bytes);
    upb_Arena_Free(f->arena);
}

static void test_manifest_is_read_back(void **state)
{
    (void)state;
    struct fixture f = fixture_of();
    const thole_v1_Backup *got = NULL;
    size_t count = 0;
    (void)add_file(&f, "orders", 7);
    assert_int_equal(decode(&f, &got), THOLE_OK);
    const thole_v1_BackupFile *const *files = thole_v1_Backup_files(got, &count);
    assert_int_equal(count, 2);
    assert_int_equal(thole_v1_SnapshotPoint_index(thole_v1_BackupFile_point(files[1])), 107);
    assert_true(backup_is_complete(got));
    fixture_deinit(&f);
}

static void test_manifest_damaged_or_cut_anywhere_is_refused(void **state)
{
    (void)state;
    struct fixture f = fixture_of();
    struct thole_status st;
    const thole_v1_Backup *got = NULL;
    (void)add_file(&f, "orders", 7);
    assert_int_equal(decode(&f, &got), THOLE_OK);
    for (size_t at = 0; at < f.bytes.size; at++) {
        f.bytes.data[at] ^= 0x10;
        assert_int_equal(backup_decode(bytes_slice(&f.bytes), f.arena, &got, &st), THOLE_DATA_LOSS);
        f.bytes.data[at] ^= 0x10;
        assert_int_equal(backup_decode(slice_of(f.bytes.data, at), f.arena, &got, &st),
                         THOLE_DATA_LOSS);
    }
    fixture_deinit(&f);
}

static void test_manifest_of_another_format_is_told_from_a_damaged_one(void **state)
{
    (void)state;
    struct fixture f = fixture_of();
    const thole_v1_Backup *got = NULL;
    thole_v1_Backup_set_format(f.backup, BACKUP_FORMAT + 1);
    assert_int_equal(decode(&f, &got), THOLE_FAILED_PRECONDITION);
    fixture_deinit(&f);
}

static void without_number(struct fixture *f)
{
    thole_v1_Backup_set_number(f->backup, 0);
}
static void short_cluster(struct fixture *f)
{
    thole_v1_Backup_set_cluster_id(f->backup, upb_StringView_FromDataAndSize("0123", 4));
}
static void second_registry(struct fixture *f)
{
    (void)add_file(f, "zero", 0);
}
static void file_of_the_future(struct fixture *f)
{
    thole_v1_BackupFile_set_saved_by(add_file(f, "orders", 7), 4);
}
static void file_without_a_name(struct fixture *f)
{
    (void)add_file(f, "", 7);
}
static void file_without_a_point(struct fixture *f)
{
    thole_v1_BackupFile *file = thole_v1_Backup_add_files(f->backup, f->arena);
    thole_v1_BackupFile_set_shard(file, upb_StringView_FromString("orders"));
    thole_v1_BackupFile_set_saved_by(file, 3);
}

static void test_unsound_manifest_is_refused(void **state)
{
    (void)state;
    void (*const spoil[])(struct fixture *) = {without_number,      short_cluster,
                                               second_registry,     file_of_the_future,
                                               file_without_a_name, file_without_a_point};
    for (size_t i = 0; i < sizeof spoil / sizeof spoil[0]; i++) {
        struct fixture f = fixture_of();
        const thole_v1_Backup *got = NULL;
        spoil[i](&f);
        assert_int_equal(decode(&f, &got), THOLE_DATA_LOSS);
        fixture_deinit(&f);
    }
}

static void test_names_of_manifests_are_told_from_others(void **state)
{
    (void)state;
    char name[BACKUP_NAME_BYTES];
    uint64_t number = 0;
    backup_manifest_name(12, name);
    assert_string_equal(name, "backup-12");
    assert_true(backup_manifest_number(name, &number));
    assert_int_equal(number, 12);
    static const char *const others[] = {
        "backup-", "backup-0",  "backup-012",    "backup-1x",
        "LOCK",    "backup--1", "backup-1.part", "backup-99999999999999999999"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_false(backup_manifest_number(others[i], &number));
    }
}

/* "c": complete; "p": partial; "C", "P": not all of its files are there. */
static size_t first_kept(const char *kinds, size_t keep)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_v1_Backup *all[16];
    bool whole[16];
    size_t count = strlen(kinds);
    for (size_t i = 0; i < count; i++) {
        thole_v1_Backup *b = thole_v1_Backup_new(arena);
        whole[i] = kinds[i] == 'c' || kinds[i] == 'p';
        if (kinds[i] == 'p' || kinds[i] == 'P') {
            (void)thole_v1_Backup_add_gaps(b, arena);
        }
        all[i] = b;
    }
    size_t first = backup_first_kept(all, whole, count, keep);
    upb_Arena_Free(arena);
    return first;
}

static void test_retention_keeps_complete_backups_and_what_came_after(void **state)
{
    (void)state;
    assert_int_equal(first_kept("", 1), 0);
    assert_int_equal(first_kept("c", 1), 0);
    assert_int_equal(first_kept("ccc", 1), 2);
    assert_int_equal(first_kept("ccc", 2), 1);
    assert_int_equal(first_kept("ccc", 5), 0);
    assert_int_equal(first_kept("ccp", 1), 1); /* never the last complete one */
    assert_int_equal(first_kept("ccCpP", 1), 1);
    assert_int_equal(first_kept("ppp", 1), 0);
    assert_int_equal(first_kept("cpcpc", 2), 2);
}

static void test_file_of_another_state_does_not_match(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    upb_StringView cluster = upb_StringView_FromDataAndSize("0123456789abcdef", 16);
    thole_v1_SnapshotFile *head = thole_v1_SnapshotFile_new(arena);
    thole_v1_SnapshotFile_set_cluster_id(head, cluster);
    thole_v1_SnapshotFile_set_shard(head, upb_StringView_FromString("orders"));
    thole_v1_SnapshotFile_set_shard_id(head, 7);
    thole_v1_SnapshotFile_set_epoch(head, 1);
    thole_v1_SnapshotFile_set_index(head, 100);
    thole_v1_SnapshotFile_set_term(head, 4);
    const thole_v1_BackupFile *f = backup_file_of(head, 5000, 0xabc, arena);
    assert_int_equal(thole_v1_BackupFile_bytes(f), 5000);
    assert_true(backup_head_matches(head, f, cluster));
    thole_v1_SnapshotFile_set_epoch(head, 2);
    assert_false(backup_head_matches(head, f, cluster));
    thole_v1_SnapshotFile_set_epoch(head, 1);
    thole_v1_SnapshotFile_set_index(head, 101);
    assert_false(backup_head_matches(head, f, cluster));
    thole_v1_SnapshotFile_set_index(head, 100);
    thole_v1_SnapshotFile_set_shard(head, upb_StringView_FromString("other"));
    assert_false(backup_head_matches(head, f, cluster));
    thole_v1_SnapshotFile_set_shard(head, upb_StringView_FromString("orders"));
    assert_false(backup_head_matches(head, f, upb_StringView_FromString("another")));
    upb_Arena_Free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manifest_is_read_back),
        cmocka_unit_test(test_manifest_damaged_or_cut_anywhere_is_refused),
        cmocka_unit_test(test_manifest_of_another_format_is_told_from_a_damaged_one),
        cmocka_unit_test(test_unsound_manifest_is_refused),
        cmocka_unit_test(test_names_of_manifests_are_told_from_others),
        cmocka_unit_test(test_retention_keeps_complete_backups_and_what_came_after),
        cmocka_unit_test(test_file_of_another_state_does_not_match),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
