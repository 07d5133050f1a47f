/* The data directory: which files are kept, and which are refused. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/core/test/agent_fixture.h"
#include "agent/join/join.h"
#include "agent/join/peer_bootstrap.h"
#include "base/file.h"

#include <cmocka.h>

static enum thole_code open_at(struct fixture *f, const char *name, struct datadir *d,
                               struct identity *i, struct thole_status *st)
{
    char *dir = fixture_dir(f, 0);
    enum thole_code code = datadir_open(dir, name, d, i, st);
    free(dir);
    return code;
}

static void test_datadir_new_then_reopened_keeps_identity(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity a, b;
    uint64_t n = 0;
    struct lineage l;
    assert_int_equal(open_at(f, "h1", &d, &a, NULL), THOLE_OK);
    assert_true(uuid_is_nil(&a.cluster));
    assert_int_equal(datadir_next_start(&d, 500, NULL, &n, &l, NULL), THOLE_OK);
    assert_int_equal(n, 1);
    a.cluster = uuid_random();
    a.zero_replica = 3;
    a.zero_created = true;
    a.first.count = 2;
    for (int i = 0; i < 2; i++) {
        a.first.members[i].host = uuid_random();
        snprintf(a.first.members[i].name, 8, "h%d", i);
        snprintf(a.first.members[i].address, 32, "127.0.0.1:%d", 7400 + i);
        snprintf(a.first.members[i].tags, 32, "%s", i ? "zone=b,disk=ssd" : "");
    }
    a.first.cluster = a.cluster;
    assert_int_equal(datadir_save_identity(&d, &a, NULL), THOLE_OK);
    datadir_close(&d);

    assert_int_equal(open_at(f, NULL, &d, &b, NULL), THOLE_OK);
    assert_true(uuid_equal(&a.host, &b.host));
    assert_string_equal(b.name, "h1");
    assert_true(uuid_equal(&a.cluster, &b.cluster));
    assert_int_equal(b.zero_replica, 3);
    assert_true(b.zero_created);
    assert_int_equal(b.first.count, 2);
    assert_string_equal(b.first.members[1].tags, "zone=b,disk=ssd");
    assert_string_equal(b.first.members[0].tags, "");
    assert_int_equal(datadir_next_start(&d, 500, NULL, &n, &l, NULL), THOLE_OK);
    assert_int_equal(n, 2);
    datadir_close(&d);
    fixture_free(f);
}

/* A leader may rely on a voter's lease promise from before the restart, until the promise
 * expires. */
static void test_datadir_shorter_election_timeout_waits_for_the_difference(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    uint64_t n = 0;
    struct lineage l;
    assert_int_equal(open_at(f, NULL, &d, &i, NULL), THOLE_OK);
    assert_int_equal(datadir_next_start(&d, 500, NULL, &n, &l, NULL), THOLE_OK);
    uint64_t before_ns = clock_now(&clock_system);
    int stop[2];
    assert_int_equal(pipe(stop), 0);
    assert_int_equal(datadir_next_start(&d, 440, stop, &n, &l, NULL), THOLE_OK);
    assert_true(clock_now(&clock_system) - before_ns >= 60 * NS_PER_MS);
    assert_int_equal(n, 2);
    /* A caller that wants to stop need not wait, and changes nothing. */
    assert_int_equal(write(stop[1], "", 1), 1);
    assert_int_equal(datadir_next_start(&d, 10, stop, &n, &l, NULL), THOLE_CANCELLED);
    assert_true(clock_now(&clock_system) - before_ns < 400 * NS_PER_MS);
    assert_int_equal(datadir_next_start(&d, 440, NULL, &n, &l, NULL), THOLE_OK);
    assert_int_equal(n, 3);
    close(stop[0]);
    close(stop[1]);
    datadir_close(&d);
    fixture_free(f);
}

/* In place of a file: a FIFO that would block its reader, and a link that leads out of the
 * directory. */
static void test_datadir_fifo_or_link_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    struct thole_status st = {0};
    char *dir = fixture_dir(f, 0), *lock = xasprintf("%s/LOCK", dir);
    char *identity = xasprintf("%s/identity", dir), *outside = xasprintf("%s/outside", f->dir);
    struct buf *b = NULL;
    assert_int_equal(file_write_atomic(outside, slice_str("years of work"), NULL), THOLE_OK);
    assert_int_equal(file_make_dirs(dir, NULL), THOLE_OK);
    assert_int_equal(symlink(outside, lock), 0);
    assert_int_equal(open_at(f, NULL, &d, &i, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(file_read(outside, 100, &b, NULL), THOLE_OK);
    assert_int_equal(b->size, strlen("years of work"));
    buf_unref(b);
    assert_int_equal(unlink(lock), 0);
    assert_int_equal(mkfifo(lock, 0600), 0);
    assert_int_equal(open_at(f, NULL, &d, &i, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(unlink(lock), 0);
    assert_int_equal(mkfifo(identity, 0600), 0);
    assert_int_equal(open_at(f, NULL, &d, &i, &st), THOLE_FAILED_PRECONDITION);
    assert_non_null(strstr(st.message, "not a regular file"));
    free(outside);
    free(identity);
    free(lock);
    free(dir);
    fixture_free(f);
}

static void test_datadir_that_everybody_may_write_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    struct thole_status st = {0};
    char *dir = fixture_dir(f, 0);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(chmod(dir, 0777), 0);
    assert_int_equal(open_at(f, NULL, &d, &i, &st), THOLE_FAILED_PRECONDITION);
    assert_non_null(strstr(st.message, "chmod"));
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(open_at(f, NULL, &d, &i, NULL), THOLE_OK);
    datadir_close(&d);
    free(dir);
    fixture_free(f);
}

/* A start that the registry may know is never forgotten, however many starts followed. */
static void test_datadir_lineage_keeps_what_was_admitted(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    struct lineage l = {0}, first;
    uint64_t n = 0, last = 0, known = 0;
    assert_int_equal(open_at(f, NULL, &d, &i, NULL), THOLE_OK);
    assert_int_equal(datadir_next_start(&d, 500, NULL, &n, &first, NULL), THOLE_OK);
    assert_int_equal(datadir_admitted(&d, n, NULL), THOLE_OK);
    for (int k = 0; k < 3 * LINEAGE_MAX; k++) {
        last = l.start;
        assert_int_equal(datadir_next_start(&d, 500, NULL, &n, &l, NULL), THOLE_OK);
        assert_int_equal(lineage_judge(&l, n, 1, first.start), LINEAGE_FOLLOWS);
        assert_true(k == 0 || lineage_judge(&l, n, n - 1, last) == LINEAGE_FOLLOWS);
        assert_int_equal(lineage_judge(&l, n, 1, first.start + 1), LINEAGE_BRANCH);
    }
    for (int k = 0; k < 3 * LINEAGE_MAX; k++) { /* starts are admitted: old ones go */
        assert_int_equal(datadir_admitted(&d, n, NULL), THOLE_OK);
        known = n;
        last = l.start;
        assert_int_equal(datadir_next_start(&d, 500, NULL, &n, &l, NULL), THOLE_OK);
        assert_int_equal(lineage_judge(&l, n, known, last), LINEAGE_FOLLOWS);
        assert_true(l.start != last && l.count <= LINEAGE_MAX);
    }
    assert_true(l.oldest > 1);
    datadir_close(&d);
    fixture_free(f);
}

static void test_datadir_locked_by_another_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d, e;
    struct identity i;
    struct thole_status st = {0};
    assert_int_equal(open_at(f, NULL, &d, &i, NULL), THOLE_OK);
    assert_int_equal(open_at(f, NULL, &e, &i, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_LOCKED);
    datadir_close(&d);
    fixture_free(f);
}

static void test_datadir_lock_of_a_process_that_ends_is_waited_for(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    char ready;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool ok = open_at(f, NULL, &d, &i, NULL) == THOLE_OK && write(ends[1], "r", 1) == 1;
        (void)poll(NULL, 0, 300);
        _exit(ok ? 0 : 1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &ready, 1), 1);
    assert_int_equal(open_at(f, NULL, &d, &i, NULL), THOLE_OK);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(ends[0]);
    datadir_close(&d);
    fixture_free(f);
}

static void put(struct fixture *f, const char *name, const char *text)
{
    char *dir = fixture_dir(f, 0), *path = xasprintf("%s/%s", dir, name);
    assert_int_equal(file_make_dirs(dir, NULL), THOLE_OK);
    assert_int_equal(file_write_atomic(path, slice_str(text), NULL), THOLE_OK);
    free(path);
    free(dir);
}

static void test_datadir_foreign_is_refused_untouched(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    struct thole_status st = {0};
    put(f, "thesis.tex", "years of work");
    assert_int_equal(open_at(f, NULL, &d, &i, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_FORMAT);
    assert_non_null(strstr(st.message, "thesis.tex"));
    char *dir = fixture_dir(f, 0), *lock = xasprintf("%s/LOCK", dir);
    assert_int_not_equal(access(lock, F_OK), 0);
    free(lock);
    free(dir);
    fixture_free(f);
}

static void test_datadir_newer_format_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    struct thole_status st = {0};
    put(f, "identity", "thole-host 99\nsoul immortal\nsum 0\n");
    assert_int_equal(open_at(f, NULL, &d, &i, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_FORMAT);
    assert_non_null(strstr(st.message, "newer"));
    fixture_free(f);
}

static void test_datadir_damaged_identity_is_data_loss(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    struct thole_status st = {0};
    put(f, "identity",
        "thole-host 1\nhost 00000000-0000-4000-8000-000000000001\nname h1\nsum 0123456789abcdef\n");
    assert_int_equal(open_at(f, NULL, &d, &i, &st), THOLE_DATA_LOSS);
    assert_int_equal(st.reason, THOLE_REASON_CORRUPT);
    fixture_free(f);
}

static void test_datadir_other_name_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    struct thole_status st = {0};
    assert_int_equal(open_at(f, "h1", &d, &i, NULL), THOLE_OK);
    datadir_close(&d);
    assert_int_equal(open_at(f, "h2", &d, &i, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_WRONG_HOST);
    fixture_free(f);
}

static void test_datadir_promise_is_made_once(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct datadir d;
    struct identity i;
    struct thole_status st = {0};
    struct member_list l = {.count = 1}, back;
    assert_int_equal(open_at(f, "h1", &d, &i, NULL), THOLE_OK);
    assert_int_equal(datadir_load_promise(&d, &back, NULL), THOLE_OK);
    assert_true(uuid_is_nil(&back.cluster));
    l.members[0].host = i.host;
    snprintf(l.members[0].name, 8, "h1");
    snprintf(l.members[0].address, 16, "a:1");
    l.cluster = join__peer_bootstrap_cluster_id(&l);
    assert_int_equal(datadir_save_promise(&d, &l, NULL), THOLE_OK);
    assert_int_equal(datadir_save_promise(&d, &l, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(datadir_load_promise(&d, &back, NULL), THOLE_OK);
    assert_true(uuid_equal(&back.cluster, &l.cluster));
    assert_int_equal(back.count, 1);
    assert_string_equal(back.members[0].address, "a:1");
    datadir_close(&d);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_datadir_new_then_reopened_keeps_identity),
        cmocka_unit_test(test_datadir_shorter_election_timeout_waits_for_the_difference),
        cmocka_unit_test(test_datadir_fifo_or_link_is_refused),
        cmocka_unit_test(test_datadir_that_everybody_may_write_is_refused),
        cmocka_unit_test(test_datadir_lineage_keeps_what_was_admitted),
        cmocka_unit_test(test_datadir_locked_by_another_is_refused),
        cmocka_unit_test(test_datadir_lock_of_a_process_that_ends_is_waited_for),
        cmocka_unit_test(test_datadir_foreign_is_refused_untouched),
        cmocka_unit_test(test_datadir_newer_format_is_refused),
        cmocka_unit_test(test_datadir_damaged_identity_is_data_loss),
        cmocka_unit_test(test_datadir_other_name_is_refused),
        cmocka_unit_test(test_datadir_promise_is_made_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
