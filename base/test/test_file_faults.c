/* Each system call of file_write_atomic and file_make_dirs fails once. The functions below replace
 * libc's: they take precedence over the shared library's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/test/temp_dir.h"

static int calls;        /* so far */
static int fail_at;      /* this call fails; 0: none */
static int fail_errno;   /* with this */
static size_t write_max; /* bytes that one write takes; 0: all */
static char trace[64];   /* a letter per call: Write, Sync of a file, Dir sync, Rename, Mkdir */

static void reset(int at, int err)
{
    calls = 0;
    fail_at = at;
    fail_errno = err;
    memset(trace, 0, sizeof trace);
}

static bool fails(char letter)
{
    size_t size = strlen(trace);
    if (size + 1 < sizeof trace) {
        trace[size] = letter;
    }
    if (++calls != fail_at) {
        return false;
    }
    errno = fail_errno;
    return true;
}

ssize_t write(int fd, const void *buf, size_t n)
{
    if (fd <= STDERR_FILENO) {
        return syscall(SYS_write, fd, buf, n);
    }
    if (fails('W')) {
        return -1;
    }
    return syscall(SYS_write, fd, buf, write_max > 0 && n > write_max ? write_max : n);
}

int fsync(int fd)
{
    struct stat info;
    bool dir = fstat(fd, &info) == 0 && S_ISDIR(info.st_mode);
    return fails(dir ? 'D' : 'S') ? -1 : (int)syscall(SYS_fsync, fd);
}

int rename(const char *old, const char *new)
{
    return fails('R') ? -1 : (int)syscall(SYS_rename, old, new);
}

int mkdir(const char *path, mode_t mode)
{
    return fails('M') ? -1 : (int)syscall(SYS_mkdir, path, mode);
}

static int make(void **state)
{
    reset(0, 0);
    write_max = 0;
    *state = temp_dir_new();
    return 0;
}

static int remove_again(void **state)
{
    reset(0, 0);
    temp_dir_free(*state);
    return 0;
}

static void assert_content(const char *path, const char *text)
{
    struct buf *b = NULL;
    assert_int_equal(file_read(path, 1000, &b, NULL), THOLE_OK);
    assert_true(slice_equal(slice_of(b->data, b->size), slice_str(text)));
    buf_unref(b);
}

static void test_file_faults_write_is_synced_before_it_is_visible(void **state)
{
    char *path = path_in(*state, "f");
    assert_int_equal(file_write_atomic(path, slice_str("text"), NULL), THOLE_OK);
    assert_string_equal(trace, "WSRD");
    reset(0, 0);
    write_max = 3;
    assert_int_equal(file_write_atomic(path, slice_str("12345678"), NULL), THOLE_OK);
    assert_string_equal(trace, "WWWSRD");
    assert_content(path, "12345678");
    free(path);
}

static void test_file_faults_failed_write_leaves_old_or_new_whole(void **state)
{
    struct thole_status st;
    char *path = path_in(*state, "f");
    char *temporary = path_in(*state, "f.tmp");
    write_max = 2;
    int at = 1;
    for (;; at++) {
        reset(0, 0);
        assert_int_equal(file_write_atomic(path, slice_str("before"), NULL), THOLE_OK);
        reset(at, EIO);
        enum thole_code code = file_write_atomic(path, slice_str("after"), &st);
        bool reached = calls >= at;
        if (!reached) {
            assert_int_equal(code, THOLE_OK);
            break;
        }
        assert_int_equal(code, THOLE_UNAVAILABLE);
        assert_int_equal(st.reason, THOLE_REASON_DISK);
        /* After the rename the file has its new content, but its durability is unknown. */
        assert_content(path, strchr(trace, 'D') != NULL ? "after" : "before");
        assert_int_equal(access(temporary, F_OK), -1);
    }
    assert_int_equal(at, 7); /* WWWSRD */
    free(temporary);
    free(path);
}

static void test_file_faults_interrupted_write_is_resumed(void **state)
{
    char *path = path_in(*state, "f");
    reset(1, EINTR);
    assert_int_equal(file_write_atomic(path, slice_str("text"), NULL), THOLE_OK);
    assert_string_equal(trace, "WWSRD");
    assert_content(path, "text");
    free(path);
}

static void test_file_faults_full_disk_is_low_space(void **state)
{
    struct thole_status st;
    char *path = path_in(*state, "f");
    reset(1, ENOSPC);
    assert_int_equal(file_write_atomic(path, slice_str("text"), &st), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_LOW_SPACE);
    reset(2, EDQUOT);
    assert_int_equal(file_write_atomic(path, slice_str("text"), &st), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_LOW_SPACE);
    free(path);
}

static void test_file_faults_failed_make_dirs_is_completed_by_the_next(void **state)
{
    struct thole_status st;
    int failures = 0;
    for (int at = 1;; at++) {
        char *name = xasprintf("%s/d%d/e/f", (char *)*state, at);
        reset(at, EIO);
        enum thole_code code = file_make_dirs(name, &st);
        bool reached = calls >= at;
        assert_int_equal(code, reached ? THOLE_UNAVAILABLE : THOLE_OK);
        failures += reached;
        reset(0, 0);
        assert_int_equal(file_make_dirs(name, NULL), THOLE_OK);
        /* Existing directories are synced again, since their creator may have been killed before
         * its sync. */
        assert_string_equal(trace + strlen(trace) - 6, "MDMDMD");
        free(name);
        if (!reached) {
            break;
        }
    }
    assert_true(failures >= 6);
}

static void test_file_faults_unreadable_parent_of_existing_dir_is_accepted(void **state)
{
    struct thole_status st;
    char *name = path_in(*state, "a/b");
    assert_int_equal(file_make_dirs(name, &st), THOLE_OK);
    int last = calls;
    reset(last, EACCES); /* the sync after the last mkdir, which finds the directory in place */
    assert_int_equal(file_make_dirs(name, &st), THOLE_OK);
    assert_int_equal(calls, last);
    free(name);
}

int main(void)
{
#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make, remove_again)
    const struct CMUnitTest tests[] = {
        IN_DIR(test_file_faults_write_is_synced_before_it_is_visible),
        IN_DIR(test_file_faults_failed_write_leaves_old_or_new_whole),
        IN_DIR(test_file_faults_interrupted_write_is_resumed),
        IN_DIR(test_file_faults_full_disk_is_low_space),
        IN_DIR(test_file_faults_failed_make_dirs_is_completed_by_the_next),
        IN_DIR(test_file_faults_unreadable_parent_of_existing_dir_is_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
