/* The data directory on disk: who may read it, and files in it that somebody replaced by FIFOs,
 * links or huge files. A start ends with a message or succeeds; it does not wait, crash, fill the
 * memory or change a file elsewhere. */
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/limits.h"
#include "integration/test/cluster.h"

/* One host with a persistent shard that was written to. */
static struct cluster *one_host(void)
{
    struct cluster *c = cluster_new();
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, 0, "propose orders 'put a 1'");
    cli_ok(c, 0, "snapshot save orders %s/orders.snap", c->dir);
    return c;
}

/* ---- Modes ----------------------------------------------------------------------------------- */

static int check_mode(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)f;
    const mode_t expected = type == FTW_D ? 0700 : 0600;
    if (type != FTW_D && type != FTW_F) {
        fail_msg("%s is neither a file nor a directory", path);
    }
    if ((s->st_mode & 07777) != expected) {
        fail_msg("%s has the mode %04o", path, (unsigned)s->st_mode & 07777);
    }
    return 0;
}

static void test_files_are_for_their_owner_only_whatever_the_umask(void **state)
{
    (void)state;
    static const mode_t masks[] = {0, 022, 0777};
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        struct cluster *c = cluster_new();
        const mode_t before = umask(masks[i]);
        host_start(
            c, 0, (const char *[]){"--dev", "--name", "h1", "--listen", c->hosts[0].address, NULL});
        umask(before);
        cluster_wait_ready(c, 0, 20000);
        apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
        cli_ok(c, 0, "propose orders 'put a 1'");
        cli_ok(c, 0, "snapshot save orders %s/orders.snap", c->dir);
        assert_int_equal(nftw(c->hosts[0].data_dir, check_mode, 32, FTW_PHYS), 0);
        assert_false(host_log_has(c, 0, "other users have access"));
        cluster_free(c);
    }
}

static void test_files_that_others_may_read_are_a_warning(void **state)
{
    (void)state;
    struct cluster *c = one_host();
    const char *dir = c->hosts[0].data_dir;
    host_stop(c, 0);
    shell("chmod 750 '%s'", dir);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    char text[400];
    snprintf(text, sizeof text,
             "other users have access to the data directory path=%s mode=0750; run \"chmod go-rwx",
             dir);
    assert_true(host_log_has(c, 0, text));
    assert_false(host_log_has(c, 0, "access to files"));
    host_stop(c, 0);
    shell("chmod 700 '%s'; chmod 644 '%s/identity'; chmod 755 '%s/log'", dir, dir, dir);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    snprintf(text, sizeof text, "access to files in the data directory path=%s count=2", dir);
    assert_true(host_log_has(c, 0, text));
    cluster_free(c);
}

/* ---- Replaced files -------------------------------------------------------------------------- */

#define EXIT_DATA_DIRECTORY 3
#define FILES_MAX 64
#define HUGE_BYTES ((off_t)8 * 1024 * MIB) /* more than a segment of the log can have */
#define MEMORY_BYTES_MAX (512 * (long)MIB)
#define OUTSIDE "years of work, and more than an empty file has\n"

static struct file_list {
    size_t root; /* length of the directory's name, with a slash */
    size_t count;
    char *names[FILES_MAX];
} files;

static int list_file(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)s, (void)f;
    if (type == FTW_F) {
        assert_true(files.count < FILES_MAX);
        files.names[files.count++] = xstrdup(path + files.root);
    }
    return 0;
}

enum replacement { FIFO, LINK_OUT, HARD_LINK, HUGE_FILE, REPLACEMENTS };
static const char *const replacement_names[] = {"FIFO", "symbolic link", "hard link", "huge file"};

static void replace(const char *path, const char *outside, enum replacement with)
{
    (void)unlink(path); /* it may be absent */
    switch (with) {
    case FIFO:
        assert_int_equal(mkfifo(path, 0600), 0);
        return;
    case LINK_OUT:
        assert_int_equal(symlink(outside, path), 0);
        return;
    case HARD_LINK:
        assert_int_equal(link(outside, path), 0);
        return;
    case HUGE_FILE:
    case REPLACEMENTS:
        break;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, HUGE_BYTES), 0);
    close(fd);
}

static bool started_or_ended(void *ctx)
{
    struct cluster *c = ctx;
    siginfo_t info = {0};
    assert_int_equal(waitid(P_PID, (id_t)c->hosts[0].pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid != 0 || host_log_has(c, 0, "ready address=");
}

/* Ends the process, too. */
static void expect_message_or_ready(struct cluster *c, const char *what)
{
    struct rusage usage;
    int status;
    host_restart(c, 0);
    eventually(20000, what, started_or_ended, c);
    bool ready = host_log_has(c, 0, "ready address=");
    if (ready) {
        kill(c->hosts[0].pid, SIGTERM);
    }
    assert_int_equal(wait4(c->hosts[0].pid, &status, 0, &usage), c->hosts[0].pid);
    c->hosts[0].pid = 0;
    bool message = host_log_has(c, 0, "tholed: ");
    int expected = ready ? 0 : EXIT_DATA_DIRECTORY;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != expected || (!ready && !message) ||
        usage.ru_maxrss > MEMORY_BYTES_MAX / 1024) {
        shell("tail -n 5 '%s'", c->hosts[0].log_path);
        fail_msg("%s: ready %d, message %d, status %#x, %ld KiB", what, ready, message,
                 (unsigned)status, usage.ru_maxrss);
    }
}

/* Files that a start, or what follows it, creates. */
static const char *const absent[] = {"identity.tmp",    "incarnation.tmp", "peers",
                                     "promise",         "salvages",        "log/ID.tmp",
                                     "state/000099.sst"};

static void test_replaced_files_cost_no_more_than_the_start(void **state)
{
    (void)state;
    struct cluster *c = one_host();
    const char *dir = c->hosts[0].data_dir;
    char outside[300], path[400], what[500];
    snprintf(outside, sizeof outside, "%s/outside", c->dir);
    host_stop(c, 0);
    shell("cp -a '%s' '%s/pristine'", dir, c->dir);
    files.root = strlen(dir) + 1;
    assert_int_equal(nftw(dir, list_file, 32, FTW_PHYS), 0);
    assert_true(files.count > 10);
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        files.names[files.count++] = xstrdup(absent[i]);
    }
    for (size_t i = 0; i < files.count; i++) {
        for (enum replacement with = FIFO; with < REPLACEMENTS; with++) {
            shell("rm -rf '%s' '%s'; cp -a '%s/pristine' '%s'; printf '" OUTSIDE "' > '%s'", dir,
                  outside, c->dir, dir, outside);
            assert_int_equal(truncate(c->hosts[0].log_path, 0), 0);
            snprintf(path, sizeof path, "%s/%s", dir, files.names[i]);
            snprintf(what, sizeof what, "%s as %s", replacement_names[with], files.names[i]);
            replace(path, outside, with);
            expect_message_or_ready(c, what);
            shell("printf '" OUTSIDE "' | cmp - '%s'", outside);
        }
    }
    for (size_t i = 0; i < files.count; i++) {
        free(files.names[i]);
    }
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_are_for_their_owner_only_whatever_the_umask),
        cmocka_unit_test(test_files_that_others_may_read_are_a_warning),
        cmocka_unit_test(test_replaced_files_cost_no_more_than_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
