/* Clients that hold connections, descriptors, memory, or the pipe of the log. The host keeps
 * serving others, and afterwards everything works. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "integration/test/scrape.h"

static int setup(void **state)
{
    *state = cluster_new();
    return 0;
}

static int teardown(void **state)
{
    cluster_free(*state);
    return 0;
}

static void assert_http_ok(const struct host *h, const char *path)
{
    const char *answer = http_get(h, path);
    if (strncmp(answer, "HTTP/1.1 200 OK", 15) != 0) {
        fail_msg("GET %s: %.200s", path, answer);
    }
}

static void start_dev(struct cluster *c, const char *log_level)
{
    struct host *h = &c->hosts[0];
    const char *args[] = {"--dev", "--listen",    h->address, "--name",
                          h->name, "--log-level", log_level,  NULL};
    c->http = true;
    host_start(c, 0, args);
    cluster_wait_ready(c, 0, 20000);
}

/* ---- The HTTP port --------------------------------------------------------------------------- */

static void test_silent_http_connections_do_not_keep_probes_out(void **state)
{
    enum { N = 300 };
    struct cluster *c = *state;
    struct host *h = &c->hosts[0];
    int fds[N];
    start_dev(c, "info");
    for (int i = 0; i < N; i++) {
        fds[i] = host_dial(h, HTTP_PORT);
        if (i % 3 == 0) { /* some say half of something */
            assert_int_equal(send(fds[i], "GET /met", 8, MSG_NOSIGNAL), 8);
        }
    }
    uint64_t begin = now_ms();
    assert_http_ok(h, "/livez");
    assert_http_ok(h, "/metrics");
    assert_true(now_ms() - begin < 3000);
    for (int i = 0; i < N; i++) {
        close(fds[i]);
    }
    assert_http_ok(h, "/readyz");
    host_stop(c, 0);
}

/* ---- The log --------------------------------------------------------------------------------- */

/* A supervisor that hangs does not read the pipe. */
static void test_unread_standard_error_does_not_stop_the_host(void **state)
{
    struct cluster *c = *state;
    struct host *h = &c->hosts[0];
    assert_int_equal(mkfifo(h->log_path, 0600), 0);
    int reader = open(h->log_path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(reader >= 0);
    assert_true(fcntl(reader, F_SETPIPE_SZ, 4096) > 0);
    start_dev(c, "debug");
    apply_yaml(c, 0,
               "kind: ShardPool\nname: noise\nspec: {count: 60, shard: {type: kv, voters: 1}}\n");
    assert_true(scrape_value(scrape(h), "thole_log_lost_lines_total") > 0);
    host_stop(c, 0); /* SIGTERM works */
    close(reader);
    unlink(h->log_path);
}

/* ---- Descriptors ----------------------------------------------------------------------------- */

#define STRANGERS 250

/* tholed under `ulimit -n 256`. */
static void limit_descriptors(struct cluster *c)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/tholed-256", c->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\nulimit -n 256\nexec '%s' \"$@\"\n", c->tholed);
    fclose(f);
    assert_int_equal(chmod(path, 0700), 0);
    c->tholed = path;
}

/* A client that completes the HTTP/2 handshake and then sends nothing. */
static int dial_idle(const struct host *h)
{
    static const char hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
    int fd = host_dial(h, BUS_PORT);
    ssize_t n = send(fd, hello, sizeof hello, MSG_NOSIGNAL); /* a reset is an answer, too */
    (void)n;
    return fd;
}

struct attempt {
    struct cluster *c;
    int via;
    const char *command;
};

static bool succeeds(void *ctx)
{
    struct attempt *a = ctx;
    char out[4096];
    return cli(a->c, a->via, out, sizeof out, "%s", a->command) == 0;
}

static bool says_full(void *ctx)
{
    return host_log_has(ctx, 0, "connection limit reached");
}

static void test_descriptors_are_kept_for_other_hosts(void **state)
{
    struct cluster *c = *state;
    int fds[STRANGERS];
    limit_descriptors(c);
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    host_kill(c, 1);
    for (int i = 0; i < STRANGERS; i++) {
        fds[i] = dial_idle(&c->hosts[0]);
    }
    eventually(5000, "the log says so", says_full, c);
    host_restart(c, 1); /* another host comes in all the same */
    host_kill(c, 2);    /* and is needed */
    struct attempt put = {c, 1, "propose orders 'put while full'"};
    eventually(15000, "a majority with the host that is full", succeeds, &put);
    assert_true(host_running(c, 0));
    for (int i = 0; i < STRANGERS; i++) {
        close(fds[i]);
    }
    struct attempt get = {c, 0, "query orders 'get while'"};
    eventually(10000, "the host that was full answers", succeeds, &get);
    for (int i = 0; i < STRANGERS; i++) { /* and again */
        fds[i] = dial_idle(&c->hosts[0]);
    }
    for (int i = 0; i < STRANGERS; i++) {
        close(fds[i]);
    }
    eventually(10000, "the host that was full answers", succeeds, &get);
    host_restart(c, 2);
    cluster_wait_ready(c, 2, 20000);
    for (int i = 0; i < 3; i++) {
        host_stop(c, i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_silent_http_connections_do_not_keep_probes_out, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_unread_standard_error_does_not_stop_the_host, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_descriptors_are_kept_for_other_hosts, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
