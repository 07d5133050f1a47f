/* The state database: views, iterators, spaces, flushing, and its content after a crash.
 *
 * The killed process is this executable again: "test_state_db write DIR". */
#include <glob.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "shards/store/state_internal.h"
#include "shards/store/test/store_fixture.h"

static char *self;
static const struct state_space one = {1, 1};

static struct state_db *db_open(const char *dir)
{
    struct thole_status st = {0};
    struct state_db *db = NULL;

    if (state_db_open(&(struct state_db_options){.path = dir}, &db, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    return db;
}

static int setup(void **state)
{
    *state = dir_new();
    return 0;
}

static int teardown(void **state)
{
    dir_free(*state);
    return 0;
}

static void put(struct state_db *db, struct state_space s, const char *key, const char *value)
{
    struct state_batch *b = state_batch_new(db);

    state_batch_put(b, s, slice_str(key), slice_str(value));
    assert_int_equal(state_batch_write(b, NULL), THOLE_OK);
    state_batch_free(b);
}

static void expect(struct state_db *db, const struct state_view *v, struct state_space s,
                   const char *key, const char *value)
{
    struct buf *b = NULL;
    enum thole_code code = state_get(db, v, s, slice_str(key), &b, NULL);

    if (value == NULL) {
        assert_int_equal(code, THOLE_NOT_FOUND);
        assert_null(b);
        return;
    }
    assert_int_equal(code, THOLE_OK);
    assert_true(slice_equal(slice_of(b->data, b->size), slice_str(value)));
    buf_unref(b);
}

/* All keys of a range, joined. */
static void expect_keys(struct state_db *db, const struct state_view *v, struct state_space s,
                        const char *from, const char *to, const char *keys)
{
    struct state_iter *it = state_iter_new(db, v, s, slice_str(from), slice_str(to));
    struct bytes seen = {0};
    struct slice key, value;

    while (state_iter_next(it, &key, &value)) {
        bytes_append_slice(&seen, key);
    }
    assert_false(state_iter_next(it, &key, &value));
    assert_int_equal(state_iter_status(it, NULL), THOLE_OK);
    state_iter_free(it);
    assert_true(slice_equal(bytes_slice(&seen), slice_str(keys)));
    bytes_deinit(&seen);
}

static void test_state_views_do_not_move(void **state)
{
    struct state_db *db = db_open(*state);

    put(db, one, "a", "1");
    put(db, one, "b", "1");
    struct state_view *v = state_view_acquire(db);
    struct state_batch *b = state_batch_new(db);
    state_batch_put(b, one, slice_str("a"), slice_str("2"));
    state_batch_delete(b, one, slice_str("b"));
    state_batch_put(b, one, slice_str("c"), slice_str("2"));
    expect(db, NULL, one, "a", "1"); /* not yet written */
    assert_int_equal(state_batch_write(b, NULL), THOLE_OK);
    state_batch_free(b);
    expect(db, v, one, "a", "1");
    expect(db, v, one, "b", "1");
    expect(db, v, one, "c", NULL);
    expect(db, NULL, one, "a", "2");
    expect(db, NULL, one, "b", NULL);
    expect_keys(db, v, one, "", "", "ab");
    expect_keys(db, NULL, one, "", "", "ac");
    assert_int_equal(state_db_flush(db, NULL), THOLE_OK);
    expect_keys(db, v, one, "", "", "ab");
    state_view_release(db, v);
    state_db_close(db);
}

static void test_state_spaces_are_apart(void **state)
{
    static const struct state_space list[] = {
        {1, 1}, {1, 2}, {1, UINT64_MAX}, {2, 0}, {UINT64_MAX, 7}};
    struct state_db *db = db_open(*state);
    struct state_space *found = NULL;
    size_t n = 0;

    assert_int_equal(state_spaces(db, &found, &n, NULL), THOLE_OK);
    assert_int_equal(n, 0);
    free(found);
    for (size_t i = 0; i < 5; i++) {
        put(db, list[i], "", "empty key");
        put(db, list[i], "k", "1");
        put(db, list[i], "\xff\xff", "1");
    }
    for (size_t i = 0; i < 5; i++) {
        expect_keys(db, NULL, list[i], "", "", "k\xff\xff");
        expect_keys(db, NULL, list[i], "a", "k", "");
        expect_keys(db, NULL, list[i], "a", "l", "k");
        expect_keys(db, NULL, list[i], "k", "", "k\xff\xff");
    }
    assert_int_equal(state_space_drop(db, list[1], NULL), THOLE_OK);
    assert_int_equal(state_space_drop(db, list[2], NULL), THOLE_OK);
    state_db_close(db);
    db = db_open(*state);
    assert_int_equal(state_spaces(db, &found, &n, NULL), THOLE_OK);
    assert_int_equal(n, 3);
    assert_int_equal(found[1].replica_id, 2);
    assert_true(found[2].replica_id == UINT64_MAX && found[2].generation == 7);
    free(found);
    expect(db, NULL, list[0], "k", "1");
    expect(db, NULL, list[1], "k", NULL);
    put(db, list[1], "k", "again"); /* a range deletion does not affect later writes */
    assert_int_equal(state_db_flush(db, NULL), THOLE_OK);
    expect(db, NULL, list[1], "k", "again");
    state_db_close(db);
}

static void test_state_unflushed_bytes(void **state)
{
    struct state_db *db = db_open(*state);

    assert_int_equal(state_db_unflushed_bytes(db), 0);
    put(db, one, "key", "a value of some bytes");
    assert_in_range(state_db_unflushed_bytes(db), 40, 200);
    assert_int_equal(state_db_flush(db, NULL), THOLE_OK);
    assert_int_equal(state_db_unflushed_bytes(db), 0);
    state_db_close(db);
}

static void test_state_newer_format_is_refused(void **state)
{
    uint8_t format[STATE_PREFIX_BYTES] = {0};
    struct thole_status st = {0};
    struct state_db *db = db_open(*state);
    char *error = NULL;

    rocksdb_put(db->db, db->no_wal, (const char *)format, sizeof format, "2", 1, &error);
    assert_null(error);
    state_db_close(db);
    assert_int_equal(state_db_open(&(struct state_db_options){.path = *state}, &db, &st),
                     THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_FORMAT);
}

/* ---- Crash ----------------------------------------------------------------------------------- */

enum { KEYS = 10 };

/* Batch n sets all keys to n; every 50th batch is flushed, and then its number is printed. */
static int child_write(const char *dir)
{
    struct state_db *db = db_open(dir);
    struct state_batch *b = state_batch_new(db);
    struct buf *found = NULL;
    char key[32], value[4096];
    uint64_t n = 0;

    if (state_get(db, NULL, one, slice_str("key0"), &found, NULL) == THOLE_OK) {
        memcpy(value, found->data, found->size);
        value[found->size] = '\0';
        n = strtoull(value, NULL, 10);
        buf_unref(found);
    }
    memset(value, ' ', sizeof value);
    for (;;) {
        n++;
        state_batch_clear(b);
        for (int k = 0; k < KEYS; k++) {
            snprintf(key, sizeof key, "key%d", k);
            int size = snprintf(value, sizeof value, "%" PRIu64, n);
            value[size] = ' '; /* long, so that memtables fill up by themselves as well */
            state_batch_put(b, one, slice_str(key), slice_of(value, sizeof value - 1));
        }
        if (state_batch_write(b, NULL) != THOLE_OK) {
            return 1;
        }
        if (n % 50 == 0) {
            if (state_db_flush(db, NULL) != THOLE_OK) {
                return 1;
            }
            int size = snprintf(key, sizeof key, "%" PRIu64 "\n", n);
            if (write(STDOUT_FILENO, key, (size_t)size) != size) {
                return 1;
            }
        }
    }
}

static uint64_t run_and_kill(const char *dir, int lines)
{
    int fds[2];
    char line[64];
    uint64_t flushed = 0;

    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        close(fds[0]);
        close(fds[1]);
        execl(self, self, "write", dir, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    FILE *f = fdopen(fds[0], "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        flushed = strtoull(line, NULL, 10);
        if (--lines == 0) {
            usleep(3000); /* into the middle of unflushed batches */
            kill(pid, SIGKILL);
        }
    }
    fclose(f);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    return flushed;
}

static void test_state_crash_loses_whole_batches_only(void **state)
{
    (void)state;
    for (int round = 1; round <= 4; round++) {
        uint64_t flushed = run_and_kill(*state, round * 2), value = 0;
        struct state_db *db = db_open(*state);

        for (int k = 0; k < KEYS; k++) {
            struct buf *b = NULL;
            char key[16];

            snprintf(key, sizeof key, "key%d", k);
            assert_int_equal(state_get(db, NULL, one, slice_str(key), &b, NULL), THOLE_OK);
            uint64_t v = strtoull((const char *)b->data, NULL, 10);
            buf_unref(b);
            assert_true(k == 0 || v == value);
            value = v;
        }
        assert_true(value >= flushed);
        state_db_close(db);
    }
}

/* ---- Damage ---------------------------------------------------------------------------------- */

enum { SPACES = 3, SPACE_KEYS = 400 };

static struct state_space space_of(uint64_t i)
{
    return (struct state_space){i + 1, 7};
}

static void put_many(struct state_db *db, struct state_space s, const char *value)
{
    char key[16], text[512];

    for (int k = 0; k < SPACE_KEYS; k++) {
        snprintf(key, sizeof key, "key-%04d", k);
        snprintf(text, sizeof text, "%s-%d-%0200d", value, k, k * 7919);
        put(db, s, key, text);
    }
}

/* Two tables for each space: the second overwrites the values of the first. */
static void make_damageable(const char *dir)
{
    struct state_db *db = db_open(dir);

    for (uint64_t i = 0; i < SPACES; i++) {
        put_many(db, space_of(i), "old");
    }
    assert_int_equal(state_db_flush(db, NULL), THOLE_OK);
    for (uint64_t i = 0; i < SPACES; i++) {
        put_many(db, space_of(i), "new");
        assert_int_equal(state_db_flush(db, NULL), THOLE_OK);
    }
    state_db_close(db);
}

/* One table, with all spaces in it, so that RocksDB does not trigger a compaction. A pending
 * compaction might find the damage at the next open, before the test does. */
static void make_damageable_without_compaction(const char *dir)
{
    struct state_db *db = db_open(dir);

    for (uint64_t i = 0; i < SPACES; i++) {
        put_many(db, space_of(i), "new");
    }
    assert_int_equal(state_db_flush(db, NULL), THOLE_OK);
    state_db_close(db);
}

static void expect_space(struct state_db *db, struct state_space s, bool lost)
{
    struct state_iter *it = state_iter_new(db, NULL, s, (struct slice){0}, (struct slice){0});
    struct slice key, value;
    int n = 0;

    while (state_iter_next(it, &key, &value)) {
        n++;
        assert_true(value.size > 4 && memcmp(value.data, "new-", 4) == 0);
    }
    assert_int_equal(state_iter_status(it, NULL), THOLE_OK);
    assert_int_equal(n, lost ? 0 : SPACE_KEYS);
    state_iter_free(it);
}

static char *note_path; /* the path */

static void note_here(const char *old, const struct state_wanted *list, size_t n)
{
    (void)list;
    assert_int_equal(n, SPACES);
    char *path = xasprintf("%s/NOTE", old);
    assert_int_equal(file_write_atomic(path, slice_str("here"), NULL), THOLE_OK);
    free(note_path);
    note_path = path;
}

/* Salvage, open, and count the lost spaces. */
static int salvage(const char *path)
{
    struct state_wanted list[SPACES];
    struct thole_status st = {0};
    char *kept = NULL;
    int lost = 0;

    for (uint64_t i = 0; i < SPACES; i++) {
        list[i] = (struct state_wanted){.space = space_of(i)};
    }
    if (state_db_salvage(path, list, SPACES, note_here, &kept, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    struct state_db *db = db_open(path);
    for (uint64_t i = 0; i < SPACES; i++) {
        expect_space(db, space_of(i), list[i].lost);
        lost += list[i].lost;
    }
    state_db_close(db);
    assert_true((kept != NULL) == (lost > 0));
    if (kept != NULL) { /* including what was written into it before */
        char *note = xasprintf("%s/NOTE", kept);
        assert_int_equal(access(note, F_OK), 0);
        assert_false(state_db_is_remains(kept));
        free(note);
    }
    assert_true(note_path != NULL && access(note_path, F_OK) != 0);
    free(note_path);
    note_path = NULL;
    free(kept);
    return lost;
}

static char *sub(const char *dir, const char *name)
{
    return xasprintf("%s/%s", dir, name);
}

static void copy_tree(const char *from, const char *to)
{
    char *command = xasprintf("cp -r '%s' '%s'", from, to);

    assert_int_equal(system(command), 0);
    free(command);
}

static void flip(const char *path, uint64_t at)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    int byte = fgetc(f);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    assert_int_not_equal(fputc(byte ^ 4, f), EOF);
    assert_int_equal(fclose(f), 0);
}

static uint64_t size_of(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return (uint64_t)info.st_size;
}

/* Malloced; `n` wraps around. */
static char *nth_file(const char *path, const char *pattern, size_t n)
{
    char *all = sub(path, pattern);
    glob_t g;

    assert_int_equal(glob(all, 0, NULL, &g), 0);
    char *ret = xstrdup(g.gl_pathv[n % g.gl_pathc]);
    globfree(&g);
    free(all);
    return ret;
}

/* Damage to a byte of any file of the database, at any offset: every space not reported lost is
 * complete. */
static void test_state_salvage_loses_what_is_damaged_and_nothing_else(void **state)
{
    char *original = sub(*state, "original"), *path = sub(*state, "state");
    int partly = 0, whole = 0;

    make_damageable(original);
    for (int round = 0; round < 36; round++) {
        copy_tree(original, path);
        char *file = nth_file(path, round % 6 == 5 ? "MANIFEST-*" : "*.sst", (size_t)round);
        flip(file, size_of(file) * (uint64_t)round / 36);
        state__mark(path);
        int lost = salvage(path);
        partly += lost > 0 && lost < SPACES;
        whole += lost == 0;
        free(file);
        char *command = xasprintf("rm -rf '%s'*", path);
        assert_int_equal(system(command), 0);
        free(command);
    }
    print_message("nothing lost: %d, one or two spaces: %d of 36\n", whole, partly);
    assert_true(partly > 6);
    free(original);
    free(path);
}

static void note(void *ctx, const char *what)
{
    (void)what;
    ++*(int *)ctx;
}

/* A compaction that finds damage makes RocksDB refuse all writes. The damage is recorded, and the
 * directory is not opened again until a salvage. */
static void test_state_damage_is_noted_once_and_salvaged(void **state)
{
    char *path = sub(*state, "state");
    struct state_db *db = NULL;
    struct thole_status st = {0};
    struct buf *b = NULL;
    int noted = 0;

    make_damageable_without_compaction(path);
    char *file = dir_newest(path, ".sst");
    flip(file, size_of(file) / 2); /* in the second of three spaces */
    struct state_db_options o = {.path = path, .damaged = note, .ctx = &noted};
    assert_int_equal(state_db_open(&o, &db, &st), THOLE_OK);
    for (int k = 0; k < 2 * SPACES * SPACE_KEYS; k++) { /* every key twice */
        char key[16];
        snprintf(key, sizeof key, "key-%04d", k / (2 * SPACES));
        (void)!state_get(db, NULL, space_of((uint64_t)k % SPACES), slice_str(key), &b, NULL);
        buf_unref(b);
        b = NULL;
    }
    assert_int_equal(noted, 1);
    state_db_close(db);
    assert_int_equal(state_db_open(&o, &db, &st), THOLE_DATA_LOSS);
    assert_int_equal(salvage(path), 1);
    free(file);
    free(path);
}

/* Killed between the renames. */
static void test_state_salvage_is_finished_by_the_next_open(void **state)
{
    char *path = sub(*state, "state"), *whole = sub(*state, "state.whole");

    make_damageable(path);
    assert_int_equal(rename(path, whole), 0);
    struct state_db *db = db_open(path);
    for (uint64_t i = 0; i < SPACES; i++) {
        expect_space(db, space_of(i), false);
    }
    state_db_close(db);
    free(path);
    free(whole);
}

/* Killed during the copy; then an operator deleted the old database, to make room. The copy is
 * incomplete, so it must not pass for the replicas' data. */
static void test_state_salvage_that_was_cut_short_is_not_taken(void **state)
{
    char *path = sub(*state, "state"), *fresh = sub(*state, "state.new");

    make_damageable(path);
    assert_int_equal(rename(path, fresh), 0);
    struct state_db *db = db_open(path);
    struct slice key, value;
    struct state_iter *it =
        state_iter_new(db, NULL, space_of(0), (struct slice){0}, (struct slice){0});
    assert_false(state_iter_next(it, &key, &value));
    state_iter_free(it);
    state_db_close(db);
    free(path);
    free(fresh);
}

/* "key=value;" of [from, to) as the batch sees it. */
static void expect_range(struct state_batch *b, const char *from, const char *to,
                         const char *expected)
{
    struct state_iter *it = state_batch_iter_new(b, one, slice_str(from), slice_str(to));
    struct slice key, value;
    struct bytes found = {0};

    while (state_iter_next(it, &key, &value)) {
        bytes_append_slice(&found, key);
        bytes_append_str(&found, "=");
        bytes_append_slice(&found, value);
        bytes_append_str(&found, ";");
    }
    assert_int_equal(state_iter_status(it, NULL), THOLE_OK);
    state_iter_free(it);
    if (!slice_equal(bytes_slice(&found), slice_str(expected))) {
        fail_msg("%.*s instead of %s", (int)found.size, (const char *)found.data, expected);
    }
    bytes_deinit(&found);
}

static void test_state_batch_is_read_over_the_database(void **state)
{
    struct state_db *db = db_open(*state);
    struct buf *value = NULL;

    put(db, one, "a", "1");
    put(db, one, "b", "2");
    put(db, one, "c", "3");
    put(db, (struct state_space){1, 2}, "b", "other");
    struct state_batch *b = state_batch_new_readable(db);
    state_batch_put(b, one, slice_str("b"), slice_str("new"));
    state_batch_put(b, one, slice_str("bb"), slice_str("x"));
    state_batch_put(b, one, slice_str("z"), slice_str("last"));
    state_batch_delete(b, one, slice_str("a"));
    expect_range(b, "", "", "b=new;bb=x;c=3;z=last;");
    expect_range(b, "a", "c", "b=new;bb=x;"); /* the bound holds for the batch's records too */
    assert_int_equal(state_batch_get(b, one, slice_str("a"), &value, NULL), THOLE_NOT_FOUND);
    assert_int_equal(state_batch_get(b, one, slice_str("c"), &value, NULL), THOLE_OK);
    buf_unref(value);

    state_batch_mark(b);
    state_batch_delete(b, one, slice_str("b"));
    state_batch_put(b, one, slice_str("a"), slice_str("again"));
    state_batch_put(b, one, slice_str("bb"), slice_str("y"));
    expect_range(b, "", "", "a=again;bb=y;c=3;z=last;");
    state_batch_undo(b);
    expect_range(b, "", "", "b=new;bb=x;c=3;z=last;");
    expect(db, NULL, one, "b", "2");
    assert_int_equal(state_batch_write(b, NULL), THOLE_OK);
    state_batch_free(b);
    expect(db, NULL, one, "a", NULL);
    expect(db, NULL, one, "b", "new");
    expect(db, NULL, (struct state_space){1, 2}, "b", "other");
    state_db_close(db);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "write") == 0) {
        return child_write(argv[2]);
    }
    self = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_state_views_do_not_move, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_spaces_are_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_batch_is_read_over_the_database, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_state_unflushed_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_newer_format_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_salvage_loses_what_is_damaged_and_nothing_else,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_damage_is_noted_once_and_salvaged, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_state_salvage_is_finished_by_the_next_open, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_state_salvage_that_was_cut_short_is_not_taken, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_state_crash_loses_whole_batches_only, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
