/* How the log handles flipped bits and missing files. Damage in a record affects its replica alone;
 * after any other damage the log refuses to open. An acknowledged entry is never lost without an
 * error. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rand.h"
#include "shards/store/test/log_files.h"
#include "shards/store/test/store_fixture.h"

enum { GROUPS = 5, HURT = 3 };

/* No test here needs the disk to be durable. */
int fdatasync(int fildes)
{
    (void)fildes;
    return 0;
}
int fsync(int fd)
{
    (void)fd;
    return 0;
}

static void expect_loss(const char *dir)
{
    struct log_store *s = NULL;

    for (int i = 0; i < 2; i++) { /* the first attempt has repaired nothing */
        struct thole_status st = {0};
        enum thole_code code = log_try_open(dir, &s, &st);

        if (code == THOLE_OK) {
            log_shut(s);
            fail_msg("the damage went unnoticed");
        }
        assert_int_equal(code, THOLE_DATA_LOSS);
        assert_int_equal(st.reason, THOLE_REASON_CORRUPT);
    }
}

/* Each group: identity, start at 5, runs (5, 10], (10, 20], a hard state; then a last write. */
static struct log_store *make_groups(const char *dir)
{
    struct log_store *s = log_open(dir);

    assert_int_equal(s->ops->put_host(s, "name", slice_str("value"), NULL), THOLE_OK);
    for (uint64_t g = 1; g <= GROUPS; g++) {
        log_create(s, g);
        log_append(s, g, 1, 10, 1);
        log_start(s, g, 5, 1, false);
        log_append(s, g, 11, 10, 2);
        log_hard(s, g, 4, 2, 9);
    }
    log_create(s, GROUPS + 1);
    return s;
}

static void expect_group(struct log_store *s, uint64_t g)
{
    assert_non_null(log_find(s, g));
    assert_int_equal(log_find(s, g)->hard.term, 4);
    assert_int_equal(log_find(s, g)->shard_id, g + 1000);
    log_expect(s, g, 5, 20);
}

/* ---- One record ------------------------------------------------------------------------------ */

enum which { IDENTITY, START, RUN, LAST_RUN, HARD, WHICH_COUNT };

static struct log_place place_of(struct log_store *s, uint64_t id, enum which which)
{
    const struct log_replica *r = log_replica_of(s, id);

    switch (which) {
    case IDENTITY:
        return r->identity;
    case START:
        return r->start;
    case RUN:
        return r->index.runs[r->index.head].place;
    case LAST_RUN:
        return r->index.runs[r->index.end - 1].place;
    case HARD:
    case WHICH_COUNT:
    default:
        return r->hard_or_mark;
    }
}

static void expect_hurt(struct log_store *s, bool identity)
{
    const struct store_replica *x = log_find(s, HURT);
    struct raft_entry *got[3];
    size_t n = 0;

    assert_non_null(x);
    assert_true(x->hard.term == UINT64_MAX);
    if (!identity) {
        assert_int_equal(x->shard_id, HURT + 1000);
        assert_true(slice_equal(x->descriptor, slice_str("descriptor")));
    }
    assert_int_equal(s->ops->read(s, HURT, 6, 8, SIZE_MAX, 3, got, &n, NULL), THOLE_DATA_LOSS);
    for (uint64_t g = 1; g <= GROUPS; g++) {
        if (g != HURT) {
            expect_group(s, g);
        }
    }
}

/* Continue writing, as a replica that keeps almost no entries. */
static void write_on(struct log_store *s, uint64_t *last)
{
    log_append(s, 9, *last + 1, 500, 1);
    log_start(s, 9, *last + 400, 1, false);
    *last += 500;
}

static void hurt(enum which which)
{
    char *dir = dir_new();
    struct log_store *s = make_groups(dir);
    uint64_t last = 0;
    struct log_place at = place_of(s, HURT, which);
    char *path = log_segment(dir, segments_get(&((struct disk_log *)s)->files, at.segment));
    struct store_update u = {.replica_id = HURT, .has_hard = true, .hard = {9, 0, 0}};

    assert_true(at.segment != 0);
    log_create(s, 9);
    while (log_newest(s)->number < 3) { /* the mark must be in another segment */
        write_on(s, &last);
    }
    log_shut(s);
    file_flip_bit(path, at.offset + at.bytes - 1, 3);
    s = log_open(dir);
    expect_hurt(s, which == IDENTITY);
    assert_int_equal(log_write_one(s, &u), THOLE_INVALID_ARGUMENT);
    uint32_t number = log_newest(s)->number + 16;
    while (log_newest(s)->number < number) { /* the mark outlives the record */
        write_on(s, &last);
        log_shut(s);
        s = log_open(dir);
        assert_true(((struct disk_log *)s)->files.live.count <= 8);
        expect_hurt(s, which == IDENTITY);
    }
    log_remove(s, HURT); /* the rebuild uses another id */
    log_create(s, 33);
    log_shut(s);
    s = log_open(dir);
    assert_true(log_find(s, HURT)->removed);
    assert_non_null(log_find(s, 33));
    log_shut(s);
    free(path);
    dir_free(dir);
}

static void test_log_flip_in_a_record_hurts_that_replica_alone(void **state)
{
    (void)state;
    for (enum which w = IDENTITY; w < WHICH_COUNT; w++) {
        hurt(w);
    }
}

static void test_log_flip_in_a_host_record_is_data_loss(void **state)
{
    char *dir = dir_new();
    struct log_store *s = make_groups(dir);
    struct log_place at = ((struct disk_log *)s)->host_records->place;
    char *path = log_segment(dir, segments_get(&((struct disk_log *)s)->files, at.segment));

    (void)state;
    log_shut(s);
    file_flip_bit(path, at.offset + at.bytes - 1, 3);
    expect_loss(dir);
    free(path);
    dir_free(dir);
}

/* ---- Between the records --------------------------------------------------------------------- */

static void test_log_flip_around_the_records_is_data_loss(void **state)
{
    char *original = dir_new();
    struct log_store *s = make_groups(original);
    struct log_place at = place_of(s, HURT, RUN);
    char *name = xasprintf("%08" PRIu32 ".seg", log_newest(s)->file);
    uint32_t frame = at.offset - FRAME_HEADER_BYTES;

    (void)state;
    log_shut(s);
    for (uint32_t i = 0; i < FRAME_HEADER_BYTES + FRAME_ENTRY_BYTES; i++) {
        uint32_t pad = -(frame + at.bytes) % FRAME_ALIGN;
        uint32_t to = i < FRAME_HEADER_BYTES ? frame + i
                                             : at.offset + at.bytes + pad + i - FRAME_HEADER_BYTES;
        char *dir = dir_new(), *path = log_file(dir, name);

        log_copy(original, dir);
        file_flip_bit(path, to, i % 8);
        expect_loss(dir);
        free(path);
        dir_free(dir);
    }
    free(name);
    dir_free(original);
}

/* Every byte of the last frame is damaged, in copies of the log: its entries are there, or their
 * loss is reported. */
static void flip_the_last_frame(const char *original, const char *name, uint32_t from, uint32_t to,
                                uint64_t last)
{
    for (uint32_t at = from; at < to; at++) {
        char *dir = dir_new(), *path = log_file(dir, name);
        struct log_store *s = NULL;
        struct thole_status st = {0};

        log_copy(original, dir);
        file_flip_bit(path, at, at % 8);
        enum thole_code code = log_try_open(dir, &s, &st);
        if (code == THOLE_OK) {
            const struct store_replica *x = log_find(s, HURT);
            assert_non_null(x);
            assert_true(x->hard.term == UINT64_MAX || x->last_index == last);
            expect_group(s, HURT + 1);
            log_shut(s);
        } else {
            assert_int_equal(code, THOLE_DATA_LOSS);
            assert_int_equal(st.reason, THOLE_REASON_CORRUPT);
        }
        free(path);
        dir_free(dir);
    }
}

static void test_log_flip_in_the_last_frame_is_noticed_if_it_was_attested(void **state)
{
    (void)state;
    for (int closed = 0; closed < 2; closed++) {
        char *original = dir_new(), *killed = dir_new();
        struct log_store *s = make_groups(original);
        char *name = xasprintf("%08" PRIu32 ".seg", log_newest(s)->file);
        uint32_t from = log_newest(s)->end;

        log_append(s, HURT, 21, 3, 4);
        uint32_t to = log_newest(s)->end;
        if (closed == 0) {
            s->ops->attest(s);
            log_copy(original, killed);
        }
        log_shut(s);
        flip_the_last_frame(closed == 0 ? killed : original, name, from, to, 23);
        free(name);
        dir_free(killed);
        dir_free(original);
    }
}

/* An attestation carries no data: without it the frame before it is the last one. */
static void test_log_flip_in_an_attestation_loses_nothing(void **state)
{
    char *original = dir_new();
    struct log_store *s = make_groups(original);
    char *name = xasprintf("%08" PRIu32 ".seg", log_newest(s)->file);
    uint32_t end = log_newest(s)->end;

    (void)state;
    log_shut(s);
    for (uint32_t i = 0; i < FRAME_HEADER_BYTES; i++) {
        char *dir = dir_new(), *path = log_file(dir, name);

        log_copy(original, dir);
        file_flip_bit(path, end + i, i % 8);
        s = log_open(dir);
        for (uint64_t g = 1; g <= GROUPS; g++) {
            expect_group(s, g);
        }
        log_shut(s);
        free(path);
        dir_free(dir);
    }
    free(name);
    dir_free(original);
}

static void test_log_attestations_take_no_room(void **state)
{
    char *dir = dir_new();

    (void)state;
    log_shut(log_open(dir)); /* there is nothing to attest */
    struct log_store *s = make_groups(dir);
    uint32_t end = log_newest(s)->end;
    s->ops->attest(s);
    s->ops->attest(s);
    assert_int_equal(log_newest(s)->end, end); /* the next frame is written over it */
    log_hard(s, 1, 4, 2, 9);
    log_shut(s);
    s = log_open(dir);
    end = log_newest(s)->end;
    for (int i = 0; i < 3; i++) {
        log_shut(s);
        s = log_open(dir);
        assert_int_equal(log_newest(s)->end, end);
    }
    log_shut(s);
    dir_free(dir);
}

/* A log of several segments with live records, and spare segments. The last write is harmless. */
static struct log_store *make_segments(const char *dir)
{
    struct log_store *s = log_open(dir);

    log_create(s, 1);
    log_create(s, 3);
    for (uint64_t i = 0; i < 300; i++) {
        log_append(s, 3, i * 100 + 1, 100, 1);
        log_append(s, 1, i * 100 + 1, 100, 1);
    }
    log_remove(s, 3);
    log_turn_over(s);
    log_create(s, 2);
    return s;
}

static void test_log_flips_never_go_unnoticed(void **state)
{
    char *original = dir_new();
    struct log_store *s = make_segments(original);
    const struct segments *g = &((struct disk_log *)s)->files;
    uint64_t turned = log_find(s, TURN_OVER_ID)->last_index;
    struct rand r;

    (void)state;
    rand_seed(&r, 7);
    for (int round = 0; round < 300; round++) {
        const struct segment *at = g->live.items[g->live.head + rand_below(&r, g->live.count)];
        char *dir = dir_new(), *path = log_segment(dir, at);
        /* Half of the bytes are at the front, where the structures are. */
        uint64_t offset = rand_below(&r, round % 2 == 0 ? 256 : at->end);
        struct log_store *damaged = NULL;

        log_copy(original, dir);
        file_flip_bit(path, offset, (unsigned)rand_below(&r, 8));
        enum thole_code code = log_try_open(dir, &damaged, NULL);
        if (code == THOLE_OK) { /* replicas that are not reported as damaged are complete */
            const struct store_replica *x = log_find(damaged, 1);
            assert_non_null(x);
            assert_true(x->hard.term == UINT64_MAX || x->last_index == 30000);
            x = log_find(damaged, TURN_OVER_ID);
            assert_true(x->hard.term == UINT64_MAX || x->last_index == turned);
            log_shut(damaged);
        } else {
            assert_int_equal(code, THOLE_DATA_LOSS);
        }
        free(path);
        dir_free(dir);
    }
    log_shut(s);
    dir_free(original);
}

/* ---- Files ----------------------------------------------------------------------------------- */

enum harm { GONE, EMPTY, HEADER_FLIPPED, HEADER_ZEROED, HALVED };

/* One file in a copy of the log is harmed like this: the log refuses to open. */
static void expect_loss_by(const char *original, const char *name, enum harm harm)
{
    char *dir = dir_new(), *path = log_file(dir, name);

    log_copy(original, dir);
    struct bytes b = file_load(path);
    switch (harm) {
    case GONE:
        assert_int_equal(unlink(path), 0);
        break;
    case EMPTY:
        file_save(path, (struct slice){0});
        break;
    case HEADER_FLIPPED:
        file_flip_bit(path, 13, 2);
        break;
    case HEADER_ZEROED:
        memset(b.data, 0, SEGMENT_HEADER_BYTES);
        file_save(path, bytes_slice(&b));
        break;
    case HALVED:
        file_save(path, slice_of(b.data, b.size / 2));
        break;
    }
    expect_loss(dir);
    bytes_deinit(&b);
    free(path);
    dir_free(dir);
}

static void test_log_without_one_of_its_files_is_data_loss(void **state)
{
    char *dir = dir_new();
    struct log_store *s = make_segments(dir);
    const struct segments *g = &((struct disk_log *)s)->files;

    (void)state;
    assert_true(g->live.count > 4 && g->spare.count > 0);
    for (size_t i = 0; i < g->live.count; i++) {
        char *name = xasprintf("%08" PRIu32 ".seg", g->live.items[g->live.head + i]->file);

        expect_loss_by(dir, name, GONE);
        expect_loss_by(dir, name, HEADER_FLIPPED);
        expect_loss_by(dir, name, HEADER_ZEROED);
        if (i + 1 < g->live.count) { /* otherwise it looks like a torn write */
            expect_loss_by(dir, name, EMPTY);
            expect_loss_by(dir, name, HALVED);
        }
        free(name);
    }
    expect_loss_by(dir, "ID", GONE);
    expect_loss_by(dir, "ID", EMPTY);
    log_shut(s);
    dir_free(dir);
}

static void test_log_of_one_segment_without_it_is_data_loss(void **state)
{
    char *dir = dir_new();
    struct log_store *s = make_groups(dir);

    (void)state;
    assert_int_equal(log_newest(s)->number, 1);
    log_shut(s);
    expect_loss_by(dir, "00000001.seg", GONE);
    expect_loss_by(dir, "00000001.seg", HEADER_FLIPPED);
    expect_loss_by(dir, "00000001.seg", HEADER_ZEROED);
    expect_loss_by(dir, "ID", GONE);
    dir_free(dir);
}

static void test_log_with_the_segment_of_another_is_data_loss(void **state)
{
    char *dir = dir_new(), *other = dir_new();

    (void)state;
    log_shut(make_groups(dir));
    log_shut(make_groups(other));
    char *from = log_file(other, "00000001.seg"), *to = log_file(dir, "00000002.seg");
    struct bytes b = file_load(from);
    file_save(to, bytes_slice(&b));
    expect_loss(dir);
    bytes_deinit(&b);
    free(from);
    free(to);
    dir_free(dir);
    dir_free(other);
}

static void test_log_damaged_attempts_to_open_leave_no_files(void **state)
{
    char *dir = dir_new();

    (void)state;
    log_shut(make_groups(dir));
    char *path = log_file(dir, "00000001.seg"), *third = log_file(dir, "00000003.seg");
    file_flip_bit(path, 13, 2);
    for (int i = 0; i < 4; i++) {
        expect_loss(dir);
    }
    assert_int_not_equal(access(third, F_OK), 0);
    file_flip_bit(path, 13, 2); /* repaired */
    struct log_store *s = log_open(dir);
    expect_group(s, 1);
    log_shut(s);
    free(path);
    free(third);
    dir_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_flip_in_a_record_hurts_that_replica_alone),
        cmocka_unit_test(test_log_flip_in_a_host_record_is_data_loss),
        cmocka_unit_test(test_log_flip_around_the_records_is_data_loss),
        cmocka_unit_test(test_log_flip_in_the_last_frame_is_noticed_if_it_was_attested),
        cmocka_unit_test(test_log_flip_in_an_attestation_loses_nothing),
        cmocka_unit_test(test_log_attestations_take_no_room),
        cmocka_unit_test(test_log_flips_never_go_unnoticed),
        cmocka_unit_test(test_log_without_one_of_its_files_is_data_loss),
        cmocka_unit_test(test_log_of_one_segment_without_it_is_data_loss),
        cmocka_unit_test(test_log_with_the_segment_of_another_is_data_loss),
        cmocka_unit_test(test_log_damaged_attempts_to_open_leave_no_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
