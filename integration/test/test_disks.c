/* Data directories that are lost, copied, too new, or of a removed host: which hosts are admitted,
 * which are refused, and whether the message says what to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "integration/test/cluster.h"
#include "shards/store/segments.h"

#define EXIT_DATA_DIRECTORY 3
#define EXIT_FAILED 5
#define EXIT_UNKNOWN 5 /* of thole: the outcome is */

static bool log_has(void *ctx)
{
    struct expect *e = ctx;
    return host_log_has(e->c, e->via, e->needle);
}

static void expect_log(struct cluster *c, int i, const char *needle)
{
    eventually(30000, needle, log_has, &(struct expect){.c = c, .via = i, .needle = needle});
}

static void expect_exit(struct cluster *c, int i, int code, const char *message)
{
    int status = host_wait_exit(c, i, 30000);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), code);
    if (!host_log_has(c, i, message)) {
        shell("tail -5 '%s'", c->hosts[i].log_path);
        fail_msg("its log does not say \"%s\"", message);
    }
}

static void join_as(struct cluster *c, int i, const char *name, int through)
{
    host_start(c, i,
               (const char *[]){"--name", name, "--listen", c->hosts[i].address, "--join",
                                c->hosts[through].address, NULL});
}

/* A new host with the name of the lost host waits until the lost one is removed. */
static void test_wiped_disk_is_a_new_host(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    c->extra_args[0] = "--dead-after-ms";
    c->extra_args[1] = "3000";
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    host_kill(c, 2);
    shell("rm -r '%s'", c->hosts[2].data_dir);
    join_as(c, 2, "h3", 0);
    expect_log(c, 2, "\"thole host decommission h3\" lets this one in");
    assert_true(host_running(c, 2));
    char out[8192];
    assert_int_equal(cli(c, 2, out, sizeof out, "status"), 4);
    assert_non_null(strstr(out, "no: joining: "));
    assert_non_null(strstr(out, "\"thole host decommission h3\" lets this one in"));
    /* The replica can move only to the new host, which gets the name once the old host is dead. */
    cli_ok(c, 0, "host decommission h3");
    cluster_wait_ready(c, 2, 30000);
    expect_lines(c, 2, "get hosts", "live", 3);
    expect_lines(c, 2, "get replicas --shard orders -o wide", "running", 3);
    expect_lines(c, 2, "get replicas --shard zero -o wide", "voter", 3);
    cluster_free(c);
}

static void test_name_of_a_living_host_is_taken(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_dev(c);
    join_as(c, 1, "h1", 0);
    expect_log(c, 1, "is a member and alive: give this one another name");
    expect_exit(c, 1, EXIT_FAILED, "give this one another name");
    cluster_free(c);
}

/* The directory is copied while its host is stopped, so both begin with the same incarnation. */
static void test_copy_of_a_disk_is_refused(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    host_stop(c, 2);
    shell("cp -r '%s' '%s'", c->hosts[2].data_dir, c->hosts[3].data_dir);
    host_restart(c, 2);
    cluster_wait_ready(c, 2, 20000);
    host_start(c, 3, (const char *[]){"--listen", c->hosts[3].address, NULL});
    expect_exit(c, 3, EXIT_FAILED, "this data directory is a copy of that one");
    /* The copy has an older start. */
    host_stop(c, 2);
    host_restart(c, 2);
    cluster_wait_ready(c, 2, 20000);
    host_start(c, 3, NULL);
    expect_exit(c, 3, EXIT_FAILED, "this data directory is a copy of that one");
    /* A supervisor restarts the copy again and again: its incarnation passes that of the
     * original. */
    for (int k = 0; k < 4; k++) {
        host_start(c, 3, NULL);
        expect_exit(c, 3, EXIT_FAILED, "this data directory is a copy of that one");
    }
    /* The original was not disturbed. */
    assert_true(host_running(c, 2));
    expect_lines(c, 2, "get hosts", "live", 3);
    assert_non_null(strstr(cli_ok(c, 0, "get host h3 -o wide"), c->hosts[2].address));
    /* A backup that is one start old, at the same address, is refused: it would have forgotten
     * votes. */
    host_stop(c, 2);
    shell("rm -r '%s'; cp -r '%s' '%s'", c->hosts[3].data_dir, c->hosts[2].data_dir,
          c->hosts[3].data_dir);
    host_restart(c, 2);
    cluster_wait_ready(c, 2, 20000);
    host_stop(c, 2);
    shell("rm -r '%s'; mv '%s' '%s'", c->hosts[2].data_dir, c->hosts[3].data_dir,
          c->hosts[2].data_dir);
    host_restart(c, 2);
    expect_exit(c, 2, EXIT_FAILED, "or was restored from a backup");
    cluster_free(c);
}

static void test_moved_disk_is_the_same_host(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    host_stop(c, 2);
    shell("mv '%s' '%s'", c->hosts[2].data_dir, c->hosts[3].data_dir);
    host_start(c, 3, (const char *[]){"--listen", c->hosts[3].address, NULL});
    expect_lines(c, 0, "get hosts -o wide", c->hosts[3].address, 1);
    expect_lines(c, 0, "get hosts", "live", 3);
    cluster_free(c);
}

static void test_disk_of_a_newer_version_is_refused(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_dev(c);
    host_stop(c, 0);
    shell("sed -i '1s/[0-9]*$/99/' '%s/identity'", c->hosts[0].data_dir);
    host_restart(c, 0);
    expect_exit(c, 0, EXIT_DATA_DIRECTORY, "of a newer version");
    cluster_free(c);
}

/* Make writes fail by a limit on the size of files, which the next files of the log reach. */
static void test_log_that_cannot_be_written_ends_the_host(void **state)
{
    (void)state;
    const struct rlimit limit = {1 << 20, 1 << 20};
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    char path[256], out[4096];
    snprintf(path, sizeof path, "%s/value", c->dir);
    shell("(printf 'put a '; head -c 500000 /dev/zero | tr '\\0' x) > '%s'", path);
    assert_int_equal(prlimit(c->hosts[2].pid, RLIMIT_FSIZE, &limit, NULL), 0);
    for (int i = 0; i < 4; i++) { /* the other two are a majority; what h3 led, nobody knows */
        int status = cli(c, 0, out, sizeof out, "propose orders --data-file %s", path);
        assert_true(status == 0 || status == EXIT_UNKNOWN);
    }
    expect_exit(c, 2, EXIT_FAILED, "host failed");
    cli_ok(c, 0, "propose orders 'put b 1'");
    host_restart(c, 2);
    cluster_wait_ready(c, 2, 20000);
    assert_non_null(strstr(cli_ok(c, 2, "query orders 'get b'"), "1"));
    cluster_free(c);
}

/* Damage the directory of a frame in the middle of the log: no reader can tell whose records it
 * had. */
static void test_log_that_cannot_be_read_says_what_to_do(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    host_stop(c, 2);
    shell("for f in '%s'/log/*.seg; do "
          "printf '\\377' | dd of=\"$f\" bs=1 seek=%d conv=notrunc 2>/dev/null || exit 1; done",
          c->hosts[2].data_dir, SEGMENT_HEADER_BYTES + 16);
    host_restart(c, 2);
    expect_exit(c, 2, EXIT_DATA_DIRECTORY, "thole host decommission h3");
    assert_true(host_log_has(c, 2, "this disk is lost"));
    cluster_free(c);
}

static void test_removed_running_host_ends_at_once(void **state)
{
    (void)state;
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    cluster_join(c, 3, 0);
    /* The host is live: only a decommission moves its replicas away. */
    char out[4096];
    assert_int_not_equal(cli(c, 0, out, sizeof out, "delete host h3"), 0);
    assert_non_null(strstr(out, "thole host decommission h3"));
    cli_ok(c, 0, "host decommission h3 --wait");
    expect_exit(c, 2, EXIT_FAILED, "this host was removed from the cluster");
    expect_lines(c, 0, "get hosts", "h3", 0);
    expect_lines(c, 0, "get replicas --shard zero -o wide", "voter", 3);
    /* The host does not come back. */
    host_restart(c, 2);
    expect_exit(c, 2, EXIT_FAILED, "this host was removed from the cluster");
    /* Of two hosts, the other one continues alone. */
    cli_ok(c, 0, "host decommission h4 --wait");
    cli_ok(c, 0, "host decommission h2 --wait");
    expect_exit(c, 1, EXIT_FAILED, "this host was removed from the cluster");
    host_stop(c, 0);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    cli_ok(c, 0, "propose orders 'put a 1'");
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wiped_disk_is_a_new_host),
        cmocka_unit_test(test_name_of_a_living_host_is_taken),
        cmocka_unit_test(test_copy_of_a_disk_is_refused),
        cmocka_unit_test(test_moved_disk_is_the_same_host),
        cmocka_unit_test(test_disk_of_a_newer_version_is_refused),
        cmocka_unit_test(test_log_that_cannot_be_written_ends_the_host),
        cmocka_unit_test(test_log_that_cannot_be_read_says_what_to_do),
        cmocka_unit_test(test_removed_running_host_ends_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
