/* Looking at a log without changing it: what is told of a sound one and of damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "shards/store/inspect.h"
#include "shards/store/test/log_files.h"
#include "shards/store/test/store_fixture.h"

#define TOLD_MAX 16

struct told {
    uint64_t records, damaged_records, entries;
    size_t damage_count;
    struct log_damage damage[TOLD_MAX];
    char what[TOLD_MAX][200];
    struct log_where first, last; /* records */
};

static void on_record(void *ctx, const struct log_where *where, const struct log_scan_record *r)
{
    struct told *t = ctx;
    struct store_run_reader reader;
    struct store_entry e;

    t->first = t->records == 0 ? *where : t->first;
    t->last = *where;
    t->records++;
    t->damaged_records += !r->intact;
    if (r->intact && r->entry.kind == STORE_KIND_RUN &&
        store_run_open(&reader, store_key_slice(&r->key), r->sealed)) {
        while (store_run_next(&reader, &e)) {
            t->entries++;
        }
    }
}

static void on_damage(void *ctx, const struct log_damage *d)
{
    struct told *t = ctx;

    if (t->damage_count < TOLD_MAX) {
        t->damage[t->damage_count] = *d;
        snprintf(t->what[t->damage_count], sizeof t->what[0], "%s", d->what);
    }
    t->damage_count++;
}

static uint64_t digest(const char *dir)
{
    char *names[] = {log_file(dir, "ID"), log_file(dir, "LOCK"), log_file(dir, "00000001.seg"),
                     log_file(dir, "00000002.seg"), log_file(dir, "00000003.seg")};
    uint64_t hash = 0;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct bytes b = file_load(names[i]);

        hash = hash64(b.data, b.size, hash + b.size);
        bytes_deinit(&b);
        free(names[i]);
    }
    return hash;
}

/* Looks, and proves that nothing was changed. */
static enum thole_code look(const char *dir, struct told *t, struct log_store **ret,
                            struct thole_status *st)
{
    const struct log_visitor v = {t, on_record, on_damage};
    char *id = log_file(dir, "ID"), *path = xstrndup(id, strlen(id) - 3);
    uint64_t before = digest(dir);
    struct log_store *s = NULL;

    memset(t, 0, sizeof *t);
    enum thole_code code = log_inspect(path, &v, &s, st);
    assert_true(digest(dir) == before);
    if (code == THOLE_OK && ret != NULL) {
        *ret = s;
    } else if (code == THOLE_OK) {
        s->ops->close(s);
    }
    free(id);
    free(path);
    return code;
}

static void look_ok(const char *dir, struct told *t)
{
    struct thole_status st;

    assert_int_equal(look(dir, t, NULL, &st), THOLE_OK);
}

static struct log_store *look_open(const char *dir, struct told *t)
{
    struct log_store *s = NULL;
    struct thole_status st;

    assert_int_equal(look(dir, t, &s, &st), THOLE_OK);
    return s;
}

/* Two replicas and a tombstone. Returns where in the first segment the last frame begins. */
static uint32_t fill(const char *dir)
{
    struct log_store *s = log_open(dir);

    log_create(s, 1);
    log_create(s, 2);
    log_create(s, 3);
    log_append(s, 1, 1, 5, 1);
    log_append(s, 2, 1, 3, 1);
    log_remove(s, 3);
    log_append(s, 1, 6, 2, 2);
    uint32_t at = log_newest(s)->end;
    log_append(s, 2, 4, 1, 2);
    log_shut(s);
    return at;
}

static void test_a_sound_log_is_told_whole_and_reads_like_the_real_one(void **state)
{
    (void)state;
    char *dir = dir_new();
    struct told t;

    fill(dir);
    struct log_store *seen = look_open(dir, &t);
    assert_int_equal(t.damage_count, 0);
    assert_int_equal(t.entries, 11);
    assert_int_equal(t.first.file, 1);
    assert_int_equal(t.first.offset, SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES);
    assert_true(t.last.offset > t.first.offset && t.last.sequence > t.first.sequence);
    log_expect(seen, 1, 0, 7);
    log_expect(seen, 2, 0, 4);
    assert_true(log_find(seen, 3)->removed);
    const struct store_update u = {.replica_id = 1, .remove = true};
    assert_int_equal(log_write_one(seen, &u), THOLE_UNAVAILABLE); /* read only */
    log_shut(seen);
    struct log_store *s = log_open(dir); /* a host may start with it afterwards */
    log_expect(s, 1, 0, 7);
    log_shut(s);
    dir_free(dir);
}

static void test_a_damaged_record_names_its_file_offset_and_replica(void **state)
{
    (void)state;
    char *dir = dir_new(), *segment = log_file(dir, "00000001.seg");
    struct told t;

    fill(dir);
    file_flip(segment, "1.3.1"); /* entry 3 of replica 1 */
    struct log_store *seen = look_open(dir, &t);
    assert_int_equal(t.damage_count, 2);
    assert_int_equal(t.damage[0].kind, LOG_DAMAGE_RECORD);
    assert_int_equal(t.damage[0].file, 1);
    assert_int_equal(t.damage[0].replica_id, 1);
    assert_string_equal(t.what[0], "run");
    struct bytes b = file_load(segment);
    const uint8_t *flipped = memmem(b.data, b.size, "1.1.1", 5); /* the same record */
    assert_non_null(flipped);
    assert_true(t.damage[0].offset < (uint64_t)(flipped - b.data));
    assert_true(t.damage[0].offset + 100 > (uint64_t)(flipped - b.data));
    bytes_deinit(&b);
    assert_int_equal(t.damage[1].kind, LOG_DAMAGE_REPLICA);
    assert_int_equal(t.damage[1].replica_id, 1);
    assert_int_equal(t.damaged_records, 1);
    assert_int_equal(t.entries, 6); /* all others are still read */
    assert_true(log_find(seen, 1)->hard.term == UINT64_MAX);
    log_expect(seen, 2, 0, 4);
    log_shut(seen);
    free(segment);
    dir_free(dir);
}

static void test_behind_a_damaged_frame_the_next_one_is_found(void **state)
{
    (void)state;
    char *dir = dir_new(), *segment = log_file(dir, "00000001.seg");
    struct told t;

    fill(dir);
    struct bytes b = file_load(segment);
    const uint8_t *run = memmem(b.data, b.size, "2.1.1", 5);
    assert_non_null(run);
    uint64_t frame = (uint64_t)(run - b.data);
    while (memcmp(b.data + frame, "tlframe1", 8) != 0) {
        frame--;
    }
    file_flip_bit(segment, frame + 17, 3); /* the size in its header */
    look_ok(dir, &t);
    assert_int_equal(t.damage[0].kind, LOG_DAMAGE_FRAMES);
    assert_int_equal(t.damage[0].file, 1);
    assert_int_equal(t.damage[0].offset, frame);
    assert_int_equal(t.entries, 8); /* without the three of that frame */
    struct thole_status st;
    struct log_store *s = NULL;
    assert_int_equal(log_try_open(dir, &s, &st), THOLE_DATA_LOSS); /* as the host says */
    bytes_deinit(&b);
    free(segment);
    dir_free(dir);
}

static void test_a_torn_last_write_is_no_damage(void **state)
{
    (void)state;
    char *dir = dir_new(), *segment = log_file(dir, "00000001.seg");
    struct told t;
    uint32_t at = fill(dir);
    struct bytes b = file_load(segment);

    memset(b.data + at + FRAME_HEADER_BYTES, 0, b.size - at - FRAME_HEADER_BYTES);
    file_save(segment, bytes_slice(&b));
    look_ok(dir, &t);
    assert_int_equal(t.damage_count, 1);
    assert_int_equal(t.damage[0].kind, LOG_DAMAGE_TORN);
    assert_int_equal(t.damage[0].offset, at);
    assert_int_equal(t.entries, 10);
    bytes_deinit(&b);
    free(segment);
    dir_free(dir);
}

static void test_missing_files_are_told(void **state)
{
    (void)state;
    char *dir = dir_new(), *id = log_file(dir, "ID"), *first = log_file(dir, "00000001.seg"),
         *second = log_file(dir, "00000002.seg");
    struct told t;
    struct thole_status st;
    struct log_store *s = log_open(dir);

    log_create(s, 1);
    for (uint64_t i = 0; segments_newest(&((struct disk_log *)s)->files)->number < 3; i++) {
        log_append(s, 1, 1 + 200 * i, 200, 1);
    }
    log_shut(s);
    look_ok(dir, &t);
    assert_int_equal(t.damage_count, 0);
    uint64_t entries = t.entries;
    assert_int_equal(unlink(second), 0);
    look_ok(dir, &t);
    assert_int_equal(t.damage[0].kind, LOG_DAMAGE_FILE);
    assert_non_null(strstr(t.what[0], "has 2 segments of 3"));
    assert_non_null(strstr(t.what[1], "segment number 2 of the log is missing"));
    assert_true(t.entries > 0 && t.entries < entries); /* before and behind it */
    assert_int_equal(t.last.file, 3);
    file_flip_bit(first, 12, 0); /* the header */
    look_ok(dir, &t);
    assert_true(t.damage_count > 0 && t.entries > 0);
    assert_int_equal(unlink(id), 0);
    assert_int_equal(look(dir, &t, NULL, &st), THOLE_NOT_FOUND);
    free(id);
    free(first);
    free(second);
    dir_free(dir);
}

/* With right checksums, but no host writes it: a record of no bytes, a deletion of something else
 * than an identity. */
static void test_impossible_directory_entries_are_damage_of_their_replicas(void **state)
{
    (void)state;
    char *dir = dir_new();
    struct told t;
    struct thole_status st;

    fill(dir);
    struct log_store *s = log_open(dir);
    struct disk_log *log = (struct disk_log *)s;
    frame_begin(&log->frame);
    (void)frame_record(&log->frame);
    frame_record_end(&log->frame,
                     (struct frame_entry){.replica_id = 2, .kind = STORE_KIND_DAMAGED});
    (void)frame_record(&log->frame);
    frame_record_end(
        &log->frame,
        (struct frame_entry){.replica_id = 1, .kind = STORE_KIND_START, .flags = FRAME_DELETE});
    struct slice frame = frame_end(&log->frame, log->files.sequence, log->files.seed);
    assert_int_equal(segments_append(&log->files, frame, &st), THOLE_OK);
    log_append(s, 1, 8, 1, 2); /* so that it is not torn */
    log_shut(s);
    look_ok(dir, &t);
    assert_int_equal(t.damage_count, 4);
    assert_int_equal(t.damage[0].kind, LOG_DAMAGE_RECORD);
    assert_string_equal(t.what[0], "directory entry");
    assert_int_equal(t.damage[0].replica_id + t.damage[1].replica_id, 3);
    s = log_open(dir);
    assert_true(log_find(s, 2)->hard.term == UINT64_MAX);
    log_shut(s);
    dir_free(dir);
}

/* Any bytes: an error or a report, and no change. */
static void test_random_damage_is_survived(void **state)
{
    (void)state;
    static const char *const names[] = {"ID", "00000001.seg"};
    char *dir = dir_new();
    uint64_t seed = 1;
    struct told t;
    struct thole_status st;

    fill(dir);
    for (int round = 0; round < 300; round++) {
        char *copy = dir_new();

        log_copy(dir, copy);
        for (int k = 0; k < 4; k++) {
            seed = hash64(&seed, sizeof seed, 7);
            char *path = log_file(copy, names[(seed >> 8) % 5 == 0 ? 0 : 1]);
            struct bytes b = file_load(path);
            uint64_t used = b.size < 2048 ? b.size : 2048;
            uint64_t at = used > 0 ? (seed >> 16) % used : 0;

            if ((seed & 15) == 0) {
                file_save(path, slice_of(b.data, at));
            } else if (used > 0) {
                file_flip_bit(path, at, (unsigned)(seed >> 60) & 7);
            }
            bytes_deinit(&b);
            free(path);
        }
        (void)look(copy, &t, NULL, &st);
        dir_free(copy);
    }
    dir_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_sound_log_is_told_whole_and_reads_like_the_real_one),
        cmocka_unit_test(test_a_damaged_record_names_its_file_offset_and_replica),
        cmocka_unit_test(test_behind_a_damaged_frame_the_next_one_is_found),
        cmocka_unit_test(test_a_torn_last_write_is_no_damage),
        cmocka_unit_test(test_missing_files_are_told),
        cmocka_unit_test(test_impossible_directory_entries_are_damage_of_their_replicas),
        cmocka_unit_test(test_random_damage_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
