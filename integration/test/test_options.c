/* Invalid options of the daemon, and options that a used data directory treats unlike a new one:
 * refused or reported at once, without touching the directory. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

#define EXIT_USAGE 2

static void expect_usage(struct cluster *c, int i, const char *message)
{
    int status = host_wait_exit(c, i, 20000);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_USAGE || !host_log_has(c, i, message)) {
        fail_msg("status %#x, or its log does not say \"%s\"", (unsigned)status, message);
    }
    assert_int_equal(truncate(c->hosts[i].log_path, 0), 0);
}

static void test_nonsense_addresses_are_refused(void **state)
{
    (void)state;
    static const char *const flags[] = {"--listen", "--advertise", "--join", "--peers"};
    static const char *const words[] = {"foo", "http://h1:7400", "127.0.0.1:7400\nname evil",
                                        "127.0.0.1: 7400", "127.0.0.1:99999"};
    static const char *const places[] = {"0.0.0.0:7400", "127.0.0.1:0", "[::]:7400"};
    struct cluster *c = cluster_new();
    for (size_t f = 0; f < sizeof flags / sizeof *flags; f++) {
        for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
            host_start(c, 0, (const char *[]){flags[f], words[w], NULL});
            expect_usage(c, 0, "must be HOST:PORT");
        }
        for (size_t p = 0; f > 0 && p < sizeof places / sizeof *places; p++) {
            host_start(c, 0, (const char *[]){flags[f], places[p], NULL});
            expect_usage(c, 0, "must be HOST:PORT");
        }
    }
    host_start(c, 0, (const char *[]){"--dev", "--http", "foo", NULL});
    expect_usage(c, 0, "http \"foo\": must be HOST:PORT");
    assert_int_not_equal(access(c->hosts[0].data_dir, F_OK), 0);
    host_start(
        c, 0,
        (const char *[]){"--listen", c->hosts[0].address, "--peers", c->hosts[1].address, NULL});
    expect_usage(c, 0, "lacks this host's address");
    host_start(c, 0,
               (const char *[]){"--listen", c->hosts[0].address, "--join", "192.0.2.1:7400", NULL});
    expect_usage(c, 0, "cannot reach this host at the loopback address");
    cluster_free(c);
}

/* A restart with timeouts that no replica could run with is refused and destroys no replica. */
static void test_times_are_checked_with_the_defaults(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    host_stop(c, 2);
    host_start(c, 2, (const char *[]){"--heartbeat-ms", "400", NULL});
    expect_usage(c, 2, "heartbeat-ms");
    host_start(c, 2, (const char *[]){"--election-timeout-ms", "200", NULL});
    expect_usage(c, 2, "election-timeout-ms");
    host_start(c, 2, (const char *[]){"--dead-after-ms", "900", NULL});
    expect_usage(c, 2, "dead-after-ms");
    host_restart(c, 2);
    cluster_wait_ready(c, 2, 20000);
    expect_lines(c, 2, "get replicas --shard zero -o wide", "running", 3);
    expect_lines(c, 2, "get events", "ReplicaRemoved", 0);
    /* After a longer election timeout a start waits for what the host promised before, unless
     * SIGTERM arrives. */
    host_stop(c, 2);
    host_start(c, 2, (const char *[]){"--election-timeout-ms", "60000", NULL});
    cluster_wait_ready(c, 2, 20000);
    host_stop(c, 2);
    host_restart(c, 2);
    uint64_t begin = now_ms();
    while (!host_log_has(c, 2, "waiting out promises") && now_ms() - begin < 20000) {
        usleep(20000);
    }
    host_stop(c, 2);
    assert_true(now_ms() - begin < 20000);
    cluster_free(c);
}

static void test_used_directory_says_what_it_ignores(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char port[16];
    c->extra_args[0] = "--insecure"; /* it will listen on all interfaces */
    /* Listen on all interfaces by a port alone: the host advertises this machine's address. */
    snprintf(port, sizeof port, ":%u", (unsigned)c->everywhere_port);
    host_start(
        c, 0, (const char *[]){"--name", "h1", "--listen", port, "--tag", "zone=a", "--dev", NULL});
    snprintf(c->hosts[0].address, sizeof c->hosts[0].address, "127.0.0.1%s", port);
    cluster_wait_ready(c, 0, 20000);
    assert_null(strstr(cli_ok(c, 0, "get hosts -o wide"), "[::]"));
    host_stop(c, 0);
    host_start(c, 0, (const char *[]){"--tag", "zone=b", "--dev", NULL});
    cluster_wait_ready(c, 0, 20000);
    expect_lines(c, 0, "get hosts -o wide", "zone=a", 1);
    assert_false(host_log_has(c, 0, "--dev is ignored"));
    uint64_t begin = now_ms();
    while (!host_log_has(c, 0, "--tag is ignored") && now_ms() - begin < 20000) {
        usleep(20000);
    }
    assert_true(host_log_has(c, 0, "--tag is ignored"));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nonsense_addresses_are_refused),
        cmocka_unit_test(test_times_are_checked_with_the_defaults),
        cmocka_unit_test(test_used_directory_says_what_it_ignores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
