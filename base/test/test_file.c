#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/test/temp_dir.h"

static int make(void **state)
{
    *state = temp_dir_new();
    return 0;
}

static int remove_again(void **state)
{
    temp_dir_free(*state);
    return 0;
}

static void write_text(const char *path, const char *text)
{
    assert_int_equal(file_write_atomic(path, slice_str(text), NULL), THOLE_OK);
}

static void assert_content(const char *path, const char *text)
{
    struct buf *b = NULL;
    assert_int_equal(file_read(path, 1 << 20, &b, NULL), THOLE_OK);
    assert_true(slice_equal(slice_of(b->data, b->size), slice_str(text)));
    buf_unref(b);
}

static bool exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

static void test_file_make_dirs_makes_what_is_missing(void **state)
{
    char *deep = path_in(*state, "a/b//c/");
    struct stat info;
    for (int i = 0; i < 2; i++) { /* the second time all directories exist */
        assert_int_equal(file_make_dirs(deep, NULL), THOLE_OK);
        assert_int_equal(stat(deep, &info), 0);
        assert_true(S_ISDIR(info.st_mode));
        assert_int_equal(info.st_mode & 0777, 0700);
    }
    free(deep);
    assert_int_equal(file_make_dirs("/", NULL), THOLE_OK);
}

static void test_file_make_dirs_relative_starts_here(void **state)
{
    char *here = getcwd(NULL, 0);
    assert_int_equal(chdir(*state), 0);
    assert_int_equal(file_make_dirs("x/y", NULL), THOLE_OK);
    assert_int_equal(file_make_dirs("z", NULL), THOLE_OK);
    write_text("plain", "no directory");
    assert_content("plain", "no directory");
    assert_int_equal(file_remove_tree("plain", NULL), THOLE_OK);
    assert_true(exists("x/y") && exists("z") && !exists("plain"));
    assert_int_equal(chdir(here), 0);
    free(here);
}

static void test_file_make_dirs_through_a_file_fails(void **state)
{
    struct thole_status st;
    char *file = path_in(*state, "f");
    char *below = path_in(*state, "f/d");
    write_text(file, "");
    assert_int_equal(file_make_dirs(file, &st), THOLE_FAILED_PRECONDITION);
    assert_non_null(strstr(st.message, file));
    assert_int_equal(file_make_dirs(below, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(file_make_dirs("", &st), THOLE_INVALID_ARGUMENT);
    free(below);
    free(file);
}

static void test_file_write_atomic_replaces_the_whole_content(void **state)
{
    char *path = path_in(*state, "f");
    char *temporary = path_in(*state, "f.tmp");
    struct stat info;
    write_text(path, "a longer first content");
    write_text(temporary, "left by a crash, and longer than what follows");
    write_text(path, "second");
    assert_content(path, "second");
    assert_false(exists(temporary));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    write_text(path, "");
    assert_content(path, "");
    free(temporary);
    free(path);
}

static void test_file_write_atomic_that_fails_keeps_the_old_content(void **state)
{
    struct thole_status st = {0};
    char *path = path_in(*state, "dir");
    char *inner = path_in(path, "kept");
    char *temporary = path_in(*state, "dir.tmp");
    char *nowhere = path_in(*state, "missing/f");
    assert_int_equal(file_make_dirs(path, NULL), THOLE_OK);
    write_text(inner, "kept");
    assert_int_equal(file_write_atomic(path, slice_str("x"), &st), THOLE_FAILED_PRECONDITION);
    assert_non_null(strstr(st.message, path));
    assert_content(inner, "kept");
    assert_false(exists(temporary));
    assert_int_equal(file_write_atomic(nowhere, slice_str("x"), &st), THOLE_NOT_FOUND);
    free(nowhere);
    free(temporary);
    free(inner);
    free(path);
}

static void test_file_read_limits_are_exact(void **state)
{
    struct thole_status st;
    struct buf *b = NULL;
    char *path = path_in(*state, "f");
    write_text(path, "12345");
    assert_int_equal(file_read(path, 5, &b, &st), THOLE_OK);
    assert_int_equal(b->size, 5);
    buf_unref(b);
    b = NULL;
    assert_int_equal(file_read(path, 4, &b, &st), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_TOO_LARGE);
    assert_null(b);
    write_text(path, "");
    assert_int_equal(file_read(path, 0, &b, &st), THOLE_OK);
    assert_int_equal(b->size, 0);
    buf_unref(b);
    b = NULL;
    assert_int_equal(file_read(*state, 1 << 20, &b, &st), THOLE_FAILED_PRECONDITION);
    free(path);
    path = path_in(*state, "missing");
    assert_int_equal(file_read(path, 1, &b, &st), THOLE_NOT_FOUND);
    assert_non_null(strstr(st.message, path));
    assert_null(b);
    free(path);
}

/* Such a file has size 0 for stat. */
static void test_file_read_of_a_file_without_size_is_whole(void **state)
{
    (void)state;
    struct buf *b = NULL;
    struct thole_status st;
    assert_int_equal(file_read("/proc/self/maps", 1 << 24, &b, NULL), THOLE_OK);
    assert_true(b->size > 100);
    buf_unref(b);
    b = NULL;
    assert_int_equal(file_read("/proc/self/maps", 100, &b, &st), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_TOO_LARGE);
}

static void hold_lock(const char *path, int ready, int done)
{
    int fd;
    char byte = 0;
    if (file_lock(path, &fd, NULL) != THOLE_OK || write(ready, &byte, 1) != 1) {
        _exit(1);
    }
    _exit(read(done, &byte, 1) == 0 ? 0 : 1);
}

static void test_file_lock_held_by_another_process_is_refused(void **state)
{
    struct thole_status st = {0};
    char *path = path_in(*state, "lock");
    int ready[2], done[2], fd = -1;
    char byte;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(done), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(done[1]);
        hold_lock(path, ready[1], done[0]);
    }
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);

    assert_int_equal(file_lock(path, &fd, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_LOCKED);
    assert_int_equal(fd, -1);
    char *owner = xasprintf("process %d", (int)pid);
    assert_non_null(strstr(st.message, owner));
    free(owner);

    /* However the owner ends, its lock is released. */
    int status;
    (void)close(done[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(file_lock(path, &fd, &st), THOLE_OK);
    (void)close(fd);
    (void)close(ready[0]);
    (void)close(done[0]);
    free(path);
}

static void test_file_lock_twice_in_one_process_is_refused(void **state)
{
    struct thole_status st = {0};
    char *path = path_in(*state, "lock");
    int first = -1, second = -1;
    write_text(path, "999999999999 a stale and longer text");
    assert_int_equal(file_lock(path, &first, &st), THOLE_OK);
    assert_int_not_equal(fcntl(first, F_GETFD) & FD_CLOEXEC, 0);
    char *content = xasprintf("%d\n", (int)getpid());
    assert_content(path, content);
    free(content);
    assert_int_equal(file_lock(path, &second, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_LOCKED);
    assert_non_null(strstr(st.message, "this process"));
    (void)close(first);
    assert_int_equal(file_lock(path, &second, &st), THOLE_OK);
    /* An owner that has not written its process id yet. */
    assert_int_equal(ftruncate(second, 0), 0);
    assert_int_equal(file_lock(path, &first, &st), THOLE_FAILED_PRECONDITION);
    assert_non_null(strstr(st.message, "another process"));
    (void)close(second);
    free(path);
    path = path_in(*state, "missing/lock");
    assert_int_equal(file_lock(path, &first, &st), THOLE_NOT_FOUND);
    free(path);
}

static void test_file_remove_tree_stays_inside(void **state)
{
    char *outside = path_in(*state, "outside");
    char *kept = path_in(outside, "kept");
    char *tree = path_in(*state, "tree");
    char *deep = path_in(tree, "a/b/c");
    char *link = path_in(tree, "a/link");
    char *dangling = path_in(tree, "dangling");
    assert_int_equal(file_make_dirs(outside, NULL), THOLE_OK);
    assert_int_equal(file_make_dirs(deep, NULL), THOLE_OK);
    write_text(kept, "kept");
    for (int i = 0; i < 300; i++) { /* more than one call of getdents returns */
        char *file = xasprintf("%s/a-file-with-a-rather-long-name-%d", deep, i);
        write_text(file, "x");
        free(file);
    }
    assert_int_equal(symlink(outside, link), 0);
    assert_int_equal(symlink("/nowhere", dangling), 0);
    assert_int_equal(file_remove_tree(tree, NULL), THOLE_OK);
    assert_false(exists(tree));
    assert_content(kept, "kept");
    /* A link itself, a file, and nothing. */
    assert_int_equal(symlink(outside, tree), 0);
    assert_int_equal(file_remove_tree(tree, NULL), THOLE_OK);
    assert_false(exists(tree));
    assert_int_equal(file_remove_tree(kept, NULL), THOLE_OK);
    assert_false(exists(kept));
    assert_int_equal(file_remove_tree(kept, NULL), THOLE_OK);
    char *const all[] = {dangling, link, deep, tree, kept, outside};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

static void test_file_sync_dir_of_no_directory_fails(void **state)
{
    struct thole_status st;
    char *path = path_in(*state, "f");
    assert_int_equal(file_sync_dir(*state, &st), THOLE_OK);
    assert_int_equal(file_sync_dir(path, &st), THOLE_NOT_FOUND);
    write_text(path, "");
    assert_int_equal(file_sync_dir(path, &st), THOLE_FAILED_PRECONDITION);
    free(path);
}

static void test_file_space_is_plausible(void **state)
{
    struct thole_status st;
    uint64_t free_bytes = 0, total_bytes = 0;
    assert_int_equal(file_space(*state, &free_bytes, &total_bytes, &st), THOLE_OK);
    assert_true(free_bytes > 0 && free_bytes <= total_bytes);
    assert_int_equal(file_space("/nowhere/at/all", &free_bytes, &total_bytes, &st),
                     THOLE_NOT_FOUND);
}

int main(void)
{
#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make, remove_again)
    const struct CMUnitTest tests[] = {
        IN_DIR(test_file_make_dirs_makes_what_is_missing),
        IN_DIR(test_file_make_dirs_relative_starts_here),
        IN_DIR(test_file_make_dirs_through_a_file_fails),
        IN_DIR(test_file_write_atomic_replaces_the_whole_content),
        IN_DIR(test_file_write_atomic_that_fails_keeps_the_old_content),
        IN_DIR(test_file_read_limits_are_exact),
        IN_DIR(test_file_read_of_a_file_without_size_is_whole),
        IN_DIR(test_file_lock_held_by_another_process_is_refused),
        IN_DIR(test_file_lock_twice_in_one_process_is_refused),
        IN_DIR(test_file_remove_tree_stays_inside),
        IN_DIR(test_file_sync_dir_of_no_directory_fails),
        IN_DIR(test_file_space_is_plausible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
