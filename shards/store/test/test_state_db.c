/* The state database: views, iterators, spaces, flushing, and what a crash leaves.
 *
 * The process that is killed is this executable again: "test_state_db write DIR". */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

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
    put(db, list[1], "k", "again"); /* a range deletion does not reach what comes later */
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

/* Batch n sets all keys to n; every 50th is flushed, and then its number printed. */
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

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "write") == 0) {
        return child_write(argv[2]);
    }
    self = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_state_views_do_not_move, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_spaces_are_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_unflushed_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_newer_format_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state_crash_loses_whole_batches_only, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
